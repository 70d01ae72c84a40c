/* apic.h - the interrupt controllers' registers, and what apic64.c and irq64.c note of interrupts.
 *
 * The PIT's output is at the I/O APIC's pin 2. A group of cases runs between start() and stop(), or
 * in both of the local APIC's modes (in_both_modes); it ends in xAPIC mode with LINT0 as firmware
 * left it.
 */
#ifndef NOVT_TESTS_GUEST64_APIC_H
#define NOVT_TESTS_GUEST64_APIC_H

#include "guest64.h"

#define LAPIC          0xfee00000u
#define IOAPIC         0xfec00000u
#define HPET           0xfed00000u
#define MSR_APIC_BASE  0x1bu
#define MSR_DEADLINE   0x6e0u
#define MSR_TSC_ADJUST 0x3bu
#define BASE_X2        (1ull << 10)
#define BASE_ENABLED   (1ull << 11)

enum {
    APIC_ID = 0x02,
    VERSION = 0x03,
    TPR = 0x08,
    PPR = 0x0a,
    EOI = 0x0b,
    LDR = 0x0d,
    DFR = 0x0e,
    SVR = 0x0f,
    ISR = 0x10,
    TMR = 0x18,
    IRR = 0x20,
    ESR = 0x28,
    ICR = 0x30,
    ICR_HIGH = 0x31,
    LVT_TIMER = 0x32,
    LVT_LINT0 = 0x35,
    LVT_LINT1 = 0x36,
    LVT_ERROR = 0x37,
    INITIAL = 0x38,
    CURRENT = 0x39,
    DCR = 0x3e,
    SELF_IPI = 0x3f
};
enum { EXTINT = 0x700, NMI_MODE = 0x400, MASKED = 1 << 16, PERIODIC = 1 << 17, BY_TSC = 1 << 18 };
enum { SELF = 1 << 18, ALL = 2 << 18, OTHERS = 3 << 18, LOGICAL = 1 << 11, LEVEL = 1 << 15 };
enum { SPURIOUS = 0xef, PIT_VECTOR = 0x61 };

static bool x2;
static uint32_t seen[64], seen_count;
static uint64_t seen_rip;
static bool end_by_hand;
static void (*in_handler)(uint64_t vector); /* before the EOI */

/* --- Registers -----------------------------------------------------------------------------------
 */

static inline uint32_t mmio(uint64_t at)
{
    return *(volatile uint32_t *)at;
}

static inline void mmio_write(uint64_t at, uint32_t value)
{
    *(volatile uint32_t *)at = value;
}

static inline uint32_t apic(uint32_t reg)
{
    return x2 ? (uint32_t)rdmsr(0x800 + reg) : mmio(LAPIC + reg * 16);
}

static inline void apic_write(uint32_t reg, uint32_t value)
{
    if (x2)
        wrmsr(0x800 + reg, value);
    else
        mmio_write(LAPIC + reg * 16, value);
}

static inline void send(uint32_t destination, uint32_t low)
{
    if (x2) {
        wrmsr(0x800 + ICR, (uint64_t)destination << 32 | low);
        return;
    }
    apic_write(ICR_HIGH, destination << 24);
    apic_write(ICR, low);
}

static inline uint32_t pin(uint32_t reg)
{
    mmio_write(IOAPIC, reg);
    return mmio(IOAPIC + 0x10);
}

static inline void pin_write(uint32_t reg, uint32_t value)
{
    mmio_write(IOAPIC, reg);
    mmio_write(IOAPIC + 0x10, value);
}

static inline bool has(uint32_t ecx_bit)
{
    return cpuid(1, 0).ecx >> ecx_bit & 1;
}

static inline uint64_t rdtsc(void)
{
    uint32_t lo, hi;
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return (uint64_t)hi << 32 | lo;
}

/* --- Interrupts ----------------------------------------------------------------------------------
 */

