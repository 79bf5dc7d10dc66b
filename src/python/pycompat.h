/* Python.h, and the differences between the versions of CPython that shmflow runs on.
 *
 * Owns:      every #if on PY_VERSION_HEX.
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

#endif
