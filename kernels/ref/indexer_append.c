/* indexer_append.c: the reference of indexer_append: keys of an indexer on their way into their
 * pages, each with the one scale that its codes share. */
#include "kernels/block_scale.h"
#include "kernels/indexer_element.h"
#include "kernels/operand_check.h"
#include "kernels/parallel.h"
#include "kernels/ref/ref.h"
#include "kernels/refuse.h"
#include "kernels/tensor_element.h"

static void append_token(void *argument, int64_t token)
{
    const wn_indexer_append_args *a = argument;
    int64_t slot = a->slot[token], dim = a->keys.dim;
    if (slot < 0)
        return;
    int64_t page = slot / a->keys.tokens_per_page, place = slot % a->keys.tokens_per_page;
    double x[WN_MAX_HEAD_DIM], divisor = 1;
    float greatest = wn_indexer_greatest_code(a->keys.dtype);
    for (int64_t d = 0; d < dim; d++)
        x[d] = wn_tensor_load(&a->k, token, d, 0);
    float *scale = wn_indexer_scale(&a->keys, page, place);
    if (scale != NULL)
        divisor = *scale = wn_block_scale_to(a->scale_rule, wn_greatest_magnitude(x, dim),
                                             a->least_amax, greatest);
    for (int64_t d = 0; d < dim; d++) {
        double code = x[d] / divisor;
        if (a->keys.dtype == WN_I8 && fabs(code) > greatest) /* infinities, denormal scales */
            code = copysign(greatest, code);
        wn_store(wn_indexer_codes(&a->keys, page, place), a->keys.dtype, d, code);
    }
}

static wn_status check(const wn_indexer_append_args *a)
{
    const char *op = "indexer_append";
    wn_status status = wn_check_operand(a->error, op, "k", &a->k, 2, 1);
    if (status == WN_OK)
        status = wn_check_indexer_view(a->error, op, &a->keys);
    if (status == WN_OK)
        status = wn_check_extent(a->error, op, "k", &a->k, 1, a->keys.dim);
    if (status != WN_OK)
        return status;
    if (a->keys.dtype != WN_BF16 && a->scale_rule != WN_SCALE_EXACT &&
        a->scale_rule != WN_SCALE_POWER_OF_TWO)
        return wn_fail(a->error, WN_EINVAL,
                       "%s: scale_rule is %u, expected %d (exact) or %d (power of two)", op,
                       a->scale_rule, WN_SCALE_EXACT, WN_SCALE_POWER_OF_TWO);
    if (a->keys.dtype != WN_BF16 && !(a->least_amax >= 0 && isfinite(a->least_amax)))
        return wn_fail(a->error, WN_EINVAL, "%s: least_amax is %g, expected >= 0", op,
                       (double)a->least_amax);
    if (a->k.shape[0] > 0 && (a->slot == NULL || a->keys.data == NULL))
        return wn_fail(a->error, WN_EINVAL, "%s: the tokens need slots and keys.data", op);
    return WN_OK;
}

wn_status wn_refuse_indexer_append(const wn_indexer_append_args *args)
{
    WN_CHECK_STRUCT_SIZE(args, wn_indexer_append_args);
    return check(args);
}

wn_status wn_ref_indexer_append(const wn_indexer_append_args *args)
{
    wn_status status = wn_refuse_indexer_append(args);
    if (status == WN_OK)
        wn_for_each(args->executor, args->k.shape[0], append_token, (void *)args);
    return status;
}
