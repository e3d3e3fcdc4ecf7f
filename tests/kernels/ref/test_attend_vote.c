/* test_attend_vote.c: votes on tiles, followed by hand. */
#include "suite.h"
#include "tiny_attention.h"

static void run(tiny_attention *t, const wn_tile_policy *policy)
{
    t->args.tile = policy;
    CU_ASSERT_EQUAL_FATAL(wn_ref_context(&t->args), WN_OK);
}

/* Tiles of 2 keys: maxima 1, 5, 3, 4.9, 5: at ln(lambda) = -1 only the third goes. The second is
 * above what came before it, the fourth 0.1 below, the fifth equal. */
static void a_tile_goes(void)
{
    static const float scores[] = {1, 0, 5, 4, 3, 2, 4.9f, 0, 5, 1};
    float log_threshold = -1;
    wn_tile_policy policy = {.struct_size = WN_SIZEOF(wn_tile_policy),
                             .kind = WN_TILE_SKIP_SOFTMAX,
                             .tile_k = 2,
                             .log_threshold = &log_threshold};
    tiny_attention t;
    tiny_attention_make(&t, 10, scores, 1);
    run(&t, &policy);
    CU_ASSERT_EQUAL(t.counters.tiles_seen, 5);
    CU_ASSERT_EQUAL(t.counters.tiles_skipped, 1);
    CU_ASSERT_EQUAL(t.counters.keys_read, 10);
    CU_ASSERT_EQUAL(t.counters.values_read, 8);
    double sum = 0, value = 0;
    for (int j = 0; j < 10; j++)
        if (j / 2 != 2) {
            sum += exp((double)scores[j]);
            value += j * exp((double)scores[j]);
        }
    CU_ASSERT_DOUBLE_EQUAL(t.out[0], value / sum, 1e-6);
    CU_ASSERT_DOUBLE_EQUAL(t.lse[0], log(sum), 1e-6);
}

/* The second of two rows is alone in seeing the last key, which is the greatest, so the tile that
 * the first row would leave out stays. */
static void one_row_is_a_veto(void)
{
    static const float scores[] = {5, 0, 1, 9};
    float log_threshold = -1;
    wn_tile_policy policy = {.struct_size = WN_SIZEOF(wn_tile_policy),
                             .kind = WN_TILE_SKIP_SOFTMAX,
                             .tile_k = 2,
                             .log_threshold = &log_threshold};
    tiny_attention t;
    tiny_attention_make(&t, 4, scores, 2);
    run(&t, &policy);
    CU_ASSERT_EQUAL(t.counters.tiles_skipped, 0);
    policy.tile_q = 1;
    t.counters = (wn_attend_counters){0};
    run(&t, &policy);
    CU_ASSERT_EQUAL(t.counters.tiles_seen, 4);
    CU_ASSERT_EQUAL(t.counters.tiles_skipped, 1);
    CU_ASSERT_DOUBLE_EQUAL(t.lse[0], log(exp(5) + exp(0)), 1e-6);
}

typedef struct record {
    int calls;
    uint32_t rows[8];
    double tile_max[8], running_max[8];
    int64_t first_key[8];
    int32_t answer;
} record;

static int32_t note(void *context, const wn_tile_stats *stats)
{
    record *r = context;
    r->rows[r->calls] = stats->rows;
    r->tile_max[r->calls] = stats->tile_max[0];
    r->running_max[r->calls] = stats->running_max[0];
    r->first_key[r->calls++] = stats->first_key;
    return r->answer;
}

static void what_a_vote_is_told(void)
{
    static const float scores[] = {1, 0, 5, 4, 3, 2, 9};
    record r = {.answer = 1};
    wn_tile_policy policy = {.struct_size = WN_SIZEOF(wn_tile_policy),
                             .kind = WN_TILE_VOTE,
                             .tile_k = 2,
                             .context = &r,
                             .vote = note};
    tiny_attention t;
    tiny_attention_make(&t, 7, scores, 2); /* the first query does not see the last key */
    run(&t, &policy);
    CU_ASSERT_EQUAL_FATAL(r.calls, 3); /* not about the first tile */
    CU_ASSERT_EQUAL(r.rows[0], 2);
    CU_ASSERT_EQUAL(r.first_key[0], 2);
    CU_ASSERT_EQUAL(r.tile_max[0], 5);
    CU_ASSERT_EQUAL(r.running_max[0], 5);
    CU_ASSERT_EQUAL(r.tile_max[1], 3);
    CU_ASSERT_EQUAL(r.running_max[1], 3); /* the tile of 5 was left out and changed nothing */
    CU_ASSERT_EQUAL(r.rows[2], 1);
    CU_ASSERT_EQUAL(r.tile_max[2], 9);
    CU_ASSERT_EQUAL(t.counters.tiles_skipped, 3);
    CU_ASSERT_DOUBLE_EQUAL(t.lse[1], log(exp(1) + exp(0)), 1e-6);
}

