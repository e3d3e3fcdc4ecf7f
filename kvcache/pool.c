/* pool.c: mapping pools, and copying a page's bundle: the one place that must know all that belongs
 * to a page. A pool forgotten here would corrupt every forked sequence silently. */
#include "kvcache/pool.h"

#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

/* From LARGE bytes on a pool lies on huge pages, where the system gives them to who asks: figures
 * in README.md. A smaller one would often fill but a part of its first. */
enum { HUGE_PAGE = 2 << 20, LARGE = 32 << 20 };

/* NORESERVE: the pools are as large as the user allows, not as large as what is used. */
static void *map_anywhere(size_t bytes)
{
    void *data = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return data == MAP_FAILED ? NULL : data;
}

/* Maps a huge page more than is needed and gives back what lies in front and behind. */
static void *map_aligned(size_t bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), wanted = (bytes + page - 1) / page * page;
    uint8_t *data = wanted <= SIZE_MAX - HUGE_PAGE ? map_anywhere(wanted + HUGE_PAGE) : NULL;
    if (data == NULL)
        return NULL;
    const size_t front = (HUGE_PAGE - (uintptr_t)data % HUGE_PAGE) % HUGE_PAGE;
    if (front > 0)
        munmap(data, front);
    munmap(data + front + wanted, HUGE_PAGE - front); /* never empty: front < HUGE_PAGE */
#ifdef MADV_HUGEPAGE
    madvise(data + front, wanted, MADV_HUGEPAGE); /* advice: if it is refused, small pages do */
#endif
    return data + front;
}

static void *map(uint64_t bytes)
{
    if ((size_t)bytes != bytes)
        return NULL;
    return bytes >= LARGE ? map_aligned((size_t)bytes) : map_anywhere((size_t)bytes);
}

static void unmap(void *data, uint64_t bytes)
{
    munmap(data, (size_t)bytes);
}

const wn_memory_source wn_memory_mapped = {map, unmap};

const char *wn_pool_name(uint32_t kind)
{
    static const char *const names[] = {"keys",
                                        "values",
                                        "key scales",
                                        "value scales",
                                        "positions",
                                        "auxiliary pages",
                                        "auxiliary sequence memory"};
    return names[kind];
}

wn_status wn_pool_map(wn_pool *pool, const wn_memory_source *source, wn_error *error)
{
    if (pool->bytes == 0)
        return WN_OK;
    pool->data = source->map(pool->bytes);
    if (pool->data == NULL)
        return wn_fail(
            error, WN_ENOMEM,
            "KV cache: no address space for %llu bytes of %s of layer %u: lower max_tokens",
            (unsigned long long)pool->bytes, wn_pool_name(pool->kind), pool->layer);
    return WN_OK;
}

void wn_pool_unmap(wn_pool *pool, const wn_memory_source *source)
{
    if (pool->data != NULL)
        source->unmap(pool->data, pool->bytes);
    pool->data = NULL;
}

wn_status wn_pools_copy_pages(const wn_pool *pools, uint64_t num_pools, uint32_t group,
                              const wn_ops *ops, const int32_t *source, const int32_t *destination,
                              uint32_t count, wn_error *error)
{
    for (uint64_t i = 0; i < num_pools; i++) {
        if (pools[i].group != group || !wn_pool_is_paged(&pools[i]))
            continue;
        wn_copy_pages_args args = {
            .struct_size = WN_SIZEOF(wn_copy_pages_args),
            .error = error,
            .pool = pools[i].data,
            .page_bytes = (int64_t)pools[i].unit_bytes,
            .source = source,
            .destination = destination,
            .count = count,
        };
        wn_status status = ops->copy_pages(&args);
        if (status != WN_OK)
            return status;
    }
    return WN_OK;
}
