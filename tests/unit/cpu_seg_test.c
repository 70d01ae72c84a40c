/* Segment registers, effective addresses, LAR and friends, and far transfers of control. */
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
TestSuite(cpu_seg, .init = setup, .fini = teardown, .timeout = 30);

#define ROWS(type, rows) cr_make_param_array(type, rows, sizeof(rows) / sizeof((rows)[0]))
#define NO_FAULT         255

/* ---- Loading data segments ---- */

struct load_row {
    uint8_t cpl, seg;
    uint16_t selector;
    uint8_t vector; /* NO_FAULT: loads */
    uint16_t error;
};
static struct load_row loads[] = {
    {0, NOVT_DS, SEL_DATA0, NO_FAULT, 0},
    {0, NOVT_ES, SEL_DATA3, NO_FAULT, 0},
    {0, NOVT_FS, 0, NO_FAULT, 0},
    {3, NOVT_GS, 3, NO_FAULT, 0},
    {0, NOVT_DS, SEL_CODE0, NO_FAULT, 0},
    {0, NOVT_DS, SEL_READ_ONLY, NO_FAULT, 0},
    {3, NOVT_DS, SEL_CONFORMING, NO_FAULT, 0},
    {0, NOVT_DS, SEL_EXEC_ONLY, MON_GP, SEL_EXEC_ONLY},
    {0, NOVT_DS, SEL_TSS, MON_GP, SEL_TSS},
    {0, NOVT_DS, SEL_ABSENT, MON_NP, SEL_ABSENT},
    {3, NOVT_DS, SEL_ABSENT, MON_GP, SEL_ABSENT},
    {3, NOVT_DS, SEL_DATA0, MON_GP, SEL_DATA0},
    {0, NOVT_DS, SEL_DATA0 | 3, MON_GP, SEL_DATA0},
    {0, NOVT_DS, 0x100, MON_GP, 0x100},
    {0, NOVT_DS, 0x0c, MON_GP, 0x0c}, /* no LDT */
    {0, NOVT_SS, SEL_DATA0, NO_FAULT, 0},
    {0, NOVT_SS, 0, MON_GP, 0},
    {3, NOVT_SS, 3, MON_GP, 0},
    {3, NOVT_SS, SEL_DATA3, NO_FAULT, 0},
    {0, NOVT_SS, SEL_DATA3, MON_GP, SEL_DATA3 & ~3},
    {0, NOVT_SS, SEL_DATA0 | 3, MON_GP, SEL_DATA0},
    {3, NOVT_SS, SEL_DATA0 | 3, MON_GP, SEL_DATA0},
    {0, NOVT_SS, SEL_READ_ONLY, MON_GP, SEL_READ_ONLY},
    {0, NOVT_SS, SEL_CODE0, MON_GP, SEL_CODE0},
    {0, NOVT_SS, SEL_ABSENT, MON_SS, SEL_ABSENT},
};
ParameterizedTestParameters(cpu_seg, loads_check_type_privilege_presence)
{
    return ROWS(struct load_row, loads);
}
ParameterizedTest(struct load_row *row, cpu_seg, loads_check_type_privilege_presence)
{
    machine_level(&m, row->cpl);
    struct novt_segment before = m.v->seg[row->seg];
    enum mon_rc rc = mon_seg_load(m.v, row->seg, row->selector);
    if (row->vector != NO_FAULT) {
        ASSERT_FAULT(rc, row->vector, row->error);
        cr_assert_eq(m.v->seg[row->seg].selector, before.selector);
        return;
    }
    ASSERT_OK(rc);
    cr_assert_eq(m.v->seg[row->seg].selector, row->selector);
    cr_assert_eq(!(m.v->seg[row->seg].attr & MON_ATTR_UNUSABLE), (row->selector & ~3) != 0);
}

Test(cpu_seg, load_takes_base_limit_and_sets_accessed)
{
    set_descriptor(&m, SEL_SMALL, descriptor(0x12345678, 0x1fff, 0x4092));
    ASSERT_OK(mon_seg_load(m.v, NOVT_ES, SEL_SMALL));
    ASSERT_HEX(m.v->seg[NOVT_ES].base, 0x12345678);
    ASSERT_HEX(m.v->seg[NOVT_ES].limit, 0x1fff);
    ASSERT_HEX(m.v->seg[NOVT_ES].attr, 0x4093);
    ASSERT_HEX(m.ram[GDT + SEL_SMALL + 5], 0x93);
    set_descriptor(&m, SEL_SMALL, descriptor(0x12345678, 0x1ffff, 0xc093));
    ASSERT_OK(mon_seg_load(m.v, NOVT_ES, SEL_SMALL));
    ASSERT_HEX(m.v->seg[NOVT_ES].limit, 0x1fffffff);
}

Test(cpu_seg, selectors_with_ti_come_from_the_ldt)
{
    put64(&m, LDT + 8, descriptor(0x7000, 0xff, 0x40f3));
    ASSERT_OK(mon_seg_lldt(m.v, SEL_LDT));
    ASSERT_OK(mon_seg_load(m.v, NOVT_DS, 0x0c | 3));
    ASSERT_HEX(m.v->seg[NOVT_DS].base, 0x7000);
    ASSERT_FAULT(mon_seg_load(m.v, NOVT_DS, 0x104), MON_GP, 0x104);
    ASSERT_OK(mon_seg_lldt(m.v, 0));
    ASSERT_FAULT(mon_seg_load(m.v, NOVT_DS, 0x0c), MON_GP, 0x0c);
}

Test(cpu_seg, lldt_and_ltr_check_their_descriptors)
{
    ASSERT_FAULT(mon_seg_lldt(m.v, SEL_DATA0), MON_GP, SEL_DATA0);
    ASSERT_FAULT(mon_seg_lldt(m.v, SEL_LDT | 4), MON_GP, SEL_LDT | 4);
    set_descriptor(&m, SEL_LDT, descriptor(LDT, 0xff, 0x0002));
    ASSERT_FAULT(mon_seg_lldt(m.v, SEL_LDT), MON_NP, SEL_LDT);
    ASSERT_FAULT(mon_seg_ltr(m.v, 0), MON_GP, 0);
    ASSERT_FAULT(mon_seg_ltr(m.v, SEL_TSS), MON_GP, SEL_TSS); /* busy */
    ASSERT_OK(mon_seg_ltr(m.v, SEL_TSS_2));
    ASSERT_HEX(m.ram[GDT + SEL_TSS_2 + 5], 0xeb);
    ASSERT_HEX(m.v->tr.attr & 0xff, 0xeb);
    ASSERT_HEX(m.v->tr.base, TSS_2);
    m.v->cpu->cpl = 3;
    ASSERT_FAULT(mon_seg_ltr(m.v, SEL_TSS_16), MON_GP, 0);
}

