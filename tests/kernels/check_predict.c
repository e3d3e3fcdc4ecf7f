/* check_predict.c: the checks of window_scores, pool_max, topk, landmark_update and landmark_scores
 * on any variant, against brute force in doubles from the formulas in winnow/ops.h. */
#include "check.h"

static const uint32_t activations[] = {WN_F32, WN_F16, WN_BF16};
static const uint32_t cache_dtypes[] = {WN_F32, WN_F16, WN_BF16, WN_F8_E4M3, WN_I8};
static const uint32_t landmark_dtypes[] = {WN_F32, WN_BF16, WN_F16, WN_F8_E5M2, WN_F8_E4M3};
static const uint32_t groups[] = {1, 3, 4, 5, 7, 8};

static void *zeroed(int64_t count, size_t size)
{
    void *memory = calloc((size_t)count + 1, size);
    if (memory == NULL)
        abort();
    return memory;
}

/* ---------------------------------------------------------------- rows of scores */

static const float special[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN,
                                1.0f, -1.0f, 1e-40f,   -1e-40f,   3.4e38f};

/* F32 [rows, n], both strides arbitrary. kind 0: noise; 1: many ties; 2: special values; 3: falling
 * numbers; 4: rising. */
static wn_tensor score_rows(wn_check *check, int64_t rows, int64_t n, int kind)
{
    uint64_t *random = &check->random;
    wn_tensor t = {.dtype = WN_F32, .ndim = 2, .device = WN_DEVICE_CPU, .shape = {rows, n}};
    t.stride[1] = 1 + wn_random_below(random, 2);
    t.stride[0] = n * t.stride[1] + wn_random_below(random, 3);
    t.data = wn_check_input(check, (size_t)(rows * t.stride[0]) * sizeof(float));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < n; i++) {
            float noise = (float)wn_random_signed(random);
            if (kind == 1)
                noise = (float)wn_random_below(random, 4) - 1;
            if (kind == 2)
                noise = special[wn_random_below(random, 10)];
            if (kind >= 3)
                noise = (float)(kind == 3 ? n - i : i);
            ((float *)t.data)[r * t.stride[0] + i * t.stride[1]] = noise;
        }
    return t;
}

/* Lengths in [0, n] for the rows, or NULL. */
static int32_t *lengths(wn_check *check, int64_t rows, int64_t n)
{
    if (wn_random_below(&check->random, 2))
        return NULL;
    int32_t *length = wn_check_input(check, (size_t)rows * sizeof *length);
    for (int64_t r = 0; r < rows; r++)
        length[r] = (int32_t)wn_random_below(&check->random, (uint32_t)n + 1);
    return length;
}

static int64_t random_width(wn_check *check)
{
    static const int64_t widths[] = {0, 1, 2, 7, 31, 64, 65, 257, 1000};
    return widths[wn_random_below(&check->random, 9)];
}

void wn_check_pool_max(wn_check *check)
{
    for (int c = 0; c < 80; c++) {
        int64_t rows = wn_random_below(&check->random, 5), n = random_width(check);
        uint32_t half = wn_random_below(&check->random, 3) * wn_random_below(&check->random, 32);
        if (c % 20 == 7) { /* several blocks of a row, windows of the size of a block and wider */
            rows = 1 + c / 60;
            n = 4000 + wn_random_below(&check->random, 2000);
            half = c < 40 ? half : wn_random_below(&check->random, 3000);
        }
        wn_check_case(check, "rows %lld, n %lld, kernel %u", (long long)rows, (long long)n,
                      2 * half + 1);
        wn_pool_max_args a = {.struct_size = WN_SIZEOF(wn_pool_max_args),
                              .kernel_size = 2 * half + 1};
        a.in = score_rows(check, rows, n, c % 5);
        a.out = wn_check_tensor_out(check, WN_F32, 2, a.in.shape);
        a.length = lengths(check, rows, n);
        WN_CHECK_RUN(check, pool_max, a);
        for (int64_t r = 0; r < rows; r++) {
            int64_t length = a.length != NULL ? a.length[r] : n;
            for (int64_t i = 0; i < length; i++) {
                double expected = -INFINITY;
                for (int64_t j = i > half ? i - half : 0; j < length && j <= i + half; j++)
                    expected = fmax(expected, wn_check_at(&a.in, r, j, 0, 0));
                wn_check_close(check, "out", i, wn_check_at(&a.out, r, i, 0, 0), expected, WN_F32);
            }
            wn_check_untouched(check, "out beyond length", (float *)a.out.data + r * n + length,
                               (size_t)(n - length) * sizeof(float));
        }
        a.kernel_size = 2;
        WN_CHECK_REFUSED(check, pool_max, a, WN_EINVAL);
    }
}

