/* seg.c - segment registers, descriptors and the stack as segments see it.
 *
 * A segment register is struct novt_segment: the visible selector and the hidden base, limit and
 * attributes (SDM 3-3.4.3). A null selector makes it unusable; real mode changes selector and base
 * only, so that a limit set in protected mode survives ("unreal mode"); virtual-8086 mode sets all.
 *
 * Every check comes in the manual's order, because the order decides which exception a guest sees:
 * outside the table, type, privilege, present. The accessed bit is set in memory as the last step
 * that can fail. Each change of a segment register is reported by mon_seg_changed().
 *
 * Context: the vCPU's thread. */
#include "monitor/cpu/prot.h"

#define ATTR_REAL 0x93u /* present, writable data, accessed */
#define ATTR_V86  0xf3u /* the same with DPL 3 */

/* ---- Descriptors in memory ---- */

/* Where the descriptor that selector names is. False: outside its table. */
static bool desc_find(const struct mon_vcpu *v, uint16_t selector, unsigned len, uint64_t *gla)
{
    uint32_t offset = selector & 0xfff8u, last = offset + len - 1;
    if (!(selector & MON_SEL_TI)) {
        *gla = v->gdt.base + offset;
        return last <= v->gdt.limit;
    }
    *gla = v->ldt.base + offset;
    return !(v->ldt.attr & MON_ATTR_UNUSABLE) && last <= v->ldt.limit;
}

enum mon_rc mon_desc_read(struct mon_vcpu *v, uint16_t selector, unsigned vector, uint64_t *desc)
{
    uint64_t gla;
    if (!MON_SEL_ERROR(selector) || !desc_find(v, selector, 8, &gla))
        return mon_raise_error(v, vector, MON_SEL_ERROR(selector));
    return mon_lin_read(v, gla, desc, 8, MON_READ | MON_SYSTEM);
}

enum mon_rc mon_desc_read_high(struct mon_vcpu *v, uint16_t selector, unsigned vector,
                               uint64_t *high)
{
    uint64_t gla, desc;
    if (!desc_find(v, selector, 16, &gla))
        return mon_raise_error(v, vector, MON_SEL_ERROR(selector));
    enum mon_rc rc = mon_lin_read(v, gla + 8, &desc, 8, MON_READ | MON_SYSTEM);
    if (rc)
        return rc;
    if (desc >> 40 & 0x1f) /* the type field up there must be zero: SDM 3-3.5.2 and 3-5.8.3.1 */
        return mon_raise_error(v, vector, MON_SEL_ERROR(selector));
    *high = desc << 32;
    return MON_OK;
}

void mon_desc_unpack(uint16_t selector, uint64_t desc, struct novt_segment *seg)
{
    uint32_t limit = (uint32_t)(desc & 0xffffu) | (uint32_t)(desc >> 32 & 0xf0000u);
    seg->selector = selector;
    seg->base = (desc >> 16 & 0xffffffu) | (desc >> 32 & 0xff000000u);
    seg->attr = mon_desc_attr(desc);
    seg->limit = seg->attr & MON_ATTR_G ? limit << 12 | 0xfffu : limit;
}

enum mon_rc mon_desc_write_type(struct mon_vcpu *v, uint16_t selector, uint64_t desc, unsigned type)
{
    uint8_t byte = (uint8_t)((desc >> 40 & 0xf0u) | type);
    uint64_t gla;
    desc_find(v, selector, 8, &gla);
    return mon_lin_write(v, gla + 5, &byte, 1, MON_WRITE | MON_SYSTEM);
}

/* Sets the accessed bit of a code or data descriptor that will be loaded. */
static enum mon_rc desc_accessed(struct mon_vcpu *v, uint16_t selector, uint64_t desc)
{
    unsigned type = (unsigned)(desc >> 40) & 0xfu;
    if (__builtin_expect(type & MON_TYPE_ACCESSED, 1))
        return MON_OK;
    return mon_desc_write_type(v, selector, desc, type | MON_TYPE_ACCESSED);
}

