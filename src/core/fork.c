/* Fork: the child owns nothing of its parent's, and inherited views stay what they were.
 *
 * Owns:      the process's list of attachments, its epoch, the three handlers.
 * Does not:  attach anew in the child; the first use of an inherited Topic does (topic.c).
 *
 * How. prepare takes the registry's and all pins' mutexes (they are leaves, so nothing can wait
 * for us meanwhile) and copies the pages of held blocks aside. The child maps nothing-at-all over
 * its inherited segments (so it keeps no file alive, and a stray touch is a fault and not a
 * corruption), moves the copies to where its views look, and forgets the list. The parent drops
 * the copies. Threads of the parent may be in the middle of anything else, the writer lock
 * included: it is theirs, and they go on.
 *
 * Invariants
 *   X1  In a child every inherited attachment is void: sf_attachment_is_mine() is false, and no
 *       function but unref may be called with it.
 *   X2  A fork without handlers (a raw clone) is noticed too: the epoch lies behind a page that
 *       the kernel wipes in the child. Then views share the parent's pages, and bits are left
 *       alone; nothing is corrupted.
 *   X3  If copies cannot be made, fork goes on; the child's views stay mapped to the segment and
 *       may change (loans are taken away), and sf_fork_trouble() says so once.
 *
 * A crash here leaves: nothing shared; handlers store nothing into a segment.
 *
 * Globals: registry (mutex and list), epoch, guard, trouble, ending, setting_up, is_set_up.
 */
#include "core/attachment.h"

#include <errno.h>
#include <string.h>

struct sf_fork_copy {
    struct sf_fork_copy *next;
    void *copy;
    void *at; /* where views look */
    size_t len;
};

static struct {
    pthread_mutex_t mutex;
    struct sf_attachment *first;
} registry = {PTHREAD_MUTEX_INITIALIZER, NULL};

static _Atomic uint32_t epoch = 1;
static _Atomic uint32_t *guard; /* non-zero in the process that set it */
static _Atomic uint32_t trouble;
static _Atomic uint32_t ending; /* the epoch of the process whose exit has begun */
static _Atomic uint32_t setting_up; /* the pid whose thread is at it, or 0 */
static _Atomic uint32_t is_set_up;

/* ---- what prepare keeps ---- */

static void
drop_copies(struct sf_attachment *att)
{
    while (att->copies) {
        struct sf_fork_copy *one = att->copies;
        att->copies = one->next;
        os_unmap(one->copy, one->len);
        os_free(one);
    }
}

/* Copies the pages under [off, off+len) of the mapping at `arena`. */
static int
keep_pages(struct sf_attachment *att, char *arena, uint64_t off, uint64_t len)
{
    size_t page = os_page_len();
    uint64_t first = off / page * page;
    uint64_t end = sf_round_up(off + len, page);
    struct sf_fork_copy *one = os_alloc(sizeof *one);
    if (!one) {
        return -ENOMEM;
    }
    one->len = (size_t)(end - first);
    one->at = arena + first;
    int status = os_map_private(one->len, &one->copy);
    if (status < 0) {
        os_free(one);
        return status;
    }
    size_t inside = (size_t)(end < att->arena_len ? end - first : att->arena_len - first);
    memcpy(one->copy, arena + first, inside);
    if (arena == att->arena) {
        (void)os_map_read_only(one->copy, one->len);
    }
    one->next = att->copies;
    att->copies = one;
    return 0;
}

static void
keep_held(struct sf_attachment *att)
{
    uint64_t left = att->held_blocks;
    for (uint32_t desc = 0; left > 0 && desc < att->ring.lay.desc_len; desc++) {
        if (att->pins[desc] == 0) {
            continue;
        }
        left--;
        /* Held by us: off and len stand still; bounded all the same (R5). */
        uint64_t off = sf_load_relaxed(&att->ring.descs[desc].off);
        uint64_t len = sf_load_relaxed(&att->ring.descs[desc].len); /* as off */
        if (off > att->arena_len || len > att->arena_len - off) {
            continue;
        }
        int status = keep_pages(att, att->arena, off, len);
        if (status == 0 && (att->pins[desc] & SF_WAS_LOAN) != 0) {
            status = keep_pages(att, att->arena_rw, off, len);
        }
        if (status < 0) {
            att->copies_failed = true;
            drop_copies(att);
            return;
        }
    }
}

