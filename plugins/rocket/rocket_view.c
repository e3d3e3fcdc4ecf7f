/* rocket_view.c: multi_turn, what stage 2 chooses from while the cache keeps everything
 * (RocketKV-MT).
 *
 * A view belongs to a sequence: one piece of sequence scope, so that forks take a copy with them.
 *   header      see below; zeros, a sequence's beginning, are a view of everything
 *   kept        int32 [num_kv_heads, lists()]: what stage 1 kept of the latest prompt
 *   landmarks   of the view's entries, [num_kv_heads, landmarks of view_capacity entries]
 * Generated tokens are not listed: everything from tail_begin on is in the view. Nothing here is
 * paged by the cache: pages of an early prompt may be shared by sequences that keep other parts of
 * it. To the ops a sequence's landmarks are one page, and its slot in the pool is that page's id.
 *
 * A truncation into the prompt takes entries away. Until the next prompt ends, each head then lists
 * what is left, and the newest other slots in place of what it lost: as many as stage 1 would keep
 * of a prompt that ends there. */
#include "rocket.h"

typedef struct view_header {
    int32_t num_kept, tail_begin;
    int32_t summarised; /* entries that landmarks know */
} view_header;

/* Entries of a head's list: no prompt is longer than the model's longest sequence. */
static int32_t lists(const rocket *self)
{
    return rocket_retained_count((void *)self, (int32_t)self->model->max_position);
}

static uint64_t landmarks_offset(const rocket *self)
{
    const uint64_t entries = (uint64_t)self->model->num_kv_heads * (uint64_t)lists(self);
    return rocket_align(sizeof(view_header)) + rocket_align(entries * sizeof(int32_t));
}

static uint64_t head_bytes(const rocket *self)
{
    return (uint64_t)rocket_landmark_count(self, self->view_capacity) * rocket_landmark_bytes(self);
}

uint64_t rocket_view_bytes(const rocket *self)
{
    return landmarks_offset(self) + self->model->num_kv_heads * head_bytes(self);
}

static view_header *header_of(const wn_step_args *args, uint32_t b)
{
    const wn_aux_view *pool = rocket_landmark_pool(args);
    return (view_header *)(void *)(pool->data + args->sequence_slot[b] * pool->page_stride);
}

static int32_t *kept_of(view_header *header)
{
    return (int32_t *)(void *)((uint8_t *)header + rocket_align(sizeof *header));
}

rocket_view rocket_view_of(const rocket *self, const wn_step_args *args, uint32_t b)
{
    if (!self->multi_turn)
        return (rocket_view){0};
    view_header *header = header_of(args, b);
    return (rocket_view){kept_of(header), lists(self), header->num_kept, header->tail_begin};
}

rocket_landmarks rocket_view_landmarks(const rocket *self, const wn_step_args *args)
{
    const wn_aux_view *pool = rocket_landmark_pool(args);
    const int64_t bytes = (int64_t)rocket_dtype_bytes(self->landmark_dtype);
    return (rocket_landmarks){
        .view = {.data = pool->data + landmarks_offset(self),
                 .page_stride = pool->page_stride / bytes,
                 .head_stride = (int64_t)head_bytes(self) / bytes,
                 .landmark_stride = 2 * (int64_t)self->model->head_dim,
                 .max_offset = self->model->head_dim,
                 .dtype = self->landmark_dtype,
                 .landmark_size = (uint32_t)self->page_size},
        .page_table = args->sequence_slot,
        .page_table_stride = 1,
        .tokens_per_page = (uint32_t)self->view_capacity,
    };
}

uint64_t rocket_view_workspace(const rocket *self, int32_t length)
{
    return (uint64_t)self->model->num_kv_heads * (uint64_t)length * sizeof(int32_t);
}

