/* Messages on their way, waiting and leaving, while the calls they stand on fail.
 *
 * Owns:      flow.c, wait.c, lock.c, participants.c, pins.c.
 * Does not:  fork, or go by the public interface (test_faults_public_points.c).
 */
#include "faults.h"

enum { MAIN_BLOCKS = 8, LANE_CLAIMS = 64 };

static struct sf_message all_held[MAIN_BLOCKS];
static struct sf_claim lane_claims[LANE_CLAIMS];
static int held_count, claim_count;

/* ---- sending ---- */

static int
send_len(struct scene *s, uint64_t len)
{
    int64_t seq = put(s->att, 'd', len);
    return seq < 0 ? (int)seq : 0;
}

static int
send_small(struct scene *s)
{
    return send_len(s, 100);
}

static int
send_large(struct scene *s)
{
    return send_len(s, BLOCK);
}

/* All of main is held by the other one. */
static void
set_main_held(struct scene *s)
{
    set_peer_and_att(s);
    s->other->max_held = UINT64_MAX;
    held_count = 0;
    while (held_count < MAIN_BLOCKS - 1) {
        struct sf_message *message = &all_held[held_count];
        REQUIRE(put(s->other, 'b', BLOCK) > 0);
        REQUIRE_EQ(take(s->other, message), 0);
        REQUIRE(sf_pin(s->other, message, false) == SF_PIN_OK);
        held_count++;
    }
}

static void
end_main_held(struct scene *s)
{
    while (held_count > 0) {
        sf_unpin(s->other, all_held[--held_count].desc);
    }
    end_going_on(s);
}

/* ... and all of the lane is being written. */
static void
set_no_room(struct scene *s)
{
    set_main_held(s);
    claim_count = 0;
    while (sf_send_claim(s->other, 1 << 12, SF_LANE_IN_TURN, SF_TRY, &lane_claims[claim_count]) ==
           0) {
        REQUIRE(++claim_count < LANE_CLAIMS);
    }
    sf_leave_queue(s->other);
}

static void
end_no_room(struct scene *s)
{
    while (claim_count > 0) {
        sf_send_drop(s->other, &lane_claims[--claim_count]);
    }
    end_main_held(s);
}

static int
wait_for_room(struct scene *s)
{
    struct sf_claim claim;
    int status = sf_send_claim(s->att, 1 << 14, SF_LANE_IN_TURN, soon(), &claim);
    sf_leave_queue(s->att);
    return status;
}

TEST(a_message_is_sent_or_not_sent)
{
    explore(&(struct op){"send small", .set = set_peer_and_att, .run = send_small,
                         .end = end_going_on});
    explore(&(struct op){"send large", .set = set_peer_and_att, .run = send_large,
                         .end = end_going_on});
    explore(&(struct op){"send by the lane", .set = set_main_held, .run = send_large,
                         .end = end_main_held});
    explore(&(struct op){"wait for room", .set = set_no_room, .run = wait_for_room,
                         .end = end_no_room, .want = SF_NO_ROOM});
}

/* ---- loans ---- */

static int
lend(struct scene *s, bool publish)
{
    uint64_t len = BLOCK, seq;
    struct sf_out out = out_of(NULL, len, &len);
    int status = sf_send_claim(s->att, sf_out_block_len(&out), SF_LANE_NEVER, soon(), &s->claim);
    if (status < 0) {
        return status;
    }
    sf_loan_begin(s->att, s->claim.desc);
    memset(sf_send_payload(s->att, &out, &s->claim), 'l', BLOCK);
    if (!publish) {
        sf_loan_drop(s->att, s->claim.desc);
        return 0;
    }
    sf_loan_keep(s->att, s->claim.desc);
    status = sf_send_publish(s->att, &out, &s->claim, soon(), &seq);
    if (status < 0) {
        sf_loan_drop(s->att, s->claim.desc);
    }
    return status;
}

static int
lend_and_publish(struct scene *s)
{
    return lend(s, true);
}

static int
lend_and_drop(struct scene *s)
{
    return lend(s, false);
}

static void
end_lent(struct scene *s)
{
    CHECK(is_all(s->att->arena + s->claim.off, 'l'));
    sf_unpin(s->att, s->claim.desc);
    end_going_on(s);
}

TEST(a_loan_is_published_or_given_back)
{
    explore(&(struct op){"publish a loan", .set = set_peer_and_att, .run = lend_and_publish,
                         .end = end_lent});
    explore(&(struct op){"drop a loan", .set = set_peer_and_att, .run = lend_and_drop,
                         .end = end_going_on});
}

/* ---- reading and waiting ---- */

static int
read_and_pin(struct scene *s)
{
    struct sf_message message;
    int status = take(s->att, &message);
    if (status == 0) {
        CHECK(sf_pin(s->att, &message, false) == SF_PIN_OK);
        CHECK(is_all(sf_message_payload(s->att, &message), 'a'));
        sf_unpin(s->att, message.desc);
    }
    return status;
}

static void
set_monitor(struct scene *s)
{
    set_peer(s);
    s->att = attach("t", SF_AS_MONITOR);
    sf_subscribe(s->att, SF_OLDEST);
}

/* As callers wait: a slice that ends without news is asked for again. */
static int
wait_message(struct scene *s)
{
    uint64_t until = soon();
    int status = 0;
    while (status == 0 && os_now_ns() < until) {
        status = sf_wait_message(s->att, 2, until, 0, NULL);
        if (status == 0 && sf_attachment_has_gone(s->att)) {
            return SF_GONE;
        }
    }
    return status == 0 ? SF_EMPTY : status;
}

