/* An algorithm's keys against its schema. */
#include "tests/suite.h"

#include "core/schema.h"

#include <math.h>
#include <string.h>

static const char *const dtype_names[] = {"bfloat16", "float8_e5m2", "float32", NULL};

enum { BUDGET, SCALE, ON, LABEL, DTYPE, FACTOR, ROLES, ORDER, NUM_FIELDS };

#define FIELD(type_, name_, default_, least_, greatest_, ...)                                      \
    {                                                                                              \
        .struct_size = WN_SIZEOF(wn_config_field), .type = type_, .name = name_, .unit = "",       \
        .help = "help of " name_, .default_text = default_, .least = least_,                       \
        .greatest = greatest_, __VA_ARGS__                                                         \
    }

static const wn_config_field fields[NUM_FIELDS] = {
    FIELD(WN_FIELD_INT, "budget", "2048", 1, 1 << 20, .flags = WN_FIELD_BUDGET),
    FIELD(WN_FIELD_FLOAT, "scale", "0.5", 0, 1, .reserved = 0),
    FIELD(WN_FIELD_BOOL, "on", "true", 0, 0, .reserved = 0),
    FIELD(WN_FIELD_STRING, "label", "plain", 0, 0, .reserved = 0),
    FIELD(WN_FIELD_ENUM, "dtype", "float8_e5m2", 0, 0, .enum_names = dtype_names),
    FIELD(WN_FIELD_PHASE_FLOAT, "factor", NULL, 0, INFINITY, .reserved = 0),
    FIELD(WN_FIELD_INT_LIST, "roles", "[3, 1, 2]", 0, 9, .reserved = 0),
    FIELD(WN_FIELD_INT, "order", NULL, -5, 5, .flags = WN_FIELD_REQUIRED),
};
static const wn_config_interface schema = {
    .struct_size = WN_SIZEOF(wn_config_interface), .num_fields = NUM_FIELDS, .fields = fields};

static wn_reason_list reasons;

static wn_value *bind_to(const wn_config_interface *to, const char *text, wn_status expected)
{
    wn_arena arena = {0};
    wn_findings findings = {0};
    wn_value *values = NULL;
    wn_reasons_clear(&reasons);
    const wn_yaml_node *entry = wn_yaml_parse(text, strlen(text), &arena, &findings);
    CU_ASSERT_PTR_NOT_NULL_FATAL(entry);
    CU_ASSERT_EQUAL(wn_schema_bind(to, entry, "f", &values, &reasons), expected);
    CU_ASSERT_EQUAL(values == NULL, expected != WN_OK);
    CU_ASSERT_EQUAL(reasons.count == 0, expected == WN_OK);
    wn_arena_free(&arena);
    return values;
}

static void check_error(const char *text, const char *expected)
{
    bind_to(&schema, text, WN_ECONFIG);
    CU_ASSERT_PTR_NOT_NULL_FATAL(reasons.text);
    CU_ASSERT_STRING_EQUAL(reasons.text, expected);
    if (strcmp(reasons.text, expected) != 0)
        printf("\n  %s\n  %s\n", expected, reasons.text);
    wn_reasons_clear(&reasons);
}

static void defaults_are_filled_in(void)
{
    wn_value *v = bind_to(&schema, "{algorithm: x, order: -3}", WN_OK);
    CU_ASSERT_PTR_NOT_NULL_FATAL(v);
    CU_ASSERT(v[BUDGET].i == 2048 && v[BUDGET].has_value && !v[BUDGET].is_set);
    CU_ASSERT(v[SCALE].f == 0.5 && v[ON].i == 1);
    CU_ASSERT_STRING_EQUAL(v[LABEL].s, "plain");
    CU_ASSERT_EQUAL(v[DTYPE].i, 1);
    CU_ASSERT_STRING_EQUAL(v[DTYPE].s, "float8_e5m2");
    CU_ASSERT(!v[FACTOR].has_value && !v[FACTOR].is_set && v[FACTOR].phase_set == 0);
    CU_ASSERT_EQUAL_FATAL(v[ROLES].count, 3);
    CU_ASSERT(v[ROLES].list[0] == 3 && v[ROLES].list[2] == 2);
    CU_ASSERT(v[ORDER].i == -3 && v[ORDER].is_set && v[ORDER].has_value);
    wn_values_free(v, NUM_FIELDS);
}

