/* context_keys.h: the keys of context attention, block by block: gathered from the cache's pages,
 * converted and packed once (block_fma.h), then used by all panels of an item. The blocking depends
 * on the request and the dims alone, never on who else is in the item. */
#ifndef WN_CPU_CONTEXT_KEYS_H
#define WN_CPU_CONTEXT_KEYS_H

#include "kernels/cpu/attend_keys.h"
#include "kernels/cpu/block_fma.h"

/* Keys of a block at most, and policy tiles that it may hold. */
enum { BLOCK_KEYS = 128, BLOCK_TILES = 16 };

/* What the dims and dtypes of a call decide. Sizes in floats (or pairs of bfloat16). */
typedef struct context_shape {
    const wn_attend_args *args;
    int64_t k_dim, v_dim;
    bool dot_k, dot_v;       /* pairs of bfloat16 for Q K^T, for P V */
    int64_t keys;            /* of a block: as many as fit into half of L2's share */
    wn_block_cut k_cut;      /* of the block's keys */
    wn_block_cut v_cut;      /* of the values' channels */
    int64_t k_depth;         /* numbers of a packed row of K or Q: k_dim, or pairs */
    int64_t k_size, v_size;  /* of a packed block */
    int64_t q_size, o_size;  /* of a panel's queries, of its outputs */
    float q_scale;           /* what queries are multiplied by when they are packed */
    float before, after;     /* scores: factor before ALiBi and soft cap, factor in the exponent */
    float cap, cap_unit;     /* soft cap in units of its scores; what makes it base 2 */
    float slope_unit;        /* of ALiBi's slopes */
    bool transforms, window; /* ALiBi or soft cap; a sliding window */
} context_shape;

/* One block. Keys [tile_begin[i], tile_begin[i + 1]) are those of a policy's tile tile[i]. */
typedef struct context_block {
    int64_t head;
    int64_t group; /* number of the block */
    int64_t count, tiles;
    bool partial; /* some row does not see some key */
    int64_t tile[BLOCK_TILES], tile_begin[BLOCK_TILES + 1];
    int32_t slot[BLOCK_KEYS], position[BLOCK_KEYS];
    const void *k_row[BLOCK_KEYS], *v_row[BLOCK_KEYS];
    float k_scale[BLOCK_KEYS], v_scale[BLOCK_KEYS];
    int32_t page[BLOCK_KEYS], place[BLOCK_KEYS];
    bool k_scaled, v_scaled;
    bool odd_values; /* a packed value is infinite or NaN: 0 times it is not 0 */
    uint32_t packed; /* a bit for each tile whose values are packed */
    float *k, *v;    /* packed */
    float *loaded;   /* [8][k_dim], where a layout has no rows to pack from */
} context_block;

/* Where blocks come from. */
typedef struct context_source {
    const context_shape *shape;
    wn_key_walk walk;
    wn_key_block next;
    bool has_next;
    int64_t head;
    int64_t group; /* ordinals of a block: the shape's keys; while voting, a tile's */
    int64_t tile_k;
    const uint8_t *skipped; /* a bit for each tile that is left out, and tiles then lose their
                               numbers; NULL: none */
} context_source;

static void source_begin(context_source *s, const context_shape *shape, int64_t request,
                         int64_t head, int64_t first_token, int64_t num_tokens, int64_t row,
                         int64_t step)
{
    s->shape = shape;
    s->walk = wn_key_walk_begin(shape->args, request, head, first_token, num_tokens, row, step);
    s->has_next = wn_key_walk_next(&s->walk, &s->next);
    s->head = head;
    s->group = shape->keys;
    s->tile_k = step;
    s->skipped = NULL;
}

static const void *row_of(const wn_kv_view *view, int64_t offset, int64_t head)
{
    return (const char *)view->data +
           (offset + head * view->head_stride) * (int64_t)wn_number_bytes(view->dtype);
}

