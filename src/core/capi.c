/* The public C interface: topic.c and flow.c, with waiting, for programs without Python.
 *
 * Owns:      shmflow_* of shmflow.h; the loops that wait a slice at a time.
 * Does not:  add any behaviour: what it does, Python does by the same calls.
 *
 * Invariants
 *   I1  A read that fails has consumed nothing, but for a message that cannot be: that is passed, or
 *       every later read would fail on it. A write that fails has published nothing.
 *   I2  What shmflow_write lets through every reader understands: dtype, shape, length and meta are
 *       checked against each other before anything is claimed.
 * A crash here leaves: what flow.c says.
 */
#include "core/shmflow.h"

#include "core/topic.h"
#include "core/wire.h"

#include <errno.h>
#include <string.h>

struct shmflow_topic {
    struct sf_topic t;
};

/* What a message needs until it is released: a pinned block, or a copy. */
struct hold {
    struct sf_attachment *att; /* referenced; NULL: a copy */
    uint32_t desc;
    uint64_t shape[SF_MAX_DIMS];
    char bytes[]; /* of a copy: prefix and payload; of all: dtype and meta, a NUL behind each */
};

static uint64_t
until(int64_t timeout_ns)
{
    return timeout_ns < 0 ? UINT64_MAX : os_now_ns() + (uint64_t)timeout_ns;
}

static uint64_t
slice_of(uint64_t until_ns)
{
    uint64_t slice = os_now_ns() + SF_SLICE_NS;
    return slice < until_ns ? slice : until_ns;
}

int
shmflow_open(struct shmflow_topic **topic, const char *name, int writer,
             const struct shmflow_options *options)
{
    struct shmflow_options none = {0};
    const struct shmflow_options *o = options ? options : &none;
    struct sf_options full = {
        .mode = writer ? SF_MODE_RW : SF_MODE_R,
        .start = o->start_new ? SF_NEW : SF_OLDEST,
        .create = -1,
        .allow_lossless = true,
        .capacity = o->capacity,
        .max_message = o->max_message,
        .depth = o->depth,
        .permissions = o->permissions ? o->permissions : 0600,
        .max_participants = 128,
        .spin_ns = -1,
        .lossless = o->lossless != 0,
    };
    if (o->group) {
        size_t len = strlen(o->group);
        if (len == 0 || len > SF_MAX_GROUP_NAME) {
            return SF_BAD_VALUE;
        }
        memcpy(full.group, o->group, len + 1);
    }
    struct shmflow_topic *made = os_alloc(sizeof *made);
    if (!made) {
        return -ENOMEM;
    }
    int status = sf_topic_init(&made->t, name, &full);
    if (status == 0 && (!writer || sf_topic_keeps(&made->t))) {
        status = sf_topic_to_read(&made->t);
        if (status == SF_NOT_FOUND || status == SF_BUSY || (writer && status == SF_MISMATCH)) {
            status = 0; /* the first read waits; the first write makes it */
        }
    }
    if (status < 0) {
        shmflow_close(made);
        return status;
    }
    *topic = made;
    return 0;
}

void
shmflow_close(struct shmflow_topic *topic)
{
    if (topic) {
        sf_topic_fini(&topic->t);
        os_free(topic);
    }
}

/* ---- writing ---- */

static int
open_writer(struct sf_topic *t, uint64_t len)
{
    struct sf_making make;
    for (int round = 0; round < 64; round++) {
        int status = sf_topic_to_write(t, len, &make);
        if (status == SF_RACE) {
            (void)os_sleep_until(os_now_ns() + 1000000);
            continue;
        }
        if (status != SF_NOT_FOUND) {
            return status;
        }
        status = sf_topic_make(t, &make, NULL, NULL);
        if (status < 0 && status != SF_EXISTS) {
            return status;
        }
    }
    return SF_RACE;
}

static int
send(struct sf_attachment *att, const struct sf_out *out, uint64_t until_ns, uint64_t *seq)
{
    uint64_t len = sf_out_block_len(out);
    if (len <= SF_SMALL_LEN) {
        return sf_send_small(att, out, until_ns, seq);
    }
    struct sf_claim claim;
    int status = sf_send_claim(att, len, SF_LANE_IN_TURN, until_ns, &claim);
    if (status < 0) {
        return status;
    }
    sf_copy_in(att, sf_send_payload(att, out, &claim), out->data, out->payload_len);
    status = sf_send_publish(att, out, &claim, until_ns, seq);
    if (status < 0) {
        sf_send_drop(att, &claim);
    }
    return status;
}

/* Does the length follow from shape and dtype, as readers will check it? */
static bool
is_whole(const char *dtype, uint32_t dtype_len, const uint64_t *shape, uint32_t ndim,
         uint64_t payload_len)
{
    uint64_t len;
    if (!sf_dtype_itemsize(dtype, dtype_len, &len)) {
        return false;
    }
    uint64_t nonzero = len ? len : 1;
    for (uint32_t i = 0; i < ndim; i++) {
        uint64_t dim = shape[i];
        /* Also without the zeros: NumPy wants the product of the others to fit as well. */
        if (__builtin_mul_overflow(nonzero, dim ? dim : 1, &nonzero) || nonzero > INT64_MAX) {
            return false;
        }
        len *= dim;
    }
    return len == payload_len;
}

