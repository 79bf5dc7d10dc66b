/* The segment: what lies where in a topic's file, and who may touch it.
 *
 *     offset
 *     0                  header          one page: constants, then hot words on lines of their own
 *     participants_off   participants[P] one attached Topic each
 *     groups_off         groups[16]      named cursors of groups of readers
 *     index_off          index[N]        u32: sequence number -> descriptor
 *     descs_off          descs[M]        the descriptor table: the only truth
 *     links_off          links[M]        derived: address order of blocks, list of free descriptors
 *     holders_off        holders[M][W-2] pin bits of participants 128 and up (W words per block)
 *     scratch_off        scratch[M]      u64, for rebuild
 *     arena_off          main, lane      payload bytes; page-aligned, the lane follows main
 *
 * Owns:      the structures, their sizes, and how the constants follow from what was asked for.
 * Does not:  move a byte; protocols are in ring.c, space.c, lock.c, wait.c, participants.c.
 *
 * Invariants
 *   L1  Fixed-width types only; no pointer, bool or enum; offsets count from the file's start.
 *   L2  All constants follow from sf_params; attach computes them again and compares.
 *   L3  Words that different sides write while running lie on different cache lines.
 *   L4  Nothing in a protocol reads a constant from shared memory: sf_layout is a private copy.
 *   L5  A block is: free (len == 0), else published (seq != 0), else claimed (owner != 0), else
 *       retired while a holders bit is set, else free too (a crash came between).
 *   L6  Blocks of one area never overlap; published sequence numbers are contiguous: tail … head.
 *   L7  N > depth, so a retained message's index entry is its own; M = depth + the most blocks that
 *       can be held + P, so descriptors do not run out before room does.
 *   L8  Without a depth asked for there are tables for as many messages as fit: of the size of the
 *       first, where it is known, and in any case as many as an eighth of the capacity describes.
 * A crash leaves: see rebuild.c, which derives everything else from descs[].
 */
#ifndef SHMFLOW_LAYOUT_H
#define SHMFLOW_LAYOUT_H

#include "core/atomics.h"

#include <stddef.h>
#include <stdint.h>

#define SF_LINE 64u
#define SF_PAGE 4096u
#define SF_ARENA_ALIGN 65536u /* the largest page of the CPUs we run on: mmap offsets need it */
#define SF_NIL UINT32_MAX

#define SF_MAGIC UINT64_C(0x31776f6c666d6873) /* "shmflow1" in a little-endian file */
#define SF_FORMAT_VERSION 3u

#define SF_MAX_PARTICIPANTS 1024u
#define SF_MAX_DEPTH (1u << 20)
#define SF_MAX_CAPACITY (UINT64_C(1) << 46)
#define SF_GROUPS 16u
#define SF_MAX_GROUP_NAME 59u

/* A message's description: up to this many dimensions; long dtypes and meta lie in a prefix. */
#define SF_MAX_DIMS 32u
#define SF_INLINE_DIMS 4u
#define SF_INLINE_DTYPE 16u
#define SF_MAX_DTYPE (16u * 1024u)
#define SF_MAX_META (64u * 1024u)
#define SF_MAX_PREFIX (SF_MAX_META + SF_MAX_DTYPE + SF_MAX_DIMS * 8u)

/* Ends of a generation; bits of sf_header.ended. */
#define SF_SHUTDOWN 1u /* no more messages; readers drain */
#define SF_UNLINKED 2u /* the name is gone or is another's; readers follow */
#define SF_ENDS (SF_SHUTDOWN | SF_UNLINKED) /* other bits are damage, and mean nothing */

/* Flags of a topic; bits of sf_params.flags. */
#define SF_TEMPORARY 1u
#define SF_NO_LOSSLESS 2u

/* Participant states and roles. */
#define SF_SLOT_FREE 0u
#define SF_SLOT_TAKEN 1u
#define SF_ROLE_READER 1u
#define SF_ROLE_WRITER 2u
#define SF_POLICY_LOSSLESS 1u /* else 0 */
#define SF_POLICY_LEFT 2u /* no member any more; the slot still names the group (N5) */

/* A word that sleepers sleep on. Written by wakers (count, sleepers := 0) and by sleepers
 * (sleepers := 1); protocol and edges in wait.c. */
struct sf_bell {
    _Atomic uint32_t count;
    _Atomic uint32_t sleepers;
};

