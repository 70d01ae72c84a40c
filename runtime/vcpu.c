/* vcpu.c - the thread's register file, and the proof that assembly and C agree on it. */
#include "runtime/offsets.h"
#include "runtime/rt.h"

__thread struct rt_cpu rt_cpu __attribute__((tls_model("initial-exec"), aligned(64)));

#define AGREE(name, field) \
    _Static_assert(offsetof(struct rt_cpu, field) == name, #field " differs from offsets.h")

AGREE(CPU_GPR, gpr);
AGREE(CPU_RIP, rip);
AGREE(CPU_RFLAGS, rflags);
AGREE(CPU_HFLAGS, hflags);
AGREE(CPU_HOST_SP, host_sp);
AGREE(CPU_JUMP_TABLE, jump_table);
AGREE(CPU_START, start);
AGREE(CPU_WINDOW, window);
AGREE(CPU_EXIT_ARG, exit_arg);
AGREE(CPU_IN_CACHE, in_cache);
AGREE(CPU_INSNS, insns);
AGREE(CPU_HOST_RSP, host_rsp);

intptr_t rt_cpu_offset(void)
{
    const char *self = (const char *)&rt_cpu;

    /* Opaque to the compiler: a 32-bit load of the offset cannot be linked. */
    __asm__("" : "+r"(self));
    return self - (const char *)__builtin_thread_pointer();
}

/* AMD's PEXT is microcode before family 19h (Software Optimization Guide for family 17h, 2.10.2).
 */
uint32_t rt_cpu_table_mask(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_is("amdfam17h") ? 0xffff : 0x3ffff;
}

bool rt_cpu_has_masks(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
}

void rt_cpu_init(struct rt_cpu *cpu)
{
    for (unsigned i = 0; i < 8; i++) {
        bool low = !(i & 1);
        cpu->gather_add[i] = 1u << 27;
        cpu->gather_and[i] = ~0u << 28;
        cpu->gather_add[8 + i] = low ? 1u << 27 : 0;
        cpu->gather_and[8 + i] = low ? ~0u << 28 : ~0u;
    }
}
