/* test_topk.c: the order of scores and its corners, followed by hand. */
#include "golden_stream.h"
#include "kernels/ref/ref.h"
#include "suite.h"

#include <math.h>
#include <string.h>

enum { N = 8, K = 4 };

typedef struct topk {
    float scores[N];
    int32_t indices[K], count;
    int64_t nans;
    wn_topk_args args;
} topk;

static void run(topk *t)
{
    t->args = (wn_topk_args){
        .struct_size = WN_SIZEOF(wn_topk_args),
        .scores =
            {.data = t->scores, .shape = {1, N}, .stride = {N, 1}, .dtype = WN_F32, .ndim = 2},
        .indices =
            {.data = t->indices, .shape = {1, K}, .stride = {K, 1}, .dtype = WN_I32, .ndim = 2},
        .count = &t->count,
        .nan_count = &t->nans};
    CU_ASSERT_EQUAL_FATAL(wn_ref_topk(&t->args), WN_OK);
}

static void expect(const topk *t, int32_t a, int32_t b, int32_t c, int32_t d)
{
    CU_ASSERT_EQUAL(memcmp(t->indices, (int32_t[K]){a, b, c, d}, sizeof t->indices), 0);
}

static void greatest_first_then_ascending(void)
{
    topk t = {.scores = {3, -1, 9, 0, 7, -2, 8, 1}};
    run(&t);
    expect(&t, 0, 2, 4, 6);
    CU_ASSERT_EQUAL(t.count, 4);
}

static void ties_go_to_the_lower_index(void)
{
    topk t = {.scores = {1, 2, 1, 1, 2, 1, 1, 1}};
    run(&t);
    expect(&t, 0, 1, 2, 4);
    topk zeros = {.scores = {-0.0f, 0.0f, -0.0f, 0.0f, -0.0f, 0.0f, 0.0f, 0.0f}};
    run(&zeros); /* -0 equals +0 */
    expect(&zeros, 0, 1, 2, 3);
}

static void negative_and_tiny(void)
{
    topk t = {.scores = {-1e-40f, -1, -1e30f, 1e-40f, -2, -3, -1e-45f, -1e38f}};
    run(&t);
    expect(&t, 0, 1, 3, 6);
}

static void what_is_never_chosen(void)
{
    topk t = {.scores = {NAN, -INFINITY, INFINITY, NAN, -INFINITY, -3.4e38f, -INFINITY, NAN},
              .nans = 10};
    run(&t);
    expect(&t, 2, 5, -1, -1);
    CU_ASSERT_EQUAL(t.count, 2);
    CU_ASSERT_EQUAL(t.nans, 13);
}

/* The k greatest of a row of up to 64, as a set of bits. */
static uint64_t best(const float *scores, int64_t n, int64_t k)
{
    int32_t indices[64];
    uint64_t set = 0;
    wn_topk_args a = {
        .struct_size = WN_SIZEOF(wn_topk_args),
        .scores =
            {.data = (void *)scores, .shape = {1, n}, .stride = {n, 1}, .dtype = WN_F32, .ndim = 2},
        .indices = {
            .data = indices, .shape = {1, k}, .stride = {k, 1}, .dtype = WN_I32, .ndim = 2}};
    CU_ASSERT_EQUAL_FATAL(wn_ref_topk(&a), WN_OK);
    for (int64_t i = 0; i < k && indices[i] >= 0; i++)
        set |= 1ULL << indices[i];
    return set;
}

/* With each k more, the next of `order` joins; `count` can be chosen. */
static void expect_order(const float *scores, int64_t n, const int *order, int count)
{
    uint64_t expected = 0;
    for (int k = 0; k <= n; k++) {
        CU_ASSERT_EQUAL(best(scores, n, k), expected);
        if (k < count)
            expected |= 1ULL << order[k];
    }
}

static void golden_orders(void)
{
    static const float ties[] = {1, 3, 2, 3, 2, 2, -0.0f, 0, -1};
    static const float kinds[] = {-INFINITY, -1e30f,    -1, -0x1p-149f, -0.0f,
                                  0,         0x1p-149f, 1,  INFINITY};
    static const float nothing[] = {-INFINITY, -INFINITY, -INFINITY};
    expect_order(ties, 9, (int[]){1, 3, 2, 4, 5, 0, 6, 7, 8}, 9);
    expect_order(kinds, 9, (int[]){8, 7, 6, 4, 5, 3, 2, 1}, 8);
    CU_ASSERT_EQUAL(best(nothing, 3, 2), 0);
}

