/* copy_pages.c: whole pages of one pool, byte for byte. */
#include "kernels/operand_check.h"
#include "kernels/parallel.h"
#include "kernels/ref/ref.h"
#include "kernels/refuse.h"

#include <string.h>

static void copy_one(void *argument, int64_t i)
{
    const wn_copy_pages_args *args = argument;
    uint8_t *pool = args->pool;
    memcpy(pool + args->destination[i] * args->page_bytes,
           pool + args->source[i] * args->page_bytes, (size_t)args->page_bytes);
}

static wn_status validate(const wn_copy_pages_args *args)
{
    if (args->count < 0 || args->page_bytes < 0)
        return wn_fail(args->error, WN_EINVAL,
                       "copy_pages: count %lld and page_bytes %lld must not be negative",
                       (long long)args->count, (long long)args->page_bytes);
    if (args->count > 0 &&
        (args->pool == NULL || args->source == NULL || args->destination == NULL))
        return wn_fail(args->error, WN_EINVAL,
                       "copy_pages: pool, source and destination must be given");
    for (int64_t i = 0; i < args->count; i++)
        if (args->source[i] < 0 || args->destination[i] < 0 ||
            args->source[i] == args->destination[i])
            return wn_fail(args->error, WN_EINVAL,
                           "copy_pages: entry %lld copies page %d to page %d; page ids start at 0 "
                           "and must differ",
                           (long long)i, args->source[i], args->destination[i]);
    return WN_OK;
}

wn_status wn_refuse_copy_pages(const wn_copy_pages_args *args)
{
    WN_CHECK_STRUCT_SIZE(args, wn_copy_pages_args);
    return validate(args);
}

wn_status wn_ref_copy_pages(const wn_copy_pages_args *args)
{
    wn_status status = wn_refuse_copy_pages(args);
    if (status == WN_OK)
        wn_for_each(args->executor, args->count, copy_one, (void *)args);
    return status;
}
