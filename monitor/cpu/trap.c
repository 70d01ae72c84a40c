/* trap.c - translated code interrupted by a host signal: its faults, and kicks.
 *
 * A fault is mended here (a page is filled in, a collision of blocks sent on), or the guest's state
 * is recovered and run.c does the rest, as v->after_fault says. A kick makes all ways out of the
 * current block lead to C: direct links are cut, the jump table is replaced by the one that always
 * misses. No polling in translated code.
 *
 * Context: signal handler on the vCPU's thread, translated code interrupted; no locks, no
 * allocation. */
#include "monitor/cpu/describe.h"
#include "monitor/cpu/vm.h"
#include "runtime/unwind.h"

/* The entry check of a block found another pc (long_flow.c, l_entry()). */
static bool entry_collision(struct mon_vcpu *v, struct rt_context *context)
{
    struct cc *cc = &v->vm->cc;
    const uint8_t *hpc = (const uint8_t *)context->rip;
    struct cc_block *b = cc_find(cc, hpc);

    if (!b || hpc >= cc->rx + b->host + b->direct)
        return false;
    cc_collide(cc, b);
    mon_count(v, MON_STAT_fault_collision);
    context->rip = (uint64_t)cc->miss_stub;
    return true;
}

/* An addition to rsp would lead to where the guest has no page, which is no fault of the guest's:
 * the slow path adds, and the instruction is translated again, to look its slot up. */
static void after_probe(struct mon_vcpu *v, const struct rt_context *context)
{
    struct cc *cc = &v->vm->cc;
    struct cc_block *b = cc_find(cc, v->cpu->fault.pc);
    enum cc_recipe recipe;

    v->after_fault = AFTER_STEP;
    if (b)
        cc_see(cc, b, b->gpa + cc_guest_pc(cc, b, (const uint8_t *)context->rip, &recipe) - b->pc,
               0);
}

/* An access to a device: an instruction that keeps doing that is translated again. */
static void after_device(struct mon_vcpu *v, const struct rt_context *context)
{
    struct cc *cc = &v->vm->cc;
    struct cc_block *b = cc_find(cc, v->cpu->fault.pc);
    enum cc_recipe recipe;
    uint16_t bytes;

    if (!b)
        return;
    uint64_t gpa = b->gpa + cc_guest_pc(cc, b, (const uint8_t *)context->rip, &recipe) - b->pc;
    const uint8_t *ram = mon_vm_ram(v, gpa, NULL);
    if (!ram || recipe == CC_R_STRING || recipe == CC_R_STRING64 || (gpa & 4095) == 4095)
        return;
    __builtin_memcpy(&bytes, ram, sizeof(bytes));
    if (cc_device_note(cc, gpa, bytes)) {
        cc_drop(cc, b);
        mon_count(v, MON_STAT_sites_device);
    }
}

/* 32-bit code: a branch through a hole of the jump table or through the one that always misses, or
 * to a block that has been dropped. */
static bool missed(struct mon_vcpu *v, struct rt_context *context)
{
    const struct cc *cc = &v->vm->cc;
    const uint8_t *hpc = (const uint8_t *)context->rip;
    const struct cc_block *b = cc_find(cc, hpc);

    if (b ? b->wide : !cc_contains(cc, hpc) || v->key & TR_K_LONG)
        return false;
    if (b && !b->valid && hpc == cc->rx + b->host)
        context->gpr[8] = b->pc;
    else if (!tr_is_table_jump(hpc))
        return false;
    mon_count(v, MON_STAT_fault_miss);
    context->rip = (uint64_t)cc->miss_stub;
    return true;
}

static enum rt_fault_action on_fault(struct rt_cpu *cpu, struct rt_context *context)
{
    struct mon_vcpu *v = cpu->owner;
    const struct rt_fault *fault = &cpu->fault;
    uint64_t gla;

