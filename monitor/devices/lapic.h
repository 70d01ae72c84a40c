/* lapic.h - the CPU's local APIC: xAPIC registers in memory, x2APIC registers as MSRs.
 *
 *     I/O APIC, own IPIs --> IRR --> ISR     priority: the upper half of the vector, against TPR
 *     8259 (ExtINT) -------> LINT0           and what is in service
 *     timer, errors -------> LVT
 *
 * One CPU: a destination is this one or nobody. The library owns IA32_APIC_BASE and tells it
 * (mon_lapic_set_base); CR8 is the upper half of TPR and is carried over by the machine.
 *
 * The timer counts the crystal of CPUID leaf 15h; nothing ticks, the count is computed. Periods
 * that nobody took are coalesced. In TSC-deadline mode the deadline is kept as a TSC value, and
 * the clock's time for it is an estimate that update() makes again until the TSC has passed.
 *
 * Source: SDM 3, chapter 10. Differs in this: registers are taken whole (other than aligned 32-bit
 * accesses are undefined there); a deadline that was set in one timer mode does not survive a
 * change of mode; LINT0 knows the 8259's ExtINT alone; there is no remote read, and nothing behind
 * the LVT entries for heat and performance counters. Firmware's part, virtual wire mode, is
 * mon_lapic_virtual_wire(). */
#ifndef MON_LAPIC_H
#define MON_LAPIC_H

#include "monitor/devices/bus.h"

#define MON_LAPIC_ADDRESS 0xfee00000u
#define MON_LAPIC_SIZE    0x1000u
#define MON_LAPIC_ENABLED (1u << 11) /* of IA32_APIC_BASE */
#define MON_LAPIC_X2      (1u << 10)

/* What a message on the interrupt bus asks for: bits 10:8 of ICR, LVT and redirection entries. */
enum mon_lapic_delivery {
    MON_DELIVERY_FIXED,
    MON_DELIVERY_LOWEST,
    MON_DELIVERY_SMI,
    MON_DELIVERY_RESERVED,
    MON_DELIVERY_NMI,
    MON_DELIVERY_INIT,
    MON_DELIVERY_STARTUP,
    MON_DELIVERY_EXTINT,
};

enum mon_lapic_lvt {
    MON_LVT_TIMER,
    MON_LVT_THERMAL,
    MON_LVT_PERFORMANCE,
    MON_LVT_LINT0,
    MON_LVT_LINT1,
    MON_LVT_ERROR,
    MON_LVT_COUNT,
};

struct mon_lapic_wiring {
    const struct mon_clock *clock;
    struct mon_clock tsc;       /* the guest's TSC */
    uint32_t tsc_khz, apic_khz; /* not 0 */
    void (*nmi)(void *opaque);
    void (*init)(void *opaque);                /* INIT sent to itself */
    void (*eoi)(void *opaque, uint8_t vector); /* the end of a level-triggered interrupt */
    void *opaque;
};

struct mon_lapic {
    uint64_t base; /* IA32_APIC_BASE */
    uint32_t id, ldr, dfr, svr, dcr;
    uint32_t lvt[MON_LVT_COUNT];
    uint32_t isr[8], tmr[8], irr[8];
    uint32_t esr, errors; /* as read, and what the next write of ESR shows */
    uint64_t icr;
    uint8_t tpr;
    uint32_t initial;      /* count */
    uint32_t remaining;    /* of the first period from `origin` */
    uint64_t origin;       /* ns at which the timer was started */
    uint64_t tsc_deadline; /* 0: not armed */
    uint64_t deadline;     /* ns; MON_NEVER when the timer does not run */
    uint64_t timer_interrupts;
    struct mon_lapic_wiring wiring;
};

/* The state after RESET, of APIC id 0. */
void mon_lapic_init(struct mon_lapic *apic, const struct mon_lapic_wiring *wiring);
/* What firmware leaves behind: software-enabled, the 8259's interrupts through LINT0, NMI at LINT1.
 */
void mon_lapic_virtual_wire(struct mon_lapic *apic);

/* IA32_APIC_BASE has changed, to something valid. */
void mon_lapic_set_base(struct mon_lapic *apic, uint64_t base);

/* Registers in memory; nothing answers unless the APIC is in xAPIC mode. */
extern const struct mon_mmio_ops mon_lapic_mmio;
/* MSRs 800h-8FFh (in x2APIC mode) and 6E0h. False: #GP(0). */
bool mon_lapic_read_msr(struct mon_lapic *apic, uint32_t index, uint64_t *value);
bool mon_lapic_write_msr(struct mon_lapic *apic, uint32_t index, uint64_t value);

/* A message from the I/O APIC or from itself. False when nobody takes it. */
bool mon_lapic_message(struct mon_lapic *apic, uint8_t destination, bool logical,
                       enum mon_lapic_delivery delivery, uint8_t vector, bool level);

/* Whether the 8259's INTR reaches the CPU through LINT0, or past a disabled APIC. */
bool mon_lapic_takes_extint(const struct mon_lapic *apic);

/* The vector that the CPU would be given now, or -1; the second without regard to TPR. */
int mon_lapic_pending(const struct mon_lapic *apic);
int mon_lapic_pending_above_isr(const struct mon_lapic *apic);
/* Whether the vector waits for the CPU already: requesting it again changes nothing. */
bool mon_lapic_is_requested(const struct mon_lapic *apic, uint8_t vector);
/* Moves the pending vector into service; the spurious vector when there is none. */
uint8_t mon_lapic_acknowledge(struct mon_lapic *apic);

static inline uint8_t mon_lapic_cr8(const struct mon_lapic *apic)
{
    return apic->tpr >> 4;
}
void mon_lapic_set_cr8(struct mon_lapic *apic, uint8_t cr8);
/* CR8 must fall below this before the CPU takes what is pending; 0: TPR holds nothing back. */
uint8_t mon_lapic_threshold(const struct mon_lapic *apic);

/* Lets the timer do what was due by now. */
void mon_lapic_update(struct mon_lapic *apic, uint64_t now);
/* When update() has something to do that the guest could see without looking; MON_NEVER when not.
 */
uint64_t mon_lapic_deadline(const struct mon_lapic *apic);
/* The guest's TSC has been moved. */
void mon_lapic_tsc_moved(struct mon_lapic *apic);

#endif