static void append_tile(const context_source *s, context_block *b)
{
    const wn_paged_kv *kv = &s->shape->args->kv;
    const wn_key_block *from = &s->next;
    int64_t n = b->count;
    for (int64_t j = 0; j < from->count; j++) {
        b->slot[n + j] = (int32_t)from->slot[j];
        b->page[n + j] = from->page[j];
        b->place[n + j] = from->place[j];
        b->k_row[n + j] = row_of(&kv->k, from->k[j], s->head);
        b->v_row[n + j] = row_of(&kv->v, from->v[j], s->head);
    }
    if (s->walk.wants_position)
        memcpy(b->position + n, from->position, (size_t)from->count * sizeof *b->position);
    b->k_scaled = wn_key_scales(&kv->k, from, s->head, b->k_scale + n);
    b->v_scaled = wn_key_scales(&kv->v, from, s->head, b->v_scale + n);
    b->partial |= from->partial;
    b->count += from->count;
}

/* The next block that has keys; its tiles are those of the walk's step. False at the end. */
static bool source_next(context_source *s, context_block *b)
{
    b->count = b->tiles = 0;
    b->partial = b->odd_values = false;
    b->packed = 0;
    b->head = s->head;
    while (s->has_next) {
        int64_t ordinal = s->next.tile * s->walk.step;
        if (b->count > 0 && (ordinal / s->group != b->group ||
                             b->count + s->next.count > s->shape->keys || b->tiles == BLOCK_TILES))
            break;
        int64_t tile = ordinal / s->tile_k;
        bool skip = s->skipped != NULL && (s->skipped[tile / 8] >> tile % 8 & 1);
        if (s->next.count > 0 && !skip) {
            b->group = ordinal / s->group;
            if (b->tiles == 0 || (s->skipped == NULL && b->tile[b->tiles - 1] != tile)) {
                b->tile[b->tiles] = tile;
                b->tile_begin[b->tiles++] = b->count;
            }
            append_tile(s, b);
        }
        s->has_next = wn_key_walk_next(&s->walk, &s->next);
    }
    b->tile_begin[b->tiles] = b->count;
    return b->count > 0;
}

/* ---------------------------------------------------------------- packing */

/* Block by block of `cut`, rows from `row` on: its rows, and where they begin. */
WN_INLINE int64_t cut_rows_at(wn_block_cut cut, int64_t row)
{
    return row < cut.whole * WN_BLOCK_ROWS ? WN_BLOCK_ROWS : WN_BLOCK_FEW;
}

/* Each block of rows goes to L1 while the one before it is packed. */
static void pack_keys(const context_shape *shape, context_block *b)
{
    const wn_kv_view *view = &shape->args->kv.k;
    const int64_t bytes = shape->k_dim * (int64_t)wn_number_bytes(view->dtype);
    const int64_t fetched = view->layout == WN_LAYOUT_STRIDED ? b->count : 0;
    int64_t depth = shape->k_depth, rows;
    for (int64_t t = 0; t < b->count; t += rows) {
        int64_t n = b->count - t;
        rows = cut_rows_at(shape->k_cut, t);
        n = n < rows ? n : rows;
        for (int64_t i = t + rows; i < fetched && i < t + 2 * rows; i++)
            wn_fetch_row(b->k_row[i], bytes, true);
#ifdef __AVX512BF16__
        if (shape->dot_k) {
            wn_pack_row_pairs((const uint16_t *const *)(b->k_row + t), n, shape->k_dim,
                              (uint32_t *)b->k + t * depth, rows);
            continue;
        }
#endif
        const float *scale = b->k_scaled ? b->k_scale + t : NULL;
        if (view->layout == WN_LAYOUT_STRIDED) {
            wn_pack_rows(view->dtype, b->k_row + t, n, scale, shape->k_dim, b->k + t * depth, rows);
            continue;
        }
        const void *row[8];
        for (int64_t i = 0; i < n; i++) {
            row[i] = b->loaded + i * shape->k_dim;
            wn_key_load(view, shape->args->kv.tokens_per_page, b->page[t + i], b->head,
                        b->place[t + i], b->loaded + i * shape->k_dim);
        }
        wn_pack_rows(WN_F32, row, n, scale, shape->k_dim, b->k + t * depth, rows);
    }
}

