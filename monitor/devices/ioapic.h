/* ioapic.h - the I/O APIC: 24 interrupt inputs, each with a redirection entry (FEC00000h).
 *
 *     pin 0    the 8259s (ExtINT)        pins 16-23   free (the HPET may use 20-23)
 *     pin 2    IRQ 0, as ACPI says       the others   the ISA IRQs of the same number
 *
 * An edge on a masked pin is lost; a level is sent when the pin is unmasked, and again after each
 * EOI while it lasts. Lines are "asserted or not": the polarity bit is stored and changes nothing.
 *
 * Source: Intel 82093AA data sheet (order 290566-001). */
#ifndef MON_IOAPIC_H
#define MON_IOAPIC_H

#include "monitor/devices/lapic.h"

#define MON_IOAPIC_ADDRESS 0xfec00000u
#define MON_IOAPIC_SIZE    0x1000u
#define MON_IOAPIC_PINS    24
#define MON_IOAPIC_ID      1
#define MON_IOAPIC_TIMER   2 /* where IRQ 0 is */

struct mon_ioapic {
    uint8_t select;
    uint32_t id;
    uint32_t lines; /* inputs as they are */
    uint64_t entry[MON_IOAPIC_PINS];
    struct mon_lapic *lapic;
};

void mon_ioapic_init(struct mon_ioapic *ioapic, struct mon_lapic *lapic);
extern const struct mon_mmio_ops mon_ioapic_mmio;

/* Sets input pin; opaque is the struct mon_ioapic. */
void mon_ioapic_set_pin(void *opaque, unsigned pin, bool level);
/* The local APIC ended a level-triggered interrupt. */
void mon_ioapic_eoi(struct mon_ioapic *ioapic, uint8_t vector);
/* Whether pin 0 passes the 8259s' INTR on. */
bool mon_ioapic_takes_extint(const struct mon_ioapic *ioapic);
/* Whether a rising edge on the pin would change anything. */
bool mon_ioapic_pin_is_useful(const struct mon_ioapic *ioapic, unsigned pin);

#endif
