/* test_latent_attention.c: engines of MLA models: which op attends, and that it makes no difference
 * to what comes out. */
#include "check_engine.h"

#include "core/engine.h"
#include "core/latent_attention.h"
#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

#define LAYERS 2
#define HEADS 6
#define DIM 12
#define V_DIM 8
#define OUT (HEADS * V_DIM)
#define BOUND 3e-6 /* float32 output of values up to 2: one rounding */

static wn_model latent_model(void)
{
    wn_model model = check_model();
    model.num_kv_heads = 1;
    model.head_dim = DIM;
    model.v_head_dim = V_DIM;
    model.mla = 1;
    return model;
}

static void open_latent(check_engine *c, const char *yaml, const wn_engine_options *options)
{
    *c = (check_engine){.model = latent_model()};
    check_open(c, yaml, options);
}

/* ---------------------------------------------------------------- which op it was */

static struct {
    uint32_t mla, others;
    int64_t rows; /* of mla's calls */
} seen;

static wn_status seen_mla(const wn_mla_args *args)
{
    seen.mla++;
    seen.rows += args->q.shape[0];
    return wn_kernels_cpu()->mla(args);
}

static wn_status seen_context(const wn_attend_args *args)
{
    seen.others++;
    return wn_kernels_cpu()->context(args);
}

static wn_status seen_generation(const wn_attend_args *args)
{
    seen.others++;
    return wn_kernels_cpu()->generation(args);
}

/* table: lives as long as the engine. */
static void watch(check_engine *c, wn_ops *table)
{
    *table = *c->engine->ops;
    table->mla = seen_mla;
    table->context = seen_context;
    table->generation = seen_generation;
    c->engine->ops = table;
    memset(&seen, 0, sizeof seen);
}

/* ---------------------------------------------------------------- the function itself */

enum { TOKENS = 40, PAGE = 4, REQUESTS = 3, ROWS = 24 };

/* Args over a random cache: requests' rows lie apart in q, out of order. */
typedef struct bench {
    float k[16 * PAGE * DIM], q[ROWS * HEADS * DIM], sinks[HEADS];
    int32_t page_table[REQUESTS * 10], length[REQUESTS], q_begin[REQUESTS], q_len[REQUESTS];
    int32_t indices[4096], offsets[ROWS + 1], selection_row[REQUESTS];
    wn_selection selection;
    wn_attend_args args;
} bench;

static void choose_lists(bench *x, uint32_t query_block, int csr, uint64_t *random)
{
    wn_selection *s = &x->selection;
    int32_t used = 0;
    *s = (wn_selection){.struct_size = WN_SIZEOF(wn_selection),
                        .block_size = 1,
                        .query_block = query_block,
                        .index_space = WN_INDEX_PHYSICAL,
                        .flags = WN_SELECTION_SORTED,
                        .width = csr ? 0 : 9,
                        .indices = x->indices,
                        .offsets = csr ? x->offsets : NULL};
    for (uint32_t b = 0; b < REQUESTS; b++) {
        x->selection_row[b] = (int32_t)s->rows;
        for (int32_t i = 0; i < x->q_len[b]; i += (int32_t)query_block) {
            int32_t room = csr ? (int32_t)wn_random_below(random, 12) : 9, count = 0;
            x->offsets[s->rows++] = used;
            for (int32_t j = 0; j < x->length[b] && count < room; j++)
                if (wn_random_below(random, 3) == 0)
                    x->indices[used + count++] = j;
            while (count < room && !csr)
                x->indices[used + count++] = -1;
            used += count;
        }
    }
    x->offsets[s->rows] = used;
}

