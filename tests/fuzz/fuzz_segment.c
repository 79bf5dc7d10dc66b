/* Fuzz target: a script of operations on a segment, with words of it spoilt in between.
 *
 * Owns:      the script's verbs; what must hold of whatever the core answers.
 * Does not:  attach or map (fuzz_attach.c does); the segment is memory, time and locks are made
 *            up (world.h).
 *
 * Whatever the tables hold: every status is a known one, every message and every claim lies in
 * the arena and can be read to its last byte, every operation ends, and tables that rebuild calls
 * sound are sound.
 */
#include "sound.h"
#include "world.h"

#include "core/topic.h"

#define MOST_STEPS 200
#define MOST_HELD 8

/* What the script holds: messages that are pinned, claims that are not published yet. */
struct held {
    struct sf_attachment *att;
    struct sf_claim claim;
    uint64_t payload_len;
    bool is_loan, used;
};

struct script {
    struct input in;
    struct world *world;
    struct held pins[MOST_HELD], claims[MOST_HELD];
    uint64_t kept;
};

static struct held *
find_held(struct held *all, bool used, uint32_t from)
{
    for (uint32_t i = 0; i < MOST_HELD; i++) {
        struct held *one = &all[(from + i) % MOST_HELD];
        if (one->used == used) {
            return one;
        }
    }
    return NULL;
}

/* ---- verbs ---- */

static struct sf_attachment *
take_att(struct script *s, uint32_t among)
{
    return &s->world->att[take_below(&s->in, among)];
}

static uint64_t
take_until(struct script *s)
{
    static const uint64_t patience[] = {0, 1, 100000, 1000000, 150000000, 400000000};
    uint64_t ns = patience[take_below(&s->in, sizeof patience / sizeof *patience)];
    return ns == 0 ? SF_TRY : clock_ns + ns;
}

static struct sf_out
take_out(struct script *s)
{
    static const char zeros[SF_MAX_META + SF_MAX_DTYPE];
    static const char data[1 << 17];
    static const uint64_t shape[SF_MAX_DIMS];
    struct sf_out out = {.data = data, .shape = shape, .dtype = zeros, .meta = zeros};
    uint8_t how = take_byte(&s->in);
    out.ndim = (how & 1) != 0 ? take_below(&s->in, SF_MAX_DIMS + 1) : 1;
    out.dtype_len = (how & 2) != 0 ? take_byte(&s->in) * 16u : 3;
    out.meta_len = (how & 4) != 0 ? take_byte(&s->in) * 257u : 0;
    out.fortran = (how & 8) != 0;
    out.stamped = (how & 16) != 0;
    out.stamp_ns = out.stamped ? take_number(&s->in, 8) : 0;
    out.payload_len = take_payload_len(&s->in, &s->world->ring.lay);
    return out;
}

static struct sf_out
take_small_out(struct script *s)
{
    struct sf_out out = take_out(s);
    uint64_t room = SF_SMALL_LEN - sf_out_block_len(&(struct sf_out){0});
    out.dtype_len = out.dtype_len > 2000 ? 2000 : out.dtype_len;
    out.meta_len = out.meta_len > 1000 ? 1000 : out.meta_len;
    room -= sf_prefix_len(out.ndim, out.dtype_len, out.meta_len);
    out.payload_len = out.payload_len < room ? out.payload_len : room;
    return out;
}

static void
do_send_small(struct script *s)
{
    struct sf_out out = take_small_out(s);
    uint64_t seq = 0;
    check_status(sf_send_small(&s->world->att[WRITER], &out, take_until(s), &seq));
}

static void
do_batch(struct script *s)
{
    struct sf_out out[8];
    const struct sf_out *outs[8];
    int most = 1 + (int)take_below(&s->in, 8);
    for (int i = 0; i < most; i++) {
        out[i] = take_small_out(s);
        outs[i] = &out[i];
    }
    uint64_t seq = 0;
    int sent = sf_send_batch(&s->world->att[WRITER], outs, most, take_until(s), &seq);
    check_status(sent);
    DEMAND(sent <= most && sent != 0);
}

/* Joins, or leaves: more names than there are places. */
static void
do_join(struct script *s)
{
    struct sf_attachment *att = take_att(s, MONITOR);
    uint8_t how = take_byte(&s->in);
    char name[SF_MAX_GROUP_NAME + 1] = {0};
    memset(name, 'a' + how % 20, (how & 32) != 0 ? SF_MAX_GROUP_NAME : 3);
    struct sf_joining joining = {
        .group = (how & 64) != 0 ? name : NULL,
        .start = take_below(&s->in, 3),
        .lossless = (how & 128) != 0,
    };
    if (take_byte(&s->in) >= 0xc0) {
        joining.cursor = take_value(&s->in, &s->world->ring, sf_load_relaxed(att->cursor), s->kept);
    }
    if (joining.start == SF_NEW && (how & 15) == 15) {
        sf_unjoin(att);
        return;
    }
    check_status(sf_join(att, &joining, take_until(s)));
    DEMAND(att->group <= SF_GROUPS);
    DEMAND(att->cursor == (att->group ? &att->ring.groups[att->group - 1].cursor
                                      : &att->ring.slots[att->slot].cursor));
}