Test(cpu_seg, a_read_only_gdt_faults_when_the_accessed_bit_is_due)
{
    m.v->cr0 |= MON_CR0_PG | MON_CR0_WP;
    m.v->cr3 = 0;
    put32(&m, 0, 0x1003);
    put32(&m, 0x1000 + 0x10 * 4, GDT | 1);
    set_descriptor(&m, SEL_DATA0, descriptor(0, 0xfffff, 0xc092));
    ASSERT_FAULT(mon_seg_load(m.v, NOVT_DS, SEL_DATA0), MON_PF, 3);
    ASSERT_HEX(m.v->exc.cr2, GDT + SEL_DATA0 + 5);
    set_descriptor(&m, SEL_DATA0, descriptor(0, 0xfffff, 0xc093));
    ASSERT_OK(mon_seg_load(m.v, NOVT_DS, SEL_DATA0));
}

Test(cpu_seg, real_mode_keeps_limits_and_v86_sets_them)
{
    m.v->cr0 &= ~(uint64_t)MON_CR0_PE;
    ASSERT_OK(mon_seg_load(m.v, NOVT_ES, 0x1234));
    ASSERT_HEX(m.v->seg[NOVT_ES].base, 0x12340);
    ASSERT_HEX(m.v->seg[NOVT_ES].limit, 0xffffffff);
    m.v->cr0 |= MON_CR0_PE;
    m.v->cpu->rflags |= RT_VM;
    m.v->cpu->cpl = 3;
    ASSERT_OK(mon_seg_load(m.v, NOVT_SS, 0x4321));
    ASSERT_HEX(m.v->seg[NOVT_SS].base, 0x43210);
    ASSERT_HEX(m.v->seg[NOVT_SS].limit, 0xffff);
    ASSERT_HEX(m.v->seg[NOVT_SS].attr, 0xf3);
}

/* ---- Effective addresses ---- */

struct linear_row {
    uint16_t selector;
    uint8_t seg, access;
    uint32_t offset, len;
    int64_t gla; /* -1: fault */
};
static struct linear_row linears[] = {
    {SEL_SMALL, NOVT_DS, MON_READ, 0xfff, 1, 0x40fff},
    {SEL_SMALL, NOVT_DS, MON_READ, 0xffc, 4, 0x40ffc},
    {SEL_SMALL, NOVT_DS, MON_WRITE, 0xffd, 4, -1},
    {SEL_SMALL, NOVT_SS, MON_READ, 0x1000, 1, -1},
    {SEL_SMALL, NOVT_DS, MON_READ, 0xffffffff, 2, -1},
    {SEL_DOWN, NOVT_DS, MON_READ, 0x1000, 4, 0x41000},
    {SEL_DOWN, NOVT_DS, MON_READ, 0x0fff, 1, -1},
    {SEL_DOWN, NOVT_DS, MON_WRITE, 0xffff, 1, 0x4ffff},
    {SEL_DOWN, NOVT_DS, MON_WRITE, 0xffff, 2, -1}, /* B clear: 64 KiB */
    {SEL_READ_ONLY, NOVT_DS, MON_READ, 0x1234, 4, 0x1234},
    {SEL_READ_ONLY, NOVT_DS, MON_WRITE, 0x1234, 4, -1},
    {SEL_CODE0, NOVT_DS, MON_READ, 0x1234, 4, 0x1234},
    {SEL_CODE0, NOVT_DS, MON_WRITE, 0x1234, 4, -1},
    {0, NOVT_DS, MON_READ, 0, 1, -1},
    {SEL_DATA0, NOVT_DS, MON_READ, 0xfffffffe, 4, 0xfffffffe}, /* flat: wraps */
};
ParameterizedTestParameters(cpu_seg, effective_addresses_obey_limit_and_type)
{
    return ROWS(struct linear_row, linears);
}
ParameterizedTest(struct linear_row *row, cpu_seg, effective_addresses_obey_limit_and_type)
{
    uint64_t gla = 0;
    ASSERT_OK(mon_seg_load(m.v, row->seg, row->selector));
    enum mon_rc rc = mon_seg_linear(m.v, row->seg, row->offset, row->len, row->access, &gla);
    if (row->gla < 0) {
        ASSERT_FAULT(rc, row->seg == NOVT_SS ? MON_SS : MON_GP, 0);
    } else {
        ASSERT_OK(rc);
        ASSERT_HEX(gla, (uint64_t)row->gla);
    }
}

Test(cpu_seg, execute_only_code_is_fetched_but_not_read)
{
    uint64_t gla;
    m.v->seg[NOVT_CS].attr = 0xc099;
    ASSERT_FAULT(mon_seg_linear(m.v, NOVT_CS, 0, 4, MON_READ, &gla), MON_GP, 0);
    ASSERT_OK(mon_seg_linear(m.v, NOVT_CS, 0, 4, MON_FETCH, &gla));
    m.v->cr0 &= ~(uint64_t)MON_CR0_PE; /* real mode checks limits only */
    ASSERT_OK(mon_seg_linear(m.v, NOVT_CS, 0, 4, MON_WRITE, &gla));
    m.v->seg[NOVT_DS].limit = 0xffff;
    ASSERT_FAULT(mon_seg_linear(m.v, NOVT_DS, 0xffff, 2, MON_READ, &gla), MON_GP, 0);
}

/* ---- LAR, LSL, VERR, VERW ---- */

