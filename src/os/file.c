/* Segment files: making one without a name, reserving it, naming it, looking at it.
 *
 * Owns:      open, O_TMPFILE, fallocate, link, unlink, statfs.
 * Does not:  decide what a file means; every check of content is the core's.
 *
 * Invariants
 *   F1  A topic's name appears only through link(2) or rename(2), on a file that its maker calls
 *       finished. rename(2) puts it in the place of another: at no instant is there none.
 *   F2  Nothing is followed: the last component of a path is never a symlink here.
 * A crash here leaves: an unnamed file, which the kernel frees, or a `.shmflow-*` one.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "os/os.h"

#include "os/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

int
os_file_open(const char *path, bool writable)
{
    /* O_NONBLOCK: a fifo under our name must not hang us; regular files ignore it. */
    int flags = (writable ? O_RDWR : O_RDONLY) | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;
    int fd;
    do {
        fd = OS_CALL(-1, open(path, flags));
    } while (fd < 0 && errno == EINTR);
    return fd < 0 ? -errno : fd;
}

int
os_file_close(int fd)
{
    return OS_CALL((close(fd), -1), close(fd)) < 0 ? -errno : 0;
}

static void
fill_info(const struct stat *st, struct os_file_info *info)
{
    info->dev = (uint64_t)st->st_dev;
    info->ino = (uint64_t)st->st_ino;
    info->size = (uint64_t)st->st_size;
    info->nlink = (uint64_t)st->st_nlink;
    info->allocated = (uint64_t)st->st_blocks * 512; /* of that unit, whatever st_blksize says */
    info->uid = (uint32_t)st->st_uid;
    info->mode = (uint32_t)(st->st_mode & 07777);
    info->is_regular = S_ISREG(st->st_mode);
}

int
os_file_info(int fd, struct os_file_info *info)
{
    struct stat st;
    if (OS_CALL(-1, fstat(fd, &st)) < 0) {
        return -errno;
    }
    fill_info(&st, info);
    return 0;
}

int
os_path_info(const char *path, struct os_file_info *info)
{
    struct stat st;
    if (OS_CALL(-1, lstat(path, &st)) < 0) {
        return -errno;
    }
    fill_info(&st, info);
    return 0;
}

/* Joins a folder and a file name; -ENAMETOOLONG where it does not fit. */
static int
join(char *out, size_t len, const char *dir, const char *name)
{
    int n = snprintf(out, len, "%s/%s", dir, name);
    return n < 0 || (size_t)n >= len ? -ENAMETOOLONG : 0;
}

/* A name that no other file has, and its path. */
static int
invent_name(const char *dir, char tmp[64], char *path, size_t len)
{
    uint64_t random[2];
    int status = os_random(random, sizeof random);
    if (status < 0) {
        return status;
    }
    snprintf(tmp, 64, ".shmflow-%016" PRIx64 "%016" PRIx64, random[0], random[1]);
    return join(path, len, dir, tmp);
}

enum { FD_PATH_LEN = 64 };

/* What the file of a descriptor is called where it has no name. */
static void
name_by_proc(int fd, char path[FD_PATH_LEN])
{
    snprintf(path, FD_PATH_LEN, "/proc/self/fd/%d", fd);
}

/* An unnamed file, if it can be given a name later: there are sandboxes without /proc. */
static int
create_unnamed(const char *dir)
{
    int fd;
    do {
        fd = OS_CALL(-1, open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    } while (fd < 0 && errno == EINTR);
    if (fd >= 0) {
        char path[FD_PATH_LEN];
        struct os_file_info info;
        name_by_proc(fd, path);
        if (os_path_info(path, &info) < 0) {
            (void)os_file_close(fd);
            errno = EOPNOTSUPP;
            return -1;
        }
    }
    return fd;
}

int
os_file_create(const char *dir, uint32_t permissions, char tmp[64])
{
    tmp[0] = 0;
    int fd = create_unnamed(dir);
    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
        char path[4096];
        int status = invent_name(dir, tmp, path, sizeof path);
        if (status < 0) {
            return status;
        }
        int flags = O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC | O_NOFOLLOW;
        do {
            fd = OS_CALL(-1, open(path, flags, 0600));
        } while (fd < 0 && errno == EINTR);
    }
    if (fd < 0) {
        return -errno;
    }
    /* fchmod, because the umask is the user's and not ours. */
    if (OS_CALL(-1, fchmod(fd, (mode_t)permissions)) < 0) {
        int status = -errno;
        os_file_abandon(fd, dir, tmp);
        return status;
    }
    return fd;
}

int
os_file_open_again(int fd, const char *dir, const char *tmp)
{
    char path[4096];
    int status = 0;
    if (tmp[0]) {
        status = join(path, sizeof path, dir, tmp);
    }
    else {
        name_by_proc(fd, path);
    }
    if (status < 0) {
        return status;
    }
    int again;
    do {
        again = OS_CALL(-1, open(path, O_RDWR | O_CLOEXEC)); /* a link of /proc is to be followed */
    } while (again < 0 && errno == EINTR);
    return again < 0 ? -errno : again;
}

