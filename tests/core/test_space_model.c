/* space.c and ring.c against a small model: whatever is done in whatever order, no byte that
 * somebody may look at changes, blocks never overlap, and room is found when it must be. */
#include "plain.h"

#ifdef __SANITIZE_THREAD__
#define CHECK_EVERY 100 /* it has one thread; looking at every byte would only take time */
#else
#define CHECK_EVERY 4
#endif

enum { CLAIMS = 6, PINS = 10, WRITERS = 3, FIRST_READER = 10 };

struct model {
    struct plain p;
    uint64_t state;
    uint64_t most; /* bytes of the largest message */
    struct {
        bool open;
        uint32_t slot;
        uint64_t len, tag;
        struct sf_claim claim;
    } claims[CLAIMS];
    struct {
        bool open;
        uint32_t slot;
        struct sf_message m;
    } pins[PINS];
    uint64_t head; /* what it must be */
};

static uint64_t
pick(struct model *model, uint64_t below)
{
    return random_next(&model->state) % below;
}

static uint64_t
pick_len(struct model *model)
{
    /* Many small, some large, the largest now and then. */
    switch (pick(model, 8)) {
    case 0:
        return model->most;
    case 1:
    case 2:
        return pick(model, model->most + 1);
    default:
        return pick(model, model->most / 8 + 2);
    }
}

static bool
overlap(uint64_t off, uint64_t len, uint64_t other_off, uint64_t other_len)
{
    return off < other_off + other_len && other_off < off + len;
}

/* A new block may lie on nothing that is claimed or held. */
static void
check_apart(struct model *model, const struct sf_claim *claim)
{
    for (int i = 0; i < CLAIMS; i++) {
        if (model->claims[i].open && &model->claims[i].claim != claim) {
            CHECK(!overlap(claim->off, claim->len, model->claims[i].claim.off,
                           model->claims[i].claim.len));
        }
    }
    for (int i = 0; i < PINS; i++) {
        if (model->pins[i].open) {
            CHECK(!overlap(claim->off, claim->len, model->pins[i].m.block_off,
                           model->pins[i].m.block_len));
        }
    }
}

static bool
lane_has_a_claim(struct model *model)
{
    for (int i = 0; i < CLAIMS; i++) {
        if (model->claims[i].open && model->claims[i].claim.in_lane) {
            return true;
        }
    }
    return false;
}

static void
open_claim(struct model *model, int i)
{
    struct plain *p = &model->p;
    uint32_t slot = (uint32_t)pick(model, WRITERS);
    uint64_t len = pick_len(model);
    struct sf_claim claim;
    int status = plain_claim(p, slot, len, &claim);
    if (status < 0) {
        CHECK_EQ(status, SF_NO_ROOM);
        CHECK(lane_has_a_claim(model)); /* nothing else may keep a message from its room */
        sf_give_up_turn(&p->ring, plain_owner(p, slot));
        return;
    }
    model->claims[i].claim = claim;
    check_apart(model, &model->claims[i].claim);
    CHECK(claim.len >= len && claim.len < len + 128);
    CHECK(claim.off % 64 == 0);
    CHECK(claim.off + claim.len <= p->ring.lay.capacity || claim.off >= p->ring.lay.capacity);
    model->claims[i].open = true;
    model->claims[i].slot = slot;
    model->claims[i].len = len;
    model->claims[i].tag = p->next_tag++;
    bytes_fill(plain_bytes(p, claim.off), len, model->claims[i].tag);
}

static void
end_claim(struct model *model, int i)
{
    struct plain *p = &model->p;
    model->claims[i].open = false;
    if (pick(model, 5) == 0) {
        sf_discard(&p->ring, model->claims[i].claim.desc);
        return;
    }
    struct sf_message m = plain_describe(model->claims[i].len, model->claims[i].tag);
    CHECK_EQ(sf_publish_locked(&p->ring, model->claims[i].claim.desc, &m), 0);
    CHECK_EQ(m.seq, ++model->head);
}

