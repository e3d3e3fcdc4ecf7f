/* validate_values.c: reads default_text. The real reading of configurations is the core's; here it
 * is done a second time, on purpose, so that a plugin's defaults are judged by the words of
 * config.h and not by what one reader happens to accept. */
#include "tools/validate_values.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_NAME = 64 }; /* characters of a word or of a path of keys, its end included */

static const char *skip_spaces(const char *at)
{
    while (isspace((unsigned char)*at))
        at++;
    return at;
}

static wn_status fail(char *why, size_t capacity, const wn_config_field *field, const char *text,
                      const char *problem)
{
    snprintf(why, capacity, "\"%s\": \"%s\" %s", field->name, text, problem);
    return WN_ECONFIG;
}

/* A number and, in *end, what follows it. YAML's .inf is read too. */
static int number(const char *at, double *value, const char **end)
{
    int negative = at[0] == '-' && at[1] == '.';
    if (strncmp(at + negative, ".inf", 4) == 0) {
        *value = negative ? -strtod("inf", NULL) : strtod("inf", NULL);
        *end = at + negative + 4;
        return 1;
    }
    char *stop;
    *value = strtod(at, &stop);
    *end = skip_spaces(stop);
    return stop != at;
}

static int in_range(const wn_config_field *field, double value)
{
    return value >= field->least && value <= field->greatest;
}

static wn_status read_number(const wn_config_field *field, const char *text, wn_value *value,
                             char *why, size_t capacity)
{
    const char *end;
    if (!number(text, &value->f, &end) || *end != '\0')
        return fail(why, capacity, field, text, "is not a number");
    if (!in_range(field, value->f))
        return fail(why, capacity, field, text, "is out of the field's range");
    if (field->type != WN_FIELD_INT)
        return WN_OK;
    value->i = strtoll(text, NULL, 10);
    return (double)value->i == value->f ? WN_OK
                                        : fail(why, capacity, field, text, "is not an integer");
}

static int phase_of(const char *at, size_t length)
{
    static const struct {
        const char *name;
        int phase;
    } names[] = {{"prefill", WN_PHASE_CONTEXT},
                 {"context", WN_PHASE_CONTEXT},
                 {"decode", WN_PHASE_GENERATION},
                 {"generation", WN_PHASE_GENERATION}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strlen(names[i].name) == length && strncmp(at, names[i].name, length) == 0)
            return names[i].phase;
    return -1;
}

/* A number for both phases, or {prefill: x, decode: y} with either left out. */
static wn_status read_phases(const wn_config_field *field, const char *text, wn_value *value,
                             char *why, size_t capacity)
{
    const char *at = skip_spaces(text), *end;
    double each;
    if (*at != '{') {
        if (read_number(field, text, value, why, capacity) != WN_OK)
            return WN_ECONFIG;
        value->phase[WN_PHASE_CONTEXT] = value->phase[WN_PHASE_GENERATION] = value->f;
        value->phase_set = 3;
        return WN_OK;
    }
    for (at = skip_spaces(at + 1); *at != '}' && *at != '\0'; at = skip_spaces(at)) {
        size_t length = strspn(at, "abcdefghijklmnopqrstuvwxyz");
        int phase = phase_of(at, length);
        at = skip_spaces(at + length);
        if (phase < 0 || *at != ':' || !number(skip_spaces(at + 1), &each, &end))
            return fail(why, capacity, field, text,
                        "is neither a number nor {prefill: x, decode: y}");
        if (!in_range(field, each))
            return fail(why, capacity, field, text, "is out of the field's range");
        value->phase[phase] = each;
        value->phase_set |= 1u << phase;
        at = *end == ',' ? end + 1 : end;
    }
    if (*at != '}')
        return fail(why, capacity, field, text, "has no closing brace");
    return WN_OK;
}

