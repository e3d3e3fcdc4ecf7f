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
    int32_t keep_prompt;
    int32_t *positions; /* [layers, kv heads, tokens] where the cache's slots lie in the text */
    int32_t *physical;  /* [layers] how many slots there are */
    /* [layers + 1, kv heads] the generation phase's after the last step, and room for one reading
     */
    wn_attend_counters *tiles;
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

static int add_position(wn_choices *to, int32_t position)
{
    if (to->used == to->capacity) {
        int64_t capacity = to->used > 0 ? 2 * to->used : 1024;
        int32_t *grown = realloc(to->position, (size_t)capacity * sizeof *grown);
        if (grown == NULL)
            return -1;
        to->position = grown;
        to->capacity = capacity;
    }
    to->position[to->used++] = position;
    return 0;
}

/* Entries of one row and KV head, as a pointer and a count (padding included). */
static const int32_t *entries_of(const wn_selection *select, int64_t row, uint32_t head,
                                 int64_t *count)
{
    const int32_t *list = select->indices + head * select->head_stride;
    *count = select->width;
    if (select->offsets == NULL)
        return list + row * select->width;
    *count = select->offsets[row + 1] - select->offsets[row];
    return list + select->offsets[row];
}

/* Which of the cache's slots an entry may name, and where they lie in the text. */
typedef struct slots {
    const int32_t *position; /* NULL: slot s is position s */
    int64_t count;           /* of the slots that the row sees */
} slots;

/* The blocks of slots that one row selected for one KV head, as positions. */
static int add_list(wn_choices *to, const wn_selection *select, int64_t row, uint32_t head,
                    slots in)
{
    int64_t count, block = select->block_size;
    const int32_t *list = entries_of(select, row, head, &count);
    for (int64_t i = 0; i < count; i++)
        for (int64_t slot = list[i] * block; slot < (list[i] + 1) * block; slot++)
            if (slot >= 0 && slot < in.count &&
                add_position(to, in.position != NULL ? in.position[slot] : (int32_t)slot) != 0)
                return -1;
    return 0;
}

/* A KV head's list into row `to_row`; the first head's list again where it serves all of them. */
static int add_head(wn_choices *to, int64_t to_row, uint32_t heads, uint32_t head, int separate,
                    const wn_selection *select, int64_t row, slots in)
{
    wn_span *span = &to->span[to_row * heads + head];
    to->separate |= separate;
    if (head > 0 && !separate) {
        *span = span[-1];
        return 0;
    }
    span->begin = to->used;
    int failed = add_list(to, select, row, head, in);
    span->end = to->used;
    return failed;
}

static wn_status read_choice(const player *at, const wn_batch *batch, uint32_t phase,
                             wn_choice *choice)
{
    *choice = (wn_choice){.struct_size = WN_SIZEOF(wn_choice), .phase = phase};
    wn_status status = wn_batch_choice(batch, choice);
    return status == WN_OK ? WN_OK : library_failed(at, status);
}

/* What was chosen in a generation step; positions must hold the new token. */
static wn_status keep_step(player *at, const wn_batch *batch, uint32_t layer, int64_t step)
{
    wn_replay_layer *result = &at->replay->layers[layer];
    wn_choices *to = &result->generation;
    uint32_t heads = at->trace->num_kv_heads;
    wn_choice choice;
    wn_status status = read_choice(at, batch, WN_PHASE_GENERATION, &choice);
    if (status != WN_OK || choice.select == NULL)
        return status;
    to->any = to->chosen[step] = 1;
    /* One list of slots is several lists of positions where each head evicted for itself. */
    int separate = choice.select->head_stride != 0 || result->retain != NULL;
    for (uint32_t h = 0; h < heads; h++) {
        slots in = {positions_of(at, layer, h), at->physical[layer]};
        if (add_head(to, step, heads, h, separate, choice.select, 0, in) != 0)
            return no_memory(at);
    }
    return WN_OK;
}

/* What was chosen for tokens [first, first + count) of the prompt. Until it is complete nothing is
 * evicted, so that slots are positions. */
static wn_status keep_prompt(player *at, const wn_batch *batch, uint32_t layer, int64_t first,
                             int64_t count)
{
    wn_choices *to = &at->replay->layers[layer].prompt;
    uint32_t heads = at->trace->num_kv_heads;
    wn_choice choice;
    wn_status status = read_choice(at, batch, WN_PHASE_CONTEXT, &choice);
    if (status != WN_OK || choice.select == NULL)
        return status;
    to->any = 1;
    for (int64_t i = 0; i < count; i++) {
        int64_t row = choice.select_row[0] + i / choice.select->query_block;
        slots in = {NULL, first + i + 1};
        to->chosen[first + i] = 1;
        for (uint32_t h = 0; h < heads; h++)
            if (add_head(to, first + i, heads, h, choice.select->head_stride != 0, choice.select,
                         row, in) != 0)
                return no_memory(at);
    }
    return WN_OK;
}