/* Does j come before i: greater, or equal and lower? NaN and -inf come nowhere. */
static bool comes_before(double j_score, int64_t j, double i_score, int64_t i)
{
    return j_score > i_score || (j_score == i_score && j < i);
}

static void compare_topk_row(wn_check *check, const wn_topk_args *a, int64_t r, int64_t *nans)
{
    int64_t length = a->length != NULL ? a->length[r] : a->scores.shape[1], found = 0;
    int64_t k_max = a->indices.shape[1], k = a->k != NULL ? a->k[r] : k_max;
    const int32_t *out = (const int32_t *)a->indices.data + r * k_max;
    for (int64_t i = 0; i < length; i++) {
        double score = wn_check_at(&a->scores, r, i, 0, 0);
        int64_t before = 0;
        *nans += isnan(score) != 0;
        if (isnan(score) || score == -INFINITY)
            continue;
        for (int64_t j = 0; j < length; j++)
            before += comes_before(wn_check_at(&a->scores, r, j, 0, 0), j, score, i);
        if (before < k)
            wn_check_equal(check, "indices", found, out[found], i), found++;
    }
    if (a->count != NULL)
        wn_check_equal(check, "count", r, a->count[r], found);
    for (; found < k_max; found++)
        wn_check_equal(check, "padding", found, out[found], -1);
}

typedef struct ranked {
    float score;
    int32_t index;
} ranked;

static int by_rank(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->index < y->index ? -1 : 1;
}

static int by_index(const void *a, const void *b)
{
    return ((const ranked *)a)->index < ((const ranked *)b)->index ? -1 : 1;
}

static const char *const long_rows[] = {"noise",    "all equal", "rising",     "falling",
                                        "3 values", "16 values", "runs of 63", "mostly -inf",
                                        "NaN",      "powers",    "a peak",     "period of 32"};
enum { LONG_ROWS = sizeof long_rows / sizeof long_rows[0] };

static float long_row_score(uint64_t *random, int kind, int64_t i, float before)
{
    float noise = (float)wn_random_signed(random);
    switch (kind) {
    case 1:
        return 0.5f;
    case 2:
        return (float)i * 0.001f - 7;
    case 3:
        return 7 - (float)i * 0.001f;
    case 4:
        return (float)wn_random_below(random, 3) - 1;
    case 5:
        return (float)wn_random_below(random, 16) - 8;
    case 6:
        return i % 63 == 0 ? noise : before;
    case 7:
        return i % 40 == 3 ? noise : -INFINITY;
    case 8:
        return i % 5 == 0 ? special[wn_random_below(random, 10)] : noise;
    case 9:
        return exp2f(60 * noise);
    case 10:
        return i < 3000 ? 100 + noise : noise;
    case 11:
        return i % 32 < 8 ? noise - 5 : noise;
    default:
        return noise;
    }
}

/* Compares a row with what sorting it gives. */
static void compare_long_row(wn_check *check, const wn_topk_args *a, int64_t r, int64_t *nans)
{
    int64_t n = a->scores.shape[1], k = a->indices.shape[1], possible = 0;
    const int32_t *out = (const int32_t *)a->indices.data + r * k;
    ranked *order = zeroed(n, sizeof *order);
    for (int64_t i = 0; i < n; i++) {
        float score = (float)wn_check_at(&a->scores, r, i, 0, 0);
        *nans += isnan(score) != 0;
        if (!isnan(score) && score != -INFINITY)
            order[possible++] = (ranked){score, (int32_t)i};
    }
    qsort(order, (size_t)possible, sizeof *order, by_rank);
    int64_t found = k < possible ? k : possible;
    qsort(order, (size_t)found, sizeof *order, by_index);
    for (int64_t i = 0; i < k; i++)
        if (!wn_check_equal(check, "indices", i, out[i], i < found ? order[i].index : -1))
            break;
    wn_check_equal(check, "count", r, a->count[r], found);
    free(order);
}

