/* mla.c: attention of many query heads to listed tokens, one latent vector being key and value of a
 * token for all heads. Lanes are heads: Q^T and the outputs stand in panels of one or two vectors
 * of heads, a block of keys is converted once (mla_keys.h) and multiplied with all panels of the
 * item (row_block.h): scores S^T = K Q^T, weights by a running softmax down the columns, then
 * O^T += V^T P. Nothing goes horizontally, so what comes out of a head depends on its own numbers.
 *
 * A row's entries are cut into parts by their number alone; a part is attended to from nothing and
 * the parts are merged in order. An item is a row, a part and as many heads as the stack holds the
 * state of; with room in the workspace parts are items too, else an item goes through all parts of
 * its heads. Both give the same bits. Scores and their maxima are in units of ln 2. */
#include "kernels/cpu/block_fma.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/mla_keys.h"
#include "kernels/parallel.h"
#include "kernels/refuse.h"

#include <float.h>

enum {
    HEADS = 64,             /* most heads of an item: 128 would not leave room for keys */
    HEAD_WORDS = 64 * 1096, /* their queries and outputs: 576 and 516 words a head */
    PART = 1024,
    PARTS = 16,      /* least entries of a part; parts of a long row, about */
    CHANNELS = 192,  /* of a panel of Q that stay in L1 while all keys pass */
    SLICE = 48,      /* channels of a block's values that stay in L1 while all panels pass */
    STATE = 16,      /* floats behind a head's output */
    SLACK = 8,       /* weights are at most 2^8 */
    USED = 4,        /* of them: base, sum, maximum, divisor */
    SMALL = 1 << 18, /* multiplications for which threads do not pay */
};

typedef struct call {
    const wn_mla_args *args;
    wn_mla_form form;
    int64_t dim, v_dim;    /* dim of Q in words */
    int64_t out_rows;      /* v_dim in whole blocks */
    int64_t heads, blocks; /* of an item; items of a row's heads */
    int64_t parts;         /* of the row that has most */
    int64_t first;         /* row of this round */
    bool shared;           /* parts are items */
} call;

typedef struct item {
    const call *call;
    int64_t row, first, count, lanes; /* heads [first, first + count); lanes: in whole vectors */
    wn_mla_key key[2][WN_MLA_MOST_KEYS];
    float scale[WN_MLA_MOST_KEYS], maximum[HEADS], base[HEADS], sum[HEADS];
    float divisor[HEADS]; /* of outputs: the sum of the weights as values met them */
    float heads[HEAD_WORDS + 8 * WN_PANEL] __attribute__((aligned(64)));
    float block[WN_MLA_BLOCK_WORDS] __attribute__((aligned(64)));
    float scores[WN_MLA_MOST_KEYS * HEADS] __attribute__((aligned(64)));
} item;

/* Lanes [first, first + vectors * WN_VL) of an item. */
typedef struct panel {
    int64_t first;
    int vectors;
} panel;

static panel panel_at(const item *u, int64_t lane)
{
    return (panel){lane, u->lanes - lane >= WN_PANEL ? 2 : 1};
}

static float *queries(item *u, panel p)
{
    return u->heads + p.first * u->call->dim;
}
/* [keys][lanes of the panel]: scores, then weights. */
static float *scores_of(item *u, panel p)
{
    return u->scores + p.first * WN_MLA_MOST_KEYS;
}
static float *outputs(item *u, panel p)
{
    return u->heads + u->lanes * u->call->dim + p.first * u->call->out_rows;
}
/* Results of the parts before, of an item that goes through all: [count][v_dim + STATE]. */
static float *totals(item *u)
{
    return u->heads + u->lanes * (u->call->dim + u->call->out_rows);
}

/* ---------------------------------------------------------------- queries */

/* One head's query as words: floats, or pairs of bfloat16 with a zero behind an odd end. */
static void load_query(const item *u, int64_t head, float *out)
{
    const wn_mla_args *a = u->call->args;
    int64_t n = a->q.shape[2], step = a->q.stride[2];
    int64_t start = u->row * a->q.stride[0] + head * a->q.stride[1];
    const uint8_t *data = (const uint8_t *)a->q.data + start * wn_number_bytes(a->q.dtype);
    if (u->call->form.pair_keys) {
        uint16_t *halves = (uint16_t *)out;
        for (int64_t d = 0; d < n; d++)
            halves[d] = ((const uint16_t *)data)[d * step];
        halves[n] = 0; /* the end's other half, or beyond it */
    } else if (step == 1 && a->q.dtype == WN_BF16) {
        wn_mla_plain_floats(WN_BF16, data, n, out);
    } else if (step == 1 && a->q.dtype == WN_F16) {
        wn_mla_plain_floats(WN_F16, data, n, out);
    } else if (step == 1) {
        wn_mla_plain_floats(WN_F32, data, n, out);
    } else {
        for (int64_t d = 0; d < n; d++)
            out[d] = (float)wn_load(data, a->q.dtype, d * step);
    }
}