    mon_mode_follow(v);
    v->after_fault = AFTER_STEP;
    if (entry_collision(v, context) || missed(v, context))
        return RT_FAULT_RETRY;
    if (fault->vector == MON_PF && mon_view_is_absent_place(v, fault->addr)) {
        mon_count(v, MON_STAT_fault_place);
        v->after_fault = AFTER_ARRIVAL;
    } else if (fault->vector == MON_PF && mon_view_is_check(v, fault->addr) &&
               tr_is_check(fault->pc, &v->check_class)) {
        mon_count(v, MON_STAT_fault_check);
        v->after_fault = AFTER_CHECK;
    } else if (fault->vector == MON_PF && mon_view_gla(v, fault->addr, &gla)) {
        switch (mon_view_fill(v, gla, fault->write)) {
        case MON_FILL_DONE:
            return RT_FAULT_RETRY;
        case MON_FILL_EXCEPTION:
            v->after_fault = AFTER_EXCEPTION;
            break;
        case MON_FILL_DEVICE:
            after_device(v, context);
            break;
        case MON_FILL_STEP:
            break;
        }
    } else {
        mon_count(v, MON_STAT_fault_other);
    }
    if (tr_is_probe(fault->pc))
        after_probe(v, context);
    RT_ASSERT(cc_recover(&v->vm->cc, cpu, context));
    return RT_FAULT_LEAVE;
}

/* At a repeated string instruction the guest's state is whole: no need to wait for its end. */
static bool at_repeated_string(const uint8_t *hpc)
{
    if (*hpc == 0x66)
        hpc++;
    if (hpc[0] != 0xf2 && hpc[0] != 0xf3)
        return false;
    hpc += hpc[1] == 0x48 ? 2 : 1;
    return *hpc >= 0xa4 && *hpc <= 0xaf && *hpc != 0xa8 && *hpc != 0xa9;
}

/* 64-bit code has its jump table in r11 while it looks up a branch's target. A side has none before
 * its first system call, and r11 may well be 0. */
static void miss_instead_of(struct rt_context *context, const void *table, const struct cc *cc)
{
    if (table && context->gpr[11] == (uint64_t)table)
        context->gpr[11] = (uint64_t)cc->miss_table;
}

static enum rt_fault_action on_kick(struct rt_cpu *cpu, struct rt_context *context)
{
    struct mon_vcpu *v = cpu->owner;
    struct cc *cc = &v->vm->cc;
    const uint8_t *hpc;
    struct cc_block *b;
    void *miss = v->key & TR_K_LONG ? cc->miss_table : CC_FLAT_MISS;

    cpu->jump_table = miss;
    cpu->start = cc->miss_stub;
    v->mode_changed = true;
    cpu->sides_ok = 0; /* a system call that has begun finds the miss table on the other side */
    for (unsigned n = 0; n < 2; n++) {
        if (context && v->key & TR_K_LONG)
            miss_instead_of(context, cpu->side[n].jump_table, cc);
        cpu->side[n].jump_table = miss;
    }
    if (!context)
        return RT_FAULT_RETRY;
    hpc = (const uint8_t *)context->rip;
    b = cc_find(cc, hpc);
    if (b && at_repeated_string(hpc) && cc_recover(cc, cpu, context)) {
        cpu->rflags |= context->rflags & RT_RF; /* after an iteration (SDM 3-17.3.1.1) */
        v->after_fault = AFTER_NOTHING;
        return RT_FAULT_LEAVE;
    }
    if (b)
        cc_unlink_exits(cc, b);
    if (cc_probe_again(cc, context))
        return RT_FAULT_RETRY;
    if (!(v->key & TR_K_LONG))
        context->gpr[14] = (uint64_t)CC_FLAT_MISS;
    else
        miss_instead_of(context, v->table, cc);
    return RT_FAULT_RETRY;
}

int mon_run_hooks(void)
{
    static const struct rt_hooks hooks = {.fault = on_fault, .kick = on_kick};
    rt_unwind_describe_with(mon_describe);
    return rt_fault_install(&hooks, NOVT_KICK_SIGNAL);
}
