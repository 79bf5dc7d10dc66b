/* The arguments of Topic(): parsed, and refused where they contradict each other.
 *
 * Owns:      struct sf_options, from what a user wrote.
 * Does not:  open anything (topic_type.c).
 *
 * Invariants
 *   P1  What is refused here has changed nothing.
 * A crash here leaves: nothing.
 */
#include "python/module.h"

#include <stdio.h>
#include <string.h>

static int
parse_size(struct sf_state *state, PyObject *value, const char *what, uint64_t *out)
{
    *out = 0;
    if (value == Py_None) {
        return 0;
    }
    PyObject *size = PyObject_CallMethod(state->wire, "parse_size", "Os", value, what);
    if (!size) {
        return -1;
    }
    *out = PyLong_AsUnsignedLongLong(size);
    Py_DECREF(size);
    return PyErr_Occurred() ? -1 : 0;
}

static int
parse_count(PyObject *value, const char *what, uint64_t max, uint64_t *out)
{
    *out = 0;
    if (value == Py_None) {
        return 0;
    }
    PyObject *index = PyBool_Check(value) ? NULL : PyNumber_Index(value);
    if (!index) {
        if (!PyErr_Occurred() || PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Format(PyExc_TypeError, "%s must be an int or None, not %R", what, value);
        }
        return -1;
    }
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(index, &overflow);
    Py_DECREF(index);
    if (number == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (overflow || number < 1 || (uint64_t)number > max) {
        PyErr_Format(PyExc_ValueError, "%s=%R is out of range: 1 to %llu", what, value,
                     (unsigned long long)max);
        return -1;
    }
    *out = (uint64_t)number;
    return 0;
}

static int
parse_choice(PyObject *value, const char *what, const char *const *choices, int *out)
{
    if (PyUnicode_Check(value)) {
        for (int i = 0; choices[i]; i++) {
            if (PyUnicode_CompareWithASCIIString(value, choices[i]) == 0) {
                *out = i;
                return 0;
            }
        }
    }
    PyObject *list = PyUnicode_FromFormat("'%s'", choices[0]);
    for (int i = 1; choices[i] && list; i++) {
        Py_SETREF(list, PyUnicode_FromFormat("%U%s'%s'", list, choices[i + 1] ? ", " : " or ",
                                             choices[i]));
    }
    if (list) {
        PyErr_Format(PyExc_ValueError, "%s must be %U, not %R", what, list, value);
        Py_DECREF(list);
    }
    return -1;
}

static int
parse_spin(PyObject *value, int64_t *out)
{
    *out = -1;
    if (value == Py_None) {
        return 0;
    }
    double seconds = PyFloat_AsDouble(value);
    if (seconds == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    if (!(seconds >= 0 && seconds <= 1)) {
        PyErr_Format(PyExc_ValueError, "spin must be None or 0 to 1 seconds, not %R", value);
        return -1;
    }
    *out = (int64_t)(seconds * 1e9);
    return 0;
}

static int
parse_create(PyObject *value, int *out)
{
    if (value != Py_None && !PyBool_Check(value)) {
        PyErr_Format(PyExc_TypeError, "create must be True, False or None, not %R", value);
        return -1;
    }
    *out = value == Py_None ? -1 : value == Py_True;
    return 0;
}

const char *const sf_mode_names[] = {"rw", "r", "w", "monitor", NULL};
const char *const sf_start_names[] = {"oldest", "latest", "new", NULL};

static int
parse_group(PyObject *value, char out[SF_MAX_GROUP_NAME + 1])
{
    out[0] = 0;
    if (value == Py_None) {
        return 0;
    }
    Py_ssize_t len = 0;
    const char *text = PyUnicode_Check(value) ? PyUnicode_AsUTF8AndSize(value, &len) : NULL;
    if (!text) {
        if (!PyErr_Occurred()) {
            PyErr_Format(PyExc_TypeError, "group must be a name or None, not %R", value);
        }
        return -1;
    }
    size_t plain =
        strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");
    if (len == 0 || plain != (size_t)len || len > (Py_ssize_t)SF_MAX_GROUP_NAME) {
        PyErr_Format(
            PyExc_ValueError,
            "%R is not the name of a group: use letters, digits, '.', '_' and '-', at most "
            "%u bytes",
            value, SF_MAX_GROUP_NAME);
        return -1;
    }
    memcpy(out, text, (size_t)len + 1);
    return 0;
}

/* How to read, against what this mode can do. */
static int
check_policies(struct sf_state *state, const struct sf_options *o)
{
    const char *what = o->lossless ? "lossless=True" : o->group[0] ? "group" : NULL;
    if (what && (o->mode == SF_MODE_W || o->mode == SF_MODE_MONITOR)) {
        return sf_raise_contradiction(
            state, "%s says how to read; a Topic of mode '%s' %s: open it with 'r' or 'rw'", what,
            sf_mode_names[o->mode],
            o->mode == SF_MODE_W ? "does not read" : "only looks on and can keep nothing");
    }
    if (o->lossless && !o->allow_lossless) {
        return sf_raise_contradiction(state, "lossless=True and allow_lossless=False contradict "
                                             "each other: this Topic would refuse itself");
    }
    return 0;
}

/* Arguments that contradict each other are refused, not ignored. */
static int
check_together(const struct sf_options *o)
{
    bool writes = o->mode == SF_MODE_RW || o->mode == SF_MODE_W;
    if (!writes && (o->create == 1 || o->replace || o->temporary)) {
        PyErr_Format(PyExc_ValueError,
                     "create=True, replace and temporary belong to a writer; mode='%s' never "
                     "makes a topic",
                     sf_mode_names[o->mode]);
        return -1;
    }
    if (o->create == 0 && o->replace) {
        PyErr_SetString(PyExc_ValueError, "create=False and replace=True contradict each other");
        return -1;
    }
    if (o->capacity && o->max_message > o->capacity) {
        PyErr_Format(PyExc_ValueError,
                     "max_message (%llu bytes) is larger than capacity (%llu bytes)",
                     (unsigned long long)o->max_message, (unsigned long long)o->capacity);
        return -1;
    }
    return 0;
}

int
sf_parse_options(struct sf_state *state, PyObject *args, PyObject *kwargs, const char **name,
                 Py_ssize_t *name_len, struct sf_options *o, bool *now)
{
    static char *names[] = {
        "name",           "mode",        "capacity",         "max_message", "depth",   "start",
        "lossless",       "group",       "max_held",         "create",      "replace", "temporary",
        "allow_lossless", "permissions", "max_participants", "spin",        NULL};
    PyObject *called = Py_None;
    PyObject *mode = NULL, *start = NULL, *capacity = Py_None, *max_message = Py_None;
    PyObject *depth = Py_None, *max_held = Py_None, *create = Py_None, *spin = Py_None;
    PyObject *participants = Py_None, *group = Py_None;
    int lossless = 0, replace = 0, temporary = 0, allow_lossless = 1, permissions = 0600;
    memset(o, 0, sizeof *o);
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OO$OOOOpOOOpppiOO:Topic", names, &called,
                                     &mode, &capacity, &max_message, &depth, &start, &lossless,
                                     &group, &max_held, &create, &replace, &temporary,
                                     &allow_lossless, &permissions, &participants, &spin)) {
        return -1;
    }
    if (called != Py_None) {
        if (!PyUnicode_Check(called)) {
            PyErr_Format(PyExc_TypeError, "the name of a topic is a str (or None), not %s",
                         Py_TYPE(called)->tp_name);
            return -1;
        }
        *name = PyUnicode_AsUTF8AndSize(called, name_len);
        if (!*name) {
            return -1;
        }
    }
    int mode_at = SF_MODE_RW, start_at = SF_OLDEST;
    uint64_t slots;
    if ((mode && parse_choice(mode, "mode", sf_mode_names, &mode_at) < 0) ||
        (start && parse_choice(start, "start", sf_start_names, &start_at) < 0) ||
        parse_size(state, capacity, "capacity", &o->capacity) < 0 ||
        parse_size(state, max_message, "max_message", &o->max_message) < 0 ||
        parse_size(state, max_held, "max_held", &o->max_held) < 0 ||
        parse_count(depth, "depth", SF_MAX_DEPTH, &o->depth) < 0 ||
        parse_count(participants, "max_participants", SF_MAX_PARTICIPANTS, &slots) < 0 ||
        parse_group(group, o->group) < 0 || parse_create(create, &o->create) < 0 ||
        parse_spin(spin, &o->spin_ns) < 0) {
        return -1;
    }
    if (permissions < 0 || permissions > 0777 || (permissions & 0600) != 0600) {
        char octal[16]; /* PyErr_Format knows no %o before 3.12 */
        snprintf(octal, sizeof octal, "0o%o", (unsigned)permissions);
        PyErr_Format(PyExc_ValueError,
                     "permissions must be like 0o600, 0o660 or 0o644, the owner reading and "
                     "writing; not %s",
                     octal);
        return -1;
    }
    o->mode = (enum sf_mode)mode_at;
    o->start = (enum sf_start)start_at;
    o->replace = replace;
    o->temporary = temporary || !*name;
    o->allow_lossless = allow_lossless;
    o->lossless = lossless;
    o->permissions = (uint32_t)permissions;
    o->max_participants = slots ? (uint32_t)slots : 128;
    if (!*name && (o->mode == SF_MODE_R || o->mode == SF_MODE_MONITOR)) {
        PyErr_Format(PyExc_ValueError, "a Topic of mode '%s' needs the name of a topic",
                     sf_mode_names[mode_at]);
        return -1;
    }
    bool writes = o->mode == SF_MODE_RW || o->mode == SF_MODE_W;
    *now = writes && o->create != 0 &&
           (o->capacity || o->create == 1 || o->replace || (temporary && o->capacity));
    return check_policies(state, o) < 0 ? -1 : check_together(o);
}
