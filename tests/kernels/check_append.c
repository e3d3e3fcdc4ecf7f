/* check_append.c: checks of append: rotation, scales and codes against doubles, and that nothing
 * but the tokens' own elements has changed in the pools. */
#include "check.h"

static const uint32_t activations[] = {WN_F32, WN_F16, WN_BF16};
static const uint32_t cache_dtypes[] = {WN_F32, WN_F16, WN_BF16, WN_F8_E4M3, WN_I8};

/* What the op should write: the rotated vector of one head in doubles. */
static void rotate_oracle(const wn_append_args *args, const wn_tensor *tensor, int64_t token,
                          int64_t head, double *out)
{
    int64_t half = args->rope_dim / 2;
    for (int64_t d = 0; d < tensor->shape[2]; d++)
        out[d] = wn_check_at(tensor, token, head, d, 0);
    if (args->rope == WN_ROPE_NONE)
        return;
    for (int64_t i = 0; i < half; i++) {
        int64_t first = args->rope == WN_ROPE_INTERLEAVED ? 2 * i : i;
        int64_t second = args->rope == WN_ROPE_INTERLEAVED ? 2 * i + 1 : half + i;
        double f = args->rope_inverse_frequency
                       ? (double)args->rope_inverse_frequency[i]
                       : exp(-(double)i / (double)half * log((double)args->rope_theta));
        double angle = f * args->position[token];
        double a = wn_check_at(tensor, token, head, args->rope_offset + first, 0);
        double b = wn_check_at(tensor, token, head, args->rope_offset + second, 0);
        out[args->rope_offset + first] = a * cos(angle) - b * sin(angle);
        out[args->rope_offset + second] = b * cos(angle) + a * sin(angle);
    }
}

/* A code or bfloat16 is what x rounds to, or where x is not quite what it is here, its neighbour.
 */
static void compare_code(wn_check *check, const uint8_t *data, uint32_t dtype, int64_t index,
                         int64_t slot, double x, double error)
{
    double code = wn_check_load(data, dtype, index);
    double low = wn_check_round(dtype, x - error), high = wn_check_round(dtype, x + error);
    if (!(code >= low && code <= high))
        wn_check_fail(check, "slot %lld, dtype %u, element %lld is %.9g, expected %.9g .. %.9g",
                      (long long)slot, dtype, (long long)index, code, low, high);
}

/* A record: 512 codes with a power of two per 128 of them, the least that is not below amax / 448
 * and 1e-4, and 64 bfloat16. */
static void compare_record(wn_check *check, const uint8_t *record, int64_t slot, const double *x)
{
    for (int64_t block = 0; block < 4; block++) {
        double amax = 0, wanted = 0x1p-13;
        float scale;
        memcpy(&scale, record + 512 + block * 4, 4);
        for (int64_t d = block * 128; d < block * 128 + 128; d++)
            amax = fmax(amax, fabs(x[d]));
        while (wanted < amax / 448)
            wanted *= 2;
        /* Rotated channels may be a little off, and so may a scale that hangs on them. */
        double edge = wanted < scale ? 1 : 0.5;
        if (scale != (float)wanted && fabs(amax / 448 / wanted - edge) > 1e-6)
            wn_check_fail(check, "slot %lld: scale %lld is %g, expected %g", (long long)slot,
                          (long long)block, (double)scale, wanted);
        for (int64_t d = block * 128; d < block * 128 + 128; d++)
            compare_code(check, record, WN_F8_E4M3, d, slot, x[d] / scale, 1e-6 * amax / scale);
    }
    for (int64_t i = 0; i < 64; i++)
        compare_code(check, record + 528, WN_BF16, i, slot, x[512 + i], 1e-6 * fabs(x[512 + i]));
}

/* Compares one stored vector with what it should stand for: an element may be half a code off, and,
 * where it is rotated and sin and cos are less exact than here, by a little more. */
