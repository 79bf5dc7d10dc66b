/* The writer lock: one futex word that names its holder, so that a dead one's can be taken.
 *
 * Owns:      header.lock.
 * Does not:  protect readers from anything: no reader ever takes it.
 *
 * The word: 0, or the holder's owner word (slot and its generation), maybe with SF_WAITERS.
 * No pthread object: their layouts differ between libcs, and robust and PI ones compare thread
 * ids, which mean nothing across PID namespaces.
 *
 * Edge G   unlock: word = 0 (release)            lock: 0 -> mine (acquire)
 *            so: what was done under the lock is seen under the next
 *          steal: dead's word -> mine (acquire)  nothing was released by the dead: the kernel
 *            orders a dead process's stores before its byte's lock is free, and rebuild trusts
 *            only words whose every intermediate state it knows
 *
 * Invariants
 *   K1  Held across neither a system call (the clock is the vDSO's), nor an allocation, nor user
 *       code, nor the GIL's taking.
 *   K2  Stolen only by exchanging the exact word of an owner whose generation is gone, which only
 *       the holder of its freed byte can make so (V2). A frozen process keeps its lock.
 *   K3  A lock taken with SF_WAITERS set is passed on: its unlock wakes one.
 *   K4  Any time-out, however short, probes the holder before it gives up.
 *
 * A crash with the lock held leaves: the word. Waiters find out within a slice, steal, rebuild.
 */
#include "core/attachment.h"

#include <errno.h>

#define SF_LOCK_SPIN 200

int
sf_lock_try(struct sf_attachment *att)
{
    uint32_t nobody = 0;
    /* G */
    return sf_cas_acquire(&att->ring.header->lock, &nobody, att->owner) ? 0 : SF_BUSY;
}

void
sf_unlock(struct sf_attachment *att)
{
    _Atomic uint32_t *lock = &att->ring.header->lock;
    bool mended = att->ring.mended;
    att->ring.mended = false;
#ifdef SF_DEBUG
    if (!att->ring.corrupt) {
        sf_check_locked(&att->ring);
    }
#endif
    /* G; the old word tells whether anybody sleeps. After it, the lock is another's. */
    if ((sf_xchg_release32(lock, 0) & SF_WAITERS) != 0) {
        (void)os_futex_wake(lock, 1);
    }
    if (mended) {
        /* A message may have been rolled forward, claims of the dead freed. */
        sf_bell_ring_always(&att->ring.header->bell);
        sf_bell_ring_always(&att->ring.header->room);
    }
}

/* K2. True if the lock is mine now. */
static bool
steal(struct sf_attachment *att, uint32_t word)
{
    uint32_t seen = word;
    /* G; waiters may be asleep on it: K3. */
    return sf_cas_acquire(&att->ring.header->lock, &seen, att->owner | SF_WAITERS);
}

static int
take_over(struct sf_attachment *att)
{
    int status = sf_rebuild_locked(&att->ring);
    if (status < 0) {
        att->ring.corrupt = true;
        sf_unlock(att);
    }
    return status;
}

int
sf_lock_wait(struct sf_attachment *att, uint64_t until_ns)
{
    _Atomic uint32_t *lock = &att->ring.header->lock;
    /* Sections are shorter than a sleep and a wake: try for a while first. */
    for (int spin = 0; spin < SF_LOCK_SPIN && until_ns != 0; spin++) {
        if (sf_load_relaxed(lock) == 0 && sf_lock_try(att) == 0) { /* a hint; G in try */
            return 0;
        }
        if (spin % 32 == 31) {
            os_yield();
        }
        sf_pause();
    }
    bool slept = false;
    for (;;) {
        uint32_t word = sf_load_relaxed(lock); /* a hint: each branch exchanges the exact word */
        if (word == 0) {
            /* Others may sleep behind us, and we cannot know: K3. */
            if (sf_cas_acquire(lock, &word, att->owner | SF_WAITERS)) {
                return 0;
            }
            continue;
        }
        if (!sf_owner_lives(&att->ring, word)) {
            if (steal(att, word)) {
                return take_over(att);
            }
            continue;
        }
        uint64_t now = os_now_ns();
        if (now >= until_ns) {
            if (sf_probe_dead(att, word)) { /* K4 */
                continue;
            }
            if (slept && (word & SF_WAITERS) == 0 &&
                !sf_cas_relaxed(lock, &word, word | SF_WAITERS)) {
                continue; /* we were woken on behalf of all who sleep: pass it on (K3) */
            }
            return sf_attachment_has_gone(att) ? SF_GONE : SF_BUSY;
        }
        if ((word & SF_WAITERS) == 0 && !sf_cas_relaxed(lock, &word, word | SF_WAITERS)) {
            continue; /* relaxed: the bit asks to be woken, it orders nothing */
        }
        uint64_t slice = now + SF_SLICE_NS;
        int status = os_futex_wait(lock, word | SF_WAITERS, slice < until_ns ? slice : until_ns);
        if (status == -EINTR) {
            return SF_INTERRUPTED;
        }
        slept = true;
        if (status == -ETIMEDOUT && !sf_probe_dead(att, word) && sf_attachment_has_gone(att)) {
            return SF_GONE; /* a dead holder cannot be probed once the name is gone */
        }
    }
}
