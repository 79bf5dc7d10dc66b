/* What the machine itself allows, without Python and without a ring: the floor and the ceiling.
 *
 *     limits memcpy BYTES DEPTH THREADS SECONDS    copies into DEPTH slots of shared memory
 *     limits futex  PINNED SECONDS                 ping-pong of two processes that sleep
 *     limits line   PINNED SECONDS                 ping-pong of two processes that spin
 *     limits stat   SECONDS                        a yield, a system call, a look at the clock
 *
 * Owns: these measurements. Each prints one JSON object: quantiles of many samples, in seconds, and
 * the median of each round. PINNED is 1 for one CPU each, or 0 for what the scheduler gives.
 * Nothing stays behind: the memory has no name, and a child dies with its parent.
 */
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 15, MOST = 200000, LINE = 128, BATCH = 100, YIELD_EVERY = 32 };

static double samples[MOST];
static size_t sample_count;
static double rounds[ROUNDS];

static void
fail(const char *text, ...)
{
    va_list arguments;
    va_start(arguments, text);
    vfprintf(stderr, text, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static double
now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void *
shared_memory(size_t length)
{
    void *memory = mmap(NULL, length, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) {
        fail("no %zu bytes of shared memory: %s", length, strerror(errno));
    }
    return memory;
}

/* The first and the second of the CPUs that this process may use. */
static bool
pin(int which)
{
    cpu_set_t allowed, one;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
        return false;
    }
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET((size_t)cpu, &allowed) && which-- == 0) {
            CPU_ZERO(&one);
            CPU_SET((size_t)cpu, &one);
            return sched_setaffinity(0, sizeof one, &one) == 0;
        }
    }
    return false;
}

/* ---- samples ---- */

static void
add(double seconds)
{
    if (sample_count < MOST) {
        samples[sample_count++] = seconds;
    }
}

static int
ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double
quantile(const double *sorted, size_t count, double q)
{
    return count ? sorted[(size_t)(q * (double)(count - 1) + 0.5)] : 0;
}

static double
median_from(size_t first)
{
    static double copy[MOST];
    const size_t count = sample_count - first;
    memcpy(copy, samples + first, count * sizeof *copy);
    qsort(copy, count, sizeof *copy, ascending);
    return quantile(copy, count, 0.5);
}

/* Members of an object, without its braces. */
static void
print_samples(void)
{
    qsort(samples, sample_count, sizeof *samples, ascending);
    printf("\"samples\": %zu, \"min\": %.4g, \"p10\": %.4g, \"median\": %.4g, \"p90\": %.4g, "
           "\"p99\": %.4g, \"max\": %.4g, \"rounds\": [",
           sample_count, quantile(samples, sample_count, 0), quantile(samples, sample_count, 0.1),
           quantile(samples, sample_count, 0.5), quantile(samples, sample_count, 0.9),
           quantile(samples, sample_count, 0.99), quantile(samples, sample_count, 1));
    for (int i = 0; i < ROUNDS; i++) {
        printf("%s%.4g", i ? ", " : "", rounds[i]);
    }
    printf("]");
}

/* ---- memcpy ---- */

struct copier {
    size_t nbytes, depth;
    double until;
    pthread_barrier_t *start;
    unsigned char *source, *ring;
    double seconds; /* per copy, of the round */
};

static void *
copy_round(void *argument)
{
    struct copier *c = argument;
    const size_t stride = (c->nbytes + 4095) / 4096 * 4096;
    /* The clock is looked at only now and then where a copy is as short as the look. */
    const uint64_t chunk = c->nbytes < 262144 ? 262144 / c->nbytes + 1 : 1;
    uint64_t count = 0;
    pthread_barrier_wait(c->start);
    const double start = now();
    double end;
    do {
        for (uint64_t i = 0; i < chunk; i++, count++) {
            memcpy(c->ring + count % c->depth * stride, c->source, c->nbytes);
            atomic_signal_fence(memory_order_seq_cst);
        }
        end = now();
    } while (end - start < c->until);
    c->seconds = (end - start) / (double)count;
    return NULL;
}