static void compare_stored(wn_check *check, const wn_append_args *args, const wn_kv_view *view,
                           const char *name, int64_t slot, int64_t head, const double *x,
                           bool is_rotated)
{
    int64_t page = slot / args->tokens_per_page, place = slot % args->tokens_per_page;
    double scale = view->tensor_scale, greatest = 0;
    if (view->layout == WN_LAYOUT_MLA_FP8) {
        compare_record(check, (const uint8_t *)view->data + wn_check_record(view, page, place),
                       slot, x);
        return;
    }
    for (uint32_t d = 0; d < view->dim; d++)
        greatest = fmax(greatest, fabs(x[d]));
    if (view->scale != NULL) {
        double stored = view->scale[wn_check_scale_element(view, page, head, place)];
        double code = view->dtype == WN_I8 ? 127 : 448;
        double wanted = greatest / view->tensor_scale / code;
        if ((float)wanted == 0)
            wanted = 1;
        if (fabs(stored - wanted) > 1e-6 * wanted + 0x1p-149)
            wn_check_fail(check, "%s: scale of slot %lld is %.9g, expected %.9g", name,
                          (long long)slot, stored, wanted);
        scale *= stored;
    }
    double error = is_rotated ? 1e-6 * greatest : 0;
    for (uint32_t d = 0; d < view->dim; d++) {
        int64_t at = wn_check_element(view, args->tokens_per_page, page, head, place, d);
        double code = wn_check_load(view->data, view->dtype, at);
        double low = wn_check_round(view->dtype, (x[d] - error) / scale);
        double high = wn_check_round(view->dtype, (x[d] + error) / scale);
        if (!(code >= low && code <= high))
            wn_check_fail(check,
                          "%s: slot %lld, head %lld, element %u is code %.9g, expected "
                          "%.9g .. %.9g",
                          name, (long long)slot, (long long)head, d, code, low, high);
    }
}

/* Everything that no token of the call wrote is as it was. Marks what was written in `expected`
 * by copying it from the pool, then compares the whole pools. */
static void compare_rest(wn_check *check, const wn_append_args *args, const wn_kv_view *view,
                         const char *name, uint8_t *expected, size_t bytes)
{
    for (uint32_t t = 0; t < args->num_tokens; t++)
        for (int64_t h = 0; h < args->k.shape[1] && args->slot[t] >= 0; h++) {
            int64_t page = args->slot[t] / args->tokens_per_page;
            int64_t place = args->slot[t] % args->tokens_per_page;
            wn_check_copy_codes(view, args->tokens_per_page, h, expected, page, place, view->data,
                                page, place);
        }
    wn_check_bytes(check, name, view->data, expected, bytes);
}

/* Slots of the requests' tokens in random order, some skipped. */
static void draw_slots(wn_check *check, const wn_paged_kv *kv, int64_t *slot, uint32_t num_tokens)
{
    uint32_t t = 0;
    for (uint32_t b = 0; b < kv->batch; b++)
        for (int32_t s = 0; s < kv->length[b] && t < num_tokens; s++) {
            int64_t page =
                kv->page_table[b * kv->page_table_stride + s / (int32_t)kv->tokens_per_page];
            slot[t++] = page * kv->tokens_per_page + s % (int32_t)kv->tokens_per_page;
        }
    for (uint32_t i = 0; i < num_tokens; i++) {
        uint32_t j = wn_random_below(&check->random, i + 1);
        int64_t swapped = slot[i];
        slot[i] = slot[j];
        slot[j] = swapped;
    }
    for (uint32_t i = 0; i < num_tokens; i++)
        if (wn_random_below(&check->random, 8) == 0)
            slot[i] = -1 - (int64_t)wn_random_below(&check->random, 3);
}

static void draw_rope(wn_check *check, wn_append_args *args, int64_t dim)
{
    args->rope = dim < 2 ? WN_ROPE_NONE : wn_random_below(&check->random, 3);
    args->rope_theta = wn_random_below(&check->random, 2) ? 10000 : 500000;
    if (args->rope == WN_ROPE_NONE)
        return;
    args->rope_dim = 2 * (1 + wn_random_below(&check->random, (uint32_t)dim / 2));
    args->rope_offset = wn_random_below(&check->random, (uint32_t)dim - args->rope_dim + 1);
    if (wn_random_below(&check->random, 2))
        return;
    float *frequency = wn_check_input(check, args->rope_dim / 2 * sizeof *frequency);
    for (uint32_t i = 0; i < args->rope_dim / 2; i++)
        frequency[i] = (float)fabs(wn_random_signed(&check->random));
    args->rope_inverse_frequency = frequency;
}

