/* A scene: a small topic, gone round once, with survivors that write, read, hold and watch.
 *
 * Owns:      making and ending it; what messages contain; reading, and the memory of what was read.
 * Does not:  know of deaths (run.c) or of what must be true after them (check.c).
 *
 * Invariants
 *   1  A message's words are author, count, length, then a sequence that follows from these.
 *   2  A number, once seen with a content, keeps it: readers and monitors agree.
 * A crash here leaves: the folder, which main.c removes.
 */
#include "kill.h"

#include "os/fault.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

char folder[128];

/* ---- messages ---- */

static uint64_t
word_of(uint64_t author, uint64_t serial, uint64_t len, uint64_t at)
{
    return at == 0   ? author
           : at == 1 ? serial
           : at == 2 ? len
                     : (author * 1000003 + serial * 10007 + at) * UINT64_C(0x9e3779b97f4a7c15);
}

static void
compose(uint64_t *to, uint64_t author, uint64_t serial, uint64_t len)
{
    for (uint64_t at = 0; at < len / 8; at++) {
        to[at] = word_of(author, serial, len, at);
    }
}

/* Is it a message of anybody, whole? */
static bool
is_whole(const uint64_t *from, uint64_t len)
{
    if (len < 24 || len % 8 != 0 || from[0] == NOBODY || from[0] >= AUTHORS || from[2] != len) {
        return false;
    }
    for (uint64_t at = 3; at < len / 8; at++) {
        if (from[at] != word_of(from[0], from[1], len, at)) {
            return false;
        }
    }
    return true;
}

static struct sf_out
describe(const void *data, const uint64_t *len)
{
    return (struct sf_out){
        .data = data, .payload_len = *len, .shape = len, .dtype = "|u1", .ndim = 1, .dtype_len = 3};
}

void
fill_claim(struct party *p, void *at, uint64_t len)
{
    compose(at, p->author, p->serial, len);
}

static void
count_published(struct scene *s, struct party *p, uint64_t seq)
{
    if (p->author == SURVIVOR) {
        MUST(seq < MAX_SEQ, "number %llu", (unsigned long long)seq);
        MUST(s->known[seq][0] == NOBODY, "number %llu twice", (unsigned long long)seq);
        s->known[seq][0] = SURVIVOR;
        s->known[seq][1] = p->serial;
        s->survivor_count++;
    }
    else if (p->author < CHILD) {
        notes[p->author - VICTIM].published++;
    }
    p->serial++;
}

int
publish_claim(struct scene *s, struct party *p, uint64_t len, uint64_t until_ns)
{
    uint64_t seq;
    struct sf_out out = describe(NULL, &len);
    int status = sf_send_publish(p->att, &out, &p->claim, until_ns, &seq);
    if (status == 0) {
        p->has_claim = false;
        count_published(s, p, seq);
    }
    return status;
}

int
put(struct scene *s, struct party *p, uint64_t len, uint64_t until_ns)
{
    uint64_t data[SMALL / 8], seq;
    struct sf_out out = describe(data, &len);
    int status;
    if (len <= SMALL) {
        compose(data, p->author, p->serial, len);
        status = sf_send_small(p->att, &out, until_ns, &seq);
        if (status == 0) {
            count_published(s, p, seq);
        }
        return status;
    }
    status = sf_send_claim(p->att, len, SF_LANE_IN_TURN, until_ns, &p->claim);
    if (status < 0) {
        return status;
    }
    p->has_claim = true;
    fill_claim(p, sf_send_payload(p->att, &out, &p->claim), len);
    status = publish_claim(s, p, len, until_ns);
    if (status < 0) {
        sf_send_drop(p->att, &p->claim);
        p->has_claim = false;
    }
    return status;
}

uint64_t
must_put(struct scene *s, uint64_t len)
{
    uint64_t until_ns = os_now_ns() + PATIENCE_NS;
    int status;
    do {
        /* Any timeout probes (K4), one that is over too, and does not sleep a slice first. */
        uint64_t short_ns = s->patient ? until_ns : os_now_ns() + (s->nth % 2 == 0 ? MS : 0);
        status = put(s, &s->writer, len, short_ns);
    } while ((status == SF_BUSY || status == SF_NO_ROOM || status == SF_LAGGING) &&
             os_now_ns() < until_ns);
    MUST(status == 0, "a survivor cannot write: %s", sf_status_text(status));
    return sf_load_seq(&s->writer.att->ring.header->head);
}

/* ---- reading ---- */

