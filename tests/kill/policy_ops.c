/* Operations of lossless readers, of groups, and on several messages at once.
 *
 * Owns:      how each is set up and done.
 * Does not:  say what must be true if it is cut short (check.c).
 *
 * Invariants: that of flow_ops.c.
 * A crash here is the purpose.
 */
#include "kill.h"

#include <string.h>

enum { BATCH_LEN = 5, TAKEN = 4 };
enum { COPYING, HOLDING };

/* ---- joining and leaving ---- */

static int
join_as(struct scene *s, const char *group, enum sf_start start, bool lossless)
{
    struct sf_joining how = {.group = group, .start = start, .lossless = lossless};
    return sf_join(s->self.att, &how, long_enough());
}

static int
join_lossless(struct scene *s)
{
    return join_as(s, NULL, SF_OLDEST, true);
}

static int
join_first(struct scene *s)
{
    return join_as(s, "others", SF_OLDEST, true);
}

static int
join_second(struct scene *s)
{
    return join_team(s, &s->self);
}

static int
be_lossless(struct scene *s)
{
    int status = be_reader(s);
    return status < 0 ? status : join_lossless(s);
}

static int
be_lossless_and_new(struct scene *s)
{
    int status = be_reader(s);
    return status < 0 ? status : join_as(s, NULL, SF_NEW, true);
}

static int
be_member(struct scene *s)
{
    int status = be_reader(s);
    return status < 0 ? status : join_second(s);
}

static int
leave_what_one_joined(struct scene *s)
{
    struct sf_attachment *att = s->self.att;
    sf_unjoin(att);
    s->self.att = NULL;
    sf_attachment_unref(att);
    return 0;
}

/* Whoever survives may be the group's first member, of the other policy: the dead one counts for
 * nothing. The reader is attached, so nobody has cleaned on its behalf. */
static void
survivor_joins_lossy(struct scene *s)
{
    if (s->orderly) {
        return; /* the next one who writes asks for the same room */
    }
    uint64_t cursor = sf_load_relaxed(s->reader.att->cursor); /* our own */
    struct sf_joining how = {.group = "others", .cursor = cursor, .lossless = false};
    int status = sf_join(s->reader.att, &how, os_now_ns() + PATIENCE_NS);
    MUST(status == 0, "joining where a dead one was: %s", sf_status_text(status));
    sf_unjoin(s->reader.att);
    sf_resubscribe(s->reader.att, cursor);
}

static void
name_all_groups(struct scene *s)
{
    struct sf_ring *ring = &s->writer.att->ring;
    for (uint32_t at = 0; at < SF_GROUPS; at++) {
        snprintf(ring->groups[at].name, sizeof ring->groups[at].name, "old %u", at);
        sf_store_seq(&ring->groups[at].cursor, 3 + at); /* nobody else is there */
        sf_store_seq(&ring->groups[at].used, 1);        /* as above */
    }
}

/* Each group has a last member, who has died. */
static void
name_all_groups_of_the_dead(struct scene *s)
{
    struct sf_ring *ring = &s->writer.att->ring;
    name_all_groups(s);
    sf_store_seq(&ring->header->floor_seq, 1); /* F1; nobody else is there */
    for (uint32_t at = 0; at < SF_GROUPS; at++) {
        struct sf_participant *p = &ring->slots[16 + at];
        sf_store_seq(&p->group, at + 1); /* nobody looks, here and below */
        sf_store_seq(&p->policy, SF_POLICY_LOSSLESS); /* as above */
        sf_store_seq(&p->state, SF_SLOT_TAKEN); /* as above */
    }
}

/* ---- taking ---- */

/* How: COPYING or HOLDING. */
static int
take_some(struct scene *s)
{
    int got = 1;
    for (int i = 0; got == 1 && i < TAKEN; i++) {
        got = take(s, &s->self, s->op->how == HOLDING);
    }
    bool others = (s->op->flags & GROUP) != 0 && got == SF_EMPTY; /* took the rest */
    return got == 1 || others ? 0 : got;
}

/* As a member copies a large one: it is his before he copies it. */
static int
take_before_the_copy(struct scene *s)
{
    struct sf_attachment *att = s->self.att;
    struct sf_message m;
    uint64_t from, words[3];
    int status = sf_take_look(att, false, &from, &m);
    while (status == 0 && !m.pinnable) {
        int got = take(s, &s->self, false);
        status = got < 0 ? got : sf_take_look(att, false, &from, &m);
    }
    if (status < 0 || sf_pin(att, &m, true) != SF_PIN_OK) {
        return status == SF_EMPTY ? 0 : status < 0 ? status : SF_RACE;
    }
    bool mine = sf_take_commit(att, from, &m);
    memcpy(words, sf_message_payload(att, &m), sizeof words);
    sf_unpin(att, m.desc);
    notes[NOTE_VICTIM].took[m.seq] |= mine; /* else a survivor was quicker, while it was frozen */
    return words[2] == LARGE ? 0 : SF_RACE;
}

/* A survivor writes where the victim has to read before. */
static void
write_behind_the_victim(struct scene *s)
{
    while (!victim_is_gone()) {
        drain(s);
        int status = put(s, &s->writer, SMALL, os_now_ns() + 2 * MS);
        MUST(status == 0 || status == SF_LAGGING || status == SF_BUSY, "%s",
             sf_status_text(status));
    }
}

/* So that the victim finds a sleeper to ring for. */
static void
listen_for_room(struct scene *s)
{
    (void)sf_room_listen(s->writer.att);
}

/* ---- seeking ---- */

