/* context.c: attention of many query tokens over a paged cache. Lanes are query rows: a panel holds
 * WN_PANEL of them, S^T = K Q^T and O^T += V^T P^T with K and V broadcast, so that nothing goes
 * horizontally (block_fma.h). An item is some query tokens with all query heads of a KV head, or as
 * many as the stack has room for; it goes through the keys once, each block of them converted and
 * packed once for all its panels (context_keys.h), which go through it one after another
 * (context_panel.h). Tile policies: context_vote.h. A row's bits depend on its keys, in blocks that
 * the dims decide, and on nothing else: not on the item, the batch, or a threshold of -inf. */
#include "kernels/cpu/context_vote.h"
#include "kernels/cpu/cpu.h"
#include "kernels/parallel.h"
#include "kernels/ref/ref.h"
#include "kernels/refuse.h"

/* An item's stack: ARENA floats for packed blocks, queries, outputs and scores; the rest is small.
 * Outputs are written CHANNELS at a time. */
enum { ARENA = 448 * 1024 / 4, MOST_PANELS = 512 / WN_PANEL, CHANNELS = 64 };

/* How a call is cut into items, from the outside in: request, run of tokens that share a row of the
 * selection, tokens of a run, KV head, query heads of its group. The same for all requests but for
 * the number of tokens. */
typedef struct context_cut {
    context_shape shape;
    bool votes, in_place;   /* a policy; its tiles divide the blocks */
    int64_t group, run;     /* query heads per KV head; tokens that share a row */
    int64_t tile_q, tile_k; /* the policy's, or what counters count in */
    int64_t step;           /* of the walk over the keys */
    int64_t panels;         /* of an item, at most */
    int64_t score_size;     /* floats of scores */
    int64_t skipped_size;   /* floats that hold a bit per tile */
    int64_t loaded_size;    /* floats that rows without an address of their own need */
} context_cut;

/* One item. Row r is token first_token + r % tokens, head first_head + r / tokens. */
typedef struct context_item {
    int64_t request, kv_head, first_head, heads;
    int64_t first_token, tokens, row; /* row: of the selection */
} context_item;

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static int64_t round_up(int64_t a, int64_t to)
{
    return ceil_div(a, to) * to;
}

/* ---------------------------------------------------------------- shape and cut */

static bool is_plain_bf16(const wn_kv_view *view)
{
    return view->dtype == WN_BF16 && view->layout == WN_LAYOUT_STRIDED && view->scale == NULL &&
           view->tensor_scale == 1;
}

/* What scores are multiplied by and where: into the packed queries, unless those are pairs; before
 * ALiBi and soft cap, which need natural units; or in the exponent. */
static void set_factors(context_shape *s)
{
    const wn_attend_args *a = s->args;
    const float base2 = 1.44269504f;
    s->cap = a->soft_cap;
    s->transforms = a->soft_cap > 0 || a->alibi_slopes != NULL;
    s->slope_unit = s->cap > 0 ? 1 : base2;
    s->cap_unit = base2;
    float factor = a->softmax_scale * s->slope_unit;
    s->q_scale = s->dot_k ? 1 : factor;
    s->before = s->dot_k ? factor : 1;
    s->after = s->dot_k && !s->transforms ? factor : 1;
}

static context_shape shape_of(const wn_attend_args *a)
{
    context_shape s = {.args = a, .k_dim = a->kv.k.dim, .v_dim = a->kv.v.dim};
#ifdef __AVX512BF16__
    /* Products of bfloat16 are exact; weights are rounded like the output that they make. A maximum
     * in unscaled scores asks for a scale above 0. */
    s.dot_k = a->q.dtype == WN_BF16 && is_plain_bf16(&a->kv.k) && a->softmax_scale > 0;
    s.dot_v = a->out.dtype == WN_BF16 && is_plain_bf16(&a->kv.v);
#else
    (void)is_plain_bf16;
#endif
    s.keys = BLOCK_KEYS;
    while (s.keys > 16 && s.keys * (s.k_dim + s.v_dim) > 36 * 1024)
        s.keys /= 2;
    s.k_depth = s.dot_k ? (s.k_dim + 1) / 2 : s.k_dim;
    s.k_cut = wn_block_cut_of(s.keys);
    s.v_cut = wn_block_cut_of(s.v_dim);
    s.k_size = round_up(s.keys + WN_BLOCK_SLACK, 8) * s.k_depth + 2 * WN_BLOCK_SLACK;
    s.v_size = wn_block_cut_rows(s.v_cut) * (s.dot_v ? s.keys / 2 : s.keys) + WN_BLOCK_SLACK;
    s.q_size = s.k_depth * WN_PANEL;
    s.o_size = wn_block_cut_rows(s.v_cut) * WN_PANEL;
    s.window = a->window > 0;
    set_factors(&s);
    return s;
}

