/* ring.c: numbers, order, loss, pins; over plain memory, also with numbers near 2^32, 2^63, 2^64. */
#include "plain.h"

static const uint64_t starts[] = {
    0,
    UINT32_MAX - 5,
    (UINT64_C(1) << 63) - 20,
    UINT64_MAX - 99,
};
#define EACH_START(start)                                                                          \
    for (size_t at_ = 0; at_ < sizeof starts / sizeof starts[0]; at_++)                            \
        for (uint64_t start = starts[at_], once_ = 1; once_; once_ = 0)

static struct sf_message
look(struct plain *p, uint64_t cursor, int expected)
{
    struct sf_message m = {0};
    CHECK_EQ(sf_look(&p->ring, cursor, &m), expected);
    return m;
}

static struct sf_message
newest(struct plain *p, uint64_t cursor, int expected)
{
    struct sf_message m = {0};
    CHECK_EQ(sf_look_newest(&p->ring, cursor, &m), expected);
    return m;
}

TEST(an_empty_ring_has_no_message)
{
    EACH_START(start)
    {
        struct plain p;
        plain_open(&p, 1 << 16, 0, 8);
        plain_start_at(&p, start);
        CHECK_EQ(look(&p, start + 1, SF_EMPTY).lost, 0);
        CHECK_EQ(newest(&p, start + 1, SF_EMPTY).lost, 0);
        plain_close(&p);
    }
}

TEST(messages_are_found_in_the_order_of_their_numbers)
{
    EACH_START(start)
    {
        struct plain p;
        plain_open(&p, 1 << 16, 0, 16);
        plain_start_at(&p, start);
        for (uint64_t i = 1; i <= 40; i++) {
            CHECK_EQ(plain_put(&p, i * 10), start + i);
            struct sf_message m = plain_get(&p, start + i);
            CHECK_EQ(m.payload_len, i * 10);
            CHECK_EQ(m.shape[0], i * 10);
            CHECK_EQ(m.stamp_ns, i);
            CHECK_EQ(m.ndim, 1);
            CHECK_EQ(m.dtype_len, 3);
            CHECK_EQ(m.dtype[0], 0x317569);
            CHECK_EQ(m.writer_pid, 7);
            CHECK_EQ(m.fortran, 0);
            (void)look(&p, start + i + 1, SF_EMPTY);
        }
        plain_check_history(&p);
        plain_close(&p);
    }
}

TEST(a_lapped_reader_is_told_how_many_it_lost)
{
    EACH_START(start)
    {
        for (uint64_t depth = 1; depth <= 9; depth++) {
            struct plain p;
            plain_open(&p, 1 << 16, 0, depth);
            plain_start_at(&p, start);
            for (uint64_t i = 1; i <= 30; i++) {
                (void)plain_put(&p, 100);
                uint64_t oldest = i > depth ? start + i - depth + 1 : start + 1;
                CHECK_EQ(plain_tail(&p), oldest);
                for (uint64_t cursor = start + 1; cursor <= start + i; cursor++) {
                    struct sf_message m = look(&p, cursor, 0);
                    uint64_t expected = cursor > oldest ? cursor : oldest;
                    CHECK_EQ(m.seq, expected);
                    CHECK_EQ(m.lost, expected - cursor);
                    CHECK(plain_holds(&p, &m));
                }
            }
            plain_close(&p);
        }
    }
}

TEST(the_newest_splits_what_was_passed_into_lost_and_skipped)
{
    EACH_START(start)
    {
        struct plain p;
        plain_open(&p, 1 << 16, 0, 4);
        plain_start_at(&p, start);
        for (uint64_t i = 1; i <= 10; i++) {
            (void)plain_put(&p, 64);
        }
        for (uint64_t cursor = start + 1; cursor <= start + 10; cursor++) {
            struct sf_message m = newest(&p, cursor, 0);
            uint64_t lost = cursor < start + 7 ? start + 7 - cursor : 0;
            CHECK_EQ(m.seq, start + 10);
            CHECK_EQ(m.lost, lost);
            CHECK_EQ(m.skipped, start + 10 - cursor - lost);
        }
        (void)newest(&p, start + 11, SF_EMPTY);
        plain_close(&p);
    }
}

TEST(a_depth_of_one_keeps_the_last_message_only)
{
    struct plain p;
    plain_open(&p, 4096, 0, 1);
    for (uint64_t i = 1; i <= 20; i++) {
        CHECK_EQ(plain_put(&p, 300), i);
        CHECK_EQ(plain_tail(&p), i);
        CHECK_EQ(look(&p, 1, 0).seq, i);
    }
    plain_close(&p);
}

