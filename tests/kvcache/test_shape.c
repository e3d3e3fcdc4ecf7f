/* test_shape.c: contradictions are named, all of them; pools have the sizes that kvcache.md and the
 * views promise. */
#include "kvcache/shape.h"

#include <string.h>

#include "cache_reference.h"
#include "suite.h"

static cache_fixture fixture;

static void fresh(uint32_t layout, uint32_t dtype)
{
    cache_fixture_init(&fixture, layout, dtype);
}

/* Refused with a text that names the culprit. */
static void expect(const char *word)
{
    wn_kvcache_plan plan;
    fixture.text[0] = 0;
    wn_status status = wn_kvcache_plan_memory(&fixture.shape, &plan, &fixture.error);
    CU_ASSERT_EQUAL(status, WN_EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(fixture.text, word));
    if (strstr(fixture.text, word) == NULL)
        printf("    expected \"%s\" in \"%s\"\n", word, fixture.text);
    fresh(WN_CACHE_VEC, WN_F32);
}

static void good_shapes_pass(void)
{
    static const uint32_t layouts[] = {WN_CACHE_HND, WN_CACHE_NHD, WN_CACHE_VEC};
    static const uint32_t dtypes[] = {WN_F32, WN_F16, WN_BF16, WN_F8_E4M3, WN_I8};
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 5; j++) {
            fresh(layouts[i], dtypes[j]);
            CU_ASSERT_EQUAL(wn_shape_check(&fixture.shape, &fixture.error), WN_OK);
        }
}

static void counts_are_checked(void)
{
    fresh(WN_CACHE_VEC, WN_F32);
    fixture.shape.num_layers = 0;
    expect("num_layers");
    fixture.shape.num_groups = 0;
    expect("num_groups");
    fixture.shape.num_kv_heads = 0;
    expect("num_kv_heads");
    fixture.shape.head_dim = 0;
    expect("head_dim");
    fixture.shape.v_head_dim = 0;
    expect("v_head_dim");
    fixture.shape.tokens_per_page = 0;
    expect("tokens_per_page");
    fixture.shape.num_pages = 1u << 31;
    expect("num_pages");
    fixture.shape.max_sequences = 0;
    expect("max_sequences");
    fixture.shape.max_pages_per_sequence = 0;
    expect("max_pages_per_sequence");
}

static void groups_are_checked(void)
{
    fresh(WN_CACHE_VEC, WN_F32);
    fixture.shape.layer_group = NULL;
    expect("layer_group");
    fixture.layer_group[1] = 2;
    expect("layer 1 is in group 2");
    fixture.layer_group[1] = 0;
    expect("group 1 has no layer");
}

static void layouts_are_checked(void)
{
    fresh(WN_CACHE_VEC, WN_F32);
    fixture.shape.dtype = WN_F64;
    expect("dtype");
    fixture.shape.layout = 4;
    expect("layout is 4");
    fixture.shape.layout = WN_CACHE_NHD;
    expect("vec_x is 2");
    fixture.shape.vec_x = 0;
    expect("vec_x is 0");
    fixture.shape.vec_x = 3;
    expect("head_dim 8 is no multiple");
    fixture.shape.tokens_per_page = 5;
    expect("tokens_per_page 5 is no multiple");
}

static void latent(uint32_t layout, uint32_t dtype)
{
    cache_fixture_init_latent(&fixture, layout, dtype);
}

static void latent_shapes_are_checked(void)
{
    static const uint32_t good[] = {WN_F32, WN_F16, WN_BF16, WN_F8_E4M3};
    for (int i = 0; i < 4; i++)
        for (uint32_t layout = WN_CACHE_HND; layout <= WN_CACHE_NHD; layout++) {
            latent(layout, good[i]);
            CU_ASSERT_EQUAL(wn_shape_check(&fixture.shape, &fixture.error), WN_OK);
        }
    latent(WN_CACHE_HND, WN_F32);
    fixture.shape.mla = 2;
    expect("mla is 2");
    latent(WN_CACHE_HND, WN_F32);
    fixture.shape.num_kv_heads = 2;
    expect("mla with 2 KV heads");
    latent(WN_CACHE_HND, WN_F32);
    fixture.shape.v_head_dim = 9;
    expect("v_head_dim 9");
    latent(WN_CACHE_VEC, WN_F32);
    expect("mla in the layout vec");
    latent(WN_CACHE_HND, WN_I8);
    expect("mla with dtype int8");
    latent(WN_CACHE_HND, WN_F8_E4M3);
    fixture.shape.head_dim = 512;
    expect("head_dim 512 and v_head_dim 512");
    latent(WN_CACHE_HND, WN_F8_E4M3);
    fixture.shape.v_head_dim = 511;
    expect("made for 576 and 512");
}

