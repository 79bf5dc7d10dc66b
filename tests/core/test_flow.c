/* flow.c: everything together, over processes: no message is torn, out of order or unaccounted
 * for, while readers hold, copy and fall behind, and also while writers are killed. */
#include "scratch.h"

enum { WRITERS = 2, READERS = 2, MOST = 256 * 1024, RUN_MS = 1800 };

struct run {
    struct stage *stage; /* number[w]: what writer w has sent; word[0]: stop; word[1…]: attached */
    const char *name;
    int who;
    bool by_view;
};

static uint64_t
next_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return *state >> 33;
}

static uint64_t
word_of(uint64_t stamp, uint64_t at)
{
    return stamp * UINT64_C(0x9e3779b97f4a7c15) + at;
}

/* Half of them small, a few of the largest: 8 bytes to MOST. */
static uint64_t
pick_words(uint64_t *state)
{
    uint64_t most = UINT64_C(1) << next_random(state) % 16;
    return 1 + next_random(state) % most;
}

static void
write_messages(void *context)
{
    struct run *run = context;
    static uint64_t words[MOST / 8];
    struct sf_attachment *att = attach(run->name, SF_AS_WRITER);
    uint64_t state = (uint64_t)run->who + 1, sent = 0;
    sf_store_seq(&run->stage->word[1 + run->who], 1);
    while (sf_load_seq(&run->stage->word[0]) == 0) {
        uint64_t stamp = (uint64_t)(run->who + 1) << 48 | ++sent;
        uint64_t count = pick_words(&state);
        for (uint64_t i = 0; i < count; i++) {
            words[i] = word_of(stamp, i);
        }
        CHECK(send_bytes(att, words, count * 8, stamp) > 0);
        sf_store_seq(&run->stage->number[run->who], sent);
    }
    sf_attachment_unref(att);
}

static bool
is_whole(const uint64_t *words, const struct sf_message *m)
{
    for (uint64_t i = 0; i < m->payload_len / 8; i++) {
        if (words[i] != word_of(m->stamp_ns, i)) {
            return false;
        }
    }
    return m->shape[0] == m->payload_len && m->payload_len % 8 == 0;
}

struct account {
    uint64_t read, lost, views, copies;
    uint64_t last_seq, last_of[16];
};

static void
take_into_account(struct account *account, const struct sf_message *m)
{
    uint64_t writer = m->stamp_ns >> 48, number = m->stamp_ns & 0xffffffffffff;
    CHECK(writer >= 1 && writer <= 15);
    CHECK_EQ(m->seq, account->last_seq + m->lost + 1); /* exactly those are lost */
    CHECK(number > account->last_of[writer & 15]); /* each writer's own order */
    account->last_of[writer & 15] = number;
    account->last_seq = m->seq;
    account->read++;
    account->lost += m->lost;
}

/* One message by view or copy. 0, SF_RACE when it went while we copied, or look's status. */
static int
take_one(struct sf_attachment *att, bool by_view, struct account *account)
{
    static uint64_t copy[MOST / 8];
    struct sf_message m;
    uint64_t from;
    int status = sf_take_look(att, false, &from, &m);
    if (status < 0) {
        return status;
    }
    if (by_view && m.pinnable) {
        enum sf_pin_answer answer = sf_pin(att, &m, false);
        CHECK_NE(answer, SF_PIN_CAP);
        if (answer != SF_PIN_OK) {
            return SF_RACE;
        }
        CHECK(is_whole((const void *)sf_message_payload(att, &m), &m));
        os_yield();
        CHECK(is_whole((const void *)sf_message_payload(att, &m), &m));
        CHECK(sf_take_commit(att, from, &m));
        take_into_account(account, &m);
        account->views++;
        sf_unpin(att, m.desc);
        return 0;
    }
    REQUIRE(m.payload_len <= sizeof copy);
    memcpy(copy, sf_message_payload(att, &m), m.payload_len);
    if (!sf_is_current(&att->ring, &m)) {
        return SF_RACE;
    }
    CHECK(is_whole(copy, &m));
    CHECK(sf_take_commit(att, from, &m));
    take_into_account(account, &m);
    account->copies++;
    return 0;
}

static void
read_messages(void *context)
{
    struct run *run = context;
    struct sf_attachment *att = attach(run->name, SF_AS_READER);
    struct account account;
    memset(&account, 0, sizeof account);
    sf_resubscribe(att, 1);
    sf_store_seq(&run->stage->word[1 + run->who], 1);
    for (;;) {
        int status = take_one(att, run->by_view, &account);
        if (status == SF_ENDED) {
            break;
        }
        if (status == SF_EMPTY) {
            status = sf_wait_message(att, account.last_seq + 1, SECONDS(20), -1, NULL);
        }
        CHECK(status == 0 || status == SF_RACE || status == SF_EMPTY);
        if (next_random(&account.last_of[0]) % 4096 == 0) {
            nap_ms(3); /* falls behind */
        }
        if (check_failures > 20) {
            break;
        }
    }
    /* Everything that was ever published is read or lost, and the participant says the same. */
    CHECK_EQ(account.last_seq, sf_load_seq(&att->ring.header->head));
    CHECK_EQ(account.read + account.lost, account.last_seq);
    CHECK_EQ(sf_load_relaxed(&att->ring.slots[att->slot].lost), account.lost);
    CHECK_EQ(sf_load_relaxed(&att->ring.slots[att->slot].skipped), 0);
    CHECK(account.read > 10);
    CHECK_EQ(att->held_blocks, 0);
    CHECK(run->by_view ? account.views > 0 : account.views == 0);
    sf_store_seq(&run->stage->number[run->who], account.read);
    if (getenv("CHECK_VERBOSE") != NULL) {
        printf("read %llu (%llu views), lost %llu\n", (unsigned long long)account.read,
               (unsigned long long)account.views, (unsigned long long)account.lost);
        fflush(stdout);
    }
    sf_attachment_unref(att);
}