static void
do_seek(struct script *s)
{
    struct sf_attachment *att = take_att(s, ATTACHMENTS);
    uint32_t how = take_below(&s->in, 5);
    uint64_t value = take_value(&s->in, &s->world->ring, sf_load_relaxed(att->cursor), s->kept);
    uint64_t seq = how < 3 ? sf_find_start(att, how) : how == 3 ? sf_find_stamp(att, value) : value;
    int status = sf_seek(att, seq, take_until(s));
    check_status(status);
    /* One thread: nobody moves it on, and no place that was found is refused. */
    DEMAND(status != 0 || sf_load_relaxed(att->cursor) == seq);
    DEMAND(how > 2 || status != SF_NOT_RETAINED);
}

/* A write in two steps, or a loan: the claim waits to be published or dropped. */
static void
do_claim(struct script *s, bool is_loan)
{
    struct sf_attachment *att = &s->world->att[WRITER];
    struct held *one = find_held(s->claims, false, 0);
    struct sf_out out = take_out(s);
    uint64_t len = sf_out_block_len(&out);
    uint64_t until = is_loan ? SF_TRY : take_until(s);
    if (!one || (is_loan && !sf_loan_fits(att, len))) {
        return;
    }
    int status =
        sf_send_claim(att, len, is_loan ? SF_LANE_NEVER : SF_LANE_IN_TURN, until, &one->claim);
    check_status(status);
    if (status != 0) {
        return;
    }
    check_claim(att, &one->claim, len);
    DEMAND(!is_loan || !one->claim.in_lane);
    one->att = att;
    one->is_loan = is_loan;
    one->payload_len = out.payload_len;
    one->used = true;
    if (is_loan) {
        sf_loan_begin(att, one->claim.desc);
    }
    char *payload = sf_send_payload(att, &out, &one->claim);
    memset(payload, 0x5a, out.payload_len);
}

static void
do_end_claim(struct script *s, bool publish)
{
    struct held *one = find_held(s->claims, true, take_byte(&s->in));
    if (!one) {
        return;
    }
    struct sf_out out = {.payload_len = one->payload_len, .dtype = "|u1", .dtype_len = 3};
    uint64_t seq = 0;
    int status = SF_BUSY;
    out.shape = &one->payload_len;
    if (publish) {
        if (one->is_loan) {
            sf_loan_keep(one->att, one->claim.desc);
        }
        status = sf_send_publish(one->att, &out, &one->claim, take_until(s), &seq);
        check_status(status);
    }
    one->used = false;
    if (status == 0 && one->is_loan) {
        struct held *pin = find_held(s->pins, false, 0);
        if (pin) {
            *pin = *one;
            pin->used = true;
            return;
        }
        sf_unpin(one->att, one->claim.desc);
    }
    else if (status != 0 && one->is_loan) {
        sf_loan_drop(one->att, one->claim.desc);
    }
    else if (status != 0) {
        sf_send_drop(one->att, &one->claim);
    }
}

static void
do_take(struct script *s)
{
    struct sf_attachment *att = take_att(s, ATTACHMENTS);
    uint8_t how = take_byte(&s->in);
    struct sf_message m;
    memset(&m, 0, sizeof m);
    uint64_t from;
    int status = sf_take_look(att, (how & 1) != 0, &from, &m);
    check_status(status);
    if (status == SF_EMPTY && (how & 2) != 0) {
        check_status(
            sf_wait_message(att, m.seq, take_until(s), (how & 4) != 0 ? 100000 : -1, NULL));
    }
    if (status == SF_BAD_MESSAGE) {
        (void)sf_take_commit(att, from, &m);
    }
    if (status != 0) {
        return;
    }
    check_message(att, &m);
    DEMAND(m.lost + m.skipped == m.seq - from);
    struct held *one = find_held(s->pins, false, 0);
    if (one && m.pinnable && !att->monitor && (how & 8) != 0 &&
        sf_pin(att, &m, (how & 16) != 0) == SF_PIN_OK) {
        *one = (struct held){.att = att, .claim = {.desc = m.desc}, .used = true};
    }
    if (sf_is_current(&att->ring, &m) && (how & 32) == 0) {
        DEMAND(sf_take_commit(att, from, &m));
    }
}

static void
do_unpin(struct script *s)
{
    struct held *one = find_held(s->pins, true, take_byte(&s->in));
    if (one) {
        one->used = false;
        sf_unpin(one->att, one->claim.desc);
    }
}

static void
do_rebuild(struct script *s)
{
    struct sf_attachment *att = &s->world->att[take_below(&s->in, MONITOR)];
    uint64_t start = clock_ns, until = take_until(s);
    int status = sf_lock_wait(att, until);
    check_status(status);
    if (status == SF_BUSY && until > start + SF_SLICE_NS && !name_gone && !name_moved) {
        /* K2: with patience for a slice, only who lives keeps the lock. Relaxed: one thread. */
        DEMAND(living[sf_owner_slot(sf_load_relaxed(&att->ring.header->lock))]);
    }
    if (status == 0) {
        status = sf_rebuild_locked(&att->ring);
        check_status(status);
        if (status == 0) {
            check_tables(&att->ring);
        }
        sf_unlock(att);
    }
}

