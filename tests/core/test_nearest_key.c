/* Edit distance and hints. */
#include "tests/suite.h"

#include "core/nearest_key.h"

#include <string.h>

static const char *nearest_of(const char *word)
{
    static const char *const keys[] = {"window_size", "kernel_size",    "prompt_budget", "topr",
                                       "topk",        "kt_cache_dtype", "max_sequences", NULL};
    wn_nearest nearest = wn_nearest_begin(word);
    for (int i = 0; keys[i] != NULL; i++)
        wn_nearest_try(&nearest, keys[i]);
    return nearest.best == NULL ? "" : nearest.best;
}

static void distances_are_those_of_hand(void)
{
    CU_ASSERT_EQUAL(wn_key_distance("", ""), 0);
    CU_ASSERT_EQUAL(wn_key_distance("", "abc"), 3);
    CU_ASSERT_EQUAL(wn_key_distance("abc", ""), 3);
    CU_ASSERT_EQUAL(wn_key_distance("kitten", "sitting"), 3);
    CU_ASSERT_EQUAL(wn_key_distance("topk", "tokp"), 1);
    CU_ASSERT_EQUAL(wn_key_distance("promt_budget", "prompt_budget"), 1);
    CU_ASSERT_EQUAL(wn_key_distance("Prompt-Budget", "prompt_budget"), 0);
}

/* Symmetric, zero only for equals, never more than the longer word. */
static void distance_is_a_distance(void)
{
    uint64_t random = wn_test_seed();
    for (int trial = 0; trial < 2000; trial++) {
        char a[12] = {0}, b[12] = {0};
        for (uint32_t i = wn_random_below(&random, 11); i > 0; i--)
            a[i - 1] = (char)('a' + wn_random_below(&random, 3));
        for (uint32_t i = wn_random_below(&random, 11); i > 0; i--)
            b[i - 1] = (char)('a' + wn_random_below(&random, 3));
        uint32_t distance = wn_key_distance(a, b);
        size_t longer = strlen(a) > strlen(b) ? strlen(a) : strlen(b);
        CU_ASSERT_EQUAL(distance, wn_key_distance(b, a));
        CU_ASSERT_EQUAL(distance == 0, strcmp(a, b) == 0);
        CU_ASSERT(distance <= longer);
    }
}

static void near_names_are_offered(void)
{
    CU_ASSERT_STRING_EQUAL(nearest_of("promt_budget"), "prompt_budget");
    CU_ASSERT_STRING_EQUAL(nearest_of("top_k"), "topk");
    CU_ASSERT_STRING_EQUAL(nearest_of("WINDOW-SIZE"), "window_size");
    CU_ASSERT_STRING_EQUAL(nearest_of("budget"), "prompt_budget");
    CU_ASSERT_STRING_EQUAL(nearest_of("max_seq"), "max_sequences");
}

static void far_names_are_not(void)
{
    CU_ASSERT_STRING_EQUAL(nearest_of("temperature"), "");
    CU_ASSERT_STRING_EQUAL(nearest_of("x"), "");
    CU_ASSERT_STRING_EQUAL(nearest_of(""), "");
}

static void long_words_are_refused(void)
{
    char word[2000];
    memset(word, 'a', sizeof word - 1);
    word[sizeof word - 1] = '\0';
    CU_ASSERT_EQUAL(wn_key_distance(word, "a"), UINT32_MAX);
    CU_ASSERT_EQUAL(wn_key_distance("a", word), UINT32_MAX);
    CU_ASSERT_STRING_EQUAL(nearest_of(word), "");
    word[63] = '\0';
    CU_ASSERT_EQUAL(wn_key_distance(word, "a"), 62);
}

static void hints_are_written(void)
{
    char hint[WN_HINT_BYTES];
    wn_nearest nearest = wn_nearest_begin("topj");
    CU_ASSERT_STRING_EQUAL(wn_nearest_hint(&nearest, hint), "");
    wn_nearest_try(&nearest, "topk");
    wn_nearest_try(&nearest, "topr");
    CU_ASSERT_STRING_EQUAL(wn_nearest_hint(&nearest, hint), " (did you mean \"topk\"?)");
}

WN_SUITE("core.nearest_key", {"distances are those of hand", distances_are_those_of_hand},
         {"distance is a distance", distance_is_a_distance},
         {"near names are offered", near_names_are_offered},
         {"far names are not", far_names_are_not},
         {"long words are refused", long_words_are_refused},
         {"hints are written", hints_are_written})
