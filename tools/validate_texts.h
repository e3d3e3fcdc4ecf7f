/* validate_texts.h: what users write for a field of a schema, rightly and wrongly. */
#ifndef WN_VALIDATE_TEXTS_H
#define WN_VALIDATE_TEXTS_H

#include "winnow/config.h"

enum { WN_MAX_TEXTS = 16, WN_TEXT_BYTES = 192 };

typedef struct wn_field_texts {
    uint32_t num_good, num_bad;
    char good[WN_MAX_TEXTS]
             [WN_TEXT_BYTES];              /* least, greatest, every name: the schema takes these */
    char bad[WN_MAX_TEXTS][WN_TEXT_BYTES]; /* just beyond both, wrong types: and never these */
} wn_field_texts;

void wn_field_texts_make(const wn_config_field *field, wn_field_texts *texts);

#endif
