/* indexer_topk.c: scores of the keys that a query sees, and the best of them. Keys are converted a
 * strip at a time, once for some consecutive queries of a request, and scored by indexer_block.h;
 * scores go straight from the strip to the running choice of best_scores.h, so that no row of them
 * is in memory. A request with much work and few queries is cut into parts of its keys, whose best
 * wait in the caller's memory until they are put together: the choice is exact, so where the cuts
 * are changes nothing. */
#include "kernels/cpu/best_scores.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/indexer_block.h"
#include "kernels/indexer_element.h"
#include "kernels/parallel.h"
#include "kernels/ref/ref.h"
#include "kernels/refuse.h"
#include "kernels/tensor_element.h"

#include <stdatomic.h>

enum {
    STRIP = WN_INDEXER_STRIP,
    QUERIES = 4,              /* that share a strip */
    PACKED_WORDS = 48 * 1024, /* room for them: 192 KiB of stack */
    STRIP_WORDS = STRIP * WN_MAX_HEAD_DIM,
    LEAST_PART = 4096, /* keys; shorter parts cost more in packing than they bring */
    MOST_PARTS = 64,
    LEAST_SHARED_WORK = 1 << 21 /* products; less is not worth a second thread */
};

/* ---------------------------------------------------------------- how a call is done */

typedef struct plan {
    const wn_indexer_topk_args *args;
    int form;
    int64_t words;         /* of a vector; what a word holds is the form's */
    int64_t vectors;       /* of heads */
    int64_t query_words;   /* of a packed query */
    int64_t queries;       /* per item */
    int64_t work, threads; /* keys times queries of all requests; 1 thread: no parts */
    int combine;           /* second pass: parts are put together */
} plan;

/* What plan_request finds. */
typedef struct cut {
    int64_t groups, parts;
    int64_t part_keys;
    uint8_t *kept; /* of the request's first query and part */
} cut;

static int pick_form(const wn_indexer_topk_args *a)
{
#ifdef __AVX512VNNI__
    if (a->keys.dtype == WN_I8)
        return WN_INDEXER_I8_WIDE;
#else
    if (a->keys.dtype == WN_I8)
        return WN_INDEXER_I8;
#endif
#ifdef __AVX512BF16__
    if (a->q.dtype == WN_BF16 || a->q.dtype == WN_F8_E4M3)
        return WN_INDEXER_BF16;
#endif
    return WN_INDEXER_F32;
}

static int64_t words_of(int form, int64_t dim)
{
    int64_t per_word = form == WN_INDEXER_F32 ? 1 : form == WN_INDEXER_BF16 ? 2 : 4;
    int64_t words = (dim + per_word - 1) / per_word;
    return form == WN_INDEXER_I8 ? (words + 1) / 2 * 2 : words;
}

static plan make_plan(const wn_indexer_topk_args *a)
{
    plan p = {.args = a, .form = pick_form(a)};
    p.words = words_of(p.form, a->keys.dim);
    p.vectors = (a->q.shape[1] + WN_VL - 1) / WN_VL;
    p.query_words = p.vectors * wn_packed_stride(p.words);
    p.queries = p.query_words > 0 ? PACKED_WORDS / p.query_words : QUERIES;
    p.queries = p.queries < QUERIES ? p.queries : QUERIES;
    for (uint32_t b = 0; b < a->batch; b++)
        p.work += (int64_t)a->q_len[b] * a->length[b];
    p.threads = a->executor != NULL ? a->executor->num_threads : 1;
    if (a->scores.data != NULL || a->part_workspace == NULL || a->indices.shape[1] == 0)
        p.threads = 1;
    return p;
}

static int64_t kept_bytes(const plan *p)
{
    return 8 * p->args->indices.shape[1] + 64;
}

