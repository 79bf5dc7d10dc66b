/* Operations on a topic as a whole: made, ended, removed, replaced; and the public C interface.
 *
 * Owns:      how each is set up and done.
 * Does not:  say what must be true if it is cut short (check.c).
 *
 * Invariants: that of flow_ops.c.
 * A crash here is the purpose.
 */
#include "kill.h"

#include "os/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- made ---- */

static int
make(struct scene *s)
{
    struct sf_params params = {.capacity = CAPACITY, .max_participants = 64};
    return sf_segment_create(s->path, &params, 0600, NULL, NULL);
}

static int
make_and_write(struct scene *s)
{
    int status = make(s);
    status = status < 0 ? status : attach_self(s, SF_AS_WRITER);
    return status < 0 ? status : put(s, &s->self, SMALL, long_enough());
}

/* Its first call that can fail is the open with O_TMPFILE; the sixth error of open is ENOTSUP. */
static int
make_with_a_temporary_name(struct scene *s)
{
    os_fault_arm(1, 5, false);
    int status = make(s);
    return status == 0 && strncmp(os_fault_hit(), "open(", 5) != 0 ? SF_BAD_VALUE : status;
}

static int
lose_the_race_with_a_temporary_name(struct scene *s)
{
    os_fault_arm(1, 5, false);
    int status = make(s);
    os_fault_arm(0, 0, false);
    return status == SF_EXISTS ? 0 : status == 0 ? SF_BAD_VALUE : status;
}

static int
make_what_exists(struct scene *s)
{
    int status = make(s);
    if (status != SF_EXISTS) {
        return status < 0 ? status : SF_BAD_VALUE;
    }
    status = attach_self(s, SF_AS_WRITER);
    return status < 0 ? status : put(s, &s->self, SMALL, long_enough());
}

/* ---- ended and removed ---- */

static int
remove_it(struct scene *s)
{
    return sf_segment_remove(s->path, NULL, SF_ALWAYS);
}

static int
remove_idle(struct scene *s)
{
    return sf_segment_remove(s->path, NULL, SF_WHEN_IDLE);
}

/* A remover died before it took the name away. */
static void
flag_it(struct scene *s)
{
    struct sf_attachment *att;
    int status = sf_attach(s->path, SF_AS_WRITER, &att);
    MUST(status == 0, "%s", sf_status_text(status));
    sf_or_seq32(&att->ring.header->ended, SF_UNLINKED); /* as flag_removed */
    sf_attachment_unref(att);
}

static int
remove_flagged(struct scene *s)
{
    return sf_segment_remove(s->path, NULL, SF_WHEN_FLAGGED);
}

static int
use_alone(struct scene *s)
{
    int status = attach_self(s, SF_AS_WRITER);
    return status < 0 ? status : put(s, &s->self, LARGE, long_enough());
}

static int
leave_as_last(struct scene *s)
{
    struct sf_attachment *att = s->self.att;
    s->self.att = NULL;
    sf_attachment_unref(att);
    return 0;
}

static int
use_twice(struct scene *s)
{
    struct sf_attachment *other;
    int status = sf_attach(s->path, SF_AS_READER, &other);
    return status < 0 ? status : use_alone(s);
}

static int
end_the_process(struct scene *s)
{
    (void)s;
    sf_process_exit();
    return 0;
}

static int
shut_down(struct scene *s)
{
    return sf_shutdown(s->self.att, long_enough());
}

/* ---- replaced ---- */

static int
init_topic(struct scene *s, bool replace, uint64_t capacity, uint64_t depth)
{
    struct sf_options options = {.mode = SF_MODE_W,
                                 .create = -1,
                                 .replace = replace,
                                 .allow_lossless = true,
                                 .capacity = capacity,
                                 .depth = depth,
                                 .permissions = 0600,
                                 .max_participants = 64,
                                 .spin_ns = 0};
    return sf_topic_init(&s->topic, s->name, &options);
}

static int
be_replacer(struct scene *s)
{
    return init_topic(s, true, CAPACITY, 0);
}

static int
be_plain_writer(struct scene *s)
{
    return init_topic(s, false, CAPACITY, 0);
}

static int
want_another_depth(struct scene *s)
{
    return init_topic(s, false, CAPACITY, 7);
}

static int
want_what_fits(struct scene *s)
{
    return init_topic(s, false, 0, 0);
}

/* While this has a name, its memory is all that there is for an arena. */
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

/* As opening and the first write do it. */
static int
replace_with(struct scene *s, uint64_t message_len)
{
    struct sf_making make;
    int status = 0;
    for (int round = 0; round < 64 && (status == 0 || status == SF_NOT_FOUND); round++) {
        status = sf_topic_to_write(&s->topic, message_len, &make);
        if (status == 0) {
            s->self.att = s->topic.att;
            return put(s, &s->self, message_len, long_enough());
        }
        if (status == SF_RACE) {
            status = 0;
            (void)os_sleep_until(os_now_ns() + MS);
        }
        else if (status == SF_NOT_FOUND) {
            status = sf_topic_make(&s->topic, &make, NULL, NULL);
            s->topic.to_replace = s->topic.to_replace && status < 0;
            status = status == SF_EXISTS ? 0 : status;
        }
    }
    return status < 0 ? status : SF_RACE;
}

static int
replace(struct scene *s)
{
    return replace_with(s, SMALL);
}

static int
replace_what_is_too_small(struct scene *s)
{
    return replace_with(s, TOO_LONG);
}

