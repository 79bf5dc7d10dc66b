/* A topic "t" with a writer, and readers that join it: for the tests of join.c.
 *
 * Owns:      the topic's size and depth; joining, writing without waiting, where a reader stands.
 * Does not:  check what joining promises (the tests).
 */
#ifndef SHMFLOW_TESTS_JOINED_H
#define SHMFLOW_TESTS_JOINED_H

#include "scratch.h"

#include "core/status.h"

enum { LEN = 64, DEPTH = 8 };

static int
join(struct sf_attachment *att, const char *group, enum sf_start start, bool lossless)
{
    struct sf_joining how = {.group = group, .start = start, .lossless = lossless};
    return sf_join(att, &how, SECONDS(10));
}

/* Without waiting for anybody: 0, or why not. */
static int
write_now(struct sf_attachment *att)
{
    char data[LEN] = {0};
    uint64_t len = LEN, seq;
    struct sf_out out = out_of(data, len, &len);
    return sf_send_small(att, &out, SF_TRY, &seq);
}

static void
write_some(struct sf_attachment *att, int count)
{
    for (int i = 0; i < count; i++) {
        CHECK_EQ(write_now(att), 0);
    }
}

static uint64_t
cursor_of(struct sf_attachment *att)
{
    return sf_load_relaxed(att->cursor); /* one thread */
}

static uint64_t
next_of(struct sf_attachment *att)
{
    struct sf_message m = {.seq = 0};
    return take(att, &m) == 0 ? m.seq : 0;
}

static void
check_tables(struct sf_attachment *att)
{
    REQUIRE_EQ(sf_lock_try(att), 0);
    sf_unlock(att); /* looks at the invariants */
}

/* A topic with a writer; others attach to it. */
static struct sf_attachment *
open_topic(uint64_t depth, int messages)
{
    struct sf_attachment *att = create_and_attach("t", 1 << 16, depth);
    write_some(att, messages);
    return att;
}

/* Two that attach, and join a group "g" one after the other. */
static void
join_two(struct sf_attachment **a, struct sf_attachment **b, enum sf_start second, bool lossless)
{
    *a = attach("t", SF_AS_READER);
    *b = attach("t", SF_AS_READER);
    CHECK_EQ(join(*a, "g", SF_OLDEST, lossless), 0);
    CHECK_EQ(join(*b, "g", second, lossless), 0);
}

static void
close_topic(struct sf_attachment *att)
{
    check_tables(att);
    sf_attachment_unref(att);
    remove_topic("t");
}

#endif