static int
seek_to(struct scene *s, enum sf_start start)
{
    return sf_seek(s->self.att, sf_find_start(s->self.att, start), long_enough());
}

/* How: an sf_start. */
static int
seek(struct scene *s)
{
    return seek_to(s, (enum sf_start)s->op->how);
}

/* A group's messages come again after that, which is what was asked for. */
static int
seek_the_group(struct scene *s)
{
    int status = seek_to(s, SF_NEW);
    return status < 0 ? status : seek_to(s, SF_LATEST);
}

/* ---- several at once ---- */

static int
send_batch(struct scene *s)
{
    static uint64_t data[BATCH_LEN][SMALL / 8];
    static const uint64_t len = SMALL;
    struct sf_out out[BATCH_LEN];
    const struct sf_out *outs[BATCH_LEN];
    struct party *self = &s->self;
    uint64_t first = self->serial, seq;
    for (int i = 0; i < BATCH_LEN; i++, self->serial++) {
        fill_claim(self, data[i], SMALL);
        out[i] = (struct sf_out){.data = data[i],
                                 .payload_len = SMALL,
                                 .shape = &len,
                                 .dtype = "|u1",
                                 .ndim = 1,
                                 .dtype_len = 3};
        outs[i] = &out[i];
    }
    self->serial = first;
    for (int sent = 0; sent < BATCH_LEN;) {
        int more = sf_send_batch(self->att, outs + sent, BATCH_LEN - sent, long_enough(), &seq);
        if (more <= 0) {
            return more < 0 ? more : SF_BAD_VALUE;
        }
        sent += more;
        self->serial += (uint64_t)more;
        notes[NOTE_VICTIM].published += more;
    }
    return 0;
}

/* ---- waiting for a lossless reader ---- */

/* As many as the depth holds, and the reader has read none of them. */
static void
reach_the_depth(struct scene *s)
{
    int status = 0;
    while (status == 0) {
        status = put(s, &s->writer, SMALL, SF_TRY);
    }
    MUST(status == SF_LAGGING, "%s", sf_status_text(status));
}

static void
read_for_a_sleeper(struct scene *s)
{
    wait_for_a_sleeper(&s->writer.att->ring.header->room);
    drain(s);
}

/* Somebody joined as lossless, and read nothing, and is dead. */
static void
somebody_lossless_dies(struct scene *s)
{
    helper_dies(s, join_lossless, NULL);
}

#define MEMBER (GROUP | LAGS | CAN_STOP)

const struct op policy_ops[] = {
    {"join as a lossless reader", LAGS | LOSSLESS | CAN_STOP, 0, .act = join_lossless,
     .ready = be_reader},
    {"join a group first", LAGS | CAN_STOP, 0, .act = join_first, .ready = be_reader,
     .afterwards = survivor_joins_lossy},
    {"join a group second", MEMBER, 0, .act = join_second, .ready = be_reader},
    {"take a group's place", LAGS, 0, .act = join_first, .ready = be_reader,
     .stage = name_all_groups},
    {"take a dead group's place", LAGS, 0, .act = join_first, .ready = be_reader,
     .between = name_all_groups_of_the_dead},
    {"leave as a lossless reader", LAGS | DEPTH, 0, .act = leave_what_one_joined,
     .ready = be_lossless},
    {"leave a group", GROUP | LAGS, 0, .act = leave_what_one_joined, .ready = be_member},
    {"take what a writer waits for", LAGS | DEPTH, 0, .act = take_some, .ready = be_lossless,
     .between = listen_for_room, .meanwhile = write_behind_the_victim, .how = COPYING},
    {"take as a lossless reader", LAGS | LOSSLESS | CAN_STOP, 0, .act = take_some,
     .ready = be_lossless, .how = HOLDING},
    {"take as a member", MEMBER, 0, .act = take_some, .ready = be_member, .how = COPYING},
    {"take and hold as a member", MEMBER, 0, .act = take_some, .ready = be_member, .how = HOLDING},
    {"take before the copy", MEMBER, 0, .act = take_before_the_copy, .ready = be_member},
    {"take as a member of a lossy group", MEMBER | LOSSY, 0, .act = take_some, .ready = be_member,
     .how = HOLDING},
    {"seek back", LAGS | LOSSLESS | CAN_STOP, 0, .act = seek, .ready = be_lossless_and_new,
     .how = SF_OLDEST},
    {"seek on", LAGS | LOSSLESS | DEPTH | CAN_STOP, 0, .act = seek, .ready = be_lossless,
     .between = listen_for_room, .how = SF_NEW},
    {"seek as a member", MEMBER | LOSSY, 0, .act = seek_the_group, .ready = be_member},
    {"send a batch", BATCH | LOSSLESS | CAN_STOP, BATCH_LEN, .act = send_batch},
    {"send a batch at the depth", BATCH | DEPTH | LOSSLESS | CAN_STOP, BATCH_LEN,
     .act = send_batch},
    {"wait for a lossless reader", DEPTH | LOSSLESS, 1, .act = write_small,
     .stage = reach_the_depth, .meanwhile = read_for_a_sleeper},
    {"wait to publish for a lossless reader", DEPTH | LOSSLESS, 1, .act = write_large,
     .stage = reach_the_depth, .meanwhile = read_for_a_sleeper},
    {"wait for a dead lossless reader", DEPTH | LOSSLESS, 1, .act = write_small,
     .between = somebody_lossless_dies},
    {"wait to publish for a dead one", DEPTH | LOSSLESS, 1, .act = write_large,
     .between = somebody_lossless_dies},
    {.name = NULL},
};
