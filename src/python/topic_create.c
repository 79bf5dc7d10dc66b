/* A writer's way in: it attaches to the topic of its name, and makes it where there is none.
 *
 * Owns:      the race of those who would all make it; what an error says of the room that was wanted.
 * Does not:  lay out or fill a segment (core/create.c), or know which generation to write to
 *            (core/topic.c).
 *
 * Invariants
 *   G5  What was made here is attached to before a signal's handler may raise: a temporary topic
 *       that nobody ever was attached to would stay. The interpreter comes to the signals soon
 *       enough.
 *   G6  A signal's handler may fork while the file is made. The file is the parent's; the child has
 *       made none, and begins anew.
 * A crash here leaves: a file without a topic's name (core/create.c), or a topic with no one
 * attached.
 */
#include "python/module.h"

/* Between the chunks of a large reservation: Ctrl-C ends it. */
static int
look_at_signals(void *context)
{
    (void)context;
    PyGILState_STATE gil = PyGILState_Ensure();
    int status = PyErr_CheckSignals();
    PyGILState_Release(gil);
    return status < 0 ? SF_INTERRUPTED : 0;
}

/* What an error says of the room that was wanted. */
static int
raise_failure(struct sf_state *state, TopicObject *self, int status, const struct sf_making *make)
{
    struct sf_layout layout;
    struct os_file_info info = {0};
    uint64_t wanted =
        sf_layout_compute(&make->params, &layout) == 0 ? layout.file_len : make->params.capacity;
    if (make->old.there) {
        (void)os_path_info(self->t.path, &info);
    }
    PyObject *details = Py_BuildValue("{sK sK sK}", "wanted", (unsigned long long)wanted, "room",
                                      (unsigned long long)os_cgroup_room(), "replaced",
                                      (unsigned long long)info.size);
    if (details) {
        sf_raise_with(state, self, status, details);
        Py_DECREF(details);
    }
    return -1;
}

/* 1: made. 0: somebody was quicker. */
static int
create_segment(struct sf_state *state, TopicObject *self, const struct sf_making *make)
{
    int status;
    struct sf_topic *t = &self->t;
    Py_BEGIN_ALLOW_THREADS
    status = sf_topic_make(t, make, look_at_signals, NULL);
    Py_END_ALLOW_THREADS
    if (status == 0) {
        t->to_replace = false;
        return 1;
    }
    if (PyErr_Occurred()) {
        return -1;
    }
    if ((status == SF_EXISTS && (t->options.create != 1 || make->old.there)) || status == SF_RACE) {
        return 0; /* somebody was quicker: look again; or we are the child of a fork (G7) */
    }
    return raise_failure(state, self, status, make);
}

/* Who writes and reads so that messages are kept for it has joined before it writes, or else its first
 * messages could be gone before its first read. 1, 0: the generation went meanwhile, -1. */
static int
join_to_keep(struct sf_state *state, TopicObject *self)
{
    struct sf_topic *t = &self->t;
    if (t->has_joined || !sf_topic_keeps(t)) {
        return 1;
    }
    /* One slice; behind a frozen writer the next write asks again, and so does a read. */
    struct sf_deadline patience = {.until_ns = os_now_ns() + SF_SLICE_NS};
    if (sf_wait_to_join(state, self, &patience) < 0) {
        return -1;
    }
    t->has_written = t->has_written && t->has_joined;
    return t->att != NULL;
}

int
sf_topic_open_writer(struct sf_state *state, TopicObject *self, uint64_t len, bool replaces)
{
    struct sf_topic *t = &self->t;
    struct sf_making make;
    /* Each round that loses a race was won by another; a few dozen in a row are none. */
    for (int round = 0; round < 64; round++) {
        int status = sf_topic_enter(t); /* as in topic_write.c: find_generation */
        status = status == 0 ? sf_topic_to_write(t, len, &make) : status;
        if (status == 0) {
            status = join_to_keep(state, self);
            if (status != 0) {
                return status < 0 ? -1 : 0;
            }
            continue;
        }
        if (status == SF_RACE) {
            (void)os_sleep_until(os_now_ns() + 1000000);
            continue;
        }
        if (status == SF_TOO_LARGE) {
            return sf_raise_too_large(state, self, len);
        }
        if (status != SF_NOT_FOUND || t->options.create == 0) {
            return sf_raise(state, self, status);
        }
        if (make.old.there && !replaces) {
            return 1;
        }
        status = create_segment(state, self, &make);
        if (status < 0 || (status == 0 && sf_check_in(state, self) < 0)) { /* G5 */
            return -1;
        }
    }
    return sf_raise(state, self, SF_RACE);
}

int
sf_topic_open_existing(struct sf_state *state, TopicObject *self)
{
    struct sf_topic *t = &self->t;
    for (int round = 0; round < 64; round++) {
        int status = sf_topic_to_look(t);
        if (status == 0 && t->was_ended && t->options.mode == SF_MODE_W) {
            status = SF_ENDED; /* nothing is left to be done with it; "rw" may drain it */
        }
        if (status < 0) {
            return sf_raise(state, self, status);
        }
        status = join_to_keep(state, self);
        if (status != 0) {
            return status < 0 ? -1 : 0;
        }
    }
    return sf_raise(state, self, SF_NOT_FOUND);
}