static inline bool on_interrupt(struct frame *frame)
{
    if (frame->vector < 0x20 || frame->vector == DONE)
        return false;
    if (seen_count < COUNT(seen))
        seen[seen_count] = (uint32_t)frame->vector;
    if (!seen_count++)
        seen_rip = frame->rip;
    if (in_handler)
        in_handler(frame->vector);
    if (frame->vector >= 0x20 && frame->vector < 0x30)
        pic_eoi(frame->vector);
    else if (frame->vector != SPURIOUS && !end_by_hand)
        apic_write(EOI, 0);
    return true;
}

/* What is pending comes now. */
static inline void window(void)
{
    __asm__ volatile("sti; nop; nop; cli" : : : "memory");
}

static inline void window_long(uint64_t ticks)
{
    uint64_t start = rdtsc();
    __asm__ volatile("sti" : : : "memory");
    while (rdtsc() - start < ticks)
        __asm__ volatile("pause" : : : "memory");
    __asm__ volatile("cli" : : : "memory");
}

/* Until so many have come, or for a very long time. */
static inline void wait_for(uint32_t count)
{
    __asm__ volatile("sti" : : : "memory");
    for (uint32_t i = 0; i < 100000000 && *(volatile uint32_t *)&seen_count < count; i++)
        __asm__ volatile("pause" : : : "memory");
    __asm__ volatile("cli" : : : "memory");
}

static inline void forget(void)
{
    seen_count = 0;
    seen_rip = 0;
}

/* The vectors that came since forget(), in order; a 0 ends the list. */
static inline void expect(const uint32_t *want, const char *what)
{
    uint32_t n = 0;
    for (; want[n]; n++)
        CHECK(n < seen_count ? seen[n] : 0, want[n], what, n);
    CHECK(seen_count, n, what, n);
}
#define EXPECT(what, ...) expect((const uint32_t[]){__VA_ARGS__ __VA_OPT__(, ) 0}, what)

static inline void set_x2(bool on)
{
    uint64_t base = rdmsr(MSR_APIC_BASE);
    if (on == x2)
        return;
    if (on) {
        wrmsr(MSR_APIC_BASE, base | BASE_X2);
    } else {
        wrmsr(MSR_APIC_BASE, base & ~(BASE_X2 | BASE_ENABLED));
        wrmsr(MSR_APIC_BASE, (base & ~BASE_X2) | BASE_ENABLED);
    }
    x2 = on;
}

/* Software-enabled, nothing but IPIs unmasked. */
static inline void start(void)
{
    apic_write(SVR, 0x100 | SPURIOUS);
    apic_write(TPR, 0);
    apic_write(LVT_TIMER, MASKED);
    apic_write(LVT_LINT0, MASKED | EXTINT);
    apic_write(LVT_ERROR, MASKED);
    apic_write(ESR, 0);
    apic_write(ESR, 0);
    in_handler = NULL;
    end_by_hand = false;
    forget();
    trap_hook = on_interrupt;
}

static inline void stop(void)
{
    set_x2(false);
    apic_write(SVR, 0x100 | SPURIOUS);
    apic_write(LVT_LINT0, EXTINT);
    apic_write(LVT_LINT1, NMI_MODE);
    trap_hook = NULL;
    ist_all(0);
}

/* Maps the three pages of registers; interrupts may nest, so no IST. */
static inline void map_devices(void)
{
    write_cr3(addr(pml4));
    frames_reset();
    uint64_t *root = space_new();
    map_large(root, 0xfec00000, 0xfec00000, P | W | PCD | PWT, 2);
    map_large(root, 0xfee00000, 0xfee00000, P | W | PCD | PWT, 2);
    write_cr3(addr(root));
    ist_all(0);
}

static inline void in_both_modes(void (*cases)(void))
{
    map_devices();
    start();
    cases();
    if (has(21)) {
        start();
        set_x2(true);
        cases();
    }
    stop();
}

#endif