struct query_row {
    uint8_t cpl;
    uint16_t selector;
    bool lar, lsl, verr, verw;
    uint32_t rights, limit;
};
static struct query_row queries[] = {
    {0, SEL_DATA0, true, true, true, true, 0xcf9300, 0xffffffff},
    {3, SEL_DATA0, false, false, false, false, 0, 0},
    {3, SEL_DATA3, true, true, true, true, 0xcff300, 0xffffffff},
    {0, SEL_DATA0 | 1, false, false, false, false, 0, 0},
    {3, SEL_CONFORMING, true, true, true, false, 0xcf9f00, 0xffffffff},
    {0, SEL_EXEC_ONLY, true, true, false, false, 0xcf9900, 0xffffffff},
    {0, SEL_READ_ONLY, true, true, true, false, 0xcf9100, 0xffffffff},
    {0, SEL_SMALL, true, true, true, true, 0x409300, 0xfff},
    {0, SEL_ABSENT, true, true, true, true, 0xcf1300, 0xffffffff},
    {0, SEL_TSS, true, true, false, false, 0x008b00, TSS_LIMIT},
    {0, SEL_LDT, true, true, false, false, 0x008200, 0xff},
    {0, SEL_GATE32, true, false, false, false, 0x00ec00, 0},
    {0, SEL_TASK_GATE, true, false, false, false, 0x00e500, 0},
    {0, 0, false, false, false, false, 0, 0},
    {0, 3, false, false, false, false, 0, 0},
    {0, 0x200, false, false, false, false, 0, 0},
    {0, 0x0c, false, false, false, false, 0, 0},
};
ParameterizedTestParameters(cpu_seg, queries_answer_in_zf)
{
    return ROWS(struct query_row, queries);
}
ParameterizedTest(struct query_row *row, cpu_seg, queries_answer_in_zf)
{
    uint32_t value = 0;
    bool zf;
    m.v->cpu->cpl = row->cpl;
    set_descriptor(&m, SEL_GATE32, gate(0, 0, 0xec, 0));
    ASSERT_OK(mon_seg_lar(m.v, row->selector, &value, &zf));
    cr_assert_eq(zf, row->lar);
    if (zf)
        ASSERT_HEX(value, row->rights);
    ASSERT_OK(mon_seg_lsl(m.v, row->selector, &value, &zf));
    cr_assert_eq(zf, row->lsl);
    if (zf)
        ASSERT_HEX(value, row->limit);
    ASSERT_OK(mon_seg_verify(m.v, row->selector, false, &zf));
    cr_assert_eq(zf, row->verr);
    ASSERT_OK(mon_seg_verify(m.v, row->selector, true, &zf));
    cr_assert_eq(zf, row->verw);
}

Test(cpu_seg, interrupt_gates_have_no_rights_to_show)
{
    uint32_t value;
    bool zf = true;
    set_descriptor(&m, SEL_GATE32, gate(SEL_CODE0, 0, 0xee, 0));
    ASSERT_OK(mon_seg_lar(m.v, SEL_GATE32, &value, &zf));
    cr_assert(!zf);
}

/* ---- Far JMP ---- */

struct jump_row {
    uint8_t cpl;
    uint16_t selector;
    uint32_t offset;
    uint8_t vector;
    uint16_t error; /* or the new CS selector */
};
static struct jump_row jumps[] = {
    {0, SEL_CODE0, 0x1000, NO_FAULT, SEL_CODE0},
    {3, SEL_CODE3, 0x1000, NO_FAULT, SEL_CODE3},
    {3, SEL_CODE3 & ~3, 0x1000, NO_FAULT, SEL_CODE3},
    {3, SEL_CONFORMING, 0x1000, NO_FAULT, SEL_CONFORMING | 3},
    {0, SEL_CONFORMING | 3, 0x1000, NO_FAULT, SEL_CONFORMING},
    {0, SEL_CODE3, 0x1000, MON_GP, SEL_CODE3 & ~3},
    {3, SEL_CODE0, 0x1000, MON_GP, SEL_CODE0},
    {0, SEL_CODE0 | 3, 0x1000, MON_GP, SEL_CODE0},
    {0, SEL_DATA0, 0x1000, MON_GP, SEL_DATA0},
    {0, 0, 0x1000, MON_GP, 0},
    {0, SEL_LDT, 0x1000, MON_GP, SEL_LDT},
    {0, SEL_TSS, 0x1000, MON_GP, SEL_TSS}, /* busy */
    {0, SEL_SMALL_CODE, 0x100, MON_GP, 0},
    {0, SEL_SMALL_CODE, 0xff, NO_FAULT, SEL_SMALL_CODE},
    {0, 0x200, 0, MON_GP, 0x200},
};
ParameterizedTestParameters(cpu_seg, far_jumps_check_privilege_and_limit)
{
    return ROWS(struct jump_row, jumps);
}
ParameterizedTest(struct jump_row *row, cpu_seg, far_jumps_check_privilege_and_limit)
{
    machine_level(&m, row->cpl);
    uint64_t rip = m.v->cpu->rip;
    enum mon_rc rc = mon_far_jump(m.v, row->selector, row->offset, 32, rip + 7);
    if (row->vector != NO_FAULT) {
        ASSERT_FAULT(rc, row->vector, row->error);
        ASSERT_HEX(m.v->cpu->rip, rip);
        return;
    }
    ASSERT_OK(rc);
    ASSERT_HEX(m.v->cpu->rip, row->offset);
    ASSERT_HEX(m.v->seg[NOVT_CS].selector, row->error);
    cr_assert_eq(m.v->cpu->cpl, row->cpl);
}

Test(cpu_seg, jumps_through_call_gates_stay_at_their_level)
{
    set_descriptor(&m, SEL_ABSENT, descriptor(0, 0xfffff, 0xc01b));
    ASSERT_OK(mon_far_jump(m.v, SEL_GATE32, 0x999, 32, 0));
    ASSERT_HEX(m.v->cpu->rip, HANDLER);
    machine_level(&m, 3);
    ASSERT_FAULT(mon_far_jump(m.v, SEL_GATE32, 0, 32, 0), MON_GP, SEL_CODE0);
    set_descriptor(&m, SEL_GATE32, gate(SEL_CODE3, 0x12345, 0xec, 0));
    ASSERT_OK(mon_far_jump(m.v, SEL_GATE32, 0, 32, 0));
    ASSERT_HEX(m.v->cpu->rip, 0x12345);
    set_descriptor(&m, SEL_GATE32, gate(SEL_CODE3, 0x12345, 0x8c, 0));
    ASSERT_FAULT(mon_far_jump(m.v, SEL_GATE32, 0, 32, 0), MON_GP, SEL_GATE32);
    set_descriptor(&m, SEL_GATE32, gate(SEL_CODE3, 0x12345, 0x6c, 0));
    ASSERT_FAULT(mon_far_jump(m.v, SEL_GATE32, 0, 32, 0), MON_NP, SEL_GATE32);
    machine_level(&m, 0);
    set_descriptor(&m, SEL_GATE32, gate(SEL_ABSENT, 0, 0x8c, 0));
    ASSERT_FAULT(mon_far_jump(m.v, SEL_GATE32, 0, 32, 0), MON_NP, SEL_ABSENT);
    set_descriptor(&m, SEL_GATE32, gate(3, 0, 0x8c, 0));
    ASSERT_FAULT(mon_far_jump(m.v, SEL_GATE32, 0, 32, 0), MON_GP, 0);
}

