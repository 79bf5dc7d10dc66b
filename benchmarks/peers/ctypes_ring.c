/* A ring as it is usually written by hand: slots of one size in POSIX shared memory, and one named
 * semaphore around every operation, the copy included.
 *
 * Owns: the segment /NAME-ring and the semaphore /NAME-sem. Writers overwrite the oldest message
 * and never wait for readers; each reader has its own position and polls. A process that dies
 * between sem_wait and sem_post blocks all others for ever: that is part of the design.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define ALIGN 4096u

struct shared {
    uint64_t head; /* messages written so far */
    uint64_t depth, nbytes, stride;
    uint64_t seq[]; /* of the message in each slot, from 1; 0 for none */
};

struct ring {
    struct shared *shared;
    unsigned char *slots;
    size_t length;
    sem_t *sem;
};

static size_t
align(size_t length)
{
    return (length + ALIGN - 1) / ALIGN * ALIGN;
}

static size_t
head_length(uint64_t depth)
{
    return align(sizeof(struct shared) + depth * sizeof(uint64_t));
}

static void
names(const char *name, char *segment, char *semaphore, size_t length)
{
    snprintf(segment, length, "/%s-ring", name);
    snprintf(semaphore, length, "/%s-sem", name);
}

void
ring_unlink(const char *name)
{
    char segment[256], semaphore[256];
    names(name, segment, semaphore, sizeof segment);
    shm_unlink(segment);
    sem_unlink(semaphore);
}

/* 0, or an errno. */
int
ring_create(const char *name, uint64_t depth, uint64_t nbytes)
{
    char segment[256], semaphore[256];
    names(name, segment, semaphore, sizeof segment);
    const size_t stride = align(nbytes), length = head_length(depth) + depth * stride;
    int fd = shm_open(segment, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (fd < 0) {
        return errno;
    }
    int error = posix_fallocate(fd, 0, (off_t)length);
    const uint64_t words[4] = {0, depth, nbytes, stride};
    if (error == 0 && pwrite(fd, words, sizeof words, 0) != (ssize_t)sizeof words) {
        error = errno;
    }
    close(fd);
    if (error == 0) {
        sem_t *sem = sem_open(semaphore, O_CREAT | O_EXCL, 0600, 1);
        if (sem == SEM_FAILED) {
            error = errno;
        }
        else {
            sem_close(sem);
        }
    }
    if (error != 0) {
        shm_unlink(segment);
    }
    return error;
}

/* NULL with errno set where it fails. */
struct ring *
ring_open(const char *name)
{
    char segment[256], semaphore[256];
    names(name, segment, semaphore, sizeof segment);
    struct ring *ring = calloc(1, sizeof *ring);
    int fd = shm_open(segment, O_RDWR, 0);
    if (!ring || fd < 0) {
        free(ring);
        return NULL;
    }
    ring->length = (size_t)lseek(fd, 0, SEEK_END);
    ring->shared =
        mmap(NULL, ring->length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    close(fd);
    if (ring->shared == MAP_FAILED) {
        free(ring);
        return NULL;
    }
    ring->slots = (unsigned char *)ring->shared + head_length(ring->shared->depth);
    ring->sem = sem_open(semaphore, 0);
    if (ring->sem == SEM_FAILED) {
        munmap(ring->shared, ring->length);
        free(ring);
        return NULL;
    }
    return ring;
}

void
ring_close(struct ring *ring)
{
    sem_close(ring->sem);
    munmap(ring->shared, ring->length);
    free(ring);
}

static void
enter(struct ring *ring)
{
    while (sem_wait(ring->sem) != 0) {
        /* EINTR */
    }
}

void
ring_write(struct ring *ring, const void *data)
{
    struct shared *s = ring->shared;
    enter(ring);
    const uint64_t slot = s->head % s->depth;
    memcpy(ring->slots + slot * s->stride, data, s->nbytes);
    s->seq[slot] = ++s->head;
    sem_post(ring->sem);
}

static int
try_read(struct ring *ring, uint64_t *position, void *out)
{
    struct shared *s = ring->shared;
    enter(ring);
    const int found = s->head > *position;
    if (found) {
        if (s->seq[*position % s->depth] != *position + 1) {
            *position = s->head - s->depth; /* lapped: on with the oldest */
        }
        memcpy(out, ring->slots + *position % s->depth * s->stride, s->nbytes);
        *position += 1;
    }
    sem_post(ring->sem);
    return found;
}

static int64_t
now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* 1 with a message in `out`, or 0 after the time-out. */
int
ring_read(struct ring *ring, uint64_t *position, void *out, int64_t timeout_ns)
{
    if (try_read(ring, position, out)) {
        return 1;
    }
    const int64_t deadline = now_ns() + timeout_ns;
    while (now_ns() < deadline) {
        sched_yield();
        if (try_read(ring, position, out)) {
            return 1;
        }
    }
    return 0;
}
