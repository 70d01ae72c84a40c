/* far.c - transfers of control between segments: far JMP, CALL and RET, IRET, SYSENTER, SYSEXIT.
 *
 * What a selector leads to decides (SDM 3-5.8):
 *
 *   code segment       same privilege (conforming: at most)        JMP CALL
 *   call gate          same or, for CALL, inner privilege          JMP CALL
 *   task gate, TSS     a task switch (task.c)                      JMP CALL, IRET by NT
 *   from the stack     same or outer privilege, virtual-8086       RET IRET
 *
 * Each function computes the whole new state in locals, writes the stack frame last, then commits.
 * rip in v->cpu stays at the instruction until the commit, so a fault needs no undoing.
 *
 * The hot paths are IRET from CPL 0 to CPL 3, SYSENTER (no memory access) and SYSEXIT (none).
 *
 * Context: the vCPU's thread. */
#include "monitor/cpu/prot.h"

/* A checked place to go. */
struct target {
    struct novt_segment cs;
    uint64_t rip;
    unsigned cpl;
};

static uint64_t truncate_offset(uint64_t offset, unsigned opsize)
{
    if (opsize == 64)
        return offset;
    return opsize == 32 ? (uint32_t)offset : (uint16_t)offset;
}

static void target_commit(struct mon_vcpu *v, const struct target *t)
{
    mon_cs_set(v, t->cs.selector, &t->cs, t->cpl);
    v->cpu->rip = t->rip;
}

static bool is_real_style(const struct mon_vcpu *v)
{
    return !mon_protected(v) || mon_v86(v);
}

static enum mon_rc push_current(struct mon_vcpu *v, const struct mon_frame *f, unsigned size,
                                uint64_t *sp)
{
    const struct novt_segment *ss = &v->seg[NOVT_SS];
    *sp = v->cpu->gpr[RT_SP];
    return mon_frame_push(v, ss, mon_stack_mask(v, ss), v->cpu->cpl, sp, f, size, 0);
}

/* ---- Where a selector leads ---- */

/* A code segment that can be entered in long mode: not both L and D. */
static bool code_bits_are_valid(const struct mon_vcpu *v, uint32_t attr)
{
    return !mon_long(v) || (attr & (MON_ATTR_L | MON_ATTR_DB)) != (MON_ATTR_L | MON_ATTR_DB);
}

/* A code segment named directly by JMP or CALL. */
static enum mon_rc code_target(struct mon_vcpu *v, uint16_t selector, uint64_t desc, uint64_t rip,
                               struct target *t)
{
    uint32_t attr = mon_desc_attr(desc);
    unsigned dpl = mon_desc_dpl(desc), cpl = v->cpu->cpl;
    bool allowed =
        mon_attr_is_conforming(attr) ? dpl <= cpl : dpl == cpl && MON_SEL_RPL(selector) <= cpl;
    if (!allowed || !code_bits_are_valid(v, attr))
        return mon_raise_error(v, MON_GP, MON_SEL_ERROR(selector));
    if (!mon_desc_present(desc))
        return mon_raise_error(v, MON_NP, MON_SEL_ERROR(selector));
    enum mon_rc rc = mon_code_accessed(v, selector, desc, &t->cs);
    if (rc)
        return rc;
    t->rip = rip;
    t->cpl = cpl;
    return mon_eip_check(v, &t->cs, rip);
}

/* DPL and presence of a gate or TSS that a far transfer names. */
static enum mon_rc gate_check(struct mon_vcpu *v, uint16_t selector, uint64_t desc)
{
    unsigned dpl = mon_desc_dpl(desc);
    if (dpl < v->cpu->cpl || dpl < MON_SEL_RPL(selector))
        return mon_raise_error(v, MON_GP, MON_SEL_ERROR(selector));
    return mon_desc_present(desc) ? MON_OK : mon_raise_error(v, MON_NP, MON_SEL_ERROR(selector));
}

