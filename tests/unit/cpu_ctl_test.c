/* Control registers, debug registers, XCR0. */
#include "tests/unit/cpu_machine.h"

static struct machine m;

static void setup(void)
{
    machine_create(&m);
}
static void teardown(void)
{
    machine_destroy(&m);
}
TestSuite(cpu_ctl, .init = setup, .fini = teardown, .timeout = 30);

#define PG MON_CR0_PG
#define PE MON_CR0_PE
#define ET MON_CR0_ET

Test(cpu_ctl, cr0_refuses_contradictions_and_keeps_et)
{
    struct mon_vcpu *v = m.v;
    ASSERT_FAULT(mon_cr_write(v, 0, PG), MON_GP, 0);
    ASSERT_FAULT(mon_cr_write(v, 0, PE | MON_CR0_NW), MON_GP, 0);
    ASSERT_FAULT(mon_cr_write(v, 0, PE | (uint64_t)1 << 32), MON_GP, 0);
    ASSERT_HEX(mon_cr_read(v, 0), PE | ET);
    ASSERT_OK(mon_cr_write(v, 0, PE | 0x0007ffc0 | MON_CR0_NW | MON_CR0_CD));
    ASSERT_HEX(mon_cr_read(v, 0), PE | ET | MON_CR0_WP | MON_CR0_AM | MON_CR0_NW | MON_CR0_CD);
    cr_assert(v->mode_changed);
    v->mode_changed = false;
    ASSERT_OK(mon_cr_write(v, 0, v->cr0 | MON_CR0_TS));
    cr_assert(v->mode_changed);
    v->cpu->cpl = 3;
    ASSERT_FAULT(mon_cr_write(v, 0, v->cr0), MON_GP, 0);
}

Test(cpu_ctl, paging_with_pae_loads_the_pdptes)
{
    struct mon_vcpu *v = m.v;
    ASSERT_OK(mon_cr_write(v, 4, MON_CR4_PAE));
    ASSERT_OK(mon_cr_write(v, 3, 0x5020));
    put64(&m, 0x5020, 0x2001);
    put64(&m, 0x5028, 0x3003); /* reserved bit */
    ASSERT_FAULT(mon_cr_write(v, 0, v->cr0 | PG), MON_GP, 0);
    ASSERT_HEX(v->cr0 & PG, 0);
    put64(&m, 0x5028, 0x3001);
    ASSERT_OK(mon_cr_write(v, 0, v->cr0 | PG));
    ASSERT_HEX(v->pdpte[1], 0x3001);
    put64(&m, 0x5028, 0x4001);
    ASSERT_OK(mon_cr_write(v, 0, v->cr0 | MON_CR0_TS));
    ASSERT_HEX(v->pdpte[1], 0x3001); /* TS is not a reason to load them */
    ASSERT_OK(mon_cr_write(v, 4, v->cr4 | MON_CR4_PGE));
    ASSERT_HEX(v->pdpte[1], 0x4001);
    put64(&m, 0x6000, 0x7003);
    ASSERT_FAULT(mon_cr_write(v, 3, 0x6000), MON_GP, 0);
    ASSERT_HEX(mon_cr_read(v, 3), 0x5020);
    ASSERT_OK(mon_cr_write(v, 4, 0)); /* 32-bit paging from here */
    ASSERT_OK(mon_cr_write(v, 3, 0x6000));
}

Test(cpu_ctl, cr4_has_the_bits_that_cpuid_announces)
{
    struct mon_vcpu *v = m.v;
    ASSERT_FAULT(mon_cr_write(v, 4, (uint64_t)1 << 13), MON_GP, 0); /* VMXE */
    ASSERT_FAULT(mon_cr_write(v, 4, (uint64_t)1 << 31), MON_GP, 0);
    ASSERT_FAULT(mon_cr_write(v, 4, (uint64_t)1 << 32), MON_GP, 0);
    ASSERT_FAULT(mon_cr_write(v, 4, MON_CR4_PCIDE), MON_GP, 0); /* outside long mode */
    uint64_t bits = MON_CR4_PSE | MON_CR4_PGE | MON_CR4_OSFXSR | MON_CR4_OSXMMEXCPT;
    ASSERT_OK(mon_cr_write(v, 4, bits));
    ASSERT_HEX(mon_cr_read(v, 4), bits);
    cr_assert(v->mode_changed);
    ASSERT_OK(mon_cr_write(v, 4, bits | MON_CR4_DE));
    ASSERT_OK(mon_cr_write(v, 4, bits | MON_CR4_DE | MON_CR4_PAE));
    cr_assert(v->mode_changed);
    ASSERT_OK(mon_cr_write(v, 4, MON_CR4_PGE));
    cr_assert(v->mode_changed);
}

