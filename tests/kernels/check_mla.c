/* check_mla.c: checks of mla. The oracle lists a row's keys in the order of the arguments and takes
 * one softmax over them in doubles, from the formulas of wn_mla_args. Every slot that no row may
 * read is NaN. Shapes and edges are those that FlashMLA's tests go through, in modest sizes. */
#include "check.h"

#include <limits.h>

enum { MAX_ROWS = 8, MAX_WIDTH = 130, MAX_BATCH = 4, MAX_KEYS = 3000 };

/* A score is a sum of products in float32, some hundred of them one after another. Its error is
 * within this of the sum of their magnitudes: half a unit in the last place for each of the
 * additions that its greatest partial sums meet, which for random signs are few. */
#define ROUNDING 0x1p-21

/* A key that a row reads: scope, request, slot. */
typedef struct key {
    uint32_t scope;
    int32_t request, slot;
} key;

typedef struct mla_case {
    wn_check *check;
    wn_mla_args args;
    wn_check_cache cache[2];
    int64_t rows, heads, dim;
    bool v_is_k;                /* the cache has no values of its own, for context */
    int64_t num_keys[MAX_ROWS]; /* in order, duplicates included */
    key keys[MAX_ROWS][MAX_KEYS];
} mla_case;

static uint32_t below(mla_case *c, uint32_t n)
{
    return wn_random_below(&c->check->random, n);
}

/* ---------------------------------------------------------------- making */

/* A tensor with gaps after the heads and after the channels. Outputs are 0xff, gaps included. */
static wn_tensor with_gaps(mla_case *c, uint32_t dtype, int64_t dim, bool output)
{
    int64_t shape[3] = {c->rows, c->heads + below(c, 2), dim + 8 * below(c, 2)};
    wn_tensor t = output ? wn_check_tensor_out(c->check, dtype, 3, shape)
                         : wn_check_tensor(c->check, dtype, WN_DATA_NOISE, 3, shape);
    t.shape[1] = c->heads;
    t.shape[2] = dim;
    return t;
}

/* [rows, heads], stored in either order. */
static wn_tensor statistic(mla_case *c)
{
    int64_t shape[2] = {c->rows, c->heads}, turned[2] = {c->heads, c->rows};
    if (below(c, 2))
        return wn_check_tensor_out(c->check, WN_F32, 2, shape);
    wn_tensor t = wn_check_tensor_out(c->check, WN_F32, 2, turned);
    t.shape[0] = c->rows, t.shape[1] = c->heads;
    t.stride[0] = 1, t.stride[1] = c->rows;
    return t;
}

/* A pool of this dtype with requests of these lengths; F8_E4M3 of 576 channels: records. Else now
 * and then one with a scale per token, or in vectors: MLA knows no other layouts of its own, so
 * those are made as keys of a cache that has values too, which nobody reads. */
static void make_cache_of(mla_case *c, uint32_t s, uint32_t dtype, uint32_t batch,
                          const int32_t *length)
{
    static const uint32_t pages[] = {1, 2, 3, 7, 53, 61, 64, 69};
    wn_cache_shape shape = {.batch = batch,
                            .num_kv_heads = 1,
                            .k_dim = (uint32_t)c->dim,
                            .v_dim = c->args.v_dim,
                            .tokens_per_page = pages[below(c, 8)],
                            .dtype = dtype,
                            .layout = WN_CHECK_MLA,
                            .kind = (wn_data_kind)below(c, WN_DATA_EQUAL + 1),
                            .length = length};
    bool coded = dtype == WN_I8 || dtype == WN_F8_E4M3;
    if (coded && c->dim != 576) {
        shape.layout = WN_CHECK_HND;
        shape.token_scales = below(c, 2);
    } else if (dtype != WN_F8_E4M3 && c->dim % 8 == 0 && !c->v_is_k && below(c, 6) == 0) {
        shape.layout = WN_CHECK_VEC;
        shape.vec_x = 8;
        shape.tokens_per_page = 8 * (1 + below(c, 3));
        shape.token_scales = coded;
    }
    wn_check_cache_make(c->check, &shape, &c->cache[s]);
    wn_mla_scope *scope = &c->args.scope[s];
    scope->k = c->cache[s].kv.k;
    scope->tokens_per_page = shape.tokens_per_page;
    scope->page_table = c->cache[s].kv.page_table;
    scope->page_table_stride = c->cache[s].kv.page_table_stride;
}

static void make_cache(mla_case *c, uint32_t s, uint32_t dtype, uint32_t batch, int32_t max_length)
{
    int32_t length[MAX_BATCH];
    for (uint32_t b = 0; b < batch; b++)
        length[b] = below(c, 6) ? (int32_t)below(c, (uint32_t)max_length + 1) : 0;
    make_cache_of(c, s, dtype, batch, length);
}