/* Q^T of all panels, eight heads at a time, through the block's memory. */
static void load_queries(item *u)
{
    int64_t words = u->call->dim, stride = wn_mla_stride(words + 1);
    for (int64_t lane = 0; lane < u->lanes; lane += 8) {
        panel p = panel_at(u, lane / WN_PANEL * WN_PANEL);
        float *out = queries(u, p) + lane - p.first;
        for (int64_t i = 0; i < 8; i++)
            if (lane + i < u->count)
                load_query(u, u->first + lane + i, u->block + i * stride);
            else
                memset(u->block + i * stride, 0, 4 * (size_t)words);
        for (int64_t d = 0; d < words; d += 8) {
            __m256 r[8];
            for (int64_t i = 0; i < 8; i++)
                r[i] = _mm256_loadu_ps(u->block + i * stride + d);
            wn_transpose_8x8(r);
            for (int64_t i = 0; i < 8 && d + i < words; i++)
                _mm256_storeu_ps(out + (d + i) * p.vectors * WN_VL, r[i]);
        }
    }
}

/* ---------------------------------------------------------------- a block of keys */

/* Lines of the next block's keys, asked for little by little while this one is multiplied. */
typedef struct ahead {
    const wn_mla_args *args;
    const wn_mla_key *key, *end;
    const char *at, *stop; /* in a key; equal: at its end */
    int64_t lines;         /* a turn */
} ahead;

static void ask_ahead(ahead *h)
{
    for (int64_t i = h->lines; i > 0; i--, h->at += 64) {
        if (h->at >= h->stop) {
            if (h->key == h->end)
                return;
            h->at = (const char *)h->key->data;
            h->stop = h->at + wn_mla_key_bytes(&h->args->scope[h->key->scope].k);
            h->key++;
        }
        _mm_prefetch(h->at, _MM_HINT_T1);
    }
}

WN_INLINE void multiply_keys_of(const int vectors, const bool pairs, int64_t words, int64_t keys,
                                const float *block, int64_t stride, const float *q, float *scores)
{
    const int64_t width = vectors * WN_VL, chunk = CHANNELS;
    memset(scores, 0,
           4 * (size_t)((keys + WN_ROW_BLOCK - 1) / WN_ROW_BLOCK * WN_ROW_BLOCK * width));
    for (int64_t k = 0; k < words; k += chunk) {
        int64_t n = words - k < chunk ? words - k : chunk;
        for (int64_t t = 0; t < keys; t += WN_ROW_BLOCK)
            wn_row_block_keys(vectors, pairs, n, block + t * stride + k, stride, q + k * width,
                              scores + t * width);
    }
}

/* Scores of all keys: K Q^T. */
static void multiply_keys(item *u, panel p, int64_t keys)
{
    const wn_mla_form *f = &u->call->form;
    int64_t words = u->call->dim;
    const float *q = queries(u, p);
#ifdef __AVX512BF16__
    if (f->pair_keys) {
        const float *k = wn_mla_block_keys(f, u->block);
        if (p.vectors == 2)
            multiply_keys_of(2, true, words, keys, k, f->key_stride, q, scores_of(u, p));
        else
            multiply_keys_of(1, true, words, keys, k, f->key_stride, q, scores_of(u, p));
        return;
    }
#endif
    if (p.vectors == 2)
        multiply_keys_of(2, false, words, keys, u->block, f->float_stride, q, scores_of(u, p));
    else
        multiply_keys_of(1, false, words, keys, u->block, f->float_stride, q, scores_of(u, p));
}

