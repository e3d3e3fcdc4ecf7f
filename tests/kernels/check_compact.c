/* check_compact.c: checks of compact: codes, scales and positions, byte for byte against copies. */
#include "check.h"

static const uint32_t cache_dtypes[] = {WN_F32, WN_F16, WN_BF16, WN_F8_E4M3, WN_I8};

/* A random subset of [0, length), ascending; every second time a stretch and some others. */
static int32_t draw_subset(wn_check *check, int32_t length, int32_t count, int32_t *out)
{
    int32_t chosen = 0, stretch = wn_random_below(&check->random, 2) ? count / 2 : 0;
    int32_t first = (int32_t)wn_random_below(&check->random, (uint32_t)(length - count) + 1);
    for (int32_t s = 0; s < length; s++)
        if ((s >= first && s < first + stretch && chosen < count) ||
            (int32_t)wn_random_below(&check->random, (uint32_t)(length - s)) < count - chosen)
            out[chosen++] = s;
    return chosen;
}

/* The bytes of one token as the pool should hold them after the move: `from` is read in the pool
 * as it was, `to` written in the copy. */
static void move_oracle(const wn_paged_kv *kv, const wn_kv_view *view, const uint8_t *before,
                        const float *scale_before, uint8_t *after, float *scale_after, int64_t b,
                        int64_t h, int64_t from, int64_t to)
{
    int64_t tokens = kv->tokens_per_page;
    int64_t from_page = kv->page_table[b * kv->page_table_stride + from / tokens];
    int64_t to_page = kv->page_table[b * kv->page_table_stride + to / tokens];
    wn_check_copy_codes(view, kv->tokens_per_page, h, after, to_page, to % tokens, before,
                        from_page, from % tokens);
    if (view->scale != NULL)
        scale_after[wn_check_scale_element(view, to_page, h, to % tokens)] =
            scale_before[wn_check_scale_element(view, from_page, h, from % tokens)];
}

/* The pools as they should be, in copies. */
typedef struct image {
    uint8_t *k, *v;
    float *k_scale, *v_scale;
    int32_t *position;
} image;

static image image_of(const wn_check_cache *cache)
{
    const wn_paged_kv *kv = &cache->kv;
    return (image){wn_check_copy(kv->k.data, cache->k_bytes),
                   wn_check_copy(kv->v.data, cache->v_bytes),
                   wn_check_copy(kv->k.scale, cache->k_scale_bytes),
                   wn_check_copy(kv->v.scale, cache->v_scale_bytes),
                   wn_check_copy(kv->position, cache->position_bytes)};
}

static void free_image(image *i)
{
    free(i->k);
    free(i->v);
    free(i->k_scale);
    free(i->v_scale);
    free(i->position);
}

static void compact_oracle(const wn_compact_args *args, const image *before, image *after)
{
    const wn_paged_kv *kv = &args->kv;
    int64_t tokens = kv->tokens_per_page;
    for (int64_t b = 0; b < kv->batch; b++)
        for (int64_t h = 0; h < kv->num_kv_heads; h++)
            for (int32_t e = args->offsets[b]; e < args->offsets[b + 1]; e++) {
                int64_t from = args->indices[h * args->head_stride + e];
                int64_t to = e - args->offsets[b];
                to += args->destination != NULL ? args->destination[b] : 0;
                move_oracle(kv, &kv->k, before->k, before->k_scale, after->k, after->k_scale, b, h,
                            from, to);
                if (kv->v.data != NULL)
                    move_oracle(kv, &kv->v, before->v, before->v_scale, after->v, after->v_scale, b,
                                h, from, to);
                if (kv->position == NULL)
                    continue;
                const int32_t *table = kv->page_table + b * kv->page_table_stride;
                int64_t hs = h * kv->position_head_stride;
                after->position[table[to / tokens] * kv->position_page_stride + hs + to % tokens] =
                    before->position[table[from / tokens] * kv->position_page_stride + hs +
                                     from % tokens];
            }
}

