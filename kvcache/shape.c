/* shape.c: checks of a cache's shape, and the size of each of its pools. Pools are layer-major (one
 * mapping for each layer and kind), so that the page of a layer is one piece of memory and a
 * layer's view is a pointer and strides. */
#include "kvcache/shape.h"

#include <stdarg.h>
#include <string.h>

#include "kvcache/size.h"

uint32_t wn_shape_element_bytes(uint32_t dtype)
{
    switch (dtype) {
    case WN_F32:
        return 4;
    case WN_F16:
    case WN_BF16:
        return 2;
    case WN_F8_E4M3:
    case WN_I8:
        return 1;
    default:
        return 0;
    }
}

int wn_shape_is_quantised(uint32_t dtype)
{
    return dtype == WN_F8_E4M3 || dtype == WN_I8;
}

int wn_shape_has_records(const wn_kvcache_shape *shape)
{
    return shape->mla && shape->dtype == WN_F8_E4M3;
}

/* ---------------------------------------------------------------- checks */

/* The text so far: each complaint is a line of it. */
typedef struct complaints {
    wn_error *error;
    size_t used;
    uint32_t count;
} complaints;

WN_PRINTF(2, 3) static void complain(complaints *list, const char *format, ...)
{
    wn_error *error = list->error;
    list->count++;
    if (error == NULL || error->text == NULL || list->used + 1 >= error->capacity)
        return;
    if (list->used > 0)
        error->text[list->used++] = '\n';
    va_list arguments;
    va_start(arguments, format);
    int wrote =
        vsnprintf(error->text + list->used, error->capacity - list->used, format, arguments);
    va_end(arguments);
    size_t room = error->capacity - list->used - 1;
    if (wrote > 0)
        list->used += (size_t)wrote < room ? (size_t)wrote : room;
}

/* Ids and lengths are int32: 1 .. INT32_MAX. */
static void check_count(complaints *list, const char *name, uint32_t value)
{
    if (value == 0 || value > INT32_MAX)
        complain(list, "%s is %u; expected 1 .. %d", name, value, INT32_MAX);
}

static void check_groups(complaints *list, const wn_kvcache_shape *shape)
{
    if (shape->layer_group == NULL || shape->group_evicts == NULL) {
        complain(list, "layer_group and group_evicts must be given");
        return;
    }
    for (uint32_t layer = 0; layer < shape->num_layers; layer++)
        if (shape->layer_group[layer] >= shape->num_groups)
            complain(list, "layer %u is in group %u; there are %u groups", layer,
                     shape->layer_group[layer], shape->num_groups);
    for (uint32_t group = 0; group < shape->num_groups; group++) {
        uint32_t layer = 0;
        while (layer < shape->num_layers && shape->layer_group[layer] != group)
            layer++;
        if (layer == shape->num_layers)
            complain(list, "group %u has no layer", group);
    }
}

static void check_layout(complaints *list, const wn_kvcache_shape *shape)
{
    uint32_t x = shape->vec_x;
    if (wn_shape_element_bytes(shape->dtype) == 0)
        complain(list, "dtype is %u; a cache is float32, float16, bfloat16, float8_e4m3 or int8",
                 shape->dtype);
    if (shape->layout != WN_CACHE_HND && shape->layout != WN_CACHE_NHD &&
        shape->layout != WN_CACHE_VEC)
        complain(list, "layout is %u; expected hnd, nhd or vec (1, 2, 3)", shape->layout);
    if (shape->layout != WN_CACHE_VEC) {
        if (x != 0)
            complain(list, "vec_x is %u; only the layout vec has one, others say 0", x);
        return;
    }
    if (x == 0)
        complain(list, "vec_x is 0; the layout vec needs it, 16 bytes' worth of elements or 2");
    else if (shape->head_dim % x != 0)
        complain(list, "head_dim %u is no multiple of vec_x %u", shape->head_dim, x);
    if (x != 0 && shape->tokens_per_page % x != 0)
        complain(list, "tokens_per_page %u is no multiple of vec_x %u", shape->tokens_per_page, x);
}

