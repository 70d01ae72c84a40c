/* mode.c - what translated code depends on besides the guest's bytes: segments, privilege,
 * features.
 *
 * Whoever changes such state sets v->mode_changed; before translated code is entered again
 * mon_mode_update() decides whether the translator takes the mode at all (v->slow), finds its key,
 * and makes the address space current. Translated code changes some of it by itself (system calls,
 * SWAPGS, loads of segment registers): mon_mode_follow() catches up.
 *
 * Context: the vCPU's thread; mon_mode_follow() in signal context too. */
#include "monitor/cpu/vm.h"

/* ---- the key ---- */

bool mon_seg_is_data4g(const struct novt_segment *seg)
{
    return !(seg->attr & MON_ATTR_UNUSABLE) && (seg->attr & MON_ATTR_S) && (seg->attr & 0xa) == 2 &&
           !(seg->attr & 4) && seg->limit == 0xffffffffu;
}

static bool seg_is_flat(const struct novt_segment *seg)
{
    return mon_seg_is_data4g(seg) && seg->base == 0;
}

static uint32_t seg_key(const struct mon_vcpu *v)
{
    uint32_t key = 0;

    if (seg_is_flat(&v->seg[NOVT_DS]))
        key |= TR_K_DS;
    if (seg_is_flat(&v->seg[NOVT_ES]))
        key |= TR_K_ES;
    if (seg_is_flat(&v->seg[NOVT_SS]) && (v->seg[NOVT_SS].attr & MON_ATTR_DB))
        key |= TR_K_SS;
    return key;
}

static uint32_t feature_key(const struct mon_vcpu *v)
{
    uint32_t key = 0;

    if ((v->cr0 & (MON_CR0_MP | MON_CR0_TS)) != (MON_CR0_MP | MON_CR0_TS))
        key |= TR_K_WAIT;
    if (v->cr0 & (MON_CR0_EM | MON_CR0_TS))
        return key;
    key |= TR_K_X87 | TR_K_MMX;
    if (v->cr4 & MON_CR4_OSFXSR)
        key |= TR_K_SSE;
    if ((v->cr4 & MON_CR4_OSXSAVE) && (v->xcr0 & 6) == 6)
        key |= TR_K_AVX;
    if ((key & TR_K_AVX) && (v->xcr0 & 0xe0) == 0xe0)
        key |= TR_K_AVX512;
    return key;
}

static uint32_t mode_key(const struct mon_vcpu *v, unsigned cpl)
{
    unsigned iopl = (unsigned)(v->cpu->rflags >> 12) & 3;
    uint32_t key = seg_key(v) | feature_key(v);

    if (cpl == 3)
        key |= TR_K_CPL3;
    if (cpl == 0)
        key |= TR_K_CPL0;
    if (cpl <= iopl)
        key |= TR_K_IOPL;
    if (mon_code64(v))
        key |= TR_K_LONG | TR_K_DS | TR_K_ES | TR_K_SS;
    if (cpl == 0 || !(v->cr4 & MON_CR4_TSD))
        key |= TR_K_TSC;
    if (v->vm->config.flags & NOVT_F_STATS)
        key |= TR_K_COUNT;
    return key;
}

/* Whether the translator takes this mode: 64-bit code or flat 32-bit protected mode (on its own or
 * under a 64-bit kernel), and nothing to watch. */
static bool translatable(const struct mon_vcpu *v)
{
    const struct novt_segment *cs = &v->seg[NOVT_CS];
    bool flat32 = mon_protected(v) && !mon_v86(v) && (cs->attr & MON_ATTR_DB) && cs->base == 0 &&
                  cs->limit == 0xffffffffu;

    return (mon_code64(v) || flat32) && !(v->cpu->rflags & RT_TF) && !(v->dr[7] & 0xff) &&
           !(v->vm->config.flags & NOVT_F_INTERPRET) &&
           !((v->cpu->rflags & RT_AC) && (v->cr0 & MON_CR0_AM) && v->cpu->cpl == 3);
}

static bool has_syscall(struct mon_vcpu *v)
{
    v->cpu->lstar = v->msr.lstar;
    v->cpu->flags_kept = ~v->msr.fmask;
    return v->efer & MON_EFER_SCE;
}

static void sysenter_segments(const struct mon_vcpu *v, unsigned cpl, uint32_t *cs, uint32_t *ss)
{
    *cs = ((uint32_t)v->msr.sysenter_cs & 0xfffc) + (cpl ? 16 | 3 : 0);
    *ss = *cs + 8;
}

/* Not under a 64-bit kernel, which SYSENTER enters in 64-bit mode. SYSEXIT leaves AC, so that it
 * must be clear. */
static bool has_sysenter(struct mon_vcpu *v)
{
    struct rt_cpu *cpu = v->cpu;
    uint32_t cs, ss;

    cpu->sysenter_esp = (uint32_t)v->msr.sysenter_esp;
    cpu->sysenter_eip = (uint32_t)v->msr.sysenter_eip;
    for (unsigned n = 0; n < 2; n++) {
        sysenter_segments(v, n ? 3 : 0, &cs, &ss);
        cpu->side[n].selectors = (cs & 0xffff) | ss << 16;
    }
    return !mon_long(v) && (v->msr.sysenter_cs & 0xfffc) && (v->key & TR_K_SS) &&
           !(cpu->rflags & RT_AC);
}

/* For system calls in the cache (long_system.c, system.c). RFLAGS of the other side are such that
 * they do not change its key: IOPL 0 at CPL 3, no alignment checks. */
