/* How the constants of a segment follow from what was asked for, and how an attacher checks them.
 *
 * Owns:      the arithmetic of layout.h; the header's part of the attach ladder.
 * Does not:  map or open anything.
 *
 * Invariants: L1, L2, L7, L8 of layout.h. No sum here can overflow: every input is bounded first.
 * A crash here leaves: nothing.
 */
#include "core/layout.h"

#include "core/status.h"

#include <string.h>

#define SF_TABLE_SHARE                                                                             \
    8u /* of the capacity: what describes messages, where no depth is asked for */
#define SF_LEAST_DEPTH 255u
#define SF_MOST_DEPTH 65535u /* nobody asked for more: recovery and cleaning walk it all */
#define SF_MAX_HELD 16384u

static uint64_t
clamp(uint64_t value, uint64_t low, uint64_t high)
{
    return value < low ? low : value > high ? high : value;
}

static uint32_t
round_up_pow2(uint64_t value)
{
    uint32_t result = 1;
    while (result < value) {
        result <<= 1;
    }
    return result;
}

/* L8. What describes a message is its descriptor, a link, scratch, holders, and two index entries at
 * most. */
static uint64_t
depth_that_fits(const struct sf_layout *l)
{
    uint64_t entry =
        sizeof(struct sf_desc) + sizeof(struct sf_link) + 8 + 2 * 4 + (uint64_t)(l->words - 2) * 8;
    uint64_t shared = l->capacity / SF_TABLE_SHARE / entry;
    uint64_t alike = l->block_len ? l->capacity / l->block_len : 0;
    uint64_t depth = shared > alike ? shared : alike;
    return clamp(clamp(depth, SF_LEAST_DEPTH, SF_MOST_DEPTH), 1, l->capacity / SF_LINE);
}

int
sf_layout_compute(const struct sf_params *params, struct sf_layout *out)
{
    if (params->capacity == 0 || params->capacity > SF_MAX_CAPACITY ||
        params->max_message > params->capacity || params->depth > SF_MAX_DEPTH ||
        params->max_participants == 0 || params->max_participants > SF_MAX_PARTICIPANTS ||
        params->block_len % SF_LINE != 0) {
        return SF_BAD_VALUE;
    }
    struct sf_layout l = {0};
    l.flags = params->flags;
    l.capacity = sf_round_up(params->capacity, SF_PAGE);
    l.max_message = params->max_message ? params->max_message : l.capacity / 4;
    l.max_participants = (uint32_t)sf_round_up(params->max_participants, 64);
    l.words = l.max_participants < 128 ? 2 : l.max_participants / 64;
    l.lane_len = sf_round_up(sf_round_up(l.max_message, SF_LINE) + SF_MAX_PREFIX, SF_PAGE);
    l.threshold = clamp(l.capacity / SF_MAX_HELD, SF_PAGE, UINT64_MAX);
    l.asked_depth = params->depth;
    l.block_len = params->block_len;
    l.depth = params->depth ? params->depth : depth_that_fits(&l);
    l.index_len = round_up_pow2(l.depth + 1);
    uint64_t held = clamp(l.capacity / l.threshold, 1, SF_MAX_HELD);
    l.desc_len = (uint32_t)(l.depth + held) + l.max_participants;

    l.participants_off = SF_PAGE;
    l.groups_off =
        l.participants_off + (uint64_t)l.max_participants * sizeof(struct sf_participant);
    l.index_off = l.groups_off + SF_GROUPS * sizeof(struct sf_group);
    l.descs_off = sf_round_up(l.index_off + (uint64_t)l.index_len * 4, 128);
    l.links_off = l.descs_off + (uint64_t)l.desc_len * sizeof(struct sf_desc);
    l.holders_off = sf_round_up(l.links_off + (uint64_t)l.desc_len * sizeof(struct sf_link), 64);
    l.scratch_off = l.holders_off + (uint64_t)l.desc_len * (l.words - 2) * 8;
    l.arena_off = sf_round_up(l.scratch_off + (uint64_t)l.desc_len * 8, SF_ARENA_ALIGN);
    l.file_len = l.arena_off + l.capacity + l.lane_len;
    *out = l;
    return 0;
}

/* The constants, listed once for both directions. asked_depth is stored as depth. */
#define SF_CONSTANTS(X)                                                                            \
    X(capacity)                                                                                    \
    X(max_message)                                                                                 \
    X(max_participants)                                                                            \
    X(flags)                                                                                       \
    X(block_len)                                                                                   \
    X(index_len)                                                                                   \
    X(desc_len)                                                                                    \
    X(words)                                                                                       \
    X(lane_len)                                                                                    \
    X(threshold)                                                                                   \
    X(participants_off)                                                                            \
    X(groups_off)                                                                                  \
    X(index_off)                                                                                   \
    X(descs_off)                                                                                   \
    X(links_off)                                                                                   \
    X(holders_off)                                                                                 \
    X(scratch_off)                                                                                 \
    X(arena_off)                                                                                   \
    X(file_len)

void
sf_layout_store(const struct sf_layout *layout, struct sf_header *header)
{
#define SF_PUT(field) header->field = layout->field;
    SF_CONSTANTS(SF_PUT)
#undef SF_PUT
    header->depth = layout->asked_depth;
    header->format = SF_FORMAT_WORD;
    header->magic = SF_MAGIC;
}

int
sf_layout_load(const struct sf_header *shared, uint64_t file_len, struct sf_layout *out)
{
    if (file_len < SF_PAGE) {
        return SF_SHORT;
    }
    /* One copy, then only the copy: the file may be a liar's who changes it meanwhile. */
    struct sf_header h;
    memcpy(&h, (const void *)shared, offsetof(struct sf_header, ended));
    if (h.magic != SF_MAGIC) {
        return h.magic == __builtin_bswap64(SF_MAGIC) ? SF_ENDIAN : SF_FOREIGN;
    }
    if (h.format != SF_FORMAT_WORD) {
        return SF_FORMAT;
    }
    struct sf_params params = {
        .capacity = h.capacity,
        .max_message = h.max_message,
        .depth = h.depth,
        .max_participants = h.max_participants,
        .flags = h.flags,
        .block_len = h.block_len,
    };
    struct sf_layout l;
    if (sf_layout_compute(&params, &l) < 0) {
        return SF_BAD_HEADER;
    }
#define SF_SAME(field)                                                                             \
    if (h.field != l.field) {                                                                      \
        return SF_BAD_HEADER;                                                                      \
    }
    SF_CONSTANTS(SF_SAME)
#undef SF_SAME
    if ((h.flags & ~(SF_TEMPORARY | SF_NO_LOSSLESS)) != 0) {
        return SF_BAD_HEADER;
    }
    if (l.file_len != file_len) {
        return SF_TRUNCATED;
    }
    *out = l;
    return 0;
}
