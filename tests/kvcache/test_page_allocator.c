/* test_page_allocator.c: pages are handed out once, counted, and come back. */
#include "kvcache/page_allocator.h"

#include "suite.h"

enum { PAGES = 5 };

typedef struct holder {
    wn_page_allocator allocator;
    uint32_t references[PAGES];
    int32_t recycled[PAGES];
} holder;

static void init(holder *of)
{
    *of = (holder){.recycled = {0}};
    wn_page_allocator_init(&of->allocator, PAGES, of->references, of->recycled);
}

static void each_page_once(void)
{
    holder of;
    uint32_t seen = 0;
    init(&of);
    for (uint32_t left = PAGES; left > 0; left--) {
        CU_ASSERT_EQUAL(wn_page_allocator_available(&of.allocator), left);
        seen |= 1u << wn_page_allocator_take(&of.allocator);
    }
    CU_ASSERT_EQUAL(seen, (1u << PAGES) - 1);
    CU_ASSERT_EQUAL(wn_page_allocator_available(&of.allocator), 0);
}

static void freed_pages_go_out_first(void)
{
    holder of;
    init(&of);
    int32_t first = wn_page_allocator_take(&of.allocator);
    wn_page_allocator_take(&of.allocator);
    wn_page_allocator_release(&of.allocator, first);
    CU_ASSERT_EQUAL(wn_page_allocator_available(&of.allocator), PAGES - 1);
    CU_ASSERT_EQUAL(wn_page_allocator_take(&of.allocator), first);
}

static void a_shared_page_is_freed_by_its_last_holder(void)
{
    holder of;
    init(&of);
    int32_t page = wn_page_allocator_take(&of.allocator);
    wn_page_allocator_share(&of.allocator, page);
    wn_page_allocator_share(&of.allocator, page);
    CU_ASSERT_EQUAL(of.allocator.num_shared, 1);
    wn_page_allocator_release(&of.allocator, page);
    CU_ASSERT_EQUAL(of.allocator.num_shared, 1);
    wn_page_allocator_release(&of.allocator, page);
    CU_ASSERT_EQUAL(of.allocator.num_shared, 0);
    CU_ASSERT_EQUAL(wn_page_allocator_available(&of.allocator), PAGES - 1);
    wn_page_allocator_release(&of.allocator, page);
    CU_ASSERT_EQUAL(wn_page_allocator_available(&of.allocator), PAGES);
}

WN_SUITE("kvcache.page_allocator", {"each page once", each_page_once},
         {"freed pages go out first", freed_pages_go_out_first},
         {"a shared page is freed by its last holder", a_shared_page_is_freed_by_its_last_holder})