/* Rows that a variant does not look at all at once. */
static void check_long_rows(wn_check *check, int c)
{
    static const int64_t widths[] = {4095, 4096, 4097, 6000, 33000, 140001};
    uint64_t *random = &check->random;
    int64_t n = widths[c % 6], nans = 0, rows = c % 4 == 0 ? 2 : 1;
    int64_t ks[] = {1, 64, 2048, n / 8, n / 2, n - 1, n, n + 5};
    int64_t shape[2] = {rows, ks[wn_random_below(random, 8)]}, step = 1 + c % 5 / 4;
    int kind = c % LONG_ROWS;
    wn_check_case(check, "long rows: %s, n %lld, k %lld", long_rows[kind], (long long)n,
                  (long long)shape[1]);
    wn_tensor t = {.dtype = WN_F32,
                   .ndim = 2,
                   .device = WN_DEVICE_CPU,
                   .shape = {rows, n},
                   .stride = {n * step, step}};
    t.data = wn_check_input(check, (size_t)(rows * n * step) * sizeof(float));
    for (int64_t i = 0; i < rows * n; i++)
        ((float *)t.data)[i * step] =
            long_row_score(random, kind, i % n, i > 0 ? ((float *)t.data)[(i - 1) * step] : 0);
    wn_topk_args a = {.struct_size = WN_SIZEOF(wn_topk_args), .scores = t};
    a.indices = wn_check_tensor_out(check, WN_I32, 2, shape);
    a.count = wn_check_output(check, (size_t)rows * sizeof *a.count);
    a.nan_count = wn_check_output(check, sizeof *a.nan_count);
    *a.nan_count = 0;
    WN_CHECK_RUN(check, topk, a);
    for (int64_t r = 0; r < rows; r++)
        compare_long_row(check, &a, r, &nans);
    wn_check_equal(check, "nan_count", 0, *a.nan_count, nans);
}

void wn_check_topk(wn_check *check)
{
    uint64_t *random = &check->random;
    for (int c = 0; c < 60; c++)
        check_long_rows(check, c);
    for (int c = 0; c < 80; c++) {
        int64_t rows = wn_random_below(random, 5), n = random_width(check), nans = 0;
        int64_t shape[2] = {rows, wn_random_below(random, 2) ? wn_random_below(random, 9)
                                                             : random_width(check)};
        wn_check_case(check, "rows %lld, n %lld, k_max %lld", (long long)rows, (long long)n,
                      (long long)shape[1]);
        wn_topk_args a = {.struct_size = WN_SIZEOF(wn_topk_args)};
        a.scores = score_rows(check, rows, n, c % 5);
        a.length = lengths(check, rows, n);
        a.indices = wn_check_tensor_out(check, WN_I32, 2, shape);
        memset(a.indices.data, 0x55, (size_t)(rows * shape[1]) * 4);
        int32_t *k = lengths(check, rows, shape[1]);
        a.k = k;
        if (wn_random_below(random, 2))
            a.count = wn_check_output(check, (size_t)rows * sizeof *a.count);
        a.nan_count = wn_check_output(check, sizeof *a.nan_count);
        *a.nan_count = 5;
        WN_CHECK_RUN(check, topk, a);
        for (int64_t r = 0; r < rows; r++)
            compare_topk_row(check, &a, r, &nans);
        wn_check_equal(check, "nan_count", 0, *a.nan_count, 5 + nans);
        if (k != NULL && rows > 0) {
            k[rows - 1] = (int32_t)shape[1] + 1;
            WN_CHECK_REFUSED(check, topk, a, WN_EINVAL);
        }
    }
}

/* ---------------------------------------------------------------- window_scores */

typedef struct window_case {
    wn_window_scores_args args;
    int32_t length[5];
    int64_t window, group, longest;
} window_case;

static double pick_scale(wn_data_kind kind, uint32_t dim)
{
    return (kind == WN_DATA_LARGE ? 1e-6 : 1) / sqrt(dim);
}

static void make_window(wn_check *check, window_case *c, int number)
{
    wn_window_scores_args *a = &c->args;
    wn_check_cache cache;
    bool wide = number % 4 == 3;
    wn_cache_shape shape =
        wn_check_cache_shape(check, cache_dtypes[number % 5], c->length, wide ? 300 : 120);
    if (wide)
        wn_check_widen(check, &shape);
    wn_check_cache_make(check, &shape, &cache);
    a->struct_size = WN_SIZEOF(wn_window_scores_args);
    a->kv = cache.kv;
    a->normalise = wn_random_below(&check->random, 2);
    a->softmax_scale = (float)pick_scale(shape.kind, shape.k_dim);
    c->window = wn_random_below(&check->random, 40);
    c->group = groups[wn_random_below(&check->random, 6)];
    for (uint32_t b = 0; b < shape.batch; b++)
        if (c->length[b] - c->window > c->longest)
            c->longest = c->length[b] - c->window;
    int64_t heads = c->group * shape.num_kv_heads;
    int64_t q_shape[4] = {shape.batch, c->window, heads, shape.k_dim};
    int64_t s_shape[3] = {shape.batch, shape.num_kv_heads,
                          c->longest + wn_random_below(&check->random, 3)};
    q_shape[3] *= 1 + (number % 7 == 6); /* every second number of a wider row */
    a->q = wn_check_tensor(check, activations[number % 3], WN_DATA_NOISE, 4, q_shape);
    a->q.stride[3] = 1 + (number % 7 == 6);
    a->q.shape[3] = shape.k_dim;
    a->scores = wn_check_tensor_out(check, WN_F32, 3, s_shape);
    /* Queries from before the first token, and those of requests without a key before the window,
     * are nobody's. */
    int64_t per_request = a->q.stride[0];
    for (uint32_t b = 0; b < shape.batch; b++)
        for (int64_t e = 0; e < per_request && c->length[b] <= c->window; e++)
            wn_check_store(a->q.data, a->q.dtype, b * per_request + e, NAN);
}