/* The code segment behind a call gate. inner: CALL may go to an inner privilege level. */
static enum mon_rc gate_target(struct mon_vcpu *v, uint16_t gate_selector, uint64_t gate,
                               bool inner, struct target *t)
{
    uint16_t selector = mon_gate_selector(gate);
    uint64_t desc, high = 0;
    enum mon_rc rc = gate_check(v, gate_selector, gate);
    if (rc || (mon_long(v) && (rc = mon_desc_read_high(v, gate_selector, MON_GP, &high))) ||
        (rc = mon_desc_read(v, selector, MON_GP, &desc)))
        return rc;
    uint32_t attr = mon_desc_attr(desc);
    unsigned dpl = mon_desc_dpl(desc), cpl = v->cpu->cpl;
    bool deeper = inner && !mon_attr_is_conforming(attr);
    bool allowed = mon_attr_is_code(attr) && dpl <= cpl &&
                   (deeper || mon_attr_is_conforming(attr) || dpl == cpl);
    if (mon_long(v) && (attr & (MON_ATTR_L | MON_ATTR_DB)) != MON_ATTR_L)
        allowed = false;
    if (!allowed)
        return mon_raise_error(v, MON_GP, MON_SEL_ERROR(selector));
    if (!mon_desc_present(desc))
        return mon_raise_error(v, MON_NP, MON_SEL_ERROR(selector));
    if ((rc = mon_code_accessed(v, selector, desc, &t->cs)))
        return rc;
    t->rip = mon_gate_offset(gate) | high;
    if (mon_desc_type(gate) == MON_TYPE_CALL16)
        t->rip &= 0xffffu;
    t->cpl = deeper ? dpl : cpl;
    return mon_eip_check(v, &t->cs, t->rip);
}

/* JMP or CALL to a TSS or through a task gate. */
static enum mon_rc task_target(struct mon_vcpu *v, uint16_t selector, uint64_t desc,
                               enum mon_task_source source, uint64_t next)
{
    enum mon_rc rc = gate_check(v, selector, desc);
    if (rc)
        return rc;
    if (mon_desc_type(desc) == MON_TYPE_TASK_GATE)
        selector = mon_gate_selector(desc);
    return mon_task_switch(v, selector, source, next, false, 0);
}

static bool is_call_gate(const struct mon_vcpu *v, uint64_t desc)
{
    unsigned type = mon_desc_type(desc);
    return type == MON_TYPE_CALL32 || (type == MON_TYPE_CALL16 && !mon_long(v));
}

static bool is_task(const struct mon_vcpu *v, uint64_t desc)
{
    unsigned type = mon_desc_type(desc);
    return !mon_long(v) &&
           (type == MON_TYPE_TASK_GATE || type == MON_TYPE_TSS16 || type == MON_TYPE_TSS32);
}

/* ---- JMP ---- */

static enum mon_rc real_target_check(struct mon_vcpu *v, uint64_t rip)
{
    uint32_t limit = mon_v86(v) ? 0xffffu : v->seg[NOVT_CS].limit;
    return rip <= limit ? MON_OK : mon_raise_error(v, MON_GP, 0);
}

enum mon_rc mon_far_jump(struct mon_vcpu *v, uint16_t selector, uint64_t offset, unsigned opsize,
                         uint64_t next)
{
    struct target t;
    uint64_t desc, rip = truncate_offset(offset, opsize);
    enum mon_rc rc;
    if (is_real_style(v)) {
        if ((rc = real_target_check(v, rip)))
            return rc;
        mon_seg_set_real(v, NOVT_CS, selector);
        v->cpu->rip = rip;
        return MON_OK;
    }
    if ((rc = mon_desc_read(v, selector, MON_GP, &desc)))
        return rc;
    if (mon_attr_is_code(mon_desc_attr(desc)))
        rc = code_target(v, selector, desc, rip, &t);
    else if (is_call_gate(v, desc))
        rc = gate_target(v, selector, desc, false, &t);
    else if (is_task(v, desc))
        return task_target(v, selector, desc, MON_TASK_JMP, next);
    else
        rc = mon_raise_error(v, MON_GP, MON_SEL_ERROR(selector));
    if (rc)
        return rc;
    target_commit(v, &t);
    return MON_OK;
}

/* ---- CALL ---- */

static enum mon_rc push_return(struct mon_vcpu *v, unsigned size, uint64_t next, uint64_t *sp)
{
    struct mon_frame f;
    f.n = 0;
    mon_frame_add(&f, v->seg[NOVT_CS].selector);
    mon_frame_add(&f, next);
    return push_current(v, &f, size, sp);
}

/* CALL that stays at its privilege level: return address on the same stack, then commit. */
static enum mon_rc call_same(struct mon_vcpu *v, const struct target *t, unsigned size,
                             uint64_t next)
{
    uint64_t sp;
    enum mon_rc rc = push_return(v, size, next, &sp);
    if (rc)
        return rc;
    v->cpu->gpr[RT_SP] = sp;
    target_commit(v, t);
    return MON_OK;
}

