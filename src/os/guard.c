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
 *   D2  An entry is whose count of claims it found to be 0; `at` is stored last, taken away first.
 *       Plain accesses to these words are atomic, and in one order.
 *   D3  A SIGBUS at another address is whose it was before: the old handler is put back, and the
 *       instruction faults again.
 * A crash here leaves: nothing.
 *
 * Globals: guarded, begun, before: one process's own, never reset.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "os/os.h"

#include "os/fault.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>

enum { MOST = 4096 }; /* what comes then is not guarded */

static struct {
    _Atomic uint32_t claims;
    _Atomic uintptr_t at;
    _Atomic size_t len;
} guarded[MOST];
static _Atomic uint32_t begun;
static struct sigaction before;

static bool
replace_page(uintptr_t address)
{
    size_t page = os_page_len();
    for (unsigned i = 0; i < MOST; i++) {
        uintptr_t at = guarded[i].at;
        if (at != 0 && address >= at && address - at < guarded[i].len) {
            void *where = (void *)(address / page * page);
            int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
            return OS_CALL(MAP_FAILED, mmap(where, page, PROT_READ | PROT_WRITE, flags, -1, 0)) !=
                   MAP_FAILED;
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
    if (begun != 0) {
        return 0;
    }
    struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    if (OS_CALL(-1, sigaction(SIGBUS, &action, &before)) < 0) {
        return -errno;
    }
    begun = 1;
    return 0;
}

void
os_guard_add(void *at, size_t len)
{
    for (unsigned i = 0; begun != 0 && i < MOST; i++) {
        if (guarded[i].claims == 0) { /* a hint */
            if (guarded[i].claims++ == 0) {
                guarded[i].len = len;
                guarded[i].at = (uintptr_t)at;
                return;
            }
            guarded[i].claims--;
        }
    }
}

void
os_guard_remove(const void *at)
{
    for (unsigned i = 0; begun != 0 && i < MOST; i++) {
        if (guarded[i].at == (uintptr_t)at) {
            guarded[i].at = 0; /* before it is unmapped, and another has the address */
            guarded[i].claims--;
            return;
        }
    }
}
