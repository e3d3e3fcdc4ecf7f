/* step.c: steps. begin is all or nothing, so it first counts the pages that the whole step takes
 * and only then takes them.
 *
 * The count is exact. A page that several sequences share needs a copy for each of them that writes
 * to it, except that, when all of them write, the last one keeps the original. Pages are made
 * private in the order of the items, so the count follows the same order: a claim against a page
 * stands for the reference that its copier will give up. A page is copied while it is shared, so no
 * original becomes free by being copied and the free count only falls. */
#include <assert.h>

#include "kvcache/kvcache_internal.h"

static uint32_t compacts(const wn_kvcache_item *item, uint32_t group)
{
    return item->will_compact >> (group < 31 ? group : 31) & 1;
}

/* The first page that the step may write to; num_pages if it writes to none of the present ones. */
static uint32_t first_written(const wn_kvcache *cache, const wn_sequence_group *of, uint32_t group,
                              const wn_kvcache_item *item)
{
    if (compacts(item, group))
        return 0;
    if (item->num_tokens == 0)
        return of->num_pages;
    uint32_t length = (uint32_t)of->length, lookback = cache->group[group].lookback_tokens;
    return (length > lookback ? length - lookback : 0) / cache->shape.tokens_per_page;
}

/* ---------------------------------------------------------------- checks */

static wn_status check_room(const wn_kvcache *cache, const wn_cached_sequence *sequence,
                            const wn_kvcache_item *item, wn_error *error)
{
    if ((int64_t)sequence->logical + item->num_tokens > INT32_MAX)
        return wn_fail(error, WN_ERANGE, "sequence %lld: %d tokens and %d more are above %d",
                       (long long)item->sequence, sequence->logical, item->num_tokens, INT32_MAX);
    for (uint32_t group = 0; group < cache->shape.num_groups; group++) {
        int64_t length = (int64_t)sequence->group[group].length + item->num_tokens;
        uint64_t pages = wn_kvcache_pages_for(cache, length);
        if (pages > cache->shape.max_pages_per_sequence)
            return wn_fail(error, WN_ERANGE,
                           "sequence %lld: %lld tokens in group %u take %llu pages, a sequence may "
                           "have %u: truncate or free it, or raise max_tokens",
                           (long long)item->sequence, (long long)length, group,
                           (unsigned long long)pages, cache->shape.max_pages_per_sequence);
    }
    return WN_OK;
}

/* Marks the item's sequence as part of the newest step. */
static wn_status mark_item(wn_kvcache *cache, const wn_kvcache_item *item, wn_error *error)
{
    wn_cached_sequence *sequence = wn_kvcache_find(cache, item->sequence);
    if (sequence != NULL && sequence->step == cache->steps)
        return wn_fail(error, WN_EINVAL, "sequence %lld is in the step twice: join its tokens",
                       (long long)item->sequence);
    wn_status status = wn_kvcache_find_idle(cache, item->sequence, &sequence, error);
    if (status != WN_OK)
        return status;
    if (item->num_tokens < 0 || (item->num_tokens > 0 && item->next_position <= 0))
        return wn_fail(error, WN_EINVAL,
                       "sequence %lld: %d tokens up to position %d; expected 0 tokens or more, at "
                       "positions from 0 on",
                       (long long)item->sequence, item->num_tokens, item->next_position - 1);
    status = check_room(cache, sequence, item, error);
    if (status == WN_OK)
        sequence->step = cache->steps;
    return status;
}

static void unmark(wn_kvcache *cache, const wn_kvcache_item *items, uint32_t num_items)
{
    for (uint32_t i = 0; i < num_items; i++)
        wn_kvcache_find(cache, items[i].sequence)->step = 0;
}

static wn_status mark(wn_kvcache *cache, const wn_kvcache_item *items, uint32_t num_items,
                      wn_error *error)
{
    cache->steps++;
    for (uint32_t i = 0; i < num_items; i++) {
        wn_status status = mark_item(cache, &items[i], error);
        if (status != WN_OK) {
            unmark(cache, items, i);
            return status;
        }
    }
    return WN_OK;
}

/* ---------------------------------------------------------------- counting */

static uint64_t claim_item(wn_kvcache *cache, const wn_kvcache_item *item, uint32_t group)
{
    const wn_sequence_group *of = &wn_kvcache_find(cache, item->sequence)->group[group];
    const uint32_t *references = cache->group[group].allocator.references;
    int64_t length = (int64_t)of->length + item->num_tokens;
    uint64_t needed = wn_kvcache_pages_for(cache, length) - of->num_pages;
    for (uint32_t i = first_written(cache, of, group, item); i < of->num_pages; i++) {
        int32_t page = of->pages[i];
        if (references[page] - cache->claims[page] > 1) {
            cache->claims[page]++;
            needed++;
        }
    }
    return needed;
}

