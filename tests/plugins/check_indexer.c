/* check_indexer.c: see check_indexer.h. */
#include "check_indexer.h"

#include "kernels/kernels.h"
#include "suite.h"

#include <string.h>

enum { TOTAL_PAGES = INDEXER_REQUESTS * INDEXER_PAGES };
enum { GAP = 5 };

static void *take(uint64_t bytes, int rubbish)
{
    void *memory = aligned_alloc(64, bytes > 0 ? (size_t)(bytes + 63) / 64 * 64 : 64);
    CHECK_REQUIRE(memory != NULL);
    memset(memory, rubbish, (size_t)bytes);
    return memory;
}

/* ---------------------------------------------------------------- set up */

void indexer_values(const check_plugin *plugin, const check_setting *settings,
                    const char *const *roles, uint32_t num_roles, wn_value *values)
{
    check_plugin_values(plugin, settings, values);
    for (uint32_t f = 0; f < plugin->config->num_fields; f++) {
        const wn_config_field *field = &plugin->config->fields[f];
        if (field->type == WN_FIELD_STRING_LIST && roles != NULL)
            values[f] = (wn_value){.names = roles, .count = num_roles, .is_set = 1, .has_value = 1};
    }
}

static void add_own_settings(indexer_host *host, const check_setting *settings,
                             const char *const *roles)
{
    check_setting all[CHECK_MAX_FIELDS] = {{"index_n_heads", host->shape.heads, NULL},
                                           {"index_head_dim", host->shape.dim, NULL},
                                           {"index_topk", host->shape.topk, NULL}};
    for (size_t i = 0; settings != NULL && settings[i].name != NULL; i++) {
        CHECK_REQUIRE(i + 4 < CHECK_MAX_FIELDS);
        all[i + 3] = settings[i];
    }
    indexer_values(host->plugin, all, roles, host->shape.layers, host->values);
    const char *reasons = check_plugin_reasons(host->plugin, &host->model, host->values);
    if (reasons[0] != '\0')
        fprintf(stderr, "%s\n", reasons);
    CHECK_REQUIRE(reasons[0] == '\0');
}

static void ask_layer(indexer_host *host, uint32_t layer)
{
    const check_plugin *plugin = host->plugin;
    uint32_t *roles = &host->roles[layer];
    char why[100];
    for (uint32_t phase = 0; phase < WN_PHASE_COUNT; phase++) {
        CHECK_REQUIRE(plugin->config->lower(host->instance, layer, phase, roles, why, sizeof why,
                                            &host->error) == WN_OK);
        if (*roles == 0)
            continue;
        const wn_step_limits limits = {WN_SIZEOF(wn_step_limits), phase,
                                       INDEXER_REQUESTS,          INDEXER_STEP,
                                       INDEXER_LONGEST,           INDEXER_PAGE_TOKENS};
        CHECK_REQUIRE(plugin->predictor->bounds(host->instance, layer, &limits, &host->bounds,
                                                &host->error) == WN_OK);
    }
    if (*roles == 0)
        return;
    wn_aux_pool *pool = &host->pool[layer];
    pool->struct_size = WN_SIZEOF(wn_aux_pool);
    CHECK_REQUIRE(plugin->aux_pool->declare(host->instance, layer, INDEXER_PAGE_TOKENS, pool,
                                            &host->num_pools[layer], &host->error) == WN_OK);
    if (host->num_pools[layer] == 0)
        return;
    CHECK_REQUIRE(pool->scope == WN_AUX_PAGE && pool->flags == WN_AUX_SHARED_HEADS);
    host->page_stride = (int64_t)((pool->bytes + 63) / 64 * 64);
    host->pages[layer] = take((uint64_t)host->page_stride * TOTAL_PAGES, 0x7f);
}

static void shuffle_pages(indexer_host *host, uint64_t seed)
{
    host->num_free = TOTAL_PAGES;
    for (int32_t i = 0; i < TOTAL_PAGES; i++)
        host->free_page[i] = i;
    for (uint32_t i = TOTAL_PAGES - 1; i > 0; i--) {
        const uint32_t j = wn_random_below(&seed, i + 1);
        const int32_t page = host->free_page[i];
        host->free_page[i] = host->free_page[j];
        host->free_page[j] = page;
    }
    for (int32_t i = 0; i < TOTAL_PAGES; i++) /* page 0 is the first that is dealt out */
        if (host->free_page[i] == 0) {
            host->free_page[i] = host->free_page[TOTAL_PAGES - 1];
            host->free_page[TOTAL_PAGES - 1] = 0;
        }
    for (uint32_t b = 0; b < INDEXER_REQUESTS; b++)
        for (uint32_t i = 0; i < INDEXER_PAGES; i++)
            host->table[b][i] = 0x7fffffff;
}

