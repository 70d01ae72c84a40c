/* pc.h - the board: every device of the machine, wired together.
 *
 *     IRQ 0 PIT   1 keyboard controller   4 COM1   8 RTC   9 ACPI's SCI
 *
 *     IRQ 0-15 --+--> 8259s --- INTR --> LINT0 of the local APIC (ExtINT) --> CPU
 *                +--> I/O APIC pin of the same number, IRQ 0 at pin 2 ------> CPU
 *
 * With HPET's legacy replacement IRQ 0 and 8 are the HPET's.
 *
 * All calls need the machine's lock. */
#ifndef MON_PC_H
#define MON_PC_H

#include "monitor/devices/acpi_pm.h"
#include "monitor/devices/hpet.h"
#include "monitor/devices/i8042.h"
#include "monitor/devices/ioapic.h"
#include "monitor/devices/pic.h"
#include "monitor/devices/pit.h"
#include "monitor/devices/rtc.h"
#include "monitor/devices/sysctl.h"
#include "monitor/devices/uart.h"

struct mon_pc_config {
    struct mon_clock clock;
    uint64_t wall_ns; /* time of day at clock 0 */
    struct mon_uart_line line;
    uint64_t ram_below_4g, ram_above_4g;
    int debug_exit_port; /* -1 for none */
    /* The CPU: its TSC, the frequencies that CPUID announces, and how it takes an NMI. Taken at
     * reset. */
    struct mon_clock tsc;
    uint32_t tsc_khz, apic_khz;
    void (*nmi)(void *opaque);
    void *nmi_opaque;
};

struct mon_pc {
    struct mon_pc_config config;
    struct mon_bus bus;
    struct mon_pic pic;
    struct mon_lapic lapic;
    struct mon_ioapic ioapic;
    struct mon_hpet hpet;
    struct mon_pit pit;
    struct mon_rtc rtc;
    struct mon_uart uart;
    struct mon_i8042 i8042;
    struct mon_sysctl sysctl;
    struct mon_acpi_pm acpi_pm;
    struct mon_request request; /* taken and cleared by the machine */
};

/* False when the debug-exit port belongs to a device. */
bool mon_pc_init(struct mon_pc *pc, const struct mon_pc_config *config);

/* Puts the devices into their state after reset, with the local APIC in virtual wire mode as
 * firmware leaves it. The clock and the time of day go on. */
void mon_pc_reset(struct mon_pc *pc);

/* Lets the devices do what was due by now. */
void mon_pc_update(struct mon_pc *pc, uint64_t now);

/* When mon_pc_update() has something to do next; MON_NEVER when nothing. A timer tick that the
 * interrupt controller would not take counts as nothing: it is made up for when the guest looks. */
uint64_t mon_pc_deadline(const struct mon_pc *pc);

/* Whether an interrupt waits that the CPU would take if its IF were set, and its vector. */
bool mon_pc_has_interrupt(const struct mon_pc *pc);
uint8_t mon_pc_acknowledge(struct mon_pc *pc);
/* The same if TPR were 0: the CPU may have changed it since. */
bool mon_pc_may_have_interrupt(const struct mon_pc *pc);

/* IA32_APIC_BASE is this from now on. */
void mon_pc_set_apic_base(struct mon_pc *pc, uint64_t base);
/* The local APIC's MSRs. False: #GP(0). */
bool mon_pc_read_msr(struct mon_pc *pc, uint32_t index, uint64_t *value);
bool mon_pc_write_msr(struct mon_pc *pc, uint32_t index, uint64_t value);

uint64_t mon_pc_mmio_read(struct mon_pc *pc, uint64_t gpa, unsigned size);
void mon_pc_mmio_write(struct mon_pc *pc, uint64_t gpa, unsigned size, uint64_t value);
uint32_t mon_pc_in(struct mon_pc *pc, uint16_t port, unsigned size);
void mon_pc_out(struct mon_pc *pc, uint16_t port, unsigned size, uint32_t value);

#endif