int
os_file_resize(int fd, uint64_t len)
{
    return OS_CALL(-1, ftruncate(fd, (off_t)len)) < 0 ? -errno : 0;
}

int
os_file_reserve(int fd, uint64_t off, uint64_t len)
{
    return OS_CALL(-1, fallocate(fd, 0, (off_t)off, (off_t)len)) < 0 ? -errno : 0;
}

void
os_file_clear(int fd, uint64_t off, uint64_t len)
{
    const size_t step = 64u << 10;
    char *zeros = os_alloc(step);
    for (uint64_t done = 0; zeros && done < len;) {
        size_t rest = len - done < step ? (size_t)(len - done) : step;
        ssize_t n = OS_CALL(-1, pwrite(fd, zeros, rest, (off_t)(off + done)));
        if (n <= 0) {
            break;
        }
        done += (uint64_t)n;
    }
    os_free(zeros);
}

/* A name for a file that has none. */
static int
link_to(int fd, const char *path)
{
    char from[FD_PATH_LEN];
    name_by_proc(fd, from);
    return OS_CALL(-1, linkat(AT_FDCWD, from, AT_FDCWD, path, AT_SYMLINK_FOLLOW)) < 0 ? -errno : 0;
}

int
os_file_publish(int fd, const char *dir, const char *tmp, const char *path)
{
    char from[4096];
    if (!tmp[0]) {
        return link_to(fd, path);
    }
    int status = join(from, sizeof from, dir, tmp);
    if (status < 0) {
        return status;
    }
    if (OS_CALL(-1, link(from, path)) < 0) {
        return -errno;
    }
    (void)OS_CALL(-1, unlink(from));
    return 0;
}

int
os_file_stand_by(int fd, const char *dir, char tmp[64])
{
    char path[4096];
    if (tmp[0]) {
        return 0;
    }
    int status = invent_name(dir, tmp, path, sizeof path);
    status = status < 0 ? status : link_to(fd, path);
    if (status < 0) {
        tmp[0] = 0;
    }
    return status;
}

int
os_file_replace(const char *dir, const char *tmp, const char *path)
{
    char from[4096];
    int status = join(from, sizeof from, dir, tmp);
    if (status < 0) {
        return status;
    }
    return OS_CALL(-1, rename(from, path)) < 0 ? -errno : 0;
}

void
os_file_abandon(int fd, const char *dir, const char *tmp)
{
    char path[4096];
    if (tmp[0] && join(path, sizeof path, dir, tmp) == 0) {
        (void)OS_CALL(-1, unlink(path));
    }
    (void)os_file_close(fd);
}

int
os_file_remove(const char *path)
{
    return OS_CALL(-1, unlink(path)) < 0 ? -errno : 0;
}

int
os_space(const char *path, uint64_t *free_len, uint64_t *total_len)
{
    struct statfs fs;
    if (OS_CALL(-1, statfs(path, &fs)) < 0) {
        return -errno;
    }
    *free_len = (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize;
    *total_len = (uint64_t)fs.f_blocks * (uint64_t)fs.f_bsize;
    if (*total_len == 0) {
        *free_len = UINT64_MAX; /* ramfs tells nothing, and a tmpfs of size=0 has no limit */
    }
    return 0;
}

int
os_may_remove(const char *path)
{
    char dir[4096];
    struct stat folder, file;
    snprintf(dir, sizeof dir, "%s", path);
    char *slash = strrchr(dir, '/');
    if (!slash) {
        return -EACCES;
    }
    *slash = 0;
    if (OS_CALL(-1, lstat(path, &file)) < 0 || OS_CALL(-1, stat(dir, &folder)) < 0) {
        return -errno;
    }
    if (OS_CALL(-1, faccessat(AT_FDCWD, dir, W_OK | X_OK, AT_EACCESS)) < 0) {
        return -errno;
    }
    uid_t me = geteuid();
    bool sticky = (folder.st_mode & S_ISVTX) != 0;
    return sticky && me != 0 && me != file.st_uid && me != folder.st_uid ? -EACCES : 0;
}

int
os_absolute(const char *path, char *out, size_t len)
{
    if (path[0] == '/') {
        int n = snprintf(out, len, "%s", path);
        return n < 0 || (size_t)n >= len ? -ENAMETOOLONG : 0;
    }
    if (!OS_CALL(NULL, getcwd(out, len))) {
        return -errno;
    }
    size_t used = strlen(out);
    int n = snprintf(out + used, len - used, "/%s", path);
    return n < 0 || (size_t)n >= len - used ? -ENAMETOOLONG : 0;
}
