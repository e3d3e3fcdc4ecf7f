/* check_page_lists.c: checks of gather_pages and copy_pages. */
#include "check.h"

/* ---------------------------------------------------------------- gather_pages */

/* Is a token of page p in a block of the list? */
static bool page_is_selected(const wn_gather_pages_args *args, int64_t b, int64_t h, int64_t p)
{
    const wn_selection *s = args->selection;
    int64_t begin = s->offsets ? s->offsets[b] : b * s->width;
    int64_t end = s->offsets ? s->offsets[b + 1] : begin + s->width;
    for (int64_t t = p * args->tokens_per_page;
         t < (p + 1) * args->tokens_per_page && t < args->length[b]; t++)
        for (int64_t e = begin; e < end; e++)
            if (s->indices[h * s->head_stride + e] == t / s->block_size)
                return true;
    return false;
}

static void compare_pages(wn_check *check, const wn_gather_pages_args *args, int64_t b, int64_t h)
{
    int64_t row = h * args->batch + b, tokens = args->tokens_per_page, length = args->length[b];
    const int32_t *pages = args->pages + row * args->pages_stride;
    int32_t count = 0;
    int64_t kept = 0;
    for (int64_t p = 0; p * tokens < length; p++) {
        if (!page_is_selected(args, b, h, p))
            continue;
        wn_check_equal(check, "pages", row * args->pages_stride + count, pages[count],
                       args->page_table[b * args->page_table_stride + p]);
        count++;
        kept += length - p * tokens < tokens ? length - p * tokens : tokens;
    }
    wn_check_equal(check, "page_count", row, args->page_count[row], count);
    wn_check_equal(check, "page_length", row, args->page_length[row], kept);
    wn_check_untouched(check, "pages beyond the count", pages + count,
                       (size_t)(args->pages_stride - count) * sizeof *pages);
}

/* Blocks in random order, with duplicates and some that are invalid. */
static void draw_selection(wn_check *check, wn_gather_pages_args *args, wn_selection *s)
{
    static const uint32_t sizes[] = {1, 2, 3, 16, 64, 100};
    s->block_size = sizes[wn_random_below(&check->random, 6)];
    bool csr = wn_random_below(&check->random, 2), shared = wn_random_below(&check->random, 3) == 0;
    int64_t entries = 0;
    if (csr) {
        s->offsets = wn_check_ints(check, args->batch + 1);
        s->offsets[0] = 0;
        for (uint32_t b = 0; b < args->batch; b++)
            s->offsets[b + 1] = s->offsets[b] + (int32_t)wn_random_below(&check->random, 20);
        entries = s->offsets[args->batch];
    } else {
        s->width = wn_random_below(&check->random, 20);
        entries = s->width * args->batch;
    }
    s->head_stride = shared ? 0 : entries;
    s->capacity = entries * (shared ? 1 : args->num_kv_heads);
    s->indices = wn_check_ints(check, (size_t)s->capacity);
    for (int64_t i = 0; i < s->capacity; i++)
        s->indices[i] = (int32_t)wn_random_below(&check->random, 200 / s->block_size + 4) - 1;
    if (s->capacity > 2 && wn_random_below(&check->random, 2)) {
        s->indices[0] = INT32_MAX;
        s->indices[1] = INT32_MIN;
    }
}

/* What the op must not take. */
static void refuse_gather(wn_check *check, const wn_gather_pages_args *good)
{
    wn_gather_pages_args args = *good;
    wn_selection selection = *good->selection;
    args.struct_size = 8;
    WN_CHECK_REFUSED(check, gather_pages, args, WN_EINVAL);
    if (args.batch == 0)
        return;
    args = *good;
    args.selection = &selection;
    selection.index_space = WN_INDEX_LOGICAL;
    WN_CHECK_REFUSED(check, gather_pages, args, WN_EINVAL);
    selection = *good->selection;
    selection.rows++;
    WN_CHECK_REFUSED(check, gather_pages, args, WN_EINVAL);
    args = *good;
    args.tokens_per_page = 0;
    WN_CHECK_REFUSED(check, gather_pages, args, WN_EINVAL);
    args = *good;
    args.pages_stride = 0;
    for (uint32_t b = 0; b < args.batch; b++)
        if (args.length[b] > 0) {
            WN_CHECK_REFUSED(check, gather_pages, args, WN_EINVAL);
            break;
        }
}

