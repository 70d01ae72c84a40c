/* Exceptions and interrupts through the IDT in every mode, double and triple faults, task switches.
 */
#include "tests/unit/cpu_machine.h"

static struct machine m;

static void setup(void)
{
    machine_create(&m);
    set_idt(&m, 0x80, gate(SEL_CODE0, HANDLER, 0xef, 0)); /* trap gate for user code */
    set_idt(&m, 0x20, gate(SEL_CODE0, HANDLER, 0x8e, 0)); /* interrupt gate */
    for (unsigned vector = 0; vector < 20; vector++)
        set_idt(&m, vector, gate(SEL_CODE0, HANDLER + vector * 16, 0x8e, 0));
}
static void teardown(void)
{
    machine_destroy(&m);
}
TestSuite(cpu_event, .init = setup, .fini = teardown, .timeout = 30);

#define ROWS(type, rows) cr_make_param_array(type, rows, sizeof(rows) / sizeof((rows)[0]))

/* The words of the frame on the inner stack, lowest first. */
static void assert_frame(uint64_t sp, const uint32_t *words, unsigned n)
{
    ASSERT_HEX(m.v->cpu->gpr[RT_SP], sp);
    for (unsigned i = 0; i < n; i++)
        cr_assert_eq(get32(&m, sp + i * 4), words[i], "word %u is %#x, not %#x", i,
                     get32(&m, sp + i * 4), words[i]);
}
#define ASSERT_FRAME(sp, ...)                         \
    do {                                              \
        const uint32_t words_[] = {__VA_ARGS__};      \
        assert_frame(sp, words_, sizeof(words_) / 4); \
    } while (0)

/* ---- Protected mode ---- */

Test(cpu_event, interrupt_gate_from_cpl_3_switches_the_stack_and_iret_returns)
{
    struct mon_vcpu *v = m.v;
    machine_level(&m, 3);
    v->cpu->rflags |= RT_CF | RT_NT | RT_TF | RT_AC;
    v->shadow = true;
    ASSERT_OK(mon_interrupt_deliver(v, 0x20));
    ASSERT_FRAME(STACK0 - 20, 0x60000, SEL_CODE3, RT_CF | RT_NT | RT_TF | RT_AC | RT_IF | 2, STACK3,
                 SEL_DATA3);
    ASSERT_HEX(v->cpu->rip, HANDLER);
    ASSERT_HEX(v->cpu->rflags, RT_CF | RT_AC | 2);
    cr_assert_eq(v->cpu->cpl, 0);
    ASSERT_HEX(v->seg[NOVT_CS].selector, SEL_CODE0);
    ASSERT_HEX(v->seg[NOVT_SS].selector, SEL_DATA0);
    ASSERT_HEX(v->seg[NOVT_DS].selector, SEL_DATA3);
    cr_assert(v->mode_changed && !v->shadow);
    put32(&m, STACK0 - 12, RT_IF | 2); /* NT in the image would be a task return later */
    ASSERT_OK(mon_iret(v, 32, 0));
    cr_assert_eq(v->cpu->cpl, 3);
    ASSERT_HEX(v->cpu->rip, 0x60000);
    ASSERT_HEX(v->cpu->gpr[RT_SP], STACK3);
    ASSERT_HEX(v->cpu->rflags, RT_IF | 2);
}

Test(cpu_event, trap_gate_keeps_if_and_stays_on_the_stack_at_cpl_0)
{
    uint64_t sp = m.v->cpu->gpr[RT_SP];
    ASSERT_OK(mon_software_interrupt(m.v, 0x80, 0x61002));
    ASSERT_FRAME(sp - 12, 0x61002, SEL_CODE0, RT_IF | 2);
    ASSERT_HEX(m.v->cpu->rflags, RT_IF | 2);
    ASSERT_HEX(m.v->cpu->rip, HANDLER);
}

Test(cpu_event, sixteen_bit_gates_push_words_and_truncate)
{
    machine_level(&m, 3);
    set_idt(&m, 0x20, gate(SEL_CODE0, 0x99998888, 0x86, 0));
    ASSERT_OK(mon_interrupt_deliver(m.v, 0x20));
    ASSERT_HEX(m.v->cpu->gpr[RT_SP], STACK0 - 10);
    ASSERT_HEX(m.v->cpu->rip, 0x8888);
    const uint16_t frame[] = {0, SEL_CODE3, RT_IF | 2, STACK3 & 0xffff, SEL_DATA3};
    cr_assert_eq(memcmp(m.ram + STACK0 - 10, frame, 10), 0);
}

Test(cpu_event, conforming_handlers_run_at_the_interrupted_level)
{
    machine_level(&m, 3);
    set_idt(&m, 0x20, gate(SEL_CONFORMING, HANDLER, 0x8e, 0));
    ASSERT_OK(mon_interrupt_deliver(m.v, 0x20));
    cr_assert_eq(m.v->cpu->cpl, 3);
    ASSERT_HEX(m.v->seg[NOVT_CS].selector, SEL_CONFORMING | 3);
    ASSERT_FRAME(STACK3 - 12, 0x60000, SEL_CODE3, RT_IF | 2);
}

