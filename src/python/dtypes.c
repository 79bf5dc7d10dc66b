/* Dtypes, between NumPy and the wire: the caches.
 *
 * Owns:      the wire form of a dtype that is written, the dtype of one that is read, and what is
 *            kept of both.
 * Does not:  know the wire form itself: _wire.py writes it, dtype_wire.c reads it.
 *
 * Invariants
 *   Y3  The caches hold strong references; an entry is never changed, only replaced. A Topic's own
 *       is replaced in its critical section, and used before that can end (module.h, D2).
 *   Y4  The fields of a dtype may be renamed in place, those of a structure inside it too. Outwards
 *       an entry is used only while the dtype is as it was described (add_seal); what is handed out
 *       inwards is the reader's own copy, down to the last structure.
 *   Y5  Nothing that may lead back to a Topic is kept: no metadata, no names of a type of one's own.
 * A crash here leaves: nothing.
 */
#include "python/arrays.h"

#include <string.h>

#define SF_CACHE_MAX 256
#define SF_RENAMED_MAX 100

int
sf_dtypes_setup(struct sf_state *state)
{
    state->dtypes.by_dtype = PyDict_New();
    state->dtypes.by_identity = PyDict_New();
    state->dtypes.by_wire = PyDict_New();
    return state->dtypes.by_dtype && state->dtypes.by_identity && state->dtypes.by_wire ? 0 : -1;
}

void
sf_dtypes_forget(struct sf_last_dtypes *last)
{
    Py_CLEAR(last->out_dtype);
    Py_CLEAR(last->out_seal);
    Py_CLEAR(last->out_long);
    Py_CLEAR(last->in_dtype);
}

/* Dicts keep their order: the first entry is the oldest. */
static int
forget_oldest(PyObject *cache)
{
    PyObject *key = NULL, *value;
    Py_ssize_t at = 0;
    SF_ENTER(cache);
    key = PyDict_Next(cache, &at, &key, &value) ? Py_NewRef(key) : NULL;
    SF_LEAVE();
    if (!key) {
        return 0;
    }
    int status = PyDict_DelItem(cache, key);
    Py_DECREF(key);
    if (status < 0 && PyErr_ExceptionMatches(PyExc_KeyError)) { /* another thread was quicker */
        PyErr_Clear();
        status = 0;
    }
    return status;
}

/* A full cache stays full: who makes a dtype anew for each message costs the others little. */
static int
remember(PyObject *cache, PyObject *key, PyObject *value)
{
    if (PyDict_Size(cache) >= SF_CACHE_MAX && forget_oldest(cache) < 0) {
        return -1;
    }
    return PyDict_SetItem(cache, key, value);
}

/* ---- what the wire form is made into ----
 *
 * Not by numpy.dtype(list), nor of a dict: these take a lack of memory for a key that is not there, or
 * for a shape that is none. __setstate__ is what pickles of dtypes stand on. */

int
sf_descr_of_code(PyObject *code, PyObject **dtype)
{
    PyArray_Descr *descr = NULL;
    int made = PyArray_DescrConverter(code, &descr);
    *dtype = (PyObject *)descr;
    if (made) {
        return 0;
    }
    /* No code of Python's ran: it is NumPy that says so, of what it was given. */
    if (!PyErr_ExceptionMatches(PyExc_ValueError) && !PyErr_ExceptionMatches(PyExc_TypeError)) {
        return -1;
    }
    PyErr_Clear();
    return SF_BAD_MESSAGE;
}

static int
make_void(PyObject *repeated, PyObject *names, PyObject *table, uint64_t len, npy_intp alignment,
          uint64_t flags, PyObject **dtype)
{
    PyObject *descr = (PyObject *)PyArray_DescrNewFromType(NPY_VOID);
    PyObject *done = NULL;
    if (descr) {
        done = PyObject_CallMethod(descr, "__setstate__", "((isOOOKnK))", 3, "|", repeated, names,
                                   table, (unsigned long long)len, (Py_ssize_t)alignment,
                                   (unsigned long long)flags);
    }
    if (!done) {
        Py_CLEAR(descr);
    }
    Py_XDECREF(done);
    *dtype = descr;
    return descr ? 0 : -1;
}

int
sf_descr_repeat(PyObject *dtype, PyObject *shape, uint64_t len, PyObject **repeated)
{
    PyArray_Descr *base = (PyArray_Descr *)dtype;
    PyObject *pair = PyTuple_Pack(2, dtype, shape);
    int status = pair ? make_void(pair, Py_None, Py_None, len, PyDataType_ALIGNMENT(base),
                                  (uint64_t)PyDataType_FLAGS(base), repeated)
                      : -1;
    Py_XDECREF(pair);
    return status;
}

