/* check_indexer.c: checks of indexer_append and indexer_topk: every score against a sum in doubles
 * from the formula in winnow/ops.h, every selection against brute force over the scores that the op
 * reports, and every query against itself: asked alone, with its keys in other pages, and with its
 * keys shared out to several threads. */
#include "check.h"

#include <float.h>

static const uint32_t activations[] = {WN_F32, WN_F16, WN_BF16};

/* ---------------------------------------------------------------- pages */

static int64_t page_bytes(const wn_indexer_view *view)
{
    int64_t element = view->dtype == WN_BF16 ? 2 : 1, scale = view->dtype == WN_BF16 ? 0 : 4;
    return (int64_t)view->tokens_per_page * (view->dim * element + scale);
}

/* Channel d of the key at a pool slot: a code, not multiplied by its scale. */
static double code_at(const wn_indexer_view *view, int64_t slot, int64_t d)
{
    int64_t place = slot % view->tokens_per_page;
    return wn_check_load(view->data + slot / view->tokens_per_page * view->page_stride, view->dtype,
                         place * view->dim + d);
}

static float *scale_at(const wn_indexer_view *view, int64_t slot)
{
    uint8_t *page = view->data + slot / view->tokens_per_page * view->page_stride;
    return (float *)(void *)(page + (int64_t)view->tokens_per_page * view->dim) +
           slot % view->tokens_per_page;
}

/* A pool of NaN codes. */
static wn_indexer_view make_pool(wn_check *check, uint32_t dtype, uint32_t dim, uint32_t tokens,
                                 int64_t pages, bool output)
{
    wn_indexer_view view = {.dtype = dtype, .dim = dim, .tokens_per_page = tokens};
    view.page_stride =
        (page_bytes(&view) + 3) / 4 * 4 + 4 * (int64_t)wn_random_below(&check->random, 5);
    size_t bytes = (size_t)(pages * view.page_stride);
    view.data = output ? wn_check_output(check, bytes) : wn_check_input(check, bytes);
    return view;
}

/* ---------------------------------------------------------------- indexer_append */

static double greatest_code(uint32_t dtype)
{
    return dtype == WN_I8 ? 63 : 448;
}

/* The rules of WN_SCALE_..., a power of two found by trying. */
static float scale_oracle(const wn_indexer_append_args *a, int64_t token)
{
    double greatest = a->least_amax, code = greatest_code(a->keys.dtype);
    for (int64_t d = 0; d < a->keys.dim; d++) {
        double x = fabs(wn_check_at(&a->k, token, d, 0, 0));
        greatest = isfinite(x) && x > greatest ? x : greatest;
    }
    if (greatest == 0)
        return 1;
    if (a->scale_rule == WN_SCALE_EXACT)
        return (float)(greatest / code) > 0 ? (float)(greatest / code) : 1;
    double product = (float)(greatest * (double)(float)(1 / code)), power = 1;
    if (product == 0)
        return 1;
    for (; power < product; power *= 2)
        ;
    for (; power / 2 >= product; power /= 2)
        ;
    return (float)power;
}

/* What a number is stored as. */
static double code_oracle(uint32_t dtype, double x, float scale)
{
    if (dtype == WN_BF16 || isnan(x))
        return x;
    return dtype == WN_I8 ? fmax(fmin(x / scale, 63), -63) : x / scale;
}

/* Writes what a token should be into the image of the pool. A NaN may have any of its codes. */
static void expect_token(wn_check *check, const wn_indexer_append_args *a, int64_t token,
                         uint8_t *image)
{
    wn_indexer_view view = a->keys;
    int64_t slot = a->slot[token];
    float scale = scale_oracle(a, token);
    view.data = image;
    if (view.dtype != WN_BF16)
        *scale_at(&view, slot) = scale;
    for (int64_t d = 0; d < view.dim; d++) {
        double x = wn_check_at(&a->k, token, d, 0, 0), actual = code_at(&a->keys, slot, d);
        int64_t element = slot % view.tokens_per_page * view.dim + d;
        uint8_t *page = image + slot / view.tokens_per_page * view.page_stride;
        if (isnan(x))
            wn_check_close(check, "NaN", d, actual, view.dtype == WN_I8 ? 0 : NAN, view.dtype);
        wn_check_store(page, view.dtype, element, code_oracle(view.dtype, x, scale));
        if (isnan(x) && isnan(actual)) {
            size_t bytes = wn_check_bytes_of(view.dtype);
            memcpy(page + (size_t)element * bytes,
                   a->keys.data + (page - image) + (size_t)element * bytes, bytes);
        }
    }
}