Test(cpu_event, a_16_bit_stack_moves_sp_only)
{
    ASSERT_OK(mon_seg_load(m.v, NOVT_SS, SEL_DATA0_16));
    m.v->cpu->gpr[RT_SP] = 0x55550004;
    ASSERT_OK(mon_interrupt_deliver(m.v, 0x20));
    ASSERT_HEX(m.v->cpu->gpr[RT_SP], 0x5555fff8); /* wrapped inside the segment */
    ASSERT_HEX(get32(&m, 0x20000), RT_IF | 2);
    ASSERT_HEX(get32(&m, 0x2fffc), SEL_CODE0);
    ASSERT_HEX(get32(&m, 0x2fff8), 0x61000);
}

Test(cpu_event, a_frame_that_wraps_is_checked_as_a_whole)
{
    for (unsigned i = 0; i < 0x100; i++)
        put32(&m, 0x1000 + i * 4, i << 12 | 3);
    put32(&m, 0x1000 + 0x2f * 4, 0); /* where the wrapped part would go */
    put32(&m, 0, 0x1003);
    m.v->cr3 = 0;
    m.v->cr0 |= MON_CR0_PG;
    ASSERT_OK(mon_seg_load(m.v, NOVT_SS, SEL_DATA0_16));
    m.v->cpu->gpr[RT_SP] = 4;
    ASSERT_FAULT(mon_interrupt_deliver(m.v, 0x20), MON_PF, 2);
    ASSERT_HEX(m.v->exc.cr2, 0x2fffc);
    ASSERT_HEX(get32(&m, 0x20000), 0);
    ASSERT_HEX(m.v->cpu->gpr[RT_SP], 4);
}

Test(cpu_event, a_task_gate_that_fails_leaves_the_flags_alone)
{
    set_idt(&m, MON_UD, gate(SEL_DATA0, 0, 0x85, 0));
    set_idt(&m, MON_GP, gate(SEL_CODE0, HANDLER, 0x8e, 0));
    uint64_t sp = m.v->cpu->gpr[RT_SP];
    m.v->cpu->rflags |= RT_NT;
    mon_raise(m.v, MON_UD);
    ASSERT_OK(mon_exception_deliver(m.v));
    ASSERT_FRAME(sp - 16, SEL_DATA0 | 1, 0x61000, SEL_CODE0, RT_RF | RT_NT | RT_IF | 2);
    ASSERT_HEX(m.v->cpu->rflags, 2);
}

struct gate_row {
    uint8_t cpl, attr; /* of the gate */
    uint16_t selector;
    bool software;
    uint8_t vector;
    uint16_t error;
};
static struct gate_row gates[] = {
    {0, 0x8c, SEL_CODE0, false, MON_GP, 0x30 * 8 + 3}, /* a call gate */
    {0, 0x8c, SEL_CODE0, true, MON_GP, 0x30 * 8 + 2},
    {3, 0x8e, SEL_CODE0, true, MON_GP, 0x30 * 8 + 2}, /* DPL 0 */
    {3, 0x6e, SEL_CODE0, true, MON_NP, 0x30 * 8 + 2},
    {3, 0x0e, SEL_CODE0, false, MON_NP, 0x30 * 8 + 3},
    {0, 0x8e, 0, false, MON_GP, 1},
    {0, 0xee, 0, true, MON_GP, 0},
    {0, 0x8e, SEL_DATA0, false, MON_GP, SEL_DATA0 | 1},
    {0, 0x8e, SEL_CODE3, false, MON_GP, (SEL_CODE3 & ~3) | 1}, /* to an outer level */
    {0, 0x8e, SEL_ABSENT, false, MON_NP, SEL_ABSENT | 1},
    {0, 0x8e, 0x300, false, MON_GP, 0x301},
    {0, 0x8e, SEL_SMALL_CODE, false, MON_GP, 1}, /* HANDLER is beyond its limit */
    {3, 0xee, SEL_SMALL_CODE, true, MON_GP, 0},
};
ParameterizedTestParameters(cpu_event, gates_are_checked_and_ext_tells_the_source)
{
    return ROWS(struct gate_row, gates);
}
ParameterizedTest(struct gate_row *row, cpu_event, gates_are_checked_and_ext_tells_the_source)
{
    machine_level(&m, row->cpl);
    set_descriptor(&m, SEL_ABSENT, descriptor(0, 0xfffff, 0xc01b));
    set_idt(&m, 0x30, gate(row->selector, HANDLER, row->attr, 0));
    uint64_t sp = m.v->cpu->gpr[RT_SP], rip = m.v->cpu->rip;
    ASSERT_FAULT(row->software ? mon_software_interrupt(m.v, 0x30, rip + 2)
                               : mon_interrupt_deliver(m.v, 0x30),
                 row->vector, row->error);
    ASSERT_HEX(m.v->cpu->gpr[RT_SP], sp);
    ASSERT_HEX(m.v->cpu->rip, rip);
    cr_assert_eq(m.v->cpu->cpl, row->cpl);
    cr_assert_eq(m.v->ext, 0);
}

