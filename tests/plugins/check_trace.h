/* check_trace.h: reads tensors of the recorded traces in tests/data (safetensors). Trusts its
 * files: they are part of the tests. Anything that goes wrong ends the program with a text. */
#ifndef WN_TESTS_CHECK_TRACE_H
#define WN_TESTS_CHECK_TRACE_H

#include <stdint.h>

typedef struct check_trace {
    uint8_t *file;
    const uint8_t *data; /* behind the header */
    void *header;        /* json_t */
} check_trace;

/* name: "sample_1k" for WN_TEST_DATA/sample_1k.safetensors. */
check_trace check_trace_open(const char *name);
void check_trace_close(check_trace *trace);
/* A number of the metadata. */
double check_trace_number(const check_trace *trace, const char *key);
/* Bytes of a tensor, and its shape in shape[3] (1 beyond its dimensions). */
const void *check_trace_tensor(const check_trace *trace, const char *name, int64_t *shape);
/* A bfloat16 tensor as float32; the caller frees it. */
float *check_trace_floats(const check_trace *trace, const char *name, int64_t *shape);

#endif
