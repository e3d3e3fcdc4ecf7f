/* attend.c: the reference of context and generation. Both check the same arguments and compute the
 * same function; they cut the work into different units (attend.h), which is what their tiles'
 * votes and counters are about. Source of the function: the comment of wn_attend_args. */
#include "kernels/ref/attend.h"

#include "kernels/operand_check.h"
#include "kernels/parallel.h"
#include "kernels/ref/ref.h"
#include "kernels/refuse.h"

/* How one call is cut. Unit i is, from the outside in: request, head, run, tile. A run is the query
 * tokens that share a selection row, a tile so many query tokens of a run. */
typedef struct cut {
    const wn_attend_args *args;
    bool by_kv_head; /* generation: a unit has all query heads of a KV head */
    int64_t heads, group;
    int64_t run, tile_q, tile_k;
    int64_t most_runs, most_tiles; /* of any request, of any run */
} cut;

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static cut cut_of(const wn_attend_args *a, bool by_kv_head)
{
    const wn_tile_policy *p = a->tile;
    int64_t longest = 0;
    for (uint32_t b = 0; b < a->kv.batch; b++)
        longest = a->q_len[b] > longest ? a->q_len[b] : longest;
    cut c = {.args = a, .by_kv_head = by_kv_head};
    c.group = a->q.shape[1] / a->kv.num_kv_heads;
    c.heads = by_kv_head ? a->kv.num_kv_heads : a->q.shape[1];
    c.run = a->selection != NULL ? a->selection->query_block : longest;
    c.tile_q = p != NULL && p->tile_q > 0 ? p->tile_q : 64;
    c.tile_k = p != NULL && p->tile_k > 0 ? p->tile_k : 64;
    if (by_kv_head)
        c.tile_q = c.run;
    c.most_runs = longest > 0 ? ceil_div(longest, c.run) : 0;
    c.most_tiles = longest > 0 ? ceil_div(least(c.run, longest), c.tile_q) : 0;
    return c;
}

static void unit_body(void *argument, int64_t i)
{
    const cut *c = argument;
    const wn_attend_args *a = c->args;
    int64_t tile = i % c->most_tiles, run = i / c->most_tiles % c->most_runs;
    int64_t head = i / c->most_tiles / c->most_runs % c->heads;
    int64_t b = i / c->most_tiles / c->most_runs / c->heads, n = a->q_len[b];
    int64_t first = run * c->run + tile * c->tile_q;
    int64_t end = least(n, least((run + 1) * c->run, first + c->tile_q));
    if (first >= end)
        return;
    wn_ref_unit unit = {.args = a,
                        .request = b,
                        .kv_head = c->by_kv_head ? head : head / c->group,
                        .first_head = c->by_kv_head ? head * c->group : head,
                        .num_heads = c->by_kv_head ? c->group : 1,
                        .first_token = first,
                        .num_tokens = end - first,
                        .length = a->kv.length[b],
                        .shift = a->kv.length[b] - n,
                        .selection_row = a->selection != NULL ? a->selection_row[b] + run : 0,
                        .tile_k = c->tile_k,
                        .voting_head = head,
                        .counters = a->counters != NULL ? a->counters + head : NULL};
    wn_ref_votes votes;
    bool voted = wn_ref_policy_votes(a->tile);
    if (voted)
        wn_ref_vote(&unit, &votes);
    else if (unit.counters != NULL)
        wn_ref_count(&unit);
    wn_ref_attend_rows(&unit, voted ? &votes : NULL);
}

