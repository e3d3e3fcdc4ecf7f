/* test_sparse_config.c: the calibration section of a config.json, in each of its four forms, as
 * text that the library takes; and everything that is refused rather than left out. */
#include "suite.h"
#include "tools/check_file.h"
#include "tools/sparse_config.h"
#include "winnow/winnow.h"

#include <string.h>

/* The text without its first line, which names the file; NULL if it is refused, with why. */
static char why[1024];

static char *read_file(const char *path)
{
    wn_error error = {WN_SIZEOF(wn_error), sizeof why, why};
    char *yaml = (char *)1;
    why[0] = '\0';
    const wn_status status = wn_sparse_config_from_json(path, &yaml, &error);
    CU_ASSERT_EQUAL(status == WN_OK, yaml != NULL);
    CU_ASSERT_EQUAL(status == WN_OK, why[0] == '\0');
    if (yaml != NULL)
        CU_ASSERT_EQUAL(strncmp(yaml, "# From \"", 8), 0);
    return yaml;
}

static char *read_sample(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/hf/%s.json", WN_TEST_DATA, name);
    return read_file(path);
}

static void gives(const char *name, const char *head, const char *body)
{
    char *yaml = read_sample(name);
    if (yaml == NULL)
        fprintf(stderr, "%s\n", why);
    CU_ASSERT_PTR_NOT_NULL_FATAL(yaml);
    const char *first = strchr(yaml, '\n') + 1;
    CU_ASSERT_PTR_NOT_NULL(strstr(yaml, head));
    if (strcmp(first, body) != 0)
        fprintf(stderr, "%s\n", first);
    CU_ASSERT_STRING_EQUAL(first, body);
    free(yaml);
}

static void four_forms(void)
{
    gives("calibrated_number",
          ", made by {\"name\": \"modelopt\", \"version\": \"0.37.0\"} for [\"LlamaAttention\"]\n",
          "# The factor was found for target_sparsity {\"prefill\": 0.3, \"decode\": 0.3}\n"
          "sparse_attention_config:\n"
          "  algorithm: skip_softmax\n"
          "  threshold_scale_factor: {\"prefill\": 437.7, \"decode\": 437.7}\n");
    gives("fixed_threshold", "0.37.0",
          "sparse_attention_config:\n"
          "  algorithm: skip_softmax\n"
          "  threshold: {\"prefill\": 0.0001, \"decode\": 0.0001}\n");
    gives("formula_beside", "0.37.0",
          "sparse_attention_config:\n"
          "  algorithm: skip_softmax\n"
          "  formula: \"a * exp(b * target_sparsity)\"\n"
          "  coefficients: {\"prefill\": {\"a\": 7.93, \"b\": 8.61}, "
          "\"decode\": {\"a\": 0.12, \"b\": 9.85}}\n");
    gives("ratio_beside", "0.37.0",
          "sparse_attention_config:\n"
          "  algorithm: skip_softmax\n"
          "  formula: \"a * exp(b * target_sparsity)\"\n"
          "  coefficients: {\"prefill\": {\"a\": 7.93, \"b\": 8.61}, "
          "\"decode\": {\"a\": 0.12, \"b\": 9.85}}\n"
          "  target_sparsity: {\"prefill\": 0.5, \"decode\": 0.4}\n");
    gives("in_group", "0.40.0",
          "sparse_attention_config:\n"
          "  algorithm: skip_softmax\n"
          "  formula: \"a * exp(b * target_sparsity)\"\n"
          "  coefficients: {\"prefill\": {\"a\": 7.93, \"b\": 8.61}, "
          "\"decode\": {\"a\": 0.12, \"b\": 9.85}}\n"
          "  target_sparsity: {\"prefill\": 0.5, \"decode\": 0.5}\n"
          "  ignore: [\"model.layers.0.self_attn\", \"model.layers.3.self_attn\"]\n");
}

/* ---------------------------------------------------------------- by the library */

static const wn_model model = {.struct_size = WN_SIZEOF(wn_model),
                               .num_layers = 4,
                               .num_heads = 4,
                               .num_kv_heads = 2,
                               .head_dim = 64,
                               .dtype = WN_F32,
                               .max_position = 8192,
                               .softmax_scale = 0.125f};

