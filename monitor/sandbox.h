/* sandbox.h - the system calls that are left once the machine is set up; see sandbox.c. */
#ifndef MON_SANDBOX_H
#define MON_SANDBOX_H

#include "monitor/boot/error.h"

/* Puts every thread of the process under the filter, for good. MON_OK, or MON_E_HOST with the
 * reason and the remedy; then nothing was changed. */
int mon_sandbox_enter(struct mon_error *err);

/* Whether this host has what mon_sandbox_enter() needs. Changes nothing. */
int mon_sandbox_supported(void);

#endif
