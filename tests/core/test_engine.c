/* test_engine.c: an engine is made whole or not at all, and costs what it said it would. */
#include "check_engine.h"

#include "core/batch.h"

#include <string.h>

static void bad_models_are_refused_with_all_reasons(void)
{
    check_engine c = {.model = check_model()};
    c.model.num_kv_heads = 4;
    c.model.softmax_scale = 0;
    c.model.max_position = 0;
    c.model.dtype = WN_I8;
    CU_ASSERT_EQUAL(check_try_open(&c, "", NULL), WN_EINVAL);
    static const char *const reasons[] = {"6 query heads on 4", "softmax_scale", "max_position",
                                          "dtype"};
    for (uint32_t i = 0; i < 4; i++)
        CU_ASSERT(strstr(wn_error_text(), reasons[i]) != NULL);
    wn_config_free(c.config);
    wn_registry_close(c.registry);
    wn_engine_options cuda = {
        .struct_size = WN_SIZEOF(wn_engine_options), .device = WN_DEVICE_CUDA, .layout = "odd"};
    c.model = check_model();
    CU_ASSERT_EQUAL(check_try_open(&c, "", &cuda), WN_ECONFIG);
    CU_ASSERT(strstr(wn_error_text(), "CUDA") != NULL && strstr(wn_error_text(), "odd") != NULL);
    wn_config_free(c.config);
    wn_registry_close(c.registry);
    wn_engine *engine;
    CU_ASSERT_EQUAL(wn_engine_create(NULL, NULL, NULL, NULL, &engine), WN_EINVAL);
}

static void memory_is_what_was_planned(void)
{
    static const char *const layouts[] = {"hnd", "nhd", "vec"};
    static const uint32_t dtypes[] = {WN_F32, WN_I8, WN_F8_E4M3};
    for (uint32_t i = 0; i < 9; i++) {
        check_engine c = {0};
        wn_engine_options options = {.struct_size = WN_SIZEOF(wn_engine_options),
                                     .tokens_per_page = 4 + 2 * (i % 3),
                                     .max_tokens = 100,
                                     .kv_dtype = dtypes[i / 3],
                                     .layout = layouts[i % 3]};
        wn_memory_plan plan = {.struct_size = WN_SIZEOF(wn_memory_plan)}, memory = plan;
        char *text = NULL;
        check_open(&c, "sparse_attention_config: {algorithm: probe, keep: 6, select: 3}\n",
                   &options);
        CU_ASSERT_EQUAL(wn_engine_check(c.registry, c.config, &c.model, &options, &text, &plan),
                        WN_OK);
        CU_ASSERT_EQUAL(wn_engine_memory(c.engine, &memory), WN_OK);
        CU_ASSERT(memcmp(&plan, &memory, sizeof plan) == 0);
        CU_ASSERT_STRING_EQUAL(memory.aux_name[0], "probe.first");
        CU_ASSERT_STRING_EQUAL(text, wn_engine_plan(c.engine));
        wn_text_free(text);
        wn_kvcache_plan allocated;
        wn_kvcache_allocated(c.engine->cache, &allocated);
        CU_ASSERT_EQUAL(allocated.k_bytes, memory.k_bytes);
        CU_ASSERT_EQUAL(allocated.v_bytes, memory.v_bytes);
        CU_ASSERT_EQUAL(allocated.scale_bytes, memory.scale_bytes);
        CU_ASSERT_EQUAL(allocated.position_bytes, memory.position_bytes);
        CU_ASSERT(memory.position_bytes > 0);
        CU_ASSERT(memory.capacity_tokens >= 100 &&
                  memory.capacity_tokens < 100 + options.tokens_per_page);
        CU_ASSERT(memory.num_aux == 1 && memory.aux_bytes[0] == allocated.aux_bytes);
        CU_ASSERT_EQUAL(allocated.total_bytes + memory.workspace_bytes, memory.total_bytes);
        check_close(&c);
    }
}

static void absurd_sizes_are_refused(void)
{
    check_engine c = {0};
    wn_engine_options options = {.struct_size = WN_SIZEOF(wn_engine_options),
                                 .tokens_per_page = 1,
                                 .max_tokens = UINT64_C(1) << 40};
    CU_ASSERT_EQUAL(check_try_open(&c, "", &options), WN_ECONFIG);
    CU_ASSERT(strstr(wn_error_text(), "max_tokens") != NULL);
    wn_config_free(c.config);
    wn_registry_close(c.registry);
}

/* A registry and a configuration may go before the engine does. */
static void engines_hold_what_they_need(void)
{
    check_engine c = {0};
    float out[2 * 3 * 48];
    uint64_t random = wn_test_seed();
    wn_sequence s;
    check_open(&c, "sparse_attention_config: {algorithm: probe, select: 3}\n", NULL);
    wn_registry_close(c.registry);
    wn_config_free(c.config);
    c.registry = NULL;
    c.config = NULL;
    check_text text = check_write(&c.model, 3, &random);
    CU_ASSERT_EQUAL(wn_sequence_create(c.engine, &s), WN_OK);
    CU_ASSERT_EQUAL(check_step(&c, s, &text, 0, 3, WN_ITEM_CONTEXT, out, NULL), WN_OK);
    check_erase(&text);
    check_close(&c);
}

static void counters_name_their_place(void)
{
    check_engine c = {0};
    wn_counters counters;
    wn_attend_counters heads[6];
    check_open(&c, "", NULL);
    CU_ASSERT_EQUAL(wn_engine_counters(c.engine, 2, 0, &counters), WN_EINVAL);
    CU_ASSERT_EQUAL(wn_engine_counters(c.engine, 0, 2, &counters), WN_EINVAL);
    CU_ASSERT_EQUAL(wn_engine_head_counters(c.engine, 0, 0, heads, 5), WN_EINVAL);
    CU_ASSERT_EQUAL(wn_engine_head_counters(c.engine, 0, 0, heads, 6), WN_OK);
    CU_ASSERT_EQUAL(wn_engine_head_counters(c.engine, 0, 1, heads, 2), WN_OK);
    wn_engine_timing(c.engine, 1);
    uint64_t random = 1;
    check_text text = check_write(&c.model, 30, &random);
    wn_sequence s;
    wn_sequence_create(c.engine, &s);
    check_step(&c, s, &text, 0, 30, WN_ITEM_CONTEXT, NULL, NULL);
    wn_engine_counters(c.engine, 1, WN_PHASE_CONTEXT, &counters);
    CU_ASSERT(counters.calls == 1 && counters.query_tokens == 30 && counters.attend_ns > 0);
    CU_ASSERT(counters.append_ns > 0 && counters.tiles_skipped == 0 && counters.k_bytes_read > 0);
    check_erase(&text);
    check_close(&c);
}

WN_SUITE("core.engine",
         {"bad models are refused with all reasons", bad_models_are_refused_with_all_reasons},
         {"memory is what was planned", memory_is_what_was_planned},
         {"absurd sizes are refused", absurd_sizes_are_refused},
         {"engines hold what they need", engines_hold_what_they_need},
         {"counters name their place", counters_name_their_place})