static void make_bench(bench *x, uint32_t query_block, int csr, int sinks, uint64_t *random)
{
    static const int32_t length[REQUESTS] = {17, 9, 40}, q_len[REQUESTS] = {7, 0, 5};
    static const int32_t q_begin[REQUESTS] = {12, 0, 3};
    memset(x, 0, sizeof *x);
    for (size_t i = 0; i < sizeof x->k / 4; i++)
        x->k[i] = (float)wn_random_signed(random);
    for (size_t i = 0; i < sizeof x->q / 4; i++)
        x->q[i] = (float)wn_random_signed(random);
    for (uint32_t h = 0; h < HEADS; h++)
        x->sinks[h] = (float)wn_random_signed(random) * 3;
    for (uint32_t i = 0; i < REQUESTS * 10; i++)
        x->page_table[i] = (int32_t)wn_random_below(random, 16);
    memcpy(x->length, length, sizeof length);
    memcpy(x->q_len, q_len, sizeof q_len);
    memcpy(x->q_begin, q_begin, sizeof q_begin);
    choose_lists(x, query_block, csr, random);
    wn_kv_view k = {.data = x->k,
                    .page_stride = PAGE * DIM,
                    .token_stride = DIM,
                    .dtype = WN_F32,
                    .layout = WN_LAYOUT_STRIDED,
                    .dim = DIM,
                    .tensor_scale = 1};
    wn_kv_view v = k;
    v.dim = V_DIM;
    x->args = (wn_attend_args){.struct_size = WN_SIZEOF(wn_attend_args),
                               .q = wn_tensor_make(x->q, WN_F32, 3, (int64_t[]){ROWS, HEADS, DIM}),
                               .q_begin = x->q_begin,
                               .q_len = x->q_len,
                               .kv = {.k = k,
                                      .v = v,
                                      .page_table = x->page_table,
                                      .page_table_stride = 10,
                                      .length = x->length,
                                      .batch = REQUESTS,
                                      .tokens_per_page = PAGE,
                                      .num_kv_heads = 1},
                               .causal = 1,
                               .softmax_scale = 0.7f,
                               .sinks = sinks ? x->sinks : NULL,
                               .selection = &x->selection,
                               .selection_row = x->selection_row};
}

/* Greatest difference of two float arrays; equal infinities and untouched marks count as 0. */
/* Two ops that sum in float32, each within two units in the last place of an LSE below 8. */
static const double NEAR = 4 * 0x1p-21;

static double apart(const float *a, const float *b, size_t n)
{
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= worst) && a[i] != b[i])
            worst = isnan(d) ? INFINITY : d;
    }
    return worst;
}

static void it_does_what_context_does(void)
{
    static float out[2][ROWS * OUT], lse[2][ROWS * HEADS];
    uint64_t random = wn_test_seed();
    for (uint32_t i = 0; i < 24; i++) {
        static bench x;
        static int32_t limit[ROWS], request[ROWS], count[ROWS];
        const wn_latent_rows rows = {limit, request, count};
        make_bench(&x, 1 + i % 4, i / 4 % 2, i / 8 % 2, &random);
        if (i >= 16)
            x.args.selection = NULL;
        CU_ASSERT(wn_latent_attention_takes(&x.args));
        for (uint32_t way = 0; way < 2; way++) {
            for (size_t n = 0; n < ROWS * OUT; n++)
                out[way][n] = -777;
            for (size_t n = 0; n < ROWS * HEADS; n++)
                lse[way][n] = -777;
            x.args.out = wn_tensor_make(out[way], WN_F32, 3, (int64_t[]){ROWS, HEADS, V_DIM});
            x.args.lse = wn_tensor_make(lse[way], WN_F32, 2, (int64_t[]){ROWS, HEADS});
            wn_status status = way ? wn_latent_attention(&x.args, wn_kernels_cpu(), &rows)
                                   : wn_kernels_cpu()->context(&x.args);
            CU_ASSERT_EQUAL(status, WN_OK);
        }
        CU_ASSERT(apart(out[0], out[1], ROWS * OUT) < NEAR);
        CU_ASSERT(apart(lse[0], lse[1], ROWS * HEADS) < NEAR);
        CU_ASSERT(out[1][0] == -777 && out[1][8 * OUT] == -777 && out[1][12 * OUT] != -777);
        x.args.lse.data = NULL; /* is optional */
        CU_ASSERT_EQUAL(wn_latent_attention(&x.args, wn_kernels_cpu(), &rows), WN_OK);
    }
}

static void what_mla_cannot_do_is_refused(void)
{
    static bench x;
    uint64_t random = wn_test_seed();
    const wn_tile_policy tile = {.struct_size = WN_SIZEOF(wn_tile_policy)};
    make_bench(&x, 1, 0, 1, &random);
#define TAKES(change) (make_bench(&x, 1, 0, 1, &random), change, wn_latent_attention_takes(&x.args))
    CU_ASSERT(TAKES(x.args.causal = 1));
    CU_ASSERT(TAKES(x.args.selection = NULL));
    CU_ASSERT(TAKES((x.args.selection = NULL, x.args.granularity = WN_GRANULARITY_PAGE)));
    CU_ASSERT(!TAKES(x.args.causal = 0));
    CU_ASSERT(!TAKES(x.selection.block_size = 2));
    CU_ASSERT(!TAKES(x.args.tile = &tile));
    CU_ASSERT(!TAKES(x.args.granularity = WN_GRANULARITY_PAGE));
    CU_ASSERT(!TAKES(x.args.window = 4));
    CU_ASSERT(!TAKES(x.args.soft_cap = 2));
    CU_ASSERT(!TAKES(x.args.alibi_slopes = x.sinks));
}

