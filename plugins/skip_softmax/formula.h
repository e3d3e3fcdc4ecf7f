/* formula.h: the value of a short arithmetic expression over named numbers, as calibrations of skip
 * softmax give it: "a * exp(b * target_sparsity)".
 *
 *   + - * / ^     ^ (also written **) is the power, binds tightest and to the right: -2^2 is -4
 *   exp log sqrt of one number, pow min max of two; log is the natural one
 *   numbers with a decimal point, whatever the host's locale; names of letters, digits and _ */
#ifndef FORMULA_H
#define FORMULA_H

#include <stdint.h>

/* How deep parentheses, signs and powers may nest, and room for any text in `problem`. */
enum { FORMULA_DEPTH = 64, FORMULA_TEXT = 256 };

typedef struct formula_name {
    const char *name;
    double value;
    uint32_t is_used; /* out: 1 if the formula mentions it */
} formula_name;

/* Returns 1 with *value, which may be anything a double can be, NaN included. Returns 0 with a text
 * that names the column, or every name that has no value. Allocates nothing. */
int formula_evaluate(const char *text, formula_name *names, uint32_t num_names, double *value,
                     char problem[FORMULA_TEXT]);

#endif
