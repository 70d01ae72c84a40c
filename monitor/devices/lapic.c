/* lapic.c - the local APIC's registers, interrupts and timer; see lapic.h.
 *
 * One register file, two ways in: register n is at offset 10h * n of the page, and MSR 800h + n.
 * What x2APIC mode forbids is checked on its way in (read_msr_allowed, write_msr_allowed), the rest
 * is common.
 *
 * Called with the machine's lock held. */
#include "monitor/devices/lapic.h"

#include <string.h>

/* Register numbers: offset / 10h (SDM 3, tables 10-1 and 10-6). */
enum {
    REG_ID = 0x02,
    REG_VERSION = 0x03,
    REG_TPR = 0x08,
    REG_APR = 0x09,
    REG_PPR = 0x0a,
    REG_EOI = 0x0b,
    REG_RRD = 0x0c,
    REG_LDR = 0x0d,
    REG_DFR = 0x0e,
    REG_SVR = 0x0f,
    REG_ISR = 0x10,
    REG_TMR = 0x18,
    REG_IRR = 0x20,
    REG_ESR = 0x28,
    REG_ICR = 0x30,
    REG_ICR_HIGH = 0x31,
    REG_LVT = 0x32,
    REG_INITIAL = 0x38,
    REG_CURRENT = 0x39,
    REG_DCR = 0x3e,
    REG_SELF_IPI = 0x3f,
};

enum {
    VERSION = 0x14 | (MON_LVT_COUNT - 1) << 16,
    SVR_ENABLED = 1 << 8,
    SVR_BITS = 0x3ff, /* vector, enable, focus processor checking */
    LVT_MASKED = 1 << 16,
    LVT_MODE_SHIFT = 17,
    ICR_LOGICAL = 1 << 11,
    ICR_ASSERT = 1 << 14,
    ICR_BITS = 0xccfff, /* all but delivery status and what is reserved */
    ERROR_SEND_VECTOR = 1 << 5,
    ERROR_RECEIVE_VECTOR = 1 << 6,
    ERROR_REGISTER = 1 << 7,
    DCR_BITS = 0xb,
    BROADCAST = 0xff,
    FLAT_MODEL = 0xf,
};

enum { TIMER_ONE_SHOT, TIMER_PERIODIC, TIMER_DEADLINE };
enum { SHORTHAND_NONE, SHORTHAND_SELF, SHORTHAND_ALL, SHORTHAND_OTHERS };

#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_X2APIC       0x800u
#define NS_PER_MS        1000000u

/* What may be written of each LVT entry: vector and mask; delivery mode; pin polarity and trigger;
 * timer mode. */
static const uint32_t lvt_bits[MON_LVT_COUNT] = {
    [MON_LVT_TIMER] = 0x700ff, [MON_LVT_THERMAL] = 0x107ff, [MON_LVT_PERFORMANCE] = 0x107ff,
    [MON_LVT_LINT0] = 0x1a7ff, [MON_LVT_LINT1] = 0x1a7ff,   [MON_LVT_ERROR] = 0x100ff,
};

static bool is_x2(const struct mon_lapic *apic)
{
    return apic->base & MON_LAPIC_X2;
}

static bool is_hardware_enabled(const struct mon_lapic *apic)
{
    return apic->base & MON_LAPIC_ENABLED;
}

static bool is_software_enabled(const struct mon_lapic *apic)
{
    return apic->svr & SVR_ENABLED;
}

/* --- Vectors: 256 bits in 8 words --------------------------------------------------------------*/

static void vector_set(uint32_t *bits, uint8_t vector, bool on)
{
    uint32_t bit = 1u << (vector & 31);
    bits[vector >> 5] = on ? bits[vector >> 5] | bit : bits[vector >> 5] & ~bit;
}

static bool vector_is_set(const uint32_t *bits, uint8_t vector)
{
    return bits[vector >> 5] >> (vector & 31) & 1;
}