int
sf_descr_of_fields(PyObject *list, PyObject *table, uint64_t len, PyObject **dtype)
{
    uint64_t flags = NPY_NEEDS_PYAPI; /* as all that have fields */
    PyObject *key, *entry, *names = PyList_AsTuple(list);
    for (Py_ssize_t at = 0; PyDict_Next(table, &at, &key, &entry);) {
        PyArray_Descr *descr = (PyArray_Descr *)PyTuple_GET_ITEM(entry, 0);
        flags |= (uint64_t)PyDataType_FLAGS(descr) & NPY_FROM_FIELDS;
    }
    int status = names ? make_void(Py_None, names, table, len, 1, flags, dtype) : -1;
    Py_XDECREF(names);
    return status;
}

uint64_t
sf_descr_len(PyObject *dtype)
{
    return (uint64_t)PyDataType_ELSIZE((PyArray_Descr *)dtype);
}

/* ---- what a dtype is described as ---- */

static bool
has_structure(PyArray_Descr *descr)
{
    while (PyDataType_HASSUBARRAY(descr)) {
        descr = PyDataType_SUBARRAY(descr)->base;
    }
    return PyDataType_HASFIELDS(descr);
}

/* What has to stay as it is for a dtype to mean what it did: its names and its table of fields, which
 * NumPy replaces and never changes, and those of the structures within. Adds them to `seal`: 1, 0 if
 * it must not be kept (Y5), -1. */
static int
add_seal(PyObject *seal, PyArray_Descr *descr)
{
    if (PyDataType_METADATA(descr)) {
        return 0;
    }
    if (PyDataType_HASSUBARRAY(descr)) {
        return add_seal(seal, PyDataType_SUBARRAY(descr)->base);
    }
    if (!PyDataType_HASFIELDS(descr)) {
        return 1;
    }
    PyObject *names = PyDataType_NAMES(descr), *fields = PyDataType_FIELDS(descr), *key, *entry;
    if (PyList_Append(seal, (PyObject *)descr) < 0 || PyList_Append(seal, names) < 0 ||
        PyList_Append(seal, fields) < 0) {
        return -1;
    }
    Py_ssize_t at = 0;
    while (PyDict_Next(fields, &at, &key, &entry)) { /* titles are among the keys */
        bool plain = PyUnicode_CheckExact(key) || Py_TYPE(key) == &PyUnicodeArrType_Type;
        int status = plain ? add_seal(seal, (PyArray_Descr *)PyTuple_GET_ITEM(entry, 0)) : 0;
        if (status != 1) {
            return status;
        }
    }
    return 1;
}

/* 1 and a tuple, 0, -1. */
static int
make_seal(PyArray_Descr *descr, PyObject **seal)
{
    PyObject *parts = PyList_New(0);
    int status = parts ? add_seal(parts, descr) : -1;
    *seal = status == 1 ? PyList_AsTuple(parts) : NULL;
    Py_XDECREF(parts);
    return status == 1 && !*seal ? -1 : status;
}

static bool
is_sealed(PyObject *seal)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(seal); i += 3) {
        PyArray_Descr *descr = (PyArray_Descr *)PyTuple_GET_ITEM(seal, i);
        if (PyDataType_NAMES(descr) != PyTuple_GET_ITEM(seal, i + 1) ||
            PyDataType_FIELDS(descr) != PyTuple_GET_ITEM(seal, i + 2)) {
            return false;
        }
    }
    return true;
}

/* The wire form of a dtype that no cache knows: new reference to bytes. *known, if wanted, gets the
 * dtype that readers will make of it. */
static SF_COLD PyObject *
describe_anew(struct sf_state *state, PyArray_Descr *descr, PyObject **known)
{
    PyObject *wire = PyObject_CallMethod(state->wire, "describe", "O", (PyObject *)descr);
    if (!wire) {
        return NULL;
    }
    int status = SF_BAD_MESSAGE;
    *known = NULL;
    if (PyBytes_Check(wire)) {
        status = sf_parse_dtype(PyBytes_AS_STRING(wire), (uint32_t)PyBytes_GET_SIZE(wire), known);
    }
    if (status == 0 && PyArray_EquivTypes(descr, (PyArray_Descr *)*known)) {
        return wire;
    }
    if (status != -1 && !PyErr_Occurred()) {
        Py_XDECREF(PyObject_CallMethod(state->wire, "refuse", "O", (PyObject *)descr));
    }
    Py_CLEAR(*known);
    Py_DECREF(wire);
    return NULL;
}

/* The wire form: new reference to bytes. One with fields is known by its identity and its seal, for
 * an equal one may have been renamed meanwhile; *seal is a new reference then. */
