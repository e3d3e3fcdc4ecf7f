/* Whole configuration files: the shipped examples, every error of a bad one, and text damaged at
 * every byte and at random. */
#include "tests/suite.h"

#include "core/config_file.h"

#include <fcntl.h>
#include <glob.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIELD(type_, name_, ...)                                                                   \
    {                                                                                              \
        .struct_size = WN_SIZEOF(wn_config_field), .type = type_, .name = name_, .unit = "",       \
        .help = "", .greatest = 1e9, __VA_ARGS__                                                   \
    }

/* Fields with the names that the example files use. */
static const char *const dtypes[] = {"bfloat16", "float8_e5m2", NULL};
static const wn_config_field fields[] = {
    FIELD(WN_FIELD_INT, "prompt_budget", .default_text = "1024"),
    FIELD(WN_FIELD_ENUM, "kt_cache_dtype", .default_text = "bfloat16", .enum_names = dtypes),
    FIELD(WN_FIELD_PHASE_FLOAT, "threshold_scale_factor", .default_text = "1"),
    FIELD(WN_FIELD_INT, "index_topk", .default_text = "2048"),
    FIELD(WN_FIELD_INT_LIST, "list", .default_text = "[1]"),
};
enum { NUM_FIELDS = sizeof fields / sizeof fields[0] };
static const wn_config_interface schema = {
    .struct_size = WN_SIZEOF(wn_config_interface), .num_fields = NUM_FIELDS, .fields = fields};

static wn_config *load(const char *name)
{
    char path[1000];
    wn_config *config = NULL;
    snprintf(path, sizeof path, "%s/config/%s", WN_TEST_DATA, name);
    wn_status status = wn_config_load(path, &config);
    if (status != WN_OK)
        printf("\n%s\n", wn_error_text());
    CU_ASSERT_EQUAL_FATAL(status, WN_OK);
    CU_ASSERT_STRING_EQUAL(wn_config_name(config), path);
    return config;
}

static wn_value *bind(const wn_config *config, uint32_t index)
{
    wn_reason_list reasons = {0};
    wn_value *values = NULL;
    CU_ASSERT_EQUAL_FATAL(wn_config_bind(config, index, &schema, &values, &reasons), WN_OK);
    return values;
}

static uint32_t lines_of(const char *text)
{
    uint32_t lines = *text != '\0';
    for (; *text != '\0'; text++)
        lines += *text == '\n';
    return lines;
}

static void check_retain(const char *name, const char *algorithm, uint32_t notes)
{
    wn_config *config = load(name);
    CU_ASSERT_EQUAL_FATAL(wn_config_num_methods(config), 1);
    CU_ASSERT_STRING_EQUAL(wn_config_method(config, 0)->algorithm, algorithm);
    CU_ASSERT_EQUAL(wn_config_method(config, 0)->phases, 3);
    CU_ASSERT_EQUAL(wn_config_method_on_layer(config, 0, 99), 1);
    CU_ASSERT_EQUAL(wn_config_engine(config)->device, 0);
    wn_value *values = bind(config, 0);
    CU_ASSERT(values[0].is_set && values[0].i == 2048);
    CU_ASSERT(values[1].is_set && values[1].i == 1);
    CU_ASSERT_EQUAL(lines_of(wn_config_notes(config)), notes);
    wn_values_free(values, NUM_FIELDS);
    wn_config_free(config);
}

static void check_tiles(const char *name, uint32_t notes)
{
    wn_config *config = load(name);
    CU_ASSERT_EQUAL_FATAL(wn_config_num_methods(config), 1);
    wn_value *values = bind(config, 0);
    CU_ASSERT_EQUAL(values[2].phase_set, 3);
    CU_ASSERT_EQUAL(values[2].phase[WN_PHASE_CONTEXT], 1000);
    CU_ASSERT_EQUAL(values[2].phase[WN_PHASE_GENERATION], 500);
    CU_ASSERT_EQUAL(lines_of(wn_config_notes(config)), notes);
    wn_values_free(values, NUM_FIELDS);
    wn_config_free(config);
}

