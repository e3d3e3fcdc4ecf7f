/* landmark_scores.c: the reference of landmark_scores: how much a group of query heads may find
 * behind each landmark. Formula in the comment of wn_landmark_scores_args. Two passes over the
 * landmarks: each head's log-sum-exp, then the mean of the heads' probabilities. */
#include "kernels/landmark_element.h"
#include "kernels/operand_check.h"
#include "kernels/parallel.h"
#include "kernels/ref/double_row.h"
#include "kernels/ref/ref.h"
#include "kernels/refuse.h"

#include <stdbool.h>

/* Landmarks that are loaded at once; query heads of a group. */
enum { STRIP = 16, HEADS = 1024 };

/* One request and KV head. */
typedef struct group {
    const wn_landmark_scores_args *args;
    int64_t request, kv_head, heads, count;
    int64_t channels; /* how many count, and which */
    int32_t channel[WN_MAX_HEAD_DIM];
    bool maximum[WN_MAX_HEAD_DIM]; /* of those: is it the maximum that is compared? */
    double scale[HEADS];
    wn_ref_log_sum total[HEADS];
} group;

static double query(const group *g, int64_t head, int64_t channel)
{
    const wn_tensor *q = &g->args->q;
    return wn_load(q->data, q->dtype,
                   g->args->q_row[g->request] * q->stride[0] +
                       (g->kv_head * g->heads + head) * q->stride[1] + channel * q->stride[2]);
}

/* A channel counts if fewer than topr others come before it: greater, or equal and lower. */
static void choose_channels(group *g)
{
    int64_t dim = g->args->q.shape[2];
    double size[WN_MAX_HEAD_DIM], sum[WN_MAX_HEAD_DIM];
    for (int64_t c = 0; c < dim; c++) {
        size[c] = sum[c] = 0;
        for (int64_t h = 0; h < g->heads; h++) {
            size[c] += fabs(query(g, h, c));
            sum[c] += query(g, h, c);
        }
        if (isnan(size[c]))
            size[c] = -INFINITY;
    }
    for (int64_t c = 0; c < dim; c++) {
        int64_t before = 0;
        for (int64_t i = 0; i < dim; i++)
            before += size[i] > size[c] || (size[i] == size[c] && i < c);
        if (before >= g->args->topr)
            continue;
        g->channel[g->channels] = (int32_t)c;
        g->maximum[g->channels++] = sum[c] > 0;
    }
}

/* What a head's dot products are multiplied by. A head whose counted channels are all 0 scores 0
 * everywhere, whatever its scale. */
static double head_scale(const group *g, int64_t head)
{
    int64_t dim = g->args->q.shape[2];
    double counted = 0, all = 0;
    if (g->args->temperature == WN_TEMPERATURE_PLAIN)
        return g->args->softmax_scale;
    for (int64_t i = 0; i < g->channels; i++)
        counted += fabs(query(g, head, g->channel[i]));
    for (int64_t c = 0; c < dim; c++)
        all += fabs(query(g, head, c));
    return counted == 0 ? 1 : 1 / sqrt((double)dim * counted / all);
}

/* a_h of `count` landmarks from `first`. landmarks: their counted channels, one after another. */
static void head_scores(const group *g, int64_t head, const double *landmarks, int64_t count,
                        double *score)
{
    double row[WN_MAX_HEAD_DIM];
    for (int64_t i = 0; i < g->channels; i++)
        row[i] = query(g, head, g->channel[i]);
    for (int64_t l = 0; l < count; l++)
        score[l] = g->scale[head] * wn_ref_dot(row, landmarks + l * g->channels, g->channels);
}

static void load_landmark(const group *g, int64_t landmark, double *row)
{
    const wn_landmark_scores_args *a = g->args;
    const wn_landmark_view *view = &a->landmarks;
    int64_t start = wn_landmark_offset(view, a->page_table + g->request * a->page_table_stride,
                                       a->tokens_per_page, g->kv_head, landmark);
    for (int64_t i = 0; i < g->channels; i++)
        row[i] = wn_load(view->data, view->dtype,
                         start + g->channel[i] + (g->maximum[i] ? view->max_offset : 0));
}

/* Calls use() for each strip of landmarks. */
static void each_strip(group *g,
                       void (*use)(group *g, int64_t first, int64_t count, const double *landmarks))
{
    double landmarks[STRIP * WN_MAX_HEAD_DIM];
    for (int64_t first = 0; first < g->count; first += STRIP) {
        int64_t count = g->count - first < STRIP ? g->count - first : STRIP;
        for (int64_t l = 0; l < count; l++)
            load_landmark(g, first + l, landmarks + l * g->channels);
        use(g, first, count, landmarks);
    }
}

/* How many members of the softmax a landmark stands for: its tokens, or itself. */
static double members(const group *g, int64_t landmark)
{
    int64_t size = g->args->landmarks.landmark_size;
    if (g->args->length == NULL)
        return 1;
    int64_t left = g->args->length[g->request] - landmark * size;
    return (double)(left < size ? left : size);
}

static void add_to_totals(group *g, int64_t first, int64_t count, const double *landmarks)
{
    double score[STRIP];
    for (int64_t h = 0; h < g->heads; h++) {
        head_scores(g, h, landmarks, count, score);
        for (int64_t l = 0; l < count; l++)
            wn_ref_log_sum_add(&g->total[h], score[l] + log(members(g, first + l)));
    }
}

