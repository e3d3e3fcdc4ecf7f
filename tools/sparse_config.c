/* sparse_config.c: calibrated checkpoints say in their config.json how much of attention may be
 * left out. The section had four forms so far; they differ in what the groups are called and in
 * whether the numbers lie in the group or beside it, so that one reader takes all of them:
 *
 *   1. group {sparse_algo, targets[, threshold]}; beside it threshold_scale_factor: NUMBER and the
 *      target_sparsity for which it was found
 *   2. the factor as {formula, prefill: {a, b}, decode: {a, b}}, no target
 *   3. as 2 with target_sparse_ratio, and N:M sparsity under sparse_softmax
 *   4. group {algorithm, targets, ignore, threshold_scale_factor, target_sparsity}, nothing beside
 *
 * Values are written as JSON, which is YAML too. */
#include "tools/sparse_config.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECTION "sparse_attention_config"

static const char *const phases[] = {"prefill", "decode", NULL};

/* A file half read. The first failure stays in status. */
typedef struct reader {
    const char *path;
    const char *group_name;  /* NULL: none found yet */
    json_t *section, *group; /* borrowed */
    wn_error *error;
    wn_status status;
    /* What goes into the text, each an object or array that is empty if there is nothing. */
    json_t *factors, *coefficients, *targets, *thresholds, *ignore;
    json_t *reached; /* targets for which factors were found: told, not set */
    const char *formula;
} reader;

WN_PRINTF(4, 5)
static void fail(reader *r, wn_status status, const char *where, const char *format, ...)
{
    char text[512];
    va_list arguments;
    if (r->status != WN_OK)
        return;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    r->status = wn_fail(r->error, status, "%s: " SECTION ": \"%s\": %s", r->path, where, text);
}

/* ---------------------------------------------------------------- small things */

static int is_there(json_t *value)
{
    return value != NULL && !json_is_null(value);
}

static int is_among(const char *key, const char *const *list)
{
    while (*list != NULL && strcmp(*list, key) != 0)
        list++;
    return *list != NULL;
}

/* Refuses keys that would otherwise be passed over. */
static void check_keys(reader *r, json_t *object, const char *const *known)
{
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
    {
        if (is_there(value) && !is_among(key, known))
            fail(r, WN_EUNSUPPORTED, key, "this key has no counterpart here");
    }
}

/* A key of the group or, as the older forms have it, of the section. */
static json_t *find(reader *r, const char *key)
{
    json_t *inner = json_object_get(r->group, key), *outer = json_object_get(r->section, key);
    if (is_there(inner) && is_there(outer))
        fail(r, WN_EFORMAT, key, "is there twice, in group %s and beside it", r->group_name);
    return is_there(inner) ? inner : is_there(outer) ? outer : NULL;
}

/* One number for both phases or {prefill: NUMBER, decode: NUMBER}, into `to`. */
static void read_phases(reader *r, const char *key, json_t *value, json_t *to)
{
    const char *phase;
    json_t *each;
    for (int i = 0; phases[i] != NULL && json_is_number(value); i++)
        json_object_set(to, phases[i], value);
    if (value == NULL || json_is_number(value))
        return;
    if (!json_is_object(value))
        fail(r, WN_EFORMAT, key, "expected a number or {\"prefill\": x, \"decode\": y}");
    json_object_foreach(value, phase, each)
    {
        if (!is_there(each))
            continue;
        if (!is_among(phase, phases) || !json_is_number(each))
            fail(r, WN_EFORMAT, key, "\"%s\": expected numbers under \"prefill\" and \"decode\"",
                 phase);
        json_object_set(to, phase, each);
    }
}

/* ---------------------------------------------------------------- the factor and its formula */

static void check_numbers(reader *r, const char *name, json_t *object)
{
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
    {
        if (!json_is_number(value))
            fail(r, WN_EFORMAT, "threshold_scale_factor", "\"%s\": \"%s\": expected a number", name,
                 key);
    }
}

