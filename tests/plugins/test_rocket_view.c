/* test_rocket_view.c: multi_turn: what stage 2 chooses from while the cache keeps everything, over
 * turns, chunks, speculation and truncation, and what that finds that an eviction loses. */
#include "check_rocket.h"
#include "suite.h"

static const rocket_keys turns[] = {
    {8, 7, 48, 4, 64, 6, 0, "float8_e5m2", "prefix", "landmark", "plain", 1, 0},
    {8, 7, 47, 3, 10, 16, 0, "float32", "full", "token", "sparq", 1, 0},
    {8, 7, 41, 5, 10, 4, 1, "bfloat16", "full", "landmark", "plain", 1, 0},
    {8, 7, 20, 1, 10, 12, 3, "bfloat16", "full", "token", "sparq", 1, 30}};
enum { NUM_TURNS = sizeof turns / sizeof turns[0] };

/* Prompts of all sizes, long after short and short after long, with answers between. */
static void several_turns(void)
{
    static const int32_t prompts[][4] = {{100, 0, 5, 48}, {5, 20, 60, 1}, {30, 70, 0, 12}};
    const check_shape shape = rocket_shape(3, 2, 16, 4, 8);
    for (size_t i = 0; i < NUM_TURNS; i++) {
        check_tokens tokens[ROCKET_MAX_BATCH];
        rocket_make_tokens(&shape, 3, wn_test_seed() + 1700 + i, tokens);
        check_host *host = rocket_make_host(&shape, &turns[i], tokens, wn_test_seed());
        for (size_t turn = 0; turn < 3; turn++)
            rocket_run(host, &turns[i], prompts[turn], 7);
        CU_ASSERT_EQUAL(host->physical[0], host->logical[0]);
        check_host_destroy(host);
        check_free_tokens(tokens, shape.batch);
    }
}

/* With one turn, what is chosen from the view is what is chosen after an eviction. */
static void one_turn_equals_eviction(void)
{
    const check_shape shape = rocket_shape(2, 2, 16, 3, 8);
    const int32_t lengths[] = {120, 30, 70}, counts[][3] = {{1, 1, 1}, {3, 1, 2}, {1, 1, 1}};
    for (size_t i = 0; i < NUM_TURNS; i++) {
        check_tokens tokens[ROCKET_MAX_BATCH];
        rocket_keys single = turns[i];
        single.multi_turn = single.max_new = 0;
        rocket_make_tokens(&shape, 3, wn_test_seed() + 1800 + i, tokens);
        check_host *evicts = rocket_make_host(&shape, &single, tokens, wn_test_seed());
        check_host *views = rocket_make_host(&shape, &turns[i], tokens, wn_test_seed());
        rocket_run(evicts, &single, lengths, 0);
        rocket_run(views, &turns[i], lengths, 0);
        for (size_t step = 0; step < 3; step++) {
            uint32_t row = 0;
            CU_ASSERT_EQUAL_FATAL(check_host_append(evicts, WN_PHASE_GENERATION, counts[step]), 0);
            CU_ASSERT_EQUAL_FATAL(check_host_append(views, WN_PHASE_GENERATION, counts[step]), 0);
            CU_ASSERT_EQUAL_FATAL(check_host_select(evicts), WN_OK);
            CU_ASSERT_EQUAL_FATAL(check_host_select(views), WN_OK);
            for (uint32_t b = 0; b < 3; b++)
                for (int32_t t = 0; t < counts[step][b]; t++, row++)
                    for (uint32_t h = 0; h < 2; h++) {
                        const int32_t *blocks, *slots, size = (int32_t)evicts->selection.block_size;
                        const int32_t seen = evicts->physical[b] - counts[step][b] + t + 1;
                        const int64_t n = check_host_list(evicts, row, h, &blocks);
                        const int64_t m = check_host_list(views, row, h, &slots);
                        int64_t at = 0;
                        for (int64_t e = 0; e < n; e++)
                            for (int32_t s = blocks[e] * size; s < (blocks[e] + 1) * size; s++)
                                if (s < seen && at < m)
                                    CU_ASSERT_EQUAL(check_host_token(evicts, b, h, s), slots[at++]);
                        CU_ASSERT_EQUAL(at, m);
                    }
        }
        check_host_destroy(evicts);
        check_host_destroy(views);
        check_free_tokens(tokens, shape.batch);
    }
}

/* Chunks before the end leave nothing behind; speculative rows equal sequential ones. */
static void chunked_turns_and_speculation(void)
{
    static const int32_t chunks[][2] = {{17, 40}, {1, 0}, {60, 30}};
    static const int32_t counts[][2] = {{3, 1}, {1, 5}, {9, 2}, {1, 1}};
    const check_shape shape = rocket_shape(2, 2, 16, 2, 8);
    for (size_t i = 0; i < NUM_TURNS; i++) {
        check_tokens tokens[ROCKET_MAX_BATCH];
        rocket_make_tokens(&shape, 3, wn_test_seed() + 1900 + i, tokens);
        check_host *host = rocket_make_host(&shape, &turns[i], tokens, wn_test_seed());
        for (size_t turn = 0; turn < 2; turn++) {
            for (size_t c = 0; c < 3 - turn; c++)
                CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_CONTEXT, chunks[c]), WN_OK);
            CU_ASSERT_EQUAL_FATAL(rocket_end_prompts(host, &turns[i]), WN_OK);
            for (size_t c = 0; c < 4; c++) {
                CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_GENERATION, counts[c]),
                                      WN_OK);
                rocket_select_and_compare(host, &turns[i]);
            }
        }
        check_host_destroy(host);
        check_free_tokens(tokens, shape.batch);
    }
}

