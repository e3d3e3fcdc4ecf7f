/* indexer_topk.c: scores of the keys that a query sees, and the best of them. Keys are converted a
 * strip at a time, once for some consecutive queries of a request, and scored by indexer_block.h;
 * scores go straight from the strip to the running choice of best_scores.h, so that no row of them
 * is in memory. A request with much work and few queries is cut into parts of its keys, whose best
 * wait in the caller's memory until they are put together: the choice is exact, so where the cuts
 * are changes nothing. */
#include "kernels/cpu/best_scores.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/indexer_block.h"
#include "kernels/cpu/indexer_words.h"
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

/* One head as words, side by side. Returns the factor that its rounding asks for; *sum: of its
 * codes, if it has codes. */
static float load_head(const plan *p, int64_t row, int64_t head, uint32_t *words, int32_t *sum)
{
    const wn_tensor *q = &p->args->q;
    int64_t dim = q->shape[2], bytes = wn_number_bytes(q->dtype);
    const uint8_t *from = (const uint8_t *)q->data + wn_tensor_offset(q, row, head, 0) * bytes;
    uint8_t together[4 * WN_MAX_HEAD_DIM];
    if (q->stride[2] != 1) {
        for (int64_t d = 0; d < dim; d++)
            memcpy(together + d * bytes, from + d * q->stride[2] * bytes, (size_t)bytes);
        from = together;
    }
    *sum = 0;
#ifdef __AVX512BF16__
    if (p->form == WN_INDEXER_BF16) {
        wn_words_of_pairs(q->dtype, from, dim, words);
        return 1;
    }
#endif
    if (p->form == WN_INDEXER_F32) {
        wn_words_of_floats(q->dtype, from, bytes, dim, words);
        return 1;
    }
    uint32_t x[WN_MAX_HEAD_DIM + WN_WORDS_ROOM];
    wn_words_of_floats(q->dtype, from, bytes, dim, x);
    return wn_words_of_query((const float *)x, dim, words, sum);
}

/* Packs a row of q as indexer_block.h says. */
static void pack_query(const plan *p, int64_t row, uint32_t *to)
{
    const wn_indexer_topk_args *a = p->args;
    int64_t heads = a->q.shape[1];
    uint32_t head[WN_MAX_HEAD_DIM + WN_WORDS_ROOM] = {0};
    memset(to, 0, (size_t)p->query_words * sizeof *to);
    for (int64_t h = 0; h < heads; h++) {
        uint32_t *words = to + h / WN_VL * wn_packed_stride(p->words) + h % WN_VL;
        uint32_t *extra = words + p->words * WN_VL;
        int32_t sum;
        double weight = wn_tensor_load(&a->weights, row, h, 0) * a->weight_scale;
        weight *= load_head(p, row, h, head, &sum);
        weight *= a->q_scale != NULL ? (double)a->q_scale[row * heads + h] : 1;
        float rounded = (float)weight;
        for (int64_t w = 0; w < p->words; w++)
            words[w * WN_VL] = head[w];
        memcpy(extra, &rounded, sizeof rounded);
        extra[WN_VL] = a->keys.dtype == WN_I8 ? (uint32_t)(-64 * sum) : UINT32_MAX;
        extra[2 * WN_VL] = (uint32_t)(-128 * sum);
    }
}

/* ---------------------------------------------------------------- keys */

typedef struct strip {
    _Alignas(64) uint32_t word[STRIP_WORDS + WN_WORDS_ROOM];
    float scale[STRIP];
    int form;                    /* the plan's, or I8_WIDE where a code is not of seven bits */
    const uint8_t *ahead[STRIP]; /* keys of the next strip, to be fetched while this one is used */
} strip;

/* Returns what wn_words_of_bytes does. */
WN_INLINE int convert_key(const plan *p, const uint8_t *from, uint32_t *to)
{
    int64_t dim = p->args->keys.dim;
    if (p->form == WN_INDEXER_I8)
        return wn_words_of_bytes(from, dim, 64, to);
    if (p->form == WN_INDEXER_I8_WIDE)
        wn_words_of_bytes(from, dim, -128, to);
#ifdef __AVX512BF16__
    else if (p->form == WN_INDEXER_BF16)
        wn_words_of_pairs(p->args->keys.dtype, from, dim, to);
#endif
    else if (p->args->keys.dtype == WN_BF16)
        wn_words_of_floats(WN_BF16, from, 2, dim, to);
    else
        wn_words_of_floats(WN_F8_E4M3, from, 1, dim, to);
    return 0;
}

