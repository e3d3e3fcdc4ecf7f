/* bench_cache.c: scenes of the cache family and of conversions. Bytes count what is read and what
 * is written. */
#include "tools/bench_scene.h"

#include <math.h>

static const float THETA = 10000;

/* Distinct slots of a pool of `pages` pages. */
static int64_t *slots(wn_bench_scene *scene, int64_t tokens, int64_t pages)
{
    int64_t *slot = wn_scene_take(scene, tokens * (int64_t)sizeof *slot);
    int32_t *chosen = wn_scene_take(scene, tokens * (int64_t)sizeof *chosen);
    if (scene->memory.failed)
        return NULL;
    wn_scene_ascending(scene, chosen, tokens, pages * scene->shape.page);
    for (int64_t i = 0; i < tokens; i++)
        slot[i] = chosen[i];
    return slot;
}

static int32_t *positions(wn_bench_scene *scene, int64_t tokens)
{
    int32_t *position = wn_scene_constants(scene, tokens, 0);
    for (int64_t i = 0; i < tokens && position != NULL; i++)
        position[i] = (int32_t)(1000 + i);
    return position;
}

void wn_scene_append(wn_bench_scene *scene)
{
    wn_bench_shape *s = &scene->shape;
    wn_append_args *a = &scene->args.append;
    uint32_t dtype = s->dtype == WN_F32 || s->dtype == WN_F16 ? s->dtype : WN_BF16;
    *a = (wn_append_args){.struct_size = WN_SIZEOF(wn_append_args), .rope = WN_ROPE_HALF_SPLIT};
    s->batch = 1; /* one request owns the pool, and its tokens go all over it */
    s->length = 4 * s->tokens;
    wn_paged_kv kv = wn_scene_cache(scene, s->kv_heads, s->head_dim, s->head_dim);
    int64_t q[] = {s->tokens, s->heads, s->head_dim}, k[] = {s->tokens, s->kv_heads, s->head_dim};
    a->q = wn_scene_tensor(scene, dtype, 3, q);
    a->q_out = wn_scene_output(scene, dtype, 3, q);
    a->k = wn_scene_tensor(scene, dtype, 3, k);
    a->v = wn_scene_tensor(scene, dtype, 3, k);
    a->k_cache = kv.k;
    a->v_cache = kv.v;
    a->slot = slots(scene, s->tokens, (s->length + s->page - 1) / s->page);
    a->position = positions(scene, s->tokens);
    a->rope_theta = THETA;
    a->rope_dim = (uint32_t)s->head_dim;
    a->tokens_per_page = (uint32_t)s->page;
    a->num_tokens = (uint32_t)s->tokens;
    double numbers = (double)(2 * s->heads + 2 * s->kv_heads) * (double)s->head_dim;
    scene->bytes =
        (double)s->tokens * (numbers * wn_dtype_bytes(dtype) + wn_scene_token_bytes(&kv));
}

void wn_scene_compact(wn_bench_scene *scene)
{
    const wn_bench_shape *s = &scene->shape;
    wn_compact_args *a = &scene->args.compact;
    *a = (wn_compact_args){.struct_size = WN_SIZEOF(wn_compact_args)};
    a->kv = wn_scene_cache(scene, s->kv_heads, s->head_dim, s->head_dim);
    int32_t *indices = wn_scene_take(scene, s->kv_heads * s->selected * (int64_t)sizeof *indices);
    int32_t *offsets = wn_scene_constants(scene, 2, 0);
    if (scene->memory.failed)
        return;
    for (int64_t h = 0; h < s->kv_heads; h++)
        wn_scene_ascending(scene, indices + h * s->selected, s->selected, s->length);
    offsets[1] = (int32_t)s->selected;
    a->indices = indices;
    a->offsets = offsets;
    a->head_stride = s->selected;
    scene->bytes = 2 * (double)s->selected * wn_scene_token_bytes(&a->kv);
}

void wn_scene_gather_pages(wn_bench_scene *scene)
{
    const wn_bench_shape *s = &scene->shape;
    wn_gather_pages_args *a = &scene->args.gather_pages;
    int64_t pages = (s->length + s->page - 1) / s->page;
    int64_t width = s->selected / s->block, stride = s->batch * width;
    int32_t *indices = wn_scene_take(scene, s->kv_heads * stride * (int64_t)sizeof *indices);
    *a = (wn_gather_pages_args){.struct_size = WN_SIZEOF(wn_gather_pages_args)};
    for (int64_t r = 0; r < s->kv_heads * s->batch && indices != NULL; r++)
        wn_scene_ascending(scene, indices + r * width, width, s->length / s->block);
    scene->selection = (wn_selection){.struct_size = WN_SIZEOF(wn_selection),
                                      .block_size = (uint32_t)s->block,
                                      .index_space = WN_INDEX_PHYSICAL,
                                      .flags = WN_SELECTION_SORTED,
                                      .query_block = 1,
                                      .rows = (uint32_t)s->batch,
                                      .width = width,
                                      .head_stride = stride,
                                      .indices = indices,
                                      .capacity = s->kv_heads * stride};
    a->selection = &scene->selection;
    a->page_table = wn_scene_page_table(scene, s->batch, pages);
    a->page_table_stride = pages;
    a->length = wn_scene_constants(scene, s->batch, (int32_t)s->length);
    a->batch = (uint32_t)s->batch;
    a->num_kv_heads = (uint32_t)s->kv_heads;
    a->tokens_per_page = (uint32_t)s->page;
    a->pages = wn_scene_constants(scene, s->kv_heads * s->batch * pages, 0);
    a->pages_stride = pages;
    a->page_count = wn_scene_constants(scene, s->kv_heads * s->batch, 0);
    a->page_length = wn_scene_constants(scene, s->kv_heads * s->batch, 0);
    scene->bytes = 3 * 4 * (double)(s->kv_heads * stride);
}

