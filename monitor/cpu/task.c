/* task.c - the task-state segment: stacks of inner levels, the I/O permission and interrupt
 * redirection maps, and hardware task switches (SDM 3-7).
 *
 * A switch has two halves with a line between them. Before it: the new TSS's descriptor is checked,
 * everything that the switch reads or writes is read or checked, and a fault leaves the old task
 * untouched. After it the processor runs in the new task, and what goes wrong while its segment
 * registers are loaded is a fault of the new task (SDM 3-7.3): mon_task_switch() then returns
 * MON_FAULT with the new state committed.
 *
 *      32-bit TSS          16-bit TSS
 *      00 link             00 link                 saved by a switch:
 *      04 ESP0 SS0 ...     02 SP0 SS0 ...            32-bit  20 to 5F
 *      1C CR3              -                         16-bit  0E to 29
 *      20 EIP EFLAGS       0E IP FLAGS
 *      28 EAX ... EDI      12 AX ... DI
 *      48 ES CS SS DS ..   22 ES CS SS DS
 *      60 LDT 64 T 66 map  2A LDT
 *
 * Context: the vCPU's thread. */
#include "monitor/cpu/prot.h"

#define TSS32_LIMIT  0x67u
#define TSS16_LIMIT  0x2bu
#define TSS_CR3      0x1cu
#define TSS32_STATE  0x20u /* from here 16 longs are saved: EIP EFLAGS, 8 registers, 6 selectors */
#define TSS32_LDT    0x60u
#define TSS32_TRAP   0x64u
#define TSS32_IO_MAP 0x66u
#define TSS16_STATE  0x0eu /* IP FLAGS, 8 registers, 4 selectors */
#define TSS16_LDT    0x2au
#define TSS32_SAVED  64u
#define TSS16_SAVED  28u
#define DR6_BT       ((uint64_t)1 << 15)
#define DR7_LOCAL    0x155u /* L0 to L3, LE: cleared by a task switch (SDM 3-18.2.4) */

static bool tss_is_32(uint32_t attr)
{
    return attr & 8;
}

static enum mon_rc tss_read(struct mon_vcpu *v, const struct novt_segment *tss, uint32_t offset,
                            void *data, unsigned len)
{
    return mon_lin_read(v, tss->base + offset, data, len, MON_READ | MON_SYSTEM);
}

/* ---- Inner stacks ---- */

static enum mon_rc tss_fault(struct mon_vcpu *v)
{
    return mon_raise_error(v, MON_TS, MON_SEL_ERROR(v->tr.selector));
}

enum mon_rc mon_tss_stack(struct mon_vcpu *v, unsigned level, uint16_t *ss, uint32_t *esp)
{
    bool is_32 = tss_is_32(v->tr.attr);
    uint32_t offset = is_32 ? 4 + level * 8 : 2 + level * 4;
    if (offset + (is_32 ? 5 : 3) > v->tr.limit)
        return tss_fault(v);
    if (is_32) {
        uint32_t words[2] = {0, 0};
        unsigned len = offset + 7 > v->tr.limit ? 6 : 8; /* two bytes behind SS are padding */
        enum mon_rc rc = tss_read(v, &v->tr, offset, words, len);
        *esp = words[0];
        *ss = (uint16_t)words[1];
        return rc;
    }
    uint16_t words[2];
    enum mon_rc rc = tss_read(v, &v->tr, offset, words, 4);
    if (rc)
        return rc;
    *esp = words[0];
    *ss = words[1];
    return MON_OK;
}

enum mon_rc mon_tss_rsp(struct mon_vcpu *v, unsigned level, unsigned ist, uint64_t *rsp)
{
    uint32_t offset = ist ? 0x24 + (ist - 1) * 8 : 4 + level * 8; /* SDM 3 figure 8-11 */
    if (offset + 7 > v->tr.limit)
        return tss_fault(v);
    enum mon_rc rc = tss_read(v, &v->tr, offset, rsp, 8);
    if (rc)
        return rc;
    return tr_is_canonical(*rsp) ? MON_OK : mon_raise_error(v, MON_SS, 0);
}

