/* validate_contract.c: level 2. The plugin is loaded and its functions are called directly, with
 * the validator's own host in the engine's place. A test whose ground is missing (the plugin does
 * not load, the entry refuses) is skipped: the test that is about the ground has failed already. */
#include "tools/validate.h"
#include "tools/validate_host.h"
#include "tools/validate_values.h"

#include <dirent.h>
#include <locale.h>
#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- loading */

static wn_outcome load_rtld_now(wn_trial *trial)
{
    wn_trial_plugin plugin;
    return wn_trial_load(trial, &plugin) ? WN_PASSED : WN_FAILED;
}

/* What a library's constructor could change for the whole process. */
typedef struct process_state {
    int threads;
    struct sigaction actions[NSIG];
    sigset_t mask;
    char locale[128];
} process_state;

static void observe_process(process_state *state)
{
    memset(state, 0, sizeof *state);
    DIR *tasks = opendir("/proc/self/task");
    for (struct dirent *entry; tasks != NULL && (entry = readdir(tasks)) != NULL;)
        state->threads += entry->d_name[0] != '.';
    if (tasks != NULL)
        closedir(tasks);
    for (int number = 1; number < NSIG; number++)
        sigaction(number, NULL, &state->actions[number]);
    sigprocmask(SIG_BLOCK, NULL, &state->mask);
    snprintf(state->locale, sizeof state->locale, "%s", setlocale(LC_ALL, NULL));
}

static wn_outcome load_changes_nothing(wn_trial *trial)
{
    static process_state before, after;
    wn_trial_plugin plugin;
    observe_process(&before);
    if (!wn_trial_enter(trial, &plugin))
        return WN_SKIPPED;
    observe_process(&after);
    if (after.threads != before.threads)
        return wn_trial_says(trial, WN_FAILED, "loading it started %d threads",
                             after.threads - before.threads);
    for (int number = 1; number < NSIG; number++)
        if (before.actions[number].sa_handler != after.actions[number].sa_handler)
            return wn_trial_says(trial, WN_FAILED, "loading it changed the handler of SIG%s",
                                 sigabbrev_np(number) != NULL ? sigabbrev_np(number) : "?");
    if (memcmp(&before.mask, &after.mask, sizeof before.mask) != 0)
        return wn_trial_says(trial, WN_FAILED, "loading it changed the signal mask");
    if (strcmp(before.locale, after.locale) != 0)
        return wn_trial_says(trial, WN_FAILED, "loading it changed the locale to %s", after.locale);
    return WN_PASSED;
}

/* ---------------------------------------------------------------- entry */

static wn_outcome must_refuse(wn_trial *trial, uint32_t abi_min, uint32_t abi_max)
{
    wn_trial_plugin plugin;
    if (!wn_trial_load(trial, &plugin))
        return WN_SKIPPED;
    if (plugin.entry(wn_trial_host(abi_min, abi_max)) != NULL)
        return wn_trial_says(trial, WN_FAILED,
                             "accepts a host that speaks ABI %u.%u to %u.%u alone",
                             WN_VERSION_MAJOR(abi_min), WN_VERSION_MINOR(abi_min),
                             WN_VERSION_MAJOR(abi_max), WN_VERSION_MINOR(abi_max));
    if (wn_trial_host_error()[0] == '\0')
        return wn_trial_says(trial, WN_FAILED, "refuses without a text in host->error");
    return WN_PASSED;
}

static wn_outcome entry_too_old_host(wn_trial *trial)
{
    return must_refuse(trial, WN_VERSION(0, 0), WN_VERSION(0, 0));
}

static wn_outcome entry_too_new_host(wn_trial *trial)
{
    return must_refuse(trial, WN_VERSION(WN_ABI_MAJOR + 100, 0), WN_VERSION(WN_ABI_MAJOR + 101, 7));
}

static wn_outcome entry_answers(wn_trial *trial)
{
    wn_trial_plugin plugin;
    if (!wn_trial_load(trial, &plugin))
        return WN_SKIPPED;
    return wn_trial_enter(trial, &plugin) ? WN_PASSED : WN_FAILED;
}