void wn_scene_copy_pages(wn_bench_scene *scene)
{
    const wn_bench_shape *s = &scene->shape;
    wn_copy_pages_args *a = &scene->args.copy_pages;
    *a = (wn_copy_pages_args){.struct_size = WN_SIZEOF(wn_copy_pages_args)};
    a->page_bytes = s->page * s->kv_heads * s->head_dim * wn_dtype_bytes(s->dtype);
    a->pool = wn_scene_take(scene, 2 * s->n * a->page_bytes);
    wn_scene_fill(scene, a->pool, WN_U8, 2 * s->n * a->page_bytes);
    const int32_t *deck = wn_scene_page_table(scene, 1, 2 * s->n);
    a->source = deck;
    a->destination = deck != NULL ? deck + s->n : NULL;
    a->count = s->n;
    scene->bytes = 2 * (double)(s->n * a->page_bytes);
}

void wn_scene_quantise(wn_bench_scene *scene)
{
    const wn_bench_shape *s = &scene->shape;
    wn_quantise_args *a = &scene->args.quantise;
    int64_t shape[] = {s->rows, s->n}, blocks = s->block > 0 ? s->n / s->block : 1;
    *a = (wn_quantise_args){.struct_size = WN_SIZEOF(wn_quantise_args)};
    a->in = wn_scene_tensor(scene, WN_BF16, 2, shape);
    a->out = wn_scene_output(scene, s->dtype, 2, shape);
    a->scale = wn_scene_take(scene, s->rows * blocks * (int64_t)sizeof(float));
    a->scale_rule = WN_SCALE_EXACT;
    a->block = (uint32_t)s->block;
    scene->bytes = (double)(s->rows * s->n) * (2 + wn_dtype_bytes(s->dtype));
}

void wn_scene_dequantise(wn_bench_scene *scene)
{
    const wn_bench_shape *s = &scene->shape;
    wn_dequantise_args *a = &scene->args.dequantise;
    int64_t shape[] = {s->rows, s->n};
    float *scale = wn_scene_take(scene, s->rows * (int64_t)sizeof *scale);
    *a = (wn_dequantise_args){.struct_size = WN_SIZEOF(wn_dequantise_args)};
    for (int64_t r = 0; r < s->rows && scale != NULL; r++)
        scale[r] = 1 / (100 + (float)(r % 100));
    a->in = wn_scene_tensor(scene, s->dtype, 2, shape);
    a->out = wn_scene_output(scene, WN_BF16, 2, shape);
    a->scale = scale;
    scene->bytes = (double)(s->rows * s->n) * (2 + wn_dtype_bytes(s->dtype));
}

void wn_scene_rope(wn_bench_scene *scene)
{
    const wn_bench_shape *s = &scene->shape;
    wn_rope_args *a = &scene->args.rope;
    int64_t shape[] = {s->tokens, s->heads, s->head_dim};
    *a = (wn_rope_args){.struct_size = WN_SIZEOF(wn_rope_args), .rope = WN_ROPE_HALF_SPLIT};
    a->in = wn_scene_tensor(scene, s->dtype, 3, shape);
    a->out = wn_scene_output(scene, s->dtype, 3, shape);
    a->position = positions(scene, s->tokens);
    a->rope_theta = THETA;
    a->rope_dim = (uint32_t)s->head_dim;
    scene->bytes = 2 * (double)(s->tokens * s->heads * s->head_dim) * wn_dtype_bytes(s->dtype);
}

void wn_scene_hadamard(wn_bench_scene *scene)
{
    const wn_bench_shape *s = &scene->shape;
    wn_hadamard_args *a = &scene->args.hadamard;
    int64_t shape[] = {s->rows, s->n};
    *a = (wn_hadamard_args){.struct_size = WN_SIZEOF(wn_hadamard_args)};
    a->in = wn_scene_tensor(scene, s->dtype, 2, shape);
    a->out = wn_scene_output(scene, s->dtype, 2, shape);
    scene->bytes = 2 * (double)(s->rows * s->n) * wn_dtype_bytes(s->dtype);
    scene->flops = (double)(s->rows * s->n) * (log2((double)s->n) + 1);
}

