/* step_sys.c - control state: CR, DR, MSR, flags that privilege guards, TLB and caches, time,
 * CPUID. Checks of CPL are made here, checks of values by ctl.c and msr.c. */
#include "monitor/cpu/prot.h"
#include "monitor/cpu/step.h"

/* ---- CLI, STI (SDM 2 CLI, table 3-7; VME and PVI: 3-20.3) ---- */

/* Which flag CLI and STI act on: IF, VIF, or none. */
static uint64_t interrupt_flag(const struct mon_vcpu *v)
{
    if (!mon_protected(v) || v->cpu->cpl <= step_iopl(v))
        return RT_IF;
    if (mon_v86(v) ? v->cr4 & MON_CR4_VME : v->cpu->cpl == 3 && (v->cr4 & MON_CR4_PVI))
        return RT_VIF;
    return 0;
}

enum mon_rc step_cli(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint64_t flag = interrupt_flag(v);
    (void)i;
    if (!flag)
        return mon_raise_error(v, MON_GP, 0);
    v->cpu->rflags &= ~flag;
    return step_done(v, next);
}

enum mon_rc step_sti(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint64_t flag = interrupt_flag(v);
    (void)i;
    if (!flag || (flag == RT_VIF && (v->cpu->rflags & RT_VIP)))
        return mon_raise_error(v, MON_GP, 0);
    if (flag == RT_IF && !(v->cpu->rflags & RT_IF))
        v->shadow = true;
    v->cpu->rflags |= flag;
    return step_done(v, next);
}

static enum mon_rc set_ac(struct mon_vcpu *v, uint64_t next, uint64_t value)
{
    if (v->cpu->cpl || !mon_vm_cpuid(v)->has_smap)
        return mon_raise(v, MON_UD);
    if ((v->cpu->rflags ^ value) & RT_AC)
        v->mode_changed = true;
    step_flags(v, RT_AC, value);
    return step_done(v, next);
}

enum mon_rc step_clac(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    (void)i;
    return set_ac(v, next, 0);
}

enum mon_rc step_stac(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    (void)i;
    return set_ac(v, next, RT_AC);
}

enum mon_rc step_hlt(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    (void)i;
    enum mon_rc rc = step_require_cpl0(v);
    if (rc != MON_OK)
        return rc;
    v->halted = true;
    return step_done(v, next);
}

/* ---- control and debug registers ---- */

static unsigned control_width(const struct tr_insn *i)
{
    return i->mode == TR_MODE_64 ? 64 : 32;
}

/* CR0, CR2, CR3, CR4, and CR8 where a REX prefix can name it. */
static bool cr_exists(const struct tr_insn *i)
{
    unsigned cr = i->reg;
    return cr == 0 || cr == 2 || cr == 3 || cr == 4 || (cr == 8 && i->mode == TR_MODE_64);
}

enum mon_rc step_mov_to_cr(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    if (!cr_exists(i))
        return mon_raise(v, MON_UD);
    enum mon_rc rc = mon_cr_write(v, i->reg, step_gpr(v, i, i->rm, control_width(i)));
    return rc == MON_OK ? step_done(v, next) : rc;
}

enum mon_rc step_mov_from_cr(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    if (!cr_exists(i))
        return mon_raise(v, MON_UD);
    enum mon_rc rc = step_require_cpl0(v);
    if (rc != MON_OK)
        return rc;
    step_set_gpr(v, i, i->rm, control_width(i), mon_cr_read(v, i->reg));
    return step_done(v, next);
}

enum mon_rc step_mov_to_dr(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    enum mon_rc rc = mon_dr_write(v, i->reg, step_gpr(v, i, i->rm, control_width(i)));
    return rc == MON_OK ? step_done(v, next) : rc;
}

enum mon_rc step_mov_from_dr(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint64_t value;
    enum mon_rc rc = mon_dr_read(v, i->reg, &value);
    if (rc != MON_OK)
        return rc;
    step_set_gpr(v, i, i->rm, control_width(i), value);
    return step_done(v, next);
}

