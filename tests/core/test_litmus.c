/* Litmus tests of the edges A … H: two threads run one side each, at the same moment, again and again;
 * the outcomes that the edge forbids never come.
 *
 * Owns:      one test per edge, by the functions of the core where there are any, else by its very
 *            macros. litmus.h lets the two sides loose.
 * Does not:  test whole protocols (tests/model does) or processes (tests/crash does).
 *
 * A test that sees nothing proves nothing. So each prints how often each outcome came, and weakened
 * variants of the edges C, F and H follow, whose forbidden outcomes should come; on one CPU, or a
 * busy one, they may not, which is told and is no failure.
 *
 * LITMUS_ROUNDS=5000000 sets the rounds; else it is 300000, or what 0.35 s are enough for.
 */
#include "litmus.h"

/* ---- A and B: publish and look ---- */

static void
publish_filled(struct duel *duel)
{
    for (int i = 0; i < WORDS; i++) {
        sf_store_relaxed(&duel->payload[i], duel->round + 1); /* before A */
    }
    struct sf_message m = plain_describe(LEN, duel->round + 1);
    duel->got[0][0] = sf_publish_locked(duel->ring, duel->claim.desc, &m) == 0;
}

static void
look_and_read(struct duel *duel)
{
    struct sf_message m = {0};
    uint64_t *got = duel->got[1];
    got[0] = (uint64_t)sf_look(duel->ring, duel->seq, &m); /* A and B inside */
    got[1] = m.stamp_ns;
    got[2] = m.block_off;
    got[3] = 1;
    for (int i = 0; i < WORDS; i++) {
        got[3] &= sf_load_relaxed(&duel->payload[i]) == duel->round + 1; /* after A */
    }
}

/* Takes the message away again, so that the next round publishes the same claim. */
static void
take_back(struct duel *duel)
{
    sf_store_seq(&duel->desc->seq, 0); /* alone here, as in all judges */
    sf_store_seq(&duel->desc->owner, duel->att[0]->owner); /* alone */
    sf_store_seq(&duel->ring->header->tail, duel->seq + 1); /* alone */
    duel->seq++;
}

static int
judge_look(struct duel *duel)
{
    const uint64_t *got = duel->got[1];
    bool found = got[0] == 0;
    bool whole = got[1] == duel->round + 1 && got[2] == duel->claim.off && got[3] != 0;
    bool right = duel->got[0][0] && (found ? whole : (int)got[0] == SF_EMPTY);
    take_back(duel);
    return !right ? 3 : found ? 1 : 0;
}

TEST(a_message_that_is_found_is_whole)
{
    static const char *const outcomes[4] = {"not yet", "found", NULL, "torn"};
    struct duel duel;
    start(&duel, "A", outcomes, publish_filled, look_and_read, judge_look);
    CHECK_EQ(fight(&duel), 0);
}

static void
look_after_head(struct duel *duel)
{
    struct sf_message m = {0};
    duel->got[1][0] = sf_load_seq(&duel->ring->header->head) >= duel->seq; /* B */
    duel->got[1][1] = sf_look(duel->ring, duel->seq, &m) == 0 && m.lost == 0;
}

static int
judge_head(struct duel *duel)
{
    bool seen = duel->got[1][0] != 0, found = duel->got[1][1] != 0;
    take_back(duel);
    return seen ? (found ? 2 : 3) : found ? 1 : 0;
}

TEST(a_message_that_head_tells_of_is_found)
{
    static const char *const outcomes[4] = {"not yet", "found before head", "found",
                                            "head without it"};
    struct duel duel;
    start(&duel, "B", outcomes, publish_filled, look_after_head, judge_head);
    CHECK_EQ(fight(&duel), 0);
}

/* ---- C: retire and pin ---- */

static void
retire(struct duel *duel)
{
    duel->got[0][0] = sf_retire_locked(duel->ring, duel->claim.desc, false);
}

