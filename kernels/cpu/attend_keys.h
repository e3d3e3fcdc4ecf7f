/* attend_keys.h: the keys that some query tokens of a request attend to at one KV head, block by
 * block: which slots, where they lie, at which positions, and which of the tokens sees which. What
 * nobody sees is not in a block, so that it is never read. Dense ranges are filled page by page;
 * slots that a window hides from everybody are jumped over. kernels/ref/attend_keys.c does the same
 * key by key. */
#ifndef WN_CPU_ATTEND_KEYS_H
#define WN_CPU_ATTEND_KEYS_H

#include "kernels/cpu/vector.h"
#include "kernels/kv_element.h"
#include "winnow/ops.h"

#include <stdbool.h>

enum {
    WN_KEYS_MOST = 256,               /* keys of a block at most: a policy's largest tile */
    WN_KEYS_USUAL = 64,               /* keys of a block where no policy says otherwise */
    WN_KEYS_ROOM = WN_KEYS_MOST + 16, /* of which wn_key_pad fills some beyond the last */
};

/* Goes through the keys in ascending order, each once. Number x of the keys that the selection
 * gives (without one: slot x) is the key's ordinal; block t holds those of the ordinals t*step ..
 * (t+1)*step - 1 that some token sees. */
typedef struct wn_key_walk {
    const wn_attend_args *args;
    int64_t request, head;
    int64_t first_token, num_tokens;  /* of the request */
    int64_t length, shift;            /* token i is at slot i + shift */
    int64_t oldest, newest;           /* least and greatest position of the tokens */
    int64_t end;                      /* no key from this slot on */
    int64_t gap_begin, gap_end;       /* slots that the window hides from all tokens; dense only */
    const int32_t *entry, *entry_end; /* blocks of the selection still to come */
    int64_t slot, slot_end;           /* the rest of the current one */
    int64_t ordinal, step;
    bool wants_position; /* mask or scores depend on positions */
} wn_key_walk;

typedef struct wn_key_block {
    int64_t tile;  /* ordinal / step of all its keys */
    int64_t count; /* <= step, and may be 0: nobody sees any */
    bool partial;  /* some token does not see some key: ask wn_key_sees */
    int64_t slot[WN_KEYS_ROOM];
    int32_t position[WN_KEYS_ROOM]; /* filled where mask or scores need it */
    int32_t page[WN_KEYS_ROOM], place[WN_KEYS_ROOM];
    /* From view->data to the row of KV head 0, in elements (MLA records: bytes); KV head h is
     * h * head_stride further. Nothing with VEC layouts. */
    int64_t k[WN_KEYS_ROOM], v[WN_KEYS_ROOM];
} wn_key_block;

static inline int64_t wn_key_position_of_token(const wn_attend_args *a, int64_t request,
                                               int64_t token)
{
    if (a->q_position != NULL)
        return a->q_position[a->q_begin[request] + token];
    return token + a->kv.length[request] - a->q_len[request];
}

/* Do the blocks of all KV heads of a request hold the same keys at the same positions? Then one
 * walk serves all of them. */
static inline bool wn_keys_are_shared(const wn_attend_args *a)
{
    bool wants_position = a->window > 0 || a->alibi_slopes != NULL;
    return (a->selection == NULL || a->selection->head_stride == 0) &&
           (!wants_position || a->kv.position == NULL || a->kv.position_head_stride == 0);
}

/* A row's list in the selection, without the padding at its end. */
static inline const int32_t *wn_key_list(const wn_selection *s, int64_t head, int64_t row,
                                         int64_t *count)
{
    const int32_t *list = s->indices + head * s->head_stride;
    int64_t begin = s->offsets != NULL ? s->offsets[row] : row * s->width;
    int64_t end = s->offsets != NULL ? s->offsets[row + 1] : begin + s->width;
    while (end > begin && list[end - 1] < 0)
        end--;
    *count = end - begin;
    return list + begin;
}

static inline void wn_key_find_gap(wn_key_walk *w)
{
    const wn_attend_args *a = w->args;
    int64_t end = w->oldest - a->window + 1;
    if (a->window == 0 || a->kv.position != NULL || end <= a->token_sinks)
        return;
    w->gap_begin = a->token_sinks < w->end ? a->token_sinks : w->end;
    w->gap_end = end < w->end ? end : w->end;
}

