/* ops.h: the op table. Every piece of arithmetic in Winnow is one of these functions, for plugins
 * (winnow.ops/1), for the framework and, stateless, for a host that wants the arithmetic alone.
 *
 * Each op takes one flat struct. All begin with the same five fields:
 *   struct_size  WN_SIZEOF(the struct)
 *   reserved     0
 *   executor     how to spread the work; NULL: the calling thread alone
 *   stream       CUDA stream; NULL on CPU
 *   error        where a failure's text goes; NULL: nowhere
 * Ops allocate nothing, keep no state and are reentrant. Results do not depend on the executor,
 * nor on the batch's other members. Inputs are not changed. An op returns WN_EINVAL with a text for
 * arguments that contradict each other, WN_EUNSUPPORTED for a dtype or shape that it does not take,
 * and has then written nothing. Zero requests, rows or tokens are fine and do nothing.
 *
 * Conventions: softmax statistics are natural-log. A row that sees no key gives output 0 and LSE
 * -inf, sinks or not. In attention: scale, ALiBi, soft cap, mask, softmax; sinks join the
 * denominator once; a NaN score makes its row NaN, and no other. In selections -0 equals +0, ties
 * go to the lower index, NaN scores count as -inf, and -inf is never selected. */
#ifndef WINNOW_OPS_H
#define WINNOW_OPS_H

#include "winnow/cache_view.h"
#include "winnow/executor.h"
#include "winnow/model.h"
#include "winnow/selection.h"
#include "winnow/status.h"
#include "winnow/tensor.h"

#define WN_MAX_HEAD_DIM 1024
#define WN_MAX_VOTING_ROWS 1024 /* of one voting unit, see wn_tile_policy */
#define WN_MAX_WINDOW_ROWS 4096 /* window queries times query heads per KV head */

/* ---------------------------------------------------------------- cache family */

/* Rotates q and k (optional), quantises k and v (if the cache's dtype asks for it) and writes them
 * to their slots. Rotation of the pair (a, b) at position p with frequency f: a' = a cos(pf) -
 * b sin(pf), b' = b cos(pf) + a sin(pf); angles in double. A per-token scale is
 * max|x| / greatest code (448 e4m3, 127 int8), or 1 for a row of zeros. */
typedef struct wn_append_args {
    uint32_t struct_size;
    uint32_t reserved;
    const wn_executor *executor;
    void *stream;
    wn_error *error;
    wn_tensor q;        /* [tokens, num_heads, head_dim]; data NULL: q is not rotated here */
    wn_tensor q_out;    /* like q; may be q itself */
    wn_tensor k;        /* [tokens, num_kv_heads, head_dim]; F32, F16, BF16; data NULL: no k, v */
    wn_tensor v;        /* [tokens, num_kv_heads, v_head_dim]; data NULL: V is a part of K (MLA) */
    wn_kv_view k_cache; /* written, scales included */
    wn_kv_view v_cache;
    const int64_t *slot;     /* [tokens] page * tokens_per_page + place; negative: skip the token */
    const int32_t *position; /* [tokens] logical, for RoPE and key_position */
    int32_t *key_position;   /* paged as in wn_paged_kv.position, written; NULL: not kept */
    int64_t key_position_page_stride, key_position_head_stride;
    const float *rope_inverse_frequency; /* [rope_dim/2] or NULL: rope_theta^(-2i/rope_dim) */
    float rope_theta;
    uint32_t rope; /* WN_ROPE_... */
    uint32_t rope_dim, rope_offset;
    uint32_t tokens_per_page;
    uint32_t num_tokens;
} wn_append_args;
WN_STRUCT(wn_append_args, num_tokens);

/* Moves the kept tokens of each request together, per KV head: kept token i of head h goes to slot
 * destination[b] + i. K, V, their scales and positions move; no arithmetic touches the codes.
 * kv.v.data NULL: only K moves, which is how a cache is compacted whose V is a part of K (MLA). */
