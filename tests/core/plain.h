/* A ring over plain memory, for tests that need no file, no process and no lock.
 *
 * Owns:      struct plain; putting messages whose bytes follow from a tag (kept in stamp_ns), and
 *            checking those bytes again.
 * Does not:  lock: a test is alone, so it is the holder whenever it calls a `_locked` function.
 *
 * Slots need no attaching here: an owner word of generation 0 lives, until plain_kill.
 */
#ifndef SHMFLOW_TESTS_PLAIN_H
#define SHMFLOW_TESTS_PLAIN_H

#include "check.h"
#include "core/ring.h"

struct plain {
    struct sf_ring ring;
    char *memory;
    uint64_t next_tag;
};

#define UNUSED __attribute__((unused))

UNUSED static void
plain_check(struct plain *p)
{
#ifdef SF_DEBUG
    sf_check_locked(&p->ring);
#else
    (void)p;
#endif
}

UNUSED static void
plain_open(struct plain *p, uint64_t capacity, uint64_t max_message, uint64_t depth)
{
    struct sf_params params = {
        .capacity = capacity,
        .max_message = max_message,
        .depth = depth,
        .max_participants = 1,
    };
    struct sf_layout layout;
    REQUIRE_EQ(sf_layout_compute(&params, &layout), 0);
    p->memory = aligned_alloc(SF_ARENA_ALIGN, sf_round_up(layout.file_len, SF_ARENA_ALIGN));
    REQUIRE(p->memory != NULL);
    memset(p->memory, 0, layout.file_len);
    p->next_tag = 1;
    sf_layout_store(&layout, (struct sf_header *)p->memory);
    sf_ring_bind(&p->ring, &layout, p->memory);
    REQUIRE_EQ(sf_rebuild_locked(&p->ring), 0);
    plain_check(p);
}

UNUSED static void
plain_close(struct plain *p)
{
    free(p->memory);
}

/* Before the first message: as if `head` of them had come and gone. */
UNUSED static void
plain_start_at(struct plain *p, uint64_t head)
{
    sf_store_relaxed(&p->ring.header->head, head);
    sf_store_relaxed(&p->ring.header->tail, head + 1);
    REQUIRE_EQ(sf_rebuild_locked(&p->ring), 0);
}

UNUSED static uint64_t
plain_head(struct plain *p)
{
    return sf_load_relaxed(&p->ring.header->head);
}

UNUSED static uint64_t
plain_tail(struct plain *p)
{
    return sf_load_relaxed(&p->ring.header->tail);
}

UNUSED static uint32_t
plain_owner(struct plain *p, uint32_t slot)
{
    return sf_owner_word(slot, sf_load_relaxed(&p->ring.slots[slot].gen));
}

/* What cleaning does to a dead participant's slot. */
UNUSED static void
plain_kill(struct plain *p, uint32_t slot)
{
    for (uint32_t desc = 0; desc < p->ring.lay.desc_len; desc++) {
        sf_unpin_bit(&p->ring, desc, slot);
    }
    sf_store_release(&p->ring.slots[slot].gen, sf_load_relaxed(&p->ring.slots[slot].gen) + 1);
}

/* ---- bytes that follow from a tag ---- */

static unsigned char
byte_of(uint64_t tag, uint64_t at)
{
    return (unsigned char)(tag * 151 + at * 7 + (at >> 8) * 13);
}

UNUSED static void
bytes_fill(char *to, uint64_t len, uint64_t tag)
{
    for (uint64_t at = 0; at < len; at++) {
        to[at] = (char)byte_of(tag, at);
    }
}

UNUSED static bool
bytes_hold(const char *from, uint64_t len, uint64_t tag)
{
    for (uint64_t at = 0; at < len; at++) {
        if ((unsigned char)from[at] != byte_of(tag, at)) {
            return false;
        }
    }
    return true;
}

UNUSED static char *
plain_bytes(struct plain *p, uint64_t off)
{
    return p->memory + p->ring.lay.arena_off + off;
}

UNUSED static bool
plain_holds(struct plain *p, const struct sf_message *m)
{
    return bytes_hold(plain_bytes(p, m->block_off + m->prefix_len), m->payload_len, m->stamp_ns);
}

/* ---- a message in one go ---- */

UNUSED static struct sf_message
plain_describe(uint64_t len, uint64_t tag)
{
    return (struct sf_message){
        .stamp_ns = tag,
        .payload_len = len,
        .writer_pid = 7,
        .ndim = 1,
        .dtype_len = 3,
        .dtype = {0x317569, 0},
        .shape = {len},
    };
}

UNUSED static int
plain_claim(struct plain *p, uint32_t slot, uint64_t len, struct sf_claim *claim)
{
    return sf_claim_locked(&p->ring, plain_owner(p, slot), len, true, claim);
}

UNUSED static int
plain_publish(struct plain *p, const struct sf_claim *claim, uint64_t len)
{
    struct sf_message m = plain_describe(len, p->next_tag++);
    bytes_fill(plain_bytes(p, claim->off), len, m.stamp_ns);
    return sf_publish_locked(&p->ring, claim->desc, &m);
}

/* Claims as slot 0, fills, publishes; the number of the message, or 0 when there was no room. */
UNUSED static uint64_t
plain_put(struct plain *p, uint64_t len)
{
    struct sf_claim claim;
    int status = plain_claim(p, 0, len, &claim);
    plain_check(p);
    if (status < 0) {
        CHECK_EQ(status, SF_NO_ROOM);
        return 0;
    }
    CHECK_EQ(plain_publish(p, &claim, len), 0);
    plain_check(p);
    return plain_head(p);
}

/* Looks for exactly `seq` and checks its bytes. */
UNUSED static struct sf_message
plain_get(struct plain *p, uint64_t seq)
{
    struct sf_message m = {0};
    CHECK_EQ(sf_look(&p->ring, seq, &m), 0);
    CHECK_EQ(m.seq, seq);
    CHECK_EQ(m.lost, 0);
    CHECK(plain_holds(p, &m));
    return m;
}

/* Everything from tail to head is there and whole. */
UNUSED static void
plain_check_history(struct plain *p)
{
    for (uint64_t seq = plain_tail(p); seq != plain_head(p) + 1; seq++) {
        (void)plain_get(p, seq);
    }
    plain_check(p);
}

UNUSED static struct sf_message
plain_pin(struct plain *p, uint64_t seq, uint32_t slot)
{
    struct sf_message m = plain_get(p, seq);
    CHECK(sf_pin_bit(&p->ring, m.desc, slot, seq));
    return m;
}

/* A small generator with a fixed start (xorshift64*, Vigna 2016): the same run every time. */
UNUSED static uint64_t
random_next(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (*state * UINT64_C(2685821657736338717)) >> 16;
}

#endif
