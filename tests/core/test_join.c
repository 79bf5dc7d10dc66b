/* join.c: lossless readers and groups: what they are promised, and who is refused. */
#include "joined.h"

/* ---- lossless readers ---- */

TEST(a_lossless_reader_begins_where_it_asks_and_stops_writers_there)
{
    struct sf_attachment *w = open_topic(DEPTH, 5), *r = attach("t", SF_AS_READER);
    CHECK_EQ(join(r, NULL, SF_OLDEST, true), 0);
    CHECK_EQ(cursor_of(r), 1);
    CHECK(r->lossless);
    check_tables(w);
    write_some(w, DEPTH - 5);
    CHECK_EQ(write_now(w), SF_LAGGING);
    CHECK_EQ(next_of(r), 1);
    CHECK_EQ(write_now(w), 0);
    CHECK_EQ(write_now(w), SF_LAGGING);
    sf_unjoin(r);
    sf_unjoin(r);
    CHECK_EQ(write_now(w), 0);
    sf_attachment_unref(r);
    close_topic(w);
}

TEST(a_reader_that_leaves_protects_nothing_though_its_views_keep_the_slot)
{
    struct sf_attachment *w = create_and_attach("t", 1 << 16, DEPTH);
    static char data[8192];
    CHECK_EQ(send_bytes(w, data, sizeof data, 1), 1);
    struct sf_attachment *r = attach("t", SF_AS_READER);
    CHECK_EQ(join(r, NULL, SF_OLDEST, true), 0);
    struct sf_message m;
    CHECK_EQ(take(r, &m), 0);
    CHECK_EQ(sf_pin(r, &m, false), SF_PIN_OK);
    write_some(w, DEPTH);
    CHECK_EQ(write_now(w), SF_LAGGING);
    sf_unjoin(r);
    write_some(w, 3 * DEPTH);
    sf_unpin(r, m.desc);
    sf_attachment_unref(r);
    close_topic(w);
}

TEST(a_topic_may_refuse_lossless_readers)
{
    struct sf_params params = {
        .capacity = 1 << 16, .max_participants = 64, .flags = SF_NO_LOSSLESS};
    REQUIRE_EQ(sf_segment_create(path_of("t"), &params, 0600, NULL, NULL), 0);
    struct sf_attachment *w = attach("t", SF_AS_WRITER), *r = attach("t", SF_AS_READER);
    CHECK_EQ(join(r, NULL, SF_OLDEST, true), SF_NO_LOSSLESS_HERE);
    CHECK_EQ(join(r, "g", SF_OLDEST, true), SF_NO_LOSSLESS_HERE);
    CHECK_EQ(join(r, "g", SF_OLDEST, false), 0);
    sf_attachment_unref(r);
    close_topic(w);
}

TEST(joining_waits_for_the_lock_only_where_something_is_promised)
{
    struct sf_attachment *w = open_topic(DEPTH, 5), *r = attach("t", SF_AS_READER);
    struct sf_joining lossless = {.lossless = true}, group = {.group = "g"},
                      plain = {.group = NULL};
    REQUIRE_EQ(sf_lock_try(w), 0);
    CHECK_EQ(sf_join(r, &lossless, SF_TRY), SF_BUSY);
    CHECK_EQ(sf_join(r, &lossless, os_now_ns() + 2000000), SF_BUSY);
    CHECK_EQ(sf_join(r, &group, SF_TRY), SF_BUSY);
    CHECK(!r->lossless && r->group == 0);
    CHECK_EQ(sf_join(r, &plain, SF_TRY), 0);
    CHECK_EQ(sf_seek(r, 3, SF_TRY), 0);
    CHECK_EQ(cursor_of(r), 3);
    sf_unlock(w);
    CHECK_EQ(sf_join(r, &lossless, SF_TRY), 0);
    REQUIRE_EQ(sf_lock_try(w), 0);
    CHECK_EQ(sf_seek(r, 2, SF_TRY), SF_BUSY);
    CHECK_EQ(sf_seek(r, 2, os_now_ns() + 2000000), SF_BUSY);
    CHECK_EQ(cursor_of(r), 1);
    sf_unlock(w);
    sf_attachment_unref(r);
    close_topic(w);
}

