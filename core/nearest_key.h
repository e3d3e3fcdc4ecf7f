/* nearest_key.h: which name did the user mean? */
#ifndef WN_NEAREST_KEY_H
#define WN_NEAREST_KEY_H

#include <stdint.h>

enum { WN_HINT_BYTES = 96 };

/* Begin with a word, try each candidate, ask for the best. Pointers are the caller's. */
typedef struct wn_nearest {
    const char *word;
    const char *best; /* NULL: none is near enough */
    uint32_t distance;
} wn_nearest;

wn_nearest wn_nearest_begin(const char *word);
void wn_nearest_try(wn_nearest *nearest, const char *candidate);
/* ` (did you mean "best"?)`, or "" if there is none, into out; returns out. */
const char *wn_nearest_hint(const wn_nearest *nearest, char out[WN_HINT_BYTES]);

/* Insertions, deletions, replacements and swaps of neighbours that turn one word into the other;
 * capitals and '-' for '_' are free. UINT32_MAX if either is longer than 63 bytes. */
uint32_t wn_key_distance(const char *left, const char *right);

#endif