/* {formula, prefill: {a, b}, ...}, with coefficients of both phases under "coefficients". */
static void read_formula(reader *r, json_t *factor)
{
    const char *key;
    json_t *value;
    json_object_foreach(factor, key, value)
    {
        const int is_phase = is_among(key, phases);
        if (strcmp(key, "formula") == 0 && json_is_string(value))
            r->formula = json_string_value(value);
        else if (is_phase && json_is_number(value))
            json_object_set(r->factors, key, value);
        else if (is_phase && json_is_object(value)) {
            check_numbers(r, key, value);
            json_object_set(r->coefficients, key, value);
        } else if (strcmp(key, "coefficients") == 0 && json_is_object(value)) {
            check_numbers(r, key, value);
            json_object_update(r->coefficients, value);
        } else if (is_there(value))
            fail(r, WN_EFORMAT, "threshold_scale_factor",
                 "\"%s\": expected \"formula\" (a text), \"prefill\", \"decode\" or "
                 "\"coefficients\" (numbers by name)",
                 key);
    }
}

/* A factor that is a number is what was found for the target; the target is history then. */
static void drop_reached_targets(reader *r)
{
    for (int i = 0; phases[i] != NULL; i++)
        if (json_object_get(r->factors, phases[i]) != NULL) {
            json_t *target = json_object_get(r->targets, phases[i]);
            if (target != NULL)
                json_object_set(r->reached, phases[i], target);
            json_object_del(r->targets, phases[i]);
        }
}

static void read_factor(reader *r)
{
    json_t *factor = find(r, "threshold_scale_factor");
    json_t *target = find(r, "target_sparsity"), *ratio = find(r, "target_sparse_ratio");
    if (target != NULL && ratio != NULL)
        fail(r, WN_EFORMAT, "target_sparsity", "is there as \"target_sparse_ratio\", too");
    if (json_is_object(factor))
        read_formula(r, factor);
    else
        read_phases(r, "threshold_scale_factor", factor, r->factors);
    read_phases(r, "target_sparsity", target != NULL ? target : ratio, r->targets);
    drop_reached_targets(r);
}

/* ---------------------------------------------------------------- layers left alone */

/* Skips one of the words and the dot behind it. */
static const char *after_word(const char *at, const char *const *words)
{
    for (; *words != NULL; words++) {
        const size_t length = strlen(*words);
        if (strncmp(at, *words, length) == 0 && at[length] == '.')
            return at + length + 1;
    }
    return NULL;
}

/* The number of the layer whose attention `name` is, as models call it; -1 if it is none. */
static long layer_of(const char *name)
{
    static const char *const outer[] = {"model", "language_model", "transformer", "backbone", NULL};
    static const char *const inner[] = {"layers", "h", "blocks", NULL};
    static const char *const attention[] = {"self_attn",      "attention", "attn",
                                            "self_attention", "mixer",     NULL};
    char *end;
    for (const char *rest; (rest = after_word(name, outer)) != NULL;)
        name = rest;
    name = after_word(name, inner);
    if (name == NULL || *name < '0' || *name > '9')
        return -1;
    const long number = strtol(name, &end, 10);
    if (number > 65535 || (*end != '\0' && (*end != '.' || !is_among(end + 1, attention))))
        return -1;
    return number;
}

static void read_ignore(reader *r)
{
    json_t *list = find(r, "ignore"), *item;
    size_t i;
    if (list != NULL && !json_is_array(list))
        fail(r, WN_EFORMAT, "ignore", "expected a list of names of layers");
    json_array_foreach(list, i, item)
    {
        const char *name = json_string_value(item);
        char text[64];
        if (name == NULL) {
            fail(r, WN_EFORMAT, "ignore", "entry %zu is no text", i + 1);
            return;
        }
        if (strpbrk(name, "*?[") != NULL) {
            json_array_append(r->ignore, item);
            continue;
        }
        if (layer_of(name) < 0)
            fail(r, WN_EUNSUPPORTED, "ignore",
                 "\"%s\" is not the attention of a layer as they are "
                 "known here: model.layers.N.self_attn",
                 name);
        snprintf(text, sizeof text, "model.layers.%ld.self_attn", layer_of(name));
        json_array_append_new(r->ignore, json_string(text));
    }
}

/* ---------------------------------------------------------------- groups */

static const char *algorithm_of(json_t *group)
{
    json_t *name = json_object_get(group, "algorithm");
    return json_string_value(is_there(name) ? name : json_object_get(group, "sparse_algo"));
}

