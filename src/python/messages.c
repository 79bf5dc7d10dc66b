/* messages(): an iterator over a Topic that gives Message objects.
 *
 * Owns:      the Messages type and Topic.messages.
 * Does not:  read by itself: each step is one sf_read_next (topic_read.c).
 *
 * Invariants
 *   M1  Ends, without an error, where reading would say that the stream is over.
 * A crash here leaves: nothing.
 */
#include "python/module.h"

typedef struct {
    PyObject_HEAD
    TopicObject *topic;
    PyObject *timeout; /* or NULL: for ever */
    bool newest, copy;
} MessagesObject;

PyObject *
sf_topic_messages_method(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"latest", "copy", "timeout"};
    struct sf_state *state = ((TopicObject *)op)->state;
    PyObject *given[3];
    struct sf_deadline checked;
    bool newest, copy;
    if (sf_parse_call("messages", args, nargs, kwnames, names, 3, 0, 0, given) < 0 ||
        sf_parse_flag(given[0], &newest) < 0 || sf_parse_flag(given[1], &copy) < 0 ||
        sf_parse_timeout(given[2], &checked) < 0) {
        return NULL;
    }
    if (((TopicObject *)op)->t.options.mode == SF_MODE_W) {
        sf_raise_wrong_mode(state, (TopicObject *)op, "messages");
        return NULL;
    }
    if (newest && sf_refuse_newest(state, (TopicObject *)op) < 0) {
        return NULL;
    }
    MessagesObject *it = (MessagesObject *)state->messages_type->tp_alloc(state->messages_type, 0);
    if (it) {
        it->topic = (TopicObject *)Py_NewRef(op);
        it->timeout = Py_XNewRef(given[2]);
        it->newest = newest;
        it->copy = copy;
    }
    return (PyObject *)it;
}

static PyObject *
messages_next(PyObject *op)
{
    MessagesObject *it = (MessagesObject *)op;
    struct sf_state *state = sf_state_of(Py_TYPE(op));
    struct sf_request request = {.newest = it->newest, .copy = it->copy, .want_meta = true};
    int status;
    if (sf_parse_timeout(it->timeout, &request.deadline) < 0) {
        return NULL;
    }
    PyObject *message = sf_read_message(state, it->topic, &request, &status);
    if (message) {
        return message;
    }
    if (status == 0) {
        return sf_finish_read(state, it->topic, &request, 0);
    }
    sf_end_iteration(state);
    return NULL;
}

static PyObject *
messages_reduce(PyObject *Py_UNUSED(op), PyObject *Py_UNUSED(unused))
{
    PyErr_SetString(PyExc_TypeError,
                    "an iterator over a Topic cannot be copied or pickled; call messages() again, "
                    "or pass the Topic to the other process and call it there");
    return NULL;
}

static int
messages_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((MessagesObject *)op)->topic);
    return 0;
}

static int
messages_clear(PyObject *op)
{
    Py_CLEAR(((MessagesObject *)op)->topic);
    Py_CLEAR(((MessagesObject *)op)->timeout);
    return 0;
}

static void
messages_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)messages_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(messages_doc, "The iterator that Topic.messages() returns; gives Message objects.");

/* What it has of its own is constant. */
SF_GUARD_UNARY(messages_next, (PyObject *)((MessagesObject *)op)->topic);
SF_GUARD_ARGS(messages_reduce, (PyObject *)((MessagesObject *)op)->topic);

static PyMethodDef messages_methods[] = {
    {"__reduce__", SF_GUARDED(messages_reduce), METH_NOARGS,
     PyDoc_STR("__reduce__($self, /)\n--\n\nTypeError: it can be neither pickled nor copied.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot messages_slots[] = {
    {Py_tp_doc, (void *)messages_doc},   {Py_tp_dealloc, messages_dealloc},
    {Py_tp_traverse, messages_traverse}, {Py_tp_clear, messages_clear},
    {Py_tp_iter, PyObject_SelfIter},     {Py_tp_iternext, SF_GUARDED(messages_next)},
    {Py_tp_methods, messages_methods},   {0, NULL},
};

PyType_Spec sf_messages_spec = {
    .name = "shmflow.Messages",
    .basicsize = sizeof(MessagesObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = messages_slots,
};
