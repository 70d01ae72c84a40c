/* acpi_pm.h - ACPI's fixed hardware: PM1a event and control blocks and the power management timer.
 *
 *     600h  PM1_STS  2 bytes      604h  PM1_CNT  2 bytes
 *     602h  PM1_EN   2 bytes      608h  PM_TMR   4 bytes, 24 bits at 3.579545 MHz
 *
 * ACPI mode is always on (SCI_EN reads 1, no SMI command port), there are no buttons, and of the
 * sleep states only S5 exists: writing its type (MON_ACPI_S5) with SLP_EN powers off. The SCI is
 * IRQ 9, level-triggered; its only source is the timer's top bit.
 *
 * Source: ACPI 6.4 section 4.8. guest-support/acpi/dsdt.asl and monitor/boot/acpi.c hold the same
 * numbers. */
#ifndef MON_ACPI_PM_H
#define MON_ACPI_PM_H

#include "monitor/devices/bus.h"

#define MON_ACPI_PM1_EVENT   0x600
#define MON_ACPI_PM1_CONTROL 0x604
#define MON_ACPI_PM_TIMER    0x608
#define MON_ACPI_PM_TIMER_HZ 3579545u
#define MON_ACPI_SCI         9
#define MON_ACPI_S5          5

struct mon_acpi_pm {
    uint16_t status, enable, control;
    uint64_t seen; /* ticks accounted in TMR_STS */
    uint64_t deadline;
    const struct mon_clock *clock;
    struct mon_irq irq;
    struct mon_request *request;
};

void mon_acpi_pm_init(struct mon_acpi_pm *pm, const struct mon_clock *clock, struct mon_irq irq,
                      struct mon_request *request);
bool mon_acpi_pm_add_ports(struct mon_acpi_pm *pm, struct mon_bus *bus);
void mon_acpi_pm_update(struct mon_acpi_pm *pm, uint64_t now);

#endif
