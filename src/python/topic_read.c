/* Reading: from a call to an array, by the copy path or the pin path.
 *
 * Owns:      read, read_message, iteration over a Topic.
 * Does not:  wait (topic_wait.c), know the ring's protocols (core/ring.c) or how arrays are made
 *            (arrays.c).
 *
 * Invariants
 *   Q1  A message is consumed (sf_take_commit) only when its array is complete. Whatever fails
 *       before that has consumed nothing, except a message that is described impossibly: it is
 *       passed, or every later read would fail on it.
 *   Q3  What read() returns is read-only, copied or not; copy=True is always writable.
 *   Q5  After each call that may run Python code (parsing a dtype, a warning, the words of an error)
 *       the attachment is asked whether it is still this process's. In the child of a fork it is
 *       void: no look, no commit, no unpin; the take begins anew with an attachment of its own.
 * A crash here leaves: a pin of a dead participant.
 */
#include "python/module.h"

#include <string.h>

#define SF_RELEASE_LEN (64u * 1024u) /* copies from here on let go of the GIL */

/* ---- the two paths ---- */

static PyObject *
get_meta(const struct sf_message *m, const char *prefix)
{
    prefix += m->ndim > SF_INLINE_DIMS ? (size_t)m->ndim * 8 : 0;
    prefix += m->dtype_len > SF_INLINE_DTYPE ? m->dtype_len : 0;
    return PyBytes_FromStringAndSize(prefix, (Py_ssize_t)m->meta_len);
}

/* Consumes, unless the call only looks. */
static bool
commit(struct sf_attachment *att, const struct sf_request *request, uint64_t from,
       const struct sf_message *m)
{
    return request->at != 0 || sf_take_commit(att, from, m);
}

/* Q5: 1 and a dtype, 0 it is the child of a fork and has to begin anew, -1, or SF_BAD_MESSAGE. */
int
sf_take_dtype(TopicObject *self, struct sf_attachment *att, const struct sf_message *m,
              const char *prefix, uint64_t *shape, PyObject **descr)
{
    int status = sf_message_dtype(self, m, prefix, shape, descr);
    if (status != -1 && !sf_attachment_is_mine(att)) {
        Py_CLEAR(*descr);
        return 0;
    }
    return status == 0 ? 1 : status;
}

/* 1 taken, 0 try again, -1 exception. Pin path: the array lies in the ring. */
static SF_APART int
take_view(TopicObject *self, struct sf_attachment *att, const struct sf_request *request,
          uint64_t from, const struct sf_message *m, struct sf_taken *taken)
{
    /* After the pin nothing of the block can change: the prefix may be read in place. */
    PyObject *view = sf_view_new(self->state, att, m->desc);
    if (!view) {
        return -1;
    }
    uint64_t shape[SF_MAX_DIMS];
    const char *prefix = sf_message_prefix(att, m);
    PyObject *descr;
    int status = sf_take_dtype(self, att, m, prefix, shape, &descr);
    if (status != 1) {
        Py_DECREF(view);
        return status;
    }
    taken->array = sf_array_over(descr, m->ndim, shape, m->fortran,
                                 (void *)sf_message_payload(att, m), view, false);
    Py_DECREF(descr);
    Py_DECREF(view);
    if (taken->array && request->want_meta && m->meta_len > 0) {
        taken->meta = get_meta(m, prefix);
        if (!taken->meta) {
            Py_CLEAR(taken->array);
        }
    }
    if (!taken->array) {
        return -1;
    }
    if (!commit(att, request, from, m)) {
        Py_CLEAR(taken->array);
        Py_CLEAR(taken->meta);
        return 0;
    }
    return 1;
}

static void
copy_payload(struct sf_attachment *att, const struct sf_message *m, void *to)
{
    const char *at = sf_message_payload(att, m);
    if (m->payload_len < SF_RELEASE_LEN) {
        memcpy(to, at, m->payload_len);
        return;
    }
    Py_BEGIN_ALLOW_THREADS
    memcpy(to, at, m->payload_len);
    Py_END_ALLOW_THREADS
}