Test(cpu_event, vectors_beyond_the_idt_limit)
{
    m.v->idt.limit = 0x20 * 8 + 6;
    ASSERT_FAULT(mon_interrupt_deliver(m.v, 0x20), MON_GP, 0x20 * 8 + 3);
    m.v->idt.limit++;
    ASSERT_OK(mon_interrupt_deliver(m.v, 0x20));
}

Test(cpu_event, int1_has_no_dpl_check_and_int3_has)
{
    machine_level(&m, 3);
    ASSERT_FAULT(mon_software_exception(m.v, MON_BP, 0x60001), MON_GP, 3 * 8 + 2);
    ASSERT_OK(mon_software_exception(m.v, MON_DB, 0x60001));
    ASSERT_HEX(get32(&m, m.v->cpu->gpr[RT_SP]), 0x60001);
}

Test(cpu_event, faults_push_their_error_code_and_rf)
{
    uint64_t sp = m.v->cpu->gpr[RT_SP];
    mon_raise_error(m.v, MON_GP, 0x1234);
    ASSERT_OK(mon_exception_deliver(m.v));
    ASSERT_FRAME(sp - 16, 0x1234, 0x61000, SEL_CODE0, RT_RF | RT_IF | 2);
    ASSERT_HEX(m.v->cpu->rip, HANDLER + 13 * 16);
}

Test(cpu_event, page_faults_load_cr2)
{
    m.v->exc =
        (struct mon_exception){.vector = MON_PF, .has_error = true, .error = 6, .cr2 = 0x12345678};
    ASSERT_OK(mon_exception_deliver(m.v));
    ASSERT_HEX(m.v->cr2, 0x12345678);
    ASSERT_HEX(get32(&m, m.v->cpu->gpr[RT_SP]), 6);
}

Test(cpu_event, debug_traps_set_dr6_clear_gd_and_leave_rf_alone)
{
    m.v->dr[6] |= 5;
    m.v->dr[7] |= 1 << 13;
    mon_raise(m.v, MON_DB);
    m.v->exc.trap = true;
    m.v->exc.dr6 = 1 << 14;
    ASSERT_OK(mon_exception_deliver(m.v));
    ASSERT_HEX(m.v->dr[6], 0xffff4ff0);
    ASSERT_HEX(m.v->dr[7], 0x400);
    ASSERT_HEX(get32(&m, m.v->cpu->gpr[RT_SP] + 8), RT_IF | 2);
}

/* ---- Double and triple faults (SDM 3 table 6-5) ---- */

/* Paging with everything mapped but one page of a longer GDT. */
static void page_out(uint32_t gla)
{
    for (unsigned i = 0; i < 0x100; i++)
        put32(&m, 0x1000 + i * 4, i << 12 | 3);
    put32(&m, 0x1000 + (gla >> 12) * 4, 0);
    put32(&m, 0, 0x1003);
    m.v->gdt.limit = 0xffff;
    m.v->cr3 = 0;
    m.v->cr0 |= MON_CR0_PG;
}

struct double_row {
    uint8_t first, second; /* second: 0: the handler's segment is absent, 1: paged out */
    uint8_t delivered;
};
/* SDM 3 table 6-5, for each exception and both kinds of second one. */
static uint8_t by_the_table(uint8_t first, bool page_fault)
{
    bool contributory = first == MON_DE || (first >= MON_TS && first <= MON_GP);

    if (first == MON_PF || (contributory && !page_fault))
        return MON_DF;
    return page_fault ? MON_PF : MON_NP;
}

ParameterizedTestParameters(cpu_event, second_faults_follow_the_table)
{
    static const uint8_t firsts[] = {MON_DE, MON_DB, MON_BP, MON_OF, MON_BR, MON_UD,
                                     MON_NM, MON_TS, MON_NP, MON_SS, MON_GP, MON_PF,
                                     MON_MF, MON_AC, MON_MC, MON_XM};
    static struct double_row doubles[2 * sizeof(firsts)];

    for (unsigned n = 0; n < 2 * sizeof(firsts); n++)
        doubles[n] = (struct double_row){firsts[n / 2], n % 2, by_the_table(firsts[n / 2], n % 2)};
    return ROWS(struct double_row, doubles);
}
ParameterizedTest(struct double_row *row, cpu_event, second_faults_follow_the_table)
{
    set_descriptor(&m, SEL_ABSENT, descriptor(0, 0xfffff, 0xc01b));
    uint16_t selector = SEL_ABSENT;
    if (row->second) {
        page_out(GDT + 0x8000);
        selector = 0x8000;
    }
    set_idt(&m, row->first, gate(selector, HANDLER, 0x8e, 0));
    m.v->exc = (struct mon_exception){.vector = row->first};
    ASSERT_OK(mon_exception_deliver(m.v));
    ASSERT_HEX(m.v->cpu->rip, HANDLER + row->delivered * 16u);
    if (row->delivered == MON_DF)
        ASSERT_HEX(get32(&m, m.v->cpu->gpr[RT_SP]), 0);
    else if (row->delivered == MON_NP)
        ASSERT_HEX(get32(&m, m.v->cpu->gpr[RT_SP]), SEL_ABSENT | 1);
}

