/* apic64.c - local APIC, I/O APIC and HPET as a kernel uses them.
 *
 * SDM 3A chapter 10: registers in both modes (10.4, 10.12), IPIs to itself (10.6), priorities, TPR
 * and CR8 (10.8), timer (10.5.4); 82093AA data sheet: entries, edges, levels; IA-PC HPET 1.0a. What
 * a group checks in xAPIC mode it checks again in x2APIC mode where CPUID offers that.
 *
 * The PIT's output is at pin 2. Every group ends in xAPIC mode with LINT0 as firmware left it. */
#include "guest64.h"

const char guest_name[] = "apic64";

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

static uint32_t mmio(uint64_t at)
{
    return *(volatile uint32_t *)at;
}

static void mmio_write(uint64_t at, uint32_t value)
{
    *(volatile uint32_t *)at = value;
}

static uint32_t apic(uint32_t reg)
{
    return x2 ? (uint32_t)rdmsr(0x800 + reg) : mmio(LAPIC + reg * 16);
}

static void apic_write(uint32_t reg, uint32_t value)
{
    if (x2)
        wrmsr(0x800 + reg, value);
    else
        mmio_write(LAPIC + reg * 16, value);
}

static void send(uint32_t destination, uint32_t low)
{
    if (x2) {
        wrmsr(0x800 + ICR, (uint64_t)destination << 32 | low);
        return;
    }
    apic_write(ICR_HIGH, destination << 24);
    apic_write(ICR, low);
}

static uint32_t pin(uint32_t reg)
{
    mmio_write(IOAPIC, reg);
    return mmio(IOAPIC + 0x10);
}

static void pin_write(uint32_t reg, uint32_t value)
{
    mmio_write(IOAPIC, reg);
    mmio_write(IOAPIC + 0x10, value);
}

static bool has(uint32_t ecx_bit)
{
    return cpuid(1, 0).ecx >> ecx_bit & 1;
}

static uint64_t rdtsc(void)
{
    uint32_t lo, hi;
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return (uint64_t)hi << 32 | lo;
}

/* --- Interrupts ----------------------------------------------------------------------------------
 */

static bool on_interrupt(struct frame *frame)
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
static void window(void)
{
    __asm__ volatile("sti; nop; nop; cli" : : : "memory");
}

static void window_long(uint64_t ticks)
{
    uint64_t start = rdtsc();
    __asm__ volatile("sti" : : : "memory");
    while (rdtsc() - start < ticks)
        __asm__ volatile("pause" : : : "memory");
    __asm__ volatile("cli" : : : "memory");
}

/* Until so many have come, or for a very long time. */
static void wait_for(uint32_t count)
{
    __asm__ volatile("sti" : : : "memory");
    for (uint32_t i = 0; i < 100000000 && *(volatile uint32_t *)&seen_count < count; i++)
        __asm__ volatile("pause" : : : "memory");
    __asm__ volatile("cli" : : : "memory");
}

static void forget(void)
{
    seen_count = 0;
    seen_rip = 0;
}

/* The vectors that came since forget(), in order; a 0 ends the list. */
static void expect(const uint32_t *want, const char *what)
{
    uint32_t n = 0;
    for (; want[n]; n++)
        CHECK(n < seen_count ? seen[n] : 0, want[n], what, n);
    CHECK(seen_count, n, what, n);
}
#define EXPECT(what, ...) expect((const uint32_t[]){__VA_ARGS__ __VA_OPT__(, ) 0}, what)

static void set_x2(bool on)
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
static void start(void)
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

static void stop(void)
{
    set_x2(false);
    apic_write(SVR, 0x100 | SPURIOUS);
    apic_write(LVT_LINT0, EXTINT);
    apic_write(LVT_LINT1, NMI_MODE);
    trap_hook = NULL;
    ist_all(0);
}

/* Maps the three pages of registers; interrupts may nest, so no IST. */
static void map_devices(void)
{
    write_cr3(addr(pml4));
    frames_reset();
    uint64_t *root = space_new();
    map_large(root, 0xfec00000, 0xfec00000, P | W | PCD | PWT, 2);
    map_large(root, 0xfee00000, 0xfee00000, P | W | PCD | PWT, 2);
    write_cr3(addr(root));
    ist_all(0);
}