static int64_t pool_slot(const wn_paged_kv *kv, int64_t request, int64_t slot)
{
    int64_t page = kv->page_table[request * kv->page_table_stride + slot / kv->tokens_per_page];
    return page * kv->tokens_per_page + slot % kv->tokens_per_page;
}

/* An index that is none for a row, now and then just beyond its limit. */
static int32_t invalid_index(mla_case *c, int32_t limit)
{
    const int32_t values[] = {INT_MIN, -123456, -1, limit, INT_MAX};
    return values[below(c, 5)];
}

static void remember(mla_case *c, int64_t row, uint32_t s, int64_t request, int64_t slot)
{
    c->keys[row][c->num_keys[row]++] = (key){s, (int32_t)request, (int32_t)slot};
}

/* One entry of a list: the slot of a key, a slot from the limit on, an index that is none. */
static int32_t draw_entry(mla_case *c, uint32_t s, int64_t row, int64_t request, bool is_meant)
{
    wn_mla_scope *scope = &c->args.scope[s];
    const wn_paged_kv *kv = &c->cache[s].kv;
    int32_t limit = scope->limit[row];
    int32_t slot = kv->length[request] > 0 ? (int32_t)below(c, (uint32_t)kv->length[request]) : -1;
    if (slot < 0 || below(c, 5) == 0)
        return invalid_index(c, limit);
    if (scope->page_table == NULL) {
        if (is_meant)
            remember(c, row, s, request, slot);
        return (int32_t)pool_slot(kv, request, slot);
    }
    if (is_meant && slot < limit)
        remember(c, row, s, request, slot);
    return slot;
}

/* The row's limit and list; width 0: dense. */
static void draw_list(mla_case *c, uint32_t s, int64_t row, bool pool_slots, bool is_empty)
{
    wn_mla_scope *scope = &c->args.scope[s];
    const wn_paged_kv *kv = &c->cache[s].kv;
    int64_t request = c->args.row_request != NULL ? c->args.row_request[row] : row;
    int32_t *limit = (int32_t *)scope->limit + row, *count = (int32_t *)scope->count;
    *limit = pool_slots    ? (int32_t)(c->cache[s].num_pages * kv->tokens_per_page)
             : below(c, 3) ? kv->length[request]
                           : (int32_t)below(c, (uint32_t)kv->length[request] + 1);
    if (is_empty && scope->indices == NULL)
        *limit = 0;
    for (int32_t j = 0; scope->indices == NULL && j < *limit; j++)
        remember(c, row, s, request, j);
    if (scope->indices == NULL)
        return;
    if (count != NULL)
        count[row] = (int32_t)below(c, scope->width + 1);
    int32_t *list = (int32_t *)scope->indices + row * scope->indices_stride;
    int64_t meant = count != NULL ? count[row] : (int32_t)scope->width;
    for (int64_t i = 0; i < scope->width; i++)
        list[i] = is_empty && i < meant ? invalid_index(c, *limit)
                                        : draw_entry(c, s, row, request, i < meant);
}

static void make_scope(mla_case *c, uint32_t s, bool dense)
{
    static const uint32_t widths[] = {0, 1, 7, 63, 64, 65, 130};
    wn_mla_scope *scope = &c->args.scope[s];
    bool pool_slots = !dense && below(c, 2);
    scope->limit = wn_check_ints(c->check, (size_t)c->rows);
    if (!dense) {
        scope->width = widths[below(c, c->heads > 16 ? 3 : 7)];
        scope->indices_stride = scope->width + below(c, 3);
        scope->indices = wn_check_ints(c->check, (size_t)(c->rows * scope->indices_stride));
        if (below(c, 2))
            scope->count = wn_check_ints(c->check, (size_t)c->rows);
    }
    if (pool_slots) {
        scope->page_table = NULL;
        scope->page_table_stride = 0;
    }
    for (int64_t r = 0; r < c->rows; r++)
        draw_list(c, s, r, pool_slots, below(c, 5) == 0);
}

/* NaN in all slots that no row reads. */
static void poison(mla_case *c)
{
    for (uint32_t s = 0; s < c->args.num_scopes; s++) {
        const wn_paged_kv *kv = &c->cache[s].kv;
        for (int32_t b = 0; b < (int32_t)kv->batch; b++)
            for (int32_t j = 0; j < kv->length[b]; j++) {
                bool read = false;
                for (int64_t r = 0; r < c->rows; r++)
                    for (int64_t i = 0; i < c->num_keys[r] && !read; i++) {
                        const key *k = &c->keys[r][i];
                        read = k->scope == s && k->request == b && k->slot == j;
                    }
                int64_t at = pool_slot(kv, b, j);
                if (!read)
                    wn_check_poison_codes(&kv->k, kv->tokens_per_page, at / kv->tokens_per_page, 0,
                                          at % kv->tokens_per_page);
            }
    }
}