/* ---------------------------------------------------------------- engines */

/* Rows of one layer against dense attention to the newest `newest` keys, 0: to all. */
static double distance_to(const check_engine *c, const check_text *text, uint32_t layer,
                          uint32_t begin, uint32_t end, uint32_t newest, const float *out,
                          const float *lse)
{
    double worst = 0, o[OUT], l[HEADS];
    for (uint32_t t = begin; t < end; t++) {
        int32_t keys[64];
        uint32_t n = 0;
        for (uint32_t k = newest > 0 && t + 1 > newest ? t + 1 - newest : 0; k <= t; k++)
            keys[n++] = (int32_t)k;
        size_t row = layer * (end - begin) + t - begin;
        check_dense(&c->model, text, layer, t, keys, n, CHECK_ALL_HEADS, o, l);
        worst = fmax(worst, check_distance(out + row * OUT, o, OUT));
        worst = fmax(worst, check_distance(lse + row * HEADS, l, HEADS));
    }
    return worst;
}

static void without_a_selection_it_is_dense(void)
{
    static const char *const layouts[] = {"hnd", "nhd"};
    for (uint32_t i = 0; i < 2; i++) {
        uint64_t random = wn_test_seed() + i;
        check_engine c;
        wn_ops table;
        open_latent(&c, "",
                    &(wn_engine_options){.struct_size = WN_SIZEOF(wn_engine_options),
                                         .tokens_per_page = 7,
                                         .layout = layouts[i]});
        watch(&c, &table);
        check_text text = check_write(&c.model, 30, &random);
        float out[LAYERS * 24 * OUT], lse[LAYERS * 24 * HEADS];
        wn_sequence s, fork;
        wn_sequence_create(c.engine, &s);
        CU_ASSERT_EQUAL_FATAL(check_step(&c, s, &text, 0, 24, WN_ITEM_CONTEXT, out, lse), WN_OK);
        for (uint32_t l = 0; l < LAYERS; l++)
            CU_ASSERT(distance_to(&c, &text, l, 0, 24, 0, out, lse) < BOUND);
        wn_sequence_fork(c.engine, s, &fork);
        for (uint32_t t = 24; t < 30; t++) {
            wn_sequence one = t % 2 ? s : fork;
            CU_ASSERT_EQUAL(
                check_step(&c, one, &text, 24 + (t - 24) / 2, 25 + (t - 24) / 2, 0, out, lse),
                WN_OK);
            CU_ASSERT(distance_to(&c, &text, 1, 24 + (t - 24) / 2, 25 + (t - 24) / 2, 0, out, lse) <
                      BOUND);
        }
        CU_ASSERT(seen.mla == 7 * LAYERS && seen.others == 0 && seen.rows == 30 * LAYERS);
        wn_memory_plan memory;
        wn_engine_memory(c.engine, &memory);
        CU_ASSERT(memory.v_bytes == 0 && memory.scale_bytes == 0);
        CU_ASSERT_EQUAL(memory.k_bytes, memory.capacity_tokens * LAYERS * DIM * 4);
        check_erase(&text);
        check_close(&c);
    }
}

/* Three requests with room between the phases: what mla's way counts is what a layer with one KV
 * head and V apart counts, and so are the numbers. */
