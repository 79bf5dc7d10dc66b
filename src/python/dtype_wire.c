/* The wire form of a dtype: what bytes from shared memory mean.
 *
 * Owns:      the grammar, and who is told what of a text that does not follow it.
 * Does not:  know NumPy's C API (dtypes.c makes the dtypes), or keep anything. _wire.py writes it.
 *
 *     form   = CODE | list                       as dtype.str has it: <f4, |S5, >M8[25us]
 *     list   = '[' { field ',' } ']'
 *     field  = '(' name ',' (STRING with a CODE | list) [ ',' shape ] ')'
 *     name   = STRING | '(' title STRING ',' name STRING ')'     '' with a void: a gap
 *     shape  = '(' { NUMBER ',' } ')'
 *
 * That is the literal in the header of a .npy file, and no more of Python: no compiler is asked, no
 * code of Python's runs.
 *
 * Invariants
 *   W1  SF_BAD_MESSAGE means that the text, and nothing else, is at fault: for that a reader passes
 *       over the message. Whatever else fails (memory, above all) is an exception.
 *   W2  Bounded by the text's length and by SF_DTYPE_LEVELS. Any bytes may be given.
 * A crash here leaves: nothing.
 */
#include "core/wire.h"
#include "python/module.h"

#include <string.h>

struct text {
    const char *at, *end;
    uint32_t depth;
};

/* One structure's fields, as NumPy keeps them. */
struct fields {
    PyObject *names; /* a list */
    PyObject *table; /* dict: name or title -> (dtype, offset[, title]) */
    uint64_t len;
};

static bool
next_is(struct text *text, char c)
{
    while (text->at < text->end && *text->at == ' ') {
        text->at++;
    }
    return text->at < text->end && *text->at == c;
}

static bool
skip(struct text *text, char c)
{
    bool is = next_is(text, c);
    text->at += is;
    return is;
}

/* Digits as a number that fits a C int, as NumPy wants them; -1 if there is none. */
static long
take_number(struct text *text)
{
    const char *begin = text->at;
    long number = 0;
    while (text->at < text->end && *text->at >= '0' && *text->at <= '9' && text->at - begin < 11) {
        number = number * 10 + (*text->at++ - '0');
    }
    return text->at == begin || number > INT32_MAX ? -1 : number;
}

/* 0 and *dtype for '<f4' and its like; *is_void for a void of some bytes. */
static int
parse_code(const char *code, size_t len, PyObject **dtype, bool *is_void)
{
    struct text text = {.at = code, .end = code + len};
    if (len > 0 && code[0] != '\0' && strchr("<>|=", code[0])) {
        text.at++;
    }
    char kind = text.at < text.end ? *text.at++ : '\0';
    *is_void = kind == 'V';
    bool is_time = kind == 'M' || kind == 'm';
    bool is_bool = kind == '?' && text.at == text.end;
    if (!is_bool && (!kind || !strchr("biufcmMSUV", kind) || take_number(&text) < 0)) {
        return SF_BAD_MESSAGE;
    }
    if (is_time && text.at < text.end && *text.at == '[') {
        text.at++;
        if (text.at < text.end && *text.at >= '0' && *text.at <= '9' && take_number(&text) < 1) {
            return SF_BAD_MESSAGE;
        }
        while (text.at < text.end && ((*text.at | 32) >= 'a' && (*text.at | 32) <= 'z')) {
            text.at++;
        }
        if (text.at == text.end || *text.at++ != ']') {
            return SF_BAD_MESSAGE;
        }
    }
    if (text.at != text.end) {
        return SF_BAD_MESSAGE;
    }
    PyObject *spec = PyUnicode_DecodeASCII(code, (Py_ssize_t)len, NULL);
    int status = spec ? sf_descr_of_code(spec, dtype) : -1;
    Py_XDECREF(spec);
    return status;
}

/* The digits of an escape, -1 if they are none. */
static long
take_hex(struct text *text, int count)
{
    long value = 0;
    for (; count > 0; count--, text->at++) {
        if (text->at == text->end) {
            return -1;
        }
        char c = *text->at, low = (char)(c | 32);
        int digit = c >= '0' && c <= '9' ? c - '0' : low >= 'a' && low <= 'f' ? low - 'a' + 10 : -1;
        if (digit < 0) {
            return -1;
        }
        value = value * 16 + digit;
    }
    return value;
}

