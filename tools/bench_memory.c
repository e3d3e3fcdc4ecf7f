/* bench_memory.c: anonymous mappings with madvise(MADV_HUGEPAGE). With pages of 4 KiB a cache in
 * random page order would measure the page tables' cache as much as the kernel. */
#include "tools/bench_memory.h"

#include <sys/mman.h>

enum { LARGE_PAGE = 2 << 20, PAGE = 4096 };

void *wn_bench_take(wn_bench_memory *memory, int64_t bytes)
{
    size_t align = bytes >= LARGE_PAGE ? LARGE_PAGE : PAGE;
    size_t whole = (((size_t)bytes + align - 1) & ~(align - 1)) + align;
    void *block = MAP_FAILED;
    if (bytes >= 0 && memory->count < WN_BENCH_BLOCKS)
        block = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED) {
        memory->failed = 1;
        return NULL;
    }
    memory->block[memory->count] = block;
    memory->bytes[memory->count++] = whole;
    uint8_t *aligned = (uint8_t *)(((uintptr_t)block + align - 1) & ~(uintptr_t)(align - 1));
    if (align == LARGE_PAGE) /* refused is fine: then the pages are small */
        madvise(aligned, whole - align, MADV_HUGEPAGE);
    return aligned;
}

void wn_bench_release(wn_bench_memory *memory)
{
    for (uint32_t i = 0; i < memory->count; i++)
        munmap(memory->block[i], memory->bytes[i]);
    *memory = (wn_bench_memory){0};
}