static void in_both_modes(void (*cases)(void))
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

/* --- Identification and registers ----------------------------------------------------------------
 */

static void identification_cases(void)
{
    uint32_t id = cpuid(1, 0).ebx >> 24;
    EQ(cpuid(1, 0).edx >> 9 & 1, 1);
    EQ(rdmsr(MSR_APIC_BASE) & 0xfffff000, LAPIC);
    EQ(rdmsr(MSR_APIC_BASE) >> 8 & 0xf, x2 ? 13 : 9);
    EQ(apic(APIC_ID), x2 ? id : id << 24);
    EQ(apic(VERSION) & 0xf0, 0x10);
    EQ((apic(VERSION) >> 16 & 0xff) >= 3, 1);
    if (cpuid(0, 0).eax >= 0xb)
        EQ(cpuid(0xb, 0).edx, id);
    if (x2)
        EQ(apic(LDR), 1u << id);
    for (uint32_t n = 0; n < 8; n++)
        CHECK(apic(ISR + n) | apic(IRR + n), 0, "nothing in service or requested", n);
}

static void identification(void)
{
    in_both_modes(identification_cases);
}

static void register_cases(void)
{
    for (uint32_t value = 0; value < 256; value += 17) {
        apic_write(TPR, value);
        CHECK(apic(TPR), value, "TPR", value);
        CHECK(read_cr8(), value >> 4, "CR8 from TPR", value);
        CHECK(apic(PPR), value, "PPR", value);
    }
    for (uint32_t value = 0; value < 16; value++) {
        write_cr8(value);
        CHECK(read_cr8(), value, "CR8", value);
        CHECK(apic(TPR), value << 4, "TPR from CR8", value);
    }
    write_cr8(0);
    apic_write(LVT_LINT1, MASKED | NMI_MODE);
    EQ(apic(LVT_LINT1), MASKED | NMI_MODE);
    apic_write(LVT_TIMER, MASKED | PERIODIC | 0x77);
    EQ(apic(LVT_TIMER), MASKED | PERIODIC | 0x77);
    apic_write(LVT_ERROR, 0x78);
    EQ(apic(LVT_ERROR), 0x78);
    apic_write(SVR, SPURIOUS); /* disabling masks, and masks cannot be cleared then */
    EQ(apic(SVR), SPURIOUS);
    UNLESS_QEMU(APIC_DISABLE)
    {
        EQ(apic(LVT_ERROR), MASKED | 0x78);
        apic_write(LVT_ERROR, 0x79);
        EQ(apic(LVT_ERROR), MASKED | 0x79);
    }
    apic_write(SVR, 0x100 | SPURIOUS);
}

static void registers(void)
{
    in_both_modes(register_cases);
    map_devices();
    apic_write(LDR, 0x81000000);
    EQ(apic(LDR), 0x81000000);
    apic_write(DFR, 0x0fffffff);
    EQ(apic(DFR), 0x0fffffff);
    apic_write(DFR, 0xffffffff);
    EQ(apic(DFR), 0xffffffff);
    apic_write(LDR, 0);
}

static void pit_mode_0(uint16_t count)
{
    outb(0x43, 0x30);
    outb(0x40, (uint8_t)count);
    outb(0x40, (uint8_t)(count >> 8));
}

/* --- Interprocessor interrupts -------------------------------------------------------------------
 */

