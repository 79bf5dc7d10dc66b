/* Processes: victims that die at their nth point, recoverers at their mth, helpers beside them.
 *
 * Owns:      sf_point, which the core calls after every store to shared memory and around every
 *            system call; forking and awaiting whoever may die.
 * Does not:  judge what is left; check.c does, when all of them are gone.
 *
 * Invariants
 *   1  Nobody who may die outlives the supervisor: the kernel kills them with it.
 *   2  A forked process touches no survivor's attachment: fork has made those void.
 * A crash here is what all of this is about.
 */
#include "kill.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

struct note *notes;
uint64_t residue;

static struct scene scene;
static pid_t victim;

static struct {
    struct note *note; /* NULL: nothing is counted */
    bool (*when)(struct scene *);
    long nth, points;
    int signal;
    bool forks, in_child;
    pid_t pid;
} armed;

void
sf_point(const char *file, int line)
{
    struct note *note = armed.note;
    if (!note || (armed.forks && (getpid() != armed.pid) != armed.in_child)) {
        return;
    }
    armed.points++;
    if (armed.when ? !armed.when(&scene) : armed.points != armed.nth) {
        return;
    }
    note->file = file;
    note->line = line;
    struct sf_attachment *att = armed.in_child ? NULL : scene.self.att;
    /* Relaxed: our own word, if it is ours. */
    note->locked = att && att->slot != SF_NIL &&
                   (sf_load_relaxed(&att->ring.header->lock) & ~SF_WAITERS) == att->owner;
    note->hit = 1;
    armed.note = NULL;
    raise(armed.signal);
}

/* ---- those who may die ---- */

static void
become(enum author author)
{
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int number = 1; number < 32; number++) {
        (void)signal(number, SIG_DFL);
    }
    scene.writer.att = scene.reader.att = scene.watcher.att = scene.filler.att = NULL;
    scene.member.att = NULL;
    memset(&scene.self, 0, sizeof scene.self);
    scene.self.author = author;
}

static pid_t
start(void)
{
    pid_t pid = fork();
    MUST(pid >= 0, "fork: %s", strerror(errno));
    return pid;
}

static void
arm(struct note *note, long nth, int signal_number, bool (*when)(struct scene *))
{
    armed.when = when;
    armed.nth = nth;
    armed.points = 0;
    armed.signal = signal_number;
    armed.forks = note == &notes[NOTE_VICTIM] && (scene.op->flags & FORKS) != 0;
    armed.in_child = armed.forks && (scene.op->flags & IN_CHILD) != 0;
    armed.pid = getpid();
    armed.note = note;
}

static void
await_go(struct note *note)
{
    sf_store_release(&note->ready, 1);
    while (sf_load_acquire(&note->go) == 0) {
        (void)os_sleep_until(os_now_ns() + MS / 20);
    }
}

static void
await_ready(struct note *note, pid_t pid)
{
    while (sf_load_acquire(&note->ready) == 0) {
        MUST(waitpid(pid, NULL, WNOHANG) == 0, "it ended before it was ready");
        (void)os_sleep_until(os_now_ns() + MS / 20);
    }
}

static _Noreturn void
be_victim(long nth, bool stop)
{
    struct note *note = &notes[NOTE_VICTIM];
    const struct op *op = scene.op;
    become(VICTIM);
    note->status = op->ready ? op->ready(&scene) : attach_self(&scene, SF_AS_WRITER);
    if (note->status < 0) {
        _exit(3);
    }
    note->attached = scene.self.att ? (int)scene.self.att->slot + 1 : 0;
    if (op->between) {
        await_go(note);
    }
    arm(note, nth, stop ? SIGSTOP : SIGKILL, NULL);
    note->status = op->act(&scene);
    armed.note = NULL;
    note->points = armed.points;
    struct sf_attachment *att = scene.self.att;
    /* Relaxed: our own words, if they are ours. */
    if (att && att->slot != SF_NIL &&
        ((sf_load_relaxed(&att->ring.header->lock) & ~SF_WAITERS) == att->owner ||
         sf_load_relaxed(&att->ring.header->turn) == att->owner)) {
        note->status = SF_BUSY; /* lock or turn was not given back */
    }
    note->done = 1;
    if (stop) {
        let_go(&scene.self);
        sf_attachment_unref(scene.self.att);
        _exit(0);
    }
    raise(SIGKILL);
    _exit(4);
}

