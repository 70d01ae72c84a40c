/* step_seg.c - selectors and descriptor tables: operands in and out, the rules are seg.c's.
 *
 * Most of these are not privileged and yet sensitive (they show the host's tables), which is why
 * every one is executed here. */
#include "monitor/cpu/step.h"

/* ---- segment registers ---- */

/* Loading SS holds interrupts and debug traps back for one instruction (SDM 3-6.8.3). */
static void loaded(struct mon_vcpu *v, unsigned seg)
{
    if (seg == NOVT_SS)
        v->shadow = v->shadow_ss = true;
}

enum mon_rc step_mov_to_sreg(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    unsigned seg = i->reg & 7;
    uint64_t selector;
    if (seg == NOVT_CS || seg > NOVT_GS)
        return mon_raise(v, MON_UD);
    enum mon_rc rc = step_rm_read(v, i, next, 16, &selector);
    if (rc == MON_OK)
        rc = mon_seg_load(v, seg, (uint16_t)selector);
    if (rc != MON_OK)
        return rc;
    loaded(v, seg);
    return step_done(v, next);
}

/* Memory gets 16 bits, a register its whole operand size with zeros. */
static enum mon_rc store_selector(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next,
                                  uint16_t selector)
{
    enum mon_rc rc = step_rm_write(v, i, next, i->has_mem ? 16 : i->opsize, selector);
    return rc == MON_OK ? step_done(v, next) : rc;
}

enum mon_rc step_mov_from_sreg(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    unsigned seg = i->reg & 7;
    if (seg > NOVT_GS)
        return mon_raise(v, MON_UD);
    return store_selector(v, i, next, v->seg[seg].selector);
}

/* LES (C4h), LDS (C5h), LSS (0FB2h), LFS (0FB4h), LGS (0FB5h) */
static unsigned far_segment(const struct tr_insn *i)
{
    switch (i->opcode) {
    case 0xc4:
        return NOVT_ES;
    case 0xc5:
        return NOVT_DS;
    case 0xb2:
        return NOVT_SS;
    case 0xb4:
        return NOVT_FS;
    default:
        return NOVT_GS;
    }
}

enum mon_rc step_load_far(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint64_t ea = step_ea(v, i, next), offset = 0;
    unsigned size = i->opsize / 8, seg = far_segment(i);
    uint16_t selector = 0;
    if (!i->has_mem)
        return mon_raise(v, MON_UD);
    enum mon_rc rc = step_read(v, i->seg, ea, &offset, size);
    if (rc == MON_OK)
        rc = step_read(v, i->seg, (ea + size) & step_mask(i->adsize), &selector, 2);
    if (rc == MON_OK)
        rc = mon_seg_load(v, seg, selector);
    if (rc != MON_OK)
        return rc;
    step_set_gpr(v, i, i->reg, i->opsize, offset);
    return step_done(v, next);
}

/* ---- questions about selectors ---- */

static enum mon_rc require_selectors(struct mon_vcpu *v)
{
    return step_no_selectors(v) ? mon_raise(v, MON_UD) : MON_OK;
}

static enum mon_rc selector_operand(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next,
                                    uint16_t *selector)
{
    uint64_t value = 0;
    enum mon_rc rc = require_selectors(v);
    if (rc == MON_OK)
        rc = step_rm_read(v, i, next, 16, &value);
    *selector = (uint16_t)value;
    return rc;
}

static enum mon_rc answer(struct mon_vcpu *v, uint64_t next, bool zf)
{
    step_flags(v, RT_ZF, zf ? RT_ZF : 0);
    return step_done(v, next);
}

typedef enum mon_rc selector_question(struct mon_vcpu *v, uint16_t selector, uint32_t *value,
                                      bool *zf);

static enum mon_rc ask(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next,
                       selector_question *question)
{
    uint16_t selector;
    uint32_t value = 0;
    bool zf = false;
    enum mon_rc rc = selector_operand(v, i, next, &selector);
    if (rc == MON_OK)
        rc = question(v, selector, &value, &zf);
    if (rc != MON_OK)
        return rc;
    if (zf)
        step_set_gpr(v, i, i->reg, i->opsize, value);
    return answer(v, next, zf);
}

enum mon_rc step_lar(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return ask(v, i, next, mon_seg_lar);
}

enum mon_rc step_lsl(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return ask(v, i, next, mon_seg_lsl);
}

static enum mon_rc verify(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next, bool write)
{
    uint16_t selector;
    bool zf = false;
    enum mon_rc rc = selector_operand(v, i, next, &selector);
    if (rc == MON_OK)
        rc = mon_seg_verify(v, selector, write, &zf);
    return rc == MON_OK ? answer(v, next, zf) : rc;
}

enum mon_rc step_verr(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return verify(v, i, next, false);
}

enum mon_rc step_verw(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return verify(v, i, next, true);
}

/* The destination is checked for write even when its RPL stays. */
enum mon_rc step_arpl(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint16_t selector;
    enum mon_rc rc = selector_operand(v, i, next, &selector);
    unsigned rpl = v->cpu->gpr[i->reg] & 3;
    if (rc != MON_OK)
        return rc;
    bool raised = (selector & 3) < rpl;
    if (raised)
        rc = step_rm_write(v, i, next, 16, (selector & ~3u) | rpl);
    return rc == MON_OK ? answer(v, next, raised) : rc;
}

/* ---- LDTR, TR ---- */

