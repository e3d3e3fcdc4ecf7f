/* test_dsa_engine.c: the dsa plugin at work in an engine, through winnow.h alone, on a latent (MLA)
 * model and on one with grouped heads: outputs against the references, and what must be equal bit
 * for bit: chunks, batches, speculation, forks, layers that share a choice. */
#include "attention_reference.h"
#include "check_indexer.h"
#include "dsa_reference.h"
#include "suite.h"
#include "winnow/winnow.h"

#include <math.h>
#include <string.h>

enum { LAYERS = 3, SEQUENCES = 2, HEADS = 4, LONGEST = INDEXER_LONGEST, STEP = 200 };
enum { INDEX_HEADS = 2, INDEX_DIM = 16, TOPK = 12 };
enum { MAX_DIM = 24 }; /* of q and k */

/* Two geometries: K and V of each token are one latent vector, or there are two KV heads. */
typedef struct geometry {
    uint32_t mla, kv_heads, dim, v_dim;
} geometry;
static const geometry latent = {1, 1, 24, 16}, grouped = {0, 2, 16, 16};

#define DSA                                                                                        \
    "sparse_attention_config: {algorithm: dsa, index_n_heads: 2, index_head_dim: 16, "             \
    "hadamard: true"
static const char usual_yaml[] = DSA ", index_topk: 12, indexer_max_chunk_size: 13}\n";
static const char sharing_yaml[] =
    DSA ", index_topk: 12, layer_roles: [producer, consumer, full]}\n";
static const char all_yaml[] = DSA ", index_topk: 100000}\n";
static const char dense_yaml[] = "sparse_attention_config: {algorithm: dense}\n";

static const int32_t prompts[SEQUENCES] = {61, 9}, one[SEQUENCES] = {1, 1};

/* What the model hands over: for each layer and sequence. k serves both geometries. */
static float q[LAYERS][SEQUENCES][LONGEST * HEADS * MAX_DIM];
static float k[LAYERS][SEQUENCES][LONGEST * 2 * MAX_DIM],
    v[LAYERS][SEQUENCES][LONGEST * 2 * MAX_DIM];
static indexer_tokens indexer[LAYERS][SEQUENCES];

typedef struct world {
    geometry shape;
    wn_registry *registry;
    wn_engine *engine;
    wn_sequence sequence[SEQUENCES];
    int32_t length[SEQUENCES];
    /* outputs by token: [LONGEST, HEADS, v_dim] */
    float out[LAYERS][SEQUENCES][LONGEST * HEADS * MAX_DIM];
} world;

static void must(wn_status status)
{
    if (status != WN_OK)
        fprintf(stderr, "%s: %s\n", wn_status_name(status), wn_error_text());
    CU_ASSERT_EQUAL_FATAL(status, WN_OK);
}

static wn_status try_engine(const geometry *shape, const char *yaml, wn_registry *registry,
                            wn_engine **engine)
{
    const wn_model model = {.struct_size = WN_SIZEOF(wn_model),
                            .num_layers = LAYERS,
                            .num_heads = HEADS,
                            .num_kv_heads = shape->kv_heads,
                            .head_dim = shape->dim,
                            .v_head_dim = shape->v_dim,
                            .dtype = WN_F32,
                            .max_position = LONGEST,
                            .softmax_scale = 0.3f,
                            .mla = shape->mla};
    const wn_engine_options options = {.struct_size = WN_SIZEOF(wn_engine_options),
                                       .tokens_per_page = 8,
                                       .max_tokens = 1024,
                                       .max_sequences = 6,
                                       .max_step_tokens = STEP};
    wn_config *config;
    must(wn_config_parse(yaml, strlen(yaml), "test.yaml", &config));
    wn_status status = wn_engine_create(registry, config, &model, &options, engine);
    wn_config_free(config);
    return status;
}

static world *open_world(const geometry *shape, const char *yaml)
{
    world *w = calloc(1, sizeof *w);
    CU_ASSERT_PTR_NOT_NULL_FATAL(w);
    w->shape = *shape;
    must(wn_registry_open(WN_TEST_PLUGINS, &w->registry));
    must(try_engine(shape, yaml, w->registry, &w->engine));
    for (int s = 0; s < SEQUENCES; s++)
        must(wn_sequence_create(w->engine, &w->sequence[s]));
    return w;
}

static void close_world(world *w)
{
    must(wn_engine_free(w->engine));
    wn_registry_close(w->registry);
    free(w);
}

