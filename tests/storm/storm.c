/* storm: participants of one topic are killed, or frozen, at random, and nothing may come of it.
 *
 *     storm --kills N [--seed S] [--stop] [--mix] [--lossless] [--capacity B] [--max-message B]
 *           [--depth D]
 *
 * Owns:      the schedule of deaths, progress, the table at the end.
 * Does not:  judge messages (reader.c), tables (watch.c) or what is left (after.c); bear or reap
 *            (children.c).
 *
 * Four writers and six readers; one of them, at random, dies every 5 to 50 ms and is replaced at
 * once. --stop: it is frozen for 5 to 400 ms instead, and must find all it had; --mix: others die
 * meanwhile. --lossless: four readers more, two that lose nothing, of which one is spared, and two that
 * share what comes, and lose nothing but what dies with them. A part of the victims is hunted: whoever is met with the writer lock in its
 * hands, or with the lane. The schedule follows from the seed; where in their work it meets them does not.
 *
 * Exit status: 0; 1 a violation, which is told; 2 bad arguments; 130 interrupted. Children and
 * files are gone in any case but SIGKILL, after which the children are.
 */
#include "supervisor.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HUNT_ROUNDS = 100 };

struct storm storm;

static volatile sig_atomic_t interrupted;

static void
remove_folder(void)
{
    unlink(storm.path);
    rmdir(storm.folder);
}

/* on_violation: children and files go, and what was wrong is told. */
static void
end_badly(void)
{
    uint64_t until_ns = os_now_ns() + SECOND;
    while (sf_load_acquire(&board->violated) != 2 && os_now_ns() < until_ns) { /* with violate */
        nap(MS);
    }
    bool told = sf_load_acquire(&board->violated) == 2; /* as above */
    kill_all();
    remove_folder();
    printf("\nVIOLATION after %" PRIu64 " acts, seed %" PRIu64 ": %s\n", storm.done, board->seed,
           told ? board->told : "a participant was killed while it told what");
    exit(1);
}

/* ---- acts ---- */

/* Whoever is met with the writer lock in its hands, or busy in the lane, is stopped, and is the
 * victim if it has it still. Else the one that was chosen is stopped. A look costs little, so there
 * are many. */
static void
hunt(uint32_t *number)
{
    bool (*has_it)(const struct seat *) =
        draw(&storm.random) % 4 == 0 ? watch_has_lane : watch_has_lock;
    for (int round = 0; round < HUNT_ROUNDS; round++) {
        for (uint32_t i = 0; i < WRITERS; i++) {
            if (!has_it(&board->seats[i])) {
                continue;
            }
            freeze(i);
            if (has_it(&board->seats[i])) {
                *number = i;
                return;
            }
            kill(storm.pids[i], SIGCONT);
        }
        nap(draw_between(&storm.random, 1, 100) * 1000);
    }
    freeze(*number);
}

static uint32_t
choose(void)
{
    uint32_t number;
    do {
        number = (uint32_t)draw_between(&storm.random, 0, board->seat_count - 1);
    } while (is_spared(number));
    return number;
}

static void
kill_one(uint32_t number, bool may_hunt)
{
    if (number < WRITERS && may_hunt && draw(&storm.random) % 2 == 0) {
        hunt(&number);
        storm.with_lock += watch_has_lock(&board->seats[number]);
        storm.with_lane += watch_has_lane(&board->seats[number]);
    }
    uint64_t nothing = 0;
    (void)sf_cas_relaxed(&board->kill_ns, &nothing, os_now_ns()); /* write_one clears it */
    kill_and_reap(number);
    look_for_ends();
    watch_dead(number);
    storm.victims[number]++;
    bear(number);
}

static void
freeze_one(uint32_t number)
{
    if (draw(&storm.random) % 2 == 0) {
        hunt(&number);
    }
    else {
        freeze(number);
    }
    struct possession before;
    uint64_t since_ns = os_now_ns();
    watch_look(&board->seats[number], &before);
    nap(draw_between(&storm.random, 5, 400) * MS);
    if (storm.mix && draw(&storm.random) % 2 == 0) {
        uint32_t other = choose();
        if (other != number) {
            kill_one(other, false);
            storm.dead_beside++;
            nap(draw_between(&storm.random, 0, 250) * MS);
        }
    }
    watch_compare(number, &before, storm.mix);
    storm.victims[number]++;
    storm.with_lock += before.has_lock;
    storm.with_lane += before.has_lane;
    storm.frozen_with_lock_ns += before.has_lock ? os_now_ns() - since_ns : 0;
    kill(storm.pids[number], SIGCONT);
    storm.born_ns[number] = os_now_ns(); /* it could do nothing till now */
}