/* The same by the copy path. The block may be evicted under us; then it is tried again. Where it is
 * held and members of a group compete for it, the one that gets it is found before the copy. */
static SF_APART int
take_copy(TopicObject *self, struct sf_attachment *att, const struct sf_request *request,
          uint64_t from, const struct sf_message *m, bool pinned, struct sf_taken *taken)
{
    bool first = pinned && att->group != 0;
    char *prefix = NULL;
    uint64_t shape[SF_MAX_DIMS];
    if (m->prefix_len > 0) {
        prefix = PyMem_Malloc(m->prefix_len);
        if (!prefix) {
            PyErr_NoMemory();
            return -1;
        }
        memcpy(prefix, sf_message_prefix(att, m), m->prefix_len);
        if (!sf_is_current(&att->ring, m)) {
            PyMem_Free(prefix);
            return 0;
        }
    }
    PyObject *descr;
    int status = sf_take_dtype(self, att, m, prefix, shape, &descr);
    if (status != 1) {
        goto done;
    }
    status = -1;
    if (request->out) {
        if (sf_check_out(request->out, descr, m->ndim, shape, m->fortran) < 0) {
            goto done;
        }
        taken->array = Py_NewRef(request->out);
    }
    else {
        taken->array = sf_array_over(descr, m->ndim, shape, m->fortran, NULL, NULL, true);
    }
    if (taken->array && request->want_meta && m->meta_len > 0) {
        taken->meta = get_meta(m, prefix);
    }
    if (!taken->array || PyErr_Occurred()) {
        goto done;
    }
    status = !first || commit(att, request, from, m);
    if (status == 1) {
        copy_payload(att, m, sf_array_data(taken->array));
        status = first || (sf_is_current(&att->ring, m) && commit(att, request, from, m));
    }
    if (status == 1 && !request->copy && !request->out) {
        sf_array_freeze(taken->array);
    }
done:
    if (status != 1) {
        Py_CLEAR(taken->array);
        Py_CLEAR(taken->meta);
    }
    Py_XDECREF(descr);
    PyMem_Free(prefix);
    return status;
}

/* The hot path of small messages: nothing here runs Python code, waits for a lock of the
 * interpreter's or lets go of the GIL, so the Topic cannot leave its attachment meanwhile. -2: not such a message, take the long way. */
static int
take_small(TopicObject *self, struct sf_attachment *att, const struct sf_request *request,
           uint64_t from, const struct sf_message *m, struct sf_taken *taken)
{
    PyObject *descr = sf_message_dtype_cached(self, m);
    if (!descr || m->pinnable || m->prefix_len > 0 || m->payload_len > SF_SMALL_LEN ||
        request->out || !sf_shape_fits(descr, m, m->shape)) {
        return -2;
    }
    taken->array = sf_array_over(descr, m->ndim, m->shape, m->fortran, NULL, NULL, true);
    if (!taken->array) {
        return -1;
    }
    memcpy(sf_array_data(taken->array), sf_message_payload(att, m), m->payload_len);
    if (!sf_is_current(&att->ring, m) || !commit(att, request, from, m)) {
        sf_take_raced(att, m);
        Py_CLEAR(taken->array);
        return 0;
    }
    if (!request->copy) {
        sf_array_freeze(taken->array);
    }
    return 1;
}

static SF_COLD int
warn_copying(TopicObject *self)
{
    if (self->warned_copy) {
        return 0;
    }
    self->warned_copy = true;
    return PyErr_WarnFormat(
        PyExc_RuntimeWarning, 1,
        "this reader of '%s' holds max_held (%llu bytes) of views, so read() copies now; drop "
        "arrays that are no longer needed, read with copy=True, or raise max_held",
        self->t.name, (unsigned long long)self->t.att->max_held);
}

