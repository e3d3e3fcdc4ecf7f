/* check_small_trace.h: traces made up for the tests of the tools. */
#ifndef WN_TESTS_CHECK_SMALL_TRACE_H
#define WN_TESTS_CHECK_SMALL_TRACE_H

#include "tools/trace.h"

enum {
    CHECK_TOKENS = 96,
    CHECK_CONTEXT = 80,
    CHECK_HEADS = 4,
    CHECK_KV_HEADS = 2,
    CHECK_DIM = 8,
    CHECK_NEEDLE = 20, /* tokens 20..23 */
    CHECK_NEEDLE_END = 24
};

/* Writes a sound float32 trace with layers 3 and 5 as `name`: random but for the needle, which
 * query head 0 of layer 3 looks at in every generated row. Words are "w0 ", "w1 " ... */
const char *check_small_trace_write(const char *name);
/* The same with exact dense results in float64 for all rows, as an expectation. */
const char *check_small_trace_expected(const char *name, const wn_trace *trace);

#endif
