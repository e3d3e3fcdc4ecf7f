/* kernels.h: the door of this folder. Everything else here is reached through the op table. */
#ifndef WN_KERNELS_H
#define WN_KERNELS_H

#include "winnow/ops.h"

/* The CPU table: the reference, overwritten by the best variant that the machine has and that
 * WINNOW_KERNELS allows. The same pointer at every call; thread-safe. */
const wn_ops *wn_kernels_cpu(void);

/* One line per op: its name, the variant chosen and why. Static. */
const char *wn_kernels_cpu_report(void);

/* How far, relative to each, the weights exp(score - maximum) of wn_kernels_cpu()'s attention are
 * rounded before they meet V, where V and the output are bfloat16: 2^-8 (to bfloat16) or 0. */
double wn_kernels_weight_rounding(void);

/* One variant's table by name ("ref", "avx2"), for checks and benchmarks; ops that the variant
 * lacks are those of the variants below it. NULL if there is no such variant or the machine lacks
 * it. */
const wn_ops *wn_kernels_variant(const char *name);

/* The names of all variants in this build, the reference first, each above those that it beats;
 * NULL for an index beyond them. */
const char *wn_kernels_variant_name(uint32_t index);

/* The variant from which wn_kernels_variant(name)->op comes, for a line of ops.def; NULL if there
 * is no such variant or op, or the machine lacks it. */
const char *wn_kernels_variant_of(const char *name, const char *op);

#endif
