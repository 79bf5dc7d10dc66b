/* An attachment: one process's hold on one generation of a topic, as one participant.
 *
 * Owns:      struct sf_attachment and the functions on it: segment.c (make, attach, remove),
 *            participants.c (slots and liveness), lock.c, wait.c, pins.c, fork.c.
 * Does not:  know topics by name over generations (topic.c) or messages' meaning.
 *
 * Invariants
 *   H1  An attachment lives until its last reference is dropped: a Topic's, a view's, a loan's, a
 *       call's in flight. Only then its slot, its byte and its mappings are given back.
 *   H2  It belongs to the process that made it. After a fork the child may only drop references:
 *       sf_attachment_is_mine() is false there, and nothing shared is touched.
 *   H3  Fields without a comment on threads are constant from attach to the end.
 *   H4  Order of locks: registry (fork.c), then pins. The writer lock is never waited for while
 *       either is held; none is held across user code.
 * A crash leaves: a taken slot whose byte is free; participants.c cleans it.
 */
#ifndef SHMFLOW_ATTACHMENT_H
#define SHMFLOW_ATTACHMENT_H

#include "core/ring.h"
#include "os/os.h"

#define SF_SLICE_NS UINT64_C(100000000) /* no sleep is longer: a killed waker strands nobody */

#define SF_FILL_LEN (UINT64_C(2) << 20) /* page tables are filled in steps of this */

struct sf_fork_copy; /* fork.c */

/* Which way large payloads take, and what each way costs lately (copy.c). */
enum sf_way { SF_CACHED, SF_STREAMED };
struct sf_copies {
    _Atomic uint32_t cost[2]; /* in ps per byte; 0: not known */
    _Atomic uint32_t way, on_trial, left;
};

struct sf_attachment {
    struct sf_ring ring;
    _Atomic uint32_t refs;
    uint32_t epoch; /* of the process that attached (fork.c) */
    bool monitor;   /* read-only: no slot, no lock, no store */
    char *path;
    uint64_t dev, ino;
    uint64_t folder_dev, folder_ino; /* of the folder that path led to */
    uint32_t uid; /* the file's owner */
    uint8_t identity[16];

    char *control;
    size_t control_len;
    char *arena;    /* read-only for everybody */
    char *arena_rw; /* writers' second mapping, else NULL */
    size_t arena_len;
    void *life; /* the page that keeps the description with our byte's lock alive */

    uint32_t slot;  /* SF_NIL for a monitor */
    uint32_t owner; /* its owner word */
    int cleaned;    /* how many dead participants it cleaned while it attached */

    /* Where the reader stands: in its slot, in its group, or here for a monitor. Any thread of the
     * process; for a group, of any process. How it reads (join.c): its group's number, or 0. */
    _Atomic uint64_t *cursor;
    _Atomic uint64_t monitor_cursor;
    uint32_t group;
    bool lossless;
    _Atomic uint64_t raced; /* a hint: the last message that was overwritten while it was copied */

    /* pins.c, under the mutex: how many views of this process look at a block. */
    pthread_mutex_t pins_mutex;
    uint32_t *pins;
    uint64_t held_len, held_blocks, pinned, max_held, least_held;

    /* Any thread, relaxed: hints that may be lost. */
    _Atomic uint8_t *filled; /* per 2 MiB of the arena: are its page tables filled? (pages.c) */
    _Atomic uint64_t next_probe_ns, next_clean_ns, next_look_ns, next_name_ns;
    _Atomic uint32_t blind; /* the errno for which others' bytes could not be looked at, or 0 */
    _Atomic uint32_t spin_ns, spin_unpaid; /* what the adaptive spin has learned (wait.c) */
    _Atomic uint32_t idle_chunk; /* which chunk to fill when there is time (pages.c) */
    struct sf_copies ways;

    /* fork.c, under the registry's mutex. */
    struct sf_attachment *next, *prev;
    bool registered;
    struct sf_fork_copy *copies;
    bool copies_failed;
};

/* ---- create.c, segment.c, remove.c ---- */