static void
measure_memcpy(size_t nbytes, size_t depth, int threads, double seconds)
{
    if (nbytes < 1 || depth < 1 || threads < 1 || threads > 64) {
        fail("memcpy: BYTES and DEPTH from 1, THREADS from 1 to 64");
    }
    struct copier copiers[64];
    pthread_t ids[64];
    pthread_barrier_t start;
    pthread_barrier_init(&start, NULL, (unsigned)threads);
    const size_t stride = (nbytes + 4095) / 4096 * 4096;
    for (int t = 0; t < threads; t++) {
        copiers[t] = (struct copier){.nbytes = nbytes, .depth = depth, .start = &start};
        copiers[t].until = seconds / (ROUNDS + 1);
        copiers[t].source = malloc(nbytes);
        copiers[t].ring = shared_memory(stride * depth);
        if (!copiers[t].source) {
            fail("no %zu bytes", nbytes);
        }
        memset(copiers[t].source, t + 1, nbytes);
    }
    double rates[ROUNDS];
    for (int round = -1; round < ROUNDS; round++) { /* -1 warms up */
        for (int t = 0; t < threads; t++) {
            if (pthread_create(&ids[t], NULL, copy_round, &copiers[t]) != 0) {
                fail("no thread");
            }
        }
        double rate = 0, mean = 0;
        for (int t = 0; t < threads; t++) {
            pthread_join(ids[t], NULL);
            rate += (double)nbytes / copiers[t].seconds;
            mean += copiers[t].seconds / threads;
        }
        if (round >= 0) {
            rates[round] = rate;
            rounds[round] = mean;
            add(mean);
        }
    }
    qsort(rates, ROUNDS, sizeof *rates, ascending);
    printf("{\"what\": \"memcpy\", \"bytes\": %zu, \"depth\": %zu, \"threads\": %d, "
           "\"bytes_per_second\": %.6g, ",
           nbytes, depth, threads, quantile(rates, ROUNDS, 0.5));
    print_samples();
    puts("}");
}

/* ---- ping-pong ---- */

struct court {
    _Alignas(LINE) _Atomic uint32_t ping;
    _Alignas(LINE) _Atomic uint32_t pong;
};

static const uint32_t STOP = UINT32_MAX;

static void
futex_await(_Atomic uint32_t *word, uint32_t old)
{
    while (atomic_load(word) == old) {
        syscall(SYS_futex, word, FUTEX_WAIT, old, NULL, NULL, 0);
    }
}