static wn_outcome entry_idempotent(wn_trial *trial)
{
    wn_trial_plugin plugin;
    if (!wn_trial_enter(trial, &plugin))
        return WN_SKIPPED;
    const wn_plugin *again =
        plugin.entry(wn_trial_host(WN_VERSION(WN_ABI_MAJOR, 0), WN_ABI_VERSION));
    if (again != plugin.plugin)
        return wn_trial_says(trial, WN_FAILED, "a second call gives %s: return one static struct",
                             again == NULL ? "NULL" : "another struct");
    return WN_PASSED;
}

static wn_outcome entry_agrees_with_note(wn_trial *trial)
{
    wn_trial_plugin loaded;
    if (!wn_trial_enter(trial, &loaded))
        return WN_SKIPPED;
    const wn_plugin *plugin = loaded.plugin;
    const wn_note *note = &loaded.note;
    if (note->format == 0)
        return wn_trial_says(trial, WN_SKIPPED, "there is no note to agree with");
    uint32_t there = WN_HAS_CONFIG | (loaded.predictor != NULL ? WN_HAS_PREDICTOR : 0) |
                     (loaded.aux_pool != NULL ? WN_HAS_AUX_POOL : 0) |
                     (loaded.kernel_hook != NULL ? WN_HAS_KERNEL_HOOK : 0);
    if (plugin->algorithm == NULL || strcmp(plugin->algorithm, note->algorithm) != 0)
        return wn_trial_says(trial, WN_FAILED, "algorithm \"%s\", in the note \"%s\"",
                             plugin->algorithm != NULL ? plugin->algorithm : "", note->algorithm);
    if (plugin->version == NULL || strcmp(plugin->version, note->version) != 0)
        return wn_trial_says(trial, WN_FAILED, "version \"%s\", in the note \"%s\"",
                             plugin->version != NULL ? plugin->version : "", note->version);
    if (plugin->abi_version < note->abi_least || plugin->abi_version > note->abi_built ||
        plugin->abi_version > WN_ABI_VERSION)
        return wn_trial_says(trial, WN_FAILED,
                             "chose ABI 0x%08x: the note says 0x%08x to 0x%08x, "
                             "this host speaks up to 0x%08x",
                             plugin->abi_version, note->abi_least, note->abi_built, WN_ABI_VERSION);
    if (there != note->interfaces)
        return wn_trial_says(trial, WN_FAILED, "gives the interfaces 0x%x, in the note 0x%x", there,
                             note->interfaces);
    return WN_PASSED;
}

static wn_outcome unknown_interface_null(wn_trial *trial)
{
    static const char *const ids[] = {"",
                                      "winnow.config",
                                      "winnow.config/",
                                      "winnow.config/11",
                                      "winnow.config/1 ",
                                      "winnow.config/2",
                                      "WINNOW.CONFIG/1",
                                      "com.example.nonsense/1"};
    wn_trial_plugin loaded;
    if (!wn_trial_enter(trial, &loaded))
        return WN_SKIPPED;
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++)
        if (loaded.plugin->get_interface(ids[i]) != NULL)
            return wn_trial_says(trial, WN_FAILED,
                                 "get_interface(\"%s\") is not NULL: compare the "
                                 "whole id",
                                 ids[i]);
    return WN_PASSED;
}

/* Size of one struct that the plugin gives; failed with a text if it is not one that this ABI has.
 * There is one ABI version so far, and so one size of each. */
static int size_is(wn_trial *trial, const char *what, uint32_t size, uint32_t expected)
{
    if (size != expected)
        wn_trial_says(trial, WN_FAILED,
                      "%s has struct_size %u, expected %u: set it to "
                      "WN_SIZEOF(%s)",
                      what, size, expected, what);
    return size == expected;
}