typedef struct wn_compact_args {
    uint32_t struct_size;
    uint32_t reserved;
    const wn_executor *executor;
    void *stream;
    wn_error *error;
    wn_paged_kv kv;         /* kv.length: physical length before */
    const int32_t *indices; /* slots to keep, strictly ascending; head h, request b:
                               indices[h*head_stride + offsets[b] .. offsets[b+1]) */
    const int32_t *offsets; /* [batch + 1] */
    int64_t head_stride;
    const int32_t *destination; /* [batch] first slot to fill; NULL: 0 (to the front). To the end of
                                   a prompt of P: P - n. destination + i must be on the same side
                                   of indices[i] for all i of a list */
} wn_compact_args;
WN_STRUCT(wn_compact_args, destination);

/* Widens a selection to whole pages: the union, per request and KV head, of the pages that its
 * blocks touch, ascending. */
typedef struct wn_gather_pages_args {
    uint32_t struct_size;
    uint32_t reserved;
    const wn_executor *executor;
    void *stream;
    wn_error *error;
    const wn_selection *selection; /* physical, one row per request */
    const int32_t *page_table;     /* [batch, page_table_stride] */
    int64_t page_table_stride;
    const int32_t *length; /* [batch] physical */
    uint32_t batch, num_kv_heads, tokens_per_page, reserved1;
    int32_t *pages;       /* out [num_kv_heads, batch, pages_stride] page ids, rest untouched */
    int64_t pages_stride; /* >= ceil(longest / tokens_per_page) */
    int32_t *page_count;  /* out [num_kv_heads, batch] */
    int32_t *page_length; /* out [num_kv_heads, batch] tokens in those pages: only the last page of
                             the request can be partial */
} wn_gather_pages_args;
WN_STRUCT(wn_gather_pages_args, page_length);

/* Copies whole pages inside one pool, byte for byte: copy on write. */
typedef struct wn_copy_pages_args {
    uint32_t struct_size;
    uint32_t reserved;
    const wn_executor *executor;
    void *stream;
    wn_error *error;
    void *pool;
    int64_t page_bytes;    /* distance between pages and size of one */
    const int32_t *source; /* [count] page ids; no page is both a source and a destination */
    const int32_t *destination;
    int64_t count;
} wn_copy_pages_args;
WN_STRUCT(wn_copy_pages_args, count);

/* ---------------------------------------------------------------- attend family */

/* Statistics of one tile (tile_q query rows by tile_k keys) for a voting function. */
typedef struct wn_tile_stats {
    uint32_t struct_size;
    uint32_t rows;             /* rows that vote; rows which see no key of the tile do not */
    const double *tile_max;    /* [rows] greatest masked score of each row in this tile */
    const double *running_max; /* [rows] greatest of the tiles kept so far and this one */
    int32_t request, head;     /* head: query head in context, KV head in generation */
    int64_t first_key;         /* ordinal of the tile's first key among the keys attended to */
} wn_tile_stats;
WN_STRUCT(wn_tile_stats, first_key);

enum { WN_TILE_NONE = 0, WN_TILE_SKIP_SOFTMAX = 1, WN_TILE_VOTE = 2 };

/* A rule inside the attention kernel. A tile is left out (no exp, no sum, no V) only if every row
 * of its voting unit agrees; the first tile that a unit sees never is. The voting unit is
 *   context     one query head, tile_q consecutive query tokens of one request
 *   generation  one KV head: all query heads of the group, all query tokens of the request; more
 *               than WN_MAX_VOTING_ROWS rows are WN_EUNSUPPORTED
 * and, where there is a selection, only those of its queries that share a row of it (tile_q then
 * counts from the first query of that row). Rows that see no key of a tile do not vote, a tile of
 * which no row sees a key counts as not seen. Tile t is slots t*tile_k .. (t+1)*tile_k - 1, or that
 * many consecutive selected tokens. A tile that is left out changes nothing, the running maxima
 * included.
 * SKIP_SOFTMAX: a row agrees when tile_max - running_max < log_threshold[request]; -inf never
 * agrees and is bit-exact dense. VOTE: vote() returns 1 to leave the tile out; CPU only. */
