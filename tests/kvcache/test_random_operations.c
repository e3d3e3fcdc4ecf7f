/* test_random_operations.c: thousands of random operations on a cache and on a naive shadow of it,
 * compared byte for byte after each one. Two steps are open at a time, so that operations meet busy
 * sequences; which calls must fail, and how, is predicted by brute force. */
#include <string.h>

#include "kernels/kernels.h"
#include "shadow_reference.h"
#include "suite.h"

enum { STEP_ITEMS = 4, OPERATIONS = 2000, OPERATIONS_ON_RECORDS = 250 };

/* A step that is open, and what its sequences were before it. */
typedef struct open_step {
    wn_kvcache_item items[STEP_ITEMS];
    int32_t first_position[STEP_ITEMS];
    shadow_sequence before[STEP_ITEMS];
    uint8_t compacted[STEP_ITEMS];
    uint32_t count; /* 0: not open */
} open_step;

typedef struct world {
    cache_fixture fixture;
    shadow shadow;
    open_step steps[2];
    uint64_t random;
    uint32_t refused_pages, refused_other, aborted, compactions, truncations; /* seen */
} world;

static uint32_t below(world *in, uint32_t n)
{
    return wn_random_below(&in->random, n);
}

static shadow_sequence *any_sequence(world *in)
{
    return in->shadow.count > 0 ? &in->shadow.sequence[below(in, in->shadow.count)] : NULL;
}

static int is_busy(const world *in, int64_t id)
{
    for (uint32_t step = 0; step < 2; step++)
        for (uint32_t i = 0; i < in->steps[step].count; i++)
            if (in->steps[step].items[i].sequence == id)
                return 1;
    return 0;
}

/* ---------------------------------------------------------------- sequences */

static void create_one(world *in)
{
    int64_t id = 0;
    int full = in->shadow.count == SHADOW_SEQUENCES;
    wn_status status = wn_kvcache_sequence_create(in->shadow.cache, &id, &in->fixture.error);
    CU_ASSERT_EQUAL_FATAL(status, full ? WN_ERANGE : WN_OK);
    if (!full)
        shadow_add(&in->shadow, id, NULL);
}

static void fork_one(world *in)
{
    const shadow_sequence *parent = any_sequence(in);
    int64_t id = 0;
    if (parent == NULL)
        return;
    wn_status expected = is_busy(in, parent->id)                ? WN_EBUSY
                         : in->shadow.count == SHADOW_SEQUENCES ? WN_ERANGE
                                                                : WN_OK;
    wn_status status =
        wn_kvcache_sequence_fork(in->shadow.cache, parent->id, &id, &in->fixture.error);
    CU_ASSERT_EQUAL_FATAL(status, expected);
    if (status == WN_OK)
        shadow_add(&in->shadow, id, parent);
}

static void free_one(world *in)
{
    const shadow_sequence *freed = any_sequence(in);
    if (freed == NULL)
        return;
    int64_t id = freed->id;
    wn_status status = wn_kvcache_sequence_free(in->shadow.cache, id, &in->fixture.error);
    CU_ASSERT_EQUAL_FATAL(status, is_busy(in, id) ? WN_EBUSY : WN_OK);
    if (status != WN_OK)
        return;
    shadow_remove(&in->shadow, id);
    status = wn_kvcache_sequence_free(in->shadow.cache, id, &in->fixture.error);
    CU_ASSERT_EQUAL_FATAL(status, WN_ENOTFOUND);
}

static void truncate_one(world *in)
{
    shadow_sequence *cut = any_sequence(in);
    if (cut == NULL)
        return;
    int32_t length = (int32_t)below(in, (uint32_t)cut->logical + 2);
    if (below(in, 4) != 0 && cut->logical > 0) /* mostly the end, as speculation does */
        length = cut->logical - (int32_t)below(in, cut->logical < 9 ? (uint32_t)cut->logical : 9);
    int allowed = length >= cut->floor && length <= cut->logical;
    wn_status expected = is_busy(in, cut->id) ? WN_EBUSY : allowed ? WN_OK : WN_ERANGE;
    wn_status status =
        wn_kvcache_sequence_truncate(in->shadow.cache, cut->id, length, &in->fixture.error);
    CU_ASSERT_EQUAL_FATAL(status, expected);
    if (status != WN_OK)
        return;
    shadow_truncate(cut, length);
    in->truncations++;
}

