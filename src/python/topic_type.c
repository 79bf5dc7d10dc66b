/* The Topic type: construction, ends, pickling, repr; its methods are in the files beside.
 *
 * Owns:      construction; close, unlink, context manager, reduce.
 * Does not:  parse the constructor's arguments (options.c), read, write or tell facts (topic_read.c,
 *            topic_write.c, topic_facts.c).
 *
 * Invariants
 *   T1  A constructor that raises leaves nothing behind but a topic that it was asked to create.
 *   T2  close() is final and idempotent; every other call after it raises Closed.
 * A crash here leaves: what core/segment.c says.
 */
#include "python/module.h"

#include <string.h>

#include "python/topic_doc.h"

/* ---- construction ---- */

static int
open_now(struct sf_state *state, TopicObject *self, bool now)
{
    struct sf_topic *t = &self->t;
    if (now && t->options.create == 1 && !t->options.replace) {
        struct os_file_info info;
        if (os_path_info(t->path, &info) == 0) {
            return sf_raise(state, self, SF_EXISTS);
        }
    }
    bool writes = t->options.mode == SF_MODE_RW || t->options.mode == SF_MODE_W;
    if (now || (t->options.create == 0 && writes)) {
        int status =
            now ? sf_topic_open_writer(state, self, 0, true) : sf_topic_open_existing(state, self);
        if (status < 0) {
            return -1;
        }
        /* It has written nothing yet: the role is told with the first message. */
        sf_clear_roles(t->att);
        if (t->has_joined) {
            sf_add_role(t->att, SF_ROLE_READER);
        }
        t->has_written = false;
        return 0;
    }
    return sf_topic_open_reader(state, self);
}

static int
topic_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    TopicObject *self = (TopicObject *)op;
    struct sf_state *state = sf_state_of(Py_TYPE(op));
    const char *name = NULL;
    Py_ssize_t name_len = 0;
    struct sf_options options;
    bool now;
    char unique[64];
    if (sf_parse_options(state, args, kwargs, &name, &name_len, &options, &now) < 0) {
        return -1;
    }
    /* After the parsing, which may run Python code: in another thread, maybe this very call. */
    if (self->open) {
        PyErr_SetString(PyExc_TypeError, "a Topic is initialised once; open another one");
        return -1;
    }
    if (!name) {
        uint64_t random;
        int status = os_random(&random, sizeof random);
        if (status < 0) {
            return sf_raise(state, self, status);
        }
        snprintf(unique, sizeof unique, "anon-%u-%016llx", os_pid(), (unsigned long long)random);
        name = unique;
        name_len = (Py_ssize_t)strlen(name);
    }
    int status =
        (size_t)name_len == strlen(name) ? sf_topic_init(&self->t, name, &options) : SF_BAD_NAME;
    if (status == SF_BAD_NAME) {
        PyObject *text = PyUnicode_DecodeUTF8(name, name_len, "replace");
        PyObject *error = text ? PyObject_CallMethod(state->texts, "bad_name", "O", text) : NULL;
        if (error) {
            PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        }
        Py_XDECREF(text);
        Py_XDECREF(error);
        return -1;
    }
    if (status < 0) {
        return sf_raise_unopened(state, name, status);
    }
    if (self->stands) {
        sf_topic_stand(&self->t, &self->standing);
    }
    self->open = true;
    if (open_now(state, self, now) < 0) {
        sf_topic_close(&self->t);
        return -1;
    }
    return 0;
}

/* ---- ends ---- */

static PyObject *
topic_close(PyObject *op, PyObject *Py_UNUSED(unused))
{
    sf_drop_beacon((TopicObject *)op);
    sf_topic_close(&((TopicObject *)op)->t);
    Py_RETURN_NONE;
}