static wn_indexer_view index_keys(wn_bench_scene *scene, int64_t pages)
{
    const wn_bench_shape *s = &scene->shape;
    int64_t codes = s->page * s->head_dim * wn_dtype_bytes(s->dtype);
    int64_t page_bytes = codes + (s->dtype == WN_BF16 ? 0 : s->page * (int64_t)sizeof(float));
    wn_indexer_view view = {.page_stride = page_bytes,
                            .dtype = s->dtype,
                            .dim = (uint32_t)s->head_dim,
                            .tokens_per_page = (uint32_t)s->page};
    view.data = wn_scene_take(scene, pages * page_bytes);
    for (int64_t p = 0; p < pages && view.data != NULL; p++) {
        uint8_t *page = view.data + p * page_bytes;
        wn_scene_fill(scene, page, s->dtype, s->page * s->head_dim);
        for (int64_t i = 0; i < codes && s->dtype == WN_I8; i++) /* seven bits, as appended */
            ((int8_t *)page)[i] = (int8_t)(((int8_t *)page)[i] * 63 / 128);
        for (int64_t t = 0; t < s->page && s->dtype != WN_BF16; t++)
            ((float *)(page + codes))[t] = 1 / (256 + (float)(t % 16));
    }
    return view;
}

void wn_scene_indexer_append(wn_bench_scene *scene)
{
    const wn_bench_shape *s = &scene->shape;
    wn_indexer_append_args *a = &scene->args.indexer_append;
    int64_t pages = (4 * s->tokens + s->page - 1) / s->page;
    *a = (wn_indexer_append_args){.struct_size = WN_SIZEOF(wn_indexer_append_args)};
    a->k = wn_scene_tensor(scene, WN_BF16, 2, (int64_t[]){s->tokens, s->head_dim});
    a->slot = slots(scene, s->tokens, pages);
    a->keys = index_keys(scene, pages);
    a->scale_rule = WN_SCALE_POWER_OF_TWO;
    scene->bytes = (double)(s->tokens * s->head_dim) * (2 + wn_dtype_bytes(s->dtype));
}

enum { FRESH = 16, MOST_PARTS = 64 };

/* Other queries each time: one row of scores again and again would teach the branch predictor. */
static void turn_queries(wn_bench_scene *scene)
{
    wn_indexer_topk_args *a = &scene->args.indexer_topk;
    int32_t *begin = (int32_t *)a->q_begin;
    int64_t turn = (int64_t)(scene->turns % FRESH) * scene->shape.batch * scene->shape.queries;
    for (uint32_t b = 0; b < a->batch; b++)
        begin[b] = (int32_t)(turn + b * scene->shape.queries);
}

void wn_scene_indexer_topk(wn_bench_scene *scene)
{
    const wn_bench_shape *s = &scene->shape;
    wn_indexer_topk_args *a = &scene->args.indexer_topk;
    int64_t pages = (s->length + s->page - 1) / s->page, rows = FRESH * s->batch * s->queries;
    uint32_t q_dtype = s->dtype == WN_F8_E4M3 ? WN_F8_E4M3 : WN_BF16;
    *a = (wn_indexer_topk_args){.struct_size = WN_SIZEOF(wn_indexer_topk_args)};
    a->q = wn_scene_tensor(scene, q_dtype, 3, (int64_t[]){rows, s->heads, s->head_dim});
    a->weights = wn_scene_tensor(scene, WN_F32, 2, (int64_t[]){rows, s->heads});
    if (q_dtype == WN_F8_E4M3) {
        float *scale = wn_scene_take(scene, rows * s->heads * (int64_t)sizeof *scale);
        for (int64_t i = 0; i < rows * s->heads && scale != NULL; i++)
            scale[i] = 1 / (256 + (float)(i % 32));
        a->q_scale = scale;
    }
    a->keys = index_keys(scene, s->batch * pages);
    a->page_table = wn_scene_page_table(scene, s->batch, pages);
    a->page_table_stride = pages;
    a->q_begin = wn_scene_constants(scene, s->batch, 0);
    a->q_len = wn_scene_constants(scene, s->batch, (int32_t)s->queries);
    a->length = wn_scene_constants(scene, s->batch, (int32_t)s->length);
    a->batch = (uint32_t)s->batch;
    a->weight_scale = 1 / sqrtf((float)(s->heads * s->head_dim));
    a->indices = wn_scene_output(scene, WN_I32, 2, (int64_t[]){rows, s->k});
    a->workspace = wn_scene_take(scene, rows * s->k * (int64_t)sizeof(float));
    a->part_workspace_bytes = s->batch * s->queries * MOST_PARTS * (8 * s->k + 64);
    a->part_workspace = wn_scene_take(scene, a->part_workspace_bytes);
    scene->turn = turn_queries;
    scene->units = (double)(s->batch * s->queries * s->length);
    scene->unit = "key";
    scene->bytes = (double)(s->batch * s->length * a->keys.page_stride) / (double)s->page;
    scene->flops = 2 * scene->units * (double)(s->heads * s->head_dim);
}