static enum mon_rc call_real(struct mon_vcpu *v, uint16_t selector, uint64_t rip, unsigned size,
                             uint64_t next)
{
    uint64_t sp;
    enum mon_rc rc = real_target_check(v, rip);
    if (rc || (rc = push_return(v, size, next, &sp)))
        return rc;
    v->cpu->gpr[RT_SP] = sp;
    mon_seg_set_real(v, NOVT_CS, selector);
    v->cpu->rip = rip;
    return MON_OK;
}

/* The stack of the inner level: from the TSS; in long mode SS becomes null. */
static enum mon_rc inner_stack(struct mon_vcpu *v, unsigned level, struct novt_segment *ss,
                               uint64_t *sp)
{
    uint16_t selector;
    uint32_t esp;
    enum mon_rc rc;
    if (mon_long(v)) {
        *ss = (struct novt_segment){.attr = MON_ATTR_UNUSABLE, .selector = (uint16_t)level};
        return mon_tss_rsp(v, level, 0, sp);
    }
    if ((rc = mon_tss_stack(v, level, &selector, &esp)))
        return rc;
    *sp = esp;
    return mon_stack_segment(v, selector, level, MON_TS, ss);
}

/* CALL through a gate to an inner level (SDM 3-5.8.5): old stack pointer, parameters copied from
 * the old stack, return address. */
static enum mon_rc call_inner(struct mon_vcpu *v, const struct target *t, unsigned size,
                              unsigned params, uint64_t next)
{
    uint64_t items[31], old_sp = v->cpu->gpr[RT_SP], sp, mask;
    struct novt_segment ss;
    struct mon_frame f;
    enum mon_rc rc = inner_stack(v, t->cpl, &ss, &sp);
    if (rc)
        return rc;
    if (params && (rc = mon_frame_pop(v, &old_sp, items, params, size)))
        return rc;
    f.n = 0;
    mon_frame_add(&f, v->seg[NOVT_SS].selector);
    mon_frame_add(&f, v->cpu->gpr[RT_SP]);
    while (params--)
        mon_frame_add(&f, items[params]);
    mon_frame_add(&f, v->seg[NOVT_CS].selector);
    mon_frame_add(&f, next);
    mask = mon_long(v) ? ~(uint64_t)0 : ss.attr & MON_ATTR_DB ? 0xffffffffu : 0xffffu;
    rc = mon_frame_push(v, &ss, mask, t->cpl, &sp, &f, size, MON_SEL_ERROR(ss.selector));
    if (rc)
        return rc;

    target_commit(v, t);
    v->seg[NOVT_SS] = ss;
    mon_seg_changed(v, NOVT_SS);
    v->cpu->gpr[RT_SP] = sp;
    return MON_OK;
}

static enum mon_rc call_gate(struct mon_vcpu *v, uint16_t selector, uint64_t gate, uint64_t next)
{
    unsigned size = mon_long(v) ? 8 : mon_desc_type(gate) == MON_TYPE_CALL32 ? 4 : 2;
    unsigned params = mon_long(v) ? 0 : (unsigned)(gate >> 32) & 31;
    struct target t;
    enum mon_rc rc = gate_target(v, selector, gate, true, &t);
    if (rc)
        return rc;
    return t.cpl < v->cpu->cpl ? call_inner(v, &t, size, params, next)
                               : call_same(v, &t, size, next);
}

enum mon_rc mon_far_call(struct mon_vcpu *v, uint16_t selector, uint64_t offset, unsigned opsize,
                         uint64_t next)
{
    struct target t;
    uint64_t desc, rip = truncate_offset(offset, opsize);
    enum mon_rc rc;
    if (is_real_style(v))
        return call_real(v, selector, rip, opsize / 8, next);
    if ((rc = mon_desc_read(v, selector, MON_GP, &desc)))
        return rc;
    if (is_call_gate(v, desc))
        return call_gate(v, selector, desc, next);
    if (is_task(v, desc))
        return task_target(v, selector, desc, MON_TASK_CALL, next);
    if (!mon_attr_is_code(mon_desc_attr(desc)))
        return mon_raise_error(v, MON_GP, MON_SEL_ERROR(selector));
    if ((rc = code_target(v, selector, desc, rip, &t)))
        return rc;
    return call_same(v, &t, opsize / 8, next);
}

/* ---- RET and IRET: common ---- */

