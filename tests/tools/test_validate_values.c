/* test_validate_values.c: default texts as a user would write them. */
#include "suite.h"

#include "tools/validate_values.h"

#include <math.h>
#include <string.h>

static const char *const names[] = {"one", "two", NULL};
static char why[256];

static wn_status read(uint32_t type, const char *text, wn_value *value)
{
    wn_config_field field = {
        WN_SIZEOF(wn_config_field),          type, 0, 0, "f", "", "help", NULL, -10, 100,
        type == WN_FIELD_ENUM ? names : NULL};
    why[0] = '\0';
    wn_status status = wn_value_read(&field, text, value, why, sizeof why);
    CU_ASSERT_EQUAL(status == WN_OK, why[0] == '\0');
    return status;
}

static void good(void)
{
    wn_value value;
    CU_ASSERT_EQUAL(read(WN_FIELD_INT, "-7", &value), WN_OK);
    CU_ASSERT_EQUAL(value.i, -7);
    CU_ASSERT_EQUAL(read(WN_FIELD_FLOAT, "2.5", &value), WN_OK);
    CU_ASSERT_EQUAL(value.f, 2.5);
    CU_ASSERT_EQUAL(read(WN_FIELD_BOOL, "true", &value), WN_OK);
    CU_ASSERT_EQUAL(value.i, 1);
    CU_ASSERT_EQUAL(read(WN_FIELD_ENUM, "two", &value), WN_OK);
    CU_ASSERT_EQUAL(value.i, 1);
    CU_ASSERT_EQUAL(read(WN_FIELD_STRING, "text", &value), WN_OK);
    CU_ASSERT_STRING_EQUAL(value.s, "text");
    CU_ASSERT_EQUAL(value.has_value, 1);
    CU_ASSERT_EQUAL(value.is_set, 0);
}

static void phases(void)
{
    wn_value value;
    CU_ASSERT_EQUAL(read(WN_FIELD_PHASE_FLOAT, "4", &value), WN_OK);
    CU_ASSERT_EQUAL(value.phase[WN_PHASE_GENERATION], 4);
    CU_ASSERT_EQUAL(value.phase_set, 3);
    CU_ASSERT_EQUAL(read(WN_FIELD_PHASE_FLOAT, "{prefill: 1.5, decode: 2}", &value), WN_OK);
    CU_ASSERT_EQUAL(value.phase[WN_PHASE_CONTEXT], 1.5);
    CU_ASSERT_EQUAL(value.phase[WN_PHASE_GENERATION], 2);
    CU_ASSERT_EQUAL(read(WN_FIELD_PHASE_FLOAT, "{generation: 2}", &value), WN_OK);
    CU_ASSERT_EQUAL(value.phase_set, 1u << WN_PHASE_GENERATION);
    CU_ASSERT_EQUAL(read(WN_FIELD_PHASE_FLOAT, "{decode: 2", &value), WN_ECONFIG);
    CU_ASSERT_EQUAL(read(WN_FIELD_PHASE_FLOAT, "{other: 2}", &value), WN_ECONFIG);
    CU_ASSERT_EQUAL(read(WN_FIELD_PHASE_FLOAT, "{decode: 200}", &value), WN_ECONFIG);
}

static void lists(void)
{
    wn_value value;
    CU_ASSERT_EQUAL(read(WN_FIELD_INT_LIST, "[1, 2,3]", &value), WN_OK);
    CU_ASSERT_EQUAL(value.count, 3);
    CU_ASSERT_EQUAL(value.list[2], 3);
    wn_value_free(&value);
    static const char *const bad[] = {"1, 2", "[1, x]", "[1", "[1000]"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CU_ASSERT_EQUAL(read(WN_FIELD_INT_LIST, bad[i], &value), WN_ECONFIG);
        wn_value_free(&value);
    }
}

