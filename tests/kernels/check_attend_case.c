/* check_attend_case.c: making cases of attention and their oracle. */
#include "attend_case.h"

static uint64_t *random_of(wn_attend_case *c)
{
    return &c->check->random;
}

static uint32_t below(wn_attend_case *c, uint32_t n)
{
    return wn_random_below(random_of(c), n);
}

static void *zeroed(size_t count, size_t size)
{
    void *memory = calloc(count + 1, size);
    if (memory == NULL)
        abort();
    return memory;
}

/* ---------------------------------------------------------------- making */

static const uint32_t activations[] = {WN_F32, WN_F16, WN_BF16};

/* Batches of 0, 1, 3 and 5, mostly short; head dims that matter. */
static void make_cache(wn_attend_case *c, bool long_ones, bool blocks)
{
    static const uint32_t dtypes[] = {WN_F32, WN_F16, WN_BF16, WN_F8_E4M3, WN_I8};
    static const uint32_t batches[] = {0, 1, 3, 3, 5, 5, 1};
    static const uint32_t dims[] = {1, 8, 40, 64, 72, 80, 96, 112, 128, 200, 256};
    static const int32_t edges[] = {0, 1024, 2048, 2048, 4096, 6144};
    int32_t length[WN_CASE_BATCH] = {0};
    wn_cache_shape shape = wn_check_cache_shape(c->check, dtypes[below(c, 5)], length, 90);
    bool records =
        shape.layout == WN_CHECK_MLA && shape.dtype == WN_F8_E4M3; /* large as they are */
    if (!records)
        shape.batch = long_ones || blocks ? 1 + below(c, 2) : batches[below(c, 7)];
    for (uint32_t b = 0; b < shape.batch; b++)
        length[b] = (int32_t)(below(c, 6) == 0 ? below(c, 3) : below(c, records ? 25 : 90));
    for (uint32_t b = 0; b < shape.batch && long_ones && !records; b++)
        length[b] = edges[below(c, 6)] + (int32_t)below(c, 3) - (b > 0);
    for (uint32_t b = 0; b < shape.batch && blocks && !records; b++)
        length[b] = (int32_t)(64 * below(c, 6) + below(c, 3)) - 1;
    for (uint32_t b = 0; b < shape.batch; b++)
        length[b] = length[b] < 0 ? 0 : length[b];
    if (below(c, 2) && shape.layout != WN_CHECK_VEC && !records)
        shape.k_dim = dims[below(c, long_ones || blocks ? 3 : 11)];
    if (below(c, 2) && !records)
        shape.v_dim = dims[below(c, long_ones || blocks ? 3 : 11)];
    if (shape.layout == WN_CHECK_MLA && shape.v_dim > shape.k_dim)
        shape.v_dim = shape.k_dim;
    shape.tensor_scale = shape.token_scales || below(c, 2) ? shape.tensor_scale : 0.25f;
    wn_check_cache_make(c->check, &shape, &c->cache);
    wn_attend_args *a = &c->args;
    a->kv = c->cache.kv;
    c->k_dim = shape.k_dim;
    c->v_dim = shape.v_dim;
    for (uint32_t b = 0; b < shape.batch; b++)
        c->longest = length[b] > c->longest ? length[b] : c->longest;
    double size = shape.kind == WN_DATA_LARGE ? 1e-6 : 1;
    a->softmax_scale = (float)(size * (0.5 + below(c, 3)) / sqrt(shape.k_dim));
}

static void make_requests(wn_attend_case *c, bool blocks)
{
    wn_attend_args *a = &c->args;
    uint32_t batch = a->kv.batch;
    int32_t *begin = wn_check_input(c->check, batch * sizeof *begin);
    int32_t *len = wn_check_input(c->check, batch * sizeof *len);
    bool forwards = below(c, 2); /* rows need not be in the requests' order */
    c->rows = below(c, 3);
    for (uint32_t k = 0; k < batch; k++) {
        uint32_t b = forwards ? k : batch - 1 - k;
        begin[b] = (int32_t)c->rows;
        len[b] = (int32_t)(below(c, 6) == 0 ? below(c, 2)
                                            : below(c, c->by_kv_head ? 5
                                                       : blocks      ? 130
                                                                     : 40));
        c->rows += len[b] + below(c, 3);
    }
    a->q_begin = begin;
    a->q_len = len;
    if (below(c, 2) == 0)
        return;
    int32_t *position = wn_check_input(c->check, (size_t)c->rows * sizeof *position);
    int32_t next = (int32_t)below(c, 100);
    for (int64_t r = 0; r < c->rows; r++)
        position[r] = next += 1 + (int32_t)below(c, 2);
    a->q_position = position;
}

