/* Making a segment and attaching to it, while the calls they stand on fail.
 *
 * Owns:      the process's setup; create.c, segment.c; an old kernel's fallocate.
 * Does not:  go by names over generations (test_faults_names_points.c).
 */
#include "faults.h"

#include <sys/syscall.h>

/* ---- the process's own preparation ---- */

static void
prepare_under_fault(void *context)
{
    struct op op = {.name = "process setup"};
    uint64_t *plan = context;
    struct snap before = look();
    arm(&op, plan[0], (unsigned)plan[1], plan[2] != 0);
    int status = sf_process_setup();
    disarm();
    snprintf(label, sizeof label, "process setup: %s with %s", tally->call, strerror(tally->error));
    if (tally->hit) {
        CHECK_EQ(status, -tally->error);
        struct snap after = look();
        if (strncmp(tally->call, "pthread_atfork", 14) == 0 && before.heap_len != 0) {
            before.private_len += os_page_len(); /* kept for the next try */
        }
        compare(&before, &after, true);
    }
    CHECK_EQ(sf_process_setup(), 0); /* memory that was short once may be there now */
    if (__atomic_load_n(&check_failures, __ATOMIC_RELAXED) != 0) {
        fprintf(stderr, "    with: %s\n", label);
    }
}

/* First of all: later tests set their process up, and children inherit that. */
TEST(a_process_that_could_not_be_set_up_is_set_up_later)
{
    tally->operations++;
    for (uint64_t nth = 1;; nth++) {
        unsigned choices = 1;
        for (uint64_t choice = 0; choice < choices; choice++) {
            for (uint64_t for_good = 0; for_good < 2; for_good++) {
                uint64_t plan[3] = {nth, choice, for_good};
                tally->hit = false;
                CHECK_EQ(await(child(prepare_under_fault, plan)), 0);
                if (!tally->hit) {
                    CHECK_EQ(nth, 4); /* a page, its wiping, the handlers */
                    return;
                }
                note_place();
                choices = tally->choices;
            }
        }
    }
}

/* ---- creation ---- */

static void
set_nothing(struct scene *s)
{
    (void)s;
}

static int
create_t(struct scene *s)
{
    (void)s;
    return create("t", 1 << 16, 1 << 14, 0);
}

static void
end_removed(struct scene *s)
{
    if (s->done) {
        struct sf_attachment *att = attach("t", SF_AS_WRITER);
        CHECK_EQ(put(att, 'c', BLOCK), 1); /* it is complete */
        sf_attachment_unref(att);
        remove_topic("t");
    }
}

TEST(creation_ends_whole_or_with_nothing_left)
{
    explore(&(struct op){"create", .set = set_nothing, .run = create_t, .end = end_removed});
}

TEST(creation_without_unnamed_files_ends_whole_or_with_nothing_left)
{
    explore(&(struct op){"create without O_TMPFILE", .set = set_nothing, .run = create_t,
                         .end = end_removed, .flags = FILE_STAYS, .first = "open(dir, O_TMPFILE",
                         .first_error = EOPNOTSUPP});
}

TEST(creation_without_proc_ends_whole_or_with_nothing_left)
{
    explore(&(struct op){"create without /proc", .set = set_nothing, .run = create_t,
                         .end = end_removed, .flags = FILE_STAYS, .first = "lstat",
                         .first_error = ENOENT});
}

TEST(creation_without_getrandom_ends_whole_or_with_nothing_left)
{
    explore(&(struct op){"create without getrandom", .set = set_nothing, .run = create_t,
                         .end = end_removed, .first = "getrandom", .first_error = ENOSYS,
                         .also = -EIO});
}

static int
between_steps(void *context)
{
    (void)context;
    return SF_INTERRUPTED;
}

static int
create_interrupted(struct scene *s)
{
    (void)s;
    struct sf_params params = {.capacity = 1 << 16, .max_participants = 64};
    return sf_segment_create(path_of("t"), &params, 0600, between_steps, NULL);
}

TEST(an_interrupted_creation_leaves_nothing)
{
    explore(&(struct op){"create, interrupted", .set = set_nothing, .run = create_interrupted,
                         .end = set_nothing, .want = SF_INTERRUPTED});
}

