/* Publish and look, retire and pin: both sides of the protocols between writers and readers.
 *
 * Owns:      desc.seq, desc.owner (its end), desc.holders, the message fields, index, head.
 * Does not:  find room (space.c), recover (rebuild.c), sleep (wait.c) or copy payloads.
 *
 * Invariants
 *   R1  A reader stores nothing but its own holders bit and its own slot.
 *   R2  A block's bytes change only while its desc.seq is 0.
 *   R3  A block is given to another claim only when its seq is 0, its owner is 0 or dead, and no
 *       holders bit was set at a load that follows, in the total order, the store of seq = 0.
 *   R4  head never falls; seq s is visible in desc.seq before head reaches s.
 *   R5  What is read from the segment is loaded once, checked, then used.
 *
 * Edges. Each names its two sides; the code cites the letter.
 *      writer                                      reader
 *   A  publish: desc.seq = s (release)             look: desc.seq (acquire)
 *         so: who sees s sees the message fields, the index entry and the payload
 *   B  publish: head = s (seq_cst)                 look: head (seq_cst)
 *         so: who sees head >= c finds desc.seq == c, or message c is gone. Also one half of
 *         the doorbell (wait.c, edge H)
 *   C  retire: desc.seq = 0 (seq_cst), then        pin: holders |= bit (seq_cst), then
 *              holders (seq_cst)                        desc.seq (seq_cst)
 *         so: of the two, at least one sees the other (Dekker). The reader keeps the block only
 *         if it still saw seq; then the writer sees the bit and leaves the block alone.
 *         Release and acquire are not enough: a store may pass a later load, on x86 too.
 *   D  space: holders (acquire)                    unpin: holders &= ~bit (release)
 *         so: the reader's last load of the payload precedes the block's reuse
 *   E  space: desc.owner (acquire)                 discard: desc.owner = 0 (seq_cst)
 *         so: the discarder's last store to the payload precedes the block's reuse
 *   F  claim: fence (release) after seq = 0,       look, is_current: loads, fence (acquire),
 *             before any store to desc or payload            then desc.seq (relaxed)
 *         so: a reader that saw any new byte sees that seq is no longer its own (a seqlock)
 *
 * A crash here leaves, in publish: the claim (before A: freed as a dead one's), or the message
 * with head behind it (after A: rebuild rolls forward). In retire: a block that is free or
 * retired, with tail behind it. In pin: a bit that cleaning the dead slot clears.
 */
#include "core/ring.h"

#include <string.h>

void
sf_ring_bind(struct sf_ring *ring, const struct sf_layout *layout, void *base)
{
    char *at = base;
    *ring = (struct sf_ring){
        .lay = *layout,
        .header = base,
        .slots = (void *)(at + layout->participants_off),
        .groups = (void *)(at + layout->groups_off),
        .index = (void *)(at + layout->index_off),
        .descs = (void *)(at + layout->descs_off),
        .links = (void *)(at + layout->links_off),
        .more_holders = (void *)(at + layout->holders_off),
        .scratch = (void *)(at + layout->scratch_off),
        .anchor = SF_NIL,
    };
}

uint64_t
sf_prefix_len(uint32_t ndim, uint32_t dtype_len, uint32_t meta_len)
{
    uint64_t len = meta_len;
    len += ndim > SF_INLINE_DIMS ? (uint64_t)ndim * 8 : 0;
    len += dtype_len > SF_INLINE_DTYPE ? dtype_len : 0;
    return sf_round_up(len, SF_LINE);
}

/* ---- holders ---- */

_Atomic uint64_t *
sf_holders_word(const struct sf_ring *ring, uint32_t desc, uint32_t slot)
{
    uint32_t word = slot / 64;
    if (word < 2) {
        return &ring->descs[desc].holders[word];
    }
    return &ring->more_holders[(uint64_t)desc * (ring->lay.words - 2) + (word - 2)];
}

bool
sf_is_held(const struct sf_ring *ring, uint32_t desc)
{
    for (uint32_t slot = 0; slot < ring->lay.max_participants; slot += 64) {
        /* C with pin, when it follows retire's store; D with unpin: seq_cst includes acquire. */
        if (sf_load_seq(sf_holders_word(ring, desc, slot)) != 0) {
            return true;
        }
    }
    return false;
}

bool
sf_pin_bit(struct sf_ring *ring, uint32_t desc, uint32_t slot, uint64_t seq)
{
    /* C: first the bit, then seq again; retire stores seq, then looks at the bits. */
    sf_or_seq64(sf_holders_word(ring, desc, slot), UINT64_C(1) << (slot % 64));
    if (sf_load_seq(&ring->descs[desc].seq) == seq) {
        return true;
    }
    sf_unpin_bit(ring, desc, slot);
    return false;
}

void
sf_unpin_bit(struct sf_ring *ring, uint32_t desc, uint32_t slot)
{
    /* D: all loads of the payload come before; space.c loads the word before it reuses. */
    sf_and_release64(sf_holders_word(ring, desc, slot), ~(UINT64_C(1) << (slot % 64)));
}

