/* replay.h: a trace put through an engine, step by step, as a host would: the prompt in one or more
 * chunks, then one token at a time; and everything that came out and that the methods chose. */
#ifndef WN_TOOLS_REPLAY_H
#define WN_TOOLS_REPLAY_H

#include "tools/trace.h"

/* One layer of one replay. */
typedef struct wn_replay_layer {
    void *out;       /* [tokens, heads, v_head_dim], the trace's dtype */
    float *lse;      /* [tokens, heads] */
    int32_t kept;    /* tokens of the prompt in the cache when generation began, per KV head */
    int32_t *retain; /* [kv heads, kept] their logical positions, ascending; NULL: all of them */
    /* Logical positions selected in generation step s for KV head h, ascending:
     * selected[select_begin[s * kv_heads + h] .. select_begin[s * kv_heads + h + 1]).
     * select_step[s] 0: nothing was selected in that step, attention saw the whole cache. */
    int32_t *selected;
    int64_t *select_begin; /* [steps * kv heads + 1] */
    uint8_t *select_step;  /* [steps] */
    int64_t selected_capacity;
    int32_t selects; /* 1: select_step is not all 0 */
    int32_t reserved;
    wn_counters counters[WN_PHASE_COUNT];
} wn_replay_layer;

typedef struct wn_replay {
    const wn_trace *trace;
    char *name;
    char *plan;                                 /* wn_engine_plan's text */
    double context_seconds, generation_seconds; /* in wn_batch_begin, wn_attention, wn_batch_end */
    double token_bytes; /* of the cache for one token on one layer: K, V and scales, all KV heads */
    wn_memory_plan memory;
    int64_t steps;           /* generation steps: tokens - context */
    wn_replay_layer *layers; /* [trace->num_layers] */
} wn_replay;

/* chunk: prompt tokens per step; 0: all at once. A failure's text is in *error. */
wn_status wn_replay_run(wn_registry *registry, const wn_config *config, const char *name,
                        const wn_trace *trace, int64_t chunk, wn_replay **replay, wn_error *error);
void wn_replay_free(wn_replay *replay); /* NULL is fine */

/* What query heads of kv_head could see in generation step `step`: visible[t] = 1 for each logical
 * position t <= context + step that was in the cache and, where something was selected, selected.
 * visible: [tokens], all of it written. */
void wn_replay_visible(const wn_replay *replay, uint32_t layer, int64_t step, uint32_t kv_head,
                       uint8_t *visible);

#endif
