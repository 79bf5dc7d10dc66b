/* lock.c: one writer at a time, over threads and processes; a dead holder is robbed, and the
 * tables it left are mended; a frozen one keeps its lock. */
#include "scratch.h"

struct contest {
    struct stage *stage;
    struct sf_attachment *att; /* a thread's; NULL: attach in the child */
    const char *name;
    int rounds;
};

/* Adds to a counter as one must not without a lock. */
static void
count_under_the_lock(struct contest *contest, struct sf_attachment *att)
{
    _Atomic uint64_t *number = &contest->stage->number[0];
    for (int i = 0; i < contest->rounds; i++) {
        REQUIRE(sf_lock_wait(att, SECONDS(20)) == 0);
        uint64_t seen = sf_load_relaxed(number);
        if (i % 64 == 0) {
            os_yield();
        }
        sf_store_relaxed(number, seen + 1);
        sf_unlock(att);
    }
}

static void *
contend_in_thread(void *context)
{
    struct contest *contest = context;
    count_under_the_lock(contest, contest->att);
    return NULL;
}

static void
contend_in_child(void *context)
{
    struct contest *contest = context;
    struct sf_attachment *att = attach(contest->name, SF_AS_WRITER);
    count_under_the_lock(contest, att);
    sf_attachment_unref(att);
}

/* A child that takes the lock and says so. */
struct holder {
    struct stage *stage;
    const char *name;
    void (*spoil)(struct sf_attachment *att);
};

static void
hold(void *context)
{
    struct holder *holder = context;
    struct sf_attachment *att = attach(holder->name, SF_AS_WRITER);
    REQUIRE(sf_lock_wait(att, SECONDS(20)) == 0);
    if (holder->spoil != NULL) {
        holder->spoil(att);
    }
    sf_store_seq(&holder->stage->word[0], 1);
    while (sf_load_seq(&holder->stage->word[1]) == 0) {
        nap_ms(1);
    }
    sf_unlock(att);
    sf_attachment_unref(att);
}

static pid_t
start_holder(struct holder *holder)
{
    sf_store_seq(&holder->stage->word[0], 0);
    pid_t pid = child(hold, holder);
    CHECK(EVENTUALLY(sf_load_seq(&holder->stage->word[0]) == 1));
    return pid;
}

static uint32_t
count_rebuilds(struct sf_attachment *att)
{
    return sf_load_relaxed(&att->ring.header->rebuilds);
}

TEST(only_one_holds_the_lock)
{
    struct sf_attachment *a = create_and_attach("one", 1 << 16, 4);
    struct sf_attachment *b = attach("one", SF_AS_WRITER);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(sf_lock_try(a), 0);
        CHECK_EQ(sf_lock_try(a), SF_BUSY);
        CHECK_EQ(sf_lock_try(b), SF_BUSY);
        CHECK_EQ(sf_lock_wait(b, 0), SF_BUSY);
        CHECK_EQ(sf_lock_wait(b, SECONDS(0.01)), SF_BUSY);
        sf_unlock(a);
        CHECK_EQ(sf_lock_wait(b, 0), 0);
        CHECK_EQ(sf_lock_try(a), SF_BUSY);
        sf_unlock(b);
        CHECK_EQ(sf_load_relaxed(&a->ring.header->lock), 0);
    }
    CHECK_EQ(count_rebuilds(a), 1); /* the one that made the topic */
    sf_attachment_unref(b);
    sf_attachment_unref(a);
    remove_topic("one");
}

TEST(two_threads_with_an_attachment_each_exclude_each_other)
{
    struct contest contests[2] = {{stage_make(), NULL, "threads", 50000}};
    contests[1] = contests[0];
    contests[0].att = create_and_attach("threads", 1 << 16, 4);
    contests[1].att = attach("threads", SF_AS_WRITER);
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
        REQUIRE(pthread_create(&threads[i], NULL, contend_in_thread, &contests[i]) == 0);
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK_EQ(sf_load_relaxed(&contests[0].stage->number[0]), 100000);
    sf_attachment_unref(contests[0].att);
    sf_attachment_unref(contests[1].att);
    remove_topic("threads");
    stage_drop(contests[0].stage);
}

