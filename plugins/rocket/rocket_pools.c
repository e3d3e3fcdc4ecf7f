/* rocket_pools.c: the memory that RocketKV keeps beside K and V.
 *
 * Landmarks, one piece per page and KV head: the minima and maxima of page_size consecutive keys,
 * laid out as wn_landmark_view says. They follow from the keys, so that a landmark which a step
 * touches is simply made anew from its first slot on: nothing of truncated tokens remains in it.
 *
 * Window queries, one piece per sequence: a ring of the queries of the last window_size tokens. A
 * prompt may come in chunks of any size; stage 1 needs the last window_size queries when it is
 * complete. Token t (counted from 0 over the sequence's whole life) has place t % window_size, and
 * its stamp there is t + 1. A ring is zeroed at the sequence's begin, so that 0 means empty, and a
 * stamp that differs from the expected one means that the query was overwritten. */
#include "rocket.h"

#include <string.h>

enum { LANDMARKS, WINDOW_QUERIES, NUM_POOLS };

/* Bytes of the stamps, int32 [window_size], at the head of a ring. */
static uint64_t stamp_bytes(const rocket *self)
{
    return ((uint64_t)self->window_size * sizeof(int32_t) + 63) / 64 * 64;
}

/* Bytes of one token's queries, [num_heads, head_dim] of the model's dtype. */
static uint64_t query_bytes(const rocket *self)
{
    const wn_model *model = self->model;
    return (uint64_t)model->num_heads * model->head_dim * rocket_dtype_bytes(model->dtype);
}

/* A landmark's minimum and maximum lie side by side. */
static uint64_t landmark_bytes(const rocket *self)
{
    return 2 * (uint64_t)self->model->head_dim * rocket_dtype_bytes(self->landmark_dtype);
}

wn_status rocket_declare(void *instance, uint32_t layer, uint32_t tokens_per_page,
                         wn_aux_pool *pools, uint32_t *count, wn_error *error)
{
    const rocket *self = instance;
    const uint32_t page_size = (uint32_t)self->page_size;
    (void)layer, (void)error;
    wn_aux_pool *landmarks = &pools[LANDMARKS];
    landmarks->scope = WN_AUX_PAGE;
    landmarks->flags = WN_AUX_RECOMPUTABLE;
    landmarks->layout_version = 1;
    landmarks->name = "landmarks";
    landmarks->layout = "rocket.landmarks";
    landmarks->bytes = (tokens_per_page + page_size - 1) / page_size * landmark_bytes(self);
    landmarks->alignment = 64;
    landmarks->lookback_tokens = page_size - 1;

    wn_aux_pool *queries = &pools[WINDOW_QUERIES];
    queries->scope = WN_AUX_SEQUENCE;
    queries->flags = 0;
    queries->layout_version = 1;
    queries->name = "window_queries";
    queries->layout = "rocket.window_queries";
    queries->bytes = stamp_bytes(self) + (uint64_t)self->window_size * query_bytes(self);
    queries->alignment = 64;
    queries->lookback_tokens = 0;
    *count = NUM_POOLS;
    return WN_OK;
}

wn_landmark_view rocket_landmarks(const rocket *self, const wn_step_args *args)
{
    const wn_aux_view *pool = &args->aux[LANDMARKS];
    const int64_t bytes = (int64_t)rocket_dtype_bytes(self->landmark_dtype);
    return (wn_landmark_view){
        .data = pool->data,
        .page_stride = pool->page_stride / bytes,
        .head_stride = pool->head_stride / bytes,
        .landmark_stride = 2 * (int64_t)self->model->head_dim,
        .max_offset = self->model->head_dim,
        .dtype = self->landmark_dtype,
        .landmark_size = (uint32_t)self->page_size,
    };
}

static uint8_t *ring_of(const wn_step_args *args, uint32_t b)
{
    const wn_aux_view *pool = &args->aux[WINDOW_QUERIES];
    return pool->data + args->sequence_slot[b] * pool->page_stride;
}

/* Puts the newest queries of request b into its ring. Those of generated tokens too: they are in
 * the window of a following turn whose prompt is shorter than the window. */
static void store_queries(const rocket *self, const wn_step_args *args, uint32_t b)
{
    uint8_t *ring = ring_of(args, b);
    int32_t *stamps = (int32_t *)(void *)ring;
    const int32_t n = args->q_len[b], first_token = args->logical_length[b] - n;
    const int64_t element = (int64_t)rocket_dtype_bytes(args->q.dtype);
    const size_t head_bytes = (size_t)self->model->head_dim * (size_t)element;
    for (int32_t i = n > self->window_size ? n - self->window_size : 0; i < n; i++) {
        const int32_t token = first_token + i, place = token % self->window_size;
        uint8_t *to = ring + stamp_bytes(self) + (uint64_t)place * query_bytes(self);
        const uint8_t *from =
            (const uint8_t *)args->q.data + (args->q_begin[b] + i) * args->q.stride[0] * element;
        for (uint32_t h = 0; h < self->model->num_heads; h++)
            memcpy(to + h * head_bytes, from + h * args->q.stride[1] * element, head_bytes);
        stamps[place] = token + 1;
    }
}

wn_status rocket_gather_window(const rocket *self, const wn_step_args *args, uint32_t b, void *to)
{
    const uint8_t *ring = ring_of(args, b);
    const int32_t *stamps = (const int32_t *)(const void *)ring;
    const uint64_t bytes = query_bytes(self);
    const int32_t first_token = args->logical_length[b] - self->window_size;
    for (int32_t i = 0; i < self->window_size; i++) {
        const int32_t token = first_token + i, place = token % self->window_size;
        if (stamps[place] != token + 1)
            return wn_fail(
                args->error, WN_ESTATE,
                "rocket: layer %u, sequence %lld: the query of token %d, one of the last "
                "%d of the prompt, was overwritten by tokens that have since been "
                "truncated; append at least as many tokens as were truncated, or start "
                "a new sequence",
                args->layer, (long long)args->sequence[b], token, self->window_size);
        memcpy((uint8_t *)to + (uint64_t)i * bytes,
               ring + stamp_bytes(self) + (uint64_t)place * bytes, (size_t)bytes);
    }
    return WN_OK;
}

uint64_t rocket_observe_workspace(const wn_step_limits *limits)
{
    return (uint64_t)limits->batch * sizeof(int32_t);
}

wn_status rocket_observe(void *instance, const wn_step_args *args)
{
    const rocket *self = instance;
    int32_t *begin = args->workspace;
    for (uint32_t b = 0; b < args->batch; b++) {
        begin[b] = args->dirty_begin[b] - args->dirty_begin[b] % self->page_size;
        store_queries(self, args, b);
    }
    const wn_landmark_update_args update = {
        .struct_size = WN_SIZEOF(wn_landmark_update_args),
        .executor = args->executor,
        .stream = args->stream,
        .error = args->error,
        .kv = args->kv,
        .begin = begin,
        .landmarks = rocket_landmarks(self, args),
    };
    return args->ops->landmark_update(&update);
}