/* Reads what a look has found, and remembers it. */
void
judge(struct scene *s, uint64_t seq, const void *data, uint64_t len)
{
    const uint64_t *words = data;
    MUST(is_whole(words, len), "message %llu is torn", (unsigned long long)seq);
    MUST(seq < MAX_SEQ, "number %llu", (unsigned long long)seq);
    if (s->known[seq][0] == NOBODY) {
        MUST(words[0] != SURVIVOR, "message %llu is a survivor's that it did not publish",
             (unsigned long long)seq);
        MUST(words[0] != VICTIM || words[1] < (uint64_t)s->op->messages, "too many of the dead");
        for (uint64_t other = 1; other < MAX_SEQ; other++) {
            MUST(s->known[other][0] != words[0] || s->known[other][1] != words[1],
                 "message %llu came twice", (unsigned long long)seq);
        }
        s->known[seq][0] = words[0];
        s->known[seq][1] = words[1];
    }
    MUST(s->known[seq][0] == words[0] && s->known[seq][1] == words[1],
         "message %llu has become another", (unsigned long long)seq);
}

static void
note_taken(struct scene *s, struct party *p, const struct sf_message *m)
{
    if (p->author == SURVIVOR) {
        MUST(!p->att->lossless || m->lost == 0, "a lossless reader lost %llu before message %llu",
             (unsigned long long)m->lost, (unsigned long long)m->seq);
    }
    if (m->seq < MAX_SEQ && p->author != SURVIVOR && p->author < CHILD) {
        notes[p->author - VICTIM].took[m->seq] = 1;
    }
    else if (m->seq < MAX_SEQ && p == &s->member) {
        s->took[m->seq] = 1;
    }
}

int
take(struct scene *s, struct party *p, bool hold)
{
    for (int round = 0; round < 1000; round++) {
        struct sf_message m;
        uint64_t from, copy[HUGE / 8 + 1];
        int status = sf_take_look(p->att, false, &from, &m);
        if (status < 0) {
            return status;
        }
        if (m.payload_len > HUGE) {
            return SF_CORRUPT;
        }
        bool pinned = hold && m.pinnable && p->held_count < MAX_HELD;
        if (pinned && sf_pin(p->att, &m, false) != SF_PIN_OK) {
            continue;
        }
        memcpy(copy, sf_message_payload(p->att, &m), m.payload_len);
        if (!pinned && !sf_is_current(&p->att->ring, &m)) {
            continue;
        }
        if (pinned) {
            p->held[p->held_count++] =
                (struct held){.message = m, .author = copy[0], .serial = copy[1]};
        }
        if (!sf_take_commit(p->att, from, &m)) {
            if ((s->op->flags & GROUP) == 0) {
                return SF_RACE;
            }
            if (pinned) {
                sf_unpin(p->att, p->held[--p->held_count].message.desc);
            }
            continue; /* another member was quicker */
        }
        note_taken(s, p, &m);
        if (p->author == SURVIVOR) {
            judge(s, m.seq, copy, m.payload_len);
        }
        else if (!is_whole(copy, m.payload_len)) {
            return SF_BAD_MESSAGE;
        }
        return 1;
    }
    return SF_RACE;
}

void
take_all(struct scene *s, struct party *p)
{
    int status;
    do {
        status = take(s, p, false);
    } while (status == 1);
    MUST(status == SF_EMPTY || status == SF_ENDED || status == SF_GONE,
         "a survivor cannot read: %s", sf_status_text(status));
}

void
drain(struct scene *s)
{
    take_all(s, &s->reader);
    if (s->member.att) {
        take_all(s, &s->member);
    }
}

void
check_held(struct party *p, const char *whose)
{
    for (int i = 0; i < p->held_count; i++) {
        struct held *h = &p->held[i];
        const uint64_t *words = (const void *)sf_message_payload(p->att, &h->message);
        MUST(is_whole(words, h->message.payload_len) && words[0] == h->author &&
                 words[1] == h->serial,
             "the frame of message %llu that %s holds has changed",
             (unsigned long long)h->message.seq, whose);
    }
}

void
let_go(struct party *p)
{
    while (p->held_count > 0) {
        sf_unpin(p->att, p->held[--p->held_count].message.desc);
    }
    if (p->has_claim) {
        sf_send_drop(p->att, &p->claim);
        p->has_claim = false;
    }
}

/* ---- making and ending ---- */

int
files_left(char name[256])
{
    int count = 0;
    DIR *dir = opendir(folder);
    MUST(dir != NULL, "%s", folder);
    for (struct dirent *e = readdir(dir); e; e = readdir(dir)) {
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) {
            count++;
            snprintf(name, 256, "%s", e->d_name);
        }
    }
    closedir(dir);
    return count;
}

void
build_topic(struct scene *s, uint32_t flags, uint64_t depth)
{
    struct sf_params params = {.capacity = CAPACITY,
                               .max_message = MAX_MESSAGE,
                               .depth = depth,
                               .max_participants = 64,
                               .flags = flags};
    int status = sf_segment_create(s->path, &params, 0600, NULL, NULL);
    MUST(status == 0, "creation: %s", sf_status_text(status));
}