static void prepare_sides(struct mon_vcpu *v)
{
    if (!(v->key & TR_K_LONG ? has_syscall(v) : has_sysenter(v)))
        return;
    if (!rt_gs_is_direct() || v->verify || (v->cr4 & MON_CR4_SMAP) || (v->cpu->rflags & RT_IOPL) ||
        (v->cpu->cpl && v->cpu->cpl != 3))
        return;
    v->side_key[0] = mode_key(v, 0);
    v->side_key[1] = mode_key(v, 3);
    mon_view_sides(v, v->side_key);
}

/* CS and SS of 32-bit code after SYSENTER and SYSEXIT. */
static void sysenter_follow(struct mon_vcpu *v)
{
    unsigned cpl = v->cpu->cpl;
    uint32_t cs, ss, dpl = cpl ? MON_ATTR_DPL : 0;

    sysenter_segments(v, cpl, &cs, &ss);
    mon_seg_flat(&v->seg[NOVT_CS], cs, MON_FLAT_CODE32 | dpl);
    mon_seg_flat(&v->seg[NOVT_SS], ss, MON_FLAT_STACK | dpl);
}

void mon_mode_follow(struct mon_vcpu *v)
{
    struct rt_cpu *cpu = v->cpu;

    if (cpu->side_moved) {
        unsigned side = cpu->cpl == 3;
        cpu->side_moved = 0;
        v->key = v->side_key[side];
        mon_view_took_side(v, side);
        if (v->key & TR_K_LONG)
            mon_syscall_segments(v, cpu->cpl);
        else
            sysenter_follow(v);
        for (unsigned seg = NOVT_CS; seg <= NOVT_SS; seg++) {
            cpu->segbase[seg] = 0;
            cpu->selector[seg] = v->seg[seg].selector;
            cpu->segptr[seg] = &cpu->segbase[seg];
        }
    }
    if (cpu->gs_moved) {
        cpu->gs_moved = 0;
        v->seg[NOVT_GS].base = cpu->base64[1];
        cpu->segbase[NOVT_GS] = (uint32_t)cpu->base64[1];
        v->msr.kernel_gs_base = cpu->kernel_gs;
    }
    uint64_t moved;
    __builtin_memcpy(&moved, cpu->seg_moved, sizeof(moved));
    if (moved)
        mon_known_follow(v);
}

/* A page whose fault's handler has returned. */
static void refill(struct mon_vcpu *v)
{
    if (v->refill && v->cpu->cpl == v->refill_cpl &&
        (v->refill_cpl || v->cpu->rip == v->refill_rip)) {
        v->refill = false;
        mon_view_prefill(v, v->refill_gla, v->refill_write);
    }
}

void mon_mode_update(struct mon_vcpu *v)
{
    v->mode_changed = v->cpl_changed = false;
    v->arrived = NULL;
    v->cpu->sides_ok = 0;
    mon_known_update(v);
    v->slow = !translatable(v);
    if (v->slow)
        return;
    v->key = mode_key(v, v->cpu->cpl);
    mon_view_select(v, v->key);
    prepare_sides(v);
    refill(v);
}

/* To the other side, as a system call in the cache does it. AC and IOPL may make a key that is not
 * the side's. */
void mon_mode_switch(struct mon_vcpu *v)
{
    unsigned side = v->cpu->cpl == 3;

    if (v->slow || !v->cpu->sides_ok || (v->cpu->cpl && !side) ||
        (v->cpu->rflags & (RT_AC | RT_IOPL))) {
        mon_mode_update(v);
        return;
    }
    v->cpl_changed = false;
    v->arrived = NULL;
    v->key = v->side_key[side];
    mon_view_take_side(v, side);
    refill(v);
}
/* The handler will most likely make the page present and go back to the access: then it is filled
 * in on the way, which saves a second host fault. */
void mon_mode_page_fault(struct mon_vcpu *v)
{
    if (v->exc.vector != MON_PF || (v->cpu->cpl && v->cpu->cpl != 3))
        return;
    v->refill = true;
    v->refill_cpl = v->cpu->cpl;
    v->refill_rip = v->cpu->rip;
    v->refill_write = v->exc.error & 2;
    v->refill_gla = v->exc.cr2;
}

static void show_segment(struct mon_vcpu *v, unsigned seg)
{
    const struct novt_segment *s = &v->seg[seg];
    struct rt_cpu *cpu = v->cpu;

    cpu->segbase[seg] = (uint32_t)s->base;
    cpu->selector[seg] = s->selector;
    cpu->segptr[seg] = mon_seg_is_data4g(s) ? &cpu->segbase[seg] : (uint32_t *)RT_NO_SEGMENT;
}

void mon_cs_changed(struct mon_vcpu *v, bool alike)
{
    show_segment(v, NOVT_CS);
    if (!alike)
        v->mode_changed = true;
    else if (v->refill)
        v->cpl_changed = true; /* so that refill() is asked */
}

/* Of DS, ES and SS 64-bit code's key says nothing. */
void mon_seg_changed(struct mon_vcpu *v, unsigned seg)
{
    show_segment(v, seg);
    if (seg == NOVT_FS || seg == NOVT_GS)
        return;
    if (seg == NOVT_CS ||
        (!(v->key & TR_K_LONG) && seg_key(v) != (v->key & (TR_K_DS | TR_K_ES | TR_K_SS))))
        v->mode_changed = true;
}

void mon_mode_rebind(struct mon_vcpu *v)
{
    for (unsigned seg = 0; seg < 6; seg++)
        mon_seg_changed(v, seg);
}