/* The panel's outputs and sums, when its base changes: this vector of it. */
static void rescale(item *u, panel p, int v, wn_vf before, wn_vf after)
{
    int64_t lane = p.first + v * WN_VL, width = p.vectors * WN_VL;
    float *out = outputs(u, p) + v * WN_VL;
    wn_vf factor = wn_vf_exp2(wn_vf_sub(before, after));
    for (int64_t d = 0; d < u->call->v_dim; d++)
        wn_vf_store(out + d * width, wn_vf_mul(wn_vf_load(out + d * width), factor));
    wn_vf_store(u->sum + lane, wn_vf_mul(wn_vf_load(u->sum + lane), factor));
    wn_vf_store(u->divisor + lane, wn_vf_mul(wn_vf_load(u->divisor + lane), factor));
}

/* What can be subtracted from scores: of a head that has seen no key yet, 0. */
WN_INLINE wn_vf finite_base(wn_vf base)
{
    wn_vf least = wn_vf_set(-INFINITY);
    return wn_vf_select(wn_vf_less(least, base), wn_vf_zero(), base);
}

/* Scores to units of ln 2; the running maxima rise. Weights are relative to a base that follows the
 * maximum only when that is SLACK above it, so that outputs are seldom rescaled; a head's base
 * depends on its own scores alone. Returns whether a score is -inf. */
static bool raise_maxima(item *u, panel p, int64_t keys)
{
    int64_t width = p.vectors * WN_VL;
    uint32_t unseen = 0;
    for (int v = 0; v < p.vectors; v++) {
        float *s = scores_of(u, p) + v * WN_VL;
        float *maxima = u->maximum + p.first + v * WN_VL;
        float *bases = u->base + p.first + v * WN_VL;
        wn_vf most = wn_vf_load(maxima);
        wn_vf least = wn_vf_zero();
        for (int64_t t = 0; t < keys; t++) {
            wn_vf x = wn_vf_mul(wn_vf_load(s + t * width), wn_vf_set(u->scale[t]));
            wn_vf_store(s + t * width, x);
            most = wn_vf_max(x, most); /* NaN leaves it as it is */
            least = wn_vf_min(x, least);
        }
        unseen |= wn_vm_bits(wn_vf_less(least, wn_vf_set(-FLT_MAX)));
        wn_vf_store(maxima, most);
        wn_vf base = wn_vf_load(bases);
        wn_vm risen = wn_vf_less(wn_vf_add(base, wn_vf_set(SLACK)), most);
        if (wn_vm_bits(risen) != 0) {
            wn_vf after = wn_vf_select(risen, base, most);
            rescale(u, p, v, base, finite_base(after));
            wn_vf_store(bases, after);
        }
    }
    return unseen != 0;
}

#ifdef __AVX512BF16__
/* bfloat16 of two vectors, lane by lane beside each other; `high` may be 0. */
WN_INLINE __m512i pair_of(wn_vf low, wn_vf high)
{
    __m512i x = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(low));
    __m512i y = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(high));
    return _mm512_or_si512(x, _mm512_slli_epi32(y, 16));
}

/* What rounding `scaled` to `half` (its bits in the upper half) added to the weight itself. A scale
 * that cannot be taken out again: nothing. */
WN_INLINE wn_vf rounding_of(wn_vf scaled, __m512i half, float scale)
{
    float size = fabsf(scale), inverse = size > 0x1p-64f && size < 0x1p64f ? 1 / scale : 0;
    wn_vf rounded = _mm512_castsi512_ps(_mm512_and_si512(half, _mm512_set1_epi32(-65536)));
    return inverse == 0 ? wn_vf_zero() : wn_vf_mul(wn_vf_sub(rounded, scaled), wn_vf_set(inverse));
}

/* As weigh_floats, for P V in pairs: those of two keys come to stand where the first of them stood,
 * at half the distance. The divisor is the sum of the rounded weights: an output is a mean of
 * values still, and what rounding does to it is in proportion to how far they lie from it. scaled:
 * a scale is not 1. */
