/* dispatch.c: which implementation of each op this machine runs. The table is filled with the
 * reference, then each rung of the ladder that the machine can stand on overwrites the ops that it
 * has. Everything is decided once, at the first call. This file compiles for the baseline CPU. */
#include "kernels/cpu/cpu.h"
#include "kernels/kernels.h"
#include "kernels/ref/ref.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ops.def lists exactly the members of wn_ops, in order. */
enum {
#define WN_OP(op, type) OP_##op,
#include "kernels/ops.def"
#undef WN_OP
    NUM_OPS
};
#define WN_OP(op, type)                                                                            \
    _Static_assert(offsetof(wn_ops, op) ==                                                         \
                       offsetof(wn_ops, append) + OP_##op * sizeof(void (*)(void)),                \
                   "ops.def and wn_ops disagree at " #op);
#include "kernels/ops.def"
#undef WN_OP
_Static_assert(sizeof(wn_ops) == offsetof(wn_ops, append) + NUM_OPS * sizeof(void (*)(void)),
               "wn_ops has members that ops.def lacks");

/* A set of implementations that ask for the same processor. */
typedef struct variant {
    const char *name;
    int (*machine_has)(void);  /* the processor and the operating system: 1 or 0 */
    void (*fill)(wn_ops *ops); /* overwrites the ops that the variant has, leaves the others */
    double weight_rounding;    /* see kernels.h */
} variant;

static int any_machine(void)
{
    return 1;
}

static void fill_reference(wn_ops *ops)
{
#define WN_OP(op, type) ops->op = wn_ref_##op;
#include "kernels/ops.def"
#undef WN_OP
}

/* The ladder: the reference, then each faster variant above the ones that it beats. A new variant
 * is one line at its place. */
static const variant ladder[] = {
    {"ref", any_machine, fill_reference, 0},
#ifdef WN_KERNELS_X86
    {"avx2", wn_avx2_runs_here, wn_avx2_fill, 0},
    {"avx512", wn_avx512_runs_here, wn_avx512_fill, 0},
    {"avx512_vnni", wn_avx512_vnni_runs_here, wn_avx512_vnni_fill, 0},
    {"avx512_bf16", wn_avx512_bf16_runs_here, wn_avx512_bf16_fill, 0x1p-8},
#endif
};
enum { NUM_VARIANTS = sizeof ladder / sizeof ladder[0], LINE_BYTES = 160 };

static pthread_once_t once = PTHREAD_ONCE_INIT;
static wn_ops best;                     /* what wn_kernels_cpu gives */
static double weight_rounding;          /* of `best` */
static wn_ops table_of[NUM_VARIANTS];   /* each variant over those below it */
static const char *variant_of[NUM_OPS]; /* of each op in `best` */
static char report[(NUM_OPS + 1) * LINE_BYTES];

static wn_ops empty_table(void)
{
    wn_ops ops = {.struct_size = WN_SIZEOF(wn_ops), .device = WN_DEVICE_CPU};
    return ops;
}

/* The rung that WINNOW_KERNELS names; the top one if it is unset, empty or names none. */
static int highest_allowed(const char *mask)
{
    for (int i = 0; mask != NULL && i < NUM_VARIANTS; i++)
        if (strcmp(mask, ladder[i].name) == 0)
            return i;
    return NUM_VARIANTS - 1;
}

static void climb(int highest)
{
    best = empty_table();
    for (int i = 0; i <= highest; i++) {
        wn_ops below = best;
        if (!ladder[i].machine_has())
            continue;
        ladder[i].fill(&best);
        weight_rounding = ladder[i].weight_rounding;
#define WN_OP(op, type)                                                                            \
    if (best.op != below.op)                                                                       \
        variant_of[OP_##op] = ladder[i].name;
#include "kernels/ops.def"
#undef WN_OP
    }
}

/* mask: WINNOW_KERNELS or NULL. A value that names no variant is reported, not passed over. */
static void write_report(const char *mask, int highest)
{
    size_t used = 0;
    int is_set = mask != NULL && mask[0] != 0;
    int is_known = is_set && strcmp(mask, ladder[highest].name) == 0;
    if (is_set && !is_known) {
        used += (size_t)snprintf(report, LINE_BYTES,
                                 "WINNOW_KERNELS=%.32s names no variant; "
                                 "it was ignored. Known:",
                                 mask);
        for (int i = 0; i < NUM_VARIANTS; i++)
            used += (size_t)snprintf(report + used, sizeof report - used, " %s", ladder[i].name);
        used += (size_t)snprintf(report + used, sizeof report - used, "\n");
    }
    const char *why = is_known ? "the best that WINNOW_KERNELS allows"
                               : "the best of this build that this machine runs";
#define WN_OP(op, type)                                                                            \
    used += (size_t)snprintf(report + used, sizeof report - used, "%-15s  %-11s  %s\n", #op,       \
                             variant_of[OP_##op], why);
#include "kernels/ops.def"
#undef WN_OP
    report[used - 1] = 0; /* no newline at the end */
}

static void decide(void)
{
    const char *mask = getenv("WINNOW_KERNELS");
    int highest = highest_allowed(mask);
    for (int i = 0; i < NUM_VARIANTS; i++) {
        table_of[i] = i > 0 ? table_of[i - 1] : empty_table();
        ladder[i].fill(&table_of[i]);
    }
    climb(highest);
    write_report(mask, highest);
}

const wn_ops *wn_kernels_cpu(void)
{
    pthread_once(&once, decide);
    return &best;
}

const char *wn_kernels_cpu_report(void)
{
    pthread_once(&once, decide);
    return report;
}

double wn_kernels_weight_rounding(void)
{
    pthread_once(&once, decide);
    return weight_rounding;
}

const wn_ops *wn_kernels_variant(const char *name)
{
    pthread_once(&once, decide);
    for (int i = 0; i < NUM_VARIANTS; i++)
        if (strcmp(name, ladder[i].name) == 0 && ladder[i].machine_has())
            return &table_of[i];
    return NULL;
}

const char *wn_kernels_variant_name(uint32_t index)
{
    return index < NUM_VARIANTS ? ladder[index].name : NULL;
}

const char *wn_kernels_variant_of(const char *name, const char *op)
{
    const wn_ops *ops = wn_kernels_variant(name);
    const char *found = NULL;
    for (int i = 0; ops != NULL && i < NUM_VARIANTS; i++) {
#define WN_OP(op_, type)                                                                           \
    if (strcmp(op, #op_) == 0 && found == NULL && table_of[i].op_ == ops->op_)                     \
        found = ladder[i].name;
#include "kernels/ops.def"
#undef WN_OP
    }
    return found;
}
