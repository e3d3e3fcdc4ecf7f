/* processor.c: which variants this processor and operating system can run. The compiler's builtin
 * asks both: without the system's support for the wide registers it says no. Compiled for the
 * baseline. */
#include "kernels/cpu/cpu.h"

int wn_avx2_runs_here(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
}

int wn_avx512_runs_here(void)
{
    return wn_avx2_runs_here() && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

int wn_avx512_vnni_runs_here(void)
{
    return wn_avx512_runs_here() && __builtin_cpu_supports("avx512vnni");
}

/* vdpbf16ps does twice the multiplications of an FMA. Zen 4 and later issue both at one rate; on
 * Intel's Sapphire Rapids it issues at a third of the rate and loses. */
int wn_avx512_bf16_runs_here(void)
{
    return wn_avx512_vnni_runs_here() && __builtin_cpu_supports("avx512bf16") &&
           __builtin_cpu_is("amd");
}
