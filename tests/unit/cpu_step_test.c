/* The slow path: one instruction at a time, against the manual. What faults and commits nothing,
 * what has to be enabled, debug traps, branches, flags and modes. cpu_step_host_test.c has the host
 * as the judge, cpu_step_memory_test.c memory operands, cpu_step_vector_test.c vector state.
 */
#include "tests/unit/cpu_step.h"

TestSuite(cpu_step, .init = step_setup, .fini = step_teardown, .timeout = 60);

/* ---- faults commit nothing ---- */

Test(cpu_step, divide_error_leaves_registers_and_flags)
{
    v->cpu->gpr[RT_AX] = 5;
    v->cpu->gpr[RT_DX] = 9;
    v->cpu->gpr[RT_BX] = 0;
    v->cpu->rflags = RT_CF | RT_ZF | 2;
    ASSERT_FAULT(RUN("\xf7\xf3"), MON_DE, 0);
    ASSERT_HEX(v->cpu->gpr[RT_AX], 5);
    ASSERT_HEX(v->cpu->rip, CODE);
    ASSERT_HEX(v->cpu->rflags, RT_CF | RT_ZF | 2);
}

Test(cpu_step, read_modify_write_of_a_read_only_page_faults_for_write)
{
    paging_on();
    put32(&m, 0x1000 + (DATA >> 12) * 4, DATA | 5);
    v->cpu->gpr[RT_BX] = DATA;
    v->cpu->gpr[RT_AX] = 1;
    ASSERT_FAULT(RUN("\x01\x03"), MON_PF, 3);
    ASSERT_FAULT(RUN("\xf0\x0f\xc1\x03"), MON_PF, 3);
    ASSERT_HEX(v->cpu->gpr[RT_AX], 1);
    ASSERT_OK(RUN("\x03\x03"));
}

Test(cpu_step, misaligned_vector_operands_fault)
{
    v->cpu->gpr[RT_BX] = DATA + 8;
    ASSERT_FAULT(RUN("\x0f\x28\x03"), MON_GP, 0); /* movaps */
    ASSERT_OK(RUN("\x0f\x10\x03"));               /* movups */
    ASSERT_FAULT(RUN("\x66\x0f\xfc\x03"), MON_GP, 0);
    v->cpu->gpr[RT_BX] = DATA + 16;
    ASSERT_OK(RUN("\x66\x0f\xfc\x03"));
}

Test(cpu_step, alignment_check_applies_at_cpl_3_only)
{
    v->cr0 |= MON_CR0_AM;
    v->cpu->rflags |= RT_AC;
    v->cpu->gpr[RT_BX] = DATA + 1;
    ASSERT_OK(RUN("\x8b\x03"));
    machine_level(&m, 3);
    v->cpu->rflags |= RT_AC;
    ASSERT_FAULT(RUN("\x8b\x03"), MON_AC, 0);
    ASSERT_OK(RUN("\x8a\x03"));
}

/* ---- fetch ---- */

Test(cpu_step, fetch_reads_the_next_page_only_if_needed)
{
    paging_on();
    unmap_page(0x62000);
    memcpy(m.ram + 0x61ffd, "\x90\x90\xb8", 3);
    v->cpu->rip = 0x61ffd;
    ASSERT_OK(mon_step(v));
    ASSERT_OK(mon_step(v));
    ASSERT_FAULT(mon_step(v), MON_PF, 0);
    ASSERT_HEX(v->exc.cr2, 0x62000);
    ASSERT_HEX(v->cpu->rip, 0x61fff);
}

Test(cpu_step, fetch_beyond_the_limit_is_a_general_protection_fault)
{
    v->seg[NOVT_CS].limit = CODE + 2;
    ASSERT_OK(RUN("\x66\x89\xc8"));
    ASSERT_FAULT(mon_step(v), MON_GP, 0);
    ASSERT_FAULT(RUN("\xb8\x01\x02\x03\x04"), MON_GP, 0);
    ASSERT_FAULT(RUN("\xeb\x7f"), MON_GP, 0);
    ASSERT_HEX(v->cpu->rip, CODE);
}

Test(cpu_step, instructions_of_sixteen_bytes_fault)
{
    ASSERT_OK(RUN("\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x90"));
    ASSERT_FAULT(RUN("\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x90"), MON_GP,
                 0);
}

/* ---- what must be enabled ---- */

