/* long_copy.c - 64-bit code: innocuous instructions, with other registers where need be.
 *
 * An instruction is emitted from its fields: what the decoder found, but for the memory operand,
 * which long_operand.c has put somewhere, and registers that are not in their host register (rsp,
 * r9 to r11), which are swapped for free ones, loaded in front and stored behind. Instructions that
 * this does not do have their own way: LEA, additions to rsp, bit tests that reach far, the high
 * byte registers. What none of them does is a callout. */
#include "translator/long.h"

/* ---- fields ---- */

/* Register numbers of an instruction's fields, as they are emitted. */
struct fields {
    unsigned reg, rm, vvvv, opreg;
    const struct l_operand *mem;
};

/* Immediates, and the opcode byte of 3DNow-like forms: what follows the memory operand. */
static void emit_rest(struct tr_block *t, const struct tr_insn *insn)
{
    unsigned at = insn->has_modrm ? insn->modrm_at + 1u : insn->imm_at ? insn->imm_at : insn->len;

    if (insn->has_modrm && insn->mod != 3) {
        at += (insn->bytes[insn->modrm_at] & 7) == 4;
        at += insn->disp_size;
    }
    for (; at < insn->len; at++)
        e1(t, insn->bytes[at]);
}

static void emit_modrm(struct tr_block *t, const struct tr_insn *insn, const struct fields *f,
                       bool evex)
{
    if (f->mem)
        l_emit_operand(t, f->reg, f->mem, evex);
    else
        e1(t, 0xc0 | (f->reg & 7) << 3 | (f->rm & 7));
    emit_rest(t, insn);
}

static void emit_legacy(struct tr_block *t, const struct tr_insn *insn, const struct fields *f)
{
    unsigned rex = (insn->rex & 8u);

    if (insn->lock)
        e1(t, 0xf0);
    if (insn->prefix66)
        e1(t, 0x66);
    if (insn->prefix_rep)
        e1(t, insn->prefix_rep);
    if (f->mem)
        rex |= l_operand_rex(f->reg, f->mem);
    else if (insn->has_modrm)
        rex |= (f->reg >= 8 ? 4u : 0) | (f->rm >= 8 ? 1u : 0);
    else
        rex |= f->opreg >= 8 ? 1u : 0;
    if (rex || insn->rex)
        e1(t, 0x40 | rex);
    if (insn->map >= 1)
        e1(t, 0x0f);
    if (insn->map == 2)
        e1(t, 0x38);
    if (insn->map == 3)
        e1(t, 0x3a);
    if (!insn->has_modrm && (insn->gpr_fields & TR_FIELD_OPCODE))
        e1(t, (insn->opcode & 0xf8u) | (f->opreg & 7));
    else
        e1(t, insn->opcode);
    if (insn->has_modrm)
        emit_modrm(t, insn, f, false);
    else
        emit_rest(t, insn);
}

static unsigned inverted(unsigned rex)
{
    return (~rex & 7u) << 5;
}

static void emit_vex(struct tr_block *t, const struct tr_insn *insn, const struct fields *f)
{
    const uint8_t *v = insn->bytes + insn->opcode_at;
    bool two = v[0] == 0xc5;
    unsigned map = two ? 1u : v[1] & 0x1fu;
    unsigned b2 = two ? v[1] & 0x7fu : v[2];
    unsigned rex =
        f->mem ? l_operand_rex(f->reg, f->mem) : (f->reg >= 8 ? 4u : 0) | (f->rm >= 8 ? 1u : 0);

    e4(t, 0xc4, inverted(rex) | map, (b2 & 0x87u) | (~f->vvvv & 15u) << 3, insn->opcode);
    if (insn->has_modrm)
        emit_modrm(t, insn, f, false);
}

/* R', V' and, for registers, X extend vector register numbers: they stay as they are. */
static void emit_evex(struct tr_block *t, const struct tr_insn *insn, const struct fields *f)
{
    const uint8_t *v = insn->bytes + insn->opcode_at;
    unsigned p0 = v[1], p1 = (v[2] & 0x87u) | (~f->vvvv & 15u) << 3;

    if (f->mem)
        p0 = (p0 & 0x1fu) | inverted(l_operand_rex(f->reg, f->mem));
    else
        p0 = (p0 & 0x5fu) | (f->reg >= 8 ? 0u : 0x80u) | (f->rm >= 8 ? 0u : 0x20u);
    e4(t, 0x62, p0, p1, v[3]);
    e1(t, insn->opcode);
    emit_modrm(t, insn, f, true);
}

