/* Between NumPy's arrays and messages, in both directions.
 *
 * Owns:      what an array is made of (dtype, shape, order, bytes); NumPy's table of functions.
 * Does not:  touch the ring, or know what dtypes look like outside (dtypes.c). Bytes and
 *            descriptions come and go through pointers.
 *
 * Invariants
 *   Y1  A description from shared memory is input: dims, their product and the item size are
 *       checked against the payload's length before an array is made over it.
 *   Y2  No dtype with Python objects leaves or arrives.
 *   Y6  What is written takes along no byte that is not the source's: NumPy copies a record field by
 *       field and leaves the gaps as they were in memory, so records are copied as plain bytes.
 * A crash here leaves: nothing.
 */
#define SF_IMPORTS_NUMPY
#include "python/arrays.h"

#include <string.h>

int
sf_arrays_setup(void)
{
    /* Not import_array: it prints what went wrong, and a Ctrl-C becomes an ImportError. */
    return _import_array() < 0 ? -1 : 0;
}

bool
sf_is_array(PyObject *object)
{
    return PyArray_Check(object);
}

int
sf_is_plain_array(struct sf_state *state, PyObject *object)
{
    if (PyArray_CheckExact(object) || !PyArray_Check(object)) {
        return PyArray_CheckExact(object);
    }
    PyObject *arrays = PyObject_GetAttrString(state->wire, "ARRAYS");
    int found = arrays ? PySet_Contains(arrays, (PyObject *)Py_TYPE(object)) : -1;
    Py_XDECREF(arrays);
    return found;
}

/* ---- dtype and shape of a message ---- */

bool
sf_shape_fits(PyObject *descr, const struct sf_message *m, const uint64_t *shape)
{
    uint64_t len = (uint64_t)PyDataType_ELSIZE((PyArray_Descr *)descr);
    uint64_t nonzero = len ? len : 1;
    for (uint32_t i = 0; i < m->ndim; i++) {
        uint64_t dim = shape[i];
        /* Also without the zeros: NumPy wants the product of the others to fit as well. */
        if (__builtin_mul_overflow(nonzero, dim ? dim : 1, &nonzero) || nonzero > INT64_MAX) {
            return false;
        }
        len *= dim;
    }
    return len == m->payload_len;
}

int
sf_message_dtype(TopicObject *topic, const struct sf_message *m, const char *prefix,
                 uint64_t *shape, PyObject **descr)
{
    if (m->ndim > SF_INLINE_DIMS) {
        memcpy(shape, prefix, (size_t)m->ndim * 8);
        prefix += (size_t)m->ndim * 8;
    }
    else {
        memcpy(shape, m->shape, (size_t)m->ndim * 8);
    }
    int status = sf_get_dtype(topic, m, prefix, descr);
    if (status == 0 && !sf_shape_fits(*descr, m, shape)) {
        Py_CLEAR(*descr);
        status = SF_BAD_MESSAGE;
    }
    return status;
}

/* ---- arrays out ---- */

static void
put_shape(struct sf_source *source, int ndim, const npy_intp *dims)
{
    source->out.ndim = (uint32_t)ndim;
    for (int i = 0; i < ndim; i++) {
        source->shape[i] = (uint64_t)dims[i];
    }
    source->out.shape = source->shape;
}

static SF_COLD int
raise_changed(void)
{
    PyErr_SetString(PyExc_RuntimeError,
                    "the array that is being written was changed in place meanwhile (its memory, "
                    "size or dtype, by code that ran inside the call); write a copy of it");
    return -1;
}

static int
put_array(TopicObject *topic, PyArrayObject *array, struct sf_source *source)
{
    PyArray_Descr *descr = PyArray_DESCR(array);
    bool cached = (PyObject *)descr == topic->last.out_dtype && !topic->last.out_seal;
    /* Else Python code describes it: so the dtype first, and then whether it still is the array's. */
    PyObject *held = cached ? NULL : Py_NewRef((PyObject *)descr);
    int status = sf_put_dtype(topic, descr, source);
    bool same = PyArray_DESCR(array) == descr;
    Py_XDECREF(held);
    if (status < 0 || !same) {
        return status < 0 ? -1 : raise_changed();
    }
    if (PyArray_NDIM(array) > (int)SF_MAX_DIMS) {
        PyErr_Format(PyExc_ValueError, "an array of %d dimensions; at most %d travel",
                     PyArray_NDIM(array), (int)SF_MAX_DIMS);
        return -1;
    }
    source->borrows = true;
    put_shape(source, PyArray_NDIM(array), PyArray_DIMS(array));
    source->out.payload_len = (uint64_t)PyArray_NBYTES(array);
    if (PyArray_IS_C_CONTIGUOUS(array)) {
        source->out.data = PyArray_DATA(array);
    }
    else if (PyArray_IS_F_CONTIGUOUS(array)) {
        source->out.data = PyArray_DATA(array);
        source->out.fortran = true;
    }
    else {
        source->strided = true;
    }
    return 0;
}

