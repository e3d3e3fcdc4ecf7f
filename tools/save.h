/* save.h: everything a run produced, as a safetensors file for programs that compare. */
#ifndef WN_TOOLS_SAVE_H
#define WN_TOOLS_SAVE_H

#include "tools/replay.h"

/* Writes, per layer N and replay NAME, the tensors that exist for it:
 *   layers.N.NAME.out     float32 [tokens, heads, v_head_dim]
 *   layers.N.NAME.lse     float32 [tokens, heads]
 *   layers.N.NAME.retain  int32 [kv heads, n] positions of the prompt's tokens that stayed
 *   layers.N.NAME.select  int32 [generation steps, kv heads or 1, n] positions that each step's
 *                         query attended to by selection, ascending, padded with -1; 1 where one
 *                         list serves all KV heads
 *   layers.N.NAME.select_context  int32 [prompt tokens, kv heads or 1, n] the same of the prompt,
 *                         if the replay kept it
 * Where some rows have a selection and others have none, those name everything that was visible. */
wn_status wn_save_replays(const char *path, const wn_trace *trace, wn_replay *const *replays,
                          uint32_t count, wn_error *error);

#endif
