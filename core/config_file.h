/* config_file.h: a parsed configuration, as the engine reads it. */
#ifndef WN_CONFIG_FILE_H
#define WN_CONFIG_FILE_H

#include "core/reasons.h"
#include "winnow/winnow.h"

/* One entry of sparse_attention_config. */
typedef struct wn_method_config {
    const char *algorithm; /* "dense" names the engine's own */
    uint32_t phases;       /* bit per WN_PHASE_...; both if the file does not say */
    uint32_t line, column; /* of the entry */
} wn_method_config;

/* What the file says of the cache and the engine; 0 or NULL: nothing. */
typedef struct wn_engine_config {
    uint32_t tokens_per_page, kv_dtype, max_batch, max_sequences, max_step_tokens;
    uint64_t max_tokens;
    const char *layout;
    uint32_t device;           /* from attn_backend: 0 auto */
    uint32_t on_error_dense;   /* on_error: dense */
    uint32_t granularity_page; /* granularity: page */
} wn_engine_config;

uint32_t wn_config_num_methods(const wn_config *config);
const wn_method_config *wn_config_method(const wn_config *config, uint32_t index);
const wn_engine_config *wn_config_engine(const wn_config *config);
const char *wn_config_name(const wn_config *config);

/* Does the entry apply to this layer? Rules match "model.layers.N.self_attn" (and the forms without
 * "model.", or with ".attention"), the last match wins; no rules: yes. */
int wn_config_method_on_layer(const wn_config *config, uint32_t index, uint32_t layer_number);

/* The entry's own keys against a schema: values [num_fields], defaults filled in. Every error goes
 * to reasons as file:line:column: text. Freed by wn_values_free; holds no pointer into schema. */
wn_status wn_config_bind(const wn_config *config, uint32_t index, const wn_config_interface *schema,
                         wn_value **values, wn_reason_list *reasons);
void wn_values_free(wn_value *values, uint32_t num_fields);
/* Values of a schema with nothing set by a user: for describe and the validator. */
wn_status wn_schema_defaults(const wn_config_interface *schema, wn_value **values,
                             wn_reason_list *reasons);

#endif
