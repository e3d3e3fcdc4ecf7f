/* test_check.c: the harness notices what it is there for. Each test breaks one op of an otherwise
 * good table in one way. */
#include "check.h"
#include "kernels/kernels.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static wn_ops broken;

static const wn_ops *good(void)
{
    return wn_kernels_variant("ref");
}

static uint32_t failures_of_quantise(wn_status (*op)(const wn_quantise_args *args))
{
    broken = *good();
    broken.quantise = op;
    return wn_check_table("quantise", "broken", &broken, wn_test_seed(), wn_check_quantise, true);
}

static void a_good_table_passes(void)
{
    CU_ASSERT_EQUAL(failures_of_quantise(good()->quantise), 0);
}

static uint8_t *last_element(const wn_tensor *tensor)
{
    int64_t rows = tensor->shape[0], n = tensor->shape[1];
    return rows * n == 0
               ? NULL
               : (uint8_t *)tensor->data + (rows * n - 1) * wn_check_bytes_of(tensor->dtype);
}

static wn_status wrong_last_element(const wn_quantise_args *args)
{
    wn_status status = good()->quantise(args);
    if (status == WN_OK && last_element(&args->out) != NULL)
        *last_element(&args->out) ^= 1;
    return status;
}

static wn_status changes_its_input(const wn_quantise_args *args)
{
    wn_status status = good()->quantise(args);
    if (status == WN_OK && last_element(&args->in) != NULL)
        *last_element(&args->in) ^= 1;
    return status;
}

static wn_status depends_on_threads(const wn_quantise_args *args)
{
    wn_status status = good()->quantise(args);
    if (status == WN_OK && args->executor != NULL && args->executor->num_threads == 3 &&
        last_element(&args->out) != NULL)
        *last_element(&args->out) ^= 1;
    return status;
}

static wn_status writes_and_refuses(const wn_quantise_args *args)
{
    if (args->in.dtype == WN_I8)
        *(uint8_t *)args->out.data = 0;
    return good()->quantise(args);
}

static wn_status refuses_without_a_text(const wn_quantise_args *args)
{
    wn_quantise_args silent = *args;
    silent.error = NULL;
    return good()->quantise(&silent);
}

static wn_status takes_everything(const wn_quantise_args *args)
{
    good()->quantise(args);
    return WN_OK;
}

static wn_status fails_always(const wn_quantise_args *args)
{
    return wn_fail(args->error, WN_EUNSUPPORTED, "no");
}

static void broken_ops_are_caught(void)
{
    CU_ASSERT(failures_of_quantise(wrong_last_element) > 0);
    CU_ASSERT(failures_of_quantise(changes_its_input) > 0);
    CU_ASSERT(failures_of_quantise(depends_on_threads) > 0);
    CU_ASSERT(failures_of_quantise(writes_and_refuses) > 0);
    CU_ASSERT(failures_of_quantise(refuses_without_a_text) > 0);
    CU_ASSERT(failures_of_quantise(takes_everything) > 0);
    CU_ASSERT(failures_of_quantise(fails_always) > 0);
}

/* Reads one byte beyond the input, or before it: one of the two is a guard page. */
static wn_status reads_outside(const wn_quantise_args *args)
{
    volatile const uint8_t *in = args->in.data;
    uint8_t *last = last_element(&args->in);
    if (last != NULL)
        (void)(in[-1] + last[wn_check_bytes_of(args->in.dtype)]);
    return good()->quantise(args);
}

/* In a child, which the guard page kills: by a signal, or by a sanitizer that handles it. */
static void guard_pages_guard(void)
{
    int status = 0;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        fclose(stderr);
        failures_of_quantise(reads_outside);
        _exit(0);
    }
    CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
    CU_ASSERT_FALSE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* The bytes between a buffer and the end of its page are watched too. */
