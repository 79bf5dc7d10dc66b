/* Where readers stand: subscribing, joining as a lossless reader or as a member of a group, seeking.
 *
 * Owns:      participant.policy, group (their start and regular end), groups[]; cursors that are
 *            placed rather than moved by reading.
 * Does not:  compute the floor (floor.c), take messages (take.c) or know topics by name (topic.c).
 *
 * Plain readers place their cursor by one store. Lossless readers and groups do it under the writer
 * lock: no message can be evicted between the look at what is there and the promise to keep it, and
 * two first members cannot make one group twice.
 *
 * Invariants
 *   N4  Policy and group are stored under the writer lock, the floor is lowered before it is released.
 *   N5  A group's place is given to another name only when no slot names it. Who leaves names it
 *       until its slot is given up: another thread's call may be about to move its cursor.
 *   N6  att->cursor, lossless and group change only here, before the reader's first message; other
 *       threads see them through the Topic's own order (topic.h, U1).
 *
 * A crash here leaves: the lock word of a dead one, and any of: a named group without members, which
 * is one like any other; a policy of a slot whose byte is free, which ends with its cleaning.
 */
#include "core/attachment.h"

#include <string.h>

void
sf_resubscribe(struct sf_attachment *att, uint64_t cursor)
{
    if (att->slot != SF_NIL) {
        sf_store_relaxed(&att->ring.slots[att->slot].first, cursor); /* told to people */
    }
    /* Relaxed: this process's threads meet in commit's exchange; others only show it. */
    sf_store_relaxed(att->cursor, cursor);
}

/* The oldest retained number, or the next to come where none is; within N of head, whatever the
 * tables say. */
static uint64_t
find_oldest(const struct sf_ring *ring, uint64_t head)
{
    /* Relaxed: look finds the oldest from a stale one. */
    uint64_t tail = sf_load_relaxed(&ring->header->tail);
    uint64_t least = head >= ring->lay.index_len ? head - ring->lay.index_len + 1 : 1;
    return tail > least && tail <= head + 1 ? tail : least;
}

static uint64_t
find_start(const struct sf_ring *ring, enum sf_start start)
{
    uint64_t head = sf_load_seq(&ring->header->head); /* B */
    uint64_t oldest = find_oldest(ring, head);
    uint64_t cursor = start == SF_NEW ? head + 1 : start == SF_LATEST ? head : oldest;
    /* The newest can be gone as well, where a claim or a loan needed its room. */
    return cursor > oldest ? cursor : oldest;
}

void
sf_subscribe(struct sf_attachment *att, enum sf_start start)
{
    sf_resubscribe(att, find_start(&att->ring, start));
}

/* ---- groups ---- */

static bool
is_named(const struct sf_group *group, const char *name)
{
    /* Acquire: with the store of used, after the name. */
    return sf_load_acquire(&group->used) != 0 &&
           strncmp(group->name, name, sizeof group->name) == 0;
}

/* How many slots name the group; *policies gets the policies that they have. */
static uint32_t
count_members(const struct sf_ring *ring, uint32_t group, uint32_t *policies)
{
    uint32_t count = 0;
    *policies = 0;
    for (uint32_t slot = 0; slot < ring->lay.max_participants; slot++) {
        if (sf_load_relaxed(&ring->slots[slot].group) == group) { /* G */
            uint32_t policy = sf_load_relaxed(&ring->slots[slot].policy); /* G */
            if (policy != SF_POLICY_LEFT) {
                *policies |= UINT32_C(1) << (policy & 1);
            }
            count++;
        }
    }
    return count;
}

/* The group of that name as a number from 1, or a place for it; 0: all are in use. */
static uint32_t
find_group(const struct sf_ring *ring, const char *name)
{
    uint32_t place = 0, policies;
    for (uint32_t at = 0; at < SF_GROUPS; at++) {
        if (is_named(&ring->groups[at], name)) {
            return at + 1;
        }
    }
    for (uint32_t at = 0; at < SF_GROUPS && place == 0; at++) {
        place = sf_load_relaxed(&ring->groups[at].used) == 0 ? at + 1 : 0; /* G */
    }
    for (uint32_t at = 0; at < SF_GROUPS && place == 0; at++) {
        place = count_members(ring, at + 1, &policies) == 0 ? at + 1 : 0; /* N5 */
    }
    return place;
}

/* Finds or makes the group. Its number, or a status. */
static int
enter_group(struct sf_attachment *att, const struct sf_joining *how, uint64_t cursor)
{
    struct sf_ring *ring = &att->ring;
    uint32_t group = find_group(ring, how->group), policies;
    if (group == 0) {
        return SF_NO_GROUP;
    }
    struct sf_group *g = &ring->groups[group - 1];
    (void)count_members(ring, group, &policies);
    if ((policies & ~(UINT32_C(1) << (how->lossless ? SF_POLICY_LOSSLESS : 0))) != 0) {
        return SF_GROUP_POLICY;
    }
    if (!is_named(g, how->group)) {
        sf_store_relaxed(&g->used, 0); /* G; a crash from here leaves an unnamed one */
        sf_store_relaxed(&g->cursor, cursor); /* G */
        memset(g->name, 0, sizeof g->name);
        memcpy(g->name, how->group, strlen(how->group));
        sf_store_release(&g->used, 1); /* with is_named's acquire */
    }
    return (int)group;
}

/* ---- joining ---- */

