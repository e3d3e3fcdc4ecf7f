/* formula.c: a recursive descent over the text that computes as it reads: there is no tree, because
 * a formula is evaluated once. Names without a value do not end the reading, so that all of them
 * can be told at once.
 *
 *   sum     = product { ("+" | "-") product }
 *   product = signed { ("*" | "/") signed }
 *   signed  = ("+" | "-") signed | power
 *   power   = primary [ ("^" | "**") signed ]
 *   primary = number | name | name "(" sum { "," sum } ")" | "(" sum ")" */
#include "formula.h"

#include "winnow/base.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MOST_MISSING = 8 };

/* A piece of the text. */
typedef struct word {
    const char *at;
    int length;
} word;

typedef struct reader {
    const char *text, *at;
    formula_name *names;
    uint32_t num_names, depth, num_missing;
    word missing[MOST_MISSING];
    int failed;
    char *problem;
} reader;

static double read_sum(reader *r);

/* The first failure stays. */
WN_PRINTF(3, 4) static double fail(reader *r, const char *at, const char *format, ...)
{
    va_list arguments;
    if (r->failed)
        return NAN;
    r->failed = 1;
    const int used = snprintf(r->problem, FORMULA_TEXT, "column %d: ", (int)(at - r->text) + 1);
    va_start(arguments, format);
    vsnprintf(r->problem + used, (size_t)(FORMULA_TEXT - used), format, arguments);
    va_end(arguments);
    return NAN;
}

static int is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static int is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static char next(reader *r)
{
    while (*r->at == ' ' || *r->at == '\t' || *r->at == '\n')
        r->at++;
    return *r->at;
}

static int take(reader *r, char c)
{
    if (next(r) != c)
        return 0;
    r->at++;
    return 1;
}

/* ---------------------------------------------------------------- numbers and names */

/* mantissa * 10^exponent. Both factors of the first case are exact, so that its one operation
 * rounds correctly. */
static double scale(uint64_t mantissa, int exponent)
{
    if (mantissa == 0)
        return 0;
    if (mantissa <= (uint64_t)1 << 53 && exponent >= -22 && exponent <= 22)
        return exponent < 0 ? (double)mantissa / pow(10, -exponent)
                            : (double)mantissa * pow(10, exponent);
    return (double)((long double)mantissa * powl(10, exponent));
}

static double read_number(reader *r)
{
    const char *start = r->at;
    uint64_t mantissa = 0;
    int exponent = 0, digits = 0, after_point = 0;
    for (;; r->at++) {
        if (*r->at == '.' && !after_point) {
            after_point = 1;
            continue;
        }
        if (!is_digit(*r->at))
            break;
        digits++;
        if (mantissa < UINT64_MAX / 10 - 1) {
            mantissa = mantissa * 10 + (uint64_t)(*r->at - '0');
            exponent -= after_point;
        } else
            exponent += !after_point; /* beyond what a double can tell apart */
    }
    if (digits == 0)
        return fail(r, start, "a decimal point without digits");
    const char *e = r->at + 1;
    if ((*r->at == 'e' || *r->at == 'E') && is_digit(e[*e == '+' || *e == '-'])) {
        const int sign = *e == '-' ? -1 : 1;
        int written = 0;
        for (e += *e == '+' || *e == '-'; is_digit(*e); e++)
            written = written < 9999 ? written * 10 + (*e - '0') : written;
        exponent += sign * written;
        r->at = e;
    }
    return scale(mantissa, exponent);
}

static int is_word(word w, const char *name)
{
    return strncmp(w.at, name, (size_t)w.length) == 0 && name[w.length] == '\0';
}

static double look_up(reader *r, word w)
{
    for (uint32_t i = 0; i < r->num_names; i++)
        if (is_word(w, r->names[i].name)) {
            r->names[i].is_used = 1;
            return r->names[i].value;
        }
    for (uint32_t i = 0; i < r->num_missing; i++)
        if (r->missing[i].length == w.length &&
            strncmp(r->missing[i].at, w.at, (size_t)w.length) == 0)
            return NAN;
    if (r->num_missing < MOST_MISSING)
        r->missing[r->num_missing++] = w;
    return NAN;
}

