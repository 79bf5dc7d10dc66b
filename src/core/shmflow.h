/* shmflow for C and C++: messages between processes of one Linux host, through a ring in shared
 * memory. The same topics as in Python: `shmflow.Topic(name)` there is shmflow_open(name) here.
 *
 * Caveats first.
 *   - A topic object is used by one thread at a time; open one per thread.
 *   - Data of a message that was read is valid, and does not change, until shmflow_release. Hold
 *     as few as you need: held bytes are bytes that the ring flows around.
 *   - Waiting calls return SHMFLOW_INTERRUPTED when a signal came; call again.
 *   - After fork the child may only close what it inherited, and open its own.
 *
 * Owns:      the public C interface.
 * Does not:  show the layout or any atomic; C++ includes it as it is.
 *
 * Invariants
 *   C1  Functions return >= 0, or a negative status that shmflow_strstatus explains: -errno of
 *       the kernel, or one of the numbers below.
 *   C2  timeout_ns: negative for ever, 0 not at all.
 * A crash costs others nothing; see docs/design.md.
 */
#ifndef SHMFLOW_H
#define SHMFLOW_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SHMFLOW_EMPTY (-5001)       /* no message within the timeout */
#define SHMFLOW_BUSY (-5002)        /* another writer held the lock all the time */
#define SHMFLOW_NO_ROOM (-5003)     /* everything that would fit is held or being written */
#define SHMFLOW_ENDED (-5005)       /* the stream was shut down (and is drained) */
#define SHMFLOW_NOT_FOUND (-5007)   /* no such topic */
#define SHMFLOW_TOO_LARGE (-5010)   /* larger than the topic's max_message */
#define SHMFLOW_INTERRUPTED (-5020) /* a signal came */
#define SHMFLOW_LAGGING (-5021)     /* a lossless reader has yet to read what would have to go */
#define SHMFLOW_OWN_LAG (-5022)     /* as above, and it is this very topic object: read first */
/* What the folder's file system lacks, so that no topic can lie there: */
#define SHMFLOW_FS_LOCKS (-5031)   /* locks that a mapping keeps (overlayfs) */
#define SHMFLOW_FS_SHARING (-5032) /* memory that processes share */
#define SHMFLOW_FS_RESERVE (-5033) /* memory that is reserved (ramfs, some of FUSE) */
#define SHMFLOW_FS_FUTEX (-5034)   /* files to sleep on */

struct shmflow_topic; /* opaque */

/* Zero everywhere is a good start: all defaults. */
struct shmflow_options {
    uint64_t capacity;    /* bytes for messages; 0: 16 times the first message, at least 1 MiB */
    uint64_t max_message; /* largest payload in bytes; 0: a quarter of the capacity */
    uint64_t depth;       /* messages retained at most; 0: as many as fit */
    uint32_t permissions; /* of the file; 0: 0600 */
    uint32_t start_new;   /* non-zero: read only what comes after opening */
    uint32_t lossless;    /* non-zero: writers wait until this reader has read what must go */
    const char *group; /* each message goes to one member of the group of that name; NULL: none */
};

/* What a message is. As a sender: dtype NULL is "|u1" (bytes), ndim 0 with dtype NULL is one
 * dimension of len bytes; meta is a JSON object or NULL. */
struct shmflow_array {
    const void *data;
    uint64_t len; /* bytes of data */
    const char *dtype; /* as in a .npy header: "<f4", "|u1" */
    uint32_t dtype_len; /* bytes of dtype; 0: strlen */
    uint32_t ndim; /* at most 32 */
    const uint64_t *shape;
    const void *meta;
    uint32_t meta_len;
    int fortran; /* non-zero: Fortran order */
};

/* A message that was read. Fields are valid until shmflow_release. */
struct shmflow_message {
    struct shmflow_array array;
    uint64_t seq; /* 1, 2, 3, ... */
    uint64_t timestamp_ns; /* CLOCK_REALTIME */
    uint64_t lost; /* how many before it were gone when this reader came to them */
    uint32_t writer_pid;
    void *hold; /* shmflow's own */
};

/* Opens a topic by name. `writer` non-zero to write as well; the topic is made at the first write.
 * options may be NULL. Never blocks. */
int shmflow_open(struct shmflow_topic **topic, const char *name, int writer,
                 const struct shmflow_options *options);
/* Leaves. Messages that were not released stay valid. NULL is fine. */
void shmflow_close(struct shmflow_topic *topic);

/* Appends one message; *seq (if not NULL) gets its number. Waits for no reader but lossless ones. */
int shmflow_write(struct shmflow_topic *topic, const struct shmflow_array *array,
                  int64_t timeout_ns, uint64_t *seq);
/* Takes the next message; zero-copy from 4 KiB on. Waits also for a topic to appear. */
int shmflow_read(struct shmflow_topic *topic, struct shmflow_message *message, int64_t timeout_ns);
/* Lets go of what shmflow_read gave. From any thread. */
void shmflow_release(struct shmflow_message *message);

/* Ends the stream for everybody: writers get SHMFLOW_ENDED, readers drain it, then too. */
int shmflow_shutdown(struct shmflow_topic *topic, int64_t timeout_ns);
/* Removes a topic by name; readers follow its next generation. */
int shmflow_unlink(const char *name);
/* A clause in English. Never NULL. */
const char *shmflow_strstatus(int status);

#ifdef __cplusplus
}
#endif

#endif
