/* page_allocator.c: a stack of free pages and a reference count for each. */
#include "kvcache/page_allocator.h"

#include <assert.h>

void wn_page_allocator_init(wn_page_allocator *allocator, uint32_t num_pages, uint32_t *references,
                            int32_t *recycled)
{
    *allocator =
        (wn_page_allocator){.references = references, .recycled = recycled, .num_pages = num_pages};
}

uint32_t wn_page_allocator_available(const wn_page_allocator *allocator)
{
    return allocator->num_pages - allocator->fresh + allocator->num_recycled;
}

int32_t wn_page_allocator_take(wn_page_allocator *allocator)
{
    assert(wn_page_allocator_available(allocator) > 0);
    int32_t page = allocator->num_recycled > 0 ? allocator->recycled[--allocator->num_recycled]
                                               : (int32_t)allocator->fresh++;
    assert(allocator->references[page] == 0);
    allocator->references[page] = 1;
    return page;
}

void wn_page_allocator_share(wn_page_allocator *allocator, int32_t page)
{
    assert(allocator->references[page] > 0);
    if (++allocator->references[page] == 2)
        allocator->num_shared++;
}

void wn_page_allocator_release(wn_page_allocator *allocator, int32_t page)
{
    assert(allocator->references[page] > 0);
    uint32_t left = --allocator->references[page];
    if (left == 1)
        allocator->num_shared--;
    else if (left == 0)
        allocator->recycled[allocator->num_recycled++] = page;
}
