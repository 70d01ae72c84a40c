/* long_operand.c - 64-bit code: guest addresses made into host addresses.
 *
 * Linear addresses are divided into slots of 4 GiB, each with a window of its own. Slots are sorted
 * into four classes, by address bits 46 and 47, and the windows of a class are placed so that one
 * delta (window - linear address) serves all of them. The usual access adds it without having
 * looked anything up, after a check that is not in the address's way:
 *
 *     mov    %fs:class_delta, %r11       once in a block
 *     rorx   $20, %base, %r9             once for each base, until the base changes
 *     movzbl %gs:CHECK(%r9d), %r9d
 *     mov    disp(%base,%r11), ...
 *
 * The check loads from a byte that stands for 1 MiB of addresses: there is a page of such bytes for
 * each slot that is at home in its class, and nothing else near (view_home.c). Where it faults,
 * either the slot gets a window, or the instruction is translated again, for the other class, or
 * when that has been wrong too with a table of deltas by address bits 32 to 47:
 *
 *     rorx   $32, %base, %r11
 *     movzwl %r11w, %r11d
 *     mov    %gs:(,%r11,8), %r11
 *     mov    disp(%base,%r11), ...
 *
 * The table's loads stand in the address's way: a pointer chase through it takes 3 times as long as
 * natively, with the check 1.0 times.
 *
 * Why no address gets out. Bits 20 to 51 choose the byte. If it is one of the class's own, bits 47
 * to 51 are equal and the address is canonical, or differs from a canonical address by a multiple
 * of 2^52; adding the delta to that one gives a window, so to this one no canonical address, and
 * the access faults. If it is another class's byte, or in the table, bits 48 to 51 differ from
 * those of a canonical address by an even number other than zero, so the address is that of some
 * slot plus n times 2^48 with n even, n + 65536 Z never within 1 of 0; slot plus delta is
 * within 1.5 times 2^48 of 0, and again the sum is not canonical. By the table, an address that is
 * not canonical keeps its upper bits, and a slot without a window leads into a range where nothing
 * is ever mapped. Windows have guards of 4 GiB, so a checked base serves all displacements under 1
 * MiB.
 *
 * Nothing here touches flags. No lookup: rsp (rsp_delta is already in it), FS and GS with a
 * constant (host64). Constants (RIP-relative and absolute): the table index is known. */
#include "translator/long.h"

#define NEAR (1 << 20)

void l_const(struct tr_block *t, unsigned reg, uint64_t value)
{
    unsigned b = reg >= 8;

    l_lose(t, reg);
    if (value <= 0xffffffffu) {
        if (b)
            e1(t, 0x41);
        e1(t, 0xb8 | (reg & 7));
        e32(t, (uint32_t)value);
    } else if ((uint64_t)(int64_t)(int32_t)value == value) {
        e3(t, 0x48 | b, 0xc7, 0xc0 | (reg & 7));
        e32(t, (uint32_t)value);
    } else {
        e2(t, 0x48 | b, 0xb8 | (reg & 7));
        e32(t, (uint32_t)value);
        e32(t, (uint32_t)(value >> 32));
    }
}

void l_const_pc(struct tr_block *t, unsigned reg, uint64_t value, bool minus)
{
    if (!t->movable) {
        l_const(t, reg, value);
        return;
    }
    l_lose(t, reg);
    e2(t, 0x48 | (reg >= 8), 0xb8 | (reg & 7));
    e32(t, (uint32_t)value);
    e32(t, (uint32_t)(value >> 32));
    tr_reloc(t, minus ? CC_RELOC_MINUS_PC : CC_RELOC_PC, 8);
}

void l_delta(struct tr_block *t, unsigned to, unsigned from)
{
    unsigned r = to >= 8, b = from >= 8;

    l_lose(t, to);
    e4(t, 0xc4, 0x43 | (r ? 0u : 0x80u) | (b ? 0u : 0x20u), 0xfb, 0xf0); /* rorx */
    e2(t, 0xc0 | (to & 7) << 3 | (from & 7), 32);
    e4(t, 0x40 | (r ? 5u : 0u), 0x0f, 0xb7, 0xc0 | (to & 7) << 3 | (to & 7)); /* movzwl */
    e4(t, 0x65, 0x48 | (r ? 6u : 0u), 0x8b, 0x04 | (to & 7) << 3); /* mov %gs:(,%to,8), %to */
    e1(t, 0xc5 | (to & 7) << 3);
    e32(t, 0);
}

