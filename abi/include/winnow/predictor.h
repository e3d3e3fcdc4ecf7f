/* predictor.h: interface winnow.predictor/1, for methods that retain or select. */
#ifndef WINNOW_PREDICTOR_H
#define WINNOW_PREDICTOR_H

#include "winnow/selection.h"
#include "winnow/step.h"

#define WN_INTERFACE_PREDICTOR "winnow.predictor/1"

/* The greatest step that an engine will ever run. */
typedef struct wn_step_limits {
    uint32_t struct_size;
    uint32_t phase;      /* WN_PHASE_... */
    uint32_t batch;      /* requests */
    uint32_t tokens;     /* query tokens, over all requests */
    uint32_t max_length; /* longest physical length */
    uint32_t tokens_per_page;
} wn_step_limits;
WN_STRUCT(wn_step_limits, tokens_per_page);

/* Most that one call can need. The host allocates it once, before the first step. */
typedef struct wn_step_bounds {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t retain_indices;  /* int32 entries, all heads */
    uint64_t select_indices;  /* int32 entries, all heads */
    uint64_t select_offsets;  /* int32 entries; 0 for the fixed form */
    uint64_t workspace_bytes; /* for any of the plugin's calls on this layer and phase */
    uint64_t step_bytes;      /* memory that lives from layer to layer within one step */
} wn_step_bounds;
WN_STRUCT(wn_step_bounds, step_bytes);

enum {
    WN_EVENT_BEGIN = 1,    /* sequence created */
    WN_EVENT_FORK = 2,     /* created as a copy of `parent`, sequence-scope memory copied already */
    WN_EVENT_TRUNCATE = 3, /* cut to `length` tokens */
    WN_EVENT_END = 4       /* freed */
};

typedef struct wn_sequence_event {
    uint32_t struct_size;
    uint32_t kind; /* WN_EVENT_... */
    int64_t sequence;
    int64_t parent; /* FORK, else 0 */
    int32_t length; /* logical length after the event */
    int32_t reserved;
} wn_sequence_event;
WN_STRUCT(wn_sequence_event, reserved);

/* Any function may be NULL if the plugin claims no role that needs it. A call that fails fails the
 * step; WN_EUNSUPPORTED means "I decline this call". If the configuration says on_error: dense, a
 * failed select, tile_policy or attend becomes dense attention for that call, and is counted; a
 * failed observe or retain fails the step in any case.
 * Steps over different sequences may run at the same time, on one instance: what a step call
 * leaves in the instance must bear that (`& concurrent`). State of a sequence belongs into
 * sequence-scope auxiliary pools. */
typedef struct wn_predictor_interface {
    uint32_t struct_size;
    uint32_t reserved;
    /* Required with RETAIN or SELECT, and wherever a workspace is used. [control] */
    wn_status (*bounds)(void *instance, uint32_t layer, const wn_step_limits *limits,
                        wn_step_bounds *out, wn_error *error);
    /* How many tokens per KV head stay of a prompt whose physical length is `length`. Depends on
     * nothing else; 0 <= result <= length. Required with RETAIN. [control] [step] & concurrent */
    int32_t (*retained_count)(void *instance, int32_t length);
    /* After attention, for requests whose prompt is complete: which slots stay, per KV head, CSR
     * with offsets, physical, ascending, retained_count() of them. Requests of which everything
     * stays are not in the call. q_len is 0: with a chunked prompt most of its queries are gone;
     * observe() is where a method puts aside what it will need. kv.length is the length before the
     * compaction. [step] & capture-safe & concurrent */
    wn_status (*retain)(void *instance, const wn_step_args *args, wn_selection *out);
    /* Before attention: what each query attends to. [step] & capture-safe & concurrent */
    wn_status (*select)(void *instance, const wn_step_args *args, wn_selection *out);
    /* Optional. May come while steps over other sequences run. [control] & concurrent */
    wn_status (*event)(void *instance, const wn_sequence_event *event);
} wn_predictor_interface;
WN_STRUCT(wn_predictor_interface, event);

#endif
