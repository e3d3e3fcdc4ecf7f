/* test_merge_states.c: merging attention outputs, followed by hand. */
#include "kernels/ref/ref.h"
#include "suite.h"

#include <math.h>

enum { PARTS = 3, DIM = 2 };

typedef struct merge {
    float parts[PARTS * DIM], lse[PARTS], out[DIM], total;
    wn_merge_states_args args;
} merge;

static void make(merge *m, int64_t parts)
{
    m->args = (wn_merge_states_args){
        .struct_size = WN_SIZEOF(wn_merge_states_args),
        .parts = {.data = m->parts,
                  .shape = {parts, 1, 1, DIM},
                  .stride = {DIM, DIM, DIM, 1},
                  .dtype = WN_F32,
                  .ndim = 4},
        .parts_lse = {.data = m->lse,
                      .shape = {parts, 1, 1},
                      .stride = {1, 1, 1},
                      .dtype = WN_F32,
                      .ndim = 3},
        .out = {.data = m->out,
                .shape = {1, 1, DIM},
                .stride = {DIM, DIM, 1},
                .dtype = WN_F32,
                .ndim = 3},
        .lse = {.data = &m->total, .shape = {1, 1}, .stride = {1, 1}, .dtype = WN_F32, .ndim = 2}};
}

static void weights_are_exponentials(void)
{
    merge m = {.parts = {1, 10, 4, 40}, .lse = {0, (float)log(2)}};
    make(&m, 2);
    CU_ASSERT_EQUAL(wn_ref_merge_states(&m.args), WN_OK);
    CU_ASSERT_DOUBLE_EQUAL(m.out[0], 3, 1e-6); /* 1/3 * 1 + 2/3 * 4 */
    CU_ASSERT_DOUBLE_EQUAL(m.out[1], 30, 1e-5);
    CU_ASSERT_DOUBLE_EQUAL(m.total, log(3), 1e-6);
}

static void parts_without_keys_are_not_read(void)
{
    merge m = {.parts = {NAN, NAN, 4, 40, NAN, 1}, .lse = {-INFINITY, 1000, -INFINITY}};
    make(&m, 3);
    CU_ASSERT_EQUAL(wn_ref_merge_states(&m.args), WN_OK);
    CU_ASSERT_EQUAL(m.out[0], 4);
    CU_ASSERT_EQUAL(m.total, 1000);
}

static void nothing_at_all(void)
{
    merge m = {.parts = {NAN, NAN, NAN, NAN}, .lse = {-INFINITY, -INFINITY}, .out = {7, 7}};
    make(&m, 2);
    CU_ASSERT_EQUAL(wn_ref_merge_states(&m.args), WN_OK);
    CU_ASSERT_EQUAL(m.out[0], 0);
    CU_ASSERT_EQUAL(m.total, -INFINITY);
    m.out[0] = 7;
    make(&m, 0);
    CU_ASSERT_EQUAL(wn_ref_merge_states(&m.args), WN_OK);
    CU_ASSERT_EQUAL(m.out[0], 0);
}

WN_SUITE("kernels.ref.merge_states", {"weights are exponentials", weights_are_exponentials},
         {"parts without keys are not read", parts_without_keys_are_not_read},
         {"nothing at all", nothing_at_all})
