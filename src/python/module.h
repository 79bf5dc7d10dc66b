/* What the files of the extension share: the module's state, the object types, raising.
 *
 * Owns:      struct sf_state; the layouts of Topic, Loan, View, Message, Messages.
 * Does not:  define any behaviour.
 *
 * Invariants
 *   D1  No static types and no mutable globals (see the list in module.c): all is in sf_state.
 *   D2  A Topic's struct sf_topic, its Loans and its Messages are used only under the GIL, or, where
 *       there is none, in a critical section on the Topic, which methods enter at their door
 *       (SF_GUARD of pycompat.h) and which ends where the GIL would be let go. What runs without
 *       works on a referenced attachment and on private copies.
 * A crash here leaves: nothing.
 */
#ifndef SHMFLOW_MODULE_H
#define SHMFLOW_MODULE_H

#include "python/pycompat.h"

#include "core/beacon.h"
#include "core/topic.h"

/* What dtypes are, in each direction. The dicts are made with the module and emptied when they are
 * full, never replaced: each look-up and each store stands by itself. Y4 of dtypes.c. */
struct sf_dtype_cache {
    PyObject *by_dtype;    /* dict: dtype without fields -> bytes */
    PyObject *by_identity; /* dict: address of a dtype with fields -> (its seal, bytes) */
    PyObject *by_wire;     /* dict: bytes -> dtype; one with fields is never handed out */
};

/* A Topic's last dtype in each direction; look-ups of it are the hot path's only cost for dtypes. */
struct sf_last_dtypes {
    PyObject *out_dtype; /* strong; wire form in out_wire, or in out_long */
    PyObject *out_seal; /* strong; of one with fields, else NULL */
    PyObject *out_long; /* strong; bytes that do not lie inline, or NULL */
    char out_wire[SF_INLINE_DTYPE];
    uint32_t out_len;
    PyObject *in_dtype; /* strong; for wire words in_wire */
    uint64_t in_wire[SF_INLINE_DTYPE / 8];
    uint32_t in_len;
};

struct sf_state {
    PyTypeObject *topic_type, *loan_type, *view_type, *message_type, *messages_type;
    PyTypeObject *stats_type, *participant_type;
    PyObject *wire; /* shmflow._wire */
    PyObject *texts; /* shmflow._texts */
    PyObject *closed_error; /* shmflow.Closed */
    PyObject *aio; /* shmflow._aio */
    struct sf_dtype_cache dtypes;
};

struct sf_state *sf_state_of(PyTypeObject *type);
struct sf_state *sf_state_of_module(PyObject *module);

typedef struct {
    PyObject_HEAD
    struct sf_topic t;
    struct sf_state *state; /* of the type's module, which the type keeps alive */
    bool open; /* t is initialised */
    bool stands; /* it will be, and begin at `standing`: unpickled */
    struct sf_standing standing;
    bool warned_copy, warned_wait, warned_stamp;
    struct sf_last_dtypes last;
    uint64_t copied; /* messages that read() copied, over all generations */
    PyObject *weakrefs;
    struct sf_beacon *beacon; /* fileno()'s, or NULL */
} TopicObject;

/* The base of every array that lies in the ring, and of every loan's. Owns the block's pin, or a
 * loan's claim, or the memory of a loan that lies in no ring. */
typedef struct {
    PyObject_HEAD
    struct sf_attachment *att; /* referenced; NULL: private memory */
    void *memory; /* or NULL */
    struct sf_claim claim; /* a loan's; claim.desc for all */
    bool is_claim; /* not published: give the claim back instead of unpinning */
} ViewObject;

/* A message that was taken: either an array, or what its parts are. */
struct sf_taken {
    PyObject *array;
    PyObject *meta; /* bytes of JSON, or NULL */
    uint64_t seq, stamp_ns, lost, skipped;
    uint32_t writer_pid;
};

/* ---- errors.c ---- */