static enum mon_rc desc_load(struct mon_vcpu *v, uint16_t selector, uint64_t desc,
                             struct novt_segment *seg)
{
    enum mon_rc rc = desc_accessed(v, selector, desc);
    if (rc)
        return rc;
    mon_desc_unpack(selector, desc, seg);
    seg->attr |= MON_TYPE_ACCESSED;
    return MON_OK;
}

enum mon_rc mon_code_accessed(struct mon_vcpu *v, uint16_t selector, uint64_t desc,
                              struct novt_segment *seg)
{
    return desc_load(v, selector, desc, seg);
}

/* ---- Checked segments ---- */

enum mon_rc mon_stack_segment(struct mon_vcpu *v, uint16_t selector, unsigned cpl, unsigned vector,
                              struct novt_segment *seg)
{
    uint64_t desc;
    enum mon_rc rc = mon_desc_read(v, selector, vector, &desc);
    if (rc)
        return rc;
    if (MON_SEL_RPL(selector) != cpl || mon_desc_dpl(desc) != cpl ||
        !mon_attr_is_writable_data(mon_desc_attr(desc)))
        return mon_raise_error(v, vector, MON_SEL_ERROR(selector));
    if (!mon_desc_present(desc))
        return mon_raise_error(v, MON_SS, MON_SEL_ERROR(selector));
    return desc_load(v, selector, desc, seg);
}

static void segment_null(struct novt_segment *seg, uint16_t selector)
{
    *seg = (struct novt_segment){.attr = MON_ATTR_UNUSABLE, .selector = selector};
}

enum mon_rc mon_data_segment(struct mon_vcpu *v, uint16_t selector, unsigned cpl, unsigned vector,
                             struct novt_segment *seg)
{
    uint64_t desc;
    if (!MON_SEL_ERROR(selector)) {
        segment_null(seg, selector);
        return MON_OK;
    }
    enum mon_rc rc = mon_desc_read(v, selector, vector, &desc);
    if (rc)
        return rc;
    uint32_t attr = mon_desc_attr(desc);
    if (!mon_attr_is_readable(attr))
        return mon_raise_error(v, vector, MON_SEL_ERROR(selector));
    if (!mon_attr_is_conforming(attr) &&
        (MON_SEL_RPL(selector) > mon_desc_dpl(desc) || cpl > mon_desc_dpl(desc)))
        return mon_raise_error(v, vector, MON_SEL_ERROR(selector));
    if (!mon_desc_present(desc))
        return mon_raise_error(v, MON_NP, MON_SEL_ERROR(selector));
    return desc_load(v, selector, desc, seg);
}

enum mon_rc mon_ldt_segment(struct mon_vcpu *v, uint16_t selector, unsigned vector,
                            struct novt_segment *seg)
{
    uint64_t desc, high = 0;
    if (!MON_SEL_ERROR(selector)) {
        segment_null(seg, selector);
        return MON_OK;
    }
    if (selector & MON_SEL_TI)
        return mon_raise_error(v, vector, MON_SEL_ERROR(selector));
    enum mon_rc rc = mon_desc_read(v, selector, vector, &desc);
    if (rc)
        return rc;
    if (mon_desc_type(desc) != MON_TYPE_LDT)
        return mon_raise_error(v, vector, MON_SEL_ERROR(selector));
    if (!mon_desc_present(desc))
        return mon_raise_error(v, vector == MON_GP ? MON_NP : vector, MON_SEL_ERROR(selector));
    if (mon_long(v) && (rc = mon_desc_read_high(v, selector, vector, &high)))
        return rc;
    mon_desc_unpack(selector, desc, seg);
    seg->base |= high;
    return tr_is_canonical(seg->base) ? MON_OK
                                      : mon_raise_error(v, vector, MON_SEL_ERROR(selector));
}

/* ---- Loading ---- */