TEST(looking_for_number_zero_finds_the_oldest_and_never_a_claim)
{
    struct plain p;
    struct sf_claim claim;
    plain_open(&p, 1 << 16, 0, 4);
    CHECK_EQ(plain_claim(&p, 0, 100, &claim), 0);
    (void)look(&p, 0, SF_EMPTY);
    CHECK_EQ(plain_publish(&p, &claim, 100), 0);
    CHECK_EQ(look(&p, 0, 0).seq, 1);
    plain_close(&p);
}

TEST(a_claim_is_invisible_until_it_is_published)
{
    struct plain p;
    struct sf_claim first, second;
    plain_open(&p, 1 << 16, 0, 4);
    CHECK_EQ(plain_claim(&p, 0, 100, &first), 0);
    CHECK_EQ(plain_claim(&p, 1, 100, &second), 0);
    (void)look(&p, 1, SF_EMPTY);
    /* Numbers are given at publication, whoever claimed first. */
    CHECK_EQ(plain_publish(&p, &second, 90), 0);
    CHECK_EQ(plain_get(&p, 1).desc, second.desc);
    CHECK_EQ(plain_publish(&p, &first, 80), 0);
    CHECK_EQ(plain_get(&p, 2).desc, first.desc);
    plain_check(&p);
    plain_close(&p);
}

TEST(what_is_retired_while_a_reader_looks_at_it_is_noticed)
{
    struct plain p;
    plain_open(&p, 1 << 16, 0, 1);
    (void)plain_put(&p, 5000);
    struct sf_message m = plain_get(&p, 1);
    CHECK(sf_is_current(&p.ring, &m));
    (void)plain_put(&p, 5000);
    CHECK(!sf_is_current(&p.ring, &m));
    CHECK(!sf_pin_bit(&p.ring, m.desc, 3, 1));
    CHECK(!sf_is_held(&p.ring, m.desc));
    plain_close(&p);
}

TEST(a_pin_that_comes_too_late_leaves_no_bit)
{
    struct plain p;
    plain_open(&p, 4096, 0, 1);
    for (uint64_t i = 1; i <= 5; i++) {
        (void)plain_put(&p, 64);
        for (uint32_t desc = 0; desc < p.ring.lay.desc_len; desc++) {
            CHECK_EQ(sf_pin_bit(&p.ring, desc, 63, i + 1), 0);
            CHECK(!sf_is_held(&p.ring, desc));
        }
    }
    plain_close(&p);
}

TEST(a_pinned_message_keeps_its_bytes_after_it_is_lost)
{
    EACH_START(start)
    {
        struct plain p;
        plain_open(&p, 1 << 15, 1024, 2);
        plain_start_at(&p, start);
        (void)plain_put(&p, 5000);
        struct sf_message held = plain_pin(&p, start + 1, 5);
        CHECK(held.pinnable);
        for (int i = 0; i < 50; i++) {
            CHECK_NE(plain_put(&p, 4000), 0);
            CHECK(plain_holds(&p, &held));
        }
        CHECK_EQ(look(&p, start + 1, 0).lost, 49);
        sf_unpin_bit(&p.ring, held.desc, 5);
        plain_check_history(&p);
        plain_close(&p);
    }
}

TEST(each_participant_has_a_bit_of_its_own)
{
    struct sf_params params = {.capacity = 4096, .depth = 1, .max_participants = 1024};
    struct plain p = {.next_tag = 1};
    struct sf_layout layout;
    REQUIRE_EQ(sf_layout_compute(&params, &layout), 0);
    p.memory = aligned_alloc(SF_ARENA_ALIGN, sf_round_up(layout.file_len, SF_ARENA_ALIGN));
    REQUIRE(p.memory != NULL);
    memset(p.memory, 0, layout.file_len);
    sf_ring_bind(&p.ring, &layout, p.memory);
    REQUIRE_EQ(sf_rebuild_locked(&p.ring), 0);
    (void)plain_put(&p, 64);
    struct sf_message m = plain_get(&p, 1);
    for (uint32_t slot = 0; slot < 1024; slot++) {
        CHECK(sf_pin_bit(&p.ring, m.desc, slot, 1));
    }
    for (uint32_t slot = 0; slot < 1024; slot++) {
        CHECK(sf_is_held(&p.ring, m.desc));
        sf_unpin_bit(&p.ring, m.desc, slot);
    }
    CHECK(!sf_is_held(&p.ring, m.desc));
    /* The words of other blocks are others. */
    for (uint32_t desc = 0; desc < layout.desc_len; desc++) {
        CHECK(!sf_is_held(&p.ring, desc));
    }
    plain_close(&p);
}

