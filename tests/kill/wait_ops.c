/* Operations of participants: coming, leaving, sleeping, waking, cleaning, forking.
 *
 * Owns:      how each is set up and done.
 * Does not:  say what must be true if it is cut short (check.c).
 *
 * Invariants: that of flow_ops.c.
 * A crash here is the purpose.
 */
#include "kill.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- coming and leaving ---- */

static int
be_writer(struct scene *s)
{
    return attach_self(s, SF_AS_WRITER);
}

static int
be_monitor(struct scene *s)
{
    return attach_self(s, SF_AS_MONITOR);
}

/* All slots but the survivors' are dead ones': one is taken over, the others are cleaned. */
static void
fill_slots_with_the_dead(struct scene *s)
{
    struct sf_ring *ring = &s->writer.att->ring;
    for (uint32_t slot = (uint32_t)s->living; slot < ring->lay.max_participants; slot++) {
        sf_store_seq(&ring->slots[slot].state, SF_SLOT_TAKEN); /* nobody else is there */
    }
}

static int
leave(struct scene *s)
{
    struct sf_attachment *att = s->self.att;
    s->self.att = NULL;
    sf_attachment_unref(att);
    return 0;
}

static int
open_and_use(struct scene *s)
{
    struct sf_making make;
    struct sf_options options = {.mode = SF_MODE_RW,
                                 .start = SF_LATEST,
                                 .create = 0,
                                 .allow_lossless = true,
                                 .permissions = 0600,
                                 .max_participants = 64,
                                 .spin_ns = 0};
    int status = sf_topic_init(&s->topic, s->name, &options);
    status = status < 0 ? status : sf_topic_to_write(&s->topic, 0, &make);
    status = status < 0 ? status : sf_topic_to_read(&s->topic);
    if (status < 0) {
        return status;
    }
    s->self.att = s->topic.att;
    status = put(s, &s->self, LARGE, long_enough());
    int got = take(s, &s->self, false);
    s->self.att = NULL;
    return status < 0 ? status : got < 0 ? got : 0;
}

static int
close_topic(struct scene *s)
{
    sf_topic_fini(&s->topic);
    return 0;
}

/* ---- sleeping and waking ---- */

static int
be_new_reader(struct scene *s)
{
    int status = be_reader(s);
    if (status == 0) {
        sf_subscribe(s->self.att, SF_NEW);
    }
    return status;
}

static int
be_new_monitor(struct scene *s)
{
    int status = be_monitor(s);
    if (status == 0) {
        sf_subscribe(s->self.att, SF_NEW);
    }
    return status;
}

static int
sleep_until_a_message(struct scene *s)
{
    uint64_t until_ns = long_enough();
    struct sf_attachment *att = s->self.att;
    while (os_now_ns() < until_ns) {
        uint64_t cursor = sf_load_relaxed(att->cursor); /* our own */
        int status = sf_wait_message(att, cursor, until_ns, 0, NULL);
        int got = status < 0 ? status : take(s, &s->self, false);
        if (got != SF_EMPTY) {
            return got == 1 ? 0 : got;
        }
    }
    return SF_EMPTY;
}

static void
write_for_a_sleeper(struct scene *s)
{
    wait_for_a_sleeper(&s->writer.att->ring.header->bell);
    must_put(s, SMALL);
}

static void
write_for_a_monitor(struct scene *s)
{
    (void)os_sleep_until(os_now_ns() + MS / 2);
    must_put(s, SMALL);
}

/* The lock is a survivor's while the victim comes to it. */
static void
take_the_lock(struct scene *s)
{
    MUST(sf_lock_try(s->writer.att) == 0, "the lock");
}

static void
unlock_for_a_sleeper(struct scene *s)
{
    _Atomic uint32_t *lock = &s->writer.att->ring.header->lock;
    while (!victim_is_gone() && (sf_load_relaxed(lock) & SF_WAITERS) == 0) { /* a hint */
        (void)os_sleep_until(os_now_ns() + MS / 20);
    }
    if (!victim_is_gone()) {
        (void)os_sleep_until(os_now_ns() + MS / 5); /* into its sleep, most times */
    }
    sf_unlock(s->writer.att);
}

/* ---- cleaning ---- */

/* What somebody leaves who holds a frame and a loan. */
static int
hold_and_claim(struct scene *s)
{
    sf_subscribe(s->self.att, SF_LATEST);
    int got = take(s, &s->self, true);
    return got < 0
               ? got
               : sf_send_claim(s->self.att, LARGE, SF_LANE_NEVER, long_enough(), &s->self.claim);
}