static void
check_nothing_is_left(struct sf_attachment *att)
{
    CHECK_EQ(sf_count_others(att), 0);
    CHECK_EQ(sf_load_relaxed(&att->ring.header->lock), 0);
    for (uint32_t desc = 0; desc < att->ring.lay.desc_len; desc++) {
        CHECK(!sf_is_held(&att->ring, desc));
    }
}

static void
two_write_and_two_read(const char *name, uint64_t capacity, uint64_t depth)
{
    struct run runs[WRITERS + READERS];
    pid_t pids[WRITERS + READERS];
    struct stage *stage = stage_make();
    REQUIRE_EQ(create(name, capacity, MOST, depth), 0);
    struct sf_attachment *att = attach(name, SF_AS_WRITER);
    for (int i = READERS + WRITERS - 1; i >= 0; i--) { /* readers first */
        runs[i] = (struct run){stage, name, i, i % 2 == 0};
        pids[i] = child(i < WRITERS ? write_messages : read_messages, &runs[i]);
        CHECK(EVENTUALLY(sf_load_seq(&stage->word[1 + i]) != 0));
    }
    nap_ms(RUN_MS);
    sf_store_seq(&stage->word[0], 1);
    uint64_t sent = 0;
    for (int i = 0; i < WRITERS; i++) {
        CHECK_EQ(await(pids[i]), 0);
        sent += sf_load_seq(&stage->number[i]);
    }
    CHECK_EQ(sf_load_seq(&att->ring.header->head), sent);
    CHECK_EQ(sf_shutdown(att, SECONDS(20)), 0);
    CHECK_EQ(send_bytes(att, "late", 4, 1), SF_ENDED);
    for (int i = WRITERS; i < WRITERS + READERS; i++) {
        CHECK_EQ(await(pids[i]), 0);
    }
    CHECK_EQ(sf_load_relaxed(&att->ring.header->rebuilds), 1);
    check_nothing_is_left(att);
    sf_attachment_unref(att);
    remove_topic(name);
    stage_drop(stage);
}

TEST(two_writers_and_two_readers_agree_on_every_message)
{
    if (check_is_emulated()) {
        return; /* qemu lets a load pass an earlier seq_cst store (STLR, LDAR): C breaks there */
    }
    two_write_and_two_read("wide", 4 << 20, 0);
}

TEST(a_ring_that_is_barely_large_enough_tears_nothing)
{
    if (check_is_emulated()) {
        return; /* qemu lets a load pass an earlier seq_cst store (STLR, LDAR): C breaks there */
    }
    two_write_and_two_read("narrow", 512 << 10, 3);
}

TEST(an_attachment_sends_and_takes_in_one_process)
{
    struct sf_attachment *att = create_and_attach("self", 1 << 20, 16);
    struct sf_message m;
    uint64_t from;
    sf_subscribe(att, SF_OLDEST);
    CHECK_EQ(take(att, &m), SF_EMPTY);
    for (uint64_t i = 1; i <= 100; i++) {
        CHECK_EQ(send_bytes(att, "hello", 5, i), i);
        CHECK_EQ(sf_take_look(att, false, &from, &m), 0);
        CHECK(sf_take_commit(att, from, &m));
        CHECK(!sf_take_commit(att, from, &m)); /* once only */
        CHECK_EQ(m.stamp_ns, i);
        CHECK_MEM(sf_message_payload(att, &m), "hello", 5);
    }
    for (uint64_t i = 1; i <= 20; i++) {
        CHECK(send_bytes(att, "hello", 5, i) > 0);
    }
    CHECK_EQ(sf_take_look(att, true, &from, &m), 0);
    CHECK(sf_take_commit(att, from, &m));
    CHECK_EQ(m.seq, 120);
    CHECK_EQ(m.lost, 4);
    CHECK_EQ(m.skipped, 15);
    CHECK_EQ(sf_shutdown(att, SECONDS(20)), 0);
    CHECK_EQ(take(att, &m), SF_ENDED);
    sf_attachment_unref(att);
    remove_topic("self");
}