/* Rows of the step's sequences, one after another, from arrays by token. */
static float *gather(const world *w, const int32_t *count, float *const from[SEQUENCES],
                     int64_t row)
{
    float *to = calloc(STEP, (size_t)row * sizeof *to), *at = to;
    for (int s = 0; s < SEQUENCES; s++) {
        const size_t n = count[s] > 0 ? (size_t)(count[s] * row) : 0;
        memcpy(at, from[s] + w->length[s] * row, n * sizeof *at);
        at += n;
    }
    return to;
}

static wn_tensor cube(float *data, int64_t rows, int64_t heads, int64_t dim)
{
    return wn_tensor_make(data, WN_F32, 3, (const int64_t[]){rows, heads, dim});
}

static wn_tensor matrix(float *data, int64_t rows, int64_t dim)
{
    return wn_tensor_make(data, WN_F32, 2, (const int64_t[]){rows, dim});
}

static wn_status attend_layer(world *w, wn_batch *batch, int layer, const int32_t *count,
                              int64_t rows, uint32_t num_inputs)
{
    const geometry *g = &w->shape;
    const int64_t q_row = HEADS * g->dim, kv_row = g->kv_heads * g->dim, out_row = HEADS * g->v_dim;
    float *from[6][SEQUENCES], *data[6];
    const int64_t row[6] = {q_row, kv_row, kv_row, INDEX_HEADS * INDEX_DIM, INDEX_DIM, INDEX_HEADS};
    for (int s = 0; s < SEQUENCES; s++) {
        const indexer_tokens *t = &indexer[layer][s];
        float *const all[6] = {q[layer][s], k[layer][s], v[layer][s], t->q, t->k, t->weights};
        for (int i = 0; i < 6; i++)
            from[i][s] = all[i];
    }
    for (int i = 0; i < 6; i++)
        data[i] = gather(w, count, from[i], row[i]);
    float *out = calloc(STEP, (size_t)out_row * sizeof *out), *at = out;
    const wn_named_input inputs[] = {
        {"indexer.weights", matrix(data[5], rows, INDEX_HEADS)}, /* found by name */
        {"indexer.q", cube(data[3], rows, INDEX_HEADS, INDEX_DIM)},
        {"indexer.k", matrix(data[4], rows, INDEX_DIM)}};
    const wn_tensor none = {0};
    wn_status status =
        wn_attention(batch, (uint32_t)layer,
                     WN_ARGS(wn_attention_args, .q = cube(data[0], rows, HEADS, g->dim),
                             .k = cube(data[1], rows, g->kv_heads, g->dim),
                             .v = g->mla ? none : cube(data[2], rows, g->kv_heads, g->v_dim),
                             .out = cube(out, rows, HEADS, g->v_dim), .inputs = inputs,
                             .num_inputs = num_inputs));
    for (int s = 0; s < SEQUENCES; s++) {
        const size_t n = count[s] > 0 ? (size_t)(count[s] * out_row) : 0;
        memcpy(w->out[layer][s] + w->length[s] * out_row, at, n * sizeof *at);
        at += n;
    }
    for (int i = 0; i < 6; i++)
        free(data[i]);
    free(out);
    return status;
}

/* count[s] more tokens of each sequence; negative: not in the step. flags[s]: WN_ITEM_... */
static void step(world *w, const int32_t *count, const uint32_t *flags)
{
    wn_batch_item items[SEQUENCES];
    wn_batch *batch;
    uint32_t num_items = 0;
    int64_t rows = 0;
    for (int s = 0; s < SEQUENCES; s++) {
        if (count[s] < 0)
            continue;
        items[num_items++] = (wn_batch_item){.struct_size = WN_SIZEOF(wn_batch_item),
                                             .flags = flags[s],
                                             .sequence = w->sequence[s],
                                             .num_tokens = count[s]};
        rows += count[s];
    }
    must(wn_batch_begin(w->engine, items, num_items, &batch));
    for (int layer = 0; layer < LAYERS; layer++)
        must(attend_layer(w, batch, layer, count, rows, 3));
    must(wn_batch_end(batch));
    for (int s = 0; s < SEQUENCES; s++)
        w->length[s] += count[s] > 0 ? count[s] : 0;
}

static const uint32_t context[] = {WN_ITEM_CONTEXT, WN_ITEM_CONTEXT}, generation[] = {0, 0};
static const uint32_t more[] = {WN_ITEM_CONTEXT | WN_ITEM_MORE, WN_ITEM_CONTEXT | WN_ITEM_MORE};
static const uint32_t mixed[] = {0, WN_ITEM_CONTEXT};

