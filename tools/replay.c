/* replay.c: drives one engine over one trace. Only the library's own calls are timed; reading out
 * what the methods chose happens between them. */
#include "tools/replay.h"

#include "tools/elements.h"
#include "tools/progress.h"

#include <stdlib.h>
#include <string.h>


/* What a replay is made with. */
typedef struct player {
    wn_replay *replay;
    const wn_trace *trace;
    wn_engine *engine;
    wn_sequence sequence;
    int32_t *positions; /* [layers, kv heads, tokens] where the cache's slots lie in the text */
    int32_t *physical;  /* [layers] how many slots there are */
    wn_progress progress;
    wn_error *error;
} player;

static wn_status library_failed(const player *at, wn_status status)
{
    return wn_fail(at->error, status, "%s", wn_error_text());
}

static wn_status no_memory(const player *at)
{
    return wn_fail(at->error, WN_ENOMEM, "%s: no memory to replay %lld tokens", at->replay->name,
                   (long long)at->trace->tokens);
}

/* ---------------------------------------------------------------- reading out */

static int32_t *positions_of(const player *at, uint32_t layer, uint32_t head)
{
    return at->positions + ((int64_t)layer * at->trace->num_kv_heads + head) * at->trace->tokens;
}

/* Fills positions and physical, between two steps. */
static wn_status read_positions(player *at)
{
    const wn_trace *trace = at->trace;
    wn_status status = WN_OK;
    for (uint32_t layer = 0; layer < trace->num_layers && status == WN_OK; layer++) {
        status = wn_sequence_length(at->engine, at->sequence, layer, NULL, &at->physical[layer]);
        for (uint32_t h = 0; h < trace->num_kv_heads && status == WN_OK; h++)
            status = wn_sequence_positions(at->engine, at->sequence, layer, h,
                                           positions_of(at, layer, h), (int32_t)trace->tokens);
    }
    return status == WN_OK ? WN_OK : library_failed(at, status);
}

/* What is in the cache at the end of the prompt; positions must be up to date. */
static wn_status keep_retained(player *at, uint32_t layer)
{
    wn_replay_layer *result = &at->replay->layers[layer];
    result->kept = at->physical[layer];
    if (result->kept >= at->trace->context)
        return WN_OK;
    size_t row = (size_t)result->kept * sizeof(int32_t);
    result->retain = malloc(row * at->trace->num_kv_heads + 1);
    if (result->retain == NULL)
        return no_memory(at);
    for (uint32_t h = 0; h < at->trace->num_kv_heads; h++)
        memcpy(result->retain + (int64_t)h * result->kept, positions_of(at, layer, h), row);
    return WN_OK;
}

static int add_selected(wn_replay_layer *result, int64_t at, int32_t position)
{
    if (at == result->selected_capacity) {
        int64_t capacity = at > 0 ? 2 * at : 1024;
        int32_t *grown = realloc(result->selected, (size_t)capacity * sizeof *grown);
        if (grown == NULL)
            return -1;
        result->selected = grown;
        result->selected_capacity = capacity;
    }
    result->selected[at] = position;
    return 0;
}

/* Entries of one KV head in row 0, as a pointer and a count (padding included). */
static const int32_t *entries_of(const wn_selection *select, uint32_t head, int64_t *count)
{
    const int32_t *list = select->indices + head * select->head_stride;
    *count = select->width;
    if (select->offsets == NULL)
        return list;
    *count = select->offsets[1] - select->offsets[0];
    return list + select->offsets[0];
}

/* The blocks of slots that one KV head selected, as positions in the text. */
static int add_head(player *at, uint32_t layer, const wn_selection *select, uint32_t head,
                    int64_t *end)
{
    wn_replay_layer *result = &at->replay->layers[layer];
    const int32_t *position = positions_of(at, layer, head);
    int64_t count, block = select->block_size, physical = at->physical[layer];
    const int32_t *list = entries_of(select, head, &count);
    for (int64_t i = 0; i < count; i++)
        for (int64_t slot = list[i] * block; slot < (list[i] + 1) * block; slot++)
            if (slot >= 0 && slot < physical && add_selected(result, (*end)++, position[slot]) != 0)
                return -1;
    return 0;
}

/* What was chosen in a generation step; positions must hold the new token. */
static wn_status keep_selected(player *at, const wn_batch *batch, uint32_t layer, int64_t step)
{
    wn_replay_layer *result = &at->replay->layers[layer];
    uint32_t heads = at->trace->num_kv_heads;
    wn_choice choice = {.struct_size = WN_SIZEOF(wn_choice), .phase = WN_PHASE_GENERATION};
    wn_status status = wn_batch_choice(batch, &choice);
    if (status != WN_OK)
        return library_failed(at, status);
    int64_t end = result->select_begin[step * heads];
    result->select_step[step] = choice.select != NULL;
    result->selects |= choice.select != NULL;
    for (uint32_t h = 0; h < heads; h++) {
        if (choice.select != NULL && add_head(at, layer, choice.select, h, &end) != 0)
            return no_memory(at);
        result->select_begin[step * heads + h + 1] = end;
    }
    return WN_OK;
}

