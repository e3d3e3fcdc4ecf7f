/* report_words.c: the prompt's words, marked by which KV heads still have them. Choosing one head
 * needs no script: a radio button, a sibling selector, and a class per head on every marked run. */
#include "tools/report_parts.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Beyond this many KV heads there are no buttons, only the heat over all of them. */
enum { MAX_PICKED_HEADS = 16 };

/* ---------------------------------------------------------------- escaping */

/* Bytes of the UTF-8 character at text, 0 if it is none (RFC 3629, section 4). */
static size_t utf8_length(const unsigned char *text, size_t bytes)
{
    unsigned char c = text[0];
    size_t length = c < 0x80                ? 1
                    : c >= 0xc2 && c < 0xe0 ? 2
                    : c >= 0xe0 && c < 0xf0 ? 3
                    : c >= 0xf0 && c < 0xf5 ? 4
                                            : 0;
    if (length == 0 || length > bytes)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((text[i] & 0xc0) != 0x80)
            return 0;
    if ((c == 0xe0 && text[1] < 0xa0) || (c == 0xed && text[1] > 0x9f) ||
        (c == 0xf0 && text[1] < 0x90) || (c == 0xf4 && text[1] > 0x8f))
        return 0;
    return length;
}

static const char *entity(unsigned char c)
{
    switch (c) {
    case '&':
        return "&amp;";
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '"':
        return "&quot;";
    default:
        return (c < 32 && c != '\n' && c != '\t') || c == 127 ? "\xef\xbf\xbd" : NULL;
    }
}

void wn_report_escape(FILE *to, const char *text, size_t bytes)
{
    const unsigned char *at = (const unsigned char *)text, *end = at + bytes;
    while (at < end) {
        size_t length = utf8_length(at, (size_t)(end - at));
        const char *instead = length == 0 ? "\xef\xbf\xbd" : length == 1 ? entity(*at) : NULL;
        if (instead != NULL)
            fputs(instead, to);
        else
            fwrite(at, 1, length, to);
        at += length > 0 ? length : 1;
    }
}

void wn_report_text(FILE *to, const char *text)
{
    wn_report_escape(to, text, strlen(text));
}

/* ---------------------------------------------------------------- who has which word */

/* has[t * kv_heads + h] = 1: KV head h still has prompt token t. Where everything stays in the
 * cache but is selected from: 1 if some step selected it. */
static uint8_t *find_holders(const wn_run *run, uint32_t replay, uint32_t layer)
{
    const wn_trace *trace = run->trace;
    const wn_replay *from = run->replays[replay];
    const wn_replay_layer *result = &from->layers[layer];
    const wn_choices *chosen = &result->generation;
    uint32_t heads = trace->num_kv_heads;
    uint8_t *has = calloc((size_t)trace->context * heads, 1);
    if (has == NULL)
        return NULL;
    if (result->retain != NULL) {
        for (uint32_t h = 0; h < heads; h++)
            for (int32_t i = 0; i < result->kept; i++)
                has[result->retain[(int64_t)h * result->kept + i] * (int64_t)heads + h] = 1;
        return has;
    }
    for (int64_t step = 0; step < from->steps; step++)
        for (uint32_t h = 0; h < heads; h++) {
            wn_span span = chosen->span[step * heads + h];
            if (!chosen->chosen[step])
                for (int64_t t = 0; t < trace->context; t++)
                    has[t * heads + h] = 1;
            for (int64_t i = span.begin; i < span.end; i++)
                if (chosen->position[i] < trace->context)
                    has[chosen->position[i] * (int64_t)heads + h] = 1;
        }
    return has;
}

/* ---------------------------------------------------------------- writing */

