/* Pages: cleared and mapped ahead of the copy that would find them missing.
 *
 * Owns:      attachment.filled and .idle_chunk; what is touched when.
 * Does not:  decide what is read or written. Nothing here changes a byte.
 *
 * The first store to a page of tmpfs that was only reserved costs ten times the copy into it: the
 * kernel clears the page, takes a fault and maps it. So
 *   - the creator clears the first 64 MiB, before the topic has a name, by writing zeros to the file: that
 *     takes half as long as mapping and unmapping it;
 *   - who attaches maps the 8 MiB that will be used next; a writer that comes before the first message,
 *     so that it most likely is the creator, all that was cleared;
 *   - the rest is mapped 2 MiB at a time: by writers after a publication, ahead of the next one; by
 *     readers while they have nothing to read; and on the way by whoever is there first.
 * Mapping is by touch, one byte per 64 KiB: the kernel maps the (cleared) pages around a fault with
 * it, of a shared mapping writable ones as well. That costs a fifth of MADV_POPULATE_WRITE, which
 * goes page by page; where pages are not cleared yet, the latter is what clears them.
 *
 * Invariants
 *   P1  filled is a hint: a page that is missing all the same comes by a fault of its own.
 *   P2  No system call here is made under the writer lock (J2).
 * A crash here leaves: nothing.
 */
#include "core/attachment.h"

#define SF_CLEARED_LEN (UINT64_C(64) << 20)
#define SF_FIRST_LEN (UINT64_C(8) << 20)

void
sf_pages_clear(int fd, const struct sf_layout *layout)
{
    uint64_t arena_len = layout->capacity + layout->lane_len;
    os_file_clear(fd, layout->arena_off, arena_len < SF_CLEARED_LEN ? arena_len : SF_CLEARED_LEN);
}

static void
fill(struct sf_attachment *att, uint64_t chunk, bool writable)
{
    uint64_t first = chunk * SF_FILL_LEN;
    uint64_t rest = att->arena_len - first;
    size_t len = (size_t)(rest < SF_FILL_LEN ? rest : SF_FILL_LEN);
    if (writable && first + len > SF_CLEARED_LEN) {
        os_map_populate(att->arena_rw + first, len);
    }
    else {
        os_map_touch((writable ? att->arena_rw : att->arena) + first, len);
    }
    uint8_t bit = writable ? SF_FILLED_WRITE : SF_FILLED_READ;
    uint8_t have = sf_load_relaxed(&att->filled[chunk]); /* a private hint */
    sf_store_relaxed(&att->filled[chunk], (uint8_t)(have | bit)); /* as above */
}

static bool
is_filled(const struct sf_attachment *att, uint64_t chunk, bool writable)
{
    uint8_t bit = writable ? SF_FILLED_WRITE : SF_FILLED_READ;
    return (sf_load_relaxed(&att->filled[chunk]) & bit) != 0; /* a private hint */
}

void
sf_fill_pages_slow(struct sf_attachment *att, uint64_t off, uint64_t len, bool writable)
{
    uint64_t end = off + len < att->arena_len ? off + len : att->arena_len;
    for (uint64_t chunk = off / SF_FILL_LEN; chunk * SF_FILL_LEN < end; chunk++) {
        if (!is_filled(att, chunk, writable)) {
            fill(att, chunk, writable);
        }
    }
}

void
sf_pages_begin(struct sf_attachment *att)
{
    /* Hints, all of them: descriptors may change while they are looked at. */
    struct sf_ring *ring = &att->ring;
    uint64_t head = sf_load_relaxed(&ring->header->head), off = 0; /* as above */
    uint32_t desc = sf_load_relaxed(&ring->index[head & (ring->lay.index_len - 1)]);
    if (head != 0 && desc < ring->lay.desc_len) {
        off = sf_load_relaxed(&ring->descs[desc].off); /* as above */
    }
    off = off < att->arena_len ? off : 0;
    sf_fill_pages_slow(att, off, SF_FIRST_LEN, false);
    if (att->arena_rw) {
        sf_fill_pages_slow(att, off, head == 0 ? SF_CLEARED_LEN : SF_FIRST_LEN, true);
    }
}

void
sf_pages_idle(struct sf_attachment *att)
{
    uint64_t end = att->arena_len < SF_CLEARED_LEN ? att->arena_len : SF_CLEARED_LEN;
    uint64_t chunk = sf_load_relaxed(&att->idle_chunk); /* a hint: two threads may fill one */
    while (chunk * SF_FILL_LEN < end && is_filled(att, chunk, false)) {
        chunk++;
    }
    bool more = chunk * SF_FILL_LEN < end;
    if (more) {
        fill(att, chunk, false);
    }
    sf_store_relaxed(&att->idle_chunk, more ? (uint32_t)chunk + 1 : SF_NIL); /* as above */
}
