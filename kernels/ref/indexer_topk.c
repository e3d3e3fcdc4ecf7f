/* indexer_topk.c: the reference of indexer_topk: scores of the keys that a query sees, and the best
 * of them, in one pass. Keys are decoded a strip at a time for some queries of one request; each
 * query keeps the best so far as a heap whose scores lie in the caller's workspace and whose
 * indices lie where the result goes, the worst at the root. */
#include "kernels/indexer_element.h"
#include "kernels/operand_check.h"
#include "kernels/parallel.h"
#include "kernels/ref/double_row.h"
#include "kernels/ref/ref.h"
#include "kernels/refuse.h"
#include "kernels/tensor_element.h"

#include <stdatomic.h>
#include <stdbool.h>

/* Keys decoded at once; queries that share them. */
enum { STRIP = 16, QUERIES = 16 };

/* ---------------------------------------------------------------- the best so far */

/* One query: a row of q, the slots [first, end) that it sees, and the heap. */
typedef struct query {
    int64_t row, first, end;
    float *score;   /* [k] contiguous */
    int32_t *index; /* [k] */
    int64_t stride; /* of index */
    int64_t k, count;
    int64_t nans;
} query;

static int32_t *index_at(const query *q, int64_t i)
{
    return &q->index[i * q->stride];
}

/* Is entry i worse than entry j: a lower score, or the same one at a higher index? */
static bool is_worse(const query *q, int64_t i, int64_t j)
{
    return q->score[i] < q->score[j] ||
           (q->score[i] == q->score[j] && *index_at(q, i) > *index_at(q, j));
}

static bool is_later(const query *q, int64_t i, int64_t j)
{
    return *index_at(q, i) > *index_at(q, j);
}

static void swap(query *q, int64_t i, int64_t j)
{
    float score = q->score[i];
    int32_t index = *index_at(q, i);
    q->score[i] = q->score[j];
    *index_at(q, i) = *index_at(q, j);
    q->score[j] = score;
    *index_at(q, j) = index;
}

/* Entry i of a heap of n goes down until no child of it is above it. */
static void sink(query *q, int64_t i, int64_t n, bool (*above)(const query *, int64_t, int64_t))
{
    for (int64_t child = 2 * i + 1; child < n; child = 2 * i + 1) {
        if (child + 1 < n && above(q, child + 1, child))
            child++;
        if (!above(q, child, i))
            return;
        swap(q, child, i);
        i = child;
    }
}

static void rise(query *q, int64_t i)
{
    for (int64_t parent = (i - 1) / 2; i > 0 && is_worse(q, i, parent); parent = (i - 1) / 2) {
        swap(q, i, parent);
        i = parent;
    }
}

/* Slots come in ascending order: on a tie the new one is the worse. */
static void offer(query *q, float score, int64_t slot)
{
    if (q->k == 0 || isnan(score) || score == -INFINITY)
        return;
    if (q->count == q->k && !(score > q->score[0]))
        return;
    int64_t place = q->count < q->k ? q->count++ : 0;
    q->score[place] = score;
    *index_at(q, place) = (int32_t)slot;
    if (place > 0)
        rise(q, place);
    else
        sink(q, 0, q->count, is_worse);
}

/* Heap sort by index; then the padding. */
static void finish(query *q)
{
    for (int64_t i = q->count / 2; i-- > 0;)
        sink(q, i, q->count, is_later);
    for (int64_t n = q->count - 1; n > 0; n--) {
        swap(q, 0, n);
        sink(q, 0, n, is_later);
    }
    for (int64_t i = q->count; i < q->k; i++)
        *index_at(q, i) = -1;
}

/* ---------------------------------------------------------------- scores */

/* keys[STRIP][dim]: the numbers that slots from `first` on hold, without their scale. */
static void load_strip(const wn_indexer_topk_args *a, int64_t request, int64_t first, int64_t count,
                       double *keys, double *scale)
{
    int64_t dim = a->keys.dim, tokens = a->keys.tokens_per_page;
    const int32_t *pages = a->page_table + request * a->page_table_stride;
    for (int64_t i = 0; i < count; i++) {
        int64_t page = pages[(first + i) / tokens], place = (first + i) % tokens;
        const float *stored = wn_indexer_scale(&a->keys, page, place);
        scale[i] = stored != NULL ? *stored : 1;
        for (int64_t d = 0; d < dim; d++)
            keys[i * dim + d] = wn_load(wn_indexer_codes(&a->keys, page, place), a->keys.dtype, d);
    }
}

static double head_weight(const wn_indexer_topk_args *a, int64_t row, int64_t head)
{
    double q_scale = a->q_scale != NULL ? a->q_scale[row * a->q.shape[1] + head] : 1;
    return wn_tensor_load(&a->weights, row, head, 0) * q_scale * a->weight_scale;
}