/* Values are packed for this many keys at a time, channels after channels: a packed line is written
 * whole while it is in L1, and the next keys' rows come there. */
enum { PACK_KEYS = 16 };

/* Eight numbers of a row of `dim`, from number d on; behind its end there are zeros. */
WN_INLINE __m256 last_channels(const uint32_t dtype, const char *row, int64_t d, int64_t dim)
{
    const int64_t bytes = dtype == WN_F32 ? 4 : dtype == WN_F16 || dtype == WN_BF16 ? 2 : 1;
    if (dim < 8)
        return wn_eight_from_first(dtype, row + d * bytes, dim - d);
    __m256i from = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                                    _mm256_set1_epi32((int32_t)(d + 8 - dim)));
    __m256i beyond = _mm256_cmpgt_epi32(from, _mm256_set1_epi32(7));
    __m256 last = _mm256_permutevar8x32_ps(wn_eight_from(dtype, row + (dim - 8) * bytes), from);
    return _mm256_andnot_ps(_mm256_castsi256_ps(beyond), last);
}

/* Channels d .. d + rows, of the keys [t, end), to their block of v_cut. within: eight channels
 * are there. With rows of 6, eight numbers are written where the next key's own will follow; behind
 * the `last` key there may be another tile's. Adds 0 times each number to `odd`, which becomes NaN
 * with the first that is infinite or NaN. */
WN_INLINE __m256 place_channels(const uint32_t dtype, const bool within, const context_shape *shape,
                                const context_block *b, const float *scale, const int64_t rows,
                                int64_t d, int64_t t, int64_t end, int64_t last, __m256 odd)
{
    const int64_t bytes = dtype == WN_F32 ? 4 : dtype == WN_F16 || dtype == WN_BF16 ? 2 : 1;
    const int64_t dim = shape->v_dim, ahead = end + PACK_KEYS - 1 <= last ? PACK_KEYS : 0;
    const void *const *row = b->v_row;
    float *to = b->v + d * shape->keys + t * rows;
    for (; t < end; t++, to += rows) {
        __m256 x = within ? wn_eight_from(dtype, (const char *)row[t] + d * bytes)
                          : last_channels(dtype, row[t], d, dim);
        _mm_prefetch((const char *)row[t + ahead] + d * bytes, _MM_HINT_T0);
        if (scale != NULL)
            x = _mm256_mul_ps(x, _mm256_set1_ps(scale[t]));
        odd = _mm256_fmadd_ps(x, _mm256_setzero_ps(), odd);
        if (rows == 8 || (rows > 4 && t < last)) {
            _mm256_storeu_ps(to, x);
            continue;
        }
        _mm_storeu_ps(to, _mm256_castps256_ps128(x));
        if (rows > 4)
            _mm_storel_pi((__m64 *)(to + 4), _mm256_extractf128_ps(x, 1));
    }
    return odd;
}

WN_INLINE __m256 place_values_of(const uint32_t dtype, const context_shape *shape,
                                 const context_block *b, const float *scale, int64_t begin,
                                 int64_t end)
{
    const int64_t whole = shape->v_cut.whole * WN_BLOCK_ROWS, last = end - 1;
    __m256 odd = _mm256_setzero_ps();
    for (int64_t t = begin; t < end; t += PACK_KEYS) {
        int64_t d = 0, to = t + PACK_KEYS < end ? t + PACK_KEYS : end;
        for (; d + 8 <= shape->v_dim && d < whole; d += WN_BLOCK_ROWS)
            odd = place_channels(dtype, true, shape, b, scale, WN_BLOCK_ROWS, d, t, to, last, odd);
        for (; d < whole; d += WN_BLOCK_ROWS)
            odd = place_channels(dtype, false, shape, b, scale, WN_BLOCK_ROWS, d, t, to, last, odd);
        for (; d < wn_block_cut_rows(shape->v_cut); d += WN_BLOCK_FEW)
            odd = place_channels(dtype, false, shape, b, scale, WN_BLOCK_FEW, d, t, to, last, odd);
    }
    return odd;
}

