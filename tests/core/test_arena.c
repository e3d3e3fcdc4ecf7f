/* The arena: zeroed, aligned, apart from each other, of any size. */
#include "tests/suite.h"

#include "core/arena.h"

#include <stdalign.h>
#include <string.h>

static void memory_is_zeroed_aligned_and_apart(void)
{
    wn_arena arena = {0};
    uint64_t random = wn_test_seed();
    unsigned char *taken[200];
    size_t sizes[200];
    for (int i = 0; i < 200; i++) {
        sizes[i] = 1 + wn_random_below(&random, i % 10 == 0 ? 30000 : 100);
        taken[i] = wn_arena_take(&arena, sizes[i]);
        CU_ASSERT_PTR_NOT_NULL_FATAL(taken[i]);
        CU_ASSERT_EQUAL((uintptr_t)taken[i] % alignof(max_align_t), 0);
        for (size_t j = 0; j < sizes[i]; j++)
            CU_ASSERT_EQUAL_FATAL(taken[i][j], 0);
        memset(taken[i], i + 1, sizes[i]);
    }
    for (int i = 0; i < 200; i++) {
        CU_ASSERT_EQUAL(taken[i][0], (unsigned char)(i + 1));
        CU_ASSERT_EQUAL(taken[i][sizes[i] - 1], (unsigned char)(i + 1));
    }
    wn_arena_free(&arena);
    CU_ASSERT_PTR_NULL(arena.chunks);
}

static void text_is_copied_and_terminated(void)
{
    wn_arena arena = {0};
    char source[] = "abcdef";
    char *copy = wn_arena_text(&arena, source, 3);
    source[0] = 'x';
    CU_ASSERT_STRING_EQUAL(copy, "abc");
    CU_ASSERT_STRING_EQUAL(wn_arena_text(&arena, NULL, 0), "");
    wn_arena_free(&arena);
}

static void no_memory_is_remembered(void)
{
    wn_arena arena = {0};
    CU_ASSERT_PTR_NULL(wn_arena_take(&arena, SIZE_MAX - 8));
    CU_ASSERT_EQUAL(arena.out_of_memory, 1);
    CU_ASSERT_PTR_NOT_NULL(wn_arena_take(&arena, 8));
    wn_arena_free(&arena);
}

WN_SUITE("core.arena", {"memory is zeroed, aligned and apart", memory_is_zeroed_aligned_and_apart},
         {"text is copied and terminated", text_is_copied_and_terminated},
         {"no memory is remembered", no_memory_is_remembered})
