/* What an operation must leave as it was, and the other participant that goes on meanwhile.
 *
 * Owns:      counting fds, mappings, heap and files of the process; slots, claims, pins and the lock
 *            of a segment; a topic "t" with a participant that holds a message of it, and what the
 *            dead leave there; which status tells of which error.
 * Does not:  make anything fail (faults.h).
 */
#ifndef SHMFLOW_TESTS_FAULTS_LOOK_H
#define SHMFLOW_TESTS_FAULTS_LOOK_H

#include "scratch.h"

#include "core/shmflow.h"
#include "core/topic.h"

#include <malloc.h>

enum { BLOCK = 8192, DEAD_SLOT = 5 };

struct scene {
    struct sf_attachment *other, *att;
    struct sf_message held, taken;
    struct sf_claim claim, others_claim;
    struct sf_topic topic;
    struct shmflow_topic *public_topic;
    uint8_t identity[16];
    int fd;
    bool done; /* run has succeeded: end undoes it */
};

/* ---- what must be the same before and after ---- */

struct snap {
    int fds, maps, files;
    uint64_t private_len, heap_len;
};

static int
count_entries(const char *path)
{
    int count = 0;
    DIR *dir = opendir(path);
    REQUIRE(dir != NULL);
    while (readdir(dir) != NULL) {
        count++;
    }
    closedir(dir);
    return count;
}

static void
do_nothing(void *context)
{
    (void)context;
}

static struct snap
look(void)
{
    static bool has_looked;
    if (!has_looked) {
        has_looked = true;
        (void)os_run_apart(do_nothing, NULL); /* libc keeps the first thread's stack for the next */
    }
    struct snap snap = {.fds = count_entries("/proc/self/fd"), .files = count_entries(scratch_dir)};
    static char text[1 << 17];
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    size_t len = 0;
    for (ssize_t got; (got = read(fd, text + len, sizeof text - 1 - len)) > 0;) {
        len += (size_t)got;
    }
    close(fd);
    text[len] = 0;
    for (char *line = text, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        *end = 0;
        bool is_file = strchr(line, '/') != NULL, is_named = strchr(line, '[') != NULL;
        snap.maps += is_file && strstr(line, scratch_dir) != NULL;
        unsigned long from = strtoul(line, &line, 16), to = strtoul(line + 1, NULL, 16);
        snap.private_len += is_file || is_named ? 0 : to - from;
    }
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__x86_64__)
    snap.private_len = 0; /* sanitizers and emulators map as they like, and count by themselves */
#else
    snap.heap_len = mallinfo2().uordblks;
#endif
    return snap;
}

/* Allocations that are kept by threads for reuse count as leaks: so nothing is kept. */
__attribute__((constructor(101))) static void
count_allocations_exactly(int argc, char **argv)
{
    (void)argc;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && defined(__x86_64__)
    if (getenv("GLIBC_TUNABLES") == NULL) {
        setenv("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0", 1);
        execv("/proc/self/exe", argv);
    }
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
#else
    (void)argv;
#endif
}

struct shared {
    uint32_t lock, ended;
    int slots, claims, bits;
};

static struct shared
look_at_segment(const struct sf_ring *ring)
{
    /* Relaxed, all of it: one thread. */
    struct shared shared = {.lock = sf_load_relaxed(&ring->header->lock) & ~SF_WAITERS};
    shared.ended = sf_load_relaxed(&ring->header->ended); /* as above */
    for (uint32_t slot = 0; slot < ring->lay.max_participants; slot++) {
        shared.slots += sf_load_relaxed(&ring->slots[slot].state) == SF_SLOT_TAKEN; /* as above */
    }
    for (uint32_t i = 0; i < ring->lay.desc_len; i++) {
        const struct sf_desc *desc = &ring->descs[i];
        shared.bits += __builtin_popcountll(sf_load_relaxed(&desc->holders[0])); /* as above */
        shared.claims += sf_load_relaxed(&desc->len) != 0 && sf_load_relaxed(&desc->seq) == 0 &&
                         sf_load_relaxed(&desc->owner) != 0; /* as above */
    }
    return shared;
}

static void
compare(const struct snap *before, const struct snap *after, bool files_too)
{
    CHECK_EQ(after->fds, before->fds);
    CHECK_EQ(after->maps, before->maps);
    CHECK_EQ(after->private_len, before->private_len);
    CHECK_EQ(after->heap_len, before->heap_len);
    if (files_too) {
        CHECK_EQ(after->files, before->files);
    }
}

/* ---- the other participant ---- */

/* Until when something is waited for that does not come. */
UNUSED static uint64_t
soon(void)
{
    return os_now_ns() + 3000000;
}

static char block[BLOCK];

static int64_t
put(struct sf_attachment *att, char letter, uint64_t len)
{
    memset(block, letter, sizeof block);
    return send_bytes(att, block, len, 1);
}