/* One character of a string; -1 if it is none. Those that ascii() writes. */
static long
take_character(struct text *text)
{
    char c = *text->at++;
    if (c != '\\') {
        return c >= ' ' && c <= '~' ? c : -1;
    }
    if (text->at == text->end) {
        return -1;
    }
    switch (c = *text->at++) {
    case '\\':
    case '\'':
    case '"':
        return c;
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 't':
        return '\t';
    case 'x':
        return take_hex(text, 2);
    case 'u':
        return take_hex(text, 4);
    case 'U':
        return take_hex(text, 8);
    default:
        return -1;
    }
}

static int
parse_string(struct text *text, PyObject **string)
{
    char quote = skip(text, '\'') ? '\'' : skip(text, '"') ? '"' : '\0';
    if (!quote) {
        return SF_BAD_MESSAGE;
    }
    Py_UCS4 *characters = PyMem_New(Py_UCS4, (size_t)(text->end - text->at) + 1);
    if (!characters) {
        PyErr_NoMemory();
        return -1;
    }
    int status = 0;
    Py_ssize_t count = 0;
    while (status == 0 && text->at < text->end && *text->at != quote) {
        long c = take_character(text);
        status = c < 0 || c > 0x10ffff ? SF_BAD_MESSAGE : 0;
        characters[count++] = (Py_UCS4)c;
    }
    if (status == 0 && text->at++ == text->end) {
        status = SF_BAD_MESSAGE;
    }
    if (status == 0) {
        *string = PyUnicode_FromKindAndData(PyUnicode_4BYTE_KIND, characters, count);
        status = *string ? 0 : -1;
    }
    PyMem_Free(characters);
    return status;
}

/* A tuple, and how many elements that are. */
static int
parse_shape(struct text *text, PyObject **shape, uint64_t *count)
{
    PyObject *sizes = PyList_New(0);
    int status = !sizes ? -1 : skip(text, '(') ? 0 : SF_BAD_MESSAGE;
    *count = 1;
    while (status == 0 && !next_is(text, ')')) {
        long size = take_number(text);
        if (size < 0 || __builtin_mul_overflow(*count, (uint64_t)size, count)) {
            status = SF_BAD_MESSAGE;
            break;
        }
        PyObject *number = PyLong_FromLong(size);
        status = number ? PyList_Append(sizes, number) : -1;
        Py_XDECREF(number);
        if (!skip(text, ',')) {
            break;
        }
    }
    if (status == 0 && (!skip(text, ')') || PyList_GET_SIZE(sizes) > (Py_ssize_t)SF_MAX_DIMS ||
                        PyList_GET_SIZE(sizes) == 0)) {
        status = SF_BAD_MESSAGE;
    }
    if (status == 0) {
        *shape = PyList_AsTuple(sizes);
        status = *shape ? 0 : -1;
    }
    Py_XDECREF(sizes);
    return status;
}

static int parse_list(struct text *text, PyObject **dtype);

/* A code in quotes, or a list. */
static int
parse_base(struct text *text, PyObject **dtype, bool *is_void)
{
    *is_void = false;
    if (next_is(text, '[')) {
        return parse_list(text, dtype);
    }
    char quote = skip(text, '\'') ? '\'' : skip(text, '"') ? '"' : '\0';
    const char *code = text->at;
    const char *end = quote ? memchr(code, quote, (size_t)(text->end - code)) : NULL;
    if (!end) {
        return SF_BAD_MESSAGE;
    }
    text->at = end + 1;
    return parse_code(code, (size_t)(end - code), dtype, is_void);
}

/* And its shape, if there is one. */
static int
parse_format(struct text *text, PyObject **dtype, bool *is_void)
{
    int status = parse_base(text, dtype, is_void);
    if (status != 0 || !skip(text, ',') || !next_is(text, '(')) {
        return status;
    }
    PyObject *shape = NULL, *base = *dtype;
    uint64_t len;
    *dtype = NULL;
    status = parse_shape(text, &shape, &len);
    (void)skip(text, ',');
    if (status == 0 && (__builtin_mul_overflow(len, sf_descr_len(base), &len) || len > INT32_MAX)) {
        status = SF_BAD_MESSAGE;
    }
    if (status == 0) {
        status = sf_descr_repeat(base, shape, len, dtype);
    }
    Py_XDECREF(shape);
    Py_DECREF(base);
    return status;
}

