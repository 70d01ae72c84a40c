/* The embedder's local APIC as the library sees it: MSR exits, IA32_APIC_BASE, CR8, the TSC. */
#include "tests/unit/engine_guest.h"

TestSuite(cpu_apic, .timeout = 30);

static struct engine_guest g;

#define BASE 0xfee00000u
#define EN   0x800u
#define X2   0x400u
#define BSP  0x100u

/* mov ecx, index; mov eax, low; mov edx, high; wrmsr or rdmsr; mov ebx, eax; hlt */
static void start(uint64_t flags, uint32_t index, uint64_t value, bool write, uint64_t apic_base)
{
    uint8_t code[] = {0xb9, 0, 0, 0, 0, 0xb8, 0, 0,    0,    0,
                      0xba, 0, 0, 0, 0, 0x0f, 0, 0x89, 0xc3, 0xf4};
    uint32_t low = (uint32_t)value, high = (uint32_t)(value >> 32);
    struct novt_sregs s;

    memcpy(code + 1, &index, 4);
    memcpy(code + 6, &low, 4);
    memcpy(code + 11, &high, 4);
    code[16] = write ? 0x30 : 0x32;
    engine_guest_create(&g, flags, code, sizeof(code));
    novt_vcpu_get_sregs(g.vcpu, &s);
    if (apic_base)
        s.apic_base = apic_base;
    cr_assert_eq(novt_vcpu_set_sregs(g.vcpu, &s), 0);
}

static uint64_t apic_base(void)
{
    struct novt_sregs s;
    novt_vcpu_get_sregs(g.vcpu, &s);
    return s.apic_base;
}

static uint32_t rbx(void)
{
    struct novt_regs r;
    novt_vcpu_get_regs(g.vcpu, &r);
    return (uint32_t)r.gpr[NOVT_RBX];
}

Test(cpu_apic, x2apic_registers_are_exits)
{
    start(NOVT_F_LOCAL_APIC, 0x808, 0x1234567800000050, true, BASE | EN | X2 | BSP);
    cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_WRMSR);
    cr_assert_eq(g.run->msr.index, 0x808);
    cr_assert_eq(g.run->msr.data, 0x1234567800000050);
    cr_assert(!g.run->ready_for_interrupt);
    cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_HLT);
    engine_guest_destroy(&g);

    start(NOVT_F_LOCAL_APIC, 0x8ff, 0, false, BASE | EN | X2 | BSP);
    cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_RDMSR);
    cr_assert_eq(g.run->msr.index, 0x8ff);
    g.run->msr.data = 0xabcd;
    cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_HLT);
    cr_assert_eq(rbx(), 0xabcd);
    engine_guest_destroy(&g);
}

/* There is no IDT: #GP(0) ends in a triple fault. */
Test(cpu_apic, an_error_is_a_general_protection_fault)
{
    for (unsigned write = 0; write < 2; write++) {
        start(NOVT_F_LOCAL_APIC, 0x6e0, 1, write, 0);
        cr_assert_eq(engine_guest_run(&g), write ? NOVT_EXIT_WRMSR : NOVT_EXIT_RDMSR);
        g.run->msr.error = 1;
        cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_SHUTDOWN);
        engine_guest_destroy(&g);
    }
}

Test(cpu_apic, outside_x2apic_mode_its_registers_do_not_exist)
{
    start(NOVT_F_LOCAL_APIC, 0x808, 0, false, BASE | EN | BSP);
    cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_SHUTDOWN);
    engine_guest_destroy(&g);
}

Test(cpu_apic, without_an_apic_there_are_no_exits)
{
    start(0, 0x6e0, 0, false, 0);
    cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_SHUTDOWN);
    engine_guest_destroy(&g);
    start(0, 0x808, 0, true, BASE | EN | X2);
    cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_SHUTDOWN);
    engine_guest_destroy(&g);
    start(0, 0x1b, BASE | BSP, true, 0);
    cr_assert_eq(apic_base(), BASE | BSP, "disabled after reset");
    cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_HLT);
    engine_guest_destroy(&g);
}

/* SDM 3-10.12.5, figure 10-27. */
Test(cpu_apic, the_base_register_knows_its_modes)
{
    static const struct {
        uint64_t from, to;
        bool valid;
    } rows[] = {
        {BASE | EN, BASE | EN | X2, true},
        {BASE | EN, BASE, true},
        {BASE | EN | X2, BASE, true},
        {BASE | EN | X2, BASE | EN, false},
        {BASE | EN | X2, BASE | EN | X2, true},
        {BASE, BASE | EN, true},
        {BASE, BASE | EN | X2, false},
        {BASE | EN, BASE | X2, false},
        {BASE | EN, BASE | EN | 1, false},
        {BASE | EN, BASE | EN | 0x200, false},
        {BASE | EN, BASE | EN | 1ull << 63, false},
        {BASE | EN, 0xfed01000 | EN, true},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        start(NOVT_F_LOCAL_APIC, 0x1b, rows[i].to | BSP, true, rows[i].from | BSP);
        unsigned reason = engine_guest_run(&g);
        cr_assert_eq(reason, rows[i].valid ? NOVT_EXIT_WRMSR : NOVT_EXIT_SHUTDOWN, "row %zu", i);
        cr_assert_eq(apic_base(), rows[i].from | BSP);
        if (rows[i].valid) {
            cr_assert_eq(g.run->msr.data, rows[i].to | BSP);
            cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_HLT);
            cr_assert_eq(apic_base(), rows[i].to | BSP);
            uint32_t leaf1[4];
            mon_cpuid(g.v, 1, 0, leaf1);
            cr_assert_eq(leaf1[3] >> 9 & 1, !!(rows[i].to & EN));
        }
        engine_guest_destroy(&g);
    }
}

Test(cpu_apic, tpr_below_the_threshold_is_an_exit)
{
    start(NOVT_F_LOCAL_APIC, 0x10, 0, false, 0);
    g.run->cr8 = 3;
    g.run->tpr_threshold = 4;
    cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_TPR);
    cr_assert_eq(g.run->cr8, 3);
    g.run->cr8 = 4;
    cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_HLT);
    struct novt_sregs s;
    novt_vcpu_get_sregs(g.vcpu, &s);
    cr_assert_eq(s.cr8, 4);
    engine_guest_destroy(&g);
}

Test(cpu_apic, moving_the_tsc_is_an_exit)
{
    start(NOVT_F_LOCAL_APIC, 0x3b, 1ull << 40, true, 0);
    uint64_t before = g.run->tsc_offset;
    cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_TSC);
    cr_assert_eq(g.run->tsc_offset - before, 1ull << 40);
    cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_HLT);
    engine_guest_destroy(&g);
}
