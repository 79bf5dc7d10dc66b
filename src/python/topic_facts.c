/* What a Topic tells about itself and its peers: properties, stats, participants.
 *
 * Owns:      Stats and Participant; the getters of Topic. (What tools that watch need besides is in
 *            topic_watch.c.)
 * Does not:  change anything: facts come from counters and headers, which disturbs nobody.
 *
 * Invariants
 *   N1  Nothing here takes a slot, a lock or a message. Where this Topic is not attached, facts
 *       come from a monitor that lives for the call.
 * A crash here leaves: nothing.
 */
#include "python/module.h"

#include <string.h>

#define SF_ERRNO_END (-4096) /* statuses above are the kernel's */

static PyStructSequence_Field stats_fields[] = {
    {"written", "messages written through this Topic"},
    {"written_bytes", "bytes of their payloads"},
    {"writer_waits", "writes that had to wait for room"},
    {"read", "messages that were read"},
    {"copied", "messages read that were copied: small, from the lane, over max_held, or asked for"},
    {"pinned", "messages read as views, without a copy"},
    {"lost", "messages evicted before this Topic came to them"},
    {"skipped", "messages passed over by latest=True"},
    {"held_bytes", "bytes of the ring that living arrays of this Topic hold"},
    {"held_blocks", "how many messages those are"},
    {"lag", "messages written that this Topic has yet to read"},
    {NULL, NULL},
};

static PyStructSequence_Desc stats_desc = {
    .name = "shmflow.Stats",
    .doc = "Counters of one Topic object since it was opened, over all generations. Frozen.",
    .fields = stats_fields,
    .n_in_sequence = 11,
};

static PyStructSequence_Field participant_fields[] = {
    {"pid", "process id, as seen in its PID namespace"},
    {"command", "the program, for people: 'cam.py'"},
    {"mode", "what it has done so far: 'r', 'w', 'rw', or '' while it only holds views"},
    {"alive", "whether the kernel still holds its lock"},
    {"attached_ns", "when it attached: ns since 1970"},
    {"lag", "messages it has yet to read; 0 for one that does not read"},
    {"read", "messages that were read"},
    {"lost", "messages evicted before it came to them"},
    {"skipped", "messages passed over by latest=True"},
    {"pinned", "messages it got as views"},
    {"held_bytes", "bytes of the ring that its arrays hold"},
    {"held_blocks", "how many messages those are"},
    {"written", "messages that it wrote"},
    {"written_bytes", "bytes of their payloads"},
    {"writer_waits", "writes that had to wait for room"},
    {"lossless", "whether writers wait for it"},
    {"group", "the group that it reads with; '' for none"},
    {NULL, NULL},
};

static PyStructSequence_Desc participant_desc = {
    .name = "shmflow.Participant",
    .doc = "One Topic attached to a topic, in any process, as participants() tells of it. Frozen.",
    .fields = participant_fields,
    .n_in_sequence = 17,
};

PyTypeObject *
sf_make_stats_type(void)
{
    return PyStructSequence_NewType(&stats_desc);
}

PyTypeObject *
sf_make_participant_type(void)
{
    return PyStructSequence_NewType(&participant_desc);
}

static PyObject *
number(uint64_t value)
{
    return PyLong_FromUnsignedLongLong(value);
}

/* Steals the items; NULL among them gives NULL. */
static PyObject *
make_record(PyTypeObject *type, PyObject **items, Py_ssize_t count)
{
    PyObject *record = PyStructSequence_New(type);
    for (Py_ssize_t i = 0; i < count; i++) {
        if (record && items[i]) {
            PyStructSequence_SetItem(record, i, items[i]);
        }
        else {
            Py_XDECREF(items[i]);
            Py_CLEAR(record);
        }
    }
    return record;
}

struct sf_attachment *
sf_topic_ask(TopicObject *self)
{
    struct sf_attachment *att = NULL;
    if (sf_topic_enter(&self->t) == 0 && self->t.att) {
        sf_attachment_ref(self->t.att);
        return self->t.att;
    }
    /* No path: it was never initialised. */
    int status = self->t.path ? sf_attach(self->t.path, SF_AS_MONITOR, &att) : SF_NOT_FOUND;
    if (status < 0 && status > SF_ERRNO_END) {
        (void)sf_raise(self->state, self, status);
    }
    return status == 0 ? att : NULL;
}