/* Raises what the status means; returns -1. The only place where statuses become exceptions. */
SF_COLD int sf_raise(struct sf_state *state, TopicObject *topic, int status);
/* The same for a Topic that has no path yet, by the name that was asked for. */
SF_COLD int sf_raise_unopened(struct sf_state *state, const char *name, int status);
SF_COLD int sf_raise_with(struct sf_state *state, TopicObject *topic, int status,
                          PyObject *details);
/* The same after a look at a message: one that cannot be is told with its number and its writer. */
SF_COLD int sf_raise_of_taken(struct sf_state *state, TopicObject *topic, int status,
                              const struct sf_taken *taken);
SF_COLD int sf_raise_empty(struct sf_state *state, TopicObject *topic, double timeout);
SF_COLD int sf_raise_full(struct sf_state *state, TopicObject *topic, int status, double timeout,
                          uint64_t len);
SF_COLD int sf_raise_too_large(struct sf_state *state, TopicObject *topic, uint64_t len);
SF_COLD int sf_raise_wrong_mode(struct sf_state *state, TopicObject *topic, const char *call);
/* WrongMode: what was asked for cannot go together; `format` as PyUnicode_FromFormat has it. */
SF_COLD int sf_raise_contradiction(struct sf_state *state, const char *format, ...);
/* What every call starts with: closed? forked? */
int sf_begin(struct sf_state *state, TopicObject *topic);
/* Python threads come back from a slice here: signals, and whether the Topic was closed. */
SF_APART int sf_check_in(struct sf_state *state, TopicObject *topic);

/* ---- arguments (args.c) ---- */

struct sf_deadline {
    uint64_t until_ns; /* UINT64_MAX: none */
    double seconds; /* as asked, for texts */
};
#define SF_NOT_STARTED 0
#define SF_OVER 1 /* a timeout of 0 */
/* None: for ever. Negative, NaN: ValueError. The clock starts at the call, or at sf_start(): it costs
 * a tenth of a read that finds its message there. */
SF_APART int sf_parse_timeout(PyObject *value, struct sf_deadline *out);
SF_APART int sf_parse_timeout_later(PyObject *value, struct sf_deadline *out);
SF_APART void sf_start(struct sf_deadline *deadline);
/* Splits a METH_FASTCALL|METH_KEYWORDS call: fills out[i] for names[i]; the first `positional`
 * may be given by position, and only so if their name is "". Missing ones stay NULL. */
SF_APART int sf_parse_call(const char *call, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames, const char *const *names, int count, int positional,
                           int required, PyObject **out);
/* *given: was there one? 0 is a stamp. */
SF_COLD int sf_parse_stamp(PyObject *value, uint64_t *out, bool *given);
/* Once per Topic, of a stamp that is a day or more from the clock: 0, or -1 with an exception. */
SF_COLD int sf_warn_of_stamp(TopicObject *topic, uint64_t stamp_ns);
int sf_parse_flag(PyObject *value, bool *out);

/* ---- options.c ---- */

extern const char *const sf_mode_names[], *const sf_start_names[];
/* The constructor's arguments. *now: the topic is to be made at once. */
int sf_parse_options(struct sf_state *state, PyObject *args, PyObject *kwargs, const char **name,
                     Py_ssize_t *name_len, struct sf_options *options, bool *now);

/* ---- arrays.c, dtypes.c: the only users of NumPy's C API (arrays.h) ---- */

int sf_arrays_setup(void);
int sf_dtypes_setup(struct sf_state *state);
void sf_dtypes_forget(struct sf_last_dtypes *last);
/* What is to be written: an array that owns or borrows its bytes. `keep` holds it (new
 * reference). */
struct sf_source {
    PyObject *keep;
    PyObject *wire; /* new reference to a long description, or NULL */
    struct sf_out out;
    uint64_t shape[SF_MAX_DIMS];
    char wire_inline[SF_INLINE_DTYPE];
    bool strided; /* out.data is NULL: copy with sf_copy_strided */
    bool borrows; /* the bytes are those of `keep`, an array that others may know and change */
};
int sf_source_from(TopicObject *topic, PyObject *data, struct sf_source *source);
/* For a loan: shape and dtype only. */
int sf_source_plan(TopicObject *topic, PyObject *shape, PyObject *dtype, struct sf_source *source,
                   PyObject **descr);
