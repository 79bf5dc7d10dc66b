/* Creation: a topic's name becomes a path, and a file that is complete before it has that name.
 *
 * Owns:      names and paths; reserving, initialising and naming a segment's file.
 * Does not:  choose capacities (topic.c) or attach to what it made (segment.c).
 *
 * Invariants
 *   G1  A segment has a name only when it is complete: reserved, initialised, usable.
 *   G6  What is replaced keeps its name until what replaces it is complete, and loses it by one
 *       rename. Where both do not fit into memory, and nobody is attached to the old one, it goes
 *       as the last step but one: after all that can fail but the reservation of its own memory. That
 *       fails only if another process takes this memory within those microseconds.
 *   G7  Only the process that began a file goes on with it. A child that `between` forked has the same
 *       open file, which its parent completes, names and uses: the child closes its descriptor,
 *       removes nothing, and is told SF_RACE.
 *
 * A crash here leaves: an unnamed file, gone with us; or, where the file system knows no O_TMPFILE
 * and while a replacement stands by, a `.shmflow-*` one that `shmflow.clean()` removes. In G6's last
 * case, between the old one's end and the name: nothing under that name.
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

struct making {
    const char *path, *dir;
    int fd;
    const struct sf_replaced *old;
    int (*between)(void *);
    void *context;
    uint32_t epoch; /* of the process that began */
    bool gave; /* what it replaces is gone: nothing stops it any more but want of memory */
};

static uint64_t
add(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

/* Can there be enough? What is replaced gives its memory back. */
static int
check_room(const struct making *m, uint64_t file_len)
{
    uint64_t free_len = 0, total_len = 0;
    if (file_len > add(os_cgroup_room(), m->old->spare_len)) {
        return SF_NO_CGROUP; /* tmpfs would be let in, and the process killed at first touch */
    }
    return os_space(m->dir, &free_len, &total_len) == 0 &&
                   file_len > add(free_len, m->old->spare_len)
               ? SF_NO_SPACE
               : 0;
}

/* G6: all that is free beside the old one is reserved by now, and its own memory covers the rest. */
static int
give_way(struct making *m)
{
    int status = sf_segment_remove(m->path, m->old->any ? NULL : m->old->identity, SF_WHEN_IDLE);
    m->gave = status == 0 || status == SF_NOT_FOUND;
    return m->gave ? 0 : -ENOSPC;
}

static int
reserve(struct making *m, uint64_t from, uint64_t to)
{
    int status = 0;
    bool has_spare = m->old->spare_len != 0 && !m->gave;
    uint64_t step = SF_STEP_LEN, room = has_spare ? os_cgroup_room() : UINT64_MAX;
    for (uint64_t off = from; status == 0 && off < to;) {
        uint64_t len = to - off < step ? to - off : step;
        bool may_give = has_spare && !m->gave;
        status = may_give && off - from + len > room ? -ENOSPC : os_file_reserve(m->fd, off, len);
        if (status == 0) {
            off += len;
        }
        else if ((status == -EINTR || (status == -ENOSPC && may_give)) &&
                 step > SF_LEAST_STEP_LEN) {
            /* tmpfs undoes a step that a signal interrupts, or that finds no room: under a periodic
             * timer a long one would never end. */
            step /= 2;
            status = -EINTR;
        }
        else if (status == -ENOSPC && may_give) {
            status = give_way(m);
            step = SF_STEP_LEN;
        }
        if (status == -EOPNOTSUPP) {
            return SF_FS_RESERVE;
        }
        if (status == 0 || status == -EINTR) {
            status = m->between && !m->gave ? m->between(m->context) : 0;
            status = status == 0 && !is_same(m->epoch) ? SF_RACE : status; /* G7 */
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

/* The name for what is complete: G1, G6. */
static int
give_name(const struct making *m, char tmp[64])
{
    int status = SF_NOT_FOUND;
    if (m->old->there && !m->gave) {
        status = os_file_stand_by(m->fd, m->dir, tmp);
        if (status < 0) {
            return status;
        }
        status = sf_segment_succeed(m->path, m->old, m->dir, tmp);
    }
    if (status == SF_NOT_FOUND) {
        status = os_file_publish(m->fd, m->dir, tmp, m->path);
    }
    return status == SF_BUSY || status == SF_RACE ? SF_EXISTS : status;
}

int
sf_segment_replace(const char *path, const struct sf_params *params, uint32_t permissions,
                   const struct sf_replaced *old, int (*between)(void *), void *context)
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
    struct making m = {path, dir, fd, old, between, context, sf_process_epoch(), false};
    status = check_room(&m, layout.file_len);
    status = status < 0 ? status : os_file_resize(fd, layout.file_len);
    status = status < 0 ? status : reserve(&m, 0, layout.arena_off);
    status =
        status < 0 ? status : sf_try_file(fd, dir, tmp, layout.arena_off); /* J1: still zeros */
    status = status < 0 ? status : initialise(fd, &layout);
    status = status < 0 ? status : reserve(&m, layout.arena_off, layout.file_len);
    if (!is_same(m.epoch)) {
        (void)os_file_close(fd); /* G7 */
        return SF_RACE;
    }
    if (status == 0) {
        sf_pages_clear(fd, &layout);
        status = give_name(&m, tmp);
    }
    if (status < 0) {
        os_file_abandon(fd, dir, tmp);
        return creation_status(status);
    }
    (void)os_file_close(fd);
    return 0;
}

int
sf_segment_create(const char *path, const struct sf_params *params, uint32_t permissions,
                  int (*between)(void *), void *context)
{
    struct sf_replaced none = {.there = false};
    return sf_segment_replace(path, params, permissions, &none, between, context);
}
