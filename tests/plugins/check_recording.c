/* check_recording.c: see check_recording.h. A safetensors file is eight bytes of header length
 * (little endian), a JSON header, and the tensors' bytes. */
#include "check_recording.h"

#include "check_plugin.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

check_recording check_recording_open(const char *name)
{
    char path[512];
    check_recording trace;
    uint64_t header_bytes;
    snprintf(path, sizeof path, "%s/%s.safetensors", WN_TEST_DATA, name);
    FILE *stream = fopen(path, "rb");
    if (stream == NULL)
        perror(path);
    CHECK_REQUIRE(stream != NULL);
    CHECK_REQUIRE(fseek(stream, 0, SEEK_END) == 0);
    const long bytes = ftell(stream);
    CHECK_REQUIRE(bytes > 8);
    rewind(stream);
    trace.file = malloc((size_t)bytes);
    CHECK_REQUIRE(trace.file != NULL);
    CHECK_REQUIRE(fread(trace.file, 1, (size_t)bytes, stream) == (size_t)bytes);
    fclose(stream);
    memcpy(&header_bytes, trace.file, sizeof header_bytes);
    CHECK_REQUIRE(header_bytes < (uint64_t)bytes - 8);
    trace.header = json_loadb((const char *)trace.file + 8, (size_t)header_bytes, 0, NULL);
    CHECK_REQUIRE(trace.header != NULL);
    trace.data = trace.file + 8 + header_bytes;
    return trace;
}

void check_recording_close(check_recording *trace)
{
    json_decref(trace->header);
    free(trace->file);
}

double check_recording_number(const check_recording *trace, const char *key)
{
    const char *text =
        json_string_value(json_object_get(json_object_get(trace->header, "__metadata__"), key));
    CHECK_REQUIRE(text != NULL);
    return strtod(text, NULL);
}

const void *check_recording_tensor(const check_recording *trace, const char *name, int64_t *shape)
{
    const json_t *entry = json_object_get(trace->header, name);
    const json_t *sizes = json_object_get(entry, "shape");
    CHECK_REQUIRE(json_array_size(sizes) >= 1 && json_array_size(sizes) <= 3);
    for (size_t i = 0; i < 3; i++)
        shape[i] = i < json_array_size(sizes) ? json_integer_value(json_array_get(sizes, i)) : 1;
    return trace->data +
           json_integer_value(json_array_get(json_object_get(entry, "data_offsets"), 0));
}

float *check_recording_floats(const check_recording *trace, const char *name, int64_t *shape)
{
    const uint8_t *from = check_recording_tensor(trace, name, shape);
    const size_t count = (size_t)(shape[0] * shape[1] * shape[2]);
    float *to = malloc(count * sizeof *to);
    CHECK_REQUIRE(to != NULL);
    for (size_t i = 0; i < count; i++) {
        const uint32_t bits = (uint32_t)from[2 * i] << 16 | (uint32_t)from[2 * i + 1] << 24;
        memcpy(&to[i], &bits, sizeof bits);
    }
    return to;
}
