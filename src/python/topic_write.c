/* Writing: from an array to a message; shutdown.
 *
 * Owns:      write, loan's beginning, shutdown; the waits of writers.
 * Does not:  know the ring's protocols (core/flow.c) or what arrays are made of (arrays.c), or make
 *            topics (topic_create.c).
 *
 * Invariants
 *   W1  A write that raises has published nothing.
 *   W2  The first try of each step runs under the GIL and makes no system call; only when the
 *       lock or the room is not there at once, the GIL is let go, a slice at a time.
 *   W3  Payloads are copied without the GIL from SF_RELEASE_LEN on.
 *   W4  Keywords are evaluated before the data is looked at. Where Python code may have run since that
 *       look (making the topic, a signal's handler in a wait, the generator of a batch), the array is
 *       looked at again before it is copied, and the attachment before it is touched: the code may
 *       have given the array other memory, and may have forked.
 * A crash here leaves: a claim of a dead owner, which writers that pass take back.
 */
#include "python/module.h"

#include <string.h>

#define SF_RELEASE_LEN (64u * 1024u)

/* One step of a write that may have to wait, in the form that wait_for needs. */
struct step {
    enum { STEP_SMALL, STEP_BATCH, STEP_CLAIM, STEP_PUBLISH, STEP_SHUTDOWN } kind;
    struct sf_attachment *att;
    const struct sf_out *out;
    const struct sf_out *const *outs; /* of a batch */
    const struct sf_source *sources; /* the arrays that they are copied from, or NULL */
    int count; /* of a batch, and of the sources */
    uint64_t block_len;
    struct sf_claim *claim;
    enum sf_lane lane;
    uint64_t *seq;
};

static int
run_step(const struct step *s, uint64_t until_ns)
{
    switch (s->kind) {
    case STEP_SMALL:
        return sf_send_small(s->att, s->out, until_ns, s->seq);
    case STEP_BATCH:
        return sf_send_batch(s->att, s->outs, s->count, until_ns, s->seq);
    case STEP_CLAIM:
        return sf_send_claim(s->att, s->block_len, s->lane, until_ns, s->claim);
    case STEP_PUBLISH:
        return sf_send_publish(s->att, s->out, s->claim, until_ns, s->seq);
    default:
        return sf_shutdown(s->att, until_ns);
    }
}

static bool
must_wait(int status)
{
    return status == SF_BUSY || status == SF_INTERRUPTED || status == SF_NO_ROOM ||
           status == SF_LAGGING;
}

/* Answers that mean Full when no time is left. */
static bool
is_full(int status)
{
    return status == SF_BUSY || status == SF_NO_ROOM || status == SF_LAGGING ||
           status == SF_OWN_LAG;
}

/* The step after its first try gave `status`. 0 (a batch: how many), a status, or -1 with an exception. The caller
 * holds a reference to the attachment. */
static SF_COLD int
wait_for(struct sf_state *state, TopicObject *self, const struct step *s, int status,
         const struct sf_deadline *deadline)
{
    bool counted = false;
    while (must_wait(status)) {
        if ((status == SF_NO_ROOM || status == SF_LAGGING) && !counted) {
            counted = true;
            sf_count_wait(s->att);
        }
        Py_BEGIN_ALLOW_THREADS
        uint64_t slice = os_now_ns() + SF_SLICE_NS;
        /* At least once even when the time is over: a dead holder is found out, however short
         * the caller's patience is. */
        status = run_step(s, slice < deadline->until_ns ? slice : deadline->until_ns);
        Py_END_ALLOW_THREADS
        if (!must_wait(status)) {
            break;
        }
        int checked = sf_check_in(state, self);
        if (checked < 0 || (status != SF_INTERRUPTED && os_now_ns() >= deadline->until_ns)) {
            sf_leave_queue(s->att);
            return checked < 0 ? -1 : status;
        }
        if (!sf_attachment_is_mine(s->att)) {
            return SF_GONE; /* a signal handler forked, and we are the child */
        }
        if (s->sources && sf_sources_check(s->sources, s->count) < 0) { /* W4 */
            sf_leave_queue(s->att);
            return -1;
        }
    }
    return status;
}

/* First under the GIL, then with patience. */
static int
do_step(struct sf_state *state, TopicObject *self, const struct step *s,
        const struct sf_deadline *deadline)
{
    int status = run_step(s, SF_TRY);
    return must_wait(status) ? wait_for(state, self, s, status, deadline) : status;
}

