/* rebuild.c: whatever state the tables were left in, the descriptor table tells the rest. */
#include "plain.h"

/* Six messages of mixed sizes, of which 3 to 6 are retained; 4 is held, one claim is open. */
static struct sf_claim
busy_ring(struct plain *p, struct sf_message *held)
{
    struct sf_claim claim;
    plain_open(p, 1 << 16, 1 << 13, 4);
    plain_start_at(p, 100);
    for (uint64_t i = 1; i <= 6; i++) {
        CHECK_EQ(plain_put(p, 4000 + i * 100), 100 + i);
    }
    *held = plain_pin(p, 104, 20);
    CHECK_EQ(plain_claim(p, 2, 5000, &claim), 0);
    bytes_fill(plain_bytes(p, claim.off), 5000, 999);
    plain_check(p);
    return claim;
}

static void
check_busy_ring(struct plain *p, const struct sf_message *held, const struct sf_claim *claim)
{
    CHECK_EQ(plain_tail(p), 103);
    CHECK_EQ(plain_head(p), 106);
    plain_check_history(p);
    CHECK(plain_holds(p, held));
    CHECK(sf_is_held(&p->ring, held->desc));
    CHECK(bytes_hold(plain_bytes(p, claim->off), 5000, 999));
    CHECK_EQ(sf_load_relaxed(&p->ring.descs[claim->desc].owner), plain_owner(p, 2));
}

/* Goes on for a while, and in the end gives everything back. */
static void
check_goes_on(struct plain *p, const struct sf_message *held, const struct sf_claim *claim)
{
    struct sf_claim all;
    uint64_t head = plain_head(p);
    CHECK_EQ(plain_publish(p, claim, 5000), 0);
    for (uint64_t i = 2; i <= 40; i++) {
        CHECK_EQ(plain_put(p, i * 200), head + i);
        CHECK(plain_holds(p, held));
        plain_check_history(p);
    }
    sf_unpin_bit(&p->ring, held->desc, 20);
    CHECK_EQ(sf_claim_locked(&p->ring, plain_owner(p, 0), p->ring.lay.capacity, false, &all), 0);
    CHECK_EQ(all.off, 0);
    plain_check(p);
}

TEST(rebuilding_what_is_whole_changes_nothing)
{
    struct plain p;
    struct sf_message held;
    struct sf_claim claim = busy_ring(&p, &held);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(sf_rebuild_locked(&p.ring), 0);
        plain_check(&p);
        check_busy_ring(&p, &held, &claim);
    }
    check_goes_on(&p, &held, &claim);
    plain_close(&p);
}

TEST(a_second_rebuild_stores_what_the_first_did)
{
    struct plain p;
    struct sf_message held;
    (void)busy_ring(&p, &held);
    plain_kill(&p, 2);
    CHECK_EQ(sf_rebuild_locked(&p.ring), 0);
    char *first = malloc(p.ring.lay.arena_off);
    REQUIRE(first != NULL);
    memcpy(first, p.memory, p.ring.lay.arena_off);
    CHECK_EQ(sf_rebuild_locked(&p.ring), 0);
    sf_store_relaxed(&p.ring.header->rebuilds, sf_load_relaxed(&p.ring.header->rebuilds) - 1);
    CHECK_MEM(p.memory, first, p.ring.lay.arena_off);
    free(first);
    plain_close(&p);
}

TEST(garbage_in_all_derived_words_is_repaired)
{
    static const uint32_t garbage[] = {0, 1, 5, SF_NIL, SF_NIL - 1, 0x55555555};
    for (size_t i = 0; i < sizeof garbage / sizeof garbage[0]; i++) {
        struct plain p;
        struct sf_message held;
        struct sf_claim claim = busy_ring(&p, &held);
        struct sf_header *h = p.ring.header;
        uint32_t word = garbage[i];
        for (uint32_t desc = 0; desc < p.ring.lay.desc_len; desc++) {
            sf_store_relaxed(&p.ring.links[desc].prev, word);
            sf_store_relaxed(&p.ring.links[desc].next, word + desc % 3);
            sf_store_relaxed(&p.ring.scratch[desc], word);
        }
        for (uint32_t at = 0; at < p.ring.lay.index_len; at++) {
            sf_store_relaxed(&p.ring.index[at], word);
        }
        for (int area = 0; area < 2; area++) {
            sf_store_relaxed(&h->first[area], word);
            sf_store_relaxed(&h->cursor[area], word);
        }
        sf_store_relaxed(&h->free_first, word);
        sf_store_relaxed(&h->tail, word);
        CHECK_EQ(sf_rebuild_locked(&p.ring), 0);
        plain_check(&p);
        check_busy_ring(&p, &held, &claim);
        check_goes_on(&p, &held, &claim);
        plain_close(&p);
    }
}

TEST(a_message_whose_head_was_not_stored_is_published)
{
    struct plain p;
    struct sf_message held;
    struct sf_claim claim = busy_ring(&p, &held);
    /* As after edge A: seq is stored; owner, index and head may or may not be. */
    sf_store_relaxed(&p.ring.header->head, 105);
    sf_store_relaxed(&p.ring.descs[plain_get(&p, 106).desc].owner, plain_owner(&p, 0));
    sf_store_relaxed(&p.ring.index[106 % p.ring.lay.index_len], 0);
    CHECK_EQ(sf_rebuild_locked(&p.ring), 0);
    plain_check(&p);
    check_busy_ring(&p, &held, &claim);
    check_goes_on(&p, &held, &claim);
    plain_close(&p);
}

