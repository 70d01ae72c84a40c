/* devices_ioapic_test.c - the I/O APIC: entries, edges, levels with remote IRR, and the wiring. */
#include "tests/unit/devices_fixture.h"

#include "monitor/devices/pc.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>

#define LEVEL  (1u << 15)
#define REMOTE (1u << 14)
#define MASKED (1u << 16)

static struct mon_pc pc;
static struct hand_clock hand;
static unsigned nmis;

static void on_nmi(void *opaque)
{
    (void)opaque;
    nmis++;
}

static uint32_t get(unsigned reg)
{
    mon_pc_mmio_write(&pc, MON_IOAPIC_ADDRESS, 4, reg);
    return (uint32_t)mon_pc_mmio_read(&pc, MON_IOAPIC_ADDRESS + 0x10, 4);
}
static void put(unsigned reg, uint32_t value)
{
    mon_pc_mmio_write(&pc, MON_IOAPIC_ADDRESS, 4, reg);
    mon_pc_mmio_write(&pc, MON_IOAPIC_ADDRESS + 0x10, 4, value);
}
static void entry(unsigned pin, uint32_t low)
{
    put(0x11 + 2 * pin, 0);
    put(0x10 + 2 * pin, low);
}
static void apic_put(unsigned reg, uint32_t value)
{
    mon_pc_mmio_write(&pc, MON_LAPIC_ADDRESS + (reg << 4), 4, value);
}
static int take(void)
{
    if (!mon_pc_has_interrupt(&pc))
        return -1;
    return mon_pc_acknowledge(&pc);
}
static void eoi(void)
{
    apic_put(0x0b, 0);
}

static void setup(void)
{
    struct mon_pc_config config = {
        .clock = {hand_clock_now, &hand},
        .tsc = {hand_clock_now, &hand},
        .tsc_khz = 1000000,
        .apic_khz = 25000,
        .nmi = on_nmi,
        .debug_exit_port = -1,
    };
    hand.now = 1000000000;
    cr_assert(mon_pc_init(&pc, &config));
    apic_put(0x35, 0x10700); /* LINT0 masked */
}

TestSuite(devices_ioapic, .init = setup, .timeout = 10);

Test(devices_ioapic, registers)
{
    cr_assert_eq(get(0), 1u << 24);
    cr_assert_eq(get(1), 0x00170011);
    cr_assert_eq(get(2), 1u << 24);
    cr_assert_eq(get(3), 0);
    cr_assert_eq(get(0x40), 0);
    for (unsigned pin = 0; pin < 24; pin++)
        cr_assert_eq(get(0x10 + 2 * pin), MASKED);
    put(0, 0xffffffff);
    cr_assert_eq(get(0), 0x0f000000);
    put(0x10 + 2 * 23, 0xffffffff);
    put(0x11 + 2 * 23, 0xffffffff);
    cr_assert_eq(get(0x10 + 2 * 23), 0x1afff, "delivery status and remote IRR are read-only");
    cr_assert_eq(get(0x11 + 2 * 23), 0xff000000);
    cr_assert_eq(mon_pc_mmio_read(&pc, MON_IOAPIC_ADDRESS, 1), 0x11 + 2 * 23);
}

Test(devices_ioapic, edges_are_sent_once_and_lost_while_masked)
{
    entry(5, 0x45 | MASKED);
    mon_ioapic_set_pin(&pc.ioapic, 5, true);
    entry(5, 0x45);
    cr_assert_eq(take(), -1);
    mon_ioapic_set_pin(&pc.ioapic, 5, false);
    mon_ioapic_set_pin(&pc.ioapic, 5, true);
    mon_ioapic_set_pin(&pc.ioapic, 5, true);
    cr_assert_eq(take(), 0x45);
    eoi();
    cr_assert_eq(take(), -1);
}

Test(devices_ioapic, levels_come_again_until_they_end)
{
    entry(9, 0x49 | LEVEL | MASKED);
    mon_ioapic_set_pin(&pc.ioapic, 9, true);
    cr_assert_eq(take(), -1);
    entry(9, 0x49 | LEVEL);
    cr_assert_eq(get(0x10 + 18), 0x49 | LEVEL | REMOTE);
    cr_assert_eq(take(), 0x49);
    cr_assert_eq(take(), -1);
    eoi();
    cr_assert_eq(take(), 0x49, "still up");
    mon_ioapic_set_pin(&pc.ioapic, 9, false);
    cr_assert_eq(get(0x10 + 18), 0x49 | LEVEL | REMOTE);
    eoi();
    cr_assert_eq(get(0x10 + 18), 0x49 | LEVEL);
    cr_assert_eq(take(), -1);
}

