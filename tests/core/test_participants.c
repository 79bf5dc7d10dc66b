/* participants.c: slots are taken by the living and taken back from the dead, and from no others. */
#include "scratch.h"

#include <sys/resource.h>

enum { P = 64 };

TEST(as_many_participants_as_there_are_slots_then_no_more)
{
    struct sf_attachment *all[P], *late = NULL;
    REQUIRE_EQ(create("slots", 1 << 16, 0, 4), 0);
    for (int i = 0; i < P; i++) {
        all[i] = attach("slots", SF_AS_READER);
        CHECK_EQ(all[i]->slot, i);
        CHECK(sf_owner_lives(&all[i]->ring, all[i]->owner));
    }
    CHECK_EQ(sf_attach(path_of("slots"), SF_AS_READER, &late), SF_NO_SLOT);
    CHECK_EQ(sf_count_others(all[5]), P - 1);
    CHECK_EQ(sf_clean_dead(all[0]), 0);
    struct sf_attachment *monitor = attach("slots", SF_AS_MONITOR); /* needs none */
    CHECK_EQ(sf_count_others(monitor), P);
    sf_attachment_unref(monitor);
    uint32_t owner = all[7]->owner;
    sf_attachment_unref(all[7]);
    CHECK(!sf_owner_lives(&all[0]->ring, owner));
    late = attach("slots", SF_AS_READER);
    CHECK_EQ(late->slot, 7);
    CHECK_NE(late->owner, owner);
    all[7] = late;
    for (int i = 0; i < P; i++) {
        sf_attachment_unref(all[i]);
    }
    remove_topic("slots");
}

TEST(participants_say_who_they_are)
{
    struct sf_attachment *att = create_and_attach("who", 1 << 16, 4);
    struct sf_participant *p = &att->ring.slots[att->slot];
    CHECK_EQ(p->pid, getpid());
    CHECK(strlen(p->command) > 0);
    CHECK_EQ(sf_load_acquire(&p->state), SF_SLOT_TAKEN);
    sf_add_role(att, SF_ROLE_WRITER);
    sf_add_role(att, SF_ROLE_READER);
    sf_add_role(att, SF_ROLE_READER);
    CHECK_EQ(sf_load_relaxed(&p->roles), SF_ROLE_READER | SF_ROLE_WRITER);
    sf_clear_roles(att);
    CHECK_EQ(sf_load_relaxed(&p->roles), 0);
    sf_attachment_unref(att);
    remove_topic("who");
}

/* A child that attaches, holds message 1, leaves a claim, and then does what it is told. */
struct life {
    struct stage *stage;
    const char *name;
    bool ends_by_exit;
};

static void
live(void *context)
{
    struct life *life = context;
    struct sf_attachment *att = attach(life->name, SF_AS_WRITER);
    struct sf_message m;
    struct sf_claim claim;
    uint64_t from;
    sf_subscribe(att, SF_OLDEST);
    CHECK_EQ(sf_take_look(att, false, &from, &m), 0);
    CHECK_EQ(sf_pin(att, &m, false), SF_PIN_OK);
    CHECK_EQ(sf_send_claim(att, 5000, true, SECONDS(5), &claim), 0);
    sf_store_seq(&life->stage->word[1], claim.desc);
    sf_store_seq(&life->stage->word[2], m.desc);
    sf_store_seq(&life->stage->word[3], att->owner);
    sf_store_seq(&life->stage->word[0], 1);
    if (life->ends_by_exit) {
        _exit(check_failures != 0);
    }
    for (;;) {
        pause();
    }
}

