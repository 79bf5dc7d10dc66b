/* trial.c: what a file system must be able to do, and files that it cannot be done with. */
#include "scratch.h"

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

TEST(a_folder_of_tmpfs_is_fit_and_the_trial_leaves_nothing)
{
    CHECK_EQ(sf_try_folder(scratch_dir), 0);
    CHECK_EQ(count_files(), 0);
    CHECK_EQ(sf_try_folder("/proc/self/no-such-folder"), -ENOENT);
}

TEST(a_file_whose_memory_is_not_there_is_not_fit)
{
    char tmp[64];
    int fd = os_file_create(scratch_dir, 0600, tmp);
    REQUIRE(fd >= 0);
    CHECK_EQ(os_file_resize(fd, 1 << 16), 0);
    CHECK_EQ(os_file_reserve(fd, 0, 1 << 15), 0);
    CHECK_EQ(sf_try_file(fd, scratch_dir, tmp, 1 << 16), SF_FS_RESERVE);
    CHECK_EQ(os_file_reserve(fd, 0, 1 << 16), 0);
    CHECK_EQ(sf_try_file(fd, scratch_dir, tmp, 1 << 16), 0);
    /* It left no byte and no lock. */
    char page[4096], zeros[4096] = {0};
    CHECK_EQ(pread(fd, page, sizeof page, 0), sizeof page);
    CHECK_MEM(page, zeros, sizeof page);
    int other = os_file_open_again(fd, scratch_dir, tmp);
    REQUIRE(other >= 0);
    CHECK_EQ(os_lock_test(other, SF_LOCK_SLOT, SF_MAX_PARTICIPANTS + 1), 0);
    os_file_close(other);
    os_file_abandon(fd, scratch_dir, tmp);
}

TEST(a_life_that_is_not_seen_from_outside_is_none)
{
    struct sf_attachment *att = create_and_attach("life", 1 << 16, 4);
    int fd = os_file_open(path_of("life"), true);
    REQUIRE(fd >= 0);
    CHECK_EQ(sf_try_life(fd, att->slot), 0);
    CHECK_EQ(sf_try_life(fd, att->slot + 1), SF_FS_LOCKS); /* whose mapping would have lost it */
    os_file_close(fd);
    sf_attachment_unref(att);
    remove_topic("life");
}

TEST(a_word_that_nobody_can_sleep_on_is_told)
{
    _Alignas(8) _Atomic uint32_t words[2] = {0};
    CHECK_EQ(sf_try_futex(words), 0);
    CHECK_EQ(sf_try_futex((_Atomic uint32_t *)(void *)((char *)words + 2)), SF_FS_FUTEX);
}
