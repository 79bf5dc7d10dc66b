/* Which deaths leave the same: so that second deaths are tried once for each state of things.
 *
 * Owns:      a number for what a death has left in the folder and in the tables.
 * Does not:  judge it.
 *
 * Invariants
 *   1  What differs from run to run by itself (identities, pids, times) is left out; so are the
 *      payload, which no recovery reads, and scratch, which each rebuild fills before it reads.
 * A crash here leaves: nothing.
 */
#include "kill.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static uint64_t
mix(uint64_t hash, const void *data, size_t len)
{
    const unsigned char *at = data;
    for (size_t i = 0; i < len; i++) {
        hash = (hash ^ at[i]) * UINT64_C(0x100000001b3);
    }
    return hash ^ hash >> 29;
}

/* From one field to the end of the structure, or to another field. */
#define MIX_REST(hash, at, type, from)                                                             \
    mix(hash, (const char *)(at) + offsetof(type, from), sizeof(type) - offsetof(type, from))
#define MIX_UNTIL(hash, at, type, to) mix(hash, at, offsetof(type, to))

static uint64_t
mix_tables(uint64_t hash, const struct sf_layout *lay, const char *base)
{
    struct sf_ring ring;
    sf_ring_bind(&ring, lay, (void *)(uintptr_t)base);
    hash = MIX_REST(hash, ring.header, struct sf_header, ended);
    for (uint32_t slot = 0; slot < lay->max_participants; slot++) {
        hash = MIX_UNTIL(hash, &ring.slots[slot], struct sf_participant, pid);
        hash = MIX_REST(hash, &ring.slots[slot], struct sf_participant, cursor);
    }
    for (uint32_t desc = 0; desc < lay->desc_len; desc++) {
        hash = MIX_UNTIL(hash, &ring.descs[desc], struct sf_desc, stamp_ns);
        hash = MIX_REST(hash, &ring.descs[desc], struct sf_desc, meta_len);
    }
    hash = mix(hash, base + lay->groups_off, SF_GROUPS * sizeof(struct sf_group));
    hash = mix(hash, base + lay->index_off, lay->index_len * sizeof(uint32_t));
    return mix(hash, base + lay->links_off, lay->desc_len * sizeof(struct sf_link));
}

uint64_t
residue_of(const struct scene *s)
{
    struct stat named = {0}, opened = {0};
    char left[256];
    int files = files_left(left);
    uint64_t hash = mix(UINT64_C(0xcbf29ce484222325), &files, sizeof files);
    bool old = s->watcher.att && fstat(s->fd, &opened) == 0;
    if (old) {
        hash = mix_tables(hash, &s->watcher.att->ring.lay, s->watcher.att->control);
    }
    bool there = stat(s->path, &named) == 0;
    bool same = there && old && named.st_ino == opened.st_ino;
    hash = mix(hash, &there, sizeof there);
    hash = mix(hash, &same, sizeof same);
    int fd = there && !same ? open(s->path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        size_t len = (size_t)named.st_size;
        void *base = mmap(NULL, len, PROT_READ, MAP_SHARED, fd, 0);
        struct sf_layout lay;
        if (base != MAP_FAILED && sf_layout_load(base, len, &lay) == 0) {
            hash = mix_tables(hash, &lay, base);
        }
        if (base != MAP_FAILED) {
            munmap(base, len);
        }
        close(fd);
    }
    return hash;
}
