/* test_skip_softmax_rule.c: from the keys of skip_softmax to lambda: calibrated formulas against
 * published tables, one deciding key per phase, what is refused and with which words. */
#include "check_plugin.h"
#include "suite.h"

#include <math.h>
#include <string.h>

static check_plugin plugin;
static const wn_model model = {.struct_size = WN_SIZEOF(wn_model), .max_position = 1000000};

enum { CONTEXT = 1u << WN_PHASE_CONTEXT, GENERATION = 1u << WN_PHASE_GENERATION };

/* ---------------------------------------------------------------- values as the core makes them */

static wn_value values[CHECK_MAX_FIELDS];

static wn_value *value_of(const char *name)
{
    uint32_t f = 0;
    while (f < plugin.config->num_fields && strcmp(plugin.config->fields[f].name, name) != 0)
        f++;
    CHECK_REQUIRE(f < plugin.config->num_fields);
    values[f].is_set = values[f].has_value = 1;
    return &values[f];
}

static void defaults(void)
{
    check_plugin_values(&plugin, NULL, values);
}

static void set_phase(const char *name, uint32_t phase, double number)
{
    wn_value *value = value_of(name);
    value->phase[phase] = number;
    value->phase_set |= 1u << phase;
}

static void set_coefficients(const char *const *names, const double *numbers, uint32_t count)
{
    wn_value *value = value_of("coefficients");
    value->names = names;
    value->numbers = numbers;
    value->count = count;
}

/* a and b of one phase, for the default formula. */
static void set_curve(uint32_t phase, double a, double b)
{
    static const char *const names[][2] = {{"prefill.a", "prefill.b"}, {"decode.a", "decode.b"}};
    static double numbers[2];
    numbers[0] = a;
    numbers[1] = b;
    set_coefficients(names[phase], numbers, 2);
}

/* ln(lambda) of a request of `length` tokens. */
static float threshold_of(uint32_t phase, int32_t length, uint32_t *flags)
{
    void *instance;
    float threshold = 99;
    char text[700] = "";
    wn_error error = {WN_SIZEOF(wn_error), sizeof text, text};
    const wn_step_args args = {
        .struct_size = WN_SIZEOF(wn_step_args), .phase = phase, .batch = 1, .kv.length = &length};
    wn_tile_policy policy = {.struct_size = WN_SIZEOF(wn_tile_policy), .log_threshold = &threshold};
    CU_ASSERT_STRING_EQUAL(check_plugin_reasons(&plugin, &model, values), "");
    const wn_status status = plugin.config->create(&model, values, &instance, &error);
    if (status != WN_OK)
        fprintf(stderr, "%s\n", text);
    CU_ASSERT_EQUAL_FATAL(status, WN_OK);
    CU_ASSERT_EQUAL(plugin.kernel_hook->tile_policy(instance, &args, &policy), WN_OK);
    plugin.config->destroy(instance);
    if (flags != NULL)
        *flags = policy.flags;
    return threshold;
}

/* The scale factor behind a threshold; 1e6 tokens, so that lambda stays below 1. */
static double factor_of(uint32_t phase)
{
    const float threshold = threshold_of(phase, 1000000, NULL);
    return threshold == -INFINITY ? 0 : exp((double)threshold) * 1000000;
}

/* ---------------------------------------------------------------- published numbers */

/* Scale factors published for Qwen3-30B-A3B-Instruct-2507 at target sparsities .1, .2, ... .9
 * (TensorRT-LLM, blog 16), and the exponential behind them. Factors are printed to 0.01. */
static const struct {
    uint32_t phase;
    double a, b, factor[9];
} published[] = {
    {WN_PHASE_CONTEXT,
     7.92,
     8.615,
     {18.76, 44.37, 104.97, 248.40, 587.18, 1390.63, 3293.04, 7799.91, 18471.56}},
    {WN_PHASE_GENERATION,
     0.1196,
     9.857,
     {0.32, 0.86, 2.30, 6.17, 16.52, 44.26, 118.62, 317.99, 852.20}},
};

