/* Fuzz target: the header of a file that may not be a topic's.
 *
 * Owns:      the bytes of one header; an account of the layout that is independent of layout.c.
 * Does not:  open or map anything.
 *
 * An input is either a header as it stands, or six numbers that a layout is computed from, stored,
 * and then spoilt. What is refused is refused with a status; what is accepted describes regions
 * that follow each other without overlap and end where the file does.
 */
#include "fuzz.h"

/* In 128 bits, where none of these sums can wrap. */
typedef unsigned __int128 wide;

static void
check_layout(const struct sf_layout *l)
{
    const wide m = l->desc_len;
    DEMAND(l->capacity > 0 && l->capacity <= SF_MAX_CAPACITY && l->capacity % SF_PAGE == 0);
    DEMAND(l->max_message > 0 && l->max_message <= l->capacity);
    DEMAND(l->max_participants > 0 && l->max_participants <= SF_MAX_PARTICIPANTS);
    DEMAND(l->index_len > l->depth && (l->index_len & (l->index_len - 1)) == 0 && l->depth > 0);
    DEMAND(l->depth <= SF_MAX_DEPTH);
    DEMAND(m >= (wide)l->depth + l->max_participants + 1 && m < SF_NIL);
    DEMAND(l->words >= 2 && (wide)l->words * 64 >= l->max_participants);
    DEMAND(l->lane_len >= (wide)l->max_message + SF_MAX_PREFIX && l->lane_len % SF_PAGE == 0);
    DEMAND(l->threshold >= SF_PAGE);

    wide end = SF_PAGE;
    DEMAND(l->participants_off >= end && l->participants_off % 64 == 0);
    end = l->participants_off + (wide)l->max_participants * sizeof(struct sf_participant);
    DEMAND(l->groups_off >= end && l->groups_off % 64 == 0);
    end = l->groups_off + (wide)SF_GROUPS * sizeof(struct sf_group);
    DEMAND(l->index_off >= end && l->index_off % 4 == 0);
    end = l->index_off + (wide)l->index_len * 4;
    DEMAND(l->descs_off >= end && l->descs_off % 64 == 0);
    end = l->descs_off + m * sizeof(struct sf_desc);
    DEMAND(l->links_off >= end && l->links_off % 8 == 0);
    end = l->links_off + m * sizeof(struct sf_link);
    DEMAND(l->holders_off >= end && l->holders_off % 64 == 0);
    end = l->holders_off + m * (l->words - 2) * 8;
    DEMAND(l->scratch_off >= end && l->scratch_off % 8 == 0);
    end = l->scratch_off + m * 8;
    DEMAND(l->arena_off >= end && l->arena_off % SF_ARENA_ALIGN == 0);
    end = l->arena_off + (wide)l->capacity + l->lane_len;
    DEMAND(l->file_len == end && end < UINT64_C(1) << 50); /* below the bytes that are locked */
}

static void
load(const struct sf_header *header, uint64_t file_len)
{
    struct sf_layout l;
    memset(&l, 0xee, sizeof l);
    int status = sf_layout_load(header, file_len, &l);
    DEMAND(status <= 0);
    check_status(status);
    if (status < 0) {
        return;
    }
    check_layout(&l);
    DEMAND(l.file_len == file_len);
    DEMAND((l.flags & ~(SF_TEMPORARY | SF_NO_LOSSLESS)) == 0);
    /* L2: it is what its own six numbers make it. */
    struct sf_params params = {l.capacity,         l.max_message, l.asked_depth,
                               l.max_participants, l.flags,       l.block_len};
    struct sf_layout again;
    memset(&again, 0, sizeof again);
    DEMAND(sf_layout_compute(&params, &again) == 0);
    DEMAND(again.file_len == l.file_len && again.arena_off == l.arena_off);
    DEMAND(again.desc_len == l.desc_len && again.depth == l.depth);
}

/* A number near one of the limits, or any. */
static uint64_t
take_limit(struct input *in)
{
    static const uint64_t limits[] = {0,    1,     63,         64,           128,
                                      1024, 4096,  65536,      SF_MAX_DEPTH, SF_MAX_CAPACITY,
                                      4095, 16384, 1ull << 26, 1ull << 32,   UINT64_MAX};
    uint32_t choice = take_byte(in);
    uint64_t value = limits[choice % (sizeof limits / sizeof *limits)];
    switch (choice >> 6) {
    case 0:
        return value;
    case 1:
        return value + (int8_t)take_byte(in);
    case 2:
        return take_number(in, 8);
    default:
        return take_number(in, 3);
    }
}

static void
load_spoilt(struct input *in)
{
    _Alignas(64) static struct sf_header header;
    struct sf_params params = {
        .capacity = take_limit(in),
        .max_message = take_limit(in),
        .depth = take_limit(in),
        .max_participants = (uint32_t)take_limit(in),
        .flags = take_byte(in) & 7,
        .block_len = take_limit(in),
    };
    struct sf_layout l;
    memset(&l, 0, sizeof l);
    int status = sf_layout_compute(&params, &l);
    check_status(status);
    if (status < 0) {
        return;
    }
    check_layout(&l);
    memset(&header, 0, sizeof header);
    sf_layout_store(&l, &header);
    load(&header, l.file_len);
    uint64_t file_len = l.file_len;
    for (int pokes = 0; in->left > 0 && pokes < 16; pokes++) {
        uint32_t at = take_byte(in) % (offsetof(struct sf_header, ended) / 4 + 1);
        uint64_t value = take_limit(in);
        if (at == offsetof(struct sf_header, ended) / 4) {
            file_len = value;
        }
        else {
            uint32_t word = (uint32_t)value;
            memcpy((char *)&header + (size_t)at * 4, &word, 4);
        }
        load(&header, file_len);
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct input in = {data, len};
    if ((take_byte(&in) & 1) != 0) {
        load_spoilt(&in);
        return 0;
    }
    _Alignas(64) static struct sf_header header;
    memset(&header, 0, sizeof header);
    uint64_t file_len = take_number(&in, 8);
    memcpy(&header, in.at, in.left < sizeof header ? in.left : sizeof header);
    load(&header, file_len);
    load(&header, header.file_len);
    return 0;
}
