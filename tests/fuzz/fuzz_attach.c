/* Fuzz target: a real file, spoilt before and while it is attached to, through the public calls.
 *
 * Owns:      a folder of its own below $SHMFLOW_DIR (or /dev/shm) with one topic's file in it, which
 *            each input finds as it was made; time that passes by being waited for.
 * Does not:  truncate a file that is mapped: that is SIGBUS by design.
 *
 * Whatever the file holds: opening, reading, writing, looking on, cleaning and removing end, with a
 * known status; what is read can be read to its last byte. Link with WRAPPED_FILES in
 * tests/fuzz/run: sleeps of the core only move its clock.
 */
#include "fuzz.h"

#include "core/shmflow.h"
#include "core/topic.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#define MOST_STEPS 100
#define MOST_OPEN 3
#define MOST_HELD 6
#define NAME "spoilt"

static char folder[200], path[256];
static uint64_t slept_ns, sum;

/* ---- time ---- */

#define WRAP(name) __wrap_##name
#define REAL(name) __real_##name

int REAL(os_file_info)(int fd, struct os_file_info *info);
int WRAP(os_file_info)(int fd, struct os_file_info *info);
int WRAP(os_file_reserve)(int fd, uint64_t off, uint64_t len);
void WRAP(os_file_clear)(int fd, uint64_t off, uint64_t len);
uint64_t WRAP(os_cgroup_room)(void);
uint64_t REAL(os_now_ns)(void);
uint64_t WRAP(os_now_ns)(void);
int WRAP(os_sleep_until)(uint64_t until_ns);
int WRAP(os_futex_wait)(_Atomic uint32_t *word, uint32_t expected, uint64_t until_ns);

uint64_t
WRAP(os_now_ns)(void)
{
    return REAL(os_now_ns)() + slept_ns;
}

int
WRAP(os_sleep_until)(uint64_t until_ns)
{
    uint64_t now = WRAP(os_now_ns)();
    slept_ns += until_ns > now ? until_ns - now : 0;
    return 0;
}

int
WRAP(os_futex_wait)(_Atomic uint32_t *word, uint32_t expected, uint64_t until_ns)
{
    if (sf_load_relaxed(word) != expected) { /* one thread */
        return -EAGAIN;
    }
    (void)WRAP(os_sleep_until)(until_ns);
    return -ETIMEDOUT;
}

/* ---- memory ---- */

/* Topics stay sparse, uncleared, and nobody asks the cgroup: all that takes longer than what is tried
 * here. Each file is told as reserved. */
int
WRAP(os_file_info)(int fd, struct os_file_info *info)
{
    int status = REAL(os_file_info)(fd, info);
    if (status == 0 && info->allocated < info->size) {
        info->allocated = info->size;
    }
    return status;
}

int
WRAP(os_file_reserve)(int fd, uint64_t off, uint64_t len)
{
    (void)fd;
    (void)off;
    (void)len;
    return 0;
}

void
WRAP(os_file_clear)(int fd, uint64_t off, uint64_t len)
{
    (void)fd;
    (void)off;
    (void)len;
}

uint64_t
WRAP(os_cgroup_room)(void)
{
    return UINT64_MAX;
}

/* ---- the file ---- */

struct image {
    struct sf_layout lay;
    char *control; /* as made */
};

static void
drop_folder(void)
{
    (void)unlink(path);
    (void)rmdir(folder);
}

static void
make_folder(void)
{
    const char *below = getenv("SHMFLOW_DIR");
    snprintf(folder, sizeof folder, "%s/fuzz-XXXXXX", below && below[0] ? below : "/dev/shm");
    DEMAND(mkdtemp(folder) != NULL && setenv("SHMFLOW_DIR", folder, 1) == 0);
    DEMAND(sf_segment_path(NAME, path, sizeof path) == 0);
    DEMAND(atexit(drop_folder) == 0);
}

