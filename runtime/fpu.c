/* fpu.c - whose vector state is in the registers.
 *
 * The engine is compiled for general registers only, so the guest's x87, SSE and AVX state stays in
 * the host's registers while the engine's own code runs: a callout costs no XSAVE. Before anything
 * else may run (libc, Zydis, the embedder) the state is parked in cpu->xsave.
 *
 * Thread: the vCPU's. */
#include "runtime/rt.h"

#include <cpuid.h>

/* x87, SSE, AVX, opmask, ZMM_Hi256, Hi16_ZMM: what guests may enable (SDM 1-13.1). */
#define GUEST_COMPONENTS 0xe7u

static uint64_t host_xcr0(void)
{
    uint32_t lo, hi;
    __asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

uint64_t rt_fpu_mask(void)
{
    static uint64_t mask;
    if (!mask)
        mask = host_xcr0() & GUEST_COMPONENTS;
    return mask;
}

size_t rt_fpu_size(void)
{
    uint32_t a, b, c, d;
    size_t end = 576;
    for (unsigned i = 2; i < 63; i++) {
        if (!(rt_fpu_mask() >> i & 1))
            continue;
        __cpuid_count(0xd, i, a, b, c, d);
        if (b + a > end)
            end = b + a;
    }
    return end;
}

void rt_fpu_load(struct rt_cpu *cpu)
{
    if (cpu->fpu_live)
        return;
    uint64_t mask = rt_fpu_mask();
    __asm__ volatile("xrstor64 (%0)"
                     :
                     : "r"(cpu->xsave), "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32))
                     : "memory");
    cpu->fpu_live = 1;
}

void rt_fpu_park(struct rt_cpu *cpu)
{
    if (!cpu->fpu_live)
        return;
    uint64_t mask = rt_fpu_mask();
    __asm__ volatile("xsave64 (%0)"
                     :
                     : "r"(cpu->xsave), "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32))
                     : "memory");
    cpu->fpu_live = 0;
    /* The C ABI wants an empty x87 stack and default control words. */
    static const uint32_t mxcsr = 0x1f80;
    __asm__ volatile("fninit\n\tldmxcsr %0" : : "m"(mxcsr));
}
