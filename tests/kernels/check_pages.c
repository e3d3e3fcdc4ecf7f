/* check_pages.c: paged caches for the checks, laid out at random, and the oracles' way into them:
 * the formulas of winnow/cache_view.h written out apart from kernels/kv_element.h. */
#include "check.h"

/* ---------------------------------------------------------------- reading */

int64_t wn_check_element(const wn_kv_view *view, uint32_t tokens_per_page, int64_t page,
                         int64_t head, int64_t place, int64_t d)
{
    int64_t within;
    if (view->layout == WN_LAYOUT_VEC_K) {
        int64_t lane = d % view->vec_x, run = d / view->vec_x; /* [dim/x][token][x] */
        within = run * tokens_per_page * view->vec_x + place * view->vec_x + lane;
    } else if (view->layout == WN_LAYOUT_VEC_V) {
        int64_t lane = place % view->vec_x, run = place / view->vec_x; /* [token/x][dim][x] */
        within = run * view->dim * view->vec_x + d * view->vec_x + lane;
    } else {
        within = place * view->token_stride + d;
    }
    return page * view->page_stride + head * view->head_stride + within;
}

int64_t wn_check_scale_element(const wn_kv_view *view, int64_t page, int64_t head, int64_t place)
{
    return page * view->scale_page_stride + head * view->scale_head_stride + place;
}

int64_t wn_check_record(const wn_kv_view *view, int64_t page, int64_t place)
{
    return page * view->page_stride + place * view->token_stride;
}

bool wn_check_is_mla(const wn_paged_kv *kv)
{
    return kv->v.data == kv->k.data;
}

/* A channel of a record of 512 codes, 4 scales, 64 bfloat16. */
static double record_value(const uint8_t *record, int64_t d)
{
    float scale;
    if (d >= 512)
        return wn_check_load(record + 528, WN_BF16, d - 512);
    memcpy(&scale, record + 512 + d / 128 * 4, 4);
    return wn_check_round(WN_BF16, wn_check_load(record, WN_F8_E4M3, d) * (double)scale);
}

static double value(const wn_paged_kv *kv, const wn_kv_view *view, int64_t request, int64_t head,
                    int64_t slot, int64_t d)
{
    int64_t place = slot % kv->tokens_per_page;
    int64_t page = kv->page_table[request * kv->page_table_stride + slot / kv->tokens_per_page];
    double scale = view->tensor_scale;
    if (view->layout == WN_LAYOUT_MLA_FP8)
        return record_value((const uint8_t *)view->data + wn_check_record(view, page, place), d);
    if (view->scale != NULL)
        scale *= view->scale[wn_check_scale_element(view, page, head, place)];
    return scale * wn_check_load(view->data, view->dtype,
                                 wn_check_element(view, kv->tokens_per_page, page, head, place, d));
}

void wn_check_copy_codes(const wn_kv_view *view, uint32_t tokens_per_page, int64_t head,
                         uint8_t *to, int64_t to_page, int64_t to_place, const uint8_t *from,
                         int64_t from_page, int64_t from_place)
{
    if (view->layout == WN_LAYOUT_MLA_FP8) {
        memcpy(to + wn_check_record(view, to_page, to_place),
               from + wn_check_record(view, from_page, from_place), WN_MLA_RECORD_BYTES);
        return;
    }
    int64_t width = wn_check_bytes_of(view->dtype);
    for (int64_t d = 0; d < view->dim; d++) {
        int64_t at = wn_check_element(view, tokens_per_page, from_page, head, from_place, d);
        memcpy(to + width * wn_check_element(view, tokens_per_page, to_page, head, to_place, d),
               from + width * at, (size_t)width);
    }
}

void wn_check_poison_codes(const wn_kv_view *view, uint32_t tokens_per_page, int64_t page,
                           int64_t head, int64_t place)
{
    if (view->layout == WN_LAYOUT_MLA_FP8)
        memset((uint8_t *)view->data + wn_check_record(view, page, place), 0xff,
               WN_MLA_RECORD_BYTES);
    else
        for (int64_t d = 0; d < view->dim && view->dtype != WN_I8; d++)
            wn_check_store(view->data, view->dtype,
                           wn_check_element(view, tokens_per_page, page, head, place, d), NAN);
}

double wn_check_k(const wn_paged_kv *kv, int64_t request, int64_t head, int64_t slot, int64_t d)
{
    return value(kv, &kv->k, request, head, slot, d);
}