int
sf_source_from(TopicObject *topic, PyObject *data, struct sf_source *source)
{
    source->keep = source->wire = NULL;
    source->strided = source->borrows = false;
    memset(&source->out, 0, sizeof source->out);
    if (PyArray_CheckExact(data)) {
        source->keep = Py_NewRef(data);
    }
    else {
        source->keep = PyObject_CallMethod(topic->state->wire, "as_array", "(O)", data);
        if (source->keep && !PyArray_Check(source->keep)) {
            PyErr_SetString(PyExc_SystemError, "as_array() gave no array");
            Py_CLEAR(source->keep);
        }
    }
    if (!source->keep) {
        return -1;
    }
    if (put_array(topic, (PyArrayObject *)source->keep, source) < 0) {
        sf_source_clear(source);
        return -1;
    }
    return 0;
}

/* A borrowed array must be able to be read as it was looked at: contiguous ones from their address on,
 * others by their present shape, which then must be that of the message. */
static bool
is_unchanged(const struct sf_source *source)
{
    PyArrayObject *array = (PyArrayObject *)source->keep;
    if ((uint64_t)PyArray_NBYTES(array) != source->out.payload_len) {
        return false;
    }
    if (!source->strided) {
        return PyArray_DATA(array) == source->out.data;
    }
    bool same = PyArray_NDIM(array) == (int)source->out.ndim;
    for (int i = 0; same && i < PyArray_NDIM(array); i++) {
        same = (uint64_t)PyArray_DIM(array, i) == source->shape[i];
    }
    return same;
}

int
sf_sources_check(const struct sf_source *sources, int count)
{
    for (int i = 0; i < count; i++) {
        if (sources[i].borrows && !is_unchanged(&sources[i])) {
            return raise_changed();
        }
    }
    return 0;
}

void
sf_source_clear(struct sf_source *source)
{
    Py_CLEAR(source->keep);
    Py_CLEAR(source->wire);
}

int
sf_source_pack(struct sf_source *source)
{
    PyArrayObject *from = (PyArrayObject *)source->keep;
    PyArray_Descr *descr = PyArray_DESCR(from);
    Py_INCREF(descr);
    PyObject *packed = PyArray_NewFromDescr(&PyArray_Type, descr, PyArray_NDIM(from),
                                            PyArray_DIMS(from), NULL, NULL, 0, NULL);
    if (!packed || sf_copy_strided(source, PyArray_DATA((PyArrayObject *)packed)) < 0) {
        Py_XDECREF(packed);
        return -1;
    }
    Py_SETREF(source->keep, packed);
    source->out.data = PyArray_DATA((PyArrayObject *)packed);
    source->strided = false;
    return sf_sources_check(source, 1); /* what was copied is what was looked at */
}

/* An array of the same places whose elements are nothing but bytes: copying it copies each element
 * whole, gaps between fields and padding included. */
static PyObject *
as_bytes(PyArrayObject *like, void *at, const npy_intp *strides, int flags)
{
    PyArray_Descr *descr = PyArray_DescrNewFromType(NPY_VOID);
    if (!descr) {
        return NULL;
    }
    PyDataType_SET_ELSIZE(descr, PyArray_ITEMSIZE(like));
    return PyArray_NewFromDescr(&PyArray_Type, descr, PyArray_NDIM(like), PyArray_DIMS(like),
                                strides, at, flags, NULL);
}

int
sf_copy_strided(struct sf_source *source, void *at)
{
    PyArrayObject *from = (PyArrayObject *)source->keep;
    if (PyArray_NBYTES(from) == 0) {
        return 0;
    }
    /* Y6 */
    PyObject *whole = as_bytes(from, PyArray_DATA(from), PyArray_STRIDES(from), 0);
    PyObject *to = whole ? as_bytes(from, at, NULL, NPY_ARRAY_CARRAY) : NULL;
    int status = to ? PyArray_CopyInto((PyArrayObject *)to, (PyArrayObject *)whole) : -1;
    Py_XDECREF(to);
    Py_XDECREF(whole);
    return status;
}

