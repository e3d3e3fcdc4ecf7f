/* validate_play.c: plays sequences through an engine, token by token made from a seed. */
#include "tools/validate_play.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* splitmix64 of a coordinate: every element is known without the ones before it. */
static float element(uint64_t seed, uint64_t coordinate)
{
    uint64_t z = seed + (coordinate + 1) * 0x9e3779b97f4a7c15ULL;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    z ^= z >> 31;
    return (float)((double)(z >> 11) * (2.0 / 9007199254740992.0) - 1.0);
}

/* Queries are three times the keys, so that scores are worth ranking. */
static float scale_of(uint32_t mode, uint32_t kind, int32_t token)
{
    if (kind == WN_TOKEN_Q)
        return 3.0f;
    return mode == WN_PLAY_PROBE && kind == WN_TOKEN_K && token / 64 % 2 == 1 ? 0.05f : 1.0f;
}

void wn_play_token(const wn_model *model, const wn_play *play, uint32_t mode, uint32_t kind,
                   uint32_t layer, int32_t token, float *to)
{
    uint32_t dim = kind == WN_TOKEN_V ? model->v_head_dim : model->head_dim;
    uint32_t count = dim * (kind == WN_TOKEN_Q ? model->num_heads : model->num_kv_heads);
    uint64_t seed = token < play->prompt ? play->seed : play->seed + play->other_steps;
    uint64_t base = (((uint64_t)kind * 64 + layer) << 24 | (uint32_t)token) << 12;
    float scale = scale_of(mode, kind, token);
    const uint8_t *poison =
        play->poison +
        ((size_t)layer * (size_t)wn_play_tokens(play) + (size_t)token) * model->num_kv_heads;
    for (uint32_t i = 0; i < count; i++) {
        to[i] = element(seed, base + i) * scale;
        if (mode == WN_PLAY_PROBE && kind == WN_TOKEN_V)
            to[i] = i % dim == (uint32_t)token ? 1.0f : 0.0f;
        if ((mode == WN_PLAY_NAN && kind != WN_TOKEN_Q) || (kind == WN_TOKEN_V && poison[i / dim]))
            to[i] = NAN;
    }
}

size_t wn_play_out_count(const wn_model *model, const wn_play *play)
{
    return (size_t)model->num_layers * (size_t)wn_play_tokens(play) * model->num_heads *
           model->v_head_dim;
}

int wn_play_open(const wn_model *model, uint64_t seed, int32_t prompt, int32_t steps, wn_play *play)
{
    memset(play, 0, sizeof *play);
    play->seed = seed;
    play->prompt = prompt;
    play->steps = steps;
    size_t tokens = (size_t)wn_play_tokens(play);
    size_t rows = (size_t)model->num_layers * tokens * model->num_kv_heads;
    play->poison = calloc(rows + 1, 1); /* + 1: a play may be without tokens */
    play->visible = calloc(rows + 1, tokens + 1);
    play->position = calloc(rows + 1, sizeof *play->position);
    play->out = calloc(wn_play_out_count(model, play) + 1, sizeof *play->out);
    play->lse =
        calloc((size_t)model->num_layers * tokens * model->num_heads + 1, sizeof *play->lse);
    if (play->poison != NULL && play->visible != NULL && play->position != NULL &&
        play->out != NULL && play->lse != NULL)
        return 1;
    wn_play_close(play);
    return 0;
}

void wn_play_close(wn_play *play)
{
    free(play->poison);
    free(play->visible);
    free(play->position);
    free(play->out);
    free(play->lse);
    memset(play, 0, sizeof *play);
}

double wn_play_distance(const wn_model *model, const wn_play *a, const wn_play *b, int32_t from)
{
    size_t tokens = (size_t)wn_play_tokens(a), row = (size_t)model->num_heads * model->v_head_dim;
    double greatest = 0;
    for (size_t i = 0; i < wn_play_out_count(model, a); i++) {
        if (i / row % tokens < (size_t)from)
            continue;
        double each = fabs((double)a->out[i] - (double)b->out[i]);
        greatest = isnan(each) ? INFINITY : fmax(greatest, each);
    }
    return greatest;
}

