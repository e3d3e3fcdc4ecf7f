/* test_rocket_select.c: stage 2 with the paper's keys (tokens in place of landmarks, temperature),
 * landmarks of any size, ties, several rows at once, and enough of everything. */
#include "check_rocket.h"
#include "suite.h"

#include <string.h>

/* Several tokens at once see what each would see alone (the reference is asked token by token), and
 * the landmarks are complete afterwards. */
static void speculative_rows_equal_sequential(void)
{
    static const int32_t counts[][3] = {{3, 1, 0}, {1, 1, 4}, {9, 2, 2}, {1, 1, 1}, {2, 7, 5}};
    for (int32_t page = 3; page <= 4; page++) {
        const check_shape shape = rocket_shape(2, 2, 16, 3, 8);
        const int32_t lengths[] = {120, 30, 60};
        check_tokens tokens[ROCKET_MAX_BATCH];
        rocket_keys key = rocket_usual;
        key.page = page;
        rocket_make_tokens(&shape, 2, wn_test_seed() + 600 + (uint64_t)page, tokens);
        check_host *host = rocket_make_host(&shape, &key, tokens, wn_test_seed());
        rocket_run(host, &key, lengths, 1);
        for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
            CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_GENERATION, counts[i]), WN_OK);
            rocket_select_and_compare(host, &key);
        }
        check_host_destroy(host);
        check_free_tokens(tokens, shape.batch);
    }
}

/* One prompt each and some steps, with the keys of a list of variants. */
static void run_variants(const check_shape *shape, const rocket_keys *variants, size_t count,
                         const int32_t *lengths, uint64_t salt)
{
    for (size_t i = 0; i < count; i++) {
        check_tokens tokens[ROCKET_MAX_BATCH];
        rocket_make_tokens(shape, 3, wn_test_seed() + salt + i, tokens);
        check_host *host = rocket_make_host(shape, &variants[i], tokens, wn_test_seed());
        rocket_run(host, &variants[i], lengths, 7);
        check_host_destroy(host);
        check_free_tokens(tokens, shape->batch);
    }
}

static void tokens_and_temperature(void)
{
    static const rocket_keys variants[] = {
        {8, 7, 48, 4, 64, 22, 0, "float32", "full", "token", "sparq", 0, 0},
        {8, 7, 48, 3, 10, 17, 0, "float8_e5m2", "full", "token", "sparq", 0, 0},
        {8, 7, 48, 3, 10, 16, 0, "float8_e5m2", "full", "token", "plain", 0, 0},
        {8, 7, 48, 5, 7, 21, 0, "bfloat16", "full", "token", "sparq", 0, 0},
        {8, 7, 48, 1, 5, 9, 0, "float32", "prefix", "token", "sparq", 0, 0},
        {8, 7, 48, 4, 5, 6, 0, "bfloat16", "prefix", "landmark", "sparq", 0, 0},
        {8, 7, 48, 4, 64, 1, 0, "float32", "full", "token", "plain", 0, 0},
        {8, 7, 48, 4, 9, 18, 3, "float32", "full", "token", "sparq", 0, 0},  /* some are local */
        {8, 7, 48, 3, 9, 9, 3, "bfloat16", "full", "token", "sparq", 0, 0},  /* nearly all are */
        {8, 7, 48, 20, 9, 25, 1, "float32", "full", "token", "plain", 0, 0}, /* few long ones */
        {8, 7, 48, 4, 64, 47, 0, "float32", "full", "token", "plain", 0, 0}  /* all but few */
    };
    const check_shape shape = rocket_shape(3, 2, 16, 6, 8);
    run_variants(&shape, variants, sizeof variants / sizeof variants[0], rocket_ragged, 1200);
}

