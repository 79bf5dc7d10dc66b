/* Lossless readers, groups and batches, while the calls they stand on fail.
 *
 * Owns:      join.c; the waits of flow.c for lossless readers.
 * Does not:  go by what test_faults_flow_points.c has: messages without such readers.
 */
#include "faults.h"

enum { BATCH = 5 };

static int
join(struct scene *s, const char *group, bool lossless)
{
    struct sf_joining how = {.group = group, .lossless = lossless};
    return sf_join(s->att, &how, soon());
}

static void
end_joined(struct scene *s)
{
    CHECK_EQ(s->done, s->att->lossless || s->att->group != 0);
    sf_unjoin(s->att);
    end_cleaned(s);
}

/* ---- the lock is another's ---- */

static void
end_not_joined(struct scene *s)
{
    CHECK(!s->att->lossless && s->att->group == 0);
    end_locked(s);
}

static int
join_lossless(struct scene *s)
{
    return join(s, NULL, true);
}

static int
join_group(struct scene *s)
{
    return join(s, "g", false);
}

static void
set_lossless_and_locked(struct scene *s)
{
    set_peer_and_att(s);
    REQUIRE_EQ(join(s, NULL, true), 0);
    REQUIRE_EQ(sf_lock_try(s->other), 0);
}

static int
seek(struct scene *s)
{
    uint64_t before = sf_load_relaxed(s->att->cursor); /* one thread, here and below */
    int status = sf_seek(s->att, 2, soon());
    CHECK_EQ(sf_load_relaxed(s->att->cursor), status == 0 ? 2 : before);
    return status;
}

static void
end_sought(struct scene *s)
{
    sf_unlock(s->other);
    sf_unjoin(s->att);
    end_going_on(s);
}

TEST(joining_and_seeking_wait_for_the_lock_or_say_so)
{
    explore(&(struct op){"join as a lossless reader", .set = set_locked, .run = join_lossless,
                         .end = end_not_joined, .want = SF_BUSY});
    explore(&(struct op){"join a group", .set = set_locked, .run = join_group,
                         .end = end_not_joined, .want = SF_BUSY});
    explore(&(struct op){"seek", .set = set_lossless_and_locked, .run = seek, .end = end_sought,
                         .want = SF_BUSY});
}

/* ---- the dead ---- */

/* What a member leaves that was killed: a taken slot whose byte is free, a group, a policy. */
static void
set_dead_member(struct scene *s, uint32_t slot, uint32_t group, uint32_t policy)
{
    struct sf_participant *p = &s->other->ring.slots[slot];
    sf_store_relaxed(&s->other->ring.header->floor_seq, 0); /* F1; one thread, here and below */
    sf_store_relaxed(&p->cursor, 1);
    sf_store_relaxed(&p->group, group);
    sf_store_relaxed(&p->policy, policy);
    sf_store_relaxed(&p->state, SF_SLOT_TAKEN); /* as above */
}

static void
set_all_groups_of_the_dead(struct scene *s)
{
    set_peer_and_att(s);
    for (uint32_t at = 0; at < SF_GROUPS; at++) {
        struct sf_group *group = &s->other->ring.groups[at];
        snprintf(group->name, sizeof group->name, "old %u", at);
        sf_store_relaxed(&group->used, 1); /* one thread */
        set_dead_member(s, DEAD_SLOT + at, at + 1, 0);
    }
}

static void
set_lossless_group_of_the_dead(struct scene *s)
{
    set_peer_and_att(s);
    struct sf_group *group = &s->other->ring.groups[3];
    snprintf(group->name, sizeof group->name, "g");
    sf_store_relaxed(&group->cursor, 1); /* one thread, here and below */
    sf_store_relaxed(&group->used, 1);
    set_dead_member(s, DEAD_SLOT, 4, SF_POLICY_LOSSLESS);
}

TEST(the_dead_are_out_of_the_way_or_their_group_is_told)
{
    CHECK(explore(&(struct op){"join where the dead have all places",
                               .set = set_all_groups_of_the_dead, .run = join_group,
                               .end = end_joined, .also = SF_NO_GROUP}) > 0);
    CHECK(explore(&(struct op){"join where a dead one has another policy",
                               .set = set_lossless_group_of_the_dead, .run = join_group,
                               .end = end_joined, .also = SF_GROUP_POLICY}) > 0);
}

/* ---- writers that wait ---- */

static struct sf_out outs[BATCH];
static uint64_t out_len;

static int
send_batch(struct scene *s)
{
    const struct sf_out *all[BATCH];
    uint64_t seq;
    out_len = 100;
    for (int i = 0; i < BATCH; i++) {
        outs[i] = out_of(block, out_len, &out_len);
        all[i] = &outs[i];
    }
    sf_store_relaxed(&s->att->next_clean_ns, 0); /* a private hint */
    uint64_t before = sf_load_relaxed(&s->att->ring.header->head); /* one thread, here and below */
    int sent = sf_send_batch(s->att, all, BATCH, soon(), &seq);
    CHECK_EQ(sf_load_relaxed(&s->att->ring.header->head), before + (sent > 0 ? BATCH : 0));
    sf_leave_queue(s->att);
    return sent < 0 ? sent : sent == BATCH ? 0 : SF_CORRUPT;
}

