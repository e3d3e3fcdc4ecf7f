/* choice.c: a plugin's choice is checked before any kernel trusts it. Nothing here allocates. */
#include "core/choice.h"

#include "winnow/ops.h"

#include <string.h>

wn_selection wn_selection_lend(const wn_selection_buffers *buffers)
{
    return (wn_selection){.struct_size = WN_SIZEOF(wn_selection),
                          .block_size = 1,
                          .index_space = WN_INDEX_PHYSICAL,
                          .indices = buffers->indices,
                          .capacity = buffers->capacity,
                          .offsets = buffers->offsets,
                          .offsets_capacity = buffers->offsets_capacity};
}

/* ---------------------------------------------------------------- shape */

/* Do all lists lie inside the buffers? Rows as given. */
static wn_status check_shape(const wn_selection *s, const wn_selection_buffers *buffers,
                             uint32_t num_kv_heads, const char *algorithm, wn_error *error)
{
    if (s->struct_size != WN_SIZEOF(wn_selection) || s->block_size == 0 ||
        (s->index_space != WN_INDEX_PHYSICAL && s->index_space != WN_INDEX_LOGICAL) ||
        s->flags & ~(uint32_t)WN_SELECTION_SORTED)
        return wn_fail(error, WN_EPLUGIN,
                       "%s: selection with struct_size %u, block_size %u, "
                       "index_space %u, flags %#x",
                       algorithm, s->struct_size, s->block_size, s->index_space, s->flags);
    if (s->indices != buffers->indices || s->capacity != buffers->capacity ||
        (s->offsets != NULL && s->offsets != buffers->offsets))
        return wn_fail(error, WN_EPLUGIN, "%s: selection outside the host's buffers", algorithm);
    if (s->head_stride < 0 || s->width < 0)
        return wn_fail(error, WN_EPLUGIN, "%s: selection with head_stride %lld, width %lld",
                       algorithm, (long long)s->head_stride, (long long)s->width);
    int64_t last = 0;
    if (s->offsets != NULL) {
        if ((int64_t)s->rows + 1 > buffers->offsets_capacity || s->offsets[0] < 0)
            return wn_fail(error, WN_EPLUGIN,
                           "%s: selection of %u rows needs %u offsets >= 0; the "
                           "buffer has %lld",
                           algorithm, s->rows, s->rows + 1, (long long)buffers->offsets_capacity);
        for (uint32_t r = 0; r < s->rows; r++)
            if (s->offsets[r] > s->offsets[r + 1])
                return wn_fail(error, WN_EPLUGIN,
                               "%s: selection offsets fall from %d to %d at row "
                               "%u",
                               algorithm, s->offsets[r], s->offsets[r + 1], r);
        last = s->offsets[s->rows];
    } else if (s->rows > 0 && s->width > buffers->capacity / s->rows) {
        last = INT64_MAX;
    } else {
        last = s->rows * s->width;
    }
    int64_t room = buffers->capacity - last;
    if (room < 0 || (s->head_stride > 0 && s->head_stride > buffers->capacity) ||
        (int64_t)(num_kv_heads - 1) * s->head_stride > room)
        return wn_fail(error, WN_EPLUGIN, "%s: selection runs beyond its buffer of %lld entries",
                       algorithm, (long long)buffers->capacity);
    return WN_OK;
}

static int32_t *list_of(const wn_selection *s, uint32_t head, uint32_t row, int64_t *count)
{
    int64_t begin = s->offsets != NULL ? s->offsets[row] : row * s->width;
    *count = s->offsets != NULL ? s->offsets[row + 1] - begin : s->width;
    return s->indices + head * s->head_stride + begin;
}

/* ---------------------------------------------------------------- lists */

/* Heap sort, ascending: in place, no worst case, no allocation. */
static void sift_down(int32_t *list, int64_t root, int64_t count)
{
    for (int64_t child; (child = 2 * root + 1) < count; root = child) {
        if (child + 1 < count && list[child] < list[child + 1])
            child++;
        if (list[root] >= list[child])
            return;
        int32_t swapped = list[root];
        list[root] = list[child];
        list[child] = swapped;
    }
}

static void sort_list(int32_t *list, int64_t count)
{
    for (int64_t root = count / 2 - 1; root >= 0; root--)
        sift_down(list, root, count);
    for (int64_t end = count - 1; end > 0; end--) {
        int32_t greatest = list[0];
        list[0] = list[end];
        list[end] = greatest;
        sift_down(list, 0, end);
    }
}

static int32_t position_of(const wn_paged_kv *kv, uint32_t request, uint32_t head, int32_t slot)
{
    int64_t page =
        kv->page_table[request * kv->page_table_stride + (uint32_t)slot / kv->tokens_per_page];
    return kv->position[page * kv->position_page_stride + head * kv->position_head_stride +
                        (uint32_t)slot % kv->tokens_per_page];
}