static void dense_counts_are_those_of_the_other_ops(void)
{
    enum { N = 3, TOTAL = 170 };
    const uint32_t now[N] = {129, 1, 40};
    const uint32_t flags[N] = {WN_ITEM_CONTEXT, 0, WN_ITEM_CONTEXT};
    static float out[2][TOTAL * OUT], lse[2][TOTAL * HEADS];
    static const float sinks[HEADS] = {0.5f, -3, 2, 0, -INFINITY, 1};
    wn_attend_counters heads[2][WN_PHASE_COUNT][HEADS] = {0};
    uint64_t random = wn_test_seed();
    const wn_model model = latent_model();
    check_text text = check_write(&model, TOTAL, &random);
    for (uint32_t mla = 0; mla < 2; mla++) {
        check_engine c = {.model = model};
        wn_ops table;
        wn_batch *batch;
        wn_batch_item items[N];
        c.model.mla = mla;
        check_open(
            &c, "",
            &(wn_engine_options){.struct_size = WN_SIZEOF(wn_engine_options), .max_tokens = 512});
        for (uint32_t i = 0; i < N; i++) {
            items[i] = (wn_batch_item){.struct_size = WN_SIZEOF(wn_batch_item),
                                       .flags = flags[i],
                                       .num_tokens = (int32_t)now[i]};
            wn_sequence_create(c.engine, &items[i].sequence);
        }
        check_step(&c, items[1].sequence, &text, 0, 70, WN_ITEM_CONTEXT, NULL, NULL);
        watch(&c, &table);
        CU_ASSERT_EQUAL_FATAL(wn_batch_begin(c.engine, items, N, &batch), WN_OK);
        wn_attention_args a = {
            .struct_size = WN_SIZEOF(wn_attention_args),
            .q = wn_tensor_make(text.q, WN_F32, 3, (int64_t[]){TOTAL, HEADS, DIM}),
            .k = wn_tensor_make(text.k, WN_F32, 3, (int64_t[]){TOTAL, 1, DIM}),
            .out = wn_tensor_make(out[mla], WN_F32, 3, (int64_t[]){TOTAL, HEADS, V_DIM}),
            .lse = wn_tensor_make(lse[mla], WN_F32, 2, (int64_t[]){TOTAL, HEADS}),
            .sinks = sinks};
        if (!mla)
            a.v = wn_tensor_make(text.v, WN_F32, 3, (int64_t[]){TOTAL, 1, V_DIM});
        CU_ASSERT_EQUAL(wn_attention(batch, 1, &a), WN_OK);
        CU_ASSERT_EQUAL(seen.mla, mla ? 3 : 0); /* two runs of prompts, one of generation */
        for (uint32_t p = 0; p < WN_PHASE_COUNT; p++)
            wn_engine_head_counters(c.engine, 1, p, heads[mla][p], HEADS);
        wn_batch_abort(batch);
        check_close(&c);
    }
    CU_ASSERT(memcmp(heads[0], heads[1], sizeof heads[0]) == 0);
    /* 129 and 40 tokens, and the 70 before them, in tiles of 64 queries by 64 keys. */
    CU_ASSERT(heads[1][WN_PHASE_CONTEXT][HEADS - 1].tiles_seen == 1 + 2 + 3 + 1 + 1 + 2);
    CU_ASSERT(apart(out[0], out[1], TOTAL * OUT) < NEAR);
    CU_ASSERT(apart(lse[0], lse[1], TOTAL * HEADS) < NEAR);
    check_erase(&text);
}

static void selected_tokens_go_through_mla(void)
{
    static const char *const forms[] = {"csr", "fixed", "shared", "logical"};
    for (uint32_t f = 0; f < 4; f++) {
        uint64_t random = wn_test_seed() + f;
        char yaml[128];
        check_engine c;
        wn_ops table;
        snprintf(yaml, sizeof yaml,
                 "sparse_attention_config: {algorithm: probe, select: 5, form: %s}\n", forms[f]);
        open_latent(&c, yaml,
                    &(wn_engine_options){.struct_size = WN_SIZEOF(wn_engine_options),
                                         .tokens_per_page = 4});
        watch(&c, &table);
        check_text text = check_write(&c.model, 30, &random);
        float out[LAYERS * 20 * OUT], lse[LAYERS * 20 * HEADS];
        wn_sequence s;
        wn_sequence_create(c.engine, &s);
        CU_ASSERT_EQUAL_FATAL(check_step(&c, s, &text, 0, 20, WN_ITEM_CONTEXT, out, lse), WN_OK);
        for (uint32_t l = 0; l < LAYERS; l++)
            CU_ASSERT(distance_to(&c, &text, l, 0, 20, 5, out, lse) < BOUND);
        CU_ASSERT_EQUAL(check_step(&c, s, &text, 20, 21, 0, out, lse), WN_OK);
        CU_ASSERT(distance_to(&c, &text, 1, 20, 21, 5, out, lse) < BOUND);
        CU_ASSERT_EQUAL(check_step(&c, s, &text, 21, 24, 0, out, lse), WN_OK); /* speculative */
        CU_ASSERT(distance_to(&c, &text, 0, 21, 24, 5, out, lse) < BOUND);
        /* One call a layer and step, as the lists follow each other. */
        CU_ASSERT(seen.mla == 3 * LAYERS && seen.others == 0 && seen.rows == 24 * LAYERS);
        wn_counters n;
        wn_attend_counters heads[HEADS];
        wn_engine_counters(c.engine, 0, WN_PHASE_CONTEXT, &n);
        wn_engine_head_counters(c.engine, 0, WN_PHASE_CONTEXT, heads, HEADS);
        CU_ASSERT(n.keys_selected == 1 + 2 + 3 + 4 + 16 * 5 && n.keys_attended == n.keys_selected);
        CU_ASSERT(heads[0].keys_read == 90 && heads[0].values_read == 90 &&
                  heads[1].keys_read == 0);
        CU_ASSERT(n.k_bytes_read == 90 * DIM * 4 && n.v_bytes_read == 0);
        wn_engine_counters(c.engine, 1, WN_PHASE_GENERATION, &n);
        CU_ASSERT_EQUAL(n.k_bytes_read, 4 * 5 * DIM * 4);
        check_erase(&text);
        check_close(&c);
    }
}