static void auxiliary_pools_are_checked(void)
{
    fresh(WN_CACHE_VEC, WN_F32);
    fixture.shape.aux = NULL;
    expect("aux is NULL");
    fixture.aux[3].layer = 3;
    expect("(tail) is of layer 3");
    fixture.aux[1].layer = 2;
    expect("ordered by layer");
    fixture.aux[0].pool.scope = 3;
    expect("scope 3");
    fixture.aux[0].pool.bytes = 0;
    expect("0 bytes");
    fixture.aux[0].pool.alignment = 24;
    expect("alignment 24");
    fixture.aux[0].pool.alignment = 128;
    expect("alignment 128");
    fixture.aux[0].pool.name = NULL;
    fixture.aux[0].pool.alignment = 0;
    expect("(unnamed)");
}

static void all_complaints_come_at_once(void)
{
    fresh(WN_CACHE_VEC, WN_F32);
    fixture.shape.num_pages = 0;
    fixture.shape.vec_x = 3;
    CU_ASSERT_EQUAL(wn_shape_check(&fixture.shape, &fixture.error), WN_EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(fixture.text, "num_pages is 0"));
    CU_ASSERT_PTR_NOT_NULL(strstr(fixture.text, "\nhead_dim 8"));
    CU_ASSERT_PTR_NOT_NULL(strstr(fixture.text, "\ntokens_per_page 4"));
    /* A short buffer is cut, not overrun; none is fine. */
    char text[20];
    memset(text, 'x', sizeof text);
    wn_error brief = {WN_SIZEOF(wn_error), 16, text};
    CU_ASSERT_EQUAL(wn_shape_check(&fixture.shape, &brief), WN_EINVAL);
    CU_ASSERT(strlen(text) == 15 && text[16] == 'x');
    CU_ASSERT_EQUAL(wn_shape_check(&fixture.shape, NULL), WN_EINVAL);
}

/* By hand: 40 pages of 5 tokens, 2 heads, 10 sequences. */
static void sizes_by_hand(void)
{
    wn_kvcache_plan plan;
    fresh(WN_CACHE_HND, WN_I8);
    wn_status status = wn_kvcache_plan_memory(&fixture.shape, &plan, &fixture.error);
    CU_ASSERT_EQUAL_FATAL(status, WN_OK);
    CU_ASSERT_EQUAL(plan.k_bytes, 3 * 40 * 2 * 5 * 8);
    CU_ASSERT_EQUAL(plan.v_bytes, 3 * 40 * 2 * 5 * 4);
    CU_ASSERT_EQUAL(plan.scale_bytes, 2 * 3 * 40 * 2 * 5 * 4);
    CU_ASSERT_EQUAL(plan.position_bytes, 2 * 40 * 2 * 5 * 4); /* two layers evict */
    CU_ASSERT_EQUAL(wn_kvcache_aux_bytes(&fixture.shape, 0), 40 * 2 * 16);
    CU_ASSERT_EQUAL(wn_kvcache_aux_bytes(&fixture.shape, 1), 10 * 64);
    CU_ASSERT_EQUAL(wn_kvcache_aux_bytes(&fixture.shape, 2), 40 * 8);
    CU_ASSERT_EQUAL(wn_kvcache_aux_bytes(&fixture.shape, 3), 40 * 2 * 4);
    CU_ASSERT_EQUAL(wn_kvcache_aux_bytes(&fixture.shape, 4), 0);
    CU_ASSERT_EQUAL(plan.aux_bytes, 40 * 32 + 640 + 40 * 8 + 40 * 8);
    CU_ASSERT_EQUAL(plan.total_bytes, plan.k_bytes + plan.v_bytes + plan.scale_bytes +
                                          plan.position_bytes + plan.page_table_bytes +
                                          plan.aux_bytes);
    fresh(WN_CACHE_HND, WN_F16);
    status = wn_kvcache_plan_memory(&fixture.shape, &plan, &fixture.error);
    CU_ASSERT_EQUAL_FATAL(status, WN_OK);
    CU_ASSERT_EQUAL(plan.k_bytes, 3 * 40 * 2 * 5 * 8 * 2);
    CU_ASSERT_EQUAL(plan.scale_bytes, 0);
}

