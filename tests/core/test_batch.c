/* test_batch.c: what a step may be, and that a refused or undone one leaves no trace. */
#include "check_engine.h"

#include "core/engine.h"

#include <string.h>

static wn_batch_item item_of(wn_sequence sequence, int32_t tokens, uint32_t flags)
{
    return (wn_batch_item){WN_SIZEOF(wn_batch_item), flags, sequence, tokens, 0, NULL};
}

static const wn_engine_options small = {.struct_size = WN_SIZEOF(wn_engine_options),
                                        .tokens_per_page = 4,
                                        .max_tokens = 40,
                                        .max_sequences = 4,
                                        .max_batch = 3,
                                        .max_step_tokens = 36};

static void bad_items_are_refused(void)
{
    check_engine c = {0};
    wn_sequence s, t;
    wn_batch *b;
    check_open(&c, "", &small);
    wn_sequence_create(c.engine, &s);
    wn_sequence_create(c.engine, &t);
    wn_batch_item items[4] = {item_of(s, 1, 0), item_of(t, 1, 0), item_of(s, 1, 0)};
    CU_ASSERT_EQUAL(wn_batch_begin(c.engine, items, 4, &b), WN_ERANGE);
    CU_ASSERT(strstr(wn_error_text(), "max_batch") != NULL);
    CU_ASSERT_EQUAL(wn_batch_begin(c.engine, items, 3, &b), WN_EINVAL); /* s twice */
#define REFUSED(change, status)                                                                    \
    items[1] = item_of(t, 1, 0);                                                                   \
    change;                                                                                        \
    CU_ASSERT_EQUAL(wn_batch_begin(c.engine, items, 2, &b), status)
    REFUSED(items[1].num_tokens = -1, WN_EINVAL);
    REFUSED(items[1].num_tokens = 37, WN_EINVAL);
    REFUSED(items[1].num_tokens = 36, WN_ERANGE); /* with s's one: 37 query tokens */
    REFUSED(items[1].flags = 8, WN_EINVAL);
    REFUSED(items[1].flags = WN_ITEM_MORE, WN_EINVAL);
    REFUSED(items[1].struct_size = 0, WN_EINVAL);
    REFUSED(items[1].reserved = 1, WN_EINVAL);
    REFUSED(items[1].sequence = 999, WN_ENOTFOUND);
    REFUSED(items[1].sequence = 0, WN_ENOTFOUND);
    REFUSED((items[1].positions = (int32_t[]){3}), WN_EUNSUPPORTED); /* a gap */
    REFUSED((items[1].positions = (int32_t[]){-1}), WN_ERANGE);
    REFUSED((items[1].positions = (int32_t[]){256}), WN_ERANGE);
    int32_t logical = 9;
    wn_sequence_length(c.engine, s, 0, &logical, NULL);
    CU_ASSERT_EQUAL(logical, 0);
    CU_ASSERT_EQUAL(wn_batch_begin(c.engine, items, 0, &b), WN_OK); /* an empty step */
    CU_ASSERT_EQUAL(wn_batch_end(b), WN_OK);
    check_close(&c);
}

