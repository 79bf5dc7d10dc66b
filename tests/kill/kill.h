/* The kill matrix: every operation, dead at every point of it, with survivors that must not care.
 *
 * Owns:      what its files share: a scene, an operation, the note a victim leaves, the verdict.
 *   main.c     options, workers
 *   report.c   the one way to fail, the counts, the table
 *   run.c      processes: victims, recoverers, helpers; sf_point, where they die
 *   scene.c    a small topic with survivors; what they write, read and hold
 *   check.c    what must be true after a death
 *   residue.c  which deaths leave the same
 *   flow_ops.c, wait_ops.c, life_ops.c, policy_ops.c    the operations
 * Does not:  know how the core does anything: it uses its functions, and looks at its tables.
 *
 * Invariants
 *   1  A scene is made anew for each death, in a folder that is empty before and after.
 *   2  Survivors (a writer, a reader that holds frames, a monitor) live in the supervising process;
 *      whoever may die is forked from it, and owns nothing of theirs.
 *   3  What every message must contain follows from its author and its author's count.
 *   4  Time is measured and printed, never judged, but for the nets against hanging.
 */
#ifndef SHMFLOW_TESTS_KILL_H
#define SHMFLOW_TESTS_KILL_H

#include "core/shmflow.h"
#include "core/topic.h"

#include <stdio.h>
#include <sys/types.h>

enum {
    CAPACITY = 64 * 1024,
    MAX_MESSAGE = 32 * 1024,
    SMALL = 704,
    LARGE = 5056, /* just pinnable */
    HUGE = 20032,
    TOO_LONG = 40064, /* more than MAX_MESSAGE */
    MAX_SEQ = 512,
    MAX_HELD = 32,
    MAX_OPS = 96,
    MAX_SAMPLES = 8192,
    MAX_RESIDUES = 4096,
    MAX_JOBS = 16,
    SHARDS = 4, /* the points of an operation are shared out to so many work items */
};

#define PATIENCE_NS UINT64_C(5000000000) /* a net against hanging, and the only one */
#define MS UINT64_C(1000000)
#define TEAM "team" /* the group of scenes that have one */

/* Who wrote a message. Only those above SURVIVOR may die. */
enum author { NOBODY, SURVIVOR, VICTIM, RECOVERER, HELPER, CHILD, AUTHORS };

/* What a process that may die tells its supervisor, in memory that both have. */
struct note {
    const char *volatile file; /* of the point it died at: the same program, the same address */
    volatile int line;
    volatile long points;    /* passed, once the act is done */
    volatile int hit;        /* it came to its point */
    volatile int locked;     /* with the writer lock in its hands */
    volatile int attached;   /* its slot + 1 */
    volatile int published;  /* messages whose writing was over */
    volatile unsigned char took[MAX_SEQ]; /* 1: it has taken this one, and knows it */
    volatile int done, status;
    _Atomic uint32_t ready, go; /* of a recoverer that is there before the first death */
};

struct held {
    struct sf_message message;
    uint64_t author, serial;
};

/* One participant, with what it holds; the victim's is in its own process only. */
struct party {
    enum author author;
    struct sf_attachment *att;
    uint64_t serial; /* messages it has written */
    struct held held[MAX_HELD];
    int held_count;
    struct sf_claim claim;
    bool has_claim;
};

struct scene {
    const struct op *op;
    long nth;
    char name[16], path[160];
    struct party writer, reader, watcher, filler; /* survivors; the filler is some scenes' only */
    struct party member; /* a survivor in the group, of scenes that have one */
    uint64_t team_from;  /* the group's cursor when the victim came */
    unsigned char took[MAX_SEQ]; /* by the member */
    struct party self;                            /* in a forked process: itself */
    struct shmflow_topic *capi;                   /* a victim's */
    struct sf_topic topic;                        /* a victim's */
    int fd;       /* to ask for lock bytes */
    int living;   /* slots below this are survivors' */
    int spared;   /* the slot + 1 of a recoverer that waits; 0 none */
    pid_t sleeper;
    uint64_t survivor_count; /* messages that survivors have written in it */
    uint64_t known[MAX_SEQ][2]; /* author and serial, by seq; 0 not known */
    uint64_t free_ns;           /* when the dead one's byte was free */
    bool patient; /* the first write after the death waits as long as it takes, in one call */
    bool orderly; /* the victim left by itself: there is nothing to be cleaned */
};

/* What there is when the victim comes. */
enum {
    NO_TOPIC = 1,   /* nothing */
    TEMPORARY = 2,  /* a temporary topic without survivors but the monitor */
    DEPTH = 4,      /* a bounded depth */
    MAIN_HELD = 8,  /* the reader holds all of main */
    CAN_STOP = 16,  /* the operation is also tried with SIGSTOP */
    IN_CHILD = 32,  /* the points are those of the child that the victim forks */
    FORKS = 64,     /* the victim leaves children behind */
    NO_TMPFILE = 128, /* the file system has no O_TMPFILE */
    READS = 256,    /* the victim subscribes at the newest message */
    MAY_END = 512,  /* the topic may have ended, or be another */
    IDLE = 1024,    /* nobody is attached but the monitor */
    LAGS = 2048,    /* the victim is lossless, or may be: writers wait for it while it lives */
    LOSSLESS = 4096, /* the survivors' reader is lossless */
    GROUP = 8192,   /* a survivor is a member of a group, as is whoever recovers */
    LOSSY = 16384,  /* ... which is not lossless */
    BATCH = 32768,  /* a death may leave several messages of one call */
    REPLACES = 65536, /* there is a topic of that name, old or new, at every instant */
};