static void seg_set(struct mon_vcpu *v, unsigned seg, const struct novt_segment *s)
{
    v->seg[seg] = *s;
    mon_seg_changed(v, seg);
}

void mon_seg_set_null(struct mon_vcpu *v, unsigned seg, uint16_t selector)
{
    segment_null(&v->seg[seg], selector);
    mon_seg_changed(v, seg);
}

void mon_seg_set_real(struct mon_vcpu *v, unsigned seg, uint16_t selector)
{
    struct novt_segment *s = &v->seg[seg];
    s->selector = selector;
    s->base = (uint32_t)selector << 4;
    if (mon_v86(v)) { /* SDM 3-21.1.1 */
        s->limit = 0xffff;
        s->attr = ATTR_V86;
    } else if (s->attr & MON_ATTR_UNUSABLE) {
        s->limit = 0xffff;
        s->attr = ATTR_REAL;
    }
    mon_seg_changed(v, seg);
}

enum mon_rc mon_seg_load(struct mon_vcpu *v, unsigned seg, uint16_t selector)
{
    unsigned cpl = v->cpu->cpl;
    struct novt_segment s;
    enum mon_rc rc;
    if (!mon_protected(v) || mon_v86(v)) {
        mon_seg_set_real(v, seg, selector);
        return MON_OK;
    }
    if (seg != NOVT_SS) {
        rc = mon_data_segment(v, selector, cpl, MON_GP, &s);
    } else if (mon_code64(v) && selector == cpl && cpl != 3) { /* null SS in 64-bit mode */
        segment_null(&s, selector);
        rc = MON_OK;
    } else {
        rc = mon_stack_segment(v, selector, cpl, MON_GP, &s);
    }
    if (rc)
        return rc;
    seg_set(v, seg, &s);
    mon_known_add(v, seg);
    return MON_OK;
}

enum mon_rc mon_seg_lldt(struct mon_vcpu *v, uint16_t selector)
{
    struct novt_segment s;
    if (v->cpu->cpl)
        return mon_raise_error(v, MON_GP, 0);
    enum mon_rc rc = mon_ldt_segment(v, selector, MON_GP, &s);
    if (rc)
        return rc;
    v->ldt = s;
    return MON_OK;
}

enum mon_rc mon_seg_ltr(struct mon_vcpu *v, uint16_t selector)
{
    struct novt_segment tss;
    uint64_t desc, high = 0;
    enum mon_rc rc;
    if (v->cpu->cpl)
        return mon_raise_error(v, MON_GP, 0);
    if (selector & MON_SEL_TI)
        return mon_raise_error(v, MON_GP, MON_SEL_ERROR(selector));
    if ((rc = mon_desc_read(v, selector, MON_GP, &desc)))
        return rc;
    unsigned type = mon_desc_type(desc);
    if (type != MON_TYPE_TSS32 && (mon_long(v) || type != MON_TYPE_TSS16))
        return mon_raise_error(v, MON_GP, MON_SEL_ERROR(selector));
    if (!mon_desc_present(desc))
        return mon_raise_error(v, MON_NP, MON_SEL_ERROR(selector));
    if (mon_long(v) && (rc = mon_desc_read_high(v, selector, MON_GP, &high)))
        return rc;
    mon_desc_unpack(selector, desc, &tss);
    tss.attr |= MON_TYPE_BUSY;
    tss.base |= high;
    if (!tr_is_canonical(tss.base))
        return mon_raise_error(v, MON_GP, MON_SEL_ERROR(selector));
    if ((rc = mon_desc_write_type(v, selector, desc, type | MON_TYPE_BUSY)))
        return rc;
    v->tr = tss;
    return MON_OK;
}

