/* winnow.h: sparse attention for LLM inference, the host's side.
 *
 * A host opens a registry of plugins, loads a configuration, creates an engine for a model, and
 * then, step by step, hands over queries, keys and values:
 *
 *     wn_registry *registry;  wn_registry_open(NULL, &registry);
 *     wn_config *config;      wn_config_load("sparse.yaml", &config);
 *     wn_engine *engine;      wn_engine_create(registry, config, &model, NULL, &engine);
 *     wn_sequence sequence;   wn_sequence_create(engine, &sequence);
 *     ...
 *     wn_batch *batch;        wn_batch_begin(engine, items, num_items, &batch);
 *     for (layer = 0; layer < model.num_layers; layer++)
 *         wn_attention(batch, layer, WN_ARGS(wn_attention_args, .q = q, .k = k, .v = v, .out = o));
 *     wn_batch_end(batch);
 *
 * Winnow keeps K and V in pages, asks the configured methods which keys matter, and attends to
 * those. The arithmetic alone, stateless, is wn_cpu_ops() and winnow/ops.h.
 *
 * Errors. Every function that can fail returns a wn_status; the text of this thread's latest
 * failure is wn_error_text(). After a failure the objects are as they were before the call, unless
 * the function says otherwise.
 *
 * Threads. Functions on different engines never interfere. On one engine, create, fork and free of
 * sequences, counters, and steps over disjoint sets of sequences may run side by side; a sequence
 * belongs to one batch at a time. A batch is driven by one thread.
 *
 * Structs that begin with struct_size must have it set: WN_ARGS does. Everything else zero is the
 * default. */
#ifndef WINNOW_WINNOW_H
#define WINNOW_WINNOW_H

#include "winnow/config.h"
#include "winnow/executor.h"
#include "winnow/model.h"
#include "winnow/ops.h"
#include "winnow/status.h"
#include "winnow/step.h"
#include "winnow/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A pointer to a struct with struct_size set and the named fields: C99 compound literal. */
#define WN_ARGS(type, ...) (&(type){.struct_size = WN_SIZEOF(type), __VA_ARGS__})

#define WN_LIBRARY_VERSION "0.1.0"

/* ---------------------------------------------------------------- errors and logging */

/* "out of KV cache pages" for WN_ENOPAGES; "unknown status" for a number that is none. */
WN_EXPORT const char *wn_status_text(wn_status status);
/* "WN_ENOPAGES" */
WN_EXPORT const char *wn_status_name(wn_status status);
/* What the latest failing call of this thread said. Read it at once: valid until this thread's next
 * call of any function of this header. */
WN_EXPORT const char *wn_error_text(void);

/* Receives log lines instead of stderr; NULL restores stderr. Which lines are written is decided by
 * the environment variable WINNOW_LOG, a comma list of search, load, step, all; unset: none. */
typedef void (*wn_log_sink)(void *context, uint32_t level, const char *topic, const char *text);
WN_EXPORT void wn_log_to(wn_log_sink sink, void *context);

/* ---------------------------------------------------------------- registry of plugins */

typedef struct wn_registry wn_registry;

/* One plugin file, as its note says; none of its code has run. Strings belong to the registry and
 * live until the next rescan or close. */
typedef struct wn_plugin_info {
    uint32_t struct_size;
    uint32_t interfaces; /* WN_HAS_... */
    uint32_t devices;    /* WN_DEVICES_... */
    uint32_t abi_built;
    const char *path;
    const char *algorithm;
    const char *version;
    const char *license;
    const char *summary;
    /* NULL: usable. Otherwise why not: a refused security check, another ABI, a malformed note, or
     * the path of the plugin of the same algorithm that is taken instead. */
    const char *problem;
} wn_plugin_info;
WN_STRUCT(wn_plugin_info, problem);

/* Scans for plugins. path: directories separated by ':', searched first and in order; NULL: none.
 * Then follow WINNOW_PLUGIN_PATH (ignored when privileges differ), $XDG_DATA_HOME/winnow/plugins or
 * ~/.local/share/winnow/plugins, and the installed plugin directory. Files without a Winnow note
 * are passed over. One bad file does not hide the others: it is listed with its problem. */
