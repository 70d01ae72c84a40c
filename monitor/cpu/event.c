/* event.c - exceptions and interrupts on their way into the guest (SDM 3-6).
 *
 * An event is a vector with what its source implies: EXT in error codes, a DPL check for software
 * interrupts, the RF flag in the pushed image for faults. Delivery goes
 *
 *   real mode          through the IVT                                       3-21.1.4
 *   virtual-8086       INT n: IOPL, redirection bitmap, IVT or IDT           3-21.3
 *   protected mode     interrupt, trap and task gates; inner stacks          3-6.12
 *   long mode          16-byte gates, IST                                    3-6.14
 *
 * Each way checks everything, writes the frame (the last step that can fail) and then commits. A
 * fault on the way leaves the state alone, and mon_exception_deliver() combines the two by table
 * 6-5: second fault, double fault or shutdown.
 *
 * The hot path is an interrupt gate from CPL 3 to CPL 0: gate, code descriptor, TSS, stack
 * descriptor, frame; five walks, one of them for writing.
 *
 * Context: the vCPU's thread. No libc here: the guest's vector registers are live. */
#include "monitor/cpu/prot.h"

/* One event being delivered. */
struct event {
    uint8_t vector;
    bool software;  /* INT n, INT3, INTO: the gate's DPL is checked, EXT is 0 */
    bool has_error; /* in protected and long mode */
    bool fault;     /* RF is set in the pushed flags */
    uint32_t error;
    uint64_t rip; /* where the handler returns to */
};

/* ---- Raising ---- */

/* Vectors whose error code has the format of SDM 3-6.13, with an EXT bit. */
#define SELECTOR_ERRORS (1u << MON_TS | 1u << MON_NP | 1u << MON_SS | 1u << MON_GP)
#define HAS_ERROR       (SELECTOR_ERRORS | 1u << MON_DF | 1u << MON_PF | 1u << MON_AC)

enum mon_rc mon_raise(struct mon_vcpu *v, enum mon_vector vector)
{
    v->exc = (struct mon_exception){.vector = (uint8_t)vector};
    return MON_FAULT;
}

enum mon_rc mon_raise_error(struct mon_vcpu *v, enum mon_vector vector, uint32_t error)
{
    if (SELECTOR_ERRORS >> vector & 1)
        error |= v->ext;
    v->exc = (struct mon_exception){.vector = (uint8_t)vector, .has_error = true, .error = error};
    return MON_FAULT;
}

/* An error of the IDT entry itself: the IDT bit is set (SDM 3-6.13). */
static enum mon_rc raise_idt(struct mon_vcpu *v, enum mon_vector vector, const struct event *e)
{
    return mon_raise_error(v, vector, e->vector * 8u + 2);
}

/* ---- Common parts ---- */

static uint64_t pushed_flags(const struct mon_vcpu *v, const struct event *e)
{
    uint64_t flags = v->cpu->rflags | 2;
    return e->fault ? flags | RT_RF : flags;
}

/* RFLAGS on entry to a handler (SDM 3-6.12.1.2). */
static void enter_flags(struct mon_vcpu *v, bool interrupt_gate)
{
    uint64_t old = v->cpu->rflags;
    v->cpu->rflags &= ~(uint64_t)(RT_TF | RT_NT | RT_RF | RT_VM | (interrupt_gate ? RT_IF : 0));
    if (old & (RT_TF | RT_VM))
        v->mode_changed = true;
}

/* ---- Real mode, and virtual-8086 mode through the interrupt vector table ---- */

/* Pushes three words and goes through the IVT at base. flags: the pushed image. */
static enum mon_rc deliver_ivt(struct mon_vcpu *v, const struct event *e, uint64_t base,
                               uint64_t flags)
{
    struct mon_frame f;
    uint64_t sp = v->cpu->gpr[RT_SP];
    uint16_t entry[2];
    const struct novt_segment *ss = &v->seg[NOVT_SS];
    enum mon_rc rc = mon_lin_read(v, base + e->vector * 4u, entry, 4, MON_READ);
    if (rc)
        return rc;
    f.n = 0;
    mon_frame_add(&f, flags);
    mon_frame_add(&f, v->seg[NOVT_CS].selector);
    mon_frame_add(&f, e->rip);
    rc = mon_frame_push(v, ss, mon_stack_mask(v, ss), v->cpu->cpl, &sp, &f, 2, 0);
    if (rc)
        return rc;

    v->cpu->gpr[RT_SP] = sp;
    v->cpu->rip = entry[0];
    mon_seg_set_real(v, NOVT_CS, entry[1]);
    return MON_OK;
}

