/* rocket.h: what the files of this plugin share. RocketKV (arXiv 2502.14051) has two stages:
 *   1. rocket_retain.c: when a prompt is complete, keep the prompt_budget tokens per KV head that
 *      its last window_size queries look at most;
 *   2. rocket_select.c: for each generated token, guess from landmarks (minimum and maximum of
 *      page_size consecutive keys) which keys matter, and attend to the best of them.
 * The others are evicted for good after stage 1, or, with multi_turn, stay in the cache while stage
 * 2 looks at a view of what was kept (rocket_view.c), made anew at the end of every prompt.
 * rocket_pools.c keeps what both need beside the cache; rocket_split.c derives keys from one. */
#ifndef ROCKET_H
#define ROCKET_H

#include "winnow/plugin.h"

/* One engine's instance. */
typedef struct rocket {
    const wn_model *model;
    int32_t window_size, kernel_size, prompt_budget; /* stage 1, in tokens */
    int32_t page_size, topr, local_landmarks;        /* stage 2: tokens, channels, landmarks */
    int32_t topk;                                    /* tokens if token_unit, else landmarks */
    int32_t token_unit, multi_turn;                  /* 0 or 1 */
    int32_t view_capacity;                           /* entries; multi_turn only */
    uint32_t landmark_dtype;                         /* WN_F8_E5M2, BF16, F32 */
    uint32_t normalise;                              /* WN_SCORES_... */
    uint32_t temperature;                            /* WN_TEMPERATURE_... */
    int64_t nan_scores;                              /* met by select; reported at the end */
} rocket;

/* What stage 2 chooses from, in one request: entries, an ascending list of slots per KV head. Entry
 * e < num_kept is slot kept[h*head_stride + e], and every slot from tail_begin on follows. Without
 * multi_turn nothing is listed and entries are slots. */
typedef struct rocket_view {
    const int32_t *kept;
    int64_t head_stride;
    int32_t num_kept, tail_begin;
} rocket_view;

static inline int32_t rocket_view_entries(const rocket_view *view, int32_t length)
{
    return view->num_kept + length - view->tail_begin;
}

static inline int32_t rocket_view_slot(const rocket_view *view, uint32_t head, int32_t entry)
{
    return entry < view->num_kept ? view->kept[head * view->head_stride + entry]
                                  : view->tail_begin + (entry - view->num_kept);
}

/* rocket_pools.c */
wn_status rocket_declare(void *instance, uint32_t layer, uint32_t tokens_per_page,
                         wn_aux_pool *pools, uint32_t *count, wn_error *error);
wn_status rocket_observe(void *instance, const wn_step_args *args);
uint64_t rocket_observe_workspace(const rocket *self, const wn_step_limits *limits);
/* Bytes of a landmark; its minimum and maximum lie side by side. */
uint64_t rocket_landmark_bytes(const rocket *self);
/* Landmarks that summarise `entries` of them. */
int32_t rocket_landmark_count(const rocket *self, int32_t entries);
/* The pool of landmarks, or of views, as declare() made it. */
const wn_aux_view *rocket_landmark_pool(const wn_step_args *args);
/* This layer's landmarks. Request b's are found by page_table + b*page_table_stride. */
typedef struct rocket_landmarks {
    wn_landmark_view view;
    const int32_t *page_table;
    int64_t page_table_stride;
    uint32_t tokens_per_page;
} rocket_landmarks;
rocket_landmarks rocket_find_landmarks(const rocket *self, const wn_step_args *args);
/* Copies the queries of the last window_size tokens of request b to `to`, [window_size, num_heads,
 * head_dim] of the model's dtype, oldest first. WN_ESTATE if one of them is not there. */
wn_status rocket_gather_window(const rocket *self, const wn_step_args *args, uint32_t b, void *to);

/* rocket_retain.c */
int32_t rocket_retained_count(void *instance, int32_t length);
wn_status rocket_retain(void *instance, const wn_step_args *args, wn_selection *out);
/* The slots of request b that stay, ascending, for KV head h at to + h*head_stride. */
wn_status rocket_keep(const rocket *self, const wn_step_args *args, uint32_t b, void *workspace,
                      int32_t *to, int64_t head_stride);
uint64_t rocket_keep_workspace(const rocket *self, int32_t length);
/* The cache of request b alone. */
wn_paged_kv rocket_one_request(const wn_paged_kv *kv, uint32_t b);

/* rocket_select.c */
wn_status rocket_select(void *instance, const wn_step_args *args, wn_selection *out);
uint64_t rocket_select_workspace(const rocket *self, const wn_step_limits *limits);
/* Most that one row can have chosen, with `length` tokens in the cache. */
int64_t rocket_select_width(const rocket *self, int32_t length);

/* rocket_view.c, all for multi_turn but rocket_view_of */
uint64_t rocket_view_bytes(const rocket *self);
rocket_landmarks rocket_view_landmarks(const rocket *self, const wn_step_args *args);
rocket_view rocket_view_of(const rocket *self, const wn_step_args *args, uint32_t b);
wn_status rocket_view_observe(const rocket *self, const wn_step_args *args);
/* Makes the landmarks of entries [first, end) of request b anew; those that `first` or `end` cuts
 * through cover entries before `end`. workspace: rocket_view_workspace bytes. */
wn_status rocket_view_update(const rocket *self, const wn_step_args *args, uint32_t b,
                             int32_t first, int32_t end, void *workspace);
uint64_t rocket_view_workspace(const rocket *self, int32_t length);

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

static inline uint64_t rocket_align(uint64_t bytes)
{
    return (bytes + 63) / 64 * 64;
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
    space->used += rocket_align(bytes);
    return piece;
}

/* A contiguous tensor [rows, n]. */
static inline wn_tensor rocket_matrix(void *data, uint32_t dtype, int64_t rows, int64_t n)
{
    return (wn_tensor){
        .data = data, .shape = {rows, n}, .stride = {n, 1}, .dtype = dtype, .ndim = 2};
}

#endif
