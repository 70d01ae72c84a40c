/* long_loop.c - 64-bit code: checks of addresses in front of a loop instead of in it.
 *
 * A block that branches back to its own start is a loop. A pointer that only constants are added to
 * there, and through which every turn accesses memory, cannot leave the windows of its class
 * unnoticed: they have guards of 4 GiB, which no turn steps over. So it is checked once, in front;
 * branches back lead behind that (cc_block.front), with the class's delta still in r11.
 *
 *     direct:  checks, delta into r11        entered from elsewhere
 *     loop:    the instructions, without     entered by the block's own branches
 *
 * Base registers alone and sums of base and index are hoisted; sums are still added up in the loop.
 * A check in front that fails says nothing about the guest, which might not have come to the
 * access: the slow path goes on, and a loop where that happens again and again is translated
 * without (cc_front_failed()).
 *
 * In turns with native on a busy machine: matmul_sse 3.3 -> 1.15, sse2_integer 1.57 -> 0.97, the
 * means of fp 1.34 -> 1.14 and simd 1.22 -> 0.99. */
#include "translator/long.h"

static bool leads_back(const struct tr_block *t, unsigned i)
{
    const struct tr_insn *insn = &t->insn[i];

    return insn->cls == TR_BRANCH && insn->op != TR_OP_jmp_ind && insn->op != TR_OP_call_ind &&
           insn->op != TR_OP_ret && t->at[i] + insn->len + insn->imm == 0;
}

/* LOOP, JRCXZ and CALL are not. */
static bool is_usual(const struct tr_insn *insn)
{
    return insn->op == TR_OP_jcc || insn->op == TR_OP_jmp_rel;
}

/* Accesses that a mask may keep from happening, hints, and bits at an address of their own. */
static bool may_not_access(const struct tr_insn *insn)
{
    switch (insn->encoding) {
    case TR_ENC_EVEX:
        return insn->evex_aaa != 0;
    case TR_ENC_VEX: /* VMASKMOVPS, VMASKMOVPD, VPMASKMOV */
        return insn->map == 2 && ((insn->opcode & 0xfc) == 0x2c || (insn->opcode & 0xfd) == 0x8c);
    default: /* PREFETCHW, PREFETCH and NOP, CLFLUSH */
        return l_is_far_bit(insn) ||
               (insn->map == 1 &&
                (insn->opcode == 0x0d || insn->opcode == 0xae || (insn->opcode & 0xf8) == 0x18));
    }
}

bool l_always_accesses(const struct tr_insn *insn)
{
    return insn->op == TR_OP_copy && insn->has_mem && !insn->agen_only && !insn->vsib &&
           insn->mem_size && (insn->mem_read || insn->mem_write) && !may_not_access(insn);
}

/* Registers to which more happens than that a small constant is added. */
static uint16_t unsteady(const struct tr_block *t)
{
    uint16_t registers = 1u << RSP;

    for (unsigned i = 0; i < t->lng.loop.end; i++) {
        if (!l_keeps_near(&t->insn[i]))
            registers |= t->insn[i].regs_written;
    }
    return registers;
}

/* Whether no access by i's base alone is made for another class. */
static bool is_only_class(const struct tr_block *t, unsigned i, unsigned class)
{
    for (unsigned j = 0; j < t->lng.loop.end; j++) {
        if (t->insn[j].has_mem && t->insn[j].base == t->insn[i].base && t->insn[j].index < 0 &&
            l_class_for(t, j, class) != class)
            return false;
    }
    return true;
}

static void hoist(struct tr_block *t, unsigned i, uint16_t unsteady)
{
    const struct tr_insn *insn = &t->insn[i];
    struct tr_loop *loop = &t->lng.loop;

    if (!l_always_accesses(insn) || !l_near(insn) || tr_is_far_segment(insn->seg) ||
        (unsteady >> insn->base & 1) || (insn->index >= 0 && (unsteady >> insn->index & 1)))
        return;
    unsigned class = l_class_for(t, i, t->lng.class_of[insn->base]);
    if (class == L_MIXED || l_loop_has(t, i, class) || loop->nsums == TR_MAX_SUMS ||
        !is_only_class(t, i, class))
        return;
    loop->sum[loop->nsums++] = (struct tr_sum){.base = insn->base,
                                               .index = insn->index,
                                               .scale = insn->index < 0 ? 1 : insn->scale,
                                               .class = (uint8_t) class};
}

bool l_loop_has(const struct tr_block *t, unsigned i, unsigned class)
{
    const struct tr_insn *insn = &t->insn[i];
    const struct tr_loop *loop = &t->lng.loop;

    for (unsigned n = 0; n < loop->nsums && i < loop->end; n++) {
        const struct tr_sum *sum = &loop->sum[n];
        if (sum->base == insn->base && sum->index == insn->index && sum->class == class &&
            (insn->index < 0 || sum->scale == insn->scale))
            return true;
    }
    return false;
}

static void check_in_front(struct tr_block *t, const struct tr_sum *sum)
{
    unsigned reg = (unsigned)l_address_register(t, sum->base, H10);

    if (sum->index >= 0) {
        int index = l_address_register(t, sum->index, H11);
        l_lea_scaled(t, H10, (int)reg, index, sum->scale, 0, true);
        reg = H10;
    } else {
        t->lng.class_of[sum->base] = sum->class;
        t->lng.checked |= (uint16_t)(1u << sum->base);
    }
    l_check(t, reg, sum->class);
}

bool l_loop_begin(struct tr_block *t)
{
    struct tr_loop *loop = &t->lng.loop;
    unsigned first = 0;
    bool usual = true;

    for (unsigned i = t->ninsns; i-- > 0;) {
        if (!leads_back(t, i))
            continue;
        first = i;
        usual = usual && is_usual(&t->insn[i]);
        if (!loop->end)
            loop->end = i + 1;
    }
    if (!loop->end || !usual || !cc_front_suits(t->rq->cc, t->rq->gpa))
        return false;
    uint16_t moving = unsteady(t);
    for (unsigned i = 0; i < first; i++)
        hoist(t, i, moving);
    if (loop->nsums)
        l_class_delta(t, loop->sum[0].class); /* first, as in every front (long_front.c) */
    for (unsigned n = 0; n < loop->nsums; n++)
        check_in_front(t, &loop->sum[n]);
    if (loop->nsums)
        l_class_delta(t, loop->sum[0].class);
    return loop->nsums;
}

bool l_loop_back(struct tr_block *t, unsigned i)
{
    const struct tr_loop *loop = &t->lng.loop;

    if (!loop->nsums || !leads_back(t, i))
        return true;
    for (unsigned n = 0; n < loop->nsums; n++) {
        const struct tr_sum *sum = &loop->sum[n];
        if (sum->index < 0 &&
            (!(t->lng.checked >> sum->base & 1) || t->lng.class_of[sum->base] != sum->class))
            return false;
    }
    l_class_delta(t, loop->sum[0].class);
    return true;
}