/* ---------------------------------------------------------------- steps */

static wn_status attend(player *at, wn_batch *batch, uint32_t layer, int64_t first, int64_t count)
{
    const wn_trace *trace = at->trace;
    const wn_trace_layer *from = &trace->layers[layer];
    wn_replay_layer *to = &at->replay->layers[layer];
    int64_t row = (int64_t)trace->num_heads * trace->v_head_dim * wn_elements_bytes(trace->dtype);
    wn_named_input inputs[WN_TRACE_MAX_INPUTS];
    for (uint32_t i = 0; i < from->num_inputs; i++)
        inputs[i] =
            (wn_named_input){from->input_names[i], wn_trace_rows(from->inputs[i], first, count)};
    wn_attention_args args = {
        .struct_size = WN_SIZEOF(wn_attention_args),
        .q = wn_trace_rows(from->q, first, count),
        .k = wn_trace_rows(from->k, first, count),
        .v = wn_trace_rows(from->v, first, count),
        .out = wn_tensor_make((char *)to->out + first * row, trace->dtype, 3,
                              (int64_t[]){count, trace->num_heads, trace->v_head_dim}),
        .lse = wn_tensor_make(to->lse + first * trace->num_heads, WN_F32, 2,
                              (int64_t[]){count, trace->num_heads}),
        .inputs = inputs,
        .num_inputs = from->num_inputs};
    return wn_attention(batch, layer, &args);
}

/* One layer of an open batch; seconds grows by what the library took. */
static wn_status play_layer(player *at, wn_batch *batch, uint32_t layer, int64_t first,
                            int64_t count, double *seconds)
{
    double begun = wn_seconds();
    wn_status status = attend(at, batch, layer, first, count);
    *seconds += wn_seconds() - begun;
    if (status != WN_OK)
        return library_failed(at, status);
    if (first < at->trace->context)
        return WN_OK;
    return keep_selected(at, batch, layer, first - at->trace->context);
}

/* Token t as the next slot of every layer and head, before the step that appends it. */
static void add_position(player *at, int64_t t)
{
    for (uint32_t layer = 0; layer < at->trace->num_layers; layer++) {
        for (uint32_t h = 0; h < at->trace->num_kv_heads; h++)
            positions_of(at, layer, h)[at->physical[layer]] = (int32_t)t;
        at->physical[layer]++;
    }
}

static wn_status play_step(player *at, int64_t first, int64_t count, double *seconds)
{
    const wn_trace *trace = at->trace;
    wn_batch_item item = {.struct_size = WN_SIZEOF(wn_batch_item),
                          .sequence = at->sequence,
                          .num_tokens = (int32_t)count};
    if (first < trace->context)
        item.flags = WN_ITEM_CONTEXT | (first + count < trace->context ? WN_ITEM_MORE : 0);
    wn_batch *batch;
    double begun = wn_seconds();
    wn_status status = wn_batch_begin(at->engine, &item, 1, &batch);
    *seconds += wn_seconds() - begun;
    if (status != WN_OK)
        return library_failed(at, status);
    for (uint32_t layer = 0; layer < trace->num_layers; layer++) {
        status = play_layer(at, batch, layer, first, count, seconds);
        if (status != WN_OK) {
            wn_batch_abort(batch);
            return status;
        }
    }
    begun = wn_seconds();
    status = wn_batch_end(batch);
    *seconds += wn_seconds() - begun;
    wn_progress_show(&at->progress, first + count);
    return status == WN_OK ? WN_OK : library_failed(at, status);
}

static wn_status play(player *at, int64_t chunk)
{
    const wn_trace *trace = at->trace;
    wn_replay *replay = at->replay;
    wn_status status = wn_sequence_create(at->engine, &at->sequence);
    if (status != WN_OK)
        return library_failed(at, status);
    for (int64_t first = 0; first < trace->context && status == WN_OK; first += chunk) {
        int64_t left = trace->context - first;
        status = play_step(at, first, left < chunk ? left : chunk, &replay->context_seconds);
    }
    if (status == WN_OK)
        status = read_positions(at);
    for (uint32_t layer = 0; layer < trace->num_layers && status == WN_OK; layer++)
        status = keep_retained(at, layer);
    for (int64_t t = trace->context; t < trace->tokens && status == WN_OK; t++) {
        add_position(at, t);
        status = play_step(at, t, 1, &replay->generation_seconds);
        if (status == WN_OK)
            status = read_positions(at);
    }
    return status;
}

/* ---------------------------------------------------------------- set-up */

static wn_status create_engine(player *at, wn_registry *registry, const wn_config *config,
                               int64_t chunk)
{
    const wn_trace *trace = at->trace;
    wn_model model = wn_trace_model(trace);
    wn_engine_options options = {.struct_size = WN_SIZEOF(wn_engine_options),
                                 .max_sequences = 1,
                                 .max_batch = 1,
                                 .max_step_tokens = (uint32_t)chunk};
    wn_status status = wn_engine_create(registry, config, &model, &options, &at->engine);
    if (status != WN_OK)
        return library_failed(at, status);
    wn_replay *replay = at->replay;
    wn_memory_plan *memory = &replay->memory;
    memory->struct_size = WN_SIZEOF(wn_memory_plan);
    status = wn_engine_memory(at->engine, memory);
    if (status != WN_OK)
        return library_failed(at, status);
    uint64_t bytes = memory->k_bytes + memory->v_bytes + memory->scale_bytes;
    replay->token_bytes = (double)bytes / (double)memory->capacity_tokens / trace->num_layers;
    replay->plan = strdup(wn_engine_plan(at->engine));
    return replay->plan != NULL ? WN_OK : no_memory(at);
}