/* The keys of num_tokens >= 1 query tokens from first_token on. row: of the selection, if there is
 * one. step: 1 .. WN_KEYS_MOST. */
static inline wn_key_walk wn_key_walk_begin(const wn_attend_args *a, int64_t request, int64_t head,
                                            int64_t first_token, int64_t num_tokens, int64_t row,
                                            int64_t step)
{
    wn_key_walk w = {.args = a,
                     .request = request,
                     .head = head,
                     .first_token = first_token,
                     .num_tokens = num_tokens,
                     .length = a->kv.length[request],
                     .shift = (int64_t)a->kv.length[request] - a->q_len[request],
                     .step = step,
                     .wants_position = a->window > 0 || a->alibi_slopes != NULL};
    w.oldest = w.newest = wn_key_position_of_token(a, request, first_token);
    for (int64_t i = 1; i < num_tokens; i++) {
        int64_t p = wn_key_position_of_token(a, request, first_token + i);
        w.oldest = p < w.oldest ? p : w.oldest;
        w.newest = p > w.newest ? p : w.newest;
    }
    w.end = w.length;
    if (a->causal && first_token + num_tokens + w.shift < w.end)
        w.end = first_token + num_tokens + w.shift;
    if (w.end < 0)
        w.end = 0;
    if (a->selection == NULL) {
        wn_key_find_gap(&w);
        w.slot = w.gap_begin == 0 ? w.gap_end : 0;
        w.ordinal = w.slot;
        w.slot_end = w.end;
        return w;
    }
    int64_t count;
    w.entry = wn_key_list(a->selection, head, row, &count);
    w.entry_end = w.entry + count;
    return w;
}

/* The slots that a block of the selection stands for; false if there are none. */
static inline bool wn_key_entry_slots(const wn_key_walk *w, int32_t index, int64_t *begin,
                                      int64_t *end)
{
    const wn_attend_args *a = w->args;
    int64_t page = a->kv.tokens_per_page, size = a->selection->block_size;
    *begin = index * size;
    *end = *begin + size < w->length ? *begin + size : w->length;
    if (index < 0 || *begin >= w->length)
        return false;
    if (a->granularity == WN_GRANULARITY_PAGE) {
        *begin = *begin / page * page;
        *end = (*end + page - 1) / page * page;
    }
    return true;
}

/* Keeps part `part` of `parts` of the keys, for a walk that has just begun: the parts together are
 * all keys, cut where the keys' number and the list alone say. Ordinals of a selection then count
 * from the part's first key. */
static inline void wn_key_walk_part(wn_key_walk *w, int64_t part, int64_t parts)
{
    if (w->args->selection != NULL) {
        int64_t count = w->entry_end - w->entry, begin, end;
        const int32_t *list = w->entry;
        w->entry = list + count * part / parts;
        w->entry_end = list + count * (part + 1) / parts;
        for (const int32_t *before = w->entry; before != list;)
            if (wn_key_entry_slots(w, *--before, &begin, &end)) {
                w->slot = w->slot_end = end; /* a page that two blocks touch is met once */
                break;
            }
        return;
    }
    int64_t gap = w->gap_end - w->gap_begin, keys = w->end - gap;
    int64_t blocks = (keys + WN_KEYS_USUAL - 1) / WN_KEYS_USUAL;
    int64_t begin = blocks * part / parts * WN_KEYS_USUAL;
    int64_t end = blocks * (part + 1) / parts * WN_KEYS_USUAL;
    end = end < keys ? end : keys;
    w->slot = begin < w->gap_begin ? begin : begin + gap;
    if (begin < end)
        w->end = (end - 1 < w->gap_begin ? end - 1 : end - 1 + gap) + 1;
    else
        w->end = w->slot;
    w->ordinal = w->slot;
    w->slot_end = w->end;
}

/* Makes the next block of the selection the current one. Slots before slot_end were met already:
 * pages that several blocks touch. */
static inline void wn_key_open_entry(wn_key_walk *w)
{
    int64_t begin, end;
    if (!wn_key_entry_slots(w, *w->entry++, &begin, &end))
        return;
    begin = begin > w->slot_end ? begin : w->slot_end;
    end = end < w->end ? end : w->end;
    if (begin < end) {
        w->slot = begin;
        w->slot_end = end;
    }
}

