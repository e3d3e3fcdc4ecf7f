/* mla_keys.h: the keys of one row of latent attention, block by block: which entries of the scopes
 * are keys (wn_mla_walk), where they lie (wn_mla_key), and their conversion to what row_block.h
 * multiplies (wn_mla_form). A key is converted once for all heads of an item. Its scale stays
 * outside: codes of e4m3 and int8 are then exact in bfloat16, and a scale is applied to scores and
 * weights, not to channels. */
#ifndef WN_CPU_MLA_KEYS_H
#define WN_CPU_MLA_KEYS_H

#include "kernels/cpu/row_block.h"
#include "kernels/kv_element.h"
#include "winnow/ops.h"

enum {
    WN_MLA_MOST_KEYS = 96,         /* of a block */
    WN_MLA_BLOCK_WORDS = 80 * 592, /* 80 keys of 576 floats, padded; half as many of the longest */
};

/* ---------------------------------------------------------------- the form of a block */

/* How a block holds its keys; the arguments alone decide.
 *   floats  [most][float_stride]    channels as floats
 *   keys    [most][key_stride]      pairs of neighbouring channels in bfloat16
 *   values  [most/2][value_stride]  a channel of two neighbouring keys in bfloat16
 * Strides are in words, an odd number of lines, so that a channel of many keys does not fall into
 * few sets of the cache. One that is 0 is not there. */
typedef struct wn_mla_form {
    int64_t float_stride, key_stride, value_stride, most;
    bool pair_keys, pair_values; /* what Q K^T and P V multiply */
} wn_mla_form;

WN_INLINE int64_t wn_mla_stride(int64_t words)
{
    return ((words + 15) / 16 | 1) * 16;
}

/* Are a scope's codes exact in bfloat16? A record's channels are bfloat16 themselves. */
WN_INLINE bool wn_mla_is_exact(const wn_kv_view *k)
{
    return k->layout == WN_LAYOUT_MLA_FP8 || k->dtype == WN_BF16 || k->dtype == WN_F8_E4M3 ||
           k->dtype == WN_I8;
}

/* Pairs for Q K^T where all products are exact; for P V where the output is in bfloat16 itself, so
 * that weights in bfloat16 are of its own precision. */
static inline wn_mla_form wn_mla_form_of(const wn_mla_args *a)
{
    int64_t dim = a->q.shape[2], channels = a->v_dim + WN_ROW_BLOCK - 1;
    wn_mla_form f = {0};
    bool floats = true;
#ifdef __AVX512BF16__
    bool exact =
        wn_mla_is_exact(&a->scope[0].k) && (a->num_scopes == 1 || wn_mla_is_exact(&a->scope[1].k));
    f.pair_keys = exact && a->q.dtype == WN_BF16;
    f.pair_values = exact && a->out.dtype == WN_BF16;
    floats = !f.pair_keys || !f.pair_values;
    if (f.pair_keys || f.pair_values)
        f.key_stride = wn_mla_stride((dim + 1) / 2);
    if (f.pair_values)
        f.value_stride = wn_mla_stride(channels);
#endif
    if (floats)
        f.float_stride = wn_mla_stride(dim > channels ? dim : channels);
    int64_t words = f.float_stride + f.key_stride + (f.value_stride + 1) / 2;
    int64_t most = WN_MLA_BLOCK_WORDS / words;
    f.most = (most < WN_MLA_MOST_KEYS ? most : WN_MLA_MOST_KEYS) / WN_ROW_BLOCK * WN_ROW_BLOCK;
    return f;
}

/* ---------------------------------------------------------------- which keys */

typedef struct wn_mla_key {
    const uint8_t *data; /* its first channel, or its record */
    float scale;
    uint32_t scope;
} wn_mla_key;

/* Entries [next, end) of a row, the scopes' one after another. */
typedef struct wn_mla_walk {
    const wn_mla_args *args;
    int64_t row, next, end;
} wn_mla_walk;