enum {
    /* Generation: the rule compares with the greatest score of all the row's keys, not with the
     * running one: all of QK first, then V. Independent of the tiles' order and of any split of the
     * keys. The first tile may be left out too, but never a tile with the greatest score of a row.
     * With thresholds <= 0 it skips at least as much as one pass. SKIP_SOFTMAX only. */
    WN_TILE_TWO_PASS = 1
};

typedef struct wn_tile_policy {
    uint32_t struct_size;
    uint32_t kind;  /* WN_TILE_... */
    uint32_t flags; /* WN_TILE_TWO_PASS */
    uint32_t reserved;
    uint32_t tile_q;      /* query tokens per tile, 1 .. 64, context only; 0: 64 */
    uint32_t tile_k;      /* keys per tile, 1 .. 256; 0: 64 */
    float *log_threshold; /* [batch] ln(lambda), host's buffer, filled by the plugin */
    void *context;
    int32_t (*vote)(void *context, const wn_tile_stats *stats);
} wn_tile_policy;
WN_STRUCT(wn_tile_policy, vote);

/* Integer counters of one voting unit's head, added to atomically. Embedded by value: frozen. */
typedef struct wn_attend_counters {
    int64_t tiles_seen, tiles_skipped;
    int64_t keys_read; /* rows of K read: generation once per group, context once per query tile */
    int64_t values_read; /* rows of V read: keys_read less those of skipped tiles */
} wn_attend_counters;
WN_STRUCT(wn_attend_counters, values_read);

enum { WN_GRANULARITY_EXACT = 0, WN_GRANULARITY_PAGE = 1 };

/* Attention over a paged cache, one struct for both ops: `context` for long runs of queries,
 * `generation` for a few per request. They compute the same function and differ in what shares a
 * tile (see wn_tile_policy) and in what they are fast at.
 * Query token i of request b, with physical length L and n = q_len[b], sees slot j iff
 *   j <= i + L - n                                    (causal, bottom-right), and
 *   p(j) > P(i) - window, or p(j) < token_sinks       (window > 0), and
 *   j is in its row of the selection                  (selection given),
 * where p(j) is kv.position or j, and P(i) is q_position or i + L - n. */
typedef struct wn_attend_args {
    uint32_t struct_size;
    uint32_t reserved;
    const wn_executor *executor;
    void *stream;
    wn_error *error;
    wn_tensor q;               /* [rows, num_heads, head_dim] F32, F16, BF16 */
    const int32_t *q_begin;    /* [batch] first row of q of each request */
    const int32_t *q_len;      /* [batch] query tokens; 0 is allowed, and so is q_len > length */
    const int32_t *q_position; /* [rows] logical, or NULL */
    wn_paged_kv kv;
    uint32_t causal;     /* 1 or 0 */
    int32_t window;      /* newest positions visible, the query's own included; 0: all */
    int32_t token_sinks; /* first positions always visible, with window > 0 */
    float softmax_scale;
    float soft_cap;                /* c * tanh(s / c); 0: off */
    uint32_t granularity;          /* WN_GRANULARITY_... of the selection */
    const float *alibi_slopes;     /* [num_heads], adds slope * (p(j) - P(i)); NULL: off */
    const float *sinks;            /* [num_heads] logits that join the denominator; NULL: off */
    const wn_selection *selection; /* physical, WN_SELECTION_SORTED, no duplicates; NULL: dense */
    const int32_t *selection_row;  /* [batch] first row of each request in the selection */
    const wn_tile_policy *tile;    /* NULL: none */
    wn_tensor out; /* [rows, num_heads, v_head_dim], written for the requests' rows */
    wn_tensor lse; /* F32 [rows, num_heads]; data NULL: not wanted */
    wn_attend_counters
        *counters; /* [num_heads] in context, [num_kv_heads] in generation; or NULL */
    /* Room for the results of parts of a long request's keys, so that several threads can share
     * one: num_heads * (v_head_dim + 16) * 4 bytes per query token and part; 64 parts at most.
     * Caller's, contents undefined before and after. With less room, or NULL, the same bits come
     * out of fewer threads. In a step it is the engine's, room for a few requests, given to every
     * layer's call in turn: a hook that attends may use it until it returns. */
    void *workspace;
    int64_t workspace_bytes;
} wn_attend_args;
WN_STRUCT(wn_attend_args, workspace_bytes);

