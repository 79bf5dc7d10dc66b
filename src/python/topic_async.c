/* What event loops need: fileno(), and the doors to shmflow._aio.
 *
 * Owns:      the beacon of a Topic (core/beacon.c): when it is made, told of changes, ended.
 * Does not:  know asyncio; the coroutines are Python's (shmflow/_aio.py).
 *
 * Invariants
 *   L1  A Topic whose fileno() was not asked for has no beacon: no thread, no descriptor.
 *   L2  The beacon is made, settled and ended under the GIL; its thread never takes it.
 * A crash here leaves: nothing.
 */
#include "python/module.h"

/* ---- the descriptor ---- */

void
sf_drop_beacon(TopicObject *self)
{
    struct sf_beacon *beacon = self->beacon;
    if (beacon) {
        self->beacon = NULL;
        sf_beacon_end(beacon); /* waits for a thread that needs nothing of ours */
    }
}

void
sf_settle(TopicObject *self)
{
    if (sf_beacon_is_mine(self->beacon)) {
        /* Before it has joined, the name is what it waits for. */
        sf_beacon_settle(self->beacon, self->t.has_joined ? self->t.att : NULL);
    }
    else {
        sf_drop_beacon(self); /* the parent's; ours is made when it is asked for */
    }
}

static int
make_beacon(struct sf_state *state, TopicObject *self)
{
    struct sf_topic *t = &self->t;
    /* A reader subscribes now: what is unread is counted from here. */
    int status = sf_topic_to_read(t);
    if (status < 0 && status != SF_NOT_FOUND && status != SF_BUSY) {
        return sf_raise(state, self, status);
    }
    status = sf_beacon_make(t->path, t->has_joined ? t->att : NULL, &self->beacon);
    if (status < 0) {
        PyObject *details = Py_BuildValue("{ss}", "call", "fileno");
        if (details) {
            sf_raise_with(state, self, status, details);
            Py_DECREF(details);
        }
        return -1;
    }
    return 0;
}

PyObject *
sf_topic_fileno_method(PyObject *op, PyObject *Py_UNUSED(unused))
{
    TopicObject *self = (TopicObject *)op;
    struct sf_state *state = self->state;
    if (sf_begin(state, self) < 0) {
        return NULL;
    }
    if (self->t.options.mode == SF_MODE_W) {
        sf_raise_wrong_mode(state, self, "fileno");
        return NULL;
    }
    if (self->beacon) {
        sf_settle(self);
    }
    if (self->beacon && !sf_beacon_has_fd(self->beacon)) {
        sf_drop_beacon(self); /* os.closerange and the like */
    }
    if (!self->beacon && make_beacon(state, self) < 0) {
        return NULL;
    }
    return PyLong_FromLong(sf_beacon_fd(self->beacon));
}

/* ---- coroutines ---- */

/* A coroutine of shmflow._aio.<name>(topic, seconds, latest, copy). What can be refused now is. */
static PyObject *
call_aio(PyObject *op, const char *name, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"timeout", "latest", "copy"};
    TopicObject *self = (TopicObject *)op;
    PyObject *given[3];
    struct sf_deadline deadline;
    bool newest, copy;
    if (sf_parse_call(name, args, nargs, kwnames, names, 3, 1, 0, given) < 0 ||
        sf_parse_timeout(given[0], &deadline) < 0 || sf_parse_flag(given[1], &newest) < 0 ||
        sf_parse_flag(given[2], &copy) < 0 || sf_begin(self->state, self) < 0) {
        return NULL;
    }
    if (self->t.options.mode == SF_MODE_W) {
        sf_raise_wrong_mode(self->state, self, name);
        return NULL;
    }
    return PyObject_CallMethod(self->state->aio, name, "OdOO", op, deadline.seconds,
                               newest ? Py_True : Py_False, copy ? Py_True : Py_False);
}

PyObject *
sf_topic_read_async_method(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return call_aio(op, "read_async", args, nargs, kwnames);
}

PyObject *
sf_topic_read_message_async_method(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                                   PyObject *kwnames)
{
    return call_aio(op, "read_message_async", args, nargs, kwnames);
}

PyObject *
sf_topic_aiter(PyObject *op)
{
    TopicObject *self = (TopicObject *)op;
    return sf_begin(self->state, self) < 0
               ? NULL
               : PyObject_CallMethod(self->state->aio, "Arrays", "O", op);
}