static void emit_fields(struct tr_block *t, const struct tr_insn *insn, const struct fields *f)
{
    if (insn->encoding == TR_ENC_VEX)
        emit_vex(t, insn, f);
    else if (insn->encoding == TR_ENC_EVEX)
        emit_evex(t, insn, f);
    else
        emit_legacy(t, insn, f);
}

/* Field values as decoded. VEX and EVEX numbers come from the bytes: Zydis's raw bits. */
static struct fields fields_of(const struct tr_insn *insn)
{
    const uint8_t *v = insn->bytes + insn->opcode_at;
    struct fields f = {.reg = insn->reg, .rm = insn->rm};

    if (insn->encoding == TR_ENC_LEGACY) {
        f.opreg = (insn->opcode & 7u) | (insn->rex & 1u) << 3;
        return f;
    }
    unsigned modrm = insn->has_modrm ? insn->bytes[insn->modrm_at] : 0;
    bool two = v[0] == 0xc5;
    unsigned bits = two ? v[1] | 0x60u : v[1];
    f.reg = (modrm >> 3 & 7) | (bits & 0x80 ? 0u : 8u);
    f.rm = (modrm & 7) | (bits & 0x20 ? 0u : 8u);
    f.vvvv = ~(unsigned)(two ? v[1] : v[2]) >> 3 & 15;
    return f;
}

/* Guest registers of an instruction that are not in their host register. */
struct swap {
    unsigned guest[2], host[2];
    unsigned n;
    unsigned taken; /* bit n: host register n is in use */
};

static bool swap_register(struct swap *s, unsigned *field)
{
    if (!SPILLED(*field) && *field != RSP)
        return true;
    for (unsigned i = 0; i < s->n; i++) {
        if (s->guest[i] == *field) {
            *field = s->host[i];
            return true;
        }
    }
    for (unsigned h = H9; h <= H11 && s->n < 2; h++) {
        if (s->taken >> h & 1)
            continue;
        s->taken |= 1u << h;
        s->guest[s->n] = *field;
        s->host[s->n++] = h;
        *field = h;
        return true;
    }
    return false;
}

static bool swap_fields(struct swap *s, const struct tr_insn *insn, struct fields *f)
{
    bool ok = true;

    if (insn->gpr_fields & TR_FIELD_REG)
        ok = ok && swap_register(s, &f->reg);
    if (insn->gpr_fields & TR_FIELD_RM)
        ok = ok && swap_register(s, &f->rm);
    if (insn->gpr_fields & TR_FIELD_VVVV)
        ok = ok && swap_register(s, &f->vvvv);
    if (insn->gpr_fields & TR_FIELD_OPCODE)
        ok = ok && swap_register(s, &f->opreg);
    return ok;
}

static bool names_rsp(const struct swap *s)
{
    for (unsigned i = 0; i < s->n; i++) {
        if (s->guest[i] == RSP)
            return true;
    }
    return false;
}

static void swap_load(struct tr_block *t, const struct swap *s)
{
    for (unsigned i = 0; i < s->n; i++) {
        if (s->guest[i] == RSP)
            l_rsp_get(t, s->host[i]);
        else
            l_load(t, s->host[i], GPR(s->guest[i]));
    }
}

static void swap_store(struct tr_block *t, const struct tr_insn *insn, const struct swap *s)
{
    for (unsigned i = 0; i < s->n; i++) {
        if (s->guest[i] != RSP && (insn->regs_written >> s->guest[i] & 1))
            l_store(t, s->host[i], GPR(s->guest[i]));
    }
    for (unsigned i = 0; i < s->n; i++) {
        if (s->guest[i] == RSP && (insn->regs_written >> RSP & 1))
            l_rsp_set(t, s->host[i]);
    }
}

/* ---- adding a constant to rsp ----
 *
 * rsp_delta stays right only near the slot that it was made for, and a loop that does nothing but
 * add would get anywhere. So an access at the new address must come before the block is left, to
 * meet a guard if there is one: one of the guest's own, or a load in front of the addition. Where
 * that load meets no page of the guest's, the addition goes through the table from then on
 * (trap.c).
 */

