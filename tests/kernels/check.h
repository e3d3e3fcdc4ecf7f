/* check.h: the harness that every variant of every op is checked with, in the manner of checkasm.
 *
 * A check is a function wn_check_<op>(check): it makes cases, runs the op of check->ops on each and
 * compares with an oracle of its own, written in doubles from the formulas in winnow/ops.h; it must
 * not use the code under kernels/. One case:
 *
 *     wn_check_case(check, "rows %d, n %d", rows, n);
 *     float *in = wn_check_input(check, rows * n * 4);     fill it
 *     float *out = wn_check_output(check, rows * n * 4);   0xff everywhere: NaN, -1
 *     wn_pool_max_args args = {...};                       executor and error: set by WN_CHECK_RUN
 *     WN_CHECK_RUN(check, pool_max, args);
 *     wn_check_close(check, "out", i, out[i], expected, WN_F32);
 *
 * Each buffer lies between guard pages; an access outside kills the program at the guilty line.
 * WN_CHECK_RUN calls the op serially and then with executors of 1 (which goes backwards), 2 and 3
 * threads, each time from the same contents of the output buffers, and fails if the bits differ or
 * an input has changed. Buffers live until the next wn_check_case. */
#ifndef WN_TESTS_CHECK_H
#define WN_TESTS_CHECK_H

#include "suite.h"
#include "winnow/ops.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

typedef struct wn_check wn_check;
struct wn_check {
    const char *op, *variant;
    const wn_ops *ops; /* the table under check */
    uint64_t random;   /* state for wn_random(&check->random) */
    char text[256];    /* the case, for failures */
    uint32_t cases, failures;
    bool quiet;                   /* count failures, print nothing */
    struct wn_check_state *state; /* the harness's own */
};

/* ---- cases, memory, runs: check_harness.c */

/* Begins a case: frees the buffers of the one before. */
void wn_check_case(wn_check *check, const char *format, ...) WN_PRINTF(2, 3);

/* Memory between guard pages, filled with 0xff. Never NULL, `bytes` may be 0. Half of the buffers
 * end at a guard page, half begin after one. bytes must be a multiple of the element's size, so
 * that both ends are aligned for it. input: the op must leave it as it is. output: may be written;
 * what the case puts there before the run is there before each run. */
void *wn_check_input(wn_check *check, size_t bytes);
void *wn_check_output(wn_check *check, size_t bytes);
/* An input of `count` int32s. */
int32_t *wn_check_ints(wn_check *check, size_t count);
/* A copy for the oracle's own use, to be freed; `bytes` may be 0, and data NULL with it. */
void *wn_check_copy(const void *data, size_t bytes);

/* Runs check->ops->op(&args) under all executors. args.executor and args.error are set here. */
#define WN_CHECK_RUN(check, op_, args)                                                             \
    for (wn_check_begin(check); wn_check_next(check, &(args).executor, &(args).error);)            \
    wn_check_ran(check, (check)->ops->op_(&(args)))
/* The op must refuse with `expected`, say why, and have written nothing. */
#define WN_CHECK_REFUSED(check, op_, args, expected)                                               \
    do {                                                                                           \
        wn_check_begin_refused(check, &(args).executor, &(args).error);                            \
        wn_check_refused(check, (check)->ops->op_(&(args)), expected);                             \
    } while (0)
void wn_check_begin(wn_check *check);
bool wn_check_next(wn_check *check, const wn_executor **executor, wn_error **error);
void wn_check_ran(wn_check *check, wn_status status);
void wn_check_begin_refused(wn_check *check, const wn_executor **executor, wn_error **error);
void wn_check_refused(wn_check *check, wn_status status, wn_status expected);

/* Runs a check on every variant that this machine has, or on the one that the environment variable
 * WN_TEST_VARIANT names; CUnit assertions inside. seed: the suite's, wn_test_seed() (which is known
 * in the file of main() alone). */
void wn_check_every_variant(const char *op, uint64_t seed, void (*run)(wn_check *check));
/* Runs a check on one table. Returns how often it failed; quiet: without a word. */
uint32_t wn_check_table(const char *op, const char *variant, const wn_ops *ops, uint64_t seed,
                        void (*run)(wn_check *check), bool quiet);

/* An executor of this many threads that belongs to the harness; 0: NULL. Items run backwards on 1
 * thread, so that an order that the caller may not rely on is not the usual one. */
const wn_executor *wn_check_executor(uint32_t num_threads);

/* ---- comparing: check_harness.c. Each prints op, variant, case, name, index and both values, and
 * counts one failure; only the first few of a case are printed. */

/* |actual - expected| within the tolerance of (check->op, dtype); NaN equals NaN, infinities are
 * equal only to themselves. */
bool wn_check_close(wn_check *check, const char *name, int64_t index, double actual,
                    double expected, uint32_t dtype);