/* As other systems' documentation shows them, indented and with the indentation lost. */
static void foreign_files_load_unchanged(void)
{
    check_retain("trtllm_retain.yaml", "rocket", 1);
    check_retain("trtllm_flat_retain.yaml", "rocket", 3);
    check_tiles("trtllm_tiles.yaml", 1);
    check_tiles("trtllm_flat_tiles.yaml", 3);
    wn_config *config = load("trtllm_flat_indexer.yaml");
    wn_value *values = bind(config, 0);
    CU_ASSERT_EQUAL(values[3].i, 64);
    wn_values_free(values, NUM_FIELDS);
    wn_config_free(config);
}

static void everything_composes(void)
{
    wn_config *config = load("composed.yaml");
    const wn_engine_config *engine = wn_config_engine(config);
    CU_ASSERT_EQUAL_FATAL(wn_config_num_methods(config), 3);
    CU_ASSERT_STRING_EQUAL(wn_config_method(config, 0)->algorithm, "skip_softmax");
    CU_ASSERT_STRING_EQUAL(wn_config_method(config, 2)->algorithm, "dense");
    CU_ASSERT_PTR_NULL(wn_config_method(config, 3));
    CU_ASSERT_EQUAL(wn_config_method(config, 0)->phases, 1u << WN_PHASE_CONTEXT);
    CU_ASSERT_EQUAL(wn_config_method(config, 1)->phases, 1u << WN_PHASE_GENERATION);
    CU_ASSERT_EQUAL(wn_config_method(config, 1)->line, 6);
    CU_ASSERT_EQUAL(wn_config_method_on_layer(config, 1, 1), 0);
    CU_ASSERT_EQUAL(wn_config_method_on_layer(config, 1, 2), 1);
    CU_ASSERT_EQUAL(wn_config_method_on_layer(config, 1, 15), 0);
    CU_ASSERT_EQUAL(wn_config_method_on_layer(config, 2, 15), 0);
    CU_ASSERT_EQUAL(wn_config_method_on_layer(config, 3, 2), 0);
    CU_ASSERT_EQUAL(engine->tokens_per_page, 16);
    CU_ASSERT_EQUAL(engine->max_step_tokens, 4096);
    CU_ASSERT_EQUAL(engine->device, WN_DEVICE_CPU);
    CU_ASSERT_EQUAL(engine->on_error_dense, 1);
    wn_value *values = bind(config, 1);
    CU_ASSERT_EQUAL(values[0].i, 1024);
    wn_values_free(values, NUM_FIELDS);
    wn_config_free(config);
}

/* Each line of the file's errors, by place, and nothing else. */
static void every_error_is_told(void)
{
    static const char *const places[] = {
        ":2:5: ",   ":3:23: ",  ":5:5: ",   ":6:31: ",  ":6:48: ", ":6:61: ",
        ":8:9: ",   ":8:10: ",  ":10:23: ", ":11:21: ", ":12:3: ", ":13:3: ",
        ":14:10: ", ":15:11: ", ":16:17: ", ":17:17: ", ":18:1: ", ":19:1: "};
    wn_config *config = (wn_config *)&schema;
    CU_ASSERT_EQUAL(wn_config_load(WN_TEST_DATA "/config/every_error.yaml", &config), WN_ECONFIG);
    CU_ASSERT_PTR_NULL(config);
    const char *text = wn_error_text();
    CU_ASSERT_EQUAL(lines_of(text), sizeof places / sizeof places[0]);
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        const char *at = strstr(text, places[i]);
        CU_ASSERT_PTR_NOT_NULL_FATAL(at);
        text = at;
    }
    CU_ASSERT_PTR_NOT_NULL(strstr(wn_error_text(), "unknown key \"max_tokns\" (did you mean "
                                                   "\"max_tokens\"?)"));
}