enum mon_rc step_lldt(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint16_t selector;
    enum mon_rc rc = require_selectors(v);
    if (rc == MON_OK)
        rc = step_require_cpl0(v);
    if (rc == MON_OK)
        rc = selector_operand(v, i, next, &selector);
    if (rc == MON_OK)
        rc = mon_seg_lldt(v, selector);
    return rc == MON_OK ? step_done(v, next) : rc;
}

enum mon_rc step_ltr(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint16_t selector;
    enum mon_rc rc = require_selectors(v);
    if (rc == MON_OK)
        rc = step_require_cpl0(v);
    if (rc == MON_OK)
        rc = selector_operand(v, i, next, &selector);
    if (rc == MON_OK)
        rc = mon_seg_ltr(v, selector);
    return rc == MON_OK ? step_done(v, next) : rc;
}

static enum mon_rc store_system(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next,
                                uint16_t selector)
{
    enum mon_rc rc = require_selectors(v);
    if (rc == MON_OK)
        rc = step_require_umip(v);
    return rc == MON_OK ? store_selector(v, i, next, selector) : rc;
}

enum mon_rc step_sldt(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return store_system(v, i, next, v->ldt.selector);
}

enum mon_rc step_str(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return store_system(v, i, next, v->tr.selector);
}

/* ---- GDTR, IDTR: a limit of 16 bits, then a base of 24, 32 or 64 ---- */

static unsigned base_size(const struct tr_insn *i)
{
    return i->mode == TR_MODE_64 ? 8 : 4;
}

static enum mon_rc load_table(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next,
                              struct novt_dtable *table)
{
    uint64_t ea = step_ea(v, i, next), base = 0;
    uint16_t limit;
    enum mon_rc rc = step_require_cpl0(v);
    if (rc == MON_OK)
        rc = step_read(v, i->seg, ea, &limit, 2);
    if (rc == MON_OK)
        rc = step_read(v, i->seg, (ea + 2) & step_mask(i->adsize), &base, base_size(i));
    if (rc != MON_OK)
        return rc;
    if (i->mode == TR_MODE_64 && step_sign_extend(base, 48) != (int64_t)base)
        return mon_raise_error(v, MON_GP, 0);
    if (i->mode != TR_MODE_64 && i->opsize == 16)
        base &= 0xffffff;
    table->base = base;
    table->limit = limit;
    return step_done(v, next);
}

enum mon_rc step_lgdt(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    v->mode_changed = true; /* known.c */
    return load_table(v, i, next, &v->gdt);
}

enum mon_rc step_lidt(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return load_table(v, i, next, &v->idt);
}

/* All 32 bits of the base are stored with a 16-bit operand too, as CPUs since the 386 do. */
static enum mon_rc store_table(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next,
                               const struct novt_dtable *table)
{
    uint8_t image[10];
    __builtin_memcpy(image, &table->limit, 2);
    __builtin_memcpy(image + 2, &table->base, 8);
    enum mon_rc rc = step_require_umip(v);
    if (rc == MON_OK)
        rc = step_write(v, i->seg, step_ea(v, i, next), image, 2 + base_size(i));
    return rc == MON_OK ? step_done(v, next) : rc;
}

enum mon_rc step_sgdt(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return store_table(v, i, next, &v->gdt);
}

enum mon_rc step_sidt(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return store_table(v, i, next, &v->idt);
}

/* ---- bases without selectors (64-bit mode) ---- */

enum mon_rc step_swapgs(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    (void)i;
    if (!mon_code64(v))
        return mon_raise(v, MON_UD);
    enum mon_rc rc = step_require_cpl0(v);
    if (rc != MON_OK)
        return rc;
    uint64_t base = v->seg[NOVT_GS].base;
    v->seg[NOVT_GS].base = v->msr.kernel_gs_base;
    v->msr.kernel_gs_base = base;
    mon_seg_changed(v, NOVT_GS);
    return step_done(v, next);
}

static enum mon_rc require_fsgsbase(struct mon_vcpu *v)
{
    return mon_code64(v) && (v->cr4 & MON_CR4_FSGSBASE) ? MON_OK : mon_raise(v, MON_UD);
}

/* An operand-size prefix does nothing (compared with a processor). */
static unsigned base_width(const struct tr_insn *i)
{
    return i->rex & 8 ? 64 : 32;
}

static enum mon_rc read_base(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next,
                             unsigned seg)
{
    enum mon_rc rc = require_fsgsbase(v);
    if (rc != MON_OK)
        return rc;
    step_set_gpr(v, i, i->rm, base_width(i), v->seg[seg].base);
    return step_done(v, next);
}

static enum mon_rc write_base(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next,
                              unsigned seg)
{
    uint64_t base = step_gpr(v, i, i->rm, base_width(i));
    enum mon_rc rc = require_fsgsbase(v);
    if (rc != MON_OK)
        return rc;
    if (step_sign_extend(base, 48) != (int64_t)base)
        return mon_raise_error(v, MON_GP, 0);
    v->seg[seg].base = base;
    mon_seg_changed(v, seg);
    return step_done(v, next);
}

enum mon_rc step_rdfsbase(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return read_base(v, i, next, NOVT_FS);
}
enum mon_rc step_rdgsbase(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return read_base(v, i, next, NOVT_GS);
}
enum mon_rc step_wrfsbase(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return write_base(v, i, next, NOVT_FS);
}
enum mon_rc step_wrgsbase(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return write_base(v, i, next, NOVT_GS);
}