static void
join(struct scene *s, struct party *p, enum sf_attach_as as)
{
    p->author = SURVIVOR;
    int status = sf_attach(s->path, as, &p->att);
    MUST(status == 0, "attaching a survivor: %s", sf_status_text(status));
    sf_subscribe(p->att, SF_OLDEST);
}

int
attach_self(struct scene *s, enum sf_attach_as as)
{
    int status = sf_attach(s->path, as, &s->self.att);
    if (status == 0) {
        sf_subscribe(s->self.att, (s->op->flags & READS) != 0 ? SF_LATEST : SF_OLDEST);
    }
    return status;
}

int
join_team(struct scene *s, struct party *p)
{
    struct sf_joining how = {.group = TEAM, .lossless = (s->op->flags & LOSSY) == 0};
    return sf_join(p->att, &how, os_now_ns() + PATIENCE_NS);
}

/* What is lossless, or a group, once the ring is full: with something unread. */
static void
set_policies(struct scene *s)
{
    int status = 0;
    if ((s->op->flags & LOSSLESS) != 0) {
        uint64_t cursor = sf_load_relaxed(s->reader.att->cursor); /* our own */
        struct sf_joining how = {.cursor = cursor, .lossless = true};
        status = sf_join(s->reader.att, &how, os_now_ns() + PATIENCE_NS);
        MUST(status == 0, "%s", sf_status_text(status));
    }
    if ((s->op->flags & GROUP) != 0) {
        join(s, &s->member, SF_AS_WRITER);
        status = join_team(s, &s->member);
        MUST(status == 0, "%s", sf_status_text(status));
        s->living++;
    }
    if ((s->op->flags & (LOSSLESS | GROUP)) != 0) {
        drain(s);
        for (int i = 0; i < 4; i++) {
            must_put(s, i % 2 == 0 ? LARGE : SMALL);
        }
    }
    if ((s->op->flags & GROUP) != 0) {
        s->team_from = sf_load_relaxed(s->member.att->cursor); /* nobody takes now */
    }
}

/* The reader holds each large message of main until the next one has to go elsewhere. */
void
hold_all_of_main(struct scene *s)
{
    s->reader.att->max_held = 2 * CAPACITY;
    for (int round = 0; round < MAX_HELD; round++) {
        take_all(s, &s->reader);
        must_put(s, LARGE);
        int held = s->reader.held_count;
        MUST(take(s, &s->reader, true) == 1, "its own message");
        if (s->reader.held_count == held) {
            return;
        }
    }
    MUST(false, "main is larger than thought");
}

/* Once round the ring and a half, with frames held here and there. */
static void
fill(struct scene *s)
{
    for (int i = 0; i < 38; i++) {
        must_put(s, i % 2 == 0 ? SMALL : LARGE);
        MUST(take(s, &s->reader, i == 9 || i == 17 || i == 27) == 1, "its own message");
    }
    MUST(s->reader.held_count == 3, "held %d", s->reader.held_count);
}

void
scene_open(struct scene *s, const struct op *op, long nth)
{
    char left[256];
    memset(s, 0, sizeof *s);
    s->op = op;
    s->nth = nth;
    s->fd = -1;
    s->patient = nth % 24 == 5;
    snprintf(s->name, sizeof s->name, "kill");
    int status = sf_segment_path(s->name, s->path, sizeof s->path);
    MUST(status == 0, "%s", sf_status_text(status));
    MUST(files_left(left) == 0, "%s was left behind", left);
    if ((op->flags & NO_TOPIC) == 0) {
        build_topic(s, (op->flags & TEMPORARY) != 0 ? SF_TEMPORARY : 0,
                    (op->flags & DEPTH) != 0 ? 12 : 0);
        s->fd = open(s->path, O_RDWR | O_CLOEXEC);
        MUST(s->fd >= 0, "the topic's file");
        join(s, &s->watcher, SF_AS_MONITOR);
        if ((op->flags & (TEMPORARY | IDLE)) == 0) {
            join(s, &s->writer, SF_AS_WRITER);
            join(s, &s->reader, SF_AS_READER);
            s->living = 2;
            fill(s);
            set_policies(s);
            if ((op->flags & MAIN_HELD) != 0) {
                hold_all_of_main(s);
            }
        }
    }
    if (op->stage) {
        op->stage(s);
    }
}

static void
leave(struct party *p)
{
    if (p->att) {
        let_go(p);
        sf_attachment_unref(p->att);
        p->att = NULL;
    }
}

void
scene_close(struct scene *s)
{
    char left[256];
    leave(&s->reader);
    leave(&s->member);
    leave(&s->filler);
    leave(&s->writer);
    leave(&s->watcher);
    if (s->fd >= 0) {
        close(s->fd);
    }
    int status = sf_segment_remove(s->path, NULL, SF_ALWAYS);
    MUST(status == 0 || status == SF_NOT_FOUND, "removal: %s", sf_status_text(status));
    MUST(files_left(left) == 0, "%s was left behind", left);
}