/* [rows, heads, dim] with strides in any order and gaps; 0xff all over. */
static wn_tensor strided(wn_attend_case *c, uint32_t dtype, uint32_t ndim, int64_t dim, bool output,
                         int64_t *elements)
{
    wn_tensor t = {.dtype = dtype, .ndim = ndim, .device = WN_DEVICE_CPU};
    int64_t shape[3] = {c->rows, c->heads, dim}, stride = 1 + below(c, 2);
    static const int orders[4][3] = {{2, 1, 0}, {2, 1, 0}, {2, 0, 1}, {0, 2, 1}};
    const int *order = orders[below(c, 4)];
    for (int i = 0; i < 3; i++) {
        if (order[i] >= (int)ndim)
            continue;
        t.shape[order[i]] = shape[order[i]];
        t.stride[order[i]] = stride;
        stride = stride * shape[order[i]] + below(c, 3);
    }
    *elements = stride;
    size_t bytes = (size_t)stride * wn_check_bytes_of(dtype);
    t.data = output ? wn_check_output(c->check, bytes) : wn_check_input(c->check, bytes);
    return t;
}

static void make_tensors(wn_attend_case *c, bool blocks)
{
    static const uint32_t groups[] = {1, 3, 4, 5, 7, 8, 2, 6, 16};
    wn_attend_args *a = &c->args;
    uint32_t dtype = activations[below(c, 3)];
    int64_t elements;
    c->group = groups[below(c, blocks ? 3 : 9)];
    c->heads = c->group * a->kv.num_kv_heads;
    a->q = strided(c, dtype, 3, c->k_dim, false, &elements);
    uint64_t seed = wn_random(random_of(c));
    wn_data_kind kind = below(c, 4) ? WN_DATA_NOISE : WN_DATA_FLAT;
    for (uint32_t b = 0; b < a->kv.batch; b++)
        for (int64_t r = a->q_begin[b]; r < a->q_begin[b] + a->q_len[b]; r++)
            for (int64_t h = 0; h < c->heads; h++)
                for (int64_t d = 0; d < c->k_dim; d++)
                    wn_check_store(a->q.data, dtype,
                                   r * a->q.stride[0] + h * a->q.stride[1] + d * a->q.stride[2],
                                   wn_data_value(kind, seed, r * c->heads + h, d));
    a->out = strided(c, below(c, 4) ? dtype : WN_F32, 3, c->v_dim, true, &c->out_elements);
    if (below(c, 4))
        a->lse = strided(c, WN_F32, 2, 1, true, &elements);
}

static float *per_head(wn_attend_case *c, double size)
{
    float *values = wn_check_input(c->check, (size_t)c->heads * sizeof *values);
    for (int64_t h = 0; h < c->heads; h++)
        values[h] = (float)(size * wn_random_signed(random_of(c)));
    return values;
}

static void make_transforms(wn_attend_case *c)
{
    wn_attend_args *a = &c->args;
    a->causal = below(c, 4) != 0;
    a->window = below(c, 3) ? 0 : (int32_t)(1 + below(c, 60));
    a->token_sinks = below(c, 2) ? 0 : (int32_t)below(c, 8);
    a->soft_cap = below(c, 3) ? 0 : 0.5f + (float)below(c, 5);
    if (below(c, 3) == 0)
        a->alibi_slopes = per_head(c, 0.3);
    if (below(c, 3) == 0)
        a->sinks = per_head(c, 3);
}

/* One list: ascending blocks, some of them invalid. */
static int64_t make_list(wn_attend_case *c, int32_t *list, int64_t most, int64_t blocks)
{
    uint32_t density = 1 + below(c, 4), count = 0;
    if (below(c, 8) == 0)
        return 0;
    for (int64_t block = 0; block < blocks + 2 && count < most; block++)
        if (below(c, 4) < density)
            list[count++] = (int32_t)block; /* the last two are outside */
    return count;
}

