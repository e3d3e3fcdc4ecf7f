/* check_replay.h: replays made without an engine, in double, for tests of what is said about them.
 */
#ifndef WN_TESTS_CHECK_REPLAY_H
#define WN_TESTS_CHECK_REPLAY_H

#include "tools/replay.h"

/* trace: one of check_small_trace.h. After the prompt, its tokens [drop_begin, drop_end) are
 * evicted from every KV head; an empty range makes the dense replay. Freed by wn_replay_free. */
wn_replay *check_replay_make(const wn_trace *trace, const char *name, int64_t drop_begin,
                             int64_t drop_end);
/* check_small_trace.h's trace, opened; closed by wn_trace_close. */
wn_trace *check_replay_trace(void);

#endif