/* One query's scores for the keys in slots [0, end); keys: [length, dim]. */
static void window_row(const window_case *c, int64_t b, int64_t w, int64_t head, int64_t end,
                       const double *keys, double *score)
{
    int64_t dim = c->args.kv.k.dim;
    double query[WN_MAX_HEAD_DIM];
    for (int64_t d = 0; d < dim; d++)
        query[d] = wn_check_at(&c->args.q, b, w, head, d);
    for (int64_t j = 0; j < end; j++) {
        double s = 0;
        for (int64_t d = 0; d < dim; d++)
            s += query[d] * keys[j * dim + d];
        score[j] = s * (double)c->args.softmax_scale;
    }
}

static void compare_window(wn_check *check, const window_case *c, int64_t b, int64_t g)
{
    int64_t n = c->length[b] > c->window ? c->length[b] - c->window : 0, dim = c->args.kv.k.dim;
    double *expected = zeroed(n, sizeof *expected);
    double *score = zeroed(c->length[b], sizeof *score);
    double *keys = zeroed(c->length[b] * dim, sizeof *keys);
    for (int64_t e = 0; e < c->length[b] * dim && n > 0; e++)
        keys[e] = wn_check_k(&c->args.kv, b, g, e / dim, e % dim);
    for (int64_t w = 0; w < c->window && n > 0; w++)
        for (int64_t h = 0; h < c->group; h++) {
            int64_t end = c->args.normalise == WN_SCORES_PREFIX ? n : n + w + 1;
            double top = -INFINITY, sum = 0;
            window_row(c, b, w, g * c->group + h, end, keys, score);
            for (int64_t j = 0; j < end; j++)
                top = fmax(top, score[j]);
            for (int64_t j = 0; j < end; j++)
                sum += exp(score[j] - top);
            for (int64_t j = 0; j < n; j++)
                expected[j] += exp(score[j] - top) / sum;
        }
    const wn_tensor *out = &c->args.scores;
    for (int64_t j = 0; j < n; j++)
        wn_check_close(check, "scores", j, wn_check_at(out, b, g, j, 0), expected[j], WN_F32);
    wn_check_untouched(check, "scores beyond the keys before the window",
                       (float *)out->data + b * out->stride[0] + g * out->stride[1] + n,
                       (size_t)(out->shape[2] - n) * sizeof(float));
    free(expected);
    free(score);
    free(keys);
}

void wn_check_window_scores(wn_check *check)
{
    for (int i = 0; i < 60; i++) {
        wn_check_case(check, "random, number %d", i);
        window_case c = {0};
        make_window(check, &c, i);
        WN_CHECK_RUN(check, window_scores, c.args);
        for (int64_t b = 0; b < c.args.kv.batch; b++)
            for (int64_t g = 0; g < c.args.kv.num_kv_heads; g++)
                compare_window(check, &c, b, g);
        if (c.args.kv.batch == 0)
            continue;
        c.args.normalise = 2;
        WN_CHECK_REFUSED(check, window_scores, c.args, WN_EINVAL);
        c.args.normalise = 0;
        c.args.q.shape[3]++;
        WN_CHECK_REFUSED(check, window_scores, c.args, WN_EINVAL);
    }
}

/* ---------------------------------------------------------------- landmarks */

typedef struct pool {
    wn_landmark_view view;
    size_t bytes;
} pool;

/* A pool of landmarks for a cache: gaps everywhere, minima and maxima together or apart. */
static pool make_pool(wn_check *check, uint32_t num_pages, const wn_cache_shape *shape,
                      uint32_t size, uint32_t dtype, bool output)
{
    uint64_t *random = &check->random;
    int64_t per_page = (shape->tokens_per_page + size - 1) / size, dim = shape->k_dim;
    pool p = {.view = {.dtype = dtype, .landmark_size = size}};
    if (wn_random_below(random, 2)) { /* [landmark][min | max] */
        p.view.max_offset = dim + wn_random_below(random, 3);
        p.view.landmark_stride = p.view.max_offset + dim + wn_random_below(random, 3);
        p.view.head_stride = per_page * p.view.landmark_stride;
    } else { /* all minima of a page, then all maxima */
        p.view.landmark_stride = dim;
        p.view.max_offset = per_page * dim;
        p.view.head_stride = 2 * per_page * dim + wn_random_below(random, 3);
    }
    p.view.page_stride = shape->num_kv_heads * p.view.head_stride + wn_random_below(random, 3);
    p.bytes = (size_t)(num_pages * p.view.page_stride) * wn_check_bytes_of(dtype);
    p.view.data = output ? wn_check_output(check, p.bytes) : wn_check_input(check, p.bytes);
    return p;
}

