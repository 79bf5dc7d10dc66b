/* capi.c: what programs without Python are promised of lossless readers and groups. */
#include "scratch.h"

#include "core/shmflow.h"

static struct shmflow_topic *
open_topic(int writer, uint64_t depth, uint32_t lossless, const char *group)
{
    struct shmflow_topic *topic = NULL;
    struct shmflow_options options = {
        .capacity = 1 << 16, .depth = depth, .lossless = lossless, .group = group};
    CHECK_EQ(shmflow_open(&topic, "public", writer, &options), 0);
    return topic;
}

static int
write_byte(struct shmflow_topic *topic, char byte, int64_t timeout_ns, uint64_t *seq)
{
    struct shmflow_array array = {.data = &byte, .len = 1};
    return shmflow_write(topic, &array, timeout_ns, seq);
}

/* Its byte, or a status. */
static int
read_byte(struct shmflow_topic *topic)
{
    struct shmflow_message message;
    int status = shmflow_read(topic, &message, 0);
    if (status == 0) {
        status = *(const char *)message.array.data;
        shmflow_release(&message);
    }
    return status;
}

TEST(a_write_waits_for_a_lossless_reader_and_for_no_other)
{
    uint64_t seq;
    struct shmflow_topic *writer = open_topic(1, 2, 0, NULL);
    CHECK_EQ(write_byte(writer, 'a', 0, &seq), 0);
    struct shmflow_topic *lossy = open_topic(0, 2, 0, NULL);
    struct shmflow_topic *reader = open_topic(0, 2, 1, NULL);
    CHECK_EQ(write_byte(writer, 'b', 0, &seq), 0);
    CHECK_EQ(write_byte(writer, 'c', 0, &seq), SHMFLOW_LAGGING);
    CHECK_EQ(write_byte(writer, 'c', 5000000, &seq), SHMFLOW_LAGGING);
    CHECK_EQ(read_byte(reader), 'a');
    CHECK_EQ(write_byte(writer, 'c', 0, &seq), 0);
    CHECK_EQ(seq, 3);
    CHECK_EQ(read_byte(lossy), 'b');
    shmflow_close(reader);
    for (char byte = 'd'; byte < 'j'; byte++) {
        CHECK_EQ(write_byte(writer, byte, 0, &seq), 0);
    }
    shmflow_close(lossy);
    shmflow_close(writer);
    CHECK_EQ(shmflow_unlink("public"), 0);
}

TEST(a_topic_that_waits_for_itself_alone_is_told_at_once)
{
    uint64_t seq;
    struct shmflow_topic *both = open_topic(1, 1, 1, NULL);
    CHECK_EQ(write_byte(both, 'a', -1, &seq), 0);
    CHECK_EQ(read_byte(both), 'a');
    CHECK_EQ(write_byte(both, 'b', -1, &seq), 0);
    CHECK_EQ(write_byte(both, 'c', -1, &seq), SHMFLOW_OWN_LAG);
    CHECK_EQ(read_byte(both), 'b');
    CHECK_EQ(write_byte(both, 'c', -1, &seq), 0);
    shmflow_close(both);
    CHECK_EQ(shmflow_unlink("public"), 0);
}

TEST(members_of_a_group_share_the_messages)
{
    uint64_t seq;
    struct shmflow_topic *writer = open_topic(1, 8, 0, NULL);
    CHECK_EQ(write_byte(writer, 'a', 0, &seq), 0);
    struct shmflow_topic *one = open_topic(0, 8, 0, "workers");
    struct shmflow_topic *two = open_topic(0, 8, 0, "workers");
    CHECK_EQ(write_byte(writer, 'b', 0, &seq), 0);
    CHECK_EQ(read_byte(two), 'a');
    CHECK_EQ(read_byte(one), 'b');
    CHECK_EQ(read_byte(two), SHMFLOW_EMPTY);
    shmflow_close(one);
    shmflow_close(two);
    shmflow_close(writer);
    CHECK_EQ(shmflow_unlink("public"), 0);
}

TEST(a_groups_name_is_not_empty_and_not_long)
{
    struct shmflow_topic *topic = NULL;
    struct shmflow_options options = {.group = ""};
    CHECK(shmflow_open(&topic, "public", 0, &options) < 0);
    options.group = "123456789012345678901234567890123456789012345678901234567890";
    CHECK(shmflow_open(&topic, "public", 0, &options) < 0);
    CHECK(topic == NULL);
}
