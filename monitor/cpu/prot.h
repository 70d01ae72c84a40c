/* prot.h - what paging.c, seg.c, far.c, task.c, event.c and ctl.c share among themselves:
 * descriptors and gates taken apart, and stack frames.
 *
 * A frame is written to, or read from, the guest's stack as a whole: one limit check, one page walk
 * and one copy where the stack does not wrap, which is the path of every system call. Writing the
 * frame is the last step that can fail; the callers commit registers after it. */
#ifndef NOVT_MONITOR_CPU_PROT_H
#define NOVT_MONITOR_CPU_PROT_H

#include "monitor/cpu/cpu.h"

/* ---- Descriptors (SDM 3-3.4.5, 3-3.5, 3-5.8.3, 3-6.11) ---- */

enum mon_system_type {
    MON_TYPE_TSS16 = 1,
    MON_TYPE_LDT = 2,
    MON_TYPE_TSS16_BUSY = 3,
    MON_TYPE_CALL16 = 4,
    MON_TYPE_TASK_GATE = 5,
    MON_TYPE_INT16 = 6,
    MON_TYPE_TRAP16 = 7,
    MON_TYPE_TSS32 = 9,
    MON_TYPE_TSS32_BUSY = 11,
    MON_TYPE_CALL32 = 12,
    MON_TYPE_INT32 = 14,
    MON_TYPE_TRAP32 = 15,
};
#define MON_TYPE_BUSY     2u /* in a TSS descriptor's type */
#define MON_TYPE_ACCESSED 1u /* in a code or data descriptor's type */

/* The part of a selector that error codes show. */
#define MON_SEL_ERROR(selector) ((selector)&0xfffcu)
#define MON_SEL_RPL(selector)   ((selector)&3u)
#define MON_SEL_TI              4u

static inline uint32_t mon_desc_attr(uint64_t desc)
{
    return (uint32_t)(desc >> 40) & 0xf0ffu;
}
static inline unsigned mon_desc_dpl(uint64_t desc)
{
    return (unsigned)(desc >> 45) & 3u;
}
static inline bool mon_desc_present(uint64_t desc)
{
    return desc >> 47 & 1;
}
/* Type of a system descriptor; 16 and up: it is a code or data descriptor. */
static inline unsigned mon_desc_type(uint64_t desc)
{
    return (unsigned)(desc >> 40) & 0x1fu;
}
static inline bool mon_attr_is_code(uint32_t attr)
{
    return (attr & 0x18u) == 0x18u;
}
static inline bool mon_attr_is_conforming(uint32_t attr)
{
    return (attr & 0x1cu) == 0x1cu;
}
static inline bool mon_attr_is_writable_data(uint32_t attr)
{
    return (attr & 0x1au) == 0x12u;
}
/* Data or readable code. */
static inline bool mon_attr_is_readable(uint32_t attr)
{
    return (attr & 0x18u) == 0x10u || (attr & 0x1au) == 0x1au;
}

static inline uint16_t mon_gate_selector(uint64_t gate)
{
    return (uint16_t)(gate >> 16);
}
static inline uint32_t mon_gate_offset(uint64_t gate)
{
    return (uint32_t)(gate & 0xffffu) | (uint32_t)(gate >> 32 & 0xffff0000u);
}

/* The segment's limit allows all of [offset, offset + len). A flat 4 GiB segment allows an access
 * that wraps, as processors do (SDM 3-5.3 leaves it open). */
static inline bool mon_seg_holds(const struct novt_segment *s, uint64_t offset, unsigned len)
{
    uint64_t last = offset + len - 1;
    if (__builtin_expect(s->attr & MON_ATTR_UNUSABLE, 0))
        return false;
    if (__builtin_expect((s->attr & 0x1cu) == 0x14u, 0)) /* expand-down data */
        return offset > s->limit && last <= (s->attr & MON_ATTR_DB ? 0xffffffffu : 0xffffu);
    return last <= s->limit || s->limit == 0xffffffffu;
}

/* ---- paging.c: as mon_lin_read() and mon_lin_write() with the privilege level given ---- */

enum mon_rc mon_lin_read_as(struct mon_vcpu *v, uint64_t gla, void *data, unsigned len,
                            unsigned access, unsigned cpl);
