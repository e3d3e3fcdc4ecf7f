/* save.c: replays to tensors. */
#include "tools/save.h"

#include "tools/elements.h"

#include <stdlib.h>
#include <string.h>

enum { TENSORS_PER_LAYER = 4, NAME_BYTES = 160 };

/* The tensors made so far; those with `owned` are freed at the end. */
typedef struct saving {
    const wn_trace *trace;
    wn_safetensor *tensors;
    char (*names)[NAME_BYTES];
    void **owned;
    uint32_t count;
} saving;

/* Takes data over if own is 1. */
static void add(saving *to, const wn_replay *replay, uint32_t layer, const char *what,
                wn_safetensor tensor, int own)
{
    char *name = to->names[to->count];
    snprintf(name, NAME_BYTES, "layers.%u.%.96s.%s", to->trace->layers[layer].number, replay->name,
             what);
    tensor.name = name;
    to->owned[to->count] = own ? (void *)(uintptr_t)tensor.data : NULL;
    to->tensors[to->count++] = tensor;
}

static int add_out(saving *to, const wn_replay *replay, uint32_t layer)
{
    const wn_trace *trace = to->trace;
    int64_t count = trace->tokens * trace->num_heads * trace->v_head_dim;
    float *values = malloc((size_t)count * sizeof *values);
    if (values == NULL)
        return -1;
    wn_elements_read(trace->dtype, replay->layers[layer].out, 0, count, values);
    add(to, replay, layer, "out",
        (wn_safetensor){.dtype = WN_F32,
                        .ndim = 3,
                        .bytes = (uint64_t)count * sizeof *values,
                        .shape = {trace->tokens, trace->num_heads, trace->v_head_dim},
                        .data = values},
        1);
    return 0;
}

/* How many positions a head sees in a step that selects, and their greatest number over all. */
static int64_t select_width(const wn_replay *replay, const wn_replay_layer *from, uint32_t heads)
{
    int64_t width = 0;
    for (int64_t step = 0; step < replay->steps; step++) {
        if (!from->select_step[step] && from->kept + step + 1 > width)
            width = from->kept + step + 1;
        for (uint32_t h = 0; h < heads && from->select_step[step]; h++) {
            const int64_t *begin = &from->select_begin[step * heads + h];
            if (begin[1] - begin[0] > width)
                width = begin[1] - begin[0];
        }
    }
    return width;
}

static int add_select(saving *to, const wn_replay *replay, uint32_t layer)
{
    const wn_trace *trace = to->trace;
    const wn_replay_layer *from = &replay->layers[layer];
    int64_t width = select_width(replay, from, trace->num_kv_heads);
    size_t count = (size_t)(replay->steps * trace->num_kv_heads * width);
    int32_t *list = malloc(count * sizeof *list + 1);
    uint8_t *visible = malloc((size_t)trace->tokens);
    if (list == NULL || visible == NULL) {
        free(list);
        free(visible);
        return -1;
    }
    int32_t *row = list;
    for (int64_t step = 0; step < replay->steps; step++)
        for (uint32_t h = 0; h < trace->num_kv_heads; h++, row += width) {
            int64_t n = 0;
            wn_replay_visible(replay, layer, step, h, visible);
            for (int64_t t = 0; t < trace->tokens; t++)
                if (visible[t])
                    row[n++] = (int32_t)t;
            while (n < width)
                row[n++] = -1;
        }
    free(visible);
    add(to, replay, layer, "select",
        (wn_safetensor){.dtype = WN_I32,
                        .ndim = 3,
                        .bytes = count * sizeof *list,
                        .shape = {replay->steps, trace->num_kv_heads, width},
                        .data = list},
        1);
    return 0;
}

static int add_layer(saving *to, const wn_replay *replay, uint32_t layer)
{
    const wn_trace *trace = to->trace;
    const wn_replay_layer *from = &replay->layers[layer];
    if (add_out(to, replay, layer) != 0)
        return -1;
    add(to, replay, layer, "lse",
        (wn_safetensor){.dtype = WN_F32,
                        .ndim = 2,
                        .bytes = (uint64_t)trace->tokens * trace->num_heads * sizeof(float),
                        .shape = {trace->tokens, trace->num_heads},
                        .data = from->lse},
        0);
    if (from->retain != NULL)
        add(to, replay, layer, "retain",
            (wn_safetensor){.dtype = WN_I32,
                            .ndim = 2,
                            .bytes = (uint64_t)trace->num_kv_heads * (uint64_t)from->kept *
                                     sizeof(int32_t),
                            .shape = {trace->num_kv_heads, from->kept},
                            .data = from->retain},
            0);
    return from->selects ? add_select(to, replay, layer) : 0;
}

static int add_all(saving *to, wn_replay *const *replays, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t layer = 0; layer < to->trace->num_layers; layer++)
            if (add_layer(to, replays[i], layer) != 0)
                return -1;
    return 0;
}

wn_status wn_save_replays(const char *path, const wn_trace *trace, wn_replay *const *replays,
                          uint32_t count, wn_error *error)
{
    size_t most = (size_t)count * trace->num_layers * TENSORS_PER_LAYER;
    saving to = {trace, calloc(most, sizeof *to.tensors), calloc(most, NAME_BYTES),
                 calloc(most, sizeof *to.owned), 0};
    const char *metadata[] = {"format", "winnow.run/1", "trace", trace->path, NULL};
    wn_status status = WN_ENOMEM;
    if (to.tensors != NULL && to.names != NULL && to.owned != NULL &&
        add_all(&to, replays, count) == 0)
        status = wn_safetensors_write(path, to.tensors, to.count, metadata, error);
    else
        wn_fail(error, status, "%s: no memory", path);
    for (uint32_t i = 0; i < to.count; i++)
        free(to.owned[i]);
    free(to.tensors);
    free(to.names);
    free(to.owned);
    return status;
}
