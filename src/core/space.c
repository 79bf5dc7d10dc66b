/* Room: where a new block goes, and what must go for it. All under the writer lock.
 *
 * Owns:      links[], header.first, cursor, free_first, turn; desc.off, len, owner (its start);
 *            header.tail.
 * Does not:  number messages (ring.c) or wait for room (the caller does, outside the lock).
 *
 * Two areas, main and lane. In each, live blocks form a list in address order. A claim looks
 *   1. at the gap at main's start: with a bounded depth it is what was freed longest ago, and
 *      using the same memory again and again keeps it in the caches;
 *   2. from the cursor (behind the block placed last) for a gap: a few blocks far, or a few dozen
 *      with a depth that was asked for; not where the oldest message is what comes next, as in a full
 *      ring that simply goes round;
 *   3. from the area's oldest message for the first run of adjacent gaps and passable blocks that
 *      is long enough, one lap; only then it evicts what is in the run, and everything older, so
 *      that history stays contiguous. Not from the cursor: blocks are numbered in another order
 *      than they were placed, and a run with one of the newest in it costs all that is older;
 *   4. in the lane, by the same steps. Nobody pins the lane, so only a claim that is being
 *      written now can be in the way: wait for that one.
 * Passable: published and not held; retired and let go of; discarded; claimed by a dead owner.
 *
 * Invariants
 *   P1  A claim evicts nothing before a run is known that will fit.
 *   P2  Every walk is bounded by M steps; an index or extent out of range sets ring->corrupt.
 *   P3  A writer that found the lane busy takes the turn; until it has claimed, given up or died,
 *       no other participant claims in the lane. So large messages are not starved by small. One
 *       that has waited for a whole slice claims out of turn: the first in line may be frozen.
 *   P4  Whatever the tables hold, a claim lies within one area, and a lane's block in the lane.
 *   P5  Nothing at or above the floor is evicted (floor.c). It is computed anew only when it was in
 *       the way, once a claim, and then before the lane is looked at: a floor that is merely old sends
 *       no message where readers must copy it.
 *
 * A crash here leaves: links, cursor, tail and free list in any state (all derived), and at most
 * one descriptor with len set and owner ours: a dead one's claim. len is stored last (claim) and
 * cleared last (reap), so a half-written descriptor is a free one.
 */
#include "core/ring.h"

enum { MAIN = 0, LANE = 1 };

#define SF_GAP_STEPS 64u
#define SF_NEAR_STEPS 8u
#define SF_CHEAP_TRIES 5u

struct run {
    uint64_t off;    /* where the block would go */
    uint64_t newest; /* the newest message in it, or 0 */
    uint32_t count;  /* of messages in it */
};

/* ---- words that the lock protects: relaxed, for edge G (lock.c) orders them ---- */

static uint32_t
get(struct sf_ring *ring, _Atomic uint32_t *word)
{
    uint32_t desc = sf_load_relaxed(word); /* G */
    if (desc != SF_NIL && desc >= ring->lay.desc_len) {
        ring->corrupt = true;
        return SF_NIL;
    }
    return desc;
}

static void
set(_Atomic uint32_t *word, uint32_t desc)
{
    sf_store_relaxed(word, desc); /* G */
}

static int
area_of(const struct sf_ring *ring, uint64_t off)
{
    return off < ring->lay.capacity ? MAIN : LANE;
}

static uint64_t
area_start(const struct sf_ring *ring, int area)
{
    return area == MAIN ? 0 : ring->lay.capacity;
}

static uint64_t
area_end(const struct sf_ring *ring, int area)
{
    return ring->lay.capacity + (area == MAIN ? 0 : ring->lay.lane_len);
}

static uint64_t
block_off(struct sf_ring *ring, uint32_t desc)
{
    uint64_t off = sf_load_relaxed(&ring->descs[desc].off); /* G */
    if (off >= area_end(ring, LANE) || off % SF_LINE != 0) {
        ring->corrupt = true;
        return 0;
    }
    return off;
}

static uint64_t
block_end(struct sf_ring *ring, uint32_t desc)
{
    uint64_t off = block_off(ring, desc);
    uint64_t len = sf_load_relaxed(&ring->descs[desc].len); /* G */
    if (len > area_end(ring, area_of(ring, off)) - off || len % SF_LINE != 0) {
        ring->corrupt = true;
        return off;
    }
    return off + len;
}

/* ---- live blocks ---- */