/* ---- The maps ---- */

/* Offset of the I/O permission map. False: there is none. */
static enum mon_rc io_map_base(struct mon_vcpu *v, uint16_t *base, bool *exists)
{
    *exists =
        !(v->tr.attr & MON_ATTR_UNUSABLE) && tss_is_32(v->tr.attr) && v->tr.limit >= TSS32_LIMIT;
    return *exists ? tss_read(v, &v->tr, TSS32_IO_MAP, base, 2) : MON_OK;
}

/* SDM 1-19.5.2: two bytes are read, and both must be inside the TSS. */
enum mon_rc mon_io_check(struct mon_vcpu *v, uint16_t port, unsigned size)
{
    unsigned iopl = (unsigned)(v->cpu->rflags >> 12) & 3;
    uint16_t base = 0, bits;
    bool exists;
    if (!mon_protected(v) || (!mon_v86(v) && v->cpu->cpl <= iopl))
        return MON_OK;
    enum mon_rc rc = io_map_base(v, &base, &exists);
    if (rc)
        return rc;
    uint32_t offset = base + port / 8u;
    if (!exists || offset + 1 > v->tr.limit)
        return mon_raise_error(v, MON_GP, 0);
    if ((rc = tss_read(v, &v->tr, offset, &bits, 2)))
        return rc;
    if (bits >> (port & 7) & ((1u << size) - 1))
        return mon_raise_error(v, MON_GP, 0);
    return MON_OK;
}

enum mon_rc mon_tss_redirects(struct mon_vcpu *v, uint8_t vector, bool *to_8086)
{
    uint16_t base = 0;
    uint8_t bits;
    bool exists;
    enum mon_rc rc = io_map_base(v, &base, &exists);
    if (rc)
        return rc;
    uint32_t offset = base - 32u + vector / 8u;
    if (!exists || base < 32 || offset > v->tr.limit)
        return mon_raise_error(v, MON_GP, 0);
    if ((rc = tss_read(v, &v->tr, offset, &bits, 1)))
        return rc;
    *to_8086 = !(bits >> (vector & 7) & 1);
    return MON_OK;
}

/* ---- Task switches ---- */

/* What a switch loads from a TSS. */
struct task_image {
    uint32_t cr3, eip, eflags;
    uint32_t gpr[8];
    uint16_t seg[6]; /* enum novt_sreg, which is the order of the TSS */
    uint16_t ldt;
    bool trap, is_32;
};

static uint16_t get16(const uint8_t *p)
{
    uint16_t x;
    __builtin_memcpy(&x, p, 2);
    return x;
}

static uint32_t get32(const uint8_t *p)
{
    uint32_t x;
    __builtin_memcpy(&x, p, 4);
    return x;
}

static void image_unpack32(const uint8_t *raw, struct task_image *t)
{
    t->cr3 = get32(raw + TSS_CR3);
    t->eip = get32(raw + TSS32_STATE);
    t->eflags = get32(raw + TSS32_STATE + 4);
    for (unsigned i = 0; i < 8; i++)
        t->gpr[i] = get32(raw + TSS32_STATE + 8 + i * 4);
    for (unsigned i = 0; i < 6; i++)
        t->seg[i] = get16(raw + TSS32_STATE + 40 + i * 4);
    t->ldt = get16(raw + TSS32_LDT);
    t->trap = raw[TSS32_TRAP] & 1;
}

/* A 16-bit TSS has no FS and GS: null selectors. Upper halves of registers become ones, as in
 * processors (SDM 3-7.6 leaves them undefined). */
static void image_unpack16(const uint8_t *raw, struct task_image *t)
{
    t->cr3 = 0;
    t->eip = get16(raw + TSS16_STATE);
    t->eflags = get16(raw + TSS16_STATE + 2);
    for (unsigned i = 0; i < 8; i++)
        t->gpr[i] = 0xffff0000u | get16(raw + TSS16_STATE + 4 + i * 2);
    for (unsigned i = 0; i < 4; i++)
        t->seg[i] = get16(raw + TSS16_STATE + 20 + i * 2);
    t->seg[NOVT_FS] = t->seg[NOVT_GS] = 0;
    t->ldt = get16(raw + TSS16_LDT);
    t->trap = false;
}