static void
change_pin(struct model *model, int i)
{
    struct plain *p = &model->p;
    if (model->pins[i].open) {
        sf_unpin_bit(&p->ring, model->pins[i].m.desc, model->pins[i].slot);
        model->pins[i].open = false;
        return;
    }
    uint64_t count = plain_head(p) + 1 - plain_tail(p);
    if (count == 0) {
        return;
    }
    struct sf_message m = plain_get(p, plain_tail(p) + pick(model, count));
    uint32_t slot = FIRST_READER + (uint32_t)i;
    if (m.pinnable && sf_pin_bit(&p->ring, m.desc, slot, m.seq)) {
        model->pins[i].open = true;
        model->pins[i].slot = slot;
        model->pins[i].m = m;
    }
}

static void
kill_one(struct model *model)
{
    uint32_t slot = (uint32_t)pick(model, WRITERS);
    plain_kill(&model->p, slot);
    for (int i = 0; i < CLAIMS; i++) {
        model->claims[i].open &= model->claims[i].slot != slot;
    }
    if (pick(model, 2) == 0) {
        CHECK_EQ(sf_rebuild_locked(&model->p.ring), 0);
    }
}

static void
check_bytes(struct model *model)
{
    struct plain *p = &model->p;
    for (int i = 0; i < CLAIMS; i++) {
        if (model->claims[i].open) {
            CHECK(bytes_hold(plain_bytes(p, model->claims[i].claim.off), model->claims[i].len,
                             model->claims[i].tag));
        }
    }
    for (int i = 0; i < PINS; i++) {
        if (model->pins[i].open) {
            CHECK(plain_holds(p, &model->pins[i].m));
        }
    }
    CHECK_EQ(plain_head(p), model->head);
    plain_check_history(p);
}

static void
run(uint64_t seed, uint64_t capacity, uint64_t most, uint64_t depth, uint64_t start, int steps)
{
    struct model *model = calloc(1, sizeof *model);
    plain_open(&model->p, capacity, most, depth);
    plain_start_at(&model->p, start);
    model->state = seed;
    model->most = most;
    model->head = start;
    for (int step = 0; step < steps; step++) {
        int i = (int)pick(model, CLAIMS);
        switch (pick(model, 16)) {
        case 0:
            if (pick(model, 8) == 0) {
                kill_one(model);
            }
            break;
        case 1:
        case 2:
        case 3:
            change_pin(model, (int)pick(model, PINS));
            break;
        default:
            if (model->claims[i].open) {
                end_claim(model, i);
            }
            else {
                open_claim(model, i);
            }
        }
        if (step % CHECK_EVERY == 0) {
            check_bytes(model);
        }
        plain_check(&model->p);
    }
    CHECK(plain_head(&model->p) - start > (uint64_t)steps / 8);
    plain_close(&model->p);
    free(model);
}

TEST(small_rings_of_mixed_sizes_agree_with_the_model)
{
    for (uint64_t seed = 1; seed <= 20; seed++) {
        run(seed, 16384, 16384, 0, 0, 1500);
        run(seed, 16384, 5000, 3, UINT32_MAX - 40, 1500);
    }
}

TEST(rings_of_large_blocks_with_many_pins_agree_with_the_model)
{
    for (uint64_t seed = 1; seed <= 8; seed++) {
        run(seed, 1 << 17, 1 << 14, 0, 0, 2000);
        run(seed, 1 << 16, 1 << 15, 40, (UINT64_C(1) << 63) - 100, 2000);
    }
}

TEST(a_depth_of_one_agrees_with_the_model)
{
    for (uint64_t seed = 1; seed <= 10; seed++) {
        run(seed, 4096, 4096, 1, (UINT64_C(1) << 63) - 20, 1000);
        run(seed, 1 << 16, 9000, 1, 0, 1000);
    }
}