static void unclaim_item(wn_kvcache *cache, const wn_kvcache_item *item, uint32_t group)
{
    const wn_sequence_group *of = &wn_kvcache_find(cache, item->sequence)->group[group];
    for (uint32_t i = first_written(cache, of, group, item); i < of->num_pages; i++)
        cache->claims[of->pages[i]] = 0;
}

static wn_status check_pages(wn_kvcache *cache, const wn_kvcache_item *items, uint32_t num_items,
                             wn_error *error)
{
    for (uint32_t group = 0; group < cache->shape.num_groups; group++) {
        uint64_t needed = 0;
        for (uint32_t i = 0; i < num_items; i++)
            needed += claim_item(cache, &items[i], group);
        for (uint32_t i = 0; i < num_items; i++)
            unclaim_item(cache, &items[i], group);
        uint32_t num_free = wn_page_allocator_available(&cache->group[group].allocator);
        if (needed > num_free)
            return wn_fail(error, WN_ENOPAGES,
                           "out of KV cache pages: the step needs %llu pages of group %u, %u of %u "
                           "are free, %llu are missing: free a sequence or raise max_tokens",
                           (unsigned long long)needed, group, num_free, cache->shape.num_pages,
                           (unsigned long long)(needed - num_free));
    }
    return WN_OK;
}

/* ---------------------------------------------------------------- taking */

/* Replaces the shared pages from `first` on by copies. All of them or none. */
static wn_status make_private(wn_kvcache *cache, wn_sequence_group *of, uint32_t group,
                              uint32_t first, wn_error *error)
{
    wn_page_allocator *allocator = &cache->group[group].allocator;
    uint32_t count = 0;
    for (uint32_t i = first; i < of->num_pages; i++) {
        if (allocator->references[of->pages[i]] == 1)
            continue;
        cache->copy_source[count] = of->pages[i];
        cache->copy_destination[count++] = wn_page_allocator_take(allocator);
    }
    if (count == 0)
        return WN_OK;
    wn_status status =
        wn_pools_copy_pages(cache->pools, cache->num_pools, group, cache->ops, cache->copy_source,
                            cache->copy_destination, count, error);
    if (status != WN_OK) {
        while (count > 0)
            wn_page_allocator_release(allocator, cache->copy_destination[--count]);
        return status;
    }
    cache->group[group].pages_copied += count;
    for (uint32_t i = first, copied = 0; i < of->num_pages; i++) {
        if (allocator->references[of->pages[i]] == 1)
            continue;
        wn_page_allocator_release(allocator, of->pages[i]);
        of->pages[i] = cache->copy_destination[copied++];
    }
    return WN_OK;
}

/* Advances the lengths, and keeps those before for undo. */
static void advance(wn_kvcache *cache, const wn_kvcache_item *item)
{
    wn_cached_sequence *sequence = wn_kvcache_find(cache, item->sequence);
    sequence->logical_before = sequence->logical;
    sequence->positions_before = sequence->positions;
    sequence->compacted = 0;
    if (item->num_tokens > 0)
        wn_position_runs_append(&sequence->positions, sequence->logical, item->num_tokens,
                                item->next_position);
    sequence->logical += item->num_tokens;
    for (uint32_t group = 0; group < cache->shape.num_groups; group++) {
        sequence->group[group].length_before = sequence->group[group].length;
        sequence->group[group].will_compact = compacts(item, group);
        sequence->group[group].length += item->num_tokens;
    }
}

static void undo(wn_kvcache *cache, wn_cached_sequence *sequence)
{
    sequence->logical = sequence->logical_before;
    sequence->positions = sequence->positions_before;
    for (uint32_t group = 0; group < cache->shape.num_groups; group++)
        sequence->group[group].length = sequence->group[group].length_before;
    wn_kvcache_trim(cache, sequence);
    sequence->step = 0;
}

