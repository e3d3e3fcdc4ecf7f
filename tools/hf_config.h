/* hf_config.h: a model's attention geometry, from Hugging Face's config.json or from words. */
#ifndef WN_TOOLS_HF_CONFIG_H
#define WN_TOOLS_HF_CONFIG_H

#include "winnow/winnow.h"

/* Enough for any model's name. */
#define WN_MODEL_NAME 128

typedef struct wn_model_geometry {
    wn_model model; /* model.name points into name: copy the struct and set it again */
    char name[WN_MODEL_NAME];
} wn_model_geometry;

/* Reads a config.json: Llama's family of names, GPT-2's, and the text part of multi-modal models.
 * A model with kv_lora_rank becomes MLA in its absorbed form; index_* keys its indexer. RoPE is
 * left out (WN_ROPE_NONE): queries and keys come rotated. Every error names the file and the
 * key. */
wn_status wn_hf_config_load(const char *path, wn_model_geometry *geometry, wn_error *error);
wn_status wn_hf_config_parse(const char *text, size_t bytes, const char *path,
                             wn_model_geometry *geometry, wn_error *error);

/* The same from "layers=32,heads=32,kv_heads=8,head_dim=128", and, optional, v_head_dim, dtype,
 * max_position, scale. */
wn_status wn_geometry_parse(const char *text, wn_model_geometry *geometry, wn_error *error);

/* What --model takes: words if there is a '=' in it and no such file, a file or a directory with a
 * config.json otherwise. */
wn_status wn_geometry_read(const char *argument, wn_model_geometry *geometry, wn_error *error);

#endif