/* Bit for bit what the sequence has put out, tokens [begin, end). */
static int same_output(const world *a, const world *b, int s, int32_t begin, int32_t end)
{
    const size_t row = HEADS * a->shape.v_dim;
    for (int layer = 0; layer < LAYERS; layer++)
        if (memcmp(a->out[layer][s] + (size_t)begin * row, b->out[layer][s] + (size_t)begin * row,
                   (size_t)(end - begin) * row * sizeof(float)) != 0)
            return 0;
    return 1;
}

/* ---------------------------------------------------------------- against the references */

static const dsa_indexer what = {
    .heads = INDEX_HEADS, .dim = INDEX_DIM, .topk = TOPK, .fp8 = 1, .hadamard = 1};

/* Keys as they are scored, of each layer and sequence. */
static double index_keys[LAYERS][SEQUENCES][LONGEST * INDEX_DIM];
static double index_scale[LAYERS][SEQUENCES][LONGEST];

static void prepare_keys(int layer, int s)
{
    for (int32_t j = 0; j < LONGEST; j++) {
        double raw[INDEX_DIM];
        for (int d = 0; d < INDEX_DIM; d++)
            raw[d] = indexer[layer][s].k[j * INDEX_DIM + d];
        index_scale[layer][s][j] =
            dsa_reference_vector(&what, raw, j, index_keys[layer][s] + j * INDEX_DIM);
    }
}

/* Marks what token t of sequence s attends to by the indexer of `layer`. */
static void choose(int layer, int s, int32_t t, uint8_t *attended)
{
    const indexer_tokens *from = &indexer[layer][s];
    double query[INDEX_HEADS * INDEX_DIM], weights[INDEX_HEADS];
    float scores[LONGEST];
    int32_t chosen[TOPK];
    for (int i = 0; i < INDEX_HEADS * INDEX_DIM; i++)
        query[i] = from->q[t * INDEX_HEADS * INDEX_DIM + i];
    for (int h = 0; h < INDEX_HEADS; h++)
        weights[h] = from->weights[t * INDEX_HEADS + h];
    dsa_reference_scores(&what, query, weights, index_keys[layer][s], index_scale[layer][s], t + 1,
                         scores);
    const int32_t count = dsa_reference_choose(scores, t + 1, TOPK, chosen);
    memset(attended, 0, LONGEST);
    for (int32_t i = 0; i < count; i++)
        attended[chosen[i]] = 1;
}

static double distance_of_head(const world *w, int layer, int s, int32_t t, int head,
                               const uint8_t *attended)
{
    const geometry *g = &w->shape;
    const int kv_head = head / (HEADS / (int)g->kv_heads), dim = (int)g->dim;
    double query[MAX_DIM], keys[LONGEST * MAX_DIM], values[LONGEST * MAX_DIM], wanted[MAX_DIM];
    double worst = 0;
    for (int c = 0; c < dim; c++)
        query[c] = q[layer][s][(t * HEADS + head) * dim + c];
    for (int32_t j = 0; j <= t; j++)
        for (int c = 0; c < dim; c++) {
            const size_t at = (size_t)((j * (int)g->kv_heads + kv_head) * dim + c);
            keys[j * dim + c] = k[layer][s][at];
            values[j * dim + c] = g->mla ? k[layer][s][at] : v[layer][s][at];
        }
    attention_reference(query, keys, values, t + 1, dim, 0.3, attended, wanted);
    for (int c = 0; c < (int)g->v_dim; c++)
        worst =
            fmax(worst, fabs(wanted[c] - w->out[layer][s][(t * HEADS + head) * (int)g->v_dim + c]));
    return worst;
}

/* Every token so far. source: the layer whose indexer chooses for each layer. */
static void compare(const world *w, const int *source)
{
    double worst = 0;
    uint8_t attended[LONGEST];
    for (int layer = 0; layer < LAYERS; layer++)
        for (int s = 0; s < SEQUENCES; s++)
            for (int32_t t = 0; t < w->length[s]; t++) {
                choose(source[layer], s, t, attended);
                for (int head = 0; head < HEADS; head++)
                    worst = fmax(worst, distance_of_head(w, layer, s, t, head, attended));
            }
    CU_ASSERT(worst < 1e-5);
}

/* Prompts, single tokens, several at once, both phases in one step. */
static world *play(const geometry *shape, const char *yaml)
{
    static const int32_t several[SEQUENCES] = {3, 2}, chunk[SEQUENCES] = {2, 11};
    world *w = open_world(shape, yaml);
    step(w, prompts, context);
    step(w, one, generation);
    step(w, several, generation);
    step(w, chunk, mixed);
    step(w, one, generation);
    return w;
}