struct enabled_row {
    char bytes[6];
    uint8_t len;
    uint32_t cr0_set, cr4_clear;
    uint8_t vector;
};
static struct enabled_row enabled_rows[] = {
    {"\xd9\xe8", 2, MON_CR0_EM, 0, MON_NM},
    {"\xd9\xe8", 2, MON_CR0_TS, 0, MON_NM},
    {"\x9b", 1, MON_CR0_TS | MON_CR0_MP, 0, MON_NM},
    {"\x0f\x77", 2, MON_CR0_EM, 0, MON_UD},
    {"\x0f\x77", 2, MON_CR0_TS, 0, MON_NM},
    {"\x0f\x58\xc1", 3, MON_CR0_EM, 0, MON_UD},
    {"\x0f\x58\xc1", 3, 0, MON_CR4_OSFXSR, MON_UD},
    {"\x0f\x58\xc1", 3, MON_CR0_TS, 0, MON_NM},
    {"\xc5\xf8\x77", 3, 0, MON_CR4_OSXSAVE, MON_UD},
    {"\xc5\xf8\x77", 3, MON_CR0_TS, 0, MON_NM},
    {"\xf0\x90", 2, 0, 0, MON_UD},                 /* LOCK NOP */
    {"\xf0\x01\xc8", 3, 0, 0, MON_UD},             /* LOCK ADD to a register */
    {"\xf0\x8b\x03", 3, 0, 0, MON_UD},             /* LOCK MOV */
    {"\x0f\x0b", 2, 0, 0, MON_UD},                 /* UD2 */
    {"\xc7\xf8\x00\x00\x00\x00", 6, 0, 0, MON_UD}, /* XBEGIN */
    {"\x8e\xc8", 2, 0, 0, MON_UD},                 /* MOV to CS */
    {"\x0f\x22\xe8", 3, 0, 0, MON_UD},             /* MOV to CR5 */
    {"\x0f\x05", 2, 0, 0, MON_UD},                 /* SYSCALL outside 64-bit mode */
};
ParameterizedTestParameters(cpu_step, what_is_not_enabled_faults)
{
    return ROWS(struct enabled_row, enabled_rows);
}
ParameterizedTest(struct enabled_row *row, cpu_step, what_is_not_enabled_faults)
{
    v->cr0 |= row->cr0_set;
    v->cr4 &= ~(uint64_t)row->cr4_clear;
    v->cpu->gpr[RT_BX] = DATA;
    code_at(CODE, row->bytes, row->len);
    ASSERT_FAULT(mon_step(v), row->vector, 0);
    ASSERT_HEX(v->cpu->rip, CODE);
}

/* KVM's error codes for a hypercall that is not there, and for user code. */
Test(cpu_step, hypercalls_are_refused_politely)
{
    code_at(CODE, "\x0f\x01\xc1\x0f\x01\xd9", 6); /* VMCALL, VMMCALL */
    ASSERT_OK(mon_step(v));
    ASSERT_HEX(v->cpu->gpr[RT_AX], (uint32_t)-1000);
    v->cpu->cpl = 3;
    ASSERT_OK(mon_step(v));
    ASSERT_HEX(v->cpu->gpr[RT_AX], (uint32_t)-1);
    ASSERT_HEX(v->cpu->rip, CODE + 6);
}

struct privilege_row {
    char bytes[4];
    uint8_t len, vector;
};
static struct privilege_row privileged[] = {
    {"\xf4", 1, MON_GP},         {"\x0f\x20\xc0", 3, MON_GP}, {"\x0f\x22\xd8", 3, MON_GP},
    {"\x0f\x06", 2, MON_GP},     {"\x0f\x30", 2, MON_GP},     {"\x0f\x32", 2, MON_GP},
    {"\x0f\x08", 2, MON_GP},     {"\x0f\x09", 2, MON_GP},     {"\x0f\x01\x13", 3, MON_GP},
    {"\x0f\x01\x3b", 3, MON_GP}, {"\x0f\x00\xd8", 3, MON_GP}, {"\x0f\x01\xf0", 3, MON_GP},
    {"\xfa", 1, MON_GP},         {"\xfb", 1, MON_GP},         {"\x0f\x33", 2, MON_GP},
    {"\x0f\x01\xca", 3, MON_UD}, /* CLAC */
};
ParameterizedTestParameters(cpu_step, privileged_instructions_fault_at_cpl_3)
{
    return ROWS(struct privilege_row, privileged);
}
ParameterizedTest(struct privilege_row *row, cpu_step, privileged_instructions_fault_at_cpl_3)
{
    machine_level(&m, 3);
    v->cpu->gpr[RT_BX] = DATA;
    code_at(CODE, row->bytes, row->len);
    ASSERT_FAULT(mon_step(v), row->vector, 0);
}