static int64_t greatest_divisor(int64_t a, int64_t b)
{
    while (b != 0) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static context_cut cut_of(const wn_attend_args *a)
{
    context_cut c = {.shape = shape_of(a), .group = a->q.shape[1] / a->kv.num_kv_heads};
    const wn_tile_policy *policy = a->tile;
    int64_t longest = 0;
    for (uint32_t b = 0; b < a->kv.batch; b++)
        longest = a->kv.length[b] > longest ? a->kv.length[b] : longest;
    c.votes = policy != NULL && policy->kind != WN_TILE_NONE;
    c.tile_q = policy != NULL && policy->tile_q > 0 ? policy->tile_q : 64;
    c.tile_k = policy != NULL && policy->tile_k > 0 ? policy->tile_k : 64;
    c.run = a->selection != NULL ? a->selection->query_block : INT32_MAX;
    c.in_place = c.shape.keys % c.tile_k == 0 && c.shape.keys / c.tile_k <= BLOCK_TILES;
    c.step = !c.votes     ? c.shape.keys
             : c.in_place ? c.tile_k
                          : greatest_divisor(c.shape.keys, c.tile_k);
    c.score_size = c.shape.keys * WN_PANEL * (c.votes ? UNIT_PANELS : 1);
    c.loaded_size = a->kv.k.layout != WN_LAYOUT_STRIDED ? 8 * c.shape.k_dim + WN_VL : 0;
    if (c.votes && !c.in_place)
        c.skipped_size = round_up(longest / c.tile_k / 8 + 1, 64) / 4;
    int64_t room = ARENA - c.shape.k_size - c.shape.v_size - c.score_size - c.skipped_size -
                   c.loaded_size - 6 * 16;
    c.panels = least(room / (c.shape.q_size + c.shape.o_size), MOST_PANELS);
    return c;
}

/* Tokens and query heads of an item, for a run of `run` tokens. */
static int64_t item_tokens(const context_cut *c, int64_t run)
{
    int64_t panels = c->panels / c->group > 0 ? c->panels / c->group : 1;
    return least(run, c->votes ? c->tile_q : panels * WN_PANEL);
}

static int64_t item_heads(const context_cut *c, int64_t tokens)
{
    int64_t rows = c->votes && c->in_place ? round_up(tokens, WN_PANEL) : tokens;
    int64_t most = c->votes && !c->in_place ? 1 : c->panels * WN_PANEL / rows;
    int64_t parts = ceil_div(c->group, least(most, c->group));
    return ceil_div(c->group, parts);
}

/* ---------------------------------------------------------------- an item's memory */

typedef struct context_memory {
    context_panel panel[MOST_PANELS];
    context_source source;
    context_block block[2], *next;
    float arena[ARENA] __attribute__((aligned(64)));
    float *scores;
    uint8_t *skipped;
    int64_t panels;
} context_memory;

_Static_assert(sizeof(context_memory) < 496 * 1024, "an item may use 512 KiB of stack");

static float *take(float **arena, int64_t floats)
{
    float *taken = *arena;
    *arena += round_up(floats, 16);
    return taken;
}

static void lay_out(const context_cut *c, context_memory *m)
{
    float *arena = m->arena;
    m->next = &m->block[0];
    m->block[0].k = m->block[1].k = take(&arena, c->shape.k_size);
    m->block[0].v = m->block[1].v = take(&arena, c->shape.v_size);
    m->scores = take(&arena, c->score_size);
    m->block[0].loaded = m->block[1].loaded = take(&arena, c->loaded_size);
    m->skipped = (uint8_t *)take(&arena, c->skipped_size);
    for (int64_t i = 0; i < m->panels; i++) {
        m->panel[i].q = take(&arena, c->shape.q_size);
        m->panel[i].o = take(&arena, c->shape.o_size);
    }
}

/* ---------------------------------------------------------------- panels */

static const char *q_row(const wn_attend_args *a, int64_t row, int64_t head)
{
    return (const char *)a->q.data +
           (row * a->q.stride[0] + head * a->q.stride[1]) * (int64_t)wn_number_bytes(a->q.dtype);
}

/* Packs eight lanes' queries. row: their numbers, channels a->q.stride[2] apart; those that are not
 * neighbours are brought together CLOSE at a time. */
static void pack_queries(const context_shape *shape, const char *const *row, float *out)
{
    enum { CLOSE = 128 };
    const wn_tensor *q = &shape->args->q;
    const int64_t bytes = wn_number_bytes(q->dtype), dim = shape->k_dim;
    const int64_t step = q->stride[2] == 1 ? dim : CLOSE;
    char close[8][CLOSE * 4];
    for (int64_t begin = 0; begin < dim; begin += step) {
        int64_t n = least(dim - begin, step);
        const void *from[8];
        float scale[8];
        for (int64_t i = 0; i < 8; i++) {
            from[i] = row[i] + begin * bytes;
            scale[i] = shape->q_scale;
            if (q->stride[2] == 1)
                continue;
            for (int64_t d = 0; d < n; d++)
                memcpy(close[i] + d * bytes, row[i] + (begin + d) * q->stride[2] * bytes,
                       (size_t)bytes);
            from[i] = close[i];
        }
#ifdef __AVX512BF16__
        if (shape->dot_k) {
            wn_pack_row_pairs((const uint16_t *const *)from, 8, n,
                              (uint32_t *)out + begin / 2 * WN_PANEL, WN_PANEL);
            continue;
        }
#endif
        wn_pack_rows(q->dtype, from, 8, scale, n, out + begin * WN_PANEL, WN_PANEL);
    }
}

static void set_lane(const context_shape *shape, const context_item *item, context_panel *p,
                     int64_t lane, int64_t token, int64_t head)
{
    const wn_attend_args *a = shape->args;
    int64_t length = a->kv.length[item->request];
    int64_t position = wn_key_position_of_token(a, item->request, token);
    int64_t last =
        a->causal ? least(token + length - a->q_len[item->request], length - 1) : length - 1;
    int64_t oldest = position - a->window + 1;
    p->last[lane] = last < -1 ? -1 : (int32_t)last;
    p->position[lane] = (int32_t)position;
    p->oldest[lane] = oldest < INT32_MIN ? INT32_MIN : (int32_t)oldest;
    p->slope[lane] = a->alibi_slopes != NULL ? a->alibi_slopes[head] * shape->slope_unit : 0;
}

/* Row r of the item: its panel's lanes are rows [first, first + count). tokens: rows per head. */
static void panel_begin(const context_shape *shape, const context_item *item, context_panel *p,
                        int64_t first, int64_t count)
{
    const wn_attend_args *a = shape->args;
    const char *row[WN_PANEL];
    p->lanes = count;
    p->started = false;
    p->least_last = INT32_MAX;
    p->greatest_last = -1;
    for (int64_t i = 0; i < WN_PANEL; i++) {
        int64_t r = first + (i < count ? i : count - 1);
        int64_t token = item->first_token + r % item->tokens;
        int64_t head = item->first_head + r / item->tokens;
        p->reference[i] = -INFINITY;
        p->sum[i] = p->divisor[i] = 0;
        set_lane(shape, item, p, i, token, head);
        row[i] = q_row(a, a->q_begin[item->request] + token, head);
        p->least_last = p->last[i] < p->least_last ? p->last[i] : p->least_last;
        p->greatest_last = p->last[i] > p->greatest_last ? p->last[i] : p->greatest_last;
    }
    for (int64_t i = 0; i < WN_PANEL; i += 8)
        pack_queries(shape, row + i, p->q + i);
}

/* ---------------------------------------------------------------- results */

/* Eight floats rounded to bfloat16, to nearest even; NaN stays NaN. */
WN_INLINE __m128i bf16_from(__m256 x)
{
    const __m256i half = _mm256_set1_epi32(0x7fff), one = _mm256_set1_epi32(1);
    __m256i bits = _mm256_castps_si256(x),
            last = _mm256_and_si256(_mm256_srli_epi32(bits, 16), one);
    __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(half, last)), 16);
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    rounded = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
}