/* Entries of a row in a scope: what its list holds, or all slots below the limit. */
WN_INLINE int64_t wn_mla_entries(const wn_mla_args *a, uint32_t s, int64_t row)
{
    const wn_mla_scope *scope = &a->scope[s];
    if (s >= a->num_scopes)
        return 0;
    if (scope->indices == NULL)
        return scope->limit[row];
    return scope->count != NULL ? scope->count[row] : (int64_t)scope->width;
}

WN_INLINE wn_mla_key wn_mla_key_of(const wn_mla_args *a, uint32_t s, const int32_t *table,
                                   uint32_t slot)
{
    const wn_mla_scope *scope = &a->scope[s];
    const wn_kv_view *k = &scope->k;
    int64_t page = slot / scope->tokens_per_page, place = slot % scope->tokens_per_page;
    if (table != NULL)
        page = table[page];
    if (k->layout == WN_LAYOUT_MLA_FP8)
        return (wn_mla_key){wn_kv_record(k, page, 0, place), 1, s};
    int64_t at = wn_kv_offset(k, scope->tokens_per_page, page, 0, place, 0);
    float scale = k->tensor_scale;
    if (k->scale != NULL)
        scale *= k->scale[wn_kv_scale_offset(k, page, 0, place)];
    return (wn_mla_key){(const uint8_t *)k->data + at * wn_number_bytes(k->dtype), scale, s};
}

/* The walk's next keys, `most` at most; 0 at its end. Entries that are no slot are passed over. */
static inline int64_t wn_mla_next_keys(wn_mla_walk *w, int64_t most, wn_mla_key *key)
{
    const wn_mla_args *a = w->args;
    int64_t count = 0, before = 0;
    for (uint32_t s = 0; s < a->num_scopes; s++) {
        const wn_mla_scope *scope = &a->scope[s];
        int64_t entries = wn_mla_entries(a, s, w->row), limit = scope->limit[w->row];
        int64_t end = before + entries < w->end ? before + entries : w->end;
        int64_t request = a->row_request != NULL ? a->row_request[w->row] : w->row;
        const int32_t *table = scope->page_table, *list = scope->indices;
        if (table != NULL)
            table += request * scope->page_table_stride;
        if (list != NULL)
            list += w->row * scope->indices_stride;
        for (; w->next < end && count < most; w->next++) {
            int64_t slot = list != NULL ? list[w->next - before] : w->next - before;
            if (slot >= 0 && slot < limit)
                key[count++] = wn_mla_key_of(a, s, table, (uint32_t)slot);
        }
        before += entries;
    }
    return count;
}

/* Bytes of a key that lie together. */
WN_INLINE int64_t wn_mla_key_bytes(const wn_kv_view *k)
{
    if (k->layout == WN_LAYOUT_MLA_FP8)
        return WN_MLA_RECORD_BYTES;
    return (k->layout == WN_LAYOUT_STRIDED ? k->dim : k->vec_x) * wn_number_bytes(k->dtype);
}

/* ---------------------------------------------------------------- conversion */

typedef int32_t wn_mla_ints __attribute__((vector_size(4 * WN_VL)));

/* code * scale rounded once to bfloat16, as its bits in the upper halves; the lower ones are 0.
 * The product in float is rounded already: where that looks like a tie, what it lost decides. */
WN_INLINE wn_mla_ints wn_mla_record_bits(const uint8_t *code, wn_vf scale)
{
    wn_vf x = wn_vf_from_e4m3(code), product = wn_vf_mul(x, scale);
    wn_mla_ints bits = (wn_mla_ints)wn_vf_bits(product), tie = (bits & 0xffff) == 0x8000;
#ifdef __AVX512F__
    bool any = _mm512_movepi32_mask((__m512i)tie) != 0;
#else
    bool any = _mm256_movemask_ps((__m256)tie) != 0;
#endif
    if (__builtin_expect(any, 0)) {
        wn_vf lost = wn_vf_fma(x, scale, wn_vf_sub(wn_vf_zero(), product));
        wn_mla_ints rest = (wn_mla_ints)wn_vf_bits(lost), inexact = (rest & 0x7fffffff) != 0;
        wn_mla_ints away = ((rest ^ bits) >> 31) | 1; /* -1 where the product was rounded up */
        bits += tie & inexact & away;
    }
    return (bits + 0x7fff + ((bits >> 16) & 1)) & (int32_t)0xffff0000;
}