/* Merges partial attention outputs over disjoint key sets, in the order of the parts:
 * lse = log sum exp(lse_p), out = sum exp(lse_p - lse) out_p; parts with LSE -inf count nothing. */
typedef struct wn_merge_states_args {
    uint32_t struct_size;
    uint32_t reserved;
    const wn_executor *executor;
    void *stream;
    wn_error *error;
    wn_tensor parts;     /* [parts, rows, num_heads, dim] F32, F16, BF16 */
    wn_tensor parts_lse; /* F32 [parts, rows, num_heads] */
    wn_tensor out;       /* [rows, num_heads, dim] */
    wn_tensor lse;       /* F32 [rows, num_heads]; data NULL: not wanted */
} wn_merge_states_args;
WN_STRUCT(wn_merge_states_args, lse);

/* Where one scope of sparse MLA lies: a paged pool of latents and the rows' tokens in it. Embedded
 * by value: frozen. */
typedef struct wn_mla_scope {
    wn_kv_view k;              /* one head; dim as q's */
    const int32_t *page_table; /* [requests, page_table_stride]; NULL: indices count pool slots,
                                  page * tokens_per_page + place */
    int64_t page_table_stride;
    /* [rows] keys that a row may use: slots below it; with pool slots, the pool's size. */
    const int32_t *limit;
    const int32_t *indices; /* [rows, indices_stride]; NULL: every slot below the limit (dense);
                               count and width then mean nothing */
    int64_t indices_stride;
    const int32_t *count; /* [rows] leading entries that are meant, 0 .. width; NULL: width */
    uint32_t width;       /* entries per row */
    uint32_t tokens_per_page;
} wn_mla_scope;
WN_STRUCT(wn_mla_scope, tokens_per_page);

/* Multi-head latent attention over listed tokens: all query heads share one key vector per token,
 * whose first v_dim channels are the value. An index outside [0, limit) is ignored, -1 included; an
 * index that occurs twice counts twice; order only changes rounding. One softmax over all scopes.
 * A row without a valid index: output 0, LSE -inf, max_logits -inf. Unlike context and generation,
 * the LSE does not contain the sink, so that partial results merge and the sink is applied once:
 * out = sum e^s v / (sum e^s + e^sink), lse = log sum e^s. Formulas: FlashMLA's sparse decode. */
typedef struct wn_mla_args {
    uint32_t struct_size;
    uint32_t reserved;
    const wn_executor *executor;
    void *stream;
    wn_error *error;
    wn_tensor q;                /* [rows, num_heads, dim] F32, F16, BF16 */
    const int32_t *row_request; /* [rows] which page table a row uses; NULL: row r is request r */
    uint32_t v_dim;             /* <= dim */
    uint32_t num_scopes;        /* 1 or 2 */
    wn_mla_scope scope[2];
    const float *sinks; /* [num_heads] or NULL; -inf: none, +inf: output 0 */
    float softmax_scale;
    uint32_t reserved1;
    wn_tensor out;        /* [rows, num_heads, v_dim]; F32 for partial results */
    wn_tensor lse;        /* F32 [rows, num_heads]; data NULL: not wanted */
    wn_tensor max_logits; /* F32 [rows, num_heads]; data NULL: not wanted */
    void *workspace;      /* as in wn_attend_args, with v_dim */
    int64_t workspace_bytes;
} wn_mla_args;
WN_STRUCT(wn_mla_args, workspace_bytes);