/* The plan of an engine with this configuration; freed by wn_text_free. */
static char *plan_of(const char *yaml)
{
    wn_registry *registry;
    wn_config *config = NULL;
    char *plan = NULL;
    CU_ASSERT_EQUAL_FATAL(wn_registry_open(WN_TEST_PLUGINS, &registry), WN_OK);
    wn_status status = wn_config_parse(yaml, strlen(yaml), "config.json", &config);
    if (status == WN_OK)
        status = wn_engine_check(registry, config, &model, NULL, &plan, NULL);
    if (status != WN_OK)
        fprintf(stderr, "%s\n%s\n", yaml, wn_error_text());
    CU_ASSERT_EQUAL_FATAL(status, WN_OK);
    wn_config_free(config);
    wn_registry_close(registry);
    return plan;
}

#define BOTH(layers)                                                                               \
    layers ": context: tile_policy skip_softmax; generation: tile_policy skip_softmax"

/* Every form is accepted as it is written, and decides what it says. */
static void the_library_takes_it(void)
{
    static const struct {
        const char *name;
        const char *expected;
    } cases[] = {{"calibrated_number", BOTH("layers 0..3")},
                 {"fixed_threshold", BOTH("layers 0..3")},
                 {"formula_beside", "target_sparsity is not set for the context phase, and "
                                    "coefficients alone skip nothing"},
                 {"ratio_beside", BOTH("layers 0..3")},
                 {"in_group", BOTH("layers 1..2")}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *yaml = read_sample(cases[i].name);
        CU_ASSERT_PTR_NOT_NULL_FATAL(yaml);
        char *plan = plan_of(yaml);
        if (strstr(plan, cases[i].expected) == NULL)
            fprintf(stderr, "%s\n", plan);
        CU_ASSERT_PTR_NOT_NULL(strstr(plan, cases[i].expected));
        wn_text_free(plan);
        free(yaml);
    }
}

/* ---------------------------------------------------------------- small files */

static char *read_text(const char *text)
{
    return read_file(check_file_write("config.json", text, strlen(text)));
}

/* A section with one group of the newest form. */
static char *read_group(const char *inside)
{
    char text[2048];
    snprintf(text, sizeof text,
             "{\"sparse_attention_config\": {\"config_groups\": {\"group_0\": {\"algorithm\": "
             "\"skip_softmax\"%s%s}}}}",
             inside[0] == '\0' ? "" : ", ", inside);
    return read_text(text);
}

static void has(char *yaml, const char *part)
{
    if (yaml == NULL || strstr(yaml, part) == NULL)
        fprintf(stderr, "%s%s\n", yaml != NULL ? yaml : "", why);
    CU_ASSERT_PTR_NOT_NULL_FATAL(yaml);
    CU_ASSERT_PTR_NOT_NULL(strstr(yaml, part));
    free(yaml);
}

static void other_spellings(void)
{
    has(read_group("\"threshold_scale_factor\": {\"prefill\": 500, \"decode\": 12.5}"),
        "  threshold_scale_factor: {\"prefill\": 500, \"decode\": 12.5}\n");
    has(read_group("\"threshold_scale_factor\": {\"prefill\": 500, \"decode\": {\"a\": 1, \"b\": "
                   "2.5e-7}}, \"target_sparsity\": 0.5"),
        "  threshold_scale_factor: {\"prefill\": 500}\n"
        "  coefficients: {\"decode\": {\"a\": 1, \"b\": 2.5e-7}}\n"
        "  target_sparsity: {\"decode\": 0.5}\n");
    has(read_group("\"threshold_scale_factor\": {\"formula\": \"k / (1 - target_sparsity)\", "
                   "\"coefficients\": {\"k\": 1003.4}}, \"target_sparsity\": {\"prefill\": 0.3}"),
        "  formula: \"k / (1 - target_sparsity)\"\n"
        "  coefficients: {\"k\": 1003.4}\n"
        "  target_sparsity: {\"prefill\": 0.3}\n");
    has(read_group("\"threshold\": {\"prefill\": 0.001, \"decode\": 1e-05}"),
        "  threshold: {\"prefill\": 0.001, \"decode\": 1e-5}\n");
    has(read_group("\"threshold\": 0.001, \"initial_disabled_steps\": 0, \"ignore\": null"),
        "  threshold: {\"prefill\": 0.001, \"decode\": 0.001}\n");
    has(read_text("{\"text_config\": {\"sparse_attention_config\": {\"config_groups\": {\"g\": "
                  "{\"sparse_algo\": \"softmax_skip\"}}, \"threshold_scale_factor\": 3}}}"),
        "  threshold_scale_factor: {\"prefill\": 3, \"decode\": 3}\n");
}

