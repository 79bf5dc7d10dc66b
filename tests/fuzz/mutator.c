/* A live segment whose words change under everybody: writers, readers, monitors, who cleans.
 *
 * Owns:      a topic in a folder of its own below $SHMFLOW_DIR (or /dev/shm); one thread that spoils
 *            words of its control regions; threads and a child process that use it meanwhile.
 * Does not:  change the file's length, which is SIGBUS by design.
 *
 *     mutator [seconds [seed]]
 *
 * No operation crashes, takes longer than LONGEST_S, reads outside of the arena, or answers with a
 * status that is none. Run under the address and undefined-behaviour sanitizers. Threads race for
 * the words on purpose; they do so by relaxed stores.
 */
#include "fuzz.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LONGEST_S 20
#define PATIENCE_NS UINT64_C(3000000)
#define NAME "live"
#define THREADS 6

enum { WRITES, LOANS, BATCHES, READS, JOINS, SEEKS, MENDS, ATTACHES, SPOILS, JOBS };
static const char *const job_names[] = {"writes", "loans", "batches",  "reads", "joins",
                                        "seeks",  "mends", "attaches", "spoils"};

static char folder[200], path[256];
static struct sf_layout lay;
static struct sf_ring spoilt;
static _Atomic uint32_t stop;
static struct {
    _Atomic uint64_t count, good;
} jobs[JOBS];

/* Per thread: which job it is at, and since when; 0: at none. */
static struct {
    _Atomic uint64_t since_ns;
    _Atomic uint32_t job;
} watched[THREADS];
static _Atomic uint32_t watched_count;
static _Thread_local uint32_t me; /* 1 … THREADS */

/* ---- each job is watched ---- */

static void
begin(int job)
{
    me = me ? me : sf_add_seq32(&watched_count, 1) + 1; /* a number for each thread */
    DEMAND(me <= THREADS);
    sf_store_relaxed(&watched[me - 1].job, (uint32_t)job); /* for the watch only, both */
    sf_store_relaxed(&watched[me - 1].since_ns, os_now_ns());
}

static void
end(int job, int status)
{
    check_status(status);
    (void)sf_add_relaxed64(&jobs[job].count, 1); /* figures */
    (void)sf_add_relaxed64(&jobs[job].good, status >= 0);
    sf_store_relaxed(&watched[me - 1].since_ns, 0); /* for the watch only */
}

static bool
must_go_on(void)
{
    return sf_load_relaxed(&stop) == 0; /* seen soon enough */
}

static uint64_t
random_next(uint64_t *state)
{
    *state ^= *state >> 12; /* xorshift64* (Vigna 2016) */
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(2685821657736338717) >> 16;
}

static struct sf_attachment *
attach(enum sf_attach_as as)
{
    struct sf_attachment *att = NULL;
    begin(ATTACHES);
    int status = sf_attach(path, as, &att);
    end(ATTACHES, status);
    return status == 0 ? att : NULL;
}

static void
read_bytes(const char *at, uint64_t len)
{
    char copy[4096];
    for (uint64_t done = 0; done < len;) {
        size_t step = len - done < sizeof copy ? (size_t)(len - done) : sizeof copy;
        memcpy(copy, at + done, step);
        done += step;
    }
}

/* ---- jobs ---- */

static void *
run_writer(void *context)
{
    static const char zeros[1 << 16];
    uint64_t seed = (uintptr_t)context;
    while (must_go_on()) {
        struct sf_attachment *att = attach(SF_AS_WRITER);
        for (int i = 0; att && i < 300 && must_go_on(); i++) {
            uint64_t len = random_next(&seed) % 20000, seq;
            len = len < lay.max_message ? len : lay.max_message;
            struct sf_out out = {.data = zeros, .payload_len = len, .shape = &len, .dtype = "|u1"};
            out.ndim = 1;
            out.dtype_len = 3;
            struct sf_claim claim;
            if (i % 7 == 0) {
                const struct sf_out *outs[] = {&out, &out, &out};
                len %= 2000;
                out.payload_len = len;
                begin(BATCHES);
                end(BATCHES, sf_send_batch(att, outs, 3, os_now_ns() + PATIENCE_NS, &seq));
                sf_leave_queue(att);
                continue;
            }
            bool is_loan = i % 5 == 0 && sf_loan_fits(att, len);
            int job = is_loan ? LOANS : WRITES;
            begin(job);
            uint64_t until = os_now_ns() + PATIENCE_NS;
            int status = len < SF_SMALL_LEN
                             ? sf_send_small(att, &out, until, &seq)
                             : sf_send_claim(att, len, is_loan ? SF_LANE_NEVER : SF_LANE_IN_TURN,
                                             is_loan ? SF_TRY : until, &claim);
            if (status == 0 && len >= SF_SMALL_LEN) {
                memset(sf_send_payload(att, &out, &claim), 1, len);
                if (is_loan) {
                    sf_loan_begin(att, claim.desc);
                    sf_loan_keep(att, claim.desc);
                }
                status = sf_send_publish(att, &out, &claim, until, &seq);
                if (is_loan) {
                    status == 0 ? sf_unpin(att, claim.desc) : sf_loan_drop(att, claim.desc);
                }
                else if (status < 0) {
                    sf_send_drop(att, &claim);
                }
            }
            end(job, status);
        }
        if (att) {
            sf_attachment_unref(att);
        }
    }
    return NULL;
}

