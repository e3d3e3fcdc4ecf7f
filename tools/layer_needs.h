/* layer_needs.h: which layers of a trace a configuration can be run on. A method made for its model
 * needs inputs beside q, k and v (an indexer's keys), and a trace may have them for some layers
 * only. */
#ifndef WN_TOOLS_LAYER_NEEDS_H
#define WN_TOOLS_LAYER_NEEDS_H

#include "tools/trace.h"

/* lacks[index] becomes 1 where the engine refuses the layer for want of an input and the trace has,
 * on other layers, inputs that this one lacks; entries are never cleared. why: the engine's words
 * for the first of them, bytes of room, "" if there is none. What is refused for other reasons is
 * left for the replay to say. Returns how many layers this call found. */
uint32_t wn_layer_needs(wn_registry *registry, const wn_config *config, const wn_trace *trace,
                        uint8_t *lacks, char *why, size_t bytes);

#endif