/* Context items with a generated token between them: rows of the other phase are not written. */
static void a_mixed_step_equals_each_alone(void)
{
    uint64_t random = wn_test_seed();
    check_engine c;
    wn_ops table;
    enum { N = 3, TOTAL = 10 };
    const uint32_t before[N] = {8, 15, 0}, now[N] = {6, 1, 3};
    const uint32_t flags[N] = {WN_ITEM_CONTEXT | WN_ITEM_MORE, 0, WN_ITEM_CONTEXT | WN_ITEM_MORE};
    float expected[TOTAL * OUT], q[TOTAL * HEADS * DIM], k[TOTAL * DIM], out[TOTAL * OUT];
    wn_batch_item items[N];
    open_latent(&c, "sparse_attention_config: {algorithm: probe, select: 5, form: fixed}\n", NULL);
    for (uint32_t i = 0, row = 0; i < N; row += now[i++]) {
        float alone[LAYERS * TOTAL * OUT];
        wn_sequence a, b;
        check_text text = check_write(&c.model, 20, &random);
        wn_sequence_create(c.engine, &a);
        check_step(&c, a, &text, 0, before[i], WN_ITEM_CONTEXT | WN_ITEM_MORE, NULL, NULL);
        wn_sequence_fork(c.engine, a, &b);
        CU_ASSERT_EQUAL(
            check_step(&c, a, &text, before[i], before[i] + now[i], flags[i], alone, NULL), WN_OK);
        memcpy(expected + row * OUT, alone, now[i] * OUT * 4);
        memcpy(q + row * HEADS * DIM, text.q + before[i] * HEADS * DIM, now[i] * HEADS * DIM * 4);
        memcpy(k + row * DIM, text.k + before[i] * DIM, now[i] * DIM * 4);
        items[i] = (wn_batch_item){WN_SIZEOF(wn_batch_item), flags[i], b, (int32_t)now[i], 0, NULL};
        check_erase(&text);
    }
    wn_batch *batch;
    watch(&c, &table);
    CU_ASSERT_EQUAL_FATAL(wn_batch_begin(c.engine, items, N, &batch), WN_OK);
    CU_ASSERT_EQUAL(
        wn_attention(
            batch, 0,
            WN_ARGS(wn_attention_args,
                    .q = wn_tensor_make(q, WN_F32, 3, (int64_t[]){TOTAL, HEADS, DIM}),
                    .k = wn_tensor_make(k, WN_F32, 3, (int64_t[]){TOTAL, 1, DIM}),
                    .out = wn_tensor_make(out, WN_F32, 3, (int64_t[]){TOTAL, HEADS, V_DIM}))),
        WN_OK);
    CU_ASSERT(memcmp(out, expected, sizeof out) == 0);
    CU_ASSERT(seen.mla == 3 && seen.rows == TOTAL); /* two runs of prompts, one of generation */
    wn_batch_abort(batch);
    check_close(&c);
}

