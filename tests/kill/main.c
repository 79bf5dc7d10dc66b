/* The kill matrix's options, its workers, and what it says.
 *
 *   kill_matrix [--op NAME] [--jobs N] [--all | --first | --stop] [--seed N] [--debris] [--list]
 *
 *   (nothing)  every first death; second deaths by a seed, for each seventh of them; stops likewise
 *   --first    every first death only
 *   --all      every first death, every second death after each that left something else, every stop
 *   --stop     every stop only
 *   --nth, --mth   this one scene again; a negative M for a recoverer that attaches afterwards
 *   --op       operations whose names contain NAME
 *   --debris   dies at each point of a creation without O_TMPFILE, and leaves the folder, named on
 *              stdout, for others to clean
 *
 * Owns:      the folder, the workers and their items.
 * Does not:  know any operation, or say what came of it (report.c).
 *
 * Invariants
 *   1  Whatever happens, no process and no file is left, but for a SIGKILL of this one.
 * A crash here leaves: the folder, in /dev/shm.
 */
#include "kill.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static struct {
    const char *only;
    int jobs;
    bool all, first, stop, debris, list;
    uint64_t seed;
    long nth, mth; /* one scene, told by a violation: 0 none */
} options = {.jobs = 1, .seed = 1};

static const struct op *ops[MAX_OPS];
static int op_count;

/* ---- items ---- */

static uint64_t random_state; /* of the item at hand */

static uint64_t
next_random(void)
{
    random_state += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t z = (random_state ^ (random_state >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    return z ^ (z >> 31);
}

/* One second death, at a point somewhere in what the recoverer did last time. */
static void
sample_second(const struct op *op, long nth, bool locked)
{
    static long most[3][2] = {{0}, {40, 400}, {60, 460}};
    enum second second = takes_thief(op) && next_random() % 2 == 0 ? THIEF : NEWCOMER;
    for (int tries = 0; tries < 3; tries++) {
        long mth = 1 + (long)(next_random() % (uint64_t)most[second][locked]);
        play(op, nth, second, mth, false);
        if (notes[NOTE_RECOVERER].hit) {
            sf_add_relaxed64(&result->seconds, 1); /* a count, read at the end */
            return;
        }
        most[second][locked] = notes[NOTE_RECOVERER].points + 1;
    }
}

/* Has another point left the same, and had its second deaths? */
static bool
is_known_residue(void)
{
    uint64_t wanted = residue ? residue : 1;
    for (int i = 0; i < MAX_RESIDUES; i++) {
        uint64_t there = 0;
        /* One try: it is free, or somebody's; other workers look at the same operation. */
        if (sf_cas_relaxed(&result->residues[i], &there, wanted)) {
            return false;
        }
        if (there == wanted) {
            return true;
        }
    }
    return false;
}

/* Every second death, of one first death for each residue. Who attaches and then has the lock is
 * from there on as one that was attached before. */
static void
all_seconds(const struct op *op, long nth)
{
    if (is_known_residue()) {
        return;
    }
    for (enum second second = takes_thief(op) ? THIEF : NEWCOMER; second <= NEWCOMER; second++) {
        for (long mth = 1;; mth++) {
            play(op, nth, second, mth, false);
            if (!notes[NOTE_RECOVERER].hit) {
                break;
            }
            sf_add_relaxed64(&result->seconds, 1); /* a count, read at the end */
            if (second == NEWCOMER && takes_thief(op) && notes[NOTE_RECOVERER].locked) {
                break;
            }
        }
    }
}

static void
do_item(const struct op *op, long shard)
{
    if (options.nth != 0) {
        bool thief = options.mth > 0 && takes_thief(op);
        enum second second = thief ? THIEF : options.mth != 0 ? NEWCOMER : NO_SECOND;
        play(op, options.nth, second, labs(options.mth), options.stop);
        return;
    }
    for (long nth = shard + 1;; nth += SHARDS) {
        bool stopped = (op->flags & CAN_STOP) != 0 &&
                       (options.all || options.stop || (!options.first && nth % 3 == 0));
        if (options.stop) {
            if (!stopped || !play(op, nth, NO_SECOND, 0, true)) {
                return;
            }
            sf_add_relaxed64(&result->stops, 1); /* as above */
            continue;
        }
        if (!play(op, nth, NO_SECOND, 0, false)) {
            return;
        }
        bool locked = notes[NOTE_VICTIM].locked != 0;
        sf_add_relaxed64(&result->points, 1);      /* as above */
        sf_add_relaxed64(&result->locked, locked); /* as above */
        if (options.all) {
            all_seconds(op, nth);
        }
        else if (!options.first && (nth <= 8 || next_random() % 7 == 0)) {
            sample_second(op, nth, locked);
        }
        if (stopped && play(op, nth, NO_SECOND, 0, true)) {
            sf_add_relaxed64(&result->stops, 1); /* as above */
        }
    }
}

/* What this process has open, and how many mappings of topics. */
static void
count_mine(int *files, int *mappings)
{
    char line[600];
    *files = *mappings = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (dir && readdir(dir)) {
        ++*files;
    }
    closedir(dir);
    FILE *maps = fopen("/proc/self/maps", "re");
    while (maps && fgets(line, sizeof line, maps)) {
        *mappings += strstr(line, "shmflow") != NULL || strstr(line, folder) != NULL;
    }
    fclose(maps);
}

static void
forget_folder(void)
{
    char left[256], path[400];
    while (files_left(left) > 0) {
        snprintf(path, sizeof path, "%s/%s", folder, left);
        if (unlink(path) < 0) {
            break;
        }
    }
    rmdir(folder);
}

static int
work(int job)
{
    int files, mappings, files_now, mappings_now;
    char base[128];
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)prctl(PR_SET_CHILD_SUBREAPER, 1);
    static const int deadly[] = {SIGABRT, SIGALRM, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    for (size_t i = 0; i < sizeof deadly / sizeof deadly[0]; i++) {
        (void)signal(deadly[i], violated_by_signal);
    }
    snprintf(base, sizeof base, "%s", folder);
    snprintf(folder, sizeof folder, "%.90s/%d", base, job);
    setenv("SHMFLOW_DIR", folder, 1);
    context.op = "(none)";
    notes = mmap(NULL, NOTES * sizeof *notes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                 -1, 0);
    if (notes == MAP_FAILED || mkdir(folder, 0700) < 0) {
        perror(folder);
        return 1;
    }
    count_mine(&files, &mappings);
    for (;;) {
        uint64_t item = sf_add_relaxed64(&shared->next, 1); /* hands out items, orders nothing */
        if (item >= (uint64_t)op_count * SHARDS) {
            break;
        }
        int index = (int)(item / SHARDS);
        result = &shared->results[index];
        random_state = options.seed * 1000003 + item;
        do_item(ops[index], (long)(item % SHARDS));
        count_mine(&files_now, &mappings_now);
        MUST(files_now == files, "%d descriptors, not %d", files_now, files);
        MUST(mappings_now == mappings, "%d mappings, not %d", mappings_now, mappings);
    }
    forget_folder();
    return 0;
}

/* ---- the whole ---- */

static void
gather(const struct op *from)
{
    for (; from->name; from++) {
        if (!options.only || strstr(from->name, options.only)) {
            ops[op_count++] = from;
        }
    }
}

static int
read_options(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--op") == 0) {
            options.only = value;
            i++;
        }
        else if (strcmp(argv[i], "--jobs") == 0) {
            options.jobs = atoi(value);
            i++;
        }
        else if (strcmp(argv[i], "--nth") == 0) {
            options.nth = atol(value);
            i++;
        }
        else if (strcmp(argv[i], "--mth") == 0) {
            options.mth = atol(value);
            i++;
        }
        else if (strcmp(argv[i], "--seed") == 0) {
            options.seed = strtoull(value, NULL, 10);
            i++;
        }
        else {
            bool *flag = strcmp(argv[i], "--all") == 0      ? &options.all
                         : strcmp(argv[i], "--first") == 0  ? &options.first
                         : strcmp(argv[i], "--stop") == 0   ? &options.stop
                         : strcmp(argv[i], "--debris") == 0 ? &options.debris
                         : strcmp(argv[i], "--list") == 0   ? &options.list
                                                            : NULL;
            if (!flag) {
                return -1;
            }
            *flag = true;
        }
    }
    return options.jobs < 1 || options.jobs > MAX_JOBS ? -1 : 0;
}