bool
sf_owner_lives(const struct sf_ring *ring, uint32_t owner)
{
    uint32_t slot = sf_owner_slot(owner);
    /* E': acquire with the release of gen by whoever cleaned the slot: it saw the owner dead. */
    return slot < ring->lay.max_participants &&
           (sf_load_acquire(&ring->slots[slot].gen) & SF_GEN_MASK) == sf_owner_gen(owner);
}

static void
insert_after(struct sf_ring *ring, int area, uint32_t prev, uint32_t desc)
{
    _Atomic uint32_t *before =
        prev == SF_NIL ? &ring->header->first[area] : &ring->links[prev].next;
    uint32_t next = get(ring, before);
    set(&ring->links[desc].prev, prev);
    set(&ring->links[desc].next, next);
    set(before, desc);
    if (next != SF_NIL) {
        set(&ring->links[next].prev, desc);
    }
}

static void
push_free(struct sf_ring *ring, uint32_t desc)
{
    set(&ring->links[desc].next, get(ring, &ring->header->free_first));
    set(&ring->header->free_first, desc);
}

/* Frees a block that is nobody's. Whoever pointed at it points at the one before. */
static void
reap(struct sf_ring *ring, uint32_t desc)
{
    int area = area_of(ring, block_off(ring, desc));
    uint32_t prev = get(ring, &ring->links[desc].prev);
    uint32_t next = get(ring, &ring->links[desc].next);
    set(prev == SF_NIL ? &ring->header->first[area] : &ring->links[prev].next, next);
    if (next != SF_NIL) {
        set(&ring->links[next].prev, prev);
    }
    if (get(ring, &ring->header->cursor[area]) == desc) {
        set(&ring->header->cursor[area], prev);
    }
    if (ring->anchor == desc) {
        ring->anchor = prev;
    }
    /* G. owner first: len == 0 must be the last store, it is what makes the block free. */
    sf_store_relaxed(&ring->descs[desc].owner, 0);
    sf_store_release(&ring->descs[desc].len, 0);
    push_free(ring, desc);
}

/* May a run go over this block? Sets *seq if it is a message. Notes one that is neither a message nor
 * room, for it may be a dead one's that nobody has cleaned yet. */
static bool
is_passable(struct sf_ring *ring, int area, uint32_t desc, uint64_t *seq)
{
    struct sf_desc *d = &ring->descs[desc];
    *seq = sf_load_relaxed(&d->seq); /* G: only lock holders store it */
    uint32_t owner = *seq == 0 ? sf_load_acquire(&d->owner) : 0; /* E with discard */
    bool passable = owner != 0 ? !sf_owner_lives(ring, owner)
                               /* G. Below the threshold nobody holds (ring.c, retire). */
                               : area == LANE || sf_load_relaxed(&d->len) < ring->lay.threshold ||
                                     !sf_is_held(ring, desc);
    ring->met_taken |= !passable && *seq == 0;
    return passable;
}

static uint32_t
after(struct sf_ring *ring, int area, uint32_t desc)
{
    return get(ring, desc == SF_NIL ? &ring->header->first[area] : &ring->links[desc].next);
}

/* P5: the stored floor was in the way; true if it is only old, so that a second look is worth it. */
static SF_COLD bool
floor_has_risen(struct sf_ring *ring)
{
    if (ring->corrupt || !ring->met_floor || ring->floor_known) {
        return false;
    }
    ring->floor_known = true; /* one look a claim: readers, and liars, move on meanwhile */
    if (!sf_raise_floor_locked(ring)) {
        return false;
    }
    ring->floor = sf_load_relaxed(&ring->header->floor_seq); /* G */
    ring->met_floor = false;
    return true;
}

/* ---- eviction ---- */

static void
evict_oldest(struct sf_ring *ring, uint64_t seq)
{
    uint32_t desc = get(ring, &ring->index[seq & (ring->lay.index_len - 1)]);
    /* G. A number whose descriptor says otherwise is gone already. */
    if (desc != SF_NIL && sf_load_relaxed(&ring->descs[desc].seq) == seq) {
        bool in_lane = area_of(ring, block_off(ring, desc)) == LANE;
        if (sf_retire_locked(ring, desc, in_lane)) {
            reap(ring, desc);
        }
    }
    /* Release: a monitor that sees the new tail does not find the old message below it. */
    sf_store_release(&ring->header->tail, seq + 1);
}

