/* What travels beside the bytes, as far as C has to understand it: dtypes and meta, checked.
 *
 * Owns:      the two checks of what a C program says of its message.
 * Does not:  know arrays. Python writes dtypes and meta by shmflow/_wire.py, and reads dtypes by
 *            python/dtype_wire.c.
 *
 * Invariants
 *   W1  What is accepted here every reader understands, with the same itemsize, and all that Python
 *       writes is accepted; what C refuses may still be something that NumPy knows by another name.
 *   W2  Bounded: no recursion deeper than SF_DTYPE_LEVELS, no allocation, nothing read past the end.
 * A crash here leaves: nothing.
 */
#ifndef SHMFLOW_WIRE_H
#define SHMFLOW_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SF_DTYPE_LEVELS 64u /* structures within structures; _wire.py has it too */

/* The bytes of one element: of a code such as "<f4", or of fields such as "[('x', '<f4'), ('y', '<f4')]".
 * False: it is no dtype that can travel. */
bool sf_dtype_itemsize(const char *text, size_t len, uint64_t *itemsize);
/* Is it one JSON object (RFC 8259), in UTF-8, that Python's reader takes as well? */
bool sf_is_json_object(const char *text, size_t len);

#endif