static uint64_t
total(size_t field)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < board->seat_count; i++) {
        /* Relaxed: for people. */
        sum += sf_load_relaxed((_Atomic uint64_t *)((char *)&board->seats[i].tally + field));
    }
    return sum;
}
#define TOTAL(name) total(offsetof(struct tally, name))

static void
tell_progress(bool at_end)
{
    bool is_tty = isatty(1);
    uint64_t now = os_now_ns();
    if (!at_end && now < storm.told_ns + (is_tty ? SECOND / 2 : 5 * SECOND)) {
        return;
    }
    storm.told_ns = now;
    printf("%s%" PRIu64 " of %" PRIu64 " %s, %.0f s, %" PRIu64 " written, %" PRIu64
           " read and verified%s",
           is_tty ? "\r" : "", storm.done, storm.acts, storm.stop ? "stops" : "kills",
           (double)(now - storm.started_ns) / 1e9, TOTAL(written), TOTAL(read),
           is_tty && !at_end ? " " : "\n");
    fflush(stdout);
}

static void
act(void)
{
    uint32_t number = choose();
    nap(draw_len(&storm.random, 5, 50) * MS); /* more often short than long */
    look_for_ends();
    if (storm.stop) {
        freeze_one(number);
    }
    else {
        kill_one(number, true);
        if (draw(&storm.random) % 16 == 0 && storm.done + 1 < storm.acts) {
            nap(draw_between(&storm.random, 0, 2000) * 1000); /* while it attaches */
            kill_one(number, true);
            storm.quick++;
            storm.done++;
        }
    }
    storm.done++;
    for (uint32_t i = 0; i < board->seat_count; i++) {
        watch_stuck(i, storm.born_ns[i]);
    }
    tell_progress(false);
}

/* ---- from start to end ---- */

static void
on_signal(int number)
{
    (void)number;
    interrupted = 1;
}

static uint64_t
to_number(const char *word, const char *value)
{
    char *end = NULL;
    uint64_t number = value ? strtoull(value, &end, 0) : 0;
    if (end && (*end == 'K' || *end == 'M')) {
        number <<= *end == 'K' ? 10 : 20;
        end++;
    }
    if (!end || *end || end == value) {
        fprintf(stderr, "storm: %s wants a number (K and M are understood)\n", word);
        exit(2);
    }
    return number;
}

static void
understand(int argc, char **argv)
{
    uint64_t patience = 20;
    board->seed = (uint64_t)getpid() << 32 ^ os_now_ns();
    board->capacity = UINT64_C(8) << 20;
    board->max_message = UINT64_C(1) << 20;
    board->seat_count = WRITERS + PLAIN_READERS;
    storm.acts = 500;
    for (int i = 1; i < argc; i++) {
        const struct {
            const char *word;
            uint64_t *value;
        } numbers[] = {{"--kills", &storm.acts},         {"--seed", &board->seed},
                       {"--capacity", &board->capacity}, {"--max-message", &board->max_message},
                       {"--depth", &board->depth},       {"--patience", &patience}};
        bool known = strcmp(argv[i], "--stop") == 0 || strcmp(argv[i], "--mix") == 0;
        storm.stop |= known;
        storm.mix |= strcmp(argv[i], "--mix") == 0;
        if (strcmp(argv[i], "--lossless") == 0) {
            board->seat_count = SEATS;
            known = true;
        }
        for (size_t n = 0; !known && n < sizeof numbers / sizeof *numbers; n++) {
            if (strcmp(argv[i], numbers[n].word) == 0) {
                *numbers[n].value = to_number(argv[i], argv[i + 1]);
                i++;
                known = true;
            }
        }
        if (!known) {
            fprintf(stderr, "storm: what is %s? See the head of storm.c.\n", argv[i]);
            exit(2);
        }
    }
    board->patience_ns = patience * SECOND;
    board->freezing = storm.stop;
    storm.random = mix(board->seed);
}