SF_HOT void
sf_evict_through_locked(struct sf_ring *ring, uint64_t last_seq)
{
    uint64_t tail = sf_load_relaxed(&ring->header->tail); /* G */
    uint64_t head = sf_load_relaxed(&ring->header->head); /* G */
    last_seq = last_seq < head ? last_seq : head;
    if (tail == 0 || tail > head + 1 || head + 1 - tail > ring->lay.index_len) {
        ring->corrupt = true;
        return;
    }
    for (uint64_t seq = tail; seq <= last_seq && !ring->corrupt; seq++) {
        evict_oldest(ring, seq);
    }
}

/* ---- the search ---- */

/* Step 1. Reaps what lies at the area's start and is nobody's; evicts nothing. */
static bool
fits_at_start(struct sf_ring *ring, int area, uint64_t len)
{
    for (uint32_t steps = 0; steps <= ring->lay.desc_len && !ring->corrupt; steps++) {
        uint32_t desc = after(ring, area, SF_NIL);
        uint64_t end = desc == SF_NIL ? area_end(ring, area) : block_off(ring, desc);
        if (end - area_start(ring, area) >= len) {
            return true;
        }
        uint64_t seq;
        if (desc == SF_NIL || !is_passable(ring, area, desc, &seq) || seq != 0) {
            return false;
        }
        reap(ring, desc);
    }
    return false;
}

/* The block before the area's oldest message, or the cursor where that is not among the first. */
static uint32_t
before_oldest(struct sf_ring *ring, int area)
{
    uint64_t tail = sf_load_relaxed(&ring->header->tail); /* G */
    uint64_t head = sf_load_relaxed(&ring->header->head); /* G */
    for (uint64_t seq = tail; seq <= head && seq - tail < SF_NEAR_STEPS; seq++) {
        uint32_t desc = get(ring, &ring->index[seq & (ring->lay.index_len - 1)]);
        if (desc != SF_NIL && area_of(ring, block_off(ring, desc)) == area) {
            return get(ring, &ring->links[desc].prev);
        }
    }
    return get(ring, &ring->header->cursor[area]);
}

/* Steps 2 and 3: the first run behind the block `desc` whose messages all have numbers up to `limit`
 * (0: that has none). Leaves ring->anchor at the block before the run. */
static bool
find_run(struct sf_ring *ring, int area, uint64_t len, uint32_t desc, uint64_t limit,
         uint32_t most_steps, struct run *run)
{
    bool wrapped = desc == SF_NIL;
    uint64_t low = wrapped ? area_start(ring, area) : block_end(ring, desc);
    ring->anchor = desc;
    *run = (struct run){0};
    desc = after(ring, area, desc);
    for (uint32_t steps = 0; steps <= most_steps && !ring->corrupt; steps++) {
        uint64_t high = desc == SF_NIL ? area_end(ring, area) : block_off(ring, desc);
        if (low < area_start(ring, area) || high < low || high > area_end(ring, area)) {
            ring->corrupt = true; /* not in order, or a block of the other area: P4 */
            return false;
        }
        if (high - low >= len) {
            run->off = low;
            return true;
        }
        if (desc == SF_NIL) {
            if (wrapped) {
                return false;
            }
            /* The second half of the lap goes all the way, over the first block too: a run may
             * need the whole area. */
            wrapped = true;
            low = area_start(ring, area);
            ring->anchor = SF_NIL;
            *run = (struct run){0};
            desc = after(ring, area, SF_NIL);
            continue;
        }
        uint64_t seq;
        bool passable = is_passable(ring, area, desc, &seq);
        ring->met_floor |= passable && seq >= ring->floor;
        if (passable && seq <= limit && seq < ring->floor) {
            run->newest = seq > run->newest ? seq : run->newest;
            run->count += seq != 0;
        }
        else {
            low = block_end(ring, desc);
            ring->anchor = desc;
            *run = (struct run){0};
        }
        desc = after(ring, area, desc);
    }
    return false;
}

/* The run for step 3. The first that fits may have one of the newest messages in it, which would
 * cost all that are older: then one that costs half as much is looked for, a few times. */