/* How request b is cut. *used: bytes of part_workspace that the requests before it have. */
static cut cut_request(const plan *p, uint32_t b, int64_t *used)
{
    const wn_indexer_topk_args *a = p->args;
    int64_t rows = a->q_len[b], length = a->length[b], k = a->indices.shape[1];
    cut c = {.groups = (rows + p->queries - 1) / p->queries, .parts = 1, .part_keys = INT64_MAX};
    if (p->threads == 1 || c.groups >= 2 * p->threads || rows * length * 2 * p->threads <= p->work)
        return c;
    c.part_keys = 2 * k > LEAST_PART ? 2 * k : LEAST_PART;
    if (c.part_keys * MOST_PARTS < length)
        c.part_keys = (length + MOST_PARTS - 1) / MOST_PARTS;
    c.parts = (length + c.part_keys - 1) / c.part_keys;
    int64_t bytes = rows * c.parts * kept_bytes(p);
    if (c.parts <= 1 || *used + bytes > a->part_workspace_bytes) {
        c.parts = 1;
        c.part_keys = INT64_MAX;
        return c;
    }
    c.kept = (uint8_t *)a->part_workspace + *used;
    *used += bytes;
    return c;
}

/* ---------------------------------------------------------------- queries */

/* Head `head` of a row as floats; returns the factor that its rounding asks for. */
static float load_head(const plan *p, int64_t row, int64_t head, float *x)
{
    const wn_tensor *q = &p->args->q;
    int64_t dim = p->args->keys.dim, at = wn_tensor_offset(q, row, head, 0);
    const uint8_t *from = (const uint8_t *)q->data + at * wn_number_bytes(q->dtype);
    if (q->stride[2] == 1)
        for (int64_t d = 0; d < dim; d += WN_VL) {
            int64_t n = dim - d < WN_VL ? dim - d : WN_VL;
            const void *element = from + d * wn_number_bytes(q->dtype);
            wn_vf_store(x + d, n == WN_VL ? wn_vf_from(q->dtype, element)
                                          : wn_vf_from_first(q->dtype, element, n));
        }
    else
        for (int64_t d = 0; d < dim; d++)
            x[d] = (float)wn_tensor_load(q, row, head, d);
    if (p->args->keys.dtype != WN_I8)
        return 1;
    float amax = 0, bad = 0;
    for (int64_t d = 0; d < dim; d++) {
        bad += x[d] - x[d]; /* NaN if it is not finite */
        amax = fabsf(x[d]) > amax ? fabsf(x[d]) : amax;
    }
    return wn_indexer_query_scale(amax + bad);
}

/* One head's words, WN_VL apart; *sum: of its codes, if it has codes. */
static void pack_head(const plan *p, const float *x, float scale, uint32_t *to, int32_t *sum)
{
    int64_t dim = p->args->keys.dim;
    *sum = 0;
    if (p->form == WN_INDEXER_F32)
        for (int64_t d = 0; d < dim; d++)
            memcpy(to + d * WN_VL, x + d, sizeof *x);
    else if (p->form == WN_INDEXER_BF16)
        for (int64_t d = 0; d < dim; d++) { /* exact: the lower half is 0 */
            uint32_t bits;
            memcpy(&bits, x + d, sizeof bits);
            to[d / 2 * WN_VL] |= d % 2 ? bits & 0xffff0000u : bits >> 16;
        }
    else if (!isnan(scale))
        for (int64_t d = 0; d < dim; d++) {
            int code = wn_indexer_query_code(x[d], scale);
            to[d / 4 * WN_VL] |= (uint32_t)(code & 0xff) << d % 4 * 8;
            *sum += code;
        }
}

/* Packs a row of q as indexer_block.h says. */
static void pack_query(const plan *p, int64_t row, uint32_t *to)
{
    const wn_indexer_topk_args *a = p->args;
    int64_t heads = a->q.shape[1];
    float x[WN_MAX_HEAD_DIM + WN_VL];
    memset(to, 0, (size_t)p->query_words * sizeof *to);
    for (int64_t h = 0; h < heads; h++) {
        uint32_t *words = to + h / WN_VL * wn_packed_stride(p->words) + h % WN_VL;
        uint32_t *extra = words + p->words * WN_VL;
        int32_t sum;
        float scale = load_head(p, row, h, x);
        pack_head(p, x, scale, words, &sum);
        double q_scale = a->q_scale != NULL ? a->q_scale[row * heads + h] : 1;
        float weight =
            (float)(wn_tensor_load(&a->weights, row, h, 0) * q_scale * a->weight_scale * scale);
        memcpy(extra, &weight, sizeof weight);
        extra[WN_VL] = a->keys.dtype == WN_I8 ? (uint32_t)(-64 * sum) : UINT32_MAX;
        extra[2 * WN_VL] = (uint32_t)(-128 * sum);
    }
}

