/* bench_predict.c: scenes of the predict family, but for the indexer's. */
#include "tools/bench_scene.h"

#include <math.h>

void wn_scene_window_scores(wn_bench_scene *scene)
{
    const wn_bench_shape *s = &scene->shape;
    wn_window_scores_args *a = &scene->args.window_scores;
    uint32_t dtype = s->dtype == WN_F32 || s->dtype == WN_F16 ? s->dtype : WN_BF16;
    *a = (wn_window_scores_args){.struct_size = WN_SIZEOF(wn_window_scores_args)};
    a->kv = wn_scene_cache(scene, s->kv_heads, s->head_dim, s->head_dim);
    a->q =
        wn_scene_tensor(scene, dtype, 4, (int64_t[]){s->batch, s->window, s->heads, s->head_dim});
    a->softmax_scale = 1 / sqrtf((float)s->head_dim);
    a->normalise = WN_SCORES_PREFIX;
    a->scores = wn_scene_output(scene, WN_F32, 3, (int64_t[]){s->batch, s->kv_heads, s->length});
    double keys = (double)(s->batch * s->length);
    scene->bytes = keys * wn_scene_token_bytes(&a->kv) / 2 + keys * 4 * (double)s->kv_heads;
    scene->flops = 2 * keys * (double)(s->window * s->heads * s->head_dim);
}

void wn_scene_pool_max(wn_bench_scene *scene)
{
    const wn_bench_shape *s = &scene->shape;
    wn_pool_max_args *a = &scene->args.pool_max;
    int64_t shape[] = {s->rows, s->n};
    *a = (wn_pool_max_args){.struct_size = WN_SIZEOF(wn_pool_max_args)};
    a->in = wn_scene_tensor(scene, WN_F32, 2, shape);
    a->out = wn_scene_output(scene, WN_F32, 2, shape);
    a->kernel_size = (uint32_t)s->kernel | 1;
    scene->bytes = 8 * (double)(s->rows * s->n);
}

enum { LEAST_FRESH = 16, MOST_FRESH = 512, FRESH_NUMBERS = 1 << 21 };

/* How many inputs take turns: enough that no branch predictor knows them, and no more memory than a
 * last cache holds, unless the rows are long. */
static int64_t fresh_inputs(const wn_bench_shape *s)
{
    int64_t count = FRESH_NUMBERS / (s->rows * s->n + 1);
    return count < LEAST_FRESH ? LEAST_FRESH : count > MOST_FRESH ? MOST_FRESH : count;
}

static void turn_rows(wn_bench_scene *scene)
{
    const wn_bench_shape *s = &scene->shape;
    wn_topk_args *a = &scene->args.topk;
    int64_t turn = (int64_t)(scene->turns % (uint64_t)scene->fresh);
    int64_t before = (int64_t)((scene->turns - 1) % (uint64_t)scene->fresh);
    a->scores.data = (float *)a->scores.data + (turn - before) * s->rows * s->n;
}

void wn_scene_topk(wn_bench_scene *scene)
{
    const wn_bench_shape *s = &scene->shape;
    wn_topk_args *a = &scene->args.topk;
    int64_t fresh = fresh_inputs(s);
    *a = (wn_topk_args){.struct_size = WN_SIZEOF(wn_topk_args)};
    a->scores = wn_scene_output(scene, WN_F32, 2, (int64_t[]){fresh * s->rows, s->n});
    float *score = a->scores.data;
    /* Sums of four are near enough to a normal distribution. No copied runs: no row is another's.
     */
    for (int64_t i = 0; i < fresh * s->rows * s->n && score != NULL; i++) {
        int32_t sum = 0;
        for (int j = 0; j < 4; j++)
            sum += (int32_t)wn_scene_below(scene, 1 << 22);
        score[i] = (float)(sum - (1 << 23)) * 0x1p-21f;
    }
    a->scores.shape[0] = s->rows;
    a->indices = wn_scene_output(scene, WN_I32, 2, (int64_t[]){s->rows, s->k});
    scene->turn = turn_rows;
    scene->fresh = fresh;
    scene->bytes = 4 * (double)(s->rows * s->n);
}

