/* The beacon's two sides: a thread that lights it, and the reader that darkens it.
 *
 * Owns:      the eventfd, the waiting thread, a reference to the attachment that is watched.
 * Does not:  read messages or move the cursor; wait longer than wait.c does.
 *
 * Why a thread. Event loops wait for descriptors; what wakes a reader is a futex, which is none,
 * and an eventfd cannot be had by processes that only share a file. So one thread sleeps on the
 * futex like any reader, and makes the eventfd readable. It costs nothing until it is asked for.
 *
 * Missing readability is a defect, readability without a reason is not: the next call that reads
 * finds nothing and darkens. Hence the thread may light for what it saw a moment ago, and who
 * darkens does so only after a look; what came between that look and the darkness is seen by the
 * thread, which looks as soon as it is dark (the mutex orders the two).
 *
 * Invariants
 *   B1  The thread lights; the reader darkens, and lights what it sees. All under the mutex, which
 *       is a leaf: nothing that waits is called under it.
 *   B2  Dark and open, the thread is awake or in a sleep that news, a recall or a slice ends.
 *       Lit, it sleeps until it is dark.
 *   B3  att is referenced once, by the beacon. If the reader leaves it while the thread uses it,
 *       the reference becomes the thread's (`orphaned`).
 *   B4  The thread uses the watched attachment and the path, nothing of the topic's object, and no
 *       interpreter.
 *   B5  A child has a copy of the descriptor and of this memory, and no thread: there nothing but
 *       sf_beacon_end is called, which takes no lock (it may have been taken at the fork) and does
 *       not touch the eventfd's count, which is the parent's as well.
 *
 *   B6  The number may have come to mean another file: os.closerange, then open. Before each use
 *       of it, it is asked whether it is the eventfd that the thread has marked; what is not is
 *       neither written to nor read nor closed. sf_beacon_make returns after the mark was set.
 *
 * A crash here leaves: nothing.
 */
#include "core/beacon.h"

#include <errno.h>

#define SF_NAME_NAP_MIN_NS UINT64_C(2000000)
#define SF_NAME_NAP_MAX_NS UINT64_C(50000000)
#define SF_LONG_NS UINT64_C(3600000000000) /* the end of a sleep that nothing but a change ends */

struct sf_beacon {
    int fd;
    int64_t fd_id;
    int mark; /* of the thread on the eventfd (B6); negative where it cannot be marked */
    _Atomic uint32_t marked; /* futex: mark is there */
    uint32_t epoch; /* of the process that made it */
    const char *path;
    pthread_t thread;
    pthread_mutex_t mutex;
    /* Under the mutex. att is stored by the reader's side only, so that side may load it without. */
    struct sf_attachment *att;
    struct sf_attachment *in_use; /* by the thread, while the mutex is free */
    bool orphaned; /* B3 */
    bool ended;
    /* Stored under the mutex; lit is also loaded without, as a hint. */
    _Atomic uint32_t lit;
    _Atomic uint32_t change; /* futex: counts what the thread has to look at */
    _Atomic uint32_t recall; /* ends the thread's wait for a message (wait.c's `closed`) */
};

/* Would a read find something? Looked up, not compared: a claim may have evicted everything up to
 * head and never become a message; then there is nothing to read, however far behind the cursor is.
 * *missing gets the number to wait for. */
static bool
has_unread(struct sf_attachment *att, uint64_t *missing)
{
    struct sf_header *h = att->ring.header;
    struct sf_message m;
    uint64_t from;
    /* The cursor is relaxed: an old one lights needlessly, and for one that goes back the reader
     * settles. It may be shared with others, who read as well. */
    m.seq = sf_load_relaxed(att->cursor);
    /* H: ended before head, as in wait.c. */
    bool ended = (sf_load_seq(&h->ended) & SF_ENDS) != 0;
    bool found = ended || (sf_load_seq(&h->head) >= m.seq &&
                           sf_take_look(att, false, &from, &m) != SF_EMPTY);
    *missing = m.seq;
    return found;
}