/* The payload into its block; releases the GIL for large ones. */
static int
fill_block(struct sf_attachment *att, struct sf_source *source, const struct sf_claim *claim)
{
    if (sf_sources_check(source, 1) < 0) { /* W4: the claim may have been waited for */
        return -1;
    }
    if (source->strided) {
        return sf_copy_strided(source, sf_send_payload(att, &source->out, claim));
    }
    if (source->out.payload_len < SF_RELEASE_LEN) {
        memcpy(sf_send_payload(att, &source->out, claim), source->out.data,
               source->out.payload_len);
        return 0;
    }
    Py_BEGIN_ALLOW_THREADS
    sf_copy_in(att, sf_send_payload(att, &source->out, claim), source->out.data,
               source->out.payload_len);
    Py_END_ALLOW_THREADS
    return 0;
}

int
sf_topic_publish(struct sf_state *state, TopicObject *self, struct sf_attachment *att,
                 const struct sf_out *out, const struct sf_claim *claim,
                 const struct sf_deadline *deadline, uint64_t *seq)
{
    struct sf_claim copy = *claim;
    struct step publish = {
        .kind = STEP_PUBLISH, .att = att, .out = out, .claim = &copy, .seq = seq};
    return do_step(state, self, &publish, deadline);
}

/* Claim, copy, publish. 0, a status, or -1. */
static SF_APART int
send_large(struct sf_state *state, TopicObject *self, struct sf_attachment *att,
           struct sf_source *source, uint64_t block_len, const struct sf_deadline *deadline,
           uint64_t *seq)
{
    struct sf_claim claim;
    struct step step = {.kind = STEP_CLAIM,
                        .att = att,
                        .block_len = block_len,
                        .claim = &claim,
                        .lane = SF_LANE_IN_TURN};
    int status = do_step(state, self, &step, deadline);
    if (status != 0) {
        return status;
    }
    status = fill_block(att, source, &claim);
    if (status == 0) {
        status = sf_topic_publish(state, self, att, &source->out, &claim, deadline, seq);
    }
    if (status != 0) {
        sf_send_drop(att, &claim);
    }
    return status;
}

static int
send_once(struct sf_state *state, TopicObject *self, struct sf_source *source, uint64_t block_len,
          const struct sf_deadline *deadline, uint64_t *seq)
{
    struct sf_attachment *att = self->t.att;
    struct step small = {.kind = STEP_SMALL,
                         .att = att,
                         .out = &source->out,
                         .sources = source,
                         .count = 1,
                         .seq = seq};
    bool is_small = block_len <= SF_SMALL_LEN;
    int status = is_small ? run_step(&small, SF_TRY) : 0;
    if (is_small && !must_wait(status)) {
        return status; /* the hot path: nobody else could run, so no reference was needed */
    }
    sf_attachment_ref(att);
    status = is_small ? wait_for(state, self, &small, status, deadline)
                      : send_large(state, self, att, source, block_len, deadline, seq);
    sf_attachment_unref(att);
    return status;
}

/* A generation to write to, for a message of this length. 0, 1 Python code may have run, or -1. */
static int
find_generation(struct sf_state *state, TopicObject *self, uint64_t len)
{
    struct sf_topic *t = &self->t;
    /* Again: what made the message's bytes, or the next item, may have been anybody's code, which
     * closed the Topic, or forked, and this is the child. */
    int status = sf_topic_enter(t);
    if (status < 0) {
        return sf_raise(state, self, status);
    }
    /* Also where it does not fit: this may be a generation that was removed. */
    bool opens = !(t->att && t->has_written) || len > t->att->ring.lay.max_message;
    if (opens && sf_topic_open_writer(state, self, len, true) < 0) {
        return -1;
    }
    return len > t->att->ring.lay.max_message ? sf_raise_too_large(state, self, len) : opens;
}

/* What a send that failed means: 0 try again, -1 an exception. */
static SF_COLD int
explain_failure(struct sf_state *state, TopicObject *self, int status, uint64_t len,
                const struct sf_deadline *deadline)
{
    struct sf_topic *t = &self->t;
    if (status == SF_GONE) {
        if (t->att && sf_attachment_is_mine(t->att) &&
            (sf_load_acquire(&t->att->ring.header->ended) & SF_UNLINKED) != 0) {
            sf_topic_leave(t); /* acquire: with the remover's or; write to the next one */
        }
        return 0;
    }
    if (is_full(status)) {
        return sf_raise_full(state, self, status, deadline->seconds, len);
    }
    return status == -1 ? -1 : sf_raise(state, self, status);
}

