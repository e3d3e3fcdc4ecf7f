/* shadow_reference.h: a naive cache that shares nothing, kept beside a real one. Each sequence has
 * arrays of its own; what a token, an auxiliary page or an auxiliary sequence holds is a stamp, a
 * number used once, from which its bytes follow. A fork copies everything. So the shadow knows
 * nothing of pages, references and copy on write, and whatever these get wrong shows as a
 * difference in content. */
#ifndef WN_TESTS_SHADOW_REFERENCE_H
#define WN_TESTS_SHADOW_REFERENCE_H

#include "cache_reference.h"

enum { SHADOW_TOKENS = 80, SHADOW_PAGES = 20, SHADOW_SEQUENCES = 10 };

typedef struct shadow_sequence {
    int64_t id;
    int32_t logical, floor, next_position;
    int32_t position_of[SHADOW_TOKENS]; /* of each logical token */
    uint32_t jumps;                     /* steps that left a gap in the positions */
    int32_t length[CACHE_GROUPS];       /* physical */
    uint64_t token[CACHE_LAYERS][CACHE_HEADS][SHADOW_TOKENS]; /* stamp by slot */
    int32_t position[CACHE_LAYERS][CACHE_HEADS][SHADOW_TOKENS];
    uint64_t aux_page[CACHE_AUX][SHADOW_PAGES][CACHE_HEADS];
    uint64_t aux_sequence[CACHE_AUX]; /* 0: zeros */
} shadow_sequence;

typedef struct shadow {
    wn_kvcache *cache;
    const wn_kvcache_shape *shape;
    const wn_ops *ops; /* compact */
    uint32_t count;
    shadow_sequence sequence[SHADOW_SEQUENCES]; /* `count` of them, in no order */
    uint64_t last_stamp;
} shadow;

shadow_sequence *shadow_find(shadow *of, int64_t id);
/* The real one was created or forked; parent NULL: created. NULL: the shadow is full. */
shadow_sequence *shadow_add(shadow *of, int64_t id, const shadow_sequence *parent);
void shadow_remove(shadow *of, int64_t id);

/* Call once the real cache has done the same. */
void shadow_truncate(shadow_sequence *sequence, int32_t length);

/* After begin of this item: writes stamps to both sides, as the layers of a step would: tokens of
 * all layers, auxiliary pages from the lookback on, auxiliary sequence memory. positions go on at
 * first_position. */
void shadow_write(shadow *of, shadow_sequence *sequence, int32_t num_tokens,
                  int32_t first_position);
/* Lengths, not contents, back to what they were: aborted. */
void shadow_unwrite(shadow_sequence *sequence, const shadow_sequence *before);
/* Keeps `keep` random tokens per layer and head of group 0: compacts the real one by the op and
 * rewrites all auxiliary pages. */
wn_status shadow_compact(shadow *of, shadow_sequence *sequence, int32_t keep, uint64_t *random);

/* Compares every visible byte of all sequences, lengths and positions. The number of differences;
 * the first ones are printed. */
uint32_t shadow_differences(const shadow *of);
/* Do references, as the page tables show them, and counters agree? Differences, printed. */
uint32_t shadow_miscounts(const shadow *of);
/* Pages of a group that the step lacks, by brute force; 0 or less: none. */
int64_t shadow_pages_missing(const shadow *of, const wn_kvcache_item *items, uint32_t num_items,
                             uint32_t group);

#endif
