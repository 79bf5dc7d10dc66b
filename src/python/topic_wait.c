/* The waits of readers: for a message, for a topic, for the lock that joining takes.
 *
 * Owns:      giving up the GIL around them, and what is told to people who wait for long.
 * Does not:  take messages (topic_read.c) or sleep by itself (core/wait.c).
 *
 * Invariants
 *   Q2  Waiting holds no lock and no GIL, and a reference to the attachment; another thread may
 *       close the Topic meanwhile.
 *   Q4  No wait is longer than a slice: signals and the deadline are looked at after each.
 * A crash here leaves: nothing that readers write.
 */
#include "python/module.h"

#define SF_NAP_MIN_NS UINT64_C(2000000)
#define SF_NAP_MAX_NS UINT64_C(50000000)
#define SF_ABSENT_NS UINT64_C(5000000000) /* then people are told what a wait waits for */

int
sf_wait_for_message(struct sf_state *state, TopicObject *self, const struct sf_deadline *deadline,
                    uint64_t seq)
{
    struct sf_attachment *att = self->t.att;
    int status;
    if (deadline->until_ns != UINT64_MAX && os_now_ns() >= deadline->until_ns) {
        return 1;
    }
    sf_attachment_ref(att);
    Py_BEGIN_ALLOW_THREADS
    status =
        sf_wait_message(att, seq, deadline->until_ns, self->t.options.spin_ns, &self->t.closed);
    Py_END_ALLOW_THREADS
    sf_attachment_unref(att);
    if (sf_check_in(state, self) < 0) {
        return -1;
    }
    return status == SF_EMPTY && os_now_ns() >= deadline->until_ns ? 1 : 0;
}

int
sf_warn_of_absent(struct sf_state *state, TopicObject *self, uint64_t since_ns)
{
    if (self->warned_wait || os_now_ns() - since_ns <= SF_ABSENT_NS) {
        return 0;
    }
    self->warned_wait = true;
    PyObject *hint = PyObject_CallMethod(state->texts, "nearest", "s", self->t.name);
    if (!hint) {
        return -1;
    }
    int status =
        PyErr_WarnFormat(PyExc_RuntimeWarning, 1,
                         "waiting for topic '%s', which does not exist yet%U", self->t.name, hint);
    Py_DECREF(hint);
    return status;
}

/* Naps until the topic has a name, a slice at most. */
static SF_COLD int
wait_for_topic(struct sf_state *state, TopicObject *self, const struct sf_deadline *deadline,
               uint64_t since_ns)
{
    uint64_t now = os_now_ns();
    if (now >= deadline->until_ns) {
        return 1;
    }
    if (sf_warn_of_absent(state, self, since_ns) < 0) {
        return -1;
    }
    struct os_file_info info;
    char *path = self->t.path; /* constant; self is kept by the caller */
    Py_BEGIN_ALLOW_THREADS
    uint64_t slice =
        now + SF_SLICE_NS < deadline->until_ns ? now + SF_SLICE_NS : deadline->until_ns;
    uint64_t nap = SF_NAP_MIN_NS;
    do { /* a nap first: there may be a file that is no topic any more, and stays */
        uint64_t next = now + nap < slice ? now + nap : slice;
        if (os_sleep_until(next) < 0) {
            break;
        }
        nap = nap * 2 < SF_NAP_MAX_NS ? nap * 2 : SF_NAP_MAX_NS;
        now = os_now_ns();
    } while (now < slice && os_path_info(path, &info) < 0 && sf_load_relaxed(&self->t.closed) == 0);
    Py_END_ALLOW_THREADS
    return sf_check_in(state, self);
}

int
sf_wait_to_join(struct sf_state *state, TopicObject *self, const struct sf_deadline *deadline)
{
    struct sf_topic *t = &self->t;
    struct sf_attachment *att = t->att;
    struct sf_joining how;
    int status;
    sf_topic_joining(t, &how);
    sf_attachment_ref(att);
    Py_BEGIN_ALLOW_THREADS
    uint64_t slice = os_now_ns() + SF_SLICE_NS;
    status = sf_join(att, &how, slice < deadline->until_ns ? slice : deadline->until_ns);
    Py_END_ALLOW_THREADS
    if (status == 0 && t->att == att) {
        sf_topic_has_joined(t);
    }
    else if (status == 0) {
        sf_unjoin(att); /* another thread has closed the Topic, or moved it on */
    }
    else if (status == SF_GONE && t->att == att && !t->has_joined) {
        sf_topic_leave(t); /* removed under a holder who may never let go: follow the name */
    }
    sf_attachment_unref(att);
    if (sf_check_in(state, self) < 0) {
        return -1;
    }
    if (status < 0 && status != SF_BUSY && status != SF_INTERRUPTED && status != SF_GONE) {
        return sf_raise(state, self, status);
    }
    return status == SF_BUSY && os_now_ns() >= deadline->until_ns ? 1 : 0;
}

int
sf_get_ready(struct sf_state *state, TopicObject *self, const struct sf_deadline *deadline,
             uint64_t *waiting_since, bool *ready)
{
    int status = sf_topic_to_read(&self->t);
    *ready = status == 0;
    if (status == SF_NOT_FOUND) {
        *waiting_since = *waiting_since ? *waiting_since : os_now_ns();
        return wait_for_topic(state, self, deadline, *waiting_since);
    }
    if (status == SF_BUSY) {
        return sf_wait_to_join(state, self, deadline);
    }
    return status < 0 ? sf_raise(state, self, status) : 0;
}
