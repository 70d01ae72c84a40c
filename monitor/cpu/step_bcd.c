/* step_bcd.c - what 64-bit code does not have: decimal arithmetic, SALC, BOUND.
 *
 * The host cannot run them, so they are computed. Flags that the manual calls undefined get what
 * processors leave there (compared with one in 32-bit mode, all values of AX, CF and AF). */
#include "monitor/cpu/step.h"

static uint8_t al_of(const struct mon_vcpu *v)
{
    return (uint8_t)v->cpu->gpr[RT_AX];
}

static void set_ax(struct mon_vcpu *v, unsigned ax)
{
    v->cpu->gpr[RT_AX] = (v->cpu->gpr[RT_AX] & ~0xffffull) | (ax & 0xffff);
}

static void set_al(struct mon_vcpu *v, unsigned al)
{
    v->cpu->gpr[RT_AX] = (v->cpu->gpr[RT_AX] & ~0xffull) | (al & 0xff);
}

/* SF, ZF and PF of a byte. */
static uint64_t result_flags(unsigned al)
{
    uint64_t flags = 0;
    if (!(__builtin_popcount(al & 0xff) & 1))
        flags |= RT_PF;
    if (!(al & 0xff))
        flags |= RT_ZF;
    if (al & 0x80)
        flags |= RT_SF;
    return flags;
}

/* ---- AAA, AAS ---- */

static enum mon_rc adjust_ascii(struct mon_vcpu *v, uint64_t next, int sign)
{
    unsigned ax = (uint16_t)v->cpu->gpr[RT_AX];
    uint64_t flags = 0;
    if ((ax & 15) > 9 || (v->cpu->rflags & RT_AF)) {
        ax += (unsigned)(sign * 0x106);
        flags = RT_AF | RT_CF;
    }
    ax &= 0xff0f;
    set_ax(v, ax);
    step_flags(v, RT_ARITH, flags | result_flags(ax));
    return step_done(v, next);
}

enum mon_rc step_aaa(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    (void)i;
    return adjust_ascii(v, next, 1);
}

enum mon_rc step_aas(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    (void)i;
    return adjust_ascii(v, next, -1);
}

/* ---- AAM, AAD ---- */

enum mon_rc step_aam(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    unsigned base = (uint8_t)i->imm, al = al_of(v);
    if (!base)
        return mon_raise(v, MON_DE);
    set_ax(v, al / base << 8 | al % base);
    step_flags(v, RT_ARITH, result_flags(al % base));
    return step_done(v, next);
}

/* The flags are those of the byte addition. */
enum mon_rc step_aad(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    unsigned ax = (uint16_t)v->cpu->gpr[RT_AX];
    unsigned a = ax & 0xff, b = (ax >> 8) * (uint8_t)i->imm & 0xff, sum = a + b;
    uint64_t flags = result_flags(sum);
    if (sum >> 8)
        flags |= RT_CF;
    if ((a ^ b ^ sum) & 0x10)
        flags |= RT_AF;
    if ((a ^ sum) & (b ^ sum) & 0x80)
        flags |= RT_OF;
    set_ax(v, sum & 0xff);
    step_flags(v, RT_ARITH, flags);
    return step_done(v, next);
}

/* ---- DAA, DAS (SDM 2 DAA, DAS) ---- */

static enum mon_rc adjust_decimal(struct mon_vcpu *v, uint64_t next, bool subtract)
{
    unsigned old = al_of(v), al = old, delta = 0;
    bool af = v->cpu->rflags & RT_AF, cf = v->cpu->rflags & RT_CF;
    uint64_t flags = 0;

    if ((old & 15) > 9 || af) {
        delta = 6;
        flags |= RT_AF;
        if (subtract && old < 6)
            flags |= RT_CF;
    }
    if (old > 0x99 || cf) {
        delta += 0x60;
        flags |= RT_CF;
    }
    al = subtract ? old - delta : old + delta;
    set_al(v, al);
    step_flags(v, RT_ARITH, flags | result_flags(al));
    return step_done(v, next);
}

enum mon_rc step_daa(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    (void)i;
    return adjust_decimal(v, next, false);
}

enum mon_rc step_das(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    (void)i;
    return adjust_decimal(v, next, true);
}

/* ---- others ---- */

enum mon_rc step_salc(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    (void)i;
    set_al(v, v->cpu->rflags & RT_CF ? 0xff : 0);
    return step_done(v, next);
}

enum mon_rc step_bound(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint64_t ea = step_ea(v, i, next), low = 0, high = 0;
    unsigned size = i->opsize / 8;
    enum mon_rc rc = step_read(v, i->seg, ea, &low, size);
    if (rc == MON_OK)
        rc = step_read(v, i->seg, (ea + size) & step_mask(i->adsize), &high, size);
    if (rc != MON_OK)
        return rc;
    int64_t index = step_sign_extend(v->cpu->gpr[i->reg], i->opsize);
    if (index < step_sign_extend(low, i->opsize) || index > step_sign_extend(high, i->opsize))
        return mon_raise(v, MON_BR);
    return step_done(v, next);
}