static wn_status take_pages(wn_kvcache *cache, const wn_kvcache_item *item, wn_error *error)
{
    wn_cached_sequence *sequence = wn_kvcache_find(cache, item->sequence);
    for (uint32_t group = 0; group < cache->shape.num_groups; group++) {
        wn_sequence_group *of = &sequence->group[group];
        uint32_t first = first_written(cache, of, group, item);
        wn_status status = make_private(cache, of, group, first, error);
        if (status != WN_OK)
            return status;
    }
    advance(cache, item);
    for (uint32_t group = 0; group < cache->shape.num_groups; group++) {
        wn_sequence_group *of = &sequence->group[group];
        uint64_t pages = wn_kvcache_pages_for(cache, of->length);
        while (of->num_pages < pages)
            of->pages[of->num_pages++] = wn_page_allocator_take(&cache->group[group].allocator);
    }
    return WN_OK;
}

static wn_status take(wn_kvcache *cache, const wn_kvcache_item *items, uint32_t num_items,
                      wn_error *error)
{
    for (uint32_t i = 0; i < num_items; i++) {
        wn_status status = take_pages(cache, &items[i], error);
        if (status == WN_OK)
            continue;
        /* Copying failed. Pages that are private by now hold what the shared ones did. */
        for (uint32_t done = 0; done < i; done++)
            undo(cache, wn_kvcache_find(cache, items[done].sequence));
        unmark(cache, items, num_items);
        return status;
    }
    return WN_OK;
}

wn_status wn_kvcache_begin(wn_kvcache *cache, const wn_kvcache_item *items, uint32_t num_items,
                           wn_error *error)
{
    wn_kvcache_lock(cache);
    wn_status status = mark(cache, items, num_items, error);
    if (status == WN_OK) {
        status = check_pages(cache, items, num_items, error);
        if (status == WN_OK)
            status = take(cache, items, num_items, error);
        else
            unmark(cache, items, num_items);
    }
    wn_kvcache_unlock(cache);
    return status;
}

/* ---------------------------------------------------------------- the end of a step */

static wn_status compacted(wn_kvcache *cache, int64_t id, uint32_t group, int32_t length,
                           wn_error *error)
{
    wn_cached_sequence *sequence = wn_kvcache_find(cache, id);
    if (sequence == NULL)
        return wn_fail(error, WN_ENOTFOUND, "sequence %lld does not exist", (long long)id);
    if (group >= cache->shape.num_groups || !cache->shape.group_evicts[group])
        return wn_fail(error, WN_EINVAL, "group %u cannot be compacted: it keeps no positions",
                       group);
    wn_sequence_group *of = &sequence->group[group];
    if (sequence->step == 0 || !of->will_compact)
        return wn_fail(error, WN_ESTATE,
                       "group %u of sequence %lld was compacted without notice: say so at the "
                       "beginning of the step (will_compact)",
                       group, (long long)id);
    if (length < 0 || length > of->length)
        return wn_fail(error, WN_ERANGE,
                       "group %u of sequence %lld has %d tokens: a compaction cannot leave %d",
                       group, (long long)id, of->length, length);
    of->length = length;
    sequence->floor = sequence->logical;
    sequence->compacted = 1;
    return WN_OK;
}

wn_status wn_kvcache_compacted(wn_kvcache *cache, int64_t sequence, uint32_t group, int32_t length,
                               wn_error *error)
{
    wn_kvcache_lock(cache);
    wn_status status = compacted(cache, sequence, group, length, error);
    wn_kvcache_unlock(cache);
    return status;
}

void wn_kvcache_end(wn_kvcache *cache, const wn_kvcache_item *items, uint32_t num_items)
{
    wn_kvcache_lock(cache);
    for (uint32_t i = 0; i < num_items; i++) {
        wn_cached_sequence *sequence = wn_kvcache_find(cache, items[i].sequence);
        if (sequence == NULL || sequence->step == 0)
            continue; /* aborted or freed on the way */
        wn_kvcache_trim(cache, sequence);
        sequence->step = 0;
    }
    wn_kvcache_unlock(cache);
}

void wn_kvcache_abort(wn_kvcache *cache, const wn_kvcache_item *item)
{
    wn_kvcache_lock(cache);
    wn_cached_sequence *sequence = wn_kvcache_find(cache, item->sequence);
    if (sequence != NULL && sequence->step != 0) {
        assert(!sequence->compacted);
        undo(cache, sequence);
    }
    wn_kvcache_unlock(cache);
}

void wn_kvcache_abort_free(wn_kvcache *cache, int64_t sequence)
{
    wn_kvcache_lock(cache);
    wn_cached_sequence *found = wn_kvcache_find(cache, sequence);
    if (found != NULL)
        wn_kvcache_remove(cache, found);
    wn_kvcache_unlock(cache);
}
