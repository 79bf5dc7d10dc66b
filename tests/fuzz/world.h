/* A segment over plain memory with participants, and an operating system that does what it is told.
 *
 * Owns:      struct world: a topic's regions, each an allocation of its exact size, so that the
 *            sanitizer sees every step out of one; three attachments to it; the calls of src/os that
 *            are wrapped (clock, futex, files, locks).
 * Does not:  use files, other processes or real time: the same input does the same each time.
 *
 * Time passes only when it is looked at, by 20 us, and in sleeps; so what waits for a time ends,
 * and what looks at the clock too often is taken for a loop without an end. Link with WRAPPED in
 * tests/fuzz/run: calls from the core come here, the rest of src/os is the real one.
 */
#ifndef SHMFLOW_TESTS_WORLD_H
#define SHMFLOW_TESTS_WORLD_H

#include "fuzz.h"

#include <sanitizer/asan_interface.h>

#define TICK_NS 20000u
#define MOST_LOOKS 200000u /* at the clock, by one input */

/* Slots at the start: two of ours, one of somebody who lives, one of the dead; then free ones. */
enum { WRITER, READER, MONITOR, ATTACHMENTS };
enum { SLOT_OTHER = 2, SLOT_DEAD = 3 };

/* The regions of a segment, in the order of struct sf_ring. */
enum { HEADER, SLOTS, GROUPS, INDEX, DESCS, LINKS, MORE, SCRATCH, REGIONS };

struct world {
    struct sf_ring ring;
    size_t len[REGIONS];
    void *region[REGIONS], *fresh[REGIONS]; /* now, and at the start of each input */
    char *arena;
    struct sf_attachment att[ATTACHMENTS];
};

/* ---- the operating system ---- */

static uint64_t clock_ns, clock_looks;
static uint8_t living[SF_MAX_PARTICIPANTS]; /* whose bytes are locked */
static bool name_gone, name_moved, next_interrupts;
static void (*fork_prepare)(void), (*fork_parent)(void);

#define WRAP(name) __wrap_##name
#define FAKE_FD 1000

uint64_t WRAP(os_now_ns)(void);
uint64_t WRAP(os_realtime_ns)(void);
int WRAP(os_sleep_until)(uint64_t until_ns);
void WRAP(os_yield)(void);
int WRAP(os_futex_wait)(_Atomic uint32_t *word, uint32_t expected, uint64_t until_ns);
int WRAP(os_futex_wake)(_Atomic uint32_t *word, int count);
int WRAP(os_file_open)(const char *path, bool writable);
int WRAP(os_file_close)(int fd);
int WRAP(os_file_info)(int fd, struct os_file_info *info);
int WRAP(os_path_info)(const char *path, struct os_file_info *info);
int WRAP(os_lock_try)(int fd, uint64_t first, uint64_t count);
int WRAP(os_lock_drop)(int fd, uint64_t first, uint64_t count);
int WRAP(os_lock_test)(int fd, uint64_t first, uint64_t count);
int WRAP(os_map)(int fd, uint64_t off, size_t len, bool writable, void **out);
int WRAP(os_map_no_fork)(void *at, size_t len);
void WRAP(os_map_populate)(void *at, size_t len, bool writable);
void WRAP(os_command)(char *out, size_t len);
int WRAP(os_at_fork)(void (*prepare)(void), void (*parent)(void), void (*child)(void));

uint64_t
WRAP(os_now_ns)(void)
{
    DEMAND(++clock_looks < MOST_LOOKS);
    return clock_ns += TICK_NS;
}

uint64_t
WRAP(os_realtime_ns)(void)
{
    return WRAP(os_now_ns)();
}

static bool
is_interrupted(void)
{
    bool now = next_interrupts;
    next_interrupts = false;
    return now;
}

int
WRAP(os_sleep_until)(uint64_t until_ns)
{
    clock_ns = until_ns > clock_ns ? until_ns : clock_ns;
    return is_interrupted() ? -EINTR : 0;
}

void
WRAP(os_yield)(void)
{
}

int
WRAP(os_futex_wait)(_Atomic uint32_t *word, uint32_t expected, uint64_t until_ns)
{
    if (sf_load_relaxed(word) != expected) { /* one thread */
        return -EAGAIN;
    }
    /* Nobody is there to wake it. */
    return WRAP(os_sleep_until)(until_ns) < 0 ? -EINTR : -ETIMEDOUT;
}