TEST(who_joins_twice_has_joined_once)
{
    struct sf_attachment *w = open_topic(DEPTH, 5), *r = attach("t", SF_AS_READER);
    CHECK_EQ(join(r, "g", SF_OLDEST, true), 0);
    CHECK_EQ(next_of(r), 1);
    CHECK_EQ(join(r, "g", SF_OLDEST, true), 0);
    CHECK_EQ(cursor_of(r), 2);
    CHECK_EQ(join(r, "other", SF_NEW, false), 0);
    CHECK_EQ(cursor_of(r), 2);
    sf_attachment_unref(r);
    close_topic(w);
}

/* What a writer waits for is rung, each time, once it listens. */
TEST(progress_leaving_and_seeking_ring_for_writers_that_wait)
{
    struct sf_attachment *w = open_topic(DEPTH, DEPTH), *r = attach("t", SF_AS_READER);
    struct sf_bell *room = &w->ring.header->room;
    CHECK_EQ(join(r, NULL, SF_OLDEST, true), 0);
    uint32_t count = sf_room_listen(w);
    CHECK_EQ(next_of(r), 1);
    CHECK_EQ(sf_load_relaxed(&room->count), count + 1); /* one thread, here and below */
    CHECK_EQ(next_of(r), 2);
    CHECK_EQ(sf_load_relaxed(&room->count), count + 1); /* nobody listened */
    (void)sf_room_listen(w);
    CHECK_EQ(sf_seek(r, DEPTH, SF_TRY), 0);
    CHECK_EQ(sf_load_relaxed(&room->count), count + 2); /* as above */
    (void)sf_room_listen(w);
    sf_unjoin(r);
    CHECK_EQ(sf_load_relaxed(&room->count), count + 3); /* as above */
    sf_attachment_unref(r);
    close_topic(w);
}

TEST(nobody_waits_for_himself)
{
    struct sf_attachment *w = open_topic(DEPTH, DEPTH), *r = attach("t", SF_AS_READER);
    CHECK_EQ(join(w, NULL, SF_OLDEST, true), 0);
    CHECK_EQ(write_now(w), SF_OWN_LAG);
    CHECK_EQ(join(r, NULL, SF_OLDEST, true), 0);
    CHECK_EQ(write_now(w), SF_LAGGING); /* the other one too */
    CHECK_EQ(sf_seek(r, DEPTH + 1, SF_TRY), 0);
    CHECK_EQ(write_now(w), SF_OWN_LAG);
    CHECK_EQ(next_of(w), 1);
    CHECK_EQ(write_now(w), 0);
    sf_attachment_unref(r);
    close_topic(w);
}

/* What it asked for had no room in main, nor in the lane: it was first in line, and does not wait. */
TEST(who_waits_for_nobody_gives_up_its_turn_for_the_lane)
{
    static char data[8192];
    struct sf_attachment *w = open_topic(0, 0);
    CHECK_EQ(join(w, NULL, SF_OLDEST, true), 0);
    uint64_t len = sizeof data;
    struct sf_out out = out_of(data, len, &len);
    struct sf_claim claim;
    int status = 0;
    for (int i = 0; i < 100 && status == 0; i++) {
        uint64_t seq;
        status = sf_send_claim(w, len, SF_LANE_IN_TURN, SF_TRY, &claim);
        if (status == 0) {
            REQUIRE_EQ(sf_send_publish(w, &out, &claim, SF_TRY, &seq), 0);
        }
    }
    CHECK_EQ(status, SF_OWN_LAG);
    CHECK_EQ(sf_load_relaxed(&w->ring.header->turn), 0); /* one thread */
    close_topic(w);
}

/* ---- groups ---- */

TEST(members_take_each_message_once_and_the_group_goes_on_without_them)
{
    struct sf_attachment *w = open_topic(DEPTH, 5), *a, *b;
    join_two(&a, &b, SF_NEW, false); /* the group is there already, and stands at 1 */
    for (uint64_t seq = 1; seq <= 4; seq++) {
        CHECK_EQ(next_of(seq % 2 ? a : b), seq);
    }
    CHECK_EQ(sf_load_relaxed(&w->ring.slots[a->slot].taken), 2); /* one thread */
    CHECK_EQ(sf_load_relaxed(&w->ring.slots[b->slot].taken), 2); /* as above */
    sf_unjoin(a);
    sf_unjoin(b);
    sf_attachment_unref(a);
    sf_attachment_unref(b);
    a = attach("t", SF_AS_READER);
    CHECK_EQ(join(a, "g", SF_OLDEST, true), 0); /* of another policy: nobody is there to mind */
    CHECK_EQ(next_of(a), 5);
    CHECK_EQ(next_of(a), 0);
    sf_attachment_unref(a);
    close_topic(w);
}