static wn_status check_tensors(const wn_attend_args *a, const char *op)
{
    wn_error *e = a->error;
    wn_status status = wn_check_operand(e, op, "q", &a->q, 3, 1);
    if (status == WN_OK)
        status = wn_check_operand(e, op, "out", &a->out, 3, 1);
    if (status == WN_OK)
        status = wn_check_extent(e, op, "q", &a->q, 2, a->kv.k.dim);
    if (status == WN_OK)
        status = wn_check_extent(e, op, "out", &a->out, 1, a->q.shape[1]);
    if (status == WN_OK)
        status = wn_check_extent(e, op, "out", &a->out, 2, a->kv.v.dim);
    if (status == WN_OK && a->lse.data != NULL)
        status = wn_check_operand(e, op, "lse", &a->lse, 2, 0);
    if (status == WN_OK && a->lse.data != NULL)
        status = wn_check_extent(e, op, "lse", &a->lse, 1, a->q.shape[1]);
    if (status != WN_OK)
        return status;
    if (a->q.shape[1] < 1 || a->q.shape[1] % a->kv.num_kv_heads != 0)
        return wn_fail(e, WN_EINVAL, "%s: %lld query heads are not a multiple of %u KV heads", op,
                       (long long)a->q.shape[1], a->kv.num_kv_heads);
    for (uint32_t b = 0; b < a->kv.batch; b++) {
        int64_t end = (int64_t)a->q_begin[b] + a->q_len[b];
        if (a->q_len[b] < 0 || a->q_begin[b] < 0 || end > a->q.shape[0] || end > a->out.shape[0] ||
            (a->lse.data != NULL && end > a->lse.shape[0]))
            return wn_fail(e, WN_EINVAL,
                           "%s: request %u has query rows %d .. +%d, outside q, out or lse, which "
                           "have %lld rows",
                           op, b, a->q_begin[b], a->q_len[b], (long long)a->q.shape[0]);
    }
    return WN_OK;
}

static wn_status check_selection(const wn_attend_args *a, const char *op)
{
    const wn_selection *s = a->selection;
    if (s == NULL)
        return WN_OK;
    if (s->index_space != WN_INDEX_PHYSICAL)
        return wn_fail(a->error, WN_EINVAL,
                       "%s: the selection's index space is %u, expected physical (%d): translate "
                       "positions to slots first",
                       op, s->index_space, WN_INDEX_PHYSICAL);
    if (!(s->flags & WN_SELECTION_SORTED) || s->block_size < 1 || s->query_block < 1)
        return wn_fail(a->error, WN_EINVAL,
                       "%s: the selection has flags %u, block_size %u, query_block %u, expected "
                       "WN_SELECTION_SORTED, >= 1, >= 1",
                       op, s->flags, s->block_size, s->query_block);
    if (a->granularity > WN_GRANULARITY_PAGE || (a->selection_row == NULL && a->kv.batch > 0))
        return wn_fail(a->error, WN_EINVAL,
                       "%s: granularity is %u (expected 0 or 1), selection_row is %s", op,
                       a->granularity, a->selection_row == NULL ? "missing" : "given");
    for (uint32_t b = 0; b < a->kv.batch; b++) {
        int64_t rows = ceil_div(a->q_len[b], s->query_block);
        if (a->selection_row[b] < 0 || a->selection_row[b] + rows > s->rows)
            return wn_fail(a->error, WN_EINVAL,
                           "%s: request %u needs rows %d .. +%lld of the selection, which has %u",
                           op, b, a->selection_row[b], (long long)rows, s->rows);
    }
    return WN_OK;
}

