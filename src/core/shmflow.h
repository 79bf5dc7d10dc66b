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

/* All that is returned besides an -errno. */
#define SHMFLOW_EMPTY (-5001) /* no message within the timeout */
#define SHMFLOW_BUSY (-5002) /* another writer held the lock all the time */
#define SHMFLOW_NO_ROOM (-5003) /* everything that would fit is held or being written */
#define SHMFLOW_ENDED (-5005) /* the stream was shut down (and is drained) */
#define SHMFLOW_NOT_FOUND (-5007) /* no such topic */
#define SHMFLOW_MISMATCH (-5009) /* the topic in use has other sizes than were asked for */
#define SHMFLOW_TOO_LARGE (-5010) /* larger than the topic's max_message */
#define SHMFLOW_DENIED (-5011) /* no permission for the file or its folder */
#define SHMFLOW_NO_SLOT (-5012) /* the topic has as many participants as it admits */
#define SHMFLOW_NO_SPACE (-5013) /* the file system has no room for a new topic */
#define SHMFLOW_NO_CGROUP (-5014) /* the memory cgroup has no room for a new topic */
#define SHMFLOW_BAD_NAME (-5015) /* not a topic name */
#define SHMFLOW_BAD_VALUE (-5016) /* an option out of range, or an array that does not add up */
#define SHMFLOW_WRONG_MODE (-5017) /* the topic was opened to read */
#define SHMFLOW_STRANGER (-5018) /* another user's topic: give permissions if you mean to share */
#define SHMFLOW_RACE (-5019) /* others made and removed it all the time: call again */
#define SHMFLOW_INTERRUPTED (-5020) /* a signal came */
#define SHMFLOW_LAGGING (-5021) /* a lossless reader has yet to read what would have to go */
#define SHMFLOW_OWN_LAG (-5022) /* as above, and it is this very topic object: read first */
#define SHMFLOW_NO_LOSSLESS_HERE (-5023) /* the topic admits no lossless readers */
#define SHMFLOW_NO_GROUP (-5024) /* all 16 groups have members */
#define SHMFLOW_GROUP_POLICY (-5025) /* the group's members have another value of lossless */
#define SHMFLOW_FS_LOCKS (-5031) /* the folder's file system has no locks that a mapping keeps, */
#define SHMFLOW_FS_SHARING (-5032) /* or no memory that processes share, */
#define SHMFLOW_FS_RESERVE (-5033) /* or none that can be reserved, */
#define SHMFLOW_FS_FUTEX (-5034) /* or no files to sleep on */
#define SHMFLOW_NOT_A_FILE (-5101) /* what has the topic's name is no topic: not a file, */
#define SHMFLOW_SHORT (-5102) /* or too short, */
#define SHMFLOW_FOREIGN (-5103) /* or some other program's, */
#define SHMFLOW_ENDIAN (-5104) /* or from a machine of the other byte order, */
#define SHMFLOW_FORMAT (-5105) /* or from another version of shmflow, */
#define SHMFLOW_BAD_HEADER (-5106) /* or with a header that contradicts itself, */
#define SHMFLOW_TRUNCATED (-5107) /* or not as long as its header tells */
#define SHMFLOW_CORRUPT (-5108) /* the topic's tables contradict each other */
#define SHMFLOW_SPARSE (-5110) /* it has holes, as a copy has */
#define SHMFLOW_BAD_MESSAGE (-5109) /* message->seq cannot be; it was passed, read on */

struct shmflow_topic; /* opaque */

/* Zero everywhere is a good start: all defaults. */
struct shmflow_options {
    uint64_t capacity;    /* bytes for messages; 0: 16 times the first message, at least 1 MiB */
    uint64_t max_message; /* largest payload in bytes; 0: a quarter of the capacity */
    uint64_t depth;       /* messages retained at most; 0: as many as fit, see the README */
    uint32_t permissions; /* of the file; 0: 0600 */
    uint32_t start_new;   /* non-zero: read only what comes after opening */
    uint32_t lossless;    /* non-zero: writers wait until this reader has read what must go */
    const char *group; /* each message goes to one member of the group of that name; NULL: none */
};

/* What a message is. As a sender: dtype NULL is "|u1" (bytes), and then ndim 0 and shape NULL is one
 * dimension of len bytes; meta is a JSON object or NULL. What does not add up is SHMFLOW_BAD_VALUE: len
 * that is not the product of shape times the bytes of one element, a dtype or meta that is none. */
struct shmflow_array {
    const void *data;
    uint64_t len; /* bytes of data */
    /* As in a .npy header: "<f4", "|u1", "[('x', '<f4'), ('t', '<i8')]". Of a message that was read it
     * has a NUL behind it. */
    const char *dtype;
    uint32_t dtype_len; /* bytes of dtype; 0: strlen */
    uint32_t ndim; /* at most 32; 0 is a single element */
    const uint64_t *shape;
    const void *meta; /* UTF-8. Of a message that was read it has a NUL behind it. */
    uint32_t meta_len; /* bytes of meta; 0 only where it is NULL */
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