/* ---- the handlers ---- */

static void
before_fork(void)
{
    pthread_mutex_lock(&registry.mutex);
    for (struct sf_attachment *att = registry.first; att; att = att->next) {
        pthread_mutex_lock(&att->pins_mutex);
        att->copies_failed = false;
        if (!att->monitor) {
            /* Where the reader stands, for the child: by the time it runs the parent may have read
             * on. Relaxed: topic.c attaches anew there. */
            sf_store_relaxed(&att->monitor_cursor, sf_load_relaxed(att->cursor));
        }
        if (att->held_blocks > 0) {
            keep_held(att);
        }
    }
}

static void
after_fork_in_parent(void)
{
    for (struct sf_attachment *att = registry.first; att; att = att->next) {
        drop_copies(att);
        pthread_mutex_unlock(&att->pins_mutex);
    }
    pthread_mutex_unlock(&registry.mutex);
}

/* Where the kernel grants no further mapping: opens the whole range, which needs none, and copies. */
static int
put_back(struct sf_attachment *att, const struct sf_fork_copy *one)
{
    bool lent = att->arena_rw && (char *)one->at >= att->arena_rw &&
                (char *)one->at < att->arena_rw + att->arena_len;
    char *arena = lent ? att->arena_rw : att->arena;
    int status = os_map_writable(arena, att->arena_len);
    if (status == 0) {
        memcpy(one->at, one->copy, one->len);
        if (!lent) {
            (void)os_map_read_only(arena, att->arena_len);
        }
    }
    os_unmap(one->copy, one->len);
    return status;
}

static void
make_void(struct sf_attachment *att)
{
    att->life = NULL; /* MADV_DONTFORK: there is nothing at that address here */
    att->cursor = &att->monitor_cursor; /* as it was before the fork */
    (void)os_map_void(att->control, att->control_len);
    if (att->arena_rw) {
        (void)os_map_void(att->arena_rw, att->arena_len);
    }
    if (att->copies_failed) {
        sf_store_relaxed(&trouble, 1); /* private: one thread, right after fork */
        return;
    }
    (void)os_map_void(att->arena, att->arena_len);
    while (att->copies) {
        struct sf_fork_copy *one = att->copies;
        att->copies = one->next;
        if (os_map_move(one->copy, one->len, one->at) < 0 && put_back(att, one) < 0) {
            sf_store_relaxed(&trouble, 1); /* as above */
        }
        os_free(one);
    }
}

static void
after_fork_in_child(void)
{
    struct sf_attachment *att = registry.first;
    while (att) {
        struct sf_attachment *next = att->next;
        make_void(att);
        att->registered = false;
        att->next = att->prev = NULL;
        pthread_mutex_unlock(&att->pins_mutex); /* this thread took it before the fork */
        att = next;
    }
    registry.first = NULL;
    pthread_mutex_unlock(&registry.mutex); /* as above */
    /* Not left to the guard: an emulator may not wipe it. Private; one thread is left. */
    sf_store_relaxed(guard, 1);
    (void)sf_count_up(&epoch);
}

/* ---- the process ---- */

/* Each step looks at what an earlier try has done. */
static int
set_up(void)
{
    if (!guard) {
        void *page;
        int status = os_map_private(os_page_len(), &page);
        if (status < 0) {
            return status;
        }
        status = os_map_wipe_on_fork(page, os_page_len());
        if (status < 0) {
            os_unmap(page, os_page_len());
            return status;
        }
        /* Relaxed: one process's own word; a fork orders it. */
        sf_store_relaxed((_Atomic uint32_t *)page, 1);
        guard = page;
    }
    return os_at_fork(before_fork, after_fork_in_parent, after_fork_in_child);
}

/* No pthread_once: memory that was short may be there again. No mutex: a child that another thread
 * forked meanwhile would find it locked for ever; the pid tells it that nobody is at it. */
