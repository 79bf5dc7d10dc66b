/* floor.c: what lossless readers have yet to read stays; writers that meet it compute it anew. */
#include "plain.h"

#include "core/status.h"

enum { SMALL = 64, DEPTH = 8 };

/* As join does it, without a lock. */
static void
be_lossless(struct plain *p, uint32_t slot, uint64_t cursor)
{
    struct sf_participant *s = &p->ring.slots[slot];
    sf_store_relaxed(&s->cursor, cursor); /* one thread, here and below */
    sf_lower_floor_locked(&p->ring, cursor);
    sf_store_relaxed(&s->group, 0); /* as above */
    sf_store_relaxed(&s->policy, SF_POLICY_LOSSLESS);
}

static void
be_member(struct plain *p, uint32_t slot, uint32_t group, uint64_t cursor)
{
    be_lossless(p, slot, 1);
    sf_store_relaxed(&p->ring.groups[group - 1].cursor, cursor); /* one thread */
    sf_store_relaxed(&p->ring.slots[slot].group, group);
}

static void
read_to(struct plain *p, uint32_t slot, uint64_t cursor)
{
    sf_store_relaxed(&p->ring.slots[slot].cursor, cursor); /* one thread */
}

static void
leave(struct plain *p, uint32_t slot)
{
    sf_store_relaxed(&p->ring.slots[slot].policy, 0); /* one thread, both */
    sf_store_relaxed(&p->ring.slots[slot].group, 0);
}

static uint64_t
floor_of(struct plain *p)
{
    return sf_load_relaxed(&p->ring.header->floor_seq); /* one thread */
}

/* 0, or why the message was not written. */
static int
write_one(struct plain *p, uint64_t len)
{
    struct sf_claim claim;
    int status = sf_may_publish_locked(&p->ring);
    if (status == 0) {
        status = plain_claim(p, 0, len, &claim);
    }
    plain_check(p);
    if (status == 0) {
        status = plain_publish(p, &claim, len);
        plain_check(p);
    }
    return status;
}

TEST(without_a_lossless_reader_everything_may_go)
{
    struct plain p;
    plain_open(&p, 1 << 16, 0, DEPTH);
    CHECK_EQ(floor_of(&p), UINT64_MAX);
    CHECK_EQ(sf_floor_without(&p.ring, SF_NIL), UINT64_MAX);
    CHECK(sf_may_evict_locked(&p.ring, 1));
    CHECK(sf_may_evict_locked(&p.ring, UINT64_MAX - 1));
    for (int i = 0; i < 100; i++) {
        CHECK_EQ(write_one(&p, SMALL), 0);
    }
    plain_close(&p);
}

TEST(the_floor_is_the_lowest_cursor)
{
    struct plain p;
    plain_open(&p, 1 << 16, 0, DEPTH);
    be_lossless(&p, 3, 7);
    CHECK_EQ(floor_of(&p), 7);
    be_lossless(&p, 63, 4);
    CHECK_EQ(floor_of(&p), 4);
    be_lossless(&p, 1, 9); /* a higher one lowers nothing */
    CHECK_EQ(floor_of(&p), 4);
    CHECK_EQ(sf_floor_without(&p.ring, SF_NIL), 4);
    CHECK_EQ(sf_floor_without(&p.ring, 63), 7);
    CHECK_EQ(sf_floor_without(&p.ring, 3), 4);
    be_member(&p, 5, 16, 3); /* its own cursor does not count */
    CHECK_EQ(sf_floor_without(&p.ring, SF_NIL), 3);
    CHECK_EQ(sf_cursor_of(&p.ring, 5), &p.ring.groups[15].cursor);
    plain_close(&p);
}

TEST(the_floor_rises_when_somebody_runs_into_it_and_not_before)
{
    struct plain p;
    plain_open(&p, 1 << 16, 0, DEPTH);
    be_lossless(&p, 3, 1);
    read_to(&p, 3, 6);
    CHECK_EQ(floor_of(&p), 1);
    CHECK(!sf_may_evict_locked(&p.ring, 6)); /* computed: 6 is what it has yet to read */
    CHECK_EQ(floor_of(&p), 6);
    CHECK(sf_may_evict_locked(&p.ring, 5));
    read_to(&p, 3, 8);
    CHECK(sf_may_evict_locked(&p.ring, 5));
    CHECK_EQ(floor_of(&p), 6); /* it was not in the way */
    CHECK(sf_raise_floor_locked(&p.ring));
    CHECK_EQ(floor_of(&p), 8);
    CHECK(!sf_raise_floor_locked(&p.ring));
    leave(&p, 3);
    CHECK(sf_raise_floor_locked(&p.ring));
    CHECK_EQ(floor_of(&p), UINT64_MAX);
    plain_close(&p);
}