/* mov %gs:index*8, %r10 or %r11 */
static void delta_const(struct tr_block *t, unsigned reg, uint64_t address)
{
    l_lose(t, reg);
    e4(t, 0x65, 0x4c, 0x8b, 0x04 | (reg & 7) << 3);
    e1(t, 0x25);
    e32(t, (uint32_t)(address >> 32 & 0xffff) * 8);
}

void l_rsp_get(struct tr_block *t, unsigned reg)
{
    l_load(t, reg, STATE(rsp_undo));
    l_lea(t, reg, RSP, reg, 0);
}

/* not %r11; lea 1(%r11), %r11; mov %r11, rsp_undo */
static void store_undo(struct tr_block *t)
{
    e3(t, 0x49, 0xf7, 0xd3);
    e4(t, 0x4d, 0x8d, 0x5b, 0x01);
    l_store(t, H11, STATE(rsp_undo));
}

void l_rsp_set(struct tr_block *t, unsigned reg)
{
    l_delta(t, H11, reg);
    l_lea(t, RSP, reg, H11, 0);
    l_store(t, H11, STATE(rsp_delta));
    store_undo(t);
}

void l_lea_scaled(struct tr_block *t, unsigned dst, int base, int index, unsigned scale,
                  int32_t disp, bool wide)
{
    unsigned log2 = scale == 8 ? 3 : scale / 2;
    unsigned rex =
        (wide ? 8u : 0) | (dst >= 8 ? 4u : 0) | (index >= 8 ? 2u : 0) | (base >= 8 ? 1u : 0);
    unsigned mod = base < 0 || (!disp && (base & 7) != RT_BP) ? 0u
                   : disp >= -128 && disp < 128               ? 0x40u
                                                              : 0x80u;

    l_lose(t, dst);
    if (rex)
        e1(t, 0x40 | rex);
    e1(t, 0x8d);
    if (index < 0 && base >= 0 && (base & 7) != RT_SP)
        e1(t, mod | (dst & 7) << 3 | ((unsigned)base & 7));
    else
        e2(t, mod | (dst & 7) << 3 | 4,
           log2 << 6 | (index < 0 ? 4u : (unsigned)index & 7) << 3 |
               (base < 0 ? 5u : (unsigned)base & 7));
    if (mod == 0x40)
        e1(t, (uint8_t)disp);
    else if (mod == 0x80 || base < 0)
        e32(t, (uint32_t)disp);
}

/* The register that holds guest register n for an address, loading it into spare if need be. */
static int address_register(struct tr_block *t, int n, unsigned spare)
{
    if (n == (int)RSP)
        l_rsp_get(t, spare);
    else if (n >= 0 && SPILLED((unsigned)n))
        l_load(t, spare, GPR((unsigned)n));
    else
        return n;
    return (int)spare;
}

static uint64_t constant_address(const struct tr_block *t, unsigned i)
{
    const struct tr_insn *insn = &t->insn[i];
    uint64_t address = (uint64_t)insn->disp;

    if (insn->base == 16)
        address += t->rq->pc + t->at[i] + insn->len;
    return insn->adsize == 32 ? (uint32_t)address : address;
}

static bool is_constant(const struct tr_insn *insn)
{
    return insn->index < 0 && (insn->base < 0 || insn->base == 16);
}

/* A constant address, or what LEA makes of it. */
static void constant_into(struct tr_block *t, unsigned dst, unsigned i, uint64_t address)
{
    const struct tr_insn *insn = &t->insn[i];

    if (insn->base != 16) {
        l_const(t, dst, address);
        return;
    }
    if (insn->adsize != 64 || insn->opsize == 32)
        t->movable = false;
    l_const_pc(t, dst, address, false);
}

/* The guest's effective address, without segment base, into dst (H10, or LEA's destination). */
static void effective_address(struct tr_block *t, unsigned i, unsigned dst)
{
    const struct tr_insn *insn = &t->insn[i];

    if (is_constant(insn)) {
        constant_into(t, dst, i, constant_address(t, i));
        return;
    }
    int base = address_register(t, insn->base, H10);
    int index = address_register(t, insn->index, H11);
    l_lea_scaled(t, dst, base, index, insn->scale, (int32_t)insn->disp, insn->adsize == 64);
}

static struct l_operand looked_up(struct tr_block *t)
{
    l_delta(t, H11, H10);
    return (struct l_operand){.base = H10, .index = H11, .has_index = true};
}

/* ---- classes ---- */