static int
write_one(struct shmflow_topic *topic, struct input *in, const struct sf_layout *lay)
{
    static const char bytes[1 << 17];
    static const char *const dtypes[] = {"|u1", "[('of one field', '|u1')]", bytes, "<f4"};
    char meta[2 + 256 * 5] = "{}";
    uint64_t shape[SF_MAX_DIMS];
    uint8_t how = take_byte(in);
    struct shmflow_array array = {.data = bytes, .len = take_payload_len(in, lay)};
    if ((how & 1) != 0) {
        array.dtype = dtypes[how >> 4 & 3];
        array.dtype_len = array.dtype == bytes ? 1 + take_byte(in) : 0;
        array.ndim = take_byte(in) % (SF_MAX_DIMS + 2);
        array.shape = shape;
        for (int i = 0; i < (int)SF_MAX_DIMS; i++) {
            shape[i] = i == 0 ? array.len : 1;
        }
    }
    if ((how & 2) != 0) {
        memset(meta + 2, (how & 8) != 0 ? 'x' : ' ', sizeof meta - 2);
        array.meta = meta;
        array.meta_len = 2 + take_byte(in) * 5u;
    }
    return shmflow_write(topic, &array, (how & 4) != 0 ? 1000000 : 0, NULL);
}

/* A topic as a writer leaves it that was there for a while. */
static void
make_image(struct image *image, const struct sf_params *params)
{
    struct shmflow_topic *topic;
    struct sf_params lasting = *params;
    lasting.flags = 0; /* else its file would be gone by now */
    (void)unlink(path);
    DEMAND(sf_segment_create(path, &lasting, 0600, NULL, NULL) == 0);
    DEMAND(sf_layout_compute(params, &image->lay) == 0);
    DEMAND(shmflow_open(&topic, NAME, 1, NULL) == 0);
    for (uint8_t i = 0; i < 12; i++) {
        const uint8_t bytes[] = {i, i, 3, 5, i};
        struct input in = {bytes, sizeof bytes};
        check_status(write_one(topic, &in, &image->lay));
    }
    shmflow_close(topic);
    image->control = malloc(image->lay.arena_off);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    DEMAND(image->control && fd >= 0);
    DEMAND(pread(fd, image->control, image->lay.arena_off, 0) == (ssize_t)image->lay.arena_off);
    (void)close(fd);
    DEMAND(unlink(path) == 0);
    ((struct sf_header *)image->control)->flags = params->flags;
}

/* The file as it was made, of a length that the input may change; its control regions, mapped.
 * The one of the input before is taken where it will do: new pages cost more than all else. */
