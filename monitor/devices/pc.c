/* pc.c - the board; see pc.h.
 *
 * Called with the machine's lock held. */
#include "monitor/devices/pc.h"

#include <string.h>

enum { IRQ_PIT = 0, IRQ_KEYBOARD = 1, IRQ_COM1 = 4, IRQ_RTC = 8 };

static struct mon_irq irq_line(struct mon_pc *pc, unsigned line)
{
    return (struct mon_irq){mon_pic_set_line, &pc->pic, line};
}

/* A fresh state must not drop the time of day that the guest has set. */
static void reset_rtc(struct mon_pc *pc)
{
    struct mon_rtc old = pc->rtc;
    mon_rtc_init(&pc->rtc, &pc->config.clock, irq_line(pc, IRQ_RTC), pc->config.wall_ns);
    if (old.clock) {
        pc->rtc.offset = old.offset;
        pc->rtc.seen = old.seen;
    }
    mon_rtc_set_memory(&pc->rtc, pc->config.ram_below_4g, pc->config.ram_above_4g);
}

void mon_pc_reset(struct mon_pc *pc)
{
    const struct mon_clock *clock = &pc->config.clock;
    struct mon_request *request = &pc->request;

    mon_pic_init(&pc->pic);
    mon_pit_init(&pc->pit, clock, irq_line(pc, IRQ_PIT));
    reset_rtc(pc);
    mon_uart_init(&pc->uart, clock, irq_line(pc, IRQ_COM1), pc->config.line);
    mon_i8042_init(&pc->i8042, irq_line(pc, IRQ_KEYBOARD), request);
    mon_sysctl_init(&pc->sysctl, request);
    mon_acpi_pm_init(&pc->acpi_pm, clock, irq_line(pc, MON_ACPI_SCI), request);
    *request = (struct mon_request){0};
}

bool mon_pc_init(struct mon_pc *pc, const struct mon_pc_config *config)
{
    memset(pc, 0, sizeof(*pc));
    pc->config = *config;
    mon_bus_init(&pc->bus);
    mon_pc_reset(pc);

    bool ok = mon_pic_add_ports(&pc->pic, &pc->bus) && mon_pit_add_ports(&pc->pit, &pc->bus) &&
              mon_rtc_add_ports(&pc->rtc, &pc->bus) && mon_uart_add_ports(&pc->uart, &pc->bus) &&
              mon_i8042_add_ports(&pc->i8042, &pc->bus) &&
              mon_sysctl_add_ports(&pc->sysctl, &pc->bus) &&
              mon_acpi_pm_add_ports(&pc->acpi_pm, &pc->bus);
    if (ok && config->debug_exit_port >= 0)
        ok = mon_sysctl_add_debug_exit(&pc->sysctl, &pc->bus, (uint16_t)config->debug_exit_port);
    return ok;
}

void mon_pc_update(struct mon_pc *pc, uint64_t now)
{
    mon_pit_update(&pc->pit, now);
    mon_rtc_update(&pc->rtc, now);
    mon_uart_update(&pc->uart, now);
    mon_acpi_pm_update(&pc->acpi_pm, now);
}

uint64_t mon_pc_deadline(const struct mon_pc *pc)
{
    uint64_t deadline = MON_NEVER;
    if (mon_pic_line_is_useful(&pc->pic, IRQ_PIT))
        deadline = pc->pit.deadline;
    if (pc->rtc.deadline < deadline)
        deadline = pc->rtc.deadline;
    if (pc->uart.deadline < deadline)
        deadline = pc->uart.deadline;
    if (pc->acpi_pm.deadline < deadline)
        deadline = pc->acpi_pm.deadline;
    return deadline;
}

/* The interrupt controllers show and act on requests of the others: these must be up to date. */
static bool port_is_pic(uint16_t port)
{
    return (port & 0xff7e) == 0x0020 || (port & 0xfffe) == 0x04d0;
}

uint32_t mon_pc_in(struct mon_pc *pc, uint16_t port, unsigned size)
{
    if (port_is_pic(port))
        mon_pc_update(pc, mon_clock_now(&pc->config.clock));
    return mon_bus_in(&pc->bus, port, size);
}

void mon_pc_out(struct mon_pc *pc, uint16_t port, unsigned size, uint32_t value)
{
    if (port_is_pic(port))
        mon_pc_update(pc, mon_clock_now(&pc->config.clock));
    mon_bus_out(&pc->bus, port, size, value);
}