/* Where a topic's file lies: "<dir>/shmflow.<name>", with '+' for '/'. SF_BAD_NAME. */
int sf_segment_path(const char *name, char *out, size_t len);
/* The folder of all topics: $SHMFLOW_DIR, or /dev/shm. */
const char *sf_segment_dir(void);

/* What is known of the folder that a topic's path lies in. */
int sf_folder_info(const char *path, struct os_file_info *info);

/* -errno of opening or removing a file, as a status. */
int sf_open_status(int status);

/* Makes a topic's file, reserved and initialised, then gives it its name. `between` is called
 * every 64 MiB; a negative answer stops and undoes; in a child that it forked nothing is made: SF_RACE.
 * SF_EXISTS, SF_NO_SPACE, SF_NO_CGROUP. */
int sf_segment_create(const char *path, const struct sf_params *params, uint32_t permissions,
                      int (*between)(void *), void *context);

enum sf_when {
    SF_ALWAYS,
    SF_WHEN_IDLE, /* nobody is attached */
    SF_WHEN_FLAGGED, /* an earlier remover died before it took the name away */
};
/* A generation whose place a new one takes, if it is still there as it was judged to be. */
struct sf_replaced {
    bool there;
    bool any; /* whichever it is */
    uint8_t identity[16];
    enum sf_when when;
    uint64_t spare_len; /* the memory that comes free with it; 0 while somebody is attached */
};
/* The same in the place of another. Whatever fails, that one stands, and until it is replaced it has its
 * name. SF_EXISTS: it was not as it was judged to be; look again. */
int sf_segment_replace(const char *path, const struct sf_params *params, uint32_t permissions,
                       const struct sf_replaced *old, int (*between)(void *), void *context);

enum sf_attach_as { SF_AS_MONITOR, SF_AS_READER, SF_AS_WRITER };
/* Attaches to what has the name now. The ladder: file, header, maps, slot, still there?
 * Fails with the rung's status; never creates, truncates or removes. */
int sf_attach(const char *path, enum sf_attach_as as, struct sf_attachment **out);
void sf_attachment_ref(struct sf_attachment *att);
SF_APART void sf_attachment_unref(struct sf_attachment *att);

/* Ends a generation: flags it, rings, removes its name. `identity` says which generation is
 * meant, NULL any. SF_BUSY: it is not in the state that `when` asks for. SF_NOT_FOUND, SF_DENIED. */
int sf_segment_remove(const char *path, const uint8_t *identity, enum sf_when when);
/* Gives the name of `old` to the file that stands by as `tmp`, then ends it. SF_NOT_FOUND, SF_BUSY, SF_RACE:
 * it is not as it was judged to be. */
int sf_segment_succeed(const char *path, const struct sf_replaced *old, const char *dir,
                       const char *tmp);
/* Is nobody attached to what has the name? 1, 0, or a status. */
int sf_segment_is_idle(const char *path);
/* The same at the end of the process, if nobody is attached but the slots that `mine` marks. */
int sf_segment_remove_last(const char *path, const uint8_t *identity, const uint8_t *mine);
/* Does the name still lead to this segment? If not, says so to all in the segment. */
SF_COLD bool sf_attachment_is_named(struct sf_attachment *att);
/* Was it removed, by the flag or by the name? */
bool sf_attachment_has_gone(struct sf_attachment *att);
/* As below; what is deserted is removed, and absent: SF_NOT_FOUND. SF_DESERTED: that is refused. */
int sf_segment_find(const char *path, struct sf_layout *layout, struct os_file_info *info,
                    uint8_t identity[16]);
/* Reads a segment's constants without taking anything. SF_DESERTED: G8 of segment.c. */
int sf_segment_peek(const char *path, struct sf_layout *layout, struct os_file_info *info,
                    uint8_t identity[16]);

/* ---- trial.c ---- */

/* Can the file system of this new file carry topics? Its first page is zeros, and is again; `len`
 * bytes were reserved. SF_FS_LOCKS, SF_FS_SHARING, SF_FS_RESERVE, SF_FS_FUTEX: it cannot. */