/* Tokens [first, last) have the same holders. */
static void write_run(FILE *to, const wn_trace *trace, const uint8_t *has, int64_t first,
                      int64_t last)
{
    uint32_t heads = trace->num_kv_heads, count = 0;
    const uint8_t *holders = has + first * heads;
    const char *text = (const char *)trace->text + trace->text_begin[first];
    size_t bytes = (size_t)(trace->text_begin[last] - trace->text_begin[first]);
    for (uint32_t h = 0; h < heads; h++)
        count += holders[h];
    if (count == heads) {
        wn_report_escape(to, text, bytes);
        return;
    }
    fprintf(to, "<i class=\"f%d", count == 0 ? 0 : 2 * count < heads ? 1 : 2);
    for (uint32_t h = 0; h < heads && heads <= MAX_PICKED_HEADS; h++)
        if (holders[h])
            fprintf(to, " h%u", h);
    fputs("\">", to);
    wn_report_escape(to, text, bytes);
    fputs("</i>", to);
}

static void write_text(FILE *to, const wn_trace *trace, const uint8_t *has)
{
    uint32_t heads = trace->num_kv_heads;
    int64_t first = 0;
    for (int64_t t = 1; t <= trace->context; t++) {
        int edge = t == trace->context || t == trace->needle_begin || t == trace->needle_end;
        if (!edge && memcmp(has + t * heads, has + (t - 1) * heads, heads) == 0)
            continue;
        if (first == trace->needle_begin && trace->needle_begin < trace->needle_end)
            fputs("<mark title=\"the planted fact\">", to);
        write_run(to, trace, has, first, t);
        if (t == trace->needle_end && trace->needle_begin < trace->needle_end)
            fputs("</mark>", to);
        first = t;
    }
}

/* One button per KV head; group makes the names unlike those of the other sections. */
static void write_buttons(FILE *to, uint32_t heads, uint32_t group)
{
    fprintf(to,
            "<input type=\"radio\" class=\"ra\" name=\"w%u\" id=\"w%ua\" checked> <label "
            "for=\"w%ua\">all KV heads</label>\n",
            group, group, group);
    for (uint32_t h = 0; h < heads && heads <= MAX_PICKED_HEADS && heads > 1; h++)
        fprintf(to,
                "<input type=\"radio\" class=\"r%u\" name=\"w%u\" id=\"w%uh%u\"> <label "
                "for=\"w%uh%u\">head %u</label>\n",
                h, group, group, h, group, h, h);
}

wn_status wn_report_words_write(FILE *to, const wn_run *run, uint32_t replay, uint32_t layer,
                                wn_error *error)
{
    const wn_trace *trace = run->trace;
    const wn_replay_layer *result = &run->replays[replay]->layers[layer];
    if (trace->text_begin == NULL || (result->retain == NULL && !result->generation.any))
        return WN_OK;
    uint8_t *has = find_holders(run, replay, layer);
    if (has == NULL)
        return wn_fail(error, WN_ENOMEM, "no memory for the report's words");
    if (result->retain != NULL)
        fprintf(to,
                "<h4>The prompt, and what stayed of it</h4>\n<p class=\"soft\">%d of %" PRId64
                " tokens stayed in the cache of each KV head. ",
                result->kept, trace->context);
    else
        fputs("<h4>The prompt, and what was ever selected of it</h4>\n<p class=\"soft\">Everything "
              "stays in the cache; a word counts if some step selected it. ",
              to);
    fputs(
        "Struck out: no KV head has it. <span class=\"key\" style=\"background:var(--l1)\"></span> "
        "fewer than half of the heads, <span class=\"key\" style=\"background:var(--k1)\"></span> "
        "half or more, plain: all.</p>\n<div class=\"pick\" role=\"group\" aria-label=\"which KV "
        "head's words\">\n",
        to);
    write_buttons(to, trace->num_kv_heads, replay * trace->num_layers + layer);
    fputs("<div class=\"words\" tabindex=\"0\">", to);
    write_text(to, trace, has);
    fputs("</div></div>\n", to);
    free(has);
    return WN_OK;
}