static void ipi_cases(void)
{
    uint32_t id = cpuid(1, 0).ebx >> 24;
    send(0, SELF | 0x40);
    EQ(apic(IRR + 2), 1);
    EXPECT("none while IF is clear");
    window();
    EXPECT("self", 0x40);
    EQ(apic(IRR + 2) | apic(ISR + 2), 0);

    forget();
    send(id, 0x41);
    window();
    EXPECT("physical destination", 0x41);
    forget();
    send(id + 1, 0x42);
    window();
    EXPECT("another CPU");
    send(0, OTHERS | 0x43);
    window();
    EXPECT("all but itself");
    send(0, ALL | 0x44);
    window();
    EXPECT("all", 0x44);

    forget();
    if (!x2)
        apic_write(LDR, 0x04000000);
    send(x2 ? 1u << id : 4, LOGICAL | 0x45);
    window();
    EXPECT("logical destination", 0x45);
    forget();
    send(x2 ? 2u << id : 8, LOGICAL | 0x46);
    window();
    EXPECT("another logical destination");
    send(id, 0x100 | 0x47);
    window();
    EXPECT("lowest priority", 0x47);

    forget();
    send(0, SELF | 0x51);
    send(0, SELF | 0x31);
    send(0, SELF | 0x51);
    send(0, SELF | 0x5f);
    send(0, SELF | 0xe0);
    window();
    EXPECT("by priority, each once", 0xe0, 0x5f, 0x51, 0x31);

    forget();
    if (x2) {
        wrmsr(0x800 + SELF_IPI, 0x66);
        window();
        EXPECT("self-IPI register", 0x66);
    }
    if (!x2)
        apic_write(LDR, 0);
}

static void ipis(void)
{
    in_both_modes(ipi_cases);
}

/* An NMI sent to itself comes whatever IF says. */
static uint32_t nmi_count;
static bool on_nmi(struct frame *frame)
{
    if (frame->vector != NMI)
        return false;
    nmi_count++;
    return true;
}

static void nmi_cases(void)
{
    trap_hook = on_nmi;
    nmi_count = 0;
    send(0, NMI_MODE | 0x4000); /* to id 0 */
    for (int i = 0; i < 1000 && !*(volatile uint32_t *)&nmi_count; i++)
        __asm__ volatile("pause" : : : "memory");
    EQ(nmi_count, 1);
}

/* The PIT's edges as NMIs, through the I/O APIC, end a HLT. */
static void nmi_wakes(void)
{
    trap_hook = on_nmi;
    nmi_count = 0;
    pic_init(0);
    pin_write(0x15, 0);
    pit_start(1193);
    pin_write(0x14, NMI_MODE);
    for (int i = 0; i < 3; i++)
        __asm__ volatile("sti; hlt; cli" : : : "memory");
    pin_write(0x14, MASKED);
    EQ(nmi_count >= 3, 1);
    pit_stop();
}

static void nmi(void)
{
    if (cpuid(1, 0).ebx >> 24)
        return;
    in_both_modes(nmi_cases);
    map_devices();
    start();
    UNLESS_QEMU(APIC_LINT0)
    {
        nmi_wakes();
    }
    stop();
}

static void error_cases(void)
{
    UNLESS_QEMU(APIC_ERRORS)
    {
        apic_write(LVT_ERROR, 0x70);
        send(0, SELF | 0x05); /* no such vector */
        window();
        EXPECT("error interrupt", 0x70);
        apic_write(ESR, 0);
        EQ(apic(ESR), 1 << 5);
        apic_write(ESR, 0);
        EQ(apic(ESR), 0);
        if (!x2) {
            forget();
            (void)mmio(LAPIC + 0x40);
            window();
            EXPECT("no such register", 0x70);
            apic_write(ESR, 0);
            EQ(apic(ESR), 1 << 7);
        }
    }
}

static void errors(void)
{
    in_both_modes(error_cases);
}

/* --- Priorities ----------------------------------------------------------------------------------
 */

static uint32_t ppr_in[4], isr_in[4];

/* In the handler of 50h a higher and a lower interrupt are requested, with IF set. */
static void nest(uint64_t vector)
{
    uint32_t n = vector == 0x50 ? 0 : vector == 0x90 ? 1 : 2;
    ppr_in[n] = apic(PPR);
    isr_in[n] = apic(ISR + (uint32_t)vector / 32) >> (vector & 31) & 1;
    if (vector != 0x50)
        return;
    send(0, SELF | 0x5f);
    window();
    CHECK(seen_count, 1, "the same class waits", 0);
    send(0, SELF | 0x30);
    send(0, SELF | 0x90);
    window();
    CHECK(seen_count, 2, "a higher one nests", 0);
}