/* -1 when none is set */
static int highest_vector(const uint32_t *bits)
{
    for (int n = 7; n >= 0; n--)
        if (bits[n])
            return n * 32 + 31 - __builtin_clz(bits[n]);
    return -1;
}

/* --- Priorities (SDM 3-10.8.3) -----------------------------------------------------------------*/

static uint8_t service_class(const struct mon_lapic *apic)
{
    int vector = highest_vector(apic->isr);
    return vector < 0 ? 0 : MON_BYTE(vector & 0xf0);
}

static uint8_t ppr(const struct mon_lapic *apic)
{
    uint8_t class = service_class(apic);
    return (apic->tpr & 0xf0) >= class ? apic->tpr : class;
}

/* The highest request, or -1. Mostly there is none, and the rest need not be looked at. */
static int highest_request(const struct mon_lapic *apic)
{
    return is_hardware_enabled(apic) ? highest_vector(apic->irr) : -1;
}

int mon_lapic_pending(const struct mon_lapic *apic)
{
    int vector = highest_request(apic);
    return vector >= 0 && vector >> 4 > ppr(apic) >> 4 ? vector : -1;
}

int mon_lapic_pending_above_isr(const struct mon_lapic *apic)
{
    int vector = highest_request(apic);
    return vector >= 0 && vector >> 4 > service_class(apic) >> 4 ? vector : -1;
}

bool mon_lapic_is_requested(const struct mon_lapic *apic, uint8_t vector)
{
    return vector_is_set(apic->irr, vector);
}

uint8_t mon_lapic_threshold(const struct mon_lapic *apic)
{
    int vector = mon_lapic_pending_above_isr(apic);
    return vector >= 0 && vector >> 4 <= apic->tpr >> 4 ? MON_BYTE(vector >> 4) : 0;
}

uint8_t mon_lapic_acknowledge(struct mon_lapic *apic)
{
    int vector = mon_lapic_pending(apic);
    if (vector < 0)
        return MON_BYTE(apic->svr);
    vector_set(apic->irr, MON_BYTE(vector), false);
    vector_set(apic->isr, MON_BYTE(vector), true);
    return MON_BYTE(vector);
}

void mon_lapic_set_cr8(struct mon_lapic *apic, uint8_t cr8)
{
    if (cr8 != mon_lapic_cr8(apic))
        apic->tpr = MON_BYTE(cr8 << 4);
}

static void end_of_interrupt(struct mon_lapic *apic)
{
    int vector = highest_vector(apic->isr);
    if (vector < 0)
        return;
    vector_set(apic->isr, MON_BYTE(vector), false);
    if (vector_is_set(apic->tmr, MON_BYTE(vector)) && apic->wiring.eoi)
        apic->wiring.eoi(apic->wiring.opaque, MON_BYTE(vector));
}

/* --- Accepting interrupts ----------------------------------------------------------------------*/

static void report_error(struct mon_lapic *apic, uint32_t error);

static bool accept_vector(struct mon_lapic *apic, uint8_t vector, bool level)
{
    if (!is_software_enabled(apic))
        return false;
    if (vector < 16) {
        report_error(apic, ERROR_RECEIVE_VECTOR);
        return false;
    }
    vector_set(apic->irr, vector, true);
    vector_set(apic->tmr, vector, level);
    return true;
}

static bool accept(struct mon_lapic *apic, enum mon_lapic_delivery delivery, uint8_t vector,
                   bool level)
{
    switch (delivery) {
    case MON_DELIVERY_FIXED:
    case MON_DELIVERY_LOWEST:
        return accept_vector(apic, vector, level);
    case MON_DELIVERY_NMI:
        if (apic->wiring.nmi)
            apic->wiring.nmi(apic->wiring.opaque);
        return true;
    case MON_DELIVERY_INIT:
        if (apic->wiring.init)
            apic->wiring.init(apic->wiring.opaque);
        return true;
    default: /* SMI and ExtINT have other ways; a start-up IPI needs a CPU that waits for it */
        return true;
    }
}