/* Release and acquire, which are not enough. */
static void
retire_weakly(struct duel *duel)
{
    atomic_store_explicit(&duel->desc->seq, 0, memory_order_release);
    duel->got[0][0] = atomic_load_explicit(&duel->desc->holders[0], memory_order_acquire) == 0;
}

static void
pin(struct duel *duel)
{
    duel->got[1][0] = sf_pin_bit(duel->ring, duel->claim.desc, 1, duel->seq);
}

static int
judge_pin(struct duel *duel)
{
    bool is_free = duel->got[0][0] != 0, pinned = duel->got[1][0] != 0;
    if (pinned) {
        sf_unpin_bit(duel->ring, duel->claim.desc, 1);
    }
    sf_store_seq(&duel->desc->seq, duel->seq); /* alone: a message again */
    return is_free ? (pinned ? 3 : 0) : pinned ? 1 : 2;
}

static const char *const pin_outcomes[4] = {"freed", "held", "neither", "freed and held"};

TEST(a_block_is_never_freed_and_held)
{
    SKIP_IF_EMULATED
    struct duel duel;
    start(&duel, "C", pin_outcomes, retire, pin, judge_pin);
    publish_once(&duel);
    CHECK_EQ(fight(&duel), 0);

    struct duel weak;
    start(&weak, "C, weakened", pin_outcomes, retire_weakly, pin, judge_pin);
    publish_once(&weak);
    expect_weak(&weak);
}

/* ---- D, E, E': who gives a block back, and who uses it again ---- */

static void
reuse_if_not_held(struct duel *duel)
{
    duel->got[0][0] = !sf_is_held(duel->ring, duel->claim.desc); /* D */
    if (duel->got[0][0]) {
        sf_store_relaxed(&duel->payload[0], duel->round + 1); /* after D */
    }
}

static void
read_and_unpin(struct duel *duel)
{
    duel->got[1][0] = sf_load_relaxed(&duel->payload[0]); /* before D */
    sf_unpin_bit(duel->ring, duel->claim.desc, 1);
}

static int
judge_unpin(struct duel *duel)
{
    bool reused = duel->got[0][0] != 0, changed = duel->got[1][0] == duel->round + 1;
    sf_pin_own_claim(duel->ring, duel->claim.desc, 1); /* held again */
    return changed ? 3 : reused ? 1 : 0;
}

TEST(what_a_reader_saw_before_it_let_go_is_the_old_block)
{
    static const char *const outcomes[4] = {"held", "used again", NULL, "changed while held"};
    struct duel duel;
    start(&duel, "D", outcomes, reuse_if_not_held, read_and_unpin, judge_unpin);
    sf_pin_own_claim(duel.ring, duel.claim.desc, 1);
    CHECK_EQ(fight(&duel), 0);
}

static void
reuse_if_nobodys(struct duel *duel)
{
    duel->got[0][0] = sf_load_acquire(&duel->desc->owner) == 0; /* E */
    if (duel->got[0][0]) {
        sf_store_relaxed(&duel->payload[0], 2 * duel->round + 2); /* after E */
    }
}

static void
write_and_discard(struct duel *duel)
{
    sf_store_relaxed(&duel->payload[0], 2 * duel->round + 1); /* before E */
    sf_discard(duel->ring, duel->claim.desc);
}

static int
judge_discard(struct duel *duel)
{
    bool reused = duel->got[0][0] != 0;
    bool last = sf_load_relaxed(&duel->payload[0]) == 2 * duel->round + 2; /* alone */
    sf_store_seq(&duel->desc->owner, duel->att[0]->owner); /* alone */
    return reused ? (last ? 1 : 3) : 0;
}

TEST(the_last_store_of_who_discards_comes_before_the_next_use)
{
    static const char *const outcomes[4] = {"claimed", "used again", NULL, "overwritten"};
    struct duel duel;
    start(&duel, "E", outcomes, reuse_if_nobodys, write_and_discard, judge_discard);
    CHECK_EQ(fight(&duel), 0);
}