void mon_cs_set(struct mon_vcpu *v, uint16_t selector, const struct novt_segment *seg, unsigned cpl)
{
    struct novt_segment *cs = &v->seg[NOVT_CS];
    bool alike = cs->base == seg->base && cs->limit == seg->limit &&
                 !((cs->attr ^ seg->attr) & (MON_ATTR_L | MON_ATTR_DB));
    if (v->cpu->cpl != cpl) {
        v->cpu->cpl = (uint8_t)cpl;
        v->cpl_changed = true;
    }
    *cs = *seg;
    cs->selector = (uint16_t)((selector & ~3u) | cpl);
    mon_cs_changed(v, alike);
}

/* ---- LAR, LSL, VERR, VERW (SDM 2, tables at LAR and LSL) ---- */

/* Reads the descriptor for a query that answers in ZF instead of faulting. *visible: selector names
 * a descriptor whose privilege allows the query. */
static enum mon_rc desc_query(struct mon_vcpu *v, uint16_t selector, uint64_t *desc, bool *visible)
{
    uint64_t gla;
    *visible = false;
    if (!MON_SEL_ERROR(selector) || !desc_find(v, selector, 8, &gla))
        return MON_OK;
    enum mon_rc rc = mon_lin_read(v, gla, desc, 8, MON_READ | MON_SYSTEM);
    if (rc)
        return rc;
    unsigned dpl = mon_desc_dpl(*desc);
    *visible = mon_attr_is_conforming(mon_desc_attr(*desc)) ||
               (v->cpu->cpl <= dpl && MON_SEL_RPL(selector) <= dpl);
    return MON_OK;
}

#define TYPES_TSS16       (1u << MON_TYPE_TSS16 | 1u << MON_TYPE_TSS16_BUSY)
#define TYPES_TSS32       (1u << MON_TYPE_TSS32 | 1u << MON_TYPE_TSS32_BUSY)
#define TYPES_LIMIT_LONG  (1u << MON_TYPE_LDT | TYPES_TSS32)
#define TYPES_LIMIT       (TYPES_LIMIT_LONG | TYPES_TSS16)
#define TYPES_RIGHTS_LONG (TYPES_LIMIT_LONG | 1u << MON_TYPE_CALL32)
#define TYPES_RIGHTS \
    (TYPES_LIMIT | 1u << MON_TYPE_CALL16 | 1u << MON_TYPE_CALL32 | 1u << MON_TYPE_TASK_GATE)

static bool type_in(uint64_t desc, uint32_t types)
{
    return (types | 0xffff0000u) >> mon_desc_type(desc) & 1; /* all code and data */
}

enum mon_rc mon_seg_lar(struct mon_vcpu *v, uint16_t selector, uint32_t *value, bool *zf)
{
    uint64_t desc = 0;
    enum mon_rc rc = desc_query(v, selector, &desc, zf);
    if (rc || !*zf)
        return rc;
    *zf = type_in(desc, mon_long(v) ? TYPES_RIGHTS_LONG : TYPES_RIGHTS);
    /* Processors return the limit's bits 19:16 too, which SDM 2 LAR leaves undefined. */
    *value = (uint32_t)(desc >> 32) & 0x00ffff00u;
    return MON_OK;
}

enum mon_rc mon_seg_lsl(struct mon_vcpu *v, uint16_t selector, uint32_t *value, bool *zf)
{
    struct novt_segment s;
    uint64_t desc = 0;
    enum mon_rc rc = desc_query(v, selector, &desc, zf);
    if (rc || !*zf)
        return rc;
    *zf = type_in(desc, mon_long(v) ? TYPES_LIMIT_LONG : TYPES_LIMIT);
    mon_desc_unpack(selector, desc, &s);
    *value = s.limit;
    return MON_OK;
}

enum mon_rc mon_seg_verify(struct mon_vcpu *v, uint16_t selector, bool write, bool *zf)
{
    uint64_t desc = 0;
    enum mon_rc rc = desc_query(v, selector, &desc, zf);
    if (rc || !*zf)
        return rc;
    uint32_t attr = mon_desc_attr(desc);
    *zf = write ? mon_attr_is_writable_data(attr) : mon_attr_is_readable(attr);
    return MON_OK;
}

/* ---- Effective addresses ---- */