/* Random lists: how many stay is the request's, which ones is the head's. */
static void draw_lists(wn_check *check, wn_compact_args *args)
{
    const wn_paged_kv *kv = &args->kv;
    int32_t *offsets = wn_check_ints(check, kv->batch + 1),
            *destination = wn_check_ints(check, kv->batch);
    offsets[0] = (int32_t)wn_random_below(&check->random, 3);
    bool to_end = wn_random_below(&check->random, 2);
    for (uint32_t b = 0; b < kv->batch; b++) {
        int32_t length = kv->length[b];
        int32_t kept = (int32_t)wn_random_below(&check->random, (uint32_t)length + 1);
        kept = wn_random_below(&check->random, 6) ? kept : length;
        offsets[b + 1] = offsets[b] + kept;
        destination[b] = to_end ? length - kept : 0;
    }
    args->head_stride = offsets[kv->batch] + wn_random_below(&check->random, 3);
    int32_t *indices = wn_check_ints(check, (size_t)(kv->num_kv_heads * args->head_stride));
    for (uint32_t h = 0; h < kv->num_kv_heads; h++)
        for (uint32_t b = 0; b < kv->batch; b++)
            draw_subset(check, kv->length[b], offsets[b + 1] - offsets[b],
                        indices + h * args->head_stride + offsets[b]);
    args->indices = indices;
    args->offsets = offsets;
    args->destination = to_end || wn_random_below(&check->random, 2) ? destination : NULL;
}

/* What the op must not take: each is wrong for some list only, hence the search for one. */
static void refuse_compact(wn_check *check, const wn_compact_args *good)
{
    wn_compact_args args = *good;
    args.struct_size = 8;
    WN_CHECK_REFUSED(check, compact, args, WN_EINVAL);
    args = *good;
    if (args.kv.batch == 0)
        return;
    args.kv.k.dtype = WN_F64;
    WN_CHECK_REFUSED(check, compact, args, WN_EUNSUPPORTED);
    args = *good;
    for (uint32_t b = 0; b < args.kv.batch; b++) {
        int32_t begin = args.offsets[b], kept = args.offsets[b + 1] - begin;
        int32_t *list = (int32_t *)args.indices + begin; /* of head 0; put back at once */
        if (kept < 2)
            continue;
        int32_t first = list[0], last = list[kept - 1];
        list[0] = list[1];
        WN_CHECK_REFUSED(check, compact, args, WN_EINVAL);
        list[0] = -1;
        WN_CHECK_REFUSED(check, compact, args, WN_EINVAL);
        list[0] = first;
        list[kept - 1] = args.kv.length[b];
        WN_CHECK_REFUSED(check, compact, args, WN_EINVAL);
        list[kept - 1] = last;
    }
}

static void compact_case(wn_check *check, uint32_t dtype, bool wide)
{
    int32_t lengths[4];
    wn_check_case(check, "dtype %u", dtype);
    wn_cache_shape shape = wn_check_cache_shape(check, dtype, lengths, 100);
    if (wide)
        wn_check_widen(check, &shape);
    shape.written = true;
    wn_check_cache cache;
    wn_check_cache_make(check, &shape, &cache);
    wn_compact_args args = {.struct_size = WN_SIZEOF(wn_compact_args), .kv = cache.kv};
    if (shape.layout == WN_CHECK_MLA)
        args.kv.v = (wn_kv_view){0}; /* a part of K, which moves with it */
    draw_lists(check, &args);
    snprintf(check->text, sizeof check->text,
             "dtype %u, %u requests, %u heads, dims %u/%u, layout %u, page %u, %s", dtype,
             shape.batch, shape.num_kv_heads, shape.k_dim, shape.v_dim, shape.layout,
             shape.tokens_per_page, args.destination == NULL ? "to the front" : "with destination");
    image before = image_of(&cache), after = image_of(&cache);
    compact_oracle(&args, &before, &after);
    refuse_compact(check, &args);
    WN_CHECK_RUN(check, compact, args);
    wn_check_bytes(check, "k", cache.kv.k.data, after.k, cache.k_bytes);
    wn_check_bytes(check, "v", args.kv.v.data, after.v, cache.v_bytes);
    wn_check_bytes(check, "k scale", cache.kv.k.scale, after.k_scale, cache.k_scale_bytes);
    wn_check_bytes(check, "v scale", cache.kv.v.scale, after.v_scale, cache.v_scale_bytes);
    wn_check_bytes(check, "position", cache.kv.position, after.position, cache.position_bytes);
    free_image(&before);
    free_image(&after);
}

void wn_check_compact(wn_check *check)
{
    for (int repeat = 0; repeat < 16; repeat++)
        for (int i = 0; i < 5; i++)
            compact_case(check, cache_dtypes[i], repeat % 4 == 0);
}
