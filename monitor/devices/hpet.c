/* hpet.c - the high precision event timer; see hpet.h.
 *
 * Called with the machine's lock held. */
#include "monitor/devices/hpet.h"

#include <string.h>

enum {
    REG_CAPABILITIES = 0x00,
    REG_CONFIG = 0x10,
    REG_STATUS = 0x20,
    REG_COUNTER = 0xf0,
    REG_TIMERS = 0x100, /* 20h bytes each */
    TIMER_CONFIG = 0x00,
    TIMER_COMPARATOR = 0x08,
    TIMER_ROUTE = 0x10,
};

enum {
    CONFIG_ENABLED = 1 << 0,
    CONFIG_LEGACY = 1 << 1,
    CONFIG_BITS = 3,
    T_LEVEL = 1 << 1,
    T_INTERRUPT = 1 << 2,
    T_PERIODIC = 1 << 3,
    T_CAN_PERIODIC = 1 << 4,
    T_CAN_64 = 1 << 5,
    T_SET_VALUE = 1 << 6,
    T_32 = 1 << 8,
    T_ROUTE_SHIFT = 9,
    T_WRITABLE = T_LEVEL | T_INTERRUPT | T_PERIODIC | T_SET_VALUE | T_32 | 0x1f << T_ROUTE_SHIFT,
};

#define PERIOD_FS ((uint64_t)MON_HPET_TICK_NS * 1000000)

static bool is_enabled(const struct mon_hpet *hpet)
{
    return hpet->config & CONFIG_ENABLED;
}

bool mon_hpet_is_legacy(const struct mon_hpet *hpet)
{
    return hpet->config & CONFIG_LEGACY;
}

static uint64_t counter_at(const struct mon_hpet *hpet, uint64_t now)
{
    return is_enabled(hpet) ? hpet->counter + (now - hpet->origin) / MON_HPET_TICK_NS
                            : hpet->counter;
}

static bool is_periodic(const struct mon_hpet_timer *t)
{
    return t->config & T_PERIODIC;
}

/* Ticks from counter to the comparator, at least 1; a 32-bit timer compares the low halves. */
static uint64_t distance(const struct mon_hpet_timer *t, uint64_t counter)
{
    uint64_t ticks = t->comparator - counter;
    if (t->config & T_32)
        ticks = (uint32_t)ticks ? (uint32_t)ticks : 1ull << 32;
    return ticks ? ticks : UINT64_MAX;
}

/* Legacy replacement: timer 0 is IRQ 0, timer 1 IRQ 8. -1: none. */
static int legacy_irq(const struct mon_hpet *hpet, unsigned n)
{
    if (!mon_hpet_is_legacy(hpet) || n > 1)
        return -1;
    return n == 0 ? 0 : 8;
}

static void drive(struct mon_hpet *hpet, unsigned n, bool level)
{
    int irq = legacy_irq(hpet, n);
    struct mon_irq out = irq >= 0 ? hpet->legacy : hpet->pin;

    out.line = irq >= 0 ? (unsigned)irq : hpet->timer[n].config >> T_ROUTE_SHIFT & 0x1f;
    if (irq < 0 && !(MON_HPET_PINS >> out.line & 1))
        return; /* not routed */
    hpet->timer[n].line = level;
    mon_irq_set(&out, level);
}

/* Lowers what a timer drives, before its route, trigger or enabling changes. */
static void release(struct mon_hpet *hpet, unsigned n)
{
    if (hpet->timer[n].line)
        drive(hpet, n, false);
}

static void match(struct mon_hpet *hpet, unsigned n)
{
    struct mon_hpet_timer *t = &hpet->timer[n];
    if (t->config & T_LEVEL)
        hpet->status |= 1u << n;
    if (!(t->config & T_INTERRUPT))
        return;
    if (!(t->config & T_LEVEL))
        drive(hpet, n, false); /* the line may be as the PIT left it */
    drive(hpet, n, true);
    if (!(t->config & T_LEVEL))
        drive(hpet, n, false);
}