static enum mon_rc seg_fault(struct mon_vcpu *v, unsigned seg)
{
    return mon_raise_error(v, seg == NOVT_SS ? MON_SS : MON_GP, 0);
}

static enum mon_rc seg_linear64(struct mon_vcpu *v, unsigned seg, uint64_t offset, unsigned len,
                                uint64_t *gla)
{
    *gla = offset + (seg == NOVT_FS || seg == NOVT_GS ? v->seg[seg].base : 0);
    if (!tr_is_canonical(*gla) || !tr_is_canonical(*gla + len - 1))
        return seg_fault(v, seg);
    return MON_OK;
}

/* The type allows the access (SDM 3-5.5); not checked in real mode. */
static bool type_allows(const struct novt_segment *s, unsigned access)
{
    if (access & MON_WRITE)
        return mon_attr_is_writable_data(s->attr);
    return access & MON_FETCH || mon_attr_is_readable(s->attr);
}

enum mon_rc mon_seg_linear(struct mon_vcpu *v, unsigned seg, uint64_t offset, unsigned len,
                           unsigned access, uint64_t *gla)
{
    const struct novt_segment *s = &v->seg[seg];
    if (__builtin_expect(mon_code64(v), 0))
        return seg_linear64(v, seg, offset, len, gla);
    if (mon_protected(v) && !mon_v86(v) && !type_allows(s, access))
        return seg_fault(v, seg);
    if (!mon_seg_holds(s, offset, len))
        return seg_fault(v, seg);
    *gla = (uint32_t)(s->base + offset);
    return MON_OK;
}

enum mon_rc mon_eip_check(struct mon_vcpu *v, const struct novt_segment *cs, uint64_t eip)
{
    bool inside = mon_long(v) && cs->attr & MON_ATTR_L ? tr_is_canonical(eip) : eip <= cs->limit;
    return inside ? MON_OK : mon_raise_error(v, MON_GP, 0);
}

/* ---- Stack frames ---- */

static void frame_pack(const struct mon_frame *f, unsigned i, unsigned size, uint8_t *to)
{
    uint64_t item = f->item[i];
    if (size == 4)
        __builtin_memcpy(to, &item, 4);
    else if (size == 8)
        __builtin_memcpy(to, &item, 8);
    else
        __builtin_memcpy(to, &item, 2);
}

static uint64_t frame_unpack(const uint8_t *from, unsigned size)
{
    uint64_t item = 0;
    if (size == 4)
        __builtin_memcpy(&item, from, 4);
    else if (size == 8)
        __builtin_memcpy(&item, from, 8);
    else
        __builtin_memcpy(&item, from, 2);
    return item;
}

/* Limit and canonical check of part of a stack. */
static bool stack_linear(const struct novt_segment *ss, uint64_t mask, uint64_t offset,
                         unsigned len, uint64_t *gla)
{
    if (__builtin_expect(mask == ~(uint64_t)0, 0)) {
        *gla = offset;
        return tr_is_canonical(offset) && tr_is_canonical(offset + len - 1);
    }
    *gla = (uint32_t)(ss->base + offset);
    return mon_seg_holds(ss, offset, len);
}

/* Stacks of inner levels have 64-bit addresses in long mode, also when 32-bit code leaves for them.
 */
static unsigned stack_access(uint64_t mask)
{
    return mask == ~(uint64_t)0 ? MON_WRITE | MON_WIDE : MON_WRITE;
}

/* Checks n pushes from *sp in their order: the first one that cannot be done decides what is
 * raised, and the address that CR2 gets. */
