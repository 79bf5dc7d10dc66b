/* A folder of its own for topics, and other processes: for tests that need real files.
 *
 * Owns:      a new folder under /dev/shm (CHECK_SCRATCH moves it), which SHMFLOW_DIR names while the
 *            program runs and which is gone at its end, however it ends but for SIGKILL; forking
 *            and awaiting children.
 * Does not:  clean what a test leaves behind silently: a file that is still there at the end of
 *            the program is told.
 */
#ifndef SHMFLOW_TESTS_SCRATCH_H
#define SHMFLOW_TESTS_SCRATCH_H

#include "check.h"
#include "core/attachment.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#define UNUSED __attribute__((unused))
#define SECONDS(n) (os_now_ns() + (uint64_t)((n) * 1e9)) /* from now, as an until_ns */

static char scratch_dir[96];
static pid_t scratch_pid;

/* Removes what is in the folder; how many files that were. */
UNUSED static int
scratch_empty(void)
{
    int count = 0;
    DIR *dir = opendir(scratch_dir);
    if (dir == NULL) {
        return 0;
    }
    for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir)) {
        char path[400];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
            continue;
        }
        snprintf(path, sizeof path, "%s/%s", scratch_dir, entry->d_name);
        count += remove(path) == 0;
    }
    closedir(dir);
    return count;
}

__attribute__((destructor)) static void
scratch_drop(void)
{
    if (scratch_pid == getpid()) {
        if (scratch_empty() > 0) {
            fprintf(stderr, "scratch: a test left files behind in %s\n", scratch_dir);
        }
        rmdir(scratch_dir);
    }
}

__attribute__((constructor)) static void
scratch_make(void)
{
    const char *parent = getenv("CHECK_SCRATCH"); /* of who expects a crash, and cleans up */
    snprintf(scratch_dir, sizeof scratch_dir, "%.60s/shmflow-test-XXXXXX",
             parent ? parent : "/dev/shm");
    if (mkdtemp(scratch_dir) == NULL) {
        perror(scratch_dir);
        _exit(3);
    }
    scratch_pid = getpid();
    setenv("SHMFLOW_DIR", scratch_dir, 1);
}

static const char *
path_of(const char *name)
{
    static _Thread_local char path[4096];
    path[0] = 0;
    CHECK_EQ(sf_segment_path(name, path, sizeof path), 0);
    return path;
}

static int
create(const char *name, uint64_t capacity, uint64_t max_message, uint64_t depth)
{
    struct sf_params params = {
        .capacity = capacity,
        .max_message = max_message,
        .depth = depth,
        .max_participants = 64,
    };
    return sf_segment_create(path_of(name), &params, 0600, NULL, NULL);
}

UNUSED static struct sf_attachment *
attach(const char *name, enum sf_attach_as as)
{
    struct sf_attachment *att = NULL;
    int status = sf_attach(path_of(name), as, &att);
    if (status != 0) {
        fprintf(stderr, "attach to %s: %s\n", name, sf_status_name(status));
    }
    REQUIRE(status == 0);
    return att;
}

/* A fresh topic with one writer attached. */
UNUSED static struct sf_attachment *
create_and_attach(const char *name, uint64_t capacity, uint64_t depth)
{
    REQUIRE_EQ(create(name, capacity, 0, depth), 0);
    return attach(name, SF_AS_WRITER);
}

UNUSED static void
remove_topic(const char *name)
{
    CHECK_EQ(sf_segment_remove(path_of(name), NULL, SF_ALWAYS), 0);
}

/* ---- other processes ---- */

/* Children end by _exit: 0, or 1 if a CHECK of theirs failed. */
UNUSED static pid_t
child(void (*run)(void *), void *context)
{
    fflush(NULL);
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        check_failures = 0;
        check_is_main = 0; /* a REQUIRE that fails aborts */
        alarm(60);
        run(context);
        _exit(check_failures != 0);
    }
    return pid;
}

UNUSED static int
await(pid_t pid)
{
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

UNUSED static void
kill_child(pid_t pid)
{
    CHECK_EQ(kill(pid, SIGKILL), 0);
    CHECK_EQ(await(pid), 128 + SIGKILL);
}

/* A page that parent and child share: words to say "I am there" with. */
struct stage {
    _Atomic uint32_t word[16];
    _Atomic uint64_t number[16];
};

UNUSED static struct stage *
stage_make(void)
{
    void *at =
        mmap(NULL, sizeof(struct stage), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(at != MAP_FAILED);
    return at;
}

UNUSED static void
stage_drop(struct stage *stage)
{
    munmap(stage, sizeof *stage);
}

UNUSED static void
nap_ms(long ms)
{
    struct timespec length = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&length, NULL);
}

/* Waits until the condition holds; false after 20 s. */
#define EVENTUALLY(condition)                                                                      \
    __extension__({                                                                                \
        int tries_ = 20000;                                                                        \
        while (!(condition) && --tries_ > 0) {                                                     \
            nap_ms(1);                                                                             \
        }                                                                                          \
        tries_ > 0;                                                                                \
    })

/* ---- messages ---- */

UNUSED static struct sf_out
out_of(const void *data, uint64_t len, const uint64_t *shape)
{
    return (struct sf_out){
        .data = data,
        .payload_len = len,
        .shape = shape,
        .dtype = "|u1",
        .ndim = 1,
        .dtype_len = 3,
    };
}

/* Sends one message of whatever size; its number, or a negative status. */
UNUSED static int64_t
send_bytes(struct sf_attachment *att, const void *data, uint64_t len, uint64_t stamp)
{
    uint64_t seq = 0, until = SECONDS(20);
    struct sf_out out = out_of(data, len, &len);
    out.stamp_ns = stamp;
    out.stamped = true;
    int status;
    if (sf_out_block_len(&out) <= SF_SMALL_LEN) {
        status = sf_send_small(att, &out, until, &seq);
    }
    else {
        struct sf_claim claim;
        status = sf_send_claim(att, sf_out_block_len(&out), true, until, &claim);
        if (status == 0) {
            memcpy(sf_send_payload(att, &out, &claim), data, len);
            status = sf_send_publish(att, &out, &claim, until, &seq);
            if (status < 0) {
                sf_send_drop(att, &claim);
            }
        }
    }
    return status < 0 ? status : (int64_t)seq;
}

/* Takes the next message without a copy of its bytes; 0 or a status. */
UNUSED static int
take(struct sf_attachment *att, struct sf_message *message)
{
    uint64_t from;
    int status = sf_take_look(att, false, &from, message);
    if (status == 0) {
        CHECK(sf_take_commit(att, from, message));
    }
    return status;
}

#endif
