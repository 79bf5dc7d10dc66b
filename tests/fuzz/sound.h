/* What must hold of a message, of a claim, and of tables that rebuild has called sound.
 *
 * Owns:      an account of L5 … L7 of layout.h that is independent of the core's own checks.
 * Does not:  repair or report: what does not hold ends the program.
 *
 * One thread at a time: nothing here is ordered against anybody.
 */
#ifndef SHMFLOW_TESTS_SOUND_H
#define SHMFLOW_TESTS_SOUND_H

#include "fuzz.h"

static uint64_t sum; /* of all that was read, so that the reads are not left out */

static void
read_all(const char *at, uint64_t len)
{
    /* By the sanitizer's interceptor, which looks at all of the range: memcpy would do too. */
    static char copy[1 << 18];
    DEMAND(len <= sizeof copy);
    memcpy(copy, at, len);
    sum += len ? (unsigned char)copy[len - 1] : 0;
}

static void
check_message(struct sf_attachment *att, const struct sf_message *m)
{
    DEMAND(m->block_off <= att->arena_len && m->block_len <= att->arena_len - m->block_off);
    DEMAND(m->prefix_len == sf_prefix_len(m->ndim, m->dtype_len, m->meta_len));
    DEMAND(m->prefix_len <= m->block_len && m->payload_len <= m->block_len - m->prefix_len);
    DEMAND(m->ndim <= SF_MAX_DIMS && m->dtype_len <= SF_MAX_DTYPE && m->meta_len <= SF_MAX_META);
    DEMAND(m->desc < att->ring.lay.desc_len && m->seq != 0);
    DEMAND(!m->pinnable || m->block_off + m->block_len <= att->ring.lay.capacity);
    read_all(sf_message_prefix(att, m), m->prefix_len);
    read_all(sf_message_payload(att, m), m->payload_len);
}

static void
check_claim(const struct sf_attachment *att, const struct sf_claim *claim, uint64_t len)
{
    const struct sf_layout *lay = &att->ring.lay;
    DEMAND(claim->len >= len && claim->desc < lay->desc_len && claim->off % SF_LINE == 0);
    DEMAND(claim->off <= att->arena_len && claim->len <= att->arena_len - claim->off);
    DEMAND(claim->in_lane == (claim->off >= lay->capacity));
    DEMAND(claim->in_lane || claim->off + claim->len <= lay->capacity);
}

/* L5 … L7 of layout.h, as far as derived words go; of tables that rebuild has called sound. */
static void
check_tables(const struct sf_ring *ring)
{
    const struct sf_header *h = ring->header;
    const uint64_t ends[2] = {ring->lay.capacity, ring->lay.capacity + ring->lay.lane_len};
    uint32_t live = 0, unused = 0;
    uint64_t published = 0, low = 0;
    /* Relaxed, all of them: one thread. */
    for (int area = 0; area < 2; area++, low = ends[0]) {
        uint32_t prev = SF_NIL, desc = sf_load_relaxed(&h->first[area]);
        for (; desc != SF_NIL; desc = sf_load_relaxed(&ring->links[desc].next)) {
            DEMAND(desc < ring->lay.desc_len && ++live <= ring->lay.desc_len);
            const struct sf_desc *d = &ring->descs[desc];
            uint64_t off = sf_load_relaxed(&d->off), len = sf_load_relaxed(&d->len);
            DEMAND(len != 0 && off >= low && off <= ends[area] && len <= ends[area] - off);
            DEMAND(sf_load_relaxed(&ring->links[desc].prev) == prev); /* one thread */
            published += sf_load_relaxed(&d->seq) != 0;
            low = off + len;
            prev = desc;
        }
    }
    uint32_t desc = sf_load_relaxed(&h->free_first);
    for (; desc != SF_NIL; desc = sf_load_relaxed(&ring->links[desc].next)) { /* one thread */
        DEMAND(desc < ring->lay.desc_len && ++unused <= ring->lay.desc_len);
        DEMAND(sf_load_relaxed(&ring->descs[desc].len) == 0);
    }
    DEMAND(live + unused == ring->lay.desc_len);
    uint64_t head = sf_load_relaxed(&h->head), tail = sf_load_relaxed(&h->tail);
    DEMAND(tail != 0 && tail - 1 <= head && head + 1 - tail == published);
    DEMAND(published <= ring->lay.depth);
    for (uint64_t seq = tail; seq - tail < published; seq++) {
        uint32_t at = sf_load_relaxed(&ring->index[seq & (ring->lay.index_len - 1)]);
        DEMAND(at < ring->lay.desc_len && sf_load_relaxed(&ring->descs[at].seq) == seq);
    }
}

#endif
