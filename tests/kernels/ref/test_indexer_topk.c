/* test_indexer_topk.c: the whole way of an indexer (rotation, Hadamard transform, quantisation,
 * pages, scores, selection) against golden values of a float64 model, in every variant that
 * published systems use; selections by hand; and that no row of scores is ever in memory. */
#include "golden_stream.h"
#include "kernels/ref/ref.h"
#include "suite.h"

#include <math.h>

enum { KEYS = 24, HEADS = 4, DIM = 128, ROPE = 64, K = 6, PAGE = 16 };

static wn_tensor rows(void *data, uint32_t dtype, int64_t count, int64_t n)
{
    return (wn_tensor){
        .data = data, .shape = {count, n}, .stride = {n, 1}, .dtype = dtype, .ndim = 2};
}

static wn_tensor heads(void *data, uint32_t dtype, int64_t count, int64_t num_heads, int64_t n)
{
    return (wn_tensor){.data = data,
                       .shape = {count, num_heads, n},
                       .stride = {num_heads * n, n, 1},
                       .dtype = dtype,
                       .ndim = 3};
}

/* ---------------------------------------------------------------- golden */

/* What differs between the systems that use this indexer. */
typedef struct variant {
    uint32_t rope; /* WN_ROPE_... */
    int is_hadamard, is_fp8;
    double score[4]; /* golden, of the first keys */
    int32_t best[K]; /* golden, ascending */
} variant;

typedef struct golden {
    float k[KEYS * DIM], q[HEADS * DIM], weights[HEADS];
} golden;

static void normalise(const double *raw, float *out)
{
    double mean = 0, variance = 0;
    for (int d = 0; d < DIM; d++)
        mean += raw[d] / DIM;
    for (int d = 0; d < DIM; d++)
        variance += (raw[d] - mean) * (raw[d] - mean) / DIM;
    for (int d = 0; d < DIM; d++)
        out[d] = (float)((raw[d] - mean) / sqrt(variance + 1e-6));
}

/* Projections of 24 keys, of one query at the last position, and the heads' weights. */
static golden draw(void)
{
    golden g;
    double raw[DIM];
    uint64_t state = 2025;
    for (int t = 0; t < KEYS; t++) {
        for (int d = 0; d < DIM; d++)
            raw[d] = wn_golden_bf16(4 * wn_golden_next(&state));
        normalise(raw, g.k + (size_t)t * DIM);
    }
    for (int i = 0; i < HEADS * DIM; i++)
        g.q[i] = (float)wn_golden_bf16(4 * wn_golden_next(&state));
    for (int h = 0; h < HEADS; h++)
        g.weights[h] = (float)(2 * wn_golden_next(&state));
    return g;
}

/* theta 10000 stretched by YaRN: factor 40, 4096 positions, 32 and 1 turns. */
static void make_frequencies(float *frequency)
{
    for (int i = 0; i < ROPE / 2; i++) {
        double plain = pow(1e4, -2.0 * i / ROPE), ramp = fmin(fmax((i - 10) / 13., 0), 1);
        frequency[i] = (float)(plain / 40 * ramp + plain * (1 - ramp));
    }
}

static void rotate(wn_tensor x, const int32_t *position, const variant *v)
{
    float frequency[ROPE / 2];
    make_frequencies(frequency);
    wn_rope_args rope = {.struct_size = WN_SIZEOF(wn_rope_args),
                         .in = x,
                         .out = x,
                         .position = position,
                         .rope_inverse_frequency = frequency,
                         .rope = v->rope,
                         .rope_dim = ROPE};
    wn_tensor all = rows(x.data, WN_F32, x.shape[0] * x.shape[1], DIM);
    wn_hadamard_args hadamard = {.struct_size = WN_SIZEOF(wn_hadamard_args), .in = all, .out = all};
    CU_ASSERT_EQUAL_FATAL(wn_ref_rope(&rope), WN_OK);
    if (v->is_hadamard)
        CU_ASSERT_EQUAL_FATAL(wn_ref_hadamard(&hadamard), WN_OK);
}

static void rotate_all(golden *g, const variant *v)
{
    int32_t position[KEYS];
    for (int t = 0; t < KEYS; t++)
        position[t] = t;
    rotate(heads(g->k, WN_F32, KEYS, 1, DIM), position, v);
    rotate(heads(g->q, WN_F32, 1, HEADS, DIM), &position[KEYS - 1], v);
}

static void quantise(wn_tensor in, wn_tensor out, float *scale)
{
    wn_quantise_args a = {.struct_size = WN_SIZEOF(wn_quantise_args),
                          .in = in,
                          .out = out,
                          .scale = scale,
                          .scale_rule = scale != NULL ? WN_SCALE_POWER_OF_TWO : WN_SCALE_READ,
                          .least_amax = 1e-4f};
    CU_ASSERT_EQUAL_FATAL(wn_ref_quantise(&a), WN_OK);
}

