/* What processes and threads synchronise with: OFD locks, futexes, clocks.
 *
 * Owns:      fcntl locks, the futex call, clock_gettime, sched_yield.
 * Does not:  decide how long to wait, or what a lock or a word means.
 *
 * Invariants
 *   S1  Locks are open-file-description locks only: a POSIX lock would vanish with any close()
 *       of the same file in the process, and report a living process as dead.
 *   S2  Futexes are shared (no FUTEX_PRIVATE_FLAG) and wait for an absolute CLOCK_MONOTONIC time.
 * A crash here leaves: locks that the kernel drops with the last reference to the description.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "os/os.h"

#include "os/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int
call_lock(int fd, int command, short type, uint64_t first, uint64_t count, struct flock *lock)
{
    *lock = (struct flock){
        .l_type = type,
        .l_whence = SEEK_SET,
        .l_start = (off_t)first,
        .l_len = (off_t)count,
    };
    int status;
    do {
        status = OS_CALL(-1, fcntl(fd, command, lock));
    } while (status < 0 && errno == EINTR);
    return status < 0 ? -errno : 0;
}

int
os_lock_try(int fd, uint64_t first, uint64_t count)
{
    struct flock lock;
    int status = call_lock(fd, F_OFD_SETLK, F_WRLCK, first, count, &lock);
    return status == -EACCES ? -EAGAIN : status;
}

int
os_lock_drop(int fd, uint64_t first, uint64_t count)
{
    struct flock lock;
    return call_lock(fd, F_OFD_SETLK, F_UNLCK, first, count, &lock);
}

int
os_lock_test(int fd, uint64_t first, uint64_t count)
{
    struct flock lock;
    int status = call_lock(fd, F_OFD_GETLK, F_WRLCK, first, count, &lock);
    return status < 0 ? status : lock.l_type != F_UNLCK;
}

static struct timespec
to_timespec(uint64_t ns)
{
    return (struct timespec){
        .tv_sec = (time_t)(ns / 1000000000u),
        .tv_nsec = (long)(ns % 1000000000u),
    };
}

static long
futex_wait(_Atomic uint32_t *word, uint32_t expected, const struct timespec *until)
{
    return syscall(SYS_futex, word, FUTEX_WAIT_BITSET, expected, until, NULL,
                   FUTEX_BITSET_MATCH_ANY);
}

int
os_futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t until_ns)
{
    struct timespec until = to_timespec(until_ns);
    long status = OS_CALL(-1, futex_wait(word, expected, &until));
    return status < 0 ? -errno : 0;
}

/* As the kernel has them; <linux/futex.h> and libc before 5.16 do not. Time has 64 bits anywhere. */
struct waiter {
    uint64_t expected, address;
    uint32_t flags, reserved;
};
struct until {
    int64_t seconds, ns;
};
enum { WAITER_IS_32_BITS = 2 }; /* FUTEX2_SIZE_U32; not private, by S2 */
#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

static long
futex_waitv(const struct waiter *waiters, unsigned count, const struct until *until)
{
    return syscall(SYS_futex_waitv, waiters, count, 0, until, CLOCK_MONOTONIC);
}

int
os_futex_wait_any(const struct os_watched *watched, unsigned count, uint64_t until_ns)
{
    struct waiter waiters[OS_WATCHED_MAX];
    for (unsigned i = 0; i < count; i++) {
        waiters[i] = (struct waiter){
            .expected = watched[i].expected,
            .address = (uintptr_t)watched[i].word,
            .flags = WAITER_IS_32_BITS,
        };
    }
    struct until until = {
        .seconds = (int64_t)(until_ns / 1000000000u),
        .ns = (int64_t)(until_ns % 1000000000u),
    };
    long status = OS_CALL(-1, futex_waitv(waiters, count, &until));
    return status < 0 ? -errno : 0;
}

int
os_futex_wake(_Atomic uint32_t *word, int count)
{
    long status = OS_CALL(-1, syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0));
    return status < 0 ? -errno : (int)status;
}

static uint64_t
read_clock(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t
os_now_ns(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

uint64_t
os_realtime_ns(void)
{
    return read_clock(CLOCK_REALTIME);
}

int
os_sleep_until(uint64_t until_ns)
{
    struct timespec until = to_timespec(until_ns);
    return -OS_CALL(os_error, clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL));
}

void
os_yield(void)
{
    (void)sched_yield();
}
