/* cpu_step.h - a machine whose vCPU runs on the test's thread, for tests of the slow path. */
#ifndef NOVT_TESTS_UNIT_CPU_STEP_H
#define NOVT_TESTS_UNIT_CPU_STEP_H

#include "tests/unit/cpu_machine.h"

#include "runtime/rt.h"

#define CODE 0x61000u
#define DATA 0x40000u

static struct machine m;
static struct mon_vcpu *v;

/* The test's thread stands in for one that runs the vCPU: its faults are the vCPU's. */
static inline void step_setup(void)
{
    machine_create(&m);
    v = m.v;
    cr_assert_eq(rt_fault_thread(), 0);
    rt_cpu = v->saved;
    rt_cpu.owner = v;
    v->cpu = &rt_cpu;
    machine_level(&m, 0);
    v->cr4 |= MON_CR4_OSFXSR | MON_CR4_OSXMMEXCPT | MON_CR4_OSXSAVE;
    v->xcr0 = mon_vm_cpuid(v)->xcr0_allowed;
}
static inline void step_teardown(void)
{
    rt_fpu_park(v->cpu);
    rt_cpu.owner = NULL;
    v->cpu = &v->saved;
    machine_destroy(&m);
}

#define ROWS(type, rows) cr_make_param_array(type, rows, sizeof(rows) / sizeof((rows)[0]))

/* Code in RAM at rip, which is mapped at its own address or at HIGH. */
static inline void code_at(uint64_t rip, const char *bytes, unsigned len)
{
    memcpy(m.ram + (rip & (RAM_SIZE - 1)), bytes, len);
    v->cpu->rip = rip;
}
#define RUN_AT(rip, bytes) (code_at((rip), (bytes), sizeof(bytes) - 1), mon_step(v))
#define RUN(bytes)         RUN_AT(CODE, bytes)

/* Identity-maps the machine's RAM with 4 KiB pages; MMIO at 0xd0000000 and ROM with a 4 MiB page
 * each. */
static inline void paging_on(void)
{
    for (unsigned n = 0; n < RAM_SIZE / 4096; n++)
        put32(&m, 0x1000 + 4 * n, n << 12 | 7);
    put32(&m, 0, 0x1000 | 7);
    put32(&m, (MMIO_BASE >> 22) * 4, MMIO_BASE | 0x87);
    put32(&m, (ROM_BASE >> 22) * 4, ROM_BASE | 0x87);
    v->cr4 |= MON_CR4_PSE;
    v->cr0 |= MON_CR0_PG | MON_CR0_WP;
    v->cr3 = 0;
}
static inline void unmap_page(uint32_t gla)
{
    put32(&m, 0x1000 + (gla >> 12) * 4, 0);
}

/* Random numbers, the same in every run. */
static uint64_t seed;
static inline uint32_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 16);
}
static inline uint64_t rnd64(void)
{
    return (uint64_t)rnd() << 32 | rnd();
}

#endif
