/* Facts about this process and this machine, for people to read and for identities.
 *
 * Owns:      pid, uid, command text, random bytes, the boot id, fork handlers.
 * Does not:  judge whether another process lives; only kernel-held locks tell that.
 *
 * Invariants
 *   P1  Nothing here is used as proof of life: pids are reused and differ between namespaces.
 *   P2  A fact that cannot be had is empty or zero, never an error; random bytes are no fact.
 * A crash here leaves: nothing.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "os/os.h"

#include "os/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

uint32_t
os_pid(void)
{
    return (uint32_t)getpid();
}

uint32_t
os_uid(void)
{
    return (uint32_t)geteuid();
}

static size_t
read_file(const char *path, void *out, size_t len)
{
    int fd = OS_CALL(-1, open(path, O_RDONLY | O_CLOEXEC));
    if (fd < 0) {
        return 0;
    }
    ssize_t got = OS_CALL(-1, read(fd, out, len));
    (void)os_file_close(fd);
    return got < 0 ? 0 : (size_t)got;
}

static const char *
base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* The script of an interpreter says more than "python3": take the first argument that is not an
 * option; after -m it is the module, after -c there is none. */
void
os_command(char *out, size_t len)
{
    char args[2048];
    size_t got = read_file("/proc/self/cmdline", args, sizeof args - 1);
    args[got] = 0;
    const char *program = base_name(args);
    const char *best = program;
    if (strncmp(program, "python", 6) == 0 || strncmp(program, "pypy", 4) == 0) {
        size_t at = strlen(args) + 1;
        while (at < got) {
            const char *arg = args + at;
            if (strcmp(arg, "-c") == 0) {
                break;
            }
            if (strcmp(arg, "-X") == 0 || strcmp(arg, "-W") == 0) {
                at += strlen(arg) + 1; /* the value of this one */
            }
            if (arg[0] != '-') {
                best = base_name(arg);
                break;
            }
            at += strlen(args + at) + 1;
        }
    }
    snprintf(out, len, "%s", best[0] ? best : "?");
    for (char *c = out; *c; c++) {
        if ((unsigned char)*c < 0x20 || (unsigned char)*c > 0x7e) {
            *c = '?';
        }
    }
}

int
os_random(void *out, size_t len)
{
    unsigned char *to = out;
    while (len > 0) {
        ssize_t got = OS_CALL(-1, getrandom(to, len, 0));
        if (got > 0) {
            to += got;
            len -= (size_t)got;
        }
        else if (errno != EINTR) {
            /* A sandbox may know the call and forbid it; asking for ever would hang. */
            return read_file("/dev/urandom", to, len) == len ? 0 : -EIO;
        }
    }
    return 0;
}

void
os_boot_id(uint8_t out[16])
{
    char text[64] = "";
    size_t got = read_file("/proc/sys/kernel/random/boot_id", text, sizeof text - 1);
    memset(out, 0, 16);
    size_t nibble = 0;
    for (size_t i = 0; i < got && nibble < 32; i++) {
        const char *digits = "0123456789abcdef";
        const char *at = text[i] ? strchr(digits, text[i]) : NULL;
        if (at) {
            unsigned value = (unsigned)(at - digits);
            out[nibble / 2] = (uint8_t)((unsigned)out[nibble / 2] << 4 | value);
            nibble++;
        }
    }
}

const char *
os_getenv(const char *name)
{
    return getenv(name);
}

int
os_at_fork(void (*prepare)(void), void (*parent)(void), void (*child)(void))
{
    return -OS_CALL(os_error, pthread_atfork(prepare, parent, child));
}
