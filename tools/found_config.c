/* found_config.c: YAML goes to the library as it is; a config.json is first put into its words. */
#include "tools/found_config.h"

#include "tools/sparse_config.h"

#include <stdlib.h>
#include <string.h>

static wn_status from_json(const char *path, wn_config **config, wn_error *error)
{
    char *yaml;
    wn_status status = wn_sparse_config_from_json(path, &yaml, error);
    if (status != WN_OK)
        return status;
    status = wn_config_parse(yaml, strlen(yaml), path, config);
    free(yaml);
    return status == WN_OK ? WN_OK : wn_fail(error, status, "%s", wn_error_text());
}

wn_status wn_found_config(const char *path, wn_config **config, wn_error *error)
{
    size_t length = strlen(path);
    if (length > 5 && strcmp(path + length - 5, ".json") == 0)
        return from_json(path, config, error);
    wn_status status = wn_config_load(path, config);
    return status == WN_OK ? WN_OK : wn_fail(error, status, "%s", wn_error_text());
}