static void compare_append(wn_check *check, const wn_append_args *args, const wn_tensor *q_before)
{
    double x[WN_MAX_HEAD_DIM];
    for (uint32_t t = 0; t < args->num_tokens; t++) {
        for (int64_t h = 0; h < args->q.shape[1]; h++) {
            rotate_oracle(args, q_before, t, h, x);
            for (int64_t d = 0; d < args->q.shape[2]; d++)
                wn_check_close(check, "q_out", (t * args->q.shape[1] + h) * args->q.shape[2] + d,
                               wn_check_at(&args->q_out, t, h, d, 0), x[d], args->q.dtype);
        }
        for (int64_t h = 0; h < args->k.shape[1] && args->slot[t] >= 0; h++) {
            rotate_oracle(args, &args->k, t, h, x);
            compare_stored(check, args, &args->k_cache, "k", args->slot[t], h, x,
                           args->rope != WN_ROPE_NONE);
            for (int64_t d = 0; d < args->v.shape[2]; d++)
                x[d] = wn_check_at(&args->v, t, h, d, 0);
            if (args->v.data != NULL)
                compare_stored(check, args, &args->v_cache, "v", args->slot[t], h, x, false);
            if (args->key_position != NULL)
                wn_check_equal(check, "key_position", args->slot[t],
                               args->key_position[args->slot[t] / args->tokens_per_page *
                                                      args->key_position_page_stride +
                                                  h * args->key_position_head_stride +
                                                  args->slot[t] % args->tokens_per_page],
                               args->position[t]);
        }
    }
}

/* [tokens, heads, dim], channels side by side or every second number. */
static wn_tensor draw_tokens(wn_check *check, uint32_t dtype, wn_data_kind kind, int64_t tokens,
                             int64_t heads, int64_t dim)
{
    int64_t apart = 1 + (wn_random_below(&check->random, 5) == 0);
    wn_tensor t = wn_check_tensor(check, dtype, kind, 3, (int64_t[]){tokens, heads, dim * apart});
    t.shape[2] = dim;
    t.stride[2] = apart;
    return t;
}

/* The cache, its tokens and all arguments but rope. Every second case rotates q in place; *q_before
 * is q as it was. */
static void make_append(wn_check *check, uint32_t dtype, const wn_cache_shape *shape,
                        wn_check_cache *cache, wn_append_args *args, wn_tensor *q_before)
{
    wn_check_cache_make(check, shape, cache);
    uint32_t num_tokens = 0;
    for (uint32_t b = 0; b < shape->batch; b++)
        num_tokens += (uint32_t)shape->length[b];
    *args = (wn_append_args){.struct_size = WN_SIZEOF(wn_append_args),
                             .k_cache = cache->kv.k,
                             .v_cache = cache->kv.v,
                             .key_position = cache->kv.position,
                             .key_position_page_stride = cache->kv.position_page_stride,
                             .key_position_head_stride = cache->kv.position_head_stride,
                             .tokens_per_page = shape->tokens_per_page,
                             .num_tokens = num_tokens};
    int64_t heads = shape->num_kv_heads, q_heads = heads * (1 + wn_random_below(&check->random, 3));
    int64_t *slot = wn_check_input(check, num_tokens * sizeof *slot);
    int32_t *position = wn_check_ints(check, num_tokens);
    draw_slots(check, &cache->kv, slot, num_tokens);
    for (uint32_t t = 0; t < num_tokens; t++)
        position[t] = (int32_t)wn_random_below(&check->random, 100000);
    args->slot = slot;
    args->position = position;
    int64_t q_shape[] = {num_tokens, q_heads, shape->k_dim};
    args->k = draw_tokens(check, dtype, shape->kind, num_tokens, heads, shape->k_dim);
    if (shape->layout != WN_CHECK_MLA)
        args->v = draw_tokens(check, dtype, shape->kind, num_tokens, heads, shape->v_dim);
    args->q = *q_before = wn_check_tensor(check, dtype, shape->kind, 3, q_shape);
    args->q_out = wn_check_tensor_out(check, dtype, 3, q_shape);
    if (check->cases % 2 == 0)
        return;
    memcpy(args->q_out.data, args->q.data,
           (size_t)(num_tokens * q_heads * shape->k_dim) * wn_check_bytes_of(dtype));
    args->q = args->q_out;
}

