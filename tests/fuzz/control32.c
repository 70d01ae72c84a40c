/* control32.c - what is known of registers in 32-bit code, and which operands that proves.
 *
 * The guest's registers have clean upper halves, so base + r15 + a displacement under 1 MiB lies in
 * the window or its guards, as base + a displacement under 1 MiB does behind GS, which is the
 * window too; everything else has address size 32 behind GS.
 *
 * Descriptors that may be loaded again (rt_cpu.descs): an entry is found by 16 bits, read, and may
 * become a segment's pointer, whose target is an entry's first field. */
#include "tests/fuzz/control.h"

#define NEAR (1 << 20) /* what copy.c lets a displacement be without address-size 32 */

void control_start32(struct control *c, struct control_state *s, bool indirect)
{
    (void)c;
    (void)indirect;
    for (unsigned i = 0; i < 16; i++)
        s->reg[i] = (struct control_value){.kind = CONTROL_GUEST, .wide = i >= 8};
    s->reg[12] = (struct control_value){.kind = CONTROL_HOST_SP, .wide = true};
    s->reg[14] = (struct control_value){.kind = CONTROL_TABLE, .wide = true};
    s->reg[15] = (struct control_value){.kind = CONTROL_WINDOW, .wide = true};
}

void control_exit32(struct control *c, const struct control_state *s)
{
    for (unsigned i = 0; i < 8; i++) {
        if (s->reg[i].wide || s->reg[i].kind != CONTROL_GUEST)
            control_say(c, "a guest register's upper half may not be zero");
    }
    if (s->reg[12].kind != CONTROL_HOST_SP || s->reg[14].kind != CONTROL_TABLE ||
        s->reg[15].kind != CONTROL_WINDOW)
        control_say(c, "a register of the engine's has changed");
}

static bool is_string(const struct control *c)
{
    return c->zi.meta.category == ZYDIS_CATEGORY_STRINGOP;
}

/* PUSHFQ, POPFQ and a scratch register, with rsp the host's. */
static bool is_host_stack(struct control *c, const struct control_state *s)
{
    const struct control_value *sp = &s->reg[RT_SP];

    c->own++;
    return sp->kind == CONTROL_HOST_SP && c->zi.operand_width == 64 &&
           (c->zi.meta.category == ZYDIS_CATEGORY_PUSH ||
            (c->zi.meta.category == ZYDIS_CATEGORY_POP && sp->offset < 0)) &&
           (c->operand[0].visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN ||
            control_register(c->operand[0].reg.value) >= 8);
}

/* The second operand: the start of a descriptor's entry, or nowhere. */
static bool is_segment_pointer(const struct control *c, const struct control_state *s)
{
    const ZydisDecodedOperand *o = &c->operand[1];
    unsigned reg = o->type == ZYDIS_OPERAND_TYPE_REGISTER ? control_register(o->reg.value) : 99;

    if (c->zi.mnemonic != ZYDIS_MNEMONIC_MOV || c->operand[0].size != 64)
        return false;
    if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
        return o->imm.value.s == RT_NO_SEGMENT;
    return reg < 16 && s->reg[reg].kind == CONTROL_DESC;
}

