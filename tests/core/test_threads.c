/* Participants as threads over one mapping: what the thread sanitizer can watch.
 *
 * Owns:      several attachments to one topic whose rings and arenas are pointed at the same
 *            addresses, so that a sanitizer sees that they touch the same bytes; writers, readers
 *            that hold, readers that copy, loans, a participant that dies holding the lock.
 * Does not:  race processes (test_flow.c) or judge speed.
 *
 * The speculative copy of edge F is a race by design: what it read is thrown away unless seq is
 * still the same. It is made by a function that the sanitizer does not look at; every other load
 * and store of payload is watched, and ordered by edges A, D, E and G or reported.
 */
#include "scratch.h"

#define UNWATCHED __attribute__((no_sanitize("thread"), noinline))

enum { PEOPLE = 6, MOST = 6000, RUN_MS = 700 };

struct place {
    struct sf_attachment *att;
    char *control, *arena, *arena_rw; /* its own, to be given back */
};

static struct place places[PEOPLE];
static _Atomic uint32_t stop, dead;
static _Atomic uint64_t written, viewed, copied;

/* Attaches to a topic of 64 KiB and looks at it through the first one's addresses. */
static void
meet(const char *name)
{
    REQUIRE_EQ(create(name, 64 * 1024, 16 * 1024, 0), 0);
    for (int i = 0; i < PEOPLE; i++) {
        struct sf_attachment *att = attach(name, SF_AS_WRITER);
        places[i] = (struct place){att, att->control, att->arena, att->arena_rw};
        struct sf_attachment *first = places[0].att;
        struct sf_layout layout = att->ring.lay;
        att->arena_rw = first->arena_rw;
        att->arena = first->arena_rw;
        sf_ring_bind(&att->ring, &layout, first->control);
        att->cursor = &att->ring.slots[att->slot].cursor;
        sf_subscribe(att, SF_OLDEST);
    }
    sf_store_seq(&stop, 0);
    sf_store_seq(&dead, 0);
}

static void
part(const char *name)
{
    for (int i = PEOPLE - 1; i >= 0; i--) {
        struct sf_attachment *att = places[i].att;
        att->arena = places[i].arena;
        att->arena_rw = places[i].arena_rw;
        struct sf_layout layout = att->ring.lay;
        sf_ring_bind(&att->ring, &layout, places[i].control);
        sf_attachment_unref(att);
    }
    remove_topic(name);
}

static void *
write_on(void *context)
{
    struct sf_attachment *att = context;
    unsigned char data[MOST];
    uint64_t turn = 0;
    while (sf_load_seq(&stop) == 0) {
        turn++;
        uint64_t len = turn % 3 == 0 ? MOST : 8 + turn % 500;
        memset(data, (int)(turn % 251), len);
        if (turn % 7 == 0) {
            /* A loan that is dropped: its block is another's again (E). */
            struct sf_claim claim;
            if (sf_send_claim(att, len, SF_LANE_NEVER, SECONDS(20), &claim) == 0) {
                struct sf_out out = out_of(NULL, len, &len);
                memset(sf_send_payload(att, &out, &claim), 255, len);
                sf_send_drop(att, &claim);
            }
        }
        int64_t status = send_bytes(att, data, len, 0);
        CHECK(status > 0);
        (void)sf_add_relaxed64(&written, 1);
    }
    return NULL;
}

/* Byte by byte, so that no watched memcpy is called. False if they are not all the same. */
UNWATCHED static bool
copy_alike(const char *from, uint64_t len)
{
    bool alike = true;
    for (uint64_t i = 1; i < len; i++) {
        alike = alike && *(const volatile char *)(from + i) == *(const volatile char *)from;
    }
    return alike;
}

static bool
all_alike(const char *at, uint64_t len)
{
    for (uint64_t i = 1; i < len; i++) {
        if (at[i] != at[0]) {
            return false;
        }
    }
    return true;
}

