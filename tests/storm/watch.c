/* The supervisor's eyes: the segment's tables, mapped read-only, and what must be seen in them.
 *
 * Owns:      the mapping; what a frozen participant still has; what a dead one's figures say.
 * Does not:  attach, lock or store anything: it looks at tables that others change.
 *
 * So only what cannot change in between is compared: a frozen participant's slot, generation,
 * claim, pins, and the lock while it holds it. What else a peer may do to a block that is held:
 * evict its message (seq to 0) and pin or unpin it, never move or free it.
 *
 * A crash here leaves: nothing; the storm's children die with their supervisor.
 */
#include "storm.h"

#include <stdio.h>
#include <string.h>

static struct sf_ring ring;
static uint64_t highest_seq;

void
watch_open(const char *path)
{
    struct sf_layout layout;
    struct os_file_info info;
    uint8_t identity[16];
    void *at = NULL;
    int status = sf_segment_peek(path, &layout, &info, identity);
    int fd = status < 0 ? status : os_file_open(path, false);
    status = fd < 0 ? fd : os_map(fd, 0, layout.arena_off, false, &at);
    status = status < 0 ? status : os_map_no_fork(at, layout.arena_off);
    if (status < 0) {
        violate("the topic that was just made cannot be looked at: %s", sf_status_name(status));
    }
    (void)os_file_close(fd);
    sf_ring_bind(&ring, &layout, at);
    highest_seq = 0;
}

const struct sf_ring *
watch_ring(void)
{
    return &ring;
}

bool
watch_has_lock(const struct seat *seat)
{
    uint32_t owner = sf_load_acquire(&seat->owner); /* with join_topic */
    /* Relaxed: the holder stands still, or the answer is a guess. */
    return owner != 0 && (sf_load_relaxed(&ring.header->lock) & ~SF_WAITERS) == owner;
}

bool
watch_has_lane(const struct seat *seat)
{
    uint32_t claim = sf_load_relaxed(&seat->claim); /* as above */
    return claim != 0 && sf_load_relaxed(&ring.descs[claim - 1].off) >= ring.lay.capacity;
}

/* A sum over the descriptors that the slot holds: differs if one bit came or went. */
static uint64_t
sum_of_bits(uint32_t slot)
{
    uint64_t sum = 0;
    for (uint32_t desc = 0; desc < ring.lay.desc_len; desc++) {
        /* Relaxed: only the frozen one's own bit is looked at. */
        uint64_t word = sf_load_relaxed(sf_holders_word(&ring, desc, slot));
        sum += (word >> slot % 64 & 1) * mix(desc + 1);
    }
    return sum;
}

void
watch_look(const struct seat *seat, struct possession *out)
{
    memset(out, 0, sizeof *out);
    out->owner = sf_load_acquire(&seat->owner); /* with join_topic */
    if (out->owner == 0) {
        return;
    }
    /* Relaxed, all of them: the one that would change them is frozen. */
    out->slot = sf_owner_slot(out->owner);
    out->gen = sf_load_relaxed(&ring.slots[out->slot].gen);
    out->lock = sf_load_relaxed(&ring.header->lock) & ~SF_WAITERS;
    out->has_lock = out->lock == out->owner;
    out->rebuilds = sf_load_relaxed(&ring.header->rebuilds);
    out->head = sf_load_relaxed(&ring.header->head);
    out->bits = sum_of_bits(out->slot);
    out->policy = sf_load_relaxed(&ring.slots[out->slot].policy);
    out->group = sf_load_relaxed(&ring.slots[out->slot].group);
    out->cursor = sf_load_relaxed(&ring.slots[out->slot].cursor); /* as above */
    out->tail = sf_load_seq(&ring.header->tail);
    out->claim = sf_load_relaxed(&seat->claim);
    out->has_lane = watch_has_lane(seat);
    if (out->claim != 0) {
        out->claim_owner = sf_load_relaxed(&ring.descs[out->claim - 1].owner); /* as above */
        out->claim_len = sf_load_relaxed(&ring.descs[out->claim - 1].len);
    }
    for (uint32_t i = 0; i < HELD; i++) {
        out->held[i] = sf_load_relaxed(&seat->held[i]); /* as above */
        if (out->held[i] != 0) {
            out->off[i] = sf_load_relaxed(&ring.descs[out->held[i] - 1].off);
            out->len[i] = sf_load_relaxed(&ring.descs[out->held[i] - 1].len);
        }
    }
}

static _Noreturn void
stolen(uint32_t seat, const char *what, unsigned long long before, unsigned long long after)
{
    violate("while %s (seat %u) was frozen, %s: %llu before, %llu after", role_of(seat), seat, what,
            before, after);
}