/* ---------------------------------------------------------------- predict family */

enum { WN_SCORES_PREFIX = 0, WN_SCORES_FULL = 1 };

/* How much the last `window` queries of a prompt attend to each earlier key: softmax of each query
 * head, summed over the window's queries and over the group. With L = kv.length[b] and
 * n = max(L - window, 0) keys before the window:
 *   PREFIX  the softmax covers slots 0 .. n-1 only
 *   FULL    the softmax covers all slots, causal within the window; the window's part is dropped
 * More than WN_MAX_WINDOW_ROWS rows of queries per KV head are WN_EUNSUPPORTED. */
typedef struct wn_window_scores_args {
    uint32_t struct_size;
    uint32_t reserved;
    const wn_executor *executor;
    void *stream;
    wn_error *error;
    wn_tensor q;    /* [batch, window, num_heads, head_dim]: the queries of slots L-window .. L-1 */
    wn_paged_kv kv; /* only K is read */
    float softmax_scale;
    uint32_t normalise; /* WN_SCORES_... */
    wn_tensor scores;   /* out F32 [batch, num_kv_heads, >= longest n]; beyond n: untouched */
} wn_window_scores_args;
WN_STRUCT(wn_window_scores_args, scores);

/* Sliding maximum: out[i] = max over |j - i| <= kernel_size/2 with 0 <= j < length. NaN counts as
 * -inf. */
typedef struct wn_pool_max_args {
    uint32_t struct_size;
    uint32_t reserved;
    const wn_executor *executor;
    void *stream;
    wn_error *error;
    wn_tensor in;          /* F32 [rows, n] */
    wn_tensor out;         /* F32 [rows, n], not overlapping in; beyond length: untouched */
    const int32_t *length; /* [rows] or NULL: n */
    uint32_t kernel_size;  /* odd */
    uint32_t reserved1;
} wn_pool_max_args;
WN_STRUCT(wn_pool_max_args, reserved1);

/* The k greatest scores of each row, written ascending by index and padded with -1. Greater score
 * first, then lower index; NaN and -inf are never chosen. */
typedef struct wn_topk_args {
    uint32_t struct_size;
    uint32_t reserved;
    const wn_executor *executor;
    void *stream;
    wn_error *error;
    wn_tensor scores;      /* F32 [rows, n] */
    const int32_t *length; /* [rows] or NULL: n */
    const int32_t *k;      /* [rows] how many of each row, 0 .. k_max, or NULL: k_max of each */
    wn_tensor indices;     /* out I32 [rows, k_max] */
    int32_t *count;        /* out [rows] how many were found, or NULL */
    int64_t *nan_count;    /* added to atomically: NaN scores met; or NULL */
} wn_topk_args;
WN_STRUCT(wn_topk_args, nan_count);

/* Brings landmarks up to date with entries [begin[b], count[b]) of each request: its slots, or a
 * list of them. Landmark l summarises entries [l*landmark_size, (l+1)*landmark_size). One whose
 * first entry is >= begin starts afresh from +inf / -inf; one that begins earlier is merged with
 * what is stored. Minimum and maximum are rounded to the landmarks' dtype (to nearest even); zeros
 * are stored as +0, NaN keys are passed over. */
