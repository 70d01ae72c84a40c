/* apic64.c - the local APIC as a kernel uses it.
 *
 * SDM 3A chapter 10: registers in both modes (10.4, 10.12), IPIs to itself (10.6), priorities, TPR
 * and CR8 (10.8), timer (10.5.4). What a group checks in xAPIC mode it checks again in x2APIC mode
 * where CPUID offers that. irq64.c has what comes from outside: 8259, I/O APIC, HPET.
 */
#include "apic.h"

const char guest_name[] = "apic64";

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
    GROUP(timer);
    GROUP(deadline);
    GROUP(modes);
}
