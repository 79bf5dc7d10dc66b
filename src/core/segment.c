/* Segments: made, attached to, removed.
 *
 * Owns:      the file's life: creation before it has a name, the attach ladder, removal under the
 *            inode's own lock byte; the mappings of an attachment and its references.
 * Does not:  choose capacities or follow names over generations (topic.c).
 *
 * Invariants
 *   G1  A segment has a name only when it is complete: reserved, initialised, usable.
 *   G2  Who removes holds SF_LOCK_UNLINK of that inode, has seen the name lead to it, has set
 *       SF_UNLINKED and rung before the name goes. So nobody waits in it for ever.
 *   G3  Who attaches looks at SF_UNLINKED and at the name after taking its slot. With G2: either
 *       the remover's look at the slots sees it, or it sees the flag.
 *   G4  Constants are copied and checked before anything else of the file is believed.
 *
 * A crash here leaves: an unnamed file (gone with us), or a named segment flagged SF_UNLINKED,
 * which attachers take for absent and creators remove.
 */
#include "core/attachment.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SF_STEP_LEN (UINT64_C(64) << 20)
#define SF_MAX_NAME 200u
#define SF_RACE_NAP_NS UINT64_C(500000)

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

/* ---- creation ---- */

static int
reserve(int fd, const char *dir, uint64_t file_len, int (*between)(void *), void *context)
{
    uint64_t free_len = 0, total_len = 0;
    if (file_len > os_cgroup_room()) {
        return SF_NO_CGROUP; /* tmpfs would be let in, and the process killed at first touch */
    }
    if (os_space(dir, &free_len, &total_len) == 0 && file_len > free_len) {
        return SF_NO_SPACE;
    }
    int status = os_file_resize(fd, file_len);
    for (uint64_t off = 0; status == 0 && off < file_len;) {
        uint64_t len = file_len - off < SF_STEP_LEN ? file_len - off : SF_STEP_LEN;
        status = os_file_reserve(fd, off, len);
        if (status == 0) {
            off += len;
        }
        if (status == 0 || status == -EINTR) {
            status = between ? between(context) : 0;
        }
    }
    return status == -ENOSPC || status == -EDQUOT ? SF_NO_SPACE : status;
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
    os_random(header->identity, sizeof header->identity);
    os_boot_id(header->boot_id);
    header->created_ns = os_realtime_ns();
    struct sf_ring ring;
    sf_ring_bind(&ring, layout, base);
    status = sf_rebuild_locked(&ring); /* nobody else can see the file yet: G1 */
    os_unmap(base, layout->arena_off);
    return status;
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
        return fd == -EACCES || fd == -EPERM || fd == -EROFS ? SF_DENIED
               : fd == -ENOSPC                               ? SF_NO_SPACE
                                                             : fd;
    }
    status = reserve(fd, dir, layout.file_len, between, context);
    if (status == 0) {
        status = initialise(fd, &layout);
    }
    if (status == 0) {
        status = os_file_publish(fd, dir, tmp, path);
    }
    if (status < 0) {
        os_file_abandon(fd, dir, tmp);
        return status == -EEXIST ? SF_EXISTS : status;
    }
    (void)os_file_close(fd);
    return 0;
}

/* ---- the attach ladder ---- */

static int
open_status(int status)
{
    switch (status) {
    case -ENOENT:
        return SF_NOT_FOUND;
    case -ELOOP:
    case -EISDIR:
    case -ENXIO:
    case -ENODEV:
        return SF_NOT_A_FILE;
    case -EACCES:
    case -EPERM:
    case -EROFS:
        return SF_DENIED;
    default:
        return status;
    }
}