struct sf_header {
    /* Constants. Written by the creator before the file has a name, never again; read at attach. */
    uint64_t magic;
    uint32_t format;
    uint32_t flags;
    uint64_t capacity, max_message, depth;
    uint32_t max_participants, index_len, desc_len, words;
    uint64_t lane_len, threshold;
    uint64_t participants_off, groups_off, index_off, descs_off, links_off, holders_off;
    uint64_t scratch_off, arena_off, file_len;
    uint8_t identity[16], boot_id[16];
    uint64_t created_ns;
    uint64_t block_len;
    uint8_t pad_constants[64 - 16];

    /* Writer: shutdown, unlink (or-ed, never cleared). Readers: all, before they load head. */
    _Alignas(64) _Atomic uint32_t ended;

    /* Writer and reader: lock.c (edge G). 0, or an owner word, maybe with the waiters bit. */
    _Alignas(64) _Atomic uint32_t lock;

    /* Writer: publish and rebuild under the lock (edge B). Readers: all. Newest sequence number. */
    _Alignas(64) _Atomic uint64_t head;

    /* Writer: evict and rebuild under the lock. Readers: the lapped and monitors; a stale value
     * only makes a reader look at one message more that is gone. Oldest retained number. */
    _Alignas(64) _Atomic uint64_t tail;

    /* Rung after publish, shutdown, unlink, rebuild, a local close. Slept on by readers. */
    _Alignas(64) struct sf_bell bell;

    /* Rung after publish, discard, cleaning. Slept on by writers that wait for room. `turn` is
     * the owner word of the writer that is first in line for the lane, or 0 (space.c). */
    _Alignas(64) struct sf_bell room;
    _Atomic uint32_t turn;

    /* Under the lock (edge G), derived from descs[] by rebuild. Free descriptors are chained by
     * links[].next; first[] and cursor[] are per area: main, lane. */
    _Alignas(64) _Atomic uint32_t free_first;
    _Atomic uint32_t first[2];
    _Atomic uint32_t cursor[2];
    _Atomic uint32_t rebuilds;
    /* Under the lock, derived from the lossless readers' cursors (floor.c): messages below it may
     * be evicted, the others may not. It may be too low, never too high. */
    _Atomic uint64_t floor_seq;
};

/* One attached Topic. The byte SF_LOCK_SLOT + slot of the file is locked while it lives. */
struct sf_participant {
    /* Writer: whoever holds the slot's byte. Readers: all. gen grows when the slot is given up or
     * cleaned; an owner word with another gen is a dead one's (edge E'). */
    _Alignas(64) _Atomic uint32_t gen;
    _Atomic uint32_t state;
    _Atomic uint32_t roles;
    uint32_t pid;
    uint64_t attached_ns;
    char command[40];

    /* Writer: this participant only. Readers: stats, monitors; a stale value is a moment's lag. */
    _Alignas(64) _Atomic uint64_t cursor; /* next sequence number to read */
    _Atomic uint64_t first; /* where it began: read = cursor-first-lost-skipped */
    _Atomic uint64_t lost, skipped;
    _Atomic uint64_t pinned; /* messages handed out as views */
    _Atomic uint64_t held_len, held_blocks;
    _Atomic uint64_t taken; /* messages it took as a member of a group; told to people */

    /* Writer: this participant only, under the writer lock. Readers: stats, monitors. */
    _Alignas(64) _Atomic uint64_t written;
    _Atomic uint64_t written_len;
    _Atomic uint64_t waits; /* writes that had to wait for room */
    /* Writer: join under the writer lock; leaving and cleaning (0) without it. Readers: who
     * holds the lock (floor.c), monitors. group: 0, or its place in groups[] + 1. */
    _Atomic uint32_t group, policy;
    uint8_t pad_writer[32];

    _Alignas(64) uint8_t reserved[64];
};

/* A group of readers, who share one cursor: each message goes to one of them. It outlives them: who
 * joins later goes on where it stood. */
struct sf_group {
    /* Writer: its members, by exchange (take.c); join and seek under the writer lock. */
    _Alignas(64) _Atomic uint64_t cursor;
    uint8_t pad_cursor[56];
    /* Writer: join under the writer lock; used is stored last. Readers: join, monitors. */
    _Atomic uint32_t used;
    char name[SF_MAX_GROUP_NAME + 1];
};