static bool
find_cheap_run(struct sf_ring *ring, int area, uint64_t len, struct run *run)
{
    uint32_t first = before_oldest(ring, area);
    uint32_t most_steps = 2 * ring->lay.desc_len + 2;
    uint64_t tail = sf_load_relaxed(&ring->header->tail); /* G */
    if (!find_run(ring, area, len, first, UINT64_MAX, most_steps, run)) {
        return false;
    }
    for (uint32_t tries = 0; tries < SF_CHEAP_TRIES && run->newest > tail; tries++) {
        uint64_t cost = run->newest - tail + 1;
        if (cost <= 2 * (uint64_t)run->count) {
            break;
        }
        struct run cheaper;
        uint32_t anchor = ring->anchor;
        if (!find_run(ring, area, len, first, tail + cost / 2 - 1, most_steps, &cheaper)) {
            ring->anchor = anchor;
            break;
        }
        *run = cheaper;
    }
    return !ring->corrupt;
}

/* Evicts and frees what lies in the run; false if a reader was quicker to pin one of them. */
static bool
clear_run(struct sf_ring *ring, int area, uint64_t len, const struct run *run)
{
    if (run->newest != 0) {
        sf_evict_through_locked(ring, run->newest);
    }
    for (uint32_t steps = 0; steps <= ring->lay.desc_len && !ring->corrupt; steps++) {
        uint32_t desc = after(ring, area, ring->anchor);
        if (desc == SF_NIL || block_off(ring, desc) >= run->off + len) {
            return true;
        }
        uint64_t seq;
        bool passable = is_passable(ring, area, desc, &seq);
        if (seq != 0) {
            ring->corrupt = true; /* everything up to run->newest is evicted: it lies */
            return false;
        }
        if (!passable) {
            return false;
        }
        reap(ring, desc);
    }
    return false;
}

/* Is the block the oldest message, in a ring that simply goes round? Then a gap further on is met in its
 * turn, and to look for one would take longer than all the rest. */
static bool
is_next_to_go(struct sf_ring *ring, uint32_t desc)
{
    uint64_t tail = sf_load_relaxed(&ring->header->tail); /* G */
    return ring->lay.asked_depth == 0 && desc != SF_NIL &&
           desc == sf_load_relaxed(&ring->index[tail & (ring->lay.index_len - 1)]) && /* G */
           sf_load_relaxed(&ring->descs[desc].seq) == tail; /* G */
}

static bool
find_room(struct sf_ring *ring, int area, uint64_t len, uint64_t *off)
{
    if (len > area_end(ring, area) - area_start(ring, area)) {
        return false;
    }
    if (fits_at_start(ring, area, len)) {
        ring->anchor = SF_NIL;
        *off = area_start(ring, area);
        return true;
    }
    struct run run;
    /* Where the user has said how many messages to keep there are few blocks, and gaps between
     * them are worth a longer walk. */
    uint32_t steps = ring->lay.asked_depth != 0 ? SF_GAP_STEPS : SF_NEAR_STEPS;
    uint32_t cursor = get(ring, &ring->header->cursor[area]);
    if (!is_next_to_go(ring, after(ring, area, cursor)) &&
        find_run(ring, area, len, cursor, 0, steps, &run) && clear_run(ring, area, len, &run)) {
        *off = run.off;
        return true;
    }
    /* A lost race retires a message, so the rounds are bounded by what was retained. */
    for (uint32_t round = 0; round <= ring->lay.desc_len && !ring->corrupt; round++) {
        if (!find_cheap_run(ring, area, len, &run)) {
            return false;
        }
        if (clear_run(ring, area, len, &run)) {
            *off = run.off;
            return true;
        }
    }
    return false;
}

/* ---- descriptors ---- */

static SF_COLD void
sweep(struct sf_ring *ring, int area)
{
    uint32_t desc = after(ring, area, SF_NIL);
    for (uint32_t steps = 0; desc != SF_NIL && steps <= ring->lay.desc_len; steps++) {
        uint32_t next = after(ring, area, desc);
        uint64_t seq;
        if (is_passable(ring, area, desc, &seq) && seq == 0) {
            reap(ring, desc);
        }
        desc = next;
    }
}

/* L7 makes this find one at once, but for participants with many threads in write. */
static uint32_t
take_free(struct sf_ring *ring)
{
    uint32_t desc = get(ring, &ring->header->free_first);
    if (desc == SF_NIL) {
        sweep(ring, MAIN);
        sweep(ring, LANE);
        for (;;) {
            desc = get(ring, &ring->header->free_first);
            uint64_t tail = sf_load_relaxed(&ring->header->tail); /* G */
            uint64_t head = sf_load_relaxed(&ring->header->head); /* G */
            if (desc != SF_NIL || ring->corrupt || tail > head) {
                break;
            }
            if (tail < ring->floor) {
                sf_evict_through_locked(ring, tail);
                continue;
            }
            ring->met_floor = true;
            if (!floor_has_risen(ring)) {
                break;
            }
        }
    }
    if (desc != SF_NIL) {
        set(&ring->header->free_first, get(ring, &ring->links[desc].next));
    }
    return desc;
}