Test(cpu_seg, real_mode_far_transfers)
{
    struct mon_vcpu *v = m.v;
    v->cr0 &= ~(uint64_t)MON_CR0_PE;
    for (unsigned seg = 0; seg < 6; seg++)
        v->seg[seg] = (struct novt_segment){0x20000, 0xffff, 0x93, 0x2000};
    v->cpu->gpr[RT_SP] = 0xabcd0002;
    v->cpu->rip = 0x100;
    ASSERT_OK(mon_far_call(v, 0x3000, 0x12340010, 16, 0x105));
    ASSERT_HEX(v->cpu->gpr[RT_SP], 0xabcdfffe); /* wraps in 16 bits */
    ASSERT_HEX(get32(&m, 0x2fffe) & 0xffff, 0x105);
    ASSERT_HEX(get16(&m, 0x20000), 0x2000);
    ASSERT_HEX(v->seg[NOVT_CS].base, 0x30000);
    ASSERT_HEX(v->cpu->rip, 0x10);
    ASSERT_OK(mon_far_return(v, 16, 4));
    ASSERT_HEX(v->cpu->gpr[RT_SP], 0xabcd0006);
    ASSERT_HEX(v->seg[NOVT_CS].selector, 0x2000);
    ASSERT_HEX(v->cpu->rip, 0x105);
    ASSERT_FAULT(mon_far_jump(v, 0x1000, 0x10000, 32, 0), MON_GP, 0);
    v->cpu->gpr[RT_SP] = 1;
    ASSERT_FAULT(mon_far_call(v, 0x3000, 0, 16, 0x105), MON_SS, 0);
    ASSERT_HEX(v->cpu->gpr[RT_SP], 1);
}

/* ---- CALL and RET ---- */

Test(cpu_seg, call_and_return_at_the_same_level)
{
    struct mon_vcpu *v = m.v;
    uint64_t sp = v->cpu->gpr[RT_SP];
    ASSERT_OK(mon_far_call(v, SEL_CONFORMING, 0x4000, 32, 0x61007));
    ASSERT_HEX(v->cpu->gpr[RT_SP], sp - 8);
    ASSERT_HEX(get32(&m, sp - 4), SEL_CODE0);
    ASSERT_HEX(get32(&m, sp - 8), 0x61007);
    ASSERT_HEX(v->seg[NOVT_CS].selector, SEL_CONFORMING);
    ASSERT_OK(mon_far_return(v, 32, 12));
    ASSERT_HEX(v->cpu->gpr[RT_SP], sp + 12);
    ASSERT_HEX(v->cpu->rip, 0x61007);
    ASSERT_HEX(v->seg[NOVT_CS].selector, SEL_CODE0);
}

Test(cpu_seg, call_gate_to_an_inner_level_copies_parameters_and_returns)
{
    struct mon_vcpu *v = m.v;
    machine_level(&m, 3);
    put32(&m, STACK3, 0x11111111);
    put32(&m, STACK3 + 4, 0x22222222);
    ASSERT_OK(mon_far_call(v, SEL_GATE32, 0xdead, 32, 0x60007));
    cr_assert_eq(v->cpu->cpl, 0);
    cr_assert(v->mode_changed);
    ASSERT_HEX(v->seg[NOVT_CS].selector, SEL_CODE0);
    ASSERT_HEX(v->seg[NOVT_SS].selector, SEL_DATA0);
    ASSERT_HEX(v->cpu->rip, HANDLER);
    ASSERT_HEX(v->cpu->gpr[RT_SP], STACK0 - 24);
    const uint32_t frame[] = {0x60007, SEL_CODE3, 0x11111111, 0x22222222, STACK3, SEL_DATA3};
    for (unsigned i = 0; i < 6; i++)
        ASSERT_HEX(get32(&m, STACK0 - 24 + i * 4), frame[i]);
    ASSERT_OK(mon_seg_load(v, NOVT_DS, SEL_DATA0));
    ASSERT_OK(mon_seg_load(v, NOVT_FS, SEL_CONFORMING));
    ASSERT_OK(mon_far_return(v, 32, 8));
    cr_assert_eq(v->cpu->cpl, 3);
    ASSERT_HEX(v->cpu->gpr[RT_SP], STACK3 + 8);
    ASSERT_HEX(v->cpu->rip, 0x60007);
    ASSERT_HEX(v->seg[NOVT_SS].selector, SEL_DATA3);
    ASSERT_HEX(v->seg[NOVT_DS].selector, 0); /* the inner level's data segment is revoked */
    cr_assert(v->seg[NOVT_DS].attr & MON_ATTR_UNUSABLE);
    ASSERT_HEX(v->seg[NOVT_ES].selector, SEL_DATA3);
    ASSERT_HEX(v->seg[NOVT_FS].selector, SEL_CONFORMING);
}

Test(cpu_seg, sixteen_bit_call_gate_pushes_words)
{
    machine_level(&m, 3);
    put16(&m, STACK3, 0x7777);
    ASSERT_OK(mon_far_call(m.v, SEL_GATE16, 0, 32, 0x8005));
    ASSERT_HEX(m.v->cpu->rip, 0x1234);
    ASSERT_HEX(m.v->cpu->gpr[RT_SP], STACK0 - 10);
    const uint16_t frame[] = {0x8005, SEL_CODE3, 0x7777, STACK3 & 0xffff, SEL_DATA3};
    for (unsigned i = 0; i < 5; i++)
        ASSERT_HEX(get16(&m, STACK0 - 10 + i * 2), frame[i]);
}

