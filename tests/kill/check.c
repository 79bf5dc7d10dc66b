/* What must be true after a death, whoever died where.
 *
 * Owns:      the verdict: others go on, history is whole, held frames stand still, nothing of the
 *            dead is left, the name leads to something usable or to nothing.
 * Does not:  know which operation it was, but for the flags of its scene.
 *
 * Invariants
 *   1  Everything is asked of survivors, by the calls that programs use; then the tables are looked
 *      at, when nobody else is there who could change them.
 * A crash here leaves: the folder, which main.c removes.
 */
#include "kill.h"

#include <dirent.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* waitpid tells of a death before the kernel has let go of the last file, sometimes. */
void
wait_for_free_bytes(struct scene *s)
{
    uint64_t until_ns = os_now_ns() + PATIENCE_NS;
    for (int slot = s->living; s->fd >= 0 && slot < (int)SF_MAX_PARTICIPANTS;) {
        int end = s->spared > slot ? s->spared - 1 : (int)SF_MAX_PARTICIPANTS;
        uint64_t first = SF_LOCK_SLOT + (uint64_t)slot;
        while (end > slot && os_lock_test(s->fd, first, (uint64_t)(end - slot)) == 1) {
            MUST(os_now_ns() < until_ns, "a dead process keeps its byte");
        }
        slot = end + 1;
    }
    s->free_ns = os_now_ns();
}

bool
is_usable(const struct scene *s)
{
    struct stat named, opened;
    /* Acquire: with the end's setter. */
    return stat(s->path, &named) == 0 && fstat(s->fd, &opened) == 0 &&
           named.st_ino == opened.st_ino &&
           (sf_load_acquire(&s->watcher.att->ring.header->ended) & SF_ENDS) == 0;
}

/* ---- messages ---- */

static void
check_history(struct scene *s)
{
    struct sf_ring *ring = &s->watcher.att->ring;
    /* Nobody writes now. */
    uint64_t head = sf_load_seq(&ring->header->head);
    uint64_t tail = sf_load_seq(&ring->header->tail);
    MUST(tail >= 1 && tail <= head, "%llu", (unsigned long long)tail);
    MUST(head + 1 - tail <= ring->lay.depth, "%llu", (unsigned long long)tail);
    for (uint64_t seq = tail; seq <= head; seq++) {
        struct sf_message m;
        int status = sf_look(ring, seq, &m);
        MUST(status == 0 && m.seq == seq, "history has a gap at %llu", (unsigned long long)seq);
        judge(s, seq, sf_message_payload(s->watcher.att, &m), m.payload_len);
    }
}

/* The dead may have published, besides what they knew they had, one message each. */
static void
check_count(const struct scene *s, uint64_t seq)
{
    uint64_t others = seq - s->survivor_count, least = 0, most = 0;
    for (int i = 0; i < NOTES; i++) {
        least += (uint64_t)notes[i].published;
        int unsaid = i == NOTE_VICTIM && (s->op->flags & BATCH) != 0 ? s->op->messages : 1;
        most += (uint64_t)(notes[i].published + (notes[i].hit != 0 ? unsaid : 0));
    }
    most += (s->op->flags & FORKS) != 0; /* its child's */
    MUST(others >= least && others <= most, "%llu messages of the dead, not %llu to %llu",
         (unsigned long long)others, (unsigned long long)least, (unsigned long long)most);
}

/* One writer's messages are numbered in the order in which it wrote them. */
static void
check_order(const struct scene *s)
{
    uint64_t last[AUTHORS] = {0};
    for (uint64_t seq = 1; seq < MAX_SEQ; seq++) {
        uint64_t author = s->known[seq][0], serial = s->known[seq][1] + 1;
        if (author == VICTIM || author == RECOVERER || author == HELPER) {
            MUST(serial > last[author], "message %llu came late", (unsigned long long)seq);
            last[author] = serial;
        }
    }
}

/* ---- lossless readers and groups ---- */

/* No floor above what a living lossless reader has yet to read, and nothing of that is gone; but
 * what was while its group had no member. */
static void
check_floor(const struct scene *s, bool is_whole)
{
    struct sf_ring *ring = &s->writer.att->ring;
    /* Seq_cst: nobody else is there, but for those who are frozen. */
    uint64_t lowest = sf_floor_without(ring, SF_NIL);
    uint64_t floor = sf_load_seq(&ring->header->floor_seq);
    uint64_t tail = sf_load_seq(&ring->header->tail);
    MUST(floor <= lowest, "%llu > %llu", (unsigned long long)floor, (unsigned long long)lowest);
    MUST(tail <= lowest || !is_whole, "%llu > %llu", (unsigned long long)tail,
         (unsigned long long)lowest);
}