static enum mon_rc deliver_real(struct mon_vcpu *v, const struct event *e)
{
    if (e->vector * 4u + 3 > v->idt.limit)
        return mon_raise_error(v, MON_GP, 0);
    uint64_t flags = v->cpu->rflags;
    enum mon_rc rc = deliver_ivt(v, e, v->idt.base, pushed_flags(v, e));
    if (rc)
        return rc;
    v->cpu->rflags &= ~(uint64_t)(RT_IF | RT_TF | RT_AC | RT_RF);
    if (flags & (RT_TF | RT_AC))
        v->mode_changed = true;
    return MON_OK;
}

/* INT n in virtual-8086 mode with CR4.VME and the redirection bit clear (SDM 3-21.3.3.4 and 5):
 * the 8086 program's own handler; with IOPL < 3, VIF stands in for IF. */
static enum mon_rc deliver_v86_redirected(struct mon_vcpu *v, const struct event *e)
{
    uint64_t flags = v->cpu->rflags, image = flags;
    bool virtual_if = (flags & RT_IOPL) != RT_IOPL;
    if (virtual_if)
        image = (image & ~(uint64_t)RT_IF) | RT_IOPL | (flags & RT_VIF ? RT_IF : 0);
    enum mon_rc rc = deliver_ivt(v, e, 0, image);
    if (rc)
        return rc;
    v->cpu->rflags &= ~(uint64_t)(RT_TF | RT_RF | RT_NT | (virtual_if ? RT_VIF : RT_IF));
    if (flags & RT_TF)
        v->mode_changed = true;
    return MON_OK;
}

/* ---- Protected mode ---- */

/* A new stack for an inner privilege level (SDM 3-6.12.1). */
struct inner_stack {
    struct novt_segment ss;
    uint64_t sp;
};

static enum mon_rc inner_stack_find(struct mon_vcpu *v, unsigned level, struct inner_stack *stack)
{
    uint16_t selector;
    uint32_t esp;
    enum mon_rc rc = mon_tss_stack(v, level, &selector, &esp);
    if (rc)
        return rc;
    stack->sp = esp;
    return mon_stack_segment(v, selector, level, MON_TS, &stack->ss);
}

static void nullify_data_segments(struct mon_vcpu *v)
{
    static const uint8_t order[] = {NOVT_GS, NOVT_FS, NOVT_DS, NOVT_ES};
    for (unsigned i = 0; i < sizeof(order); i++)
        mon_seg_set_null(v, order[i], 0);
}

static void frame_add_return(struct mon_vcpu *v, const struct event *e, struct mon_frame *f)
{
    mon_frame_add(f, pushed_flags(v, e));
    mon_frame_add(f, v->seg[NOVT_CS].selector);
    mon_frame_add(f, e->rip);
    if (e->has_error)
        mon_frame_add(f, e->error);
}

/* Through an interrupt or trap gate to an inner privilege level, also from virtual-8086 mode. */
static enum mon_rc deliver_inner(struct mon_vcpu *v, const struct event *e, uint64_t gate,
                                 const struct novt_segment *cs, uint32_t eip)
{
    unsigned level = MON_ATTR_DPL_OF(cs->attr), size = mon_desc_type(gate) & 8 ? 4 : 2;
    struct inner_stack stack;
    struct mon_frame f;
    bool v86 = mon_v86(v);
    f.n = 0;
    enum mon_rc rc = inner_stack_find(v, level, &stack);
    if (rc)
        return rc;
    if (v86) {
        mon_frame_add(&f, v->seg[NOVT_GS].selector);
        mon_frame_add(&f, v->seg[NOVT_FS].selector);
        mon_frame_add(&f, v->seg[NOVT_DS].selector);
        mon_frame_add(&f, v->seg[NOVT_ES].selector);
    }
    mon_frame_add(&f, v->seg[NOVT_SS].selector);
    mon_frame_add(&f, v->cpu->gpr[RT_SP]);
    frame_add_return(v, e, &f);
    if ((rc = mon_eip_check(v, cs, eip)))
        return rc;
    uint64_t mask = stack.ss.attr & MON_ATTR_DB ? 0xffffffffu : 0xffffu;
    rc = mon_frame_push(v, &stack.ss, mask, level, &stack.sp, &f, size,
                        MON_SEL_ERROR(stack.ss.selector));
    if (rc)
        return rc;

    enter_flags(v, !(mon_desc_type(gate) & 1));
    mon_cs_set(v, cs->selector, cs, level);
    v->seg[NOVT_SS] = stack.ss;
    mon_seg_changed(v, NOVT_SS);
    if (v86)
        nullify_data_segments(v);
    v->cpu->gpr[RT_SP] = stack.sp;
    v->cpu->rip = eip;
    return MON_OK;
}

