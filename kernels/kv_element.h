/* kv_element.h: where an element of a paged cache lies, and what it stands for: the formulas of
 * wn_kv_view (winnow/cache_view.h), once, in 64-bit arithmetic. */
#ifndef WN_KV_ELEMENT_H
#define WN_KV_ELEMENT_H

#include "kernels/number_format.h"
#include "winnow/cache_view.h"

/* Elements from view->data to element d of the token at `place` of `page`, of one KV head. */
static inline int64_t wn_kv_offset(const wn_kv_view *view, uint32_t tokens_per_page, int64_t page,
                                   int64_t head, int64_t place, int64_t d)
{
    int64_t start = page * view->page_stride + head * view->head_stride;
    int64_t x = view->vec_x;
    switch (view->layout) { /* WN_LAYOUT_MLA_FP8 has records, not elements: see below */
    case WN_LAYOUT_VEC_K:
        return start + (d / x * tokens_per_page + place) * x + d % x;
    case WN_LAYOUT_VEC_V:
        return start + (place / x * view->dim + d) * x + place % x;
    default:
        return start + place * view->token_stride + d;
    }
}

/* Floats from view->scale to a token's scale. */
static inline int64_t wn_kv_scale_offset(const wn_kv_view *view, int64_t page, int64_t head,
                                         int64_t place)
{
    return page * view->scale_page_stride + head * view->scale_head_stride + place;
}

/* What the codes of a token are multiplied by. */
static inline double wn_kv_scale(const wn_kv_view *view, int64_t page, int64_t head, int64_t place)
{
    double scale = view->tensor_scale;
    if (view->scale != NULL)
        scale *= view->scale[wn_kv_scale_offset(view, page, head, place)];
    return scale;
}

/* ---- WN_LAYOUT_MLA_FP8. Records need no alignment: their parts are read with memcpy. */

enum {
    WN_MLA_CODES_PER_SCALE = 128,
    WN_MLA_SCALES_AT = WN_MLA_LATENT_DIM,      /* bytes from the record to its scales */
    WN_MLA_ROPE_AT = WN_MLA_SCALES_AT + 4 * 4, /* and to its rope part */
};

/* The record of a token. */
static inline uint8_t *wn_kv_record(const wn_kv_view *view, int64_t page, int64_t head,
                                    int64_t place)
{
    return (uint8_t *)view->data + page * view->page_stride + head * view->head_stride +
           place * view->token_stride;
}

static inline double wn_mla_record_value(const uint8_t *record, int64_t d)
{
    if (d < WN_MLA_LATENT_DIM) {
        float scale;
        memcpy(&scale, record + WN_MLA_SCALES_AT + d / WN_MLA_CODES_PER_SCALE * 4, sizeof scale);
        return wn_bf16_to_double(wn_bf16_from_double(wn_e4m3_to_double(record[d]) * scale));
    }
    uint16_t bits;
    memcpy(&bits, record + WN_MLA_ROPE_AT + (d - WN_MLA_LATENT_DIM) * 2, sizeof bits);
    return wn_bf16_to_double(bits);
}

/* ---- any layout */

/* The number that an element stands for: code * scale. */
static inline double wn_kv_value(const wn_kv_view *view, uint32_t tokens_per_page, int64_t page,
                                 int64_t head, int64_t place, int64_t d)
{
    if (view->layout == WN_LAYOUT_MLA_FP8)
        return wn_mla_record_value(wn_kv_record(view, page, head, place), d);
    return wn_load(view->data, view->dtype,
                   wn_kv_offset(view, tokens_per_page, page, head, place, d)) *
           wn_kv_scale(view, page, head, place);
}

/* The page in which a slot of a request lies. */
static inline int64_t wn_kv_page(const wn_paged_kv *kv, int64_t request, int64_t slot)
{
    return kv->page_table[request * kv->page_table_stride + slot / kv->tokens_per_page];
}

/* int32s from kv->position to the position of a token. */
static inline int64_t wn_kv_position_offset(const wn_paged_kv *kv, int64_t page, int64_t head,
                                            int64_t place)
{
    return page * kv->position_page_stride + head * kv->position_head_stride + place;
}

/* Logical position of the key in a slot of a request. */
static inline int64_t wn_kv_position(const wn_paged_kv *kv, int64_t request, int64_t head,
                                     int64_t slot)
{
    if (kv->position == NULL)
        return slot;
    return kv->position[wn_kv_position_offset(kv, wn_kv_page(kv, request, slot), head,
                                              slot % kv->tokens_per_page)];
}

#endif
