/* replay.h: a trace put through an engine, step by step, as a host would: the prompt in one or more
 * chunks, then one token at a time; and everything that came out and that the methods chose. */
#ifndef WN_TOOLS_REPLAY_H
#define WN_TOOLS_REPLAY_H

#include "tools/trace.h"

/* What a method selected, row by row, as logical positions. A list serves one row and KV head, or
 * all of the row's KV heads, whose spans are then the same. */
typedef struct wn_span {
    int64_t begin, end;
} wn_span;

typedef struct wn_choices {
    int32_t *position; /* ascending within a span */
    int64_t used, capacity;
    wn_span *span;    /* [rows, kv heads] into position */
    uint8_t *chosen;  /* [rows] 0: nothing was selected, attention saw the whole cache */
    int32_t any;      /* 1: chosen is not all 0 */
    int32_t separate; /* 1: some row's KV heads have lists of their own */
} wn_choices;

/* One layer of one replay. */
typedef struct wn_replay_layer {
    void *out;         /* [tokens, heads, v_head_dim], the trace's dtype */
    float *lse;        /* [tokens, heads] */
    int32_t kept;      /* tokens of the prompt in the cache when generation began, per KV head */
    int32_t *retain;   /* [kv heads, kept] their logical positions, ascending; NULL: all of them */
    wn_choices prompt; /* rows: the prompt's tokens; empty unless asked for */
    wn_choices generation; /* rows: generation steps */
    /* [steps, kv heads] share of the tiles that were computed, not skipped inside the kernel */
    float *computed;
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

/* Zeroes: the prompt at once, and what is selected while it is read is not kept. */
typedef struct wn_replay_options {
    int64_t chunk;               /* prompt tokens per step; 0: all at once */
    int32_t keep_prompt_choices; /* fill wn_replay_layer.prompt: rows x budget entries */
    int32_t reserved;
} wn_replay_options;

/* A failure's text is in *error. */
wn_status wn_replay_run(wn_registry *registry, const wn_config *config, const char *name,
                        const wn_trace *trace, const wn_replay_options *options, wn_replay **replay,
                        wn_error *error);
void wn_replay_free(wn_replay *replay); /* NULL is fine */

/* What query heads of kv_head could see from row `row` of the trace: visible[t] = 1 for each
 * logical position t <= row that was in the cache and, where something was selected, selected. A
 * row of the prompt needs its choices kept. visible: [tokens], all of it written. */
void wn_replay_visible(const wn_replay *replay, uint32_t layer, int64_t row, uint32_t kv_head,
                       uint8_t *visible);

#endif
