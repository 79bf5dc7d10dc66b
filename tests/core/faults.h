/* Every system call and allocation of an operation fails once, then for good, with each error that
 * it knows: what then must be true, and the loop that tries it.
 *
 * Owns:      sf_point; struct op and explore().
 * Does not:  know any operation (the programs that include it list theirs), or look (faults_look.h).
 *
 * A failed operation must say so with the error's own status, keep nothing, and do its work when
 * it is asked again. Whether it failed or not, a second participant goes on, and what that one
 * holds is unchanged. The quick form tries the first calls that come the same way through the
 * code (a loop makes hundreds); FAULTS_ALL=1 tries each. FAULTS_LIST=1 lists the places.
 */
#ifndef SHMFLOW_TESTS_FAULTS_H
#define SHMFLOW_TESTS_FAULTS_H

#include "faults_look.h"

#include "os/fault.h"

#include <execinfo.h>

enum { MAX_PLACES = 256, MAX_CALLS = 8192, SAME_WAY = 1 };

enum {
    FILE_STAYS = 1,  /* a failure may leave a file: nobody is left who could be told */
    MADE_STAYS = 2,  /* a failure may leave the topic that it was to make */
    REPLACES = 4,    /* ... in the place of the peer's, which has ended by then */
};

struct op {
    const char *name;
    void (*set)(struct scene *);
    int (*run)(struct scene *); /* a status; after a failure it is called once more, without one */
    void (*end)(struct scene *);
    int want; /* the status without a fault */
    int also; /* a status that tells of no cause, where none can be known */
    unsigned flags;
    const char *first; /* this call fails before, so that what replaces it is reached */
    int first_error;
};

/* ---- where and how a fault came; shared with forked children ---- */

static struct tally {
    bool hit, first_hit;
    int line, error;
    unsigned choices;
    char call[160], file[96];
    uint64_t faults, operations;
} *tally;

static struct place {
    char call[160], file[96];
    int line;
    uint64_t hits;
} places[MAX_PLACES];
static unsigned place_count;

static char label[512];
static const char *pending_first; /* of struct op, until it failed */
static uint64_t plan_nth;
static unsigned plan_choice;
static bool plan_good;

/* How each call of an operation was reached: a hash of return addresses. */
static uint64_t ways[MAX_CALLS], way_count;
static bool tracing;

static void
trace(void)
{
    void *from[12];
    int depth = backtrace(from, 12);
    uint64_t hash = 0;
    for (int i = 1; i < depth; i++) {
        hash = (hash ^ (uintptr_t)from[i]) * UINT64_C(0x9e3779b97f4a7c15);
    }
    if (os_fault_counted() > way_count && way_count < MAX_CALLS) {
        ways[way_count++] = hash;
    }
}

void sf_point(const char *file, int line);
void
sf_point(const char *file, int line)
{
    if (tracing && !pending_first) {
        int kept = errno;
        trace();
        errno = kept;
        return;
    }
    const char *call = os_fault_hit();
    if (!call || tally->hit) {
        return;
    }
    int error = errno;
    snprintf(tally->call, sizeof tally->call, "%s", call);
    snprintf(tally->file, sizeof tally->file, "%s", file);
    tally->line = line;
    tally->error = error;
    tally->choices = os_fault_choices();
    tally->hit = true;
    if (pending_first) {
        pending_first = NULL;
        tally->first_hit = true;
        tally->hit = false;
        os_fault_arm(plan_nth, plan_choice, plan_good);
    }
    errno = error;
}

static void
on_crash(int number)
{
    /* write(), for nothing else is safe here. */
    if (write(2, label, strlen(label)) < 0 || write(2, ": ", 2) < 0) {
        _exit(4);
    }
    check_on_signal(number);
}

/* ---- one fault, and all of them ---- */

static struct snap last_look; /* the end of one try is the beginning of the next */

