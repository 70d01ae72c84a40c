/* fault.c - host signals turned into {host pc, address, kind}.
 *
 * Owns the process's handlers for SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP and the kick signal, and
 * an alternate stack for each vCPU thread: in translated code rsp is the guest's and must never be
 * written through.
 *
 * A signal whose pc lies in translated code goes to the monitor's hook, which mends the cause
 * (RETRY) or puts the guest's state into rt_cpu (LEAVE); then the handler resumes at rt_exit_fault
 * on the host's stack. A signal in the slow path's native code resumes at rt_native_fault. Any
 * other goes to the handler that was installed before novt's.
 *
 * Vector state: the kernel saved it in the signal frame and restores it on return, so the handler
 * may use anything.
 *
 * Context: signal handlers; no locks, no allocation. */
#define _GNU_SOURCE
#include "runtime/rt.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

static const int fault_signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
#define FAULT_SIGNALS (sizeof(fault_signals) / sizeof(fault_signals[0]))

static struct sigaction previous[FAULT_SIGNALS], previous_kick;
static struct rt_hooks hooks;
static int kick_number;
static pthread_once_t install_once = PTHREAD_ONCE_INIT;
static int install_error;

/* The signal frame with AVX-512 state is under 4 KiB; window fills run on this stack too. */
#define ALT_STACK_SIZE (128 * 1024)
static __thread void *alt_stack;

static const int greg_of[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                REG_R12, REG_R13, REG_R14, REG_R15};

static void context_get(struct rt_context *context, const ucontext_t *uc)
{
    for (unsigned i = 0; i < 16; i++)
        context->gpr[i] = (uint64_t)uc->uc_mcontext.gregs[greg_of[i]];
    context->rip = (uint64_t)uc->uc_mcontext.gregs[REG_RIP];
    context->rflags = (uint64_t)uc->uc_mcontext.gregs[REG_EFL];
}

static void context_set(const struct rt_context *context, ucontext_t *uc)
{
    for (unsigned i = 0; i < 16; i++)
        uc->uc_mcontext.gregs[greg_of[i]] = (greg_t)context->gpr[i];
    uc->uc_mcontext.gregs[REG_RIP] = (greg_t)context->rip;
    uc->uc_mcontext.gregs[REG_EFL] = (greg_t)context->rflags;
}

/* The x86 vector is what the kernel got; siginfo is only its interpretation. */
static void describe(struct rt_fault *fault, int number, const siginfo_t *info,
                     const ucontext_t *uc)
{
    uint64_t trap = (uint64_t)uc->uc_mcontext.gregs[REG_TRAPNO];
    uint64_t error = (uint64_t)uc->uc_mcontext.gregs[REG_ERR];

    fault->vector = (uint8_t)trap;
    fault->pc = (const uint8_t *)uc->uc_mcontext.gregs[REG_RIP];
    fault->write = trap == 14 && (error & 2);
    fault->has_addr = trap == 14;
    fault->addr = fault->has_addr ? (uint64_t)info->si_addr : 0;
    (void)number;
}

static bool inside(const uint8_t *pc, const uint8_t *lo, const uint8_t *hi)
{
    return pc >= lo && pc < hi;
}

static void leave_to(ucontext_t *uc, struct rt_cpu *cpu, enum rt_exit reason)
{
    cpu->in_cache = 0;
    uc->uc_mcontext.gregs[REG_RIP] = (greg_t)rt_exit_fault;
    uc->uc_mcontext.gregs[REG_RSP] = (greg_t)cpu->host_sp;
    uc->uc_mcontext.gregs[REG_RAX] = (greg_t)reason;
    uc->uc_mcontext.gregs[REG_EFL] = 0x202;
}

static void run_hook(struct rt_cpu *cpu, ucontext_t *uc,
                     enum rt_fault_action (*hook)(struct rt_cpu *, struct rt_context *))
{
    struct rt_context context;

    context_get(&context, uc);
    if (hook(cpu, &context) == RT_FAULT_LEAVE)
        leave_to(uc, cpu, RT_EXIT_FAULT);
    else
        context_set(&context, uc);
}

static void chain(const struct sigaction *before, int number, siginfo_t *info, void *uc)
{
    if (before->sa_flags & SA_SIGINFO) {
        before->sa_sigaction(number, info, uc);
    } else if (before->sa_handler == SIG_DFL) {
        signal(number, SIG_DFL); /* returning repeats the fault, now fatal */
    } else if (before->sa_handler != SIG_IGN) {
        before->sa_handler(number);
    }
}