WN_INLINE void weigh_pairs_of(const bool scaled, item *u, panel p, int64_t v, int64_t keys,
                              const float *key_scale)
{
    const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
    int64_t width = p.vectors * WN_VL, lane = p.first + v * WN_VL;
    float *s = scores_of(u, p) + v * WN_VL;
    wn_vf sum = wn_vf_load(u->sum + lane), divisor = wn_vf_load(u->divisor + lane);
    wn_vf base = finite_base(wn_vf_load(u->base + lane));
    for (int64_t t = 0; t < keys; t += 2) {
        wn_vf x = wn_vf_exp2(wn_vf_sub(wn_vf_load(s + t * width), base)), y = wn_vf_zero();
        float scale = key_scale[t], other = t + 1 < keys ? key_scale[t + 1] : 0;
        if (t + 1 < keys)
            y = wn_vf_exp2(wn_vf_sub(wn_vf_load(s + (t + 1) * width), base));
        sum = wn_vf_add(sum, wn_vf_add(x, y));
        __m512i pair;
        if (scaled) {
            divisor = wn_vf_add(divisor, wn_vf_add(x, y));
            x = wn_vf_mul(x, wn_vf_set(scale));
            y = wn_vf_mul(y, wn_vf_set(other));
            pair = pair_of(x, y);
            divisor = wn_vf_add(divisor, rounding_of(x, _mm512_slli_epi32(pair, 16), scale));
            divisor = wn_vf_add(divisor, rounding_of(y, pair, other));
        } else {
            pair = pair_of(x, y);
            divisor = _mm512_dpbf16_ps(divisor, (__m512bh)pair, ones);
        }
        _mm512_store_si512(s + t / 2 * width, pair);
    }
    wn_vf_store(u->sum + lane, sum);
    wn_vf_store(u->divisor + lane, divisor);
}

static void weigh_pairs(item *u, panel p, int64_t keys, const float *key_scale)
{
    bool scaled = false;
    for (int64_t t = 0; t < keys; t++)
        scaled |= key_scale[t] != 1;
    for (int v = 0; v < p.vectors; v++)
        if (scaled)
            weigh_pairs_of(true, u, p, v, keys, key_scale);
        else
            weigh_pairs_of(false, u, p, v, keys, key_scale);
}
#endif

/* Scores to weights times the keys' scales; their sum is of the weights alone. */
static void weigh_floats(item *u, panel p, int64_t keys, const float *key_scale)
{
    int64_t width = p.vectors * WN_VL;
    for (int v = 0; v < p.vectors; v++) {
        int64_t lane = p.first + v * WN_VL;
        float *s = scores_of(u, p) + v * WN_VL;
        wn_vf sum = wn_vf_load(u->sum + lane);
        wn_vf base = finite_base(wn_vf_load(u->base + lane));
        for (int64_t t = 0; t < keys; t++) {
            wn_vf x = wn_vf_exp2(wn_vf_sub(wn_vf_load(s + t * width), base));
            sum = wn_vf_add(sum, x);
            wn_vf_store(s + t * width, wn_vf_mul(x, wn_vf_set(key_scale[t])));
        }
        wn_vf_store(u->sum + lane, sum);
        wn_vf_store(u->divisor + lane, sum);
    }
}

static void weigh(item *u, panel p, int64_t keys, const float *key_scale)
{
#ifdef __AVX512BF16__
    if (u->call->form.pair_values) {
        weigh_pairs(u, p, keys, key_scale);
        return;
    }
#endif
    weigh_floats(u, p, keys, key_scale);
}

/* Channels [first, end). */
WN_INLINE void multiply_values_of(const int vectors, const bool pairs, int64_t n, int64_t first,
                                  int64_t end, const float *block, int64_t stride,
                                  const float *weights, float *out, ahead *h)
{
    for (int64_t d = first; d < end; d += WN_ROW_BLOCK) {
        ask_ahead(h);
        wn_row_block_channels(vectors, pairs, n, block + d, stride, weights,
                              out + d * vectors * WN_VL);
    }
}

/* outputs += V^T P for channels [first, end). */
static void multiply_values(item *u, panel p, int64_t keys, int64_t first, int64_t end, ahead *h)
{
    const wn_mla_form *f = &u->call->form;
    const float *weights = scores_of(u, p);
    float *out = outputs(u, p);
#ifdef __AVX512BF16__
    if (f->pair_values) {
        const float *v = wn_mla_block_values(f, u->block);
        int64_t n = (keys + 1) / 2;
        if (p.vectors == 2)
            multiply_values_of(2, true, n, first, end, v, f->value_stride, weights, out, h);
        else
            multiply_values_of(1, true, n, first, end, v, f->value_stride, weights, out, h);
        return;
    }
#endif
    if (p.vectors == 2)
        multiply_values_of(2, false, keys, first, end, u->block, f->float_stride, weights, out, h);
    else
        multiply_values_of(1, false, keys, first, end, u->block, f->float_stride, weights, out, h);
}