/* Landmark l begins in page P = first slot / tokens_per_page; its place is its rank among the
 * landmarks that begin there. */
static int64_t landmark_element(const wn_landmark_view *view, const int32_t *table,
                                int64_t tokens_per_page, int64_t head, int64_t l)
{
    int64_t page = l * view->landmark_size / tokens_per_page, place = 0;
    for (int64_t o = l - 1; o >= 0 && o * view->landmark_size / tokens_per_page == page; o--)
        place++;
    return table[page] * view->page_stride + head * view->head_stride +
           place * view->landmark_stride;
}

/* The slot behind an entry; negative: none. */
static int64_t slot_of(const wn_landmark_update_args *a, int64_t b, int64_t g, int64_t entry)
{
    return a->gather == NULL ? entry
                             : a->gather[b * a->gather_stride + g * a->gather_head_stride + entry];
}

static int64_t landmark_of(const wn_landmark_update_args *a, int64_t b, int64_t g, int64_t l)
{
    if (a->landmark_page_table == NULL)
        return landmark_element(&a->landmarks, a->kv.page_table + b * a->kv.page_table_stride,
                                a->kv.tokens_per_page, g, l);
    return landmark_element(&a->landmarks,
                            a->landmark_page_table + b * a->landmark_page_table_stride,
                            a->landmark_tokens_per_page, g, l);
}

static void compare_landmarks(wn_check *check, const wn_landmark_update_args *a, int64_t b,
                              int64_t g)
{
    const wn_landmark_view *view = &a->landmarks;
    int64_t count = a->count != NULL ? a->count[b] : a->kv.length[b], size = view->landmark_size;
    for (int64_t l = 0; l * size < count; l++) {
        int64_t at = landmark_of(a, b, g, l);
        for (int64_t d = 0; d < a->kv.k.dim; d++) {
            double least = INFINITY, most = -INFINITY;
            for (int64_t e = l * size; e < (l + 1) * size && e < count; e++) {
                int64_t slot = slot_of(a, b, g, e);
                if (slot < 0)
                    continue;
                least = fmin(least, wn_check_k(&a->kv, b, g, slot, d));
                most = fmax(most, wn_check_k(&a->kv, b, g, slot, d));
            }
            wn_check_close(check, "minimum", d, wn_check_load(view->data, view->dtype, at + d),
                           wn_check_round(view->dtype, least), view->dtype);
            wn_check_close(check, "maximum", d,
                           wn_check_load(view->data, view->dtype, at + view->max_offset + d),
                           wn_check_round(view->dtype, most), view->dtype);
        }
    }
}

/* Dims that fast paths do not like, in place of a shape's small ones. */
static void widen_shape(wn_check *check, wn_cache_shape *shape)
{
    static const uint32_t dims[] = {40, 72, 80, 96, 112, 128, 200, 256};
    if (shape->layout != WN_CHECK_HND && shape->layout != WN_CHECK_NHD)
        return;
    shape->k_dim = dims[wn_random_below(&check->random, 8)];
}

/* In steps of random size from nothing; must give the bits of one update of everything. */
static void update_in_steps(wn_check *check, const wn_landmark_update_args *whole, size_t bytes)
{
    wn_landmark_update_args a = *whole;
    const int32_t *all = whole->count != NULL ? whole->count : whole->kv.length;
    int32_t begin[5] = {0}, count[5] = {0};
    a.landmarks.data = wn_check_output(check, bytes);
    if (whole->count != NULL)
        a.count = count;
    else
        a.kv.length = count;
    a.begin = begin;
    a.executor = NULL;
    for (bool more = true; more;) {
        more = false;
        for (uint32_t b = 0; b < a.kv.batch; b++) {
            begin[b] = count[b];
            count[b] += (int32_t)wn_random_below(&check->random, 6);
            count[b] = count[b] < all[b] ? count[b] : all[b];
            more |= count[b] < all[b];
        }
        wn_check_equal(check, "status", 0, check->ops->landmark_update(&a), WN_OK);
    }
    wn_check_bytes(check, "landmarks in steps", a.landmarks.data, whole->landmarks.data, bytes);
}