static int
replace_where_both_do_not_fit(struct scene *s)
{
    scarce = s->path;
    int status = replace_with(s, SMALL);
    scarce = NULL;
    return status;
}

static void
shut_down_before(struct scene *s)
{
    int status = sf_shutdown(s->writer.att, long_enough());
    MUST(status == 0, "%s", sf_status_text(status));
}

static void
shut_down_with_unread_messages(struct scene *s)
{
    for (int i = 0; i < 4; i++) {
        must_put(s, i % 2 == 0 ? SMALL : LARGE);
    }
    shut_down_before(s);
}

/* Somebody wrote, and left. */
static void
write_and_leave(struct scene *s)
{
    s->writer.author = SURVIVOR;
    int status = sf_attach(s->path, SF_AS_WRITER, &s->writer.att);
    MUST(status == 0, "%s", sf_status_text(status));
    for (int i = 0; i < 4; i++) {
        must_put(s, i % 2 == 0 ? SMALL : LARGE);
    }
    sf_attachment_unref(s->writer.att);
    s->writer.att = NULL;
}

/* ---- the public C interface ---- */

static int
write_by_c(struct scene *s, uint64_t len)
{
    static uint64_t data[LARGE / 8];
    uint64_t seq;
    struct shmflow_array array = {.data = data, .len = len};
    fill_claim(&s->self, data, len);
    int status = shmflow_write(s->capi, &array, (int64_t)PATIENCE_NS, &seq);
    if (status == 0) {
        s->self.serial++;
        notes[NOTE_VICTIM].published++;
    }
    return status;
}

static int
read_by_c(struct scene *s, uint64_t len)
{
    struct shmflow_message message;
    int status = shmflow_read(s->capi, &message, (int64_t)PATIENCE_NS);
    if (status == 0) {
        status = message.array.len == len ? 0 : SF_BAD_MESSAGE;
        shmflow_release(&message);
    }
    return status;
}

static int
use_by_c(struct scene *s)
{
    struct shmflow_options options = {.capacity = CAPACITY, .start_new = 1};
    int status = shmflow_open(&s->capi, s->name, 1, &options);
    status = status < 0 ? status : write_by_c(s, SMALL);
    status = status < 0 ? status : write_by_c(s, LARGE);
    status = status < 0 ? status : read_by_c(s, SMALL);
    status = status < 0 ? status : read_by_c(s, LARGE);
    shmflow_close(s->capi);
    return status;
}

static int
open_by_c(struct scene *s)
{
    int status = shmflow_open(&s->capi, s->name, 1, NULL);
    return status < 0 ? status : write_by_c(s, SMALL);
}

static int
shut_down_by_c(struct scene *s)
{
    int status = shmflow_shutdown(s->capi, (int64_t)PATIENCE_NS);
    shmflow_close(s->capi);
    return status;
}

static int
unlink_by_c(struct scene *s)
{
    return shmflow_unlink(s->name);
}

const struct op life_ops[] = {
    {"create", NO_TOPIC, 1, .act = make_and_write, .ready = come_alone},
    {"create with a temporary name", NO_TOPIC | NO_TMPFILE, 0, .act = make_with_a_temporary_name,
     .ready = come_alone},
    {"create what exists", 0, 1, .act = make_what_exists, .ready = come_alone},
    {"create what exists with a temporary name", IDLE | NO_TMPFILE, 0,
     .act = lose_the_race_with_a_temporary_name, .ready = come_alone},
    {"unlink", MAY_END, 0, .act = remove_it, .ready = come_alone},
    {"unlink what one uses", MAY_END, 0, .act = remove_it},
    {"remove when idle", IDLE, 0, .act = remove_idle, .ready = come_alone},
    {"remove what is flagged", IDLE, 0, .act = remove_flagged, .ready = come_alone,
     .stage = flag_it},
    {"leave a temporary topic last", TEMPORARY, 1, .act = leave_as_last, .ready = use_alone},
    {"exit with a temporary topic", TEMPORARY, 1, .act = end_the_process, .ready = use_twice},
    {"shut down", MAY_END, 0, .act = shut_down},
    {"replace a topic in use", MAY_END | REPLACES, 1, .act = replace, .ready = be_replacer},
    {"replace one that was shut down", MAY_END | REPLACES, 1, .act = replace,
     .ready = be_plain_writer, .stage = shut_down_before},
    {"replace one that is drained", MAY_END | REPLACES, 1, .act = replace, .ready = be_plain_writer,
     .stage = shut_down_with_unread_messages},
    {"replace an idle one that does not fit", IDLE | REPLACES, 1, .act = replace,
     .ready = want_another_depth, .stage = write_and_leave},
    {"replace an idle one that is too small", IDLE | REPLACES, 1, .act = replace_what_is_too_small,
     .ready = want_what_fits, .stage = write_and_leave},
    {"replace one where both do not fit", IDLE, 1, .act = replace_where_both_do_not_fit,
     .ready = want_another_depth, .stage = write_and_leave},
    {"replace one that is flagged", IDLE, 1, .act = replace, .ready = be_plain_writer,
     .stage = flag_it},
    {"C: open, write, read, close", 0, 2, .act = use_by_c, .ready = come_alone},
    {"C: the first of a topic", NO_TOPIC, 2, .act = use_by_c, .ready = come_alone},
    {"C: shut down", MAY_END, 1, .act = shut_down_by_c, .ready = open_by_c},
    {"C: unlink", MAY_END, 0, .act = unlink_by_c, .ready = come_alone},
    {.name = NULL},
};