static void output_equals_reference(void)
{
    static const int own[LAYERS] = {0, 1, 2}, shared[LAYERS] = {0, 0, 2};
    const geometry *const shapes[] = {&latent, &grouped};
    for (int i = 0; i < 2; i++) {
        world *w = play(shapes[i], usual_yaml), *sharing = play(shapes[i], sharing_yaml);
        compare(w, own);
        compare(sharing, shared);
        close_world(sharing);
        close_world(w);
    }
}

static void all_keys_are_dense(void)
{
    world *told = play(&grouped, all_yaml), *dense = play(&grouped, dense_yaml);
    for (int s = 0; s < SEQUENCES; s++)
        CU_ASSERT(same_output(told, dense, s, 0, told->length[s]));
    close_world(dense);
    close_world(told);
}

static void counters_tell(void)
{
    wn_counters counters = {.struct_size = WN_SIZEOF(wn_counters)};
    world *w = open_world(&latent, usual_yaml);
    step(w, prompts, context);
    must(wn_engine_counters(w->engine, 0, WN_PHASE_CONTEXT, &counters));
    CU_ASSERT_EQUAL(counters.keys_visible, 61 * 62 / 2 + 9 * 10 / 2);
    CU_ASSERT_EQUAL(counters.keys_selected, 12 * 13 / 2 + 49 * 12 + 9 * 10 / 2);
    close_world(w);
}

/* ---------------------------------------------------------------- what must be equal */

static void chunks_equal_one_shot(void)
{
    static const int32_t last_of[SEQUENCES] = {61, 9};
    world *whole = open_world(&latent, sharing_yaml);
    step(whole, prompts, context);
    step(whole, one, generation);
    for (int32_t split = 3; split < 60; split += 9) {
        const int32_t first[SEQUENCES] = {split, 1}, rest[SEQUENCES] = {last_of[0] - split, 8};
        world *chunked = open_world(&latent, sharing_yaml);
        step(chunked, first, more);
        step(chunked, rest, context);
        step(chunked, one, generation);
        for (int s = 0; s < SEQUENCES; s++)
            CU_ASSERT(same_output(whole, chunked, s, 0, whole->length[s]));
        close_world(chunked);
    }
    close_world(whole);
}

static void alone_equals_batch(void)
{
    world *together = open_world(&latent, usual_yaml);
    step(together, prompts, context);
    step(together, one, generation);
    for (int s = 0; s < SEQUENCES; s++) {
        int32_t prompt[SEQUENCES] = {-1, -1}, token[SEQUENCES] = {-1, -1};
        world *alone = open_world(&latent, usual_yaml);
        prompt[s] = prompts[s];
        token[s] = 1;
        step(alone, prompt, context);
        step(alone, token, generation);
        CU_ASSERT(same_output(together, alone, s, 0, together->length[s]));
        close_world(alone);
    }
    close_world(together);
}

/* Five tokens at once, of which two are taken back and come again. */
static void speculation_equals_sequential(void)
{
    static const int32_t five[SEQUENCES] = {5, 5}, two[SEQUENCES] = {2, 2};
    world *sequential = open_world(&latent, usual_yaml), *eager = open_world(&latent, usual_yaml);
    step(sequential, prompts, context);
    step(eager, prompts, context);
    for (int i = 0; i < 5; i++)
        step(sequential, one, generation);
    step(eager, five, generation);
    for (int s = 0; s < SEQUENCES; s++) {
        CU_ASSERT(same_output(sequential, eager, s, 0, sequential->length[s]));
        eager->length[s] -= 2;
        must(wn_sequence_truncate(eager->engine, eager->sequence[s], eager->length[s]));
    }
    step(eager, two, generation);
    for (int s = 0; s < SEQUENCES; s++)
        CU_ASSERT(same_output(sequential, eager, s, 0, sequential->length[s]));
    close_world(eager);
    close_world(sequential);
}

/* A fork goes another way, mid-page, and ends; the sequence goes on as if there had been none. */
static void forks_equal_fresh_sequences(void)
{
    const int32_t whole[SEQUENCES] = {61, -1}, few[SEQUENCES] = {3, -1};
    world *fresh = open_world(&latent, usual_yaml), *forked = open_world(&latent, usual_yaml);
    wn_sequence fork;
    step(fresh, whole, context);
    step(forked, whole, context);
    must(wn_sequence_fork(forked->engine, forked->sequence[0], &fork));
    const wn_sequence own = forked->sequence[0];
    forked->sequence[0] = fork;
    forked->length[0] = 0; /* is fed what it has seen before: other keys than those to come */
    step(forked, few, generation);
    must(wn_sequence_free(forked->engine, fork));
    forked->sequence[0] = own;
    forked->length[0] = 61;
    step(fresh, few, generation);
    step(forked, few, generation);
    CU_ASSERT(same_output(fresh, forked, 0, 61, 64));
    close_world(forked);
    close_world(fresh);
}