static void nesting_cases(void)
{
    in_handler = nest;
    send(0, SELF | 0x50);
    window();
    EXPECT("order", 0x50, 0x90, 0x5f, 0x30);
    EQ(ppr_in[0], 0x50);
    EQ(ppr_in[1], 0x90);
    EQ(isr_in[0] & isr_in[1] & isr_in[2], 1);
    EQ(apic(PPR), 0);
}

static void nesting(void)
{
    in_both_modes(nesting_cases);
}

/* EOI ends the highest, not what was begun last or first. */
static void eoi_order_cases(void)
{
    end_by_hand = true;
    send(0, SELF | 0x40);
    window();
    send(0, SELF | 0x80);
    window();
    EQ(apic(ISR + 2) | apic(ISR + 4), 1);
    EQ(apic(ISR + 2), 1);
    EQ(apic(ISR + 4), 1);
    send(0, SELF | 0x60);
    window();
    EXPECT("held by 80h", 0x40, 0x80);
    apic_write(EOI, 0);
    EQ(apic(ISR + 4), 0);
    EQ(apic(ISR + 2), 1);
    window();
    EXPECT("then the next", 0x40, 0x80, 0x60);
    apic_write(EOI, 0);
    EQ(apic(ISR + 3), 0);
    apic_write(EOI, 0);
    EQ(apic(ISR + 2), 0);
    apic_write(EOI, 0); /* nothing is in service */
    EQ(apic(PPR), 0);
}

static void eoi_order(void)
{
    in_both_modes(eoi_order_cases);
}

static void tpr_cases(void)
{
    apic_write(TPR, 0x4f);
    send(0, SELF | 0x4f);
    window();
    EXPECT("held by its class");
    EQ(apic(IRR + 2), 1 << 15);
    send(0, SELF | 0x50);
    window();
    EXPECT("a higher class comes", 0x50);
    apic_write(TPR, 0x3f);
    window();
    EXPECT("then the lower", 0x50, 0x4f);
    apic_write(TPR, 0);
}

/* Lowering CR8 lets the interrupt in before the next instruction, and raising it keeps it out. */
static void tpr(void)
{
    in_both_modes(tpr_cases);
    if (pass_cs == UCODE)
        return;
    map_devices();
    start();
    const struct snip *lower = CODE("mov cr8, rax;" AT "inc rbx; inc rbx");
    const struct snip *higher = CODE("mov cr8, rax; sti; nop; nop; cli;" AT "nop");
    write_cr8(5);
    send(0, SELF | 0x55);
    IN(.rax = 5, .rflags = IF);
    OKS(lower);
    EXPECT("CR8 as high");
    IN(.rax = 4, .rflags = IF);
    OKS(lower);
    EXPECT("CR8 lowered", 0x55);
    EQ(seen_rip, lower->at + pass_base);
    EQ(out.rbx, 2);
    forget();
    write_cr8(0);
    send(0, SELF | 0x55);
    IN(.rax = 15);
    OKS(higher);
    EXPECT("CR8 raised");
    write_cr8(0);
    window();
    EXPECT("and lowered", 0x55);
    stop();
}

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

/* --- The timer -----------------------------------------------------------------------------------
 */

static void one_shot(void)
{
    apic_write(LVT_TIMER, 0x80);
    apic_write(INITIAL, 20000);
    EQ(apic(INITIAL), 20000);
    uint32_t first = apic(CURRENT), second = apic(CURRENT);
    EQ(second <= first && first <= 20000, 1);
    wait_for(1);
    EXPECT("one-shot", 0x80);
    EQ(apic(CURRENT), 0);
    EQ(apic(INITIAL), 20000);
    window_long(5000000);
    EXPECT("only one", 0x80);
    apic_write(INITIAL, 0xffffffff);
    EQ(apic(CURRENT) > 0x80000000, 1);
    apic_write(INITIAL, 0);
    EQ(apic(CURRENT), 0);
}

