/* long_guess.c - 64-bit code: what class of memory an access is likely to reach.
 *
 * An access is made for one class (long_operand.c). A wrong guess costs a signal, a step in the
 * slow path and another translation, some 10 us, and the first run of a large program made more
 * than 40,000 of them. A block is translated when it is about to run, with the guest's registers at
 * hand: so its additions, copies and loads of pointers are followed with their values, as far as
 * the next branch is not taken, and the guess is what the address will be. Where a value is not
 * known a pointer is taken for one of the class of what it was loaded through.
 *
 * These are guesses: memory may have been written since the block began, and later runs have other
 * values. The check in front of the access decides.
 *
 * The first gcc -O2 of a fresh guest, boot included: 41,700 wrong guesses, 21,300 with values. */
#include "translator/long.h"

#define HALF_CLASS 2u /* the lowest class of the kernel's half */

/* What a value of which nothing is known is taken for: in programs what the code itself lies in, in
 * kernels the direct map. */
static unsigned usual_class(const struct tr_block *t)
{
    return t->rq->pc >> 63 && !(t->rq->key & TR_K_CPL3) ? HALF_CLASS : tr_class(t->rq->pc);
}

static bool may_be_pointer(uint64_t value)
{
    return value >= 65536 && tr_is_canonical(value);
}

void l_guess_begin(struct tr_block *t)
{
    t->values = (struct tr_values){.known = t->rq->gpr ? 0xffff : 0};
    for (unsigned n = 0; n < 16; n++) {
        uint64_t value = t->rq->gpr ? t->rq->gpr[n] : 0;
        t->values.of[n] = value;
        t->lng.class_of[n] = (uint8_t)(may_be_pointer(value) ? tr_class(value) : usual_class(t));
    }
}

/* ---- values ---- */

/* Register n, or 0 for none (-1). */
static bool value_of(const struct tr_block *t, int n, uint64_t *value)
{
    if (n < 0) {
        *value = 0;
        return true;
    }
    *value = t->values.of[n];
    return t->values.known >> n & 1;
}

static void set(struct tr_block *t, unsigned n, uint64_t value)
{
    t->values.of[n] = value;
    t->values.known |= (uint16_t)(1u << n);
}

/* What i's memory operand will be, in a flat segment. */
static bool address_of(const struct tr_block *t, unsigned i, uint64_t *address)
{
    const struct tr_insn *insn = &t->insn[i];
    uint64_t base = t->rq->pc + t->at[i] + insn->len, index;

    if (insn->vsib || insn->adsize != 64 || tr_is_far_segment(insn->seg) ||
        (insn->base != 16 && !value_of(t, insn->base, &base)) || !value_of(t, insn->index, &index))
        return false;
    *address = base + index * insn->scale + (uint64_t)insn->disp;
    return true;
}

/* Whether an instruction behind i addresses memory by register n as i has left it. */
static bool is_address(const struct tr_block *t, unsigned i, unsigned n)
{
    while (++i < t->ninsns) {
        const struct tr_insn *insn = &t->insn[i];
        if (insn->has_mem && (insn->base == (int)n || insn->index == (int)n))
            return true;
        if (insn->regs_written >> n & 1)
            return false;
    }
    return false;
}

/* i loads register n from address. */
static bool load(const struct tr_block *t, unsigned i, unsigned n, uint64_t address,
                 uint64_t *value)
{
    return t->rq->peek && is_address(t, i, n) && t->rq->peek(t->rq->owner, address, value);
}

/* ADD, SUB or AND of a constant. */
static bool sum_of(const struct tr_insn *insn, uint64_t *value)
{
    uint64_t imm = (uint64_t)insn->imm;

    switch (insn->reg & 7) {
    case 0:
        *value += imm;
        return true;
    case 4:
        *value &= imm;
        return true;
    case 5:
        *value -= imm;
        return true;
    default:
        return false;
    }
}

