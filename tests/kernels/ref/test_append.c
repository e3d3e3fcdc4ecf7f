/* test_append.c: append by hand: known rotations, known codes, and a pool above 4 GiB. */
#include "kernels/number_format.h"
#include "kernels/ref/ref.h"
#include "suite.h"

#include <math.h>
#include <string.h>
#include <sys/mman.h>

static wn_tensor dense(void *data, int64_t tokens, int64_t heads, int64_t dim)
{
    return (wn_tensor){.data = data,
                       .shape = {tokens, heads, dim},
                       .stride = {heads * dim, dim, 1},
                       .dtype = WN_F32,
                       .ndim = 3};
}

/* A quarter turn takes (a, b) to (-b, a). */
static wn_append_args quarter_turn(float *q, uint32_t rope, uint32_t rope_dim, uint32_t offset)
{
    static const int32_t position[] = {1};
    static const float frequency[] = {1.57079632679f, 1.57079632679f};
    return (wn_append_args){.struct_size = WN_SIZEOF(wn_append_args),
                            .q = dense(q, 1, 1, 6),
                            .q_out = dense(q, 1, 1, 6),
                            .position = position,
                            .rope_inverse_frequency = frequency,
                            .rope = rope,
                            .rope_dim = rope_dim,
                            .rope_offset = offset,
                            .num_tokens = 1};
}

static int is_near(const float *x, const float *expected, int count)
{
    int near = 1;
    for (int i = 0; i < count; i++)
        near = near && fabsf(x[i] - expected[i]) < 1e-6f;
    return near;
}

static void half_split(void)
{
    float q[] = {9, 1, 2, 3, 4, 8};
    wn_append_args args = quarter_turn(q, WN_ROPE_HALF_SPLIT, 4, 1);
    CU_ASSERT_EQUAL(wn_ref_append(&args), WN_OK);
    CU_ASSERT(is_near(q, (float[]){9, -3, -4, 1, 2, 8}, 6));
}

static void interleaved(void)
{
    float q[] = {1, 2, 3, 4, 9, 8};
    wn_append_args args = quarter_turn(q, WN_ROPE_INTERLEAVED, 4, 0);
    CU_ASSERT_EQUAL(wn_ref_append(&args), WN_OK);
    CU_ASSERT(is_near(q, (float[]){-2, 1, -4, 3, 9, 8}, 6));
}

/* theta^(-2i/dim): with theta 10000 and dim 4 the frequencies are 1 and 0.01. */
static void frequencies_from_theta(void)
{
    static const int32_t position[] = {100};
    float q[] = {1, 1, 0, 0};
    wn_append_args args = {.struct_size = WN_SIZEOF(wn_append_args),
                           .q = dense(q, 1, 1, 4),
                           .q_out = dense(q, 1, 1, 4),
                           .position = position,
                           .rope_theta = 10000,
                           .rope = WN_ROPE_HALF_SPLIT,
                           .rope_dim = 4,
                           .num_tokens = 1};
    CU_ASSERT_EQUAL(wn_ref_append(&args), WN_OK);
    CU_ASSERT(is_near(q, (float[]){0.86231887f, 0.54030231f, -0.50636564f, 0.84147098f}, 4));
}