/* The code segment to return to: RPL is the new CPL, and not an inner one. */
static enum mon_rc return_target(struct mon_vcpu *v, uint16_t selector, uint64_t rip,
                                 struct target *t)
{
    uint64_t desc;
    enum mon_rc rc = mon_desc_read(v, selector, MON_GP, &desc);
    if (rc)
        return rc;
    uint32_t attr = mon_desc_attr(desc);
    unsigned dpl = mon_desc_dpl(desc), rpl = MON_SEL_RPL(selector);
    if (!mon_attr_is_code(attr) || rpl < v->cpu->cpl ||
        (mon_attr_is_conforming(attr) ? dpl > rpl : dpl != rpl) || !code_bits_are_valid(v, attr))
        return mon_raise_error(v, MON_GP, MON_SEL_ERROR(selector));
    if (!mon_desc_present(desc))
        return mon_raise_error(v, MON_NP, MON_SEL_ERROR(selector));
    t->rip = rip;
    t->cpl = rpl;
    return mon_code_accessed(v, selector, desc, &t->cs);
}

/* The stack segment to return to; null is allowed for 64-bit code below CPL 3. */
static enum mon_rc return_stack(struct mon_vcpu *v, uint16_t selector, const struct target *t,
                                struct novt_segment *ss)
{
    bool to_64 = mon_long(v) && t->cs.attr & MON_ATTR_L;
    if (to_64 && t->cpl != 3 && selector == t->cpl) {
        *ss = (struct novt_segment){.attr = MON_ATTR_UNUSABLE, .selector = selector};
        return MON_OK;
    }
    return mon_stack_segment(v, selector, t->cpl, MON_GP, ss);
}

/* Data segments that the outer level may not use become null (SDM 2 RET, IRET). */
static void data_segments_revoke(struct mon_vcpu *v)
{
    static const uint8_t data[] = {NOVT_ES, NOVT_FS, NOVT_GS, NOVT_DS};
    for (unsigned i = 0; i < sizeof(data); i++) {
        uint32_t attr = v->seg[data[i]].attr;
        if (!(attr & MON_ATTR_UNUSABLE) && !mon_attr_is_conforming(attr) &&
            MON_ATTR_DPL_OF(attr) < v->cpu->cpl)
            mon_seg_set_null(v, data[i], 0);
    }
}

/* How much of the outer stack pointer is loaded: a 16-bit stack keeps ESP's upper half, which is
 * how processors leak the inner one. */
static uint64_t outer_mask(const struct mon_vcpu *v, const struct target *t,
                           const struct novt_segment *ss)
{
    if (mon_long(v) && t->cs.attr & MON_ATTR_L)
        return ~(uint64_t)0;
    return ss->attr & MON_ATTR_DB ? 0xffffffffu : 0xffffu;
}

/* Commits a return with a stack from the frame; inner_sp: the inner stack pointer behind it. */
static void outer_commit(struct mon_vcpu *v, const struct target *t, const struct novt_segment *ss,
                         uint64_t inner_sp, uint64_t outer_sp)
{
    bool outer = t->cpl > v->cpu->cpl;
    uint64_t mask = outer_mask(v, t, ss);
    target_commit(v, t);
    v->seg[NOVT_SS] = *ss;
    mon_seg_changed(v, NOVT_SS);
    v->cpu->gpr[RT_SP] =
        mask == 0xffffu ? mon_merge((uint32_t)inner_sp, outer_sp, mask) : outer_sp & mask;
    if (outer)
        data_segments_revoke(v);
}

/* ---- RET ---- */

static enum mon_rc return_real(struct mon_vcpu *v, unsigned size, uint16_t pop_bytes)
{
    uint64_t sp = v->cpu->gpr[RT_SP], items[2];
    enum mon_rc rc = mon_frame_pop(v, &sp, items, 2, size);
    if (rc || (rc = real_target_check(v, items[0])))
        return rc;
    v->cpu->gpr[RT_SP] = mon_merge(sp, sp + pop_bytes, mon_stack_mask(v, &v->seg[NOVT_SS]));
    mon_seg_set_real(v, NOVT_CS, (uint16_t)items[1]);
    v->cpu->rip = items[0];
    return MON_OK;
}

