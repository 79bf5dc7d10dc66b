/* create.c, remove.c: a topic's file takes the place of another, or that one stays as it was. */
#include "scratch.h"

#include <sys/syscall.h>

static const struct sf_params another = {.capacity = 1 << 17, .depth = 7, .max_participants = 8};

static int
count_files(void)
{
    int count = 0;
    DIR *dir = opendir(scratch_dir);
    REQUIRE(dir != NULL);
    while (readdir(dir) != NULL) {
        count++;
    }
    closedir(dir);
    return count - 2;
}

/* Whose memory is all that is left for another's arena, while it has a name. */
static const char *scarce;

int
fallocate(int fd, int mode, off_t off, off_t len)
{
    if (scarce && off != 0 && access(scarce, F_OK) == 0) {
        errno = ENOSPC;
        return -1;
    }
    return (int)syscall(SYS_fallocate, fd, mode, off, len);
}

/* "t" as somebody judged it to be who found it so. */
static struct sf_replaced
judge(enum sf_when when)
{
    struct sf_replaced old = {.there = true, .when = when};
    struct sf_layout layout;
    struct os_file_info info;
    REQUIRE_EQ(sf_segment_peek(path_of("t"), &layout, &info, old.identity), 0);
    old.spare_len = when == SF_WHEN_IDLE ? layout.file_len : 0;
    return old;
}

static int
replace(const struct sf_replaced *old, int (*between)(void *), void *context)
{
    return sf_segment_replace(path_of("t"), &another, 0600, old, between, context);
}

static bool
is_ended(struct sf_attachment *att)
{
    return (sf_load_acquire(&att->ring.header->ended) & SF_UNLINKED) != 0; /* with the setter */
}

static bool
is_another(void)
{
    struct sf_layout layout;
    struct os_file_info info;
    uint8_t identity[16];
    return sf_segment_peek(path_of("t"), &layout, &info, identity) == 0 &&
           layout.asked_depth == another.depth;
}

/* As it was, with its message, and nothing beside it. */
static void
check_that_it_stands(struct sf_attachment *att)
{
    struct sf_message m;
    CHECK(sf_attachment_is_named(att));
    CHECK(!is_ended(att));
    REQUIRE_EQ(sf_look(&att->ring, 1, &m), 0);
    CHECK_MEM(sf_message_payload(att, &m), "kept", 4);
    CHECK_EQ(count_files(), 1);
}

static struct sf_attachment *
make_it(void)
{
    struct sf_attachment *att = create_and_attach("t", 1 << 16, 3);
    REQUIRE_EQ(send_bytes(att, "kept", 4, 1), 1);
    return att;
}

struct meanwhile {
    struct sf_attachment *att;
    int called, answer;
};

static int
look_meanwhile(void *context)
{
    struct meanwhile *m = context;
    m->called++;
    check_that_it_stands(m->att);
    return m->answer;
}

TEST(what_is_replaced_stands_until_the_new_one_is_complete_and_is_told_then)
{
    struct meanwhile m = {.att = make_it()};
    struct sf_replaced old = judge(SF_ALWAYS);
    CHECK_EQ(replace(&old, look_meanwhile, &m), 0);
    CHECK(m.called >= 2);
    CHECK(is_ended(m.att) && is_another());
    CHECK_EQ(count_files(), 1);
    CHECK_EQ(send_bytes(m.att, "late", 4, 1), SF_GONE);
    sf_attachment_unref(m.att);
    remove_topic("t");
}

TEST(what_is_made_anew_but_not_to_its_end_replaces_nothing)
{
    struct meanwhile m = {.att = make_it(), .answer = SF_INTERRUPTED};
    struct sf_replaced old = judge(SF_ALWAYS);
    CHECK_EQ(replace(&old, look_meanwhile, &m), SF_INTERRUPTED);
    check_that_it_stands(m.att);
    sf_attachment_unref(m.att);
    remove_topic("t");
}

TEST(another_one_than_was_judged_is_not_replaced)
{
    struct sf_attachment *att = make_it();
    struct sf_replaced old = judge(SF_ALWAYS);
    old.identity[0] ^= 1;
    CHECK_EQ(replace(&old, NULL, NULL), SF_EXISTS);
    check_that_it_stands(att);
    old.any = true;
    CHECK_EQ(replace(&old, NULL, NULL), 0);
    CHECK(is_ended(att) && is_another());
    sf_attachment_unref(att);
    remove_topic("t");
}

TEST(what_is_idle_no_more_is_not_replaced)
{
    struct sf_attachment *att = make_it();
    struct sf_replaced old = judge(SF_WHEN_IDLE);
    CHECK_EQ(replace(&old, NULL, NULL), SF_EXISTS);
    check_that_it_stands(att);
    sf_attachment_unref(att);
    CHECK_EQ(replace(&old, NULL, NULL), 0);
    CHECK(is_another());
    remove_topic("t");
}

TEST(what_has_gone_meanwhile_is_made_all_the_same)
{
    struct sf_attachment *att = make_it();
    struct sf_replaced old = judge(SF_ALWAYS);
    remove_topic("t");
    CHECK_EQ(replace(&old, NULL, NULL), 0);
    CHECK(is_another());
    CHECK_EQ(count_files(), 1);
    sf_attachment_unref(att);
    remove_topic("t");
}

TEST(where_both_do_not_fit_only_what_is_idle_goes_first)
{
    struct sf_attachment *att = make_it();
    char path[200];
    snprintf(path, sizeof path, "%s", path_of("t"));
    scarce = path;
    struct sf_replaced old = judge(SF_ALWAYS);
    CHECK_EQ(replace(&old, NULL, NULL), SF_NO_SPACE);
    check_that_it_stands(att);
    old = judge(SF_WHEN_IDLE); /* it was so once */
    CHECK_EQ(replace(&old, NULL, NULL), SF_NO_SPACE);
    check_that_it_stands(att);
    sf_attachment_unref(att);
    CHECK_EQ(replace(&old, NULL, NULL), 0);
    scarce = NULL;
    CHECK(is_another());
    CHECK_EQ(count_files(), 1);
    remove_topic("t");
}
