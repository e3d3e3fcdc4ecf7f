/* bench_scene.h: one op's arguments with real memory behind them: random numbers, caches in random
 * page order, as many fresh inputs as needed. */
#ifndef WN_TOOLS_BENCH_SCENE_H
#define WN_TOOLS_BENCH_SCENE_H

#include "tools/bench_memory.h"
#include "tools/bench_shape.h"

/* X(op, args type), every op of the table in its order: bench_rows.c asserts that none is missing,
 * and there is wn_scene_<op> for each. */
#define WN_BENCH_OPS(X)                                                                            \
    X(append, wn_append_args)                                                                      \
    X(compact, wn_compact_args)                                                                    \
    X(gather_pages, wn_gather_pages_args)                                                          \
    X(copy_pages, wn_copy_pages_args)                                                              \
    X(context, wn_attend_args)                                                                     \
    X(generation, wn_attend_args)                                                                  \
    X(merge_states, wn_merge_states_args)                                                          \
    X(window_scores, wn_window_scores_args)                                                        \
    X(pool_max, wn_pool_max_args)                                                                  \
    X(topk, wn_topk_args)                                                                          \
    X(landmark_update, wn_landmark_update_args)                                                    \
    X(landmark_scores, wn_landmark_scores_args)                                                    \
    X(quantise, wn_quantise_args)                                                                  \
    X(dequantise, wn_dequantise_args)                                                              \
    X(mla, wn_mla_args)                                                                            \
    X(rope, wn_rope_args)                                                                          \
    X(hadamard, wn_hadamard_args)                                                                  \
    X(indexer_append, wn_indexer_append_args)                                                      \
    X(indexer_topk, wn_indexer_topk_args)

typedef struct wn_bench_scene wn_bench_scene;
struct wn_bench_scene {
    wn_bench_shape shape;
    union { /* all begin with the same five fields */
#define WN_SCENE_ARGS(op, type) type op;
        WN_BENCH_OPS(WN_SCENE_ARGS)
#undef WN_SCENE_ARGS
    } args;
    void (*turn)(wn_bench_scene *scene); /* before each call: other inputs; NULL: the same */
    uint64_t turns;
    int64_t fresh;       /* with turn: after so many calls the first inputs come again */
    double bytes, flops; /* that one call must move and compute at least; 0: not of interest */
    double units;        /* things that a call goes through, for "ns per ..."; 0: none */
    const char *unit;
    wn_selection selection;
    wn_tile_policy tile;
    wn_attend_counters *counters; /* of as many heads as count, with a tile policy */
    uint64_t num_counters;
    wn_bench_memory memory;
    uint64_t random;
};

/* Zeroed memory of the scene's; NULL and memory.failed if there is none. */
void *wn_scene_take(wn_bench_scene *scene, int64_t bytes);
uint32_t wn_scene_below(wn_bench_scene *scene, uint32_t end);
/* Finite numbers of either sign, |x| < 1 for float dtypes; any code but NaN for 8-bit ones. */
void wn_scene_fill(wn_bench_scene *scene, void *data, uint32_t dtype, int64_t count);
/* A contiguous tensor of random numbers, or, with dtype_only, zeros. */
wn_tensor wn_scene_tensor(wn_bench_scene *scene, uint32_t dtype, uint32_t ndim,
                          const int64_t *shape);
wn_tensor wn_scene_output(wn_bench_scene *scene, uint32_t dtype, uint32_t ndim,
                          const int64_t *shape);
/* [count] with the value at each. */
int32_t *wn_scene_constants(wn_bench_scene *scene, int64_t count, int32_t value);
/* `count` of the numbers below end, ascending. */
void wn_scene_ascending(wn_bench_scene *scene, int32_t *out, int64_t count, int64_t end);

/* K and V (v_dim 0: K alone) of shape.batch requests of shape.length tokens and shape.others more,
 * in random page order; scales where the dtype is an 8-bit one. */
wn_paged_kv wn_scene_cache(wn_bench_scene *scene, int64_t kv_heads, int64_t k_dim, int64_t v_dim);
/* A page table [requests, pages] of distinct pages below *num_pages in random order. */
int32_t *wn_scene_page_table(wn_bench_scene *scene, int64_t requests, int64_t pages);
/* Bytes of K, V and scales of one token. */
double wn_scene_token_bytes(const wn_paged_kv *kv);

#define WN_SCENE_DECLARE(op, type) void wn_scene_##op(wn_bench_scene *scene);
WN_BENCH_OPS(WN_SCENE_DECLARE)
#undef WN_SCENE_DECLARE

#endif
