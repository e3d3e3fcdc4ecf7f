/* sparse_config.h: the section `sparse_attention_config` of a Hugging Face config.json, in every
 * form in which calibrated checkpoints have carried it, as configuration text for wn_config_parse.
 */
#ifndef WN_TOOLS_SPARSE_CONFIG_H
#define WN_TOOLS_SPARSE_CONFIG_H

#include "winnow/status.h"

/* Reads the config.json at `path` and writes the YAML of its section into *yaml, to be released
 * with free(). What the section says and cannot be carried over is an error, never left out: on
 * failure *yaml is NULL and the text names file, place and reason. WN_EIO: not readable.
 * WN_EFORMAT: no JSON or not of the form. WN_ECONFIG: no such section. WN_EUNSUPPORTED: a method or
 * setting that has no counterpart here. Without a target_sparsity in the file the text has none
 * either: the caller's user may add it. */
wn_status wn_sparse_config_from_json(const char *path, char **yaml, wn_error *error);

#endif
