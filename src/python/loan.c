/* Loans: a message that is made where it will lie.
 *
 * Owns:      the Loan type: begin, publish, discard, context manager.
 * Does not:  fill the array; that is what the user does.
 *
 * A loan is a claim in main with an array over it. Where main has no room, where the block would
 * be small, or where the participant holds max_held already, it is private memory that publish
 * copies: a loan never waits for readers.
 *
 * The user's array can be given another dtype, shape or memory in place. So what becomes a message
 * is told by the Loan alone: the view (view.c) owns the memory, source and descr say what it is.
 *
 * Invariants
 *   L1  A claim ends exactly once: published, or given back when its last array is dead. So a
 *       late store through a kept array reaches that message at most, never another.
 *   L2  From publish on the writer itself pins the block until its arrays are dead.
 *   L3  In a forked child a loan is void: publish raises, and nothing of the parent's changes.
 *   L4  A payload never moves under the arrays over it: where the message's description would need
 *       another prefix than the claim has, it is copied like private memory. A shorter one keeps its
 *       whole block, whose length, not the payload's, says whether it may be held (ring.c, space.c).
 *   L5  A publish that raises has published nothing and leaves the loan open, with what was filled in.
 *   L6  Nothing of the message is read from `array`, which is only handed out, and frozen.
 * A crash here leaves: a claim of a dead owner.
 */
#include "python/module.h"

#include <string.h>

typedef struct {
    PyObject_HEAD
    TopicObject *topic;
    PyObject *array; /* the user's, while it is open: L6 */
    PyObject *view; /* ViewObject, while it is open: a claim, or private memory */
    void *at; /* the payload, in the view's memory */
    PyObject *descr; /* of its elements */
    struct sf_source source; /* what it will be: keep is the packed meta */
    struct sf_deadline deadline; /* for publish; the clock starts there */
    unsigned long long seq;
    uint32_t epoch;
    bool ended;
} LoanObject;

/* The claim that it lies in, or NULL: it is private. */
static ViewObject *
claim_of(const LoanObject *loan)
{
    ViewObject *view = (ViewObject *)loan->view;
    return view && view->is_claim ? view : NULL;
}

/* 0 and a view, 0 and none (make it private), or -1. */
static int
claim_in_ring(struct sf_state *state, TopicObject *topic, LoanObject *loan, uint64_t block_len)
{
    struct sf_attachment *att = topic->t.att;
    struct sf_claim claim;
    if (!sf_loan_fits(att, block_len)) {
        return 0;
    }
    int status;
    sf_attachment_ref(att);
    status = sf_send_claim(att, block_len, SF_LANE_NEVER, SF_TRY, &claim);
    if (status == SF_BUSY) {
        /* The lock is short; a slice of patience costs less than a copy of a large block. */
        Py_BEGIN_ALLOW_THREADS
        status = sf_send_claim(att, block_len, SF_LANE_NEVER, os_now_ns() + SF_SLICE_NS, &claim);
        Py_END_ALLOW_THREADS
    }
    if (status == 0) {
        sf_loan_begin(att, claim.desc);
        loan->view = sf_view_new_claim(state, att, &claim);
        status = loan->view ? 0 : -1;
    }
    else if (status == SF_ENDED || status == SF_CORRUPT) {
        status = sf_raise(state, topic, status);
    }
    else {
        status = 0; /* busy, no room, gone: publish will see */
    }
    sf_attachment_unref(att);
    return status;
}