static void store_row(const wn_tensor *t, int64_t at, const float *x, int64_t n)
{
    char *out = (char *)t->data + at * (int64_t)wn_number_bytes(t->dtype);
    int64_t d = 0;
    if (t->stride[2] == 1 && t->dtype == WN_F32) {
        memcpy(out, x, (size_t)n * sizeof *x);
        return;
    }
    for (; t->stride[2] == 1 && d + 8 <= n; d += 8) {
        __m256 eight = _mm256_loadu_ps(x + d);
        _mm_storeu_si128((__m128i *)(out + 2 * d),
                         t->dtype == WN_BF16 ? bf16_from(eight)
                                             : _mm256_cvtps_ph(eight, _MM_FROUND_TO_NEAREST_INT));
    }
    for (; d < n; d++)
        wn_store(t->data, t->dtype, at + d * t->stride[2], (double)x[d]);
}

/* The row's factor for its outputs, and its LSE. */
static float finish_row(const context_shape *shape, const context_panel *p, int64_t lane,
                        int64_t head, double *lse)
{
    const double ln2 = 0.69314718055994531;
    double maximum = (double)(p->reference[lane] * shape->after), sum = (double)p->sum[lane];
    double divisor = (double)p->divisor[lane], factor = 1, beside = 0;
    *lse = -INFINITY;
    if (sum == 0)
        return 0;
    if (isinf(maximum) && maximum < 0)
        maximum = 0; /* all scores are NaN */
    if (shape->args->sinks != NULL) {
        double sink = (double)shape->args->sinks[head] / ln2;
        double top = sink > maximum ? sink : maximum;
        factor = exp2(maximum - top);
        beside = exp2(sink - top);
        maximum = top;
    }
    if (shape->args->lse.data != NULL)
        *lse = (maximum + log2(sum * factor + beside)) * ln2;
    return (float)(factor / (divisor * factor + beside));
}