#define LOW_CLASS  0u
#define HALF_CLASS 2u /* the lowest class of the kernel's half */

/* What a value of which nothing is known is taken for: in programs what the code itself lies in, in
 * kernels the direct map. */
static unsigned usual_class(const struct tr_block *t)
{
    return t->rq->pc >> 63 && !(t->rq->key & TR_K_CPL3) ? HALF_CLASS : tr_class(t->rq->pc);
}

void l_begin(struct tr_block *t)
{
    t->lng = (struct tr_long){.r11 = -1, .r10.base = -1};
    for (unsigned n = 0; n < 16; n++) {
        uint64_t value = t->rq->gpr ? t->rq->gpr[n] : 0;
        bool likely = value >= 65536 && (uint64_t)((int64_t)(value << 16) >> 16) == value;
        t->lng.class_of[n] = (uint8_t)(likely ? tr_class(value) : usual_class(t));
    }
}

/* rorx $20, %reg, %r9; addr32 movzbl %gs:CHECK(%r9), %r9d */
static void emit_check(struct tr_block *t, unsigned reg, unsigned class)
{
    e4(t, 0xc4, reg >= 8 ? 0x43 : 0x63, 0xfb, 0xf0);
    e2(t, 0xc8 | (reg & 7), 20);
    e4(t, 0x65, 0x67, 0x45, 0x0f);
    e2(t, 0xb6, 0x89);
    e32(t, TR_CHECK_BASE(class));
}

bool tr_is_check(const uint8_t *hpc, unsigned *class)
{
    uint32_t base;

    if (hpc[0] != 0x65 || hpc[1] != 0x67 || hpc[2] != 0x45 || hpc[3] != 0x0f || hpc[4] != 0xb6)
        return false;
    __builtin_memcpy(&base, hpc + 6, 4);
    *class = (base >> 29) - 1;
    return true;
}

static void load_class_delta(struct tr_block *t, unsigned class)
{
    if (t->lng.r11 == (int)class)
        return;
    l_load(t, H11, tr_state(offsetof(struct rt_cpu, class_delta) + class * 8));
    t->lng.r11 = (int8_t) class;
}

#define MIXED 4u

/* What class to make instruction i's access for: guess, unless it was wrong before. */
static unsigned class_for(const struct tr_block *t, unsigned i, unsigned guess)
{
    uint8_t seen = *cc_seen(t->rq->cc, t->rq->gpa + t->at[i]);

    return seen == CC_SEEN_NOTHING ? guess : seen - (unsigned)CC_SEEN_CLASS0;
}

/* The class of an address that is not just a base: a far displacement decides. */
static unsigned sum_class(const struct tr_block *t, const struct tr_insn *insn)
{
    if (insn->base < 0 || insn->base == 16 || insn->disp >= 1 << 28 || insn->disp <= -(1 << 28))
        return tr_class((uint64_t)insn->disp);
    return t->lng.class_of[insn->base];
}

/* Whether r10 already has base + index of insn. */
static bool sum_is_known(const struct tr_block *t, const struct tr_insn *insn, unsigned class)
{
    return t->lng.r10.base >= 0 && t->lng.r10.base == insn->base &&
           t->lng.r10.index == insn->index && t->lng.r10.scale == insn->scale &&
           t->lng.r10.class == class;
}

/* base + index + displacement. With a small displacement the sum of the registers stays in r10 for
 * further accesses by the same registers. */
static struct l_operand sum_operand(struct tr_block *t, unsigned i)
{
    const struct tr_insn *insn = &t->insn[i];
    unsigned class = class_for(t, i, sum_class(t, insn));
    bool near = insn->adsize == 64 && insn->base >= 0 && insn->base != 16 && insn->index >= 0 &&
                insn->disp > -NEAR && insn->disp < NEAR;

    if (class == MIXED) {
        effective_address(t, i, H10);
        return looked_up(t);
    }
    if (!near) {
        effective_address(t, i, H10);
        emit_check(t, H10, class);
    } else if (!sum_is_known(t, insn, class)) {
        int base = address_register(t, insn->base, H10);
        int index = address_register(t, insn->index, H11);
        l_lea_scaled(t, H10, base, index, insn->scale, 0, true);
        emit_check(t, H10, class);
        t->lng.r10.base = insn->base;
        t->lng.r10.index = insn->index;
        t->lng.r10.scale = insn->scale;
        t->lng.r10.class = (uint8_t) class;
    }
    load_class_delta(t, class);
    return (struct l_operand){
        .base = H10, .index = H11, .has_index = true, .disp = near ? (int32_t)insn->disp : 0};
}