/* 10 pages of 4. */
static void out_of_pages_harms_nobody(void)
{
    uint64_t random = wn_test_seed();
    check_engine c = {0};
    wn_sequence s, t;
    wn_batch *b;
    float before[2 * 48], after[2 * 48];
    check_open(&c, "", &small);
    check_text text = check_write(&c.model, 40, &random);
    wn_sequence_create(c.engine, &s);
    wn_sequence_create(c.engine, &t);
    CU_ASSERT_EQUAL(check_step(&c, s, &text, 0, 30, WN_ITEM_CONTEXT, NULL, NULL), WN_OK);
    wn_batch_item items[2] = {item_of(s, 1, 0), item_of(t, 12, WN_ITEM_CONTEXT)};
    CU_ASSERT_EQUAL(wn_batch_begin(c.engine, items, 2, &b), WN_ENOPAGES);
    CU_ASSERT(strstr(wn_error_text(), "page") != NULL);
    int32_t logical;
    wn_sequence_length(c.engine, s, 0, &logical, NULL);
    CU_ASSERT_EQUAL(logical, 30);
    wn_sequence_length(c.engine, t, 0, &logical, NULL);
    CU_ASSERT_EQUAL(logical, 0);
    /* The refused step has not touched what is cached: the next token comes out the same. */
    wn_sequence fork;
    CU_ASSERT_EQUAL(wn_sequence_fork(c.engine, s, &fork), WN_OK);
    CU_ASSERT_EQUAL(check_step(&c, fork, &text, 30, 31, 0, before, NULL), WN_OK);
    CU_ASSERT_EQUAL(wn_sequence_free(c.engine, fork), WN_OK);
    CU_ASSERT_EQUAL(check_step(&c, s, &text, 30, 31, 0, after, NULL), WN_OK);
    CU_ASSERT(memcmp(before, after, sizeof before) == 0);
    CU_ASSERT_EQUAL(check_step(&c, t, &text, 0, 8, WN_ITEM_CONTEXT, NULL, NULL), WN_OK);
    check_erase(&text);
    check_close(&c);
}

static void a_sequence_is_in_one_batch(void)
{
    check_engine c = {0};
    wn_sequence s, t, fork;
    wn_batch *b, *other;
    check_open(&c, "", &small);
    wn_sequence_create(c.engine, &s);
    wn_sequence_create(c.engine, &t);
    wn_batch_item item = item_of(s, 2, WN_ITEM_CONTEXT), second = item_of(t, 2, WN_ITEM_CONTEXT);
    CU_ASSERT_EQUAL_FATAL(wn_batch_begin(c.engine, &item, 1, &b), WN_OK);
    CU_ASSERT_EQUAL(wn_batch_begin(c.engine, &item, 1, &other), WN_EBUSY);
    CU_ASSERT_EQUAL(wn_sequence_fork(c.engine, s, &fork), WN_EBUSY);
    CU_ASSERT_EQUAL(wn_sequence_free(c.engine, s), WN_EBUSY);
    CU_ASSERT_EQUAL(wn_sequence_truncate(c.engine, s, 0), WN_EBUSY);
    CU_ASSERT_EQUAL(wn_engine_free(c.engine), WN_EBUSY);
    CU_ASSERT_EQUAL(wn_batch_begin(c.engine, &second, 1, &other), WN_OK); /* a disjoint step */
    CU_ASSERT_EQUAL(wn_batch_abort(other), WN_OK);
    CU_ASSERT_EQUAL(wn_batch_abort(b), WN_OK);
    CU_ASSERT_EQUAL(wn_sequence_free(c.engine, s), WN_OK);
    check_close(&c);
}

/* Abort before any compaction restores; after one, the sequence is gone and says so. */
static void abort_restores_or_frees(void)
{
    uint64_t random = wn_test_seed();
    check_engine c = {0};
    wn_sequence s;
    wn_batch *b;
    float data[20 * 48] = {0};
    int32_t logical = -1, physical = -1;
    check_open(&c, "sparse_attention_config: {algorithm: probe, keep: 6}\n", &small);
    check_text text = check_write(&c.model, 30, &random);
    wn_sequence_create(c.engine, &s);
    CU_ASSERT_EQUAL(check_step(&c, s, &text, 0, 5, WN_ITEM_CONTEXT | WN_ITEM_MORE, NULL, NULL),
                    WN_OK);
    wn_batch_item item = item_of(s, 10, WN_ITEM_CONTEXT);
    CU_ASSERT_EQUAL_FATAL(wn_batch_begin(c.engine, &item, 1, &b), WN_OK);
    wn_sequence_length(c.engine, s, 0, &logical, &physical);
    CU_ASSERT(logical == 15 && physical == 15);
    CU_ASSERT_EQUAL(wn_batch_abort(b), WN_OK);
    wn_sequence_length(c.engine, s, 0, &logical, &physical);
    CU_ASSERT(logical == 5 && physical == 5);
    CU_ASSERT_EQUAL_FATAL(wn_batch_begin(c.engine, &item, 1, &b), WN_OK);
    wn_tensor q = wn_tensor_make(data, WN_F32, 3, (int64_t[]){10, 6, 8});
    wn_tensor kv = wn_tensor_make(data, WN_F32, 3, (int64_t[]){10, 2, 8});
    CU_ASSERT_EQUAL(
        wn_attention(b, 1, WN_ARGS(wn_attention_args, .q = q, .k = kv, .v = kv, .out = q)), WN_OK);
    CU_ASSERT_EQUAL(wn_batch_abort(b), WN_OK); /* layer 1 has compacted, layer 0 not */
    CU_ASSERT_EQUAL(wn_sequence_length(c.engine, s, 0, &logical, &physical), WN_ENOTFOUND);
    wn_kvcache_stats stats;
    for (uint32_t g = 0; g < c.engine->num_groups; g++) {
        wn_kvcache_group_stats(c.engine->cache, g, &stats);
        CU_ASSERT(stats.pages_used == 0 && stats.sequences == 0);
    }
    check_erase(&text);
    check_close(&c);
}

