/* generate.c - random sequences: instructions of random forms, hot loops, branches with their
 * targets, and pieces that need preparation to be worth running (gathers). */
#include "tests/diff/diff.h"

#include "runtime/vcpu.h"

#include <stdio.h>
#include <string.h>

/* ---- items ---- */

static void item_set(struct item *item, const void *bytes, unsigned len)
{
    memset(item, 0, sizeof(*item));
    memcpy(item->bytes, bytes, len);
    item->len = (uint8_t)len;
}

/* The instruction that starts at item.bytes[at]: what blob.c has to know of it. */
static void item_note(struct item *item, unsigned at, const struct tr_insn *insn)
{
    if (insn->base == 16 && insn->has_mem) {
        item->rip_at = (uint8_t)(at + insn->disp_at);
        item->rip_end = (uint8_t)(at + insn->len);
    }
}

static void sequence_note(struct sequence *s, const struct tr_insn *insn)
{
    s->vector |= insn_is_vector(insn);
    s->bases |= insn->op == TR_OP_wrfsbase || insn->op == TR_OP_wrgsbase;
}

static uint8_t *put_count(struct random *r, uint8_t *p)
{
    uint32_t n = 1 + random_below(r, 9);

    *p++ = 0xb8 | RT_CX;
    memcpy(p, &n, 4);
    return p + (diff_mode == TR_MODE_16 ? 2 : 4);
}

/* A loop that is run until hot: mov $n, %ecx; L: instruction; loop L */
static bool put_hot_loop(struct random *r, struct sequence *s, unsigned flavour)
{
    struct item *item = &s->item[s->n];
    struct tr_insn insn;
    uint8_t bytes[48], *p;

    for (unsigned i = 0; i < 8; i++) {
        if (!form_pick(r, flavour, &insn) || insn.op == TR_OP_popa ||
            registers_written(insn.bytes, insn.len) & 1u << RT_CX)
            continue;
        p = put_count(r, bytes);
        unsigned at = (unsigned)(p - bytes);
        memcpy(p, insn.bytes, insn.len);
        p += insn.len;
        *p++ = 0xe2;
        *p++ = (uint8_t) - (insn.len + 2);
        item_set(item, bytes, (unsigned)(p - bytes));
        item_note(item, at, &insn);
        sequence_note(s, &insn);
        s->n++;
        return true;
    }
    return false;
}

/* ---- branches ---- */

/* Bytes of an item as they grow. */
struct text {
    uint8_t b[48];
    unsigned len, fix_at, fix_size;
};

static void add(struct text *t, const void *bytes, unsigned n)
{
    memcpy(t->b + t->len, bytes, n);
    t->len += n;
}
static void add1(struct text *t, unsigned b)
{
    t->b[t->len++] = (uint8_t)b;
}
/* The target goes here: as struct item says. */
static void add_fix(struct text *t, unsigned size)
{
    t->fix_at = t->len;
    t->fix_size = size;
    t->len += size == 5 ? 4 : size == 6 ? 2 : size;
    memset(t->b + t->fix_at, 0, t->len - t->fix_at);
}
/* A relative displacement of the operand size. */
static void add_rel(struct text *t)
{
    add_fix(t, diff_mode == TR_MODE_16 ? 2 : 4);
}
/* mov $target, %reg */
static void add_target(struct text *t, unsigned reg)
{
    if (long_mode())
        add1(t, 0x48 | (reg >= 8));
    add1(t, 0xb8 | (reg & 7));
    add_fix(t, diff_mode == TR_MODE_16 ? 6 : long_mode() ? 8 : 5);
}

/* push target; ret or ret $n */
static void add_ret(struct random *r, struct text *t, bool plain)
{
    unsigned reg = random_below(r, 3);

    add_target(t, reg);
    add1(t, 0x50 | reg);
    add1(t, plain ? 0xc3 : 0xc2);
    if (!plain) {
        add1(t, random_32(r));
        add1(t, 0);
    }
}

/* mov $target, %reg; jmp or call *%reg */
static void add_register(struct random *r, struct text *t, bool call)
{
    static const uint8_t regs[] = {RT_AX, RT_CX, RT_DX, 8, 9, 11, 15};
    unsigned reg = regs[random_below(r, long_mode() ? 7 : 3)];

    add_target(t, reg);
    if (reg >= 8)
        add1(t, 0x41);
    add1(t, 0xff);
    add1(t, (call ? 0xd0u : 0xe0u) | (reg & 7));
}