void sf_source_clear(struct sf_source *source);
/* Are the sources' bytes where they were when they were looked at, and as many? 0, or -1 with an exception:
 * code that ran since has changed an array in place. */
int sf_sources_check(const struct sf_source *sources, int count);
/* What the first elements of a loan, C order, are in another shape. B1. */
struct sf_shorter {
    uint64_t shape[SF_MAX_DIMS];
    uint64_t payload_len;
    uint32_t ndim;
};
/* 0, or -1 with an exception: no shape, or one that asks for more than `whole` has. */
int sf_shape_within(struct sf_state *state, const struct sf_source *whole, PyObject *descr,
                    PyObject *shape, struct sf_shorter *shorter);
/* Copies a strided source into `at`, C order. */
SF_APART int sf_copy_strided(struct sf_source *source, void *at);
/* Makes a strided source contiguous; for small ones. */
SF_APART int sf_source_pack(struct sf_source *source);

/* An array over `at` that keeps `base` alive, or with memory of its own (at NULL). */
PyObject *sf_array_over(PyObject *descr, uint32_t ndim, const uint64_t *shape, bool fortran,
                        void *at, PyObject *base, bool writable);
/* `count` arrays of that kind behind each other as one of shape (count, ...), with memory of its own;
 * each one's bytes lie as in a message. And that with its first `count` only. */
PyObject *sf_array_stack(PyObject *descr, uint64_t count, uint32_t ndim, const uint64_t *shape,
                         bool fortran);
void sf_array_shorten(PyObject *stack, uint64_t count);
void *sf_array_data(PyObject *array);
void sf_array_freeze(PyObject *array);
/* dtype and shape of a message from its description; checks that they give payload_len. `prefix`
 * is a private copy or a pinned block. 0 and a new reference to the dtype; SF_BAD_MESSAGE: it is
 * known to be none; -1 with an exception: nothing is known of it, and nothing may be consumed. */
SF_APART int sf_message_dtype(TopicObject *topic, const struct sf_message *message,
                              const char *prefix, uint64_t *shape, PyObject **dtype);
/* What NumPy makes of a code such as <f4: 0 and a new reference; SF_BAD_MESSAGE: it says that this is
 * no dtype; -1 with any other exception. */
int sf_descr_of_code(PyObject *code, PyObject **dtype);
/* Of `shape` times a dtype, `len` bytes; and a structure of a list of names and a dict of fields, as
 * NumPy has them, which is the dtype's from then on. 0, or -1: what they are given is a dtype. */
int sf_descr_repeat(PyObject *dtype, PyObject *shape, uint64_t len, PyObject **repeated);
int sf_descr_of_fields(PyObject *list, PyObject *table, uint64_t len, PyObject **dtype);
uint64_t sf_descr_len(PyObject *dtype);

/* dtype_wire.c: the dtype of a wire form, which holds no objects and is no subarray. As
 * sf_descr_of_code. */
SF_APART int sf_parse_dtype(const char *wire, uint32_t len, PyObject **dtype);
/* The dtype of the last message, if this one has the same short description: borrowed, no code
 * of Python's runs. */
PyObject *sf_message_dtype_cached(const TopicObject *topic, const struct sf_message *message);
/* Y1: do dtype and shape give the payload's length? */
bool sf_shape_fits(PyObject *descr, const struct sf_message *message, const uint64_t *shape);
/* Does `out` match? 0, or -1 with an exception. */
SF_APART int sf_check_out(PyObject *out, PyObject *descr, uint32_t ndim, const uint64_t *shape,
                          bool fortran);
bool sf_is_array(PyObject *object);
/* One whose values are its bytes: no subclass but those that _wire.ARRAYS names. 1, 0, or -1 with an
 * exception. */
int sf_is_plain_array(struct sf_state *state, PyObject *object);

/* ---- the types ---- */

extern PyType_Spec sf_topic_spec, sf_loan_spec, sf_view_spec, sf_message_spec, sf_messages_spec;
PyTypeObject *sf_make_stats_type(void);
PyTypeObject *sf_make_participant_type(void);

