/* Arguments: what callers may pass, turned into C values, or refused before anything happens.
 *
 * Owns:      the fast-call splitter; timeouts, stamps, flags.
 * Does not:  know any method by name, except to say it in a TypeError.
 *
 * Invariants
 *   B1  Nothing here changes a topic: a refused argument loses nothing.
 * A crash here leaves: nothing.
 */
#include "python/module.h"

#include <math.h>
#include <string.h>

#define SF_DAY_NS UINT64_C(86400000000000)

/* Keywords are ASCII, compact and mostly unlike at their first letter. */
static bool
is_called(PyObject *key, const char *name)
{
    if (!PyUnicode_IS_COMPACT_ASCII(key)) {
        return false;
    }
    const char *text = (const char *)PyUnicode_1BYTE_DATA(key); /* ends with a 0 */
    const char *end = text + PyUnicode_GET_LENGTH(key);         /* and may have others before */
    while (*text == *name && *text) {
        text++;
        name++;
    }
    return text == end && !*name;
}

static int
find_name(PyObject *key, const char *const *names, int count)
{
    for (int i = 0; i < count; i++) {
        if (names[i][0] && is_called(key, names[i])) {
            return i;
        }
    }
    return -1;
}

int
sf_parse_call(const char *call, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
              const char *const *names, int count, int positional, int required, PyObject **out)
{
    memset(out, 0, (size_t)count * sizeof *out);
    if (nargs > positional) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %d positional argument%s (%zd given)",
                     call, positional, positional == 1 ? "" : "s", nargs);
        return -1;
    }
    for (Py_ssize_t i = 0; i < nargs; i++) {
        out[i] = args[i];
    }
    Py_ssize_t nkw = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
    for (Py_ssize_t i = 0; i < nkw; i++) {
        PyObject *key = PyTuple_GET_ITEM(kwnames, i);
        int at = find_name(key, names, count);
        if (at < 0) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument %R", call, key);
            return -1;
        }
        if (out[at]) {
            PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument %R", call, key);
            return -1;
        }
        out[at] = args[nargs + i];
    }
    for (int i = 0; i < required; i++) {
        if (!out[i]) {
            PyErr_Format(PyExc_TypeError, "%s() missing required argument: '%s'", call,
                         names[i][0] ? names[i] : "data");
            return -1;
        }
    }
    return 0;
}

int
sf_parse_timeout_later(PyObject *value, struct sf_deadline *out)
{
    out->until_ns = UINT64_MAX;
    out->seconds = INFINITY;
    if (!value || value == Py_None) {
        return 0;
    }
    double seconds = PyFloat_AsDouble(value);
    if (seconds == -1.0 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Format(PyExc_TypeError,
                         "timeout must be a number of seconds or None (for ever), not %.100s",
                         Py_TYPE(value)->tp_name);
        }
        return -1;
    }
    if (isnan(seconds) || seconds < 0) {
        PyErr_Format(PyExc_ValueError,
                     "timeout must be 0 or more seconds, or None for ever, not %R", value);
        return -1;
    }
    out->seconds = seconds;
    if (seconds < 1e9) { /* beyond 30 years it is for ever */
        out->until_ns = seconds > 0 ? SF_NOT_STARTED : SF_OVER;
    }
    return 0;
}

void
sf_start(struct sf_deadline *deadline)
{
    if (deadline->until_ns == SF_NOT_STARTED) {
        deadline->until_ns = os_now_ns() + (uint64_t)(deadline->seconds * 1e9);
    }
}

int
sf_parse_timeout(PyObject *value, struct sf_deadline *out)
{
    int status = sf_parse_timeout_later(value, out);
    sf_start(out);
    return status;
}

int
sf_parse_stamp(PyObject *value, uint64_t *out, bool *given)
{
    *out = 0;
    *given = value && value != Py_None;
    if (!*given) {
        return 0;
    }
    long long stamp = PyLong_AsLongLong(value);
    if (stamp == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (stamp < 0) {
        PyErr_Format(PyExc_ValueError,
                     "timestamp_ns must be 0 or more nanoseconds since 1970 (time.time_ns()), or "
                     "None for the time of the write, not %R",
                     value);
        return -1;
    }
    *out = (uint64_t)stamp;
    return 0;
}

int
sf_warn_of_stamp(TopicObject *topic, uint64_t stamp_ns)
{
    uint64_t now = os_realtime_ns();
    uint64_t days = (now > stamp_ns ? now - stamp_ns : stamp_ns - now) / SF_DAY_NS;
    if (days == 0 || topic->warned_stamp) {
        return 0;
    }
    topic->warned_stamp = true;
    return PyErr_WarnFormat(
        PyExc_RuntimeWarning, 1,
        "timestamp_ns=%llu of topic '%s' is %llu days %s this machine's clock; it travels as it "
        "is, "
        "but stamps are nanoseconds since 1970 (time.time_ns(), not time.monotonic_ns()), and ages "
        "are told from them; told once per Topic",
        (unsigned long long)stamp_ns, topic->t.name, (unsigned long long)days,
        now > stamp_ns ? "before" : "after");
}

int
sf_parse_flag(PyObject *value, bool *out)
{
    int truth = value ? PyObject_IsTrue(value) : 0;
    *out = truth > 0;
    return truth < 0 ? -1 : 0;
}