static enum mon_rc deliver_same(struct mon_vcpu *v, const struct event *e, uint64_t gate,
                                const struct novt_segment *cs, uint32_t eip)
{
    const struct novt_segment *ss = &v->seg[NOVT_SS];
    unsigned size = mon_desc_type(gate) & 8 ? 4 : 2;
    uint64_t sp = v->cpu->gpr[RT_SP];
    struct mon_frame f;
    f.n = 0;
    frame_add_return(v, e, &f);
    enum mon_rc rc = mon_eip_check(v, cs, eip);
    if (rc)
        return rc;
    rc = mon_frame_push(v, ss, mon_stack_mask(v, ss), v->cpu->cpl, &sp, &f, size, 0);
    if (rc)
        return rc;

    enter_flags(v, !(mon_desc_type(gate) & 1));
    mon_cs_set(v, cs->selector, cs, v->cpu->cpl);
    v->cpu->gpr[RT_SP] = sp;
    v->cpu->rip = eip;
    return MON_OK;
}

static enum mon_rc deliver_task_gate(struct mon_vcpu *v, const struct event *e, uint64_t gate)
{
    uint64_t flags = v->cpu->rflags;
    uint16_t old_task = v->tr.selector;
    if (e->fault)
        v->cpu->rflags |= RT_RF; /* for the image in the old TSS */
    enum mon_rc rc =
        mon_task_switch(v, mon_gate_selector(gate), MON_TASK_EVENT, e->rip, e->has_error, e->error);
    if (rc && v->tr.selector == old_task) /* not switched */
        v->cpu->rflags = flags;
    return rc;
}

/* Gate types that an IDT may hold outside long mode. */
#define IDT_GATES                                                              \
    (1u << MON_TYPE_TASK_GATE | 1u << MON_TYPE_INT16 | 1u << MON_TYPE_TRAP16 | \
     1u << MON_TYPE_INT32 | 1u << MON_TYPE_TRAP32)
#define IDT_GATES_LONG (1u << MON_TYPE_INT32 | 1u << MON_TYPE_TRAP32)

/* Reads and checks the IDT's gate: limit, type, DPL for software interrupts, present. */
static enum mon_rc gate_read(struct mon_vcpu *v, const struct event *e, unsigned size,
                             uint32_t types, uint64_t *gate)
{
    uint32_t offset = e->vector * size;
    if (offset + size - 1 > v->idt.limit)
        return raise_idt(v, MON_GP, e);
    enum mon_rc rc = mon_lin_read(v, v->idt.base + offset, gate, size, MON_READ | MON_SYSTEM);
    if (rc)
        return rc;
    if (!(types >> mon_desc_type(*gate) & 1))
        return raise_idt(v, MON_GP, e);
    if (e->software && mon_desc_dpl(*gate) < v->cpu->cpl)
        return raise_idt(v, MON_GP, e);
    return mon_desc_present(*gate) ? MON_OK : raise_idt(v, MON_NP, e);
}

/* Reads and checks the handler's code segment. */
static enum mon_rc handler_segment(struct mon_vcpu *v, uint16_t selector, uint64_t *desc)
{
    enum mon_rc rc = mon_desc_read(v, selector, MON_GP, desc);
    if (rc)
        return rc;
    if (!mon_attr_is_code(mon_desc_attr(*desc)) || mon_desc_dpl(*desc) > v->cpu->cpl)
        return mon_raise_error(v, MON_GP, MON_SEL_ERROR(selector));
    if (!mon_desc_present(*desc))
        return mon_raise_error(v, MON_NP, MON_SEL_ERROR(selector));
    return MON_OK;
}