Test(cpu_event, triple_faults_end_in_a_shutdown_that_says_why)
{
    m.v->idt.limit = 0;
    m.v->cr2 = 0xcafe0000;
    mon_raise(m.v, MON_UD);
    cr_assert_eq(mon_exception_deliver(m.v), MON_EXIT);
    cr_assert_eq(m.v->run.exit_reason, NOVT_EXIT_SHUTDOWN);
    const char *text = m.v->run.fail.reason;
    cr_assert(strstr(text, "#UD #GP(0033) #GP(006b) #DF(0000) #GP(0043)"), "%s", text);
    cr_assert(strstr(text, "0008:00061000"), "%s", text);
    cr_assert(strstr(text, "cr2 cafe0000"), "%s", text);
    cr_assert(strlen(text) < sizeof(m.v->run.fail.reason));
}

Test(cpu_event, an_exit_on_the_way_leaves_the_exception_to_be_delivered_again)
{
    m.v->idt.base = MMIO_BASE;
    mon_raise_error(m.v, MON_GP, 0x50);
    cr_assert_eq(mon_exception_deliver(m.v), MON_EXIT);
    cr_assert_eq(m.v->run.exit_reason, NOVT_EXIT_MMIO);
    ASSERT_HEX(m.v->run.mmio.gpa, MMIO_BASE + 13 * 8);
    cr_assert_eq(m.v->exc.vector, MON_GP);
    m.v->replay.data[0] = gate(SEL_CODE0, HANDLER, 0x8e, 0);
    m.v->replay.done = 1;
    ASSERT_OK(mon_exception_deliver(m.v));
    ASSERT_HEX(get32(&m, m.v->cpu->gpr[RT_SP]), 0x50);
}

/* ---- Real mode ---- */

static void real_mode(void)
{
    m.v->cr0 &= ~(uint64_t)MON_CR0_PE;
    m.v->idt = (struct novt_dtable){0, 0x3ff};
    for (unsigned seg = 0; seg < 6; seg++)
        m.v->seg[seg] = (struct novt_segment){0x20000, 0xffff, 0x93, 0x2000};
    m.v->cpu->gpr[RT_SP] = 0x1000;
    m.v->cpu->rip = 0x100;
    put32(&m, 0x21 * 4, 0x30001234);
    put32(&m, 13 * 4, 0x30000d00);
    put32(&m, 8 * 4, 0x30000800);
}

Test(cpu_event, real_mode_goes_through_the_ivt)
{
    real_mode();
    m.v->cpu->rflags |= RT_TF | RT_AC | RT_CF;
    ASSERT_OK(mon_software_interrupt(m.v, 0x21, 0x102));
    ASSERT_HEX(m.v->cpu->rip, 0x1234);
    ASSERT_HEX(m.v->seg[NOVT_CS].base, 0x30000);
    ASSERT_HEX(m.v->cpu->gpr[RT_SP], 0xffa);
    ASSERT_HEX(get32(&m, 0x20ffa), 0x20000102);
    ASSERT_HEX(get16(&m, 0x20ffe), RT_IF | RT_TF | RT_CF | 2);
    ASSERT_HEX(m.v->cpu->rflags, RT_CF | 2);
    ASSERT_OK(mon_iret(m.v, 16, 0));
    ASSERT_HEX(m.v->cpu->rip, 0x102);
    ASSERT_HEX(m.v->seg[NOVT_CS].selector, 0x2000);
    ASSERT_HEX(m.v->cpu->rflags, RT_IF | RT_TF | RT_CF | 2);
}

Test(cpu_event, real_mode_exceptions_have_no_error_code)
{
    real_mode();
    mon_raise_error(m.v, MON_GP, 0);
    ASSERT_OK(mon_exception_deliver(m.v));
    ASSERT_HEX(m.v->cpu->rip, 0xd00);
    ASSERT_HEX(m.v->cpu->gpr[RT_SP], 0xffa);
    m.v->idt.limit = 13 * 4 + 2; /* #GP does not fit, #DF does */
    mon_raise_error(m.v, MON_GP, 0);
    ASSERT_OK(mon_exception_deliver(m.v));
    ASSERT_HEX(m.v->cpu->rip, 0x800);
}

/* ---- Virtual-8086 mode ---- */

static void v86_mode(unsigned iopl)
{
    m.v->cpu->rflags = RT_VM | RT_IF | 2 | (uint64_t)iopl << 12;
    m.v->cpu->cpl = 3;
    for (unsigned seg = 0; seg < 6; seg++)
        mon_seg_set_real(m.v, seg, (uint16_t)(0x2000 + seg));
    m.v->cpu->gpr[RT_SP] = 0x1000;
    m.v->cpu->rip = 0x100;
    m.v->mode_changed = false;
    put32(&m, 0x80 * 4, 0x30005678);
}

