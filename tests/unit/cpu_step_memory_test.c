/* The slow path: memory operands. What goes to the embedder and is done again with its answers,
 * string instructions in bulk and one iteration at a time, addresses of every kind.
 */
#include "tests/unit/cpu_step.h"

TestSuite(cpu_step_memory, .init = step_setup, .fini = step_teardown, .timeout = 60);

static enum mon_rc again(uint64_t answer)
{
    v->replay.data[v->replay.done++] = answer;
    return mon_step(v);
}

/* ---- exits to the embedder ---- */

Test(cpu_step_memory, mmio_read_modify_write_is_atomic_for_the_guest)
{
    v->cpu->gpr[RT_BX] = MMIO_BASE;
    v->cpu->gpr[RT_AX] = 0x11;
    cr_assert_eq(RUN("\x0f\xc1\x03"), MON_EXIT); /* xadd %eax, (%ebx) */
    cr_assert_eq(v->run.exit_reason, NOVT_EXIT_MMIO);
    cr_assert(!v->run.mmio.write);
    cr_assert_eq(again(0x100), MON_EXIT);
    cr_assert(v->run.mmio.write);
    cr_assert_eq(v->run.mmio.data[0], 0x11);
    cr_assert_eq(v->run.mmio.data[1], 1);
    ASSERT_HEX(v->cpu->gpr[RT_AX], 0x11);
    ASSERT_HEX(v->cpu->rip, CODE);
    ASSERT_OK(again(0));
    ASSERT_HEX(v->cpu->gpr[RT_AX], 0x100);
    cr_assert_eq(v->replay.done, 0);
}

Test(cpu_step_memory, x87_store_to_mmio_pops_once)
{
    v->cpu->gpr[RT_BX] = MMIO_BASE;
    ASSERT_OK(RUN("\xdb\xe3"));
    ASSERT_OK(RUN("\xd9\xe8"));
    ASSERT_OK(RUN("\xd9\xeb"));
    cr_assert_eq(RUN("\xd9\x1b"), MON_EXIT); /* fstps (%ebx) */
    cr_assert_eq(v->run.mmio.size, 4);
    cr_assert_eq(v->run.mmio.data[3], 0x40); /* 3.14 is 0x40490fdb */
    ASSERT_OK(again(0));
    ASSERT_OK(RUN("\xdf\xe0"));
    ASSERT_HEX(v->cpu->gpr[RT_AX] >> 11 & 7, 7); /* one register left */
}

Test(cpu_step_memory, in_and_out_go_to_the_embedder)
{
    v->cpu->gpr[RT_DX] = 0x3f8;
    v->cpu->gpr[RT_AX] = 0xaabbccdd;
    cr_assert_eq(RUN("\xee"), MON_EXIT);
    cr_assert(v->run.io.write && v->run.io.size == 1 && v->run.io.data == 0xdd);
    ASSERT_OK(again(0));
    cr_assert_eq(RUN("\x66\xe5\x80"), MON_EXIT);
    cr_assert(!v->run.io.write && v->run.io.size == 2 && v->run.io.port == 0x80);
    ASSERT_OK(again(0x1234));
    ASSERT_HEX(v->cpu->gpr[RT_AX], 0xaabb1234);
}

Test(cpu_step_memory, rep_ins_loses_nothing)
{
    v->cpu->gpr[RT_DX] = 0x1f0;
    v->cpu->gpr[RT_CX] = 3;
    v->cpu->gpr[RT_DI] = DATA;
    enum mon_rc rc = RUN("\xf3\x66\x6d");
    for (unsigned n = 1; n <= 3; n++) {
        cr_assert_eq(rc, MON_EXIT);
        ASSERT_HEX(v->cpu->gpr[RT_CX], 4 - n);
        ASSERT_OK(again(0x1110 + n));
        rc = n < 3 ? mon_step(v) : rc;
    }
    ASSERT_HEX(v->cpu->rip, CODE + 3);
    ASSERT_HEX(get64(&m, DATA) & 0xffffffffffff, 0x111311121111);
}

/* INS checks its destination before it takes anything from the device. */
Test(cpu_step_memory, ins_to_an_absent_page_does_not_read_the_port)
{
    paging_on();
    unmap_page(DATA);
    v->cpu->gpr[RT_DI] = DATA;
    ASSERT_FAULT(RUN("\x6c"), MON_PF, 2);
}