/* Multi-head latent attention: one vector per token, which is K, and whose front is V. */
static void check_mla(complaints *list, const wn_kvcache_shape *shape)
{
    if (shape->mla > 1)
        complain(list, "mla is %u; expected 0 or 1", shape->mla);
    if (shape->mla != 1)
        return;
    if (shape->num_kv_heads != 1)
        complain(list, "mla with %u KV heads; all query heads share 1", shape->num_kv_heads);
    if (shape->v_head_dim > shape->head_dim)
        complain(list, "mla with v_head_dim %u; V is the front of K, at most head_dim %u",
                 shape->v_head_dim, shape->head_dim);
    if (shape->layout == WN_CACHE_VEC)
        complain(list, "mla in the layout vec; it orders K and V differently, and here they are "
                       "the same memory: use hnd or nhd");
    if (shape->dtype == WN_I8)
        complain(list, "mla with dtype int8; expected float32, float16, bfloat16 or float8_e4m3");
    if (wn_shape_has_records(shape) && (shape->head_dim != WN_MLA_LATENT_DIM + WN_MLA_ROPE_DIM ||
                                        shape->v_head_dim != WN_MLA_LATENT_DIM))
        complain(list,
                 "mla in float8_e4m3 with head_dim %u and v_head_dim %u; its records are made for "
                 "%d and %d: use bfloat16",
                 shape->head_dim, shape->v_head_dim, WN_MLA_LATENT_DIM + WN_MLA_ROPE_DIM,
                 WN_MLA_LATENT_DIM);
}

static void check_aux(complaints *list, const wn_kvcache_shape *shape)
{
    if (shape->num_aux > 0 && shape->aux == NULL)
        complain(list, "num_aux is %u but aux is NULL", shape->num_aux);
    for (uint32_t i = 0; shape->aux != NULL && i < shape->num_aux; i++) {
        const wn_aux_pool *pool = &shape->aux[i].pool;
        uint32_t layer = shape->aux[i].layer;
        const char *name = pool->name != NULL ? pool->name : "(unnamed)";
        if (layer >= shape->num_layers)
            complain(list, "auxiliary pool %u (%s) is of layer %u; there are %u layers", i, name,
                     layer, shape->num_layers);
        if (i > 0 && layer < shape->aux[i - 1].layer)
            complain(list,
                     "auxiliary pool %u (%s) of layer %u comes after one of layer %u; they are "
                     "ordered by layer",
                     i, name, layer, shape->aux[i - 1].layer);
        if (pool->scope != WN_AUX_PAGE && pool->scope != WN_AUX_SEQUENCE)
            complain(list, "auxiliary pool %u (%s) has scope %u; expected page or sequence (1, 2)",
                     i, name, pool->scope);
        if (pool->bytes == 0)
            complain(list, "auxiliary pool %u (%s) has 0 bytes", i, name);
        if (pool->alignment == 0 || pool->alignment > 64 ||
            (pool->alignment & (pool->alignment - 1)) != 0)
            complain(list,
                     "auxiliary pool %u (%s) has alignment %u; expected a power of two up to 64", i,
                     name, pool->alignment);
    }
}

wn_status wn_shape_check(const wn_kvcache_shape *shape, wn_error *error)
{
    complaints list = {error, 0, 0};
    check_count(&list, "num_layers", shape->num_layers);
    check_count(&list, "num_groups", shape->num_groups);
    check_count(&list, "num_kv_heads", shape->num_kv_heads);
    check_count(&list, "head_dim", shape->head_dim);
    check_count(&list, "v_head_dim", shape->v_head_dim);
    check_count(&list, "tokens_per_page", shape->tokens_per_page);
    check_count(&list, "num_pages", shape->num_pages);
    check_count(&list, "max_sequences", shape->max_sequences);
    check_count(&list, "max_pages_per_sequence", shape->max_pages_per_sequence);
    check_groups(&list, shape);
    check_layout(&list, shape);
    check_mla(&list, shape);
    check_aux(&list, shape);
    return list.count == 0 ? WN_OK : WN_EINVAL;
}