static PyObject *
topic_unlink(PyObject *op, PyObject *Py_UNUSED(unused))
{
    TopicObject *self = (TopicObject *)op;
    struct sf_state *state = sf_state_of(Py_TYPE(op));
    struct sf_topic *t = &self->t;
    int status = sf_topic_enter(t);
    if (status == 0 && t->options.mode == SF_MODE_MONITOR) {
        sf_raise_wrong_mode(state, self, "unlink");
        return NULL;
    }
    if (status == 0) {
        status = sf_segment_remove(t->path, t->att ? t->att->identity : NULL, SF_ALWAYS);
        if (status == SF_NOT_FOUND || status == SF_RACE) {
            status = 0; /* gone already, or another is at it: what was wanted */
        }
    }
    if (status < 0) {
        sf_raise(state, self, status);
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
topic_enter(PyObject *op, PyObject *Py_UNUSED(unused))
{
    int status = sf_topic_enter(&((TopicObject *)op)->t);
    if (status < 0) {
        sf_raise(sf_state_of(Py_TYPE(op)), (TopicObject *)op, status);
        return NULL;
    }
    return Py_NewRef(op);
}

static PyObject *
topic_exit(PyObject *op, PyObject *Py_UNUSED(args))
{
    return topic_close(op, NULL);
}

static PyObject *
topic_iter(PyObject *op)
{
    return topic_enter(op, NULL);
}

static void
topic_dealloc(PyObject *op)
{
    TopicObject *self = (TopicObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    if (self->weakrefs) {
        PyObject_ClearWeakRefs(op);
    }
    sf_dtypes_forget(&self->last);
    if (self->open) {
        sf_drop_beacon(self);
        sf_topic_fini(&self->t);
    }
    type->tp_free(op);
    Py_DECREF(type);
}

/* ---- pickling and repr ---- */

/* _stand(identity, cursor, late, joined), before __init__: as sf_topic_stand. */
static PyObject *
topic_stand(PyObject *op, PyObject *args)
{
    TopicObject *self = (TopicObject *)op;
    const char *identity;
    Py_ssize_t len;
    unsigned long long cursor;
    int late, joined;
    if (!PyArg_ParseTuple(args, "y#Kpp:_stand", &identity, &len, &cursor, &late, &joined)) {
        return NULL;
    }
    if (len != sizeof self->standing.identity) {
        PyErr_SetString(PyExc_ValueError, "identity must have 16 bytes");
        return NULL;
    }
    self->standing = (struct sf_standing){.cursor = cursor, .late = late, .joined = joined};
    memcpy(self->standing.identity, identity, sizeof self->standing.identity);
    self->stands = true;
    Py_RETURN_NONE;
}

static PyObject *
topic_reduce(PyObject *op, PyObject *Py_UNUSED(unused))
{
    TopicObject *self = (TopicObject *)op;
    struct sf_state *state = sf_state_of(Py_TYPE(op));
    struct sf_topic *t = &self->t;
    int status = sf_topic_enter(t);
    if (status < 0) {
        sf_raise(state, self, status);
        return NULL;
    }
    PyObject *module = PyType_GetModule(Py_TYPE(op));
    PyObject *restore = module ? PyObject_GetAttrString(module, "_restore") : NULL;
    if (!restore) {
        return NULL;
    }
    /* max_held in bytes and spin in ns, as the options have them; identity of what it is
     * attached to now, or empty. */
    PyObject *identity =
        t->att ? PyBytes_FromStringAndSize((const char *)t->att->identity, sizeof t->att->identity)
               : PyBytes_FromStringAndSize("", 0);
    if (!identity) {
        Py_DECREF(restore);
        return NULL;
    }
    struct sf_standing at;
    sf_topic_standing(t, &at);
    return Py_BuildValue(
        "N(ssNsKLIiz(y#Kii))", restore, t->name, sf_mode_names[t->options.mode], identity,
        sf_start_names[t->options.start], (unsigned long long)t->options.max_held,
        (long long)t->options.spin_ns, t->options.permissions, (int)t->options.lossless,
        t->options.group[0] ? t->options.group : NULL, at.identity, (Py_ssize_t)sizeof at.identity,
        (unsigned long long)at.cursor, (int)at.late, (int)at.joined);
}

static PyObject *
topic_repr(PyObject *op)
{
    TopicObject *self = (TopicObject *)op;
    struct sf_topic *t = &self->t;
    if (!self->open) {
        return PyUnicode_FromString("<shmflow.Topic, not opened>");
    }
    const char *mode = sf_mode_names[t->options.mode];
    if (sf_topic_enter(t) < 0) {
        return PyUnicode_FromFormat("<shmflow.Topic '%s' mode='%s' closed>", t->name, mode);
    }
    if (!t->att) {
        return PyUnicode_FromFormat("<shmflow.Topic '%s' mode='%s', not attached>", t->name, mode);
    }
    struct sf_header *h = t->att->ring.header;
    /* Told to people; acquire where a writer releases. */
    uint64_t head = sf_load_seq(&h->head);
    uint64_t tail = sf_load_acquire(&h->tail);
    uint32_t ended = sf_load_acquire(&h->ended);
    PyObject *size = PyObject_CallMethod(sf_state_of(Py_TYPE(op))->wire, "format_size", "K",
                                         (unsigned long long)t->att->ring.lay.capacity);
    if (!size) {
        return NULL;
    }
    PyObject *result = PyUnicode_FromFormat(
        "<shmflow.Topic '%s' mode='%s' capacity=%U head=%llu retained=%llu%s>", t->name, mode, size,
        (unsigned long long)head, (unsigned long long)(tail <= head ? head - tail + 1 : 0),
        (ended & SF_SHUTDOWN) != 0   ? ", shut down"
        : (ended & SF_UNLINKED) != 0 ? ", removed"
                                     : "");
    Py_DECREF(size);
    return result;
}

/* A Topic that was never initialised (Topic.__new__ alone) answers to nothing but repr. */
static PyObject *
topic_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    TopicObject *self = (TopicObject *)type->tp_alloc(type, 0);
    if (self) {
        self->state = sf_state_of(type);
        /* Closed until init has opened it, so that every call has one thing to look at. */
        sf_store_relaxed(&self->t.closed, 1);
        self->t.name = self->t.path = NULL;
    }
    return (PyObject *)self;
}

SF_GUARD_FAST(sf_topic_write_method, op);
SF_GUARD_FAST(sf_topic_write_many_method, op);
SF_GUARD_FAST(sf_topic_loan_method, op);
SF_GUARD_FAST(sf_topic_read_method, op);
SF_GUARD_FAST(sf_topic_read_message_method, op);
SF_GUARD_FAST(sf_topic_read_many_method, op);
SF_GUARD_FAST(sf_topic_read_messages_method, op);
SF_GUARD_FAST(sf_topic_snapshot_method, op);
SF_GUARD_FAST(sf_topic_peek_method, op);
SF_GUARD_FAST(sf_topic_seek_method, op);
SF_GUARD_FAST(sf_topic_messages_method, op);
SF_GUARD_ARGS(sf_topic_fileno_method, op);
SF_GUARD_FAST(sf_topic_read_async_method, op);
SF_GUARD_FAST(sf_topic_read_message_async_method, op);
SF_GUARD_ARGS(sf_topic_stats_method, op);
SF_GUARD_ARGS(sf_topic_participants_method, op);
SF_GUARD_FAST(sf_topic_shutdown_method, op);
SF_GUARD_ARGS(topic_close, op);
SF_GUARD_ARGS(topic_unlink, op);
SF_GUARD_ARGS(sf_topic_last_method, op);
SF_GUARD_ARGS(sf_topic_lock_holder_method, op);
SF_GUARD_ARGS(sf_topic_layout_method, op);
SF_GUARD_ARGS(sf_topic_blocks_method, op);
SF_GUARD_ARGS(topic_enter, op);
SF_GUARD_ARGS(topic_exit, op);
SF_GUARD_ARGS(topic_reduce, op);
SF_GUARD_ARGS(topic_stand, op);
SF_GUARD_INIT(topic_init, op);
SF_GUARD_UNARY(topic_repr, op);
SF_GUARD_UNARY(topic_iter, op);
SF_GUARD_UNARY(sf_topic_aiter, op);
SF_GUARD_UNARY(sf_topic_next, op);

#define FAST (METH_FASTCALL | METH_KEYWORDS)
#define CALL(function) (PyCFunction)(void (*)(void)) SF_GUARDED(function)

static PyMethodDef topic_methods[] = {
    {"write", CALL(sf_topic_write_method), FAST, write_doc},
    {"write_many", CALL(sf_topic_write_many_method), FAST, write_many_doc},
    {"loan", CALL(sf_topic_loan_method), FAST, loan_doc},
    {"read", CALL(sf_topic_read_method), FAST, read_doc},
    {"read_message", CALL(sf_topic_read_message_method), FAST, read_message_doc},
    {"read_many", CALL(sf_topic_read_many_method), FAST, read_many_doc},
    {"read_messages", CALL(sf_topic_read_messages_method), FAST, read_messages_doc},
    {"snapshot", CALL(sf_topic_snapshot_method), FAST, snapshot_doc},
    {"peek", CALL(sf_topic_peek_method), FAST, peek_doc},
    {"seek", CALL(sf_topic_seek_method), FAST, seek_doc},
    {"messages", CALL(sf_topic_messages_method), FAST, messages_doc},
    {"fileno", SF_GUARDED(sf_topic_fileno_method), METH_NOARGS, fileno_doc},
    {"read_async", CALL(sf_topic_read_async_method), FAST, read_async_doc},
    {"read_message_async", CALL(sf_topic_read_message_async_method), FAST, read_message_async_doc},
    {"stats", SF_GUARDED(sf_topic_stats_method), METH_NOARGS, stats_doc},
    {"participants", SF_GUARDED(sf_topic_participants_method), METH_NOARGS, participants_doc},
    {"shutdown", CALL(sf_topic_shutdown_method), FAST, shutdown_doc},
    {"close", SF_GUARDED(topic_close), METH_NOARGS, close_doc},
    {"unlink", SF_GUARDED(topic_unlink), METH_NOARGS, unlink_doc},
    {"_last", SF_GUARDED(sf_topic_last_method), METH_NOARGS, NULL},
    {"_lock_holder", SF_GUARDED(sf_topic_lock_holder_method), METH_NOARGS, NULL},
    {"_layout", SF_GUARDED(sf_topic_layout_method), METH_NOARGS, NULL},
    {"_blocks", SF_GUARDED(sf_topic_blocks_method), METH_O, NULL},
    {"__enter__", SF_GUARDED(topic_enter), METH_NOARGS,
     PyDoc_STR("__enter__($self, /)\n--\n\nThis Topic.")},
    {"__exit__", SF_GUARDED(topic_exit), METH_VARARGS,
     PyDoc_STR("__exit__($self, /, *exc)\n--\n\nclose().")},
    {"_stand", SF_GUARDED(topic_stand), METH_VARARGS, NULL},
    {"__reduce__", SF_GUARDED(topic_reduce), METH_NOARGS, reduce_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef topic_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(TopicObject, weakrefs), Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot topic_slots[] = {
    {Py_tp_doc, (void *)topic_doc},
    {Py_tp_new, topic_new},
    {Py_tp_init, SF_GUARDED(topic_init)},
    {Py_tp_dealloc, topic_dealloc},
    {Py_tp_repr, SF_GUARDED(topic_repr)},
    {Py_tp_iter, SF_GUARDED(topic_iter)},
    {Py_tp_iternext, SF_GUARDED(sf_topic_next)},
    {Py_am_aiter, SF_GUARDED(sf_topic_aiter)},
    {Py_tp_methods, topic_methods},
    {Py_tp_members, topic_members},
    {Py_tp_getset, sf_topic_getset},
    {0, NULL},
};

PyType_Spec sf_topic_spec = {
    .name = "shmflow.Topic",
    .basicsize = sizeof(TopicObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = topic_slots,
};