static void published_factors(void)
{
    for (size_t p = 0; p < sizeof published / sizeof published[0]; p++)
        for (int i = 0; i < 9; i++) {
            const double s = (i + 1) / 10.0, printed = published[p].factor[i];
            defaults();
            set_curve(published[p].phase, published[p].a, published[p].b);
            set_phase("target_sparsity", published[p].phase, s);
            const double factor = factor_of(published[p].phase);
            CU_ASSERT_DOUBLE_EQUAL(factor, printed, 0.002 * printed + 0.005);
            CU_ASSERT_DOUBLE_EQUAL(factor / (published[p].a * exp(published[p].b * s)), 1, 2e-6);
        }
}

/* A straight line through ln(factor) finds the exponential again, to the digits given. */
static void published_curves(void)
{
    for (size_t p = 0; p < sizeof published / sizeof published[0]; p++) {
        double sx = 0, sy = 0, sxx = 0, sxy = 0;
        for (int i = 0; i < 9; i++) {
            const double x = (i + 1) / 10.0, y = log(published[p].factor[i]);
            sx += x, sy += y, sxx += x * x, sxy += x * y;
        }
        const double b = (9 * sxy - sx * sy) / (9 * sxx - sx * sx), a = exp((sy - b * sx) / 9);
        CU_ASSERT_DOUBLE_EQUAL(a, published[p].a, published[p].phase == 0 ? 0.005 : 0.00005);
        CU_ASSERT_DOUBLE_EQUAL(b, published[p].b, 0.0005);
    }
}

/* ---------------------------------------------------------------- lambda */

static void by_length(void)
{
    static const int32_t lengths[] = {1, 18, 19, 4096, 65536, 1000000};
    for (uint32_t phase = 0; phase < WN_PHASE_COUNT; phase++)
        for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
            defaults();
            set_phase("threshold_scale_factor", phase, 18.5);
            CU_ASSERT_EQUAL(threshold_of(phase, lengths[i], NULL),
                            lengths[i] < 19 ? -INFINITY : (float)log(18.5 / lengths[i]));
            CU_ASSERT_EQUAL(threshold_of(1 - phase, lengths[i], NULL), -INFINITY);
        }
}

static void constant(void)
{
    defaults();
    set_phase("threshold", WN_PHASE_CONTEXT, 1e-3);
    set_phase("threshold", WN_PHASE_GENERATION, 1);
    CU_ASSERT_EQUAL(threshold_of(WN_PHASE_CONTEXT, 1, NULL), (float)log(1e-3));
    CU_ASSERT_EQUAL(threshold_of(WN_PHASE_CONTEXT, 100000, NULL), (float)log(1e-3));
    CU_ASSERT_EQUAL(threshold_of(WN_PHASE_GENERATION, 100000, NULL), -INFINITY);
    value_of("min_seq_len")->i = 100;
    CU_ASSERT_EQUAL(threshold_of(WN_PHASE_CONTEXT, 99, NULL), -INFINITY);
    CU_ASSERT_EQUAL(threshold_of(WN_PHASE_CONTEXT, 100, NULL), (float)log(1e-3));
}

/* Each phase may have a key of its own. */
static void a_key_per_phase(void)
{
    defaults();
    set_phase("threshold_scale_factor", WN_PHASE_CONTEXT, 500);
    set_phase("target_sparsity", WN_PHASE_GENERATION, 0.3);
    set_curve(WN_PHASE_GENERATION, 0.12, 9.85);
    CU_ASSERT_DOUBLE_EQUAL(factor_of(WN_PHASE_CONTEXT), 500, 1e-3);
    CU_ASSERT_DOUBLE_EQUAL(factor_of(WN_PHASE_GENERATION), 0.12 * exp(9.85 * 0.3), 1e-5);
}

static void formulas(void)
{
    static const char *const names[] = {"context.k", "generation.k", "p"};
    static const double numbers[] = {1003.4, 2, 1.2589};
    defaults();
    set_phase("target_sparsity", WN_PHASE_CONTEXT, 0.5);
    set_phase("target_sparsity", WN_PHASE_GENERATION, 0.75);
    set_coefficients(names, numbers, 3); /* p is of both phases */
    value_of("formula")->s = "k / (1 - target_sparsity) ** p";
    CU_ASSERT_DOUBLE_EQUAL(factor_of(WN_PHASE_CONTEXT), 1003.4 * pow(2, 1.2589), 1e-2);
    CU_ASSERT_DOUBLE_EQUAL(factor_of(WN_PHASE_GENERATION), 2 * pow(4, 1.2589), 1e-5);
}