/* Each message of the group was taken by one at most, and one at most was lost with each death. */
static void
check_team(const struct scene *s)
{
    uint64_t head = sf_load_seq(&s->writer.att->ring.header->head); /* nobody writes now */
    uint64_t deaths = 0, missing = 0;
    for (int i = 0; i < NOTES; i++) {
        deaths += notes[i].hit != 0;
    }
    for (uint64_t seq = s->team_from; seq <= head; seq++) {
        int times = s->took[seq];
        for (int i = 0; i < NOTES; i++) {
            times += notes[i].took[seq];
        }
        MUST(times <= 1, "message %llu was taken twice", (unsigned long long)seq);
        missing += times == 0;
    }
    MUST((s->op->flags & LOSSY) != 0 || missing <= deaths, "%llu messages were taken by nobody",
         (unsigned long long)missing);
}

/* A member of a group, or a lossless reader, can come and go, whatever was there before. */
static void
check_joining(struct scene *s, const char *group)
{
    struct party p = {.author = SURVIVOR};
    struct sf_joining how = {.group = group, .start = SF_NEW, .lossless = true};
    int status = sf_attach(s->path, SF_AS_WRITER, &p.att);
    MUST(status == 0, "%s", sf_status_text(status));
    how.lossless = !group || (s->op->flags & LOSSY) == 0;
    status = sf_join(p.att, &how, os_now_ns() + PATIENCE_NS);
    MUST(status == 0, "joining: %s", sf_status_text(status));
    check_floor(s, !group || (s->op->flags & GROUP) != 0);
    must_put(s, SMALL);
    struct sf_message m;
    uint64_t from;
    status = sf_take_look(p.att, false, &from, &m);
    MUST(status == 0, "a new reader: %s", sf_status_text(status));
    judge(s, m.seq, sf_message_payload(p.att, &m), m.payload_len);
    MUST(sf_take_commit(p.att, from, &m), "nobody else takes");
    if (group) { /* as if the survivor had */
        s->took[m.seq] = 1;
    }
    sf_unjoin(p.att);
    sf_attachment_unref(p.att);
}

/* The dead have been cleaned: the floor is what the survivors have yet to read, exactly. */
static void
check_policies(struct scene *s)
{
    struct sf_attachment *att = s->writer.att;
    struct sf_ring *ring = &att->ring;
    for (uint32_t slot = (uint32_t)s->living; slot < ring->lay.max_participants; slot++) {
        /* Seq_cst: nobody else is there. */
        MUST(sf_load_seq(&ring->slots[slot].policy) == 0, "slot %u", slot);
        MUST(sf_load_seq(&ring->slots[slot].group) == 0, "slot %u", slot); /* as above */
    }
    if ((s->op->flags & (LAGS | LOSSLESS | GROUP)) == 0) {
        return;
    }
    check_joining(s, NULL);
    check_joining(s, (s->op->flags & GROUP) != 0 ? TEAM : "others");
    drain(s);
    if ((s->op->flags & GROUP) != 0) {
        check_team(s);
    }
    uint64_t next = sf_load_seq(&ring->header->head) + 1; /* nobody writes now */
    bool lossless = (s->op->flags & LOSSLESS) != 0 || (s->op->flags & (GROUP | LOSSY)) == GROUP;
    int status = sf_lock_wait(att, os_now_ns() + PATIENCE_NS);
    MUST(status == 0, "%s", sf_status_text(status));
    (void)sf_raise_floor_locked(ring);
    uint64_t floor = sf_load_relaxed(&ring->header->floor_seq); /* under the lock */
    MUST(floor == (lossless ? next : UINT64_MAX), "%llu", (unsigned long long)floor);
    sf_unlock(att);
}

/* A death costs one call's message: nothing like a history. Each of these acts evicts less. */
static void
check_retained(const struct scene *s)
{
    struct sf_header *h = s->writer.att->ring.header;
    uint64_t count = sf_load_seq(&h->head) + 1 - sf_load_seq(&h->tail); /* nobody writes now */
    uint64_t least = (s->op->flags & MAIN_HELD) != 0 ? 1 : 8;
    MUST(count >= least, "%llu messages are left", (unsigned long long)count);
}

