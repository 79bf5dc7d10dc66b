/* The ring: how a message gets a number, is found by it, is held, and is taken away.
 *
 * Owns:      struct sf_ring, the process's view of one segment's control regions; the functions
 *            of ring.c (publish, look, pin, retire), space.c (claim) and rebuild.c.
 * Does not:  lock, wait, map, or touch payload bytes. `_locked` names say that the caller holds
 *            the writer lock; all others may run in any process at any time.
 *
 * Invariants: L1 … L7 of layout.h; R1 … R5 at the head of ring.c.
 * A crash leaves: what rebuild.c mends.
 */
#ifndef SHMFLOW_RING_H
#define SHMFLOW_RING_H

#include "core/layout.h"
#include "core/status.h"

#include <stdbool.h>

struct sf_ring {
    struct sf_layout lay;
    struct sf_header *header;
    struct sf_participant *slots;
    struct sf_group *groups;
    _Atomic uint32_t *index;
    struct sf_desc *descs;
    struct sf_link *links;
    _Atomic uint64_t *more_holders;
    _Atomic uint64_t *scratch;
    /* Private to the lock's holder: a table was found to be out of range; the tables were rebuilt,
     * so that bells are due after unlock; the block after which a claim will put its own; the floor
     * that a claim keeps to, whether it was in the way, whether it was computed anew for it; whether
     * the claim met a block that is neither a message nor room. */
    bool corrupt, mended, met_floor, floor_known, met_taken;
    uint32_t anchor;
    uint64_t floor;
};

/* A message as it travels between the ring and its user; private memory, ranges checked. */
struct sf_message {
    uint64_t seq;
    uint64_t stamp_ns;
    uint64_t block_off, block_len; /* in the arena */
    uint64_t prefix_len; /* dims, dtype and meta that do not fit the descriptor */
    uint64_t payload_len;
    uint64_t shape[SF_INLINE_DIMS]; /* when ndim <= SF_INLINE_DIMS */
    uint64_t dtype[SF_INLINE_DTYPE / 8];
    uint64_t lost; /* set by look: how many were gone between the cursor and this one */
    uint64_t skipped; /* set by look at the newest: how many were still there, passed over */
    uint32_t desc;
    uint32_t writer_pid;
    uint32_t ndim, dtype_len, meta_len;
    bool fortran;
    bool pinnable; /* not in the lane, and large enough to be held */
};

/* Lays the ring over `base` (the start of the file's mapping). Touches nothing. */
void sf_ring_bind(struct sf_ring *ring, const struct sf_layout *layout, void *base);

/* Bytes before the payload, from ndim, dtype_len and meta_len; a multiple of 64. */
uint64_t sf_prefix_len(uint32_t ndim, uint32_t dtype_len, uint32_t meta_len);

/* ---- ring.c: publish and look, retire and pin ---- */

/* Would the next message have to evict one that a lossless reader has yet to read? 0, SF_LAGGING,
 * SF_CORRUPT. */
int sf_may_publish_locked(struct sf_ring *ring);
/* Publishes claim `desc` as the next message, with what `message` says of it; evicts what
 * exceeds the depth. Sets message->seq. Never blocks. SF_LAGGING as above: nothing has been stored.
 * SF_CORRUPT asks for a rebuild. */
SF_APART int sf_publish_locked(struct sf_ring *ring, uint32_t desc, struct sf_message *message);
/* Gives a claim back; one store, no lock. The writer that passes frees the block. */
void sf_discard(struct sf_ring *ring, uint32_t desc);
/* Ends message-hood of a block; true if nobody holds it, so that it may be freed now. */
bool sf_retire_locked(struct sf_ring *ring, uint32_t desc, bool in_lane);

/* The message at `cursor`, or the oldest one after it that is still there. SF_EMPTY: none yet.
 * SF_BAD_MESSAGE: message->seq is there but its description is out of range. Lock-free. */
