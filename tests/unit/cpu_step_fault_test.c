/* Faults of the slow path: which comes first, and what they leave behind. The expectations are what
 * processors do, where the manual leaves it open. */
#include "tests/unit/cpu_step.h"

TestSuite(cpu_step_fault, .init = step_setup, .fini = step_teardown, .timeout = 30);

static void data_absent(void)
{
    paging_on();
    unmap_page(DATA);
}

/* ---- which comes first ---- */

Test(cpu_step_fault, alignment_comes_before_the_page_fault)
{
    data_absent();
    v->cpu->gpr[RT_DI] = DATA + 1;
    ASSERT_FAULT(RUN("\x66\x0f\xfb\x07"), MON_GP, 0);     /* psubq (%edi), %xmm0 */
    ASSERT_FAULT(RUN("\x66\x0f\x7f\x07"), MON_GP, 0);     /* movdqa %xmm0, (%edi) */
    ASSERT_FAULT(RUN("\x66\x0f\x6f\x47\x0f"), MON_PF, 0); /* aligned */
    ASSERT_HEX(v->exc.cr2, DATA + 16);
    ASSERT_FAULT(RUN("\x0f\x10\x07"), MON_PF, 0); /* movups needs none */
    ASSERT_HEX(v->exc.cr2, DATA + 1);
}

Test(cpu_step_fault, a_pending_x87_exception_comes_before_the_page_fault)
{
    v->cpu->gpr[RT_BX] = DATA;
    put16(&m, DATA, 0x37b); /* zero divide unmasked */
    ASSERT_OK(RUN("\xdb\xe3"));
    ASSERT_OK(RUN("\xd9\x2b")); /* fldcw (%ebx) */
    ASSERT_OK(RUN("\xd9\xe8"));
    data_absent();
    ASSERT_FAULT(RUN("\xdb\x13"), MON_PF, 2); /* fist (%ebx) */
    ASSERT_OK(RUN("\xd9\xee"));
    ASSERT_OK(RUN("\xde\xf9")); /* 1 / 0: pending */
    ASSERT_FAULT(RUN("\xdb\x13"), MON_MF, 0);
    ASSERT_FAULT(RUN("\x0f\x6f\x03"), MON_MF, 0); /* movq (%ebx), %mm0 */
}

/* An unmasked exception of a store: nothing is stored, and the next instruction faults. */
Test(cpu_step_fault, an_x87_store_with_an_unmasked_exception_stores_nothing)
{
    v->cpu->gpr[RT_BX] = DATA;
    put16(&m, DATA, 0x37e); /* invalid operation unmasked */
    put32(&m, DATA + 4, 0x12345678);
    ASSERT_OK(RUN("\xdb\xe3"));
    ASSERT_OK(RUN("\xd9\x2b"));     /* fldcw (%ebx) */
    ASSERT_OK(RUN("\xd9\x53\x04")); /* fsts 4(%ebx) of an empty register */
    ASSERT_HEX(get32(&m, DATA + 4), 0x12345678);
    ASSERT_OK(RUN("\xdd\x7b\x08")); /* fnstsw 8(%ebx) stores all the same */
    cr_assert(get16(&m, DATA + 8) & 0x80);
    ASSERT_FAULT(RUN("\xd9\x5b\x04"), MON_MF, 0);
    ASSERT_OK(RUN("\xdb\xe3")); /* masked: the indefinite value */
    ASSERT_OK(RUN("\xd9\x53\x04"));
    ASSERT_HEX(get32(&m, DATA + 4), 0xffc00000);
}

/* 64 bits, and then 16. */
Test(cpu_step_fault, an_x87_store_of_80_bits_may_have_stored_64_when_it_faults)
{
    static const struct {
        char code[3];
        uint8_t one[8];
    } stores[] = {{"\xdb\x3f", {0, 0, 0, 0, 0, 0, 0, 0x80}}, {"\xdf\x37", {1}}}; /* fstp, fbstp */

    paging_on();
    unmap_page(DATA + 4096);
    ASSERT_OK(RUN("\xdb\xe3")); /* fninit */
    ASSERT_OK(RUN("\xd9\xe8")); /* fld1 */
    for (unsigned n = 0; n < 2; n++) {
        for (unsigned present = 1; present < 10; present++) {
            uint8_t expected[9], *end = m.ram + DATA + 4096;
            memset(expected, 0xee, present);
            memset(end - present, 0xee, present);
            if (present >= 8)
                memcpy(expected, stores[n].one, 8);
            v->cpu->gpr[RT_DI] = DATA + 4096 - present;
            code_at(CODE, stores[n].code, 2);
            ASSERT_FAULT(mon_step(v), MON_PF, 2);
            ASSERT_HEX(v->exc.cr2, DATA + 4096);
            cr_assert_arr_eq(end - present, expected, present, "%u bytes, store %u", present, n);
        }
    }
}

