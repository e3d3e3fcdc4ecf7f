/* step.h: what a plugin is told about one layer of one step. One flat struct for all calls. */
#ifndef WINNOW_STEP_H
#define WINNOW_STEP_H

#include "winnow/cache_view.h"
#include "winnow/executor.h"
#include "winnow/model.h"
#include "winnow/ops.h"
#include "winnow/status.h"

/* Bits of wn_step_args.request_flags. */
enum {
    WN_REQUEST_FIRST_CHUNK = 1, /* the sequence was empty before this step */
    WN_REQUEST_LAST_CHUNK = 2   /* the prompt is complete with this step */
};

/* Memory of one auxiliary pool declared by the plugin (aux_pool.h), this layer's part of it.
 *   page scope      bytes of (page p, KV head h): data + p*page_stride + h*head_stride
 *   sequence scope  bytes of request b: data + sequence_slot[b]*page_stride
 * Strides in bytes. Embedded by value: frozen. */
typedef struct wn_aux_view {
    uint8_t *data;
    int64_t page_stride, head_stride;
} wn_aux_view;
WN_STRUCT(wn_aux_view, head_stride);

/* An extra input that a model-native method needs, e.g. "indexer.q". Embedded by value: frozen. */
typedef struct wn_named_input {
    const char *name;
    wn_tensor tensor; /* [total tokens of the step, ...] */
} wn_named_input;
WN_STRUCT(wn_named_input, tensor);

/* Arrays have `batch` entries unless said otherwise; pointers are the host's and are valid during
 * the call. On CUDA every pointer is device memory, except model, aux, inputs, ops and error. */
typedef struct wn_step_args {
    uint32_t struct_size;
    uint32_t layer; /* 0 .. model->num_layers - 1 */
    uint32_t phase; /* WN_PHASE_...; a mixed step is split into one call per phase */
    uint32_t batch; /* requests in this call */
    const wn_model *model;
    wn_tensor q;                   /* [tokens, num_heads, head_dim], after RoPE */
    const int32_t *q_begin;        /* first row of q of each request */
    const int32_t *q_len;          /* new tokens of each request; 0 is allowed */
    const int32_t *position;       /* [tokens] logical position of each row of q */
    const int32_t *logical_length; /* tokens the sequence has seen, the new ones included */
    /* First slot that was written or moved since the last observe; [dirty_begin, kv.length) is
     * what observe() has to bring up to date. */
    const int32_t *dirty_begin;
    const uint32_t *request_flags; /* WN_REQUEST_... */
    const int64_t *sequence;       /* the host's handle of each sequence */
    const int32_t *sequence_slot;  /* place in sequence-scope auxiliary pools */
    wn_paged_kv kv;                /* kv.length is the physical length */
    const wn_aux_view *aux;        /* [num_aux] in the order of declare() */
    const wn_named_input *inputs;  /* [num_inputs] in the order of the plugin's list */
    uint32_t num_aux;
    uint32_t num_inputs;
    float softmax_scale;
    uint32_t device; /* WN_DEVICE_... */
    void *workspace; /* of the size that bounds() asked for, 64-byte aligned, contents undefined */
    uint64_t workspace_bytes;
    /* This method's own memory for one step, of the size that bounds() asked for as step_bytes:
     * what one layer's call leaves there, the calls of later layers of the same step find (a
     * selection that several layers share). Each phase has its own. Undefined before a method's
     * first call in a step. */
    void *step_memory;
    uint64_t step_memory_bytes;
    const wn_ops *ops;
    const wn_executor *executor;
    void *stream; /* CUDA: the host's stream, never the default one. CPU: NULL */
    wn_error *error;
} wn_step_args;
WN_STRUCT(wn_step_args, error);

#endif