static void
describe_taken(struct sf_taken *taken, const struct sf_message *m)
{
    taken->seq = m->seq;
    taken->stamp_ns = m->stamp_ns;
    taken->writer_pid = m->writer_pid;
    taken->lost = m->lost;
    taken->skipped = m->skipped;
}

/* The very message that was asked for. */
static int
look_at(struct sf_attachment *att, uint64_t seq, uint64_t *from, struct sf_message *m)
{
    *from = seq;
    int status = sf_look(&att->ring, seq, m);
    return (status == 0 || status == SF_BAD_MESSAGE || status == SF_EMPTY) && m->seq != seq
               ? SF_NOT_RETAINED
           : status == SF_EMPTY ? SF_NOT_RETAINED
                                : status;
}

/* Inlined into the loop of a read, which is where messages are many and small. */
static inline __attribute__((always_inline)) int
take(TopicObject *self, const struct sf_request *request, bool pass, struct sf_taken *taken)
{
    struct sf_attachment *att = self->t.att;
    struct sf_message m;
    m.seq = 0;
    uint64_t from;
    int status = request->at != 0 ? look_at(att, request->at, &from, &m)
                                  : sf_take_look(att, request->newest, &from, &m);
    taken->seq = m.seq; /* of an empty ring: the one to wait for */
    if (status < 0) {
        if (status == SF_BAD_MESSAGE) {
            taken->writer_pid = m.writer_pid;
            (void)(pass && commit(att, request, from, &m)); /* Q1 */
        }
        return status;
    }
    int small = take_small(self, att, request, from, &m, taken);
    if (small != -2) {
        self->copied += small == 1 && request->at == 0;
        describe_taken(taken, &m);
        return small;
    }
    sf_attachment_ref(att); /* the copy may let go of the GIL */
    bool copying = request->copy || request->out || att->monitor || !m.pinnable;
    bool pinned = false;
    if (!copying || (m.pinnable && !att->monitor)) {
        /* A large copy pins too, for as long as it takes, so a fast writer cannot starve it. */
        enum sf_pin_answer answer = sf_pin(att, &m, copying);
        if (answer == SF_PIN_CAP) {
            copying = true;
            int warned = request->at == 0 ? warn_copying(self) : 0;
            answer = warned < 0                   ? SF_PIN_CAP
                     : sf_attachment_is_mine(att) ? sf_pin(att, &m, true)
                                                  : SF_PIN_GONE; /* Q5 */
        }
        pinned = answer == SF_PIN_OK;
        status = answer == SF_PIN_CAP ? -1 : answer == SF_PIN_GONE ? 0 : 1;
    }
    else {
        status = 1;
    }
    if (status == 1) {
        status = copying ? take_copy(self, att, request, from, &m, pinned, taken)
                         : take_view(self, att, request, from, &m, taken);
        if (copying && pinned && sf_attachment_is_mine(att)) { /* Q5 */
            sf_unpin(att, m.desc);
        }
        self->copied += copying && status == 1 && request->at == 0;
    }
    if (status == SF_BAD_MESSAGE && pass) {
        (void)commit(att, request, from, &m); /* Q1 */
    }
    if (status == 0) {
        sf_take_raced(att, &m);
    }
    sf_attachment_unref(att);
    describe_taken(taken, &m);
    return status;
}

int
sf_take(TopicObject *self, const struct sf_request *request, bool pass, struct sf_taken *taken)
{
    return take(self, request, pass, taken);
}

int
sf_refuse_newest(struct sf_state *state, TopicObject *self)
{
    const struct sf_options *o = &self->t.options;
    if (o->lossless || o->group[0]) {
        return sf_raise_contradiction(
            state,
            "latest=True passes over messages, %s; use seek(\"latest\") to "
            "give up what is there, or a Topic without %s",
            o->lossless ? "and this reader asked to lose none"
                        : "which then no member of the group would get",
            o->lossless ? "lossless=True" : "group");
    }
    return 0;
}

