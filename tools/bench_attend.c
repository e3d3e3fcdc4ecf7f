/* bench_attend.c: scenes of the attend family. */
#include "tools/bench_scene.h"

#include <math.h>
#include <string.h>

enum { MOST_PARTS = 64 };
/* Scores of a cold tile lie 16 * 16 / sqrt(dim) below those of the others: exp(-22) at 128
 * channels. */
static const float COLD = 16, LOG_THRESHOLD = -11.5f;

/* Queries and outputs are 16-bit beside quantised caches. */
static uint32_t model_dtype(const wn_bench_shape *shape)
{
    return shape->dtype == WN_F32 || shape->dtype == WN_F16 ? shape->dtype : WN_BF16;
}

/* Element i = value, which is 0 or plus or minus COLD. */
static void put(void *data, uint32_t dtype, int64_t i, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (dtype == WN_F32)
        memcpy((uint32_t *)data + i, &bits, 4);
    else if (dtype == WN_BF16)
        ((uint16_t *)data)[i] = (uint16_t)(bits >> 16);
    else
        ((uint16_t *)data)[i] =
            (uint16_t)(value == 0 ? 0 : (bits >> 16 & 0x8000) | (15 + 4) << 10); /* 16 = 2^4 */
}

/* Whole tiles whose keys no query wants: every second one for 50 percent, three of four for 75. */
static void cool(wn_bench_scene *scene, wn_attend_args *a)
{
    const wn_bench_shape *s = &scene->shape;
    const wn_kv_view *k = &a->kv.k;
    int64_t rows = a->q.shape[0] * a->q.shape[1];
    for (int64_t r = 0; r < rows; r++)
        put(a->q.data, a->q.dtype, r * s->head_dim, COLD);
    for (uint32_t b = 0; b < a->kv.batch; b++)
        for (int64_t t = 0; t < a->kv.length[b]; t++) {
            int64_t tile = t / s->tile_k;
            int64_t page = a->kv.page_table[b * a->kv.page_table_stride + t / s->page];
            float value = tile * s->cold / 100 == (tile + 1) * s->cold / 100 ? 0 : -COLD;
            for (int64_t h = 0; h < s->kv_heads; h++)
                put(k->data, k->dtype,
                    page * k->page_stride + h * k->head_stride + t % s->page * k->token_stride,
                    value);
        }
    int64_t heads = s->heads;
    float *threshold = wn_scene_take(scene, (int64_t)a->kv.batch * (int64_t)sizeof *threshold);
    for (uint32_t b = 0; b < a->kv.batch && threshold != NULL; b++)
        threshold[b] = LOG_THRESHOLD;
    scene->tile = (wn_tile_policy){.struct_size = WN_SIZEOF(wn_tile_policy),
                                   .kind = WN_TILE_SKIP_SOFTMAX,
                                   .tile_q = (uint32_t)s->tile_q,
                                   .tile_k = (uint32_t)s->tile_k,
                                   .log_threshold = threshold};
    a->tile = &scene->tile;
    scene->num_counters = (uint64_t)heads;
    scene->counters = wn_scene_take(scene, heads * (int64_t)sizeof *scene->counters);
}

/* What both ops share: `queries` newest tokens of each request ask. */
static void attend(wn_bench_scene *scene, wn_attend_args *a, int64_t queries)
{
    const wn_bench_shape *s = &scene->shape;
    int64_t batch = s->batch + s->others, rows = batch * queries;
    uint32_t dtype = model_dtype(s);
    *a = (wn_attend_args){.struct_size = WN_SIZEOF(wn_attend_args), .causal = 1};
    a->kv = wn_scene_cache(scene, s->kv_heads, s->head_dim, s->head_dim);
    a->q = wn_scene_tensor(scene, dtype, 3, (int64_t[]){rows, s->heads, s->head_dim});
    a->out = wn_scene_output(scene, dtype, 3, (int64_t[]){rows, s->heads, s->head_dim});
    a->lse = wn_scene_output(scene, WN_F32, 2, (int64_t[]){rows, s->heads});
    int32_t *begin = wn_scene_constants(scene, batch, 0);
    for (int64_t b = 0; b < batch && begin != NULL; b++)
        begin[b] = (int32_t)(b * queries);
    a->q_begin = begin;
    a->q_len = wn_scene_constants(scene, batch, (int32_t)queries);
    a->window = (int32_t)s->window;
    a->softmax_scale = 1 / sqrtf((float)s->head_dim);
    if (scene->memory.failed)
        return;
    double token = wn_scene_token_bytes(&a->kv), head = 4 * (double)(s->heads * s->head_dim);
    for (int64_t b = 0; b < batch; b++) {
        double seen = s->selected > 0 ? (double)s->selected : a->kv.length[b];
        scene->bytes += seen * token;
        scene->flops += head * ((double)queries * (seen - (double)queries) +
                                (double)queries * (double)(queries + 1) / 2);
    }
    scene->bytes += 2.0 * (double)(rows * s->heads * s->head_dim) * wn_dtype_bytes(dtype);
    if (s->cold > 0 && wn_dtype_bytes(s->dtype) >= 2)
        cool(scene, a);
}