static void read_group(reader *r, const char *name, json_t *group)
{
    static const char *const ours[] = {"skip_softmax", "softmax_skip", NULL};
    const char *algorithm = algorithm_of(group);
    if (algorithm == NULL)
        fail(r, WN_EFORMAT, name, "has no \"algorithm\" (or, older, \"sparse_algo\")");
    else if (strcmp(algorithm, "sparse_softmax") == 0)
        fail(r, WN_EUNSUPPORTED, name,
             "sparse_softmax, keeping N of every M scores, is not "
             "computed here: remove the group if the model may run without it");
    else if (!is_among(algorithm, ours))
        fail(r, WN_EUNSUPPORTED, name,
             "algorithm \"%s\": of calibrated methods only skip_softmax is "
             "known",
             algorithm);
    else if (r->group != NULL)
        fail(r, WN_EFORMAT, name, "a second group of skip_softmax beside %s: there can be one",
             r->group_name);
    r->group = group;
    r->group_name = name;
}

/* Keys of models that generate images in steps. */
static void check_steps(reader *r)
{
    static const char *const keys[] = {"initial_disabled_steps", "disabled_until_timestep", NULL};
    for (int i = 0; keys[i] != NULL; i++) {
        json_t *value = find(r, keys[i]);
        if (value != NULL && json_number_value(value) != 0)
            fail(r, WN_EUNSUPPORTED, keys[i], "belongs to models that denoise in steps");
    }
}

static void read_section(reader *r)
{
    static const char *const beside[] = {"config_groups",          "producer",
                                         "threshold_scale_factor", "target_sparsity",
                                         "target_sparse_ratio",    NULL};
    static const char *const inside[] = {"algorithm",
                                         "sparse_algo",
                                         "targets",
                                         "ignore",
                                         "threshold_scale_factor",
                                         "target_sparsity",
                                         "target_sparse_ratio",
                                         "threshold",
                                         "initial_disabled_steps",
                                         "disabled_until_timestep",
                                         NULL};
    const char *name;
    json_t *group, *groups = json_object_get(r->section, "config_groups");
    if (is_there(json_object_get(r->section, "sparse_softmax")))
        fail(r, WN_EUNSUPPORTED, "sparse_softmax",
             "keeping N of every M scores is not "
             "computed here: remove the key if the model may run without it");
    check_keys(r, r->section, beside);
    if (!json_is_object(groups) || json_object_size(groups) == 0)
        fail(r, WN_EFORMAT, "config_groups", "expected an object with a group");
    json_object_foreach(groups, name, group) read_group(r, name, group);
    if (r->status != WN_OK)
        return;
    check_keys(r, r->group, inside);
    check_steps(r);
    read_factor(r);
    read_phases(r, "threshold", find(r, "threshold"), r->thresholds);
    read_ignore(r);
    if (json_object_size(r->factors) + json_object_size(r->coefficients) +
            json_object_size(r->thresholds) ==
        0)
        fail(r, WN_EFORMAT, r->group_name,
             "has neither \"threshold_scale_factor\" nor "
             "\"threshold\"");
}

/* ---------------------------------------------------------------- writing */

/* The shortest of 15 to 17 digits that reads back as the same number. */
static void write_number(FILE *to, json_t *number)
{
    for (size_t digits = 15; digits <= 17; digits++) {
        char *text = json_dumps(number, JSON_ENCODE_ANY | JSON_REAL_PRECISION(digits));
        json_t *again = text != NULL ? json_loads(text, JSON_DECODE_ANY, NULL) : NULL;
        const int same = json_equal(number, again);
        if (same || digits == 17)
            fputs(text != NULL ? text : "", to);
        json_decref(again);
        free(text);
        if (same)
            return;
    }
}

static void write_text(FILE *to, const char *text)
{
    json_t *value = json_string(text);
    json_dumpf(value, to, JSON_ENCODE_ANY);
    json_decref(value);
}

static void write_map(FILE *to, json_t *map)
{
    const char *key, *separator = "{";
    json_t *value;
    json_object_foreach(map, key, value)
    {
        fputs(separator, to);
        write_text(to, key);
        fputs(": ", to);
        if (json_is_object(value))
            write_map(to, value);
        else
            write_number(to, value);
        separator = ", ";
    }
    fputs(json_object_size(map) > 0 ? "}" : "{}", to);
}