/* True if a value of the keys [begin, end) is infinite or NaN. */
static bool place_values(const context_shape *shape, context_block *b, int64_t begin, int64_t end)
{
    const wn_kv_view *view = &shape->args->kv.v;
    const float *scale = b->v_scaled ? b->v_scale : NULL;
    float loaded[WN_MAX_HEAD_DIM];
    __m256 odd = _mm256_setzero_ps();
    for (int64_t t = begin; t < end && view->layout != WN_LAYOUT_STRIDED; t++) {
        wn_key_load(view, shape->args->kv.tokens_per_page, b->page[t], b->head, b->place[t],
                    loaded);
        b->v_row[t] = loaded;
        odd = _mm256_add_ps(odd, place_values_of(WN_F32, shape, b, scale, t, t + 1));
    }
    if (view->layout == WN_LAYOUT_STRIDED)
        switch (view->dtype) {
        case WN_F16:
            odd = place_values_of(WN_F16, shape, b, scale, begin, end);
            break;
        case WN_BF16:
            odd = scale == NULL ? place_values_of(WN_BF16, shape, b, NULL, begin, end)
                                : place_values_of(WN_BF16, shape, b, scale, begin, end);
            break;
        case WN_F8_E4M3:
            odd = place_values_of(WN_F8_E4M3, shape, b, scale, begin, end);
            break;
        case WN_I8:
            odd = place_values_of(WN_I8, shape, b, scale, begin, end);
            break;
        default:
            odd = place_values_of(WN_F32, shape, b, scale, begin, end);
        }
    return _mm256_movemask_ps(_mm256_cmp_ps(odd, odd, _CMP_UNORD_Q)) != 0;
}

#ifdef __AVX512BF16__
/* Pair t / 2 of the values of keys t and t + 1, from channel d on. low, high: their rows; NULL
 * where a half belongs to nobody, and then 0, or to another tile that is packed already (keep: its
 * bits). True if an exponent is that of infinity or NaN. */
static bool pack_value_pair(const context_shape *shape, uint32_t *packed, int64_t t, int64_t d,
                            const uint16_t *low, const uint16_t *high, uint32_t keep)
{
    const __m256i exponent = _mm256_set1_epi16(0x7f80);
    __mmask16 odd = 0;
    int64_t rows;
    for (; d < wn_block_cut_rows(shape->v_cut); d += rows) {
        rows = cut_rows_at(shape->v_cut, d);
        int64_t n = shape->v_dim - d < rows ? shape->v_dim - d : rows;
        __mmask8 lanes = (__mmask8)((1u << n) - 1), all = (__mmask8)((1u << rows) - 1);
        uint32_t *to = packed + d * (shape->keys / 2) + t / 2 * rows;
        __m256i x = _mm256_setzero_si256();
        if (keep != 0)
            x = _mm256_and_si256(_mm256_maskz_loadu_epi32(all, to), _mm256_set1_epi32((int)keep));
        if (low != NULL)
            x = _mm256_or_si256(x, _mm256_cvtepu16_epi32(_mm_maskz_loadu_epi16(lanes, low + d)));
        if (high != NULL)
            x = _mm256_or_si256(
                x, _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_maskz_loadu_epi16(lanes, high + d)),
                                     16));
        odd |= _mm256_cmpeq_epi16_mask(_mm256_and_si256(x, exponent), exponent);
        _mm256_mask_storeu_epi32(to, all, x);
    }
    return odd != 0;
}

static bool is_packed(const context_block *b, int64_t tile)
{
    return tile >= 0 && tile < b->tiles && b->packed >> tile & 1;
}

/* Whole pairs of the keys [begin, end), both even, as far as there are eight channels at a time.
 * Returns the greatest magnitudes, and those in `odd`. */
