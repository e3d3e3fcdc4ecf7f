/* refuse.h: the arguments that ops do not take, the same for every variant. Each wn_refuse_<op>
 * returns WN_OK, or the status to give back with its text written; it reads the arguments and
 * nothing that they point to but lengths, tables, lists and counts. A variant calls it first. They
 * are defined beside the reference, in ref/<op>.c. */
#ifndef WN_REFUSE_H
#define WN_REFUSE_H

#include "winnow/ops.h"

#define WN_OP(name, type) wn_status wn_refuse_##name(const type *args);
#include "kernels/ops.def"
#undef WN_OP

#endif
