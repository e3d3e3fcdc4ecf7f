/* dsa_roles.c: which layers choose. A producer has an indexer; a consumer attends to what the last
 * producer before it chose in this step (GLM-5.2 shares one choice among several layers); a dense
 * layer is left alone. Without layer_roles every layer is a producer. */
#include "dsa.h"

enum { UNKNOWN, PRODUCER, CONSUMER, DENSE };

/* full and shared are Hugging Face's words, in a model's indexer_types. */
static int role_of(const char *name)
{
    static const struct {
        const char *name;
        int role;
    } names[] = {{"producer", PRODUCER},
                 {"full", PRODUCER},
                 {"consumer", CONSUMER},
                 {"shared", CONSUMER},
                 {"dense", DENSE}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(names[i].name, name) == 0)
            return names[i].role;
    return UNKNOWN;
}

wn_status dsa_check_roles(const wn_model *model, const wn_value *roles, const wn_reasons *reasons)
{
    char text[200];
    int has_producer = 0;
    if (!roles->has_value)
        return WN_OK;
    text[0] = '\0';
    if (roles->count != model->num_layers)
        snprintf(text, sizeof text,
                 "layer_roles has %u entries; the model has %u layers, and each needs one",
                 roles->count, model->num_layers);
    for (uint32_t i = 0; i < roles->count && text[0] == '\0'; i++) {
        const int role = role_of(roles->names[i]);
        if (role == UNKNOWN)
            snprintf(text, sizeof text,
                     "layer_roles, entry %u: \"%.60s\" is none of producer, consumer, dense", i,
                     roles->names[i]);
        if (role == CONSUMER && !has_producer)
            snprintf(text, sizeof text,
                     "layer_roles, entry %u: a consumer needs a producer before it", i);
        has_producer |= role == PRODUCER;
    }
    if (text[0] == '\0')
        return WN_OK;
    reasons->add(reasons->context, text);
    return WN_ECONFIG;
}

void dsa_read_roles(const wn_model *model, const wn_value *roles, dsa *self)
{
    uint32_t producer = DSA_NO_LAYER;
    for (uint32_t layer = 0; layer < model->num_layers; layer++) {
        const int role = roles->has_value ? role_of(roles->names[layer]) : PRODUCER;
        if (role == PRODUCER)
            producer = layer;
        self->source[layer] = role == DENSE ? DSA_NO_LAYER : producer;
        self->has_consumers |= role == CONSUMER;
    }
}

/* The number that a layer has in the model's own names. */
static uint32_t number_of(const dsa *self, uint32_t layer)
{
    return self->model->layer_number != NULL ? self->model->layer_number[layer] : layer;
}

wn_status dsa_lower(void *instance, uint32_t layer, uint32_t phase, uint32_t *roles, char *why,
                    uint64_t why_capacity, wn_error *error)
{
    dsa *self = instance;
    const uint32_t source = self->source[layer];
    (void)phase;
    self->is_lowered[layer] = 1;
    *roles = 0;
    if (source == DSA_NO_LAYER) {
        snprintf(why, why_capacity, "dense in layer_roles");
        return WN_OK;
    }
    if (!self->is_lowered[source])
        return wn_fail(error, WN_ECONFIG,
                       "layer %u is a consumer of layer %u, which layers: or ignore: keep this "
                       "method from; make layer %u a producer, or let the method have both",
                       number_of(self, layer), number_of(self, source), number_of(self, layer));
    *roles = WN_ROLE_SELECT;
    return WN_OK;
}
