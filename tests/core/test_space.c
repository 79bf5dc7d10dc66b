/* space.c: where blocks go, what makes room for them, and who waits for the lane. */
#include "plain.h"

static uint64_t
put_at(struct plain *p, uint64_t len)
{
    uint64_t seq = plain_put(p, len);
    CHECK_NE(seq, 0);
    return plain_get(p, seq).block_off;
}

/* Fills main with blocks of `len`; the numbers of the messages are 1 to the answer. */
static uint64_t
fill_main(struct plain *p, uint64_t len)
{
    uint64_t count = p->ring.lay.capacity / len;
    for (uint64_t i = 0; i < count; i++) {
        CHECK_EQ(put_at(p, len), i * len);
    }
    return count;
}

TEST(capacities_of_one_two_and_three_messages_go_round)
{
    for (uint64_t fits = 1; fits <= 3; fits++) {
        struct plain p;
        plain_open(&p, fits * 4096, 4096, 63);
        for (uint64_t i = 1; i <= 20; i++) {
            CHECK_EQ(plain_put(&p, 4096), i);
            CHECK_EQ(plain_tail(&p), i > fits ? i - fits + 1 : 1);
            CHECK(plain_get(&p, i).block_off < p.ring.lay.capacity);
            plain_check_history(&p);
        }
        plain_close(&p);
    }
}

TEST(with_a_small_depth_the_same_memory_is_used_again)
{
    struct plain p;
    plain_open(&p, 1 << 20, 4096, 2);
    for (int i = 0; i < 100; i++) {
        CHECK(put_at(&p, 4096) < 4 * 4096);
    }
    plain_close(&p);
}

TEST(an_empty_message_takes_a_line)
{
    struct plain p;
    struct sf_claim claim;
    plain_open(&p, 4096, 0, 4);
    CHECK_EQ(plain_claim(&p, 0, 0, &claim), 0);
    CHECK_EQ(claim.len, 64);
    CHECK_EQ(plain_publish(&p, &claim, 0), 0);
    CHECK_EQ(plain_get(&p, 1).payload_len, 0);
    plain_close(&p);
}

TEST(nothing_is_evicted_for_a_claim_that_finds_no_room)
{
    struct plain p;
    struct sf_claim claim;
    plain_open(&p, 8 * 4096, 4096, 63);
    uint64_t count = fill_main(&p, 4096);
    struct sf_message held = plain_pin(&p, 4, 1); /* in the middle: no run of five */
    CHECK_EQ(sf_claim_locked(&p.ring, plain_owner(&p, 0), 5 * 4096, false, &claim), SF_NO_ROOM);
    CHECK_EQ(plain_tail(&p), 1);
    CHECK_EQ(plain_head(&p), count);
    CHECK_EQ(sf_claim_locked(&p.ring, plain_owner(&p, 0), 4 * 4096, false, &claim), 0);
    CHECK_EQ(claim.off, 4 * 4096);
    CHECK(plain_holds(&p, &held));
    plain_check(&p);
    plain_close(&p);
}

TEST(the_ring_flows_around_held_blocks)
{
    struct plain p;
    plain_open(&p, 16 * 4096, 4096, 63);
    (void)fill_main(&p, 4096);
    struct sf_message held[3] = {plain_pin(&p, 2, 1), plain_pin(&p, 7, 2), plain_pin(&p, 16, 3)};
    for (int i = 0; i < 100; i++) {
        uint64_t off = put_at(&p, 4096);
        CHECK(off < p.ring.lay.capacity);
        for (int j = 0; j < 3; j++) {
            CHECK_NE(off, held[j].block_off);
            CHECK(plain_holds(&p, &held[j]));
        }
        plain_check_history(&p);
    }
    CHECK_EQ(plain_head(&p) - plain_tail(&p) + 1, 13);
    plain_close(&p);
}