static void
somebody_dies_holding(struct scene *s)
{
    helper_dies(s, hold_and_claim, NULL);
}

static int
clean(struct scene *s)
{
    /* Once more if the kernel has not let go of the helper's byte yet. */
    uint64_t until_ns = long_enough();
    while (sf_clean_dead(s->self.att) == 0) {
        if (os_now_ns() >= until_ns) {
            return SF_BUSY;
        }
    }
    return 0;
}

static void
wait_for_bytes_but_one(struct scene *s)
{
    somebody_dies_holding(s);
    uint64_t until_ns = long_enough();
    /* The helper's slot is the one after the victim's. */
    uint64_t first = SF_LOCK_SLOT + (uint64_t)notes[NOTE_VICTIM].attached;
    while (os_lock_test(s->fd, first, 1) == 1) {
        MUST(os_now_ns() < until_ns, "a dead process keeps its byte");
    }
}

/* ---- forking ---- */

static int
hold_a_view_and_a_loan(struct scene *s)
{
    int status = be_writer(s);
    int got = status < 0 ? status : take(s, &s->self, true);
    if (got < 0) {
        return got;
    }
    status = sf_send_claim(s->self.att, LARGE, SF_LANE_NEVER, long_enough(), &s->self.claim);
    if (status == 0) {
        sf_loan_begin(s->self.att, s->self.claim.desc);
        s->self.has_claim = true;
    }
    return status;
}

/* The child looks at its inherited view, then comes as somebody of its own. */
static int
live_as_child(struct scene *s)
{
    struct party mine = {.author = CHILD};
    uint64_t until_ns = long_enough(), byte = SF_LOCK_SLOT + (uint64_t)s->self.att->slot;
    check_held(&s->self, "the victim's child");
    sf_attachment_unref(s->self.att);
    if ((s->op->flags & IN_CHILD) == 0) {
        (void)os_sleep_until(os_now_ns() + 2 * MS); /* the victim may be about to die */
    }
    while (notes[NOTE_VICTIM].hit && os_lock_test(s->fd, byte, 1) == 1) {
        if (os_now_ns() >= until_ns) {
            return SF_BUSY; /* a child keeps its parent alive */
        }
    }
    int status = sf_attach(s->path, SF_AS_WRITER, &mine.att);
    status = status < 0 ? status : put(s, &mine, SMALL, long_enough());
    if (mine.att) {
        sf_attachment_unref(mine.att);
    }
    return status;
}

static int
fork_once(struct scene *s)
{
    int how = 0;
    pid_t pid = fork_in_act();
    if (pid == 0) {
        _exit(live_as_child(s) == 0 ? 0 : 6);
    }
    if (pid < 0 || waitpid(pid, &how, 0) != pid) {
        return SF_RACE;
    }
    bool as_meant = WIFSIGNALED(how) ? WTERMSIG(how) == SIGKILL : WEXITSTATUS(how) == 0;
    check_held(&s->self, "the victim");
    int status = put(s, &s->self, SMALL, long_enough());
    return as_meant ? status : SF_BAD_VALUE;
}

const struct op wait_ops[] = {
    {"attach as a reader", 0, 0, .act = be_reader, .ready = come_alone},
    {"attach as a writer", 0, 0, .act = be_writer, .ready = come_alone},
    {"attach as a monitor", 0, 0, .act = be_monitor, .ready = come_alone},
    {"take a dead one's slot", 0, 0, .act = be_reader, .ready = come_alone,
     .stage = fill_slots_with_the_dead},
    {"detach", 0, 0, .act = leave},
    {"close", 0, 1, .act = close_topic, .ready = open_and_use},
    {"sleep until a message", 0, 0, .act = sleep_until_a_message, .ready = be_new_reader,
     .meanwhile = write_for_a_sleeper},
    {"nap until a message", 0, 0, .act = sleep_until_a_message, .ready = be_new_monitor,
     .meanwhile = write_for_a_monitor},
    {"ring for a sleeper", 0, 1, .act = write_small, .stage = start_sleeper, .settle = end_sleeper},
    {"wait for the lock", 0, 1, .act = write_small, .between = take_the_lock,
     .meanwhile = unlock_for_a_sleeper},
    {"clean", 0, 0, .act = clean, .between = wait_for_bytes_but_one},
    {"attach and clean", 0, 0, .act = be_writer, .ready = come_alone,
     .stage = somebody_dies_holding},
    {"fork", FORKS | READS, 1, .act = fork_once, .ready = hold_a_view_and_a_loan},
    {"be forked", FORKS | IN_CHILD | READS, 1, .act = fork_once, .ready = hold_a_view_and_a_loan},
    {.name = NULL},
};