static void everything_can_be_set(void)
{
    wn_value *v = bind_to(&schema,
                          "{algorithm: x, phases: [context], layers: '*', ignore: layers.0, "
                          "budget: 7, scale: 1, on: false, label: \"a b\", dtype: float32, factor: "
                          "1e3, roles: [9, 0], order: 5}",
                          WN_OK);
    CU_ASSERT_PTR_NOT_NULL_FATAL(v);
    CU_ASSERT(v[BUDGET].i == 7 && v[SCALE].f == 1 && v[ON].i == 0 && v[ON].is_set);
    CU_ASSERT_STRING_EQUAL(v[LABEL].s, "a b");
    CU_ASSERT_STRING_EQUAL(v[DTYPE].s, "float32");
    CU_ASSERT_EQUAL(v[FACTOR].phase_set, 3);
    CU_ASSERT(v[FACTOR].phase[0] == 1000 && v[FACTOR].phase[1] == 1000);
    CU_ASSERT(v[ROLES].count == 2 && v[ROLES].list[0] == 9 && v[ROLES].list[1] == 0);
    for (int i = 0; i < NUM_FIELDS; i++)
        CU_ASSERT(v[i].is_set && v[i].has_value);
    wn_values_free(v, NUM_FIELDS);
}

static void phases_are_set_apart(void)
{
    wn_value *v = bind_to(&schema, "{order: 0, factor: {prefill: 2, decode: 3}}", WN_OK);
    CU_ASSERT(v != NULL && v[FACTOR].phase_set == 3);
    CU_ASSERT(v != NULL && v[FACTOR].phase[WN_PHASE_CONTEXT] == 2);
    CU_ASSERT(v != NULL && v[FACTOR].phase[WN_PHASE_GENERATION] == 3);
    wn_values_free(v, NUM_FIELDS);
    v = bind_to(&schema, "{order: 0, factor: {generation: 3, context: null}}", WN_OK);
    CU_ASSERT(v != NULL && v[FACTOR].phase_set == 1u << WN_PHASE_GENERATION);
    wn_values_free(v, NUM_FIELDS);
    check_error("{order: 0, factor: {prefil: 2}}",
                "f:1:21: unknown key \"prefil\" in \"factor\": expected prefill or decode");
    check_error("{order: 0, factor: {prefill: 2, context: 2}}",
                "f:1:33: \"factor\" gives one phase twice");
    check_error("{order: 0, factor: {prefill: -1}}",
                "f:1:30: \"factor\" is -1: expected a number of at least 0");
    check_error("{order: 0, factor: {}}",
                "f:1:20: \"factor\" is a mapping: expected a number or {prefill: x, decode: y}");
    check_error("{order: 0, factor: .inf}",
                "f:1:20: \"factor\" is .inf: expected a number of at least 0");
}

static void null_stands_for_the_default(void)
{
    wn_value *v = bind_to(&schema, "{order: 0, budget: null, roles: ~}", WN_OK);
    CU_ASSERT(v != NULL && v[BUDGET].i == 2048 && !v[BUDGET].is_set && v[ROLES].count == 3);
    wn_values_free(v, NUM_FIELDS);
    check_error("{order: null}", "f:1:1: required key \"order\" is missing: help of order");
}

static void all_errors_are_told_in_order(void)
{
    check_error("dtype: float8_e4m3\nbudgt: 5\nbudget: 0\nroles: [1, 10, x]\non: 2\nlayer: 1\n",
                "f:1:1: required key \"order\" is missing: help of order\n"
                "f:1:8: \"dtype\" is float8_e4m3: expected bfloat16, float8_e5m2 or float32 (did "
                "you mean \"float8_e5m2\"?)\n"
                "f:2:1: unknown key \"budgt\" (did you mean \"budget\"?)\n"
                "f:3:9: \"budget\" is 0: expected an integer from 1 to 1048576\n"
                "f:4:12: \"roles\" is 10: expected an integer from 0 to 9\n"
                "f:4:16: \"roles\" is x: expected an integer from 0 to 9\n"
                "f:5:5: \"on\" is 2: expected true or false\n"
                "f:6:1: unknown key \"layer\" (did you mean \"layers\"?)");
    check_error("{order: 6, roles: 5, scale: 1.5, label: [x]}",
                "f:1:9: \"order\" is 6: expected an integer from -5 to 5\n"
                "f:1:19: \"roles\" is 5: expected a list of integers ([1, 2, 3])\n"
                "f:1:29: \"scale\" is 1.5: expected a number from 0 to 1\n"
                "f:1:41: \"label\" is a list: expected a word");
}