/* What describes a block. Two cache lines: what the protocols touch, and what a message is. */
struct sf_desc {
    /* Writer: the lock's holder. Readers: all (edges A, C). */
    _Alignas(64) _Atomic uint64_t seq;
    /* Writer: the lock's holder; discard (one store of 0, edge E). Readers: the lock's holder. */
    _Atomic uint32_t owner;
    /* From here to the end, holders excepted. Writer: claim and publish under the lock, between
     * eviction of the old and publication of the new. Readers: all, validated by seq (edge F). */
    _Atomic uint32_t kind; /* ndim | order << 8 | dtype_len << 16 */
    _Atomic uint64_t off; /* of the block, from the arena's start; multiple of 64 */
    _Atomic uint64_t len; /* of the block; multiple of 64; 0 is free */
    _Atomic uint64_t payload_len;
    /* Writer: each participant its own bit; whoever cleans it. Reader: evict, reap (C, D). */
    _Atomic uint64_t holders[2];
    uint64_t reserved;

    _Alignas(64) _Atomic uint64_t stamp_ns;
    _Atomic uint32_t writer_pid, meta_len;
    _Atomic uint64_t shape[SF_INLINE_DIMS];
    _Atomic uint64_t dtype[SF_INLINE_DTYPE / 8];
};

/* Derived; under the lock. prev and next in address order of the area, or next free. */
struct sf_link {
    _Atomic uint32_t prev, next;
};

_Static_assert(sizeof(struct sf_header) <= SF_PAGE, "the header is one page");
_Static_assert(sizeof(struct sf_participant) == 256, "a slot is four lines");
_Static_assert(sizeof(struct sf_group) == 128, "a group is two lines");
_Static_assert(sizeof(struct sf_desc) == 128, "a descriptor is two lines");
_Static_assert(sizeof(struct sf_link) == 8, "a link is a word");

/* The sizes are in the format word: a build with other structures refuses to attach. */
#define SF_FORMAT_WORD                                                                             \
    (SF_FORMAT_VERSION << 24 | (uint32_t)(sizeof(struct sf_header) / 64) << 16 |                   \
     (uint32_t)(sizeof(struct sf_participant) / 64) << 8 |                                         \
     (uint32_t)(sizeof(struct sf_desc) / 64))

/* Bytes of the file that OFD locks are taken on; far beyond its end, so never data. */
#define SF_LOCK_SLOT (UINT64_C(1) << 50)
#define SF_LOCK_UNLINK (SF_LOCK_SLOT + SF_MAX_PARTICIPANTS)

/* An owner word names a participant and its generation, so that a reused slot is another owner:
 * 0 nobody; bit 31 is the lock's waiters bit. */
#define SF_WAITERS UINT32_C(0x80000000)
#define SF_GEN_MASK UINT32_C(0xfffff)

static inline uint32_t
sf_owner_word(uint32_t slot, uint32_t gen)
{
    return (gen & SF_GEN_MASK) << 11 | (slot + 1);
}

/* The slot of an owner word; SF_NIL for 0. May be out of range: check it. */
static inline uint32_t
sf_owner_slot(uint32_t word)
{
    uint32_t slot = word & 0x7ff;
    return slot == 0 ? SF_NIL : slot - 1;
}

static inline uint32_t
sf_owner_gen(uint32_t word)
{
    return (word >> 11) & SF_GEN_MASK;
}

static inline uint64_t
sf_round_up(uint64_t value, uint64_t to)
{
    return (value + to - 1) / to * to;
}

/* What a creator asks for. depth 0: as many as fit (L8). */
struct sf_params {
    uint64_t capacity, max_message, depth;
    uint32_t max_participants, flags;
    uint64_t block_len; /* what a message is expected to take; 0: not known */
};

/* All constants of a segment; private to each process. */
struct sf_layout {
    uint64_t capacity, max_message, depth; /* depth: the effective one */
    uint32_t max_participants, flags, index_len, desc_len, words;
    uint64_t lane_len, threshold, asked_depth, block_len;
    uint64_t participants_off, groups_off, index_off, descs_off, links_off, holders_off;
    uint64_t scratch_off, arena_off, file_len;
};

/* Computes every constant; SF_BAD_VALUE when params are out of range. */
int sf_layout_compute(const struct sf_params *params, struct sf_layout *out);
/* Writes the constants into a fresh header. */
void sf_layout_store(const struct sf_layout *layout, struct sf_header *header);
/* Reads a header once, computes its constants again and compares; the ladder's last rungs. */
int sf_layout_load(const struct sf_header *header, uint64_t file_len, struct sf_layout *out);

#endif
