/* pins.c: a block is held exactly as long as somebody of this process looks at it. */
#include "scratch.h"

enum { LARGE = 8192 };

static struct sf_message
look(struct sf_attachment *att, uint64_t seq)
{
    struct sf_message m;
    memset(&m, 0, sizeof m);
    CHECK_EQ(sf_look(&att->ring, seq, &m), 0);
    CHECK_EQ(m.seq, seq);
    return m;
}

static void
send_some(struct sf_attachment *att, int count, uint64_t len)
{
    static char data[1 << 20];
    for (int i = 0; i < count; i++) {
        CHECK(send_bytes(att, data, len, 1) > 0);
    }
}

TEST(a_block_is_held_until_its_last_view_goes)
{
    struct sf_attachment *att = create_and_attach("views", 1 << 18, 4);
    send_some(att, 1, LARGE);
    struct sf_message m = look(att, 1);
    for (int i = 1; i <= 5; i++) {
        CHECK_EQ(sf_pin(att, &m, false), SF_PIN_OK);
        CHECK_EQ(att->held_blocks, 1);
        CHECK_EQ(att->held_len, m.block_len);
    }
    struct sf_participant *p = &att->ring.slots[att->slot];
    CHECK_EQ(sf_load_relaxed(&p->pinned), 5);
    CHECK_EQ(sf_load_relaxed(&p->held_len), m.block_len);
    for (int i = 5; i >= 1; i--) {
        CHECK(sf_is_held(&att->ring, m.desc));
        sf_unpin(att, m.desc);
    }
    CHECK(!sf_is_held(&att->ring, m.desc));
    CHECK_EQ(att->held_len, 0);
    CHECK_EQ(sf_load_relaxed(&p->held_blocks), 0);
    sf_attachment_unref(att);
    remove_topic("views");
}

TEST(what_is_gone_cannot_be_held)
{
    struct sf_attachment *att = create_and_attach("gone", 1 << 18, 2);
    send_some(att, 1, LARGE);
    struct sf_message m = look(att, 1);
    CHECK_EQ(sf_pin(att, &m, false), SF_PIN_OK);
    send_some(att, 2, LARGE);
    /* Held, and yet no message any more: no new view of it. */
    CHECK_EQ(sf_pin(att, &m, false), SF_PIN_GONE);
    CHECK(sf_is_held(&att->ring, m.desc));
    sf_unpin(att, m.desc);
    CHECK(!sf_is_held(&att->ring, m.desc));
    CHECK_EQ(sf_pin(att, &m, false), SF_PIN_GONE);
    CHECK(!sf_is_held(&att->ring, m.desc));
    CHECK_EQ(att->held_blocks, 0);
    sf_attachment_unref(att);
    remove_topic("gone");
}

TEST(a_participant_holds_its_share_and_no_more)
{
    struct sf_attachment *att = create_and_attach("cap", 1 << 18, 30);
    att->max_held = 3 * LARGE;
    send_some(att, 6, LARGE);
    struct sf_message m[6];
    for (uint64_t i = 0; i < 6; i++) {
        m[i] = look(att, i + 1);
    }
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(sf_pin(att, &m[i], false), SF_PIN_OK);
    }
    CHECK_EQ(sf_pin(att, &m[3], false), SF_PIN_CAP);
    CHECK(!sf_is_held(&att->ring, m[3].desc));
    CHECK_EQ(sf_pin(att, &m[0], false), SF_PIN_OK); /* costs nothing more */
    CHECK_EQ(sf_pin(att, &m[4], true), SF_PIN_OK);  /* a copy in progress is let in */
    CHECK(!sf_loan_fits(att, 64));
    sf_unpin(att, m[4].desc);
    sf_unpin(att, m[0].desc);
    CHECK_EQ(sf_pin(att, &m[3], false), SF_PIN_CAP);
    sf_unpin(att, m[0].desc);
    CHECK_EQ(sf_pin(att, &m[3], false), SF_PIN_OK);
    for (int i = 1; i <= 3; i++) {
        sf_unpin(att, m[i].desc);
    }
    CHECK_EQ(att->held_blocks, 0);
    sf_attachment_unref(att);
    remove_topic("cap");
}

TEST(as_many_blocks_as_must_may_be_held_however_large_they_are)
{
    struct sf_attachment *att = create_and_attach("single", 1 << 18, 30);
    CHECK_EQ(att->least_held, 2);
    att->max_held = 100;
    send_some(att, 3, LARGE);
    struct sf_message a = look(att, 1), b = look(att, 2), c = look(att, 3);
    CHECK_EQ(sf_pin(att, &a, false), SF_PIN_OK);
    CHECK_EQ(sf_pin(att, &b, false), SF_PIN_OK);
    CHECK_EQ(sf_pin(att, &c, false), SF_PIN_CAP);
    sf_unpin(att, a.desc);
    CHECK_EQ(sf_pin(att, &c, false), SF_PIN_OK);
    sf_unpin(att, b.desc);
    sf_unpin(att, c.desc);
    sf_attachment_unref(att);
    remove_topic("single");
}