/* A guest instruction that always accesses memory at rsp plus something small, or leaves to C. */
static bool touches_stack(const struct tr_insn *insn)
{
    switch (insn->op) {
    case TR_OP_push:
    case TR_OP_pop:
    case TR_OP_call_rel:
    case TR_OP_call_ind:
    case TR_OP_ret:
        return true;
    case TR_OP_copy: /* plain arithmetic and MOV: not what a mask may keep from happening */
        return insn->has_mem && !insn->agen_only && insn->encoding == TR_ENC_LEGACY &&
               insn->map == 0 &&
               (insn->opcode < 0x40 || (insn->opcode >= 0x80 && insn->opcode < 0x8c)) &&
               insn->base == (int)RSP && insn->seg == TR_SS && l_near_base(insn);
    default:
        return false;
    }
}

/* From the block's start to the first way out of it after i. One access serves a whole block,
 * before or after the addition: what two blocks may add is far less than a guard. */
static bool stack_is_touched(const struct tr_block *t, unsigned i)
{
    for (unsigned j = 0; j < t->ninsns; j++) {
        if (touches_stack(&t->insn[j]))
            return true;
        if (j > i && t->insn[j].cls == TR_BRANCH)
            return false;
    }
    return false;
}

/* movzbl %ds:disp(%rsp), %r9d: by the prefix it differs from a guest's own instruction */
static const uint8_t probe[] = {0x3e, 0x44, 0x0f, 0xb6, 0x8c, 0x24};

bool tr_is_probe(const uint8_t *hpc)
{
    return !__builtin_memcmp(hpc, probe, sizeof(probe));
}

/* Whether instruction i may add disp to the host's rsp; with a load in front if need be. */
static bool may_move_rsp(struct tr_block *t, unsigned i, int64_t disp)
{
    if (disp > 1 << 28 || disp < -(1 << 28) ||
        *cc_seen(t->rq->cc, t->rq->gpa + t->at[i]) != CC_SEEN_NOTHING)
        return false;
    if (disp > -L_NEAR && disp < L_NEAR && stack_is_touched(t, i))
        return true;
    e4(t, probe[0], probe[1], probe[2], probe[3]);
    e2(t, probe[4], probe[5]);
    e32(t, (uint32_t)disp);
    return true;
}

static bool copy_lea(struct tr_block *t, unsigned i)
{
    const struct tr_insn *insn = &t->insn[i];
    unsigned dst = insn->reg;

    if (insn->opcode != 0x8d || insn->map != 0) /* a NOP */
        return true;
    if (insn->opsize == 16 || insn->adsize == 16)
        return false;
    if (dst == RSP && insn->base == (int)RSP && insn->index < 0 && insn->opsize == 64 &&
        insn->adsize == 64 && may_move_rsp(t, i, insn->disp)) {
        l_lea_scaled(t, RSP, RSP, -1, 1, (int32_t)insn->disp, true);
        return true;
    }
    if (dst == RSP || SPILLED(dst))
        dst = H9;
    l_effective_address(t, i, dst, insn->opsize == 64);
    if (insn->reg == RSP)
        l_rsp_set(t, H9);
    else if (dst == H9)
        l_store(t, H9, GPR(insn->reg));
    return true;
}

/* ADD and SUB of a constant to rsp: the flags are those of the guest's value. */
static bool copy_rsp_add(struct tr_block *t, unsigned i)
{
    const struct tr_insn *insn = &t->insn[i];
    unsigned extension = insn->reg & 7;

    if (insn->encoding != TR_ENC_LEGACY || insn->map || insn->mod != 3 || insn->rm != RSP ||
        !(insn->rex & 8) || (insn->opcode != 0x83 && insn->opcode != 0x81) ||
        (extension != 0 && extension != 5) ||
        !may_move_rsp(t, i, extension ? -insn->imm : insn->imm))
        return false;
    l_rsp_get(t, H9);
    e3(t, 0x49, insn->opcode, 0xc1 | extension << 3);
    emit_rest(t, insn);
    l_lea_scaled(t, RSP, RSP, -1, 1, (int32_t)(extension ? -insn->imm : insn->imm), true);
    return true;
}