/* view.c */
SF_APART PyObject *sf_view_new(struct sf_state *state, struct sf_attachment *att, uint32_t desc);
PyObject *sf_view_new_claim(struct sf_state *state, struct sf_attachment *att,
                            const struct sf_claim *claim);
PyObject *sf_view_new_private(struct sf_state *state, uint64_t len, void **memory);

/* message.c */
PyObject *sf_message_new(struct sf_state *state);
/* Takes over what was taken. */
void sf_message_fill(PyObject *message, struct sf_taken *taken);
/* _message(), which pickles call. */
PyObject *sf_message_restore(PyObject *module, PyObject *args);

/* messages.c */
PyObject *sf_topic_messages_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                   PyObject *kwnames);

/* What a reading call asked for. */
struct sf_request {
    struct sf_deadline deadline;
    bool newest, copy;
    PyObject *out; /* or NULL */
    PyObject *or_default; /* or NULL */
    bool want_meta;
    uint64_t stack; /* at most so many alike ones, as one array; 0: one message */
    uint64_t at; /* this message, wherever the cursor stands, and consume nothing; 0: the next */
};

/* topic_wait.c: 0 look again, 1 the deadline is over, -1 exception */
/* Sleeps for message `seq`, a slice at most. */
SF_APART int sf_wait_for_message(struct sf_state *state, TopicObject *self,
                                 const struct sf_deadline *deadline, uint64_t seq);
/* A lossless reader, or a member of a group, needs the writer lock to join: a slice of patience. */
SF_COLD int sf_wait_to_join(struct sf_state *state, TopicObject *self,
                            const struct sf_deadline *deadline);
/* Attaches and joins, waiting for the topic and for the lock; *ready when the Topic may take. */
SF_COLD int sf_get_ready(struct sf_state *state, TopicObject *self,
                         const struct sf_deadline *deadline, uint64_t *waiting_since, bool *ready);
/* Once per Topic, when it has been waited for since long: 0, or -1 with an exception. */
SF_COLD int sf_warn_of_absent(struct sf_state *state, TopicObject *self, uint64_t since_ns);

/* topic_read.c */
/* The loop of every reading call. 1 taken, 0 the deadline passed, -1 exception. */
int sf_read_next(struct sf_state *state, TopicObject *self, const struct sf_request *request,
                 struct sf_taken *taken);
/* Takes what is there now. 1 taken, 0 try again, -1 exception, or a status: of an empty ring
 * taken->seq says what to wait for. A message that is described impossibly is passed (Q1), if `pass`. */
int sf_take(TopicObject *self, const struct sf_request *request, bool pass, struct sf_taken *taken);
/* The message's dtype: 1, 0 try again (the code that parsed it has forked, and this is the child, in which
 * att is void), -1 exception, SF_BAD_MESSAGE. */
SF_APART int sf_take_dtype(TopicObject *self, struct sf_attachment *att,
                           const struct sf_message *message, const char *prefix, uint64_t *shape,
                           PyObject **descr);
/* latest=True is refused where it contradicts the policy: 0, or -1 with an exception. */
SF_COLD int sf_refuse_newest(struct sf_state *state, TopicObject *self);
/* What a call gives that took nothing: the default, or an exception. */
SF_APART PyObject *sf_finish_read(struct sf_state *state, TopicObject *self,
                                  const struct sf_request *request, int status);
/* Takes the next message as a Message; NULL with *status as sf_read_next gives it. */
PyObject *sf_read_message(struct sf_state *state, TopicObject *self,
                          const struct sf_request *request, int *status);
/* Clears the exception that says that the stream is over. */
void sf_end_iteration(struct sf_state *state);
PyObject *sf_topic_read_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames);
PyObject *sf_topic_read_message_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                       PyObject *kwnames);
PyObject *sf_topic_next(PyObject *self);
/* Places a reader that is attached already, so that its "new" counts from now. */
int sf_topic_open_reader(struct sf_state *state, TopicObject *self);