/* mov $target, %eax; mov %eax, slot; jmp or call *slot; through GS at times */
static void add_memory(struct random *r, struct text *t, bool call)
{
    uint32_t slot = (ARENA | (arena_pointer(r) & 0xffff)) & ~7u;
    unsigned size = diff_mode == TR_MODE_16 ? 2 : 4;

    add_target(t, RT_AX);
    if (long_mode())
        add1(t, 0x48);
    add(t,
        long_mode()               ? "\x89\x04\x25"
        : diff_mode == TR_MODE_16 ? "\x89\x06"
                                  : "\x89\x05",
        long_mode() ? 3 : 2);
    add(t, &slot, size);
    if (diff_mode != TR_MODE_16 && one_in(r, 3)) {
        add1(t, 0x65);
        slot -= GS_BASE;
    }
    add1(t, 0xff);
    add1(t, (call ? 0x10u : 0x20u) | (long_mode() ? 4u : diff_mode == TR_MODE_16 ? 6u : 5u));
    if (long_mode())
        add1(t, 0x25);
    add(t, &slot, size);
}

/* To a register's value: where no code is. The registers with other branches' targets are left out,
 * which would make endless loops. */
static void add_wild(struct random *r, struct text *t, bool call)
{
    unsigned reg = RT_BX + random_below(r, 5);

    if (one_in(r, 2)) {
        add1(t, 0x50 | reg);
        add1(t, 0xc3);
    } else {
        add1(t, 0xff);
        add1(t, (call ? 0xd0u : 0xe0u) | reg);
    }
}

static void put_branch(struct random *r, struct item *item)
{
    struct text t = {.len = 0};
    bool call = one_in(r, 2);

    /* Not the wild ones in 16-bit code, where every offset is in the code segment. */
    switch (random_below(r, diff_mode == TR_MODE_16 ? 40 : 45)) {
    case 0 ... 7: /* jcc rel8 */
        add1(&t, 0x70 | random_below(r, 16));
        add_fix(&t, 1);
        break;
    case 8 ... 15: /* jcc rel32 */
        add1(&t, 0x0f);
        add1(&t, 0x80 | random_below(r, 16));
        add_rel(&t);
        break;
    case 16 ... 19: /* jmp rel8, rel32 */
        add1(&t, call ? 0xeb : 0xe9);
        if (call)
            add_fix(&t, 1);
        else
            add_rel(&t);
        break;
    case 20 ... 23: /* loopne, loope, loop, jecxz */
        if (one_in(r, 8))
            add1(&t, 0x67);
        add1(&t, 0xe0 | random_below(r, 4));
        add_fix(&t, 1);
        break;
    case 24 ... 27:
        add1(&t, 0xe8);
        add_rel(&t);
        break;
    case 28 ... 31:
        add_ret(r, &t, call);
        break;
    case 32 ... 35:
        add_register(r, &t, call);
        break;
    case 36 ... 38:
        add_memory(r, &t, call);
        break;
    case 44:
        add_wild(r, &t, call);
        break;
    default: /* call f; jmp over; f: ret; over: */
        add1(&t, 0xe8);
        add1(&t, 2);
        add(&t, "\0\0\0", diff_mode == TR_MODE_16 ? 1 : 3);
        add(&t, "\xeb\x01\xc3", 3);
        break;
    }
    item_set(item, t.b, t.len);
    item->fix_at = (uint8_t)t.fix_at;
    item->fix_size = (uint8_t)t.fix_size;
    item->skip = (uint8_t)random_below(r, 4);
}

/* ---- sequences ---- */

/* Before a gather or scatter: vpsrld or vpsrlq $n on its index register, so that most elements are
 * in the arena. */
