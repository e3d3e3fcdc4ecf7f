/* test_trace.c: what makes a safetensors file a trace, and what is refused. */
#include "suite.h"
#include "tools/check_file.h"
#include "tools/check_small_trace.h"
#include "tools/trace.h"

#include <string.h>

static char text[4096];
static wn_error error = {WN_SIZEOF(wn_error), sizeof text, text};

static void reads_a_trace(void)
{
    wn_trace *trace;
    CU_ASSERT_EQUAL_FATAL(
        wn_trace_open(check_small_trace_write("t.safetensors"), NULL, 0, &trace, &error), WN_OK);
    CU_ASSERT_EQUAL(trace->num_layers, 2);
    CU_ASSERT_EQUAL(trace->layers[0].number, 3);
    CU_ASSERT_EQUAL(trace->layer_number[1], 5);
    CU_ASSERT_EQUAL(trace->tokens, CHECK_TOKENS);
    CU_ASSERT_EQUAL(trace->context, CHECK_CONTEXT);
    CU_ASSERT_EQUAL(trace->num_heads, CHECK_HEADS);
    CU_ASSERT_EQUAL(trace->num_kv_heads, CHECK_KV_HEADS);
    CU_ASSERT_EQUAL(trace->needle_begin, CHECK_NEEDLE);
    CU_ASSERT_EQUAL(memcmp(trace->text + trace->text_begin[10], "w10 w11 ", 8), 0);
    wn_model model = wn_trace_model(trace);
    CU_ASSERT_EQUAL(model.dtype, WN_F32);
    CU_ASSERT_DOUBLE_EQUAL(model.softmax_scale, 0.35, 1e-6);
    wn_tensor rows = wn_trace_rows(trace->layers[1].k, 7, 2);
    CU_ASSERT_EQUAL(rows.shape[0], 2);
    CU_ASSERT_PTR_EQUAL(rows.data, (const float *)trace->layers[1].k->data + 7 * 2 * CHECK_DIM);
    wn_trace_close(trace);
}

static void picks_layers(void)
{
    wn_trace *trace;
    int64_t only = 5;
    CU_ASSERT_EQUAL_FATAL(
        wn_trace_open(check_small_trace_write("t.safetensors"), &only, 1, &trace, &error), WN_OK);
    CU_ASSERT_EQUAL(trace->num_layers, 1);
    CU_ASSERT_EQUAL(trace->layers[0].number, 5);
    wn_trace_close(trace);
    only = 4;
    CU_ASSERT_EQUAL(
        wn_trace_open(check_small_trace_write("t.safetensors"), &only, 1, &trace, &error),
        WN_ENOTFOUND);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "layer 4"));
}

static void reads_an_expectation(void)
{
    wn_trace *trace;
    wn_expected *expected;
    CU_ASSERT_EQUAL_FATAL(
        wn_trace_open(check_small_trace_write("t.safetensors"), NULL, 0, &trace, &error), WN_OK);
    CU_ASSERT_EQUAL_FATAL(wn_expected_open(check_small_trace_expected("e.safetensors", trace),
                                           trace, &expected, &error),
                          WN_OK);
    CU_ASSERT_EQUAL(expected->num_rows, CHECK_TOKENS);
    CU_ASSERT_PTR_NOT_NULL(expected->out[1]);
    wn_expected_close(expected);
    /* A trace is no expectation. */
    CU_ASSERT_EQUAL(
        wn_expected_open(check_small_trace_write("t.safetensors"), trace, &expected, &error),
        WN_EFORMAT);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "rows"));
    wn_trace_close(trace);
}

/* Tensors of one layer by their shapes; the metadata as JSON members. */
static void refuse(const char *metadata, const char *q, const char *k, const char *v,
                   const char *more, size_t bytes, const char *words)
{
    char header[2048];
    wn_trace *trace;
    snprintf(header, sizeof header, "{\"__metadata__\":{%s}%s%s%s%s}", metadata, q, k, v, more);
    const char *path = check_file_safetensors(header, bytes);
    text[0] = '\0';
    CU_ASSERT_EQUAL(wn_trace_open(path, NULL, 0, &trace, &error), WN_EFORMAT);
    CU_ASSERT_PTR_NULL(trace);
    if (strstr(text, words) == NULL || strstr(text, "made.safetensors") == NULL) {
        printf("\n  expected \"%s\" in \"%s\"\n", words, text);
        CU_FAIL("another complaint");
    }
}

