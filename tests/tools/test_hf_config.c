/* test_hf_config.c: geometry from config.json and from words. */
#include "suite.h"

#include "tools/hf_config.h"

#include <math.h>
#include <string.h>

static char text[1024];
static wn_error error = {WN_SIZEOF(wn_error), sizeof text, text};
static wn_model_geometry read;

static wn_status parse(const char *json)
{
    text[0] = '\0';
    return wn_hf_config_parse(json, strlen(json), "config.json", &read, &error);
}

#define LLAMA                                                                                      \
    "\"model_type\": \"llama\", \"num_hidden_layers\": 30, \"num_attention_heads\": 9, "           \
    "\"hidden_size\": 576, \"max_position_embeddings\": 8192"

static void grouped_heads(void)
{
    CU_ASSERT_EQUAL(parse("{" LLAMA ", \"num_key_value_heads\": 3, \"torch_dtype\": \"float16\"}"),
                    WN_OK);
    CU_ASSERT_EQUAL(read.model.num_layers, 30);
    CU_ASSERT_EQUAL(read.model.num_heads, 9);
    CU_ASSERT_EQUAL(read.model.num_kv_heads, 3);
    CU_ASSERT_EQUAL(read.model.head_dim, 64);
    CU_ASSERT_EQUAL(read.model.max_position, 8192);
    CU_ASSERT_EQUAL(read.model.dtype, WN_F16);
    CU_ASSERT_DOUBLE_EQUAL(read.model.softmax_scale, 0.125, 1e-7);
    CU_ASSERT_STRING_EQUAL(read.model.name, "llama");
}

static void absent_keys_have_defaults(void)
{
    CU_ASSERT_EQUAL(parse("{" LLAMA ", \"num_key_value_heads\": null}"), WN_OK);
    CU_ASSERT_EQUAL(read.model.num_kv_heads, 9);
    CU_ASSERT_EQUAL(read.model.dtype, WN_BF16);
}

static void other_names(void)
{
    CU_ASSERT_EQUAL(
        parse("{\"n_layer\": 12, \"n_head\": 12, \"n_embd\": 768, \"n_positions\": 1024}"), WN_OK);
    CU_ASSERT_EQUAL(read.model.head_dim, 64);
    CU_ASSERT_EQUAL(parse("{\"text_config\": {" LLAMA ", \"head_dim\": 128, "
                          "\"query_pre_attn_scalar\": 256}}"),
                    WN_OK);
    CU_ASSERT_EQUAL(read.model.head_dim, 128);
    CU_ASSERT_DOUBLE_EQUAL(read.model.softmax_scale, 1.0 / 16, 1e-7);
}

/* DeepSeek-V3.2: absorbed heads, YaRN's factor in the scale, the indexer. */
static void latent_attention(void)
{
    CU_ASSERT_EQUAL_FATAL(
        parse("{\"model_type\": \"deepseek_v32\", \"num_hidden_layers\": 61, "
              "\"num_attention_heads\": 128, \"num_key_value_heads\": 128, "
              "\"max_position_embeddings\": 163840, \"kv_lora_rank\": 512, "
              "\"qk_rope_head_dim\": 64, \"qk_nope_head_dim\": 128, \"v_head_dim\": 128, "
              "\"rope_scaling\": {\"factor\": 40, \"mscale_all_dim\": 1.0}, "
              "\"index_n_heads\": 64, \"index_head_dim\": 128, \"index_topk\": 2048}"),
        WN_OK);
    const wn_model *m = &read.model;
    CU_ASSERT(m->mla == 1 && m->num_heads == 128 && m->num_kv_heads == 1);
    CU_ASSERT(m->head_dim == 576 && m->v_head_dim == 512);
    CU_ASSERT_DOUBLE_EQUAL(m->softmax_scale, 0.13523377886088009, 1e-8);
    CU_ASSERT(m->index_n_heads == 64 && m->index_head_dim == 128 && m->index_topk == 2048);
    CU_ASSERT_EQUAL(parse("{" LLAMA "}"), WN_OK);
    CU_ASSERT(read.model.mla == 0 && read.model.index_n_heads == 0);
    CU_ASSERT_EQUAL(parse("{" LLAMA ", \"index_topk\": 0}"), WN_EFORMAT);
}

static void errors_name_the_key(void)
{
    static const struct {
        const char *json, *says;
        wn_status status;
    } bad[] = {{"{\"num_hidden_layers\": 3", "config.json:1:", WN_EFORMAT},
               {"[1]", "expected an object", WN_EFORMAT},
               {"{}", "num_hidden_layers", WN_EFORMAT},
               {"{\"num_hidden_layers\": \"3\"}", "num_hidden_layers", WN_EFORMAT},
               {"{\"num_hidden_layers\": -3}", "num_hidden_layers", WN_EFORMAT},
               {"{\"num_hidden_layers\": 99999999999999999999}", "config.json:1:", WN_EFORMAT},
               {"{" LLAMA ", \"num_key_value_heads\": 4}", "evenly", WN_EFORMAT},
               {"{" LLAMA ", \"head_dim\": 4096}", "head_dim", WN_EFORMAT},
               {"{" LLAMA ", \"dtype\": \"int4\"}", "dtype", WN_EUNSUPPORTED},
               {"{" LLAMA ", \"kv_lora_rank\": 512}", "qk_rope_head_dim", WN_EFORMAT},
               {"{" LLAMA ", \"hidden_size\": 576}", "duplicate", WN_EFORMAT}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CU_ASSERT_EQUAL(parse(bad[i].json), bad[i].status);
        CU_ASSERT_PTR_NOT_NULL(strstr(text, bad[i].says));
    }
    CU_ASSERT_EQUAL(wn_hf_config_load("/nonexistent/config.json", &read, &error), WN_EIO);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "/nonexistent/config.json"));
}

static void words(void)
{
    CU_ASSERT_EQUAL(wn_geometry_parse("layers=2,heads=8,kv_heads=2,head_dim=128,dtype=float32,"
                                      "max_position=4096,scale=0.5",
                                      &read, &error),
                    WN_OK);
    CU_ASSERT_EQUAL(read.model.num_layers, 2);
    CU_ASSERT_EQUAL(read.model.num_kv_heads, 2);
    CU_ASSERT_EQUAL(read.model.dtype, WN_F32);
    CU_ASSERT_EQUAL(read.model.softmax_scale, 0.5f);
    CU_ASSERT_EQUAL(wn_geometry_parse("layers=2,heads=8,head_dim=64", &read, &error), WN_OK);
    CU_ASSERT_EQUAL(read.model.num_kv_heads, 8);
    CU_ASSERT_EQUAL(read.model.softmax_scale, 0.125f);
    static const char *const bad[] = {"layers",
                                      "layers=0,heads=1,head_dim=4",
                                      "layers=2x,heads=1",
                                      "depth=2",
                                      "layers=2,heads=8",
                                      "",
                                      "dtype=int8",
                                      "layers=2,heads=8,kv_heads=3,head_dim=64"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        text[0] = '\0';
        CU_ASSERT_NOT_EQUAL(wn_geometry_parse(bad[i], &read, &error), WN_OK);
        CU_ASSERT_NOT_EQUAL(text[0], '\0');
    }
}

WN_SUITE("tools.hf_config", {"grouped heads", grouped_heads},
         {"latent attention", latent_attention},
         {"absent keys have defaults", absent_keys_have_defaults}, {"other names", other_names},
         {"errors name the key", errors_name_the_key}, {"words", words})
