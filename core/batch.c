/* batch.c: one step's frame. Begin fixes everything that the layers share: slots, positions,
 * lengths, page tables; end hands evicted pages back; abort undoes. */
#include "core/batch.h"

#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- memory */

/* Hands out pieces of one allocation; with base NULL it only counts. */
typedef struct arena {
    uint8_t *base;
    uint64_t used;
} arena;

static void *take(arena *a, uint64_t count, uint64_t bytes)
{
    uint64_t at = (a->used + 63) & ~UINT64_C(63);
    a->used = at + count * bytes;
    return a->base != NULL ? a->base + at : NULL;
}

#define TAKE(arena, pointer, count) ((pointer) = take((arena), (count), sizeof *(pointer)))

/* Requests that may be compacted in one step. */
static uint64_t evicting_items(const wn_engine *e)
{
    for (uint32_t g = 0; g < e->num_groups; g++)
        if (e->group_retain[g] != NULL)
            return e->max_batch;
    return 0;
}

static void carve_step_memory(const wn_engine *e, arena *a, wn_batch *b)
{
    for (uint32_t p = 0; p < WN_PHASE_COUNT; p++)
        for (uint32_t m = 0; m < e->num_methods; m++)
            if (e->methods[m].step_bytes[p] > 0)
                b->step_memory[p][m] = take(a, e->methods[m].step_bytes[p], 1);
}

/* Rows of q that ops->mla may be told about in one call. */
static uint64_t latent_rows(const wn_engine *e)
{
    return e->model.mla ? e->max_step_tokens : 0;
}

/* The formula is wn_attend_args.workspace's. */
uint64_t wn_batch_partials_bytes(const wn_engine *e)
{
    enum { PARTS = 64, TOKENS = 4 };
    uint64_t tokens = e->max_step_tokens < TOKENS ? e->max_step_tokens : TOKENS;
    return PARTS * tokens * e->model.num_heads * (e->model.v_head_dim + 16) * sizeof(float);
}

static void carve(const wn_engine *e, arena *a, wn_batch *b)
{
    uint64_t items = e->max_batch, tokens = e->max_step_tokens, groups = e->num_groups;
    TAKE(a, b->items, items);
    TAKE(a, b->item_of, items);
    TAKE(a, b->q_begin, items);
    TAKE(a, b->q_len, items);
    TAKE(a, b->logical_length, items);
    TAKE(a, b->request_flags, items);
    TAKE(a, b->sequence, items);
    TAKE(a, b->sequence_slot, items);
    TAKE(a, b->select_row, items);
    TAKE(a, b->log_threshold, items);
    TAKE(a, b->position, tokens);
    TAKE(a, b->compacted, items);
    TAKE(a, b->layer_state, e->model.num_layers);
    int32_t ***per_item[] = {&b->length, &b->dirty_begin, &b->kept};
    for (size_t i = 0; i < sizeof per_item / sizeof per_item[0]; i++) {
        TAKE(a, *per_item[i], groups);
        for (uint64_t g = 0; g < groups; g++) {
            int32_t *array = take(a, items, sizeof(int32_t));
            if (a->base != NULL)
                (*per_item[i])[g] = array;
        }
    }
    TAKE(a, b->table, groups);
    TAKE(a, b->slot, groups);
    for (uint64_t g = 0; g < groups; g++) {
        int32_t *table = take(a, items * e->max_pages_per_sequence, sizeof(int32_t));
        int64_t *slot = take(a, tokens, sizeof(int64_t));
        if (a->base != NULL) {
            b->table[g] = table;
            b->slot[g] = slot;
        }
    }
    for (uint32_t p = 0; p < WN_PHASE_COUNT; p++) {
        TAKE(a, b->select_indices[p], e->bounds.select_indices[p]);
        TAKE(a, b->select_offsets[p], e->bounds.select_offsets[p]);
    }
    b->workspace = take(a, e->bounds.workspace_bytes, 1);
    b->partials = take(a, wn_batch_partials_bytes(e), 1);
    carve_step_memory(e, a, b);
    uint64_t latent = latent_rows(e);
    TAKE(a, b->latent.limit, latent);
    TAKE(a, b->latent.request, latent);
    TAKE(a, b->latent.count, latent);
    uint64_t rotated =
        e->model.rope != WN_ROPE_NONE ? tokens * e->model.num_heads * e->model.head_dim : 0;
    b->rotated_q = take(a, rotated, wn_dtype_bytes(e->model.dtype));

    uint64_t evict = evicting_items(e);
    TAKE(a, b->retain_indices, e->bounds.retain_indices);
    TAKE(a, b->retain_offsets, evict + 1);
    TAKE(a, b->evict_place, evict);
    TAKE(a, b->evict_item, evict);
    TAKE(a, b->evict_q_begin, evict);
    TAKE(a, b->evict_logical, evict);
    TAKE(a, b->evict_length, evict);
    TAKE(a, b->evict_kept, evict);
    TAKE(a, b->evict_flags, evict);
    TAKE(a, b->evict_sequence, evict);
    TAKE(a, b->evict_slot, evict);
    TAKE(a, b->evict_zero, evict);
    TAKE(a, b->evict_table, evict * e->max_pages_per_sequence);
}