/* base + displacement: one check serves until the base changes. */
static struct l_operand near_operand(struct tr_block *t, unsigned i)
{
    const struct tr_insn *insn = &t->insn[i];
    unsigned base = (unsigned)insn->base, host = base;
    unsigned class = class_for(t, i, t->lng.class_of[base]);

    if (SPILLED(base)) {
        l_load(t, H10, GPR(base));
        host = H10;
    }
    if (class == MIXED) {
        l_delta(t, H11, host);
    } else {
        if (!(t->lng.checked >> base & 1) || t->lng.class_of[base] != class)
            emit_check(t, host, class);
        t->lng.class_of[base] = (uint8_t) class;
        t->lng.checked |= (uint16_t)(1u << base);
        load_class_delta(t, class);
    }
    return (struct l_operand){
        .base = (uint8_t)host, .index = H11, .has_index = true, .disp = (int32_t)insn->disp};
}

static bool fits_32(uint64_t value)
{
    return (uint64_t)(int64_t)(int32_t)value == value;
}

/* An address that is known: the table's delta, and a displacement where it fits. */
static struct l_operand constant_operand(struct tr_block *t, unsigned i)
{
    uint64_t address = constant_address(t, i);
    bool moves = t->insn[i].base == 16;

    if (moves && t->insn[i].adsize != 64)
        t->movable = false;
    if (fits_32(address) && !(moves && t->movable)) {
        delta_const(t, H10, address);
        return (struct l_operand){.base = H10, .disp = (int32_t)address};
    }
    if (moves)
        l_const_pc(t, H10, address, false);
    else
        l_const(t, H10, address);
    delta_const(t, H11, address);
    if (moves)
        tr_reloc(t, CC_RELOC_DELTA, 4);
    return (struct l_operand){.base = H10, .index = H11, .has_index = true};
}

/* FS or GS: the base with its delta when the offset is a constant that stays near. */
static struct l_operand segment_operand(struct tr_block *t, unsigned i)
{
    const struct tr_insn *insn = &t->insn[i];
    unsigned n = insn->seg - TR_FS;
    uint32_t base = tr_state(offsetof(struct rt_cpu, base64) + n * 8);

    if (is_constant(insn)) {
        uint64_t offset = constant_address(t, i);
        int64_t near = (int64_t)offset;
        if (fits_32(offset) && near > -64 * NEAR && near < 64 * NEAR) {
            l_load(t, H10, tr_state(offsetof(struct rt_cpu, host64) + n * 8));
            return (struct l_operand){.base = H10, .disp = (int32_t)near};
        }
    }
    effective_address(t, i, H10);
    l_load(t, H11, base);
    l_lea(t, H10, H10, H11, 0);
    return looked_up(t);
}

static bool near_base(const struct tr_insn *insn)
{
    return insn->adsize == 64 && insn->base >= 0 && insn->base != 16 && insn->index < 0 &&
           insn->disp > -NEAR && insn->disp < NEAR;
}

bool l_near(const struct tr_block *t, unsigned i)
{
    const struct tr_insn *insn = &t->insn[i];

    return insn->base >= 0 && insn->base != 16 && insn->disp > -NEAR && insn->disp < NEAR;
}

struct l_operand l_near_operand(struct tr_block *t, unsigned i)
{
    if (t->insn[i].base == (int)RSP)
        return (struct l_operand){.base = RSP, .disp = (int32_t)t->insn[i].disp};
    return near_operand(t, i);
}

bool l_operand(struct tr_block *t, unsigned i, struct l_operand *o)
{
    const struct tr_insn *insn = &t->insn[i];

    if (!insn->has_mem || insn->vsib || insn->adsize == 16)
        return false;
    if (insn->seg == TR_FS || insn->seg == TR_GS) {
        *o = segment_operand(t, i);
        return true;
    }
    if (is_constant(insn)) {
        *o = constant_operand(t, i);
        return true;
    }
    if (!near_base(insn)) {
        *o = sum_operand(t, i);
    } else {
        *o = l_near_operand(t, i);
    }
    return true;
}

