/* cached_sequence.c: sequences as such: create, fork, truncate, free, and what is known of them. */
#include <string.h>

#include "kvcache/kvcache_internal.h"

wn_cached_sequence *wn_kvcache_find(const wn_kvcache *cache, int64_t sequence)
{
    if (sequence <= 0)
        return NULL;
    wn_cached_sequence *found = &cache->sequence[sequence % cache->shape.max_sequences];
    return found->id == sequence ? found : NULL;
}

wn_status wn_kvcache_find_idle(const wn_kvcache *cache, int64_t id, wn_cached_sequence **sequence,
                               wn_error *error)
{
    *sequence = wn_kvcache_find(cache, id);
    if (*sequence == NULL)
        return wn_fail(error, WN_ENOTFOUND,
                       "sequence %lld does not exist: it was never created, or is freed",
                       (long long)id);
    if ((*sequence)->step != 0)
        return wn_fail(error, WN_EBUSY, "sequence %lld is in an open step: end or abort that first",
                       (long long)id);
    return WN_OK;
}

static int32_t slot_of(const wn_kvcache *cache, const wn_cached_sequence *sequence)
{
    return (int32_t)(sequence - cache->sequence);
}

/* A free slot becomes an empty sequence; its groups hold nothing, as remove left them. */
static wn_status occupy(wn_kvcache *cache, wn_cached_sequence **sequence, wn_error *error)
{
    int32_t slot = cache->free_slot;
    if (slot < 0)
        return wn_fail(error, WN_ERANGE,
                       "all %u sequences are in use: free one or raise max_sequences",
                       cache->shape.max_sequences);
    wn_cached_sequence *taken = &cache->sequence[slot];
    cache->free_slot = taken->next_free;
    cache->num_sequences++;
    taken->id = taken->generation++ * cache->shape.max_sequences + slot;
    taken->logical = 0;
    taken->floor = 0;
    taken->positions = (wn_position_runs){0};
    *sequence = taken;
    return WN_OK;
}

/* Sequence-scope memory of `to`: a copy of that of `from`, or zeros. */
static void set_aux(wn_kvcache *cache, const wn_cached_sequence *to, const wn_cached_sequence *from)
{
    for (uint64_t i = 0; i < cache->num_pools; i++) {
        const wn_pool *pool = &cache->pools[i];
        if (pool->kind != WN_POOL_AUX_SEQUENCE)
            continue;
        uint8_t *data = pool->data;
        uint8_t *target = data + (uint64_t)slot_of(cache, to) * pool->unit_bytes;
        if (from == NULL)
            memset(target, 0, pool->unit_bytes);
        else
            memcpy(target, data + (uint64_t)slot_of(cache, from) * pool->unit_bytes,
                   pool->unit_bytes);
    }
}

wn_status wn_kvcache_sequence_create(wn_kvcache *cache, int64_t *sequence, wn_error *error)
{
    wn_cached_sequence *made = NULL;
    wn_kvcache_lock(cache);
    wn_status status = occupy(cache, &made, error);
    if (status == WN_OK) {
        set_aux(cache, made, NULL);
        *sequence = made->id;
    }
    wn_kvcache_unlock(cache);
    return status;
}

static void share_pages(wn_kvcache *cache, const wn_cached_sequence *from, wn_cached_sequence *to)
{
    for (uint32_t group = 0; group < cache->shape.num_groups; group++) {
        const wn_sequence_group *source = &from->group[group];
        wn_sequence_group *target = &to->group[group];
        for (uint32_t i = 0; i < source->num_pages; i++) {
            wn_page_allocator_share(&cache->group[group].allocator, source->pages[i]);
            target->pages[i] = source->pages[i];
        }
        target->num_pages = source->num_pages;
        target->length = source->length;
    }
}

wn_status wn_kvcache_sequence_fork(wn_kvcache *cache, int64_t parent, int64_t *child,
                                   wn_error *error)
{
    wn_cached_sequence *from = NULL, *to = NULL;
    wn_kvcache_lock(cache);
    wn_status status = wn_kvcache_find_idle(cache, parent, &from, error);
    if (status == WN_OK)
        status = occupy(cache, &to, error);
    if (status == WN_OK) {
        to->logical = from->logical;
        to->floor = from->floor;
        to->positions = from->positions;
        share_pages(cache, from, to);
        set_aux(cache, to, from);
        *child = to->id;
    }
    wn_kvcache_unlock(cache);
    return status;
}

