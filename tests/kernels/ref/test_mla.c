/* test_mla.c: golden numbers of sparse MLA, computed by a float64 model in another language from
 * the inputs of golden_stream.h; and edges by hand. */
#include "golden_stream.h"
#include "kernels/number_format.h"
#include "kernels/ref/ref.h"
#include "suite.h"

#include <limits.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

/* ---------------------------------------------------------------- golden inputs */

enum { TOKENS = 10, HEADS = 2, DIM = 576, V_DIM = 512 };

/* kv as bfloat16 and as records, packed by append; results of the last call. */
typedef struct golden {
    uint16_t kv[TOKENS][DIM], q[HEADS][DIM];
    uint8_t record[TOKENS][WN_MLA_RECORD_BYTES];
    float out[HEADS][V_DIM], lse[HEADS], max[HEADS];
} golden;

static wn_tensor tensor(void *data, uint32_t dtype, int64_t rows, int64_t heads, int64_t dim)
{
    return (wn_tensor){.data = data,
                       .shape = {rows, heads, dim},
                       .stride = {heads * dim, dim, dim > 0},
                       .dtype = dtype,
                       .ndim = dim > 0 ? 3 : 2};
}

/* [rows, heads] */
static wn_tensor statistic(float *data, int64_t heads)
{
    wn_tensor t = tensor(data, WN_F32, 1, heads, 0);
    t.stride[0] = heads;
    t.stride[1] = 1;
    return t;
}

static wn_kv_view record_view(void *data)
{
    return (wn_kv_view){.data = data,
                        .page_stride = TOKENS * WN_MLA_RECORD_BYTES,
                        .token_stride = WN_MLA_RECORD_BYTES,
                        .dtype = WN_U8,
                        .layout = WN_LAYOUT_MLA_FP8,
                        .dim = DIM,
                        .tensor_scale = 1};
}

static wn_kv_view plain_view(void *data, uint32_t dtype, uint32_t dim)
{
    return (wn_kv_view){.data = data,
                        .page_stride = (int64_t)TOKENS * dim,
                        .token_stride = dim,
                        .dtype = dtype,
                        .layout = WN_LAYOUT_STRIDED,
                        .dim = dim,
                        .tensor_scale = 1};
}

static void make_golden(golden *g)
{
    uint64_t x = 656;
    int64_t slot[TOKENS];
    memset(g, 0, sizeof *g);
    for (int t = 0; t < TOKENS; t++)
        for (int d = 0; d < DIM; d++)
            g->kv[t][d] = wn_golden_bf16_bits(2 * wn_golden_next(&x));
    for (int h = 0; h < HEADS; h++)
        for (int d = 0; d < DIM; d++)
            g->q[h][d] = wn_golden_bf16_bits(2 * wn_golden_next(&x));
    for (int t = 0; t < TOKENS; t++)
        slot[t] = t;
    wn_append_args args = {.struct_size = WN_SIZEOF(wn_append_args),
                           .k = tensor(g->kv, WN_BF16, TOKENS, 1, DIM),
                           .k_cache = record_view(g->record),
                           .slot = slot,
                           .tokens_per_page = TOKENS,
                           .num_tokens = TOKENS};
    CU_ASSERT_EQUAL_FATAL(wn_ref_append(&args), WN_OK);
}

/* Both heads, one row, pool slots below `limit`. */
static wn_mla_args call_of(golden *g, wn_kv_view k, const int32_t *indices, uint32_t count,
                           const int32_t *limit)
{
    wn_mla_args args = {.struct_size = WN_SIZEOF(wn_mla_args),
                        .q = tensor(g->q, WN_BF16, 1, HEADS, DIM),
                        .v_dim = V_DIM,
                        .num_scopes = 1,
                        .scope[0] = {.k = k,
                                     .limit = limit,
                                     .indices = indices,
                                     .width = count,
                                     .tokens_per_page = TOKENS},
                        .softmax_scale = 0.13523377886088009f,
                        .out = tensor(g->out, WN_F32, 1, HEADS, V_DIM),
                        .lse = statistic(g->lse, HEADS),
                        .max_logits = statistic(g->max, HEADS)};
    return args;
}

