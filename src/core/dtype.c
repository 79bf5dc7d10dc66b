/* The wire form of a dtype, read by C: how many bytes one element has.
 *
 * Owns:      the grammar below.
 * Does not:  accept all that NumPy would: native and long names ("float32", "f") are not portable.
 *
 *     dtype  = code | fields
 *     code   = [<>|=] kind size, such as <f4 |u1 |S5 <U3 <M8[ns]
 *     fields = "[" { "(" name "," type [ "," shape ] ")" } "]", with commas between
 *     name   = string | "(" title "," string ")"; "" of type |V and a size is a gap
 *     type   = string with a code in it | fields
 *     shape  = "(" numbers ")", one number with a comma
 *
 * Quotes of either kind may stand around strings.
 *
 * Invariants: W1, W2 of wire.h.
 *   Y1  Names and titles of one list of fields are all different, as NumPy wants them.
 * A crash here leaves: nothing.
 */
#include "core/wire.h"

#include "core/layout.h"

#include <string.h>

#define SF_MOST_NAMES (SF_MAX_DTYPE / 4) /* each takes two quotes, and brackets and commas */
#define SF_MOST_SIZE UINT64_C(0x7fffffff) /* an itemsize is an int */

/* Where the parser stands. The names of the lists that are open lie one after the other. */
struct parser {
    const char *text;
    uint32_t at, len;
    uint32_t names_len;
    uint16_t names[SF_MOST_NAMES]; /* each: where its text begins, behind the quote */
};

static int
peek(const struct parser *p)
{
    return p->at < p->len ? (unsigned char)p->text[p->at] : -1;
}

static void
skip_spaces(struct parser *p)
{
    while (peek(p) == ' ') {
        p->at++;
    }
}

static bool
skip(struct parser *p, int c)
{
    skip_spaces(p);
    if (peek(p) != c) {
        return false;
    }
    p->at++;
    return true;
}

/* A number without leading zeros, up to SF_MOST_SIZE. */
static bool
read_number(struct parser *p, uint64_t *out)
{
    uint32_t first = p->at;
    *out = 0;
    while (peek(p) >= '0' && peek(p) <= '9' && *out <= SF_MOST_SIZE) {
        *out = *out * 10 + (uint64_t)(peek(p) - '0');
        p->at++;
    }
    return p->at > first && *out <= SF_MOST_SIZE && (p->text[first] != '0' || p->at == first + 1);
}

/* ---- codes ---- */

static bool
has_unit(struct parser *p)
{
    static const char *const units[] = {"Y]",  "M]",  "W]",  "D]",  "h]",  "m]", "s]",
                                        "ms]", "us]", "ns]", "ps]", "fs]", "as]"};
    uint64_t count;
    if (!skip(p, '[') ||
        (peek(p) >= '0' && peek(p) <= '9' && (!read_number(p, &count) || !count))) {
        return false;
    }
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        size_t len = strlen(units[i]);
        if (p->len - p->at >= len && memcmp(p->text + p->at, units[i], len) == 0) {
            p->at += (uint32_t)len;
            return true;
        }
    }
    return false;
}

/* *is_void: of raw bytes, as gaps between fields are. */
static bool
read_code(struct parser *p, uint64_t *size, bool *is_void)
{
    int c = peek(p);
    p->at += c == '<' || c == '>' || c == '|' || c == '=';
    int kind = peek(p);
    p->at++;
    uint64_t n;
    if (kind < 0 || !read_number(p, &n)) {
        return false;
    }
    *size = kind == 'U' ? 4 * n : n;
    *is_void = kind == 'V';
    switch (kind) {
    case 'b':
        return n == 1;
    case 'i':
    case 'u':
        return n == 1 || n == 2 || n == 4 || n == 8;
    case 'f':
        return n == 2 || n == 4 || n == 8 || n == 16;
    case 'c':
        return n == 8 || n == 16 || n == 32;
    case 'm':
    case 'M':
        return n == 8 && (peek(p) != '[' || has_unit(p));
    case 'S':
    case 'U':
    case 'V':
        return *size <= SF_MOST_SIZE;
    default:
        return false;
    }
}

/* ---- strings ---- */