/* What a recoverer does on a topic that it has attached to, before or after the first death. */
static int
recover(void)
{
    struct party *self = &scene.self;
    uint64_t until_ns = os_now_ns() + PATIENCE_NS;
    int status;
    do {
        status = put(&scene, self, SMALL, os_now_ns() + MS);
    } while ((status == SF_BUSY || status == SF_LAGGING) && os_now_ns() < until_ns);
    if (status == SF_ENDED || status == SF_GONE) {
        return 0;
    }
    (void)sf_clean_dead(self->att);
    if (status == 0) {
        status = put(&scene, self, LARGE, os_now_ns() + MS);
        sf_leave_queue(self->att);
    }
    int joined = (scene.op->flags & GROUP) != 0 ? join_team(&scene, self) : 0;
    int got = joined < 0 ? joined : take(&scene, self, true);
    let_go(self);
    return got < 0 && got != SF_EMPTY ? got : status == SF_NO_ROOM ? 0 : status;
}

static bool
by_name(const struct op *op)
{
    return (op->flags & (NO_TOPIC | TEMPORARY | MAY_END | IDLE)) != 0;
}

bool
takes_thief(const struct op *op)
{
    return !by_name(op) && (op->flags & FORKS) == 0; /* those await all children */
}

static _Noreturn void
be_recoverer(enum second second, long mth)
{
    struct note *note = &notes[NOTE_RECOVERER];
    become(RECOVERER);
    if (second == THIEF) {
        note->status = attach_self(&scene, SF_AS_WRITER);
        if (note->status < 0) {
            _exit(3);
        }
        note->attached = (int)scene.self.att->slot + 1;
        await_go(note);
    }
    arm(note, mth, SIGKILL, NULL);
    if (by_name(scene.op)) {
        note->status = come_and_go(&scene, RECOVERER);
    }
    else {
        note->status = second == THIEF ? 0 : attach_self(&scene, SF_AS_WRITER);
        note->status = note->status < 0 ? note->status : recover();
    }
    armed.note = NULL;
    note->points = armed.points;
    note->done = 1;
    raise(SIGKILL);
    _exit(4);
}

void
helper_dies(struct scene *s, int (*act)(struct scene *), bool (*when)(struct scene *))
{
    struct note *note = &notes[NOTE_HELPER];
    pid_t pid = start();
    int how;
    if (pid == 0) {
        become(HELPER);
        if (attach_self(s, SF_AS_WRITER) == 0) {
            arm(note, 0, SIGKILL, when);
            note->status = act(s);
            armed.note = NULL;
        }
        raise(SIGKILL);
    }
    MUST(waitpid(pid, &how, 0) == pid && WIFSIGNALED(how), "a helper");
    MUST(note->status == 0 && (!when || note->hit), "a helper: %s", sf_status_text(note->status));
}

void
start_sleeper(struct scene *s)
{
    _Atomic uint32_t *sleepers = &s->writer.att->ring.header->bell.sleepers;
    sf_store_seq(sleepers, 0);
    s->sleeper = start();
    if (s->sleeper == 0) {
        become(CHILD);
        int status = attach_self(s, SF_AS_READER); /* else it ends at once */
        sf_subscribe(s->self.att, SF_NEW);
        uint64_t until_ns = os_now_ns() + 2 * PATIENCE_NS;
        while (status == 0 && os_now_ns() < until_ns) {
            uint64_t cursor = sf_load_relaxed(s->self.att->cursor); /* its own */
            status = sf_wait_message(s->self.att, cursor, until_ns, 0, NULL);
            status = status == SF_EMPTY ? 0 : status;
            int got = status == 0 ? take(s, &s->self, false) : status;
            if (got == 1) {
                sf_attachment_unref(s->self.att);
                _exit(0);
            }
            status = got == SF_EMPTY ? 0 : got;
        }
        _exit(5);
    }
    while (sf_load_seq(sleepers) == 0) { /* H */
        MUST(waitpid(s->sleeper, NULL, WNOHANG) == 0, "the sleeper");
        (void)os_sleep_until(os_now_ns() + MS / 20);
    }
    s->living++;
}

void
end_sleeper(struct scene *s)
{
    int how;
    uint64_t until_ns = os_now_ns() + PATIENCE_NS / 2; /* it would sleep longer by itself */
    while (waitpid(s->sleeper, &how, WNOHANG) == 0) {
        MUST(os_now_ns() < until_ns, "nobody woke the sleeper");
        (void)os_sleep_until(os_now_ns() + MS / 20);
    }
    MUST(WIFEXITED(how) && WEXITSTATUS(how) == 0, "the sleeper ended with %x", how);
    s->living--;
    wait_for_free_bytes(s);
}