/* One token into place 1 of page 2 of an int8 cache with scales per token. */
static void int8_with_scales(void)
{
    float k[] = {-254, 127}, v[] = {0, 0}, k_scale[6] = {0}, v_scale[6] = {0};
    int8_t k_pool[12], v_pool[12];
    static const int64_t slot[] = {5};
    static const int32_t position[] = {77};
    int32_t key_position[6] = {0};
    memset(k_pool, 99, sizeof k_pool);
    memset(v_pool, 99, sizeof v_pool);
    wn_kv_view view = {.page_stride = 4,
                       .head_stride = 4,
                       .token_stride = 2,
                       .scale_page_stride = 2,
                       .scale_head_stride = 2,
                       .dtype = WN_I8,
                       .layout = WN_LAYOUT_STRIDED,
                       .dim = 2,
                       .tensor_scale = 1};
    wn_append_args args = {.struct_size = WN_SIZEOF(wn_append_args),
                           .k = dense(k, 1, 1, 2),
                           .v = dense(v, 1, 1, 2),
                           .k_cache = view,
                           .v_cache = view,
                           .slot = slot,
                           .position = position,
                           .key_position = key_position,
                           .key_position_page_stride = 2,
                           .key_position_head_stride = 2,
                           .tokens_per_page = 2,
                           .num_tokens = 1};
    args.k_cache.data = k_pool;
    args.k_cache.scale = k_scale;
    args.v_cache.data = v_pool;
    args.v_cache.scale = v_scale;
    CU_ASSERT_EQUAL(wn_ref_append(&args), WN_OK);
    CU_ASSERT(k_pool[10] == -127 && k_pool[11] == 64 && k_pool[9] == 99);
    CU_ASSERT(k_scale[5] == 2 && v_scale[5] == 1 && k_scale[4] == 0);
    CU_ASSERT(v_pool[10] == 0 && v_pool[9] == 99);
    CU_ASSERT(key_position[5] == 77 && key_position[4] == 0);
}

/* MLA: no V; the last 64 of 576 channels are rotated and stay bfloat16, and the latent's codes have
 * a scale per 128: greatest magnitudes of 448, 449, 1e-3 and 0 have 1, 2 and, twice, the least. */
static void records(void)
{
    static const float expected_scale[] = {1, 2, 0x1p-13f, 0x1p-13f};
    static const int64_t slot[] = {1};
    static const int32_t position[] = {1};
    float k[576] = {0}, frequency[32], scale[4];
    uint8_t pool[2][WN_MLA_RECORD_BYTES];
    uint16_t rope[64];
    memset(pool, 0x77, sizeof pool);
    k[0] = -448, k[127] = 1.0625f, k[128] = 449, k[129] = 2, k[256] = 1e-3f;
    for (int i = 0; i < 32; i++) {
        frequency[i] = 1.57079632679f;
        k[512 + 2 * i] = (float)(i + 1);
        k[513 + 2 * i] = (float)(-2 * i - 100);
    }
    wn_append_args args = {.struct_size = WN_SIZEOF(wn_append_args),
                           .k = dense(k, 1, 1, 576),
                           .k_cache = {.data = pool,
                                       .page_stride = sizeof pool,
                                       .token_stride = WN_MLA_RECORD_BYTES,
                                       .dtype = WN_U8,
                                       .layout = WN_LAYOUT_MLA_FP8,
                                       .dim = 576,
                                       .tensor_scale = 1},
                           .slot = slot,
                           .position = position,
                           .rope_inverse_frequency = frequency,
                           .rope = WN_ROPE_INTERLEAVED,
                           .rope_dim = 64,
                           .rope_offset = 512,
                           .tokens_per_page = 2,
                           .num_tokens = 1};
    CU_ASSERT_EQUAL(wn_ref_append(&args), WN_OK);
    CU_ASSERT(pool[0][0] == 0x77 && pool[0][WN_MLA_RECORD_BYTES - 1] == 0x77);
    memcpy(scale, pool[1] + 512, sizeof scale);
    memcpy(rope, pool[1] + 528, sizeof rope);
    CU_ASSERT_EQUAL(memcmp(scale, expected_scale, sizeof scale), 0);
    CU_ASSERT(pool[1][0] == 0xfe && pool[1][127] == 0x38 && pool[1][1] == 0);
    CU_ASSERT(pool[1][128] == 0x76 && pool[1][129] == 0x38); /* 449 / 2 is 224, 2 / 2 is 1 */
    CU_ASSERT_EQUAL(pool[1][256], 0x50);                     /* 8.192 is 8 in steps of 1 */
    for (int i = 0; i < 32; i++) { /* small integers: exact but for the quarter turn's rounding */
        CU_ASSERT_EQUAL(rope[2 * i], wn_bf16_from_double(2 * i + 100));
        CU_ASSERT_EQUAL(rope[2 * i + 1], wn_bf16_from_double(i + 1));
    }
}