/* One vector per token, no V, and no scales beside the keys. */
static void latent_sizes_by_hand(void)
{
    static const struct {
        uint32_t dtype, token_bytes;
    } kinds[] = {{WN_BF16, 16}, {WN_F32, 32}, {WN_F8_E4M3, 656}};
    for (int i = 0; i < 3; i++) {
        wn_kvcache_plan plan;
        latent(WN_CACHE_NHD, kinds[i].dtype);
        wn_status status = wn_kvcache_plan_memory(&fixture.shape, &plan, &fixture.error);
        CU_ASSERT_EQUAL_FATAL(status, WN_OK);
        CU_ASSERT_EQUAL(plan.k_bytes, 3 * 40 * 5 * kinds[i].token_bytes);
        CU_ASSERT(plan.v_bytes == 0 && plan.scale_bytes == 0);
        CU_ASSERT_EQUAL(plan.position_bytes, 2 * 40 * 5 * 4);
        CU_ASSERT_EQUAL(plan.total_bytes, plan.k_bytes + plan.position_bytes +
                                              plan.page_table_bytes + plan.aux_bytes);
    }
}

static void products_do_not_wrap(void)
{
    wn_kvcache_plan plan = {.k_bytes = 7};
    fresh(WN_CACHE_HND, WN_F32);
    fixture.shape.head_dim = fixture.shape.num_kv_heads = fixture.shape.num_pages = 1u << 30;
    wn_status status = wn_kvcache_plan_memory(&fixture.shape, &plan, &fixture.error);
    CU_ASSERT_EQUAL(status, WN_ERANGE);
    CU_ASSERT_PTR_NOT_NULL(strstr(fixture.text, "lower max_tokens"));
    CU_ASSERT_EQUAL(plan.k_bytes, 7);
    /* Only the page tables, or one auxiliary pool, are too large. */
    fresh(WN_CACHE_HND, WN_F32);
    fixture.shape.max_sequences = fixture.shape.max_pages_per_sequence = INT32_MAX;
    status = wn_kvcache_plan_memory(&fixture.shape, &plan, &fixture.error);
    CU_ASSERT_EQUAL(status, WN_ERANGE);
    fresh(WN_CACHE_HND, WN_F32);
    fixture.aux[1].pool.bytes = UINT64_MAX - 1;
    status = wn_kvcache_plan_memory(&fixture.shape, &plan, &fixture.error);
    CU_ASSERT_EQUAL(status, WN_ERANGE);
}

static void lookback_is_the_groups_greatest(void)
{
    fresh(WN_CACHE_HND, WN_F32);
    CU_ASSERT_EQUAL(wn_shape_lookback(&fixture.shape, 0), 5);
    CU_ASSERT_EQUAL(wn_shape_lookback(&fixture.shape, 1), 0);
}

WN_SUITE("kvcache.shape", {"good shapes pass", good_shapes_pass},
         {"counts are checked", counts_are_checked}, {"groups are checked", groups_are_checked},
         {"layouts are checked", layouts_are_checked},
         {"latent shapes are checked", latent_shapes_are_checked},
         {"auxiliary pools are checked", auxiliary_pools_are_checked},
         {"all complaints come at once", all_complaints_come_at_once},
         {"sizes by hand", sizes_by_hand}, {"latent sizes by hand", latent_sizes_by_hand},
         {"products do not wrap", products_do_not_wrap},
         {"lookback is the group's greatest", lookback_is_the_groups_greatest})
