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

void l_rsp_moved(struct tr_block *t)
{
    l_store(t, H11, STATE(rsp_delta));
    e3(t, 0x49, 0xf7, 0xd3); /* not %r11; lea 1(%r11), %r11: the flags stay */
    e4(t, 0x4d, 0x8d, 0x5b, 0x01);
    l_store(t, H11, STATE(rsp_undo));
}

void l_rsp_set(struct tr_block *t, unsigned reg)
{
    l_delta(t, H11, reg);
    l_lea(t, RSP, reg, H11, 0);
    l_rsp_moved(t);
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

int l_address_register(struct tr_block *t, int n, unsigned spare)
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

void l_effective_address(struct tr_block *t, unsigned i, unsigned dst, bool wide)
{
    const struct tr_insn *insn = &t->insn[i];
    int32_t disp = (int32_t)insn->disp;

    wide = wide && insn->adsize == 64;
    if (is_constant(insn)) {
        uint64_t address = constant_address(t, i);
        if (insn->base == 16 && !wide)
            t->movable = false;
        if (insn->base == 16)
            l_const_pc(t, dst, wide ? address : (uint32_t)address, false);
        else
            l_const(t, dst, wide ? address : (uint32_t)address);
    } else if (wide && insn->base == (int)RSP && insn->index < 0) {
        l_load(t, H10, STATE(rsp_undo));
        l_lea(t, dst, RSP, H10, disp);
    } else {
        int base = l_address_register(t, insn->base, H10);
        int index = l_address_register(t, insn->index, H11);
        l_lea_scaled(t, dst, base, index, insn->scale, disp, wide);
    }
}

static struct l_operand looked_up(struct tr_block *t)
{
    l_delta(t, H11, H10);
    return (struct l_operand){.base = H10, .index = H11, .has_index = true};
}

/* ---- classes ---- */

void l_begin(struct tr_block *t)
{
    t->lng = (struct tr_long){.r11 = -1, .r10.base = -1};
    l_guess_begin(t);
}

/* rorx $20, %reg, %r9; addr32 movzbl %gs:CHECK(%r9), %r9d */
void l_check(struct tr_block *t, unsigned reg, unsigned class)
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

void l_class_delta(struct tr_block *t, unsigned class)
{
    if (t->lng.r11 == (int)class)
        return;
    l_load(t, H11, tr_state(offsetof(struct rt_cpu, class_delta) + class * 8));
    t->lng.r11 = (int8_t) class;
}

unsigned l_class_for(const struct tr_block *t, unsigned i, unsigned guess)
{
    uint8_t seen = *cc_seen(t->rq->cc, t->rq->gpa + t->at[i]);

    if (tr_is_hint(&t->insn[i])) /* of addresses that need not be any, like NULL and an offset */
        return L_MIXED;
    return seen == CC_SEEN_NOTHING ? guess : seen - (unsigned)CC_SEEN_CLASS0;
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
    unsigned class = l_class_for(t, i, l_sum_class(t, i));
    bool near = l_near(insn) && insn->index >= 0;

    if (class == L_MIXED) {
        l_effective_address(t, i, H10, true);
        return looked_up(t);
    }
    if (!near) {
        l_effective_address(t, i, H10, true);
        l_check(t, H10, class);
    } else if (!sum_is_known(t, insn, class)) {
        int base = l_address_register(t, insn->base, H10);
        int index = l_address_register(t, insn->index, H11);
        l_lea_scaled(t, H10, base, index, insn->scale, 0, true);
        if (!l_loop_has(t, i, class))
            l_check(t, H10, class);
        t->lng.r10 = (struct tr_sum){insn->base, insn->index, insn->scale, (uint8_t) class};
    }
    l_class_delta(t, class);
    return (struct l_operand){
        .base = H10, .index = H11, .has_index = true, .disp = near ? (int32_t)insn->disp : 0};
}

/* base + displacement: one check serves until the base changes. */
static struct l_operand near_operand(struct tr_block *t, unsigned i)
{
    const struct tr_insn *insn = &t->insn[i];
    unsigned base = (unsigned)insn->base, host = base;
    unsigned class = l_class_for(t, i, t->lng.class_of[base]);

    if (SPILLED(base)) {
        l_load(t, H10, GPR(base));
        host = H10;
    }
    if (class == L_MIXED) {
        l_delta(t, H11, host);
    } else {
        if (!(t->lng.checked >> base & 1) || t->lng.class_of[base] != class)
            l_check(t, host, class);
        t->lng.class_of[base] = (uint8_t) class;
        t->lng.checked |= (uint16_t)(1u << base);
        t->lng.touched |= (uint16_t)(l_always_accesses(insn) << base);
        l_class_delta(t, class);
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
        if (fits_32(offset) && near > -64 * L_NEAR && near < 64 * L_NEAR) {
            l_load(t, H10, tr_state(offsetof(struct rt_cpu, host64) + n * 8));
            return (struct l_operand){.base = H10, .disp = (int32_t)near};
        }
    }
    l_effective_address(t, i, H10, true);
    l_load(t, H11, base);
    l_lea(t, H10, H10, H11, 0);
    return looked_up(t);
}

bool l_near(const struct tr_insn *insn)
{
    return insn->adsize == 64 && insn->base >= 0 && insn->base != 16 && insn->disp > -L_NEAR &&
           insn->disp < L_NEAR;
}

bool l_near_base(const struct tr_insn *insn)
{
    return l_near(insn) && insn->index < 0;
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
    if (tr_is_far_segment(insn->seg)) {
        *o = segment_operand(t, i);
        return true;
    }
    if (is_constant(insn)) {
        *o = constant_operand(t, i);
        return true;
    }
    *o = l_near_base(insn) ? l_near_operand(t, i) : sum_operand(t, i);
    return true;
}

void l_emit_operand(struct tr_block *t, unsigned reg, const struct l_operand *o, bool evex)
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

unsigned l_operand_rex(unsigned reg, const struct l_operand *o)
{
    return (reg >= 8 ? 4u : 0) | (o->has_index && o->index >= 8 ? 2u : 0) | (o->base >= 8 ? 1u : 0);
}

void l_access(struct tr_block *t, unsigned opcode, unsigned reg, const struct l_operand *o,
              bool rex_w)
{
    unsigned rex = l_operand_rex(reg, o) | (rex_w ? 8u : 0);

    if (rex)
        e1(t, 0x40 | rex);
    e1(t, opcode);
    l_emit_operand(t, reg, o, false);
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

/* ---- what is known after an instruction ---- */

bool l_keeps_near(const struct tr_insn *insn)
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

static void copy_bit(uint16_t *bits, int from, unsigned to)
{
    unsigned bit = *bits >> from & 1;

    *bits = (uint16_t)((*bits & ~(1u << to)) | bit << to);
}

void l_forget(struct tr_block *t, uint16_t registers)
{
    t->lng.checked &= (uint16_t)~registers;
    t->lng.touched &= (uint16_t)~registers;
}

void l_after(struct tr_block *t, unsigned i)
{
    const struct tr_insn *insn = &t->insn[i];
    unsigned to = 0;
    int from = copied_register(insn, &to);

    if (t->lng.r10.base >= 0 &&
        (insn->regs_written & (1u << t->lng.r10.base | 1u << t->lng.r10.index)))
        t->lng.r10.base = -1;
    if (from >= 0) {
        t->lng.class_of[to] = t->lng.class_of[from];
        copy_bit(&t->lng.checked, from, to);
        copy_bit(&t->lng.touched, from, to);
    } else if (!l_keeps_near(insn)) {
        l_forget(t, insn->regs_written);
    }
    l_guess_after(t, i);
}
