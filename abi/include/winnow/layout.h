/* layout.h: fingerprint of the layout of every shared struct, FNV-1a 64 of abi/layout/0.1.txt. A
 * test recomputes it; `abi/layout/README.md` says how to bring it up to date. */
#ifndef WINNOW_LAYOUT_H
#define WINNOW_LAYOUT_H

#define WN_ABI_LAYOUT 0x6a28025a72974134ULL

#endif
