/* dsa.h: what the files of this plugin share. DeepSeek sparse attention (DeepSeek-V3.2) has a small
 * scorer beside the attention, the lightning indexer: per token one key of index_head_dim channels,
 * kept in a pool of its own, and per query index_n_heads vectors with a weight each. It scores all
 * keys that a query sees and the attention reads the index_topk best, the same for all its heads.
 *   dsa_vectors.c  the model's indexer tensors, on their way to keys and queries
 *   dsa_keys.c     the pool of indexer keys
 *   dsa_select.c   scores, choice, and the choice that several layers share
 *   dsa_roles.c    which layers choose, follow, or attend densely */
#ifndef DSA_H
#define DSA_H

#include "winnow/plugin.h"

#define DSA_NO_LAYER UINT32_MAX
/* Smallest greatest magnitude that a scale is made for: DeepSeek's act_quant. */
#define DSA_LEAST_AMAX 1e-4f

enum { DSA_INPUT_Q, DSA_INPUT_K, DSA_INPUT_WEIGHTS };

/* One engine's instance. */
typedef struct dsa {
    const wn_model *model;
    uint32_t heads, dim;         /* of the indexer */
    uint32_t width;              /* entries of a selection's row: index_topk, or all there can be */
    uint32_t chunk;              /* query tokens per scoring call */
    uint32_t skip_short;         /* rows that see no more than width keys are not scored */
    uint32_t key_dtype;          /* WN_F8_E4M3, WN_BF16, WN_I8; queries are scored in the same */
    uint32_t scale_rule;         /* of fp8: WN_SCALE_EXACT, WN_SCALE_POWER_OF_TWO */
    uint32_t hadamard;           /* 0 or 1 */
    uint32_t rope, rope_dim;     /* WN_ROPE_NONE: vectors come rotated */
    float rope_theta;            /* without rope_frequency */
    const float *rope_frequency; /* the model's, or NULL */
    uint32_t has_consumers;
    int64_t nan_scores; /* met by select; reported at the end */
    /* [num_layers] the layer whose choice a layer uses: itself, an earlier one, or DSA_NO_LAYER */
    uint32_t *source;
    uint8_t *is_lowered; /* [num_layers] the host has asked about it: the method is on it */
} dsa;

/* dsa_roles.c. Both are for values[] of the key layer_roles. check: adds reasons. */
wn_status dsa_check_roles(const wn_model *model, const wn_value *roles, const wn_reasons *reasons);
void dsa_read_roles(const wn_model *model, const wn_value *roles, dsa *self);
wn_status dsa_lower(void *instance, uint32_t layer, uint32_t phase, uint32_t *roles, char *why,
                    uint64_t why_capacity, wn_error *error);

/* dsa_vectors.c */
extern const char *const dsa_inputs[];
/* wn_config_interface.input_shape. */
wn_status dsa_input_shape(void *instance, uint32_t input, int64_t tokens, wn_tensor *out);
/* An input of this step, its shape and dtype checked, for q rows 0 .. rows - 1: q and k as
 * [tokens, heads, dim] (k: one head), weights as [tokens, heads]. */
wn_status dsa_input(const dsa *self, const wn_step_args *args, uint32_t which, int64_t rows,
                    wn_tensor *tensor);
/* Rows [first, first + count) of an input q or k, made ready for scoring: rounded to bfloat16,
 * rotated and transformed as configured. to: [count, in's heads, dim] bfloat16. */
wn_status dsa_prepare(const dsa *self, const wn_step_args *args, const wn_tensor *in, int64_t first,
                      int64_t count, uint16_t *to);
/* Copies rows of a matrix into another dtype or place, unscaled. */
wn_status dsa_convert(const wn_step_args *args, wn_tensor in, wn_tensor out);

/* dsa_keys.c */
wn_status dsa_declare(void *instance, uint32_t layer, uint32_t tokens_per_page, wn_aux_pool *pools,
                      uint32_t *count, wn_error *error);
wn_status dsa_observe(void *instance, const wn_step_args *args);
uint64_t dsa_observe_workspace(const dsa *self, const wn_step_limits *limits);
wn_indexer_view dsa_keys(const dsa *self, const wn_step_args *args);

/* dsa_select.c */
wn_status dsa_select(void *instance, const wn_step_args *args, wn_selection *out);
uint64_t dsa_select_workspace(const dsa *self, const wn_step_limits *limits);
/* Bytes of step memory that producers and consumers share. */
uint64_t dsa_shared_bytes(const dsa *self, const wn_step_limits *limits);

/* Hands out pieces of a workspace, 64-byte aligned. The function that carves a workspace up runs
 * twice: in bounds() on no memory, for `used` alone, and in the step on the real one. */
typedef struct dsa_space {
    uint8_t *data; /* NULL: only measure */
    uint64_t used;
} dsa_space;

static inline void *dsa_take(dsa_space *space, uint64_t bytes)
{
    void *piece = space->data != NULL ? space->data + space->used : NULL;
    space->used += (bytes + 63) / 64 * 64;
    return piece;
}

/* How many rows of q this call's requests reach up to. Those of the other phase may lie between. */
static inline int64_t dsa_rows(const wn_step_args *args)
{
    int64_t rows = 0;
    for (uint32_t b = 0; b < args->batch; b++)
        if (args->q_begin[b] + args->q_len[b] > rows)
            rows = args->q_begin[b] + args->q_len[b];
    return rows;
}

/* A contiguous tensor [rows, n]. */
static inline wn_tensor dsa_matrix(void *data, uint32_t dtype, int64_t rows, int64_t n)
{
    return (wn_tensor){
        .data = data, .shape = {rows, n}, .stride = {n, 1}, .dtype = dtype, .ndim = 2};
}

/* A contiguous tensor [rows, heads, n]. */
static inline wn_tensor dsa_cube(void *data, uint32_t dtype, int64_t rows, int64_t heads, int64_t n)
{
    return (wn_tensor){.data = data,
                       .shape = {rows, heads, n},
                       .stride = {heads * n, n, 1},
                       .dtype = dtype,
                       .ndim = 3};
}

#endif