/* Without a target nothing needs a coefficient, and coefficients alone do nothing. */
static void zero_is_off(void)
{
    defaults();
    set_phase("target_sparsity", WN_PHASE_CONTEXT, 0);
    CU_ASSERT_EQUAL(factor_of(WN_PHASE_CONTEXT), 0);
    defaults();
    set_curve(WN_PHASE_CONTEXT, 8, 8);
    CU_ASSERT_EQUAL(factor_of(WN_PHASE_CONTEXT), 0);
    set_phase("threshold_scale_factor", WN_PHASE_CONTEXT, 12);
    CU_ASSERT_DOUBLE_EQUAL(factor_of(WN_PHASE_CONTEXT), 12, 1e-4);
}

static void two_pass(void)
{
    uint32_t flags;
    for (int on = 0; on < 2; on++)
        for (uint32_t phase = 0; phase < WN_PHASE_COUNT; phase++) {
            defaults();
            set_phase("threshold_scale_factor", phase, 5);
            value_of("two_pass")->i = on;
            threshold_of(phase, 100, &flags);
            CU_ASSERT_EQUAL(flags, on && phase == WN_PHASE_GENERATION ? WN_TILE_TWO_PASS : 0);
        }
}

/* ---------------------------------------------------------------- what is refused */

static void refuses(const char *text)
{
    void *instance;
    char said[700] = "";
    wn_error error = {WN_SIZEOF(wn_error), sizeof said, said};
    const char *reasons = check_plugin_reasons(&plugin, &model, values);
    if (strcmp(reasons, text) != 0)
        fprintf(stderr, "%s\n", reasons);
    CU_ASSERT_STRING_EQUAL(reasons, text);
    if (plugin.config->create(&model, values, &instance, &error) == WN_OK)
        plugin.config->destroy(instance); /* where only a name is wrong that nobody uses */
    else
        CU_ASSERT_PTR_NOT_NULL(strstr(reasons, said + strlen("skip_softmax: ")));
}

static void contradictions(void)
{
    defaults();
    for (uint32_t phase = 0; phase < WN_PHASE_COUNT; phase++)
        set_phase("threshold_scale_factor", phase, 500);
    set_phase("target_sparsity", WN_PHASE_GENERATION, 0.5);
    set_curve(WN_PHASE_GENERATION, 1, 1);
    refuses(
        "threshold_scale_factor and target_sparsity are both set for the generation phase: only "
        "one of them can decide. To give a key for one phase alone write {prefill: NUMBER}");
    defaults();
    set_phase("threshold_scale_factor", WN_PHASE_CONTEXT, 0);
    set_phase("threshold", WN_PHASE_CONTEXT, 0.001);
    refuses("threshold_scale_factor and threshold are both set for the context phase: only one of "
            "them can decide. To give a key for one phase alone write {decode: NUMBER}");
}

static void missing_coefficients(void)
{
    defaults();
    set_phase("target_sparsity", WN_PHASE_CONTEXT, 0.5);
    set_phase("target_sparsity", WN_PHASE_GENERATION, 0.5);
    refuses("target_sparsity of the context phase: formula \"a * exp(b * target_sparsity)\": no "
            "value for a (column 1), b (column 9). Coefficients come from calibration and belong "
            "into coefficients: {prefill: {NAME: NUMBER}}\n"
            "target_sparsity of the generation phase: formula \"a * exp(b * target_sparsity)\": no "
            "value for a (column 1), b (column 9). Coefficients come from calibration and belong "
            "into coefficients: {decode: {NAME: NUMBER}}");
    defaults();
    set_phase("target_sparsity", WN_PHASE_GENERATION, 0.5);
    set_curve(WN_PHASE_CONTEXT, 1, 2); /* of the other phase: no help */
    CU_ASSERT_PTR_NOT_NULL(strstr(check_plugin_reasons(&plugin, &model, values), "no value for a"));
}