static void
read_one(struct sf_attachment *att, bool hold)
{
    struct sf_message m;
    uint64_t from;
    int status = sf_take_look(att, false, &from, &m);
    if (status == SF_EMPTY) {
        (void)sf_wait_message(att, m.seq, SECONDS(0.02), 0, NULL);
        return;
    }
    REQUIRE_EQ(status, 0);
    if (hold && m.pinnable) {
        if (sf_pin(att, &m, false) == SF_PIN_OK) {
            CHECK(all_alike(sf_message_payload(att, &m), m.payload_len)); /* watched: A, D */
            os_yield();
            CHECK(all_alike(sf_message_payload(att, &m), m.payload_len));
            CHECK(sf_take_commit(att, from, &m));
            sf_unpin(att, m.desc);
            (void)sf_add_relaxed64(&viewed, 1);
        }
        return;
    }
    bool alike = copy_alike(sf_message_payload(att, &m), m.payload_len);
    if (sf_is_current(&att->ring, &m)) {
        CHECK(alike);
        CHECK(sf_take_commit(att, from, &m));
        (void)sf_add_relaxed64(&copied, 1);
    }
}

static void *
read_views(void *context)
{
    while (sf_load_seq(&stop) == 0) {
        read_one(context, true);
    }
    return NULL;
}

static void *
read_copies(void *context)
{
    while (sf_load_seq(&stop) == 0) {
        read_one(context, false);
    }
    return NULL;
}

/* Claims, takes the lock, and is no more: the kernel frees its byte, and nobody unlocks. */
static void *
die_in_the_lock(void *context)
{
    struct sf_attachment *att = context;
    struct sf_claim claim;
    nap_ms(RUN_MS / 4);
    CHECK_EQ(sf_send_claim(att, 3000, SF_LANE_NEVER, SECONDS(20), &claim), 0);
    CHECK_EQ(sf_lock_wait(att, SECONDS(20)), 0);
    os_unmap(att->life, os_page_len());
    att->life = NULL;
    sf_store_seq(&dead, 1);
    return NULL;
}

static void
run(void *(*const roles[PEOPLE])(void *))
{
    pthread_t threads[PEOPLE];
    for (int i = 0; i < PEOPLE; i++) {
        if (roles[i]) {
            REQUIRE_EQ(pthread_create(&threads[i], NULL, roles[i], places[i].att), 0);
        }
    }
    nap_ms(RUN_MS);
    sf_store_seq(&stop, 1);
    for (int i = 0; i < PEOPLE; i++) {
        if (roles[i]) {
            pthread_join(threads[i], NULL);
        }
    }
}

static void
check_tables(struct sf_attachment *att)
{
    REQUIRE_EQ(sf_lock_wait(att, SECONDS(20)), 0);
#ifdef SF_DEBUG
    sf_check_locked(&att->ring);
#endif
    sf_unlock(att);
}

TEST(writers_and_readers_in_one_mapping_do_not_race)
{
    if (check_is_emulated()) {
        return; /* as in test_flow.c: the emulator breaks C */
    }
    meet("threads");
    run((void *(*const[PEOPLE])(void *)){write_on, write_on, read_views, read_views, read_copies,
                                         read_copies});
    CHECK(sf_load_seq(&written) > 20 && sf_load_seq(&viewed) > 0 && sf_load_seq(&copied) > 0);
    check_tables(places[0].att);
    part("threads");
}

TEST(a_death_in_the_lock_is_mended_in_the_same_mapping)
{
    if (check_is_emulated()) {
        return; /* as in test_flow.c: the emulator breaks C */
    }
    meet("death");
    run((void *(*const[PEOPLE])(void *)){write_on, write_on, read_views, read_copies, NULL,
                                         die_in_the_lock});
    CHECK_EQ(sf_load_seq(&dead), 1);
    check_tables(places[0].att);
    struct sf_header *header = places[0].att->ring.header;
    CHECK(sf_load_seq(&header->rebuilds) >= 1);
    uint32_t slot = places[5].att->slot;
    CHECK_EQ(sf_load_seq(&places[0].att->ring.slots[slot].state), SF_SLOT_FREE);
    places[5].att->slot = SF_NIL; /* given up on its behalf */
    part("death");
}