static wn_outcome struct_sizes(wn_trial *trial)
{
    wn_trial_plugin loaded;
    if (!wn_trial_enter(trial, &loaded))
        return WN_SKIPPED;
    int fine = size_is(trial, "wn_plugin", loaded.plugin->struct_size, WN_SIZEOF(wn_plugin)) &&
               size_is(trial, "wn_config_interface", loaded.config->struct_size,
                       WN_SIZEOF(wn_config_interface));
    for (uint32_t i = 0; fine && i < loaded.config->num_fields; i++)
        fine = size_is(trial, "wn_config_field", loaded.config->fields[i].struct_size,
                       WN_SIZEOF(wn_config_field));
    if (fine && loaded.predictor != NULL)
        fine = size_is(trial, "wn_predictor_interface", loaded.predictor->struct_size,
                       WN_SIZEOF(wn_predictor_interface));
    if (fine && loaded.aux_pool != NULL)
        fine = size_is(trial, "wn_aux_pool_interface", loaded.aux_pool->struct_size,
                       WN_SIZEOF(wn_aux_pool_interface));
    if (fine && loaded.kernel_hook != NULL)
        fine = size_is(trial, "wn_kernel_hook_interface", loaded.kernel_hook->struct_size,
                       WN_SIZEOF(wn_kernel_hook_interface));
    return fine ? WN_PASSED : WN_FAILED;
}

/* ---------------------------------------------------------------- schema */

static int field_name(const char *name)
{
    size_t length = name != NULL ? strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") : 0;
    return length > 0 && length < 64 && name[length] == '\0';
}

/* What an entry of a configuration says about any algorithm: a field of that name is never read. */
static int taken_name(const char *name)
{
    static const char *const taken[] = {"algorithm", "phases", "layers", "ignore"};
    for (size_t i = 0; i < sizeof taken / sizeof taken[0]; i++)
        if (strcmp(name, taken[i]) == 0)
            return 1;
    return 0;
}

static wn_outcome judge_field(wn_trial *trial, const wn_config_field *field)
{
    int required = (field->flags & WN_FIELD_REQUIRED) != 0;
    int ranged = field->type == WN_FIELD_INT || field->type == WN_FIELD_FLOAT ||
                 field->type == WN_FIELD_PHASE_FLOAT || field->type == WN_FIELD_INT_LIST ||
                 field->type == WN_FIELD_NUMBER_MAP;
    if (!field_name(field->name))
        return wn_trial_says(trial, WN_FAILED, "field name \"%s\": expected 1 to 63 of a-z 0-9 _",
                             field->name != NULL ? field->name : "(NULL)");
    if (taken_name(field->name))
        return wn_trial_says(trial, WN_FAILED,
                             "field name \"%s\": every entry of a configuration "
                             "has a key of that name already",
                             field->name);
    if (field->type < WN_FIELD_INT || field->type > WN_FIELD_NUMBER_MAP)
        return wn_trial_says(trial, WN_FAILED, "\"%s\": unknown type %u", field->name, field->type);
    if ((field->flags & ~(uint32_t)(WN_FIELD_REQUIRED | WN_FIELD_BUDGET)) != 0 ||
        field->reserved != 0)
        return wn_trial_says(trial, WN_FAILED, "\"%s\": unknown flags 0x%x or reserved not 0",
                             field->name, field->flags);
    if (field->unit == NULL || field->help == NULL || field->help[0] == '\0' ||
        strchr(field->help, '\n') != NULL)
        return wn_trial_says(trial, WN_FAILED,
                             "\"%s\": needs a unit (\"\" for none) and one line "
                             "of help",
                             field->name);
    if (required && field->default_text != NULL)
        return wn_trial_says(trial, WN_FAILED, "\"%s\": required, yet has a default", field->name);
    if (ranged && !(field->least <= field->greatest))
        return wn_trial_says(trial, WN_FAILED, "\"%s\": range %g to %g is empty", field->name,
                             field->least, field->greatest);
    if ((field->flags & WN_FIELD_BUDGET) != 0 && (!ranged || field->type == WN_FIELD_NUMBER_MAP))
        return wn_trial_says(trial, WN_FAILED, "\"%s\": a budget must be a number", field->name);
    if ((field->type == WN_FIELD_ENUM) !=
        (field->enum_names != NULL && field->enum_names[0] != NULL))
        return wn_trial_says(trial, WN_FAILED,
                             "\"%s\": names belong to fields of type ENUM, which "
                             "need at least one",
                             field->name);
    return WN_PASSED;
}