/* ---- what is left ---- */

/* Slots that are no survivor's. */
static void
check_slots(const struct scene *s)
{
    struct sf_ring *ring = &s->writer.att->ring;
    for (uint32_t slot = (uint32_t)s->living; slot < ring->lay.max_participants; slot++) {
        MUST(sf_load_seq(&ring->slots[slot].state) == SF_SLOT_FREE, "slot %u", slot);
    }
}

static void
check_leaks(struct scene *s)
{
    struct sf_ring *ring = &s->writer.att->ring;
    (void)sf_clean_dead(s->writer.att);
    check_slots(s);
    /* Seq_cst, here and below: nobody else is there. */
    uint64_t reader_bit = UINT64_C(1) << s->reader.att->slot;
    int held = 0;
    for (uint32_t desc = 0; desc < ring->lay.desc_len; desc++) {
        struct sf_desc *d = &ring->descs[desc];
        uint64_t holders = sf_load_seq(&d->holders[0]); /* as above */
        MUST((holders & ~reader_bit) == 0 && sf_load_seq(&d->holders[1]) == 0,
             "block %u is held by %llx", desc, (unsigned long long)holders);
        held += holders != 0;
        uint32_t owner = sf_load_seq(&d->owner); /* as above */
        bool claimed = sf_load_seq(&d->len) != 0 && sf_load_seq(&d->seq) == 0 && owner != 0;
        MUST(!claimed || !sf_owner_lives(ring, owner), "block %u is claimed by %x", desc, owner);
    }
    MUST(held == s->reader.held_count, "%d blocks held, not %d", held, s->reader.held_count);
    uint32_t turn = sf_load_seq(&ring->header->turn); /* as above */
    MUST(turn == 0 || !sf_owner_lives(ring, turn), "%x", turn);
}

/* Nobody holds anything: one claim gets main as a whole, another the lane, and nothing else is. */
static void
check_all_is_free(struct scene *s)
{
    struct sf_attachment *att = s->writer.att;
    struct sf_ring *ring = &att->ring;
    struct sf_claim both[2];
    uint32_t free_count = 0;
    int status = sf_lock_wait(att, os_now_ns() + PATIENCE_NS);
    MUST(status == 0, "%s", sf_status_text(status));
    status = sf_claim_locked(ring, att->owner, ring->lay.capacity, SF_LANE_NEVER, &both[0]);
    MUST(status == 0, "main is not free: %s", sf_status_text(status));
    status = sf_claim_locked(ring, att->owner, ring->lay.lane_len, SF_LANE_NOW, &both[1]);
    MUST(status == 0, "the lane is not free: %s", sf_status_text(status));
    /* Relaxed: under the lock. */
    for (uint32_t desc = 0; desc < ring->lay.desc_len; desc++) {
        bool live = sf_load_relaxed(&ring->descs[desc].len) != 0;
        MUST(live == (desc == both[0].desc || desc == both[1].desc), "block %u", desc);
        MUST(!sf_is_held(ring, desc), "block %u", desc);
    }
    uint32_t desc = sf_load_relaxed(&ring->header->free_first); /* under the lock */
    while (desc != SF_NIL && free_count <= ring->lay.desc_len) {
        free_count++;
        desc = sf_load_relaxed(&ring->links[desc].next); /* under the lock */
    }
    MUST(free_count == ring->lay.desc_len - 2, "%u free descriptors", free_count);
    sf_unlock(att);
    sf_send_drop(att, &both[0]);
    sf_send_drop(att, &both[1]);
    MUST(sf_load_seq(&ring->header->lock) == 0, "the lock"); /* nobody else is there */
}

/* ---- a newcomer, by the public interface ---- */

int
come_and_go(struct scene *s, enum author author)
{
    struct shmflow_options options = {.capacity = CAPACITY, .start_new = 1};
    struct shmflow_topic *topic = NULL;
    struct shmflow_message message;
    uint64_t data[SMALL / 8], seq;
    struct party party = {.author = author};
    fill_claim(&party, data, SMALL);
    struct shmflow_array array = {.data = data, .len = SMALL};
    int status = shmflow_open(&topic, s->name, 1, &options);
    if (status < 0) {
        return status;
    }
    status = shmflow_write(topic, &array, (int64_t)PATIENCE_NS, &seq);
    message.seq = 0;
    while (status == 0 && message.seq < seq) { /* others' that were rolled forward come first */
        status = shmflow_read(topic, &message, (int64_t)PATIENCE_NS);
        if (status == 0) {
            bool same = message.seq != seq || memcmp(message.array.data, data, SMALL) == 0;
            status = same && message.seq <= seq ? 0 : SF_BAD_MESSAGE;
            shmflow_release(&message);
        }
    }
    shmflow_close(topic);
    return status;
}