static void
read_one(struct sf_attachment *att, bool newest)
{
    struct sf_message m;
    uint64_t from;
    memset(&m, 0, sizeof m);
    begin(READS);
    int status = sf_take_look(att, newest, &from, &m);
    if (status == SF_EMPTY) {
        check_status(sf_wait_message(att, m.seq, os_now_ns() + PATIENCE_NS, -1, NULL));
    }
    else if (status == SF_BAD_MESSAGE) {
        (void)sf_take_commit(att, from, &m);
    }
    else if (status == 0) {
        bool pinned = !att->monitor && m.pinnable && sf_pin(att, &m, false) == SF_PIN_OK;
        read_bytes(sf_message_prefix(att, &m), m.prefix_len);
        read_bytes(sf_message_payload(att, &m), m.payload_len);
        (void)sf_take_commit(att, from, &m);
        if (pinned) {
            sf_unpin(att, m.desc);
        }
    }
    end(READS, status);
}

/* As a plain reader, a lossless one, or a member of one of more groups than there are places. */
static void
join(struct sf_attachment *att, uint64_t how)
{
    char name[] = {(char)('a' + how / 8 % 20), 0};
    struct sf_joining joining = {
        .group = how % 4 == 1 ? name : NULL,
        .start = (enum sf_start)(how / 256 % 3),
        .lossless = how % 8 > 4,
    };
    begin(JOINS);
    end(JOINS, sf_join(att, &joining, os_now_ns() + PATIENCE_NS));
}

static void
seek(struct sf_attachment *att, uint64_t how)
{
    begin(SEEKS);
    uint64_t seq = how % 4 == 3 ? sf_find_stamp(att, how << 32 | how)
                                : sf_find_start(att, (enum sf_start)(how % 4));
    end(SEEKS, sf_seek(att, seq, os_now_ns() + PATIENCE_NS));
}

static void *
run_reader(void *context)
{
    bool as_monitor = (uintptr_t)context % 2 == 1;
    uint64_t seed = (uintptr_t)context | 2;
    while (must_go_on()) {
        struct sf_attachment *att = attach(as_monitor ? SF_AS_MONITOR : SF_AS_READER);
        if (att && !as_monitor) {
            join(att, random_next(&seed));
        }
        for (int i = 0; att && i < 300 && must_go_on(); i++) {
            read_one(att, i % 4 == 0);
            if (i % 32 == 31) {
                seek(att, random_next(&seed));
            }
        }
        if (att) {
            sf_attachment_unref(att);
        }
    }
    return NULL;
}

static void *
run_mender(void *context)
{
    uint8_t alive[SF_MAX_PARTICIPANTS];
    (void)context;
    while (must_go_on()) {
        struct sf_attachment *att = attach(SF_AS_READER);
        for (int i = 0; att && i < 50 && must_go_on(); i++) {
            begin(MENDS);
            int status = sf_lock_wait(att, os_now_ns() + PATIENCE_NS);
            if (status == 0) {
                status = sf_rebuild_locked(&att->ring);
                sf_unlock(att);
            }
            (void)sf_clean_dead(att);
            (void)sf_list_living(att, alive);
            end(MENDS, status);
            (void)os_sleep_until(os_now_ns() + 500000);
        }
        if (att) {
            sf_attachment_unref(att);
        }
    }
    return NULL;
}