int
sf_source_plan(TopicObject *topic, PyObject *shape, PyObject *dtype, struct sf_source *source,
               PyObject **descr_out)
{
    PyArray_Dims dims = {NULL, 0};
    PyArray_Descr *descr = NULL;
    source->keep = source->wire = NULL;
    source->strided = source->borrows = false;
    memset(&source->out, 0, sizeof source->out);
    if (!PyArray_IntpConverter(shape, &dims)) {
        return -1;
    }
    if (dtype ? !PyArray_DescrConverter(dtype, &descr)
              : !(descr = PyArray_DescrFromType(NPY_UINT8))) {
        PyDimMem_FREE(dims.ptr);
        return -1;
    }
    int status = -1;
    uint64_t len = (uint64_t)PyDataType_ELSIZE(descr);
    uint64_t product = 1;
    if (dims.len > (int)SF_MAX_DIMS) {
        PyErr_Format(PyExc_ValueError, "an array of %d dimensions; at most %d travel", dims.len,
                     (int)SF_MAX_DIMS);
        goto done;
    }
    if (PyDataType_HASSUBARRAY(descr)) {
        PyErr_SetString(PyExc_TypeError,
                        "a dtype with a subarray; put its dimensions into the shape");
        goto done;
    }
    for (int i = 0; i < dims.len; i++) {
        if (dims.ptr[i] < 0) {
            PyErr_SetString(PyExc_ValueError, "a dimension of shape is negative");
            goto done;
        }
        if (__builtin_mul_overflow(product, (uint64_t)dims.ptr[i], &product)) {
            product = SF_MAX_CAPACITY;
        }
    }
    if (__builtin_mul_overflow(len, product, &len) || len >= SF_MAX_CAPACITY) {
        PyErr_Format(PyExc_ValueError, "shape %R of %S is larger than any topic", shape, descr);
        goto done;
    }
    if (sf_put_dtype(topic, descr, source) < 0) {
        goto done;
    }
    put_shape(source, dims.len, dims.ptr);
    source->out.payload_len = len;
    *descr_out = Py_NewRef((PyObject *)descr);
    status = 0;
done:
    PyDimMem_FREE(dims.ptr);
    Py_XDECREF(descr);
    return status;
}

static PyObject *
shape_tuple(uint32_t ndim, const uint64_t *shape)
{
    PyObject *dims = PyTuple_New((Py_ssize_t)ndim);
    for (uint32_t i = 0; dims && i < ndim; i++) {
        PyObject *dim = PyLong_FromUnsignedLongLong(shape[i]);
        if (!dim) {
            Py_CLEAR(dims);
            break;
        }
        PyTuple_SET_ITEM(dims, (Py_ssize_t)i, dim);
    }
    return dims;
}

static int
raise_shape(struct sf_state *state, const struct sf_source *whole, PyObject *asked)
{
    PyObject *have = shape_tuple(whole->out.ndim, whole->shape);
    PyObject *error =
        have ? PyObject_CallMethod(state->texts, "loan_shape", "(OO)", asked, have) : NULL;
    if (error) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    }
    Py_XDECREF(error);
    Py_XDECREF(have);
    return -1;
}

int
sf_shape_within(struct sf_state *state, const struct sf_source *whole, PyObject *descr,
                PyObject *shape, struct sf_shorter *shorter)
{
    PyArray_Dims dims = {NULL, 0};
    if (!PyArray_IntpConverter(shape, &dims)) {
        return -1;
    }
    uint64_t count = 1, have = 1;
    bool fits = dims.len <= (int)SF_MAX_DIMS;
    for (int i = 0; fits && i < dims.len; i++) {
        fits = dims.ptr[i] >= 0 && !__builtin_mul_overflow(count, (uint64_t)dims.ptr[i], &count);
        shorter->shape[i] = (uint64_t)dims.ptr[i];
    }
    for (uint32_t i = 0; i < whole->out.ndim; i++) {
        have = __builtin_mul_overflow(have, whole->shape[i], &have) ? SF_MAX_CAPACITY : have;
    }
    if (fits && count <= have) {
        shorter->ndim = (uint32_t)dims.len;
        shorter->payload_len = count * (uint64_t)PyDataType_ELSIZE((PyArray_Descr *)descr);
        /* As readers will check it: also without its zeros a shape has to be possible. */
        struct sf_message like = {.ndim = shorter->ndim, .payload_len = shorter->payload_len};
        fits = sf_shape_fits(descr, &like, shorter->shape);
    }
    PyDimMem_FREE(dims.ptr);
    return fits && count <= have ? 0 : raise_shape(state, whole, shape);
}

/* ---- arrays in ---- */

/* An array with memory of its own. Of records NumPy would look at each field, for objects that are to
 * be made: there are none (Y2), and it takes longer than all else in a read. */
static PyObject *
allocate(PyArray_Descr *descr, int ndim, const npy_intp *dims, int flags)
{
    bool records = PyDataType_HASFIELDS(descr) && PyDataType_ELSIZE(descr) > 0;
    PyArray_Descr *of = records ? PyArray_DescrNewFromType(NPY_VOID) : descr;
    if (!of) {
        return NULL;
    }
    if (records) {
        PyDataType_SET_ELSIZE(of, PyDataType_ELSIZE(descr));
    }
    else {
        Py_INCREF(of);
    }
    PyObject *array = PyArray_NewFromDescr(&PyArray_Type, of, ndim, dims, NULL, NULL, flags, NULL);
    if (array && records) {
        Py_INCREF(descr);
        Py_SETREF(((PyArrayObject_fields *)array)->descr, descr);
    }
    return array;
}