/* [1, 2, 3] */
static wn_status read_list(const wn_config_field *field, const char *text, wn_value *value,
                           char *why, size_t capacity)
{
    const char *at = skip_spaces(text);
    int64_t *list = calloc(strlen(text) + 1, sizeof *list); /* more than the text can hold */
    uint32_t count = 0;
    if (list == NULL)
        return WN_ENOMEM;
    value->list = list;
    if (*at != '[')
        return fail(why, capacity, field, text, "is not a list like [1, 2]");
    for (at = skip_spaces(at + 1); *at != ']'; at = skip_spaces(at)) {
        char *end;
        list[count] = strtoll(at, &end, 10);
        if (end == at)
            return fail(why, capacity, field, text, "is not a list of integers");
        if (!in_range(field, (double)list[count++]))
            return fail(why, capacity, field, text, "has an entry out of the field's range");
        at = skip_spaces(end);
        at += *at == ',';
    }
    value->count = count;
    return WN_OK;
}

/* Room for what a text can hold at most: pointers to names, then the names themselves. */
static char **make_names(const char *text)
{
    size_t most = strlen(text) + 1;
    return calloc(most * (sizeof(char *) + MOST_NAME), 1);
}

static char *name_room(char **names, const char *text, uint32_t number)
{
    return (char *)(names + strlen(text) + 1) + (size_t)number * MOST_NAME;
}

/* The length of the word at the start, or 0: neither a point nor what YAML reads as something else.
 */