uint64_t wn_batch_bytes(const wn_engine *engine)
{
    arena counter = {NULL, sizeof(wn_batch)};
    wn_batch shape = {0};
    carve(engine, &counter, &shape);
    return (counter.used + 63) & ~UINT64_C(63);
}

static wn_batch *make_batch(wn_engine *engine)
{
    uint64_t bytes = wn_batch_bytes(engine);
    wn_batch *batch = aligned_alloc(64, bytes);
    if (batch == NULL)
        return NULL;
    memset(batch, 0, sizeof *batch);
    arena a = {(uint8_t *)batch, sizeof *batch};
    carve(engine, &a, batch);
    batch->engine = engine;
    memset(batch->evict_zero, 0, evicting_items(engine) * sizeof(int32_t));
    return batch;
}

/* Takes the batch out of its engine's list, where it must be. */
void wn_batch_destroy(wn_batch *batch)
{
    wn_batch **at = &batch->engine->free_batches;
    while (*at != batch)
        at = &(*at)->next;
    *at = batch->next;
    free(batch);
}

static wn_batch *acquire(wn_engine *engine)
{
    pthread_mutex_lock(&engine->lock);
    wn_batch *batch = engine->free_batches;
    if (batch != NULL)
        engine->free_batches = batch->next;
    engine->open_batches++;
    pthread_mutex_unlock(&engine->lock);
    return batch != NULL ? batch : make_batch(engine);
}

/* batch may be NULL: then only the count of open ones goes down. */
static void release(wn_engine *engine, wn_batch *batch)
{
    pthread_mutex_lock(&engine->lock);
    if (batch != NULL) {
        batch->next = engine->free_batches;
        engine->free_batches = batch;
    }
    engine->open_batches--;
    pthread_mutex_unlock(&engine->lock);
}

/* ---------------------------------------------------------------- begin */

static wn_status check_item(const wn_engine *e, const wn_batch_item *item, uint32_t index)
{
    wn_error *error = wn_thread_error();
    if (item->struct_size != WN_SIZEOF(wn_batch_item) || item->reserved != 0)
        return wn_fail(error, WN_EINVAL,
                       "item %u: struct_size is %u, expected %u, and reserved %d, "
                       "expected 0",
                       index, item->struct_size, WN_SIZEOF(wn_batch_item), item->reserved);
    if (item->flags & ~(uint32_t)(WN_ITEM_CONTEXT | WN_ITEM_MORE) ||
        (item->flags & WN_ITEM_MORE && !(item->flags & WN_ITEM_CONTEXT)))
        return wn_fail(error, WN_EINVAL,
                       "item %u: flags %#x: expected 0, WN_ITEM_CONTEXT, or that "
                       "with WN_ITEM_MORE",
                       index, item->flags);
    if (item->num_tokens < 0 || (uint32_t)item->num_tokens > e->max_step_tokens)
        return wn_fail(error, WN_EINVAL, "item %u: %d tokens: expected 0 .. %u (max_step_tokens)",
                       index, item->num_tokens, e->max_step_tokens);
    return WN_OK;
}

/* Positions of one item's tokens go to out [num_tokens]; *next: one more than the last. */
static wn_status place_positions(const wn_engine *e, const wn_batch_item *item, uint32_t index,
                                 int32_t *next, int32_t *out)
{
    for (int32_t t = 0; t < item->num_tokens; t++) {
        int32_t position = item->positions != NULL ? item->positions[t] : *next;
        if (position < *next || (uint32_t)position >= e->model.max_position)
            return wn_fail(
                wn_thread_error(), WN_ERANGE,
                "item %u, token %d: position %d: expected %d .. %u (model.max_position - "
                "1)",
                index, t, position, *next, e->model.max_position - 1);
        if (position != *next && !e->keep_positions)
            return wn_fail(
                wn_thread_error(), WN_EUNSUPPORTED,
                "item %u, token %d: position %d leaves a gap after %d: create the engine "
                "with keep_positions",
                index, t, position, *next - 1);
        out[t] = position;
        *next = position + 1;
    }
    return WN_OK;
}

/* Does this item end a prompt of which group g's method drops something? Also notes how much stays.
 */
