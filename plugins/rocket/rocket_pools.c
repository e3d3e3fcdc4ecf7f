/* rocket_pools.c: the memory that RocketKV keeps beside K and V.
 *
 * Landmarks, one piece per page and KV head: the minima and maxima of page_size consecutive keys,
 * laid out as wn_landmark_view says. They follow from the keys, so that a landmark which a step
 * touches is simply made anew from its first slot on: nothing of truncated tokens remains in it.
 * With multi_turn views take their place, one piece per sequence (rocket_view.c).
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

uint64_t rocket_landmark_bytes(const rocket *self)
{
    return 2 * (uint64_t)self->model->head_dim * rocket_dtype_bytes(self->landmark_dtype);
}

int32_t rocket_landmark_count(const rocket *self, int32_t entries)
{
    return (int32_t)(((int64_t)entries + self->page_size - 1) / self->page_size);
}

static wn_aux_pool landmark_pool(const rocket *self, uint32_t tokens_per_page)
{
    const uint64_t per_page = (uint64_t)rocket_landmark_count(self, (int32_t)tokens_per_page);
    return (wn_aux_pool){.scope = WN_AUX_PAGE,
                         .flags = WN_AUX_RECOMPUTABLE,
                         .layout_version = 1,
                         .name = "landmarks",
                         .layout = "rocket.landmarks",
                         .bytes = per_page * rocket_landmark_bytes(self),
                         .alignment = 64,
                         .lookback_tokens = (uint32_t)self->page_size - 1};
}

static wn_aux_pool view_pool(const rocket *self)
{
    return (wn_aux_pool){.scope = WN_AUX_SEQUENCE,
                         .layout_version = 1,
                         .name = "view",
                         .layout = "rocket.view",
                         .bytes = rocket_view_bytes(self),
                         .alignment = 64};
}

static wn_aux_pool query_pool(const rocket *self)
{
    return (wn_aux_pool){.scope = WN_AUX_SEQUENCE,
                         .layout_version = 1,
                         .name = "window_queries",
                         .layout = "rocket.window_queries",
                         .bytes =
                             stamp_bytes(self) + (uint64_t)self->window_size * query_bytes(self),
                         .alignment = 64};
}

wn_status rocket_declare(void *instance, uint32_t layer, uint32_t tokens_per_page,
                         wn_aux_pool *pools, uint32_t *count, wn_error *error)
{
    const rocket *self = instance;
    const wn_aux_pool wanted[NUM_POOLS] = {
        [LANDMARKS] = self->multi_turn ? view_pool(self) : landmark_pool(self, tokens_per_page),
        [WINDOW_QUERIES] = query_pool(self)};
    (void)layer, (void)error;
    for (uint32_t i = 0; i < NUM_POOLS; i++) {
        const uint32_t struct_size = pools[i].struct_size; /* the host's to say */
        pools[i] = wanted[i];
        pools[i].struct_size = struct_size;
    }
    *count = NUM_POOLS;
    return WN_OK;
}

const wn_aux_view *rocket_landmark_pool(const wn_step_args *args)
{
    return &args->aux[LANDMARKS];
}

rocket_landmarks rocket_find_landmarks(const rocket *self, const wn_step_args *args)
{
    const wn_aux_view *pool = &args->aux[LANDMARKS];
    const int64_t bytes = (int64_t)rocket_dtype_bytes(self->landmark_dtype);
    if (self->multi_turn)
        return rocket_view_landmarks(self, args);
    return (rocket_landmarks){
        .view = {.data = pool->data,
                 .page_stride = pool->page_stride / bytes,
                 .head_stride = pool->head_stride / bytes,
                 .landmark_stride = 2 * (int64_t)self->model->head_dim,
                 .max_offset = self->model->head_dim,
                 .dtype = self->landmark_dtype,
                 .landmark_size = (uint32_t)self->page_size},
        .page_table = args->kv.page_table,
        .page_table_stride = args->kv.page_table_stride,
        .tokens_per_page = args->kv.tokens_per_page,
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
    if (args->q.data == NULL)
        return; /* appended without queries: a prompt that needs them will not find them */
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
                "%d of the prompt, is not there: it came without one, or tokens that have "
                "since been truncated overwrote it; append at least as many tokens as were "
                "truncated, or start a new sequence",
                args->layer, (long long)args->sequence[b], token, self->window_size);
        memcpy((uint8_t *)to + (uint64_t)i * bytes,
               ring + stamp_bytes(self) + (uint64_t)place * bytes, (size_t)bytes);
    }
    return WN_OK;
}

uint64_t rocket_observe_workspace(const rocket *self, const wn_step_limits *limits)
{
    if (!self->multi_turn)
        return (uint64_t)limits->batch * sizeof(int32_t);
    const uint64_t keep = rocket_keep_workspace(self, (int32_t)limits->max_length);
    const uint64_t update = rocket_view_workspace(self, (int32_t)limits->max_length);
    return keep > update ? keep : update;
}

static wn_status update_landmarks(const rocket *self, const wn_step_args *args)
{
    int32_t *begin = args->workspace;
    for (uint32_t b = 0; b < args->batch; b++)
        begin[b] = args->dirty_begin[b] - args->dirty_begin[b] % self->page_size;
    const wn_landmark_update_args update = {
        .struct_size = WN_SIZEOF(wn_landmark_update_args),
        .executor = args->executor,
        .stream = args->stream,
        .error = args->error,
        .kv = args->kv,
        .begin = begin,
        .landmarks = rocket_find_landmarks(self, args).view,
    };
    return args->ops->landmark_update(&update);
}

wn_status rocket_observe(void *instance, const wn_step_args *args)
{
    const rocket *self = instance;
    for (uint32_t b = 0; b < args->batch; b++)
        store_queries(self, args, b);
    return self->multi_turn ? rocket_view_observe(self, args) : update_landmarks(self, args);
}