typedef struct wn_landmark_update_args {
    uint32_t struct_size;
    uint32_t reserved;
    const wn_executor *executor;
    void *stream;
    wn_error *error;
    wn_paged_kv kv;             /* only K is read */
    const int32_t *begin;       /* [batch] */
    wn_landmark_view landmarks; /* written */
    /* Entry e of request b and KV head h is slot gather[b*gather_stride + h*gather_head_stride +
     * e], passed over if negative; NULL: entry e is slot e. */
    const int32_t *gather;
    int64_t gather_stride, gather_head_stride;
    const int32_t *count; /* [batch] entries; NULL: kv.length */
    /* Pages of the landmarks' own: [batch, landmark_page_table_stride]. NULL: kv's pages. */
    const int32_t *landmark_page_table;
    int64_t landmark_page_table_stride;
    uint32_t landmark_tokens_per_page, reserved1; /* entries per page, with landmark_page_table */
} wn_landmark_update_args;
WN_STRUCT(wn_landmark_update_args, reserved1);

/* PLAIN: softmax_scale. SPARQ: 1 / sqrt(head_dim * sum over counted c of |q_h[c]| / sum over all
 * c), per query head, in its place (SparQ's correction for the channels left out). */
enum { WN_TEMPERATURE_PLAIN = 0, WN_TEMPERATURE_SPARQ = 1 };

/* How promising each landmark is for one query per request (RocketKV's second stage; sources in
 * the rocket plugin). For KV head g with query heads h of its group:
 *   channel c counts if it is among the topr greatest sum_h |q_h[c]| (ties: lower channel)
 *   L[c] = maximum[c] if sum_h q_h[c] > 0, else minimum[c]
 *   a_h = softmax_scale * sum over counted c of q_h[c] * L[c]
 *   score = mean over h of softmax over the request's landmarks of a_h */
typedef struct wn_landmark_scores_args {
    uint32_t struct_size;
    uint32_t reserved;
    const wn_executor *executor;
    void *stream;
    wn_error *error;
    wn_tensor q;          /* [rows, num_heads, head_dim] */
    const int32_t *q_row; /* [batch] the row of q that asks for each request; negative: none */
    wn_landmark_view landmarks;
    const int32_t *page_table; /* [batch, page_table_stride] */
    int64_t page_table_stride;
    const int32_t *count; /* [batch] landmarks of each request */
    uint32_t batch, num_kv_heads, tokens_per_page;
    uint32_t topr; /* >= head_dim: all channels */
    float softmax_scale;
    uint32_t temperature; /* WN_TEMPERATURE_... */
    wn_tensor scores;     /* out F32 [batch, num_kv_heads, >= greatest count] */
    /* [batch] tokens behind the landmarks: then the softmax is over tokens, landmark l standing for
     * min(landmark_size, length - l*landmark_size) of them, and the score is one token's. NULL: the
     * softmax is over landmarks. */
    const int32_t *length;
} wn_landmark_scores_args;
WN_STRUCT(wn_landmark_scores_args, length);

/* How a scale is found for a block of values whose greatest magnitude is amax >= least_amax
 * (smaller ones are raised to it); greatest: 448 for e4m3, 57344 e5m2, 127 int8. In float32, as the
 * reference systems do: READ          it is given EXACT         amax / greatest POWER_OF_TWO  the
 * least power of two that is not below amax * float32(1 / greatest) Where that is 0 (a block of
 * zeros with least_amax 0) the scale is 1. Infinities and NaN do not count for amax: the one
 * saturates, the other stays NaN (0 in int8). */
enum { WN_SCALE_READ = 0, WN_SCALE_EXACT = 1, WN_SCALE_POWER_OF_TWO = 2 };

/* Rounds to a narrower dtype (to nearest even, saturating for e4m3 and int8; e5m2 saturates too).
 * out = round(in / scale), a scale per `block` channels of a row. */