static const int32_t ten[] = {TOKENS};
static const int32_t some[] = {7, -1, 0, 3, 9, INT_MAX, 3, -1}; /* 3 twice */

/* The scale is a float32: 3e-8 of it, of logits up to 2, is lost. */
static int is_near(float actual, double expected)
{
    return fabs((double)actual - expected) < 3e-7;
}

static int head_is(const golden *g, int h, double max, double lse, double out0, double out1,
                   double out511)
{
    return is_near(g->max[h], max) && is_near(g->lse[h], lse) && is_near(g->out[h][0], out0) &&
           is_near(g->out[h][1], out1) && is_near(g->out[h][511], out511);
}

static int is_zero(const float *x, int count)
{
    int zero = 1;
    for (int i = 0; i < count; i++)
        zero = zero && x[i] == 0;
    return zero;
}

/* ---------------------------------------------------------------- golden results */

static void records_to_the_byte(void)
{
    golden g;
    make_golden(&g);
    CU_ASSERT_EQUAL(sizeof g.record, 6560);
    CU_ASSERT_EQUAL(wn_golden_crc32(g.record, sizeof g.record), 0x62ad828fu);
    CU_ASSERT_EQUAL(memcmp(g.record, "\xe5\x5f\x73\xe9\x5a\x77\x60\x70", 8), 0);
    float scale[4];
    memcpy(scale, g.record[0] + 512, sizeof scale);
    for (int i = 0; i < 4; i++)
        CU_ASSERT_EQUAL(scale[i], 0x1p-8f);
    CU_ASSERT_EQUAL(memcmp(g.record[3] + 528, &g.kv[3][512], 128), 0);
}

static void listed_tokens(void)
{
    golden g;
    make_golden(&g);
    wn_mla_args args = call_of(&g, plain_view(g.kv, WN_BF16, DIM), some, 8, ten);
    CU_ASSERT_EQUAL(wn_ref_mla(&args), WN_OK);
    CU_ASSERT(
        head_is(&g, 0, 1.27314937494, 1.63238226991, .112858070337, .180019329278, .31609771191));
    CU_ASSERT(
        head_is(&g, 1, 1.71218492319, 2.22956068514, .40481725916, .193679497522, .114224523967));
    args.scope[0].k = record_view(g.record);
    CU_ASSERT_EQUAL(wn_ref_mla(&args), WN_OK);
    CU_ASSERT(
        head_is(&g, 0, 1.25056787353, 1.61280507938, .116611082659, .169202515058, .303846838355));
    CU_ASSERT(
        head_is(&g, 1, 1.6847881593, 2.20869608236, .399556061839, .187795361363, .112528871438));
}

static void sinks_and_no_keys(void)
{
    static const float quarter[HEADS] = {0.25f, -INFINITY}, infinite[HEADS] = {INFINITY, INFINITY};
    static const int32_t none[] = {-1, 99, -5};
    golden g;
    make_golden(&g);
    wn_mla_args args = call_of(&g, plain_view(g.kv, WN_BF16, DIM), some, 8, ten);
    args.sinks = quarter;
    CU_ASSERT_EQUAL(wn_ref_mla(&args), WN_OK);
    CU_ASSERT(is_near(g.out[0][0], .0902157315853) && is_near(g.lse[0], 1.63238226991));
    CU_ASSERT(is_near(g.out[1][0], .40481725916));
    args.sinks = infinite;
    CU_ASSERT_EQUAL(wn_ref_mla(&args), WN_OK);
    CU_ASSERT(is_zero(g.out[0], HEADS * V_DIM) && is_near(g.lse[0], 1.63238226991));
    for (int sink = 0; sink < 3; sink++) {
        args = call_of(&g, plain_view(g.kv, WN_BF16, DIM), none, 3, ten);
        args.sinks = sink == 0 ? NULL : sink == 1 ? quarter : infinite;
        memset(g.out, 0xff, sizeof g.out);
        CU_ASSERT_EQUAL(wn_ref_mla(&args), WN_OK);
        CU_ASSERT(is_zero(g.out[0], HEADS * V_DIM));
        CU_ASSERT(g.lse[0] == -INFINITY && g.max[1] == -INFINITY);
    }
}