PyObject *
sf_array_over(PyObject *descr, uint32_t ndim, const uint64_t *shape, bool fortran, void *at,
              PyObject *base, bool writable)
{
    npy_intp dims[SF_MAX_DIMS];
    for (uint32_t i = 0; i < ndim; i++) {
        dims[i] = (npy_intp)shape[i];
    }
    int flags = fortran ? NPY_ARRAY_F_CONTIGUOUS : at ? NPY_ARRAY_C_CONTIGUOUS : 0;
    flags |= at ? NPY_ARRAY_ALIGNED | (writable ? NPY_ARRAY_WRITEABLE : 0) : 0;
    PyObject *array;
    if (at) {
        Py_INCREF(descr);
        array = PyArray_NewFromDescr(&PyArray_Type, (PyArray_Descr *)descr, (int)ndim, dims, NULL,
                                     at, flags, NULL);
    }
    else {
        array = allocate((PyArray_Descr *)descr, (int)ndim, dims, flags);
    }
    if (array && base) {
        if (PyArray_SetBaseObject((PyArrayObject *)array, Py_NewRef(base)) < 0) {
            Py_CLEAR(array);
        }
    }
    if (array && !writable) {
        PyArray_CLEARFLAGS((PyArrayObject *)array, NPY_ARRAY_WRITEABLE);
    }
    return array;
}

PyObject *
sf_array_stack(PyObject *descr, uint64_t count, uint32_t ndim, const uint64_t *shape, bool fortran)
{
    npy_intp dims[SF_MAX_DIMS + 1] = {(npy_intp)count}, axes[SF_MAX_DIMS + 1] = {0};
    /* Fortran order of each one is C order of its axes reversed. */
    for (uint32_t i = 0; i < ndim; i++) {
        dims[1 + i] = (npy_intp)shape[fortran ? ndim - 1 - i : i];
        axes[1 + i] = (npy_intp)(fortran ? ndim - i : 1 + i);
    }
    Py_INCREF(descr);
    PyObject *array = PyArray_SimpleNewFromDescr((int)ndim + 1, dims, (PyArray_Descr *)descr);
    if (array && fortran) {
        PyArray_Dims order = {axes, (int)ndim + 1};
        Py_SETREF(array, PyArray_Transpose((PyArrayObject *)array, &order));
    }
    return array;
}

void
sf_array_shorten(PyObject *stack, uint64_t count)
{
    /* Nobody else knows it yet, and its first axis is the outermost: the rest is left unused. */
    PyArray_DIMS((PyArrayObject *)stack)[0] = (npy_intp)count;
    PyArray_UpdateFlags((PyArrayObject *)stack, NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_F_CONTIGUOUS);
}

void *
sf_array_data(PyObject *array)
{
    return PyArray_DATA((PyArrayObject *)array);
}

void
sf_array_freeze(PyObject *array)
{
    PyArray_CLEARFLAGS((PyArrayObject *)array, NPY_ARRAY_WRITEABLE);
}

int
sf_check_out(PyObject *out, PyObject *descr, uint32_t ndim, const uint64_t *shape, bool fortran)
{
    PyArrayObject *array = (PyArrayObject *)out;
    bool same = PyArray_NDIM(array) == (int)ndim;
    for (uint32_t i = 0; same && i < ndim; i++) {
        same = PyArray_DIM(array, (int)i) == (npy_intp)shape[i];
    }
    if (!same || !PyArray_EquivTypes(PyArray_DESCR(array), (PyArray_Descr *)descr)) {
        PyObject *dims = shape_tuple(ndim, shape);
        PyObject *have = dims ? PyObject_GetAttrString(out, "shape") : NULL;
        if (have) {
            PyErr_Format(PyExc_ValueError,
                         "out= has shape %S and dtype %S, the message has shape %S and dtype %S; "
                         "nothing was consumed",
                         have, PyArray_DESCR(array), dims, descr);
        }
        Py_XDECREF(have);
        Py_XDECREF(dims);
        return -1;
    }
    if (!PyArray_ISWRITEABLE(array)) {
        PyErr_SetString(PyExc_ValueError, "out= is read-only; nothing was consumed");
        return -1;
    }
    if (fortran ? !PyArray_IS_F_CONTIGUOUS(array) : !PyArray_IS_C_CONTIGUOUS(array)) {
        PyErr_Format(PyExc_ValueError,
                     "out= must be %s-contiguous, as the message is; nothing was consumed",
                     fortran ? "F" : "C");
        return -1;
    }
    return 0;
}
