/* cache_reference.c: see cache_reference.h. */
#include "cache_reference.h"

#include <string.h>

static wn_aux_pool aux_pool(const char *name, uint32_t scope, uint32_t flags, uint64_t bytes,
                            uint32_t alignment, uint32_t lookback)
{
    return (wn_aux_pool){.struct_size = WN_SIZEOF(wn_aux_pool),
                         .scope = scope,
                         .flags = flags,
                         .layout_version = 1,
                         .name = name,
                         .layout = name,
                         .bytes = bytes,
                         .alignment = alignment,
                         .lookback_tokens = lookback};
}

void cache_fixture_init(cache_fixture *fixture, uint32_t layout, uint32_t dtype)
{
    *fixture = (cache_fixture){
        .layer_group = {0, 1, 0},
        .group_evicts = {1, 0},
        .aux = {{0, aux_pool("marks", WN_AUX_PAGE, 0, 12, 8, 5)},
                {0, aux_pool("state", WN_AUX_SEQUENCE, 0, 20, 4, 0)},
                {1, aux_pool("shared", WN_AUX_PAGE, WN_AUX_SHARED_HEADS, 7, 4, 0)},
                {2, aux_pool("tail", WN_AUX_PAGE, 0, 4, 1, 2)}},
    };
    fixture->shape = (wn_kvcache_shape){
        .num_layers = CACHE_LAYERS,
        .num_groups = CACHE_GROUPS,
        .layer_group = fixture->layer_group,
        .group_evicts = fixture->group_evicts,
        .num_kv_heads = CACHE_HEADS,
        .head_dim = 8,
        .v_head_dim = 4,
        .dtype = dtype,
        .layout = layout,
        .vec_x = layout == WN_CACHE_VEC ? 2 : 0,
        .tokens_per_page = layout == WN_CACHE_VEC ? 4 : 5,
        .num_pages = 40,
        .max_sequences = 10,
        .max_pages_per_sequence = 16,
        .aux = fixture->aux,
        .num_aux = CACHE_AUX,
    };
    fixture->error = (wn_error){WN_SIZEOF(wn_error), sizeof fixture->text, fixture->text};
}

void cache_fixture_init_latent(cache_fixture *fixture, uint32_t layout, uint32_t dtype)
{
    cache_fixture_init(fixture, layout, dtype);
    fixture->shape.mla = 1;
    fixture->shape.num_kv_heads = 1;
    if (dtype == WN_F8_E4M3) {
        fixture->shape.head_dim = 576;
        fixture->shape.v_head_dim = 512;
    }
}

wn_kvcache *cache_fixture_create(cache_fixture *fixture)
{
    wn_kvcache *cache = NULL;
    if (wn_kvcache_create(&fixture->shape, cache_ops(), &cache, &fixture->error) != WN_OK)
        printf("    %s\n", fixture->text);
    return cache;
}

uint32_t cache_elements(const wn_kv_view *view)
{
    return view->layout == WN_LAYOUT_MLA_FP8 ? 656 : view->dim;
}

uint32_t cache_element_bytes(const wn_kv_view *view)
{
    return view->layout == WN_LAYOUT_MLA_FP8 ? 1 : wn_shape_element_bytes(view->dtype);
}

void *cache_element(const wn_kv_view *view, uint32_t tokens_per_page, int32_t page, uint32_t head,
                    uint32_t place, uint32_t d)
{
    int64_t at = page * view->page_stride + head * view->head_stride;
    uint32_t x = view->vec_x;
    if (view->layout == WN_LAYOUT_VEC_K)
        at += ((int64_t)(d / x) * tokens_per_page + place) * x + d % x;
    else if (view->layout == WN_LAYOUT_VEC_V)
        at += ((int64_t)(place / x) * view->dim + d) * x + place % x;
    else
        at += place * view->token_stride + d;
    return (uint8_t *)view->data + at * cache_element_bytes(view);
}

/* ---------------------------------------------------------------- ops */

static int copies_until_failure = -1;

void cache_ops_fail_copy(int n)
{
    copies_until_failure = n;
}

