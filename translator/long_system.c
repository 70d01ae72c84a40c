/* long_system.c - 64-bit code: SYSCALL, SYSRET and SWAPGS without leaving the cache.
 *
 * A system call changes the side: privilege level, address space, jump table. The monitor prepares
 * both sides of the current address space (rt_cpu.side, view.c) and says that they are there
 * (sides_ok); the stubs here change over and note it in side_moved, and the monitor catches up with
 * the segment registers and its own idea of the mode when translated code is left (mode.c). What
 * is out of the ordinary goes to the slow path: sides not prepared, a return to an address that is
 * not a program's, flags other than the usual ones.
 *
 *     site:  r11 = next pc (SYSCALL) or r9 = this pc (SYSRET), jump to the stub
 *     stub:  checks without touching flags; then, on the host's stack, flags, rcx and r11 as the
 *            manual says, GS base, deltas of rsp, FS and GS, and on through the other jump table
 *
 * Cost: about 75 instructions with PUSHF, POPF and WRGSBASE. A kick that comes meanwhile finds the
 * jump table in r11 or in rt_cpu (trap.c, on_kick). */
#include "translator/long.h"

#define SIDE(n, field)                                                      \
    tr_state(offsetof(struct rt_cpu, side) + (n) * sizeof(struct rt_side) + \
             offsetof(struct rt_side, field))
#define BASE(n) tr_state(offsetof(struct rt_cpu, base64) + (n)*8)
#define HOST(n) tr_state(offsetof(struct rt_cpu, host64) + (n)*8)

/* RFLAGS with which SYSRET is left to the slow path, and that it can load (SDM 2 SYSRET). */
#define UNUSUAL (RT_TF | RT_IOPL | RT_NT | RT_RF | RT_VM | RT_AC | RT_VIF | RT_VIP)
#define SYSRET  0x3c7fd7u

/* op $imm, %r9d or %r11d; extension 4: and, 1: or */
static void op_imm(struct tr_block *t, unsigned extension, unsigned reg, uint32_t imm)
{
    e3(t, 0x41, 0x81, 0xc0 | extension << 3 | (reg & 7));
    e32(t, imm);
}

/* add %from, %to, 64 bits, both r8 to r15 */
static void add(struct tr_block *t, unsigned to, unsigned from)
{
    e3(t, 0x4d, 0x01, 0xc0 | (from & 7) << 3 | (to & 7));
}

/* jrcxz to a place that here() names */
static uint8_t *jrcxz(struct tr_block *t)
{
    e2(t, 0xe3, 0);
    return t->p;
}

static void here(struct tr_block *t, uint8_t *field)
{
    RT_ASSERT(t->p - field < 128);
    field[-1] = (uint8_t)(t->p - field);
}

bool l_swapgs(struct tr_block *t, unsigned i)
{
    (void)i;
    if (!(t->rq->key & TR_K_CPL0))
        return false;
    l_load(t, H10, STATE(kernel_gs));
    l_load(t, H9, BASE(1));
    l_store(t, H9, STATE(kernel_gs));
    l_store(t, H10, BASE(1));
    l_delta(t, H11, H10);
    l_lea(t, H10, H10, H11, 0);
    l_store(t, H10, HOST(1));
    l_store_byte(t, STATE(gs_moved), 1);
    return true;
}

bool l_syscall(struct tr_block *t, unsigned i)
{
    l_const_pc(t, H11, t->rq->pc + t->at[i] + t->insn[i].len, false);
    e_jmp(t, t->rq->stubs->syscall64);
    return true;
}

bool l_sysret(struct tr_block *t, unsigned i)
{
    if (!(t->rq->key & TR_K_CPL0) || t->insn[i].opsize != 64)
        return false;
    l_const_pc(t, H9, tr_pc_of(t, i), false);
    e_jmp(t, t->rq->stubs->sysret64);
    return true;
}

/* The rest of both: guest rsp from r10 (host address, the old side's) and flags from the top of the
 * host's stack, which is rsp. Ends with r10 the host's address of the guest's stack. */
static void change_side(struct tr_block *t, unsigned side)
{
    l_load(t, H11, STATE(rsp_undo));
    add(t, H10, H11);
    l_load(t, H11, SIDE(side, window));
    l_store(t, H11, STATE(window));
    l_store(t, H11, STATE(gs_loaded));
    e4(t, 0xf3, 0x49, 0x0f, 0xae); /* wrgsbase %r11 */
    e1(t, 0xdb);
    for (uint32_t class = 0; class < 4; class ++) {
        l_load(t, H11, SIDE(side, class_delta) + class * 8);
        l_store(t, H11, STATE(class_delta) + class * 8);
    }
    l_delta(t, H11, H10);
    l_store(t, H11, STATE(rsp_delta));
    add(t, H10, H11);
    e3(t, 0x49, 0xf7, 0xdb); /* neg %r11 */
    l_store(t, H11, STATE(rsp_undo));
    for (unsigned n = 0; n < 2; n++) {
        l_load(t, H9, BASE(n));
        l_delta(t, H11, H9);
        add(t, H9, H11);
        l_store(t, H9, HOST(n));
    }
    l_store_byte(t, STATE(cpl), side ? 3 : 0);
    l_store_byte(t, STATE(side_moved), 1);
}