/* Writes the channels from `begin` on of eight lanes from lane i on. */
static void write_channels(const context_shape *shape, const context_panel *p, int64_t i,
                           int64_t begin, const int64_t *at, const float *factor)
{
    float x[8][CHANNELS] __attribute__((aligned(64)));
    const wn_tensor *out = &shape->args->out;
    int64_t n = least(shape->v_dim - begin, CHANNELS);
    memset(x, 0, sizeof x);
    for (int64_t d = 0; d < n && p->started; d += 8) {
        __m256 r[8];
        for (int64_t j = 0; j < 8; j++)
            r[j] = d + j < n ? _mm256_load_ps(p->o + (begin + d + j) * WN_PANEL + i)
                             : _mm256_setzero_ps();
        wn_transpose_8x8(r);
        for (int64_t j = 0; j < 8; j++)
            _mm256_store_ps(x[j] + d, _mm256_mul_ps(r[j], _mm256_set1_ps(factor[j])));
    }
    for (int64_t j = 0; j < 8 && i + j < p->lanes; j++)
        store_row(out, at[j] + begin * out->stride[2], x[j], n);
}

static void panel_end(const context_shape *shape, const context_item *item, const context_panel *p,
                      int64_t first)
{
    const wn_attend_args *a = shape->args;
    for (int64_t i = 0; i < p->lanes; i += 8) {
        float factor[8] = {0};
        int64_t at[8];
        for (int64_t j = 0; j < 8 && i + j < p->lanes; j++) {
            int64_t row = first + i + j, head = item->first_head + row / item->tokens;
            int64_t q = a->q_begin[item->request] + item->first_token + row % item->tokens;
            double lse;
            factor[j] = finish_row(shape, p, i + j, head, &lse);
            at[j] = q * a->out.stride[0] + head * a->out.stride[1];
            if (a->lse.data != NULL)
                wn_store(a->lse.data, WN_F32, q * a->lse.stride[0] + head * a->lse.stride[1], lse);
        }
        for (int64_t begin = 0; begin < shape->v_dim; begin += CHANNELS)
            write_channels(shape, p, i, begin, at, factor);
    }
}

/* ---------------------------------------------------------------- items */

/* Takes the next block and turns to it; the one after it is known then, so that its rows can be
 * fetched meanwhile. */
static context_block *turn(context_memory *m)
{
    context_block *b = m->next;
    if (b->count == 0)
        return NULL;
    m->next = b == &m->block[0] ? &m->block[1] : &m->block[0];
    source_next(&m->source, m->next);
    return b;
}

