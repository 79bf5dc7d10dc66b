/* What the fuzz targets share: taking bytes of an input, values worth trying, pokes into a segment.
 *
 * Owns:      struct input; poke(), which spoils one word of a segment as an input says; the sizes
 *            of the small topics that are spoilt; main() of builds without libFuzzer.
 * Does not:  judge what comes out of the core; each target does.
 *
 * An input that runs out gives zeros, so every string of bytes is an input. With -DFUZZ_REPLAY
 * each argument is a file that is run once; otherwise libFuzzer has main().
 */
#ifndef SHMFLOW_TESTS_FUZZ_H
#define SHMFLOW_TESTS_FUZZ_H

#include "core/attachment.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define UNUSED __attribute__((unused))

/* Not assert(): it must hold in every build, and end the program so that the input is kept. */
#define DEMAND(condition)                                                                          \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition);         \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* ---- an input ---- */

struct input {
    const uint8_t *at;
    size_t left;
};

UNUSED static uint8_t
take_byte(struct input *in)
{
    if (in->left == 0) {
        return 0;
    }
    in->left--;
    return *in->at++;
}

UNUSED static uint64_t
take_number(struct input *in, unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++) {
        value |= (uint64_t)take_byte(in) << 8 * i;
    }
    return value;
}

UNUSED static uint32_t
take_below(struct input *in, uint32_t bound)
{
    return take_byte(in) % bound;
}

/* ---- small topics ---- */

static const struct sf_params small_topics[] = {
    {.capacity = 4096, .max_participants = 1, .block_len = 128},
    {.capacity = 65536, .max_message = 16384, .max_participants = 64},
    {.capacity = 32768, .max_message = 8192, .depth = 4, .max_participants = 64},
    {.capacity = 65536, .max_message = 65536, .depth = 8, .max_participants = 1},
    {.capacity = 24576, .max_message = 20000, .depth = 3, .max_participants = 130},
    {.capacity = 16384, .max_message = 5000, .depth = 63, .max_participants = 64, .flags = 1},
};
#define SMALL_TOPICS ((uint32_t)(sizeof small_topics / sizeof *small_topics))

/* Payloads: nothing, a few bytes, up to what is copied under the lock, pinnable, the whole. */
UNUSED static uint64_t
take_payload_len(struct input *in, const struct sf_layout *lay)
{
    static const uint32_t lens[] = {0,    1,    64,   700,  3000,  4032,
                                    4096, 4097, 5000, 8192, 16384, 20000};
    uint32_t choice = take_below(in, sizeof lens / sizeof *lens + 1);
    uint64_t len = choice < sizeof lens / sizeof *lens ? lens[choice] : lay->max_message;
    return len < lay->max_message ? len : lay->max_message;
}

/* ---- values worth trying ---- */

/* `there` is what the word holds now; `kept` what an earlier poke replaced. */
UNUSED static uint64_t
take_value(struct input *in, const struct sf_ring *ring, uint64_t there, uint64_t kept)
{
    const struct sf_layout *lay = &ring->lay;
    const uint64_t arena_len = lay->capacity + lay->lane_len;
    /* Relaxed, here and below: nobody else runs, or whatever comes is as good. */
    const uint64_t head = sf_load_relaxed(&ring->header->head);
    const uint64_t values[] = {
        0,
        1,
        UINT64_MAX,
        UINT64_MAX - 1,
        UINT64_C(1) << 31,
        UINT64_C(1) << 32,
        UINT64_C(1) << 63,
        UINT64_C(0x7fffffffffffffff),
        SF_NIL,
        SF_NIL - 1,
        there + 1,
        there - 1,
        there + SF_LINE,
        there - SF_LINE,
        ~there,
        there ^ UINT64_C(1) << (take_byte(in) % 64),
        kept,
        kept + 1,
        head,
        head + 1,
        head + 2,
        head - 1,
        head - lay->index_len,
        head + lay->index_len,
        sf_load_relaxed(&ring->header->tail), /* as head */
        lay->desc_len,
        lay->desc_len - 1,
        lay->index_len,
        lay->capacity,
        lay->capacity - SF_LINE,
        arena_len,
        arena_len - SF_LINE,
        lay->lane_len,
        lay->threshold,
        lay->max_message,
        SF_MAX_PREFIX,
        SF_MAX_META,
        SF_MAX_DTYPE,
    };
    const uint32_t count = sizeof values / sizeof *values;
    uint32_t choice = take_byte(in) % (count + 6);
    if (choice < count) {
        return values[choice];
    }
    if (choice == count) {
        uint32_t slot = take_byte(in);
        return sf_owner_word(slot, take_byte(in)) | (slot & 0x80 ? SF_WAITERS : 0);
    }
    if (choice == count + 1) {
        return (uint64_t)take_byte(in) * SF_LINE;
    }
    static const uint8_t widths[] = {1, 2, 4, 8};
    return take_number(in, widths[(choice - count - 2) & 3]);
}

/* ---- pokes ---- */

/* A descriptor: one that is in use more often than not. */
UNUSED static uint32_t
take_desc(struct input *in, const struct sf_ring *ring)
{
    uint32_t raw = take_byte(in);
    uint64_t mask = ring->lay.index_len - 1;
    /* Relaxed: as in take_value. */
    uint64_t head = sf_load_relaxed(&ring->header->head);
    uint64_t tail = sf_load_relaxed(&ring->header->tail);
    uint32_t desc = raw;
    if (raw >= 0xf0) {
        desc = sf_load_relaxed(&ring->index[(head - (raw & 3)) & mask]); /* as above */
    }
    else if (raw >= 0xe0) {
        desc = sf_load_relaxed(&ring->index[(tail + (raw & 3)) & mask]); /* as above */
    }
    else if (raw >= 0xdc) {
        desc = sf_load_relaxed(&ring->header->free_first); /* as above */
    }
    return desc % ring->lay.desc_len;
}

