/* check_engine.c: see check_engine.h. */
#include "check_engine.h"

#include <math.h>
#include <string.h>

wn_model check_model(void)
{
    return (wn_model){.struct_size = WN_SIZEOF(wn_model),
                      .num_layers = 2,
                      .num_heads = 6,
                      .num_kv_heads = 2,
                      .head_dim = 8,
                      .dtype = WN_F32,
                      .max_position = 256,
                      .softmax_scale = 0.35f};
}

wn_status check_try_open(check_engine *c, const char *yaml, const wn_engine_options *options)
{
    c->registry = NULL;
    c->config = NULL;
    c->engine = NULL;
    if (c->model.struct_size == 0)
        c->model = check_model();
    if (yaml[0] == 0)
        yaml = "sparse_attention_config:\n  algorithm: dense\n";
    wn_status status = wn_registry_open(WN_TEST_PROBES, &c->registry);
    if (status == WN_OK)
        status = wn_config_parse(yaml, strlen(yaml), "test.yaml", &c->config);
    if (status == WN_OK)
        status = wn_engine_create(c->registry, c->config, &c->model, options, &c->engine);
    return status;
}

void check_open(check_engine *c, const char *yaml, const wn_engine_options *options)
{
    wn_status status = check_try_open(c, yaml, options);
    if (status != WN_OK) {
        printf("\n  %s: %s\n", wn_status_name(status), wn_error_text());
        abort();
    }
}

void check_close(check_engine *c)
{
    CU_ASSERT_EQUAL(wn_engine_free(c->engine), WN_OK);
    wn_config_free(c->config);
    wn_registry_close(c->registry);
    memset(c, 0, sizeof *c);
}