/* The halves of the list, merged. */
static void two_splits(void)
{
    golden g;
    make_golden(&g);
    float parts[2][HEADS][V_DIM], parts_lse[2][HEADS], out[HEADS][V_DIM], lse[HEADS];
    for (int p = 0; p < 2; p++) {
        wn_mla_args args = call_of(&g, plain_view(g.kv, WN_BF16, DIM), some + 4 * p, 4, ten);
        args.out.data = parts[p];
        args.lse.data = parts_lse[p];
        CU_ASSERT_EQUAL(wn_ref_mla(&args), WN_OK);
    }
    wn_merge_states_args merge = {.struct_size = WN_SIZEOF(wn_merge_states_args),
                                  .parts = {.data = parts,
                                            .shape = {2, 1, HEADS, V_DIM},
                                            .stride = {HEADS * V_DIM, HEADS * V_DIM, V_DIM, 1},
                                            .dtype = WN_F32,
                                            .ndim = 4},
                                  .parts_lse = {.data = parts_lse,
                                                .shape = {2, 1, HEADS},
                                                .stride = {HEADS, HEADS, 1},
                                                .dtype = WN_F32,
                                                .ndim = 3},
                                  .out = tensor(out, WN_F32, 1, HEADS, V_DIM),
                                  .lse = statistic(lse, HEADS)};
    CU_ASSERT_EQUAL(wn_ref_merge_states(&merge), WN_OK);
    CU_ASSERT(is_near(lse[0], 1.63238226991) && is_near(lse[1], 2.22956068514));
    CU_ASSERT(is_near(out[0][0], .112858070337) && is_near(out[1][511], .114224523967));
}

/* Tokens 0 .. 3 in one pool, 4 .. 9 in another; the sink once, over both. */
static void two_scopes(void)
{
    static const int32_t first[] = {0, 1, -1, 3}, second[] = {2, 5, -1}, four[] = {4}, six[] = {6};
    static const float quarter[HEADS] = {0.25f, 0.25f};
    golden g;
    make_golden(&g);
    wn_mla_args args = call_of(&g, plain_view(g.kv, WN_BF16, DIM), first, 4, four);
    args.num_scopes = 2;
    args.scope[1] = (wn_mla_scope){.k = plain_view(g.kv[4], WN_BF16, DIM),
                                   .limit = six,
                                   .indices = second,
                                   .width = 3,
                                   .tokens_per_page = 64};
    args.sinks = quarter;
    CU_ASSERT_EQUAL(wn_ref_mla(&args), WN_OK);
    CU_ASSERT(is_near(g.lse[0], 2.1223924999));
    CU_ASSERT(is_near(g.out[0][0], -.415064808408));
}

/* Attention in the latent space is attention with the keys and values that the latent stands for:
 * 4 + 2 channels of key and 4 of value per head, a latent of 8. */
