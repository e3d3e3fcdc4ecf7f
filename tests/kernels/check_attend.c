/* check_attend.c: the checks of context, generation and merge_states on any variant. */
#include "attend_case.h"

/* ---------------------------------------------------------------- against the oracle */

static void run(wn_attend_case *c)
{
    if (c->by_kv_head)
        WN_CHECK_RUN(c->check, generation, c->args);
    else
        WN_CHECK_RUN(c->check, context, c->args);
}

static wn_status call(wn_attend_case *c, const wn_attend_args *args)
{
    return c->by_kv_head ? c->check->ops->generation(args) : c->check->ops->context(args);
}

static void random_cases(wn_check *check, bool by_kv_head, uint32_t wanted, int count)
{
    for (int i = 0; i < count; i++) {
        wn_attend_case c;
        wn_check_case(check, "random, features %u, number %d", wanted, i);
        wn_attend_case_make(check, &c, by_kv_head, wanted);
        wn_attend_case_poison(&c);
        run(&c);
        wn_attend_case_compare(&c);
        wn_attend_case_free(&c);
    }
}

/* ---------------------------------------------------------------- properties */

/* out and lse of one request, to new memory; compares the bits with what is in args. */
static void compare_request(wn_attend_case *c, const wn_attend_args *args, int64_t first,
                            int64_t count)
{
    const wn_tensor *whole = &c->args.out;
    size_t bytes = wn_check_bytes_of(whole->dtype);
    for (int64_t r = first; r < first + count; r++)
        for (int64_t h = 0; h < c->heads; h++)
            for (int64_t d = 0; d < c->v_dim; d++) {
                int64_t at = r * whole->stride[0] + h * whole->stride[1] + d * whole->stride[2];
                if (!wn_check_bytes(c->check, "out again",
                                    (const char *)args->out.data + (size_t)at * bytes,
                                    (const char *)whole->data + (size_t)at * bytes, bytes))
                    return;
            }
}

/* A copy of args whose outputs go elsewhere, over one request of the batch. */
static wn_attend_args one_request(wn_attend_case *c, int64_t b)
{
    wn_attend_args one = c->args;
    one.q_begin += b;
    one.q_len += b;
    one.kv.batch = 1;
    one.kv.length += b;
    one.kv.page_table += b * one.kv.page_table_stride;
    if (one.selection_row != NULL)
        one.selection_row += b;
    one.out.data =
        wn_check_output(c->check, (size_t)c->out_elements * wn_check_bytes_of(one.out.dtype));
    one.lse.data = NULL;
    one.counters = NULL;
    one.error = NULL;
    one.executor = wn_check_executor(2);
    return one;
}

/* A request gets the same bits alone as among others. */
static void batch_invariance(wn_check *check, bool by_kv_head, int count)
{
    for (int i = 0; i < count; i++) {
        wn_attend_case c;
        wn_check_case(check, "alone as in the batch, number %d", i);
        wn_attend_case_make(check, &c, by_kv_head,
                            (i % 3 == 0   ? WN_CASE_SELECTION
                             : i % 3 == 1 ? WN_CASE_POLICY
                                          : 0) |
                                (by_kv_head && i % 6 > 4 ? WN_CASE_LONG : 0) |
                                (!by_kv_head && i % 4 == 3 ? WN_CASE_BLOCKS : 0));
        run(&c);
        for (int64_t b = 0; b < c.args.kv.batch; b++) {
            wn_attend_args one = one_request(&c, b);
            wn_tile_policy policy = c.policy;
            policy.log_threshold += one.tile != NULL ? b : 0;
            one.tile = one.tile != NULL ? &policy : NULL;
            wn_check_equal(check, "status", b, call(&c, &one), WN_OK);
            compare_request(&c, &one, one.q_begin[0], one.q_len[0]);
        }
        wn_attend_case_free(&c);
    }
}