/* The pages, last one first. */
static const int32_t page_table[] = {1, 0};
static uint32_t pool[2 * PAGE * DIM / 2];

static wn_indexer_view append_keys(golden *g, const variant *v)
{
    static uint16_t narrow[KEYS * DIM];
    int64_t slot[KEYS];
    for (int t = 0; t < KEYS; t++)
        slot[t] = page_table[t / PAGE] * PAGE + t % PAGE;
    quantise(rows(g->k, WN_F32, KEYS, DIM), rows(narrow, WN_BF16, KEYS, DIM), NULL);
    wn_indexer_append_args a = {.struct_size = WN_SIZEOF(wn_indexer_append_args),
                                .k = rows(narrow, WN_BF16, KEYS, DIM),
                                .slot = slot,
                                .keys = {.data = (uint8_t *)pool,
                                         .page_stride = PAGE * (v->is_fp8 ? DIM + 4 : 2 * DIM),
                                         .dtype = v->is_fp8 ? WN_F8_E4M3 : WN_BF16,
                                         .dim = DIM,
                                         .tokens_per_page = PAGE},
                                .scale_rule = WN_SCALE_POWER_OF_TWO,
                                .least_amax = 1e-4f};
    memset(pool, 0xff, sizeof pool);
    CU_ASSERT_EQUAL_FATAL(wn_ref_indexer_append(&a), WN_OK);
    return a.keys;
}

/* The scores without any quantisation: shows that rotations alone give the golden ones. */
static double plain_score(const golden *g, int t)
{
    double sum = 0;
    for (int h = 0; h < HEADS; h++) {
        double dot = 0;
        for (int d = 0; d < DIM; d++)
            dot += (double)g->q[h * DIM + d] * g->k[t * DIM + d];
        sum += g->weights[h] * fmax(dot, 0);
    }
    return sum / sqrt(HEADS) / sqrt(DIM);
}

/* What quantisation to bfloat16 may change; float8 scores are golden themselves. */
static const double bfloat16_tolerance = 4e-3, float_tolerance = 1e-6;

static void compare(const variant *v)
{
    golden g = draw();
    uint16_t narrow[HEADS * DIM];
    uint8_t codes[HEADS * DIM];
    float q_scale[HEADS], score[KEYS], workspace[K];
    int32_t indices[K], begin = 0, one = 1, length = KEYS;
    rotate_all(&g, v);
    wn_indexer_topk_args a = {.struct_size = WN_SIZEOF(wn_indexer_topk_args),
                              .q = heads(g.q, WN_F32, 1, HEADS, DIM),
                              .weights = rows(g.weights, WN_F32, 1, HEADS),
                              .keys = append_keys(&g, v),
                              .page_table = page_table,
                              .page_table_stride = 2,
                              .q_begin = &begin,
                              .q_len = &one,
                              .length = &length,
                              .batch = 1,
                              .weight_scale = (float)(1 / sqrt(HEADS) / sqrt(DIM)),
                              .indices = rows(indices, WN_I32, 1, K),
                              .workspace = workspace,
                              .scores = rows(score, WN_F32, 1, KEYS)};
    if (v->is_fp8) {
        quantise(rows(g.q, WN_F32, HEADS, DIM), rows(narrow, WN_BF16, HEADS, DIM), NULL);
        quantise(rows(narrow, WN_BF16, HEADS, DIM), rows(codes, WN_F8_E4M3, HEADS, DIM), q_scale);
        a.q = heads(codes, WN_F8_E4M3, 1, HEADS, DIM);
        a.q_scale = q_scale;
    }
    CU_ASSERT_EQUAL_FATAL(wn_ref_indexer_topk(&a), WN_OK);
    CU_ASSERT_EQUAL(memcmp(indices, v->best, sizeof indices), 0);
    for (int t = 0; t < 4; t++) {
        CU_ASSERT_DOUBLE_EQUAL(score[t], v->score[t],
                               v->is_fp8 ? float_tolerance : bfloat16_tolerance);
        if (!v->is_fp8)
            CU_ASSERT_DOUBLE_EQUAL(plain_score(&g, t), v->score[t], float_tolerance);
    }
}

static void golden_half_split(void)
{
    variant v = {.rope = WN_ROPE_HALF_SPLIT,
                 .score = {-.404232784445, -.0414715888992, -.926303029287, -.815362051629},
                 .best = {5, 6, 10, 12, 21, 22}};
    compare(&v);
    v.is_hadamard = 1; /* turns keys and queries alike */
    compare(&v);
}