int
sf_topic_send(struct sf_state *state, TopicObject *self, struct sf_source *source,
              const struct sf_deadline *deadline, uint64_t *seq)
{
    uint64_t block_len = sf_out_block_len(&source->out);
    if (source->strided && block_len <= SF_SMALL_LEN && sf_source_pack(source) < 0) {
        return -1;
    }
    for (;;) {
        int opened = find_generation(state, self, source->out.payload_len);
        if (opened < 0 || (opened > 0 && sf_sources_check(source, 1) < 0)) { /* W4 */
            return -1;
        }
        int status = send_once(state, self, source, block_len, deadline, seq);
        if (status == 0 ||
            explain_failure(state, self, status, source->out.payload_len, deadline) < 0) {
            return status == 0 ? 0 : -1;
        }
    }
}

/* How many of the sources, from the first on, one lock can take. */
static int
count_small(struct sf_source *sources, int count, uint64_t max_message, const struct sf_out **outs)
{
    int n = 0;
    while (n < count && sf_out_block_len(&sources[n].out) <= SF_SMALL_LEN &&
           sources[n].out.payload_len <= max_message) {
        if (sources[n].strided && sf_source_pack(&sources[n]) < 0) {
            return -1;
        }
        outs[n] = &sources[n].out;
        n++;
    }
    /* W4: the items behind the first were looked at before the generator made the next. Last: to
     * pack one may have let go of the GIL. */
    return sf_sources_check(sources, n) < 0 ? -1 : n;
}

int
sf_topic_send_some(struct sf_state *state, TopicObject *self, struct sf_source *sources, int count,
                   const struct sf_deadline *deadline, uint64_t *seq)
{
    const struct sf_out *outs[SF_BATCH];
    for (;;) {
        if (find_generation(state, self, sources[0].out.payload_len) < 0) {
            return -1;
        }
        struct sf_attachment *att = self->t.att;
        sf_attachment_ref(att); /* NumPy's copy of a strided one may let go of the GIL */
        int small = count_small(sources, count, att->ring.lay.max_message, outs);
        struct step step = {.kind = STEP_BATCH,
                            .att = att,
                            .outs = outs,
                            .sources = sources,
                            .count = small,
                            .seq = seq};
        bool mine =
            sf_attachment_is_mine(att); /* W4: to pack one ends an array, maybe some code's last */
        int status = small > 0 && mine ? do_step(state, self, &step, deadline) : SF_GONE;
        sf_attachment_unref(att);
        if (small <= 0) {
            return small < 0 || sf_topic_send(state, self, sources, deadline, seq) < 0 ? -1 : 1;
        }
        if (status > 0 ||
            explain_failure(state, self, status, sources[0].out.payload_len, deadline) < 0) {
            return status > 0 ? status : -1;
        }
    }
}

/* meta, timestamp_ns, timeout: the keywords that write and loan share. */
struct circumstances {
    PyObject *meta; /* bytes of JSON, or NULL */
    uint64_t stamp_ns;
    bool stamped;
    struct sf_deadline deadline;
};

/* Runs anybody's code: before the data is looked at (W4). */
static SF_COLD int
parse_circumstances(TopicObject *self, PyObject *const *given, struct circumstances *with)
{
    *with = (struct circumstances){.meta = NULL};
    if (sf_parse_stamp(given[1], &with->stamp_ns, &with->stamped) < 0 ||
        (with->stamped && sf_warn_of_stamp(self, with->stamp_ns) < 0) ||
        sf_parse_timeout(given[2], &with->deadline) < 0) {
        return -1;
    }
    if (given[0] && given[0] != Py_None) {
        with->meta = PyObject_CallMethod(self->state->wire, "pack_meta", "(O)", given[0]);
    }
    return given[0] && given[0] != Py_None && !with->meta ? -1 : 0;
}

static void
put_circumstances(struct sf_source *source, const struct circumstances *with)
{
    source->out.stamp_ns = with->stamp_ns;
    source->out.stamped = with->stamped;
    if (with->meta) {
        source->out.meta = PyBytes_AS_STRING(with->meta);
        source->out.meta_len = (uint32_t)PyBytes_GET_SIZE(with->meta);
    }
}

int
sf_enter_to_write(struct sf_state *state, TopicObject *self, const char *call)
{
    if (sf_begin(state, self) < 0) {
        return -1;
    }
    if (self->t.options.mode != SF_MODE_RW && self->t.options.mode != SF_MODE_W) {
        return sf_raise_wrong_mode(state, self, call);
    }
    return 0;
}