/* Which participants live; -1 with an exception. */
static int
find_living(TopicObject *self, struct sf_attachment *att, uint8_t alive[SF_MAX_PARTICIPANTS])
{
    int status = sf_list_living(att, alive);
    return status < 0 ? sf_raise(self->state, self, status) : 0;
}

static uint64_t
lag_of(const struct sf_attachment *att, uint64_t cursor)
{
    uint64_t head = sf_load_relaxed(&att->ring.header->head); /* told to people */
    return cursor != 0 && head >= cursor ? head - cursor + 1 : 0;
}

/* Of a reader, also one that is between two attachments: in a forked child, or since its generation
 * was removed. May set an exception, as sf_topic_ask. */
static uint64_t
own_lag(TopicObject *self)
{
    struct sf_topic *t = &self->t;
    if (!t->is_reader || (t->att && !t->has_joined)) {
        return 0;
    }
    if (t->att) {
        return lag_of(t->att, sf_load_relaxed(t->att->cursor)); /* told to people */
    }
    struct sf_attachment *att = sf_topic_ask(self);
    if (!att) {
        return 0;
    }
    /* In another generation everything came after us. */
    bool same = memcmp(att->identity, t->last_identity, sizeof att->identity) == 0;
    uint64_t lag = lag_of(att, same ? t->cursor : 1);
    sf_attachment_unref(att);
    return lag;
}

PyObject *
sf_topic_stats_method(PyObject *op, PyObject *Py_UNUSED(unused))
{
    TopicObject *self = (TopicObject *)op;
    struct sf_state *state = sf_state_of(Py_TYPE(op));
    struct sf_totals t;
    int status = sf_topic_enter(&self->t);
    sf_topic_totals(&self->t, &t);
    uint64_t lag = status == 0 ? own_lag(self) : 0;
    if (PyErr_Occurred()) {
        return NULL;
    }
    uint64_t read = self->t.options.mode == SF_MODE_MONITOR ? self->copied : t.read;
    PyObject *items[] = {
        number(t.written),    number(t.written_len), number(t.waits), number(read),
        number(self->copied), number(t.pinned),      number(t.lost),  number(t.skipped),
        number(t.held_len),   number(t.held_blocks), number(lag),
    };
    return make_record(state->stats_type, items, Py_ARRAY_LENGTH(items));
}

/* Text from shared memory: bounded, and only what prints. */
static PyObject *
shown_text(const char *shared, size_t len)
{
    char text[64];
    memcpy(text, shared, len);
    text[len] = 0;
    for (char *c = text; *c; c++) {
        *c = *c < 0x20 || *c > 0x7e ? '?' : *c;
    }
    return PyUnicode_FromString(text);
}

PyObject *
sf_command_text(const struct sf_participant *p)
{
    return shown_text(p->command, sizeof p->command);
}

/* Of its group, if it is in one that has a name. */
static PyObject *
group_text(const struct sf_attachment *att, const struct sf_participant *p)
{
    uint32_t group = sf_load_relaxed(&p->group); /* told to people */
    bool left = sf_load_relaxed(&p->policy) == SF_POLICY_LEFT; /* as above */
    const struct sf_group *g = !left && group - 1 < SF_GROUPS ? &att->ring.groups[group - 1] : NULL;
    /* Acquire: with join's release of the name. */
    return g && sf_load_acquire(&g->used) != 0 ? shown_text(g->name, sizeof g->name)
                                               : PyUnicode_FromString("");
}