indexer_host *indexer_host_create(const indexer_shape *shape, const check_plugin *plugin,
                                  const check_setting *settings, const char *const *roles,
                                  const indexer_tokens (*tokens)[INDEXER_REQUESTS], uint64_t seed)
{
    indexer_host *host = take(sizeof *host, 0);
    host->shape = *shape;
    host->plugin = plugin;
    host->tokens = tokens;
    host->error = (wn_error){WN_SIZEOF(wn_error), sizeof host->error_text, host->error_text};
    host->model = (wn_model){.struct_size = WN_SIZEOF(wn_model),
                             .num_layers = shape->layers,
                             .num_heads = 4,
                             .num_kv_heads = 1,
                             .head_dim = 64,
                             .dtype = WN_F32,
                             .rope_inverse_frequency = shape->frequency,
                             .max_position = INDEXER_LONGEST,
                             .softmax_scale = 1};
    add_own_settings(host, settings, roles);
    CHECK_REQUIRE(
        plugin->config->create(&host->model, host->values, &host->instance, &host->error) == WN_OK);
    host->bounds.struct_size = WN_SIZEOF(wn_step_bounds);
    for (uint32_t layer = 0; layer < shape->layers; layer++)
        ask_layer(host, layer);
    shuffle_pages(host, seed);
    host->step_memory = take(host->bounds.step_bytes, 0xa5);
    for (uint32_t layer = 0; layer < shape->layers; layer++)
        for (uint32_t b = 0; b < INDEXER_REQUESTS; b++)
            host->chosen[layer][b] =
                take((uint64_t)(INDEXER_LONGEST * indexer_host_width(host)) * 4, 0xff);
    return host;
}

void indexer_host_destroy(indexer_host *host)
{
    host->plugin->config->destroy(host->instance);
    for (uint32_t layer = 0; layer < host->shape.layers; layer++) {
        free(host->pages[layer]);
        for (uint32_t b = 0; b < INDEXER_REQUESTS; b++)
            free(host->chosen[layer][b]);
    }
    free(host->step_memory);
    free(host);
}

int64_t indexer_host_width(const indexer_host *host)
{
    return (int64_t)(host->bounds.select_indices / INDEXER_STEP);
}

/* ---------------------------------------------------------------- inputs */

static void store(uint32_t dtype, void *to, int64_t at, float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (dtype == WN_F32)
        ((float *)to)[at] = x;
    else
        ((uint16_t *)to)[at] = (uint16_t)(bits >> 16);
}

/* Rows of `heads` times `dim` numbers; spread: with a gap behind each head and row. */
static wn_tensor make_input(const indexer_host *host, uint32_t dtype, int64_t rows, int64_t heads,
                            int64_t dim, uint32_t ndim)
{
    const int64_t gap = host->shape.spread ? GAP : 0;
    const int64_t head = dim + (heads > 1 ? gap : 0), row = heads * head + gap;
    wn_tensor tensor = {
        .shape = {rows, heads, dim}, .stride = {row, head, 1}, .dtype = dtype, .ndim = ndim};
    if (ndim == 2) {
        tensor.shape[1] = dim;
        tensor.stride[1] = 1;
        tensor.shape[2] = tensor.stride[2] = 0;
    }
    tensor.data = take((uint64_t)(rows * row + 1) * 4, 0xa5);
    return tensor;
}

static void fill_rows(const wn_tensor *tensor, int64_t row, int64_t count, int64_t heads,
                      int64_t dim, const float *from)
{
    for (int64_t i = 0; i < count; i++)
        for (int64_t h = 0; h < heads; h++)
            for (int64_t d = 0; d < dim; d++)
                store(tensor->dtype, tensor->data,
                      (row + i) * tensor->stride[0] + (heads > 1 ? h * tensor->stride[1] : 0) + d,
                      from[(i * heads + h) * dim + d]);
}

/* ---------------------------------------------------------------- a step */

/* One phase's requests. */
typedef struct part {
    uint32_t batch, request[INDEXER_REQUESTS];
    int32_t q_begin[INDEXER_REQUESTS], q_len[INDEXER_REQUESTS], dirty[INDEXER_REQUESTS];
    int32_t length[INDEXER_REQUESTS];
    int32_t table[INDEXER_REQUESTS][INDEXER_PAGES];
    int64_t sequence[INDEXER_REQUESTS];
} part;

