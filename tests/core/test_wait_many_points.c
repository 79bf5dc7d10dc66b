/* wait.c, many topics at once: whoever has news wakes the one sleep, whatever the kernel allows.
 *
 * Owns:      sf_point, which does something beside the sleeper at a chosen point of its way: after
 *            a store, before a call or after it. So each moment for news to come is tried, in one
 *            thread, and a wake that is lost shows as a slice that ends without a word.
 * Does not:  use threads, which would race for the plan of faults (test_wait.c has those).
 */
#include "scratch.h"

#include "os/fault.h"

enum { TOPICS = 3 };

static struct {
    struct sf_attachment *att[TOPICS];
    struct sf_waited waited[TOPICS];
    unsigned count;
    _Atomic uint32_t closed;
} set;

/* ---- what happens beside the sleeper ---- */

static struct {
    void (*act)(unsigned which);
    unsigned which, at, passed;
    bool acting, acted;
    const char *file;
} beside;

void sf_point(const char *file, int line);
void
sf_point(const char *file, int line)
{
    (void)line;
    if (!beside.act || beside.acting || ++beside.passed != beside.at) {
        return;
    }
    int kept = errno;
    beside.acting = true;
    beside.act(beside.which);
    beside.acting = false;
    beside.acted = true;
    beside.file = file;
    errno = kept;
}

static void
send_one(unsigned which)
{
    CHECK(send_bytes(set.att[which], "x", 1, 1) > 0);
}

static int
wait_beside(void (*act)(unsigned), unsigned which, unsigned at, double seconds)
{
    beside.act = act;
    beside.which = which;
    beside.at = at;
    beside.passed = 0;
    beside.acted = false;
    int status = sf_wait_any(set.waited, set.count, SECONDS(seconds));
    beside.act = NULL;
    return status;
}

/* ---- the topics ---- */

static const char *const names[TOPICS] = {"one", "two", "three"};

static struct sf_waited
next_of(struct sf_attachment *att)
{
    return (struct sf_waited){
        .att = att,
        .path = att->path,
        .seq = sf_load_seq(&att->ring.header->head) + 1,
        .closed = &set.closed,
    };
}

static void
wait_for_next(void)
{
    for (unsigned i = 0; i < set.count; i++) {
        set.waited[i] = next_of(set.att[i]);
    }
}

static void
open_topics(unsigned count)
{
    set.count = count;
    sf_store_seq(&set.closed, 0);
    for (unsigned i = 0; i < count; i++) {
        set.att[i] = create_and_attach(names[i], 1 << 16, 4);
    }
    wait_for_next();
    os_fault_arm(0, 0, false);
}

static void
close_topics(void)
{
    os_fault_arm(0, 0, false);
    for (unsigned i = 0; i < set.count; i++) {
        sf_attachment_unref(set.att[i]);
        (void)sf_segment_remove(path_of(names[i]), NULL, SF_ALWAYS);
    }
}

static bool
is_flagged(const struct sf_attachment *att)
{
    return sf_load_seq(&att->ring.header->bell.sleepers) != 0;
}

/* ---- what wakes ---- */

TEST(what_is_there_already_is_not_waited_for)
{
    for (unsigned which = 0; which < TOPICS; which++) {
        open_topics(TOPICS);
        send_one(which);
        os_fault_arm(0, 0, false);
        CHECK_EQ(sf_wait_any(set.waited, set.count, SECONDS(20)), 0);
        CHECK_EQ(sf_wait_any(set.waited, set.count, 0), 0);
        wait_for_next();
        CHECK_EQ(sf_shutdown(set.att[which], SECONDS(20)), 0);
        CHECK_EQ(sf_wait_any(set.waited, set.count, SECONDS(20)), 0);
        sf_store_seq(&set.closed, 1);
        set.waited[which].att = NULL;
        CHECK_EQ(sf_wait_any(set.waited, set.count, SECONDS(20)), 0);
        CHECK_EQ(os_fault_counted(), 0); /* nothing slept */
        close_topics();
    }
}

