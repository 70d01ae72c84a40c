/* irq64.c - interrupts that reach the local APIC from outside.
 *
 * The 8259 through LINT0 (SDM 3A 10.5.1); the I/O APIC's entries, edges and levels (82093AA data
 * sheet); the HPET in place of the PIT (IA-PC HPET 1.0a). In xAPIC and x2APIC mode.
 */
#include "apic.h"

const char guest_name[] = "irq64";

/* --- The 8259 through LINT0 ----------------------------------------------------------------------
 */

static void virtual_wire_cases(void)
{
    UNLESS_QEMU(APIC_LINT0)
    {
        pic_init(1);
        pit_start(1193);
        window_long(5000000);
        EXPECT("LINT0 masked");
        apic_write(LVT_LINT0, EXTINT);
        window();
        EQ(seen_count >= 1 && seen[0] == 0x20, 1); /* it has waited */
        pit_stop();
        forget();
    }
    apic_write(LVT_LINT0, EXTINT);
    pic_init(1);
    pit_start(1193);
    wait_for(3);
    EQ(seen_count >= 3 && seen[0] == 0x20 && seen[2] == 0x20, 1);
    EQ(apic(ISR + 1), 0);
    pit_stop();
    pic_init(0);
    apic_write(LVT_LINT0, MASKED | EXTINT);
}

static void virtual_wire(void)
{
    in_both_modes(virtual_wire_cases);
}

/* --- I/O APIC ------------------------------------------------------------------------------------
 */

static void pit_mode_0(uint16_t count)
{
    outb(0x43, 0x30);
    outb(0x40, (uint8_t)count);
    outb(0x40, (uint8_t)(count >> 8));
}

static void edges(void)
{
    pin_write(0x15, (cpuid(1, 0).ebx >> 24) << 24);
    pin_write(0x14, MASKED | PIT_VECTOR);
    pit_start(1193);
    window_long(5000000);
    EXPECT("masked pin");
    pin_write(0x14, PIT_VECTOR);
    wait_for(3);
    EQ(seen_count >= 3 && seen[0] == PIT_VECTOR && seen[2] == PIT_VECTOR, 1);
    EQ(apic(TMR + PIT_VECTOR / 32) >> PIT_VECTOR % 32 & 1, 0);
    pin_write(0x14, MASKED | PIT_VECTOR);
    pit_stop();
    window();
    forget();
}

/* PIT mode 0: low until the count has run out, then high. */
static void levels(void)
{
    pit_mode_0(0xffff); /* low for 55 ms */
    pin_write(0x14, LEVEL | PIT_VECTOR);
    window();
    EXPECT("low");
    EQ(pin(0x14), LEVEL | PIT_VECTOR);
    end_by_hand = true;
    pit_mode_0(100);
    wait_for(1);
    EXPECT("high", PIT_VECTOR);
    EQ(pin(0x14), LEVEL | 1 << 14 | PIT_VECTOR);
    EQ(apic(TMR + PIT_VECTOR / 32) >> PIT_VECTOR % 32 & 1, 1);
    window_long(1000000);
    EXPECT("once until its end", PIT_VECTOR);
    apic_write(EOI, 0);
    window();
    EXPECT("still high", PIT_VECTOR, PIT_VECTOR);
    pit_mode_0(0xffff);
    apic_write(EOI, 0);
    window_long(1000000);
    EXPECT("low again", PIT_VECTOR, PIT_VECTOR);
    EQ(pin(0x14), LEVEL | PIT_VECTOR);
    pin_write(0x14, MASKED | PIT_VECTOR);
    end_by_hand = false;
}

static void ioapic_cases(void)
{
    EQ((pin(1) & 0xff) == 0x11 || (pin(1) & 0xff) == 0x20, 1);
    EQ(pin(1) >> 16 & 0xff, 23);
    EQ(pin(0x10) & MASKED, MASKED);
    pic_init(0);
    edges();
    forget();
    levels();
    pit_stop();
}

static void ioapic(void)
{
    in_both_modes(ioapic_cases);
}

/* --- HPET ----------------------------------------------------------------------------------------
 */

static void hpet(void)
{
    map_devices();
    start();
    pic_init(0);
    uint64_t period = mmio(HPET + 4); /* fs */
    EQ(period > 0 && period <= 100000000, 1);
    mmio_write(HPET + 0x10, 0);
    mmio_write(HPET + 0xf0, 0);
    mmio_write(HPET + 0xf4, 0);
    mmio_write(HPET + 0x10, 3); /* on, timer 0 is IRQ 0 */
    uint32_t before = mmio(HPET + 0xf0);
    for (int i = 0; i < 10000; i++)
        __asm__ volatile("pause");
    EQ(mmio(HPET + 0xf0) > before, 1);
    pin_write(0x15, (cpuid(1, 0).ebx >> 24) << 24);
    pin_write(0x14, PIT_VECTOR);
    mmio_write(HPET + 0x100, 1 << 2 | 1 << 8); /* one-shot, 32 bits */
    mmio_write(HPET + 0x108, mmio(HPET + 0xf0) + (uint32_t)(30000000000000 / period)); /* 30 ms */
    wait_for(1);
    EXPECT("HPET one-shot", PIT_VECTOR);
    forget();
    mmio_write(HPET + 0x100, 1 << 2 | 1 << 3 | 1 << 6 | 1 << 8); /* periodic */
    mmio_write(HPET + 0x108, mmio(HPET + 0xf0) + (uint32_t)(1000000000000 / period));
    mmio_write(HPET + 0x108, (uint32_t)(500000000000 / period));
    wait_for(4);
    EQ(seen_count >= 4, 1);
    mmio_write(HPET + 0x100, 0);
    mmio_write(HPET + 0x10, 0);
    pin_write(0x14, MASKED | PIT_VECTOR);
    window();
    stop();
}

void guest_main(void)
{
    pit_stop();
    GROUP(virtual_wire);
    GROUP(ioapic);
    GROUP(hpet);
}