/* The slot of a logical position, or -1 if that token was evicted. Positions ascend with slots. */
static int32_t slot_of(const wn_paged_kv *kv, uint32_t request, uint32_t head, int32_t position)
{
    int32_t low = 0, high = kv->length[request];
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        if (position_of(kv, request, head, middle) < position)
            low = middle + 1;
        else
            high = middle;
    }
    return low < kv->length[request] && position_of(kv, request, head, low) == position ? low : -1;
}

/* Is the list as it should be: valid blocks, ascending and unique, then at most padding? As a rule
 * it is, and one pass without branches says so. */
static int is_settled(const int32_t *list, int64_t count, int32_t num_blocks)
{
    int falls = 0;
    if (count == 0)
        return 1;
    for (int64_t i = 0; i + 1 < count; i++)
        falls |= list[i] >= list[i + 1];
    return !falls && list[0] >= 0 && list[count - 1] < num_blocks;
}

/* Valid blocks to the front, ascending and unique; the rest becomes -1. Returns how many, or -1 if
 * the list claimed to be sorted and is not. */
static int64_t settle_list(int32_t *list, int64_t count, int32_t num_blocks, int claims_sorted)
{
    int64_t kept = 0, filled = count;
    int ascending = 1;
    while (filled > 0 && list[filled - 1] == -1)
        filled--;
    if (is_settled(list, filled, num_blocks))
        return filled;
    for (int64_t i = 0; i < count; i++) {
        if (list[i] < 0 || list[i] >= num_blocks)
            continue;
        if (kept > 0 && list[i] <= list[kept - 1])
            ascending = 0;
        list[kept++] = list[i];
    }
    if (!ascending) {
        if (claims_sorted)
            return -1;
        int64_t unique = 0;
        sort_list(list, kept);
        for (int64_t i = 0; i < kept; i++)
            if (unique == 0 || list[i] != list[unique - 1])
                list[unique++] = list[i];
        kept = unique;
    }
    for (int64_t i = kept; i < count; i++)
        list[i] = -1;
    return kept;
}

/* Keys of slots [begin, end) that the row's queries may see, summed over the queries; query i of
 * the row sees slots below limit + i. */
static uint64_t visible(int64_t begin, int64_t end, int64_t limit, int64_t queries)
{
    uint64_t sum = 0;
    if (end <= limit)
        return (uint64_t)(end - begin) * (uint64_t)queries;
    for (int64_t i = 0; i < queries; i++) {
        int64_t stop = end < limit + i ? end : limit + i;
        sum += stop > begin ? (uint64_t)(stop - begin) : 0;
    }
    return sum;
}

static void count_list(const int32_t *list, int64_t count, const wn_selection *s,
                       const wn_selection_scope *scope, int32_t length, int64_t limit,
                       int64_t queries, uint64_t heads, wn_selection_count *total)
{
    int64_t page = scope->kv->tokens_per_page, covered = 0, whole = 0;
    if (scope->granularity == WN_GRANULARITY_EXACT) { /* blocks that every query sees whole */
        whole = count;
        while (whole > 0 && ((int64_t)list[whole - 1] + 1) * s->block_size > limit)
            whole--;
        const uint64_t keys = (uint64_t)(whole * s->block_size * queries) * heads;
        total->selected += keys;
        total->attended += keys;
    }
    for (int64_t i = whole; i < count; i++) {
        int64_t begin = (int64_t)list[i] * s->block_size;
        int64_t end = begin + s->block_size < length ? begin + s->block_size : length;
        uint64_t keys = visible(begin, end, limit, queries) * heads;
        total->selected += keys;
        if (scope->granularity == WN_GRANULARITY_EXACT) {
            total->attended += keys;
            continue;
        }
        begin = begin / page * page > covered ? begin / page * page : covered;
        end = (end + page - 1) / page * page;
        end = end < length ? end : length;
        if (end > begin) {
            total->attended += visible(begin, end, limit, queries) * heads;
            covered = end;
        }
    }
}

/* ---------------------------------------------------------------- doors */