/* ---- debug traps ---- */

Test(cpu_step, trap_flag_traps_behind_the_instruction)
{
    v->cpu->rflags |= RT_TF;
    enum mon_rc rc = RUN("\x90");
    ASSERT_FAULT(rc, MON_DB, 0);
    cr_assert(v->exc.trap);
    ASSERT_HEX(v->exc.dr6, 1u << 14);
    ASSERT_HEX(v->cpu->rip, CODE + 1);
}

Test(cpu_step, mov_ss_holds_the_trap_back)
{
    v->cpu->rflags |= RT_TF;
    v->cpu->gpr[RT_AX] = SEL_DATA0;
    ASSERT_OK(RUN("\x8e\xd0\x90"));
    cr_assert(v->shadow && v->shadow_ss);
    ASSERT_FAULT(mon_step(v), MON_DB, 0);
    ASSERT_HEX(v->cpu->rip, CODE + 3);
    cr_assert(!v->shadow && !v->shadow_ss);
}

Test(cpu_step, popf_setting_tf_traps_after_the_next_instruction)
{
    put32(&m, (uint32_t)v->cpu->gpr[RT_SP], RT_TF | 2);
    ASSERT_OK(RUN("\x9d\x90"));
    ASSERT_FAULT(mon_step(v), MON_DB, 0);
    ASSERT_HEX(v->cpu->rip, CODE + 2);
}

Test(cpu_step, code_breakpoint_is_a_fault_that_rf_suppresses_once)
{
    v->dr[0] = CODE;
    v->dr[7] |= 2;
    ASSERT_FAULT(RUN("\x90"), MON_DB, 0);
    cr_assert(!v->exc.trap);
    ASSERT_HEX(v->exc.dr6, 1);
    v->cpu->rflags |= RT_RF;
    ASSERT_OK(RUN("\x90"));
    cr_assert(!(v->cpu->rflags & RT_RF));
}

Test(cpu_step, data_breakpoint_traps_after_the_write)
{
    v->dr[1] = DATA + 4;
    v->dr[7] |= 1u << 3 | 1u << 20 | 3u << 22; /* global, write, 4 bytes */
    v->cpu->gpr[RT_BX] = DATA;
    ASSERT_OK(RUN("\x8b\x43\x04"));
    ASSERT_OK(RUN("\x88\x43\x03"));
    ASSERT_FAULT(RUN("\x88\x43\x07"), MON_DB, 0);
    cr_assert(v->exc.trap);
    ASSERT_HEX(v->exc.dr6, 2);
    ASSERT_HEX(v->cpu->rip, CODE + 3);
}

Test(cpu_step, sti_shadows_one_instruction_if_interrupts_were_off)
{
    v->cpu->rflags &= ~(uint64_t)RT_IF;
    ASSERT_OK(RUN("\xfb\xfb\x90"));
    cr_assert(v->shadow && (v->cpu->rflags & RT_IF));
    ASSERT_OK(mon_step(v));
    cr_assert(!v->shadow);
}

/* ---- branches, flags, modes ---- */

Test(cpu_step, near_branches_go_where_they_should)
{
    uint32_t sp = (uint32_t)v->cpu->gpr[RT_SP];
    ASSERT_OK(RUN("\xe8\x10\x00\x00\x00"));
    ASSERT_HEX(v->cpu->rip, CODE + 0x15);
    ASSERT_HEX(get32(&m, sp - 4), CODE + 5);
    ASSERT_OK(RUN("\xc2\x08\x00"));
    ASSERT_HEX(v->cpu->rip, CODE + 5);
    ASSERT_HEX(v->cpu->gpr[RT_SP], sp + 8);
    v->cpu->rflags |= RT_ZF;
    ASSERT_OK(RUN("\x74\xfe"));
    ASSERT_HEX(v->cpu->rip, CODE);
    ASSERT_OK(RUN("\x0f\x85\x00\x01\x00\x00"));
    ASSERT_HEX(v->cpu->rip, CODE + 6);
    v->cpu->gpr[RT_CX] = 0x10001;
    ASSERT_OK(RUN("\x67\xe2\x10")); /* loop with CX */
    ASSERT_HEX(v->cpu->rip, CODE + 3);
    ASSERT_HEX(v->cpu->gpr[RT_CX], 0x10000);
    ASSERT_OK(RUN("\x67\xe3\x10")); /* jcxz */
    ASSERT_HEX(v->cpu->rip, CODE + 0x13);
    v->cpu->gpr[RT_AX] = 0x123456;
    ASSERT_OK(RUN("\x66\xff\xe0")); /* jmp *%ax: truncated */
    ASSERT_HEX(v->cpu->rip, 0x3456);
}

