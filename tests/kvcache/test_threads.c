/* test_threads.c: two threads on one cache: one appends to and rewrites its sequences step by step,
 * the other creates, forks, truncates and frees; both fork the same idle sequence, so that copy on
 * write meets references that come and go. Contents must hold. Worth running under
 * -fsanitize=thread. */
#include <pthread.h>

#include "cache_reference.h"
#include "suite.h"

enum { ROUNDS = 3000, PREFIX = 13, MOST_PAGES = 16 };

typedef struct worker {
    wn_kvcache *cache;
    int64_t prefix;
    uint64_t random;
    uint32_t layer;
    uint32_t wrong; /* statuses and contents: CUnit is not for threads */
} worker;

/* The element that stands for a token: head 1, channel 3 of its key. */
static float *key(const worker *by, int64_t id, int32_t slot)
{
    wn_paged_kv view;
    int32_t table[MOST_PAGES], length;
    uint32_t group = by->layer == 1 ? 1 : 0;
    wn_kvcache_tables(by->cache, group, &id, 1, table, MOST_PAGES, &length);
    wn_kvcache_view(by->cache, by->layer, &view);
    return cache_element(&view.k, view.tokens_per_page, table[slot / (int32_t)view.tokens_per_page],
                         1, (uint32_t)slot % view.tokens_per_page, 3);
}

static void check(worker *by, int64_t id, int32_t length, float expected)
{
    for (int32_t slot = 0; slot < length; slot++)
        by->wrong += *key(by, id, slot) != (slot < PREFIX ? (float)slot : expected + (float)slot);
}

/* Appends up to n tokens of a value; fewer pages than that is fine. Returns the number appended. */
static int32_t append(worker *by, int64_t id, int32_t length, int32_t n, float value)
{
    wn_kvcache_item item = cache_item(by->cache, id, n);
    wn_status status = wn_kvcache_begin(by->cache, &item, 1, NULL);
    if (status != WN_OK) {
        by->wrong += status != WN_ENOPAGES;
        return 0;
    }
    for (int32_t slot = length; slot < length + n; slot++)
        *key(by, id, slot) = value + (float)slot;
    wn_kvcache_end(by->cache, &item, 1);
    return n;
}

static void *step_after_step(void *argument)
{
    worker *by = argument;
    for (int round = 0; round < ROUNDS; round++) {
        int64_t id;
        int32_t length = PREFIX;
        float value = (float)(1000 + 100 * round);
        if (wn_kvcache_sequence_fork(by->cache, by->prefix, &id, NULL) != WN_OK) {
            by->wrong++;
            continue;
        }
        for (int i = 0; i < 5; i++)
            length += append(by, id, length, (int32_t)wn_random_below(&by->random, 9), value);
        check(by, id, length, value);
        by->wrong += wn_kvcache_sequence_free(by->cache, id, NULL) != WN_OK;
    }
    return NULL;
}

static void *come_and_go(void *argument)
{
    worker *by = argument;
    for (int round = 0; round < ROUNDS; round++) {
        int64_t id, child;
        float value = (float)(-1000 - 100 * round);
        int32_t length = PREFIX;
        wn_kvcache_stats stats;
        by->wrong += wn_kvcache_sequence_fork(by->cache, by->prefix, &id, NULL) != WN_OK;
        by->wrong += wn_kvcache_sequence_fork(by->cache, id, &child, NULL) != WN_OK;
        length += append(by, id, length, 4, value);
        by->wrong += wn_kvcache_sequence_truncate(by->cache, child, 6, NULL) != WN_OK;
        check(by, id, length, value);
        check(by, child, 6, value);
        by->wrong += wn_kvcache_sequence_free(by->cache, id, NULL) != WN_OK;
        by->wrong += wn_kvcache_sequence_create(by->cache, &id, NULL) != WN_OK;
        wn_kvcache_group_stats(by->cache, 0, &stats);
        by->wrong += stats.pages_used + stats.pages_free != 40;
        by->wrong += wn_kvcache_sequence_free(by->cache, id, NULL) != WN_OK;
        by->wrong += wn_kvcache_sequence_free(by->cache, child, NULL) != WN_OK;
    }
    return NULL;
}

static void run(uint32_t layer)
{
    static cache_fixture fixture;
    cache_fixture_init(&fixture, WN_CACHE_NHD, WN_F32);
    wn_kvcache *cache = cache_fixture_create(&fixture);
    CU_ASSERT_PTR_NOT_NULL_FATAL(cache);
    int64_t prefix;
    CU_ASSERT_EQUAL_FATAL(wn_kvcache_sequence_create(cache, &prefix, NULL), WN_OK);
    worker workers[2] = {{cache, prefix, wn_test_seed(), layer, 0},
                         {cache, prefix, wn_test_seed() + 1, layer, 0}};
    CU_ASSERT_EQUAL(append(&workers[0], prefix, 0, PREFIX, 0.0f), PREFIX);
    pthread_t threads[2];
    CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[0], NULL, step_after_step, &workers[0]), 0);
    CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[1], NULL, come_and_go, &workers[1]), 0);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    CU_ASSERT_EQUAL(workers[0].wrong, 0);
    CU_ASSERT_EQUAL(workers[1].wrong, 0);
    check(&workers[0], prefix, PREFIX, 0.0f);
    CU_ASSERT_EQUAL(workers[0].wrong, 0);
    CU_ASSERT_EQUAL(wn_kvcache_sequence_free(cache, prefix, NULL), WN_OK);
    for (uint32_t group = 0; group < CACHE_GROUPS; group++) {
        wn_kvcache_stats stats;
        wn_kvcache_group_stats(cache, group, &stats);
        CU_ASSERT(stats.pages_free == 40 && stats.sequences == 0);
    }
    wn_kvcache_destroy(cache);
}

static void an_evicting_layer(void)
{
    run(0);
}
static void another_layer(void)
{
    run(1);
}

WN_SUITE("kvcache.threads", {"an evicting layer", an_evicting_layer},
         {"another layer", another_layer})
