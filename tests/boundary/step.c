/* step.c - the boundary test between the engine and translated code.
 *
 * The wrappers, by the linker's --wrap, stand where the engine enters translated code and where it
 * executes an instruction in C. While stop_at_each is set they raise a kick there, so that
 * novt_vcpu_run() ends at the next boundary.
 *
 * Between step_begin() and step_end() the host itself is single-stepped (RFLAGS.TF) through one
 * entry into translated code: SIGTRAP at each host instruction, counted while it is in the code
 * cache or in rt_enter, and a kick at the one that was asked for. TF must not reach the guest: its
 * PUSHFQ is carried out in the handler.
 *
 * Context: one thread, and the SIGTRAP handler on it. */
#include "tests/boundary/boundary.h"

#include "runtime/rt.h"

#include <signal.h>
#include <string.h>
#include <ucontext.h>

/* ---- the wrappers ---- */

enum rt_exit __real_rt_enter(struct rt_cpu *cpu);
enum rt_exit __real_rt_enter64(struct rt_cpu *cpu);
enum mon_rc __real_mon_step(struct mon_vcpu *v);
enum mon_rc __real_mon_execute(struct mon_vcpu *v, const struct tr_insn *insn);
enum mon_rc __real_mon_exception_deliver(struct mon_vcpu *v);
enum rt_exit __wrap_rt_enter(struct rt_cpu *cpu);
enum rt_exit __wrap_rt_enter64(struct rt_cpu *cpu);
enum mon_rc __wrap_mon_step(struct mon_vcpu *v);
enum mon_rc __wrap_mon_execute(struct mon_vcpu *v, const struct tr_insn *insn);
enum mon_rc __wrap_mon_exception_deliver(struct mon_vcpu *v);

bool stop_at_each;
static struct {
    volatile bool on; /* translated code runs, and is stepped through */
    struct engine *e;
    unsigned entry, in_entry; /* how often it has been entered; where to kick */
    unsigned at, target;      /* host instructions since; where to kick */
    bool kicked;
} step;

static void stop(struct mon_vcpu *v)
{
    if (stop_at_each)
        v->kicked = true;
}

/* From the next host instruction but one on, each traps. */
static inline void set_host_tf(void)
{
    __asm__ volatile("pushfq; orl $0x100, (%%rsp); popfq" ::: "cc", "memory");
}

/* Indirect branches go to whatever the jump table knows: nothing but the block at rip. */
static void forget_last_entry(const struct rt_cpu *cpu)
{
    static void **table;
    static uint64_t pc;
    const struct mon_vcpu *v = cpu->owner;

    if (table && (table != v->table || pc != cpu->rip))
        cc_table_forget(&v->vm->cc, table, pc);
    table = v->table;
    pc = cpu->rip;
}

static enum rt_exit enter(struct rt_cpu *cpu, enum rt_exit (*real)(struct rt_cpu *))
{
    uint64_t rip = cpu->rip;
    enum rt_exit reason;

    if (stop_at_each)
        forget_last_entry(cpu);
    if (step.e && step.entry++ == step.in_entry) {
        step.on = true;
        set_host_tf();
    }
    reason = real(cpu);
    step.on = false;
    bool moved = cpu->rip != rip || reason == RT_EXIT_DIRECT; /* whose rip follows from the site */
    if (moved && reason != RT_EXIT_CALLOUT && reason != RT_EXIT_FAULT)
        stop(cpu->owner);
    return reason;
}

enum rt_exit __wrap_rt_enter(struct rt_cpu *cpu)
{
    return enter(cpu, __real_rt_enter);
}

enum rt_exit __wrap_rt_enter64(struct rt_cpu *cpu)
{
    return enter(cpu, __real_rt_enter64);
}

enum mon_rc __wrap_mon_step(struct mon_vcpu *v)
{
    enum mon_rc rc = __real_mon_step(v);
    stop(v);
    return rc;
}

enum mon_rc __wrap_mon_execute(struct mon_vcpu *v, const struct tr_insn *insn)
{
    enum mon_rc rc = __real_mon_execute(v, insn);
    stop(v);
    return rc;
}

enum mon_rc __wrap_mon_exception_deliver(struct mon_vcpu *v)
{
    enum mon_rc rc = __real_mon_exception_deliver(v);
    stop(v);
    return rc;
}

/* ---- stepping the host ---- */

/* PUSHF's image would have TF. */
static void emulate_pushfq(greg_t *gregs)
{
    uint64_t image = (uint64_t)gregs[REG_EFL] & ~0x10100ull;

    gregs[REG_RSP] -= 8;
    memcpy((void *)gregs[REG_RSP], &image, 8);
    gregs[REG_RIP]++;
}

static void on_trap(int number, siginfo_t *info, void *context)
{
    greg_t *gregs = ((ucontext_t *)context)->uc_mcontext.gregs;
    const struct rt_cpu *cpu = step.e->v->cpu;
    const uint8_t *pc = (const uint8_t *)gregs[REG_RIP];
    bool inside = pc >= cpu->code_lo && pc < cpu->code_hi;

    (void)number;
    (void)info;
    gregs[REG_EFL] &= ~(greg_t)RT_TF;
    if (!step.on || step.kicked)
        return;
    if (inside || (cpu->in_cache && pc >= (const uint8_t *)__real_rt_enter &&
                   pc < (const uint8_t *)rt_enter_end)) {
        if (step.at++ == step.target) {
            step.kicked = true;
            novt_vcpu_kick(step.e->m.vcpu);
            return;
        }
    }
    if (inside && *pc == 0x9c)
        emulate_pushfq(gregs);
    gregs[REG_EFL] |= RT_TF;
}

void take_traps(void)
{
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_ONSTACK};

    sigemptyset(&action.sa_mask);
    sigaddset(&action.sa_mask, NOVT_KICK_SIGNAL);
    if (sigaction(SIGTRAP, &action, NULL))
        die("sigaction");
}

void step_begin(struct engine *e, unsigned entry, unsigned n)
{
    step.entry = 0;
    step.in_entry = entry;
    step.at = 0;
    step.target = n;
    step.kicked = false;
    step.e = e;
}

bool step_has_kicked(void)
{
    return step.kicked;
}

void step_end(void)
{
    step.e = NULL;
}