static bool logical_match(const struct mon_lapic *apic, uint32_t destination)
{
    if (is_x2(apic))
        return destination >> 16 == apic->ldr >> 16 && destination & apic->ldr & 0xffff;
    uint32_t mine = apic->ldr >> 24;
    if (apic->dfr >> 28 == FLAT_MODEL)
        return destination & mine;
    return (destination >> 4 == mine >> 4 || destination >> 4 == 0xf) && destination & mine & 0xf;
}

static bool is_destination(const struct mon_lapic *apic, uint32_t destination, bool logical,
                           uint32_t broadcast)
{
    if (destination == broadcast)
        return true;
    return logical ? logical_match(apic, destination) : destination == apic->id;
}

bool mon_lapic_message(struct mon_lapic *apic, uint8_t destination, bool logical,
                       enum mon_lapic_delivery delivery, uint8_t vector, bool level)
{
    return is_hardware_enabled(apic) && is_destination(apic, destination, logical, BROADCAST) &&
           accept(apic, delivery, vector, level);
}

/* An LVT entry's interrupt. */
static void raise_local(struct mon_lapic *apic, enum mon_lapic_lvt entry)
{
    uint32_t lvt = apic->lvt[entry];
    bool has_mode = entry != MON_LVT_TIMER && entry != MON_LVT_ERROR;
    if (!(lvt & LVT_MASKED))
        accept(apic, has_mode ? lvt >> 8 & 7 : MON_DELIVERY_FIXED, MON_BYTE(lvt), false);
}

static void report_error(struct mon_lapic *apic, uint32_t error)
{
    bool is_new = !(apic->errors & error);
    apic->errors |= error;
    if (is_new && (apic->lvt[MON_LVT_ERROR] & 0xff) >= 16) /* an illegal vector there ends here */
        raise_local(apic, MON_LVT_ERROR);
}

bool mon_lapic_takes_extint(const struct mon_lapic *apic)
{
    uint32_t lint0 = apic->lvt[MON_LVT_LINT0];
    return !is_hardware_enabled(apic) ||
           (!(lint0 & LVT_MASKED) && (lint0 >> 8 & 7) == MON_DELIVERY_EXTINT);
}

/* --- Interprocessor interrupts (SDM 3-10.6) ----------------------------------------------------*/

static bool icr_reaches_itself(const struct mon_lapic *apic)
{
    uint32_t destination = is_x2(apic) ? (uint32_t)(apic->icr >> 32) : MON_BYTE(apic->icr >> 56);
    switch (apic->icr >> 18 & 3) {
    case SHORTHAND_NONE:
        return is_destination(apic, destination, apic->icr & ICR_LOGICAL,
                              is_x2(apic) ? UINT32_MAX : BROADCAST);
    case SHORTHAND_OTHERS:
        return false;
    default:
        return true;
    }
}

static void send_icr(struct mon_lapic *apic)
{
    enum mon_lapic_delivery delivery = apic->icr >> 8 & 7;
    uint8_t vector = MON_BYTE(apic->icr);

    if (delivery == MON_DELIVERY_INIT && !(apic->icr & ICR_ASSERT))
        return; /* INIT level de-assert: the end of what was never begun */
    if (delivery <= MON_DELIVERY_LOWEST && vector < 16) {
        report_error(apic, ERROR_SEND_VECTOR);
        return;
    }
    if (icr_reaches_itself(apic))
        accept(apic, delivery, vector, false);
}

static void self_ipi(struct mon_lapic *apic, uint8_t vector)
{
    if (vector < 16)
        report_error(apic, ERROR_SEND_VECTOR);
    else
        accept_vector(apic, vector, false);
}

/* --- Timer (SDM 3-10.5.4) ----------------------------------------------------------------------*/

