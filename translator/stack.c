/* stack.c - PUSH, POP and LEAVE on a flat 32-bit stack: a move and a LEA.
 *
 * The host's rsp is the guest's esp, but the host's PUSH would store 8 bytes at a host address. The
 * store comes first, so a fault finds esp as it was.
 *
 * esp moves once for neighbouring pushes and pops, with CALL and RET at their end:
 *
 *     push %ebp; push %edi; call f  ->  mov %ebp, %gs:-4(%rsp); mov %edi, %gs:-8(%rsp)
 *                                       movl $next, %gs:-12(%rsp); lea -12(%rsp), %esp; jmp f
 *
 * Until then it is behind by t->behind words, which the pc map's rows say (CC_R_STACK).
 * Instructions that have nothing to do with esp may stand in between. The host has an engine for
 * the guest's own form, in which pushes do not wait for each other; the moves would be a chain of
 * additions. */
#include "translator/emit.h"

#define MOST_BEHIND (CC_R_STACK_MAX - CC_R_STACK)

void tr_stack_move(struct tr_block *t, int bytes)
{
    bytes += 4 * t->behind;
    t->behind = 0;
    if (bytes)
        e_lea_esp(t, bytes);
}

/* It may name esp. */
static bool names_stack(const struct tr_insn *insn)
{
    if (!insn->has_modrm)
        return (insn->opcode & 7) == RT_SP;
    return insn->reg == RT_SP || (insn->mod == 3 && insn->rm == RT_SP) || insn->base == RT_SP ||
           insn->index == RT_SP || (insn->encoding == TR_ENC_VEX && insn->feature == TR_F_NONE);
}

/* How many words an instruction moves esp by that may find and leave it behind. */
static bool may_be_behind(const struct tr_insn *insn, int *words)
{
    *words = 0;
    switch (insn->op) {
    case TR_OP_push:
        *words = -1;
        return !insn->prefix66 && !names_stack(insn);
    case TR_OP_push_sreg:
        *words = -1;
        return insn->opsize == 32;
    case TR_OP_pop:
        *words = 1;
        return !insn->prefix66 && !names_stack(insn);
    case TR_OP_copy:
    case TR_OP_call_ind:
        return insn->cls != TR_CALLOUT && !names_stack(insn);
    case TR_OP_call_rel:
    case TR_OP_ret:
    case TR_OP_nop:
        return true;
    default:
        return false;
    }
}

void tr_stack_before(struct tr_block *t, const struct tr_insn *insn)
{
    int words;

    if (!may_be_behind(insn, &words) || t->behind + words > MOST_BEHIND ||
        t->behind + words < -MOST_BEHIND)
        tr_stack_move(t, 0);
}

static void moved(struct tr_block *t, int bytes)
{
    if (bytes % 4)
        tr_stack_move(t, bytes);
    else
        t->behind += bytes / 4;
}

static bool stack_is_flat(const struct tr_block *t)
{
    return t->rq->key & TR_K_SS;
}

static unsigned size_of(const struct tr_insn *insn)
{
    return insn->prefix66 ? 2 : 4;
}

bool tr_push(struct tr_block *t, unsigned i)
{
    const struct tr_insn *insn = &t->insn[i];
    unsigned size = size_of(insn);

    if (!stack_is_flat(t))
        return false;
    if (insn->map == 0 && (insn->opcode & 0xf8) == 0x50) {
        e_stack(t, 0x89, insn->opcode & 7, -(int)size, size);
    } else if (insn->opcode == 0x68 || insn->opcode == 0x6a) {
        e_stack(t, 0xc7, 0, -(int)size, size);
        if (size == 2)
            e2(t, (uint8_t)insn->imm, (uint8_t)(insn->imm >> 8));
        else
            e32(t, (uint32_t)insn->imm);
    } else {
        if (size == 2 || !tr_load_operand(t, i, 8))
            return false;
        e_stack(t, 0x89, 8, -4, 4);
    }
    moved(t, -(int)size);
    return true;
}

/* movzwl %fs:selector, %reg */
static void emit_selector(struct tr_block *t, unsigned seg, unsigned reg)
{
    e1(t, 0x64);
    if (reg >= 8)
        e1(t, 0x44);
    e4(t, 0x0f, 0xb7, 0x04 | (reg & 7) << 3, 0x25);
    e32(t, STATE(selector) + 2 * seg);
}

/* Current CPUs write the 16 bits of the selector alone (SDM 2 PUSH). */
bool tr_push_sreg(struct tr_block *t, unsigned i)
{
    if (!stack_is_flat(t) || t->insn[i].opsize != 32)
        return false;
    emit_selector(t, t->insn[i].opcode >> 3 & 7, 8);
    e_stack(t, 0x89, 8, -4, 2);
    moved(t, -4);
    return true;
}

bool tr_mov_from_sreg(struct tr_block *t, unsigned i)
{
    const struct tr_insn *insn = &t->insn[i];

    if (insn->mod != 3 || insn->opsize != 32 || insn->reg > TR_GS)
        return false;
    emit_selector(t, insn->reg, insn->rm);
    return true;
}

/* POP m: both may fault, and nothing has changed before. The address uses the esp after the pop. */
static bool pop_memory(struct tr_block *t, unsigned i)
{
    if (size_of(&t->insn[i]) != 4 || !tr_pop_operand(t, i))
        return false;
    moved(t, 4);
    return true;
}

bool tr_pop(struct tr_block *t, unsigned i)
{
    const struct tr_insn *insn = &t->insn[i];
    unsigned size = size_of(insn);

    if (!stack_is_flat(t))
        return false;
    if (insn->has_mem)
        return pop_memory(t, i);
    unsigned reg = insn->has_modrm ? insn->rm : insn->opcode & 7u;
    if (reg == RT_SP && size == 2)
        return false;
    e_stack(t, 0x8b, reg, 0, size);
    if (reg != RT_SP)
        moved(t, (int)size);
    return true;
}

/* mov %gs:(%rbp), %r8d; mov %ebp, %esp; mov %r8d, %ebp; and a word popped */
bool tr_leave(struct tr_block *t, unsigned i)
{
    if (!stack_is_flat(t) || t->insn[i].prefix66)
        return false;
    e1(t, 0x65);
    e4(t, 0x44, 0x8b, 0x45, 0x00);
    e2(t, 0x89, 0xec);
    e3(t, 0x44, 0x89, 0xc5);
    moved(t, 4);
    return true;
}
