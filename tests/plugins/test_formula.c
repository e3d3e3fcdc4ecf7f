/* test_formula.c: expressions of calibrated models: values, precedence, every error with its
 * column, depth, and another locale than C. */
#include "plugins/skip_softmax/formula.h"
#include "suite.h"

#include <locale.h>
#include <math.h>
#include <string.h>

/* The value with a = 3, b = 0.5 and target_sparsity = 0.25; NaN with the text in problem. */
static char problem[FORMULA_TEXT];

static double value_of(const char *text)
{
    formula_name names[] = {{"a", 3, 0}, {"b", 0.5, 0}, {"target_sparsity", 0.25, 0}};
    double value;
    problem[0] = '\0';
    return formula_evaluate(text, names, 3, &value, problem) ? value : (double)NAN;
}

static void values(void)
{
    static const struct {
        const char *text;
        double value;
    } cases[] = {
        {"1", 1},
        {" 1 + 2 * 3 ", 7},
        {"(1 + 2) * 3", 9},
        {"7 - 2 - 1", 4},
        {"12 / 3 / 2", 2},
        {"2 - -1", 3},
        {"--2", 2},
        {"+2", 2},
        {"-2^2", -4},
        {"(-2)^2", 4},
        {"2^3^2", 512},
        {"2**3**2", 512},
        {"2 ** 3 * 2", 16},
        {"2^-1", 0.5},
        {"-2*3", -6},
        {"2*-3", -6},
        {".5 + 5.", 5.5},
        {"1e3", 1000},
        {"1.5E-1", 0.15},
        {"1e+2", 100},
        {"a", 3},
        {"a*b", 1.5},
        {"a * target_sparsity", 0.75},
        {"min(a, b) + max(a, b)", 3.5},
        {"sqrt(16) + pow(2, 3)", 12},
        {"log(exp(1))", 1},
        {"((((((((((1))))))))))", 1},
        {"\t1\n", 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const double value = value_of(cases[i].text);
        if (value != cases[i].value)
            fprintf(stderr, "%s is %.17g: %s\n", cases[i].text, value, problem);
        CU_ASSERT_EQUAL(value, cases[i].value);
    }
    CU_ASSERT_EQUAL(value_of("a * exp(b * target_sparsity)"), 3 * exp(0.5 * 0.25));
    CU_ASSERT_EQUAL(value_of("a / (1 - target_sparsity) ^ 1.2589"), 3 / pow(0.75, 1.2589));
}

/* Numbers are the doubles that strtod reads. */
static void numbers(void)
{
    static const char *const texts[] = {"7.93",
                                        "8.61",
                                        "0.1196",
                                        "9.857",
                                        "437.7",
                                        "1e-7",
                                        "1e22",
                                        "1e23",
                                        "123456789012345678901",
                                        "0.1",
                                        "0.3",
                                        "1e308",
                                        "5e-324",
                                        "2.2250738585072014e-308",
                                        "0e9999",
                                        "0.000000000000000000000001",
                                        "9007199254740993"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        CU_ASSERT_DOUBLE_EQUAL(value_of(texts[i]) / (strtod(texts[i], NULL) + 1e-320),
                               strtod(texts[i], NULL) / (strtod(texts[i], NULL) + 1e-320), 4e-16);
    CU_ASSERT_EQUAL(value_of("7.93"), 7.93);
    CU_ASSERT_EQUAL(value_of("0.1196"), 0.1196);
    CU_ASSERT_EQUAL(value_of("4.2997e-07"), 4.2997e-07);
    CU_ASSERT_EQUAL(value_of("1e400"), INFINITY); /* the caller refuses it */
    CU_ASSERT_EQUAL(value_of("1e-400"), 0);
}

static void not_numbers(void)
{
    CU_ASSERT(isnan(value_of("log(0 - 1)")) && problem[0] == '\0');
    CU_ASSERT(isnan(value_of("min(1, log(0 - 1))")) && problem[0] == '\0');
    CU_ASSERT_EQUAL(value_of("1 / 0"), INFINITY);
    CU_ASSERT_EQUAL(value_of("log(0)"), -INFINITY);
}

static void errors(void)
{
    static const struct {
        const char *text, *problem;
    } cases[] = {
        {"", "column 1: the formula ends where a number or a name should be"},
        {"1 +", "column 4: the formula ends where a number or a name should be"},
        {"1 2", "column 3: expected an operator"},
        {"2exp(1)", "column 2: expected an operator"},
        {"1e", "column 2: expected an operator"},
        {"1,5", "column 2: expected an operator"},
        {"(1", "column 3: expected \")\""},
        {"1)", "column 2: expected an operator"},
        {"a * * b", "column 5: expected a number, a name or \"(\""},
        {"a $ b", "column 3: expected an operator"},
        {".", "column 1: a decimal point without digits"},
        {"exp()", "column 5: expected a number, a name or \"(\""},
        {"exp(1, 2)", "column 6: expected \")\""},
        {"pow(2)", "column 6: expected \",\": pow takes two numbers"},
        {"min(1, 2, 3)", "column 9: expected \")\""},
        {"2 * sin(1)",
         "column 5: no function is called sin: there are exp, log, sqrt, pow, min, max"},
        {"a(1)", "column 1: no function is called a: there are exp, log, sqrt, pow, min, max"},
        {"c", "no value for c (column 1)"},
        {"c * exp(d * target_sparsity) + c + a", "no value for c (column 1), d (column 9)"},
        {"__import__('os')",
         "column 1: no function is called __import__: there are exp, log, sqrt, pow, min, max"},
        {"c * (", "column 6: the formula ends where a number or a name should be"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        CU_ASSERT(isnan(value_of(cases[i].text)));
        if (strcmp(problem, cases[i].problem) != 0)
            fprintf(stderr, "%s: %s\n", cases[i].text, problem);
        CU_ASSERT_STRING_EQUAL(problem, cases[i].problem);
    }
}

/* Nesting is bounded by count, not by the stack; length is not bounded. */
static void depth(void)
{
    enum { LONG = 200000 };
    char *text = malloc(LONG + 2);
    memset(text, '(', LONG);
    text[LONG] = '\0';
    CU_ASSERT(isnan(value_of(text)));
    CU_ASSERT_STRING_EQUAL(problem, "column 65: nested deeper than 64 levels");
    memset(text, '-', LONG);
    CU_ASSERT(isnan(value_of(text)));
    CU_ASSERT_STRING_EQUAL(problem, "column 65: nested deeper than 64 levels");
    for (int i = 0; i < LONG; i += 2)
        memcpy(text + i, "1^", 2);
    CU_ASSERT(isnan(value_of(text)));
    for (int i = 0; i < LONG; i += 2)
        memcpy(text + i, "1+", 2);
    text[LONG] = '1';
    text[LONG + 1] = '\0';
    CU_ASSERT_EQUAL(value_of(text), LONG / 2 + 1);
    memset(text, 'x', LONG); /* a name far longer than any message */
    CU_ASSERT(isnan(value_of(text)));
    CU_ASSERT(strlen(problem) < FORMULA_TEXT);
    text[LONG - 1] = '(';
    CU_ASSERT(isnan(value_of(text)));
    free(text);
    strcpy((text = malloc(FORMULA_DEPTH * 2 + 2)), "");
    for (int i = 0; i < FORMULA_DEPTH - 1; i++)
        strcat(text, "(");
    strcat(text, "1");
    for (int i = 0; i < FORMULA_DEPTH - 1; i++)
        strcat(text, ")");
    CU_ASSERT_EQUAL(value_of(text), 1); /* as deep as can be */
    free(text);
}

static void marks_what_it_uses(void)
{
    formula_name names[] = {{"a", 1, 7}, {"b", 2, 7}, {"c", 3, 7}};
    double value;
    CU_ASSERT(formula_evaluate("c + a", names, 3, &value, problem));
    CU_ASSERT(names[0].is_used == 1 && names[1].is_used == 0 && names[2].is_used == 1);
    CU_ASSERT_EQUAL(value, 4);
}

/* Where decimals have a comma, formulas still have a point. */
static void locale(void)
{
    static const char *const commas[] = {"de_DE.UTF-8", "fr_FR.UTF-8", "de_DE", "C.UTF-8"};
    for (size_t i = 0; i < sizeof commas / sizeof commas[0]; i++)
        if (setlocale(LC_ALL, commas[i]) != NULL)
            break;
    CU_ASSERT_EQUAL(value_of("1.5 * 2"), 3);
    CU_ASSERT(isnan(value_of("pow(1,5;2)")));
    setlocale(LC_ALL, "C");
}

/* Rubbish never does more than fail. */
static void damaged_texts(void)
{
    static const char letters[] = "ab12.e+-*/^(), \tminexp\xff";
    uint64_t seed = wn_test_seed();
    for (int i = 0; i < 20000; i++) {
        char text[40];
        const uint32_t length = wn_random_below(&seed, sizeof text);
        for (uint32_t j = 0; j < length; j++)
            text[j] = letters[wn_random_below(&seed, sizeof letters - 1)];
        text[length] = '\0';
        const double value = value_of(text);
        CU_ASSERT(problem[0] == '\0' || isnan(value));
    }
}

WN_SUITE("plugins.formula", {"values", values}, {"numbers", numbers}, {"not numbers", not_numbers},
         {"errors", errors}, {"depth", depth}, {"marks what it uses", marks_what_it_uses},
         {"locale", locale}, {"damaged texts", damaged_texts})