int sf_try_file(int fd, const char *dir, const char *tmp, uint64_t len);
/* The same on a file that is made for it, and gone when this returns. */
int sf_try_folder(const char *dir);
/* Is the slot's byte, which its owner has locked, seen locked through this description? SF_FS_LOCKS. */
int sf_try_life(int fd, uint32_t slot);
/* Can be slept on the word? SF_FS_FUTEX. */
int sf_try_futex(_Atomic uint32_t *word);

/* ---- participants.c ---- */

int sf_slot_take(struct sf_attachment *att, int lock_fd);
void sf_slot_give_up(struct sf_attachment *att);
/* Cleans dead participants; returns how many. Opens the file anew; rate-limit it. */
SF_COLD int sf_clean_dead(struct sf_attachment *att);
/* Is the participant of this owner word dead? Then it is cleaned. Rate-limited inside. */
SF_COLD bool sf_probe_dead(struct sf_attachment *att, uint32_t owner);
/* Fills alive[max_participants] with 1 where a slot is taken by a living participant; how many, or
 * why it cannot be told. */
int sf_list_living(struct sf_attachment *att, uint8_t *alive);
/* How many others are attached and alive, or why it cannot be told. */
int sf_count_others(struct sf_attachment *att);
SF_COLD void sf_add_role(struct sf_attachment *att, uint32_t role);
void sf_clear_roles(struct sf_attachment *att);

/* ---- lock.c ---- */

int sf_lock_try(struct sf_attachment *att);
/* Until until_ns: 0, or not held: SF_BUSY, SF_INTERRUPTED, SF_GONE, SF_CORRUPT. */
SF_APART int sf_lock_wait(struct sf_attachment *att, uint64_t until_ns);
void sf_unlock(struct sf_attachment *att);

/* ---- wait.c ---- */

/* Wakes all sleepers, if the flag says that there are any, or in any case. */
void sf_bell_ring(struct sf_bell *bell);
SF_APART void sf_bell_ring_always(struct sf_bell *bell);
/* Until until_ns at most, and at most a slice: 0 look again, SF_EMPTY nothing came,
 * SF_INTERRUPTED. spin_ns < 0: adaptive. */
SF_APART int sf_wait_message(struct sf_attachment *att, uint64_t cursor, uint64_t until_ns,
                             int64_t spin_ns, const _Atomic uint32_t *closed);
/* Looks for a microsecond or two, and stores nothing: before one gives up a lock that is dear. */
SF_APART bool sf_spin_briefly(struct sf_attachment *att, uint64_t cursor,
                              const _Atomic uint32_t *closed);
/* One of many topics that are waited for in one sleep. */
struct sf_waited {
    struct sf_attachment *att; /* NULL: there is no topic yet */
    const char *path; /* of the file that then may appear */
    uint64_t seq; /* as cursor of sf_wait_message: what a look found missing */
    const _Atomic uint32_t *closed; /* or NULL */
};
#define SF_WAITED_MAX OS_WATCHED_MAX
/* Until until_ns at most, and at most a slice: 0 look again, SF_EMPTY nobody was told of anything
 * (look again all the same), SF_INTERRUPTED. */
int sf_wait_any(const struct sf_waited *waited, unsigned count, uint64_t until_ns);
/* Waiting for room: listen, try to claim, then sleep for what rang since listen. */
SF_COLD uint32_t sf_room_listen(struct sf_attachment *att);
SF_COLD int sf_room_sleep(struct sf_attachment *att, uint32_t count, uint64_t until_ns);

/* ---- pins.c ---- */

/* The top bit of a count: the block was a loan, so views of it lie in the writable mapping. */
#define SF_WAS_LOAN UINT32_C(0x80000000)

enum sf_pin_answer { SF_PIN_OK, SF_PIN_GONE, SF_PIN_CAP };
/* Holds the message's block for a view. SF_PIN_CAP: the participant holds max_held already (not
 * asked for when `brief`, as a copy in progress is). */