/* What the op must not take. */
static void refuse_append(wn_check *check, const wn_append_args *good)
{
    wn_append_args args = *good;
    if (args.num_tokens == 0)
        return;
    args.struct_size = 8;
    WN_CHECK_REFUSED(check, append, args, WN_EINVAL);
    args = *good;
    args.rope = 3;
    WN_CHECK_REFUSED(check, append, args, WN_EINVAL);
    args = *good;
    args.rope = WN_ROPE_HALF_SPLIT;
    args.rope_offset = 2;
    args.rope_dim = ((uint32_t)args.k.shape[2] + 1) / 2 * 2; /* one pair too many */
    WN_CHECK_REFUSED(check, append, args, WN_EINVAL);
    args = *good;
    args.num_tokens++;
    WN_CHECK_REFUSED(check, append, args, WN_EINVAL);
    args = *good;
    args.k_cache.dim++;
    WN_CHECK_REFUSED(check, append, args,
                     args.k_cache.dtype == WN_U8 ? WN_EUNSUPPORTED : WN_EINVAL);
    args = *good;
    if (args.v.data == NULL)
        return;
    args.v.dtype = WN_I8;
    WN_CHECK_REFUSED(check, append, args, WN_EUNSUPPORTED);
    args = *good;
    args.v_cache.dtype = WN_F8_E5M2;
    WN_CHECK_REFUSED(check, append, args, WN_EUNSUPPORTED);
}

static void append_case(wn_check *check, uint32_t dtype, uint32_t cache_dtype, bool wide)
{
    int32_t lengths[4];
    wn_check_case(check, "dtype %u into %u", dtype, cache_dtype);
    wn_cache_shape shape = wn_check_cache_shape(check, cache_dtype, lengths, wide ? 12 : 40);
    if (wide)
        wn_check_widen(check, &shape);
    wn_check_cache cache;
    wn_append_args args;
    wn_tensor q_before;
    shape.written = true;
    make_append(check, dtype, &shape, &cache, &args, &q_before);
    draw_rope(check, &args, shape.k_dim);
    snprintf(
        check->text, sizeof check->text,
        "dtype %u into %u, %u tokens, %u heads, dims %u/%u, layout %u, page %u, rope %u %u+%u, "
        "%s%s",
        dtype, cache_dtype, args.num_tokens, shape.num_kv_heads, shape.k_dim, shape.v_dim,
        shape.layout, shape.tokens_per_page, args.rope, args.rope_offset, args.rope_dim,
        wn_data_name(shape.kind), args.q.data == args.q_out.data ? ", in place" : "");
    uint8_t *k = wn_check_copy(args.k_cache.data, cache.k_bytes);
    uint8_t *v = wn_check_copy(args.v_cache.data, cache.v_bytes);
    refuse_append(check, &args);
    WN_CHECK_RUN(check, append, args);
    compare_append(check, &args, &q_before);
    compare_rest(check, &args, &args.k_cache, "k pool", k, cache.k_bytes);
    if (args.v.data != NULL)
        compare_rest(check, &args, &args.v_cache, "v pool", v, cache.v_bytes);
    free(k);
    free(v);
}

/* Only q, or only k and v. */
static void half_case(wn_check *check, bool only_q)
{
    int32_t lengths[4];
    wn_check_case(check, only_q ? "q alone" : "k and v alone");
    wn_cache_shape shape = wn_check_cache_shape(check, WN_F32, lengths, 20);
    wn_check_cache cache;
    wn_append_args args;
    wn_tensor q_before, none = {0};
    shape.written = true;
    make_append(check, WN_F32, &shape, &cache, &args, &q_before);
    if (only_q)
        args.k = args.v = none;
    else
        args.q = args.q_out = none;
    uint8_t *k = wn_check_copy(args.k_cache.data, cache.k_bytes);
    WN_CHECK_RUN(check, append, args);
    compare_append(check, &args, &q_before);
    compare_rest(check, &args, &args.k_cache, "k pool", k, cache.k_bytes);
    free(k);
}

void wn_check_append(wn_check *check)
{
    for (int repeat = 0; repeat < 8; repeat++)
        for (int i = 0; i < 3; i++)
            for (int j = 0; j < 5; j++)
                append_case(check, activations[i], cache_dtypes[j], repeat % 2);
    for (int repeat = 0; repeat < 8; repeat++)
        half_case(check, repeat % 2);
}
