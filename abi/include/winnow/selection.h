/* selection.h: one struct for every convention by which a method says which tokens it means. */
#ifndef WINNOW_SELECTION_H
#define WINNOW_SELECTION_H

#include "winnow/base.h"

/* What an index counts. Physical: block i is slots [i*block_size, (i+1)*block_size) of the request.
 * Logical: block i is the tokens whose position lies in that range; tokens that were evicted are
 * not there and are not an error. The host translates logical lists to slots in place: on a layer
 * that evicts they must therefore have block_size 1 and a list per KV head (WN_EUNSUPPORTED). */
enum { WN_INDEX_PHYSICAL = 1, WN_INDEX_LOGICAL = 2 };

enum {
    /* Each list is strictly ascending: the host need not sort it. A false claim is an error. */
    WN_SELECTION_SORTED = 1
};

/* Filled by a plugin into buffers that the host owns and sized by the plugin's bounds().
 *
 * Rows. retain: one row per request of the step. select: the requests in order, and of each request
 * its query tokens in runs of query_block; request b has ceil(q_len[b] / query_block) rows.
 *
 * Entries of row r and KV head h, at indices[h*head_stride + ...]:
 *   offsets != NULL (CSR)    ... offsets[r] .. offsets[r+1]
 *   offsets == NULL (fixed)  ... r*width .. r*width + width, padded with -1
 * head_stride 0: one list serves all heads. A block outside [0, ceil(length / block_size)) is
 * invalid and ignored, -1 included; for retain it is an error, as is a duplicate or a list that
 * does not ascend (rule WN-P-21). A row without entries attends to nothing. */
typedef struct wn_selection {
    uint32_t struct_size;
    uint32_t block_size;  /* tokens per entry, >= 1; retain: 1 */
    uint32_t index_space; /* WN_INDEX_... */
    uint32_t flags;       /* WN_SELECTION_... */
    uint32_t query_block; /* query tokens that share a row, >= 1; retain: 0 */
    uint32_t rows;        /* set by the host before the call for retain; by the plugin for select */
    int64_t width;        /* fixed form; 0 with CSR */
    int64_t head_stride;  /* entries between the lists of two heads; 0: shared */
    int32_t *indices;     /* host's buffer of `capacity` entries */
    int64_t capacity;
    int32_t
        *offsets; /* host's buffer of offsets_capacity entries; set to NULL for the fixed form */
    int64_t offsets_capacity;
} wn_selection;
WN_STRUCT(wn_selection, offsets_capacity);

#endif