Test(cpu_event, interrupts_leave_v86_mode_with_all_segments_on_the_stack)
{
    v86_mode(0);
    ASSERT_OK(mon_interrupt_deliver(m.v, 0x20));
    ASSERT_FRAME(STACK0 - 36, 0x100, 0x2001, RT_VM | RT_IF | 2, 0x1000, 0x2002, 0x2000, 0x2003,
                 0x2004, 0x2005);
    cr_assert(!mon_v86(m.v) && m.v->mode_changed);
    cr_assert_eq(m.v->cpu->cpl, 0);
    for (unsigned seg = NOVT_DS; seg <= NOVT_GS; seg++)
        cr_assert(m.v->seg[seg].attr & MON_ATTR_UNUSABLE && !m.v->seg[seg].selector);
    ASSERT_OK(mon_iret(m.v, 32, 0));
    cr_assert(mon_v86(m.v));
    ASSERT_HEX(m.v->seg[NOVT_GS].base, 0x20050);
    ASSERT_HEX(m.v->cpu->gpr[RT_SP], 0x1000);
}

Test(cpu_event, handlers_for_v86_mode_run_at_cpl_0)
{
    v86_mode(3);
    set_idt(&m, 0x20, gate(SEL_CODE1, HANDLER, 0xee, 0));
    ASSERT_FAULT(mon_software_interrupt(m.v, 0x20, 0), MON_GP, SEL_CODE1);
    set_idt(&m, 0x20, gate(SEL_CONFORMING, HANDLER, 0xee, 0));
    ASSERT_FAULT(mon_software_interrupt(m.v, 0x20, 0), MON_GP, SEL_CONFORMING);
}

struct v86_row {
    uint8_t iopl;
    bool vme, redirect_bit;
    enum { TO_FAULT, TO_IDT, TO_IVT } to;
    uint32_t image; /* flags that the 8086 handler finds */
};
static struct v86_row v86_rows[] = {
    {0, false, false, TO_FAULT, 0},
    {3, false, false, TO_IDT, 0},
    {0, true, true, TO_FAULT, 0},
    {3, true, true, TO_IDT, 0},
    {3, true, false, TO_IVT, RT_IF | 0x3002},
    {0, true, false, TO_IVT, 0x3002}, /* VIF is clear: IF in the image is, too */
};
ParameterizedTestParameters(cpu_event, int_n_in_v86_mode_follows_iopl_and_redirection)
{
    return ROWS(struct v86_row, v86_rows);
}
ParameterizedTest(struct v86_row *row, cpu_event, int_n_in_v86_mode_follows_iopl_and_redirection)
{
    v86_mode(row->iopl);
    m.v->cr4 = row->vme ? MON_CR4_VME : 0;
    m.ram[TSS + 0x68 + 0x80 / 8] = row->redirect_bit;
    enum mon_rc rc = mon_software_interrupt(m.v, 0x80, 0x102);
    switch (row->to) {
    case TO_FAULT:
        ASSERT_FAULT(rc, MON_GP, 0);
        break;
    case TO_IDT:
        ASSERT_OK(rc);
        cr_assert(!mon_v86(m.v));
        break;
    case TO_IVT:
        ASSERT_OK(rc);
        cr_assert(mon_v86(m.v));
        ASSERT_HEX(m.v->cpu->rip, 0x5678);
        ASSERT_HEX(m.v->seg[NOVT_CS].selector, 0x3000);
        ASSERT_HEX(get16(&m, 0x20020 + 0xffe), row->image);
        ASSERT_HEX(m.v->cpu->rflags & RT_IF, row->iopl == 3 ? 0 : RT_IF);
        break;
    }
}

/* ---- Long mode ---- */

static void long_mode(void)
{
    m.v->efer = MON_EFER_LME | MON_EFER_LMA; /* paging stays off: addresses are identical */
    machine_seg(m.v, NOVT_CS, SEL_CODE64, 0xa09b);
    put64(&m, IDT + 0x20 * 16, gate(SEL_CODE64, 0x55667788, 0x8e, 0));
    put64(&m, IDT + 0x20 * 16 + 8, 0x7fff);
    put64(&m, TSS + 4, STACK1);
    put64(&m, TSS + 0x24 + 8, STACK0);
}

