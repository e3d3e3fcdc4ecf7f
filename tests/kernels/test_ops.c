/* test_ops.c: every op of ops.def on every variant that this machine has. The suite is generated
 * from the list, so that an op without its wn_check_<op> does not link. Names of ops as arguments
 * run those alone. */
#include "check.h"

#define WN_OP(name, type)                                                                          \
    static void all_##name(void)                                                                   \
    {                                                                                              \
        wn_check_every_variant(#name, wn_test_seed(), wn_check_##name);                            \
    }
#include "kernels/ops.def"
#undef WN_OP

static const wn_test tests[] = {
#define WN_OP(name, type) {#name, all_##name},
#include "kernels/ops.def"
#undef WN_OP
};

int main(int argc, char **argv)
{
    wn_test chosen[sizeof tests / sizeof tests[0]];
    size_t count = 0;
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++)
        for (int j = 1; j < argc; j++)
            if (strcmp(argv[j], tests[i].name) == 0)
                chosen[count++] = tests[i];
    if (argc > 1 && count != (size_t)argc - 1) {
        fprintf(stderr, "usage: kernels_ops [OP...]; an op was not found, or named twice\n");
        return 2;
    }
    if (argc == 1)
        return wn_run_suite("kernels.ops", tests, sizeof tests / sizeof tests[0]);
    return wn_run_suite("kernels.ops", chosen, count);
}
