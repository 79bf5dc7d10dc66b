/* fork.c: a child owns nothing of its parent's, and what its parent held it sees unchanged. */
#include "scratch.h"

enum { LARGE = 9000 }; /* not a multiple of a page, so that held pages are shared with others */

/* What a child is given: its parent's attachment and the messages its parent held at the fork. */
struct family {
    struct stage *stage;
    struct sf_attachment *att;
    struct sf_message held[3];
    struct sf_claim loan;
    const char *name;
    int generations;
};

static bool
holds(const char *from, char letter)
{
    for (int i = 0; i < LARGE; i++) {
        if (from[i] != letter) {
            return false;
        }
    }
    return true;
}

static void
send_letters(struct sf_attachment *att, int count, char letter)
{
    static char data[LARGE];
    memset(data, letter, sizeof data);
    for (int i = 0; i < count; i++) {
        CHECK(send_bytes(att, data, sizeof data, 1) > 0);
    }
}

/* A topic with three held messages of 'a', 'b', 'c', and the rest overwritten with 'x'. */
static void
start_family(struct family *family, const char *name)
{
    memset((void *)family, 0, sizeof *family);
    family->name = name;
    family->stage = stage_make();
    family->att = create_and_attach(name, 1 << 18, 3);
    family->att->max_held = 1 << 18;
    for (int i = 0; i < 3; i++) {
        send_letters(family->att, 1, (char)('a' + i));
        CHECK_EQ(sf_look(&family->att->ring, (uint64_t)i + 1, &family->held[i]), 0);
        CHECK_EQ(sf_pin(family->att, &family->held[i], false), SF_PIN_OK);
    }
    send_letters(family->att, 100, 'x');
}

static void
end_family(struct family *family)
{
    sf_attachment_unref(family->att);
    remove_topic(family->name);
    stage_drop(family->stage);
}

static void
check_views(struct family *family)
{
    for (int i = 0; i < 3; i++) {
        CHECK(holds(family->att->arena + family->held[i].block_off, (char)('a' + i)));
    }
}

static void
wait_for(struct stage *stage, int word)
{
    while (sf_load_seq(&stage->word[word]) == 0) {
        nap_ms(1);
    }
}

static void
look_while_the_parent_overwrites(void *context)
{
    struct family *family = context;
    CHECK(!sf_attachment_is_mine(family->att));
    CHECK(!sf_fork_trouble());
    check_views(family);
    if (--family->generations > 0) {
        CHECK_EQ(await(child(look_while_the_parent_overwrites, family)), 0);
        check_views(family);
    }
    else {
        sf_store_seq(&family->stage->word[0], 1);
        wait_for(family->stage, 1);
    }
    check_views(family);
    sf_attachment_unref(family->att);
}

static void
check_views_in(int generations)
{
    struct family family;
    start_family(&family, "views");
    family.generations = generations;
    pid_t pid = child(look_while_the_parent_overwrites, &family);
    wait_for(family.stage, 0);
    check_views(&family);
    for (int i = 0; i < 3; i++) {
        sf_unpin(family.att, family.held[i].desc);
    }
    send_letters(family.att, 100, 'y');
    CHECK(!holds(family.att->arena + family.held[0].block_off, 'a'));
    sf_store_seq(&family.stage->word[1], 1);
    CHECK_EQ(await(pid), 0);
    end_family(&family);
}

TEST(views_in_a_child_stay_what_they_were_at_the_fork)
{
    check_views_in(1);
}

TEST(views_in_a_grandchild_stay_too)
{
    check_views_in(3);
}

static void
drop_everything(void *context)
{
    struct family *family = context;
    sf_attachment_unref(family->att);
}

TEST(a_child_that_ends_leaves_its_parents_slot_and_bits_alone)
{
    struct family family;
    start_family(&family, "bits");
    struct sf_attachment *other = attach("bits", SF_AS_WRITER);
    uint32_t owner = family.att->owner;
    for (int i = 0; i < 10; i++) {
        CHECK_EQ(await(child(drop_everything, &family)), 0);
        CHECK_EQ(sf_clean_dead(other), 0);
        CHECK(sf_owner_lives(&other->ring, owner));
        send_letters(other, 60, 'z');
        check_views(&family);
    }
    for (int i = 0; i < 3; i++) {
        CHECK(sf_is_held(&other->ring, family.held[i].desc));
        sf_unpin(family.att, family.held[i].desc);
        CHECK(!sf_is_held(&other->ring, family.held[i].desc));
    }
    sf_attachment_unref(other);
    end_family(&family);
}