/* The record's four scales; a NaN with the usual bits, which rounding keeps. */
WN_INLINE wn_vf wn_mla_record_scale(const uint8_t *record, int64_t d)
{
    float scale;
    memcpy(&scale, record + WN_MLA_SCALES_AT + d / WN_MLA_CODES_PER_SCALE * 4, sizeof scale);
    return wn_vf_set(isnan(scale) ? NAN : scale);
}

static inline __attribute__((unused)) void wn_mla_record_floats(const uint8_t *record, float *out)
{
    for (int64_t d = 0; d < WN_MLA_LATENT_DIM; d += WN_VL)
        wn_vf_store(out + d, wn_vi_as_float((wn_vi)wn_mla_record_bits(
                                 record + d, wn_mla_record_scale(record, d))));
    for (int64_t d = 0; d < WN_MLA_ROPE_DIM; d += WN_VL)
        wn_vf_store(out + WN_MLA_LATENT_DIM + d, wn_vf_from_bf16(record + WN_MLA_ROPE_AT + 2 * d));
}

WN_INLINE void wn_mla_plain_floats(const uint32_t dtype, const uint8_t *in, int64_t n, float *out)
{
    const int64_t bytes = dtype == WN_F32 ? 4 : dtype == WN_F16 || dtype == WN_BF16 ? 2 : 1;
    int64_t d = 0;
    for (; d + WN_VL <= n; d += WN_VL)
        wn_vf_store(out + d, wn_vf_from(dtype, in + d * bytes));
    if (d < n) /* rows are padded to whole vectors */
        wn_vf_store(out + d, wn_vf_from_first(dtype, in + d * bytes, n - d));
}

/* Element d of a key whose channels do not lie together. */
WN_INLINE float wn_mla_vec_channel(const wn_mla_scope *scope, const uint8_t *data, int64_t d)
{
    int64_t x = scope->k.vec_x, at = d / x * scope->tokens_per_page * x + d % x;
    return (float)wn_load(data, scope->k.dtype, at);
}

/* A key's codes as floats, its scale left out. */
static inline void wn_mla_floats(const wn_mla_scope *scope, const uint8_t *in, float *out)
{
    const wn_kv_view *k = &scope->k;
    if (k->layout == WN_LAYOUT_MLA_FP8) {
        wn_mla_record_floats(in, out);
    } else if (k->layout != WN_LAYOUT_STRIDED) {
        for (int64_t d = 0; d < k->dim; d++)
            out[d] = wn_mla_vec_channel(scope, in, d);
    } else if (k->dtype == WN_BF16) {
        wn_mla_plain_floats(WN_BF16, in, k->dim, out);
    } else if (k->dtype == WN_F16) {
        wn_mla_plain_floats(WN_F16, in, k->dim, out);
    } else if (k->dtype == WN_F8_E4M3) {
        wn_mla_plain_floats(WN_F8_E4M3, in, k->dim, out);
    } else if (k->dtype == WN_I8) {
        wn_mla_plain_floats(WN_I8, in, k->dim, out);
    } else {
        wn_mla_plain_floats(WN_F32, in, k->dim, out);
    }
}

#ifdef __AVX512BF16__
/* Upper halves of 16 floats: what is exact in bfloat16. */
WN_INLINE void wn_mla_store_halves(uint16_t *out, __m512i bits)
{
    _mm256_storeu_si256((__m256i *)out, _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16)));
}