static wn_status check_policy(const wn_attend_args *a, const char *op, bool by_kv_head)
{
    const wn_tile_policy *p = a->tile;
    if (p == NULL)
        return WN_OK;
    if (p->kind > WN_TILE_VOTE || p->tile_q > 64 || p->tile_k > 256)
        return wn_fail(a->error, WN_EINVAL,
                       "%s: tile policy of kind %u with tile_q %u, tile_k %u, expected kind 0 .. "
                       "%d, tile_q <= 64, tile_k <= 256",
                       op, p->kind, p->tile_q, p->tile_k, WN_TILE_VOTE);
    if (p->flags > WN_TILE_TWO_PASS || (p->flags != 0 && (!by_kv_head || p->kind == WN_TILE_VOTE)))
        return wn_fail(a->error, WN_EINVAL,
                       "%s: tile policy of kind %u with flags %u: expected 0, or WN_TILE_TWO_PASS "
                       "(%d), which is for generation and kind %d alone",
                       op, p->kind, p->flags, WN_TILE_TWO_PASS, WN_TILE_SKIP_SOFTMAX);
    if (p->kind == WN_TILE_SKIP_SOFTMAX && p->log_threshold == NULL && a->kv.batch > 0)
        return wn_fail(a->error, WN_EINVAL, "%s: the tile policy has no log_threshold", op);
    if (p->kind == WN_TILE_VOTE && p->vote == NULL)
        return wn_fail(a->error, WN_EINVAL, "%s: the tile policy has no vote function", op);
    cut c = cut_of(a, by_kv_head);
    for (uint32_t b = 0; b < a->kv.batch && wn_ref_policy_votes(p); b++) {
        int64_t rows = by_kv_head ? c.group * least(c.run, a->q_len[b]) : c.tile_q;
        if (rows > WN_MAX_VOTING_ROWS || ceil_div(a->kv.length[b], c.tile_k) > WN_REF_MAX_TILES)
            return wn_fail(a->error, WN_EUNSUPPORTED,
                           "%s: request %u votes with %lld rows on tiles of %lld in %d keys; at "
                           "most %d rows and %d tiles can: use context, or larger tiles",
                           op, b, (long long)rows, (long long)c.tile_k, a->kv.length[b],
                           WN_MAX_VOTING_ROWS, WN_REF_MAX_TILES);
    }
    return WN_OK;
}

static wn_status check(const wn_attend_args *a, const char *op, bool by_kv_head)
{
    wn_status status = wn_check_paged(a->error, op, &a->kv, WN_OPERAND_K | WN_OPERAND_V);
    if (status == WN_OK)
        status = check_tensors(a, op);
    if (status == WN_OK)
        status = check_selection(a, op);
    if (status == WN_OK)
        status = check_policy(a, op, by_kv_head);
    if (status != WN_OK)
        return status;
    if (a->causal > 1 || a->window < 0 || a->token_sinks < 0 || !(a->soft_cap >= 0) ||
        !isfinite(a->softmax_scale))
        return wn_fail(a->error, WN_EINVAL,
                       "%s: causal %u, window %d, token_sinks %d, soft_cap %g, softmax_scale %g: "
                       "expected 0 or 1, >= 0, >= 0, >= 0, a finite number",
                       op, a->causal, a->window, a->token_sinks, (double)a->soft_cap,
                       (double)a->softmax_scale);
    return WN_OK;
}

static wn_status refuse(const wn_attend_args *args, const char *op, bool by_kv_head)
{
    WN_CHECK_STRUCT_SIZE(args, wn_attend_args);
    return args->kv.batch == 0 ? WN_OK : check(args, op, by_kv_head);
}

wn_status wn_refuse_context(const wn_attend_args *args)
{
    return refuse(args, "context", false);
}

wn_status wn_refuse_generation(const wn_attend_args *args)
{
    return refuse(args, "generation", true);
}

static void attend(const wn_attend_args *args, bool by_kv_head)
{
    cut c = cut_of(args, by_kv_head);
    wn_for_each(args->executor, args->kv.batch * c.heads * c.most_runs * c.most_tiles, unit_body,
                &c);
}

wn_status wn_ref_context(const wn_attend_args *args)
{
    wn_status status = wn_refuse_context(args);
    if (status == WN_OK && args->kv.batch > 0)
        attend(args, false);
    return status;
}

wn_status wn_ref_generation(const wn_attend_args *args)
{
    wn_status status = wn_refuse_generation(args);
    if (status == WN_OK && args->kv.batch > 0)
        attend(args, true);
    return status;
}
