/* A topic by name: attach, follow, replace, size.
 *
 * Owns:      the rules of topic.h: who replaces what, where a subscriber starts, how large a
 *            topic is that nobody gave a size.
 * Does not:  wait or create; see topic.h.
 *
 * Invariants: U1 … U3 of topic.h.
 * A crash here leaves: what segment.c says.
 */
#include "core/topic.h"

#include <errno.h>
#include <string.h>

#define SF_AUTO_MESSAGES 16u
#define SF_AUTO_LEAST 4u
#define SF_AUTO_MIN (UINT64_C(1) << 20)
#define SF_AUTO_UNKNOWN (UINT64_C(64) << 20) /* created before the first message is known */

int
sf_topic_init(struct sf_topic *topic, const char *name, const struct sf_options *options)
{
    char path[4096];
    int status = sf_segment_path(name, path, sizeof path);
    if (status == 0) {
        status = sf_process_setup();
    }
    if (status < 0) {
        return status;
    }
    char *own_name = os_copy_text(name), *own_path = os_copy_text(path);
    if (!own_name || !own_path) {
        os_free(own_name);
        os_free(own_path);
        return -ENOMEM;
    }
    memset(topic, 0, sizeof *topic); /* not before: what fails leaves it as it was, closed */
    topic->options = *options;
    topic->to_replace = options->replace;
    topic->epoch = sf_process_epoch();
    topic->name = own_name;
    topic->path = own_path;
    return 0;
}

void
sf_topic_stand(struct sf_topic *topic, const struct sf_standing *at)
{
    topic->subscribed_late = at->late;
    topic->is_reader = at->joined;
    topic->cursor = at->cursor;
    topic->generation = at->cursor != 0; /* the one that it stands in counts */
    memcpy(topic->last_identity, at->identity, sizeof at->identity);
}

void
sf_topic_standing(const struct sf_topic *topic, struct sf_standing *at)
{
    *at = (struct sf_standing){
        .late = topic->subscribed_late, .joined = topic->is_reader, .cursor = topic->cursor};
    if (topic->att && topic->has_joined) {
        at->cursor = sf_load_relaxed(topic->att->cursor); /* a moment's */
    }
    memcpy(at->identity, topic->last_identity, sizeof at->identity);
}

void
sf_topic_fini(struct sf_topic *topic)
{
    sf_topic_close(topic);
    os_free(topic->name);
    os_free(topic->path);
    topic->name = topic->path = NULL;
}

static void
add_totals(const struct sf_topic *topic, struct sf_totals *t)
{
    struct sf_attachment *att = topic->att;
    if (!att || att->slot == SF_NIL || !sf_attachment_is_mine(att)) {
        return;
    }
    /* Relaxed: our own counters, or a moment's old value of another thread's. */
    struct sf_participant *p = &att->ring.slots[att->slot];
    uint64_t lost = sf_load_relaxed(&p->lost);
    uint64_t skipped = sf_load_relaxed(&p->skipped);
    uint64_t passed = sf_load_relaxed(&p->cursor) - sf_load_relaxed(&p->first);
    uint64_t taken = sf_load_relaxed(&p->taken); /* as above */
    t->written += sf_load_relaxed(&p->written);
    t->written_len += sf_load_relaxed(&p->written_len);
    t->waits += sf_load_relaxed(&p->waits);
    t->pinned += sf_load_relaxed(&p->pinned); /* as above */
    t->held_len = sf_load_relaxed(&p->held_len);
    t->held_blocks = sf_load_relaxed(&p->held_blocks);
    t->read += att->group != 0 ? taken : passed >= lost + skipped ? passed - lost - skipped : 0;
    t->lost += lost;
    t->skipped += skipped;
}

void
sf_topic_totals(struct sf_topic *topic, struct sf_totals *out)
{
    *out = topic->past;
    out->held_len = out->held_blocks = 0;
    add_totals(topic, out);
}

void
sf_topic_leave(struct sf_topic *topic)
{
    struct sf_attachment *att = topic->att;
    if (!att) {
        return;
    }
    sf_topic_totals(topic, &topic->past);
    if (topic->has_joined) {
        topic->cursor =
            sf_load_relaxed(att->cursor); /* ours; in a child, a private copy (fork.c) */
    }
    sf_clear_roles(att); /* views may keep the slot; it reads and writes no more */
    sf_unjoin(att);
    topic->att = NULL;
    topic->has_joined = false;
    sf_attachment_unref(att);
}