static void make_selection(wn_attend_case *c)
{
    static const uint32_t sizes[] = {1, 2, 3, 4, 8, 16}, query_blocks[] = {1, 2, 5, 16, 64, 1000};
    wn_attend_args *a = &c->args;
    wn_selection *s = &c->selection;
    bool csr = below(c, 2), shared = below(c, 2);
    *s = (wn_selection){.struct_size = WN_SIZEOF(wn_selection),
                        .block_size = sizes[below(c, 6)],
                        .index_space = WN_INDEX_PHYSICAL,
                        .flags = WN_SELECTION_SORTED,
                        .query_block = query_blocks[below(c, 6)]};
    int32_t *row = wn_check_input(c->check, a->kv.batch * sizeof *row);
    s->rows = below(c, 2);
    for (uint32_t b = 0; b < a->kv.batch; b++) {
        row[b] = (int32_t)s->rows;
        s->rows += ((uint32_t)a->q_len[b] + s->query_block - 1) / s->query_block;
    }
    int64_t blocks = c->longest / s->block_size + 1, most = blocks + 2;
    int64_t lists = shared ? 1 : a->kv.num_kv_heads;
    s->head_stride = shared ? 0 : s->rows * most;
    s->width = csr ? 0 : most;
    s->capacity = lists * s->rows * most;
    s->indices = wn_check_input(c->check, (size_t)s->capacity * sizeof *s->indices);
    if (csr) {
        s->offsets_capacity = s->rows + 1;
        s->offsets = wn_check_input(c->check, (size_t)(s->rows + 1) * sizeof *s->offsets);
        s->offsets[0] = 0;
    }
    for (int64_t r = 0; r < s->rows; r++) {
        int32_t start = csr ? s->offsets[r] : (int32_t)(r * most), count = 0;
        for (int64_t l = 0; l < lists; l++) {
            int64_t n = make_list(c, s->indices + l * s->head_stride + start,
                                  csr && l > 0 ? count : most, blocks);
            if (l == 0)
                count = (int32_t)n;
        }
        if (csr)
            s->offsets[r + 1] = start + count;
    }
    a->selection = s;
    a->selection_row = row;
    a->granularity = below(c, 2);
}

/* As SKIP_SOFTMAX with the threshold that context points to. */
static int32_t vote(void *context, const wn_tile_stats *stats)
{
    const double *threshold = context;
    for (uint32_t i = 0; i < stats->rows; i++)
        if (!(stats->tile_max[i] - stats->running_max[i] < *threshold))
            return 0;
    return 1;
}

static void make_policy(wn_attend_case *c)
{
    static const uint32_t tiles_q[] = {0, 1, 3, 16, 64}, tiles_k[] = {0, 1, 2, 7, 16, 64, 256};
    static double threshold;
    wn_tile_policy *p = &c->policy;
    *p = (wn_tile_policy){.struct_size = WN_SIZEOF(wn_tile_policy),
                          .kind = WN_TILE_SKIP_SOFTMAX + below(c, 2),
                          .tile_q = tiles_q[below(c, 5)],
                          .tile_k = tiles_k[below(c, 7)]};
    if (c->by_kv_head && p->kind == WN_TILE_SKIP_SOFTMAX)
        p->flags = below(c, 2) * WN_TILE_TWO_PASS;
    threshold = -0.05 - 0.5 * below(c, 4);
    p->log_threshold = wn_check_input(c->check, c->args.kv.batch * sizeof *p->log_threshold);
    for (uint32_t b = 0; b < c->args.kv.batch; b++)
        p->log_threshold[b] = (float)(-0.05 - 0.5 * below(c, 4));
    p->context = &threshold;
    p->vote = vote;
    c->args.tile = p;
}

/* ---------------------------------------------------------------- the oracle */

/* The numbers of one request and KV head. */
typedef struct head_data {
    double *k, *v;     /* [length][dim] */
    int64_t *position; /* [length] */
    int64_t *ordinal;  /* [length] place among the keys attended to; -1: not selected */
} head_data;

