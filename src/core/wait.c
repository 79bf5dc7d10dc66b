/* Sleeping and waking: readers on `bell`, writers that wait for room on `room`.
 *
 * Owns:      header.bell, header.room.
 * Does not:  know deadlines longer than a slice; callers come again after looking at signals.
 *
 * Edge H   publish: head = s (seq_cst), then      wait: sleepers = 1 (seq_cst), then
 *                   sleepers (seq_cst)                  head and ended (seq_cst)
 *            so: the waker sees the flag, or the sleeper sees the news (Dekker, as edge C).
 *          ring: sleepers 1 -> 0, count + 1,      wait: loads count before it sets the flag, and
 *                then wake                              sleeps only while count is the same
 *            so: a ring between flag and sleep is not lost.
 *          Of many topics: all counts and flags first, then the news of all, then one sleep.
 *
 * Invariants
 *   W1  Only wakers clear the flag. It is a flag and no count: counts leak when a process dies.
 *   W2  No sleep is longer than a slice, since a waker may be killed between store and wake.
 *   W3  count wraps; what a sleeper waits for is a 64-bit number, looked at again after waking.
 *   W4  A monitor stores nothing: it sleeps in short slices instead. So does, of many topics, who
 *       waits for one that does not exist yet, or in a kernel that cannot watch several words.
 *
 * A crash here leaves: the flag set, which costs the next publisher one needless wake.
 */
#include "core/attachment.h"

#include <errno.h>
#include <limits.h>

#define SF_SPIN_MAX_NS 50000u
#define SF_SPIN_MIN_NS 2000u
#define SF_SPIN_TRY 16u /* waits */
#define SF_BRIEF_ROUNDS 64 /* one or two microseconds */
#define SF_MONITOR_NAP_NS UINT64_C(2000000)

void
sf_bell_ring_always(struct sf_bell *bell)
{
    /* H: clear first, so that a sleeper that comes now sets it again for the next ring. */
    sf_xchg_seq32(&bell->sleepers, 0);
    sf_add_seq32(&bell->count, 1);
    (void)os_futex_wake(&bell->count, INT_MAX);
}

void
sf_bell_ring(struct sf_bell *bell)
{
    /* H: the caller has stored its news with seq_cst before. */
    if (sf_load_seq(&bell->sleepers) != 0) {
        sf_bell_ring_always(bell);
    }
}

static bool
has_news(struct sf_attachment *att, uint64_t cursor, const _Atomic uint32_t *closed)
{
    struct sf_header *h = att->ring.header;
    /* H. ended before head: a message published before the end is not overlooked. */
    return (sf_load_seq(&h->ended) & SF_ENDS) != 0 || sf_load_seq(&h->head) >= cursor ||
           (closed && sf_load_seq(closed) != 0);
}

bool
sf_spin_briefly(struct sf_attachment *att, uint64_t cursor, const _Atomic uint32_t *closed)
{
    for (int round = 0; round < SF_BRIEF_ROUNDS; round++) {
        if (has_news(att, cursor, closed)) {
            return true;
        }
        sf_pause();
    }
    return false;
}

/* Looks for a while without sleeping. Yields every few dozen rounds: a wakee is often placed on
 * its waker's core, where a spin that does not yield only adds its length to every round trip. */
static bool
spin(struct sf_attachment *att, uint64_t cursor, uint64_t spin_ns, uint64_t until_ns,
     const _Atomic uint32_t *closed)
{
    uint64_t now = os_now_ns();
    uint64_t end = now + spin_ns < until_ns ? now + spin_ns : until_ns;
    while (now < end) {
        for (int round = 0; round < 32; round++) {
            if (has_news(att, cursor, closed)) {
                return true;
            }
            sf_pause();
        }
        os_yield();
        now = os_now_ns();
    }
    return false;
}

/* How long to look: what has paid lately, and now and then all that may be. Two that answer each
 * other asleep take a hundred microseconds for what takes one awake, and neither would find out by
 * looking a little longer: it takes as long as the other's waking. */
static uint64_t
budget_of(struct sf_attachment *att)
{
    uint32_t unpaid = sf_load_relaxed(&att->spin_unpaid); /* hints, as in learn */
    return unpaid % SF_SPIN_TRY == SF_SPIN_TRY - 1 ? SF_SPIN_MAX_NS
                                                   : sf_load_relaxed(&att->spin_ns);
}

/* Longer where spinning has paid lately, shorter where it has not. Relaxed: hints. */
static void
learn(struct sf_attachment *att, uint64_t budget, bool paid)
{
    uint64_t next = paid ? budget * 2 : sf_load_relaxed(&att->spin_ns) / 2; /* as above */
    next = next < SF_SPIN_MIN_NS ? SF_SPIN_MIN_NS : next > SF_SPIN_MAX_NS ? SF_SPIN_MAX_NS : next;
    sf_store_relaxed(&att->spin_ns, (uint32_t)next); /* as above, and below */
    sf_store_relaxed(&att->spin_unpaid, paid ? 0 : sf_load_relaxed(&att->spin_unpaid) + 1);
}

static int
sleep_on(struct sf_bell *bell, uint32_t count, uint64_t until_ns)
{
    uint64_t slice = os_now_ns() + SF_SLICE_NS;
    int status = os_futex_wait(&bell->count, count, slice < until_ns ? slice : until_ns);
    return status == -EINTR ? SF_INTERRUPTED : status == -ETIMEDOUT ? SF_EMPTY : 0;
}

