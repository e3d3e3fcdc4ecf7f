/* bookkeeping.c: the one block that holds the cache's struct, its counters and all page tables. One
 * function both measures and places, so the plan cannot differ from what is allocated. */
#include "kvcache/kvcache_internal.h"
#include "kvcache/size.h"

/* The next array of the block; each begins on a cache line of its own. */
static void *place(wn_bookkeeping *block, void *base, uint64_t count, uint64_t size)
{
    uint64_t begin = wn_size_round_up(block->bytes, 64);
    block->bytes = wn_size_sum(begin, wn_size_product(count, size));
    return base == NULL ? NULL : (uint8_t *)base + begin;
}

void wn_bookkeeping_lay_out(const wn_kvcache_shape *shape, void *base, wn_bookkeeping *block)
{
    uint64_t pages = wn_size_product(shape->num_groups, shape->num_pages);
    uint64_t rows = wn_size_product(shape->max_sequences, shape->num_groups);
    uint64_t longest = shape->max_pages_per_sequence;
    *block = (wn_bookkeeping){0};
    block->cache = place(block, base, 1, sizeof *block->cache);
    block->layer_group = place(block, base, shape->num_layers, sizeof *block->layer_group);
    block->group_evicts = place(block, base, shape->num_groups, sizeof *block->group_evicts);
    block->pools = place(block, base, wn_shape_num_pools(shape), sizeof *block->pools);
    block->layer_aux = place(block, base, shape->num_layers, sizeof *block->layer_aux);
    block->group = place(block, base, shape->num_groups, sizeof *block->group);
    block->references = place(block, base, pages, sizeof *block->references);
    block->recycled = place(block, base, pages, sizeof *block->recycled);
    block->claims = place(block, base, shape->num_pages, sizeof *block->claims);
    block->sequence = place(block, base, shape->max_sequences, sizeof *block->sequence);
    block->sequence_group = place(block, base, rows, sizeof *block->sequence_group);
    block->page_table = place(block, base, wn_size_product(rows, longest), sizeof(int32_t));
    block->copy_source = place(block, base, longest, sizeof(int32_t));
    block->copy_destination = place(block, base, longest, sizeof(int32_t));
}

static void fill_shape(const wn_kvcache_shape *shape, const wn_bookkeeping *block)
{
    wn_kvcache *cache = block->cache;
    for (uint32_t layer = 0; layer < shape->num_layers; layer++)
        block->layer_group[layer] = shape->layer_group[layer];
    for (uint32_t group = 0; group < shape->num_groups; group++)
        block->group_evicts[group] = shape->group_evicts[group];
    cache->shape = *shape;
    cache->shape.layer_group = block->layer_group;
    cache->shape.group_evicts = block->group_evicts;
    cache->shape.aux = NULL;
}

static void fill_pools(const wn_kvcache_shape *shape, const wn_bookkeeping *block)
{
    wn_kvcache *cache = block->cache;
    cache->num_pools = wn_shape_num_pools(shape);
    cache->pools = block->pools;
    for (uint64_t i = 0; i < cache->num_pools; i++)
        wn_shape_pool(shape, i, &cache->pools[i]);
    cache->layer_aux = block->layer_aux;
    for (uint32_t layer = 0, aux = 0; layer < shape->num_layers; layer++) {
        cache->layer_aux[layer] = aux;
        while (aux < shape->num_aux && shape->aux[aux].layer == layer)
            aux++;
    }
}

static void fill_groups(const wn_kvcache_shape *shape, const wn_bookkeeping *block)
{
    wn_kvcache *cache = block->cache;
    cache->group = block->group;
    for (uint32_t group = 0; group < shape->num_groups; group++) {
        uint64_t first = (uint64_t)group * shape->num_pages;
        wn_page_allocator_init(&cache->group[group].allocator, shape->num_pages,
                               block->references + first, block->recycled + first);
        cache->group[group].lookback_tokens = wn_shape_lookback(shape, group);
    }
}

static void fill_sequences(const wn_kvcache_shape *shape, const wn_bookkeeping *block)
{
    wn_kvcache *cache = block->cache;
    cache->sequence = block->sequence;
    cache->free_slot = -1;
    for (uint32_t slot = shape->max_sequences; slot-- > 0;) {
        wn_cached_sequence *sequence = &cache->sequence[slot];
        sequence->generation = 1;
        sequence->group = block->sequence_group + (uint64_t)slot * shape->num_groups;
        sequence->next_free = cache->free_slot;
        cache->free_slot = (int32_t)slot;
        for (uint32_t group = 0; group < shape->num_groups; group++)
            sequence->group[group].pages =
                block->page_table +
                ((uint64_t)slot * shape->num_groups + group) * shape->max_pages_per_sequence;
    }
}

void wn_bookkeeping_fill(const wn_kvcache_shape *shape, const wn_bookkeeping *block)
{
    fill_shape(shape, block);
    fill_pools(shape, block);
    fill_groups(shape, block);
    fill_sequences(shape, block);
    block->cache->bookkeeping_bytes = block->bytes;
    block->cache->claims = block->claims;
    block->cache->copy_source = block->copy_source;
    block->cache->copy_destination = block->copy_destination;
}
