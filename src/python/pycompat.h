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

#endif