int sf_look(const struct sf_ring *ring, uint64_t cursor, struct sf_message *message);
/* The same for the newest message at or after `cursor`. */
int sf_look_newest(const struct sf_ring *ring, uint64_t cursor, struct sf_message *message);
/* After copying from a block: was it still the message that look described? Wait-free. */
bool sf_is_current(const struct sf_ring *ring, const struct sf_message *message);

/* Sets the participant's bit; true if the message is still there, so that its block stays as it
 * is until unpin. false leaves no bit behind. Wait-free. */
bool sf_pin_bit(struct sf_ring *ring, uint32_t desc, uint32_t slot, uint64_t seq);
void sf_unpin_bit(struct sf_ring *ring, uint32_t desc, uint32_t slot);
/* Sets the bit on a claim that the participant owns, before it is published. */
void sf_pin_own_claim(struct sf_ring *ring, uint32_t desc, uint32_t slot);
/* Does anybody look at the block? (D) */
bool sf_is_held(const struct sf_ring *ring, uint32_t desc);
/* The word of a block's holders that has the slot's bit. */
_Atomic uint64_t *sf_holders_word(const struct sf_ring *ring, uint32_t desc, uint32_t slot);

/* ---- space.c: room for a block ---- */

enum sf_lane {
    SF_LANE_NEVER, /* a loan: its block will be held */
    SF_LANE_IN_TURN, /* a write */
    SF_LANE_NOW, /* a write that has waited for a slice: whoever is first may be frozen */
};
/* Finds and takes `len` bytes; evicts what is in the way, up to the floor. SF_NO_ROOM, SF_LAGGING
 * (a lossless reader has yet to read what is in the way): wait on `room` and come again (then
 * sf_give_up_turn when giving up). */
struct sf_claim {
    uint64_t off, len; /* private copies: the shared ones are a peer's to spoil */
    uint32_t desc;
    bool in_lane;
    bool
        met_taken; /* a block that is neither a message nor room was in the way: maybe a dead one's */
};
SF_APART int sf_claim_locked(struct sf_ring *ring, uint32_t owner, uint64_t len, enum sf_lane lane,
                             struct sf_claim *claim);
/* Evicts all messages up to and with `last_seq`; the caller has asked the floor. */
SF_APART void sf_evict_through_locked(struct sf_ring *ring, uint64_t last_seq);
/* Leaves the queue for the lane. Lock-free. */
void sf_give_up_turn(struct sf_ring *ring, uint32_t owner);
/* Is the participant that this owner word names still attached under that generation? */
bool sf_owner_lives(const struct sf_ring *ring, uint32_t owner);

/* ---- floor.c ---- */

/* Where the reader in this slot stands: its own cursor, or its group's. */
const _Atomic uint64_t *sf_cursor_of(const struct sf_ring *ring, uint32_t slot);
/* The lowest cursor of all lossless readers but the one in slot `but`; UINT64_MAX: there is none. */
SF_COLD uint64_t sf_floor_without(const struct sf_ring *ring, uint32_t but);
/* Computes the floor anew; true if it is higher now. */
SF_COLD bool sf_raise_floor_locked(struct sf_ring *ring);
/* A lossless reader is about to stand at `cursor`. */
void sf_lower_floor_locked(struct sf_ring *ring, uint64_t cursor);
/* Has every lossless reader read message `seq`? */
bool sf_may_evict_locked(struct sf_ring *ring, uint64_t seq);

/* ---- rebuild.c ---- */

/* Recomputes everything from the descriptor table. Idempotent. SF_CORRUPT when the table
 * contradicts itself. Also makes a fresh, zeroed segment usable. The caller rings the bells. */
SF_COLD int sf_rebuild_locked(struct sf_ring *ring);
#ifdef SF_DEBUG
/* Stops the program if an invariant of L5 … L7 does not hold. */
void sf_check_locked(struct sf_ring *ring);
#endif

#endif