static void
newcomer(struct scene *s)
{
    uint64_t started_ns = os_now_ns();
    int status = come_and_go(s, CHILD);
    MUST(status == 0, "a newcomer: %s", sf_status_text(status));
    if ((s->op->flags & (NO_TOPIC | TEMPORARY | IDLE)) != 0) {
        note_recovery(os_now_ns() - started_ns);
    }
}

/* Unfinished files of a creator are documented debris, where there is no O_TMPFILE or something is
 * replaced; whoever comes to what has ended replaces it. */
static void
check_debris(struct scene *s)
{
    bool makes = (s->op->flags & (NO_TMPFILE | REPLACES)) != 0;
    bool comes = (s->op->flags & (REPLACES | MAY_END)) != 0;
    int count = 0, most = makes * notes[NOTE_VICTIM].hit + comes * notes[NOTE_RECOVERER].hit;
    DIR *dir = opendir(folder);
    MUST(dir != NULL, "%s", folder);
    for (struct dirent *e = readdir(dir); e; e = readdir(dir)) {
        if (e->d_name[0] == '.' && strlen(e->d_name) > 2) {
            char path[400];
            snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
            count++;
            MUST(strlen(e->d_name) == 9 + 32 && strncmp(e->d_name, ".shmflow-", 9) == 0 &&
                     unlink(path) == 0,
                 "%s", e->d_name);
        }
    }
    closedir(dir);
    MUST(count <= most, "%d unfinished files", count);
}

/* What is replaced has its name, and all that it retains, until what replaces it has the name. */
static void
check_replaced(struct scene *s)
{
    struct stat named, opened;
    bool there = stat(s->path, &named) == 0;
    MUST(there || (s->op->flags & REPLACES) == 0, "there is none of that name");
    if (!there || !s->watcher.att || s->survivor_count == 0 || notes[NOTE_RECOVERER].hit != 0) {
        return;
    }
    MUST(fstat(s->fd, &opened) == 0, "the topic's file");
    if (named.st_ino != opened.st_ino) {
        struct sf_attachment *att;
        int status = sf_attach(s->path, SF_AS_MONITOR, &att);
        MUST(status == 0, "the new one: %s", sf_status_text(status));
        sf_attachment_unref(att);
        return;
    }
    const struct sf_header *header = s->watcher.att->ring.header;
    bool flagged = (sf_load_acquire(&header->ended) & SF_UNLINKED) != 0; /* with its setter */
    MUST(!flagged || (s->op->flags & REPLACES) == 0, "it was ended before it was replaced");
    check_history(s);
    MUST(sf_load_seq(&header->head) == s->survivor_count, "its messages"); /* nobody writes */
}

/* ---- the three ends ---- */

/* No survivor was attached: whoever comes gets a topic, at once. */
static void
check_by_name(struct scene *s)
{
    struct stat named, opened;
    newcomer(s);
    if (s->watcher.att) {
        bool joined = fstat(s->fd, &opened) == 0 && stat(s->path, &named) == 0 &&
                      named.st_ino == opened.st_ino;
        MUST(!joined || (s->op->flags & TEMPORARY) == 0, "it outlives its last participant");
        take_all(s, &s->watcher);
        MUST(joined || sf_attachment_has_gone(s->watcher.att), "the monitor is not told");
    }
}

/* The generation has ended, or its name has gone: all in it are told, and a new one can begin. */
static void
check_ended(struct scene *s)
{
    uint64_t until_ns = os_now_ns() + PATIENCE_NS;
    int status;
    do {
        status = put(s, &s->writer, SMALL, os_now_ns() + MS);
        (void)sf_attachment_is_named(s->writer.att); /* as writers do once a second */
    } while ((status == 0 || status == SF_BUSY) && os_now_ns() < until_ns);
    MUST(status == SF_ENDED || status == SF_GONE, "a writer: %s", sf_status_text(status));
    note_recovery(os_now_ns() - s->free_ns);
    take_all(s, &s->reader);
    status = take(s, &s->reader, false);
    MUST(status == SF_ENDED || status == SF_GONE, "a reader: %s", sf_status_text(status));
    MUST(sf_load_relaxed(s->reader.att->cursor) == /* both are over */
             sf_load_relaxed(&s->reader.att->ring.header->head) + 1,
         "it is not drained");
    take_all(s, &s->watcher);
    status = take(s, &s->watcher, false);
    MUST(status == SF_ENDED || status == SF_GONE, "a monitor: %s", sf_status_text(status));
    newcomer(s);
    MUST(sf_attachment_has_gone(s->writer.att), "two generations under one name");
    check_held(&s->reader, "the reader");
    let_go(&s->reader);
}

