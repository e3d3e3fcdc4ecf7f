/* config.h: interface winnow.config/1, required. What a method can be told, and what it then claims
 * of each layer. The core parses YAML against the schema; a plugin never sees YAML. */
#ifndef WINNOW_CONFIG_H
#define WINNOW_CONFIG_H

#include "winnow/model.h"
#include "winnow/status.h"
#include "winnow/tensor.h"

#define WN_INTERFACE_CONFIG "winnow.config/1"

enum {
    WN_FIELD_INT = 1,         /* value.i */
    WN_FIELD_FLOAT = 2,       /* value.f */
    WN_FIELD_BOOL = 3,        /* value.i, 0 or 1 */
    WN_FIELD_STRING = 4,      /* value.s */
    WN_FIELD_ENUM = 5,        /* value.i, index into enum_names; value.s, the name */
    WN_FIELD_PHASE_FLOAT = 6, /* value.phase[WN_PHASE_...]; YAML: a number for both, or
                                 {prefill: x, decode: y} (context and generation are read too);
                                 value.phase_set says which were given */
    WN_FIELD_INT_LIST = 7,    /* value.list, value.count */
    WN_FIELD_STRING_LIST = 8, /* value.names, value.count */
    WN_FIELD_NUMBER_MAP = 9   /* a mapping of numbers, nested at will: value.names ("prefill.a"),
                                 value.numbers, value.count, in the file's order. At most 8 levels;
                                 no point in a key */
};

enum {
    WN_FIELD_REQUIRED = 1, /* must be set by the user; default_text is NULL */
    WN_FIELD_BUDGET = 2 /* a greater value keeps more; when every BUDGET field is at its greatest,
                           the method attends to everything. The validator relies on it */
};

typedef struct wn_config_field {
    uint32_t struct_size;
    uint32_t type;  /* WN_FIELD_... */
    uint32_t flags; /* WN_FIELD_REQUIRED ... */
    uint32_t reserved;
    const char *name;              /* [a-z0-9_]{1,63} */
    const char *unit;              /* "tokens", "" */
    const char *help;              /* one line */
    const char *default_text;      /* as a user would write it; NULL: unset */
    double least, greatest;        /* INT, FLOAT, PHASE_FLOAT, entries of INT_LIST and NUMBER_MAP;
                                      inclusive */
    const char *const *enum_names; /* ENUM: NULL-terminated; else NULL */
} wn_config_field;
WN_STRUCT(wn_config_field, enum_names);

/* One parsed value. Embedded by value: frozen. Pointers are the host's, valid until destroy(). */
typedef struct wn_value {
    int64_t i;
    double f;
    double phase[WN_PHASE_COUNT];
    const char *s;
    const int64_t *list;
    const char *const *names;
    const double *numbers;
    uint32_t count;
    uint32_t is_set;    /* 1: the user wrote it; 0: the default, if there is one */
    uint32_t has_value; /* 0: neither set nor a default */
    uint32_t phase_set; /* bit p: phase[p] has a value */
} wn_value;
WN_STRUCT(wn_value, phase_set);

/* What a plugin owns on a layer in a phase. */
enum {
    WN_ROLE_RETAIN = 1,      /* chooses what stays in the cache; context phase only */
    WN_ROLE_SELECT = 2,      /* chooses what a query attends to */
    WN_ROLE_TILE_POLICY = 4, /* a rule inside the attention kernel */
    WN_ROLE_ATTEND = 8       /* a whole attention kernel */
};

/* Reasons for refusal: add() once for each, so that the user sees all of them. */
typedef struct wn_reasons {
    uint32_t struct_size;
    uint32_t reserved;
    void *context;
    void (*add)(void *context, const char *text); /* the text is copied */
} wn_reasons;
WN_STRUCT(wn_reasons, add);

/* values: [number of fields], in the order of the schema, valid until destroy() returns. */
typedef struct wn_config_interface {
    uint32_t struct_size;
    uint32_t num_fields;
    const wn_config_field *fields; /* static, [num_fields] */
    /* Extra inputs that every step must bring, e.g. "indexer.q"; NULL-terminated, or NULL. */
    const char *const *inputs;
    /* Cross-field and model rules. Adds a reason for each one broken and returns WN_ECONFIG, or
     * returns WN_OK. May be NULL. [control] & concurrent */
    wn_status (*check)(const wn_model *model, const wn_value *values, const wn_reasons *reasons);
    /* Makes the method's state for one engine. model is valid until destroy(). All further calls
     * on the instance come with it. [control] */
    wn_status (*create)(const wn_model *model, const wn_value *values, void **instance,
                        wn_error *error);
    /* [control] */
    void (*destroy)(void *instance);
    /* Roles claimed on this layer and phase, a set of WN_ROLE_..., in *roles; 0 means "dense here",
     * and the reason goes into `why` (why_capacity bytes). [control] */
    wn_status (*lower)(void *instance, uint32_t layer, uint32_t phase, uint32_t *roles, char *why,
                       uint64_t why_capacity, wn_error *error);
    /* Shape and dtype of extra input `input` (its place in inputs) for a step of `tokens` query
     * tokens: fills shape, ndim and dtype of *out. May be NULL; then nobody can make such a step
     * up, and the validator runs none. [control] & concurrent */
    wn_status (*input_shape)(void *instance, uint32_t input, int64_t tokens, wn_tensor *out);
} wn_config_interface;
WN_STRUCT(wn_config_interface, input_shape);

#endif
