/* Rebuild: everything that can be derived is derived again, from the descriptor table alone.
 *
 * Owns:      the one recovery there is. It runs when the writer lock was taken from a dead
 *            process, when a table was found out of range, and to set up a fresh segment.
 * Does not:  judge who is dead (participants.c) or ring bells (the caller does, after unlock).
 *
 * Invariants
 *   B1  It only rolls forward: a descriptor whose seq is head + 1 is a published message.
 *   B2  Readers run meanwhile, so no word they use is stored an interim value: index entries,
 *       head and tail go from the old value to the new in one store.
 *   B3  Claims of living owners stay; those of dead ones, and blocks that are nobody's, are freed.
 *   B4  Bounded by N and M, whatever the tables hold; overlaps and numbers out of range are
 *       SF_CORRUPT, and nothing but len, owner and links has been stored by then.
 *
 * A crash here leaves: a table in which some blocks that were nobody's are free already. The lock
 * is still held by the dead, so the next one steals it and rebuilds again.
 */
#include "core/ring.h"

#include <stdlib.h>

/* An entry of scratch: a block's place above, its descriptor below, so that to sort the one sorts the
 * other, and no descriptor is loaded for a comparison. */
#define SF_DESC_BITS 21u
_Static_assert(SF_MAX_DEPTH + 16384 + SF_MAX_PARTICIPANTS < 1u << SF_DESC_BITS, "a descriptor");
_Static_assert(2 * SF_MAX_CAPACITY / SF_LINE < UINT64_C(1) << (63 - SF_DESC_BITS), "a place");

static void
put(struct sf_ring *ring, uint32_t at, uint64_t entry)
{
    sf_store_relaxed(&ring->scratch[at], entry); /* G: touched by the lock's holder only */
}

static uint64_t
entry_at(const struct sf_ring *ring, uint32_t at)
{
    return sf_load_relaxed(&ring->scratch[at]); /* G */
}

/* The descriptor there, or SF_NIL: a peer may write into scratch (R5). */
static uint32_t
desc_at(const struct sf_ring *ring, uint32_t at)
{
    uint32_t desc = (uint32_t)entry_at(ring, at) & ((1u << SF_DESC_BITS) - 1);
    return desc < ring->lay.desc_len ? desc : SF_NIL;
}

/* Moves `entry` down from `at` to where no child is larger. */
static void
sift_down(struct sf_ring *ring, uint32_t at, uint32_t count, uint64_t entry)
{
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= count) {
            break;
        }
        uint64_t larger = entry_at(ring, child);
        if (child + 1 < count && entry_at(ring, child + 1) > larger) {
            larger = entry_at(ring, ++child);
        }
        if (entry >= larger) {
            break;
        }
        put(ring, at, larger);
        at = child;
    }
    put(ring, at, entry);
}

/* Heapsort (Williams 1964), because it needs no memory but the scratch and has no bad case. */
static void
sort_by_offset(struct sf_ring *ring, uint32_t count)
{
    for (uint32_t at = count / 2; at-- > 0;) {
        sift_down(ring, at, count, entry_at(ring, at));
    }
    for (uint32_t end = count; end-- > 1;) {
        uint64_t last = entry_at(ring, end);
        put(ring, end, entry_at(ring, 0));
        sift_down(ring, 0, end, last);
    }
}

/* Decides what a descriptor is (L5); frees what is nobody's. True if it is a live block. */
static bool
settle(struct sf_ring *ring, uint32_t desc, uint64_t *seq)
{
    struct sf_desc *d = &ring->descs[desc];
    /* G for all; owner also E with discard, holders also D with unpin (in sf_is_held). */
    *seq = 0;
    if (sf_load_relaxed(&d->len) == 0) {
        if (sf_load_relaxed(&d->seq) != 0) {
            sf_store_seq(&d->seq, 0); /* damage: else an index entry makes it history, and free */
        }
        return false;
    }
    *seq = sf_load_relaxed(&d->seq);
    uint32_t owner = sf_load_acquire(&d->owner);
    if (*seq != 0) {
        if (owner != 0) {
            sf_store_relaxed(&d->owner, 0); /* died between publish's two stores */
        }
        return true;
    }
    if (owner != 0 ? sf_owner_lives(ring, owner) : sf_is_held(ring, desc)) {
        return true;
    }
    /* As in reap: len last. */
    sf_store_relaxed(&d->owner, 0);
    sf_store_release(&d->len, 0);
    return false;
}

