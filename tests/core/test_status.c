/* Names and texts of status codes. */
#include "tests/suite.h"

#include "winnow/winnow.h"

#include <string.h>

static void every_status_has_name_and_text(void)
{
    for (wn_status status = 0; status > WN_STATUS_LIST_END; status--) {
        CU_ASSERT_EQUAL(strncmp(wn_status_name(status), "WN_", 3), 0);
        CU_ASSERT_STRING_NOT_EQUAL(wn_status_text(status), "unknown status");
        for (wn_status other = 0; other > status; other--)
            CU_ASSERT_STRING_NOT_EQUAL(wn_status_name(status), wn_status_name(other));
    }
    CU_ASSERT_STRING_EQUAL(wn_status_name(WN_ENOPAGES), "WN_ENOPAGES");
    CU_ASSERT_STRING_EQUAL(wn_status_text(WN_ENOPAGES), "out of KV cache pages");
    CU_ASSERT_STRING_EQUAL(wn_status_name(WN_OK), "WN_OK");
}

static void other_numbers_are_unknown(void)
{
    CU_ASSERT_STRING_EQUAL(wn_status_text(1), "unknown status");
    CU_ASSERT_STRING_EQUAL(wn_status_text(WN_STATUS_LIST_END), "unknown status");
    CU_ASSERT_STRING_EQUAL(wn_status_name(INT32_MIN), "unknown status");
}

WN_SUITE("core.status", {"every status has name and text", every_status_has_name_and_text},
         {"other numbers are unknown", other_numbers_are_unknown})