typedef struct wn_quantise_args {
    uint32_t struct_size;
    uint32_t reserved;
    const wn_executor *executor;
    void *stream;
    wn_error *error;
    wn_tensor in;        /* [rows, n] F32, F16, BF16 */
    wn_tensor out;       /* [rows, n] F32, F16, BF16, F8_E4M3, F8_E5M2, I8 */
    float *scale;        /* [rows, n / block]; NULL: 1. Written unless scale_rule is READ */
    uint32_t scale_rule; /* WN_SCALE_... */
    uint32_t block;      /* channels per scale, divides n; 0: n */
    float least_amax;
    uint32_t reserved1;
} wn_quantise_args;
WN_STRUCT(wn_quantise_args, reserved1);

/* out = in * scale. */
typedef struct wn_dequantise_args {
    uint32_t struct_size;
    uint32_t reserved;
    const wn_executor *executor;
    void *stream;
    wn_error *error;
    wn_tensor in;       /* [rows, n] any float dtype or I8 */
    wn_tensor out;      /* [rows, n] F32, F16, BF16 */
    const float *scale; /* [rows]; NULL: 1 */
} wn_dequantise_args;
WN_STRUCT(wn_dequantise_args, scale);

/* Rotary position embedding of any tensor; the formula is append's. */
typedef struct wn_rope_args {
    uint32_t struct_size;
    uint32_t reserved;
    const wn_executor *executor;
    void *stream;
    wn_error *error;
    wn_tensor in;                        /* [tokens, heads, dim] F32, F16, BF16 */
    wn_tensor out;                       /* like in; may be in itself */
    const int32_t *position;             /* [tokens] */
    const float *rope_inverse_frequency; /* [rope_dim/2] or NULL: rope_theta^(-2i/rope_dim) */
    float rope_theta;
    uint32_t rope; /* WN_ROPE_HALF_SPLIT, WN_ROPE_INTERLEAVED */
    uint32_t rope_dim, rope_offset;
} wn_rope_args;
WN_STRUCT(wn_rope_args, rope_offset);

/* Hadamard transform of each row: natural (Sylvester) order, scaled by n^-1/2, so that applying it
 * twice gives the row back and dot products stay. */
typedef struct wn_hadamard_args {
    uint32_t struct_size;
    uint32_t reserved;
    const wn_executor *executor;
    void *stream;
    wn_error *error;
    wn_tensor in;  /* [rows, n] F32, F16, BF16; n a power of two up to 1024 */
    wn_tensor out; /* like in; may be in itself */
} wn_hadamard_args;
WN_STRUCT(wn_hadamard_args, out);

/* Quantises indexer keys (if the view asks for it) and writes them to their slots. The scale rule's
 * `greatest` is 448 for e4m3 and 63 for int8: seven bits, of which two products add up in 16. */
typedef struct wn_indexer_append_args {
    uint32_t struct_size;
    uint32_t reserved;
    const wn_executor *executor;
    void *stream;
    wn_error *error;
    wn_tensor k;          /* [tokens, dim] F32, F16, BF16 */
    const int64_t *slot;  /* [tokens] page * tokens_per_page + place; negative: skip the token */
    wn_indexer_view keys; /* written */
    uint32_t scale_rule;  /* WN_SCALE_EXACT, WN_SCALE_POWER_OF_TWO; ignored for bfloat16 keys */
    float least_amax;
} wn_indexer_append_args;
WN_STRUCT(wn_indexer_append_args, least_amax);

/* Scores every key a query may see and selects the k best, in one pass: a row of scores is never
 * stored unless asked for. With S_j the key's scale (1 for bfloat16):
 *   score(t, j) = S_j * sum over heads h of weights[t,h] * q_scale[t,h] * weight_scale *
 *                 max(q[t,h] . key_j, 0)
 * max(NaN, 0) is NaN. Weights may be negative, so scores are signed. The reference computes in
 * double and rounds once; other variants may sum in float32. What is selected is exact: the k best
 * of the scores as they were computed, whether they are asked for or not.
 * With int8 keys the query is rounded too, which makes its dot products exact: with amax the
 * greatest |q[t,h,d]| over d and s = amax / 63 in float32 (1 where that is 0), s * n stands for
 * q[t,h,d], n being q[t,h,d] / s in float32, rounded to the nearest integer (ties to even) and cut
 * to -63 .. 63. Where a q is NaN or infinite, s is NaN.
 * Query token i of request b, with length L and n = q_len[b], may see slots
 * j < L - n + i + 1, and, where bounds are given, first[t] <= j < end[t]. Ties and NaN as for topk.
 */
