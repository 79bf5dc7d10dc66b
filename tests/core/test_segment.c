/* segment.c: topics' files are made whole, attached to with care, and removed for good. */
#include "scratch.h"

static int
attach_status(const char *path, enum sf_attach_as as)
{
    struct sf_attachment *att = NULL;
    int status = sf_attach(path, as, &att);
    if (status == 0) {
        sf_attachment_unref(att);
    }
    return status;
}

/* As a signal's handler that forks while a file is reserved; *context gets the child's pid, or 0. */
static int
fork_once(void *context)
{
    pid_t *child = context;
    if (*child < 0) {
        *child = fork();
        if (*child == 0) {
            nap_ms(50); /* the parent goes on first, as often as not */
        }
    }
    return 0;
}

static uint8_t identity[16]; /* of the topic that was looked at last */

static int
name_status(const char *name)
{
    char path[4096];
    return sf_segment_path(name, path, sizeof path);
}

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

static void
write_file(const char *path, const void *data, size_t len, uint64_t file_len)
{
    int fd = open(path, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);
    REQUIRE(fd >= 0);
    CHECK_EQ(pwrite(fd, data, len, 0), len);
    CHECK_EQ(ftruncate(fd, (off_t)file_len), 0);
    close(fd);
}

TEST(good_names_become_paths)
{
    static const char *const good[] = {"a", "cam", "cam.1", "a/b/c", "A-b_c.9", "_x", "-x"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        CHECK_EQ(name_status(good[i]), 0);
    }
    char expected[200];
    snprintf(expected, sizeof expected, "%s/shmflow.robot+cam.left", scratch_dir);
    CHECK_STR(path_of("robot/cam.left"), expected);
    char longest[202];
    memset(longest, 'x', sizeof longest);
    longest[200] = 0;
    CHECK_EQ(name_status(longest), 0);
    longest[200] = 'x';
    longest[201] = 0;
    CHECK_EQ(name_status(longest), SF_BAD_NAME);
}

TEST(bad_names_are_refused)
{
    static const char *const bad[] = {
        "",    "/",   "/a",   "a/",   "a//b", ".",        "..", ".a", "a/.b", "../a", "a/../b",
        "a b", "a+b", "a\nb", "a\\b", "a:b",  "\xc3\xa4", "a*", "~",  "$x",   "a%s",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (name_status(bad[i]) != SF_BAD_NAME) {
            fprintf(stderr, "taken for a name: \"%s\"\n", bad[i]);
            CHECK(!"a bad name was taken");
        }
    }
}

TEST(a_path_that_is_too_long_for_the_buffer_is_an_error)
{
    char path[16];
    CHECK_EQ(sf_segment_path("cam", path, sizeof path), -ENAMETOOLONG);
}

TEST(a_topic_is_made_whole_and_only_once)
{
    CHECK_EQ(create("made", 1 << 20, 0, 10), 0);
    CHECK_EQ(create("made", 1 << 20, 0, 10), SF_EXISTS);
    CHECK_EQ(count_files(), 1);
    struct sf_layout layout;
    struct os_file_info info;
    CHECK_EQ(sf_segment_peek(path_of("made"), &layout, &info, identity), 0);
    CHECK_EQ(layout.capacity, 1 << 20);
    CHECK_EQ(layout.depth, 10);
    CHECK_EQ(info.size, layout.file_len);
    CHECK_EQ(info.mode, 0600);
    struct stat st;
    CHECK_EQ(stat(path_of("made"), &st), 0);
    CHECK((uint64_t)st.st_blocks * 512 >= layout.file_len); /* reserved, not sparse */
    remove_topic("made");
    CHECK_EQ(count_files(), 0);
    CHECK_EQ(sf_segment_peek(path_of("made"), &layout, &info, identity), SF_NOT_FOUND);
}

TEST(permissions_do_not_follow_the_umask)
{
    struct sf_params params = {.capacity = 4096, .max_participants = 1};
    struct sf_layout layout;
    struct os_file_info info;
    mode_t was = umask(0777);
    CHECK_EQ(sf_segment_create(path_of("open"), &params, 0666, NULL, NULL), 0);
    umask(was);
    CHECK_EQ(sf_segment_peek(path_of("open"), &layout, &info, identity), 0);
    CHECK_EQ(info.mode, 0666);
    remove_topic("open");
}