PyObject *
sf_loan_new(struct sf_state *state, TopicObject *topic, struct sf_source *source, PyObject *descr,
            const struct sf_deadline *deadline)
{
    LoanObject *loan = (LoanObject *)state->loan_type->tp_alloc(state->loan_type, 0);
    if (!loan) {
        return NULL;
    }
    loan->topic = (TopicObject *)Py_NewRef((PyObject *)topic);
    loan->source = *source;
    loan->source.keep = Py_XNewRef(source->keep);
    loan->source.wire = Py_XNewRef(source->wire);
    loan->source.out.shape = loan->source.shape;
    if (!source->wire) {
        loan->source.out.dtype = loan->source.wire_inline;
    }
    loan->deadline = *deadline;
    loan->epoch = sf_process_epoch();
    struct sf_out *out = &loan->source.out;
    uint64_t block_len = sf_out_block_len(out);
    loan->descr = Py_NewRef(descr);
    /* has_written may be set on a generation that ended meanwhile: ask the topic each time. */
    int status = sf_topic_open_writer(state, topic, out->payload_len, false);
    bool later = status == 1; /* private: what publish would replace stands until then */
    status = later ? 0 : status;
    if (status == 0 && !later && out->payload_len > topic->t.att->ring.lay.max_message) {
        status = sf_raise_too_large(state, topic, out->payload_len);
    }
    if (status == 0 && !later) {
        status = claim_in_ring(state, topic, loan, block_len);
    }
    if (status == 0) {
        ViewObject *view = claim_of(loan);
        if (view) {
            loan->at = sf_send_payload(view->att, out, &view->claim);
        }
        else {
            loan->view = sf_view_new_private(state, out->payload_len, &loan->at);
        }
        loan->array = loan->view ? sf_array_over(descr, out->ndim, out->shape, false, loan->at,
                                                 loan->view, true)
                                 : NULL;
        status = loan->array ? 0 : -1;
    }
    if (status < 0) {
        Py_CLEAR(loan);
    }
    return (PyObject *)loan;
}

static int
check_open(struct sf_state *state, LoanObject *loan)
{
    if (loan->ended) {
        PyErr_SetString(PyExc_ValueError,
                        "this loan has ended (published or discarded); take another one");
        return -1;
    }
    if (loan->epoch != sf_process_epoch()) {
        PyErr_SetString(state->closed_error,
                        "this loan belongs to the parent process; take one in this process");
        return -1;
    }
    return 0;
}

/* Publishes a claim in place. 0, a status, -1. */
static int
publish_in_place(struct sf_state *state, LoanObject *loan, uint64_t *seq)
{
    ViewObject *view = (ViewObject *)loan->view;
    struct sf_attachment *att = view->att;
    sf_loan_keep(att, view->claim.desc); /* L2: the bit first, then the message */
    int status = sf_topic_publish(state, loan->topic, att, &loan->source.out, &view->claim,
                                  &loan->deadline, seq);
    if (status == 0) {
        view->is_claim = false;
    }
    return status; /* else the bit goes with the claim, when its last array dies */
}

/* The claim's prefix fits what the message is now, or there is none. */
static bool
keeps_its_place(const struct sf_out *out, uint32_t ndim)
{
    return sf_prefix_len(out->ndim, out->dtype_len, out->meta_len) ==
           sf_prefix_len(ndim, out->dtype_len, out->meta_len);
}

/* 0, or -1 with an exception and nothing changed. */
static int
parse_shape(struct sf_state *state, LoanObject *loan, PyObject *shape, struct sf_shorter *shorter)
{
    if (check_open(state, loan) < 0) {
        return -1;
    }
    return sf_shape_within(state, &loan->source, loan->descr, shape, shorter);
}

/* What the message will be; the prefix in the ring, which still is ours to write, says it too. */
static void
set_shape(LoanObject *loan, const struct sf_shorter *as, bool in_place)
{
    struct sf_out *out = &loan->source.out;
    memcpy(loan->source.shape, as->shape, as->ndim * sizeof *as->shape);
    out->ndim = as->ndim;
    out->payload_len = as->payload_len;
    ViewObject *view = claim_of(loan);
    if (view && in_place && sf_attachment_is_mine(view->att)) { /* a signal handler may fork */
        void *at = sf_send_payload(view->att, out, &view->claim);
        assert(at == loan->at); /* L4 */
        (void)at;
    }
}

