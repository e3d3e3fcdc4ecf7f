/* window_scores.c: the reference of window_scores: how much the last queries of a prompt attend to
 * each key before them. Formula in the comment of wn_window_scores_args. Two passes over the keys:
 * the first finds each query's log-sum-exp, the second sums the probabilities per key. */
#include "kernels/operand_check.h"
#include "kernels/parallel.h"
#include "kernels/ref/double_row.h"
#include "kernels/ref/ref.h"
#include "kernels/refuse.h"

/* Keys that are loaded at once: 64 KiB of doubles. */
enum { STRIP = 64, NUMBERS = 8192 };

/* One request and KV head; row r of it is window query r / group, head r % group of the group. */
typedef struct window {
    const wn_window_scores_args *args;
    int64_t request, kv_head, group, rows;
    int64_t length, before; /* keys in all, keys before the window */
    wn_ref_log_sum total[WN_MAX_WINDOW_ROWS];
} window;

/* Row r's scores for `count` loaded keys. */
static void row_scores(const window *w, int64_t r, const double *keys, int64_t count, double *score)
{
    const wn_tensor *q = &w->args->q;
    int64_t dim = w->args->kv.k.dim, head = w->kv_head * w->group + r % w->group;
    double row[WN_MAX_HEAD_DIM];
    wn_ref_load_strided(
        q, w->request * q->stride[0] + r / w->group * q->stride[1] + head * q->stride[2],
        q->stride[3], dim, row);
    for (int64_t j = 0; j < count; j++)
        score[j] = w->args->softmax_scale * wn_ref_dot(row, keys + j * dim, dim);
}

/* Calls use() for each row and strip of keys in slots [0, end). */
static void each_strip(window *w, int64_t end,
                       void (*use)(window *w, int64_t first, int64_t count, const double *keys))
{
    const wn_paged_kv *kv = &w->args->kv;
    double keys[NUMBERS];
    int64_t most = NUMBERS / kv->k.dim < STRIP ? NUMBERS / kv->k.dim : STRIP;
    for (int64_t first = 0; first < end; first += most) {
        int64_t count = end - first < most ? end - first : most;
        for (int64_t j = 0; j < count; j++)
            wn_ref_load_slot(kv, &kv->k, w->request, w->kv_head, first + j, keys + j * kv->k.dim);
        use(w, first, count, keys);
    }
}

static void add_to_totals(window *w, int64_t first, int64_t count, const double *keys)
{
    double score[STRIP];
    for (int64_t r = 0; r < w->rows; r++) {
        int64_t last =
            w->args->normalise == WN_SCORES_FULL ? w->before + r / w->group : w->before - 1;
        row_scores(w, r, keys, count, score);
        for (int64_t j = 0; j < count && first + j <= last; j++)
            wn_ref_log_sum_add(&w->total[r], score[j]);
    }
}

static void write_scores(window *w, int64_t first, int64_t count, const double *keys)
{
    const wn_tensor *out = &w->args->scores;
    double score[STRIP], sum[STRIP] = {0};
    for (int64_t r = 0; r < w->rows; r++) {
        double lse = wn_ref_log_sum_value(&w->total[r]);
        row_scores(w, r, keys, count, score);
        for (int64_t j = 0; j < count; j++)
            sum[j] += score[j] == -INFINITY ? 0 : exp(score[j] - lse);
    }
    for (int64_t j = 0; j < count; j++)
        wn_store(out->data, out->dtype,
                 w->request * out->stride[0] + w->kv_head * out->stride[1] +
                     (first + j) * out->stride[2],
                 sum[j]);
}

static void window_body(void *argument, int64_t i)
{
    const wn_window_scores_args *a = argument;
    window w = {.args = a,
                .request = i / a->kv.num_kv_heads,
                .kv_head = i % a->kv.num_kv_heads,
                .group = a->q.shape[2] / a->kv.num_kv_heads};
    w.rows = a->q.shape[1] * w.group;
    w.length = a->kv.length[w.request];
    w.before = w.length > a->q.shape[1] ? w.length - a->q.shape[1] : 0;
    if (w.before == 0)
        return;
    for (int64_t r = 0; r < w.rows; r++)
        w.total[r] = (wn_ref_log_sum){-INFINITY, 0};
    each_strip(&w, a->normalise == WN_SCORES_FULL ? w.length : w.before, add_to_totals);
    each_strip(&w, w.before, write_scores);
}

static wn_status check(const wn_window_scores_args *a)
{
    const char *op = "window_scores";
    wn_error *e = a->error;
    wn_status status = wn_check_paged(e, op, &a->kv, WN_OPERAND_K);
    if (status == WN_OK)
        status = wn_check_operand(e, op, "q", &a->q, 4, 1);
    if (status == WN_OK)
        status = wn_check_operand(e, op, "scores", &a->scores, 3, 0);
    if (status == WN_OK)
        status = wn_check_extent(e, op, "q", &a->q, 0, a->kv.batch);
    if (status == WN_OK)
        status = wn_check_extent(e, op, "q", &a->q, 3, a->kv.k.dim);
    if (status == WN_OK)
        status = wn_check_extent(e, op, "scores", &a->scores, 0, a->kv.batch);
    if (status == WN_OK)
        status = wn_check_extent(e, op, "scores", &a->scores, 1, a->kv.num_kv_heads);
    if (status != WN_OK)
        return status;
    int64_t kv_heads = a->kv.num_kv_heads, heads = a->q.shape[2];
    if (heads < 1 || heads % kv_heads != 0 || a->normalise > WN_SCORES_FULL)
        return wn_fail(e, WN_EINVAL,
                       "%s: %lld query heads (expected a multiple of %lld), normalise %u (expected "
                       "0 or 1)",
                       op, (long long)heads, (long long)kv_heads, a->normalise);
    if (a->q.shape[1] * (heads / kv_heads) > WN_MAX_WINDOW_ROWS)
        return wn_fail(e, WN_EUNSUPPORTED,
                       "%s: %lld queries of %lld heads per KV head, at most %d rows: choose a "
                       "smaller window",
                       op, (long long)a->q.shape[1], (long long)(heads / kv_heads),
                       WN_MAX_WINDOW_ROWS);
    for (uint32_t b = 0; b < a->kv.batch; b++)
        if (a->kv.length[b] - a->q.shape[1] > a->scores.shape[2])
            return wn_fail(e, WN_EINVAL,
                           "%s: request %u has %lld keys before the window, scores has room for "
                           "%lld",
                           op, b, (long long)(a->kv.length[b] - a->q.shape[1]),
                           (long long)a->scores.shape[2]);
    return WN_OK;
}

wn_status wn_refuse_window_scores(const wn_window_scores_args *args)
{
    WN_CHECK_STRUCT_SIZE(args, wn_window_scores_args);
    if (args->kv.batch == 0)
        return WN_OK;
    return check(args);
}

wn_status wn_ref_window_scores(const wn_window_scores_args *args)
{
    wn_status status = wn_refuse_window_scores(args);
    if (status != WN_OK || args->kv.batch == 0)
        return status;
    wn_for_each(args->executor, (int64_t)args->kv.batch * args->kv.num_kv_heads, window_body,
                (void *)args);
    return WN_OK;
}
