/* Sending through an attachment: the lock, room for a message, its number, the bells.
 *
 * Owns:      the order in which ring, lock, floor and wait are used; the writer's counters.
 * Does not:  hold a protocol of its own: every shared word is another room's.
 *
 * Invariants
 *   J1  No payload above SF_SMALL_LEN is copied under the lock.
 *   J2  System calls (wakes, page tables, cleaning) come after unlock.
 *   J3  A write that reports a failure has published nothing.
 *   J4  ended is read under the lock before anything is published: shutdown sets it under the
 *       lock, so no message comes after the end.
 *
 * A crash here leaves: what lock.c and ring.c say; a claim that is freed as a dead one's.
 */
#include "core/attachment.h"

#include <errno.h>
#include <string.h>

#define SF_CLEAN_NS UINT64_C(100000000)
#define SF_NAME_NS UINT64_C(1000000000)

/* ---- sending ---- */

uint64_t
sf_out_block_len(const struct sf_out *out)
{
    return sf_prefix_len(out->ndim, out->dtype_len, out->meta_len) + out->payload_len;
}

/* An empty message has a block as well. */
static uint64_t
block_len_of(const struct sf_out *out)
{
    uint64_t len = sf_out_block_len(out);
    return len ? len : SF_LINE;
}

static int
enter(struct sf_attachment *att, uint64_t until_ns)
{
    int status = sf_lock_try(att);
    if (status == SF_BUSY && until_ns != SF_TRY) {
        status = sf_lock_wait(att, until_ns);
    }
    if (status < 0) {
        return status;
    }
    /* Relaxed: edge G orders it (J4). */
    uint32_t ended = sf_load_relaxed(&att->ring.header->ended) & SF_ENDS;
    if (ended != 0) {
        sf_unlock(att);
        return (ended & SF_SHUTDOWN) != 0 ? SF_ENDED : SF_GONE;
    }
    return 0;
}

static SF_COLD void
clean_rarely(struct sf_attachment *att)
{
    uint64_t now = os_now_ns();
    if (now >= sf_load_relaxed(&att->next_clean_ns)) { /* a hint: at worst twice */
        sf_store_relaxed(&att->next_clean_ns, now + SF_CLEAN_NS); /* as above */
        (void)sf_clean_dead(att);
    }
}

/* Claims under the lock, mending the tables once if they turn out broken. */
static int
claim_or_mend(struct sf_attachment *att, uint64_t len, enum sf_lane lane, struct sf_claim *claim)
{
    int status = sf_claim_locked(&att->ring, att->owner, len, lane, claim);
    if (status == SF_CORRUPT) {
        status = sf_rebuild_locked(&att->ring);
        if (status == 0) {
            status = sf_claim_locked(&att->ring, att->owner, len, lane, claim);
        }
    }
    return status;
}

void
sf_count_wait(struct sf_attachment *att)
{
    /* Relaxed: told to people. */
    sf_add_relaxed64(&att->ring.slots[att->slot].waits, 1);
}

/* What a writer needs before it goes on. */
struct need {
    uint64_t len; /* of a block to be claimed; 0: none, it has one */
    enum sf_lane lane;
    bool number; /* a place in the history, which lossless readers may still need */
    struct sf_claim *claim;
};

/* The same for a number: a broken tail is found here before any claim looks at it. */
static SF_COLD int
number_or_mend(struct sf_attachment *att)
{
    int status = sf_may_publish_locked(&att->ring);
    if (status == SF_CORRUPT) {
        status = sf_rebuild_locked(&att->ring);
        if (status == 0) {
            status = sf_may_publish_locked(&att->ring);
        }
        att->ring.corrupt |= status == SF_CORRUPT;
    }
    return status;
}

/* Under the lock: 0, SF_NO_ROOM, SF_LAGGING, SF_CORRUPT. */
static inline int
get_room(struct sf_attachment *att, const struct need *need, bool last)
{
    /* Relaxed: the lock is held (G). Without lossless readers every number is free, and publish finds
     * out by itself whether the tail is broken. */
    bool asks = need->number && sf_load_relaxed(&att->ring.header->floor_seq) != UINT64_MAX;
    int status = asks ? number_or_mend(att) : 0;
    if (status == 0 && need->len != 0) {
        status = claim_or_mend(att, need->len, last ? SF_LANE_NOW : need->lane, need->claim);
    }
    return status;
}

/* Nobody can wait for himself: is the writing Topic the only one that has not read all? Under the
 * lock, after SF_LAGGING: who was in the way may have read on since, so it must also stand at the
 * floor that was just computed. */
static bool
is_own_lag_locked(const struct sf_attachment *att)
{
    /* G, both; the cursor is ours to move, or our group's, which the others then keep. */
    uint64_t head = sf_load_relaxed(&att->ring.header->head);
    uint64_t floor = sf_load_relaxed(&att->ring.header->floor_seq);
    return att->lossless && sf_load_relaxed(att->cursor) <= floor && /* as above */
           sf_floor_without(&att->ring, att->slot) > head;
}