static void append_case(wn_check *check, int number)
{
    static const uint32_t dims[] = {4, 12, 64, 128, 40, 72, 80, 96, 112, 256};
    static const uint32_t dtypes[] = {WN_F8_E4M3, WN_I8, WN_F8_E4M3, WN_I8, WN_BF16};
    uint64_t *random = &check->random;
    uint32_t tokens_per_page = 1 + wn_random_below(random, 7), dim = dims[number / 3 % 10];
    int64_t tokens = wn_random_below(random, 8), pages = 4, free_slot = 0;
    wn_data_kind kind = (wn_data_kind)wn_random_below(random, WN_DATA_KINDS);
    wn_indexer_append_args a = {.struct_size = WN_SIZEOF(wn_indexer_append_args)};
    a.scale_rule = number % 2 ? WN_SCALE_EXACT : WN_SCALE_POWER_OF_TWO;
    a.least_amax = wn_random_below(random, 3) ? 1e-4f : 0;
    wn_check_case(check, "%lld tokens of dim %u, pages of %u, rule %u, %s", (long long)tokens, dim,
                  tokens_per_page, a.scale_rule, wn_data_name(kind));
    a.keys = make_pool(check, dtypes[number % 5], dim, tokens_per_page, pages, true);
    a.k = wn_check_tensor(check, activations[number % 3], kind, 2, (int64_t[]){tokens, dim});
    if (tokens > 1) /* a token of zeros, and a NaN and an infinity in two others */
        for (int64_t d = 0; d < dim; d++)
            wn_check_store(a.k.data, a.k.dtype, d, 0);
    if (tokens > 2) {
        wn_check_store(a.k.data, a.k.dtype, dim + 3, NAN);
        wn_check_store(a.k.data, a.k.dtype, 2 * dim, -INFINITY);
    }
    int64_t *slot = wn_check_input(check, (size_t)tokens * sizeof *slot);
    for (int64_t t = 0; t < tokens; t++) { /* ascending, with gaps */
        slot[t] = free_slot < pages * tokens_per_page ? free_slot : -1;
        free_slot += 1 + wn_random_below(random, 3);
        if (wn_random_below(random, 4) == 0)
            slot[t] = t % 2 ? -1 : INT64_MIN;
    }
    a.slot = slot;
    size_t bytes = (size_t)(pages * a.keys.page_stride);
    uint8_t *image = wn_check_copy(a.keys.data, bytes);
    WN_CHECK_RUN(check, indexer_append, a);
    for (int64_t t = 0; t < tokens; t++)
        if (slot[t] >= 0)
            expect_token(check, &a, t, image);
    wn_check_bytes(check, "pages", a.keys.data, image, bytes);
    free(image);
}

static void refuse_append(wn_check *check)
{
    wn_check_case(check, "refused");
    wn_indexer_append_args good = {.struct_size = WN_SIZEOF(wn_indexer_append_args)}, a;
    good.keys = make_pool(check, WN_F8_E4M3, 8, 4, 2, true);
    good.k = wn_check_tensor(check, WN_BF16, WN_DATA_NOISE, 2, (int64_t[]){2, 8});
    good.slot = memset(wn_check_input(check, 16), 0, 16);
    good.scale_rule = WN_SCALE_EXACT;
    a = good;
    a.scale_rule = WN_SCALE_READ;
    WN_CHECK_REFUSED(check, indexer_append, a, WN_EINVAL);
    a = good;
    a.k.shape[1] = 4;
    WN_CHECK_REFUSED(check, indexer_append, a, WN_EINVAL);
    a = good;
    a.keys.page_stride = 4 * 8;
    WN_CHECK_REFUSED(check, indexer_append, a, WN_EINVAL);
    a = good;
    a.keys.dtype = WN_F16;
    WN_CHECK_REFUSED(check, indexer_append, a, WN_EUNSUPPORTED);
    a = good;
    a.least_amax = NAN;
    WN_CHECK_REFUSED(check, indexer_append, a, WN_EINVAL);
}

void wn_check_indexer_append(wn_check *check)
{
    refuse_append(check);
    for (int i = 0; i < 120; i++)
        append_case(check, i);
}

/* ---------------------------------------------------------------- indexer_topk */