/* A floor that turns out lower than the stored one is stored, and raises nothing. */
TEST(a_floor_that_falls_was_not_raised)
{
    struct plain p;
    plain_open(&p, 1 << 16, 0, DEPTH);
    be_lossless(&p, 3, 5);
    sf_store_relaxed(&p.ring.header->floor_seq, 9); /* damage */
    CHECK(!sf_raise_floor_locked(&p.ring));
    CHECK_EQ(floor_of(&p), 5);
    plain_close(&p);
}

TEST(at_the_depth_a_writer_is_told_that_somebody_lags)
{
    struct plain p;
    plain_open(&p, 1 << 16, 0, DEPTH);
    be_lossless(&p, 2, 1);
    for (int i = 0; i < DEPTH; i++) {
        CHECK_EQ(write_one(&p, SMALL), 0);
    }
    CHECK_EQ(write_one(&p, SMALL), SF_LAGGING);
    CHECK_EQ(plain_head(&p), DEPTH);
    CHECK_EQ(plain_tail(&p), 1);
    read_to(&p, 2, 3);
    CHECK_EQ(write_one(&p, SMALL), 0);
    CHECK_EQ(write_one(&p, SMALL), 0);
    CHECK_EQ(write_one(&p, SMALL), SF_LAGGING);
    CHECK_EQ(plain_tail(&p), 3);
    leave(&p, 2);
    CHECK_EQ(write_one(&p, SMALL), 0);
    plain_check_history(&p);
    plain_close(&p);
}

/* Publishing itself keeps to the floor: nothing is stored when it refuses. */
TEST(a_claim_in_hand_is_not_numbered_past_the_floor)
{
    struct plain p;
    struct sf_claim claim;
    plain_open(&p, 1 << 16, 0, DEPTH);
    be_lossless(&p, 2, 1);
    for (int i = 0; i < DEPTH; i++) {
        CHECK_EQ(write_one(&p, SMALL), 0);
    }
    CHECK_EQ(plain_claim(&p, 0, 8192, &claim), 0);
    CHECK_EQ(plain_publish(&p, &claim, 8192), SF_LAGGING);
    plain_check(&p);
    CHECK_EQ(plain_head(&p), DEPTH);
    CHECK_EQ(plain_tail(&p), 1);
    CHECK_EQ(sf_load_relaxed(&p.ring.descs[claim.desc].seq), 0); /* one thread */
    read_to(&p, 2, 2);
    CHECK_EQ(plain_publish(&p, &claim, 8192), 0);
    plain_check_history(&p);
    plain_close(&p);
}

TEST(room_is_made_of_what_was_read_and_of_nothing_else)
{
    struct plain p;
    plain_open(&p, 1 << 14, 1 << 12, 0);
    be_lossless(&p, 2, 1);
    uint64_t written = 0;
    while (write_one(&p, 2048) == 0) {
        REQUIRE(++written < 100);
    }
    CHECK(written >= 8); /* main, and some of the lane */
    CHECK_EQ(write_one(&p, 2048), SF_LAGGING);
    CHECK_EQ(plain_tail(&p), 1);
    read_to(&p, 2, 4);
    CHECK_EQ(write_one(&p, 2048), 0);
    CHECK(plain_tail(&p) <= 4);
    read_to(&p, 2, plain_head(&p) + 1);
    CHECK_EQ(write_one(&p, 1 << 12), 0);
    plain_check_history(&p);
    plain_close(&p);
}

/* What is held is no lossless reader's fault. */
TEST(room_that_views_hold_is_told_as_no_room)
{
    struct plain p;
    struct sf_claim claim;
    plain_open(&p, 1 << 15, 1 << 13, 0);
    for (uint64_t seq = 1; seq <= 4; seq++) {
        CHECK_EQ(write_one(&p, 1 << 13), 0);
        (void)plain_pin(&p, seq, 4);
    }
    be_lossless(&p, 2, plain_head(&p) + 1);
    CHECK_EQ(sf_claim_locked(&p.ring, plain_owner(&p, 0), 1 << 13, SF_LANE_NEVER, &claim),
             SF_NO_ROOM);
    CHECK_EQ(write_one(&p, 1 << 12), 0); /* by the lane */
    plain_close(&p);
}

