/* engine.h: what an engine is made of: methods (instances of plugins), a plan per layer and phase,
 * the cache, and the batches that steps run in. Private to core. */
#ifndef WN_ENGINE_H
#define WN_ENGINE_H

#include "core/config_file.h"
#include "core/reasons.h"
#include "core/registry.h"
#include "kvcache/kvcache.h"
#include "winnow/winnow.h"

#include <pthread.h>
#include <stdatomic.h>

#define WN_MAX_HEADS 1024
#define WN_MAX_METHODS 8
#define WN_MAX_INPUTS 16 /* extra inputs of one method */

/* One plugin at work in one engine. */
typedef struct wn_method {
    const wn_loaded_plugin *plugin;
    const wn_method_config *config; /* of the wn_config; only while the engine is being made */
    const char *algorithm;          /* the plugin's own string */
    void *instance;
    wn_value *values;
    uint32_t num_values;
    uint32_t num_inputs;
    uint64_t step_bytes[WN_PHASE_COUNT]; /* greatest of its layers' bounds */
} wn_method;

/* A method's place on one layer: it has a role there, in some phase. */
typedef struct wn_layer_method {
    wn_method *method;
    uint32_t roles[WN_PHASE_COUNT]; /* after phases: and layers: of the configuration */
    uint32_t num_aux;
    wn_aux_view aux[WN_MAX_AUX_POOLS];
    const char *fixed_pool; /* a page-scope pool that cannot be rebuilt from the keys, or NULL */
    uint64_t aux_bytes_per_page; /* page-scope memory of one page, all heads: what select reads */
} wn_layer_method;

/* Owners of the roles of one layer in one phase; NULL: the engine's own (dense, keep everything).
 */
typedef struct wn_phase_plan {
    wn_layer_method *retain, *select, *tile_policy, *attend;
} wn_phase_plan;

/* wn_counters, for adding from several batches at once. */
typedef struct wn_layer_counters {
    _Atomic uint64_t calls, query_tokens, keys_visible, keys_selected, keys_attended;
    _Atomic uint64_t aux_bytes_read, tokens_dropped, dense_fallbacks;
    _Atomic uint64_t append_ns, observe_ns, select_ns, attend_ns, retain_ns;
} wn_layer_counters;

typedef struct wn_layer {
    uint32_t group;
    uint32_t num_methods;
    wn_layer_method *methods; /* [num_methods] */
    wn_phase_plan phase[WN_PHASE_COUNT];
    wn_paged_kv view; /* page tables and lengths not filled in */
    wn_layer_counters counters[WN_PHASE_COUNT];
    wn_attend_counters *head_counters[WN_PHASE_COUNT]; /* [num_heads] */
} wn_layer;

/* Greatest sizes over all layers: what one batch must have room for. */
typedef struct wn_batch_bounds {
    uint64_t workspace_bytes;
    uint64_t select_indices[WN_PHASE_COUNT], select_offsets[WN_PHASE_COUNT];
    uint64_t retain_indices;
} wn_batch_bounds;

struct wn_engine {
    wn_model model; /* arrays are the engine's own copies */
    uint32_t tokens_per_page, max_sequences, max_batch, max_step_tokens, max_pages_per_sequence;
    uint32_t kv_dtype, layout, vec_x, num_pages;
    uint32_t on_error_dense, granularity_page, keep_positions;
    const wn_executor *executor;
    const wn_ops *ops;

    wn_method methods[WN_MAX_METHODS];
    uint32_t num_methods;
    wn_layer *layers; /* [model.num_layers] */
    uint32_t num_groups;
    uint32_t *layer_group;          /* [model.num_layers] */
    uint8_t *group_keeps_positions; /* [num_groups] */
    wn_method **group_retain;       /* [num_groups] the method that evicts, or NULL */
    wn_kvcache_aux *aux;
    uint32_t num_aux;
    wn_batch_bounds bounds;
    char *plan_text;

    wn_kvcache *cache;
    wn_memory_plan memory;
    atomic_int timing;

    pthread_mutex_t lock; /* of the two below */
    wn_batch *free_batches;
    uint32_t open_batches;
};

/* plan.c: methods, roles, groups. Every reason for refusal goes to reasons. */
wn_status wn_plan_methods(wn_engine *engine, wn_registry *registry, const wn_config *config,
                          wn_reason_list *reasons);
void wn_plan_release(wn_engine *engine);

/* batch.c: bytes of one batch object with all its buffers. */
uint64_t wn_batch_bytes(const wn_engine *engine);
void wn_batch_destroy(wn_batch *batch);

#endif