/* 0, or -1 with an exception. */
static int
send(struct sf_state *state, LoanObject *loan, bool in_place, uint64_t *seq)
{
    struct sf_out *out = &loan->source.out;
    int status = claim_of(loan) && in_place ? publish_in_place(state, loan, seq) : SF_GONE;
    if (status == SF_GONE) {
        /* Private memory, another prefix, or the generation was removed meanwhile: copy it like any
         * array. */
        out->data = loan->at;
        return sf_topic_send(state, loan->topic, &loan->source, &loan->deadline, seq);
    }
    if (status == SF_BUSY || status == SF_LAGGING || status == SF_OWN_LAG) {
        return sf_raise_full(state, loan->topic, status, loan->deadline.seconds, out->payload_len);
    }
    return status == 0 || status == -1 ? status : sf_raise(state, loan->topic, status);
}

static int
publish(struct sf_state *state, LoanObject *loan, PyObject *shape)
{
    uint64_t seq = 0;
    bool in_place = true;
    struct sf_shorter whole = {.ndim = 0}, shorter;
    /* First, and then again: a shape's __index__ is anybody's code. */
    if ((shape && parse_shape(state, loan, shape, &shorter) < 0) || check_open(state, loan) < 0) {
        return -1;
    }
    int status = sf_topic_enter(&loan->topic->t);
    if (status < 0) {
        return sf_raise(state, loan->topic, status);
    }
    /* From here on nobody else looks at it, until it has failed. */
    loan->ended = true;
    if (shape) {
        struct sf_out *out = &loan->source.out;
        whole.ndim = out->ndim;
        whole.payload_len = out->payload_len;
        memcpy(whole.shape, loan->source.shape, out->ndim * sizeof *whole.shape);
        in_place = keeps_its_place(out, shorter.ndim);
        set_shape(loan, &shorter, in_place);
    }
    if (loan->deadline.seconds < 1e9) {
        loan->deadline.until_ns = os_now_ns() + (uint64_t)(loan->deadline.seconds * 1e9);
    }
    if (send(state, loan, in_place, &seq) < 0) {
        if (shape) {
            set_shape(loan, &whole, in_place);
        }
        loan->ended = false; /* L5 */
        return -1;
    }
    loan->seq = seq;
    sf_array_freeze(loan->array);
    Py_CLEAR(loan->array); /* may run code, of a weak reference's: last */
    Py_CLEAR(loan->view);
    return 0;
}

/* Not while another thread publishes it, which has ended it before it waits: the claim is that
 * thread's to end (L1). */
static void
discard(LoanObject *loan)
{
    if (loan->ended) {
        return;
    }
    loan->ended = true;
    Py_CLEAR(loan->array); /* the claim goes with the last array: view.c */
    Py_CLEAR(loan->view);
}

static PyObject *
loan_publish(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"shape"};
    LoanObject *loan = (LoanObject *)op;
    PyObject *given[1];
    if (sf_parse_call("publish", args, nargs, kwnames, names, 1, 1, 0, given) < 0) {
        return NULL;
    }
    PyObject *shape = given[0] == Py_None ? NULL : given[0];
    int status = publish(sf_state_of(Py_TYPE(op)), loan, shape);
    return status < 0 ? NULL : PyLong_FromUnsignedLongLong(loan->seq);
}

static PyObject *
loan_discard(PyObject *op, PyObject *Py_UNUSED(unused))
{
    discard((LoanObject *)op);
    Py_RETURN_NONE;
}

static PyObject *
loan_enter(PyObject *op, PyObject *Py_UNUSED(unused))
{
    LoanObject *loan = (LoanObject *)op;
    return check_open(sf_state_of(Py_TYPE(op)), loan) < 0 ? NULL : Py_NewRef(loan->array);
}