/* ---------------------------------------------------------------- one step */

int32_t wn_scene_first(const wn_scene *at, const wn_play *play)
{
    if (!at->is_context)
        return play->prompt + at->step;
    return play->chunk > 0 ? at->step * play->chunk : 0;
}

int32_t wn_scene_count(const wn_scene *at, const wn_play *play)
{
    if (!at->is_context)
        return play->steps > 0;
    int32_t rest = play->prompt - wn_scene_first(at, play);
    return play->chunk > 0 && play->chunk < rest ? play->chunk : rest;
}

static void fill_layer(wn_scene *at, uint32_t layer)
{
    const wn_model *model = at->model;
    size_t q_count = (size_t)model->num_heads * model->head_dim;
    size_t k_count = (size_t)model->num_kv_heads * model->head_dim;
    size_t v_count = (size_t)model->num_kv_heads * model->v_head_dim, row = 0;
    for (uint32_t p = 0; p < at->count; p++) {
        const wn_play *play = &at->plays[p];
        int32_t first = wn_scene_first(at, play), end = first + wn_scene_count(at, play);
        for (int32_t t = first; t < end; t++, row++) {
            wn_play_token(model, play, at->mode, WN_TOKEN_Q, layer, t, at->q + row * q_count);
            wn_play_token(model, play, at->mode, WN_TOKEN_K, layer, t, at->k + row * k_count);
            wn_play_token(model, play, at->mode, WN_TOKEN_V, layer, t, at->v + row * v_count);
        }
    }
}

/* Extra inputs of the step's rows, like q and k a function of the play's seed, layer and token. */
static void fill_inputs(wn_scene *at, uint32_t layer)
{
    for (uint32_t i = 0; i < at->num_inputs; i++) {
        wn_tensor *input = &at->inputs[i].tensor;
        float *to = input->data;
        input->shape[0] = at->rows;
        for (uint32_t p = 0; p < at->count; p++) {
            const wn_play *play = &at->plays[p];
            int32_t first = wn_scene_first(at, play), end = first + wn_scene_count(at, play);
            for (int32_t t = first; t < end; t++)
                for (int64_t c = 0; c < input->stride[0]; c++)
                    *to++ = at->mode == WN_PLAY_NAN
                                ? NAN
                                : element(t < play->prompt ? play->seed
                                                           : play->seed + play->other_steps,
                                          ((((uint64_t)WN_TOKEN_V + 1 + i) * 64 + layer) << 24 |
                                           (uint32_t)
                                               t) << 12 |
                                              (uint64_t)c);
        }
    }
}

static void keep_outputs(wn_scene *at, uint32_t layer)
{
    size_t heads = at->model->num_heads, count = heads * at->model->v_head_dim, row = 0;
    for (uint32_t p = 0; p < at->count; p++) {
        wn_play *play = &at->plays[p];
        size_t first = (size_t)wn_scene_first(at, play), rows = (size_t)wn_scene_count(at, play);
        size_t to = (size_t)layer * (size_t)wn_play_tokens(play) + first;
        memcpy(play->out + to * count, at->out + row * count, rows * count * sizeof(float));
        memcpy(play->lse + to * heads, at->lse + row * heads, rows * heads * sizeof(float));
        row += rows;
    }
}

static wn_tensor rows_of(float *data, int64_t rows, uint32_t heads, uint32_t dim)
{
    return wn_tensor_make(data, WN_F32, 3, (int64_t[]){rows, heads, dim});
}

