/* What an event loop can wait for, and a thread to feed it: eventfds and native threads.
 *
 * Owns:      eventfd, pthread_create, pthread_join, close_range.
 * Does not:  know what is waited for, or what a thread does.
 *
 * Invariants
 *   V1  A thread made here receives no signal: handlers run where their program expects them.
 *   V2  An eventfd is never blocked on: setting and clearing return at once.
 * A crash here leaves: nothing; descriptors and threads go with their process.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "os/os.h"

#include "os/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#define STACK_LEN (256u * 1024u) /* shallow calls only; what libraries keep per thread lies here */

int
os_event_open(void)
{
    int fd = OS_CALL(-1, eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    return fd < 0 ? -errno : fd;
}

void
os_event_set(int fd)
{
    const uint64_t one = 1;
    ssize_t done;
    do {
        done = OS_CALL(-1, write(fd, &one, sizeof one));
    } while (done < 0 && errno == EINTR);
}

void
os_event_clear(int fd)
{
    uint64_t count;
    ssize_t done;
    do {
        done = OS_CALL(-1, read(fd, &count, sizeof count));
    } while (done < 0 && errno == EINTR);
}

int64_t
os_event_id(int fd)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    int info = OS_CALL(-1, open(path, O_RDONLY | O_CLOEXEC));
    if (info < 0) {
        return -1;
    }
    ssize_t got = OS_CALL(-1, read(info, text, sizeof text - 1));
    (void)os_file_close(info);
    text[got < 0 ? 0 : got] = 0;
    const char *at = strstr(text, "eventfd-id:");
    return at ? strtoll(at + strlen("eventfd-id:"), NULL, 10) : -1;
}

/* An owner without O_ASYNC receives no signal; it belongs to the description, whatever number that
 * has, and a thread's id is no other's while the thread lives. */
int
os_event_mark(int fd)
{
    struct f_owner_ex owner = {F_OWNER_TID, (pid_t)syscall(SYS_gettid)};
    return OS_CALL(-1, fcntl(fd, F_SETOWN_EX, &owner)) < 0 ? -errno : owner.pid;
}

bool
os_event_has_mark(int fd, int mark)
{
    struct f_owner_ex owner = {0, 0};
    /* No fault is tried: it fails for a number that is closed, and for nothing else. */
    return syscall(SYS_fcntl, fd, F_GETOWN_EX, &owner) == 0 && owner.type == F_OWNER_TID &&
           owner.pid == mark;
}

int
os_thread_start(pthread_t *thread, void *(*run)(void *), void *context)
{
    pthread_attr_t attr;
    sigset_t all, before;
    int status = OS_CALL(os_error, pthread_attr_init(&attr));
    if (status != 0) {
        return -status;
    }
    /* Where libraries ask for more, the thread is refused the small stack and gets the usual one. */
    (void)pthread_attr_setstacksize(&attr, STACK_LEN);
    sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    status = OS_CALL(os_error, pthread_create(thread, &attr, run, context));
    if (status == EINVAL) {
        status = OS_CALL(os_error, pthread_create(thread, NULL, run, context));
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void)pthread_attr_destroy(&attr);
    if (status == 0) {
        (void)pthread_setname_np(*thread, "shmflow");
    }
    return -status;
}

void
os_thread_join(pthread_t thread)
{
    (void)OS_CALL(os_error, pthread_join(thread, NULL));
}

#ifndef SYS_close_range
#define SYS_close_range 436
#endif
enum { UNSHARE_FIRST = 2 }; /* CLOSE_RANGE_UNSHARE; old headers have neither */

struct apart {
    void (*run)(void *);
    void *context;
    int status;
};

static long
leave_table(void)
{
    return syscall(SYS_close_range, 0u, ~0u, UNSHARE_FIRST);
}

static void *
run_apart(void *context)
{
    struct apart *apart = context;
    if (OS_CALL(-1, leave_table()) < 0) {
        apart->status = -errno;
        return NULL;
    }
    apart->run(apart->context);
    return NULL;
}

int
os_run_apart(void (*run)(void *), void *context)
{
    struct apart apart = {run, context, 0};
    pthread_t thread;
    int status = os_thread_start(&thread, run_apart, &apart);
    if (status < 0) {
        return status;
    }
    os_thread_join(thread);
    return apart.status;
}
