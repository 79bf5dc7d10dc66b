/* beacon.c: the descriptor is readable whenever something is unread, and becomes quiet again; its
 * thread ends with it, and a forked child has nothing of it but a number. */
#include "scratch.h"

#include "core/beacon.h"

#include <poll.h>

static bool
is_lit(int fd)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    return poll(&poll_fd, 1, 0) == 1;
}

static bool
becomes_lit(int fd)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    return poll(&poll_fd, 1, 20000) == 1;
}

/* Its cursor is the first message's, not 0. */
static struct sf_attachment *
create_and_subscribe(const char *name, uint64_t capacity, uint64_t depth)
{
    struct sf_attachment *att = create_and_attach(name, capacity, depth);
    sf_subscribe(att, SF_OLDEST);
    return att;
}

static struct sf_beacon *
make(const char *name, struct sf_attachment *att)
{
    static char path[512]; /* of one beacon at a time */
    struct sf_beacon *beacon = NULL;
    snprintf(path, sizeof path, "%s", path_of(name));
    REQUIRE_EQ(sf_beacon_make(path, att, &beacon), 0);
    return beacon;
}

static void
end_with_topic(struct sf_beacon *beacon, struct sf_attachment *att, const char *name)
{
    sf_beacon_end(beacon);
    sf_attachment_unref(att);
    remove_topic(name);
}

/* As a Topic does it; 0 or a status. */
static int
take_and_settle(struct sf_beacon *beacon, struct sf_attachment *att)
{
    struct sf_message message;
    int status = take(att, &message);
    sf_beacon_settle(beacon, att);
    return status;
}

static int
count_threads(void)
{
    int count = 0;
    DIR *dir = opendir("/proc/self/task");
    REQUIRE(dir != NULL);
    for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
        count += entry->d_name[0] != '.';
    }
    closedir(dir);
    return count;
}

TEST(it_is_lit_while_something_is_unread_and_dark_after)
{
    struct sf_attachment *att = create_and_subscribe("lit", 1 << 16, 8);
    CHECK_EQ(send_bytes(att, "x", 1, 1), 1);
    struct sf_beacon *beacon = make("lit", att);
    int fd = sf_beacon_fd(beacon);
    CHECK(is_lit(fd)); /* at once: nobody has to wait for the thread */
    CHECK_EQ(send_bytes(att, "y", 1, 1), 2);
    CHECK_EQ(take_and_settle(beacon, att), 0);
    CHECK(is_lit(fd));
    CHECK_EQ(take_and_settle(beacon, att), 0);
    CHECK(!is_lit(fd));
    for (int64_t i = 3; i < 200; i++) {
        nap_ms(i % 20 == 0 ? 2 : 0);
        CHECK_EQ(send_bytes(att, "x", 1, 1), i);
        CHECK(becomes_lit(fd));
        CHECK_EQ(take_and_settle(beacon, att), 0);
    }
    CHECK(EVENTUALLY(take_and_settle(beacon, att) == SF_EMPTY && !is_lit(fd)));
    end_with_topic(beacon, att, "lit");
}

TEST(what_was_evicted_for_a_claim_is_not_unread)
{
    struct sf_attachment *att = create_and_subscribe("claimed", 1 << 16, 8);
    for (int64_t i = 1; i <= 4; i++) {
        CHECK_EQ(send_bytes(att, "x", 1, 1), i);
    }
    struct sf_beacon *beacon = make("claimed", att);
    int fd = sf_beacon_fd(beacon);
    CHECK(is_lit(fd));
    struct sf_claim claim;
    CHECK_EQ(sf_send_claim(att, 1 << 16, SF_LANE_NEVER, SF_TRY, &claim), 0);
    CHECK_EQ(sf_load_relaxed(&att->ring.header->tail), 5);
    CHECK_EQ(take_and_settle(beacon, att), SF_EMPTY);
    CHECK(!is_lit(fd));
    nap_ms(200); /* the thread has looked again: it waits for the fifth, not for the first */
    CHECK(!is_lit(fd));
    sf_send_drop(att, &claim);
    CHECK_EQ(send_bytes(att, "y", 1, 1), 5);
    CHECK(becomes_lit(fd));
    CHECK_EQ(take_and_settle(beacon, att), 0);
    CHECK(!is_lit(fd));
    end_with_topic(beacon, att, "claimed");
}

TEST(a_light_without_a_reason_goes_out_at_the_next_look)
{
    struct sf_attachment *att = create_and_subscribe("vain", 1 << 16, 8);
    struct sf_beacon *beacon = make("vain", att);
    struct sf_message message;
    int fd = sf_beacon_fd(beacon);
    CHECK(!is_lit(fd));
    CHECK_EQ(send_bytes(att, "x", 1, 1), 1);
    CHECK(becomes_lit(fd));
    CHECK_EQ(take(att, &message), 0); /* by somebody else, who does not settle */
    CHECK(is_lit(fd));
    CHECK_EQ(take_and_settle(beacon, att), SF_EMPTY);
    CHECK(!is_lit(fd));
    nap_ms(150); /* more than a slice: it stays dark without news */
    CHECK(!is_lit(fd));
    end_with_topic(beacon, att, "vain");
}

