/* ref.h: the reference implementations, one wn_ref_<op> per line of ops.def, each in the file of
 * its own name (context and generation share attend.c). */
#ifndef WN_REF_H
#define WN_REF_H

#include "winnow/ops.h"

#define WN_OP(name, type) wn_status wn_ref_##name(const type *args);
#include "kernels/ops.def"
#undef WN_OP

#endif
