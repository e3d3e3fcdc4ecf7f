/* validate_play.c: plays sequences through an engine and looks at what the methods chose. */
#include "tools/validate_stage.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { KIND_Q = 1, KIND_K = 2, KIND_V = 3 };

/* splitmix64 of a coordinate: every element is known without the ones before it. */
static float element(uint64_t seed, uint64_t coordinate)
{
    uint64_t z = seed + (coordinate + 1) * 0x9e3779b97f4a7c15ULL;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    z ^= z >> 31;
    return (float)((double)(z >> 11) * (2.0 / 9007199254740992.0) - 1.0);
}

static void fill_token(float *to, uint64_t seed, uint32_t kind, uint32_t layer, int32_t token,
                       uint32_t count)
{
    uint64_t base = (((uint64_t)kind * 64 + layer) << 24 | (uint32_t)token) << 12;
    for (uint32_t i = 0; i < count; i++)
        to[i] = element(seed, base + i) * (kind == KIND_Q ? 3.0f : 1.0f); /* scores worth ranking */
}

static int32_t tokens_of(const wn_play *play) { return play->prompt + play->steps; }

size_t wn_play_out_count(const wn_model *model, const wn_play *play)
{
    return (size_t)model->num_layers * (size_t)tokens_of(play) * model->num_heads * model->v_head_dim;
}

int wn_play_open(const wn_model *model, uint64_t seed, int32_t prompt, int32_t steps, wn_play *play)
{
    memset(play, 0, sizeof *play);
    play->seed = seed;
    play->prompt = prompt;
    play->steps = steps;
    size_t rows = (size_t)model->num_layers * (size_t)tokens_of(play) * model->num_kv_heads;
    play->poison = calloc(rows, 1);
    play->attended = calloc(rows, 1);
    play->out = calloc(wn_play_out_count(model, play), sizeof *play->out);
    if (play->poison != NULL && play->attended != NULL && play->out != NULL)
        return 1;
    wn_play_close(play);
    return 0;
}

void wn_play_close(wn_play *play)
{
    free(play->poison);
    free(play->attended);
    free(play->out);
    memset(play, 0, sizeof *play);
}

/* ---------------------------------------------------------------- one step */

/* The tensors of one layer of one step, rows of all plays in order. */
typedef struct scene {
    wn_engine *engine;
    const wn_model *model;
    wn_play *plays;
    uint32_t count;
    uint32_t mode;
    int32_t step;      /* 0: the prompts; s: the s-th generated token */
    int32_t *physical; /* [count, layers] stored tokens before this step */
    int64_t rows;
    float *q, *k, *v, *out;
    wn_play_report *report;
} scene;

static int32_t first_token(const scene *at, const wn_play *play)
{
    return at->step == 0 ? 0 : play->prompt + at->step - 1;
}

static int32_t num_tokens(const scene *at, const wn_play *play)
{
    return at->step == 0 ? play->prompt : 1;
}

static void fill_layer(scene *at, uint32_t layer)
{
    const wn_model *model = at->model;
    size_t q_count = (size_t)model->num_heads * model->head_dim;
    size_t k_count = (size_t)model->num_kv_heads * model->head_dim;
    size_t v_count = (size_t)model->num_kv_heads * model->v_head_dim, row = 0;
    for (uint32_t p = 0; p < at->count; p++) {
        const wn_play *play = &at->plays[p];
        int32_t first = first_token(at, play), end = first + num_tokens(at, play);
        for (int32_t token = first; token < end; token++, row++) {
            float *k = at->k + row * k_count, *v = at->v + row * v_count;
            fill_token(at->q + row * q_count, play->seed, KIND_Q, layer, token, (uint32_t)q_count);
            fill_token(k, play->seed, KIND_K, layer, token, (uint32_t)k_count);
            fill_token(v, play->seed, KIND_V, layer, token, (uint32_t)v_count);
            const uint8_t *poison = play->poison + ((size_t)layer * (size_t)tokens_of(play) +
                                                    (size_t)token) * model->num_kv_heads;
            for (size_t i = 0; i < v_count; i++)
                if (at->mode == WN_PLAY_NAN || poison[i / model->v_head_dim])
                    v[i] = NAN;
            for (size_t i = 0; at->mode == WN_PLAY_NAN && i < k_count; i++)
                k[i] = NAN;
        }
    }
}

static void keep_outputs(scene *at, uint32_t layer)
{
    size_t count = (size_t)at->model->num_heads * at->model->v_head_dim, row = 0;
    for (uint32_t p = 0; p < at->count; p++) {
        wn_play *play = &at->plays[p];
        size_t first = (size_t)first_token(at, play), tokens = (size_t)num_tokens(at, play);
        memcpy(play->out + ((size_t)layer * (size_t)tokens_of(play) + first) * count,
               at->out + row * count, tokens * count * sizeof(float));
        row += tokens;
    }
}

/* ---------------------------------------------------------------- choices */

