/* Topics by name, found, replaced and removed, while the calls they stand on fail.
 *
 * Owns:      topic.c, remove.c; temporary topics and the process's end.
 * Does not:  send a message (test_faults_flow_points.c).
 */
#include "faults.h"

static void
set_nothing(struct scene *s)
{
    (void)s;
}

/* ---- topics by name ---- */

static void
init_topic(struct scene *s, enum sf_mode mode, uint64_t capacity, uint64_t depth)
{
    struct sf_options options = {.mode = mode,
                                 .create = -1,
                                 .allow_lossless = true,
                                 .capacity = capacity,
                                 .depth = depth,
                                 .permissions = 0600,
                                 .max_participants = 64,
                                 .spin_ns = 0};
    REQUIRE_EQ(sf_topic_init(&s->topic, "t", &options), 0);
}

/* As every caller of sf_topic_to_write does it. */
static int
open_writer(struct scene *s)
{
    struct sf_making make;
    for (int round = 0; round < 20; round++) {
        int status = sf_topic_to_write(&s->topic, 100, &make);
        if (status == SF_NOT_FOUND) {
            status = sf_topic_make(&s->topic, &make, NULL, NULL);
            s->topic.to_replace = s->topic.to_replace && status < 0;
            status = status == 0 || status == SF_EXISTS ? SF_RACE : status;
        }
        if (status != SF_RACE) {
            return status;
        }
    }
    return SF_RACE;
}

/* At no instant is there no topic of that name, and nothing lies beside it. Where both do not fit,
 * the old one goes first (G6 of create.c): this memory was taken away then. */
static int
replace_it(struct scene *s)
{
    int status = open_writer(s);
    bool named = access(path_of("t"), F_OK) == 0;
    CHECK(named || (tally->hit && tally->error == ENOSPC &&
                    strncmp(tally->call, "fallocate", 9) == 0 && !s->other));
    CHECK_EQ(count_entries(scratch_dir), 2 + named);
    return status;
}

static int
open_reader(struct scene *s)
{
    return sf_topic_to_read(&s->topic);
}

static void
set_absent(struct scene *s)
{
    init_topic(s, SF_MODE_RW, 1 << 16, 0);
}

static void
set_to_join(struct scene *s)
{
    set_peer(s);
    init_topic(s, SF_MODE_RW, 0, 0);
}

static void
set_to_replace(struct scene *s)
{
    set_to_join(s);
    s->topic.to_replace = true;
}

static void
set_to_read(struct scene *s)
{
    set_peer(s);
    init_topic(s, SF_MODE_R, 0, 0);
}

static void
set_mismatch(struct scene *s)
{
    set_peer(s);
    init_topic(s, SF_MODE_RW, 0, 7);
}

static void
set_idle_mismatch(struct scene *s)
{
    REQUIRE_EQ(create("t", 1 << 16, 1 << 14, 3), 0);
    init_topic(s, SF_MODE_RW, 1 << 16, 7);
}

static void
set_too_small(struct scene *s)
{
    REQUIRE_EQ(create("t", 1 << 16, 64, 3), 0);
    init_topic(s, SF_MODE_RW, 0, 0);
}

static void
set_ended(struct scene *s)
{
    struct sf_attachment *att = create_and_attach("t", 1 << 16, 3);
    REQUIRE_EQ(sf_shutdown(att, SECONDS(10)), 0);
    sf_attachment_unref(att);
    init_topic(s, SF_MODE_RW, 1 << 16, 0);
}

static void
set_flagged(struct scene *s)
{
    REQUIRE_EQ(create("t", 1 << 16, 1 << 14, 3), 0);
    struct sf_attachment *att = attach("t", SF_AS_WRITER);
    sf_or_seq32(&att->ring.header->ended, SF_UNLINKED); /* its remover died; one thread */
    sf_attachment_unref(att);
    init_topic(s, SF_MODE_RW, 1 << 16, 0);
}

static void
end_topic(struct scene *s)
{
    if (s->done && s->topic.att && s->topic.is_reader) {
        struct sf_message message;
        CHECK_EQ(take(s->topic.att, &message), 0);
    }
    else if (s->done && s->topic.att) {
        CHECK(put(s->topic.att, 'c', 100) > 0);
    }
    sf_topic_fini(&s->topic);
    if (s->other) {
        end_going_on(s);
    }
    else {
        (void)unlink(path_of("t"));
    }
}

TEST(a_topic_is_opened_or_not_opened_at_all)
{
    explore(&(struct op){"open to read", .set = set_to_read, .run = open_reader, .end = end_topic});
    explore(
        &(struct op){"open to write", .set = set_to_join, .run = open_writer, .end = end_topic});
    explore(&(struct op){"open what is not there", .set = set_absent, .run = open_writer,
                         .end = end_topic, .flags = MADE_STAYS});
    explore(&(struct op){"open with another depth", .set = set_mismatch, .run = open_writer,
                         .end = end_topic, .want = SF_MISMATCH});
}