/* What the caller's array means, if it means anything (I2). */
static int
describe_out(const struct shmflow_array *array, struct sf_out *out)
{
    *out = (struct sf_out){
        .data = array->data,
        .payload_len = array->len,
        .shape = array->shape,
        .dtype = array->dtype ? array->dtype : "|u1",
        .meta = array->meta,
        .ndim = array->ndim,
        .meta_len = array->meta_len,
        .fortran = array->fortran != 0,
    };
    if (!array->dtype && array->ndim == 0 && !array->shape) {
        out->ndim = 1;
        out->shape = &array->len;
    }
    size_t dtype_len = array->dtype && array->dtype_len ? array->dtype_len : strlen(out->dtype);
    bool described = out->ndim <= SF_MAX_DIMS && dtype_len <= SF_MAX_DTYPE &&
                     (out->shape || out->ndim == 0) && (array->dtype || array->dtype_len == 0) &&
                     (out->data || out->payload_len == 0);
    bool has_meta = out->meta || out->meta_len != 0;
    if (!described || (has_meta && (!out->meta || out->meta_len > SF_MAX_META))) {
        return SF_BAD_VALUE;
    }
    out->dtype_len = (uint32_t)dtype_len;
    return is_whole(out->dtype, out->dtype_len, out->shape, out->ndim, out->payload_len) &&
                   (!has_meta || sf_is_json_object(out->meta, out->meta_len))
               ? 0
               : SF_BAD_VALUE;
}

int
shmflow_write(struct shmflow_topic *topic, const struct shmflow_array *array, int64_t timeout_ns,
              uint64_t *seq)
{
    struct sf_topic *t = &topic->t;
    uint64_t until_ns = until(timeout_ns), number = 0;
    struct sf_out out;
    int refused = describe_out(array, &out);
    if (refused < 0) {
        return refused;
    }
    if (t->options.mode == SF_MODE_R) {
        return SF_WRONG_MODE; /* its attachment has no writable arena */
    }
    for (;;) {
        int status = sf_topic_enter(t);
        if (status == 0) {
            status = open_writer(t, out.payload_len);
        }
        if (status == 0 && out.payload_len > t->att->ring.lay.max_message) {
            status = SF_TOO_LARGE;
        }
        if (status < 0) {
            return status;
        }
        status = send(t->att, &out, slice_of(until_ns), &number);
        if ((status == SF_BUSY || status == SF_NO_ROOM || status == SF_LAGGING) &&
            os_now_ns() < until_ns) {
            continue;
        }
        if (status == SF_GONE) {
            continue; /* to_write finds the next generation, or makes it */
        }
        if (status < 0) {
            sf_leave_queue(t->att);
        }
        else if (seq) {
            *seq = number;
        }
        return status;
    }
}

int
shmflow_shutdown(struct shmflow_topic *topic, int64_t timeout_ns)
{
    int status = sf_topic_enter(&topic->t);
    if (status == 0 && topic->t.options.mode == SF_MODE_R) {
        status = SF_WRONG_MODE;
    }
    if (status == 0 && !topic->t.att) {
        status = SF_NOT_FOUND;
    }
    return status < 0 ? status : sf_shutdown(topic->t.att, until(timeout_ns));
}

int
shmflow_unlink(const char *name)
{
    char path[4096];
    int status = sf_segment_path(name, path, sizeof path);
    return status < 0 ? status : sf_segment_remove(path, NULL, SF_ALWAYS);
}

const char *
shmflow_strstatus(int status)
{
    return sf_status_text(status);
}

/* ---- reading ---- */

/* Describes the message out of its prefix (private or pinned) and its descriptor. `texts` gets dtype
 * and meta. */
static void
describe(const struct sf_message *m, const char *prefix, char *texts, struct hold *hold,
         struct shmflow_message *out)
{
    struct shmflow_array *a = &out->array;
    bool long_shape = m->ndim > SF_INLINE_DIMS;
    memcpy(hold->shape, long_shape ? (const void *)prefix : (const void *)m->shape,
           (size_t)m->ndim * 8);
    prefix += long_shape ? (size_t)m->ndim * 8 : 0;
    bool long_dtype = m->dtype_len > SF_INLINE_DTYPE;
    a->shape = hold->shape;
    a->ndim = m->ndim;
    a->fortran = m->fortran;
    a->dtype = texts;
    a->dtype_len = m->dtype_len;
    memcpy(texts, long_dtype ? prefix : (const char *)m->dtype, m->dtype_len);
    texts[m->dtype_len] = 0;
    texts += m->dtype_len + 1;
    prefix += long_dtype ? m->dtype_len : 0;
    a->meta = m->meta_len ? texts : NULL;
    a->meta_len = m->meta_len;
    memcpy(texts, prefix, m->meta_len);
    texts[m->meta_len] = 0;
    a->len = m->payload_len;
    out->seq = m->seq;
    out->timestamp_ns = m->stamp_ns;
    out->lost = m->lost;
    out->writer_pid = m->writer_pid;
    out->hold = hold;
}