static int
join_locked(struct sf_attachment *att, const struct sf_joining *how)
{
    struct sf_ring *ring = &att->ring;
    struct sf_participant *p = &ring->slots[att->slot];
    if (att->group != 0 || att->lossless) {
        return 0; /* another thread of this Topic was quicker */
    }
    uint64_t cursor = how->cursor ? how->cursor : find_start(ring, how->start);
    int group = how->group ? enter_group(att, how, cursor) : 0;
    if (group < 0) {
        return group;
    }
    att->group = (uint32_t)group;
    att->lossless = how->lossless;
    if (group != 0) {
        att->cursor = &ring->groups[group - 1].cursor;
        cursor = sf_load_relaxed(att->cursor); /* a group goes on where it stands */
        sf_store_relaxed(&p->cursor, cursor); /* told to people */
        sf_store_relaxed(&p->first, cursor); /* told to people */
    }
    else {
        sf_resubscribe(att, cursor);
    }
    if (how->lossless) {
        sf_lower_floor_locked(ring, cursor); /* N4 */
    }
    /* G: floor.c and count_members read both under the lock. */
    sf_store_relaxed(&p->group, att->group);
    sf_store_relaxed(&p->policy, how->lossless ? SF_POLICY_LOSSLESS : 0);
    return 0;
}

/* The writer lock for a reader: also of a generation that has ended, which may be drained. */
static int
lock_for_reader(struct sf_attachment *att, uint64_t until_ns)
{
    int status = sf_lock_try(att);
    return status == SF_BUSY && until_ns != SF_TRY ? sf_lock_wait(att, until_ns) : status;
}

static int
join(struct sf_attachment *att, const struct sf_joining *how, uint64_t until_ns)
{
    int status = lock_for_reader(att, until_ns);
    if (status == 0) {
        status = join_locked(att, how);
        sf_unlock(att);
    }
    return status;
}

int
sf_join(struct sf_attachment *att, const struct sf_joining *how, uint64_t until_ns)
{
    if (!how->lossless && !how->group) {
        sf_resubscribe(att, how->cursor ? how->cursor : find_start(&att->ring, how->start));
        return 0;
    }
    if (how->lossless && (att->ring.lay.flags & SF_NO_LOSSLESS) != 0) {
        return SF_NO_LOSSLESS_HERE;
    }
    int status = join(att, how, until_ns);
    /* The dead are members until they are cleaned, and have a policy: a refusal may be theirs. */
    if ((status == SF_NO_GROUP || status == SF_GROUP_POLICY) && sf_clean_dead(att) > 0) {
        status = join(att, how, until_ns);
    }
    return status;
}

void
sf_unjoin(struct sf_attachment *att)
{
    if ((att->group == 0 && !att->lossless) || !sf_attachment_is_mine(att)) {
        return;
    }
    struct sf_participant *p = &att->ring.slots[att->slot];
    /* Relaxed: from here it protects nothing; H's fence tells writers that wait for room. */
    sf_store_relaxed(&p->policy, att->group != 0 ? SF_POLICY_LEFT : 0); /* N5 */
    sf_fence_seq();
    sf_bell_ring(&att->ring.header->room);
}

/* ---- seeking ---- */

/* 0, or SF_NOT_RETAINED: neither a message that is there nor the one that comes next. */
static int
check_range(const struct sf_ring *ring, uint64_t seq)
{
    uint64_t head = sf_load_seq(&ring->header->head); /* B */
    return seq >= find_oldest(ring, head) && seq - 1 <= head ? 0 : SF_NOT_RETAINED;
}

static void
move_cursor(struct sf_attachment *att, uint64_t seq)
{
    uint64_t old = sf_load_relaxed(att->cursor); /* as below */
    /* Relaxed: the threads that read meanwhile look again where they stand. */
    while (!sf_cas_relaxed(att->cursor, &old, seq)) {
    }
    if (att->slot != SF_NIL && att->group == 0) {
        /* What was read is cursor - first - lost - skipped; a seek changes none of that. */
        sf_add_relaxed64(&att->ring.slots[att->slot].first, seq - old); /* told to people */
    }
}

int
sf_seek(struct sf_attachment *att, uint64_t seq, uint64_t until_ns)
{
    bool locked = att->group != 0 || att->lossless;
    int status = locked ? lock_for_reader(att, until_ns) : 0;
    if (status < 0) {
        return status;
    }
    status = check_range(&att->ring, seq);
    if (status == 0) {
        if (locked) {
            /* N4: before the cursor falls. Also for a group that was lossy when this one joined it:
             * others may have made it anew since, while this one was leaving. */
            sf_lower_floor_locked(&att->ring, seq);
        }
        move_cursor(att, seq);
    }
    if (locked) {
        sf_unlock(att);
        sf_fence_seq(); /* H: the cursor, if it has grown, before the flag */
        sf_bell_ring(&att->ring.header->room);
    }
    return status;
}

uint64_t
sf_find_start(const struct sf_attachment *att, enum sf_start start)
{
    return find_start(&att->ring, start);
}

uint64_t
sf_find_stamp(const struct sf_attachment *att, uint64_t stamp_ns)
{
    struct sf_message m = {.seq = 0};
    uint64_t seq = find_start(&att->ring, SF_OLDEST);
    /* Bounded as look is: a number that wraps, or a head that runs away, is a lie. */
    for (uint64_t round = 0; round < 1024 + 2 * (uint64_t)att->ring.lay.index_len; round++) {
        int status = sf_look(&att->ring, seq, &m);
        if ((status < 0 && status != SF_BAD_MESSAGE) || m.seq == UINT64_MAX) {
            break;
        }
        if (status == 0 && m.stamp_ns >= stamp_ns) {
            return m.seq;
        }
        seq = m.seq + 1;
    }
    return seq > m.seq ? seq : m.seq; /* the next to come, or where the tables lie */
}
