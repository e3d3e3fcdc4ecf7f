/* validate_values.h: values for a schema without a file: what a plugin is given when the user has
 * set nothing but what must be set. */
#ifndef WN_VALIDATE_VALUES_H
#define WN_VALIDATE_VALUES_H

#include "winnow/config.h"

#include <stddef.h>

/* Reads text as a user would write it for this field and checks its range. value: filled; its lists
 * are allocated and freed by wn_value_free, after a failure too. On failure why (why_capacity
 * bytes) says what is wrong. */
wn_status wn_value_read(const wn_config_field *field, const char *text, wn_value *value, char *why,
                        size_t why_capacity);
void wn_value_free(wn_value *value);

/* One value per field: the default; for a required field the least (a number), the first name (an
 * enum), false, or an empty text. Freed by wn_trial_values_free. NULL: a default cannot be read. */
wn_value *wn_trial_values(const wn_config_interface *config, char *why, size_t why_capacity);
void wn_trial_values_free(wn_value *values, uint32_t num_fields);

/* The same text for a configuration file: what to write for a required field. Returns its length.
 */
int wn_required_text(const wn_config_field *field, char *text, size_t capacity);

#endif
