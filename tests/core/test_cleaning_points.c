/* A cleaner that is cut off: killed while another of its threads forks, or stopped, at each point.
 *
 * Owns:      sf_point, which ends, stops or forks the cleaner at a chosen point of its way.
 * Does not:  look at what a plain death leaves there (tests/kill).
 */
#include "scratch.h"

enum { DEAD = 5, HELD = 20 };

static struct stage *stage; /* word 0: the grandchild is there; number 0: its pid */
static void (*act)(void); /* at the point */
static long left; /* points until then */

void sf_point(const char *file, int line);
void
sf_point(const char *file, int line)
{
    (void)file;
    (void)line;
    if (left > 0 && --left == 0) {
        act();
    }
}

/* What a killed lossless reader leaves that held messages, and the writer lock. Its byte is free. */
static void
leave_dead_one(struct sf_attachment *att)
{
    struct sf_participant *p = &att->ring.slots[DEAD];
    uint32_t owner = sf_owner_word(DEAD, sf_load_relaxed(&p->gen)); /* one thread, all of them */
    for (uint32_t desc = 0; desc < HELD; desc++) {
        (void)sf_or_seq64(sf_holders_word(&att->ring, desc, DEAD), UINT64_C(1) << DEAD);
    }
    sf_store_relaxed(&p->policy, SF_POLICY_LOSSLESS);
    sf_store_relaxed(&p->state, SF_SLOT_TAKEN);
    sf_store_relaxed(&att->ring.header->lock, owner);
}

static void
check_all_is_clean(struct sf_attachment *att)
{
    CHECK(EVENTUALLY(sf_clean_dead(att) >= 0 &&
                     sf_load_acquire(&att->ring.slots[DEAD].state) == SF_SLOT_FREE));
    for (uint32_t desc = 0; desc < HELD; desc++) {
        CHECK(!sf_is_held(&att->ring, desc));
    }
    CHECK_EQ(send_bytes(att, "on", 2, 1) > 0, 1);
    CHECK(EVENTUALLY(sf_clean_dead(att) == 0 && sf_count_others(att) == 0));
}

struct plan {
    const char *name;
    long point;
    void (*act)(void);
};

static void
clean_with_a_plan(void *context)
{
    struct plan *plan = context;
    struct sf_attachment *att = attach(plan->name, SF_AS_READER);
    leave_dead_one(att);
    act = plan->act;
    left = plan->point;
    (void)sf_clean_dead(att);
    _exit(left > 0 ? 0 : 1); /* 0: it was through before the point came */
}

static void *
fork_beside(void *context)
{
    (void)context;
    pid_t pid = fork();
    if (pid == 0) {
        alarm(60);
        for (;;) {
            pause();
        }
    }
    sf_store_seq(&stage->number[0], (uint64_t)pid);
    sf_store_seq(&stage->word[0], 1);
    return NULL;
}

static void
fork_and_die(void)
{
    pthread_t thread;
    REQUIRE_EQ(pthread_create(&thread, NULL, fork_beside, NULL), 0);
    for (int i = 0; i < 50 && sf_load_seq(&stage->word[0]) == 0; i++) {
        nap_ms(1); /* if it is held off, that is what is wanted */
    }
    (void)kill(getpid(), SIGKILL);
}

TEST(a_cleaner_that_is_killed_beside_a_fork_leaves_no_byte_locked)
{
    long point = 1;
    for (int status = 1; status != 0 && check_failures == 0; point++) {
        struct sf_attachment *att = create_and_attach("forked", 1 << 16, 4);
        stage = stage_make();
        struct plan plan = {"forked", point, fork_and_die};
        status = await(child(clean_with_a_plan, &plan));
        check_all_is_clean(att);
        pid_t grandchild = (pid_t)sf_load_seq(&stage->number[0]);
        if (grandchild > 0) {
            (void)kill(grandchild, SIGKILL);
        }
        stage_drop(stage);
        sf_attachment_unref(att);
        remove_topic("forked");
    }
    CHECK(point > HELD);
}

static void
remove_with_a_plan(void *context)
{
    struct plan *plan = context;
    act = plan->act;
    left = plan->point;
    (void)sf_segment_remove(path_of(plan->name), NULL, SF_WHEN_IDLE);
    _exit(left > 0 ? 0 : 1);
}

TEST(a_remover_that_is_killed_beside_a_fork_leaves_no_byte_locked)
{
    long point = 1;
    for (int status = 1; status != 0 && check_failures == 0; point++) {
        REQUIRE_EQ(create("removed", 1 << 16, 0, 4), 0);
        stage = stage_make();
        struct plan plan = {"removed", point, fork_and_die};
        status = await(child(remove_with_a_plan, &plan));
        int again = SF_RACE;
        CHECK(EVENTUALLY((again = sf_segment_remove(path_of("removed"), NULL, SF_WHEN_IDLE)) !=
                             SF_RACE &&
                         again != SF_BUSY));
        CHECK(again == 0 || again == SF_NOT_FOUND);
        pid_t grandchild = (pid_t)sf_load_seq(&stage->number[0]);
        if (grandchild > 0) {
            (void)kill(grandchild, SIGKILL);
        }
        stage_drop(stage);
    }
    CHECK(point > 10);
}

static void
stop(void)
{
    (void)raise(SIGSTOP);
}

TEST(a_cleaner_that_is_stopped_keeps_neither_the_lock_nor_what_a_lossless_reader_protected)
{
    int stuck = 0, protected = 0, points = 0;
    for (bool through = false; !through; points++) {
        struct sf_attachment *att = create_and_attach("stopped", 1 << 16, 4);
        struct plan plan = {"stopped", points + 1, stop};
        pid_t pid = child(clean_with_a_plan, &plan);
        int status = 0;
        while (waitpid(pid, &status, WUNTRACED) < 0 && errno == EINTR) {
        }
        through = !WIFSTOPPED(status);
        if (!through) {
            uint32_t lock = sf_load_seq(&att->ring.header->lock);
            sf_store_relaxed(&att->next_probe_ns, 0); /* one thread */
            stuck += !sf_probe_dead(att, lock);
            protected += sf_load_seq(&att->ring.slots[DEAD].policy) != 0;
            kill_child(pid);
        }
        check_all_is_clean(att);
        sf_attachment_unref(att);
        remove_topic("stopped");
    }
    CHECK(points > HELD);
    CHECK(stuck <= 1); /* from the lock on the byte to the next store */
    CHECK(protected <= 2);
}