/* One head of the query, and the factor of its dot products. */
static double load_head(const wn_indexer_topk_args *a, int64_t row, int64_t head, double *vector)
{
    int64_t dim = a->keys.dim;
    float amax = 0;
    for (int64_t d = 0; d < dim; d++) {
        vector[d] = wn_tensor_load(&a->q, row, head, d);
        if (!isfinite(vector[d]))
            amax = NAN;
        else if (fabs(vector[d]) > amax) /* not if it is NaN */
            amax = (float)fabs(vector[d]);
    }
    if (a->keys.dtype != WN_I8)
        return head_weight(a, row, head);
    float scale = wn_indexer_query_scale(amax);
    for (int64_t d = 0; d < dim; d++)
        vector[d] = isnan(scale) ? 0 : wn_indexer_query_code((float)vector[d], scale);
    return head_weight(a, row, head) * scale;
}

/* Scores of one query with the keys of a strip. */
static void score_strip(const wn_indexer_topk_args *a, int64_t row, const double *keys,
                        const double *scale, int64_t count, float *score)
{
    int64_t dim = a->keys.dim;
    double vector[WN_MAX_HEAD_DIM], sum[STRIP] = {0};
    for (int64_t h = 0; h < a->q.shape[1]; h++) {
        double weight = load_head(a, row, h, vector);
        for (int64_t i = 0; i < count; i++) {
            double dot = wn_ref_dot(vector, keys + i * dim, dim);
            sum[i] += weight * (dot < 0 ? 0 : dot); /* NaN stays NaN */
        }
    }
    for (int64_t i = 0; i < count; i++)
        score[i] = (float)(scale[i] * sum[i]);
}

/* The slots of a strip that the query sees: score, offer, and store if asked. */
static void use_strip(const wn_indexer_topk_args *a, query *q, int64_t first, int64_t count,
                      const double *keys, const double *scale)
{
    float score[STRIP];
    int64_t begin = first > q->first ? first : q->first;
    int64_t end = first + count < q->end ? first + count : q->end;
    if (begin >= end)
        return;
    score_strip(a, q->row, keys + (begin - first) * a->keys.dim, scale + (begin - first),
                end - begin, score);
    for (int64_t slot = begin; slot < end; slot++) {
        q->nans += isnan(score[slot - begin]) != 0;
        offer(q, score[slot - begin], slot);
        if (a->scores.data != NULL)
            wn_tensor_store(&a->scores, q->row, slot, 0, score[slot - begin]);
    }
}

/* ---------------------------------------------------------------- one item */

/* Query token i of a request. */
static query make_query(const wn_indexer_topk_args *a, int64_t request, int64_t i)
{
    int64_t length = a->length[request], k = a->indices.shape[1];
    int64_t row = a->q_begin[request] + i;
    query q = {.row = row, .end = length - a->q_len[request] + i + 1, .k = k};
    if (a->first != NULL) {
        q.first = a->first[row] > 0 ? a->first[row] : 0;
        q.end = a->end[row] < q.end ? a->end[row] : q.end;
    }
    q.stride = a->indices.stride[1];
    if (k > 0) {
        q.index = (int32_t *)a->indices.data + row * a->indices.stride[0];
        q.score = a->workspace + row * k;
    }
    for (int64_t slot = 0; a->scores.data != NULL && slot < a->scores.shape[1]; slot++)
        wn_tensor_store(&a->scores, row, slot, 0, -INFINITY);
    return q;
}

static int64_t longest_run(const wn_indexer_topk_args *a)
{
    int64_t longest = 0;
    for (uint32_t b = 0; b < a->batch; b++)
        longest = a->q_len[b] > longest ? a->q_len[b] : longest;
    return longest;
}

static int64_t runs_per_request(const wn_indexer_topk_args *a)
{
    return (longest_run(a) + QUERIES - 1) / QUERIES;
}

/* Up to QUERIES consecutive queries of one request. */
static void topk_body(void *argument, int64_t item)
{
    const wn_indexer_topk_args *a = argument;
    int64_t request = item / runs_per_request(a), i = item % runs_per_request(a) * QUERIES;
    query queries[QUERIES];
    double keys[STRIP * WN_MAX_HEAD_DIM], scale[STRIP];
    int64_t count = 0, first = INT64_MAX, end = 0, nans = 0;
    for (; count < QUERIES && i + count < a->q_len[request]; count++) {
        query *q = &queries[count];
        *q = make_query(a, request, i + count);
        first = q->first < first ? q->first : first;
        end = q->end > end ? q->end : end;
    }
    for (; first < end; first += STRIP) {
        int64_t slots = end - first < STRIP ? end - first : STRIP;
        load_strip(a, request, first, slots, keys, scale);
        for (int64_t j = 0; j < count; j++)
            use_strip(a, &queries[j], first, slots, keys, scale);
    }
    for (int64_t j = 0; j < count; j++) {
        finish(&queries[j]);
        nans += queries[j].nans;
        if (a->count != NULL)
            a->count[queries[j].row] = (int32_t)queries[j].count;
    }
    if (a->nan_count != NULL && nans > 0)
        atomic_fetch_add_explicit((_Atomic int64_t *)a->nan_count, nans, memory_order_relaxed);
}

