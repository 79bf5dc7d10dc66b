/* Message: an array with all that the topic knows of it.
 *
 * Owns:      the Message type; its meta is parsed when it is first asked for; its pickle, a copy.
 * Does not:  take messages (topic_read.c).
 *
 * Invariants
 *   M1  It is allocated before its message is taken: who runs out of memory loses nothing.
 *   M2  Frozen: nothing can be set; the array is read-only unless it was asked for as a copy.
 * A crash here leaves: nothing.
 */
#include "python/module.h"

typedef struct {
    PyObject_HEAD
    PyObject *array;
    PyObject *meta;   /* a dict once parsed, else NULL */
    PyObject *packed; /* bytes of JSON, or NULL */
    unsigned long long seq, lost, skipped;
    long long timestamp_ns;
    unsigned int writer;
} MessageObject;

/* Empty, and unknown to the collector until it is filled. */
PyObject *
sf_message_new(struct sf_state *state)
{
    PyObject *message = state->message_type->tp_alloc(state->message_type, 0);
    if (message) {
        PyObject_GC_UnTrack(message);
    }
    return message;
}

void
sf_message_fill(PyObject *message, struct sf_taken *taken)
{
    MessageObject *m = (MessageObject *)message;
    m->array = taken->array;
    m->packed = taken->meta;
    m->seq = taken->seq;
    m->lost = taken->lost;
    m->skipped = taken->skipped;
    m->timestamp_ns = (long long)taken->stamp_ns;
    m->writer = taken->writer_pid;
    PyObject_GC_Track(message);
}

static int
message_traverse(PyObject *self, visitproc visit, void *arg)
{
    MessageObject *m = (MessageObject *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(m->array);
    Py_VISIT(m->meta);
    return 0;
}

static int
message_clear(PyObject *self)
{
    MessageObject *m = (MessageObject *)self;
    Py_CLEAR(m->array);
    Py_CLEAR(m->meta);
    Py_CLEAR(m->packed);
    return 0;
}

static void
message_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)message_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
message_get_meta(PyObject *self, void *Py_UNUSED(closure))
{
    MessageObject *m = (MessageObject *)self;
    if (!m->meta) {
        struct sf_state *state = sf_state_of(Py_TYPE(self));
        PyObject *meta = m->packed ? PyObject_CallMethod(state->wire, "meta_of", "OKI", m->packed,
                                                         m->seq, m->writer)
                                   : PyDict_New();
        if (!meta) {
            return NULL;
        }
        if (m->meta) { /* another thread was quicker, while Python code ran: one for all */
            Py_DECREF(meta);
        }
        else {
            m->meta = meta;
            Py_CLEAR(m->packed);
        }
    }
    return Py_XNewRef(m->meta);
}

/* (_message, arguments): what pickle, and copy with it, make another one of. The array's bytes travel
 * with it; meta does as it is, parsed or not, so that damaged meta is still no obstacle. */
static PyObject *
message_reduce(PyObject *self, PyObject *Py_UNUSED(unused))
{
    MessageObject *m = (MessageObject *)self;
    PyObject *module = PyType_GetModule(Py_TYPE(self));
    PyObject *make = module ? PyObject_GetAttrString(module, "_message") : NULL;
    if (!make) {
        return NULL;
    }
    PyObject *meta = m->meta ? m->meta : m->packed ? m->packed : Py_None;
    return Py_BuildValue("N(OOKLKKI)", make, m->array, meta, m->seq, m->timestamp_ns, m->lost,
                         m->skipped, m->writer);
}