/* Does a token see a key of the walk? */
static inline bool wn_key_sees(const wn_key_walk *w, int64_t token, int64_t slot, int64_t position)
{
    const wn_attend_args *a = w->args;
    if (a->causal && slot > token + w->shift)
        return false;
    return a->window == 0 || position < a->token_sinks ||
           position > wn_key_position_of_token(a, w->request, token) - a->window;
}

/* `count` slots from `slot` on, all in one page, to the end of the block. */
static inline void wn_key_append_run(const wn_key_walk *w, wn_key_block *b, int64_t slot,
                                     int64_t page_index, int64_t place, int64_t count)
{
    const wn_paged_kv *kv = &w->args->kv;
    int64_t page = kv->page_table[w->request * kv->page_table_stride + page_index], n = b->count;
    int64_t k = page * kv->k.page_stride + place * kv->k.token_stride;
    int64_t v = page * kv->v.page_stride + place * kv->v.token_stride;
    for (int64_t j = 0; j < count; j++) {
        b->slot[n + j] = slot + j;
        b->page[n + j] = (int32_t)page;
        b->place[n + j] = (int32_t)(place + j);
        b->k[n + j] = k + j * kv->k.token_stride;
        b->v[n + j] = v + j * kv->v.token_stride;
    }
    if (w->wants_position && kv->position == NULL)
        for (int64_t j = 0; j < count; j++)
            b->position[n + j] = (int32_t)(slot + j);
    else if (w->wants_position)
        memcpy(b->position + n, kv->position + wn_kv_position_offset(kv, page, w->head, place),
               (size_t)count * sizeof *b->position);
    b->count += count;
}

/* Takes those keys out of a block that no token sees, and says whether all see the others. */
static inline void wn_key_mask(const wn_key_walk *w, wn_key_block *b)
{
    const wn_attend_args *a = w->args;
    bool late = a->causal && b->count > 0 &&
                b->slot[b->count - 1] > w->first_token + w->shift; /* slots ascend */
    int64_t kept = 0;
    b->partial = late;
    if (a->window == 0)
        return; /* the last token sees all that is before w->end */
    bool all = !late;
    for (int64_t j = 0; j < b->count && all; j++)
        all = b->position[j] > w->newest - a->window || b->position[j] < a->token_sinks;
    b->partial = !all;
    for (int64_t j = 0; j < b->count && !all; j++) {
        bool seen = false;
        for (int64_t t = w->num_tokens; t-- > 0 && !seen;)
            seen = wn_key_sees(w, w->first_token + t, b->slot[j], b->position[j]);
        b->slot[kept] = b->slot[j];
        b->position[kept] = b->position[j];
        b->page[kept] = b->page[j];
        b->place[kept] = b->place[j];
        b->k[kept] = b->k[j];
        b->v[kept] = b->v[j];
        kept += seen;
    }
    b->count = all ? b->count : kept;
}

/* Fills in the next block; false if no key is left. */
static inline bool wn_key_walk_next(wn_key_walk *w, wn_key_block *b)
{
    uint32_t tokens = w->args->kv.tokens_per_page;
    int64_t limit = 0;
    bool any = false;
    b->count = 0;
    for (;;) {
        if (w->slot == w->gap_begin && w->slot < w->gap_end) {
            w->ordinal += w->gap_end - w->slot;
            w->slot = w->gap_end;
        }
        while (w->slot >= w->slot_end && w->entry != w->entry_end)
            wn_key_open_entry(w);
        if (w->slot >= w->slot_end || (any && w->ordinal >= limit))
            break;
        if (!any) {
            any = true;
            b->tile = w->ordinal / w->step;
            limit = (b->tile + 1) * w->step;
        }
        int64_t page_index = (uint32_t)w->slot / tokens, place = w->slot - page_index * tokens;
        int64_t n = limit - w->ordinal;
        n = n < tokens - place ? n : tokens - place;
        n = n < w->slot_end - w->slot ? n : w->slot_end - w->slot;
        if (w->slot < w->gap_begin && n > w->gap_begin - w->slot)
            n = w->gap_begin - w->slot;
        wn_key_append_run(w, b, w->slot, page_index, place, n);
        w->slot += n;
        w->ordinal += n;
    }
    if (any)
        wn_key_mask(w, b);
    return any;
}

