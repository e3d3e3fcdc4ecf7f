/* validate_oracle.c: the identity of validate_oracle.h, in float64 and by the definition. Shares no
 * code with kernels or engine. */
#include "tools/validate_oracle.h"

#include <math.h>
#include <stdlib.h>

/* Scores of a few units, summed in float32 over at most 128 channels; log-sum-exp over a few
 * hundred keys adds less. */
#define LSE_BOUND 5e-5

/* One layer of a play: every token as it was fed. */
typedef struct exhibit {
    const wn_model *model;
    const wn_play *play;
    uint32_t mode, layer;
    int by_output;
    size_t tokens;
    float *q, *k, *v; /* [tokens, heads * dim] each */
    double *p;        /* [tokens] dense softmax of the row at hand */
    uint8_t *kept;    /* [tokens] of the row at hand */
} exhibit;

static int open_exhibit(exhibit *x)
{
    const wn_model *model = x->model;
    x->q = calloc(x->tokens * model->num_heads, model->head_dim * sizeof(float));
    x->k = calloc(x->tokens * model->num_kv_heads, model->head_dim * sizeof(float));
    x->v = calloc(x->tokens * model->num_kv_heads, model->v_head_dim * sizeof(float));
    x->p = calloc(x->tokens, sizeof *x->p);
    x->kept = calloc(x->tokens, 1);
    return x->q != NULL && x->k != NULL && x->v != NULL && x->p != NULL && x->kept != NULL;
}

static void close_exhibit(exhibit *x)
{
    free(x->q);
    free(x->k);
    free(x->v);
    free(x->p);
    free(x->kept);
}

static void show_layer(exhibit *x, uint32_t layer)
{
    const wn_model *model = x->model;
    size_t q = (size_t)model->num_heads * model->head_dim;
    size_t k = (size_t)model->num_kv_heads * model->head_dim;
    size_t v = (size_t)model->num_kv_heads * model->v_head_dim;
    x->layer = layer;
    for (size_t t = 0; t < x->tokens; t++) {
        wn_play_token(model, x->play, x->mode, WN_TOKEN_Q, layer, (int32_t)t, x->q + t * q);
        wn_play_token(model, x->play, x->mode, WN_TOKEN_K, layer, (int32_t)t, x->k + t * k);
        wn_play_token(model, x->play, x->mode, WN_TOKEN_V, layer, (int32_t)t, x->v + t * v);
    }
}

/* p of one row over the tokens 0 .. row; returns the dense log-sum-exp. */
static double dense_softmax(exhibit *x, size_t row, uint32_t head)
{
    const wn_model *model = x->model;
    size_t dim = model->head_dim, kv_head = head / (model->num_heads / model->num_kv_heads);
    const float *q = x->q + (row * model->num_heads + head) * dim;
    double greatest = -INFINITY, sum = 0;
    for (size_t t = 0; t <= row; t++) {
        const float *k = x->k + (t * model->num_kv_heads + kv_head) * dim;
        double score = 0;
        for (size_t c = 0; c < dim; c++)
            score += (double)q[c] * k[c];
        x->p[t] = score * model->softmax_scale;
        greatest = fmax(greatest, x->p[t]);
    }
    for (size_t t = 0; t <= row; t++)
        sum += x->p[t] = exp(x->p[t] - greatest);
    for (size_t t = 0; t <= row; t++)
        x->p[t] /= sum;
    return greatest + log(sum);
}

/* Fills kept; returns its dense mass, 1 - eps. */
static double kept_mass(exhibit *x, size_t row, uint32_t head, const float *out)
{
    uint32_t kv_heads = x->model->num_kv_heads, group = x->model->num_heads / kv_heads;
    const uint8_t *seen =
        x->play->visible + ((x->layer * x->tokens + row) * kv_heads + head / group) * x->tokens;
    double mass = 0;
    for (size_t t = 0; t <= row; t++) {
        x->kept[t] = seen[t] && (!x->by_output || out[t] != 0);
        mass += x->kept[t] ? x->p[t] : 0;
    }
    return mass;
}

static int row_holds(exhibit *x, size_t row, uint32_t head, uint64_t *left_out, char *text,
                     size_t capacity)
{
    const wn_model *model = x->model;
    size_t at = (x->layer * x->tokens + row) * model->num_heads + head, dim = model->v_head_dim;
    size_t kv_head = head / (model->num_heads / model->num_kv_heads);
    const float *out = x->play->out + at * dim;
    double lse_dense = dense_softmax(x, row, head), mass = kept_mass(x, row, head, out);
    *left_out += mass < 1 - 1e-6;
    if (mass == 0) /* a row that attends to nothing */
        return 1;
    double lse = x->play->lse[at], lse_expected = lse_dense + log(mass);
    if (!(fabs(lse - lse_expected) <= LSE_BOUND)) {
        snprintf(text, capacity,
                 "LSE %.7g, expected %.7g (natural log): of the dense softmax, %g "
                 "lies on what was kept",
                 lse, lse_expected, mass);
        return 0;
    }
    for (size_t c = 0; c < dim; c++) {
        double expected = 0;
        for (size_t t = 0; t <= row; t++)
            if (x->kept[t])
                expected += x->p[t] * x->v[(t * model->num_kv_heads + kv_head) * dim + c];
        expected /= mass;
        if (fabs(out[c] - expected) <= WN_PLAY_BOUND)
            continue;
        snprintf(text, capacity,
                 "channel %zu of the output is %.7g, expected %.7g: the mean of V "
                 "under the softmax over what was kept, %g of the dense one",
                 c, (double)out[c], expected, mass);
        return 0;
    }
    return 1;
}

int wn_oracle_holds(const wn_model *model, const wn_play *play, uint32_t mode, int by_output,
                    uint64_t *left_out, char *text, size_t capacity)
{
    exhibit x = {.model = model,
                 .play = play,
                 .mode = mode,
                 .by_output = by_output,
                 .tokens = (size_t)(play->prompt + play->steps)};
    char reason[256];
    int holds = open_exhibit(&x);
    snprintf(text, capacity, "out of memory");
    for (uint32_t layer = 0; holds && layer < model->num_layers; layer++) {
        show_layer(&x, layer);
        for (size_t row = 0; holds && row < x.tokens; row++)
            for (uint32_t head = 0; holds && head < model->num_heads; head++) {
                holds = row_holds(&x, row, head, left_out, reason, sizeof reason);
                if (!holds)
                    snprintf(text, capacity, "layer %u, token %zu, head %u: %s", layer, row, head,
                             reason);
            }
    }
    close_exhibit(&x);
    return holds;
}