/* with: NULL, or what the keywords said. */
static inline PyObject *
write_one(struct sf_state *state, TopicObject *self, PyObject *data,
          const struct circumstances *with)
{
    static const struct sf_deadline for_ever = {.until_ns = UINT64_MAX};
    struct sf_source source;
    uint64_t seq = 0;
    if (sf_source_from(self, data, &source) < 0) {
        return NULL;
    }
    if (with) {
        put_circumstances(&source, with);
    }
    int status = sf_topic_send(state, self, &source, with ? &with->deadline : &for_ever, &seq);
    sf_source_clear(&source);
    return status < 0 ? NULL : PyLong_FromUnsignedLongLong(seq);
}

static SF_APART PyObject *
write_with(struct sf_state *state, TopicObject *self, PyObject *data,
           const struct circumstances *with)
{
    return write_one(state, self, data, with);
}

/* Apart, as write_with: what the keywords' code nests in itself is as little stack as can be. */
static SF_APART PyObject *
write_with_keywords(TopicObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"", "meta", "timestamp_ns", "timeout"};
    PyObject *given[4];
    struct circumstances with;
    if (sf_parse_call("write", args, nargs, kwnames, names, 4, 1, 1, given) < 0 ||
        sf_enter_to_write(self->state, self, "write") < 0 ||
        parse_circumstances(self, given + 1, &with) < 0) {
        return NULL;
    }
    PyObject *seq = write_with(self->state, self, given[0], &with);
    Py_XDECREF(with.meta);
    return seq;
}

SF_HOT PyObject *
sf_topic_write_method(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    TopicObject *self = (TopicObject *)op;
    if (kwnames || nargs != 1) {
        return write_with_keywords(self, args, nargs, kwnames);
    }
    return sf_enter_to_write(self->state, self, "write") < 0
               ? NULL
               : write_one(self->state, self, args[0], NULL);
}

static SF_APART PyObject *
loan_with(struct sf_state *state, TopicObject *self, PyObject *const *given,
          struct circumstances *with)
{
    struct sf_source source;
    PyObject *descr = NULL;
    if (sf_source_plan(self, given[0], given[1], &source, &descr) < 0) {
        return NULL;
    }
    put_circumstances(&source, with);
    /* The loan keeps the packed meta where arrays keep their bytes. */
    source.keep = Py_XNewRef(with->meta);
    PyObject *loan = sf_loan_new(state, self, &source, descr, &with->deadline);
    sf_source_clear(&source);
    Py_DECREF(descr);
    return loan;
}

PyObject *
sf_topic_loan_method(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"shape", "dtype", "meta", "timestamp_ns", "timeout"};
    struct sf_state *state = ((TopicObject *)op)->state;
    TopicObject *self = (TopicObject *)op;
    PyObject *given[5];
    struct circumstances with;
    if (sf_parse_call("loan", args, nargs, kwnames, names, 5, 2, 1, given) < 0 ||
        sf_enter_to_write(state, self, "loan") < 0 ||
        parse_circumstances(self, given + 2, &with) < 0) {
        return NULL;
    }
    PyObject *loan = loan_with(state, self, given, &with);
    Py_XDECREF(with.meta);
    return loan;
}

/* What is there has ended, or nobody uses it and it does not fit. */
static SF_COLD PyObject *
end_of_another(struct sf_state *state, TopicObject *self)
{
    int status = sf_topic_to_look(&self->t);
    if (status < 0) {
        sf_raise(state, self, status);
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *
sf_topic_shutdown_method(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    struct sf_state *state = ((TopicObject *)op)->state;
    TopicObject *self = (TopicObject *)op;
    PyObject *given[1];
    struct sf_deadline deadline = {.until_ns = UINT64_MAX};
    if (sf_parse_call("shutdown", args, nargs, kwnames, NULL, 0, 0, 0, given) < 0 ||
        sf_enter_to_write(state, self, "shutdown") < 0) {
        return NULL;
    }
    for (;;) {
        /* One that has ended is not replaced, to be ended again; where there is none, one is made, so
         * that readers which wait for it learn that nothing comes. */
        int found = self->t.att ? 0 : sf_topic_open_writer(state, self, 0, false);
        if (found != 0) {
            return found < 0 ? NULL : end_of_another(state, self);
        }
        struct sf_attachment *att = self->t.att;
        struct step shutdown = {.kind = STEP_SHUTDOWN, .att = att};
        sf_attachment_ref(att);
        int status = do_step(state, self, &shutdown, &deadline);
        bool mine = sf_attachment_is_mine(att);
        sf_attachment_unref(att);
        if (status == 0) {
            Py_RETURN_NONE;
        }
        if (status == -1 || mine) {
            if (status != -1) {
                sf_raise(state, self, status);
            }
            return NULL;
        }
        /* The child of a fork in a signal's handler: its own shutdown is yet to come. */
    }
}