double wn_check_v(const wn_paged_kv *kv, int64_t request, int64_t head, int64_t slot, int64_t d)
{
    return value(kv, &kv->v, request, head, slot, d);
}

int64_t wn_check_position(const wn_paged_kv *kv, int64_t request, int64_t head, int64_t slot)
{
    if (kv->position == NULL)
        return slot;
    int64_t page = kv->page_table[request * kv->page_table_stride + slot / kv->tokens_per_page];
    return kv->position[page * kv->position_page_stride + head * kv->position_head_stride +
                        slot % kv->tokens_per_page];
}

/* ---------------------------------------------------------------- making */

static void *allocate(wn_check *check, const wn_cache_shape *shape, size_t bytes)
{
    return shape->written ? wn_check_output(check, bytes) : wn_check_input(check, bytes);
}

/* A gap between two things in the pool: mostly none. */
static int64_t gap(wn_check *check)
{
    return wn_random_below(&check->random, 2) ? 0 : wn_random_below(&check->random, 9);
}

static wn_kv_view lay_out(wn_check *check, const wn_cache_shape *shape, bool is_v)
{
    int64_t heads = shape->num_kv_heads, tokens = shape->tokens_per_page;
    wn_kv_view view = {.dtype = shape->dtype, .layout = WN_LAYOUT_STRIDED};
    view.dim = is_v ? shape->v_dim : shape->k_dim;
    if (shape->layout == WN_CHECK_MLA && shape->dtype == WN_F8_E4M3) {
        view.dtype = WN_U8;
        view.layout = WN_LAYOUT_MLA_FP8;
        view.token_stride = WN_MLA_RECORD_BYTES + 16 * gap(check);
        view.page_stride = tokens * view.token_stride + 16 * gap(check);
    } else if (shape->layout == WN_CHECK_HND || shape->layout == WN_CHECK_MLA) {
        view.token_stride = view.dim + gap(check);
        view.head_stride = tokens * view.token_stride + gap(check);
        view.page_stride = heads * view.head_stride + gap(check);
    } else if (shape->layout == WN_CHECK_NHD) {
        view.head_stride = view.dim + gap(check);
        view.token_stride = heads * view.head_stride + gap(check);
        view.page_stride = tokens * view.token_stride + gap(check);
    } else {
        view.layout = is_v ? WN_LAYOUT_VEC_V : WN_LAYOUT_VEC_K;
        view.vec_x = shape->vec_x;
        view.head_stride = tokens * view.dim + gap(check);
        view.page_stride = heads * view.head_stride + gap(check);
    }
    view.scale_head_stride = tokens + gap(check);
    view.scale_page_stride = heads * view.scale_head_stride + gap(check);
    return view;
}

/* Distinct page ids in random order, and more pages in the pool than are owned. */
static void deal_pages(wn_check *check, const wn_cache_shape *shape, wn_check_cache *cache)
{
    uint32_t owned = 0, longest = 0;
    for (uint32_t b = 0; b < shape->batch; b++) {
        uint32_t pages =
            ((uint32_t)shape->length[b] + shape->tokens_per_page - 1) / shape->tokens_per_page;
        owned += pages;
        longest = pages > longest ? pages : longest;
    }
    uint32_t num_pages = owned + owned / 4 + 2;
    int32_t *deck = malloc(num_pages * sizeof *deck);
    if (deck == NULL)
        abort();
    for (uint32_t i = 0; i < num_pages; i++) { /* shuffled inside out */
        uint32_t j = wn_random_below(&check->random, i + 1);
        deck[i] = deck[j];
        deck[j] = (int32_t)i;
    }
    int64_t stride = longest + wn_random_below(&check->random, 3);
    int32_t *table = wn_check_input(check, (size_t)(shape->batch * stride) * sizeof *table);
    int32_t *length = wn_check_input(check, shape->batch * sizeof *length);
    uint32_t dealt = 0;
    for (uint32_t b = 0; b < shape->batch; b++) {
        length[b] = shape->length[b];
        for (int64_t p = 0; p < stride; p++) /* an unused entry leads far outside */
            table[b * stride + p] =
                p * shape->tokens_per_page < length[b] ? deck[dealt++] : 0x7ffffff0;
    }
    free(deck);
    cache->num_pages = num_pages;
    cache->kv.page_table = table;
    cache->kv.page_table_stride = stride;
    cache->kv.length = length;
}