TEST(a_retired_block_is_used_again_once_it_is_let_go)
{
    struct plain p;
    plain_open(&p, 4 * 4096, 4096, 63);
    (void)fill_main(&p, 4096);
    struct sf_message held = plain_pin(&p, 1, 1);
    for (int i = 0; i < 10; i++) {
        CHECK_NE(put_at(&p, 4096), 0);
    }
    sf_unpin_bit(&p.ring, held.desc, 1);
    bool used_again = false;
    for (int i = 0; i < 4; i++) {
        used_again |= put_at(&p, 4096) == 0;
    }
    CHECK(used_again);
    plain_close(&p);
}

TEST(when_all_of_main_is_held_messages_go_through_the_lane)
{
    struct plain p;
    plain_open(&p, 4 * 4096, 4096, 63);
    uint64_t count = fill_main(&p, 4096);
    struct sf_message held[4];
    for (uint64_t seq = 1; seq <= count; seq++) {
        held[seq - 1] = plain_pin(&p, seq, 1);
    }
    for (int i = 0; i < 200; i++) {
        CHECK(put_at(&p, 4096) >= p.ring.lay.capacity);
        CHECK(!plain_get(&p, plain_head(&p)).pinnable);
        plain_check_history(&p);
    }
    for (int i = 0; i < 4; i++) {
        CHECK(plain_holds(&p, &held[i]));
        sf_unpin_bit(&p.ring, held[i].desc, 1);
    }
    CHECK_EQ(put_at(&p, 4096), 0);
    plain_check_history(&p);
    plain_close(&p);
}

/* All of main held by slot 9, and a claim of slot 0 over all of the lane. */
static struct sf_claim
fill_everything(struct plain *p)
{
    struct sf_claim lane;
    plain_open(p, 4096, 4096, 63);
    CHECK_EQ(plain_put(p, 4096), 1);
    (void)plain_pin(p, 1, 9);
    CHECK_EQ(plain_claim(p, 0, p->ring.lay.lane_len, &lane), 0);
    CHECK(lane.in_lane);
    plain_check(p);
    return lane;
}

TEST(a_busy_lane_is_no_room_until_its_claim_ends)
{
    struct plain p;
    struct sf_claim claim, lane = fill_everything(&p);
    CHECK_EQ(plain_claim(&p, 1, 64, &claim), SF_NO_ROOM);
    CHECK_EQ(plain_publish(&p, &lane, 4096), 0);
    CHECK_EQ(plain_claim(&p, 1, 64, &claim), 0);
    CHECK(claim.in_lane);
    plain_check(&p);
    plain_close(&p);
}

TEST(who_found_the_lane_busy_goes_first)
{
    struct plain p;
    struct sf_claim claim, lane = fill_everything(&p);
    CHECK_EQ(plain_claim(&p, 1, 4096, &claim), SF_NO_ROOM);
    CHECK_EQ(plain_claim(&p, 2, 64, &claim), SF_NO_ROOM);
    CHECK_EQ(plain_publish(&p, &lane, 4096), 0);
    /* Slot 2 would find room, but slot 1 came first. */
    CHECK_EQ(plain_claim(&p, 2, 64, &claim), SF_NO_ROOM);
    CHECK_EQ(plain_claim(&p, 1, 4096, &claim), 0);
    CHECK_EQ(plain_claim(&p, 2, 64, &claim), 0);
    plain_check(&p);
    plain_close(&p);
}

TEST(who_gives_up_or_dies_loses_the_turn)
{
    struct plain p;
    struct sf_claim claim, lane = fill_everything(&p);
    CHECK_EQ(plain_claim(&p, 1, 4096, &claim), SF_NO_ROOM);
    CHECK_EQ(plain_publish(&p, &lane, 4096), 0);
    CHECK_EQ(plain_claim(&p, 2, 64, &claim), SF_NO_ROOM);
    sf_give_up_turn(&p.ring, plain_owner(&p, 3)); /* not slot 3's to give up */
    CHECK_EQ(plain_claim(&p, 2, 64, &claim), SF_NO_ROOM);
    sf_give_up_turn(&p.ring, plain_owner(&p, 1));
    CHECK_EQ(plain_claim(&p, 2, 64, &claim), 0);
    CHECK_EQ(plain_claim(&p, 1, p.ring.lay.lane_len, &lane), SF_NO_ROOM);
    CHECK_EQ(plain_claim(&p, 3, 64, &claim), SF_NO_ROOM);
    plain_kill(&p, 1);
    CHECK_EQ(plain_claim(&p, 3, 64, &claim), 0);
    plain_check(&p);
    plain_close(&p);
}