/* After a race that was lost, or Python code that has forked or closed the Topic: 0 look again, 1 the
 * deadline is over, -1 exception. What was lost may have been a large copy, and the next may be lost
 * as well: Q4 of topic_wait.c holds here too. */
static SF_COLD int
look_again(struct sf_state *state, TopicObject *self, struct sf_deadline *deadline,
           uint64_t *racing_since)
{
    if (sf_check_in(state, self) < 0) {
        return -1;
    }
    sf_start(deadline);
    return sf_take_is_hopeless(racing_since) && os_now_ns() >= deadline->until_ns;
}

/* The loop of every reading call. 1 taken, 0 the deadline passed, -1 exception. */
int
sf_read_next(struct sf_state *state, TopicObject *self, const struct sf_request *request,
             struct sf_taken *taken)
{
    struct sf_topic *t = &self->t;
    uint64_t waiting_since = 0, racing_since = 0;
    struct sf_deadline deadline = request->deadline;
    /* To give up the GIL, to get it back and to ask the clock take longer than an answer that is on
     * its way. Once only: signals and deadlines wait for it. */
    bool brief = t->options.spin_ns != 0 && deadline.until_ns != SF_OVER;
    taken->array = taken->meta = NULL;
    int status = sf_begin(state, self);
    if (status < 0) {
        return status;
    }
    if (t->options.mode == SF_MODE_W) {
        return sf_raise_wrong_mode(state, self, "read");
    }
    if (request->newest && sf_refuse_newest(state, self) < 0) {
        return -1;
    }
    for (;;) {
        bool ready = t->att && t->has_joined;
        if (!ready) {
            sf_start(&deadline);
            status = sf_get_ready(state, self, &deadline, &waiting_since, &ready);
        }
        if (ready) {
            status = request->stack != 0 ? sf_take_stack(self, request, taken)
                                         : take(self, request, true, taken);
            if (status == 1 || status == -1) {
                break;
            }
            if (status == 0) {
                status = look_again(state, self, &deadline, &racing_since);
            }
            else if (status == SF_EMPTY) {
                racing_since = 0;
                if (brief && sf_spin_briefly(t->att, taken->seq, &t->closed)) {
                    status = 0;
                }
                else {
                    sf_start(&deadline);
                    status = sf_wait_for_message(state, self, &deadline, taken->seq);
                }
                brief = false;
            }
            else if (status == SF_GONE || (status == SF_ENDED && sf_topic_has_moved(t))) {
                sf_topic_leave(t); /* drained: follow the name */
                status = 0;
            }
            else if (status < 0) {
                return sf_raise_of_taken(state, self, status, taken);
            }
        }
        if (status != 0) {
            status = status < 0 ? -1 : 0;
            break;
        }
    }
    if (self->beacon) {
        sf_settle(self);
    }
    return status;
}

int
sf_topic_open_reader(struct sf_state *state, TopicObject *self)
{
    struct sf_topic *t = &self->t;
    bool writes = t->options.mode == SF_MODE_RW || t->options.mode == SF_MODE_W;
    int status = !writes || sf_topic_keeps(t) ? sf_topic_to_read(t) : SF_NOT_FOUND;
    if (status == SF_MISMATCH && writes) {
        return 0; /* an idle one is replaced by the first write; else that raises */
    }
    if (status == SF_NOT_FOUND && t->options.create != 0) {
        return 0; /* it may come later */
    }
    if (status == SF_BUSY) {
        /* One slice; behind a frozen writer the first read goes on waiting. */
        struct sf_deadline patience = {.until_ns = os_now_ns() + SF_SLICE_NS};
        return sf_wait_to_join(state, self, &patience) < 0 ? -1 : 0;
    }
    return status < 0 ? sf_raise(state, self, status) : 0;
}