static void
check_the_dead_is_cleaned(bool ends_by_exit)
{
    static char data[8192];
    struct sf_attachment *att = create_and_attach("dead", 1 << 16, 2);
    struct life life = {stage_make(), "dead", ends_by_exit};
    CHECK_EQ(send_bytes(att, data, sizeof data, 1), 1);
    pid_t pid = child(live, &life);
    CHECK(EVENTUALLY(sf_load_seq(&life.stage->word[0]) == 1));
    uint32_t claim = sf_load_seq(&life.stage->word[1]), held = sf_load_seq(&life.stage->word[2]);
    uint32_t owner = sf_load_seq(&life.stage->word[3]), slot = sf_owner_slot(owner);
    uint32_t gen = sf_owner_gen(owner);
    if (!ends_by_exit) {
        CHECK_EQ(sf_clean_dead(att), 0);
        CHECK(!sf_probe_dead(att, owner));
        CHECK_EQ(sf_count_others(att), 1);
        CHECK(sf_is_held(&att->ring, held));
        kill_child(pid);
    }
    else {
        CHECK_EQ(await(pid), 0);
    }
    CHECK(sf_is_held(&att->ring, held));
    CHECK_EQ(sf_count_others(att), 0);
    CHECK_EQ(sf_clean_dead(att), 1);
    CHECK_EQ(sf_clean_dead(att), 0);
    CHECK(!sf_is_held(&att->ring, held));
    CHECK(!sf_owner_lives(&att->ring, owner));
    CHECK(sf_probe_dead(att, owner));
    CHECK_EQ(sf_load_acquire(&att->ring.slots[slot].gen), gen + 1);
    CHECK_EQ(sf_load_acquire(&att->ring.slots[slot].state), SF_SLOT_FREE);
    /* Its claim is freed by the writers that pass. */
    CHECK_EQ(sf_load_acquire(&att->ring.descs[claim].owner), owner);
    for (uint64_t i = 2; i < 20; i++) {
        CHECK_EQ(send_bytes(att, data, sizeof data, 1), i);
    }
    CHECK_NE(sf_load_acquire(&att->ring.descs[claim].owner), owner);
    struct sf_attachment *next = attach("dead", SF_AS_READER);
    CHECK_EQ(next->slot, slot);
    CHECK_NE(next->owner, owner);
    sf_attachment_unref(next);
    sf_attachment_unref(att);
    remove_topic("dead");
    stage_drop(life.stage);
}

TEST(a_participant_that_exited_without_a_word_is_cleaned)
{
    check_the_dead_is_cleaned(true);
}

TEST(a_participant_that_was_killed_is_cleaned)
{
    check_the_dead_is_cleaned(false);
}

TEST(a_probe_of_one_owner_cleans_it_once_it_is_dead)
{
    static char data[8192];
    struct sf_attachment *att = create_and_attach("probe", 1 << 16, 4);
    struct life life = {stage_make(), "probe", false};
    CHECK_EQ(send_bytes(att, data, sizeof data, 1), 1);
    pid_t pid = child(live, &life);
    CHECK(EVENTUALLY(sf_load_seq(&life.stage->word[0]) == 1));
    uint32_t owner = sf_load_seq(&life.stage->word[3]);
    CHECK(!sf_probe_dead(att, owner));
    CHECK(!sf_probe_dead(att, att->owner));
    kill_child(pid);
    CHECK(EVENTUALLY(sf_probe_dead(att, owner))); /* probes are rationed */
    CHECK(!sf_is_held(&att->ring, sf_load_seq(&life.stage->word[2])));
    sf_attachment_unref(att);
    remove_topic("probe");
    stage_drop(life.stage);
}

static void
attach_and_die(void *context)
{
    (void)attach(context, SF_AS_READER);
    _exit(0);
}

TEST(the_slots_of_the_dead_serve_newcomers_without_cleaning)
{
    struct sf_attachment *all[P];
    REQUIRE_EQ(create("full", 1 << 16, 0, 4), 0);
    for (int i = 0; i < P; i++) {
        CHECK_EQ(await(child(attach_and_die, "full")), 0);
    }
    for (int i = 0; i < P; i++) {
        all[i] = attach("full", SF_AS_READER);
    }
    CHECK_EQ(sf_count_others(all[0]), P - 1);
    for (int i = 0; i < P; i++) {
        sf_attachment_unref(all[i]);
    }
    remove_topic("full");
}

/* The parent of a child that lives on; the parent's own end must free its slot all the same. */
static void
attach_fork_and_die(void *context)
{
    struct life *life = context;
    struct sf_attachment *att = attach(life->name, SF_AS_READER);
    sf_store_seq(&life->stage->word[3], att->owner);
    pid_t pid = fork();
    if (pid == 0) {
        sf_store_seq(&life->stage->word[0], 1);
        for (int i = 0; i < 6000 && sf_load_seq(&life->stage->word[1]) == 0; i++) {
            nap_ms(10);
        }
        sf_store_seq(&life->stage->word[2], 1);
        _exit(0);
    }
    while (sf_load_seq(&life->stage->word[0]) == 0) {
        nap_ms(1);
    }
    _exit(0);
}

