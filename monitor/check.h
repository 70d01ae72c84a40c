/* check.h - what this host offers a guest: `novt check`, and the limits of a run; see check.c. */
#ifndef MON_CHECK_H
#define MON_CHECK_H

#include "monitor/boot/error.h"

#include "include/novt.h"

#include <stdint.h>
#include <stdio.h>

/* Prints a row for each thing that novt asks of the host, for a guest with that much memory. MON_OK
 * when nothing is missing, MON_E_HOST otherwise. */
int mon_check_print(const struct novt_config *engine, uint64_t memory, FILE *to);

/* Before a run: MON_E_MEMORY when a limit of this process or its control group is too small for a
 * guest with that much memory. */
int mon_check_limits(const struct novt_config *engine, uint64_t memory, struct mon_error *err);

#endif