static wn_status allocate(player *at)
{
    const wn_trace *trace = at->trace;
    wn_replay *replay = at->replay;
    size_t rows = (size_t)trace->tokens * trace->num_heads;
    size_t row_bytes = (size_t)trace->v_head_dim * wn_elements_bytes(trace->dtype);
    size_t lists = (size_t)replay->steps * trace->num_kv_heads + 1;
    at->positions =
        malloc(sizeof(int32_t) * (size_t)trace->tokens * trace->num_kv_heads * trace->num_layers);
    at->physical = calloc(trace->num_layers, sizeof *at->physical);
    replay->layers = calloc(trace->num_layers, sizeof *replay->layers);
    if (at->positions == NULL || at->physical == NULL || replay->layers == NULL)
        return no_memory(at);
    for (uint32_t i = 0; i < trace->num_layers; i++) {
        wn_replay_layer *layer = &replay->layers[i];
        layer->out = calloc(rows, row_bytes);
        layer->lse = calloc(rows, sizeof(float));
        layer->select_begin = calloc(lists, sizeof *layer->select_begin);
        layer->select_step = calloc((size_t)replay->steps + 1, 1);
        if (layer->out == NULL || layer->lse == NULL || layer->select_begin == NULL ||
            layer->select_step == NULL)
            return no_memory(at);
    }
    return WN_OK;
}

static wn_status read_counters(player *at)
{
    for (uint32_t layer = 0; layer < at->trace->num_layers; layer++)
        for (uint32_t phase = 0; phase < WN_PHASE_COUNT; phase++) {
            wn_counters *counters = &at->replay->layers[layer].counters[phase];
            counters->struct_size = WN_SIZEOF(wn_counters);
            wn_status status = wn_engine_counters(at->engine, layer, phase, counters);
            if (status != WN_OK)
                return library_failed(at, status);
        }
    return WN_OK;
}

wn_status wn_replay_run(wn_registry *registry, const wn_config *config, const char *name,
                        const wn_trace *trace, int64_t chunk, wn_replay **replay, wn_error *error)
{
    *replay = NULL;
    wn_replay *made = calloc(1, sizeof *made);
    if (made == NULL || (made->name = strdup(name)) == NULL) {
        free(made);
        return wn_fail(error, WN_ENOMEM, "no memory");
    }
    made->trace = trace;
    made->steps = trace->tokens - trace->context;
    player at = {.replay = made, .trace = trace, .error = error};
    if (chunk <= 0 || chunk > trace->context)
        chunk = trace->context;
    wn_progress_begin(&at.progress, made->name, trace->tokens);
    wn_status status = create_engine(&at, registry, config, chunk);
    if (status == WN_OK)
        status = allocate(&at);
    if (status == WN_OK)
        status = play(&at, chunk);
    if (status == WN_OK)
        status = read_counters(&at);
    wn_progress_end(&at.progress);
    if (at.engine != NULL)
        wn_engine_free(at.engine);
    free(at.positions);
    free(at.physical);
    if (status == WN_OK)
        *replay = made;
    else
        wn_replay_free(made);
    return status;
}

void wn_replay_free(wn_replay *replay)
{
    if (replay == NULL)
        return;
    for (uint32_t i = 0; replay->layers != NULL && i < replay->trace->num_layers; i++) {
        free(replay->layers[i].out);
        free(replay->layers[i].lse);
        free(replay->layers[i].retain);
        free(replay->layers[i].selected);
        free(replay->layers[i].select_begin);
        free(replay->layers[i].select_step);
    }
    free(replay->layers);
    free(replay->name);
    free(replay->plan);
    free(replay);
}

/* ---------------------------------------------------------------- questions */

void wn_replay_visible(const wn_replay *replay, uint32_t layer, int64_t step, uint32_t kv_head,
                       uint8_t *visible)
{
    const wn_trace *trace = replay->trace;
    const wn_replay_layer *from = &replay->layers[layer];
    int64_t last = trace->context + step;
    memset(visible, 0, (size_t)trace->tokens);
    if (from->select_step[step]) {
        const int64_t *begin = &from->select_begin[step * trace->num_kv_heads + kv_head];
        for (int64_t i = begin[0]; i < begin[1]; i++)
            visible[from->selected[i]] = 1;
        return;
    }
    if (from->retain == NULL) {
        memset(visible, 1, (size_t)last + 1);
        return;
    }
    for (int32_t i = 0; i < from->kept; i++)
        visible[from->retain[(int64_t)kv_head * from->kept + i]] = 1;
    memset(visible + trace->context, 1, (size_t)(step + 1));
}