static head_data head_data_of(wn_attend_case *c, int64_t b, int64_t g)
{
    const wn_paged_kv *kv = &c->args.kv;
    int64_t length = kv->length[b];
    head_data x = {zeroed((size_t)(length * c->k_dim), sizeof(double)),
                   zeroed((size_t)(length * c->v_dim), sizeof(double)),
                   zeroed((size_t)length, sizeof(int64_t)),
                   zeroed((size_t)length, sizeof(int64_t))};
    for (int64_t j = 0; j < length; j++) {
        for (int64_t d = 0; d < c->k_dim; d++)
            x.k[j * c->k_dim + d] = wn_check_k(kv, b, g, j, d);
        for (int64_t d = 0; d < c->v_dim; d++)
            x.v[j * c->v_dim + d] = wn_check_v(kv, b, g, j, d);
        x.position[j] = wn_check_position(kv, b, g, j);
    }
    return x;
}

static void free_head_data(head_data *x)
{
    free(x->k);
    free(x->v);
    free(x->position);
    free(x->ordinal);
}

/* Is slot j in the list of this row? */
static bool is_selected(const wn_attend_case *c, int64_t b, int64_t g, int64_t row, int64_t j)
{
    const wn_attend_args *a = &c->args;
    const wn_selection *s = a->selection;
    if (s == NULL)
        return true;
    int64_t size = s->block_size, page = a->kv.tokens_per_page;
    int64_t begin = s->offsets != NULL ? s->offsets[row] : row * s->width;
    int64_t end = s->offsets != NULL ? s->offsets[row + 1] : begin + s->width;
    for (int64_t e = begin; e < end; e++) {
        int64_t block = s->indices[g * s->head_stride + e];
        if (block < 0 || block * size >= a->kv.length[b])
            continue;
        int64_t last = (block + 1) * size - 1;
        if (last >= a->kv.length[b])
            last = a->kv.length[b] - 1;
        if (a->granularity == WN_GRANULARITY_EXACT
                ? j >= block * size && j <= last
                : j / page >= block * size / page && j / page <= last / page)
            return true;
    }
    return false;
}

static int64_t query_position(const wn_attend_case *c, int64_t b, int64_t i)
{
    const wn_attend_args *a = &c->args;
    if (a->q_position != NULL)
        return a->q_position[a->q_begin[b] + i];
    return i + a->kv.length[b] - a->q_len[b];
}

/* Mask and window, not the selection. */
static bool is_allowed(const wn_attend_case *c, const head_data *x, int64_t b, int64_t i, int64_t j)
{
    const wn_attend_args *a = &c->args;
    if (a->causal && j > i + a->kv.length[b] - a->q_len[b])
        return false;
    return a->window == 0 || x->position[j] > query_position(c, b, i) - a->window ||
           x->position[j] < a->token_sinks;
}

static double score_of(const wn_attend_case *c, const head_data *x, int64_t b, int64_t i, int64_t h,
                       int64_t j)
{
    const wn_attend_args *a = &c->args;
    double s = 0;
    for (int64_t d = 0; d < c->k_dim; d++)
        s += wn_check_at(&a->q, a->q_begin[b] + i, h, d, 0) * x->k[j * c->k_dim + d];
    s *= (double)a->softmax_scale;
    if (a->alibi_slopes != NULL)
        s += (double)a->alibi_slopes[h] * (double)(x->position[j] - query_position(c, b, i));
    return a->soft_cap > 0 ? a->soft_cap * tanh(s / a->soft_cap) : s;
}

/* How far a score may be off that is summed in floats: the dot product's partial sums of every
 * eighth channel and the folds of those, in units of the last place of the sum of magnitudes; the
 * roundings of ALiBi's term, of the soft cap and of the score itself in base 2. */
static double score_error(const wn_attend_case *c, const head_data *x, int64_t b, int64_t i,
                          int64_t h, int64_t j, double score)
{
    double sum = 0, error = 0x1p-22 * fabs(score) + 0x1p-22 * (double)c->args.soft_cap;
    for (int64_t d = 0; d < c->k_dim; d++)
        sum +=
            fabs(wn_check_at(&c->args.q, c->args.q_begin[b] + i, h, d, 0) * x->k[j * c->k_dim + d]);
    error += ((double)c->k_dim / 8 + 8) * 0x1p-24 * sum * fabs((double)c->args.softmax_scale);
    if (c->args.alibi_slopes != NULL)
        error += 0x1p-22 * fabs((double)c->args.alibi_slopes[h] *
                                (double)(x->position[j] - query_position(c, b, i)));
    return error;
}

/* Queries that vote together: tokens [first, end), heads [head, head + heads). */
typedef struct unit {
    int64_t b, g, first, end, head, heads, voting_head, length;
    double *score; /* [rows][length], NaN: not seen */
    double *error; /* [rows][length] of the scores */
    double greatest_error;
    bool *kept; /* [length] no vote left it out */
} unit;