static void put_small_index(struct random *r, struct sequence *s, const struct tr_insn *insn)
{
    unsigned index = insn->index & 31, wide = one_in(r, 2), l = 2;
    unsigned shift = (wide ? 52 : 20) + random_below(r, 6);
    uint8_t b[16];

    if (insn->index < 0 || host_vector_level() < 2)
        return;
    b[0] = 0x62;
    b[1] = (uint8_t)(0xf1 & ~((index & 8 ? 0x20u : 0) | (index & 16 ? 0x40u : 0)));
    b[2] = (uint8_t)(wide << 7 | (~index & 15) << 3 | 5);
    b[3] = (uint8_t)(l << 5 | (index & 16 ? 0u : 8u));
    b[4] = wide ? 0x73 : 0x72;
    b[5] = (uint8_t)(0xd0 | (index & 7));
    b[6] = (uint8_t)shift;
    item_set(&s->item[s->n++], b, 7);
}

static void put_insn(struct random *r, struct sequence *s, const struct tr_insn *insn)
{
    if (insn->vsib && s->n + 1 < ITEMS_MAX && !one_in(r, 4))
        put_small_index(r, s, insn);
    item_set(&s->item[s->n], insn->bytes, insn->len);
    item_note(&s->item[s->n], 0, insn);
    sequence_note(s, insn);
    s->n++;
}

/* mov %ss, %eax; mov %eax, %ss; or push %ss; pop %ss: holds traps and interrupts back until behind
 * the next instruction. */
static void put_shadow(struct random *r, struct sequence *s)
{
    if (!long_mode() && one_in(r, 3))
        item_set(&s->item[s->n++], "\x16\x17", 2);
    else
        item_set(&s->item[s->n++], "\x8c\xd0\x8e\xd0", 4);
}

static void put_item(struct random *r, struct sequence *s, unsigned flavour)
{
    struct tr_insn insn;

    if (one_in(r, 50)) {
        put_shadow(r, s);
        return;
    }
    if (one_in(r, 8)) {
        put_branch(r, &s->item[s->n++]);
        return;
    }
    if (one_in(r, 12)) {
        put_hot_loop(r, s, flavour);
        return;
    }
    if (!form_pick(r, one_in(r, 3) ? INTEGER : flavour, &insn))
        return;
    /* POPF may set AC, and then the slow path and the CPU differ in the order of faults. */
    if (insn.op == TR_OP_popf && flavour != INTEGER)
        return;
    put_insn(r, s, &insn);
}

void generate_sequence(struct random *r, struct sequence *s)
{
    static const uint8_t flavours[] = {INTEGER, INTEGER, INTEGER, INTEGER, INTEGER, INTEGER,
                                       X87,     X87,     MMX,     SSE,     SSE,     SSE,
                                       AVX,     AVX,     AVX512,  AVX512};
    unsigned flavour = flavours[random_below(r, sizeof(flavours))];
    unsigned want = 1 + random_below(r, ITEMS_MAX);

    memset(s, 0, sizeof(*s));
    for (unsigned tries = 0; s->n < want && tries < 2 * ITEMS_MAX; tries++)
        put_item(r, s, flavour_is_there(flavour) ? flavour : INTEGER);
}

void generate_form(struct random *r, unsigned i, struct sequence *s)
{
    struct tr_insn insn;

    memset(s, 0, sizeof(*s));
    if (form_instruction(r, i, &insn))
        put_insn(r, s, &insn);
}

void sequence_print(const struct sequence *s, uint64_t pc)
{
    for (unsigned i = 0; i < s->n; i++) {
        const struct item *item = &s->item[i];
        for (unsigned at = 0; at < item->len;) {
            struct tr_insn insn;
            char text[128];
            if (tr_decode(item->bytes + at, item->len - at, diff_mode, &insn) != TR_DECODE_OK)
                break;
            tr_format(&insn, pc + at, text, sizeof(text));
            printf("    %08llx ", (unsigned long long)(pc + at));
            for (unsigned k = 0; k < 12 || k < insn.len; k++)
                printf(k < insn.len ? "%02x" : "  ", k < insn.len ? insn.bytes[k] : 0);
            printf("  %s\n", text);
            at += insn.len;
        }
        pc += item->len;
        if (item->fix_size)
            printf("             (to behind the next %u)\n", item->skip);
        if (item->rip_end) {
            uint32_t low;
            memcpy(&low, item->bytes + item->rip_at, 4);
            printf("             (relative to rip: the arena's %x)\n", low - ARENA);
        }
    }
}
