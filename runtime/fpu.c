/* fpu.c - whose vector state is in the registers.
 *
 * The engine is compiled for general registers only, so the guest's x87, SSE and AVX state stays in
 * the host's registers while the engine's own code runs: a callout costs no XSAVE. Before anything
 * else may run (libc, Zydis, the embedder) the state is parked in cpu->xsave. State that is initial
 * is neither saved nor loaded: 35 cycles instead of 430 to 700 for both ways.
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

/* Where the legacy region has MXCSR, and the header XSTATE_BV (SDM 1-13.4). */
#define MXCSR_AT      24
#define XSTATE_BV_AT  512
#define MXCSR_INITIAL 0x1f80u

static uint32_t mxcsr(void)
{
    uint32_t value;
    __asm__ volatile("stmxcsr %0" : "=m"(value));
    return value;
}

/* CPUID.(0Dh,1):EAX[2] */
static bool has_xinuse(void)
{
    static int found = -1;
    uint32_t a, b, c, d;
    if (found < 0) {
        __cpuid_count(0xd, 1, a, b, c, d);
        found = a >> 2 & 1;
    }
    return found;
}

/* The guest's components that are not in their initial state now (SDM 1-13.6): a kernel that has
 * not used vector registers, or has given them back with VZEROUPPER and XRSTOR, costs little. */
static uint64_t in_use(void)
{
    uint32_t lo, hi;
    if (!has_xinuse())
        return rt_fpu_mask();
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(1));
    return ((uint64_t)hi << 32 | lo) & rt_fpu_mask();
}

static bool registers_are_initial(uint64_t components)
{
    return !components && mxcsr() == MXCSR_INITIAL;
}

static bool area_is_initial(const struct rt_cpu *cpu)
{
    const uint8_t *area = cpu->xsave;
    uint64_t components;
    uint32_t control;
    __builtin_memcpy(&components, area + XSTATE_BV_AT, sizeof(components));
    __builtin_memcpy(&control, area + MXCSR_AT, sizeof(control));
    return !components && control == MXCSR_INITIAL;
}

static void make_area_initial(struct rt_cpu *cpu)
{
    const uint64_t components = 0;
    const uint32_t control = MXCSR_INITIAL;
    uint8_t *area = cpu->xsave;
    __builtin_memcpy(area + XSTATE_BV_AT, &components, sizeof(components));
    __builtin_memcpy(area + MXCSR_AT, &control, sizeof(control));
}

void rt_fpu_load(struct rt_cpu *cpu)
{
    if (cpu->fpu_live)
        return;
    uint64_t mask = rt_fpu_mask();
    cpu->fpu_live = 1;
    if (area_is_initial(cpu) && registers_are_initial(in_use()))
        return;
    __asm__ volatile("xrstor64 (%0)"
                     :
                     : "r"(cpu->xsave), "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32))
                     : "memory");
}

/* The C ABI wants an empty x87 stack and default control words. */
void rt_fpu_park(struct rt_cpu *cpu)
{
    if (!cpu->fpu_live)
        return;
    uint64_t mask = rt_fpu_mask(), used = in_use();
    static const uint32_t initial = MXCSR_INITIAL;
    cpu->fpu_live = 0;
    if (registers_are_initial(used)) {
        make_area_initial(cpu);
        return;
    }
    __asm__ volatile("xsave64 (%0)"
                     :
                     : "r"(cpu->xsave), "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32))
                     : "memory");
    if (used & 1)
        __asm__ volatile("fninit");
    __asm__ volatile("ldmxcsr %0" : : "m"(initial));
}