Test(cpu_event, long_mode_frames_are_aligned_and_always_have_a_stack_pointer)
{
    struct mon_vcpu *v = m.v;
    long_mode();
    v->cpu->gpr[RT_SP] = STACK0 - 0x103;
    ASSERT_OK(mon_interrupt_deliver(v, 0x20));
    ASSERT_HEX(v->cpu->rip, 0x7fff55667788);
    ASSERT_HEX(v->cpu->gpr[RT_SP], STACK0 - 0x110 - 40);
    const uint64_t frame[] = {0x61000, SEL_CODE64, RT_IF | 2, STACK0 - 0x103, SEL_DATA0};
    cr_assert_eq(memcmp(m.ram + v->cpu->gpr[RT_SP], frame, sizeof(frame)), 0);
    ASSERT_OK(mon_iret(v, 64, 0));
    ASSERT_HEX(v->cpu->gpr[RT_SP], STACK0 - 0x103);
    ASSERT_HEX(v->cpu->rip, 0x61000);
    ASSERT_HEX(v->seg[NOVT_SS].selector, SEL_DATA0);
}

Test(cpu_event, long_mode_takes_stacks_from_rsp0_and_ist)
{
    struct mon_vcpu *v = m.v;
    long_mode();
    machine_level(&m, 3);
    ASSERT_OK(mon_interrupt_deliver(v, 0x20));
    ASSERT_HEX(v->cpu->gpr[RT_SP], STACK1 - 40);
    ASSERT_HEX(v->seg[NOVT_SS].selector, 0);
    cr_assert(v->seg[NOVT_SS].attr & MON_ATTR_UNUSABLE);
    cr_assert(mon_code64(v));
    put64(&m, IDT + 0x20 * 16, gate(SEL_CODE64, 0x1000, 0x8e, 2));
    ASSERT_OK(mon_interrupt_deliver(v, 0x20));
    ASSERT_HEX(v->cpu->gpr[RT_SP], STACK0 - 40);
    put64(&m, IDT + 0x20 * 16, gate(SEL_CODE64, 0x1000, 0x8f, 2)); /* a trap gate */
    v->cpu->rflags |= RT_IF;
    ASSERT_OK(mon_interrupt_deliver(v, 0x20));
    cr_assert(v->cpu->rflags & RT_IF);
    put64(&m, IDT + 0x20 * 16 + 8, 0x8000);
    ASSERT_FAULT(mon_interrupt_deliver(v, 0x20), MON_GP, 1);
    put64(&m, IDT + 0x20 * 16, gate(SEL_CODE0, 0x1000, 0x8e, 2));
    ASSERT_FAULT(mon_interrupt_deliver(v, 0x20), MON_GP, SEL_CODE0 | 1);
}

/* ---- Task switches ---- */

/* A task that starts at HANDLER with every register holding its number. */
static void make_task(uint32_t tss, uint16_t cs, uint16_t data, uint32_t stack)
{
    put32(&m, tss + 0x20, HANDLER);
    put32(&m, tss + 0x24, RT_IF | 2);
    for (unsigned i = 0; i < 8; i++)
        put32(&m, tss + 0x28 + i * 4, 0x100 + i);
    put32(&m, tss + 0x28 + RT_SP * 4, stack);
    for (unsigned i = 0; i < 6; i++)
        put32(&m, tss + 0x48 + i * 4, i == NOVT_CS ? cs : data);
    put32(&m, tss + 0x60, 0);
    put32(&m, tss + 0x64, 0);
}

static unsigned busy(unsigned selector)
{
    return m.ram[GDT + selector + 5] >> 1 & 1;
}

Test(cpu_event, jump_to_a_tss_saves_one_task_and_loads_the_other)
{
    struct mon_vcpu *v = m.v;
    make_task(TSS_2, SEL_CODE3, SEL_DATA3, STACK3);
    v->cpu->gpr[RT_AX] = 0xaaaa;
    v->dr[7] |= 0x3;
    ASSERT_OK(mon_far_jump(v, SEL_TSS_2, 0, 32, 0x61007));
    ASSERT_HEX(get32(&m, TSS + 0x20), 0x61007);
    ASSERT_HEX(get32(&m, TSS + 0x24), RT_IF | 2);
    ASSERT_HEX(get32(&m, TSS + 0x28), 0xaaaa);
    ASSERT_HEX(get32(&m, TSS + 0x4c), SEL_CODE0);
    ASSERT_HEX(v->cpu->rip, HANDLER);
    ASSERT_HEX(v->cpu->gpr[RT_DI], 0x107);
    ASSERT_HEX(v->cpu->gpr[RT_SP], STACK3);
    cr_assert_eq(v->cpu->cpl, 3);
    ASSERT_HEX(v->seg[NOVT_CS].selector, SEL_CODE3);
    ASSERT_HEX(v->seg[NOVT_GS].selector, SEL_DATA3);
    ASSERT_HEX(v->tr.selector, SEL_TSS_2);
    cr_assert(busy(SEL_TSS_2) && !busy(SEL_TSS));
    cr_assert(v->cr0 & MON_CR0_TS);
    ASSERT_HEX(v->dr[7], 0x402);
    cr_assert(v->mode_changed);
}