static __m256i pack_value_pairs(const context_shape *shape, const context_block *b, int64_t begin,
                                int64_t end, int64_t whole, __m256i odd)
{
    const __m256i magnitude = _mm256_set1_epi16(0x7fff);
    const int64_t dim = shape->v_dim, step = shape->keys / 2;
    const int64_t ahead = end + PACK_KEYS <= whole ? PACK_KEYS : 0;
    const void *const *row = b->v_row;
    uint32_t *out = (uint32_t *)b->v + begin * 4;
    for (int64_t d = 0; d + 8 <= dim; d += 8, out += 8 * step)
        for (int64_t t = begin; t < end; t += 2) {
            __m128i low = _mm_loadu_si128((const __m128i *)((const uint16_t *)row[t] + d));
            __m128i high = _mm_loadu_si128((const __m128i *)((const uint16_t *)row[t + 1] + d));
            __m256i x =
                _mm256_set_m128i(_mm_unpackhi_epi16(low, high), _mm_unpacklo_epi16(low, high));
            _mm_prefetch((const uint16_t *)row[t + ahead] + d, _MM_HINT_T0);
            _mm_prefetch((const uint16_t *)row[t + 1 + ahead] + d, _MM_HINT_T0);
            odd = _mm256_max_epu16(_mm256_and_si256(x, magnitude), odd);
            _mm256_storeu_si256((__m256i *)(out + (t - begin) * 4), x);
        }
    return odd;
}

static void pack_tile_pairs(const context_shape *shape, context_block *b, int64_t tile)
{
    const int64_t begin = b->tile_begin[tile], end = b->tile_begin[tile + 1];
    const int64_t whole = end & ~(int64_t)1, all = shape->v_dim & ~(int64_t)7;
    uint32_t *out = (uint32_t *)b->v;
    __m256i odd = _mm256_setzero_si256();
    int64_t t = begin & ~(int64_t)1;
    if (t < begin) {
        uint32_t keep = is_packed(b, tile - 1) ? 0xffff : 0;
        b->odd_values |= pack_value_pair(shape, out, t, 0, NULL, b->v_row[begin], keep);
        t += 2;
    }
    for (int64_t i = t; i < whole; i += PACK_KEYS)
        odd = pack_value_pairs(shape, b, i, i + PACK_KEYS < whole ? i + PACK_KEYS : whole, whole,
                               odd);
    for (; t < whole && all < shape->v_dim; t += 2)
        b->odd_values |= pack_value_pair(shape, out, t, all, b->v_row[t], b->v_row[t + 1], 0);
    if (end > whole && end > begin) {
        uint32_t keep = is_packed(b, tile + 1) ? 0xffff0000 : 0;
        b->odd_values |= pack_value_pair(shape, out, whole, 0, b->v_row[whole], NULL, keep);
    }
    b->odd_values |= _mm256_movemask_epi8(_mm256_cmpgt_epi16(odd, _mm256_set1_epi16(0x7f7f))) != 0;
}
#endif

/* Packs the values of one of the block's tiles, unless they are. */
static void pack_values(const context_shape *shape, context_block *b, int64_t tile)
{
    if (b->packed >> tile & 1)
        return;
#ifdef __AVX512BF16__
    if (shape->dot_v)
        pack_tile_pairs(shape, b, tile);
#endif
    if (!shape->dot_v)
        b->odd_values |= place_values(shape, b, b->tile_begin[tile], b->tile_begin[tile + 1]);
    b->packed |= 1u << tile;
}

/* Part `part` of `parts` of a block's rows on their way into L2, where packing finds them. */
WN_INLINE void prefetch_rows(const context_shape *shape, const context_block *b, int64_t part,
                             int64_t parts)
{
    const wn_kv_view *k = &shape->args->kv.k, *v = &shape->args->kv.v;
    int64_t k_bytes = shape->k_dim * (int64_t)wn_number_bytes(k->dtype);
    int64_t v_bytes = shape->v_dim * (int64_t)wn_number_bytes(v->dtype);
    if (k->layout != WN_LAYOUT_STRIDED || v->layout != WN_LAYOUT_STRIDED)
        return;
    for (int64_t t = b->count * part / parts; t < b->count * (part + 1) / parts; t++) {
        wn_fetch_row(b->k_row[t], k_bytes, false);
        wn_fetch_row(b->v_row[t], v_bytes, false);
    }
}

#endif