static void skipped_tokens_are_not_written(void)
{
    float k[] = {1, 2}, pool[] = {7, 7};
    static const int64_t slot[] = {-1, 1};
    wn_kv_view view = {.data = pool,
                       .page_stride = 1,
                       .head_stride = 1,
                       .token_stride = 1,
                       .dtype = WN_F32,
                       .layout = WN_LAYOUT_STRIDED,
                       .dim = 1,
                       .tensor_scale = 1};
    wn_append_args args = {.struct_size = WN_SIZEOF(wn_append_args),
                           .k = dense(k, 2, 1, 1),
                           .v = dense(k, 2, 1, 1),
                           .k_cache = view,
                           .v_cache = view,
                           .slot = slot,
                           .tokens_per_page = 1,
                           .num_tokens = 2};
    CU_ASSERT_EQUAL(wn_ref_append(&args), WN_OK);
    CU_ASSERT(pool[0] == 7 && pool[1] == 2);
}

/* Element offsets beyond 2^31 and byte offsets beyond 2^32: pages of 2^20 floats, page 2999 begins
 * at 11.7 GiB. The pools are mapped, not touched. */
static void beyond_4_gib(void)
{
    enum { PAGES = 3000, PAGE = 1 << 20 };
    const size_t bytes = (size_t)PAGES * PAGE * sizeof(float);
    float *pool = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CU_ASSERT_FATAL(pool != MAP_FAILED);
    float k[] = {1, 2, 3, 4}, v[] = {5, 6, 7, 8};
    static const int64_t slot[] = {2999 * 16 + 15, 3};
    wn_kv_view view = {.page_stride = PAGE,
                       .head_stride = PAGE / 2,
                       .token_stride = 2,
                       .dtype = WN_F32,
                       .layout = WN_LAYOUT_STRIDED,
                       .dim = 2,
                       .tensor_scale = 1};
    wn_append_args args = {.struct_size = WN_SIZEOF(wn_append_args),
                           .k = dense(k, 2, 1, 2),
                           .v = dense(v, 2, 1, 2),
                           .k_cache = view,
                           .v_cache = view,
                           .slot = slot,
                           .tokens_per_page = 16,
                           .num_tokens = 2};
    args.k_cache.data = pool;
    args.v_cache.data = pool + PAGE / 4;
    CU_ASSERT_EQUAL(wn_ref_append(&args), WN_OK);
    const float *far = pool + 2999LL * PAGE;
    CU_ASSERT(far[30] == 1 && far[31] == 2 && far[PAGE / 4 + 30] == 5 && far[PAGE / 4 + 31] == 6);
    CU_ASSERT(pool[6] == 3 && pool[7] == 4 && pool[PAGE / 4 + 7] == 8);

    /* And back to the front by compaction, from page 2999 to page 0. */
    static const int32_t table[] = {0, 2999}, length[] = {32}, keep[] = {31}, offsets[] = {0, 1};
    wn_compact_args move = {.struct_size = WN_SIZEOF(wn_compact_args),
                            .kv = {.k = args.k_cache,
                                   .v = args.v_cache,
                                   .page_table = table,
                                   .page_table_stride = 2,
                                   .length = length,
                                   .batch = 1,
                                   .tokens_per_page = 16,
                                   .num_kv_heads = 1},
                            .indices = keep,
                            .offsets = offsets};
    CU_ASSERT_EQUAL(wn_ref_compact(&move), WN_OK);
    CU_ASSERT(pool[0] == 1 && pool[1] == 2 && pool[PAGE / 4] == 5 && pool[PAGE / 4 + 1] == 6);
    munmap(pool, bytes);
}

WN_SUITE("kernels.ref.append", {"half split", half_split}, {"interleaved", interleaved},
         {"frequencies from theta", frequencies_from_theta}, {"int8 with scales", int8_with_scales},
         {"records", records}, {"skipped tokens are not written", skipped_tokens_are_not_written},
         {"beyond 4 GiB", beyond_4_gib})
