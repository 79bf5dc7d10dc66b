/* Copying a large payload into its block: through the caches, or past them.
 *
 * Owns:      attachment.ways.
 * Does not:  decide where a payload goes or when it is seen.
 *
 * A copy through the caches first reads the lines that it overwrites, and later writes back what
 * they pushed out. That costs nothing while the blocks in use fit into the cache, and the reader then
 * finds its frame there. Where they do not fit, streaming stores move a third of the bytes, and the
 * reader fetches its frame from memory. Which of the two holds depends on the ring, the machine
 * and its neighbours, so both are timed: each in a trial of two rounds of the ring, the first of
 * which only puts into the cache what will stay there, and from time to time again. Streaming comes
 * first: a new ring is in no cache. It is used where it takes less than two thirds: with less of a
 * gain the reader, who fetches from memory then, would lose more than the writer wins.
 *
 * Invariants
 *   Z1  What is estimated decides about speed only: relaxed, and threads may lose each other's.
 *   Z2  Streaming stores are weakly ordered: an sfence ends them, before any store that publishes.
 * A crash here leaves: a claim half written, like any other (ring.c).
 */
#include "core/attachment.h"

#include <string.h>

#define SF_STREAM_LEN (256u << 10) /* below, a call of the clock costs too much of a copy */
#define SF_TRIAL_MOST 512u /* copies */
#define SF_TRIALS 32u /* copies between trials, in lengths of one */

#ifdef __SSE2__
#include <emmintrin.h>

static void
stream(char *to, const char *from, size_t len)
{
    size_t off = 0;
    for (; len - off >= SF_LINE; off += SF_LINE) {
        const __m128i *source = (const void *)(from + off);
        __m128i *line = (void *)(to + off); /* payloads begin on a line */
        __m128i a = _mm_loadu_si128(source), b = _mm_loadu_si128(source + 1);
        __m128i c = _mm_loadu_si128(source + 2), d = _mm_loadu_si128(source + 3);
        _mm_stream_si128(line, a);
        _mm_stream_si128(line + 1, b);
        _mm_stream_si128(line + 2, c);
        _mm_stream_si128(line + 3, d);
    }
    memcpy(to + off, from + off, len - off);
    _mm_sfence(); /* Z2 */
}

/* How many copies take two rounds of the ring. */
static uint32_t
trial_len(const struct sf_layout *lay, size_t len)
{
    uint64_t blocks = lay->capacity / len;
    uint64_t kept = lay->depth + 1 < blocks ? lay->depth + 1 : blocks;
    return (uint32_t)(kept < SF_TRIAL_MOST / 2 ? 2 * kept + 2 : SF_TRIAL_MOST);
}

/* The way for this copy; *timed: is it to be told of? */
static enum sf_way
choose(struct sf_attachment *att, size_t len, bool *timed)
{
    struct sf_copies *c = &att->ways;
    uint32_t trial = trial_len(&att->ring.lay, len), left = sf_load_relaxed(&c->left); /* Z1 */
    uint32_t way = sf_load_relaxed(&c->way), on_trial = sf_load_relaxed(&c->on_trial); /* Z1 */
    if (left == 0) {
        uint32_t cached = sf_load_relaxed(&c->cost[SF_CACHED]); /* Z1 */
        uint32_t streamed = sf_load_relaxed(&c->cost[SF_STREAMED]); /* Z1 */
        enum sf_way best = streamed < cached - cached / 3 ? SF_STREAMED : SF_CACHED;
        bool known = cached != 0 && streamed != 0;
        bool settle = known && on_trial;
        way = settle ? best : known ? !best : streamed == 0 ? SF_STREAMED : SF_CACHED;
        on_trial = !settle;
        left = settle ? SF_TRIALS * trial : trial;
        sf_store_relaxed(&c->way, way); /* Z1 */
        sf_store_relaxed(&c->on_trial, on_trial); /* Z1 */
        if (on_trial) {
            sf_store_relaxed(&c->cost[way], 0); /* Z1 */
        }
    }
    sf_store_relaxed(&c->left, left - 1); /* Z1 */
    *timed = !on_trial || left <= trial / 2;
    return way == SF_STREAMED ? SF_STREAMED : SF_CACHED;
}

/* The least that was seen lately: a thread that was taken off its CPU tells nothing. */
static void
estimate(_Atomic uint32_t *cost, uint64_t ns, size_t len)
{
    uint32_t now = (uint32_t)(ns * 1000 / len) + 1, before = sf_load_relaxed(cost); /* Z1 */
    uint32_t slower = before + before / 16 + 1;
    sf_store_relaxed(cost, before == 0 || now < slower ? now : slower); /* Z1 */
}

void
sf_copy_in(struct sf_attachment *att, void *to, const void *from, size_t len)
{
    if (len < SF_STREAM_LEN) {
        memcpy(to, from, len);
        return;
    }
    bool timed;
    enum sf_way way = choose(att, len, &timed);
    uint64_t begin = os_now_ns();
    if (way == SF_STREAMED) {
        stream(to, from, len);
    }
    else {
        memcpy(to, from, len);
    }
    if (timed) {
        estimate(&att->ways.cost[way], os_now_ns() - begin, len);
    }
}

#else

void
sf_copy_in(struct sf_attachment *att, void *to, const void *from, size_t len)
{
    (void)att;
    memcpy(to, from, len);
}

#endif
