/* Whether a file system can carry topics: what the protocol takes for granted, tried.
 *
 * Owns:      the tests of a file's locks, mappings, futexes and reserved memory.
 * Does not:  know file systems by name, or keep answers: to ask costs less than a wrong answer,
 *            and device numbers are given again to other file systems.
 *
 * Invariants
 *   J1  No name leads to a file before its file system was found fit (sf_try_file, create.c), and
 *       nobody takes part in a topic before his own byte was seen locked from outside (sf_try_life,
 *       segment.c). So none is taken for dead while he lives, and none zeroes what another uses.
 *
 * What is tried, and where it is known to fail:
 *   locks     a mapping holds the description's lock after close(): not on overlayfs, which maps
 *             the file below and lets the description go. Everybody would look dead to everybody.
 *   sharing   two mappings through two descriptions are one memory: not where a file system
 *             forwards reads and writes past the page cache, or refuses to map (ENODEV).
 *   reserve   fallocate() gives blocks that are there: not on ramfs and some of FUSE.
 *   futexes   a futex on a page of the file.
 * What depends on the kernel and on no file system (MADV_DONTFORK, MADV_WIPEONFORK) answers for
 * itself: madvise() fails where it is not known, and so does what needs it.
 *
 * A crash here leaves: what create.c says.
 */
#include "core/attachment.h"

#include <errno.h>

/* Refused for good, rather than for now. */
static bool
is_unknown(int status)
{
    return status == -EINVAL || status == -ENOSYS || status == -EOPNOTSUPP || status == -ENODEV;
}

int
sf_try_life(int fd, uint32_t slot)
{
    int status = os_lock_test(fd, SF_LOCK_SLOT + slot, 1);
    return status == 0 ? SF_FS_LOCKS : status < 0 ? status : 0;
}

int
sf_try_futex(_Atomic uint32_t *word)
{
    /* A sleep for another value than is there ends at once: EAGAIN. EFAULT, EINVAL: no futex can
     * be had here. Relaxed: if it changes meanwhile, it does not become its own complement. */
    int status = os_futex_wait(word, ~sf_load_relaxed(word), os_now_ns());
    return status == -EFAULT || status == -ENOSYS || status == -EINVAL ? SF_FS_FUTEX : 0;
}

/* The memory of both descriptions, one page of each. */
static int
try_pages(_Atomic uint32_t *one, _Atomic uint32_t *other)
{
    sf_store_relaxed(one, SF_FORMAT_VERSION); /* one thread's: no order is asked for */
    bool shared = sf_load_relaxed(other) == SF_FORMAT_VERSION; /* as above */
    sf_store_relaxed(one, 0); /* as above; a new file is zeros */
    return shared ? sf_try_futex(other) : SF_FS_SHARING;
}

/* `life` is a description that only its mapping will keep; `fd` is another one. Closes life. */
static int
try_descriptions(int fd, int life)
{
    void *kept = NULL, *own = NULL;
    int status = os_lock_try(life, SF_LOCK_SLOT, 1);
    if (status < 0) {
        (void)os_file_close(life);
        return is_unknown(status) ? SF_FS_LOCKS : status;
    }
    status = os_map(life, 0, os_page_len(), true, &kept);
    (void)os_file_close(life);
    if (status == 0) {
        status = os_map(fd, 0, os_page_len(), true, &own);
    }
    if (status < 0) {
        os_unmap(kept, os_page_len());
        return is_unknown(status) ? SF_FS_SHARING : status;
    }
    status = sf_try_life(fd, 0);
    if (status == 0) {
        status = try_pages(kept, own);
    }
    os_unmap(own, os_page_len());
    os_unmap(kept, os_page_len());
    return status;
}

int
sf_try_folder(const char *dir)
{
    char tmp[64];
    int fd = os_file_create(dir, 0600, tmp);
    if (fd < 0) {
        return fd;
    }
    int status = os_file_resize(fd, SF_ARENA_ALIGN);
    if (status == 0) {
        status = os_file_reserve(fd, 0, SF_ARENA_ALIGN);
        status = status == -EOPNOTSUPP ? SF_FS_RESERVE : status;
    }
    if (status == 0) {
        status = sf_try_file(fd, dir, tmp, SF_ARENA_ALIGN);
    }
    os_file_abandon(fd, dir, tmp);
    return status;
}

int
sf_try_file(int fd, const char *dir, const char *tmp, uint64_t len)
{
    struct os_file_info info;
    int status = os_file_info(fd, &info);
    if (status < 0) {
        return status;
    }
    if (info.allocated < len) {
        return SF_FS_RESERVE;
    }
    int life = os_file_open_again(fd, dir, tmp);
    return life < 0 ? life : try_descriptions(fd, life);
}