/* ---------------------------------------------------------------- keys */

typedef struct strip {
    _Alignas(64) uint32_t word[STRIP_WORDS + 64];
    float scale[STRIP];
    int form; /* the plan's, or I8_WIDE where a code is not of seven bits */
} strip;

/* A key's numbers as floats. There is room for a vector beyond them. */
WN_INLINE void floats_of(uint32_t dtype, const uint8_t *from, int64_t dim, float *to)
{
    int64_t d = 0, bytes = dtype == WN_BF16 ? 2 : 1;
    for (; d + WN_VL <= dim; d += WN_VL)
        wn_vf_store(to + d, wn_vf_from(dtype, from + d * bytes));
    if (d < dim)
        wn_vf_store(to + d, wn_vf_from_first(dtype, from + d * bytes, dim - d));
}

#ifdef __AVX512BF16__
/* 32 e4m3 codes as bfloat16: exponent and mantissa move to their place and the exponent's bias
 * changes by 120; the eight codes without an exponent come from a table; NaN is set apart. */
WN_INLINE __m512i bf16_of_e4m3(__m256i code8)
{
    const __m512i small = _mm512_castsi128_si512(
        _mm_setr_epi16(0, 0x3b00, 0x3b80, 0x3bc0, 0x3c00, 0x3c20, 0x3c40, 0x3c60));
    __m512i code = _mm512_cvtepu8_epi16(code8);
    __m512i magnitude = _mm512_and_si512(code, _mm512_set1_epi16(0x7f));
    __m512i sign = _mm512_slli_epi16(_mm512_xor_si512(code, magnitude), 8);
    __m512i value = _mm512_add_epi16(_mm512_slli_epi16(magnitude, 4), _mm512_set1_epi16(120 << 7));
    value = _mm512_mask_permutexvar_epi16(
        value, _mm512_cmplt_epu16_mask(magnitude, _mm512_set1_epi16(8)), magnitude, small);
    value =
        _mm512_mask_mov_epi16(value, _mm512_cmpeq_epi16_mask(magnitude, _mm512_set1_epi16(0x7f)),
                              _mm512_set1_epi16(0x7fc0));
    return _mm512_or_si512(value, sign);
}

/* A key's numbers in pairs; words: ceil(dim / 2). */
WN_INLINE void pairs_of(uint32_t dtype, const uint8_t *from, int64_t dim, uint32_t *to)
{
    int64_t d = 0;
    if (dim % 2 != 0)
        to[dim / 2] = 0;
    if (dtype == WN_BF16) {
        memcpy(to, from, (size_t)dim * 2);
        return;
    }
    for (; d + 32 <= dim; d += 32)
        _mm512_storeu_si512(to + d / 2,
                            bf16_of_e4m3(_mm256_loadu_si256((const __m256i *)(from + d))));
    if (d < dim) {
        uint8_t rest[32] = {0};
        memcpy(rest, from + d, (size_t)(dim - d));
        _mm512_storeu_si512(to + d / 2, bf16_of_e4m3(_mm256_loadu_si256((const __m256i *)rest)));
    }
}
#endif

/* A key's codes plus `offset`. Returns a mask with a top bit where the result has one. */
WN_INLINE int bytes_of(const uint8_t *from, int64_t dim, int8_t offset, uint32_t *to)
{
    const __m256i add = _mm256_set1_epi8(offset);
    __m256i any = _mm256_setzero_si256();
    uint8_t rest[32] = {0};
    int64_t d = 0;
    for (; d + 32 <= dim; d += 32) {
        __m256i x = _mm256_add_epi8(_mm256_loadu_si256((const __m256i *)(from + d)), add);
        any = _mm256_or_si256(any, x);
        _mm256_storeu_si256((__m256i *)((uint8_t *)to + d), x);
    }
    if (d < dim) {
        memcpy(rest, from + d, (size_t)(dim - d));
        __m256i x = _mm256_add_epi8(_mm256_loadu_si256((const __m256i *)rest), add);
        any = _mm256_or_si256(any, x);
        _mm256_storeu_si256((__m256i *)((uint8_t *)to + d), x);
    }
    return _mm256_movemask_epi8(any);
}