Test(cpu_event, call_nests_and_iret_returns)
{
    struct mon_vcpu *v = m.v;
    make_task(TSS_2, SEL_CODE0, SEL_DATA0, STACK1);
    ASSERT_OK(mon_far_call(v, SEL_TASK_GATE, 0, 32, 0x61007));
    cr_assert(v->cpu->rflags & RT_NT);
    ASSERT_HEX(get16(&m, TSS_2), SEL_TSS);
    cr_assert(busy(SEL_TSS_2) && busy(SEL_TSS));
    v->cpu->gpr[RT_BX] = 0xbbbb;
    ASSERT_OK(mon_iret(v, 32, 0x50001));
    ASSERT_HEX(v->cpu->rip, 0x61007);
    ASSERT_HEX(v->tr.selector, SEL_TSS);
    cr_assert(!busy(SEL_TSS_2) && busy(SEL_TSS));
    ASSERT_HEX(get32(&m, TSS_2 + 0x20), 0x50001);
    ASSERT_HEX(get32(&m, TSS_2 + 0x24), RT_IF | 2); /* NT cleared in the image */
    ASSERT_HEX(get32(&m, TSS_2 + 0x28 + RT_BX * 4), 0xbbbb);
    ASSERT_HEX(v->cpu->rflags & RT_NT, 0);
}

Test(cpu_event, double_faults_may_have_their_own_task)
{
    struct mon_vcpu *v = m.v;
    make_task(TSS_2, SEL_CODE0, SEL_DATA0, STACK1);
    set_idt(&m, MON_DF, gate(SEL_TSS_2, 0, 0x85, 0));
    v->cpu->gpr[RT_SP] = 0x10; /* a stack on which nothing fits */
    v->seg[NOVT_SS].limit = 0xfff;
    v->seg[NOVT_SS].attr = 0xc097; /* expand-down */
    mon_raise_error(v, MON_GP, 0);
    ASSERT_OK(mon_exception_deliver(v));
    ASSERT_HEX(v->cpu->rip, HANDLER);
    ASSERT_HEX(v->cpu->gpr[RT_SP], STACK1 - 4); /* with the error code */
    ASSERT_HEX(get32(&m, STACK1 - 4), 0);
    ASSERT_HEX(get32(&m, TSS + 0x20), 0x61000);
}

Test(cpu_event, sixteen_bit_tasks)
{
    struct mon_vcpu *v = m.v;
    put16(&m, TSS_16 + 0x0e, 0x4444);
    put16(&m, TSS_16 + 0x10, 2);
    put16(&m, TSS_16 + 0x12 + RT_SP * 2, 0x3000);
    put16(&m, TSS_16 + 0x22, SEL_DATA0);
    put16(&m, TSS_16 + 0x24, SEL_CODE0);
    put16(&m, TSS_16 + 0x26, SEL_DATA0_16);
    put16(&m, TSS_16 + 0x28, SEL_DATA0);
    ASSERT_OK(mon_far_jump(v, SEL_TSS_16, 0, 32, 0x61007));
    ASSERT_HEX(v->cpu->rip, 0x4444);
    ASSERT_HEX(v->cpu->gpr[RT_SP] & 0xffff, 0x3000);
    cr_assert(v->seg[NOVT_FS].attr & MON_ATTR_UNUSABLE);
    make_task(TSS_2, SEL_CODE0, SEL_DATA0, STACK1);
    v->cpu->gpr[RT_CX] = 0x12349999;
    ASSERT_OK(mon_far_jump(v, SEL_TSS_2, 0, 32, 0x4449));
    ASSERT_HEX(get16(&m, TSS_16 + 0x0e), 0x4449);
    ASSERT_HEX(get16(&m, TSS_16 + 0x12 + RT_CX * 2), 0x9999);
}

Test(cpu_event, task_switches_load_cr3_and_trap_when_asked)
{
    struct mon_vcpu *v = m.v;
    for (unsigned i = 0; i < 0x100; i++)
        put32(&m, 0x1000 + i * 4, i << 12 | 7);
    put32(&m, 0, 0x1007);
    put32(&m, 0x5000, 0x1007);
    v->cr3 = 0;
    v->cr0 |= MON_CR0_PG;
    make_task(TSS_2, SEL_CODE0, SEL_DATA0, STACK1);
    put32(&m, TSS_2 + 0x1c, 0x5000);
    put32(&m, TSS_2 + 0x64, 1);
    ASSERT_FAULT(mon_far_jump(v, SEL_TSS_2, 0, 32, 0x61007), MON_DB, 0);
    cr_assert(v->exc.trap);
    ASSERT_HEX(v->exc.dr6, 1 << 15);
    ASSERT_HEX(v->cr3, 0x5000);
    cr_assert(v->mode_changed);
    ASSERT_HEX(v->cpu->rip, HANDLER);
}