TEST(what_is_idle_or_ended_is_replaced_or_stays)
{
    explore(&(struct op){"replace what is in use", .set = set_to_replace, .run = replace_it,
                         .end = end_topic, .flags = REPLACES});
    explore(&(struct op){"replace an idle one", .set = set_idle_mismatch, .run = replace_it,
                         .end = end_topic, .flags = MADE_STAYS});
    explore(&(struct op){"replace a small one", .set = set_too_small, .run = replace_it,
                         .end = end_topic, .flags = MADE_STAYS});
    explore(&(struct op){"replace an ended one", .set = set_ended, .run = replace_it,
                         .end = end_topic, .flags = MADE_STAYS});
    explore(&(struct op){"replace a flagged one", .set = set_flagged, .run = open_writer,
                         .end = end_topic, .flags = MADE_STAYS});
}

static int
init_relative(struct scene *s)
{
    struct sf_options options = {.mode = SF_MODE_R, .create = -1, .max_participants = 64};
    /* Not setenv, which keeps every text for ever. */
    static char here[] = "SHMFLOW_DIR=.", there[128];
    snprintf(there, sizeof there, "SHMFLOW_DIR=%s", scratch_dir);
    putenv(here);
    int status = sf_topic_init(&s->topic, "t", &options);
    putenv(there);
    return status;
}

static void
end_relative(struct scene *s)
{
    if (s->done) {
        sf_topic_fini(&s->topic);
    }
}

TEST(a_topic_object_is_made_or_not_made_at_all)
{
    explore(&(struct op){"init", .set = set_nothing, .run = init_relative, .end = end_relative});
}

/* ---- removal ---- */

static int
remove_always(struct scene *s)
{
    (void)s;
    return sf_segment_remove(path_of("t"), NULL, SF_ALWAYS);
}

static int
remove_that_one(struct scene *s)
{
    return sf_segment_remove(path_of("t"), s->other->identity, SF_ALWAYS);
}

static int
remove_if_idle(struct scene *s)
{
    (void)s;
    return sf_segment_remove(path_of("t"), NULL, SF_WHEN_IDLE);
}

static void
end_flagged(struct scene *s)
{
    /* G2: whoever is in it is told before the name goes. */
    bool named = access(path_of("t"), F_OK) == 0;
    bool flagged = (sf_load_relaxed(&s->other->ring.header->ended) & SF_UNLINKED) != 0;
    CHECK(named || flagged);
    CHECK(named || s->done);
    end_going_on(s);
}

static void
set_foreign(struct scene *s)
{
    (void)s;
    s->fd = open(path_of("t"), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    REQUIRE(write(s->fd, block, sizeof block) == (ssize_t)sizeof block);
    close(s->fd);
}

static void
set_idle(struct scene *s)
{
    (void)s;
    REQUIRE_EQ(create("t", 1 << 16, 1 << 14, 3), 0);
}

static void
end_unlinked(struct scene *s)
{
    CHECK_EQ(access(path_of("t"), F_OK) == 0, !s->done);
    (void)unlink(path_of("t"));
}

TEST(a_topic_is_removed_and_all_are_told_or_it_stays)
{
    explore(&(struct op){"remove", .set = set_peer, .run = remove_always, .end = end_flagged});
    explore(&(struct op){"remove one generation", .set = set_peer, .run = remove_that_one,
                         .end = end_flagged});
    explore(&(struct op){"remove one in use", .set = set_peer, .run = remove_if_idle,
                         .end = end_flagged, .want = SF_BUSY});
    explore(&(struct op){"remove an idle one", .set = set_idle, .run = remove_if_idle,
                         .end = end_unlinked});
    explore(&(struct op){"remove what is no topic", .set = set_foreign, .run = remove_always,
                         .end = end_unlinked});
}

/* ---- temporary topics ---- */

static void
set_temporary(struct scene *s)
{
    struct sf_params params = {.capacity = 1 << 16, .max_participants = 64, .flags = SF_TEMPORARY};
    REQUIRE_EQ(sf_segment_create(path_of("t"), &params, 0600, NULL, NULL), 0);
    s->att = attach("t", SF_AS_WRITER);
}

static int
leave(struct scene *s)
{
    if (s->att) {
        sf_attachment_unref(s->att);
        s->att = NULL;
    }
    return 0;
}

static int
leave_at_exit(struct scene *s)
{
    (void)s;
    sf_process_exit();
    return 0;
}

static void
end_temporary(struct scene *s)
{
    (void)leave(s);
    if (access(path_of("t"), F_OK) == 0) {
        CHECK(tally->hit);
        CHECK_EQ(sf_segment_remove(path_of("t"), NULL, SF_WHEN_IDLE), 0); /* nobody is in it */
    }
}

TEST(a_temporary_topic_is_left_whatever_fails)
{
    explore(&(struct op){"leave a temporary one", .set = set_temporary, .run = leave,
                         .end = end_temporary});
    explore(&(struct op){"process exit", .set = set_temporary, .run = leave_at_exit,
                         .end = end_temporary});
}

/* ---- all of it ---- */

TEST(every_call_of_these_operations_was_made_to_fail)
{
    static const char *const calls[] = {
        "open",      "close",  "fstat",           "lstat", "stat",  "unlink", "linkat", "rename",
        "faccessat", "getcwd", "clock_nanosleep", "mmap",  "fcntl", "calloc", "strdup", NULL};
    report(calls);
}
