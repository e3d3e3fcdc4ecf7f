/* validate_texts.c: right and wrong texts by a field's type, as config.h describes the types. */
#include "tools/validate_texts.h"

#include <math.h>
#include <string.h>

/* One text: format with the number's text in the place of each %s. */
static void add(char (*texts)[WN_TEXT_BYTES], uint32_t *count, const char *format,
                const char *number)
{
    char *to = texts[*count];
    size_t used = 0;
    if (*count == WN_MAX_TEXTS)
        return;
    for (const char *at = format; *at != '\0' && used + 32 < WN_TEXT_BYTES; at++)
        if (at[0] == '%')
            used += (size_t)snprintf(to + used, WN_TEXT_BYTES - used, "%s", number);
        else
            to[used++] = *at;
    to[used] = '\0';
    ++*count;
}

static void good(wn_field_texts *texts, const char *format, const char *number)
{
    add(texts->good, &texts->num_good, format, number);
}

static void bad(wn_field_texts *texts, const char *format, const char *number)
{
    add(texts->bad, &texts->num_bad, format, number);
}

static void number_text(const wn_config_field *field, double value, char *text)
{
    int whole = field->type == WN_FIELD_INT || field->type == WN_FIELD_INT_LIST;
    if (isinf(value))
        snprintf(text, 32, "%s", value < 0 ? "-.inf" : ".inf");
    else
        snprintf(text, 32, whole ? "%.0f" : "%.17g", value);
}

/* Both ends of the range and the first numbers outside, each put into the format. */
static void add_ends(const wn_config_field *field, wn_field_texts *texts, const char *format)
{
    char number[32];
    int whole = field->type == WN_FIELD_INT || field->type == WN_FIELD_INT_LIST;
    double below = whole ? field->least - 1 : nextafter(field->least, -INFINITY);
    double above = whole ? field->greatest + 1 : nextafter(field->greatest, INFINITY);
    number_text(field, field->least, number);
    good(texts, format, number);
    number_text(field, field->greatest, number);
    good(texts, format, number);
    number_text(field, below, number);
    if (below < field->least) /* beyond 2^53 one more is the same double */
        bad(texts, format, number);
    number_text(field, above, number);
    if (above > field->greatest)
        bad(texts, format, number);
}

static void add_phases(const wn_config_field *field, wn_field_texts *texts)
{
    char least[32];
    number_text(field, field->least, least);
    add_ends(field, texts, "%");
    add_ends(field, texts, "{prefill: %}");
    add_ends(field, texts, "{decode: %}");
    add_ends(field, texts, "{prefill: %, decode: %}");
    bad(texts, "{no_such_phase: %}", least);
}

void wn_field_texts_make(const wn_config_field *field, wn_field_texts *texts)
{
    memset(texts, 0, sizeof *texts);
    switch (field->type) {
    case WN_FIELD_INT:
        add_ends(field, texts, "%");
        bad(texts, "%.5", "1");
        break;
    case WN_FIELD_FLOAT:
        add_ends(field, texts, "%");
        bad(texts, ".nan", "");
        break;
    case WN_FIELD_BOOL:
        good(texts, "true", "");
        good(texts, "false", "");
        bad(texts, "7", "");
        break;
    case WN_FIELD_ENUM:
        for (uint32_t i = 0; field->enum_names != NULL && field->enum_names[i] != NULL; i++)
            good(texts, "%", field->enum_names[i]);
        bad(texts, "no_such_name", "");
        break;
    case WN_FIELD_PHASE_FLOAT:
        add_phases(field, texts);
        break;
    case WN_FIELD_INT_LIST:
        add_ends(field, texts, "[%]");
        add_ends(field, texts, "[%, %]");
        bad(texts, "[words]", "");
        break;
    case WN_FIELD_NUMBER_MAP:
        add_ends(field, texts, "{a: %}");
        add_ends(field, texts, "{prefill: {a: %}, decode: {a: %}}");
        bad(texts, "{a: words}", "");
        break;
    case WN_FIELD_STRING_LIST:
        good(texts, "[]", "");
        good(texts, "[words]", "");
        good(texts, "[words, more, words]", "");
        break;
    default: /* WN_FIELD_STRING */
        good(texts, "words", "");
        good(texts, "\"\"", "");
    }
    if (field->type != WN_FIELD_STRING && field->type != WN_FIELD_ENUM)
        bad(texts, "words", "");
    if (field->type != WN_FIELD_INT_LIST && field->type != WN_FIELD_STRING_LIST)
        bad(texts, "[words, words]", "");
    if (field->type != WN_FIELD_NUMBER_MAP)
        bad(texts, "{no_such_key: words}", "");
}