/* Room for the results of parts changes who computes what, and no bit. */
static void workspace_changes_nothing(wn_check *check, int count)
{
    for (int i = 0; i < count; i++) {
        wn_attend_case c;
        wn_check_case(check, "workspace, number %d", i);
        wn_attend_case_make(check, &c, true,
                            WN_CASE_LONG | WN_CASE_COUNTERS | (i % 2 ? WN_CASE_SELECTION : 0));
        run(&c);
        wn_attend_case_compare(&c);
        int64_t all = 64 * c.rows * c.heads * (c.v_dim + 16) * 4;
        void *room = malloc((size_t)all);
        for (uint32_t t = 0; t < 9 && room != NULL; t++) {
            wn_attend_args shared = c.args;
            memset(room, 0xff, (size_t)all); /* its contents are undefined */
            shared.executor = wn_check_executor(1 + t % 3);
            shared.error = NULL;
            shared.counters = NULL;
            shared.workspace = room;
            shared.workspace_bytes = t < 3 ? all : all / (t < 6 ? 33 : 100);
            shared.out.data = wn_check_output(check, (size_t)c.out_elements *
                                                         wn_check_bytes_of(c.args.out.dtype));
            shared.lse.data = NULL;
            wn_check_equal(check, "status", t, call(&c, &shared), WN_OK);
            for (uint32_t b = 0; b < c.args.kv.batch; b++)
                compare_request(&c, &shared, c.args.q_begin[b], c.args.q_len[b]);
        }
        free(room);
        wn_attend_case_free(&c);
    }
}

/* A NaN in one channel of a value goes to that channel of the rows that see it, and to nothing
 * else; one in a key makes those rows NaN. False if the case has no place for it. */
static bool spread_nan(wn_attend_case *c, bool in_key)
{
    const wn_paged_kv *kv = &c->args.kv;
    const wn_kv_view *view = in_key ? &kv->k : &kv->v;
    uint64_t *random = &c->check->random;
    uint32_t b = 0;
    while (b < kv->batch && (c->args.q_len[b] == 0 || kv->length[b] == 0))
        b++;
    if (b == kv->batch || wn_check_is_mla(kv) || view->dtype == WN_I8)
        return false;
    int64_t slot = wn_random_below(random, (uint32_t)kv->length[b]);
    int64_t g = wn_random_below(random, kv->num_kv_heads);
    int64_t channel = wn_random_below(random, view->dim);
    int64_t page = kv->page_table[b * kv->page_table_stride + slot / kv->tokens_per_page];
    size_t bytes = (size_t)c->out_elements * wn_check_bytes_of(c->args.out.dtype);
    wn_tensor before = c->args.out;
    run(c);
    wn_check_store(
        view->data, view->dtype,
        wn_check_element(view, kv->tokens_per_page, page, g, slot % kv->tokens_per_page, channel),
        NAN);
    c->args.out.data = wn_check_output(c->check, bytes);
    run(c);
    for (uint32_t k = 0; k < kv->batch; k++)
        for (int64_t i = 0; i < c->args.q_len[k]; i++)
            for (int64_t h = 0; h < c->heads; h++)
                for (int64_t d = 0; d < c->v_dim; d++) {
                    bool sees = k == b && h / c->group == g && (in_key || d == channel) &&
                                slot <= i + kv->length[b] - c->args.q_len[b];
                    double x = wn_check_at(&c->args.out, c->args.q_begin[k] + i, h, d, 0);
                    double y = wn_check_at(&before, c->args.q_begin[k] + i, h, d, 0);
                    if (sees ? !isnan(x) : x != y)
                        wn_check_fail(c->check, "%s: out[%lld, %lld, %lld] is %g, without NaN %g",
                                      in_key ? "key" : "value", (long long)i, (long long)h,
                                      (long long)d, x, y);
                }
    return true;
}

static void nan_goes_where_it_is_seen(wn_check *check, bool by_kv_head, int count)
{
    for (int i = 0; i < count;) {
        wn_attend_case c;
        wn_check_case(check, "a visible NaN, number %d", i);
        wn_attend_case_make(check, &c, by_kv_head,
                            WN_CASE_PLAIN | (i % 4 == 3 ? WN_CASE_BLOCKS : 0));
        i += spread_nan(&c, i % 2);
        wn_attend_case_free(&c);
    }
}