static void
try_near(uint64_t head)
{
    struct plain p;
    plain_open(&p, 1 << 16, 0, DEPTH);
    plain_start_at(&p, head);
    be_lossless(&p, 2, head + 1);
    be_member(&p, 3, 1, head + 1);
    for (int i = 0; i < DEPTH; i++) {
        CHECK_EQ(write_one(&p, SMALL), 0);
    }
    CHECK_EQ(write_one(&p, SMALL), SF_LAGGING);
    for (uint64_t seq = head + 1; seq < head + 3 * DEPTH; seq++) {
        read_to(&p, 2, seq + 1);
        CHECK_EQ(write_one(&p, SMALL), SF_LAGGING); /* the group has not */
        CHECK_EQ(sf_floor_without(&p.ring, SF_NIL), seq);
        sf_store_relaxed(&p.ring.groups[0].cursor, seq + 1); /* one thread */
        CHECK_EQ(write_one(&p, SMALL), 0);
        CHECK_EQ(floor_of(&p), seq + 1);
        CHECK_EQ(plain_tail(&p), seq + 1);
    }
    plain_check_history(&p);
    plain_close(&p);
}

TEST(numbers_near_two_to_the_32_and_63_are_like_any_other)
{
    try_near((UINT64_C(1) << 32) - DEPTH - 3);
    try_near((UINT64_C(1) << 63) - DEPTH - 3);
}

TEST(rebuild_computes_the_floor)
{
    struct plain p;
    plain_open(&p, 1 << 16, 0, DEPTH);
    be_lossless(&p, 2, 1);
    CHECK_EQ(write_one(&p, SMALL), 0);
    CHECK_EQ(write_one(&p, SMALL), 0);
    read_to(&p, 2, 2);
    sf_store_relaxed(&p.ring.header->floor_seq, 0); /* a death may leave it too low */
    REQUIRE_EQ(sf_rebuild_locked(&p.ring), 0);
    CHECK_EQ(floor_of(&p), 2);
    sf_store_relaxed(&p.ring.header->floor_seq, 77); /* damage, too high */
    REQUIRE_EQ(sf_rebuild_locked(&p.ring), 0);
    CHECK_EQ(floor_of(&p), 2);
    leave(&p, 2);
    REQUIRE_EQ(sf_rebuild_locked(&p.ring), 0);
    CHECK_EQ(floor_of(&p), UINT64_MAX);
    plain_check(&p);
    plain_close(&p);
}

/* ---- words that lie ---- */

TEST(a_group_number_or_a_policy_out_of_range_is_nobodys)
{
    static const uint32_t numbers[] = {17, 18, 0x7fffffff, 0x80000000, UINT32_MAX};
    struct plain p;
    plain_open(&p, 1 << 16, 0, DEPTH);
    be_lossless(&p, 2, 5);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        sf_store_relaxed(&p.ring.slots[2].group, numbers[i]); /* one thread */
        CHECK_EQ(sf_cursor_of(&p.ring, 2), &p.ring.slots[2].cursor);
        CHECK_EQ(sf_floor_without(&p.ring, SF_NIL), 5);
        sf_store_relaxed(&p.ring.slots[4].policy, numbers[i]); /* as above */
        CHECK_EQ(sf_floor_without(&p.ring, SF_NIL), 5);
    }
    CHECK_EQ(sf_floor_without(&p.ring, UINT32_MAX - 1), 5);
    plain_close(&p);
}

TEST(a_cursor_that_lies_costs_room_and_nothing_else)
{
    static const uint64_t cursors[] = {0, 1, UINT64_C(1) << 63, UINT64_MAX - 1, UINT64_MAX};
    for (size_t i = 0; i < sizeof cursors / sizeof cursors[0]; i++) {
        struct plain p;
        plain_open(&p, 1 << 14, 1 << 12, DEPTH);
        be_lossless(&p, 2, cursors[i]);
        for (int round = 0; round < 50; round++) {
            int status = write_one(&p, round % 2 == 0 ? SMALL : 1 << 12);
            CHECK(status == 0 || status == SF_LAGGING);
            CHECK(status == 0 || cursors[i] <= 1);
        }
        plain_check_history(&p);
        leave(&p, 2);
        CHECK_EQ(write_one(&p, 1 << 12), 0);
        plain_close(&p);
    }
}

