/* page_allocator.h: the pages of one group: which are free, and how many page tables name each of
 * the others. Every operation is O(1). Knows numbers, not memory; locks nothing.
 *
 * Pages [fresh, num_pages) were never handed out; freed ones lie on a stack and go out again first.
 * So nothing has to be written at creation, and pools stay untouched from the end. */
#ifndef WN_PAGE_ALLOCATOR_H
#define WN_PAGE_ALLOCATOR_H

#include <stdint.h>

typedef struct wn_page_allocator {
    uint32_t *references; /* [num_pages] page tables that name the page; 0: free */
    int32_t *recycled;    /* [num_pages] stack of freed pages */
    uint32_t num_pages, fresh, num_recycled;
    uint32_t num_shared; /* pages with more than one reference */
} wn_page_allocator;

/* Both arrays: [num_pages], references zeroed; the caller's, for the allocator's life. */
void wn_page_allocator_init(wn_page_allocator *allocator, uint32_t num_pages, uint32_t *references,
                            int32_t *recycled);
uint32_t wn_page_allocator_available(const wn_page_allocator *allocator);
/* A page with one reference. There must be a free one. */
int32_t wn_page_allocator_take(wn_page_allocator *allocator);
/* One reference more to a page in use. */
void wn_page_allocator_share(wn_page_allocator *allocator, int32_t page);
/* One reference less; the last one frees the page. */
void wn_page_allocator_release(wn_page_allocator *allocator, int32_t page);

#endif