static int
end_by_shutdown(struct sf_attachment *att)
{
    return sf_shutdown(att, SECONDS(20));
}

static int
end_by_removal(struct sf_attachment *att)
{
    return sf_segment_remove(att->path, NULL, SF_ALWAYS);
}

static int
end_by_its_name(struct sf_attachment *att)
{
    return unlink(att->path);
}

TEST(every_kind_of_end_lights_it_for_good)
{
    static int (*const ends[])(struct sf_attachment *) = {end_by_shutdown, end_by_removal,
                                                          end_by_its_name};
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        struct sf_attachment *att = create_and_subscribe("ends", 1 << 16, 8);
        struct sf_beacon *beacon = make("ends", att);
        CHECK_EQ(ends[i](att), 0);
        CHECK(becomes_lit(sf_beacon_fd(beacon)));
        sf_beacon_settle(beacon, att);
        CHECK(is_lit(sf_beacon_fd(beacon)));
        sf_beacon_end(beacon);
        sf_attachment_unref(att);
        (void)sf_segment_remove(path_of("ends"), NULL, SF_ALWAYS);
    }
}

TEST(a_monitor_is_told_too)
{
    struct sf_attachment *att = create_and_subscribe("monitor", 1 << 16, 8);
    struct sf_attachment *monitor = attach("monitor", SF_AS_MONITOR);
    sf_subscribe(monitor, SF_NEW);
    struct sf_beacon *beacon = make("monitor", monitor);
    nap_ms(5);
    CHECK_EQ(sf_load_seq(&att->ring.header->bell.sleepers), 0); /* it may not ask to be woken */
    CHECK_EQ(send_bytes(att, "x", 1, 1), 1);
    CHECK(becomes_lit(sf_beacon_fd(beacon)));
    CHECK_EQ(take_and_settle(beacon, monitor), 0);
    CHECK(!is_lit(sf_beacon_fd(beacon)));
    sf_beacon_end(beacon);
    sf_attachment_unref(monitor);
    sf_attachment_unref(att);
    remove_topic("monitor");
}

TEST(who_waits_for_a_name_is_told_when_it_appears)
{
    struct sf_beacon *beacon = make("name", NULL);
    int fd = sf_beacon_fd(beacon);
    nap_ms(20);
    CHECK(!is_lit(fd));
    struct sf_attachment *att = create_and_subscribe("name", 1 << 16, 8);
    CHECK(becomes_lit(fd));
    sf_beacon_settle(beacon, att);
    CHECK(!is_lit(fd));
    CHECK_EQ(send_bytes(att, "x", 1, 1), 1);
    CHECK(becomes_lit(fd));
    CHECK_EQ(sf_segment_remove(path_of("name"), NULL, SF_ALWAYS), 0);
    CHECK_EQ(take_and_settle(beacon, att), 0);
    sf_beacon_settle(beacon, NULL);
    CHECK(!is_lit(fd));
    sf_beacon_end(beacon);
    sf_attachment_unref(att);
}

/* References are counted by what they keep: the mapping, the slot. */
TEST(an_attachment_that_was_left_is_let_go_of)
{
    struct sf_attachment *looker = create_and_subscribe("left", 1 << 16, 8);
    struct sf_attachment *att = attach("left", SF_AS_READER);
    sf_subscribe(att, SF_NEW);
    struct sf_beacon *beacon = make("left", att);
    nap_ms(5); /* the thread sleeps on it */
    CHECK_EQ(sf_count_others(looker), 1);
    sf_attachment_unref(att);
    CHECK_EQ(sf_count_others(looker), 1); /* the beacon's own reference */
    sf_beacon_settle(beacon, NULL);
    CHECK(EVENTUALLY(sf_count_others(looker) == 0));
    for (int i = 0; i < 200; i++) {
        att = attach("left", i % 3 == 0 ? SF_AS_MONITOR : SF_AS_READER);
        sf_subscribe(att, SF_NEW);
        sf_beacon_settle(beacon, att);
        sf_attachment_unref(att);
        sf_beacon_settle(beacon, i % 2 == 0 ? NULL : looker);
        nap_ms(i % 20 == 0 ? 2 : 0);
    }
    CHECK(EVENTUALLY(sf_count_others(looker) == 0));
    end_with_topic(beacon, looker, "left");
}

TEST(a_reader_that_goes_back_is_not_forgotten)
{
    struct sf_attachment *att = create_and_subscribe("back", 1 << 16, 8);
    CHECK_EQ(send_bytes(att, "x", 1, 1), 1);
    CHECK_EQ(send_bytes(att, "y", 1, 1), 2);
    struct sf_beacon *beacon = make("back", att);
    CHECK_EQ(take_and_settle(beacon, att), 0);
    CHECK_EQ(take_and_settle(beacon, att), 0);
    CHECK(!is_lit(sf_beacon_fd(beacon)));
    nap_ms(5); /* it sleeps for message 3 */
    sf_resubscribe(att, 1);
    sf_beacon_settle(beacon, att);
    CHECK(is_lit(sf_beacon_fd(beacon)));
    CHECK_EQ(take_and_settle(beacon, att), 0);
    CHECK(is_lit(sf_beacon_fd(beacon)));
    end_with_topic(beacon, att, "back");
}

