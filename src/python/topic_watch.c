/* What the tools that watch a topic are told beyond what a Topic tells its user.
 *
 * Owns:      _last, _lock_holder, _layout, _blocks: facts that have no promise of their own.
 * Does not:  change anything, as topic_facts.c; put into words (shmflow/_texts.py, shmflow/cli).
 *
 * Invariants
 *   O1  Nothing here takes a slot, a lock or a message, or stores into the segment.
 *   O2  A block is told from relaxed loads that a writer may overtake: what is told of it may be of
 *       two messages. Every number is bounded before it is used, none is used to reach memory
 *       other than this process's tables and the participants' slots.
 * A crash here leaves: nothing.
 */
#include "python/module.h"

/* The newest message: its number, stamp, its writer's pid and command. It may be a later one than
 * the head that a caller has loaded: the number is to be taken from here. */
PyObject *
sf_topic_last_method(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct sf_attachment *att = sf_topic_ask((TopicObject *)op);
    PyObject *result = NULL;
    struct sf_message m;
    if (!att) {
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    }
    uint64_t head = sf_load_seq(&att->ring.header->head); /* B */
    if (head > 0 && sf_look(&att->ring, head, &m) == 0) {
        PyObject *command = NULL;
        for (uint32_t slot = 0; slot < att->ring.lay.max_participants && !command; slot++) {
            if (att->ring.slots[slot].pid == m.writer_pid) {
                command = sf_command_text(&att->ring.slots[slot]);
            }
        }
        result = Py_BuildValue("KKIN", (unsigned long long)m.seq, (unsigned long long)m.stamp_ns,
                               m.writer_pid, command ? command : PyUnicode_FromString(""));
    }
    sf_attachment_unref(att);
    return result || PyErr_Occurred() ? result : Py_NewRef(Py_None);
}

PyObject *
sf_topic_lock_holder_method(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct sf_attachment *att = sf_topic_ask((TopicObject *)op);
    PyObject *result = NULL;
    if (!att) {
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    }
    uint32_t slot = sf_owner_slot(sf_load_relaxed(&att->ring.header->lock)); /* told to people */
    if (slot < att->ring.lay.max_participants) {
        struct sf_participant *p = &att->ring.slots[slot];
        /* The errno: why this Topic could not look whether it lives, or 0; told to people. */
        result = Py_BuildValue("INI", p->pid, sf_command_text(p), sf_load_relaxed(&att->blind));
    }
    sf_attachment_unref(att);
    return result || PyErr_Occurred() ? result : Py_NewRef(Py_None);
}

/* Constants that no property tells, and how often the tables were mended; None if there is no topic. */
PyObject *
sf_topic_layout_method(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct sf_attachment *att = sf_topic_ask((TopicObject *)op);
    if (!att) {
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    }
    const struct sf_layout *l = &att->ring.lay;
    PyObject *result = Py_BuildValue(
        "{sK sK sK sI sK sK sO sO sI sI}", "asked_depth", (unsigned long long)l->asked_depth,
        "file_len", (unsigned long long)l->file_len, "lane", (unsigned long long)l->lane_len,
        "max_participants", l->max_participants, "threshold", (unsigned long long)l->threshold,
        "created_ns", (unsigned long long)att->ring.header->created_ns, "temporary",
        (l->flags & SF_TEMPORARY) != 0 ? Py_True : Py_False, "allow_lossless",
        (l->flags & SF_NO_LOSSLESS) != 0 ? Py_False : Py_True, "format", SF_FORMAT_VERSION,
        "rebuilds", sf_load_relaxed(&att->ring.header->rebuilds)); /* told to people */
    sf_attachment_unref(att);
    return result;
}

/* ---- the ring, block by block ---- */

/* The pids of those whose views hold the block. */
static PyObject *
holders_of(const struct sf_ring *ring, uint32_t desc)
{
    uint32_t found[SF_MAX_PARTICIPANTS], count = 0;
    for (uint32_t first = 0; first < ring->lay.max_participants; first += 64) {
        /* Relaxed: told to people (O2). */
        uint64_t bits = sf_load_relaxed(sf_holders_word(ring, desc, first));
        for (; bits != 0; bits &= bits - 1) {
            uint32_t slot = first + (uint32_t)__builtin_ctzll(bits);
            if (slot >= ring->lay.max_participants) {
                break;
            }
            found[count++] = ring->slots[slot].pid;
        }
    }
    PyObject *pids = PyList_New(0); /* a collection may fork: after all was looked at */
    for (uint32_t i = 0; pids && i < count; i++) {
        PyObject *pid = PyLong_FromUnsignedLong(found[i]);
        if (!pid || PyList_Append(pids, pid) < 0) {
            Py_CLEAR(pids);
        }
        Py_XDECREF(pid);
    }
    return pids;
}