/* ---------------------------------------------------------------- sizes */

uint64_t wn_shape_num_pools(const wn_kvcache_shape *shape)
{
    return wn_shape_pool_number(shape->num_layers, 0) + shape->num_aux;
}

static void shape_aux(const wn_kvcache_shape *shape, const wn_kvcache_aux *aux, wn_pool *pool)
{
    pool->layer = aux->layer;
    if (aux->pool.scope == WN_AUX_SEQUENCE) {
        pool->kind = WN_POOL_AUX_SEQUENCE;
        pool->unit_bytes = wn_size_round_up(aux->pool.bytes, 64);
        return;
    }
    uint64_t piece = wn_size_round_up(aux->pool.bytes, aux->pool.alignment);
    int shared = (aux->pool.flags & WN_AUX_SHARED_HEADS) != 0;
    pool->kind = WN_POOL_AUX;
    pool->unit_bytes = shared ? piece : wn_size_product(piece, shape->num_kv_heads);
    pool->head_stride = shared ? 0 : (int64_t)piece;
}

/* Bytes of one token and head in a pool that every layer may have. */
static uint64_t token_bytes(const wn_kvcache_shape *shape, uint32_t layer, uint32_t kind)
{
    uint64_t element = wn_shape_element_bytes(shape->dtype);
    switch (kind) {
    case WN_POOL_K:
        return wn_shape_has_records(shape) ? WN_MLA_RECORD_BYTES : shape->head_dim * element;
    case WN_POOL_V:
        return shape->mla ? 0 : shape->v_head_dim * element;
    case WN_POOL_POSITION:
        return shape->group_evicts[shape->layer_group[layer]] ? sizeof(int32_t) : 0;
    default:
        return wn_shape_is_quantised(shape->dtype) && !shape->mla ? sizeof(float) : 0;
    }
}

void wn_shape_pool(const wn_kvcache_shape *shape, uint64_t number, wn_pool *pool)
{
    uint64_t first_aux = wn_shape_pool_number(shape->num_layers, 0);
    memset(pool, 0, sizeof *pool);
    if (number >= first_aux) {
        shape_aux(shape, &shape->aux[number - first_aux], pool);
    } else {
        pool->layer = (uint32_t)(number / WN_POOL_AUX);
        pool->kind = (uint32_t)(number % WN_POOL_AUX);
        pool->unit_bytes =
            wn_size_product(wn_size_product(shape->num_kv_heads, shape->tokens_per_page),
                            token_bytes(shape, pool->layer, pool->kind));
    }
    pool->group = shape->layer_group[pool->layer];
    pool->bytes =
        wn_size_product(pool->unit_bytes, pool->kind == WN_POOL_AUX_SEQUENCE ? shape->max_sequences
                                                                             : shape->num_pages);
}

uint64_t wn_kvcache_aux_bytes(const wn_kvcache_shape *shape, uint32_t aux)
{
    wn_pool pool;
    if (aux >= shape->num_aux)
        return 0;
    wn_shape_pool(shape, wn_shape_pool_number(shape->num_layers, 0) + aux, &pool);
    return pool.bytes;
}

uint32_t wn_shape_lookback(const wn_kvcache_shape *shape, uint32_t group)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < shape->num_aux; i++) {
        const wn_kvcache_aux *aux = &shape->aux[i];
        if (shape->layer_group[aux->layer] == group && aux->pool.scope == WN_AUX_PAGE &&
            aux->pool.lookback_tokens > most)
            most = aux->pool.lookback_tokens;
    }
    return most;
}

void wn_plan_add(wn_kvcache_plan *plan, uint32_t pool_kind, uint64_t bytes)
{
    uint64_t *const parts[] = {&plan->k_bytes,     &plan->v_bytes,        &plan->scale_bytes,
                               &plan->scale_bytes, &plan->position_bytes, &plan->aux_bytes,
                               &plan->aux_bytes};
    *parts[pool_kind] = wn_size_sum(*parts[pool_kind], bytes);
    plan->total_bytes = wn_size_sum(plan->total_bytes, bytes);
}
