/* yaml_scalar.h: scalars as values, by the core schema of YAML 1.2, decimal numbers only: no
 * octal, hexadecimal, underscores, infinities or NaN; true and false and no other words.
 *
 * The wn_read_* functions answer 1 and fill *out, or answer 0 and add a finding
 * `"key" is VALUE: expected ...` at the value. */
#ifndef WN_YAML_SCALAR_H
#define WN_YAML_SCALAR_H

#include "core/yaml_tree.h"

/* Nothing was written ("key:"). */
int wn_yaml_is_empty(const wn_yaml_node *node);
/* null or ~ was written: as if the key were absent. */
int wn_yaml_is_null(const wn_yaml_node *node);
/* A plain scalar that is an integer; one too large for int64_t is too. */
int wn_yaml_is_integer(const wn_yaml_node *node);

/* least, greatest: inclusive; infinite or beyond int64_t: no limit. unit: "tokens" or "". */
int wn_read_int(const wn_yaml_node *node, const char *key, double least, double greatest,
                const char *unit, wn_findings *findings, int64_t *out);
int wn_read_float(const wn_yaml_node *node, const char *key, double least, double greatest,
                  const char *unit, wn_findings *findings, double *out);
int wn_read_bool(const wn_yaml_node *node, const char *key, wn_findings *findings, int64_t *out);
/* A scalar that is not empty; a number is read as its digits. */
int wn_read_string(const wn_yaml_node *node, const char *key, wn_findings *findings,
                   const char **out);
/* One of the names, NULL-terminated; *out is its index. */
int wn_read_enum(const wn_yaml_node *node, const char *key, const char *const *names,
                 wn_findings *findings, int64_t *out);

/* For findings of other kinds: `"key" is VALUE: expected EXPECTED`. */
void wn_find_mismatch(wn_findings *findings, const wn_yaml_node *node, const char *key,
                      const char *expected);

#endif