/* What is special about the keys and weights of a case. */
enum {
    NOISE,        /* weights of both signs */
    NO_WEIGHT,    /* all weights 0: all scores tie */
    ALL_NEGATIVE, /* no dot product is positive: all scores are exactly 0 */
    EQUAL,        /* all keys are the same */
    SOME_NAN,     /* some keys have a NaN code or a NaN scale, some queries a NaN */
    INFINITE,     /* scales that make scores infinite */
    ASCENDING,    /* every key is better than all before it, where keys have scales */
    SORTS
};

typedef struct topk_case {
    wn_indexer_topk_args args;
    int64_t rows, heads, k, num_pages, longest;
    int sort;
    int64_t *request; /* [rows] whose row it is; -1: nobody's */
} topk_case;

/* Length of a request: the corners around k and around a page of 64, or any. */
static int32_t pick_length(wn_check *check, int64_t k)
{
    int32_t corner[] = {0, 1, (int32_t)k - 1, (int32_t)k, (int32_t)k + 1, 65, 129};
    uint32_t i = wn_random_below(&check->random, 10);
    int32_t length = i < 7 ? corner[i] : (int32_t)wn_random_below(&check->random, 150);
    return length < 0 ? 0 : length;
}

/* Requests of lengths and runs of queries, some longer than the request; some rows are nobody's. */
static void make_requests(wn_check *check, topk_case *c)
{
    wn_indexer_topk_args *a = &c->args;
    uint64_t *random = &check->random;
    int32_t *begin = wn_check_ints(check, a->batch), *len = wn_check_ints(check, a->batch);
    int32_t *length = wn_check_ints(check, a->batch);
    for (uint32_t b = 0; b < a->batch; b++) {
        length[b] = pick_length(check, c->k);
        bool is_decode = c->heads > 8 || wn_random_below(random, 2);
        len[b] = (int32_t)wn_random_below(random, is_decode ? 3 : 40);
        if (wn_random_below(random, 3) == 0)
            c->request[c->rows++] = -1;
        begin[b] = (int32_t)c->rows;
        for (int32_t i = 0; i < len[b]; i++)
            c->request[c->rows++] = b;
        c->longest = length[b] > c->longest ? length[b] : c->longest;
    }
    a->q_begin = begin;
    a->q_len = len;
    a->length = length;
}

/* Pages in random order, entries behind a request's last page out of any range; the second request
 * has the first page of the first, if both fill one. */
static void make_table(wn_check *check, topk_case *c, uint32_t tokens)
{
    wn_indexer_topk_args *a = &c->args;
    int64_t stride = (c->longest + tokens - 1) / tokens + wn_random_below(&check->random, 3);
    c->num_pages = a->batch * stride + 3;
    int32_t *table = wn_check_ints(check, (size_t)(a->batch * stride));
    int32_t *deck = malloc((size_t)c->num_pages * sizeof *deck);
    if (deck == NULL)
        abort();
    for (int64_t i = 0; i < c->num_pages; i++) {
        int64_t j = wn_random_below(&check->random, (uint32_t)i + 1);
        deck[i] = deck[j];
        deck[j] = (int32_t)i;
    }
    for (int64_t b = 0; b < a->batch; b++)
        for (int64_t p = 0; p < stride; p++)
            table[b * stride + p] =
                p * tokens < a->length[b] ? deck[b * stride + p] : (p % 2 ? INT32_MAX : INT32_MIN);
    if (a->batch > 1 && a->length[0] >= (int32_t)tokens && a->length[1] >= (int32_t)tokens)
        table[stride] = table[0];
    free(deck);
    a->page_table = table;
    a->page_table_stride = stride;
}

static int64_t pool_slot(const wn_indexer_topk_args *a, int64_t request, int64_t slot)
{
    int64_t tokens = a->keys.tokens_per_page;
    return (int64_t)a->page_table[request * a->page_table_stride + slot / tokens] * tokens +
           slot % tokens;
}

static float scale_of(wn_check *check, const topk_case *c, int64_t slot)
{
    if (c->sort == SOME_NAN && wn_random_below(&check->random, 8) == 0)
        return NAN;
    if (c->sort == ASCENDING)
        return (float)(slot + 1) / 1024;
    if (c->sort == INFINITE && slot % 3 == 0)
        return 3e38f;
    return c->sort == EQUAL ? 0.25f : ldexpf(1, (int)wn_random_below(&check->random, 9) - 6);
}

/* Slots below each length are written, all others keep NaN codes and scales. Some int8 keys have
 * codes of eight bits. */