static wn_status settle_row(wn_selection *s, const wn_selection_scope *scope, uint32_t request,
                            uint32_t row, int64_t first_query, wn_selection_count *count,
                            wn_error *error)
{
    const wn_paged_kv *kv = scope->kv;
    int32_t length = kv->length[request], q_len = scope->q_len[request];
    int64_t queries = q_len - first_query < s->query_block ? q_len - first_query : s->query_block;
    int32_t blocks = (int32_t)(((int64_t)length + s->block_size - 1) / s->block_size);
    int logical = s->index_space == WN_INDEX_LOGICAL && scope->positions_kept;
    uint32_t lists = s->head_stride > 0 ? kv->num_kv_heads : 1;
    uint64_t heads = s->head_stride > 0 ? 1 : kv->num_kv_heads;
    for (uint32_t h = 0; h < lists; h++) {
        int64_t entries;
        int32_t *list = list_of(s, h, row, &entries);
        for (int64_t i = 0; logical && i < entries; i++)
            list[i] = list[i] < 0 ? -1 : slot_of(kv, request, h, list[i]);
        int64_t kept = settle_list(list, entries, blocks, s->flags & WN_SELECTION_SORTED);
        if (kept < 0)
            return wn_fail(error, WN_EPLUGIN,
                           "%s: selection of request %u, row %u, KV head %u says "
                           "WN_SELECTION_SORTED and does not ascend strictly",
                           scope->algorithm, request, row, h);
        count_list(list, kept, s, scope, length, (int64_t)length - q_len + first_query + 1, queries,
                   heads, count);
    }
    return WN_OK;
}

wn_status wn_selection_settle(wn_selection *s, const wn_selection_buffers *buffers,
                              const wn_selection_scope *scope, int32_t *row_begin,
                              wn_selection_count *count, wn_error *error)
{
    const wn_paged_kv *kv = scope->kv;
    wn_status status = check_shape(s, buffers, kv->num_kv_heads, scope->algorithm, error);
    if (status != WN_OK)
        return status;
    if (s->query_block == 0)
        return wn_fail(error, WN_EPLUGIN, "%s: selection with query_block 0", scope->algorithm);
    if (s->index_space == WN_INDEX_LOGICAL && scope->positions_kept &&
        (s->block_size != 1 || (s->head_stride == 0 && kv->num_kv_heads > 1)))
        return wn_fail(error, WN_EUNSUPPORTED,
                       "%s: a logical selection on a layer that keeps "
                       "positions needs block_size 1 (has %u) and a list per KV head",
                       scope->algorithm, s->block_size);
    int64_t rows = 0;
    for (uint32_t b = 0; b < kv->batch; b++) {
        row_begin[b] = (int32_t)rows;
        rows += ((int64_t)scope->q_len[b] + s->query_block - 1) / s->query_block;
    }
    if (rows != s->rows)
        return wn_fail(error, WN_EPLUGIN,
                       "%s: selection of %u rows: %lld expected with query_block "
                       "%u",
                       scope->algorithm, s->rows, (long long)rows, s->query_block);
    *count = (wn_selection_count){0, 0};
    for (uint32_t b = 0; b < kv->batch; b++) {
        uint32_t row = (uint32_t)row_begin[b];
        for (int64_t q = 0; q < scope->q_len[b]; q += s->query_block) {
            status = settle_row(s, scope, b, row++, q, count, error);
            if (status != WN_OK)
                return status;
        }
    }
    s->index_space = WN_INDEX_PHYSICAL;
    s->flags |= WN_SELECTION_SORTED;
    return WN_OK;
}

wn_status wn_selection_check_retained(const wn_selection *s, const wn_selection_buffers *buffers,
                                      const wn_selection_scope *scope, const int32_t *kept,
                                      wn_error *error)
{
    const wn_paged_kv *kv = scope->kv;
    wn_status status = check_shape(s, buffers, kv->num_kv_heads, scope->algorithm, error);
    if (status != WN_OK)
        return status;
    if (s->block_size != 1 || s->index_space != WN_INDEX_PHYSICAL || s->offsets == NULL ||
        s->rows != kv->batch)
        return wn_fail(error, WN_EPLUGIN,
                       "%s: retain gave block_size %u, index_space %u, %s, %u rows"
                       ": expected 1, physical, CSR, %u (rule WN-P-21)",
                       scope->algorithm, s->block_size, s->index_space,
                       s->offsets != NULL ? "CSR" : "fixed width", s->rows, kv->batch);
    uint32_t lists = s->head_stride > 0 ? kv->num_kv_heads : 1;
    for (uint32_t b = 0; b < kv->batch; b++)
        for (uint32_t h = 0; h < lists; h++) {
            int64_t count;
            const int32_t *list = list_of(s, h, b, &count);
            if (count != kept[b])
                return wn_fail(error, WN_EPLUGIN,
                               "%s: retain kept %lld tokens of request %u, KV head "
                               "%u; retained_count said %d (rule WN-P-21)",
                               scope->algorithm, (long long)count, b, h, kept[b]);
            for (int64_t i = 0; i < count; i++)
                if (list[i] < 0 || list[i] >= kv->length[b] || (i > 0 && list[i] <= list[i - 1]))
                    return wn_fail(error, WN_EPLUGIN,
                                   "%s: retain list of request %u, KV head %u: "
                                   "slot %d at place %lld: expected ascending, unique, below %d "
                                   "(rule WN-P-21)",
                                   scope->algorithm, b, h, list[i], (long long)i, kv->length[b]);
        }
    return WN_OK;
}