/* ---- the play ---- */

bool
victim_is_gone(void)
{
    siginfo_t info = {0};
    return waitid(P_PID, (id_t)victim, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid != 0;
}

static void
await_victim(bool stop)
{
    int how;
    struct note *note = &notes[NOTE_VICTIM];
    MUST(waitpid(victim, &how, stop ? WUNTRACED : 0) == victim, "the victim");
    if (WIFSTOPPED(how)) {
        check_while_stopped(&scene);
        MUST(kill(victim, SIGCONT) == 0, "the victim");
        MUST(waitpid(victim, &how, 0) == victim, "the victim");
    }
    bool as_meant = stop ? how == 0 : WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL;
    MUST(as_meant, "the victim ended with %x: %s", how, sf_status_text(note->status));
    MUST((note->hit && !stop) || (note->done && note->status == 0), "the act itself: %s",
         sf_status_text(note->status));
    while ((scene.op->flags & FORKS) != 0) {
        pid_t pid = waitpid(-1, &how, 0);
        if (pid < 0) {
            MUST(errno == ECHILD, "the victim's child");
            return;
        }
        MUST(WIFSIGNALED(how) ? WTERMSIG(how) == SIGKILL : WEXITSTATUS(how) == 0,
             "the victim's child ended with %x", how);
    }
}

static void
await_recoverer(pid_t pid)
{
    int how;
    struct note *note = &notes[NOTE_RECOVERER];
    MUST(waitpid(pid, &how, 0) == pid, "the recoverer");
    MUST(WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL, "the recoverer ended with %x: %s", how,
         sf_status_text(note->status));
    MUST(note->hit || (note->done && note->status == 0), "recovery itself: %s",
         sf_status_text(note->status));
}

bool
play(const struct op *op, long nth, enum second second, long mth, bool stop)
{
    static const char *const seconds[] = {"none", "attached before", "attaches"};
    pid_t recoverer = 0;
    context = (struct verdict_context){op->name, stop ? "stop" : seconds[second], nth, mth};
    memset(notes, 0, NOTES * sizeof *notes);
    alarm(60); /* a net against hanging: SIGALRM is a violation */
    scene_open(&scene, op, nth);
    scene.orderly = stop;
    if (second == THIEF) {
        recoverer = start();
        if (recoverer == 0) {
            be_recoverer(second, mth);
        }
        await_ready(&notes[NOTE_RECOVERER], recoverer);
        scene.spared = notes[NOTE_RECOVERER].attached;
    }
    victim = start();
    if (victim == 0) {
        be_victim(nth, stop);
    }
    if (op->between) {
        await_ready(&notes[NOTE_VICTIM], victim);
        op->between(&scene);
        sf_store_release(&notes[NOTE_VICTIM].go, 1);
    }
    if (op->meanwhile) {
        op->meanwhile(&scene);
    }
    await_victim(stop);
    residue = notes[NOTE_VICTIM].hit && !stop ? residue_of(&scene) : 0;
    if (second != NO_SECOND) {
        wait_for_free_bytes(&scene);
        if (second == THIEF) {
            scene.spared = 0;
            sf_store_release(&notes[NOTE_RECOVERER].go, 1);
        }
        else {
            recoverer = start();
            if (recoverer == 0) {
                be_recoverer(second, mth);
            }
        }
        await_recoverer(recoverer);
    }
    check_after_death(&scene);
    scene_close(&scene);
    alarm(0);
    return notes[NOTE_VICTIM].hit != 0;
}

void
leave_debris(const struct op *op)
{
    do {
        memset(notes, 0, NOTES * sizeof *notes);
        long nth = scene.nth + 1;
        memset(&scene, 0, sizeof scene);
        scene.op = op;
        scene.nth = nth;
        int status = sf_segment_path("kill", scene.path, sizeof scene.path);
        MUST(status == 0, "%s", sf_status_text(status));
        victim = start();
        if (victim == 0) {
            be_victim(nth, false);
        }
        MUST(waitpid(victim, NULL, 0) == victim, "the victim");
        (void)sf_segment_remove(scene.path, NULL, SF_ALWAYS);
    } while (notes[NOTE_VICTIM].hit);
}

pid_t
fork_in_act(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        armed.note = NULL; /* its points are over with the handlers */
    }
    return pid;
}