void wn_scene_context(wn_bench_scene *scene)
{
    const wn_bench_shape *s = &scene->shape;
    attend(scene, &scene->args.context, s->queries > 0 ? s->queries : s->length);
}

/* Lists of their own for each KV head: s->selected tokens in blocks. */
static void select_tokens(wn_bench_scene *scene, wn_attend_args *a)
{
    const wn_bench_shape *s = &scene->shape;
    int64_t batch = s->batch + s->others, block = s->block > 0 ? s->block : 1;
    int64_t width = s->selected / block, stride = batch * width;
    int32_t *indices = wn_scene_take(scene, s->kv_heads * stride * (int64_t)sizeof *indices);
    int32_t *row = wn_scene_constants(scene, batch, 0);
    if (scene->memory.failed)
        return;
    for (int64_t h = 0; h < s->kv_heads; h++)
        for (int64_t b = 0; b < batch; b++)
            wn_scene_ascending(scene, indices + h * stride + b * width, width,
                               a->kv.length[b] / block);
    for (int64_t b = 0; b < batch; b++)
        row[b] = (int32_t)b;
    scene->selection = (wn_selection){.struct_size = WN_SIZEOF(wn_selection),
                                      .block_size = (uint32_t)block,
                                      .index_space = WN_INDEX_PHYSICAL,
                                      .flags = WN_SELECTION_SORTED,
                                      .query_block = (uint32_t)s->queries,
                                      .rows = (uint32_t)batch,
                                      .width = width,
                                      .head_stride = stride,
                                      .indices = indices,
                                      .capacity = s->kv_heads * stride};
    a->selection = &scene->selection;
    a->selection_row = row;
}

void wn_scene_generation(wn_bench_scene *scene)
{
    const wn_bench_shape *s = &scene->shape;
    wn_attend_args *a = &scene->args.generation;
    attend(scene, a, s->queries);
    if (s->selected > 0)
        select_tokens(scene, a);
    a->workspace_bytes =
        s->heads * (s->head_dim + 16) * 4 * s->queries * (s->batch + s->others) * MOST_PARTS;
    a->workspace = wn_scene_take(scene, a->workspace_bytes);
}

/* Records of 656 bytes: codes, scales that keep values below 1, the rope part. */
static void fill_records(wn_bench_scene *scene, uint8_t *record, int64_t count)
{
    wn_scene_fill(scene, record, WN_F8_E4M3, count * WN_MLA_RECORD_BYTES);
    for (int64_t i = 0; i < count && record != NULL; i++, record += WN_MLA_RECORD_BYTES) {
        float scale[4] = {1.f / 448, 1.f / 512, 1.f / 600, 1.f / 480};
        memcpy(record + WN_MLA_LATENT_DIM, scale, sizeof scale);
        wn_scene_fill(scene, record + WN_MLA_LATENT_DIM + sizeof scale, WN_BF16, WN_MLA_ROPE_DIM);
    }
}