int
sf_process_setup(void)
{
    int status = 0;
    uint32_t me = os_pid();
    /* Acquire and release, of both words: one thread's steps come before the next one's. */
    while (status == 0 && sf_load_acquire(&is_set_up) == 0) {
        uint32_t other = 0;
        if (!sf_cas_acquire(&setting_up, &other, me) &&
            (other == me || !sf_cas_acquire(&setting_up, &other, me))) { /* as above */
            os_yield();
            continue;
        }
        if (sf_load_relaxed(&is_set_up) == 0) { /* ordered by the exchange */
            status = set_up();
            sf_store_release(&is_set_up, status == 0); /* as above */
        }
        sf_store_release(&setting_up, 0); /* as above */
    }
    return status;
}

uint32_t
sf_process_epoch(void)
{
    if (guard && sf_load_relaxed(guard) == 0) { /* wiped: we are a child */
        sf_store_relaxed(guard, 1); /* X2 */
        (void)sf_count_up(&epoch); /* private, as guard */
        /* No handler ran: the inherited stay as they are, forgotten and untouched; the mutex may
         * have been another thread's. */
        registry.first = NULL;
        pthread_mutex_init(&registry.mutex, NULL);
    }
    return sf_load_relaxed(&epoch); /* private; a fork orders it */
}

bool
sf_attachment_is_mine(const struct sf_attachment *att)
{
    return att->epoch == sf_process_epoch();
}

void
sf_fork_hold(void)
{
    (void)sf_process_epoch(); /* in a child without handlers the mutex may be another thread's */
    pthread_mutex_lock(&registry.mutex);
}

void
sf_fork_release(void)
{
    pthread_mutex_unlock(&registry.mutex);
}

void
sf_registry_add(struct sf_attachment *att)
{
    pthread_mutex_lock(&registry.mutex);
    att->next = registry.first;
    att->prev = NULL;
    if (att->next) {
        att->next->prev = att;
    }
    registry.first = att;
    att->registered = true;
    pthread_mutex_unlock(&registry.mutex);
}

void
sf_registry_remove(struct sf_attachment *att)
{
    pthread_mutex_lock(&registry.mutex);
    if (att->registered) {
        *(att->prev ? &att->prev->next : &registry.first) = att->next;
        if (att->next) {
            att->next->prev = att->prev;
        }
        att->registered = false;
    }
    pthread_mutex_unlock(&registry.mutex);
}

bool
sf_fork_trouble(void)
{
    return sf_load_relaxed(&trouble) != 0 && sf_take_flag(&trouble) != 0; /* private */
}

/* Marks the slots that this process has in the segment that `att` is attached to. */
static void
mark_mine(const struct sf_attachment *att, uint8_t mine[SF_MAX_PARTICIPANTS])
{
    memset(mine, 0, SF_MAX_PARTICIPANTS);
    for (struct sf_attachment *other = registry.first; other; other = other->next) {
        if (other->ino == att->ino && other->dev == att->dev && other->slot != SF_NIL) {
            mine[other->slot] = 1;
        }
    }
}

bool
sf_process_is_ending(void)
{
    /* seq_cst, with the store below: a thread that makes a temporary topic either attached before the
     * list was looked at, or sees this. */
    return sf_load_seq(&ending) == sf_process_epoch(); /* a child of it has another */
}

void
sf_process_exit(void)
{
    uint8_t mine[SF_MAX_PARTICIPANTS];
    sf_store_seq(&ending, sf_process_epoch()); /* as above: before the list is looked at */
    pthread_mutex_lock(&registry.mutex);
    for (struct sf_attachment *att = registry.first; att; att = att->next) {
        /* The name only: views and daemon threads keep slot, byte and memory to the last. */
        if ((att->ring.lay.flags & SF_TEMPORARY) != 0 && !att->monitor) {
            mark_mine(att, mine);
            (void)sf_segment_remove_last(att->path, att->identity, mine);
        }
    }
    pthread_mutex_unlock(&registry.mutex);
}
