/* The slow path: x87, SSE and AVX state. Images in memory and what they are refused for, exceptions
 * that are not masked, operands of which only the selected elements are touched.
 */
#include "tests/unit/cpu_oracle.h"
#include "tests/unit/cpu_step.h"

TestSuite(cpu_step_vector, .init = step_setup, .fini = step_teardown, .timeout = 60);

/* ---- images and exceptions ---- */

Test(cpu_step_vector, xrstor_checks_header_and_mxcsr)
{
    v->cpu->gpr[RT_BX] = DATA;
    v->cpu->gpr[RT_AX] = 7;
    memset(m.ram + DATA, 0, 4096);
    put32(&m, DATA + 24, 0x1f80);
    ASSERT_OK(RUN("\x0f\xae\x2b"));
    put64(&m, DATA + 512, 1ull << 62);
    ASSERT_FAULT(RUN("\x0f\xae\x2b"), MON_GP, 0);
    put64(&m, DATA + 512, 0);
    put64(&m, DATA + 528, 1);
    ASSERT_FAULT(RUN("\x0f\xae\x2b"), MON_GP, 0);
    put64(&m, DATA + 528, 0);
    put32(&m, DATA + 24, 0x80000000);
    ASSERT_FAULT(RUN("\x0f\xae\x2b"), MON_GP, 0);
    v->cpu->gpr[RT_BX] = DATA + 32;
    ASSERT_FAULT(RUN("\x0f\xae\x2b"), MON_GP, 0);
    v->cr4 &= ~(uint64_t)MON_CR4_OSXSAVE;
    ASSERT_FAULT(RUN("\x0f\xae\x2b"), MON_UD, 0);
}

Test(cpu_step_vector, fxsave_shows_the_guests_pc_and_operand)
{
    v->cpu->gpr[RT_BX] = DATA;
    ASSERT_OK(RUN("\xdb\xe3"));         /* fninit */
    ASSERT_OK(RUN("\xd8\x03"));         /* fadd (%ebx): the last one with an operand */
    ASSERT_OK(RUN("\x0f\xae\x43\x40")); /* fxsave 0x40(%ebx) */
    ASSERT_HEX(get32(&m, DATA + 0x48), CODE);
    uint32_t fdp = get32(&m, DATA + 0x50);
    cr_assert(fdp == 0 || fdp == DATA, "FDP is %#x", fdp);
    ASSERT_OK(RUN("\xd9\x73\x00")); /* fnstenv */
    ASSERT_HEX(get32(&m, DATA + 12), CODE);
}

Test(cpu_step_vector, unmasked_x87_exception_is_raised_by_the_next_instruction)
{
    v->cpu->gpr[RT_BX] = DATA;
    put16(&m, DATA, 0x37b); /* zero divide unmasked */
    ASSERT_OK(RUN("\xdb\xe3"));
    ASSERT_OK(RUN("\xd9\x2b")); /* fldcw (%ebx) */
    ASSERT_OK(RUN("\xd9\xe8"));
    ASSERT_OK(RUN("\xd9\xee"));
    ASSERT_OK(RUN("\xde\xf9")); /* 1 / 0: pending */
    ASSERT_FAULT(RUN("\x9b"), MON_MF, 0);
    ASSERT_FAULT(RUN("\xd9\xe8"), MON_MF, 0);
    ASSERT_FAULT(RUN("\xdd\x23"), MON_MF, 0); /* frstor waits */
    ASSERT_OK(RUN("\xdb\xe2"));               /* fnclex */
    ASSERT_OK(RUN("\x9b"));
}

Test(cpu_step_vector, unmasked_sse_exception_follows_osxmmexcpt)
{
    v->cpu->gpr[RT_BX] = DATA;
    put32(&m, DATA, 0x1d80); /* zero divide unmasked */
    put32(&m, DATA + 4, 0x3f800000);
    ASSERT_OK(RUN("\x0f\xae\x13"));         /* ldmxcsr (%ebx) */
    ASSERT_OK(RUN("\xf3\x0f\x10\x43\x04")); /* movss 4(%ebx), %xmm0 */
    ASSERT_OK(RUN("\x0f\x57\xc9"));         /* xorps %xmm1, %xmm1 */
    ASSERT_FAULT(RUN("\xf3\x0f\x5e\xc1"), MON_XM, 0);
    v->cr4 &= ~(uint64_t)MON_CR4_OSXMMEXCPT;
    ASSERT_FAULT(RUN("\xf3\x0f\x5e\xc1"), MON_UD, 0);
}

/* ---- partial vector operands ---- */

/* The upper half of a 32-byte operand lies in an absent page. */
static void half_absent_operand(void)
{
    paging_on();
    unmap_page(DATA + 0x1000);
    v->cpu->gpr[RT_BX] = DATA + 0xff0;
    rt_fpu_park(v->cpu);
}

/* Puts a vector register into the parked image: XMM part and the high half of YMM. */
static void set_ymm(unsigned reg, const void *data)
{
    uint8_t *area = v->cpu->xsave;
    memcpy(area + 160 + reg * 16, data, 16);
    memcpy(area + 576 + reg * 16, (const uint8_t *)data + 16, 16);
    area[512] |= 7;
}
static void get_ymm(unsigned reg, void *data)
{
    const uint8_t *area = v->cpu->xsave;
    memcpy(data, area + 160 + reg * 16, 16);
    if (area[512] & 4)
        memcpy((uint8_t *)data + 16, area + 576 + reg * 16, 16);
    else
        memset((uint8_t *)data + 16, 0, 16);
}