static wn_status parse(const char *text)
{
    wn_config *config = NULL;
    wn_status status = wn_config_parse(text, strlen(text), "f", &config);
    CU_ASSERT_EQUAL(config != NULL, status == WN_OK);
    wn_config_free(config);
    return status;
}

static void no_method_is_dense(void)
{
    wn_config *config = NULL;
    CU_ASSERT_EQUAL(wn_config_parse("max_batch_size: 2\n", 18, NULL, &config), WN_OK);
    CU_ASSERT_EQUAL(wn_config_num_methods(config), 0);
    CU_ASSERT_STRING_EQUAL(wn_config_notes(config), "");
    CU_ASSERT_STRING_EQUAL(wn_config_name(config), "configuration");
    wn_config_free(config);
    CU_ASSERT_EQUAL(parse("sparse_attention_config: null\n"), WN_OK);
    CU_ASSERT_EQUAL(parse("{}"), WN_OK);
    wn_config_free(NULL);
}

static void other_files_are_refused(void)
{
    CU_ASSERT_EQUAL(parse(""), WN_EFORMAT);
    CU_ASSERT_STRING_EQUAL(wn_error_text(), "f: there is nothing in it: expected keys, such as "
                                            "sparse_attention_config");
    CU_ASSERT_EQUAL(parse("---\n"), WN_ECONFIG);
    CU_ASSERT_EQUAL(parse("- a\n"), WN_ECONFIG);
    CU_ASSERT_STRING_EQUAL(wn_error_text(), "f:1:1: expected keys (\"key: value\"), such as "
                                            "sparse_attention_config; found a list");
    CU_ASSERT_EQUAL(parse("hello\n"), WN_ECONFIG);
    CU_ASSERT_EQUAL(parse("a: [\n"), WN_EFORMAT);
    wn_config *config = NULL;
    CU_ASSERT_EQUAL(wn_config_load("/nonexistent/x.yaml", &config), WN_ENOTFOUND);
    CU_ASSERT_STRING_EQUAL(wn_error_text(),
                           "/nonexistent/x.yaml: cannot be read: No such file or directory");
    CU_ASSERT_EQUAL(wn_config_load("/", &config), WN_EIO);
    CU_ASSERT_STRING_EQUAL(wn_error_text(), "/: cannot be read: Is a directory");
    CU_ASSERT_EQUAL(wn_config_load(NULL, &config), WN_EINVAL);
    CU_ASSERT_EQUAL(wn_config_parse("", 0, "f", NULL), WN_EINVAL);
    CU_ASSERT_EQUAL(wn_config_load("/dev/null", &config), WN_EFORMAT);
    CU_ASSERT_EQUAL(wn_config_load("/dev/zero", &config), WN_EFORMAT);
    CU_ASSERT_PTR_NOT_NULL(strstr(wn_error_text(), "larger than 1 MiB"));
}

static void entries_are_bound_by_number(void)
{
    wn_config *config = load("composed.yaml");
    wn_reason_list reasons = {0};
    wn_value *values;
    CU_ASSERT_EQUAL(wn_config_bind(config, 7, &schema, &values, &reasons), WN_EINVAL);
    CU_ASSERT_EQUAL(reasons.count, 1);
    wn_reasons_clear(&reasons);
    wn_config_free(config);
    const char *text = "sparse_attention_config:\n  algorithm: x\n"
                       "  promt_budget: 5\n  index_topk: 1.5\n";
    CU_ASSERT_EQUAL_FATAL(wn_config_parse(text, strlen(text), "rocket.yaml", &config), WN_OK);
    CU_ASSERT_EQUAL(wn_config_bind(config, 0, &schema, &values, &reasons), WN_ECONFIG);
    CU_ASSERT_STRING_EQUAL(reasons.text,
                           "rocket.yaml:3:3: unknown key \"promt_budget\" (did you mean "
                           "\"prompt_budget\"?)\n"
                           "rocket.yaml:4:15: \"index_topk\" is 1.5: expected an integer from 0 to "
                           "1000000000");
    wn_reasons_clear(&reasons);
    wn_config_free(config);
}

