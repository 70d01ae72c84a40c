/* control64.c - what is known of registers in 64-bit code, and which operands that proves.
 *
 * Addresses: x + delta is in the window of x's slot (or leads nowhere) if the delta was looked up
 * for x, or is that of a class in which a check of x has not faulted. Displacements and additions
 * of constants may lead SLACK away; windows have guards of 4 GiB. */
#include "tests/fuzz/control.h"

#include <string.h>

#define SLACK (64 << 20)
#define FAR   ((int64_t)1 << 29) /* what rsp may have moved when the access comes that finds out */

static bool is_secret(const struct control_value *v)
{
    return v->kind >= CONTROL_UNKNOWN;
}

static struct control_value guest_value(struct control *c)
{
    return (struct control_value){.kind = CONTROL_GUEST, .value = ++c->values};
}

static bool within(int64_t a, int64_t b, int64_t slack)
{
    int64_t difference;

    return !__builtin_sub_overflow(a, b, &difference) && difference <= slack &&
           difference >= -slack;
}

/* Where a value stands from the one that it is known by. */
static int64_t offset_of(const struct control_value *v)
{
    return v->kind == CONTROL_GUEST || v->kind == CONTROL_CONST ? v->offset : 0;
}

void control_start64(struct control *c, struct control_state *s, bool indirect)
{
    for (unsigned i = 0; i < 16; i++)
        s->reg[i] = guest_value(c);
    for (unsigned i = 0; i < 3; i++)
        s->spilled[i] = guest_value(c);
    for (unsigned i = 9; i < 12; i++)
        s->reg[i] = (struct control_value){.kind = CONTROL_UNKNOWN};
    if (indirect) {
        s->reg[9] = guest_value(c); /* the pc */
        s->reg[11] = (struct control_value){.kind = CONTROL_TABLE};
    }
    s->delta = s->undo = ++c->values;
    s->reg[RT_SP] = (struct control_value){.kind = CONTROL_STACK, .id = s->delta};
}

/* Faults and exits: what the guest sees must be the guest's. */
static void check_visible(struct control *c, const struct control_state *s)
{
    for (unsigned i = 0; i < 16; i++) {
        if ((i < 9 || i > 11) && i != RT_SP && is_secret(&s->reg[i]))
            control_say(c, "the guest's register holds a host address");
    }
}

void control_exit64(struct control *c, const struct control_state *s, bool to_c)
{
    const struct control_value *sp = &s->reg[RT_SP];

    check_visible(c, s);
    if (sp->kind != CONTROL_STACK || sp->id != s->delta || sp->id != s->undo)
        control_say(c, "rsp, rsp_delta and rsp_undo do not belong together");
    else if (!to_c && sp->offset && (!sp->small || !within(sp->offset, 0, SLACK)))
        control_say(c, "rsp was moved and the stack not accessed");
}

/* ---- fields of rt_cpu ---- */

static int spilled_index(size_t at)
{
    size_t first = offsetof(struct rt_cpu, gpr) + 9 * 8;
    return at >= first && at < first + 24 && at % 8 == 0 ? (int)((at - first) / 8) : -1;
}

static bool is_public(size_t at)
{
    return CONTROL_IN(at, insns) || CONTROL_IN(at, vif) || CONTROL_IN(at, irq_pending) ||
           CONTROL_IN(at, rflags) || CONTROL_IN(at, tsc_offset) || CONTROL_IN(at, tsc_aux) ||
           CONTROL_IN(at, base64) || CONTROL_IN(at, kernel_gs) || CONTROL_IN(at, vector) ||
           CONTROL_IN(at, gather_add) || CONTROL_IN(at, gather_and) || CONTROL_IN(at, gather_zero);
}

static bool is_writable(size_t at)
{
    return CONTROL_IN(at, insns) || CONTROL_IN(at, vif) || CONTROL_IN(at, branch_from) ||
           CONTROL_IN(at, kernel_gs) || CONTROL_IN(at, gs_moved) || CONTROL_IN(at, vector) ||
           (CONTROL_IN(at, base64) && at >= offsetof(struct rt_cpu, base64) + 8);
}

static struct control_value load_field(struct control *c, const struct control_state *s, size_t at)
{
    struct control_value v = guest_value(c);

    if (spilled_index(at) >= 0)
        return s->spilled[spilled_index(at)];
    if (CONTROL_IN(at, class_delta)) {
        v.kind = CONTROL_CLASS;
        v.small = (uint8_t)((at - offsetof(struct rt_cpu, class_delta)) / 8);
    } else if (CONTROL_IN(at, host64)) {
        v.kind = CONTROL_HOST;
        v.id = ++c->values;
    } else if (CONTROL_IN(at, rsp_undo)) {
        v.kind = CONTROL_UNDO;
        v.id = s->undo;
    } else if (CONTROL_IN(at, host_sp)) {
        v = (struct control_value){.kind = CONTROL_HOST_SP};
    } else if (CONTROL_IN(at, jump_table)) {
        v.kind = CONTROL_TABLE;
    } else if (!is_public(at)) {
        control_say(c, "reads a field of rt_cpu that is not for translated code");
    }
    return v;
}