/* The same with `more` allowed: what the rounding of this value's own operands can do to it. */
bool wn_check_near(wn_check *check, const char *name, int64_t index, double actual, double expected,
                   uint32_t dtype, double more);
bool wn_check_equal(wn_check *check, const char *name, int64_t index, int64_t actual,
                    int64_t expected);
bool wn_check_bytes(wn_check *check, const char *name, const void *actual, const void *expected,
                    size_t bytes);
/* All bytes are still 0xff. */
bool wn_check_untouched(wn_check *check, const char *name, const void *data, size_t bytes);
void wn_check_fail(wn_check *check, const char *format, ...) WN_PRINTF(2, 3);

/* The one table of tolerances: |actual - expected| <= absolute + relative * |expected|. dtype is
 * the output's; 0: any. The first line that fits counts; where none does, both are 0. */
typedef struct wn_tolerance {
    const char *op;
    uint32_t dtype;
    double absolute, relative;
} wn_tolerance;
/* X(op, dtype, absolute, relative) */
#define WN_TOLERANCES(X)                                                                           \
    X("append", WN_F32, 1e-6, 1e-6) /* sin and cos may be float polynomials */                     \
    X("append", WN_F16, 1e-6, 0x1p-10)                                                             \
    X("append", WN_BF16, 1e-6, 0x1p-7)                                                             \
    X("context", WN_F32, 2e-5, 2e-5)                                                               \
    X("context", WN_F16, 2e-3, 2e-3)                                                               \
    X("context", WN_BF16, 1e-2, 1e-2)                                                              \
    X("generation", WN_F32, 2e-5, 2e-5)                                                            \
    X("generation", WN_F16, 2e-3, 2e-3)                                                            \
    X("generation", WN_BF16, 1e-2, 1e-2)                                                           \
    X("merge_states", WN_F32, 1e-6, 1e-6)                                                          \
    X("merge_states", WN_F16, 1e-6, 0x1p-10)                                                       \
    X("merge_states", WN_BF16, 1e-6, 0x1p-7)                                                       \
    X("mla", WN_F32, 2e-5, 2e-5)                                                                   \
    X("mla", WN_F16, 2e-3, 2e-3)                                                                   \
    X("mla", WN_BF16, 1e-2, 1e-2)                                                                  \
    X("window_scores", WN_F32, 1e-6, 2e-5)                                                         \
    X("landmark_scores", WN_F32, 1e-6, 2e-5)                                                       \
    X("rope", WN_F32, 1e-6, 1e-6)                                                                  \
    X("rope", WN_F16, 1e-6, 0x1p-10)                                                               \
    X("rope", WN_BF16, 1e-6, 0x1p-7)                                                               \
    X("hadamard", WN_F32, 1e-9, 0x1p-23)                                                           \
    X("hadamard", WN_F16, 0x1p-24, 0x1p-10)                                                        \
    X("hadamard", WN_BF16, 1e-9, 0x1p-7)                                                           \
    X("indexer_append", 0, 0, 0)                                                                   \
    X("indexer_topk", WN_F32, 1, 0) /* in bounds of the error: check_indexer.c derives them */     \
    X("quantise", 0, 0, 0)                                                                         \
    X("dequantise", WN_F32, 0x1p-149, 0x1p-23)                                                     \
    X("dequantise", WN_F16, 0x1p-24, 0x1p-10)                                                      \
    X("dequantise", WN_BF16, 0x1p-133, 0x1p-7)                                                     \
    X("pool_max", 0, 0, 0)                                                                         \
    X("landmark_update", 0, 0, 0)

/* ---- numbers: check_numbers.c. Written apart from kernels/number_format.h, in other ways. */

uint32_t wn_check_bytes_of(uint32_t dtype);
/* Element `index` of an array. */
double wn_check_load(const void *data, uint32_t dtype, int64_t index);
/* Nearest representable number, ties to even, saturating as ops.h says. */
double wn_check_round(uint32_t dtype, double value);
/* Stores wn_check_round(value). */
void wn_check_store(void *data, uint32_t dtype, int64_t index, double value);

/* What random data look like. The value of (token, channel) is a pure function of the seed. */
typedef enum wn_data_kind {
    WN_DATA_NOISE,    /* uniform in [-1, 1) */
    WN_DATA_FLAT,     /* noise / 64: softmax is nearly flat */
    WN_DATA_PEAKED,   /* noise * 6: softmax is peaked */
    WN_DATA_NEEDLE,   /* flat, but one token in 16 is 64 times longer */
    WN_DATA_EQUAL,    /* the same vector for every token: ties */
    WN_DATA_DENORMAL, /* of the magnitude of the dtypes' denormals: 1e-40 to 1e-7 */
    WN_DATA_LARGE,    /* up to 3000: finite in every dtype but e4m3 */
    WN_DATA_KINDS
} wn_data_kind;
const char *wn_data_name(wn_data_kind kind);
double wn_data_value(wn_data_kind kind, uint64_t seed, int64_t token, int64_t channel);

