/* The floor: what lossless readers have yet to read, which no writer may evict.
 *
 * Owns:      header.floor_seq; what a group's or a reader's cursor is.
 * Does not:  decide who may be lossless (join.c), wait (flow.c) or evict (space.c).
 *
 * A message may be evicted when its number is below the floor: the lowest cursor of all lossless
 * readers, or UINT64_MAX where there is none. Cursors only grow, but for a join and a seek, which
 * hold the writer lock and lower the floor with it. So the stored floor may be too low, never too
 * high: a writer that runs into it computes it again, and only then. A topic without lossless
 * readers pays one comparison.
 *
 * Edge H, once more: a lossless reader stores its cursor, fence (seq_cst), then looks at room's
 * sleepers; a writer sets that flag (sf_room_listen), fence, then loads the cursors here. One of
 * the two sees the other, so no writer sleeps for a message that has been read.
 *
 * Invariants
 *   F1  While the lock is not held, floor_seq <= the cursor of every lossless reader.
 *   F2  What protects is the policy word of a slot: one that is left or cleaned has none, so the
 *       dead protect nothing as soon as their slot is cleaned, and a group without a living
 *       lossless member protects nothing.
 *   F3  Bounded by P, whatever the slots hold; a cursor that lies costs room, as a reader that
 *       does not read does, until its process ends.
 * A crash here leaves: a floor that is too low; rebuild computes it, as any writer that needs room.
 */
#include "core/ring.h"

static const _Atomic uint64_t *
cursor_in(const struct sf_ring *ring, uint32_t slot, uint32_t group)
{
    return group - 1 < SF_GROUPS ? &ring->groups[group - 1].cursor : &ring->slots[slot].cursor;
}

const _Atomic uint64_t *
sf_cursor_of(const struct sf_ring *ring, uint32_t slot)
{
    /* Relaxed: stored under the lock (G), or told to people. */
    return cursor_in(ring, slot, sf_load_relaxed(&ring->slots[slot].group));
}

uint64_t
sf_floor_without(const struct sf_ring *ring, uint32_t but)
{
    uint64_t floor = UINT64_MAX;
    for (uint32_t slot = 0; slot < ring->lay.max_participants; slot++) {
        /* Acquire, and before the policy: who leaves clears that first (join.c), so nobody is taken
         * for a reader of its own who still has the policy of a member. */
        uint32_t group = sf_load_acquire(&ring->slots[slot].group);
        /* Relaxed: set under the lock (G); one that is just given up is seen at the next look. */
        if (slot == but || sf_load_relaxed(&ring->slots[slot].policy) != SF_POLICY_LOSSLESS) {
            continue;
        }
        /* Relaxed: an old value is a lower one. H, for who listens on room. */
        uint64_t cursor = sf_load_relaxed(cursor_in(ring, slot, group));
        floor = cursor < floor ? cursor : floor;
    }
    return floor;
}

bool
sf_raise_floor_locked(struct sf_ring *ring)
{
    uint64_t old = sf_load_relaxed(&ring->header->floor_seq); /* G */
    uint64_t floor = sf_floor_without(ring, SF_NIL);
    if (floor != old) {
        sf_store_relaxed(&ring->header->floor_seq, floor); /* G */
    }
    return floor > old;
}

void
sf_lower_floor_locked(struct sf_ring *ring, uint64_t cursor)
{
    if (cursor < sf_load_relaxed(&ring->header->floor_seq)) { /* G */
        sf_store_relaxed(&ring->header->floor_seq, cursor); /* G */
    }
}

bool
sf_may_evict_locked(struct sf_ring *ring, uint64_t seq)
{
    return seq < sf_load_relaxed(&ring->header->floor_seq) || /* G */
           (sf_raise_floor_locked(ring) && seq < sf_load_relaxed(&ring->header->floor_seq)); /* G */
}
