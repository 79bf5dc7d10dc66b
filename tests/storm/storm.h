/* The storm: participants of one topic that are killed or frozen at random, and what must hold.
 *
 * Owns:      what the supervisor (storm.c) and its children (writer.c, reader.c) share: the board,
 *            an anonymous mapping that outlives every one of them; the words for all of that.
 * Does not:  touch the segment; that is the core's, and each child's own attachment.
 *
 * Invariants
 *   S1  Children are forked before any use of the core, so that they inherit nothing of it.
 *   S2  A seat is written by its child alone while that lives, by the supervisor otherwise.
 *   S3  What is said of a message (struct identity) follows from its first word and its length;
 *       all its other bytes follow from those. So a torn or mixed one cannot pass.
 * A crash of a child leaves: its seat as it was, maybe with `version` odd.
 */
#ifndef SHMFLOW_TESTS_STORM_H
#define SHMFLOW_TESTS_STORM_H

#include "core/topic.h"

#include <signal.h>
#include <sys/types.h>

/* The last readers are lossless or members of a lossless group, and there with --lossless only. */
enum { WRITERS = 4, PLAIN_READERS = 6, READERS = 10, SEATS = WRITERS + READERS };
enum { HELD = 64, PIDS = 4096, TABLE = 65536, TOPIC_SLOTS = 64 };

#define TOPIC_NAME "storm"
#define TEAM "team"
#define MS UINT64_C(1000000)
#define SECOND UINT64_C(1000000000)
#define LATE_NS (10 * SECOND) /* a time-out that fires so much later has not fired */

/* ---- what a message is (message.c) ---- */

struct identity {
    uint64_t word; /* its first eight bytes: all of the next three, and a check */
    uint32_t writer, incarnation, counter;
    uint64_t len, seed;
};

struct text {
    uint64_t shape[SF_MAX_DIMS];
    char dtype[64], meta[256];
};

uint64_t mix(uint64_t value);
uint64_t draw(uint64_t *random);
uint64_t draw_between(uint64_t *random, uint64_t low, uint64_t high); /* both included */
/* As likely between 8 and 16 as between 8 Ki and 16 Ki. */
uint64_t draw_len(uint64_t *random, uint64_t low, uint64_t high);

struct identity identify(uint32_t writer, uint32_t incarnation, uint32_t counter, uint64_t len);
/* Bytes [from, to) of the payload; both multiples of 8, or the end. */
void fill_payload(char *payload, const struct identity *id, uint64_t from, uint64_t to);
/* How the message is described; `text` is what `out` points to. */
void describe(const struct identity *id, struct text *text, struct sf_out *out);
/* NULL, or what is wrong. */
const char *check_payload(const char *payload, uint64_t len, struct identity *id);
const char *check_description(const struct sf_message *m, const char *prefix,
                              const struct identity *id);

/* ---- the board (board.c) ---- */

/* Of all incarnations of a seat, for the table at the end. Its child alone counts. */
struct tally {
    _Atomic uint64_t written, written_len, loans, dropped, refused;
    _Atomic uint64_t read, read_len, lost, skipped, views, in_lane, repeats, joined, unchecked;
};

struct seat {
    _Alignas(64) _Atomic uint32_t incarnation;
    _Atomic uint32_t owner; /* its owner word; 0: not attached, or a monitor */
    _Atomic uint32_t claim; /* the descriptor it has claimed, + 1 */
    _Atomic uint32_t held[HELD]; /* descriptors it surely holds, + 1 */
    _Atomic uint64_t last_written_seq;
    _Atomic uint64_t success_ns; /* when it last got a write or a read done */
    _Atomic uint64_t next_seq;   /* what a reader waits for */

    /* This attachment's reading, odd while it changes. */
    _Atomic uint32_t version;
    _Atomic uint64_t first_seq, last_seq, read, lost, skipped;

    struct tally tally;
    _Atomic uint32_t pids[PIDS]; /* of incarnation i, at i % PIDS */
};

struct board {
    uint64_t capacity, max_message, depth, seed;
    uint64_t patience_ns; /* who gets nothing done for so long is stuck */
    bool freezing;        /* frozen, not killed: writers use short time-outs */
    uint32_t seat_count;  /* how many seats are taken */
    pid_t supervisor;
    _Atomic uint32_t stop; /* children are to leave in good order */

    _Atomic uint32_t violated; /* 1: being told, 2: told */
    char told[1024];

    _Atomic uint64_t kill_ns; /* the first kill after which nothing has been written, or 0 */
    _Atomic uint64_t longest_recovery_ns, longest_write_ns, longest_overshoot_ns;

    struct seat seats[SEATS];
    /* Sequence number to content: the upper 24 bits are seq / TABLE, the rest of the hash. */
    _Atomic uint64_t table[TABLE];
    /* Numbers that members took, at seq % TABLE; their group's cursor at the start. */
    _Atomic uint64_t team[TABLE], team_from;
    uint64_t team_deaths; /* the supervisor's */
};

extern struct board *board;
/* What the supervisor does at a violation; NULL in children, which just end. */
extern void (*on_violation)(void);

struct board *make_board(void);
/* Ends the storm. Whoever is first tells. */
_Noreturn void violate(const char *format, ...) __attribute__((format(printf, 1, 2)));
void set_max(_Atomic uint64_t *word, uint64_t value);
void count(_Atomic uint64_t *word, uint64_t by);
/* Whoever wrote or read message seq says what it was: all must say the same. */
void note_content(struct seat *seat, uint64_t seq, const struct identity *id, const char *doing);
void note_success(struct seat *seat);
const char *role_of(uint32_t seat);
bool is_lossless(uint32_t seat); /* members too */
bool is_member(uint32_t seat);
/* Never killed or frozen: it loses nothing, ever. */
bool is_spared(uint32_t seat);
/* A member has it: nobody else may. */
void note_team(struct seat *seat, uint64_t seq);

/* ---- children (writer.c, reader.c) ---- */

_Noreturn void be_writer(uint32_t seat);
_Noreturn void be_reader(uint32_t seat);
void join_topic(struct sf_topic *topic, struct seat *seat, enum sf_mode mode, uint64_t max_held);
void leave_topic(struct sf_topic *topic, struct seat *seat);
void nap(uint64_t ns);

/* ---- the supervisor's eyes (watch.c) ---- */

/* What a frozen participant had, to be compared with what it still has. */
struct possession {
    uint32_t owner, slot, gen, lock, claim, claim_owner, rebuilds;
    uint64_t claim_len, head, bits, cursor, tail;
    uint32_t policy, group;
    bool has_lock, has_lane;
    uint32_t held[HELD];
    uint64_t off[HELD], len[HELD];
};

void watch_open(const char *path);
const struct sf_ring *watch_ring(void);
bool watch_has_lock(const struct seat *seat);
/* Does it write to the lane right now? Then whoever finds main full waits for it. */
bool watch_has_lane(const struct seat *seat);
void watch_look(const struct seat *seat, struct possession *out);
/* `others_die`: then a rebuild is no wonder, unless the frozen one has the lock. */
void watch_compare(uint32_t seat, const struct possession *before, bool others_die);
/* After a child has died: do its figures add up, is what it wrote there? */
void watch_dead(uint32_t seat);
/* Has it got anything done lately, though there was something to do? */
void watch_stuck(uint32_t seat, uint64_t since_ns);
/* Were a group's messages taken by somebody, but for one with each death? Nobody is left. */
void watch_team(void);

/* ---- after the storm (after.c) ---- */

/* Nobody is left: nothing of anybody may be left either. Unlinks the topic. */
void check_aftermath(const char *folder, const char *path);

#endif
