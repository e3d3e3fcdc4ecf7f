/* compact.c: kept tokens move together, in place, per request and KV head. Towards the front they
 * move in ascending order, towards the end in descending order, so that no token is overwritten
 * before it has moved: indices ascend strictly, hence at most one per slot lies between. */
#include "kernels/kv_element.h"
#include "kernels/operand_check.h"
#include "kernels/parallel.h"
#include "kernels/ref/ref.h"
#include "kernels/refuse.h"

/* One token's codes and scale, from one slot's address to another's. No data: V is a part of K. */
static void move_codes(const wn_kv_view *view, uint32_t tokens_per_page, int64_t head,
                       int64_t from_page, int64_t from_place, int64_t to_page, int64_t to_place)
{
    uint32_t bytes = wn_number_bytes(view->dtype);
    uint8_t *data = view->data;
    if (data == NULL)
        return;
    if (view->layout == WN_LAYOUT_MLA_FP8) {
        memcpy(wn_kv_record(view, to_page, head, to_place),
               wn_kv_record(view, from_page, head, from_place), WN_MLA_RECORD_BYTES);
        return;
    }
    for (int64_t d = 0; d < view->dim; d++)
        memcpy(data + wn_kv_offset(view, tokens_per_page, to_page, head, to_place, d) * bytes,
               data + wn_kv_offset(view, tokens_per_page, from_page, head, from_place, d) * bytes,
               bytes);
    if (view->scale != NULL)
        view->scale[wn_kv_scale_offset(view, to_page, head, to_place)] =
            view->scale[wn_kv_scale_offset(view, from_page, head, from_place)];
}

static void move_token(const wn_paged_kv *kv, int64_t request, int64_t head, int64_t from,
                       int64_t to)
{
    int64_t from_page = wn_kv_page(kv, request, from), from_place = from % kv->tokens_per_page;
    int64_t to_page = wn_kv_page(kv, request, to), to_place = to % kv->tokens_per_page;
    if (from == to)
        return;
    move_codes(&kv->k, kv->tokens_per_page, head, from_page, from_place, to_page, to_place);
    move_codes(&kv->v, kv->tokens_per_page, head, from_page, from_place, to_page, to_place);
    if (kv->position != NULL)
        kv->position[wn_kv_position_offset(kv, to_page, head, to_place)] =
            kv->position[wn_kv_position_offset(kv, from_page, head, from_place)];
}

/* The list of one request and head. */
typedef struct list {
    const int32_t *slot;
    int64_t count, destination;
} list;

static list list_of(const wn_compact_args *args, int64_t request, int64_t head)
{
    return (list){args->indices + head * args->head_stride + args->offsets[request],
                  args->offsets[request + 1] - args->offsets[request],
                  args->destination != NULL ? args->destination[request] : 0};
}

/* item: request * num_kv_heads + head */
static void compact_head(void *argument, int64_t item)
{
    const wn_compact_args *args = argument;
    int64_t request = item / args->kv.num_kv_heads, head = item % args->kv.num_kv_heads;
    list kept = list_of(args, request, head);
    if (kept.count == 0)
        return;
    if (kept.destination <= kept.slot[0])
        for (int64_t i = 0; i < kept.count; i++)
            move_token(&args->kv, request, head, kept.slot[i], kept.destination + i);
    else
        for (int64_t i = kept.count; i-- > 0;)
            move_token(&args->kv, request, head, kept.slot[i], kept.destination + i);
}

/* destination + i - slot[i] never grows with i: the ends of the list decide on which side it is. */
static wn_status validate_list(const wn_compact_args *args, uint32_t request, uint32_t head)
{
    list kept = list_of(args, request, head);
    int64_t length = args->kv.length[request], last = kept.count - 1;
    for (int64_t i = 0; i < kept.count; i++)
        if (kept.slot[i] < 0 || kept.slot[i] >= length ||
            (i > 0 && kept.slot[i] <= kept.slot[i - 1]))
            return wn_fail(args->error, WN_EINVAL,
                           "compact: request %u, head %u: entry %lld is slot %d; slots must ascend "
                           "strictly within the length %lld",
                           request, head, (long long)i, kept.slot[i], (long long)length);
    if (kept.count > 0 && (kept.destination < 0 || kept.destination + kept.count > length))
        return wn_fail(
            args->error, WN_EINVAL,
            "compact: request %u: %lld tokens from slot %lld on do not fit in the length "
            "%lld",
            request, (long long)kept.count, (long long)kept.destination, (long long)length);
    if (kept.count > 0 && kept.destination > kept.slot[0] &&
        kept.destination + last < kept.slot[last])
        return wn_fail(args->error, WN_EINVAL,
                       "compact: request %u, head %u: some tokens would move to the front and some "
                       "to the end; destination must be at most slot %d or at least slot %lld",
                       request, head, kept.slot[0], (long long)(kept.slot[last] - last));
    return WN_OK;
}

static wn_status validate(const wn_compact_args *args)
{
    const wn_paged_kv *kv = &args->kv;
    if (kv->batch == 0 || kv->num_kv_heads == 0)
        return WN_OK;
    if (args->indices == NULL || args->offsets == NULL || kv->length == NULL ||
        kv->page_table == NULL || kv->k.data == NULL)
        return wn_fail(args->error, WN_EINVAL,
                       "compact: indices, offsets, length, page_table and K must be given");
    int pools = WN_OPERAND_K | (kv->v.data != NULL ? WN_OPERAND_V : 0);
    wn_status status = wn_check_paged(args->error, "compact", kv, pools);
    for (uint32_t b = 0; status == WN_OK && b < kv->batch; b++) {
        if (args->offsets[b] < 0 || args->offsets[b + 1] < args->offsets[b])
            return wn_fail(args->error, WN_EINVAL,
                           "compact: offsets of request %u are %d and %d; they must ascend from 0",
                           b, args->offsets[b], args->offsets[b + 1]);
        for (uint32_t h = 0; status == WN_OK && h < kv->num_kv_heads; h++)
            status = validate_list(args, b, h);
    }
    return status;
}

wn_status wn_refuse_compact(const wn_compact_args *args)
{
    WN_CHECK_STRUCT_SIZE(args, wn_compact_args);
    return validate(args);
}

wn_status wn_ref_compact(const wn_compact_args *args)
{
    wn_status status = wn_refuse_compact(args);
    if (status == WN_OK)
        wn_for_each(args->executor, (int64_t)args->kv.batch * args->kv.num_kv_heads, compact_head,
                    (void *)args);
    return status;
}
