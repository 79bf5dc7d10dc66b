/* Participants: a slot each, alive while the kernel holds its byte's lock.
 *
 * Owns:      sf_participant.gen, state, roles, pid, command; the lock bytes; cleaning.
 * Does not:  free claims (the writer that passes does, space.c) or take the writer lock.
 *
 * Invariants
 *   V1  A participant is alive exactly as long as its byte is locked. The lock is an OFD lock on a
 *       description that only a one-page MADV_DONTFORK mapping keeps alive: no child inherits
 *       it, no close() or closerange() drops it, and the kernel drops it when the process ends,
 *       however it ends. Not pids, not heartbeats: those report the living as dead.
 *   V2  A slot is cleaned only by who holds its byte: gen + 1 (edge E': from here its owner words
 *       are a dead one's), then its policy and group, then its bits in all descriptors, then
 *       state. The quick stores first: from there the lock can be stolen, claims passed, and no
 *       writer waits for it, however long the cleaner stands still in the rest. A bit that is
 *       still set only keeps a block from being used again; nobody else sets or clears it, since
 *       the slot is nobody's before state is stored under the byte.
 *   V3  A byte is probed through a description of its own, since one does not see its own locks.
 *   V4  While a byte is locked to clean, no fork: the child would share the description, and keep
 *       the byte locked where its parent is killed before it lets go of it.
 *
 * A crash here leaves: a slot half-cleaned with state still taken: the next one cleans it again.
 */
#include "core/attachment.h"

#include <errno.h>
#include <string.h>

#define SF_PROBE_NS UINT64_C(5000000)

static void
clear_bits(struct sf_ring *ring, uint32_t slot)
{
    uint64_t bit = UINT64_C(1) << (slot % 64);
    for (uint32_t desc = 0; desc < ring->lay.desc_len; desc++) {
        _Atomic uint64_t *word = sf_holders_word(ring, desc, slot);
        /* Relaxed look: the dead set no more bits, and the kernel ordered its last one. */
        if ((sf_load_relaxed(word) & bit) != 0) {
            sf_and_release64(word, ~bit); /* D, on behalf of the dead */
        }
    }
}

/* V2. The caller holds the slot's byte. */
static void
clean_slot(struct sf_ring *ring, uint32_t slot)
{
    struct sf_participant *p = &ring->slots[slot];
    /* E': release, with the acquire in sf_owner_lives. Only the byte's holder stores gen. */
    sf_store_release(&p->gen, sf_load_relaxed(&p->gen) + 1);
    /* Relaxed, both: from here it protects nothing (F2); told by the release below, and by H's
     * fence to writers that wait for room. */
    sf_store_relaxed(&p->policy, 0);
    sf_store_release(&p->group, 0); /* with floor.c's acquire */
    clear_bits(ring, slot);
    sf_store_relaxed(&p->roles, 0); /* told to people; as below */
    /* Release: who sees it free sees it clean. */
    sf_store_release(&p->state, SF_SLOT_FREE);
}

static void
settle_in(struct sf_attachment *att, uint32_t slot)
{
    struct sf_participant *p = &att->ring.slots[slot];
    /* Relaxed, all of them: told to others by the release of state below. */
    sf_store_relaxed(&p->roles, 0);
    sf_store_relaxed(&p->cursor, 0);
    sf_store_relaxed(&p->first, 0);
    sf_store_relaxed(&p->lost, 0);
    sf_store_relaxed(&p->skipped, 0);
    sf_store_relaxed(&p->pinned, 0);
    sf_store_relaxed(&p->held_len, 0);
    sf_store_relaxed(&p->held_blocks, 0);
    sf_store_relaxed(&p->taken, 0);
    sf_store_relaxed(&p->written, 0);
    sf_store_relaxed(&p->written_len, 0);
    sf_store_relaxed(&p->waits, 0);
    sf_store_relaxed(&p->group, 0);
    sf_store_relaxed(&p->policy, 0);
    p->pid = os_pid();
    p->attached_ns = os_realtime_ns();
    os_command(p->command, sizeof p->command);
    att->slot = slot;
    /* Relaxed: gen is ours to change while we hold the byte. */
    att->owner = sf_owner_word(slot, sf_load_relaxed(&p->gen));
    att->cursor = &p->cursor;
    /* Release: with the acquire of those who list participants. */
    sf_store_release(&p->state, SF_SLOT_TAKEN);
}

