/* What the files of the supervisor share: its children, its schedule, its places.
 *
 * Owns:      struct storm.
 * Does not:  reach children: they know the board only.
 *
 * A crash leaves: the folder; children die with their supervisor.
 */
#ifndef SHMFLOW_TESTS_SUPERVISOR_H
#define SHMFLOW_TESTS_SUPERVISOR_H

#include "storm.h"

struct storm {
    uint64_t acts, done, random, started_ns, told_ns;
    bool stop, mix;
    pid_t pids[SEATS]; /* 0: not there */
    uint64_t born_ns[SEATS], victims[SEATS];
    uint64_t with_lock, with_lane, frozen_with_lock_ns, quick, dead_beside;
    char folder[256], path[512];
};

extern struct storm storm;

/* ---- children.c ---- */

void bear(uint32_t seat);
void kill_and_reap(uint32_t seat);
void kill_all(void);
/* SIGSTOP, and back when it has stopped. */
void freeze(uint32_t seat);
/* A child that ended by itself crashed, or found something. */
void look_for_ends(void);
/* Every second one is killed, all at once; the others are asked to leave. */
void end_children(void);

#endif