static void store_field(struct control *c, struct control_state *s, size_t at,
                        const struct control_value *v)
{
    if (CONTROL_IN(at, rsp_delta)) {
        s->delta = v->kind == CONTROL_DELTA ? v->id : 0;
    } else if (CONTROL_IN(at, rsp_undo)) {
        s->undo = v->kind == CONTROL_UNDO ? v->id : 0;
    } else if (CONTROL_IN(at, host64)) {
        if (v->kind != CONTROL_HOST)
            control_say(c, "a segment base that is not in a window");
    } else if (is_secret(v)) {
        control_say(c, "stores a host address where the guest finds it");
    } else if (spilled_index(at) >= 0) {
        s->spilled[spilled_index(at)] = *v;
    } else if (!is_writable(at)) {
        control_say(c, "writes a field of rt_cpu that is not for translated code");
    }
}

/* ---- memory operands ---- */

/* x + delta or x + class delta, and a displacement. */
static bool sum_is_proved(const struct control_state *s, const struct control_value *x,
                          const struct control_value *d, int64_t displacement)
{
    if (d->kind == CONTROL_DELTA_AT)
        return x->kind == CONTROL_CONST &&
               ((uint64_t)(x->offset + displacement) >> 32 & 0xffff) == (uint64_t)d->offset;
    if (is_secret(x))
        return false;
    int64_t at = (int64_t)((uint64_t)offset_of(x) + (uint64_t)displacement);
    if (d->kind == CONTROL_DELTA)
        return d->of == x->value && within(at, d->offset, SLACK);
    if (d->kind != CONTROL_CLASS)
        return false;
    for (unsigned i = 0; i < s->nchecked; i++) {
        const struct control_value *k = &s->checked[i];
        if (k->small == d->small && k->of == x->value && within(at, k->offset, SLACK))
            return true;
    }
    return false;
}

/* What a branch says it leaves known (translator/long_front.c) is so: the delta in r11, and
 * registers that were checked for its class and through which this block accessed memory. */
void control_known(struct control *c, const struct control_state *s, uint32_t known)
{
    const struct control_value *delta = &s->reg[11];

    if (!known)
        return;
    if (known >> 18 != 1 || delta->kind != CONTROL_CLASS || delta->small != (known >> 16 & 3))
        control_say(c, "a branch says that it knows of a delta");
    for (unsigned i = 0; i < 16; i++) {
        if (known >> i & 1 &&
            (i == RT_SP || (i >= 9 && i <= 11) || !sum_is_proved(s, &s->reg[i], delta, 0) ||
             !control_touched(s, s->reg[i].value)))
            control_say(c, "a branch says that it knows of a register");
    }
}

static bool may_be_masked(const struct control *c)
{
    return c->zi.avx.mask.mode > ZYDIS_MASK_MODE_DISABLED ||
           c->zi.meta.category == ZYDIS_CATEGORY_PREFETCH ||
           c->zi.mnemonic == ZYDIS_MNEMONIC_VMASKMOVPS ||
           c->zi.mnemonic == ZYDIS_MNEMONIC_VMASKMOVPD ||
           c->zi.mnemonic == ZYDIS_MNEMONIC_VPMASKMOVD ||
           c->zi.mnemonic == ZYDIS_MNEMONIC_VPMASKMOVQ;
}

static bool window_sum(struct control *c, struct control_state *s, const ZydisDecodedOperand *o)
{
    unsigned base = control_register(o->mem.base), index = control_register(o->mem.index);

    if (base > 15 || index > 15 || o->mem.scale > 1 ||
        !sum_is_proved(s, &s->reg[base], &s->reg[index], o->mem.disp.value))
        return false;
    if (s->reg[index].kind == CONTROL_CLASS && !may_be_masked(c) &&
        !control_touched(s, s->reg[base].value) &&
        s->ntouched < sizeof(s->touched) / sizeof(s->touched[0]))
        s->touched[s->ntouched++] = s->reg[base].value;
    if (s->reg[index].kind == CONTROL_CLASS)
        c->by_check++;
    else
        c->by_table++;
    return true;
}

static bool through_base(struct control *c, const struct control_state *s,
                         const ZydisDecodedOperand *o)
{
    const struct control_value *base;
    int64_t displacement = o->mem.disp.value;

    if (control_register(o->mem.base) > 15)
        return false;
    base = &s->reg[control_register(o->mem.base)];
    if (base->kind == CONTROL_HOST) {
        c->by_table++;
        return within(base->offset + displacement, 0, SLACK);
    }
    if (base->kind == CONTROL_DELTA_AT) {
        c->by_table++;
        return ((uint64_t)displacement >> 32 & 0xffff) == (uint64_t)base->offset;
    }
    if (base->kind == CONTROL_STACK && o->mem.base == ZYDIS_REGISTER_RSP) {
        c->by_stack++;
        return within(base->offset + displacement, 0, FAR);
    }
    return false;
}