/* Blocks of 4 keys by their maximum, the query's own block first of all. */
static void golden_blocks(void)
{
    static const float score[] = {0.1f, -2, 0.3f, 0.2f, 1.5f, 0,    0,    0,    -1,
                                  -1,   -1, -1,   0.9f, 0.8f, 0.7f, 0.6f, 0.0f, 0.05f};
    float maximum[5];
    for (int i = 0; i < 18; i++)
        maximum[i / 4] = i % 4 == 0 ? score[i] : fmaxf(maximum[i / 4], score[i]);
    maximum[17 / 4] = INFINITY;
    expect_order(maximum, 5, (int[]){4, 1, 3, 0, 2}, 5);
}

/* The best 7 of each of four shards, then the best 7 of those, are the best 7: also with a tie. */
static void golden_shards(void)
{
    float row[64], finalists[64];
    uint64_t state = 99, expected = 0;
    for (int i = 0; i < 64; i++)
        row[i] = (float)wn_golden_next(&state);
    row[5] = row[40];
    for (int i = 0; i < 64; i++)
        finalists[i] = -INFINITY;
    for (int shard = 0; shard < 4; shard++) {
        float part[16];
        for (int i = 0; i < 16; i++)
            part[i] = row[4 * i + shard];
        uint64_t chosen = best(part, 16, 7);
        for (int i = 0; i < 16; i++)
            if (chosen >> i & 1)
                finalists[4 * i + shard] = part[i];
    }
    static const int golden[] = {23, 57, 60, 63, 46, 29, 19};
    for (int k = 1; k <= 7; k++) {
        expected |= 1ULL << golden[k - 1];
        CU_ASSERT_EQUAL(best(row, 64, k), expected);
        CU_ASSERT_EQUAL(best(finalists, 64, k), expected);
    }
}

/* Rows with more candidates for the last place than any buffer of candidates: all the same, and all
 * of one exponent, in an order far from sorted. */
static void crowds(void)
{
    enum { MOST = 16385, TOP = 2048 };
    static float equal[MOST], close[MOST];
    static int32_t first[TOP], found[TOP];
    int64_t sum = 0;
    for (int i = 0; i < MOST; i++) {
        equal[i] = -3;
        close[i] = 1 + (float)(i * 4099 % 16384) * 0x1p-23f; /* 0 occurs twice, first and last */
    }
    wn_topk_args a = {
        .struct_size = WN_SIZEOF(wn_topk_args),
        .scores =
            {.data = equal, .shape = {1, MOST}, .stride = {MOST, 1}, .dtype = WN_F32, .ndim = 2},
        .indices = {
            .data = first, .shape = {1, TOP}, .stride = {TOP, 1}, .dtype = WN_I32, .ndim = 2}};
    CU_ASSERT_EQUAL_FATAL(wn_ref_topk(&a), WN_OK);
    a.scores.data = close;
    a.indices.data = found;
    CU_ASSERT_EQUAL_FATAL(wn_ref_topk(&a), WN_OK);
    for (int i = 0; i < TOP; i++) {
        CU_ASSERT_EQUAL(first[i], i);
        CU_ASSERT(close[found[i]] >= 1 + (16384 - TOP) * 0x1p-23f);
        CU_ASSERT(i == 0 || found[i] > found[i - 1]);
        sum += found[i] * 4099LL % 16384;
    }
    CU_ASSERT_EQUAL(sum, TOP * (16384LL * 2 - TOP - 1) / 2); /* each of the greatest, once */
}

WN_SUITE("kernels.ref.topk", {"greatest first, then ascending", greatest_first_then_ascending},
         {"ties go to the lower index", ties_go_to_the_lower_index},
         {"negative and tiny", negative_and_tiny}, {"what is never chosen", what_is_never_chosen},
         {"golden orders", golden_orders}, {"golden blocks", golden_blocks},
         {"golden shards", golden_shards}, {"crowds", crowds})