/* Truncations within the answer, then into the prompt, then below the budget. */
static void truncated_views(void)
{
    static const int32_t truncations[] = {2, 9, 30, 60}; /* of 100 + 7 tokens, and 7 after each */
    const check_shape shape = rocket_shape(2, 2, 16, 1, 8);
    const int32_t length = 100, one = 1;
    for (size_t i = 0; i < NUM_TURNS; i++) {
        check_tokens tokens[1];
        rocket_make_tokens(&shape, 3, wn_test_seed() + 2000 + i, tokens);
        check_host *host = rocket_make_host(&shape, &turns[i], tokens, wn_test_seed());
        float *k = (float *)tokens[0].k;
        const size_t row = (size_t)shape.num_kv_heads * shape.head_dim;
        rocket_run(host, &turns[i], &length, 7);
        for (size_t t = 0; t < 4; t++) {
            check_host_truncate(host, 0, truncations[t]);
            rocket_cut_view(host, &turns[i], 0);
            for (size_t at = (size_t)host->physical[0] * row; at < shape.max_length * row; at++)
                k[at] = -k[at]; /* other tokens take their places */
            for (int step = 0; step < 7; step++) {
                CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_GENERATION, &one), WN_OK);
                rocket_select_and_compare(host, &turns[i]);
            }
        }
        rocket_run(host, &turns[i], &length, 3);
        check_host_destroy(host);
        check_free_tokens(tokens, 1);
    }
}

/* An answer longer than there is room for. */
static void too_long_an_answer(void)
{
    const check_shape shape = rocket_shape(2, 2, 16, 1, 8);
    const int32_t length = 100, ten = 10, one = 1;
    check_tokens tokens[1];
    rocket_keys key = turns[0];
    key.max_new = 20;
    rocket_make_tokens(&shape, 3, wn_test_seed() + 2100, tokens);
    check_host *host = rocket_make_host(&shape, &key, tokens, wn_test_seed());
    rocket_run(host, &key, &length, 0);
    for (int i = 0; i < 2; i++)
        CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_GENERATION, &ten), WN_OK);
    rocket_select_and_compare(host, &key);
    CU_ASSERT_EQUAL(check_host_append(host, WN_PHASE_GENERATION, &one), WN_ERANGE);
    CU_ASSERT_STRING_EQUAL(
        host->error_text, "rocket: layer 0, sequence 1000: 21 tokens since the prompt's end, where "
                          "max_new_tokens leaves room for 20: raise it, or leave it out for any "
                          "number");
    check_host_truncate(host, 0, 5);
    CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_GENERATION, &one), WN_OK);
    rocket_select_and_compare(host, &key);
    rocket_run(host, &key, &ten, 7); /* a new prompt, new room */
    check_host_destroy(host);
    check_free_tokens(tokens, 1);
}

/* Sets a channel of the keys, or of the queries, of tokens [first, end). */
static void plant(const check_shape *shape, const float *values, uint32_t heads, int32_t first,
                  int32_t end, uint32_t channel, float value)
{
    for (int32_t t = first; t < end; t++)
        for (uint32_t h = 0; h < heads; h++)
            ((float *)values)[((size_t)t * heads + h) * shape->head_dim + channel] = value;
}

/* Three tokens of the first prompt that only the second prompt asks for. What is evicted after the
 * first turn is gone; a view that is made anew finds it. */
static void a_needle_for_the_second_turn(void)
{
    const check_shape shape = rocket_shape(2, 1, 16, 1, 8);
    const int32_t first = 100, second = 20;
    check_tokens tokens[1];
    rocket_make_tokens(&shape, 0.5, wn_test_seed() + 2200, tokens);
    plant(&shape, tokens[0].k, 1, 0, 200, 0, 0);
    plant(&shape, tokens[0].q, 2, 0, 101, 0, -8);  /* the first turn looks away */
    plant(&shape, tokens[0].q, 2, 101, 200, 0, 8); /* the second looks for it */
    plant(&shape, tokens[0].k, 1, 30, 53, 0, 4);   /* neighbours that do not keep it */
    plant(&shape, tokens[0].k, 1, 40, 43, 0, 8);
    for (int multi_turn = 0; multi_turn < 2; multi_turn++) {
        rocket_keys key = turns[0];
        int found = 0;
        const int32_t *list;
        key.multi_turn = multi_turn;
        check_host *host = rocket_make_host(&shape, &key, tokens, wn_test_seed());
        rocket_run(host, &key, &first, 1);
        rocket_run(host, &key, &second, 1);
        const int64_t count = check_host_list(host, 0, 0, &list);
        for (int64_t i = 0; i < count; i++)
            for (int32_t s = list[i] * (int32_t)host->selection.block_size;
                 s < (list[i] + 1) * (int32_t)host->selection.block_size && s < host->physical[0];
                 s++) {
                const int32_t token = check_host_token(host, 0, 0, s);
                found += token >= 40 && token < 43;
            }
        CU_ASSERT_EQUAL(found, multi_turn ? 3 : 0);
        check_host_destroy(host);
    }
    check_free_tokens(tokens, 1);
}

WN_SUITE("plugins.rocket_view", {"several turns", several_turns},
         {"one turn equals eviction", one_turn_equals_eviction},
         {"chunked turns and speculation", chunked_turns_and_speculation},
         {"truncated views", truncated_views}, {"too long an answer", too_long_an_answer},
         {"a needle for the second turn", a_needle_for_the_second_turn})