static wn_status run_layer(wn_scene *at, wn_batch *batch, uint32_t layer)
{
    const wn_model *model = at->model;
    wn_choice choice = {.struct_size = WN_SIZEOF(wn_choice)};
    wn_attention_args args = {.struct_size = WN_SIZEOF(wn_attention_args)};
    fill_layer(at, layer);
    args.k = rows_of(at->k, at->rows, model->num_kv_heads, model->head_dim);
    args.v = rows_of(at->v, at->rows, model->num_kv_heads, model->v_head_dim);
    args.q = rows_of(at->q, at->rows, model->num_heads, model->head_dim);
    args.out = rows_of(at->out, at->rows, model->num_heads, model->v_head_dim);
    args.lse = wn_tensor_make(at->lse, WN_F32, 2, (int64_t[]){at->rows, model->num_heads});
    fill_inputs(at, layer);
    args.inputs = at->inputs;
    args.num_inputs = at->num_inputs;
    wn_status status = wn_attention(batch, layer, &args);
    if (status != WN_OK || at->mode == WN_PLAY_NAN)
        return status;
    keep_outputs(at, layer);
    choice.phase = at->is_context ? WN_PHASE_CONTEXT : WN_PHASE_GENERATION;
    status = wn_batch_choice(batch, &choice);
    if (status != WN_OK)
        return status;
    wn_choice_judge(at, &choice, layer);
    if (!at->report->choice_bad)
        wn_choice_mark(at, &choice, layer);
    return WN_OK;
}

/* How many tokens a play has stored on a layer, and where each slot's token stands, those that this
 * step will append included. Before the step: in it, a method may evict. */
static wn_status look_at_slots(wn_scene *at, uint32_t p, uint32_t layer)
{
    wn_play *play = &at->plays[p];
    int32_t *stored = &at->physical[p * at->model->num_layers + layer];
    int32_t tokens = wn_play_tokens(play), first = wn_scene_first(at, play);
    wn_status status = wn_sequence_length(at->engine, play->sequence, layer, NULL, stored);
    for (uint32_t head = 0; status == WN_OK && head < at->model->num_kv_heads; head++) {
        int32_t *position =
            play->position + ((size_t)layer * at->model->num_kv_heads + head) * (size_t)tokens;
        status = wn_sequence_positions(at->engine, play->sequence, layer, head, position, tokens);
        for (int32_t i = 0; status == WN_OK && i < wn_scene_count(at, play); i++)
            position[*stored + i] = first + i;
    }
    return status;
}

static wn_status look_at_plays(wn_scene *at)
{
    wn_status status = WN_OK;
    for (uint32_t p = 0; p < at->count; p++)
        for (uint32_t layer = 0; status == WN_OK && layer < at->model->num_layers; layer++)
            status = look_at_slots(at, p, layer);
    return status;
}

static uint32_t item_flags(const wn_scene *at, const wn_play *play)
{
    if (!at->is_context)
        return 0;
    int more = at->mode == WN_PLAY_NAN || /* methods that evict never get to see it */
               wn_scene_first(at, play) + wn_scene_count(at, play) < play->prompt;
    return WN_ITEM_CONTEXT | (more ? WN_ITEM_MORE : 0);
}

static wn_status run_step(wn_scene *at)
{
    wn_batch *batch = NULL;
    wn_batch_item *items = calloc(at->count, sizeof *items);
    wn_status status = items != NULL ? look_at_plays(at) : WN_ENOMEM;
    at->rows = 0;
    for (uint32_t p = 0; status == WN_OK && p < at->count; p++) {
        items[p] = (wn_batch_item){.struct_size = WN_SIZEOF(wn_batch_item),
                                   .flags = item_flags(at, &at->plays[p]),
                                   .sequence = at->plays[p].sequence,
                                   .num_tokens = wn_scene_count(at, &at->plays[p])};
        at->rows += items[p].num_tokens;
    }
    if (status == WN_OK)
        status = wn_batch_begin(at->engine, items, at->count, &batch);
    for (uint32_t layer = 0; status == WN_OK && layer < at->model->num_layers; layer++)
        status = run_layer(at, batch, layer);
    if (batch != NULL && status == WN_OK)
        status = wn_batch_end(batch);
    else if (batch != NULL)
        wn_batch_abort(batch);
    free(items);
    return status;
}

/* ---------------------------------------------------------------- the play */