/* ModRM, SIB and displacement for an operand. */
static void emit_operand(struct tr_block *t, unsigned reg, const struct l_operand *o, bool evex)
{
    unsigned field = (reg & 7) << 3;
    unsigned mod = !o->disp && (o->base & 7) != 5              ? 0u
                   : o->disp >= -128 && o->disp < 128 && !evex ? 0x40u
                                                               : 0x80u;

    if (o->has_index)
        e2(t, mod | field | 4, (o->index & 7u) << 3 | (o->base & 7u));
    else if ((o->base & 7) == 4)
        e2(t, mod | field | 4, 0x24);
    else
        e1(t, mod | field | (o->base & 7u));
    if (mod == 0x40)
        e1(t, (uint8_t)o->disp);
    else if (mod == 0x80)
        e32(t, (uint32_t)o->disp);
}

static unsigned operand_rex(unsigned reg, const struct l_operand *o)
{
    return (reg >= 8 ? 4u : 0) | (o->has_index && o->index >= 8 ? 2u : 0) | (o->base >= 8 ? 1u : 0);
}

void l_access(struct tr_block *t, unsigned opcode, unsigned reg, const struct l_operand *o,
              bool rex_w)
{
    unsigned rex = operand_rex(reg, o) | (rex_w ? 8u : 0);

    if (rex)
        e1(t, 0x40 | rex);
    e1(t, opcode);
    emit_operand(t, reg, o, false);
}

bool l_load_rm(struct tr_block *t, unsigned i)
{
    const struct tr_insn *insn = &t->insn[i];
    struct l_operand o;

    if (insn->opsize != 64)
        return false;
    if (insn->mod == 3) {
        if (insn->rm == RSP)
            l_rsp_get(t, H9);
        else if (SPILLED(insn->rm))
            l_load(t, H9, GPR(insn->rm));
        else
            l_mov(t, H9, insn->rm);
        return true;
    }
    if (!l_operand(t, i, &o))
        return false;
    l_access(t, 0x8b, H9, &o, true);
    return true;
}

/* ---- copies ---- */

/* Register numbers of an instruction's fields, as they are emitted. */
struct fields {
    unsigned reg, rm, vvvv, opreg;
    const struct l_operand *mem;
};

/* Where a VEX or EVEX prefix begins. */
static unsigned prefix_count(const struct tr_insn *insn)
{
    unsigned n = 0;
    for (; n < insn->len; n++) {
        switch (insn->bytes[n]) {
        case 0x26:
        case 0x2e:
        case 0x36:
        case 0x3e:
        case 0x64:
        case 0x65:
        case 0x66:
        case 0x67:
        case 0xf0:
        case 0xf2:
        case 0xf3:
        case 0x40 ... 0x4f: /* in front of another prefix, where it has no effect */
            continue;
        default:
            return n;
        }
    }
    return n;
}

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
        emit_operand(t, f->reg, f->mem, evex);
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
        rex |= operand_rex(f->reg, f->mem);
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
    const uint8_t *v = insn->bytes + prefix_count(insn);
    bool two = v[0] == 0xc5;
    unsigned map = two ? 1u : v[1] & 0x1fu;
    unsigned b2 = two ? v[1] & 0x7fu : v[2];
    unsigned rex =
        f->mem ? operand_rex(f->reg, f->mem) : (f->reg >= 8 ? 4u : 0) | (f->rm >= 8 ? 1u : 0);

    e4(t, 0xc4, inverted(rex) | map, (b2 & 0x87u) | (~f->vvvv & 15u) << 3, insn->opcode);
    if (insn->has_modrm)
        emit_modrm(t, insn, f, false);
}