enum sf_pin_answer sf_pin(struct sf_attachment *att, const struct sf_message *message, bool brief);
void sf_unpin(struct sf_attachment *att, uint32_t desc);
/* A loan: a claim that Python fills. It counts as held from the start. */
bool sf_loan_fits(struct sf_attachment *att, uint64_t block_len);
void sf_loan_begin(struct sf_attachment *att, uint32_t desc);
/* Before publish: the claim becomes a block that the writer itself holds. */
void sf_loan_keep(struct sf_attachment *att, uint32_t desc);
/* The last array of a dropped loan died. */
void sf_loan_drop(struct sf_attachment *att, uint32_t desc);

/* ---- flow.c ---- */

/* A message to be written. dtype, shape and meta are the caller's; data may be NULL when the
 * caller fills the block itself. */
struct sf_out {
    const void *data;
    uint64_t payload_len;
    const uint64_t *shape;
    const char *dtype;
    const void *meta;
    uint64_t stamp_ns; /* if it brings one; else it is the time of publication */
    uint32_t ndim, dtype_len, meta_len;
    bool fortran, stamped;
};

#define SF_SMALL_LEN 4096u /* blocks up to this are copied inside the critical section */
#define SF_TRY UINT64_C(0) /* as until_ns: try once, make no system call */

uint64_t sf_out_block_len(const struct sf_out *out);
/* Claim, copy and publish in one critical section; for blocks up to SF_SMALL_LEN. Until until_ns:
 * 0, SF_BUSY, SF_NO_ROOM, SF_LAGGING, SF_INTERRUPTED (come again, or sf_leave_queue), SF_OWN_LAG,
 * SF_ENDED, SF_GONE, SF_CORRUPT. */
int sf_send_small(struct sf_attachment *att, const struct sf_out *out, uint64_t until_ns,
                  uint64_t *seq);
/* Several of them under one lock, with one stamp for those that bring none, and one wake; waits for
 * the first only. How many were sent (*seq: the last one's number), or a status as above. */
int sf_send_batch(struct sf_attachment *att, const struct sf_out *const *outs, int count,
                  uint64_t until_ns, uint64_t *seq);
/* The same in three steps, for larger ones. A claim ends with a publish that succeeds, or drop. */
int sf_send_claim(struct sf_attachment *att, uint64_t block_len, enum sf_lane lane,
                  uint64_t until_ns, struct sf_claim *claim);
/* Where the payload goes; writes the prefix before it. Fills page tables. */
void *sf_send_payload(struct sf_attachment *att, const struct sf_out *out,
                      const struct sf_claim *claim);
/* Waits for lossless readers where the depth asks it to. */
int sf_send_publish(struct sf_attachment *att, const struct sf_out *out,
                    const struct sf_claim *claim, uint64_t until_ns, uint64_t *seq);
/* A write had to wait for room: told once per write, to people. */
void sf_count_wait(struct sf_attachment *att);
/* Gives up waiting for room: the next in line is told. */
SF_COLD void sf_leave_queue(struct sf_attachment *att);
void sf_send_drop(struct sf_attachment *att, const struct sf_claim *claim);
/* Ends the stream for everybody. 0, or SF_BUSY when a frozen writer holds the lock. */
int sf_shutdown(struct sf_attachment *att, uint64_t until_ns);

/* ---- copy.c ---- */

/* memcpy of a payload into its block, for large ones by whichever way is quicker here. */
void sf_copy_in(struct sf_attachment *att, void *to, const void *from, size_t len);

/* ---- pages.c ---- */

enum { SF_FILLED_READ = 1, SF_FILLED_WRITE = 2 };
/* At creation: has the first pages of the arena cleared. */
void sf_pages_clear(int fd, const struct sf_layout *layout);
/* At attach: maps what will be used next. */
void sf_pages_begin(struct sf_attachment *att);
/* By who has nothing to read: maps one step more, until all that was cleared is. */
void sf_pages_idle(struct sf_attachment *att);
SF_COLD void sf_fill_pages_slow(struct sf_attachment *att, uint64_t off, uint64_t len,
                                bool writable);
