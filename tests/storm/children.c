/* The supervisor's children: born, frozen, killed, reaped, seen to end by themselves.
 *
 * Owns:      storm.pids; each seat while nobody sits in it (S2).
 * Does not:  choose victims (storm.c) or look at the segment (watch.c).
 *
 * A crash here leaves: children that the kernel kills, since their parent died.
 */
#include "supervisor.h"

#include <errno.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

void
bear(uint32_t number)
{
    struct seat *seat = &board->seats[number];
    /* Relaxed: the child sees all that was stored before it was forked. */
    uint32_t incarnation = sf_load_relaxed(&seat->incarnation) + 1;
    sf_store_relaxed(&seat->incarnation, incarnation);
    sf_store_relaxed(&seat->owner, 0);
    sf_store_relaxed(&seat->claim, 0);
    sf_store_relaxed(&seat->version, 1);
    for (uint32_t i = 0; i < HELD; i++) {
        sf_store_relaxed(&seat->held[i], 0); /* as above */
    }
    storm.born_ns[number] = os_now_ns();
    pid_t pid = fork();
    if (pid < 0) {
        violate("cannot fork: %s", strerror(errno));
    }
    if (pid == 0) {
        on_violation = NULL;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != board->supervisor) {
            _exit(0);
        }
        signal(SIGINT, SIG_IGN);
        /* Relaxed: the first message that names it comes later. */
        sf_store_relaxed(&seat->pids[incarnation % PIDS], (uint32_t)getpid());
        if (number < WRITERS) {
            be_writer(number);
        }
        be_reader(number);
    }
    storm.pids[number] = pid;
}

static void
complain(uint32_t number, int how)
{
    storm.pids[number] = 0;
    violate("%s (seat %u) ended by itself: %s %d", role_of(number), number,
            WIFSIGNALED(how) ? "signal" : "status",
            WIFSIGNALED(how) ? WTERMSIG(how) : WEXITSTATUS(how));
}

static int
reap(uint32_t number)
{
    int how = 0;
    while (waitpid(storm.pids[number], &how, 0) < 0 && errno == EINTR) {
    }
    storm.pids[number] = 0;
    return how;
}

void
kill_and_reap(uint32_t number)
{
    kill(storm.pids[number], SIGKILL);
    board->team_deaths += is_member(number);
    int how = reap(number);
    if (!WIFSIGNALED(how) || WTERMSIG(how) != SIGKILL) {
        complain(number, how); /* it was quicker */
    }
}

void
kill_all(void)
{
    for (uint32_t i = 0; i < board->seat_count; i++) {
        if (storm.pids[i] > 0) {
            kill(storm.pids[i], SIGKILL);
            (void)reap(i);
        }
    }
}

void
freeze(uint32_t number)
{
    siginfo_t how;
    kill(storm.pids[number], SIGSTOP);
    while (waitid(P_PID, (id_t)storm.pids[number], &how, WSTOPPED | WEXITED | WNOWAIT) < 0 &&
           errno == EINTR) {
    }
    if (how.si_code != CLD_STOPPED) {
        look_for_ends();
    }
    (void)waitid(P_PID, (id_t)storm.pids[number], &how, WSTOPPED | WNOHANG);
}

void
look_for_ends(void)
{
    int how;
    for (uint32_t i = 0; i < board->seat_count; i++) {
        if (storm.pids[i] != 0 && waitpid(storm.pids[i], &how, WNOHANG) > 0) {
            complain(i, how);
        }
    }
    if (sf_load_acquire(&board->violated) != 0) { /* with violate */
        violate("told already");
    }
}

void
end_children(void)
{
    uint32_t first = (uint32_t)(storm.random % 2);
    for (uint32_t i = first; i < board->seat_count; i += 2) {
        if (!is_spared(i)) {
            kill(storm.pids[i], SIGKILL);
        }
    }
    sf_store_release(&board->stop, 1); /* a flag; looked at again and again */
    for (uint32_t i = first; i < board->seat_count; i += 2) {
        if (!is_spared(i)) {
            kill_and_reap(i);
            watch_dead(i);
        }
    }
    uint64_t until_ns = os_now_ns() + 2 * board->patience_ns;
    for (uint32_t i = 0; i < board->seat_count; i++) {
        int how = 0;
        while (storm.pids[i] != 0) {
            if (waitpid(storm.pids[i], &how, WNOHANG) > 0) {
                storm.pids[i] = 0;
            }
            else if (os_now_ns() > until_ns) {
                violate("%s (seat %u) was asked to leave and did not", role_of(i), i);
            }
            else {
                nap(MS);
            }
        }
        if (how != 0) {
            complain(i, how);
        }
    }
    look_for_ends();
}