void wn_kvcache_trim(wn_kvcache *cache, wn_cached_sequence *sequence)
{
    for (uint32_t group = 0; group < cache->shape.num_groups; group++) {
        wn_sequence_group *of = &sequence->group[group];
        uint64_t keep = wn_kvcache_pages_for(cache, of->length);
        while (of->num_pages > keep)
            wn_page_allocator_release(&cache->group[group].allocator, of->pages[--of->num_pages]);
    }
}

void wn_kvcache_remove(wn_kvcache *cache, wn_cached_sequence *sequence)
{
    for (uint32_t group = 0; group < cache->shape.num_groups; group++)
        sequence->group[group].length = 0;
    wn_kvcache_trim(cache, sequence);
    sequence->id = 0;
    sequence->step = 0;
    sequence->next_free = cache->free_slot;
    cache->free_slot = slot_of(cache, sequence);
    cache->num_sequences--;
}

/* Tokens behind the floor are in every group, so all groups lose the same number. */
static wn_status truncate_to(wn_kvcache *cache, wn_cached_sequence *sequence, int32_t length,
                             wn_error *error)
{
    if (length < 0 || length > sequence->logical)
        return wn_fail(error, WN_ERANGE, "sequence %lld has %d tokens: it cannot be cut to %d",
                       (long long)sequence->id, sequence->logical, length);
    if (length < sequence->floor)
        return wn_fail(error, WN_ERANGE,
                       "sequence %lld cannot be cut to %d tokens: an eviction has chosen among its "
                       "first %d; cut to %d or more, or start afresh",
                       (long long)sequence->id, length, sequence->floor, sequence->floor);
    for (uint32_t group = 0; group < cache->shape.num_groups; group++)
        sequence->group[group].length -= sequence->logical - length;
    sequence->logical = length;
    wn_position_runs_truncate(&sequence->positions, length);
    wn_kvcache_trim(cache, sequence);
    return WN_OK;
}

wn_status wn_kvcache_sequence_truncate(wn_kvcache *cache, int64_t sequence, int32_t length,
                                       wn_error *error)
{
    wn_cached_sequence *found = NULL;
    wn_kvcache_lock(cache);
    wn_status status = wn_kvcache_find_idle(cache, sequence, &found, error);
    if (status == WN_OK)
        status = truncate_to(cache, found, length, error);
    wn_kvcache_unlock(cache);
    return status;
}

wn_status wn_kvcache_sequence_free(wn_kvcache *cache, int64_t sequence, wn_error *error)
{
    wn_cached_sequence *found = NULL;
    wn_kvcache_lock(cache);
    wn_status status = wn_kvcache_find_idle(cache, sequence, &found, error);
    if (status == WN_OK)
        wn_kvcache_remove(cache, found);
    wn_kvcache_unlock(cache);
    return status;
}

wn_status wn_kvcache_sequence_length(const wn_kvcache *cache, int64_t sequence, uint32_t group,
                                     int32_t *logical, int32_t *physical, int32_t *next_position,
                                     wn_error *error)
{
    if (group >= cache->shape.num_groups)
        return wn_fail(error, WN_EINVAL, "group %u does not exist: there are %u", group,
                       cache->shape.num_groups);
    wn_kvcache_lock(cache);
    const wn_cached_sequence *found = wn_kvcache_find(cache, sequence);
    if (found != NULL && logical != NULL)
        *logical = found->logical;
    if (found != NULL && physical != NULL)
        *physical = found->group[group].length;
    if (found != NULL && next_position != NULL)
        *next_position = wn_position_runs_next(&found->positions, found->logical);
    wn_kvcache_unlock(cache);
    return found != NULL
               ? WN_OK
               : wn_fail(error, WN_ENOTFOUND, "sequence %lld does not exist", (long long)sequence);
}

int32_t wn_kvcache_sequence_slot(const wn_kvcache *cache, int64_t sequence)
{
    wn_kvcache_lock(cache);
    const wn_cached_sequence *found = wn_kvcache_find(cache, sequence);
    int32_t slot = found != NULL ? slot_of(cache, found) : -1;
    wn_kvcache_unlock(cache);
    return slot;
}
