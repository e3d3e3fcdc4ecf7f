/* bench_shape.c: reads shapes. */
#include "tools/bench_shape.h"

#include <stdlib.h>
#include <string.h>

typedef struct key_row {
    const char *name;
    size_t offset;
    int64_t greatest;
} key_row;

static const key_row keys[] = {
#define ROW(key, greatest, what) {#key, offsetof(wn_bench_shape, key), greatest},
    WN_SHAPE_LIST(ROW)
#undef ROW
};
enum { NUM_KEYS = sizeof keys / sizeof keys[0], WORD = 64 };

/* The next "key=value" of the list, without blanks; 0 at its end. */
static int next_word(const char **at, char key[WORD], char value[WORD])
{
    *at += strspn(*at, ", ");
    if (**at == '\0')
        return 0;
    size_t length = strcspn(*at, ","), name = strcspn(*at, "=,");
    size_t rest = name < length ? length - name - 1 : 0;
    snprintf(key, WORD, "%.*s", (int)name, *at);
    snprintf(value, WORD, "%.*s", (int)rest, *at + length - rest);
    *at += length;
    return 1;
}

/* Does the list of defaults name this key? */
static int knows(const char *defaults, const char *key)
{
    char name[WORD], value[WORD];
    while (next_word(&defaults, name, value))
        if (strcmp(name, key) == 0)
            return 1;
    return 0;
}

/* Numbers may end in k for 1024. */
static int read_number(const char *text, int64_t least, int64_t greatest, int64_t *number)
{
    char *end;
    int64_t value = strtoll(text, &end, 10);
    if (end != text && *end == 'k') {
        value *= 1024;
        end++;
    }
    if (end == text || *end != '\0' || value < least || value > greatest)
        return 0;
    *number = value;
    return 1;
}

static wn_status set_dtype(const char *op, const char *value, wn_bench_shape *shape,
                           wn_error *error)
{
    uint32_t dtype = wn_dtype_from_name(value);
    if (dtype < WN_F32 || dtype > WN_I8)
        return wn_fail(error, WN_EINVAL,
                       "%s: dtype \"%s\": expected float32, float16, bfloat16, float8_e4m3, "
                       "float8_e5m2 or int8",
                       op, value);
    shape->dtype = dtype;
    return WN_OK;
}

static wn_status set_word(const char *op, const char *key, const char *value, wn_bench_shape *shape,
                          wn_error *error)
{
    if (strcmp(key, "dtype") == 0)
        return set_dtype(op, value, shape, error);
    for (int i = 0; i < NUM_KEYS; i++)
        if (strcmp(key, keys[i].name) == 0) {
            int64_t *number = (int64_t *)((char *)shape + keys[i].offset);
            int64_t least = *number > 0; /* only what is 0 by default may be 0 */
            if (read_number(value, least, keys[i].greatest, number))
                return WN_OK;
            return wn_fail(error, WN_EINVAL, "%s: %s=\"%s\": expected a number from %lld to %lld",
                           op, key, value, (long long)least, (long long)keys[i].greatest);
        }
    return wn_fail(error, WN_EINVAL, "%s: no key %s", op, key);
}

wn_status wn_bench_shape_read(const char *op, const char *defaults, const char *words,
                              wn_bench_shape *shape, wn_error *error)
{
    char key[WORD], value[WORD];
    wn_status status = WN_OK;
    const char *at = defaults;
    *shape = (wn_bench_shape){0};
    while (status == WN_OK && next_word(&at, key, value))
        status = set_word(op, key, value, shape, error);
    at = words != NULL ? words : "";
    while (status == WN_OK && next_word(&at, key, value)) {
        if (!knows(defaults, key))
            return wn_fail(error, WN_EINVAL, "%s has no \"%s\" in its shape; it is %s", op, key,
                           defaults);
        status = set_word(op, key, value, shape, error);
    }
    return status;
}
