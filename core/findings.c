/* findings.c: what there is to say about a file, sorted by place. */
#include "core/findings.h"

#include <stdlib.h>
#include <string.h>

enum { TEXT_BYTES = 1024 };

void wn_finding_add(wn_findings *findings, uint32_t line, uint32_t column, const char *format, ...)
{
    char text[TEXT_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (findings->count == findings->capacity) {
        uint32_t capacity = findings->capacity == 0 ? 8 : findings->capacity * 2;
        wn_finding *list = realloc(findings->list, capacity * sizeof *list);
        if (list == NULL) {
            findings->out_of_memory = 1;
            return;
        }
        findings->list = list;
        findings->capacity = capacity;
    }
    char *copy = strdup(text);
    if (copy == NULL)
        findings->out_of_memory = 1;
    else {
        findings->list[findings->count] = (wn_finding){line, column, findings->count, copy};
        findings->count++;
    }
}

static int by_place(const void *left, const void *right)
{
    const wn_finding *a = left, *b = right;
    if (a->line != b->line)
        return a->line < b->line ? -1 : 1;
    if (a->column != b->column)
        return a->column < b->column ? -1 : 1;
    return a->order < b->order ? -1 : 1;
}

void wn_findings_tell(wn_findings *findings, const char *name, wn_reason_list *reasons)
{
    if (findings->count > 1)
        qsort(findings->list, findings->count, sizeof *findings->list, by_place);
    for (uint32_t i = 0; i < findings->count; i++) {
        const wn_finding *f = &findings->list[i];
        if (f->line > 0)
            wn_reason_add(reasons, "%s:%u:%u: %s", name, f->line, f->column, f->text);
        else
            wn_reason_add(reasons, "%s: %s", name, f->text);
    }
    reasons->out_of_memory |= findings->out_of_memory;
    wn_findings_clear(findings);
}

void wn_findings_clear(wn_findings *findings)
{
    for (uint32_t i = 0; i < findings->count; i++)
        free(findings->list[i].text);
    free(findings->list);
    *findings = (wn_findings){0};
}