static PyObject *
describe_participant(struct sf_state *state, struct sf_attachment *att, struct sf_participant *p,
                     bool alive)
{
    static const char *const modes[] = {"", "r", "w", "rw"};
    /* Relaxed, all of them: told to people, a moment's old values. */
    uint32_t roles = sf_load_relaxed(&p->roles) & 3;
    uint64_t cursor = sf_load_relaxed(&p->cursor), first = sf_load_relaxed(&p->first);
    uint64_t lost = sf_load_relaxed(&p->lost), skipped = sf_load_relaxed(&p->skipped);
    uint64_t passed = cursor - first - lost - skipped;
    uint64_t read = passed < UINT64_MAX / 2 ? passed : 0;
    if (sf_load_relaxed(&p->group) != 0) { /* as above */
        read = sf_load_relaxed(&p->taken);
        cursor = sf_load_relaxed(sf_cursor_of(&att->ring, (uint32_t)(p - att->ring.slots)));
    }
    bool reads = (roles & SF_ROLE_READER) != 0;
    PyObject *items[] = {
        number(p->pid),
        sf_command_text(p),
        PyUnicode_FromString(modes[roles]),
        PyBool_FromLong(alive),
        number(p->attached_ns),
        number(reads ? lag_of(att, cursor) : 0),
        number(reads ? read : 0),
        number(lost),
        number(skipped),
        number(sf_load_relaxed(&p->pinned)), /* relaxed, as above */
        number(sf_load_relaxed(&p->held_len)),
        number(sf_load_relaxed(&p->held_blocks)),
        number(sf_load_relaxed(&p->written)),
        number(sf_load_relaxed(&p->written_len)), /* relaxed, as above */
        number(sf_load_relaxed(&p->waits)),
        PyBool_FromLong(sf_load_relaxed(&p->policy) == SF_POLICY_LOSSLESS), /* as above */
        group_text(att, p),
    };
    return make_record(state->participant_type, items, Py_ARRAY_LENGTH(items));
}