/* ---------------------------------------------------------------- refusals */

/* What the engine says of the extra inputs is what it takes. */
static void inputs_tell_their_shapes(void)
{
    static const struct {
        const char *name;
        uint32_t ndim;
        int64_t shape[3];
    } wanted[] = {{"indexer.q", 3, {7, 2, 16}},
                  {"indexer.k", 2, {7, 16, 0}},
                  {"indexer.weights", 2, {7, 2, 0}}};
    world *w = open_world(&latent, usual_yaml);
    for (uint32_t i = 0; i < 3; i++) {
        const char *name = NULL;
        wn_tensor shape;
        must(wn_engine_input(w->engine, i, 7, &name, &shape));
        CU_ASSERT_STRING_EQUAL(name, wanted[i].name);
        CU_ASSERT_EQUAL(shape.ndim, wanted[i].ndim);
        CU_ASSERT_EQUAL(shape.dtype, WN_F32);
        CU_ASSERT(memcmp(shape.shape, wanted[i].shape, sizeof wanted[i].shape) == 0);
    }
    close_world(w);
}

static void missing_inputs_are_refused(void)
{
    const wn_batch_item item = {.struct_size = WN_SIZEOF(wn_batch_item), .flags = WN_ITEM_CONTEXT};
    const int32_t three[SEQUENCES] = {3, -1};
    world *w = open_world(&latent, usual_yaml);
    wn_batch_item mine = item;
    wn_batch *batch;
    mine.sequence = w->sequence[0];
    mine.num_tokens = 3;
    must(wn_batch_begin(w->engine, &mine, 1, &batch));
    CU_ASSERT_EQUAL(attend_layer(w, batch, 0, three, 3, 2), WN_EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(wn_error_text(), "\"indexer.k\""));
    must(attend_layer(w, batch, 0, three, 3, 3)); /* nothing was written: the host may try again */
    wn_batch_abort(batch);
    close_world(w);
}

static void orphans_are_refused(void)
{
    static const char yaml[] =
        DSA ", layer_roles: [full, shared, full], ignore: ['layers.[0..0]']}\n";
    wn_registry *registry;
    wn_engine *engine;
    must(wn_registry_open(WN_TEST_PLUGINS, &registry));
    CU_ASSERT_EQUAL(try_engine(&latent, yaml, registry, &engine), WN_ECONFIG);
    CU_ASSERT_PTR_NOT_NULL(strstr(wn_error_text(), "layer 1 is a consumer of layer 0"));
    wn_registry_close(registry);
}

/* ---------------------------------------------------------------- */

static void fill(float *to, size_t count, uint64_t *seed)
{
    for (size_t i = 0; i < count; i++)
        to[i] = (float)(2 * wn_random_signed(seed));
}

static void write_tokens(void)
{
    const indexer_shape shape = {.heads = INDEX_HEADS, .dim = INDEX_DIM};
    uint64_t seed = wn_test_seed();
    setenv("WINNOW_KERNELS", "ref", 1);
    for (int layer = 0; layer < LAYERS; layer++)
        for (int s = 0; s < SEQUENCES; s++) {
            fill(q[layer][s], sizeof q[0][0] / sizeof(float), &seed);
            fill(k[layer][s], sizeof k[0][0] / sizeof(float), &seed);
            fill(v[layer][s], sizeof v[0][0] / sizeof(float), &seed);
            indexer[layer][s] = indexer_random_tokens(&shape, 3, &seed);
            prepare_keys(layer, s);
        }
}

static void free_tokens(void)
{
    for (int layer = 0; layer < LAYERS; layer++)
        for (int s = 0; s < SEQUENCES; s++)
            indexer_free_tokens(&indexer[layer][s]);
}

WN_SUITE("plugins.dsa_engine", {"writes tokens", write_tokens},
         {"output equals the reference", output_equals_reference},
         {"all keys are dense", all_keys_are_dense}, {"counters tell", counters_tell},
         {"chunks equal one shot", chunks_equal_one_shot},
         {"alone equals batch", alone_equals_batch},
         {"speculation equals sequential", speculation_equals_sequential},
         {"forks equal fresh sequences", forks_equal_fresh_sequences},
         {"inputs tell their shapes", inputs_tell_their_shapes},
         {"missing inputs are refused", missing_inputs_are_refused},
         {"orphans are refused", orphans_are_refused}, {"frees tokens", free_tokens})
