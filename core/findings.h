/* findings.h: what there is to say about a file, each with its place. Found in any order, told in
 * the order of the file. */
#ifndef WN_FINDINGS_H
#define WN_FINDINGS_H

#include "core/reasons.h"

typedef struct wn_finding {
    uint32_t line, column; /* from 1; line 0: of the file as a whole */
    uint32_t order;        /* of two at one place the one found first comes first */
    char *text;
} wn_finding;

/* Zeroed: an empty one. */
typedef struct wn_findings {
    wn_finding *list;
    uint32_t count, capacity;
    uint32_t out_of_memory;
} wn_findings;

void wn_finding_add(wn_findings *findings, uint32_t line, uint32_t column, const char *format, ...)
    WN_PRINTF(4, 5);
/* Adds "name:line:column: text" for each, by place, and empties the findings. */
void wn_findings_tell(wn_findings *findings, const char *name, wn_reason_list *reasons);
void wn_findings_clear(wn_findings *findings);

#endif
