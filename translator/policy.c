/* policy.c - policy.def as an array, and the forms that one mnemonic has several of.
 *
 * Constant data: any thread, any context. */
#include "translator/policy.h"

#include <Zydis/Zydis.h>

static const struct tr_policy table[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
#define P(mnemonic, cls, op, feature, why, manual) \
    [ZYDIS_MNEMONIC_##mnemonic] = {TR_##cls, TR_PF_##feature, TR_OP_##op},
#include "translator/policy.def"
#undef P
};

static const struct tr_policy refused = {TR_REFUSED, TR_PF_NONE, TR_OP_refused};

const struct tr_policy *tr_policy_get(uint16_t mnemonic)
{
    const struct tr_policy *row =
        mnemonic <= ZYDIS_MNEMONIC_MAX_VALUE ? &table[mnemonic] : &refused;
    return row->cls == TR_REFUSED ? &refused : row;
}

/* One row a form: mnemonic, opcode map (0 or 1), opcode & mask, ModRM.reg (or -1). */
struct form {
    uint16_t mnemonic;
    uint8_t map, opcode, mask;
    int8_t reg;
    uint8_t cls;
    uint16_t op;
    uint8_t feature; /* enum tr_feature, where it is not the row's */
};

static const struct form forms[] = {
    {ZYDIS_MNEMONIC_MOV, 0, 0x8c, 0xff, -1, TR_INCACHE, TR_OP_mov_from_sreg, TR_F_NONE},
    {ZYDIS_MNEMONIC_MOV, 0, 0x8e, 0xff, -1, TR_INCACHE, TR_OP_mov_to_sreg, TR_F_NONE},
    {ZYDIS_MNEMONIC_MOV, 1, 0x20, 0xff, -1, TR_CALLOUT, TR_OP_mov_from_cr, TR_F_NONE},
    {ZYDIS_MNEMONIC_MOV, 1, 0x21, 0xff, -1, TR_CALLOUT, TR_OP_mov_from_dr, TR_F_NONE},
    {ZYDIS_MNEMONIC_MOV, 1, 0x22, 0xff, -1, TR_CALLOUT, TR_OP_mov_to_cr, TR_F_NONE},
    {ZYDIS_MNEMONIC_MOV, 1, 0x23, 0xff, -1, TR_CALLOUT, TR_OP_mov_to_dr, TR_F_NONE},
    {ZYDIS_MNEMONIC_PUSH, 0, 0x06, 0xe7, -1, TR_INCACHE, TR_OP_push_sreg, TR_F_NONE},
    {ZYDIS_MNEMONIC_PUSH, 1, 0xa0, 0xf7, -1, TR_INCACHE, TR_OP_push_sreg, TR_F_NONE},
    {ZYDIS_MNEMONIC_POP, 0, 0x07, 0xe7, -1, TR_INCACHE, TR_OP_pop_sreg, TR_F_NONE},
    {ZYDIS_MNEMONIC_POP, 1, 0xa1, 0xf7, -1, TR_INCACHE, TR_OP_pop_sreg, TR_F_NONE},
    {ZYDIS_MNEMONIC_JMP, 0, 0xea, 0xff, -1, TR_CALLOUT, TR_OP_far_jmp, TR_F_NONE},
    {ZYDIS_MNEMONIC_JMP, 0, 0xff, 0xff, 5, TR_CALLOUT, TR_OP_far_jmp, TR_F_NONE},
    {ZYDIS_MNEMONIC_JMP, 0, 0xff, 0xff, 4, TR_BRANCH, TR_OP_jmp_ind, TR_F_NONE},
    {ZYDIS_MNEMONIC_CALL, 0, 0x9a, 0xff, -1, TR_CALLOUT, TR_OP_far_call, TR_F_NONE},
    {ZYDIS_MNEMONIC_CALL, 0, 0xff, 0xff, 3, TR_CALLOUT, TR_OP_far_call, TR_F_NONE},
    {ZYDIS_MNEMONIC_CALL, 0, 0xff, 0xff, 2, TR_BRANCH, TR_OP_call_ind, TR_F_NONE},
    {ZYDIS_MNEMONIC_RET, 0, 0xca, 0xfe, -1, TR_CALLOUT, TR_OP_far_ret, TR_F_NONE},
    /* The vector instructions that share a name with a string instruction. */
    {ZYDIS_MNEMONIC_MOVSD, 1, 0x10, 0xfe, -1, TR_COPY, TR_OP_copy, TR_F_SSE},
    {ZYDIS_MNEMONIC_CMPSD, 1, 0xc2, 0xff, -1, TR_COPY, TR_OP_copy, TR_F_SSE},
};

void tr_policy_refine(struct tr_insn *insn)
{
    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        const struct form *f = &forms[i];
        if (f->mnemonic != insn->mnemonic || f->map != insn->map ||
            (insn->opcode & f->mask) != f->opcode || (f->reg >= 0 && f->reg != (insn->reg & 7)))
            continue;
        insn->cls = f->cls;
        insn->op = f->op;
        if (f->feature != TR_F_NONE)
            insn->feature = f->feature;
        return;
    }
}