static void golden_float8_with_hadamard(void)
{
    compare(&(variant){.rope = WN_ROPE_HALF_SPLIT,
                       .is_hadamard = 1,
                       .is_fp8 = 1,
                       .score = {-.400560650673, -.0390029557248, -.888565710864, -.810115439225},
                       .best = {5, 6, 10, 12, 14, 22}});
}

static void golden_float8_without_hadamard(void)
{
    compare(&(variant){.rope = WN_ROPE_HALF_SPLIT,
                       .is_fp8 = 1,
                       .score = {-.394911529496, -.0541168766486, -.953876822306, -.803785619485},
                       .best = {5, 6, 10, 12, 21, 22}});
}

static void golden_interleaved(void)
{
    compare(&(variant){.rope = WN_ROPE_INTERLEAVED,
                       .score = {.0392137227181, .125052246527, -.963429977279, -1.02765572604},
                       .best = {0, 1, 6, 18, 21, 22}});
}

/* ---------------------------------------------------------------- by hand */

/* Keys of one channel in one page: a score is q * weight * key. */
typedef struct small {
    float q[4], weights[4], workspace[4 * 16], scores[4 * 16];
    uint16_t keys[16];
    int32_t indices[4 * 16], count[4], page, begin, len, length;
    int64_t nans;
    wn_indexer_topk_args args;
} small;

static void make(small *s, const float *keys, int32_t length, int32_t queries, int64_t k)
{
    memset(s, 0, sizeof *s);
    s->length = length;
    s->len = queries;
    for (int i = 0; i < 16; i++)
        s->keys[i] = i < length ? wn_golden_bf16_bits(keys[i]) : 0x7fff;
    for (int i = 0; i < 4; i++)
        s->q[i] = s->weights[i] = 1;
    s->args = (wn_indexer_topk_args){.struct_size = WN_SIZEOF(wn_indexer_topk_args),
                                     .q = heads(s->q, WN_F32, queries, 1, 1),
                                     .weights = rows(s->weights, WN_F32, queries, 1),
                                     .keys = {.data = (uint8_t *)s->keys,
                                              .page_stride = 32,
                                              .dtype = WN_BF16,
                                              .dim = 1,
                                              .tokens_per_page = 16},
                                     .page_table = &s->page,
                                     .page_table_stride = 1,
                                     .q_begin = &s->begin,
                                     .q_len = &s->len,
                                     .length = &s->length,
                                     .batch = 1,
                                     .weight_scale = 1,
                                     .indices = rows(s->indices, WN_I32, queries, k),
                                     .count = s->count,
                                     .workspace = s->workspace,
                                     .nan_count = &s->nans};
}

static void run(small *s)
{
    CU_ASSERT_EQUAL_FATAL(wn_ref_indexer_topk(&s->args), WN_OK);
}

static void ties_and_signs(void)
{
    small s;
    make(&s, (float[]){1, 3, 2, 3, 2, 2, -5, 0, -1}, 9, 1, 4);
    run(&s);
    CU_ASSERT_EQUAL(memcmp(s.indices, (int32_t[]){1, 2, 3, 4}, 16), 0);
    s.weights[0] = -1; /* the keys without a positive dot product score 0, all others less */
    run(&s);
    CU_ASSERT_EQUAL(memcmp(s.indices, (int32_t[]){0, 6, 7, 8}, 16), 0);
    s.weights[0] = 0; /* all tie */
    run(&s);
    CU_ASSERT_EQUAL(memcmp(s.indices, (int32_t[]){0, 1, 2, 3}, 16), 0);
}

static void what_is_never_chosen(void)
{
    small s;
    make(&s, (float[]){1, 2, 3, 4}, 4, 1, 6);
    s.keys[1] = 0x7fc0; /* NaN */
    s.keys[2] = 0x7f80; /* inf */
    run(&s);
    CU_ASSERT_EQUAL(memcmp(s.indices, (int32_t[]){0, 2, 3, -1, -1, -1}, 24), 0);
    CU_ASSERT(s.count[0] == 3 && s.nans == 1);
    s.weights[0] = -1; /* now slot 2 scores -inf */
    run(&s);
    CU_ASSERT_EQUAL(memcmp(s.indices, (int32_t[]){0, 3, -1, -1, -1, -1}, 24), 0);
    CU_ASSERT(s.count[0] == 2 && s.nans == 2);
}