TEST(a_turn_in_the_lane_keeps_nobody_from_main)
{
    struct plain p;
    struct sf_claim claim, lane = fill_everything(&p);
    CHECK_EQ(plain_claim(&p, 1, 4096, &claim), SF_NO_ROOM);
    sf_unpin_bit(&p.ring, plain_get(&p, 1).desc, 9);
    CHECK_EQ(plain_claim(&p, 2, 64, &claim), 0);
    CHECK(!claim.in_lane);
    sf_discard(&p.ring, lane.desc);
    plain_check(&p);
    plain_close(&p);
}

TEST(a_discarded_claim_is_free_for_the_writer_that_passes)
{
    struct plain p;
    struct sf_claim claim, other;
    plain_open(&p, 4096, 4096, 63);
    for (int i = 0; i < 300; i++) {
        CHECK_EQ(plain_claim(&p, 0, 4096, &claim), 0);
        CHECK_EQ(claim.off, 0);
        CHECK_EQ(sf_claim_locked(&p.ring, plain_owner(&p, 0), 64, false, &other), SF_NO_ROOM);
        sf_discard(&p.ring, claim.desc);
        plain_check(&p);
    }
    CHECK_EQ(plain_put(&p, 4096), 1);
    plain_close(&p);
}

TEST(the_claims_of_a_dead_owner_are_reaped)
{
    struct plain p;
    struct sf_claim claim;
    plain_open(&p, 4 * 4096, 4096, 63);
    for (int life = 0; life < 10; life++) {
        for (int i = 0; i < 4; i++) {
            CHECK_EQ(plain_claim(&p, 6, 4096, &claim), 0);
            CHECK(!claim.in_lane);
        }
        CHECK_EQ(plain_claim(&p, 6, p.ring.lay.lane_len, &claim), 0);
        CHECK_EQ(plain_claim(&p, 1, 4096, &claim), SF_NO_ROOM);
        sf_give_up_turn(&p.ring, plain_owner(&p, 1));
        plain_kill(&p, 6);
        CHECK_EQ(plain_claim(&p, 1, 4 * 4096, &claim), 0);
        CHECK_EQ(claim.off, 0);
        sf_discard(&p.ring, claim.desc);
        CHECK_EQ(plain_claim(&p, 1, p.ring.lay.lane_len, &claim), 0);
        sf_discard(&p.ring, claim.desc);
        plain_check(&p);
    }
    plain_close(&p);
}

TEST(descriptors_that_run_out_are_found_again)
{
    struct plain p;
    struct sf_claim claim;
    plain_open(&p, 1 << 16, 4096, 63);
    uint32_t descs = p.ring.lay.desc_len;
    for (uint32_t i = 0; i < 63; i++) {
        CHECK_EQ(plain_put(&p, 64), i + 1);
    }
    for (uint32_t i = 63; i < descs; i++) {
        CHECK_EQ(plain_claim(&p, 5, 64, &claim), 0);
    }
    plain_check(&p);
    CHECK_EQ(sf_load_relaxed(&p.ring.header->free_first), SF_NIL);
    CHECK_EQ(plain_tail(&p), 1);
    /* None is free and none is nobody's: the oldest message goes, and no more. */
    CHECK_EQ(plain_put(&p, 64), 64);
    CHECK_EQ(plain_tail(&p), 2);
    /* A claim that was dropped is found before a message has to go. */
    sf_discard(&p.ring, claim.desc);
    CHECK_EQ(plain_put(&p, 64), 65);
    CHECK_EQ(plain_tail(&p), 3); /* for the depth */
    plain_check_history(&p);
    /* One is free since the depth took its message. */
    for (uint64_t left = plain_head(&p) + 1 - plain_tail(&p) + 1; left > 0; left--) {
        CHECK_EQ(plain_claim(&p, 5, 64, &claim), 0);
    }
    CHECK_EQ(plain_claim(&p, 5, 64, &claim), SF_NO_ROOM);
    plain_kill(&p, 5);
    CHECK_NE(plain_put(&p, 64), 0);
    plain_check(&p);
    plain_close(&p);
}