static int
refuse(void *context)
{
    return ++*(int *)context == 2 ? SF_INTERRUPTED : 0;
}

TEST(a_child_that_is_forked_while_a_file_is_made_makes_none)
{
    struct sf_params params = {.capacity = 1 << 20, .depth = 4, .max_participants = 8};
    pid_t child = -1, parent = getpid();
    int files = count_files();
    REQUIRE_EQ(sf_process_setup(), 0);
    int status = sf_segment_create(path_of("forked"), &params, 0600, fork_once, &child);
    if (getpid() != parent) {
        _exit(status == SF_RACE ? 0 : 1);
    }
    CHECK_EQ(status, 0);
    struct sf_attachment *att = NULL;
    REQUIRE_EQ(sf_attach(path_of("forked"), SF_AS_WRITER, &att), 0);
    for (int64_t i = 1; i <= 10; i++) {
        CHECK_EQ(send_bytes(att, "x", 1, 1), i);
    }
    int ended;
    REQUIRE_EQ(waitpid(child, &ended, 0), child);
    CHECK_EQ(ended, 0);
    CHECK_EQ(sf_load_relaxed(&att->ring.header->head), 10);
    CHECK_EQ(send_bytes(att, "x", 1, 1), 11);
    CHECK_EQ(count_files(), files + 1);
    sf_attachment_unref(att);
    remove_topic("forked");
}

TEST(a_creation_that_is_interrupted_leaves_nothing)
{
    struct sf_params params = {.capacity = UINT64_C(160) << 20, .max_participants = 1};
    int called = 0;
    CHECK_EQ(sf_segment_create(path_of("big"), &params, 0600, refuse, &called), SF_INTERRUPTED);
    CHECK_EQ(called, 2);
    CHECK_EQ(count_files(), 0);
}

TEST(a_topic_larger_than_memory_is_refused_before_it_is_made)
{
    struct sf_params params = {.capacity = SF_MAX_CAPACITY, .max_participants = 1};
    int status = sf_segment_create(path_of("huge"), &params, 0600, NULL, NULL);
    CHECK(status == SF_NO_SPACE || status == SF_NO_CGROUP);
    params.capacity++;
    CHECK_EQ(sf_segment_create(path_of("huge"), &params, 0600, NULL, NULL), SF_BAD_VALUE);
    CHECK_EQ(count_files(), 0);
}

TEST(a_folder_that_is_not_there_is_an_error)
{
    struct sf_params params = {.capacity = 4096, .max_participants = 1};
    CHECK_EQ(sf_segment_create("/dev/shm/shmflow-no-such-folder/x", &params, 0600, NULL, NULL),
             -ENOENT);
    CHECK_EQ(attach_status("/dev/shm/shmflow-no-such-folder/x", SF_AS_READER), SF_NOT_FOUND);
}

TEST(each_way_of_attaching_maps_what_it_may_use)
{
    REQUIRE_EQ(create("maps", 1 << 20, 0, 10), 0);
    struct sf_attachment *writer = attach("maps", SF_AS_WRITER);
    struct sf_attachment *reader = attach("maps", SF_AS_READER);
    struct sf_attachment *monitor = attach("maps", SF_AS_MONITOR);
    CHECK(writer->arena_rw != NULL && reader->arena_rw == NULL && monitor->arena_rw == NULL);
    CHECK_EQ(writer->slot, 0);
    CHECK_EQ(reader->slot, 1);
    CHECK_EQ(monitor->slot, SF_NIL);
    CHECK_MEM(writer->identity, reader->identity, 16);
    CHECK_EQ(send_bytes(writer, "hello", 5, 1), 1);
    struct sf_message m;
    sf_subscribe(reader, SF_OLDEST);
    sf_subscribe(monitor, SF_OLDEST);
    REQUIRE_EQ(take(reader, &m), 0);
    CHECK_MEM(sf_message_payload(reader, &m), "hello", 5);
    REQUIRE_EQ(take(monitor, &m), 0);
    CHECK_MEM(sf_message_payload(monitor, &m), "hello", 5);
    CHECK_EQ(sf_count_others(writer), 1);
    CHECK_EQ(sf_count_others(monitor), 2);
    sf_attachment_unref(monitor);
    sf_attachment_unref(reader);
    sf_attachment_unref(writer);
    remove_topic("maps");
}

