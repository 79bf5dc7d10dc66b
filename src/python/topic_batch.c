/* Many messages in one call: write_many, read_many, read_messages.
 *
 * Owns:      the three methods; how a call that fails half-way tells how far it came.
 * Does not:  send or take: each batch is sf_topic_send_some (topic_write.c) or sf_take (topic_read.c).
 *
 * Invariants
 *   B1  A batch is a sequence of messages like any other: in the order given, each whole, with other
 *       writers' in between. It saves locks, wakes and calls, nothing else.
 *   B2  Whatever ends write_many with an exception, the exception's `written` tells how many messages
 *       got through.
 *   B3  What read_many has taken it returns: a failure after the first message waits for the next call.
 * A crash here leaves: what a single write leaves; of a batch, the messages before it are there.
 */
#include "python/module.h"

#include <string.h>

/* ---- writing ---- */

struct batch {
    struct sf_source sources[SF_BATCH];
    int count;
};

/* The next items of the iterator, ready to be sent. -1 with an exception; what came before is kept. */
static SF_HOT int
collect(TopicObject *self, PyObject *items, struct batch *batch)
{
    batch->count = 0;
    while (batch->count < SF_BATCH) {
        PyObject *item = PyIter_Next(items);
        if (!item) {
            return PyErr_Occurred() ? -1 : 0;
        }
        struct sf_source *source = &batch->sources[batch->count];
        int status = sf_source_from(self, item, source);
        Py_DECREF(item); /* the source keeps what it needs */
        if (status < 0) {
            return -1;
        }
        batch->count++;
    }
    return 0;
}

/* 0 or -1; *written grows by what got through. */
static int
send_all(struct sf_state *state, TopicObject *self, struct batch *batch,
         const struct sf_deadline *deadline, uint64_t *seq, Py_ssize_t *written)
{
    int sent = 0;
    while (sent < batch->count) {
        int more = sf_topic_send_some(state, self, &batch->sources[sent], batch->count - sent,
                                      deadline, seq);
        if (more < 0) {
            return -1;
        }
        sent += more;
        *written += more;
    }
    return 0;
}

/* B2 */
static void
tell_written(Py_ssize_t written)
{
    PyObject *error = sf_get_raised();
    PyObject *number = error ? PyLong_FromSsize_t(written) : NULL;
    if (!number || PyObject_SetAttrString(error, "written", number) < 0) {
        PyErr_Clear(); /* an exception that takes no attributes is told as it is */
    }
    Py_XDECREF(number);
    sf_set_raised(error);
}

static int
write_items(struct sf_state *state, TopicObject *self, PyObject *items,
            const struct sf_deadline *deadline, uint64_t *seq)
{
    /* Not on the stack: an iterable may call write_many itself, as deep as Python lets it. */
    struct batch *batch = PyMem_Malloc(sizeof *batch);
    Py_ssize_t written = 0;
    int status, collected;
    if (!batch) {
        PyErr_NoMemory();
        return -1;
    }
    do {
        collected = collect(self, items, batch);
        PyObject *later = collected < 0 ? sf_get_raised() : NULL;
        /* An iterator written in C looks at no signals, and may have no end. */
        status = sf_check_in(state, self);
        status = status < 0 ? -1 : send_all(state, self, batch, deadline, seq, &written);
        for (int i = 0; i < batch->count; i++) {
            sf_source_clear(&batch->sources[i]);
        }
        if (later && status == 0) {
            sf_set_raised(later); /* after what came before it has been sent */
        }
        else {
            Py_XDECREF(later);
        }
    } while (status == 0 && collected == 0 && batch->count == SF_BATCH);
    PyMem_Free(batch);
    if (status < 0 || collected < 0) {
        tell_written(written);
        return -1;
    }
    return 0;
}

PyObject *
sf_topic_write_many_method(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"", "timeout"};
    struct sf_state *state = ((TopicObject *)op)->state;
    TopicObject *self = (TopicObject *)op;
    PyObject *given[2];
    struct sf_deadline deadline;
    uint64_t seq = 0;
    if (sf_parse_call("write_many", args, nargs, kwnames, names, 2, 1, 1, given) < 0 ||
        sf_parse_timeout(given[1], &deadline) < 0 ||
        sf_enter_to_write(state, self, "write_many") < 0) {
        return NULL;
    }
    if (PyUnicode_Check(given[0]) || PyBytes_Check(given[0]) || PyByteArray_Check(given[0]) ||
        PyMemoryView_Check(given[0]) || PyDict_Check(given[0])) {
        PyErr_Format(PyExc_TypeError,
                     "write_many() takes several messages, as a list or any iterable of what "
                     "write() takes, not %.100s; use write() for one",
                     Py_TYPE(given[0])->tp_name);
        return NULL;
    }
    PyObject *items = PyObject_GetIter(given[0]);
    if (!items) {
        return NULL;
    }
    int status = write_items(state, self, items, &deadline, &seq);
    Py_DECREF(items);
    return status < 0 ? NULL : PyLong_FromUnsignedLongLong(seq);
}

/* ---- reading ---- */

