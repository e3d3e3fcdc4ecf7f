/* yaml_scalar.c: scalars as values. Numbers are recognised by hand and converted in the C locale,
 * whatever the host's locale is: "0.5" is a half in a program that writes "0,5". */
#include "core/yaml_scalar.h"

#include "core/nearest_key.h"
#include "core/quote.h"

#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST_NUMBER = 64, EXPECTED_BYTES = 400 };

static int is_plain(const wn_yaml_node *node)
{
    return node->kind == WN_YAML_SCALAR && node->plain;
}

static int is_one_of(const char *text, const char *const *words)
{
    for (; *words != NULL; words++)
        if (strcmp(text, *words) == 0)
            return 1;
    return 0;
}

int wn_yaml_is_empty(const wn_yaml_node *node)
{
    return is_plain(node) && node->text[0] == '\0';
}

int wn_yaml_is_null(const wn_yaml_node *node)
{
    static const char *const nulls[] = {"~", "null", "Null", "NULL", NULL};
    return is_plain(node) && is_one_of(node->text, nulls);
}

/* ---------------------------------------------------------------- numbers */

static const char *after_digits(const char *text)
{
    while (*text >= '0' && *text <= '9')
        text++;
    return text;
}

static const char *after_sign(const char *text)
{
    return text + (*text == '-' || *text == '+');
}

int wn_yaml_is_integer(const wn_yaml_node *node)
{
    if (!is_plain(node) || strlen(node->text) > LONGEST_NUMBER)
        return 0;
    const char *digits = after_sign(node->text), *end = after_digits(digits);
    return end > digits && *end == '\0';
}

/* [-+] ( . digits | digits [ . [digits] ] ) [ e [-+] digits ] */
static int is_number(const char *text)
{
    const char *digits = after_sign(text), *end = after_digits(digits);
    if (strlen(text) > LONGEST_NUMBER)
        return 0;
    int has_digits = end > digits;
    if (*end == '.') {
        const char *fraction = end + 1;
        end = after_digits(fraction);
        has_digits |= end > fraction;
    }
    if (!has_digits)
        return 0;
    if (*end == 'e' || *end == 'E') {
        const char *exponent = after_sign(end + 1);
        end = after_digits(exponent);
        if (end == exponent)
            return 0;
    }
    return *end == '\0';
}

/* 0 if it does not fit. */
static int integer_of(const char *text, int64_t *out)
{
    int negative = *text == '-';
    uint64_t limit = (uint64_t)INT64_MAX + (uint64_t)negative, value = 0;
    for (const char *c = after_sign(text); *c != '\0'; c++) {
        uint64_t digit = (uint64_t)(*c - '0');
        if (value > (limit - digit) / 10)
            return 0;
        value = value * 10 + digit;
    }
    *out = !negative ? (int64_t)value : value == 0 ? 0 : -(int64_t)(value - 1) - 1;
    return 1;
}

static double number_of(const char *text)
{
    locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (c == (locale_t)0)
        return strtod(text, NULL);
    double value = strtod_l(text, NULL, c);
    freelocale(c);
    return value;
}

/* ---------------------------------------------------------------- messages */

void wn_find_mismatch(wn_findings *findings, const wn_yaml_node *node, const char *key,
                      const char *expected)
{
    char quoted_key[WN_QUOTE_BYTES], quoted[WN_QUOTE_BYTES];
    const char *is = " is ", *value = quoted;
    if (node->kind == WN_YAML_SEQUENCE)
        value = "a list";
    else if (node->kind == WN_YAML_MAPPING)
        value = "a mapping";
    else if (wn_yaml_is_empty(node)) {
        is = " has no value";
        value = "";
    } else if (node->plain)
        wn_clip(quoted, node->text);
    else
        wn_quote(quoted, node->text);
    wn_finding_add(findings, node->line, node->column, "%s%s%s: expected %s",
                   wn_quote(quoted_key, key), is, value, expected);
}

/* The same for a number; a quoted number is the likely slip. */
static void find_no_number(wn_findings *findings, const wn_yaml_node *node, const char *key,
                           char expected[EXPECTED_BYTES])
{
    if (node->kind == WN_YAML_SCALAR && !node->plain && is_number(node->text))
        strncat(expected, ", without quotes", EXPECTED_BYTES - strlen(expected) - 1);
    wn_find_mismatch(findings, node, key, expected);
}