/* ---- the lane's queue (P3) ---- */

static bool
is_my_turn(struct sf_ring *ring, uint32_t owner)
{
    /* G; give_up_turn clears it without the lock, which at worst is seen one round later. */
    uint32_t turn = sf_load_relaxed(&ring->header->turn);
    return turn == 0 || turn == owner || !sf_owner_lives(ring, turn);
}

void
sf_give_up_turn(struct sf_ring *ring, uint32_t owner)
{
    /* Relaxed: the turn orders nothing; whoever waits looks again when `room` is rung. */
    uint32_t mine = owner;
    if (sf_load_relaxed(&ring->header->turn) == owner) {
        (void)sf_cas_relaxed(&ring->header->turn, &mine, 0);
    }
}

static bool
find_room_in_lane(struct sf_ring *ring, uint32_t owner, uint64_t len, enum sf_lane lane,
                  uint64_t *off)
{
    /* P3's exception is for main that is held for good. Where a lossless reader is all that is in
     * the way, main will be free as it reads on, and the first in line keeps the lane. */
    bool in_turn = lane == SF_LANE_IN_TURN || ring->met_floor;
    if (lane == SF_LANE_NEVER || (in_turn && !is_my_turn(ring, owner))) {
        return false;
    }
    bool found;
    do {
        found = find_room(ring, LANE, len, off);
    } while (!found && floor_has_risen(ring));
    if (!found && is_my_turn(ring, owner)) {
        set(&ring->header->turn, owner);
    }
    return found;
}

/* Main, as far as the floor lets it, then the lane. */
static SF_APART SF_HOT int
search(struct sf_ring *ring, uint32_t owner, uint64_t len, enum sf_lane lane, uint32_t *desc,
       uint64_t *off)
{
    ring->corrupt = ring->met_floor = ring->floor_known = ring->met_taken = false;
    ring->floor = sf_load_relaxed(&ring->header->floor_seq); /* G */
    *desc = take_free(ring);
    if (*desc == SF_NIL) {
        return ring->corrupt ? SF_CORRUPT : ring->met_floor ? SF_LAGGING : SF_NO_ROOM;
    }
    bool found;
    do {
        found = find_room(ring, MAIN, len, off);
    } while (!found && floor_has_risen(ring));
    found = found || (!ring->corrupt && find_room_in_lane(ring, owner, len, lane, off));
    if (!found || ring->corrupt) {
        push_free(ring, *desc);
        return ring->corrupt ? SF_CORRUPT : ring->met_floor ? SF_LAGGING : SF_NO_ROOM;
    }
    return 0;
}

int
sf_claim_locked(struct sf_ring *ring, uint32_t owner, uint64_t len, enum sf_lane lane,
                struct sf_claim *claim)
{
    uint32_t desc;
    uint64_t off = 0;
    len = len == 0 ? SF_LINE : sf_round_up(len, SF_LINE);
    int status = search(ring, owner, len, lane, &desc, &off);
    if (status < 0) {
        return status;
    }
    sf_give_up_turn(ring, owner); /* P3: it has claimed, wherever */
    struct sf_desc *d = &ring->descs[desc];
    /* F: whoever looks at the old message and sees one of the stores below, or one byte of the
     * payload to come, also sees that its seq is gone. */
    sf_fence_release();
    sf_store_relaxed(&d->off, off);
    sf_store_relaxed(&d->owner, owner);
    /* The commit: from here it is a claim (G; rebuild and the writers that pass read it). */
    sf_store_release(&d->len, len);
    int area = area_of(ring, off);
    insert_after(ring, area, ring->anchor, desc);
    set(&ring->header->cursor[area], desc);
    *claim = (struct sf_claim){.off = off,
                               .len = len,
                               .desc = desc,
                               .in_lane = area == LANE,
                               .met_taken = ring->met_taken};
    if (ring->corrupt) {
        sf_store_relaxed(&d->owner, 0); /* nobody's: the rebuild that follows frees it */
        return SF_CORRUPT;
    }
    return 0;
}