static enum mon_rc pushes_check(struct mon_vcpu *v, const struct novt_segment *ss, uint64_t mask,
                                unsigned cpl, uint64_t sp, unsigned n, unsigned size,
                                uint32_t error)
{
    struct mon_walk walk;
    uint64_t gla, end_mask = mask > 0xffffffffu ? mask : 0xffffffffu;
    enum mon_rc rc;
    while (n--) {
        sp = (sp - size) & mask;
        if (!stack_linear(ss, mask, sp, size, &gla))
            return mon_raise_error(v, MON_SS, error);
        if ((rc = mon_walk(v, gla, MON_WRITE, cpl, &walk)) ||
            (rc = mon_walk(v, (gla + size - 1) & end_mask, MON_WRITE, cpl, &walk)))
            return rc;
    }
    return MON_OK;
}

/* A frame that wraps around the end of its stack: item by item, checks first. */
static enum mon_rc frame_push_wrapped(struct mon_vcpu *v, const struct novt_segment *ss,
                                      uint64_t mask, unsigned cpl, uint64_t sp,
                                      const struct mon_frame *f, unsigned size, uint32_t error)
{
    uint64_t gla;
    uint8_t bytes[8];
    enum mon_rc rc = pushes_check(v, ss, mask, cpl, sp, f->n, size, error);
    for (unsigned i = 0; i < f->n && rc == MON_OK; i++) {
        sp = (sp - size) & mask;
        stack_linear(ss, mask, sp, size, &gla);
        frame_pack(f, i, size, bytes);
        rc = mon_lin_write_as(v, gla, bytes, size, stack_access(mask), cpl);
    }
    return rc;
}

enum mon_rc mon_frame_push(struct mon_vcpu *v, const struct novt_segment *ss, uint64_t mask,
                           unsigned cpl, uint64_t *sp, const struct mon_frame *f, unsigned size,
                           uint32_t error)
{
    unsigned len = f->n * size;
    uint64_t old = *sp & mask, low = (old - len) & mask, gla;
    uint8_t bytes[sizeof(f->item)];
    enum mon_rc rc;
    /* old = 0 stands for the end of the stack: the frame is contiguous below it. */
    if (__builtin_expect(low + len - 1 <= mask && low + len - 1 >= low, 1)) {
        if (!stack_linear(ss, mask, low, len, &gla))
            return mon_raise_error(v, MON_SS, error);
        for (unsigned i = 0; i < f->n; i++)
            frame_pack(f, i, size, bytes + (f->n - 1 - i) * size);
        rc = mon_lin_write_as(v, gla, bytes, len, stack_access(mask), cpl);
        if (__builtin_expect(rc == MON_FAULT, 0))
            pushes_check(v, ss, mask, cpl, old, f->n, size, error);
    } else {
        rc = frame_push_wrapped(v, ss, mask, cpl, old, f, size, error);
    }
    if (rc)
        return rc;
    *sp = mon_merge(*sp, low, mask);
    return MON_OK;
}

enum mon_rc mon_frame_pop(struct mon_vcpu *v, uint64_t *sp, uint64_t *items, unsigned n,
                          unsigned size)
{
    const struct novt_segment *ss = &v->seg[NOVT_SS];
    uint64_t mask = mon_stack_mask(v, ss), low = *sp & mask, gla;
    unsigned len = n * size;
    uint8_t bytes[sizeof(((struct mon_frame *)0)->item)];
    enum mon_rc rc;
    if (__builtin_expect(low + len - 1 <= mask && low + len - 1 >= low, 1)) {
        if (!stack_linear(ss, mask, low, len, &gla))
            return mon_raise_error(v, MON_SS, 0);
        if ((rc = mon_lin_read(v, gla, bytes, len, MON_READ)))
            return rc;
        for (unsigned i = 0; i < n; i++)
            items[i] = frame_unpack(bytes + i * size, size);
    } else {
        for (unsigned i = 0; i < n; i++) {
            if (!stack_linear(ss, mask, (low + i * size) & mask, size, &gla))
                return mon_raise_error(v, MON_SS, 0);
            if ((rc = mon_lin_read(v, gla, bytes, size, MON_READ)))
                return rc;
            items[i] = frame_unpack(bytes, size);
        }
    }
    *sp = mon_merge(*sp, low + len, mask);
    return MON_OK;
}
