/* Layer rules: patterns, ranges, classes, and who wins. */
#include "tests/suite.h"

#include "core/layer_rules.h"

#include <string.h>
#include <time.h>

static wn_arena arena;
static wn_layer_rules rules;
static wn_reason_list errors, notes;

static void add(const char *text, uint32_t enable)
{
    wn_findings found = {0}, noted = {0};
    const wn_yaml_node *node = wn_yaml_parse(text, strlen(text), &arena, &found);
    CU_ASSERT_PTR_NOT_NULL_FATAL(node);
    wn_layer_rules_read(&rules, node, enable ? "layers" : "ignore", enable, &arena, &found, &noted);
    wn_findings_tell(&found, "f", &errors);
    wn_findings_tell(&noted, "f", &notes);
}

static void reset(void)
{
    wn_arena_free(&arena);
    wn_reasons_clear(&errors);
    wn_reasons_clear(&notes);
    rules = (wn_layer_rules){0};
}

/* The layers of 0 .. 15 that are on, as bits. */
static uint32_t on_layers(void)
{
    uint32_t on = 0;
    for (uint32_t layer = 0; layer < 16; layer++)
        on |= (uint32_t)wn_layer_rules_match(&rules, layer) << layer;
    return on;
}

static void check(const char *layers, const char *ignore, uint32_t expected)
{
    reset();
    if (layers != NULL)
        add(layers, 1);
    if (ignore != NULL)
        add(ignore, 0);
    CU_ASSERT_EQUAL(errors.count, 0);
    CU_ASSERT_EQUAL(on_layers(), expected);
    if (on_layers() != expected)
        printf("\n  %s / %s: %x, not %x\n", layers != NULL ? layers : "-",
               ignore != NULL ? ignore : "-", on_layers(), expected);
    reset();
}

static void patterns_match_each_name(void)
{
    check(NULL, NULL, 0xffff);
    check("'*'", NULL, 0xffff);
    check("layers.3", NULL, 1 << 3);
    check("model.layers.3", NULL, 1 << 3);
    check("layers.3.self_attn", NULL, 1 << 3);
    check("model.layers.3.self_attn", NULL, 1 << 3);
    check("layers.3.attention", NULL, 1 << 3);
    check("model.layers.3.attention", NULL, 1 << 3);
    check("'*layers.1?*'", NULL, 0xfc02); /* 10 .. 15, and "layers.1." */
    check("'*.1.*'", NULL, 1 << 1);
    check("'layers.[!0-7]'", NULL, 0x0300);
    check("layers.99", NULL, 0);
    check("mlp", NULL, 0);
}

static void ranges_mean_numbers(void)
{
    check("'layers.[0..12]'", NULL, 0x1fff);
    check("'*layers.[9..10]*'", NULL, 0x0600);
    check("'model.layers.[3..3].self_attn'", NULL, 1 << 3);
    check("'layers.[14..4294967295]'", NULL, 0xc000);
    check("'*[8..15].self_attn'", NULL, 0xff00);
}

static void last_match_wins(void)
{
    check("['*', {pattern: 'layers.[0..3]', enable: false}]", NULL, 0xfff0);
    check("[{pattern: 'layers.[0..3]', enable: false}, '*']", NULL, 0xffff);
    check("[layers.1, layers.2]", NULL, 0x6);
    check("[{pattern: layers.2, enable: true}]", NULL, 0x4);
}

static void without_an_enabling_rule_the_rest_is_on(void)
{
    check("[{pattern: 'layers.[0..3]', enable: false}]", NULL, 0xfff0);
    check(NULL, "[layers.0, layers.15]", 0x7ffe);
    check("'layers.[0..7]'", "layers.0", 0x00fe);
}