struct inner_row {
    uint16_t ss;
    uint32_t esp, tr_limit;
    uint8_t vector;
    uint16_t error;
};
static struct inner_row inners[] = {
    {0, STACK0, 0x67, MON_TS, 0},
    {SEL_DATA3, STACK0, 0x67, MON_TS, SEL_DATA3 & ~3},
    {SEL_DATA0 | 3, STACK0, 0x67, MON_TS, SEL_DATA0},
    {SEL_READ_ONLY, STACK0, 0x67, MON_TS, SEL_READ_ONLY},
    {0x200, STACK0, 0x67, MON_TS, 0x200},
    {SEL_ABSENT, STACK0, 0x67, MON_SS, SEL_ABSENT},
    {SEL_SMALL, 0x10, 0x67, MON_SS, SEL_SMALL}, /* 24 bytes do not fit */
    {SEL_DATA0, STACK0, 0x08, MON_TS, SEL_TSS},
    {SEL_DATA0, STACK0, 0x09, NO_FAULT, 0},
};
ParameterizedTestParameters(cpu_seg, inner_stacks_are_checked_before_anything_changes)
{
    return ROWS(struct inner_row, inners);
}
ParameterizedTest(struct inner_row *row, cpu_seg, inner_stacks_are_checked_before_anything_changes)
{
    machine_level(&m, 3);
    put32(&m, TSS + 4, row->esp);
    put32(&m, TSS + 8, row->ss);
    m.v->tr.limit = row->tr_limit;
    enum mon_rc rc = mon_far_call(m.v, SEL_GATE32, 0, 32, 0x60007);
    if (row->vector == NO_FAULT) {
        ASSERT_OK(rc);
        return;
    }
    ASSERT_FAULT(rc, row->vector, row->error);
    cr_assert_eq(m.v->cpu->cpl, 3);
    ASSERT_HEX(m.v->seg[NOVT_SS].selector, SEL_DATA3);
    ASSERT_HEX(m.v->cpu->gpr[RT_SP], STACK3);
    ASSERT_HEX(m.v->cpu->rip, 0x60000);
}

struct return_row {
    uint8_t cpl;
    uint16_t cs, ss;
    uint8_t vector;
    uint16_t error;
};
static struct return_row returns[] = {
    {0, SEL_CODE0, 0, NO_FAULT, 0},
    {0, SEL_CODE3, SEL_DATA3, NO_FAULT, 0},
    {0, 0, SEL_DATA3, MON_GP, 0},
    {0, SEL_DATA0, SEL_DATA3, MON_GP, SEL_DATA0},
    {0, SEL_CODE0 | 3, SEL_DATA3, MON_GP, SEL_CODE0},
    {3, SEL_CODE0, SEL_DATA3, MON_GP, SEL_CODE0},
    {0, SEL_CODE3, 3, MON_GP, 0},
    {0, SEL_CODE3, SEL_DATA0, MON_GP, SEL_DATA0},
    {0, SEL_CODE3, SEL_CODE3, MON_GP, SEL_CODE3 & ~3},
    {0, SEL_CODE3, 0x203, MON_GP, 0x200},
    {0, SEL_CONFORMING | 3, SEL_DATA3, NO_FAULT, 0},
};
ParameterizedTestParameters(cpu_seg, returns_check_both_selectors)
{
    return ROWS(struct return_row, returns);
}
ParameterizedTest(struct return_row *row, cpu_seg, returns_check_both_selectors)
{
    machine_level(&m, row->cpl);
    uint64_t sp = m.v->cpu->gpr[RT_SP];
    const uint32_t frame[] = {0x60010, row->cs, 0x2, STACK3 - 0x40, row->ss};
    memcpy(m.ram + sp, frame, sizeof(frame));
    enum mon_rc rc = mon_iret(m.v, 32, 0);
    if (row->vector == NO_FAULT) {
        ASSERT_OK(rc);
        ASSERT_HEX(m.v->cpu->rip, 0x60010);
        ASSERT_HEX(m.v->cpu->cpl, row->cs & 3);
        ASSERT_HEX(m.v->cpu->gpr[RT_SP], row->cs & 3 ? STACK3 - 0x40 : sp + 12);
        return;
    }
    ASSERT_FAULT(rc, row->vector, row->error);
    ASSERT_HEX(m.v->cpu->gpr[RT_SP], sp);
    ASSERT_HEX(m.v->cpu->cpl, row->cpl);
    ASSERT_HEX(m.v->cpu->rflags, RT_IF | 2);
}

/* ---- IRET: flags, stacks, virtual-8086 mode ---- */

static void push_iret(uint32_t eip, uint16_t cs, uint32_t flags, uint32_t esp, uint16_t ss)
{
    const uint32_t frame[] = {eip, cs, flags, esp, ss};
    m.v->cpu->gpr[RT_SP] = STACK0 - sizeof(frame);
    memcpy(m.ram + STACK0 - sizeof(frame), frame, sizeof(frame));
}

Test(cpu_seg, iret_to_a_16_bit_stack_keeps_the_upper_half_of_esp)
{
    push_iret(0x60010, SEL_CODE3, 2, 0x99991230, SEL_DATA3_16);
    m.v->cpu->gpr[RT_SP] = STACK0 - 20;
    ASSERT_OK(mon_iret(m.v, 32, 0));
    ASSERT_HEX(m.v->cpu->gpr[RT_SP], (STACK0 & 0xffff0000) | 0x1230);
}

struct flags_row {
    uint8_t cpl, iopl;
    uint16_t opsize;
    bool iret;
    uint32_t before, value, after;
};
static struct flags_row flags_rows[] = {
    /* CPL 0: everything; POPF leaves VIF and VIP and clears RF */
    {0, 0, 32, true, 0x2, 0x3dffd7 & ~RT_VM, 0x3d7fd7},
    {0, 0, 32, false, 0x2, 0x3dffd7 & ~RT_VM, 0x247fd7},
    {0, 0, 16, false, 0x240002, 0x7ed5, 0x247ed7},
    {0, 0, 32, false, 0x180002, 0x2, 0x180002},
    {0, 0, 32, true, 0x180002, 0x2, 0x2},
    {0, 0, 32, false, 0x010002, 0x010002, 0x2},
    /* CPL 3, IOPL 0: not IF, not IOPL */
    {3, 0, 32, false, 0x2, 0x3202, 0x2},
    {3, 0, 32, true, 0x202, 0x3002, 0x202},
    {3, 0, 32, true, 0x2, 0x1f4dd5, 0x54dd7},
    /* CPL 3, IOPL 3: IF, not IOPL */
    {3, 3, 32, false, 0x3002, 0x0202, 0x3202},
    {1, 1, 32, true, 0x1202, 0x3002, 0x1002},
    {2, 1, 32, true, 0x1202, 0x3002, 0x1202},
    {3, 0, 64, false, 0x2, 0x240ad5, 0x2408d7},
};
ParameterizedTestParameters(cpu_seg, flags_are_written_by_privilege)
{
    return ROWS(struct flags_row, flags_rows);
}
ParameterizedTest(struct flags_row *row, cpu_seg, flags_are_written_by_privilege)
{
    m.v->cpu->cpl = row->cpl;
    m.v->cpu->rflags = row->before | (uint64_t)row->iopl << 12;
    mon_flags_write(m.v, row->value, row->opsize, row->iret);
    ASSERT_HEX(m.v->cpu->rflags, row->after);
}

