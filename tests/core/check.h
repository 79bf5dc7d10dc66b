/* The harness of the core's C tests: one header, one program per test file.
 *
 * Owns: the table of tests, main(), counting, and the report.
 * Does not own: anything of the core; it includes nothing from src.
 *
 *   #include "check.h"
 *   TEST(an_empty_ring_has_no_message)
 *   {
 *       CHECK(ring_is_empty());      a failure is noted and the test goes on
 *       CHECK_EQ(head(), 0);         the same, and both values are printed
 *       REQUIRE(attach() == 0);      a failure ends this test
 *   }
 *
 * Include it once per program. Arguments select the tests whose names contain one of them.
 * CHECK may be used from any thread, REQUIRE outside the main thread aborts. A test that takes
 * longer than CHECK_TIMEOUT_S (environment, default 120) ends the program, as a crash does;
 * both name the test. Exit status: 0 when all passed, 1 when one failed, 2 when there is none.
 */
#ifndef SHMFLOW_TESTS_CHECK_H
#define SHMFLOW_TESTS_CHECK_H

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct check_test {
    const char *name;
    void (*run)(void);
    struct check_test *next;
};

static struct check_test *check_first;
static struct check_test **check_last = &check_first;
static const char *volatile check_current = "(none)";
static int check_failures; /* of the current test; atomic, for CHECK is called by threads too */
static jmp_buf check_exit;
static _Thread_local int check_is_main;

#define TEST(test_name)                                                                            \
    static void test_##test_name(void);                                                            \
    __attribute__((constructor)) static void register_##test_name(void)                            \
    {                                                                                              \
        static struct check_test test = {#test_name, test_##test_name, NULL};                      \
        *check_last = &test;                                                                       \
        check_last = &test.next;                                                                   \
    }                                                                                              \
    static void test_##test_name(void)

/* Values are compared and shown as 64 bits; a u64 above 2^63 shows as negative, and in hex. */
#define CHECK(cond) ((cond) ? (void)0 : check_failed(__FILE__, __LINE__, #cond))
#define CHECK_EQ(a, b)                                                                             \
    check_compare(__FILE__, __LINE__, #a " == " #b, (long long)(a), (long long)(b), 1)
#define CHECK_NE(a, b)                                                                             \
    check_compare(__FILE__, __LINE__, #a " != " #b, (long long)(a), (long long)(b), 0)
#define CHECK_STR(a, b) check_strings(__FILE__, __LINE__, #a " is " #b, (a), (b))
#define CHECK_MEM(a, b, len) check_memory(__FILE__, __LINE__, #a " holds " #b, (a), (b), (len))
#define REQUIRE(cond) ((cond) ? (void)0 : check_give_up(__FILE__, __LINE__, #cond))
#define REQUIRE_EQ(a, b)                                                                           \
    (CHECK_EQ(a, b) ? (void)0 : check_give_up(__FILE__, __LINE__, "required: " #a " == " #b))

__attribute__((unused)) static void
check_failed(const char *file, int line, const char *what)
{
    __atomic_add_fetch(&check_failures, 1, __ATOMIC_RELAXED); /* read after the threads' joins */
    fprintf(stderr, "%s:%d: in %s: failed: %s\n", file, line, check_current, what);
}

__attribute__((unused, noreturn)) static void
check_give_up(const char *file, int line, const char *what)
{
    check_failed(file, line, what);
    if (!check_is_main) {
        abort();
    }
    longjmp(check_exit, 1);
}

__attribute__((unused)) static int
check_compare(const char *file, int line, const char *what, long long a, long long b,
              int want_equal)
{
    if ((a == b) == want_equal) {
        return 1;
    }
    check_failed(file, line, what);
    fprintf(stderr, "    left  %lld (0x%llx)\n    right %lld (0x%llx)\n", a, (unsigned long long)a,
            b, (unsigned long long)b);
    return 0;
}

__attribute__((unused)) static void
check_strings(const char *file, int line, const char *what, const char *a, const char *b)
{
    if (a == NULL || b == NULL || strcmp(a, b) != 0) {
        check_failed(file, line, what);
        fprintf(stderr, "    left  \"%s\"\n    right \"%s\"\n", a ? a : "(null)", b ? b : "(null)");
    }
}

__attribute__((unused)) static void
check_memory(const char *file, int line, const char *what, const void *a, const void *b, size_t len)
{
    const unsigned char *left = a, *right = b;
    for (size_t i = 0; i < len; i++) {
        if (left[i] != right[i]) {
            check_failed(file, line, what);
            fprintf(stderr, "    byte %zu of %zu: 0x%02x, expected 0x%02x\n", i, len, left[i],
                    right[i]);
            return;
        }
    }
}

static void
check_on_signal(int number)
{
    const char *why = number == SIGALRM ? "timed out in " : "crashed in ";
    const char *name = check_current;
    /* write(), for nothing else is safe here; should it fail there is nobody left to tell. */
    if (write(2, why, strlen(why)) < 0 || write(2, name, strlen(name)) < 0 ||
        write(2, "\n", 1) < 0) {
        _exit(4);
    }
    signal(number, SIG_DFL);
    raise(number);
}

static int
check_is_selected(const char *name, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strstr(name, argv[i]) != NULL) {
            return 1;
        }
    }
    return argc < 2;
}

/* qemu-user up to 8.0 emulates the atomics of a process without threads as plain loads and stores,
 * though other processes share the memory: one thread, made and joined, makes it do it right. */
static void *
check_do_nothing(void *context)
{
    return context;
}

static void
check_start_parallel_emulation(void)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, check_do_nothing, NULL) == 0) {
        pthread_join(thread, NULL);
    }
}

/* Emulators ignore some of what a test is about, such as MADV_DONTFORK. */
__attribute__((unused)) static int
check_is_emulated(void)
{
    return getenv("CHECK_EMULATED") != NULL;
}

int
main(int argc, char **argv)
{
    const char *limit = getenv("CHECK_TIMEOUT_S");
    unsigned timeout_s = limit != NULL ? (unsigned)atoi(limit) : 120;
    volatile int passed = 0, failed = 0;

    check_start_parallel_emulation();
    check_is_main = 1;
    signal(SIGALRM, check_on_signal);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    /* A sanitizer tells more of a crash than a name. */
    signal(SIGSEGV, check_on_signal);
    signal(SIGBUS, check_on_signal);
    signal(SIGABRT, check_on_signal);
#endif
    for (struct check_test *volatile test = check_first; test != NULL; test = test->next) {
        if (!check_is_selected(test->name, argc, argv)) {
            continue;
        }
        check_current = test->name;
        check_failures = 0;
        alarm(timeout_s);
        if (setjmp(check_exit) == 0) {
            test->run();
        }
        alarm(0);
        if (__atomic_load_n(&check_failures, __ATOMIC_RELAXED) == 0) {
            passed++;
        }
        else {
            failed++;
        }
    }
    if (passed + failed == 0) {
        return argc < 2 ? 2 : 0;
    }
    const char *program = strrchr(argv[0], '/');
    printf("%s: %d passed, %d failed\n", program != NULL ? program + 1 : argv[0], passed, failed);
    return failed != 0;
}

#endif