/* The auxiliary pool holds the first channel of each stored key: through appends, forks and
 * compactions it must follow the keys. */
static void expect_pool_follows(check_engine *c, wn_sequence s)
{
    wn_engine *e = c->engine;
    int32_t table[64], length;
    for (uint32_t l = 0; l < e->model.num_layers; l++) {
        const wn_layer *layer = &e->layers[l];
        const wn_aux_view *aux = &layer->methods[0].aux[0];
        wn_kvcache_tables(e->cache, layer->group, &s, 1, table, e->max_pages_per_sequence, &length);
        for (int32_t slot = 0; slot < length; slot++)
            for (uint32_t h = 0; h < 2; h++) {
                int64_t page = table[slot / 4], place = slot % 4;
                const float *key =
                    (const float *)layer->view.k.data + page * layer->view.k.page_stride +
                    h * layer->view.k.head_stride + place * layer->view.k.token_stride;
                const float *kept =
                    (const float *)(aux->data + page * aux->page_stride + h * aux->head_stride);
                CU_ASSERT_EQUAL(key[0], kept[place]);
            }
    }
}

static void pools_follow_their_pages(void)
{
    uint64_t random = wn_test_seed();
    check_engine c = {0};
    wn_sequence s, fork;
    check_open(&c, "sparse_attention_config: {algorithm: probe, keep: 6}\n", &small);
    check_text text = check_write(&c.model, 30, &random);
    wn_sequence_create(c.engine, &s);
    CU_ASSERT_EQUAL(check_step(&c, s, &text, 0, 9, WN_ITEM_CONTEXT | WN_ITEM_MORE, NULL, NULL),
                    WN_OK);
    expect_pool_follows(&c, s);
    CU_ASSERT_EQUAL(wn_sequence_fork(c.engine, s, &fork), WN_OK);
    CU_ASSERT_EQUAL(check_step(&c, s, &text, 9, 14, WN_ITEM_CONTEXT, NULL, NULL), WN_OK);
    expect_pool_follows(&c, s);
    expect_pool_follows(&c, fork);
    CU_ASSERT_EQUAL(check_step(&c, s, &text, 14, 17, 0, NULL, NULL), WN_OK);
    expect_pool_follows(&c, s);
    expect_pool_follows(&c, fork);
    int32_t physical;
    wn_sequence_length(c.engine, s, 0, NULL, &physical);
    CU_ASSERT_EQUAL(physical, 9);
    check_erase(&text);
    check_close(&c);
}

