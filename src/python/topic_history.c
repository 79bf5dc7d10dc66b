/* What is retained: snapshot, peek, seek.
 *
 * Owns:      the three methods.
 * Does not:  find messages (core/ring.c) or know who may move a cursor where (core/join.c).
 *
 * Invariants
 *   Y1  snapshot and peek consume nothing and move nothing; what they give holds its block like any
 *       message that was read.
 *   Y2  A seek that raises has moved nothing.
 *   Y3  Numbers are those of the generation that the call began with: where another thread has moved
 *       the Topic on meanwhile, nothing more of them is retained. The child of a fork inside the
 *       call attaches anew, and goes on in that generation.
 * A crash here leaves: pins of a dead participant.
 */
#include "python/module.h"

/* Attached, if the topic is there: 0, or SF_NOT_FOUND without an exception, or -1. */
static int
attach_to_look(struct sf_state *state, TopicObject *self, const char *call)
{
    if (sf_begin(state, self) < 0) {
        return -1;
    }
    if (self->t.options.mode == SF_MODE_W) {
        return sf_raise_wrong_mode(state, self, call);
    }
    int status = sf_topic_to_look(&self->t);
    return status == 0 || status == SF_NOT_FOUND ? status : sf_raise(state, self, status);
}

/* Y3: 0, SF_NOT_RETAINED, or -1 with an exception. */
static int
look_again(struct sf_state *state, TopicObject *self, uint64_t generation)
{
    if (sf_check_in(state, self) < 0) {
        return -1;
    }
    int status = sf_topic_to_look(&self->t);
    if (status < 0 && status != SF_NOT_FOUND) {
        return sf_raise(state, self, status);
    }
    return status < 0 || self->t.generation != generation ? SF_NOT_RETAINED : 0;
}

/* The message `seq`: 1 and a new reference, 0 it is not retained, -1. *next gets where the one after it
 * may be. */
static int
look_up(struct sf_state *state, TopicObject *self, uint64_t generation, uint64_t seq, bool copy,
        PyObject **out, uint64_t *next)
{
    struct sf_request request = {.at = seq, .copy = copy, .want_meta = true};
    struct sf_taken taken = {0};
    PyObject *message = sf_message_new(state);
    int status = message ? 0 : -1;
    while (status == 0) { /* a message that was lost in a race is not retained at the next look */
        status = look_again(state, self, generation);
        status = status == 0 ? sf_take(self, &request, false, &taken) : status;
    }
    *next = taken.seq > seq ? taken.seq : seq + 1;
    if (status == 1) {
        sf_message_fill(message, &taken);
        *out = message;
        return 1;
    }
    Py_XDECREF(message);
    if (status == SF_NOT_RETAINED) {
        return 0;
    }
    return status == -1 ? -1 : sf_raise_of_taken(state, self, status, &taken);
}

static int
raise_not_retained(struct sf_state *state, TopicObject *self, PyObject *asked)
{
    PyObject *details = Py_BuildValue("{sO}", "seq", asked);
    if (details) {
        sf_raise_with(state, self, SF_NOT_RETAINED, details);
        Py_DECREF(details);
    }
    return -1;
}

PyObject *
sf_topic_snapshot_method(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"copy"};
    struct sf_state *state = ((TopicObject *)op)->state;
    TopicObject *self = (TopicObject *)op;
    PyObject *given[1];
    bool copy;
    if (sf_parse_call("snapshot", args, nargs, kwnames, names, 1, 0, 0, given) < 0 ||
        sf_parse_flag(given[0], &copy) < 0) {
        return NULL;
    }
    PyObject *list = PyList_New(0); /* first: a collection may close the Topic */
    int status = list ? attach_to_look(state, self, "snapshot") : -1;
    if (status != 0) {
        if (status == -1) {
            Py_CLEAR(list);
        }
        return list;
    }
    uint64_t generation = self->t.generation;
    uint64_t head = sf_load_seq(&self->t.att->ring.header->head); /* B: what there is now */
    uint64_t seq = sf_find_start(self->t.att, SF_OLDEST), next;
    /* 0 comes after the last number of all, which is there in tables that lie. */
    for (; list && seq <= head && seq != 0; seq = next) {
        PyObject *message = NULL;
        status = look_up(state, self, generation, seq, copy, &message, &next);
        if (status < 0 || (status == 1 && PyList_Append(list, message) < 0)) {
            Py_CLEAR(list);
        }
        Py_XDECREF(message);
    }
    return list;
}

/* A message's number; -1 with an exception where it is none, 0 where it is out of all range. */
static int
parse_seq(PyObject *value, const char *call, uint64_t *out)
{
    PyObject *index = PyBool_Check(value) ? NULL : PyNumber_Index(value);
    if (!index) {
        if (!PyErr_Occurred() || PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Format(PyExc_TypeError, "%s() takes the number of a message, not %R", call,
                         value);
        }
        return -1; /* what __index__ raised, such as a Ctrl-C, is told as it is */
    }
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(index, &overflow);
    Py_DECREF(index);
    *out = overflow || number < 1 ? 0 : (uint64_t)number;
    return number == -1 && PyErr_Occurred() ? -1 : 0;
}