Test(cpu_seg, iret_enters_v86_mode_and_an_interrupt_would_leave_it)
{
    const uint32_t frame[] = {
        0x1234, 0x3000, RT_VM | RT_IF | 0x3002, 0xfff0, 0x2000, 0x4000, 0x5000, 0x6000, 0x7000};
    m.v->cpu->gpr[RT_SP] = STACK0 - sizeof(frame);
    memcpy(m.ram + STACK0 - sizeof(frame), frame, sizeof(frame));
    ASSERT_OK(mon_iret(m.v, 32, 0));
    cr_assert(mon_v86(m.v));
    cr_assert_eq(m.v->cpu->cpl, 3);
    ASSERT_HEX(m.v->cpu->rip, 0x1234);
    ASSERT_HEX(m.v->cpu->gpr[RT_SP], 0xfff0);
    ASSERT_HEX(m.v->seg[NOVT_CS].base, 0x30000);
    ASSERT_HEX(m.v->seg[NOVT_SS].base, 0x20000);
    ASSERT_HEX(m.v->seg[NOVT_ES].selector, 0x4000);
    ASSERT_HEX(m.v->seg[NOVT_DS].selector, 0x5000);
    ASSERT_HEX(m.v->seg[NOVT_FS].selector, 0x6000);
    ASSERT_HEX(m.v->seg[NOVT_GS].selector, 0x7000);
    for (unsigned seg = 0; seg < 6; seg++)
        cr_assert(m.v->seg[seg].limit == 0xffff && m.v->seg[seg].attr == 0xf3);
    ASSERT_HEX(m.v->cpu->rflags, RT_VM | RT_IF | 0x3002);
}

static void enter_v86(unsigned iopl)
{
    m.v->cpu->rflags = RT_VM | RT_IF | 2 | (uint64_t)iopl << 12;
    m.v->cpu->cpl = 3;
    for (unsigned seg = 0; seg < 6; seg++)
        mon_seg_set_real(m.v, seg, 0x2000);
    m.v->cpu->gpr[RT_SP] = 0x1000;
    m.v->cpu->rip = 0x100;
}

Test(cpu_seg, iret_in_v86_mode_needs_iopl_3_or_vme)
{
    const uint16_t frame[] = {0x4321, 0x3000, 0x0042};
    enter_v86(0);
    memcpy(m.ram + 0x21000, frame, sizeof(frame));
    ASSERT_FAULT(mon_iret(m.v, 16, 0), MON_GP, 0);
    m.v->cr4 = MON_CR4_VME;
    ASSERT_FAULT(mon_iret(m.v, 32, 0), MON_GP, 0);
    m.v->cpu->rflags |= RT_VIF;
    ASSERT_OK(mon_iret(m.v, 16, 0)); /* IF = 0 in the image clears VIF, IF stays */
    ASSERT_HEX(m.v->cpu->rflags, RT_VM | RT_IF | 0x42);
    ASSERT_HEX(m.v->cpu->rip, 0x4321);
    put16(&m, 0x21006, 0x10);
    put16(&m, 0x21008, 0x3000);
    put16(&m, 0x2100a, RT_IF);
    m.v->cpu->gpr[RT_SP] = 0x1006;
    mon_seg_set_real(m.v, NOVT_CS, 0x2000);
    m.v->cpu->rflags |= RT_VIP;
    ASSERT_FAULT(mon_iret(m.v, 16, 0), MON_GP, 0);
    m.v->cpu->rflags = RT_VM | 0x3002;
    ASSERT_OK(mon_iret(m.v, 16, 0));
    ASSERT_HEX(m.v->cpu->rflags, RT_VM | 0x3002 | RT_IF);
}

Test(cpu_seg, iret_unblocks_nmis)
{
    push_iret(0x61000, SEL_CODE0, 2, 0, 0);
    m.v->nmi_blocked = true;
    ASSERT_OK(mon_iret(m.v, 32, 0));
    cr_assert(!m.v->nmi_blocked);
}

Test(cpu_seg, sixteen_bit_iret_pops_words)
{
    const uint16_t frame[] = {0x4321, SEL_CODE0, 0x0246};
    m.v->cpu->gpr[RT_SP] = STACK0 - 6;
    m.v->cpu->rflags = RT_AC | 2;
    memcpy(m.ram + STACK0 - 6, frame, sizeof(frame));
    ASSERT_OK(mon_iret(m.v, 16, 0));
    ASSERT_HEX(m.v->cpu->rip, 0x4321);
    ASSERT_HEX(m.v->cpu->rflags, RT_AC | 0x246);
    ASSERT_HEX(m.v->cpu->gpr[RT_SP], STACK0);
}

/* ---- SYSENTER, SYSEXIT ---- */

Test(cpu_seg, sysenter_and_sysexit_load_flat_segments)
{
    struct mon_vcpu *v = m.v;
    machine_level(&m, 3);
    ASSERT_FAULT(mon_sysenter(v), MON_GP, 0);
    v->msr.sysenter_cs = SEL_CODE0 | 3;
    v->msr.sysenter_esp = STACK0;
    v->msr.sysenter_eip = HANDLER;
    ASSERT_OK(mon_sysenter(v));
    cr_assert_eq(v->cpu->cpl, 0);
    ASSERT_HEX(v->seg[NOVT_CS].selector, SEL_CODE0);
    ASSERT_HEX(v->seg[NOVT_CS].attr, 0xc09b);
    ASSERT_HEX(v->seg[NOVT_SS].selector, SEL_DATA0);
    ASSERT_HEX(v->seg[NOVT_SS].attr, 0xc093);
    ASSERT_HEX(v->cpu->gpr[RT_SP], STACK0);
    ASSERT_HEX(v->cpu->rip, HANDLER);
    ASSERT_HEX(v->cpu->rflags & RT_IF, 0);
    v->cpu->gpr[RT_CX] = 0x1111;
    v->cpu->gpr[RT_DX] = 0x2222;
    ASSERT_OK(mon_sysexit(v, 32));
    cr_assert_eq(v->cpu->cpl, 3);
    ASSERT_HEX(v->seg[NOVT_CS].selector, SEL_CODE3);
    ASSERT_HEX(v->seg[NOVT_CS].attr, 0xc0fb);
    ASSERT_HEX(v->seg[NOVT_SS].selector, SEL_DATA3);
    ASSERT_HEX(v->seg[NOVT_SS].attr, 0xc0f3);
    ASSERT_HEX(v->cpu->gpr[RT_SP], 0x1111);
    ASSERT_HEX(v->cpu->rip, 0x2222);
    ASSERT_FAULT(mon_sysexit(v, 32), MON_GP, 0);
}

