/* Messages that tell who wrote them and whether they are whole.
 *
 * Owns:      what the bytes of a message and its description are, given writer, incarnation,
 *            counter and length; the random numbers of the storm.
 * Does not:  read or write the ring.
 *
 * The first word has everything but the length, and a check over all; the rest is an arithmetic
 * sequence that starts where a hash of both says. Two messages never share a tail, and no part of
 * one fits elsewhere. Description (dims, dtype, meta, stamp) follows from the same hash.
 *
 * A crash here leaves: nothing shared.
 */
#include "storm.h"

#include <string.h>

#define STEP UINT64_C(0x9e3779b97f4a7c15)

/* splitmix64 (Steele, Lea, Flood 2014): its output function and its generator. */
uint64_t
mix(uint64_t value)
{
    value = (value ^ value >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ value >> 27) * UINT64_C(0x94d049bb133111eb);
    return value ^ value >> 31;
}

uint64_t
draw(uint64_t *random)
{
    return mix(*random += STEP);
}

uint64_t
draw_between(uint64_t *random, uint64_t low, uint64_t high)
{
    return low + draw(random) % (high - low + 1);
}

uint64_t
draw_len(uint64_t *random, uint64_t low, uint64_t high)
{
    uint64_t doublings = 0;
    while (low << (doublings + 1) <= high) {
        doublings++;
    }
    uint64_t from = low << draw_between(random, 0, doublings);
    uint64_t to = 2 * from < high ? 2 * from : high;
    return draw_between(random, from, to);
}

struct identity
identify(uint32_t writer, uint32_t incarnation, uint32_t counter, uint64_t len)
{
    struct identity id = {
        .writer = writer & 7,
        .incarnation = incarnation & 0x1ffff,
        .counter = counter & 0x3fffffff,
        .len = len,
    };
    uint64_t who = (uint64_t)id.writer << 47 | (uint64_t)id.incarnation << 30 | id.counter;
    id.word = who << 14 | mix(who ^ mix(len)) >> 50;
    id.seed = mix(id.word ^ mix(~len));
    return id;
}

void
fill_payload(char *payload, const struct identity *id, uint64_t from, uint64_t to)
{
    uint64_t whole = to / 8;
    for (uint64_t i = from / 8; i < whole; i++) {
        uint64_t word = i == 0 ? id->word : id->seed + i * STEP;
        memcpy(payload + 8 * i, &word, 8);
    }
    uint64_t last = id->seed + whole * STEP;
    memcpy(payload + 8 * whole, &last, to % 8);
}

void
describe(const struct identity *id, struct text *text, struct sf_out *out)
{
    uint64_t hash = mix(id->seed);
    /* Most have nothing in the prefix; some a meta, many dimensions, a long dtype, or all. */
    bool has_meta = hash % 4 == 0, is_deep = hash % 16 == 1, is_long = hash % 64 < 2;
    uint32_t ndim = is_deep || hash % 64 == 0 ? SF_INLINE_DIMS + 1 + hash / 64 % 8 : 1;
    *out = (struct sf_out){
        .payload_len = id->len,
        .shape = text->shape,
        .dtype = text->dtype,
        .dtype_len = is_long ? 48 : 3,
        .ndim = ndim,
        .meta_len = has_meta ? 1 + (uint32_t)(hash / 1024 % sizeof text->meta) : 0,
        .stamp_ns = id->seed,
        .stamped = true,
        .fortran = (hash >> 40 & 1) != 0,
    };
    out->meta = has_meta ? text->meta : NULL;
    for (uint32_t i = 0; i < ndim; i++) {
        text->shape[i] = i + 1 < ndim ? 1 : id->len;
    }
    memset(text->dtype, 'a' + (int)(hash >> 50 & 15), sizeof text->dtype);
    for (uint32_t i = 0; i < out->meta_len; i++) {
        text->meta[i] = (char)(id->seed >> i % 8 * 8);
    }
}

const char *
check_payload(const char *payload, uint64_t len, struct identity *id)
{
    uint64_t word;
    if (len < 8) {
        return "too short to be one of ours";
    }
    memcpy(&word, payload, 8);
    *id = identify((uint32_t)(word >> 61), (uint32_t)(word >> 44), (uint32_t)(word >> 14), len);
    if (id->word != word || id->writer >= WRITERS || id->counter == 0) {
        return "its first word and its length do not belong together";
    }
    uint64_t wrong = 0;
    for (uint64_t i = 1; i < len / 8; i++) {
        memcpy(&word, payload + 8 * i, 8);
        wrong |= word ^ (id->seed + i * STEP);
    }
    uint64_t last = id->seed + len / 8 * STEP;
    if (wrong != 0 || memcmp(payload + len / 8 * 8, &last, len % 8) != 0) {
        return "torn: it begins as one message and goes on as another";
    }
    return NULL;
}

const char *
check_description(const struct sf_message *m, const char *prefix, const struct identity *id)
{
    struct text text;
    struct sf_out out;
    describe(id, &text, &out);
    if (m->stamp_ns != out.stamp_ns || m->payload_len != out.payload_len || m->ndim != out.ndim ||
        m->dtype_len != out.dtype_len || m->meta_len != out.meta_len || m->fortran != out.fortran) {
        return "described as another message";
    }
    const void *shape = m->shape;
    if (m->ndim > SF_INLINE_DIMS) {
        shape = prefix;
        prefix += (size_t)m->ndim * 8;
    }
    const void *dtype = m->dtype;
    if (m->dtype_len > SF_INLINE_DTYPE) {
        dtype = prefix;
        prefix += m->dtype_len;
    }
    if (memcmp(shape, text.shape, (size_t)m->ndim * 8) != 0 ||
        memcmp(dtype, text.dtype, m->dtype_len) != 0) {
        return "its shape or dtype is another message's";
    }
    return memcmp(prefix, text.meta, m->meta_len) != 0 ? "its meta is another message's" : NULL;
}