UNUSED static uint64_t
poke_32(struct input *in, const struct sf_ring *ring, void *word, uint64_t kept)
{
    _Atomic uint32_t *at = word;
    uint32_t there = sf_load_relaxed(at); /* as in take_value */
    sf_store_relaxed(at, (uint32_t)take_value(in, ring, there, kept)); /* likewise */
    return there;
}

UNUSED static uint64_t
poke_64(struct input *in, const struct sf_ring *ring, void *word, uint64_t kept)
{
    _Atomic uint64_t *at = word;
    uint64_t there = sf_load_relaxed(at); /* as in take_value */
    sf_store_relaxed(at, take_value(in, ring, there, kept)); /* likewise */
    return there;
}

UNUSED static uint64_t
poke_header(struct input *in, const struct sf_ring *ring, uint64_t kept)
{
    struct sf_header *h = ring->header;
    void *const words[] = {
        &h->ended,         &h->lock,      &h->bell.count, &h->bell.sleepers, &h->room.count,
        &h->room.sleepers, &h->turn,      &h->free_first, &h->first[0],      &h->first[1],
        &h->cursor[0],     &h->cursor[1], &h->rebuilds,
    };
    const uint32_t count = sizeof words / sizeof *words;
    uint32_t choice = take_byte(in) % (count + 4);
    if (choice < count) {
        return poke_32(in, ring, words[choice], kept);
    }
    _Atomic uint64_t *word = choice % 3 == 0   ? &h->head
                             : choice % 3 == 1 ? &h->tail
                                               : &h->floor_seq;
    return poke_64(in, ring, word, kept);
}

/* What lossless readers and groups are. */
UNUSED static uint64_t
poke_policies(struct input *in, const struct sf_ring *ring, uint32_t which, uint64_t kept)
{
    struct sf_participant *p = &ring->slots[take_byte(in) % 4];
    struct sf_group *group = &ring->groups[take_byte(in) % SF_GROUPS];
    switch (which % 8) {
    case 0:
    case 1:
        return poke_32(in, ring, (void *)&p->policy, kept);
    case 2:
        return poke_32(in, ring, (void *)&p->group, kept);
    case 3:
        return poke_64(in, ring, (void *)&p->cursor, kept);
    case 4:
        return poke_64(in, ring, (void *)&ring->header->floor_seq, kept);
    case 5:
        return poke_32(in, ring, (uint32_t *)group + take_byte(in) % (sizeof *group / 4), kept);
    default:
        return poke_64(in, ring, (void *)&group->cursor, kept);
    }
}

/* Spoils one word; gives back what was there, for a later poke to put elsewhere. */
UNUSED static uint64_t
poke(struct input *in, const struct sf_ring *ring, uint64_t kept)
{
    uint32_t desc, slot, which = take_byte(in);
    if (which >= 0xf0) {
        return poke_policies(in, ring, which, kept);
    }
    switch (which % 16) {
    case 0:
    case 1:
    case 2:
        return poke_header(in, ring, kept);
    case 3:
    case 4:
        slot = take_byte(in) % ring->lay.max_participants;
        slot = slot < 192 ? slot % 4 : slot;
        return poke_32(in, ring, (uint32_t *)&ring->slots[slot] + take_byte(in) % 64, kept);
    case 5:
        slot = take_byte(in) % 4;
        return poke_64(in, ring, (uint64_t *)&ring->slots[slot] + take_byte(in) % 32, kept);
    case 6:
        return poke_32(in, ring, (void *)&ring->index[take_byte(in) % ring->lay.index_len], kept);
    case 7:
    case 8:
        desc = take_desc(in, ring);
        return poke_32(in, ring, (uint32_t *)&ring->descs[desc] + take_byte(in) % 32, kept);
    case 9:
    case 10:
    case 11:
    case 12:
        desc = take_desc(in, ring);
        return poke_64(in, ring, (uint64_t *)&ring->descs[desc] + take_byte(in) % 16, kept);
    case 13:
    case 14:
        desc = take_desc(in, ring);
        return poke_32(in, ring, (uint32_t *)&ring->links[desc] + take_byte(in) % 2, kept);
    default:
        desc = take_desc(in, ring);
        if (ring->lay.words > 2) {
            uint64_t at = (uint64_t)desc * (ring->lay.words - 2);
            return poke_64(in, ring, (void *)&ring->more_holders[at], kept);
        }
        return poke_64(in, ring, (void *)&ring->scratch[desc], kept);
    }
}

/* ---- statuses ---- */

/* What the core may answer: success, one of its own, or an errno of the kernel. */
UNUSED static void
check_status(int status)
{
    DEMAND(status >= -4095 || strcmp(sf_status_name(status), "errno") != 0);
}

/* ---- builds without libFuzzer ---- */

#ifdef FUZZ_REPLAY
int
main(int argc, char **argv)
{
    static uint8_t bytes[1 << 16];
    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        if (!file) {
            perror(argv[i]);
            return 2;
        }
        size_t len = fread(bytes, 1, sizeof bytes, file);
        fclose(file);
        /* Exactly as long as it is, so that the sanitizer sees a step too far. */
        uint8_t *exact = malloc(len ? len : 1);
        DEMAND(exact != NULL);
        memcpy(exact, bytes, len);
        fprintf(stderr, "%s\n", argv[i]); /* the last one told is the one that failed */
        (void)LLVMFuzzerTestOneInput(exact, len);
        free(exact);
    }
    printf("%s: %d inputs\n", argv[0], argc - 1);
    return 0;
}
#endif

#endif