static void write_key(FILE *to, const char *key, json_t *map)
{
    if (json_object_size(map) == 0)
        return;
    fprintf(to, "  %s: ", key);
    write_map(to, map);
    fputc('\n', to);
}

static void write_section(const reader *r, FILE *to)
{
    json_t *targets = json_object_get(r->group, "targets");
    json_t *producer = json_object_get(r->section, "producer");
    fputs("# From ", to);
    write_text(to, r->path);
    if (is_there(producer)) {
        fputs(", made by ", to);
        json_dumpf(producer, to, JSON_ENCODE_ANY);
    }
    if (is_there(targets)) {
        fputs(" for ", to);
        json_dumpf(targets, to, JSON_ENCODE_ANY);
    }
    if (json_object_size(r->reached) > 0) {
        fputs("\n# The factor was found for target_sparsity ", to);
        write_map(to, r->reached);
    }
    fputs("\n" SECTION ":\n  algorithm: skip_softmax\n", to);
    write_key(to, "threshold_scale_factor", r->factors);
    write_key(to, "threshold", r->thresholds);
    if (r->formula != NULL) {
        fputs("  formula: ", to);
        write_text(to, r->formula);
        fputc('\n', to);
    }
    write_key(to, "coefficients", r->coefficients);
    write_key(to, "target_sparsity", r->targets);
    if (json_array_size(r->ignore) > 0) {
        fputs("  ignore: ", to);
        json_dumpf(r->ignore, to, 0);
        fputc('\n', to);
    }
}

static void write_yaml(reader *r, char **yaml)
{
    size_t bytes;
    FILE *to = open_memstream(yaml, &bytes);
    int good = to != NULL;
    if (good) {
        write_section(r, to);
        good = !ferror(to);
        good &= fclose(to) == 0;
    }
    if (good)
        return;
    free(*yaml);
    *yaml = NULL;
    r->status = wn_fail(r->error, WN_ENOMEM, "%s: no memory to read it", r->path);
}

/* ---------------------------------------------------------------- the file */

static json_t *load(reader *r)
{
    json_error_t where;
    FILE *file = fopen(r->path, "rb");
    if (file == NULL) {
        r->status = wn_fail(r->error, WN_EIO, "%s: cannot be read", r->path);
        return NULL;
    }
    json_t *root = json_loadf(file, JSON_REJECT_DUPLICATES, &where);
    fclose(file);
    if (root == NULL)
        r->status = wn_fail(r->error, WN_EFORMAT, "%s:%d:%d: %s", r->path, where.line, where.column,
                            where.text);
    return root;
}

/* Of the model or, where it is one of several, of its language part. */
static void find_section(reader *r, json_t *root)
{
    r->section = json_object_get(root, SECTION);
    if (!is_there(r->section))
        r->section = json_object_get(json_object_get(root, "text_config"), SECTION);
    if (!is_there(r->section))
        r->status = wn_fail(r->error, WN_ECONFIG,
                            "%s: has no \"" SECTION "\": the model was not "
                            "calibrated for sparse attention",
                            r->path);
    else if (!json_is_object(r->section))
        r->status =
            wn_fail(r->error, WN_EFORMAT, "%s: \"" SECTION "\": expected an object", r->path);
}

wn_status wn_sparse_config_from_json(const char *path, char **yaml, wn_error *error)
{
    reader r = {.path = path,
                .error = error,
                .factors = json_object(),
                .coefficients = json_object(),
                .targets = json_object(),
                .thresholds = json_object(),
                .ignore = json_array(),
                .reached = json_object()};
    *yaml = NULL;
    json_t *root = load(&r);
    if (r.status == WN_OK)
        find_section(&r, root);
    if (r.status == WN_OK)
        read_section(&r);
    if (r.status == WN_OK)
        write_yaml(&r, yaml);
    json_t *all[] = {r.factors, r.coefficients, r.targets, r.thresholds, r.ignore, r.reached, root};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        json_decref(all[i]);
    return r.status;
}