static enum mon_rc image_read(struct mon_vcpu *v, const struct novt_segment *tss,
                              struct task_image *t)
{
    uint8_t raw[TSS32_LIMIT + 1];
    t->is_32 = tss_is_32(tss->attr);
    enum mon_rc rc = tss_read(v, tss, 0, raw, (t->is_32 ? TSS32_LIMIT : TSS16_LIMIT) + 1);
    if (rc)
        return rc;
    if (t->is_32)
        image_unpack32(raw, t);
    else
        image_unpack16(raw, t);
    return MON_OK;
}

/* Writes the outgoing task's registers into its TSS. */
static enum mon_rc state_save(struct mon_vcpu *v, uint32_t eip, uint32_t eflags)
{
    const uint64_t *gpr = v->cpu->gpr;
    union {
        uint32_t l[TSS32_SAVED / 4];
        uint16_t w[TSS16_SAVED / 2];
    } raw;
    if (!tss_is_32(v->tr.attr)) {
        raw.w[0] = (uint16_t)eip;
        raw.w[1] = (uint16_t)eflags;
        for (unsigned i = 0; i < 8; i++)
            raw.w[2 + i] = (uint16_t)gpr[i];
        for (unsigned i = 0; i < 4; i++)
            raw.w[10 + i] = v->seg[i].selector;
        return mon_lin_write(v, v->tr.base + TSS16_STATE, raw.w, TSS16_SAVED,
                             MON_WRITE | MON_SYSTEM);
    }
    raw.l[0] = eip;
    raw.l[1] = eflags;
    for (unsigned i = 0; i < 8; i++)
        raw.l[2 + i] = (uint32_t)gpr[i];
    for (unsigned i = 0; i < 6; i++)
        raw.l[10 + i] = v->seg[i].selector;
    return mon_lin_write(v, v->tr.base + TSS32_STATE, raw.l, TSS32_SAVED, MON_WRITE | MON_SYSTEM);
}

/* Reads and checks the descriptor of the task to switch to (SDM 3-7.3, table 7-1). */
static enum mon_rc task_find(struct mon_vcpu *v, uint16_t selector, enum mon_task_source source,
                             uint64_t *desc, struct novt_segment *tss)
{
    bool back = source == MON_TASK_IRET;
    enum mon_vector vector = back ? MON_TS : MON_GP;
    uint32_t error = MON_SEL_ERROR(selector);
    if (selector & MON_SEL_TI)
        return mon_raise_error(v, vector, error);
    enum mon_rc rc = mon_desc_read(v, selector, vector, desc);
    if (rc)
        return rc;
    unsigned type = mon_desc_type(*desc), want = back ? MON_TYPE_BUSY : 0;
    if ((type & ~(8u | MON_TYPE_BUSY)) != MON_TYPE_TSS16 || (type & MON_TYPE_BUSY) != want)
        return mon_raise_error(v, vector, error);
    if (!mon_desc_present(*desc))
        return mon_raise_error(v, MON_NP, error);
    mon_desc_unpack(selector, *desc, tss);
    if (tss->limit < (tss_is_32(tss->attr) ? TSS32_LIMIT : TSS16_LIMIT))
        return mon_raise_error(v, MON_TS, error);
    return MON_OK;
}

