/* acpi_pm.c - ACPI's fixed hardware; see acpi_pm.h.
 *
 * Called with the machine's lock held. */
#include "monitor/devices/acpi_pm.h"

#include <string.h>

enum {
    TMR_STS = 1 << 0,
    TMR_EN = 1 << 0,
    SCI_EN = 1 << 0,
    CONTROL_BITS = 0x1c03, /* SCI_EN, BM_RLD, SLP_TYP; GBL_RLS and SLP_EN read 0 */
    SLP_TYP_SHIFT = 10,
    SLP_EN = 1 << 13,
};

#define TIMER_HALF (1u << 23) /* TMR_STS is set whenever the top bit of 24 changes */

static uint64_t ticks_at(uint64_t now)
{
    return mon_muldiv(now, MON_ACPI_PM_TIMER_HZ, MON_NS_PER_S);
}

/* Brings TMR_STS up to now and sets the SCI. */
static void account(struct mon_acpi_pm *pm, uint64_t now)
{
    uint64_t ticks = ticks_at(now);
    if (ticks / TIMER_HALF != pm->seen / TIMER_HALF)
        pm->status |= TMR_STS;
    pm->seen = ticks;
    mon_irq_set(&pm->irq, pm->status & pm->enable & TMR_STS);

    pm->deadline = MON_NEVER;
    if (pm->enable & TMR_EN && !(pm->status & TMR_STS))
        pm->deadline = mon_muldiv_up((ticks / TIMER_HALF + 1) * TIMER_HALF, MON_NS_PER_S,
                                     MON_ACPI_PM_TIMER_HZ);
}

void mon_acpi_pm_update(struct mon_acpi_pm *pm, uint64_t now)
{
    if (now >= pm->deadline)
        account(pm, now);
}

/* A byte of a 16-bit register: the shift of the accessed part, and that part replaced. */
static unsigned byte_shift(uint16_t port)
{
    return 8 * (port & 1);
}

static uint16_t merge(uint16_t reg, uint16_t port, unsigned size, uint32_t value)
{
    uint32_t mask = MON_ABSENT(size) << byte_shift(port);
    return (uint16_t)((reg & ~mask) | (value << byte_shift(port) & mask));
}

static uint32_t event_read(void *device, uint16_t port, unsigned size)
{
    (void)size;
    struct mon_acpi_pm *pm = device;
    account(pm, mon_clock_now(pm->clock));
    return (uint32_t)(port & 2 ? pm->enable : pm->status) >> byte_shift(port);
}

static void event_write(void *device, uint16_t port, unsigned size, uint32_t value)
{
    struct mon_acpi_pm *pm = device;
    uint64_t now = mon_clock_now(pm->clock);

    account(pm, now);
    if (port & 2)
        pm->enable = merge(pm->enable, port, size, value);
    else
        pm->status &= (uint16_t) ~(value << byte_shift(port)); /* write 1 to clear */
    account(pm, now);
}

static uint32_t control_read(void *device, uint16_t port, unsigned size)
{
    (void)size;
    struct mon_acpi_pm *pm = device;
    return (uint32_t)pm->control >> byte_shift(port);
}

static void control_write(void *device, uint16_t port, unsigned size, uint32_t value)
{
    struct mon_acpi_pm *pm = device;
    uint16_t control = merge(pm->control, port, size, value);

    pm->control = (control & CONTROL_BITS) | SCI_EN;
    if (control & SLP_EN && (control >> SLP_TYP_SHIFT & 7) == MON_ACPI_S5)
        mon_request_make(pm->request, MON_REQUEST_POWER_OFF, 0, "ACPI S5");
}

static uint32_t timer_read(void *device, uint16_t port, unsigned size)
{
    (void)size;
    struct mon_acpi_pm *pm = device;
    uint32_t ticks = (uint32_t)(ticks_at(mon_clock_now(pm->clock)) & (2 * TIMER_HALF - 1));
    return ticks >> 8 * (port & 3);
}

void mon_acpi_pm_init(struct mon_acpi_pm *pm, const struct mon_clock *clock, struct mon_irq irq,
                      struct mon_request *request)
{
    memset(pm, 0, sizeof(*pm));
    pm->control = SCI_EN;
    pm->deadline = MON_NEVER;
    pm->clock = clock;
    pm->irq = irq;
    pm->request = request;
}

bool mon_acpi_pm_add_ports(struct mon_acpi_pm *pm, struct mon_bus *bus)
{
    static const struct mon_port_ops event_ops = {"acpi-event", 2, event_read, event_write};
    static const struct mon_port_ops control_ops = {"acpi-control", 2, control_read, control_write};
    static const struct mon_port_ops timer_ops = {"acpi-timer", 4, timer_read, NULL};
    return mon_bus_add_ports(bus, MON_ACPI_PM1_EVENT, 4, &event_ops, pm) &&
           mon_bus_add_ports(bus, MON_ACPI_PM1_CONTROL, 2, &control_ops, pm) &&
           mon_bus_add_ports(bus, MON_ACPI_PM_TIMER, 4, &timer_ops, pm);
}