/* ---------------------------------------------------------------- steps */

static void draw_item(world *in, open_step *step)
{
    const shadow_sequence *sequence = any_sequence(in);
    wn_kvcache_item *item = &step->items[step->count];
    int32_t gap = sequence->jumps < 6 && below(in, 8) == 0 ? (int32_t)below(in, 30) : 0;
    *item = (wn_kvcache_item){.sequence = sequence->id};
    item->num_tokens = (int32_t)below(in, below(in, 4) == 0 ? 30 : 7);
    item->will_compact = below(in, 4) == 0 ? 1 + below(in, 3) : 0;
    if (item->num_tokens > 0)
        item->next_position = sequence->next_position + gap + item->num_tokens;
    step->first_position[step->count] = sequence->next_position + gap;
    step->before[step->count] = *sequence;
    step->count++;
}

/* What begin must say, by brute force. */
static wn_status predict(world *in, const open_step *step)
{
    int64_t longest =
        (int64_t)in->shadow.shape->max_pages_per_sequence * in->shadow.shape->tokens_per_page;
    for (uint32_t i = 0; i < step->count; i++) {
        const wn_kvcache_item *item = &step->items[i];
        const shadow_sequence *sequence = shadow_find(&in->shadow, item->sequence);
        if (sequence == NULL)
            return WN_ENOTFOUND;
        for (uint32_t other = 0; other < i; other++)
            if (step->items[other].sequence == item->sequence)
                return WN_EINVAL;
        if (is_busy(in, item->sequence))
            return WN_EBUSY;
        for (uint32_t group = 0; group < CACHE_GROUPS; group++)
            if (sequence->length[group] + item->num_tokens > longest)
                return WN_ERANGE;
    }
    for (uint32_t group = 0; group < CACHE_GROUPS; group++)
        if (shadow_pages_missing(&in->shadow, step->items, step->count, group) > 0)
            return WN_ENOPAGES;
    return WN_OK;
}

static void begin_step(world *in, open_step *slot)
{
    open_step drawn = {.count = 0};
    if (in->shadow.count == 0)
        return;
    uint32_t count = 1 + below(in, STEP_ITEMS);
    while (drawn.count < count)
        draw_item(in, &drawn);
    if (below(in, 40) == 0)
        drawn.items[below(in, count)].sequence = 1 + below(in, 1000000);
    wn_status expected = predict(in, &drawn);
    wn_status status =
        wn_kvcache_begin(in->shadow.cache, drawn.items, drawn.count, &in->fixture.error);
    CU_ASSERT_EQUAL_FATAL(status, expected);
    in->refused_pages += status == WN_ENOPAGES;
    in->refused_other += status != WN_OK && status != WN_ENOPAGES;
    if (status == WN_OK)
        *slot = drawn;
    for (uint32_t i = 0; status == WN_OK && i < drawn.count; i++)
        shadow_write(&in->shadow, shadow_find(&in->shadow, drawn.items[i].sequence),
                     drawn.items[i].num_tokens, drawn.first_position[i]);
}

/* Compacts what was announced, mostly. */
static void compact_step(world *in, open_step *step)
{
    for (uint32_t i = 0; i < step->count; i++) {
        shadow_sequence *sequence = shadow_find(&in->shadow, step->items[i].sequence);
        if (sequence == NULL || !(step->items[i].will_compact & 1) || below(in, 4) == 0)
            continue;
        int32_t keep = (int32_t)below(in, (uint32_t)sequence->length[0] + 1);
        wn_status status = shadow_compact(&in->shadow, sequence, keep, &in->random);
        CU_ASSERT_EQUAL_FATAL(status, WN_OK);
        status = wn_kvcache_compacted(in->shadow.cache, sequence->id, 0, keep, &in->fixture.error);
        CU_ASSERT_EQUAL_FATAL(status, WN_OK);
        step->compacted[i] = 1;
        in->compactions++;
    }
}