static SF_COLD PyObject *
describe(struct sf_state *state, PyArray_Descr *descr, PyObject **seal)
{
    struct sf_dtype_cache *cache = &state->dtypes;
    bool fields = PyDataType_HASFIELDS(descr);
    PyObject *wire = NULL, *known = NULL, *entry = NULL;
    PyObject *key = fields ? PyLong_FromVoidPtr(descr) : Py_NewRef((PyObject *)descr);
    *seal = NULL;
    if (!key || sf_dict_get(fields ? cache->by_identity : cache->by_dtype, key, &entry) < 0) {
        goto done;
    }
    if (entry && !fields) {
        wire = Py_NewRef(entry);
        goto done;
    }
    if (entry && is_sealed(PyTuple_GET_ITEM(entry, 0))) {
        *seal = Py_NewRef(PyTuple_GET_ITEM(entry, 0));
        wire = Py_NewRef(PyTuple_GET_ITEM(entry, 1));
        goto done;
    }
    int keep = 1;
    for (int round = 0; !wire && round < SF_RENAMED_MAX; round++) {
        Py_CLEAR(*seal);
        /* First: whoever renames one meanwhile breaks the seal. */
        keep = fields ? make_seal(descr, seal) : 1;
        wire = keep < 0 ? NULL : describe_anew(state, descr, &known);
        if (!wire && (!*seal || is_sealed(*seal) || !PyErr_ExceptionMatches(PyExc_TypeError) ||
                      round + 1 == SF_RENAMED_MAX)) {
            break;
        }
        if (!wire) {
            PyErr_Clear(); /* renamed between two looks: what was refused was neither of both */
        }
    }
    if (wire && fields && keep) {
        Py_XSETREF(entry, PyTuple_Pack(2, *seal, wire));
        if (!entry || remember(cache->by_identity, key, entry) < 0) {
            Py_CLEAR(wire);
        }
    }
    else if (wire && !fields && remember(cache->by_dtype, known, wire) < 0) {
        Py_CLEAR(wire);
    }
done:
    if (!wire) {
        Py_CLEAR(*seal);
    }
    Py_XDECREF(known);
    Py_XDECREF(entry);
    Py_XDECREF(key);
    return wire;
}

static void
put_last_dtype(const struct sf_last_dtypes *last, struct sf_source *source)
{
    source->out.dtype_len = last->out_len;
    if (last->out_long) {
        source->wire = Py_NewRef(last->out_long);
        source->out.dtype = PyBytes_AS_STRING(source->wire);
        return;
    }
    memcpy(source->wire_inline, last->out_wire, sizeof source->wire_inline);
    source->out.dtype = source->wire_inline;
}

/* A dtype that is not the last one's. */
static SF_APART int
put_other_dtype(TopicObject *topic, PyArray_Descr *descr, struct sf_source *source)
{
    struct sf_last_dtypes *last = &topic->last;
    PyObject *seal;
    PyObject *wire = describe(topic->state, descr, &seal);
    if (!wire) {
        return -1;
    }
    uint32_t len = (uint32_t)PyBytes_GET_SIZE(wire);
    if (!seal && (PyDataType_HASFIELDS(descr) || PyDataType_METADATA(descr))) { /* Y5 */
        source->out.dtype_len = len;
        source->wire = wire;
        source->out.dtype = PyBytes_AS_STRING(wire);
        return 0;
    }
    PyObject *old[] = {last->out_dtype, last->out_seal, last->out_long};
    last->out_dtype = Py_NewRef((PyObject *)descr);
    last->out_seal = seal;
    last->out_long = len > SF_INLINE_DTYPE ? Py_NewRef(wire) : NULL;
    last->out_len = len;
    memset(last->out_wire, 0, sizeof last->out_wire);
    if (len <= SF_INLINE_DTYPE) {
        memcpy(last->out_wire, PyBytes_AS_STRING(wire), len);
    }
    put_last_dtype(last, source);
    Py_DECREF(wire);
    for (size_t i = 0; i < 3; i++) {
        Py_XDECREF(old[i]); /* may run code, which may write through this Topic: last */
    }
    return 0;
}

int
sf_put_dtype(TopicObject *topic, PyArray_Descr *descr, struct sf_source *source)
{
    const struct sf_last_dtypes *last = &topic->last;
    if ((PyObject *)descr != last->out_dtype || (last->out_seal && !is_sealed(last->out_seal))) {
        return put_other_dtype(topic, descr, source);
    }
    put_last_dtype(last, source);
    return 0;
}

static PyArray_Descr *copy_deeply(PyArray_Descr *descr);