static wn_kv_view latents(wn_bench_scene *scene, int64_t pages)
{
    const wn_bench_shape *s = &scene->shape;
    wn_kv_view view = {.tensor_scale = 1, .dim = (uint32_t)s->head_dim};
    if (s->dtype == WN_F8_E4M3) {
        view.dtype = WN_U8;
        view.layout = WN_LAYOUT_MLA_FP8;
        view.token_stride = WN_MLA_RECORD_BYTES;
        view.page_stride = view.head_stride = s->page * WN_MLA_RECORD_BYTES;
        view.data = wn_scene_take(scene, pages * view.page_stride);
        fill_records(scene, view.data, pages * s->page);
        return view;
    }
    view.dtype = s->dtype;
    view.layout = WN_LAYOUT_STRIDED;
    view.token_stride = s->head_dim;
    view.page_stride = view.head_stride = s->page * s->head_dim;
    view.data = wn_scene_take(scene, pages * view.page_stride * wn_dtype_bytes(s->dtype));
    wn_scene_fill(scene, view.data, s->dtype, pages * view.page_stride);
    return view;
}

void wn_scene_mla(wn_bench_scene *scene)
{
    const wn_bench_shape *s = &scene->shape;
    wn_mla_args *a = &scene->args.mla;
    int64_t pages = (s->length + s->page - 1) / s->page, batch = s->batch;
    uint32_t dtype = model_dtype(s);
    *a = (wn_mla_args){.struct_size = WN_SIZEOF(wn_mla_args), .num_scopes = 1};
    a->q = wn_scene_tensor(scene, dtype, 3, (int64_t[]){batch, s->heads, s->head_dim});
    a->out = wn_scene_output(scene, dtype, 3, (int64_t[]){batch, s->heads, s->v_head_dim});
    a->lse = wn_scene_output(scene, WN_F32, 2, (int64_t[]){batch, s->heads});
    a->v_dim = (uint32_t)s->v_head_dim;
    a->softmax_scale = 1 / sqrtf((float)s->head_dim);
    a->scope[0].k = latents(scene, batch * pages);
    a->scope[0].page_table = wn_scene_page_table(scene, batch, pages);
    a->scope[0].page_table_stride = pages;
    a->scope[0].limit = wn_scene_constants(scene, batch, (int32_t)s->length);
    a->scope[0].tokens_per_page = (uint32_t)s->page;
    a->workspace_bytes = s->heads * (s->v_head_dim + 16) * 4 * batch * MOST_PARTS;
    a->workspace = wn_scene_take(scene, a->workspace_bytes);
    double keys = (double)(batch * (s->selected > 0 ? s->selected : s->length));
    if (s->selected > 0) {
        int32_t *indices = wn_scene_take(scene, batch * s->selected * (int64_t)sizeof *indices);
        for (int64_t b = 0; b < batch && indices != NULL; b++)
            wn_scene_ascending(scene, indices + b * s->selected, s->selected, s->length);
        a->scope[0].indices = indices;
        a->scope[0].indices_stride = s->selected;
        a->scope[0].width = (uint32_t)s->selected;
    }
    scene->bytes = keys * (s->dtype == WN_F8_E4M3 ? WN_MLA_RECORD_BYTES
                                                  : (double)s->head_dim * wn_dtype_bytes(s->dtype));
    scene->flops = 2 * keys * (double)(s->heads * (s->head_dim + s->v_head_dim));
}

void wn_scene_merge_states(wn_bench_scene *scene)
{
    const wn_bench_shape *s = &scene->shape;
    wn_merge_states_args *a = &scene->args.merge_states;
    *a = (wn_merge_states_args){.struct_size = WN_SIZEOF(wn_merge_states_args)};
    a->parts =
        wn_scene_tensor(scene, s->dtype, 4, (int64_t[]){s->parts, s->rows, s->heads, s->head_dim});
    a->parts_lse = wn_scene_tensor(scene, WN_F32, 3, (int64_t[]){s->parts, s->rows, s->heads});
    a->out = wn_scene_output(scene, s->dtype, 3, (int64_t[]){s->rows, s->heads, s->head_dim});
    a->lse = wn_scene_output(scene, WN_F32, 2, (int64_t[]){s->rows, s->heads});
    scene->bytes =
        (double)((s->parts + 1) * s->rows * s->heads * s->head_dim) * wn_dtype_bytes(s->dtype);
}
