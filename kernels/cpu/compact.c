/* compact.c: kept tokens move together, in place. Bound by memory: each kept byte is read and
 * written once. Neighbours that stay neighbours move as one run, where the layout has them side by
 * side; K and V are items of their own, so that one head still has work for two threads. In which
 * order tokens move, and why none is overwritten, is told in kernels/ref/compact.c. */
#include "kernels/cpu/cpu.h"
#include "kernels/kv_element.h"
#include "kernels/parallel.h"
#include "kernels/refuse.h"

/* One pool of one request and head. A token is `runs` runs of run_bytes, run_stride apart; the
 * strided layouts have one. */
typedef struct pool {
    const wn_kv_view *view;
    const int32_t *page_table;
    int64_t tokens_per_page, head;
    int64_t runs, run_bytes, run_stride; /* bytes */
    int64_t token_bytes;                 /* between tokens of a page; 0: not constant */
    int32_t *position;                   /* moved with this pool; or NULL */
    int64_t position_page_stride, position_head_stride;
} pool;

static pool pool_of(const wn_compact_args *args, const wn_kv_view *view, int64_t request,
                    int64_t head)
{
    const wn_paged_kv *kv = &args->kv;
    int64_t bytes = view->layout == WN_LAYOUT_MLA_FP8 ? 1 : wn_number_bytes(view->dtype);
    pool p = {.view = view,
              .page_table = kv->page_table + request * kv->page_table_stride,
              .tokens_per_page = kv->tokens_per_page,
              .head = head,
              .runs = 1,
              .run_bytes = view->dim * bytes,
              .token_bytes = view->token_stride * bytes};
    if (view->layout == WN_LAYOUT_MLA_FP8)
        p.run_bytes = WN_MLA_RECORD_BYTES;
    if (view->layout == WN_LAYOUT_VEC_K) {
        p.runs = view->dim / view->vec_x;
        p.run_bytes = p.token_bytes = view->vec_x * bytes;
        p.run_stride = p.run_bytes * p.tokens_per_page;
    }
    if (view->layout == WN_LAYOUT_VEC_V) {
        p.runs = view->dim;
        p.run_bytes = bytes;
        p.run_stride = view->vec_x * bytes;
        p.token_bytes = 0;
    }
    if (view == &kv->k) {
        p.position = kv->position;
        p.position_page_stride = kv->position_page_stride;
        p.position_head_stride = kv->position_head_stride;
    }
    return p;
}

static uint8_t *token_at(const pool *p, int64_t page, int64_t place)
{
    if (p->view->layout == WN_LAYOUT_MLA_FP8)
        return wn_kv_record(p->view, page, p->head, place);
    return (uint8_t *)p->view->data +
           wn_kv_offset(p->view, (uint32_t)p->tokens_per_page, page, p->head, place, 0) *
               wn_number_bytes(p->view->dtype);
}

/* `count` tokens that lie in one page before and in one page after; count is 1 unless their runs
 * are side by side. The two may overlap. */
static void move_tokens(const pool *p, int64_t from, int64_t to, int64_t count)
{
    int64_t from_page = p->page_table[from / p->tokens_per_page];
    int64_t to_page = p->page_table[to / p->tokens_per_page];
    int64_t from_place = from % p->tokens_per_page, to_place = to % p->tokens_per_page;
    const uint8_t *source = token_at(p, from_page, from_place);
    uint8_t *target = token_at(p, to_page, to_place);
    for (int64_t run = 0; run < p->runs; run++)
        memmove(target + run * p->run_stride, source + run * p->run_stride,
                (size_t)(p->run_bytes * count));
    if (p->view->scale != NULL)
        memmove(p->view->scale + wn_kv_scale_offset(p->view, to_page, p->head, to_place),
                p->view->scale + wn_kv_scale_offset(p->view, from_page, p->head, from_place),
                (size_t)count * sizeof(float));
    if (p->position != NULL) {
        int32_t *position = p->position + p->head * p->position_head_stride;
        memmove(position + to_page * p->position_page_stride + to_place,
                position + from_page * p->position_page_stride + from_place,
                (size_t)count * sizeof *position);
    }
}

/* How many entries from i on, in the given direction, are one move. */
static int64_t run_length(const pool *p, const int32_t *slot, int64_t i, int64_t step, int64_t left,
                          int64_t to)
{
    int64_t n = 1, tokens = p->tokens_per_page;
    if (p->token_bytes != p->run_bytes)
        return 1;
    int64_t from_room = step > 0 ? tokens - slot[i] % tokens : slot[i] % tokens + 1;
    int64_t to_room = step > 0 ? tokens - to % tokens : to % tokens + 1;
    left = from_room < left ? from_room : left;
    left = to_room < left ? to_room : left;
    while (n < left && slot[i + n * step] == slot[i] + n * step)
        n++;
    return n;
}

static void compact_pool(const pool *p, const int32_t *slot, int64_t count, int64_t destination)
{
    int64_t n;
    if (destination <= slot[0]) {
        for (int64_t i = 0; i < count; i += n) {
            n = run_length(p, slot, i, 1, count - i, destination + i);
            if (slot[i] != destination + i)
                move_tokens(p, slot[i], destination + i, n);
        }
        return;
    }
    for (int64_t i = count - 1; i >= 0; i -= n) {
        n = run_length(p, slot, i, -1, i + 1, destination + i);
        if (slot[i] != destination + i)
            move_tokens(p, slot[i] - n + 1, destination + i - n + 1, n);
    }
}

/* item: (request * num_kv_heads + head) * 2, + 1 for V */
static void compact_item(void *argument, int64_t item)
{
    const wn_compact_args *args = argument;
    int64_t request = item / 2 / args->kv.num_kv_heads, head = item / 2 % args->kv.num_kv_heads;
    const wn_kv_view *view = item % 2 ? &args->kv.v : &args->kv.k;
    int64_t count = args->offsets[request + 1] - args->offsets[request];
    if (count == 0 || view->data == NULL)
        return;
    pool p = pool_of(args, view, request, head);
    compact_pool(&p, args->indices + head * args->head_stride + args->offsets[request], count,
                 args->destination != NULL ? args->destination[request] : 0);
}

wn_status WN_CPU(compact)(const wn_compact_args *args)
{
    enum { WORTH_THREADS = 64 }; /* tokens of all heads */
    wn_status status = wn_refuse_compact(args);
    if (status != WN_OK || args->kv.batch == 0)
        return status;
    int64_t tokens = args->offsets[args->kv.batch] - args->offsets[0];
    wn_for_each(tokens * args->kv.num_kv_heads < WORTH_THREADS ? NULL : args->executor,
                (int64_t)args->kv.batch * args->kv.num_kv_heads * 2, compact_item, (void *)args);
    return WN_OK;
}
