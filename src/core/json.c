/* Is a text a JSON object? For the meta that C programs send.
 *
 * Owns:      the check, by the grammar of RFC 8259, and the UTF-8 of RFC 3629.
 * Does not:  build anything.
 *
 * Invariants: W1, W2 of wire.h.
 *   O1  Refused, though the RFC leaves it open, is what Python's reader does not take or cannot give
 *       on: halves of surrogate pairs, integers of more than 4,300 digits, more than 512 levels.
 * A crash here leaves: nothing.
 */
#include "core/wire.h"

#include <string.h>

#define SF_JSON_LEVELS 512u
#define SF_JSON_DIGITS 4300u

/* Reading stops at the first byte that cannot be: `at` is moved to the end, where nothing fits. */
struct reader {
    const char *at, *end;
    bool failed;
};

static int
peek(const struct reader *r)
{
    return r->at < r->end ? (unsigned char)*r->at : -1;
}

static int
next(struct reader *r)
{
    int c = peek(r);
    r->at += c >= 0;
    return c;
}

static void
demand(struct reader *r, bool condition)
{
    if (!condition) {
        r->failed = true;
        r->at = r->end;
    }
}

static void
skip_space(struct reader *r)
{
    while (peek(r) == ' ' || peek(r) == '\t' || peek(r) == '\n' || peek(r) == '\r') {
        r->at++;
    }
}

static void
demand_text(struct reader *r, const char *text)
{
    size_t len = strlen(text);
    bool is_there = (size_t)(r->end - r->at) >= len && memcmp(r->at, text, len) == 0;
    demand(r, is_there);
    r->at += is_there ? len : 0;
}

static uint32_t
read_digits(struct reader *r)
{
    uint32_t count = 0;
    for (; peek(r) >= '0' && peek(r) <= '9'; r->at++) {
        count++;
    }
    demand(r, count != 0);
    return count;
}

static void
read_number(struct reader *r)
{
    bool is_whole = true;
    r->at += peek(r) == '-';
    bool zero = peek(r) == '0';
    uint32_t digits = read_digits(r);
    demand(r, !zero || digits == 1);
    if (peek(r) == '.') {
        is_whole = false;
        r->at++;
        (void)read_digits(r);
    }
    if (peek(r) == 'e' || peek(r) == 'E') {
        is_whole = false;
        r->at++;
        r->at += peek(r) == '+' || peek(r) == '-';
        (void)read_digits(r);
    }
    demand(r, !is_whole || digits <= SF_JSON_DIGITS); /* O1 */
}

static uint32_t
read_hex(struct reader *r)
{
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) {
        int c = next(r);
        bool digit = c >= '0' && c <= '9';
        bool letter = (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
        demand(r, digit || letter);
        value = value << 4 | (uint32_t)(digit ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    return value;
}

static void
read_escape(struct reader *r)
{
    int c = next(r);
    if (c != 'u') {
        demand(r, c > 0 && strchr("\"\\/bfnrt", c) != NULL);
        return;
    }
    uint32_t unit = read_hex(r);
    if (unit >= 0xd800 && unit < 0xe000) { /* O1 */
        demand_text(r, "\\u");
        uint32_t low = read_hex(r);
        demand(r, unit < 0xdc00 && low >= 0xdc00 && low < 0xe000);
    }
}

/* What follows the first byte of a character of more than one. */
static void
read_rest(struct reader *r, int first)
{
    /* The second byte's range depends on the first: no long forms, no surrogates, no end beyond
     * U+10FFFF. */
    int more = first < 0xe0 ? 1 : first < 0xf0 ? 2 : 3;
    int low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    int high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    demand(r, first >= 0xc2 && first <= 0xf4);
    for (int i = 0; i < more; i++) {
        int c = next(r);
        demand(r, c >= low && c <= high);
        low = 0x80;
        high = 0xbf;
    }
}

static void
read_string(struct reader *r)
{
    demand_text(r, "\"");
    for (int c = next(r); c != '"' && !r->failed; c = next(r)) {
        demand(r, c >= 0x20);
        if (c == '\\') {
            read_escape(r);
        }
        else if (c >= 0x80) {
            read_rest(r, c);
        }
    }
}

static void
read_key(struct reader *r)
{
    skip_space(r);
    read_string(r);
    skip_space(r);
    demand_text(r, ":");
}

static void
read_scalar(struct reader *r)
{
    switch (peek(r)) {
    case '"':
        read_string(r);
        break;
    case 't':
        demand_text(r, "true");
        break;
    case 'f':
        demand_text(r, "false");
        break;
    case 'n':
        demand_text(r, "null");
        break;
    default:
        read_number(r);
    }
}

bool
sf_is_json_object(const char *text, size_t len)
{
    struct reader r = {text, text + len, false};
    uint64_t is_object[SF_JSON_LEVELS / 64] = {0}; /* a bit a level: else it is an array */
    uint32_t level = 0;
    skip_space(&r);
    demand(&r, peek(&r) == '{');
    while (!r.failed) {
        /* A value begins here. */
        skip_space(&r);
        int c = peek(&r);
        if (c == '{' || c == '[') {
            demand(&r, level < SF_JSON_LEVELS);
            if (r.failed) {
                break;
            }
            uint64_t bit = UINT64_C(1) << level % 64;
            is_object[level / 64] &= ~bit;
            is_object[level / 64] |= c == '{' ? bit : 0;
            level++;
            r.at++;
            skip_space(&r);
            if (peek(&r) != (c == '{' ? '}' : ']')) {
                if (c == '{') {
                    read_key(&r);
                }
                continue;
            }
        }
        else {
            read_scalar(&r);
        }
        /* And ends here, with as many of those around it as do. */
        bool in_object = false;
        for (skip_space(&r); level > 0; skip_space(&r)) {
            in_object = (is_object[(level - 1) / 64] >> (level - 1) % 64 & 1) != 0;
            if (peek(&r) != (in_object ? '}' : ']')) {
                break;
            }
            r.at++;
            level--;
        }
        if (level == 0) {
            return !r.failed && r.at == r.end;
        }
        demand_text(&r, ",");
        if (in_object) {
            read_key(&r);
        }
    }
    return false;
}