/* Some items are aborted, the rest ends. */
static void end_step(world *in, open_step *step)
{
    if (below(in, 2) == 0)
        compact_step(in, step);
    for (uint32_t i = 0; i < step->count; i++) {
        shadow_sequence *sequence = shadow_find(&in->shadow, step->items[i].sequence);
        if (below(in, 6) != 0)
            continue;
        in->aborted++;
        if (step->compacted[i] || below(in, 4) == 0) {
            wn_kvcache_abort_free(in->shadow.cache, sequence->id);
            shadow_remove(&in->shadow, step->items[i].sequence);
        } else {
            wn_kvcache_abort(in->shadow.cache, &step->items[i]);
            shadow_unwrite(sequence, &step->before[i]);
        }
    }
    wn_kvcache_end(in->shadow.cache, step->items, step->count);
    step->count = 0;
}

static void operate(world *in)
{
    uint32_t what = below(in, 100);
    open_step *step = &in->steps[below(in, 2)];
    if (what < 10)
        create_one(in);
    else if (what < 20)
        fork_one(in);
    else if (what < 28)
        free_one(in);
    else if (what < 40)
        truncate_one(in);
    else if (step->count == 0)
        begin_step(in, step);
    else
        end_step(in, step);
}

static void run(uint32_t layout, uint32_t dtype, int latent, const wn_ops *ops, uint64_t seed)
{
    static world in;
    /* A record has 656 bytes to compare where others have 48 at most. */
    int operations = latent && dtype == WN_F8_E4M3 ? OPERATIONS_ON_RECORDS : OPERATIONS;
    memset(&in, 0, sizeof in);
    in.random = seed;
    if (latent)
        cache_fixture_init_latent(&in.fixture, layout, dtype);
    else
        cache_fixture_init(&in.fixture, layout, dtype);
    in.shadow.shape = &in.fixture.shape;
    in.shadow.ops = ops;
    wn_status status =
        wn_kvcache_create(&in.fixture.shape, ops, &in.shadow.cache, &in.fixture.error);
    CU_ASSERT_EQUAL_FATAL(status, WN_OK);
    for (int i = 0; i < operations; i++) {
        operate(&in);
        uint32_t wrong = shadow_differences(&in.shadow) + shadow_miscounts(&in.shadow);
        if (wrong > 0)
            printf("    after operation %d, layout %u dtype %u\n", i, layout, dtype);
        CU_ASSERT_EQUAL_FATAL(wrong, 0);
    }
    /* A run that never met these has tested nothing. */
    CU_ASSERT(in.refused_pages > 0 && in.refused_other > 0 && in.aborted > 0 &&
              in.compactions > 0 && in.truncations > 0);
    wn_kvcache_destroy(in.shadow.cache);
}

/* Each test has seeds of its own. */
static void run_seeds(uint32_t layout, uint32_t dtype, int latent)
{
    uint64_t seed = wn_test_seed() + 1000 * (uint32_t)latent + 100 * layout + 10 * dtype;
    run(layout, dtype, latent, cache_ops(), seed);
    run(layout, dtype, latent, wn_kernels_cpu(), seed + 1);
}

static void hnd_float32(void)
{
    run_seeds(WN_CACHE_HND, WN_F32, 0);
}
static void nhd_float32(void)
{
    run_seeds(WN_CACHE_NHD, WN_F32, 0);
}
static void vec_float32(void)
{
    run_seeds(WN_CACHE_VEC, WN_F32, 0);
}
static void hnd_int8(void)
{
    run_seeds(WN_CACHE_HND, WN_I8, 0);
}
static void nhd_int8(void)
{
    run_seeds(WN_CACHE_NHD, WN_I8, 0);
}
static void vec_int8(void)
{
    run_seeds(WN_CACHE_VEC, WN_I8, 0);
}

static void latent_hnd_bfloat16(void)
{
    run_seeds(WN_CACHE_HND, WN_BF16, 1);
}
static void latent_nhd_float32(void)
{
    run_seeds(WN_CACHE_NHD, WN_F32, 1);
}
static void latent_records(void)
{
    run_seeds(WN_CACHE_HND, WN_F8_E4M3, 1);
}

WN_SUITE("kvcache.random_operations", {"hnd, float32", hnd_float32}, {"nhd, float32", nhd_float32},
         {"vec, float32", vec_float32}, {"hnd, int8", hnd_int8}, {"nhd, int8", nhd_int8},
         {"vec, int8", vec_int8}, {"latent, hnd, bfloat16", latent_hnd_bfloat16},
         {"latent, nhd, float32", latent_nhd_float32}, {"latent, records", latent_records})