/* Another key's words over the top of the last vector are written after it, in ascending order. */
WN_INLINE int convert_key(const plan *p, const uint8_t *from, uint32_t *to)
{
    uint32_t dtype = p->args->keys.dtype;
    int64_t dim = p->args->keys.dim;
    switch (p->form) {
    case WN_INDEXER_I8:
        return bytes_of(from, dim, 64, to);
    case WN_INDEXER_I8_WIDE:
        return bytes_of(from, dim, -128, to);
#ifdef __AVX512BF16__
    case WN_INDEXER_BF16:
        pairs_of(dtype, from, dim, to);
        return 0;
#endif
    default:
        if (dtype == WN_BF16)
            floats_of(WN_BF16, from, dim, (float *)to);
        else
            floats_of(WN_F8_E4M3, from, dim, (float *)to);
        return 0;
    }
}

/* Slots [first, first + count) of a request, count <= STRIP, and the next strip's lines on their
 * way, up to slot `end`. The rest of the strip becomes zero. */
static void load_strip(const plan *p, const int32_t *pages, int64_t first, int64_t count,
                       int64_t end, strip *s)
{
    const wn_indexer_view *keys = &p->args->keys;
    int64_t tokens = keys->tokens_per_page, page = first / tokens, place = first % tokens;
    int64_t key_bytes = (int64_t)keys->dim * wn_number_bytes(keys->dtype);
    int wide = 0;
    for (int64_t i = 0; i < count; i++) {
        const float *scale = wn_indexer_scale(keys, pages[page], place);
        wide |= convert_key(p, wn_indexer_codes(keys, pages[page], place), s->word + i * p->words);
        s->scale[i] = scale != NULL ? *scale : 1;
        if (++place == tokens) {
            place = 0;
            page++;
        }
    }
    memset(s->word + count * p->words, 0, (size_t)((STRIP - count) * p->words) * sizeof *s->word);
    for (int64_t i = count; i < STRIP; i++)
        s->scale[i] = 0;
    s->form = p->form;
    if (p->form == WN_INDEXER_I8 && wide) {
        s->form = WN_INDEXER_I8_WIDE;
        bytes_of((const uint8_t *)s->word, STRIP * p->words * 4, 64, s->word);
    }
    for (int64_t i = 0; i < STRIP && first + STRIP + i < end; i++) {
        const uint8_t *next = wn_indexer_codes(keys, pages[page], place);
        for (int64_t byte = 0; byte < key_bytes; byte += 64)
            __builtin_prefetch(next + byte);
        if (++place == tokens) {
            place = 0;
            page++;
        }
    }
}

/* ---------------------------------------------------------------- one query */

typedef struct query {
    int64_t row, first, end; /* sees slots [first, end) */
    int64_t nans;
    const uint32_t *packed;
    wn_best best;
} query;

static query make_query(const plan *p, uint32_t b, int64_t i, const uint32_t *packed)
{
    const wn_indexer_topk_args *a = p->args;
    query q = {.row = a->q_begin[b] + i, .packed = packed};
    q.end = (int64_t)a->length[b] - a->q_len[b] + i + 1;
    if (a->first != NULL) {
        q.first = a->first[q.row] > 0 ? a->first[q.row] : 0;
        q.end = a->end[q.row] < q.end ? a->end[q.row] : q.end;
    }
    return q;
}