static wn_outcome schema_wellformed(wn_trial *trial)
{
    wn_trial_plugin loaded;
    if (!wn_trial_enter(trial, &loaded))
        return WN_SKIPPED;
    const wn_config_interface *config = loaded.config;
    if (config->num_fields > 1000 || (config->num_fields > 0 && config->fields == NULL))
        return wn_trial_says(trial, WN_FAILED, "%u fields at %p", config->num_fields,
                             (const void *)config->fields);
    for (uint32_t i = 0; i < config->num_fields; i++) {
        if (judge_field(trial, &config->fields[i]) != WN_PASSED)
            return WN_FAILED;
        for (uint32_t j = 0; j < i; j++)
            if (strcmp(config->fields[i].name, config->fields[j].name) == 0)
                return wn_trial_says(trial, WN_FAILED, "two fields are named \"%s\"",
                                     config->fields[i].name);
    }
    return WN_PASSED;
}

static wn_outcome defaults_valid(wn_trial *trial)
{
    wn_trial_plugin loaded;
    wn_value value;
    char why[512];
    if (!wn_trial_enter(trial, &loaded))
        return WN_SKIPPED;
    for (uint32_t i = 0; i < loaded.config->num_fields; i++) {
        const wn_config_field *field = &loaded.config->fields[i];
        if (field->default_text == NULL)
            continue;
        wn_status status = wn_value_read(field, field->default_text, &value, why, sizeof why);
        wn_value_free(&value);
        if (status != WN_OK)
            return wn_trial_says(trial, WN_FAILED, "default of %s", why);
    }
    return WN_PASSED;
}

/* ---------------------------------------------------------------- instances */

/* A plugin, a model that its check() accepts with default values, and these values. */
typedef struct ground {
    wn_trial_plugin loaded;
    wn_model model;
    wn_value *values;
    char reasons[1024]; /* of the last model refused */
} ground;

static void keep_reason(void *context, const char *text)
{
    ground *stand = context;
    size_t used = strlen(stand->reasons);
    snprintf(stand->reasons + used, sizeof stand->reasons - used, "%s%s", used > 0 ? "; " : "",
             text);
}

static int find_ground(wn_trial *trial, ground *stand)
{
    char why[512] = "";
    memset(stand, 0, sizeof *stand);
    if (!wn_trial_enter(trial, &stand->loaded))
        return 0;
    const wn_config_interface *config = stand->loaded.config;
    if (config->create == NULL || config->destroy == NULL || config->lower == NULL) {
        wn_trial_says(trial, WN_SKIPPED, "create, destroy or lower is missing");
        return 0;
    }
    stand->values = wn_trial_values(config, why, sizeof why);
    if (stand->values == NULL) {
        wn_trial_says(trial, WN_SKIPPED, "no default values: %s", why);
        return 0;
    }
    wn_reasons reasons = {WN_SIZEOF(wn_reasons), 0, stand, keep_reason};
    for (uint32_t i = 0; wn_trial_model(i, &stand->model); i++) {
        stand->reasons[0] = '\0';
        if (config->check == NULL || config->check(&stand->model, stand->values, &reasons) == WN_OK)
            return 1;
    }
    wn_trial_says(trial, WN_SKIPPED, "its defaults suit none of the validator's models: %s",
                  stand->reasons);
    wn_trial_values_free(stand->values, config->num_fields);
    return 0;
}

static wn_outcome config_functions(wn_trial *trial)
{
    wn_trial_plugin loaded;
    if (!wn_trial_enter(trial, &loaded))
        return WN_SKIPPED;
    const wn_config_interface *config = loaded.config;
    const char *missing = config->create == NULL    ? "create"
                          : config->destroy == NULL ? "destroy"
                          : config->lower == NULL   ? "lower"
                                                    : NULL;
    if (missing != NULL)
        return wn_trial_says(trial, WN_FAILED, WN_INTERFACE_CONFIG ": %s is NULL", missing);
    return WN_PASSED;
}

static wn_outcome check_explains(wn_trial *trial)
{
    ground stand;
    if (!find_ground(trial, &stand))
        return WN_SKIPPED;
    if (stand.loaded.config->check == NULL)
        return wn_trial_says(trial, WN_SKIPPED, "it has no check()");
    if (stand.reasons[0] != '\0')
        return wn_trial_says(trial, WN_FAILED, "check() accepts and gives reasons against it: %s",
                             stand.reasons);
    return WN_PASSED;
}

