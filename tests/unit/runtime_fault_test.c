/* Signals: masks, kicks and the chain to the handlers that were there before. */
#include "runtime/rt.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

TestSuite(runtime_fault, .timeout = 30);

#define KICK (SIGRTMIN + 5)

static unsigned kicks, faults;
static uint64_t fault_rip;

static enum rt_fault_action on_fault(struct rt_cpu *cpu, struct rt_context *context)
{
    faults++;
    fault_rip = cpu->fault.vector == 14 ? context->rip : 0;
    context->gpr[RT_AX] = 0x4711;
    context->rip += 2; /* behind mov (%rcx), %eax */
    return RT_FAULT_RETRY;
}

static enum rt_fault_action on_kick(struct rt_cpu *cpu, struct rt_context *context)
{
    (void)context;
    kicks++;
    cpu->jump_table = NULL;
    return RT_FAULT_RETRY;
}

static const struct rt_hooks hooks = {.fault = on_fault, .kick = on_kick};

static sigjmp_buf back;
static volatile sig_atomic_t chained;

static void earlier_handler(int number)
{
    chained = number;
    siglongjmp(back, 1);
}

Test(runtime_fault, a_fault_that_is_not_ours_goes_to_the_handler_from_before)
{
    struct sigaction action = {.sa_handler = earlier_handler};
    int *volatile nowhere = (int *)0x1f0000000000;

    sigaction(SIGSEGV, &action, NULL);
    cr_assert_eq(rt_fault_install(&hooks, KICK), 0);
    cr_assert_eq(rt_fault_thread(), 0);
    cr_assert_eq(rt_fault_thread(), 0, "again");
    if (!sigsetjmp(back, 1))
        *nowhere = 1;
    cr_expect_eq(chained, SIGSEGV);
    cr_expect_eq(faults, 0);
}

Test(runtime_fault, a_fault_in_translated_code_goes_to_the_hook_with_its_registers)
{
    static const uint8_t bytes[] = {0x8b, 0x01, 0xc3}; /* mov (%rcx), %eax; ret */
    uint8_t *code =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint64_t result;

    memcpy(code, bytes, sizeof(bytes));
    cr_assert_eq(rt_fault_install(&hooks, KICK), 0);
    cr_assert_eq(rt_fault_thread(), 0);
    rt_cpu.owner = &rt_cpu;
    rt_cpu.code_lo = code;
    rt_cpu.code_hi = code + 4096;
    __asm__ volatile("call *%1" : "=a"(result) : "r"(code), "c"(0x1f0000000000ull) : "memory");
    rt_cpu.owner = NULL;
    cr_expect_eq(faults, 1);
    cr_expect_eq(fault_rip, (uint64_t)code);
    cr_expect_eq(result, 0x4711);
    cr_expect_eq(rt_cpu.fault.addr, 0x1f0000000000ull);
    cr_expect_eq(rt_cpu.fault.write, 0);
}

Test(runtime_fault, a_kick_reaches_the_hook_only_between_c_and_translated_code)
{
    cr_assert_eq(rt_fault_install(&hooks, KICK), 0);
    cr_assert_eq(rt_fault_thread(), 0);
    rt_fault_kick(rt_fault_self());
    cr_expect_eq(kicks, 0, "no vCPU runs on this thread");
    rt_cpu.owner = &rt_cpu;
    rt_fault_kick(rt_fault_self());
    cr_expect_eq(kicks, 0, "C runs");
    rt_cpu.in_cache = 1;
    rt_fault_kick(rt_fault_self());
    cr_expect_eq(kicks, 1);
    rt_cpu.in_cache = 0;
    rt_cpu.owner = NULL;
}

Test(runtime_fault, the_mask_blocks_all_but_faults_and_kicks_and_is_put_back)
{
    sigset_t saved, now, before;

    cr_assert_eq(rt_fault_install(&hooks, KICK), 0);
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    rt_fault_mask(&saved);
    pthread_sigmask(SIG_SETMASK, NULL, &now);
    static const int open[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    static const int blocked[] = {SIGINT, SIGTERM, SIGALRM, SIGCHLD, SIGUSR1};
    for (unsigned i = 0; i < 5; i++) {
        cr_expect(!sigismember(&now, open[i]), "signal %d", open[i]);
        cr_expect(sigismember(&now, blocked[i]), "signal %d", blocked[i]);
    }
    cr_expect(!sigismember(&now, KICK));
    rt_fault_unmask(&saved);
    pthread_sigmask(SIG_SETMASK, NULL, &now);
    for (int i = 1; i < SIGRTMAX; i++)
        cr_expect_eq(sigismember(&now, i), sigismember(&before, i), "signal %d", i);
}