static int
parse_limit(PyObject *value, uint64_t *out)
{
    Py_ssize_t limit = PyBool_Check(value) ? -1 : PyNumber_AsSsize_t(value, PyExc_OverflowError);
    if (limit == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (limit < 1) {
        PyErr_Format(PyExc_ValueError, "limit must be a number of messages, at least 1, not %R",
                     value);
        return -1;
    }
    *out = (uint64_t)limit;
    return 0;
}

/* The message's array, or the Message that holds it. */
static PyObject *
wrap(PyObject *message, struct sf_taken *taken)
{
    if (message) {
        sf_message_fill(message, taken);
        return message;
    }
    return taken->array;
}

/* One more of what is there. NULL: nothing more (no Exception is left, B3). */
static SF_HOT PyObject *
take_more(struct sf_state *state, TopicObject *self, const struct sf_request *request)
{
    struct sf_taken taken = {0};
    struct sf_topic *t = &self->t;
    PyObject *message = request->want_meta ? sf_message_new(state) : NULL;
    int status = request->want_meta && !message ? -1 : 0;
    uint64_t racing_since = 0;
    while (status == 0) {
        /* Another thread may have closed it, or moved it on, while a copy let go of the GIL; and a
         * collection or a dtype's parsing may have forked: the child's call ends here. */
        bool same = sf_topic_enter(t) == 0 && t->att && t->has_joined;
        status = same ? sf_take(self, request, false, &taken) : SF_EMPTY;
        if (status == 0 && sf_take_is_hopeless(&racing_since)) {
            status =
                SF_EMPTY; /* what is there was taken; signals are looked at when it is returned */
        }
    }
    if (status == 1) {
        return wrap(message, &taken);
    }
    Py_XDECREF(message);
    if (status == -1 && PyErr_ExceptionMatches(PyExc_Warning)) {
        self->warned_copy = false; /* told by the next call */
    }
    if (status == -1 && !PyErr_ExceptionMatches(PyExc_Exception)) {
        return NULL; /* Ctrl-C: it ends the call */
    }
    PyErr_Clear();
    return NULL;
}

/* The first, which is waited for. 1, 0 the time is over, -1. *more gets how many were behind it: a
 * writer that is faster than this reader must not keep the call for ever. */
static int
take_first(struct sf_state *state, TopicObject *self, const struct sf_request *request,
           PyObject **first, uint64_t *more)
{
    struct sf_taken taken;
    PyObject *message = request->want_meta ? sf_message_new(state) : NULL;
    if (request->want_meta && !message) {
        return -1;
    }
    int status = sf_read_next(state, self, request, &taken);
    if (status == 1) {
        struct sf_attachment *att = self->t.att; /* NULL: closed while the copy let go of the GIL */
        uint64_t head = att ? sf_load_seq(&att->ring.header->head) : 0; /* B */
        *more = head > taken.seq ? head - taken.seq : 0;
        *first = wrap(message, &taken);
    }
    else {
        Py_XDECREF(message);
    }
    return status;
}

/* [] when the time is over. */
static PyObject *
read_list(struct sf_state *state, TopicObject *self, const struct sf_request *request,
          uint64_t limit)
{
    PyObject *list = PyList_New(0), *one = NULL;
    uint64_t more = 0;
    int status = list ? take_first(state, self, request, &one, &more) : -1;
    limit = limit - 1 < more ? limit : more + 1;
    if (status == -1) {
        Py_CLEAR(list);
    }
    for (uint64_t count = 1; status == 1 && one; count++) {
        int appended = PyList_Append(list, one);
        Py_DECREF(one);
        if (appended < 0) {
            Py_CLEAR(list);
            break;
        }
        one = count < limit ? take_more(state, self, request) : NULL;
    }
    if (self->beacon) {
        sf_settle(self);
    }
    if (list && PyErr_Occurred()) {
        Py_CLEAR(list);
    }
    return list;
}

PyObject *
sf_topic_read_many_method(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"limit", "timeout", "copy", "stack"};
    struct sf_state *state = ((TopicObject *)op)->state;
    struct sf_request request = {0};
    PyObject *given[4];
    uint64_t limit;
    bool stack;
    if (sf_parse_call("read_many", args, nargs, kwnames, names, 4, 2, 1, given) < 0 ||
        parse_limit(given[0], &limit) < 0 || sf_parse_timeout(given[1], &request.deadline) < 0 ||
        sf_parse_flag(given[2], &request.copy) < 0 || sf_parse_flag(given[3], &stack) < 0) {
        return NULL;
    }
    if (!stack) {
        return read_list(state, (TopicObject *)op, &request, limit);
    }
    struct sf_taken taken;
    request.stack = limit;
    int status = sf_read_next(state, (TopicObject *)op, &request, &taken);
    return status == 1 ? taken.array : status == 0 ? PyList_New(0) : NULL;
}

PyObject *
sf_topic_read_messages_method(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames)
{
    static const char *const names[] = {"limit", "timeout", "copy"};
    struct sf_state *state = ((TopicObject *)op)->state;
    struct sf_request request = {.want_meta = true};
    PyObject *given[3];
    uint64_t limit;
    if (sf_parse_call("read_messages", args, nargs, kwnames, names, 3, 2, 1, given) < 0 ||
        parse_limit(given[0], &limit) < 0 || sf_parse_timeout(given[1], &request.deadline) < 0 ||
        sf_parse_flag(given[2], &request.copy) < 0) {
        return NULL;
    }
    return read_list(state, (TopicObject *)op, &request, limit);
}