/* One prompt of 20 tokens on layer 0, with the args of `like`. */
static void prefill(check_engine *c, const check_text *text, wn_attention_args like, float *out,
                    float *lse)
{
    wn_sequence s;
    wn_batch *batch;
    wn_sequence_create(c->engine, &s);
    wn_batch_item item = {WN_SIZEOF(wn_batch_item), WN_ITEM_CONTEXT, s, 20, 0, NULL};
    CU_ASSERT_EQUAL_FATAL(wn_batch_begin(c->engine, &item, 1, &batch), WN_OK);
    like.struct_size = WN_SIZEOF(wn_attention_args);
    like.q = wn_tensor_make(text->q, WN_F32, 3, (int64_t[]){20, HEADS, DIM});
    like.k = wn_tensor_make(text->k, WN_F32, 3, (int64_t[]){20, 1, DIM});
    if (!c->model.mla)
        like.v = wn_tensor_make(text->v, WN_F32, 3, (int64_t[]){20, 1, V_DIM});
    like.out = wn_tensor_make(out, WN_F32, 3, (int64_t[]){20, HEADS, V_DIM});
    like.lse = wn_tensor_make(lse, WN_F32, 2, (int64_t[]){20, HEADS});
    CU_ASSERT_EQUAL(wn_attention(batch, 0, &like), WN_OK);
    wn_batch_abort(batch);
}

/* An engine with one KV head and V apart is the oracle: the same numbers, whatever the way. */
static void every_way_gives_the_same(void)
{
    static const float slopes[HEADS] = {0.1f, 0.2f, 0.3f, 0.1f, 0, 0.5f};
    static const float sinks[HEADS] = {0.5f, -3, 2, 0, -INFINITY, 1};
    static const struct {
        const char *keys;
        wn_attention_args like;
        int mla;
    } ways[] = {{"", {.soft_cap = 0}, 1},
                {"", {.sinks = sinks}, 1},
                {", tile: true", {.sinks = sinks}, 0},
                {"", {.window = 3, .token_sinks = 1}, 0},
                {"", {.soft_cap = 1.5f}, 0},
                {"", {.alibi_slopes = slopes}, 0},
                {"}\ngranularity: page\n#", {.soft_cap = 0}, 0}};
    for (uint32_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        float out[2][20 * OUT], lse[2][20 * HEADS];
        uint64_t random = wn_test_seed() + i;
        const wn_model model = latent_model();
        check_text text = check_write(&model, 20, &random);
        for (uint32_t mla = 0; mla < 2; mla++) {
            char yaml[256];
            check_engine c = {.model = model};
            wn_ops table;
            snprintf(yaml, sizeof yaml,
                     "sparse_attention_config: {algorithm: probe, select: 5%s}\n", ways[i].keys);
            c.model.mla = mla;
            check_open(&c, yaml, NULL);
            watch(&c, &table);
            prefill(&c, &text, ways[i].like, out[mla], lse[mla]);
            CU_ASSERT_EQUAL(seen.mla > 0, mla && ways[i].mla);
            check_close(&c);
        }
        CU_ASSERT(apart(out[0], out[1], 20 * OUT) < (ways[i].mla ? NEAR : 1e-30));
        CU_ASSERT(apart(lse[0], lse[1], 20 * HEADS) < (ways[i].mla ? NEAR : 1e-30));
        check_erase(&text);
    }
}

static void eviction_moves_the_latents(void)
{
    uint64_t random = wn_test_seed();
    check_engine c;
    open_latent(
        &c, "sparse_attention_config: {algorithm: probe, keep: 12, select: 40}\n",
        &(wn_engine_options){.struct_size = WN_SIZEOF(wn_engine_options), .tokens_per_page = 4});
    check_text text = check_write(&c.model, 36, &random);
    float out[LAYERS * OUT], lse[LAYERS * HEADS];
    wn_sequence s;
    wn_sequence_create(c.engine, &s);
    CU_ASSERT_EQUAL_FATAL(check_step(&c, s, &text, 0, 30, WN_ITEM_CONTEXT, NULL, NULL), WN_OK);
    for (uint32_t t = 30; t < 36; t++) {
        CU_ASSERT_EQUAL(check_step(&c, s, &text, t, t + 1, 0, out, lse), WN_OK);
        CU_ASSERT(distance_to(&c, &text, 0, t, t + 1, 13 + t - 30, out, lse) < BOUND);
        CU_ASSERT(distance_to(&c, &text, 1, t, t + 1, 13 + t - 30, out, lse) < BOUND);
    }
    check_erase(&text);
    check_close(&c);
}

/* Records of 656 bytes: e4m3 codes have 3 bits behind the point, so values are off by at most 1/16
 * of themselves, and scores of 576 channels by much less. */