Test(cpu_ctl, paging_with_lme_enters_long_mode_and_leaves_it)
{
    struct mon_vcpu *v = m.v;
    v->efer = MON_EFER_LME;
    ASSERT_FAULT(mon_cr_write(v, 0, v->cr0 | PG), MON_GP, 0); /* needs PAE */
    ASSERT_OK(mon_cr_write(v, 4, MON_CR4_PAE));
    v->tr.attr = 0x83;
    ASSERT_FAULT(mon_cr_write(v, 0, v->cr0 | PG), MON_GP, 0); /* 16-bit TSS */
    v->tr.attr = 0x8b;
    ASSERT_OK(mon_cr_write(v, 0, v->cr0 | PG));
    cr_assert(mon_long(v));
    ASSERT_FAULT(mon_cr_write(v, 4, 0), MON_GP, 0);
    ASSERT_FAULT(mon_cr_write(v, 3, (uint64_t)1 << 60), MON_GP, 0);
    ASSERT_OK(mon_cr_write(v, 0, v->cr0 & ~(uint64_t)PG));
    cr_assert(!mon_long(v));
}

Test(cpu_ctl, cr8_and_unknown_registers)
{
    ASSERT_OK(mon_cr_write(m.v, 8, 15));
    ASSERT_HEX(mon_cr_read(m.v, 8), 15);
    ASSERT_FAULT(mon_cr_write(m.v, 8, 16), MON_GP, 0);
    ASSERT_FAULT(mon_cr_write(m.v, 5, 0), MON_UD, 0);
    ASSERT_OK(mon_cr_write(m.v, 2, 0x1234));
    ASSERT_HEX(mon_cr_read(m.v, 2), 0x1234);
}

Test(cpu_ctl, debug_registers_have_fixed_bits_and_aliases)
{
    struct mon_vcpu *v = m.v;
    uint64_t value = 0;
    ASSERT_OK(mon_dr_write(v, 4, 0));
    cr_assert(!v->mode_changed);
    ASSERT_OK(mon_dr_read(v, 6, &value));
    ASSERT_HEX(value, 0xffff0ff0);
    ASSERT_OK(mon_dr_write(v, 6, 0xffffffff));
    ASSERT_OK(mon_dr_read(v, 4, &value));
    ASSERT_HEX(value, 0xffffefff);
    ASSERT_OK(mon_dr_write(v, 5, 0xffffdfff));
    ASSERT_OK(mon_dr_read(v, 7, &value));
    ASSERT_HEX(value, 0xffff07ff);
    cr_assert(v->mode_changed);
    ASSERT_FAULT(mon_dr_write(v, 7, (uint64_t)1 << 32), MON_GP, 0);
    v->cr4 = MON_CR4_DE;
    ASSERT_FAULT(mon_dr_read(v, 4, &value), MON_UD, 0);
    v->cpu->cpl = 3;
    ASSERT_FAULT(mon_dr_read(v, 0, &value), MON_GP, 0);
}

Test(cpu_ctl, general_detect_stops_debug_register_accesses)
{
    uint64_t value;
    ASSERT_OK(mon_dr_write(m.v, 7, 0x2400));
    ASSERT_FAULT(mon_dr_read(m.v, 0, &value), MON_DB, 0);
    ASSERT_HEX(m.v->exc.dr6, 1 << 13);
    cr_assert(!m.v->exc.trap);
}

struct xcr0_row {
    uint64_t value;
    bool valid;
};
static struct xcr0_row xcr0_rows[] = {
    {1, true},  {3, true},  {7, true},    {0, false},
    {2, false}, {5, false}, {0xb, false}, {0x27, false},
};
ParameterizedTestParameters(cpu_ctl, xsetbv_wants_consistent_components)
{
    return cr_make_param_array(struct xcr0_row, xcr0_rows,
                               sizeof(xcr0_rows) / sizeof(xcr0_rows[0]));
}
ParameterizedTest(struct xcr0_row *row, cpu_ctl, xsetbv_wants_consistent_components)
{
    ASSERT_FAULT(mon_xsetbv(m.v, 0, row->value), MON_UD, 0);
    m.v->cr4 = MON_CR4_OSXSAVE;
    ASSERT_FAULT(mon_xsetbv(m.v, 1, row->value), MON_GP, 0);
    if ((row->value & 4) && !(mon_vm_cpuid(m.v)->xcr0_allowed & 4))
        return; /* a host without AVX */
    if (row->valid)
        ASSERT_OK(mon_xsetbv(m.v, 0, row->value));
    else
        ASSERT_FAULT(mon_xsetbv(m.v, 0, row->value), MON_GP, 0);
}
