/* status.h: the one list of status codes, and the buffer that an error's text goes into.
 *
 * A function that can fail returns a wn_status: 0 (WN_OK) or a negative named code, and the side
 * that finds the failure writes one text (what, where, expected, what to do) into the wn_error that
 * the caller owns. Nobody frees the other side's memory. */
#ifndef WINNOW_STATUS_H
#define WINNOW_STATUS_H

#include "winnow/base.h"

#include <stdarg.h>
#include <stdio.h>

typedef int32_t wn_status;

/* X(NAME, value, text) */
#define WN_STATUS_LIST(X)                                                                          \
    X(OK, 0, "success")                                                                            \
    X(EINVAL, -1, "invalid argument")                                                              \
    X(ENOMEM, -2, "out of memory")                                                                 \
    X(EUNSUPPORTED, -3, "not supported")                                                           \
    X(ENOPAGES, -4, "out of KV cache pages")                                                       \
    X(ENOTFOUND, -5, "not found")                                                                  \
    X(ECONFLICT, -6, "claimed twice")                                                              \
    X(EABI, -7, "ABI mismatch")                                                                    \
    X(ETRUST, -8, "refused by a security check")                                                   \
    X(EIO, -9, "input or output failed")                                                           \
    X(EFORMAT, -10, "malformed file")                                                              \
    X(ECONFIG, -11, "invalid configuration")                                                       \
    X(EPLUGIN, -12, "plugin broke the contract")                                                   \
    X(ESTATE, -13, "call out of order")                                                            \
    X(ERANGE, -14, "out of range")                                                                 \
    X(EBUSY, -15, "in use")

enum {
#define WN_STATUS_ENTRY(name, value, text) WN_##name = value,
    WN_STATUS_LIST(WN_STATUS_ENTRY)
#undef WN_STATUS_ENTRY
        WN_STATUS_LIST_END = -16
};

/* Where an error's text goes. text: capacity bytes, owned by whoever made the struct; always
 * NUL-terminated after a write, cut at capacity. */
typedef struct wn_error {
    uint32_t struct_size;
    uint32_t capacity;
    char *text;
} wn_error;
WN_STRUCT(wn_error, text);

/* Writes the text and returns status, so that a failing function ends in `return wn_fail(...)`.
 * error may be NULL. [any] & concurrent */
#if defined(__GNUC__)
__attribute__((unused, format(printf, 3, 4)))
#endif
static wn_status
wn_fail(wn_error *error, wn_status status, const char *format, ...)
{
    va_list arguments;
    if (error != NULL && error->text != NULL && error->capacity > 0) {
        va_start(arguments, format);
        vsnprintf(error->text, error->capacity, format, arguments);
        va_end(arguments);
    }
    return status;
}

#endif