/* A periodic timer's comparator goes on by whole periods, past the counter. */
static void advance(struct mon_hpet_timer *t, uint64_t counter)
{
    uint64_t late = counter - t->comparator;
    bool is_ahead = t->config & T_32 ? (int32_t)late < 0 : (int64_t)late < 0;
    if (!is_periodic(t) || !t->period || is_ahead)
        return;
    if (t->config & T_32)
        late = (uint32_t)late;
    t->comparator += (late / t->period + 1) * t->period;
    if (t->config & T_32)
        t->comparator = (uint32_t)t->comparator;
}

static void settle(struct mon_hpet *hpet, uint64_t now)
{
    uint64_t counter = counter_at(hpet, now);
    hpet->deadline = MON_NEVER;
    for (unsigned n = 0; n < MON_HPET_TIMERS; n++) {
        struct mon_hpet_timer *t = &hpet->timer[n];
        advance(t, counter);
        uint64_t ticks = distance(t, counter);
        bool runs = is_enabled(hpet) && t->config & (T_INTERRUPT | T_LEVEL);
        /* Beyond the clock's range, or just passed: 64 bits come round in 5,800 years. */
        t->deadline = runs && ticks < (MON_NEVER - now) / MON_HPET_TICK_NS - 1
                          ? hpet->origin + (counter - hpet->counter + ticks) * MON_HPET_TICK_NS
                          : MON_NEVER;
        if (t->deadline < hpet->deadline)
            hpet->deadline = t->deadline;
    }
}

void mon_hpet_update(struct mon_hpet *hpet, uint64_t now)
{
    if (now < hpet->deadline)
        return;
    for (unsigned n = 0; n < MON_HPET_TIMERS; n++) {
        if (now < hpet->timer[n].deadline)
            continue;
        match(hpet, n);
    }
    settle(hpet, now);
}

/* --- Registers ---------------------------------------------------------------------------------*/

static uint64_t timer_capabilities(unsigned n)
{
    return (uint64_t)MON_HPET_PINS << 32 | T_CAN_64 | (n == 0 ? T_CAN_PERIODIC : 0);
}

static uint64_t read_timer(const struct mon_hpet *hpet, unsigned n, unsigned reg)
{
    switch (reg) {
    case TIMER_CONFIG:
        return hpet->timer[n].config | timer_capabilities(n);
    case TIMER_COMPARATOR:
        return hpet->timer[n].comparator;
    default: /* the FSB route */
        return 0;
    }
}

static uint64_t read_register(const struct mon_hpet *hpet, unsigned reg, uint64_t now)
{
    unsigned n = (reg - REG_TIMERS) / 0x20;
    if (reg >= REG_TIMERS)
        return n < MON_HPET_TIMERS ? read_timer(hpet, n, reg & 0x18) : 0;
    switch (reg) {
    case REG_CAPABILITIES:
        return PERIOD_FS << 32 | MON_HPET_ID;
    case REG_CONFIG:
        return hpet->config;
    case REG_STATUS:
        return hpet->status;
    case REG_COUNTER:
        return counter_at(hpet, now);
    default:
        return 0;
    }
}

static void write_timer_config(struct mon_hpet *hpet, unsigned n, uint64_t value)
{
    struct mon_hpet_timer *t = &hpet->timer[n];
    uint64_t writable = n == 0 ? T_WRITABLE : T_WRITABLE & ~(T_PERIODIC | T_SET_VALUE);

    release(hpet, n);
    t->config = value & writable;
    if (t->config & T_32) {
        t->comparator = (uint32_t)t->comparator;
        t->period = (uint32_t)t->period;
    }
    if (hpet->status >> n & 1 && t->config & T_LEVEL && t->config & T_INTERRUPT)
        drive(hpet, n, true);
}

/* In periodic mode a write sets the period, and the comparator only after T_SET_VALUE (2.3.9.2.2).
 */
