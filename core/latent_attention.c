/* latent_attention.c: attention of a multi-head latent layer, to selected tokens or to all, by
 * ops->mla. Three things lie between its args and those of the attend ops:
 *
 * Rows. mla works on all rows of the q that it is given, while a phase's rows may have the other
 * phase's between them. So it is called once for each run of rows that follow each other in q and
 * whose lists follow each other at a fixed distance in the selection: as a rule the whole phase.
 * Queries that share a list are a run with distance 0; CSR lists of varying lengths are shorter
 * runs. Without a selection there are no lists, and causality is each row's limit.
 *
 * Sinks. mla leaves them out of its LSE, which then merges with others'; they are added here.
 *
 * Counters. mla has none. */
#include "core/latent_attention.h"

#include "winnow/winnow.h"

#include <math.h>
#include <stdatomic.h>

typedef struct run {
    const wn_attend_args *args;
    const wn_ops *ops;
    const wn_latent_rows *rows;
    int64_t first_row, num_rows; /* of q */
    int64_t begin, distance;     /* of the lists, in entries of the selection */
    uint32_t width;              /* the longest list */
} run;

int wn_latent_attention_takes(const wn_attend_args *a)
{
    const int listed = a->selection == NULL ||
                       (a->selection->block_size == 1 && a->granularity == WN_GRANULARITY_EXACT);
    return listed && a->causal == 1 && a->tile == NULL && a->window == 0 && a->soft_cap == 0 &&
           a->alibi_slopes == NULL;
}

/* Rows of the run alone; "no tensor" stays none. */
static wn_tensor rows_of(const wn_tensor *tensor, const run *r)
{
    wn_tensor part = *tensor;
    if (part.data == NULL)
        return part;
    part.data = (uint8_t *)part.data + r->first_row * part.stride[0] * wn_dtype_bytes(part.dtype);
    part.shape[0] = r->num_rows;
    return part;
}

/* lse [rows, heads] := log(e^lse + e^sink); a row without keys keeps -inf. */
static void add_sinks(const wn_tensor *lse, const float *sinks)
{
    for (int64_t row = 0; row < lse->shape[0]; row++)
        for (int64_t h = 0; h < lse->shape[1]; h++) {
            float *at = (float *)lse->data + row * lse->stride[0] + h * lse->stride[1];
            double sum = *at, sink = sinks[h], greatest = sum > sink ? sum : sink;
            if (sum != -INFINITY)
                *at = (float)(greatest + log1p(exp(-fabs(sum - sink))));
        }
}

static wn_status attend_run(const run *r)
{
    const wn_attend_args *a = r->args;
    wn_mla_args m = {.struct_size = WN_SIZEOF(wn_mla_args),
                     .executor = a->executor,
                     .stream = a->stream,
                     .error = a->error,
                     .q = rows_of(&a->q, r),
                     .row_request = r->rows->request,
                     .v_dim = a->kv.v.dim,
                     .num_scopes = 1,
                     .sinks = a->sinks,
                     .softmax_scale = a->softmax_scale,
                     .out = rows_of(&a->out, r),
                     .lse = rows_of(&a->lse, r),
                     .workspace = a->workspace,
                     .workspace_bytes = a->workspace_bytes};
    m.scope[0] = (wn_mla_scope){.k = a->kv.k,
                                .page_table = a->kv.page_table,
                                .page_table_stride = a->kv.page_table_stride,
                                .limit = r->rows->limit,
                                .tokens_per_page = a->kv.tokens_per_page};
    if (a->selection != NULL) {
        m.scope[0].indices = a->selection->indices + r->begin;
        m.scope[0].indices_stride = r->distance;
        m.scope[0].count = r->rows->count;
        m.scope[0].width = r->width;
    }
    if (r->num_rows == 0)
        return WN_OK;
    wn_status status = r->ops->mla(&m);
    if (status == WN_OK && a->sinks != NULL && a->lse.data != NULL)
        add_sinks(&m.lse, a->sinks);
    return status;
}

/* Takes a row into the run; 0 if it does not continue it. */
static int join(run *r, int64_t row, int64_t begin, int64_t count)
{
    if (r->num_rows == 0) {
        r->first_row = row;
        r->begin = begin;
        r->distance = 0;
        r->width = 0;
    } else if (r->num_rows == 1) {
        r->distance = begin - r->begin;
    }
    if (row != r->first_row + r->num_rows || begin != r->begin + r->num_rows * r->distance)
        return 0;
    r->width = count > r->width ? (uint32_t)count : r->width;
    r->rows->count[r->num_rows++] = (int32_t)count;
    return 1;
}

/* Where the list of query i of request b begins, and how long it is; 0, 0 without a selection. */
static int64_t list_of(const wn_attend_args *a, uint32_t b, int32_t i, int64_t *count)
{
    const wn_selection *s = a->selection;
    *count = 0;
    if (s == NULL)
        return 0;
    int64_t list = a->selection_row[b] + i / (int64_t)s->query_block;
    int64_t begin = s->offsets != NULL ? s->offsets[list] : list * s->width;
    *count = s->offsets != NULL ? s->offsets[list + 1] - begin : s->width;
    return begin;
}

wn_status wn_latent_attention(const wn_attend_args *a, const wn_ops *ops,
                              const wn_latent_rows *rows)
{
    run r = {.args = a, .ops = ops, .rows = rows};
    for (uint32_t b = 0; b < a->kv.batch; b++)
        for (int32_t i = 0; i < a->q_len[b]; i++) {
            int64_t count, begin = list_of(a, b, i, &count);
            if (!join(&r, a->q_begin[b] + i, begin, count)) {
                wn_status status = attend_run(&r);
                if (status != WN_OK)
                    return status;
                r.num_rows = 0;
                join(&r, a->q_begin[b] + i, begin, count);
            }
            rows->request[r.num_rows - 1] = (int32_t)b;
            rows->limit[r.num_rows - 1] = a->kv.length[b] - a->q_len[b] + i + 1;
        }
    return attend_run(&r);
}

/* ---------------------------------------------------------------- counters */

static void add(const wn_attend_args *a, int64_t counters, int64_t keys, int64_t tiles)
{
    for (int64_t h = 0; h < counters; h++) {
        wn_attend_counters *at = &a->counters[h];
        atomic_fetch_add_explicit((_Atomic int64_t *)&at->keys_read, keys, memory_order_relaxed);
        atomic_fetch_add_explicit((_Atomic int64_t *)&at->values_read, keys, memory_order_relaxed);
        atomic_fetch_add_explicit((_Atomic int64_t *)&at->tiles_seen, tiles, memory_order_relaxed);
    }
}

void wn_latent_count_selected(const wn_attend_args *a, uint64_t keys)
{
    add(a, 1, (int64_t)keys, 0);
}

void wn_latent_count_dense(const wn_attend_args *a, uint32_t phase)
{
    enum { TILE = 64 };
    const int context = phase == WN_PHASE_CONTEXT;
    int64_t keys = 0, tiles = 0;
    for (uint32_t b = 0; b < a->kv.batch; b++) {
        const int64_t n = a->q_len[b], step = context ? TILE : n;
        for (int64_t first = 0; first < n; first += step) {
            const int64_t end = first + step < n ? first + step : n;
            const int64_t seen = a->kv.length[b] - n + end;
            keys += seen;
            tiles += (seen + TILE - 1) / TILE;
        }
    }
    add(a, context ? a->q.shape[1] : 1, keys, tiles);
}
