/* Segments: the attach ladder, and the life of an attachment.
 *
 * Owns:      opening, checking and mapping a segment; an attachment's references and its end.
 * Does not:  make files (create.c), remove them (remove.c) or follow names (topic.c).
 *
 * Invariants
 *   G3  Who attaches looks at SF_UNLINKED and at the name after taking its slot. With G2
 *       (remove.c): either the remover's look at the slots sees it, or it sees the flag.
 *   G8  A temporary topic that somebody was attached to and nobody is any more is absent, for all who
 *       come: however its last participant ended, the kernel has dropped its byte. Who meets it
 *       removes it. One that nobody was attached to yet is its creator's, and empty.
 *   G4  Constants are copied and checked before anything else of the file is believed.
 *
 * A crash here leaves: a taken slot whose byte is free; participants.c cleans it.
 */
#include "core/attachment.h"

#include <errno.h>
#include <string.h>

#define SF_RACE_NAP_NS UINT64_C(500000)

int
sf_open_status(int status)
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

/* ---- the attach ladder ---- */

/* G8. The tables first, the bytes then: whoever attaches has its byte before its slot says so. */
static int
check_deserted(int fd, const struct sf_layout *layout)
{
    void *base;
    if ((layout->flags & SF_TEMPORARY) == 0) {
        return 0;
    }
    int status = os_map(fd, 0, layout->groups_off, false, &base);
    if (status < 0) {
        return status;
    }
    struct sf_ring ring;
    sf_ring_bind(&ring, layout, base); /* only header and participants lie in it */
    bool used = false;
    for (uint32_t slot = 0; slot < layout->max_participants && !used; slot++) {
        /* Acquire: with settle_in's release, after its byte was locked. */
        used = sf_load_acquire(&ring.slots[slot].state) != SF_SLOT_FREE ||
               sf_load_relaxed(&ring.slots[slot].gen) != 0; /* grown by who left before us */
    }
    os_unmap(base, layout->groups_off);
    if (!used) {
        return 0;
    }
    status = os_lock_test(fd, SF_LOCK_SLOT, SF_MAX_PARTICIPANTS);
    return status == 1 ? 0 : status == 0 ? SF_DESERTED : status;
}

/* Rungs 1 to 3: a regular file with a name, a header that holds, a length that fits, no holes; a
 * temporary one with somebody in it. identity: of one that is SF_DESERTED as well. */
static int
open_segment(const char *path, bool writable, struct os_file_info *info, struct sf_layout *layout,
             uint8_t identity[16])
{
    int fd = os_file_open(path, writable);
    if (fd < 0) {
        struct os_file_info there;
        if (fd == -EACCES && os_path_info(path, &there) == 0 && !there.is_regular) {
            return SF_NOT_A_FILE;
        }
        return sf_open_status(fd);
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
        memcpy(identity, ((struct sf_header *)page)->identity, 16);
        os_unmap(page, SF_PAGE);
    }
    if (status == 0 && info->allocated < info->size) {
        status = SF_SPARSE; /* each hole is a SIGBUS on the day that its file system is full */
    }
    if (status == 0) {
        status = check_deserted(fd, layout);
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
    int fd = open_segment(path, false, info, layout, identity);
    if (fd < 0) {
        return fd;
    }
    (void)os_file_close(fd);
    return 0;
}

int
sf_segment_find(const char *path, struct sf_layout *layout, struct os_file_info *info,
                uint8_t identity[16])
{
    int status = sf_segment_peek(path, layout, info, identity);
    if (status == SF_DESERTED) {
        /* SF_BUSY: somebody came just now and is in it alone. It is gone for us all the same. */
        bool refused = sf_segment_remove(path, identity, SF_WHEN_IDLE) == SF_DENIED;
        status = refused ? SF_DESERTED : SF_NOT_FOUND;
    }
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
        return sf_open_status(fd);
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

/* J1 (trial.c): it counts as alive, seen through another description than the one it took its byte
 * on, and can be woken. Else it leaves as it came. */
static int
try_footing(struct sf_attachment *att, int fd)
{
    int status = sf_try_life(fd, att->slot);
    if (status == 0) {
        status = sf_try_futex(&att->ring.header->bell.count);
    }
    if (status < 0) {
        sf_slot_give_up(att);
    }
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
    os_free(att->pins);
    os_free((void *)att->filled);
    os_free(att->path);
    os_free(att);
}

static int
attach_once(const char *path, enum sf_attach_as as, struct sf_attachment **out)
{
    struct sf_attachment *att = os_alloc(sizeof *att);
    if (!att) {
        return -ENOMEM;
    }
    pthread_mutex_init(&att->pins_mutex, NULL);
    att->monitor = as == SF_AS_MONITOR;
    att->slot = SF_NIL;
    att->epoch = sf_process_epoch();
    sf_store_relaxed(&att->refs, 1); /* private yet */
    att->path = os_copy_text(path);
    struct sf_layout layout = {0};
    struct os_file_info info, folder;
    int status = att->path ? sf_folder_info(path, &folder) : -ENOMEM;
    int fd = -1;
    if (status < 0) {
        status = sf_open_status(status);
    }
    else {
        att->folder_dev =
            folder.dev; /* before the file: a mount in between is taken for a change */
        att->folder_ino = folder.ino;
        uint8_t identity[16];
        fd = open_segment(path, !att->monitor, &info, &layout, identity);
        status = fd < 0 ? fd : 0;
    }
    if (status == 0) {
        att->dev = info.dev;
        att->ino = info.ino;
        att->uid = info.uid;
        att->max_held = layout.capacity / 4;
        att->least_held = 2; /* a loop holds the last message while it reads the next */
        att->pins = os_alloc(layout.desc_len * sizeof *att->pins);
        att->filled = os_alloc((size_t)((layout.capacity + layout.lane_len) / SF_FILL_LEN + 1));
        status =
            att->pins && att->filled ? map_segment(att, fd, &layout, as == SF_AS_WRITER) : -ENOMEM;
    }
    att->cursor = &att->monitor_cursor;
    if (status == 0 && !att->monitor) {
        status = take_slot(att);
        if (status == 0) {
            status = try_footing(att, fd);
        }
    }
    if (fd >= 0) {
        (void)os_file_close(fd);
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
        sf_pages_begin(att);
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
            return status == SF_DESERTED ? SF_NOT_FOUND : status;
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