TEST(a_tail_behind_what_was_evicted_moves_on)
{
    struct plain p;
    struct sf_message held;
    struct sf_claim claim = busy_ring(&p, &held);
    CHECK(sf_retire_locked(&p.ring, plain_get(&p, 103).desc, false));
    CHECK(!sf_retire_locked(&p.ring, held.desc, false));
    CHECK_EQ(plain_tail(&p), 103);
    CHECK_EQ(sf_rebuild_locked(&p.ring), 0);
    plain_check(&p);
    CHECK_EQ(plain_tail(&p), 105);
    CHECK(plain_holds(&p, &held));
    plain_check_history(&p);
    check_goes_on(&p, &held, &claim);
    plain_close(&p);
}

TEST(the_claims_of_the_dead_are_freed_and_those_of_the_living_stay)
{
    struct plain p;
    struct sf_message held;
    struct sf_claim dead, claim = busy_ring(&p, &held);
    CHECK_EQ(plain_claim(&p, 3, 3000, &dead), 0);
    plain_kill(&p, 3);
    CHECK_EQ(sf_rebuild_locked(&p.ring), 0);
    CHECK_EQ(sf_load_relaxed(&p.ring.descs[dead.desc].len), 0);
    check_busy_ring(&p, &held, &claim);
    check_goes_on(&p, &held, &claim);
    plain_close(&p);
}

TEST(history_is_what_hangs_together_below_head)
{
    struct plain p;
    struct sf_message held;
    struct sf_claim claim = busy_ring(&p, &held);
    sf_store_relaxed(&p.ring.descs[plain_get(&p, 105).desc].seq, 0);
    CHECK_EQ(sf_rebuild_locked(&p.ring), 0);
    plain_check(&p);
    CHECK_EQ(plain_tail(&p), 106);
    CHECK_EQ(plain_head(&p), 106);
    CHECK(plain_holds(&p, &held));
    check_goes_on(&p, &held, &claim);
    plain_close(&p);
}

TEST(two_blocks_with_one_number_become_one_message)
{
    struct plain p;
    struct sf_message held;
    struct sf_claim claim = busy_ring(&p, &held);
    sf_store_relaxed(&p.ring.descs[plain_get(&p, 103).desc].seq, 106);
    CHECK_EQ(sf_rebuild_locked(&p.ring), 0);
    plain_check(&p);
    CHECK_EQ(plain_tail(&p), 104);
    check_goes_on(&p, &held, &claim);
    plain_close(&p);
}

TEST(tables_that_contradict_themselves_are_corrupt)
{
    struct plain p;
    struct sf_message held;
    struct sf_claim claim = busy_ring(&p, &held);
    uint32_t a = plain_get(&p, 105).desc, b = plain_get(&p, 106).desc;
    struct sf_desc was;
    memcpy((void *)&was, (const void *)&p.ring.descs[a], sizeof was);
    uint64_t off_b = sf_load_relaxed(&p.ring.descs[b].off);
    uint64_t capacity = p.ring.lay.capacity, arena = capacity + p.ring.lay.lane_len;
#define CORRUPT(field, value)                                                                      \
    sf_store_relaxed(&p.ring.descs[a].field, (value));                                             \
    CHECK_EQ(sf_rebuild_locked(&p.ring), SF_CORRUPT);                                              \
    memcpy((void *)&p.ring.descs[a], (const void *)&was, sizeof was)
    CORRUPT(off, off_b);
    CORRUPT(off, off_b + 64);
    CORRUPT(off, off_b - 64);
    CORRUPT(off, 1);
    CORRUPT(off, arena);
    CORRUPT(off, UINT64_MAX - 63);
    CORRUPT(off, capacity - 64); /* out of main, into the lane */
    CORRUPT(len, 63);
    CORRUPT(len, arena);
    CORRUPT(len, UINT64_MAX - 63);
    CORRUPT(len, 1 << 15);
    CORRUPT(seq, 108);
    CORRUPT(seq, UINT64_MAX);
#undef CORRUPT
    CHECK_EQ(sf_rebuild_locked(&p.ring), 0);
    check_busy_ring(&p, &held, &claim);
    plain_close(&p);
}

TEST(any_garbage_in_the_table_ends_with_an_answer)
{
    uint64_t state = 4711;
    int mended = 0, corrupt = 0;
    for (int round = 0; round < 3000; round++) {
        struct plain p;
        struct sf_message held;
        struct sf_claim claim;
        (void)busy_ring(&p, &held);
        uint64_t *words = (uint64_t *)(void *)p.ring.descs;
        for (uint64_t i = random_next(&state) % 4 + 1; i > 0; i--) {
            uint64_t at = random_next(&state) % (16 * 8); /* the descriptors in use */
            words[at] ^= UINT64_C(1) << random_next(&state) % 64;
        }
        int status = sf_rebuild_locked(&p.ring);
        if (status == 0) {
            mended++;
            plain_check(&p);
            for (int i = 0; i < 10; i++) {
                status = plain_claim(&p, 0, random_next(&state) % 9000, &claim);
                CHECK(status == 0 || status == SF_NO_ROOM);
                CHECK(status < 0 || plain_publish(&p, &claim, 0) == 0);
            }
            plain_check(&p);
        }
        else {
            CHECK_EQ(status, SF_CORRUPT);
            corrupt++;
        }
        plain_close(&p);
    }
    CHECK(mended > 300);
    CHECK(corrupt > 300);
}
