/* test_dispatch.c: the op table is complete, and WINNOW_KERNELS is obeyed or reported. The choice
 * is made once per process, so each setting is tried in a child. */
#include "kernels/kernels.h"
#include "suite.h"

#include <pthread.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static uint32_t missing_ops(const wn_ops *ops)
{
    uint32_t missing = 0;
#define WN_OP(name, type) missing += ops->name == NULL;
#include "kernels/ops.def"
#undef WN_OP
    return missing;
}

static void the_table_is_complete(void)
{
    const wn_ops *ops = wn_kernels_cpu();
    CU_ASSERT_EQUAL(ops->struct_size, WN_SIZEOF(wn_ops));
    CU_ASSERT_EQUAL(ops->device, WN_DEVICE_CPU);
    CU_ASSERT_EQUAL(missing_ops(ops), 0);
    CU_ASSERT_PTR_EQUAL(wn_kernels_cpu(), ops);
}

static void variants_are_found_by_name(void)
{
    uint32_t count = 0;
    CU_ASSERT_STRING_EQUAL(wn_kernels_variant_name(0), "ref");
    CU_ASSERT_PTR_NOT_NULL(wn_kernels_variant("ref"));
    CU_ASSERT_PTR_NULL(wn_kernels_variant("nonesuch"));
    for (const char *name; (name = wn_kernels_variant_name(count)) != NULL; count++) {
        const wn_ops *ops = wn_kernels_variant(name);
        CU_ASSERT(ops == NULL || missing_ops(ops) == 0);
    }
    CU_ASSERT_PTR_NULL(wn_kernels_variant_name(count + 1));
}

static void each_op_says_where_it_is_from(void)
{
    CU_ASSERT_STRING_EQUAL(wn_kernels_variant_of("ref", "topk"), "ref");
    CU_ASSERT_PTR_NULL(wn_kernels_variant_of("ref", "nonesuch"));
    CU_ASSERT_PTR_NULL(wn_kernels_variant_of("nonesuch", "topk"));
    for (uint32_t i = 0; wn_kernels_variant_name(i) != NULL; i++) {
        const char *name = wn_kernels_variant_name(i), *from = wn_kernels_variant_of(name, "topk");
        CU_ASSERT_EQUAL(from == NULL, wn_kernels_variant(name) == NULL);
    }
}

/* Does any line of the report begin with this word? */
static int has_line(const char *report, const char *word)
{
    for (const char *line = report; line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, word, strlen(word)) == 0 && line[strlen(word)] == ' ')
            return 1;
    }
    return 0;
}

static void the_report_names_every_op(void)
{
    const char *report = wn_kernels_cpu_report();
#define WN_OP(name, type) CU_ASSERT(has_line(report, #name));
#include "kernels/ops.def"
#undef WN_OP
    CU_ASSERT_NOT_EQUAL(report[strlen(report) - 1], '\n');
}

/* Runs check() in a child whose WINNOW_KERNELS is `setting`; NULL: unset. */
static int in_child(const char *setting, int (*check)(void))
{
    int status = -1;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        if (setting != NULL)
            setenv("WINNOW_KERNELS", setting, 1);
        else
            unsetenv("WINNOW_KERNELS");
        _exit(check() ? 0 : 1);
    }
    CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static int table_is_the_reference(void)
{
    const wn_ops *ops = wn_kernels_cpu(), *ref = wn_kernels_variant("ref");
    return memcmp(ops, ref, sizeof *ops) == 0 &&
           strstr(wn_kernels_cpu_report(), "WINNOW_KERNELS allows") != NULL;
}

static int unknown_name_is_reported(void)
{
    const char *report = wn_kernels_cpu_report();
    return strncmp(report, "WINNOW_KERNELS=turbo names no variant", 37) == 0 &&
           strstr(report, "Known: ref") != NULL && missing_ops(wn_kernels_cpu()) == 0;
}

static int reference_keeps_weights(void)
{
    return wn_kernels_weight_rounding() == 0;
}

static int nothing_is_reported(void)
{
    return strstr(wn_kernels_cpu_report(), "WINNOW_KERNELS") == NULL;
}

static void *first_call(void *argument)
{
    *(const wn_ops **)argument = wn_kernels_cpu();
    return NULL;
}

static int first_calls_agree(void)
{
    pthread_t threads[4];
    const wn_ops *tables[4];
    for (int i = 0; i < 4; i++)
        if (pthread_create(&threads[i], NULL, first_call, &tables[i]) != 0)
            return 0;
    int good = 1;
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        good = good && tables[i] == tables[0] && missing_ops(tables[i]) == 0;
    }
    return good;
}

/* Runs first: the children must not inherit a choice that is made. */
static void the_environment_decides(void)
{
    CU_ASSERT(in_child("ref", table_is_the_reference));
    CU_ASSERT(in_child("ref", reference_keeps_weights));
    CU_ASSERT(in_child("turbo", unknown_name_is_reported));
    CU_ASSERT(in_child("", nothing_is_reported));
    CU_ASSERT(in_child(NULL, nothing_is_reported));
    CU_ASSERT(in_child(NULL, first_calls_agree));
}

WN_SUITE("kernels.dispatch", {"the environment decides", the_environment_decides},
         {"the table is complete", the_table_is_complete},
         {"variants are found by name", variants_are_found_by_name},
         {"each op says where it is from", each_op_says_where_it_is_from},
         {"the report names every op", the_report_names_every_op})
