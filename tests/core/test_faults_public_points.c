/* Forks, the public C interface and beacons, while the calls they stand on fail.
 *
 * Owns:      fork.c, capi.c, beacon.c.
 * Does not:  look at what they are made of (the other test_faults_*).
 */
#include "faults.h"

#include "core/beacon.h"

/* ---- fork ---- */

/* It holds a message, and one that it has published as a loan. */
static void
set_family(struct scene *s)
{
    set_peer_and_att(s);
    REQUIRE_EQ(take(s->att, &s->taken), 0);
    REQUIRE(sf_pin(s->att, &s->taken, false) == SF_PIN_OK);
    uint64_t len = BLOCK, seq;
    struct sf_out out = out_of(NULL, len, &len);
    REQUIRE_EQ(sf_send_claim(s->att, BLOCK, SF_LANE_NEVER, SF_TRY, &s->claim), 0);
    sf_loan_begin(s->att, s->claim.desc);
    memset(sf_send_payload(s->att, &out, &s->claim), 'l', BLOCK);
    sf_loan_keep(s->att, s->claim.desc);
    REQUIRE_EQ(sf_send_publish(s->att, &out, &s->claim, SECONDS(10), &seq), 0);
}

static void
end_family(struct scene *s)
{
    sf_unpin(s->att, s->taken.desc);
    sf_unpin(s->att, s->claim.desc);
    end_going_on(s);
}

/* Nobody writes meanwhile, so even what could not be copied looks the same. */
static int
fork_once(struct scene *s)
{
    fflush(NULL);
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        check_failures = 0;
        check_is_main = 0;
        alarm(20);
        CHECK(!sf_attachment_is_mine(s->att));
        bool trouble = sf_fork_trouble();
        CHECK(!trouble || tally->hit);
        CHECK(is_all(s->att->arena + s->taken.block_off, 'a'));
        CHECK(is_all(s->other->arena + s->held.block_off, 'a'));
        CHECK(is_all(s->att->arena + s->claim.off, 'l'));
        if (!trouble) {
            CHECK(is_all(s->att->arena_rw + s->claim.off, 'l'));
        }
        sf_attachment_unref(s->att);
        os_fault_arm(0, 0, false);
        struct sf_attachment *own = attach("t", SF_AS_WRITER);
        CHECK(put(own, 'f', 100) > 0);
        sf_attachment_unref(own);
        _exit(check_failures != 0);
    }
    return await(pid) == 0 ? 0 : SF_CORRUPT;
}

TEST(a_forked_child_can_look_at_what_it_inherited)
{
    explore(&(struct op){"fork", .set = set_family, .run = fork_once, .end = end_family});
}

/* ---- the public C interface ---- */

static const struct shmflow_options small = {.capacity = 1 << 16, .max_message = 1 << 14};

static int
public_open(struct scene *s, int writer)
{
    return shmflow_open(&s->public_topic, "t", writer, &small);
}

static int
public_open_reader(struct scene *s)
{
    return public_open(s, 0);
}

static int
public_open_writer(struct scene *s)
{
    return public_open(s, 1);
}

static void
set_public_writer(struct scene *s)
{
    set_peer(s);
    REQUIRE_EQ(public_open_writer(s), 0);
}

static void
set_public_reader(struct scene *s)
{
    set_peer(s);
    REQUIRE_EQ(public_open_reader(s), 0);
}

static void
set_public_alone(struct scene *s)
{
    REQUIRE_EQ(public_open_writer(s), 0);
}

static int
public_write(struct scene *s)
{
    memset(block, 'p', sizeof block);
    struct shmflow_array array = {.data = block, .len = sizeof block};
    return shmflow_write(s->public_topic, &array, 3000000, NULL);
}

static int
public_read(struct scene *s)
{
    struct shmflow_message message;
    int status = shmflow_read(s->public_topic, &message, 3000000);
    if (status == 0) {
        CHECK(message.seq == 1 && is_all(message.array.data, 'a'));
        shmflow_release(&message);
    }
    return status;
}