static void
look_if_owner_lives(struct duel *duel)
{
    duel->got[0][0] = sf_owner_lives(duel->ring, duel->att[1]->owner); /* E' */
    duel->got[0][1] = sf_is_held(duel->ring, duel->claim.desc);
}

static void
clean(struct duel *duel)
{
    sf_unpin_bit(duel->ring, duel->claim.desc, 1); /* as cleaning does: bits, then gen */
    _Atomic uint32_t *gen = &duel->ring->slots[1].gen;
    sf_store_release(gen, sf_load_relaxed(gen) + 1); /* E' */
}

static int
judge_clean(struct duel *duel)
{
    bool lives = duel->got[0][0] != 0, held = duel->got[0][1] != 0;
    duel->att[1]->owner = plain_owner(&duel->plain, 1);
    sf_pin_own_claim(duel->ring, duel->claim.desc, 1);
    return lives ? (held ? 0 : 1) : held ? 3 : 2;
}

TEST(who_is_known_to_be_dead_holds_nothing)
{
    static const char *const outcomes[4] = {"lives", "half cleaned", "dead", "dead and holding"};
    struct duel duel;
    start(&duel, "E'", outcomes, look_if_owner_lives, clean, judge_clean);
    sf_pin_own_claim(duel.ring, duel.claim.desc, 1);
    CHECK_EQ(fight(&duel), 0);
}

/* ---- F: overwrite and copy ---- */

static void
overwrite(struct duel *duel)
{
    (void)sf_retire_locked(duel->ring, duel->claim.desc, true); /* as in the lane: release only */
    sf_fence_release(); /* F, as in claim */
    for (int i = 0; i < WORDS; i++) {
        sf_store_relaxed(&duel->payload[i], duel->round + 1); /* after F */
    }
}

/* The bytes first: what F forbids compilers and CPUs to make of it. */
static void
overwrite_weakly(struct duel *duel)
{
    for (int i = 0; i < WORDS; i++) {
        atomic_store_explicit(&duel->payload[i], duel->round + 1, memory_order_relaxed);
    }
    atomic_store_explicit(&duel->desc->seq, 0, memory_order_relaxed);
}

static void
copy(struct duel *duel)
{
    struct sf_message m = {0};
    uint64_t *got = duel->got[1];
    got[0] = sf_load_acquire(&duel->desc->seq) == duel->seq; /* as look, A */
    m.desc = duel->claim.desc;
    m.seq = duel->seq;
    got[2] = 0;
    for (int i = 0; i < WORDS; i++) {
        got[2] += sf_load_relaxed(&duel->payload[WORDS - 1 - i]) == duel->round + 1; /* before F */
    }
    got[1] = got[0] && sf_is_current(duel->ring, &m);
}

static int
judge_copy(struct duel *duel)
{
    const uint64_t *got = duel->got[1];
    sf_store_seq(&duel->desc->seq, duel->seq); /* alone: a message again */
    return got[1] ? (got[2] == 0 ? 0 : 3) : got[0] ? 1 : 2;
}

static const char *const copy_outcomes[4] = {"whole", "thrown away", "gone", "torn"};

TEST(a_copy_with_a_new_byte_is_thrown_away)
{
    struct duel duel;
    start(&duel, "F", copy_outcomes, overwrite, copy, judge_copy);
    publish_once(&duel);
    CHECK_EQ(fight(&duel), 0);

    struct duel weak;
    start(&weak, "F, weakened", copy_outcomes, overwrite_weakly, copy, judge_copy);
    publish_once(&weak);
    expect_weak(&weak);
}

/* ---- G: unlock and lock ---- */

static void
count_locked(struct duel *duel, int side)
{
    struct sf_attachment *att = duel->att[side];
    uint64_t spins = 0;
    while (sf_lock_try(att) != 0) {
        if (++spins % 4096 == 0) {
            os_yield();
        }
    }
    duel->got[side][0] = sf_load_relaxed(&duel->payload[0]); /* G */
    sf_store_relaxed(&duel->payload[0], duel->got[side][0] + 1); /* G */
    sf_unlock(att);
}

