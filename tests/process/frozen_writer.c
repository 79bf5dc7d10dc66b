/* A participant that stops or dies at a chosen store: the core, driven by lines on stdin.
 *
 * Owns:      sf_point, which a build with SF_FAILPOINTS calls after every store to shared memory;
 *            one topic, the views it holds.
 * Does not:  judge anything: tests/failpoints.py compiles it, sends the lines and looks at what
 *            comes of it. Built with SF_DEBUG, so that each unlock of its own checks the tables.
 *
 *   open NAME            attach to a topic that exists; the others need it
 *   write LEN BYTE       one message of LEN equal bytes
 *   read                 the next message, copied            -> "done <points> <seq> <len> <byte>"
 *   pin                  the same; held, if it is large enough to be -> the same
 *   unpin                lets go of all that is held, after a look at their bytes
 *   clean                takes back what the dead left
 *   close
 *   arm WHERE N SIGNAL   at the N-th store from now, raise it; WHERE: any, or locked (only stores
 *                        made while this participant holds the writer lock are counted)
 *
 * Each is answered by "done <points counted by the last arm> ..." or "error <status>".
 * A death here is what the tests are about.
 */
#include "core/topic.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HELD = 64, LONGEST = 1 << 22 };

static struct sf_topic topic;
static struct sf_message held[HELD];
static int held_count;
static unsigned char data[LONGEST];

static bool only_locked, counting;
static long points, deadly;
static int with_signal;

static bool
has_lock(void)
{
    return topic.att && topic.att->ring.header &&
           (sf_load_relaxed(&topic.att->ring.header->lock) & ~SF_WAITERS) == topic.att->owner;
}

void
sf_point(const char *file, int line)
{
    if (!counting || (only_locked && !has_lock())) {
        return;
    }
    points++;
    if (points == deadly) {
        (void)file;
        (void)line;
        raise(with_signal);
    }
}

static bool
all_equal(const unsigned char *at, uint64_t len)
{
    return len < 2 || memcmp(at, at + 1, len - 1) == 0;
}

static int
open_topic(const char *name)
{
    struct sf_making make;
    struct sf_options options = {.mode = SF_MODE_RW,
                                 .create = 0,
                                 .allow_lossless = true,
                                 .permissions = 0600,
                                 .max_participants = 128,
                                 .max_held = UINT64_C(1) << 40,
                                 .spin_ns = 0};
    int status = sf_topic_init(&topic, name, &options);
    status = status < 0 ? status : sf_topic_enter(&topic);
    return status < 0 ? status : sf_topic_to_write(&topic, 0, &make);
}

static int
write_one(uint64_t len, int byte)
{
    uint64_t seq = 0, until = os_now_ns() + UINT64_C(10000000000);
    struct sf_out out = {
        .data = data, .payload_len = len, .shape = &len, .dtype = "|u1", .ndim = 1, .dtype_len = 3};
    memset(data, byte, len);
    if (sf_out_block_len(&out) <= SF_SMALL_LEN) {
        return sf_send_small(topic.att, &out, until, &seq);
    }
    struct sf_claim claim;
    int status = sf_send_claim(topic.att, len, SF_LANE_IN_TURN, until, &claim);
    if (status == 0) {
        memcpy(sf_send_payload(topic.att, &out, &claim), data, len);
        status = sf_send_publish(topic.att, &out, &claim, until, &seq);
        if (status < 0) {
            sf_send_drop(topic.att, &claim);
        }
    }
    return status;
}

/* Answers 1 when a message was taken. */
static int
take(struct sf_message *m, bool hold)
{
    int status = sf_topic_to_read(&topic);
    for (int round = 0; status == 0 && round < 1000; round++) {
        uint64_t from;
        status = sf_take_look(topic.att, false, &from, m);
        if (status < 0) {
            return status;
        }
        hold = hold && m->pinnable;
        if (hold && sf_pin(topic.att, m, false) != SF_PIN_OK) {
            continue;
        }
        memcpy(data, sf_message_payload(topic.att, m), m->payload_len);
        if (!sf_is_current(&topic.att->ring, m) && !hold) {
            continue;
        }
        if (!sf_take_commit(topic.att, from, m)) {
            return SF_RACE;
        }
        if (!all_equal(data, m->payload_len)) {
            return SF_CORRUPT; /* torn */
        }
        return 1;
    }
    return status < 0 ? status : SF_RACE;
}

static int
unpin_all(void)
{
    int status = 0;
    while (held_count > 0) {
        struct sf_message *m = &held[--held_count];
        if (!all_equal((const void *)sf_message_payload(topic.att, m), m->payload_len)) {
            status = SF_CORRUPT; /* it changed while it was held */
        }
        sf_unpin(topic.att, m->desc);
    }
    return status;
}

static int
obey(const char *verb, const char *word, uint64_t first, uint64_t second, struct sf_message *m)
{
    if (strcmp(verb, "arm") == 0) {
        only_locked = strcmp(word, "locked") == 0;
        points = 0;
        deadly = (long)first;
        with_signal = (int)second;
        return 0;
    }
    if (strcmp(verb, "open") == 0) {
        return open_topic(word);
    }
    if (strcmp(verb, "write") == 0) {
        uint64_t len = strtoull(word, NULL, 10);
        return len > sizeof data ? SF_TOO_LARGE : write_one(len, (int)first);
    }
    if (strcmp(verb, "read") == 0) {
        return take(m, false);
    }
    if (strcmp(verb, "pin") == 0) {
        int status = held_count < HELD ? take(m, true) : SF_NO_ROOM;
        if (status == 1 && m->pinnable) {
            held[held_count++] = *m;
        }
        return status;
    }
    if (strcmp(verb, "unpin") == 0) {
        return unpin_all();
    }
    if (strcmp(verb, "clean") == 0) {
        (void)sf_clean_dead(topic.att);
        return 0;
    }
    if (strcmp(verb, "close") == 0) {
        (void)unpin_all();
        sf_topic_fini(&topic);
        return 0;
    }
    return SF_BAD_VALUE;
}

int
main(void)
{
    char line[512], verb[16], word[300];
    setvbuf(stdout, NULL, _IOLBF, 0);
    while (fgets(line, sizeof line, stdin)) {
        uint64_t first = 0, second = 0;
        struct sf_message m = {0};
        word[0] = 0;
        if (sscanf(line, "%15s %299s %" SCNu64 " %" SCNu64, verb, word, &first, &second) < 1) {
            continue;
        }
        bool is_act = strcmp(verb, "arm") != 0;
        counting = is_act && deadly != 0;
        int status = obey(verb, word, first, second, &m);
        counting = false;
        if (status < 0) {
            printf("error %s\n", sf_status_name(status));
        }
        else if (status == 1) {
            printf("done %ld %" PRIu64 " %" PRIu64 " %d\n", points, m.seq, m.payload_len,
                   m.payload_len ? data[0] : -1);
        }
        else {
            printf("done %ld\n", points);
        }
        if (is_act) {
            deadly = 0;
        }
    }
    return 0;
}