static size_t word(const char *at)
{
    size_t length = strspn(at, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-");
    return length < MOST_NAME ? length : 0;
}

/* [a, b] */
static wn_status read_words(const wn_config_field *field, const char *text, wn_value *value,
                            char *why, size_t capacity)
{
    const char *at = skip_spaces(text);
    char **names = make_names(text);
    value->names = (const char *const *)names;
    if (names == NULL)
        return WN_ENOMEM;
    if (*at != '[')
        return fail(why, capacity, field, text, "is not a list like [a, b]");
    for (at = skip_spaces(at + 1); *at != ']'; at = skip_spaces(at + (*at == ','))) {
        size_t length = word(at);
        if (length == 0)
            return fail(why, capacity, field, text, "is not a list of words");
        names[value->count] = name_room(names, text, value->count);
        memcpy(names[value->count++], at, length);
        at = skip_spaces(at + length);
    }
    return WN_OK;
}

/* One mapping, `at` behind its brace; nested ones by recursion. prefix: "" or "outer.". Returns
 * what follows the closing brace, or NULL. */
static const char *read_mapping(const wn_config_field *field, const char *text, const char *at,
                                const char *prefix, wn_value *value)
{
    for (at = skip_spaces(at); *at != '}'; at = skip_spaces(at + (*at == ','))) {
        char name[MOST_NAME];
        double *numbers = (double *)(uintptr_t)value->numbers;
        size_t length = word(at);
        const char *behind = skip_spaces(at + length);
        int fits = snprintf(name, sizeof name, "%s%.*s", prefix, (int)length, at) < MOST_NAME - 1;
        if (length == 0 || !fits || *behind != ':')
            return NULL;
        at = skip_spaces(behind + 1);
        if (*at == '{') {
            at = read_mapping(field, text, at + 1, strcat(name, "."), value);
        } else {
            char **names = (char **)(uintptr_t)value->names;
            if (!number(at, &numbers[value->count], &at) || !in_range(field, numbers[value->count]))
                return NULL;
            names[value->count] = strcpy(name_room(names, text, value->count), name);
            value->count++;
        }
        if (at == NULL)
            return NULL;
        at = skip_spaces(at);
    }
    return at + 1;
}

/* {a: 1, b: {c: 2}} */
static wn_status read_map(const wn_config_field *field, const char *text, wn_value *value,
                          char *why, size_t capacity)
{
    const char *at = skip_spaces(text);
    value->names = (const char *const *)make_names(text);
    value->numbers = calloc(strlen(text) + 1, sizeof(double));
    if (value->names == NULL || value->numbers == NULL)
        return WN_ENOMEM;
    at = *at == '{' ? read_mapping(field, text, at + 1, "", value) : NULL;
    if (at == NULL || *skip_spaces(at) != '\0')
        return fail(why, capacity, field, text,
                    "is not a mapping of numbers in the field's range like {a: 1, b: {c: 2}}");
    return WN_OK;
}

static wn_status read_name(const wn_config_field *field, const char *text, wn_value *value,
                           char *why, size_t capacity)
{
    for (int64_t i = 0; field->enum_names != NULL && field->enum_names[i] != NULL; i++)
        if (strcmp(field->enum_names[i], text) == 0) {
            value->i = i;
            value->s = field->enum_names[i];
            return WN_OK;
        }
    return fail(why, capacity, field, text, "is none of the field's names");
}

wn_status wn_value_read(const wn_config_field *field, const char *text, wn_value *value, char *why,
                        size_t why_capacity)
{
    memset(value, 0, sizeof *value);
    value->has_value = 1;
    switch (field->type) {
    case WN_FIELD_INT:
    case WN_FIELD_FLOAT:
        return read_number(field, text, value, why, why_capacity);
    case WN_FIELD_BOOL:
        value->i = strcmp(text, "true") == 0;
        if (value->i || strcmp(text, "false") == 0)
            return WN_OK;
        return fail(why, why_capacity, field, text, "is neither true nor false");
    case WN_FIELD_STRING:
        value->s = text;
        return WN_OK;
    case WN_FIELD_ENUM:
        return read_name(field, text, value, why, why_capacity);
    case WN_FIELD_PHASE_FLOAT:
        return read_phases(field, text, value, why, why_capacity);
    case WN_FIELD_INT_LIST:
        return read_list(field, text, value, why, why_capacity);
    case WN_FIELD_STRING_LIST:
        return read_words(field, text, value, why, why_capacity);
    case WN_FIELD_NUMBER_MAP:
        return read_map(field, text, value, why, why_capacity);
    default:
        return fail(why, why_capacity, field, text, "belongs to a field of unknown type");
    }
}

int wn_required_text(const wn_config_field *field, char *text, size_t capacity)
{
    switch (field->type) {
    case WN_FIELD_INT:
    case WN_FIELD_FLOAT:
    case WN_FIELD_PHASE_FLOAT:
        return snprintf(text, capacity, "%.17g", field->least);
    case WN_FIELD_BOOL:
        return snprintf(text, capacity, "false");
    case WN_FIELD_ENUM:
        return snprintf(text, capacity, "%s", field->enum_names[0]);
    case WN_FIELD_INT_LIST:
        return snprintf(text, capacity, "[%.17g]", field->least);
    case WN_FIELD_STRING_LIST:
        return snprintf(text, capacity, "[]");
    case WN_FIELD_NUMBER_MAP:
        return snprintf(text, capacity, "{a: %.17g}", field->least);
    default:
        return snprintf(text, capacity, "%s", "");
    }
}

wn_value *wn_trial_values(const wn_config_interface *config, char *why, size_t why_capacity)
{
    wn_value *values = calloc((size_t)config->num_fields + 1, sizeof *values);
    char text[128];
    for (uint32_t i = 0; values != NULL && i < config->num_fields; i++) {
        const wn_config_field *field = &config->fields[i];
        int required = (field->flags & WN_FIELD_REQUIRED) != 0;
        if (required)
            wn_required_text(field, text, sizeof text);
        if (!required && field->default_text == NULL)
            continue; /* neither set nor a default: has_value stays 0 */
        if (wn_value_read(field, required ? text : field->default_text, &values[i], why,
                          why_capacity) != WN_OK) {
            wn_trial_values_free(values, config->num_fields);
            return NULL;
        }
        values[i].is_set = (uint32_t)required;
        if (required && field->type == WN_FIELD_STRING)
            values[i].s = ""; /* text is gone after this function */
    }
    return values;
}

void wn_value_free(wn_value *value)
{
    free((void *)(uintptr_t)value->list);
    free((void *)(uintptr_t)value->names);
    free((void *)(uintptr_t)value->numbers);
    value->list = NULL;
    value->names = NULL;
    value->numbers = NULL;
}

void wn_trial_values_free(wn_value *values, uint32_t num_fields)
{
    for (uint32_t i = 0; values != NULL && i < num_fields; i++)
        wn_value_free(&values[i]);
    free(values);
}
