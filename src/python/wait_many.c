/* shmflow.wait: which of several Topics have something to read; one sleep for all of them.
 *
 * Owns:      the function of the module, its arguments, its loop of looks and slices.
 * Does not:  read, consume or sleep by itself (core/flow.c looks, core/wait.c sleeps).
 *
 * Invariants
 *   N1  A Topic is told as ready when read(timeout=0) would give a message or raise; nothing is
 *       consumed by looking.
 *   N2  Python code runs (signals, warnings, texts) only while no attachment is borrowed: it may
 *       close any of the Topics. The sleep holds references, and no GIL.
 * A crash here leaves: what core/wait.c says.
 */
#include "python/module.h"

const char sf_wait_doc[] = PyDoc_STR(
    "wait($module, /, topics, timeout=None)\n--\n\n"
    "Those of topics that have something unread, as a list in the order given.\n"
    "\n"
    "    for topic in shmflow.wait([left, right, commands], timeout=1):\n"
    "        message = topic.read_message(timeout=0)\n"
    "\n"
    "topics: up to 128 Topics that may read, of any mode but 'w', in any iterable.\n"
    "Something unread is a message, or the end of the stream: read(timeout=0) would give\n"
    "the one or raise Closed for the other. Nothing is consumed; where threads or a group\n"
    "share what comes, another may be quicker, so read with a timeout of 0.\n"
    "\n"
    "Blocks without the GIL until there is one, for at most timeout seconds (None: for\n"
    "ever, 0: not at all), then returns []; Ctrl-C ends it. Topics that do not exist yet\n"
    "are waited for, and those that were made anew are followed, as by read(). All sleep\n"
    "in one system call; for monitors, for topics that do not exist yet and before Linux\n"
    "5.16 it looks every 2 ms instead.\n"
    "Raises TypeError for what is no Topic, ValueError for more than 128, a bad timeout, or\n"
    "none of both, WrongMode for mode 'w', Closed when one is closed (also meanwhile, by\n"
    "another thread), and what attaching to a topic raises.");

/* Not on the stack: code that runs inside may call wait itself, as deep as Python lets it. */
struct waiting {
    TopicObject *topics[SF_WAITED_MAX]; /* borrowed from the tuple */
    struct sf_waited waited[SF_WAITED_MAX];
    bool ready[SF_WAITED_MAX];
    unsigned count;
};

/* ---- arguments ---- */

static PyObject *
parse_topics(struct sf_state *state, PyObject *value)
{
    if (Py_IS_TYPE(value, state->topic_type)) {
        PyErr_SetString(PyExc_TypeError,
                        "wait() takes several Topics, as in wait([left, right]); for one alone its "
                        "read() waits");
        return NULL;
    }
    if (!Py_TYPE(value)->tp_iter && !PySequence_Check(value)) {
        PyErr_Format(PyExc_TypeError,
                     "wait() takes Topics in a list or another iterable, not %.100s",
                     Py_TYPE(value)->tp_name);
        return NULL;
    }
    PyObject *topics = PySequence_Tuple(value);
    Py_ssize_t count = topics ? PyTuple_GET_SIZE(topics) : 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *item = PyTuple_GET_ITEM(topics, i);
        if (!Py_IS_TYPE(item, state->topic_type)) {
            PyErr_Format(PyExc_TypeError, "wait() takes Topics; item %zd is %.100s", i,
                         Py_TYPE(item)->tp_name);
            Py_CLEAR(topics);
            return NULL;
        }
    }
    if (count > SF_WAITED_MAX) {
        PyErr_Format(PyExc_ValueError,
                     "wait() takes at most %u Topics, not %zd; wait for parts of them, each in a "
                     "thread",
                     SF_WAITED_MAX, count);
        Py_CLEAR(topics);
    }
    return topics;
}

static int
check_modes(struct sf_state *state, const struct waiting *w)
{
    for (unsigned i = 0; i < w->count; i++) {
        if (w->topics[i]->t.options.mode == SF_MODE_W) {
            return sf_raise_wrong_mode(state, w->topics[i], "wait");
        }
    }
    return 0;
}

/* ---- looking ---- */

/* Once more for who could not join at once: a try alone never finds out that the lock's holder is
 * dead, or that the topic has gone (lock.c, K4). Its patience is over from the start. */
static int
join_or_probe(struct sf_topic *t)
{
    struct sf_joining how;
    sf_topic_joining(t, &how);
    int status = sf_join(t->att, &how, 1);
    if (status == 0) {
        sf_topic_has_joined(t);
    }
    else if (status == SF_GONE) {
        sf_topic_leave(t); /* as a read would */
    }
    return status;
}

/* 1 there is something, 0 nothing: *one says what to wait for, and has a reference to the attachment
 * (let_go); -1 an exception. */
