/* layout.c: constants follow from what was asked for, and a header that contradicts is refused. */
#include "check.h"
#include "core/layout.h"
#include "core/status.h"

static struct sf_layout
layout_of(uint64_t capacity, uint64_t max_message, uint64_t depth, uint32_t participants)
{
    struct sf_params params = {capacity, max_message, depth, participants, 0, 0};
    struct sf_layout layout;
    memset(&layout, 0, sizeof layout);
    CHECK_EQ(sf_layout_compute(&params, &layout), 0);
    return layout;
}

static int
compute(uint64_t capacity, uint64_t max_message, uint64_t depth, uint32_t participants)
{
    struct sf_params params = {capacity, max_message, depth, participants, 0, 0};
    struct sf_layout layout;
    return sf_layout_compute(&params, &layout);
}

static void
fresh_header(struct sf_header *header, struct sf_layout *layout)
{
    *layout = layout_of(1 << 20, 100000, 10, 64);
    memset((void *)header, 0, sizeof *header);
    sf_layout_store(layout, header);
}

static int
load(const struct sf_header *header, uint64_t file_len)
{
    struct sf_layout got;
    return sf_layout_load(header, file_len, &got);
}

TEST(an_index_is_a_power_of_two_longer_than_the_depth)
{
    CHECK_EQ(layout_of(1 << 20, 0, 1, 1).index_len, 2);
    CHECK_EQ(layout_of(1 << 20, 0, 2, 1).index_len, 4);
    CHECK_EQ(layout_of(1 << 20, 0, 3, 1).index_len, 4);
    CHECK_EQ(layout_of(1 << 20, 0, 4, 1).index_len, 8);
    CHECK_EQ(layout_of(1 << 20, 0, 1000, 1).index_len, 1024);
    CHECK_EQ(layout_of(1 << 20, 0, SF_MAX_DEPTH, 1).index_len, 2 * SF_MAX_DEPTH);
}

static struct sf_layout
layout_for(uint64_t capacity, uint64_t block_len, uint32_t participants)
{
    struct sf_params params = {capacity, 0, 0, participants, 0, block_len};
    struct sf_layout layout;
    memset(&layout, 0, sizeof layout);
    CHECK_EQ(sf_layout_compute(&params, &layout), 0);
    return layout;
}

/* Bytes of tables that come on top for the messages. */
static uint64_t
tables_of(const struct sf_layout *l)
{
    struct sf_params params = {l->capacity, 0, 1, l->max_participants, 0, 0};
    struct sf_layout one;
    CHECK_EQ(sf_layout_compute(&params, &one), 0);
    return l->arena_off - one.arena_off;
}

TEST(without_a_depth_an_eighth_of_the_capacity_is_for_tables)
{
    struct sf_layout small = layout_for(4096, 0, 1);
    CHECK_EQ(small.depth, 64); /* more do not fit */
    CHECK_EQ(small.index_len, 128);
    CHECK_EQ(small.asked_depth, 0);
    CHECK_EQ(layout_for(64 << 10, 0, 1).depth, 255);
    CHECK_EQ(layout_for(1 << 20, 0, 128).depth, 862);
    CHECK_EQ(layout_for(64 << 20, 0, 128).depth, 55188);
    CHECK_EQ(layout_for(UINT64_C(1) << 40, 0, 128).depth, 65535);
    for (uint64_t capacity = 1 << 20; capacity <= UINT64_C(1) << 32; capacity *= 2) {
        for (uint32_t participants = 64; participants <= 1024; participants += 192) {
            struct sf_layout l = layout_for(capacity, 0, participants);
            CHECK(tables_of(&l) <= capacity / 8 + SF_ARENA_ALIGN);
            CHECK_EQ(l.asked_depth, 0);
        }
    }
}

TEST(where_the_first_message_is_known_as_many_fit_as_are_like_it)
{
    CHECK_EQ(layout_for(1 << 20, 64, 128).depth, 16384);
    CHECK_EQ(layout_for(1 << 20, 320, 128).depth, 3276);
    CHECK_EQ(layout_for(1 << 20, 1 << 16, 128).depth, 862); /* smaller ones may come */
    CHECK_EQ(layout_for(1 << 20, UINT64_MAX - 63, 128).depth, 862);
    CHECK_EQ(layout_for(UINT64_C(1) << 40, 64, 128).depth, 65535);
    CHECK_EQ(layout_for(4096, 64, 1).depth, 64);
    struct sf_params params = {1 << 20, 0, 0, 1, 0, 63};
    struct sf_layout l;
    CHECK_EQ(sf_layout_compute(&params, &l), SF_BAD_VALUE);
}

TEST(descriptors_are_enough_for_the_retained_the_held_and_the_claimed)
{
    for (uint64_t capacity = 4096; capacity <= UINT64_C(1) << 42; capacity *= 4) {
        struct sf_layout l = layout_of(capacity, 0, 0, 128);
        uint64_t held = capacity / l.threshold;
        CHECK(l.desc_len >= l.depth + held + 128);
        CHECK(held <= 16384);
        CHECK(l.depth < l.index_len);
    }
}

