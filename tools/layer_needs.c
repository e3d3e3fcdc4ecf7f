/* layer_needs.c: asks the engine itself, with dry runs of one token: it knows what its methods need
 * on each layer, rules of the configuration included, and nothing here has to know any method. */
#include "tools/layer_needs.h"

#include "tools/elements.h"

#include <stdlib.h>
#include <string.h>

static int has_input(const wn_trace_layer *layer, const char *name)
{
    for (uint32_t i = 0; i < layer->num_inputs; i++)
        if (strcmp(layer->input_names[i], name) == 0)
            return 1;
    return 0;
}

/* Does another layer have an input that this one lacks? */
static int is_poorer(const wn_trace *trace, const wn_trace_layer *layer)
{
    for (uint32_t other = 0; other < trace->num_layers; other++)
        for (uint32_t i = 0; i < trace->layers[other].num_inputs; i++)
            if (!has_input(layer, trace->layers[other].input_names[i]))
                return 1;
    return 0;
}

/* One token of one layer, checked and not computed. out: room for a row of output. */
static wn_status try_layer(wn_engine *engine, wn_sequence sequence, const wn_trace *trace,
                           uint32_t layer, void *out)
{
    const wn_trace_layer *from = &trace->layers[layer];
    wn_named_input inputs[WN_TRACE_MAX_INPUTS];
    wn_batch_item item = {.struct_size = WN_SIZEOF(wn_batch_item),
                          .flags = WN_ITEM_CONTEXT | WN_ITEM_MORE,
                          .sequence = sequence,
                          .num_tokens = 1};
    wn_batch *batch;
    wn_status status = wn_batch_begin(engine, &item, 1, &batch);
    if (status != WN_OK)
        return status;
    for (uint32_t i = 0; i < from->num_inputs; i++)
        inputs[i] = (wn_named_input){from->input_names[i], wn_trace_rows(from->inputs[i], 0, 1)};
    wn_attention_args args = {
        .struct_size = WN_SIZEOF(wn_attention_args),
        .flags = WN_ATTENTION_DRY_RUN,
        .q = wn_trace_rows(from->q, 0, 1),
        .k = wn_trace_keys(trace, layer, 0, 1),
        .out = wn_tensor_make(out, trace->dtype, 3,
                              (int64_t[]){1, trace->num_heads, trace->v_head_dim}),
        .inputs = inputs,
        .num_inputs = from->num_inputs};
    if (from->v != NULL)
        args.v = wn_trace_rows(from->v, 0, 1);
    status = wn_attention(batch, layer, &args);
    wn_batch_abort(batch);
    return status;
}

static uint32_t try_layers(wn_engine *engine, const wn_trace *trace, void *out, uint8_t *lacks,
                           char *why, size_t bytes)
{
    wn_sequence sequence;
    uint32_t found = 0;
    if (wn_sequence_create(engine, &sequence) != WN_OK)
        return 0;
    for (uint32_t layer = 0; layer < trace->num_layers; layer++) {
        if (!is_poorer(trace, &trace->layers[layer]) ||
            try_layer(engine, sequence, trace, layer, out) != WN_EINVAL)
            continue;
        if (found++ == 0)
            snprintf(why, bytes, "%s", wn_error_text());
        lacks[layer] = 1;
    }
    return found;
}

uint32_t wn_layer_needs(wn_registry *registry, const wn_config *config, const wn_trace *trace,
                        uint8_t *lacks, char *why, size_t bytes)
{
    wn_model model = wn_trace_model(trace);
    wn_engine_options options = {.struct_size = WN_SIZEOF(wn_engine_options),
                                 .max_sequences = 1,
                                 .max_batch = 1,
                                 .max_step_tokens = 1};
    wn_engine *engine;
    uint32_t poorer = 0, found = 0;
    why[0] = '\0';
    for (uint32_t layer = 0; layer < trace->num_layers; layer++)
        poorer += (uint32_t)is_poorer(trace, &trace->layers[layer]);
    if (poorer == 0 || wn_engine_create(registry, config, &model, &options, &engine) != WN_OK)
        return 0;
    void *out =
        malloc((size_t)trace->num_heads * trace->v_head_dim * wn_elements_bytes(trace->dtype));
    if (out != NULL)
        found = try_layers(engine, trace, out, lacks, why, bytes);
    free(out);
    wn_engine_free(engine);
    return found;
}