static void fill_keys(wn_check *check, topk_case *c)
{
    wn_indexer_view *keys = &c->args.keys;
    double size = keys->dtype != WN_I8 ? 4 : wn_random_below(&check->random, 2) ? 63 : 140;
    for (int64_t b = 0; b < c->args.batch; b++)
        for (int64_t slot = 0; slot < c->args.length[b]; slot++) {
            int64_t at = pool_slot(&c->args, b, slot);
            uint8_t *page = keys->data + at / keys->tokens_per_page * keys->page_stride;
            for (int64_t d = 0; d < keys->dim; d++) {
                double x = size * wn_random_signed(&check->random);
                bool is_same = c->sort == EQUAL || c->sort == ASCENDING;
                x = is_same ? (double)(d % 5) - 1 : c->sort == ALL_NEGATIVE ? -fabs(x) : x;
                wn_check_store(page, keys->dtype, at % keys->tokens_per_page * keys->dim + d, x);
            }
            if (c->sort == SOME_NAN && wn_random_below(&check->random, 8) == 0)
                wn_check_store(page, keys->dtype, at % keys->tokens_per_page * keys->dim, NAN);
            if (keys->dtype != WN_BF16)
                *scale_at(keys, at) = scale_of(check, c, slot);
        }
}

static void fill_queries(wn_check *check, topk_case *c, uint32_t dtype)
{
    wn_indexer_topk_args *a = &c->args;
    int64_t dim = a->keys.dim, shape[3] = {c->rows, c->heads, dim};
    a->q = wn_check_tensor(check, dtype, WN_DATA_NOISE, 3, shape);
    for (int64_t e = 0; e < c->rows * c->heads * dim && c->sort == ALL_NEGATIVE; e++)
        wn_check_store(a->q.data, dtype, e, fabs(wn_check_load(a->q.data, dtype, e)));
    for (int64_t r = 0; r < c->rows && c->sort == SOME_NAN; r++)
        if (wn_random_below(&check->random, 8) == 0) /* an infinity where there is one */
            wn_check_store(a->q.data, dtype, (r + 1) * c->heads * dim - 1, r % 2 ? NAN : INFINITY);
    a->weights = wn_check_tensor(check, WN_F32, WN_DATA_NOISE, 2, shape);
    for (int64_t e = 0; e < c->rows * c->heads && c->sort == NO_WEIGHT; e++)
        ((float *)a->weights.data)[e] = 0;
    if (wn_random_below(&check->random, 2)) {
        float *scale = wn_check_input(check, (size_t)(c->rows * c->heads) * sizeof *scale);
        for (int64_t e = 0; e < c->rows * c->heads; e++)
            scale[e] = (float)ldexp(1, (int)wn_random_below(&check->random, 5) - 2);
        a->q_scale = scale;
    }
}

/* Ranges in no order: empty ones, negative ones, ones beyond the length. */
static void make_bounds(wn_check *check, topk_case *c)
{
    int32_t *first = wn_check_ints(check, (size_t)c->rows);
    int32_t *end = wn_check_ints(check, (size_t)c->rows);
    for (int64_t r = 0; r < c->rows; r++) {
        first[r] = (int32_t)wn_random_below(&check->random, 80) - 20;
        end[r] = first[r] + (int32_t)wn_random_below(&check->random, 120) - 10;
        if (wn_random_below(&check->random, 4) == 0)
            end[r] = INT32_MAX;
        if (wn_random_below(&check->random, 8) == 0)
            first[r] = INT32_MIN;
    }
    c->args.first = first;
    c->args.end = end;
}

static void make_outputs(wn_check *check, topk_case *c)
{
    wn_indexer_topk_args *a = &c->args;
    a->indices = wn_check_tensor_out(check, WN_I32, 2, (int64_t[]){c->rows, c->k});
    memset(a->indices.data, 0x55, (size_t)(c->rows * c->k) * sizeof(int32_t));
    a->workspace = wn_check_output(check, (size_t)(c->rows * c->k) * sizeof(float));
    if (wn_random_below(&check->random, 2))
        a->count = wn_check_output(check, (size_t)c->rows * sizeof(int32_t));
    a->scores = wn_check_tensor_out(check, WN_F32, 2, (int64_t[]){c->rows, c->longest + 2});
    a->nan_count = wn_check_output(check, sizeof *a->nan_count);
    *a->nan_count = 3;
}

