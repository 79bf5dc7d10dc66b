/* The only system calls of shmflow, as thin functions that return >= 0 or -errno.
 *
 * Owns:      the calls themselves: files, memory, OFD locks, futexes, clocks, process facts, eventfds.
 * Does not:  know the segment's layout, retry policies, or what a status means to a user.
 *
 * Invariants
 *   O1  Every file descriptor is O_CLOEXEC; no function leaves one open on failure.
 *   O2  No function creates, truncates or removes a file that it was not told to.
 *   O3  No function touches shared memory, except the futex calls, which read one word.
 *   O4  Each goes through OS_CALL (fault.h), so that tests can make it fail.
 * A crash here leaves: at most an unnamed file (the kernel frees it) or, on file systems without
 * O_TMPFILE, a file named `.shmflow-<random>` that `shmflow.clean()` removes.
 */
#ifndef SHMFLOW_OS_H
#define SHMFLOW_OS_H

#ifndef __linux__
#error "shmflow needs Linux: it is built on futexes and open-file-description locks."
#endif

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- files (file.c) ---- */

struct os_file_info {
    uint64_t dev, ino, size, nlink;
    uint64_t allocated; /* bytes that it really has; fewer than size where there are holes */
    uint32_t uid, mode; /* mode: permission bits only */
    bool is_regular;
};

/* Opens an existing file, never following a last symlink, never blocking on a fifo. */
int os_file_open(const char *path, bool writable);
int os_file_close(int fd);
int os_file_info(int fd, struct os_file_info *info);
/* Like os_file_info for a path; a symlink is reported as itself (not regular). */
int os_path_info(const char *path, struct os_file_info *info);

/* An empty file in `dir` that has no name yet; where the file system knows no O_TMPFILE, or there is
 * no /proc to name such a file by, it has a temporary one, written to tmp (else tmp[0] is 0). */
int os_file_create(const char *dir, uint32_t permissions, char tmp[64]);
/* Another description of that file. */
int os_file_open_again(int fd, const char *dir, const char *tmp);
int os_file_resize(int fd, uint64_t len);
/* Reserves real memory for [off, off+len). -ENOSPC is an answer, -EINTR asks to come again. */
int os_file_reserve(int fd, uint64_t off, uint64_t len);
/* Writes zeros over what holds none but zeros: its pages are ready then. As much as can be. */
void os_file_clear(int fd, uint64_t off, uint64_t len);
/* Gives the file its name; -EEXIST if another has it. The temporary name, if any, goes. */
int os_file_publish(int fd, const char *dir, const char *tmp, const char *path);
/* For a file that takes another's place: gives it a temporary name, if it has none; then, in one step,
 * the other one's name. */
int os_file_stand_by(int fd, const char *dir, char tmp[64]);
int os_file_replace(const char *dir, const char *tmp, const char *path);
/* Drops what os_file_create made before it was published. */
void os_file_abandon(int fd, const char *dir, const char *tmp);
int os_file_remove(const char *path);
/* Would os_file_remove be permitted? 0, -EACCES, or why it cannot be told. Looks at the folder's write and sticky bits. */
int os_may_remove(const char *path);
/* The path from the root, for a later chdir; -ENAMETOOLONG. */
int os_absolute(const char *path, char *out, size_t len);
/* Free and total bytes of the file system that holds path; UINT64_MAX and 0 where it has no limit. */
int os_space(const char *path, uint64_t *free_len, uint64_t *total_len);
/* Bytes that this process's memory cgroup still admits; UINT64_MAX where none limits. */
uint64_t os_cgroup_room(void); /* cgroup.c */

/* ---- memory (memory.c) ---- */

/* Zeroed, or as it comes; NULL when there is none. Text is copied. */
void *os_alloc(size_t len);
void *os_alloc_raw(size_t len);
char *os_copy_text(const char *text);
void os_free(void *at);

int os_map(int fd, uint64_t off, size_t len, bool writable, void **out);
/* Has the file that is mapped at `at` lost its last name? False where that cannot be told. Reads
 * all of /proc/self/maps. */