static void records_are_close(void)
{
    enum { WIDE = 576, LATENT = 512, T = 6 };
    static const char *const yaml[] = {"",
                                       "sparse_attention_config: {algorithm: probe, select: 40}\n",
                                       "sparse_attention_config: {algorithm: probe, keep: 4}\n"};
    for (uint32_t i = 0; i < 3; i++) {
        uint64_t random = wn_test_seed() + i;
        check_engine c = {.model = latent_model()};
        wn_ops table;
        c.model.num_heads = 2;
        c.model.head_dim = WIDE;
        c.model.v_head_dim = LATENT;
        c.model.softmax_scale = 0.02f;
        check_open(&c, yaml[i],
                   &(wn_engine_options){.struct_size = WN_SIZEOF(wn_engine_options),
                                        .kv_dtype = WN_F8_E4M3,
                                        .max_tokens = 64,
                                        .tokens_per_page = 4});
        watch(&c, &table);
        check_text text = check_write(&c.model, T + 1, &random);
        float *out = calloc(LAYERS * T * 2 * LATENT, 4);
        double o[2 * LATENT], l[2], worst = 0;
        wn_sequence s;
        wn_sequence_create(c.engine, &s);
        CU_ASSERT_EQUAL_FATAL(check_step(&c, s, &text, 0, T, WN_ITEM_CONTEXT, out, NULL), WN_OK);
        for (uint32_t t = 0; t < T; t++) {
            check_dense(&c.model, &text, 0, t, NULL, 0, CHECK_ALL_HEADS, o, l);
            worst = fmax(worst, check_distance(out + t * 2 * LATENT, o, 2 * LATENT));
        }
        CU_ASSERT(worst < 0.15 && worst > 1e-3);
        CU_ASSERT_EQUAL_FATAL(check_step(&c, s, &text, T, T + 1, 0, out, NULL), WN_OK);
        const int32_t keys[] = {2, 3, 4, 5, 6};
        check_dense(&c.model, &text, 0, T, i == 2 ? keys : NULL, 5, CHECK_ALL_HEADS, o, l);
        CU_ASSERT(check_distance(out, o, 2 * LATENT) < 0.15);
        CU_ASSERT(seen.mla > 0 && seen.others == 0);
        wn_counters n;
        wn_engine_counters(c.engine, 0, WN_PHASE_GENERATION, &n);
        CU_ASSERT(n.k_bytes_read == (i == 2 ? 5u : T + 1u) * 656 && n.v_bytes_read == 0);
        free(out);
        check_erase(&text);
        check_close(&c);
    }
}

/* RoPE by the engine: only the channels behind V turn. */
static void rope_leaves_the_values_alone(void)
{
    uint64_t random = wn_test_seed();
    check_engine c = {.model = latent_model()};
    c.model.rope = WN_ROPE_INTERLEAVED;
    c.model.rope_theta = 50;
    c.model.rope_dim = 4;
    c.model.rope_offset = V_DIM;
    check_open(&c, "sparse_attention_config: {algorithm: probe, select: 40}\n", NULL);
    check_text text = check_write(&c.model, 12, &random);
    float out[LAYERS * 12 * OUT], lse[LAYERS * 12 * HEADS];
    wn_sequence s;
    wn_sequence_create(c.engine, &s);
    CU_ASSERT_EQUAL_FATAL(check_step(&c, s, &text, 0, 12, WN_ITEM_CONTEXT, out, lse), WN_OK);
    for (uint32_t t = 0; t < 12; t++) /* the same, by hand, on the text */
        for (uint32_t pair = 0; pair < 2; pair++) {
            double angle = t * pow(50, -2.0 * pair / 4), x, y;
            for (uint32_t h = 0; h <= HEADS; h++) {
                float *a = (h < HEADS ? text.q + (t * HEADS + h) * DIM : text.k + t * DIM) + V_DIM +
                           2 * pair;
                x = a[0], y = a[1];
                a[0] = (float)(x * cos(angle) - y * sin(angle));
                a[1] = (float)(y * cos(angle) + x * sin(angle));
            }
        }
    CU_ASSERT(distance_to(&c, &text, 0, 0, 12, 0, out, lse) < 2e-5);
    check_erase(&text);
    check_close(&c);
}

/* ---------------------------------------------------------------- refusals */

static void expect_refusal(wn_model model, const wn_engine_options *options, const char *text)
{
    check_engine c = {.model = model};
    CU_ASSERT_NOT_EQUAL(check_try_open(&c, "", options), WN_OK);
    CU_ASSERT_PTR_NOT_NULL(strstr(wn_error_text(), text));
    if (strstr(wn_error_text(), text) == NULL)
        printf("\n  expected \"%s\" in \"%s\"\n", text, wn_error_text());
    wn_config_free(c.config);
    wn_registry_close(c.registry);
}

