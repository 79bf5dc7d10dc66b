/* The table of faults: what each call can fail with, and which one is to fail now.
 *
 * Owns:      the errors that man pages and old kernels know for the calls of this layer.
 * Does not:  exist in a build without SF_FAILPOINTS.
 *
 * Invariants
 *   T1  Only errors that the call can give for reasons outside this program: EBADF, EFAULT and
 *       the like would be our own mistakes.
 *   T2  A call that is not in the table is neither counted nor failed, but is a point to die at.
 * A crash here leaves: nothing.
 *
 * Globals: plan, counted, hit, hit_line, hit_entry, again: one process's own, for one test at a
 * time.
 */
#include "os/os.h"

#include "os/fault.h"

#ifdef SF_FAILPOINTS

#include <string.h>

enum { ERRORS = 6, AGAIN_LIMIT = 100 };

static const struct entry {
    const char *call;
    int errors[ERRORS];
} table[] = {
    {"open", {EMFILE, ENOMEM, EACCES, EINTR, ENOENT, EOPNOTSUPP}},
    {"close", {EIO, EINTR}},
    {"fstat", {ENOMEM}},
    {"lstat", {ENOMEM, EACCES, ENOENT}},
    {"stat", {ENOMEM, EACCES}},
    {"statfs", {EIO, ENOSYS}},
    {"fchmod", {EPERM, EROFS}},
    {"ftruncate", {ENOSPC, EFBIG, EPERM}},
    {"fallocate", {ENOSPC, EINTR, EOPNOTSUPP, EDQUOT, ENOMEM}},
    {"link", {ENOSPC, EEXIST, EACCES, EMLINK}},
    {"linkat", {ENOENT, ENOSPC, EEXIST, EACCES, ENOMEM}},
    {"rename", {EACCES, EPERM, ENOSPC, EROFS, ENOENT}},
    {"unlink", {EACCES, EPERM, EBUSY, EROFS, ENOENT}},
    {"faccessat", {EACCES, ENOMEM}},
    {"getcwd", {ENOENT, EACCES}},
    {"fopen", {EMFILE, ENOENT, ENOMEM}},
    {"fgets", {EIO}},
    {"read", {EIO, EINTR}},
    {"getrandom", {ENOSYS, EINTR, EPERM}},
    {"mmap", {ENOMEM, EAGAIN, ENFILE, ENODEV}},
    {"mremap", {ENOMEM}},
    {"mprotect", {ENOMEM}},
    {"madvise", {ENOMEM, EINVAL, EAGAIN}},
    {"fcntl", {ENOLCK, EINTR, EAGAIN, EINVAL}},
    {"futex_wait", {EINTR, EAGAIN, ETIMEDOUT}},
    {"futex_waitv", {ENOSYS, EPERM, EINTR, EAGAIN, ETIMEDOUT, ENOMEM}},
    {"clock_nanosleep", {EINTR}},
    {"pthread_atfork", {ENOMEM}},
    {"eventfd", {EMFILE, ENFILE, ENOMEM, ENODEV}},
    {"write", {EINTR}},
    {"pthread_attr_init", {ENOMEM}},
    {"leave_table", {ENOSYS, EPERM}},
    {"pthread_create", {EAGAIN, EPERM}},
    {"malloc", {ENOMEM}},
    {"calloc", {ENOMEM}},
    {"strdup", {ENOMEM}},
};

static struct {
    uint64_t nth;
    unsigned choice;
    bool for_good;
} plan;
static uint64_t counted;
static const char *hit, *hit_file;
static int hit_line;
static const struct entry *hit_entry;
static unsigned again;

static const struct entry *
find(const char *call)
{
    size_t len = strcspn(call, "(");
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (strlen(table[i].call) == len && strncmp(table[i].call, call, len) == 0) {
            return &table[i];
        }
    }
    return NULL;
}

static int
error_of(const struct entry *entry)
{
    int error = entry->errors[plan.choice % ERRORS];
    return error != 0 ? error : entry->errors[0];
}

int
os_fault(const char *call, const char *file, int line)
{
    const struct entry *entry = find(call);
    if (!entry) {
        return 0;
    }
    counted++;
    if (hit) {
        bool same = hit_line == line && strcmp(hit_file, file) == 0;
        int error = plan.for_good && same ? error_of(entry) : 0;
        return error == EINTR && ++again > AGAIN_LIMIT ? 0 : error;
    }
    if (counted != plan.nth) {
        return 0;
    }
    hit = call;
    hit_file = file;
    hit_line = line;
    hit_entry = entry;
    return error_of(entry);
}

void
os_fault_arm(uint64_t nth, unsigned choice, bool for_good)
{
    plan.nth = nth;
    plan.choice = choice;
    plan.for_good = for_good;
    counted = 0;
    again = 0;
    hit = NULL;
    hit_entry = NULL;
}

uint64_t
os_fault_counted(void)
{
    return counted;
}

const char *
os_fault_hit(void)
{
    return hit;
}

unsigned
os_fault_choices(void)
{
    unsigned count = 0;
    while (hit_entry && count < ERRORS && hit_entry->errors[count] != 0) {
        count++;
    }
    return count;
}

#endif
