/* quote.c: other people's text inside a message. */
#include "core/quote.h"

#include <stdio.h>
#include <string.h>

/* Bytes of the UTF-8 character that starts here; 1 for what is none. */
static size_t character_bytes(const char *text)
{
    unsigned char first = (unsigned char)text[0];
    size_t bytes = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : first >= 0xc0 ? 2 : 1;
    for (size_t i = 1; i < bytes; i++)
        if (((unsigned char)text[i] & 0xc0) != 0x80)
            return 1;
    return bytes;
}

/* Escaped text at out, at most `room` bytes and a NUL; returns the bytes written. */
static size_t escape(char *out, size_t room, const char *text)
{
    size_t used = 0, cut = 0; /* cut: the last place with room for "..." after it */
    while (*text != '\0') {
        char shown[8];
        size_t bytes = character_bytes(text), length = bytes;
        unsigned char c = (unsigned char)*text;
        if (c == '\n')
            length = (size_t)snprintf(shown, sizeof shown, "\\n");
        else if (c == '\t')
            length = (size_t)snprintf(shown, sizeof shown, "\\t");
        else if (c < 0x20 || c == 0x7f || (c >= 0x80 && bytes == 1))
            length = (size_t)snprintf(shown, sizeof shown, "\\x%02x", c);
        else if (c == '"')
            length = (size_t)snprintf(shown, sizeof shown, "\\\"");
        else
            memcpy(shown, text, bytes);
        if (used + length > room) {
            memcpy(out + cut, "...", 3);
            used = cut + 3;
            break;
        }
        memcpy(out + used, shown, length);
        used += length;
        if (used + 3 <= room)
            cut = used;
        text += bytes;
    }
    out[used] = '\0';
    return used;
}

const char *wn_quote(char out[WN_QUOTE_BYTES], const char *text)
{
    out[0] = '"';
    size_t used = escape(out + 1, WN_QUOTE_BYTES - 4, text);
    memcpy(out + 1 + used, "\"", 2);
    return out;
}

const char *wn_clip(char out[WN_QUOTE_BYTES], const char *text)
{
    escape(out, WN_QUOTE_BYTES - 2, text);
    return out;
}