TEST(the_lane_takes_the_largest_message_with_the_longest_prefix)
{
    struct sf_layout l = layout_of(1 << 20, 1, 0, 1);
    CHECK(l.lane_len >= 64 + SF_MAX_PREFIX);
    l = layout_of(1 << 20, 0, 0, 1);
    CHECK_EQ(l.max_message, 1 << 18);
    CHECK(l.lane_len >= (1 << 18) + SF_MAX_PREFIX);
    l = layout_of(1 << 20, 1 << 20, 0, 1);
    CHECK(l.lane_len >= (1 << 20) + SF_MAX_PREFIX);
}

TEST(regions_follow_each_other_aligned_and_apart)
{
    for (uint32_t participants = 1; participants <= 1024; participants += 93) {
        struct sf_layout l = layout_of(12345678, 0, 77, participants);
        CHECK(l.max_participants >= participants && l.max_participants % 64 == 0);
        CHECK(l.words * 64 >= l.max_participants && l.words >= 2);
        CHECK_EQ(l.participants_off, SF_PAGE);
        CHECK_EQ(l.groups_off, l.participants_off + l.max_participants * 256u);
        CHECK(l.index_off >= l.groups_off + SF_GROUPS * 128u);
        CHECK(l.descs_off >= l.index_off + l.index_len * 4u && l.descs_off % 128 == 0);
        CHECK(l.links_off >= l.descs_off + l.desc_len * 128u);
        CHECK(l.holders_off >= l.links_off + l.desc_len * 8u && l.holders_off % 64 == 0);
        CHECK(l.scratch_off >= l.holders_off + (uint64_t)l.desc_len * (l.words - 2) * 8);
        CHECK_EQ(l.scratch_off % 8, 0);
        CHECK(l.arena_off >= l.scratch_off + l.desc_len * 8u);
        CHECK_EQ(l.arena_off % SF_ARENA_ALIGN, 0);
        CHECK_EQ(l.capacity % SF_PAGE, 0);
        CHECK_EQ(l.lane_len % SF_PAGE, 0);
        CHECK_EQ(l.file_len, l.arena_off + l.capacity + l.lane_len);
    }
}

TEST(what_is_out_of_range_is_refused)
{
    CHECK_EQ(compute(0, 0, 0, 1), SF_BAD_VALUE);
    CHECK_EQ(compute(SF_MAX_CAPACITY + 1, 0, 0, 1), SF_BAD_VALUE);
    CHECK_EQ(compute(UINT64_MAX, 0, 0, 1), SF_BAD_VALUE);
    CHECK_EQ(compute(4096, 4097, 0, 1), SF_BAD_VALUE);
    CHECK_EQ(compute(4096, UINT64_MAX, 0, 1), SF_BAD_VALUE);
    CHECK_EQ(compute(4096, 0, SF_MAX_DEPTH + 1, 1), SF_BAD_VALUE);
    CHECK_EQ(compute(4096, 0, UINT64_MAX, 1), SF_BAD_VALUE);
    CHECK_EQ(compute(4096, 0, 0, 0), SF_BAD_VALUE);
    CHECK_EQ(compute(4096, 0, 0, 1025), SF_BAD_VALUE);
    CHECK_EQ(compute(1, 1, 1, 1), 0);
    CHECK_EQ(compute(SF_MAX_CAPACITY, SF_MAX_CAPACITY, SF_MAX_DEPTH, 1024), 0);
}

TEST(a_stored_header_loads_as_the_same_constants)
{
    struct sf_params all[] = {
        {4096, 0, 0, 1, 0, 0},
        {1 << 20, 0, 0, 1, 0, 64},
        {1 << 20, 100000, 10, 64, SF_TEMPORARY, 0},
        {12345678, 1, 77, 1000, SF_NO_LOSSLESS, 128},
        {SF_MAX_CAPACITY, SF_MAX_CAPACITY, SF_MAX_DEPTH, 1024, SF_TEMPORARY | SF_NO_LOSSLESS, 0},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        struct sf_layout made, got;
        struct sf_header header;
        memset(&made, 0, sizeof made);
        memset(&got, 0, sizeof got);
        memset((void *)&header, 0, sizeof header);
        REQUIRE_EQ(sf_layout_compute(&all[i], &made), 0);
        sf_layout_store(&made, &header);
        REQUIRE_EQ(sf_layout_load(&header, made.file_len, &got), 0);
        CHECK_MEM(&got, &made, sizeof got);
    }
}