static void make_sinks(mla_case *c)
{
    float *sinks = wn_check_input(c->check, (size_t)c->heads * sizeof *sinks);
    const float values[] = {-INFINITY, INFINITY, 0, 0.25f, -3, 2};
    for (int64_t h = 0; h < c->heads; h++)
        sinks[h] = values[below(c, 6)];
    c->args.sinks = sinks;
}

static void make_case(wn_check *check, mla_case *c, uint32_t heads, uint32_t dtype, bool dense)
{
    static const uint32_t activations[] = {WN_F32, WN_F16, WN_BF16};
    static const int64_t dims[] = {1, 17, 40, 64, 72, 80, 96, 112, 256, 576};
    memset(c, 0, sizeof *c);
    c->check = check;
    c->rows = below(c, MAX_ROWS + 1);
    c->heads = heads;
    c->dim = dtype == WN_F8_E4M3 && below(c, 2) ? 576 : dims[below(c, 10)];
    uint32_t batch = 1 + below(c, MAX_BATCH), q_dtype = activations[below(c, 3)];
    int32_t *request = wn_check_ints(check, (size_t)c->rows);
    for (int64_t r = 0; r < c->rows; r++)
        request[r] = (int32_t)below(c, batch);
    c->args = (wn_mla_args){.struct_size = WN_SIZEOF(wn_mla_args),
                            .v_dim = c->dim == 576 ? 512 : 1 + below(c, (uint32_t)c->dim),
                            .row_request = request,
                            .num_scopes = 1 + below(c, 2),
                            .softmax_scale = (float)(3 / sqrt((double)c->dim))};
    if (c->rows <= batch && below(c, 2))
        c->args.row_request = NULL;
    for (uint32_t s = 0; s < c->args.num_scopes; s++) {
        make_cache(c, s, dtype, batch, heads > 16 ? 12 : 100);
        make_scope(c, s, dense || below(c, 4) == 0);
    }
    poison(c);
    c->args.q = with_gaps(c, q_dtype, c->dim, false);
    c->args.out = with_gaps(c, below(c, 2) ? q_dtype : WN_F32, c->args.v_dim, true);
    if (below(c, 4))
        c->args.lse = statistic(c);
    if (below(c, 4))
        c->args.max_logits = statistic(c);
    if (below(c, 2))
        make_sinks(c);
    snprintf(check->text, sizeof check->text,
             "%lld rows of %u heads, dims %lld/%u, dtype %u, %u scopes, pages %u %u, width %u %u%s",
             (long long)c->rows, heads, (long long)c->dim, c->args.v_dim, dtype, c->args.num_scopes,
             c->args.scope[0].tokens_per_page, c->args.scope[1].tokens_per_page,
             c->args.scope[0].width, c->args.scope[1].width, c->args.sinks ? ", sinks" : "");
}

/* ---------------------------------------------------------------- the oracle */

/* All keys of a row, [keys][dim]. To be freed. */
static double *keys_of(const mla_case *c, int64_t row)
{
    double *keys = malloc((size_t)(c->num_keys[row] * c->dim + 1) * sizeof *keys);
    if (keys == NULL)
        abort();
    for (int64_t i = 0; i < c->num_keys[row]; i++) {
        const key *k = &c->keys[row][i];
        for (int64_t d = 0; d < c->dim; d++)
            keys[i * c->dim + d] = wn_check_k(&c->cache[k->scope].kv, k->request, 0, k->slot, d);
    }
    return keys;
}

/* weight[d]: sum of softmax * |v_d|, what rounding of the weights and of the sums over them is
 * relative to. slack: how far a score may be off in float32, see below. */
typedef struct expected {
    double out[WN_MAX_HEAD_DIM], weight[WN_MAX_HEAD_DIM], lse, max, slack;
} expected;

