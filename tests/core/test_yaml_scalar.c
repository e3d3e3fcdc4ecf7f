/* Scalars as values. */
#include "tests/suite.h"

#include "core/yaml_scalar.h"

#include <locale.h>
#include <math.h>
#include <string.h>

static wn_arena arena;
static wn_findings findings;
static wn_reason_list told;

static const wn_yaml_node *node_of(const char *text)
{
    char file[300];
    snprintf(file, sizeof file, "[%s]", text);
    wn_arena_free(&arena);
    const wn_yaml_node *root = wn_yaml_parse(file, strlen(file), &arena, &findings);
    CU_ASSERT_PTR_NOT_NULL_FATAL(root);
    CU_ASSERT_PTR_NOT_NULL_FATAL(root->items);
    return root->items->value;
}

/* What the latest reader said. */
static const char *said(void)
{
    wn_reasons_clear(&told);
    wn_findings_tell(&findings, "f", &told);
    return told.text == NULL ? "" : told.text;
}

static int reads_int(const char *text, int64_t expected)
{
    int64_t value = 99;
    int ok = wn_read_int(node_of(text), "k", -INFINITY, INFINITY, "", &findings, &value);
    CU_ASSERT_EQUAL(said()[0] == '\0', ok);
    return ok && value == expected;
}

static void integers_are_decimal(void)
{
    int64_t value;
    CU_ASSERT(reads_int("0", 0) && reads_int("-0", 0) && reads_int("+7", 7));
    CU_ASSERT(reads_int("2048", 2048) && reads_int("-12", -12) && reads_int("007", 7));
    CU_ASSERT(reads_int("9223372036854775807", INT64_MAX));
    CU_ASSERT(reads_int("-9223372036854775808", INT64_MIN));
    static const char *const others[] = {
        "1.5",
        "2048.0",
        "2e3",
        "0x10",
        "0o17",
        "1_000",
        "'5'",
        "\"5\"",
        "true",
        "~",
        "a",
        "-",
        "+",
        "1 2",
        "--1",
        "9223372036854775808",
        "-9223372036854775809",
        "[5]",
        "{a: 5}",
        "00000000000000000000000000000000000000000000000000000000000000000000000000000001"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        CU_ASSERT_FALSE(
            wn_read_int(node_of(others[i]), "k", -INFINITY, INFINITY, "", &findings, &value));
        CU_ASSERT_STRING_NOT_EQUAL(said(), "");
    }
}

static void numbers_are_finite(void)
{
    static const struct {
        const char *text;
        double value;
    } good[] = {{"1", 1},       {"-1.5", -1.5}, {".5", 0.5},     {"5.", 5},
                {"+2e3", 2000}, {"1E-2", 0.01}, {"1000.0", 1e3}, {"0.0", 0},
                {"1e-400", 0},  {"-.5e+1", -5}, {"0.1", 0.1},    {"1e308", 1e308}};
    static const char *const bad[] = {"nan", ".nan", "inf", ".inf",  "-.inf", "1e999", ".",   "e5",
                                      "1e",  "1e+",  "1,5", "0x1p3", "'1'",   "1.2.3", "true"};
    double value;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        value = 99;
        CU_ASSERT(
            wn_read_float(node_of(good[i].text), "k", -INFINITY, INFINITY, "", &findings, &value));
        CU_ASSERT_EQUAL(value, good[i].value);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (strchr(bad[i], ',') == NULL) {
            CU_ASSERT_FALSE(
                wn_read_float(node_of(bad[i]), "k", -INFINITY, INFINITY, "", &findings, &value));
            CU_ASSERT_STRING_NOT_EQUAL(said(), "");
        }
}

/* Where the machine has such a locale. */
static void numbers_do_not_follow_the_locale(void)
{
    static const char *const names[] = {"de_DE.UTF-8", "de_DE", "fr_FR.UTF-8", "fr_FR"};
    double value = 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (setlocale(LC_ALL, names[i]) != NULL)
            break;
    CU_ASSERT(wn_read_float(node_of("0.5"), "k", 0, 1, "", &findings, &value));
    CU_ASSERT_EQUAL(value, 0.5);
    setlocale(LC_ALL, "C");
}