/* Maps [off, off + len) of the arena, what is past its end excepted, ahead of a copy. */
static inline void
sf_fill_pages(struct sf_attachment *att, uint64_t off, uint64_t len, bool writable)
{
    uint8_t bit = writable ? SF_FILLED_WRITE : SF_FILLED_READ;
    bool one = off / SF_FILL_LEN == (off + len) / SF_FILL_LEN;
    if (!one ||
        (sf_load_relaxed(&att->filled[off / SF_FILL_LEN]) & bit) == 0) { /* a private hint */
        sf_fill_pages_slow(att, off, len, writable);
    }
}

/* ---- join.c ---- */

enum sf_start { SF_OLDEST, SF_LATEST, SF_NEW };
struct sf_joining {
    const char *group; /* or NULL */
    uint64_t cursor; /* 0: as start says. A group that is there goes on where it stands. */
    enum sf_start start;
    bool lossless;
};
/* Places a reader. Only lossless ones and groups take the writer lock; until until_ns: SF_BUSY,
 * SF_INTERRUPTED, SF_GONE, SF_CORRUPT. SF_NO_LOSSLESS_HERE, SF_NO_GROUP, SF_GROUP_POLICY. */
int sf_join(struct sf_attachment *att, const struct sf_joining *how, uint64_t until_ns);
/* Protects nothing any more, and is no member any more; views may keep the slot. */
void sf_unjoin(struct sf_attachment *att);
/* Places the cursor of a plain reader. */
void sf_subscribe(struct sf_attachment *att, enum sf_start start);
void sf_resubscribe(struct sf_attachment *att, uint64_t cursor);
/* Moves the cursor to a message that is retained, or behind the newest: SF_NOT_RETAINED. Takes the
 * writer lock where join does. A group's moves for all its members. */
int sf_seek(struct sf_attachment *att, uint64_t seq, uint64_t until_ns);
/* Where a reader that starts so would stand; the first retained message that is not older than the
 * stamp, or the next to come. */
uint64_t sf_find_start(const struct sf_attachment *att, enum sf_start start);
uint64_t sf_find_stamp(const struct sf_attachment *att, uint64_t stamp_ns);

/* ---- take.c ---- */

/* The next message; *from gets the cursor it was looked up at. SF_EMPTY, SF_ENDED or SF_GONE
 * when it is drained, SF_BAD_MESSAGE, SF_CORRUPT. Nothing is consumed before commit. */
int sf_take_look(struct sf_attachment *att, bool newest, uint64_t *from,
                 struct sf_message *message);
/* It was overwritten while it was copied: the next look begins further on. */
void sf_take_raced(struct sf_attachment *att, const struct sf_message *message);
/* To be asked after each race that was lost: has that gone on for longer than a deadline may be
 * overrun? *since_ns is 0 before the first. */
SF_COLD bool sf_take_is_hopeless(uint64_t *since_ns);
/* Consumes it; false if another thread, or member of the group, was quicker. */
bool sf_take_commit(struct sf_attachment *att, uint64_t from, const struct sf_message *message);
const char *sf_message_prefix(const struct sf_attachment *att, const struct sf_message *message);
const char *sf_message_payload(struct sf_attachment *att, const struct sf_message *message);

/* ---- fork.c ---- */

/* Once per process, before the first attach. */
int sf_process_setup(void);
uint32_t sf_process_epoch(void);
bool sf_attachment_is_mine(const struct sf_attachment *att);
/* Between these no handler of a fork runs: a child must not inherit what is being locked. */
void sf_fork_hold(void);
void sf_fork_release(void);
void sf_registry_add(struct sf_attachment *att);
void sf_registry_remove(struct sf_attachment *att);
/* True once after a fork that could not keep all inherited views as they were. */
bool sf_fork_trouble(void);
/* At interpreter exit: temporary topics go when nobody else uses them, and none is made any more. */
void sf_process_exit(void);
bool sf_process_is_ending(void);

#endif