#define META "\"format\":\"winnow.trace/1\",\"softmax_scale\":\"0.5\",\"context_length\":\"3\""
#define Q ",\"layers.0.q\":{\"dtype\":\"F32\",\"shape\":[4,4,2],\"data_offsets\":[0,128]}"
#define K ",\"layers.0.k\":{\"dtype\":\"F32\",\"shape\":[4,2,2],\"data_offsets\":[128,192]}"
#define V ",\"layers.0.v\":{\"dtype\":\"F32\",\"shape\":[4,2,2],\"data_offsets\":[192,256]}"
#define FORMAT "\"format\":\"winnow.trace/1\","
#define SCALE "\"softmax_scale\":\"0.5\","

static void accepts_what_refusals_start_from(void)
{
    wn_trace *trace;
    const char *path = check_file_safetensors("{\"__metadata__\":{" META "}" Q K V "}", 256);
    CU_ASSERT_EQUAL_FATAL(wn_trace_open(path, NULL, 0, &trace, &error), WN_OK);
    CU_ASSERT_PTR_NULL(trace->text_begin);
    wn_trace_close(trace);
}

static void metadata_that_is_wrong(void)
{
    refuse("", Q, K, V, "", 256, "metadata format");
    refuse("\"format\":\"other/1\"", Q, K, V, "", 256, "winnow.trace/1");
    refuse(FORMAT "\"context_length\":\"3\"", Q, K, V, "", 256, "no softmax_scale");
    refuse(FORMAT "\"softmax_scale\":\"nan\",\"context_length\":\"3\"", Q, K, V, "", 256,
           "\"nan\"");
    refuse(FORMAT "\"softmax_scale\":\"-1\",\"context_length\":\"3\"", Q, K, V, "", 256, "\"-1\"");
    refuse(FORMAT "\"softmax_scale\":\"1x\",\"context_length\":\"3\"", Q, K, V, "", 256, "\"1x\"");
    refuse(FORMAT "\"softmax_scale\":\"0.5\"", Q, K, V, "", 256, "no context_length");
    refuse(FORMAT SCALE "\"context_length\":\"5\"", Q, K, V, "", 256, "4 tokens");
    refuse(FORMAT SCALE "\"context_length\":\"0\"", Q, K, V, "", 256, "context_length is 0");
    refuse(FORMAT SCALE "\"context_length\":\"three\"", Q, K, V, "", 256, "\"three\"");
    refuse(META ",\"needle_begin\":\"2\",\"needle_end\":\"1\"", Q, K, V, "", 256, "needle [2, 1)");
    refuse(META ",\"needle_begin\":\"2\",\"needle_end\":\"4\"", Q, K, V, "", 256, "prompt of 3");
}

static void tensors_that_do_not_fit(void)
{
    refuse(META, "", "", "", "", 256, "no tensors");
    refuse(META, Q, K, "", "", 256, "lacks");
    refuse(META, "", K, V, "", 256, "lacks");
    refuse(META, ",\"layers.0.q\":{\"dtype\":\"F32\",\"shape\":[4,3,2],\"data_offsets\":[0,96]}", K,
           V, "", 256, "3 query heads cannot share 2");
    refuse(META, ",\"layers.0.q\":{\"dtype\":\"F32\",\"shape\":[4,4,4],\"data_offsets\":[0,256]}",
           ",\"layers.0.k\":{\"dtype\":\"F32\",\"shape\":[4,2,2],\"data_offsets\":[256,320]}",
           ",\"layers.0.v\":{\"dtype\":\"F32\",\"shape\":[4,2,2],\"data_offsets\":[320,384]}", "",
           384, "should be [4, 2, 4]");
    refuse(META, Q,
           ",\"layers.0.k\":{\"dtype\":\"F32\",\"shape\":[2,2,4],\"data_offsets\":[128,192]}", V,
           "", 256, "should be [4, 2, 2]");
    refuse(META, Q,
           ",\"layers.0.k\":{\"dtype\":\"F64\",\"shape\":[4,2,1],\"data_offsets\":[128,192]}", V,
           "", 256, "float64");
    refuse(META, ",\"layers.0.q\":{\"dtype\":\"I32\",\"shape\":[4,4,2],\"data_offsets\":[0,128]}",
           K, V, "", 256, "int32");
    refuse(META, ",\"layers.0.q\":{\"dtype\":\"F32\",\"shape\":[0,4,2],\"data_offsets\":[0,0]}", K,
           V, "", 256, "out of range");
    refuse(META, Q, K, V,
           ",\"layers.0.indexer.q\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[256,259]}",
           259, "one row for each");
    refuse(META, Q, K, V,
           ",\"layers.1.q\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[256,260]}", 260,
           "3: [tokens");
}

#define LATENT ",\"layers.0.kv\":{\"dtype\":\"F32\",\"shape\":[4,2],\"data_offsets\":[128,160]}"

