/* Names and texts of statuses, made of the one list in status.h.
 *
 * Owns:      the two look-ups.
 * Does not:  know any status by itself.
 *
 * Invariants: T1, T2 of status.h.
 * A crash here leaves: nothing.
 */
#include "core/status.h"

#include <string.h>

const char *
sf_status_name(int status)
{
    switch (status) {
#define SF_AS_NAME(name, value, text)                                                              \
    case value:                                                                                    \
        return #name;
        SF_STATUSES(SF_AS_NAME)
#undef SF_AS_NAME
    default:
        return "errno";
    }
}

const char *
sf_status_text(int status)
{
    switch (status) {
#define SF_AS_TEXT(name, value, text)                                                              \
    case value:                                                                                    \
        return text;
        SF_STATUSES(SF_AS_TEXT)
#undef SF_AS_TEXT
    default:
        return status < 0 && status > -4096 ? strerror(-status) : "no error";
    }
}