/* The scores of slots [begin, end) meet the query's threshold. score[i]: of slot first + i. */
static void offer(query *q, const float *score, int64_t first, int64_t begin, int64_t end)
{
    wn_vf threshold = wn_vf_set(q->best.threshold);
    for (int64_t slot = begin; slot < end; slot += WN_VL) {
        wn_vf x = wn_vf_load(score + (slot - first));
        uint32_t valid = end - slot < WN_VL ? (1u << (end - slot)) - 1 : (1u << WN_VL) - 1;
        uint32_t better = wn_vm_bits(wn_vf_less(threshold, x)) & valid;
        uint32_t nan = wn_vm_bits(wn_vf_is_nan(x)) & valid;
        q->nans += __builtin_popcount(nan);
        for (; better != 0; better &= better - 1) {
            int64_t at = slot + __builtin_ctz(better);
            wn_best_enter(&q->best, wn_best_key(score[at - first]), at);
        }
    }
}

static void use_strip(const plan *p, query *q, const strip *s, int64_t first, int64_t count)
{
    const wn_tensor *scores = &p->args->scores;
    float score[STRIP + WN_VL];
    int64_t begin = first > q->first ? first : q->first;
    int64_t end = first + count < q->end ? first + count : q->end;
    if (begin >= end)
        return;
    wn_score_strip(s->form, q->packed, p->vectors, s->word, s->scale, p->words, count, score);
    wn_best_reserve(&q->best, STRIP);
    offer(q, score, first, begin, end);
    for (int64_t slot = begin; scores->data != NULL && slot < end; slot++)
        ((float *)scores->data)[wn_tensor_offset(scores, q->row, slot, 0)] = score[slot - first];
}

/* The rest of a row of scores. */
static void fill_unseen(const plan *p, const query *q)
{
    const wn_tensor *scores = &p->args->scores;
    for (int64_t slot = 0; slot < scores->shape[1]; slot++)
        if (slot < q->first || slot >= q->end)
            ((float *)scores->data)[wn_tensor_offset(scores, q->row, slot, 0)] = -INFINITY;
}

/* ---------------------------------------------------------------- items */

typedef struct scratch {
    _Alignas(64) uint32_t packed[PACKED_WORDS];
    strip strip;
    int32_t key[QUERIES][WN_BEST_WAITING], slot[QUERIES][WN_BEST_WAITING];
} scratch;

/* Where the choice of a query (of a part of its keys) lies: its count, keys and slots. */
typedef struct kept {
    int32_t *count, *key, *slot;
} kept;

static kept kept_of(const plan *p, const cut *c, int64_t i, int64_t part)
{
    int32_t *at = (int32_t *)(void *)(c->kept + (i * c->parts + part) * kept_bytes(p));
    return (kept){at, at + 16, at + 16 + p->args->indices.shape[1]};
}

static int32_t *indices_of(const plan *p, int64_t row)
{
    return (int32_t *)p->args->indices.data + row * p->args->indices.stride[0];
}

/* What was chosen is in its place already. */
static void finish(const plan *p, int64_t row, const wn_best *best)
{
    for (int64_t i = best->count; i < best->k; i++)
        indices_of(p, row)[i] = -1;
    if (p->args->count != NULL)
        p->args->count[row] = (int32_t)best->count;
}