static PyObject *
loan_exit(PyObject *op, PyObject *args)
{
    LoanObject *loan = (LoanObject *)op;
    PyObject *type = PyTuple_GET_SIZE(args) > 0 ? PyTuple_GET_ITEM(args, 0) : Py_None;
    if (!loan->ended) {
        if (type != Py_None) {
            discard(loan);
        }
        else if (publish(sf_state_of(Py_TYPE(op)), loan, NULL) < 0) {
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

static PyObject *
loan_get_array(PyObject *op, void *Py_UNUSED(closure))
{
    LoanObject *loan = (LoanObject *)op;
    return check_open(sf_state_of(Py_TYPE(op)), loan) < 0 ? NULL : Py_NewRef(loan->array);
}

static PyObject *
loan_get_seq(PyObject *op, void *Py_UNUSED(closure))
{
    LoanObject *loan = (LoanObject *)op;
    return loan->seq ? PyLong_FromUnsignedLongLong(loan->seq) : Py_NewRef(Py_None);
}

static PyObject *
loan_get_in_ring(PyObject *op, void *Py_UNUSED(closure))
{
    LoanObject *loan = (LoanObject *)op;
    return check_open(sf_state_of(Py_TYPE(op)), loan) < 0 ? NULL
                                                          : PyBool_FromLong(claim_of(loan) != NULL);
}

/* The array's own buffer, which keeps the array: a memoryview of a loan is one more array over it. */
static int
loan_get_buffer(PyObject *op, Py_buffer *buffer, int flags)
{
    LoanObject *loan = (LoanObject *)op;
    buffer->obj = NULL;
    return check_open(sf_state_of(Py_TYPE(op)), loan) < 0
               ? -1
               : PyObject_GetBuffer(loan->array, buffer, flags);
}

/* What has no buffer, such as dates, NumPy asks for by this; and it passes over what a buffer
 * raises, but not over what this does. */
static PyObject *
loan_array_method(PyObject *op, PyObject *args, PyObject *kwargs)
{
    LoanObject *loan = (LoanObject *)op;
    if (check_open(sf_state_of(Py_TYPE(op)), loan) < 0) {
        return NULL;
    }
    PyObject *method = PyObject_GetAttrString(loan->array, "__array__");
    PyObject *result = method ? PyObject_Call(method, args, kwargs) : NULL;
    Py_XDECREF(method);
    return result;
}

static PyObject *
loan_reduce(PyObject *Py_UNUSED(op), PyObject *Py_UNUSED(unused))
{
    PyErr_SetString(
        PyExc_TypeError,
        "a Loan cannot be copied or pickled: it is memory that this Topic is about to "
        "publish; copy its array (loan.array.copy()), or publish() it and read it there");
    return NULL;
}

static int
loan_traverse(PyObject *op, visitproc visit, void *arg)
{
    LoanObject *loan = (LoanObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(loan->topic);
    Py_VISIT(loan->array);
    return 0;
}

static int
loan_clear(PyObject *op)
{
    LoanObject *loan = (LoanObject *)op;
    Py_CLEAR(loan->topic);
    Py_CLEAR(loan->array);
    Py_CLEAR(loan->view);
    Py_CLEAR(loan->descr);
    sf_source_clear(&loan->source);
    return 0;
}

static void
loan_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)loan_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(
    loan_doc,
    "An array that will be a message; made by Topic.loan().\n"
    "\n"
    "    with topic.loan((480, 640), 'float32') as out:\n"
    "        np.multiply(left, right, out=out)\n"
    "\n"
    "At the end of the block it is published, without a copy; an exception discards it.\n"
    "The array is writable until then and read-only after. Fill all of it: in the ring\n"
    "(in_ring) it begins as whatever earlier messages of this topic left there, and what is not\n"
    "filled is published as it is; private memory begins as zeros.\n"
    "It is a view of the loan's memory: the message has the shape and the dtype of the loan,\n"
    "whatever is done to the array's own.\n"
    "\n"
    "A Loan is a buffer as well, while it is open: file.readinto(loan), sock.recv_into(loan),\n"
    "memoryview(loan) and numpy.asarray(loan) use its memory. They raise ValueError after its\n"
    "end (readinto and recv_into: TypeError) and Closed in a forked child.");

PyDoc_STRVAR(
    publish_doc,
    "publish($self, shape=None)\n--\n\n"
    "Make it the topic's next message; returns its number.\n"
    "\n"
    "shape: of the message, an int or a tuple, if it turned out shorter than the loan: its first\n"
    "prod(shape) elements, in C order. None: the loan as it is. A shorter message keeps the\n"
    "room of its loan until it is evicted, with what was filled in behind it: no array of a\n"
    "reader's shows that, but whoever may read the topic's file can. It is copied only if the loan "
    "is private, or of a\n"
    "shape of more than 4 dimensions and shape is not, or the other way round.\n"
    "\n"
    "The array turns read-only. Waits for the writer lock, and for lossless readers, for at most\n"
    "the loan's timeout. Raises ValueError when the loan has ended already or shape does not fit,\n"
    "TypeError for what is no shape, Full, Closed. After any of them but the first the loan is\n"
    "still open, with what was filled in: publish() again, or discard().");

PyDoc_STRVAR(discard_doc,
             "discard($self, /)\n--\n\n"
             "Drop it: no message comes of it. Its memory is free again when its last\n"
             "array is gone. Never blocks; does nothing to a loan that has ended.");

/* A loan is its Topic's. */
#define TOPIC_OF(op) ((PyObject *)((LoanObject *)(op))->topic)
SF_GUARD_FAST(loan_publish, TOPIC_OF(op));
SF_GUARD_ARGS(loan_discard, TOPIC_OF(op));
SF_GUARD_ARGS(loan_reduce, TOPIC_OF(op));
SF_GUARD_CALL(loan_array_method, TOPIC_OF(op));
SF_GUARD_ARGS(loan_enter, TOPIC_OF(op));
SF_GUARD_ARGS(loan_exit, TOPIC_OF(op));
SF_GUARD_GET(loan_get_array, TOPIC_OF(op));
SF_GUARD_GET(loan_get_seq, TOPIC_OF(op));
SF_GUARD_GET(loan_get_in_ring, TOPIC_OF(op));
SF_GUARD_BUFFER(loan_get_buffer, TOPIC_OF(op));

static PyMethodDef loan_methods[] = {
    {"publish", (PyCFunction)(void (*)(void))SF_GUARDED(loan_publish),
     METH_FASTCALL | METH_KEYWORDS, publish_doc},
    {"discard", SF_GUARDED(loan_discard), METH_NOARGS, discard_doc},
    {"__array__", (PyCFunction)(void (*)(void))SF_GUARDED(loan_array_method),
     METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("__array__($self, /, *args, **kwargs)\n--\n\nThe array, for numpy.asarray().")},
    {"__enter__", SF_GUARDED(loan_enter), METH_NOARGS,
     PyDoc_STR("__enter__($self, /)\n--\n\nThe array to be filled.")},
    {"__exit__", SF_GUARDED(loan_exit), METH_VARARGS,
     PyDoc_STR("__exit__($self, /, *exc)\n--\n\nPublish, or discard after an exception.")},
    {"__reduce__", SF_GUARDED(loan_reduce), METH_NOARGS,
     PyDoc_STR("__reduce__($self, /)\n--\n\nTypeError: it can be neither pickled nor copied.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef loan_getset[] = {
    {"array", SF_GUARDED(loan_get_array), NULL,
     PyDoc_STR("The ndarray to be filled, while the loan is open."), NULL},
    {"seq", SF_GUARDED(loan_get_seq), NULL,
     PyDoc_STR("The message's number once published, else None."), NULL},
    {"in_ring", SF_GUARDED(loan_get_in_ring), NULL,
     PyDoc_STR("True if the array lies in the ring, so that publish copies nothing."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot loan_slots[] = {
    {Py_tp_doc, (void *)loan_doc},
    {Py_tp_dealloc, loan_dealloc},
    {Py_tp_traverse, loan_traverse},
    {Py_tp_clear, loan_clear},
    {Py_tp_methods, loan_methods},
    {Py_tp_getset, loan_getset},
    {Py_bf_getbuffer, SF_GUARDED(loan_get_buffer)},
    {0, NULL},
};

PyType_Spec sf_loan_spec = {
    .name = "shmflow.Loan",
    .basicsize = sizeof(LoanObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = loan_slots,
};