/* Numbers come back as the doubles they were, in as few digits as that takes. */
static void numbers(void)
{
    static const char *const texts[] = {"0.1", "0.30000000000000004", "123456789.12345679", "1e-10",
                                        "7",   "0.1234567890123456"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        char inside[100];
        snprintf(inside, sizeof inside, "\"threshold_scale_factor\": %s", texts[i]);
        char *yaml = read_group(inside);
        CU_ASSERT_PTR_NOT_NULL_FATAL(yaml);
        const char *number = strstr(yaml, "\"decode\": ") + strlen("\"decode\": ");
        CU_ASSERT_EQUAL(strtod(number, NULL), strtod(texts[i], NULL));
        CU_ASSERT(strcspn(number, "}") <= strlen(texts[i]));
        free(yaml);
    }
}

static void layers_left_alone(void)
{
    static const char *const names[] = {"model.layers.7.self_attn",
                                        "layers.7.self_attn",
                                        "model.layers.7",
                                        "model.language_model.layers.7.self_attn",
                                        "language_model.model.layers.7.self_attn",
                                        "transformer.h.7.attn",
                                        "backbone.layers.7.mixer",
                                        "model.layers.7.attention"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char inside[200];
        snprintf(inside, sizeof inside, "\"threshold\": 0.5, \"ignore\": [\"%s\"]", names[i]);
        has(read_group(inside), "  ignore: [\"model.layers.7.self_attn\"]\n");
    }
    has(read_group("\"threshold\": 0.5, \"ignore\": [\"*layers.1?.*\"]"),
        "  ignore: [\"*layers.1?.*\"]\n");
    has(read_group("\"threshold\": 0.5, \"ignore\": []"), "  threshold: ");
}

/* ---------------------------------------------------------------- refusals */

static void refuses(char *yaml, const char *part)
{
    CU_ASSERT_PTR_NULL(yaml);
    if (strstr(why, part) == NULL)
        fprintf(stderr, "%s\n", why);
    CU_ASSERT_PTR_NOT_NULL(strstr(why, part));
    free(yaml);
}

static void refuses_other_methods(void)
{
    refuses(read_sample("n_of_m"),
            "n_of_m.json: sparse_attention_config: \"group_1\": sparse_softmax, keeping N of every "
            "M scores, is not computed here: remove the group if the model may run without it");
    refuses(read_text("{\"sparse_attention_config\": {\"config_groups\": {\"group_0\": "
                      "{\"sparse_algo\": \"softmax_skip\"}}, \"threshold_scale_factor\": 5, "
                      "\"sparse_softmax\": {\"sparsity_n\": 2, \"sparsity_m\": 4}}}"),
            "\"sparse_softmax\": keeping N of every M scores is not computed here");
    refuses(read_text("{\"sparse_attention_config\": {\"config_groups\": {\"group_0\": "
                      "{\"algorithm\": \"vsa\"}}}}"),
            "\"group_0\": algorithm \"vsa\": of calibrated methods only skip_softmax is known");
    refuses(read_text("{\"sparse_attention_config\": {\"config_groups\": {"
                      "\"group_0\": {\"algorithm\": \"skip_softmax\", \"threshold\": 0.1}, "
                      "\"group_1\": {\"algorithm\": \"skip_softmax\", \"threshold\": 0.1}}}}"),
            "\"group_1\": a second group of skip_softmax beside group_0");
    refuses(read_group("\"threshold\": 0.1, \"initial_disabled_steps\": 3"),
            "\"initial_disabled_steps\": belongs to models that denoise in steps");
    refuses(read_group("\"threshold\": 0.1, \"block_size\": 3"),
            "\"block_size\": this key has no counterpart here");
    refuses(read_text("{\"sparse_attention_config\": {\"config_groups\": {\"group_0\": "
                      "{\"algorithm\": \"skip_softmax\", \"threshold\": 0.1}}, \"blocks\": 1}}"),
            "\"blocks\": this key has no counterpart here");
    refuses(read_group("\"threshold\": 0.5, \"ignore\": [\"visual.blocks.3.attn\"]"),
            "\"ignore\": \"visual.blocks.3.attn\" is not the attention of a layer");
    refuses(read_group("\"threshold\": 0.5, \"ignore\": [\"model.layers.3.cross_attn\"]"),
            "\"model.layers.3.cross_attn\" is not the attention of a layer");
}

