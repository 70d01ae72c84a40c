/* system.c - 32-bit code: segment registers loaded, SYSENTER and SYSEXIT without leaving the cache.
 *
 * A load of DS, ES, FS or GS at CPL 0 reads the descriptor in the guest's memory, as the CPU does.
 * If it is still the one that the monitor has loaded before (rt_cpu.descs; known.c), nothing that
 * the manual lets a load check can have changed, and the hidden part is known:
 *
 *     r8d = selector; r9 = its entry; known at all?     else callout, or a null selector
 *     load the descriptor                               may fault, nothing has changed yet
 *     same as before?                                   else callout
 *     note selector, base and that it moved
 *
 * DS and ES stay flat if they are, so that the block's key holds; where they are not, and for SS,
 * it is a callout. Null selectors are loaded into FS and GS alone. No flag changes, and rcx is the
 * guest's where the load may fault.
 *
 * SYSENTER and SYSEXIT change the side, as system calls of 64-bit code do (long_system.c): window,
 * jump table, CPL; CS and SS are flat on both sides, and the monitor catches up later (mode.c). */
#include "translator/emit.h"

#define SIDE(n, field)                                                      \
    tr_state(offsetof(struct rt_cpu, side) + (n) * sizeof(struct rt_side) + \
             offsetof(struct rt_side, field))
#define SELECTOR(seg)  tr_state(offsetof(struct rt_cpu, selector) + 2 * (seg))
#define SEGPTR(seg)    tr_state(offsetof(struct rt_cpu, segptr) + sizeof(uint32_t *) * (seg))
#define SEG_MOVED(seg) tr_state(offsetof(struct rt_cpu, seg_moved) + (seg))

static unsigned loaded_segment(const struct tr_insn *insn)
{
    return insn->op == TR_OP_mov_to_sreg ? insn->reg & 7u : insn->opcode >> 3 & 7u;
}

bool tr_loads_segment(const struct tr_block *t, const struct tr_insn *insn)
{
    unsigned seg = loaded_segment(insn);

    if (!(t->rq->key & TR_K_CPL0) || (t->rq->key & TR_K_LONG))
        return false;
    if (insn->op == TR_OP_pop_sreg && (insn->opsize != 32 || !(t->rq->key & TR_K_SS)))
        return false;
    return tr_is_far_segment(seg) || (seg == TR_DS && (t->rq->key & TR_K_DS)) ||
           (seg == TR_ES && (t->rq->key & TR_K_ES));
}

/* movb $value, %fs:state */
static void store_byte(struct tr_block *t, uint32_t state, unsigned value)
{
    e4(t, 0x64, 0xc6, 0x04, 0x25);
    e32(t, state);
    e1(t, value);
}

/* A short forward branch, and the place that it leads to. */
static uint8_t *branch(struct tr_block *t, unsigned opcode)
{
    e2(t, opcode, 0);
    return t->p;
}
#define JRCXZ 0xe3
#define JMP   0xeb

static void here(struct tr_block *t, uint8_t *from)
{
    RT_ASSERT(t->p - from < 128);
    from[-1] = (uint8_t)(t->p - from);
}

/* mov %rcx, %r11 and back */
static void save_cx(struct tr_block *t)
{
    e3(t, 0x49, 0x89, 0xcb);
}
static void restore_cx(struct tr_block *t)
{
    e3(t, 0x4c, 0x89, 0xd9);
}

/* r9 is the entry of the selector in r8d, rcx the address of its descriptor, 0: it is not known. */
static void find_entry(struct tr_block *t, unsigned seg)
{
    save_cx(t);
    e_state(t, 0x4c, 0x8b, 9, STATE(descs)); /* mov %fs:descs, %r9 */
    e4(t, 0x46, 0x8d, 0x14, 0x85);           /* lea (,%r8,4), %r10d */
    e32(t, 0);
    e4(t, 0x4f, 0x8d, 0x0c, 0xd1); /* lea (%r9,%r10,8), %r9 */
    e3(t, 0x41, 0x8b, 0x49);       /* mov at(%r9), %ecx */
    e1(t,
       tr_is_far_segment(seg) ? offsetof(struct rt_desc, at) : offsetof(struct rt_desc, at_flat));
}

/* rcx is zero if memory holds what the entry says; the load may fault, rcx being the guest's. */
static void compare(struct tr_block *t)
{
    e3(t, 0x41, 0x89, 0xca); /* mov %ecx, %r10d */
    restore_cx(t);
    e4(t, 0x65, 0x67, 0x4d, 0x8b); /* mov %gs:(%r10d), %r10 */
    e1(t, 0x12);
    e4(t, 0x49, 0x8b, 0x49, offsetof(struct rt_desc, minus)); /* mov minus(%r9), %rcx */
    e4(t, 0x4a, 0x8d, 0x0c, 0x11);                            /* lea (%rcx,%r10), %rcx */
}

/* rcx is zero if the selector in r8d is null: mov $2, %ecx; shrx %ecx, %r8d, %ecx */
static void test_null(struct tr_block *t)
{
    e1(t, 0xb9);
    e32(t, 2);
    e4(t, 0xc4, 0xc2, 0x73, 0xf7);
    e1(t, 0xc8);
}

/* movq $RT_NO_SEGMENT, %fs:segptr */
static void store_no_segment(struct tr_block *t, unsigned seg)
{
    e4(t, 0x64, 0x48, 0xc7, 0x04);
    e1(t, 0x25);
    e32(t, SEGPTR(seg));
    e32(t, RT_NO_SEGMENT);
}