static int
public_read_small(struct scene *s)
{
    struct shmflow_message message;
    int status = shmflow_read(s->public_topic, &message, 3000000);
    if (status == 0) {
        CHECK(message.array.len == 10 && memcmp(message.array.data, "ssssssssss", 10) == 0);
        shmflow_release(&message);
    }
    return status;
}

static void
set_public_drained(struct scene *s)
{
    set_public_reader(s);
    struct shmflow_message message;
    REQUIRE_EQ(shmflow_read(s->public_topic, &message, 0), 0);
    shmflow_release(&message);
}

static void
set_public_small(struct scene *s)
{
    set_public_drained(s);
    REQUIRE(put(s->other, 's', 10) > 0);
}

static void
set_public_absent(struct scene *s)
{
    REQUIRE_EQ(public_open_reader(s), 0);
}

static int
public_shutdown(struct scene *s)
{
    return shmflow_shutdown(s->public_topic, 3000000);
}

static void
set_public_joined(struct scene *s)
{
    set_public_writer(s);
    REQUIRE_EQ(public_write(s), 0);
}

static int
public_unlink(struct scene *s)
{
    (void)s;
    return shmflow_unlink("t");
}

static void
end_public(struct scene *s)
{
    shmflow_close(s->public_topic);
    if (s->other) {
        end_going_on(s);
    }
    else {
        (void)unlink(path_of("t"));
    }
}

TEST(the_public_interface_fails_with_a_status_and_works_when_asked_again)
{
    const struct op ops[] = {
        {"shmflow_open to read", set_peer, public_open_reader, end_public, 0, 0, 0, 0, 0},
        {"shmflow_open to write", set_peer, public_open_writer, end_public, 0, 0, 0, 0, 0},
        {"shmflow_write joins", set_public_writer, public_write, end_public, 0, 0, 0, 0, 0},
        {"shmflow_write creates", set_public_alone, public_write, end_public, 0, 0, MADE_STAYS, 0,
         0},
        {"shmflow_read a view", set_public_reader, public_read, end_public, 0, 0, 0, 0, 0},
        {"shmflow_read a copy", set_public_small, public_read_small, end_public, 0, 0, 0, 0, 0},
        {"shmflow_read waits", set_public_drained, public_read, end_public, SF_EMPTY, 0, 0, 0, 0},
        {"shmflow_read nothing", set_public_absent, public_read, end_public, SF_EMPTY, 0, 0, 0, 0},
        {"shmflow_shutdown", set_public_joined, public_shutdown, end_public, 0, 0, 0, 0, 0},
        {"shmflow_unlink", set_peer, public_unlink, end_public, 0, 0, 0, 0, 0},
    };
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++) {
        explore(&ops[i]);
    }
}

/* ---- beacons ---- */

/* What it makes it ends at once: the thread's own calls are few, and any of them may fail too. */
static int
make_beacon(struct scene *s)
{
    struct sf_beacon *beacon;
    int status = sf_beacon_make(s->att->path, s->att, &beacon);
    if (status == 0) {
        struct sf_message message;
        CHECK_EQ(take(s->att, &message), 0);
        sf_beacon_settle(beacon, s->att);
        sf_beacon_end(beacon);
    }
    return status;
}

TEST(a_beacon_that_cannot_be_made_leaves_nothing)
{
    explore(
        &(struct op){"beacon", .set = set_peer_and_att, .run = make_beacon, .end = end_going_on});
}

/* ---- all of it ---- */

TEST(every_call_of_these_operations_was_made_to_fail)
{
    static const char *const calls[] = {
        "open",     "close",      "fstat",           "lstat",          "linkat",
        "unlink",   "mmap",       "mremap",          "fcntl",          "madvise",
        "mprotect", "futex_wait", "clock_nanosleep", "malloc",         "calloc",
        "strdup",   "eventfd",    "write",           "pthread_create", "pthread_attr_init",
        NULL};
    report(calls);
}