/* A number of a vector of floats or of pairs. */
static float number_at(const float *words, bool pairs, int64_t t, int64_t stride, int64_t i)
{
    uint16_t half;
    if (!pairs)
        return words[t * stride + i];
    memcpy(&half, (const char *)(words + t / 2 * stride + i) + t % 2 * 2, sizeof half);
    return (float)wn_bf16_to_double(half);
}

/* The same where a score is -inf, as infinite keys have: such a key has weight 0 and its value,
 * infinite too, does not count. One number at a time. */
static void multiply_seen_values(item *u, panel p, int64_t keys)
{
    const wn_mla_form *f = &u->call->form;
    bool pairs = f->pair_values;
    const float *values = pairs ? wn_mla_block_values(f, u->block) : u->block;
    int64_t width = p.vectors * WN_VL, stride = pairs ? f->value_stride : f->float_stride;
    float *out = outputs(u, p);
    for (int64_t d = 0; d < u->call->v_dim; d++)
        for (int64_t t = 0; t < keys; t++)
            for (int64_t lane = 0; lane < width; lane++) {
                float weight = number_at(scores_of(u, p), pairs, t, width, lane);
                if (weight != 0)
                    out[d * width + lane] =
                        fmaf(weight, number_at(values, pairs, t, stride, d), out[d * width + lane]);
            }
}

static void attend_block(item *u, const wn_mla_key *key, int64_t keys, ahead *h)
{
    const call *c = u->call;
    float key_scale[WN_MLA_MOST_KEYS];
    wn_mla_load_keys(c->args, &c->form, key, keys, u->block);
    for (int64_t t = 0; t < keys; t++) {
        key_scale[t] = key[t].scale;
        u->scale[t] = (float)(M_LOG2E * c->args->softmax_scale * key[t].scale);
    }
    uint64_t unseen = 0; /* a bit per panel */
    for (int64_t lane = 0; lane < u->lanes; lane += WN_PANEL) {
        panel p = panel_at(u, lane);
        multiply_keys(u, p, keys);
        unseen |= (uint64_t)raise_maxima(u, p, keys) << lane / WN_PANEL;
        weigh(u, p, keys, key_scale);
    }
    for (int64_t d = 0; d < c->out_rows; d += SLICE)
        for (int64_t lane = 0; lane < u->lanes; lane += WN_PANEL) {
            int64_t end = d + SLICE < c->out_rows ? d + SLICE : c->out_rows;
            if (!(unseen >> lane / WN_PANEL & 1))
                multiply_values(u, panel_at(u, lane), keys, d, end, h);
            else if (d == 0)
                multiply_seen_values(u, panel_at(u, lane), keys);
        }
}

/* ---------------------------------------------------------------- parts */

static int64_t entries_of(const call *c, int64_t row)
{
    return wn_mla_entries(c->args, 0, row) + wn_mla_entries(c->args, 1, row);
}

/* Entries of a part of a row with this many: whole blocks, so that no part ends in a small one. */
static int64_t part_size(const call *c, int64_t entries)
{
    int64_t size = entries / PARTS < PART ? PART : entries / PARTS;
    return (size + c->form.most - 1) / c->form.most * c->form.most;
}
static int64_t parts_of(const call *c, int64_t row)
{
    int64_t entries = entries_of(c, row), size = part_size(c, entries);
    return entries == 0 ? 1 : (entries + size - 1) / size;
}

/* The state of the heads after the keys of one part, from nothing. */
static void attend_part(item *u, int64_t part)
{
    const call *c = u->call;
    int64_t entries = entries_of(c, u->row), size = part_size(c, entries);
    int64_t end = (part + 1) * size < entries ? (part + 1) * size : entries;
    wn_mla_walk walk = {c->args, u->row, part * size, end};
    for (int64_t i = 0; i < u->lanes; i++)
        u->maximum[i] = u->base[i] = -INFINITY, u->sum[i] = u->divisor[i] = 0;
    memset(u->heads + u->lanes * c->dim, 0, 4 * (size_t)(u->lanes * c->out_rows));
    int64_t now = wn_mla_next_keys(&walk, c->form.most, u->key[0]), next;
    ahead first = {c->args, u->key[0], u->key[0] + now, NULL, NULL, INT64_MAX};
    ask_ahead(&first);
    int64_t turns = (u->lanes + WN_PANEL - 1) / WN_PANEL * (c->out_rows / WN_ROW_BLOCK);
    for (int k = 0; now > 0; k ^= 1, now = next) {
        next = wn_mla_next_keys(&walk, c->form.most, u->key[k ^ 1]);
        int64_t lines =
            next * (c->args->q.shape[2] / 16 + 2); /* enough for every dtype but f32's */
        ahead h = {c->args, u->key[k ^ 1], u->key[k ^ 1] + next,
                   NULL,    NULL,          (lines + turns - 1) / turns};
        attend_block(u, u->key[k], now, &h);
    }
}