enum mon_rc mon_lin_write_as(struct mon_vcpu *v, uint64_t gla, const void *data, unsigned len,
                             unsigned access, unsigned cpl);

/* ---- seg.c ---- */

/* A stack frame in the order of its pushes: item[0] is pushed first and ends up highest. The most
 * that any transfer pushes is a call gate's SS, ESP, 31 parameters, CS and EIP. */
struct mon_frame {
    unsigned n;
    uint64_t item[36];
};
static inline void mon_frame_add(struct mon_frame *f, uint64_t item)
{
    f->item[f->n++] = item;
}

/* How much of the stack pointer a stack in ss uses. */
static inline uint64_t mon_stack_mask(const struct mon_vcpu *v, const struct novt_segment *ss)
{
    if (__builtin_expect(mon_code64(v), 0))
        return ~(uint64_t)0;
    return ss->attr & MON_ATTR_DB ? 0xffffffffu : 0xffffu;
}
/* old with the bits of mask from new. */
static inline uint64_t mon_merge(uint64_t old, uint64_t new, uint64_t mask)
{
    return (old & ~mask) | (new &mask);
}

/* Pushes the frame, items of size bytes (2, 4, 8), on the stack ss:*sp as privilege level cpl, and
 * updates *sp by the bits of mask. MON_FAULT: #SS(error), or #PF. */
enum mon_rc mon_frame_push(struct mon_vcpu *v, const struct novt_segment *ss, uint64_t mask,
                           unsigned cpl, uint64_t *sp, const struct mon_frame *f, unsigned size,
                           uint32_t error);
/* Reads n items from the current stack at *sp and moves *sp behind them. MON_FAULT: #SS(0), #PF. */
enum mon_rc mon_frame_pop(struct mon_vcpu *v, uint64_t *sp, uint64_t *items, unsigned n,
                          unsigned size);

/* Reads and checks the stack segment for privilege level cpl: writable data, RPL = DPL = cpl.
 * MON_FAULT: vector(selector), #SS(selector) when not present. Sets the accessed bit. */
enum mon_rc mon_stack_segment(struct mon_vcpu *v, uint16_t selector, unsigned cpl, unsigned vector,
                              struct novt_segment *seg);
/* Reads and checks a data segment for DS, ES, FS or GS against cpl; a null selector gives an
 * unusable segment. MON_FAULT: vector(selector), #NP(selector). Sets the accessed bit. */
enum mon_rc mon_data_segment(struct mon_vcpu *v, uint16_t selector, unsigned cpl, unsigned vector,
                             struct novt_segment *seg);
/* The same for LDTR; every error is vector(selector), but not-present is #NP if vector is #GP. */
enum mon_rc mon_ldt_segment(struct mon_vcpu *v, uint16_t selector, unsigned vector,
                            struct novt_segment *seg);
/* Unpacks a code descriptor and sets its accessed bit. */
enum mon_rc mon_code_accessed(struct mon_vcpu *v, uint16_t selector, uint64_t desc,
                              struct novt_segment *seg);
/* Upper half of a 16-byte descriptor (long mode): bits 63:32 of the base or offset. */
enum mon_rc mon_desc_read_high(struct mon_vcpu *v, uint16_t selector, unsigned vector,
                               uint64_t *high);
/* Makes a data segment register hold a null selector. */
void mon_seg_set_null(struct mon_vcpu *v, unsigned seg, uint16_t selector);
/* The new instruction pointer is inside the code segment. MON_FAULT: #GP(0). */
enum mon_rc mon_eip_check(struct mon_vcpu *v, const struct novt_segment *cs, uint64_t eip);

/* ---- task.c ---- */

/* Long mode's stack pointer: from the IST when ist is 1 to 7, else RSPn for the level. */
enum mon_rc mon_tss_rsp(struct mon_vcpu *v, unsigned level, unsigned ist, uint64_t *rsp);
/* The bit for vector in the software interrupt redirection map (SDM 3-21.3.1) is clear: INT n in
 * virtual-8086 mode goes to the 8086 program's own handler. MON_FAULT: #GP(0). */
enum mon_rc mon_tss_redirects(struct mon_vcpu *v, uint8_t vector, bool *to_8086);

#endif
