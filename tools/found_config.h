/* found_config.h: what a subcommand's argument CONFIG may be. */
#ifndef WN_TOOLS_FOUND_CONFIG_H
#define WN_TOOLS_FOUND_CONFIG_H

#include "winnow/winnow.h"

#define WN_CONFIG_HELP                                                                             \
    "CONFIG is a YAML file as TensorRT-LLM has it, or a model's config.json (any file whose name " \
    "ends in .json) with a section sparse_attention_config."

/* A failure's text is in *error. */
wn_status wn_found_config(const char *path, wn_config **config, wn_error *error);

#endif