static void on_fault(int number, siginfo_t *info, void *ucontext)
{
    struct rt_cpu *cpu = &rt_cpu;
    ucontext_t *uc = ucontext;
    const uint8_t *pc = (const uint8_t *)uc->uc_mcontext.gregs[REG_RIP];
    int saved_errno = errno;
    bool sent = info->si_code <= 0; /* by kill() and the like: not an instruction's doing */

    if (!sent && cpu->owner && inside(pc, cpu->code_lo, cpu->code_hi)) {
        describe(&cpu->fault, number, info, uc);
        run_hook(cpu, uc, hooks.fault);
    } else if (!sent && cpu->owner && inside(pc, cpu->native_lo, cpu->native_hi)) {
        describe(&cpu->fault, number, info, uc);
        uc->uc_mcontext.gregs[REG_RIP] = (greg_t)rt_native_fault;
    } else {
        for (unsigned i = 0; i < FAULT_SIGNALS; i++) {
            if (fault_signals[i] == number)
                chain(&previous[i], number, info, ucontext);
        }
    }
    errno = saved_errno;
}

static void set_two(ucontext_t *uc, int first, const void *one, int second, const void *other)
{
    uc->uc_mcontext.gregs[first] = (greg_t)one;
    uc->uc_mcontext.gregs[second] = (greg_t)other;
}

static void on_kick(int number, siginfo_t *info, void *ucontext)
{
    struct rt_cpu *cpu = &rt_cpu;
    ucontext_t *uc = ucontext;
    const uint8_t *pc = (const uint8_t *)uc->uc_mcontext.gregs[REG_RIP];
    int saved_errno = errno;

    (void)number;
    (void)info;
    if (cpu->owner && inside(pc, cpu->code_lo, cpu->code_hi)) {
        run_hook(cpu, uc, hooks.kick);
    } else if (cpu->owner && cpu->in_cache) { /* between C and translated code */
        hooks.kick(cpu, NULL);
        if (inside(pc, (const uint8_t *)rt_enter_loaded, (const uint8_t *)rt_enter64))
            set_two(uc, REG_R14, cpu->jump_table, REG_R9, cpu->start);
        if (inside(pc, (const uint8_t *)rt_enter64, (const uint8_t *)rt_enter_end))
            set_two(uc, REG_R11, cpu->jump_table, REG_R10, cpu->start);
    }
    errno = saved_errno;
}

static int install_one(int number, void (*handler)(int, siginfo_t *, void *),
                       struct sigaction *before)
{
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_sigaction = handler;
    /* SA_NODEFER: a fault in the hook itself is a defect that must be seen, not a silent kill. */
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
    sigemptyset(&action.sa_mask);
    sigaddset(&action.sa_mask, kick_number);
    return sigaction(number, &action, before) == 0 ? 0 : -errno;
}

static void install_handlers(void)
{
    for (unsigned i = 0; i < FAULT_SIGNALS && !install_error; i++)
        install_error = install_one(fault_signals[i], on_fault, &previous[i]);
    if (!install_error)
        install_error = install_one(kick_number, on_kick, &previous_kick);
}

int rt_fault_install(const struct rt_hooks *h, int kick_signal)
{
    hooks = *h;
    kick_number = kick_signal;
    pthread_once(&install_once, install_handlers);
    return install_error;
}

int rt_fault_thread(void)
{
    stack_t stack;

    if (alt_stack)
        return 0;
    alt_stack = rt_os_reserve(ALT_STACK_SIZE);
    if (!alt_stack)
        return -ENOMEM;
    memset(&stack, 0, sizeof(stack));
    stack.ss_sp = alt_stack;
    stack.ss_size = ALT_STACK_SIZE;
    return sigaltstack(&stack, NULL) == 0 ? 0 : -errno;
}

void rt_fault_kick(int tid)
{
    int saved_errno = errno;
    syscall(SYS_tgkill, getpid(), tid, kick_number);
    errno = saved_errno;
}

int rt_fault_self(void)
{
    return (int)syscall(SYS_gettid);
}

void rt_fault_mask(void *saved)
{
    sigset_t set;
    sigfillset(&set);
    for (unsigned i = 0; i < FAULT_SIGNALS; i++)
        sigdelset(&set, fault_signals[i]);
    sigdelset(&set, kick_number);
    sigdelset(&set, SIGPROF);
    sigdelset(&set, SIGSYS); /* the embedder's sandbox */
    pthread_sigmask(SIG_SETMASK, &set, saved);
}

void rt_fault_unmask(const void *saved)
{
    pthread_sigmask(SIG_SETMASK, saved, NULL);
}
