/* test_number_map.c: nested mappings become flat lists of names and numbers. */
#include "tests/suite.h"

#include "core/number_map.h"

#include <math.h>
#include <string.h>

static const wn_config_field field = {.struct_size = WN_SIZEOF(wn_config_field),
                                      .type = WN_FIELD_NUMBER_MAP,
                                      .name = "factors",
                                      .unit = "",
                                      .least = -10,
                                      .greatest = INFINITY};
static wn_arena arena;
static wn_findings findings;

/* Text of all findings; "" for none. */
static const char *read(const char *text, wn_value *value, int expected)
{
    static wn_reason_list reasons;
    wn_reasons_clear(&reasons);
    memset(value, 0, sizeof *value);
    const wn_yaml_node *node = wn_yaml_parse(text, strlen(text), &arena, &findings);
    CU_ASSERT_PTR_NOT_NULL_FATAL(node);
    CU_ASSERT_EQUAL(wn_number_map_read(&field, node, &arena, &findings, value), expected);
    CU_ASSERT_EQUAL(findings.count == 0, expected);
    wn_findings_tell(&findings, "f", &reasons);
    return reasons.text != NULL ? reasons.text : "";
}

static void check_list(const wn_value *value, uint32_t count, const char *const *names,
                       const double *numbers)
{
    CU_ASSERT_EQUAL_FATAL(value->count, count);
    for (uint32_t i = 0; i < count; i++) {
        CU_ASSERT_STRING_EQUAL(value->names[i], names[i]);
        CU_ASSERT_EQUAL(value->numbers[i], numbers[i]);
    }
}

static void levels_are_joined_by_points(void)
{
    wn_value value;
    read("{prefill: {a: 7.93, b: 8.61e0}, decode: {a: 0.12, deep: {er: -3}}, z: 1}", &value, 1);
    check_list(&value, 5,
               (const char *[]){"prefill.a", "prefill.b", "decode.a", "decode.deep.er", "z"},
               (double[]){7.93, 8.61, 0.12, -3, 1});
    read("b: 2\na: 1\nnone: null\n", &value, 1);
    check_list(&value, 2, (const char *[]){"b", "a"}, (double[]){2, 1});
    read("{one: &x {a: 1}, two: *x}", &value, 1);
    check_list(&value, 2, (const char *[]){"one.a", "two.a"}, (double[]){1, 1});
    wn_arena_free(&arena);
}

static void expect(const char *text, const char *expected)
{
    wn_value value;
    const char *found = read(text, &value, 0);
    CU_ASSERT_STRING_EQUAL(found, expected);
    if (strcmp(found, expected) != 0)
        printf("\n  %s\n  %s\n", expected, found);
    wn_arena_free(&arena);
}

static void what_is_wrong_is_named_in_full(void)
{
    expect("5", "f:1:1: \"factors\" is 5: expected a mapping of numbers ({a: 1, b: 2})");
    expect("[1]", "f:1:1: \"factors\" is a list: expected a mapping of numbers ({a: 1, b: 2})");
    expect("{}", "f:1:1: \"factors\" is a mapping: expected a mapping of numbers ({a: 1, b: 2})");
    expect("{a: null}",
           "f:1:1: \"factors\" is a mapping: expected a mapping of numbers ({a: 1, b: 2})");
    expect("{a: 1, b: {c: x, d: -11}, e: {}}",
           "f:1:15: \"factors.b.c\" is x: expected a number of at least -10\n"
           "f:1:21: \"factors.b.d\" is -11: expected a number of at least -10\n"
           "f:1:30: \"factors.e\" is a mapping: expected a number of at least -10");
    expect("{a: [1]}", "f:1:5: \"factors.a\" is a list: expected a number of at least -10");
    expect("{b: {a.c: 1}}", "f:1:6: key \"a.c\" in \"factors.b\": expected a word without points, "
                            "which separate levels");
    expect("{\"\": 1}", "f:1:2: key \"\" in \"factors\": expected a word without points, which "
                        "separate levels");
}

static void levels_and_names_are_bounded(void)
{
    char text[600] = "{";
    wn_value value;
    read("{a: {a: {a: {a: {a: {a: {a: {a: 1}}}}}}}}", &value, 1); /* eight */
    check_list(&value, 1, (const char *[]){"a.a.a.a.a.a.a.a"}, (double[]){1});
    expect("{a: {a: {a: {a: {a: {a: {a: {a: {a: 1}}}}}}}}}",
           "f:1:33: \"factors.a.a.a.a.a.a.a.a\" is nested too deeply: expected at most 8 levels");
    memset(text + 1, 'k', 247); /* with "factors." 255: the longest that fits */
    strcpy(text + 248, ": 1}");
    read(text, &value, 1);
    CU_ASSERT(value.count == 1 && strlen(value.names[0]) == 247);
    memset(text + 1, 'k', 248);
    strcpy(text + 249, ": 1}");
    const char *found = read(text, &value, 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(found, "expected at most 255 bytes with all its levels"));
    wn_arena_free(&arena);
}

WN_SUITE("core.number_map", {"levels are joined by points", levels_are_joined_by_points},
         {"what is wrong is named in full", what_is_wrong_is_named_in_full},
         {"levels and names are bounded", levels_and_names_are_bounded})