void
sf_topic_close(struct sf_topic *topic)
{
    struct sf_attachment *att = topic->att;
    /* H: before the bell; sleepers look at it with the news. */
    sf_store_seq(&topic->closed, 1);
    if (att && !att->monitor && sf_attachment_is_mine(att)) {
        sf_bell_ring(&att->ring.header->bell);
        sf_bell_ring(&att->ring.header->room);
    }
    sf_topic_leave(topic);
}

int
sf_topic_enter(struct sf_topic *topic)
{
    if (sf_load_relaxed(&topic->closed) != 0) { /* U1: our own thread's, or the GIL's order */
        return SF_CLOSED;
    }
    uint32_t epoch = sf_process_epoch();
    if (topic->epoch != epoch) {
        /* A forked child: attach anew, under an own slot, where the parent stood. */
        topic->epoch = epoch;
        topic->past = (struct sf_totals){0};
        topic->has_written = false;
        sf_topic_leave(topic);
    }
    return 0;
}

/* ---- fitting and following ---- */

static int
fits(struct sf_topic *topic)
{
    const struct sf_options *o = &topic->options;
    const struct sf_layout *l = &topic->found;
    if ((o->capacity && l->capacity < o->capacity) || (o->depth && l->asked_depth != o->depth) ||
        (o->max_message && l->max_message != o->max_message)) {
        return SF_MISMATCH;
    }
    return 0;
}

static bool
may_write(const struct sf_topic *topic)
{
    return topic->options.mode == SF_MODE_RW || topic->options.mode == SF_MODE_W;
}

bool
sf_topic_keeps(const struct sf_topic *topic)
{
    return topic->options.mode != SF_MODE_W &&
           (topic->options.lossless || topic->options.group[0] != 0);
}

static enum sf_attach_as
attach_as(const struct sf_topic *topic)
{
    return topic->options.mode == SF_MODE_MONITOR ? SF_AS_MONITOR
           : may_write(topic)                     ? SF_AS_WRITER
                                                  : SF_AS_READER;
}

/* A writer gives its data only to its own user, to root, or where it means to share. So does root,
 * whose writer may open anybody's topic, and would give root's data to whoever laid it there. */
static bool
is_strangers(const struct sf_topic *topic, uint32_t owner_uid)
{
    return may_write(topic) && (topic->options.permissions & 077) == 0 && owner_uid != os_uid() &&
           owner_uid != 0;
}

void
sf_topic_joining(const struct sf_topic *topic, struct sf_joining *how)
{
    const struct sf_options *o = &topic->options;
    *how = (struct sf_joining){
        .group = o->group[0] ? o->group : NULL, .start = o->start, .lossless = o->lossless};
    if (topic->cursor != 0) {
        how->cursor = topic->cursor; /* a forked child goes on where its parent stood */
    }
    else if (topic->generation > 1 || topic->subscribed_late) {
        how->cursor = 1; /* all of it came after us; what is gone already we have lost */
    }
}

void
sf_topic_has_joined(struct sf_topic *topic)
{
    topic->is_reader = topic->has_joined = true;
    topic->cursor = 0;
    sf_add_role(topic->att, SF_ROLE_READER);
}

/* 0, or why it is not done yet: SF_BUSY, or not at all. */
static int
join(struct sf_topic *topic)
{
    struct sf_joining how;
    sf_topic_joining(topic, &how);
    int status = sf_join(topic->att, &how, SF_TRY);
    if (status == 0) {
        sf_topic_has_joined(topic);
    }
    return status;
}