/* Leaves its slot and takes another, as an attachment that ends and one that begins. */
static void
do_take_slot(struct script *s)
{
    struct sf_attachment *att = take_att(s, MONITOR);
    if (find_held(s->pins, true, 0) || find_held(s->claims, true, 0)) {
        return;
    }
    uint32_t old = att->slot;
    sf_unjoin(att);
    att->group = 0;
    att->lossless = false;
    living[old] = 0;
    sf_slot_give_up(att);
    int status = sf_slot_take(att, FAKE_FD);
    check_status(status);
    if (status < 0) { /* it finds its own again, at the least */
        DEMAND(status == SF_NO_SLOT && living[old]);
    }
    DEMAND(att->slot < att->ring.lay.max_participants);
    living[att->slot] = 1;
}

static void
do_ask(struct script *s)
{
    struct sf_attachment *att = take_att(s, ATTACHMENTS);
    uint8_t alive[SF_MAX_PARTICIPANTS];
    struct sf_totals totals;
    struct sf_topic topic = {.att = att};
    int count = sf_list_living(att, alive);
    check_status(count);
    DEMAND(count <= (int)att->ring.lay.max_participants);
    (void)sf_count_others(att);
    (void)sf_attachment_has_gone(att);
    sf_topic_totals(&topic, &totals);
    sum += totals.read + totals.held_len;
}

static void
do_step(struct script *s)
{
    struct sf_attachment *writer = &s->world->att[WRITER];
    uint32_t verb = take_byte(&s->in);
    if (verb >= 0xe8) { /* these came later, and leave to the corpus what it means */
        verb % 4 == 0 ? do_batch(s) : verb % 4 == 1 ? do_seek(s) : do_join(s);
        return;
    }
    switch (verb % 32) {
    case 0:
        do_claim(s, true);
        return;
    case 1:
    case 2:
        do_claim(s, false);
        return;
    case 3:
    case 4:
        do_end_claim(s, true);
        return;
    case 5:
        do_end_claim(s, false);
        return;
    case 6:
        do_rebuild(s);
        return;
    case 7:
        check_status(sf_clean_dead(take_att(s, MONITOR)));
        return;
    case 8:
        living[take_below(&s->in, 8)] ^= 1;
        living[writer->slot] = living[s->world->att[READER].slot] = 1;
        return;
    case 9:
        check_status(sf_shutdown(writer, take_until(s)));
        return;
    case 10:
        do_ask(s);
        return;
    case 11:
        sf_subscribe(take_att(s, ATTACHMENTS), take_below(&s->in, 3));
        return;
    case 12:
        do_take_slot(s);
        return;
    case 13:
        fork_prepare();
        fork_parent();
        return;
    case 14:
        next_interrupts = true;
        return;
    case 15:
        name_gone = take_byte(&s->in) == 1;
        name_moved = take_byte(&s->in) == 1;
        return;
    case 16:
        sf_leave_queue(writer);
        return;
    case 17:
    case 18:
        do_unpin(s);
        return;
    case 19:
    case 20:
    case 21:
        do_take(s);
        return;
    case 22:
    case 23:
    case 24:
        do_send_small(s);
        return;
    default:
        s->kept = poke(&s->in, &s->world->ring, s->kept);
        return;
    }
}

/* ---- the target ---- */

/* Messages of several sizes, some gone round, one that the other participant holds. */
static void
fill(struct world *world)
{
    static const uint8_t verbs[] = {22, 0, 3, 0, 22, 0, 4, 0, 1, 0, 7, 0, 3, 0, 0};
    for (int round = 0; round < 6; round++) {
        struct script s = {.in = {verbs, sizeof verbs}, .world = world};
        while (s.in.left > 0) {
            do_step(&s);
        }
        for (uint32_t i = 0; i < MOST_HELD && find_held(s.claims, true, i); i++) {
            do_end_claim(&s, true);
        }
    }
    check_tables(&world->ring);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static struct world worlds[2 * SMALL_TOPICS];
    struct script s = {.in = {data, len}};
    s.world = &worlds[take_below(&s.in, 2 * SMALL_TOPICS)];
    if (!s.world->arena) {
        uint32_t which = (uint32_t)(s.world - worlds);
        DEMAND(sf_process_setup() == 0);
        world_make(s.world, &small_topics[which / 2]);
        clock_looks = 0;
        if (which % 2 == 1) {
            fill(s.world);
        }
        world_keep(s.world);
    }
    world_reset(s.world);
    for (int i = 0; i < ATTACHMENTS; i++) {
        sf_registry_add(&s.world->att[i]);
    }
    for (int step = 0; step < MOST_STEPS && s.in.left > 0; step++) {
        do_step(&s);
    }
    for (int i = 0; i < ATTACHMENTS; i++) {
        sf_registry_remove(&s.world->att[i]);
    }
    return 0;
}