static void words_and_maps(void)
{
    wn_value value;
    CU_ASSERT_EQUAL(read(WN_FIELD_STRING_LIST, "[full, a-b]", &value), WN_OK);
    CU_ASSERT_EQUAL_FATAL(value.count, 2);
    CU_ASSERT_STRING_EQUAL(value.names[0], "full");
    CU_ASSERT_STRING_EQUAL(value.names[1], "a-b");
    wn_value_free(&value);
    CU_ASSERT_EQUAL(read(WN_FIELD_NUMBER_MAP, "{prefill: {a: 1, b: 2.5}, c: -3}", &value), WN_OK);
    CU_ASSERT_EQUAL_FATAL(value.count, 3);
    CU_ASSERT_STRING_EQUAL(value.names[1], "prefill.b");
    CU_ASSERT_EQUAL(value.numbers[1], 2.5);
    CU_ASSERT_STRING_EQUAL(value.names[2], "c");
    CU_ASSERT_EQUAL(value.numbers[2], -3);
    wn_value_free(&value);
    static const struct {
        uint32_t type;
        const char *text;
    } wrong[] = {{WN_FIELD_STRING_LIST, "a, b"},      {WN_FIELD_STRING_LIST, "[a"},
                 {WN_FIELD_STRING_LIST, "[[a]]"},     {WN_FIELD_NUMBER_MAP, "1"},
                 {WN_FIELD_NUMBER_MAP, "{a: words}"}, {WN_FIELD_NUMBER_MAP, "{a: 1"},
                 {WN_FIELD_NUMBER_MAP, "{a: {b: 1}"}, {WN_FIELD_NUMBER_MAP, "{a: 1000}"}};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        CU_ASSERT_EQUAL(read(wrong[i].type, wrong[i].text, &value), WN_ECONFIG);
        wn_value_free(&value);
    }
}

static void bad(void)
{
    wn_value value;
    CU_ASSERT_EQUAL(read(WN_FIELD_INT, "2.5", &value), WN_ECONFIG);
    CU_ASSERT_EQUAL(read(WN_FIELD_INT, "", &value), WN_ECONFIG);
    CU_ASSERT_EQUAL(read(WN_FIELD_INT, "5 pages", &value), WN_ECONFIG);
    CU_ASSERT_EQUAL(read(WN_FIELD_INT, "101", &value), WN_ECONFIG);
    CU_ASSERT_EQUAL(read(WN_FIELD_FLOAT, "nan", &value), WN_ECONFIG);
    CU_ASSERT_EQUAL(read(WN_FIELD_FLOAT, ".inf", &value), WN_ECONFIG);
    CU_ASSERT_EQUAL(read(WN_FIELD_BOOL, "yes", &value), WN_ECONFIG);
    CU_ASSERT_EQUAL(read(WN_FIELD_ENUM, "three", &value), WN_ECONFIG);
    CU_ASSERT_EQUAL(read(99, "1", &value), WN_ECONFIG);
}

static void required_fields_get_something(void)
{
    static const wn_config_field fields[] = {
        {WN_SIZEOF(wn_config_field), WN_FIELD_INT, WN_FIELD_REQUIRED, 0, "a", "", "h", NULL, 3, 9,
         NULL},
        {WN_SIZEOF(wn_config_field), WN_FIELD_ENUM, WN_FIELD_REQUIRED, 0, "b", "", "h", NULL, 0, 0,
         names},
        {WN_SIZEOF(wn_config_field), WN_FIELD_INT, 0, 0, "c", "", "h", NULL, 3, 9, NULL}};
    const wn_config_interface config = {
        .struct_size = WN_SIZEOF(wn_config_interface), .num_fields = 3, .fields = fields};
    wn_value *values = wn_trial_values(&config, why, sizeof why);
    CU_ASSERT_PTR_NOT_NULL_FATAL(values);
    CU_ASSERT_EQUAL(values[0].i, 3);
    CU_ASSERT_STRING_EQUAL(values[1].s, "one");
    CU_ASSERT_EQUAL(values[2].has_value, 0);
    wn_trial_values_free(values, 3);
}

WN_SUITE("tools.validate_values", {"good", good}, {"phases", phases}, {"lists", lists},
         {"words and maps", words_and_maps}, {"bad", bad},
         {"required fields get something", required_fields_get_something})