TEST(a_published_loan_is_held_by_its_writer_until_its_array_dies)
{
    struct sf_attachment *att = create_and_attach("loan", 1 << 18, 2);
    struct sf_claim claim;
    uint64_t shape = LARGE, seq;
    struct sf_out out = out_of(NULL, LARGE, &shape);
    CHECK_EQ(sf_send_claim(att, LARGE, false, SECONDS(20), &claim), 0);
    sf_loan_begin(att, claim.desc);
    CHECK_EQ(att->held_len, LARGE);
    memset(sf_send_payload(att, &out, &claim), 'a', LARGE);
    sf_loan_keep(att, claim.desc);
    CHECK_EQ(sf_send_publish(att, &out, &claim, SECONDS(20), &seq), 0);
    struct sf_message m = look(att, seq);
    CHECK_EQ(sf_pin(att, &m, false), SF_PIN_OK); /* a view of what one sent oneself */
    sf_unpin(att, m.desc);
    for (int i = 0; i < 100; i++) {
        send_some(att, 1, LARGE);
        CHECK(sf_is_held(&att->ring, claim.desc));
        CHECK_EQ(att->arena[claim.off], 'a');
        CHECK_EQ(att->arena[claim.off + LARGE - 1], 'a');
    }
    sf_unpin(att, claim.desc);
    CHECK(!sf_is_held(&att->ring, claim.desc));
    CHECK_EQ(att->held_blocks, 0);
    sf_attachment_unref(att);
    remove_topic("loan");
}

TEST(a_dropped_loan_gives_its_block_back)
{
    struct sf_attachment *att = create_and_attach("drop", 1 << 14, 2);
    struct sf_claim claim;
    for (int i = 0; i < 300; i++) {
        CHECK_EQ(sf_send_claim(att, 1 << 14, false, SECONDS(20), &claim), 0);
        sf_loan_begin(att, claim.desc);
        sf_loan_drop(att, claim.desc);
    }
    CHECK_EQ(att->held_blocks, 0);
    CHECK_EQ(att->held_len, 0);
    sf_attachment_unref(att);
    remove_topic("drop");
}

/* ---- two threads hold and let go of the same blocks while a writer overwrites them ---- */

enum { ROUNDS = 1000000 };

struct holder {
    struct sf_attachment *att;
    uint64_t held, gone;
};

/* The first and the last word of a payload tell its number. */
static void
check_is_whole(struct sf_attachment *att, const struct sf_message *m)
{
    const uint64_t *words = (const void *)sf_message_payload(att, m);
    uint64_t last = m->payload_len / 8 - 1;
    if (words[0] != m->stamp_ns || words[last] != m->stamp_ns || words[last / 2] != m->stamp_ns) {
        CHECK(!"a held block changed");
    }
}

static void *
hold_and_let_go(void *context)
{
    struct holder *holder = context;
    struct sf_attachment *att = holder->att;
    struct sf_message m;
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t head = sf_load_seq(&att->ring.header->head);
        if (sf_look(&att->ring, head, &m) != 0 || !m.pinnable) {
            continue;
        }
        if (sf_pin(att, &m, true) != SF_PIN_OK) {
            holder->gone++;
            continue;
        }
        holder->held++;
        check_is_whole(att, &m);
        if (i % 256 == 0) {
            os_yield();
            check_is_whole(att, &m);
        }
        sf_unpin(att, m.desc);
    }
    return NULL;
}

struct overwriter {
    struct sf_attachment *att;
    _Atomic uint32_t stop;
};

static void *
overwrite(void *context)
{
    struct overwriter *o = context;
    static uint64_t words[LARGE / 8];
    for (uint64_t stamp = 2; sf_load_seq(&o->stop) == 0; stamp++) {
        for (size_t i = 0; i < LARGE / 8; i++) {
            words[i] = stamp;
        }
        CHECK(send_bytes(o->att, words, LARGE - stamp % 2 * 4096, stamp) > 0);
    }
    return NULL;
}

TEST(threads_that_hold_the_same_block_never_clear_each_others_bit)
{
    if (check_is_emulated()) {
        return; /* qemu lets a load pass an earlier seq_cst store (STLR, LDAR): C breaks there */
    }
    static uint64_t first[LARGE / 8];
    struct overwriter writer = {.att = create_and_attach("threads", 1 << 16, 2)};
    struct sf_attachment *reader = attach("threads", SF_AS_READER);
    struct holder holders[2] = {{.att = reader}, {.att = reader}};
    pthread_t threads[3];
    memset(first, 0, sizeof first);
    first[0] = first[LARGE / 16 - 1] = first[LARGE / 8 - 1] = 1;
    CHECK_EQ(send_bytes(writer.att, first, LARGE, 1), 1);
    for (int i = 0; i < 2; i++) {
        REQUIRE(pthread_create(&threads[i], NULL, hold_and_let_go, &holders[i]) == 0);
    }
    REQUIRE(pthread_create(&threads[2], NULL, overwrite, &writer) == 0);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    sf_store_seq(&writer.stop, 1);
    pthread_join(threads[2], NULL);
    CHECK(holders[0].held > ROUNDS / 10 && holders[1].held > ROUNDS / 10);
    for (uint32_t desc = 0; desc < reader->ring.lay.desc_len; desc++) {
        CHECK(!sf_is_held(&reader->ring, desc));
        CHECK_EQ(reader->pins[desc], 0);
    }
    CHECK_EQ(reader->held_blocks, 0);
    CHECK_EQ(reader->held_len, 0);
    sf_attachment_unref(reader);
    sf_attachment_unref(writer.att);
    remove_topic("threads");
}