static bool
is_all(const char *at, char letter)
{
    return at[0] == letter && memcmp(at, at + 1, BLOCK - 1) == 0;
}

/* A topic "t" with another participant that holds its first message. */
static void
set_peer(struct scene *s)
{
    REQUIRE_EQ(create("t", 1 << 16, 1 << 14, 0), 0);
    s->other = attach("t", SF_AS_WRITER);
    sf_subscribe(s->other, SF_OLDEST);
    REQUIRE_EQ(put(s->other, 'a', BLOCK), 1);
    REQUIRE_EQ(take(s->other, &s->held), 0);
    REQUIRE(sf_pin(s->other, &s->held, false) == SF_PIN_OK);
}

UNUSED static void
set_peer_and_att(struct scene *s)
{
    set_peer(s);
    s->att = attach("t", SF_AS_WRITER);
    sf_subscribe(s->att, SF_OLDEST);
}

/* A removed generation goes on too, for who is in it, but takes no message. */
static void
go_on(struct scene *s, bool may_write)
{
    struct sf_message message;
    struct sf_ring *ring = &s->other->ring;
    REQUIRE_EQ(sf_load_relaxed(&ring->header->lock), 0); /* one thread */
    REQUIRE_EQ(sf_lock_try(s->other), 0);
#ifdef SF_DEBUG
    sf_check_locked(ring);
#endif
    sf_unlock(s->other);
    if (may_write) {
        int64_t seq = put(s->other, 'b', BLOCK);
        CHECK(seq > 0);
        do {
            REQUIRE_EQ(take(s->other, &message), 0);
        } while ((int64_t)message.seq < seq);
        CHECK(is_all(sf_message_payload(s->other, &message), 'b'));
    }
    CHECK(is_all(sf_message_payload(s->other, &s->held), 'a'));
}

UNUSED static void
end_peer(struct scene *s)
{
    sf_unpin(s->other, s->held.desc);
    if (s->att) {
        sf_attachment_unref(s->att);
    }
    struct shared last = look_at_segment(&s->other->ring);
    CHECK_EQ(last.slots, 1);
    CHECK_EQ(last.claims, 0);
    CHECK_EQ(last.bits, 0);
    sf_attachment_unref(s->other);
    (void)unlink(path_of("t"));
}

UNUSED static void
end_going_on(struct scene *s)
{
    go_on(s, (sf_load_relaxed(&s->other->ring.header->ended) & SF_ENDS) == 0); /* one thread */
    end_peer(s);
}

/* ---- a lock that is held, and the dead ---- */

UNUSED static void
set_locked(struct scene *s)
{
    set_peer_and_att(s);
    REQUIRE_EQ(sf_lock_try(s->other), 0);
}

UNUSED static void
end_locked(struct scene *s)
{
    sf_unlock(s->other);
    end_going_on(s);
}

/* What a participant leaves that was killed: a taken slot whose byte is free, and its bit. */
UNUSED static void
leave_dead_one(struct scene *s)
{
    struct sf_ring *ring = &s->other->ring;
    sf_store_relaxed(&ring->slots[DEAD_SLOT].state, SF_SLOT_TAKEN); /* one thread */
    (void)sf_or_seq64(sf_holders_word(ring, s->held.desc, DEAD_SLOT),
                      UINT64_C(1) << DEAD_SLOT); /* as above */
}

/* Whoever came upon the dead may have left cleaning to the next one. */
UNUSED static void
end_cleaned(struct scene *s)
{
    (void)sf_clean_dead(s->other);
    end_going_on(s);
}

/* ---- an honest status ---- */

/* Does the status tell of this error? A status that names another cause sends its reader the
 * wrong way. */
UNUSED static bool
tells(int status, int error)
{
    if (status == -error && error != EINTR) {
        return true; /* EINTR is either tried again or told as SF_INTERRUPTED */
    }
    switch (error) {
    case ENOSPC:
    case EDQUOT:
        return status == SF_NO_SPACE;
    case EACCES:
    case EPERM:
    case EROFS:
        return status == SF_DENIED;
    case ENOENT:
        return status == SF_NOT_FOUND || status == SF_GONE || status == SF_RACE ||
               status == SF_EMPTY;
    case EEXIST:
        return status == SF_EXISTS || status == SF_RACE;
    case EINTR:
        return status == SF_INTERRUPTED;
    case EOPNOTSUPP: /* of fallocate; of open: there is another way */
        return status == SF_FS_RESERVE;
    case ENODEV:
        return status == SF_FS_SHARING;
    case EINVAL:
        return status == SF_FS_LOCKS;
    case EAGAIN: /* of a lock: somebody has it; of a sleep: the word has changed */
        return status == SF_NO_SLOT || status == SF_BUSY || status == SF_RACE ||
               status == SF_MISMATCH;
    case ETIMEDOUT:
        return status == SF_BUSY || status == SF_EMPTY || status == SF_NO_ROOM;
    default:
        return false;
    }
}

#endif
