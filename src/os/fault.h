/* The one way to a system call or an allocation: where tests make it fail, or die beside it.
 *
 * Owns:      OS_CALL, and (in a build with SF_FAILPOINTS) the table of what can fail and how.
 * Does not:  retry or judge: a fault looks to its caller exactly like the kernel's own.
 *
 * Invariants
 *   I1  Every call of this layer that can fail, or that changes anything outside the process, is
 *       made through OS_CALL; so is every allocation. Clocks, ids and frees are not.
 *   I2  Without SF_FAILPOINTS, OS_CALL(failed, call) is (call).
 *   I3  A fault replaces its call: the call is not made, except that a close still closes.
 * A crash here leaves: what a crash before or after the call leaves; both are tried.
 */
#ifndef SHMFLOW_OS_FAULT_H
#define SHMFLOW_OS_FAULT_H

#ifndef SF_FAILPOINTS

#define OS_CALL(failed, call) (call)

#else

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>

/* Called before and after every call; tests define it (core/atomics.h). */
void sf_point(const char *file, int line);
/* The errno that this call is to fail with, or 0. */
int os_fault(const char *call, const char *file, int line);

/* From now on, the nth call of those the table knows fails with the choice-th of its errors; with
 * for_good every later call from the same line of code fails too (EINTR: a hundred times, since it
 * asks to come again). nth 0: none fails, calls are counted. */
void os_fault_arm(uint64_t nth, unsigned choice, bool for_good);
/* How many were counted since; which failed first ("open(path, flags)"), or NULL; and how many
 * errors the table has for it. */
uint64_t os_fault_counted(void);
const char *os_fault_hit(void);
unsigned os_fault_choices(void);

/* `failed` is evaluated, with the errno in os_error, where the call is to fail. */
#define OS_CALL(failed, call)                                                                      \
    __extension__({                                                                                \
        sf_point(__FILE__, __LINE__);                                                              \
        __typeof__(call) os_got;                                                                   \
        int os_error = os_fault(#call, __FILE__, __LINE__);                                        \
        if (os_error != 0) {                                                                       \
            os_got = (__typeof__(call))(failed);                                                   \
            errno = os_error;                                                                      \
        }                                                                                          \
        else {                                                                                     \
            os_got = (call);                                                                       \
            os_error = errno;                                                                      \
        }                                                                                          \
        sf_point(__FILE__, __LINE__);                                                              \
        errno = os_error;                                                                          \
        os_got;                                                                                    \
    })

#endif
#endif