static enum mon_rc deliver_protected(struct mon_vcpu *v, const struct event *e)
{
    uint64_t gate, desc;
    struct novt_segment cs;
    enum mon_rc rc = gate_read(v, e, 8, IDT_GATES, &gate);
    if (rc)
        return rc;
    if (mon_desc_type(gate) == MON_TYPE_TASK_GATE)
        return deliver_task_gate(v, e, gate);
    uint16_t selector = mon_gate_selector(gate);
    if ((rc = handler_segment(v, selector, &desc)))
        return rc;
    bool inner = !mon_attr_is_conforming(mon_desc_attr(desc)) && mon_desc_dpl(desc) < v->cpu->cpl;
    if (mon_v86(v) && (!inner || mon_desc_dpl(desc)))
        return mon_raise_error(v, MON_GP, MON_SEL_ERROR(selector));
    if ((rc = mon_code_accessed(v, selector, desc, &cs)))
        return rc;
    uint32_t eip = mon_gate_offset(gate);
    if (!(mon_desc_type(gate) & 8))
        eip &= 0xffffu;
    return inner ? deliver_inner(v, e, gate, &cs, eip) : deliver_same(v, e, gate, &cs, eip);
}

/* ---- Long mode (SDM 3-6.14) ---- */

static enum mon_rc deliver_long(struct mon_vcpu *v, const struct event *e)
{
    static const struct novt_segment flat = {.attr = 0x4093u, .limit = 0xffffffffu};
    uint64_t gate[2], desc, rsp = v->cpu->gpr[RT_SP];
    struct novt_segment cs;
    struct mon_frame f;
    enum mon_rc rc = gate_read(v, e, 16, IDT_GATES_LONG, gate);
    if (rc)
        return rc;
    uint16_t selector = mon_gate_selector(gate[0]);
    if ((rc = handler_segment(v, selector, &desc)))
        return rc;
    if ((mon_desc_attr(desc) & (MON_ATTR_L | MON_ATTR_DB)) != MON_ATTR_L)
        return mon_raise_error(v, MON_GP, MON_SEL_ERROR(selector));
    unsigned level = v->cpu->cpl, ist = (unsigned)(gate[0] >> 32) & 7;
    if (!mon_attr_is_conforming(mon_desc_attr(desc)))
        level = mon_desc_dpl(desc);
    bool inner = level < v->cpu->cpl;
    if ((inner || ist) && (rc = mon_tss_rsp(v, level, ist, &rsp)))
        return rc;
    if ((rc = mon_code_accessed(v, selector, desc, &cs)))
        return rc;
    uint64_t rip = mon_gate_offset(gate[0]) | gate[1] << 32;
    if (!tr_is_canonical(rip))
        return mon_raise_error(v, MON_GP, 0);
    f.n = 0;
    mon_frame_add(&f, v->seg[NOVT_SS].selector);
    mon_frame_add(&f, v->cpu->gpr[RT_SP]);
    frame_add_return(v, e, &f);
    rsp &= ~(uint64_t)15;
    rc = mon_frame_push(v, &flat, ~(uint64_t)0, level, &rsp, &f, 8, 0);
    if (rc)
        return rc;

    enter_flags(v, mon_desc_type(gate[0]) == MON_TYPE_INT32);
    mon_cs_set(v, selector, &cs, level);
    if (inner)
        mon_seg_set_null(v, NOVT_SS, (uint16_t)level);
    v->cpu->gpr[RT_SP] = rsp;
    v->cpu->rip = rip;
    return MON_OK;
}

/* ---- One delivery ---- */

static enum mon_rc deliver(struct mon_vcpu *v, const struct event *e, bool ext)
{
    enum mon_rc rc;
    v->ext = ext;
    if (!mon_protected(v))
        rc = deliver_real(v, e);
    else if (mon_long(v))
        rc = deliver_long(v, e);
    else
        rc = deliver_protected(v, e);
    v->ext = 0;
    if (rc == MON_OK) {
        v->shadow = v->shadow_ss = false;
        v->halted = false;
    }
    return rc;
}