WN_EXPORT wn_status wn_registry_open(const char *path, wn_registry **registry);
/* Engines hold on to what they use: closing first is fine. NULL is fine. */
WN_EXPORT void wn_registry_close(wn_registry *registry);
/* Looks again. New files serve engines created from now on; what runs is left alone. */
WN_EXPORT wn_status wn_registry_rescan(wn_registry *registry);
WN_EXPORT uint32_t wn_registry_count(const wn_registry *registry);
/* info->struct_size must be set. */
WN_EXPORT wn_status wn_registry_info(const wn_registry *registry, uint32_t index,
                                     wn_plugin_info *info);
/* The directories searched, one per line, with a remark for those that were not. */
WN_EXPORT const char *wn_registry_searched(const wn_registry *registry);

/* The schema of an algorithm; loads its plugin. Valid until the registry is closed. */
WN_EXPORT wn_status wn_registry_schema(wn_registry *registry, const char *algorithm,
                                       const wn_config_interface **schema);

/* ---------------------------------------------------------------- configuration */

typedef struct wn_config wn_config;

/* Reads YAML (TensorRT-LLM's extra-options form). All errors of the file are in wn_error_text(),
 * one per line, as file:line:column: text. Keys of algorithms are checked later, against the
 * algorithm's schema, by wn_engine_create and wn_engine_check, in the same form. */
WN_EXPORT wn_status wn_config_load(const char *path, wn_config **config);
/* The same from memory; name stands for the file in messages. */
WN_EXPORT wn_status wn_config_parse(const char *text, size_t bytes, const char *name,
                                    wn_config **config);
WN_EXPORT void wn_config_free(wn_config *config);
/* Remarks that are no errors (a key of TensorRT-LLM that has no meaning here ...), one per line. */
WN_EXPORT const char *wn_config_notes(const wn_config *config);

/* ---------------------------------------------------------------- engine */

typedef struct wn_engine wn_engine;

/* What the host decides rather than the file. Zero means: from the configuration, else the default
 * in brackets. */
typedef struct wn_engine_options {
    uint32_t struct_size;
    uint32_t tokens_per_page; /* [32] */
    uint64_t max_tokens;      /* capacity of the cache in tokens [max(max_position, 8192)] */
    uint32_t max_sequences;   /* alive at once [64] */
    uint32_t max_batch;       /* requests in one step [max_sequences] */
    uint32_t max_step_tokens; /* query tokens in one step [8192] */
    uint32_t kv_dtype;        /* WN_F32, F16, BF16, F8_E4M3, I8 [the model's dtype] */
    uint32_t device;          /* WN_DEVICE_CPU [CPU] */
    /* 1: keep the logical position of every key, so that positions given with wn_batch_begin may
     * have gaps. Layers that evict keep them anyway. 4 bytes per token, KV head and layer. */
    uint32_t keep_positions;
    const char *layout;          /* "hnd", "nhd", "vec" ["hnd"]; copied */
    const wn_executor *executor; /* NULL: OpenMP. Must outlive the engine */
} wn_engine_options;
WN_STRUCT(wn_engine_options, executor);

/* model: copied, arrays included. options: NULL for all defaults. A refusal lists every reason in
 * wn_error_text(), one per line. */
WN_EXPORT wn_status wn_engine_create(wn_registry *registry, const wn_config *config,
                                     const wn_model *model, const wn_engine_options *options,
                                     wn_engine **engine);
/* Frees the engine and its sequences. WN_EBUSY while a batch is open: then nothing happens. */
WN_EXPORT wn_status wn_engine_free(wn_engine *engine);

/* Bytes that an engine takes, to the byte, before anything is allocated. */
typedef struct wn_memory_plan {
    uint32_t struct_size;
    uint32_t num_aux; /* entries used in aux_name, aux_bytes */
    uint64_t k_bytes, v_bytes;
    uint64_t scale_bytes;    /* scales of quantised caches */
    uint64_t position_bytes; /* logical positions, for layers that evict */
    uint64_t page_table_bytes;
    /* Of one open batch: selections, plugins' workspaces and step memory, and room for partial
     * results of attention (wn_attend_args.workspace). Kept for the next batch; room that no step
     * uses stays untouched. */
    uint64_t workspace_bytes;
    uint64_t aux_bytes[16];
    char aux_name[16][48];    /* "method.pool" */
    uint64_t capacity_tokens; /* what the pages of a layer hold: divides into bytes per token */
    uint64_t total_bytes;
} wn_memory_plan;
WN_STRUCT(wn_memory_plan, total_bytes);

