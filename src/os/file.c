/* Segment files: making one without a name, reserving it, naming it, looking at it.
 *
 * Owns:      open, O_TMPFILE, fallocate, link, unlink, statfs and the cgroup's limit.
 * Does not:  decide what a file means; every check of content is the core's.
 *
 * Invariants
 *   F1  A name appears only through link(2), on a file that its maker calls finished.
 *   F2  Nothing is followed: the last component of a path is never a symlink here.
 * A crash here leaves: an unnamed file, which the kernel frees, or a `.shmflow-*` one.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "os/os.h"

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
        fd = open(path, flags);
    } while (fd < 0 && errno == EINTR);
    return fd < 0 ? -errno : fd;
}

int
os_file_close(int fd)
{
    return close(fd) < 0 ? -errno : 0;
}

static void
fill_info(const struct stat *st, struct os_file_info *info)
{
    info->dev = (uint64_t)st->st_dev;
    info->ino = (uint64_t)st->st_ino;
    info->size = (uint64_t)st->st_size;
    info->nlink = (uint64_t)st->st_nlink;
    info->uid = (uint32_t)st->st_uid;
    info->mode = (uint32_t)(st->st_mode & 07777);
    info->is_regular = S_ISREG(st->st_mode);
}

int
os_file_info(int fd, struct os_file_info *info)
{
    struct stat st;
    if (fstat(fd, &st) < 0) {
        return -errno;
    }
    fill_info(&st, info);
    return 0;
}

int
os_path_info(const char *path, struct os_file_info *info)
{
    struct stat st;
    if (lstat(path, &st) < 0) {
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

int
os_file_create(const char *dir, uint32_t permissions, char tmp[64])
{
    tmp[0] = 0;
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
        char path[4096];
        uint64_t random[2];
        os_random(random, sizeof random);
        snprintf(tmp, 64, ".shmflow-%016" PRIx64 "%016" PRIx64, random[0], random[1]);
        int status = join(path, sizeof path, dir, tmp);
        if (status < 0) {
            return status;
        }
        fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0600);
    }
    if (fd < 0) {
        return -errno;
    }
    /* fchmod, because the umask is the user's and not ours. */
    if (fchmod(fd, (mode_t)permissions) < 0) {
        int status = -errno;
        os_file_abandon(fd, dir, tmp);
        return status;
    }
    return fd;
}

int
os_file_resize(int fd, uint64_t len)
{
    return ftruncate(fd, (off_t)len) < 0 ? -errno : 0;
}

int
os_file_reserve(int fd, uint64_t off, uint64_t len)
{
    return fallocate(fd, 0, (off_t)off, (off_t)len) < 0 ? -errno : 0;
}

int
os_file_publish(int fd, const char *dir, const char *tmp, const char *path)
{
    char from[4096];
    int status;
    if (tmp[0]) {
        status = join(from, sizeof from, dir, tmp);
        if (status < 0) {
            return status;
        }
        if (link(from, path) < 0) {
            return -errno;
        }
        (void)unlink(from);
        return 0;
    }
    snprintf(from, sizeof from, "/proc/self/fd/%d", fd);
    if (linkat(AT_FDCWD, from, AT_FDCWD, path, AT_SYMLINK_FOLLOW) == 0) {
        return 0;
    }
    if (errno == EEXIST) {
        return -EEXIST;
    }
    /* Without /proc: allowed to the file's owner since Linux 6.10, to root always. */
    status = linkat(fd, "", AT_FDCWD, path, AT_EMPTY_PATH);
    return status < 0 ? -errno : 0;
}

void
os_file_abandon(int fd, const char *dir, const char *tmp)
{
    char path[4096];
    if (tmp[0] && join(path, sizeof path, dir, tmp) == 0) {
        (void)unlink(path);
    }
    (void)close(fd);
}

int
os_file_remove(const char *path)
{
    return unlink(path) < 0 ? -errno : 0;
}

int
os_space(const char *path, uint64_t *free_len, uint64_t *total_len)
{
    struct statfs fs;
    if (statfs(path, &fs) < 0) {
        return -errno;
    }
    *free_len = (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize;
    *total_len = (uint64_t)fs.f_blocks * (uint64_t)fs.f_bsize;
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
    if (lstat(path, &file) < 0 || stat(dir, &folder) < 0) {
        return -errno;
    }
    if (faccessat(AT_FDCWD, dir, W_OK | X_OK, AT_EACCESS) < 0) {
        return -EACCES;
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
    if (!getcwd(out, len)) {
        return -errno;
    }
    size_t used = strlen(out);
    int n = snprintf(out + used, len - used, "/%s", path);
    return n < 0 || (size_t)n >= len - used ? -ENAMETOOLONG : 0;
}

/* Reads the number in a small file; "max" and anything unreadable give `otherwise`. */
static uint64_t
read_number(const char *path, uint64_t otherwise)
{
    char text[64];
    FILE *file = fopen(path, "re");
    if (!file) {
        return otherwise;
    }
    uint64_t value = otherwise;
    if (fgets(text, sizeof text, file) && text[0] >= '0' && text[0] <= '9') {
        value = strtoull(text, NULL, 10);
    }
    fclose(file);
    return value;
}

/* Page cache that the kernel gives back under pressure does not count as used. */
static uint64_t
read_reclaimable(const char *group, const char *key)
{
    char path[4352], line[256];
    snprintf(path, sizeof path, "%s/memory.stat", group);
    FILE *file = fopen(path, "re");
    if (!file) {
        return 0;
    }
    uint64_t value = 0;
    size_t key_len = strlen(key);
    while (fgets(line, sizeof line, file)) {
        if (strncmp(line, key, key_len) == 0 && line[key_len] == ' ') {
            value = strtoull(line + key_len + 1, NULL, 10);
            break;
        }
    }
    fclose(file);
    return value;
}

/* Room under `root``group` and each of its ancestors: a parent's limit binds its children. */
static uint64_t
read_group_room(const char *root, char *group, const char *limit_name, const char *used_name,
                const char *reclaim_key)
{
    uint64_t room = UINT64_MAX;
    for (;;) {
        char base[4096], path[4352];
        snprintf(base, sizeof base, "%s%s", root, strcmp(group, "/") == 0 ? "" : group);
        snprintf(path, sizeof path, "%s/%s", base, limit_name);
        uint64_t limit = read_number(path, UINT64_MAX);
        if (limit < UINT64_MAX / 2) {
            snprintf(path, sizeof path, "%s/%s", base, used_name);
            uint64_t used = read_number(path, 0);
            uint64_t spare = read_reclaimable(base, reclaim_key);
            used -= spare < used ? spare : used;
            uint64_t here = limit > used ? limit - used : 0;
            room = here < room ? here : room;
        }
        char *slash = strrchr(group, '/');
        if (!slash || strcmp(group, "/") == 0) {
            return room;
        }
        slash[slash == group ? 1 : 0] = 0;
    }
}

uint64_t
os_cgroup_room(void)
{
    char line[4096];
    uint64_t room = UINT64_MAX;
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (!file) {
        return room;
    }
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group) {
            continue;
        }
        *group++ = 0;
        uint64_t here = UINT64_MAX;
        if (strcmp(controllers + 1, "memory") == 0) {
            here = read_group_room("/sys/fs/cgroup/memory", group, "memory.limit_in_bytes",
                                   "memory.usage_in_bytes", "total_inactive_file");
        }
        else if (controllers[1] == 0) {
            here = read_group_room("/sys/fs/cgroup", group, "memory.max", "memory.current",
                                   "inactive_file");
        }
        room = here < room ? here : room;
    }
    fclose(file);
    return room;
}
