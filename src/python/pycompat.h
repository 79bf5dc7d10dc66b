/* Python.h, and the differences between the versions of CPython that shmflow runs on.
 *
 * Owns:      every #if on PY_VERSION_HEX; how methods are guarded where there is no GIL.
 * Does not:  wrap what is the same everywhere.
 *
 * Invariants
 *   C1  Included first by every file of src/python, before any standard header.
 * A crash here leaves: nothing.
 */
#ifndef SHMFLOW_PYCOMPAT_H
#define SHMFLOW_PYCOMPAT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <structmember.h>

#if PY_VERSION_HEX < 0x030b0000
#error "shmflow needs CPython 3.11 or later."
#endif

#if PY_VERSION_HEX < 0x030c0000
#define Py_T_OBJECT_EX T_OBJECT_EX
#define Py_T_ULONGLONG T_ULONGLONG
#define Py_T_LONGLONG T_LONGLONG
#define Py_T_UINT T_UINT
#define Py_T_PYSSIZET T_PYSSIZET
#define Py_READONLY READONLY
#endif

/* The exception that is raised, taken away (NULL: none), and put back; steals. */
static inline PyObject *
sf_get_raised(void)
{
#if PY_VERSION_HEX >= 0x030c0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    if (type) {
        PyErr_NormalizeException(&type, &value, &trace);
        if (trace) {
            PyException_SetTraceback(value, trace);
        }
        Py_XDECREF(trace);
        Py_DECREF(type);
    }
    return value;
#endif
}

static inline void
sf_set_raised(PyObject *error)
{
#if PY_VERSION_HEX >= 0x030c0000
    PyErr_SetRaisedException(error);
#else
    PyErr_Restore(Py_NewRef((PyObject *)Py_TYPE(error)), error, PyException_GetTraceback(error));
#endif
}

/* 1 and a new reference, 0 if there is none, -1 with an exception; *value is NULL then. */
static inline int
sf_dict_get(PyObject *dict, PyObject *key, PyObject **value)
{
#if PY_VERSION_HEX >= 0x030d0000
    return PyDict_GetItemRef(dict, key, value);
#else
    *value = Py_XNewRef(PyDict_GetItemWithError(dict, key));
    return *value ? 1 : PyErr_Occurred() ? -1 : 0;
#endif
}

/* ---- guards ----
 *
 * Where there is no GIL (CPython 3.13t and later), a method runs in a critical section on the Topic
 * (or Message) it belongs to: SF_GUARD_...(name, guard) makes name_guarded, in which `op` is the
 * method's object and `guard` an expression for whom to lock; SF_GUARDED(name) is what goes into a
 * type's tables. A critical section is let go of where a thread detaches (Py_BEGIN_ALLOW_THREADS,
 * Python code that waits), and is had again after: exactly as the GIL elsewhere, where all of this
 * is nothing. */
#ifdef Py_GIL_DISABLED
/* The same for a few statements of a function that looks at several Topics. */
#define SF_ENTER(guard) Py_BEGIN_CRITICAL_SECTION(guard)
#define SF_LEAVE() Py_END_CRITICAL_SECTION()
#define SF_GUARDED(name) name##_guarded
#define SF_GUARD(result, name, parameters, arguments, guard)                                       \
    static result name##_guarded parameters                                                        \
    {                                                                                              \
        result sf_result;                                                                          \
        Py_BEGIN_CRITICAL_SECTION(guard);                                                          \
        sf_result = name arguments;                                                                \
        Py_END_CRITICAL_SECTION();                                                                 \
        return sf_result;                                                                          \
    }                                                                                              \
    struct sf_guard
#else
#define SF_ENTER(guard) (void)(guard)
#define SF_LEAVE() (void)0
#define SF_GUARDED(name) name
#define SF_GUARD(result, name, parameters, arguments, guard) struct sf_guard
#endif

/* METH_FASTCALL | METH_KEYWORDS */
#define SF_GUARD_FAST(name, guard)                                                                 \
    SF_GUARD(PyObject *, name,                                                                     \
             (PyObject * op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames),          \
             (op, args, nargs, kwnames), guard)
/* METH_NOARGS, METH_VARARGS */
#define SF_GUARD_ARGS(name, guard)                                                                 \
    SF_GUARD(PyObject *, name, (PyObject * op, PyObject * args), (op, args), guard)
/* METH_VARARGS | METH_KEYWORDS */
#define SF_GUARD_CALL(name, guard)                                                                 \
    SF_GUARD(PyObject *, name, (PyObject * op, PyObject * args, PyObject * kwargs),                \
             (op, args, kwargs), guard)
/* tp_repr, tp_iter, tp_iternext */
#define SF_GUARD_UNARY(name, guard) SF_GUARD(PyObject *, name, (PyObject * op), (op), guard)
/* tp_init */
#define SF_GUARD_INIT(name, guard)                                                                 \
    SF_GUARD(int, name, (PyObject * op, PyObject * args, PyObject * kwargs), (op, args, kwargs),   \
             guard)
/* bf_getbuffer */
#define SF_GUARD_BUFFER(name, guard)                                                               \
    SF_GUARD(int, name, (PyObject * op, Py_buffer * buffer, int flags), (op, buffer, flags), guard)
/* A PyGetSetDef's get. */
#define SF_GUARD_GET(name, guard)                                                                  \
    SF_GUARD(PyObject *, name, (PyObject * op, void *closure), (op, closure), guard)

#endif