static void truth_has_two_words(void)
{
    int64_t value = 9;
    CU_ASSERT(wn_read_bool(node_of("true"), "k", &findings, &value) && value == 1);
    CU_ASSERT(wn_read_bool(node_of("False"), "k", &findings, &value) && value == 0);
    CU_ASSERT(wn_read_bool(node_of("TRUE"), "k", &findings, &value) && value == 1);
    static const char *const others[] = {"yes", "no", "on", "off", "1", "0", "y", "tRUE", "'true'"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        CU_ASSERT_FALSE(wn_read_bool(node_of(others[i]), "k", &findings, &value));
        CU_ASSERT_PTR_NOT_NULL(strstr(said(), "expected true or false"));
    }
}

static void nothing_and_null_differ(void)
{
    CU_ASSERT(wn_yaml_is_null(node_of("~")) && wn_yaml_is_null(node_of("null")));
    CU_ASSERT_FALSE(wn_yaml_is_null(node_of("'null'")));
    CU_ASSERT_FALSE(wn_yaml_is_null(node_of("{a: }")->items->value));
    CU_ASSERT(wn_yaml_is_empty(node_of("{a: }")->items->value));
    CU_ASSERT_FALSE(wn_yaml_is_empty(node_of("''")));
}

static void messages_say_what_was_expected(void)
{
    static const char *const names[] = {"exact", "page", "none", NULL};
    int64_t i;
    double f;
    const char *s;
    wn_read_int(node_of("0"), "topk", 1, 4096, "tokens", &findings, &i);
    CU_ASSERT_STRING_EQUAL(said(), "f:1:2: \"topk\" is 0: expected an integer from 1 to 4096 "
                                   "(tokens)");
    wn_read_int(node_of("4097"), "topk", 1, 4096, "", &findings, &i);
    CU_ASSERT_STRING_EQUAL(said(), "f:1:2: \"topk\" is 4097: expected an integer from 1 to 4096");
    wn_read_int(node_of("\"5\""), "topk", 1, INFINITY, NULL, &findings, &i);
    CU_ASSERT_STRING_EQUAL(said(), "f:1:2: \"topk\" is \"5\": expected an integer of at least 1, "
                                   "without quotes");
    wn_read_float(node_of("2"), "x", -INFINITY, 0.5, "", &findings, &f);
    CU_ASSERT_STRING_EQUAL(said(), "f:1:2: \"x\" is 2: expected a number of at most 0.5");
    wn_read_float(node_of("[1]"), "x", -INFINITY, INFINITY, "", &findings, &f);
    CU_ASSERT_STRING_EQUAL(said(), "f:1:2: \"x\" is a list: expected a number");
    wn_read_string(node_of("{a: }")->items->value, "x", &findings, &s);
    CU_ASSERT_STRING_EQUAL(said(), "f:1:6: \"x\" has no value: expected a word");
    wn_read_enum(node_of("pge"), "g", names, &findings, &i);
    CU_ASSERT_STRING_EQUAL(said(), "f:1:2: \"g\" is pge: expected exact, page or none (did you "
                                   "mean \"page\"?)");
    wn_read_enum(node_of("{}"), "g", names, &findings, &i);
    CU_ASSERT_STRING_EQUAL(said(), "f:1:2: \"g\" is a mapping: expected exact, page or none");
}

static void words_are_read(void)
{
    static const char *const names[] = {"exact", "page", NULL};
    const char *s = NULL;
    int64_t i = 9;
    CU_ASSERT(wn_read_string(node_of("fp8"), "k", &findings, &s));
    CU_ASSERT_STRING_EQUAL(s, "fp8");
    CU_ASSERT(wn_read_string(node_of("16"), "k", &findings, &s));
    CU_ASSERT_STRING_EQUAL(s, "16");
    CU_ASSERT_FALSE(wn_read_string(node_of("~"), "k", &findings, &s));
    CU_ASSERT_FALSE(wn_read_string(node_of("''"), "k", &findings, &s));
    CU_ASSERT(wn_read_enum(node_of("page"), "k", names, &findings, &i) && i == 1);
    CU_ASSERT(wn_read_enum(node_of("\"exact\""), "k", names, &findings, &i) && i == 0);
    said();
    wn_reasons_clear(&told);
    wn_arena_free(&arena);
}

WN_SUITE("core.yaml_scalar", {"integers are decimal", integers_are_decimal},
         {"numbers are finite", numbers_are_finite},
         {"numbers do not follow the locale", numbers_do_not_follow_the_locale},
         {"truth has two words", truth_has_two_words},
         {"nothing and null differ", nothing_and_null_differ},
         {"messages say what was expected", messages_say_what_was_expected},
         {"words are read", words_are_read})