/* A name, or a pair of title and name. */
static int
parse_name(struct text *text, PyObject **name, PyObject **title)
{
    bool titled = skip(text, '(');
    int status = parse_string(text, name);
    if (status == 0 && titled) {
        *title = *name;
        *name = NULL;
        status = skip(text, ',') ? parse_string(text, name) : SF_BAD_MESSAGE;
        (void)skip(text, ',');
        if (status == 0 && !skip(text, ')')) {
            status = SF_BAD_MESSAGE;
        }
    }
    return status;
}

static int
add_field(struct fields *fields, PyObject *name, PyObject *title, PyObject *dtype)
{
    PyObject *keys[] = {name, title};
    PyObject *entry = title ? Py_BuildValue("OKO", dtype, (unsigned long long)fields->len, title)
                            : Py_BuildValue("OK", dtype, (unsigned long long)fields->len);
    int status = entry ? PyList_Append(fields->names, name) : -1;
    for (int i = 0; status == 0 && i < 2 && keys[i]; i++) {
        int there = PyDict_Contains(fields->table, keys[i]);
        status = there < 0 ? -1
                 : there   ? SF_BAD_MESSAGE
                           : PyDict_SetItem(fields->table, keys[i], entry);
    }
    Py_XDECREF(entry);
    return status;
}

static int
parse_field(struct text *text, struct fields *fields)
{
    PyObject *name = NULL, *title = NULL, *dtype = NULL;
    bool is_void = false;
    int status = skip(text, '(') ? parse_name(text, &name, &title) : SF_BAD_MESSAGE;
    if (status == 0 && !skip(text, ',')) {
        status = SF_BAD_MESSAGE;
    }
    if (status == 0) {
        status = parse_format(text, &dtype, &is_void);
    }
    if (status == 0 && !skip(text, ')')) {
        status = SF_BAD_MESSAGE;
    }
    if (status == 0) {
        bool is_gap = is_void && !title && PyUnicode_GET_LENGTH(name) == 0;
        status = is_gap ? 0 : add_field(fields, name, title, dtype);
        fields->len += sf_descr_len(dtype);
        status = status == 0 && fields->len > INT32_MAX ? SF_BAD_MESSAGE : status;
    }
    Py_XDECREF(name);
    Py_XDECREF(title);
    Py_XDECREF(dtype);
    return status;
}

static int
parse_list(struct text *text, PyObject **dtype)
{
    struct fields fields = {PyList_New(0), PyDict_New(), 0};
    int status = fields.names && fields.table ? 0 : -1;
    if (status == 0 && (!skip(text, '[') || ++text->depth > SF_DTYPE_LEVELS)) {
        status = SF_BAD_MESSAGE;
    }
    while (status == 0 && !next_is(text, ']')) {
        status = parse_field(text, &fields);
        if (!skip(text, ',')) {
            break;
        }
    }
    if (status == 0 && !skip(text, ']')) {
        status = SF_BAD_MESSAGE;
    }
    if (status == 0) {
        text->depth--;
        status = sf_descr_of_fields(fields.names, fields.table, fields.len, dtype);
    }
    Py_XDECREF(fields.names);
    Py_XDECREF(fields.table);
    return status;
}

int
sf_parse_dtype(const char *wire, uint32_t len, PyObject **dtype)
{
    struct text text = {.at = wire, .end = wire + len};
    bool is_void;
    *dtype = NULL;
    if (len > 0 && wire[0] == '[') {
        int status = parse_list(&text, dtype);
        if (status == 0 && text.at != text.end) {
            Py_CLEAR(*dtype);
            status = SF_BAD_MESSAGE;
        }
        return status;
    }
    int status = parse_code(wire, len, dtype, &is_void);
    /* NumPy makes arrays of S1 or U1 of what has no bytes at all. */
    if (status == 0 && !is_void && sf_descr_len(*dtype) == 0) {
        Py_CLEAR(*dtype);
        status = SF_BAD_MESSAGE;
    }
    return status;
}