/* B6 */
static bool
has_fd(const struct sf_beacon *b)
{
    return b->mark > 0 ? os_event_has_mark(b->fd, b->mark)
                       : b->fd_id >= 0 && os_event_id(b->fd) == b->fd_id;
}

static void
light_locked(struct sf_beacon *b)
{
    /* Before the event: who was woken by it must not take us for dark and leave it set. Relaxed:
     * the kernel's lock in the eventfd orders it, and the mutex what settle does then. */
    sf_store_relaxed(&b->lit, 1);
    if (has_fd(b)) {
        os_event_set(b->fd);
    }
}

/* ---- the thread ---- */

/* Until there is something to read, a recall, or a slice is over. */
static bool
await_message(struct sf_beacon *b, struct sf_attachment *att)
{
    uint64_t missing;
    if (has_unread(att, &missing)) {
        return true;
    }
    /* No spinning: who is waited for by an event loop has the loop's own latency before him. */
    (void)sf_wait_message(att, missing, UINT64_MAX, 0, &b->recall);
    return has_unread(att, &missing);
}

/* Naps first and looks then: a name that cannot be attached to (its remover died half-way) must not
 * make a loop out of its reader. */
static bool
await_name(struct sf_beacon *b, uint32_t change, uint64_t *nap_ns)
{
    struct os_file_info info;
    (void)os_futex_wait(&b->change, change, os_now_ns() + *nap_ns);
    *nap_ns = *nap_ns * 2 < SF_NAME_NAP_MAX_NS ? *nap_ns * 2 : SF_NAME_NAP_MAX_NS;
    return os_path_info(b->path, &info) == 0;
}

static void *
keep_watch(void *context)
{
    struct sf_beacon *b = context;
    uint64_t nap_ns = SF_NAME_NAP_MIN_NS;
    b->mark = os_event_mark(b->fd);
    sf_store_release(&b->marked, 1); /* with the acquire in sf_beacon_make */
    (void)os_futex_wake(&b->marked, 1);
    pthread_mutex_lock(&b->mutex);
    while (!b->ended) {
        /* Relaxed, all three: stored under the mutex. */
        uint32_t change = sf_load_relaxed(&b->change);
        bool lit = sf_load_relaxed(&b->lit) != 0;
        sf_store_relaxed(&b->recall, 0);
        struct sf_attachment *att = b->att, *left = NULL;
        b->in_use = lit ? NULL : att;
        pthread_mutex_unlock(&b->mutex);

        bool found = false;
        if (lit) {
            (void)os_futex_wait(&b->change, change, os_now_ns() + SF_LONG_NS);
        }
        else if (att) {
            nap_ns = SF_NAME_NAP_MIN_NS;
            found = await_message(b, att);
        }
        else {
            found = await_name(b, change, &nap_ns);
        }

        pthread_mutex_lock(&b->mutex);
        if (b->orphaned) {
            left = b->in_use;
            b->orphaned = false;
        }
        b->in_use = NULL;
        if (found && b->att == att && sf_load_relaxed(&b->lit) == 0) { /* under the mutex */
            light_locked(b);
        }
        if (left) {
            pthread_mutex_unlock(&b->mutex); /* B1: the last reference may remove a topic */
            sf_attachment_unref(left);
            pthread_mutex_lock(&b->mutex);
        }
    }
    pthread_mutex_unlock(&b->mutex);
    return NULL;
}

/* Gets the thread out of whatever it waits for. */
static void
recall_locked(struct sf_beacon *b)
{
    /* H: the thread's wait looks at it with the news, after the flag that the bell looks at. */
    sf_store_seq(&b->recall, 1);
    sf_add_seq32(&b->change, 1); /* before the wake: who loaded it earlier does not sleep */
    (void)os_futex_wake(&b->change, 1);
    if (b->in_use && !b->in_use->monitor) {
        sf_bell_ring(&b->in_use->ring.header->bell);
    }
}

/* ---- the reader's side ---- */