static void reads_latents(void)
{
    wn_trace *trace;
    const char *path = check_file_safetensors(
        "{\"__metadata__\":{" META ",\"v_head_dim\":\"1\"}" Q LATENT "}", 160);
    CU_ASSERT_EQUAL_FATAL(wn_trace_open(path, NULL, 0, &trace, &error), WN_OK);
    wn_model model = wn_trace_model(trace);
    CU_ASSERT_EQUAL(model.mla, 1);
    CU_ASSERT_EQUAL(model.num_kv_heads, 1);
    CU_ASSERT_EQUAL(model.head_dim, 2);
    CU_ASSERT_EQUAL(model.v_head_dim, 1);
    CU_ASSERT_PTR_NULL(trace->layers[0].v);
    wn_tensor keys = wn_trace_keys(trace, 0, 1, 3);
    CU_ASSERT(keys.ndim == 3 && keys.shape[0] == 3 && keys.shape[1] == 1 && keys.shape[2] == 2);
    CU_ASSERT_PTR_EQUAL(keys.data, (const float *)trace->layers[0].k->data + 2);
    wn_trace_close(trace);
}

static void latents_that_do_not_fit(void)
{
    refuse(META, Q, LATENT, "", "", 160, "512"); /* v_head_dim where nothing says it */
    refuse(META ",\"v_head_dim\":\"3\"", Q, LATENT, "", "", 160, "more than the 2 of layers.0.q");
    refuse(META ",\"v_head_dim\":\"0\"", Q, LATENT, "", "", 160, "out of range");
    refuse(META, Q, K,
           ",\"layers.0.kv\":{\"dtype\":\"F32\",\"shape\":[4,2],\"data_offsets\":[192,224]}", "",
           224, "exclude each other");
    refuse(META ",\"v_head_dim\":\"1\"", Q,
           ",\"layers.0.kv\":{\"dtype\":\"F32\",\"shape\":[2,4],\"data_offsets\":[128,160]}", "",
           "", 160, "should be [4, 2]");
    refuse(META ",\"v_head_dim\":\"1\"", Q,
           ",\"layers.0.kv\":{\"dtype\":\"F16\",\"shape\":[4,2],\"data_offsets\":[128,144]}", "",
           "", 144, "float16");
    refuse(META ",\"v_head_dim\":\"1\"", Q, LATENT,
           ",\"layers.1.q\":{\"dtype\":\"F32\",\"shape\":[4,4,2],\"data_offsets\":[160,288]}", "",
           288, "layers.1.kv");
}

static void drops_layers(void)
{
    wn_trace *trace;
    CU_ASSERT_EQUAL_FATAL(
        wn_trace_open(check_small_trace_write("t.safetensors"), NULL, 0, &trace, &error), WN_OK);
    wn_trace_drop(trace, (const uint8_t[]){1, 0});
    CU_ASSERT_EQUAL(trace->num_layers, 1);
    CU_ASSERT_EQUAL(trace->layers[0].number, 5);
    CU_ASSERT_EQUAL(wn_trace_model(trace).layer_number[0], 5);
    wn_trace_close(trace);
}

static void words_that_lie(void)
{
    /* The offsets are zeros in the file, which is sound; a count that is wrong is not. */
    refuse(META, Q, K, V,
           ",\"token_text\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[276,278]},"
           "\"token_text_offsets\":{\"dtype\":\"I32\",\"shape\":[4],\"data_offsets\":[256,272]}",
           278, "int32 [5]");
    wn_trace *trace;
    size_t size;
    char path[256];
    snprintf(path, sizeof path, "%s", check_small_trace_write("made.safetensors"));
    char *whole = check_file_read(path, &size);
    CU_ASSERT_PTR_NOT_NULL_FATAL(whole);
    /* The text is the last tensor; the offsets are the int32 tensor before it. */
    int32_t liar = 1 << 30;
    size_t text_bytes = strlen("w0 ") * 10 + strlen("w10 ") * 86;
    memcpy(whole + size - text_bytes - 40, &liar, sizeof liar);
    check_file_write("made.safetensors", whole, size);
    CU_ASSERT_EQUAL(wn_trace_open(path, NULL, 0, &trace, &error), WN_EFORMAT);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "token_text_offsets of token"));
    free(whole);
}

WN_SUITE("tools.trace", {"reads a trace", reads_a_trace}, {"picks layers", picks_layers},
         {"reads an expectation", reads_an_expectation},
         {"accepts the base of the refusals", accepts_what_refusals_start_from},
         {"refuses metadata that is wrong", metadata_that_is_wrong},
         {"refuses tensors that do not fit", tensors_that_do_not_fit},
         {"reads latents", reads_latents},
         {"refuses latents that do not fit", latents_that_do_not_fit},
         {"drops layers", drops_layers}, {"refuses words that lie", words_that_lie})