static bool is_two_pass(const wn_attend_case *c)
{
    return c->args.tile != NULL && (c->policy.flags & WN_TILE_TWO_PASS);
}

/* Greatest of a row over the slots of a tile, -inf if it sees none; and over those that it is
 * compared with: the kept ones before it, or all. */
static double tile_greatest(const wn_attend_case *c, const head_data *x, const unit *u, int64_t r,
                            int64_t tile, bool others)
{
    int64_t tile_k = c->args.tile != NULL && c->policy.tile_k > 0 ? c->policy.tile_k : 64;
    double top = -INFINITY;
    for (int64_t j = 0; j < u->length; j++) {
        int64_t t = x->ordinal[j] / tile_k;
        bool other = is_two_pass(c) || (t < tile && u->kept[j]);
        if (x->ordinal[j] >= 0 && (others ? other : t == tile))
            top = fmax(top, u->score[r * u->length + j]); /* fmax passes over NaN */
    }
    return top;
}

static bool tile_is_dropped(wn_attend_case *c, const head_data *x, const unit *u, int64_t tile)
{
    if (c->args.tile == NULL || c->policy.kind == WN_TILE_NONE)
        return false;
    double threshold = c->policy.kind == WN_TILE_VOTE ? *(double *)c->policy.context
                                                      : c->policy.log_threshold[u->b];
    bool agreed = true;
    for (int64_t r = 0; r < (u->end - u->first) * u->heads; r++) {
        double top = tile_greatest(c, x, u, r, tile, false);
        if (top == -INFINITY)
            continue;
        double gap = top - fmax(top, tile_greatest(c, x, u, r, tile, true));
        c->ambiguous |= fabs(gap - threshold) < 1e-3 + 2 * u->greatest_error;
        agreed = agreed && gap < threshold;
    }
    return agreed;
}

static void vote_on_tiles(wn_attend_case *c, const head_data *x, unit *u)
{
    int64_t tile_k = c->args.tile != NULL && c->policy.tile_k > 0 ? c->policy.tile_k : 64;
    int64_t rows = (u->end - u->first) * u->heads, seen_tiles = 0;
    for (int64_t tile = 0; tile * tile_k < u->length; tile++) {
        int64_t keys = 0;
        for (int64_t j = 0; j < u->length; j++) {
            bool seen = false;
            for (int64_t r = 0; r < rows; r++)
                seen |= !isnan(u->score[r * u->length + j]);
            keys += seen && x->ordinal[j] / tile_k == tile;
        }
        if (keys == 0)
            continue;
        bool dropped = (seen_tiles++ > 0 || is_two_pass(c)) && tile_is_dropped(c, x, u, tile);
        for (int64_t j = 0; j < u->length; j++)
            if (dropped && x->ordinal[j] >= 0 && x->ordinal[j] / tile_k == tile)
                u->kept[j] = false;
        wn_attend_counters *n = &c->counters[u->voting_head];
        n->tiles_seen++;
        n->tiles_skipped += dropped;
        n->keys_read += keys;
        n->values_read += dropped ? 0 : keys;
    }
}

/* With scores s_j + e_j, |e_j| <= error_j, in place of s_j, weights w_j become w_j e^(e_j) / sum of
 * w_i e^(e_i): the output moves by sum w_j (e^(e_j) - 1) (v_j - out) / sum w_i e^(e_i), to which a
 * sink adds a value of 0 without error. The sum of w_j v_j is one of floats too: n roundings add up
 * like a random walk, in units of the last place of the sum of magnitudes; a weight has a few more
 * of its own. Where outputs are bfloat16 a variant may round weights to it and divide by the sum of
 * the rounded ones, which is one more factor of 1 +- 2^-8 on each of them; the LSE knows nothing of
 * it. */