static int
attach_to(struct sf_topic *topic)
{
    struct sf_attachment *att = NULL;
    struct os_file_info info;
    if (sf_load_relaxed(&topic->closed) != 0) { /* as in sf_topic_enter: by code that ran since */
        return SF_CLOSED;
    }
    /* Looked at before a slot is taken: who only looks must not make an idle topic seem used. */
    int status = sf_segment_find(topic->path, &topic->found, &info, topic->found_identity);
    if (status == SF_DESERTED) { /* and we may not remove it */
        status = may_write(topic) ? SF_DENIED : SF_NOT_FOUND;
    }
    if (status == 0) {
        status = is_strangers(topic, info.uid) ? SF_STRANGER : fits(topic);
    }
    if (status == 0) {
        status = sf_attach(topic->path, attach_as(topic), &att);
    }
    if (status < 0) {
        topic->subscribed_late |= status == SF_NOT_FOUND && !may_write(topic);
        return status;
    }
    /* The name may have changed hands since. */
    topic->found = att->ring.lay;
    memcpy(topic->found_identity, att->identity, sizeof att->identity);
    status = is_strangers(topic, att->uid) ? SF_STRANGER : fits(topic);
    if (status < 0) {
        sf_attachment_unref(att);
        return status;
    }
    if (topic->options.max_held) {
        att->max_held = topic->options.max_held;
        att->least_held = 1; /* a number that was given is kept, but for one block */
    }
    bool same = memcmp(topic->last_identity, att->identity, sizeof att->identity) == 0;
    memcpy(topic->last_identity, att->identity, sizeof att->identity);
    topic->generation += !same;
    topic->att = att;
    topic->has_written = false;
    /* Acquire: with the end's setter. */
    topic->was_ended = (sf_load_acquire(&att->ring.header->ended) & SF_SHUTDOWN) != 0;
    topic->cursor = same ? topic->cursor : 0;
    bool reads = topic->is_reader || !may_write(topic) || sf_topic_keeps(topic);
    if (topic->options.mode != SF_MODE_W && reads) {
        status = join(topic);
    }
    else if (topic->options.start == SF_NEW && topic->cursor == 0 && topic->generation == 1) {
        topic->cursor = sf_find_start(att, SF_NEW); /* "new" counts from here, not from the read */
    }
    if (status < 0 && status != SF_BUSY) {
        sf_topic_leave(topic);
        return status;
    }
    return 0;
}

bool
sf_topic_has_moved(struct sf_topic *topic)
{
    struct os_file_info named;
    if (os_path_info(topic->path, &named) < 0) {
        return false;
    }
    return !topic->att || named.ino != topic->att->ino || named.dev != topic->att->dev;
}

int
sf_topic_to_look(struct sf_topic *topic)
{
    return topic->att ? 0 : attach_to(topic);
}

int
sf_topic_to_read(struct sf_topic *topic)
{
    int status = sf_topic_to_look(topic);
    /* "rw" becomes a reader here. What "oldest" and "latest" mean is asked now. */
    return status == 0 && !topic->has_joined ? join(topic) : status;
}

/* ---- writing ---- */

static uint64_t
auto_capacity(const struct sf_topic *topic, uint64_t message_len, uint64_t spare_len)
{
    uint64_t free_len = UINT64_MAX, total_len;
    char *slash = strrchr(topic->path, '/');
    *slash = 0;
    (void)os_space(topic->path, &free_len, &total_len);
    *slash = '/';
    uint64_t room = os_cgroup_room();
    room = room < free_len ? room : free_len;
    room = (room > UINT64_MAX - spare_len ? room : room + spare_len) / 2;
    uint64_t block = sf_round_up(message_len ? message_len : 1, SF_LINE);
    uint64_t count = topic->options.depth + SF_AUTO_LEAST;
    count = count > SF_AUTO_MESSAGES ? count : SF_AUTO_MESSAGES;
    uint64_t want = message_len ? block * count : SF_AUTO_UNKNOWN;
    if (want > room) {
        uint64_t least = block * SF_AUTO_LEAST;
        want = room > least ? room / SF_PAGE * SF_PAGE : least;
    }
    uint64_t max = topic->options.max_message;
    want = want > max ? want : max;
    return want > SF_AUTO_MIN ? want : SF_AUTO_MIN;
}

static void
size_up(const struct sf_topic *topic, uint64_t message_len, struct sf_making *making)
{
    const struct sf_options *o = &topic->options;
    struct sf_params *make = &making->params;
    make->capacity =
        o->capacity ? o->capacity : auto_capacity(topic, message_len, making->old.spare_len);
    make->max_message = o->max_message;
    if (!make->max_message && !o->capacity && message_len > make->capacity / 4) {
        make->max_message = message_len;
    }
    make->depth = o->depth;
    make->block_len = sf_round_up(message_len, SF_LINE);
    make->max_participants = o->max_participants;
    make->flags = (o->temporary ? SF_TEMPORARY : 0) | (o->allow_lossless ? 0 : SF_NO_LOSSLESS);
}

/* SF_NOT_FOUND: make another one, in the place of this. */
static int
to_replace(const uint8_t *identity, enum sf_when when, uint64_t spare_len, struct sf_making *make)
{
    make->old = (struct sf_replaced){.there = true, .when = when, .spare_len = spare_len};
    memcpy(make->old.identity, identity, sizeof make->old.identity);
    return SF_NOT_FOUND;
}

/* replace=True: whatever is there. */
static int
to_replace_any(struct sf_topic *topic, struct sf_making *make)
{
    struct os_file_info info;
    bool idle = sf_segment_peek(topic->path, &topic->found, &info, topic->found_identity) == 0 &&
                sf_segment_is_idle(topic->path) == 1;
    make->old = (struct sf_replaced){
        .there = true, .any = true, .spare_len = idle ? topic->found.file_len : 0};
    return SF_NOT_FOUND;
}

