/* copy.c - innocuous instructions: the same instruction with its memory operand rewritten.
 *
 * A flat 32-bit operand reaches the window in one of three ways:
 *
 *   base + small displacement   the window's base r15 becomes the index:
 *     mov 8(%ebx), %eax              ->   mov 8(%rbx,%r15), %eax
 *     The base's upper half is zero, so the address lies between 1 MiB below the window and 1 MiB
 *     above it; what is outside is guard, and the fault leads to the slow path, which wraps at
 *     4 GiB as the guest does. Costs no latency: a pointer chase runs at 1.0 of native speed.
 *
 *   the same in a stack frame   gs, whose base is the window, and the guest's own form:
 *     mov 8(%esp), %eax              ->   mov %gs:8(%rsp), %eax
 *     Two cycles more latency, but the host forwards what was stored by the same base and
 *     displacement without going through memory (1 cycle), as it does for the guest's own form;
 *     with an index it takes 7.
 *
 *   anything else               two prefixes, gs and address-size 32:
 *     mov 8(%ebx,%esi,4), %eax       ->   addr32 mov %gs:8(%ebx,%esi,4), %eax
 *     The address is computed modulo 2^32. Two cycles more latency.
 *
 * FS and GS operands have a base: the linear address is computed into r9d first, which costs four
 * instructions and no flags. segptr leads to the base, or, when the segment is not a 4 GiB data
 * segment, to nowhere: the fault sends the instruction to the slow path, which raises what it must.
 *
 * Encodings that differ between 32- and 64-bit code (SDM 2-2.2.1): INC/DEC 40-4F, absolute disp32
 * (would be RIP-relative), MOV moffs, opcode 82h, and the VEX and EVEX bits that 32-bit code
 * ignores. */
#include "translator/emit.h"

#define SCRATCH_R8 8
#define SCRATCH_R9 9
#define NEAR       (1 << 20) /* a displacement that stays well inside the guards */

static bool seg_is_flat(const struct tr_block *t, unsigned seg)
{
    switch (seg) {
    case TR_DS:
        return t->rq->key & TR_K_DS;
    case TR_ES:
        return t->rq->key & TR_K_ES;
    case TR_SS:
        return t->rq->key & TR_K_SS;
    default:
        return false;
    }
}

/* The instruction has a byte register operand that a REX prefix would rename (AH..BH). */
static bool has_high_byte(const struct tr_insn *insn)
{
    if (insn->encoding != TR_ENC_LEGACY || (insn->reg & 7) < 4)
        return false;
    if (insn->map == 0)
        return insn->opsize == 8 && insn->opcode < 0xc0 && insn->opcode != 0x80;
    return insn->map == 1 && (insn->opcode == 0xb0 || insn->opcode == 0xc0);
}

/* lea disp(base,index,scale), %dst as 32-bit arithmetic; base and index 0 to 15 or -1 */
static void emit_lea(struct tr_block *t, unsigned dst, int base, int index, unsigned scale,
                     int32_t disp)
{
    unsigned rex = 0x40 | (dst >= 8 ? 4 : 0) | (index >= 8 ? 2 : 0) | (base >= 8 ? 1 : 0);
    unsigned log2 = scale == 8 ? 3 : scale / 2;
    unsigned mod = base < 0 ? 0 : 2;

    if (rex != 0x40)
        e1(t, rex);
    e3(t, 0x8d, mod << 6 | (dst & 7) << 3 | 4,
       log2 << 6 | (index < 0 ? 4 : index & 7) << 3 | (base < 0 ? 5 : base & 7));
    e32(t, (uint32_t)disp);
}

/* The linear address of a FS or GS operand into r9d. */
static void emit_far_address(struct tr_block *t, const struct tr_insn *insn)
{
    uint32_t slot = tr_state(offsetof(struct rt_cpu, segptr) + insn->seg * sizeof(void *));

    e_state(t, 0x4c, 0x8b, SCRATCH_R8, slot); /* mov %fs:segptr, %r8 */
    e3(t, 0x45, 0x8b, 0x00);                  /* mov (%r8), %r8d */
    if (insn->base < 0 && insn->index < 0) {
        emit_lea(t, SCRATCH_R9, SCRATCH_R8, -1, 1, (int32_t)insn->disp);
    } else if (insn->index < 0) {
        emit_lea(t, SCRATCH_R9, insn->base, SCRATCH_R8, 1, (int32_t)insn->disp);
    } else {
        emit_lea(t, SCRATCH_R9, insn->base, insn->index, insn->scale, (int32_t)insn->disp);
        emit_lea(t, SCRATCH_R9, SCRATCH_R9, SCRATCH_R8, 1, 0);
    }
}