TEST(who_loses_a_race_for_the_oldest_goes_on_further_and_tells_what_was_passed)
{
    struct sf_attachment *att = create_and_attach("race", 1 << 20, 16);
    struct sf_message m;
    uint64_t from;
    sf_subscribe(att, SF_OLDEST);
    for (uint64_t i = 1; i <= 40; i++) {
        CHECK_EQ(send_bytes(att, "hello", 5, i), i);
    }
    CHECK_EQ(sf_take_look(att, false, &from, &m), 0);
    CHECK_EQ(m.seq, 25); /* overtaken, and yet given the oldest */
    CHECK_EQ(m.lost, 24);
    CHECK_EQ(send_bytes(att, "hello", 5, 41), 41);
    CHECK(!sf_is_current(&att->ring, &m));
    sf_take_raced(att, &m);
    CHECK_EQ(sf_take_look(att, false, &from, &m), 0);
    CHECK_EQ(m.seq, 28); /* 26 is the oldest, 16 are retained */
    CHECK_EQ(m.lost, 27);
    CHECK(sf_take_commit(att, from, &m));
    CHECK_EQ(take(att, &m), 0);
    CHECK_EQ(m.seq, 29);
    CHECK_EQ(m.lost, 0);
    for (uint64_t i = 42; i <= 60; i++) {
        CHECK_EQ(send_bytes(att, "hello", 5, i), i);
    }
    CHECK_EQ(take(att, &m), 0);
    CHECK_EQ(m.seq, 45); /* overtaken again, but by no race */
    CHECK_EQ(m.lost, 15);
    struct sf_participant *p = &att->ring.slots[att->slot];
    CHECK_EQ(sf_load_relaxed(&p->lost), 42);
    sf_attachment_unref(att);
    remove_topic("race");
}

TEST(long_types_many_dimensions_and_meta_travel_before_the_payload)
{
    struct sf_attachment *att = create_and_attach("prefix", 1 << 20, 16);
    uint64_t shape[6] = {1, 2, 3, 4, 5, 6}, seq;
    struct sf_out out = {
        .data = "payload",
        .payload_len = 7,
        .shape = shape,
        .dtype = "[('a', '<f8'), ('b', '<i4')]",
        .dtype_len = 28,
        .ndim = 6,
        .meta = "{\"k\": 1}",
        .meta_len = 8,
        .fortran = true,
        .stamp_ns = 5,
        .stamped = true,
    };
    CHECK_EQ(sf_send_small(att, &out, SF_TRY, &seq), 0);
    struct sf_message m;
    sf_subscribe(att, SF_OLDEST);
    REQUIRE_EQ(take(att, &m), 0);
    CHECK_EQ(m.prefix_len, 128);
    CHECK(m.fortran && m.ndim == 6 && m.dtype_len == 28 && m.meta_len == 8);
    const char *prefix = sf_message_prefix(att, &m);
    CHECK_MEM(prefix, shape, sizeof shape);
    CHECK_MEM(prefix + sizeof shape, out.dtype, 28);
    CHECK_MEM(prefix + sizeof shape + 28, out.meta, 8);
    CHECK_MEM(sf_message_payload(att, &m), "payload", 7);
    sf_attachment_unref(att);
    remove_topic("prefix");
}

/* ---- with kills ---- */

/* A stamp for writer 15, this process; the next one every time. */
static void
send_as_the_survivor(struct sf_attachment *att, uint64_t number)
{
    uint64_t stamp = UINT64_C(15) << 48 | number, word = word_of(stamp, 0);
    CHECK(send_bytes(att, &word, sizeof word, stamp) > 0);
}

TEST(the_flow_goes_on_while_participants_are_killed)
{
    if (check_is_emulated()) {
        return; /* qemu lets a load pass an earlier seq_cst store (STLR, LDAR): C breaks there */
    }
    enum { LIVES = 40, AT_ONCE = 3 };
    struct stage *stage = stage_make();
    struct run reader = {stage, "kills", 13, true}, run;
    pid_t pids[AT_ONCE] = {0};
    uint64_t state = 99;
    REQUIRE_EQ(create("kills", 2 << 20, MOST, 0), 0);
    struct sf_attachment *att = attach("kills", SF_AS_WRITER);
    pid_t survivor = child(read_messages, &reader);
    for (int life = 0; life < LIVES; life++) {
        int at = life % AT_ONCE;
        if (pids[at] != 0) {
            kill_child(pids[at]);
        }
        /* Ten writers, each under a number of its own; the others hold what they read. */
        bool writes = life % 4 == 0;
        run = (struct run){stage, "kills", writes ? life / 4 : 14, true};
        pids[at] = child(writes ? write_messages : read_messages, &run);
        nap_ms((long)(5 + next_random(&state) % 40));
        send_as_the_survivor(att, (uint64_t)life + 1);
    }
    for (int at = 0; at < AT_ONCE; at++) {
        kill_child(pids[at]);
    }
    (void)sf_clean_dead(att);
    send_as_the_survivor(att, LIVES + 1);
    CHECK_EQ(sf_shutdown(att, SECONDS(20)), 0);
    CHECK_EQ(await(survivor), 0);
    CHECK_EQ(sf_clean_dead(att), 0);
    check_nothing_is_left(att);
    sf_attachment_unref(att);
    remove_topic("kills");
    stage_drop(stage);
}
