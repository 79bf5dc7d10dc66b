/* rebuild.c after a death at any store: every operation under the lock is cut off after its first
 * store, its second, its third …, the dead is cleaned, the tables are rebuilt (and that is cut off
 * too), and what must be true is looked at.
 *
 * Owns:      sf_point, which a build with SF_FAILPOINTS calls after every store to shared memory.
 * Does not:  use processes: a death here is a longjmp out of the operation, and since that runs
 *            in one thread it sees every store so far. What the compiler or CPU may reorder is
 *            the business of the tests with real processes.
 */
#include "plain.h"

static jmp_buf death;
static long left = -1; /* points until death; negative: none comes */

void sf_point(const char *file, int line);
void
sf_point(const char *file, int line)
{
    (void)file;
    (void)line;
    if (left > 0 && --left == 0) {
        left = -1;
        longjmp(death, 1);
    }
}

enum { DYING = 0, OTHER = 1, READER = 20, LATE_READER = 21, HELD = 3 };

struct scene {
    struct plain p;
    struct sf_message held[HELD];
    int held_count;
    struct sf_claim mine;  /* of DYING */
    struct sf_claim other; /* of OTHER, alive; its bytes are tag 555 */
    uint64_t other_len;
    struct sf_message next; /* what the dying one is about to publish; tag 777 */
};

static void
hold(struct scene *s, uint64_t seq)
{
    s->held[s->held_count++] = plain_pin(&s->p, seq, READER);
}

static void
claim_other(struct scene *s, uint64_t len)
{
    REQUIRE_EQ(plain_claim(&s->p, OTHER, len, &s->other), 0);
    s->other_len = len;
    bytes_fill(plain_bytes(&s->p, s->other.off), len, 555);
}

static void
claim_mine(struct scene *s, uint64_t len)
{
    REQUIRE_EQ(plain_claim(&s->p, DYING, len, &s->mine), 0);
    s->next = plain_describe(len, 777);
    bytes_fill(plain_bytes(&s->p, s->mine.off), len, 777);
}

/* ---- what the ring looks like before ---- */

static void
set_empty(struct scene *s)
{
    plain_open(&s->p, 1 << 15, 1 << 13, 8);
    claim_other(s, 100);
}

static void
set_mixed(struct scene *s)
{
    plain_open(&s->p, 1 << 15, 1 << 13, 63);
    s->p.ring.lay.threshold = SF_LINE; /* its small blocks may be held, as large ones are */
    s->p.ring.lay.asked_depth = 0; /* claims evict rather than look for gaps: more to die in */
    plain_start_at(&s->p, UINT32_MAX - 3);
    for (uint64_t i = 1; i <= 30; i++) {
        (void)plain_put(&s->p, 100 + i * 371 % 5000);
    }
    hold(s, plain_tail(&s->p) + 1);
    hold(s, plain_head(&s->p) - 1);
    claim_other(s, 2000);
}

static void
set_full_depth(struct scene *s)
{
    plain_open(&s->p, 1 << 15, 1 << 13, 3);
    for (int i = 0; i < 7; i++) {
        (void)plain_put(&s->p, 4096);
    }
    hold(s, plain_tail(&s->p));
    claim_other(s, 64);
    claim_mine(s, 1000);
}

static void
set_main_held(struct scene *s)
{
    plain_open(&s->p, 3 * 4096, 4096, 63);
    for (uint64_t seq = 1; seq <= 3; seq++) {
        (void)plain_put(&s->p, 4096);
        hold(s, seq);
    }
    for (int i = 0; i < 40; i++) {
        (void)plain_put(&s->p, 4000);
    }
    claim_other(s, 3000);
}

static void
set_leftovers(struct scene *s)
{
    struct sf_claim claim;
    set_mixed(s);
    /* A discarded claim, a dead one's, and a block that was retired and let go of. */
    REQUIRE_EQ(plain_claim(&s->p, 2, 500, &claim), 0);
    sf_discard(&s->p.ring, claim.desc);
    REQUIRE_EQ(plain_claim(&s->p, 3, 600, &claim), 0);
    plain_kill(&s->p, 3);
    struct sf_message gone = plain_pin(&s->p, plain_tail(&s->p), READER);
    sf_evict_through_locked(&s->p.ring, gone.seq);
    sf_unpin_bit(&s->p.ring, gone.desc, READER);
    claim_mine(s, 777);
}