static void write_scores(group *g, int64_t first, int64_t count, const double *landmarks)
{
    const wn_tensor *out = &g->args->scores;
    double score[STRIP], sum[STRIP] = {0};
    for (int64_t h = 0; h < g->heads; h++) {
        double lse = wn_ref_log_sum_value(&g->total[h]);
        head_scores(g, h, landmarks, count, score);
        for (int64_t l = 0; l < count; l++)
            sum[l] += score[l] == -INFINITY ? 0 : exp(score[l] - lse);
    }
    for (int64_t l = 0; l < count; l++)
        wn_store(out->data, out->dtype,
                 g->request * out->stride[0] + g->kv_head * out->stride[1] +
                     (first + l) * out->stride[2],
                 sum[l] / (double)g->heads);
}

static void scores_body(void *argument, int64_t i)
{
    const wn_landmark_scores_args *a = argument;
    group g = {.args = a,
               .request = i / a->num_kv_heads,
               .kv_head = i % a->num_kv_heads,
               .heads = a->q.shape[1] / a->num_kv_heads};
    if (a->q_row[g.request] < 0)
        return;
    g.count = a->count[g.request];
    choose_channels(&g);
    for (int64_t h = 0; h < g.heads; h++) {
        g.total[h] = (wn_ref_log_sum){-INFINITY, 0};
        g.scale[h] = head_scale(&g, h);
    }
    each_strip(&g, add_to_totals);
    each_strip(&g, write_scores);
}

static wn_status check_shapes(const wn_landmark_scores_args *a, const char *op)
{
    wn_status status = wn_check_landmarks(a->error, op, &a->landmarks);
    if (status == WN_OK)
        status = wn_check_operand(a->error, op, "q", &a->q, 3, 1);
    if (status == WN_OK)
        status = wn_check_operand(a->error, op, "scores", &a->scores, 3, 0);
    if (status == WN_OK)
        status = wn_check_extent(a->error, op, "scores", &a->scores, 0, a->batch);
    if (status == WN_OK)
        status = wn_check_extent(a->error, op, "scores", &a->scores, 1, a->num_kv_heads);
    if (status != WN_OK)
        return status;
    if (a->tokens_per_page < 1 || a->num_kv_heads < 1 || a->q.shape[1] < 1 ||
        a->q.shape[1] % a->num_kv_heads != 0)
        return wn_fail(a->error, WN_EINVAL,
                       "%s: %lld query heads, %u KV heads, %u tokens per page: expected a multiple "
                       "of the second, >= 1, >= 1",
                       op, (long long)a->q.shape[1], a->num_kv_heads, a->tokens_per_page);
    if (a->q.shape[2] > WN_MAX_HEAD_DIM || a->q.shape[1] / a->num_kv_heads > HEADS)
        return wn_fail(a->error, WN_EUNSUPPORTED,
                       "%s: head_dim %lld and %lld query heads per KV head, at most %d and %d", op,
                       (long long)a->q.shape[2], (long long)(a->q.shape[1] / a->num_kv_heads),
                       WN_MAX_HEAD_DIM, HEADS);
    return WN_OK;
}

static wn_status check_request(const wn_landmark_scores_args *a, const char *op, uint32_t b)
{
    if (a->q_row[b] >= a->q.shape[0] || a->count[b] < 0 || a->count[b] > a->scores.shape[2])
        return wn_fail(
            a->error, WN_EINVAL,
            "%s: request %u asks with row %d of %lld about %d landmarks, scores has room "
            "for %lld",
            op, b, a->q_row[b], (long long)a->q.shape[0], a->count[b],
            (long long)a->scores.shape[2]);
    if (a->length != NULL && a->count[b] > 0 &&
        ((int64_t)a->count[b] - 1) * a->landmarks.landmark_size >= a->length[b])
        return wn_fail(a->error, WN_EINVAL,
                       "%s: request %u has %d landmarks of %u tokens, too many for its %d tokens",
                       op, b, a->count[b], a->landmarks.landmark_size, a->length[b]);
    return WN_OK;
}

static wn_status check(const wn_landmark_scores_args *a)
{
    const char *op = "landmark_scores";
    wn_status status = check_shapes(a, op);
    if (status == WN_OK && a->temperature > WN_TEMPERATURE_SPARQ)
        return wn_fail(a->error, WN_EINVAL, "%s: temperature is %u, expected %d or %d", op,
                       a->temperature, WN_TEMPERATURE_PLAIN, WN_TEMPERATURE_SPARQ);
    for (uint32_t b = 0; status == WN_OK && b < a->batch; b++)
        status = check_request(a, op, b);
    return status;
}

wn_status wn_refuse_landmark_scores(const wn_landmark_scores_args *args)
{
    WN_CHECK_STRUCT_SIZE(args, wn_landmark_scores_args);
    if (args->batch == 0)
        return WN_OK;
    return check(args);
}

wn_status wn_ref_landmark_scores(const wn_landmark_scores_args *args)
{
    wn_status status = wn_refuse_landmark_scores(args);
    if (status != WN_OK || args->batch == 0)
        return status;
    wn_for_each(args->executor, (int64_t)args->batch * args->num_kv_heads, scores_body,
                (void *)args);
    return WN_OK;
}