static void make_topk(wn_check *check, topk_case *c, int number)
{
    static const uint32_t dims[] = {4, 8, 20, 64, 40, 72, 80, 96, 112, 256, 5, 33};
    static const uint32_t pages[] = {1, 2, 16, 64, 3, 7};
    static const uint32_t dtypes[] = {WN_BF16, WN_F8_E4M3, WN_I8};
    static const int64_t ks[] = {0, 1, 5, 32, 64};
    wn_indexer_topk_args *a = &c->args;
    uint64_t *random = &check->random;
    uint32_t tokens = pages[wn_random_below(random, 6)], dim = dims[wn_random_below(random, 12)];
    memset(c, 0, sizeof *c);
    a->struct_size = WN_SIZEOF(wn_indexer_topk_args);
    a->batch = wn_random_below(random, 4);
    a->weight_scale = 0.125f;
    c->k = ks[wn_random_below(random, 5)];
    c->heads = 1 + wn_random_below(random, number % 4 ? 5 : 70);
    if (dim % 4 != 0 && number % 3 != 0) /* scales must be aligned */
        tokens = 4;
    if (number % 16 == 15) { /* the shape of published models */
        c->heads = number % 32 == 31 ? 64 : 32;
        dim = 128;
    }
    c->sort = number / 3 % SORTS;
    c->request = malloc(256 * sizeof *c->request);
    if (c->request == NULL)
        abort();
    make_requests(check, c);
    make_table(check, c, tokens);
    a->keys = make_pool(check, dtypes[number % 3], dim, tokens, c->num_pages, false);
    fill_keys(check, c);
    fill_queries(check, c, number % 4 < 3 ? activations[number % 4] : WN_F8_E4M3);
    if (wn_random_below(random, 2))
        make_bounds(check, c);
    make_outputs(check, c);
}

static bool is_seen(const wn_indexer_topk_args *a, int64_t request, int64_t row, int64_t slot)
{
    int64_t i = row - a->q_begin[request], length = a->length[request];
    return slot < length - a->q_len[request] + i + 1 && slot < length &&
           (a->first == NULL || (slot >= a->first[row] && slot < a->end[row]));
}

/* A row of q as it is scored: numbers [heads, dim] (with int8 keys, codes), and what a head's dot
 * products are multiplied by. */
typedef struct row_oracle {
    double *x, *weight;
} row_oracle;

/* The numbers of a head become codes. Returns their scale. */
static float round_head(double *x, int64_t dim)
{
    float amax = 0, scale;
    for (int64_t d = 0; d < dim; d++) {
        amax = isnan(amax) || fabs(x[d]) <= amax ? amax : (float)fabs(x[d]);
        amax = isfinite(x[d]) ? amax : NAN;
    }
    scale = amax / 63.0f == 0 ? 1 : amax / 63.0f;
    for (int64_t d = 0; d < dim; d++)
        x[d] = isnan(scale) ? 0 : fmax(fmin(nearbyint((float)x[d] / scale), 63), -63);
    return scale;
}

static row_oracle make_row(const topk_case *c, int64_t row)
{
    const wn_indexer_topk_args *a = &c->args;
    int64_t dim = a->keys.dim;
    row_oracle r = {malloc((size_t)(c->heads * dim) * sizeof *r.x),
                    malloc((size_t)c->heads * sizeof *r.weight)};
    if (r.x == NULL || r.weight == NULL)
        abort();
    for (int64_t h = 0; h < c->heads; h++) {
        for (int64_t d = 0; d < dim; d++)
            r.x[h * dim + d] = wn_check_at(&a->q, row, h, d, 0);
        r.weight[h] = wn_check_at(&a->weights, row, h, 0, 0) * a->weight_scale;
        if (a->q_scale != NULL)
            r.weight[h] *= a->q_scale[row * c->heads + h];
        if (a->keys.dtype == WN_I8)
            r.weight[h] *= round_head(r.x + h * dim, dim);
    }
    return r;
}

/* *size: the sum of the magnitudes of everything that is added up. */
static double score_oracle(const topk_case *c, const row_oracle *row, int64_t request, int64_t slot,
                           double *size)
{
    const wn_indexer_topk_args *a = &c->args;
    int64_t at = pool_slot(a, request, slot), dim = a->keys.dim;
    double sum = 0, key[256], scale = a->keys.dtype == WN_BF16 ? 1 : *scale_at(&a->keys, at);
    *size = 0;
    for (int64_t d = 0; d < dim; d++)
        key[d] = code_at(&a->keys, at, d);
    for (int64_t h = 0; h < c->heads; h++) {
        double dot = 0, magnitude = 0;
        for (int64_t d = 0; d < dim; d++) {
            dot += row->x[h * dim + d] * key[d];
            magnitude += fabs(row->x[h * dim + d] * key[d]);
        }
        if (!(dot < 0))
            sum += row->weight[h] * dot;
        *size += fabs(row->weight[h]) * magnitude;
    }
    *size *= fabs(scale);
    return sum * scale;
}