static void expect(const mla_case *c, int64_t row, int64_t head, const double *keys, expected *e)
{
    const wn_mla_args *a = &c->args;
    double score[MAX_KEYS], sum = 0, size;
    e->max = -INFINITY;
    e->slack = 0;
    for (int64_t i = 0; i < c->num_keys[row]; i++) {
        double terms = 0;
        score[i] = 0;
        for (int64_t d = 0; d < c->dim; d++) {
            double term = wn_check_at(&a->q, row, head, d, 0) * keys[i * c->dim + d];
            score[i] += term;
            terms += fabs(term);
        }
        score[i] *= (double)a->softmax_scale;
        e->max = fmax(e->max, score[i]);
        e->slack = fmax(e->slack, ROUNDING * terms * fabs((double)a->softmax_scale));
    }
    for (int64_t i = 0; i < c->num_keys[row]; i++)
        sum += score[i] == -INFINITY ? 0 : exp(score[i] - e->max);
    e->max = isnan(sum) ? (double)NAN : e->max;
    e->lse = sum == 0 ? -INFINITY : e->max + log(sum);
    size = a->sinks == NULL ? 1 : 1 / (1 + exp(a->sinks[head] - e->lse)); /* what the sink leaves */
    for (int64_t d = 0; d < a->v_dim; d++) {
        e->out[d] = e->weight[d] = 0;
        for (int64_t i = 0; i < c->num_keys[row]; i++) {
            if (score[i] == -INFINITY)
                continue;
            double weight = size * exp(score[i] - e->lse);
            e->out[d] += weight * keys[i * c->dim + d];
            e->weight[d] += weight * fabs(keys[i * c->dim + d]);
        }
    }
}

/* Within the table's tolerance, or within what float32 allows here. */
static bool close_within(const mla_case *c, const char *name, int64_t index, double actual,
                         double wanted, uint32_t dtype, double allowed)
{
    return fabs(actual - wanted) <= allowed ||
           wn_check_close(c->check, name, index, actual, wanted, dtype);
}

/* How far out[d] may be off: each weight by its score's slack, twice because the sum of all is off
 * too, and by its rounding, which for outputs in bfloat16 may be to bfloat16. */
static double allowed_for(const expected *e, int64_t d, uint32_t dtype)
{
    return e->weight[d] * (expm1(2 * e->slack) + (dtype == WN_BF16 ? 0x1p-7 : 0x1p-18));
}

/* dtype: whose tolerance counts for out. */
static void compare(const mla_case *c, uint32_t dtype)
{
    const wn_mla_args *a = &c->args;
    for (int64_t r = 0; r < c->rows; r++) {
        double *keys = keys_of(c, r);
        for (int64_t h = 0; h < c->heads; h++) {
            expected e;
            int64_t at = r * c->heads + h;
            expect(c, r, h, keys, &e);
            for (int64_t d = 0; d < a->v_dim; d++)
                if (!close_within(c, "out", at * a->v_dim + d, wn_check_at(&a->out, r, h, d, 0),
                                  e.out[d], dtype, allowed_for(&e, d, dtype)))
                    break;
            if (a->lse.data != NULL)
                close_within(c, "lse", at, wn_check_at(&a->lse, r, h, 0, 0), e.lse, WN_F32,
                             e.slack);
            if (a->max_logits.data != NULL)
                close_within(c, "max_logits", at, wn_check_at(&a->max_logits, r, h, 0, 0), e.max,
                             WN_F32, e.slack);
            const char *gap = (const char *)a->out.data +
                              (size_t)(r * a->out.stride[0] + h * a->out.stride[1] + a->v_dim) *
                                  wn_check_bytes_of(a->out.dtype);
            wn_check_untouched(c->check, "a gap of out", gap,
                               (size_t)(a->out.stride[1] - a->v_dim) *
                                   wn_check_bytes_of(a->out.dtype));
        }
        free(keys);
    }
}

static const uint32_t head_counts[] = {1, 8, 16, 64, 128, 3, 5, 7, 17, 40};
static const uint32_t dtypes[] = {WN_F8_E4M3, WN_BF16, WN_F32, WN_I8, WN_F16};

static void random_cases(wn_check *check, int count)
{
    for (int i = 0; i < count; i++) {
        mla_case c;
        wn_check_case(check, "random, number %d", i);
        make_case(check, &c, head_counts[i % 10], dtypes[i / 5 % 5], i % 6 == 0);
        WN_CHECK_RUN(check, mla, c.args);
        compare(&c, c.args.out.dtype);
    }
}

/* Scores in the tens of thousands: no overflow, and the greatest takes all. */
static void large_logits(wn_check *check, int count)
{
    for (int i = 0; i < count; i++) {
        mla_case c;
        wn_check_case(check, "large logits, number %d", i);
        make_case(check, &c, 8, dtypes[i % 5], false);
        c.args.softmax_scale *= i % 2 ? 3e4f : -3e4f;
        WN_CHECK_RUN(check, mla, c.args);
        compare(&c, c.args.out.dtype);
    }
}