wn_status rocket_view_update(const rocket *self, const wn_step_args *args, uint32_t b,
                             int32_t first, int32_t end, void *workspace)
{
    const rocket_view view = rocket_view_of(self, args, b);
    const rocket_landmarks landmarks = rocket_view_landmarks(self, args);
    const int32_t begin = first - first % self->page_size;
    int32_t *gather = workspace; /* [num_kv_heads, end], read and written from begin on */
    for (uint32_t h = 0; h < self->model->num_kv_heads; h++)
        for (int32_t entry = begin; entry < end; entry++)
            gather[(int64_t)h * end + entry] = rocket_view_slot(&view, h, entry);
    const wn_landmark_update_args update = {
        .struct_size = WN_SIZEOF(wn_landmark_update_args),
        .executor = args->executor,
        .stream = args->stream,
        .error = args->error,
        .kv = rocket_one_request(&args->kv, b),
        .begin = &begin,
        .landmarks = landmarks.view,
        .gather = gather,
        .gather_head_stride = end,
        .count = &end,
        .landmark_page_table = landmarks.page_table + b,
        .landmark_page_table_stride = landmarks.page_table_stride,
        .landmark_tokens_per_page = landmarks.tokens_per_page,
    };
    return args->ops->landmark_update(&update);
}

/* Of a prompt that was kept in part, only `length` tokens are left. The lists are filled up from
 * their ends: entries that are left are never behind their new places. */
static void cut(const rocket *self, view_header *header, int32_t length)
{
    const int32_t wanted = rocket_retained_count((void *)self, length);
    for (uint32_t h = 0; h < self->model->num_kv_heads; h++) {
        int32_t *kept = kept_of(header) + (int64_t)h * lists(self);
        int32_t left = header->num_kept, slot = length - 1;
        while (left > 0 && kept[left - 1] >= length)
            left--;
        for (int32_t to = wanted; to > left; slot--) {
            const int is_left = left > 0 && kept[left - 1] == slot;
            left -= is_left;
            kept[--to] = slot;
        }
    }
    *header = (view_header){wanted, length, 0};
}

/* A prompt is complete: lists what stage 1 keeps of everything that is cached. */
static wn_status rebuild(const rocket *self, const wn_step_args *args, uint32_t b,
                         view_header *header)
{
    const int32_t length = args->kv.length[b];
    wn_status status = rocket_keep(self, args, b, args->workspace, kept_of(header), lists(self));
    if (status == WN_OK)
        *header = (view_header){rocket_retained_count((void *)self, length), length, 0};
    return status;
}

/* Brings the landmarks up to date with all entries. */
static wn_status summarise(const rocket *self, const wn_step_args *args, uint32_t b,
                           view_header *header)
{
    const rocket_view view = rocket_view_of(self, args, b);
    const int32_t length = args->kv.length[b], entries = rocket_view_entries(&view, length);
    wn_status status = WN_OK;
    if (entries > self->view_capacity)
        return wn_fail(
            args->error, WN_ERANGE,
            "rocket: layer %u, sequence %lld: %d tokens since the prompt's end, where "
            "max_new_tokens leaves room for %d: raise it, or leave it out for any number",
            args->layer, (long long)args->sequence[b], length - view.tail_begin,
            self->view_capacity - view.num_kept);
    if (header->summarised < entries)
        status = rocket_view_update(self, args, b, header->summarised, entries, args->workspace);
    if (status == WN_OK)
        header->summarised = entries;
    return status;
}

static wn_status observe_request(const rocket *self, const wn_step_args *args, uint32_t b)
{
    view_header *header = header_of(args, b);
    const int32_t old = args->dirty_begin[b]; /* slots that are as they were */
    if (old < header->tail_begin)
        cut(self, header, old);
    const rocket_view view = rocket_view_of(self, args, b);
    const int32_t unchanged = rocket_view_entries(&view, old);
    if (header->summarised > unchanged)
        header->summarised = unchanged;
    if (args->request_flags[b] & WN_REQUEST_LAST_CHUNK) {
        wn_status status = rebuild(self, args, b, header);
        return status != WN_OK ? status : summarise(self, args, b, header);
    }
    /* Nobody asks in the middle of a prompt; its end makes everything anew. */
    return args->phase == WN_PHASE_CONTEXT ? WN_OK : summarise(self, args, b, header);
}

wn_status rocket_view_observe(const rocket *self, const wn_step_args *args)
{
    wn_status status = WN_OK;
    for (uint32_t b = 0; b < args->batch && status == WN_OK; b++)
        status = observe_request(self, args, b);
    return status;
}