static void absorbed_is_unabsorbed(void)
{
    enum { N = 5, R = 8, NOPE = 4, ROPE = 2, V = 4 };
    static const double expected[V] = {-.118569053053392, .17124865288048, .0410875724043767,
                                       .0841209473047432};
    static const int32_t table[] = {0}, length[] = {N}, begin[] = {0}, one[] = {1};
    double wk[NOPE][R], wv[V][R], c[N][R], kr[N][ROPE], qn[NOPE], qr[ROPE];
    double *const matrices[] = {&wk[0][0], &wv[0][0], &c[0][0], &kr[0][0], qn, qr};
    static const int sizes[] = {NOPE * R, V * R, N * R, N * ROPE, NOPE, ROPE};
    uint64_t x = 7;
    for (int m = 0; m < 6; m++)
        for (int i = 0; i < sizes[m]; i++)
            matrices[m][i] = wn_golden_next(&x);
    float q[R + ROPE] = {0}, latent[TOKENS][R + ROPE] = {{0}}, out[R];
    float plain_q[NOPE + ROPE], k[TOKENS][NOPE + ROPE] = {{0}}, v[TOKENS][V] = {{0}}, plain_out[V];
    for (int i = 0; i < NOPE; i++)
        plain_q[i] = (float)qn[i];
    for (int j = 0; j < R; j++) {
        double sum = 0;
        for (int i = 0; i < NOPE; i++)
            sum += wk[i][j] * qn[i];
        q[j] = (float)sum;
    }
    for (int i = 0; i < ROPE; i++)
        q[R + i] = plain_q[NOPE + i] = (float)qr[i];
    for (int t = 0; t < N; t++) {
        for (int j = 0; j < R; j++)
            latent[t][j] = (float)c[t][j];
        for (int i = 0; i < ROPE; i++)
            latent[t][R + i] = k[t][NOPE + i] = (float)kr[t][i];
        for (int i = 0; i < 4; i++) {
            double key = 0, value = 0;
            for (int j = 0; j < R; j++)
                key += wk[i][j] * c[t][j], value += wv[i][j] * c[t][j];
            k[t][i] = (float)key;
            v[t][i] = (float)value;
        }
    }
    wn_mla_args args = {.struct_size = WN_SIZEOF(wn_mla_args),
                        .q = tensor(q, WN_F32, 1, 1, R + ROPE),
                        .v_dim = R,
                        .num_scopes = 1,
                        .scope[0] = {.k = plain_view(latent, WN_F32, R + ROPE),
                                     .page_table = table,
                                     .page_table_stride = 1,
                                     .limit = length,
                                     .tokens_per_page = TOKENS},
                        .softmax_scale = 1,
                        .out = tensor(out, WN_F32, 1, 1, R)};
    wn_attend_args plain = {.struct_size = WN_SIZEOF(wn_attend_args),
                            .q = tensor(plain_q, WN_F32, 1, 1, NOPE + ROPE),
                            .q_begin = begin,
                            .q_len = one,
                            .kv = {.k = plain_view(k, WN_F32, NOPE + ROPE),
                                   .v = plain_view(v, WN_F32, V),
                                   .page_table = table,
                                   .page_table_stride = 1,
                                   .length = length,
                                   .batch = 1,
                                   .tokens_per_page = TOKENS,
                                   .num_kv_heads = 1},
                            .causal = 1,
                            .softmax_scale = 1,
                            .out = tensor(plain_out, WN_F32, 1, 1, V)};
    CU_ASSERT_EQUAL(wn_ref_mla(&args), WN_OK);
    CU_ASSERT_EQUAL(wn_ref_generation(&plain), WN_OK);
    for (int i = 0; i < V; i++) {
        double absorbed = 0;
        for (int j = 0; j < R; j++)
            absorbed += wv[i][j] * out[j];
        CU_ASSERT_DOUBLE_EQUAL(absorbed, expected[i], 1e-7);
        CU_ASSERT_DOUBLE_EQUAL(plain_out[i], expected[i], 1e-7);
    }
}

/* ---------------------------------------------------------------- edges */

