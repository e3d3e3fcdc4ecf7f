/* test_plugin_path.c: what is given comes first, the build tree after it. */
#include "suite.h"
#include "tools/plugin_path.h"

#include <string.h>

static void only_what_is_given(void)
{
    /* This test lies in tests/ of the build, beside whose parent lib/plugins is the build's own:
     * the same place that bin/winnow sees. */
    char *none = wn_plugin_path(NULL), *given = wn_plugin_path("/a:/b");
    CU_ASSERT_PTR_NOT_NULL_FATAL(given);
    CU_ASSERT_EQUAL(strncmp(given, "/a:/b", 5), 0);
    if (none != NULL) {
        CU_ASSERT_EQUAL(given[5], ':');
        CU_ASSERT_STRING_EQUAL(given + 6, none);
        CU_ASSERT_EQUAL(none[0], '/');
    } else {
        CU_ASSERT_EQUAL(given[5], '\0');
    }
    free(none);
    free(given);
}

WN_SUITE("tools.plugin_path", {"given directories come first", only_what_is_given})