/* The bit offset reaches 2^60 bytes, so the word's address is made first: EA + (offset >> 6) * 8,
 * and the bit is offset & 63. */
static bool copy_far_bit(struct tr_block *t, unsigned i)
{
    const struct tr_insn *insn = &t->insn[i];

    if (insn->opsize != 64 || insn->adsize != 64 || tr_is_far_segment(insn->seg) ||
        insn->reg == RSP)
        return false;
    l_effective_address(t, i, H10, true);
    if (SPILLED(insn->reg))
        l_load(t, H9, GPR(insn->reg));
    else
        l_mov(t, H9, insn->reg);
    l_const(t, H11, 6);            /* l_delta() below makes r11 known to be lost */
    e4(t, 0xc4, 0x42, 0xa2, 0xf7); /* sarx %r11, %r9, %r11 */
    e1(t, 0xd9);
    e4(t, 0x4f, 0x8d, 0x14, 0xda); /* lea (%r10,%r11,8), %r10 */
    l_delta(t, H11, H10);
    l_lea(t, H10, H10, H11, 0);
    l_const(t, H11, 58);
    e4(t, 0xc4, 0x42, 0xa1, 0xf7); /* shlx %r11, %r9, %r9 */
    e1(t, 0xc9);
    e4(t, 0xc4, 0x42, 0xa3, 0xf7); /* shrx %r11, %r9, %r9 */
    e1(t, 0xc9);
    if (insn->lock)
        e1(t, 0xf0);
    e4(t, 0x4d, 0x0f, insn->opcode, 0x0a); /* op %r9, (%r10) */
    return true;
}

/* AH to BH with a memory operand, whose REX prefix would rename them: a copy of the byte serves
 * where it is only read. */
static bool writes_high_byte(const struct tr_insn *insn)
{
    return insn->regs_written >> (insn->reg & 3) & 1;
}

static unsigned take_high_byte(struct tr_block *t, const struct tr_insn *insn)
{
    e4(t, 0xc4, 0x63, 0x7b, 0xf0); /* rorx $8, %reg, %r9d */
    e2(t, 0xc8 | (insn->reg & 3), 8);
    return H9;
}

/* ---- copies ---- */

bool l_copy(struct tr_block *t, unsigned i)
{
    const struct tr_insn *insn = &t->insn[i];
    struct fields f = fields_of(insn);
    struct swap s = {.n = 0};
    struct l_operand o;

    if (insn->vsib)
        return l_gather(t, i);
    if (insn->has_mem && insn->agen_only)
        return copy_lea(t, i);
    if (!insn->has_modrm && insn->map == 0 && insn->encoding == TR_ENC_LEGACY &&
        (insn->opcode & 0xfc) == 0xa0)
        return false; /* MOV moffs64 */
    if (l_is_far_bit(insn))
        return copy_far_bit(t, i);
    if (copy_rsp_add(t, i))
        return true;
    if (insn->has_mem) {
        if ((insn->high_byte && writes_high_byte(insn)) || !l_operand(t, i, &o))
            return false;
        f.mem = &o;
        s.taken = 1u << o.base | (o.has_index ? 1u << o.index : 0);
        if (insn->high_byte) {
            f.reg = take_high_byte(t, insn);
            s.taken |= 1u << H9;
        }
    }
    struct swap first = s;
    struct fields original = f;
    if (!swap_fields(&s, insn, &f)) { /* one address register instead of two */
        if (!f.mem)
            return false;
        s = first;
        f = original;
        l_lea(t, H10, o.base, o.has_index ? o.index : H10, o.disp);
        if (!o.has_index)
            return false;
        o = (struct l_operand){.base = H10};
        s.taken = 1u << H10;
        if (!swap_fields(&s, insn, &f))
            return false;
    }
    if (names_rsp(&s) && insn->high_byte) /* MOVZX %ah, %sp: the substitute needs a REX prefix */
        return false;
    if (names_rsp(&s) && (s.n > 1 || (f.mem && (insn->regs_written >> RSP & 1) && insn->mem_write)))
        return false;
    swap_load(t, &s);
    emit_fields(t, insn, &f);
    swap_store(t, insn, &s);
    return true;
}