/* Enters and gets room; returns with the lock held on 0, and not held otherwise. */
static int
enter_with_room(struct sf_attachment *att, const struct need *need, uint64_t until_ns)
{
    uint32_t rung = 0;
    bool listening = false, last = false;
    for (;;) {
        int status = enter(att, until_ns);
        if (status < 0) {
            return status;
        }
        status = get_room(att, need, last);
        if (status == 0) {
            return 0;
        }
        bool own_lag = status == SF_LAGGING && is_own_lag_locked(att);
        sf_unlock(att);
        if (own_lag) {
            sf_leave_queue(att); /* P3: it does not wait, and must not stand first in line */
            return SF_OWN_LAG;
        }
        if ((status != SF_NO_ROOM && status != SF_LAGGING) || until_ns == SF_TRY ||
            (need->len != 0 && need->lane == SF_LANE_NEVER) || last) {
            return status;
        }
        clean_rarely(att);
        if (listening) {
            status = sf_room_sleep(att, rung, until_ns);
            if (status == SF_INTERRUPTED) {
                return status;
            }
            if (status == SF_EMPTY) {
                (void)sf_attachment_is_named(att); /* if not, enter sees it */
            }
            last = os_now_ns() >= until_ns;
        }
        rung = sf_room_listen(att);
        listening = true;
    }
}

/* Blocks and prefixes are whole lines. The last one is cleared before it is written, so that what
 * pads it is zeros and not what an earlier message left there. */
static void
clear_last_line(char *end)
{
    memset(end - SF_LINE, 0, SF_LINE);
}

static void
clear_block_end(struct sf_attachment *att, const struct sf_claim *claim)
{
    clear_last_line(att->arena_rw + claim->off + claim->len);
}

static void
write_prefix(char *at, uint64_t prefix_len, const struct sf_out *out)
{
    if (prefix_len > 0) {
        clear_last_line(at + prefix_len);
    }
    if (out->ndim > SF_INLINE_DIMS) {
        memcpy(at, out->shape, (size_t)out->ndim * 8);
        at += (size_t)out->ndim * 8;
    }
    if (out->dtype_len > SF_INLINE_DTYPE) {
        memcpy(at, out->dtype, out->dtype_len);
        at += out->dtype_len;
    }
    if (out->meta_len > 0) {
        memcpy(at, out->meta, out->meta_len);
    }
}

static char *
block_at(struct sf_attachment *att, const struct sf_out *out, const struct sf_claim *claim)
{
    char *at = att->arena_rw + claim->off;
    uint64_t prefix_len = sf_prefix_len(out->ndim, out->dtype_len, out->meta_len);
    write_prefix(at, prefix_len, out);
    return at + prefix_len;
}

/* Numbers a claim, under the lock. stamp_ns: for a message that brings none. */
static int
publish_claim(struct sf_attachment *att, const struct sf_out *out, const struct sf_claim *claim,
              uint64_t stamp_ns, uint64_t *seq)
{
    struct sf_participant *p = &att->ring.slots[att->slot];
    struct sf_message m;
    m.stamp_ns = out->stamped ? out->stamp_ns : stamp_ns;
    m.payload_len = out->payload_len;
    m.writer_pid = p->pid;
    m.ndim = out->ndim;
    m.fortran = out->fortran;
    m.dtype_len = out->dtype_len;
    m.meta_len = out->meta_len;
    m.dtype[0] = m.dtype[1] = 0;
    if (out->dtype_len <= SF_INLINE_DTYPE) {
        memcpy(m.dtype, out->dtype, out->dtype_len);
    }
    memset(m.shape, 0, sizeof m.shape);
    if (out->ndim > 0 && out->ndim <= SF_INLINE_DIMS) { /* of no dimensions shape may be NULL */
        memcpy(m.shape, out->shape, (size_t)out->ndim * 8);
    }
    int status = sf_publish_locked(&att->ring, claim->desc, &m);
    if (status == SF_CORRUPT) {
        status = sf_rebuild_locked(&att->ring);
        if (status == 0) {
            status = sf_publish_locked(&att->ring, claim->desc, &m);
        }
    }
    if (status == 0) {
        /* Relaxed: ours alone, under the lock; told to people. */
        sf_store_relaxed(&p->written, sf_load_relaxed(&p->written) + 1);
        sf_store_relaxed(&p->written_len, sf_load_relaxed(&p->written_len) + out->payload_len);
        *seq = m.seq;
    }
    return status;
}

/* Did it have to go round what is taken? Then the next messages may have more room than this one. */
static bool
was_short(const struct sf_claim *claim)
{
    return claim->in_lane || claim->met_taken;
}

/* What follows a publication, or several, after unlock. */
static void
announce(struct sf_attachment *att, bool short_of_room, uint64_t now)
{
    sf_bell_ring(&att->ring.header->bell);
    sf_bell_ring(&att->ring.header->room);
    if (short_of_room) {
        clean_rarely(att); /* maybe the dead hold some of main */
    }
    uint64_t next = sf_load_relaxed(&att->next_name_ns); /* a hint */
    if (now >= next || next - now > 2 * SF_NAME_NS) { /* the second: the clock was set back */
        sf_store_relaxed(&att->next_name_ns, now + SF_NAME_NS); /* as above */
        (void)sf_attachment_is_named(att);
    }
}