static void bad_models_are_refused(void)
{
    wn_model m = latent_model();
    m.mla = 3;
    m.num_kv_heads = 2;
    m.v_head_dim = DIM + 1;
    expect_refusal(m, NULL, "model.mla is 3");
    expect_refusal(m, NULL, "model.mla with 2 KV heads");
    expect_refusal(m, NULL, "model.mla with v_head_dim 13");
    m = latent_model();
    m.rope = WN_ROPE_INTERLEAVED;
    m.rope_theta = 10;
    m.rope_dim = 6;
    m.rope_offset = 6;
    expect_refusal(m, NULL, "rotates channels from 6 on: the first 8 are V");
#define OPTIONS(...) &(wn_engine_options){.struct_size = WN_SIZEOF(wn_engine_options), __VA_ARGS__}
    m = latent_model();
    expect_refusal(m, OPTIONS(.kv_dtype = WN_I8), "mla with dtype int8");
    expect_refusal(m, OPTIONS(.kv_dtype = WN_F8_E4M3), "use bfloat16");
    expect_refusal(m, OPTIONS(.layout = "vec"), "use hnd or nhd");
}

static void bad_arguments_are_named(void)
{
    check_engine c;
    wn_sequence s;
    wn_batch *batch;
    float data[4 * (HEADS + 2) * DIM] = {0};
    open_latent(&c, "", NULL);
    wn_sequence_create(c.engine, &s);
    wn_batch_item item = {WN_SIZEOF(wn_batch_item), WN_ITEM_CONTEXT, s, 4, 0, NULL};
    CU_ASSERT_EQUAL_FATAL(wn_batch_begin(c.engine, &item, 1, &batch), WN_OK);
    wn_tensor q = wn_tensor_make(data, WN_F32, 3, (int64_t[]){4, HEADS, DIM});
    wn_tensor k = wn_tensor_make(data, WN_F32, 3, (int64_t[]){4, 1, DIM});
    wn_tensor v = wn_tensor_make(data, WN_F32, 3, (int64_t[]){4, 1, V_DIM});
    wn_tensor qkv = wn_tensor_make(data, WN_F32, 2, (int64_t[]){4, (HEADS + 1) * DIM + V_DIM});
    wn_tensor out = wn_tensor_make(data, WN_F32, 3, (int64_t[]){4, HEADS, V_DIM});
#define REFUSED(word, ...)                                                                         \
    CU_ASSERT_EQUAL(wn_attention(batch, 0, WN_ARGS(wn_attention_args, __VA_ARGS__)), WN_EINVAL);   \
    CU_ASSERT_PTR_NOT_NULL(strstr(wn_error_text(), word))
    REFUSED("leave v out", .q = q, .k = k, .v = v, .out = out);
    REFUSED("leave v out", .q = q, .v = v, .out = out);
    REFUSED("give q and k", .qkv = qkv, .out = out);
    REFUSED("leave them 0", .q = q, .k = k, .out = out, .k_scale = 2);
    REFUSED("leave them 0", .q = q, .k = k, .out = out, .v_scale = 2);
    REFUSED("neither", .q = q);
    CU_ASSERT_EQUAL(wn_attention(batch, 0, WN_ARGS(wn_attention_args, .k = k)), WN_OK);
    CU_ASSERT_EQUAL(wn_attention(batch, 0, WN_ARGS(wn_attention_args, .q = q, .out = out)), WN_OK);
    wn_batch_abort(batch);
    check_close(&c);
}

WN_SUITE("core.latent_attention", {"it does what context does", it_does_what_context_does},
         {"what mla cannot do is refused", what_mla_cannot_do_is_refused},
         {"without a selection it is dense", without_a_selection_it_is_dense},
         {"dense counts are those of the other ops", dense_counts_are_those_of_the_other_ops},
         {"selected tokens go through mla", selected_tokens_go_through_mla},
         {"a mixed step equals each alone", a_mixed_step_equals_each_alone},
         {"every way gives the same", every_way_gives_the_same},
         {"eviction moves the latents", eviction_moves_the_latents},
         {"records are close", records_are_close},
         {"rope leaves the values alone", rope_leaves_the_values_alone},
         {"bad models are refused", bad_models_are_refused},
         {"bad arguments are named", bad_arguments_are_named})
