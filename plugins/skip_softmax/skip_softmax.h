/* skip_softmax.h: what the files of this plugin share. Skip softmax (BLASST, arXiv 2512.12087)
 * leaves out tiles whose softmax weight is below a threshold lambda:
 *   1. skip_softmax_rule.c: which lambda the configuration means, per phase;
 *   2. formula.c: the arithmetic of calibrated models, which the former asks;
 *   3. skip_softmax.c: hands ln(lambda) of each request to the attention kernels. */
#ifndef SKIP_SOFTMAX_H
#define SKIP_SOFTMAX_H

#include "winnow/plugin.h"

enum {
    THRESHOLD_SCALE_FACTOR,
    TARGET_SPARSITY,
    THRESHOLD,
    FORMULA,
    COEFFICIENTS,
    MIN_SEQ_LEN,
    TWO_PASS,
    NUM_FIELDS
};

/* Room for any text of this plugin. */
enum { SKIP_TEXT = 640 };

/* How one phase finds its lambda. */
typedef struct skip_rule {
    uint32_t field;       /* which key it comes from; NUM_FIELDS: none was set */
    uint32_t is_constant; /* 1: lambda = value; 0: lambda = value / length */
    double value;         /* 0: the phase is dense */
} skip_rule;

/* The rule of one phase. 0 with a text in problem where the keys contradict each other, a
 * coefficient is missing or the formula has no usable value. values: [NUM_FIELDS]. */
int skip_rule_read(const wn_value *values, uint32_t phase, skip_rule *rule,
                   char problem[SKIP_TEXT]);
/* Adds a reason for each coefficient whose name no formula could use; 1 if there is none. */
int skip_rule_check_names(const wn_value *coefficients, const wn_reasons *reasons);

/* lambda for a request of `length` tokens. */
static inline double skip_rule_lambda(const skip_rule *rule, double length)
{
    return rule->is_constant ? rule->value : rule->value / length;
}

/* "context" as reports say it, "prefill" as files do. */
extern const char *const skip_phase_names[WN_PHASE_COUNT];
extern const char *const skip_phase_keys[WN_PHASE_COUNT];

#endif