void
sf_pin_own_claim(struct sf_ring *ring, uint32_t desc, uint32_t slot)
{
    /* No race to win: the claim is ours, and the lock we publish it under orders the bit. */
    sf_or_seq64(sf_holders_word(ring, desc, slot), UINT64_C(1) << (slot % 64));
}

bool
sf_retire_locked(struct sf_ring *ring, uint32_t desc, bool in_lane)
{
    /* The lane and blocks below the threshold are never pinned; bits on their descriptors are
     * losers', that clear at once. Then nobody has to see anybody: release, with F's fence, is
     * enough. The length is ours to read under the lock (G). */
    if (in_lane || sf_load_relaxed(&ring->descs[desc].len) < ring->lay.threshold) {
        sf_store_release(&ring->descs[desc].seq, 0);
        return true;
    }
    /* C: the store comes first in the total order, then the look at the holders. */
    sf_store_seq(&ring->descs[desc].seq, 0);
    return !sf_is_held(ring, desc);
}

/* ---- publish ---- */

/* Message fields. Relaxed: ordered after eviction by F and before readers by A. */
static void
store_fields(struct sf_desc *d, const struct sf_message *m)
{
    sf_store_relaxed(&d->kind, m->ndim | (m->fortran ? 1u : 0u) << 8 | m->dtype_len << 16);
    sf_store_relaxed(&d->payload_len, m->payload_len);
    sf_store_relaxed(&d->stamp_ns, m->stamp_ns);
    sf_store_relaxed(&d->writer_pid, m->writer_pid);
    sf_store_relaxed(&d->meta_len, m->meta_len);
    sf_store_relaxed(&d->dtype[0], m->dtype[0]);
    sf_store_relaxed(&d->dtype[1], m->dtype[1]);
    uint32_t ndim = m->ndim < SF_INLINE_DIMS ? m->ndim : SF_INLINE_DIMS;
    for (uint32_t i = 0; i < ndim; i++) {
        sf_store_relaxed(&d->shape[i], m->shape[i]); /* as the fields above */
    }
}

/* The number that comes next, and whether the depth makes room for it; *evict gets the number up to
 * which must go first, or 0. */
static inline int
next_number(struct sf_ring *ring, uint64_t *seq, uint64_t *evict)
{
    /* Relaxed: only lock holders store head and tail, and edge G orders those. */
    uint64_t head = sf_load_relaxed(&ring->header->head);
    uint64_t tail = sf_load_relaxed(&ring->header->tail);
    *seq = head + 1;
    *evict = 0;
    if (tail == 0 || tail > *seq || *seq - tail > ring->lay.index_len) {
        return SF_CORRUPT;
    }
    if (*seq - tail >= ring->lay.depth) {
        *evict = *seq - ring->lay.depth;
        return sf_may_evict_locked(ring, *evict) ? 0 : SF_LAGGING;
    }
    return 0;
}

int
sf_may_publish_locked(struct sf_ring *ring)
{
    uint64_t seq, evict;
    return next_number(ring, &seq, &evict);
}

SF_HOT int
sf_publish_locked(struct sf_ring *ring, uint32_t desc, struct sf_message *message)
{
    struct sf_header *h = ring->header;
    struct sf_desc *d = &ring->descs[desc];
    uint64_t seq, evict;
    int status = next_number(ring, &seq, &evict);
    if (status < 0) {
        return status;
    }
    if (evict != 0) {
        /* Here and not at claim: a loan must not empty the ring while a camera fills it. */
        sf_evict_through_locked(ring, evict);
        if (ring->corrupt) {
            return SF_CORRUPT;
        }
    }
    store_fields(d, message);
    /* Before A, which makes it visible to whoever acts on head. */
    sf_store_relaxed(&ring->index[seq & (ring->lay.index_len - 1)], desc);
    /* A: everything above is visible to who sees seq. The commit: from here it is a message. */
    sf_store_release(&d->seq, seq);
    /* Release, after seq: at no instant is the block neither claimed nor published (L5). */
    sf_store_release(&d->owner, 0);
    /* B, and H: stored before the sleepers flag is looked at. */
    sf_store_seq(&h->head, seq);
    message->seq = seq;
    return 0;
}

void
sf_discard(struct sf_ring *ring, uint32_t desc)
{
    /* E: our last store to the payload comes before; space.c acquires before it reuses. seq_cst
     * and not only release, because the caller looks at room's sleepers next (H). */
    sf_store_seq(&ring->descs[desc].owner, 0);
}

/* ---- look ---- */