/* A score in float32 is off by at most so many roundings of sums of magnitudes: dim of a dot
 * product, heads of the sum over them, and four for the weight, the scale and the last ones. One
 * that is all but infinite may be so. */
static void compare_score(wn_check *check, const topk_case *c, int64_t slot, double actual,
                          double expected, double size)
{
    double bound = (double)(c->args.keys.dim + c->heads + 4) * 0x1p-24 * size + FLT_MIN;
    if (isfinite(actual) && isfinite(expected))
        wn_check_close(check, "error of a score, in bounds of it", slot,
                       (actual - expected) / bound, 0, WN_F32);
    else if (isnan(actual) || isnan(expected) ||
             fmin(fabs(actual), fabs(expected)) + bound < FLT_MAX)
        wn_check_close(check, "scores", slot, actual, expected, WN_F32);
}

static bool comes_before(double j_score, int64_t j, double i_score, int64_t i)
{
    return j_score > i_score || (j_score == i_score && j < i);
}

/* The selection must be that of the scores reported. Returns how many. */
static int64_t compare_selection(wn_check *check, const topk_case *c, int64_t row)
{
    const wn_tensor *scores = &c->args.scores;
    const int32_t *out = (const int32_t *)c->args.indices.data + row * c->k;
    int64_t found = 0;
    for (int64_t i = 0; i < scores->shape[1]; i++) {
        double score = wn_check_at(scores, row, i, 0, 0);
        int64_t before = 0;
        if (isnan(score) || score == -INFINITY)
            continue;
        for (int64_t j = 0; j < scores->shape[1]; j++)
            before += comes_before(wn_check_at(scores, row, j, 0, 0), j, score, i);
        if (before < c->k)
            wn_check_equal(check, "indices", found, out[found], i), found++;
    }
    for (int64_t i = found; i < c->k; i++)
        wn_check_equal(check, "padding", i, out[i], -1);
    return found;
}

static void compare_row(wn_check *check, const topk_case *c, int64_t row, int64_t *nans)
{
    const wn_indexer_topk_args *a = &c->args;
    int64_t request = c->request[row];
    if (request < 0) {
        wn_check_untouched(check, "scores of nobody's row",
                           (float *)a->scores.data + row * a->scores.shape[1],
                           (size_t)a->scores.shape[1] * sizeof(float));
        return;
    }
    row_oracle oracle = make_row(c, row);
    for (int64_t slot = 0; slot < a->scores.shape[1]; slot++) {
        bool seen = is_seen(a, request, row, slot);
        double actual = wn_check_at(&a->scores, row, slot, 0, 0), size = 0;
        double expected = seen ? score_oracle(c, &oracle, request, slot, &size) : -INFINITY;
        expected = (float)expected;
        *nans += isnan(expected) != 0;
        compare_score(check, c, slot, actual, expected, size);
        if (seen && c->sort == ALL_NEGATIVE)
            wn_check_equal(check, "zero", slot, wn_check_at(&a->scores, row, slot, 0, 0) != 0, 0);
    }
    free(oracle.x);
    free(oracle.weight);
    int64_t found = compare_selection(check, c, row);
    if (a->count != NULL)
        wn_check_equal(check, "count", row, a->count[row], found);
}

/* The same indices, bit for bit, when each query is a call of its own (a decode step, a prompt in
 * pieces), without scores to write. */