static void
make_topic(void)
{
    const char *base = getenv("SHMFLOW_DIR");
    snprintf(storm.folder, sizeof storm.folder, "%s/storm-XXXXXX", base ? base : "/dev/shm");
    if (!mkdtemp(storm.folder) || setenv("SHMFLOW_DIR", storm.folder, 1) != 0) {
        perror("storm: cannot make a folder for the topic");
        exit(2);
    }
    struct sf_params params = {.capacity = board->capacity,
                               .max_message = board->max_message,
                               .depth = board->depth,
                               .max_participants = TOPIC_SLOTS};
    int status = sf_segment_path(TOPIC_NAME, storm.path, sizeof storm.path);
    status = status < 0 ? status : sf_segment_create(storm.path, &params, 0600, NULL, NULL);
    if (status < 0) {
        fprintf(stderr, "storm: cannot make the topic: %s\n", sf_status_text(status));
        remove_folder();
        exit(2);
    }
    watch_open(storm.path);
}

static void
tell_end(void)
{
    printf("%-28s", storm.stop ? "frozen" : "killed");
    for (uint32_t i = 0; i < board->seat_count; i++) {
        printf("%s %s %" PRIu64, i ? "," : "", role_of(i), storm.victims[i]);
    }
    printf("\n%-28s %" PRIu64 ", with a claim in the lane %" PRIu64 " (quickly again %" PRIu64
           ", beside the frozen %" PRIu64 ")\n",
           "with the writer lock", storm.with_lock, storm.with_lane, storm.quick,
           storm.dead_beside);
    /* Relaxed: all have ended. The first rebuild made the segment. */
    printf("%-28s %u\n", "locks stolen, rebuilt",
           sf_load_relaxed(&watch_ring()->header->rebuilds) - 1);
    printf("%-28s %" PRIu64 ", %.1f MB (%" PRIu64 " loans, %" PRIu64 " dropped, %" PRIu64
           " refused in time)\n",
           "messages written", TOTAL(written), (double)TOTAL(written_len) / 1e6, TOTAL(loans),
           TOTAL(dropped), TOTAL(refused));
    printf("%-28s %" PRIu64 ", %.1f MB (%" PRIu64 " lost, %" PRIu64 " skipped, %" PRIu64
           " copied again)\n",
           "messages read and verified", TOTAL(read), (double)TOTAL(read_len) / 1e6, TOTAL(lost),
           TOTAL(skipped), TOTAL(repeats));
    printf("%-28s %" PRIu64 "\n", "told too late to compare", TOTAL(unchecked));
    printf("%-28s %" PRIu64 "\n", "held views verified", TOTAL(views));
    printf("%-28s %" PRIu64 "\n", "uses of the lane", TOTAL(in_lane));
    printf("%-28s %" PRIu64 "\n", "attached", TOTAL(joined));
    printf("%-28s recovery %.1f ms, write %.1f ms, time-out late by %.1f ms\n", "longest",
           (double)sf_load_relaxed(&board->longest_recovery_ns) / 1e6, /* for people, as above */
           (double)sf_load_relaxed(&board->longest_write_ns) / 1e6,
           (double)sf_load_relaxed(&board->longest_overshoot_ns) / 1e6);
    if (storm.stop) {
        printf("%-28s %.0f ms\n", "frozen with the lock", (double)storm.frozen_with_lock_ns / 1e6);
    }
}

/* A storm in which nothing happened proves nothing. */
static void
demand_weather(void)
{
    if (TOTAL(written) == 0 || TOTAL(read) == 0 || TOTAL(views) == 0) {
        violate("nothing was written, read or held");
    }
    /* Relaxed: all have ended. */
    uint64_t recovery_ns = sf_load_relaxed(&board->longest_recovery_ns);
    if (recovery_ns > board->patience_ns) {
        violate("after a death nothing was written for %" PRIu64 " ms", recovery_ns / MS);
    }
    if (storm.frozen_with_lock_ns > 2 * SECOND && TOTAL(refused) == 0) {
        violate("the lock stood still for long, and no time-out fired");
    }
}

int
main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    board = make_board();
    if (!board) {
        perror("storm: no memory");
        return 2;
    }
    board->supervisor = getpid();
    understand(argc, argv);
    printf("seed %" PRIu64 "\n", board->seed);
    make_topic();
    on_violation = end_badly;
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    signal(SIGHUP, on_signal);
    storm.started_ns = storm.told_ns = os_now_ns();
    for (uint32_t i = 0; i < board->seat_count; i++) {
        bear(i);
    }
    while (storm.done < storm.acts && !interrupted) {
        act();
    }
    if (interrupted) {
        kill_all();
        remove_folder();
        return 130;
    }
    end_children();
    if (board->seat_count == SEATS) {
        watch_team();
    }
    check_aftermath(storm.folder, storm.path);
    demand_weather();
    remove_folder();
    tell_progress(true);
    tell_end();
    return 0;
}