static float *fill(size_t n, uint64_t *random)
{
    float *x = malloc((n + 1) * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(2 * wn_random_signed(random));
    return x;
}

check_text check_write(const wn_model *m, uint32_t tokens, uint64_t *random)
{
    check_text text = {.tokens = tokens};
    uint32_t dv = m->v_head_dim != 0 ? m->v_head_dim : m->head_dim;
    text.q = fill((size_t)tokens * m->num_heads * m->head_dim, random);
    text.k = fill((size_t)tokens * m->num_kv_heads * m->head_dim, random);
    text.v = fill((size_t)tokens * m->num_kv_heads * dv, random);
    for (uint32_t t = 0; m->mla && t < tokens; t++)
        memcpy(text.v + (size_t)t * dv, text.k + (size_t)t * m->head_dim, dv * sizeof *text.v);
    return text;
}

void check_erase(check_text *text)
{
    free(text->q);
    free(text->k);
    free(text->v);
}

/* Layer l's data: layer 0's scaled a little, so that layers differ. */
static float layer_factor(uint32_t layer)
{
    return 1.0f + 0.25f * (float)layer;
}

static wn_tensor tokens_of(float *data, uint32_t count, uint32_t heads, uint32_t dim)
{
    return wn_tensor_make(data, WN_F32, 3, (int64_t[]){count, heads, dim});
}

wn_status check_step(check_engine *c, wn_sequence sequence, const check_text *text, uint32_t begin,
                     uint32_t end, uint32_t flags, float *out, float *lse)
{
    const wn_model *m = &c->model;
    uint32_t n = end - begin, dv = m->v_head_dim != 0 ? m->v_head_dim : m->head_dim;
    size_t q_row = (size_t)m->num_heads * m->head_dim,
           k_row = (size_t)m->num_kv_heads * m->head_dim;
    size_t v_row = (size_t)m->num_kv_heads * dv, o_row = (size_t)m->num_heads * dv;
    wn_batch_item item = {.struct_size = WN_SIZEOF(wn_batch_item),
                          .sequence = sequence,
                          .num_tokens = (int32_t)n,
                          .flags = flags};
    wn_batch *batch;
    wn_status status = wn_batch_begin(c->engine, &item, 1, &batch);
    if (status != WN_OK)
        return status;
    float *q = malloc((n * q_row + 1) * 4), *k = malloc((n * k_row + 1) * 4);
    float *v = malloc((n * v_row + 1) * 4), *o = malloc((n * o_row + 1) * 4);
    float *l = malloc(((size_t)n * m->num_heads + 1) * 4);
    for (uint32_t layer = 0; layer < m->num_layers && status == WN_OK; layer++) {
        for (size_t i = 0; i < n * q_row; i++)
            q[i] = text->q[begin * q_row + i] * layer_factor(layer);
        for (size_t i = 0; i < n * k_row; i++)
            k[i] = text->k[begin * k_row + i] * layer_factor(layer);
        for (size_t i = 0; i < n * v_row; i++)
            v[i] = text->v[begin * v_row + i] * layer_factor(layer);
        status = wn_attention(
            batch, layer,
            WN_ARGS(wn_attention_args, .q = tokens_of(q, n, m->num_heads, m->head_dim),
                    .k = tokens_of(k, n, m->num_kv_heads, m->head_dim),
                    .v = m->mla ? (wn_tensor){0} : tokens_of(v, n, m->num_kv_heads, dv),
                    .out = tokens_of(o, n, m->num_heads, dv),
                    .lse = wn_tensor_make(l, WN_F32, 2, (int64_t[]){n, m->num_heads})));
        if (out != NULL)
            memcpy(out + layer * n * o_row, o, n * o_row * 4);
        if (lse != NULL)
            memcpy(lse + (size_t)layer * n * m->num_heads, l, (size_t)n * m->num_heads * 4);
    }
    free(q);
    free(k);
    free(v);
    free(o);
    free(l);
    if (status != WN_OK) {
        wn_batch_abort(batch);
        return status;
    }
    return wn_batch_end(batch);
}

void check_dense(const wn_model *m, const check_text *text, uint32_t layer, uint32_t t,
                 const int32_t *keys, uint32_t n, uint32_t kv_head_only, double *out, double *lse)
{
    uint32_t group = m->num_heads / m->num_kv_heads, d = m->head_dim;
    uint32_t dv = m->v_head_dim != 0 ? m->v_head_dim : d;
    double f = layer_factor(layer);
    if (keys == NULL)
        n = t + 1;
    for (uint32_t h = 0; h < m->num_heads; h++) {
        uint32_t hk = h / group;
        if (kv_head_only != CHECK_ALL_HEADS && hk != kv_head_only)
            continue;
        double total = 0, greatest = -INFINITY;
        double *o = out + h * dv, *score = malloc((n + 1) * sizeof *score);
        for (uint32_t i = 0; i < n; i++) {
            uint32_t j = keys != NULL ? (uint32_t)keys[i] : i;
            score[i] = 0;
            for (uint32_t c = 0; c < d; c++)
                score[i] += (double)text->q[(t * m->num_heads + h) * d + c] *
                            (double)text->k[(j * m->num_kv_heads + hk) * d + c];
            score[i] *= (double)m->softmax_scale * f * f;
            greatest = score[i] > greatest ? score[i] : greatest;
        }
        memset(o, 0, dv * sizeof *o);
        for (uint32_t i = 0; i < n; i++) {
            uint32_t j = keys != NULL ? (uint32_t)keys[i] : i;
            double w = exp(score[i] - greatest);
            total += w;
            for (uint32_t c = 0; c < dv; c++)
                o[c] += w * f * (double)text->v[(j * m->num_kv_heads + hk) * dv + c];
        }
        for (uint32_t c = 0; c < dv && n > 0; c++)
            o[c] /= total;
        lse[h] = n > 0 ? greatest + log(total) : -INFINITY;
        free(score);
    }
}

double check_distance(const float *a, const double *b, uint32_t n)
{
    double worst = 0;
    for (uint32_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - b[i]);
        if (!(d <= worst) && !((double)a[i] == b[i]))
            worst = d;
    }
    return worst;
}
