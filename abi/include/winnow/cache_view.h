/* cache_view.h: how kernels and plugins see a paged cache. Views own nothing; they are valid for
 * the call that receives them. All are embedded by value: frozen.
 *
 * A request's tokens live in slots 0 .. physical length - 1. Slot s is in page
 * page_table[request][s / tokens_per_page], at place s % tokens_per_page of it. */
#ifndef WINNOW_CACHE_VIEW_H
#define WINNOW_CACHE_VIEW_H

#include "winnow/tensor.h"

/* Where element d of the token at place t of page p, head h is stored, in elements from data:
 *   STRIDED  p*page_stride + h*head_stride + t*token_stride + d        (hnd and nhd by strides)
 *   VEC, K   p*page_stride + h*head_stride + ((d/x)*tokens_per_page + t)*x + d%x
 *   VEC, V   p*page_stride + h*head_stride + ((t/x)*dim + d)*x + t%x
 * with x = vec_x. VEC needs dim % x == 0 for K and tokens_per_page % x == 0 for V. */
enum { WN_LAYOUT_STRIDED = 1, WN_LAYOUT_VEC_K = 2, WN_LAYOUT_VEC_V = 3, WN_LAYOUT_MLA_FP8 = 4 };

/* WN_LAYOUT_MLA_FP8: one record of 656 bytes per token (DeepSeek V3.2's), dtype WN_U8, strides in
 * bytes, at p*page_stride + t*token_stride:
 *   bytes   0 .. 511  512 e4m3 codes, the latent
 *   bytes 512 .. 527  4 float32 scales, one per 128 codes
 *   bytes 528 .. 655  64 bfloat16, the rope part
 * Channel d < 512 stands for bfloat16(code * scale), rounded once; channel 512 + i for bfloat16 i.
 * A view of dim 576 is K, one of dim 512 V. */
enum { WN_MLA_LATENT_DIM = 512, WN_MLA_ROPE_DIM = 64, WN_MLA_RECORD_BYTES = 656 };

/* One pool (K or V) of one layer. A stored code stands for code * scale: tensor_scale, times, where
 * `scale` is given, scale[p*scale_page_stride + h*scale_head_stride + t]. */
typedef struct wn_kv_view {
    void *data;
    float *scale; /* NULL: none. One float32 per page, head and place: survives compaction */
    int64_t page_stride, head_stride, token_stride; /* elements of dtype */
    int64_t scale_page_stride, scale_head_stride;   /* floats */
    uint32_t dtype;                                 /* WN_F32, F16, BF16, F8_E4M3, I8 */
    uint32_t layout;                                /* WN_LAYOUT_... */
    uint32_t vec_x;                                 /* VEC only, else 0 */
    uint32_t dim;                                   /* elements per token and head */
    float tensor_scale;                             /* 1 where there is none; never 0 */
    uint32_t reserved;
} wn_kv_view;
WN_STRUCT(wn_kv_view, reserved);

/* K, V and the page tables of one layer for the requests of one call. */
typedef struct wn_paged_kv {
    wn_kv_view k, v;
    const int32_t *page_table; /* [batch, page_table_stride], page ids */
    int64_t page_table_stride;
    const int32_t *length; /* [batch] physical length, this step's new tokens included */
    /* Logical position of each stored key, paged like the cache; NULL: position == slot.
     * position[p*position_page_stride + h*position_head_stride + t] */
    int32_t *position;
    int64_t position_page_stride, position_head_stride;
    uint32_t batch;
    uint32_t tokens_per_page;
    uint32_t num_kv_heads;
    uint32_t reserved;
} wn_paged_kv;
WN_STRUCT(wn_paged_kv, reserved);

/* Min/max summaries ("landmarks") of landmark_size consecutive slots each, kept in a paged pool.
 * Landmark l summarises slots [l*landmark_size, (l+1)*landmark_size), cut at the physical length.
 * It is stored in the page of its first slot, page index P = l*landmark_size / tokens_per_page, at
 * place l - ceil(P*tokens_per_page / landmark_size) of it, so that any landmark_size works; its
 * last slots may lie in the next page. Channel d of its minimum is element
 *   page*page_stride + head*head_stride + place*landmark_stride + d
 * of data, the maximum is max_offset elements further. A page holds at most
 * ceil(tokens_per_page / landmark_size) landmarks. */
typedef struct wn_landmark_view {
    void *data;
    int64_t page_stride, head_stride, landmark_stride, max_offset; /* elements of dtype */
    uint32_t dtype; /* WN_F32, BF16, F16, F8_E5M2, F8_E4M3 */
    uint32_t landmark_size;
} wn_landmark_view;
WN_STRUCT(wn_landmark_view, landmark_size);

/* Keys of a lightning indexer, one vector per token, paged by the KV cache's page ids. A page, at
 * data + page*page_stride bytes, is planar:
 *   WN_F8_E4M3   tokens_per_page * dim codes, a multiple of 4, then tokens_per_page float32 scales
 *   WN_I8        likewise; codes in -63 .. 63 (seven bits) are scored fastest, and indexer_append
 *                writes no others
 *   WN_BF16      tokens_per_page * dim bfloat16, no scales
 * Embedded by value: frozen. */
typedef struct wn_indexer_view {
    uint8_t *data;
    int64_t page_stride; /* bytes, a multiple of 4 */
    uint32_t dtype;      /* WN_F8_E4M3, WN_I8, WN_BF16 */
    uint32_t dim;
    uint32_t tokens_per_page;
    uint32_t reserved;
} wn_indexer_view;
WN_STRUCT(wn_indexer_view, reserved);

#endif
