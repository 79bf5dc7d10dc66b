/* Statuses become exceptions here, and nowhere else.
 *
 * Owns:      the call into shmflow._texts, which gathers the facts and finds the words.
 * Does not:  phrase anything itself, and does not run on any hot path.
 *
 * Invariants
 *   E1  Every function here returns -1 with an exception set.
 * A crash here leaves: nothing; facts are gathered by a monitor.
 */
#include "python/module.h"

static int
raise_made(PyObject *made)
{
    if (made) {
        PyErr_SetObject((PyObject *)Py_TYPE(made), made);
        Py_DECREF(made);
    }
    assert(PyErr_Occurred());
    return -1;
}

int
sf_raise_with(struct sf_state *state, TopicObject *topic, int status, PyObject *details)
{
    if (status == -ENOMEM) {
        PyErr_NoMemory();
        return -1;
    }
    PyObject *empty = details ? Py_NewRef(details) : PyDict_New();
    if (!empty) {
        return -1;
    }
    PyObject *made = PyObject_CallMethod(state->texts, "error", "sisOO", sf_status_name(status),
                                         status, sf_status_text(status), (PyObject *)topic, empty);
    Py_DECREF(empty);
    return raise_made(made);
}

static PyObject *
mismatch_details(const struct sf_topic *t)
{
    return Py_BuildValue("{sK sK sK sK sK sK}", "asked_capacity", t->options.capacity,
                         "asked_depth", t->options.depth, "asked_max_message",
                         t->options.max_message, "found_capacity", t->found.capacity, "found_depth",
                         t->found.asked_depth, "found_max_message", t->found.max_message);
}

int
sf_raise_unopened(struct sf_state *state, const char *name, int status)
{
    return status == -ENOMEM
               ? (PyErr_NoMemory(), -1)
               : raise_made(PyObject_CallMethod(state->texts, "unopened", "si", name, status));
}

int
sf_raise(struct sf_state *state, TopicObject *topic, int status)
{
    PyObject *details = NULL;
    if (status == SF_MISMATCH || status == SF_NO_SLOT || status == SF_GROUP_POLICY) {
        details = status == SF_MISMATCH ? mismatch_details(&topic->t)
                  : status == SF_NO_SLOT
                      ? Py_BuildValue("{sI}", "slots", topic->t.found.max_participants)
                      : Py_BuildValue("{ss sO}", "group", topic->t.options.group, "lossless",
                                      topic->t.options.lossless ? Py_True : Py_False);
        if (!details) {
            return -1;
        }
    }
    int result = sf_raise_with(state, topic, status, details);
    Py_XDECREF(details);
    return result;
}

int
sf_raise_of_taken(struct sf_state *state, TopicObject *topic, int status,
                  const struct sf_taken *taken)
{
    if (status != SF_BAD_MESSAGE) {
        return sf_raise(state, topic, status);
    }
    PyObject *details = Py_BuildValue("{sK sI}", "seq", (unsigned long long)taken->seq, "writer",
                                      taken->writer_pid);
    int result = details ? sf_raise_with(state, topic, status, details) : -1;
    Py_XDECREF(details);
    return result;
}

int
sf_raise_empty(struct sf_state *state, TopicObject *topic, double timeout)
{
    return raise_made(PyObject_CallMethod(state->texts, "empty", "Od", (PyObject *)topic, timeout));
}

int
sf_raise_full(struct sf_state *state, TopicObject *topic, int status, double timeout, uint64_t len)
{
    return raise_made(PyObject_CallMethod(state->texts, "full", "OsdK", (PyObject *)topic,
                                          sf_status_name(status), timeout,
                                          (unsigned long long)len));
}

int
sf_raise_too_large(struct sf_state *state, TopicObject *topic, uint64_t len)
{
    /* Without an attachment: of the topic that would have been made. */
    const struct sf_layout *l = topic->t.att ? &topic->t.att->ring.lay : &topic->t.found;
    PyObject *details = Py_BuildValue("{sK sK sK}", "length", (unsigned long long)len,
                                      "max_message", (unsigned long long)l->max_message, "capacity",
                                      (unsigned long long)l->capacity);
    if (details) {
        sf_raise_with(state, topic, SF_TOO_LARGE, details);
        Py_DECREF(details);
    }
    return -1;
}

int
sf_raise_wrong_mode(struct sf_state *state, TopicObject *topic, const char *call)
{
    return raise_made(
        PyObject_CallMethod(state->texts, "wrong_mode", "Os", (PyObject *)topic, call));
}

int
sf_raise_contradiction(struct sf_state *state, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    PyObject *text = PyUnicode_FromFormatV(format, args);
    va_end(args);
    PyObject *made = text ? PyObject_CallMethod(state->texts, "contradiction", "O", text) : NULL;
    Py_XDECREF(text);
    return raise_made(made);
}

int
sf_begin(struct sf_state *state, TopicObject *topic)
{
    int status = sf_topic_enter(&topic->t);
    if (status == 0 && sf_fork_trouble()) {
        if (PyErr_WarnEx(PyExc_RuntimeWarning,
                         "this forked process had not enough memory to keep the arrays that it "
                         "inherited: their contents may change; copy them before a fork",
                         1) < 0) {
            return -1;
        }
        status =
            sf_topic_enter(&topic->t); /* what shows the warning may have closed it, or forked */
    }
    return status < 0 ? sf_raise(state, topic, status) : 0;
}

int
sf_check_in(struct sf_state *state, TopicObject *topic)
{
    if (PyErr_CheckSignals() < 0) {
        return -1;
    }
    int status = sf_topic_enter(&topic->t);
    return status < 0 ? sf_raise(state, topic, status) : 0;
}