/* ---------------------------------------------------------------- states of heads */

/* A head's state is its output, not yet divided, its base, sum, maximum and divisor: v_dim + STATE
 * floats. Heads [lane, lane + 8) of an item, `stride` floats apart. */
static void take_states(item *u, int64_t lane, float *state, int64_t stride)
{
    panel p = panel_at(u, lane / WN_PANEL * WN_PANEL);
    int64_t width = p.vectors * WN_VL, v_dim = u->call->v_dim;
    const float *out = outputs(u, p) + lane - p.first;
    for (int64_t d = 0; d < v_dim; d += 8) {
        __m256 r[8];
        for (int64_t i = 0; i < 8; i++)
            r[i] = _mm256_loadu_ps(out + (d + i) * width);
        wn_transpose_8x8(r);
        for (int64_t i = 0; i < 8; i++)
            _mm256_storeu_ps(state + i * stride + d, r[i]);
    }
    for (int64_t i = 0; i < 8; i++) {
        state[i * stride + v_dim] = u->base[lane + i];
        state[i * stride + v_dim + 1] = u->sum[lane + i];
        state[i * stride + v_dim + 2] = u->maximum[lane + i];
        state[i * stride + v_dim + 3] = u->divisor[lane + i];
    }
}

static float exp2_of(float x)
{
    float lanes[WN_VL];
    wn_vf_store(lanes, wn_vf_exp2(wn_vf_set(x)));
    return lanes[0];
}

/* A further part joins the total. */
static void merge_state(float *total, const float *part, int64_t v_dim)
{
    float before = total[v_dim], other = part[v_dim], base = before > other ? before : other;
    float whole = exp2_of(before - (base == -INFINITY ? 0 : base));
    float added = exp2_of(other - (base == -INFINITY ? 0 : base));
    wn_vf a = wn_vf_set(whole), b = wn_vf_set(added);
    int64_t d = 0;
    for (; d + WN_VL <= v_dim; d += WN_VL)
        wn_vf_store(total + d,
                    wn_vf_fma(wn_vf_load(part + d), b, wn_vf_mul(wn_vf_load(total + d), a)));
    if (d < v_dim)
        wn_vf_store_first(total + d,
                          wn_vf_fma(wn_vf_load_first(part + d, v_dim - d), b,
                                    wn_vf_mul(wn_vf_load_first(total + d, v_dim - d), a)),
                          v_dim - d);
    total[v_dim] = base;
    total[v_dim + 1] = fmaf(part[v_dim + 1], added, total[v_dim + 1] * whole);
    total[v_dim + 2] = fmaxf(total[v_dim + 2], part[v_dim + 2]);
    total[v_dim + 3] = fmaf(part[v_dim + 3], added, total[v_dim + 3] * whole);
}