/* ---------------------------------------------------------------- damaged text */

/* Reads and binds; the answer may be anything, as long as it is one of the two. */
static void try_bytes(const char *text, size_t bytes)
{
    wn_config *config = NULL;
    char *copy = malloc(bytes + 1); /* of exactly this size, for the sanitizer */
    if (bytes > 0)
        memcpy(copy, text, bytes);
    copy = realloc(copy, bytes == 0 ? 1 : bytes);
    wn_status status = wn_config_parse(copy, bytes, "f", &config);
    free(copy);
    CU_ASSERT_FATAL((status == WN_OK) == (config != NULL));
    CU_ASSERT_FATAL(status == WN_OK || status == WN_ECONFIG || status == WN_EFORMAT);
    if (status != WN_OK) {
        CU_ASSERT_FATAL(strncmp(wn_error_text(), "f:", 2) == 0);
        return;
    }
    for (uint32_t i = 0; i < wn_config_num_methods(config); i++) {
        wn_reason_list reasons = {0};
        wn_value *values = NULL;
        CU_ASSERT_PTR_NOT_NULL_FATAL(wn_config_method(config, i)->algorithm);
        CU_ASSERT_FATAL(wn_config_method(config, i)->phases != 0);
        wn_config_method_on_layer(config, i, 11);
        status = wn_config_bind(config, i, &schema, &values, &reasons);
        CU_ASSERT_FATAL((status == WN_OK) == (values != NULL));
        CU_ASSERT_FATAL((status == WN_OK) == (reasons.count == 0));
        wn_values_free(values, NUM_FIELDS);
        wn_reasons_clear(&reasons);
    }
    wn_config_free(config);
}

static void damage(const char *text, size_t bytes, uint64_t *random)
{
    static const char marks[] = "{}[]:-,&*<!|>'\"%@`#?~ \n\t\0\xff";
    char *copy = malloc(bytes);
    for (size_t i = 0; i <= bytes; i++)
        try_bytes(text, i);
    for (int trial = 0; trial < 600; trial++) {
        memcpy(copy, text, bytes);
        for (uint32_t flips = 1 + wn_random_below(random, 3); flips > 0; flips--) {
            uint32_t at = wn_random_below(random, (uint32_t)bytes);
            if (trial % 2 == 0)
                copy[at] = (char)(copy[at] ^ (1 << wn_random_below(random, 8)));
            else
                copy[at] = marks[wn_random_below(random, sizeof marks - 1)];
        }
        try_bytes(copy, bytes);
    }
    free(copy);
}

static void damaged_files_never_crash(void)
{
    glob_t files;
    uint64_t random = wn_test_seed();
    CU_ASSERT_EQUAL_FATAL(glob(WN_TEST_DATA "/config/*.yaml", 0, NULL, &files), 0);
    CU_ASSERT(files.gl_pathc >= 7);
    for (size_t i = 0; i < files.gl_pathc; i++) {
        char text[4096];
        FILE *file = fopen(files.gl_pathv[i], "rb");
        CU_ASSERT_PTR_NOT_NULL_FATAL(file);
        size_t bytes = fread(text, 1, sizeof text, file);
        fclose(file);
        damage(text, bytes, &random);
    }
    globfree(&files);
}

WN_SUITE("core.config_file", {"foreign files load unchanged", foreign_files_load_unchanged},
         {"everything composes", everything_composes}, {"every error is told", every_error_is_told},
         {"no method is dense", no_method_is_dense},
         {"other files are refused", other_files_are_refused},
         {"entries are bound by number", entries_are_bound_by_number},
         {"damaged files never crash", damaged_files_never_crash})
