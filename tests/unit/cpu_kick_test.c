/* cpu_kick_test.c - what a kick finds in the middle of 64-bit code, and leaves alone. */
#include "tests/unit/engine_guest.h"

#include <pthread.h>
#include <unistd.h>

static struct engine_guest g;

/* 1: mov %rbx, %rcx; mov %rbp, %rsi; rep lodsb; jmp 1b */
static const uint8_t code[] = {0x48, 0x89, 0xd9, 0x48, 0x89, 0xee, 0xf3, 0xac, 0xeb, 0xf6};

static void *kicker(void *unused)
{
    (void)unused;
    usleep(20000);
    novt_vcpu_kick(g.vcpu);
    return NULL;
}

/* The first kick in the life of a VM, when no address space has a table for system calls; LODS
 * leaves RDI alone. */
Test(kick, in_a_repeated_lods_leaves_all_registers_alone, .timeout = 60)
{
    struct novt_regs r = {.rip = GUEST_CODE, .rflags = 2};
    pthread_t thread;

    engine_guest_create(&g, 0, code, sizeof(code));
    engine_guest_long_mode(&g, 7);
    for (unsigned n = 0; n < 16; n++)
        r.gpr[n] = 0x4e2000000000ull + n;
    r.gpr[NOVT_RSP] = GUEST_STACK;
    r.gpr[NOVT_RBX] = 0x80000;
    r.gpr[NOVT_RBP] = GUEST_DATA;
    cr_assert_eq(novt_vcpu_set_regs(g.vcpu, &r), 0);
    pthread_create(&thread, NULL, kicker, NULL);
    cr_assert_eq(novt_vcpu_run(g.vcpu), 0);
    pthread_join(thread, NULL);
    cr_assert_eq(g.run->exit_reason, NOVT_EXIT_KICKED);
    novt_vcpu_get_regs(g.vcpu, &r);
    cr_expect_eq(r.rip, GUEST_CODE + 6, "in the middle of LODS");
    cr_expect_eq(r.gpr[NOVT_RSI] + r.gpr[NOVT_RCX], GUEST_DATA + 0x80000);
    for (unsigned n = 7; n < 16; n++)
        cr_expect_eq(r.gpr[n], 0x4e2000000000ull + n, "register %u: %llx", n,
                     (unsigned long long)r.gpr[n]);
    engine_guest_destroy(&g);
}