static wn_status writes_outside(const wn_quantise_args *args)
{
    wn_status status = good()->quantise(args);
    uint8_t *out = args->out.data;
    size_t last = wn_check_bytes_of(args->out.dtype);
    if (status == WN_OK && last_element(&args->out) != NULL) {
        if ((uintptr_t)out % (size_t)sysconf(_SC_PAGESIZE) !=
            0) /* ends at the guard page: there is room before it */
            out[-1] = 0;
        else
            last_element(&args->out)[last] = 0;
    }
    return status;
}

static void writes_beside_buffers_are_caught(void)
{
    CU_ASSERT(failures_of_quantise(writes_outside) > 0);
}

static wn_status swaps_two_pages(const wn_gather_pages_args *args)
{
    wn_status status = good()->gather_pages(args);
    for (int64_t i = 0; status == WN_OK && i < (int64_t)args->batch * args->num_kv_heads; i++)
        if (args->page_count[i] > 1) { /* the right pages in the wrong order */
            int32_t *pages = args->pages + i * args->pages_stride, first = pages[0];
            pages[0] = pages[1];
            pages[1] = first;
        }
    return status;
}

static wn_status forgets_positions(const wn_compact_args *args)
{
    wn_compact_args partial = *args;
    partial.kv.position = NULL;
    return good()->compact(&partial);
}

static wn_status forgets_scales(const wn_compact_args *args)
{
    wn_compact_args partial = *args;
    partial.kv.v.scale = NULL;
    return good()->compact(&partial);
}

static wn_status rotates_as_interleaved(const wn_append_args *args)
{
    wn_append_args other = *args;
    if (other.rope == WN_ROPE_HALF_SPLIT)
        other.rope = WN_ROPE_INTERLEAVED;
    return good()->append(&other);
}

static wn_status counts_the_sink_in_the_lse(const wn_mla_args *args)
{
    wn_status status = good()->mla(args);
    for (int64_t r = 0; status == WN_OK && args->lse.data != NULL && r < args->q.shape[0]; r++)
        for (int64_t h = 0; args->sinks != NULL && h < args->q.shape[1]; h++) {
            float *lse =
                (float *)args->lse.data + r * args->lse.stride[0] + h * args->lse.stride[1];
            *lse = logf(expf(*lse) + expf(args->sinks[h]));
        }
    return status;
}

static wn_status passes_over_the_second_scope(const wn_mla_args *args)
{
    wn_mla_args partial = *args;
    partial.num_scopes = args->num_scopes == 2 ? 1 : args->num_scopes;
    return good()->mla(&partial);
}

static void broken_mla_is_caught(void)
{
    broken = *good();
    broken.mla = counts_the_sink_in_the_lse;
    CU_ASSERT(wn_check_table("mla", "broken", &broken, wn_test_seed(), wn_check_mla, true) > 0);
    broken.mla = passes_over_the_second_scope;
    CU_ASSERT(wn_check_table("mla", "broken", &broken, wn_test_seed(), wn_check_mla, true) > 0);
}

static void broken_cache_ops_are_caught(void)
{
    broken = *good();
    broken.gather_pages = swaps_two_pages;
    CU_ASSERT(wn_check_table("gather_pages", "broken", &broken, wn_test_seed(),
                             wn_check_gather_pages, true) > 0);
    broken.compact = forgets_positions;
    CU_ASSERT(wn_check_table("compact", "broken", &broken, wn_test_seed(), wn_check_compact, true) >
              0);
    broken.compact = forgets_scales;
    CU_ASSERT(wn_check_table("compact", "broken", &broken, wn_test_seed(), wn_check_compact, true) >
              0);
    broken.append = rotates_as_interleaved;
    CU_ASSERT(wn_check_table("append", "broken", &broken, wn_test_seed(), wn_check_append, true) >
              0);
}

WN_SUITE("kernels.check", {"a good table passes", a_good_table_passes},
         {"broken ops are caught", broken_ops_are_caught}, {"guard pages guard", guard_pages_guard},
         {"writes beside buffers are caught", writes_beside_buffers_are_caught},
         {"broken MLA is caught", broken_mla_is_caught},
         {"broken cache ops are caught", broken_cache_ops_are_caught})