/* The register that i writes and its value, where pointers are made so. */
static bool result_of(const struct tr_block *t, unsigned i, unsigned *to, uint64_t *value)
{
    const struct tr_insn *insn = &t->insn[i];
    uint64_t address = 0;

    if (insn->encoding != TR_ENC_LEGACY || insn->map != 0 || insn->opsize < 32)
        return false;
    *to = (insn->opcode & 7u) | (insn->rex & 1u) << 3;
    *value = insn->opsize == 64 ? (uint64_t)insn->imm : (uint32_t)insn->imm;
    if ((insn->opcode & 0xf8) == 0xb8)
        return true;
    if ((insn->opcode & 0xf8) == 0x58)
        return value_of(t, RSP, &address) && load(t, i, *to, address, value);
    if (!insn->has_modrm || insn->opsize != 64)
        return false;
    *to =
        insn->opcode == 0x03 || insn->opcode == 0x8b || insn->opcode == 0x8d ? insn->reg : insn->rm;
    if (insn->mod != 3) {
        bool known = *to == insn->reg && insn->opcode != 0x03 && address_of(t, i, &address);
        *value = address;
        return known && (insn->opcode == 0x8d || load(t, i, *to, address, value));
    }
    switch (insn->opcode) {
    case 0x01:
    case 0x03:
        *value = t->values.of[insn->reg] + t->values.of[insn->rm];
        return (t->values.known >> insn->reg & t->values.known >> insn->rm) & 1;
    case 0x81:
    case 0x83:
        return value_of(t, insn->rm, value) && sum_of(insn, value);
    case 0x89:
        return value_of(t, insn->reg, value);
    case 0x8b:
        return value_of(t, insn->rm, value);
    default:
        return false;
    }
}

/* By how much the stack pointer moves, if i only pushes or pops. */
static int stack_step(const struct tr_insn *insn)
{
    if (insn->encoding != TR_ENC_LEGACY || insn->map != 0 || insn->prefix66)
        return 0;
    if ((insn->opcode & 0xf8) == 0x50 || insn->opcode == 0x68 || insn->opcode == 0x6a)
        return -8;
    return (insn->opcode & 0xf8) == 0x58 ? 8 : 0;
}

/* A pointer that is loaded, as long as its value is not known. */
static void guess_loaded(struct tr_block *t, const struct tr_insn *insn)
{
    bool by_base = insn->base >= 0 && insn->base != 16 && !tr_is_far_segment(insn->seg);
    unsigned class =
        by_base && insn->base != (int)RSP ? t->lng.class_of[insn->base] : usual_class(t);

    if (insn->encoding == TR_ENC_LEGACY && insn->map == 0 && insn->opcode == 0x8b && insn->has_mem)
        t->lng.class_of[insn->reg] = (uint8_t) class;
}

void l_guess_after(struct tr_block *t, unsigned i)
{
    const struct tr_insn *insn = &t->insn[i];
    uint64_t value, rsp = 0;
    unsigned to;
    bool has = result_of(t, i, &to, &value);
    bool moves = stack_step(insn) && value_of(t, RSP, &rsp);

    guess_loaded(t, insn);
    t->values.known &= (uint16_t)~insn->regs_written;
    if (moves)
        set(t, RSP, rsp + (uint64_t)(int64_t)stack_step(insn));
    if (!has)
        return;
    set(t, to, value);
    if (may_be_pointer(value) && !(t->lng.checked >> to & 1))
        t->lng.class_of[to] = (uint8_t)tr_class(value);
}

unsigned l_sum_class(const struct tr_block *t, unsigned i)
{
    const struct tr_insn *insn = &t->insn[i];
    uint64_t address;

    if (address_of(t, i, &address) && may_be_pointer(address))
        return tr_class(address);
    if (insn->base < 0 || insn->base == 16 || insn->disp >= 1 << 28 || insn->disp <= -(1 << 28))
        return tr_class((uint64_t)insn->disp);
    return t->lng.class_of[insn->base];
}