static int
hex_digit(int c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* The next character of a string, escapes resolved; -1: no such string. */
static int64_t
next_char(const char *text, uint32_t *at, uint32_t len)
{
    static const char plain[] = "\\'\"nrt", meant[] = "\\'\"\n\r\t";
    unsigned char c = *at < len ? (unsigned char)text[(*at)++] : 0;
    if (c != '\\') {
        return c >= 0x20 && c < 0x7f ? c : -1;
    }
    c = *at < len ? (unsigned char)text[(*at)++] : 0;
    const char *found = c ? strchr(plain, c) : NULL;
    if (found) {
        return meant[found - plain];
    }
    int digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    int64_t value = digits ? 0 : -1;
    for (int i = 0; i < digits && value >= 0; i++) {
        int digit = *at < len ? hex_digit((unsigned char)text[(*at)++]) : -1;
        value = digit < 0 ? -1 : value * 16 + digit;
    }
    return value > 0x10ffff ? -1 : value;
}

/* Leaves p behind the closing quote; *first, *end: the text between. */
static bool
read_string(struct parser *p, uint32_t *first, uint32_t *end)
{
    int quote = skip(p, '\'') ? '\'' : skip(p, '"') ? '"' : 0;
    *first = p->at;
    while (quote && peek(p) != quote) {
        if (next_char(p->text, &p->at, p->len) < 0) {
            return false;
        }
    }
    *end = p->at++;
    return quote != 0;
}

/* Do two strings that were read before say the same? Each ends with the quote it began behind. */
static bool
is_same_text(const struct parser *p, uint32_t a, uint32_t b)
{
    char quote_a = p->text[a - 1], quote_b = p->text[b - 1];
    while (p->text[a] != quote_a && p->text[b] != quote_b) {
        if (next_char(p->text, &a, p->len) != next_char(p->text, &b, p->len)) {
            return false;
        }
    }
    return p->text[a] == quote_a && p->text[b] == quote_b;
}

/* ---- fields ---- */

/* Y1: among the names from `from` on, which are those of this list. */
static bool
add_name(struct parser *p, uint32_t from, uint32_t first)
{
    for (uint32_t i = from; i < p->names_len; i++) {
        if (is_same_text(p, p->names[i], first)) {
            return false;
        }
    }
    if (p->names_len == SF_MOST_NAMES) {
        return false;
    }
    p->names[p->names_len++] = (uint16_t)first;
    return true;
}

/* A field's name, and its title where it has one, which is added. */
static bool
read_name(struct parser *p, uint32_t from, uint32_t *name, bool *may_be_gap)
{
    bool titled = skip(p, '(');
    uint32_t end;
    if (!read_string(p, name, &end)) {
        return false;
    }
    *may_be_gap = *name == end && !titled;
    return !titled ||
           (add_name(p, from, *name) && skip(p, ',') && read_string(p, name, &end) && skip(p, ')'));
}

/* Multiplies *size by a shape's dimensions. */
static bool
read_shape(struct parser *p, uint64_t *size)
{
    uint64_t n, count = 1;
    uint32_t dims = 0;
    bool more = skip(p, '(');
    while (more) {
        skip_spaces(p);
        if (!read_number(p, &n) || ++dims > SF_MAX_DIMS ||
            __builtin_mul_overflow(count, n, &count)) {
            return false;
        }
        more = skip(p, ',');
        if (skip(p, ')')) {
            return (more || dims > 1) && /* "(3)" is a number in brackets */
                   !__builtin_mul_overflow(*size, count, size) && *size <= SF_MOST_SIZE;
        }
    }
    return false;
}

static bool read_fields(struct parser *p, uint32_t level, uint64_t *size);

static bool
read_type(struct parser *p, uint32_t level, uint64_t *size, bool *is_void)
{
    *is_void = false;
    skip_spaces(p);
    if (peek(p) == '[') {
        return read_fields(p, level + 1, size);
    }
    uint32_t first, end;
    if (!read_string(p, &first, &end)) {
        return false;
    }
    uint32_t behind = p->at, whole = p->len;
    p->at = first;
    p->len = end;
    bool is_code = read_code(p, size, is_void) && p->at == end;
    p->at = behind;
    p->len = whole;
    return is_code;
}

/* From "[" to "]". */
static bool
read_fields(struct parser *p, uint32_t level, uint64_t *size)
{
    uint32_t from = p->names_len;
    bool more = skip(p, '[') && level < SF_DTYPE_LEVELS;
    if (!more) {
        return false;
    }
    *size = 0;
    while (!skip(p, ']')) {
        uint64_t one;
        uint32_t name;
        bool may_be_gap, is_void;
        if (!more || !skip(p, '(') || !read_name(p, from, &name, &may_be_gap) || !skip(p, ',') ||
            !read_type(p, level, &one, &is_void) ||
            (!(may_be_gap && is_void) && !add_name(p, from, name))) {
            return false;
        }
        more = skip(p, ',');
        if (!skip(p, ')')) {
            if (!more || !read_shape(p, &one)) {
                return false;
            }
            (void)skip(p, ',');
            if (!skip(p, ')')) {
                return false;
            }
        }
        *size += one;
        if (*size > SF_MOST_SIZE) {
            return false;
        }
        more = skip(p, ',');
    }
    p->names_len = from;
    return true;
}

bool
sf_dtype_itemsize(const char *text, size_t len, uint64_t *itemsize)
{
    struct parser p;
    bool is_void;
    if (len == 0 || len > SF_MAX_DTYPE) {
        return false;
    }
    p.text = text;
    p.len = (uint32_t)len;
    p.at = p.names_len = 0;
    bool is_dtype = text[0] == '[' ? read_fields(&p, 0, itemsize)
                                   : read_code(&p, itemsize, &is_void) &&
                                         (*itemsize != 0 || is_void); /* NumPy makes S1 of S0 */
    return is_dtype && p.at == p.len;
}
