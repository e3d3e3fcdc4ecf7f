/* mla.c: the reference of mla: attention of many query heads to listed tokens, one latent vector
 * being key and value of a token for all heads. Formulas in the comment of wn_mla_args. A unit of
 * work is one row and some heads; each key is converted to double once per unit. A head's
 * arithmetic depends on its keys and their order alone, not on the unit. */
#include "kernels/operand_check.h"
#include "kernels/parallel.h"
#include "kernels/ref/double_row.h"
#include "kernels/ref/ref.h"
#include "kernels/ref/running_softmax.h"
#include "kernels/refuse.h"

#include <stdbool.h>

/* Numbers of q, of keys and of outputs that a unit holds on its stack: 16 vectors of 576. HEADS and
 * STRIP: most heads of a unit, most keys at once. */
enum { NUMBERS = 16 * 576, HEADS = 64, STRIP = 64 };

/* Heads [first, first + count) of one row. */
typedef struct unit {
    const wn_mla_args *args;
    int64_t row, first, count;
    double q[NUMBERS], out[NUMBERS], key[NUMBERS];
    wn_ref_softmax state[HEADS];
} unit;

static int64_t heads_per_unit(const wn_mla_args *a)
{
    int64_t most = NUMBERS / a->q.shape[2];
    return most < HEADS ? most : HEADS;
}

static void load_heads(unit *u)
{
    const wn_mla_args *a = u->args;
    int64_t dim = a->q.shape[2];
    for (int64_t h = 0; h < u->count; h++) {
        u->state[h] = (wn_ref_softmax){-INFINITY, 0, u->out + h * a->v_dim};
        wn_ref_load_strided(&a->q, u->row * a->q.stride[0] + (u->first + h) * a->q.stride[1],
                            a->q.stride[2], dim, u->q + h * dim);
    }
    for (int64_t i = 0; i < u->count * a->v_dim; i++)
        u->out[i] = 0;
}

/* All heads with `count` loaded keys, head by head: its output stays near. */
static void attend(unit *u, int64_t count)
{
    const wn_mla_args *a = u->args;
    int64_t dim = a->q.shape[2];
    for (int64_t h = 0; h < u->count; h++)
        for (int64_t j = 0; j < count; j++) {
            const double *key = u->key + j * dim;
            wn_ref_softmax_add(&u->state[h],
                               a->softmax_scale * wn_ref_dot(u->q + h * dim, key, dim), key,
                               a->v_dim);
        }
}

/* The key in slot `index` of a scope, which is valid. */
static void load_key(const unit *u, const wn_mla_scope *scope, int64_t index, double *key)
{
    const wn_mla_args *a = u->args;
    int64_t page = index / scope->tokens_per_page;
    if (scope->page_table != NULL) {
        int64_t request = a->row_request != NULL ? a->row_request[u->row] : u->row;
        page = scope->page_table[request * scope->page_table_stride + page];
    }
    wn_ref_load_token(&scope->k, scope->tokens_per_page, page, 0, index % scope->tokens_per_page,
                      key);
}

static void attend_scope(unit *u, const wn_mla_scope *scope)
{
    int64_t dim = u->args->q.shape[2], limit = scope->limit[u->row];
    int64_t most = NUMBERS / dim < STRIP ? NUMBERS / dim : STRIP, loaded = 0;
    const int32_t *list = NULL;
    int64_t entries = limit;
    if (scope->indices != NULL) {
        list = scope->indices + u->row * scope->indices_stride;
        entries = scope->count != NULL ? scope->count[u->row] : (int64_t)scope->width;
    }
    for (int64_t i = 0; i < entries; i++) {
        int64_t index = list != NULL ? list[i] : i;
        if (index < 0 || index >= limit)
            continue;
        load_key(u, scope, index, u->key + loaded++ * dim);
        if (loaded == most) {
            attend(u, loaded);
            loaded = 0;
        }
    }
    attend(u, loaded);
}

static void write_number(const wn_tensor *tensor, int64_t row, int64_t head, double value)
{
    if (tensor->data != NULL)
        wn_store(tensor->data, tensor->dtype, row * tensor->stride[0] + head * tensor->stride[1],
                 value);
}

/* The sink joins the denominator of the output alone. */
static void write_head(const unit *u, int64_t h)
{
    const wn_mla_args *a = u->args;
    const wn_ref_softmax *s = &u->state[h];
    int64_t head = u->first + h;
    int64_t start = u->row * a->out.stride[0] + head * a->out.stride[1];
    double sink = a->sinks != NULL ? a->sinks[head] : -INFINITY;
    double sum = s->sum + (s->sum == 0 ? 0 : exp(sink - s->maximum));
    bool zero = s->sum == 0 || sink == INFINITY;
    for (int64_t d = 0; d < a->v_dim; d++)
        wn_store(a->out.data, a->out.dtype, start + d * a->out.stride[2],
                 zero ? 0 : s->out[d] / sum);
    write_number(&a->lse, u->row, head, s->sum == 0 ? -INFINITY : s->maximum + log(s->sum));
    write_number(&a->max_logits, u->row, head, isnan(s->sum) ? (double)NAN : s->maximum);
}

static void unit_body(void *argument, int64_t i)
{
    const wn_mla_args *a = argument;
    int64_t most = heads_per_unit(a), heads = a->q.shape[1];
    int64_t units = (heads + most - 1) / most;
    unit u; /* not initialised as a whole: it is large */
    u.args = a;
    u.row = i / units;
    u.first = i % units * most;
    u.count = heads - u.first < most ? heads - u.first : most;
    load_heads(&u);
    for (uint32_t s = 0; s < a->num_scopes; s++)
        attend_scope(&u, &a->scope[s]);
    for (int64_t h = 0; h < u.count; h++)
        write_head(&u, h);
}

