/* read_many(stack=True): messages that are alike, as one array.
 *
 * Owns:      what "alike" means; the copy of many messages into one array.
 * Does not:  wait (topic_read.c).
 *
 * Invariants
 *   K1  The one that differs is not taken: it begins the next call's array.
 *   K2  A message is consumed when its bytes are complete in the array, one by one; a failure
 *       before the first has consumed nothing, but for Q1 of topic_read.c.
 * A crash here leaves: a pin of a dead participant.
 */
#include "python/module.h"

#include <string.h>

#define SF_RELEASE_LEN (64u * 1024u) /* copies from here on let go of the GIL */

/* What all of them have in common. */
struct kind {
    struct sf_message first;
    char *prefix; /* private: long shapes and dtypes of the first; its meta too, which may differ */
    size_t common; /* bytes of it that must be the same */
};

static bool
is_alike(struct sf_attachment *att, const struct kind *kind, const struct sf_message *m)
{
    const struct sf_message *f = &kind->first;
    return m->ndim == f->ndim && m->dtype_len == f->dtype_len && m->fortran == f->fortran &&
           m->payload_len == f->payload_len && memcmp(m->dtype, f->dtype, sizeof m->dtype) == 0 &&
           (m->ndim > SF_INLINE_DIMS || memcmp(m->shape, f->shape, (size_t)m->ndim * 8) == 0) &&
           (kind->common == 0 ||
            memcmp(sf_message_prefix(att, m), kind->prefix, kind->common) == 0);
}

/* 1, 0 another was quicker or it was evicted meanwhile. The block is held while a large one is copied,
 * so that no writer can make it start over. */
static int
copy_one(struct sf_attachment *att, uint64_t from, const struct sf_message *m, char *to)
{
    bool pinned = m->pinnable && !att->monitor;
    if (pinned && sf_pin(att, m, true) != SF_PIN_OK) {
        return 0;
    }
    bool first = pinned && att->group != 0; /* one member copies, not all */
    bool taken = !first || sf_take_commit(att, from, m);
    if (taken) {
        const char *at = sf_message_payload(att, m);
        if (m->payload_len < SF_RELEASE_LEN) {
            memcpy(to, at, m->payload_len);
        }
        else {
            Py_BEGIN_ALLOW_THREADS
            memcpy(to, at, m->payload_len);
            Py_END_ALLOW_THREADS
        }
        taken = first || (sf_is_current(&att->ring, m) && sf_take_commit(att, from, m));
    }
    if (pinned) {
        sf_unpin(att, m->desc);
    }
    return taken;
}

/* Fills the array; how many were taken. *lost and *skipped grow. */
static uint64_t
fill(struct sf_attachment *att, const struct kind *kind, uint64_t most, char *to)
{
    uint64_t count = 0, from;
    struct sf_message m;
    while (count < most && sf_take_look(att, false, &from, &m) == 0 && is_alike(att, kind, &m)) {
        if (copy_one(att, from, &m, to) == 1) {
            to += m.payload_len;
            count++;
        }
    }
    return count;
}

/* The first message's description, whole and private. 1, 0 try again, -1, or a status. */
static int
look_first(struct sf_attachment *att, uint64_t *from, struct kind *kind, uint64_t *seq)
{
    struct sf_message *m = &kind->first;
    m->seq = 0;
    int status = sf_take_look(att, false, from, m);
    *seq = m->seq;
    if (status < 0 || m->prefix_len == 0) {
        return status < 0 ? status : 1;
    }
    kind->prefix = PyMem_Malloc(m->prefix_len);
    if (!kind->prefix) {
        PyErr_NoMemory();
        return -1;
    }
    memcpy(kind->prefix, sf_message_prefix(att, m), m->prefix_len);
    kind->common = (m->ndim > SF_INLINE_DIMS ? (size_t)m->ndim * 8 : 0) +
                   (m->dtype_len > SF_INLINE_DTYPE ? m->dtype_len : 0);
    return sf_is_current(&att->ring, m);
}

int
sf_take_stack(TopicObject *self, const struct sf_request *request, struct sf_taken *taken)
{
    struct sf_attachment *att = self->t.att;
    struct kind kind = {.prefix = NULL};
    uint64_t shape[SF_MAX_DIMS], from, count = 0;
    PyObject *descr = NULL, *array = NULL;
    sf_attachment_ref(att); /* the copy may let go of the GIL */
    int status = look_first(att, &from, &kind, &taken->seq);
    if (status == 1) {
        status = sf_message_dtype(self, &kind.first, kind.prefix, shape, &descr);
        status = status == 0 ? 1 : status;
    }
    if (status == SF_BAD_MESSAGE) {
        (void)sf_take_commit(att, from, &kind.first); /* Q1 */
    }
    if (status == 1) {
        uint64_t head = sf_load_seq(&att->ring.header->head); /* B */
        uint64_t there = head >= kind.first.seq ? head - kind.first.seq + 1 : 1;
        uint64_t most = there < request->stack ? there : request->stack;
        array = sf_array_stack(descr, most, kind.first.ndim, shape, kind.first.fortran);
        count = array ? fill(att, &kind, most, sf_array_data(array)) : 0;
        if (array && count > 0 && count < most) {
            sf_array_shorten(array, count);
        }
        status = array ? count > 0 : -1;
        self->copied += count;
    }
    if (status == 0) {
        sf_take_raced(att, &kind.first);
    }
    if (status != 1) {
        Py_CLEAR(array);
    }
    taken->array = array;
    Py_XDECREF(descr);
    PyMem_Free(kind.prefix);
    sf_attachment_unref(att);
    return status;
}