/* Lists of slots, in any order, with repetitions and gaps, other ones for each head. */
static void list_slots(wn_check *check, wn_landmark_update_args *a)
{
    uint64_t *random = &check->random;
    int32_t *count = wn_check_ints(check, a->kv.batch);
    a->gather_head_stride = 70 + wn_random_below(random, 3);
    a->gather_stride = a->kv.num_kv_heads * a->gather_head_stride;
    int32_t *gather = wn_check_ints(check, (size_t)(a->kv.batch * a->gather_stride));
    for (int64_t b = 0; b < a->kv.batch; b++) {
        count[b] = (int32_t)wn_random_below(random, 71);
        for (int64_t i = 0; i < a->gather_stride; i++)
            if (a->kv.length[b] > 0 && wn_random_below(random, 5))
                gather[b * a->gather_stride + i] =
                    (int32_t)wn_random_below(random, (uint32_t)a->kv.length[b]);
    }
    a->gather = gather;
    a->count = count;
}

/* Pages of the landmarks' own, of another size, for up to 90 entries of each request; in falling
 * order. Returns how many. */
static uint32_t deal_landmark_pages(wn_check *check, wn_landmark_update_args *a)
{
    a->landmark_tokens_per_page = 1 + wn_random_below(&check->random, 20);
    a->landmark_page_table_stride = 90 / a->landmark_tokens_per_page + 1;
    uint32_t pages = (uint32_t)(a->kv.batch * a->landmark_page_table_stride);
    int32_t *table = wn_check_ints(check, pages);
    for (uint32_t i = 0; i < pages; i++)
        table[i] = (int32_t)(pages - 1 - i);
    a->landmark_page_table = table;
    return pages;
}

static void refuse_landmark_update(wn_check *check, wn_landmark_update_args a)
{
    int32_t *longer = wn_check_ints(check, a.kv.batch);
    if (a.kv.batch == 0)
        return;
    for (uint32_t b = 0; b < a.kv.batch; b++)
        longer[b] = a.kv.length[b] + 1;
    wn_landmark_update_args bad = a;
    bad.landmarks.landmark_size = 0;
    WN_CHECK_REFUSED(check, landmark_update, bad, WN_EINVAL);
    bad = a;
    bad.gather = NULL;
    bad.count = longer;
    WN_CHECK_REFUSED(check, landmark_update, bad, WN_EINVAL);
    bad.count = memset(wn_check_ints(check, a.kv.batch), 0, a.kv.batch * sizeof(int32_t));
    ((int32_t *)bad.count)[0] = 1;
    bad.gather = a.kv.length; /* entry 0 of the first request is the slot behind its last */
    bad.gather_stride = bad.gather_head_stride = 0;
    WN_CHECK_REFUSED(check, landmark_update, bad, WN_EINVAL);
    bad = a;
    bad.landmark_page_table = longer;
    bad.landmark_tokens_per_page = 0;
    WN_CHECK_REFUSED(check, landmark_update, bad, WN_EINVAL);
}

/* number % 3: the request's slots; the same into other pages; lists of slots into other pages. */
static void landmark_update_case(wn_check *check, int number)
{
    static const int32_t zeros[5];
    int32_t length[5];
    wn_check_cache cache;
    uint32_t size = 1 + wn_random_below(&check->random, number % 6 == 5 ? 40 : 9);
    wn_check_case(check, "landmark size %u, number %d", size, number);
    wn_cache_shape shape =
        wn_check_cache_shape(check, cache_dtypes[number % 5], length, number % 30 ? 90 : 1500);
    if (number % 4 == 1)
        widen_shape(check, &shape);
    if (number % 7 == 0)
        shape.kind = WN_DATA_DENORMAL; /* minima that round to zeros of both signs */
    wn_check_cache_make(check, &shape, &cache);
    wn_landmark_update_args a = {
        .struct_size = WN_SIZEOF(wn_landmark_update_args), .kv = cache.kv, .begin = zeros};
    uint32_t pages = cache.num_pages;
    if (number % 3 == 2)
        list_slots(check, &a);
    if (number % 3 != 0) {
        pages = deal_landmark_pages(check, &a);
        shape.tokens_per_page = a.landmark_tokens_per_page;
    }
    pool p = make_pool(check, pages, &shape, size, landmark_dtypes[number / 5 % 5], true);
    a.landmarks = p.view;
    WN_CHECK_RUN(check, landmark_update, a);
    for (int64_t b = 0; b < a.kv.batch; b++)
        for (int64_t g = 0; g < a.kv.num_kv_heads; g++)
            compare_landmarks(check, &a, b, g);
    update_in_steps(check, &a, p.bytes);
    refuse_landmark_update(check, a);
}