/* Where a rewritten operand points. */
enum form {
    FORM_SAME,  /* registers only, or the address alone (LEA) */
    FORM_BASE,  /* disp(base,%r15) */
    FORM_FRAME, /* %gs:disp(base) */
    FORM_GUEST, /* the guest's own operand with gs and address-size 32 */
    FORM_R9,    /* (%r9,%r15) */
    FORM_RIP,   /* the slow path's buffer: disp32 off rip, filled in by the caller */
};

/* REX, VEX and EVEX bits that a form needs; X and B as in REX. */
static unsigned form_rex(enum form form)
{
    return form == FORM_BASE ? 2 : form == FORM_R9 ? 3 : 0;
}

static void emit_modrm(struct tr_block *t, const struct tr_insn *insn, enum form form)
{
    unsigned modrm = insn->bytes[insn->modrm_at], reg = modrm & 0x38;
    unsigned at = insn->modrm_at + 1u;
    unsigned operand_end = insn->imm_size ? insn->imm_at : insn->len;
    bool absolute = insn->mod == 0 && (modrm & 7) == 5;

    switch (form) {
    case FORM_R9:
        e2(t, reg | 4, 0x39);
        at = operand_end;
        break;
    case FORM_RIP:
        e1(t, reg | 5);
        e32(t, 0);
        at = operand_end;
        break;
    case FORM_BASE:
        e2(t, (modrm & 0xc0) | reg | 4, 0x38 | (insn->base & 7));
        at += (modrm & 7) == 4; /* the guest's SIB byte */
        break;
    default:
        if (insn->mod != 3 && absolute)
            e2(t, reg | 4, 0x25);
        else
            e1(t, modrm);
        break;
    }
    for (; at < insn->len; at++)
        e1(t, insn->bytes[at]);
}

/* In 32-bit code W does not select a 64-bit general register (SDM 2-2.3.5.4, 2-2.7.3): scalar
 * conversions (pp F2h, F3h; the packed ones with the same opcodes do mean W), moves from and to
 * them. */
static bool vex_w_ignored(const struct tr_insn *insn, unsigned pp)
{
    if (insn->feature == TR_F_NONE)
        return true;
    if (insn->map == 1 || insn->map == 5) {
        switch (insn->opcode) {
        case 0x2a:
        case 0x2c:
        case 0x2d:
        case 0x78:
        case 0x79:
        case 0x7b:
            return pp >= 2;
        case 0x6e:
        case 0x7e:
            return pp == 1;
        case 0x92:
        case 0x93: /* KMOVD; KMOVQ would write the upper half of a guest's register */
            return pp == 3;
        default:
            return false;
        }
    }
    if (insn->map == 2)
        return insn->opcode == 0x7c; /* VPBROADCASTD from a register */
    if (insn->map != 3)
        return false;
    switch (insn->opcode) {
    case 0x14:
    case 0x15:
    case 0x16:
    case 0x20:
    case 0x22: /* VPEXTR, VPINSR */
    case 0x60:
    case 0x61: /* VPCMPESTRM, VPCMPESTRI: lengths */
        return true;
    default:
        return false;
    }
}

static void emit_vex(struct tr_block *t, const struct tr_insn *insn, enum form form)
{
    const uint8_t *v = insn->bytes + insn->opcode_at;
    bool two = v[0] == 0xc5;
    unsigned b1, b2;

    b1 = two ? (v[1] & 0x80) | 0x61 : v[1] | 0x60u;
    b2 = (two ? v[1] & 0x7f : v[2]) | 0x40u;
    if (vex_w_ignored(insn, b2 & 3)) /* the mandatory prefix: none, 66h, F3h, F2h */
        b2 &= 0x7f;
    b1 ^= form_rex(form) << 5;
    e4(t, 0xc4, b1, b2, insn->opcode);
    if (!insn->has_modrm) /* VZEROUPPER, VZEROALL */
        return;
    emit_modrm(t, insn, form);
    /* VBLENDVPS and others: a register in the immediate's high half, of which 32-bit code has 8 */
    if (insn->map == 3 && insn->opcode >= 0x4a && insn->opcode <= 0x4c)
        t->p[-1] &= 0x7f;
}

static void emit_evex(struct tr_block *t, const struct tr_insn *insn, enum form form)
{
    const uint8_t *v = insn->bytes + insn->opcode_at;
    unsigned p0 = v[1] | 0x70u, p1 = v[2] | 0x40u, p2 = v[3] | 0x08u;

    if (vex_w_ignored(insn, p1 & 3))
        p1 &= 0x7f;
    p0 ^= form_rex(form) << 5;
    e4(t, 0x62, p0, p1, p2);
    e1(t, insn->opcode);
    emit_modrm(t, insn, form);
}

/* MOVNTI, fences and cache lines, SERIALIZE; ADCX and ADOX, MOVDIRI: 66h is not an operand size but
 * part of the opcode, or not allowed. */