static void
count_first(struct duel *duel)
{
    count_locked(duel, 0);
}

static void
count_second(struct duel *duel)
{
    count_locked(duel, 1);
}

static int
judge_count(struct duel *duel)
{
    bool whole = sf_load_relaxed(&duel->payload[0]) == 2; /* alone */
    sf_store_relaxed(&duel->payload[0], 0); /* alone */
    return whole ? duel->got[1][0] == 0 : 3;
}

TEST(what_was_done_under_the_lock_is_seen_under_the_next)
{
    static const char *const outcomes[4] = {"first, second", "second, first", NULL, "lost"};
    struct duel duel;
    start(&duel, "G", outcomes, count_first, count_second, judge_count);
    CHECK_EQ(fight(&duel), 0);
}

/* ---- H: ring and wait ---- */

static void
publish_and_ring(struct duel *duel)
{
    struct sf_message m = plain_describe(LEN, duel->round + 1);
    (void)sf_publish_locked(duel->ring, duel->claim.desc, &m);
    sf_bell_ring(&duel->ring->header->room); /* room, since its sleeper's half can be called */
}

static void
ring_weakly(struct duel *duel)
{
    struct sf_bell *room = &duel->ring->header->room;
    atomic_store_explicit(&duel->ring->header->head, duel->seq, memory_order_release);
    if (atomic_load_explicit(&room->sleepers, memory_order_acquire) != 0) {
        sf_bell_ring_always(room);
    }
}

static void
listen_and_look(struct duel *duel)
{
    duel->got[1][0] = sf_room_listen(duel->att[1]);
    duel->got[1][1] = sf_load_seq(&duel->ring->header->head) >= duel->seq; /* H */
}

static void
listen_weakly(struct duel *duel)
{
    struct sf_header *h = duel->ring->header;
    duel->got[1][0] = atomic_load_explicit(&h->room.count, memory_order_acquire);
    atomic_store_explicit(&h->room.sleepers, 1, memory_order_release);
    duel->got[1][1] = atomic_load_explicit(&h->head, memory_order_acquire) >= duel->seq;
}

static void
discard_and_ring(struct duel *duel)
{
    sf_discard(duel->ring, duel->claim.desc); /* E, and H */
    sf_bell_ring(&duel->ring->header->room);
}

static void
listen_for_claim(struct duel *duel)
{
    duel->got[1][0] = sf_room_listen(duel->att[1]);
    duel->got[1][1] = sf_load_acquire(&duel->desc->owner) == 0; /* as in space.c */
}

static int
judge_ring(struct duel *duel)
{
    struct sf_bell *room = &duel->ring->header->room;
    bool rung = sf_load_seq(&room->count) != (uint32_t)duel->got[1][0]; /* alone */
    bool news = duel->got[1][1] != 0;
    sf_store_seq(&room->sleepers, 0); /* alone */
    take_back(duel);
    return news ? (rung ? 1 : 0) : rung ? 2 : 3;
}

static const char *const ring_outcomes[4] = {"news", "news and rung", "rung", "asleep for ever"};

TEST(who_waits_sees_the_news_or_is_rung_for)
{
    SKIP_IF_EMULATED
    struct duel duel;
    start(&duel, "H", ring_outcomes, publish_and_ring, listen_and_look, judge_ring);
    CHECK_EQ(fight(&duel), 0);

    struct duel weak;
    start(&weak, "H, weakened", ring_outcomes, ring_weakly, listen_weakly, judge_ring);
    expect_weak(&weak);
}

TEST(who_waits_for_a_claim_sees_it_discarded_or_is_rung_for)
{
    SKIP_IF_EMULATED
    struct duel duel;
    start(&duel, "E, H", ring_outcomes, discard_and_ring, listen_for_claim, judge_ring);
    CHECK_EQ(fight(&duel), 0);
}