static void log_event(struct mon_vcpu *v, const char *kind, const struct event *e)
{
    mon_log(v, NOVT_LOG_EVENT, "%s %u error %#x at %04x:%08llx cpl %u cr2 %08llx", kind, e->vector,
            e->has_error ? e->error : 0, v->seg[NOVT_CS].selector, (unsigned long long)e->rip,
            v->cpu->cpl, (unsigned long long)v->cr2);
}

/* ---- Shutdown ---- */

/* Text is put together by hand: see the file head. */
struct text {
    char *at, *end;
};

static void text_add(struct text *t, const char *s)
{
    while (*s && t->at < t->end)
        *t->at++ = *s++;
    *t->at = 0;
}

static void text_add_hex(struct text *t, const char *name, uint64_t value, unsigned digits)
{
    char s[2] = {0, 0};
    text_add(t, name);
    while (digits < 16 && value >> digits * 4)
        digits++;
    while (digits--) {
        s[0] = "0123456789abcdef"[value >> digits * 4 & 15];
        text_add(t, s);
    }
}

static const char *vector_name(unsigned vector)
{
    static const char names[][5] = {"#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD",
                                    "#NM", "#DF", "9",   "#TS", "#NP", "#SS", "#GP",
                                    "#PF", "15",  "#MF", "#AC", "#MC", "#XM"};
    return vector < sizeof(names) / sizeof(names[0]) ? names[vector] : "vector";
}

static void text_add_exception(struct text *t, const struct mon_exception *x)
{
    text_add(t, " ");
    text_add(t, vector_name(x->vector));
    if (x->has_error)
        text_add_hex(t, "(", x->error, 4);
    text_add(t, x->has_error ? ")" : "");
}

#define HISTORY 8 /* the longest: benign, fault, fault, #DF, fault */

/* The exit for a triple fault and the like: what led to it, oldest first, and where. */
static enum mon_rc shutdown_exit(struct mon_vcpu *v, const char *what,
                                 const struct mon_exception *history, unsigned count)
{
    struct text t = {v->run.fail.reason, v->run.fail.reason + sizeof(v->run.fail.reason) - 1};
    v->run.exit_reason = NOVT_EXIT_SHUTDOWN;
    text_add(&t, what);
    for (unsigned i = 0; i < count; i++)
        text_add_exception(&t, &history[i]);
    text_add_hex(&t, " at ", v->seg[NOVT_CS].selector, 4);
    text_add_hex(&t, ":", v->cpu->rip, 8);
    text_add_hex(&t, ", cpl ", v->cpu->cpl, 1);
    text_add_hex(&t, ", ss:esp ", v->seg[NOVT_SS].selector, 4);
    text_add_hex(&t, ":", v->cpu->gpr[RT_SP], 8);
    text_add_hex(&t, ", flags ", v->cpu->rflags, 8);
    text_add_hex(&t, ", cr0 ", v->cr0, 8);
    text_add_hex(&t, ", cr2 ", v->cr2, 8);
    text_add_hex(&t, ", cr3 ", v->cr3, 8);
    text_add_hex(&t, ", cr4 ", v->cr4, 8);
    text_add_hex(&t, ", idt ", v->idt.base, 8);
    text_add_hex(&t, "/", v->idt.limit, 4);
    return MON_EXIT;
}

/* ---- Exceptions ---- */

#define CONTRIBUTORY (1u << MON_DE | SELECTOR_ERRORS)

/* SDM 3 table 6-5: first is being delivered when second happens. True: double fault. */
static bool is_double_fault(unsigned first, unsigned second)
{
    bool contributory = second < 32 && CONTRIBUTORY >> second & 1;
    if (first == MON_PF)
        return second == MON_PF || contributory;
    return first < 32 && CONTRIBUTORY >> first & 1 && contributory;
}

/* Registers that describe the exception, loaded before its delivery is tried. */
static void exception_registers(struct mon_vcpu *v, const struct mon_exception *x)
{
    if (x->vector == MON_PF)
        v->cr2 = x->cr2;
    if (x->vector == MON_DB) { /* SDM 3-18.2.3: B0 to B3 are fresh, the others stay */
        v->dr[6] = (v->dr[6] & ~(uint64_t)15) | x->dr6;
        v->dr[7] &= ~((uint64_t)1 << 13);
    }
}