static void gather_case(wn_check *check)
{
    static const uint32_t page_sizes[] = {1, 3, 7, 16, 32, 64};
    wn_check_case(check, "pages");
    wn_selection selection = {
        .struct_size = WN_SIZEOF(wn_selection), .index_space = WN_INDEX_PHYSICAL, .query_block = 1};
    wn_gather_pages_args args = {.struct_size = WN_SIZEOF(wn_gather_pages_args),
                                 .selection = &selection,
                                 .batch = wn_random_below(&check->random, 5),
                                 .num_kv_heads = 1 + wn_random_below(&check->random, 4),
                                 .tokens_per_page = page_sizes[wn_random_below(&check->random, 6)]};
    selection.rows = args.batch;
    int32_t *length = wn_check_ints(check, args.batch);
    for (uint32_t b = 0; b < args.batch; b++)
        length[b] =
            wn_random_below(&check->random, 6) ? (int32_t)wn_random_below(&check->random, 200) : 0;
    args.length = length;
    args.page_table_stride = (200 + args.tokens_per_page - 1) / args.tokens_per_page;
    args.pages_stride = args.page_table_stride + wn_random_below(&check->random, 3);
    int32_t *table = wn_check_ints(check, (size_t)(args.batch * args.page_table_stride));
    for (int64_t i = 0; i < args.batch * args.page_table_stride; i++)
        table[i] = (int32_t)(wn_random(&check->random) >> 33);
    args.page_table = table;
    draw_selection(check, &args, &selection);
    size_t rows = args.num_kv_heads * args.batch;
    args.pages = wn_check_output(check, rows * (size_t)args.pages_stride * sizeof(int32_t));
    args.page_count = wn_check_output(check, rows * sizeof(int32_t));
    args.page_length = wn_check_output(check, rows * sizeof(int32_t));
    snprintf(check->text, sizeof check->text, "%u requests, %u heads, page %u, block %u, %s",
             args.batch, args.num_kv_heads, args.tokens_per_page, selection.block_size,
             selection.offsets ? "offsets" : "fixed");
    refuse_gather(check, &args);
    WN_CHECK_RUN(check, gather_pages, args);
    for (uint32_t b = 0; b < args.batch; b++)
        for (uint32_t h = 0; h < args.num_kv_heads; h++)
            compare_pages(check, &args, b, h);
}

void wn_check_gather_pages(wn_check *check)
{
    for (int repeat = 0; repeat < 100; repeat++)
        gather_case(check);
}

/* ---------------------------------------------------------------- copy_pages */

void wn_check_copy_pages(wn_check *check)
{
    static const int64_t page_bytes[] = {1, 3, 64, 100, 4096, 5000};
    for (int repeat = 0; repeat < 30; repeat++) {
        int64_t bytes = page_bytes[repeat % 6], count = wn_random_below(&check->random, 8);
        int64_t pages = 2 * count + wn_random_below(&check->random, 4);
        wn_check_case(check, "%lld of %lld pages of %lld bytes", (long long)count, (long long)pages,
                      (long long)bytes);
        wn_copy_pages_args args = {
            .struct_size = WN_SIZEOF(wn_copy_pages_args), .page_bytes = bytes, .count = count};
        int32_t *source = wn_check_ints(check, (size_t)count);
        int32_t *destination = wn_check_ints(check, (size_t)count);
        uint8_t *pool = wn_check_output(check, (size_t)(pages * bytes));
        for (int64_t i = 0; i < pages * bytes; i++)
            pool[i] = (uint8_t)wn_random(&check->random);
        /* Destinations are distinct and apart from the sources; a source may serve twice. */
        for (int64_t i = 0; i < count; i++) {
            destination[i] = (int32_t)(2 * (count - 1 - i));
            source[i] = (int32_t)(2 * wn_random_below(&check->random, (uint32_t)count) + 1);
        }
        args.pool = pool;
        args.source = source;
        args.destination = destination;
        uint8_t *before = wn_check_copy(pool, (size_t)(pages * bytes));
        uint8_t *after = wn_check_copy(pool, (size_t)(pages * bytes));
        for (int64_t i = 0; i < count; i++)
            memcpy(after + destination[i] * bytes, before + source[i] * bytes, (size_t)bytes);
        WN_CHECK_RUN(check, copy_pages, args);
        wn_check_bytes(check, "pool", pool, after, (size_t)(pages * bytes));
        if (count > 0) {
            destination[0] = -1;
            WN_CHECK_REFUSED(check, copy_pages, args, WN_EINVAL);
        }
        free(before);
        free(after);
    }
}