static void defaults_alone_need_nothing(void)
{
    wn_value *v = NULL;
    CU_ASSERT_EQUAL(wn_schema_defaults(&schema, &v, &reasons), WN_OK);
    CU_ASSERT(v != NULL && v[BUDGET].i == 2048 && !v[ORDER].has_value);
    wn_values_free(v, NUM_FIELDS);
    wn_values_free(NULL, 0);
    const wn_config_interface nothing = {.struct_size = WN_SIZEOF(wn_config_interface)};
    CU_ASSERT_EQUAL(wn_schema_defaults(&nothing, &v, &reasons), WN_OK);
    CU_ASSERT_PTR_NOT_NULL(v);
    wn_values_free(v, 0);
}

/* The values outlive the schema and the text. */
static void values_point_nowhere_else(void)
{
    static char label[] = "first";
    static char name[] = "only";
    const char *names[] = {name, NULL};
    wn_config_field own[] = {FIELD(WN_FIELD_STRING, "label", label, 0, 0, .reserved = 0),
                             FIELD(WN_FIELD_ENUM, "kind", name, 0, 0, .enum_names = names)};
    const wn_config_interface its = {
        .struct_size = WN_SIZEOF(wn_config_interface), .num_fields = 2, .fields = own};
    wn_value *v = bind_to(&its, "{algorithm: x}", WN_OK);
    CU_ASSERT_PTR_NOT_NULL_FATAL(v);
    memset(label, '?', sizeof label - 1);
    memset(name, '?', sizeof name - 1);
    CU_ASSERT_STRING_EQUAL(v[0].s, "first");
    CU_ASSERT_STRING_EQUAL(v[1].s, "only");
    wn_values_free(v, 2);
}

static void check_fault(wn_config_field field, const char *expected)
{
    const wn_config_interface its = {
        .struct_size = WN_SIZEOF(wn_config_interface), .num_fields = 1, .fields = &field};
    bind_to(&its, "{algorithm: x}", WN_EPLUGIN);
    CU_ASSERT_STRING_EQUAL(reasons.text, expected);
    if (strcmp(reasons.text, expected) != 0)
        printf("\n  %s\n  %s\n", expected, reasons.text);
    wn_reasons_clear(&reasons);
}

static void faulty_schemas_are_refused(void)
{
    check_fault((wn_config_field)FIELD(WN_FIELD_INT, "k", "0", 1, 5, .reserved = 0),
                "the schema's default of \"k\":1:1: \"k\" is 0: expected an integer from 1 to 5");
    check_fault((wn_config_field)FIELD(WN_FIELD_INT, "k", "", 1, 5, .reserved = 0),
                "the schema's default of \"k\": it is empty: NULL stands for no default");
    check_fault((wn_config_field)FIELD(WN_FIELD_ENUM, "k", "x", 0, 0, .reserved = 0),
                "the schema's field \"k\" is an enum without names");
    check_fault((wn_config_field)FIELD(99, "k", "x", 0, 0, .reserved = 0),
                "the schema's field \"k\" has an unknown type, 99");
    wn_config_field small = FIELD(WN_FIELD_INT, "k", "1", 1, 5, .reserved = 0);
    small.struct_size = 8;
    check_fault(small, "the schema's field 0: its struct_size is wrong");
    wn_config_field nameless = FIELD(WN_FIELD_INT, "k", "1", 1, 5, .reserved = 0);
    nameless.name = NULL;
    check_fault(nameless, "the schema's field 0 has no name");
}

static const wn_config_field composite[] = {
    FIELD(WN_FIELD_STRING_LIST, "names", "[hnd, \"a b\"]", 0, 0, .reserved = 0),
    FIELD(WN_FIELD_NUMBER_MAP, "factors", NULL, 0, INFINITY, .reserved = 0),
    FIELD(WN_FIELD_INT_LIST, "roles", "[1, 2]", 0, 9, .reserved = 0),
    FIELD(WN_FIELD_STRING, "formula", "a * exp(b * x)", 0, 0, .reserved = 0),
};
static const wn_config_interface of_lists = {
    .struct_size = WN_SIZEOF(wn_config_interface), .num_fields = 4, .fields = composite};