/* The entries of one row and head. */
static const int32_t *entries(const wn_selection *choice, int64_t row, uint32_t head, int64_t *count)
{
    const int32_t *list = choice->indices + (int64_t)head * choice->head_stride;
    if (choice->offsets != NULL) {
        *count = choice->offsets[row + 1] - choice->offsets[row];
        return list + choice->offsets[row];
    }
    list += row * choice->width;
    for (*count = 0; *count < choice->width && list[*count] >= 0;)
        ++*count;
    return list;
}

/* Ascending, without duplicates, inside 0 .. length; the first breach is reported. */
static void judge_list(scene *at, const char *what, const wn_selection *choice, int64_t row,
                       uint32_t head, int32_t length, int64_t expected)
{
    int64_t count, block = choice->block_size > 0 ? choice->block_size : 1;
    const int32_t *list = entries(choice, row, head, &count);
    wn_play_report *report = at->report;
    if (report->choice_bad)
        return;
    if (expected >= 0 && count != expected) {
        report->choice_bad = 1;
        snprintf(report->text, sizeof report->text, "%s: %lld entries for head %u, %lld for head 0",
                 what, (long long)count, head, (long long)expected);
    }
    for (int64_t i = 0; i < count && !report->choice_bad; i++) {
        int outside = list[i] < 0 || list[i] * block >= length;
        if (!outside && (i == 0 || list[i] > list[i - 1]))
            continue;
        report->choice_bad = 1;
        snprintf(report->text, sizeof report->text, "%s: entry %lld of head %u is %d, %s (length %d)",
                 what, (long long)i, head, list[i],
                 outside ? "outside the sequence" : "not above the entry before it", length);
    }
}

static int32_t length_of(const scene *at, uint32_t item, uint32_t layer)
{
    return at->physical[item * at->model->num_layers + layer] +
           num_tokens(at, &at->plays[item]);
}

static void judge_choice(scene *at, const wn_choice *choice, uint32_t layer)
{
    const wn_selection *select = choice->select, *retain = choice->retain;
    for (uint32_t head = 0; head < at->model->num_kv_heads; head++) {
        for (uint64_t i = 0; select != NULL && i < choice->num_items; i++) {
            int64_t row = choice->select_row[i];
            uint32_t block = select->query_block > 0 ? select->query_block : 1;
            int64_t rows = (num_tokens(at, &at->plays[choice->item[i]]) + block - 1) / block;
            for (int64_t r = row; r < row + rows; r++)
                judge_list(at, "select", select, r, head, length_of(at, choice->item[i], layer), -1);
            at->report->selections++;
        }
        for (uint32_t r = 0; retain != NULL && r < retain->rows; r++) {
            int64_t expected;
            entries(retain, r, 0, &expected);
            judge_list(at, "retain", retain, r, head, length_of(at, choice->retain_item[r], layer),
                       expected);
            at->report->retentions++;
        }
    }
}

/* Marks, in slots for now, what each play attends to; dense: all of it. */
static void mark_slots(scene *at, const wn_choice *choice, uint32_t layer)
{
    uint32_t kv_heads = at->model->num_kv_heads;
    for (uint64_t i = 0; i < choice->num_items; i++) {
        wn_play *play = &at->plays[choice->item[i]];
        int32_t length = length_of(at, choice->item[i], layer);
        uint8_t *marks = play->attended + (size_t)layer * (size_t)tokens_of(play) * kv_heads;
        memset(marks, choice->select == NULL, (size_t)tokens_of(play) * kv_heads);
        for (uint32_t head = 0; choice->select != NULL && head < kv_heads; head++) {
            int64_t count, block = choice->select->block_size;
            const int32_t *list = entries(choice->select, choice->select_row[i], head, &count);
            for (int64_t e = 0; e < count * block; e++) {
                int64_t slot = list[e / block] * block + e % block;
                if (slot >= 0 && slot < length)
                    marks[(size_t)slot * kv_heads + head] = 1;
            }
        }
    }
}

/* From slots to logical positions, by where the cache says each slot's token stands. */
static wn_status slots_to_positions(scene *at, wn_play *play)
{
    size_t tokens = (size_t)tokens_of(play);
    uint32_t kv_heads = at->model->num_kv_heads;
    int32_t *position = calloc(tokens, sizeof *position), stored;
    uint8_t *slots = calloc(tokens, kv_heads);
    wn_status status = position != NULL && slots != NULL ? WN_OK : WN_ENOMEM;
    for (uint32_t layer = 0; status == WN_OK && layer < at->model->num_layers; layer++) {
        uint8_t *marks = play->attended + layer * tokens * kv_heads;
        memcpy(slots, marks, tokens * kv_heads);
        memset(marks, 0, tokens * kv_heads);
        status = wn_sequence_length(at->engine, play->sequence, layer, NULL, &stored);
        for (uint32_t head = 0; status == WN_OK && head < kv_heads; head++) {
            status = wn_sequence_positions(at->engine, play->sequence, layer, head, position,
                                           (int32_t)tokens);
            for (int32_t slot = 0; status == WN_OK && slot < stored; slot++)
                marks[(size_t)position[slot] * kv_heads + head] =
                    slots[(size_t)slot * kv_heads + head];
        }
    }
    free(position);
    free(slots);
    return status;
}