/* ---- strings ---- */

static struct tr_insn decode(const char *bytes, unsigned len)
{
    struct tr_insn insn;
    code_at(CODE, bytes, len);
    cr_assert_eq(tr_decode((const uint8_t *)bytes, len, TR_MODE_32, &insn), TR_DECODE_OK);
    return insn;
}
#define DECODE(bytes) decode((bytes), sizeof(bytes) - 1)

Test(cpu_step_memory, rep_movs_in_bulk_equals_single_iterations)
{
    for (unsigned bulk = 0; bulk < 2; bulk++) {
        struct tr_insn insn = DECODE("\xf3\xa5");
        for (unsigned n = 0; n < 0x2000; n++)
            m.ram[DATA + n] = (uint8_t)(n * 7 + (n >> 8));
        v->cpu->gpr[RT_SI] = DATA + 0xf0;
        v->cpu->gpr[RT_DI] = DATA + 0xf6; /* overlapping: the pattern repeats */
        v->cpu->gpr[RT_CX] = 0x500;
        while (v->cpu->rip == CODE)
            ASSERT_OK(bulk ? mon_execute(v, &insn) : mon_step(v));
        ASSERT_HEX(v->cpu->gpr[RT_CX], 0);
        ASSERT_HEX(v->cpu->gpr[RT_DI], DATA + 0xf6 + 0x1400);
        if (!bulk)
            memcpy(m.ram + 0x50000, m.ram + DATA, 0x2000);
    }
    cr_assert(!memcmp(m.ram + 0x50000, m.ram + DATA, 0x2000));
}

Test(cpu_step_memory, rep_stos_stops_at_the_absent_page_with_its_progress)
{
    struct tr_insn insn = DECODE("\xf3\xab");
    enum mon_rc rc;
    paging_on();
    unmap_page(DATA + 0x1000);
    v->cpu->gpr[RT_DI] = DATA + 0xfee; /* the fifth store crosses into the absent page */
    v->cpu->gpr[RT_CX] = 100;
    v->cpu->gpr[RT_AX] = 0x5a5a5a5a;
    do
        rc = mon_execute(v, &insn);
    while (rc == MON_OK);
    ASSERT_FAULT(rc, MON_PF, 2);
    ASSERT_HEX(v->exc.cr2, DATA + 0x1000);
    ASSERT_HEX(v->cpu->gpr[RT_CX], 96);
    ASSERT_HEX(v->cpu->gpr[RT_DI], DATA + 0xffe);
    ASSERT_HEX(v->cpu->rip, CODE);
}

Test(cpu_step_memory, repe_cmps_stops_at_the_difference)
{
    struct tr_insn insn = DECODE("\xf3\xa6");
    memset(m.ram + DATA, 7, 0x400);
    m.ram[DATA + 0x210] = 9;
    v->cpu->gpr[RT_SI] = DATA;
    v->cpu->gpr[RT_DI] = DATA + 0x200;
    v->cpu->gpr[RT_CX] = 0x100;
    ASSERT_OK(mon_execute(v, &insn));
    ASSERT_HEX(v->cpu->gpr[RT_CX], 0x100 - 0x11);
    ASSERT_HEX(v->cpu->gpr[RT_SI], DATA + 0x11);
    cr_assert((v->cpu->rflags & RT_CF) && !(v->cpu->rflags & RT_ZF));
    ASSERT_HEX(v->cpu->rip, CODE + 2);
}

Test(cpu_step_memory, repne_scas_finds_and_a_zero_count_does_nothing)
{
    struct tr_insn insn = DECODE("\xf2\xae");
    memset(m.ram + DATA, 1, 64);
    m.ram[DATA + 40] = 0;
    v->cpu->gpr[RT_DI] = DATA;
    v->cpu->gpr[RT_AX] = 0;
    v->cpu->gpr[RT_CX] = 0xffffffff;
    ASSERT_OK(mon_execute(v, &insn));
    ASSERT_HEX(v->cpu->gpr[RT_DI], DATA + 41);
    v->cpu->gpr[RT_CX] = 0;
    v->cpu->rip = CODE;
    v->cpu->rflags = RT_CF | 2;
    ASSERT_OK(mon_execute(v, &insn));
    ASSERT_HEX(v->cpu->rflags, RT_CF | 2);
    ASSERT_HEX(v->cpu->rip, CODE + 2);
}

