/* copy.c: whichever way a payload takes, its block holds it, to the last byte. */
#include "scratch.h"

enum { MOST = 1 << 20, COPIES = 4000 };

static struct sf_attachment *
attachment(uint64_t capacity, uint64_t depth)
{
    struct sf_attachment *att = calloc(1, sizeof *att);
    REQUIRE(att != NULL);
    att->ring.lay.capacity = capacity;
    att->ring.lay.depth = depth;
    return att;
}

static void
copy_and_compare(struct sf_attachment *att, size_t len, size_t shift)
{
    static _Alignas(64) char to[MOST + 64], from[MOST + 64];
    static unsigned number;
    for (size_t i = 0; i < sizeof from; i += 7) {
        from[i] = (char)(number += 13);
    }
    memset(to + len, 0x5a, 64);
    sf_copy_in(att, to, from + shift, len);
    CHECK(memcmp(to, from + shift, len) == 0);
    for (size_t i = len; i < len + 64; i++) {
        CHECK_EQ(to[i], 0x5a);
    }
}

TEST(every_length_is_copied_whole_and_not_a_byte_more)
{
    struct sf_attachment *att = attachment(UINT64_C(64) << 20, 1000000);
    static const size_t around[] = {1, 64, 4096, 256 << 10, (256 << 10) + 64, MOST - 64};
    for (int round = 0; round < 300; round++) {
        for (size_t i = 0; i < sizeof around / sizeof *around; i++) {
            size_t len = around[i] + (size_t)(round % 67);
            copy_and_compare(att, len < MOST ? len : MOST, (size_t)round % 61);
        }
    }
    free(att);
}

TEST(both_ways_are_tried_and_tried_again)
{
    struct sf_attachment *att = attachment(UINT64_C(2) << 20, 2); /* trials of eight copies */
    unsigned changes = 0, trials = 0;
    uint32_t way = SF_CACHED, on_trial = 0;
    for (int i = 0; i < COPIES; i++) {
        copy_and_compare(att, 256 << 10, 0);
        changes += sf_load_relaxed(&att->ways.way) != way;
        trials += sf_load_relaxed(&att->ways.on_trial) && !on_trial;
        way = sf_load_relaxed(&att->ways.way);
        on_trial = sf_load_relaxed(&att->ways.on_trial);
    }
#ifdef __SSE2__
    CHECK(changes >= 2);
    CHECK(trials >= COPIES / 512);
#else
    CHECK_EQ(changes + trials, 0);
#endif
    free(att);
}