/* Everything that the switch will write can be written. */
static enum mon_rc writes_check(struct mon_vcpu *v, uint16_t selector,
                                const struct novt_segment *tss, enum mon_task_source source)
{
    bool is_32 = tss_is_32(v->tr.attr);
    unsigned access = MON_WRITE | MON_SYSTEM;
    enum mon_rc rc;
    if (v->tr.attr & MON_ATTR_UNUSABLE || v->tr.limit < (is_32 ? 0x5fu : 0x29u))
        return tss_fault(v);
    rc = mon_lin_check(v, v->tr.base + (is_32 ? TSS32_STATE : TSS16_STATE),
                       is_32 ? TSS32_SAVED : TSS16_SAVED, access);
    if (rc == MON_OK && (source == MON_TASK_CALL || source == MON_TASK_EVENT))
        rc = mon_lin_check(v, tss->base, 2, access);
    if (rc == MON_OK && source != MON_TASK_IRET)
        rc = mon_lin_check(v, v->gdt.base + (selector & 0xfff8u), 8, access);
    if (rc == MON_OK && (source == MON_TASK_JMP || source == MON_TASK_IRET))
        rc = mon_lin_check(v, v->gdt.base + (v->tr.selector & 0xfff8u), 8, access);
    return rc;
}

/* Memory's part of the switch: busy bits, the old task's state, the link. */
static enum mon_rc memory_switch(struct mon_vcpu *v, uint16_t selector, uint64_t desc,
                                 const struct novt_segment *tss, enum mon_task_source source,
                                 uint64_t next)
{
    bool nested = source == MON_TASK_CALL || source == MON_TASK_EVENT;
    uint32_t eflags = (uint32_t)v->cpu->rflags | 2;
    enum mon_rc rc = MON_OK;
    if (source == MON_TASK_IRET)
        eflags &= ~RT_NT;
    if (!nested) {
        uint64_t old;
        if ((rc = mon_desc_read(v, v->tr.selector, MON_TS, &old)) ||
            (rc = mon_desc_write_type(v, v->tr.selector, old, mon_desc_type(old) & ~MON_TYPE_BUSY)))
            return rc;
    }
    if ((rc = state_save(v, (uint32_t)next, eflags)))
        return rc;
    if (nested && (rc = mon_lin_write(v, tss->base, &v->tr.selector, 2, MON_WRITE | MON_SYSTEM)))
        return rc;
    if (source != MON_TASK_IRET)
        rc = mon_desc_write_type(v, selector, desc, mon_desc_type(desc) | MON_TYPE_BUSY);
    return rc;
}

/* The commit: registers from the image; segment registers get their selectors and stay unusable
 * until segments_load() has checked them. */
static void registers_load(struct mon_vcpu *v, const struct task_image *t, bool nested)
{
    uint32_t eflags = t->eflags & (t->is_32 ? 0x003f7fd5u : 0x00007fd5u);
    v->cpu->rflags = eflags | 2 | (nested ? RT_NT : 0);
    v->cpu->rip = t->eip;
    for (unsigned i = 0; i < 8; i++)
        v->cpu->gpr[i] = t->gpr[i];
    for (unsigned i = 0; i < 6; i++)
        mon_seg_set_null(v, i, t->seg[i]);
    v->ldt = (struct novt_segment){.attr = MON_ATTR_UNUSABLE, .selector = t->ldt};
    v->cpu->cpl = eflags & RT_VM ? 3 : (uint8_t)MON_SEL_RPL(t->seg[NOVT_CS]);
    v->cr0 |= MON_CR0_TS;
    v->dr[7] &= ~(uint64_t)DR7_LOCAL;
    v->mode_changed = true;
}

/* The new task's code segment: checked against its own RPL. */
static enum mon_rc task_code_segment(struct mon_vcpu *v, uint16_t selector, struct novt_segment *cs)
{
    uint64_t desc;
    enum mon_rc rc = mon_desc_read(v, selector, MON_TS, &desc);
    if (rc)
        return rc;
    uint32_t attr = mon_desc_attr(desc);
    unsigned dpl = mon_desc_dpl(desc), rpl = MON_SEL_RPL(selector);
    if (!mon_attr_is_code(attr) || (mon_attr_is_conforming(attr) ? dpl > rpl : dpl != rpl))
        return mon_raise_error(v, MON_TS, MON_SEL_ERROR(selector));
    if (!mon_desc_present(desc))
        return mon_raise_error(v, MON_NP, MON_SEL_ERROR(selector));
    return mon_code_accessed(v, selector, desc, cs);
}

