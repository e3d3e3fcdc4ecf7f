/* The keys of cache and engine. */
#include "tests/suite.h"

#include "core/engine_keys.h"

#include <string.h>

static wn_arena arena;
static wn_engine_config engine;
static wn_reason_list errors, notes;
static const wn_yaml_item *methods;

static void reset(void)
{
    wn_arena_free(&arena);
    wn_reasons_clear(&errors);
    wn_reasons_clear(&notes);
    engine = (wn_engine_config){0};
}

static void parse(const char *text)
{
    wn_findings found = {0}, noted = {0};
    reset();
    const wn_yaml_node *root = wn_yaml_parse(text, strlen(text), &arena, &found);
    CU_ASSERT_PTR_NOT_NULL_FATAL(root);
    wn_engine_keys_read(root, &engine, &methods, &arena, &found, &noted);
    wn_findings_tell(&found, "f", &errors);
    wn_findings_tell(&noted, "f", &notes);
}

static void check_error(const char *text, const char *expected)
{
    parse(text);
    CU_ASSERT_PTR_NOT_NULL_FATAL(errors.text);
    CU_ASSERT_STRING_EQUAL(errors.text, expected);
    if (strcmp(errors.text, expected) != 0)
        printf("\n  %s\n  %s\n", expected, errors.text);
}

static void nothing_said_is_nothing_set(void)
{
    static const wn_engine_config none = {0};
    parse("{}");
    CU_ASSERT_EQUAL(memcmp(&engine, &none, sizeof none), 0);
    CU_ASSERT_PTR_NULL(methods);
    parse("{max_batch_size: null, attn_backend: ~, kv_cache_config: null}");
    CU_ASSERT_EQUAL(memcmp(&engine, &none, sizeof none), 0);
    CU_ASSERT_EQUAL(errors.count + notes.count, 0);
    reset();
}

static void every_key_is_read(void)
{
    parse("sparse_attention_config: {algorithm: x}\n"
          "kv_cache_config: {enable_block_reuse: false, tokens_per_block: 16, max_tokens: "
          "5000000000, dtype: fp8, layout: vec, max_sequences: 7}\n"
          "max_batch_size: 4\nmax_num_tokens: 1000\nattn_backend: cuda\non_error: dense\n"
          "granularity: page\n");
    CU_ASSERT_EQUAL(errors.count, 0);
    CU_ASSERT_EQUAL(notes.count, 0);
    CU_ASSERT_PTR_NOT_NULL_FATAL(methods);
    CU_ASSERT_STRING_EQUAL(methods->key->text, "sparse_attention_config");
    CU_ASSERT_EQUAL(engine.tokens_per_page, 16);
    CU_ASSERT_EQUAL(engine.max_tokens, 5000000000u);
    CU_ASSERT_EQUAL(engine.kv_dtype, WN_F8_E4M3);
    CU_ASSERT_STRING_EQUAL(engine.layout, "vec");
    CU_ASSERT_EQUAL(engine.max_sequences, 7);
    CU_ASSERT_EQUAL(engine.max_batch, 4);
    CU_ASSERT_EQUAL(engine.max_step_tokens, 1000);
    CU_ASSERT_EQUAL(engine.device, WN_DEVICE_CUDA);
    CU_ASSERT_EQUAL(engine.on_error_dense, 1);
    CU_ASSERT_EQUAL(engine.granularity_page, 1);
    parse("{on_error: fail, granularity: exact, max_sequences: 3, kv_cache_config: "
          "{tokens_per_page: 64, dtype: auto, layout: nhd}}");
    CU_ASSERT_EQUAL(engine.on_error_dense + engine.granularity_page + engine.kv_dtype, 0);
    CU_ASSERT_EQUAL(engine.tokens_per_page, 64);
    CU_ASSERT_EQUAL(engine.max_sequences, 3);
    reset();
}

static void every_dtype_is_read(void)
{
    static const struct {
        const char *name;
        uint32_t dtype;
    } dtypes[] = {{"auto", 0},           {"float32", WN_F32},         {"float16", WN_F16},
                  {"bfloat16", WN_BF16}, {"float8_e4m3", WN_F8_E4M3}, {"fp8", WN_F8_E4M3},
                  {"int8", WN_I8}};
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        char text[100];
        snprintf(text, sizeof text, "kv_cache_config: {dtype: %s}", dtypes[i].name);
        parse(text);
        CU_ASSERT_EQUAL(errors.count, 0);
        CU_ASSERT_EQUAL(engine.kv_dtype, dtypes[i].dtype);
    }
    check_error("kv_cache_config: {dtype: nvfp4}",
                "f:1:26: \"dtype\" is nvfp4: expected auto, float32, float16, bfloat16, "
                "float8_e4m3, fp8 or int8");
    reset();
}