/* Now and then the whole is put right again, for else all is refused before long. */
static void *
run_spoiler(void *context)
{
    uint64_t seed = (uintptr_t)context, kept = 0;
    char *fresh = malloc(lay.arena_off);
    DEMAND(fresh != NULL);
    memcpy(fresh, spoilt.header, lay.arena_off);
    while (must_go_on()) {
        uint8_t bytes[16];
        for (size_t i = 0; i < sizeof bytes; i += 4) {
            uint32_t word = (uint32_t)random_next(&seed);
            memcpy(bytes + i, &word, sizeof word);
        }
        struct input in = {bytes, sizeof bytes};
        begin(SPOILS);
        kept = poke(&in, &spoilt, kept);
        if (random_next(&seed) % 40 == 0) {
            _Atomic uint64_t *words = (void *)spoilt.header;
            for (uint64_t i = offsetof(struct sf_header, ended) / 8; i < lay.arena_off / 8; i++) {
                uint64_t word;
                memcpy(&word, fresh + i * 8, 8);
                sf_store_relaxed(&words[i], word); /* a race, as every poke is */
            }
        }
        end(SPOILS, 0);
        (void)os_sleep_until(os_now_ns() + random_next(&seed) % 400000);
    }
    free(fresh);
    return NULL;
}

/* ---- the program ---- */

static void
drop_folder(void)
{
    (void)unlink(path);
    (void)rmdir(folder);
}

static void
set_up(void)
{
    const char *below = getenv("SHMFLOW_DIR");
    snprintf(folder, sizeof folder, "%s/live-XXXXXX", below && below[0] ? below : "/dev/shm");
    DEMAND(mkdtemp(folder) != NULL && setenv("SHMFLOW_DIR", folder, 1) == 0);
    struct sf_params params = {.capacity = 1 << 17, .max_message = 20000, .max_participants = 64};
    DEMAND(sf_segment_path(NAME, path, sizeof path) == 0);
    DEMAND(sf_segment_create(path, &params, 0600, NULL, NULL) == 0);
    DEMAND(sf_layout_compute(&params, &lay) == 0);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    void *base = mmap(NULL, lay.arena_off, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    DEMAND(fd >= 0 && base != MAP_FAILED);
    (void)close(fd);
    sf_ring_bind(&spoilt, &lay, base);
}

static void
watch(uint64_t until_ns)
{
    while (os_now_ns() < until_ns) {
        (void)os_sleep_until(os_now_ns() + 50000000);
        for (int i = 0; i < THREADS; i++) {
            uint64_t since = sf_load_relaxed(&watched[i].since_ns); /* a moment's, is enough */
            uint64_t now = os_now_ns();
            if (since != 0 && now > since && now - since > LONGEST_S * UINT64_C(1000000000)) {
                uint32_t job = sf_load_relaxed(&watched[i].job); /* as above */
                fprintf(stderr, "mutator: one of the %s does not end\n", job_names[job % JOBS]);
                abort();
            }
        }
    }
}

/* A user in another process, who is killed in the middle and comes again. */
static pid_t
start_child(uint64_t seed)
{
    fflush(NULL);
    pid_t pid = fork();
    DEMAND(pid >= 0);
    if (pid == 0) {
        sf_store_relaxed(&watched_count, 0); /* one thread is left */
        (void)alarm(LONGEST_S * 3);
        for (;;) {
            (void)(seed % 2 ? run_writer : run_reader)((void *)(uintptr_t)(seed & ~UINT64_C(1)));
        }
    }
    return pid;
}

int
main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 5;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : (uint64_t)time(NULL);
    printf("mutator: %g s, seed %llu\n", seconds, (unsigned long long)seed);
    set_up();
    void *(*const runs[THREADS])(void *) = {run_writer, run_writer, run_reader,
                                            run_reader, run_mender, run_spoiler};
    pthread_t threads[THREADS];
    uint64_t until_ns = os_now_ns() + (uint64_t)(seconds * 1e9);
    pid_t child = start_child(seed);
    for (size_t i = 0; i < THREADS; i++) {
        void *context = (void *)(uintptr_t)(seed * 2 + 1 + i);
        DEMAND(pthread_create(&threads[i], NULL, runs[i], context) == 0);
    }
    for (int round = 0; os_now_ns() < until_ns; round++) {
        uint64_t next = os_now_ns() + UINT64_C(1000000000);
        watch(next < until_ns ? next : until_ns);
        int status = 0;
        DEMAND(waitpid(child, &status, WNOHANG) == 0); /* nothing but us ends it */
        DEMAND(kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child);
        child = start_child(seed + (uint64_t)round);
    }
    DEMAND(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
    sf_store_relaxed(&stop, 1); /* threads look at it soon */
    for (size_t i = 0; i < THREADS; i++) {
        DEMAND(pthread_join(threads[i], NULL) == 0);
    }
    drop_folder();
    for (int job = 0; job < JOBS; job++) {
        printf("%s %llu (%llu good) ", job_names[job], /* relaxed: the threads are joined */
               (unsigned long long)sf_load_relaxed(&jobs[job].count),
               (unsigned long long)sf_load_relaxed(&jobs[job].good));
    }
    printf("\n");
    return 0;
}
