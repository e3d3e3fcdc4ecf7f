/* fill.c: enters a variant's ops into a table. */
#include "kernels/cpu/cpu.h"

void WN_CPU(fill)(wn_ops *ops)
{
    (void)ops;
#define ENTER(op, type) ops->op = WN_CPU(op);
    WN_CPU_OPS(ENTER)
}