TEST(three_threads_of_one_attachment_exclude_each_other)
{
    struct contest contest = {stage_make(), create_and_attach("shared", 1 << 16, 4), "", 20000};
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) {
        REQUIRE(pthread_create(&threads[i], NULL, contend_in_thread, &contest) == 0);
    }
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK_EQ(sf_load_relaxed(&contest.stage->number[0]), 60000);
    sf_attachment_unref(contest.att);
    remove_topic("shared");
    stage_drop(contest.stage);
}

TEST(three_processes_exclude_each_other)
{
    struct contest contest = {stage_make(), NULL, "processes", 30000};
    struct sf_attachment *att = create_and_attach("processes", 1 << 16, 4);
    pid_t pids[3];
    for (int i = 0; i < 3; i++) {
        pids[i] = child(contend_in_child, &contest);
    }
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(await(pids[i]), 0);
    }
    CHECK_EQ(sf_load_relaxed(&contest.stage->number[0]), 90000);
    CHECK_EQ(sf_load_relaxed(&att->ring.header->lock), 0);
    CHECK_EQ(count_rebuilds(att), 1);
    sf_attachment_unref(att);
    remove_topic("processes");
    stage_drop(contest.stage);
}

/* As a writer that dies in the middle of anything leaves them. */
static void
spoil_derived(struct sf_attachment *att)
{
    struct sf_claim claim;
    REQUIRE(sf_claim_locked(&att->ring, att->owner, 64, true, &claim) == 0);
    sf_store_relaxed(&att->ring.header->free_first, 99999);
    sf_store_relaxed(&att->ring.header->first[0], 3);
    sf_store_relaxed(&att->ring.header->cursor[0], 99999);
    sf_store_relaxed(&att->ring.header->tail, 1);
}

static void
spoil_truth(struct sf_attachment *att)
{
    sf_store_relaxed(&att->ring.descs[3].len, 64);
    sf_store_relaxed(&att->ring.descs[3].seq, 1000000);
}

TEST(a_holder_that_was_killed_is_robbed_and_its_tables_are_mended)
{
    struct sf_attachment *att = create_and_attach("robbed", 1 << 16, 4);
    struct holder holder = {stage_make(), "robbed", spoil_derived};
    for (uint64_t i = 1; i <= 6; i++) {
        CHECK_EQ(send_bytes(att, "message", 7, i), i);
    }
    for (uint32_t round = 1; round <= 5; round++) {
        kill_child(start_holder(&holder));
        CHECK_EQ(sf_lock_try(att), SF_BUSY);
        CHECK_EQ(sf_lock_wait(att, SECONDS(20)), 0);
        CHECK_EQ(count_rebuilds(att), 1 + round);
        sf_unlock(att); /* checks the tables */
        CHECK_EQ(sf_load_relaxed(&att->ring.header->tail), 2 + round);
        CHECK_EQ(send_bytes(att, "message", 7, 7), 6 + round);
    }
    sf_attachment_unref(att);
    remove_topic("robbed");
    stage_drop(holder.stage);
}

TEST(a_timeout_of_nothing_still_finds_the_dead)
{
    struct sf_attachment *att = create_and_attach("short", 1 << 16, 4);
    struct holder holder = {stage_make(), "short", NULL};
    kill_child(start_holder(&holder));
    CHECK_EQ(sf_lock_wait(att, 0), 0);
    CHECK_EQ(count_rebuilds(att), 2);
    sf_unlock(att);
    sf_attachment_unref(att);
    remove_topic("short");
    stage_drop(holder.stage);
}

TEST(a_sleeping_waiter_robs_the_holder_that_dies_meanwhile)
{
    struct sf_attachment *att = create_and_attach("asleep", 1 << 16, 4);
    struct holder holder = {stage_make(), "asleep", NULL};
    struct contest contest = {holder.stage, att, "", 1};
    pid_t pid = start_holder(&holder);
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, contend_in_thread, &contest) == 0);
    CHECK(EVENTUALLY((sf_load_relaxed(&att->ring.header->lock) & SF_WAITERS) != 0));
    CHECK_EQ(count_rebuilds(att), 1);
    kill_child(pid);
    pthread_join(thread, NULL);
    CHECK_EQ(sf_load_relaxed(&holder.stage->number[0]), 1);
    CHECK_EQ(count_rebuilds(att), 2);
    sf_attachment_unref(att);
    remove_topic("asleep");
    stage_drop(holder.stage);
}