/* ---- the calls ---- */

/* 0, or -1 with an exception. */
static int
check_out(struct sf_state *state, PyObject *out)
{
    int plain = sf_is_plain_array(state, out);
    if (plain == 0) {
        PyErr_Format(PyExc_TypeError, "out= must be an ndarray, not %.100s%s",
                     Py_TYPE(out)->tp_name,
                     sf_is_array(out) ? ", whose values are more than its bytes; pass "
                                        "np.asarray(it) if these are meant"
                                      : "");
    }
    return plain == 1 ? 0 : -1;
}

static int
parse_request(struct sf_state *state, const char *call, PyObject *const *args, Py_ssize_t nargs,
              PyObject *kwnames, struct sf_request *request)
{
    static const char *const names[] = {"timeout", "latest", "copy", "out", "default"};
    PyObject *given[5];
    memset(request, 0, sizeof *request);
    request->deadline.until_ns = UINT64_MAX;
    if (nargs == 0 && !kwnames) {
        return 0;
    }
    if (sf_parse_call(call, args, nargs, kwnames, names, 5, 1, 0, given) < 0 ||
        sf_parse_timeout_later(given[0], &request->deadline) < 0 ||
        sf_parse_flag(given[1], &request->newest) < 0 ||
        sf_parse_flag(given[2], &request->copy) < 0) {
        return -1;
    }
    request->out = given[3] == Py_None ? NULL : given[3];
    request->or_default = given[4] == Py_Ellipsis ? NULL : given[4];
    return request->out ? check_out(state, request->out) : 0;
}

PyObject *
sf_finish_read(struct sf_state *state, TopicObject *self, const struct sf_request *request,
               int status)
{
    if (status == 0) {
        if (request->or_default) {
            return Py_NewRef(request->or_default);
        }
        sf_raise_empty(state, self, request->deadline.seconds);
    }
    return NULL;
}

SF_HOT PyObject *
sf_topic_read_method(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    struct sf_state *state = ((TopicObject *)op)->state;
    struct sf_request request;
    struct sf_taken taken;
    if (parse_request(state, "read", args, nargs, kwnames, &request) < 0) {
        return NULL;
    }
    int status = sf_read_next(state, (TopicObject *)op, &request, &taken);
    return status == 1 ? taken.array : sf_finish_read(state, (TopicObject *)op, &request, status);
}

PyObject *
sf_read_message(struct sf_state *state, TopicObject *self, const struct sf_request *request,
                int *status)
{
    struct sf_taken taken;
    PyObject *message = sf_message_new(state);
    *status = message ? sf_read_next(state, self, request, &taken) : -1;
    if (*status == 1) {
        sf_message_fill(message, &taken);
    }
    else {
        Py_CLEAR(message);
    }
    return message;
}

PyObject *
sf_topic_read_message_method(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames)
{
    struct sf_state *state = ((TopicObject *)op)->state;
    struct sf_request request;
    int status;
    if (parse_request(state, "read_message", args, nargs, kwnames, &request) < 0) {
        return NULL;
    }
    request.want_meta = true;
    PyObject *message = sf_read_message(state, (TopicObject *)op, &request, &status);
    return message ? message : sf_finish_read(state, (TopicObject *)op, &request, status);
}

/* Iteration ends where reading would say that the stream is over. */
void
sf_end_iteration(struct sf_state *state)
{
    if (PyErr_ExceptionMatches(state->closed_error)) {
        PyErr_Clear();
    }
}

PyObject *
sf_topic_next(PyObject *op)
{
    struct sf_state *state = sf_state_of(Py_TYPE(op));
    struct sf_request request = {.deadline = {.until_ns = UINT64_MAX}};
    struct sf_taken taken;
    if (sf_read_next(state, (TopicObject *)op, &request, &taken) == 1) {
        return taken.array;
    }
    sf_end_iteration(state);
    return NULL;
}