static int
look_at(struct sf_state *state, TopicObject *self, struct sf_waited *one)
{
    struct sf_topic *t = &self->t;
    struct sf_message m;
    uint64_t from;
    for (;;) {
        int status = sf_topic_enter(t); /* a warning's code may have closed it (N2) */
        if (status == 0 && !(t->att && t->has_joined)) {
            status = sf_topic_to_read(t);
            status = status == SF_BUSY ? join_or_probe(t) : status;
        }
        *one = (struct sf_waited){.path = t->path, .closed = &t->closed};
        if (status == SF_NOT_FOUND || status == SF_BUSY || status == SF_GONE) {
            return 0; /* the last two: it has yet to join */
        }
        if (status < 0) {
            return sf_raise(state, self, status);
        }
        m.seq = 0;
        status = sf_take_look(t->att, false, &from, &m);
        if (status == SF_EMPTY) {
            sf_attachment_ref(t->att);
            one->att = t->att;
            one->seq = m.seq;
            return 0;
        }
        if (status != SF_GONE && !(status == SF_ENDED && sf_topic_has_moved(t))) {
            return 1;
        }
        sf_topic_leave(t); /* drained: follow the name, as a read would */
    }
}

/* How many are ready; -1 an exception. */
static int
look_at_all(struct sf_state *state, struct waiting *w)
{
    int found = 0;
    for (unsigned i = 0; i < w->count; i++) {
        if (sf_begin(state, w->topics[i]) < 0) {
            return -1;
        }
    }
    for (unsigned i = 0; i < w->count; i++) {
        int status;
        SF_ENTER((PyObject *)w->topics[i]);
        status = look_at(state, w->topics[i], &w->waited[i]);
        SF_LEAVE();
        if (status < 0) {
            return -1;
        }
        w->ready[i] = status == 1;
        found += status;
    }
    return found;
}

static PyObject *
list_ready(const struct waiting *w, int found)
{
    PyObject *list = PyList_New(found);
    Py_ssize_t at = 0;
    for (unsigned i = 0; list && i < w->count && found > 0; i++) {
        if (w->ready[i]) {
            PyList_SET_ITEM(list, at++, Py_NewRef((PyObject *)w->topics[i]));
        }
    }
    return list;
}

/* ---- waiting ---- */

/* At most; whatever the answer is, all are looked at again. */
static void
sleep_a_slice(const struct waiting *w, uint64_t until_ns)
{
    (void)sf_wait_any(w->waited, w->count, until_ns);
}

static int
sleep_for_all(struct waiting *w, uint64_t until_ns)
{
    Py_BEGIN_ALLOW_THREADS
    sleep_a_slice(w, until_ns);
    Py_END_ALLOW_THREADS
    return PyErr_CheckSignals();
}

static void
let_go(struct waiting *w)
{
    for (unsigned i = 0; i < w->count; i++) {
        if (w->waited[i].att) {
            sf_attachment_unref(w->waited[i].att);
            w->waited[i].att = NULL;
        }
    }
}

static int
warn_of_absent(struct sf_state *state, const struct waiting *w, uint64_t since_ns)
{
    for (unsigned i = 0; i < w->count; i++) {
        if (!w->waited[i].att && sf_warn_of_absent(state, w->topics[i], since_ns) < 0) {
            return -1;
        }
    }
    return 0;
}

static PyObject *
wait_for_any(struct sf_state *state, struct waiting *w, uint64_t until_ns)
{
    uint64_t since_ns = os_now_ns();
    for (;;) {
        int found = look_at_all(state, w);
        bool over = found != 0 || (until_ns != UINT64_MAX && os_now_ns() >= until_ns);
        if (!over && (sleep_for_all(w, until_ns) < 0 || warn_of_absent(state, w, since_ns) < 0)) {
            found = -1;
        }
        let_go(w);
        if (over || found < 0) {
            return found < 0 ? NULL : list_ready(w, found);
        }
    }
}

/* Apart: what the iterable's code nests in itself is as little stack as can be. */
static SF_APART PyObject *
wait_for_topics(struct sf_state *state, PyObject *topics, uint64_t until_ns)
{
    struct waiting *w =
        PyMem_Calloc(1, sizeof *w); /* zeros: let_go may come before the first look */
    if (!w) {
        return PyErr_NoMemory();
    }
    w->count = (unsigned)PyTuple_GET_SIZE(topics);
    for (unsigned i = 0; i < w->count; i++) {
        w->topics[i] = (TopicObject *)PyTuple_GET_ITEM(topics, i);
    }
    PyObject *result = NULL;
    if (w->count == 0 && until_ns == UINT64_MAX) {
        PyErr_SetString(PyExc_ValueError, "wait() without a Topic and without a timeout would "
                                          "never return; give it either");
    }
    else if (check_modes(state, w) == 0) {
        result = wait_for_any(state, w, until_ns);
    }
    PyMem_Free(w);
    return result;
}

PyObject *
sf_wait_function(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"topics", "timeout"};
    struct sf_state *state = sf_state_of_module(module);
    PyObject *given[2];
    struct sf_deadline deadline;
    if (sf_parse_call("wait", args, nargs, kwnames, names, 2, 2, 1, given) < 0 ||
        sf_parse_timeout(given[1], &deadline) < 0) {
        return NULL;
    }
    PyObject *topics = parse_topics(state, given[0]);
    PyObject *result = topics ? wait_for_topics(state, topics, deadline.until_ns) : NULL;
    Py_XDECREF(topics);
    return result;
}