/* A gather: base and vector indices, of which jrcxz has said that they are near. */
static bool gather(const struct control_state *s, const ZydisDecodedOperand *o)
{
    unsigned base = control_register(o->mem.base);

    return base <= 15 && s->gather_near && ZydisRegisterGetId(o->mem.index) == s->gather_index &&
           (s->reg[base].kind == CONTROL_HOST || s->reg[base].kind == CONTROL_STACK) &&
           within(s->reg[base].offset + o->mem.disp.value, 0, SLACK);
}

/* mov %gs:place, %r10d and mov %gs:-PRESENT(%r10d), %r10b (codecache/place.c) */
static bool is_place_load(const struct control *c, const ZydisDecodedOperand *o)
{
    int64_t at = o->mem.disp.value - CC_PLACES_AT;

    return c->zi.mnemonic == ZYDIS_MNEMONIC_MOV && o->size == 32 && at >= 0 &&
           at < (int64_t)CC_PLACES_SIZE && at % 4 == 0 && o->mem.base == ZYDIS_REGISTER_NONE &&
           o->mem.index == ZYDIS_REGISTER_NONE && c->operand[0].reg.value == ZYDIS_REGISTER_R10D;
}

static bool is_place_check(const struct control *c, const ZydisDecodedOperand *o)
{
    return c->zi.mnemonic == ZYDIS_MNEMONIC_MOV && o->size == 8 && c->zi.address_width == 32 &&
           o->mem.base == ZYDIS_REGISTER_R10D && o->mem.disp.value == -(int)CC_PLACE_PRESENT &&
           c->operand[0].reg.value == ZYDIS_REGISTER_R10B;
}

/* Deltas, check bytes and places, which are behind GS: loads only, with an index that stays in the
 * table.
 */
