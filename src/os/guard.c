/* Files that shrink under a mapping: SIGBUS, answered with zeros where a program asked for that.
 *
 * Owns:      the SIGBUS handler, and the list of mappings that it answers for.
 * Does not:  do anything before os_guard_begin: handlers are the program's, not a library's.
 *
 * A page past the end of a file that somebody truncated is replaced by an anonymous one: the access
 * goes on, reads zeros, and what is stored there is lost with the file. Every reader of a segment
 * bears any contents (layout.h, L4), zeros too.
 *
 * Invariants
 *   D1  The handler only loads atomics and calls mmap: it may come at any instruction.
 *   D2  An entry is never freed, and is used again; `at` is stored last, and taken away first.
 *   D3  A SIGBUS at another address is whose it was before: the old handler is put back, and the
 *       instruction faults again.
 * A crash here leaves: nothing.
 *
 * Globals: guarded (the list), begun, before: one process's own, never reset.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "os/os.h"

#include "os/fault.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>

struct entry {
    struct entry *next; /* constant once it is in the list */
    _Atomic uintptr_t at; /* 0: free */
    _Atomic size_t len;
};

static _Atomic(struct entry *) guarded;
static _Atomic uint32_t begun;
static struct sigaction before;

static bool
replace_page(uintptr_t address)
{
    size_t page = os_page_len();
    for (struct entry *e = atomic_load_explicit(&guarded, memory_order_acquire); e; e = e->next) {
        /* Acquire: with add's release, so that len is at's. */
        uintptr_t at = atomic_load_explicit(&e->at, memory_order_acquire);
        size_t len = atomic_load_explicit(&e->len, memory_order_relaxed); /* as above */
        if (at != 0 && address >= at && address - at < len) {
            void *where = (void *)(address / page * page);
            int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
            return mmap(where, page, PROT_READ | PROT_WRITE, flags, -1, 0) != MAP_FAILED;
        }
    }
    return false;
}

static void
answer(int signal, siginfo_t *info, void *context)
{
    (void)context;
    int kept = errno;
    if (info->si_code != BUS_ADRERR || !replace_page((uintptr_t)info->si_addr)) {
        (void)sigaction(signal, &before, NULL); /* D3 */
    }
    errno = kept;
}

int
os_guard_begin(void)
{
    /* Relaxed, here and below: told in one thread before it maps what is to be guarded. */
    if (atomic_load_explicit(&begun, memory_order_relaxed) != 0) {
        return 0;
    }
    struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    if (OS_CALL(-1, sigaction(SIGBUS, &action, &before)) < 0) {
        return -errno;
    }
    atomic_store_explicit(&begun, 1, memory_order_relaxed); /* as above */
    return 0;
}

/* Takes a free entry, or makes one. Without memory the mapping is not guarded. */
void
os_guard_add(void *at, size_t len)
{
    if (atomic_load_explicit(&begun, memory_order_relaxed) == 0) { /* as in begin */
        return;
    }
    for (struct entry *e = atomic_load_explicit(&guarded, memory_order_acquire); e; e = e->next) {
        uintptr_t free_one = 0;
        /* Acquire and release: 1 is no address, and keeps the entry while len is stored. */
        if (atomic_compare_exchange_strong(&e->at, &free_one, 1)) {
            atomic_store_explicit(&e->len, len, memory_order_relaxed); /* told by at's release */
            atomic_store_explicit(&e->at, (uintptr_t)at, memory_order_release); /* D2 */
            return;
        }
    }
    struct entry *e = os_alloc(sizeof *e);
    if (!e) {
        return;
    }
    atomic_store_explicit(&e->len, len, memory_order_relaxed); /* private yet */
    atomic_store_explicit(&e->at, (uintptr_t)at, memory_order_relaxed); /* as above */
    e->next = atomic_load_explicit(&guarded, memory_order_relaxed); /* the exchange looks again */
    while (!atomic_compare_exchange_weak(&guarded, &e->next, e)) {
    }
}

void
os_guard_remove(const void *at)
{
    if (atomic_load_explicit(&begun, memory_order_relaxed) == 0) { /* as in begin */
        return;
    }
    for (struct entry *e = atomic_load_explicit(&guarded, memory_order_acquire); e; e = e->next) {
        uintptr_t mine = (uintptr_t)at;
        if (atomic_compare_exchange_strong(&e->at, &mine, 0)) { /* D2: before it is unmapped */
            return;
        }
    }
}