/* A run of keys in one page: `count` from `place` on, which become keys `at`.. of the strip. */
static int load_run(const plan *p, int64_t page, int64_t place, int64_t count, int64_t at, strip *s)
{
    const wn_indexer_view *keys = &p->args->keys;
    const uint8_t *from = wn_indexer_codes(keys, page, place);
    const float *scale = wn_indexer_scale(keys, page, place);
    int64_t key_bytes = (int64_t)keys->dim * wn_number_bytes(keys->dtype);
    int wide = 0;
    for (int64_t i = 0; i < count; i++) {
        wide |= convert_key(p, from, s->word + (at + i) * p->words);
        s->scale[at + i] = scale != NULL ? scale[i] : 1;
        from += key_bytes;
    }
    return wide;
}

/* Where slots [first, end), at most STRIP, lie. Their scales are fetched now: they are few lines.
 */
static void look_ahead(const plan *p, const int32_t *pages, int64_t first, int64_t end, strip *s)
{
    const wn_indexer_view *keys = &p->args->keys;
    int64_t tokens = keys->tokens_per_page, page = first / tokens, place = first % tokens;
    int64_t key_bytes = (int64_t)keys->dim * wn_number_bytes(keys->dtype), i = 0;
    for (int64_t run; i < STRIP && first + i < end; place = 0, page++) {
        const uint8_t *from = wn_indexer_codes(keys, pages[page], place);
        const float *scale = wn_indexer_scale(keys, pages[page], place);
        run = tokens - place < end - first - i ? tokens - place : end - first - i;
        run = run < STRIP - i ? run : STRIP - i;
        for (int64_t j = 0; j < run && scale != NULL; j += 16)
            __builtin_prefetch(scale + j, 0, 2);
        for (int64_t j = 0; j < run; j++)
            s->ahead[i++] = from + j * key_bytes;
    }
    for (; i < STRIP; i++)
        s->ahead[i] = NULL;
}

/* Slots [first, first + count) of a request, count <= STRIP; the rest of the strip becomes zero. */
static void load_strip(const plan *p, const int32_t *pages, int64_t first, int64_t count, strip *s)
{
    int64_t tokens = p->args->keys.tokens_per_page, page = first / tokens, place = first % tokens;
    int wide = 0;
    for (int64_t i = 0, run; i < count; i += run, place = 0, page++) {
        run = tokens - place < count - i ? tokens - place : count - i;
        wide |= load_run(p, pages[page], place, run, i, s);
    }
    if (count < STRIP)
        memset(s->word + count * p->words, 0,
               (size_t)((STRIP - count) * p->words) * sizeof *s->word);
    for (int64_t i = count; i < STRIP; i++)
        s->scale[i] = 0;
    s->form = p->form;
    if (p->form == WN_INDEXER_I8 && wide) {
        s->form = WN_INDEXER_I8_WIDE;
        wn_words_of_bytes((const uint8_t *)s->word, STRIP * p->words * 4, 64, s->word);
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
        if (nan != 0)
            q->nans += __builtin_popcount(nan);
        if (better != 0)
            wn_best_enter(&q->best, x, slot, better);
    }
}

static void use_strip(const plan *p, query *q, const strip *s, int fetches, int64_t first,
                      int64_t count)
{
    const wn_indexer_topk_args *a = p->args;
    const wn_tensor *scores = &a->scores;
    float score[STRIP + WN_VL];
    int64_t begin = first > q->first ? first : q->first;
    int64_t end = first + count < q->end ? first + count : q->end;
    if (begin >= end)
        return;
    int64_t ahead_bytes = (int64_t)a->keys.dim * wn_number_bytes(a->keys.dtype);
    wn_score_strip(s->form, q->packed, p->vectors, s->word, s->scale, p->words, count,
                   fetches ? s->ahead : NULL, ahead_bytes, score);
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
    int32_t key[QUERIES][WN_BEST_ROOM], slot[QUERIES][WN_BEST_ROOM];
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
        load_strip(p, pages, first, slots, &s.strip);
        look_ahead(p, pages, first + slots, end, &s.strip);
        for (int64_t j = 0; j < count; j++)
            use_strip(p, &queries[j], &s.strip, j == 0, first, slots);
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
    int32_t waiting_key[WN_BEST_ROOM], waiting_slot[WN_BEST_ROOM];
    int64_t k = a->indices.shape[1], begin = group * p->queries, end = begin + p->queries;
    for (int64_t i = begin; i < end && i < a->q_len[b]; i++) {
        int64_t row = a->q_begin[b] + i;
        wn_best best = wn_best_begin(k, (int32_t *)(void *)(a->workspace + row * k),
                                     indices_of(p, row), waiting_key, waiting_slot);
        for (int64_t part = 0; part < c->parts; part++) {
            kept from = kept_of(p, c, i, part);
            for (int32_t j = 0; j < *from.count; j += WN_VL) {
                int32_t here = *from.count - j < WN_VL ? *from.count - j : WN_VL;
                wn_best_reserve(&best, WN_VL);
                wn_best_enter_kept(&best, from.key + j, from.slot + j, here);
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