struct task_row {
    uint16_t offset, value; /* written into the new TSS */
    uint8_t vector;
    uint16_t error;
};
static struct task_row tasks[] = {
    {0x60, SEL_DATA0, MON_TS, SEL_DATA0}, /* LDT */
    {0x60, SEL_LDT | 4, MON_TS, SEL_LDT | 4},
    {0x4c, 0, MON_TS, 0}, /* CS */
    {0x4c, SEL_DATA0, MON_TS, SEL_DATA0},
    {0x4c, SEL_CODE3, MON_TS, SEL_DATA0}, /* CPL becomes 3, SS has DPL 0 */
    {0x4c, SEL_CODE0 | 3, MON_TS, SEL_CODE0},
    {0x50, 0, MON_TS, 0}, /* SS */
    {0x50, SEL_ABSENT, MON_SS, SEL_ABSENT},
    {0x54, SEL_EXEC_ONLY, MON_TS, SEL_EXEC_ONLY}, /* DS */
    {0x54, SEL_ABSENT, MON_NP, SEL_ABSENT},
    {0x5c, 0x400, MON_TS, 0x400}, /* GS */
};
ParameterizedTestParameters(cpu_event, bad_selectors_fault_in_the_new_task)
{
    return ROWS(struct task_row, tasks);
}
ParameterizedTest(struct task_row *row, cpu_event, bad_selectors_fault_in_the_new_task)
{
    make_task(TSS_2, SEL_CODE0, SEL_DATA0, STACK1);
    put32(&m, TSS_2 + row->offset, row->value);
    ASSERT_FAULT(mon_far_jump(m.v, SEL_TSS_2, 0, 32, 0x61007), row->vector, row->error);
    ASSERT_HEX(m.v->tr.selector, SEL_TSS_2);
    ASSERT_HEX(m.v->cpu->rip, HANDLER);
}

Test(cpu_event, bad_tss_descriptors_fault_in_the_old_task)
{
    struct mon_vcpu *v = m.v;
    make_task(TSS_2, SEL_CODE0, SEL_DATA0, STACK1);
    set_descriptor(&m, SEL_TSS_2, descriptor(TSS_2, 0x66, 0x00e9));
    ASSERT_FAULT(mon_far_jump(v, SEL_TSS_2, 0, 32, 0x61007), MON_TS, SEL_TSS_2);
    set_descriptor(&m, SEL_TSS_2, descriptor(TSS_2, 0x67, 0x0069));
    ASSERT_FAULT(mon_far_jump(v, SEL_TASK_GATE, 0, 32, 0x61007), MON_NP, SEL_TSS_2);
    set_descriptor(&m, SEL_TASK_GATE, gate(SEL_TSS, 0, 0xe5, 0));
    ASSERT_FAULT(mon_far_call(v, SEL_TASK_GATE, 0, 32, 0x61007), MON_GP, SEL_TSS); /* busy */
    v->cpu->rflags |= RT_NT;
    put16(&m, TSS, SEL_TSS_2); /* the link names a task that is not busy */
    ASSERT_FAULT(mon_iret(v, 32, 0x61001), MON_TS, SEL_TSS_2);
    ASSERT_HEX(v->tr.selector, SEL_TSS);
    ASSERT_HEX(v->cpu->rip, 0x61000);
}

Test(cpu_event, what_a_switch_will_write_is_checked_before_it_begins)
{
    struct mon_vcpu *v = m.v;
    const uint32_t read_only[] = {TSS, TSS_2, GDT};
    make_task(TSS_2, SEL_CODE0, SEL_DATA0, STACK1);
    for (unsigned n = 0; n < 3; n++) {
        for (unsigned i = 0; i < 0x100; i++)
            put32(&m, 0x1000 + i * 4, i << 12 | 3);
        put32(&m, 0x1000 + (read_only[n] >> 12) * 4, read_only[n] | 1);
        put32(&m, 0, 0x1003);
        v->cr3 = 0;
        v->cr0 |= MON_CR0_PG | MON_CR0_WP;
        ASSERT_FAULT(mon_far_call(v, SEL_TASK_GATE, 0, 32, 0x61007), MON_PF, 3);
        ASSERT_HEX(v->exc.cr2 & ~(uint64_t)0xfff, read_only[n]);
        ASSERT_HEX(v->tr.selector, SEL_TSS);
        ASSERT_HEX(get16(&m, TSS_2), 0);
        ASSERT_HEX(get32(&m, TSS + 0x20), 0);
        cr_assert(!busy(SEL_TSS_2));
    }
}

Test(cpu_event, sixteen_bit_tasks_keep_cr3)
{
    struct mon_vcpu *v = m.v;
    for (unsigned i = 0; i < 0x100; i++)
        put32(&m, 0x6000 + i * 4, i << 12 | 3);
    put32(&m, 0x5000, 0x6003);
    v->cr3 = 0x5000;
    v->cr0 |= MON_CR0_PG;
    put16(&m, TSS_16 + 0x22, SEL_DATA0);
    put16(&m, TSS_16 + 0x24, SEL_CODE0);
    put16(&m, TSS_16 + 0x26, SEL_DATA0);
    put16(&m, TSS_16 + 0x28, SEL_DATA0);
    ASSERT_OK(mon_far_jump(v, SEL_TSS_16, 0, 32, 0x61007));
    ASSERT_HEX(v->cr3, 0x5000);
}