TEST(only_large_messages_in_main_are_pinnable)
{
    struct plain p;
    plain_open(&p, 1 << 16, 0, 4);
    (void)plain_put(&p, p.ring.lay.threshold - 1);
    CHECK(!plain_get(&p, 1).pinnable);
    (void)plain_put(&p, p.ring.lay.threshold);
    CHECK(plain_get(&p, 2).pinnable);
    plain_close(&p);
}

TEST(a_description_out_of_range_is_a_bad_message)
{
    struct plain p;
    plain_open(&p, 1 << 16, 0, 4);
    (void)plain_put(&p, 200);
    struct sf_desc *d = &p.ring.descs[plain_get(&p, 1).desc];
    struct sf_desc was;
    memcpy((void *)&was, (const void *)d, sizeof was);
#define GARBLE(field, value)                                                                       \
    sf_store_relaxed(&d->field, (value));                                                          \
    CHECK_EQ(look(&p, 1, SF_BAD_MESSAGE).seq, 1);                                                  \
    memcpy((void *)d, (const void *)&was, sizeof was)
    GARBLE(kind, 33);
    GARBLE(kind, 1 | (SF_MAX_DTYPE + 1) << 16);
    GARBLE(meta_len, SF_MAX_META + 1);
    GARBLE(meta_len, UINT32_MAX);
    GARBLE(meta_len, 300);
    GARBLE(payload_len, 1 << 20);
    GARBLE(payload_len, UINT64_MAX);
    GARBLE(payload_len, UINT64_MAX - 63);
    GARBLE(off, 32);
    GARBLE(off, UINT64_MAX - 63);
    GARBLE(off, p.ring.lay.capacity + p.ring.lay.lane_len);
    GARBLE(len, UINT64_MAX);
    GARBLE(len, 128);
#undef GARBLE
    (void)plain_get(&p, 1);
    plain_close(&p);
}

TEST(an_index_head_or_tail_that_lies_never_hangs_a_reader)
{
    struct plain p;
    struct sf_message m;
    plain_open(&p, 1 << 16, 0, 4);
    for (int i = 0; i < 6; i++) {
        (void)plain_put(&p, 200);
    }
    static const uint64_t lies[] = {0, 1, 2, 5, 7, 8, 100, UINT32_MAX, UINT64_MAX - 1, UINT64_MAX};
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        for (size_t j = 0; j < sizeof lies / sizeof lies[0]; j++) {
            sf_store_relaxed(&p.ring.header->tail, lies[i]);
            sf_store_relaxed(&p.ring.header->head, lies[j]);
            for (size_t k = 0; k < sizeof lies / sizeof lies[0]; k++) {
                int status = sf_look(&p.ring, lies[k], &m);
                CHECK(status == 0 || status == SF_EMPTY || status == SF_CORRUPT);
                status = sf_look_newest(&p.ring, lies[k], &m);
                CHECK(status == 0 || status == SF_EMPTY || status == SF_CORRUPT);
            }
        }
    }
    sf_store_relaxed(&p.ring.header->tail, 3);
    sf_store_relaxed(&p.ring.header->head, 6);
    sf_store_relaxed(&p.ring.index[4], 4000000000u);
    CHECK_EQ(look(&p, 4, 0).seq, 5);
    plain_close(&p);
}

TEST(a_head_far_below_the_tail_is_corruption_for_a_writer)
{
    struct plain p;
    struct sf_claim claim;
    struct sf_message m = plain_describe(64, 1);
    plain_open(&p, 1 << 16, 0, 4);
    (void)plain_put(&p, 64);
    CHECK_EQ(plain_claim(&p, 0, 64, &claim), 0);
    sf_store_relaxed(&p.ring.header->tail, 9);
    CHECK_EQ(sf_publish_locked(&p.ring, claim.desc, &m), SF_CORRUPT);
    sf_store_relaxed(&p.ring.header->tail, 1);
    CHECK_EQ(sf_publish_locked(&p.ring, claim.desc, &m), 0);
    CHECK_EQ(m.seq, 2);
    plain_close(&p);
}

TEST(a_prefix_is_what_does_not_fit_the_descriptor)
{
    CHECK_EQ(sf_prefix_len(4, 16, 0), 0);
    CHECK_EQ(sf_prefix_len(5, 16, 0), 64);
    CHECK_EQ(sf_prefix_len(0, 17, 0), 64);
    CHECK_EQ(sf_prefix_len(0, 0, 1), 64);
    CHECK_EQ(sf_prefix_len(8, 0, 64), 128);
    CHECK(sf_prefix_len(SF_MAX_DIMS, SF_MAX_DTYPE, SF_MAX_META) <= SF_MAX_PREFIX);
}