/* RFLAGS in r11: IF to vif, DF and the arithmetic flags pushed, the others to rflags. */
static void split_flags(struct tr_block *t, uint32_t others)
{
    e3(t, 0x45, 0x89, 0xd9); /* mov %r11d, %r9d */
    op_imm(t, 4, H9, RT_LIVE);
    op_imm(t, 1, H9, 2);
    e2(t, 0x41, 0x51);             /* push %r9 */
    e4(t, 0x41, 0x0f, 0xba, 0xe3); /* bt $9, %r11d */
    e1(t, 9);
    e4(t, 0x64, 0x0f, 0x92, 0x04); /* setc %fs:vif */
    e1(t, 0x25);
    e32(t, STATE(vif));
    op_imm(t, 4, H11, others & ~(RT_LIVE | RT_IF));
    op_imm(t, 1, H11, 2);
    l_store(t, H11, STATE(rflags));
}

/* popfq; mov %r10, %rsp; the side's jump table into r11 and rt_cpu */
static void take_over(struct tr_block *t, unsigned side)
{
    e1(t, 0x9d);
    l_mov(t, RSP, H10);
    l_load(t, H11, SIDE(side, jump_table));
    l_store(t, H11, STATE(jump_table));
}

/* To the pc in r9 through the table in r11. */
static void go(struct tr_block *t)
{
    e_index(t, H9, H10);
    e4(t, 0x43, 0xff, 0x24, 0xd3); /* jmp *(%r11,%r10,8) */
}

static void to_slow_path(struct tr_block *t, const uint8_t *callout)
{
    l_const(t, H10, 0);
    e_jmp(t, callout);
}

/* In: r11 the next pc. */
void l_emit_syscall(struct tr_block *t, const struct tr_stubs *stubs)
{
    uint8_t *slow;

    l_mov(t, H9, RT_CX);
    l_load_byte(t, RT_CX, STATE(sides_ok));
    slow = jrcxz(t);
    e2(t, 0xeb, 0); /* jmp over the slow way */
    uint8_t *fast = t->p;
    here(t, slow);
    l_mov(t, RT_CX, H9);
    e4(t, 0x4d, 0x8d, 0x4b, 0xfe); /* lea -2(%r11), %r9: SYSCALL itself */
    to_slow_path(t, stubs->callout64);
    here(t, fast);
    l_mov(t, RT_CX, H11);
    l_mov(t, H10, RSP);
    l_load(t, RSP, STATE(host_sp));
    e1(t, 0x9c);       /* pushfq */
    e2(t, 0x41, 0x59); /* pop %r9 */
    op_imm(t, 4, H9, RT_LIVE);
    l_load_byte(t, H11, STATE(vif));
    e4(t, 0x41, 0xc1, 0xe3, 9); /* shl $9, %r11d */
    e3(t, 0x45, 0x09, 0xcb);    /* or %r9d, %r11d */
    e_state(t, 0x4c, 0x0b, H11, STATE(rflags));
    l_store(t, H11, GPR(11));
    e_state(t, 0x4c, 0x23, H11, STATE(flags_kept));
    split_flags(t, ~0u);
    change_side(t, 0);
    take_over(t, 0);
    l_load(t, H9, STATE(lstar));
    go(t);
}

/* In: r9 the address of SYSRET. */
void l_emit_sysret(struct tr_block *t, const struct tr_stubs *stubs)
{
    uint8_t *to_slow[2], *program, *usual, *pending;

    l_mov(t, H10, RT_CX);
    l_load_byte(t, RT_CX, STATE(sides_ok));
    to_slow[0] = jrcxz(t);
    l_const(t, H11, 47);
    e4(t, 0xc4, 0xc2, 0xa3, 0xf7); /* shrx %r11, %r10, %rcx */
    e1(t, 0xca);
    program = jrcxz(t);
    here(t, to_slow[0]);
    uint8_t *slow = t->p;
    l_mov(t, RT_CX, H10);
    to_slow_path(t, stubs->callout64);
    here(t, program);
    l_const(t, RT_CX, UNUSUAL);
    l_load(t, H11, GPR(11));
    e4(t, 0xc4, 0xe2, 0xa2, 0xf5); /* pext %rcx, %r11, %rcx */
    e1(t, 0xc9);
    usual = jrcxz(t);
    e2(t, 0xeb, (uint8_t)(slow - (t->p + 2)));
    here(t, usual);
    l_mov(t, RT_CX, H10);
    l_mov(t, H10, RSP);
    l_load(t, RSP, STATE(host_sp));
    split_flags(t, SYSRET & ~UNUSUAL);
    change_side(t, 1);
    l_load_byte(t, H9, STATE(vif));
    l_load_byte(t, H11, STATE(irq_pending));
    e3(t, 0x45, 0x85, 0xcb); /* test %r9d, %r11d */
    e2(t, 0x75, 0);
    pending = t->p;
    take_over(t, 1);
    l_mov(t, H9, RT_CX);
    go(t);
    here(t, pending);
    take_over(t, 1);
    l_mov(t, H9, RT_CX);
    to_slow_path(t, stubs->pending64);
}