TEST(creation_under_a_taken_name_harms_nobody)
{
    explore(&(struct op){"create what exists", .set = set_peer, .run = create_t, .end = end_peer,
                         .want = SF_EXISTS});
}

/* ---- attaching ---- */

static int
attach_t(struct scene *s, enum sf_attach_as as)
{
    return sf_attach(path_of("t"), as, &s->att);
}

static int
attach_monitor(struct scene *s)
{
    return attach_t(s, SF_AS_MONITOR);
}

static int
attach_reader(struct scene *s)
{
    return attach_t(s, SF_AS_READER);
}

static int
attach_writer(struct scene *s)
{
    return attach_t(s, SF_AS_WRITER);
}

static void
set_peer_and_dead(struct scene *s)
{
    set_peer(s);
    leave_dead_one(s);
}

/* An attacher to a topic with a dead participant may leave cleaning to the next one. */
static void
end_dead(struct scene *s)
{
    CHECK(s->done || s->att == NULL);
    end_cleaned(s);
}

TEST(attaching_ends_attached_or_as_if_it_had_not_been_tried)
{
    explore(&(struct op){"attach a monitor", .set = set_peer, .run = attach_monitor,
                         .end = end_going_on});
    explore(&(struct op){"attach a reader", .set = set_peer, .run = attach_reader,
                         .end = end_going_on});
    explore(&(struct op){"attach a writer", .set = set_peer, .run = attach_writer,
                         .end = end_going_on});
    explore(&(struct op){"attach beside a dead one", .set = set_peer_and_dead, .run = attach_writer,
                         .end = end_dead});
}

static void
set_full(struct scene *s)
{
    set_peer(s);
    s->fd = os_file_open(path_of("t"), true);
    REQUIRE_EQ(os_lock_try(s->fd, SF_LOCK_SLOT + 1, 63), 0);
}

static void
end_full(struct scene *s)
{
    CHECK_EQ(os_file_close(s->fd), 0);
    end_going_on(s);
}

TEST(a_full_topic_is_told_as_full)
{
    explore(&(struct op){"attach where all is taken", .set = set_full, .run = attach_reader,
                         .end = end_full, .want = SF_NO_SLOT});
}

static int
peek_t(struct scene *s)
{
    struct sf_layout layout;
    struct os_file_info info;
    return sf_segment_peek(path_of("t"), &layout, &info, s->identity);
}

static int
ask_for_name(struct scene *s)
{
    return sf_attachment_is_named(s->other) ? 0 : SF_GONE;
}

TEST(a_look_costs_nothing)
{
    explore(&(struct op){"peek", .set = set_peer, .run = peek_t, .end = end_going_on});
    explore(&(struct op){"is it named", .set = set_peer, .run = ask_for_name, .end = end_going_on});
}

/* ---- a timer on an old kernel ---- */

/* The longest step that is not interrupted; 0: the kernel's own answer. */
static off_t longest_step;

/* Before Linux 6.0 a signal interrupts it, and what the call has reserved so far is undone. */
int
fallocate(int fd, int mode, off_t off, off_t len)
{
    if (longest_step != 0 && len > longest_step) {
        errno = EINTR;
        return -1;
    }
    return (int)syscall(SYS_fallocate, fd, mode, off, len);
}

TEST(a_timer_that_interrupts_every_long_step_does_not_keep_creation_from_its_end)
{
    longest_step = 100000;
    alarm(20);
    CHECK_EQ(create("t", 1 << 24, 1 << 14, 0), 0);
    longest_step = 0;
    remove_topic("t");
}

/* ---- all of it ---- */

TEST(every_call_of_these_operations_was_made_to_fail)
{
    static const char *const calls[] = {
        "open",      "close",     "fstat",          "lstat",     "statfs",  "fchmod",
        "ftruncate", "link",      "linkat",         "fallocate", "unlink",  "fopen",
        "fgets",     "read",      "mmap",           "fcntl",     "madvise", "calloc",
        "strdup",    "getrandom", "pthread_atfork", NULL};
    report(calls);
}