static int
send_large(struct scene *s)
{
    uint64_t len = BLOCK, seq;
    struct sf_out out = out_of(NULL, len, &len);
    struct sf_claim claim;
    sf_store_relaxed(&s->att->next_clean_ns, 0); /* a private hint */
    int status = sf_send_claim(s->att, sf_out_block_len(&out), SF_LANE_IN_TURN, soon(), &claim);
    if (status == 0) {
        memset(sf_send_payload(s->att, &out, &claim), 'd', BLOCK);
        status = sf_send_publish(s->att, &out, &claim, soon(), &seq);
        if (status < 0) {
            sf_send_drop(s->att, &claim);
        }
    }
    sf_leave_queue(s->att);
    return status;
}

/* The other one has yet to read all that there is room for. */
static void
set_lagging(struct scene *s)
{
    set_peer_and_att(s);
    struct sf_joining how = {.cursor = 2, .lossless = true};
    REQUIRE_EQ(sf_join(s->other, &how, soon()), 0);
    uint64_t len = BLOCK, seq;
    struct sf_out out = out_of(block, len, &len);
    struct sf_claim claim;
    while (sf_send_claim(s->other, sf_out_block_len(&out), SF_LANE_IN_TURN, SF_TRY, &claim) == 0) {
        memset(sf_send_payload(s->other, &out, &claim), 'e', BLOCK);
        REQUIRE_EQ(sf_send_publish(s->other, &out, &claim, SF_TRY, &seq), 0);
    }
    out.payload_len = len = 64;
    while (sf_send_small(s->other, &out, SF_TRY, &seq) == 0) {
    }
    sf_leave_queue(s->other);
}

static void
end_lagging(struct scene *s)
{
    struct sf_message m;
    CHECK_EQ(sf_load_relaxed(&s->other->ring.header->tail) <= 2, 1); /* one thread */
    CHECK_EQ(take(s->other, &m), 0);
    CHECK_EQ(m.seq, 2);
    CHECK_EQ(m.lost, 0);
    sf_unjoin(s->other);
    end_going_on(s);
}

/* The same of one that is dead: whoever waits finds out, or says what he knows. */
static void
set_lagging_and_dead(struct scene *s)
{
    set_lagging(s);
    sf_unjoin(s->other);
    set_dead_member(s, DEAD_SLOT, 0, SF_POLICY_LOSSLESS);
}

TEST(a_writer_waits_for_a_lossless_reader_and_not_for_a_dead_one)
{
    explore(
        &(struct op){"a batch", .set = set_peer_and_att, .run = send_batch, .end = end_going_on});
    CHECK(explore(&(struct op){"a batch behind a lossless reader", .set = set_lagging,
                               .run = send_batch, .end = end_lagging, .want = SF_LAGGING}) > 0);
    CHECK(explore(&(struct op){"a large one behind a lossless reader", .set = set_lagging,
                               .run = send_large, .end = end_lagging, .want = SF_LAGGING}) > 0);
    CHECK(explore(&(struct op){"a batch behind a dead one", .set = set_lagging_and_dead,
                               .run = send_batch, .end = end_cleaned, .also = SF_LAGGING}) > 0);
    CHECK(explore(&(struct op){"a large one behind a dead one", .set = set_lagging_and_dead,
                               .run = send_large, .end = end_cleaned, .also = SF_LAGGING}) > 0);
}

/* ---- what needs no call ---- */

static int
seek_at_once(struct scene *s)
{
    int status = sf_seek(s->att, 2, SF_TRY);
    return status < 0 ? status : sf_seek(s->att, 1, SF_TRY);
}

static void
set_lossless(struct scene *s)
{
    set_peer_and_att(s);
    REQUIRE_EQ(join(s, "g", true), 0);
}

static int
leave(struct scene *s)
{
    sf_unjoin(s->att);
    return 0;
}

static void
end_left(struct scene *s)
{
    sf_unjoin(s->att);
    end_going_on(s);
}

TEST(joining_seeking_and_leaving_stand_on_no_call_where_the_lock_is_free)
{
    CHECK_EQ(explore(&(struct op){"join", .set = set_peer_and_att, .run = join_lossless,
                                  .end = end_joined}),
             0);
    CHECK_EQ(
        explore(&(struct op){"seek", .set = set_lossless, .run = seek_at_once, .end = end_left}),
        0);
    CHECK_EQ(explore(&(struct op){"leave", .set = set_lossless, .run = leave, .end = end_left}), 0);
}

TEST(every_call_of_these_operations_was_made_to_fail)
{
    static const char *const calls[] = {"open", "close", "fstat", "fcntl", "futex_wait", NULL};
    report(calls);
}
