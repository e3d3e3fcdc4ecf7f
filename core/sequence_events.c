/* sequence_events.c: a request's life in the cache, and the events that methods hear of it. */
#include "core/engine.h"

#include <stdlib.h>

/* Tells every method that listens. A method cannot veto what has happened already; what it returns
 * is passed on so that the host learns of it. */
static wn_status tell(wn_engine *engine, uint32_t kind, wn_sequence sequence, wn_sequence parent,
                      int32_t length)
{
    wn_sequence_event event = {WN_SIZEOF(wn_sequence_event), kind, sequence, parent, length, 0};
    wn_status status = WN_OK;
    for (uint32_t m = 0; m < engine->num_methods; m++) {
        const wn_method *method = &engine->methods[m];
        const wn_predictor_interface *predictor = method->plugin->predictor;
        if (predictor == NULL || predictor->event == NULL)
            continue;
        wn_status said = predictor->event(method->instance, &event);
        if (said != WN_OK)
            status = wn_fail(wn_thread_error(), said, "%s: refused event %u of sequence %lld",
                             method->algorithm, kind, (long long)sequence);
    }
    return status;
}

wn_status wn_sequence_create(wn_engine *engine, wn_sequence *sequence)
{
    wn_status status = wn_kvcache_sequence_create(engine->cache, sequence, wn_thread_error());
    return status != WN_OK ? status : tell(engine, WN_EVENT_BEGIN, *sequence, 0, 0);
}

wn_status wn_sequence_fork(wn_engine *engine, wn_sequence parent, wn_sequence *child)
{
    int32_t length = 0;
    wn_status status = wn_kvcache_sequence_fork(engine->cache, parent, child, wn_thread_error());
    if (status == WN_OK)
        status = wn_kvcache_sequence_length(engine->cache, *child, 0, &length, NULL, NULL,
                                            wn_thread_error());
    return status != WN_OK ? status : tell(engine, WN_EVENT_FORK, *child, parent, length);
}

wn_status wn_sequence_truncate(wn_engine *engine, wn_sequence sequence, int32_t length)
{
    wn_status status =
        wn_kvcache_sequence_truncate(engine->cache, sequence, length, wn_thread_error());
    return status != WN_OK ? status : tell(engine, WN_EVENT_TRUNCATE, sequence, 0, length);
}

wn_status wn_sequence_free(wn_engine *engine, wn_sequence sequence)
{
    wn_status status = wn_kvcache_sequence_free(engine->cache, sequence, wn_thread_error());
    return status != WN_OK ? status : tell(engine, WN_EVENT_END, sequence, 0, 0);
}

wn_status wn_sequence_length(wn_engine *engine, wn_sequence sequence, uint32_t layer,
                             int32_t *logical, int32_t *physical)
{
    if (layer >= engine->model.num_layers)
        return wn_fail(wn_thread_error(), WN_EINVAL, "layer %u: the engine has %u", layer,
                       engine->model.num_layers);
    return wn_kvcache_sequence_length(engine->cache, sequence, engine->layers[layer].group, logical,
                                      physical, NULL, wn_thread_error());
}

wn_status wn_sequence_positions(wn_engine *engine, wn_sequence sequence, uint32_t layer,
                                uint32_t kv_head, int32_t *positions, int32_t capacity)
{
    int32_t length = 0, unused = 0;
    wn_status status = wn_sequence_length(engine, sequence, layer, NULL, &length);
    if (status != WN_OK)
        return status;
    if (kv_head >= engine->model.num_kv_heads || capacity < length)
        return wn_fail(wn_thread_error(), WN_EINVAL,
                       "KV head %u of %u, room for %d positions of %d", kv_head,
                       engine->model.num_kv_heads, capacity, length);
    const wn_paged_kv *view = &engine->layers[layer].view;
    if (view->position == NULL) { /* never evicted, positions without gaps */
        for (int32_t s = 0; s < length; s++)
            positions[s] = s;
        return WN_OK;
    }
    int32_t *table = malloc(engine->max_pages_per_sequence * sizeof *table);
    if (table == NULL)
        return wn_fail(wn_thread_error(), WN_ENOMEM, "out of memory for a page table");
    wn_kvcache_tables(engine->cache, engine->layers[layer].group, &sequence, 1, table,
                      engine->max_pages_per_sequence, &unused);
    for (int32_t s = 0; s < length; s++) {
        uint32_t place = (uint32_t)s % engine->tokens_per_page;
        int64_t page = table[(uint32_t)s / engine->tokens_per_page];
        positions[s] = view->position[page * view->position_page_stride +
                                      kv_head * view->position_head_stride + place];
    }
    free(table);
    return WN_OK;
}