TEST(a_frozen_holder_keeps_its_lock)
{
    struct sf_attachment *att = create_and_attach("frozen", 1 << 16, 4);
    struct holder holder = {stage_make(), "frozen", NULL};
    pid_t pid = start_holder(&holder);
    CHECK_EQ(kill(pid, SIGSTOP), 0);
    uint64_t begin = os_now_ns();
    CHECK_EQ(sf_lock_wait(att, SECONDS(0.35)), SF_BUSY);
    CHECK(os_now_ns() - begin >= 350000000);
    CHECK_EQ(sf_lock_wait(att, 0), SF_BUSY);
    CHECK_EQ(count_rebuilds(att), 1);
    CHECK_EQ(kill(pid, SIGCONT), 0);
    sf_store_seq(&holder.stage->word[1], 1);
    CHECK_EQ(sf_lock_wait(att, SECONDS(20)), 0);
    CHECK_EQ(count_rebuilds(att), 1);
    sf_unlock(att);
    CHECK_EQ(await(pid), 0);
    sf_attachment_unref(att);
    remove_topic("frozen");
    stage_drop(holder.stage);
}

TEST(tables_that_cannot_be_mended_are_told_and_the_lock_is_free)
{
    struct sf_attachment *att = create_and_attach("broken", 1 << 16, 4);
    struct holder holder = {stage_make(), "broken", spoil_truth};
    kill_child(start_holder(&holder));
    CHECK_EQ(sf_lock_wait(att, SECONDS(20)), SF_CORRUPT);
    CHECK_EQ(sf_load_relaxed(&att->ring.header->lock), 0);
    sf_attachment_unref(att);
    remove_topic("broken");
    stage_drop(holder.stage);
}

TEST(all_that_sleep_on_the_lock_get_it_in_the_end)
{
    enum { WAITERS = 8 };
    struct contest contest = {stage_make(), create_and_attach("queue", 1 << 16, 4), "", 1};
    pthread_t threads[WAITERS];
    CHECK_EQ(sf_lock_try(contest.att), 0);
    for (int i = 0; i < WAITERS; i++) {
        REQUIRE(pthread_create(&threads[i], NULL, contend_in_thread, &contest) == 0);
    }
    _Atomic uint32_t *lock = &contest.att->ring.header->lock;
    CHECK(EVENTUALLY((sf_load_relaxed(lock) & SF_WAITERS) != 0));
    nap_ms(30);
    uint64_t begin = os_now_ns();
    sf_unlock(contest.att);
    for (int i = 0; i < WAITERS; i++) {
        pthread_join(threads[i], NULL);
    }
    /* Each unlock wakes the next: were they left to their slices, it would take longer. */
    CHECK(os_now_ns() - begin < 5 * SF_SLICE_NS);
    CHECK_EQ(sf_load_relaxed(&contest.stage->number[0]), WAITERS);
    CHECK_EQ(sf_load_relaxed(lock), 0);
    sf_attachment_unref(contest.att);
    remove_topic("queue");
    stage_drop(contest.stage);
}

static void
do_nothing(int number)
{
    (void)number;
}

TEST(a_signal_ends_the_wait_for_the_lock)
{
    struct sf_attachment *att = create_and_attach("signal", 1 << 16, 4);
    struct holder holder = {stage_make(), "signal", NULL};
    struct sigaction action = {.sa_handler = do_nothing}, was;
    sigaction(SIGUSR1, &action, &was);
    pid_t pid = start_holder(&holder), self = getpid();
    pid_t caller = fork();
    if (caller == 0) {
        while (sf_load_seq(&holder.stage->word[2]) == 0) {
            nap_ms(10);
            kill(self, SIGUSR1);
        }
        _exit(0);
    }
    CHECK_EQ(sf_lock_wait(att, SECONDS(20)), SF_INTERRUPTED);
    sf_store_seq(&holder.stage->word[2], 1);
    sf_store_seq(&holder.stage->word[1], 1);
    CHECK_EQ(await(caller), 0);
    CHECK_EQ(await(pid), 0);
    sigaction(SIGUSR1, &was, NULL);
    sf_attachment_unref(att);
    remove_topic("signal");
    stage_drop(holder.stage);
}