static void periodic(void)
{
    forget();
    apic_write(LVT_TIMER, PERIODIC | 0x81);
    apic_write(INITIAL, 5000);
    wait_for(5);
    EQ(seen_count >= 5 && seen[4] == 0x81, 1);
    uint32_t current = apic(CURRENT);
    EQ(current <= 5000, 1);
    apic_write(LVT_TIMER, PERIODIC | MASKED | 0x81);
    window();
    forget();
    window_long(5000000);
    EXPECT("masked");
    apic_write(LVT_TIMER, PERIODIC | 0x81);
    wait_for(1);
    EQ(seen_count >= 1, 1);
    apic_write(INITIAL, 0);
    window();
    forget();
    window_long(3000000);
    EXPECT("stopped");
}

/* The count's rate against the TSC. */
static uint64_t count_rate(uint32_t divide)
{
    apic_write(DCR, divide);
    EQ(apic(DCR), divide);
    uint64_t begin = rdtsc();
    apic_write(INITIAL, 0xffffffff);
    while (rdtsc() - begin < 20000000)
        ;
    uint64_t went = 0xffffffff - apic(CURRENT);
    return went * 1000000000 / (rdtsc() - begin);
}

/* A loaded host may stop either measurement between its two clocks: the best of three. */
static void dividing(void)
{
    bool good = false;
    apic_write(LVT_TIMER, MASKED | 0x80);
    for (int tries = 0; tries < 3 && !good; tries++) {
        uint64_t by_32 = count_rate(0x8), by_128 = count_rate(0xa);
        good = by_32 > 3 * by_128 && by_32 < 5 * by_128;
    }
    EQ(good, 1);
    apic_write(INITIAL, 0);
}

static void timer_cases(void)
{
    apic_write(DCR, 0xb);
    one_shot();
    periodic();
    dividing();
}

static void timer(void)
{
    in_both_modes(timer_cases);
}

/* Nothing comes of a deadline that was taken back, unless a loaded host did not let us in time. */
static void nothing_after(uint64_t at, const char *what)
{
    bool in_time = rdtsc() < at;
    window_long(25000000);
    if (in_time)
        EXPECT(what);
    forget();
}

static void deadline_cases(void)
{
    apic_write(LVT_TIMER, 0x82);
    wrmsr(MSR_DEADLINE, 1);
    EQ(rdmsr(MSR_DEADLINE), 0); /* not in this mode */
    apic_write(LVT_TIMER, BY_TSC | 0x82);
    uint64_t at = rdtsc() + 2000000;
    wrmsr(MSR_DEADLINE, at);
    apic_write(INITIAL, 1000);
    EQ(apic(CURRENT), 0);
    wait_for(1);
    EQ(rdtsc() >= at, 1);
    EXPECT("deadline", 0x82);
    EQ(rdmsr(MSR_DEADLINE), 0);
    forget();
    wrmsr(MSR_DEADLINE, rdtsc());
    window();
    EXPECT("deadline in the past", 0x82);
    forget();
    at = rdtsc() + 20000000;
    wrmsr(MSR_DEADLINE, at);
    wrmsr(MSR_DEADLINE, 0);
    nothing_after(at, "disarmed");
    wrmsr(MSR_DEADLINE, rdtsc() + (1ull << 50));
    EQ(rdmsr(MSR_DEADLINE) > 1ull << 50, 1);
    window_long(1000000);
    EXPECT("far away");
    if (cpuid(7, 0).ebx >> 1 & 1) { /* TSC_ADJUST */
        uint64_t adjust = rdmsr(MSR_TSC_ADJUST);
        wrmsr(MSR_TSC_ADJUST, adjust + (1ull << 51));
        wait_for(1);
        EXPECT("the TSC has been moved there", 0x82);
        wrmsr(MSR_TSC_ADJUST, adjust);
    }
    forget();
    at = rdtsc() + 20000000;
    wrmsr(MSR_DEADLINE, at);
    apic_write(LVT_TIMER, 0x82);
    nothing_after(at, "another mode");
    /* HLT wakes for it. */
    apic_write(LVT_TIMER, BY_TSC | 0x82);
    for (int i = 0; i < 5; i++) {
        wrmsr(MSR_DEADLINE, rdtsc() + 200000);
        __asm__ volatile("sti; hlt; cli" : : : "memory");
    }
    EXPECT("halted", 0x82, 0x82, 0x82, 0x82, 0x82);
}