static void ask_alone(wn_check *check, const topk_case *c, int64_t row)
{
    wn_indexer_topk_args a = c->args;
    int64_t request = c->request[row], hidden = a.q_begin[request] + a.q_len[request] - 1 - row;
    int32_t begin = (int32_t)row, one = 1, length = a.length[request] - (int32_t)hidden;
    int32_t *indices = malloc((size_t)(c->rows * c->k + 1) * sizeof *indices);
    float *scores = malloc((size_t)(c->rows * a.scores.shape[1]) * sizeof *scores);
    if (indices == NULL || scores == NULL)
        abort();
    a.batch = 1;
    a.page_table += request * a.page_table_stride;
    a.q_begin = &begin;
    a.q_len = &one;
    a.length = &length;
    a.count = NULL;
    a.nan_count = NULL;
    a.indices.data = indices;
    a.scores.data = row % 2 ? scores : NULL;
    a.executor = NULL;
    if (length >= 0) { /* a query from before the first key has no step of its own */
        wn_check_equal(check, "status alone", 0, check->ops->indexer_topk(&a), WN_OK);
        wn_check_bytes(check, "indices of a query alone", indices + row * c->k,
                       (int32_t *)c->args.indices.data + row * c->k,
                       (size_t)c->k * sizeof *indices);
        if (a.scores.data != NULL)
            wn_check_bytes(check, "scores of a query alone", scores + row * a.scores.shape[1],
                           (float *)c->args.scores.data + row * a.scores.shape[1],
                           (size_t)a.scores.shape[1] * sizeof *scores);
    }
    free(indices);
    free(scores);
}

/* The same results with the pages in other places, farther apart. */
static void move_pages(wn_check *check, const topk_case *c)
{
    wn_indexer_topk_args a = c->args;
    const wn_indexer_view *from = &c->args.keys;
    a.keys.page_stride += 12;
    a.keys.data = wn_check_input(check, (size_t)(c->num_pages * a.keys.page_stride));
    int32_t *table = wn_check_ints(check, (size_t)(a.batch * a.page_table_stride));
    for (int64_t p = 0; p < c->num_pages; p++)
        memcpy(a.keys.data + (c->num_pages - 1 - p) * a.keys.page_stride,
               from->data + p * from->page_stride, (size_t)page_bytes(from));
    for (int64_t i = 0; i < a.batch * a.page_table_stride; i++) {
        int32_t page = a.page_table[i];
        bool is_page = page >= 0 && page < c->num_pages;
        table[i] = is_page ? (int32_t)(c->num_pages - 1 - page) : page;
    }
    a.page_table = table;
    a.executor = NULL;
    a.indices = wn_check_tensor_out(check, WN_I32, 2, (int64_t[]){c->rows, c->k});
    memset(a.indices.data, 0x55, (size_t)(c->rows * c->k) * sizeof(int32_t));
    wn_check_equal(check, "status", 0, check->ops->indexer_topk(&a), WN_OK);
    wn_check_bytes(check, "indices with the pages elsewhere", a.indices.data, c->args.indices.data,
                   (size_t)(c->rows * c->k) * sizeof(int32_t));
}

static void refuse_topk(wn_check *check, const topk_case *c)
{
    wn_indexer_topk_args a = c->args;
    if (c->rows == 0 || c->k == 0)
        return;
    a.workspace = NULL;
    WN_CHECK_REFUSED(check, indexer_topk, a, WN_EINVAL);
    a = c->args;
    a.first = a.first != NULL ? NULL : a.length;
    WN_CHECK_REFUSED(check, indexer_topk, a, WN_EINVAL);
    a = c->args;
    a.keys.dtype = WN_F16;
    WN_CHECK_REFUSED(check, indexer_topk, a, WN_EUNSUPPORTED);
    a = c->args;
    a.q.dtype = WN_I8;
    WN_CHECK_REFUSED(check, indexer_topk, a, WN_EUNSUPPORTED);
    a = c->args;
    a.weights.shape[1]++;
    WN_CHECK_REFUSED(check, indexer_topk, a, WN_EINVAL);
    a = c->args;
    a.q.shape[0] = a.weights.shape[0] = a.indices.shape[0] = a.scores.shape[0] = c->rows - 1;
    if (c->request[c->rows - 1] >= 0)
        WN_CHECK_REFUSED(check, indexer_topk, a, WN_EINVAL);
    a = c->args;
    a.scores.shape[1] = c->longest - 1;
    if (c->longest > 0)
        WN_CHECK_REFUSED(check, indexer_topk, a, WN_EINVAL);
}

/* ---------------------------------------------------------------- long rows */

static int compare_chosen(const void *a, const void *b)
{
    int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
    return (i > j) - (i < j);
}

static const float *sorted_by; /* qsort has no argument to carry it */

static int compare_better(const void *a, const void *b)
{
    int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
    if (sorted_by[i] != sorted_by[j])
        return sorted_by[i] > sorted_by[j] ? -1 : 1;
    return compare_chosen(a, b);
}

