/* hpet.h - the high precision event timer (FED00000h): a 64-bit counter of 100 MHz and three
 * comparators.
 *
 * Nothing counts: the counter is the clock plus an offset while it is enabled, and a comparator's
 * next match is computed. Timer 0 can be periodic. Interrupts go to I/O APIC pins 20-23, or with
 * legacy replacement timer 0 takes the place of the PIT and timer 1 that of the RTC (IRQ 0 and 8);
 * the board asks mon_hpet_is_legacy() before it passes theirs on. There is no FSB delivery.
 *
 * Matches that nobody took in time are coalesced.
 *
 * Source: IA-PC HPET specification 1.0a. */
#ifndef MON_HPET_H
#define MON_HPET_H

#include "monitor/devices/bus.h"

#define MON_HPET_ADDRESS   0xfed00000u
#define MON_HPET_SIZE      0x400u
#define MON_HPET_TIMERS    3
#define MON_HPET_TICK_NS   10
#define MON_HPET_ID        0x8086a201u /* low half of the capabilities: three timers, 64 bits, legacy */
#define MON_HPET_MIN_TICKS 128         /* in periodic mode; what ACPI tells */
#define MON_HPET_PINS      0x00f00000u /* I/O APIC pins that timers may use */

struct mon_hpet_timer {
    uint64_t config; /* what can be written of the configuration register */
    uint64_t comparator, period;
    uint64_t deadline; /* ns; MON_NEVER when it is not running */
    bool line;         /* as it drives its pin */
};

struct mon_hpet {
    uint64_t config;  /* bit 0 enabled, bit 1 legacy replacement */
    uint64_t status;  /* of level-triggered timers */
    uint64_t counter; /* while disabled; while enabled what it was at `origin` */
    uint64_t origin;  /* ns */
    struct mon_hpet_timer timer[MON_HPET_TIMERS];
    uint64_t deadline; /* the earliest */
    const struct mon_clock *clock;
    struct mon_irq pin;    /* I/O APIC pins: line is the pin */
    struct mon_irq legacy; /* IRQ 0 and 8, whatever their source is: line is the IRQ */
};

/* pin and legacy: their `line` is chosen at each call. */
void mon_hpet_init(struct mon_hpet *hpet, const struct mon_clock *clock, struct mon_irq pin,
                   struct mon_irq legacy);
extern const struct mon_mmio_ops mon_hpet_mmio;

void mon_hpet_update(struct mon_hpet *hpet, uint64_t now);
bool mon_hpet_is_legacy(const struct mon_hpet *hpet);

#endif