/* ---- addresses ---- */

Test(cpu_step_memory, bit_offsets_reach_far_from_the_operand)
{
    v->cpu->gpr[RT_BX] = DATA + 0x800;
    v->cpu->gpr[RT_CX] = (uint32_t)-1000;
    m.ram[DATA + 0x800 - 125] = 0;
    ASSERT_OK(RUN("\x0f\xab\x0b")); /* bts %ecx, (%ebx) */
    ASSERT_HEX(m.ram[DATA + 0x800 - 125], 1);
    ASSERT_HEX(v->cpu->gpr[RT_CX], (uint32_t)-1000);
    ASSERT_OK(RUN("\xf0\x0f\xb3\x0b"));
    ASSERT_HEX(m.ram[DATA + 0x800 - 125], 0);
    cr_assert(v->cpu->rflags & RT_CF);
    v->cpu->gpr[RT_CX] = 0x7ff0; /* 16-bit: 7ff0h / 16 words on */
    m.ram[DATA + 0x800 + 0xffe] = 1;
    ASSERT_OK(RUN("\x66\x0f\xa3\x0b"));
    cr_assert(v->cpu->rflags & RT_CF);
}

Test(cpu_step_memory, sixteen_bit_code_addresses_and_stack)
{
    machine_seg(v, NOVT_CS, SEL_CODE0_16, 0x009b);
    v->seg[NOVT_CS].limit = 0xffff;
    v->seg[NOVT_CS].base = CODE;
    v->seg[NOVT_SS].attr = 0x0093;
    v->seg[NOVT_SS].base = DATA;
    v->cpu->gpr[RT_SP] = 0xabcd0000;
    v->cpu->gpr[RT_BX] = 0x11110008;
    v->cpu->gpr[RT_SI] = 0x22220010;
    memcpy(m.ram + CODE, "\x8b\x00\x53\x66\xb8\x44\x33\x22\x11\xa1\x04\x00", 12);
    put16(&m, 0x18, 0xbeef);
    put16(&m, 4, 0xcafe);
    v->cpu->rip = 0;
    ASSERT_OK(mon_step(v)); /* mov (%bx,%si), %ax */
    ASSERT_HEX(v->cpu->gpr[RT_AX] & 0xffff, 0xbeef);
    ASSERT_OK(mon_step(v)); /* push %bx: wraps */
    ASSERT_HEX(v->cpu->gpr[RT_SP], 0xabcdfffe);
    ASSERT_HEX(get16(&m, DATA + 0xfffe), 8);
    ASSERT_OK(mon_step(v)); /* mov $0x11223344, %eax */
    ASSERT_HEX(v->cpu->gpr[RT_AX], 0x11223344);
    ASSERT_OK(mon_step(v)); /* mov 4, %ax */
    ASSERT_HEX(v->cpu->gpr[RT_AX], 0x1122cafe);
}

Test(cpu_step_memory, pop_to_memory_uses_the_moved_stack_pointer)
{
    uint32_t sp = (uint32_t)v->cpu->gpr[RT_SP];
    put32(&m, sp, 0x1234);
    ASSERT_OK(RUN("\x8f\x04\x24")); /* pop (%esp) */
    ASSERT_HEX(get32(&m, sp + 4), 0x1234);
    ASSERT_HEX(v->cpu->gpr[RT_SP], sp + 4);
}

Test(cpu_step_memory, far_pointer_in_memory_loads_both)
{
    v->cpu->gpr[RT_BX] = DATA;
    put32(&m, DATA, 0x11223344);
    put16(&m, DATA + 4, SEL_DATA3);
    ASSERT_OK(RUN("\x0f\xb5\x33")); /* lgs (%ebx), %esi */
    ASSERT_HEX(v->cpu->gpr[RT_SI], 0x11223344);
    ASSERT_HEX(v->seg[NOVT_GS].selector, SEL_DATA3);
    put16(&m, DATA + 4, SEL_EXEC_ONLY);
    v->cpu->gpr[RT_SI] = 1;
    ASSERT_FAULT(RUN("\x0f\xb5\x33"), MON_GP, SEL_EXEC_ONLY);
    ASSERT_HEX(v->cpu->gpr[RT_SI], 1);
}
