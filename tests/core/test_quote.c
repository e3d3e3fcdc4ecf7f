/* Quoting: short, one line, whole characters. */
#include "tests/suite.h"

#include "core/quote.h"

#include <string.h>

static void ordinary_text_is_quoted(void)
{
    char out[WN_QUOTE_BYTES];
    CU_ASSERT_STRING_EQUAL(wn_quote(out, "topk"), "\"topk\"");
    CU_ASSERT_STRING_EQUAL(wn_quote(out, ""), "\"\"");
    CU_ASSERT_STRING_EQUAL(wn_clip(out, "1.5"), "1.5");
}

static void control_characters_are_escaped(void)
{
    char out[WN_QUOTE_BYTES];
    CU_ASSERT_STRING_EQUAL(wn_quote(out, "a\nb\t\x1b[1m\"\x7f"), "\"a\\nb\\t\\x1b[1m\\\"\\x7f\"");
    CU_ASSERT_STRING_EQUAL(wn_quote(out, "\xff"), "\"\\xff\"");
    CU_ASSERT_STRING_EQUAL(wn_quote(out, "\xc3"), "\"\\xc3\"");
}

static void long_text_is_cut_between_characters(void)
{
    char out[WN_QUOTE_BYTES], text[400];
    for (size_t length = 0; length < 200; length++) {
        for (size_t i = 0; i < length; i++)
            memcpy(text + 2 * i, "\xc3\xa9", 2);
        text[2 * length] = '\0';
        wn_quote(out, text);
        size_t shown = strlen(out);
        CU_ASSERT(shown < WN_QUOTE_BYTES);
        CU_ASSERT_EQUAL(out[shown - 1], '"');
        if (2 * length + 2 == shown)
            continue;
        CU_ASSERT_STRING_EQUAL(out + shown - 4, "...\"");
        CU_ASSERT_EQUAL((shown - 5) % 2, 0);
        CU_ASSERT(shown > WN_QUOTE_BYTES - 12);
    }
}

WN_SUITE("core.quote", {"ordinary text is quoted", ordinary_text_is_quoted},
         {"control characters are escaped", control_characters_are_escaped},
         {"long text is cut between characters", long_text_is_cut_between_characters})