/* Of two at once, and of one beside a topic that is not there. */
static int
wait_any(struct scene *s, struct sf_attachment *second)
{
    uint64_t until = soon();
    struct sf_waited waited[] = {{.att = s->att, .seq = 2},
                                 {.att = second, .path = "/nowhere", .seq = 2}};
    int status = 0;
    while (status == 0 && os_now_ns() < until) {
        status = sf_wait_any(waited, 2, until);
        if (status == 0 && sf_attachment_has_gone(s->att)) {
            return SF_GONE;
        }
    }
    return status == 0 ? SF_EMPTY : status;
}

static int
wait_for_two(struct scene *s)
{
    return wait_any(s, s->other);
}

static int
wait_for_one_and_an_absent(struct scene *s)
{
    return wait_any(s, NULL);
}

TEST(reading_and_waiting_end_as_they_should)
{
    explore(&(struct op){"read and pin", .set = set_peer_and_att, .run = read_and_pin,
                         .end = end_going_on});
    explore(&(struct op){"wait for a message", .set = set_peer_and_att, .run = wait_message,
                         .end = end_going_on, .want = SF_EMPTY});
    explore(&(struct op){"wait for two", .set = set_peer_and_att, .run = wait_for_two,
                         .end = end_going_on, .want = SF_EMPTY});
    explore(&(struct op){"wait for one and an absent", .set = set_peer_and_att,
                         .run = wait_for_one_and_an_absent, .end = end_going_on, .want = SF_EMPTY});
    explore(&(struct op){"monitor waits for a message", .set = set_monitor, .run = wait_message,
                         .end = end_going_on, .want = SF_EMPTY});
}

/* ---- the lock ---- */

static int
wait_for_lock(struct scene *s)
{
    int status = sf_lock_wait(s->att, os_now_ns() + 8000000);
    if (status == 0) {
        sf_unlock(s->att);
    }
    return status;
}

static void
set_dead_one(struct scene *s)
{
    set_peer_and_att(s);
    leave_dead_one(s);
}

static void
set_dead_holder(struct scene *s)
{
    set_dead_one(s);
    struct sf_ring *ring = &s->other->ring;
    /* One thread. */
    uint32_t gen = sf_load_relaxed(&ring->slots[DEAD_SLOT].gen);
    sf_store_relaxed(&ring->header->lock, sf_owner_word(DEAD_SLOT, gen)); /* as above */
}

TEST(the_lock_is_waited_for_and_taken_from_the_dead)
{
    explore(&(struct op){"wait for the lock", .set = set_locked, .run = wait_for_lock,
                         .end = end_locked, .want = SF_BUSY});
    explore(&(struct op){"take a dead one's lock", .set = set_dead_holder, .run = wait_for_lock,
                         .end = end_going_on,
                         .also = SF_BUSY}); /* whether it is dead cannot be found out */
}

/* ---- participants ---- */

/* Cleaning does what it can; a later one does the rest. */
static int
clean(struct scene *s)
{
    int cleaned = sf_clean_dead(s->att);
    uint32_t state = sf_load_relaxed(&s->att->ring.slots[DEAD_SLOT].state); /* one thread */
    CHECK_EQ(cleaned, state == SF_SLOT_FREE);
    return cleaned == 1 ? 0 : cleaned < 0 ? cleaned : SF_EMPTY;
}

static void
set_two(struct scene *s)
{
    set_peer_and_att(s);
}

static int
list(struct scene *s)
{
    uint8_t alive[SF_MAX_PARTICIPANTS];
    int count = sf_list_living(s->att, alive);
    /* Of one that has no name any more it cannot be asked: then it says what it knew last. */
    bool gone = tally->hit && tally->error == ENOENT;
    return count == 2 || (count == 3 && gone) ? 0 : count < 0 ? count : SF_CORRUPT;
}

TEST(the_living_are_not_called_dead)
{
    explore(&(struct op){"clean", .set = set_dead_one, .run = clean, .end = end_going_on,
                         .also = SF_EMPTY});
    explore(&(struct op){"list the living", .set = set_two, .run = list, .end = end_going_on});
    explore(&(struct op){"list beside a dead one", .set = set_dead_one, .run = list,
                         .end = end_cleaned});
}

/* ---- ends ---- */

static int
shut_down(struct scene *s)
{
    return sf_shutdown(s->att, soon());
}

static int
leave(struct scene *s)
{
    sf_attachment_unref(s->att);
    s->att = NULL;
    return 0;
}

/* Their calls (munmap, the wake of a futex) are in no table: nothing of theirs can fail. */
TEST(leaving_and_shutting_down_stand_on_no_call_that_can_fail)
{
    CHECK_EQ(explore(&(struct op){"shut down", .set = set_peer_and_att, .run = shut_down,
                                  .end = end_going_on}),
             0);
    CHECK_EQ(
        explore(&(struct op){"leave", .set = set_peer_and_att, .run = leave, .end = end_going_on}),
        0);
}

/* ---- all of it ---- */

TEST(every_call_of_these_operations_was_made_to_fail)
{
    static const char *const calls[] = {"open",        "close",           "fstat",
                                        "lstat",       "fcntl",           "futex_wait",
                                        "futex_waitv", "clock_nanosleep", NULL};
    report(calls);
}