/* PE, MP, EM, TS; PE can be set but not cleared. */
enum mon_rc step_lmsw(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint64_t value;
    enum mon_rc rc = step_require_cpl0(v);
    if (rc == MON_OK)
        rc = step_rm_read(v, i, next, 16, &value);
    if (rc == MON_OK)
        rc = mon_cr_write(v, 0, (v->cr0 & ~0xeull) | (value & 0xf));
    return rc == MON_OK ? step_done(v, next) : rc;
}

enum mon_rc step_smsw(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    enum mon_rc rc = step_require_umip(v);
    if (rc == MON_OK)
        rc = step_rm_write(v, i, next, i->has_mem ? 16 : i->opsize, v->cr0);
    return rc == MON_OK ? step_done(v, next) : rc;
}

enum mon_rc step_clts(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    (void)i;
    enum mon_rc rc = step_require_cpl0(v);
    if (rc != MON_OK)
        return rc;
    if (v->cr0 & MON_CR0_TS)
        v->mode_changed = true;
    v->cr0 &= ~(uint64_t)MON_CR0_TS;
    return step_done(v, next);
}

/* ---- TLB and caches ---- */

/* The address is not checked against the segment's limit; a non-canonical one does nothing. */
enum mon_rc step_invlpg(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    enum mon_rc rc = step_require_cpl0(v);
    if (rc != MON_OK)
        return rc;
    uint64_t gla = step_seg_base(v, i->seg) + step_ea(v, i, next);
    if (!mon_code64(v))
        gla = (uint32_t)gla;
    if (step_sign_extend(gla, 48) == (int64_t)gla)
        mon_view_invlpg(v, gla);
    return step_done(v, next);
}

/* Types: 0 address, 1 context, 2 all with globals, 3 all but globals (SDM 2 INVPCID). */
enum mon_rc step_invpcid(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint64_t descriptor[2], type = step_gpr(v, i, i->reg, control_width(i));
    uint32_t leaf7[4];
    mon_cpuid(v, 7, 0, leaf7);
    if (!(leaf7[1] >> 10 & 1))
        return mon_raise(v, MON_UD);
    enum mon_rc rc = step_require_cpl0(v);
    if (rc == MON_OK)
        rc = step_read(v, i->seg, step_ea(v, i, next), descriptor, 16);
    if (rc != MON_OK)
        return rc;
    bool pcid_unused = !(v->cr4 & MON_CR4_PCIDE) && descriptor[0];
    if (type > 3 || descriptor[0] >> 12 || (type < 2 && pcid_unused))
        return mon_raise_error(v, MON_GP, 0);
    if (type == 0 && !tr_is_canonical(descriptor[1]))
        return mon_raise_error(v, MON_GP, 0);
    if (type == 0)
        mon_view_invlpg(v, descriptor[1]);
    else if (type == 1)
        mon_view_invpcid(v, (uint16_t)descriptor[0]);
    else
        mon_view_flush(v, type == 2);
    return step_done(v, next);
}

/* Guest RAM is the host's cached memory: there is nothing to write back. */
enum mon_rc step_wbinvd(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    (void)i;
    enum mon_rc rc = step_require_cpl0(v);
    return rc == MON_OK ? step_done(v, next) : rc;
}

enum mon_rc step_invd(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return step_wbinvd(v, i, next);
}

/* ---- MSRs, time, identification ---- */

static void set_pair(struct mon_vcpu *v, uint64_t value)
{
    v->cpu->gpr[RT_AX] = (uint32_t)value;
    v->cpu->gpr[RT_DX] = value >> 32;
}

static uint64_t pair(const struct mon_vcpu *v)
{
    return v->cpu->gpr[RT_DX] << 32 | (uint32_t)v->cpu->gpr[RT_AX];
}