/* Totals over all heads at one threshold for all requests. */
static wn_attend_counters count_at(wn_attend_case *c, float log_threshold)
{
    float thresholds[WN_CASE_BATCH];
    wn_tile_policy policy = c->policy;
    wn_attend_args args = c->args;
    wn_attend_counters total = {0};
    for (int b = 0; b < WN_CASE_BATCH; b++)
        thresholds[b] = log_threshold;
    policy.kind = WN_TILE_SKIP_SOFTMAX;
    policy.log_threshold = thresholds;
    args.tile = &policy;
    memset(args.counters, 0, (size_t)c->heads * sizeof *args.counters);
    wn_check_equal(c->check, "status", 0, call(c, &args), WN_OK);
    for (int64_t h = 0; h < c->heads; h++) {
        total.tiles_seen += args.counters[h].tiles_seen;
        total.tiles_skipped += args.counters[h].tiles_skipped;
        total.keys_read += args.counters[h].keys_read;
        total.values_read += args.counters[h].values_read;
    }
    return total;
}

/* The higher the threshold, the more is skipped: the running maxima do not depend on it. */
static void thresholds_are_monotone(wn_check *check, bool by_kv_head, int count)
{
    static const float values[] = {-INFINITY, -30, -3, -1, -0.2f, 0};
    for (int i = 0; i < count; i++) {
        wn_attend_case c;
        wn_check_case(check, "thresholds, number %d", i);
        wn_attend_case_make(check, &c, by_kv_head,
                            WN_CASE_POLICY | WN_CASE_COUNTERS | (i % 2 ? WN_CASE_SELECTION : 0));
        wn_attend_counters first = count_at(&c, values[0]), before = first;
        wn_check_equal(check, "skipped at -inf", 0, first.tiles_skipped, 0);
        wn_check_equal(check, "values read at -inf", 0, first.values_read, first.keys_read);
        for (size_t t = 1; t < sizeof values / sizeof values[0]; t++) {
            wn_attend_counters now = count_at(&c, values[t]);
            wn_check_equal(check, "tiles_seen", (int64_t)t, now.tiles_seen, first.tiles_seen);
            wn_check_equal(check, "keys_read", (int64_t)t, now.keys_read, first.keys_read);
            if (now.tiles_skipped < before.tiles_skipped || now.values_read > before.values_read)
                wn_check_fail(check, "threshold %g skips less than a lower one", (double)values[t]);
            before = now;
        }
        wn_attend_case_free(&c);
    }
}

/* The greatest score of all is not below the greatest so far: two passes leave out what one does,
 * and maybe more. */
static void two_passes_skip_more(wn_check *check, int count)
{
    for (int i = 0; i < count; i++) {
        wn_attend_case c;
        wn_check_case(check, "two passes, number %d", i);
        wn_attend_case_make(check, &c, true, WN_CASE_POLICY | WN_CASE_COUNTERS);
        c.policy.kind = WN_TILE_SKIP_SOFTMAX;
        c.policy.flags = 0;
        wn_attend_counters one = count_at(&c, -0.5f);
        c.policy.flags = WN_TILE_TWO_PASS;
        wn_attend_counters two = count_at(&c, -0.5f), all = count_at(&c, INFINITY);
        wn_check_equal(check, "tiles_seen", 0, two.tiles_seen, one.tiles_seen);
        if (two.tiles_skipped < one.tiles_skipped)
            wn_check_fail(check, "%lld tiles are skipped, %lld by one pass",
                          (long long)two.tiles_skipped, (long long)one.tiles_skipped);
        if (all.tiles_seen > 0 && all.tiles_skipped == all.tiles_seen)
            wn_check_fail(check, "no tile with a greatest score was kept");
        wn_attend_case_free(&c);
    }
}