static void expect_errors(wn_attend_case *c, const head_data *x, const unit *u, int64_t r,
                          double lse)
{
    int64_t row = c->args.q_begin[u->b] + u->first + r / u->heads, h = u->head + r % u->heads;
    const double *out = c->out + (row * c->heads + h) * c->v_dim;
    double *error = c->out_error + (row * c->heads + h) * c->v_dim, low = 0, high = 0, seen = 0;
    double rounding = (8 + 2 * sqrt((double)u->length)) * 0x1p-24;
    double half_unit = c->args.out.dtype == WN_BF16 ? 0x1p-8 : 0;
    for (int64_t j = 0; j < u->length; j++) {
        double score = u->score[r * u->length + j], e = u->error[r * u->length + j];
        if (!u->kept[j] || isnan(score))
            continue;
        double weight = exp(score - lse), more = fmin(expm1(e), 1e30);
        seen += weight;
        low += weight * exp(-e);
        high += weight * more;
        for (int64_t d = 0; d < c->v_dim; d++)
            error[d] += weight * (more + half_unit * exp(fmin(e, 30))) *
                            fabs(x->v[j * c->v_dim + d] - out[d]) +
                        weight * rounding * fabs(x->v[j * c->v_dim + d]);
    }
    low += fmax(1 - seen, 0); /* the sink */
    for (int64_t d = 0; d < c->v_dim; d++)
        error[d] /= low * (1 - half_unit);
    c->lse_error[row * c->heads + h] = fmax(-log(low), log1p(high));
}

static void expect_row(wn_attend_case *c, const head_data *x, const unit *u, int64_t r)
{
    int64_t i = u->first + r / u->heads, h = u->head + r % u->heads;
    int64_t row = c->args.q_begin[u->b] + i;
    double *out = c->out + (row * c->heads + h) * c->v_dim, top = -INFINITY, sum = 0;
    const double *score = u->score + r * u->length;
    c->used[row] = true;
    c->lse[row * c->heads + h] = -INFINITY;
    memset(out, 0, (size_t)c->v_dim * sizeof *out);
    for (int64_t j = 0; j < u->length; j++)
        if (u->kept[j] && score[j] > top)
            top = score[j];
    if (top == -INFINITY)
        return;
    if (c->args.sinks != NULL) {
        top = fmax(top, c->args.sinks[h]);
        sum = exp(c->args.sinks[h] - top);
    }
    for (int64_t j = 0; j < u->length; j++)
        sum += u->kept[j] && !isnan(score[j]) ? exp(score[j] - top) : 0;
    for (int64_t j = 0; j < u->length; j++)
        for (int64_t d = 0; d < c->v_dim && u->kept[j] && !isnan(score[j]); d++)
            out[d] += exp(score[j] - top) / sum * x->v[j * c->v_dim + d];
    c->lse[row * c->heads + h] = top + log(sum);
    expect_errors(c, x, u, r, top + log(sum));
}

static void expect_unit(wn_attend_case *c, const head_data *x, unit *u)
{
    int64_t rows = (u->end - u->first) * u->heads;
    int64_t slots = (u->b * c->args.kv.num_kv_heads + u->g) * c->longest;
    u->score = zeroed((size_t)(rows * u->length), sizeof *u->score);
    u->error = zeroed((size_t)(rows * u->length), sizeof *u->error);
    u->kept = zeroed((size_t)u->length, sizeof *u->kept);
    for (int64_t j = 0; j < u->length; j++)
        u->kept[j] = true;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < u->length; j++) {
            int64_t i = u->first + r / u->heads;
            bool seen = x->ordinal[j] >= 0 && is_allowed(c, x, u->b, i, j);
            c->k_needed[slots + j] |= seen;
            double *score = &u->score[r * u->length + j];
            *score = seen ? score_of(c, x, u->b, i, u->head + r % u->heads, j) : NAN;
            double *error = &u->error[r * u->length + j];
            if (seen)
                *error = score_error(c, x, u->b, i, u->head + r % u->heads, j, *score);
            u->greatest_error = fmax(u->greatest_error, *error);
        }
    vote_on_tiles(c, x, u);
    for (int64_t r = 0; r < rows; r++) {
        expect_row(c, x, u, r);
        for (int64_t j = 0; j < u->length; j++)
            c->v_needed[slots + j] |= u->kept[j] && !isnan(u->score[r * u->length + j]);
    }
    free(u->score);
    free(u->error);
    free(u->kept);
}

