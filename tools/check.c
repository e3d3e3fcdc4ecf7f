/* check.c: `winnow check`: would this configuration work on this model, what would it do, and how
 * much memory would it take? Nothing is allocated for it. */
#include "tools/command.h"
#include "tools/found_config.h"
#include "tools/found_plugins.h"
#include "tools/hf_config.h"
#include "winnow/plugin.h"
#include "winnow/winnow.h"

#include <jansson.h>
#include <unistd.h>

typedef struct check_options {
    const char *model;
    const char *plugin_path;
    int64_t max_tokens, max_sequences, max_batch, max_step_tokens, tokens_per_page;
    int32_t json;
} check_options;

#define AT(field) offsetof(check_options, field)

static const wn_option rows[] = {
    {"model", 'm', "MODEL", WN_OPTION_TEXT, AT(model), 0, 0,
     "Hugging Face's config.json, a directory with one, or words like "
     "layers=32,heads=32,kv_heads=8,head_dim=128"},
    {"max-tokens", 0, "N", WN_OPTION_INT, AT(max_tokens), 1, INT64_MAX,
     "capacity of the cache in tokens"},
    {"max-sequences", 0, "N", WN_OPTION_INT, AT(max_sequences), 1, INT32_MAX,
     "sequences alive at once"},
    {"max-batch", 0, "N", WN_OPTION_INT, AT(max_batch), 1, INT32_MAX, "requests in one step"},
    {"max-step-tokens", 0, "N", WN_OPTION_INT, AT(max_step_tokens), 1, INT32_MAX,
     "query tokens in one step"},
    {"tokens-per-page", 0, "N", WN_OPTION_INT, AT(tokens_per_page), 1, INT32_MAX,
     "token slots of a page of the cache"},
    {"plugin-path", 'p', "DIRS", WN_OPTION_TEXT, AT(plugin_path), 0, 0, WN_PLUGIN_PATH_HELP},
    {"json", 0, NULL, WN_OPTION_FLAG, AT(json), 0, 0, "print JSON"},
    {0}};

const wn_usage wn_usage_check = {
    "check",
    "CONFIG --model MODEL",
    WN_CONFIG_HELP
    "\n\n"
    "Reads a configuration, resolves it on a model and prints who does what on each layer and the "
    "memory that an engine would take, to the byte. If the configuration cannot work, prints every "
    "reason.\n\n"
    "Exit status: 0 it would work, 1 it would not, 2 wrong usage, 3 could not look.",
    rows,
    1,
    1};

static void print_bytes(const char *what, uint64_t bytes)
{
    if (bytes > 0)
        printf("  %-24s %20llu bytes\n", what, (unsigned long long)bytes);
}

static void print_memory(const wn_memory_plan *memory)
{
    printf("\nmemory\n");
    print_bytes("K", memory->k_bytes);
    print_bytes("V", memory->v_bytes);
    print_bytes("scales", memory->scale_bytes);
    print_bytes("positions", memory->position_bytes);
    print_bytes("page tables", memory->page_table_bytes);
    for (uint32_t i = 0; i < memory->num_aux; i++)
        print_bytes(memory->aux_name[i], memory->aux_bytes[i]);
    print_bytes("workspaces", memory->workspace_bytes);
    print_bytes("total", memory->total_bytes);
}

/* Lines as a JSON array. */
static json_t *lines_json(const char *text)
{
    json_t *lines = json_array();
    for (const char *at = text; at != NULL && *at != '\0';) {
        size_t length = 0;
        while (at[length] != '\0' && at[length] != '\n')
            length++;
        json_array_append_new(lines, json_stringn(at, length));
        at += length + (at[length] == '\n');
    }
    return lines;
}