static void deadline(void)
{
    if (has(24))
        in_both_modes(deadline_cases);
}

/* --- I/O APIC ------------------------------------------------------------------------------------
 */

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

/* --- Modes, and what each refuses ----------------------------------------------------------------
 */

static void write_faults(uint32_t index, uint64_t value)
{
    IN(.rcx = index, .rax = (uint32_t)value, .rdx = value >> 32);
    case_number = (uint64_t)index << 32 | (uint32_t)value;
    FAULT("wrmsr", GP, 0);
}

static void read_faults(uint32_t index)
{
    IN(.rcx = index);
    case_number = index;
    FAULT("rdmsr", GP, 0);
}

static void base_transitions(void)
{
    uint64_t xapic = rdmsr(MSR_APIC_BASE), off = xapic & ~BASE_ENABLED, x2apic = xapic | BASE_X2;
    write_faults(MSR_APIC_BASE, xapic | 1);
    write_faults(MSR_APIC_BASE, xapic | 1 << 9);
    write_faults(MSR_APIC_BASE, xapic | 1ull << 62);
    write_faults(MSR_APIC_BASE, off | BASE_X2);
    send(0, SELF | 0x40);
    apic_write(TPR, 0x20);
    wrmsr(MSR_APIC_BASE, off);
    EQ(cpuid(1, 0).edx >> 9 & 1, 0);
    write_faults(MSR_APIC_BASE, x2apic);
    wrmsr(MSR_APIC_BASE, xapic);
    EQ(cpuid(1, 0).edx >> 9 & 1, 1);
    EQ(apic(TPR) | apic(IRR + 2), 0);
    EQ(apic(SVR), 0xff);
    EQ(apic(LVT_LINT0), MASKED);
    start();
    apic_write(TPR, 0x20);
    send(0, SELF | 0x25);
    set_x2(true);
    write_faults(MSR_APIC_BASE, xapic);
    EQ(apic(TPR), 0x20);
    EQ(apic(IRR + 1), 1 << 5);
    apic_write(TPR, 0);
    window();
    EXPECT("kept over the change of mode", 0x25);
}

static void x2_reserved(void)
{
    static const uint16_t absent[] = {0x800, 0x801, 0x804, 0x809, 0x80c,
                                      0x80e, 0x831, 0x83a, 0x840, 0x8ff};
    static const uint16_t read_only[] = {0x802, 0x803, 0x80a, 0x80d, 0x810, 0x818, 0x827, 0x839};
    for (uint32_t n = 0; n < COUNT(absent); n++) {
        read_faults(absent[n]);
        write_faults(absent[n], 0);
    }
    for (uint32_t n = 0; n < COUNT(read_only); n++)
        write_faults(read_only[n], 0);
    read_faults(0x800 + EOI);
    read_faults(0x800 + SELF_IPI);
    write_faults(0x800 + EOI, 1);
    write_faults(0x800 + ESR, 1);
    write_faults(0x800 + TPR, 0x100);
    write_faults(0x800 + TPR, 1ull << 32);
    write_faults(0x800 + SVR, 1ull << 16);
    write_faults(0x800 + LVT_TIMER, 1 << 19);
    write_faults(0x800 + INITIAL, 1ull << 32);
    write_faults(0x800 + DCR, 4);
    write_faults(0x800 + SELF_IPI, 0x100);
    write_faults(0x800 + ICR, 1 << 13);
}

static void modes(void)
{
    if (!has(21))
        return;
    map_devices();
    start();
    read_faults(0x800 + APIC_ID);
    write_faults(0x800 + TPR, 0);
    base_transitions();
    x2_reserved();
    stop();
}

void guest_main(void)
{
    pit_stop();
    GROUP(identification);
    GROUP(registers);
    GROUP(ipis);
    GROUP(nmi);
    GROUP(errors);
    GROUP(nesting);
    GROUP(eoi_order);
    GROUP(tpr);
    GROUP(virtual_wire);
    GROUP(timer);
    GROUP(deadline);
    GROUP(ioapic);
    GROUP(hpet);
    GROUP(modes);
}
