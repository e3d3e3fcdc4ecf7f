/* schema.h: an algorithm's own keys against its schema. */
#ifndef WN_SCHEMA_H
#define WN_SCHEMA_H

#include "core/config_file.h"
#include "core/yaml_tree.h"

/* wn_config_bind for one entry; name: of the file, in messages. */
wn_status wn_schema_bind(const wn_config_interface *schema, const wn_yaml_node *entry,
                         const char *name, wn_value **values, wn_reason_list *reasons);

#endif