static void print_json(int works, const char *plan, const char *notes, const char *reasons,
                       const wn_memory_plan *memory)
{
    json_t *whole = json_pack("{s:b, s:o, s:o, s:o}", "works", works, "plan", lines_json(plan),
                              "notes", lines_json(notes), "reasons", lines_json(reasons));
    if (works) {
        json_t *aux = json_object();
        for (uint32_t i = 0; i < memory->num_aux; i++)
            json_object_set_new(aux, memory->aux_name[i],
                                json_integer((json_int_t)memory->aux_bytes[i]));
        json_object_set_new(whole, "memory",
                            json_pack("{s:I, s:I, s:I, s:I, s:I, s:o, s:I, s:I}", "k",
                                      (json_int_t)memory->k_bytes, "v", (json_int_t)memory->v_bytes,
                                      "scales", (json_int_t)memory->scale_bytes, "positions",
                                      (json_int_t)memory->position_bytes, "page_tables",
                                      (json_int_t)memory->page_table_bytes, "aux", aux,
                                      "workspaces", (json_int_t)memory->workspace_bytes, "total",
                                      (json_int_t)memory->total_bytes));
    }
    json_dumpf(whole, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(whole);
}

static void print_text(int works, const char *plan, const char *notes, const char *reasons,
                       const wn_memory_plan *memory)
{
    if (notes[0] != '\0')
        printf("notes\n%s\n\n", notes);
    if (!works) {
        printf("%s\n", reasons);
        return;
    }
    printf("plan\n%s", plan);
    print_memory(memory);
}

static int check(const check_options *options, wn_registry *registry, const wn_config *config,
                 const wn_model *model)
{
    wn_memory_plan memory = {.struct_size = WN_SIZEOF(wn_memory_plan)};
    wn_engine_options engine = {.struct_size = WN_SIZEOF(wn_engine_options),
                                .tokens_per_page = (uint32_t)options->tokens_per_page,
                                .max_tokens = (uint64_t)options->max_tokens,
                                .max_sequences = (uint32_t)options->max_sequences,
                                .max_batch = (uint32_t)options->max_batch,
                                .max_step_tokens = (uint32_t)options->max_step_tokens};
    char *plan = NULL;
    int works = wn_engine_check(registry, config, model, &engine, &plan, &memory) == WN_OK;
    (options->json ? print_json : print_text)(works, plan, wn_config_notes(config),
                                              works ? "" : wn_error_text(), &memory);
    wn_text_free(plan);
    return works ? WN_EXIT_FINE : WN_EXIT_FINDINGS;
}

/* A file that can be read but not parsed is a finding; one that cannot be read is a failure. */
static int report_config_error(const check_options *options, wn_status status, const char *text)
{
    if (status == WN_EIO || status == WN_ENOTFOUND || status == WN_ENOMEM) {
        fprintf(stderr, "winnow check: %s\n", text);
        return WN_EXIT_FAILED;
    }
    (options->json ? print_json : print_text)(0, NULL, "", text, NULL);
    return WN_EXIT_FINDINGS;
}

int wn_command_check(int argc, char **argv)
{
    check_options options = {0};
    char text[16384] = "";
    wn_error error = {WN_SIZEOF(wn_error), sizeof text, text};
    wn_model_geometry geometry;
    wn_config *config = NULL;
    int code = wn_options_parse(&wn_usage_check, argc, argv, &options);
    if (code != WN_OPTIONS_GO_ON)
        return code;
    if (options.model == NULL)
        return wn_usage_error(&wn_usage_check, "--model is missing");
    if (wn_geometry_read(options.model, &geometry, &error) != WN_OK) {
        fprintf(stderr, "winnow check: %s\n", text);
        return WN_EXIT_FAILED;
    }
    wn_status status = wn_found_config(argv[optind], &config, &error);
    if (status != WN_OK)
        return report_config_error(&options, status, text);
    wn_registry *registry = wn_found_plugins("check", options.plugin_path);
    code = registry != NULL ? check(&options, registry, config, &geometry.model) : WN_EXIT_FAILED;
    wn_registry_close(registry);
    wn_config_free(config);
    return code;
}
