/* attention_cost.c: what one wn_attention costs by itself, without ops and plugins: the engine's op
 * table is swapped for one that does nothing. Prints nanoseconds per call, median and spread of 21
 * rounds, at batch 1 and 64, beside one clock read for scale. */
#include "core/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static wn_status no_append(const wn_append_args *args)
{
    (void)args;
    return WN_OK;
}

static wn_status no_attend(const wn_attend_args *args)
{
    (void)args;
    return WN_OK;
}

static double nanoseconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int measure(uint32_t batch_size)
{
    enum { LAYERS = 1000, ROUNDS = 21, HEADS = 32, KV_HEADS = 8, DIM = 128 };
    static const char yaml[] = "sparse_attention_config: {algorithm: dense}\n";
    wn_model model = {.struct_size = WN_SIZEOF(wn_model),
                      .num_layers = LAYERS,
                      .num_heads = HEADS,
                      .num_kv_heads = KV_HEADS,
                      .head_dim = DIM,
                      .dtype = WN_BF16,
                      .max_position = 4096,
                      .softmax_scale = 0.088f};
    wn_engine_options options = {.struct_size = WN_SIZEOF(wn_engine_options),
                                 .max_tokens = 4096,
                                 .max_sequences = 64,
                                 .max_step_tokens = 64};
    wn_registry *registry;
    wn_config *config;
    wn_engine *engine;
    if (wn_registry_open(NULL, &registry) != WN_OK ||
        wn_config_parse(yaml, strlen(yaml), "dense", &config) != WN_OK ||
        wn_engine_create(registry, config, &model, &options, &engine) != WN_OK) {
        fprintf(stderr, "%s\n", wn_error_text());
        return 1;
    }
    wn_ops nothing = *engine->ops;
    nothing.append = no_append;
    nothing.generation = no_attend;
    engine->ops = &nothing;

    uint16_t *data = calloc((size_t)batch_size * HEADS * DIM, sizeof *data);
    wn_tensor q = wn_tensor_make(data, WN_BF16, 3, (int64_t[]){batch_size, HEADS, DIM});
    wn_tensor kv = wn_tensor_make(data, WN_BF16, 3, (int64_t[]){batch_size, KV_HEADS, DIM});
    wn_batch_item items[64];
    for (uint32_t i = 0; i < batch_size; i++) {
        items[i] = (wn_batch_item){.struct_size = WN_SIZEOF(wn_batch_item), .num_tokens = 1};
        wn_sequence_create(engine, &items[i].sequence);
    }
    double cost[ROUNDS], step[ROUNDS];
    for (uint32_t r = 0; r < ROUNDS; r++) {
        wn_batch *batch;
        double before = nanoseconds();
        if (wn_batch_begin(engine, items, batch_size, &batch) != WN_OK)
            return 1;
        double begin = nanoseconds();
        for (uint32_t l = 0; l < LAYERS; l++)
            if (wn_attention(batch, l,
                             WN_ARGS(wn_attention_args, .q = q, .k = kv, .v = kv, .out = q)) !=
                WN_OK)
                return 1;
        double end = nanoseconds();
        wn_batch_end(batch);
        cost[r] = (end - begin) / LAYERS;
        step[r] = begin - before + nanoseconds() - end;
    }
    qsort(cost, ROUNDS, sizeof *cost, ascending);
    qsort(step, ROUNDS, sizeof *step, ascending);
    printf("batch %2u: wn_attention %6.0f ns a call (min %.0f, max %.0f); begin + end %6.0f ns a "
           "step\n",
           batch_size, cost[ROUNDS / 2], cost[0], cost[ROUNDS - 1], step[ROUNDS / 2]);
    wn_engine_free(engine);
    wn_config_free(config);
    wn_registry_close(registry);
    free(data);
    return 0;
}

int main(void)
{
    double begin = nanoseconds();
    for (uint32_t i = 0; i < 1000; i++)
        (void)nanoseconds();
    printf("one clock read: %.0f ns\n", (nanoseconds() - begin) / 1000);
    return measure(1) || measure(64);
}