/* Context parallelism deals rows of a prompt in zigzag: each rank's rows end where they stand. */
static void golden_zigzag(void)
{
    static const int32_t position[3][4] = {{0, 1, 10, 11}, {2, 3, 8, 9}, {4, 5, 6, 7}};
    float keys[12];
    for (int i = 0; i < 12; i++)
        keys[i] = (float)(12 - i);
    for (int rank = 0; rank < 3; rank++) {
        int32_t first[4] = {0, -3, 0, 2}, end[4];
        small s;
        make(&s, keys, 12, 4, 16);
        for (int i = 0; i < 4; i++)
            end[i] = position[rank][i] + 1;
        s.args.first = first;
        s.args.end = end;
        run(&s);
        for (int i = 0; i < 4; i++) {
            int from = i == 3 ? 2 : 0, found = end[i] - from;
            CU_ASSERT_EQUAL(s.count[i], found);
            for (int j = 0; j < 16; j++)
                CU_ASSERT_EQUAL(s.indices[i * 16 + j], j < found ? from + j : -1);
        }
    }
}

/* ---------------------------------------------------------------- memory */

/* A line "name:  n kB" of the kernel's account of this process, in bytes. */
static int64_t memory_of_process(const char *name)
{
    char line[128];
    long long kilobytes = -1;
    FILE *file = fopen("/proc/self/status", "r");
    size_t length = strlen(name);
    while (file != NULL && kilobytes < 0 && fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, name, length) == 0 && line[length] == ':')
            kilobytes = strtoll(line + length + 1, NULL, 10);
    if (file != NULL)
        fclose(file);
    CU_ASSERT_FATAL(kilobytes >= 0);
    return kilobytes * 1024;
}

/* 2048 queries over 64 Ki keys: a matrix of scores would take 512 MiB. The best 2048 of each, and
 * the workspace for finding them, are 32. */
static void no_row_of_scores_in_memory(void)
{
    enum { MANY = 65536, QUERIES = 2048, TOP = 2048, WIDTH = 8, TOKENS = 64 };
    int64_t page = TOKENS * (WIDTH + 4);
    uint8_t *keys = malloc((size_t)(MANY / TOKENS * page));
    float *q = malloc(sizeof *q * QUERIES * WIDTH), *weights = malloc(sizeof *weights * QUERIES);
    int32_t *table = malloc(sizeof *table * MANY / TOKENS), begin = 0, len = QUERIES, length = MANY;
    CU_ASSERT_FATAL(keys != NULL && q != NULL && weights != NULL && table != NULL);
    for (int p = 0; p < MANY / TOKENS; p++) {
        for (int i = 0; i < TOKENS * WIDTH; i++)
            keys[p * page + i] = (uint8_t)((p * 31 + i * 7) % 0x70);
        for (int i = 0; i < TOKENS; i++)
            ((float *)(void *)(keys + p * page + TOKENS * WIDTH))[i] = 1;
        table[p] = p;
    }
    for (int i = 0; i < QUERIES * WIDTH; i++)
        q[i] = (float)(i % 5 - 1);
    for (int i = 0; i < QUERIES; i++)
        weights[i] = i % 2 ? 1 : -1;
    int64_t before = memory_of_process("VmRSS");
    int32_t *indices = malloc(sizeof *indices * QUERIES * TOP);
    float *workspace = malloc(sizeof *workspace * QUERIES * TOP);
    CU_ASSERT_FATAL(indices != NULL && workspace != NULL);
    wn_indexer_topk_args a = {.struct_size = WN_SIZEOF(wn_indexer_topk_args),
                              .q = heads(q, WN_F32, QUERIES, 1, WIDTH),
                              .weights = rows(weights, WN_F32, QUERIES, 1),
                              .keys = {.data = keys,
                                       .page_stride = page,
                                       .dtype = WN_F8_E4M3,
                                       .dim = WIDTH,
                                       .tokens_per_page = TOKENS},
                              .page_table = table,
                              .page_table_stride = MANY / TOKENS,
                              .q_begin = &begin,
                              .q_len = &len,
                              .length = &length,
                              .batch = 1,
                              .weight_scale = 1,
                              .indices = rows(indices, WN_I32, QUERIES, TOP),
                              .workspace = workspace};
    CU_ASSERT_EQUAL(wn_ref_indexer_topk(&a), WN_OK);
    CU_ASSERT(memory_of_process("VmHWM") - before < 64LL << 20);
    for (int64_t i = 1; i < TOP; i++) /* of the last query */
        CU_ASSERT(indices[(QUERIES - 1) * TOP + i] > indices[(QUERIES - 1) * TOP + i - 1]);
    free(workspace);
    free(indices);
    free(table);
    free(weights);
    free(q);
    free(keys);
}

WN_SUITE("kernels.ref.indexer_topk", {"no row of scores in memory", no_row_of_scores_in_memory},
         {"golden half-split", golden_half_split},
         {"golden float8 with Hadamard", golden_float8_with_hadamard},
         {"golden float8 without Hadamard", golden_float8_without_hadamard},
         {"golden interleaved", golden_interleaved}, {"ties and signs", ties_and_signs},
         {"what is never chosen", what_is_never_chosen}, {"golden zigzag", golden_zigzag})