/* News from each of `count` topics, behind each flag and right before the sleep: no wake is lost. */
static void
try_each_moment(unsigned count, void (*act)(unsigned), bool once_listening)
{
    for (unsigned which = 0; which < count; which++) {
        for (unsigned at = once_listening ? which + 1 : 1; at <= count + 1; at++) {
            open_topics(count);
            CHECK_EQ(wait_beside(act, which, at, 20), 0);
            CHECK(beside.acted);
            CHECK((strstr(beside.file, "os/sync.c") != NULL) == (at == count + 1));
            close_topics();
        }
    }
}

static void
shut_down(unsigned which)
{
    CHECK_EQ(sf_shutdown(set.att[which], SECONDS(20)), 0);
}

static void
remove_it(unsigned which)
{
    CHECK_EQ(sf_segment_remove(set.att[which]->path, NULL, SF_ALWAYS), 0);
}

static void
close_it(unsigned which)
{
    sf_store_seq(&set.closed, 1);
    sf_bell_ring(&set.att[which]->ring.header->bell);
}

TEST(a_message_that_comes_at_any_moment_of_falling_asleep_wakes)
{
    try_each_moment(TOPICS, send_one, false);
    try_each_moment(1, send_one, false);
}

TEST(an_end_that_comes_at_any_moment_of_falling_asleep_wakes)
{
    try_each_moment(2, shut_down, false);
    try_each_moment(2, remove_it, false);
    try_each_moment(2, close_it, false);
}

/* It takes the flag away: who slept on would not be rung for the next message. */
static void
ring_for_old_news(unsigned which)
{
    sf_bell_ring_always(&set.att[which]->ring.header->bell);
}

TEST(a_ring_for_what_is_known_already_ends_the_sleep_all_the_same)
{
    _Atomic uint32_t word = 1;
    struct os_watched other = {&word, 2};
    if (os_futex_wait_any(&other, 1, 0) == -EAGAIN) { /* else it naps, and needs no ring */
        try_each_moment(TOPICS, ring_for_old_news, true);
    }
}

TEST(as_many_as_the_kernel_takes_may_be_waited_for_and_one_topic_twice)
{
    struct sf_waited all[SF_WAITED_MAX];
    open_topics(TOPICS);
    for (unsigned i = 0; i < SF_WAITED_MAX; i++) {
        all[i] = set.waited[i % TOPICS];
    }
    beside.act = send_one;
    beside.which = 1;
    beside.at = SF_WAITED_MAX + 1; /* after all flags and the look, before the sleep */
    beside.passed = 0;
    CHECK_EQ(sf_wait_any(all, SF_WAITED_MAX, SECONDS(20)), 0);
    beside.act = NULL;
    wait_for_next();
    for (unsigned i = 0; i < SF_WAITED_MAX; i++) {
        all[i] = set.waited[i % TOPICS];
    }
    CHECK_EQ(sf_wait_any(all, SF_WAITED_MAX, SECONDS(0.005)), SF_EMPTY);
    close_topics();
}

TEST(no_sleep_is_longer_than_a_slice)
{
    open_topics(TOPICS);
    for (set.count = 0; set.count <= TOPICS; set.count++) {
        uint64_t begin = os_now_ns();
        CHECK_EQ(sf_wait_any(set.waited, set.count, SECONDS(20)), SF_EMPTY);
        uint64_t took = os_now_ns() - begin;
        CHECK(took >= SF_SLICE_NS && took < 10000000000);
        begin = os_now_ns();
        CHECK_EQ(sf_wait_any(set.waited, set.count, SECONDS(0.01)), SF_EMPTY);
        CHECK(os_now_ns() - begin >= 10000000);
    }
    set.count = TOPICS;
    close_topics();
}

TEST(a_name_that_went_without_a_word_is_found_out_at_the_end_of_a_slice)
{
    open_topics(TOPICS);
    CHECK_EQ(unlink(set.att[2]->path), 0);
    CHECK_EQ(sf_wait_any(set.waited, set.count, SECONDS(20)), 0);
    CHECK_EQ(sf_load_seq(&set.att[2]->ring.header->ended), SF_UNLINKED);
    CHECK_EQ(sf_load_seq(&set.att[1]->ring.header->ended), 0);
    close_topics();
}

/* ---- what cannot ring, and kernels that cannot watch several ---- */