static void attend_densely(const context_shape *shape, context_memory *m)
{
    float top[WN_PANEL] __attribute__((aligned(64)));
    for (context_block *b; (b = turn(m)) != NULL;) {
        pack_keys(shape, b);
        for (int64_t i = 0; i < b->tiles; i++)
            pack_values(shape, b, i);
        for (int64_t i = 0; i < m->panels; i++) {
            context_panel *p = &m->panel[i];
            int64_t n = keys_in_reach(b, p);
            prefetch_rows(shape, m->next, i, m->panels);
            if (n == 0)
                continue;
            score_panel(shape, b, p, m->scores, n);
            maxima(m->scores, 0, n, top);
            attend_tiles(shape, b, p, m->scores, n, UINT32_MAX, top);
        }
    }
}

/* One head with a vote beforehand: its tiles do not lie in blocks as they are. */
static void attend_after_vote(const context_cut *c, const context_item *item, context_memory *m,
                              context_unit *u)
{
    const context_shape *shape = &c->shape;
    memset(m->skipped, 0, (size_t)c->skipped_size * 4);
    m->source.group = m->source.tile_k = c->tile_k;
    vote_before(shape, u, &m->source, m->block, m->scores, m->skipped);
    source_begin(&m->source, shape, item->request, item->kv_head, item->first_token, item->tokens,
                 item->row, c->step);
    m->source.tile_k = c->tile_k;
    m->source.skipped = m->skipped;
    source_next(&m->source, m->next);
    attend_densely(shape, m);
}

static void attend_with_votes(const context_cut *c, const context_item *item, context_memory *m)
{
    const context_shape *shape = &c->shape;
    int64_t panels = m->panels / item->heads;
    context_unit unit[MOST_PANELS];
    for (int64_t h = 0; h < item->heads; h++) {
        unit[h] = (context_unit){.policy = shape->args->tile,
                                 .panel = m->panel + h * panels,
                                 .panels = panels,
                                 .request = item->request,
                                 .head = item->first_head + h,
                                 .tile_k = c->tile_k};
        unit_begin(&unit[h]);
    }
    if (!c->in_place)
        attend_after_vote(c, item, m, unit);
    else
        source_next(&m->source, m->next);
    for (context_block *b; c->in_place && (b = turn(m)) != NULL;) {
        pack_keys(shape, b);
        for (int64_t h = 0; h < item->heads; h++) {
            prefetch_rows(shape, m->next, h, item->heads);
            vote_and_attend(shape, &unit[h], b, m->scores);
        }
    }
    for (int64_t h = 0; h < item->heads && shape->args->counters != NULL; h++)
        add_counters(&shape->args->counters[unit[h].head], &unit[h].counted);
}

/* With votes a head begins with a panel of its own. */
static void attend_item(const context_cut *c, const context_item *item)
{
    const context_shape *shape = &c->shape;
    context_memory m;
    int64_t rows = c->votes ? item->tokens : item->tokens * item->heads;
    int64_t panels = ceil_div(rows, WN_PANEL), sections = c->votes ? item->heads : 1;
    m.panels = panels * sections;
    lay_out(c, &m);
    for (int64_t i = 0; i < m.panels; i++) {
        int64_t first = i / panels * rows + i % panels * WN_PANEL;
        int64_t end = (i / panels + 1) * rows;
        panel_begin(shape, item, &m.panel[i], first, least(end - first, WN_PANEL));
    }
    source_begin(&m.source, shape, item->request, item->kv_head, item->first_token, item->tokens,
                 item->row, c->step);
    if (c->votes)
        attend_with_votes(c, item, &m);
    else {
        source_next(&m.source, m.next);
        attend_densely(shape, &m);
    }
    for (int64_t i = 0; i < m.panels; i++)
        panel_end(shape, item, &m.panel[i], i / panels * rows + i % panels * WN_PANEL);
}

/* Items of a request: tokens of its first run (the last run may be shorter), and so on. */
typedef struct context_extent {
    int64_t run, runs, tokens, blocks, heads, parts;
} context_extent;

static context_extent extent_of(const context_cut *c, int64_t request)
{
    int64_t n = c->shape.args->q_len[request];
    context_extent e = {.run = least(c->run, n)};
    if (n == 0)
        return e;
    e.runs = ceil_div(n, e.run);
    e.tokens = item_tokens(c, e.run);
    e.blocks = ceil_div(e.run, e.tokens);
    e.heads = item_heads(c, e.tokens);
    e.parts = ceil_div(c->group, e.heads);
    return e;
}

