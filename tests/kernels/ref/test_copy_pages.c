/* test_copy_pages.c: page copies by hand, and one far beyond 4 GiB. */
#include "kernels/ref/ref.h"
#include "suite.h"

#include <string.h>
#include <sys/mman.h>

static void by_hand(void)
{
    char pool[] = "aaabbbcccdddeee";
    static const int32_t source[] = {0, 0, 3}, destination[] = {4, 1, 2};
    wn_copy_pages_args args = {.struct_size = WN_SIZEOF(wn_copy_pages_args),
                               .pool = pool,
                               .page_bytes = 3,
                               .source = source,
                               .destination = destination,
                               .count = 3};
    CU_ASSERT_EQUAL(wn_ref_copy_pages(&args), WN_OK);
    CU_ASSERT_STRING_EQUAL(pool, "aaaaaadddddd"
                                 "aaa");
    args.count = 0;
    args.pool = NULL;
    CU_ASSERT_EQUAL(wn_ref_copy_pages(&args), WN_OK);
}

/* Pages of 1 MiB: page 9000 begins at 8.8 GiB. The pool is mapped, not touched. */
static void beyond_4_gib(void)
{
    const int64_t page_bytes = 1 << 20, bytes = 9001 * page_bytes;
    static const int32_t source[] = {1}, destination[] = {9000};
    uint8_t *pool = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CU_ASSERT_FATAL(pool != MAP_FAILED);
    wn_copy_pages_args args = {.struct_size = WN_SIZEOF(wn_copy_pages_args),
                               .pool = pool,
                               .page_bytes = page_bytes,
                               .source = source,
                               .destination = destination,
                               .count = 1};
    memset(pool + page_bytes, 0x5a, (size_t)page_bytes);
    CU_ASSERT_EQUAL(wn_ref_copy_pages(&args), WN_OK);
    CU_ASSERT_EQUAL(memcmp(pool + page_bytes, pool + 9000 * page_bytes, (size_t)page_bytes), 0);
    munmap(pool, (size_t)bytes);
}

WN_SUITE("kernels.ref.copy_pages", {"by hand", by_hand}, {"beyond 4 GiB", beyond_4_gib})
