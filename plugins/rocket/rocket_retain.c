/* rocket_retain.c: stage 1, which tokens of a finished prompt stay.
 *
 * The last window_size queries look back at the prefix before them: softmax per query head, summed
 * over the window and over the heads of the group; a max-pool keeps the neighbours of what matters
 * (tokens carry meaning together); the best prompt_budget - window_size prefix slots of each KV
 * head stay, and the window itself. All in slots, so that a cache from which an earlier turn has
 * evicted is treated like a fresh one.
 *
 * One request at a time: prompts seldom finish together, and scores are as long as the prompt. */
#include "rocket.h"

typedef struct retain_space {
    void *q;               /* [window_size, num_heads, head_dim] of the model's dtype */
    float *scores;         /* [num_kv_heads, prefix] */
    float *pooled;         /* likewise */
    int32_t *chosen;       /* [num_kv_heads, budget - window] */
    int32_t *chosen_count; /* [num_kv_heads] */
} retain_space;

static uint64_t place(const rocket *self, int32_t length, void *workspace, retain_space *out)
{
    const wn_model *model = self->model;
    const uint64_t heads = model->num_kv_heads;
    const uint64_t prefix = length > self->window_size ? (uint64_t)(length - self->window_size) : 0;
    const uint64_t kept = (uint64_t)rocket_retained_count((void *)self, length);
    rocket_space space = {workspace, 0};
    out->q = rocket_take(&space, (uint64_t)self->window_size * model->num_heads * model->head_dim *
                                     rocket_dtype_bytes(model->dtype));
    out->scores = rocket_take(&space, heads * prefix * sizeof(float));
    out->pooled = rocket_take(&space, heads * prefix * sizeof(float));
    out->chosen = rocket_take(&space, heads * kept * sizeof(int32_t));
    out->chosen_count = rocket_take(&space, heads * sizeof(int32_t));
    return space.used;
}

uint64_t rocket_keep_workspace(const rocket *self, int32_t length)
{
    retain_space unused;
    return place(self, length, NULL, &unused);
}

int32_t rocket_retained_count(void *instance, int32_t length)
{
    const rocket *self = instance;
    return length < self->prompt_budget ? length : self->prompt_budget;
}

wn_paged_kv rocket_one_request(const wn_paged_kv *kv, uint32_t b)
{
    wn_paged_kv one = *kv;
    one.page_table += b * kv->page_table_stride;
    one.length += b;
    one.batch = 1;
    return one;
}

static wn_status score(const rocket *self, const wn_step_args *args, uint32_t b, int32_t prefix,
                       const retain_space *space)
{
    const wn_model *model = self->model;
    const int64_t heads = model->num_heads, dim = model->head_dim, window = self->window_size;
    wn_status status = rocket_gather_window(self, args, b, space->q);
    if (status != WN_OK)
        return status;
    const wn_window_scores_args scores = {
        .struct_size = WN_SIZEOF(wn_window_scores_args),
        .executor = args->executor,
        .stream = args->stream,
        .error = args->error,
        .q = {.data = space->q,
              .shape = {1, window, heads, dim},
              .stride = {window * heads * dim, heads * dim, dim, 1},
              .dtype = model->dtype,
              .ndim = 4},
        .kv = rocket_one_request(&args->kv, b),
        .softmax_scale = args->softmax_scale,
        .normalise = self->normalise,
        .scores = {.data = space->scores,
                   .shape = {1, model->num_kv_heads, prefix},
                   .stride = {(int64_t)model->num_kv_heads * prefix, prefix, 1},
                   .dtype = WN_F32,
                   .ndim = 3},
    };
    return args->ops->window_scores(&scores);
}

/* The greatest pooled scores of each KV head, ascending by slot. */
static wn_status choose(const rocket *self, const wn_step_args *args, int32_t prefix,
                        const retain_space *space)
{
    const int64_t heads = self->model->num_kv_heads;
    const wn_pool_max_args pool = {
        .struct_size = WN_SIZEOF(wn_pool_max_args),
        .executor = args->executor,
        .stream = args->stream,
        .error = args->error,
        .in = rocket_matrix(space->scores, WN_F32, heads, prefix),
        .out = rocket_matrix(space->pooled, WN_F32, heads, prefix),
        .kernel_size = (uint32_t)self->kernel_size,
    };
    const wn_topk_args topk = {
        .struct_size = WN_SIZEOF(wn_topk_args),
        .executor = args->executor,
        .stream = args->stream,
        .error = args->error,
        .scores = rocket_matrix(space->pooled, WN_F32, heads, prefix),
        .indices =
            rocket_matrix(space->chosen, WN_I32, heads, self->prompt_budget - self->window_size),
        .count = space->chosen_count,
    };
    wn_status status = args->ops->pool_max(&pool);
    return status != WN_OK ? status : args->ops->topk(&topk);
}

wn_status rocket_keep(const rocket *self, const wn_step_args *args, uint32_t b, void *workspace,
                      int32_t *to, int64_t head_stride)
{
    const int32_t length = args->kv.length[b], kept = rocket_retained_count((void *)self, length);
    const int32_t prefix = length - self->window_size, from_prefix = kept - self->window_size;
    retain_space space;
    if (kept == length) { /* nothing to choose */
        for (uint32_t h = 0; h < self->model->num_kv_heads; h++)
            for (int32_t slot = 0; slot < length; slot++)
                to[h * head_stride + slot] = slot;
        return WN_OK;
    }
    place(self, length, workspace, &space);
    wn_status status = score(self, args, b, prefix, &space);
    if (status == WN_OK)
        status = choose(self, args, prefix, &space);
    for (uint32_t h = 0; h < self->model->num_kv_heads && status == WN_OK; h++, to += head_stride) {
        /* A NaN among the keys makes all scores of a head NaN, and none is chosen then: the first
         * slots stay, because how many stay must not depend on the scores. */
        const int chosen = space.chosen_count[h] == from_prefix;
        for (int32_t i = 0; i < from_prefix; i++)
            to[i] = chosen ? space.chosen[(int64_t)h * from_prefix + i] : i;
        for (int32_t i = 0; i < self->window_size; i++)
            to[from_prefix + i] = prefix + i;
    }
    return status;
}

wn_status rocket_retain(void *instance, const wn_step_args *args, wn_selection *out)
{
    const rocket *self = instance;
    out->block_size = 1;
    out->index_space = WN_INDEX_PHYSICAL;
    out->flags = WN_SELECTION_SORTED;
    out->query_block = 0;
    out->rows = args->batch;
    out->width = 0;
    out->offsets[0] = 0;
    for (uint32_t b = 0; b < args->batch; b++)
        out->offsets[b + 1] = out->offsets[b] + rocket_retained_count(instance, args->kv.length[b]);
    out->head_stride = out->offsets[args->batch];
    wn_status status = WN_OK;
    for (uint32_t b = 0; b < args->batch && status == WN_OK; b++)
        status = rocket_keep(self, args, b, args->workspace, out->indices + out->offsets[b],
                             out->head_stride);
    return status;
}