/* Chains the sorted blocks of both areas; SF_CORRUPT where two overlap or one leaves its area. */
static int
link_blocks(struct sf_ring *ring, uint32_t count)
{
    const uint64_t starts[3] = {0, ring->lay.capacity, ring->lay.capacity + ring->lay.lane_len};
    uint32_t last[2] = {SF_NIL, SF_NIL};
    uint32_t first[2] = {SF_NIL, SF_NIL};
    uint32_t cursor[2] = {SF_NIL, SF_NIL};
    uint64_t newest[2] = {0, 0};
    uint64_t low = 0;
    for (uint32_t at = 0; at < count; at++) {
        uint32_t desc = desc_at(ring, at);
        if (desc == SF_NIL) {
            return SF_CORRUPT;
        }
        struct sf_desc *d = &ring->descs[desc];
        uint64_t off = sf_load_relaxed(&d->off); /* G */
        uint64_t len = sf_load_relaxed(&d->len); /* G */
        uint64_t seq = sf_load_relaxed(&d->seq); /* G */
        int area = off < starts[1] ? 0 : 1;
        if (off < low || off % SF_LINE != 0 || len % SF_LINE != 0 || off >= starts[2] ||
            len > starts[area + 1] - off) {
            return SF_CORRUPT;
        }
        low = off + len;
        /* G: derived words, for lock holders only. */
        sf_store_relaxed(&ring->links[desc].prev, last[area]);
        sf_store_relaxed(&ring->links[desc].next, SF_NIL);
        if (last[area] == SF_NIL) {
            first[area] = desc;
        }
        else {
            sf_store_relaxed(&ring->links[last[area]].next, desc); /* G */
        }
        last[area] = desc;
        if (seq > newest[area]) {
            newest[area] = seq;
            cursor[area] = desc;
        }
    }
    for (int area = 0; area < 2; area++) {
        sf_store_relaxed(&ring->header->first[area], first[area]); /* G */
        sf_store_relaxed(&ring->header->cursor[area], cursor[area]); /* G */
    }
    return 0;
}

static void
link_free(struct sf_ring *ring)
{
    uint32_t first = SF_NIL;
    for (uint32_t desc = ring->lay.desc_len; desc-- > 0;) {
        if (sf_load_relaxed(&ring->descs[desc].len) == 0) { /* G */
            sf_store_relaxed(&ring->links[desc].next, first); /* G */
            first = desc;
        }
    }
    sf_store_relaxed(&ring->header->free_first, first); /* G */
}

/* index, tail and head from the published descriptors. */
static int
number_messages(struct sf_ring *ring, uint32_t count, uint64_t newest)
{
    struct sf_header *h = ring->header;
    uint64_t mask = ring->lay.index_len - 1;
    uint64_t head = sf_load_relaxed(&h->head); /* G */
    if (head >= UINT64_MAX - 1 || newest > head + 1) { /* damage: no number wraps to 0 */
        return SF_CORRUPT;
    }
    head = newest > head ? newest : head;
    uint64_t floor = head >= ring->lay.depth ? head - ring->lay.depth + 1 : 1;
    for (uint32_t at = 0; at < count; at++) {
        uint32_t desc = desc_at(ring, at);
        if (desc == SF_NIL) {
            return SF_CORRUPT; /* checked when the blocks were linked: a peer writes meanwhile (R5) */
        }
        uint64_t seq = sf_load_relaxed(&ring->descs[desc].seq); /* G */
        if (seq >= floor) {
            sf_store_relaxed(&ring->index[seq & mask], desc); /* before head: B */
        }
    }
    /* History is what hangs together below head; an undamaged table has nothing else. */
    uint64_t tail = head + 1;
    while (tail > floor) {
        uint32_t desc = sf_load_relaxed(&ring->index[(tail - 1) & mask]); /* G */
        if (desc >= ring->lay.desc_len || sf_load_relaxed(&ring->descs[desc].seq) != tail - 1) {
            break;
        }
        tail--;
    }
    for (uint32_t at = 0; at < count; at++) {
        uint32_t desc = desc_at(ring, at);
        if (desc == SF_NIL) {
            return SF_CORRUPT; /* as above */
        }
        uint64_t seq = sf_load_relaxed(&ring->descs[desc].seq); /* G */
        /* G. A number that two blocks have is the one's that the index tells. */
        if (seq != 0 && (seq < tail || sf_load_relaxed(&ring->index[seq & mask]) != desc)) {
            sf_store_seq(&ring->descs[desc].seq, 0); /* C: retired; a later sweep frees it */
        }
    }
    sf_store_release(&h->tail, tail); /* as in evict */
    sf_store_seq(&h->head, head); /* B, H */
    return 0;
}