static bool own_table(struct control *c, const struct control_state *s,
                      const ZydisDecodedOperand *o)
{
    unsigned index = control_register(o->mem.index);

    c->own++;
    if (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
        return false;
    if (c->zi.mnemonic == ZYDIS_MNEMONIC_MOVZX)
        return c->zi.address_width == 32 && o->size == 8;
    if (is_place_check(c, o))
        return index > 15 && s->reg[10].kind == CONTROL_PLACE;
    if (is_place_load(c, o))
        return true;
    if (c->zi.mnemonic != ZYDIS_MNEMONIC_MOV || o->size != 64 || o->mem.base != ZYDIS_REGISTER_NONE)
        return false;
    if (o->mem.index == ZYDIS_REGISTER_NONE)
        return o->mem.disp.value >= 0 && o->mem.disp.value < 65536 * 8 &&
               o->mem.disp.value % 8 == 0;
    return index <= 15 && s->reg[index].kind == CONTROL_INDEX && o->mem.scale == 8 &&
           o->mem.disp.value == 0;
}

/* The entry check: the last byte of the jump table, or nothing. */
static bool is_entry_check(struct control *c, const struct control_state *s,
                           const ZydisDecodedOperand *o)
{
    unsigned base = control_register(o->mem.base), index = control_register(o->mem.index);

    return c->at < c->block->direct && c->zi.mnemonic == ZYDIS_MNEMONIC_MOVZX && base <= 15 &&
           index <= 15 && s->reg[base].kind == CONTROL_TABLE &&
           s->reg[index].kind == CONTROL_ROTATED && s->reg[index].small == 32 &&
           o->mem.disp.value == (int64_t)CC_TABLE_SIZE - 1;
}

static bool is_string(const struct control *c)
{
    return c->zi.meta.category == ZYDIS_CATEGORY_STRINGOP;
}

static bool operand_is_confined(struct control *c, struct control_state *s,
                                const ZydisDecodedOperand *o)
{
    size_t field;

    if (o->mem.segment == ZYDIS_REGISTER_FS) {
        c->by_state++;
        return control_is_state(c, o, &field) && o->mem.base == ZYDIS_REGISTER_NONE &&
               o->mem.index == ZYDIS_REGISTER_NONE;
    }
    if (o->mem.segment == ZYDIS_REGISTER_GS)
        return own_table(c, s, o);
    if (c->zi.address_width != 64)
        return false;
    if (o->mem.type == ZYDIS_MEMOP_TYPE_VSIB)
        return gather(s, o);
    if (is_string(c)) {
        unsigned base = control_register(o->mem.base);
        c->strings++;
        return (base == RT_SI || base == RT_DI) && s->reg[base].kind == CONTROL_HOST;
    }
    if (control_register(o->mem.base) == RT_SP && s->reg[RT_SP].kind == CONTROL_HOST_SP) {
        c->own++; /* PUSHFQ, POPFQ and a scratch register, above or at the top */
        return o->size == 64 && o->mem.index == ZYDIS_REGISTER_NONE &&
               (c->zi.meta.category == ZYDIS_CATEGORY_PUSH ||
                (c->zi.meta.category == ZYDIS_CATEGORY_POP && s->reg[RT_SP].offset < 0));
    }
    if (o->mem.index != ZYDIS_REGISTER_NONE)
        return is_entry_check(c, s, o) || window_sum(c, s, o);
    return through_base(c, s, o);
}

/* A bit offset in a register reaches far, unless it was cut. */
static bool bit_is_near(const struct control *c, const struct control_state *s)
{
    switch (c->zi.mnemonic) {
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
        return c->operand[0].type != ZYDIS_OPERAND_TYPE_MEMORY ||
               c->operand[1].type != ZYDIS_OPERAND_TYPE_REGISTER ||
               s->reg[control_register(c->operand[1].reg.value) & 15].kind == CONTROL_SMALL;
    default:
        return true;
    }
}

/* Strings: the recipe takes r10 and r11 off rsi and rdi. */
static void check_recipe(struct control *c, const struct control_state *s)
{
    static const unsigned reg[2] = {RT_SI, RT_DI};

    if (!is_string(c)) {
        check_visible(c, s);
        if (control_recipe(c) != CC_R_IDENTITY)
            control_say(c, "another recipe than the identity");
        return;
    }
    if (control_recipe(c) != CC_R_STRING64)
        control_say(c, "another recipe than a string instruction's");
    for (unsigned i = 0; i < 2; i++) {
        const struct control_value *v = &s->reg[reg[i]], *d = &s->reg[10 + i];
        if (!(v->kind == CONTROL_HOST && d->kind == CONTROL_DELTA && d->id == v->id) &&
            !(!is_secret(v) && d->kind == CONTROL_CONST && !d->offset))
            control_say(c, "what the recipe takes off is not what was added");
    }
}

/* An access to the stack that cannot be masked away. */
static void touch_stack(struct control *c, struct control_state *s, const ZydisDecodedOperand *o)
{
    struct control_value *sp = &s->reg[RT_SP];

    if (sp->kind == CONTROL_STACK && control_register(o->mem.base) == RT_SP &&
        o->mem.index == ZYDIS_REGISTER_NONE &&
        c->zi.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY && within(o->mem.disp.value, 0, FAR))
        *sp = (struct control_value){
            .kind = CONTROL_STACK, .small = 1, .id = sp->id, .offset = -o->mem.disp.value};
}

static bool is_address_only(const struct control *c, const ZydisDecodedOperand *o)
{
    return o->mem.type == ZYDIS_MEMOP_TYPE_AGEN || c->zi.mnemonic == ZYDIS_MNEMONIC_NOP;
}

static void check_memory(struct control *c, struct control_state *s)
{
    for (unsigned i = 0; i < c->zi.operand_count; i++) {
        const ZydisDecodedOperand *o = &c->operand[i];
        if (o->type != ZYDIS_OPERAND_TYPE_MEMORY || is_address_only(c, o))
            continue;
        if (!operand_is_confined(c, s, o) || !bit_is_near(c, s))
            control_say(c, "a memory operand that is not proved to be the guest's");
        if (o->mem.segment != ZYDIS_REGISTER_FS && o->mem.segment != ZYDIS_REGISTER_GS &&
            c->at >= c->block->direct && s->reg[RT_SP].kind != CONTROL_HOST_SP)
            check_recipe(c, s);
        if (o->mem.segment == ZYDIS_REGISTER_GS &&
            (c->zi.mnemonic == ZYDIS_MNEMONIC_MOVZX || is_place_check(c, o)))
            check_visible(c, s);
    }
}

/* ---- what instructions do ---- */

static void set(struct control_state *s, unsigned reg, struct control_value v)
{
    if (reg < 16)
        s->reg[reg] = v;
}

static bool reg_operand(const struct control *c, unsigned i, unsigned size, unsigned *reg)
{
    const ZydisDecodedOperand *o = &c->operand[i];

    if (o->type != ZYDIS_OPERAND_TYPE_REGISTER || o->size != size)
        return false;
    *reg = control_register(o->reg.value);
    return *reg < 16;
}

static bool field_operand(const struct control *c, unsigned i, size_t *at)
{
    const ZydisDecodedOperand *o = &c->operand[i];

    return o->type == ZYDIS_OPERAND_TYPE_MEMORY && control_is_state(c, o, at);
}

/* mov %gs:index*8 or %gs:(,%reg,8) */
static bool load_delta(struct control *c, struct control_state *s, unsigned to)
{
    const ZydisDecodedOperand *o = &c->operand[1];
    struct control_value v = {.kind = CONTROL_DELTA, .id = ++c->values};

    if (o->type != ZYDIS_OPERAND_TYPE_MEMORY || o->mem.segment != ZYDIS_REGISTER_GS)
        return false;
    unsigned index = control_register(o->mem.index);
    if (index > 15) {
        v.kind = CONTROL_DELTA_AT;
        v.offset = o->mem.disp.value / 8;
    } else {
        v.of = s->reg[index].of;
        v.offset = s->reg[index].offset;
    }
    set(s, to, v);
    return true;
}

static bool move(struct control *c, struct control_state *s)
{
    const ZydisDecodedOperand *o = &c->operand[1];
    unsigned to, from;
    size_t at;

    if (c->zi.mnemonic != ZYDIS_MNEMONIC_MOV)
        return false;
    if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.segment == ZYDIS_REGISTER_GS &&
        (is_place_load(c, o) || is_place_check(c, o))) {
        set(s, 10,
            (struct control_value){.kind = is_place_load(c, o) ? CONTROL_PLACE : CONTROL_UNKNOWN});
        return true;
    }
    if (reg_operand(c, 0, 64, &to)) {
        if (reg_operand(c, 1, 64, &from)) {
            set(s, to, s->reg[from]);
            return true;
        }
        if (field_operand(c, 1, &at)) {
            set(s, to, load_field(c, s, at));
            return true;
        }
        if (load_delta(c, s, to))
            return true;
    }
    if (field_operand(c, 0, &at) && reg_operand(c, 1, 64, &from)) {
        store_field(c, s, at, &s->reg[from]);
        return true;
    }
    if (c->operand[0].type != ZYDIS_OPERAND_TYPE_REGISTER || c->operand[0].size < 32 ||
        c->operand[1].type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
        return false;
    to = control_register(c->operand[0].reg.value);
    int64_t value = c->operand[0].size == 32 ? (int64_t)(uint32_t)c->operand[1].imm.value.u
                                             : c->operand[1].imm.value.s;
    set(s, to, (struct control_value){.kind = CONTROL_CONST, .offset = value});
    return to < 16;
}

/* base + index * scale, by a number that is the same for the same registers' values. */
static struct control_value guest_sum(struct control *c, const struct control_value *b,
                                      const struct control_value *x, unsigned scale,
                                      int64_t displacement)
{
    struct control_value v = guest_value(c);
    unsigned i = 0;

    if (b->kind != CONTROL_GUEST || x->kind != CONTROL_GUEST)
        return v;
    while (i < c->nsums &&
           (c->sum[i].base != b->value || c->sum[i].index != x->value || c->sum[i].scale != scale))
        i++;
    if (i == sizeof(c->sum) / sizeof(c->sum[0]))
        return v;
    if (i == c->nsums) {
        c->nsums++;
        c->sum[i].base = b->value;
        c->sum[i].index = x->value;
        c->sum[i].scale = (uint8_t)scale;
        c->sum[i].value = v.value;
    }
    v.value = c->sum[i].value;
    v.offset =
        (int64_t)((uint64_t)b->offset + (uint64_t)x->offset * scale + (uint64_t)displacement);
    return v;
}

/* lea of 64 bits */
static bool lea(struct control *c, struct control_state *s)
{
    const ZydisDecodedOperand *o = &c->operand[1];
    unsigned to, base = control_register(o->mem.base), index = control_register(o->mem.index);
    const struct control_value *b = base < 16 ? &s->reg[base] : NULL,
                               *x = index < 16 ? &s->reg[index] : NULL;
    int64_t displacement = o->mem.disp.value;
    struct control_value v = guest_value(c);

    if (c->zi.mnemonic != ZYDIS_MNEMONIC_LEA || !reg_operand(c, 0, 64, &to))
        return false;
    if (o->mem.base == ZYDIS_REGISTER_RIP) { /* a callout's record */
        int64_t record = c->at + c->zi.length + displacement;
        if (record < c->block->host_len || record >= c->block->total)
            control_say(c, "a record that is not the block's");
        if (to != 10)
            control_say(c, "a host address where the guest sees it");
        set(s, to, (struct control_value){.kind = CONTROL_UNKNOWN});
        return true;
    }
    if (b && !x &&
        (b->kind == CONTROL_GUEST || b->kind == CONTROL_STACK || b->kind == CONTROL_HOST)) {
        v = *b;
        v.offset += displacement;
        if (!within(v.offset, 0, FAR) && b->kind != CONTROL_GUEST)
            control_say(c, "a host address was moved too far");
    } else if (b && x && o->mem.scale <= 1 && x->kind == CONTROL_UNDO &&
               (b->kind == CONTROL_STACK || b->kind == CONTROL_HOST) && b->id == x->id) {
        v = guest_value(c); /* the guest's rsp */
    } else if (b && x && o->mem.scale <= 1 && x->kind == CONTROL_NOT_DELTA && displacement == 1 &&
               b->kind == CONTROL_HOST && b->id == x->id) {
        v = guest_value(c); /* a string instruction's rsi or rdi */
    } else if (b && !x && b->kind == CONTROL_NOT_DELTA && displacement == 1) {
        v.kind = CONTROL_UNDO;
        v.id = b->id;
    } else if (b && !x && b->kind == CONTROL_CONST) {
        v = *b;
        v.offset = (int64_t)((uint64_t)v.offset + (uint64_t)displacement);
    } else if (b && x && o->mem.scale <= 1 && sum_is_proved(s, b, x, displacement)) {
        v.kind = to == RT_SP ? CONTROL_STACK : CONTROL_HOST;
        v.id = x->kind == CONTROL_DELTA ? x->id : ++c->values;
        v.small = to == RT_SP; /* looked up is as good as accessed */
        if (to == RT_SP && x->kind != CONTROL_DELTA)
            control_say(c, "rsp without its slot's delta");
    } else if ((b && is_secret(b)) || (x && is_secret(x))) {
        control_say(c, "LEA with a host address");
    } else if (b && x) {
        v = guest_sum(c, b, x, o->mem.scale, displacement);
    }
    if (to == RT_SP && v.kind != CONTROL_STACK)
        control_say(c, "rsp is not on the guest's stack");
    set(s, to, v);
    return true;
}

static bool rotate_or_extend(struct control *c, struct control_state *s)
{
    unsigned to, from;
    const struct control_value *x;

    switch (c->zi.mnemonic) {
    case ZYDIS_MNEMONIC_RORX:
        if (!reg_operand(c, 0, 64, &to) || !reg_operand(c, 1, 64, &from))
            return false;
        x = &s->reg[from];
        if (is_secret(x))
            return false;
        set(s, to,
            (struct control_value){.kind = CONTROL_ROTATED,
                                   .small = (uint8_t)c->operand[2].imm.value.u,
                                   .value = ++c->values,
                                   .of = x->value,
                                   .offset = offset_of(x)});
        return true;
    case ZYDIS_MNEMONIC_MOVZX:
        if (!reg_operand(c, 0, 32, &to))
            return false;
        if (reg_operand(c, 1, 16, &from)) {
            struct control_value v = s->reg[from];
            if (is_secret(&v))
                return false;
            v.kind = v.kind == CONTROL_ROTATED && v.small == 32 ? CONTROL_INDEX : CONTROL_INDEX16;
            v.value = ++c->values;
            set(s, to, v);
            return true;
        }
        if (c->operand[1].type == ZYDIS_OPERAND_TYPE_MEMORY &&
            c->operand[1].mem.segment == ZYDIS_REGISTER_GS) {
            /* a check: r9 = address rotated by 20, the class in the displacement */
            from = control_register(c->operand[1].mem.base);
            struct control_value fact = from < 16 ? s->reg[from] : guest_value(c);
            unsigned class = (unsigned)((uint32_t)c->operand[1].mem.disp.value >> 29) - 1;
            if (fact.kind != CONTROL_ROTATED || fact.small != 20 || class > 3 ||
                (uint32_t)c->operand[1].mem.disp.value != TR_CHECK_BASE(class) ||
                s->nchecked == sizeof(s->checked) / sizeof(s->checked[0])) {
                control_say(c, "a check that checks nothing");
            } else {
                fact.small = (uint8_t) class;
                s->checked[s->nchecked++] = fact;
            }
            set(s, to, guest_value(c));
            return true;
        }
        return false;
    case ZYDIS_MNEMONIC_PEXT: /* by the table's mask */
        if (!reg_operand(c, 0, 32, &to) || !reg_operand(c, 2, 32, &from) ||
            s->reg[from].kind != CONTROL_CONST || (uint64_t)s->reg[from].offset >= CC_TABLE_ENTRIES)
            return false;
        set(s, to, (struct control_value){.kind = CONTROL_INDEX16, .value = ++c->values});
        return true;
    default:
        return false;
    }
}

/* Additions of constants, complements, and shifts that leave 6 bits. */
static bool arithmetic(struct control *c, struct control_state *s)
{
    unsigned to, from, count;
    int64_t by = 0;

    switch (c->zi.mnemonic) {
    case ZYDIS_MNEMONIC_INC:
        by = 1;
        break;
    case ZYDIS_MNEMONIC_DEC:
        by = -1;
        break;
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_SUB:
        if (c->operand[1].type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
            return false;
        by = c->operand[1].imm.value.s;
        by = c->zi.mnemonic == ZYDIS_MNEMONIC_SUB ? -by : by;
        break;
    case ZYDIS_MNEMONIC_NOT:
        if (!reg_operand(c, 0, 64, &to) || s->reg[to].kind != CONTROL_DELTA)
            return false;
        s->reg[to].kind = CONTROL_NOT_DELTA;
        return true;
    case ZYDIS_MNEMONIC_SHRX:
        if (!reg_operand(c, 0, 64, &to) || !reg_operand(c, 1, 64, &from) ||
            !reg_operand(c, 2, 64, &count) || is_secret(&s->reg[from]) ||
            s->reg[count].kind != CONTROL_CONST || s->reg[count].offset < 58 ||
            s->reg[count].offset > 63)
            return false;
        set(s, to, (struct control_value){.kind = CONTROL_SMALL, .value = ++c->values});
        return true;
    default:
        return false;
    }
    if (!reg_operand(c, 0, 64, &to))
        return false;
    if (s->reg[to].kind == CONTROL_CONST) {
        s->reg[to].offset = (int64_t)((uint64_t)s->reg[to].offset + (uint64_t)by);
        return true;
    }
    if (s->reg[to].kind != CONTROL_GUEST || !within(s->reg[to].offset + by, 0, (int64_t)1 << 40))
        return false;
    s->reg[to].offset += by;
    return true;
}

/* PUSH and POP of any form, PUSHFQ, POPFQ: memory was looked at already. */
static bool stack(struct control *c, struct control_state *s)
{
    struct control_value *sp = &s->reg[RT_SP];
    bool push = c->zi.meta.category == ZYDIS_CATEGORY_PUSH;
    unsigned reg;
    size_t at;

    if (!push && c->zi.meta.category != ZYDIS_CATEGORY_POP)
        return false;
    if (c->zi.operand_width != 64)
        control_say(c, "a push or pop that is not of 64 bits");
    if (sp->kind == CONTROL_HOST_SP)
        sp->offset += push ? -8 : 8;
    if (c->operand[0].visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
        return true; /* flags */
    if (c->operand[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
        (reg = control_register(c->operand[0].reg.value)) < 16) {
        if (reg == RT_SP || (push && is_secret(&s->reg[reg])))
            control_say(c, "a host address on the stack");
        if (!push)
            set(s, reg, guest_value(c));
    } else if (field_operand(c, 0, &at)) {
        if (spilled_index(at) < 0)
            control_say(c, "pushes or pops a field of rt_cpu");
        else if (!push)
            s->spilled[spilled_index(at)] = guest_value(c);
    }
    return true;
}

/* ---- gathers: the steps of long_gather.c's check, in order ---- */

static uint8_t vector_id(const struct control *c, unsigned i)
{
    return (uint8_t)ZydisRegisterGetId(c->operand[i].reg.value);
}

static bool gather_constant(struct control *c, size_t quad, size_t plain)
{
    size_t at, here = c->operand[0].size / 8;

    if (c->zi.encoding != ZYDIS_INSTRUCTION_ENCODING_VEX || c->zi.operand_count < 3 ||
        !field_operand(c, 2, &at))
        return false;
    return here && (at == quad || at == plain);
}

#define HALF(field)  (offsetof(struct rt_cpu, field) + 32)
#define WHOLE(field) offsetof(struct rt_cpu, field)

/* The same with k1: below the one limit, and not below the other. */
static bool mask_steps(struct control *c, struct control_state *s)
{
    bool quad = c->zi.mnemonic == ZYDIS_MNEMONIC_VPCMPQ;
    unsigned predicate = (unsigned)c->operand[4].imm.value.u;
    size_t at;
    unsigned to;

    if (c->zi.mnemonic == ZYDIS_MNEMONIC_KMOVD && s->gather_step == 12 &&
        c->operand[1].reg.value == ZYDIS_REGISTER_K1 && reg_operand(c, 0, 32, &to)) {
        set(s, to,
            (struct control_value){
                .kind = CONTROL_LANES, .value = ++c->values, .offset = s->gather_wide});
        s->gather_step = 0;
        return true;
    }
    if ((!quad && c->zi.mnemonic != ZYDIS_MNEMONIC_VPCMPD) ||
        c->operand[0].reg.value != ZYDIS_REGISTER_K1 || !field_operand(c, 3, &at) ||
        !c->zi.avx.broadcast.mode)
        return false;
    if (at == (quad ? HALF(gather_add) : WHOLE(gather_add)) && predicate == 1 &&
        c->operand[1].reg.value == ZYDIS_REGISTER_K0) {
        s->gather_step = 11;
        s->gather_near = false;
        s->gather_index = vector_id(c, 2);
        s->gather_wide = (uint8_t)(c->operand[2].size / (quad ? 64 : 32));
    } else if (at == (quad ? HALF(gather_and) : WHOLE(gather_and)) && predicate == 5 &&
               s->gather_step == 11 && c->operand[1].reg.value == ZYDIS_REGISTER_K1 &&
               vector_id(c, 2) == s->gather_index) {
        s->gather_step = 12;
    } else {
        return false;
    }
    return true;
}

static bool gather_steps(struct control *c, struct control_state *s)
{
    unsigned to;
    bool add = c->zi.mnemonic == ZYDIS_MNEMONIC_VPADDD || c->zi.mnemonic == ZYDIS_MNEMONIC_VPADDQ;
    bool quad = c->zi.mnemonic == ZYDIS_MNEMONIC_VPADDQ;

    if (add && gather_constant(c, quad ? HALF(gather_add) : WHOLE(gather_add), SIZE_MAX)) {
        s->gather_step = 1;
        s->gather_near = false;
        s->gather_index = vector_id(c, 1);
        s->gather_scratch = vector_id(c, 0);
        s->gather_wide = (uint8_t)(c->operand[0].size / (quad ? 64 : 32));
    } else if (s->gather_step == 1 && c->zi.mnemonic == ZYDIS_MNEMONIC_VPAND &&
               gather_constant(c, HALF(gather_and), WHOLE(gather_and)) &&
               vector_id(c, 0) == s->gather_scratch && vector_id(c, 1) == s->gather_scratch) {
        s->gather_step = 2;
    } else if (s->gather_step == 2 &&
               (c->zi.mnemonic == ZYDIS_MNEMONIC_VPCMPEQD ||
                c->zi.mnemonic == ZYDIS_MNEMONIC_VPCMPEQQ) &&
               gather_constant(c, WHOLE(gather_zero), SIZE_MAX) &&
               vector_id(c, 0) == s->gather_scratch && vector_id(c, 1) == s->gather_scratch) {
        s->gather_step = 3;
    } else if (s->gather_step == 3 &&
               (c->zi.mnemonic == ZYDIS_MNEMONIC_VMOVMSKPS ||
                c->zi.mnemonic == ZYDIS_MNEMONIC_VMOVMSKPD) &&
               vector_id(c, 1) == s->gather_scratch) {
        to = control_register(c->operand[0].reg.value);
        set(s, to,
            (struct control_value){
                .kind = CONTROL_LANES, .value = ++c->values, .offset = s->gather_wide});
        s->gather_step = 0;
        return true;
    } else if (s->gather_step && c->operand[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
               vector_id(c, 0) == s->gather_scratch) {
        s->gather_step = 0;
    }
    return false;
}

/* lea -all(%r9), %ecx */
static bool gather_difference(struct control *c, struct control_state *s)
{
    const ZydisDecodedOperand *o = &c->operand[1];
    unsigned to, base = control_register(o->mem.base);

    if (c->zi.mnemonic != ZYDIS_MNEMONIC_LEA || !reg_operand(c, 0, 32, &to) || base > 15 ||
        s->reg[base].kind != CONTROL_LANES || o->mem.index != ZYDIS_REGISTER_NONE ||
        o->mem.disp.value != -((int64_t)1 << s->reg[base].offset) + 1)
        return false;
    set(s, to, (struct control_value){.kind = CONTROL_LANES_OFF, .value = ++c->values});
    return true;
}

void control_jrcxz64(struct control_state *s)
{
    if (s->reg[RT_CX].kind == CONTROL_LANES_OFF)
        s->gather_near = true;
}

/* ---- everything else ---- */

static bool is_zeroing(const struct control *c)
{
    return (c->zi.mnemonic == ZYDIS_MNEMONIC_XOR || c->zi.mnemonic == ZYDIS_MNEMONIC_SUB) &&
           c->operand[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
           c->operand[1].type == ZYDIS_OPERAND_TYPE_REGISTER &&
           c->operand[0].reg.value == c->operand[1].reg.value;
}

static void fields_in_place(struct control *c, struct control_state *s,
                            const ZydisDecodedOperand *o)
{
    size_t at;

    if (o->type != ZYDIS_OPERAND_TYPE_MEMORY || !control_is_state(c, o, &at))
        return;
    if ((o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) && !is_writable(at))
        control_say(c, "writes a field of rt_cpu that is not for translated code");
    if ((o->actions & ZYDIS_OPERAND_ACTION_MASK_READ) && !is_public(at))
        control_say(c, "reads a field of rt_cpu that is not for translated code");
    (void)s;
}

static void generic(struct control *c, struct control_state *s)
{
    for (unsigned i = 0; i < c->zi.operand_count; i++) {
        const ZydisDecodedOperand *o = &c->operand[i];
        fields_in_place(c, s, o);
        unsigned reg = o->type == ZYDIS_OPERAND_TYPE_REGISTER ? control_register(o->reg.value) : 99;
        if (reg > 15)
            continue;
        bool partial = (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) &&
                       (o->size < 32 || (o->actions & ZYDIS_OPERAND_ACTION_CONDWRITE));
        if (((o->actions & ZYDIS_OPERAND_ACTION_MASK_READ) || partial) && is_secret(&s->reg[reg]) &&
            !is_zeroing(c) && !(is_string(c) && (reg == RT_SI || reg == RT_DI)))
            control_say(c, "computes with a host address");
        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY)
            continue;
    }
    for (unsigned i = 0; i < c->zi.operand_count; i++) {
        const ZydisDecodedOperand *o = &c->operand[i];
        unsigned reg = o->type == ZYDIS_OPERAND_TYPE_REGISTER ? control_register(o->reg.value) : 99;
        if (reg > 15 || !(o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
            continue;
        if (reg == RT_SP)
            control_say(c, "rsp is written");
        if (is_string(c) && (reg == RT_SI || reg == RT_DI) && s->reg[reg].kind == CONTROL_HOST)
            continue; /* further on, by the same delta */
        set(s, reg, guest_value(c));
    }
}

/* mov %r10, %rsp and the load of host_sp are moves; what they leave in rsp must be a stack. */
static void check_rsp(struct control *c, const struct control_state *s)
{
    if (s->reg[RT_SP].kind != CONTROL_STACK && s->reg[RT_SP].kind != CONTROL_HOST_SP)
        control_say(c, "rsp is no stack");
}

void control_step64(struct control *c, struct control_state *s)
{
    check_memory(c, s);
    if (!mask_steps(c, s) && !gather_steps(c, s) && !move(c, s) && !gather_difference(c, s) &&
        !lea(c, s) && !rotate_or_extend(c, s) && !arithmetic(c, s) && !stack(c, s))
        generic(c, s);
    for (unsigned i = 0; i < c->zi.operand_count; i++) {
        if (c->operand[i].type == ZYDIS_OPERAND_TYPE_MEMORY && !is_address_only(c, &c->operand[i]))
            touch_stack(c, s, &c->operand[i]);
    }
    check_rsp(c, s);
}
