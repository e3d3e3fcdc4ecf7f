/* config_file.c: a configuration from file or memory. The order: read the bytes, make the tree,
 * read the top level (engine_keys.c) and the entries (method_entry.c), then tell everything that
 * was found, sorted by place. The algorithms' own keys wait for their schemas (schema.c). */
#include "core/config_file.h"

#include "core/engine_keys.h"
#include "core/method_entry.h"
#include "core/schema.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct wn_config {
    char *name;
    wn_arena arena; /* the tree and the entries */
    wn_engine_config engine;
    wn_method_entry *methods;
    uint32_t num_methods;
    wn_reason_list notes;
};

/* ---------------------------------------------------------------- reading */

/* Up to one byte more than a configuration may have, so that a longer file is seen to be one. The
 * caller frees *text. Answers 0 or errno. */
static int read_all(int descriptor, char **text, size_t *bytes)
{
    const size_t limit = WN_YAML_BYTES + 1;
    size_t capacity = 4096;
    *bytes = 0;
    *text = malloc(capacity);
    while (*text != NULL && *bytes < limit) {
        if (*bytes == capacity) {
            char *longer = realloc(*text, capacity *= 2);
            if (longer == NULL)
                return ENOMEM;
            *text = longer;
        }
        size_t room = (capacity < limit ? capacity : limit) - *bytes;
        ssize_t got = read(descriptor, *text + *bytes, room);
        if (got == 0)
            break;
        if (got < 0 && errno != EINTR)
            return errno;
        *bytes += got < 0 ? 0 : (size_t)got;
    }
    return *text == NULL ? ENOMEM : 0;
}

static wn_status fail_to_read(const char *path, int problem)
{
    wn_status status = problem == ENOENT ? WN_ENOTFOUND : problem == ENOMEM ? WN_ENOMEM : WN_EIO;
    return wn_fail(wn_thread_error(), status, "%s: cannot be read: %s", path, strerror(problem));
}

wn_status wn_config_load(const char *path, wn_config **config)
{
    char *text = NULL;
    size_t bytes = 0;
    if (path == NULL || config == NULL)
        return wn_fail(wn_thread_error(), WN_EINVAL, "wn_config_load: path and config are needed");
    *config = NULL;
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0)
        return fail_to_read(path, errno);
    int problem = read_all(descriptor, &text, &bytes);
    close(descriptor);
    wn_status status =
        problem != 0 ? fail_to_read(path, problem) : wn_config_parse(text, bytes, path, config);
    free(text);
    return status;
}

/* ---------------------------------------------------------------- parsing */

static void read_root(wn_config *config, const wn_yaml_node *root, wn_findings *findings,
                      wn_findings *notes)
{
    const wn_yaml_item *methods;
    if (root->kind != WN_YAML_MAPPING) {
        wn_finding_add(findings, root->line, root->column,
                       "expected keys (\"key: value\"), such as sparse_attention_config; found %s",
                       root->kind == WN_YAML_SEQUENCE ? "a list" : "a value");
        return;
    }
    wn_engine_keys_read(root, &config->engine, &methods, &config->arena, findings, notes);
    if (methods != NULL)
        config->methods = wn_method_entries_read(methods, &config->arena, findings, notes);
    for (const wn_method_entry *entry = config->methods; entry != NULL; entry = entry->next)
        config->num_methods++;
}

/* Fills the config in; what is wrong goes to reasons. */
static wn_status fill(wn_config *config, const char *text, size_t bytes, wn_reason_list *reasons)
{
    wn_findings findings = {0}, notes = {0};
    wn_status status = WN_OK;
    const wn_yaml_node *root = wn_yaml_parse(text, bytes, &config->arena, &findings);
    if (root == NULL) {
        if (findings.count == 0)
            wn_finding_add(&findings, 0, 0,
                           "there is nothing in it: expected keys, such as "
                           "sparse_attention_config");
        status = WN_EFORMAT;
    } else {
        read_root(config, root, &findings, &notes);
        status = findings.count > 0 ? WN_ECONFIG : WN_OK;
    }
    wn_findings_tell(&findings, config->name, reasons);
    wn_findings_tell(&notes, config->name, &config->notes);
    if (config->arena.out_of_memory || reasons->out_of_memory || config->notes.out_of_memory)
        status = WN_ENOMEM;
    return status;
}

wn_status wn_config_parse(const char *text, size_t bytes, const char *name, wn_config **config)
{
    wn_reason_list reasons = {0};
    if ((text == NULL && bytes > 0) || config == NULL)
        return wn_fail(wn_thread_error(), WN_EINVAL, "wn_config_parse: text and config are needed");
    *config = NULL;
    wn_config *parsed = calloc(1, sizeof *parsed);
    if (parsed != NULL)
        parsed->name = strdup(name == NULL ? "configuration" : name);
    wn_status status =
        parsed == NULL || parsed->name == NULL ? WN_ENOMEM : fill(parsed, text, bytes, &reasons);
    if (status == WN_OK) {
        *config = parsed;
        return WN_OK;
    }
    wn_config_free(parsed);
    if (status == WN_ENOMEM)
        wn_reasons_clear(&reasons);
    return wn_fail_with_reasons(&reasons, status);
}

void wn_config_free(wn_config *config)
{
    if (config == NULL)
        return;
    wn_arena_free(&config->arena);
    wn_reasons_clear(&config->notes);
    free(config->name);
    free(config);
}

/* ---------------------------------------------------------------- what it says */

const char *wn_config_notes(const wn_config *config)
{
    return config == NULL || config->notes.text == NULL ? "" : config->notes.text;
}

const char *wn_config_name(const wn_config *config)
{
    return config->name;
}

const wn_engine_config *wn_config_engine(const wn_config *config)
{
    return &config->engine;
}

uint32_t wn_config_num_methods(const wn_config *config)
{
    return config->num_methods;
}

static const wn_method_entry *entry_at(const wn_config *config, uint32_t index)
{
    const wn_method_entry *entry = config->methods;
    while (entry != NULL && index-- > 0)
        entry = entry->next;
    return entry;
}

const wn_method_config *wn_config_method(const wn_config *config, uint32_t index)
{
    const wn_method_entry *entry = entry_at(config, index);
    return entry == NULL ? NULL : &entry->method;
}

int wn_config_method_on_layer(const wn_config *config, uint32_t index, uint32_t layer_number)
{
    const wn_method_entry *entry = entry_at(config, index);
    return entry != NULL && wn_layer_rules_match(&entry->rules, layer_number);
}

wn_status wn_config_bind(const wn_config *config, uint32_t index, const wn_config_interface *schema,
                         wn_value **values, wn_reason_list *reasons)
{
    const wn_method_entry *entry = entry_at(config, index);
    *values = NULL;
    if (entry == NULL) {
        wn_reason_add(reasons, "%s: has no entry %u", config->name, index);
        return WN_EINVAL;
    }
    return wn_schema_bind(schema, entry->node, config->name, values, reasons);
}
