/* kernel_hook.h: interface winnow.kernel_hook/1, for methods that act inside the attention kernel
 * or replace it. */
#ifndef WINNOW_KERNEL_HOOK_H
#define WINNOW_KERNEL_HOOK_H

#include "winnow/step.h"

#define WN_INTERFACE_KERNEL_HOOK "winnow.kernel_hook/1"

typedef struct wn_kernel_hook_interface {
    uint32_t struct_size;
    uint32_t reserved;
    /* Fills *out, whose log_threshold is a host's buffer of `batch` floats. The rule holds for the
     * call that follows. Required with TILE_POLICY. [step] & capture-safe & concurrent */
    wn_status (*tile_policy)(void *instance, const wn_step_args *args, wn_tile_policy *out);
    /* A whole attention kernel. attend holds what the built-in kernel would have been given,
     * selection and tile policy of other plugins included; must write out and, where asked for,
     * lse, for every row of the requests. Required with ATTEND. [step] & capture-safe & concurrent
     */
    wn_status (*attend)(void *instance, const wn_step_args *args, const wn_attend_args *attend);
} wn_kernel_hook_interface;
WN_STRUCT(wn_kernel_hook_interface, attend);

#endif