/* Whose claim it is: a pid, or 0. */
static uint32_t
claimer_of(const struct sf_ring *ring, const struct sf_desc *d)
{
    uint32_t slot = sf_owner_slot(sf_load_relaxed(&d->owner)); /* O2 */
    return slot < ring->lay.max_participants ? ring->slots[slot].pid : 0;
}

static PyObject *
describe_block(const struct sf_ring *ring, uint32_t desc)
{
    const struct sf_desc *d = &ring->descs[desc];
    uint64_t seq = sf_load_relaxed(&d->seq); /* O2, and all below */
    uint64_t off = sf_load_relaxed(&d->off), len = sf_load_relaxed(&d->len);
    uint64_t stamp = sf_load_relaxed(&d->stamp_ns), payload = sf_load_relaxed(&d->payload_len);
    uint32_t pid = seq != 0 ? sf_load_relaxed(&d->writer_pid) : claimer_of(ring, d); /* O2 */
    PyObject *pids = holders_of(ring, desc);
    return pids ? Py_BuildValue("KKKKKIN", (unsigned long long)off, (unsigned long long)len,
                                (unsigned long long)seq, (unsigned long long)stamp,
                                (unsigned long long)payload, pid, pids)
                : NULL;
}

/* Is it one that is told of whatever the limit: not simply a message among many? */
static bool
stands_out(const struct sf_ring *ring, uint32_t desc)
{
    return sf_load_relaxed(&ring->descs[desc].seq) == 0 || sf_is_held(ring, desc); /* O2 */
}

/* _blocks(limit): (capacity, lane bytes, blocks in all, [(offset, bytes, seq or 0, stamp_ns, payload
 * bytes, pid of writer, [pids of holders]), ...]). seq 0: being written by that pid, or, with
 * holders, a message that is gone from the ring and still looked at. Offsets from the capacity
 * on are in the lane. Of more blocks than the limit: all that are held or not messages, up to
 * as many again, and evenly spread ones of the others. None if there is no topic. */
PyObject *
sf_topic_blocks_method(PyObject *op, PyObject *arg)
{
    long limit = PyLong_AsLong(arg);
    if (limit < 1) {
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "a limit of %ld", limit);
    }
    struct sf_attachment *att = sf_topic_ask((TopicObject *)op);
    if (!att) {
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    }
    PyObject *list = PyList_New(0);
    if (!list || !sf_attachment_is_mine(att)) { /* a collection forked: the child asks for itself */
        sf_attachment_unref(att);
        Py_XDECREF(list);
        return list ? sf_topic_blocks_method(op, arg) : NULL;
    }
    const struct sf_ring *ring = &att->ring;
    uint32_t count = 0;
    for (uint32_t desc = 0; desc < ring->lay.desc_len; desc++) {
        count += sf_load_relaxed(&ring->descs[desc].len) != 0; /* O2 */
    }
    uint32_t each = (uint32_t)(count / (unsigned long)limit) + 1, passed = 0;
    Py_ssize_t special = 0;
    for (uint32_t desc = 0; list && desc < ring->lay.desc_len; desc++) {
        if (!sf_attachment_is_mine(att)) { /* as above */
            sf_attachment_unref(att);
            Py_DECREF(list);
            return sf_topic_blocks_method(op, arg);
        }
        if (sf_load_relaxed(&ring->descs[desc].len) == 0) { /* O2 */
            continue;
        }
        bool is_special = each > 1 && special < limit && stands_out(ring, desc);
        special += is_special;
        if (!is_special && passed++ % each != 0) {
            continue;
        }
        PyObject *one = describe_block(ring, desc);
        if (!one || PyList_Append(list, one) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(one);
    }
    PyObject *result = list ? Py_BuildValue("KKIO", (unsigned long long)ring->lay.capacity,
                                            (unsigned long long)ring->lay.lane_len, count, list)
                            : NULL;
    Py_XDECREF(list);
    sf_attachment_unref(att);
    return result;
}
