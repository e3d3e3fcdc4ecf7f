/* bench_steps.h: whole generation steps of an engine, methods beside dense, by part; and the length
 * from which a method is the faster one. */
#ifndef WN_TOOLS_BENCH_STEPS_H
#define WN_TOOLS_BENCH_STEPS_H

#include "tools/bench_measure.h"

typedef struct wn_steps_options {
    char **configs; /* [num_configs] as found_config.h takes them; none: a set of this command's */
    uint32_t num_configs;
    const char *shape;   /* over heads=32,kv_heads=8,head_dim=128,batch=1 */
    const char *lengths; /* "4k,32k"; NULL: a set of this command's */
    const char *plugin_path;
    int form;              /* WN_REPORT_... */
    int64_t longest;       /* of the search for the break-even */
    double prompt_seconds; /* a method whose prompt takes longer is left out of that length */
} wn_steps_options;

/* Both return an exit status; what went wrong is on stderr. */
int wn_bench_steps(const wn_bench *bench, const wn_steps_options *options);
int wn_bench_break_even(const wn_bench *bench, const wn_steps_options *options);

/* One row for `standard`: the method's step over dense generation's at this length. */
wn_status wn_bench_step_row(const wn_bench *bench, const char *name, const char *yaml,
                            int64_t length, const char *plugin_path, wn_bench_result *result,
                            wn_error *error);

#endif
