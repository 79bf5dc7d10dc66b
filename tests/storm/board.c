/* The board: what children and supervisor tell each other, and the first violation.
 *
 * Owns:      struct board; the table of contents by sequence number; telling a violation.
 * Does not:  judge the figures in it (watch.c) or end children (storm.c).
 *
 * The table. One word per number, exchanged whole, so that a death leaves the old or the new.
 * Writers note what they have written after the write returned, readers what they read: so a
 * number that two messages had, and a committed message that was replaced, are found by whoever
 * comes second, however much later, as long as the table (TABLE numbers) has it.
 *
 * A crash of a child here leaves: a word not noted; `violated` at 1, if it died telling.
 */
#include "storm.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define HASH_BITS 40
#define HASH_MASK ((UINT64_C(1) << HASH_BITS) - 1)

struct board *board;
void (*on_violation)(void);

struct board *
make_board(void)
{
    void *at = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return at == MAP_FAILED ? NULL : at;
}

void
violate(const char *format, ...)
{
    uint32_t nobody = 0;
    /* Acquire, release: the text is read by who sees 2. */
    if (sf_cas_acquire(&board->violated, &nobody, 1)) {
        va_list args;
        va_start(args, format);
        vsnprintf(board->told, sizeof board->told, format, args);
        va_end(args);
        sf_store_release(&board->violated, 2);
    }
    if (on_violation) {
        on_violation();
    }
    _exit(3);
}

void
set_max(_Atomic uint64_t *word, uint64_t value)
{
    uint64_t seen = sf_load_relaxed(word); /* a figure for people */
    while (seen < value && !sf_cas_relaxed(word, &seen, value)) {
    }
}

void
count(_Atomic uint64_t *word, uint64_t by)
{
    /* Relaxed: one counts, others only show it. */
    sf_store_relaxed(word, sf_load_relaxed(word) + by);
}

void
note_content(struct seat *seat, uint64_t seq, const struct identity *id, const char *doing)
{
    uint64_t lap = seq / TABLE;
    uint64_t mine = lap << HASH_BITS | (mix(id->seed) & HASH_MASK);
    _Atomic uint64_t *word = &board->table[seq % TABLE];
    uint64_t seen = sf_load_relaxed(word); /* the word is all there is: nothing to order */
    while (seen == 0 || seen >> HASH_BITS < lap) {
        if (sf_cas_relaxed(word, &seen, mine)) {
            return;
        }
    }
    if (seen >> HASH_BITS > lap) {
        count(&seat->tally.unchecked, 1);
    }
    else if (seen != mine) {
        violate(
            "two contents have seq %llu: one with hash %010llx, and (%s by seat %td) writer %u, "
            "incarnation %u, counter %u, %llu bytes, hash %010llx",
            (unsigned long long)seq, (unsigned long long)(seen & HASH_MASK), doing,
            seat - board->seats, id->writer, id->incarnation, id->counter,
            (unsigned long long)id->len, (unsigned long long)(mine & HASH_MASK));
    }
}

void
note_success(struct seat *seat)
{
    sf_store_relaxed(&seat->success_ns, os_now_ns()); /* looked at now and then */
}

const char *
role_of(uint32_t seat)
{
    static const char *const readers[READERS] = {"copier", "pinner",     "hoarder",  "monitor",
                                                 "latest", "late-comer", "lossless", "keeper",
                                                 "member", "member"};
    return seat < WRITERS ? "writer" : readers[seat - WRITERS];
}

bool
is_lossless(uint32_t seat)
{
    return seat >= WRITERS + PLAIN_READERS;
}

bool
is_member(uint32_t seat)
{
    return strcmp(role_of(seat), "member") == 0;
}

bool
is_spared(uint32_t seat)
{
    return strcmp(role_of(seat), "keeper") == 0;
}

void
note_team(struct seat *seat, uint64_t seq)
{
    _Atomic uint64_t *word = &board->team[seq % TABLE];
    uint64_t seen = sf_load_relaxed(word); /* the word is all there is: nothing to order */
    while (seen < seq) {
        if (sf_cas_relaxed(word, &seen, seq)) {
            return;
        }
    }
    if (seen == seq) {
        violate("message %llu was taken by two members of a group, the second in seat %td",
                (unsigned long long)seq, seat - board->seats);
    }
    count(&seat->tally.unchecked, 1);
}

void
nap(uint64_t ns)
{
    (void)os_sleep_until(os_now_ns() + ns);
}

/* A lossless reader needs the writer lock for a moment, which may be a frozen one's. */
static int
wait_to_join(struct sf_topic *topic)
{
    uint64_t until_ns = os_now_ns() + 2 * board->patience_ns;
    int status = SF_BUSY;
    while ((status == SF_BUSY || status == SF_INTERRUPTED) && os_now_ns() < until_ns) {
        struct sf_joining how;
        sf_topic_joining(topic, &how);
        status = sf_join(topic->att, &how, os_now_ns() + SF_SLICE_NS);
    }
    if (status == 0) {
        sf_topic_has_joined(topic);
    }
    return status;
}

void
join_topic(struct sf_topic *topic, struct seat *seat, enum sf_mode mode, uint64_t max_held)
{
    struct sf_making make;
    uint32_t number = (uint32_t)(seat - board->seats);
    struct sf_options options = {
        .mode = mode,
        .start = SF_OLDEST,
        .create = 0,
        .allow_lossless = true,
        .lossless = is_lossless(number),
        .max_held = max_held,
        .permissions = 0600,
        .max_participants = TOPIC_SLOTS,
        .spin_ns = -1,
    };
    if (is_member(number)) {
        strcpy(options.group, TEAM);
    }
    int status = sf_topic_init(topic, TOPIC_NAME, &options);
    status = status < 0 ? status : sf_topic_enter(topic);
    if (status == 0) {
        status = mode == SF_MODE_W ? sf_topic_to_write(topic, 0, &make) : sf_topic_to_read(topic);
    }
    status = status == SF_BUSY ? wait_to_join(topic) : status;
    if (status < 0) {
        violate("a %s cannot attach: %s", role_of(number), sf_status_name(status));
    }
    count(&seat->tally.joined, 1);
    if (mode != SF_MODE_MONITOR) {
        sf_store_release(&seat->owner, topic->att->owner); /* with watch_look's acquire */
    }
}

void
leave_topic(struct sf_topic *topic, struct seat *seat)
{
    sf_store_seq(&seat->owner, 0); /* before the slot is anybody else's */
    sf_topic_close(topic);
    sf_topic_fini(topic);
}
