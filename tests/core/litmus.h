/* Two threads, one side of an edge each, let loose at the same moment again and again.
 *
 * Owns:      struct duel, its rounds with a random delay on each side, counting and printing what came.
 * Does not:  know an edge; test_litmus.c does.
 */
#ifndef SHMFLOW_TESTS_LITMUS_H
#define SHMFLOW_TESTS_LITMUS_H

#include "core/attachment.h"
#include "plain.h"

#include <stdatomic.h>

#define WORDS 8
#define LEN 8192u /* above the threshold: it can be held */

struct duel {
    const char *name;
    const char *const *outcomes; /* what each of the judge's four answers means */
    void (*side[2])(struct duel *duel);
    int (*judge)(struct duel *duel); /* between rounds, alone: which outcome? Sets up the next */

    struct plain plain;
    struct sf_ring *ring;
    struct sf_attachment *att[2];
    struct sf_desc *desc; /* of the message that all is about */
    struct sf_claim claim;
    _Atomic uint64_t *payload;
    uint64_t seq, round;

    _Alignas(64) uint64_t got[2][8]; /* what a side saw; on a line of its own */
    _Alignas(64) _Atomic uint32_t arrived;
    _Alignas(64) _Atomic uint32_t stop;
    uint64_t count[4];
};

/* A barrier that spins, since a sleep would set the two apart by more than what is looked for. */
static void
meet(struct duel *duel, uint32_t *phase)
{
    *phase += 2;
    sf_add_seq32(&duel->arrived, 1);
    for (uint32_t spins = 0; (int32_t)(sf_load_seq(&duel->arrived) - *phase) < 0; spins++) {
        if (spins % 262144 == 262143) {
            os_yield(); /* where there is one CPU, the other needs it; sooner would part the two */
        }
    }
}

static uint64_t
rounds_asked_for(void)
{
    const char *text = getenv("LITMUS_ROUNDS");
    return text ? strtoull(text, NULL, 10) : 0;
}

static void
run_side(struct duel *duel, int side)
{
    uint64_t random = 88172645463325252u + (uint64_t)side;
    uint64_t asked = rounds_asked_for();
    uint64_t until = os_now_ns() + 350000000u;
    uint32_t phase = 0;
    for (;;) {
        meet(duel, &phase);
        if (sf_load_seq(&duel->stop) != 0) {
            return;
        }
        uint64_t delay = random_next(&random) % (duel->round % 4 == 0 ? 512 : 32);
        for (volatile uint64_t i = 0; i < delay; i++) {
        }
        duel->side[side](duel);
        meet(duel, &phase);
        if (side == 0) {
            duel->count[duel->judge(duel)]++;
            duel->round++;
            bool enough = asked != 0 ? duel->round >= asked
                                     : duel->round >= 300000 ||
                                           (duel->round % 64 == 0 && os_now_ns() >= until);
            sf_store_seq(&duel->stop, enough);
        }
    }
}

static void *
run_second(void *context)
{
    run_side(context, 1);
    return NULL;
}

static struct sf_attachment *
attach_plainly(struct duel *duel, uint32_t slot)
{
    struct sf_attachment *att = calloc(1, sizeof *att);
    REQUIRE(att != NULL);
    att->ring = duel->plain.ring;
    att->slot = slot;
    att->owner = plain_owner(&duel->plain, slot);
    return att;
}

typedef void half(struct duel *duel);

/* One claim, of slot 0's; the last outcome of a duel is the forbidden one. */
static void
start(struct duel *duel, const char *name, const char *const *outcomes, half *first, half *second,
      int (*judge)(struct duel *duel))
{
    memset(duel, 0, sizeof *duel);
    duel->name = name;
    duel->outcomes = outcomes;
    duel->side[0] = first;
    duel->side[1] = second;
    duel->judge = judge;
    plain_open(&duel->plain, 1 << 20, LEN, 8);
    duel->ring = &duel->plain.ring;
    duel->att[0] = attach_plainly(duel, 0);
    duel->att[1] = attach_plainly(duel, 1);
    REQUIRE_EQ(plain_claim(&duel->plain, 0, LEN, &duel->claim), 0);
    duel->desc = &duel->ring->descs[duel->claim.desc];
    duel->payload = (_Atomic uint64_t *)(void *)plain_bytes(&duel->plain, duel->claim.off);
    for (int i = 0; i < WORDS; i++) {
        sf_store_relaxed(&duel->payload[i], 0); /* no other thread yet */
    }
    duel->seq = 1;
}

static void
publish_once(struct duel *duel)
{
    struct sf_message m = plain_describe(LEN, duel->round + 1);
    REQUIRE_EQ(sf_publish_locked(duel->ring, duel->claim.desc, &m), 0);
    duel->seq = m.seq;
}

/* Runs it and prints the counts; how often the forbidden outcome came. */
static uint64_t
fight(struct duel *duel)
{
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, run_second, duel) == 0);
    run_side(duel, 0);
    pthread_join(thread, NULL);
    printf("litmus %s: %llu rounds:", duel->name, (unsigned long long)duel->round);
    for (int i = 0; i < 4; i++) {
        if (duel->outcomes[i] != NULL) {
            printf(" %s %llu%s", duel->outcomes[i], (unsigned long long)duel->count[i],
                   i < 3 ? "," : "\n");
        }
    }
    free(duel->att[0]);
    free(duel->att[1]);
    plain_close(&duel->plain);
    return duel->count[3];
}

static void
expect_weak(struct duel *duel)
{
    if (fight(duel) == 0) {
        printf("note: %s: the forbidden outcome did not come; this run could not show that it "
               "would be seen\n",
               duel->name);
    }
}

/* The emulation lets a load pass an earlier seq_cst store, which C and H rest on. */
#define SKIP_IF_EMULATED                                                                           \
    if (check_is_emulated()) {                                                                     \
        return;                                                                                    \
    }

#endif
