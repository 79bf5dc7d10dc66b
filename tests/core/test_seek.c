/* join.c: seeking, where readers start, and what tables that lie may say to both. */
#include "joined.h"

/* ---- seeking ---- */

TEST(seeking_moves_to_what_is_there_and_protects_it)
{
    struct sf_attachment *w = open_topic(DEPTH, 20), *r = attach("t", SF_AS_READER);
    CHECK_EQ(join(r, NULL, SF_NEW, true), 0);
    CHECK_EQ(sf_seek(r, 12, SF_TRY), SF_NOT_RETAINED);
    CHECK_EQ(sf_seek(r, 22, SF_TRY), SF_NOT_RETAINED);
    CHECK_EQ(sf_seek(r, 0, SF_TRY), SF_NOT_RETAINED);
    CHECK_EQ(sf_seek(r, UINT64_MAX, SF_TRY), SF_NOT_RETAINED);
    CHECK_EQ(cursor_of(r), 21);
    CHECK_EQ(sf_seek(r, 13, SF_TRY), 0);
    check_tables(w);
    CHECK_EQ(write_now(w), SF_LAGGING);
    CHECK_EQ(next_of(r), 13);
    CHECK_EQ(sf_seek(r, 21, SF_TRY), 0);
    CHECK_EQ(next_of(r), 0);
    write_some(w, DEPTH);
    CHECK_EQ(write_now(w), SF_LAGGING);
    struct sf_participant *p = &r->ring.slots[r->slot];
    uint64_t read = cursor_of(r) - sf_load_relaxed(&p->first); /* one thread */
    CHECK_EQ(read, 1);
    sf_attachment_unref(r);
    close_topic(w);
}

TEST(a_group_is_moved_as_a_whole)
{
    struct sf_attachment *w = open_topic(DEPTH, 6), *a, *b;
    join_two(&a, &b, SF_OLDEST, false);
    CHECK_EQ(sf_seek(a, 5, SF_TRY), 0);
    CHECK_EQ(next_of(b), 5);
    CHECK_EQ(sf_seek(b, 2, SF_TRY), 0);
    CHECK_EQ(next_of(a), 2);
    sf_attachment_unref(a);
    sf_attachment_unref(b);
    close_topic(w);
}

/* A loan that needed all of main, and was dropped. */
TEST(where_nothing_is_retained_every_place_is_the_next_to_come)
{
    struct sf_attachment *w = open_topic(0, 6), *r = attach("t", SF_AS_READER);
    struct sf_claim claim;
    CHECK_EQ(sf_send_claim(w, 1 << 16, SF_LANE_NEVER, SECONDS(10), &claim), 0);
    sf_send_drop(w, &claim);
    CHECK_EQ(sf_load_relaxed(&w->ring.header->tail), 7); /* one thread */
    for (enum sf_start start = SF_OLDEST; start <= SF_NEW; start++) {
        CHECK_EQ(sf_find_start(r, start), 7);
        CHECK_EQ(sf_seek(r, sf_find_start(r, start), SF_TRY), 0);
    }
    CHECK_EQ(sf_find_stamp(r, 1), 7);
    write_some(w, 1);
    struct sf_message m;
    CHECK_EQ(take(r, &m), 0);
    CHECK_EQ(m.seq, 7);
    CHECK_EQ(m.lost, 0);
    sf_attachment_unref(r);
    close_topic(w);
}

TEST(a_stamp_finds_the_first_message_that_is_not_older)
{
    char data[LEN] = {0};
    struct sf_attachment *w = create_and_attach("t", 1 << 16, DEPTH);
    CHECK_EQ(sf_find_stamp(w, 5), 1);
    for (uint64_t i = 1; i <= 12; i++) {
        CHECK_EQ(send_bytes(w, data, LEN, 100 * i), i);
    }
    CHECK_EQ(sf_find_stamp(w, 1), 5);
    CHECK_EQ(sf_find_stamp(w, 700), 7);
    CHECK_EQ(sf_find_stamp(w, 701), 8);
    CHECK_EQ(sf_find_stamp(w, 1201), 13);
    CHECK_EQ(sf_find_stamp(w, UINT64_MAX), 13);
    close_topic(w);
}

/* ---- words that lie ---- */

/* Everything that starts from the tables ends, and says a number or a status. */
static void
use_it(struct sf_attachment *att)
{
    struct sf_message m;
    uint64_t from;
    for (enum sf_start start = SF_OLDEST; start <= SF_NEW; start++) {
        CHECK_EQ(sf_seek(att, sf_find_start(att, start), SF_TRY), 0);
        (void)sf_take_look(att, false, &from, &m);
    }
    (void)sf_seek(att, sf_find_stamp(att, UINT64_MAX), SF_TRY);
    (void)sf_take_look(att, true, &from, &m);
}