/* W4. One slice of naps. */
static int
nap(struct sf_attachment *att, uint64_t cursor, uint64_t until_ns, const _Atomic uint32_t *closed)
{
    uint64_t now = os_now_ns();
    uint64_t slice = now + SF_SLICE_NS < until_ns ? now + SF_SLICE_NS : until_ns;
    while (now < slice) {
        uint64_t next = now + SF_MONITOR_NAP_NS < slice ? now + SF_MONITOR_NAP_NS : slice;
        if (os_sleep_until(next) == -EINTR) {
            return SF_INTERRUPTED;
        }
        if (has_news(att, cursor, closed)) {
            return 0;
        }
        now = os_now_ns();
    }
    return SF_EMPTY;
}

/* A name can go without a word: `rm`, or a remover that was killed. Asked at the end of a slice. */
static bool
name_is_gone(struct sf_attachment *att)
{
    uint64_t now = os_now_ns();
    if (now < sf_load_relaxed(&att->next_look_ns)) { /* a hint: at worst twice */
        return false;
    }
    sf_store_relaxed(&att->next_look_ns, now + SF_SLICE_NS / 2); /* as above */
    return !sf_attachment_is_named(att);
}

int
sf_wait_message(struct sf_attachment *att, uint64_t cursor, uint64_t until_ns, int64_t spin_ns,
                const _Atomic uint32_t *closed)
{
    struct sf_bell *bell = &att->ring.header->bell;
    if (has_news(att, cursor, closed)) {
        return 0;
    }
    sf_pages_idle(att);
    uint64_t budget = spin_ns >= 0 ? (uint64_t)spin_ns : budget_of(att);
    bool paid = spin(att, cursor, budget, until_ns, closed);
    if (spin_ns < 0) {
        learn(att, budget, paid);
    }
    if (paid) {
        return 0;
    }
    int status;
    if (att->monitor) {
        status = nap(att, cursor, until_ns, closed);
    }
    else {
        /* H: count, then the flag, then the news; sleep only while count is the same. */
        uint32_t count = sf_load_seq(&bell->count);
        sf_store_seq(&bell->sleepers, 1);
        if (has_news(att, cursor, closed)) {
            return 0;
        }
        status = sleep_on(bell, count, until_ns);
    }
    if (status == SF_EMPTY && has_news(att, cursor, closed)) {
        return 0;
    }
    return status == SF_EMPTY && name_is_gone(att) ? 0 : status;
}

/* ---- many topics, one sleep ---- */

static bool
one_has_news(const struct sf_waited *one, bool napped)
{
    struct os_file_info info;
    if (one->att) {
        return has_news(one->att, one->seq, one->closed);
    }
    /* H, with the Topic's close. The name is looked for only after a nap: it may lead to what
     * cannot be attached to yet, and who looks again would find that again at once. */
    return (one->closed && sf_load_seq(one->closed) != 0) ||
           (napped && os_path_info(one->path, &info) == 0);
}

static bool
any_has_news(const struct sf_waited *waited, unsigned count, bool napped)
{
    for (unsigned i = 0; i < count; i++) {
        if (one_has_news(&waited[i], napped)) {
            return true;
        }
    }
    return false;
}

int
sf_wait_any(const struct sf_waited *waited, unsigned count, uint64_t until_ns)
{
    struct os_watched bells[SF_WAITED_MAX];
    unsigned listening = 0;
    uint64_t now = os_now_ns(), nap_ns = SF_SLICE_NS;
    uint64_t slice = now + SF_SLICE_NS < until_ns ? now + SF_SLICE_NS : until_ns;
    for (unsigned i = 0; i < count; i++) {
        if (!waited[i].att || waited[i].att->monitor) {
            nap_ns = SF_MONITOR_NAP_NS; /* W4 */
            continue;
        }
        struct sf_bell *bell = &waited[i].att->ring.header->bell;
        /* H: count, then the flag; the news of all come after the flags of all. */
        bells[listening].word = &bell->count;
        bells[listening++].expected = sf_load_seq(&bell->count);
        sf_store_seq(&bell->sleepers, 1);
    }
    for (bool napped = false; !any_has_news(waited, count, napped); napped = true) {
        uint64_t next = now + nap_ns < slice ? now + nap_ns : slice;
        int status = listening > 1    ? os_futex_wait_any(bells, listening, next)
                     : listening == 1 ? os_futex_wait(bells[0].word, bells[0].expected, next)
                                      : os_sleep_until(next);
        if (status == -EINTR) {
            return SF_INTERRUPTED;
        }
        if (listening > 0 && (status == 0 || status == -EAGAIN)) {
            return 0;
        }
        if (status < 0 && status != -ETIMEDOUT) { /* refused: W4 */
            listening = 0;
            nap_ns = SF_MONITOR_NAP_NS;
        }
        now = os_now_ns();
        if (now >= slice) {
            for (unsigned i = 0; i < count; i++) {
                if (waited[i].att && name_is_gone(waited[i].att)) {
                    return 0;
                }
            }
            return SF_EMPTY;
        }
    }
    return 0;
}

uint32_t
sf_room_listen(struct sf_attachment *att)
{
    struct sf_bell *bell = &att->ring.header->room;
    /* H, with publish, discard and cleaning as the wakers: what frees room after the claim that
     * the caller is about to try rings after this load. */
    uint32_t count = sf_load_seq(&bell->count);
    sf_store_seq(&bell->sleepers, 1);
    /* H: what frees room (owner, gen, turn) is loaded by space.c with acquire or relaxed; the fence
     * puts those loads behind the flag. */
    sf_fence_seq();
    return count;
}

int
sf_room_sleep(struct sf_attachment *att, uint32_t count, uint64_t until_ns)
{
    return sleep_on(&att->ring.header->room, count, until_ns);
}