/* Would such an engine work? Answers without allocating caches: WN_OK, or every reason in
 * wn_error_text(). plan, memory: may be NULL; *plan is a text, one line per layer range, freed by
 * wn_text_free. */
WN_EXPORT wn_status wn_engine_check(wn_registry *registry, const wn_config *config,
                                    const wn_model *model, const wn_engine_options *options,
                                    char **plan, wn_memory_plan *memory);
WN_EXPORT void wn_text_free(char *text);
WN_EXPORT wn_status wn_engine_memory(const wn_engine *engine, wn_memory_plan *memory);
/* The extra inputs that every step must bring, one per index: its name (the method's own string)
 * and, in *shape, what it should look like for a step of `tokens` query tokens: shape, ndim, dtype,
 * data NULL. WN_ENOTFOUND past the last one, WN_EUNSUPPORTED if the method does not tell the shape.
 */
WN_EXPORT wn_status wn_engine_input(const wn_engine *engine, uint32_t index, int64_t tokens,
                                    const char **name, wn_tensor *shape);
/* One line per layer range: who does what in each phase, and why a layer is dense. */
WN_EXPORT const char *wn_engine_plan(const wn_engine *engine);

/* ---------------------------------------------------------------- sequences */

/* A request's place in the cache. 0 is never a sequence. */
typedef int64_t wn_sequence;

WN_EXPORT wn_status wn_sequence_create(wn_engine *engine, wn_sequence *sequence);
/* A copy that shares pages until one of both writes to them. WN_EBUSY while parent is in a batch.
 */
WN_EXPORT wn_status wn_sequence_fork(wn_engine *engine, wn_sequence parent, wn_sequence *child);
/* Forgets tokens from the end, down to `length` tokens in all. WN_ERANGE if that would reach into
 * tokens among which an eviction has chosen. */
WN_EXPORT wn_status wn_sequence_truncate(wn_engine *engine, wn_sequence sequence, int32_t length);
WN_EXPORT wn_status wn_sequence_free(wn_engine *engine, wn_sequence sequence);

/* logical: tokens seen. physical: tokens still stored on `layer`. Either may be NULL. */
WN_EXPORT wn_status wn_sequence_length(wn_engine *engine, wn_sequence sequence, uint32_t layer,
                                       int32_t *logical, int32_t *physical);
/* Logical position of each stored token, in slot order: positions [physical length]. */
WN_EXPORT wn_status wn_sequence_positions(wn_engine *engine, wn_sequence sequence, uint32_t layer,
                                          uint32_t kv_head, int32_t *positions, int32_t capacity);

/* ---------------------------------------------------------------- steps */

typedef struct wn_batch wn_batch;

enum {
    /* These tokens belong to the prompt: the context phase. Without it, they were generated. */
    WN_ITEM_CONTEXT = 1,
    /* The prompt goes on in a later step (chunked prefill): methods that evict wait for its end. */
    WN_ITEM_MORE = 2
};

/* One request of a step. Several generated tokens at once are fine (speculative decoding). */
typedef struct wn_batch_item {
    uint32_t struct_size;
    uint32_t flags; /* WN_ITEM_... */
    wn_sequence sequence;
    int32_t num_tokens; /* >= 0 */
    int32_t reserved;
    /* [num_tokens] logical positions, ascending, beyond all earlier ones; NULL: go on from where
     * the sequence is. Gaps need wn_engine_options.keep_positions. */
    const int32_t *positions;
} wn_batch_item;
WN_STRUCT(wn_batch_item, positions);

/* Takes slots for all new tokens, or, WN_ENOPAGES, for none. Rows of q, k, v and out belong to the
 * items in order; rows beyond them are padding. The arrays are copied. Context and generation
 * items mix freely. */