void wn_check_landmark_update(wn_check *check)
{
    for (int i = 0; i < 90; i++)
        landmark_update_case(check, i);
}

/* ---------------------------------------------------------------- landmark_scores */

typedef struct score_case {
    wn_landmark_scores_args args;
    int64_t dim, group;
} score_case;

static double query(const score_case *c, int64_t b, int64_t g, int64_t h, int64_t d)
{
    return wn_check_at(&c->args.q, c->args.q_row[b], g * c->group + h, d, 0);
}

static bool channel_counts(const score_case *c, int64_t b, int64_t g, int64_t channel)
{
    int64_t before = 0;
    double size[2];
    for (int64_t d = 0; d < c->dim; d++) {
        size[0] = size[1] = 0;
        for (int64_t h = 0; h < c->group; h++) {
            size[0] += fabs(query(c, b, g, h, d));
            size[1] += fabs(query(c, b, g, h, channel));
        }
        before += comes_before(size[0], d, size[1], channel);
    }
    return before < c->args.topr;
}

static double head_scale(const score_case *c, int64_t b, int64_t g, int64_t h, const bool *counts)
{
    double counted = 0, all = 0;
    if (c->args.temperature == WN_TEMPERATURE_PLAIN)
        return c->args.softmax_scale;
    for (int64_t d = 0; d < c->dim; d++) {
        counted += counts[d] ? fabs(query(c, b, g, h, d)) : 0;
        all += fabs(query(c, b, g, h, d));
    }
    return counted > 0 ? sqrt(all / ((double)c->dim * counted)) : 0;
}

/* a_h of a landmark. counts[dim], take_maximum[dim]: the group's choice. */
static double landmark_score(const score_case *c, int64_t b, int64_t g, int64_t h, int64_t l,
                             const bool *counts, const bool *take_maximum)
{
    const wn_landmark_view *view = &c->args.landmarks;
    int64_t at = landmark_element(view, c->args.page_table + b * c->args.page_table_stride,
                                  c->args.tokens_per_page, g, l);
    double a = 0;
    for (int64_t d = 0; d < c->dim; d++)
        if (counts[d])
            a += query(c, b, g, h, d) *
                 wn_check_load(view->data, view->dtype,
                               at + d + (take_maximum[d] ? view->max_offset : 0));
    return a * head_scale(c, b, g, h, counts);
}

/* How many members of the softmax a landmark is. */
static double weight_of(const score_case *c, int64_t b, int64_t l)
{
    int64_t size = c->args.landmarks.landmark_size;
    if (c->args.length == NULL)
        return 1;
    return fmin((double)size, (double)(c->args.length[b] - l * size));
}

static void compare_scores(wn_check *check, const score_case *c, int64_t b, int64_t g)
{
    const wn_tensor *out = &c->args.scores;
    int64_t count = c->args.q_row[b] < 0 ? 0 : c->args.count[b];
    double *expected = zeroed(count, sizeof *expected), *score = zeroed(count, sizeof *score);
    bool counts[WN_MAX_HEAD_DIM], take_maximum[WN_MAX_HEAD_DIM];
    for (int64_t d = 0; d < c->dim && count > 0; d++) {
        double sum = 0;
        for (int64_t h = 0; h < c->group; h++)
            sum += query(c, b, g, h, d);
        counts[d] = channel_counts(c, b, g, d);
        take_maximum[d] = sum > 0;
    }
    for (int64_t h = 0; h < c->group && count > 0; h++) {
        double top = -INFINITY, sum = 0;
        for (int64_t l = 0; l < count; l++)
            top = fmax(top, score[l] = landmark_score(c, b, g, h, l, counts, take_maximum));
        for (int64_t l = 0; l < count; l++)
            sum += weight_of(c, b, l) * exp(score[l] - top);
        for (int64_t l = 0; l < count; l++)
            expected[l] += exp(score[l] - top) / sum / (double)c->group;
    }
    for (int64_t l = 0; l < count; l++)
        wn_check_close(check, "scores", l, wn_check_at(out, b, g, l, 0), expected[l], WN_F32);
    wn_check_untouched(check, "scores beyond count",
                       (float *)out->data + b * out->stride[0] + g * out->stride[1] + count,
                       (size_t)(out->shape[2] - count) * sizeof(float));
    free(expected);
    free(score);
}