/* One life of an instance. */
static int create_and_destroy(wn_trial *trial, ground *stand)
{
    char text[512] = "";
    wn_error error = {WN_SIZEOF(wn_error), sizeof text, text};
    void *instance = NULL;
    wn_status status =
        stand->loaded.config->create(&stand->model, stand->values, &instance, &error);
    if (status != WN_OK) {
        wn_trial_says(trial, WN_FAILED,
                      "create() fails with status %d on a model and values that "
                      "check() accepts: %s",
                      status, text);
        return 0;
    }
    stand->loaded.config->destroy(instance);
    return 1;
}

enum { LIVES = 100 };

static wn_outcome create_destroy_100(wn_trial *trial)
{
    ground stand;
    if (!find_ground(trial, &stand))
        return WN_SKIPPED;
    if (!create_and_destroy(trial, &stand)) /* what is set up once, at first use, is no leak */
        return WN_FAILED;
    wn_trial_memory before = wn_trial_memory_held();
    size_t heap = mallinfo2().uordblks;
    for (int i = 0; i < LIVES; i++)
        if (!create_and_destroy(trial, &stand))
            return WN_FAILED;
    wn_trial_memory after = wn_trial_memory_held();
    size_t heap_after = mallinfo2().uordblks;
    if (after.bad_releases != 0)
        return wn_trial_says(trial, WN_FAILED,
                             "released memory %lld times that is not, or no "
                             "longer, its own",
                             (long long)after.bad_releases);
    if (after.blocks != before.blocks)
        return wn_trial_says(
            trial, WN_FAILED,
            "%d lives leave %lld blocks (%lld bytes) of " WN_SERVICE_MEMORY " behind", LIVES,
            (long long)(after.blocks - before.blocks), (long long)(after.bytes - before.bytes));
    if (heap_after > heap && heap_after - heap >= LIVES * 16)
        return wn_trial_says(trial, WN_FAILED, "%d lives leave %zu bytes of malloc's behind", LIVES,
                             heap_after - heap);
    return WN_PASSED;
}

/* What the roles of one layer and phase promise, against what is there. */
static wn_outcome judge_roles(wn_trial *trial, const wn_trial_plugin *loaded, uint32_t phase,
                              uint32_t roles, const char *why)
{
    const uint32_t known = WN_ROLE_RETAIN | WN_ROLE_SELECT | WN_ROLE_TILE_POLICY | WN_ROLE_ATTEND;
    const wn_predictor_interface *predictor = loaded->predictor;
    const wn_kernel_hook_interface *hook = loaded->kernel_hook;
    if ((roles & ~known) != 0)
        return wn_trial_says(trial, WN_FAILED, "lower() claims unknown roles: 0x%x", roles);
    if (roles == 0 && why[0] == '\0')
        return wn_trial_says(trial, WN_FAILED, "lower() claims no role and gives no reason");
    if ((roles & WN_ROLE_RETAIN) != 0 && phase != WN_PHASE_CONTEXT)
        return wn_trial_says(trial, WN_FAILED, "claims RETAIN in the generation phase");
    if ((roles & WN_ROLE_RETAIN) != 0 &&
        (predictor == NULL || predictor->retain == NULL || predictor->retained_count == NULL ||
         predictor->bounds == NULL))
        return wn_trial_says(trial, WN_FAILED,
                             "claims RETAIN without retain, retained_count and "
                             "bounds");
    if ((roles & WN_ROLE_SELECT) != 0 &&
        (predictor == NULL || predictor->select == NULL || predictor->bounds == NULL))
        return wn_trial_says(trial, WN_FAILED, "claims SELECT without select and bounds");
    if ((roles & WN_ROLE_TILE_POLICY) != 0 && (hook == NULL || hook->tile_policy == NULL))
        return wn_trial_says(trial, WN_FAILED, "claims TILE_POLICY without tile_policy");
    if ((roles & WN_ROLE_ATTEND) != 0 && (hook == NULL || hook->attend == NULL))
        return wn_trial_says(trial, WN_FAILED, "claims ATTEND without attend");
    return WN_PASSED;
}

