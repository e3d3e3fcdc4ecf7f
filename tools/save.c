/* save.c: replays to tensors. */
#include "tools/save.h"

#include "tools/elements.h"

#include <stdlib.h>
#include <string.h>

enum { TENSORS_PER_LAYER = 5, NAME_BYTES = 160 };

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

/* Rows [first, first + rows) of the trace in one phase: what was selected for them. */
typedef struct listing {
    const wn_replay *replay;
    const wn_choices *choices;
    const char *name;
    uint32_t layer, lists; /* lists per row */
    int64_t first, rows;
    uint8_t *visible; /* [tokens] room */
} listing;

/* Positions that a row sees through one list: into `list` unless it is NULL. Returns how many. */
static int64_t list_row(const listing *of, int64_t row, uint32_t list_number, int32_t *list)
{
    const wn_trace *trace = of->replay->trace;
    int64_t count = 0;
    wn_span span = of->choices->span[row * trace->num_kv_heads + list_number];
    if (of->choices->chosen[row] && list == NULL)
        return span.end - span.begin;
    wn_replay_visible(of->replay, of->layer, of->first + row, list_number, of->visible);
    for (int64_t t = 0; t < trace->tokens; t++) {
        if (!of->visible[t])
            continue;
        if (list != NULL)
            list[count] = (int32_t)t;
        count++;
    }
    return count;
}

static int64_t greatest_width(const listing *of)
{
    int64_t width = 0;
    for (int64_t row = 0; row < of->rows; row++)
        for (uint32_t l = 0; l < of->lists; l++) {
            int64_t count = list_row(of, row, l, NULL);
            width = count > width ? count : width;
        }
    return width;
}

static int add_listing(saving *to, listing of)
{
    of.visible = malloc((size_t)to->trace->tokens);
    int64_t width = of.visible != NULL ? greatest_width(&of) : 0;
    size_t bytes = sizeof(int32_t) * (size_t)(of.rows * of.lists * width);
    int32_t *lists = of.visible != NULL ? malloc(bytes + 1) : NULL;
    for (int64_t row = 0; row < of.rows && lists != NULL; row++)
        for (uint32_t l = 0; l < of.lists; l++) {
            int32_t *list = lists + (row * of.lists + l) * width;
            for (int64_t n = list_row(&of, row, l, list); n < width; n++)
                list[n] = -1;
        }
    free(of.visible);
    if (lists == NULL)
        return -1;
    add(to, of.replay, of.layer, of.name,
        (wn_safetensor){.dtype = WN_I32,
                        .ndim = 3,
                        .bytes = bytes,
                        .shape = {of.rows, of.lists, width},
                        .data = lists},
        1);
    return 0;
}

static int add_choices(saving *to, const wn_replay *replay, uint32_t layer)
{
    const wn_trace *trace = to->trace;
    const wn_choices *prompt = &replay->layers[layer].prompt;
    const wn_choices *generation = &replay->layers[layer].generation;
    listing read = {replay,
                    prompt,
                    "select_context",
                    layer,
                    prompt->separate ? trace->num_kv_heads : 1,
                    0,
                    trace->context,
                    NULL};
    listing generated = {replay,
                         generation,
                         "select",
                         layer,
                         generation->separate ? trace->num_kv_heads : 1,
                         trace->context,
                         replay->steps,
                         NULL};
    if (prompt->any && add_listing(to, read) != 0)
        return -1;
    return generation->any ? add_listing(to, generated) : 0;
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
    return add_choices(to, replay, layer);
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