/* stack.c: as sf_take, for request->stack messages that are alike. */
SF_APART int sf_take_stack(TopicObject *self, const struct sf_request *request,
                           struct sf_taken *taken);

/* topic_batch.c */
PyObject *sf_topic_write_many_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                     PyObject *kwnames);
PyObject *sf_topic_read_many_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                    PyObject *kwnames);
PyObject *sf_topic_read_messages_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                        PyObject *kwnames);

/* topic_history.c */
PyObject *sf_topic_snapshot_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                   PyObject *kwnames);
PyObject *sf_topic_peek_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames);
PyObject *sf_topic_seek_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames);

/* topic_create.c */
/* Attaches as a writer, creating what is missing. len: of the first message, or 0. 1, and not attached:
 * another generation would have to go for it, and the call `replaces` none. */
SF_COLD int sf_topic_open_writer(struct sf_state *state, TopicObject *self, uint64_t len,
                                 bool replaces);
/* Attaches a writer that may make nothing to what is there. */
SF_COLD int sf_topic_open_existing(struct sf_state *state, TopicObject *self);

/* topic_write.c */
PyObject *sf_topic_write_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames);
PyObject *sf_topic_loan_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames);
PyObject *sf_topic_shutdown_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                   PyObject *kwnames);
/* Writes what source says; 0 and *seq, or -1. */
int sf_topic_send(struct sf_state *state, TopicObject *self, struct sf_source *source,
                  const struct sf_deadline *deadline, uint64_t *seq);
#define SF_BATCH 32 /* messages that are sent under one lock: other writers wait that long */
/* Sends as many of the sources (1 to SF_BATCH) as one lock takes; how many, or -1. */
int sf_topic_send_some(struct sf_state *state, TopicObject *self, struct sf_source *sources,
                       int count, const struct sf_deadline *deadline, uint64_t *seq);
/* What every writing call starts with: closed? forked? a mode that writes? */
int sf_enter_to_write(struct sf_state *state, TopicObject *self, const char *call);
int sf_topic_publish(struct sf_state *state, TopicObject *self, struct sf_attachment *att,
                     const struct sf_out *out, const struct sf_claim *claim,
                     const struct sf_deadline *deadline, uint64_t *seq);

/* loan.c */
PyObject *sf_loan_new(struct sf_state *state, TopicObject *topic, struct sf_source *source,
                      PyObject *descr, const struct sf_deadline *deadline);

/* wait_many.c */
PyObject *sf_wait_function(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames);
extern const char sf_wait_doc[];
/* topic_async.c */
PyObject *sf_topic_fileno_method(PyObject *self, PyObject *unused);
PyObject *sf_topic_read_async_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                     PyObject *kwnames);
PyObject *sf_topic_read_message_async_method(PyObject *self, PyObject *const *args,
                                             Py_ssize_t nargs, PyObject *kwnames);
PyObject *sf_topic_aiter(PyObject *self);
/* The beacon learns where the reader stands: after whatever read, sought or attached. */
SF_APART void sf_settle(TopicObject *self);
/* The descriptor goes; before the topic is closed. */
void sf_drop_beacon(TopicObject *self);

/* topic_facts.c */
PyObject *sf_topic_stats_method(PyObject *self, PyObject *unused);
PyObject *sf_topic_participants_method(PyObject *self, PyObject *unused);
extern PyGetSetDef sf_topic_getset[];
/* The attachment to ask: the Topic's own, or a monitor's. A reference to drop; NULL with an exception
 * where the kernel refused (too many open files), without one where there is no topic to ask. */
struct sf_attachment *sf_topic_ask(TopicObject *self);
PyObject *sf_command_text(const struct sf_participant *participant);

/* topic_watch.c */
PyObject *sf_topic_last_method(PyObject *self, PyObject *unused);
PyObject *sf_topic_lock_holder_method(PyObject *self, PyObject *unused);
PyObject *sf_topic_layout_method(PyObject *self, PyObject *unused);
PyObject *sf_topic_blocks_method(PyObject *self, PyObject *limit);

#endif