TEST(a_grandchild_that_lives_on_does_not_keep_its_dead_parents_slot)
{
    if (check_is_emulated()) {
        return; /* qemu-user knows no MADV_DONTFORK */
    }
    struct sf_attachment *att = create_and_attach("orphan", 1 << 16, 4);
    struct life life = {stage_make(), "orphan", false};
    CHECK_EQ(await(child(attach_fork_and_die, &life)), 0);
    CHECK_EQ(sf_load_seq(&life.stage->word[2]), 0); /* the grandchild is there */
    CHECK(EVENTUALLY(sf_probe_dead(att, sf_load_seq(&life.stage->word[3]))));
    CHECK_EQ(sf_count_others(att), 0);
    CHECK_EQ(sf_load_seq(&life.stage->word[2]), 0); /* and still is */
    sf_store_seq(&life.stage->word[1], 1);
    CHECK(EVENTUALLY(sf_load_seq(&life.stage->word[2]) == 1));
    sf_attachment_unref(att);
    remove_topic("orphan");
    stage_drop(life.stage);
}

TEST(closing_every_descriptor_does_not_end_a_participant)
{
    struct sf_attachment *att = create_and_attach("closed", 1 << 16, 4);
    struct sf_attachment *other = attach("closed", SF_AS_READER);
    for (int fd = 3; fd < 64; fd++) {
        int again = fcntl(fd, F_DUPFD_CLOEXEC, 100); /* keep what is somebody else's */
        close(fd);
        if (again >= 0) {
            dup3(again, fd, O_CLOEXEC);
            close(again);
        }
    }
    int fd = open(path_of("closed"), O_RDWR | O_CLOEXEC);
    close(fd); /* the end of any POSIX lock */
    CHECK_EQ(sf_clean_dead(att), 0);
    CHECK_EQ(sf_clean_dead(other), 0);
    CHECK_EQ(sf_count_others(att), 1);
    sf_attachment_unref(other);
    sf_attachment_unref(att);
    remove_topic("closed");
}

TEST(a_slot_that_was_half_cleaned_is_cleaned_again)
{
    struct sf_attachment *att = create_and_attach("half", 1 << 16, 4);
    CHECK_EQ(await(child(attach_and_die, "half")), 0);
    /* The cleaner died after its second store: gen is new, state is not. */
    sf_store_release(&att->ring.slots[1].gen, 5);
    CHECK_EQ(sf_clean_dead(att), 1);
    CHECK_EQ(sf_load_acquire(&att->ring.slots[1].gen), 6);
    sf_attachment_unref(att);
    remove_topic("half");
}

/* Every number up to the limit is taken: open() gives EMFILE. */
static struct rlimit
fill_table(void)
{
    struct rlimit before, full;
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
    int next = open("/dev/null", O_RDONLY | O_CLOEXEC);
    close(next);
    full = before;
    full.rlim_cur = (rlim_t)next;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &full), 0);
    CHECK_EQ(open("/dev/null", O_RDONLY | O_CLOEXEC), -1);
    CHECK_EQ(errno, EMFILE);
    return before;
}

TEST(who_has_no_descriptor_left_takes_a_dead_ones_lock_all_the_same)
{
    if (check_is_emulated()) {
        return; /* qemu-user shares its own table */
    }
    struct sf_attachment *att = create_and_attach("full", 1 << 16, 4);
    struct sf_attachment *other = attach("full", SF_AS_READER);
    CHECK_EQ(await(child(attach_and_die, "full")), 0);
    struct sf_participant *dead = &att->ring.slots[2];
    uint32_t owner = sf_owner_word(2, sf_load_relaxed(&dead->gen)); /* one thread is left */
    sf_store_relaxed(&att->ring.header->lock, owner); /* it died with it */
    CHECK_EQ(sf_load_relaxed(&dead->state), SF_SLOT_TAKEN); /* as above */
    struct rlimit before = fill_table();
    uint8_t alive[SF_MAX_PARTICIPANTS];
    CHECK_EQ(sf_list_living(att, alive), 2);
    CHECK_EQ(send_bytes(att, "on", 2, 1), 1);
    CHECK_EQ(sf_load_relaxed(&att->blind), 0); /* one thread */
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
    sf_attachment_unref(other);
    sf_attachment_unref(att);
    remove_topic("full");
}