struct op {
    const char *name;
    unsigned flags;
    int messages; /* that the victim may publish */
    int (*act)(struct scene *);         /* victim, counted */
    int (*ready)(struct scene *);       /* victim, before; NULL: attaches as a writer */
    void (*stage)(struct scene *);      /* supervisor, before */
    void (*between)(struct scene *);    /* supervisor, once the victim is ready */
    void (*meanwhile)(struct scene *);  /* supervisor, while the victim is at it */
    void (*afterwards)(struct scene *); /* supervisor, after the death, before the first write */
    void (*settle)(struct scene *);     /* supervisor, after the first writes */
    int how;                            /* for acts that come in several kinds */
};

extern const struct op flow_ops[], wait_ops[], life_ops[], policy_ops[]; /* NULL names end them */

/* ---- run.c ---- */

enum { NOTE_VICTIM, NOTE_RECOVERER, NOTE_HELPER, NOTES };
extern struct note *notes; /* NOTES of them */

enum second { NO_SECOND, THIEF, NEWCOMER };
bool takes_thief(const struct op *op); /* can a recoverer have attached before? */
/* Plays one scene; true if the victim came to its nth point. second: how the recoverer comes that
 * dies at its mth. With `stop` the victim is stopped there, and goes on. */
bool play(const struct op *op, long nth, enum second second, long mth, bool stop);
extern uint64_t residue; /* of the last first death */
/* Dies at each point of an act in an empty folder, and leaves there what that leaves. */
void leave_debris(const struct op *op);
/* The victim is dead, or has died meanwhile. */
bool victim_is_gone(void);
/* A participant that is killed when `when` says so, first asked at its next point; NULL: after
 * its act. */
void helper_dies(struct scene *s, int (*act)(struct scene *), bool (*when)(struct scene *));
/* A process that sleeps until a message comes. */
void start_sleeper(struct scene *s);
void end_sleeper(struct scene *s);
/* fork, for acts: the points of the child count for an operation IN_CHILD. */
pid_t fork_in_act(void);

/* ---- scene.c ---- */

extern char folder[128];
void scene_open(struct scene *s, const struct op *op, long nth);
void scene_close(struct scene *s);
int files_left(char name[256]); /* in the folder; name of one of them */
void build_topic(struct scene *s, uint32_t flags, uint64_t depth);
int attach_self(struct scene *s, enum sf_attach_as as);
/* One message; the party's next. */
int put(struct scene *s, struct party *p, uint64_t len, uint64_t until_ns);
int publish_claim(struct scene *s, struct party *p, uint64_t len, uint64_t until_ns);
void fill_claim(struct party *p, void *at, uint64_t len);
/* As a member of the group of scenes that have one. */
int join_team(struct scene *s, struct party *p);
/* The next message, checked; held if asked for and possible. 1 taken, else a status. */
int take(struct scene *s, struct party *p, bool hold);
void take_all(struct scene *s, struct party *p);
/* ... of all survivors that writers wait for. */
void drain(struct scene *s);
/* A survivor's: it must succeed. Returns its number. */
uint64_t must_put(struct scene *s, uint64_t len);
void judge(struct scene *s, uint64_t seq, const void *data, uint64_t len);
void check_held(struct party *p, const char *whose);
void let_go(struct party *p);
void hold_all_of_main(struct scene *s);

/* ---- residue.c ---- */

/* What a death has left, as one number: the same for two deaths that nobody can tell apart. */
uint64_t residue_of(const struct scene *s);

/* ---- check.c ---- */

void wait_for_free_bytes(struct scene *s);
/* Somebody who comes now: opens by name, writes, reads that, leaves. 0, or a status. */
int come_and_go(struct scene *s, enum author author);
/* After each death: everything that must be true. */
void check_after_death(struct scene *s);
void check_while_stopped(struct scene *s);
bool is_usable(const struct scene *s); /* named, and not ended */

/* ---- report.c ---- */

/* What operations have in common. */
static inline uint64_t
long_enough(void)
{
    return os_now_ns() + PATIENCE_NS;
}

static inline int
come_alone(struct scene *s)
{
    (void)s;
    return 0;
}

static inline int
be_reader(struct scene *s)
{
    return attach_self(s, SF_AS_READER);
}

static inline int
write_small(struct scene *s)
{
    return put(s, &s->self, SMALL, long_enough());
}

static inline int
write_large(struct scene *s)
{
    return put(s, &s->self, LARGE, long_enough());
}

/* Until the victim sleeps on the bell, or is dead. */
static inline void
wait_for_a_sleeper(const struct sf_bell *bell)
{
    while (!victim_is_gone() && sf_load_seq(&bell->sleepers) == 0) { /* H */
        (void)os_sleep_until(os_now_ns() + MS / 20);
    }
}

struct verdict_context {
    const char *op, *second;
    long nth, mth;
};
extern struct verdict_context context;
/* From the dead one's free byte to a survivor's first success. */
void note_recovery(uint64_t ns);

/* Counted by all workers, read at the end. */
struct result {
    _Atomic uint64_t points, locked, seconds, stops, max_ns, sample_count;
    _Atomic uint64_t residues[MAX_RESIDUES]; /* that have had all their second deaths */
    uint64_t samples[MAX_SAMPLES];
};
struct shared {
    _Atomic uint64_t next, failed;
    struct result results[MAX_OPS];
};
extern struct shared *shared;
extern struct result *result; /* of the item at hand */
int start_report(void);
void tell_results(const struct op *const *ops, int count);
void violated_by_signal(int number);
_Noreturn void violated(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
#define MUST(condition, ...)                                                                       \
    ((condition) ? (void)0 : violated(__FILE__, __LINE__, #condition ": " __VA_ARGS__))

#endif