/* Minima and maxima of `landmark` tokens each, in the pages of the cache. */
static wn_landmark_view landmarks(wn_bench_scene *scene, int64_t pages, uint32_t dtype)
{
    const wn_bench_shape *s = &scene->shape;
    int64_t per_page = (s->page + s->landmark - 1) / s->landmark;
    wn_landmark_view view = {.dtype = dtype, .landmark_size = (uint32_t)s->landmark};
    view.max_offset = s->head_dim;
    view.landmark_stride = 2 * s->head_dim;
    view.head_stride = per_page * view.landmark_stride;
    view.page_stride = s->kv_heads * view.head_stride;
    view.data = wn_scene_take(scene, pages * view.page_stride * wn_dtype_bytes(dtype));
    wn_scene_fill(scene, view.data, dtype, pages * view.page_stride);
    return view;
}

void wn_scene_landmark_update(wn_bench_scene *scene)
{
    const wn_bench_shape *s = &scene->shape;
    wn_landmark_update_args *a = &scene->args.landmark_update;
    int64_t pages = (s->length + s->page - 1) / s->page;
    int64_t tokens = s->tokens > 0 && s->tokens < s->length ? s->tokens : s->length;
    *a = (wn_landmark_update_args){.struct_size = WN_SIZEOF(wn_landmark_update_args)};
    a->kv = wn_scene_cache(scene, s->kv_heads, s->head_dim, s->head_dim);
    a->begin = wn_scene_constants(scene, s->batch, (int32_t)(s->length - tokens));
    a->landmarks = landmarks(scene, s->batch * pages, WN_F8_E5M2);
    double numbers = (double)(s->batch * tokens * s->kv_heads * s->head_dim);
    scene->bytes = numbers * (wn_dtype_bytes(s->dtype) + 2.0 / (double)s->landmark);
}

void wn_scene_landmark_scores(wn_bench_scene *scene)
{
    const wn_bench_shape *s = &scene->shape;
    wn_landmark_scores_args *a = &scene->args.landmark_scores;
    int64_t pages = (s->length + s->page - 1) / s->page;
    int64_t count = (s->length + s->landmark - 1) / s->landmark;
    *a = (wn_landmark_scores_args){.struct_size = WN_SIZEOF(wn_landmark_scores_args)};
    a->q = wn_scene_tensor(scene, WN_BF16, 3, (int64_t[]){s->batch, s->heads, s->head_dim});
    int32_t *row = wn_scene_constants(scene, s->batch, 0);
    for (int64_t b = 0; b < s->batch && row != NULL; b++)
        row[b] = (int32_t)b;
    a->q_row = row;
    a->landmarks = landmarks(scene, s->batch * pages, s->dtype);
    a->page_table = wn_scene_page_table(scene, s->batch, pages);
    a->page_table_stride = pages;
    a->count = wn_scene_constants(scene, s->batch, (int32_t)count);
    a->batch = (uint32_t)s->batch;
    a->num_kv_heads = (uint32_t)s->kv_heads;
    a->tokens_per_page = (uint32_t)s->page;
    a->topr = (uint32_t)s->topr;
    a->softmax_scale = 1 / sqrtf((float)s->head_dim);
    a->scores = wn_scene_output(scene, WN_F32, 3, (int64_t[]){s->batch, s->kv_heads, count});
    double channels = (double)(s->topr < s->head_dim ? s->topr : s->head_dim);
    double landmarks_read = (double)(s->batch * count);
    scene->bytes = landmarks_read * (double)s->kv_heads * channels * wn_dtype_bytes(s->dtype);
    scene->flops = 2 * landmarks_read * (double)s->heads * channels;
}
