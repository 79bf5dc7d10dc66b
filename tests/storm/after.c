/* After the storm: when nobody is left, nothing of anybody is left.
 *
 * Owns:      the look at a topic whose participants are all dead or gone.
 * Does not:  run while any child lives.
 *
 * Everything is asked of a participant of its own, that does what any newcomer does: attach,
 * clean, take the lock (from a dead one, if need be), claim, write, read, leave, unlink.
 *
 * A crash here leaves: the folder, for the supervisor's caller to remove.
 */
#include "storm.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

static struct sf_attachment *att;

static void
demand(int status, const char *what)
{
    if (status < 0) {
        violate("after the storm: %s: %s", what, sf_status_name(status));
    }
}

/* The kernel drops a dead one's byte a little after its parent was told. */
static void
wait_for_the_dead(void)
{
    uint8_t alive[SF_MAX_PARTICIPANTS];
    uint64_t until_ns = os_now_ns() + board->patience_ns;
    while (sf_list_living(att, alive) != 1 && os_now_ns() < until_ns) {
        nap(MS);
    }
    (void)sf_clean_dead(att);
    for (uint32_t slot = 0; slot < att->ring.lay.max_participants; slot++) {
        /* Acquire: with clean_slot. */
        uint32_t state = sf_load_acquire(&att->ring.slots[slot].state);
        if (sf_load_acquire(&att->ring.slots[slot].policy) != 0) { /* with clean_slot, too */
            violate("after the storm slot %u is lossless, though nobody lives", slot);
        }
        if ((state == SF_SLOT_TAKEN) != (slot == att->slot)) {
            violate("after the storm slot %u of pid %u has state %u, though nobody lives", slot,
                    att->ring.slots[slot].pid, state);
        }
    }
}

static void
check_lock(void)
{
    demand(sf_lock_wait(att, os_now_ns() + board->patience_ns), "the lock was not recovered");
#ifdef SF_DEBUG
    sf_check_locked(&att->ring);
#endif
    (void)sf_raise_floor_locked(&att->ring);
    uint64_t floor = sf_load_relaxed(&att->ring.header->floor_seq); /* G */
    sf_unlock(att);
    if (floor != UINT64_MAX) {
        violate("after the storm the floor is %llu", (unsigned long long)floor);
    }
    uint32_t word = sf_load_relaxed(&att->ring.header->lock); /* nobody else is there */
    if (word != 0) {
        violate("after the storm the lock is %#x, and nobody has it", word);
    }
}

static void
check_blocks(void)
{
    for (uint32_t desc = 0; desc < att->ring.lay.desc_len; desc++) {
        /* Relaxed, here and below: nobody else is there. */
        uint32_t owner = sf_load_relaxed(&att->ring.descs[desc].owner);
        uint64_t len = sf_load_relaxed(&att->ring.descs[desc].len);
        if (sf_is_held(&att->ring, desc)) {
            violate("after the storm descriptor %u has a pin, and nobody lives", desc);
        }
        if (len != 0 && owner != 0 && sf_owner_lives(&att->ring, owner)) {
            violate("after the storm descriptor %u is claimed by %#x, who counts as living", desc,
                    owner);
        }
    }
}

static uint32_t
count_live(void)
{
    uint32_t live = 0;
    for (uint32_t desc = 0; desc < att->ring.lay.desc_len; desc++) {
        live += sf_load_relaxed(&att->ring.descs[desc].len) != 0; /* as above */
    }
    return live;
}

/* The chain of free descriptors, as long as it can be. */
static uint32_t
count_free(void)
{
    uint32_t count = 0;
    uint32_t desc = sf_load_relaxed(&att->ring.header->free_first); /* as above */
    while (desc < att->ring.lay.desc_len && count <= att->ring.lay.desc_len) {
        count++;
        desc = sf_load_relaxed(&att->ring.links[desc].next); /* as above */
    }
    return count;
}

/* Main and lane, each in one piece: no block of anybody is in the way, none is forgotten. */
static void
check_room(void)
{
    struct sf_claim whole, lane;
    uint64_t until_ns = os_now_ns() + board->patience_ns, capacity = att->ring.lay.capacity;
    demand(sf_send_claim(att, capacity, SF_LANE_NEVER, until_ns, &whole),
           "main cannot be claimed in one piece");
    demand(sf_send_claim(att, att->ring.lay.lane_len, SF_LANE_IN_TURN, until_ns, &lane),
           "the lane cannot be claimed in one piece");
    if (whole.off != 0 || whole.len != capacity || lane.off != capacity || count_live() != 2) {
        violate("after the storm two claims that are all there is leave %u blocks", count_live());
    }
    if (count_free() != att->ring.lay.desc_len - 2) {
        violate("after the storm %u of %u descriptors are free, and two are taken", count_free(),
                att->ring.lay.desc_len);
    }
    sf_send_drop(att, &whole);
    sf_send_drop(att, &lane);
    check_lock();
}

static void
check_flow(void)
{
    struct identity id = identify(0, 0x1ffff, 1, board->max_message), seen;
    struct text text;
    struct sf_out out;
    describe(&id, &text, &out);
    struct sf_claim claim;
    uint64_t until_ns = os_now_ns() + board->patience_ns, seq, from;
    uint64_t head = sf_load_relaxed(&att->ring.header->head); /* nobody else is there */
    demand(sf_send_claim(att, sf_out_block_len(&out), SF_LANE_IN_TURN, until_ns, &claim),
           "the largest message finds no room");
    fill_payload(sf_send_payload(att, &out, &claim), &id, 0, id.len);
    demand(sf_send_publish(att, &out, &claim, until_ns, &seq), "it cannot be published");
    struct sf_message m;
    sf_resubscribe(att, 1);
    demand(sf_take_look(att, false, &from, &m), "it cannot be found");
    const char *wrong = check_payload(sf_message_payload(att, &m), m.payload_len, &seen);
    wrong = wrong ? wrong : check_description(&m, sf_message_prefix(att, &m), &seen);
    /* check_room evicted all that was there before. */
    if (wrong || seen.seed != id.seed || m.seq != seq || seq != head + 1 || m.lost != head) {
        violate("after the storm the next message is %llu, %s (head was %llu, lost %llu)",
                (unsigned long long)m.seq, wrong ? wrong : "not what was written",
                (unsigned long long)head, (unsigned long long)m.lost);
    }
}

static uint32_t
count_files(const char *folder, const char *but)
{
    uint32_t files = 0;
    DIR *dir = opendir(folder);
    for (struct dirent *entry; dir && (entry = readdir(dir)) != NULL;) {
        bool is_dots = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
        files += !is_dots && strcmp(entry->d_name, but) != 0;
    }
    if (dir) {
        closedir(dir);
    }
    return files;
}

void
check_aftermath(const char *folder, const char *path)
{
    demand(sf_attach(path, SF_AS_WRITER, &att), "nobody can attach");
    wait_for_the_dead();
    check_lock();
    check_blocks();
    check_room();
    check_flow();
    check_room();
    sf_attachment_unref(att);
    if (count_files(folder, strrchr(path, '/') + 1) != 0) {
        violate("after the storm there are %u files that nobody made", count_files(folder, ""));
    }
    demand(sf_segment_remove(path, NULL, SF_WHEN_IDLE), "an idle topic cannot be removed");
    if (count_files(folder, "") != 0) {
        violate("after the removal %u files are left", count_files(folder, ""));
    }
}