TEST(tables_out_of_range_are_told_and_never_followed)
{
    struct plain p;
    struct sf_claim claim;
#define SPOIL(word, value, blocks)                                                                 \
    do {                                                                                           \
        plain_open(&p, 4 * 4096, 4096, 63);                                                        \
        for (int i = 0; i < 6; i++) {                                                              \
            (void)plain_put(&p, 4096);                                                             \
        }                                                                                          \
        sf_store_relaxed(&p.ring.word, (value));                                                   \
        CHECK_EQ(plain_claim(&p, 0, (blocks) * 4096, &claim), SF_CORRUPT);                         \
        plain_close(&p);                                                                           \
    } while (0)
    SPOIL(header->free_first, 100000, 2);
    SPOIL(header->first[0], 100000, 2);
    SPOIL(header->cursor[0], 100000, 2);
    SPOIL(header->head, 100000, 2);
    SPOIL(header->tail, 0, 2);
    SPOIL(header->tail, 100000, 2);
    SPOIL(descs[0].off, UINT64_MAX, 2);
    SPOIL(descs[0].off, 5 * 4096000, 2);
    SPOIL(descs[0].len, UINT64_MAX, 2);
    SPOIL(descs[0].len, 1 << 20, 2);
    SPOIL(links[0].next, 100000, 2);
    SPOIL(descs[2].seq, 777, 4); /* no such message; two blocks are found around it */
#undef SPOIL
}

TEST(room_at_the_start_among_newer_messages_costs_no_history)
{
    struct plain p;
    plain_open(&p, 16 * 4096, 4096, 63);
    uint64_t count = fill_main(&p, 4096);
    struct sf_message held = plain_pin(&p, 1, 1);
    for (uint64_t i = 0; i < count / 2; i++) {
        (void)put_at(&p, 4096); /* flows around what is held: the newest are behind it now */
    }
    sf_unpin_bit(&p.ring, held.desc, 1);
    CHECK_EQ(put_at(&p, 4096), 0); /* what was held is free, and lies at the start */
    uint64_t retained = plain_head(&p) + 1 - plain_tail(&p);
    for (uint64_t i = 0; i < 2 * count; i++) {
        (void)put_at(&p, 4096);
        CHECK(plain_head(&p) + 1 - plain_tail(&p) >= retained - 1);
    }
    plain_close(&p);
}

TEST(after_a_rebuild_the_oldest_goes_first)
{
    struct plain p;
    struct sf_claim loan;
    plain_open(&p, 16 * 4096, 4096, 63);
    CHECK_EQ(plain_claim(&p, 0, 4096, &loan), 0); /* placed first, numbered last */
    for (int i = 0; i < 15; i++) {
        (void)put_at(&p, 4096);
    }
    CHECK_EQ(plain_publish(&p, &loan, 4096), 0);
    CHECK_EQ(sf_rebuild_locked(&p.ring), 0);
    for (uint64_t seq = 1; seq <= 15; seq++) {
        CHECK_EQ(plain_tail(&p), seq);
        (void)put_at(&p, 4096);
    }
    plain_close(&p);
}

TEST(a_new_message_among_the_old_is_flowed_around)
{
    struct plain p;
    struct sf_claim loan;
    plain_open(&p, 16 * 4096, 4096, 63);
    (void)put_at(&p, 4096);
    CHECK_EQ(plain_claim(&p, 0, 4096, &loan), 0); /* the second place, the newest number */
    for (int i = 0; i < 14; i++) {
        (void)put_at(&p, 4096);
    }
    CHECK_EQ(plain_publish(&p, &loan, 4096), 0);
    struct sf_claim claim;
    CHECK_EQ(plain_claim(&p, 0, 2 * 4096, &claim), 0);
    CHECK_EQ(claim.off, 2 * 4096); /* and not 0, which would have cost all */
    CHECK_EQ(plain_tail(&p), 4);
    plain_check_history(&p);
    plain_close(&p);
}