/* Maxima 1, 3, 5, 4.9, 2 at ln(lambda) = -1: one pass leaves out the last alone, two the first and
 * the second too, in whatever order they come. A threshold above 0 leaves the greatest. */
static void two_passes(void)
{
    static const float scores[2][10] = {{1, 0, 3, 2, 5, 4, 4.9f, 0, 2, 1},
                                        {2, 1, 5, 4, 1, 0, 4.9f, 0, 3, 2}};
    float log_threshold = -1;
    wn_tile_policy policy = {.struct_size = WN_SIZEOF(wn_tile_policy),
                             .kind = WN_TILE_SKIP_SOFTMAX,
                             .flags = WN_TILE_TWO_PASS,
                             .tile_k = 2,
                             .log_threshold = &log_threshold};
    tiny_attention t;
    for (int order = 0; order < 2; order++) {
        log_threshold = -1;
        tiny_attention_make(&t, 10, scores[order], 1);
        t.args.tile = &policy;
        CU_ASSERT_EQUAL(wn_ref_generation(&t.args), WN_OK);
        CU_ASSERT_EQUAL(t.counters.tiles_seen, 5);
        CU_ASSERT_EQUAL(t.counters.tiles_skipped, 3);
        CU_ASSERT_EQUAL(t.counters.keys_read, 10);
        CU_ASSERT_EQUAL(t.counters.values_read, 4);
        CU_ASSERT_DOUBLE_EQUAL(t.lse[0], log(exp(5) + exp(4) + exp(4.9f) + exp(0)), 1e-6);
        log_threshold = 100;
        CU_ASSERT_EQUAL(wn_ref_generation(&t.args), WN_OK);
        CU_ASSERT_EQUAL(t.counters.tiles_skipped, 3 + 4);
        CU_ASSERT_DOUBLE_EQUAL(t.lse[0], log(exp(5) + exp(4)), 1e-6);
    }
    policy.flags = 0;
    log_threshold = -1;
    tiny_attention_make(&t, 10, scores[0], 1);
    t.args.tile = &policy;
    CU_ASSERT_EQUAL(wn_ref_generation(&t.args), WN_OK);
    CU_ASSERT_EQUAL(t.counters.tiles_skipped, 1);
}

static void nan_never_agrees(void)
{
    static const float scores[] = {5, NAN, 1, 0};
    float log_threshold = -1;
    wn_tile_policy policy = {.struct_size = WN_SIZEOF(wn_tile_policy),
                             .kind = WN_TILE_SKIP_SOFTMAX,
                             .tile_k = 2,
                             .log_threshold = &log_threshold};
    tiny_attention t;
    tiny_attention_make(&t, 4, scores, 1);
    run(&t, &policy);
    CU_ASSERT_EQUAL(t.counters.tiles_skipped, 0);
    CU_ASSERT_TRUE(isnan(t.out[0]));
}

static void too_many_voters(void)
{
    static const float scores[] = {1, 2, 3, 4};
    float log_threshold = -1;
    wn_tile_policy policy = {.struct_size = WN_SIZEOF(wn_tile_policy),
                             .kind = WN_TILE_SKIP_SOFTMAX,
                             .log_threshold = &log_threshold};
    static float q[WN_MAX_VOTING_ROWS + 1], out[WN_MAX_VOTING_ROWS + 1];
    tiny_attention t;
    tiny_attention_make(&t, 4, scores, 1);
    t.args.q.data = q;
    t.args.out.data = out;
    t.args.lse.data = NULL;
    t.q_len = WN_MAX_VOTING_ROWS + 1;
    t.args.q.shape[0] = t.args.out.shape[0] = t.q_len;
    t.args.tile = &policy;
    CU_ASSERT_EQUAL(wn_ref_generation(&t.args), WN_EUNSUPPORTED);
    t.q_len--;
    CU_ASSERT_EQUAL(wn_ref_generation(&t.args), WN_OK);
}

WN_SUITE("kernels.ref.attend_vote", {"a tile goes", a_tile_goes},
         {"one row is a veto", one_row_is_a_veto}, {"what a vote is told", what_a_vote_is_told},
         {"two passes", two_passes}, {"NaN never agrees", nan_never_agrees},
         {"too many voters", too_many_voters})