/* Two that looked at the same message: one gets it. */
TEST(a_message_that_two_members_found_goes_to_one)
{
    struct sf_attachment *w = open_topic(DEPTH, 2), *a, *b;
    struct sf_message ma, mb;
    uint64_t from_a, from_b;
    join_two(&a, &b, SF_OLDEST, true);
    CHECK_EQ(sf_take_look(a, false, &from_a, &ma), 0);
    CHECK_EQ(sf_take_look(b, false, &from_b, &mb), 0);
    CHECK_EQ(ma.seq, mb.seq);
    CHECK(sf_take_commit(b, from_b, &mb));
    CHECK(!sf_take_commit(a, from_a, &ma));
    CHECK_EQ(next_of(a), 2);
    sf_attachment_unref(a);
    sf_attachment_unref(b);
    close_topic(w);
}

TEST(a_group_has_one_policy_while_it_has_members)
{
    struct sf_attachment *w = open_topic(DEPTH, 2);
    struct sf_attachment *a = attach("t", SF_AS_READER), *b = attach("t", SF_AS_READER);
    CHECK_EQ(join(a, "g", SF_OLDEST, true), 0);
    CHECK_EQ(join(b, "g", SF_OLDEST, false), SF_GROUP_POLICY);
    CHECK(b->group == 0 && !b->lossless);
    sf_unjoin(a);
    CHECK_EQ(join(b, "g", SF_OLDEST, false), 0);
    struct sf_attachment *c = attach("t", SF_AS_READER);
    CHECK_EQ(join(c, "g", SF_OLDEST, true), SF_GROUP_POLICY);
    write_some(w, 3 * DEPTH); /* a lossy one protects nothing */
    sf_attachment_unref(a);
    sf_attachment_unref(b);
    sf_attachment_unref(c);
    close_topic(w);
}

TEST(as_many_groups_as_there_are_places_and_those_without_members_are_given_away)
{
    struct sf_attachment *w = open_topic(DEPTH, 2), *all[SF_GROUPS], *late;
    char name[SF_MAX_GROUP_NAME + 1];
    for (uint32_t i = 0; i < SF_GROUPS; i++) {
        all[i] = attach("t", SF_AS_READER);
        memset(name, 'n', sizeof name);
        name[i == 0 ? SF_MAX_GROUP_NAME : i] =
            0; /* beginnings of each other, one as long as can be */
        CHECK_EQ(join(all[i], name, SF_OLDEST, true), 0);
        CHECK_EQ(all[i]->group, i + 1);
    }
    late = attach("t", SF_AS_READER);
    CHECK_EQ(join(late, "late", SF_OLDEST, false), SF_NO_GROUP);
    CHECK_EQ(join(late, "nnnn", SF_OLDEST, true), 0);
    CHECK_EQ(late->group, 5);
    sf_unjoin(late);
    sf_attachment_unref(late);
    sf_attachment_unref(all[9]);
    all[9] = late = attach("t", SF_AS_READER);
    CHECK_EQ(join(late, "late", SF_NEW, false), 0);
    CHECK_EQ(late->group, 10);
    CHECK_EQ(cursor_of(late), 3); /* nothing of the one before */
    CHECK_STR(late->ring.groups[9].name, "late");
    for (uint32_t i = 0; i < SF_GROUPS; i++) {
        sf_attachment_unref(all[i]);
    }
    close_topic(w);
}

