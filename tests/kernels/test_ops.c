/* test_ops.c: every op of ops.def on every variant that this machine has. The suite is generated
 * from the list, so that an op without its wn_check_<op> does not link. */
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

int main(void)
{
    return wn_run_suite("kernels.ops", tests, sizeof tests / sizeof tests[0]);
}