static void
write_to_the_loan(void *context)
{
    struct family *family = context;
    char *mine = family->att->arena_rw + family->loan.off;
    CHECK(holds(mine, 'p'));
    memset(mine, 'q', LARGE);
    sf_store_seq(&family->stage->word[0], 1);
    wait_for(family->stage, 1);
    CHECK(holds(mine, 'q'));
    sf_attachment_unref(family->att);
}

TEST(a_childs_loan_is_void_and_its_pages_are_its_own)
{
    struct family family;
    start_family(&family, "loan");
    uint64_t shape = LARGE, seq;
    struct sf_out out = out_of(NULL, LARGE, &shape);
    CHECK_EQ(sf_send_claim(family.att, LARGE, false, SECONDS(20), &family.loan), 0);
    sf_loan_begin(family.att, family.loan.desc);
    char *payload = sf_send_payload(family.att, &out, &family.loan);
    memset(payload, 'p', LARGE);
    pid_t pid = child(write_to_the_loan, &family);
    wait_for(family.stage, 0);
    CHECK(holds(payload, 'p'));
    memset(payload, 'r', LARGE);
    sf_store_seq(&family.stage->word[1], 1);
    CHECK_EQ(await(pid), 0);
    CHECK(holds(payload, 'r'));
    sf_loan_keep(family.att, family.loan.desc);
    CHECK_EQ(sf_send_publish(family.att, &out, &family.loan, SECONDS(20), &seq), 0);
    sf_unpin(family.att, family.loan.desc);
    end_family(&family);
}

static void
touch_the_tables(void *context)
{
    struct family *family = context;
    signal(SIGSEGV, SIG_DFL);
    sf_store_relaxed(&family->att->ring.header->head, 0);
}

static void
touch_what_was_not_held(void *context)
{
    struct family *family = context;
    signal(SIGSEGV, SIG_DFL);
    memset(family->att->arena_rw, 0, family->att->arena_len);
}

TEST(a_stray_touch_of_the_parents_segment_faults_and_spoils_nothing)
{
    struct family family;
    start_family(&family, "stray");
    uint64_t head = sf_load_seq(&family.att->ring.header->head);
    CHECK_NE(await(child(touch_the_tables, &family)), 0);
    CHECK_NE(await(child(touch_what_was_not_held, &family)), 0);
    CHECK_EQ(sf_load_seq(&family.att->ring.header->head), head);
    check_views(&family);
    for (int i = 0; i < 3; i++) {
        sf_unpin(family.att, family.held[i].desc);
    }
    end_family(&family);
}

static void
attach_anew(void *context)
{
    struct family *family = context;
    struct sf_attachment *own = attach(family->name, SF_AS_WRITER);
    CHECK(sf_attachment_is_mine(own));
    CHECK_NE(own->slot, family->att->slot);
    CHECK_EQ(sf_count_others(own), 3 - family->generations); /* all ancestors */
    send_letters(own, 3, 'm');
    struct sf_message m;
    CHECK_EQ(sf_look(&own->ring, sf_load_seq(&own->ring.header->head), &m), 0);
    CHECK_EQ(sf_pin(own, &m, false), SF_PIN_OK);
    if (--family->generations > 0) {
        struct family next = *family;
        next.att = own;
        CHECK_EQ(await(child(attach_anew, &next)), 0);
    }
    CHECK(holds(sf_message_payload(own, &m), 'm'));
    sf_unpin(own, m.desc);
    sf_attachment_unref(own);
    sf_process_exit();
    if (family->generations > 0) {
        sf_attachment_unref(family->att); /* the parent's, inherited; either order will do */
    }
}