/* A dense case of given lengths, a row each, whose lists would be all slots. */
static void make_dense(wn_check *check, mla_case *c, uint32_t dtype, int64_t heads, int64_t dim,
                       uint32_t v_dim, uint32_t rows, const int32_t *length)
{
    static const uint32_t activations[] = {WN_F32, WN_F16, WN_BF16};
    memset(c, 0, sizeof *c);
    c->check = check;
    c->rows = rows;
    c->heads = heads;
    c->dim = dim;
    c->args = (wn_mla_args){.struct_size = WN_SIZEOF(wn_mla_args),
                            .v_dim = v_dim,
                            .num_scopes = 1,
                            .softmax_scale = (float)(3 / sqrt((double)dim))};
    make_cache_of(c, 0, dtype, rows, length);
    make_scope(c, 0, true);
    int32_t *limit = (int32_t *)c->args.scope[0].limit;
    for (uint32_t r = 0; r < rows; r++) { /* all of each request */
        limit[r] = length[r];
        c->num_keys[r] = 0;
        for (int32_t j = 0; j < length[r]; j++)
            remember(c, r, 0, r, j);
    }
    uint32_t q_dtype = activations[below(c, 3)];
    c->args.q = with_gaps(c, q_dtype, dim, false);
    c->args.out = with_gaps(c, below(c, 2) ? q_dtype : WN_F32, v_dim, true);
    c->args.lse = statistic(c);
    c->args.max_logits = statistic(c);
}

/* Lengths around the edges of blocks and parts of keys, with room for all parts, for those of one
 * row, for none: always the same bits. */
static void long_rows(wn_check *check)
{
    static const int32_t lengths[][2] = {{79, 80},     {81, 83},     {84, 85},     {95, 96},
                                         {97, 192},    {1023, 1024}, {1025, 1056}, {1057, 1092},
                                         {1093, 1120}, {2048, 2185}, {2880, 1}};
    for (uint32_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        mla_case c;
        bool large = i % 4 == 3;
        wn_check_case(check, "lengths %d %d", lengths[i][0], lengths[i][1]);
        make_dense(check, &c, dtypes[i % 5], large ? 36 : 5 + 6 * (i % 3), large ? 576 : 40 + i % 2,
                   large ? 512 : 33, 2, lengths[i]);
        size_t part = (size_t)c.heads * (c.args.v_dim + 16) * 4;
        size_t size = wn_check_bytes_of(c.args.out.dtype) *
                      (size_t)((c.rows - 1) * c.args.out.stride[0] +
                               (c.heads - 1) * c.args.out.stride[1] + c.args.v_dim);
        void *room = wn_check_output(check, 2 * 64 * part);
        c.args.workspace = room;
        WN_CHECK_RUN(check, mla, c.args);
        compare(&c, c.args.out.dtype);
        void *first = wn_check_copy(c.args.out.data, size);
        static const size_t parts[] = {0, 1, 4, 64};
        for (int k = 0; k < 4; k++) {
            c.args.workspace_bytes = (int64_t)(parts[k] * part);
            WN_CHECK_RUN(check, mla, c.args);
            wn_check_bytes(check, "out with a workspace", c.args.out.data, first, size);
        }
        free(first);
    }
}

/* A key with an infinite channel: its score is -inf for some heads, which then do not see it, and
 * inf for others, which become NaN. */
static void infinite_keys(wn_check *check, int count)
{
    static const uint32_t with_infinity[] = {WN_F32, WN_BF16, WN_F16};
    for (int i = 0; i < count; i++) {
        mla_case c;
        const int32_t lengths[2] = {30, 130};
        wn_check_case(check, "infinite keys, number %d", i);
        make_dense(check, &c, with_infinity[i % 3], 20, 41, 33, 2, lengths);
        const wn_paged_kv *kv = &c.cache[0].kv;
        for (int64_t b = 0; b < 2; b++) {
            int64_t at = pool_slot(kv, b, 3 + (int64_t)below(&c, 27));
            int64_t element =
                wn_check_element(&kv->k, kv->tokens_per_page, at / kv->tokens_per_page, 0,
                                 at % kv->tokens_per_page, below(&c, 33));
            wn_check_store(kv->k.data, kv->k.dtype, element, i % 2 ? INFINITY : -INFINITY);
        }
        WN_CHECK_RUN(check, mla, c.args);
        compare(&c, c.args.out.dtype);
    }
}

/* ---------------------------------------------------------------- properties */

/* A dense copy of what a call gives, in float32: [rows][heads][v_dim] and [rows][heads]. */
typedef struct result {
    wn_tensor out, lse;
} result;

static result results(mla_case *c, int64_t parts)
{
    int64_t shape[4] = {parts, c->rows, c->heads, c->args.v_dim};
    return (result){wn_check_tensor_out(c->check, WN_F32, 4, shape),
                    wn_check_tensor_out(c->check, WN_F32, 3, shape)};
}