/* Dense, as pool slots or by page table, is everything listed, bit for bit. */
static void dense_is_all_listed(void)
{
    static const int32_t all[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, table[] = {0};
    golden g, other;
    make_golden(&g);
    make_golden(&other);
    wn_mla_args args = call_of(&g, record_view(g.record), all, TOKENS, ten);
    CU_ASSERT_EQUAL(wn_ref_mla(&args), WN_OK);
    args = call_of(&other, record_view(other.record), NULL, 0, ten);
    CU_ASSERT_EQUAL(wn_ref_mla(&args), WN_OK);
    CU_ASSERT_EQUAL(memcmp(&g, &other, sizeof g), 0);
    memset(other.out, 0, sizeof other.out);
    args.scope[0].page_table = table;
    args.scope[0].page_table_stride = 1;
    CU_ASSERT_EQUAL(wn_ref_mla(&args), WN_OK);
    CU_ASSERT_EQUAL(memcmp(&g, &other, sizeof g), 0);
}

/* A key of dim 2 whose value is its first channel. */
static wn_mla_args pair_call(float *keys, const float *q, const int32_t *limit, float *results)
{
    wn_mla_args args = {
        .struct_size = WN_SIZEOF(wn_mla_args),
        .q = tensor((float *)q, WN_F32, 1, 1, 2),
        .v_dim = 1,
        .num_scopes = 1,
        .scope[0] = {.k = plain_view(keys, WN_F32, 2), .limit = limit, .tokens_per_page = TOKENS},
        .softmax_scale = 1,
        .out = tensor(results, WN_F32, 1, 1, 1),
        .lse = statistic(results + 1, 1),
        .max_logits = statistic(results + 2, 1)};
    return args;
}

/* A score of -inf has no weight, and its value, whatever it is, no effect; a score of NaN makes
 * the row NaN. */
static void special_scores(void)
{
    float keys[] = {INFINITY, 1, 5, 1, NAN, 1}, q[] = {-1, 0}, results[3];
    static const int32_t one[] = {1}, two[] = {2}, three[] = {3};
    wn_mla_args args = pair_call(keys, q, two, results);
    CU_ASSERT_EQUAL(wn_ref_mla(&args), WN_OK);
    CU_ASSERT(results[0] == 5 && results[1] == -5 && results[2] == -5);
    args = pair_call(keys, q, one, results);
    CU_ASSERT_EQUAL(wn_ref_mla(&args), WN_OK);
    CU_ASSERT(results[0] == 0 && results[1] == -INFINITY && results[2] == -INFINITY);
    args = pair_call(keys, q, three, results);
    CU_ASSERT_EQUAL(wn_ref_mla(&args), WN_OK);
    CU_ASSERT(isnan(results[0]) && isnan(results[1]) && isnan(results[2]));
}

/* Page 120000 of 64 records begins at 4.7 GiB. The pool is mapped, not touched. */
static void beyond_4_gib(void)
{
    enum { PAGES = 120001, PAGE_BYTES = 64 * WN_MLA_RECORD_BYTES };
    static const int32_t index[] = {40}, table[] = {PAGES - 1}, limit[] = {64};
    const size_t bytes = (size_t)PAGES * PAGE_BYTES;
    uint8_t *pool = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CU_ASSERT_FATAL(pool != MAP_FAILED);
    golden g;
    make_golden(&g);
    memcpy(pool + (PAGES - 1LL) * PAGE_BYTES + 40 * WN_MLA_RECORD_BYTES, g.record[6],
           WN_MLA_RECORD_BYTES);
    wn_kv_view view = record_view(pool);
    view.page_stride = PAGE_BYTES;
    wn_mla_args args = call_of(&g, view, index, 1, limit);
    args.scope[0].tokens_per_page = 64;
    args.scope[0].page_table = table;
    args.scope[0].page_table_stride = 1;
    CU_ASSERT_EQUAL(wn_ref_mla(&args), WN_OK);
    munmap(pool, bytes);
    for (int d = 0; d < V_DIM; d++) /* one key has all the weight */
        CU_ASSERT_EQUAL_FATAL(g.out[1][d], wn_e4m3_to_double(g.record[6][d]) * 0x1p-8);
}

static void *attend_in_a_thread(void *args)
{
    CU_ASSERT_EQUAL(wn_ref_mla(args), WN_OK);
    return NULL;
}

/* An executor's thread may have a stack of no more than 512 KiB. */
static void a_small_stack(void)
{
    golden g;
    pthread_attr_t small;
    pthread_t thread;
    make_golden(&g);
    wn_mla_args args = call_of(&g, record_view(g.record), some, 8, ten);
    CU_ASSERT_EQUAL(pthread_attr_init(&small), 0);
    CU_ASSERT_EQUAL(pthread_attr_setstacksize(&small, 512 * 1024), 0);
    CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, &small, attend_in_a_thread, &args), 0);
    pthread_join(thread, NULL);
    pthread_attr_destroy(&small);
    CU_ASSERT(is_near(g.lse[1], 2.20869608236));
}

WN_SUITE("kernels.ref.mla", {"records to the byte", records_to_the_byte},
         {"listed tokens", listed_tokens}, {"sinks and no keys", sinks_and_no_keys},
         {"two splits", two_splits}, {"two scopes", two_scopes},
         {"absorbed is unabsorbed", absorbed_is_unabsorbed},
         {"dense is all listed", dense_is_all_listed}, {"special scores", special_scores},
         {"beyond 4 GiB", beyond_4_gib}, {"a small stack", a_small_stack})