static int64_t items_of(const context_cut *c, const context_extent *e)
{
    return e->runs * e->blocks * c->shape.args->kv.num_kv_heads * e->parts;
}

/* The last tokens, which have the most keys, come first. */
static void item_body(void *argument, int64_t i)
{
    const context_cut *c = argument;
    const wn_attend_args *a = c->shape.args;
    context_item item = {0};
    context_extent e = extent_of(c, 0);
    while (i >= items_of(c, &e)) {
        i -= items_of(c, &e);
        e = extent_of(c, ++item.request);
    }
    int64_t part = i % e.parts, kv_head = i / e.parts % a->kv.num_kv_heads;
    int64_t piece = e.runs * e.blocks - 1 - i / e.parts / a->kv.num_kv_heads;
    int64_t run = piece / e.blocks, end = least((run + 1) * e.run, a->q_len[item.request]);
    item.kv_head = kv_head;
    item.first_head = kv_head * c->group + part * e.heads;
    item.heads = least(e.heads, (kv_head + 1) * c->group - item.first_head);
    item.first_token = run * e.run + piece % e.blocks * e.tokens;
    item.tokens = least(e.tokens, end - item.first_token);
    item.row = a->selection != NULL ? a->selection_row[item.request] + run : 0;
    if (item.tokens > 0)
        attend_item(c, &item);
}

/* ---------------------------------------------------------------- counters without votes */

/* Piece i of a call's tokens: a tile of a run at a KV head. Heads of a group count the same. */
static void count_piece(const context_cut *c, int64_t request, int64_t kv_head, int64_t first,
                        int64_t tokens, int64_t row)
{
    const wn_attend_args *a = c->shape.args;
    wn_attend_counters counted = {0};
    wn_key_block block;
    wn_key_walk walk = wn_key_walk_begin(a, request, kv_head, first, tokens, row, c->tile_k);
    if (a->selection == NULL && a->window == 0) {
        counted.keys_read = walk.end;
        counted.tiles_seen = ceil_div(walk.end, c->tile_k);
    } else
        while (wn_key_walk_next(&walk, &block)) {
            counted.keys_read += block.count;
            counted.tiles_seen += block.count > 0;
        }
    counted.values_read = counted.keys_read;
    for (int64_t h = 0; h < c->group; h++)
        add_counters(&a->counters[kv_head * c->group + h], &counted);
}

static void count_body(void *argument, int64_t i)
{
    const context_cut *c = argument;
    const wn_attend_args *a = c->shape.args;
    int64_t request = i / a->kv.num_kv_heads, n = a->q_len[request];
    int64_t run = least(c->run, n);
    for (int64_t begin = 0; begin < n; begin += run)
        for (int64_t first = begin; first < least(begin + run, n); first += c->tile_q)
            count_piece(c, request, i % a->kv.num_kv_heads, first,
                        least(c->tile_q, least(begin + run, n) - first),
                        a->selection != NULL ? a->selection_row[request] + begin / run : 0);
}

/* ---------------------------------------------------------------- the op */

/* Multiplications that take less time than waking a thread. */
static const double SMALL = 1 << 18;

wn_status WN_CPU(context)(const wn_attend_args *args)
{
    wn_status status = wn_refuse_context(args);
    if (status != WN_OK || args->kv.batch == 0)
        return status;
    context_cut c = cut_of(args);
    /* A unit of votes must fit into an item: heads of more than a thousand channels do not. */
    if (c.panels < (c.votes ? ceil_div(c.tile_q, WN_PANEL) : 1))
        return wn_ref_context(args);
    const wn_executor *executor = args->executor;
    int64_t items = 0;
    double work = 0;
    for (uint32_t b = 0; b < args->kv.batch; b++) {
        context_extent e = extent_of(&c, b);
        items += items_of(&c, &e);
        work += (double)args->q_len[b] * args->kv.length[b];
    }
    work *= (double)(args->q.shape[1] * (c.shape.k_dim + c.shape.v_dim));
    if (work < SMALL)
        executor = NULL;
    wn_for_each(executor, items, item_body, &c);
    if (args->counters != NULL && !c.votes)
        wn_for_each(executor, args->kv.batch * args->kv.num_kv_heads, count_body, &c);
    return WN_OK;
}