static void *
put_file(const struct image *image, int64_t more)
{
    static const struct image *last;
    static struct os_file_info was;
    struct os_file_info info;
    int64_t len = (int64_t)image->lay.file_len + more;
    len = len < 0 ? 0 : len;
    bool same = last == image && os_path_info(path, &info) == 0 && info.ino == was.ino &&
                info.size == (uint64_t)len;
    if (!same) {
        (void)unlink(path);
    }
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    DEMAND(fd >= 0 && ftruncate(fd, len) == 0 && os_file_info(fd, &was) == 0);
    last = image;
    size_t control_len = image->lay.arena_off;
    void *base = MAP_FAILED;
    if (len >= (int64_t)control_len) {
        base = mmap(NULL, control_len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        DEMAND(base != MAP_FAILED);
        memcpy(base, image->control, control_len);
    }
    (void)close(fd);
    return base == MAP_FAILED ? NULL : base;
}

/* ---- the script ---- */

struct script {
    struct input in;
    const struct image *image;
    struct sf_ring ring; /* for pokes; no header when the file is too short for them */
    struct shmflow_topic *topics[MOST_OPEN];
    struct shmflow_message held[MOST_HELD];
    struct sf_attachment *monitor;
    uint64_t kept;
};

static void
read_bytes(const void *at, uint64_t len)
{
    static char copy[1 << 18];
    DEMAND(len <= sizeof copy);
    memcpy(copy, at, len);
    sum += len ? (unsigned char)copy[len - 1] : 0;
}

static void
read_one(struct script *s, struct shmflow_topic *topic)
{
    uint32_t i = 0;
    while (i < MOST_HELD && s->held[i].hold) {
        i++;
    }
    if (i == MOST_HELD) {
        return;
    }
    struct shmflow_message *m = &s->held[i];
    int status = shmflow_read(topic, m, take_byte(&s->in) % 3 * INT64_C(80000000));
    check_status(status);
    if (status == 0) {
        read_bytes(m->array.data, m->array.len);
        read_bytes(m->array.shape, m->array.ndim * sizeof(uint64_t));
        read_bytes(m->array.dtype, m->array.dtype_len);
        read_bytes(m->array.meta ? m->array.meta : "", m->array.meta_len);
    }
    else {
        m->hold = NULL;
    }
}

static void
look_on(struct script *s)
{
    uint8_t alive[SF_MAX_PARTICIPANTS];
    if (!s->monitor) {
        check_status(sf_attach(path, SF_AS_MONITOR, &s->monitor));
    }
    if (s->monitor) {
        struct sf_message m;
        int status = sf_look_newest(&s->monitor->ring, take_byte(&s->in), &m);
        check_status(status);
        if (status == 0) {
            read_bytes(sf_message_prefix(s->monitor, &m), m.prefix_len);
            read_bytes(sf_message_payload(s->monitor, &m), m.payload_len);
        }
        check_status(sf_list_living(s->monitor, alive));
    }
}

static void
clean(void)
{
    struct sf_attachment *att = NULL;
    int status = sf_attach(path, SF_AS_READER, &att);
    check_status(status);
    if (status == 0) {
        check_status(sf_clean_dead(att));
        sf_attachment_unref(att);
    }
}

static void
open_one(struct script *s, struct shmflow_topic **topic)
{
    static const uint32_t asked[] = {0, 0, 0, 4096, 1 << 20};
    struct shmflow_options options = {
        .capacity = asked[take_below(&s->in, 5)],
        .depth = take_byte(&s->in) % 16 == 1 ? 4 : 0,
        .start_new = take_byte(&s->in) & 1,
    };
    int status = shmflow_open(topic, NAME, take_byte(&s->in) & 1, &options);
    check_status(status);
    if (status < 0) {
        *topic = NULL;
    }
}

static void
do_step(struct script *s)
{
    uint32_t verb = take_below(&s->in, 16);
    struct shmflow_topic **topic = &s->topics[take_below(&s->in, MOST_OPEN)];
    if (verb < 8 && !*topic) {
        open_one(s, topic);
        return;
    }
    switch (verb) {
    case 0:
        shmflow_close(*topic);
        *topic = NULL;
        return;
    case 1:
        check_status(shmflow_shutdown(*topic, 1000000));
        return;
    case 2:
    case 3:
    case 4:
        check_status(write_one(*topic, &s->in, &s->image->lay));
        return;
    case 5:
    case 6:
    case 7:
        read_one(s, *topic);
        return;
    case 8:
        shmflow_release(&s->held[take_below(&s->in, MOST_HELD)]);
        return;
    case 9:
        look_on(s);
        return;
    case 10:
        clean();
        return;
    case 11:
        check_status(sf_segment_remove(path, NULL, (enum sf_when)take_below(&s->in, 3)));
        return;
    default:
        if (s->ring.header) {
            s->kept = poke(&s->in, &s->ring, s->kept);
        }
        return;
    }
}

static void
poke_constants(struct script *s, char *base)
{
    for (uint32_t pokes = take_byte(&s->in) % 8; pokes < 2; pokes++) {
        uint64_t at = (uint64_t)take_byte(&s->in) * 4 % offsetof(struct sf_header, ended);
        (void)poke_32(&s->in, &s->ring, base + at, 0);
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static struct image images[SMALL_TOPICS];
    struct script s = {.in = {data, len}};
    if (!folder[0]) {
        make_folder();
    }
    uint32_t which = take_below(&s.in, SMALL_TOPICS);
    if (!images[which].control) {
        make_image(&images[which], &small_topics[which]);
    }
    s.image = &images[which];
    uint8_t cut = take_byte(&s.in);
    int64_t more = cut < 0xf0 ? 0 : (int64_t)(int16_t)take_number(&s.in, 2) * (cut & 15) * 7;
    char *base = put_file(s.image, more);
    if (base) {
        sf_ring_bind(&s.ring, &s.image->lay, base);
        poke_constants(&s, base);
    }
    for (int step = 0; step < MOST_STEPS && s.in.left > 0; step++) {
        do_step(&s);
    }
    for (int i = 0; i < MOST_OPEN; i++) {
        shmflow_close(s.topics[i]);
    }
    for (int i = 0; i < MOST_HELD; i++) {
        shmflow_release(&s.held[i]);
    }
    if (s.monitor) {
        sf_attachment_unref(s.monitor);
    }
    if (base) {
        (void)munmap(base, s.image->lay.arena_off);
    }
    return 0;
}
