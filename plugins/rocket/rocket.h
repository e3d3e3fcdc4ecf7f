/* rocket.h: what the files of this plugin share. RocketKV (arXiv 2502.14051) has two stages:
 *   1. rocket_retain.c: when a prompt is complete, keep the prompt_budget tokens per KV head that
 *      its last window_size queries look at most, and evict the others for good;
 *   2. rocket_select.c: for each generated token, guess from landmarks (minimum and maximum of
 *      page_size consecutive keys) which keys matter, and attend to the best topk landmarks.
 * rocket_pools.c keeps what both need beside the cache: landmarks and the window's queries. */
#ifndef ROCKET_H
#define ROCKET_H

#include "winnow/plugin.h"

/* One engine's instance. */
typedef struct rocket {
    const wn_model *model;
    int32_t window_size, kernel_size, prompt_budget; /* stage 1, in tokens */
    int32_t page_size, topr, topk, local_landmarks;  /* stage 2: tokens, channels, landmarks */
    uint32_t landmark_dtype;                         /* WN_F8_E5M2, BF16, F32 */
    uint32_t normalise;                              /* WN_SCORES_... */
    int64_t nan_scores;                              /* met by select; reported at the end */
} rocket;

/* rocket_pools.c */
wn_status rocket_declare(void *instance, uint32_t layer, uint32_t tokens_per_page,
                         wn_aux_pool *pools, uint32_t *count, wn_error *error);
wn_status rocket_observe(void *instance, const wn_step_args *args);
uint64_t rocket_observe_workspace(const wn_step_limits *limits);
/* This layer's landmarks. */
wn_landmark_view rocket_landmarks(const rocket *self, const wn_step_args *args);
/* Copies the queries of the last window_size tokens of request b to `to`, [window_size, num_heads,
 * head_dim] of the model's dtype, oldest first. WN_ESTATE if one of them is no longer there. */
wn_status rocket_gather_window(const rocket *self, const wn_step_args *args, uint32_t b, void *to);

/* rocket_retain.c */
int32_t rocket_retained_count(void *instance, int32_t length);
wn_status rocket_retain(void *instance, const wn_step_args *args, wn_selection *out);
uint64_t rocket_retain_workspace(const rocket *self, const wn_step_limits *limits);

/* rocket_select.c */
wn_status rocket_select(void *instance, const wn_step_args *args, wn_selection *out);
uint64_t rocket_select_workspace(const rocket *self, const wn_step_limits *limits);
/* Most landmarks that one row can have chosen, with `length` tokens in the cache. */
int32_t rocket_select_width(const rocket *self, int32_t length);

static inline uint64_t rocket_dtype_bytes(uint32_t dtype)
{
    switch (dtype) {
#define WN_DTYPE_ENTRY(name, value, text, bytes)                                                   \
    case value:                                                                                    \
        return bytes;
        WN_DTYPE_LIST(WN_DTYPE_ENTRY)
#undef WN_DTYPE_ENTRY
    }
    return 0;
}

/* Hands out pieces of a workspace, 64-byte aligned. The function that carves a workspace up runs
 * twice: in bounds() on no memory, for `used` alone, and in the step on the real one. */
typedef struct rocket_space {
    uint8_t *data; /* NULL: only measure */
    uint64_t used;
} rocket_space;

static inline void *rocket_take(rocket_space *space, uint64_t bytes)
{
    void *piece = space->data != NULL ? space->data + space->used : NULL;
    space->used += (bytes + 63) / 64 * 64;
    return piece;
}

/* A contiguous tensor [rows, n]. */
static inline wn_tensor rocket_matrix(void *data, uint32_t dtype, int64_t rows, int64_t n)
{
    return (wn_tensor){
        .data = data, .shape = {rows, n}, .stride = {n, 1}, .dtype = dtype, .ndim = 2};
}

#endif