static uint32_t plan_evictions(wn_batch *b, uint32_t place, const wn_batch_item *item)
{
    uint32_t compacting = 0;
    const wn_engine *e = b->engine;
    for (uint32_t g = 0; g < e->num_groups; g++) {
        const wn_method *method = e->group_retain[g];
        int32_t length = b->length[g][place];
        b->kept[g][place] = -1;
        if (method == NULL || !(item->flags & WN_ITEM_CONTEXT) || item->flags & WN_ITEM_MORE)
            continue;
        int32_t kept = method->plugin->predictor->retained_count(method->instance, length);
        if (kept >= 0 && kept < length) {
            b->kept[g][place] = kept;
            compacting |= 1u << (g < 31 ? g : 31);
        }
    }
    return compacting;
}

static wn_status place_item(wn_batch *b, const wn_batch_item *item, uint32_t index, uint32_t place)
{
    wn_engine *e = b->engine;
    int32_t logical = 0, physical = 0, next = 0;
    wn_status status;
    for (uint32_t g = 0; g < e->num_groups; g++) {
        status = wn_kvcache_sequence_length(e->cache, item->sequence, g, &logical, &physical, &next,
                                            wn_thread_error());
        if (status != WN_OK)
            return status;
        b->dirty_begin[g][place] = physical;
        b->length[g][place] = physical + item->num_tokens;
    }
    b->item_of[place] = index;
    b->q_len[place] = item->num_tokens;
    b->logical_length[place] = logical + item->num_tokens;
    b->sequence[place] = item->sequence;
    b->sequence_slot[place] = wn_kvcache_sequence_slot(e->cache, item->sequence);
    b->request_flags[place] =
        (logical == 0 ? WN_REQUEST_FIRST_CHUNK : 0u) |
        (item->flags & WN_ITEM_CONTEXT && !(item->flags & WN_ITEM_MORE) ? WN_REQUEST_LAST_CHUNK
                                                                        : 0u);
    b->compacted[place] = 0;
    status = place_positions(e, item, index, &next, b->position + b->q_begin[place]);
    if (status != WN_OK)
        return status;
    b->items[place] = (wn_kvcache_item){item->sequence, item->num_tokens, next, 0, 0};
    b->items[place].will_compact = plan_evictions(b, place, item);
    return WN_OK;
}

/* The host's items in two runs, context first; q rows stay in the host's order. */
static wn_status place_items(wn_batch *b, const wn_batch_item *items)
{
    uint32_t place[WN_PHASE_COUNT], token = 0;
    memset(b->count, 0, sizeof b->count);
    memset(b->phase_tokens, 0, sizeof b->phase_tokens);
    for (uint32_t i = 0; i < b->num_items; i++) {
        wn_status status = check_item(b->engine, &items[i], i);
        if (status != WN_OK)
            return status;
        uint32_t p = items[i].flags & WN_ITEM_CONTEXT ? WN_PHASE_CONTEXT : WN_PHASE_GENERATION;
        b->count[p]++;
        b->phase_tokens[p] += (uint32_t)items[i].num_tokens;
        token += (uint32_t)items[i].num_tokens;
        if (token > b->engine->max_step_tokens)
            return wn_fail(wn_thread_error(), WN_ERANGE,
                           "the step has more than %u query tokens (max_step_tokens): split it or "
                           "raise the limit",
                           b->engine->max_step_tokens);
    }
    b->num_tokens = token;
    b->first[WN_PHASE_CONTEXT] = place[WN_PHASE_CONTEXT] = 0;
    b->first[WN_PHASE_GENERATION] = place[WN_PHASE_GENERATION] = b->count[WN_PHASE_CONTEXT];
    token = 0;
    for (uint32_t i = 0; i < b->num_items; i++) {
        uint32_t p = items[i].flags & WN_ITEM_CONTEXT ? WN_PHASE_CONTEXT : WN_PHASE_GENERATION;
        b->q_begin[place[p]] = (int32_t)token;
        token += (uint32_t)items[i].num_tokens;
        wn_status status = place_item(b, &items[i], i, place[p]++);
        if (status != WN_OK)
            return status;
    }
    return WN_OK;
}

/* After the cache has given pages: tables, and the slot of every new token. */
static void place_slots(wn_batch *b)
{
    const wn_engine *e = b->engine;
    uint32_t size = e->tokens_per_page;
    for (uint32_t g = 0; g < e->num_groups; g++) {
        wn_kvcache_tables(e->cache, g, b->sequence, b->num_items, b->table[g],
                          e->max_pages_per_sequence, b->length[g]);
        for (uint32_t i = 0; i < b->num_items; i++) {
            const int32_t *table = b->table[g] + (int64_t)i * e->max_pages_per_sequence;
            int64_t *slot = b->slot[g] + b->q_begin[i];
            for (int32_t t = 0; t < b->q_len[i]; t++) {
                uint32_t s = (uint32_t)(b->dirty_begin[g][i] + t);
                slot[t] = (int64_t)table[s / size] * size + s % size;
            }
        }
    }
}

