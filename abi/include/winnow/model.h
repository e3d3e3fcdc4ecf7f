/* model.h: the geometry of a model's attention, a plain struct. */
#ifndef WINNOW_MODEL_H
#define WINNOW_MODEL_H

#include "winnow/base.h"

enum { WN_PHASE_CONTEXT = 0, WN_PHASE_GENERATION = 1, WN_PHASE_COUNT = 2 };

/* Rotary position embedding, if Winnow is to apply it (NONE: q and k come already rotated).
 * HALF_SPLIT pairs channel i with i + rope_dim/2 (NeoX, Llama in Hugging Face form);
 * INTERLEAVED pairs channel 2i with 2i + 1 (GPT-J). */
enum { WN_ROPE_NONE = 0, WN_ROPE_HALF_SPLIT = 1, WN_ROPE_INTERLEAVED = 2 };

/* KV head of query head h is h / (num_heads / num_kv_heads), always. */
typedef struct wn_model {
    uint32_t struct_size;
    uint32_t num_layers;
    uint32_t num_heads;
    uint32_t num_kv_heads; /* divides num_heads */
    uint32_t head_dim;     /* of q and k, 1 .. 1024 */
    uint32_t v_head_dim;   /* of v and the output; 0: head_dim */
    uint32_t dtype;        /* of q, k, v and the output: WN_F32, F16, BF16 */
    uint32_t max_position; /* longest sequence, in tokens; >= 1 */
    float softmax_scale;   /* > 0; there is no default */
    float rope_theta;      /* with rope != NONE */
    uint32_t rope;         /* WN_ROPE_... */
    uint32_t rope_dim;     /* rotated channels, even, <= head_dim; 0: head_dim */
    uint32_t rope_offset;  /* first rotated channel */
    /* 1: multi-head latent attention in its absorbed form. num_kv_heads is 1, one vector per token
     * is cached, and V is its first v_head_dim channels (DeepSeek: head_dim 576, v_head_dim 512,
     * the last 64 rotated, interleaved). The softmax scale is the model's own, never head_dim^-0.5.
     */
    uint32_t mla;
    /* Geometry of the model's own lightning indexer (DeepSeek-V3.2: 64, 128, 2048); 0: not known.
     * Methods take it for keys that the user leaves out. */
    uint32_t index_n_heads;
    uint32_t index_head_dim;
    uint32_t index_topk;
    uint32_t reserved;
    const float
        *rope_inverse_frequency; /* [rope_dim/2] for scaled RoPE; NULL: theta^(-2i/rope_dim) */
    /* [num_layers] the numbers that the layers carry in the model's own names
     * ("model.layers.N.self_attn"); NULL: 0, 1, 2 ... Per-layer rules match these. */
    const uint32_t *layer_number;
    const char *name; /* for reports; may be NULL */
} wn_model;
WN_STRUCT(wn_model, name);

#endif