int
sf_rebuild_locked(struct sf_ring *ring)
{
    uint32_t count = 0;
    uint64_t newest = 0;
    ring->corrupt = false;
    ring->anchor = SF_NIL;
    for (uint32_t desc = 0; desc < ring->lay.desc_len; desc++) {
        uint64_t seq;
        if (settle(ring, desc, &seq)) {
            newest = seq > newest ? seq : newest;
            uint64_t off = sf_load_relaxed(&ring->descs[desc].off); /* G */
            put(ring, count++, off / SF_LINE << SF_DESC_BITS | desc);
        }
    }
    sort_by_offset(ring, count);
    int status = link_blocks(ring, count);
    if (status < 0) {
        return status;
    }
    link_free(ring);
    status = number_messages(ring, count, newest);
    if (status == 0) {
        (void)sf_raise_floor_locked(ring); /* it may have been left too low; F1 */
        /* G: a count for people; how often this topic was mended. */
        sf_store_relaxed(&ring->header->rebuilds, sf_load_relaxed(&ring->header->rebuilds) + 1);
        ring->mended = true;
    }
    return status;
}

#ifdef SF_DEBUG
#include <stdio.h>

#define DEMAND(condition)                                                                          \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "shmflow: invariant broken: %s (%s:%d)\n", #condition, __FILE__,       \
                    __LINE__);                                                                     \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

void
sf_check_locked(struct sf_ring *ring)
{
    const uint64_t ends[2] = {ring->lay.capacity, ring->lay.capacity + ring->lay.lane_len};
    uint32_t live = 0, free_count = 0, published = 0;
    uint64_t low = 0;
    for (int area = 0; area < 2; area++) {
        /* G for every load here: the caller holds the lock. */
        uint32_t prev = SF_NIL;
        uint32_t desc = sf_load_relaxed(&ring->header->first[area]);
        while (desc != SF_NIL) {
            DEMAND(desc < ring->lay.desc_len && ++live <= ring->lay.desc_len);
            struct sf_desc *d = &ring->descs[desc];
            uint64_t off = sf_load_relaxed(&d->off);
            uint64_t len = sf_load_relaxed(&d->len);
            DEMAND(len != 0 && off >= low && off + len <= ends[area]);
            DEMAND(sf_load_relaxed(&ring->links[desc].prev) == prev);
            published += sf_load_relaxed(&d->seq) != 0; /* G */
            low = off + len;
            prev = desc;
            desc = sf_load_relaxed(&ring->links[desc].next); /* G */
        }
        low = ring->lay.capacity;
    }
    uint32_t desc = sf_load_relaxed(&ring->header->free_first); /* G */
    while (desc != SF_NIL) {
        DEMAND(desc < ring->lay.desc_len && ++free_count <= ring->lay.desc_len);
        DEMAND(sf_load_relaxed(&ring->descs[desc].len) == 0); /* G */
        desc = sf_load_relaxed(&ring->links[desc].next); /* G */
    }
    DEMAND(live + free_count == ring->lay.desc_len);
    uint64_t head = sf_load_relaxed(&ring->header->head); /* G */
    uint64_t tail = sf_load_relaxed(&ring->header->tail); /* G */
    DEMAND(tail <= head + 1 && head + 1 - tail == published && published <= ring->lay.depth);
    DEMAND(sf_load_relaxed(&ring->header->floor_seq) <= sf_floor_without(ring, SF_NIL)); /* F1 */
    for (uint64_t seq = tail; seq <= head; seq++) {
        uint32_t at = sf_load_relaxed(&ring->index[seq & (ring->lay.index_len - 1)]); /* G */
        DEMAND(at < ring->lay.desc_len && sf_load_relaxed(&ring->descs[at].seq) == seq);
    }
}
#endif