static void
forget_everything(const char *base)
{
    for (int job = 0; job < options.jobs; job++) {
        snprintf(folder, sizeof folder, "%.90s/%d", base, job);
        if (access(folder, F_OK) == 0) {
            forget_folder();
        }
    }
    rmdir(base);
}

static void
be_interrupted(int number)
{
    (void)number;
}

/* 0 if no worker failed; the first that does ends the others. */
static int
run_workers(const char *base)
{
    pid_t pids[MAX_JOBS];
    int how, failed = 0;
    for (int job = 0; job < options.jobs; job++) {
        pids[job] = fork();
        if (pids[job] == 0) {
            exit(work(job));
        }
    }
    static const struct sigaction stop = {.sa_handler = be_interrupted}; /* wait ends with it */
    (void)sigaction(SIGTERM, &stop, NULL);
    (void)sigaction(SIGINT, &stop, NULL);
    for (;;) {
        pid_t pid = wait(&how);
        if (pid < 0 && errno != EINTR) {
            break;
        }
        if ((pid < 0 || how != 0) && !failed) {
            failed = 1;
            for (int job = 0; job < options.jobs; job++) {
                (void)kill(pids[job], SIGKILL); /* reaped by nobody but this loop */
            }
        }
    }
    forget_everything(base);
    return failed;
}

int
main(int argc, char **argv)
{
    char base[128];
    if (read_options(argc, argv) < 0) {
        fprintf(stderr, "kill_matrix [--op NAME] [--jobs N] [--seed N] "
                        "[--all | --first | --stop | --debris | --list]\n");
        return 2;
    }
    snprintf(base, sizeof base, "%s/shmflow-kill-XXXXXX", sf_segment_dir());
    gather(flow_ops);
    gather(wait_ops);
    gather(life_ops);
    gather(policy_ops);
    if (options.list) {
        for (int i = 0; i < op_count; i++) {
            printf("%s\n", ops[i]->name);
        }
        return 0;
    }
    notes = mmap(NULL, NOTES * sizeof *notes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                 -1, 0);
    if (notes == MAP_FAILED || start_report() < 0 || !mkdtemp(base)) {
        perror(base);
        return 2;
    }
    snprintf(folder, sizeof folder, "%s", base);
    if (options.debris) {
        setenv("SHMFLOW_DIR", folder, 1);
        leave_debris(&life_ops[1]);
        printf("%s\n", folder);
        return 0;
    }
    int failed = run_workers(base);
    if (!failed) {
        tell_results(ops, op_count);
    }
    return failed || op_count == 0;
}