static void
note_place(void)
{
    unsigned i = 0;
    while (i < place_count &&
           (places[i].line != tally->line || strcmp(places[i].call, tally->call) != 0)) {
        i++;
    }
    if (i == place_count) {
        REQUIRE(i < MAX_PLACES);
        place_count++;
        snprintf(places[i].call, sizeof places[i].call, "%s", tally->call);
        snprintf(places[i].file, sizeof places[i].file, "%s", tally->file);
        places[i].line = tally->line;
    }
    places[i].hits++;
    tally->faults++;
}

static void
arm(const struct op *op, uint64_t nth, unsigned choice, bool for_good)
{
    tally->hit = tally->first_hit = false;
    tally->choices = 0;
    plan_nth = nth;
    plan_choice = choice;
    plan_good = for_good;
    pending_first = op->first;
    os_fault_arm(nth, choice, for_good);
}

static void
disarm(void)
{
    os_fault_arm(0, 0, false);
    pending_first = NULL;
}

/* Without the name, a generation has gone: the error said so, and all have to believe it. */
static bool
was_told_gone(const struct scene *s)
{
    return tally->hit && tally->error == ENOENT && strncmp(tally->call, "lstat", 5) == 0 &&
           s->other &&
           (sf_load_relaxed(&s->other->ring.header->ended) & SF_UNLINKED) != 0; /* one thread */
}

static void
try_fault(const struct op *op, uint64_t first_nth, unsigned first_choice, uint64_t nth,
          unsigned choice, bool for_good)
{
    int failures = check_failures;
    struct scene scene = {.fd = -1}, *s = &scene;
    struct snap before = last_look.fds ? last_look : look();
    alarm(20);
    snprintf(label, sizeof label, "%s, call %d, error %u%s", op->name, (int)nth, choice,
             for_good ? " for good" : "");
    op->set(s);
    struct snap ready = look();
    struct shared shared = {0}, shared_after = {0};
    if (s->other) {
        shared = look_at_segment(&s->other->ring);
    }
    arm(op, nth, choice, for_good);
    if (op->first) {
        os_fault_arm(first_nth, first_choice, false);
    }
    int status = op->run(s);
    disarm();
    if (tally->hit) {
        note_place();
        snprintf(label, sizeof label, "%s: %s at %s:%d %s with %s", op->name, tally->call,
                 tally->file, tally->line, for_good ? "fails for good" : "fails once",
                 strerror(tally->error));
    }
    bool gone = was_told_gone(s);
    if (status != op->want) {
        bool known = (op->also != 0 && status == op->also) || tells(status, tally->error);
        if (!tally->hit || !known) {
            CHECK_EQ(status, op->want);
            fprintf(stderr, "    told as %s: %s\n", sf_status_name(status), sf_status_text(status));
        }
        struct snap after = look();
        compare(&ready, &after, (op->flags & (FILE_STAYS | MADE_STAYS)) == 0);
        if (s->other) {
            shared_after = look_at_segment(&s->other->ring);
            CHECK_EQ(shared_after.slots, shared.slots);
            CHECK_EQ(shared_after.claims, shared.claims);
            CHECK_EQ(shared_after.bits, shared.bits);
            CHECK_EQ(shared_after.lock, shared.lock);
            /* The last step, the name's end, comes after all were told: nothing can come after it. */
            bool replaced = (op->flags & REPLACES) != 0 && !sf_attachment_is_named(s->other);
            if (!gone && !replaced && strncmp(tally->call, "unlink", 6) != 0) {
                CHECK_EQ(shared_after.ended, shared.ended);
            }
        }
        if (!gone) {
            int again = op->run(s);
            CHECK_EQ(again, op->want);
            status = again;
        }
    }
    s->done = status == op->want;
    op->end(s);
    struct snap after = last_look = look();
    compare(&before, &after, (op->flags & FILE_STAYS) == 0);
    if (after.files != before.files) {
        (void)scratch_empty();
        last_look = (struct snap){0};
    }
    if (check_failures != failures) {
        fprintf(stderr, "    with: %s\n", label);
    }
}

