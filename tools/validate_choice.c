/* validate_choice.c: looks at what the methods chose in a step: does it keep the contract, and
 * which tokens, by their positions, does it let each query see? */
#include "tools/validate_play.h"

#include <stdio.h>
#include <string.h>

/* The entries of one row and head. */
static const int32_t *entries(const wn_selection *choice, int64_t row, uint32_t head,
                              int64_t *count)
{
    const int32_t *list = choice->indices + (int64_t)head * choice->head_stride;
    if (choice->offsets != NULL) {
        *count = choice->offsets[row + 1] - choice->offsets[row];
        return list + choice->offsets[row];
    }
    list += row * choice->width;
    for (*count = 0; *count < choice->width && list[*count] >= 0;)
        ++*count;
    return list;
}

/* Ascending, without duplicates, inside 0 .. length; the first breach is reported. */
static void judge_list(wn_scene *at, const char *what, const wn_selection *choice, int64_t row,
                       uint32_t head, int32_t length, int64_t expected)
{
    int64_t count, block = choice->block_size > 0 ? choice->block_size : 1;
    const int32_t *list = entries(choice, row, head, &count);
    wn_play_report *report = at->report;
    if (report->choice_bad)
        return;
    if (expected >= 0 && count != expected) {
        report->choice_bad = 1;
        snprintf(report->text, sizeof report->text, "%s: %lld entries for head %u, %lld for head 0",
                 what, (long long)count, head, (long long)expected);
    }
    for (int64_t i = 0; i < count && !report->choice_bad; i++) {
        int outside = list[i] < 0 || list[i] * block >= length;
        if (!outside && (i == 0 || list[i] > list[i - 1]))
            continue;
        report->choice_bad = 1;
        snprintf(report->text, sizeof report->text,
                 "%s: entry %lld of head %u is %d, %s (length %d)", what, (long long)i, head,
                 list[i], outside ? "outside the sequence" : "not above the entry before it",
                 length);
    }
}

static int32_t stored_before(const wn_scene *at, uint32_t item, uint32_t layer)
{
    return at->physical[item * at->model->num_layers + layer];
}

static int32_t length_of(const wn_scene *at, uint32_t item, uint32_t layer)
{
    return stored_before(at, item, layer) + wn_scene_count(at, &at->plays[item]);
}

void wn_choice_judge(wn_scene *at, const wn_choice *choice, uint32_t layer)
{
    const wn_selection *select = choice->select, *retain = choice->retain;
    for (uint32_t head = 0; head < at->model->num_kv_heads; head++) {
        for (uint64_t i = 0; select != NULL && i < choice->num_items; i++) {
            int64_t row = choice->select_row[i];
            uint32_t block = select->query_block > 0 ? select->query_block : 1;
            int64_t rows = (wn_scene_count(at, &at->plays[choice->item[i]]) + block - 1) / block;
            for (int64_t r = row; r < row + rows; r++)
                judge_list(at, "select", select, r, head, length_of(at, choice->item[i], layer),
                           -1);
            at->report->selections++;
        }
        for (uint32_t r = 0; retain != NULL && r < retain->rows; r++) {
            int64_t expected;
            entries(retain, r, 0, &expected);
            judge_list(at, "retain", retain, r, head, length_of(at, choice->retain_item[r], layer),
                       expected);
            at->report->retentions++;
        }
    }
}

/* One row of queries and one KV head. seen: [tokens], by position; slots below `length` are causal.
 */
static void mark_row(const wn_selection *select, int64_t row, uint32_t head, int32_t length,
                     const int32_t *position, uint8_t *seen)
{
    if (select == NULL) {
        for (int32_t slot = 0; slot < length; slot++)
            seen[position[slot]] = 1;
        return;
    }
    int64_t count, block = select->block_size;
    const int32_t *list = entries(select, row, head, &count);
    for (int64_t e = 0; e < count * block; e++) {
        int64_t slot = list[e / block] * block + e % block;
        if (slot >= 0 && slot < length)
            seen[position[slot]] = 1;
    }
}

void wn_choice_mark(wn_scene *at, const wn_choice *choice, uint32_t layer)
{
    uint32_t kv_heads = at->model->num_kv_heads;
    for (uint64_t i = 0; i < choice->num_items; i++) {
        wn_play *play = &at->plays[choice->item[i]];
        size_t tokens = (size_t)wn_play_tokens(play);
        int32_t first = wn_scene_first(at, play), count = wn_scene_count(at, play);
        int32_t before = stored_before(at, choice->item[i], layer);
        for (int32_t r = 0; r < count; r++)
            for (uint32_t head = 0; head < kv_heads; head++) {
                size_t row = ((size_t)layer * tokens + (size_t)(first + r)) * kv_heads + head;
                int64_t list =
                    choice->select == NULL
                        ? 0
                        : choice->select_row[i] + r / (int32_t)choice->select->query_block;
                memset(play->visible + row * tokens, 0, tokens);
                mark_row(choice->select, list, head, before + r + 1,
                         play->position + ((size_t)layer * kv_heads + head) * tokens,
                         play->visible + row * tokens);
            }
    }
}
