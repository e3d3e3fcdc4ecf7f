/* dsa_keys.c: the pool of indexer keys: one vector per token, shared by all heads, in the pages of
 * K and V and alive as long as they are. Keys cannot be made again from K: they come from the
 * model's hidden state, once, with the token. A layer on which another method moves tokens is
 * therefore refused. Every token's key is written, also while a request is too short to be scored.
 */
#include "dsa.h"

/* What is stored differs with all of these: an engine must not take another's keys for its own. */
static const char *layout_of(const dsa *self)
{
    static const char *const fp8[2][2] = {
        {"dsa.indexer_keys.fp8.raw", "dsa.indexer_keys.fp8.raw.hadamard"},
        {"dsa.indexer_keys.fp8.pow2", "dsa.indexer_keys.fp8.pow2.hadamard"}};
    static const char *const bf16[2] = {"dsa.indexer_keys.bf16", "dsa.indexer_keys.bf16.hadamard"};
    static const char *const int8[2] = {"dsa.indexer_keys.int8", "dsa.indexer_keys.int8.hadamard"};
    if (self->key_dtype == WN_BF16)
        return bf16[self->hadamard];
    if (self->key_dtype == WN_I8)
        return int8[self->hadamard];
    return fp8[self->scale_rule == WN_SCALE_POWER_OF_TWO][self->hadamard];
}

wn_status dsa_declare(void *instance, uint32_t layer, uint32_t tokens_per_page, wn_aux_pool *pools,
                      uint32_t *count, wn_error *error)
{
    const dsa *self = instance;
    const uint64_t token_bytes =
        self->key_dtype == WN_BF16 ? 2 * (uint64_t)self->dim : self->dim + sizeof(float);
    (void)error;
    *count = 0;
    if (self->source[layer] != layer)
        return WN_OK;
    pools[0].scope = WN_AUX_PAGE;
    pools[0].flags = WN_AUX_SHARED_HEADS;
    pools[0].layout_version = 1;
    pools[0].name = "indexer_keys";
    pools[0].layout = layout_of(self);
    pools[0].bytes = tokens_per_page * token_bytes;
    pools[0].alignment = 64;
    *count = 1;
    return WN_OK;
}

wn_indexer_view dsa_keys(const dsa *self, const wn_step_args *args)
{
    return (wn_indexer_view){
        .data = args->aux[0].data,
        .page_stride = args->aux[0].page_stride,
        .dtype = self->key_dtype,
        .dim = self->dim,
        .tokens_per_page = args->kv.tokens_per_page,
    };
}

typedef struct observe_space {
    uint16_t *keys; /* [rows, dim] bfloat16 */
    int64_t *slot;  /* [rows] */
} observe_space;

static uint64_t place(const dsa *self, uint64_t rows, void *workspace, observe_space *out)
{
    dsa_space space = {workspace, 0};
    out->keys = dsa_take(&space, rows * self->dim * sizeof *out->keys);
    out->slot = dsa_take(&space, rows * sizeof *out->slot);
    return space.used;
}

uint64_t dsa_observe_workspace(const dsa *self, const wn_step_limits *limits)
{
    observe_space unused;
    return place(self, limits->tokens, NULL, &unused);
}

/* Where the key of each row of q goes; -1 for rows that are not this call's. */
static wn_status find_slots(const wn_step_args *args, int64_t rows, int64_t *slot)
{
    const wn_paged_kv *kv = &args->kv;
    const int32_t tokens_per_page = (int32_t)kv->tokens_per_page;
    for (int64_t row = 0; row < rows; row++)
        slot[row] = -1;
    for (uint32_t b = 0; b < args->batch; b++) {
        const int32_t *pages = kv->page_table + b * kv->page_table_stride;
        const int32_t first = kv->length[b] - args->q_len[b];
        if (args->dirty_begin[b] != first)
            return wn_fail(args->error, WN_ESTATE,
                           "sequence %lld: slots %d .. %d changed, of which this step brought only "
                           "%d; indexer keys cannot be made again from the cache: no method that "
                           "evicts may be on this layer",
                           (long long)args->sequence[b], args->dirty_begin[b], kv->length[b] - 1,
                           args->q_len[b]);
        for (int32_t i = 0; i < args->q_len[b]; i++) {
            const int32_t s = first + i;
            slot[args->q_begin[b] + i] =
                (int64_t)pages[s / tokens_per_page] * tokens_per_page + s % tokens_per_page;
        }
    }
    return WN_OK;
}

wn_status dsa_observe(void *instance, const wn_step_args *args)
{
    const dsa *self = instance;
    const int64_t rows = dsa_rows(args);
    observe_space space;
    wn_tensor k;
    place(self, (uint64_t)rows, args->workspace, &space);
    wn_status status = find_slots(args, rows, space.slot);
    if (status != WN_OK || rows == 0)
        return status;
    status = dsa_input(self, args, DSA_INPUT_K, rows, &k);
    if (status == WN_OK)
        status = dsa_prepare(self, args, &k, 0, rows, space.keys);
    if (status != WN_OK)
        return status;
    const wn_indexer_append_args append = {
        .struct_size = WN_SIZEOF(wn_indexer_append_args),
        .executor = args->executor,
        .stream = args->stream,
        .error = args->error,
        .k = dsa_matrix(space.keys, WN_BF16, rows, self->dim),
        .slot = space.slot,
        .keys = dsa_keys(self, args),
        /* A power of two would cost int8 up to one of its seven bits. */
        .scale_rule = self->key_dtype == WN_I8 ? WN_SCALE_EXACT : self->scale_rule,
        .least_amax = DSA_LEAST_AMAX,
    };
    return args->ops->indexer_append(&append);
}
