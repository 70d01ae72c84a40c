/* cpu_victims_test.c - 64-bit code whose indirect branches share a slot of the jump table.
 *
 * A loop that calls functions 256 KiB apart in turn must not leave translated code for it, and a
 * kick must end a run wherever it comes, on the way to such a function too. */
#define _GNU_SOURCE
#include "tests/unit/engine_guest.h"

#include <signal.h>
#include <ucontext.h>

#define ROUNDS 20000u
#define APART  (CC_TABLE_ENTRIES * 1u)
#define F      0x100u /* offset of the functions */
#define G      0x200u

static struct engine_guest g;

/* 1: call *%rbx; call *%rsi; call *%rbp; dec %rdi; jnz 1b; hlt */
static const uint8_t calls[] = {0xff, 0xd3, 0xff, 0xd6, 0xff, 0xd5,
                                0x48, 0xff, 0xcf, 0x75, 0xf5, 0xf4};
/* add $1, %rax; ret */
static const uint8_t function[] = {0x48, 0x83, 0xc0, 0x01, 0xc3};
/* 1: sub $1, %rax; jnz 1b; hlt */
static const uint8_t loop[] = {0x48, 0x83, 0xe8, 0x01, 0x75, 0xfa, 0xf4};

static void create(void)
{
    engine_guest_create(&g, 0, calls, sizeof(calls));
    engine_guest_long_mode(&g, 7);
    for (unsigned n = 0; n < 3; n++) {
        memcpy(g.ram + GUEST_CODE + F + n * APART, function, sizeof(function));
        memcpy(g.ram + GUEST_CODE + G + n * APART, loop, sizeof(loop));
    }
}

static struct novt_regs registers(uint64_t to)
{
    struct novt_regs r = {.rip = GUEST_CODE, .rflags = 2};

    r.gpr[NOVT_RSP] = GUEST_STACK;
    r.gpr[NOVT_RBX] = to;
    r.gpr[NOVT_RSI] = to + APART;
    r.gpr[NOVT_RBP] = to + 2 * APART;
    r.gpr[NOVT_RCX] = 0xc0ffee;
    r.gpr[NOVT_RDI] = ROUNDS;
    return r;
}

static uint64_t exits(void)
{
    static const char *const names[] = {"exits_missed", "exits_fault", "exits_direct",
                                        "fault_collision", NULL};
    return engine_guest_count(&g, names);
}

Test(victims, functions_that_share_a_slot_do_not_throw_each_other_out, .timeout = 60)
{
    struct novt_regs r;
    uint64_t before;

    create();
    for (unsigned i = 0; i < 3; i++) {
        r = registers(GUEST_CODE + F);
        before = exits();
        cr_assert_eq(novt_vcpu_set_regs(g.vcpu, &r), 0);
        novt_vcpu_set_events(g.vcpu, &(struct novt_events){0});
        cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_HLT);
        novt_vcpu_get_regs(g.vcpu, &r);
        cr_expect_eq(r.gpr[NOVT_RAX], 3 * ROUNDS);
        cr_expect_eq(r.gpr[NOVT_RCX], 0xc0ffee);
    }
    cr_expect_leq(exits() - before, 20);
    engine_guest_destroy(&g);
}

/* ---- kicks ---- */

#define TF 0x100

/* The host is single-stepped up to instruction number target of the probe, which gets a kick. */
static struct {
    unsigned at, target;
    bool kicked;
} step;

static void on_trap(int number, siginfo_t *info, void *context)
{
    greg_t *gregs = ((ucontext_t *)context)->uc_mcontext.gregs;
    const struct cc *cc = &g.v->vm->cc;
    uint64_t at = (uint64_t)gregs[REG_RIP] - (uint64_t)cc->rx;
    bool inside = at >= cc->probe.start && at < cc->probe.end;

    (void)number;
    (void)info;
    gregs[REG_EFL] |= TF;
    if (inside && step.at++ == step.target) {
        step.kicked = true;
        novt_vcpu_kick(g.vcpu);
    }
    if (step.kicked || (!inside && step.at))
        gregs[REG_EFL] &= ~(greg_t)TF;
}

static void set(uint64_t to, uint64_t count)
{
    struct novt_regs r = registers(to);

    r.gpr[NOVT_RAX] = count;
    cr_assert_eq(novt_vcpu_set_regs(g.vcpu, &r), 0);
    novt_vcpu_set_events(g.vcpu, &(struct novt_events){0});
}

static bool kick_at(uint64_t to, unsigned target)
{
    step.at = 0;
    step.target = target;
    step.kicked = false;
    set(to, 1000000);
    __asm__ volatile("pushfq; orl %0, (%%rsp); popfq" : : "i"(TF) : "cc", "memory");
    cr_assert_eq(novt_vcpu_run(g.vcpu), 0);
    return step.kicked;
}

/* The loops are linked to themselves by a short run first, and have no indirect branch: a kick that
 * is overtaken by the branch to them is lost, and the run goes on to its end. */
Test(victims, a_kick_ends_a_run_on_the_way_to_them_too, .timeout = 60)
{
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    struct novt_regs r;
    unsigned target = 0;

    create();
    sigaddset(&action.sa_mask, NOVT_KICK_SIGNAL); /* it comes to what the trap interrupted */
    sigaction(SIGTRAP, &action, NULL);
    for (unsigned n = 0; n < 6; n++) {
        set(GUEST_CODE + G + n % 3 * APART, 5);
        cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_HLT);
    }
    uint64_t victim = GUEST_CODE + G;
    while (!cc_table_other(&g.v->vm->cc, g.v->table, victim))
        victim += APART;
    while (kick_at(victim, target)) {
        cr_assert_eq(g.run->exit_reason, NOVT_EXIT_KICKED, "instruction %u", target);
        novt_vcpu_get_regs(g.vcpu, &r);
        cr_assert_eq(r.gpr[NOVT_RCX], 0xc0ffee, "instruction %u", target);
        cr_assert_gt(r.gpr[NOVT_RAX], 0, "not at once at instruction %u", target);
        set(victim, 5); /* links the loop again, and goes on past what the kick ended */
        cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_HLT);
        target++;
    }
    cr_expect_geq(target, 14, "%u instructions found the victim", target);
    engine_guest_destroy(&g);
}