WN_INLINE void store_halves(const uint32_t dtype, uint16_t *out, wn_vf x)
{
#ifdef __AVX512F__
    if (dtype == WN_F16) {
        _mm256_storeu_si256((__m256i *)out, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
        return;
    }
#else
    if (dtype == WN_F16) {
        _mm_storeu_si128((__m128i *)out, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
        return;
    }
#endif
    x = wn_vf_select(wn_vf_is_nan(x), x, wn_vf_set(NAN)); /* other NaN bits might carry over */
    wn_mla_ints bits = (wn_mla_ints)wn_vf_bits(x);
    bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
#ifdef __AVX512F__
    _mm256_storeu_si256((__m256i *)out, _mm512_cvtepi32_epi16((__m512i)bits));
#else
    __m256i two = _mm256_packus_epi32((__m256i)(bits & 0xffff), (__m256i)(bits & 0xffff));
    _mm_storeu_si128((__m128i *)out, _mm256_castsi256_si128(_mm256_permute4x64_epi64(two, 8)));
#endif
}

WN_INLINE void store_output(const uint32_t dtype, void *out, const float *state, int64_t n,
                            wn_vf factor)
{
    int64_t d = 0;
    for (; d + WN_VL <= n; d += WN_VL) {
        wn_vf x = wn_vf_mul(wn_vf_load(state + d), factor);
        if (dtype == WN_F32)
            wn_vf_store((float *)out + d, x);
        else
            store_halves(dtype, (uint16_t *)out + d, x);
    }
    float rest[WN_VL];
    wn_vf_store(rest, wn_vf_mul(wn_vf_load_first(state + d, n - d), factor));
    for (int64_t i = 0; d + i < n; i++)
        wn_store(out, dtype, d + i, rest[i]);
}

static void write_number(const wn_tensor *tensor, int64_t row, int64_t head, double value)
{
    if (tensor->data != NULL)
        wn_store(tensor->data, tensor->dtype, row * tensor->stride[0] + head * tensor->stride[1],
                 value);
}

/* What a head gives. The sink joins the denominator of the output alone; where there is no key, or
 * the sink is infinite, the output is 0 whatever the state holds: it is cleared. */
static void write_head(const call *c, int64_t row, int64_t head, float *state)
{
    const wn_mla_args *a = c->args;
    double base = M_LN2 * state[c->v_dim], sum = state[c->v_dim + 1];
    double sink = a->sinks != NULL ? a->sinks[head] : -INFINITY;
    double divisor = state[c->v_dim + 3];
    double whole = sum == 0 || sink == -INFINITY ? divisor : divisor + exp(sink - base);
    float factor = (float)(1 / whole);
    if (sum == 0 || sink == INFINITY) {
        memset(state, 0, 4 * (size_t)c->v_dim);
        factor = 0;
    }
    int64_t step = a->out.stride[2];
    int64_t start = row * a->out.stride[0] + head * a->out.stride[1];
    char *out = (char *)a->out.data + start * wn_number_bytes(a->out.dtype);
    if (step == 1 && a->out.dtype == WN_F32)
        store_output(WN_F32, out, state, c->v_dim, wn_vf_set(factor));
    else if (step == 1 && a->out.dtype == WN_BF16)
        store_output(WN_BF16, out, state, c->v_dim, wn_vf_set(factor));
    else if (step == 1)
        store_output(WN_F16, out, state, c->v_dim, wn_vf_set(factor));
    for (int64_t d = 0; step != 1 && d < c->v_dim; d++)
        wn_store(out, a->out.dtype, d * step, state[d] * factor);
    if (a->lse.data != NULL)
        write_number(&a->lse, row, head, sum == 0 ? -INFINITY : base + log(sum));
    write_number(&a->max_logits, row, head, isnan(sum) ? (double)NAN : M_LN2 * state[c->v_dim + 2]);
}

/* ---------------------------------------------------------------- items */

/* Where a part's states lie in the workspace: [rows of the round][parts][heads][v_dim + STATE]. */
static float *state_at(const call *c, int64_t row, int64_t part, int64_t head)
{
    int64_t at = ((row - c->first) * c->parts + part) * c->args->q.shape[1] + head;
    return (float *)c->args->workspace + at * (c->v_dim + STATE);
}

/* What becomes of the item's states after a part of `parts`. The block's memory is free then. */
static void keep_states(item *u, int64_t part, int64_t parts)
{
    const call *c = u->call;
    int64_t size = c->v_dim + STATE, stride = (size + 7) / 8 * 8;
    for (int64_t lane = 0; lane < u->count; lane += 8) {
        take_states(u, lane, u->block, stride);
        for (int64_t i = lane; i < u->count && i < lane + 8; i++) {
            float *state = u->block + (i - lane) * stride, *total = totals(u) + i * size;
            if (parts == 1) {
                write_head(c, u->row, u->first + i, state);
                continue;
            }
            if (c->shared)
                total = state_at(c, u->row, part, u->first + i);
            if (c->shared || part == 0)
                memcpy(total, state, 4 * (size_t)(c->v_dim + USED));
            else
                merge_state(total, state, c->v_dim);
            if (!c->shared && part == parts - 1)
                write_head(c, u->row, u->first + i, total);
        }
    }
}

static void begin_item(item *u, const call *c, int64_t row, int64_t block)
{
    u->call = c;
    u->row = row;
    u->first = block * c->heads;
    u->count = c->args->q.shape[1] - u->first;
    u->count = u->count < c->heads ? u->count : c->heads;
    u->lanes = (u->count + WN_VL - 1) / WN_VL * WN_VL;
    load_queries(u);
}

/* Items are rows, their parts if shared, and blocks of heads: neighbours read the same keys. */
static void run_item(void *argument, int64_t i)
{
    const call *c = argument;
    item u; /* not initialised as a whole: it is large */
    int64_t block = i % c->blocks, rest = i / c->blocks;
    int64_t row = c->first + (c->shared ? rest / c->parts : rest), parts = parts_of(c, row);
    int64_t part = c->shared ? rest % c->parts : 0, end = c->shared ? part + 1 : parts;
    if (part >= parts)
        return;
    begin_item(&u, c, row, block);
    for (; part < end; part++) {
        attend_part(&u, part);
        keep_states(&u, part, parts);
    }
}

/* Merges the parts of one head of a row. */
static void merge_parts(void *argument, int64_t i)
{
    const call *c = argument;
    int64_t heads = c->args->q.shape[1], row = c->first + i / heads, head = i % heads;
    int64_t parts = parts_of(c, row);
    float *total = state_at(c, row, 0, head);
    for (int64_t part = 1; part < parts; part++)
        merge_state(total, state_at(c, row, part, head), c->v_dim);
    if (parts > 1)
        write_head(c, row, head, total);
}

/* Cuts the heads of a row into equal blocks of whole vectors: as many heads as the stack holds with
 * `words` of state each, fewer where threads would have nothing to do. */
static void cut_heads(call *c, int64_t words, int64_t items, int64_t threads)
{
    int64_t heads = c->args->q.shape[1], most = HEAD_WORDS / words;
    most = most < HEADS ? most / WN_VL * WN_VL : HEADS;
    while (most > WN_PANEL && items * ((heads + most - 1) / most) < threads)
        most = most / 2 / WN_VL * WN_VL;
    c->blocks = (heads + most - 1) / most;
    c->heads = ((heads + c->blocks - 1) / c->blocks + WN_VL - 1) / WN_VL * WN_VL;
    if (c->heads > WN_PANEL && most % WN_PANEL == 0) /* whole panels */
        c->heads = (c->heads + WN_PANEL - 1) / WN_PANEL * WN_PANEL;
    c->blocks = (heads + c->heads - 1) / c->heads;
}

/* All rows, in rounds of as many as the workspace has room for. */
static void run_shared(call *c, const wn_executor *executor, int64_t rows, int64_t at_once)
{
    for (; c->first < rows; c->first += at_once) {
        int64_t count = rows - c->first < at_once ? rows - c->first : at_once;
        wn_for_each(executor, count * c->parts * c->blocks, run_item, c);
        wn_for_each(executor, count * c->args->q.shape[1], merge_parts, c);
    }
}

wn_status WN_CPU(mla)(const wn_mla_args *args)
{
    wn_status status = wn_refuse_mla(args);
    int64_t rows = args->q.shape[0], heads = args->q.shape[1], entries = 0;
    if (status != WN_OK || rows == 0 || heads == 0)
        return status;
    call c = {.args = args, .form = wn_mla_form_of(args), .v_dim = args->v_dim, .parts = 1};
    c.dim = c.form.pair_keys ? (args->q.shape[2] + 1) / 2 : args->q.shape[2];
    c.out_rows = (c.v_dim + WN_ROW_BLOCK - 1) / WN_ROW_BLOCK * WN_ROW_BLOCK;
    for (int64_t row = 0; row < rows; row++) {
        int64_t parts = parts_of(&c, row);
        c.parts = parts > c.parts ? parts : c.parts;
        entries += entries_of(&c, row);
    }
    const wn_executor *executor =
        entries * heads * (args->q.shape[2] + c.v_dim) < SMALL ? NULL : args->executor;
    int64_t threads = executor != NULL ? executor->num_threads : 1;
    int64_t room = args->workspace != NULL ? args->workspace_bytes : 0;
    int64_t at_once = room / (c.parts * heads * (c.v_dim + STATE) * 4);
    c.shared = c.parts > 1 && at_once > 0;
    cut_heads(&c, c.dim + c.out_rows + (c.parts > 1 && !c.shared ? c.v_dim + STATE : 0),
              c.shared ? at_once * c.parts : rows, threads);
    if (c.shared)
        run_shared(&c, executor, rows, at_once);
    else
        wn_for_each(executor, rows * c.blocks, run_item, &c);
    return WN_OK;
}