/* R', V' and, for registers, X extend vector register numbers: they stay as they are. */
static void emit_evex(struct tr_block *t, const struct tr_insn *insn, const struct fields *f)
{
    const uint8_t *v = insn->bytes + prefix_count(insn);
    unsigned p0 = v[1], p1 = (v[2] & 0x87u) | (~f->vvvv & 15u) << 3;

    if (f->mem)
        p0 = (p0 & 0x1fu) | inverted(operand_rex(f->reg, f->mem));
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
    const uint8_t *v = insn->bytes + prefix_count(insn);
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

/* ---- what is known after an instruction ---- */

/* Adding a small constant does not lead away from a slot by more than its guards allow. */
static bool keeps_near(const struct tr_insn *insn)
{
    if (insn->encoding != TR_ENC_LEGACY || insn->map != 0 || insn->mod != 3 || !(insn->rex & 8))
        return false;
    unsigned extension = insn->reg & 7;
    bool add_sub = (insn->opcode == 0x83 || insn->opcode == 0x81) &&
                   (extension == 0 || extension == 5) && insn->imm > -4096 && insn->imm < 4096;
    return add_sub || (insn->opcode == 0xff && extension <= 1);
}

/* The register whose value, but for a small constant, is now in *to as well; -1: none. */
static int copied_register(const struct tr_insn *insn, unsigned *to)
{
    if (insn->encoding != TR_ENC_LEGACY || insn->map != 0 || !(insn->rex & 8))
        return -1;
    *to = insn->reg;
    if (insn->opcode == 0x8d && insn->adsize == 64 && insn->index < 0 && insn->base >= 0 &&
        insn->base != 16 && insn->disp > -4096 && insn->disp < 4096)
        return insn->base;
    if (insn->mod != 3 || (insn->opcode != 0x8b && insn->opcode != 0x89))
        return -1;
    if (insn->opcode == 0x8b)
        return insn->rm;
    *to = insn->rm;
    return insn->reg;
}

/* A pointer that is loaded is taken for one of the same class as the pointer that it was found
 * through. */
static void guess_loaded(struct tr_block *t, const struct tr_insn *insn)
{
    bool by_base = insn->base >= 0 && insn->base != 16 && insn->seg != TR_FS && insn->seg != TR_GS;
    unsigned class =
        by_base && insn->base != (int)RSP ? t->lng.class_of[insn->base] : usual_class(t);

    if (insn->encoding == TR_ENC_LEGACY && insn->map == 0 && insn->opcode == 0x8b && insn->has_mem)
        t->lng.class_of[insn->reg] = (uint8_t) class;
}

void l_after(struct tr_block *t, const struct tr_insn *insn)
{
    unsigned to = 0;
    int from = copied_register(insn, &to);

    guess_loaded(t, insn);
    if (t->lng.r10.base >= 0 &&
        (insn->regs_written & (1u << t->lng.r10.base | 1u << t->lng.r10.index)))
        t->lng.r10.base = -1;
    if (from >= 0) {
        bool known = t->lng.checked >> from & 1;
        t->lng.class_of[to] = t->lng.class_of[from];
        t->lng.checked = (uint16_t)((t->lng.checked & ~(1u << to)) | (unsigned)known << to);
    } else if (!keeps_near(insn)) {
        t->lng.checked &= (uint16_t)~insn->regs_written;
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
               insn->base == (int)RSP && insn->seg == TR_SS && near_base(insn);
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
    if (disp > -NEAR && disp < NEAR && stack_is_touched(t, i))
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
    if (is_constant(insn)) {
        uint64_t address = constant_address(t, i);
        constant_into(t, dst, i, insn->opsize == 32 ? (uint32_t)address : address);
    } else {
        bool wide = insn->adsize == 64 && insn->opsize == 64;
        if (wide && insn->base == (int)RSP && insn->index < 0) {
            l_load(t, H10, STATE(rsp_undo));
            l_lea_scaled(t, dst, RSP, H10, 1, (int32_t)insn->disp, wide);
        } else {
            int base = address_register(t, insn->base, H10);
            int index = address_register(t, insn->index, H11);
            l_lea_scaled(t, dst, base, index, insn->scale, (int32_t)insn->disp, wide);
        }
    }
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

/* BT, BTS, BTR, BTC of memory with a register: the bit offset reaches 2^60 bytes, so the word's
 * address is made first: EA + (offset >> 6) * 8, and the bit is offset & 63. */
static bool is_far_bit(const struct tr_insn *insn)
{
    return insn->encoding == TR_ENC_LEGACY && insn->map == 1 && (insn->opcode & 0xe7) == 0xa3 &&
           insn->has_mem;
}

static bool copy_far_bit(struct tr_block *t, unsigned i)
{
    const struct tr_insn *insn = &t->insn[i];

    if (insn->opsize != 64 || insn->adsize != 64 || insn->seg == TR_FS || insn->seg == TR_GS ||
        insn->reg == RSP)
        return false;
    effective_address(t, i, H10);
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
    if (is_far_bit(insn))
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

/* mov (%rbp slot), rbp; rsp = rbp + 8: nothing is committed before the load */
bool l_leave(struct tr_block *t, unsigned i)
{
    if (t->insn[i].prefix66)
        return false;
    l_mov(t, H9, RT_BP);
    l_delta(t, H11, H9);
    l_lose(t, H10);
    e4(t, 0x4f, 0x8b, 0x14, 0x19); /* mov (%r9,%r11), %r10 */
    l_lea(t, RSP, H9, H11, 8);
    l_store(t, H11, STATE(rsp_delta));
    store_undo(t);
    l_mov(t, RT_BP, H10);
    return true;
}
