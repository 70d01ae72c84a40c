/* acpi.h - the ACPI tables that a guest finds at E0000h. */
#ifndef MON_ACPI_H
#define MON_ACPI_H

#include "monitor/boot/ram.h"

/* Writes the tables into guest memory. */
void mon_acpi_put(const struct mon_ram *ram);

/* The physical address of the root pointer (RSDP). */
uint32_t mon_acpi_rsdp(void);

#endif
