/* suite.h: the frame of every test program: CUnit, one suite, results on stdout, exit 1 on failure.
 *
 *     static void adds_up(void) { CU_ASSERT_EQUAL(1 + 1, 2); }
 *     WN_SUITE("kernels.topk", {"adds up", adds_up}, {"...", ...})
 *
 * The seed of random data comes from WN_TEST_SEED and is printed, so that a failure can be rerun.
 */
#ifndef WN_TESTS_SUITE_H
#define WN_TESTS_SUITE_H

#include <CUnit/Basic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct wn_test {
    const char *name;
    void (*run)(void);
} wn_test;

static uint64_t wn_test_seed_value;

/* The run's seed. */
static inline uint64_t wn_test_seed(void)
{
    return wn_test_seed_value;
}

/* splitmix64: a state of 64 bits, any seed good. */
static inline uint64_t wn_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}
/* In [0, n). */
static inline uint32_t wn_random_below(uint64_t *state, uint32_t n)
{
    return (uint32_t)((wn_random(state) >> 32) * (uint64_t)n >> 32);
}
/* Uniform in [-1, 1). */
static inline double wn_random_signed(uint64_t *state)
{
    return (double)(wn_random(state) >> 11) * (2.0 / 9007199254740992.0) - 1.0;
}

static inline int wn_run_suite(const char *suite_name, const wn_test *tests, size_t count)
{
    const char *seed = getenv("WN_TEST_SEED");
    wn_test_seed_value = seed != NULL ? strtoull(seed, NULL, 0) : 20260101ULL;
    printf("seed %llu (set WN_TEST_SEED to change it)\n", (unsigned long long)wn_test_seed_value);
    fflush(stdout);
    if (CU_initialize_registry() != CUE_SUCCESS)
        return 2;
    CU_pSuite suite = CU_add_suite(suite_name, NULL, NULL);
    for (size_t i = 0; i < count; i++)
        if (suite == NULL || CU_add_test(suite, tests[i].name, tests[i].run) == NULL)
            return 2;
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    unsigned ran = CU_get_number_of_tests_run();
    CU_cleanup_registry();
    return failures != 0 || ran != count;
}

#define WN_SUITE(name, ...)                                                                        \
    int main(void)                                                                                 \
    {                                                                                              \
        static const wn_test tests[] = {__VA_ARGS__};                                              \
        return wn_run_suite(name, tests, sizeof tests / sizeof tests[0]);                          \
    }

#endif
