/* contract.h: does what a plugin's entry point returned keep the rules of abi/README.md, as far as
 * looking at it can tell? */
#ifndef WN_CONTRACT_H
#define WN_CONTRACT_H

#include "core/registry.h"

/* Checks loaded->plugin against loaded->note and itself, and fills in the interfaces. WN_EABI for
 * another ABI, WN_EPLUGIN for the rest; the text names the rule, the field and both values. */
wn_status wn_contract_check(wn_loaded_plugin *loaded, wn_error *error);

#endif