/* Some queries of request b with a part of its keys. */
static void score_item(const plan *p, const cut *c, uint32_t b, int64_t group, int64_t part)
{
    const wn_indexer_topk_args *a = p->args;
    const int32_t *pages = a->page_table + b * a->page_table_stride;
    scratch s;
    query queries[QUERIES];
    int64_t k = a->indices.shape[1], count = 0, first = INT64_MAX, end = 0, nans = 0;
    for (int64_t i = group * p->queries; count < p->queries && i < a->q_len[b]; i++, count++) {
        query *q = &queries[count];
        *q = make_query(p, b, i, s.packed + count * p->query_words);
        if (q->first < q->end) {
            pack_query(p, q->row, s.packed + count * p->query_words);
            first = q->first < first ? q->first : first;
            end = q->end > end ? q->end : end;
        }
        kept to = {NULL, NULL, NULL};
        if (c->kept != NULL)
            to = kept_of(p, c, i, part);
        else if (k > 0)
            to =
                (kept){NULL, (int32_t *)(void *)(a->workspace + q->row * k), indices_of(p, q->row)};
        q->best = wn_best_begin(k, to.key, to.slot, s.key[count], s.slot[count]);
        if (a->scores.data != NULL)
            fill_unseen(p, q);
    }
    if (c->kept != NULL) {
        first = part * c->part_keys > first ? part * c->part_keys : first;
        end = (part + 1) * c->part_keys < end ? (part + 1) * c->part_keys : end;
    }
    for (; first < end; first += STRIP) {
        int64_t slots = end - first < STRIP ? end - first : STRIP;
        load_strip(p, pages, first, slots, end, &s.strip);
        for (int64_t j = 0; j < count; j++)
            use_strip(p, &queries[j], &s.strip, first, slots);
    }
    for (int64_t j = 0; j < count; j++) {
        if (k > 0)
            wn_best_merge(&queries[j].best);
        nans += queries[j].nans;
        if (c->kept != NULL)
            *kept_of(p, c, group * p->queries + j, part).count = (int32_t)queries[j].best.count;
        else
            finish(p, queries[j].row, &queries[j].best);
    }
    if (a->nan_count != NULL && nans > 0)
        atomic_fetch_add_explicit((_Atomic int64_t *)a->nan_count, nans, memory_order_relaxed);
}

/* The parts of some queries, in the order of their keys. */
static void combine_item(const plan *p, const cut *c, uint32_t b, int64_t group)
{
    const wn_indexer_topk_args *a = p->args;
    int32_t waiting_key[WN_BEST_WAITING], waiting_slot[WN_BEST_WAITING];
    int64_t k = a->indices.shape[1], begin = group * p->queries, end = begin + p->queries;
    for (int64_t i = begin; i < end && i < a->q_len[b]; i++) {
        int64_t row = a->q_begin[b] + i;
        wn_best best = wn_best_begin(k, (int32_t *)(void *)(a->workspace + row * k),
                                     indices_of(p, row), waiting_key, waiting_slot);
        for (int64_t part = 0; part < c->parts; part++) {
            kept from = kept_of(p, c, i, part);
            for (int32_t j = 0; j < *from.count; j++)
                if (from.key[j] > best.least) {
                    wn_best_reserve(&best, 1);
                    wn_best_enter(&best, from.key[j], from.slot[j]);
                }
        }
        wn_best_merge(&best);
        finish(p, row, &best);
    }
}

/* Item i of all requests' groups and parts; of the second pass, of the groups that were cut. */
static void body(void *argument, int64_t item)
{
    const plan *p = argument;
    int64_t used = 0;
    for (uint32_t b = 0; b < p->args->batch; b++) {
        cut c = cut_request(p, b, &used);
        int64_t items = !p->combine ? c.groups * c.parts : c.kept != NULL ? c.groups : 0;
        if (item < items) {
            if (p->combine)
                combine_item(p, &c, b, item);
            else
                score_item(p, &c, b, item / c.parts, item % c.parts);
            return;
        }
        item -= items;
    }
}

wn_status WN_CPU(indexer_topk)(const wn_indexer_topk_args *args)
{
    wn_status status = wn_refuse_indexer_topk(args);
    if (status != WN_OK || args->batch == 0)
        return status;
    plan p = make_plan(args);
    /* Truly rare: a query of more than 192 KiB, or indices that are not contiguous. */
    if (p.queries == 0 || (args->indices.shape[1] > 1 && args->indices.stride[1] != 1))
        return wn_ref_indexer_topk(args);
    const wn_executor *executor =
        p.work * args->q.shape[1] * args->keys.dim < LEAST_SHARED_WORK ? NULL : args->executor;
    int64_t used = 0, items = 0, combined = 0;
    for (uint32_t b = 0; b < args->batch; b++) {
        cut c = cut_request(&p, b, &used);
        items += c.groups * c.parts;
        combined += c.kept != NULL ? c.groups : 0;
    }
    wn_for_each(executor, items, body, &p);
    p.combine = 1;
    if (combined > 0)
        wn_for_each(executor, combined, body, &p);
    return WN_OK;
}