WN_EXPORT wn_status wn_batch_begin(wn_engine *engine, const wn_batch_item *items,
                                   uint32_t num_items, wn_batch **batch);

enum {
    /* Check everything, compute nothing: out is 0, lse is -inf. For a host's profiling run; such a
     * batch ends with wn_batch_abort. */
    WN_ATTENTION_DRY_RUN = 1
};

/* One layer of one step. All strides are free except that channels are contiguous (stride 1).
 *   q, k, v given     append, then attend
 *   qkv given         the same from one fused tensor [tokens, (heads + 2*kv_heads) * head_dim]
 *   out absent        append only
 *   k, v absent       attend only; the layer was appended in this batch before
 * An MLA model has no v, which is a part of k, and no fused form. Dtypes are the model's. LSE is
 * natural-log; sinks, where given, are in it. */
typedef struct wn_attention_args {
    uint32_t struct_size;
    uint32_t flags; /* WN_ATTENTION_... */
    wn_tensor q;    /* [tokens, num_heads, head_dim] */
    wn_tensor k;    /* [tokens, num_kv_heads, head_dim] */
    wn_tensor v;    /* [tokens, num_kv_heads, v_head_dim]; MLA: absent */
    wn_tensor qkv;
    wn_tensor out;             /* [tokens, num_heads, v_head_dim]; padding rows become 0 */
    wn_tensor lse;             /* F32 [tokens, num_heads]; padding rows become -inf. Optional */
    float softmax_scale;       /* 0: the model's */
    float soft_cap;            /* c * tanh(s / c); 0: off */
    int32_t window;            /* newest positions visible, own included; 0: all */
    int32_t token_sinks;       /* first positions visible beside the window */
    float k_scale, v_scale;    /* quantised caches: per-tensor scales instead of one per token and
                                  head; the same at every call of a layer. 0: per token and head */
    const float *alibi_slopes; /* [num_heads] or NULL */
    const float *sinks;        /* [num_heads] logits in the denominator, or NULL */
    /* [num_inputs] extra inputs of model-native methods, in the call that attends; one that only
       appends may bring them too */
    const wn_named_input *inputs;
    uint32_t num_inputs;
    uint32_t reserved;
} wn_attention_args;
WN_STRUCT(wn_attention_args, reserved);

/* Every layer once per batch (or once to append, then once to attend), in any order. If it fails,
 * the batch can only be ended or aborted. */
WN_EXPORT wn_status wn_attention(wn_batch *batch, uint32_t layer, const wn_attention_args *args);
/* Frees evicted pages, closes the step. WN_ESTATE if wn_attention failed, or if a layer was left
 * out, or only appended although a method works on it (it has not seen the new keys then): the step
 * is undone as by wn_batch_abort. The batch is gone in either case. */
WN_EXPORT wn_status wn_batch_end(wn_batch *batch);
/* Undoes the step: sequences have their lengths from before it; what methods keep per sequence may
 * be ahead. Sequences which a layer has already compacted in this step cannot be restored: they are
 * freed, and their handles are no longer valid. */
WN_EXPORT wn_status wn_batch_abort(wn_batch *batch);

/* What the methods chose in the latest wn_attention of this batch: for reports and tests. Lists are
 * slots (physical), ascending, without duplicates. Pointers live until the batch's next call. */
typedef struct wn_choice {
    uint32_t struct_size;
    uint32_t phase;
    const wn_selection *select;  /* NULL: dense */
    const int32_t *select_row;   /* [items of the phase] first row of each */
    const wn_selection *retain;  /* NULL: nothing was evicted */
    const uint32_t *retain_item; /* [retain->rows] index into the batch's items */
    const uint32_t *item;        /* [num_items] the phase's items, as indices into the batch's */
    uint64_t num_items;
} wn_choice;
WN_STRUCT(wn_choice, num_items);

/* choice->struct_size and choice->phase must be set. */
WN_EXPORT wn_status wn_batch_choice(const wn_batch *batch, wn_choice *choice);

/* ---------------------------------------------------------------- counters */