TEST(a_child_attaches_anew_and_forks_in_its_turn)
{
    struct family family;
    start_family(&family, "anew");
    family.generations = 2;
    CHECK_EQ(await(child(attach_anew, &family)), 0);
    CHECK_EQ(sf_count_others(family.att), 0);
    for (int i = 0; i < 3; i++) {
        sf_unpin(family.att, family.held[i].desc);
    }
    end_family(&family);
}

static void
exit_as_a_program_does(void *context)
{
    (void)context;
    sf_process_exit();
}

TEST(a_childs_exit_does_not_end_its_parents_temporary_topic)
{
    struct sf_params params = {.capacity = 4096, .max_participants = 1, .flags = SF_TEMPORARY};
    REQUIRE_EQ(sf_segment_create(path_of("temp"), &params, 0600, NULL, NULL), 0);
    struct sf_attachment *att = attach("temp", SF_AS_WRITER);
    CHECK_EQ(await(child(exit_as_a_program_does, NULL)), 0);
    CHECK(sf_attachment_is_named(att));
    struct sf_attachment *second = attach("temp", SF_AS_READER); /* ours too: no hindrance */
    sf_process_exit();
    CHECK(!sf_attachment_is_named(att));
    sf_attachment_unref(second);
    sf_attachment_unref(att);
}

/* ---- forks while other threads hold and let go ---- */

struct busy {
    struct sf_attachment *att;
    _Atomic uint32_t *stop;
};

static void *
hold_and_let_go(void *context)
{
    struct busy *busy = context;
    struct sf_message m;
    while (sf_load_seq(busy->stop) == 0) {
        uint64_t head = sf_load_seq(&busy->att->ring.header->head);
        if (sf_look(&busy->att->ring, head, &m) == 0 && sf_pin(busy->att, &m, false) == SF_PIN_OK) {
            sf_unpin(busy->att, m.desc);
        }
        sf_attachment_unref(attach("busy", SF_AS_READER));
    }
    return NULL;
}

TEST(a_fork_waits_for_no_thread_and_no_thread_hangs_for_a_fork)
{
    struct family family;
    _Atomic uint32_t stop = 0;
    start_family(&family, "busy");
    struct busy busy = {family.att, &stop};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
        REQUIRE(pthread_create(&threads[i], NULL, hold_and_let_go, &busy) == 0);
    }
    for (int i = 0; i < 150; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            check_failures = 0;
            check_views(&family);
            sf_attachment_unref(family.att);
            _exit(check_failures != 0);
        }
        send_letters(family.att, 2, 'w');
        CHECK_EQ(await(pid), 0);
        check_views(&family);
    }
    sf_store_seq(&stop, 1);
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    for (int i = 0; i < 3; i++) {
        sf_unpin(family.att, family.held[i].desc);
    }
    CHECK_EQ(family.att->held_blocks, 0);
    end_family(&family);
}

/* While it is set, a child waits for its word 0 before any handler of the core's runs in it. */
static struct stage *delay;

static void
be_late(void)
{
    if (delay) {
        wait_for(delay, 0);
    }
}

/* Before the core registers its own: handlers of children run in that order. */
__attribute__((constructor)) static void
register_first(void)
{
    (void)pthread_atfork(NULL, NULL, be_late);
}

static void
look_where_it_stands(void *context)
{
    struct family *family = context;
    CHECK_EQ(sf_load_relaxed(family->att->cursor), 2); /* a private copy */
    sf_attachment_unref(family->att);
}

TEST(a_child_stands_where_its_parent_stood_at_the_fork_not_where_it_has_gone_since)
{
    struct family family = {.stage = stage_make(), .name = "late"};
    struct sf_message m;
    family.att = create_and_attach(family.name, 1 << 18, 8);
    send_letters(family.att, 4, 'a');
    sf_subscribe(family.att, SF_OLDEST);
    CHECK_EQ(take(family.att, &m), 0);
    delay = family.stage;
    pid_t pid = child(look_where_it_stands, &family);
    delay = NULL;
    CHECK_EQ(take(family.att, &m), 0);
    CHECK_EQ(take(family.att, &m), 0);
    sf_store_seq(&family.stage->word[0], 1);
    CHECK_EQ(await(pid), 0);
    end_family(&family);
}
