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

TEST(a_message_above_the_max_message_that_was_asked_for_is_refused_and_nothing_is_touched)
{
    char data[1000] = {0};
    uint64_t seq;
    struct shmflow_options options = {.max_message = 100};
    struct shmflow_array array = {.data = data, .len = sizeof data};
    for (int round = 0; round < 2; round++) {
        struct shmflow_topic *topic = NULL;
        REQUIRE_EQ(shmflow_open(&topic, "public", 1, &options), 0);
        CHECK_EQ(shmflow_write(topic, &array, 0, &seq), SHMFLOW_TOO_LARGE);
        CHECK_EQ(write_byte(topic, 'a', 0, &seq), 0);
        CHECK_EQ(seq, (uint64_t)round + 1);
        shmflow_close(topic);
    }
    CHECK_EQ(shmflow_unlink("public"), 0);
}

TEST(a_lossless_writer_protects_what_it_has_yet_to_read_from_its_opening_on)
{
    uint64_t seq;
    struct shmflow_topic *writer = open_topic(1, 2, 0, NULL);
    CHECK_EQ(write_byte(writer, 'a', 0, &seq), 0);
    struct shmflow_topic *both = open_topic(1, 2, 1, NULL);
    CHECK_EQ(write_byte(writer, 'b', 0, &seq), 0);
    CHECK_EQ(write_byte(writer, 'c', 0, &seq), SHMFLOW_LAGGING);
    CHECK_EQ(read_byte(both), 'a');
    shmflow_close(both);
    shmflow_close(writer);
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

/* ---- what is written can be read ---- */

static const float samples[6] = {1, 2, 3, 4, 5, 6};
static const uint64_t two_by_three[2] = {2, 3};

static struct shmflow_array
good_array(void)
{
    return (struct shmflow_array){
        .data = samples,
        .len = sizeof samples,
        .dtype = "<f4",
        .ndim = 2,
        .shape = two_by_three,
        .meta = "{\"gain\": 1.5}",
        .meta_len = 13,
    };
}

#define REFUSES(change)                                                                            \
    do {                                                                                           \
        struct shmflow_array array = good_array();                                                 \
        array.change;                                                                              \
        CHECK_EQ(shmflow_write(writer, &array, 0, NULL), SHMFLOW_BAD_VALUE);                       \
    } while (0)

TEST(an_array_that_does_not_add_up_is_refused)
{
    struct shmflow_topic *writer = open_topic(1, 8, 0, NULL);
    uint64_t seq = 0, huge[2] = {UINT64_C(1) << 62, 0};
    REFUSES(len = 20);
    REFUSES(len = 28);
    REFUSES(ndim = 0); /* forgotten */
    REFUSES(ndim = 1);
    REFUSES(ndim = 33);
    REFUSES(shape = NULL);
    REFUSES(data = NULL);
    REFUSES(dtype = "garbage");
    REFUSES(dtype = "<f8");
    REFUSES(dtype = "O");
    REFUSES(dtype = "[('x', '|u1', 4)]"); /* no tuple, so Python would not read it */
    REFUSES(dtype_len = 2);
    REFUSES(dtype_len = 20000);
    REFUSES(meta = "no JSON, at all");
    REFUSES(meta = "[\"no object\"]");
    REFUSES(meta = NULL); /* but a length */
    REFUSES(meta_len = 0);
    REFUSES(meta_len = 12);
    REFUSES(meta_len = 1 << 20);
    struct shmflow_array array = {.shape = huge, .ndim = 2, .dtype = "<f4"};
    CHECK_EQ(shmflow_write(writer, &array, 0, NULL), SHMFLOW_BAD_VALUE);
    array = (struct shmflow_array){.data = samples, .len = 6, .shape = two_by_three};
    CHECK_EQ(shmflow_write(writer, &array, 0, NULL), SHMFLOW_BAD_VALUE); /* ndim, of bytes */
    /* Nothing of all that was written, nor made a topic. */
    CHECK_EQ(shmflow_unlink("public"), SHMFLOW_NOT_FOUND);
    array = good_array();
    CHECK_EQ(shmflow_write(writer, &array, 0, &seq), 0);
    CHECK_EQ(seq, 1);
    shmflow_close(writer);
    CHECK_EQ(shmflow_unlink("public"), 0);
}

TEST(what_was_read_can_be_written)
{
    static const char *const dtypes[] = {
        "|S24", "<M8[1000000ns]", "|V0000000000024",
        "[('a', '<f4', (2,)), ('b', '<i8'), ('', '|V4'), ('c', '<u4')]"};
    struct shmflow_topic *writer = open_topic(1, 8, 0, NULL);
    struct shmflow_topic *reader = open_topic(0, 8, 0, NULL);
    struct shmflow_message message;
    CHECK_EQ(shmflow_write(writer, &(struct shmflow_array){.data = "", .len = 0}, 0, NULL), 0);
    CHECK_EQ(shmflow_read(reader, &message, 0), 0);
    CHECK_EQ(shmflow_write(writer, &message.array, 0, NULL), 0);
    shmflow_release(&message);
    CHECK_EQ(shmflow_read(reader, &message, 0), 0);
    shmflow_release(&message);
    for (int i = 0; i < 4; i++) {
        char text[4096] = "{}";
        struct shmflow_array array = good_array();
        array.dtype = dtypes[i];
        array.ndim = 0;
        array.len = i == 1 ? 8 : 24;
        memset(text + 2, ' ', i * 1000);
        array.meta = text;
        array.meta_len = 2 + (uint32_t)i * 1000;
        bool is_dtype = i != 2; /* no leading zeros */
        CHECK_EQ(shmflow_write(writer, &array, 0, NULL), is_dtype ? 0 : SHMFLOW_BAD_VALUE);
        if (!is_dtype) {
            continue;
        }
        /* As it came it goes out again, and as text it ends where it ends. */
        for (int round = 0; round < 2; round++) {
            CHECK_EQ(shmflow_read(reader, &message, 0), 0);
            CHECK_EQ(message.array.dtype_len, strlen(dtypes[i]));
            CHECK_EQ(strcmp(message.array.dtype, dtypes[i]), 0);
            CHECK_EQ(strlen(message.array.meta), array.meta_len);
            CHECK_EQ(message.array.meta_len, array.meta_len);
            CHECK(memcmp(message.array.data, samples, array.len) == 0);
            if (round == 0) {
                CHECK_EQ(shmflow_write(writer, &message.array, 0, NULL), 0);
            }
            shmflow_release(&message);
        }
    }
    shmflow_close(reader);
    shmflow_close(writer);
    CHECK_EQ(shmflow_unlink("public"), 0);
}

TEST(a_dtype_of_sixteen_characters_ends_with_a_nul)
{
    static char big[16 << 10];
    struct shmflow_topic *writer = open_topic(1, 8, 0, NULL);
    struct shmflow_topic *reader = open_topic(0, 8, 0, NULL);
    for (uint64_t count = 1; count <= sizeof big / 8; count = count * 2047 + 1) {
        /* Once copied, once held in the ring. */
        struct shmflow_message message;
        struct shmflow_array array = {
            .data = big, .len = count * 8, .dtype = "<M8[1000000001s]", .ndim = 1, .shape = &count};
        CHECK_EQ(strlen(array.dtype), 16);
        CHECK_EQ(shmflow_write(writer, &array, 0, NULL), 0);
        CHECK_EQ(shmflow_read(reader, &message, 0), 0);
        CHECK_EQ(strlen(message.array.dtype), 16);
        CHECK_EQ(message.array.meta, NULL);
        shmflow_release(&message);
    }
    shmflow_close(reader);
    shmflow_close(writer);
    CHECK_EQ(shmflow_unlink("public"), 0);
}

/* Not by this interface; but a writer may be anybody. */
TEST(an_impossible_message_is_told_with_number_and_writer_and_passed)
{
    struct shmflow_topic *writer = open_topic(1, 8, 0, NULL);
    struct shmflow_topic *reader = open_topic(0, 8, 0, NULL);
    CHECK_EQ(write_byte(writer, 'a', 0, NULL), 0);
    struct sf_attachment *att = attach("public", SF_AS_WRITER);
    uint64_t shape[1] = {1000}, seq;
    struct sf_out out = out_of("liar", 4, shape);
    CHECK_EQ(sf_send_small(att, &out, SF_TRY, &seq), 0);
    CHECK_EQ(write_byte(writer, 'c', 0, NULL), 0);
    struct shmflow_message message;
    CHECK_EQ(read_byte(reader), 'a');
    CHECK_EQ(shmflow_read(reader, &message, 0), SHMFLOW_BAD_MESSAGE);
    CHECK_EQ(message.seq, 2);
    CHECK_EQ(message.writer_pid, (uint32_t)getpid());
    shmflow_release(&message); /* of nothing */
    CHECK_EQ(read_byte(reader), 'c');
    sf_attachment_unref(att);
    shmflow_close(reader);
    shmflow_close(writer);
    CHECK_EQ(shmflow_unlink("public"), 0);
}
