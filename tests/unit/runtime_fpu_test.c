/* Whose vector state is in the registers. Compiled like any other code: the compiler may use vector
 * registers between the calls, so each check is one asm statement around them. */
#include "runtime/rt.h"

#include <criterion/criterion.h>
#include <string.h>

TestSuite(runtime_fpu, .timeout = 30);

static struct rt_cpu cpu;

static void setup_state(void)
{
    static const uint32_t mxcsr = 0x1f80;
    uint64_t components = 3;

    memset(&cpu, 0, sizeof(cpu));
    cpu.xsave = rt_os_reserve(4096);
    memcpy((uint8_t *)cpu.xsave + 24, &mxcsr, 4);
    memcpy((uint8_t *)cpu.xsave + 512, &components, 8);
    memcpy(cpu.xsave, "\x7f\x03", 2);
}

Test(runtime_fpu, the_area_holds_what_guests_may_enable)
{
    cr_expect_eq(rt_fpu_mask() & 3, 3, "x87 and SSE");
    cr_expect_eq(rt_fpu_mask() & ~0xe7ull, 0, "neither MPX, PKRU nor AMX");
    cr_expect_geq(rt_fpu_size(), 576);
    cr_expect_leq(rt_fpu_size(), 4096);
    if (rt_fpu_mask() & 0x80)
        cr_expect_geq(rt_fpu_size(), 2688);
}

Test(runtime_fpu, state_survives_other_code_while_it_is_parked)
{
    uint8_t before[16], after[16];
    double other[2] = {1.5, 2.5};

    setup_state();
    memset((uint8_t *)cpu.xsave + 160 + 16 * 7, 0xa5, 16); /* xmm7 */
    rt_fpu_load(&cpu);
    rt_fpu_park(&cpu);
    memcpy(before, (uint8_t *)cpu.xsave + 160 + 16 * 7, 16);
    for (volatile int i = 0; i < 1000; i++)
        other[0] = other[0] * 1.0001 + 0.5;
    __asm__ volatile("movups %0, %%xmm7" : : "m"(other) : "xmm7");
    rt_fpu_load(&cpu);
    rt_fpu_park(&cpu);
    memcpy(after, (uint8_t *)cpu.xsave + 160 + 16 * 7, 16);
    for (unsigned i = 0; i < 16; i++) {
        cr_expect_eq(before[i], 0xa5);
        cr_expect_eq(after[i], 0xa5);
    }
}

Test(runtime_fpu, loading_and_parking_twice_does_nothing)
{
    setup_state();
    rt_fpu_park(&cpu); /* nothing is live: the image must not be overwritten */
    cr_expect_eq(((uint8_t *)cpu.xsave)[1], 3);
    rt_fpu_load(&cpu);
    cr_expect_eq(cpu.fpu_live, 1);
    memset(cpu.xsave, 0xff, 512);
    rt_fpu_load(&cpu); /* live: the broken image is not looked at */
    rt_fpu_park(&cpu);
    cr_expect_eq(cpu.fpu_live, 0);
    cr_expect_eq(((uint8_t *)cpu.xsave)[0], 0x7f);
}

Test(runtime_fpu, other_code_gets_the_c_abis_control_words)
{
    uint16_t control = 0;
    uint32_t mxcsr = 0;

    setup_state();
    memcpy(cpu.xsave, "\x00\x0c", 2);                 /* all x87 exceptions, truncation */
    memcpy((uint8_t *)cpu.xsave + 24, "\x00\x60", 2); /* the same for SSE */
    rt_fpu_load(&cpu);
    rt_fpu_park(&cpu);
    __asm__ volatile("fnstcw %0; stmxcsr %1" : "=m"(control), "=m"(mxcsr));
    cr_expect_eq(control, 0x37f);
    cr_expect_eq(mxcsr, 0x1f80);
    cr_expect_eq(((uint8_t *)cpu.xsave)[1], 0x0c, "the guest's are kept");
}