bool os_map_is_nameless(const void *at);
int os_map_private(size_t len, void **out);
/* Replaces what is mapped at `at` by nothing accessible, keeping the addresses taken. */
int os_map_void(void *at, size_t len);
/* Moves a private mapping over `at`. */
int os_map_move(void *from, size_t len, void *at);
void os_unmap(void *at, size_t len);
void os_map_no_dump(void *at, size_t len);
int os_map_no_fork(void *at, size_t len);
int os_map_wipe_on_fork(void *at, size_t len);
/* Fill page tables ahead of use, no error where a kernel cannot: populate allocates and clears what
 * is missing, for writing; touch maps what is there already, for less. */
void os_map_populate(void *at, size_t len);
void os_map_touch(const void *at, size_t len);
int os_map_read_only(void *at, size_t len);
int os_map_writable(void *at, size_t len);
size_t os_page_len(void);

/* From now on, who touches a mapping of os_map past the end of its file, which somebody has cut, finds
 * zeros: for programs that look at everybody's files, and own the process's SIGBUS (guard.c). */
int os_guard_begin(void);
void os_guard_add(void *at, size_t len); /* by os_map and os_unmap */
void os_guard_remove(const void *at);

/* ---- locks, futexes, clocks (sync.c) ---- */

/* Open-file-description write locks on [first, first+count) of fd's file. try: 0 or -EAGAIN.
 * test: 1 if another description holds any of them, 0 if none does. */
int os_lock_try(int fd, uint64_t first, uint64_t count);
int os_lock_drop(int fd, uint64_t first, uint64_t count);
int os_lock_test(int fd, uint64_t first, uint64_t count);

/* Sleeps while *word == expected, at most until `until_ns` (CLOCK_MONOTONIC). 0 woken,
 * -EAGAIN the word differs, -ETIMEDOUT, -EINTR a signal came. */
int os_futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t until_ns);
int os_futex_wake(_Atomic uint32_t *word, int count);
/* The same for up to OS_WATCHED_MAX words in one sleep: 0 one of them was woken, -EAGAIN one of
 * them differs. Linux before 5.16 answers -ENOSYS, a container's filter -EPERM. */
#define OS_WATCHED_MAX 128u
struct os_watched {
    _Atomic uint32_t *word;
    uint32_t expected;
};
int os_futex_wait_any(const struct os_watched *watched, unsigned count, uint64_t until_ns);
uint64_t os_now_ns(void); /* CLOCK_MONOTONIC: deadlines, never shared */
uint64_t os_realtime_ns(void); /* CLOCK_REALTIME: message stamps */
int os_sleep_until(uint64_t until_ns); /* 0 or -EINTR */
void os_yield(void);

/* ---- eventfds and threads (event.c) ---- */

/* A descriptor that is readable from os_event_set until os_event_clear. -EMFILE, -ENFILE, -ENOMEM. */
int os_event_open(void);
void os_event_set(int fd);
void os_event_clear(int fd);
/* Which eventfd of the kernel's it is, for a child that has to tell whether the number still means
 * the one it inherited; negative where that cannot be told, or it is none. */
int64_t os_event_id(int fd);
/* Marks the eventfd as the calling thread's, for as long as that lives; the mark, or negative. */
int os_event_mark(int fd);
/* Does the number still mean the eventfd with that mark? */
bool os_event_has_mark(int fd, int mark);
/* Starts a thread named "shmflow" that receives no signals. -EAGAIN: the system has no more. */
int os_thread_start(pthread_t *thread, void *(*run)(void *), void *context);
void os_thread_join(pthread_t thread);
/* Runs it in a thread that shares no descriptors with this process, whose table may be full: what is
 * opened there is seen by nobody else, and closed at the end. Linux before 5.9: -ENOSYS. */
int os_run_apart(void (*run)(void *), void *context);

/* ---- the process (process.c) ---- */

uint32_t os_pid(void);
uint32_t os_uid(void);
/* A short text that tells a person which program this is: "cam.py", "ipython". */
void os_command(char *out, size_t len);
/* 0, or -EIO where neither the call nor the device can be had. */
int os_random(void *out, size_t len);
void os_boot_id(uint8_t out[16]);
const char *os_getenv(const char *name);
int os_at_fork(void (*prepare)(void), void (*parent)(void), void (*child)(void));

#endif