static void mistakes_are_errors(void)
{
    static const struct {
        const char *text, *error;
    } faults[] = {
        {"'layers.[5..2]'", "f:1:1: layer pattern \"layers.[5..2]\": its range runs backwards"},
        {"'layers.[5..x]'", "f:1:1: layer pattern \"layers.[5..x]\": a range is written "
                            "[first..last], two numbers"},
        {"'layers.[0..99999999999]'", "f:1:1: layer pattern \"layers.[0..99999999999]\": a range "
                                      "is written [first..last], two numbers"},
        {"'layers.1[0..5]'", "f:1:1: layer pattern \"layers.1[0..5]\": a range stands for the "
                             "whole number of a layer: no digit may touch it"},
        {"'layers.[0..5]0'", "f:1:1: layer pattern \"layers.[0..5]0\": a range stands for the "
                             "whole number of a layer: no digit may touch it"},
        {"'layers.[3'", "f:1:1: layer pattern \"layers.[3\": a '[' without its ']'"},
        {"'layers.[]'", "f:1:1: layer pattern \"layers.[]\": a '[' without its ']'"},
        {"'['", "f:1:1: layer pattern \"[\": a '[' without its ']'"},
        {"3", "f:1:1: layer pattern \"3\": a number matches no layer's name: write "
              "layers.[first..last]"},
        {"[]", "f:1:1: \"layers\" is an empty list: leave it out"},
        {"[[a]]", "f:1:2: \"layers\" is a list: expected a word"},
        {"[{enable: true}]", "f:1:2: a layer rule needs a pattern: {pattern: \"layers.[0..3]\", "
                             "enable: false}"},
        {"[{pattern: x, enabled: true}]",
         "f:1:15: unknown key \"enabled\" (did you mean \"enable\"?)"},
        {"[{pattern: x, enable: 1}]", "f:1:23: \"enable\" is 1: expected true or false"},
    };
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        reset();
        add(faults[i].text, 1);
        CU_ASSERT_EQUAL_FATAL(errors.count, 1);
        CU_ASSERT_STRING_EQUAL(errors.text, faults[i].error);
        if (strcmp(errors.text, faults[i].error) != 0)
            printf("\n  %s\n  %s\n", faults[i].error, errors.text);
    }
    reset();
}

static void classes_of_long_numbers_are_noted(void)
{
    reset();
    add("['layers.[0-12]', 'layers.[0-9]', 'layers.[10-12]*', 'layers.[89-91]']", 1);
    CU_ASSERT_EQUAL(errors.count, 0);
    CU_ASSERT_EQUAL_FATAL(notes.count, 3);
    CU_ASSERT_STRING_EQUAL(
        notes.text, "f:1:2: [0-12] is a character class and matches one character: 0, 1 or 2. For "
                    "layers 0 to 12 write [0..12]\n"
                    "f:1:35: [10-12] is a character class and matches one character: 0, 1 or 2. "
                    "For layers 10 to 12 write [10..12]\n"
                    "f:1:54: [89-91] is a character class and matches one character: 1, 8 or 9. "
                    "For layers 89 to 91 write [89..91]");
    reset();
}

/* Patterns made to be slow stay quick. */
static void hostile_patterns_are_quick(void)
{
    char text[300] = "'";
    clock_t begin = clock();
    for (int i = 0; i < 60; i++)
        strcat(text, "*?*a");
    strcat(text, "'");
    reset();
    add(text, 1);
    add("'********************************************************************************x'", 1);
    CU_ASSERT_EQUAL(errors.count, 0);
    CU_ASSERT_EQUAL(on_layers(), 0);
    CU_ASSERT((double)(clock() - begin) / CLOCKS_PER_SEC < 2);
    reset();
}

WN_SUITE("core.layer_rules", {"patterns match each name", patterns_match_each_name},
         {"ranges mean numbers", ranges_mean_numbers}, {"last match wins", last_match_wins},
         {"without an enabling rule the rest is on", without_an_enabling_rule_the_rest_is_on},
         {"mistakes are errors", mistakes_are_errors},
         {"classes of long numbers are noted", classes_of_long_numbers_are_noted},
         {"hostile patterns are quick", hostile_patterns_are_quick})