int
sf_beacon_make(const char *path, struct sf_attachment *att, struct sf_beacon **out)
{
    struct sf_beacon *b = os_alloc(sizeof *b);
    if (!b) {
        return -ENOMEM;
    }
    b->fd = os_event_open();
    if (b->fd < 0) {
        int status = b->fd;
        os_free(b);
        return status;
    }
    b->fd_id = os_event_id(b->fd);
    b->epoch = sf_process_epoch();
    b->path = path;
    b->att = att;
    if (att) {
        sf_attachment_ref(att);
    }
    pthread_mutex_init(&b->mutex, NULL);
    int status = os_thread_start(&b->thread, keep_watch, b);
    if (status < 0) {
        if (att) {
            sf_attachment_unref(att); /* not the last one: the caller's is left */
        }
        pthread_mutex_destroy(&b->mutex);
        (void)os_file_close(b->fd);
        os_free(b);
        return status;
    }
    while (sf_load_acquire(&b->marked) == 0) { /* with the thread's release */
        (void)os_futex_wait(&b->marked, 0, os_now_ns() + SF_LONG_NS);
    }
    sf_beacon_settle(b, att);
    *out = b;
    return 0;
}

int
sf_beacon_fd(const struct sf_beacon *beacon)
{
    return beacon->fd;
}

bool
sf_beacon_is_mine(const struct sf_beacon *beacon)
{
    return beacon->epoch == sf_process_epoch();
}

bool
sf_beacon_has_fd(const struct sf_beacon *beacon)
{
    return has_fd(beacon);
}

static struct sf_attachment *
exchange_locked(struct sf_beacon *b, struct sf_attachment *att)
{
    struct sf_attachment *old = b->att;
    if (att) {
        sf_attachment_ref(att);
    }
    b->att = att;
    if (old && b->in_use == old && !b->orphaned) {
        b->orphaned = true; /* B3 */
        return NULL;
    }
    return old;
}

void
sf_beacon_settle(struct sf_beacon *b, struct sf_attachment *att)
{
    uint64_t missing;
    bool unread = att && has_unread(att, &missing);
    /* Relaxed: a hint, loaded again under the mutex. Who takes a light for dark leaves it without a
     * reason; who takes it for lit overlooked what the thread looks at now. */
    if (att == b->att && unread == (sf_load_relaxed(&b->lit) != 0)) {
        return;
    }
    struct sf_attachment *left = NULL;
    pthread_mutex_lock(&b->mutex);
    if (att != b->att) {
        left = exchange_locked(b, att);
    }
    bool lit = sf_load_relaxed(&b->lit) != 0; /* under the mutex */
    if (unread && !lit) {
        /* The thread may wait for later ones, where the cursor went back. */
        light_locked(b);
    }
    else if (!unread && lit) {
        if (has_fd(b)) {
            os_event_clear(b->fd);
        }
        sf_store_relaxed(&b->lit, 0); /* as above */
    }
    recall_locked(b);
    pthread_mutex_unlock(&b->mutex);
    if (left) {
        sf_attachment_unref(left);
    }
}

/* B5. Closes nothing that has come to have the same number. */
static void
forget(struct sf_beacon *b)
{
    if (b->fd_id >= 0 && os_event_id(b->fd) == b->fd_id) {
        (void)os_file_close(b->fd);
    }
    if (b->orphaned && b->in_use) {
        sf_attachment_unref(b->in_use);
    }
}

void
sf_beacon_end(struct sf_beacon *b)
{
    if (sf_beacon_is_mine(b)) {
        pthread_mutex_lock(&b->mutex);
        bool ours = has_fd(b); /* while the thread lives, and its mark */
        b->ended = true;
        recall_locked(b);
        pthread_mutex_unlock(&b->mutex);
        os_thread_join(b->thread);
        pthread_mutex_destroy(&b->mutex);
        if (ours) {
            os_event_set(b->fd); /* for copies of the descriptor: reading tells that it is closed */
            (void)os_file_close(b->fd);
        }
    }
    else {
        forget(b);
    }
    if (b->att) {
        sf_attachment_unref(b->att);
    }
    os_free(b);
}