static void foreign_backends_are_noted(void)
{
    static const struct {
        const char *name;
        uint32_t device, notes;
    } backends[] = {{"auto", 0, 0},
                    {"cpu", WN_DEVICE_CPU, 0},
                    {"cuda", WN_DEVICE_CUDA, 0},
                    {"vanilla", WN_DEVICE_CPU, 1},
                    {"VANILLA", WN_DEVICE_CPU, 1},
                    {"TRTLLM", 0, 1},
                    {"FLASHINFER", 0, 1},
                    {"trtllm", 0, 1}};
    for (size_t i = 0; i < sizeof backends / sizeof backends[0]; i++) {
        char text[100];
        snprintf(text, sizeof text, "attn_backend: %s", backends[i].name);
        parse(text);
        CU_ASSERT_EQUAL(errors.count, 0);
        CU_ASSERT_EQUAL(notes.count, backends[i].notes);
        CU_ASSERT_EQUAL(engine.device, backends[i].device);
    }
    check_error("attn_backend: gpu", "f:1:15: \"attn_backend\" is gpu: expected auto, cpu, cuda, "
                                     "vanilla, TRTLLM or FLASHINFER (did you mean \"cpu\"?)");
    check_error("attn_backend: [cpu]", "f:1:15: \"attn_backend\" is a list: expected auto, cpu, "
                                       "cuda, vanilla, TRTLLM or FLASHINFER");
    reset();
}

static void keys_without_meaning_are_noted(void)
{
    parse("enable_chunked_prefill: true\nkv_cache_config: {free_gpu_memory_fraction: 0.9}\n");
    CU_ASSERT_EQUAL(errors.count, 0);
    CU_ASSERT_EQUAL(notes.count, 2);
    check_error("enable_chunked_prefill: 1",
                "f:1:25: \"enable_chunked_prefill\" is 1: expected true or false");
    check_error("kv_cache_config: {free_gpu_memory_fraction: 90}",
                "f:1:45: \"free_gpu_memory_fraction\" is 90: expected a number from 0 to 1");
    reset();
}

static void mistakes_are_errors(void)
{
    check_error("kv_cache_config: {enable_block_reuse: true}",
                "f:1:39: \"enable_block_reuse\" is true: expected false, because prefix reuse is "
                "not available in this version");
    check_error("kv_cache_config: {tokens_per_block: 32, tokens_per_page: 32}",
                "f:1:41: \"tokens_per_page\" says again what \"tokens_per_block\" says at 1:19: "
                "keep one of them");
    check_error("max_sequences: 5\nkv_cache_config: {max_sequences: 5}",
                "f:2:19: \"max_sequences\" says again what \"max_sequences\" says at 1:1: keep one "
                "of them");
    check_error("kv_cache_config: 5",
                "f:1:18: \"kv_cache_config\" is 5: expected a mapping (key: value)");
    check_error("kv_cache_config:\nmax_batch_size: 5\n",
                "f:1:17: \"kv_cache_config\" has no value: expected a mapping (key: value)");
    check_error("max_batch_size: -1", "f:1:17: \"max_batch_size\" is -1: expected an integer from "
                                      "1 to 1048576 (requests)");
    check_error("on_eror: fail", "f:1:1: unknown key \"on_eror\" (did you mean \"on_error\"?)");
    check_error("granularity: block", "f:1:14: \"granularity\" is block: expected exact or page");
    reset();
}

static void lost_indentation_is_restored(void)
{
    parse("kv_cache_config:\ntokens_per_block: 16\ndtype: int8\nmax_batch_size: 2\n");
    CU_ASSERT_EQUAL(errors.count, 0);
    CU_ASSERT_EQUAL(engine.tokens_per_page, 16);
    CU_ASSERT_EQUAL(engine.kv_dtype, WN_I8);
    CU_ASSERT_EQUAL(engine.max_batch, 2);
    CU_ASSERT_STRING_EQUAL(notes.text, "f:1:1: indentation lost: reading \"tokens_per_block\" and "
                                       "\"dtype\" as part of \"kv_cache_config\"");
    check_error("kv_cache_config:\ntokens_per_blok: 16\n",
                "f:2:1: unknown key \"tokens_per_blok\" (did you mean \"tokens_per_block\"?)");
    reset();
}

WN_SUITE("core.engine_keys", {"nothing said is nothing set", nothing_said_is_nothing_set},
         {"every key is read", every_key_is_read}, {"every dtype is read", every_dtype_is_read},
         {"foreign backends are noted", foreign_backends_are_noted},
         {"keys without meaning are noted", keys_without_meaning_are_noted},
         {"mistakes are errors", mistakes_are_errors},
         {"lost indentation is restored", lost_indentation_is_restored})