/* Only the paging of the cache is used: the landmarks hold noise, NaN where there is none. */
static void make_scores(wn_check *check, score_case *c, int number)
{
    wn_landmark_scores_args *a = &c->args;
    uint64_t *random = &check->random;
    int32_t length[5];
    wn_check_cache cache;
    bool is_long = number % 30 == 14; /* more scores than a variant may hold at once */
    wn_cache_shape shape = wn_check_cache_shape(check, WN_F32, length, is_long ? 7000 : 120);
    uint32_t size = is_long ? 1 : 1 + wn_random_below(random, 9);
    if (number % 3 == 1)
        widen_shape(check, &shape);
    if (number % 10 == 3 && (shape.layout == WN_CHECK_HND || shape.layout == WN_CHECK_NHD))
        shape.k_dim = 128; /* the usual one, in e5m2 */
    wn_check_cache_make(check, &shape, &cache);
    pool p = make_pool(check, cache.num_pages, &shape, size, landmark_dtypes[number % 5], false);
    int32_t *count = wn_check_input(check, shape.batch * sizeof *count);
    int32_t *row = wn_check_input(check, shape.batch * sizeof *row);
    int64_t most = 0, rows = shape.batch + 2;
    for (uint32_t b = 0; b < shape.batch; b++) {
        count[b] = (length[b] + (int32_t)size - 1) / (int32_t)size;
        row[b] = wn_random_below(random, 5) ? (int32_t)wn_random_below(random, (uint32_t)rows) : -1;
        most = count[b] > most ? count[b] : most;
        for (int64_t g = 0; g < shape.num_kv_heads; g++)
            for (int64_t l = 0; l < count[b]; l++)
                for (int64_t d = 0; d < shape.k_dim; d++) {
                    int64_t at =
                        d + landmark_element(&p.view,
                                             cache.kv.page_table + b * cache.kv.page_table_stride,
                                             shape.tokens_per_page, g, l);
                    double one = wn_random_signed(random), other = wn_random_signed(random);
                    wn_check_store(p.view.data, p.view.dtype, at, fmin(one, other));
                    wn_check_store(p.view.data, p.view.dtype, at + p.view.max_offset,
                                   fmax(one, other));
                }
    }
    c->dim = shape.k_dim;
    c->group = is_long || number % 10 == 9 ? 20 : groups[wn_random_below(random, 6)];
    if (number % 10 == 3)
        c->group = 4 + number / 10 % 2; /* a whole quad of heads, and one more */
    int64_t q_shape[3] = {rows, c->group * shape.num_kv_heads, c->dim};
    int64_t s_shape[3] = {shape.batch, shape.num_kv_heads, most + wn_random_below(random, 3)};
    *a = (wn_landmark_scores_args){
        .struct_size = WN_SIZEOF(wn_landmark_scores_args),
        .q_row = row,
        .landmarks = p.view,
        .page_table = cache.kv.page_table,
        .page_table_stride = cache.kv.page_table_stride,
        .count = count,
        .batch = shape.batch,
        .num_kv_heads = shape.num_kv_heads,
        .tokens_per_page = shape.tokens_per_page,
        .topr = wn_random_below(random, 2) ? 128 : 1 + wn_random_below(random, shape.k_dim),
        .softmax_scale = (float)(3 / sqrt(shape.k_dim)),
        .temperature = (uint32_t)number / 2 % 2,
        .length = number % 2 ? cache.kv.length : NULL};
    /* Equal queries in all channels are ties between them. */
    wn_data_kind kind = number % 4 == 0 ? WN_DATA_EQUAL : WN_DATA_NOISE;
    a->q = wn_check_tensor(check, activations[number % 3], kind, 3, q_shape);
    for (int64_t e = 0; e < rows * q_shape[1] * c->dim && number % 8 == 0; e++)
        wn_check_store(a->q.data, a->q.dtype, e, e % 3 == 0 ? -0.5 : 0.5);
    a->scores = wn_check_tensor_out(check, WN_F32, 3, s_shape);
}

void wn_check_landmark_scores(wn_check *check)
{
    for (int i = 0; i < 60; i++) {
        score_case c;
        wn_check_case(check, "random, number %d", i);
        make_scores(check, &c, i);
        WN_CHECK_RUN(check, landmark_scores, c.args);
        for (int64_t b = 0; b < c.args.batch; b++)
            for (int64_t g = 0; g < c.args.num_kv_heads; g++)
                compare_scores(check, &c, b, g);
        if (c.args.batch == 0)
            continue;
        wn_landmark_scores_args bad = c.args;
        bad.q.dtype = WN_I8;
        WN_CHECK_REFUSED(check, landmark_scores, bad, WN_EUNSUPPORTED);
        bad = c.args;
        bad.temperature = 2;
        WN_CHECK_REFUSED(check, landmark_scores, bad, WN_EINVAL);
        bad = c.args;
        bad.length = memset(wn_check_ints(check, bad.batch), 0, bad.batch * sizeof(int32_t));
        if (c.args.count[0] > 0)
            WN_CHECK_REFUSED(check, landmark_scores, bad, WN_EINVAL);
    }
}