/* All units of a run of tokens that share a selection row. */
static void expect_run(wn_attend_case *c, head_data *x, int64_t b, int64_t g, int64_t first,
                       int64_t end)
{
    const wn_selection *s = c->args.selection;
    int64_t tile_q = c->args.tile != NULL && c->policy.tile_q > 0 ? c->policy.tile_q : 64;
    int64_t row = s != NULL ? c->args.selection_row[b] + first / s->query_block : 0, ordinal = 0;
    for (int64_t j = 0; j < c->args.kv.length[b]; j++)
        x->ordinal[j] = is_selected(c, b, g, row, j) ? ordinal++ : -1;
    unit u = {.b = b, .g = g, .length = c->args.kv.length[b]};
    if (c->by_kv_head) {
        u.first = first, u.end = end, u.head = g * c->group, u.heads = c->group, u.voting_head = g;
        expect_unit(c, x, &u);
        return;
    }
    for (int64_t h = g * c->group; h < (g + 1) * c->group; h++)
        for (int64_t i = first; i < end; i += tile_q) {
            u.first = i, u.end = i + tile_q < end ? i + tile_q : end;
            u.head = u.voting_head = h, u.heads = 1;
            expect_unit(c, x, &u);
        }
}

static void expect(wn_attend_case *c)
{
    const wn_attend_args *a = &c->args;
    size_t slots = (size_t)(a->kv.batch * a->kv.num_kv_heads * c->longest);
    c->out = zeroed((size_t)(c->rows * c->heads * c->v_dim), sizeof *c->out);
    c->lse = zeroed((size_t)(c->rows * c->heads), sizeof *c->lse);
    c->out_error = zeroed((size_t)(c->rows * c->heads * c->v_dim), sizeof *c->out_error);
    c->lse_error = zeroed((size_t)(c->rows * c->heads), sizeof *c->lse_error);
    c->used = zeroed((size_t)c->rows, sizeof *c->used);
    c->counters = zeroed((size_t)c->heads, sizeof *c->counters);
    c->k_needed = zeroed(slots, sizeof *c->k_needed);
    c->v_needed = zeroed(slots, sizeof *c->v_needed);
    for (int64_t b = 0; b < a->kv.batch; b++)
        for (int64_t g = 0; g < a->kv.num_kv_heads; g++) {
            head_data x = head_data_of(c, b, g);
            int64_t n = a->q_len[b], run = a->selection != NULL ? a->selection->query_block : n;
            for (int64_t first = 0; first < n; first += run)
                expect_run(c, &x, b, g, first, first + run < n ? first + run : n);
            free_head_data(&x);
        }
}

/* NaN where the op has no business. int8 has no NaN: there the scale is NaN, if there is one. */
void wn_attend_case_poison(wn_attend_case *c)
{
    const wn_paged_kv *kv = &c->args.kv;
    for (int64_t b = 0; b < kv->batch && !c->ambiguous; b++)
        for (int64_t g = 0; g < kv->num_kv_heads; g++)
            for (int64_t j = 0; j < kv->length[b]; j++)
                for (int which = 0; which < (wn_check_is_mla(kv) ? 1 : 2); which++) {
                    const wn_kv_view *view = which == 0 ? &kv->k : &kv->v;
                    const bool *needed = which == 0 ? c->k_needed : c->v_needed;
                    int64_t page =
                        kv->page_table[b * kv->page_table_stride + j / kv->tokens_per_page];
                    int64_t place = j % kv->tokens_per_page;
                    if (needed[(b * kv->num_kv_heads + g) * c->longest + j])
                        continue;
                    if (view->scale != NULL)
                        view->scale[wn_check_scale_element(view, page, g, place)] = NAN;
                    wn_check_poison_codes(view, kv->tokens_per_page, page, g, place);
                }
}

void wn_attend_case_make(wn_check *check, wn_attend_case *c, bool by_kv_head, uint32_t wanted)
{
    memset(c, 0, sizeof *c);
    c->check = check;
    c->by_kv_head = by_kv_head;
    c->args.struct_size = WN_SIZEOF(wn_attend_args);
    bool blocks = wanted & WN_CASE_BLOCKS;
    make_cache(c, wanted & WN_CASE_LONG, blocks);
    make_requests(c, blocks);
    make_tensors(c, blocks);
    c->args.causal = 1;
    if (!(wanted & WN_CASE_PLAIN))
        make_transforms(c);
    if (wanted & WN_CASE_SELECTION)
        make_selection(c);
    if (wanted & WN_CASE_POLICY)
        make_policy(c);
    if (wanted & WN_CASE_COUNTERS) {
        c->args.counters = wn_check_output(check, (size_t)c->heads * sizeof *c->args.counters);
        memset(c->args.counters, 0, (size_t)c->heads * sizeof *c->args.counters);
    }
    expect(c);
}

