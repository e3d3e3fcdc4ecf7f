/* check_plugin.h: opens a built plugin as a host would, without the library: for tests that call
 * its interfaces themselves. Anything that goes wrong on the way ends the test program with a text.
 */
#ifndef WN_TESTS_CHECK_PLUGIN_H
#define WN_TESTS_CHECK_PLUGIN_H

#include "winnow/plugin.h"

#define CHECK_MAX_FIELDS 16

typedef struct check_plugin {
    void *library;
    const wn_config_interface *config;
    const wn_predictor_interface *predictor;     /* or NULL */
    const wn_aux_pool_interface *aux_pool;       /* or NULL */
    const wn_kernel_hook_interface *kernel_hook; /* or NULL */
} check_plugin;

/* algorithm: "window" for WN_TEST_PLUGINS/window.so. */
check_plugin check_plugin_open(const char *algorithm);
void check_plugin_close(check_plugin *plugin);

/* One key set by a user. INT and FLOAT: number. ENUM: text. PHASE_FLOAT: number for both phases. */
typedef struct check_setting {
    const char *name;
    double number;
    const char *text;
} check_setting;

/* values [CHECK_MAX_FIELDS]: the schema's defaults, then the settings; the last one has name NULL.
 */
void check_plugin_values(const check_plugin *plugin, const check_setting *settings,
                         wn_value *values);

/* Reasons that check() gives, joined by newlines; "" if it accepts. Static buffer. */
const char *check_plugin_reasons(const check_plugin *plugin, const wn_model *model,
                                 const wn_value *values);

/* What the plugin logged last, and how many lines in all. */
const char *check_plugin_last_log(void);
int check_plugin_num_logs(void);

/* Ends the program with a text unless the condition holds: for what a test cannot go on without. */
#define CHECK_REQUIRE(condition) check_require((condition), #condition, __FILE__, __LINE__)
void check_require(int condition, const char *text, const char *file, int line);

#endif