/* The scale at which the data fill the codes of a quantised dtype; 1 for the others. */
static double natural_scale(const wn_cache_shape *shape)
{
    static const double greatest[WN_DATA_KINDS] = {1, 1.0 / 64, 6, 1, 1, 1e-7, 3000};
    double code = shape->dtype == WN_F8_E4M3 ? 448 : shape->dtype == WN_I8 ? 127 : 0;
    return code == 0 ? 1 : greatest[shape->kind] / code;
}

/* Scales are powers of two or anything; one block in eight is all zeros. */
static void fill_record(wn_check *check, const wn_cache_shape *shape, uint8_t *record,
                        uint64_t seed, int64_t slot)
{
    bool powers = wn_random_below(&check->random, 2);
    for (int64_t block = 0; block < 4; block++) {
        bool zeros = wn_random_below(&check->random, 8) == 0;
        double natural = natural_scale(shape) * (1 + 0.5 * wn_random_signed(&check->random));
        float scale = (float)(powers ? exp2(ceil(log2(natural))) : natural);
        memcpy(record + 512 + block * 4, &scale, 4);
        for (int64_t d = block * 128; d < block * 128 + 128; d++)
            wn_check_store(record, WN_F8_E4M3, d,
                           zeros ? 0 : wn_data_value(shape->kind, seed, slot, d) / (double)scale);
    }
    for (int64_t i = 0; i < 64; i++)
        wn_check_store(record + 528, WN_BF16, i, wn_data_value(shape->kind, seed, slot, 512 + i));
}

static void fill(wn_check *check, const wn_cache_shape *shape, const wn_paged_kv *kv,
                 wn_kv_view *view, uint64_t seed, int64_t b, int64_t h, int64_t slot)
{
    int64_t place = slot % kv->tokens_per_page;
    int64_t page = kv->page_table[b * kv->page_table_stride + slot / kv->tokens_per_page];
    double scale = view->tensor_scale;
    if (view->layout == WN_LAYOUT_MLA_FP8) {
        fill_record(check, shape, (uint8_t *)view->data + wn_check_record(view, page, place),
                    seed + (uint64_t)b * 977, slot);
        return;
    }
    if (view->scale != NULL) {
        double factor = natural_scale(shape) / scale * (1 + 0.5 * wn_random_signed(&check->random));
        float *at = &view->scale[wn_check_scale_element(view, page, h, place)];
        *at = (float)factor;
        scale *= *at;
    }
    for (int64_t d = 0; d < view->dim; d++)
        wn_check_store(view->data, view->dtype,
                       wn_check_element(view, kv->tokens_per_page, page, h, place, d),
                       wn_data_value(shape->kind, seed + (uint64_t)(b * 977 + h), slot, d) / scale);
}

static void make_pool(wn_check *check, const wn_cache_shape *shape, wn_check_cache *cache,
                      bool is_v)
{
    wn_kv_view *view = is_v ? &cache->kv.v : &cache->kv.k;
    *view = lay_out(check, shape, is_v);
    size_t bytes = (size_t)(cache->num_pages * view->page_stride) * wn_check_bytes_of(view->dtype);
    size_t scale_bytes = (size_t)(cache->num_pages * view->scale_page_stride) * sizeof(float);
    view->data = allocate(check, shape, bytes);
    if (shape->token_scales)
        view->scale = allocate(check, shape, scale_bytes);
    view->tensor_scale = view->dtype == WN_U8       ? 1
                         : shape->tensor_scale != 0 ? shape->tensor_scale
                         : shape->token_scales      ? 1
                                                    : (float)natural_scale(shape);
    uint64_t seed = wn_random(&check->random);
    for (uint32_t b = 0; b < shape->batch; b++)
        for (uint32_t h = 0; h < shape->num_kv_heads; h++)
            for (int32_t slot = 0; slot < shape->length[b]; slot++)
                fill(check, shape, &cache->kv, view, seed, b, h, slot);
    *(is_v ? &cache->v_bytes : &cache->k_bytes) = bytes;
    *(is_v ? &cache->v_scale_bytes : &cache->k_scale_bytes) = shape->token_scales ? scale_bytes : 0;
}

