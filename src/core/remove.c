/* Removal: a generation ends, and everybody in it learns that it did.
 *
 * Owns:      unlinking a segment; who may do it and in which order; whether a name still leads
 *            where it led.
 * Does not:  wait for anybody: views and attachments keep the memory as long as they need it.
 *
 * Invariants
 *   G2  Who removes holds SF_LOCK_UNLINK of that inode, has seen the name lead to it, has set
 *       SF_UNLINKED and rung before the name goes; who replaces, right after another has it (G6 of
 *       create.c). So nobody waits in it for ever: a replacer that dies in between leaves a generation
 *       whose name leads elsewhere, which all in it look for (sf_attachment_is_named).
 *
 * A crash here leaves: a named segment flagged SF_UNLINKED, which attachers take for absent and
 * creators remove (SF_WHEN_FLAGGED).
 */
#include "core/attachment.h"

#include <errno.h>
#include <string.h>

static void
flag_removed(struct sf_header *header)
{
    /* Before the bells, and before the name goes: acquire in attach, seq_cst in wait (H). */
    sf_or_seq32(&header->ended, SF_UNLINKED);
    sf_bell_ring_always(&header->bell);
    sf_bell_ring_always(&header->room);
}

/* Under G2's byte: may it go? 0 and its header, or no header for a file that is no segment, which may go
 * by name only; one that cannot be looked at may be a segment, and stays. */
static int
look_at(int fd, uint64_t size, const uint8_t *identity, enum sf_when when, void **page)
{
    void *base = NULL;
    struct sf_layout layout;
    int status = SF_SHORT;
    *page = NULL;
    if (size >= SF_PAGE) {
        status = os_map(fd, 0, SF_PAGE, true, &base);
        if (status < 0) {
            return status;
        }
        status = sf_layout_load(base, size, &layout);
    }
    if (status < 0) {
        os_unmap(base, SF_PAGE);
        return identity || when == SF_WHEN_FLAGGED ? SF_BUSY : 0;
    }
    struct sf_header *header = base;
    /* Acquire: with the or of the remover that died. */
    bool flagged = (sf_load_acquire(&header->ended) & SF_UNLINKED) != 0;
    if (identity && memcmp(header->identity, identity, 16) != 0) {
        status = SF_NOT_FOUND;
    }
    else if (when == SF_WHEN_FLAGGED && !flagged) {
        status = SF_BUSY;
    }
    if (status < 0) {
        os_unmap(base, SF_PAGE);
        return status;
    }
    *page = base;
    return 0;
}

/* All slots' bytes but mine: nobody else is attached, and nobody can attach meanwhile. -EAGAIN:
 * somebody is. */
static int
lock_slots(int fd, const uint8_t *mine)
{
    if (!mine) {
        return os_lock_try(fd, SF_LOCK_SLOT, SF_MAX_PARTICIPANTS);
    }
    int status = 0;
    for (uint32_t slot = 0; status == 0 && slot < SF_MAX_PARTICIPANTS; slot++) {
        status = mine[slot] ? 0 : os_lock_try(fd, SF_LOCK_SLOT + slot, 1);
    }
    return status;
}

/* The file that takes the name, in one step; NULL: none, the name goes. */
struct heir {
    const char *dir, *tmp;
};

/* G2: the flag, then the name goes. With an heir the other way round: nobody waits in a generation whose
 * name leads elsewhere (they look), but one that was flagged is dead, and a rename can fail. */
static int
end(const char *path, struct sf_header *header, const struct heir *heir)
{
    int status = heir ? os_file_replace(heir->dir, heir->tmp, path) : 0;
    if (status == 0 && header) {
        flag_removed(header);
    }
    return heir ? status : os_file_remove(path);
}