/* One index of the first dimension. */
static wn_tensor part_of(const wn_tensor *whole, int64_t index)
{
    wn_tensor part = *whole;
    part.ndim--;
    part.data = (float *)whole->data + index * whole->stride[0];
    memmove(part.shape, part.shape + 1, (WN_MAX_DIMS - 1) * sizeof *part.shape);
    memmove(part.stride, part.stride + 1, (WN_MAX_DIMS - 1) * sizeof *part.stride);
    return part;
}

static void call_into(mla_case *c, wn_mla_args args, const result *into, int64_t part)
{
    args.executor = NULL;
    args.error = NULL;
    args.out = part_of(&into->out, part);
    args.lse = part_of(&into->lse, part);
    wn_check_equal(c->check, "status", part, c->check->ops->mla(&args), WN_OK);
}

/* Two results of the same keys, each as far off as float32 allows. */
static void same_results(mla_case *c, const char *name, const result *one, const result *other)
{
    int64_t v_dim = c->args.v_dim;
    for (int64_t r = 0; r < c->rows; r++) {
        double *keys = keys_of(c, r), greatest = 0;
        for (int64_t i = 0; i < c->num_keys[r] * c->dim; i++)
            greatest = fmax(greatest, fabs(keys[i]));
        for (int64_t h = 0; h < c->heads; h++) {
            expected e;
            int64_t at = r * c->heads + h;
            expect(c, r, h, keys, &e);
            double allowed = 2 * greatest * (expm1(2 * e.slack) + 0x1p-18);
            for (int64_t i = at * v_dim; i < (at + 1) * v_dim; i++)
                if (!close_within(c, name, i, ((float *)one->out.data)[i],
                                  ((float *)other->out.data)[i], WN_F32, allowed))
                    break;
            close_within(c, name, at, ((float *)one->lse.data)[at], ((float *)other->lse.data)[at],
                         WN_F32, 2 * e.slack);
        }
        free(keys);
    }
}

/* A case whose only scope has lists. */
static void make_listed(wn_check *check, mla_case *c, int number)
{
    do {
        wn_check_case(check, "property, number %d", number);
        make_case(check, c, head_counts[number % 3], dtypes[number % 5], false);
    } while (c->rows == 0 || c->args.scope[0].width == 0);
    c->args.num_scopes = 1;
    c->args.scope[0].count = NULL;
    c->args.sinks = NULL;
    for (int64_t r = 0; r < c->rows; r++) /* what was beyond the count may be NaN */
        for (int64_t i = 0; i < c->args.scope[0].width; i++) {
            int32_t *entry =
                (int32_t *)c->args.scope[0].indices + r * c->args.scope[0].indices_stride + i;
            bool known = false;
            for (int64_t k = 0; k < c->num_keys[r]; k++) {
                const key *one = &c->keys[r][k];
                if (one->scope != 0)
                    continue;
                int64_t slot = c->args.scope[0].page_table != NULL
                                   ? one->slot
                                   : pool_slot(&c->cache[0].kv, one->request, one->slot);
                known |= slot == *entry;
            }
            *entry = known ? *entry : -1;
        }
}

/* A scope with entries [first, end) of each list. */
static wn_mla_scope slice(const wn_mla_scope *scope, uint32_t first, uint32_t end)
{
    wn_mla_scope part = *scope;
    part.indices += first;
    part.width = end - first;
    return part;
}

/* The list in `parts` pieces, each on its own, merged. */
static void merged_splits(mla_case *c, const result *whole, uint32_t parts)
{
    const wn_mla_scope *scope = &c->args.scope[0];
    result split = results(c, parts), merged = results(c, 1);
    for (uint32_t p = 0; p < parts; p++) {
        wn_mla_args args = c->args;
        args.scope[0] = slice(scope, scope->width * p / parts, scope->width * (p + 1) / parts);
        call_into(c, args, &split, p);
    }
    wn_merge_states_args merge = {.struct_size = WN_SIZEOF(wn_merge_states_args),
                                  .parts = split.out,
                                  .parts_lse = split.lse,
                                  .out = part_of(&merged.out, 0),
                                  .lse = part_of(&merged.lse, 0)};
    wn_check_equal(c->check, "status", parts, c->check->ops->merge_states(&merge), WN_OK);
    same_results(c, "splits merged", &merged, whole);
}