static unsigned timer_mode(const struct mon_lapic *apic)
{
    return apic->lvt[MON_LVT_TIMER] >> LVT_MODE_SHIFT & 3;
}

/* Bits 0, 1 and 3 are one less than the logarithm, 111b means 1. */
static uint32_t divisor(const struct mon_lapic *apic)
{
    unsigned code = (apic->dcr & 3) | (apic->dcr >> 1 & 4);
    return code == 7 ? 1 : 2u << code;
}

static uint64_t ticks_to_ns(const struct mon_lapic *apic, uint64_t ticks)
{
    return mon_muldiv_up(ticks * divisor(apic), NS_PER_MS, apic->wiring.apic_khz);
}

static uint64_t elapsed_ticks(const struct mon_lapic *apic, uint64_t now)
{
    return mon_muldiv(now - apic->origin, apic->wiring.apic_khz,
                      (uint64_t)NS_PER_MS * divisor(apic));
}

static uint32_t current_count(const struct mon_lapic *apic, uint64_t now)
{
    if (!apic->remaining || timer_mode(apic) == TIMER_DEADLINE)
        return 0;
    uint64_t elapsed = elapsed_ticks(apic, now);
    if (elapsed < apic->remaining)
        return apic->remaining - (uint32_t)elapsed;
    if (timer_mode(apic) != TIMER_PERIODIC)
        return 0;
    return apic->initial - (uint32_t)((elapsed - apic->remaining) % apic->initial);
}

/* When the count next reaches 0 after now. */
static uint64_t count_deadline(const struct mon_lapic *apic, uint64_t now)
{
    if (!apic->remaining)
        return MON_NEVER;
    uint64_t elapsed = elapsed_ticks(apic, now), at = apic->remaining;
    if (elapsed >= at) {
        if (timer_mode(apic) != TIMER_PERIODIC)
            return MON_NEVER;
        at += ((elapsed - at) / apic->initial + 1) * apic->initial;
    }
    return apic->origin + ticks_to_ns(apic, at);
}

static uint64_t tsc_now(const struct mon_lapic *apic)
{
    return mon_clock_now(&apic->wiring.tsc);
}

/* By the clock, when the TSC will be there; at once if it is. */
static uint64_t tsc_deadline(const struct mon_lapic *apic, uint64_t now)
{
    if (!apic->tsc_deadline)
        return MON_NEVER;
    uint64_t tsc = tsc_now(apic);
    if (tsc >= apic->tsc_deadline)
        return now;
    uint64_t ticks = apic->tsc_deadline - tsc;
    if (ticks / apic->wiring.tsc_khz >= (MON_NEVER - now) / NS_PER_MS - 1)
        return MON_NEVER - 1; /* centuries away */
    return now + mon_muldiv_up(ticks, NS_PER_MS, apic->wiring.tsc_khz);
}

static void settle_timer(struct mon_lapic *apic, uint64_t now)
{
    apic->deadline =
        timer_mode(apic) == TIMER_DEADLINE ? tsc_deadline(apic, now) : count_deadline(apic, now);
}

static void timer_fires(struct mon_lapic *apic)
{
    apic->timer_interrupts++;
    raise_local(apic, MON_LVT_TIMER);
}

uint64_t mon_lapic_deadline(const struct mon_lapic *apic)
{
    uint32_t lvt = apic->lvt[MON_LVT_TIMER];
    return lvt & LVT_MASKED || mon_lapic_is_requested(apic, MON_BYTE(lvt)) ? MON_NEVER
                                                                           : apic->deadline;
}

void mon_lapic_update(struct mon_lapic *apic, uint64_t now)
{
    if (now < apic->deadline)
        return;
    if (timer_mode(apic) != TIMER_DEADLINE) {
        timer_fires(apic);
    } else if (tsc_now(apic) >= apic->tsc_deadline) { /* the clock's idea of it may be early */
        apic->tsc_deadline = 0;
        timer_fires(apic);
    }
    settle_timer(apic, now);
}