/* A key's codes in bfloat16, zeros behind them up to `end`, a multiple of 32. */
static inline void wn_mla_halves(const wn_mla_scope *scope, const uint8_t *in, int64_t end,
                                 uint16_t *out)
{
    const wn_kv_view *k = &scope->k;
    int64_t dim = k->dim, d = 0;
    bool record = k->layout == WN_LAYOUT_MLA_FP8, strided = k->layout == WN_LAYOUT_STRIDED;
    if (record) {
        for (; d < WN_MLA_LATENT_DIM; d += WN_VL)
            wn_mla_store_halves(out + d,
                                (__m512i)wn_mla_record_bits(in + d, wn_mla_record_scale(in, d)));
        memcpy(out + d, in + WN_MLA_ROPE_AT, WN_MLA_ROPE_DIM * 2);
        d = dim;
    } else if (strided && k->dtype == WN_BF16) {
        for (; d + 32 <= dim; d += 32)
            _mm512_storeu_si512(out + d, _mm512_loadu_si512(in + 2 * d));
        memcpy(out + d, in + 2 * d, 2 * (size_t)(dim - d));
        d = dim;
    } else if (strided && k->dtype == WN_F8_E4M3) {
        for (; d + WN_VL <= dim; d += WN_VL)
            wn_mla_store_halves(out + d, wn_vf_bits(wn_vf_from_e4m3(in + d)));
    } else if (strided) {
        for (; d + WN_VL <= dim; d += WN_VL)
            wn_mla_store_halves(out + d, wn_vf_bits(wn_vf_from_i8(in + d)));
    }
    for (; d < dim; d++)
        out[d] = wn_bf16_from_double(strided ? wn_load(in, k->dtype, d)
                                             : (double)wn_mla_vec_channel(scope, in, d));
    memset(out + dim, 0, 2 * (size_t)(end - dim));
}

/* Keys 2i and 2i + 1 of `keys`, channel by channel; other NULL: there is no second one. */
WN_INLINE void wn_mla_interleave(const uint16_t *one, const uint16_t *other, int64_t n,
                                 uint32_t *out)
{
    for (int64_t d = 0; d < n; d += 16) {
        __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(one + d)));
        __m512i high =
            other == NULL ? _mm512_setzero_si512()
                          : _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(other + d)));
        _mm512_storeu_si512(out + d, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
}
#endif

/* The parts of a block of this form in its memory. */
WN_INLINE float *wn_mla_block_keys(const wn_mla_form *f, float *block)
{
    return block + f->most * f->float_stride;
}
WN_INLINE float *wn_mla_block_values(const wn_mla_form *f, float *block)
{
    return wn_mla_block_keys(f, block) + f->most * f->key_stride;
}

/* Converts the keys into block[WN_MLA_BLOCK_WORDS]. */
static inline void wn_mla_load_keys(const wn_mla_args *a, const wn_mla_form *f,
                                    const wn_mla_key *key, int64_t count, float *block)
{
    for (int64_t t = 0; f->float_stride > 0 && t < count; t++)
        wn_mla_floats(&a->scope[key[t].scope], key[t].data, block + t * f->float_stride);
#ifdef __AVX512BF16__
    uint16_t *halves = (uint16_t *)wn_mla_block_keys(f, block);
    for (int64_t t = 0; f->key_stride > 0 && t < count; t++)
        wn_mla_halves(&a->scope[key[t].scope], key[t].data, 2 * f->key_stride,
                      halves + t * 2 * f->key_stride);
    for (int64_t t = 0; f->value_stride > 0 && t < count; t += 2) {
        const uint16_t *one = halves + t * 2 * f->key_stride;
        wn_mla_interleave(one, t + 1 < count ? one + 2 * f->key_stride : NULL, a->v_dim,
                          (uint32_t *)wn_mla_block_values(f, block) + t / 2 * f->value_stride);
    }
#endif
}

#endif