/* Every kind of list in one block: nothing overlaps, nothing points into the text. */
static void lists_and_maps_are_packed(void)
{
    wn_value *v = bind_to(&of_lists, "{algorithm: x}", WN_OK);
    CU_ASSERT_PTR_NOT_NULL_FATAL(v);
    CU_ASSERT(v[0].count == 2 && v[0].has_value && !v[0].is_set && !v[1].has_value);
    CU_ASSERT_STRING_EQUAL(v[0].names[1], "a b");
    wn_values_free(v, 4);
    v = bind_to(
        &of_lists,
        "{names: [x, 5, yy], roles: [7], factors: {prefill: {a: 7.5, b: 2}, decode: {a: 1}}}",
        WN_OK);
    CU_ASSERT_PTR_NOT_NULL_FATAL(v);
    CU_ASSERT_EQUAL_FATAL(v[0].count, 3);
    CU_ASSERT_STRING_EQUAL(v[0].names[0], "x");
    CU_ASSERT_STRING_EQUAL(v[0].names[1], "5");
    CU_ASSERT_STRING_EQUAL(v[0].names[2], "yy");
    CU_ASSERT_EQUAL_FATAL(v[1].count, 3);
    CU_ASSERT_STRING_EQUAL(v[1].names[0], "prefill.a");
    CU_ASSERT_STRING_EQUAL(v[1].names[2], "decode.a");
    CU_ASSERT(v[1].numbers[0] == 7.5 && v[1].numbers[1] == 2 && v[1].numbers[2] == 1);
    CU_ASSERT(v[0].numbers == NULL && v[0].list == NULL && v[1].list == NULL);
    CU_ASSERT(v[2].count == 1 && v[2].list[0] == 7 && v[2].names == NULL);
    CU_ASSERT_STRING_EQUAL(v[3].s, "a * exp(b * x)");
    wn_values_free(v, 4);
    v = bind_to(&of_lists, "{names: []}", WN_OK);
    CU_ASSERT(v != NULL && v[0].count == 0 && v[0].is_set && v[0].has_value);
    wn_values_free(v, 4);
}

static void bad_lists_and_maps_are_named(void)
{
    bind_to(&of_lists, "{names: x, factors: {a: -1}}", WN_ECONFIG);
    CU_ASSERT_STRING_EQUAL(reasons.text,
                           "f:1:9: \"names\" is x: expected a list of words ([a, b])\n"
                           "f:1:25: \"factors.a\" is -1: expected a number of at least 0");
    bind_to(&of_lists, "{names: [x, [y], null]}", WN_ECONFIG);
    CU_ASSERT_STRING_EQUAL(reasons.text, "f:1:13: \"names\" is a list: expected a word\n"
                                         "f:1:18: \"names\" is null: expected a word");
    wn_reasons_clear(&reasons);
}

/* A plugin of a later minor version has longer fields. */
static void longer_fields_are_stepped_over(void)
{
    struct longer {
        wn_config_field field;
        uint64_t later;
    } own[2] = {{FIELD(WN_FIELD_INT, "a", "1", 0, 9, .reserved = 0), 0},
                {FIELD(WN_FIELD_INT, "b", "2", 0, 9, .reserved = 0), 0}};
    own[0].field.struct_size = own[1].field.struct_size = sizeof own[0];
    const wn_config_interface its = {
        .struct_size = WN_SIZEOF(wn_config_interface), .num_fields = 2, .fields = &own[0].field};
    wn_value *v = bind_to(&its, "{b: 7}", WN_OK);
    CU_ASSERT(v != NULL && v[0].i == 1 && v[1].i == 7);
    wn_values_free(v, 2);
}

WN_SUITE("core.schema", {"defaults are filled in", defaults_are_filled_in},
         {"everything can be set", everything_can_be_set},
         {"phases are set apart", phases_are_set_apart},
         {"null stands for the default", null_stands_for_the_default},
         {"all errors are told in order", all_errors_are_told_in_order},
         {"defaults alone need nothing", defaults_alone_need_nothing},
         {"values point nowhere else", values_point_nowhere_else},
         {"lists and maps are packed", lists_and_maps_are_packed},
         {"bad lists and maps are named", bad_lists_and_maps_are_named},
         {"faulty schemas are refused", faulty_schemas_are_refused},
         {"longer fields are stepped over", longer_fields_are_stepped_over})