/* The generation that the Topic is in was shut down: leaves it, to make the next. */
static int
to_replace_ended(struct sf_topic *topic, struct sf_making *make)
{
    if (topic->options.create == 0) {
        return SF_ENDED; /* may be drained */
    }
    struct sf_attachment *att = topic->att;
    bool alone = sf_count_others(att) == 0;
    int status = to_replace(att->identity, SF_ALWAYS, alone ? att->ring.lay.file_len : 0, make);
    sf_topic_leave(topic);
    return status;
}

static int
find_to_write(struct sf_topic *topic, uint64_t message_len, struct sf_making *make)
{
    bool makes = topic->options.create != 0;
    int status = attach_to(topic);
    if (status == SF_MISMATCH && makes) {
        int idle = sf_segment_is_idle(topic->path);
        return idle == 1
                   ? to_replace(topic->found_identity, SF_WHEN_IDLE, topic->found.file_len, make)
               : idle == 0 ? SF_MISMATCH
                           : idle;
    }
    if (status < 0) {
        return status;
    }
    struct sf_attachment *att = topic->att;
    if (topic->was_ended) {
        return to_replace_ended(topic, make);
    }
    bool too_small = makes && !topic->options.capacity && !topic->options.max_message &&
                     message_len > att->ring.lay.max_message;
    int others = too_small ? sf_count_others(att) : 0;
    if (others < 0) {
        sf_topic_leave(topic); /* so that the next call asks again */
        return others;
    }
    if (too_small && others == 0) {
        status = to_replace(att->identity, SF_WHEN_IDLE, att->ring.lay.file_len, make);
        sf_topic_leave(topic);
    }
    return status;
}

/* Sizes what is to be made; SF_TOO_LARGE, and its layout in `found`, if the message would not fit. */
static int
plan(struct sf_topic *topic, uint64_t message_len, struct sf_making *make)
{
    struct sf_layout layout;
    size_up(topic, message_len, make);
    if (sf_layout_compute(&make->params, &layout) == 0 && message_len > layout.max_message) {
        topic->found = layout;
        return SF_TOO_LARGE;
    }
    int gone = sf_segment_remove(topic->path, NULL, SF_WHEN_FLAGGED);
    /* Nothing there, or a live one, or another is at it: creation will tell. Else the name
     * stays taken, and to create would be in vain, again and again. */
    return gone < 0 && gone != SF_BUSY && gone != SF_RACE ? gone : SF_NOT_FOUND;
}

int
sf_topic_to_write(struct sf_topic *topic, uint64_t message_len, struct sf_making *make)
{
    int status = 0;
    make->old = (struct sf_replaced){.there = false};
    make->again = topic->generation != 0;
    if (topic->to_replace) {
        status = to_replace_any(topic, make);
    }
    else if (topic->att) {
        /* Acquire: with the end's setter. A generation that we found ended we replace; one that
         * ended while we were in it has ended for us too. */
        uint32_t ended = sf_load_acquire(&topic->att->ring.header->ended);
        if ((ended & SF_SHUTDOWN) != 0) {
            status =
                !topic->was_ended || topic->has_written ? SF_ENDED : to_replace_ended(topic, make);
        }
        else if ((ended & SF_UNLINKED) != 0) {
            sf_topic_leave(topic);
        }
    }
    if (status == 0 && !topic->att) {
        status = find_to_write(topic, message_len, make);
    }
    if (status == SF_NOT_FOUND && topic->options.create != 0) {
        status = plan(topic, message_len, make);
    }
    if (status == 0) {
        topic->has_written = true;
        sf_add_role(topic->att, SF_ROLE_WRITER);
    }
    return status;
}

int
sf_topic_make(const struct sf_topic *topic, const struct sf_making *make, int (*between)(void *),
              void *context)
{
    /* Not the first one, which an exit handler may want for a moment. */
    bool leaves = topic->options.temporary && make->again;
    if (leaves && sf_process_is_ending()) {
        return SF_EXITING; /* nobody would take it away */
    }
    int status = sf_segment_replace(topic->path, &make->params, topic->options.permissions,
                                    &make->old, between, context);
    if (status == 0 && leaves && sf_process_is_ending()) {
        (void)sf_segment_remove(topic->path, NULL, SF_WHEN_IDLE); /* the exit's look was before */
        return SF_EXITING;
    }
    return status;
}