static void add_to_part(const indexer_host *host, part *p, uint32_t b, int32_t q_begin,
                        int32_t q_len)
{
    const uint32_t i = p->batch++;
    p->request[i] = b;
    p->q_begin[i] = q_begin;
    p->q_len[i] = q_len;
    p->length[i] = host->length[b];
    p->dirty[i] = host->length[b] - q_len;
    p->sequence[i] = 1000 + b;
    memcpy(p->table[i], host->table[b], sizeof p->table[i]);
}

static wn_step_args args_of(indexer_host *host, uint32_t layer, uint32_t phase, const part *p,
                            const int32_t *position, wn_aux_view *aux, void *workspace)
{
    *aux = (wn_aux_view){.data = host->pages[layer], .page_stride = host->page_stride};
    return (wn_step_args){.struct_size = WN_SIZEOF(wn_step_args),
                          .layer = layer,
                          .phase = phase,
                          .batch = p->batch,
                          .model = &host->model,
                          .q_begin = p->q_begin,
                          .q_len = p->q_len,
                          .position = position,
                          .logical_length = p->length,
                          .dirty_begin = p->dirty,
                          .sequence = p->sequence,
                          .kv = {.page_table = p->table[0],
                                 .page_table_stride = INDEXER_PAGES,
                                 .length = p->length,
                                 .batch = p->batch,
                                 .tokens_per_page = INDEXER_PAGE_TOKENS,
                                 .num_kv_heads = 1},
                          .aux = aux,
                          .num_aux = host->num_pools[layer],
                          .softmax_scale = 1,
                          .device = WN_DEVICE_CPU,
                          .workspace = workspace,
                          .workspace_bytes = host->bounds.workspace_bytes,
                          .step_memory = host->step_memory,
                          .step_memory_bytes = host->bounds.step_bytes,
                          .ops = wn_kernels_variant("ref"),
                          .error = &host->error};
}

/* Copies the rows of a selection to the tokens that they are for. Behind them nothing may be
 * written. */
static void keep(indexer_host *host, uint32_t layer, const part *p, const wn_selection *s)
{
    const int32_t *row = s->indices, *end = s->indices + s->capacity;
    CHECK_REQUIRE(s->offsets == NULL && s->head_stride == 0 && s->block_size == 1 &&
                  s->query_block == 1 && s->index_space == WN_INDEX_PHYSICAL &&
                  s->width == indexer_host_width(host));
    for (uint32_t i = 0; i < p->batch; i++)
        for (int32_t t = p->length[i] - p->q_len[i]; t < p->length[i]; t++, row += s->width)
            memcpy(host->chosen[layer][p->request[i]] + t * s->width, row,
                   (size_t)s->width * sizeof *row);
    CHECK_REQUIRE(row == s->indices + s->rows * s->width);
    while (row < end)
        CHECK_REQUIRE(*row++ == (int32_t)0xa5a5a5a5);
}

static wn_status run_layer(indexer_host *host, uint32_t layer, uint32_t phase, const part *p,
                           const int32_t *position, const wn_named_input *inputs)
{
    wn_aux_view aux;
    void *workspace = take(host->bounds.workspace_bytes, 0xa5);
    wn_step_args args = args_of(host, layer, phase, p, position, &aux, workspace);
    const uint64_t capacity = host->bounds.select_indices;
    wn_selection selection = {.struct_size = WN_SIZEOF(wn_selection),
                              .indices = take(capacity * sizeof(int32_t), 0xa5),
                              .capacity = (int64_t)capacity};
    int32_t *indices = selection.indices;
    wn_status status = WN_OK;
    args.inputs = inputs;
    args.num_inputs = 3;
    if (args.num_aux > 0)
        status = host->plugin->aux_pool->observe(host->instance, &args);
    memset(workspace, 0x5a, (size_t)host->bounds.workspace_bytes);
    if (status == WN_OK)
        status = host->plugin->predictor->select(host->instance, &args, &selection);
    if (status == WN_OK)
        keep(host, layer, p, &selection);
    free(indices);
    free(workspace);
    return status;
}

static void grow(indexer_host *host, uint32_t b, int32_t count)
{
    host->length[b] += count;
    CHECK_REQUIRE(host->length[b] <= INDEXER_LONGEST);
    while (host->num_pages[b] * INDEXER_PAGE_TOKENS < host->length[b]) {
        CHECK_REQUIRE(host->num_free > 0);
        host->table[b][host->num_pages[b]++] = host->free_page[--host->num_free];
    }
}