TEST(among_them_a_monitor_asks_nobody_to_wake_it_and_finds_its_message)
{
    open_topics(2);
    struct sf_attachment *monitor = attach("one", SF_AS_MONITOR);
    set.waited[0].att = monitor;
    for (unsigned which = 0; which < 2; which++) {
        int status = wait_beside(send_one, which, 6, 20);
        CHECK(beside.acted);
        CHECK(!is_flagged(set.att[0]));
        CHECK(status == 0 || status == SF_EMPTY); /* at the very end of a slice */
        CHECK_EQ(sf_wait_any(set.waited, 2, 0), 0);
        set.waited[0] = next_of(monitor);
        set.waited[1] = next_of(set.att[1]);
    }
    sf_attachment_unref(monitor);
    close_topics();
}

static void
make_topic(unsigned which)
{
    CHECK_EQ(create("three", 1 << 16, 0, which), 0);
}

TEST(a_topic_that_appears_is_found)
{
    open_topics(2);
    char *path = os_copy_text(path_of("three"));
    set.waited[2] = (struct sf_waited){.path = path, .closed = &set.closed};
    set.count = 3;
    CHECK_EQ(sf_wait_any(set.waited, 3, SECONDS(0.01)), SF_EMPTY);
    int status = wait_beside(make_topic, 4, 6, 20);
    CHECK(beside.acted);
    CHECK(status == 0 || status == SF_EMPTY);
    /* What stands under the name and cannot be attached to does not make the caller spin. */
    os_fault_arm(0, 0, false);
    CHECK_EQ(sf_wait_any(set.waited, 3, SECONDS(20)), 0);
    CHECK_EQ(os_fault_counted(), 2); /* a nap, a look */
    CHECK_EQ(sf_wait_any(set.waited + 2, 1, SECONDS(20)), 0);
    CHECK_EQ(unlink(path), 0);
    sf_store_seq(&set.closed, 1); /* nobody rings for what is not there: it is looked at */
    CHECK_EQ(sf_wait_any(set.waited + 2, 1, SECONDS(20)), 0);
    os_free(path);
    set.count = 2;
    close_topics();
}

static bool
was_refused(void)
{
    const char *call = os_fault_hit();
    return call && strncmp(call, "futex_waitv(", 12) == 0;
}

/* In the order of the table in os/fault.c. */
enum { NO_CALL, NOT_PERMITTED, INTERRUPTED, DIFFERS, TIMED_OUT, NO_MEMORY, ERRORS };

TEST(a_kernel_or_a_filter_that_refuses_the_call_costs_naps_and_no_message)
{
    static const unsigned refusals[] = {NO_CALL, NOT_PERMITTED, NO_MEMORY};
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        for (unsigned which = 0; which < TOPICS; which++) {
            open_topics(TOPICS);
            os_fault_arm(1, refusals[i], true);
            CHECK_EQ(wait_beside(send_one, which, TOPICS + 4, 20), 0);
            CHECK(beside.acted && was_refused());
            wait_for_next();
            os_fault_arm(1, refusals[i], true);
            CHECK_EQ(sf_wait_any(set.waited, TOPICS, SECONDS(0.009)), SF_EMPTY);
            CHECK(was_refused());
            CHECK(os_fault_counted() > 2 && os_fault_counted() < 20); /* it asks once, and naps */
            close_topics();
        }
    }
}

TEST(each_answer_of_the_call_means_what_it_says)
{
    open_topics(TOPICS);
    static const int answers[ERRORS] = {
        [NO_CALL] = SF_EMPTY, [NOT_PERMITTED] = SF_EMPTY, [INTERRUPTED] = SF_INTERRUPTED,
        [DIFFERS] = 0,        [TIMED_OUT] = SF_EMPTY,     [NO_MEMORY] = SF_EMPTY};
    for (unsigned choice = 0; choice < ERRORS; choice++) {
        os_fault_arm(1, choice, false);
        CHECK_EQ(sf_wait_any(set.waited, TOPICS, SECONDS(0.005)), answers[choice]);
        CHECK(was_refused());
        CHECK_EQ(os_fault_choices(), ERRORS);
    }
    close_topics();
}