TEST(its_end_lights_copies_of_the_descriptor_and_ends_the_thread)
{
    struct sf_attachment *att = create_and_subscribe("end", 1 << 16, 8);
    struct sf_attachment *monitor = attach("end", SF_AS_MONITOR);
    sf_subscribe(monitor, SF_NEW);
    int threads = count_threads(), slow = 0;
    for (int i = 0; i < 20; i++) {
        struct sf_beacon *beacon = make("end", i % 2 == 0 ? att : NULL);
        CHECK_EQ(count_threads(), threads + 1);
        int fd = sf_beacon_fd(beacon), copy = dup(fd);
        sf_beacon_settle(beacon, i % 3 == 0 ? monitor : att);
        CHECK(!is_lit(copy));
        nap_ms(i % 5);
        uint64_t begin = os_now_ns();
        sf_beacon_end(beacon);
        slow += os_now_ns() - begin > SF_SLICE_NS * 8 / 10;
        CHECK(EVENTUALLY(count_threads() == threads)); /* the kernel's list lags behind the join */
        CHECK_EQ(fcntl(fd, F_GETFD), -1);
        CHECK(is_lit(copy));
        close(copy);
    }
    CHECK(slow <= 3); /* it was recalled, and not waited for to the end of its slice */
    sf_attachment_unref(monitor);
    sf_attachment_unref(att);
    remove_topic("end");
}

struct family {
    struct sf_attachment *att;
    struct sf_beacon *beacon;
    int turn;
};

enum { REUSED = 6, REUSED_BY_AN_EVENTFD = 8, CHILDREN = 10 };

static void
end_inherited(void *context)
{
    struct family *f = context;
    int fd = sf_beacon_fd(f->beacon);
    CHECK(!sf_beacon_is_mine(f->beacon));
    sf_attachment_unref(f->att);
    if (f->turn >= REUSED) {
        int other = f->turn >= REUSED_BY_AN_EVENTFD ? os_event_open() : open("/dev/null", O_RDONLY);
        REQUIRE(dup2(other, fd) == fd);
    }
    sf_beacon_end(f->beacon);
    CHECK_EQ(fcntl(fd, F_GETFD) >= 0, f->turn >= REUSED);
}

TEST(a_child_closes_its_copy_and_leaves_its_parents_alone)
{
    struct sf_attachment *att = create_and_subscribe("child", 1 << 16, 8);
    struct sf_beacon *beacon = make("child", att);
    int fd = sf_beacon_fd(beacon);
    for (int turn = 0; turn < CHILDREN; turn++) {
        bool lit = turn % 2 == 1;
        if (lit) {
            CHECK(send_bytes(att, "x", 1, 1) > 0);
            CHECK(becomes_lit(fd));
        }
        struct family family = {att, beacon, turn};
        CHECK_EQ(await(child(end_inherited, &family)), 0);
        CHECK_EQ(is_lit(fd), lit); /* it is one count, in both processes */
        if (lit) {
            CHECK_EQ(take_and_settle(beacon, att), 0);
        }
    }
    end_with_topic(beacon, att, "child");
}

/* ---- no news is missed ---- */

enum { MESSAGES = 20000 };

static void *
send_many(void *context)
{
    struct sf_attachment *att = context;
    for (int i = 0; i < MESSAGES; i++) {
        while (send_bytes(att, "x", 1, 1) < 0) {
        }
        /* The reader is to be at all stages of falling asleep. */
        for (int spin = 0; spin < i % 1000; spin++) {
            sf_pause();
        }
    }
    return NULL;
}

TEST(news_at_any_moment_are_told)
{
    struct sf_attachment *writer = create_and_subscribe("race", 1 << 16, 8);
    struct sf_attachment *att = attach("race", SF_AS_READER);
    sf_subscribe(att, SF_NEW);
    struct sf_beacon *beacon = make("race", att);
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, send_many, writer) == 0);
    uint64_t last = 0, slow = 0;
    while (last < MESSAGES) {
        uint64_t begin = os_now_ns();
        REQUIRE(becomes_lit(sf_beacon_fd(beacon)));
        slow += os_now_ns() - begin > SF_SLICE_NS * 9 / 10;
        struct sf_message message;
        while (take(att, &message) == 0) {
            last = message.seq;
            sf_beacon_settle(beacon, att);
        }
        sf_beacon_settle(beacon, att);
    }
    /* A wake that was lost is made up for by the next slice, which would hide it. */
    CHECK(slow <= 3);
    pthread_join(thread, NULL);
    CHECK(EVENTUALLY(take_and_settle(beacon, att) == SF_EMPTY && !is_lit(sf_beacon_fd(beacon))));
    sf_beacon_end(beacon);
    sf_attachment_unref(att);
    sf_attachment_unref(writer);
    remove_topic("race");
}