void mon_lapic_tsc_moved(struct mon_lapic *apic)
{
    settle_timer(apic, mon_clock_now(apic->wiring.clock));
}

static void start_count(struct mon_lapic *apic, uint32_t count, uint64_t now)
{
    apic->remaining = count;
    apic->origin = now;
    settle_timer(apic, now);
}

static void write_initial(struct mon_lapic *apic, uint32_t value, uint64_t now)
{
    if (timer_mode(apic) == TIMER_DEADLINE)
        return;
    apic->initial = value;
    start_count(apic, value, now);
}

/* The count goes on from where it is, at the new rate. */
static void write_dcr(struct mon_lapic *apic, uint32_t value, uint64_t now)
{
    uint32_t count = current_count(apic, now);
    bool is_running = apic->deadline != MON_NEVER;
    apic->dcr = value & DCR_BITS;
    if (is_running && timer_mode(apic) != TIMER_DEADLINE)
        start_count(apic, count, now);
}

static void write_timer_lvt(struct mon_lapic *apic, uint32_t value, uint64_t now)
{
    unsigned before = timer_mode(apic);
    uint32_t count = current_count(apic, now);
    apic->lvt[MON_LVT_TIMER] = value;
    unsigned after = timer_mode(apic);
    if (before == after)
        return;
    if (before == TIMER_DEADLINE || after == TIMER_DEADLINE)
        apic->tsc_deadline = apic->initial = count = 0;
    start_count(apic, count, now);
}

static void write_tsc_deadline(struct mon_lapic *apic, uint64_t value)
{
    uint64_t now = mon_clock_now(apic->wiring.clock);
    if (timer_mode(apic) != TIMER_DEADLINE)
        return;
    apic->tsc_deadline = value;
    settle_timer(apic, now);
    mon_lapic_update(apic, now);
}

/* --- Registers ---------------------------------------------------------------------------------*/

static bool is_lvt(unsigned reg)
{
    return reg >= REG_LVT && reg < REG_LVT + MON_LVT_COUNT;
}

static bool is_vectors(unsigned reg)
{
    return reg >= REG_ISR && reg < REG_IRR + 8;
}

static uint32_t read_vectors(const struct mon_lapic *apic, unsigned reg)
{
    const uint32_t *bits = reg >= REG_IRR ? apic->irr : reg >= REG_TMR ? apic->tmr : apic->isr;
    return bits[reg & 7];
}

/* False: there is no such register. */
static bool read_register(struct mon_lapic *apic, unsigned reg, uint32_t *value)
{
    uint64_t now = mon_clock_now(apic->wiring.clock);

    mon_lapic_update(apic, now);
    *value = 0;
    if (is_vectors(reg)) {
        *value = read_vectors(apic, reg);
        return true;
    }
    if (is_lvt(reg)) {
        *value = apic->lvt[reg - REG_LVT];
        return true;
    }
    switch (reg) {
    case REG_ID:
        *value = is_x2(apic) ? apic->id : apic->id << 24;
        return true;
    case REG_VERSION:
        *value = VERSION;
        return true;
    case REG_TPR:
        *value = apic->tpr;
        return true;
    case REG_PPR:
        *value = ppr(apic);
        return true;
    case REG_LDR:
        *value = apic->ldr;
        return true;
    case REG_DFR:
        *value = apic->dfr;
        return true;
    case REG_SVR:
        *value = apic->svr;
        return true;
    case REG_ESR:
        *value = apic->esr;
        return true;
    case REG_ICR:
        *value = (uint32_t)apic->icr;
        return true;
    case REG_ICR_HIGH:
        *value = (uint32_t)(apic->icr >> 32);
        return true;
    case REG_INITIAL:
        *value = timer_mode(apic) == TIMER_DEADLINE ? 0 : apic->initial;
        return true;
    case REG_CURRENT:
        *value = current_count(apic, now);
        return true;
    case REG_DCR:
        *value = apic->dcr;
        return true;
    default:
        return reg == REG_APR || reg == REG_RRD || reg == REG_EOI;
    }
}