static void write_comparator(struct mon_hpet_timer *t, uint64_t value)
{
    if (t->config & T_32)
        value = (uint32_t)value;
    if (!is_periodic(t) || t->config & T_SET_VALUE)
        t->comparator = value;
    if (is_periodic(t) && !(t->config & T_SET_VALUE))
        t->period = value;
    t->config &= ~(uint64_t)T_SET_VALUE;
}

static void write_config(struct mon_hpet *hpet, uint64_t value, uint64_t now)
{
    hpet->counter = counter_at(hpet, now); /* goes on from here, or stands */
    hpet->origin = now;
    for (unsigned n = 0; n < MON_HPET_TIMERS; n++)
        release(hpet, n);
    hpet->config = value & CONFIG_BITS;
}

static void write_status(struct mon_hpet *hpet, uint64_t value)
{
    for (unsigned n = 0; n < MON_HPET_TIMERS; n++)
        if (value >> n & 1 && hpet->timer[n].config & T_LEVEL)
            release(hpet, n);
    hpet->status &= ~value; /* write 1 to clear */
}

static void write_register(struct mon_hpet *hpet, unsigned reg, uint64_t value, uint64_t now)
{
    unsigned n = (reg - REG_TIMERS) / 0x20;
    if (reg >= REG_TIMERS && n < MON_HPET_TIMERS) {
        if ((reg & 0x18) == TIMER_CONFIG)
            write_timer_config(hpet, n, value);
        else if ((reg & 0x18) == TIMER_COMPARATOR)
            write_comparator(&hpet->timer[n], value);
    } else if (reg == REG_CONFIG) {
        write_config(hpet, value, now);
    } else if (reg == REG_STATUS) {
        write_status(hpet, value);
    } else if (reg == REG_COUNTER && !is_enabled(hpet)) {
        hpet->counter = value;
    }
}

static uint64_t mmio_read(void *device, uint64_t offset, unsigned size)
{
    (void)size;
    struct mon_hpet *hpet = device;
    uint64_t now = mon_clock_now(hpet->clock);

    mon_hpet_update(hpet, now);
    return read_register(hpet, (unsigned)offset & ~7u, now) >> 8 * (offset & 7);
}

/* What a write of a part of a register leaves as it is. Status bits are cleared by ones. */
static uint64_t old_value(const struct mon_hpet *hpet, unsigned reg, uint64_t now)
{
    const struct mon_hpet_timer *t = &hpet->timer[0]; /* the periodic one */
    if (reg == REG_STATUS)
        return 0;
    if (reg == REG_TIMERS + TIMER_COMPARATOR && is_periodic(t) && !(t->config & T_SET_VALUE))
        return t->period;
    return read_register(hpet, reg, now);
}

static void mmio_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct mon_hpet *hpet = device;
    uint64_t now = mon_clock_now(hpet->clock);
    unsigned reg = (unsigned)offset & ~7u, shift = 8 * (offset & 7);

    mon_hpet_update(hpet, now);
    if (size < 8) {
        uint64_t mask = (uint64_t)MON_ABSENT(size) << shift;
        uint64_t old = old_value(hpet, reg, now);
        value = (old & ~mask) | (value << shift & mask);
    }
    write_register(hpet, reg, value, now);
    settle(hpet, now);
}

const struct mon_mmio_ops mon_hpet_mmio = {"hpet", mmio_read, mmio_write};

void mon_hpet_init(struct mon_hpet *hpet, const struct mon_clock *clock, struct mon_irq pin,
                   struct mon_irq legacy)
{
    memset(hpet, 0, sizeof(*hpet));
    hpet->clock = clock;
    hpet->pin = pin;
    hpet->legacy = legacy;
    hpet->deadline = MON_NEVER;
    for (unsigned n = 0; n < MON_HPET_TIMERS; n++) {
        hpet->timer[n].comparator = UINT64_MAX;
        hpet->timer[n].deadline = MON_NEVER;
    }
}
