/* skip_softmax_rule.c: from the keys to one lambda per phase. Three keys can say it:
 *
 *   threshold_scale_factor   lambda = this / length
 *   target_sparsity          the same, with the factor that a calibrated formula gives for it
 *   threshold                lambda = this
 *
 * At most one of them per phase: a key that another one silently beats would be worse than an
 * error. */
#include "formula.h"
#include "skip_softmax.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Coefficients that one phase may see. A formula that needs more is no calibration. */
enum { MOST_NAMES = 16 };

const char *const skip_phase_names[WN_PHASE_COUNT] = {"context", "generation"};
const char *const skip_phase_keys[WN_PHASE_COUNT] = {"prefill", "decode"};

static const struct {
    uint32_t field;
    const char *name;
} sources[] = {{THRESHOLD_SCALE_FACTOR, "threshold_scale_factor"},
               {TARGET_SPARSITY, "target_sparsity"},
               {THRESHOLD, "threshold"}};
enum { NUM_SOURCES = sizeof sources / sizeof sources[0] };

/* ---------------------------------------------------------------- coefficients */

/* Does the coefficient `name` hold for the phase? *rest is what the formula calls it: "prefill.a"
 * is a of the context phase, "a" is a of both. */
static int belongs(const char *name, uint32_t phase, const char **rest)
{
    const char *dot = strchr(name, '.');
    *rest = dot == NULL ? name : dot + 1;
    if (dot == NULL)
        return 1;
    const char *const known[] = {skip_phase_keys[phase], skip_phase_names[phase]};
    const size_t length = (size_t)(dot - name);
    for (int i = 0; i < 2; i++)
        if (strlen(known[i]) == length && strncmp(known[i], name, length) == 0)
            return 1;
    return 0;
}

static int is_usable(const char *name)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_";
    static const char all[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789";
    return strspn(name, letters) > 0 && name[strspn(name, all)] == '\0' &&
           strcmp(name, "target_sparsity") != 0;
}

int skip_rule_check_names(const wn_value *coefficients, const wn_reasons *reasons)
{
    int good = 1;
    for (uint32_t i = 0; i < coefficients->count; i++) {
        char text[SKIP_TEXT];
        const char *rest, *name = coefficients->names[i];
        const int known =
            belongs(name, WN_PHASE_CONTEXT, &rest) || belongs(name, WN_PHASE_GENERATION, &rest);
        if (known && is_usable(rest))
            continue;
        good = 0;
        snprintf(text, sizeof text,
                 "coefficients: \"%.80s\": expected names for the formula, of both phases or under "
                 "prefill and decode: {prefill: {a: 7.9, b: 8.6}, decode: {a: 0.1, b: 9.9}}",
                 name);
        reasons->add(reasons->context, text);
    }
    return good;
}

/* What the formula may use in this phase: the target and the phase's coefficients. Returns how many
 * names, 0 with a text if they are not one value each. */
static uint32_t gather(const wn_value *coefficients, uint32_t phase, double target,
                       formula_name names[MOST_NAMES], char problem[SKIP_TEXT])
{
    uint32_t count = 0;
    names[count++] = (formula_name){"target_sparsity", target, 0};
    for (uint32_t i = 0; i < coefficients->count; i++) {
        const char *rest;
        if (!belongs(coefficients->names[i], phase, &rest))
            continue;
        for (uint32_t j = 0; j < count; j++)
            if (strcmp(names[j].name, rest) == 0) {
                snprintf(problem, SKIP_TEXT, "coefficients: %.80s has two values in the %s phase",
                         rest, skip_phase_names[phase]);
                return 0;
            }
        if (count == MOST_NAMES) {
            snprintf(problem, SKIP_TEXT, "coefficients: more than %d in the %s phase",
                     MOST_NAMES - 1, skip_phase_names[phase]);
            return 0;
        }
        names[count++] = (formula_name){rest, coefficients->numbers[i], 0};
    }
    return count;
}

/* ---------------------------------------------------------------- the formula */

/* The scale factor for a target above 0. */
static int read_target(const wn_value *values, uint32_t phase, double target, double *factor,
                       char problem[SKIP_TEXT])
{
    formula_name names[MOST_NAMES];
    char text[FORMULA_TEXT];
    const char *formula = values[FORMULA].s;
    const uint32_t count = gather(&values[COEFFICIENTS], phase, target, names, problem);
    if (count == 0)
        return 0;
    if (!formula_evaluate(formula, names, count, factor, text)) {
        snprintf(problem, SKIP_TEXT,
                 "target_sparsity of the %s phase: formula \"%.120s\": %s. Coefficients come from "
                 "calibration and belong into coefficients: {%s: {NAME: NUMBER}}",
                 skip_phase_names[phase], formula, text, skip_phase_keys[phase]);
        return 0;
    }
    for (uint32_t i = 1; i < count; i++)
        if (!names[i].is_used) {
            snprintf(problem, SKIP_TEXT,
                     "coefficients: formula \"%.120s\" does not use %.80s of the %s phase", formula,
                     names[i].name, skip_phase_names[phase]);
            return 0;
        }
    if (isfinite(*factor) && *factor >= 0)
        return 1;
    snprintf(problem, SKIP_TEXT,
             "target_sparsity %g of the %s phase: formula \"%.120s\" gives %g, but a scale factor "
             "is a number of at least 0: look at the coefficients",
             target, skip_phase_names[phase], formula, *factor);
    return 0;
}

/* ---------------------------------------------------------------- the rule */

int skip_rule_read(const wn_value *values, uint32_t phase, skip_rule *rule, char problem[SKIP_TEXT])
{
    const char *first = NULL;
    *rule = (skip_rule){.field = NUM_FIELDS};
    for (int i = 0; i < NUM_SOURCES; i++) {
        const wn_value *value = &values[sources[i].field];
        if (!value->has_value || (value->phase_set >> phase & 1) == 0)
            continue;
        if (first != NULL) {
            snprintf(
                problem, SKIP_TEXT,
                "%s and %s are both set for the %s phase: only one of them can decide. To give "
                "a key for one phase alone write {%s: NUMBER}",
                first, sources[i].name, skip_phase_names[phase], skip_phase_keys[1 - phase]);
            return 0;
        }
        first = sources[i].name;
        rule->field = sources[i].field;
        rule->value = value->phase[phase];
    }
    rule->is_constant = rule->field == THRESHOLD;
    if (rule->field != TARGET_SPARSITY || rule->value == 0)
        return 1;
    return read_target(values, phase, rule->value, &rule->value, problem);
}
