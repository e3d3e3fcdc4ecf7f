/* sets.c: names of the bits of WN_HAS_... and WN_DEVICES_.... */
#include "tools/sets.h"

#include "winnow/plugin.h"

#include <jansson.h>

typedef struct bit_name {
    uint32_t bit;
    const char *name;
} bit_name;

static const bit_name interfaces[] = {{WN_HAS_CONFIG, "config"},
                                      {WN_HAS_PREDICTOR, "predictor"},
                                      {WN_HAS_AUX_POOL, "aux_pool"},
                                      {WN_HAS_KERNEL_HOOK, "kernel_hook"},
                                      {0, NULL}};
static const bit_name devices[] = {{WN_DEVICES_CPU, "cpu"}, {WN_DEVICES_CUDA, "cuda"}, {0, NULL}};

static void to_text(const bit_name *names, uint32_t set, char *text, size_t capacity)
{
    size_t used = 0;
    text[0] = '\0';
    for (; names->name != NULL; names++)
        if ((set & names->bit) != 0 && used < capacity)
            used += (size_t)snprintf(text + used, capacity - used, "%s%s", used > 0 ? " " : "",
                                     names->name);
}

static json_t *to_json(const bit_name *names, uint32_t set)
{
    json_t *array = json_array();
    for (; names->name != NULL; names++)
        if ((set & names->bit) != 0)
            json_array_append_new(array, json_string(names->name));
    return array;
}

void wn_interfaces_text(uint32_t set, char *text, size_t capacity)
{
    to_text(interfaces, set, text, capacity);
}

void wn_devices_text(uint32_t set, char *text, size_t capacity)
{
    to_text(devices, set, text, capacity);
}

json_t *wn_interfaces_json(uint32_t set)
{
    return to_json(interfaces, set);
}
json_t *wn_devices_json(uint32_t set)
{
    return to_json(devices, set);
}