static int
remove_open(int fd, const char *path, const uint8_t *identity, enum sf_when when,
            const uint8_t *mine, const struct heir *heir)
{
    struct os_file_info info, named;
    int status = os_file_info(fd, &info);
    if (status < 0) {
        return status;
    }
    if (!info.is_regular) {
        return SF_NOT_A_FILE;
    }
    status = os_lock_try(fd, SF_LOCK_UNLINK, 1); /* G2 */
    if (status < 0) {
        return status == -EAGAIN ? SF_RACE : status;
    }
    status = os_path_info(path, &named);
    if (status < 0) {
        return sf_open_status(status);
    }
    if (named.ino != info.ino || named.dev != info.dev) {
        return SF_NOT_FOUND;
    }
    status = when == SF_WHEN_IDLE ? lock_slots(fd, mine) : 0;
    if (status < 0) {
        return status == -EAGAIN ? SF_BUSY : status;
    }
    /* Before the flag: a removal that is refused must not have ended the topic. */
    status = os_may_remove(path);
    if (status < 0) {
        return sf_open_status(status);
    }
    void *page;
    status = look_at(fd, info.size, identity, when, &page);
    if (status < 0) {
        return status;
    }
    status = end(path, page, heir);
    os_unmap(page, SF_PAGE);
    return sf_open_status(status);
}

static int
remove_path(const char *path, const uint8_t *identity, enum sf_when when, const uint8_t *mine,
            const struct heir *heir)
{
    int fd = os_file_open(path, true);
    if (fd < 0) {
        return sf_open_status(fd);
    }
    int status = remove_open(fd, path, identity, when, mine, heir);
    /* Dropped by name, not only by close: a child of a raw clone shares the description. */
    (void)os_lock_drop(fd, SF_LOCK_SLOT, SF_MAX_PARTICIPANTS + 1);
    (void)os_file_close(fd);
    return status;
}

int
sf_segment_remove(const char *path, const uint8_t *identity, enum sf_when when)
{
    /* No fork while bytes are locked (V4): a child would keep them if its parent is killed. */
    sf_fork_hold();
    int status = remove_path(path, identity, when, NULL, NULL);
    sf_fork_release();
    return status;
}

int
sf_segment_succeed(const char *path, const struct sf_replaced *old, const char *dir,
                   const char *tmp)
{
    struct heir heir = {dir, tmp};
    sf_fork_hold(); /* as above */
    int status = remove_path(path, old->any ? NULL : old->identity, old->when, NULL, &heir);
    sf_fork_release();
    return status;
}

int
sf_segment_is_idle(const char *path)
{
    int fd = os_file_open(path, false);
    if (fd < 0) {
        return sf_open_status(fd);
    }
    int held = os_lock_test(fd, SF_LOCK_SLOT, SF_MAX_PARTICIPANTS);
    (void)os_file_close(fd);
    return held < 0 ? held : !held;
}

/* The caller holds forks off. */
int
sf_segment_remove_last(const char *path, const uint8_t *identity, const uint8_t *mine)
{
    return remove_path(path, identity, SF_WHEN_IDLE, mine, NULL);
}

/* Where the path leads elsewhere or nowhere, what does that say of the file? Of another folder's names,
 * after chroot, under a new mount, in a folder that was made again: nothing. Then the file itself is
 * asked whether it still has a name. */
static bool
has_lost_its_name(const struct sf_attachment *att)
{
    struct os_file_info folder;
    int status = sf_folder_info(att->path, &folder);
    if (status < 0 && status != -ENOENT && status != -ENOTDIR) {
        return false; /* cannot be told: not a reason to leave */
    }
    bool same = status == 0 && folder.ino == att->folder_ino && folder.dev == att->folder_dev;
    return same || os_map_is_nameless(att->control);
}

bool
sf_attachment_is_named(struct sf_attachment *att)
{
    struct os_file_info named;
    int status = os_path_info(att->path, &named);
    if (status == 0 && named.ino == att->ino && named.dev == att->dev) {
        return true;
    }
    if ((status < 0 && status != -ENOENT && status != -ENOTDIR) || !has_lost_its_name(att)) {
        return true; /* as in has_lost_its_name */
    }
    if (!att->monitor) {
        flag_removed(att->ring.header);
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
