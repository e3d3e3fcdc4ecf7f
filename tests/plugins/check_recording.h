/* check_recording.h: reads tensors of the recorded traces in tests/data (safetensors). Trusts its
 * files: they are part of the tests. Anything that goes wrong ends the program with a text. */
#ifndef WN_TESTS_CHECK_RECORDING_H
#define WN_TESTS_CHECK_RECORDING_H

#include <stdint.h>

typedef struct check_recording {
    uint8_t *file;
    const uint8_t *data; /* behind the header */
    void *header;        /* json_t */
} check_recording;

/* name: "sample_1k" for WN_TEST_DATA/sample_1k.safetensors. */
check_recording check_recording_open(const char *name);
void check_recording_close(check_recording *trace);
/* A number of the metadata. */
double check_recording_number(const check_recording *trace, const char *key);
/* Bytes of a tensor, and its shape in shape[3] (1 beyond its dimensions). */
const void *check_recording_tensor(const check_recording *trace, const char *name, int64_t *shape);
/* A bfloat16 tensor as float32; the caller frees it. */
float *check_recording_floats(const check_recording *trace, const char *name, int64_t *shape);

#endif