static void
futex_store(_Atomic uint32_t *word, uint32_t value)
{
    atomic_store(word, value);
    syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void
pause_cpu(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static void
spin_await(_Atomic uint32_t *word, uint32_t old)
{
    while (atomic_load_explicit(word, memory_order_acquire) == old) {
        pause_cpu();
    }
}

static void
yield_await(_Atomic uint32_t *word, uint32_t old)
{
    for (uint32_t i = 1; atomic_load_explicit(word, memory_order_acquire) == old; i++) {
        if (i % YIELD_EVERY == 0) {
            sched_yield();
        }
        else {
            pause_cpu();
        }
    }
}

static void
spin_store(_Atomic uint32_t *word, uint32_t value)
{
    atomic_store_explicit(word, value, memory_order_release);
}

typedef void await_function(_Atomic uint32_t *word, uint32_t old);
typedef void store_function(_Atomic uint32_t *word, uint32_t value);

static void
partner(struct court *court, await_function *await, store_function *store)
{
    for (uint32_t i = 0;; i++) {
        await(&court->ping, i);
        const uint32_t seen = atomic_load(&court->ping);
        store(&court->pong, seen);
        if (seen == STOP) {
            _exit(0);
        }
    }
}

/* Samples are round trips, or the mean of `batch` of them where the clock would weigh. */
static void
measure_ping_pong(const char *what, bool pinned, double seconds, await_function *await,
                  store_function *store, uint32_t batch)
{
    struct court *court = shared_memory(sizeof *court);
    const pid_t parent = getpid();
    const pid_t child = fork();
    if (child < 0) {
        fail("no process: %s", strerror(errno));
    }
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent || (pinned && !pin(1))) {
            _exit(1);
        }
        partner(court, await, store);
    }
    if (pinned && (!pin(0) || sysconf(_SC_NPROCESSORS_ONLN) < 2)) {
        kill(child, SIGKILL);
        fail("%s: there are no two CPUs to pin to", what);
    }
    uint32_t count = 0;
    for (int round = -1; round < ROUNDS; round++) { /* -1 warms up */
        const size_t first = sample_count;
        const double round_end = now() + seconds / (ROUNDS + 1);
        double end = now();
        while (end < round_end) {
            const double start = end;
            for (uint32_t i = 0; i < batch; i++) {
                store(&court->ping, count + 1);
                await(&court->pong, count);
                count++;
            }
            end = now();
            if (round >= 0 && sample_count < (size_t)(round + 1) * (MOST / ROUNDS)) {
                add((end - start) / batch);
            }
        }
        if (round >= 0) {
            rounds[round] = median_from(first);
        }
    }
    store(&court->ping, STOP);
    int status;
    if (waitpid(child, &status, 0) != child || status != 0) {
        fail("%s: the other process failed", what);
    }
    printf("{\"what\": \"%s\", \"pinned\": %s, ", what, pinned ? "true" : "false");
    print_samples();
    puts("}");
}

/* ---- single calls ---- */

static void
do_yield(void)
{
    sched_yield();
}

static void
do_call(void)
{
    syscall(SYS_getppid);
}

static void
do_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
}

static void
measure_calls(double seconds)
{
    static const struct {
        const char *name;
        void (*call)(void);
    } calls[] = {{"yield", do_yield}, {"syscall", do_call}, {"clock", do_clock}};
    printf("{\"what\": \"stat\"");
    for (size_t k = 0; k < sizeof calls / sizeof *calls; k++) {
        sample_count = 0;
        for (int round = 0; round < ROUNDS; round++) {
            const size_t first = sample_count;
            const double round_end = now() + seconds / ROUNDS / 3;
            double end = now();
            while (end < round_end) {
                const double start = end;
                for (int i = 0; i < BATCH; i++) {
                    calls[k].call();
                }
                end = now();
                if (sample_count < (size_t)(round + 1) * (MOST / ROUNDS)) {
                    add((end - start) / BATCH);
                }
            }
            rounds[round] = median_from(first);
        }
        printf(", \"%s\": {", calls[k].name);
        print_samples();
        printf("}");
    }
    puts("}");
}

int
main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    if (strcmp(what, "memcpy") == 0 && argc == 6) {
        measure_memcpy(strtoul(argv[2], NULL, 10), strtoul(argv[3], NULL, 10), atoi(argv[4]),
                       atof(argv[5]));
    }
    else if (strcmp(what, "futex") == 0 && argc == 4) {
        measure_ping_pong(what, atoi(argv[2]), atof(argv[3]), futex_await, futex_store, 1);
    }
    else if (strcmp(what, "line") == 0 && argc == 4) {
        const bool pinned = atoi(argv[2]);
        measure_ping_pong(what, pinned, atof(argv[3]), pinned ? spin_await : yield_await,
                          spin_store, BATCH);
    }
    else if (strcmp(what, "stat") == 0 && argc == 3) {
        measure_calls(atof(argv[2]));
    }
    else {
        fail("limits memcpy BYTES DEPTH THREADS SECONDS | futex PINNED SECONDS | "
             "line PINNED SECONDS | stat SECONDS");
    }
    return 0;
}
