/* wait.c: who sleeps is woken, by whatever is news; and nobody sleeps longer than a slice. */
#include "scratch.h"

struct sleeper {
    struct sf_attachment *att;
    _Atomic uint32_t closed;
    _Atomic uint32_t is_about_to_sleep;
    int64_t spin_ns;
    int answer;
    uint64_t rounds;
    pthread_t thread;
};

static void *
sleep_for_news(void *context)
{
    struct sleeper *s = context;
    uint64_t until = SECONDS(20), cursor = sf_load_relaxed(s->att->cursor);
    sf_store_seq(&s->is_about_to_sleep, 1);
    do {
        s->answer = sf_wait_message(s->att, cursor, until, s->spin_ns, &s->closed);
        s->rounds++;
    } while (s->answer == SF_EMPTY && os_now_ns() < until);
    return NULL;
}

static void
start(struct sleeper *s, struct sf_attachment *att)
{
    s->att = att;
    REQUIRE(pthread_create(&s->thread, NULL, sleep_for_news, s) == 0);
    CHECK(EVENTUALLY(sf_load_seq(&s->is_about_to_sleep) != 0));
    if (!att->monitor) {
        CHECK(EVENTUALLY(sf_load_seq(&att->ring.header->bell.sleepers) != 0));
    }
    nap_ms(5);
}

TEST(what_is_there_already_is_not_waited_for)
{
    struct sf_attachment *att = create_and_attach("there", 1 << 16, 4);
    CHECK_EQ(send_bytes(att, "x", 1, 1), 1);
    CHECK_EQ(sf_wait_message(att, 1, 0, -1, NULL), 0);
    CHECK_EQ(sf_wait_message(att, 2, 0, -1, NULL), SF_EMPTY);
    CHECK_EQ(sf_shutdown(att, SECONDS(20)), 0);
    CHECK_EQ(sf_wait_message(att, 2, 0, -1, NULL), 0);
    sf_attachment_unref(att);
    remove_topic("there");
}

TEST(a_sleeping_reader_is_woken_by_a_message)
{
    struct sf_attachment *att = create_and_attach("woken", 1 << 16, 4);
    for (uint64_t i = 1; i <= 20; i++) {
        struct sleeper s = {.spin_ns = i % 2 ? 0 : -1};
        sf_subscribe(att, SF_NEW);
        start(&s, att);
        CHECK_EQ(send_bytes(att, "x", 1, 1), i);
        pthread_join(s.thread, NULL);
        CHECK_EQ(s.answer, 0);
        CHECK_EQ(sf_load_seq(&att->ring.header->bell.sleepers), 0);
    }
    sf_attachment_unref(att);
    remove_topic("woken");
}

static void
shut_down(struct sleeper *s)
{
    CHECK_EQ(sf_shutdown(s->att, SECONDS(20)), 0);
}

static void
remove_it(struct sleeper *s)
{
    CHECK_EQ(sf_segment_remove(s->att->path, NULL, SF_ALWAYS), 0);
}

static void
take_its_name(struct sleeper *s)
{
    CHECK_EQ(unlink(s->att->path), 0);
}

static void
close_it(struct sleeper *s)
{
    sf_store_seq(&s->closed, 1);
    sf_bell_ring(&s->att->ring.header->bell);
}

TEST(a_sleeping_reader_is_woken_by_every_kind_of_end)
{
    static void (*const ends[])(struct sleeper *) = {shut_down, remove_it, take_its_name, close_it};
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        struct sf_attachment *att = create_and_attach("end", 1 << 16, 4);
        struct sleeper s = {.spin_ns = 0};
        sf_subscribe(att, SF_NEW);
        start(&s, att);
        ends[i](&s);
        pthread_join(s.thread, NULL);
        CHECK_EQ(s.answer, 0);
        uint32_t ended = sf_load_seq(&att->ring.header->ended);
        CHECK_EQ(ended, i == 0 ? SF_SHUTDOWN : i == 3 ? 0 : SF_UNLINKED);
        sf_attachment_unref(att);
        (void)sf_segment_remove(path_of("end"), NULL, SF_ALWAYS);
    }
}

TEST(many_sleepers_wake_at_one_ring)
{
    enum { SLEEPERS = 8 };
    struct sleeper s[SLEEPERS];
    struct sf_attachment *att = create_and_attach("many", 1 << 16, 4);
    memset((void *)s, 0, sizeof s);
    sf_subscribe(att, SF_NEW);
    for (int i = 0; i < SLEEPERS; i++) {
        start(&s[i], att);
    }
    CHECK_EQ(send_bytes(att, "x", 1, 1), 1);
    for (int i = 0; i < SLEEPERS; i++) {
        pthread_join(s[i].thread, NULL);
        CHECK_EQ(s[i].answer, 0);
    }
    sf_attachment_unref(att);
    remove_topic("many");
}

