/* layout.h: fingerprint of the layout of every shared struct, FNV-1a 64 of abi/layout/0.1.txt. A
 * test recomputes it; `abi/layout/README.md` says how to bring it up to date. */
#ifndef WINNOW_LAYOUT_H
#define WINNOW_LAYOUT_H

#define WN_ABI_LAYOUT 0x638a6a53c9c18d1eULL

#endif
