/* The memory operations of shmflow: these, and no others.
 *
 * Owns:      the spelling of every access to a word that another thread or process may touch.
 * Does not:  choose an order; each caller names its edge (table at the head of ring.c).
 *
 * Invariants
 *   A1  Every operation is lock-free, so that it means the same in every process that maps the
 *       word and cannot be left half-done by a death.
 *   A2  In a build with SF_FAILPOINTS each store is followed by a point where a test may stop,
 *       kill or delay the caller; in any other build the points are nothing.
 * A crash here leaves: the word before or after the operation, never between.
 */
#ifndef SHMFLOW_ATOMICS_H
#define SHMFLOW_ATOMICS_H

#include <stdatomic.h>
#include <stdint.h>

#if ATOMIC_LLONG_LOCK_FREE != 2 || ATOMIC_INT_LOCK_FREE != 2
#error "shmflow needs a CPU with lock-free 64-bit atomics."
#endif

#ifdef SF_FAILPOINTS
/* Called after every store to shared memory; tests define it. */
void sf_point(const char *file, int line);
#define SF_POINT() sf_point(__FILE__, __LINE__)
#else
#define SF_POINT() ((void)0)
#endif

#define sf_load_relaxed(p) atomic_load_explicit((p), memory_order_relaxed)
#define sf_load_acquire(p) atomic_load_explicit((p), memory_order_acquire)
#define sf_load_seq(p) atomic_load_explicit((p), memory_order_seq_cst)

#define sf_store_relaxed(p, v) (atomic_store_explicit((p), (v), memory_order_relaxed), SF_POINT())
#define sf_store_release(p, v) (atomic_store_explicit((p), (v), memory_order_release), SF_POINT())
#define sf_store_seq(p, v) (atomic_store_explicit((p), (v), memory_order_seq_cst), SF_POINT())

/* Read-modify-writes give back the old value; the failpoint comes after the change. */
#define sf_rmw(type, call)                                                                         \
    __extension__({                                                                                \
        type sf_old = (call);                                                                      \
        SF_POINT();                                                                                \
        sf_old;                                                                                    \
    })
#define sf_xchg_seq32(p, v)                                                                        \
    sf_rmw(uint32_t, atomic_exchange_explicit((p), (v), memory_order_seq_cst))
#define sf_xchg_release32(p, v)                                                                    \
    sf_rmw(uint32_t, atomic_exchange_explicit((p), (v), memory_order_release))
#define sf_add_seq32(p, v)                                                                         \
    sf_rmw(uint32_t, atomic_fetch_add_explicit((p), (v), memory_order_seq_cst))
#define sf_add_relaxed64(p, v)                                                                     \
    sf_rmw(uint64_t, atomic_fetch_add_explicit((p), (v), memory_order_relaxed))
#define sf_or_seq32(p, v) sf_rmw(uint32_t, atomic_fetch_or_explicit((p), (v), memory_order_seq_cst))
#define sf_or_seq64(p, v) sf_rmw(uint64_t, atomic_fetch_or_explicit((p), (v), memory_order_seq_cst))
#define sf_and_release64(p, v)                                                                     \
    sf_rmw(uint64_t, atomic_fetch_and_explicit((p), (v), memory_order_release))

/* Private words only (references, flags of this process): no failpoint. */
#define sf_count_up(p) atomic_fetch_add_explicit((p), 1, memory_order_relaxed)
#define sf_count_down(p) atomic_fetch_sub_explicit((p), 1, memory_order_acq_rel)
#define sf_take_flag(p) atomic_exchange_explicit((p), 0, memory_order_acq_rel)

/* One try; *expected gets what is there when it fails. */
#define sf_cas_acquire(p, expected, desired)                                                       \
    sf_rmw(_Bool, atomic_compare_exchange_strong_explicit(                                         \
                      (p), (expected), (desired), memory_order_acquire, memory_order_relaxed))
#define sf_cas_relaxed(p, expected, desired)                                                       \
    sf_rmw(_Bool, atomic_compare_exchange_strong_explicit(                                         \
                      (p), (expected), (desired), memory_order_relaxed, memory_order_relaxed))

#define sf_fence_acquire() atomic_thread_fence(memory_order_acquire)
#define sf_fence_release() atomic_thread_fence(memory_order_release)
#define sf_fence_seq() atomic_thread_fence(memory_order_seq_cst)

static inline void
sf_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb");
#endif
}

#endif