/* -inf never agrees: dense, bit for bit. */
static void infinite_threshold_is_dense(wn_check *check, bool by_kv_head, int count)
{
    for (int i = 0; i < count; i++) {
        wn_attend_case c;
        wn_check_case(check, "threshold -inf is dense, number %d", i);
        wn_attend_case_make(check, &c, by_kv_head,
                            (i % 2 ? WN_CASE_SELECTION : 0) |
                                (by_kv_head && i % 6 > 3 ? WN_CASE_LONG : 0) |
                                (!by_kv_head && i % 4 > 1 ? WN_CASE_BLOCKS : 0));
        run(&c);
        float threshold[WN_CASE_BATCH];
        for (int b = 0; b < WN_CASE_BATCH; b++)
            threshold[b] = -INFINITY;
        wn_tile_policy policy = {.struct_size = WN_SIZEOF(wn_tile_policy),
                                 .kind = WN_TILE_SKIP_SOFTMAX,
                                 .flags = by_kv_head && i % 3 > 0 ? WN_TILE_TWO_PASS : 0,
                                 .tile_k = 16u >> i % 3,
                                 .tile_q = 1u << i % 5,
                                 .log_threshold = threshold};
        for (int64_t b = 0; b < c.args.kv.batch; b++) {
            wn_attend_args one = one_request(&c, b);
            one.tile = &policy;
            wn_check_equal(check, "status", b, call(&c, &one), WN_OK);
            compare_request(&c, &one, one.q_begin[0], one.q_len[0]);
        }
        wn_attend_case_free(&c);
    }
}

/* With eps the dense mass of the keys that the selection lacks and vbar their mean value,
 * exp(lse_sparse - lse_dense) = 1 - eps and dense = eps * vbar + (1 - eps) * sparse, whatever was
 * selected and by whichever rule. */
static void compare_dropped(wn_attend_case *c, const wn_attend_args *dense, int64_t b)
{
    double mass, mean[WN_MAX_HEAD_DIM];
    for (int64_t i = 0; i < c->args.q_len[b]; i++)
        for (int64_t h = 0; h < c->heads; h++) {
            int64_t r = c->args.q_begin[b] + i;
            if (!wn_attend_case_dropped(c, b, i, h, &mass, mean) || mass > 0.999)
                continue;
            double sparse_lse = wn_check_at(&c->args.lse, r, h, 0, 0);
            double dense_lse = wn_check_at(&dense->lse, r, h, 0, 0);
            wn_check_close(c->check, "retained mass", r, exp(sparse_lse - dense_lse), 1 - mass,
                           WN_BF16); /* of a difference of float32, not of an output */
            for (int64_t d = 0; d < c->v_dim; d++) {
                double sparse = wn_check_at(&c->args.out, r, h, d, 0);
                double size = 1 + fabs(sparse) + fabs(mean[d]); /* what the roundings are of */
                wn_check_close(c->check, "eps * vbar + (1 - eps) * sparse", r,
                               (mass * mean[d] + (1 - mass) * sparse) / size,
                               wn_check_at(&dense->out, r, h, d, 0) / size, c->args.out.dtype);
            }
        }
}

static void dropped_mass(wn_check *check, bool by_kv_head, int count)
{
    for (int i = 0; i < count; i++) {
        wn_attend_case c;
        wn_check_case(check, "dropped mass, number %d", i);
        wn_attend_case_make(check, &c, by_kv_head, WN_CASE_SELECTION | WN_CASE_PLAIN);
        int64_t shape[2] = {c.rows, c.heads};
        c.args.lse = wn_check_tensor_out(check, WN_F32, 2, shape);
        wn_attend_args dense = c.args;
        dense.selection = NULL;
        dense.lse = wn_check_tensor_out(check, WN_F32, 2, shape);
        dense.out.data =
            wn_check_output(check, (size_t)c.out_elements * wn_check_bytes_of(c.args.out.dtype));
        wn_check_equal(check, "status", 0, call(&c, &c.args), WN_OK);
        wn_check_equal(check, "status", 0, call(&c, &dense), WN_OK);
        for (int64_t b = 0; b < c.args.kv.batch; b++)
            compare_dropped(&c, &dense, b);
        wn_attend_case_free(&c);
    }
}