TEST(what_is_no_topic_is_told_by_what_it_is)
{
    char path[200];
    snprintf(path, sizeof path, "%s/shmflow.odd", scratch_dir);
    static char zeros[3 * 4096];
    for (int as = SF_AS_MONITOR; as <= SF_AS_WRITER; as++) {
        CHECK_EQ(attach_status(path, (enum sf_attach_as)as), SF_NOT_FOUND);
        mkdir(path, 0700);
        CHECK_EQ(attach_status(path, (enum sf_attach_as)as), SF_NOT_A_FILE);
        rmdir(path);
        CHECK_EQ(symlink("shmflow.other", path), 0);
        CHECK_EQ(attach_status(path, (enum sf_attach_as)as), SF_NOT_A_FILE);
        unlink(path);
        CHECK_EQ(mkfifo(path, 0600), 0);
        CHECK_EQ(attach_status(path, (enum sf_attach_as)as), SF_NOT_A_FILE);
        unlink(path);
        write_file(path, "", 0, 0);
        CHECK_EQ(attach_status(path, (enum sf_attach_as)as), SF_SHORT);
        write_file(path, zeros, 4095, 4095);
        CHECK_EQ(attach_status(path, (enum sf_attach_as)as), SF_SHORT);
        write_file(path, zeros, sizeof zeros, sizeof zeros);
        CHECK_EQ(attach_status(path, (enum sf_attach_as)as), SF_FOREIGN);
        unlink(path);
    }
    CHECK_EQ(count_files(), 0);
}

TEST(a_topic_of_the_wrong_length_is_not_attached_to)
{
    struct sf_layout l;
    struct os_file_info info;
    REQUIRE_EQ(create("cut", 1 << 20, 0, 10), 0);
    REQUIRE_EQ(sf_segment_peek(path_of("cut"), &l, &info, identity), 0);
    static const int64_t changes[] = {-1, 1, -4096, 4096, -(1 << 20)};
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        CHECK_EQ(truncate(path_of("cut"), (off_t)((int64_t)l.file_len + changes[i])), 0);
        CHECK_EQ(attach_status(path_of("cut"), SF_AS_READER), SF_TRUNCATED);
    }
    CHECK_EQ(truncate(path_of("cut"), 4096), 0);
    CHECK_EQ(attach_status(path_of("cut"), SF_AS_READER), SF_TRUNCATED);
    CHECK_EQ(truncate(path_of("cut"), 100), 0);
    CHECK_EQ(attach_status(path_of("cut"), SF_AS_READER), SF_SHORT);
    /* Whatever it is, who says so may remove it. */
    remove_topic("cut");
}

TEST(a_topic_in_use_is_not_idle)
{
    static const uint8_t stranger[16] = {1, 2, 3};
    struct sf_attachment *att = create_and_attach("used", 1 << 16, 4);
    CHECK_EQ(sf_segment_remove(path_of("used"), NULL, SF_WHEN_IDLE), SF_BUSY);
    CHECK_EQ(sf_segment_remove(path_of("used"), NULL, SF_WHEN_FLAGGED), SF_BUSY);
    CHECK_EQ(sf_segment_remove(path_of("used"), stranger, SF_ALWAYS), SF_NOT_FOUND);
    CHECK(sf_attachment_is_named(att));
    CHECK_EQ(sf_load_seq(&att->ring.header->ended), 0);
    memcpy(identity, att->identity, sizeof identity);
    sf_attachment_unref(att);
    CHECK_EQ(sf_segment_remove(path_of("used"), identity, SF_WHEN_IDLE), 0);
    CHECK_EQ(sf_segment_remove(path_of("used"), NULL, SF_WHEN_IDLE), SF_NOT_FOUND);
}

TEST(a_removed_generation_is_over_for_those_in_it)
{
    struct sf_attachment *old = create_and_attach("next", 1 << 16, 4);
    struct sf_message m;
    sf_subscribe(old, SF_OLDEST);
    CHECK_EQ(send_bytes(old, "last", 4, 1), 1);
    remove_topic("next");
    CHECK(!sf_attachment_is_named(old));
    CHECK_EQ(send_bytes(old, "late", 4, 1), SF_GONE);
    CHECK_EQ(take(old, &m), 0); /* what was there is still read */
    CHECK_EQ(take(old, &m), SF_GONE);
    CHECK_EQ(attach_status(path_of("next"), SF_AS_READER), SF_NOT_FOUND);
    struct sf_attachment *new = create_and_attach("next", 1 << 16, 4);
    CHECK(!sf_attachment_is_named(old));
    CHECK(sf_attachment_is_named(new));
    CHECK(memcmp(old->identity, new->identity, 16) != 0);
    CHECK_EQ(send_bytes(new, "one", 3, 1), 1);
    sf_attachment_unref(old);
    CHECK(sf_attachment_is_named(new));
    sf_attachment_unref(new);
    remove_topic("next");
}

