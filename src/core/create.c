/* Creation: a topic's name becomes a path, and a file that is complete before it has that name.
 *
 * Owns:      names and paths; reserving, initialising and naming a segment's file.
 * Does not:  choose capacities (topic.c) or attach to what it made (segment.c).
 *
 * Invariants
 *   G1  A segment has a name only when it is complete: reserved, initialised, usable.
 *   G7  Only the process that began a file goes on with it. A child that `between` forked has the same
 *       open file, which its parent completes, names and uses: the child closes its descriptor,
 *       removes nothing, and is told SF_RACE.
 *
 * A crash here leaves: an unnamed file, gone with us; or, where the file system knows no O_TMPFILE,
 * a `.shmflow-*` one that `shmflow.clean()` removes.
 */
#include "core/attachment.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define SF_STEP_LEN (UINT64_C(64) << 20)
#define SF_LEAST_STEP_LEN (UINT64_C(64) << 10)
#define SF_MAX_NAME 200u

/* ---- names ---- */

static bool
is_name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
}

const char *
sf_segment_dir(void)
{
    const char *dir = os_getenv("SHMFLOW_DIR");
    return dir && dir[0] ? dir : "/dev/shm";
}

int
sf_segment_path(const char *name, char *out, size_t len)
{
    size_t name_len = strlen(name);
    if (name_len == 0 || name_len > SF_MAX_NAME) {
        return SF_BAD_NAME;
    }
    bool at_start = true;
    for (size_t i = 0; i < name_len; i++) {
        if (name[i] == '/' ? at_start : !is_name_char(name[i]) || (at_start && name[i] == '.')) {
            return SF_BAD_NAME;
        }
        at_start = name[i] == '/';
    }
    if (at_start) {
        return SF_BAD_NAME;
    }
    char dir[4096];
    int status = os_absolute(sf_segment_dir(), dir, sizeof dir); /* chdir must not lose it */
    if (status < 0) {
        return status;
    }
    int n = snprintf(out, len, "%s/shmflow.%s", dir, name);
    if (n < 0 || (size_t)n >= len) {
        return -ENAMETOOLONG;
    }
    for (char *c = out + ((size_t)n - name_len); *c; c++) {
        *c = *c == '/' ? '+' : *c;
    }
    return 0;
}

static void
folder_of(const char *path, char *out, size_t len)
{
    snprintf(out, len, "%s", path);
    char *slash = strrchr(out, '/');
    if (slash) {
        *slash = 0;
    }
}

int
sf_folder_info(const char *path, struct os_file_info *info)
{
    char dir[4096];
    folder_of(path, dir, sizeof dir - 3);
    strcat(dir, "/."); /* through a link as well */
    return os_path_info(dir, info);
}

/* ---- creation ---- */

/* Is this the process that began? `between` runs anybody's code, which may fork. */
static bool
is_same(uint32_t epoch)
{
    return epoch == sf_process_epoch();
}

static int
reserve(int fd, const char *dir, uint64_t file_len, int (*between)(void *), void *context)
{
    uint32_t epoch = sf_process_epoch();
    uint64_t free_len = 0, total_len = 0;
    if (file_len > os_cgroup_room()) {
        return SF_NO_CGROUP; /* tmpfs would be let in, and the process killed at first touch */
    }
    if (os_space(dir, &free_len, &total_len) == 0 && file_len > free_len) {
        return SF_NO_SPACE;
    }
    int status = os_file_resize(fd, file_len);
    uint64_t step = SF_STEP_LEN;
    for (uint64_t off = 0; status == 0 && off < file_len;) {
        uint64_t len = file_len - off < step ? file_len - off : step;
        status = os_file_reserve(fd, off, len);
        if (status == 0) {
            off += len;
        }
        else if (status == -EINTR && step > SF_LEAST_STEP_LEN) {
            /* tmpfs undoes a step that a signal interrupts: under a periodic timer a long one
             * would never end. */
            step /= 2;
        }
        if (status == -EOPNOTSUPP) {
            return SF_FS_RESERVE;
        }
        if (status == 0 || status == -EINTR) {
            status = between ? between(context) : 0;
            status = status == 0 && !is_same(epoch) ? SF_RACE : status; /* G7 */
        }
    }
    return status;
}

static int
initialise(int fd, const struct sf_layout *layout)
{
    void *base;
    int status = os_map(fd, 0, layout->arena_off, true, &base);
    if (status < 0) {
        return status;
    }
    struct sf_header *header = base;
    sf_layout_store(layout, header);
    status = os_random(header->identity, sizeof header->identity);
    os_boot_id(header->boot_id);
    header->created_ns = os_realtime_ns();
    if (status == 0) {
        struct sf_ring ring;
        sf_ring_bind(&ring, layout, base);
        status = sf_rebuild_locked(&ring); /* nobody else can see the file yet: G1 */
    }
    os_unmap(base, layout->arena_off);
    return status;
}

/* -errno of any step, as a status. */
static int
creation_status(int status)
{
    switch (status) {
    case -EEXIST:
        return SF_EXISTS;
    case -EACCES:
    case -EPERM:
    case -EROFS:
        return SF_DENIED;
    case -ENOSPC:
    case -EDQUOT:
        return SF_NO_SPACE;
    default:
        return status;
    }
}

int
sf_segment_create(const char *path, const struct sf_params *params, uint32_t permissions,
                  int (*between)(void *), void *context)
{
    struct sf_layout layout;
    int status = sf_layout_compute(params, &layout);
    if (status < 0) {
        return status;
    }
    char dir[4096], tmp[64];
    folder_of(path, dir, sizeof dir);
    int fd = os_file_create(dir, permissions, tmp);
    if (fd < 0) {
        return creation_status(fd);
    }
    uint32_t epoch = sf_process_epoch();
    status = reserve(fd, dir, layout.file_len, between, context);
    if (!is_same(epoch)) {
        (void)os_file_close(fd); /* G7 */
        return SF_RACE;
    }
    if (status == 0) {
        status = sf_try_file(fd, dir, tmp, layout.file_len); /* J1 */
    }
    if (status == 0) {
        status = initialise(fd, &layout);
        sf_pages_clear(fd, &layout);
    }
    if (status == 0) {
        status = os_file_publish(fd, dir, tmp, path);
    }
    if (status < 0) {
        os_file_abandon(fd, dir, tmp);
        return creation_status(status);
    }
    (void)os_file_close(fd);
    return 0;
}
