/* gather_pages.c: from selected blocks to the pages that they touch, ascending, per request and KV
 * head. The order matters to whoever reads the list: only the last page of a request can be
 * partial, so page_length is right only if it comes last. */
#include "kernels/operand_check.h"
#include "kernels/parallel.h"
#include "kernels/ref/ref.h"
#include "kernels/refuse.h"

#include <string.h>

/* Pages are marked in a mask on the stack, a window of them at a time, because lists need not be
 * sorted and an op allocates nothing. */
enum { WINDOW = 4096 };

/* Entries of the selection for one request and head. */
typedef struct entries {
    const int32_t *index;
    int64_t count;
} entries;

static entries entries_of(const wn_selection *selection, int64_t request, int64_t head)
{
    const int32_t *list = selection->indices + head * selection->head_stride;
    if (selection->offsets == NULL)
        return (entries){list + request * selection->width, selection->width};
    return (entries){list + selection->offsets[request],
                     selection->offsets[request + 1] - selection->offsets[request]};
}

/* Marks those of the pages [first, first + WINDOW) that a selected block touches. A block that
 * begins within the length may end beyond it: the caller reads the marks of real pages alone. */
static void mark(const entries *list, int64_t block_size, int64_t length, int64_t tokens_per_page,
                 int64_t first, uint8_t *mask)
{
    for (int64_t e = 0; e < list->count; e++) {
        int64_t begin = list->index[e] * block_size;
        if (begin < 0 || begin >= length)
            continue;
        int64_t page = begin / tokens_per_page, last = (begin + block_size - 1) / tokens_per_page;
        if (page < first)
            page = first;
        for (; page <= last && page < first + WINDOW; page++)
            mask[page - first] = 1;
    }
}

/* item: head * batch + request, which is the order of the outputs. */
static void gather(void *argument, int64_t item)
{
    const wn_gather_pages_args *args = argument;
    int64_t head = item / args->batch, request = item % args->batch;
    int64_t tokens = args->tokens_per_page, length = args->length[request];
    int64_t num_pages = (length + tokens - 1) / tokens;
    const int32_t *table = args->page_table + request * args->page_table_stride;
    int32_t *pages = args->pages + item * args->pages_stride;
    entries list = entries_of(args->selection, request, head);
    int32_t count = 0;
    int64_t kept_tokens = 0;
    for (int64_t first = 0; first < num_pages; first += WINDOW) {
        uint8_t mask[WINDOW];
        memset(mask, 0, sizeof mask);
        mark(&list, args->selection->block_size, length, tokens, first, mask);
        for (int64_t p = first; p < num_pages && p < first + WINDOW; p++) {
            if (!mask[p - first])
                continue;
            pages[count++] = table[p];
            kept_tokens += p == num_pages - 1 ? length - p * tokens : tokens;
        }
    }
    args->page_count[item] = count;
    args->page_length[item] = (int32_t)kept_tokens;
}

static wn_status validate_selection(const wn_gather_pages_args *args)
{
    const wn_selection *s = args->selection;
    if (s == NULL || s->index_space != WN_INDEX_PHYSICAL || s->block_size == 0 ||
        s->rows != args->batch || s->indices == NULL)
        return wn_fail(args->error, WN_EINVAL,
                       "gather_pages: the selection must be physical, with block_size >= 1 and one "
                       "row for each of the %u requests",
                       args->batch);
    if (s->offsets == NULL && s->width < 0)
        return wn_fail(args->error, WN_EINVAL,
                       "gather_pages: a selection without offsets has a width, not %lld",
                       (long long)s->width);
    for (uint32_t b = 0; s->offsets != NULL && b < args->batch; b++)
        if (s->offsets[b] < 0 || s->offsets[b + 1] < s->offsets[b])
            return wn_fail(args->error, WN_EINVAL,
                           "gather_pages: offsets of request %u are %d and %d; they must ascend "
                           "from 0",
                           b, s->offsets[b], s->offsets[b + 1]);
    return WN_OK;
}

static wn_status validate(const wn_gather_pages_args *args)
{
    if (args->batch == 0 || args->num_kv_heads == 0)
        return WN_OK;
    if (args->tokens_per_page == 0)
        return wn_fail(args->error, WN_EINVAL, "gather_pages: tokens_per_page is 0");
    if (args->page_table == NULL || args->length == NULL || args->pages == NULL ||
        args->page_count == NULL || args->page_length == NULL)
        return wn_fail(args->error, WN_EINVAL,
                       "gather_pages: page_table, length and the three outputs must be given");
    for (uint32_t b = 0; b < args->batch; b++) {
        int64_t length = args->length[b];
        int64_t pages = (length + args->tokens_per_page - 1) / args->tokens_per_page;
        if (length < 0 || pages > args->pages_stride || pages > args->page_table_stride)
            return wn_fail(args->error, WN_EINVAL,
                           "gather_pages: request %u has %lld tokens in %lld pages; pages_stride "
                           "is %lld and page_table_stride %lld",
                           b, (long long)length, (long long)pages, (long long)args->pages_stride,
                           (long long)args->page_table_stride);
    }
    return validate_selection(args);
}

wn_status wn_refuse_gather_pages(const wn_gather_pages_args *args)
{
    WN_CHECK_STRUCT_SIZE(args, wn_gather_pages_args);
    return validate(args);
}

wn_status wn_ref_gather_pages(const wn_gather_pages_args *args)
{
    wn_status status = wn_refuse_gather_pages(args);
    if (status == WN_OK)
        wn_for_each(args->executor, (int64_t)args->num_kv_heads * args->batch, gather,
                    (void *)args);
    return status;
}