void
watch_compare(uint32_t seat, const struct possession *before, bool others_die)
{
    struct possession now;
    watch_look(&board->seats[seat], &now);
    if (before->owner == 0) {
        return;
    }
    /* Acquire: with the cleaner's release. */
    uint32_t state = sf_load_acquire(&ring.slots[before->slot].state);
    if (now.gen != before->gen || state != SF_SLOT_TAKEN ||
        sf_owner_gen(before->owner) != (now.gen & SF_GEN_MASK)) {
        stolen(seat, "its slot's generation changed", before->gen, now.gen);
    }
    if (now.bits != before->bits) {
        stolen(seat, "the pins of its slot changed", before->bits, now.bits);
    }
    if (now.policy != before->policy || now.group != before->group) {
        stolen(seat, "its policy or its group changed", before->policy, now.policy);
    }
    if (now.policy == SF_POLICY_LOSSLESS && now.group == 0 && now.tail > now.cursor) {
        stolen(seat, "what it has yet to read was evicted (cursor, tail)", now.cursor, now.tail);
    }
    if (before->has_lock && !now.has_lock) {
        stolen(seat, "its lock was taken", before->lock, now.lock);
    }
    if (before->has_lock && now.head != before->head) {
        stolen(seat, "somebody published without the lock", before->head, now.head);
    }
    if (now.rebuilds != before->rebuilds && (before->has_lock || !others_die)) {
        stolen(seat, "somebody rebuilt", before->rebuilds, now.rebuilds);
    }
    if (before->claim != 0 &&
        (before->claim_owner != before->owner || now.claim_owner != before->owner ||
         now.claim_len != before->claim_len || now.claim_len == 0)) {
        stolen(seat, "its claim became another's", before->claim_len, now.claim_len);
    }
    for (uint32_t i = 0; i < HELD; i++) {
        if (before->held[i] == 0) {
            continue;
        }
        /* Relaxed: as in sum_of_bits. */
        uint64_t word = sf_load_relaxed(sf_holders_word(&ring, before->held[i] - 1, before->slot));
        if ((word >> before->slot % 64 & 1) == 0) {
            stolen(seat, "a view of it has no pin (descriptor)", before->held[i] - 1, 0);
        }
        if (now.off[i] != before->off[i] || now.len[i] != before->len[i] || now.len[i] == 0) {
            stolen(seat, "a block that it views was moved or freed", before->off[i], now.off[i]);
        }
    }
}

void
watch_dead(uint32_t number)
{
    struct seat *seat = &board->seats[number];
    /* Acquire and seq_cst, against a writer that is dead already. B for head. */
    uint64_t written_seq = sf_load_acquire(&seat->last_written_seq);
    uint64_t head = sf_load_seq(&ring.header->head);
    if (head < written_seq || head < highest_seq) {
        violate("head is %llu, but seat %u had a write return with %llu, and head was %llu",
                (unsigned long long)head, number, (unsigned long long)written_seq,
                (unsigned long long)highest_seq);
    }
    highest_seq = head;
    if (number < WRITERS || sf_load_seq(&seat->version) % 2 != 0) {
        return;
    }
    uint64_t first = sf_load_seq(&seat->first_seq), last = sf_load_seq(&seat->last_seq);
    uint64_t read = sf_load_seq(&seat->read), lost = sf_load_seq(&seat->lost);
    uint64_t skipped = sf_load_seq(&seat->skipped); /* all as above */
    if (read + lost + skipped != last + 1 - first && !is_member(number)) {
        violate("%s (seat %u): %llu read + %llu lost + %llu skipped is not %llu … %llu",
                role_of(number), number, (unsigned long long)read, (unsigned long long)lost,
                (unsigned long long)skipped, (unsigned long long)first, (unsigned long long)last);
    }
    /* A message is there an instant before head says so; a writer may have died in between. */
    if (last > head + 1) {
        violate("%s (seat %u) read %llu, and head is %llu", role_of(number), number,
                (unsigned long long)last, (unsigned long long)head);
    }
}

void
watch_stuck(uint32_t number, uint64_t since_ns)
{
    struct seat *seat = &board->seats[number];
    /* Relaxed: moments' lag, against a limit of many seconds. */
    uint64_t success_ns = sf_load_relaxed(&seat->success_ns);
    uint64_t head = sf_load_relaxed(&ring.header->head);
    uint64_t next_seq = sf_load_relaxed(&seat->next_seq);
    uint64_t idle_ns = os_now_ns() - (success_ns > since_ns ? success_ns : since_ns);
    if (idle_ns > 2 * board->patience_ns && (number < WRITERS || head > next_seq)) {
        violate("%s (seat %u) has done nothing for %llu ms; head is %llu, it waits for %llu, the "
                "lock is %#x, its owner word %#x",
                role_of(number), number, (unsigned long long)(idle_ns / MS),
                (unsigned long long)head, (unsigned long long)next_seq,
                sf_load_relaxed(&ring.header->lock), sf_load_relaxed(&seat->owner)); /* as above */
    }
}

void
watch_team(void)
{
    uint64_t taken = 0, lost = 0, from = sf_load_seq(&board->team_from), to = from;
    for (uint32_t i = 0; i < board->seat_count; i++) {
        if (is_member(i)) {
            /* Relaxed: they have ended. */
            taken += sf_load_relaxed(&board->seats[i].tally.read);
            lost += sf_load_relaxed(&board->seats[i].tally.lost);
        }
    }
    for (uint32_t at = 0; at < SF_GROUPS; at++) {
        if (strcmp(ring.groups[at].name, TEAM) == 0) {
            to = sf_load_relaxed(&ring.groups[at].cursor); /* nobody is left */
        }
    }
    uint64_t missing = to - from - taken;
    /* Where all members were dead at one time, the group protected nothing for a while. */
    if (lost == 0 && missing > board->team_deaths) {
        violate("of %llu messages a group took %llu, and %llu of its members died",
                (unsigned long long)(to - from), (unsigned long long)taken,
                (unsigned long long)board->team_deaths);
    }
    if (from == 0 || taken == 0) {
        violate("a group took nothing");
    }
}