/* Totals of one layer and phase since the engine was created. */
typedef struct wn_counters {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t calls; /* wn_attention calls that had requests in this phase */
    uint64_t query_tokens;
    uint64_t keys_visible;  /* sum over query tokens and KV heads of stored keys they could see */
    uint64_t keys_selected; /* sum of keys that the selection names; dense: keys_visible */
    uint64_t keys_attended; /* the same after widening to pages */
    /* By the attention op: see wn_attend_counters. MLA: V is read with K, and a selected token once
       for all heads. */
    uint64_t k_bytes_read, v_bytes_read;
    uint64_t aux_bytes_read; /* page-scope auxiliary memory of the requests, for select */
    uint64_t tiles_seen, tiles_skipped;
    uint64_t tokens_dropped;  /* evicted, summed over KV heads */
    uint64_t dense_fallbacks; /* calls that went dense because of on_error: dense */
    uint64_t append_ns, observe_ns, select_ns, attend_ns, retain_ns; /* only with timing on */
} wn_counters;
WN_STRUCT(wn_counters, retain_ns);

WN_EXPORT wn_status wn_engine_counters(const wn_engine *engine, uint32_t layer, uint32_t phase,
                                       wn_counters *counters);
/* Tiles per head: [num_heads] in the context phase, [num_kv_heads] in generation. */
WN_EXPORT wn_status wn_engine_head_counters(const wn_engine *engine, uint32_t layer, uint32_t phase,
                                            wn_attend_counters *counters, uint32_t capacity);
/* Measure the parts of each step (two clock reads per part). Off by default. */
WN_EXPORT void wn_engine_timing(wn_engine *engine, int32_t on);

/* ---------------------------------------------------------------- arithmetic, threads, tensors */

/* The CPU op table, best variants for this machine; WINNOW_KERNELS=ref masks them. */
WN_EXPORT const wn_ops *wn_cpu_ops(void);
/* Which variant each op of wn_cpu_ops() is, and why: one line per op. */
WN_EXPORT const char *wn_cpu_ops_report(void);
/* Attention's weights exp(score - maximum) are float32 when they meet V, but for variants whose
 * instructions multiply bfloat16: where V and the output are bfloat16, those round the weights too,
 * as kernels for GPUs do. The relative rounding of wn_cpu_ops(): 2^-8, or 0. It moves an output by
 * at most that much of the greatest |v|. WINNOW_KERNELS=avx512_vnni avoids it. */
WN_EXPORT double wn_cpu_weight_rounding(void);
/* All variants of this build by index, slowest first ("ref", "avx2", ...); NULL beyond the last. */
WN_EXPORT const char *wn_cpu_variant_name(uint32_t index);
/* One variant's table; ops that it lacks are those of the variants below it. For benchmarks and
 * bisection: wn_cpu_ops() is what engines use. NULL: no such variant, or not on this machine. */
WN_EXPORT const wn_ops *wn_cpu_variant_ops(const char *variant);
/* Which variant an op ("topk") of that table comes from; NULL: no such variant or op. */
WN_EXPORT const char *wn_cpu_variant_of_op(const char *variant, const char *op);
/* The OpenMP executor that engines use by default. */
WN_EXPORT const wn_executor *wn_executor_default(void);

/* A contiguous tensor. shape: [ndim]. */
WN_EXPORT wn_tensor wn_tensor_make(void *data, uint32_t dtype, uint32_t ndim, const int64_t *shape);
/* "bfloat16" for WN_BF16, NULL for no dtype; and back, 0 for no name. Bytes per element. */
WN_EXPORT const char *wn_dtype_name(uint32_t dtype);
WN_EXPORT uint32_t wn_dtype_from_name(const char *name);
WN_EXPORT uint32_t wn_dtype_bytes(uint32_t dtype);

/* Views of the same memory; nothing is copied or owned. dltensor: a `DLTensor *` of dlpack.h, which
 * has no name that could be declared here. */
WN_EXPORT wn_status wn_tensor_from_dlpack(const void *dltensor, wn_tensor *to);
/* shape, strides: the caller's [WN_MAX_DIMS], which the DLTensor points to afterwards. */
WN_EXPORT wn_status wn_tensor_to_dlpack(const wn_tensor *from, void *dltensor, int64_t *shape,
                                        int64_t *strides);

#ifdef __cplusplus
}
#endif
#endif
