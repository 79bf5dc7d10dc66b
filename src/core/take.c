/* Taking: from a cursor to a message that is consumed once.
 *
 * Owns:      what moves a cursor while reading, and who is told of it.
 * Does not:  find messages (ring.c), hold them (pins.c) or place readers (join.c).
 *
 * A cursor is a word that is exchanged from the number where a message was looked for to the one
 * behind the message that was found: its own word for a reader, one word for all members of a
 * group. Whoever succeeds has the message; threads and members differ only in how many try. So a
 * member that dies before has taken nothing, and after has taken that message.
 *
 * Who is overtaken finds the oldest message; while it copies that one, a writer that is quicker
 * overwrites it, and so on with the next: half of all copies are for nothing. So who has lost such a
 * race looks an eighth of what is retained further on. Who has not is given the oldest. Where even
 * the newest does not last as long as its copy takes (a large message, a depth of one), each look is
 * lost: so a lost race counts as a slice of a wait, after which signals and the clock are looked at.
 *
 * Invariants
 *   J5  A take that is not committed has consumed nothing.
 *   J7  Who loses races looks again for SF_RACE_NS whatever the deadline says, since something is there
 *       and most races are over at once (with a member, a thread, a small copy); then only until it.
 *   J6  A lossless reader commits only what it holds or has copied: from then on it may be evicted.
 *
 * A crash here leaves: nothing to mend; writers that wait for this reader look again each slice.
 */
#include "core/attachment.h"

#define SF_RACE_NS UINT64_C(10000000)

/* Where to look, of a cursor that was overtaken in a race: see above. */
static SF_COLD uint64_t
further(const struct sf_ring *ring, uint64_t cursor)
{
    uint64_t head = sf_load_relaxed(&ring->header->head); /* hints: look() finds what is there */
    uint64_t tail = sf_load_relaxed(&ring->header->tail); /* as above */
    bool overtaken = tail > cursor && tail <= head && head - tail < ring->lay.index_len;
    return overtaken ? tail + (head + 1 - tail) / 8 : cursor;
}

void
sf_take_raced(struct sf_attachment *att, const struct sf_message *message)
{
    sf_store_relaxed(&att->raced, message->seq); /* a private hint */
}

bool
sf_take_is_hopeless(uint64_t *since_ns)
{
    uint64_t now = os_now_ns();
    *since_ns = *since_ns ? *since_ns : now;
    return now - *since_ns >= SF_RACE_NS;
}

int
sf_take_look(struct sf_attachment *att, bool newest, uint64_t *from, struct sf_message *message)
{
    /* ended before head (J4): what was published before the end is still found. */
    uint32_t ended = sf_load_seq(&att->ring.header->ended) & SF_ENDS;
    uint64_t cursor = sf_load_relaxed(att->cursor); /* commit settles races between threads */
    *from = cursor;
    int status;
    if (newest) {
        status = sf_look_newest(&att->ring, cursor, message);
    }
    else {
        bool raced = sf_load_relaxed(&att->raced) > cursor; /* a private hint */
        uint64_t at = raced ? further(&att->ring, cursor) : cursor;
        status = sf_look(&att->ring, at, message);
        message->lost += at != cursor ? at - cursor : 0; /* unset where nothing was found */
    }
    if (status == SF_EMPTY && ended != 0) {
        return (ended & SF_SHUTDOWN) != 0 ? SF_ENDED : SF_GONE;
    }
    return status;
}

/* What a member of a group, or a lossless reader, owes to others. */
static void
tell_progress(struct sf_attachment *att, const struct sf_message *message)
{
    if (att->group != 0) {
        struct sf_participant *p = &att->ring.slots[att->slot];
        sf_add_relaxed64(&p->taken, 1); /* told to people */
        sf_store_relaxed(&p->cursor, message->seq + 1); /* as above: its last message */
    }
    if (att->lossless) {
        sf_fence_seq(); /* H: the cursor before the flag (floor.c) */
        sf_bell_ring(&att->ring.header->room);
    }
}

bool
sf_take_commit(struct sf_attachment *att, uint64_t from, const struct sf_message *message)
{
    /* Relaxed: the cursor orders nothing; exactly one thread, or member, gets each message. */
    if (!sf_cas_relaxed(att->cursor, &from, message->seq + 1)) {
        return false;
    }
    if (att->slot != SF_NIL && (message->lost | message->skipped) != 0) {
        struct sf_participant *p = &att->ring.slots[att->slot];
        sf_add_relaxed64(&p->lost, message->lost); /* told to people */
        sf_add_relaxed64(&p->skipped, message->skipped); /* told to people */
    }
    if (att->group != 0 || att->lossless) {
        tell_progress(att, message);
    }
    return true;
}

const char *
sf_message_prefix(const struct sf_attachment *att, const struct sf_message *message)
{
    return att->arena + message->block_off;
}

const char *
sf_message_payload(struct sf_attachment *att, const struct sf_message *message)
{
    sf_fill_pages(att, message->block_off, message->block_len, false);
    return att->arena + message->block_off + message->prefix_len;
}