TEST(no_sleep_is_longer_than_a_slice)
{
    struct sf_attachment *att = create_and_attach("slices", 1 << 16, 4);
    struct sf_attachment *monitor = attach("slices", SF_AS_MONITOR);
    struct sf_attachment *both[2] = {att, monitor};
    for (int i = 0; i < 2; i++) {
        uint64_t begin = os_now_ns();
        CHECK_EQ(sf_wait_message(both[i], 1, SECONDS(20), 0, NULL), SF_EMPTY);
        uint64_t took = os_now_ns() - begin;
        CHECK(took >= SF_SLICE_NS && took < 5000000000);
        begin = os_now_ns();
        CHECK_EQ(sf_wait_message(both[i], 1, SECONDS(0.01), 0, NULL), SF_EMPTY);
        CHECK(os_now_ns() - begin >= 10000000);
    }
    sf_attachment_unref(monitor);
    sf_attachment_unref(att);
    remove_topic("slices");
}

TEST(a_monitor_naps_and_finds_the_message)
{
    struct sf_attachment *att = create_and_attach("nap", 1 << 16, 4);
    struct sleeper s = {.spin_ns = 0};
    struct sf_attachment *monitor = attach("nap", SF_AS_MONITOR);
    sf_subscribe(monitor, SF_NEW);
    start(&s, monitor);
    CHECK_EQ(sf_load_seq(&att->ring.header->bell.sleepers), 0); /* it may not ask to be woken */
    CHECK_EQ(send_bytes(att, "x", 1, 1), 1);
    pthread_join(s.thread, NULL);
    CHECK_EQ(s.answer, 0);
    sf_attachment_unref(monitor);
    sf_attachment_unref(att);
    remove_topic("nap");
}

TEST(the_bells_count_may_wrap)
{
    struct sf_attachment *att = create_and_attach("wrap", 1 << 16, 4);
    sf_store_seq(&att->ring.header->bell.count, UINT32_MAX - 1);
    for (uint64_t i = 1; i <= 4; i++) {
        struct sleeper s = {.spin_ns = 0};
        sf_subscribe(att, SF_NEW);
        start(&s, att);
        CHECK_EQ(send_bytes(att, "x", 1, 1), i);
        pthread_join(s.thread, NULL);
        CHECK_EQ(s.answer, 0);
    }
    CHECK_EQ(sf_load_seq(&att->ring.header->bell.count), 2);
    sf_attachment_unref(att);
    remove_topic("wrap");
}

static void
do_nothing(int number)
{
    (void)number;
}

TEST(a_signal_ends_a_sleep)
{
    struct sf_attachment *att = create_and_attach("signal", 1 << 16, 4);
    struct sigaction action = {.sa_handler = do_nothing}, was;
    sigaction(SIGUSR1, &action, &was);
    for (int i = 0; i < 2; i++) {
        struct sf_attachment *one = i == 0 ? att : attach("signal", SF_AS_MONITOR);
        sf_subscribe(one, SF_NEW);
        struct sleeper s = {.spin_ns = 0};
        start(&s, one);
        /* A signal that comes between two sleeps is missed: so until one hits. */
        struct timespec soon = {0, 20000000}, at;
        do {
            pthread_kill(s.thread, SIGUSR1);
            clock_gettime(CLOCK_REALTIME, &at);
            at.tv_nsec += soon.tv_nsec;
            at.tv_sec += at.tv_nsec / 1000000000;
            at.tv_nsec %= 1000000000;
        } while (pthread_timedjoin_np(s.thread, NULL, &at) != 0);
        CHECK_EQ(s.answer, SF_INTERRUPTED);
        if (one != att) {
            sf_attachment_unref(one);
        }
    }
    sigaction(SIGUSR1, &was, NULL);
    sf_attachment_unref(att);
    remove_topic("signal");
}

/* ---- no wake is lost ---- */

enum { TURNS = 100000 };

struct player {
    struct sf_attachment *att;
    uint64_t first; /* whose turn: sends numbers first, first + 2, … */
    int64_t spin_ns;
    uint64_t slow; /* waits that took a whole slice */
};

static void *
play(void *context)
{
    struct player *player = context;
    for (uint64_t seq = player->first; seq <= TURNS; seq += 2) {
        while (sf_load_seq(&player->att->ring.header->head) < seq - 1) {
            uint64_t begin = os_now_ns();
            int status = sf_wait_message(player->att, seq - 1, SECONDS(20), player->spin_ns, NULL);
            CHECK(status == 0 || status == SF_EMPTY);
            player->slow += os_now_ns() - begin >= SF_SLICE_NS * 9 / 10;
        }
        CHECK_EQ(send_bytes(player->att, &seq, sizeof seq, seq), seq);
    }
    return NULL;
}

static void
ping_pong(int64_t spin_ns)
{
    struct player players[2] = {
        {create_and_attach("pong", 1 << 16, 4), 1, spin_ns, 0},
        {attach("pong", SF_AS_WRITER), 2, spin_ns, 0},
    };
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, play, &players[1]) == 0);
    play(&players[0]);
    pthread_join(thread, NULL);
    CHECK_EQ(sf_load_seq(&players[0].att->ring.header->head), TURNS);
    /* A lost wake costs its sleeper a slice; a busy machine may cost one now and then too. */
    CHECK(players[0].slow + players[1].slow <= TURNS / 5000);
    sf_attachment_unref(players[0].att);
    sf_attachment_unref(players[1].att);
    remove_topic("pong");
}

