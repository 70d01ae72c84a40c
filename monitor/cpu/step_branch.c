/* step_branch.c - near branches, and the instructions that lead to other code segments.
 *
 * Near targets are checked against CS before anything is pushed or counted (SDM 2 JMP, CALL, RET:
 * #GP(0) beyond the limit, or for a non-canonical address). Far transfers are far.c's and
 * event.c's; here their operands are fetched. */
#include "monitor/cpu/step.h"

enum mon_rc step_target(struct mon_vcpu *v, unsigned opsize, uint64_t *target)
{
    *target &= step_mask(opsize);
    if (mon_code64(v))
        return step_sign_extend(*target, 48) == (int64_t)*target ? MON_OK
                                                                 : mon_raise_error(v, MON_GP, 0);
    return *target > v->seg[NOVT_CS].limit ? mon_raise_error(v, MON_GP, 0) : MON_OK;
}

static enum mon_rc jump_near(struct mon_vcpu *v, unsigned opsize, uint64_t target)
{
    enum mon_rc rc = step_target(v, opsize, &target);
    return rc == MON_OK ? step_done(v, target) : rc;
}

/* The stack's fault comes before the target's (compared with a processor). */
static enum mon_rc call_near(struct mon_vcpu *v, unsigned opsize, uint64_t target, uint64_t next)
{
    uint64_t sp = v->cpu->gpr[RT_SP];
    enum mon_rc rc = step_push_value(v, next, opsize);
    if (rc == MON_OK)
        rc = step_target(v, opsize, &target);
    if (rc == MON_OK)
        return step_done(v, target);
    v->cpu->gpr[RT_SP] = sp;
    return rc;
}

/* SDM 2 Jcc, appendix B: condition codes; odd ones negate. */
bool step_condition(uint64_t rflags, unsigned cc)
{
    bool cf = rflags & RT_CF, zf = rflags & RT_ZF, sf = rflags & RT_SF, of = rflags & RT_OF;
    const bool holds[8] = {
        of, cf, zf, cf || zf, sf, rflags & RT_PF, sf != of, zf || sf != of,
    };
    return holds[cc >> 1 & 7] != (cc & 1);
}

enum mon_rc step_jcc(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    if (!step_condition(v->cpu->rflags, i->opcode & 15))
        return step_done(v, next);
    return jump_near(v, i->opsize, next + (uint64_t)i->imm);
}

enum mon_rc step_jmp_rel(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return jump_near(v, i->opsize, next + (uint64_t)i->imm);
}

enum mon_rc step_jmp_ind(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint64_t target;
    enum mon_rc rc = step_rm_read(v, i, next, i->opsize, &target);
    return rc == MON_OK ? jump_near(v, i->opsize, target) : rc;
}

enum mon_rc step_call_rel(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return call_near(v, i->opsize, next + (uint64_t)i->imm, next);
}

enum mon_rc step_call_ind(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint64_t target;
    enum mon_rc rc = step_rm_read(v, i, next, i->opsize, &target);
    return rc == MON_OK ? call_near(v, i->opsize, target, next) : rc;
}

enum mon_rc step_ret(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    unsigned extra = i->imm_size ? (uint16_t)i->imm : 0;
    uint64_t target;
    (void)next;
    enum mon_rc rc = step_top(v, i->opsize, &target);
    if (rc == MON_OK)
        rc = step_target(v, i->opsize, &target);
    if (rc != MON_OK)
        return rc;
    step_set_sp(v, v->cpu->gpr[RT_SP] + i->opsize / 8 + extra);
    return step_done(v, target);
}

/* LOOPNE (E0h), LOOPE (E1h), LOOP (E2h): address size selects the counter. */
enum mon_rc step_loop(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint64_t count = (step_reg_ad(v, i, RT_CX) - 1) & step_mask(i->adsize);
    bool taken = count != 0, zf = v->cpu->rflags & RT_ZF;
    if (i->opcode != 0xe2)
        taken = taken && zf == (i->opcode & 1);
    if (taken) {
        enum mon_rc rc = jump_near(v, i->opsize, next + (uint64_t)i->imm);
        if (rc != MON_OK)
            return rc;
    } else {
        step_done(v, next);
    }
    step_set_reg_ad(v, i, RT_CX, count);
    return MON_OK;
}

enum mon_rc step_jcxz(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    if (step_reg_ad(v, i, RT_CX))
        return step_done(v, next);
    return jump_near(v, i->opsize, next + (uint64_t)i->imm);
}

/* ---- far transfers ---- */