static bool is_66_opcode(const struct tr_insn *insn)
{
    if (insn->map == 1)
        return insn->opcode == 0xc3 || insn->opcode == 0xae || insn->opcode == 0x01;
    return insn->map == 2 && (insn->opcode == 0xf6 || insn->opcode == 0xf9);
}

/* In 16-bit code the prefix selects 32 bits, in host code 16. */
static bool needs_66(const struct tr_insn *insn)
{
    if (insn->encoding != TR_ENC_LEGACY)
        return false;
    if (is_66_opcode(insn))
        return insn->prefix66;
    if (insn->mode == TR_MODE_16 && insn->feature == TR_F_NONE)
        return insn->opsize == 16;
    return insn->prefix66;
}

static void emit_window_prefixes(struct tr_block *t, enum form form)
{
    if (form == FORM_FRAME || form == FORM_GUEST)
        e1(t, 0x65);
    if (form == FORM_GUEST)
        e1(t, 0x67);
}

static void emit_legacy_prefixes(struct tr_block *t, const struct tr_insn *insn)
{
    if (insn->lock)
        e1(t, 0xf0);
    if (needs_66(insn))
        e1(t, 0x66);
    if (insn->prefix_rep && insn->encoding == TR_ENC_LEGACY)
        e1(t, insn->prefix_rep);
}

static void emit_legacy(struct tr_block *t, const struct tr_insn *insn, enum form form)
{
    unsigned at = insn->opcode_at;

    if (form_rex(form))
        e1(t, 0x40 | form_rex(form));
    if (insn->map == 0 && insn->opcode == 0x82) { /* alias of 80h */
        e1(t, 0x80);
        at++;
    } else if (insn->map == 0 && (insn->opcode & 0xf0) == 0x40) {
        e2(t, 0xff, 0xc0 | (insn->opcode & 0x0f)); /* INC, DEC */
        at++;
    }
    unsigned opcode_end = insn->has_modrm ? insn->modrm_at : insn->len;
    for (; at < opcode_end; at++)
        e1(t, insn->bytes[at]);
    if (insn->has_modrm)
        emit_modrm(t, insn, form);
}

static void emit_rewritten(struct tr_block *t, const struct tr_insn *insn, enum form form)
{
    emit_window_prefixes(t, form);
    emit_legacy_prefixes(t, insn);
    if (insn->encoding == TR_ENC_VEX)
        emit_vex(t, insn, form);
    else if (insn->encoding == TR_ENC_EVEX)
        emit_evex(t, insn, form);
    else
        emit_legacy(t, insn, form);
}

static bool is_moffs(const struct tr_insn *insn)
{
    return !insn->has_modrm && insn->map == 0 && insn->encoding == TR_ENC_LEGACY &&
           (insn->opcode & 0xfc) == 0xa0;
}

/* MOV moffs as MOV r/m: A0..A3 with a 32-bit address would stall the host's length decoder. */
static void emit_moffs(struct tr_block *t, const struct tr_insn *insn, enum form form)
{
    static const uint8_t opcode[] = {0x8a, 0x8b, 0x88, 0x89};

    emit_window_prefixes(t, form);
    if (needs_66(insn))
        e1(t, 0x66);
    if (form_rex(form))
        e1(t, 0x40 | form_rex(form));
    e1(t, opcode[insn->opcode & 3]);
    if (form == FORM_R9) {
        e2(t, 0x04, 0x39);
        return;
    }
    if (form == FORM_GUEST)
        e2(t, 0x04, 0x25);
    else
        e1(t, 5);
    e32(t, form == FORM_GUEST ? (uint32_t)insn->disp : 0);
}

static bool is_near_base(const struct tr_insn *insn)
{
    return insn->has_mem && insn->base >= 0 && insn->index < 0 && insn->disp > -NEAR &&
           insn->disp < NEAR && !insn->vsib;
}

/* Most likely the stack frame's; high byte registers, which a REX prefix would rename, have no
 * other choice. */
static bool is_frame(const struct tr_insn *insn)
{
    return insn->base == RT_SP || (insn->base == RT_BP && insn->disp < 0) || has_high_byte(insn);
}

/* Which form a guest operand takes; false: it must be a callout. */
static bool operand_form(const struct tr_block *t, const struct tr_insn *insn, enum form *form)
{
    *form = FORM_SAME;
    if (!insn->has_mem && !is_moffs(insn))
        return true;
    if (insn->adsize != 32)
        return false;
    if (insn->agen_only)
        return true;
    if (tr_is_far_segment(insn->seg)) {
        if (has_high_byte(insn) || insn->vsib)
            return false;
        *form = FORM_R9;
        return true;
    }
    *form = !is_near_base(insn) ? FORM_GUEST : is_frame(insn) ? FORM_FRAME : FORM_BASE;
    return seg_is_flat(t, insn->seg);
}

