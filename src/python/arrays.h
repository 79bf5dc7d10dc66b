/* NumPy's C API, for the two files that use it: arrays.c, which imports it, and dtypes.c.
 *
 * Owns:      how they share its table of functions.
 * Does not:  go anywhere else: the rest of the extension knows arrays as objects.
 * A crash here leaves: nothing.
 */
#ifndef SHMFLOW_ARRAYS_H
#define SHMFLOW_ARRAYS_H

#include "python/module.h"

#define PY_ARRAY_UNIQUE_SYMBOL sf_numpy_api
#ifndef SF_IMPORTS_NUMPY
#define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>

/* dtypes.c: describes what is to be written; 0, or -1 with an exception. */
int sf_put_dtype(TopicObject *topic, PyArray_Descr *descr, struct sf_source *source);
/* The dtype of a message, as sf_message_dtype has it; `prefix` begins with a long one. */
int sf_get_dtype(TopicObject *topic, const struct sf_message *m, const char *prefix,
                 PyObject **descr);

#endif