/* The inputs of a layer for the step's tokens; empty ones for a layer without an indexer. */
static void make_inputs(const indexer_host *host, uint32_t layer, const int32_t *count,
                        int64_t rows, wn_named_input *inputs)
{
    const int64_t heads = host->shape.heads, dim = host->shape.dim;
    int64_t row = 0;
    memset(inputs, 0, 3 * sizeof *inputs);
    for (uint32_t i = 0; i < 3; i++)
        inputs[i].name = host->plugin->config->inputs[i];
    if (host->num_pools[layer] == 0)
        return;
    inputs[0].tensor = make_input(host, host->shape.dtype, rows, heads, dim, 3);
    inputs[1].tensor = make_input(host, host->shape.dtype, rows, 1, dim, 2);
    inputs[2].tensor = make_input(host, WN_F32, rows, 1, heads, 2);
    for (uint32_t b = 0; b < INDEXER_REQUESTS; b++) {
        if (count[b] < 0)
            continue;
        const indexer_tokens *t = &host->tokens[layer][b];
        const int64_t from = host->length[b] - count[b];
        fill_rows(&inputs[0].tensor, row, count[b], heads, dim, t->q + from * heads * dim);
        fill_rows(&inputs[1].tensor, row, count[b], 1, dim, t->k + from * dim);
        fill_rows(&inputs[2].tensor, row, count[b], 1, heads, t->weights + from * heads);
        row += count[b];
    }
}

wn_status indexer_host_step(indexer_host *host, const int32_t *count, const int32_t *in_context)
{
    part parts[WN_PHASE_COUNT];
    int32_t position[INDEXER_STEP], rows = 0;
    wn_status status = WN_OK;
    memset(parts, 0, sizeof parts);
    for (uint32_t b = 0; b < INDEXER_REQUESTS; b++) {
        if (count[b] < 0)
            continue;
        for (int32_t i = 0; i < count[b]; i++)
            position[rows + i] = host->length[b] + i;
        grow(host, b, count[b]);
        add_to_part(
            host,
            &parts[in_context == NULL || in_context[b] ? WN_PHASE_CONTEXT : WN_PHASE_GENERATION], b,
            rows, count[b]);
        rows += count[b];
    }
    memset(host->step_memory, 0xa5, (size_t)host->bounds.step_bytes);
    for (uint32_t layer = 0; layer < host->shape.layers && status == WN_OK; layer++) {
        wn_named_input inputs[3];
        if (host->roles[layer] == 0)
            continue;
        make_inputs(host, layer, count, rows, inputs);
        for (uint32_t phase = 0; phase < WN_PHASE_COUNT && status == WN_OK; phase++)
            if (parts[phase].batch > 0)
                status = run_layer(host, layer, phase, &parts[phase], position, inputs);
        for (uint32_t i = 0; i < 3; i++)
            free(inputs[i].tensor.data);
    }
    return status;
}

wn_status indexer_host_observe(indexer_host *host, uint32_t b, int32_t q_len, int32_t dirty_begin)
{
    part p = {0};
    wn_aux_view aux;
    void *workspace = take(host->bounds.workspace_bytes, 0xa5);
    add_to_part(host, &p, b, 0, q_len);
    p.dirty[0] = dirty_begin;
    wn_step_args args = args_of(host, 0, WN_PHASE_CONTEXT, &p, NULL, &aux, workspace);
    wn_status status = host->plugin->aux_pool->observe(host->instance, &args);
    free(workspace);
    return status;
}

void indexer_host_share(indexer_host *host, uint32_t from, uint32_t to, int32_t tokens)
{
    CHECK_REQUIRE(tokens % INDEXER_PAGE_TOKENS == 0 && host->length[to] == 0);
    host->length[to] = tokens;
    host->num_pages[to] = tokens / INDEXER_PAGE_TOKENS;
    memcpy(host->table[to], host->table[from], (size_t)host->num_pages[to] * sizeof(int32_t));
}

/* ---------------------------------------------------------------- tokens */

static float *random_floats(size_t count, double size, uint64_t *seed)
{
    float *values = take(count * sizeof *values, 0);
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        values[i] = (float)(size * wn_random_signed(seed));
        memcpy(&bits, &values[i], sizeof bits);
        bits &= 0xffff0000u;
        memcpy(&values[i], &bits, sizeof bits);
    }
    return values;
}

indexer_tokens indexer_random_tokens(const indexer_shape *shape, double size, uint64_t *seed)
{
    const size_t n = INDEXER_LONGEST;
    indexer_tokens tokens;
    tokens.q = random_floats(n * shape->heads * shape->dim, size, seed);
    tokens.k = random_floats(n * shape->dim, size, seed);
    tokens.weights = random_floats(n * shape->heads, 1, seed);
    return tokens;
}

void indexer_free_tokens(indexer_tokens *tokens)
{
    free(tokens->q);
    free(tokens->k);
    free(tokens->weights);
}