/* The selector in r8d into seg; on the way out to the callout nothing has changed. */
static void load_segment(struct tr_block *t, unsigned i, unsigned seg)
{
    bool far = tr_is_far_segment(seg);
    uint8_t *unknown, *known, *null = NULL, *leave, *loaded = NULL;

    find_entry(t, seg);
    unknown = branch(t, JRCXZ);
    compare(t);
    known = branch(t, JRCXZ);
    leave = branch(t, JMP);
    here(t, unknown);
    if (far) {
        test_null(t);
        null = branch(t, JRCXZ);
    }
    here(t, leave);
    restore_cx(t);
    e1(t, 0xe9);
    e32(t, 0);
    tr_tail_add(t, TR_TAIL_CALLOUT, t->p - 4, tr_pc_of(t, i), i);
    if (far) {
        here(t, null);
        store_no_segment(t, seg);
        loaded = branch(t, JMP);
    }
    here(t, known);
    if (far) {
        e_state(t, 0x4c, 0x89, 9, SEGPTR(seg)); /* mov %r9, %fs:segptr */
        here(t, loaded);
    }
    restore_cx(t);
    e1(t, 0x66);
    e_state(t, 0x44, 0x89, 8, SELECTOR(seg)); /* mov %r8w, %fs:selector */
    store_byte(t, SEG_MOVED(seg), 1);
}

bool tr_mov_to_sreg(struct tr_block *t, unsigned i)
{
    if (!tr_load_selector(t, i, 8))
        return false;
    load_segment(t, i, loaded_segment(&t->insn[i]));
    return true;
}

/* Only the selector's 16 bits are read (step_stack.c). */
bool tr_pop_sreg(struct tr_block *t, unsigned i)
{
    e4(t, 0x65, 0x44, 0x0f, 0xb7); /* movzwl %gs:(%rsp), %r8d */
    e2(t, 0x04, 0x24);
    load_segment(t, i, loaded_segment(&t->insn[i]));
    tr_stack_move(t, 4);
    return true;
}

/* ---- SYSENTER and SYSEXIT ---- */

/* mov $pc, %r8d; lea record(%rip), %r9; jmp stub: as a callout, which it may become. */
static bool leave_to(struct tr_block *t, unsigned i, const uint8_t *stub)
{
    tr_record_address(t, i);
    e_mov_r8d(t, (uint32_t)tr_pc_of(t, i));
    e_jmp(t, stub);
    return true;
}

bool tr_sysenter(struct tr_block *t, unsigned i)
{
    return (t->rq->key & TR_K_CPL3) && leave_to(t, i, t->rq->stubs->sysenter32);
}

bool tr_sysexit(struct tr_block *t, unsigned i)
{
    return (t->rq->key & TR_K_CPL0) && leave_to(t, i, t->rq->stubs->sysexit32);
}

/* Goes on if the sides may be used, else to the callout: as long as they may be used, CPL is 0 or
 * 3, which the block's key tells apart. */
static void check_sides(struct tr_block *t, const struct tr_stubs *stubs)
{
    uint8_t *slow, *fast;

    save_cx(t);
    e4(t, 0x64, 0x0f, 0xb6, 0x0c); /* movzbl %fs:sides_ok, %ecx */
    e1(t, 0x25);
    e32(t, STATE(sides_ok));
    slow = branch(t, JRCXZ);
    fast = branch(t, JMP);
    here(t, slow);
    restore_cx(t);
    e_jmp(t, stubs->callout32);
    here(t, fast);
    restore_cx(t);
}

/* To the pc in r8d on the other side. A kick that comes meanwhile finds the jump table in rt_cpu or
 * in r14 (trap.c, on_kick). */
static void take_over(struct tr_block *t, unsigned side)
{
    e_state(t, 0x4c, 0x8b, 15, SIDE(side, window)); /* mov %fs:window of the side, %r15 */
    e_state(t, 0x4c, 0x89, 15, STATE(window));
    e_state(t, 0x4c, 0x89, 15, STATE(gs_loaded));
    e4(t, 0xf3, 0x49, 0x0f, 0xae); /* wrgsbase %r15 */
    e1(t, 0xdf);
    e_state(t, 0x44, 0x8b, 9, SIDE(side, selectors));
    e_state(t, 0x44, 0x89, 9, SELECTOR(TR_CS));
    store_byte(t, STATE(cpl), side ? 3 : 0);
    store_byte(t, STATE(side_moved), 1);
    e_state(t, 0x4c, 0x8b, 14, SIDE(side, jump_table));
    e_state(t, 0x4c, 0x89, 14, STATE(jump_table));
    tr_table_jump(t);
}

void tr_emit_sysenter(struct tr_block *t, const struct tr_stubs *stubs)
{
    check_sides(t, stubs);
    store_byte(t, STATE(vif), 0);
    e_state(t, 0, 0x8b, RT_SP, STATE(sysenter_esp));
    e_state(t, 0x44, 0x8b, 8, STATE(sysenter_eip));
    take_over(t, 0);
}

void tr_emit_sysexit(struct tr_block *t, const struct tr_stubs *stubs)
{
    check_sides(t, stubs);
    e2(t, 0x89, 0xcc);       /* mov %ecx, %esp */
    e3(t, 0x41, 0x89, 0xd0); /* mov %edx, %r8d */
    take_over(t, 1);
}