/* Copies what the descriptor says of message `seq`; false if it is another message's by now. */
static bool
load_fields(const struct sf_ring *ring, uint32_t desc, uint64_t seq, struct sf_message *m)
{
    struct sf_desc *d = &ring->descs[desc];
    /* A: acquire, so that the fields are those of seq or of a later message. */
    if (sf_load_acquire(&d->seq) != seq) {
        return false;
    }
    /* Relaxed: a mixture with a later message's fields is found out below, by F. */
    uint32_t kind = sf_load_relaxed(&d->kind);
    m->block_off = sf_load_relaxed(&d->off);
    m->block_len = sf_load_relaxed(&d->len);
    m->payload_len = sf_load_relaxed(&d->payload_len);
    m->stamp_ns = sf_load_relaxed(&d->stamp_ns);
    m->writer_pid = sf_load_relaxed(&d->writer_pid);
    m->meta_len = sf_load_relaxed(&d->meta_len);
    m->dtype[0] = sf_load_relaxed(&d->dtype[0]);
    m->dtype[1] = sf_load_relaxed(&d->dtype[1]);
    for (uint32_t i = 0; i < SF_INLINE_DIMS; i++) {
        m->shape[i] = sf_load_relaxed(&d->shape[i]); /* as the fields above */
    }
    m->ndim = kind & 0xff;
    m->fortran = (kind >> 8 & 1) != 0;
    m->dtype_len = kind >> 16;
    m->desc = desc;
    m->seq = seq;
    return sf_is_current(ring, m);
}

bool
sf_is_current(const struct sf_ring *ring, const struct sf_message *message)
{
    /* F: if any load above saw a new byte, the load below sees that seq has changed. Relaxed is
     * enough after the fence; the pin path's validating load is another one, in sf_pin_bit. */
    sf_fence_acquire();
    return sf_load_relaxed(&ring->descs[message->desc].seq) == message->seq;
}

/* Ranges of a description that was stable while it was loaded. */
static int
check_fields(const struct sf_ring *ring, struct sf_message *m)
{
    uint64_t arena_len = ring->lay.capacity + ring->lay.lane_len;
    if (m->ndim > SF_MAX_DIMS || m->dtype_len > SF_MAX_DTYPE || m->meta_len > SF_MAX_META ||
        m->block_off % SF_LINE != 0 || m->block_off > arena_len ||
        m->block_len > arena_len - m->block_off) {
        return SF_BAD_MESSAGE;
    }
    m->prefix_len = sf_prefix_len(m->ndim, m->dtype_len, m->meta_len);
    if (m->prefix_len > m->block_len || m->payload_len > m->block_len - m->prefix_len) {
        return SF_BAD_MESSAGE;
    }
    m->pinnable =
        m->block_off + m->block_len <= ring->lay.capacity && m->payload_len >= ring->lay.threshold;
    return 0;
}

static bool
load_at(const struct sf_ring *ring, uint64_t seq, struct sf_message *m)
{
    /* Relaxed: a stale entry leads to a descriptor whose seq differs; B settles which it was. */
    uint32_t desc = sf_load_relaxed(&ring->index[seq & (ring->lay.index_len - 1)]);
    /* 0 is no message's number, but every claim's and every free descriptor's. */
    return seq != 0 && desc < ring->lay.desc_len && load_fields(ring, desc, seq, m);
}

/* The oldest number that can still be there, given that `gone` is not; bounded by private N. */
static uint64_t
next_after(const struct sf_ring *ring, uint64_t gone, uint64_t head)
{
    /* Relaxed: a stale tail costs a step more, nothing else; a lying one is bounded here. */
    uint64_t tail = sf_load_relaxed(&ring->header->tail);
    uint64_t next = gone + 1;
    uint64_t floor = head >= ring->lay.index_len ? head - ring->lay.index_len + 1 : 1;
    if (tail <= head + 1 && tail > next) {
        next = tail;
    }
    return next > floor ? next : floor;
}

int
sf_look(const struct sf_ring *ring, uint64_t cursor, struct sf_message *message)
{
    uint64_t at = cursor ? cursor : 1; /* 0 is no number, but what free descriptors have */
    /* Each round moves forward; a writer laps this loop only by publishing N in one round. The
     * bound is for segments that lie. */
    for (uint64_t round = 0; round < 1024 + 2 * (uint64_t)ring->lay.index_len; round++) {
        if (load_at(ring, at, message)) {
            message->lost = at - cursor;
            message->skipped = 0;
            return check_fields(ring, message);
        }
        /* B: after this load, a message that is still there is found. */
        uint64_t head = sf_load_seq(&ring->header->head);
        if (head < at) {
            message->seq = at;
            message->lost = at - cursor;
            return SF_EMPTY;
        }
        if (load_at(ring, at, message)) {
            continue; /* it came between the two loads; take it by the way above */
        }
        at = next_after(ring, at, head);
    }
    return SF_CORRUPT;
}

int
sf_look_newest(const struct sf_ring *ring, uint64_t cursor, struct sf_message *message)
{
    /* B as in look. tail relaxed: it only splits what was passed into lost and skipped. */
    uint64_t head = sf_load_seq(&ring->header->head);
    uint64_t tail = sf_load_relaxed(&ring->header->tail);
    if (head <= cursor) {
        return sf_look(ring, cursor, message);
    }
    int status = sf_look(ring, head, message);
    if (status == SF_EMPTY || status == SF_CORRUPT) {
        return status;
    }
    uint64_t passed = message->seq - cursor;
    uint64_t lost = tail > cursor && tail <= head ? tail - cursor : 0;
    lost += message->lost; /* evicted while we looked at them */
    message->lost = lost < passed ? lost : passed;
    message->skipped = passed - message->lost;
    return status;
}