static void useless_coefficients(void)
{
    static const char *const names[] = {"prefill.a", "prefill.b", "prefill.c"};
    static const char *const twice[] = {"prefill.a", "a", "b"};
    static const char *const bad[] = {"prefil.a", "decode.x.y", "prefill.2", "target_sparsity"};
    static const double numbers[] = {1, 2, 3, 4};
    defaults();
    set_phase("target_sparsity", WN_PHASE_CONTEXT, 0.5);
    set_coefficients(names, numbers, 3);
    refuses("coefficients: formula \"a * exp(b * target_sparsity)\" does not use c of the context "
            "phase");
    set_coefficients(twice, numbers, 3);
    refuses("coefficients: a has two values in the context phase");
    for (int i = 0; i < 4; i++) {
        char text[300];
        defaults();
        set_coefficients(bad + i, numbers, 1);
        snprintf(text, sizeof text,
                 "coefficients: \"%s\": expected names for the formula, of both phases or under "
                 "prefill and decode: {prefill: {a: 7.9, b: 8.6}, decode: {a: 0.1, b: 9.9}}",
                 bad[i]);
        refuses(text);
    }
}

static void unusable_results(void)
{
    defaults();
    set_phase("target_sparsity", WN_PHASE_GENERATION, 0.5);
    set_curve(WN_PHASE_GENERATION, -1, 2);
    refuses("target_sparsity 0.5 of the generation phase: formula \"a * exp(b * target_sparsity)\" "
            "gives -2.71828, but a scale factor is a number of at least 0: look at the "
            "coefficients");
    set_curve(WN_PHASE_GENERATION, 1, 2000);
    CU_ASSERT_PTR_NOT_NULL(strstr(check_plugin_reasons(&plugin, &model, values), "gives inf, but"));
    set_curve(WN_PHASE_GENERATION, 1, 2);
    value_of("formula")->s = "log(0 - a) * b";
    CU_ASSERT_PTR_NOT_NULL(strstr(check_plugin_reasons(&plugin, &model, values), "nan, but"));
    value_of("formula")->s = "a * exp(b * target_sparsity";
    refuses("target_sparsity of the generation phase: formula \"a * exp(b * target_sparsity\": "
            "column 28: expected \")\". Coefficients come from calibration and belong into "
            "coefficients: {decode: {NAME: NUMBER}}");
}

/* ---------------------------------------------------------------- what it claims and reports */

static uint32_t roles_of(uint32_t phase, uint32_t max_position, char why[200])
{
    const wn_model small = {.struct_size = WN_SIZEOF(wn_model), .max_position = max_position};
    void *instance;
    uint32_t roles = 99;
    why[0] = '\0';
    CU_ASSERT_EQUAL_FATAL(plugin.config->create(&small, values, &instance, NULL), WN_OK);
    CU_ASSERT_EQUAL(plugin.config->lower(instance, 0, phase, &roles, why, 200, NULL), WN_OK);
    plugin.config->destroy(instance);
    return roles;
}