typedef struct wn_indexer_topk_args {
    uint32_t struct_size;
    uint32_t reserved;
    const wn_executor *executor;
    void *stream;
    wn_error *error;
    wn_tensor q;          /* [rows, heads, dim] F32, F16, BF16, F8_E4M3 */
    const float *q_scale; /* [rows, heads] contiguous; NULL: 1 */
    wn_tensor weights;    /* F32 [rows, heads] */
    wn_indexer_view keys;
    const int32_t *page_table; /* [batch, page_table_stride] */
    int64_t page_table_stride;
    const int32_t *q_begin, *q_len; /* [batch] rows of q of each request */
    const int32_t *length;          /* [batch] keys of each request, the step's new ones included */
    const int32_t *first, *end;     /* [rows] extra bounds on slots, or both NULL */
    uint32_t batch;
    float weight_scale; /* e.g. heads^-1/2 * dim^-1/2 */
    wn_tensor indices;  /* out I32 [rows, k]: slots, ascending, padded with -1 */
    int32_t *count;     /* out [rows], or NULL */
    float *workspace;   /* [rows, k] contiguous */
    wn_tensor scores;   /* out F32 [rows, >= longest length], written for the requests' rows
                           in their whole width, -inf in slots that a row does not see; for
                           tests and reports; data NULL: not wanted */
    int64_t *nan_count; /* added to atomically; or NULL */
    /* Room for the best of parts of a long row's keys, so that several threads can share one:
     * 8 * k + 64 bytes per row and part, 4-byte aligned; 64 parts at most. Caller's, contents
     * undefined before and after. With less room, or NULL, the same comes out of fewer threads. */
    void *part_workspace;
    int64_t part_workspace_bytes;
} wn_indexer_topk_args;
WN_STRUCT(wn_indexer_topk_args, part_workspace_bytes);

/* ---------------------------------------------------------------- the table */

/* Grows only at its end. All functions [step] & concurrent; the CUDA table's & capture-safe. */
typedef struct wn_ops {
    uint32_t struct_size;
    uint32_t device; /* WN_DEVICE_... that this table works on */
    wn_status (*append)(const wn_append_args *args);
    wn_status (*compact)(const wn_compact_args *args);
    wn_status (*gather_pages)(const wn_gather_pages_args *args);
    wn_status (*copy_pages)(const wn_copy_pages_args *args);
    wn_status (*context)(const wn_attend_args *args);
    wn_status (*generation)(const wn_attend_args *args);
    wn_status (*merge_states)(const wn_merge_states_args *args);
    wn_status (*window_scores)(const wn_window_scores_args *args);
    wn_status (*pool_max)(const wn_pool_max_args *args);
    wn_status (*topk)(const wn_topk_args *args);
    wn_status (*landmark_update)(const wn_landmark_update_args *args);
    wn_status (*landmark_scores)(const wn_landmark_scores_args *args);
    wn_status (*quantise)(const wn_quantise_args *args);
    wn_status (*dequantise)(const wn_dequantise_args *args);
    wn_status (*mla)(const wn_mla_args *args);
    wn_status (*rope)(const wn_rope_args *args);
    wn_status (*hadamard)(const wn_hadamard_args *args);
    wn_status (*indexer_append)(const wn_indexer_append_args *args);
    wn_status (*indexer_topk)(const wn_indexer_topk_args *args);
} wn_ops;
WN_STRUCT(wn_ops, indexer_topk);

#endif