PyObject *
sf_topic_participants_method(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct sf_state *state = sf_state_of(Py_TYPE(op));
    PyObject *list = PyList_New(0);
    struct sf_attachment *att = list ? sf_topic_ask((TopicObject *)op) : NULL;
    if (!att) {
        if (PyErr_Occurred()) {
            Py_CLEAR(list);
        }
        return list;
    }
    uint8_t alive[SF_MAX_PARTICIPANTS];
    if (list && find_living((TopicObject *)op, att, alive) < 0) {
        Py_CLEAR(list);
    }
    for (uint32_t slot = 0; list && slot < att->ring.lay.max_participants; slot++) {
        if (!sf_attachment_is_mine(att)) { /* a collection forked: the child asks for itself */
            sf_attachment_unref(att);
            Py_DECREF(list);
            return sf_topic_participants_method(op, NULL);
        }
        struct sf_participant *p = &att->ring.slots[slot];
        /* Acquire: with settle_in's release of the texts. */
        if (sf_load_acquire(&p->state) != SF_SLOT_TAKEN) {
            continue;
        }
        PyObject *one = describe_participant(state, att, p, alive[slot]);
        if (!one || PyList_Append(list, one) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(one);
    }
    sf_attachment_unref(att);
    return list;
}

static PyObject *
count_role(PyObject *op, uint32_t role)
{
    struct sf_attachment *att = sf_topic_ask((TopicObject *)op);
    long count = 0;
    if (att) {
        uint8_t alive[SF_MAX_PARTICIPANTS];
        if (find_living((TopicObject *)op, att, alive) < 0) {
            sf_attachment_unref(att);
            return NULL;
        }
        for (uint32_t slot = 0; slot < att->ring.lay.max_participants; slot++) {
            /* Relaxed: told to people. */
            uint32_t roles = sf_load_relaxed(&att->ring.slots[slot].roles);
            count += alive[slot] && (roles & role) != 0;
        }
        sf_attachment_unref(att);
    }
    return PyErr_Occurred() ? NULL : PyLong_FromLong(count);
}

/* ---- properties ---- */

static PyObject *
get_name(PyObject *op, void *Py_UNUSED(closure))
{
    const char *name = ((TopicObject *)op)->t.name;
    return PyUnicode_FromString(name ? name : ""); /* NULL: never initialised */
}

static PyObject *
get_mode(PyObject *op, void *Py_UNUSED(closure))
{
    static const char *const modes[] = {"rw", "r", "w", "monitor"};
    return PyUnicode_FromString(modes[((TopicObject *)op)->t.options.mode]);
}

static PyObject *
get_closed(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(sf_load_relaxed(&((TopicObject *)op)->t.closed) != 0); /* the GIL's */
}

static PyObject *
get_generation(PyObject *op, void *Py_UNUSED(closure))
{
    return number(((TopicObject *)op)->t.generation);
}

static PyObject *
get_ended(PyObject *op, void *Py_UNUSED(closure))
{
    struct sf_attachment *att = sf_topic_ask((TopicObject *)op);
    bool ended =
        att && (sf_load_acquire(&att->ring.header->ended) & SF_SHUTDOWN) != 0; /* shutdown */
    if (att) {
        sf_attachment_unref(att);
    }
    return PyErr_Occurred() ? NULL : PyBool_FromLong(ended);
}

enum fact { CAPACITY, DEPTH, MAX_MESSAGE, HEAD, TAIL };

static PyObject *
get_fact(PyObject *op, void *closure)
{
    struct sf_attachment *att = sf_topic_ask((TopicObject *)op);
    uint64_t value = 0;
    if (!att) {
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    }
    switch ((enum fact)(intptr_t)closure) {
    case CAPACITY:
        value = att->ring.lay.capacity;
        break;
    case DEPTH:
        value = att->ring.lay.depth;
        break;
    case MAX_MESSAGE:
        value = att->ring.lay.max_message;
        break;
    case HEAD:
        value = sf_load_seq(&att->ring.header->head); /* B */
        break;
    case TAIL:
        value = sf_load_acquire(&att->ring.header->tail); /* evict's release */
        break;
    }
    sf_attachment_unref(att);
    return number(value);
}

static PyObject *
get_lost(PyObject *op, void *closure)
{
    struct sf_totals t;
    (void)sf_topic_enter(&((TopicObject *)op)->t);
    sf_topic_totals(&((TopicObject *)op)->t, &t);
    return number(closure ? t.skipped : t.lost);
}

static PyObject *
get_writers(PyObject *op, void *Py_UNUSED(closure))
{
    return count_role(op, SF_ROLE_WRITER);
}

static PyObject *
get_readers(PyObject *op, void *Py_UNUSED(closure))
{
    return count_role(op, SF_ROLE_READER);
}

/* name, mode and closed are constant, or one atomic word. */
SF_GUARD_GET(get_ended, op);
SF_GUARD_GET(get_generation, op);
SF_GUARD_GET(get_fact, op);
SF_GUARD_GET(get_lost, op);
SF_GUARD_GET(get_writers, op);
SF_GUARD_GET(get_readers, op);

PyGetSetDef sf_topic_getset[] = {
    {"name", get_name, NULL, PyDoc_STR("The topic's name, as it was given."), NULL},
    {"mode", get_mode, NULL, PyDoc_STR("'rw', 'r', 'w' or 'monitor', as opened."), NULL},
    {"closed", get_closed, NULL, PyDoc_STR("True after close() of this Topic."), NULL},
    {"ended", SF_GUARDED(get_ended), NULL,
     PyDoc_STR("True if a participant has called shutdown()."), NULL},
    {"generation", SF_GUARDED(get_generation), NULL,
     PyDoc_STR("How many generations this Topic has been attached to; 0: none yet."), NULL},
    {"capacity", SF_GUARDED(get_fact), NULL,
     PyDoc_STR("Bytes for messages; None while the topic does not exist."), (void *)CAPACITY},
    {"depth", SF_GUARDED(get_fact), NULL,
     PyDoc_STR("The most messages retained, however small; None while the topic does not exist."),
     (void *)DEPTH},
    {"max_message", SF_GUARDED(get_fact), NULL,
     PyDoc_STR("The largest payload in bytes; None while the topic does not exist."),
     (void *)MAX_MESSAGE},
    {"head", SF_GUARDED(get_fact), NULL,
     PyDoc_STR("Number of the newest message; 0: none; None: no such topic yet."), (void *)HEAD},
    {"tail", SF_GUARDED(get_fact), NULL,
     PyDoc_STR("Number of the oldest message retained; head + 1 when there is none."),
     (void *)TAIL},
    {"lost", SF_GUARDED(get_lost), NULL,
     PyDoc_STR("Messages evicted before this Topic came to them, over all generations."), NULL},
    {"skipped", SF_GUARDED(get_lost), NULL,
     PyDoc_STR("Messages passed over by latest=True, over all generations."), (void *)1},
    {"writers", SF_GUARDED(get_writers), NULL,
     PyDoc_STR("How many living participants have written."), NULL},
    {"readers", SF_GUARDED(get_readers), NULL, PyDoc_STR("How many living participants read."),
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