/* Repeats the last key beyond the end, for kernels that take several keys at once. */
static inline void wn_key_pad(wn_key_block *b)
{
    for (int64_t j = b->count; b->count > 0 && j < b->count + 16; j++) {
        b->slot[j] = b->slot[b->count - 1];
        b->position[j] = b->position[b->count - 1];
        b->page[j] = b->page[b->count - 1];
        b->place[j] = b->place[b->count - 1];
        b->k[j] = b->k[b->count - 1];
        b->v[j] = b->v[b->count - 1];
    }
}

static inline const float *wn_key_scale(const wn_kv_view *view, const wn_key_block *b, int64_t head,
                                        int64_t j)
{
    return view->scale + wn_kv_scale_offset(view, b->page[j], head, b->place[j]);
}

/* Do keys j .. j + 7 of a block lie side by side in one page? */
static inline bool wn_keys_are_neighbours(const wn_key_block *b, int64_t j)
{
    __m256i steps = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i page = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(b->page + j)),
                                    _mm256_set1_epi32(b->page[j]));
    __m256i place = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(b->place + j)),
                                     _mm256_add_epi32(_mm256_set1_epi32(b->place[j]), steps));
    __m256i differ = _mm256_or_si256(page, place);
    return _mm256_testz_si256(differ, differ);
}

/* What the codes of a block's keys are multiplied by at a KV head: tensor_scale times the token's
 * scale. False, and nothing written, if it is 1 for all. */
static inline bool wn_key_scales(const wn_kv_view *view, const wn_key_block *b, int64_t head,
                                 float *scale)
{
    if (view->layout == WN_LAYOUT_MLA_FP8 || (view->scale == NULL && view->tensor_scale == 1))
        return false;
    int64_t j = 0;
    for (; j + 8 <= b->count && view->scale != NULL; j += 8)
        if (wn_keys_are_neighbours(b, j))
            _mm256_storeu_ps(scale + j,
                             _mm256_mul_ps(_mm256_set1_ps(view->tensor_scale),
                                           _mm256_loadu_ps(wn_key_scale(view, b, head, j))));
        else
            for (int64_t t = j; t < j + 8; t++)
                scale[t] = view->tensor_scale * *wn_key_scale(view, b, head, t);
    for (; j < b->count; j++)
        scale[j] = view->tensor_scale * (view->scale != NULL ? *wn_key_scale(view, b, head, j) : 1);
    return true;
}

/* The codes of one token as floats, whatever the layout: view->dim of them, not scaled. An MLA
 * record carries its scales, and gives its numbers. */
static inline void wn_key_load(const wn_kv_view *view, uint32_t tokens_per_page, int64_t page,
                               int64_t head, int64_t place, float *row)
{
    int64_t dim = view->dim, bytes = wn_number_bytes(view->dtype), x = view->vec_x;
    const char *data = view->data;
    if (view->layout == WN_LAYOUT_MLA_FP8) {
        const uint8_t *record = wn_kv_record(view, page, head, place);
        for (int64_t d = 0; d < dim; d++)
            row[d] = (float)wn_mla_record_value(record, d);
        return;
    }
    int64_t run = view->layout == WN_LAYOUT_VEC_K ? x : dim; /* channels that are neighbours */
    for (int64_t d = 0; d < dim;) {
        int64_t n = run - d % run < WN_VL ? run - d % run : WN_VL;
        char lane[4 * WN_VL];
        const char *from = data + bytes * wn_kv_offset(view, tokens_per_page, page, head, place, d);
        if (view->layout == WN_LAYOUT_VEC_V) {
            for (int64_t i = 0; i < n; i++)
                memcpy(lane + i * bytes, from + i * x * bytes, (size_t)bytes);
            from = lane;
        }
        if (n == WN_VL)
            wn_vf_store(row + d, wn_vf_from(view->dtype, from));
        else
            wn_vf_store_first(row + d, wn_vf_from_first(view->dtype, from, n), n);
        d += n;
    }
}

#endif