/* A dense tensor between guard pages, row-major, filled with wn_data_value(kind, seed, i / last
 * extent, i % last extent) rounded to dtype, the seed drawn from check->random. An input. */
wn_tensor wn_check_tensor(wn_check *check, uint32_t dtype, wn_data_kind kind, uint32_t ndim,
                          const int64_t *shape);
/* The same, an output: all 0xff. */
wn_tensor wn_check_tensor_out(wn_check *check, uint32_t dtype, uint32_t ndim, const int64_t *shape);
/* One element; indices beyond ndim are 0. */
double wn_check_at(const wn_tensor *tensor, int64_t i, int64_t j, int64_t k, int64_t l);

/* ---- paged caches: check_pages.c */

/* MLA: one head, V is the first v_dim channels of K; with F8_E4M3, records of WN_LAYOUT_MLA_FP8. */
enum { WN_CHECK_HND, WN_CHECK_NHD, WN_CHECK_VEC, WN_CHECK_MLA, WN_CHECK_LAYOUTS };

typedef struct wn_cache_shape {
    uint32_t batch, num_kv_heads, k_dim, v_dim;
    uint32_t tokens_per_page;
    uint32_t dtype;     /* WN_F32, F16, BF16, F8_E4M3, I8 */
    uint32_t layout;    /* WN_CHECK_HND ... */
    uint32_t vec_x;     /* WN_CHECK_VEC: 2, 4, 8; divides k_dim and tokens_per_page */
    bool token_scales;  /* a float per page, head and place */
    float tensor_scale; /* 0: what fits the data if quantised without token_scales, else 1 */
    bool positions;     /* an array of positions: gaps between them, other for each head */
    bool written;       /* K, V, scales and positions are outputs of the case */
    wn_data_kind kind;
    const int32_t *length; /* [batch] */
} wn_cache_shape;

/* A cache with random page ids: distinct, not in order, not contiguous, never all of the pool.
 * Every page, slot and scale that no request owns holds NaN codes (0xff; -1 for int8), and
 * so do the gaps that K and V have between pages, heads and tokens, each its own. */
typedef struct wn_check_cache {
    wn_paged_kv kv;     /* complete; kv.length is shape.length, copied */
    uint32_t num_pages; /* of the pool */
    /* Of the buffers. */
    size_t k_bytes, v_bytes, k_scale_bytes, v_scale_bytes, position_bytes;
} wn_check_cache;
void wn_check_cache_make(wn_check *check, const wn_cache_shape *shape, wn_check_cache *cache);
/* A shape drawn at random: everything but the lengths, which are written to length[batch], each in
 * [0, max_length]; batch <= 4. Dims are odd, tail or vector sizes up to 40. A cache of MLA records,
 * whose dims are large, is shorter. */
wn_cache_shape wn_check_cache_shape(wn_check *check, uint32_t dtype, int32_t *length,
                                    int32_t max_length);
/* Gives a shape drawn above head dims that models have: 40, 72, 80, 96, 112, 128, 256. Not records.
 */
void wn_check_widen(wn_check *check, wn_cache_shape *shape);

/* The oracles' way into a cache: the value (code * scale) at a slot of a request. */
double wn_check_k(const wn_paged_kv *kv, int64_t request, int64_t head, int64_t slot, int64_t d);
double wn_check_v(const wn_paged_kv *kv, int64_t request, int64_t head, int64_t slot, int64_t d);
int64_t wn_check_position(const wn_paged_kv *kv, int64_t request, int64_t head, int64_t slot);
/* Is V a part of K? Then what is said of V's buffers is not: there are none. */
bool wn_check_is_mla(const wn_paged_kv *kv);
/* Offset in elements of an element (not of MLA records), and in floats of a scale. */
int64_t wn_check_element(const wn_kv_view *view, uint32_t tokens_per_page, int64_t page,
                         int64_t head, int64_t place, int64_t d);
int64_t wn_check_scale_element(const wn_kv_view *view, int64_t page, int64_t head, int64_t place);

/* Bytes from view->data to an MLA record. */
int64_t wn_check_record(const wn_kv_view *view, int64_t page, int64_t place);
/* Copies the codes of a token between two images of the pool, whatever the layout. */
void wn_check_copy_codes(const wn_kv_view *view, uint32_t tokens_per_page, int64_t head,
                         uint8_t *to, int64_t to_page, int64_t to_place, const uint8_t *from,
                         int64_t from_page, int64_t from_place);
/* Makes all codes of a token NaN; int8 has none and stays. */
void wn_check_poison_codes(const wn_kv_view *view, uint32_t tokens_per_page, int64_t page,
                           int64_t head, int64_t place);

/* ---- the checks: one for each line of ops.def, or test_ops.c does not link */

#define WN_OP(name, type) void wn_check_##name(wn_check *check);
#include "kernels/ops.def"
#undef WN_OP

#endif