/* What the k best of a row's own scores are; no score is NaN. */
static void choose_oracle(const float *scores, int64_t length, int64_t k, int32_t *chosen)
{
    int32_t *order = malloc((size_t)length * sizeof *order);
    if (order == NULL)
        abort();
    for (int64_t i = 0; i < length; i++)
        order[i] = (int32_t)i;
    sorted_by = scores;
    qsort(order, (size_t)length, sizeof *order, compare_better);
    qsort(order, (size_t)(k < length ? k : length), sizeof *order, compare_chosen);
    for (int64_t i = 0; i < k; i++)
        chosen[i] = i < length && scores[order[i]] > -INFINITY ? order[i] : -1;
    free(order);
}

/* Requests long enough that threads share one, a short one between them; the same choice with room
 * for parts, with too little of it, and with the scores to write, which are what it is checked by.
 */
static void long_case(wn_check *check, int number)
{
    static const int64_t ks[] = {1, 64, 700, 2048, 5000};
    static const uint32_t dtypes[] = {WN_BF16, WN_F8_E4M3, WN_I8};
    static const int sorts[] = {NOISE, ASCENDING, NO_WEIGHT};
    topk_case c = {.heads = 3, .k = ks[number % 5], .sort = sorts[number / 3 % 3]};
    wn_indexer_topk_args *a = &c.args;
    wn_check_case(check, "long, number %d, k %lld", number, (long long)c.k);
    *a = (wn_indexer_topk_args){.struct_size = WN_SIZEOF(wn_indexer_topk_args), .batch = 3};
    a->weight_scale = 1;
    int32_t *begin = wn_check_ints(check, 3), *len = wn_check_ints(check, 3);
    int32_t *length = wn_check_ints(check, 3);
    for (int b = 0; b < 3; b++) {
        len[b] = number % 2 ? 1 : b + 1;
        begin[b] = (int32_t)c.rows;
        length[b] = b == 0 ? 13001 : b == 1 ? 100 : (int32_t)wn_random_below(&check->random, 20000);
        c.rows += len[b];
        c.longest = length[b] > c.longest ? length[b] : c.longest;
    }
    a->q_begin = begin;
    a->q_len = len;
    a->length = length;
    make_table(check, &c, 32);
    a->keys = make_pool(check, dtypes[number % 3], 24, 32, c.num_pages, false);
    fill_keys(check, &c);
    fill_queries(check, &c, WN_BF16);
    make_outputs(check, &c);
    wn_check_equal(check, "status", 0, check->ops->indexer_topk(a), WN_OK);
    int32_t *chosen = wn_check_copy(a->indices.data, (size_t)(c.rows * c.k) * sizeof *chosen);
    for (int b = 0; b < 3; b++)
        for (int64_t row = begin[b]; row < begin[b] + len[b]; row++)
            choose_oracle((const float *)a->scores.data + row * a->scores.shape[1], length[b], c.k,
                          chosen + row * c.k);
    wn_tensor scores = a->scores;
    a->scores.data = NULL;
    a->part_workspace_bytes = c.rows * 8 * (8 * c.k + 64) / (number % 4 == 3 ? 6 : 1);
    a->part_workspace =
        malloc((size_t)a->part_workspace_bytes); /* no output: its bits may differ */
    if (a->part_workspace == NULL)
        abort();
    memset(scores.data, 0xff, (size_t)(c.rows * scores.shape[1]) * sizeof(float));
    WN_CHECK_RUN(check, indexer_topk, *a);
    wn_check_bytes(check, "indices", a->indices.data, chosen,
                   (size_t)(c.rows * c.k) * sizeof *chosen);
    free(a->part_workspace);
    free(chosen);
}

void wn_check_indexer_topk(wn_check *check)
{
    for (int i = 0; i < 15; i++)
        long_case(check, i);
    for (int i = 0; i < 126; i++) {
        topk_case c;
        int64_t nans = 3;
        wn_check_case(check, "random, number %d", i);
        make_topk(check, &c, i);
        WN_CHECK_RUN(check, indexer_topk, c.args);
        for (int64_t row = 0; row < c.rows; row++)
            compare_row(check, &c, row, &nans);
        wn_check_equal(check, "nan_count", 0, *c.args.nan_count, nans);
        for (int64_t row = 0; row < c.rows; row++)
            if (c.request[row] >= 0)
                ask_alone(check, &c, row);
        refuse_topk(check, &c);
        *c.args.nan_count = 3;
        move_pages(check, &c);
        free(c.request);
    }
}