/* Whatever the floor says, a claim evicts no more than there is, and refuses or succeeds. */
TEST(a_floor_that_lies_is_bounded)
{
    static const uint64_t floors[] = {0, 1, 5, UINT64_C(1) << 63, UINT64_MAX};
    uint64_t state = 88172645463325252;
    struct plain p;
    plain_open(&p, 1 << 14, 1 << 12, DEPTH);
    for (int round = 0; round < 2000; round++) {
        uint64_t random = random_next(&state);
        sf_store_relaxed(&p.ring.header->floor_seq, floors[random % 5]); /* one thread */
        struct sf_claim claim;
        int status = sf_may_publish_locked(&p.ring);
        status = status < 0 ? status : plain_claim(&p, 0, 64 + random / 5 % 4000, &claim);
        REQUIRE(status == 0 || status == SF_LAGGING);
        if (status == 0) {
            CHECK_EQ(plain_publish(&p, &claim, 64), 0);
        }
        if (random % 16 == 0) {
            be_lossless(&p, 1, plain_head(&p) - random / 16 % DEPTH);
        }
        else if (random % 16 < 8) {
            leave(&p, 1);
        }
    }
    leave(&p, 1);
    REQUIRE_EQ(sf_rebuild_locked(&p.ring), 0);
    plain_check_history(&p);
    plain_close(&p);
}

/* Who reads as fast as it is written to is in nobody's way, though the stored floor says so. */
TEST(an_old_floor_sends_no_message_through_the_lane)
{
    struct plain p;
    struct sf_claim claim;
    plain_open(&p, 16 * 4096, 4 * 4096, 0);
    be_lossless(&p, 2, 1);
    for (uint64_t seq = 1; seq <= 200; seq++) {
        CHECK_EQ(plain_claim(&p, 0, 4096, &claim), 0);
        CHECK(!claim.in_lane);
        CHECK_EQ(plain_publish(&p, &claim, 4096), 0);
        read_to(&p, 2, seq + 1);
    }
    CHECK_EQ(plain_head(&p) + 1 - plain_tail(&p), 16);
    plain_check_history(&p);
    plain_close(&p);
}

/* The lane asks as well: with main held, an old floor in the lane makes nobody wait. */
TEST(an_old_floor_in_the_lane_is_no_lag)
{
    struct plain p;
    struct sf_claim claim;
    plain_open(&p, 4096, 4096, 63);
    CHECK_NE(plain_put(&p, 4096), 0);
    (void)plain_pin(&p, 1, 9);
    be_lossless(&p, 2, 2);
    CHECK_EQ(plain_claim(&p, 0, p.ring.lay.lane_len, &claim), 0);
    CHECK(claim.in_lane);
    CHECK_EQ(plain_publish(&p, &claim, 64), 0);
    CHECK_EQ(plain_claim(&p, 0, 64, &claim), SF_LAGGING);
    read_to(&p, 2, 3);
    CHECK_EQ(plain_claim(&p, 0, 64, &claim), 0);
    CHECK(claim.in_lane);
    plain_check(&p);
    plain_close(&p);
}

/* A claim that finds no descriptor frees the oldest of what was read. */
TEST(descriptors_come_free_of_what_was_read_since)
{
    struct plain p;
    struct sf_claim claim;
    plain_open(&p, 1 << 16, 4096, 63);
    be_lossless(&p, 2, 1);
    for (uint64_t i = 0; i < 8; i++) {
        CHECK_NE(plain_put(&p, 64), 0);
    }
    while (sf_load_relaxed(&p.ring.header->free_first) != SF_NIL) { /* one thread */
        CHECK_EQ(plain_claim(&p, 5, 64, &claim), 0);
    }
    CHECK_EQ(plain_claim(&p, 5, 64, &claim), SF_LAGGING);
    CHECK_EQ(plain_tail(&p), 1);
    read_to(&p, 2, 4);
    CHECK_EQ(plain_claim(&p, 5, 64, &claim), 0);
    CHECK_EQ(plain_tail(&p), 2); /* and no more than was needed */
    plain_check_history(&p);
    plain_close(&p);
}
