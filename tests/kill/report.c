/* What came of it: the one way to fail, the counts of all workers, the table at the end.
 *
 * Owns:      results, in memory that all workers share; the words of a violation.
 * Does not:  decide what is a violation (check.c) or what is played (main.c).
 *
 * Invariants
 *   1  The first violation ends all: told with operation, points and the lines of the deaths.
 * A crash here leaves: nothing.
 */
#include "kill.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct verdict_context context;
struct result *result;
struct shared *shared;

int
start_report(void)
{
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return shared == MAP_FAILED ? -1 : 0;
}

/* ---- the verdict ---- */

static void
tell_point(const char *who, const struct note *note)
{
    if (note->hit) {
        fprintf(stderr, "  %s was at %s:%d%s\n", who, note->file, note->line,
                note->locked ? ", with the lock" : "");
    }
}

static _Noreturn void
end_all(const char *file, int line, const char *format, va_list arguments)
{
    uint64_t nobody = 0;
    if (sf_cas_relaxed(&shared->failed, &nobody, (uint64_t)getpid())) { /* one voice is enough */
        fprintf(stderr, "violated: operation '%s', n = %ld, second '%s', m = %ld\n", context.op,
                context.nth, context.second, context.mth);
        tell_point("the victim", &notes[NOTE_VICTIM]);
        tell_point("the recoverer", &notes[NOTE_RECOVERER]);
        tell_point("the helper", &notes[NOTE_HELPER]);
        fprintf(stderr, "  %s:%d: ", file, line);
        vfprintf(stderr, format, arguments);
        fprintf(stderr, "\n");
    }
    _exit(1);
}

void
violated(const char *file, int line, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    end_all(file, line, format, arguments);
}

void
violated_by_signal(int number)
{
    violated(__FILE__, __LINE__, "signal %d", number);
}

void
note_recovery(uint64_t ns)
{
    /* Relaxed, here and below: counts, read when all workers have ended. */
    uint64_t at = sf_add_relaxed64(&result->sample_count, 1);
    result->samples[at % MAX_SAMPLES] = ns;
    uint64_t most = sf_load_relaxed(&result->max_ns);
    while (ns > most && !sf_cas_relaxed(&result->max_ns, &most, ns)) {
    }
}

/* ---- the table ---- */

static int
by_size(const void *a, const void *b)
{
    const uint64_t *left = a, *right = b;
    return *left < *right ? -1 : *left > *right;
}

static double
percentile_ms(struct result *r, double part)
{
    uint64_t count = sf_load_relaxed(&r->sample_count); /* all workers have ended */
    count = count < MAX_SAMPLES ? count : MAX_SAMPLES;
    if (count == 0) {
        return 0;
    }
    qsort(r->samples, count, sizeof r->samples[0], by_size);
    return (double)r->samples[(uint64_t)(part * (double)(count - 1))] / 1e6;
}

void
tell_results(const struct op *const *ops, int count)
{
    uint64_t points = 0, seconds = 0, stops = 0, most = 0;
    static struct result all;
    printf("%-42s %7s %7s %8s %6s %9s %9s\n", "operation", "points", "locked", "seconds", "stops",
           "p99 ms", "max ms");
    for (int i = 0; i < count; i++) {
        struct result *r = &shared->results[i];
        /* Relaxed, all of them: the workers have ended. */
        uint64_t max_ns = sf_load_relaxed(&r->max_ns);
        printf("%-42s %7llu %7llu %8llu %6llu %9.2f %9.2f\n", ops[i]->name,
               (unsigned long long)sf_load_relaxed(&r->points),
               (unsigned long long)sf_load_relaxed(&r->locked),
               (unsigned long long)sf_load_relaxed(&r->seconds),
               (unsigned long long)sf_load_relaxed(&r->stops), percentile_ms(r, 0.99),
               (double)max_ns / 1e6);
        points += sf_load_relaxed(&r->points);
        seconds += sf_load_relaxed(&r->seconds);
        stops += sf_load_relaxed(&r->stops);
        most = max_ns > most ? max_ns : most;
        /* As many of each as fit, evenly: p99 over all. */
        uint64_t have = sf_load_relaxed(&r->sample_count); /* as above */
        for (uint64_t at = 0; at < have && at < MAX_SAMPLES / (uint64_t)count; at++) {
            uint64_t step = (have < MAX_SAMPLES ? have : MAX_SAMPLES) * (uint64_t)count;
            uint64_t from = have <= MAX_SAMPLES / (uint64_t)count ? at : at * step / MAX_SAMPLES;
            uint64_t to = sf_load_relaxed(&all.sample_count);
            all.samples[to] = r->samples[from];
            sf_store_relaxed(&all.sample_count, to + 1); /* ours alone */
        }
    }
    printf("total: %d operations, %llu points killed, %llu second deaths, %llu stops; "
           "recovery p99 %.2f ms, max %.2f ms\n",
           count, (unsigned long long)points, (unsigned long long)seconds,
           (unsigned long long)stops, percentile_ms(&all, 0.99), (double)most / 1e6);
}