/* Rungs 1 to 3: a regular file with a name, a header that holds, a length that fits. */
static int
open_segment(const char *path, bool writable, struct os_file_info *info, struct sf_layout *layout)
{
    int fd = os_file_open(path, writable);
    if (fd < 0) {
        struct os_file_info there;
        if (fd == -EACCES && os_path_info(path, &there) == 0 && !there.is_regular) {
            return SF_NOT_A_FILE;
        }
        return open_status(fd);
    }
    void *page = NULL;
    int status = os_file_info(fd, info);
    if (status == 0 && !info->is_regular) {
        status = SF_NOT_A_FILE;
    }
    if (status == 0 && info->nlink == 0) {
        status = SF_NOT_FOUND;
    }
    if (status == 0 && info->size < SF_PAGE) {
        status = SF_SHORT;
    }
    if (status == 0) {
        status = os_map(fd, 0, SF_PAGE, false, &page);
    }
    if (status == 0) {
        status = sf_layout_load(page, info->size, layout);
        os_unmap(page, SF_PAGE);
    }
    if (status < 0) {
        (void)os_file_close(fd);
        return status;
    }
    return fd;
}

int
sf_segment_peek(const char *path, struct sf_layout *layout, struct os_file_info *info,
                uint8_t identity[16])
{
    void *page;
    int fd = open_segment(path, false, info, layout);
    if (fd < 0) {
        return fd;
    }
    int status = os_map(fd, 0, SF_PAGE, false, &page);
    if (status == 0) {
        memcpy(identity, ((struct sf_header *)page)->identity, 16);
        os_unmap(page, SF_PAGE);
    }
    (void)os_file_close(fd);
    return status;
}

/* Rung 4: the mappings. */
static int
map_segment(struct sf_attachment *att, int fd, const struct sf_layout *layout, bool writer)
{
    void *at;
    att->control_len = layout->arena_off;
    att->arena_len = layout->capacity + layout->lane_len;
    int status = os_map(fd, 0, att->control_len, !att->monitor, &at);
    if (status < 0) {
        return status;
    }
    att->control = at;
    status = os_map(fd, layout->arena_off, att->arena_len, false, &at);
    if (status < 0) {
        return status;
    }
    att->arena = at;
    os_map_no_dump(att->arena, att->arena_len);
    if (writer) {
        status = os_map(fd, layout->arena_off, att->arena_len, true, &at);
        if (status < 0) {
            return status;
        }
        att->arena_rw = at;
        os_map_no_dump(att->arena_rw, att->arena_len);
    }
    sf_ring_bind(&att->ring, layout, att->control);
    memcpy(att->identity, att->ring.header->identity, sizeof att->identity);
    return 0;
}

/* Rung 5: a slot, on an open file description of its own (participants.c tells why). */
static int
take_slot(struct sf_attachment *att)
{
    /* A child forked between open and close would inherit the description, and with it our life. */
    sf_fork_hold();
    int fd = os_file_open(att->path, true);
    if (fd < 0) {
        sf_fork_release();
        return open_status(fd);
    }
    struct os_file_info info;
    int status = os_file_info(fd, &info);
    if (status == 0 && (info.ino != att->ino || info.dev != att->dev)) {
        status = SF_RACE;
    }
    if (status == 0) {
        status = sf_slot_take(att, fd);
    }
    /* A remover holds all bytes for a moment (G2): then the topic is not full, it is going. */
    if (status == SF_NO_SLOT &&
        (os_lock_test(fd, SF_LOCK_UNLINK, 1) == 1 || !sf_attachment_is_named(att))) {
        status = SF_RACE;
    }
    (void)os_file_close(fd);
    sf_fork_release();
    return status;
}

static void
free_attachment(struct sf_attachment *att)
{
    os_unmap(att->life, os_page_len());
    os_unmap(att->arena_rw, att->arena_len);
    os_unmap(att->arena, att->arena_len);
    os_unmap(att->control, att->control_len);
    pthread_mutex_destroy(&att->pins_mutex);
    free(att->pins);
    free((void *)att->filled);
    free(att->path);
    free(att);
}