int
WRAP(os_futex_wake)(_Atomic uint32_t *word, int count)
{
    (void)word;
    (void)count;
    return 0;
}

int
WRAP(os_file_open)(const char *path, bool writable)
{
    (void)path;
    (void)writable;
    return name_gone ? -ENOENT : FAKE_FD;
}

int
WRAP(os_file_close)(int fd)
{
    DEMAND(fd == FAKE_FD);
    return 0;
}

int
WRAP(os_file_info)(int fd, struct os_file_info *info)
{
    (void)fd;
    *info = (struct os_file_info){.dev = 1, .ino = name_moved ? 2 : 1, .nlink = 1};
    info->is_regular = true;
    return 0;
}

int
WRAP(os_path_info)(const char *path, struct os_file_info *info)
{
    (void)path;
    return name_gone ? -ENOENT : WRAP(os_file_info)(FAKE_FD, info);
}

int
WRAP(os_lock_test)(int fd, uint64_t first, uint64_t count)
{
    DEMAND(fd == FAKE_FD && first >= SF_LOCK_SLOT && count == 1);
    DEMAND(first - SF_LOCK_SLOT < SF_MAX_PARTICIPANTS);
    return living[first - SF_LOCK_SLOT];
}

int
WRAP(os_lock_try)(int fd, uint64_t first, uint64_t count)
{
    return WRAP(os_lock_test)(fd, first, count) ? -EAGAIN : 0;
}

int
WRAP(os_lock_drop)(int fd, uint64_t first, uint64_t count)
{
    (void)WRAP(os_lock_test)(fd, first, count);
    return 0;
}

int
WRAP(os_map)(int fd, uint64_t off, size_t len, bool writable, void **out)
{
    static char life[SF_PAGE]; /* what a slot's description is kept alive by */
    DEMAND(fd == FAKE_FD && off == 0 && len == sizeof life && !writable);
    *out = life;
    return 0;
}

int
WRAP(os_map_no_fork)(void *at, size_t len)
{
    (void)at;
    (void)len;
    return 0;
}

void
WRAP(os_map_populate)(void *at, size_t len, bool writable)
{
    (void)at;
    (void)len;
    (void)writable;
}

void
WRAP(os_command)(char *out, size_t len)
{
    snprintf(out, len, "fuzz");
}

int
WRAP(os_at_fork)(void (*prepare)(void), void (*parent)(void), void (*child)(void))
{
    (void)child;
    fork_prepare = prepare;
    fork_parent = parent;
    return 0;
}

/* ---- the world ---- */

#define GUARD_LEN ((size_t)1 << 20) /* more than any slot or descriptor that is told in 11 bits */

/* Exactly so much; a long way behind it is out of bounds too. */
static void *
allocate(size_t len)
{
    char *at = aligned_alloc(64, sf_round_up(len + GUARD_LEN, 64));
    DEMAND(at != NULL);
    memset(at, 0, len);
    ASAN_POISON_MEMORY_REGION(at + len, GUARD_LEN);
    return at;
}

static void
bind_exactly(struct sf_ring *ring, struct world *world)
{
    ring->header = world->region[HEADER];
    ring->slots = world->region[SLOTS];
    ring->groups = world->region[GROUPS];
    ring->index = world->region[INDEX];
    ring->descs = world->region[DESCS];
    ring->links = world->region[LINKS];
    ring->more_holders = world->region[MORE];
    ring->scratch = world->region[SCRATCH];
    ring->corrupt = ring->mended = false;
    ring->anchor = SF_NIL;
}

static void
attach_to(struct world *world, int which)
{
    struct sf_attachment *att = &world->att[which];
    const struct sf_layout *lay = &world->ring.lay;
    att->ring.lay = *lay;
    bind_exactly(&att->ring, world);
    att->epoch = sf_process_epoch();
    att->monitor = which == MONITOR;
    att->path = (char *)(uintptr_t)"/nowhere";
    att->dev = att->ino = 1;
    att->arena_len = lay->capacity + lay->lane_len;
    att->arena = world->arena;
    att->arena_rw = which == WRITER ? world->arena : NULL;
    att->least_held = 2;
    att->max_held = lay->capacity / 4;
    att->pins = allocate(lay->desc_len * sizeof *att->pins);
    att->filled = allocate(att->arena_len / SF_FILL_LEN + 1);
    att->slot = SF_NIL;
    att->cursor = &att->monitor_cursor;
    pthread_mutex_init(&att->pins_mutex, NULL);
    if (!att->monitor) {
        DEMAND(sf_slot_take(att, FAKE_FD) == 0 && att->slot == (uint32_t)which);
        living[which] = 1;
    }
}