static void refuses_other_shapes(void)
{
    refuses(read_group(""),
            "\"group_0\": has neither \"threshold_scale_factor\" nor \"threshold\"");
    refuses(read_group("\"threshold_scale_factor\": \"500\""),
            "\"threshold_scale_factor\": expected a number or {\"prefill\": x, \"decode\": y}");
    refuses(read_group("\"threshold_scale_factor\": true"), "expected a number");
    refuses(read_group("\"threshold_scale_factor\": {\"prefil\": {\"a\": 1}}"), "\"prefil\"");
    refuses(read_group("\"threshold_scale_factor\": {\"prefill\": {\"a\": \"1\"}}"),
            "\"prefill\": \"a\": expected a number");
    refuses(read_group("\"threshold\": {\"prefill\": [0.001]}"),
            "\"threshold\": \"prefill\": expected numbers");
    refuses(read_group("\"threshold\": {\"both\": 0.001}"), "\"both\": expected numbers");
    refuses(read_group("\"threshold\": 0.5, \"ignore\": \"model.layers.0\""), "expected a list");
    refuses(read_group("\"threshold\": 0.5, \"ignore\": [0]"), "entry 1 is no text");
    refuses(
        read_group("\"threshold\": 0.5, \"target_sparsity\": 0.5, \"target_sparse_ratio\": 0.5"),
        "is there as \"target_sparse_ratio\", too");
    refuses(read_text("{\"sparse_attention_config\": {\"config_groups\": {\"g\": {\"algorithm\": "
                      "\"skip_softmax\", \"threshold\": 0.1}}, \"threshold_scale_factor\": 4, "
                      "\"target_sparsity\": 0.2, \"target_sparse_ratio\": 0.5}}"),
            "target_sparse_ratio");
    refuses(read_text("{\"sparse_attention_config\": {\"config_groups\": {\"g\": {\"algorithm\": "
                      "\"skip_softmax\", \"threshold_scale_factor\": 0.1}}, "
                      "\"threshold_scale_factor\": 4}}"),
            "\"threshold_scale_factor\": is there twice, in group g and beside it");
    refuses(read_text("{\"sparse_attention_config\": {\"config_groups\": {\"g\": {}}}}"),
            "\"g\": has no \"algorithm\"");
    refuses(read_text("{\"sparse_attention_config\": {\"config_groups\": {\"g\": 3}}}"),
            "\"g\": has no \"algorithm\"");
    refuses(read_text("{\"sparse_attention_config\": {\"config_groups\": {}}}"),
            "expected an object with a group");
    refuses(read_text("{\"sparse_attention_config\": {}}"), "expected an object with a group");
    refuses(read_text("{\"sparse_attention_config\": 3}"), "expected an object");
}

static void refuses_other_files(void)
{
    refuses(read_text("{\"model_type\": \"llama\"}"),
            "has no \"sparse_attention_config\": the model was not calibrated");
    refuses(read_text("[]"), "has no \"sparse_attention_config\"");
    refuses(read_text("{\"a\": 1, \"a\": 2}"), "config.json:1:");
    refuses(read_text("{\"a\": "), "config.json:1:");
    refuses(read_text(""), "config.json:1:");
    refuses(read_file(check_file_path("absent.json")), "absent.json: cannot be read");
    refuses(read_file("/tmp"), "/tmp");
}

/* A byte of a sound file changed: read or refused, and what is read is taken or refused. */
static void damaged_files(void)
{
    static const char letters[] = "{}[]\",: 0189.-eantf\\\xff";
    char path[512];
    size_t size;
    uint64_t seed = wn_test_seed();
    snprintf(path, sizeof path, "%s/hf/in_group.json", WN_TEST_DATA);
    char *bytes = check_file_read(path, &size);
    CU_ASSERT_PTR_NOT_NULL_FATAL(bytes);
    for (int i = 0; i < 1000; i++) {
        char *at = bytes + wn_random_below(&seed, (uint32_t)size), was = *at;
        *at = letters[wn_random_below(&seed, sizeof letters - 1)];
        char *yaml = read_file(check_file_write("config.json", bytes, size));
        wn_config *config;
        if (yaml != NULL && wn_config_parse(yaml, strlen(yaml), "damaged", &config) == WN_OK)
            wn_config_free(config);
        free(yaml);
        *at = was;
    }
    free(bytes);
}

WN_SUITE("tools.sparse_config", {"four forms", four_forms},
         {"the library takes it", the_library_takes_it}, {"other spellings", other_spellings},
         {"numbers", numbers}, {"layers left alone", layers_left_alone},
         {"refuses other methods", refuses_other_methods},
         {"refuses other shapes", refuses_other_shapes},
         {"refuses other files", refuses_other_files}, {"damaged files", damaged_files})