static void write_lvt(struct mon_lapic *apic, unsigned entry, uint32_t value, uint64_t now)
{
    value &= lvt_bits[entry];
    if (!is_software_enabled(apic))
        value |= LVT_MASKED;
    if (entry == MON_LVT_TIMER)
        write_timer_lvt(apic, value, now);
    else
        apic->lvt[entry] = value;
}

static void write_svr(struct mon_lapic *apic, uint32_t value)
{
    apic->svr = value & SVR_BITS;
    for (unsigned n = 0; n < MON_LVT_COUNT && !is_software_enabled(apic); n++)
        apic->lvt[n] |= LVT_MASKED;
}

static void write_esr(struct mon_lapic *apic)
{
    apic->esr = apic->errors;
    apic->errors = 0;
}

/* Bits that a register does not have are dropped. False: there is no such register to write. */
static bool write_register(struct mon_lapic *apic, unsigned reg, uint32_t value)
{
    uint64_t now = mon_clock_now(apic->wiring.clock);

    mon_lapic_update(apic, now);
    if (is_lvt(reg)) {
        write_lvt(apic, reg - REG_LVT, value, now);
        return true;
    }
    switch (reg) {
    case REG_TPR:
        apic->tpr = MON_BYTE(value);
        return true;
    case REG_EOI:
        end_of_interrupt(apic);
        return true;
    case REG_LDR:
        apic->ldr = value & 0xff000000;
        return true;
    case REG_DFR:
        apic->dfr = value | 0x0fffffff;
        return true;
    case REG_SVR:
        write_svr(apic, value);
        return true;
    case REG_ESR:
        write_esr(apic);
        return true;
    case REG_ICR:
        apic->icr = (apic->icr & ~0xffffffffull) | (value & ICR_BITS);
        send_icr(apic);
        return true;
    case REG_ICR_HIGH:
        apic->icr = (uint32_t)apic->icr | (uint64_t)(value & 0xff000000) << 32;
        return true;
    case REG_INITIAL:
        write_initial(apic, value, now);
        return true;
    case REG_DCR:
        write_dcr(apic, value, now);
        return true;
    default: /* read-only, or nothing */
        return reg == REG_ID || reg == REG_VERSION || reg == REG_PPR || reg == REG_APR ||
               reg == REG_RRD || reg == REG_CURRENT || is_vectors(reg);
    }
}

/* --- In memory ---------------------------------------------------------------------------------*/

static uint64_t mmio_read(void *device, uint64_t offset, unsigned size)
{
    (void)size;
    struct mon_lapic *apic = device;
    uint32_t value;

    if (!is_hardware_enabled(apic) || is_x2(apic))
        return ~0ull;
    if (!read_register(apic, (unsigned)offset >> 4, &value))
        report_error(apic, ERROR_REGISTER);
    unsigned at = offset & 15;
    return at < 4 ? value >> 8 * at : 0;
}

static void mmio_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct mon_lapic *apic = device;

    if (!is_hardware_enabled(apic) || is_x2(apic) || offset & 15 || size < 4)
        return;
    if (!write_register(apic, (unsigned)offset >> 4, (uint32_t)value))
        report_error(apic, ERROR_REGISTER);
}

const struct mon_mmio_ops mon_lapic_mmio = {"local-apic", mmio_read, mmio_write};

/* --- As MSRs (SDM 3-10.12.1, table 10-6) -------------------------------------------------------*/

static bool read_msr_allowed(unsigned reg)
{
    return reg != REG_EOI && reg != REG_SELF_IPI && reg != REG_APR && reg != REG_RRD &&
           reg != REG_DFR && reg != REG_ICR_HIGH;
}