/* Which call of the operation is the one that fails first, and which of its errors is meant. */
static bool
find_first(const struct op *op, uint64_t *nth, unsigned *choice)
{
    struct op plain = *op;
    plain.first = NULL;
    for (*nth = 1; *nth < 1000; (*nth)++) {
        for (*choice = 0; *choice == 0 || *choice < tally->choices; (*choice)++) {
            try_fault(&plain, 0, 0, *nth, *choice, false);
            if (!tally->hit) {
                return false;
            }
            if (strncmp(tally->call, op->first, strlen(op->first)) != 0) {
                break;
            }
            if (tally->error == op->first_error) {
                return true;
            }
        }
    }
    return false;
}

/* One run without a fault: notes the ways to all calls, and warms up what libc keeps for ever. */
static void
trace_ways(const struct op *op, uint64_t first_nth, unsigned first_choice)
{
    struct scene scene = {.fd = -1};
    void *none[1];
    (void)backtrace(none, 1);
    alarm(20);
    snprintf(label, sizeof label, "%s, without a fault", op->name);
    way_count = 0;
    op->set(&scene);
    arm(op, 0, 0, false);
    if (op->first) {
        os_fault_arm(first_nth, first_choice, false);
    }
    tracing = true;
    CHECK_EQ(op->run(&scene), op->want);
    scene.done = true;
    tracing = false;
    disarm();
    op->end(&scene);
    last_look = (struct snap){0};
}

/* The quick form skips calls that come the same way as others did. */
static bool
is_worth_it(uint64_t nth)
{
    unsigned same = 0;
    if (nth > way_count || getenv("FAULTS_ALL") != NULL) {
        return true;
    }
    for (uint64_t i = 0; i < nth; i++) {
        same += ways[i] == ways[nth - 1];
    }
    return same <= SAME_WAY;
}

/* False once the operation makes no nth call. */
static bool
try_errors(const struct op *op, uint64_t first_nth, unsigned first_choice, uint64_t nth)
{
    unsigned choices = 1;
    for (unsigned choice = 0; choice < choices; choice++) {
        for (int for_good = 0; for_good < 2; for_good++) {
            try_fault(op, first_nth, first_choice, nth, choice, for_good);
            if (!tally->hit) {
                return choice + (unsigned)for_good > 0; /* how often a wait looks is chance */
            }
            choices = tally->choices;
        }
    }
    return true;
}

/* How many faults there were. */
UNUSED static uint64_t
explore(const struct op *op)
{
    uint64_t faults = tally->faults;
    uint64_t first_nth = 0;
    unsigned first_choice = 0;
    signal(SIGALRM, on_crash);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    signal(SIGSEGV, on_crash);
    signal(SIGBUS, on_crash);
    signal(SIGABRT, on_crash);
#endif
    tally->operations++;
    (void)scratch_empty(); /* of a test that was given up */
    last_look = (struct snap){0};
    if (op->first) {
        REQUIRE(find_first(op, &first_nth, &first_choice));
    }
    trace_ways(op, first_nth, first_choice);
    uint64_t nth = 1;
    while (!is_worth_it(nth) || try_errors(op, first_nth, first_choice, nth)) {
        nth++;
    }
    return tally->faults - faults;
}

/* ---- the report ---- */

__attribute__((constructor(200))) static void
make_tally(void)
{
    tally = mmap(NULL, sizeof *tally, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

/* All of these calls were made to fail somewhere. */
UNUSED static void
report(const char *const *calls)
{
    for (; *calls; calls++) {
        bool found = false;
        for (unsigned i = 0; i < place_count; i++) {
            size_t len = strcspn(places[i].call, "(");
            found |= strlen(*calls) == len && strncmp(places[i].call, *calls, len) == 0;
        }
        if (!found) {
            fprintf(stderr, "never failed: %s\n", *calls);
        }
        CHECK(found);
    }
    if (getenv("FAULTS_LIST")) {
        for (unsigned i = 0; i < place_count; i++) {
            printf("%6llu  %s:%d  %s\n", (unsigned long long)places[i].hits, places[i].file,
                   places[i].line, places[i].call);
        }
    }
    printf("%llu operations, %u places, %llu faults\n", (unsigned long long)tally->operations,
           place_count, (unsigned long long)tally->faults);
}

#endif