/* ---------------------------------------------------------------- validation */

static wn_status check_tensors(const wn_mla_args *a)
{
    const char *op = "mla";
    wn_error *e = a->error;
    const struct {
        const char *name;
        const wn_tensor *tensor;
    } statistics[] = {{"lse", &a->lse}, {"max_logits", &a->max_logits}};
    wn_status status = wn_check_operand(e, op, "q", &a->q, 3, 1);
    if (status == WN_OK)
        status = wn_check_operand(e, op, "out", &a->out, 3, 1);
    for (uint32_t i = 0; status == WN_OK && i < 2; i++)
        status = wn_check_extent(e, op, "out", &a->out, i, a->q.shape[i]);
    if (status == WN_OK)
        status = wn_check_extent(e, op, "out", &a->out, 2, a->v_dim);
    for (uint32_t t = 0; t < 2; t++) {
        if (statistics[t].tensor->data == NULL)
            continue;
        if (status == WN_OK)
            status = wn_check_operand(e, op, statistics[t].name, statistics[t].tensor, 2, 0);
        for (uint32_t i = 0; status == WN_OK && i < 2; i++)
            status =
                wn_check_extent(e, op, statistics[t].name, statistics[t].tensor, i, a->q.shape[i]);
    }
    return status;
}

static wn_status check_row(const wn_mla_args *a, const wn_mla_scope *scope, uint32_t s, int64_t row)
{
    int64_t limit = scope->limit[row], pages = scope->page_table_stride;
    int64_t needed = (limit + scope->tokens_per_page - 1) / scope->tokens_per_page;
    if (limit < 0 || (scope->page_table != NULL && needed > pages))
        return wn_fail(a->error, WN_EINVAL,
                       "mla: scope %u, row %lld: limit is %lld, expected >= 0 and at most what the "
                       "page table's %lld pages of %u tokens hold",
                       s, (long long)row, (long long)limit, (long long)pages,
                       scope->tokens_per_page);
    if (scope->indices != NULL && scope->count != NULL &&
        (scope->count[row] < 0 || scope->count[row] > (int64_t)scope->width))
        return wn_fail(a->error, WN_EINVAL,
                       "mla: scope %u, row %lld: count is %d, expected 0 .. width %u", s,
                       (long long)row, scope->count[row], scope->width);
    return WN_OK;
}

static wn_status check_scope(const wn_mla_args *a, uint32_t s)
{
    static const char *const name[2] = {"scope[0].k", "scope[1].k"};
    const wn_mla_scope *scope = &a->scope[s];
    if (scope->tokens_per_page < 1 || scope->limit == NULL || scope->k.data == NULL)
        return wn_fail(a->error, WN_EINVAL,
                       "mla: scope %u has tokens_per_page %u, limit %s, keys %s: expected >= 1, "
                       "given, given",
                       s, scope->tokens_per_page, scope->limit == NULL ? "missing" : "given",
                       scope->k.data == NULL ? "missing" : "given");
    wn_status status =
        wn_check_pool(a->error, "mla", name[s], &scope->k, scope->tokens_per_page, WN_OPERAND_K);
    if (status == WN_OK && scope->k.dim != a->q.shape[2])
        return wn_fail(a->error, WN_EINVAL, "mla: %s.dim is %u, expected q's %lld", name[s],
                       scope->k.dim, (long long)a->q.shape[2]);
    for (int64_t row = 0; status == WN_OK && row < a->q.shape[0]; row++)
        status = check_row(a, scope, s, row);
    return status;
}

static wn_status check(const wn_mla_args *a)
{
    wn_status status = check_tensors(a);
    if (status != WN_OK)
        return status;
    if (a->q.shape[2] > WN_MAX_HEAD_DIM)
        return wn_fail(a->error, WN_EUNSUPPORTED, "mla: q has dim %lld, at most %d are taken",
                       (long long)a->q.shape[2], WN_MAX_HEAD_DIM);
    if (a->v_dim < 1 || a->v_dim > a->q.shape[2] || a->num_scopes < 1 || a->num_scopes > 2 ||
        !isfinite(a->softmax_scale))
        return wn_fail(a->error, WN_EINVAL,
                       "mla: v_dim %u, num_scopes %u, softmax_scale %g: expected 1 .. dim %lld, 1 "
                       "or 2, a finite number",
                       a->v_dim, a->num_scopes, (double)a->softmax_scale, (long long)a->q.shape[2]);
    for (int64_t row = 0; a->row_request != NULL && row < a->q.shape[0]; row++)
        if (a->row_request[row] < 0)
            return wn_fail(a->error, WN_EINVAL, "mla: row %lld is of request %d, expected >= 0",
                           (long long)row, a->row_request[row]);
    for (uint32_t s = 0; status == WN_OK && s < a->num_scopes; s++)
        status = check_scope(a, s);
    return status;
}

wn_status wn_refuse_mla(const wn_mla_args *args)
{
    WN_CHECK_STRUCT_SIZE(args, wn_mla_args);
    if (args->q.shape[0] == 0 || args->q.shape[1] == 0)
        return WN_OK;
    return check(args);
}

wn_status wn_ref_mla(const wn_mla_args *args)
{
    wn_status status = wn_refuse_mla(args);
    if (status != WN_OK || args->q.shape[0] == 0 || args->q.shape[1] == 0)
        return status;
    int64_t most = heads_per_unit(args), units = (args->q.shape[1] + most - 1) / most;
    wn_for_each(args->executor, args->q.shape[0] * units, unit_body, (void *)args);
    return WN_OK;
}