/* Splits, two scopes and a permutation give what the whole list gives. */
static void list_properties(wn_check *check, int count)
{
    for (int i = 0; i < count; i++) {
        mla_case c;
        make_listed(check, &c, i);
        wn_mla_scope *scope = &c.args.scope[0];
        result whole = results(&c, 1), other = results(&c, 1);
        call_into(&c, c.args, &whole, 0);
        for (uint32_t parts = 1; parts <= 8; parts += parts < 3 ? 1 : 2 + (uint32_t)i % 2)
            merged_splits(&c, &whole, parts);
        wn_mla_args two = c.args;
        uint32_t cut = below(&c, scope->width + 1);
        two.num_scopes = 2;
        two.scope[0] = slice(scope, 0, cut);
        two.scope[1] = slice(scope, cut, scope->width);
        call_into(&c, two, &other, 0);
        same_results(&c, "two scopes", &other, &whole);
        for (int64_t r = 0; r < c.rows; r++) { /* backwards */
            int32_t *list = (int32_t *)scope->indices + r * scope->indices_stride;
            for (uint32_t j = 0; j < scope->width / 2; j++) {
                int32_t swapped = list[j];
                list[j] = list[scope->width - 1 - j];
                list[scope->width - 1 - j] = swapped;
            }
        }
        call_into(&c, c.args, &other, 0);
        same_results(&c, "backwards", &other, &whole);
    }
}

/* All keys listed, in any order, are the dense result and that of context over the same cache. */
static void all_keys_are_dense(wn_check *check, int count)
{
    for (int i = 0; i < count; i++) {
        mla_case c;
        int32_t begin[MAX_BATCH], ones[MAX_BATCH] = {1, 1, 1, 1}, length[MAX_BATCH];
        wn_check_case(check, "all keys, number %d", i);
        bool records = i % 2;
        memset(&c, 0, sizeof c);
        c.check = check;
        c.v_is_k = true;
        c.rows = MAX_BATCH;
        c.heads = head_counts[i % 4];
        c.dim = records ? 576 : 40;
        c.args = (wn_mla_args){.struct_size = WN_SIZEOF(wn_mla_args),
                               .v_dim = records ? 512 : 33,
                               .num_scopes = 1,
                               .softmax_scale = 0.1f};
        make_cache(&c, 0, records ? WN_F8_E4M3 : WN_BF16, MAX_BATCH, 50);
        c.args.q = with_gaps(&c, WN_F32, c.dim, false);
        wn_mla_scope *scope = &c.args.scope[0];
        int32_t *list = wn_check_ints(check, MAX_BATCH * 50);
        for (int b = 0; b < MAX_BATCH; b++) {
            begin[b] = b;
            length[b] = c.cache[0].kv.length[b];
            for (int j = 0; j < 50; j++)
                list[b * 50 + j] = 49 - j;
            for (int32_t j = 0; j < length[b]; j++)
                remember(&c, b, 0, b, j);
        }
        result dense = results(&c, 1), listed = results(&c, 1), attended = results(&c, 1);
        scope->limit = length;
        call_into(&c, c.args, &dense, 0);
        scope->indices = list;
        scope->indices_stride = scope->width = 50;
        call_into(&c, c.args, &listed, 0);
        wn_attend_args attend = {.struct_size = WN_SIZEOF(wn_attend_args),
                                 .q = c.args.q,
                                 .q_begin = begin,
                                 .q_len = ones,
                                 .kv = c.cache[0].kv,
                                 .causal = 1,
                                 .softmax_scale = c.args.softmax_scale,
                                 .out = part_of(&attended.out, 0),
                                 .lse = part_of(&attended.lse, 0)};
        wn_check_equal(check, "status", 0, check->ops->context(&attend), WN_OK);
        same_results(&c, "all keys listed", &listed, &dense);
        same_results(&c, "context", &attended, &dense);
    }
}

/* A row's bits depend on nothing but the row; a NaN query makes its row NaN and no other. */
static void rows_are_independent(wn_check *check, int count)
{
    for (int i = 0; i < count; i++) {
        mla_case c;
        make_listed(check, &c, i);
        result all = results(&c, 1), again = results(&c, 1);
        call_into(&c, c.args, &all, 0);
        wn_tensor q = c.args.q;
        int64_t chosen = below(&c, (uint32_t)c.rows), size = c.heads * c.args.v_dim;
        for (int64_t d = 0; d < c.dim * c.heads; d++)
            wn_check_store(q.data, q.dtype,
                           chosen * q.stride[0] + d / c.dim * q.stride[1] + d % c.dim, NAN);
        call_into(&c, c.args, &again, 0);
        bool has_keys = ((float *)all.lse.data)[chosen * c.heads] > -INFINITY;
        for (int64_t r = 0; r < c.rows; r++)
            if (r != chosen)
                wn_check_bytes(check, "another row", (float *)again.out.data + r * size,
                               (float *)all.out.data + r * size, (size_t)size * sizeof(float));
            else
                wn_check_equal(check, "the NaN row", r, isnan(((float *)again.out.data)[r * size]),
                               has_keys);
    }
}