/* Looking for other faults changes nothing when there is none. */
Test(cpu_step_fault, a_page_fault_leaves_the_x87_stack)
{
    data_absent();
    v->cpu->gpr[RT_BX] = DATA;
    ASSERT_OK(RUN("\xdb\xe3"));
    ASSERT_OK(RUN("\xd9\xe8"));
    ASSERT_FAULT(RUN("\xd9\x1b"), MON_PF, 2); /* fstps (%ebx) */
    ASSERT_OK(RUN("\xdf\xe0"));
    ASSERT_HEX(v->cpu->gpr[RT_AX] >> 11 & 7, 7);
}

Test(cpu_step_fault, rep_ins_checks_the_port_even_if_the_count_is_zero)
{
    machine_level(&m, 3);
    v->cpu->gpr[RT_CX] = 0;
    v->cpu->gpr[RT_DX] = 0x60;
    memset(m.ram + TSS + 0x88, 0xff, 8192);
    ASSERT_FAULT(RUN("\xf3\x6d"), MON_GP, 0);
    ASSERT_FAULT(RUN("\xf3\x6e"), MON_GP, 0);
    v->cpu->rflags |= RT_IOPL;
    ASSERT_OK(RUN("\xf3\x6d"));
    ASSERT_HEX(v->cpu->rip, CODE + 2);
}

Test(cpu_step_fault, cmps_reads_its_destination_first)
{
    data_absent();
    unmap_page(DATA + 0x1000);
    v->cpu->gpr[RT_SI] = DATA;
    v->cpu->gpr[RT_DI] = DATA + 0x1000;
    ASSERT_FAULT(RUN("\xa7"), MON_PF, 0);
    ASSERT_HEX(v->exc.cr2, DATA + 0x1000);
}

Test(cpu_step_fault, arpl_writes_only_if_it_raises)
{
    paging_on();
    put32(&m, 0x1000 + (DATA >> 12) * 4, DATA | 5);
    put16(&m, DATA, 0x13);
    v->cpu->gpr[RT_DI] = DATA;
    v->cpu->gpr[RT_BX] = 3;
    ASSERT_OK(RUN("\x63\x1f")); /* arpl %bx, (%edi) */
    cr_assert(!(v->cpu->rflags & RT_ZF));
    put16(&m, DATA, 0x11);
    ASSERT_FAULT(RUN("\x63\x1f"), MON_PF, 3);
}

/* ---- what a fault leaves ---- */

Test(cpu_step_fault, repe_cmps_that_faults_has_the_flags_from_before)
{
    struct tr_insn insn;
    paging_on();
    unmap_page(DATA + 0x1000);
    code_at(CODE, "\xf3\xa6", 2);
    cr_assert_eq(tr_decode((const uint8_t *)"\xf3\xa6", 2, TR_MODE_32, &insn), TR_DECODE_OK);
    memset(m.ram + DATA, 7, 4096);
    v->cpu->gpr[RT_SI] = DATA;
    v->cpu->gpr[RT_DI] = DATA + 0xffc;
    v->cpu->gpr[RT_CX] = 100;
    v->cpu->rflags = RT_CF | RT_SF | 2;
    ASSERT_FAULT(mon_execute(v, &insn), MON_PF, 0);
    ASSERT_HEX(v->cpu->rflags & RT_ARITH, RT_CF | RT_SF);
    ASSERT_HEX(v->cpu->gpr[RT_CX], 96);
}

/* RF in the image keeps a breakpoint on the instruction from being met again. */
Test(cpu_step_fault, rf_is_set_between_the_iterations_of_a_rep)
{
    struct tr_insn insn;
    v->cpu->rflags |= RT_TF;
    v->cpu->gpr[RT_DI] = DATA;
    v->cpu->gpr[RT_CX] = 2;
    ASSERT_FAULT(RUN("\xf3\xaa"), MON_DB, 0);
    cr_assert(v->cpu->rflags & RT_RF);
    ASSERT_FAULT(mon_step(v), MON_DB, 0);
    cr_assert(!(v->cpu->rflags & RT_RF));
    ASSERT_HEX(v->cpu->rip, CODE + 2);

    cr_assert_eq(tr_decode((const uint8_t *)"\xf3\xaa", 2, TR_MODE_32, &insn), TR_DECODE_OK);
    code_at(CODE, "\xf3\xaa", 2);
    v->cpu->gpr[RT_CX] = 10000;
    ASSERT_OK(mon_execute(v, &insn));
    ASSERT_HEX(v->cpu->rip, CODE);
    set_idt(&m, 0x20, gate(SEL_CODE0, HANDLER, 0x8e, 0));
    ASSERT_OK(mon_interrupt_deliver(v, 0x20));
    cr_assert(get32(&m, v->cpu->gpr[RT_SP] + 8) & RT_RF);
    cr_assert(!(v->cpu->rflags & RT_RF));
}

