/* Mappings: shared ones of a segment, and the private ones that a fork needs.
 *
 * Owns:      mmap, munmap, mremap, madvise, mprotect; the heap.
 * Does not:  know what lies in a mapping or who uses it.
 *
 * Invariants
 *   M1  A shared mapping is never made executable, and never grows.
 *   M2  Advice that the kernel refuses changes speed, never behaviour (no_fork and
 *       wipe_on_fork excepted: those report).
 * A crash here leaves: nothing; mappings go with their process.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "os/os.h"

#include "os/fault.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#define OS_TOUCH_LEN 65536u /* as many bytes as the kernel maps around a fault */

int
os_map(int fd, uint64_t off, size_t len, bool writable, void **out)
{
    int protection = PROT_READ | (writable ? PROT_WRITE : 0);
    void *at = OS_CALL(MAP_FAILED, mmap(NULL, len, protection, MAP_SHARED, fd, (off_t)off));
    if (at == MAP_FAILED) {
        return -errno;
    }
    os_guard_add(at, len);
    *out = at;
    return 0;
}

bool
os_map_is_nameless(const void *at)
{
    static const char mark[] = " (deleted)\n";
    char line[512];
    bool nameless = false, whole = true; /* line begins where a line of the file does */
    FILE *file = OS_CALL(NULL, fopen("/proc/self/maps", "re"));
    if (!file) {
        return false;
    }
    bool found = false;
    while (!nameless && OS_CALL(NULL, fgets(line, sizeof line, file))) {
        found = whole ? strtoull(line, NULL, 16) == (uint64_t)(uintptr_t)at : found;
        size_t len = strlen(line);
        whole = len > 0 && line[len - 1] == '\n';
        nameless = found && whole && len >= sizeof mark &&
                   strcmp(line + len - (sizeof mark - 1), mark) == 0;
        if (found && whole) {
            break;
        }
    }
    fclose(file);
    return nameless;
}

int
os_map_private(size_t len, void **out)
{
    void *at = OS_CALL(MAP_FAILED,
                       mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (at == MAP_FAILED) {
        return -errno;
    }
    *out = at;
    return 0;
}

int
os_map_void(void *at, size_t len)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
    void *got = OS_CALL(MAP_FAILED, mmap(at, len, PROT_NONE, flags, -1, 0));
    return got == MAP_FAILED ? -errno : 0;
}

int
os_map_move(void *from, size_t len, void *at)
{
    void *got = OS_CALL(MAP_FAILED, mremap(from, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, at));
    return got == MAP_FAILED ? -errno : 0;
}

void
os_unmap(void *at, size_t len)
{
    if (at) {
        os_guard_remove(at);
        (void)OS_CALL(-1, munmap(at, len));
    }
}

void
os_map_no_dump(void *at, size_t len)
{
    /* A core dump of a small script must not carry gigabytes of frames. */
    (void)OS_CALL(-1, madvise(at, len, MADV_DONTDUMP));
}

int
os_map_no_fork(void *at, size_t len)
{
    return OS_CALL(-1, madvise(at, len, MADV_DONTFORK)) < 0 ? -errno : 0;
}

int
os_map_wipe_on_fork(void *at, size_t len)
{
    return OS_CALL(-1, madvise(at, len, MADV_WIPEONFORK)) < 0 ? -errno : 0;
}

void
os_map_populate(void *at, size_t len)
{
    /* Since Linux 5.14; before, the pages come one fault at a time. */
    (void)OS_CALL(-1, madvise(at, len, MADV_POPULATE_WRITE));
}

/* Not for the thread sanitizer: what is read may be written at the same time, and is not used. */
__attribute__((no_sanitize("thread"))) void
os_map_touch(const void *at, size_t len)
{
    const volatile char *first = at;
    for (size_t off = 0; off < len; off += OS_TOUCH_LEN) {
        (void)first[off];
    }
}

int
os_map_read_only(void *at, size_t len)
{
    return OS_CALL(-1, mprotect(at, len, PROT_READ)) < 0 ? -errno : 0;
}

int
os_map_writable(void *at, size_t len)
{
    return OS_CALL(-1, mprotect(at, len, PROT_READ | PROT_WRITE)) < 0 ? -errno : 0;
}

void *
os_alloc(size_t len)
{
    return OS_CALL(NULL, calloc(1, len));
}

void *
os_alloc_raw(size_t len)
{
    return OS_CALL(NULL, malloc(len));
}

char *
os_copy_text(const char *text)
{
    return OS_CALL(NULL, strdup(text));
}

void
os_free(void *at)
{
    free(at);
}

size_t
os_page_len(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}
