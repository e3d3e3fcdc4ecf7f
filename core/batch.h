/* batch.h: the metadata and scratch memory of one open step. Private to core. */
#ifndef WN_BATCH_H
#define WN_BATCH_H

#include "core/engine.h"
#include "core/latent_attention.h"

/* Bits of layer_state. */
enum { WN_LAYER_APPENDED = 1, WN_LAYER_ATTENDED = 2 };

/* All arrays are carved out of one allocation (batch.c), made when the batch object is first needed
 * and reused: a step in steady state allocates nothing.
 *
 * "Place" i counts items with the context phase's first: phase p owns places
 * [first[p], first[p] + count[p]), and per-place arrays are handed to ops and plugins as they are.
 */
struct wn_batch {
    wn_engine *engine;
    wn_batch *next; /* in the engine's list of free batches */
    uint32_t num_items, num_tokens;
    uint32_t first[WN_PHASE_COUNT], count[WN_PHASE_COUNT];
    uint32_t phase_tokens[WN_PHASE_COUNT];
    uint32_t failed; /* a wn_attention failed */

    wn_kvcache_item *items;                    /* [num_items], in places */
    uint32_t *item_of;                         /* [num_items] place -> the host's index */
    int32_t *q_begin, *q_len, *logical_length; /* [num_items] */
    uint32_t *request_flags;                   /* [num_items] */
    int64_t *sequence;                         /* [num_items] */
    int32_t *sequence_slot;                    /* [num_items] */
    int32_t *select_row;                       /* [num_items] first row in the phase's selection */
    float *log_threshold;                      /* [num_items] */
    int32_t *position;                         /* [num_tokens] logical, rows of q */
    int32_t **table;                           /* [groups] -> [num_items, max_pages_per_sequence] */
    int32_t **length;      /* [groups] -> [num_items] physical, new tokens included */
    int32_t **dirty_begin; /* [groups] -> [num_items] physical length before */
    int64_t **slot;        /* [groups] -> [num_tokens] page * tokens_per_page + place in it */
    int32_t **kept;        /* [groups] -> [num_items] what a compaction leaves; -1: everything */
    uint8_t *compacted;    /* [num_items] 1: some layer has compacted this item */
    uint8_t *layer_state;  /* [layers] WN_LAYER_... */

    wn_selection select[WN_PHASE_COUNT], retain;
    uint32_t selected[WN_PHASE_COUNT], retained; /* 1: the latest wn_attention chose something */
    int32_t *select_indices[WN_PHASE_COUNT], *select_offsets[WN_PHASE_COUNT];
    int32_t *retain_indices, *retain_offsets;
    uint8_t *workspace;
    uint8_t *partials; /* wn_attend_args.workspace: parts of long requests' attention */
    /* [phases][methods] what each method keeps from layer to layer of this step; NULL: nothing */
    uint8_t *step_memory[WN_PHASE_COUNT][WN_MAX_METHODS];
    wn_latent_rows latent; /* of an MLA model */
    uint8_t *rotated_q;    /* [max_step_tokens, heads, head_dim] if the engine rotates */

    /* The requests that a layer compacts, packed: as above, for retain's call. */
    uint32_t *evict_place; /* -> place */
    uint32_t *evict_item;  /* -> the host's index */
    int32_t *evict_q_begin, *evict_logical, *evict_length, *evict_kept;
    uint32_t *evict_flags;
    int64_t *evict_sequence;
    int32_t *evict_slot, *evict_table;
    int32_t *evict_zero; /* zeros: dirty_begin and q_len of the observe after a compaction */
};

/* Bytes of wn_batch.partials: room for 64 parts of 4 query tokens. Four requests that generate can
 * each be cut for as many threads as there are; a step of more requests is work enough uncut. */
uint64_t wn_batch_partials_bytes(const wn_engine *engine);

#endif