/* Room for the inputs that the engine's methods ask for. */
static wn_status make_inputs(wn_scene *at, size_t rows)
{
    wn_tensor shape;
    const char *name;
    while (at->num_inputs < WN_SCENE_MAX_INPUTS) {
        wn_status status =
            wn_engine_input(at->engine, at->num_inputs, (int64_t)rows, &name, &shape);
        if (status == WN_ENOTFOUND)
            return WN_OK;
        if (status != WN_OK || shape.dtype != WN_F32 || shape.ndim < 1 || shape.ndim > WN_MAX_DIMS)
            return status != WN_OK ? status : WN_EPLUGIN;
        wn_tensor input = wn_tensor_make(NULL, WN_F32, shape.ndim, shape.shape);
        input.data = calloc(rows, (size_t)input.stride[0] * sizeof(float));
        if (input.data == NULL)
            return WN_ENOMEM;
        at->inputs[at->num_inputs++] = (wn_named_input){name, input};
    }
    return WN_OK;
}

static wn_status make_room(wn_scene *at)
{
    const wn_model *model = at->model;
    size_t rows = 0;
    for (uint32_t p = 0; p < at->count; p++)
        rows += (size_t)at->plays[p].prompt + 1;
    at->q = calloc(rows * model->num_heads, model->head_dim * sizeof(float));
    at->k = calloc(rows * model->num_kv_heads, model->head_dim * sizeof(float));
    at->v = calloc(rows * model->num_kv_heads, model->v_head_dim * sizeof(float));
    at->out = calloc(rows * model->num_heads, model->v_head_dim * sizeof(float));
    at->lse = calloc(rows * model->num_heads, sizeof(float));
    at->physical = calloc((size_t)at->count * model->num_layers, sizeof *at->physical);
    wn_status status = make_inputs(at, rows);
    if (status != WN_OK)
        return status;
    return at->q != NULL && at->k != NULL && at->v != NULL && at->out != NULL && at->lse != NULL &&
                   at->physical != NULL
               ? WN_OK
               : WN_ENOMEM;
}

static wn_status run_steps(wn_scene *at, int is_context, int32_t num_steps)
{
    wn_status status = make_room(at);
    at->is_context = is_context;
    for (at->step = 0; status == WN_OK && at->step < num_steps; at->step++)
        status = run_step(at);
    free(at->q);
    free(at->k);
    free(at->v);
    free(at->out);
    free(at->lse);
    free(at->physical);
    while (at->num_inputs > 0)
        free(at->inputs[--at->num_inputs].tensor.data);
    return status;
}

wn_status wn_play_prompts(wn_engine *engine, const wn_model *model, wn_play *plays, uint32_t count,
                          uint32_t mode, wn_play_report *report)
{
    wn_scene at = {.engine = engine,
                   .model = model,
                   .plays = plays,
                   .count = count,
                   .mode = mode,
                   .report = report};
    int32_t chunk = plays[0].chunk;
    wn_status status = WN_OK;
    memset(report, 0, sizeof *report);
    for (uint32_t p = 0; status == WN_OK && p < count; p++)
        status = wn_sequence_create(engine, &plays[p].sequence);
    if (status == WN_OK)
        status = run_steps(&at, 1, chunk > 0 ? (plays[0].prompt + chunk - 1) / chunk : 1);
    report->status = status;
    return status;
}

wn_status wn_play_steps(wn_engine *engine, const wn_model *model, wn_play *plays, uint32_t count,
                        uint32_t mode, wn_play_report *report)
{
    wn_scene at = {.engine = engine,
                   .model = model,
                   .plays = plays,
                   .count = count,
                   .mode = mode,
                   .report = report};
    int32_t steps = 0;
    for (uint32_t p = 0; p < count; p++)
        steps = plays[p].steps > steps ? plays[p].steps : steps;
    report->status = run_steps(&at, 0, steps);
    return report->status;
}

void wn_play_end(wn_engine *engine, wn_play *plays, uint32_t count)
{
    for (uint32_t p = 0; p < count; p++) {
        if (plays[p].sequence != 0)
            wn_sequence_free(engine, plays[p].sequence);
        plays[p].sequence = 0;
    }
}

wn_status wn_play_run(wn_engine *engine, const wn_model *model, wn_play *plays, uint32_t count,
                      uint32_t mode, wn_play_report *report)
{
    wn_status status = wn_play_prompts(engine, model, plays, count, mode, report);
    if (status == WN_OK && mode != WN_PLAY_NAN)
        status = wn_play_steps(engine, model, plays, count, mode, report);
    wn_play_end(engine, plays, count);
    return status;
}
