/* test_attend.c: what the reference promises beyond what every variant must: equal bits for
 * everything that is the same attention said in another way. */
#include "kernels/attend_case.h"
#include "kernels/kernels.h"

#include <pthread.h>

static bool is_reference(wn_check *check)
{
    wn_check_case(check, "reference only");
    return strcmp(check->variant, "ref") == 0;
}

static void compare_outputs(wn_attend_case *c, const wn_attend_args *other)
{
    size_t bytes = (size_t)c->out_elements * wn_check_bytes_of(c->args.out.dtype);
    wn_check_bytes(c->check, "out", other->out.data, c->args.out.data, bytes);
}

/* Like args, with memory of its own for the output. */
static wn_attend_args beside(wn_attend_case *c)
{
    wn_attend_args args = c->args;
    args.out.data =
        wn_check_output(c->check, (size_t)c->out_elements * wn_check_bytes_of(args.out.dtype));
    args.lse.data = NULL;
    args.counters = NULL;
    return args;
}

/* Without tile votes the two ops are one function. */
static void context_is_generation(wn_check *check)
{
    if (!is_reference(check))
        return;
    for (int i = 0; i < 30; i++) {
        wn_attend_case c;
        wn_check_case(check, "context is generation, number %d", i);
        wn_attend_case_make(check, &c, false, i % 2 ? WN_CASE_SELECTION : 0);
        wn_attend_args other = beside(&c);
        wn_check_equal(check, "status", 0, check->ops->context(&c.args), WN_OK);
        wn_check_equal(check, "status", 1, check->ops->generation(&other), WN_OK);
        compare_outputs(&c, &other);
        wn_attend_case_free(&c);
    }
}

/* Every block selected is no selection, whatever the blocks and the tiles. */
static void everything_selected_is_dense(wn_check *check)
{
    if (!is_reference(check))
        return;
    for (int i = 0; i < 30; i++) {
        wn_attend_case c;
        wn_check_case(check, "everything selected is dense, number %d", i);
        /* Runs shorter than tiles would be other voting units, so no votes every other time. */
        wn_attend_case_make(check, &c, i % 3 == 0, i % 2 ? WN_CASE_POLICY : 0);
        int64_t blocks = c.longest / (1 + i % 5) + 1;
        int32_t *list = wn_check_input(check, (size_t)blocks * sizeof *list);
        int32_t offsets[] = {0, (int32_t)blocks}, rows[WN_CASE_BATCH] = {0};
        for (int64_t j = 0; j < blocks; j++)
            list[j] = (int32_t)j;
        wn_selection all = {.struct_size = WN_SIZEOF(wn_selection),
                            .block_size = 1u + i % 5,
                            .index_space = WN_INDEX_PHYSICAL,
                            .flags = WN_SELECTION_SORTED,
                            .query_block = 1000,
                            .rows = 1,
                            .indices = list,
                            .offsets = offsets};
        wn_attend_args other = beside(&c);
        other.selection = &all;
        other.selection_row = rows;
        other.granularity = i % 4 == 0;
        wn_status (*op)(const wn_attend_args *) =
            c.by_kv_head ? check->ops->generation : check->ops->context;
        wn_check_equal(check, "status", 0, op(&c.args), WN_OK);
        wn_check_equal(check, "status", 1, op(&other), WN_OK);
        compare_outputs(&c, &other);
        wn_attend_case_free(&c);
    }
}

/* A prompt in chunks of uneven size gives the bits of the whole. */
static void chunks_are_the_whole(wn_check *check)
{
    if (!is_reference(check))
        return;
    for (int i = 0; i < 30; i++) {
        wn_attend_case c;
        wn_check_case(check, "chunks, number %d", i);
        wn_attend_case_make(check, &c, false, 0);
        if (c.args.causal == 0) { /* keys of later chunks would be seen */
            wn_attend_case_free(&c);
            continue;
        }
        wn_attend_args part = beside(&c);
        int32_t begin[WN_CASE_BATCH], len[WN_CASE_BATCH], length[WN_CASE_BATCH];
        wn_check_equal(check, "status", 0, check->ops->context(&c.args), WN_OK);
        int32_t done[WN_CASE_BATCH] = {0};
        part.q_begin = begin;
        part.q_len = len;
        part.kv.length = length;
        for (bool more = true; more;) {
            more = false;
            for (uint32_t b = 0; b < c.args.kv.batch; b++) {
                int32_t n = c.args.q_len[b], left = n - done[b];
                len[b] = (int32_t)wn_random_below(&check->random, 9);
                len[b] = len[b] < left ? len[b] : left;
                begin[b] = c.args.q_begin[b] + done[b];
                done[b] += len[b];
                /* Queries before the first key have no chunk of their own: they come with it. */
                while (c.args.kv.length[b] - n + done[b] < 0)
                    done[b]++, len[b]++;
                length[b] = c.args.kv.length[b] - n + done[b];
                more |= done[b] < n;
            }
            wn_check_equal(check, "status", 1, check->ops->context(&part), WN_OK);
        }
        compare_outputs(&c, &part);
        wn_attend_case_free(&c);
    }
}

/* An executor's thread may have a stack of no more than 512 KiB. */
static void *votes_in_a_thread(void *argument)
{
    const wn_attend_args *args = argument;
    if (args->tile->flags == 0) /* two passes are generation's */
        CU_ASSERT_EQUAL(wn_kernels_variant("ref")->context(args), WN_OK);
    CU_ASSERT_EQUAL(wn_kernels_variant("ref")->generation(args), WN_OK);
    return NULL;
}

static void a_small_stack(wn_check *check)
{
    for (int i = 0; i < 10 && is_reference(check); i++) {
        wn_attend_case c;
        pthread_attr_t small;
        pthread_t thread;
        wn_attend_case_make(check, &c, true, WN_CASE_POLICY | WN_CASE_COUNTERS);
        CU_ASSERT_EQUAL(pthread_attr_init(&small), 0);
        CU_ASSERT_EQUAL(pthread_attr_setstacksize(&small, 512 * 1024), 0);
        CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, &small, votes_in_a_thread, &c.args), 0);
        pthread_join(thread, NULL);
        pthread_attr_destroy(&small);
        wn_attend_case_free(&c);
    }
}

static void test_context_is_generation(void)
{
    wn_check_every_variant("context", wn_test_seed(), context_is_generation);
}

static void test_everything_selected(void)
{
    wn_check_every_variant("context", wn_test_seed(), everything_selected_is_dense);
}

static void test_chunks(void)
{
    wn_check_every_variant("context", wn_test_seed(), chunks_are_the_whole);
}

static void test_small_stack(void)
{
    wn_check_every_variant("generation", wn_test_seed(), a_small_stack);
}

WN_SUITE("kernels.ref.attend", {"context is generation", test_context_is_generation},
         {"everything selected is dense", test_everything_selected},
         {"chunks are the whole", test_chunks}, {"a small stack", test_small_stack})