/* Under the lock: claims (room was made for the first), copies and numbers one message. */
static int
send_locked(struct sf_attachment *att, const struct sf_out *out, const struct sf_claim *claim,
            uint64_t now, uint64_t *seq)
{
    clear_block_end(att, claim);
    memcpy(block_at(att, out, claim), out->data, out->payload_len);
    int status = publish_claim(att, out, claim, now, seq);
    if (status < 0) {
        sf_discard(&att->ring, claim->desc);
    }
    return status;
}

int
sf_send_small(struct sf_attachment *att, const struct sf_out *out, uint64_t until_ns, uint64_t *seq)
{
    struct sf_claim claim;
    struct need need = {block_len_of(out), SF_LANE_IN_TURN, true, &claim};
    int status = enter_with_room(att, &need, until_ns);
    if (status < 0) {
        return status;
    }
    uint64_t now = os_realtime_ns();
    status = send_locked(att, out, &claim, now, seq);
    sf_unlock(att);
    if (status < 0) {
        sf_bell_ring(&att->ring.header->room); /* H: a claim was given back */
        return status;
    }
    announce(att, was_short(&claim), now);
    /* Of the next blocks, not of this one: J2. */
    sf_fill_pages(att, claim.off, claim.len, true);
    return 0;
}

SF_HOT int
sf_send_batch(struct sf_attachment *att, const struct sf_out *const *outs, int count,
              uint64_t until_ns, uint64_t *seq)
{
    struct sf_claim claim;
    struct need need = {block_len_of(outs[0]), SF_LANE_IN_TURN, true, &claim};
    int status = enter_with_room(att, &need, until_ns);
    if (status < 0) {
        return status;
    }
    uint64_t now = os_realtime_ns();
    bool any_short = false;
    int sent = 0;
    while (status == 0) {
        status = send_locked(att, outs[sent], &claim, now, seq);
        if (status == 0) {
            any_short |= was_short(&claim);
            if (++sent == count) {
                break;
            }
            need.len = block_len_of(outs[sent]);
            status = get_room(att, &need, false);
        }
    }
    sf_unlock(att);
    announce(att, any_short, now);
    sf_fill_pages(att, claim.off, claim.len, true); /* J2, as above */
    return sent > 0 ? sent : status;
}

int
sf_send_claim(struct sf_attachment *att, uint64_t block_len, enum sf_lane lane, uint64_t until_ns,
              struct sf_claim *claim)
{
    struct need need = {block_len ? block_len : SF_LINE, lane, false, claim};
    int status = enter_with_room(att, &need, until_ns);
    if (status == 0) {
        sf_unlock(att);
        clear_block_end(att, claim); /* now: later a loan's payload may lie there */
    }
    return status;
}

void *
sf_send_payload(struct sf_attachment *att, const struct sf_out *out, const struct sf_claim *claim)
{
    sf_fill_pages(att, claim->off, claim->len, true);
    return block_at(att, out, claim);
}

int
sf_send_publish(struct sf_attachment *att, const struct sf_out *out, const struct sf_claim *claim,
                uint64_t until_ns, uint64_t *seq)
{
    struct need need = {.number = true};
    int status = enter_with_room(att, &need, until_ns);
    if (status < 0) {
        return status;
    }
    uint64_t now = os_realtime_ns();
    status = publish_claim(att, out, claim, now, seq);
    sf_unlock(att);
    if (status == 0) {
        announce(att, was_short(claim), now);
        sf_fill_pages(att, claim->off + claim->len, claim->len, true); /* of the next one: J2 */
    }
    return status;
}

void
sf_leave_queue(struct sf_attachment *att)
{
    if (sf_attachment_is_mine(att)) {
        sf_give_up_turn(&att->ring, att->owner);
        sf_fence_seq(); /* H: the turn is cleared, relaxed, before the flag is looked at */
        sf_bell_ring(&att->ring.header->room);
    }
}

void
sf_send_drop(struct sf_attachment *att, const struct sf_claim *claim)
{
    if (sf_attachment_is_mine(att)) { /* else a fork came between; the claim is the parent's */
        sf_discard(&att->ring, claim->desc);
        sf_bell_ring(&att->ring.header->room);
    }
}

int
sf_shutdown(struct sf_attachment *att, uint64_t until_ns)
{
    int status = enter(att, until_ns);
    if (status == SF_ENDED || status == SF_GONE) {
        status = 0; /* ended already; or removed: the flag below ends it for who still reads */
        sf_or_seq32(&att->ring.header->ended, SF_SHUTDOWN); /* H */
    }
    else if (status == 0) {
        sf_or_seq32(&att->ring.header->ended, SF_SHUTDOWN); /* H, J4 */
        sf_unlock(att);
    }
    if (status == 0) {
        sf_bell_ring_always(&att->ring.header->bell);
        sf_bell_ring_always(&att->ring.header->room);
    }
    return status;
}
