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
 * Invariants
 *   J5  A take that is not committed has consumed nothing.
 *   J6  A lossless reader commits only what it holds or has copied: from then on it may be evicted.
 *
 * A crash here leaves: nothing to mend; writers that wait for this reader look again each slice.
 */
#include "core/attachment.h"

int
sf_take_look(struct sf_attachment *att, bool newest, uint64_t *from, struct sf_message *message)
{
    /* ended before head (J4): what was published before the end is still found. */
    uint32_t ended = sf_load_seq(&att->ring.header->ended) & SF_ENDS;
    uint64_t cursor = sf_load_relaxed(att->cursor); /* commit settles races between threads */
    *from = cursor;
    int status =
        newest ? sf_look_newest(&att->ring, cursor, message) : sf_look(&att->ring, cursor, message);
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