/* A number without a decimal point where it has none, in any locale of the size that matters. */
static void write_limit(char *out, size_t bytes, double limit)
{
    if (limit == floor(limit) && fabs(limit) < 1e15)
        snprintf(out, bytes, "%lld", (long long)limit);
    else
        snprintf(out, bytes, "%.15g", limit);
}

/* "an integer from 1 to 4096 (tokens)" */
static void write_expected(char out[EXPECTED_BYTES], const char *what, double least,
                           double greatest, const char *unit)
{
    char low[40], high[40], range[100] = "";
    int has_low = least > -9.2e18, has_high = greatest < 9.2e18;
    write_limit(low, sizeof low, least);
    write_limit(high, sizeof high, greatest);
    if (has_low && has_high)
        snprintf(range, sizeof range, " from %s to %s", low, high);
    else if (has_low)
        snprintf(range, sizeof range, " of at least %s", low);
    else if (has_high)
        snprintf(range, sizeof range, " of at most %s", high);
    if (unit == NULL || *unit == '\0')
        snprintf(out, EXPECTED_BYTES, "%s%s", what, range);
    else
        snprintf(out, EXPECTED_BYTES, "%s%s (%.60s)", what, range, unit);
}

/* ---------------------------------------------------------------- readers */

int wn_read_int(const wn_yaml_node *node, const char *key, double least, double greatest,
                const char *unit, wn_findings *findings, int64_t *out)
{
    int64_t value;
    if (wn_yaml_is_integer(node) && integer_of(node->text, &value) && (double)value >= least &&
        (double)value <= greatest) {
        *out = value;
        return 1;
    }
    char expected[EXPECTED_BYTES];
    write_expected(expected, "an integer", least, greatest, unit);
    find_no_number(findings, node, key, expected);
    return 0;
}

int wn_read_float(const wn_yaml_node *node, const char *key, double least, double greatest,
                  const char *unit, wn_findings *findings, double *out)
{
    if (is_plain(node) && is_number(node->text)) {
        double value = number_of(node->text);
        if (isfinite(value) && value >= least && value <= greatest) {
            *out = value;
            return 1;
        }
    }
    char expected[EXPECTED_BYTES];
    write_expected(expected, "a number", least, greatest, unit);
    find_no_number(findings, node, key, expected);
    return 0;
}

int wn_read_bool(const wn_yaml_node *node, const char *key, wn_findings *findings, int64_t *out)
{
    static const char *const yes[] = {"true", "True", "TRUE", NULL};
    static const char *const no[] = {"false", "False", "FALSE", NULL};
    if (is_plain(node) && (is_one_of(node->text, yes) || is_one_of(node->text, no))) {
        *out = is_one_of(node->text, yes);
        return 1;
    }
    wn_find_mismatch(findings, node, key, "true or false");
    return 0;
}

int wn_read_string(const wn_yaml_node *node, const char *key, wn_findings *findings,
                   const char **out)
{
    if (node->kind == WN_YAML_SCALAR && node->text[0] != '\0' && !wn_yaml_is_null(node)) {
        *out = node->text;
        return 1;
    }
    wn_find_mismatch(findings, node, key, "a word");
    return 0;
}

/* "a, b or c" */
static void write_names(char out[EXPECTED_BYTES], const char *const *names)
{
    size_t used = 0;
    out[0] = '\0';
    for (uint32_t i = 0; names[i] != NULL && used < EXPECTED_BYTES; i++) {
        const char *joint = i == 0 ? "" : names[i + 1] == NULL ? " or " : ", ";
        used += (size_t)snprintf(out + used, EXPECTED_BYTES - used, "%s%s", joint, names[i]);
    }
}

int wn_read_enum(const wn_yaml_node *node, const char *key, const char *const *names,
                 wn_findings *findings, int64_t *out)
{
    wn_nearest nearest = wn_nearest_begin(node->kind == WN_YAML_SCALAR ? node->text : "");
    for (int64_t i = 0; names[i] != NULL; i++) {
        if (node->kind == WN_YAML_SCALAR && strcmp(node->text, names[i]) == 0) {
            *out = i;
            return 1;
        }
        wn_nearest_try(&nearest, names[i]);
    }
    char expected[EXPECTED_BYTES + WN_HINT_BYTES], hint[WN_HINT_BYTES];
    write_names(expected, names);
    strcat(expected, wn_nearest_hint(&nearest, hint));
    wn_find_mismatch(findings, node, key, expected);
    return 0;
}