static void make_positions(wn_check *check, const wn_cache_shape *shape, wn_check_cache *cache)
{
    wn_paged_kv *kv = &cache->kv;
    kv->position_head_stride = shape->tokens_per_page + gap(check);
    kv->position_page_stride = shape->num_kv_heads * kv->position_head_stride + gap(check);
    cache->position_bytes =
        (size_t)(cache->num_pages * kv->position_page_stride) * sizeof *kv->position;
    kv->position = allocate(check, shape, cache->position_bytes);
    for (uint32_t b = 0; b < shape->batch; b++)
        for (uint32_t h = 0; h < shape->num_kv_heads; h++) {
            int32_t position = (int32_t)wn_random_below(&check->random, 3);
            for (int32_t slot = 0; slot < shape->length[b]; slot++) {
                int64_t page = kv->page_table[b * kv->page_table_stride +
                                              slot / (int32_t)shape->tokens_per_page];
                kv->position[page * kv->position_page_stride + h * kv->position_head_stride +
                             slot % (int32_t)shape->tokens_per_page] = position;
                position += 1 + (int32_t)wn_random_below(&check->random, 3);
            }
        }
}

void wn_check_cache_make(wn_check *check, const wn_cache_shape *shape, wn_check_cache *cache)
{
    memset(cache, 0, sizeof *cache);
    cache->kv.batch = shape->batch;
    cache->kv.tokens_per_page = shape->tokens_per_page;
    cache->kv.num_kv_heads = shape->num_kv_heads;
    deal_pages(check, shape, cache);
    make_pool(check, shape, cache, false);
    if (shape->layout == WN_CHECK_MLA) {
        cache->kv.v = cache->kv.k;
        cache->kv.v.dim = shape->v_dim;
    } else {
        make_pool(check, shape, cache, true);
    }
    if (shape->positions)
        make_positions(check, shape, cache);
}

wn_cache_shape wn_check_cache_shape(wn_check *check, uint32_t dtype, int32_t *length,
                                    int32_t max_length)
{
    static const uint32_t dims[] = {1, 3, 8, 16, 17, 24, 40}, pages[] = {1, 3, 7, 16, 32};
    bool quantised = dtype == WN_F8_E4M3 || dtype == WN_I8;
    uint64_t *random = &check->random;
    wn_cache_shape shape = {.dtype = dtype, .length = length};
    shape.batch = wn_random_below(random, 5);
    shape.num_kv_heads = 1 + wn_random_below(random, 3);
    shape.layout = wn_random_below(random, WN_CHECK_LAYOUTS);
    shape.k_dim = dims[wn_random_below(random, 7)];
    shape.v_dim = dims[wn_random_below(random, 7)];
    shape.tokens_per_page = pages[wn_random_below(random, 5)];
    if (shape.layout == WN_CHECK_VEC) {
        shape.vec_x = 2u << wn_random_below(random, 3);
        shape.k_dim = (shape.k_dim + 7) / 8 * 8;
        shape.tokens_per_page = wn_random_below(random, 2) ? 16 : 32;
    }
    bool records = shape.layout == WN_CHECK_MLA && dtype == WN_F8_E4M3;
    if (shape.layout == WN_CHECK_MLA) {
        shape.num_kv_heads = 1;
        shape.v_dim = records ? 512 : 1 + wn_random_below(random, shape.k_dim);
        shape.k_dim = records ? 576 : shape.k_dim;
    }
    if (records) {
        shape.batch = shape.batch < 2 ? shape.batch : 2;
        max_length /= 3;
    }
    shape.token_scales = quantised && !records && wn_random_below(random, 2);
    if (shape.token_scales && wn_random_below(random, 2))
        shape.tensor_scale = 0.5f;
    shape.positions = wn_random_below(random, 2);
    shape.kind = (wn_data_kind)wn_random_below(random, WN_DATA_KINDS);
    for (uint32_t b = 0; b < shape.batch; b++) {
        length[b] = (int32_t)wn_random_below(random, (uint32_t)max_length + 1);
        if (wn_random_below(random, 8) == 0)
            length[b] = (int32_t)wn_random_below(random, 2);
    }
    return shape;
}

void wn_check_widen(wn_check *check, wn_cache_shape *shape)
{
    static const uint32_t dims[] = {40, 72, 80, 96, 112, 128, 256};
    if (shape->layout == WN_CHECK_MLA && shape->dtype == WN_F8_E4M3)
        return;
    shape->k_dim = dims[wn_random_below(&check->random, 7)];
    shape->v_dim =
        shape->layout == WN_CHECK_MLA ? shape->k_dim - 8 : dims[wn_random_below(&check->random, 7)];
}