/* ---------------------------------------------------------------- refusals */

/* The op must refuse c.args with one change. */
#define REFUSED(c, change, status)                                                                 \
    do {                                                                                           \
        wn_attend_args bad = (c).args;                                                             \
        wn_selection selection = (c).selection;                                                    \
        wn_tile_policy policy = (c).policy;                                                        \
        bad.selection = &selection;                                                                \
        bad.tile = &policy;                                                                        \
        change;                                                                                    \
        if ((c).by_kv_head)                                                                        \
            WN_CHECK_REFUSED((c).check, generation, bad, status);                                  \
        else                                                                                       \
            WN_CHECK_REFUSED((c).check, context, bad, status);                                     \
    } while (0)

static void refusals(wn_check *check, bool by_kv_head)
{
    wn_attend_case c;
    wn_check_case(check, "refusals");
    wn_attend_case_make(check, &c, by_kv_head, WN_CASE_SELECTION | WN_CASE_POLICY);
    while (c.args.kv.batch == 0 || c.selection.rows < 2 || c.args.kv.k.dtype == WN_U8) {
        wn_attend_case_free(&c);
        wn_check_case(check, "refusals");
        wn_attend_case_make(check, &c, by_kv_head, WN_CASE_SELECTION | WN_CASE_POLICY);
    }
    REFUSED(c, bad.struct_size = 8, WN_EINVAL);
    REFUSED(c, bad.q.dtype = WN_F64, WN_EUNSUPPORTED);
    REFUSED(c, bad.q.shape[2]++, WN_EINVAL);
    REFUSED(c, bad.out.shape[1]++, WN_EINVAL);
    REFUSED(c, bad.q.shape[0] = -1, WN_EINVAL);
    REFUSED(c, bad.kv.k.dtype = WN_I64, WN_EUNSUPPORTED);
    REFUSED(c, bad.kv.v.layout = WN_LAYOUT_VEC_K, WN_EINVAL);
    REFUSED(c, bad.kv.num_kv_heads = 0, WN_EINVAL);
    REFUSED(c, bad.softmax_scale = NAN, WN_EINVAL);
    REFUSED(c, bad.window = -1, WN_EINVAL);
    REFUSED(c, bad.selection_row = NULL, WN_EINVAL);
    REFUSED(c, selection.index_space = WN_INDEX_LOGICAL, WN_EINVAL);
    REFUSED(c, selection.rows = 0, WN_EINVAL);
    REFUSED(c, selection.flags = 0, WN_EINVAL);
    REFUSED(c, policy.tile_k = 257, WN_EINVAL);
    REFUSED(c, policy.kind = 3, WN_EINVAL);
    REFUSED(c, (policy.kind = WN_TILE_VOTE, policy.vote = NULL), WN_EINVAL);
    REFUSED(c, (policy.kind = WN_TILE_VOTE, policy.flags = WN_TILE_TWO_PASS), WN_EINVAL);
    REFUSED(c, policy.flags = WN_TILE_TWO_PASS << 1, WN_EINVAL);
    if (!by_kv_head)
        REFUSED(c, (policy.kind = WN_TILE_SKIP_SOFTMAX, policy.flags = WN_TILE_TWO_PASS),
                WN_EINVAL);
    wn_attend_case_free(&c);
}

static void all(wn_check *check, bool by_kv_head)
{
    random_cases(check, by_kv_head, 0, 40);
    random_cases(check, by_kv_head, WN_CASE_PLAIN | WN_CASE_COUNTERS, 10);
    random_cases(check, by_kv_head, WN_CASE_SELECTION | WN_CASE_COUNTERS, 40);
    random_cases(check, by_kv_head, WN_CASE_POLICY | WN_CASE_COUNTERS, 40);
    random_cases(check, by_kv_head, WN_CASE_SELECTION | WN_CASE_POLICY | WN_CASE_COUNTERS, 40);
    for (uint32_t wanted = 0; wanted < 4 && !by_kv_head; wanted++)
        random_cases(check, by_kv_head, wanted | WN_CASE_BLOCKS | WN_CASE_COUNTERS, 5);
    batch_invariance(check, by_kv_head, 12);
    thresholds_are_monotone(check, by_kv_head, 12);
    infinite_threshold_is_dense(check, by_kv_head, 12);
    if (by_kv_head) {
        two_passes_skip_more(check, 12);
        workspace_changes_nothing(check, 8);
    }
    dropped_mass(check, by_kv_head, 12);
    nan_goes_where_it_is_seen(check, by_kv_head, 36);
    refusals(check, by_kv_head);
}

