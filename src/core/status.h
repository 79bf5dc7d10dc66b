/* Every answer that a function of the core can give besides success.
 *
 * Owns:      the one list of statuses; numbers, names and texts are made of it.
 * Does not:  phrase what a user reads: those texts know the topic and are made above.
 *
 * Invariants
 *   T1  A status is an int: >= 0 success, -1 … -4095 an -errno of the kernel, below -5000 ours.
 *   T2  A status never shares an integer with an offset, a length or a count.
 * A crash here leaves: nothing.
 */
#ifndef SHMFLOW_STATUS_H
#define SHMFLOW_STATUS_H

/* The two hot calls, write and read, flatten what they call into themselves. Kept out of that: what
 * runs rarely, and what runs often but is far more work than a call. */
#define SF_COLD __attribute__((cold, noinline))
#define SF_APART __attribute__((noinline))
#define SF_HOT __attribute__((flatten))

#define SF_STATUSES(X)                                                                             \
    X(SF_EMPTY, -5001, "nothing to read yet")                                                      \
    X(SF_BUSY, -5002, "the writer lock is held by another writer")                                 \
    X(SF_NO_ROOM, -5003, "every block that would fit is held or being written")                    \
    X(SF_GONE, -5004, "this generation of the topic was removed")                                  \
    X(SF_ENDED, -5005, "the topic was shut down")                                                  \
    X(SF_CLOSED, -5006, "this topic object was closed")                                            \
    X(SF_NOT_FOUND, -5007, "there is no such topic")                                               \
    X(SF_EXISTS, -5008, "the topic exists already")                                                \
    X(SF_MISMATCH, -5009, "the topic in use does not meet what was asked for")                     \
    X(SF_TOO_LARGE, -5010, "the message is larger than the topic takes")                           \
    X(SF_DENIED, -5011, "not permitted")                                                           \
    X(SF_NO_SLOT, -5012, "every participant slot is taken")                                        \
    X(SF_NO_SPACE, -5013, "not enough shared memory")                                              \
    X(SF_NO_CGROUP, -5014, "the memory cgroup's limit is too low")                                 \
    X(SF_BAD_NAME, -5015, "not a topic name")                                                      \
    X(SF_BAD_VALUE, -5016, "a value is out of range")                                              \
    X(SF_WRONG_MODE, -5017, "the topic was opened in another mode")                                \
    X(SF_STRANGER, -5018, "the topic belongs to another user")                                     \
    X(SF_RACE, -5019, "something changed while it was looked at; look again")                      \
    X(SF_INTERRUPTED, -5020, "a signal came; look at it and come again")                           \
    X(SF_LAGGING, -5021, "a lossless reader has yet to read what would have to go")                \
    X(SF_OWN_LAG, -5022, "only this Topic itself has yet to read what would have to go")           \
    X(SF_NO_LOSSLESS_HERE, -5023, "the topic admits no lossless readers")                          \
    X(SF_NO_GROUP, -5024, "every group is in use")                                                 \
    X(SF_GROUP_POLICY, -5025, "the group's members have joined with another policy")               \
    X(SF_NOT_RETAINED, -5026, "no such message is retained")                                       \
    X(SF_FS_LOCKS, -5031, "its file system drops a lock while a mapping of the file lives")        \
    X(SF_FS_SHARING, -5032, "its file system shares no memory between processes")                  \
    X(SF_FS_RESERVE, -5033, "its file system reserves no memory")                                  \
    X(SF_FS_FUTEX, -5034, "nobody can be woken through a file of its file system")                 \
    X(SF_DESERTED, -5027, "the last participant of a temporary topic has gone")                    \
    X(SF_EXITING, -5028, "the process is ending")                                                  \
    X(SF_NOT_A_FILE, -5101, "it is not a regular file")                                            \
    X(SF_SHORT, -5102, "the file is shorter than a topic's header")                                \
    X(SF_FOREIGN, -5103, "it does not start with shmflow's magic number")                          \
    X(SF_ENDIAN, -5104, "it was made on a machine of the other byte order")                        \
    X(SF_FORMAT, -5105, "it was made by a version of shmflow with another layout")                 \
    X(SF_BAD_HEADER, -5106, "its header contradicts itself")                                       \
    X(SF_TRUNCATED, -5107, "the file does not have the length its header tells")                   \
    X(SF_CORRUPT, -5108, "its tables contradict each other")                                       \
    X(SF_BAD_MESSAGE, -5109, "a message's description is out of range")                            \
    X(SF_SPARSE, -5110, "the file has holes: it is a copy, or its memory was never reserved")

enum sf_status {
#define SF_AS_ENUM(name, value, text) name = value,
    SF_STATUSES(SF_AS_ENUM)
#undef SF_AS_ENUM
};

/* "SF_EMPTY", or "errno" for a kernel status. Never NULL. */
const char *sf_status_name(int status);
/* One clause in English, without a full stop. Never NULL. */
const char *sf_status_text(int status);

#endif