bool tr_copy(struct tr_block *t, unsigned i)
{
    const struct tr_insn *insn = &t->insn[i];
    enum form form;

    if (!operand_form(t, insn, &form))
        return false;
    if (form == FORM_R9)
        emit_far_address(t, insn);
    if (is_moffs(insn))
        emit_moffs(t, insn, form);
    else
        emit_rewritten(t, insn, form);
    return true;
}

/* XLAT and MASKMOVDQU: the implicit operand takes the same two prefixes. */
bool tr_xlat(struct tr_block *t, unsigned i)
{
    const struct tr_insn *insn = &t->insn[i];

    if (insn->adsize != 32 || !seg_is_flat(t, insn->seg))
        return false;
    emit_rewritten(t, insn, FORM_GUEST);
    return true;
}

/* Bytes of an opcode behind its REX prefix: MOV r, r/m and MOVZX r, r/m16. */
static void emit_load_opcode(struct tr_block *t, bool selector)
{
    if (selector)
        e2(t, 0x0f, 0xb7);
    else
        e1(t, 0x8b);
}

static bool load(struct tr_block *t, unsigned i, unsigned host_reg, bool selector)
{
    const struct tr_insn *insn = &t->insn[i];
    enum form form;

    if (!operand_form(t, insn, &form))
        return false;
    if (form == FORM_SAME) { /* from a register */
        e1(t, 0x44);
        emit_load_opcode(t, selector);
        e1(t, 0xc0 | (host_reg & 7) << 3 | (insn->rm & 7));
        return true;
    }
    if (form == FORM_R9)
        emit_far_address(t, insn);
    struct tr_insn load = *insn;
    load.bytes[load.modrm_at] = (uint8_t)((load.bytes[load.modrm_at] & 0xc7) | (host_reg & 7) << 3);
    load.imm_size = 0;
    emit_window_prefixes(t, form);
    e1(t, 0x44 | form_rex(form));
    emit_load_opcode(t, selector);
    emit_modrm(t, &load, form);
    return true;
}

bool tr_load_operand(struct tr_block *t, unsigned i, unsigned host_reg)
{
    return t->insn[i].opsize == 32 && load(t, i, host_reg, false);
}

bool tr_load_selector(struct tr_block *t, unsigned i, unsigned host_reg)
{
    return load(t, i, host_reg, true);
}

/* Adds 4 to the displacement of an operand with base esp. False: it does not fit its form. */
static bool add_word(struct tr_insn *insn)
{
    uint8_t *disp = insn->bytes + insn->modrm_at + 2; /* behind the SIB byte */

    insn->disp += 4;
    if (insn->mod == 0) {
        if (insn->len > 14)
            return false;
        insn->mod = 1;
        insn->bytes[insn->modrm_at] |= 0x40;
        *disp = 4;
        insn->len++;
    } else if (insn->mod == 1) {
        if (insn->disp > 127)
            return false;
        *disp = (uint8_t)insn->disp;
    } else {
        int32_t wide = (int32_t)insn->disp;
        __builtin_memcpy(disp, &wide, 4);
    }
    return true;
}

bool tr_pop_operand(struct tr_block *t, unsigned i)
{
    struct tr_insn insn = t->insn[i];
    enum form form;

    if ((insn.base == RT_SP && !add_word(&insn)) || !operand_form(t, &insn, &form))
        return false;
    if (form == FORM_R9)
        emit_far_address(t, &insn);
    e_stack(t, 0x8b, SCRATCH_R8, 0, 4);
    emit_window_prefixes(t, form);
    e2(t, 0x44 | form_rex(form), 0x89);
    emit_modrm(t, &insn, form);
    return true;
}

size_t tr_emit_redirected(const struct tr_insn *insn, uint8_t *code, const uint8_t *code_rx,
                          const void *buffer)
{
    struct tr_block t;
    bool memory = (insn->has_mem && !insn->agen_only) || is_moffs(insn);
    int32_t disp;
    uint8_t *field;

    if (insn->vsib || insn->cls != TR_COPY || insn->op == TR_OP_xlat || insn->op == TR_OP_maskmov)
        return 0;
    t.p = code;
    if (is_moffs(insn))
        emit_moffs(&t, insn, FORM_RIP);
    else if (!memory && insn->agen_only)
        return 0; /* LEA: the slow path computes it */
    else
        emit_rewritten(&t, insn, memory ? FORM_RIP : FORM_SAME);
    size_t len = (size_t)(t.p - code);
    if (!memory)
        return len;
    field = code + len - 4;
    if (!is_moffs(insn))
        field -= insn->imm_size;
    disp = (int32_t)((const uint8_t *)buffer - (code_rx + len));
    __builtin_memcpy(field, &disp, 4);
    return len;
}