/* What the methods chose can be read until the batch's next call. */
static void choices_can_be_read(void)
{
    check_engine c = {0};
    wn_sequence s;
    wn_batch *b;
    float data[20 * 48] = {0};
    check_open(&c, "sparse_attention_config: {algorithm: probe, keep: 6, select: 3}\n", &small);
    wn_sequence_create(c.engine, &s);
    wn_batch_item item = item_of(s, 9, WN_ITEM_CONTEXT);
    CU_ASSERT_EQUAL_FATAL(wn_batch_begin(c.engine, &item, 1, &b), WN_OK);
    wn_tensor q = wn_tensor_make(data, WN_F32, 3, (int64_t[]){9, 6, 8});
    wn_tensor kv = wn_tensor_make(data, WN_F32, 3, (int64_t[]){9, 2, 8});
    for (uint32_t l = 0; l < 2; l++) {
        CU_ASSERT_EQUAL(
            wn_attention(b, l, WN_ARGS(wn_attention_args, .q = q, .k = kv, .v = kv, .out = q)),
            WN_OK);
        wn_choice choice = {.struct_size = WN_SIZEOF(wn_choice), .phase = WN_PHASE_CONTEXT};
        CU_ASSERT_EQUAL(wn_batch_choice(b, &choice), WN_OK);
        CU_ASSERT_PTR_NOT_NULL_FATAL(choice.select);
        CU_ASSERT_PTR_NOT_NULL_FATAL(choice.retain);
        CU_ASSERT(choice.num_items == 1 && choice.item[0] == 0 && choice.select->rows == 9);
        CU_ASSERT(choice.retain->rows == 1 && choice.retain_item[0] == 0);
        CU_ASSERT(choice.retain->indices[0] == 3 && choice.retain->offsets[1] == 6);
        choice.phase = WN_PHASE_GENERATION;
        CU_ASSERT_EQUAL(wn_batch_choice(b, &choice), WN_OK);
        CU_ASSERT(choice.select == NULL && choice.retain == NULL && choice.num_items == 0);
        choice.phase = 2;
        CU_ASSERT_EQUAL(wn_batch_choice(b, &choice), WN_EINVAL);
    }
    CU_ASSERT_EQUAL(wn_batch_end(b), WN_OK);
    check_close(&c);
}

/* Two batches side by side, each with both phases and two methods: each finds on layer 1 what it
 * left on layer 0 (the probe looks). */
static void step_memory_lives_as_long_as_the_step(void)
{
    check_engine c = {0};
    wn_batch *batch[2];
    float data[8 * 48] = {0};
    check_open(&c,
               "sparse_attention_config:\n  - {algorithm: probe, select: 3, memory: 1000}\n"
               "  - {algorithm: other, tile: true, memory: 77}\n",
               &small);
    wn_tensor q = wn_tensor_make(data, WN_F32, 3, (int64_t[]){4, 6, 8});
    wn_tensor kv = wn_tensor_make(data, WN_F32, 3, (int64_t[]){4, 2, 8});
    for (uint32_t round = 0; round < 3; round++) {
        wn_sequence s[4];
        for (uint32_t i = 0; i < 4; i++)
            wn_sequence_create(c.engine, &s[i]);
        for (uint32_t i = 0; i < 2; i++) {
            wn_batch_item items[] = {item_of(s[2 * i], 3, WN_ITEM_CONTEXT),
                                     item_of(s[2 * i + 1], 1, 0)};
            CU_ASSERT_EQUAL_FATAL(wn_batch_begin(c.engine, items, 2, &batch[i]), WN_OK);
        }
        for (uint32_t layer = 0; layer < 2; layer++)
            for (uint32_t i = 0; i < 2; i++) {
                wn_status status =
                    wn_attention(batch[i], layer,
                                 WN_ARGS(wn_attention_args, .q = q, .k = kv, .v = kv, .out = q));
                CU_ASSERT_EQUAL(status, WN_OK);
                if (status != WN_OK)
                    printf("\n  %s\n", wn_error_text());
            }
        for (uint32_t i = 0; i < 2; i++)
            CU_ASSERT_EQUAL(wn_batch_end(batch[i]), WN_OK);
        for (uint32_t i = 0; i < 4; i++)
            CU_ASSERT_EQUAL(wn_sequence_free(c.engine, s[i]), WN_OK);
    }
    check_close(&c);
}