/* ---- Tables that only the supervisor sees ---- */

/* Identity paging, in which user code reaches nothing below 0x20000 (GDT, IDT, TSS, LDT). */
static void supervisor_tables(void)
{
    for (unsigned i = 0; i < 0x200; i++)
        put32(&m, 0x1000 + i * 4, i << 12 | (i < 0x20 ? 3 : 7));
    put32(&m, 0, 0x1007);
    m.v->cr3 = 0;
    m.v->cr0 |= MON_CR0_PG | MON_CR0_WP;
}

Test(cpu_seg, descriptor_tables_are_read_as_supervisor_at_any_level)
{
    struct mon_vcpu *v = m.v;
    uint32_t value;
    bool zf;
    supervisor_tables();
    machine_level(&m, 3);
    set_descriptor(&m, SEL_DATA3, descriptor(0, 0xfffff, 0xc0f2)); /* accessed bit is due */
    ASSERT_OK(mon_seg_load(v, NOVT_DS, SEL_DATA3));
    ASSERT_OK(mon_seg_lar(v, SEL_DATA3, &value, &zf));
    cr_assert(zf);
    ASSERT_OK(mon_io_check(v, 0x80, 1));
    set_idt(&m, 0x80, gate(SEL_CODE0, HANDLER, 0xee, 0));
    ASSERT_OK(mon_software_interrupt(v, 0x80, 0x60002));
    ASSERT_OK(mon_iret(v, 32, 0));
    cr_assert_eq(v->cpu->cpl, 3);
    put32(&m, TSS_2 + 0x1c, 0);
    put32(&m, TSS_2 + 0x20, HANDLER);
    put32(&m, TSS_2 + 0x24, 2);
    for (unsigned i = 0; i < 6; i++)
        put32(&m, TSS_2 + 0x48 + i * 4, i == NOVT_CS ? SEL_CODE3 : SEL_DATA3);
    ASSERT_OK(mon_far_call(v, SEL_TASK_GATE, 0, 32, 0x60007));
    ASSERT_HEX(v->tr.selector, SEL_TSS_2);
    ASSERT_OK(mon_iret(v, 32, 0));
    ASSERT_HEX(v->tr.selector, SEL_TSS);
    ASSERT_HEX(v->cpu->rip, 0x60007);
}

Test(cpu_seg, returns_to_absent_segments)
{
    set_descriptor(&m, SEL_ABSENT, descriptor(0, 0xfffff, 0xc07b));
    push_iret(0x60010, SEL_ABSENT | 3, 2, STACK3, SEL_DATA3);
    ASSERT_FAULT(mon_iret(m.v, 32, 0), MON_NP, SEL_ABSENT);
    set_descriptor(&m, SEL_ABSENT, descriptor(0, 0xfffff, 0xc073));
    push_iret(0x60010, SEL_CODE3, 2, STACK3, SEL_ABSENT | 3);
    ASSERT_FAULT(mon_iret(m.v, 32, 0), MON_SS, SEL_ABSENT);
}

/* ---- Long mode ---- */

static void long_mode(void)
{
    m.v->efer = MON_EFER_LME | MON_EFER_LMA; /* paging stays off: addresses are identical */
    machine_seg(m.v, NOVT_CS, SEL_CODE64, 0xa09b);
}

Test(cpu_seg, sixty_four_bit_addresses_are_canonical_and_flat_but_for_fs_and_gs)
{
    uint64_t gla;
    long_mode();
    m.v->seg[NOVT_DS].base = m.v->seg[NOVT_FS].base = 0x1000;
    m.v->seg[NOVT_DS].limit = 0;
    ASSERT_OK(mon_seg_linear(m.v, NOVT_DS, 0x7ffffffffff8, 8, MON_READ, &gla));
    ASSERT_HEX(gla, 0x7ffffffffff8);
    ASSERT_FAULT(mon_seg_linear(m.v, NOVT_DS, 0x7ffffffffff9, 8, MON_READ, &gla), MON_GP, 0);
    ASSERT_FAULT(mon_seg_linear(m.v, NOVT_SS, 0x800000000000, 8, MON_READ, &gla), MON_SS, 0);
    ASSERT_OK(mon_seg_linear(m.v, NOVT_FS, 0xffff800000000000, 8, MON_WRITE, &gla));
    ASSERT_HEX(gla, 0xffff800000001000);
    machine_seg(m.v, NOVT_CS, SEL_CODE0, 0xc09b); /* compatibility mode: 32 bits, limits */
    ASSERT_FAULT(mon_seg_linear(m.v, NOVT_DS, 8, 1, MON_READ, &gla), MON_GP, 0);
    ASSERT_OK(mon_seg_linear(m.v, NOVT_FS, 0xfffff800, 8, MON_READ, &gla));
    ASSERT_HEX(gla, 0x800);
}

Test(cpu_seg, ss_may_be_null_in_64_bit_mode_below_cpl_3)
{
    long_mode();
    ASSERT_OK(mon_seg_load(m.v, NOVT_SS, 0));
    ASSERT_FAULT(mon_seg_load(m.v, NOVT_SS, 1), MON_GP, 0);
    m.v->cpu->cpl = 3;
    ASSERT_FAULT(mon_seg_load(m.v, NOVT_SS, 3), MON_GP, 0);
    m.v->cpu->cpl = 0;
    machine_seg(m.v, NOVT_CS, SEL_CODE0, 0xc09b);
    ASSERT_FAULT(mon_seg_load(m.v, NOVT_SS, 0), MON_GP, 0);
}

