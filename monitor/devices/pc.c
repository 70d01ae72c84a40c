/* pc.c - the board; see pc.h.
 *
 * Called with the machine's lock held. */
#include "monitor/devices/pc.h"

#include <string.h>

enum { IRQ_PIT = 0, IRQ_KEYBOARD = 1, IRQ_COM1 = 4, IRQ_RTC = 8 };

/* --- Interrupts --------------------------------------------------------------------------------*/

static unsigned pin_of(unsigned line)
{
    return line == IRQ_PIT ? MON_IOAPIC_TIMER : line;
}

static void set_isa(void *opaque, unsigned line, bool level)
{
    struct mon_pc *pc = opaque;
    mon_pic_set_line(&pc->pic, line, level);
    mon_ioapic_set_pin(&pc->ioapic, pin_of(line), level);
}

/* The PIT and the RTC, unless the HPET is in their place. */
static void set_timer(void *opaque, unsigned line, bool level)
{
    struct mon_pc *pc = opaque;
    if (!mon_hpet_is_legacy(&pc->hpet))
        set_isa(pc, line, level);
}

static struct mon_irq irq_line(struct mon_pc *pc, unsigned line)
{
    bool is_timer = line == IRQ_PIT || line == IRQ_RTC;
    return (struct mon_irq){is_timer ? set_timer : set_isa, pc, line};
}

static bool has_extint(const struct mon_pc *pc)
{
    return mon_pic_has_interrupt(&pc->pic) &&
           (mon_lapic_takes_extint(&pc->lapic) || mon_ioapic_takes_extint(&pc->ioapic));
}

bool mon_pc_has_interrupt(const struct mon_pc *pc)
{
    return has_extint(pc) || mon_lapic_pending(&pc->lapic) >= 0;
}

bool mon_pc_may_have_interrupt(const struct mon_pc *pc)
{
    return has_extint(pc) || mon_lapic_pending_above_isr(&pc->lapic) >= 0;
}

uint8_t mon_pc_acknowledge(struct mon_pc *pc)
{
    return has_extint(pc) ? mon_pic_acknowledge(&pc->pic) : mon_lapic_acknowledge(&pc->lapic);
}

static void end_of_level(void *opaque, uint8_t vector)
{
    mon_ioapic_eoi(&((struct mon_pc *)opaque)->ioapic, vector);
}

static void send_nmi(void *opaque)
{
    struct mon_pc *pc = opaque;
    if (pc->config.nmi)
        pc->config.nmi(pc->config.nmi_opaque);
}

static void send_init(void *opaque)
{
    mon_request_make(&((struct mon_pc *)opaque)->request, MON_REQUEST_RESET, 0, "INIT to itself");
}

static void reset_apics(struct mon_pc *pc)
{
    struct mon_lapic_wiring wiring = {
        .clock = &pc->config.clock,
        .tsc = pc->config.tsc,
        .tsc_khz = pc->config.tsc_khz,
        .apic_khz = pc->config.apic_khz,
        .nmi = send_nmi,
        .init = send_init,
        .eoi = end_of_level,
        .opaque = pc,
    };
    mon_lapic_init(&pc->lapic, &wiring);
    mon_lapic_virtual_wire(&pc->lapic);
    mon_bus_move_mmio(&pc->bus, &pc->lapic, MON_LAPIC_ADDRESS);
    mon_ioapic_init(&pc->ioapic, &pc->lapic);
}

void mon_pc_set_apic_base(struct mon_pc *pc, uint64_t base)
{
    mon_lapic_set_base(&pc->lapic, base);
    mon_bus_move_mmio(&pc->bus, &pc->lapic, base & ~0xfffull);
}

bool mon_pc_read_msr(struct mon_pc *pc, uint32_t index, uint64_t *value)
{
    mon_pc_update(pc, mon_clock_now(&pc->config.clock));
    return mon_lapic_read_msr(&pc->lapic, index, value);
}

bool mon_pc_write_msr(struct mon_pc *pc, uint32_t index, uint64_t value)
{
    return mon_lapic_write_msr(&pc->lapic, index, value);
}

/* --- The board ---------------------------------------------------------------------------------*/

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
    reset_apics(pc);
    mon_hpet_init(&pc->hpet, clock, (struct mon_irq){mon_ioapic_set_pin, &pc->ioapic, 0},
                  (struct mon_irq){set_isa, pc, 0});
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

    bool ok =
        mon_pic_add_ports(&pc->pic, &pc->bus) && mon_pit_add_ports(&pc->pit, &pc->bus) &&
        mon_rtc_add_ports(&pc->rtc, &pc->bus) && mon_uart_add_ports(&pc->uart, &pc->bus) &&
        mon_i8042_add_ports(&pc->i8042, &pc->bus) && mon_sysctl_add_ports(&pc->sysctl, &pc->bus) &&
        mon_acpi_pm_add_ports(&pc->acpi_pm, &pc->bus) &&
        mon_bus_add_mmio(&pc->bus, MON_LAPIC_ADDRESS, MON_LAPIC_SIZE, &mon_lapic_mmio,
                         &pc->lapic) &&
        mon_bus_add_mmio(&pc->bus, MON_IOAPIC_ADDRESS, MON_IOAPIC_SIZE, &mon_ioapic_mmio,
                         &pc->ioapic) &&
        mon_bus_add_mmio(&pc->bus, MON_HPET_ADDRESS, MON_HPET_SIZE, &mon_hpet_mmio, &pc->hpet);
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
    mon_hpet_update(&pc->hpet, now);
    mon_lapic_update(&pc->lapic, now);
}

/* A timer tick that no controller would take is not worth waking up for. */
static bool pit_is_useful(const struct mon_pc *pc)
{
    return !mon_hpet_is_legacy(&pc->hpet) &&
           (mon_pic_line_is_useful(&pc->pic, IRQ_PIT) ||
            mon_ioapic_pin_is_useful(&pc->ioapic, MON_IOAPIC_TIMER));
}

uint64_t mon_pc_deadline(const struct mon_pc *pc)
{
    uint64_t deadline = mon_lapic_deadline(&pc->lapic);
    if (pc->pit.deadline < deadline && pit_is_useful(pc))
        deadline = pc->pit.deadline;
    if (pc->hpet.deadline < deadline)
        deadline = pc->hpet.deadline;
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

/* The same goes for the local APIC, and nothing behind MMIO is often used. */
uint64_t mon_pc_mmio_read(struct mon_pc *pc, uint64_t gpa, unsigned size)
{
    mon_pc_update(pc, mon_clock_now(&pc->config.clock));
    return mon_bus_mmio_read(&pc->bus, gpa, size);
}

void mon_pc_mmio_write(struct mon_pc *pc, uint64_t gpa, unsigned size, uint64_t value)
{
    mon_pc_update(pc, mon_clock_now(&pc->config.clock));
    mon_bus_mmio_write(&pc->bus, gpa, size, value);
}
