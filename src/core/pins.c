/* Pins: how many views of this process look at each block, and the one bit that tells the others.
 *
 * Owns:      att->pins, held_len, held_blocks; the process's bits in desc.holders.
 * Does not:  make views (src/python/view.c) or free blocks (space.c).
 *
 * Invariants
 *   N1  The shared bit is set exactly while the local count is above 0, the mutex aside. Without
 *       the count, two threads that look at one block would clear each other's bit.
 *   N2  A participant holds at most max_held bytes, or least_held blocks; a brief pin (a copy in
 *       progress) and a published loan are let in beyond, since they end or exist already.
 *   N3  The mutex is a leaf: held for a few instructions, across nothing that blocks. fork holds
 *       it while it copies held pages aside (fork.c), so the set of pins stands still then.
 *
 * A crash here leaves: bits of a dead participant; cleaning its slot clears them.
 */
#include "core/attachment.h"

/* Relaxed: told to monitors, who may see a moment's old value. */
static void
tell_held(struct sf_attachment *att)
{
    struct sf_participant *p = &att->ring.slots[att->slot];
    sf_store_relaxed(&p->held_len, att->held_len);
    sf_store_relaxed(&p->held_blocks, att->held_blocks);
    sf_store_relaxed(&p->pinned, att->pinned);
}

static void
count_in(struct sf_attachment *att, uint64_t block_len)
{
    att->held_len += block_len;
    att->held_blocks++;
}

/* The block is ours to read while we hold it, so its len cannot change; bounded all the same,
 * for segments that lie: a sum that wraps would only spoil our own cap. */
static void
count_out(struct sf_attachment *att, uint32_t desc)
{
    uint64_t len = sf_load_relaxed(&att->ring.descs[desc].len); /* held: stands still */
    att->held_len -= len < att->held_len ? len : att->held_len;
    att->held_blocks--;
    if (att->held_blocks == 0) {
        att->held_len = 0;
    }
}

/* N2 */
static bool
has_room(const struct sf_attachment *att, uint64_t block_len)
{
    return att->held_blocks < att->least_held ||
           (att->held_len <= att->max_held && block_len <= att->max_held - att->held_len);
}

enum sf_pin_answer
sf_pin(struct sf_attachment *att, const struct sf_message *message, bool brief)
{
    enum sf_pin_answer answer = SF_PIN_OK;
    uint32_t desc = message->desc;
    pthread_mutex_lock(&att->pins_mutex);
    if (att->pins[desc] != 0) {
        /* The bit is set already; is it for this message? Acquire: A. */
        if (sf_load_acquire(&att->ring.descs[desc].seq) != message->seq) {
            answer = SF_PIN_GONE;
        }
    }
    else if (!brief && !has_room(att, message->block_len)) {
        answer = SF_PIN_CAP;
    }
    else if (!sf_pin_bit(&att->ring, desc, att->slot, message->seq)) {
        answer = SF_PIN_GONE;
    }
    else {
        count_in(att, message->block_len);
    }
    if (answer == SF_PIN_OK) {
        att->pins[desc]++;
        att->pinned += !brief;
        tell_held(att);
    }
    pthread_mutex_unlock(&att->pins_mutex);
    return answer;
}

void
sf_unpin(struct sf_attachment *att, uint32_t desc)
{
    pthread_mutex_lock(&att->pins_mutex);
    att->pins[desc]--;
    if ((att->pins[desc] & ~SF_WAS_LOAN) == 0) {
        att->pins[desc] = 0;
        count_out(att, desc);
        sf_unpin_bit(&att->ring, desc, att->slot);
        tell_held(att);
    }
    pthread_mutex_unlock(&att->pins_mutex);
}

bool
sf_loan_fits(struct sf_attachment *att, uint64_t block_len)
{
    pthread_mutex_lock(&att->pins_mutex);
    bool fits = block_len >= att->ring.lay.threshold && has_room(att, block_len); /* L7 */
    pthread_mutex_unlock(&att->pins_mutex);
    return fits;
}

void
sf_loan_begin(struct sf_attachment *att, uint32_t desc)
{
    pthread_mutex_lock(&att->pins_mutex);
    att->pins[desc] = 1 | SF_WAS_LOAN;
    count_in(att, sf_load_relaxed(&att->ring.descs[desc].len)); /* our claim: stands still */
    tell_held(att);
    pthread_mutex_unlock(&att->pins_mutex);
}

void
sf_loan_keep(struct sf_attachment *att, uint32_t desc)
{
    sf_pin_own_claim(&att->ring, desc, att->slot);
}

void
sf_loan_drop(struct sf_attachment *att, uint32_t desc)
{
    pthread_mutex_lock(&att->pins_mutex);
    att->pins[desc] = 0;
    count_out(att, desc);
    tell_held(att);
    pthread_mutex_unlock(&att->pins_mutex);
    sf_unpin_bit(&att->ring, desc, att->slot); /* set if a publish was tried and failed */
    sf_discard(&att->ring, desc);
    sf_bell_ring(&att->ring.header->room);
}