static bool state_is_right(struct control *c, const struct control_state *s,
                           const ZydisDecodedOperand *o)
{
    size_t at;

    c->by_state++;
    if (!control_is_state(c, o, &at))
        return false;
    if (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
        return CONTROL_IN(at, vif) || (CONTROL_IN(at, selector) && o->size == 16) ||
               (CONTROL_IN(at, seg_moved) && o->size == 8) ||
               (CONTROL_IN(at, segptr) && is_segment_pointer(c, s));
    return CONTROL_IN(at, vif) || CONTROL_IN(at, irq_pending) || CONTROL_IN(at, rflags) ||
           CONTROL_IN(at, tsc_offset) || CONTROL_IN(at, tsc_aux) || CONTROL_IN(at, segptr) ||
           CONTROL_IN(at, selector) || CONTROL_IN(at, descs);
}

/* A guest's register and a displacement that stays in the guards. */
static bool is_near_base(const struct control_state *s, const ZydisDecodedOperand *o)
{
    unsigned base = control_register(o->mem.base);

    return base < 16 && s->reg[base].kind == CONTROL_GUEST && !s->reg[base].wide &&
           o->mem.disp.value >= -NEAR && o->mem.disp.value <= NEAR;
}

static bool operand_is_confined(struct control *c, const struct control_state *s,
                                const ZydisDecodedOperand *o)
{
    unsigned base = control_register(o->mem.base), index = control_register(o->mem.index);

    if (o->mem.segment == ZYDIS_REGISTER_FS)
        return state_is_right(c, s, o);
    if (o->mem.segment == ZYDIS_REGISTER_GS && c->zi.address_width == 32) {
        c->by_table++;
        return true;
    }
    if (c->zi.address_width != 64)
        return false;
    if (o->mem.segment == ZYDIS_REGISTER_GS) {
        c->by_stack++;
        return index > 15 && is_near_base(s, o);
    }
    if (base < 16 && s->reg[base].kind == CONTROL_SEGMENT)
        return c->zi.mnemonic == ZYDIS_MNEMONIC_MOV && index > 15 && !o->mem.disp.value &&
               o->size == 32 && (o->actions & ZYDIS_OPERAND_ACTION_READ);
    if (base < 16 && s->reg[base].kind == CONTROL_DESC)
        return c->zi.mnemonic == ZYDIS_MNEMONIC_MOV && index > 15 && o->mem.disp.value >= 0 &&
               o->mem.disp.value + o->size / 8 <= (int64_t)sizeof(struct rt_desc) &&
               !(o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
    if (index == 15 && s->reg[15].kind == CONTROL_WINDOW) {
        c->by_check++;
        return o->mem.scale == 1 && is_near_base(s, o);
    }
    if (is_string(c)) {
        c->strings++;
        return control_recipe(c) == CC_R_STRING && base < 16 && s->reg[base].kind == CONTROL_HOST;
    }
    return is_host_stack(c, s);
}

static void check_memory(struct control *c, const struct control_state *s)
{
    for (unsigned i = 0; i < c->zi.operand_count; i++) {
        const ZydisDecodedOperand *o = &c->operand[i];
        if (o->type != ZYDIS_OPERAND_TYPE_MEMORY || o->mem.type == ZYDIS_MEMOP_TYPE_AGEN ||
            c->zi.mnemonic == ZYDIS_MNEMONIC_NOP)
            continue;
        if (!operand_is_confined(c, s, o))
            control_say(c, "a memory operand that is not proved to be the guest's");
    }
}

static bool is_register(const struct control *c, unsigned i, unsigned *reg)
{
    *reg = c->operand[i].type == ZYDIS_OPERAND_TYPE_REGISTER
               ? control_register(c->operand[i].reg.value)
               : 99;
    return *reg < 16;
}

/* mov of 64 bits: %rsp saved and back, rcx, a segment's pointer, the table of descriptors */
static bool move(struct control *c, struct control_state *s)
{
    unsigned to, from;
    size_t at;

    if (c->zi.mnemonic != ZYDIS_MNEMONIC_MOV || c->operand[0].size != 64)
        return false;
    if (control_is_state(c, &c->operand[0], &at) && CONTROL_IN(at, segptr))
        return is_segment_pointer(c, s);
    if (!is_register(c, 0, &to))
        return false;
    if (is_register(c, 1, &from)) {
        s->reg[to] = s->reg[from];
        return true;
    }
    if (c->operand[1].type != ZYDIS_OPERAND_TYPE_MEMORY ||
        !control_is_state(c, &c->operand[1], &at) || to < 8)
        return false;
    if (!CONTROL_IN(at, segptr) && !CONTROL_IN(at, descs))
        return false;
    s->reg[to] = (struct control_value){
        .kind = CONTROL_IN(at, segptr) ? CONTROL_SEGMENT : CONTROL_DESCS, .wide = true};
    return true;
}

static bool lea(struct control *c, struct control_state *s)
{
    const ZydisDecodedOperand *o = &c->operand[1];
    unsigned to, base = control_register(o->mem.base), index = control_register(o->mem.index);

    if (c->zi.mnemonic != ZYDIS_MNEMONIC_LEA || !is_register(c, 0, &to))
        return false;
    if (to >= 8 && base > 15 && index < 16 && s->reg[index].small == 16 && o->mem.scale == 4 &&
        !o->mem.disp.value && c->operand[0].size == 32) {
        s->reg[to] = (struct control_value){.kind = CONTROL_GUEST, .small = 18};
        return true;
    }
    if (c->operand[0].size != 64)
        return false;
    if (to >= 8 && base < 16 && index < 16 && s->reg[base].kind == CONTROL_DESCS &&
        s->reg[index].kind == CONTROL_GUEST && s->reg[index].small == 18 && o->mem.scale == 8 &&
        !o->mem.disp.value) {
        s->reg[to] = (struct control_value){.kind = CONTROL_DESC, .wide = true};
        return true;
    }
    if (o->mem.base == ZYDIS_REGISTER_RIP) {
        int64_t record = c->at + c->zi.length + o->mem.disp.value;
        if (record < c->block->host_len || record >= c->block->total || to != 9)
            control_say(c, "a record that is not the block's");
        s->reg[to] = (struct control_value){.kind = CONTROL_UNKNOWN, .wide = true};
        return true;
    }
    if (base == 15 && control_register(o->mem.index) == to && (to == RT_SI || to == RT_DI) &&
        !o->mem.disp.value && !s->reg[to].wide) {
        s->reg[to] = (struct control_value){.kind = CONTROL_HOST, .wide = true};
        return true;
    }
    return false;
}

/* Cutting off the upper half makes rsi and rdi the guest's again. */
static bool cuts(const struct control *c, unsigned reg)
{
    unsigned to, from;

    return c->zi.mnemonic == ZYDIS_MNEMONIC_MOV && is_register(c, 0, &to) &&
           is_register(c, 1, &from) && to == reg && from == reg && c->operand[0].size == 32;
}

/* movzwl into a scratch register; a guest's is not followed that far. */
static bool is_word(const struct control *c, unsigned reg)
{
    return reg >= 8 && c->zi.mnemonic == ZYDIS_MNEMONIC_MOVZX && c->operand[1].size == 16;
}

static void write_register(struct control *c, struct control_state *s, const ZydisDecodedOperand *o)
{
    unsigned reg = control_register(o->reg.value);
    struct control_value *v = &s->reg[reg];

    if (reg == 12 || reg == 14 || reg == 15)
        control_say(c, "writes a register of the engine's");
    if (reg == RT_SP && v->kind == CONTROL_HOST_SP) {
        v->offset += c->zi.meta.category == ZYDIS_CATEGORY_PUSH ? -8 : 8;
        return;
    }
    if (is_string(c) && (v->kind == CONTROL_HOST || reg == RT_CX))
        return; /* further on; REP counts down to zero */
    if (o->size == 64)
        *v = (struct control_value){.kind = CONTROL_GUEST, .wide = true};
    else if (o->size == 32 && !(o->actions & ZYDIS_OPERAND_ACTION_CONDWRITE))
        *v = (struct control_value){.kind = CONTROL_GUEST, .small = is_word(c, reg) ? 16 : 0};
    else if (o->size == 32) /* CMOV clears the upper half either way, others leave the register */
        *v = (struct control_value){.kind = CONTROL_GUEST, .wide = v->wide};
    else if (v->kind != CONTROL_GUEST)
        control_say(c, "writes a part of a host address");
}

static void generic(struct control *c, struct control_state *s)
{
    for (unsigned i = 0; i < c->zi.operand_count; i++) {
        const ZydisDecodedOperand *o = &c->operand[i];
        unsigned reg = o->type == ZYDIS_OPERAND_TYPE_REGISTER ? control_register(o->reg.value) : 99;
        if (reg > 15 || !(o->actions & ZYDIS_OPERAND_ACTION_MASK_READ) ||
            s->reg[reg].kind == CONTROL_GUEST)
            continue;
        if (!(s->reg[reg].kind == CONTROL_HOST && (is_string(c) || cuts(c, reg))) &&
            !(reg == RT_SP && s->reg[reg].kind == CONTROL_HOST_SP))
            control_say(c, "computes with a host address");
    }
    for (unsigned i = 0; i < c->zi.operand_count; i++) {
        const ZydisDecodedOperand *o = &c->operand[i];
        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && control_register(o->reg.value) < 16 &&
            (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
            write_register(c, s, o);
    }
}

void control_step32(struct control *c, struct control_state *s)
{
    check_memory(c, s);
    if (!move(c, s) && !lea(c, s))
        generic(c, s);
}