static int
try_slot(struct sf_attachment *att, int fd, uint32_t slot)
{
    int status = os_lock_try(fd, SF_LOCK_SLOT + slot, 1);
    if (status < 0) {
        return status;
    }
    void *life;
    status = os_map(fd, 0, os_page_len(), false, &life);
    if (status == 0) {
        status = os_map_no_fork(life, os_page_len());
        if (status < 0) {
            os_unmap(life, os_page_len());
        }
    }
    if (status < 0) {
        (void)os_lock_drop(fd, SF_LOCK_SLOT + slot, 1);
        return status;
    }
    att->life = life; /* V1: the description now outlives fd */
    /* Acquire: with clean_slot by another; TAKEN under a free byte is a dead one's. */
    if (sf_load_acquire(&att->ring.slots[slot].state) != SF_SLOT_FREE) {
        clean_slot(&att->ring, slot);
        att->cleaned++;
        sf_fence_seq(); /* H, as in sf_clean_dead: a dead reader may have been in a writer's way */
        sf_bell_ring(&att->ring.header->room);
    }
    settle_in(att, slot);
    return 0;
}

int
sf_slot_take(struct sf_attachment *att, int fd)
{
    struct sf_ring *ring = &att->ring;
    /* First the slots that look free, then those of the dead: a look costs nothing, a lock does. */
    for (uint32_t pass = 0; pass < 2; pass++) {
        for (uint32_t slot = 0; slot < ring->lay.max_participants; slot++) {
            /* Relaxed: a hint; the byte decides. */
            bool looks_free = sf_load_relaxed(&ring->slots[slot].state) == SF_SLOT_FREE;
            if (looks_free != (pass == 0)) {
                continue;
            }
            int status = try_slot(att, fd, slot);
            if (status != -EAGAIN) {
                return status;
            }
        }
    }
    return SF_NO_SLOT;
}

void
sf_slot_give_up(struct sf_attachment *att)
{
    /* No view, no loan, no call is left (H1), so no bit and no claim is ours. */
    struct sf_participant *p = &att->ring.slots[att->slot];
    sf_store_release(&p->gen, sf_load_relaxed(&p->gen) + 1); /* E', as in clean_slot */
    sf_store_relaxed(&p->roles, 0);
    sf_store_relaxed(&p->policy, 0); /* as in clean_slot; a Topic has left already (join.c) */
    sf_store_release(&p->group, 0); /* as there; the place may be another's now (N5) */
    sf_store_release(&p->state, SF_SLOT_FREE); /* as in clean_slot */
}

/* ---- looking at others ---- */

/* A description of our own on the segment's file; SF_GONE if the name leads elsewhere. */
static int
open_again(struct sf_attachment *att, bool writable)
{
    int fd = os_file_open(att->path, writable);
    if (fd < 0) {
        return fd == -ENOENT ? SF_GONE : fd;
    }
    struct os_file_info info;
    int status = os_file_info(fd, &info);
    if (status == 0 && (info.ino != att->ino || info.dev != att->dev)) {
        status = SF_GONE;
    }
    if (status < 0) {
        (void)os_file_close(fd);
        return status;
    }
    return fd;
}

/* One look through a description: what `with` answers, or why there is no description. */
struct look {
    struct sf_attachment *att;
    int (*with)(struct look *look, int fd);
    bool writable;
    uint32_t slot, owner; /* for look_at_one */
    uint8_t *alive; /* for look_who_lives */
    int status;
};

static void
take_look(void *context)
{
    struct look *look = context;
    int fd = open_again(look->att, look->writable);
    look->status = fd;
    if (fd >= 0) {
        look->status = look->with(look, fd);
        (void)os_file_close(fd);
    }
}

static int
look_through(struct look *look)
{
    struct sf_attachment *att = look->att;
    sf_fork_hold(); /* V4 */
    take_look(look);
    if (look->status == -EMFILE && os_run_apart(take_look, look) < 0) {
        look->status = -EMFILE;
    }
    sf_fork_release();
    /* Relaxed: told to people. Gone is no trouble of ours. */
    sf_store_relaxed(&att->blind,
                     look->status < 0 && look->status > -4096 ? (uint32_t)-look->status : 0);
    return look->status;
}

/* Is there anything in the slot to clean, if its byte is free? An owner word (0: none) that names
 * its generation says so too, even if its state, by damage, says that it is free; and so does a policy
 * or a group. */
static bool
is_used(const struct sf_ring *ring, uint32_t slot, uint32_t owner)
{
    /* Acquire: with clean_slot and settle_in by others. */
    return sf_load_acquire(&ring->slots[slot].state) == SF_SLOT_TAKEN ||
           sf_owner_lives(ring, owner) ||
           /* Relaxed: damage, which would stop writers (F2), or keep a group's place. */
           sf_load_relaxed(&ring->slots[slot].policy) != 0 ||
           sf_load_relaxed(&ring->slots[slot].group) != 0; /* as above */
}