Test(cpu_seg, far_transfers_between_64_bit_and_compatibility_code)
{
    struct mon_vcpu *v = m.v;
    uint64_t sp = v->cpu->gpr[RT_SP];
    long_mode();
    ASSERT_OK(mon_far_call(v, SEL_CODE64, 0x7000000000ff, 64, 0x61009));
    ASSERT_HEX(v->cpu->rip, 0x7000000000ff);
    ASSERT_HEX(get64(&m, sp - 16), 0x61009);
    ASSERT_HEX(get64(&m, sp - 8), SEL_CODE64);
    ASSERT_OK(mon_far_return(v, 64, 0));
    ASSERT_HEX(v->cpu->gpr[RT_SP], sp);
    ASSERT_FAULT(mon_far_jump(v, SEL_CODE64, 0x8000000000ff, 64, 0), MON_GP, 0);
    set_descriptor(&m, SEL_ABSENT, descriptor(0, 0xfffff, 0xe09b)); /* L and D */
    ASSERT_FAULT(mon_far_jump(v, SEL_ABSENT, 0, 64, 0), MON_GP, SEL_ABSENT);
    ASSERT_FAULT(mon_far_jump(v, SEL_TSS_2, 0, 64, 0), MON_GP, SEL_TSS_2);
    ASSERT_OK(mon_far_jump(v, SEL_CODE0, 0x1000, 32, 0));
    cr_assert(!mon_code64(v));
    v->cpu->rflags |= RT_NT;
    ASSERT_FAULT(mon_iret(v, 32, 0), MON_GP, 0);
}

Test(cpu_seg, long_mode_call_gates_are_16_bytes_and_take_rsp0)
{
    struct mon_vcpu *v = m.v;
    long_mode();
    machine_level(&m, 3);
    put64(&m, TSS + 4, STACK0);
    put64(&m, GDT + SEL_GATE32, gate(SEL_CODE64, 0x11223344, 0xec, 0));
    put64(&m, GDT + SEL_GATE32 + 8, 0x7fff);
    ASSERT_OK(mon_far_call(v, SEL_GATE32, 0, 32, 0x60007));
    ASSERT_HEX(v->cpu->rip, 0x7fff11223344);
    ASSERT_HEX(v->cpu->gpr[RT_SP], STACK0 - 32);
    const uint64_t frame[] = {0x60007, SEL_CODE3, STACK3, SEL_DATA3};
    cr_assert_eq(memcmp(m.ram + STACK0 - 32, frame, 32), 0);
    ASSERT_HEX(v->seg[NOVT_SS].selector, 0);
    ASSERT_OK(mon_far_return(v, 64, 0));
    cr_assert_eq(v->cpu->cpl, 3);
    cr_assert(!mon_code64(v));
    ASSERT_HEX(v->cpu->gpr[RT_SP], STACK3);
    put64(&m, GDT + SEL_GATE32, gate(SEL_CODE0, 0x1000, 0xec, 0)); /* not 64-bit code */
    ASSERT_FAULT(mon_far_call(v, SEL_GATE32, 0, 32, 0x60007), MON_GP, SEL_CODE0);
    put64(&m, GDT + SEL_GATE32 + 8, (uint64_t)1 << 40 | 0x7fff);
    ASSERT_FAULT(mon_far_call(v, SEL_GATE32, 0, 32, 0x60007), MON_GP, SEL_GATE32);
}

Test(cpu_seg, system_descriptors_have_64_bit_bases_in_long_mode)
{
    long_mode();
    put64(&m, GDT + SEL_LDT + 8, 0x7f01);
    ASSERT_OK(mon_seg_lldt(m.v, SEL_LDT));
    ASSERT_HEX(m.v->ldt.base, 0x7f0100000000 | LDT);
    put64(&m, GDT + SEL_TSS_2 + 8, 0);
    ASSERT_OK(mon_seg_ltr(m.v, SEL_TSS_2));
    ASSERT_FAULT(mon_seg_ltr(m.v, SEL_TSS_16), MON_GP, SEL_TSS_16);
}

Test(cpu_seg, iretq_always_pops_the_stack_pointer)
{
    struct mon_vcpu *v = m.v;
    const uint64_t frame[] = {0x61000, SEL_CODE64, RT_IF | 2, STACK1, 0};
    long_mode();
    v->cpu->gpr[RT_SP] = STACK0 - sizeof(frame);
    memcpy(m.ram + STACK0 - sizeof(frame), frame, sizeof(frame));
    ASSERT_OK(mon_iret(v, 64, 0));
    ASSERT_HEX(v->cpu->gpr[RT_SP], STACK1);
    ASSERT_HEX(v->seg[NOVT_SS].selector, 0);
    cr_assert_eq(v->cpu->cpl, 0);
    put64(&m, STACK0 - 32, SEL_CODE3); /* to compatibility mode, with a null SS */
    put64(&m, STACK0 - 8, 3);
    v->cpu->gpr[RT_SP] = STACK0 - sizeof(frame);
    ASSERT_FAULT(mon_iret(v, 64, 0), MON_GP, 0);
}

Test(cpu_seg, sysenter_in_long_mode_goes_to_64_bit_code)
{
    struct mon_vcpu *v = m.v;
    long_mode();
    machine_level(&m, 3);
    v->msr.sysenter_cs = SEL_CODE0;
    v->msr.sysenter_esp = 0x7fff00001000;
    v->msr.sysenter_eip = 0x7fff00002000;
    ASSERT_OK(mon_sysenter(v));
    cr_assert(mon_code64(v));
    ASSERT_HEX(v->cpu->rip, 0x7fff00002000);
    ASSERT_HEX(v->cpu->gpr[RT_SP], 0x7fff00001000);
    v->cpu->gpr[RT_DX] = 0x800000000000;
    ASSERT_FAULT(mon_sysexit(v, 64), MON_GP, 0);
    v->cpu->gpr[RT_DX] = 0x1234567890;
    v->cpu->gpr[RT_CX] = 0x1234;
    ASSERT_OK(mon_sysexit(v, 64));
    ASSERT_HEX(v->cpu->rip, 0x1234567890);
    ASSERT_HEX(v->seg[NOVT_CS].selector, (SEL_CODE0 + 32) | 3);
    ASSERT_HEX(v->seg[NOVT_CS].attr, 0xa0fb);
}
