/* stack.c - PUSH, POP and LEAVE on a flat 32-bit stack: a move and a LEA.
 *
 * The host's rsp is the guest's esp, but the host's PUSH would store 8 bytes at a host address. The
 * store comes first, so a fault finds esp as it was. */
#include "translator/emit.h"

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
    e_lea_esp(t, -(int)size);
    return true;
}

bool tr_pop(struct tr_block *t, unsigned i)
{
    const struct tr_insn *insn = &t->insn[i];
    unsigned size = size_of(insn);

    if (!stack_is_flat(t) || insn->has_mem)
        return false; /* POP m: the address uses the esp after the pop, and two faults may come */
    unsigned reg = insn->has_modrm ? insn->rm : insn->opcode & 7u;
    if (reg == RT_SP && size == 2)
        return false;
    e_stack(t, 0x8b, reg, 0, size);
    if (reg != RT_SP)
        e_lea_esp(t, (int)size);
    return true;
}

/* mov (%rbp,%r15), %r8d; lea 4(%rbp), %esp; mov %r8d, %ebp */
bool tr_leave(struct tr_block *t, unsigned i)
{
    if (!stack_is_flat(t) || t->insn[i].prefix66)
        return false;
    e4(t, 0x46, 0x8b, 0x44, 0x3d);
    e1(t, 0x00);
    e3(t, 0x8d, 0x65, 0x04);
    e3(t, 0x44, 0x89, 0xc5);
    return true;
}