TEST(a_file_that_is_not_a_segment_is_told_by_what_it_is)
{
    struct sf_header header;
    struct sf_layout l;
    fresh_header(&header, &l);
    CHECK_EQ(load(&header, l.file_len), 0);
    CHECK_EQ(load(&header, SF_PAGE - 1), SF_SHORT);
    CHECK_EQ(load(&header, 0), SF_SHORT);
    CHECK_EQ(load(&header, l.file_len - 1), SF_TRUNCATED);
    CHECK_EQ(load(&header, l.file_len + SF_PAGE), SF_TRUNCATED);
    CHECK_EQ(load(&header, SF_PAGE), SF_TRUNCATED);
    header.magic = __builtin_bswap64(SF_MAGIC);
    CHECK_EQ(load(&header, l.file_len), SF_ENDIAN);
    header.magic = 0;
    CHECK_EQ(load(&header, l.file_len), SF_FOREIGN);
    header.magic = SF_MAGIC;
    header.format = SF_FORMAT_WORD + (1u << 24);
    CHECK_EQ(load(&header, l.file_len), SF_FORMAT);
    header.format = SF_FORMAT_WORD ^ 1u;
    CHECK_EQ(load(&header, l.file_len), SF_FORMAT);
}

TEST(the_magic_number_reads_as_the_name)
{
    uint64_t magic = SF_MAGIC;
    CHECK_MEM(&magic, "shmflow1", 8);
}

/* Each constant, set to values that no other constant agrees with. */
#define REFUSES(field, value)                                                                      \
    do {                                                                                           \
        struct sf_header header;                                                                   \
        struct sf_layout l;                                                                        \
        fresh_header(&header, &l);                                                                 \
        header.field = (value);                                                                    \
        CHECK_EQ(load(&header, l.file_len), SF_BAD_HEADER);                                        \
    } while (0)

#define REFUSES_ALL(field)                                                                         \
    do {                                                                                           \
        struct sf_header was;                                                                      \
        struct sf_layout from;                                                                     \
        fresh_header(&was, &from);                                                                 \
        REFUSES(field, was.field + 64);                                                            \
        REFUSES(field, was.field + 1);                                                             \
        REFUSES(field, was.field - 1);                                                             \
        REFUSES(field, was.field * 2);                                                             \
        REFUSES(field, (was.field ^ was.field) - 1);                                               \
    } while (0)

TEST(each_constant_that_contradicts_the_others_is_refused)
{
    REFUSES_ALL(capacity);
    REFUSES_ALL(max_participants);
    REFUSES_ALL(index_len);
    REFUSES_ALL(desc_len);
    REFUSES_ALL(words);
    REFUSES_ALL(lane_len);
    REFUSES_ALL(threshold);
    REFUSES_ALL(participants_off);
    REFUSES_ALL(groups_off);
    REFUSES_ALL(index_off);
    REFUSES_ALL(descs_off);
    REFUSES_ALL(links_off);
    REFUSES_ALL(holders_off);
    REFUSES_ALL(scratch_off);
    REFUSES_ALL(arena_off);
    REFUSES_ALL(file_len);
    REFUSES(capacity, 0);
    REFUSES(max_message, 100000 + SF_PAGE);
    REFUSES(max_message, UINT64_MAX);
    REFUSES(depth, 16);
    REFUSES(depth, 7);
    REFUSES(depth, UINT64_MAX);
    REFUSES(block_len, 1);
    REFUSES(flags, 4);
    REFUSES(flags, UINT32_MAX);
}

TEST(no_garbled_bit_gives_more_room_than_the_file_has)
{
    struct sf_header header;
    struct sf_layout l, got;
    fresh_header(&header, &l);
    for (size_t bit = 0; bit < offsetof(struct sf_header, identity) * 8; bit++) {
        unsigned char *byte = (unsigned char *)&header + bit / 8;
        *byte ^= (unsigned char)(1u << bit % 8);
        /* A few bits say something else that is consistent: a depth, a flag, a max_message. */
        if (sf_layout_load(&header, l.file_len, &got) == 0) {
            CHECK_EQ(got.file_len, l.file_len);
            CHECK_EQ(got.desc_len, l.desc_len);
            CHECK_EQ(got.index_len, l.index_len);
            CHECK_EQ(got.arena_off, l.arena_off);
            CHECK_EQ(got.lane_len, l.lane_len);
            CHECK(got.depth < got.index_len);
            CHECK(got.max_message <= got.lane_len - SF_MAX_PREFIX);
        }
        *byte ^= (unsigned char)(1u << bit % 8);
    }
}

TEST(an_owner_word_names_slot_and_generation)
{
    for (uint32_t slot = 0; slot < SF_MAX_PARTICIPANTS; slot += 31) {
        for (uint32_t gen = 0; gen < 5; gen++) {
            uint32_t word = sf_owner_word(slot, SF_GEN_MASK - 2 + gen);
            CHECK_NE(word, 0);
            CHECK_EQ(word & SF_WAITERS, 0);
            CHECK_EQ(sf_owner_slot(word), slot);
            CHECK_EQ(sf_owner_slot(word | SF_WAITERS), slot);
            CHECK_EQ(sf_owner_gen(word | SF_WAITERS), (SF_GEN_MASK - 2 + gen) & SF_GEN_MASK);
        }
    }
    CHECK_EQ(sf_owner_slot(0), SF_NIL);
}