void wn_attend_case_free(wn_attend_case *c)
{
    free(c->out);
    free(c->lse);
    free(c->out_error);
    free(c->lse_error);
    free(c->used);
    free(c->counters);
    free(c->k_needed);
    free(c->v_needed);
}

/* ---------------------------------------------------------------- comparing */

static void compare_gaps(wn_attend_case *c)
{
    const wn_tensor *t = &c->args.out;
    bool *written = zeroed((size_t)c->out_elements, sizeof *written);
    size_t bytes = wn_check_bytes_of(t->dtype);
    for (int64_t r = 0; r < c->rows; r++)
        for (int64_t h = 0; h < c->heads && c->used[r]; h++)
            for (int64_t d = 0; d < c->v_dim; d++)
                written[r * t->stride[0] + h * t->stride[1] + d * t->stride[2]] = true;
    for (int64_t e = 0; e < c->out_elements; e++)
        if (!written[e] && !wn_check_untouched(c->check, "a gap of out",
                                               (const char *)t->data + (size_t)e * bytes, bytes))
            break;
    free(written);
}

static void compare_counters(wn_attend_case *c)
{
    const wn_attend_counters *n = c->args.counters, *e = c->counters;
    int64_t heads = c->by_kv_head ? c->args.kv.num_kv_heads : c->heads;
    for (int64_t h = 0; n != NULL && h < heads; h++) {
        wn_check_equal(c->check, "tiles_seen", h, n[h].tiles_seen, e[h].tiles_seen);
        wn_check_equal(c->check, "tiles_skipped", h, n[h].tiles_skipped, e[h].tiles_skipped);
        wn_check_equal(c->check, "keys_read", h, n[h].keys_read, e[h].keys_read);
        wn_check_equal(c->check, "values_read", h, n[h].values_read, e[h].values_read);
    }
}

void wn_attend_case_compare(wn_attend_case *c)
{
    const wn_attend_args *a = &c->args;
    compare_gaps(c);
    if (c->ambiguous)
        return;
    compare_counters(c);
    for (int64_t r = 0; r < c->rows; r++)
        for (int64_t h = 0; h < c->heads && c->used[r]; h++) {
            int64_t at = r * c->heads + h;
            for (int64_t d = 0; d < c->v_dim; d++)
                if (!wn_check_near(c->check, "out", at * c->v_dim + d,
                                   wn_check_at(&a->out, r, h, d, 0), c->out[at * c->v_dim + d],
                                   a->out.dtype, c->out_error[at * c->v_dim + d]))
                    return;
            if (a->lse.data != NULL)
                wn_check_near(c->check, "lse", at, wn_check_at(&a->lse, r, h, 0, 0), c->lse[at],
                              WN_F32, c->lse_error[at]);
        }
}

bool wn_attend_case_dropped(wn_attend_case *c, int64_t b, int64_t i, int64_t h, double *mass,
                            double *mean)
{
    const wn_selection *s = c->args.selection;
    int64_t g = h / c->group, row = c->args.selection_row[b] + i / s->query_block;
    head_data x = head_data_of(c, b, g);
    double top = -INFINITY, sum = 0;
    *mass = 0;
    for (int64_t d = 0; d < c->v_dim; d++)
        mean[d] = 0;
    for (int64_t j = 0; j < c->args.kv.length[b]; j++)
        if (is_allowed(c, &x, b, i, j))
            top = fmax(top, score_of(c, &x, b, i, h, j));
    for (int64_t j = 0; j < c->args.kv.length[b]; j++) {
        if (!is_allowed(c, &x, b, i, j))
            continue;
        double weight = exp(score_of(c, &x, b, i, h, j) - top);
        bool dropped = !is_selected(c, b, g, row, j);
        sum += weight;
        *mass += dropped ? weight : 0;
        for (int64_t d = 0; d < c->v_dim; d++)
            mean[d] += dropped ? weight * x.v[j * c->v_dim + d] : 0;
    }
    for (int64_t d = 0; d < c->v_dim; d++)
        mean[d] = *mass > 0 ? mean[d] / *mass : 0;
    *mass /= sum;
    free_head_data(&x);
    return sum > 0;
}
