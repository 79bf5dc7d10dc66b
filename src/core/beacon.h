/* A beacon: a descriptor that is readable while a reader has something to read.
 *
 * Owns:      struct sf_beacon and its life: made by the first call that asks for a descriptor.
 * Does not:  read, or attach; its topic's object does, and says afterwards where it stands.
 *
 * Invariants: B1 … B5 of beacon.c.
 * A crash leaves: nothing; the descriptor and the thread go with their process.
 */
#ifndef SHMFLOW_BEACON_H
#define SHMFLOW_BEACON_H

#include "core/attachment.h"

struct sf_beacon;

/* For the reader that `att` is, or for one that waits for the name (att NULL). `path` stays the
 * caller's and must live as long as the beacon. Readable at once if there is something to read.
 * -EMFILE, -ENFILE, -ENOMEM; -EAGAIN: the system has no more threads. */
int sf_beacon_make(const char *path, struct sf_attachment *att, struct sf_beacon **out);
/* The descriptor; the same one for the beacon's whole life. */
int sf_beacon_fd(const struct sf_beacon *beacon);
/* False once the number means something else, or nothing: end this beacon, and make another. */
bool sf_beacon_has_fd(const struct sf_beacon *beacon);
/* False in a child: there the beacon is good for sf_beacon_end only. */
bool sf_beacon_is_mine(const struct sf_beacon *beacon);
/* After every call that may have read, moved the cursor or changed the attachment: `att` is where
 * the reader stands now, or NULL. Never blocks. */
void sf_beacon_settle(struct sf_beacon *beacon, struct sf_attachment *att);
/* Lights the beacon for whoever has a copy of the descriptor, closes it, ends the thread. Waits
 * for the latter: a few instructions, for a monitor up to a nap of 2 ms. In a child: closes its
 * copy of the descriptor. */
void sf_beacon_end(struct sf_beacon *beacon);

#endif