bool mon_lapic_read_msr(struct mon_lapic *apic, uint32_t index, uint64_t *value)
{
    unsigned reg = index - MSR_X2APIC;
    uint32_t low;

    if (index == MSR_TSC_DEADLINE) {
        mon_lapic_update(apic, mon_clock_now(apic->wiring.clock));
        *value = apic->tsc_deadline;
        return true;
    }
    if (!read_msr_allowed(reg) || !read_register(apic, reg, &low))
        return false;
    *value = reg == REG_ICR ? apic->icr : low;
    return true;
}

/* The bits that may be set; 0 for a register that cannot be written. */
static uint64_t writable_bits(unsigned reg)
{
    if (is_lvt(reg)) /* writing the read-only bits, delivery status and remote IRR, is no error */
        return lvt_bits[reg - REG_LVT] | 1u << 12 | (lvt_bits[reg - REG_LVT] & 1u << 15) >> 1;
    switch (reg) {
    case REG_TPR:
    case REG_SELF_IPI:
        return 0xff;
    case REG_SVR:
        return SVR_BITS;
    case REG_ICR:
        return 0xffffffff00000000 | ICR_BITS;
    case REG_INITIAL:
        return 0xffffffff;
    case REG_DCR:
        return DCR_BITS;
    default:
        return 0;
    }
}

bool mon_lapic_write_msr(struct mon_lapic *apic, uint32_t index, uint64_t value)
{
    unsigned reg = index - MSR_X2APIC;

    if (index == MSR_TSC_DEADLINE) {
        write_tsc_deadline(apic, value);
        return true;
    }
    if (value & ~writable_bits(reg))
        return false;
    switch (reg) {
    case REG_SELF_IPI:
        self_ipi(apic, MON_BYTE(value));
        return true;
    case REG_ICR:
        apic->icr = value;
        send_icr(apic);
        return true;
    case REG_EOI:
    case REG_ESR:
        return write_register(apic, reg, 0);
    default:
        return writable_bits(reg) && write_register(apic, reg, (uint32_t)value);
    }
}

/* --- State -------------------------------------------------------------------------------------*/

static void clear_registers(struct mon_lapic *apic)
{
    struct mon_lapic_wiring wiring = apic->wiring;
    uint64_t base = apic->base;
    uint32_t id = apic->id;

    memset(apic, 0, sizeof(*apic));
    apic->wiring = wiring;
    apic->base = base;
    apic->id = id;
    apic->dfr = 0xffffffff;
    apic->svr = 0xff;
    for (unsigned n = 0; n < MON_LVT_COUNT; n++)
        apic->lvt[n] = LVT_MASKED;
    apic->deadline = MON_NEVER;
}

/* Disabling forgets everything (SDM 3-10.4.3); x2APIC mode makes LDR of the id (10.12.10.2). */
void mon_lapic_set_base(struct mon_lapic *apic, uint64_t base)
{
    bool was_x2 = is_x2(apic);
    apic->base = base;
    if (!is_hardware_enabled(apic))
        clear_registers(apic);
    else if (is_x2(apic) && !was_x2)
        apic->ldr = (apic->id >> 4) << 16 | 1u << (apic->id & 15);
}

void mon_lapic_init(struct mon_lapic *apic, const struct mon_lapic_wiring *wiring)
{
    memset(apic, 0, sizeof(*apic));
    apic->wiring = *wiring;
    apic->base = MON_LAPIC_ADDRESS | MON_LAPIC_ENABLED | 1u << 8;
    clear_registers(apic);
}

void mon_lapic_virtual_wire(struct mon_lapic *apic)
{
    apic->svr |= SVR_ENABLED;
    apic->lvt[MON_LVT_LINT0] = MON_DELIVERY_EXTINT << 8;
    apic->lvt[MON_LVT_LINT1] = MON_DELIVERY_NMI << 8;
}
