/* check_host.h: a host in miniature, for one layer and one plugin: a paged cache with shuffled
 * pages and ragged requests, and the calls in the order in which the engine makes them. Buffers are
 * as large as the plugin's bounds() say and not a byte larger, workspaces are filled with rubbish
 * before each call, and pages of one request never are neighbours by design. */
#ifndef WN_TESTS_CHECK_HOST_H
#define WN_TESTS_CHECK_HOST_H

#include "check_plugin.h"

/* The tokens of one request, from its first on. Values must be exact in the model's dtype. */
typedef struct check_tokens {
    const float *q; /* [tokens, num_heads, head_dim] */
    const float *k; /* [tokens, num_kv_heads, head_dim] */
    const float *v; /* likewise */
} check_tokens;

typedef struct check_shape {
    uint32_t num_heads, num_kv_heads, head_dim;
    uint32_t dtype; /* WN_F32 or WN_BF16: of the model and the cache */
    uint32_t batch, tokens_per_page;
    uint32_t max_length;      /* of a request, in tokens */
    uint32_t max_step_tokens; /* of all requests together */
    float softmax_scale;      /* 0: 1/sqrt(head_dim) */
} check_shape;

typedef struct check_host {
    check_shape shape;
    wn_model model;
    wn_value values[CHECK_MAX_FIELDS];
    const check_plugin *plugin;
    void *instance;
    const wn_ops *ops; /* the reference's */

    const check_tokens *tokens;  /* [batch], the caller's */
    int32_t *logical, *physical; /* [batch] */
    /* [batch, num_kv_heads, max_length]: which token is in which slot. What the tests' references
     * work on; the host keeps it as evictions go. */
    int32_t *token_of_slot;

    uint32_t num_pages, pages_per_request;
    int32_t *page_table;
    uint8_t *k, *v;
    wn_paged_kv kv;

    wn_aux_pool pools[WN_MAX_AUX_POOLS];
    wn_aux_view aux[WN_MAX_AUX_POOLS];
    uint32_t num_pools;

    /* Of the step at hand. */
    uint32_t phase;
    int32_t *q_begin, *q_len, *position, *dirty_begin, *sequence_slot;
    int64_t *sequence;
    uint32_t *request_flags;
    uint8_t *q;
    char error_text[512];
    wn_error error;
    wn_step_bounds bounds[WN_PHASE_COUNT];
    void *workspace;
    int32_t *indices, *offsets; /* of the latest selection */
    wn_selection selection;
} check_host;

/* settings: as in check_plugin_values. Pools start with rubbish (page scope) and zeros (sequence
 * scope). seed shuffles the pages. */
check_host *check_host_create(const check_shape *shape, const check_plugin *plugin,
                              const check_setting *settings, const check_tokens *tokens,
                              uint64_t seed);
void check_host_destroy(check_host *host);

/* count [batch] more tokens of each request: written to the cache, then observed. */
wn_status check_host_append(check_host *host, uint32_t phase, const int32_t *count);
/* What the tokens of this step attend to, in host->selection. */
wn_status check_host_select(check_host *host);
/* Ends the prompts of the requests with ends[b] != 0 (all if NULL): asks what to keep of those
 * that are longer than retained_count(), compacts, observes again. host->selection has a row for
 * each request asked about; *num_asked says how many there were (may be NULL). */
wn_status check_host_retain(check_host *host, const int32_t *ends, uint32_t *num_asked);
/* Forgets tokens from the end. */
void check_host_truncate(check_host *host, uint32_t b, int32_t tokens);

/* The attention of this step's tokens with the step's selection (or NULL) and a tile policy (or
 * NULL): out [step tokens, num_heads, head_dim] float32. The op is the phase's. */
wn_status check_host_attend(check_host *host, const wn_selection *selection,
                            const wn_tile_policy *tile, float *out, wn_attend_counters *counters);

/* The step's arguments as the plugin gets them. */
wn_step_args check_host_args(check_host *host);

/* The token in `slot` of KV head h of request b. */
int32_t check_host_token(const check_host *host, uint32_t b, uint32_t h, int32_t slot);
/* One entry list of host->selection. Returns its length, -1 padding cut off. */
int64_t check_host_list(const check_host *host, uint32_t row, uint32_t h, const int32_t **list);

/* Fills tokens with random values that are exact in bfloat16, in [-1, 1) times `size`. The caller
 * frees q, k and v. */
check_tokens check_random_tokens(const check_shape *shape, int32_t num_tokens, double size,
                                 uint64_t *seed);
void check_free_tokens(check_tokens *tokens, uint32_t count);

#endif