/* A topic with a slot of each kind, and nothing in it yet. */
static void
world_make(struct world *world, const struct sf_params *params)
{
    DEMAND(sf_layout_compute(params, &world->ring.lay) == 0);
    const struct sf_layout *lay = &world->ring.lay;
    const uint64_t m = lay->desc_len;
    const size_t lens[REGIONS] = {
        [HEADER] = sizeof(struct sf_header),
        [SLOTS] = lay->max_participants * sizeof(struct sf_participant),
        [GROUPS] = SF_GROUPS * sizeof(struct sf_group),
        [INDEX] = lay->index_len * sizeof(uint32_t),
        [DESCS] = m * sizeof(struct sf_desc),
        [LINKS] = m * sizeof(struct sf_link),
        [MORE] = m * (lay->words - 2) * sizeof(uint64_t),
        [SCRATCH] = m * sizeof(uint64_t),
    };
    for (int i = 0; i < REGIONS; i++) {
        world->len[i] = lens[i];
        world->region[i] = allocate(lens[i]);
        world->fresh[i] = allocate(lens[i]);
    }
    world->arena = allocate(lay->capacity + lay->lane_len);
    bind_exactly(&world->ring, world);
    sf_layout_store(lay, world->ring.header);
    DEMAND(sf_rebuild_locked(&world->ring) == 0);
    memset(living, 0, sizeof living);
    attach_to(world, WRITER);
    attach_to(world, READER);
    attach_to(world, MONITOR);
    for (uint32_t slot = SLOT_OTHER; slot <= SLOT_DEAD; slot++) {
        /* Relaxed: one thread. */
        sf_store_relaxed(&world->ring.slots[slot].gen, 7);
        sf_store_relaxed(&world->ring.slots[slot].state, SF_SLOT_TAKEN);
    }
}

/* What is there now is what each input starts with. */
static void
world_keep(struct world *world)
{
    for (int i = 0; i < REGIONS; i++) {
        memcpy(world->fresh[i], world->region[i], world->len[i]);
    }
}

static void
world_reset(struct world *world)
{
    for (int i = 0; i < REGIONS; i++) {
        memcpy(world->region[i], world->fresh[i], world->len[i]);
    }
    clock_ns = UINT64_C(1000000000000);
    clock_looks = 0;
    name_gone = name_moved = next_interrupts = false;
    memset(living, 0, sizeof living);
    living[WRITER] = living[READER] = living[SLOT_OTHER] = 1;
    for (int i = 0; i < ATTACHMENTS; i++) {
        struct sf_attachment *att = &world->att[i];
        memset(att->pins, 0, att->ring.lay.desc_len * sizeof *att->pins);
        memset((void *)att->filled, 3, att->arena_len / SF_FILL_LEN + 1);
        att->held_len = att->held_blocks = att->pinned = 0;
        att->ring.corrupt = att->ring.mended = false;
        att->ring.anchor = SF_NIL;
        att->group = 0;
        att->lossless = false;
        att->slot = i == MONITOR ? SF_NIL : (uint32_t)i;
        att->owner = i == MONITOR ? 0 : sf_owner_word((uint32_t)i, 0);
        att->cursor = i == MONITOR ? &att->monitor_cursor : &att->ring.slots[i].cursor;
        /* Relaxed, all: one thread. */
        sf_store_relaxed(&att->monitor_cursor, 0);
        sf_store_relaxed(&att->spin_ns, 0);
        sf_store_relaxed(&att->next_probe_ns, 0);
        sf_store_relaxed(&att->next_clean_ns, 0); /* as above */
        sf_store_relaxed(&att->next_look_ns, 0);
        sf_store_relaxed(&att->next_name_ns, 0);
    }
}

#endif