void wn_check_context(wn_check *check)
{
    all(check, false);
}

void wn_check_generation(wn_check *check)
{
    all(check, true);
}

/* ---------------------------------------------------------------- merge_states */

/* [parts][rows][heads]; about a third have no weight, and then NaN for an output. */
static void make_parts(wn_check *check, wn_merge_states_args *a, uint32_t dtype)
{
    uint64_t *random = &check->random;
    int64_t shape[4] = {wn_random_below(random, 5), wn_random_below(random, 6),
                        1 + wn_random_below(random, 5), 1 + wn_random_below(random, 130)};
    a->parts = wn_check_tensor(check, dtype, WN_DATA_NOISE, 4, shape);
    a->parts_lse = wn_check_tensor(check, WN_F32, WN_DATA_PEAKED, 3, shape);
    float *lse = a->parts_lse.data;
    for (int64_t i = 0; i < shape[0] * shape[1] * shape[2]; i++) {
        if (wn_random_below(random, 3) > 0)
            continue;
        lse[i] = -INFINITY;
        for (int64_t d = 0; d < shape[3]; d++)
            wn_check_store(a->parts.data, dtype, i * shape[3] + d, NAN);
    }
    a->out = wn_check_tensor_out(check, dtype, 3, shape + 1);
    if (wn_random_below(random, 4))
        a->lse = wn_check_tensor_out(check, WN_F32, 2, shape + 1);
}

static void compare_merged(wn_check *check, const wn_merge_states_args *a, int64_t r, int64_t h)
{
    double sum = 0;
    for (int64_t p = 0; p < a->parts.shape[0]; p++)
        sum += exp(wn_check_at(&a->parts_lse, p, r, h, 0)); /* at most e^6: needs no maximum */
    for (int64_t d = 0; d < a->parts.shape[3]; d++) {
        double expected = 0;
        for (int64_t p = 0; p < a->parts.shape[0]; p++) {
            double weight = exp(wn_check_at(&a->parts_lse, p, r, h, 0));
            if (weight > 0)
                expected += weight / sum * wn_check_at(&a->parts, p, r, h, d);
        }
        wn_check_close(check, "out", d, wn_check_at(&a->out, r, h, d, 0), expected, a->out.dtype);
    }
    if (a->lse.data != NULL)
        wn_check_close(check, "lse", r, wn_check_at(&a->lse, r, h, 0, 0), log(sum), WN_F32);
}

/* Selects the first third of each request's keys, or the rest. slots, offsets, row: room for it. */
static wn_selection third_or_rest(const wn_attend_case *c, bool rest, int32_t *slots,
                                  int32_t *offsets, int32_t *row)
{
    uint32_t batch = c->args.kv.batch;
    offsets[0] = 0;
    for (uint32_t b = 0; b < batch; b++) {
        int32_t length = c->args.kv.length[b], cut = length / 3;
        row[b] = (int32_t)b;
        offsets[b + 1] = offsets[b];
        for (int32_t j = rest ? cut : 0; j < (rest ? length : cut); j++)
            slots[offsets[b + 1]++] = j;
    }
    return (wn_selection){.struct_size = WN_SIZEOF(wn_selection),
                          .block_size = 1,
                          .index_space = WN_INDEX_PHYSICAL,
                          .flags = WN_SELECTION_SORTED,
                          .query_block = 1000,
                          .rows = batch,
                          .indices = slots,
                          .offsets = offsets};
}