wn_status wn_batch_begin(wn_engine *engine, const wn_batch_item *items, uint32_t num_items,
                         wn_batch **batch)
{
    *batch = NULL;
    if (num_items > engine->max_batch)
        return wn_fail(wn_thread_error(), WN_ERANGE,
                       "%u requests in one step: the engine was made for %u (max_batch)", num_items,
                       engine->max_batch);
    wn_batch *b = acquire(engine);
    if (b == NULL) {
        release(engine, NULL);
        return wn_fail(wn_thread_error(), WN_ENOMEM, "out of memory for a batch of %llu bytes",
                       (unsigned long long)wn_batch_bytes(engine));
    }
    b->num_items = num_items;
    b->failed = b->retained = b->selected[0] = b->selected[1] = 0;
    memset(b->layer_state, 0, engine->model.num_layers);
    wn_status status = place_items(b, items);
    if (status == WN_OK)
        status = wn_kvcache_begin(engine->cache, b->items, num_items, wn_thread_error());
    if (status != WN_OK) {
        release(engine, b);
        return status;
    }
    place_slots(b);
    *batch = b;
    return WN_OK;
}

/* ---------------------------------------------------------------- end */

/* Attended, or appended where nobody but the cache needs to see the keys. */
static int is_done(const wn_batch *b, uint32_t layer)
{
    if (b->layer_state[layer] & WN_LAYER_ATTENDED)
        return 1;
    return b->layer_state[layer] & WN_LAYER_APPENDED && b->engine->layers[layer].num_methods == 0;
}

/* The first layer that is not done; num_layers if all are. A step without tokens has nothing to
 * do unless a prompt ends in it. */
static uint32_t unfinished_layer(const wn_batch *b)
{
    uint32_t layer = 0;
    while (layer < b->engine->model.num_layers && is_done(b, layer))
        layer++;
    for (uint32_t i = 0; i < b->num_items; i++)
        if (b->q_len[i] > 0 || b->items[i].will_compact)
            return layer;
    return b->engine->model.num_layers;
}

wn_status wn_batch_end(wn_batch *batch)
{
    wn_engine *engine = batch->engine;
    uint32_t layer = unfinished_layer(batch);
    if (batch->failed || layer < engine->model.num_layers) {
        uint32_t failed = batch->failed;
        wn_batch_abort(batch);
        return failed ? wn_fail(wn_thread_error(), WN_ESTATE,
                                "a wn_attention of this step failed: "
                                "the step was undone")
                      : wn_fail(wn_thread_error(), WN_ESTATE,
                                "layer %u was not attended in this "
                                "step: the step was undone",
                                layer);
    }
    wn_status status = WN_OK;
    for (uint32_t i = 0; i < batch->num_items; i++)
        for (uint32_t g = 0; g < engine->num_groups; g++)
            if (batch->kept[g][i] >= 0 && status == WN_OK)
                status = wn_kvcache_compacted(engine->cache, batch->sequence[i], g,
                                              batch->kept[g][i], wn_thread_error());
    wn_kvcache_end(engine->cache, batch->items, batch->num_items);
    release(engine, batch);
    return status;
}

wn_status wn_batch_abort(wn_batch *batch)
{
    wn_engine *engine = batch->engine;
    for (uint32_t i = 0; i < batch->num_items; i++) {
        if (batch->compacted[i])
            wn_kvcache_abort_free(engine->cache, batch->sequence[i]);
        else
            wn_kvcache_abort(engine->cache, &batch->items[i]);
    }
    release(engine, batch);
    return WN_OK;
}

wn_status wn_batch_choice(const wn_batch *batch, wn_choice *choice)
{
    uint32_t p = choice->phase;
    if (choice->struct_size != WN_SIZEOF(wn_choice) || p >= WN_PHASE_COUNT)
        return wn_fail(wn_thread_error(), WN_EINVAL,
                       "choice: struct_size %u, expected %u; phase %u, expected 0 or 1",
                       choice->struct_size, WN_SIZEOF(wn_choice), p);
    choice->select = batch->selected[p] ? &batch->select[p] : NULL;
    choice->select_row = batch->select_row + batch->first[p];
    choice->retain = p == WN_PHASE_CONTEXT && batch->retained ? &batch->retain : NULL;
    choice->retain_item = batch->evict_item;
    choice->item = batch->item_of + batch->first[p];
    choice->num_items = batch->count[p];
    return WN_OK;
}
