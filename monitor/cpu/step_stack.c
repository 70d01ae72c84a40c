/* step_stack.c - pushes and pops.
 *
 * Two sizes are at work: the operand's, and that of the stack pointer, which SS's B flag selects
 * (SDM 1-6.2.3). A 16-bit stack wraps inside its 64 KiB and keeps the upper half of ESP. The stack
 * pointer moves last, so that a fault leaves it. */
#include "monitor/cpu/step.h"

/* Offset in SS of what lies delta bytes above the top. */
static uint64_t stack_at(const struct mon_vcpu *v, int64_t delta)
{
    return (v->cpu->gpr[RT_SP] + (uint64_t)delta) & step_sp_mask(v);
}

enum mon_rc step_push_value(struct mon_vcpu *v, uint64_t value, unsigned bits)
{
    uint64_t sp = stack_at(v, -(int64_t)(bits / 8));
    enum mon_rc rc = step_write(v, NOVT_SS, sp, &value, bits / 8);
    if (rc == MON_OK)
        step_set_sp(v, sp);
    return rc;
}

enum mon_rc step_top(struct mon_vcpu *v, unsigned bits, uint64_t *value)
{
    *value = 0;
    return step_read(v, NOVT_SS, stack_at(v, 0), value, bits / 8);
}

static void drop(struct mon_vcpu *v, unsigned bits)
{
    step_set_sp(v, v->cpu->gpr[RT_SP] + bits / 8);
}

/* ---- PUSH, POP ---- */

enum mon_rc step_push(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint64_t value;
    enum mon_rc rc = MON_OK;
    if (i->has_modrm)
        rc = step_rm_read(v, i, next, i->opsize, &value);
    else if ((i->opcode & 0xf8) == 0x50)
        value = v->cpu->gpr[(i->opcode & 7) | (i->rex & 1 ? 8 : 0)];
    else
        value = (uint64_t)i->imm;
    if (rc == MON_OK)
        rc = step_push_value(v, value, i->opsize);
    return rc == MON_OK ? step_done(v, next) : rc;
}

/* The address of a memory destination is computed with the stack pointer already moved, and what
 * is popped into the stack pointer replaces it (SDM 2 POP). */
enum mon_rc step_pop(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint64_t value, sp = v->cpu->gpr[RT_SP];
    enum mon_rc rc = step_top(v, i->opsize, &value);
    if (rc != MON_OK)
        return rc;
    drop(v, i->opsize);
    if (!i->has_modrm) {
        step_set_gpr(v, i, (i->opcode & 7) | (i->rex & 1 ? 8u : 0u), i->opsize, value);
        return step_done(v, next);
    }
    rc = step_rm_write(v, i, next, i->opsize, value);
    if (rc == MON_OK)
        return step_done(v, next);
    v->cpu->gpr[RT_SP] = sp;
    return rc;
}

/* AX CX DX BX SP BP SI DI, with SP as it was. What has been stored stays, as on a processor, when a
 * later one faults. */
enum mon_rc step_pusha(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    int size = i->opsize / 8;
    enum mon_rc rc = MON_OK;
    for (int n = 1; n <= 8 && rc == MON_OK; n++)
        rc = step_write(v, NOVT_SS, stack_at(v, -n * size), &v->cpu->gpr[n - 1], (unsigned)size);
    if (rc != MON_OK)
        return rc;
    step_set_sp(v, v->cpu->gpr[RT_SP] - 8 * (unsigned)size);
    return step_done(v, next);
}

enum mon_rc step_popa(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    unsigned size = i->opsize / 8;
    /* What has been popped stays, as on a processor, when a later one faults. */
    for (unsigned n = 0; n < 8; n++) {
        uint64_t value = 0;
        enum mon_rc rc = step_read(v, NOVT_SS, stack_at(v, n * size), &value, size);
        if (rc != MON_OK)
            return rc;
        if (7 - n != RT_SP)
            step_set_gpr(v, i, 7 - n, i->opsize, value);
    }
    step_set_sp(v, v->cpu->gpr[RT_SP] + 8 * size);
    return step_done(v, next);
}

/* ---- stack frames ---- */

/* The frame pointers of the enclosing procedures: read below BP, pushed below SP. */
static enum mon_rc copy_display(struct mon_vcpu *v, unsigned level, int size, uint64_t frame)
{
    uint64_t value;
    for (int n = 1; n < (int)level; n++) {
        uint64_t from = (v->cpu->gpr[RT_BP] - (uint64_t)(n * size)) & step_sp_mask(v);
        enum mon_rc rc = step_read(v, NOVT_SS, from, &value, (unsigned)size);
        if (rc == MON_OK)
            rc = step_write(v, NOVT_SS, stack_at(v, -(n + 1) * size), &value, (unsigned)size);
        if (rc != MON_OK)
            return rc;
    }
    return step_write(v, NOVT_SS, stack_at(v, -((int)level + 1) * size), &frame, (unsigned)size);
}

