/* string.c - string instructions run natively, repeated or not, on host addresses.
 *
 * In 64-bit code ES:rDI has no base that could be used, so the window's base (r15) is added first
 * and cut off afterwards; no flags change. A window is aligned to 4 GiB, so at any fault in the
 * middle the low halves of rsi and rdi are the guest's (recipe STRING), and a run that leaves the
 * window meets a guard and ends in the slow path, which wraps as the guest's address does. */
#include "translator/emit.h"

#define USES_SI 1u
#define USES_DI 2u

static unsigned registers_of(const struct tr_insn *insn)
{
    switch (insn->op) {
    case TR_OP_movs:
    case TR_OP_cmps:
        return USES_SI | USES_DI;
    case TR_OP_lods:
        return USES_SI;
    default:
        return USES_DI;
    }
}

bool tr_string(struct tr_block *t, unsigned i)
{
    const struct tr_insn *insn = &t->insn[i];
    unsigned uses = registers_of(insn);

    if (insn->adsize != 32 || insn->lock)
        return false;
    if ((uses & USES_DI) && !(t->rq->key & TR_K_ES))
        return false;
    if ((uses & USES_SI) && !(insn->seg == TR_DS   ? t->rq->key & TR_K_DS
                              : insn->seg == TR_ES ? t->rq->key & TR_K_ES
                              : insn->seg == TR_SS ? t->rq->key & TR_K_SS
                                                   : 0))
        return false;
    tr_map(t, i, CC_R_STRING);
    if (uses & USES_SI)
        e4(t, 0x49, 0x8d, 0x34, 0x37); /* lea (%r15,%rsi), %rsi */
    if (uses & USES_DI)
        e4(t, 0x49, 0x8d, 0x3c, 0x3f); /* lea (%r15,%rdi), %rdi */
    if (insn->prefix66)
        e1(t, 0x66);
    if (insn->prefix_rep)
        e1(t, insn->prefix_rep);
    e1(t, insn->opcode);
    if (uses & USES_SI)
        e2(t, 0x89, 0xf6); /* mov %esi, %esi */
    if (uses & USES_DI)
        e2(t, 0x89, 0xff);
    return true;
}