static void dense_phases_say_why(void)
{
    char why[200];
    defaults();
    CU_ASSERT_EQUAL(roles_of(WN_PHASE_CONTEXT, 1000, why), 0);
    CU_ASSERT_STRING_EQUAL(why, "none of threshold_scale_factor, target_sparsity and threshold is "
                                "set for the context phase");
    set_curve(WN_PHASE_CONTEXT, 7.92, 8.615);
    CU_ASSERT_EQUAL(roles_of(WN_PHASE_CONTEXT, 1000, why), 0);
    CU_ASSERT_STRING_EQUAL(why,
                           "target_sparsity is not set for the context phase, and coefficients "
                           "alone skip nothing");
    set_phase("target_sparsity", WN_PHASE_GENERATION, 0);
    CU_ASSERT_EQUAL(roles_of(WN_PHASE_GENERATION, 1000, why), 0);
    CU_ASSERT_STRING_EQUAL(why, "target_sparsity is 0 for the generation phase");
    defaults();
    set_phase("threshold_scale_factor", WN_PHASE_CONTEXT, 1000);
    CU_ASSERT_EQUAL(roles_of(WN_PHASE_CONTEXT, 1001, why), WN_ROLE_TILE_POLICY);
    CU_ASSERT_EQUAL(roles_of(WN_PHASE_GENERATION, 1001, why), 0);
    CU_ASSERT_EQUAL(roles_of(WN_PHASE_CONTEXT, 1000, why), 0);
    CU_ASSERT_STRING_EQUAL(why, "threshold_scale_factor 1000 is not below the longest sequence, "
                                "1000 tokens: lambda would be 1 or more at every length");
    value_of("min_seq_len")->i = 3000;
    CU_ASSERT_EQUAL(roles_of(WN_PHASE_CONTEXT, 2000, why), 0);
    CU_ASSERT_STRING_EQUAL(why, "min_seq_len 3000 is above the longest sequence, 2000 tokens");
    defaults();
    set_phase("threshold", WN_PHASE_CONTEXT, 1);
    CU_ASSERT_EQUAL(roles_of(WN_PHASE_CONTEXT, 1000, why), 0);
    CU_ASSERT_STRING_EQUAL(why, "threshold is 1 for the context phase: lambda would be 1");
    set_phase("threshold", WN_PHASE_CONTEXT, 0.5);
    CU_ASSERT_EQUAL(roles_of(WN_PHASE_CONTEXT, 1, why), WN_ROLE_TILE_POLICY);
    defaults();
    set_phase("target_sparsity", WN_PHASE_CONTEXT, 0.9);
    set_curve(WN_PHASE_CONTEXT, 7.92, 8.615);
    CU_ASSERT_EQUAL(roles_of(WN_PHASE_CONTEXT, 4096, why), 0);
    CU_ASSERT_STRING_EQUAL(why, "threshold_scale_factor 18451.3 (of target_sparsity) is not below "
                                "the longest sequence, 4096 tokens: lambda would be 1 or more at "
                                "every length");
}

static void reports_once(void)
{
    char why[200];
    int logs = check_plugin_num_logs();
    defaults();
    set_phase("threshold_scale_factor", WN_PHASE_CONTEXT, 20);
    roles_of(WN_PHASE_CONTEXT, 1000, why);
    CU_ASSERT_EQUAL(check_plugin_num_logs(), ++logs);
    CU_ASSERT_STRING_EQUAL(check_plugin_last_log(),
                           "3 skip_softmax: context: requests of up to 20 tokens are dense: lambda "
                           "= 20 / length is 1 or more");
    defaults();
    set_phase("target_sparsity", WN_PHASE_GENERATION, 0.1);
    set_curve(WN_PHASE_GENERATION, 0.1196, 9.857);
    roles_of(WN_PHASE_GENERATION, 1000, why);
    CU_ASSERT_EQUAL(check_plugin_num_logs(), ++logs);
    CU_ASSERT_STRING_EQUAL(
        check_plugin_last_log(),
        "3 skip_softmax: generation: target_sparsity 0.1 is threshold_scale_factor 0.320491");
    defaults();
    set_phase("threshold", WN_PHASE_CONTEXT, 0.001);
    roles_of(WN_PHASE_CONTEXT, 1000, why);
    CU_ASSERT_EQUAL(check_plugin_num_logs(), logs);
}

static void open_plugin(void)
{
    plugin = check_plugin_open("skip_softmax");
}

static void close_plugin(void)
{
    check_plugin_close(&plugin);
}

WN_SUITE("plugins.skip_softmax_rule", {"opens", open_plugin},
         {"published factors", published_factors}, {"published curves", published_curves},
         {"by length", by_length}, {"constant", constant}, {"a key per phase", a_key_per_phase},
         {"formulas", formulas}, {"zero is off", zero_is_off}, {"two pass", two_pass},
         {"contradictions", contradictions}, {"missing coefficients", missing_coefficients},
         {"useless coefficients", useless_coefficients}, {"unusable results", unusable_results},
         {"dense phases say why", dense_phases_say_why}, {"reports once", reports_once},
         {"closes", close_plugin})