/* ---------------------------------------------------------------- the play */

static wn_tensor rows_of(float *data, int64_t rows, uint32_t heads, uint32_t dim)
{
    return wn_tensor_make(data, WN_F32, 3, (int64_t[]){rows, heads, dim});
}

static wn_status run_layer(scene *at, wn_batch *batch, uint32_t layer)
{
    const wn_model *model = at->model;
    wn_choice choice = {.struct_size = WN_SIZEOF(wn_choice)};
    wn_attention_args args = {.struct_size = WN_SIZEOF(wn_attention_args)};
    fill_layer(at, layer);
    args.k = rows_of(at->k, at->rows, model->num_kv_heads, model->head_dim);
    args.v = rows_of(at->v, at->rows, model->num_kv_heads, model->v_head_dim);
    args.q = rows_of(at->q, at->rows, model->num_heads, model->head_dim);
    args.out = rows_of(at->out, at->rows, model->num_heads, model->v_head_dim);
    wn_status status = wn_attention(batch, layer, &args);
    if (status != WN_OK || at->mode != WN_PLAY_WHOLE)
        return status;
    keep_outputs(at, layer);
    choice.phase = at->step == 0 ? WN_PHASE_CONTEXT : WN_PHASE_GENERATION;
    status = wn_batch_choice(batch, &choice);
    if (status != WN_OK)
        return status;
    judge_choice(at, &choice, layer);
    if (at->step > 0 && !at->report->choice_bad)
        mark_slots(at, &choice, layer);
    return WN_OK;
}

/* How many tokens each play has stored on each layer. */
static wn_status look_at_lengths(scene *at)
{
    wn_status status = WN_OK;
    for (uint32_t p = 0; p < at->count; p++)
        for (uint32_t layer = 0; status == WN_OK && layer < at->model->num_layers; layer++)
            status = wn_sequence_length(at->engine, at->plays[p].sequence, layer, NULL,
                                        &at->physical[p * at->model->num_layers + layer]);
    return status;
}

static wn_status run_step(scene *at)
{
    wn_batch *batch = NULL;
    wn_batch_item *items = calloc(at->count, sizeof *items);
    wn_status status = items != NULL ? look_at_lengths(at) : WN_ENOMEM;
    at->rows = 0;
    for (uint32_t p = 0; status == WN_OK && p < at->count; p++) {
        uint32_t flags = at->step == 0 ? WN_ITEM_CONTEXT : 0;
        if (at->mode == WN_PLAY_NAN)
            flags |= WN_ITEM_MORE; /* methods that evict never get to see it */
        items[p] = (wn_batch_item){.struct_size = WN_SIZEOF(wn_batch_item), .flags = flags,
                                   .sequence = at->plays[p].sequence,
                                   .num_tokens = num_tokens(at, &at->plays[p])};
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

static wn_status make_room(scene *at)
{
    const wn_model *model = at->model;
    size_t rows = 0;
    for (uint32_t p = 0; p < at->count; p++)
        rows += (size_t)at->plays[p].prompt + 1;
    at->q = calloc(rows * model->num_heads, model->head_dim * sizeof(float));
    at->k = calloc(rows * model->num_kv_heads, model->head_dim * sizeof(float));
    at->v = calloc(rows * model->num_kv_heads, model->v_head_dim * sizeof(float));
    at->out = calloc(rows * model->num_heads, model->v_head_dim * sizeof(float));
    at->physical = calloc((size_t)at->count * model->num_layers, sizeof *at->physical);
    return at->q != NULL && at->k != NULL && at->v != NULL && at->out != NULL &&
           at->physical != NULL ? WN_OK : WN_ENOMEM;
}

wn_status wn_play_run(wn_engine *engine, const wn_model *model, wn_play *plays, uint32_t count,
                      uint32_t mode, wn_play_report *report)
{
    scene at = {.engine = engine, .model = model, .plays = plays, .count = count, .mode = mode,
                .report = report};
    memset(report, 0, sizeof *report);
    wn_status status = make_room(&at);
    for (uint32_t p = 0; status == WN_OK && p < count; p++)
        status = wn_sequence_create(engine, &plays[p].sequence);
    int32_t last = mode == WN_PLAY_WHOLE ? plays[0].steps : 0;
    for (at.step = 0; status == WN_OK && at.step <= last; at.step++)
        status = run_step(&at);
    for (uint32_t p = 0; p < count; p++) {
        if (status == WN_OK && mode == WN_PLAY_WHOLE)
            status = slots_to_positions(&at, &plays[p]);
        if (plays[p].sequence != 0)
            wn_sequence_free(engine, plays[p].sequence);
        plays[p].sequence = 0;
    }
    free(at.q);
    free(at.k);
    free(at.v);
    free(at.out);
    free(at.physical);
    report->status = status;
    return status;
}