static void
check_going_on(struct scene *s)
{
    if (s->orderly) {
        check_slots(s); /* who left by itself leaves nothing to clean */
    }
    if (s->op->afterwards) {
        s->op->afterwards(s);
    }
    uint64_t seq = must_put(s, SMALL);
    note_recovery(os_now_ns() - s->free_ns);
    s->patient = false;
    check_count(s, seq);
    check_retained(s);
    must_put(s, LARGE);
    must_put(s, HUGE);
    drain(s);
    check_floor(s, true);
    /* Both are the supervisor's own by now. */
    MUST(sf_load_relaxed(s->reader.att->cursor) ==
             sf_load_relaxed(&s->reader.att->ring.header->head) + 1,
         "the reader stands still");
    check_history(s);
    check_order(s);
    if (s->op->settle) {
        s->op->settle(s);
    }
    check_leaks(s);
    check_policies(s);
    check_held(&s->reader, "the reader");
    let_go(&s->reader);
    check_all_is_free(s);
    must_put(s, LARGE);
    MUST(take(s, &s->reader, true) == 1 && s->reader.held_count == 1, "a message and its frame");
    check_held(&s->reader, "the reader");
    check_history(s);
    if ((s->op->flags & MAY_END) != 0) {
        newcomer(s);
    }
}

void
check_after_death(struct scene *s)
{
    wait_for_free_bytes(s);
    if ((s->op->flags & (REPLACES | IDLE)) != 0) {
        check_replaced(s);
    }
    if ((s->op->flags & (NO_TOPIC | TEMPORARY | IDLE)) != 0) {
        check_by_name(s);
    }
    else {
        check_held(&s->reader, "the reader");
        drain(s); /* readers need nobody */
        if ((s->op->flags & MAY_END) != 0 && !is_usable(s)) {
            check_ended(s);
        }
        else {
            check_going_on(s);
        }
    }
    check_debris(s);
}

/* The victim is frozen: alive, so nothing is taken from it, and nobody waits longer than asked. */
void
check_while_stopped(struct scene *s)
{
    struct sf_ring *ring = &s->writer.att->ring;
    MUST(notes[NOTE_VICTIM].attached > 0, "the victim has no slot");
    uint32_t slot = (uint32_t)notes[NOTE_VICTIM].attached - 1;
    /* Seq_cst, here and below: the victim stands still. */
    uint32_t gen = sf_load_seq(&ring->slots[slot].gen);
    uint32_t word = sf_load_seq(&ring->header->lock);
    bool locked = word != 0;
    MUST(!locked || sf_owner_slot(word) == slot, "%x", word);
    check_held(&s->reader, "the reader");
    drain(s);
    for (int i = 0; i < 2; i++) {
        int status = put(s, &s->writer, i == 0 ? SMALL : LARGE, os_now_ns() + 2 * MS);
        bool lane = (s->op->flags & MAIN_HELD) != 0 && status == SF_NO_ROOM;
        bool lags = (s->op->flags & LAGS) != 0 && !locked && status == SF_LAGGING;
        MUST(status == (locked ? SF_BUSY : 0) || lane || lags, "beside a frozen one: %s",
             sf_status_text(status));
    }
    sf_leave_queue(s->writer.att);
    MUST(sf_clean_dead(s->writer.att) == 0, "a frozen one was cleaned");
    MUST(sf_load_seq(&ring->slots[slot].gen) == gen, "slot %u", slot); /* as above */
    MUST(sf_load_seq(&ring->slots[slot].state) == SF_SLOT_TAKEN, "slot %u", slot);
    MUST((sf_load_seq(&ring->header->lock) & ~SF_WAITERS) == (word & ~SF_WAITERS), "the lock");
    drain(s);
    check_held(&s->reader, "the reader");
    if (!locked) {
        check_floor(s, true); /* what a frozen lossless reader has yet to read is there too */
    }
}