/* True if the slot was a dead one's and is clean now. */
static bool
clean_if_dead(struct sf_attachment *att, int fd, uint32_t slot, uint32_t owner)
{
    /* My own slot is alive by definition, and its lock is another description's than fd's. */
    if (slot == att->slot || !is_used(&att->ring, slot, owner) ||
        os_lock_try(fd, SF_LOCK_SLOT + slot, 1) < 0) {
        return false;
    }
    /* Again and under the byte: somebody may have been quicker. */
    bool dead = is_used(&att->ring, slot, owner);
    if (dead) {
        clean_slot(&att->ring, slot);
    }
    /* Dropped by name, not only by close: a child of a raw clone shares the description. */
    (void)os_lock_drop(fd, SF_LOCK_SLOT + slot, 1);
    return dead;
}

static int
look_at_all(struct look *look, int fd)
{
    int cleaned = 0;
    for (uint32_t slot = 0; slot < look->att->ring.lay.max_participants; slot++) {
        cleaned += clean_if_dead(look->att, fd, slot, 0);
    }
    return cleaned;
}

int
sf_clean_dead(struct sf_attachment *att)
{
    struct look look = {.att = att, .with = look_at_all, .writable = true};
    int cleaned = look_through(&look);
    if (cleaned > 0) {
        sf_fence_seq(); /* H: gen is stored, release, before the flag is looked at */
        sf_bell_ring(&att->ring.header->room);
    }
    return cleaned < 0 ? 0 : cleaned;
}

static int
look_at_one(struct look *look, int fd)
{
    return clean_if_dead(look->att, fd, look->slot, look->owner);
}

bool
sf_probe_dead(struct sf_attachment *att, uint32_t owner)
{
    if (!sf_owner_lives(&att->ring, owner)) {
        return true;
    }
    uint32_t slot = sf_owner_slot(owner);
    if (slot == att->slot) {
        return false; /* another thread of this very Topic */
    }
    /* Relaxed: a lost race costs one probe more. */
    uint64_t now = os_now_ns();
    if (now < sf_load_relaxed(&att->next_probe_ns)) {
        return false;
    }
    sf_store_relaxed(&att->next_probe_ns, now + SF_PROBE_NS); /* as above */
    struct look look = {
        .att = att, .with = look_at_one, .writable = true, .slot = slot, .owner = owner};
    (void)look_through(&look);
    return !sf_owner_lives(&att->ring, owner);
}

/* Without a description (-1) a removed topic's bytes are asked for: believe what the slots say. */
static int
look_who_lives(struct look *look, int fd)
{
    struct sf_attachment *att = look->att;
    int count = 0, status = 0;
    for (uint32_t slot = 0; status >= 0 && slot < att->ring.lay.max_participants; slot++) {
        look->alive[slot] = 0;
        /* Acquire: with settle_in's release. */
        if (sf_load_acquire(&att->ring.slots[slot].state) == SF_SLOT_TAKEN) {
            status = slot == att->slot || fd < 0 ? 1 : os_lock_test(fd, SF_LOCK_SLOT + slot, 1);
            look->alive[slot] = status == 1;
            count += look->alive[slot];
        }
    }
    return status < 0 ? status : count;
}

int
sf_list_living(struct sf_attachment *att, uint8_t *alive)
{
    struct look look = {.att = att, .with = look_who_lives, .alive = alive};
    int status = look_through(&look);
    if (status == SF_GONE) {
        return look_who_lives(&look, -1);
    }
    /* It could be opened once: this process has become another user's since. */
    return status == -EACCES || status == -EPERM ? SF_DENIED : status;
}

int
sf_count_others(struct sf_attachment *att)
{
    uint8_t alive[SF_MAX_PARTICIPANTS];
    int count = sf_list_living(att, alive);
    return count < 0 ? count : count - (att->slot != SF_NIL);
}

void
sf_add_role(struct sf_attachment *att, uint32_t role)
{
    if (att->slot != SF_NIL) {
        _Atomic uint32_t *roles = &att->ring.slots[att->slot].roles;
        /* Relaxed: told to people, orders nothing. */
        if ((sf_load_relaxed(roles) & role) == 0) {
            sf_or_seq32(roles, role);
        }
    }
}

void
sf_clear_roles(struct sf_attachment *att)
{
    if (att->slot != SF_NIL && sf_attachment_is_mine(att)) {
        sf_store_relaxed(&att->ring.slots[att->slot].roles, 0); /* told to people only */
    }
}