enum mon_rc step_rdmsr(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint64_t value;
    (void)i;
    enum mon_rc rc = step_require_cpl0(v);
    if (rc == MON_OK)
        rc = mon_rdmsr(v, (uint32_t)v->cpu->gpr[RT_CX], &value);
    if (rc != MON_OK)
        return rc;
    set_pair(v, value);
    return step_done(v, next);
}

enum mon_rc step_wrmsr(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    (void)i;
    enum mon_rc rc = step_require_cpl0(v);
    if (rc == MON_OK)
        rc = mon_wrmsr(v, (uint32_t)v->cpu->gpr[RT_CX], pair(v));
    return rc == MON_OK ? step_done(v, next) : rc;
}

/* No performance counter is offered (CPUID leaf 0Ah), so no index is valid. */
enum mon_rc step_rdpmc(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    (void)i;
    (void)next;
    return mon_raise_error(v, MON_GP, 0);
}

static enum mon_rc read_tsc(struct mon_vcpu *v)
{
    if (v->cpu->cpl && (v->cr4 & MON_CR4_TSD))
        return mon_raise_error(v, MON_GP, 0);
    set_pair(v, __builtin_ia32_rdtsc() + v->cpu->tsc_offset);
    return MON_OK;
}

enum mon_rc step_rdtsc(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    (void)i;
    enum mon_rc rc = read_tsc(v);
    return rc == MON_OK ? step_done(v, next) : rc;
}

enum mon_rc step_rdtscp(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint32_t ext[4];
    (void)i;
    mon_cpuid(v, 0x80000001, 0, ext);
    if (!(ext[3] >> 27 & 1))
        return mon_raise(v, MON_UD);
    enum mon_rc rc = read_tsc(v);
    if (rc != MON_OK)
        return rc;
    v->cpu->gpr[RT_CX] = (uint32_t)v->msr.tsc_aux;
    return step_done(v, next);
}

enum mon_rc step_rdpid(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint32_t leaf7[4];
    mon_cpuid(v, 7, 0, leaf7);
    if (!(leaf7[2] >> 22 & 1))
        return mon_raise(v, MON_UD);
    step_set_gpr(v, i, i->rm, control_width(i), v->msr.tsc_aux);
    return step_done(v, next);
}

enum mon_rc step_cpuid(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint64_t *gpr = v->cpu->gpr;
    uint32_t out[4];
    (void)i;
    mon_cpuid(v, (uint32_t)gpr[RT_AX], (uint32_t)gpr[RT_CX], out);
    gpr[RT_AX] = out[0];
    gpr[RT_BX] = out[1];
    gpr[RT_CX] = out[2];
    gpr[RT_DX] = out[3];
    return step_done(v, next);
}

/* What announces KVM's interface must answer its hypercalls: there are none (-KVM_ENOSYS), and for
 * user code not even that (-KVM_EPERM). */
enum mon_rc step_vmcall(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    int64_t error = v->cpu->cpl ? -1 : -1000;
    (void)i;
    v->cpu->gpr[RT_AX] = mon_code64(v) ? (uint64_t)error : (uint32_t)error;
    return step_done(v, next);
}

/* Index 1: the components in use, among those enabled (SDM 1-13.2). */
enum mon_rc step_xgetbv(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint32_t index = (uint32_t)v->cpu->gpr[RT_CX], leaf[4];
    uint64_t used;
    (void)i;
    if (!(v->cr4 & MON_CR4_OSXSAVE))
        return mon_raise(v, MON_UD);
    mon_cpuid(v, 0xd, 1, leaf);
    if (index > 1 || (index == 1 && !(leaf[0] & 4)))
        return mon_raise_error(v, MON_GP, 0);
    __builtin_memcpy(&used, (const uint8_t *)v->cpu->xsave + 512, 8);
    set_pair(v, index ? v->xcr0 & used : v->xcr0);
    return step_done(v, next);
}

enum mon_rc step_xsetbv(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    (void)i;
    enum mon_rc rc = mon_xsetbv(v, (uint32_t)v->cpu->gpr[RT_CX], pair(v));
    return rc == MON_OK ? step_done(v, next) : rc;
}