enum mon_rc mon_far_return(struct mon_vcpu *v, unsigned opsize, uint16_t pop_bytes)
{
    uint64_t sp = v->cpu->gpr[RT_SP], mask = mon_stack_mask(v, &v->seg[NOVT_SS]);
    uint64_t items[2], outer[2];
    unsigned size = opsize / 8;
    struct novt_segment ss;
    struct target t;
    enum mon_rc rc;
    if (is_real_style(v))
        return return_real(v, size, pop_bytes);
    if ((rc = mon_frame_pop(v, &sp, items, 2, size)) ||
        (rc = return_target(v, (uint16_t)items[1], items[0], &t)))
        return rc;
    sp = mon_merge(sp, sp + pop_bytes, mask);
    if (t.cpl == v->cpu->cpl) {
        if ((rc = mon_eip_check(v, &t.cs, t.rip)))
            return rc;
        v->cpu->gpr[RT_SP] = sp;
        target_commit(v, &t);
        return MON_OK;
    }
    if ((rc = mon_frame_pop(v, &sp, outer, 2, size)) ||
        (rc = return_stack(v, (uint16_t)outer[1], &t, &ss)) ||
        (rc = mon_eip_check(v, &t.cs, t.rip)))
        return rc;
    outer_commit(v, &t, &ss, sp, outer[0] + pop_bytes);
    return MON_OK;
}

/* ---- IRET ---- */

/* SDM 2 IRET, real-address mode: everything but VM, VIF and VIP. */
static enum mon_rc iret_real(struct mon_vcpu *v, unsigned opsize)
{
    uint64_t sp = v->cpu->gpr[RT_SP], items[3];
    enum mon_rc rc = mon_frame_pop(v, &sp, items, 3, opsize / 8);
    if (rc || (rc = real_target_check(v, items[0])))
        return rc;
    v->cpu->gpr[RT_SP] = sp;
    mon_flags_write(v, items[2], opsize, true);
    mon_seg_set_real(v, NOVT_CS, (uint16_t)items[1]);
    v->cpu->rip = items[0];
    return MON_OK;
}

/* From virtual-8086 mode, staying in it: IOPL 3, or CR4.VME with a 16-bit operand, where VIF
 * stands in for IF (SDM 3-21.3.3). */
static enum mon_rc iret_v86(struct mon_vcpu *v, unsigned opsize)
{
    uint64_t sp = v->cpu->gpr[RT_SP], items[3];
    bool iopl3 = (v->cpu->rflags & RT_IOPL) == RT_IOPL;
    if (!iopl3 && !(v->cr4 & MON_CR4_VME && opsize == 16))
        return mon_raise_error(v, MON_GP, 0);
    enum mon_rc rc = mon_frame_pop(v, &sp, items, 3, opsize / 8);
    if (rc || (rc = real_target_check(v, items[0])))
        return rc;
    if (!iopl3 && (items[2] & RT_TF || (items[2] & RT_IF && v->cpu->rflags & RT_VIP)))
        return mon_raise_error(v, MON_GP, 0);
    v->cpu->gpr[RT_SP] = sp;
    mon_flags_write(v, items[2], opsize, true);
    mon_seg_set_real(v, NOVT_CS, (uint16_t)items[1]);
    v->cpu->rip = items[0];
    return MON_OK;
}

/* From CPL 0 to virtual-8086 mode (SDM 3-21.2.5): items has EIP, CS, EFLAGS; sp is behind them. */
static enum mon_rc iret_to_v86(struct mon_vcpu *v, const uint64_t *items, uint64_t sp)
{
    static const uint8_t order[] = {NOVT_ES, NOVT_DS, NOVT_FS, NOVT_GS};
    uint64_t more[6]; /* ESP SS ES DS FS GS */
    enum mon_rc rc = mon_frame_pop(v, &sp, more, 6, 4);
    if (rc)
        return rc;
    if (items[0] > 0xffffu)
        return mon_raise_error(v, MON_GP, 0);

    v->cpu->rflags = (items[2] & 0x003f7fd5u) | 2;
    v->cpu->cpl = 3;
    v->mode_changed = true;
    mon_seg_set_real(v, NOVT_CS, (uint16_t)items[1]);
    mon_seg_set_real(v, NOVT_SS, (uint16_t)more[1]);
    for (unsigned i = 0; i < sizeof(order); i++)
        mon_seg_set_real(v, order[i], (uint16_t)more[2 + i]);
    v->cpu->gpr[RT_SP] = more[0];
    v->cpu->rip = items[0];
    return MON_OK;
}

/* Return from a nested task: the link of the current TSS (SDM 3-7.4). */
static enum mon_rc iret_task(struct mon_vcpu *v, uint64_t next)
{
    uint16_t link;
    enum mon_rc rc = mon_lin_read(v, v->tr.base, &link, 2, MON_READ | MON_SYSTEM);
    return rc ? rc : mon_task_switch(v, link, MON_TASK_IRET, next, false, 0);
}