/* More rows than a 16-bit grid dimension holds. */
static void many_rows(wn_check *check)
{
    enum { ROWS = 70000, KEYS = 5 };
    int32_t length[1] = {KEYS};
    wn_check_cache cache;
    wn_check_case(check, "%d rows", ROWS);
    wn_cache_shape shape = {.batch = 1,
                            .num_kv_heads = 1,
                            .k_dim = 2,
                            .v_dim = 1,
                            .tokens_per_page = 2,
                            .dtype = WN_F32,
                            .layout = WN_CHECK_MLA,
                            .length = length};
    wn_check_cache_make(check, &shape, &cache);
    int32_t *limit = wn_check_ints(check, ROWS), *index = wn_check_ints(check, ROWS);
    int32_t *request = wn_check_ints(check, ROWS);
    for (int r = 0; r < ROWS; r++)
        limit[r] = KEYS, index[r] = r % KEYS, request[r] = 0;
    int64_t q_shape[3] = {ROWS, 1, 2}, out_shape[3] = {ROWS, 1, 1};
    wn_mla_args args = {.struct_size = WN_SIZEOF(wn_mla_args),
                        .q = wn_check_tensor(check, WN_F32, WN_DATA_NOISE, 3, q_shape),
                        .row_request = request,
                        .v_dim = 1,
                        .num_scopes = 1,
                        .scope[0] = {.k = cache.kv.k,
                                     .page_table = cache.kv.page_table,
                                     .page_table_stride = cache.kv.page_table_stride,
                                     .limit = limit,
                                     .indices = index,
                                     .indices_stride = 1,
                                     .width = 1,
                                     .tokens_per_page = 2},
                        .softmax_scale = 1,
                        .out = wn_check_tensor_out(check, WN_F32, 3, out_shape)};
    WN_CHECK_RUN(check, mla, args);
    for (int64_t r = 0; r < ROWS; r++) /* one key has all the weight */
        wn_check_close(check, "out", r, wn_check_at(&args.out, r, 0, 0, 0),
                       wn_check_k(&cache.kv, 0, 0, r % KEYS, 0), WN_F32);
}

/* ---------------------------------------------------------------- refusals */

#define REFUSED(c, change, status)                                                                 \
    do {                                                                                           \
        wn_mla_args bad = (c).args;                                                                \
        change;                                                                                    \
        WN_CHECK_REFUSED((c).check, mla, bad, status);                                             \
    } while (0)

static void refusals(wn_check *check)
{
    mla_case c;
    make_listed(check, &c, 1);
    int32_t wide[MAX_ROWS], minus[MAX_ROWS];
    for (int r = 0; r < MAX_ROWS; r++)
        wide[r] = INT_MAX, minus[r] = -1;
    REFUSED(c, bad.struct_size = 8, WN_EINVAL);
    REFUSED(c, bad.q.dtype = WN_I8, WN_EUNSUPPORTED);
    REFUSED(c, bad.out.shape[2]++, WN_EINVAL);
    REFUSED(c, bad.v_dim = (uint32_t)c.dim + 1, WN_EINVAL);
    REFUSED(c, bad.num_scopes = 0, WN_EINVAL);
    REFUSED(c, bad.num_scopes = 3, WN_EINVAL);
    REFUSED(c, bad.softmax_scale = INFINITY, WN_EINVAL);
    REFUSED(c, bad.row_request = minus, WN_EINVAL);
    REFUSED(c, bad.scope[0].limit = NULL, WN_EINVAL);
    REFUSED(c, bad.scope[0].limit = minus, WN_EINVAL);
    REFUSED(c, bad.scope[0].count = wide, WN_EINVAL);
    REFUSED(c, bad.scope[0].count = minus, WN_EINVAL);
    REFUSED(c, bad.scope[0].tokens_per_page = 0, WN_EINVAL);
    REFUSED(c, bad.scope[0].k.dtype = WN_I64, WN_EUNSUPPORTED);
    REFUSED(c, (bad.num_scopes = 2, bad.scope[1].k.data = NULL), WN_EINVAL);
    REFUSED(c, (bad.scope[0].page_table = wide, bad.scope[0].limit = wide), WN_EINVAL);
}

void wn_check_mla(wn_check *check)
{
    random_cases(check, 100);
    large_logits(check, 10);
    long_rows(check);
    infinite_keys(check, 6);
    list_properties(check, 15);
    all_keys_are_dense(check, 8);
    rows_are_independent(check, 10);
    many_rows(check);
    refusals(check);
}
