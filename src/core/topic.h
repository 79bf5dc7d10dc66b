/* A topic by name: which generation of it this object is attached to, and when it moves on.
 *
 * Owns:      struct sf_topic: options, the current attachment, totals over generations.
 * Does not:  block, lock or make files: it says what is to be done (create, wait) and the caller
 *            does it without any lock of its own, then asks again.
 *
 * Invariants
 *   U1  A topic object is used by one thread at a time (Python: under the GIL). Calls that take
 *       long work on a referenced attachment instead, and may find it left behind.
 *   U2  A reader leaves a generation only when it has drained it.
 *   U3  A live topic is never replaced by an ordinary open; an idle one only if it does not fit,
 *       one that was shut down by the next writer that opens it.
 * A crash leaves: what attachment.h says.
 */
#ifndef SHMFLOW_TOPIC_H
#define SHMFLOW_TOPIC_H

#include "core/attachment.h"

enum sf_mode { SF_MODE_RW, SF_MODE_R, SF_MODE_W, SF_MODE_MONITOR };

struct sf_options {
    enum sf_mode mode;
    enum sf_start start;
    int create; /* -1 when needed, 0 never, 1 now and by me */
    bool replace, temporary, allow_lossless, lossless;
    char group[SF_MAX_GROUP_NAME + 1]; /* "": none */
    uint64_t capacity, max_message, depth; /* 0: not asked for */
    uint64_t max_held;                     /* 0: a quarter of the capacity */
    uint32_t permissions, max_participants;
    int64_t spin_ns; /* negative: adaptive */
};

/* Counters of this object over all generations. */
struct sf_totals {
    uint64_t written, written_len, waits;
    uint64_t read, pinned, lost, skipped, held_len, held_blocks;
};

struct sf_topic {
    struct sf_options options;
    char *name, *path;
    struct sf_attachment *att; /* NULL: not attached */
    uint32_t epoch;
    uint64_t generation; /* how many generations this object has been attached to */
    struct sf_totals past;
    struct sf_layout found; /* the last segment that was looked at, and which it was */
    uint8_t found_identity[16];
    uint8_t last_identity[16];
    uint64_t cursor;     /* where a reader stood when it left (for a forked child) */
    bool is_reader;      /* has subscribed; in a new generation it does so again */
    bool has_joined;     /* in this generation, with the policy and the group it asked for */
    bool has_written;    /* in this generation */
    bool was_ended;      /* the generation was shut down before we came */
    bool to_replace; /* what is there, by the next that is made: replace=True */
    bool subscribed_late; /* the topic appeared after we did: everything in it is new to us */
    _Atomic uint32_t closed;
};

/* Takes copies of name; finds no segment yet. SF_BAD_NAME, -ENOMEM. */
int sf_topic_init(struct sf_topic *topic, const char *name, const struct sf_options *options);
void sf_topic_fini(struct sf_topic *topic);
/* Where a Topic stands, for another process to stand there as well: in a generation, before message
 * `cursor`; 0: nowhere yet. late: it subscribed before there was a topic. joined: it is a reader. */
struct sf_standing {
    uint8_t identity[16];
    uint64_t cursor;
    bool late, joined;
};
void sf_topic_standing(const struct sf_topic *topic, struct sf_standing *at);
/* Right after init: the first attachment goes on there, if it is to that generation. */
void sf_topic_stand(struct sf_topic *topic, const struct sf_standing *at);
/* Does it read in a way that keeps messages for it? Then it joins as soon as it is attached. */
bool sf_topic_keeps(const struct sf_topic *topic);
/* Must be called first in every call: SF_CLOSED; in a forked child it leaves the parent's. */
int sf_topic_enter(struct sf_topic *topic);
/* Attaches as a reader (or monitor) if the topic is there, and joins. SF_NOT_FOUND: wait and ask again.
 * SF_BUSY: attached, but a writer holds the lock that a lossless reader or a member needs; call
 * sf_join with sf_topic_joining's answer and patience, then ask again. */
SF_COLD int sf_topic_to_read(struct sf_topic *topic);
/* Attaches if the topic is there, without becoming a reader. SF_NOT_FOUND. */
int sf_topic_to_look(struct sf_topic *topic);
/* How this Topic joins its generation. Borrows the group's name. */
void sf_topic_joining(const struct sf_topic *topic, struct sf_joining *how);
/* To be told when sf_join succeeded. */
void sf_topic_has_joined(struct sf_topic *topic);
/* What is to be made, and in whose place. */
struct sf_making {
    struct sf_params params;
    struct sf_replaced old;
    bool again; /* the Topic was in a generation before */
};
/* Attaches as a writer. SF_NOT_FOUND: make what *make says (sf_topic_make), then ask again. message_len:
 * of the first message, 0 if not known. Removes nothing. */
SF_COLD int sf_topic_to_write(struct sf_topic *topic, uint64_t message_len, struct sf_making *make);
/* As sf_segment_replace; any thread, without the Topic's lock: it reads constants only. */
int sf_topic_make(const struct sf_topic *topic, const struct sf_making *make,
                  int (*between)(void *), void *context);
/* Leaves the generation, keeping the totals. */
SF_COLD void sf_topic_leave(struct sf_topic *topic);
void sf_topic_close(struct sf_topic *topic);
/* Has the name passed to another segment, or appeared, since we attached? */
SF_COLD bool sf_topic_has_moved(struct sf_topic *topic);
void sf_topic_totals(struct sf_topic *topic, struct sf_totals *out);

#endif
