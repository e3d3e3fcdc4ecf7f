/* check_indexer.h: a host in miniature for a method that is fed by an indexer: several layers, the
 * inputs "indexer.*", pools shared by heads, step memory, both phases in one step, page tables that
 * a test may deal out itself. Buffers are exactly as large as the plugin asks for; pools start as
 * codes of NaN, workspaces and page tables beyond a request's length hold rubbish. Requests lie in
 * q in their order, whatever their phase. */
#ifndef WN_TESTS_CHECK_INDEXER_H
#define WN_TESTS_CHECK_INDEXER_H

#include "check_plugin.h"

enum { INDEXER_REQUESTS = 4, INDEXER_LAYERS = 5, INDEXER_LONGEST = 128, INDEXER_PAGE_TOKENS = 8 };
enum { INDEXER_PAGES = INDEXER_LONGEST / INDEXER_PAGE_TOKENS };
enum { INDEXER_STEP = 102 }; /* most tokens of a step */

/* What the model hands over for one request, from its first token on. */
typedef struct indexer_tokens {
    float *q;       /* [INDEXER_LONGEST, heads, dim] */
    float *k;       /* [INDEXER_LONGEST, dim] */
    float *weights; /* [INDEXER_LONGEST, heads] */
} indexer_tokens;

typedef struct indexer_shape {
    uint32_t layers, heads, dim, topk;
    uint32_t dtype;         /* of q and k: WN_F32, WN_BF16 */
    uint32_t spread;        /* 1: rows of the inputs lie apart from each other */
    const float *frequency; /* [32] the model's own rotation of 64 channels; NULL: none */
} indexer_shape;

typedef struct indexer_host {
    indexer_shape shape;
    const check_plugin *plugin;
    wn_model model;
    wn_value values[CHECK_MAX_FIELDS];
    void *instance;
    wn_aux_pool pool[INDEXER_LAYERS];
    uint32_t num_pools[INDEXER_LAYERS], roles[INDEXER_LAYERS];
    uint8_t *pages[INDEXER_LAYERS]; /* pool memory, [num_pages] pieces */
    int64_t page_stride;
    wn_step_bounds bounds;
    void *step_memory;
    int32_t length[INDEXER_REQUESTS];
    int32_t table[INDEXER_REQUESTS][INDEXER_PAGES], num_pages[INDEXER_REQUESTS];
    int32_t free_page[INDEXER_REQUESTS * INDEXER_PAGES], num_free;
    const indexer_tokens (*tokens)[INDEXER_REQUESTS]; /* [layers], the caller's */
    /* What each token attends to: row of `width` entries for each token of a request. */
    int32_t *chosen[INDEXER_LAYERS][INDEXER_REQUESTS];
    char error_text[512];
    wn_error error;
} indexer_host;

/* settings: beside index_n_heads, index_head_dim and index_topk. roles: [layers] or NULL. seed
 * shuffles the pages. */
indexer_host *indexer_host_create(const indexer_shape *shape, const check_plugin *plugin,
                                  const check_setting *settings, const char *const *roles,
                                  const indexer_tokens (*tokens)[INDEXER_REQUESTS], uint64_t seed);
void indexer_host_destroy(indexer_host *host);

/* The schema's values for these settings and roles (NULL: unset). */
void indexer_values(const check_plugin *plugin, const check_setting *settings,
                    const char *const *roles, uint32_t num_roles, wn_value *values);

/* One step: count[b] more tokens of each request, negative: not in the step; those with
 * in_context[b] (NULL: all) are in the context phase. Goes through the layers in order, stops at
 * the first error. */
wn_status indexer_host_step(indexer_host *host, const int32_t *count, const int32_t *in_context);

/* Observe and nothing else, of request b, with these q_len and dirty_begin. */
wn_status indexer_host_observe(indexer_host *host, uint32_t b, int32_t q_len, int32_t dirty_begin);

/* Request `to`, still empty, shares the first `tokens` tokens of `from`: whole pages. */
void indexer_host_share(indexer_host *host, uint32_t from, uint32_t to, int32_t tokens);

/* Entries in a row of chosen. */
int64_t indexer_host_width(const indexer_host *host);

/* Values in [-1, 1) times `size`, exact in bfloat16. The caller frees the three arrays. */
indexer_tokens indexer_random_tokens(const indexer_shape *shape, double size, uint64_t *seed);
void indexer_free_tokens(indexer_tokens *tokens);

#endif