Test(devices_ioapic, becoming_an_edge_clears_remote_irr)
{
    entry(9, 0x49 | LEVEL);
    mon_ioapic_set_pin(&pc.ioapic, 9, true);
    cr_assert(get(0x10 + 18) & REMOTE);
    put(0x10 + 18, 0x49 | MASKED);
    cr_assert_not(get(0x10 + 18) & REMOTE);
}

Test(devices_ioapic, ends_of_other_vectors_change_nothing)
{
    entry(9, 0x49 | LEVEL);
    entry(10, 0x4a | LEVEL);
    mon_ioapic_set_pin(&pc.ioapic, 9, true);
    mon_ioapic_set_pin(&pc.ioapic, 10, true);
    cr_assert_eq(take(), 0x4a);
    mon_ioapic_set_pin(&pc.ioapic, 10, false);
    eoi();
    cr_assert(get(0x10 + 18) & REMOTE);
    cr_assert_not(get(0x10 + 20) & REMOTE);
}

Test(devices_ioapic, what_nobody_takes_has_no_remote_irr)
{
    put(0x11 + 18, 0x07000000);
    put(0x10 + 18, 0x49 | LEVEL);
    mon_ioapic_set_pin(&pc.ioapic, 9, true);
    cr_assert_eq(get(0x10 + 18), 0x49 | LEVEL);
    put(0x11 + 18, 0);
    put(0x10 + 18, 0x49 | LEVEL);
    cr_assert_eq(take(), 0x49);
}

Test(devices_ioapic, an_nmi_has_no_vector)
{
    entry(20, 0x400);
    mon_ioapic_set_pin(&pc.ioapic, 20, true);
    cr_assert_eq(nmis, 1);
    cr_assert_eq(take(), -1);
}

/* The PIT at pin 2, and at the 8259's input 0 at the same time. */
Test(devices_ioapic, irq_0_is_at_pin_2_and_at_the_8259)
{
    mon_pc_out(&pc, 0x43, 1, 0x34);
    mon_pc_out(&pc, 0x40, 1, 0xa9);
    mon_pc_out(&pc, 0x40, 1, 0x04);
    entry(2, 0x30); /* after the edge that the new mode's output makes */
    uint64_t deadline = mon_pc_deadline(&pc);
    cr_assert(deadline > hand.now && deadline < hand.now + 1100000);
    hand.now = deadline;
    mon_pc_update(&pc, hand.now);
    cr_assert_eq(take(), 0x30);
    eoi();
    cr_assert(pc.pic.chip[0].irr & 1);
    entry(2, 0x30 | MASKED);
    cr_assert_eq(mon_pc_deadline(&pc), MON_NEVER, "masked in both: nobody would notice");
}

Test(devices_ioapic, the_8259_comes_through_lint0_or_pin_0)
{
    mon_pc_out(&pc, 0x20, 1, 0x11);
    mon_pc_out(&pc, 0x21, 1, 0x20);
    mon_pc_out(&pc, 0x21, 1, 4);
    mon_pc_out(&pc, 0x21, 1, 1);
    mon_pc_out(&pc, 0x21, 1, 0xef);
    mon_pic_set_line(&pc.pic, 4, true);
    cr_assert_eq(take(), -1);
    apic_put(0x35, 0x700);
    cr_assert(mon_pc_has_interrupt(&pc));
    apic_put(0x35, 0x10700);
    cr_assert_not(mon_pc_has_interrupt(&pc));
    entry(0, 0x700);
    cr_assert_eq(take(), 0x24);
}

Test(devices_ioapic, moving_the_local_apic_moves_its_page)
{
    cr_assert_eq(mon_pc_mmio_read(&pc, MON_LAPIC_ADDRESS + 0x30, 4), 0x00050014);
    mon_pc_set_apic_base(&pc, 0xfe000000 | MON_LAPIC_ENABLED);
    cr_assert_eq(mon_pc_mmio_read(&pc, 0xfe000030, 4), 0x00050014);
    cr_assert_eq((uint32_t)mon_pc_mmio_read(&pc, MON_LAPIC_ADDRESS + 0x30, 4), 0xffffffff);
    mon_pc_reset(&pc);
    cr_assert_eq(mon_pc_mmio_read(&pc, MON_LAPIC_ADDRESS + 0x30, 4), 0x00050014);
}

Test(devices_ioapic, init_to_itself_asks_for_a_reset)
{
    apic_put(0x30, 0x4500);
    cr_assert_eq(pc.request.kind, MON_REQUEST_RESET);
}