/* ---- faults that masks suppress ---- */

struct masked_row {
    char bytes[6]; /* (%ebx) under k1 */
    uint8_t lanes; /* all of them; the first quarter or half lies in the page that is there */
    uint8_t inside;
};
static struct masked_row masked[] = {
    {"\x62\xf1\x7d\x49\x79\x03", 8, 4},  /* vcvtps2uqq m256, zmm: 4 bytes a lane */
    {"\x62\xf1\x7d\x29\x79\x03", 4, 4},  /* ymm: all of the operand is there */
    {"\x62\xf1\x7c\x49\x5a\x03", 8, 4},  /* vcvtps2pd */
    {"\x62\xf1\x7e\x49\xe6\x03", 8, 4},  /* vcvtdq2pd */
    {"\x62\xf1\xfd\x49\x79\x03", 8, 2},  /* vcvtpd2uqq: 8 bytes a lane */
    {"\x62\xf2\x7d\x49\x13\x03", 16, 8}, /* vcvtph2ps: 2 bytes a lane */
};
ParameterizedTestParameters(cpu_step_fault, masks_of_conversions_work_on_the_wider_elements)
{
    return ROWS(struct masked_row, masked);
}
ParameterizedTest(struct masked_row *row, cpu_step_fault,
                  masks_of_conversions_work_on_the_wider_elements)
{
    if (!(v->xcr0 >> 5 & 1))
        return;
    paging_on();
    unmap_page(DATA + 0x1000);
    memset(m.ram + DATA + 0xff0, 0, 16);
    v->cpu->gpr[RT_BX] = DATA + 0xff0;
    rt_fpu_park(v->cpu);
    uint8_t *area = v->cpu->xsave;
    area[512] |= 0x20;
    for (unsigned lane = 0; lane < row->lanes; lane++) {
        memset(area + 1088, 0, 64);
        area[1088 + 8 + lane / 8] = (uint8_t)(1u << lane % 8);
        code_at(CODE, row->bytes, 6);
        enum mon_rc rc = mon_step(v);
        cr_assert_eq(rc, lane < row->inside ? MON_OK : MON_FAULT, "lane %u", lane);
    }
}

/* Classes whose masks do not suppress faults (SDM 2-2.8, "NF"): an empty mask, and an absent page.
 */
struct unsuppressed_row {
    char bytes[7];
    uint8_t len;
    bool faults;
};
static struct unsuppressed_row unsuppressed[] = {
    {"\x62\xf2\xfd\x49\xc4\x03", 6, true},     /* vpconflictq */
    {"\x62\xf2\xf5\x49\x83\x03", 6, true},     /* vpmultishiftqb */
    {"\x62\xf1\xff\x49\x12\x03", 6, true},     /* vmovddup */
    {"\x62\xf3\x7d\x49\x39\x03\x01", 7, true}, /* vextracti32x4 to memory */
    {"\x62\xf1\x7c\x49\x58\x03", 6, false},    /* vaddps */
    {"\x62\xf1\x7c\x49\x11\x03", 6, false},    /* vmovups to memory */
    {"\x62\xf2\xfd\x49\x8a\x03", 6, false},    /* vcompresspd */
    {"\x62\xf2\xf5\x49\x70\x03", 6, false},    /* vpshldvw */
};
ParameterizedTestParameters(cpu_step_fault, some_masks_suppress_no_faults)
{
    return ROWS(struct unsuppressed_row, unsuppressed);
}
ParameterizedTest(struct unsuppressed_row *row, cpu_step_fault, some_masks_suppress_no_faults)
{
    if (!(v->xcr0 >> 5 & 1))
        return;
    data_absent();
    v->cpu->gpr[RT_BX] = DATA + 64;
    rt_fpu_park(v->cpu);
    uint8_t *area = v->cpu->xsave;
    area[512] |= 0x20;
    memset(area + 1088, 0, 64);
    code_at(CODE, row->bytes, row->len);
    enum mon_rc rc = mon_step(v);
    if (rc == MON_FAULT && v->exc.vector == MON_UD)
        return; /* this CPU does not have it */
    cr_assert_eq(rc, row->faults ? MON_FAULT : MON_OK);
    if (row->faults)
        cr_assert_eq(v->exc.vector, MON_PF);
}
