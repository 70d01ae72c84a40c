/* gs.c - the host's GS base: the current window's while a vCPU runs on the thread.
 *
 * WRGSBASE where the host allows it in user mode (5 ns), arch_prctl otherwise (110 ns).
 *
 * Thread: the vCPU's. */
#include "runtime/rt.h"

#include <asm/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static int has_fsgsbase = -1;

void rt_gs_load(struct rt_cpu *cpu, void *base)
{
    if (has_fsgsbase)
        __asm__ volatile("wrgsbase %0" : : "r"(base));
    else
        syscall(SYS_arch_prctl, ARCH_SET_GS, base);
    cpu->gs_loaded = base;
}

bool rt_gs_is_direct(void)
{
    return has_fsgsbase > 0;
}

void rt_gs_enter(struct rt_cpu *cpu)
{
    if (has_fsgsbase < 0)
        has_fsgsbase = rt_os_has_fsgsbase();
    if (has_fsgsbase)
        __asm__ volatile("rdgsbase %0" : "=r"(cpu->gs_host));
    else
        syscall(SYS_arch_prctl, ARCH_GET_GS, &cpu->gs_host);
    cpu->gs_loaded = cpu->gs_host;
}

void rt_gs_leave(struct rt_cpu *cpu)
{
    if (cpu->gs_loaded != cpu->gs_host)
        rt_gs_load(cpu, cpu->gs_host);
}
