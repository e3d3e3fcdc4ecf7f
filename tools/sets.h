/* sets.h: the bit sets of the ABI in words: interfaces and devices. */
#ifndef WN_TOOLS_SETS_H
#define WN_TOOLS_SETS_H

#include <stddef.h>
#include <stdint.h>

struct json_t;

/* "config predictor", "cpu". text: capacity bytes, cut if need be. */
void wn_interfaces_text(uint32_t set, char *text, size_t capacity);
void wn_devices_text(uint32_t set, char *text, size_t capacity);

/* The same as a new JSON array of names. */
struct json_t *wn_interfaces_json(uint32_t set);
struct json_t *wn_devices_json(uint32_t set);

#endif