/* Landmarks that begin in one page of the cache and end in the next. */
static void odd_landmarks_across_pages(void)
{
    static const char *const dtypes[] = {"float8_e5m2", "bfloat16", "float32"};
    static const int32_t sizes[] = {3, 5}, tokens_per_page[] = {4, 32};
    rocket_keys variants[12];
    for (size_t p = 0; p < 2; p++) {
        const check_shape shape = rocket_shape(2, 2, 16, 6, (uint32_t)tokens_per_page[p]);
        size_t count = 0;
        for (size_t d = 0; d < 3; d++)
            for (size_t size = 0; size < 2; size++)
                for (int unit = 0; unit < 2; unit++, count++) {
                    variants[count] = rocket_usual;
                    variants[count].page = sizes[size];
                    variants[count].dtype = dtypes[d];
                    variants[count].unit = unit ? "token" : "landmark";
                    variants[count].topk = unit ? 16 : 5;
                }
        run_variants(&shape, variants, count, rocket_ragged, 1300 + 100 * p);
    }
}

/* All scores alike: the lowest tokens, and the last landmark in part. */
static void tied_tokens_go_to_the_lowest(void)
{
    const check_shape shape = rocket_shape(2, 1, 16, 1, 8);
    const int32_t length = 40, one = 1, *list;
    check_tokens tokens[1];
    rocket_keys key = rocket_usual;
    key.unit = "token";
    key.topk = 18;
    rocket_make_tokens(&shape, 2, wn_test_seed() + 1500, tokens);
    for (size_t i = shape.head_dim; i < shape.max_length * shape.head_dim; i++)
        ((float *)tokens[0].k)[i] = tokens[0].k[i % shape.head_dim];
    check_host *host = rocket_make_host(&shape, &key, tokens, wn_test_seed());
    rocket_run(host, &key, &length, 0);
    CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_GENERATION, &one), WN_OK);
    rocket_select_and_compare(host, &key);
    CU_ASSERT_EQUAL_FATAL(check_host_list(host, 0, 0, &list), 18);
    for (int32_t i = 0; i < 18; i++)
        CU_ASSERT_EQUAL(list[i], i);
    check_host_destroy(host);
    check_free_tokens(tokens, 1);
}

/* One token per landmark, all channels, enough of everything. */
static void enough_equals_dense(void)
{
    const check_shape shape = rocket_shape(3, 2, 16, 2, 8);
    const int32_t lengths[] = {90, 33}, several[] = {3, 2};
    for (int variant = 0; variant < 4; variant++) {
        float out[2][5 * 6 * 16];
        check_tokens tokens[ROCKET_MAX_BATCH];
        const rocket_keys key = {
            8,       7,           200,       1,        16,
            200,     0,           "float32", "prefix", variant % 2 ? "token" : "landmark",
            "plain", variant / 2, 0};
        rocket_make_tokens(&shape, 2, wn_test_seed() + 1600, tokens);
        check_host *host = rocket_make_host(&shape, &key, tokens, wn_test_seed());
        rocket_run(host, &key, lengths, 0);
        CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_GENERATION, several), WN_OK);
        CU_ASSERT_EQUAL_FATAL(check_host_select(host), WN_OK);
        CU_ASSERT_EQUAL_FATAL(check_host_attend(host, &host->selection, NULL, out[0], NULL), WN_OK);
        CU_ASSERT_EQUAL_FATAL(check_host_attend(host, NULL, NULL, out[1], NULL), WN_OK);
        CU_ASSERT_EQUAL(memcmp(out[0], out[1], sizeof out[0]), 0);
        check_host_destroy(host);
        check_free_tokens(tokens, shape.batch);
    }
}

WN_SUITE("plugins.rocket_select",
         {"speculative rows equal sequential ones", speculative_rows_equal_sequential},
         {"tokens and temperature", tokens_and_temperature},
         {"odd landmarks across pages", odd_landmarks_across_pages},
         {"tied tokens go to the lowest", tied_tokens_go_to_the_lowest},
         {"enough equals dense", enough_equals_dense})