/* 1 taken, 0 try again, or a status. */
static int
take(struct sf_attachment *att, struct shmflow_message *out, uint64_t *wait_for)
{
    struct sf_message m;
    m.seq = m.writer_pid = 0;
    uint64_t from;
    int status = sf_take_look(att, false, &from, &m);
    *wait_for = m.seq;
    if (status == SF_BAD_MESSAGE) {
        (void)sf_take_commit(att, from, &m); /* I1 */
    }
    out->hold = NULL;
    out->seq = m.seq; /* told of one that cannot be taken as well */
    out->writer_pid = m.writer_pid;
    if (status < 0) {
        return status;
    }
    bool pinned = m.pinnable && sf_pin(att, &m, false) == SF_PIN_OK;
    uint64_t copy_len = pinned ? 0 : m.prefix_len + m.payload_len;
    struct hold *hold = os_alloc_raw(sizeof *hold + copy_len + m.dtype_len + m.meta_len + 2);
    if (!hold) {
        if (pinned) {
            sf_unpin(att, m.desc);
        }
        return -ENOMEM;
    }
    const char *prefix = sf_message_prefix(att, &m);
    out->array.data = sf_message_payload(att, &m);
    if (!pinned) {
        memcpy(hold->bytes, prefix, copy_len);
        prefix = hold->bytes;
        out->array.data = hold->bytes + m.prefix_len;
    }
    hold->att = pinned ? att : NULL;
    hold->desc = m.desc;
    bool still = (pinned || sf_is_current(&att->ring, &m)) && sf_take_commit(att, from, &m);
    if (pinned) {
        sf_attachment_ref(att);
    }
    describe(&m, prefix, hold->bytes + copy_len, hold, out);
    const struct shmflow_array *a = &out->array;
    bool whole = is_whole(a->dtype, a->dtype_len, a->shape, a->ndim, a->len);
    if (!still || !whole) {
        shmflow_release(out);
    }
    if (!still) {
        sf_take_raced(att, &m);
    }
    return !still ? 0 : whole ? 1 : SF_BAD_MESSAGE;
}

static int
nap(struct sf_topic *t, uint64_t until_ns)
{
    uint64_t next = os_now_ns() + 5000000;
    if (os_now_ns() >= until_ns) {
        return SF_EMPTY;
    }
    int status = os_sleep_until(next < until_ns ? next : until_ns);
    return status == -EINTR ? SF_INTERRUPTED : sf_topic_enter(t);
}

/* A lossless reader, or a member of a group, needs the writer lock to join. */
static int
wait_to_join(struct sf_topic *t, uint64_t until_ns)
{
    struct sf_joining how;
    sf_topic_joining(t, &how);
    int status = sf_join(t->att, &how, slice_of(until_ns));
    if (status == 0) {
        sf_topic_has_joined(t);
    }
    if (status == SF_GONE) {
        sf_topic_leave(t); /* who holds the lock is dead, and cannot be asked any more: follow */
    }
    return status == SF_GONE || (status == SF_BUSY && os_now_ns() < until_ns) ? 0 : status;
}

int
shmflow_read(struct shmflow_topic *topic, struct shmflow_message *message, int64_t timeout_ns)
{
    struct sf_topic *t = &topic->t;
    uint64_t until_ns = until(timeout_ns), wait_for = 0, racing_since = 0;
    int status = sf_topic_enter(t);
    while (status == 0) {
        status = sf_topic_to_read(t);
        if (status == SF_NOT_FOUND) {
            status = nap(t, until_ns);
            continue;
        }
        if (status == SF_BUSY) {
            status = wait_to_join(t, until_ns);
            continue;
        }
        if (status < 0) {
            break;
        }
        status = take(t->att, message, &wait_for);
        if (status == 1) {
            return 0;
        }
        if (status == 0 && sf_take_is_hopeless(&racing_since) && os_now_ns() >= until_ns) {
            status = SF_EMPTY; /* J7 of take.c */
        }
        else if (status == SF_EMPTY) {
            if (os_now_ns() >= until_ns) {
                break; /* looked at before each wait: bells may ring for others again and again */
            }
            status = sf_wait_message(t->att, wait_for, until_ns, t->options.spin_ns, NULL);
            status = status == SF_EMPTY ? 0 : status;
        }
        else if (status == SF_GONE || (status == SF_ENDED && sf_topic_has_moved(t))) {
            sf_topic_leave(t);
            status = 0;
        }
    }
    return status;
}

void
shmflow_release(struct shmflow_message *message)
{
    struct hold *hold = message->hold;
    message->hold = NULL;
    if (!hold) {
        return;
    }
    if (hold->att) {
        if (sf_attachment_is_mine(hold->att)) {
            sf_unpin(hold->att, hold->desc);
        }
        sf_attachment_unref(hold->att);
    }
    os_free(hold);
}