/* ---------------------------------------------------------------- validation */

static wn_status check_q(const wn_indexer_topk_args *a, const char *op)
{
    wn_tensor q = a->q;
    if (q.dtype == WN_F8_E4M3)
        q.dtype = WN_F32; /* the one dtype more that is taken here */
    wn_status status = wn_check_operand(a->error, op, "q", &q, 3, 1);
    if (status == WN_OK)
        status = wn_check_extent(a->error, op, "q", &q, 2, a->keys.dim);
    if (status == WN_OK)
        status = wn_check_operand(a->error, op, "weights", &a->weights, 2, 0);
    for (uint32_t i = 0; status == WN_OK && i < 2; i++)
        status = wn_check_extent(a->error, op, "weights", &a->weights, i, q.shape[i]);
    return status;
}

static wn_status check_outputs(const wn_indexer_topk_args *a, const char *op)
{
    int64_t rows = a->q.shape[0], k = a->indices.shape[1];
    if (a->indices.ndim != 2 || a->indices.dtype != WN_I32 || a->indices.shape[0] != rows ||
        k < 0 || (rows > 0 && k > 0 && a->indices.data == NULL))
        return wn_fail(a->error, WN_EINVAL, "%s: indices must be int32 [%lld rows, k]", op,
                       (long long)rows);
    if (rows > 0 && k > 0 && a->workspace == NULL)
        return wn_fail(a->error, WN_EINVAL, "%s: workspace must be %lld float32, rows times k", op,
                       (long long)(rows * k));
    if ((a->first == NULL) != (a->end == NULL))
        return wn_fail(a->error, WN_EINVAL, "%s: first and end belong together: both or neither",
                       op);
    if (a->scores.data == NULL)
        return WN_OK;
    wn_status status = wn_check_operand(a->error, op, "scores", &a->scores, 2, 0);
    return status == WN_OK ? wn_check_extent(a->error, op, "scores", &a->scores, 0, rows) : status;
}

static wn_status check_request(const wn_indexer_topk_args *a, const char *op, uint32_t b)
{
    int64_t begin = a->q_begin[b], len = a->q_len[b], length = a->length[b];
    int64_t tokens = a->keys.tokens_per_page, pages = (length + tokens - 1) / tokens;
    if (begin < 0 || len < 0 || (len > 0 && begin + len > a->q.shape[0]))
        return wn_fail(a->error, WN_EINVAL,
                       "%s: request %u has rows %lld .. %lld of q, expected some of 0 .. %lld", op,
                       b, (long long)begin, (long long)(begin + len - 1),
                       (long long)a->q.shape[0] - 1);
    if (length < 0 || (a->batch > 1 && pages > a->page_table_stride))
        return wn_fail(a->error, WN_EINVAL,
                       "%s: request %u has %lld keys, expected 0 .. %lld, what its row of the page "
                       "table holds",
                       op, b, (long long)length, (long long)(a->page_table_stride * tokens));
    if (a->scores.data != NULL && length > a->scores.shape[1])
        return wn_fail(a->error, WN_EINVAL, "%s: request %u has %lld keys, scores room for %lld",
                       op, b, (long long)length, (long long)a->scores.shape[1]);
    return WN_OK;
}

wn_status wn_refuse_indexer_topk(const wn_indexer_topk_args *args)
{
    const char *op = "indexer_topk";
    WN_CHECK_STRUCT_SIZE(args, wn_indexer_topk_args);
    if (args->batch == 0)
        return WN_OK;
    wn_status status = wn_check_indexer_view(args->error, op, &args->keys);
    if (status == WN_OK)
        status = check_q(args, op);
    if (status == WN_OK)
        status = check_outputs(args, op);
    for (uint32_t b = 0; status == WN_OK && b < args->batch; b++)
        status = check_request(args, op, b);
    return status;
}

wn_status wn_ref_indexer_topk(const wn_indexer_topk_args *args)
{
    wn_status status = wn_refuse_indexer_topk(args);
    if (status != WN_OK || args->batch == 0)
        return status;
    wn_for_each(args->executor, args->batch * runs_per_request(args), topk_body, (void *)args);
    return WN_OK;
}
