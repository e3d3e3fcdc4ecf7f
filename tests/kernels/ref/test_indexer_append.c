/* test_indexer_append.c: the planar page, byte for byte. */
#include "golden_stream.h"
#include "kernels/ref/ref.h"
#include "suite.h"

#include <math.h>

enum { TOKENS = 64, DIM = 128, BYTES = TOKENS * (DIM + 4) };

static wn_tensor rows(void *data, uint32_t dtype, int64_t tokens, int64_t dim)
{
    return (wn_tensor){
        .data = data, .shape = {tokens, dim}, .stride = {dim, 1}, .dtype = dtype, .ndim = 2};
}

/* A page of 64 tokens of 128 channels as DeepSeek's systems share it: codes, then scales. Tokens
 * arrive last first: the slot alone says where one goes. */
static void golden_page(void)
{
    static uint16_t k[TOKENS * DIM];
    static uint32_t page[BYTES / 4];
    static const uint8_t first[] = {0x67, 0x75, 0xee, 0x77, 0x70, 0x64, 0x70, 0xf8};
    int64_t slot[TOKENS];
    uint64_t state = 132;
    for (int t = 0; t < TOKENS; t++) {
        slot[t] = TOKENS - 1 - t;
        for (int d = 0; d < DIM; d++)
            k[(TOKENS - 1 - t) * DIM + d] = wn_golden_bf16_bits(4 * wn_golden_next(&state));
    }
    wn_indexer_append_args a = {.struct_size = WN_SIZEOF(wn_indexer_append_args),
                                .k = rows(k, WN_BF16, TOKENS, DIM),
                                .slot = slot,
                                .keys = {.data = (uint8_t *)page,
                                         .page_stride = BYTES,
                                         .dtype = WN_F8_E4M3,
                                         .dim = DIM,
                                         .tokens_per_page = TOKENS},
                                .scale_rule = WN_SCALE_POWER_OF_TWO,
                                .least_amax = 1e-4f};
    CU_ASSERT_EQUAL_FATAL(wn_ref_indexer_append(&a), WN_OK);
    CU_ASSERT_EQUAL(memcmp(page, first, sizeof first), 0);
    CU_ASSERT_EQUAL(wn_golden_crc32(page, BYTES), 0x822c6eadu);
    CU_ASSERT_EQUAL(((float *)page)[TOKENS * DIM / 4], 0.0078125f); /* 2^-7 */
}

/* Two tokens per page of 4 channels; pages 24 bytes apart, of which 16 are used. */
static void scales_nan_and_skipped_tokens(void)
{
    float k[] = {0, 0, 0, 0, /* NaN */ 448, NAN, -224, 1, /* skipped */ 5, 5, 5, 5};
    uint32_t pool[3 * 6];
    int64_t slot[] = {1, 4, -7};
    memset(pool, 0xff, sizeof pool);
    wn_indexer_append_args a = {.struct_size = WN_SIZEOF(wn_indexer_append_args),
                                .k = rows(k, WN_F32, 3, 4),
                                .slot = slot,
                                .keys = {.data = (uint8_t *)pool,
                                         .page_stride = 24,
                                         .dtype = WN_F8_E4M3,
                                         .dim = 4,
                                         .tokens_per_page = 2},
                                .scale_rule = WN_SCALE_EXACT};
    CU_ASSERT_EQUAL_FATAL(wn_ref_indexer_append(&a), WN_OK);
    const uint8_t *codes = (const uint8_t *)pool;
    CU_ASSERT_EQUAL(pool[0], 0xffffffffu);
    CU_ASSERT_EQUAL(pool[1], 0); /* slot 1: zeros of scale 1 */
    CU_ASSERT_EQUAL(((float *)pool)[3], 1);
    CU_ASSERT(codes[48] == 0x7e && (codes[49] & 0x7f) == 0x7f && codes[50] == 0xf6);
    CU_ASSERT_EQUAL(codes[51], 0x38);
    CU_ASSERT_EQUAL(((float *)pool)[14], 1);
    CU_ASSERT(pool[13] == 0xffffffffu && pool[15] == 0xffffffffu && pool[6] == 0xffffffffu);
}

static void bfloat16_has_no_scales(void)
{
    float k[] = {1, -2, 0.5f, 3};
    uint16_t pool[2 * 4];
    int64_t slot[] = {1, 0};
    wn_indexer_append_args a = {.struct_size = WN_SIZEOF(wn_indexer_append_args),
                                .k = rows(k, WN_F32, 2, 2),
                                .slot = slot,
                                .keys = {.data = (uint8_t *)pool,
                                         .page_stride = 8,
                                         .dtype = WN_BF16,
                                         .dim = 2,
                                         .tokens_per_page = 2}};
    CU_ASSERT_EQUAL_FATAL(wn_ref_indexer_append(&a), WN_OK);
    CU_ASSERT(pool[0] == 0x3f00 && pool[1] == 0x4040 && pool[2] == 0x3f80 && pool[3] == 0xc000);
}

WN_SUITE("kernels.ref.indexer_append", {"golden page", golden_page},
         {"scales, NaN and skipped tokens", scales_nan_and_skipped_tokens},
         {"bfloat16 has no scales", bfloat16_has_no_scales})
