/* quote.h: other people's text inside a message: short, on one line, without control characters. */
#ifndef WN_QUOTE_H
#define WN_QUOTE_H

#include <stddef.h>

enum { WN_QUOTE_BYTES = 96 };

/* "text" with its quotes into out, and returns out. Long text ends in "...", never inside a UTF-8
 * character; control characters and quotes are escaped. */
const char *wn_quote(char out[WN_QUOTE_BYTES], const char *text);
/* The same without quotes around it. */
const char *wn_clip(char out[WN_QUOTE_BYTES], const char *text);

#endif