static void
set_no_descriptors(struct scene *s)
{
    struct sf_claim claim;
    set_empty(s);
    (void)plain_put(&s->p, 200);
    (void)plain_put(&s->p, 200);
    while (sf_load_relaxed(&s->p.ring.header->free_first) != SF_NIL) {
        REQUIRE_EQ(plain_claim(&s->p, 4, 64, &claim), 0);
    }
}

/* ---- what the dying one does ---- */

static void
do_claim_small(struct scene *s)
{
    (void)plain_claim(&s->p, DYING, 64, &s->mine);
}

static void
do_claim_large(struct scene *s)
{
    (void)plain_claim(&s->p, DYING, 8000, &s->mine);
}

static void
do_publish(struct scene *s)
{
    (void)sf_publish_locked(&s->p.ring, s->mine.desc, &s->next);
}

static void
do_publish_loan(struct scene *s)
{
    sf_pin_own_claim(&s->p.ring, s->mine.desc, DYING);
    do_publish(s);
}

static void
do_discard(struct scene *s)
{
    sf_discard(&s->p.ring, s->mine.desc);
}

static void
do_evict_all(struct scene *s)
{
    sf_evict_through_locked(&s->p.ring, plain_head(&s->p));
}

static void
do_rebuild(struct scene *s)
{
    (void)sf_rebuild_locked(&s->p.ring);
}

static void
do_pin(struct scene *s)
{
    struct sf_message m;
    if (sf_look_newest(&s->p.ring, plain_tail(&s->p), &m) == 0 &&
        sf_pin_bit(&s->p.ring, m.desc, DYING, m.seq)) {
        sf_unpin_bit(&s->p.ring, m.desc, DYING);
    }
}

/* ---- what must be true after ---- */

static void
check_after(struct scene *s, uint64_t head, bool may_lose, uint64_t tail)
{
    struct plain *p = &s->p;
    plain_check_history(p);
    CHECK(plain_head(p) == head || plain_head(p) == head + 1);
    CHECK(may_lose ? plain_tail(p) >= tail : plain_tail(p) == tail);
    if (plain_head(p) == head + 1) {
        CHECK_EQ(plain_get(p, head + 1).stamp_ns, 777);
    }
    for (int i = 0; i < s->held_count; i++) {
        CHECK(sf_is_held(&p->ring, s->held[i].desc));
        CHECK(plain_holds(p, &s->held[i]));
    }
    CHECK_EQ(sf_load_relaxed(&p->ring.descs[s->other.desc].owner), plain_owner(p, OTHER));
    CHECK(bytes_hold(plain_bytes(p, s->other.off), s->other_len, 555));
}

/* The others go on, and once all have let go nothing is left behind. */
static void
check_goes_on(struct scene *s)
{
    struct plain *p = &s->p;
    struct sf_claim all;
    struct sf_message m = plain_describe(s->other_len, 555);
    CHECK_EQ(sf_publish_locked(&p->ring, s->other.desc, &m), 0);
    for (uint64_t i = 0; i < 6; i++) {
        int status = plain_claim(p, OTHER, 500 * i, &all);
        CHECK_EQ(status, 0);
        CHECK(status < 0 || plain_publish(p, &all, 500 * i) == 0);
        plain_check_history(p);
    }
    for (int i = 0; i < s->held_count; i++) {
        CHECK(plain_holds(p, &s->held[i]));
        sf_unpin_bit(&p->ring, s->held[i].desc, READER);
    }
    plain_kill(p, 4);
    CHECK_EQ(sf_claim_locked(&p->ring, plain_owner(p, OTHER), p->ring.lay.capacity, false, &all),
             0);
    sf_discard(&p->ring, all.desc);
    CHECK_EQ(plain_claim(p, OTHER, p->ring.lay.lane_len, &all), 0);
    plain_check(p);
}

/* Setting a scene takes longer than all that follows, so it is done once and copied. */
static struct scene first;
static char *first_memory;

static void
make_scene(void (*set)(struct scene *))
{
    memset((void *)&first, 0, sizeof first);
    set(&first);
    plain_check(&first.p);
    first_memory = malloc(first.p.ring.lay.file_len);
    REQUIRE(first_memory != NULL);
    memcpy(first_memory, first.p.memory, first.p.ring.lay.file_len);
}