/* Another thread's read or seek may be under way when a Topic is closed. */
TEST(the_place_of_a_group_stays_its_own_until_the_last_call_of_a_member_is_over)
{
    struct sf_attachment *w = open_topic(DEPTH, 3), *all[SF_GROUPS], *late;
    char name[8];
    for (uint32_t i = 0; i < SF_GROUPS; i++) {
        snprintf(name, sizeof name, "g%u", i);
        all[i] = attach("t", SF_AS_READER);
        REQUIRE_EQ(join(all[i], name, SF_OLDEST, false), 0);
    }
    struct sf_message m = {.seq = 0};
    uint64_t from;
    REQUIRE_EQ(sf_take_look(all[5], false, &from, &m), 0);
    sf_unjoin(all[5]);
    late = attach("t", SF_AS_READER);
    CHECK_EQ(join(late, "late", SF_OLDEST, true), SF_NO_GROUP);
    CHECK(sf_take_commit(all[5], from, &m));
    CHECK_EQ(join(late, "g5", SF_OLDEST, true), 0); /* of another policy: nobody is there to mind */
    CHECK_EQ(cursor_of(late), 2);
    sf_attachment_unref(late);
    sf_attachment_unref(all[5]);
    late = attach("t", SF_AS_READER);
    CHECK_EQ(join(late, "late", SF_OLDEST, true), 0);
    CHECK_EQ(cursor_of(late), 1);
    all[5] = late;
    for (uint32_t i = 0; i < SF_GROUPS; i++) {
        sf_attachment_unref(all[i]);
    }
    close_topic(w);
}

static void
join_and_stay(void *context)
{
    struct stage *stage = context;
    struct sf_attachment *att = attach("t", SF_AS_READER);
    CHECK_EQ(join(att, "g", SF_OLDEST, true), 0);
    sf_store_seq(&stage->word[0], 1);
    for (;;) {
        pause();
    }
}

TEST(a_member_that_died_minds_nothing_and_protects_nothing)
{
    struct sf_attachment *w = open_topic(DEPTH, DEPTH), *r = attach("t", SF_AS_READER);
    struct stage *stage = stage_make();
    pid_t pid = child(join_and_stay, stage);
    CHECK(EVENTUALLY(sf_load_seq(&stage->word[0]) == 1));
    CHECK_EQ(write_now(w), SF_LAGGING);
    CHECK_EQ(join(r, "g", SF_OLDEST, false), SF_GROUP_POLICY);
    kill_child(pid);
    CHECK_EQ(write_now(w), SF_LAGGING); /* until somebody looks */
    CHECK_EQ(join(r, "g", SF_OLDEST, false), 0);
    CHECK_EQ(write_now(w), 0);
    stage_drop(stage);
    sf_attachment_unref(r);
    close_topic(w);
}

/* Where all slots are taken, who attaches cleans a dead one's by taking it over. */
TEST(who_takes_a_dead_readers_slot_over_tells_writers_that_wait)
{
    struct sf_attachment *w = open_topic(DEPTH, DEPTH), *all[SF_MAX_PARTICIPANTS];
    struct stage *stage = stage_make();
    uint32_t count = 0;
    while (count < w->ring.lay.max_participants - 2) {
        all[count++] = attach("t", SF_AS_READER);
    }
    pid_t pid = child(join_and_stay, stage);
    CHECK(EVENTUALLY(sf_load_seq(&stage->word[0]) == 1));
    kill_child(pid);
    uint32_t rung = sf_room_listen(w);
    CHECK_EQ(write_now(w), SF_LAGGING);
    all[count++] = attach("t", SF_AS_READER);
    CHECK_EQ(sf_load_relaxed(&w->ring.header->room.count), rung + 1); /* one thread */
    CHECK_EQ(write_now(w), 0);
    while (count > 0) {
        sf_attachment_unref(all[--count]);
    }
    stage_drop(stage);
    close_topic(w);
}

TEST(a_writer_that_waits_for_a_dead_reader_goes_on_in_the_same_call)
{
    char data[LEN] = {0};
    struct sf_attachment *w = open_topic(DEPTH, DEPTH);
    struct stage *stage = stage_make();
    pid_t pid = child(join_and_stay, stage);
    CHECK(EVENTUALLY(sf_load_seq(&stage->word[0]) == 1));
    CHECK_EQ(write_now(w), SF_LAGGING);
    kill_child(pid);
    CHECK_EQ(send_bytes(w, data, LEN, 1), DEPTH + 1);
    stage_drop(stage);
    close_topic(w);
}