Test(cpu_step_vector, masked_moves_do_not_touch_what_is_masked_out)
{
    uint32_t mask[8] = {0x80000000, 0, 0x80000000, 0}, data[8];
    half_absent_operand();
    for (unsigned n = 0; n < 4; n++)
        put32(&m, DATA + 0xff0 + 4 * n, 0x100 + n);
    set_ymm(1, mask);
    ASSERT_OK(RUN("\xc4\xe2\x75\x2c\x13")); /* vmaskmovps (%ebx), %ymm1, %ymm2 */
    get_ymm(2, data);
    ASSERT_HEX(data[0], 0x100);
    ASSERT_HEX(data[1], 0);
    ASSERT_HEX(data[2], 0x102);
    ASSERT_OK(RUN("\xc4\xe2\x75\x8e\x1b")); /* vpmaskmovd %ymm3, %ymm1, (%ebx) */
    ASSERT_HEX(get32(&m, DATA + 0xff4), 0x101);
    mask[7] = 0x80000000;
    set_ymm(1, mask);
    ASSERT_FAULT(RUN("\xc4\xe2\x75\x2c\x13"), MON_PF, 0);
    ASSERT_HEX(v->exc.cr2, DATA + 0x100c);
    ASSERT_FAULT(RUN("\xc4\xe2\x75\x8e\x1b"), MON_PF, 2);
}

Test(cpu_step_vector, opmasks_suppress_faults)
{
    if ((rt_fpu_mask() & ORACLE_XSAVE) != ORACLE_XSAVE)
        return;
    half_absent_operand();
    uint8_t *area = v->cpu->xsave;
    memset(area + 1088, 0, 64);
    area[1088 + 8] = 0x0f; /* k1 */
    area[512] |= 0x20;
    for (unsigned n = 0; n < 4; n++)
        put32(&m, DATA + 0xff0 + 4 * n, 0x3f800000);
    ASSERT_OK(RUN("\x62\xf1\x7c\xa9\x10\x13"));      /* vmovups (%ebx), %ymm2{%k1}{z} */
    ASSERT_OK(RUN("\x62\xf1\x6c\x29\x58\x1b"));      /* vaddps (%ebx), %ymm2, %ymm3{%k1} */
    ASSERT_OK(RUN("\x62\xf1\x7c\x29\x11\x1b"));      /* vmovups %ymm3, (%ebx){%k1} */
    ASSERT_HEX(get32(&m, DATA + 0xffc), 0x40000000); /* 2.0 */
    ASSERT_OK(RUN("\x62\xf2\x7d\x29\x8a\x1b"));      /* vcompressps %ymm3, (%ebx){%k1} */
    ASSERT_FAULT(RUN("\x62\xf1\x7c\x28\x10\x13"), MON_PF, 0);
    area[1088 + 8] = 0x1f;
    ASSERT_FAULT(RUN("\x62\xf1\x7c\x29\x11\x1b"), MON_PF, 2);
}

Test(cpu_step_vector, gather_stops_at_the_faulting_element_and_goes_on)
{
    uint32_t index[8] = {0, 3, 0x1000 / 4, 1}, mask[8] = {~0u, 0, ~0u, ~0u}, data[8] = {9, 9, 9, 9};
    half_absent_operand();
    v->cpu->gpr[RT_BX] = DATA;
    for (unsigned n = 0; n < 4; n++)
        put32(&m, DATA + 4 * n, 0x200 + n);
    set_ymm(1, index);
    set_ymm(2, mask);
    set_ymm(3, data);
    /* vpgatherdd %xmm2, (%ebx,%xmm1,4), %xmm3 */
    ASSERT_FAULT(RUN("\xc4\xe2\x69\x90\x1c\x8b"), MON_PF, 0);
    ASSERT_HEX(v->exc.cr2, DATA + 0x1000);
    get_ymm(3, data);
    get_ymm(2, mask);
    ASSERT_HEX(data[0], 0x200);
    ASSERT_HEX(data[1], 9);
    ASSERT_HEX(mask[0], 0);
    ASSERT_HEX(mask[2], ~0u);
    put32(&m, 0x1000 + ((DATA + 0x1000) >> 12) * 4, (DATA + 0x1000) | 7);
    put32(&m, DATA + 0x1000, 0x777);
    ASSERT_OK(mon_step(v));
    get_ymm(3, data);
    get_ymm(2, mask);
    ASSERT_HEX(data[2], 0x777);
    ASSERT_HEX(data[3], 0x201);
    cr_assert(!mask[0] && !mask[2] && !mask[3]);
}

Test(cpu_step_vector, scatter_writes_the_selected_elements)
{
    if ((rt_fpu_mask() & ORACLE_XSAVE) != ORACLE_XSAVE)
        return;
    uint32_t index[8] = {5, 1, 2, 3}, data[8] = {0x50, 0x51, 0x52, 0x53};
    uint8_t *area = v->cpu->xsave;
    set_ymm(1, index);
    set_ymm(3, data);
    memset(area + 1088, 0, 64);
    area[1088 + 8] = 0x0b;
    area[512] |= 0x20;
    v->cpu->gpr[RT_BX] = DATA;
    memset(m.ram + DATA, 0, 64);
    ASSERT_OK(RUN("\x62\xf2\x7d\x09\xa0\x1c\x8b")); /* vpscatterdd %xmm3, (%ebx,%xmm1,4){%k1} */
    ASSERT_HEX(get32(&m, DATA + 20), 0x50);
    ASSERT_HEX(get32(&m, DATA + 4), 0x51);
    ASSERT_HEX(get32(&m, DATA + 8), 0);
    ASSERT_HEX(get32(&m, DATA + 12), 0x53);
    ASSERT_HEX(area[1088 + 8], 0);
}