/* Faults push RF, but for instruction breakpoints (SDM 3-18.3.1.1). */
static bool pushes_rf(const struct mon_exception *x)
{
    if (x->trap || x->vector == MON_NMI || x->vector == MON_BP || x->vector == MON_OF)
        return false;
    if (x->vector == MON_DB)
        return x->dr6 >> 13 & 1; /* BD: a MOV DR with DR7.GD */
    return x->vector != MON_DF && x->vector != MON_MC;
}

static enum mon_rc exception_deliver_once(struct mon_vcpu *v, const struct mon_exception *x)
{
    struct event e = {.vector = x->vector,
                      .has_error = x->has_error,
                      .fault = pushes_rf(x),
                      .error = x->error,
                      .rip = v->cpu->rip};
    exception_registers(v, x);
    if (__builtin_expect(mon_log_on(v, NOVT_LOG_EVENT), 0))
        log_event(v, vector_name(x->vector), &e);
    return deliver(v, &e, true);
}

enum mon_rc mon_exception_deliver(struct mon_vcpu *v)
{
    struct mon_exception history[HISTORY];
    struct mon_exception first = v->exc;
    unsigned count = 0;
    for (;;) {
        struct mon_exception x = v->exc;
        history[count < HISTORY - 2 ? count++ : count - 1] = x;
        enum mon_rc rc = exception_deliver_once(v, &x);
        if (rc == MON_OK)
            return MON_OK;
        if (rc == MON_EXIT) {
            v->exc = first; /* the whole delivery is done again after the embedder's answer */
            return MON_EXIT;
        }
        if (x.vector != MON_DF && !is_double_fault(x.vector, v->exc.vector))
            continue;
        history[count++] = v->exc;
        if (x.vector == MON_DF)
            return shutdown_exit(v, "triple fault:", history, count);
        if (v->exc.vector == MON_PF)
            v->cr2 = v->exc.cr2; /* the page fault happened, whatever came of it */
        mon_raise_error(v, MON_DF, 0);
    }
}

/* ---- Software and external interrupts ---- */

static enum mon_rc software_deliver(struct mon_vcpu *v, const struct event *e, bool ext)
{
    if (__builtin_expect(mon_log_on(v, NOVT_LOG_EVENT), 0))
        log_event(v, "software interrupt", e);
    return deliver(v, e, ext);
}

enum mon_rc mon_software_interrupt(struct mon_vcpu *v, uint8_t vector, uint64_t next)
{
    struct event e = {.vector = vector, .software = true, .rip = next};
    if (__builtin_expect(mon_v86(v), 0)) { /* SDM 3 table 21-2 */
        bool to_8086 = false;
        enum mon_rc rc;
        if (v->cr4 & MON_CR4_VME && (rc = mon_tss_redirects(v, vector, &to_8086)))
            return rc;
        if (to_8086)
            return deliver_v86_redirected(v, &e);
        if ((v->cpu->rflags & RT_IOPL) != RT_IOPL)
            return mon_raise_error(v, MON_GP, 0);
    }
    return software_deliver(v, &e, false);
}

enum mon_rc mon_software_exception(struct mon_vcpu *v, uint8_t vector, uint64_t next)
{
    bool privileged = vector == MON_DB; /* INT1, SDM 2 INT: no DPL check, and EXT is set */
    struct event e = {.vector = vector, .software = !privileged, .rip = next};
    return software_deliver(v, &e, privileged);
}

enum mon_rc mon_interrupt_deliver(struct mon_vcpu *v, uint8_t vector)
{
    struct event e = {.vector = vector, .rip = v->cpu->rip};
    if (__builtin_expect(mon_log_on(v, NOVT_LOG_EVENT), 0))
        log_event(v, "interrupt", &e);
    return deliver(v, &e, true);
}

#define MCG_RIPV 1u
#define MCG_MCIP 4u

enum mon_rc mon_machine_check_deliver(struct mon_vcpu *v)
{
    const struct mon_exception x = {.vector = MON_MC};

    if (!(v->cr4 & MON_CR4_MCE) || v->msr.mcg_status & MCG_MCIP)
        return shutdown_exit(v, "machine check:", &x, 1);
    v->msr.mcg_status = MCG_RIPV | MCG_MCIP;
    return mon_interrupt_deliver(v, MON_MC);
}