enum mon_rc step_enter(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    int size = i->opsize / 8;
    unsigned level = i->imm2 & 31, locals = (uint16_t)i->imm;
    uint64_t frame = v->cpu->gpr[RT_SP] - (unsigned)size;
    int pushed = level ? (int)level + 1 : 1;

    enum mon_rc rc =
        step_write(v, NOVT_SS, stack_at(v, -size), &v->cpu->gpr[RT_BP], (unsigned)size);
    if (rc == MON_OK && level)
        rc = copy_display(v, level, size, frame);
    int64_t depth = (int64_t)pushed * size + locals;
    if (rc == MON_OK) /* the new top must be writable */
        rc = step_check_write(v, NOVT_SS, stack_at(v, -depth), (unsigned)size);
    if (rc != MON_OK)
        return rc;
    step_set_gpr(v, i, RT_BP, i->opsize,
                 frame); /* a 16-bit stack's wrap borrows, as on a processor */
    step_set_sp(v, v->cpu->gpr[RT_SP] - (uint64_t)depth);
    return step_done(v, next);
}

enum mon_rc step_leave(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint64_t value = 0, from = v->cpu->gpr[RT_BP] & step_sp_mask(v);
    enum mon_rc rc = step_read(v, NOVT_SS, from, &value, i->opsize / 8);
    if (rc != MON_OK)
        return rc;
    step_set_sp(v, from + i->opsize / 8);
    step_set_gpr(v, i, RT_BP, i->opsize, value);
    return step_done(v, next);
}

/* ---- flags (SDM 2 PUSHF, POPF; 3-20.2.7 for virtual-8086 mode) ---- */

static bool v86_restricted(const struct mon_vcpu *v)
{
    return mon_v86(v) && step_iopl(v) != 3;
}

enum mon_rc step_pushf(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint64_t flags = v->cpu->rflags;
    if (v86_restricted(v)) {
        if (!(v->cr4 & MON_CR4_VME) || i->opsize != 16)
            return mon_raise_error(v, MON_GP, 0);
        flags = (flags & ~(uint64_t)RT_IF) | RT_IOPL | (flags & RT_VIF ? RT_IF : 0);
    }
    flags = (flags & ~(uint64_t)(RT_VM | RT_RF)) | 2;
    enum mon_rc rc = step_push_value(v, flags, i->opsize);
    return rc == MON_OK ? step_done(v, next) : rc;
}

/* The virtual interrupt flag stands in for IF; IOPL stays. */
static enum mon_rc popf_vme(struct mon_vcpu *v, unsigned opsize, uint64_t flags)
{
    const uint64_t mask = RT_ARITH | RT_DF | RT_TF | RT_NT;
    if (!(v->cr4 & MON_CR4_VME) || opsize != 16)
        return mon_raise_error(v, MON_GP, 0);
    if ((flags & RT_TF) || ((flags & RT_IF) && (v->cpu->rflags & RT_VIP)))
        return mon_raise_error(v, MON_GP, 0);
    step_flags(v, mask, flags);
    step_flags(v, RT_VIF, flags & RT_IF ? RT_VIF : 0);
    v->mode_changed = true;
    return MON_OK;
}

enum mon_rc step_popf(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint64_t flags;
    enum mon_rc rc = step_top(v, i->opsize, &flags);
    if (rc != MON_OK)
        return rc;
    if (v86_restricted(v)) {
        rc = popf_vme(v, i->opsize, flags);
        if (rc != MON_OK)
            return rc;
    } else {
        mon_flags_write(v, flags, i->opsize, false);
    }
    drop(v, i->opsize);
    return step_done(v, next);
}

/* ---- segment registers ---- */

static unsigned sreg_of(const struct tr_insn *i)
{
    return i->opcode >> 3 & 7; /* 06h 0Eh 16h 1Eh; 0FA0h/A1h: 4, 0FA8h/A9h: 5 */
}

/* With a 32-bit operand only the selector's 16 bits are written, as current CPUs do (SDM 2 PUSH).
 */
enum mon_rc step_push_sreg(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint64_t sp = stack_at(v, -(i->opsize / 8));
    uint64_t selector = v->seg[sreg_of(i)].selector;
    enum mon_rc rc = step_write(v, NOVT_SS, sp, &selector, i->opsize == 64 ? 8 : 2);
    if (rc != MON_OK)
        return rc;
    step_set_sp(v, sp);
    return step_done(v, next);
}

/* Of any operand only the selector's 16 bits are read: what the stack has behind them may be absent
 * or misaligned (compared with a processor). */
enum mon_rc step_pop_sreg(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint64_t value, mask = step_sp_mask(v), sp = stack_at(v, i->opsize / 8);
    enum mon_rc rc = step_top(v, 16, &value);
    if (rc == MON_OK)
        rc = mon_seg_load(v, sreg_of(i), (uint16_t)value);
    if (rc != MON_OK)
        return rc;
    /* The size of the stack that was popped, not of the one that SS has now. */
    v->cpu->gpr[RT_SP] = (mask == 0xffff ? v->cpu->gpr[RT_SP] & ~mask : 0) | (sp & mask);
    if (sreg_of(i) == NOVT_SS)
        v->shadow = v->shadow_ss = true;
    return step_done(v, next);
}