/* The list of names without a value. */
static void tell_missing(reader *r)
{
    int used = snprintf(r->problem, FORMULA_TEXT, "no value for");
    for (uint32_t i = 0; i < r->num_missing && used < FORMULA_TEXT; i++)
        used += snprintf(r->problem + used, (size_t)(FORMULA_TEXT - used), "%s %.*s (column %d)",
                         i > 0 ? "," : "", r->missing[i].length, r->missing[i].at,
                         (int)(r->missing[i].at - r->text) + 1);
    r->failed = 1;
}

/* ---------------------------------------------------------------- functions */

static double call(reader *r, word name)
{
    static const struct {
        const char *name;
        double (*one)(double);
        double (*two)(double, double);
    } functions[] = {{"exp", exp, NULL}, {"log", log, NULL},  {"sqrt", sqrt, NULL},
                     {"pow", NULL, pow}, {"min", NULL, fmin}, {"max", NULL, fmax}};
    enum { COUNT = sizeof functions / sizeof functions[0] };
    int which = 0;
    while (which < COUNT && !is_word(name, functions[which].name))
        which++;
    if (which == COUNT)
        return fail(r, name.at,
                    "no function is called %.*s: there are exp, log, sqrt, pow, min, max",
                    name.length < 40 ? name.length : 40, name.at);
    const double first = read_sum(r);
    if (functions[which].two != NULL && !take(r, ','))
        return fail(r, r->at, "expected \",\": %s takes two numbers", functions[which].name);
    const double second = functions[which].two != NULL ? read_sum(r) : 0;
    if (!take(r, ')'))
        return fail(r, r->at, "expected \")\"");
    if (functions[which].one != NULL)
        return functions[which].one(first);
    /* fmin and fmax would take the other number for a NaN. */
    return isnan(first) || isnan(second) ? NAN : functions[which].two(first, second);
}

static double read_name(reader *r)
{
    word w = {r->at, 0};
    while (is_letter(*r->at) || is_digit(*r->at))
        r->at++;
    w.length = (int)(r->at - w.at);
    return take(r, '(') ? call(r, w) : look_up(r, w);
}

/* ---------------------------------------------------------------- operators */

static double read_signed(reader *r);

static double read_primary(reader *r)
{
    const char c = next(r);
    if (is_digit(c) || c == '.')
        return read_number(r);
    if (is_letter(c))
        return read_name(r);
    if (!take(r, '('))
        return fail(r, r->at,
                    c == '\0' ? "the formula ends where a number or a name should be"
                              : "expected a number, a name or \"(\"");
    const double value = read_sum(r);
    return take(r, ')') ? value : fail(r, r->at, "expected \")\"");
}

static double read_power(reader *r)
{
    const double base = read_primary(r);
    if (!take(r, '^')) {
        if (next(r) != '*' || r->at[1] != '*')
            return base;
        r->at += 2;
    }
    return pow(base, read_signed(r));
}

/* Every way back into the grammar leads through here, so here the depth is counted. */
static double read_signed(reader *r)
{
    double value;
    if (r->depth == FORMULA_DEPTH)
        return fail(r, r->at, "nested deeper than %d levels", FORMULA_DEPTH);
    r->depth++;
    if (take(r, '-'))
        value = -read_signed(r);
    else
        value = take(r, '+') ? read_signed(r) : read_power(r);
    r->depth--;
    return value;
}

static double read_product(reader *r)
{
    double value = read_signed(r);
    for (;;) {
        if (take(r, '*'))
            value *= read_signed(r);
        else if (take(r, '/'))
            value /= read_signed(r);
        else
            return value;
    }
}

static double read_sum(reader *r)
{
    double value = read_product(r);
    for (;;) {
        if (r->failed)
            return NAN;
        if (take(r, '+'))
            value += read_product(r);
        else if (take(r, '-'))
            value -= read_product(r);
        else
            return value;
    }
}

int formula_evaluate(const char *text, formula_name *names, uint32_t num_names, double *value,
                     char problem[FORMULA_TEXT])
{
    reader r = {
        .text = text, .at = text, .names = names, .num_names = num_names, .problem = problem};
    for (uint32_t i = 0; i < num_names; i++)
        names[i].is_used = 0;
    *value = read_sum(&r);
    if (next(&r) != '\0')
        fail(&r, r.at, "expected an operator");
    if (!r.failed && r.num_missing > 0)
        tell_missing(&r);
    return !r.failed;
}