TEST(a_name_that_went_without_a_word_is_noticed)
{
    struct sf_attachment *att = create_and_attach("rm", 1 << 16, 4);
    CHECK_EQ(unlink(path_of("rm")), 0);
    CHECK_EQ(sf_load_seq(&att->ring.header->ended), 0);
    CHECK(!sf_attachment_is_named(att));
    CHECK_EQ(sf_load_seq(&att->ring.header->ended), SF_UNLINKED);
    sf_attachment_unref(att);
}

TEST(a_flagged_topic_that_kept_its_name_is_no_topic)
{
    struct sf_attachment *att = create_and_attach("half", 1 << 16, 4);
    sf_or_seq32(&att->ring.header->ended, SF_UNLINKED); /* its remover died here */
    CHECK_EQ(attach_status(path_of("half"), SF_AS_READER), SF_NOT_FOUND);
    CHECK_EQ(sf_segment_remove(path_of("half"), NULL, SF_WHEN_FLAGGED), 0);
    sf_attachment_unref(att);
    CHECK_EQ(count_files(), 0);
}

TEST(who_comes_while_an_idle_topic_is_removed_finds_no_topic)
{
    REQUIRE_EQ(create("going", 1 << 16, 0, 4), 0);
    int fd = os_file_open(path_of("going"), true);
    REQUIRE(fd >= 0);
    /* What sf_segment_remove holds in the middle of SF_WHEN_IDLE. */
    CHECK_EQ(os_lock_try(fd, SF_LOCK_UNLINK, 1), 0);
    CHECK_EQ(os_lock_try(fd, SF_LOCK_SLOT, SF_MAX_PARTICIPANTS), 0);
    CHECK_EQ(attach_status(path_of("going"), SF_AS_READER), SF_NOT_FOUND);
    CHECK_EQ(sf_segment_remove(path_of("going"), NULL, SF_ALWAYS), SF_RACE);
    os_file_close(fd);
    CHECK_EQ(attach_status(path_of("going"), SF_AS_READER), 0);
    remove_topic("going");
}

TEST(a_temporary_topic_goes_with_its_last_participant)
{
    struct sf_params params = {.capacity = 4096, .max_participants = 1, .flags = SF_TEMPORARY};
    REQUIRE_EQ(sf_segment_create(path_of("temp"), &params, 0600, NULL, NULL), 0);
    struct sf_attachment *a = attach("temp", SF_AS_WRITER), *b = attach("temp", SF_AS_READER);
    struct sf_attachment *monitor = attach("temp", SF_AS_MONITOR);
    sf_attachment_unref(a);
    CHECK_EQ(count_files(), 1);
    sf_attachment_ref(b);
    sf_attachment_unref(b);
    CHECK_EQ(count_files(), 1);
    sf_attachment_unref(b);
    CHECK_EQ(count_files(), 0);
    sf_attachment_unref(monitor);
}

TEST(attaching_leaks_neither_descriptors_nor_mappings)
{
    REQUIRE_EQ(create("leak", 1 << 16, 0, 4), 0);
    sf_attachment_unref(attach("leak", SF_AS_WRITER));
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    close(fd);
    for (int i = 0; i < 2000; i++) {
        sf_attachment_unref(attach("leak", (enum sf_attach_as)(i % 3)));
    }
    int after = open("/dev/null", O_RDONLY | O_CLOEXEC);
    close(after);
    CHECK_EQ(after, fd);
    int lines = 0;
    char line[512];
    FILE *maps = fopen("/proc/self/maps", "re");
    REQUIRE(maps != NULL);
    while (fgets(line, sizeof line, maps) != NULL) {
        lines += strstr(line, "shmflow.leak") != NULL;
    }
    fclose(maps);
    CHECK_EQ(lines, 0);
    remove_topic("leak");
}