/* One index of the first dimension. */
static wn_tensor part_of(const wn_tensor *whole, int64_t index)
{
    wn_tensor part = *whole;
    part.ndim--;
    part.data = (float *)whole->data + index * whole->stride[0];
    for (uint32_t i = 0; i < WN_MAX_DIMS; i++) {
        part.shape[i] = i < part.ndim ? whole->shape[i + 1] : 0;
        part.stride[i] = i < part.ndim ? whole->stride[i + 1] : 0;
    }
    return part;
}

/* The parts' outputs and LSE were rounded to float32: the error is relative to the parts, which may
 * cancel in the whole. */
static void compare_whole(const wn_attend_case *c, const wn_merge_states_args *merge)
{
    for (int64_t r = 0; r < c->rows; r++)
        for (int64_t h = 0; h < c->heads && c->used[r]; h++) {
            int64_t at = r * c->heads + h;
            wn_check_close(c->check, "lse", at, wn_check_at(&merge->lse, r, h, 0, 0), c->lse[at],
                           WN_F16);
            for (int64_t d = 0; d < c->v_dim; d++) {
                double actual = wn_check_at(&merge->out, r, h, d, 0);
                double expected = c->out[at * c->v_dim + d];
                double size = 1 + fabs(wn_check_at(&merge->parts, 0, r, h, d)) +
                              fabs(wn_check_at(&merge->parts, 1, r, h, d));
                if (!(fabs(actual - expected) <= 1e-4 * size))
                    wn_check_fail(c->check, "out[%lld] is %g, expected %g",
                                  (long long)(at * c->v_dim + d), actual, expected);
            }
        }
}

/* Attention over some keys and over the others, merged, is attention over all of them. */
static void merge_of_parts(wn_check *check, int count)
{
    for (int i = 0; i < count; i++) {
        wn_attend_case c;
        wn_check_case(check, "parts of attention, number %d", i);
        wn_attend_case_make(check, &c, false, WN_CASE_PLAIN);
        int32_t row[WN_CASE_BATCH], offsets[WN_CASE_BATCH + 1];
        int32_t *slots =
            wn_check_input(check, (size_t)(c.args.kv.batch * c.longest) * sizeof *slots);
        int64_t shape[4] = {2, c.rows, c.heads, c.v_dim};
        wn_merge_states_args merge = {.struct_size = WN_SIZEOF(wn_merge_states_args),
                                      .parts = wn_check_tensor_out(check, WN_F32, 4, shape),
                                      .parts_lse = wn_check_tensor_out(check, WN_F32, 3, shape),
                                      .out = wn_check_tensor_out(check, WN_F32, 3, shape + 1),
                                      .lse = wn_check_tensor_out(check, WN_F32, 2, shape + 1)};
        for (int part = 0; part < 2; part++) {
            wn_selection selection = third_or_rest(&c, part == 1, slots, offsets, row);
            wn_attend_args args = c.args;
            args.selection = &selection;
            args.selection_row = row;
            args.out = part_of(&merge.parts, part);
            args.lse = part_of(&merge.parts_lse, part);
            wn_check_equal(check, "status", part, check->ops->context(&args), WN_OK);
        }
        wn_check_equal(check, "status", 2, check->ops->merge_states(&merge), WN_OK);
        compare_whole(&c, &merge);
        wn_attend_case_free(&c);
    }
}

void wn_check_merge_states(wn_check *check)
{
    static const uint32_t dtypes[] = {WN_F32, WN_F16, WN_BF16};
    for (int i = 0; i < 60; i++) {
        wn_check_case(check, "random, number %d", i);
        wn_merge_states_args a = {.struct_size = WN_SIZEOF(wn_merge_states_args)};
        make_parts(check, &a, dtypes[i % 3]);
        WN_CHECK_RUN(check, merge_states, a);
        for (int64_t r = 0; r < a.parts.shape[1]; r++)
            for (int64_t h = 0; h < a.parts.shape[2]; h++)
                compare_merged(check, &a, r, h);
        a.out.shape[2]++;
        WN_CHECK_REFUSED(check, merge_states, a, WN_EINVAL);
    }
    merge_of_parts(check, 10);
}