/* Fills `table` with what `shared` has, but with structures of its own. */
static int
own_fields(PyObject *table, PyObject *shared)
{
    PyObject *key, *entry;
    for (Py_ssize_t at = 0; PyDict_Next(shared, &at, &key, &entry);) {
        PyArray_Descr *field = (PyArray_Descr *)PyTuple_GET_ITEM(entry, 0);
        PyObject *title = PyTuple_GET_SIZE(entry) > 2 ? PyTuple_GET_ITEM(entry, 2) : NULL;
        if (title == key) {
            continue; /* it comes with its name */
        }
        PyArray_Descr *own = has_structure(field) ? copy_deeply(field) : NULL;
        PyObject *made =
            own ? PyTuple_Pack(title ? 3 : 2, (PyObject *)own, PyTuple_GET_ITEM(entry, 1), title)
                : Py_NewRef(entry);
        bool failed = (has_structure(field) && !own) || !made ||
                      PyDict_SetItem(table, key, made) < 0 ||
                      (title && PyDict_SetItem(table, title, made) < 0);
        Py_XDECREF(own);
        Py_XDECREF(made);
        if (failed) {
            return -1;
        }
    }
    return 0;
}

/* Y4: a copy of a dtype that shares no structure with it. */
static SF_APART PyArray_Descr *
copy_deeply(PyArray_Descr *descr)
{
    PyArray_Descr *copy = PyArray_DescrNew(descr);
    if (copy && PyDataType_HASSUBARRAY(copy)) {
        PyArray_Descr *base = copy_deeply(PyDataType_SUBARRAY(copy)->base);
        if (!base) {
            Py_DECREF(copy);
            return NULL;
        }
        Py_SETREF(PyDataType_SUBARRAY(copy)->base, base);
    }
    if (!copy || !PyDataType_HASFIELDS(copy)) {
        return copy;
    }
    PyObject *names = PyDataType_NAMES(copy), *shared = PyDataType_FIELDS(copy), *key, *entry;
    bool nested = false;
    for (Py_ssize_t at = 0; !nested && PyDict_Next(shared, &at, &key, &entry);) {
        nested = has_structure((PyArray_Descr *)PyTuple_GET_ITEM(entry, 0));
    }
    /* To be named as it is gives it a table of its own, with names, and without titles. */
    Py_INCREF(shared);
    if (nested && (PyObject_SetAttrString((PyObject *)copy, "names", names) < 0 ||
                   own_fields(PyDataType_FIELDS(copy), shared) < 0)) {
        Py_CLEAR(copy);
    }
    Py_DECREF(shared);
    return copy;
}

/* 0 and a new reference, SF_BAD_MESSAGE: the bytes are no dtype, or -1. */
static int
parse_dtype(struct sf_state *state, const char *wire, uint32_t len, PyObject **descr)
{
    *descr = NULL;
    PyObject *key = PyBytes_FromStringAndSize(wire, (Py_ssize_t)len);
    if (!key) {
        return -1;
    }
    int status = sf_dict_get(state->dtypes.by_wire, key, descr);
    if (status == 0) {
        status = sf_parse_dtype(PyBytes_AS_STRING(key), len, descr);
        if (status == 0 && remember(state->dtypes.by_wire, key, *descr) < 0) {
            Py_CLEAR(*descr);
            status = -1;
        }
    }
    Py_DECREF(key);
    if (*descr && PyDataType_HASFIELDS((PyArray_Descr *)*descr)) {
        Py_SETREF(*descr, (PyObject *)copy_deeply((PyArray_Descr *)*descr));
        return *descr ? 0 : -1;
    }
    return status < 0 ? status : 0;
}

PyObject *
sf_message_dtype_cached(const TopicObject *topic, const struct sf_message *m)
{
    const struct sf_last_dtypes *last = &topic->last;
    bool same = m->dtype_len == last->in_len && m->dtype[0] == last->in_wire[0] &&
                m->dtype[1] == last->in_wire[1];
    return same ? last->in_dtype : NULL; /* in_len is never longer than what lies inline */
}

int
sf_get_dtype(TopicObject *topic, const struct sf_message *m, const char *prefix, PyObject **descr)
{
    struct sf_last_dtypes *last = &topic->last;
    if (m->dtype_len > SF_INLINE_DTYPE) {
        return parse_dtype(topic->state, prefix, m->dtype_len, descr);
    }
    PyObject *cached = sf_message_dtype_cached(topic, m);
    if (cached) {
        *descr = Py_NewRef(cached);
        return 0;
    }
    int status = parse_dtype(topic->state, (const char *)m->dtype, m->dtype_len, descr);
    if (status == 0 && !PyDataType_HASFIELDS((PyArray_Descr *)*descr)) {
        PyObject *old = last->in_dtype;
        last->in_dtype = Py_NewRef(*descr);
        last->in_len = m->dtype_len;
        memcpy(last->in_wire, m->dtype, sizeof last->in_wire);
        Py_XDECREF(old);
    }
    return status;
}