static int
attach_once(const char *path, enum sf_attach_as as, struct sf_attachment **out)
{
    struct sf_attachment *att = calloc(1, sizeof *att);
    if (!att) {
        return -ENOMEM;
    }
    pthread_mutex_init(&att->pins_mutex, NULL);
    att->monitor = as == SF_AS_MONITOR;
    att->slot = SF_NIL;
    att->epoch = sf_process_epoch();
    sf_store_relaxed(&att->refs, 1); /* private yet */
    att->path = strdup(path);
    struct sf_layout layout = {0};
    struct os_file_info info;
    int status = att->path ? 0 : -ENOMEM;
    int fd = -1;
    if (status == 0) {
        fd = open_segment(path, !att->monitor, &info, &layout);
        status = fd < 0 ? fd : 0;
    }
    if (status == 0) {
        att->dev = info.dev;
        att->ino = info.ino;
        att->uid = info.uid;
        att->max_held = layout.capacity / 4;
        att->pins = calloc(layout.desc_len, sizeof *att->pins);
        att->filled = calloc((layout.capacity + layout.lane_len) / SF_FILL_LEN + 1, 1);
        status =
            att->pins && att->filled ? map_segment(att, fd, &layout, as == SF_AS_WRITER) : -ENOMEM;
    }
    if (fd >= 0) {
        (void)os_file_close(fd);
    }
    att->cursor = &att->monitor_cursor;
    if (status == 0 && !att->monitor) {
        status = take_slot(att);
    }
    if (status < 0) {
        free_attachment(att);
        return status;
    }
    sf_registry_add(att);
    /* Rung 6 (G3), after the slot: acquire with the remover's or. */
    if ((sf_load_acquire(&att->ring.header->ended) & SF_UNLINKED) != 0 ||
        !sf_attachment_is_named(att)) {
        sf_attachment_unref(att);
        return SF_RACE;
    }
    if (!att->monitor) {
        att->cleaned += sf_clean_dead(att);
    }
    *out = att;
    return 0;
}

int
sf_attach(const char *path, enum sf_attach_as as, struct sf_attachment **out)
{
    int status = sf_process_setup();
    /* A race means that the name changed hands; who loses it ten times is watching a remover
     * that died between flag and unlink: for an attacher that is no topic. */
    for (int round = 0; status == 0 && round < 10; round++) {
        status = attach_once(path, as, out);
        if (status != SF_RACE) {
            return status;
        }
        status = 0;
        (void)os_sleep_until(os_now_ns() + SF_RACE_NAP_NS);
    }
    return status < 0 ? status : SF_NOT_FOUND;
}

void
sf_attachment_ref(struct sf_attachment *att)
{
    /* Relaxed: whoever adds one has one; the last drop is ordered by unref. */
    (void)sf_count_up(&att->refs);
}

/* A temporary topic goes with its last participant. Two that leave together may each find the
 * other at it: whoever meets a race looks again. */
static void
remove_last(struct sf_attachment *att)
{
    for (int round = 0; round < 20; round++) {
        if (sf_segment_remove(att->path, att->identity, SF_WHEN_IDLE) != SF_RACE) {
            return;
        }
        (void)os_sleep_until(os_now_ns() + SF_RACE_NAP_NS);
    }
}

void
sf_attachment_unref(struct sf_attachment *att)
{
    /* Release and acquire in one: all uses by all threads come before the end. */
    if (sf_count_down(&att->refs) != 1) {
        return;
    }
    bool mine = sf_attachment_is_mine(att);
    bool temporary = mine && !att->monitor && (att->ring.lay.flags & SF_TEMPORARY) != 0;
    if (mine) {
        sf_registry_remove(att);
        if (att->slot != SF_NIL) {
            sf_slot_give_up(att);
        }
    }
    if (mine) {
        os_unmap(att->life, os_page_len()); /* the byte's lock goes here */
    }
    att->life = NULL;
    if (temporary) {
        remove_last(att);
    }
    free_attachment(att);
}

/* ---- removal ---- */