Test(cpu_step, virtual_8086_flags_follow_iopl_and_vme)
{
    machine_level(&m, 3);
    v->cpu->rflags |= RT_VM;
    for (unsigned seg = 0; seg < 6; seg++)
        mon_seg_set_real(v, seg, 0x4000);
    v->seg[NOVT_CS].base = CODE;
    v->cpu->gpr[RT_SP] = 0x100;
    code_at(CODE, "\x9c\x9d\xfa\xcf", 4);
    v->cpu->rip = 0;
    ASSERT_FAULT(mon_step(v), MON_GP, 0);
    v->cr4 |= MON_CR4_VME;
    v->cpu->rflags |= RT_VIF;
    ASSERT_OK(mon_step(v)); /* pushf: VIF as IF, IOPL 3 */
    ASSERT_HEX(get16(&m, 0x400fe) & (RT_IF | RT_IOPL), RT_IF | RT_IOPL);
    ASSERT_OK(mon_step(v));
    cr_assert(v->cpu->rflags & RT_VIF);
    ASSERT_OK(mon_step(v)); /* cli: VIF */
    cr_assert(!(v->cpu->rflags & RT_VIF) && (v->cpu->rflags & RT_IF));
}

Test(cpu_step, hlt_sets_halted_behind_the_instruction)
{
    ASSERT_OK(RUN("\xf4"));
    cr_assert(v->halted);
    ASSERT_HEX(v->cpu->rip, CODE + 1);
}

Test(cpu_step, descriptor_tables_keep_24_bits_with_a_16_bit_operand)
{
    v->cpu->gpr[RT_BX] = DATA;
    put16(&m, DATA, 0x123);
    put32(&m, DATA + 2, 0xaabbccdd);
    ASSERT_OK(RUN("\x66\x0f\x01\x1b"));
    ASSERT_HEX(v->idt.base, 0xbbccdd);
    ASSERT_OK(RUN("\x0f\x01\x1b"));
    ASSERT_HEX(v->idt.base, 0xaabbccdd);
    ASSERT_OK(RUN("\x0f\x01\x4b\x10")); /* sidt 16(%ebx) */
    ASSERT_HEX(get32(&m, DATA + 18), 0xaabbccdd);
    ASSERT_HEX(get16(&m, DATA + 16), 0x123);
}

Test(cpu_step, umip_hides_the_tables_from_cpl_3)
{
    machine_level(&m, 3);
    v->cpu->gpr[RT_BX] = DATA;
    ASSERT_OK(RUN("\x0f\x01\x0b"));
    v->cr4 |= MON_CR4_UMIP;
    ASSERT_FAULT(RUN("\x0f\x01\x0b"), MON_GP, 0);
    ASSERT_FAULT(RUN("\x0f\x00\xc8"), MON_GP, 0);
    ASSERT_FAULT(RUN("\x0f\x01\xe0"), MON_GP, 0);
}

Test(cpu_step, time_stamp_respects_tsd_and_offset)
{
    v->cpu->tsc_offset = 0 - __builtin_ia32_rdtsc();
    ASSERT_OK(RUN("\x0f\x31"));
    cr_assert_eq(v->cpu->gpr[RT_DX], 0);
    v->cr4 |= MON_CR4_TSD;
    ASSERT_OK(RUN("\x0f\x31"));
    machine_level(&m, 3);
    ASSERT_FAULT(RUN("\x0f\x31"), MON_GP, 0);
}

Test(cpu_step, bound_and_into_raise_their_exceptions)
{
    v->cpu->gpr[RT_BX] = DATA;
    put32(&m, DATA, (uint32_t)-5);
    put32(&m, DATA + 4, 5);
    v->cpu->gpr[RT_AX] = (uint32_t)-5;
    ASSERT_OK(RUN("\x62\x03"));
    v->cpu->gpr[RT_AX] = 6;
    ASSERT_FAULT(RUN("\x62\x03"), MON_BR, 0);
    ASSERT_OK(RUN("\xce"));
    ASSERT_HEX(v->cpu->rip, CODE + 1);
}
