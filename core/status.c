/* status.c: names and texts of status codes, from the one list in winnow/status.h. */
#include "winnow/winnow.h"

const char *wn_status_text(wn_status status)
{
    switch (status) {
#define TEXT(name, value, text)                                                                    \
    case value:                                                                                    \
        return text;
        WN_STATUS_LIST(TEXT)
#undef TEXT
    default:
        return "unknown status";
    }
}

const char *wn_status_name(wn_status status)
{
    switch (status) {
#define NAME(name, value, text)                                                                    \
    case value:                                                                                    \
        return "WN_" #name;
        WN_STATUS_LIST(NAME)
#undef NAME
    default:
        return "unknown status";
    }
}
