/* cpu.h: the variants for x86-64. Each source file of this folder is compiled once for every
 * variant that lists it in kernels/CMakeLists.txt, with that variant's instructions switched on and
 * WN_CPU_VARIANT set to its name; WN_CPU(generation) is then wn_avx2_generation, and so on. */
#ifndef WN_CPU_H
#define WN_CPU_H

#include "winnow/ops.h"

/* Overwrite in a table the ops that the variant has: fill.c. */
void wn_avx2_fill(wn_ops *ops);
void wn_avx512_fill(wn_ops *ops);
void wn_avx512_vnni_fill(wn_ops *ops);
void wn_avx512_bf16_fill(wn_ops *ops);

/* 1 if the processor has the variant's instructions, the operating system keeps their registers,
 * and the variant is the faster choice there; else 0: processor.c. */
int wn_avx2_runs_here(void);
int wn_avx512_runs_here(void);
int wn_avx512_vnni_runs_here(void);
int wn_avx512_bf16_runs_here(void);

#ifdef WN_CPU_VARIANT
#define WN_CPU_JOIN(variant, name) wn_##variant##_##name
#define WN_CPU_EXPAND(variant, name) WN_CPU_JOIN(variant, name)
#define WN_CPU(name) WN_CPU_EXPAND(WN_CPU_VARIANT, name)

/* X(op, args type): the ops that this variant has. The variants above AVX-512 only have those that
 * their instructions make faster. */
#if defined(__AVX512BF16__)
#define WN_CPU_OPS(X)                                                                              \
    X(context, wn_attend_args)                                                                     \
    X(generation, wn_attend_args) X(window_scores, wn_window_scores_args) X(mla, wn_mla_args)      \
        X(indexer_topk, wn_indexer_topk_args)
#elif defined(__AVX512VNNI__)
#define WN_CPU_OPS(X) X(indexer_topk, wn_indexer_topk_args)
#else
#define WN_CPU_OPS(X)                                                                              \
    X(append, wn_append_args)                                                                      \
    X(compact, wn_compact_args) X(context, wn_attend_args) X(generation, wn_attend_args)           \
        X(merge_states, wn_merge_states_args) X(window_scores, wn_window_scores_args)              \
            X(pool_max, wn_pool_max_args) X(topk, wn_topk_args)                                    \
                X(landmark_update, wn_landmark_update_args)                                        \
                    X(landmark_scores, wn_landmark_scores_args) X(quantise, wn_quantise_args)      \
                        X(dequantise, wn_dequantise_args) X(mla, wn_mla_args)                      \
                            X(rope, wn_rope_args) X(hadamard, wn_hadamard_args)                    \
                                X(indexer_topk, wn_indexer_topk_args)
#endif

#define WN_CPU_DECLARE(op, type) wn_status WN_CPU(op)(const type *args);
WN_CPU_OPS(WN_CPU_DECLARE)
#undef WN_CPU_DECLARE
#endif

#endif