static void
flag_removed(struct sf_ring *ring)
{
    /* Before the bells, and before the name goes: acquire in attach, seq_cst in wait (H). */
    sf_or_seq32(&ring->header->ended, SF_UNLINKED);
    sf_bell_ring_always(&ring->header->bell);
    sf_bell_ring_always(&ring->header->room);
}

/* Under G2's byte: may it go, and if so flag it. A file that is no segment may go by name only. */
static int
flag_if_meant(int fd, uint64_t size, const uint8_t *identity, enum sf_when when)
{
    void *base = NULL;
    struct sf_layout layout;
    int status = size >= SF_PAGE ? os_map(fd, 0, SF_PAGE, true, &base) : SF_SHORT;
    if (status == 0) {
        status = sf_layout_load(base, size, &layout);
    }
    if (status < 0) {
        os_unmap(base, SF_PAGE);
        return identity || when == SF_WHEN_FLAGGED ? SF_BUSY : 0;
    }
    struct sf_ring ring;
    sf_ring_bind(&ring, &layout, base); /* only its header lies in this page */
    /* Acquire: with the or of the remover that died. */
    bool flagged = (sf_load_acquire(&ring.header->ended) & SF_UNLINKED) != 0;
    if (identity && memcmp(ring.header->identity, identity, 16) != 0) {
        status = SF_NOT_FOUND;
    }
    else if (when == SF_WHEN_FLAGGED && !flagged) {
        status = SF_BUSY;
    }
    else {
        flag_removed(&ring);
    }
    os_unmap(base, SF_PAGE);
    return status;
}

static int
remove_open(int fd, const char *path, const uint8_t *identity, enum sf_when when)
{
    struct os_file_info info, named;
    int status = os_file_info(fd, &info);
    if (status < 0) {
        return status;
    }
    if (!info.is_regular) {
        return SF_NOT_A_FILE;
    }
    if (os_lock_try(fd, SF_LOCK_UNLINK, 1) < 0) { /* G2 */
        return SF_RACE;
    }
    if (os_path_info(path, &named) < 0 || named.ino != info.ino || named.dev != info.dev) {
        return SF_NOT_FOUND;
    }
    /* All slots' bytes at once: nobody is attached, and nobody can attach meanwhile. */
    if (when == SF_WHEN_IDLE && os_lock_try(fd, SF_LOCK_SLOT, SF_MAX_PARTICIPANTS) < 0) {
        return SF_BUSY;
    }
    /* Before the flag: a removal that is refused must not have ended the topic. */
    if (os_may_remove(path) < 0) {
        return SF_DENIED;
    }
    status = flag_if_meant(fd, info.size, identity, when);
    return status < 0 ? status : open_status(os_file_remove(path));
}

int
sf_segment_remove(const char *path, const uint8_t *identity, enum sf_when when)
{
    int fd = os_file_open(path, true);
    if (fd < 0) {
        return open_status(fd);
    }
    int status = remove_open(fd, path, identity, when);
    /* Dropped by name, not only by close: a child forked just now shares the description. */
    (void)os_lock_drop(fd, SF_LOCK_SLOT, SF_MAX_PARTICIPANTS + 1);
    (void)os_file_close(fd);
    return status;
}

bool
sf_attachment_is_named(struct sf_attachment *att)
{
    struct os_file_info named;
    int status = os_path_info(att->path, &named);
    if (status == 0 && named.ino == att->ino && named.dev == att->dev) {
        return true;
    }
    if (status < 0 && status != -ENOENT) {
        return true; /* cannot be told: not a reason to leave */
    }
    if (!att->monitor) {
        flag_removed(&att->ring);
    }
    return false;
}

bool
sf_attachment_has_gone(struct sf_attachment *att)
{
    /* Acquire: with flag_removed. */
    return (sf_load_acquire(&att->ring.header->ended) & SF_UNLINKED) != 0 ||
           !sf_attachment_is_named(att);
}