static wn_status copy_pages(const wn_copy_pages_args *args)
{
    if (copies_until_failure >= 0 && copies_until_failure-- == 0)
        return wn_fail(args->error, WN_EUNSUPPORTED, "copying fails on purpose");
    for (int64_t i = 0; i < args->count; i++)
        memcpy((uint8_t *)args->pool + args->destination[i] * args->page_bytes,
               (uint8_t *)args->pool + args->source[i] * args->page_bytes,
               (size_t)args->page_bytes);
    return WN_OK;
}

/* A slot of one request: where it is. */
typedef struct place {
    int32_t page;
    uint32_t at;
} place;

static place find_place(const wn_paged_kv *kv, uint32_t request, int32_t slot)
{
    uint32_t tokens = kv->tokens_per_page;
    return (place){kv->page_table[request * kv->page_table_stride + slot / tokens],
                   (uint32_t)slot % tokens};
}

static void move_view(const wn_paged_kv *kv, const wn_kv_view *view, uint32_t head, place to,
                      place from)
{
    uint32_t tokens = kv->tokens_per_page;
    for (uint32_t d = 0; d < cache_elements(view); d++)
        memcpy(cache_element(view, tokens, to.page, head, to.at, d),
               cache_element(view, tokens, from.page, head, from.at, d), cache_element_bytes(view));
    if (view->scale != NULL) {
        float *scale = view->scale + head * view->scale_head_stride;
        scale[to.page * view->scale_page_stride + to.at] =
            scale[from.page * view->scale_page_stride + from.at];
    }
}

static wn_status compact(const wn_compact_args *args)
{
    const wn_paged_kv *kv = &args->kv;
    for (uint32_t request = 0; request < kv->batch; request++)
        for (uint32_t head = 0; head < kv->num_kv_heads; head++) {
            const int32_t *list = args->indices + head * args->head_stride + args->offsets[request];
            int32_t count = args->offsets[request + 1] - args->offsets[request];
            for (int32_t i = 0; i < count; i++) {
                place to = find_place(kv, request, i), from = find_place(kv, request, list[i]);
                int32_t *position = kv->position + head * kv->position_head_stride;
                move_view(kv, &kv->k, head, to, from);
                if (kv->v.data != NULL)
                    move_view(kv, &kv->v, head, to, from);
                position[to.page * kv->position_page_stride + to.at] =
                    position[from.page * kv->position_page_stride + from.at];
            }
        }
    return WN_OK;
}

const wn_ops *cache_ops(void)
{
    static const wn_ops ops = {.struct_size = WN_SIZEOF(wn_ops),
                               .device = WN_DEVICE_CPU,
                               .compact = compact,
                               .copy_pages = copy_pages};
    return &ops;
}

/* ---------------------------------------------------------------- memory */

cache_memory_count cache_memory = {.fail_at = -1};

static void *counted_map(uint64_t bytes)
{
    if (cache_memory.maps++ == cache_memory.fail_at) {
        cache_memory.refused_bytes = bytes;
        return NULL;
    }
    cache_memory.pieces++;
    cache_memory.bytes += bytes;
    return wn_memory_mapped.map(bytes);
}

static void counted_unmap(void *data, uint64_t bytes)
{
    cache_memory.pieces--;
    cache_memory.bytes -= bytes;
    wn_memory_mapped.unmap(data, bytes);
}

const wn_memory_source cache_memory_source = {counted_map, counted_unmap};

/* ---------------------------------------------------------------- steps */

wn_kvcache_item cache_item(const wn_kvcache *cache, int64_t sequence, int32_t num_tokens)
{
    int32_t next = 0;
    wn_kvcache_sequence_length(cache, sequence, 0, NULL, NULL, &next, NULL);
    return (wn_kvcache_item){
        .sequence = sequence, .num_tokens = num_tokens, .next_position = next + num_tokens};
}

wn_status cache_append(wn_kvcache *cache, int64_t sequence, int32_t num_tokens, wn_error *error)
{
    wn_kvcache_item item = cache_item(cache, sequence, num_tokens);
    wn_status status = wn_kvcache_begin(cache, &item, 1, error);
    if (status == WN_OK)
        wn_kvcache_end(cache, &item, 1);
    return status;
}