/* The pointer of a far JMP or CALL: in the instruction, or in memory as offset and selector. */
static enum mon_rc far_pointer(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next,
                               uint16_t *selector, uint64_t *offset)
{
    if (!i->has_modrm) {
        *selector = i->imm2;
        *offset = (uint64_t)i->imm & step_mask(i->opsize);
        return MON_OK;
    }
    uint8_t data[10];
    unsigned size = i->opsize / 8;
    enum mon_rc rc = step_read(v, i->seg, step_ea(v, i, next), data, size + 2);
    if (rc != MON_OK)
        return rc;
    *offset = 0;
    __builtin_memcpy(selector, data + size, 2);
    for (unsigned n = size; n-- > 0;)
        *offset = *offset << 8 | data[n];
    return MON_OK;
}

enum mon_rc step_far_jmp(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint16_t selector;
    uint64_t offset;
    enum mon_rc rc = far_pointer(v, i, next, &selector, &offset);
    return rc == MON_OK ? mon_far_jump(v, selector, offset, i->opsize, next) : rc;
}

enum mon_rc step_far_call(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint16_t selector;
    uint64_t offset;
    enum mon_rc rc = far_pointer(v, i, next, &selector, &offset);
    return rc == MON_OK ? mon_far_call(v, selector, offset, i->opsize, next) : rc;
}

enum mon_rc step_far_ret(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    (void)next;
    return mon_far_return(v, i->opsize, i->imm_size ? (uint16_t)i->imm : 0);
}

enum mon_rc step_iret(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return mon_iret(v, i->opsize, next);
}

enum mon_rc step_sysenter(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    (void)i;
    (void)next;
    return mon_sysenter(v);
}

enum mon_rc step_sysexit(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    (void)next;
    return mon_sysexit(v, i->opsize);
}

/* The segments of 64-bit code after SYSCALL (CPL 0) and SYSRET (CPL 3). */
void mon_syscall_segments(struct mon_vcpu *v, unsigned cpl)
{
    uint16_t selector = (uint16_t)(v->msr.star >> 32) & 0xfffc, stack = (uint16_t)(selector + 8);
    uint32_t dpl = cpl ? MON_ATTR_DPL : 0;

    if (cpl) {
        selector = (uint16_t)(((v->msr.star >> 48) + 16) | 3);
        stack = (uint16_t)(((v->msr.star >> 48) + 8) | 3);
    }
    mon_seg_flat(&v->seg[NOVT_CS], selector, MON_FLAT_CODE64 | dpl);
    mon_seg_flat(&v->seg[NOVT_SS], stack, MON_FLAT_STACK | dpl);
    v->cpu->cpl = (uint8_t)cpl;
}

static void segments_changed(struct mon_vcpu *v)
{
    mon_seg_changed(v, NOVT_CS);
    mon_seg_changed(v, NOVT_SS);
    v->mode_changed = true;
}

/* As on Intel's processors, SYSCALL and SYSRET exist in 64-bit mode only. */
enum mon_rc step_syscall(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    struct rt_cpu *cpu = v->cpu;
    (void)i;
    if (!mon_code64(v) || !(v->efer & MON_EFER_SCE))
        return mon_raise(v, MON_UD);
    cpu->gpr[RT_CX] = next;
    cpu->gpr[11] = cpu->rflags & ~(uint64_t)RT_RF;
    cpu->rflags = (cpu->rflags & ~(v->msr.fmask | RT_RF)) | 2;
    cpu->rip = v->msr.lstar;
    mon_syscall_segments(v, 0);
    segments_changed(v);
    return MON_OK;
}

enum mon_rc step_sysret(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    struct rt_cpu *cpu = v->cpu;
    bool to64 = i->opsize == 64;
    (void)next;
    if (!mon_code64(v) || !(v->efer & MON_EFER_SCE))
        return mon_raise(v, MON_UD);
    enum mon_rc rc = step_require_cpl0(v);
    if (rc != MON_OK)
        return rc;
    uint64_t target = cpu->gpr[RT_CX];
    if (to64 && !tr_is_canonical(target))
        return mon_raise_error(v, MON_GP, 0);
    cpu->rflags = (cpu->gpr[11] & 0x3c7fd7) | 2;
    cpu->rip = to64 ? target : (uint32_t)target;
    mon_syscall_segments(v, 3);
    if (!to64)
        mon_seg_flat(&v->seg[NOVT_CS], (uint32_t)(v->msr.star >> 48) | 3,
                     MON_FLAT_CODE32 | MON_ATTR_DPL);
    segments_changed(v);
    return MON_OK;
}

/* ---- software interrupts ---- */

enum mon_rc step_int(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return mon_software_interrupt(v, (uint8_t)i->imm, next);
}

enum mon_rc step_int1(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    (void)i;
    return mon_software_exception(v, MON_DB, next);
}

enum mon_rc step_int3(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    (void)i;
    return mon_software_exception(v, MON_BP, next);
}

enum mon_rc step_into(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    (void)i;
    if (!(v->cpu->rflags & RT_OF))
        return step_done(v, next);
    return mon_software_exception(v, MON_OF, next);
}