PyObject *
sf_topic_peek_method(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"seq", "copy"};
    struct sf_state *state = ((TopicObject *)op)->state;
    TopicObject *self = (TopicObject *)op;
    PyObject *given[2], *message = NULL;
    uint64_t seq, next;
    bool copy;
    if (sf_parse_call("peek", args, nargs, kwnames, names, 2, 1, 1, given) < 0 ||
        sf_parse_flag(given[1], &copy) < 0 || parse_seq(given[0], "peek", &seq) < 0) {
        return NULL;
    }
    int status = attach_to_look(state, self, "peek");
    if (status == SF_NOT_FOUND) {
        sf_raise(state, self, status);
        return NULL;
    }
    if (status == 0 && seq != 0) {
        status = look_up(state, self, self->t.generation, seq, copy, &message, &next);
    }
    if (status == 0) {
        raise_not_retained(state, self, given[0]);
    }
    return message;
}

/* ---- seek ---- */

/* What was asked for. */
struct target {
    PyObject *asked;
    uint64_t seq; /* 0: find it */
    uint64_t stamp_ns; /* if it is asked for */
    bool has_stamp;
    enum sf_start start;
};

static int
parse_target(PyObject *const *given, struct target *to)
{
    static const char *const places[] = {"oldest", "latest", "new"};
    bool has_place = given[0] && given[0] != Py_None;
    *to = (struct target){.asked = given[0], .start = SF_OLDEST};
    if (sf_parse_stamp(given[1], &to->stamp_ns, &to->has_stamp) < 0) {
        return -1;
    }
    if (has_place == to->has_stamp) {
        PyErr_SetString(PyExc_TypeError,
                        "seek() takes either a place (the number of a message, 'oldest', 'latest' "
                        "or 'new') or timestamp_ns");
        return -1;
    }
    if (to->has_stamp) {
        return 0;
    }
    if (!PyUnicode_Check(given[0])) {
        int status = parse_seq(given[0], "seek", &to->seq);
        to->seq = to->seq ? to->seq : UINT64_MAX; /* out of all range */
        return status;
    }
    for (int i = 0; i < 3; i++) {
        if (PyUnicode_CompareWithASCIIString(given[0], places[i]) == 0) {
            to->start = (enum sf_start)i; /* in the order of sf_start */
            return 0;
        }
    }
    PyErr_Format(PyExc_ValueError,
                 "seek() takes the number of a message, 'oldest', 'latest' or 'new', not %R",
                 given[0]);
    return -1;
}

/* Without the GIL. What was found may be evicted before the cursor stands there: look again. */
static int
seek_slice(struct sf_attachment *att, const struct target *to, uint64_t *seq)
{
    uint64_t until_ns = os_now_ns() + SF_SLICE_NS;
    int status;
    do {
        *seq = to->seq         ? to->seq
               : to->has_stamp ? sf_find_stamp(att, to->stamp_ns)
                               : sf_find_start(att, to->start);
        status = sf_seek(att, *seq, until_ns);
    } while (status == SF_NOT_RETAINED && to->seq == 0 && os_now_ns() < until_ns);
    return status == SF_NOT_RETAINED && to->seq == 0 ? SF_BUSY : status;
}

PyObject *
sf_topic_seek_method(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"place", "timestamp_ns"};
    struct sf_state *state = ((TopicObject *)op)->state;
    TopicObject *self = (TopicObject *)op;
    struct sf_deadline for_ever = {.until_ns = UINT64_MAX};
    PyObject *given[2];
    struct target to;
    if (sf_parse_call("seek", args, nargs, kwnames, names, 2, 1, 0, given) < 0 ||
        parse_target(given, &to) < 0) {
        return NULL;
    }
    int status = attach_to_look(state, self, "seek");
    if (status == SF_NOT_FOUND) {
        sf_raise(state, self, status);
    }
    uint64_t seq = 0, since = 0;
    bool ready = false;
    while (status == 0) {
        if (!ready) {
            status = sf_get_ready(state, self, &for_ever, &since, &ready);
            continue;
        }
        struct sf_attachment *att = self->t.att;
        if (!att) {
            status = sf_raise(state, self, SF_GONE); /* another thread has moved it on */
            break;
        }
        sf_attachment_ref(att);
        Py_BEGIN_ALLOW_THREADS
        status = seek_slice(att, &to, &seq);
        Py_END_ALLOW_THREADS
        if (status == 0) {
            sf_attachment_unref(att);
            if (self->beacon) {
                sf_settle(self);
            }
            return PyLong_FromUnsignedLongLong(seq);
        }
        int checked = sf_check_in(state, self);
        ready = sf_attachment_is_mine(
            att); /* else a signal's handler forked: the child attaches anew */
        sf_attachment_unref(att);
        if (checked < 0) {
            return NULL;
        }
        status = status == SF_BUSY || status == SF_INTERRUPTED ? 0
                 : status == SF_NOT_RETAINED ? raise_not_retained(state, self, to.asked)
                                             : sf_raise(state, self, status);
    }
    return NULL;
}