static void
open_scene(struct scene *s)
{
    memcpy(first.p.memory, first_memory, first.p.ring.lay.file_len);
    *s = first;
}

static void
drop_scene(void)
{
    free(first_memory);
    plain_close(&first.p);
}

/* True if it died; false when it had fewer than n points. */
static bool
die_at(long n, struct scene *s, void (*act)(struct scene *))
{
    left = n;
    if (setjmp(death) != 0) {
        return true;
    }
    act(s);
    left = -1;
    return false;
}

/* Dies at each point of act, and then at points of the rebuild too (at each for the first two
 * deaths, at another few for each one later). Answers how many points act has. */
static long
die_everywhere(void (*set)(struct scene *), void (*act)(struct scene *), bool may_lose)
{
    static struct scene s; /* static: longjmp leaves it as it is */
    static long n, again;
    static uint64_t head, tail;
    make_scene(set);
    for (n = 1;; n++) {
        for (again = 0;; again += n < 3 ? 1 : again == 0 ? 1 + n % 61 : 61) {
            open_scene(&s);
            head = plain_head(&s.p);
            tail = plain_tail(&s.p);
            bool died = die_at(n, &s, act);
            if (!died) {
                drop_scene();
                return n - 1;
            }
            plain_kill(&s.p, DYING);
            bool died_again = again > 0 && die_at(again, &s, do_rebuild);
            REQUIRE_EQ(sf_rebuild_locked(&s.p.ring), 0);
            check_after(&s, head, may_lose, tail);
            check_goes_on(&s);
            if (again > 0 && !died_again) {
                break;
            }
        }
    }
}

#define DIES_IN(set, act, may_lose, least)                                                         \
    do {                                                                                           \
        long points = die_everywhere(set, act, may_lose);                                          \
        CHECK(points >= (least));                                                                  \
        if (getenv("CHECK_VERBOSE") != NULL) {                                                     \
            printf("%s %s: %ld points\n", #set, #act, points);                                     \
        }                                                                                          \
    } while (0)

TEST(a_death_in_claim_loses_nothing_but_what_was_in_its_way)
{
    DIES_IN(set_empty, do_claim_small, false, 8);
    DIES_IN(set_empty, do_claim_large, false, 8);
    DIES_IN(set_mixed, do_claim_small, true, 8);
    DIES_IN(set_mixed, do_claim_large, true, 25);
    DIES_IN(set_full_depth, do_claim_large, false, 8);
    DIES_IN(set_main_held, do_claim_small, true, 9);
    DIES_IN(set_main_held, do_claim_large, true, 25);
    DIES_IN(set_leftovers, do_claim_small, true, 8);
    DIES_IN(set_leftovers, do_claim_large, true, 20);
    DIES_IN(set_no_descriptors, do_claim_small, true, 10);
}

TEST(a_death_in_publish_leaves_the_message_whole_or_none)
{
    DIES_IN(set_full_depth, do_publish, true, 14);
    DIES_IN(set_leftovers, do_publish, true, 12);
    DIES_IN(set_full_depth, do_publish_loan, true, 15);
    DIES_IN(set_leftovers, do_publish_loan, true, 13);
}

TEST(a_death_in_discard_or_eviction_leaves_free_blocks)
{
    DIES_IN(set_leftovers, do_discard, false, 1);
    DIES_IN(set_full_depth, do_evict_all, true, 12);
    DIES_IN(set_mixed, do_evict_all, true, 25);
    DIES_IN(set_main_held, do_evict_all, true, 12);
}

TEST(a_death_in_rebuild_is_mended_by_the_next)
{
    DIES_IN(set_empty, do_rebuild, false, 90);
    DIES_IN(set_mixed, do_rebuild, false, 100);
    DIES_IN(set_full_depth, do_rebuild, false, 100);
    DIES_IN(set_main_held, do_rebuild, false, 100);
    DIES_IN(set_leftovers, do_rebuild, false, 100);
}

TEST(a_reader_that_dies_while_it_pins_holds_nothing)
{
    DIES_IN(set_mixed, do_pin, false, 2);
    DIES_IN(set_main_held, do_pin, false, 2);
}