TEST(a_head_or_a_tail_that_lies_ends_no_search_never)
{
    static const uint64_t lies[] = {
        0, 1, 7, 4000, UINT64_C(1) << 32, UINT64_C(1) << 63, UINT64_MAX - 1, UINT64_MAX};
    enum { COUNT = sizeof lies / sizeof lies[0] };
    struct sf_attachment *w = open_topic(DEPTH, 20), *r = attach("t", SF_AS_READER);
    struct sf_header *h = w->ring.header;
    for (int i = 0; i < COUNT * COUNT; i++) {
        sf_store_relaxed(&h->head, lies[i / COUNT]); /* one thread, here and below */
        sf_store_relaxed(&h->tail, lies[i % COUNT]); /* as above */
        use_it(r);
    }
    /* The last number of all, in a message that is there and old. */
    uint32_t last = w->ring.lay.index_len - 1;
    uint32_t desc = sf_load_relaxed(&w->ring.index[20 & last]); /* as above */
    sf_store_relaxed(&h->head, UINT64_MAX); /* as above */
    sf_store_relaxed(&w->ring.index[last], desc);
    sf_store_relaxed(&w->ring.descs[desc].seq, UINT64_MAX);
    use_it(r);
    sf_attachment_unref(r);
    sf_attachment_unref(w);
    remove_topic("t");
}

TEST(a_groups_words_that_lie_are_bounded)
{
    static const uint64_t cursors[] = {0, 1, 19, 25, UINT64_C(1) << 63, UINT64_MAX - 1, UINT64_MAX};
    struct sf_attachment *w = open_topic(DEPTH, 20), *r = attach("t", SF_AS_READER), *late;
    struct sf_message m;
    uint64_t from;
    CHECK_EQ(join(r, "g", SF_OLDEST, false), 0);
    for (size_t i = 0; i < sizeof cursors / sizeof cursors[0]; i++) {
        sf_store_relaxed(&w->ring.groups[0].cursor, cursors[i]); /* one thread, here and below */
        int status = sf_take_look(r, false, &from, &m);
        CHECK(status == 0 || status == SF_EMPTY);
        CHECK(status != 0 || (m.seq >= 13 && m.seq <= 20));
    }
    /* Names without an end, places that say they are used by nobody's kind of number. */
    for (uint32_t i = 0; i < SF_GROUPS; i++) {
        memset(w->ring.groups[i].name, 'x', sizeof w->ring.groups[i].name);
        sf_store_relaxed(&w->ring.groups[i].used, 0x80000000u + i); /* as above */
    }
    late = attach("t", SF_AS_READER);
    char longest[SF_MAX_GROUP_NAME + 1] = {0};
    memset(longest, 'x', SF_MAX_GROUP_NAME);
    CHECK_EQ(join(late, longest, SF_OLDEST, true), 0);
    CHECK_EQ(late->group, 2); /* the first that no slot names; r's it is not */
    sf_attachment_unref(late);
    /* A slot that names a group which there cannot be. */
    late = attach("t", SF_AS_READER);
    sf_store_relaxed(&w->ring.slots[late->slot].group, UINT32_MAX); /* as above */
    CHECK_EQ(join(late, "h", SF_OLDEST, true), 0);
    sf_store_relaxed(&w->ring.slots[late->slot].group, 0x7fffffff); /* as above */
    CHECK(take(late, &m) == 0 || sf_take_look(late, false, &from, &m) == SF_EMPTY);
    sf_unjoin(late);
    sf_attachment_unref(late);
    sf_attachment_unref(r);
    sf_attachment_unref(w);
    remove_topic("t");
}

/* Nobody is there who could read on, or die. */
TEST(a_policy_in_a_slot_that_is_free_stops_nobody)
{
    char data[LEN] = {0};
    struct sf_attachment *w = open_topic(DEPTH, DEPTH), *r;
    sf_store_relaxed(&w->ring.header->floor_seq, 0); /* one thread, here and below */
    sf_store_relaxed(&w->ring.slots[9].policy, SF_POLICY_LOSSLESS); /* as above */
    CHECK_EQ(write_now(w), SF_LAGGING);
    CHECK_EQ(send_bytes(w, data, LEN, 1), DEPTH + 1);
    for (uint32_t i = 0; i < SF_GROUPS; i++) {
        sf_store_relaxed(&w->ring.groups[i].used, 1); /* as above */
        sf_store_relaxed(&w->ring.slots[20 + i].group, i + 1);
    }
    r = attach("t", SF_AS_READER);
    CHECK_EQ(join(r, "g", SF_OLDEST, true), 0);
    sf_attachment_unref(r);
    close_topic(w);
}
