/* describe.c - where this thread's vCPU is, in words, for the message after a failed assertion.
 *
 * Context: any, the fault handler too; nothing allocates, nothing locks. */
#include "monitor/cpu/describe.h"

#include "monitor/cpu/vm.h"

#include <stdio.h>

static size_t length(int n, size_t size)
{
    return n < 0 ? 0 : (size_t)n < size ? (size_t)n : size - 1;
}

static size_t describe_vcpu(const struct mon_vcpu *v, char *text, size_t size)
{
    const struct rt_cpu *cpu = v->cpu;
    int n = snprintf(text, size, "vCPU %u, CPL %u, guest pc %04x:%08llx, EFLAGS %08llx, key %x, %s",
                     v->id, cpu->cpl, v->seg[NOVT_CS].selector, (unsigned long long)cpu->rip,
                     (unsigned long long)cpu->rflags, v->key,
                     cpu->in_cache ? "in translated code since then" : "in the monitor");
    return length(n, size);
}

static size_t describe_code(const struct mon_vcpu *v, const uint8_t *hpc, char *text, size_t size)
{
    const struct cc *cc = &v->vm->cc;
    enum cc_recipe recipe;

    if (!cc_contains(cc, hpc))
        return 0;
    const struct cc_block *b = cc_find(cc, hpc);
    if (!b)
        return length(snprintf(text, size, "translated code: a stub"), size);
    int n = snprintf(text, size, "translated code: guest pc %08llx in block %08llx, key %x%s",
                     (unsigned long long)cc_guest_pc(cc, b, hpc, &recipe),
                     (unsigned long long)b->pc, b->key, b->valid ? "" : ", dropped");
    return length(n, size);
}

size_t mon_describe(const void *pc, char *text, size_t size)
{
    const struct mon_vcpu *v = rt_cpu.owner;

    if (!v)
        return 0;
    return pc ? describe_code(v, pc, text, size) : describe_vcpu(v, text, size);
}