PyObject *
sf_message_restore(PyObject *module, PyObject *args)
{
    struct sf_taken taken;
    PyObject *meta;
    unsigned long long seq, lost, skipped;
    long long stamp;
    unsigned int writer;
    if (!PyArg_ParseTuple(args, "OOKLKKI:_message", &taken.array, &meta, &seq, &stamp, &lost,
                          &skipped, &writer)) {
        return NULL;
    }
    if (!sf_is_array(taken.array) ||
        !(meta == Py_None || PyBytes_Check(meta) || PyDict_Check(meta))) {
        PyErr_SetString(PyExc_TypeError, "_message() takes what Message.__reduce__() gave");
        return NULL;
    }
    PyObject *message = sf_message_new(sf_state_of_module(module));
    if (!message) {
        return NULL;
    }
    taken.seq = seq;
    taken.lost = lost;
    taken.skipped = skipped;
    taken.stamp_ns = (uint64_t)stamp;
    taken.writer_pid = writer;
    Py_INCREF(taken.array);
    taken.meta = PyBytes_Check(meta) ? Py_NewRef(meta) : NULL;
    ((MessageObject *)message)->meta = PyDict_Check(meta) ? Py_NewRef(meta) : NULL;
    sf_message_fill(message, &taken);
    return message;
}

static PyObject *
message_repr(PyObject *self)
{
    MessageObject *m = (MessageObject *)self;
    PyObject *shape = PyObject_GetAttrString(m->array, "shape");
    PyObject *dtype = PyObject_GetAttrString(m->array, "dtype");
    PyObject *result = NULL;
    if (shape && dtype) {
        result = PyUnicode_FromFormat(
            "<shmflow.Message %llu: %S %S, writer pid %u, lost %llu, skipped %llu>", m->seq, dtype,
            shape, m->writer, m->lost, m->skipped);
    }
    Py_XDECREF(shape);
    Py_XDECREF(dtype);
    return result;
}

#define MEMBER(name, type, text)                                                                   \
    {#name, type, offsetof(MessageObject, name), Py_READONLY, PyDoc_STR(text)}

static PyMemberDef message_members[] = {
    MEMBER(array, Py_T_OBJECT_EX, "The ndarray; read-only unless copy=True was given."),
    MEMBER(seq, Py_T_ULONGLONG, "Its number: 1 for a topic's first message, then without gaps."),
    MEMBER(timestamp_ns, Py_T_LONGLONG,
           "When it was written, or what its writer gave: ns since 1970 (CLOCK_REALTIME)."),
    MEMBER(lost, Py_T_ULONGLONG,
           "How many messages before it were evicted before this reader came to them."),
    MEMBER(skipped, Py_T_ULONGLONG,
           "How many messages before it were there but passed over by latest=True."),
    MEMBER(writer, Py_T_UINT, "The process id of the writer, as seen in its PID namespace."),
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(message_reduce_doc,
             "__reduce__($self, /)\n--\n\n"
             "Pickled, a Message is a copy: its array has memory of its own, in whatever process.\n"
             "copy.deepcopy() makes the same; copy.copy() shares array and meta.");

/* The rest of it is constant. */
SF_GUARD_GET(message_get_meta, op);
SF_GUARD_ARGS(message_reduce, op);

static PyMethodDef message_methods[] = {
    {"__reduce__", SF_GUARDED(message_reduce), METH_NOARGS, message_reduce_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef message_getset[] = {
    {"meta", SF_GUARDED(message_get_meta), NULL,
     PyDoc_STR(
         "The mapping that its writer gave, parsed from JSON; {} if none. CorruptTopic if it\n"
         "is damaged, as a writer in C may send it; the array is whole all the same."),
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(message_doc,
             "What read_message() and messages() give: an array and its circumstances.\n"
             "\n"
             "Fields: array, seq, timestamp_ns, meta, lost, skipped, writer. Frozen. It can be\n"
             "pickled, and put into a multiprocessing.Queue, as a copy.");

static PyType_Slot message_slots[] = {
    {Py_tp_doc, (void *)message_doc},
    {Py_tp_dealloc, message_dealloc},
    {Py_tp_traverse, message_traverse},
    {Py_tp_clear, message_clear},
    {Py_tp_repr, message_repr},
    {Py_tp_members, message_members},
    {Py_tp_getset, message_getset},
    {Py_tp_methods, message_methods},
    {0, NULL},
};

PyType_Spec sf_message_spec = {
    .name = "shmflow.Message",
    .basicsize = sizeof(MessageObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = message_slots,
};