static enum mon_rc iret_protected(struct mon_vcpu *v, unsigned opsize)
{
    uint64_t sp = v->cpu->gpr[RT_SP], items[3], outer[2];
    struct novt_segment ss;
    struct target t;
    unsigned size = opsize / 8;
    enum mon_rc rc = mon_frame_pop(v, &sp, items, 3, size);
    if (rc)
        return rc;
    if (__builtin_expect(items[2] & RT_VM && v->cpu->cpl == 0 && opsize == 32 && !mon_long(v), 0))
        return iret_to_v86(v, items, sp);
    if ((rc = return_target(v, (uint16_t)items[1], items[0], &t)))
        return rc;
    if (t.cpl == v->cpu->cpl && !mon_code64(v)) {
        if ((rc = mon_eip_check(v, &t.cs, t.rip)))
            return rc;
        v->cpu->gpr[RT_SP] = sp;
        mon_flags_write(v, items[2], opsize, true);
        target_commit(v, &t);
        return MON_OK;
    }
    if ((rc = mon_frame_pop(v, &sp, outer, 2, size)) ||
        (rc = return_stack(v, (uint16_t)outer[1], &t, &ss)) ||
        (rc = mon_eip_check(v, &t.cs, t.rip)))
        return rc;
    mon_flags_write(v, items[2], opsize, true);
    outer_commit(v, &t, &ss, sp, outer[0]);
    return MON_OK;
}

enum mon_rc mon_iret(struct mon_vcpu *v, unsigned opsize, uint64_t next)
{
    v->nmi_blocked = false; /* even if the IRET faults (SDM 3-6.7.1) */
    if (!mon_protected(v))
        return iret_real(v, opsize);
    if (mon_v86(v))
        return iret_v86(v, opsize);
    if (__builtin_expect(v->cpu->rflags & RT_NT, 0))
        return mon_long(v) ? mon_raise_error(v, MON_GP, 0) : iret_task(v, next);
    return iret_protected(v, opsize);
}

/* ---- SYSENTER, SYSEXIT (SDM 2, SDM 3-5.8.7) ---- */

/* Flat code and stack segments for a fast system call or its return. */
static void flat_commit(struct mon_vcpu *v, uint32_t cs, uint32_t ss, unsigned cpl, bool to_64)
{
    uint32_t dpl = cpl ? MON_ATTR_DPL : 0;
    struct novt_segment code;

    mon_seg_flat(&code, cs, (to_64 ? MON_FLAT_CODE64 : MON_FLAT_CODE32) | dpl);
    mon_cs_set(v, code.selector, &code, cpl);
    mon_seg_flat(&v->seg[NOVT_SS], ss | cpl, MON_FLAT_STACK | dpl);
    mon_seg_changed(v, NOVT_SS);
}

enum mon_rc mon_sysenter(struct mon_vcpu *v)
{
    uint32_t cs = (uint32_t)v->msr.sysenter_cs & 0xfffcu;
    bool to_64 = mon_long(v);
    if (!mon_protected(v) || !cs)
        return mon_raise_error(v, MON_GP, 0);
    if (v->cpu->rflags & RT_VM)
        v->mode_changed = true;
    v->cpu->rflags &= ~(uint64_t)(RT_VM | RT_IF);
    flat_commit(v, cs, cs + 8, 0, to_64);
    v->cpu->gpr[RT_SP] = to_64 ? v->msr.sysenter_esp : (uint32_t)v->msr.sysenter_esp;
    v->cpu->rip = to_64 ? v->msr.sysenter_eip : (uint32_t)v->msr.sysenter_eip;
    return MON_OK;
}

enum mon_rc mon_sysexit(struct mon_vcpu *v, unsigned opsize)
{
    uint32_t cs = (uint32_t)v->msr.sysenter_cs & 0xfffcu;
    bool to_64 = opsize == 64;
    uint64_t rsp = v->cpu->gpr[RT_CX], rip = v->cpu->gpr[RT_DX];
    if (!mon_protected(v) || !cs || v->cpu->cpl)
        return mon_raise_error(v, MON_GP, 0);
    if (to_64 && (!tr_is_canonical(rsp) || !tr_is_canonical(rip)))
        return mon_raise_error(v, MON_GP, 0);
    cs += to_64 ? 32 : 16;
    flat_commit(v, cs, cs + 8, 3, to_64);
    v->cpu->gpr[RT_SP] = to_64 ? rsp : (uint32_t)rsp;
    v->cpu->rip = to_64 ? rip : (uint32_t)rip;
    return MON_OK;
}