/* Loads LDTR and the segment registers of the new task (SDM 3 table 7-1, second part). */
static enum mon_rc segments_load(struct mon_vcpu *v, const struct task_image *t)
{
    static const uint8_t data[] = {NOVT_DS, NOVT_ES, NOVT_FS, NOVT_GS};
    struct novt_segment s;
    unsigned cpl = v->cpu->cpl;
    enum mon_rc rc = mon_ldt_segment(v, t->ldt, MON_TS, &s);
    if (rc)
        return rc;
    v->ldt = s;
    if (mon_v86(v)) {
        for (unsigned i = 0; i < 6; i++)
            mon_seg_set_real(v, i, t->seg[i]);
        return MON_OK;
    }
    if ((rc = task_code_segment(v, t->seg[NOVT_CS], &s)))
        return rc;
    mon_cs_set(v, t->seg[NOVT_CS], &s, cpl);
    if ((rc = mon_stack_segment(v, t->seg[NOVT_SS], cpl, MON_TS, &s)))
        return rc;
    v->seg[NOVT_SS] = s;
    mon_seg_changed(v, NOVT_SS);
    for (unsigned i = 0; i < sizeof(data); i++) {
        if ((rc = mon_data_segment(v, t->seg[data[i]], cpl, MON_TS, &s)))
            return rc;
        v->seg[data[i]] = s;
        mon_seg_changed(v, data[i]);
    }
    return MON_OK;
}

static enum mon_rc push_error_code(struct mon_vcpu *v, bool is_32, uint32_t error)
{
    const struct novt_segment *ss = &v->seg[NOVT_SS];
    uint64_t sp = v->cpu->gpr[RT_SP];
    struct mon_frame f;
    f.n = 0;
    mon_frame_add(&f, error);
    enum mon_rc rc =
        mon_frame_push(v, ss, mon_stack_mask(v, ss), v->cpu->cpl, &sp, &f, is_32 ? 4 : 2, 0);
    if (rc)
        return rc;
    v->cpu->gpr[RT_SP] = sp;
    return MON_OK;
}

static enum mon_rc new_task_begin(struct mon_vcpu *v, const struct task_image *t, bool has_error,
                                  uint32_t error)
{
    enum mon_rc rc = segments_load(v, t);
    if (rc)
        return rc;
    if (has_error && (rc = push_error_code(v, t->is_32, error)))
        return rc;
    if ((rc = mon_eip_check(v, &v->seg[NOVT_CS], t->eip)))
        return rc;
    if (!t->trap)
        return MON_OK;
    mon_raise(v, MON_DB); /* SDM 3-18.3.1.5 */
    v->exc.trap = true;
    v->exc.dr6 = DR6_BT;
    return MON_FAULT;
}

enum mon_rc mon_task_switch(struct mon_vcpu *v, uint16_t selector, enum mon_task_source source,
                            uint64_t next, bool has_error, uint32_t error)
{
    bool nested = source == MON_TASK_CALL || source == MON_TASK_EVENT;
    struct novt_segment tss;
    struct task_image image;
    uint64_t desc;
    enum mon_rc rc = task_find(v, selector, source, &desc, &tss);
    if (rc || (rc = writes_check(v, selector, &tss, source)) || (rc = image_read(v, &tss, &image)))
        return rc;
    bool new_space = image.is_32 && v->cr0 & MON_CR0_PG;
    if (new_space && v->cr4 & MON_CR4_PAE && (rc = mon_pdpte_load(v, image.cr3)))
        return rc;
    if ((rc = memory_switch(v, selector, desc, &tss, source, next)))
        return rc;

    v->tr = tss;
    v->tr.attr |= MON_TYPE_BUSY;
    registers_load(v, &image, nested);
    if (new_space) {
        v->cr3 = image.cr3;
        mon_view_flush(v, false);
    }
    rc = new_task_begin(v, &image, has_error, error);
    /* Too late for an exit: a descriptor outside RAM reads as an invalid one. */
    return rc == MON_EXIT ? mon_raise_error(v, MON_TS, 0) : rc;
}