static wn_outcome lower_keeps_promises(wn_trial *trial)
{
    ground stand;
    void *instance = NULL;
    char text[512] = "";
    wn_error error = {WN_SIZEOF(wn_error), sizeof text, text};
    if (!find_ground(trial, &stand))
        return WN_SKIPPED;
    const wn_config_interface *config = stand.loaded.config;
    if (config->create(&stand.model, stand.values, &instance, &error) != WN_OK)
        return wn_trial_says(trial, WN_SKIPPED, "create() fails: %s", text);
    for (uint32_t layer = 0; layer < stand.model.num_layers; layer++)
        for (uint32_t phase = 0; phase < WN_PHASE_COUNT; phase++) {
            char why[256] = "";
            uint32_t roles = 0;
            if (config->lower(instance, layer, phase, &roles, why, sizeof why, &error) != WN_OK)
                return wn_trial_says(trial, WN_FAILED, "lower() fails on layer %u: %s", layer,
                                     text);
            if (judge_roles(trial, &stand.loaded, phase, roles, why) != WN_PASSED)
                return WN_FAILED;
        }
    config->destroy(instance);
    return WN_PASSED;
}

static wn_outcome retained_count_in_range(wn_trial *trial)
{
    ground stand;
    void *instance = NULL;
    char text[512] = "";
    wn_error error = {WN_SIZEOF(wn_error), sizeof text, text};
    if (!find_ground(trial, &stand))
        return WN_SKIPPED;
    const wn_predictor_interface *predictor = stand.loaded.predictor;
    if (predictor == NULL || predictor->retained_count == NULL)
        return wn_trial_says(trial, WN_SKIPPED, "it has no retained_count()");
    if (stand.loaded.config->create(&stand.model, stand.values, &instance, &error) != WN_OK)
        return wn_trial_says(trial, WN_SKIPPED, "create() fails: %s", text);
    for (int32_t length = 0; length <= 70000; length += length < 300 ? 1 : 997) {
        int32_t kept = predictor->retained_count(instance, length);
        if (kept < 0 || kept > length)
            return wn_trial_says(trial, WN_FAILED, "retained_count(%d) is %d, expected 0 to %d",
                                 length, kept, length);
        if (kept != predictor->retained_count(instance, length))
            return wn_trial_says(trial, WN_FAILED, "retained_count(%d) differs from call to call",
                                 length);
    }
    stand.loaded.config->destroy(instance);
    return WN_PASSED;
}

const wn_trial_test wn_contract_tests[] = {
    {"load-rtld-now", "WN-P-03", "it loads with every symbol bound at once", load_rtld_now},
    {"load-changes-nothing", "WN-P-07", "loading leaves threads, signals and locale alone",
     load_changes_nothing},
    {"entry-answers", "WN-P-06", "the entry accepts this host", entry_answers},
    {"entry-too-old-host", "WN-P-06", "the entry refuses an older host and says why",
     entry_too_old_host},
    {"entry-too-new-host", "WN-P-06", "the entry refuses a newer host and says why",
     entry_too_new_host},
    {"entry-idempotent", "WN-P-08", "the entry gives the same struct at every call",
     entry_idempotent},
    {"entry-agrees-with-note", "WN-P-05", "entry and note say the same", entry_agrees_with_note},
    {"unknown-interface-null", "WN-P-09", "an id that it does not know is answered with NULL",
     unknown_interface_null},
    {"struct-sizes", "WN-P-04", "every struct has the size that its version has", struct_sizes},
    {"config-functions", "WN-P-10", "create, destroy and lower are there", config_functions},
    {"schema-wellformed", "WN-P-11", "fields have names, types, units, help and ranges that hold",
     schema_wellformed},
    {"defaults-valid", "WN-P-11", "every default can be read and is in its range", defaults_valid},
    {"check-explains", "WN-P-12", "check() gives reasons when it refuses, and only then",
     check_explains},
    {"create-destroy-100", "WN-P-13", "a hundred lives of an instance leave no memory behind",
     create_destroy_100},
    {"lower-keeps-promises", "WN-P-14", "each role claimed has its functions; none has its reason",
     lower_keeps_promises},
    {"retained-count-in-range", "WN-P-20", "0 <= retained_count(n) <= n, the same at every call",
     retained_count_in_range},
    {NULL, NULL, NULL, NULL}};
