/* branch.c - how a block is left.
 *
 * Direct, same page    jmp rel32, patched to the target block when it exists (a link).
 * All others           jmp *(%r14,%r8,8), r8d being the pc: through the jump table, which belongs
 * to the address space and has an entry for every pc (codecache/flat.c).
 *
 * Calls push the guest's return address; the host's return stack is not used: the indirect
 * predictor does as well (measured, docs/design.md section 4). */
#include "translator/emit.h"

static bool same_page(const struct tr_block *t, uint64_t pc)
{
    return !((pc ^ t->rq->pc) >> 12) && !t->crossing;
}

/* To the pc in r8d: jmp *(%r14,%r8,8) */
static const uint8_t table_jump[] = {0x43, 0xff, 0x24, 0xc6};

void tr_table_jump(struct tr_block *t)
{
    e4(t, table_jump[0], table_jump[1], table_jump[2], table_jump[3]);
}

bool tr_is_table_jump(const uint8_t *hpc)
{
    return __builtin_memcmp(hpc, table_jump, sizeof(table_jump)) == 0;
}

void tr_goto(struct tr_block *t, uint64_t pc, bool may_link)
{
    if (!may_link || !same_page(t, pc)) {
        e_mov_r8d(t, (uint32_t)pc);
        tr_table_jump(t);
        return;
    }
    e1(t, 0xe9);
    e32(t, 0);
    tr_site_add(t, t->p - 4, pc, false);
}

static uint64_t target_of(const struct tr_block *t, unsigned i)
{
    return (uint32_t)(tr_next_of(t, i) + (uint64_t)t->insn[i].imm);
}

bool tr_jcc(struct tr_block *t, unsigned i)
{
    uint64_t pc = target_of(t, i);

    if (t->insn[i].opsize != 32 && t->insn[i].prefix66)
        return false;
    e2(t, 0x0f, 0x80 | (t->insn[i].opcode & 0x0f));
    e32(t, 0);
    if (same_page(t, pc))
        tr_site_add(t, t->p - 4, pc, false);
    else
        tr_tail_add(t, TR_TAIL_TABLE, t->p - 4, pc, i);
    return true;
}

bool tr_jmp_rel(struct tr_block *t, unsigned i)
{
    if (t->insn[i].prefix66)
        return false;
    tr_goto(t, target_of(t, i), true);
    return true;
}

bool tr_jmp_ind(struct tr_block *t, unsigned i)
{
    if (!tr_load_operand(t, i, 8))
        return false;
    tr_table_jump(t);
    return true;
}

/* movl $next, %gs:-4(%rsp); lea -4(%rsp), %esp */
static void emit_push_return(struct tr_block *t, uint64_t next)
{
    e_stack(t, 0xc7, 0, -4, 4);
    e32(t, (uint32_t)next);
    tr_stack_move(t, -4);
}

bool tr_call_rel(struct tr_block *t, unsigned i)
{
    if (t->insn[i].prefix66 || !(t->rq->key & TR_K_SS))
        return false;
    emit_push_return(t, tr_next_of(t, i));
    tr_goto(t, target_of(t, i), true);
    return true;
}

bool tr_call_ind(struct tr_block *t, unsigned i)
{
    if (!(t->rq->key & TR_K_SS) || !tr_load_operand(t, i, 8))
        return false;
    emit_push_return(t, tr_next_of(t, i));
    tr_table_jump(t);
    return true;
}

bool tr_ret(struct tr_block *t, unsigned i)
{
    if (t->insn[i].prefix66 || !(t->rq->key & TR_K_SS))
        return false;
    e_stack(t, 0x8b, 8, 0, 4);
    tr_stack_move(t, 4 + (t->insn[i].imm_size ? (int)(uint16_t)t->insn[i].imm : 0));
    tr_table_jump(t);
    return true;
}

/* LOOP, LOOPE, LOOPNE, JECXZ: the same instruction over a jump to the target. */
bool tr_loop(struct tr_block *t, unsigned i)
{
    const struct tr_insn *insn = &t->insn[i];
    uint8_t *field;

    if (insn->adsize != 32 || insn->prefix66)
        return false;
    e3(t, 0x67, insn->opcode, 2);
    e2(t, 0xeb, 0);
    field = t->p;
    tr_goto(t, target_of(t, i), true);
    field[-1] = (uint8_t)(t->p - field);
    return true;
}