/* What the methods ask for is in the plan, per phase; nothing asked for takes nothing. */
static void step_memory_is_planned(void)
{
    wn_memory_plan plan[3];
    static const char *const memory[] = {"0", "640", "1280"};
    for (uint32_t i = 0; i < 3; i++) {
        char yaml[128];
        check_engine c = {0};
        snprintf(yaml, sizeof yaml,
                 "sparse_attention_config: {algorithm: probe, select: 3, memory: "
                 "%s}\n",
                 memory[i]);
        check_open(&c, yaml, &small);
        CU_ASSERT_EQUAL(wn_engine_memory(c.engine, &plan[i]), WN_OK);
        check_close(&c);
    }
    CU_ASSERT_EQUAL(plan[1].workspace_bytes - plan[0].workspace_bytes, 2 * 640);
    CU_ASSERT_EQUAL(plan[2].workspace_bytes - plan[0].workspace_bytes, 2 * 1280);
}

/* What the attend ops were lent, in the order of the calls. */
static struct {
    uint8_t *data[4];
    int64_t bytes;
    uint32_t calls;
} lent;

static wn_status note_room(const wn_attend_args *args)
{
    memset(args->workspace, 0xa5, (size_t)args->workspace_bytes);
    lent.bytes = args->workspace_bytes;
    lent.data[lent.calls++] = args->workspace;
    return WN_OK;
}

/* Both phases, two batches side by side: room of the size that ops.h names, each batch its own. */
static void attention_has_room_for_partial_results(void)
{
    check_engine c = {0};
    wn_batch *batch[2];
    wn_memory_plan plan;
    check_open(&c, "", &small);
    wn_ops table = *c.engine->ops;
    table.context = table.generation = note_room;
    c.engine->ops = &table;
    float q[2 * 48] = {0}, k[2 * 16] = {0}, out[2 * 48];
    memset(&lent, 0, sizeof lent);
    for (uint32_t i = 0; i < 2; i++) {
        wn_batch_item items[2];
        for (uint32_t n = 0; n < 2; n++) {
            items[n] = item_of(0, 1, n == 0 ? WN_ITEM_CONTEXT : 0);
            wn_sequence_create(c.engine, &items[n].sequence);
        }
        CU_ASSERT_EQUAL_FATAL(wn_batch_begin(c.engine, items, 2, &batch[i]), WN_OK);
        wn_tensor kv = wn_tensor_make(k, WN_F32, 3, (int64_t[]){2, 2, 8});
        CU_ASSERT_EQUAL(
            wn_attention(batch[i], 0,
                         WN_ARGS(wn_attention_args,
                                 .q = wn_tensor_make(q, WN_F32, 3, (int64_t[]){2, 6, 8}), .k = kv,
                                 .v = kv,
                                 .out = wn_tensor_make(out, WN_F32, 3, (int64_t[]){2, 6, 8}))),
            WN_OK);
    }
    CU_ASSERT_EQUAL(lent.calls, 4);
    CU_ASSERT_EQUAL(lent.bytes, 4 * 64 * 6 * (8 + 16) * 4);
    CU_ASSERT(lent.data[0] == lent.data[1] && lent.data[2] == lent.data[3]);
    CU_ASSERT(lent.data[0] + lent.bytes <= lent.data[2] ||
              lent.data[2] + lent.bytes <= lent.data[0]);
    CU_ASSERT_EQUAL((uintptr_t)lent.data[0] % 64, 0);
    wn_engine_memory(c.engine, &plan);
    CU_ASSERT(plan.workspace_bytes > (uint64_t)lent.bytes);
    for (uint32_t i = 0; i < 2; i++)
        CU_ASSERT_EQUAL(wn_batch_abort(batch[i]), WN_OK);
    check_close(&c);
}

WN_SUITE("core.batch", {"bad items are refused", bad_items_are_refused},
         {"out of pages harms nobody", out_of_pages_harms_nobody},
         {"a sequence is in one batch", a_sequence_is_in_one_batch},
         {"abort restores or frees", abort_restores_or_frees},
         {"pools follow their pages", pools_follow_their_pages},
         {"choices can be read", choices_can_be_read},
         {"step memory lives as long as the step", step_memory_lives_as_long_as_the_step},
         {"step memory is planned", step_memory_is_planned},
         {"attention has room for partial results", attention_has_room_for_partial_results})