/* Which share of the step's tiles each KV head computed: from what the counters grew by. */
static wn_status keep_tiles(player *at, uint32_t layer, int64_t step)
{
    uint32_t heads = at->trace->num_kv_heads;
    wn_attend_counters *before = at->tiles + layer * heads;
    wn_attend_counters *now = at->tiles + at->trace->num_layers * heads;
    float *share = at->replay->layers[layer].computed + step * heads;
    wn_status status = wn_engine_head_counters(at->engine, layer, WN_PHASE_GENERATION, now, heads);
    if (status != WN_OK)
        return library_failed(at, status);
    for (uint32_t h = 0; h < heads; h++) {
        int64_t seen = now[h].tiles_seen - before[h].tiles_seen;
        int64_t skipped = now[h].tiles_skipped - before[h].tiles_skipped;
        share[h] = seen > 0 ? 1.0f - (float)skipped / (float)seen : 1.0f;
        before[h] = now[h];
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
        .k = wn_trace_keys(trace, layer, first, count),
        .out = wn_tensor_make((char *)to->out + first * row, trace->dtype, 3,
                              (int64_t[]){count, trace->num_heads, trace->v_head_dim}),
        .lse = wn_tensor_make(to->lse + first * trace->num_heads, WN_F32, 2,
                              (int64_t[]){count, trace->num_heads}),
        .inputs = inputs,
        .num_inputs = from->num_inputs};
    if (from->v != NULL)
        args.v = wn_trace_rows(from->v, first, count);
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
        return wn_fail(at->error, status, "layer %u of the trace, token %lld: %s",
                       at->trace->layers[layer].number, (long long)first, wn_error_text());
    if (first < at->trace->context)
        return at->keep_prompt ? keep_prompt(at, batch, layer, first, count) : WN_OK;
    status = keep_step(at, batch, layer, first - at->trace->context);
    return status == WN_OK ? keep_tiles(at, layer, first - at->trace->context) : status;
}

/* Token t as the next slot of every layer and head, before the step that appends it. */
static void add_slot(player *at, int64_t t)
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
        add_slot(at, t);
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
    wn_engine_timing(at->engine, 1);
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

static int allocate_choices(wn_choices *choices, int64_t rows, uint32_t heads)
{
    choices->span = calloc((size_t)rows * heads + 1, sizeof *choices->span);
    choices->chosen = calloc((size_t)rows + 1, 1);
    return choices->span != NULL && choices->chosen != NULL;
}

static int allocate_layer(const player *at, wn_replay_layer *layer)
{
    const wn_trace *trace = at->trace;
    int64_t steps = at->replay->steps;
    size_t rows = (size_t)trace->tokens * trace->num_heads;
    layer->out = calloc(rows, (size_t)trace->v_head_dim * wn_elements_bytes(trace->dtype));
    layer->lse = calloc(rows, sizeof(float));
    layer->computed = calloc((size_t)steps * trace->num_kv_heads + 1, sizeof *layer->computed);
    return layer->out != NULL && layer->lse != NULL && layer->computed != NULL &&
           allocate_choices(&layer->generation, steps, trace->num_kv_heads) &&
           (!at->keep_prompt ||
            allocate_choices(&layer->prompt, trace->context, trace->num_kv_heads));
}

static wn_status allocate(player *at)
{
    const wn_trace *trace = at->trace;
    wn_replay *replay = at->replay;
    size_t lists = (size_t)trace->num_kv_heads * trace->num_layers;
    at->positions = malloc(sizeof(int32_t) * (size_t)trace->tokens * lists);
    at->physical = calloc(trace->num_layers, sizeof *at->physical);
    at->tiles = calloc(lists + trace->num_kv_heads, sizeof *at->tiles);
    replay->layers = calloc(trace->num_layers, sizeof *replay->layers);
    if (at->positions == NULL || at->physical == NULL || at->tiles == NULL ||
        replay->layers == NULL)
        return no_memory(at);
    for (uint32_t i = 0; i < trace->num_layers; i++)
        if (!allocate_layer(at, &replay->layers[i]))
            return no_memory(at);
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
                        const wn_trace *trace, const wn_replay_options *options, wn_replay **replay,
                        wn_error *error)
{
    int64_t chunk = options->chunk;
    *replay = NULL;
    wn_replay *made = calloc(1, sizeof *made);
    if (made == NULL || (made->name = strdup(name)) == NULL) {
        free(made);
        return wn_fail(error, WN_ENOMEM, "no memory");
    }
    made->trace = trace;
    made->steps = trace->tokens - trace->context;
    player at = {.replay = made,
                 .trace = trace,
                 .keep_prompt = options->keep_prompt_choices,
                 .error = error};
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
    free(at.tiles);
    if (status == WN_OK)
        *replay = made;
    else
        wn_replay_free(made);
    return status;
}

static void free_choices(wn_choices *choices)
{
    free(choices->position);
    free(choices->span);
    free(choices->chosen);
}

void wn_replay_free(wn_replay *replay)
{
    if (replay == NULL)
        return;
    for (uint32_t i = 0; replay->layers != NULL && i < replay->trace->num_layers; i++) {
        free(replay->layers[i].out);
        free(replay->layers[i].lse);
        free(replay->layers[i].retain);
        free(replay->layers[i].computed);
        free_choices(&replay->layers[i].prompt);
        free_choices(&replay->layers[i].generation);
    }
    free(replay->layers);
    free(replay->name);
    free(replay->plan);
    free(replay);
}

/* ---------------------------------------------------------------- questions */

void wn_replay_visible(const wn_replay *replay, uint32_t layer, int64_t row, uint32_t kv_head,
                       uint8_t *visible)
{
    const wn_trace *trace = replay->trace;
    const wn_replay_layer *from = &replay->layers[layer];
    int generated = row >= trace->context;
    const wn_choices *choices = generated ? &from->generation : &from->prompt;
    int64_t at = generated ? row - trace->context : row;
    memset(visible, 0, (size_t)trace->tokens);
    if (choices->any && choices->chosen[at]) {
        wn_span span = choices->span[at * trace->num_kv_heads + kv_head];
        for (int64_t i = span.begin; i < span.end; i++)
            visible[choices->position[i]] = 1;
        return;
    }
    if (!generated || from->retain == NULL) {
        memset(visible, 1, (size_t)row + 1);
        return;
    }
    for (int32_t i = 0; i < from->kept; i++)
        visible[from->retain[(int64_t)kv_head * from->kept + i]] = 1;
    memset(visible + trace->context, 1, (size_t)(row - trace->context + 1));
}