TEST(no_wake_is_lost_when_each_turn_sleeps)
{
    ping_pong(0);
}

TEST(no_wake_is_lost_when_turns_spin_first)
{
    ping_pong(-1);
}

/* ---- many topics, one sleep ---- */

enum { TOPICS = 3 };

static const char *const names[TOPICS] = {"one", "two", "three"};

struct many {
    struct sf_attachment *att[TOPICS];
    unsigned count;
    int answer;
    pthread_t thread;
};

static void *
sleep_for_any(void *context)
{
    struct many *m = context;
    struct sf_waited waited[TOPICS];
    uint64_t until = SECONDS(20);
    for (unsigned i = 0; i < m->count; i++) {
        waited[i] = (struct sf_waited){
            .att = m->att[i],
            .seq = sf_load_seq(&m->att[i]->ring.header->head) + 1,
        };
    }
    do {
        m->answer = sf_wait_any(waited, m->count, until);
    } while (m->answer == SF_EMPTY && os_now_ns() < until);
    return NULL;
}

static void
open_many(struct many *m, unsigned count)
{
    m->count = count;
    for (unsigned i = 0; i < count; i++) {
        m->att[i] = create_and_attach(names[i], 1 << 16, 4);
    }
}

static void
start_many(struct many *m)
{
    REQUIRE(pthread_create(&m->thread, NULL, sleep_for_any, m) == 0);
    for (unsigned i = 0; i < m->count; i++) {
        CHECK(EVENTUALLY(sf_load_seq(&m->att[i]->ring.header->bell.sleepers) != 0));
    }
    nap_ms(5);
}

static void
close_many(struct many *m)
{
    for (unsigned i = 0; i < m->count; i++) {
        sf_attachment_unref(m->att[i]);
        remove_topic(names[i]);
    }
}

TEST(who_sleeps_for_many_is_woken_by_each)
{
    struct many m;
    open_many(&m, TOPICS);
    for (unsigned turn = 0; turn < 4 * TOPICS; turn++) {
        struct sf_attachment *att = m.att[turn % TOPICS];
        start_many(&m);
        CHECK(send_bytes(att, "x", 1, 1) > 0);
        pthread_join(m.thread, NULL);
        CHECK_EQ(m.answer, 0);
        CHECK_EQ(sf_load_seq(&att->ring.header->bell.sleepers), 0);
    }
    close_many(&m);
}

TEST(a_signal_ends_a_sleep_for_many)
{
    struct sigaction action = {.sa_handler = do_nothing}, was;
    sigaction(SIGUSR1, &action, &was);
    for (unsigned count = 1; count <= TOPICS; count++) {
        struct many m;
        struct timespec at;
        open_many(&m, count);
        start_many(&m);
        do { /* as above: until one hits */
            pthread_kill(m.thread, SIGUSR1);
            clock_gettime(CLOCK_REALTIME, &at);
            at.tv_nsec += 20000000;
            at.tv_sec += at.tv_nsec / 1000000000;
            at.tv_nsec %= 1000000000;
        } while (pthread_timedjoin_np(m.thread, NULL, &at) != 0);
        CHECK_EQ(m.answer, SF_INTERRUPTED);
        close_many(&m);
    }
    sigaction(SIGUSR1, &was, NULL);
}

/* ---- room ---- */

struct claimer {
    struct sf_attachment *att;
    struct sf_claim claim;
    int answer;
};

static void *
claim_in_thread(void *context)
{
    struct claimer *c = context;
    c->answer = sf_send_claim(c->att, 4096, true, SECONDS(20), &c->claim);
    return NULL;
}

TEST(a_writer_that_waits_for_room_is_woken_by_a_drop)
{
    struct sf_attachment *att = create_and_attach("room", 4096, 4);
    struct sf_claim main_claim, lane_claim;
    CHECK_EQ(sf_send_claim(att, 4096, true, SECONDS(20), &main_claim), 0);
    CHECK_EQ(sf_send_claim(att, att->ring.lay.lane_len, true, SECONDS(20), &lane_claim), 0);
    CHECK(lane_claim.in_lane && !main_claim.in_lane);
    struct claimer c = {.att = att};
    CHECK_EQ(sf_send_claim(att, 4096, true, SF_TRY, &c.claim), SF_NO_ROOM);
    CHECK_EQ(sf_send_claim(att, 4096, true, SECONDS(0.15), &c.claim), SF_NO_ROOM);
    sf_give_up_turn(&att->ring, att->owner);
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, claim_in_thread, &c) == 0);
    CHECK(EVENTUALLY(sf_load_seq(&att->ring.header->room.sleepers) != 0));
    sf_send_drop(att, &lane_claim);
    pthread_join(thread, NULL);
    CHECK_EQ(c.answer, 0);
    CHECK(c.claim.in_lane);
    sf_attachment_unref(att);
    remove_topic("room");
}
