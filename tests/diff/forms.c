/* forms.c - the instruction forms that the decoder knows, and their bytes.
 *
 * A form is an encoding (legacy, VEX or EVEX), an opcode map, a mandatory prefix, an opcode, W, L,
 * and whether ModRM names memory. forms_list() tries them all and keeps those that the decoder
 * takes and the policy table calls innocuous, or sensitive with a result that is the same
 * everywhere (PUSHF, CLI: #GP, AAM, ...). Everything else in an instruction is random; what does
 * not decode is thrown away.
 *
 * Not generated: what differs by nature (RDTSC, CPUID, SGDT, FXSAVE's pointers), what reaches the
 * host (INT n, SYSENTER), what depends on descriptor tables (LAR, far branches, segment loads). */
#include "tests/diff/diff.h"

#include "runtime/vcpu.h"
#include "translator/policy.h"

#include <Zydis/Zydis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum encoding { LEGACY, VEX, EVEX };

struct form {
    uint8_t encoding, map, prefix, opcode; /* prefix: 0 none, 1 66h, 2 F3h, 3 F2h */
    uint8_t w, l;
    bool memory, modrm, ud;
    uint8_t flavour;
};

static uint32_t chosen[ZYDIS_MNEMONIC_MAX_VALUE + 1]; /* how often each mnemonic was generated */

#define FORMS_MAX 12000
static struct form forms[FORMS_MAX];
static unsigned form_count, of_flavour[FLAVOURS][FORMS_MAX], in_flavour[FLAVOURS];

/* ---- which instructions ---- */

static bool op_allowed(const struct tr_insn *insn)
{
    switch (insn->op) {
    case TR_OP_copy:
    case TR_OP_nop:
    case TR_OP_push:
    case TR_OP_pop:
    case TR_OP_pusha:
    case TR_OP_popa:
    case TR_OP_enter:
    case TR_OP_leave:
    case TR_OP_pushf:
    case TR_OP_popf:
    case TR_OP_movs:
    case TR_OP_stos:
    case TR_OP_lods:
    case TR_OP_scas:
    case TR_OP_cmps:
    case TR_OP_ins:
    case TR_OP_outs:
    case TR_OP_xlat:
    case TR_OP_maskmov:
    case TR_OP_aaa:
    case TR_OP_aas:
    case TR_OP_aam:
    case TR_OP_aad:
    case TR_OP_daa:
    case TR_OP_das:
    case TR_OP_salc:
    case TR_OP_bound:
    case TR_OP_arpl:
    case TR_OP_into:
    case TR_OP_mov_from_sreg:
    case TR_OP_push_sreg:
    case TR_OP_int3:
    case TR_OP_cli:
    case TR_OP_sti:
    case TR_OP_hlt:
    case TR_OP_clac:
    case TR_OP_stac:
    case TR_OP_mov_to_cr:
    case TR_OP_mov_from_cr:
    case TR_OP_mov_to_dr:
    case TR_OP_mov_from_dr:
    case TR_OP_lmsw:
    case TR_OP_clts:
    case TR_OP_invlpg:
    case TR_OP_invd:
    case TR_OP_wbinvd:
    case TR_OP_rdmsr:
    case TR_OP_wrmsr:
    case TR_OP_in:
    case TR_OP_out:
    case TR_OP_fldenv:
    case TR_OP_frstor:
    case TR_OP_fxrstor:
    case TR_OP_wait:
    case TR_OP_movdir64b:
    case TR_OP_ud:
    case TR_OP_rdfsbase:
    case TR_OP_rdgsbase:
    case TR_OP_wrfsbase:
    case TR_OP_wrgsbase:
    case TR_OP_swapgs:
        break;
    default:
        return false;
    }
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_RDRAND:
    case ZYDIS_MNEMONIC_RDSEED:
        return false;
    default:
        return true;
    }
}

static enum flavour flavour_of(const struct tr_insn *insn)
{
    switch (insn->feature) {
    case TR_F_X87:
    case TR_F_WAIT:
        return X87;
    case TR_F_MMX:
        return MMX;
    case TR_F_SSE:
        return SSE;
    case TR_F_AVX:
        return AVX;
    case TR_F_AVX512:
        return AVX512;
    default:
        return INTEGER;
    }
}

static ZydisMachineMode zydis_mode(void)
{
    return diff_mode == TR_MODE_64   ? ZYDIS_MACHINE_MODE_LONG_64
           : diff_mode == TR_MODE_32 ? ZYDIS_MACHINE_MODE_LEGACY_32
                                     : ZYDIS_MACHINE_MODE_LEGACY_16;
}

/* The number of the general register that this one is part of, or -1. */
static int register_number(ZydisRegister reg)
{
    ZydisRegister full = ZydisRegisterGetLargestEnclosing(
        long_mode() ? ZYDIS_MACHINE_MODE_LONG_64 : ZYDIS_MACHINE_MODE_LEGACY_32, reg);

    if (full >= ZYDIS_REGISTER_EAX && full <= ZYDIS_REGISTER_EDI)
        return (int)(full - ZYDIS_REGISTER_EAX);
    if (full >= ZYDIS_REGISTER_RAX && full <= ZYDIS_REGISTER_R15)
        return (int)(full - ZYDIS_REGISTER_RAX);
    return -1;
}

unsigned registers_written(const uint8_t *bytes, unsigned len)
{
    ZydisDecoder decoder;
    ZydisDecodedInstruction zi;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    unsigned written = 0;

    ZydisDecoderInit(&decoder, zydis_mode(),
                     diff_mode == TR_MODE_64   ? ZYDIS_STACK_WIDTH_64
                     : diff_mode == TR_MODE_32 ? ZYDIS_STACK_WIDTH_32
                                               : ZYDIS_STACK_WIDTH_16);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, len, &zi, operands)))
        return 0;
    for (unsigned i = 0; i < zi.operand_count; i++) {
        const ZydisDecodedOperand *o = &operands[i];
        if (o->type != ZYDIS_OPERAND_TYPE_REGISTER ||
            !(o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
            continue;
        int number = register_number(o->reg.value);
        if (number >= 0)
            written |= 1u << number;
    }
    return written;
}

static unsigned pointer_mask(void)
{
    const uint8_t *regs;
    unsigned n = pointer_registers(&regs), mask = 0;

    while (n-- > 0)
        mask |= 1u << regs[n];
    return mask;
}

/* Whether the instruction leaves the pointers alone, or may overwrite them this time. */
static bool pointers_survive(struct random *r, const struct tr_insn *insn)
{
    unsigned written;

    if (insn->cls == TR_STRING || insn->op == TR_OP_leave || insn->op == TR_OP_enter ||
        insn->op == TR_OP_push || insn->op == TR_OP_pusha || insn->op == TR_OP_pushf)
        return true;
    written = registers_written(insn->bytes, insn->len);
    if (insn->op == TR_OP_pop || insn->op == TR_OP_popf)
        written &= ~(1u << RT_SP);
    if (insn->op == TR_OP_popa)
        return one_in(r, 4);
    if ((written & 1u << RT_SP) && !one_in(r, 40))
        return false;
    return !(written & pointer_mask() & ~(1u << RT_SP)) || one_in(r, 8);
}

/* ---- operands ---- */

static uint8_t *put16(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, 2);
    return p + 2;
}

static uint8_t *put32(uint8_t *p, uint64_t v)
{
    memcpy(p, &v, 4);
    return p + 4;
}

static uint32_t small_offset(struct random *r)
{
    static const uint32_t align[] = {~0u, ~3u, ~15u, ~63u};
    uint32_t offset = random_below(r, 0x800) - 0x400;

    return offset & align[random_below(r, 4)];
}

static unsigned random_pointer(struct random *r)
{
    const uint8_t *regs;
    unsigned n = pointer_registers(&regs);

    return regs[random_below(r, n)];
}

/* The upper bits of register fields, as REX has them. */
enum { FIELD_B = 1, FIELD_X = 2, FIELD_R = 4 };

static unsigned data_index(struct random *r)
{
    static const uint8_t long_ones[] = {RT_AX, RT_CX, RT_DX, 8, 11, 15};
    return long_mode() ? long_ones[random_below(r, sizeof(long_ones))] : random_below(r, 3);
}

/* disp(base): disp_size 0, 1 or 4 */
static uint8_t *put_base(struct random *r, uint8_t *p, unsigned reg, unsigned base,
                         unsigned disp_size)
{
    *p++ = (uint8_t)((disp_size == 0   ? 0u
                      : disp_size == 1 ? 0x40u
                                       : 0x80u) |
                     reg << 3 | (base & 7));
    if ((base & 7) == RT_SP)
        *p++ = 0x24;
    if (disp_size == 1)
        *p++ = (uint8_t)random_32(r);
    return disp_size == 4 ? put32(p, small_offset(r)) : p;
}

/* A constant address, or RIP and a displacement, which starts out as an address (struct item). */
static uint8_t *put_constant(struct random *r, uint8_t *p, unsigned reg)
{
    if (long_mode() && one_in(r, 3)) {
        *p++ = (uint8_t)(reg << 3 | 4);
        *p++ = 0x25;
    } else {
        *p++ = (uint8_t)(reg << 3 | 5);
    }
    return put32(p, ARENA | (arena_pointer(r) & 0xffff));
}

static uint8_t *put_sib(struct random *r, uint8_t *p, unsigned reg, unsigned base, unsigned index)
{
    *p++ = (uint8_t)(0x84 | reg << 3);
    *p++ = (uint8_t)(random_below(r, 4) << 6 | (index & 7) << 3 | (base & 7));
    return put32(p, small_offset(r));
}

/* ModRM with a memory operand, SIB and displacement; *fields gets X and B. */
static uint8_t *put_memory(struct random *r, uint8_t *p, unsigned reg, unsigned *fields)
{
    unsigned base = random_pointer(r), index = data_index(r);
    unsigned kind = random_below(r, 16), mod;

    *fields = base >> 3;
    if (kind < 9)
        return put_base(r, p, reg, base, one_in(r, 2) ? 1 : 4);
    if (kind < 11 && (base & 7) != RT_BP)
        return put_base(r, p, reg, base, 0);
    if (kind < 13)
        return put_constant(r, p, reg);
    if (kind < 15) {
        *fields |= index >> 3 << 1;
        return put_sib(r, p, reg, base, index);
    }
    if (!one_in(r, 3)) /* the base alone, through a SIB */
        return put_sib(r, p, reg, base, 4);
    *fields = random_below(r, 4);
    mod = random_below(r, 3); /* anything */
    *p++ = (uint8_t)(mod << 6 | reg << 3 | random_below(r, 8));
    for (unsigned i = 0; i < 5; i++)
        *p++ = (uint8_t)random_32(r);
    return p;
}

/* 16-bit addressing (SDM 2, table 2-1): bx, bp, si and di are pointers, so two of them seldom hit
 * what one does; that is as good. */
static uint8_t *put_memory16(struct random *r, uint8_t *p, unsigned reg)
{
    unsigned mod = random_below(r, 3),
             rm = one_in(r, 3) ? random_below(r, 4) : 4 | random_below(r, 4);

    *p++ = (uint8_t)(mod << 6 | reg << 3 | rm);
    if (mod == 1)
        *p++ = (uint8_t)random_32(r);
    else if (mod == 2)
        p = put16(p, small_offset(r));
    else if (rm == 6)
        p = put16(p, (uint32_t)arena_pointer(r));
    return p;
}

/* ---- prefixes ---- */

static uint8_t *put_prefixes(struct random *r, uint8_t *p, const struct form *f, bool *ad_changed)
{
    static const uint8_t segments[] = {0x26, 0x36, 0x3e, 0x26, 0x36, 0x3e, 0x26, 0x36, 0x3e,
                                       0x2e, 0x64, 0x65, 0x65, 0x65, 0x65, 0x65, 0x65};

    if (one_in(r, 32) || (f->memory && one_in(r, 12)))
        *p++ = segments[random_below(r, sizeof(segments))];
    unsigned one_of = diff_mode == TR_MODE_32 ? 80 : 16;
    if (diff_mode == TR_MODE_16 && f->encoding != LEGACY)
        one_of = 2; /* SIB is in 32-bit addresses only */
    if (one_in(r, one_of)) {
        *p++ = 0x67;
        *ad_changed = true;
    }
    if (f->encoding != LEGACY)
        return p;
    if (one_in(r, f->memory && f->flavour == INTEGER ? 16 : 100))
        *p++ = 0xf0;
    if (one_in(r, diff_mode == TR_MODE_16 ? 4 : 40))
        *p++ = 0x66;
    if (one_in(r, 60))
        *p++ = one_in(r, 2) ? 0xf2 : 0xf3;
    return p;
}

static uint8_t *put_mandatory(uint8_t *p, const struct form *f)
{
    static const uint8_t bytes[] = {0, 0x66, 0xf3, 0xf2};

    if (f->encoding == LEGACY && f->prefix)
        *p++ = bytes[f->prefix];
    return p;
}

/* fields: what the operands need of the upper bits; R and what is not needed is random. */
static uint8_t *put_rex(struct random *r, uint8_t *p, const struct form *f, unsigned fields)
{
    unsigned rex = 0x40 | fields;

    rex |= one_in(r, 2) ? FIELD_R : 0;
    rex |= one_in(r, 2) ? 8 : 0;
    if (!long_mode() || f->encoding != LEGACY || (!fields && one_in(r, 2)))
        return p;
    *p++ = (uint8_t)rex;
    return p;
}

static uint8_t *put_vex(struct random *r, uint8_t *p, const struct form *f, unsigned fields)
{
    unsigned high = long_mode() ? 0 : 8;
    unsigned vvvv = one_in(r, 2) ? 15 : high | random_below(r, 16);
    bool r_bar = !long_mode() || one_in(r, 2);

    if (f->map == 1 && !f->w && !fields && one_in(r, 2)) {
        *p++ = 0xc5;
        *p++ = (uint8_t)(r_bar << 7 | vvvv << 3 | (f->l & 1u) << 2 | f->prefix);
        return p;
    }
    if (!long_mode()) {
        if (one_in(r, 8))
            vvvv &= 7; /* ignored in 32-bit code */
        fields = one_in(r, 8) ? FIELD_B : 0;
    }
    *p++ = 0xc4;
    *p++ = (uint8_t)(r_bar << 7 | (~fields & 3) << 5 | f->map);
    *p++ = (uint8_t)((unsigned)f->w << 7 | vvvv << 3 | (f->l & 1u) << 2 | f->prefix);
    return p;
}

static uint8_t *put_evex(struct random *r, uint8_t *p, const struct form *f, unsigned fields)
{
    unsigned vvvv = one_in(r, 2) ? 15 : (long_mode() ? 0 : 8) | random_below(r, 16);
    unsigned aaa = one_in(r, 2) ? 0 : random_below(r, 8), v_bar = 1, r_bars = 9;
    bool z = aaa && one_in(r, 2), b = one_in(r, 4);

    if (long_mode()) {
        if (one_in(r, 2)) {
            r_bars = random_below(r, 2) << 3;
            r_bars |= random_below(r, 2);
        }
        v_bar = one_in(r, 3) ? 0 : 1;
    } else {
        fields = one_in(r, 16) ? FIELD_B : 0;
    }
    *p++ = 0x62;
    *p++ = (uint8_t)(r_bars << 4 | (~fields & 3) << 5 | f->map);
    *p++ = (uint8_t)((unsigned)f->w << 7 | vvvv << 3 | 4 | f->prefix);
    *p++ = (uint8_t)((unsigned)z << 7 | (unsigned)f->l << 5 | (unsigned)b << 4 | v_bar << 3 | aaa);
    return p;
}

static uint8_t *put_opcode(struct random *r, uint8_t *p, const struct form *f, unsigned fields)
{
    static const uint8_t escapes[][2] = {{0x0f, 0}, {0x0f, 0x38}, {0x0f, 0x3a}};

    p = put_rex(r, p, f, fields);
    if (f->encoding == VEX) {
        p = put_vex(r, p, f, fields);
    } else if (f->encoding == EVEX) {
        p = put_evex(r, p, f, fields);
    } else if (f->map) {
        *p++ = escapes[f->map - 1][0];
        if (f->map > 1)
            *p++ = escapes[f->map - 1][1];
    }
    *p++ = f->opcode;
    return p;
}

static bool is_moffs(const struct form *f)
{
    return (f->opcode & 0xfc) == 0xa0 && f->encoding == LEGACY && f->map == 0;
}

/* Up to 15 bytes that may be an instruction of the form. */
static void put_candidate(struct random *r, const struct form *f, uint8_t *bytes, bool plain)
{
    uint8_t operand[16] = {0}, *p = bytes, *end = operand;
    unsigned fields = 0;
    bool ad_changed = false;

    memset(bytes, 0, 48);
    if (!plain)
        p = put_prefixes(r, p, f, &ad_changed);
    p = put_mandatory(p, f);
    if (f->modrm && f->memory)
        end = (diff_mode == TR_MODE_16) != ad_changed && !long_mode()
                  ? put_memory16(r, operand, random_below(r, 8))
                  : put_memory(r, operand, random_below(r, 8), &fields);
    else if (f->modrm)
        *end++ = (uint8_t)(0xc0 | random_below(r, 64));
    if (f->modrm && !f->memory && long_mode())
        fields = random_below(r, 4);
    if (!f->modrm && long_mode() && one_in(r, 2))
        fields = FIELD_B;
    p = put_opcode(r, p, f, fields);
    if (is_moffs(f)) {
        uint64_t address = arena_pointer(r);
        memcpy(operand, &address, 8);
        end = operand + (long_mode() && !ad_changed ? 8 : 4);
    }
    memcpy(p, operand, 16);
    p += end - operand;
    for (unsigned i = 0; i < 8; i++)
        p[i] = (uint8_t)(one_in(r, 2) ? random_32(r) : interesting(r));
}

/* Always a fault at CPL 3: one is as good as another. */
static bool privileged(const struct tr_insn *insn)
{
    switch (insn->op) {
    case TR_OP_ins:
    case TR_OP_outs:
    case TR_OP_in:
    case TR_OP_out:
    case TR_OP_cli:
    case TR_OP_sti:
    case TR_OP_hlt:
    case TR_OP_clac:
    case TR_OP_stac:
    case TR_OP_mov_to_cr:
    case TR_OP_mov_from_cr:
    case TR_OP_mov_to_dr:
    case TR_OP_mov_from_dr:
    case TR_OP_lmsw:
    case TR_OP_clts:
    case TR_OP_invlpg:
    case TR_OP_invd:
    case TR_OP_wbinvd:
    case TR_OP_rdmsr:
    case TR_OP_wrmsr:
    case TR_OP_ud:
    case TR_OP_swapgs:
    case TR_OP_int3:
    case TR_OP_into:
    case TR_OP_bound:
        return true;
    default:
        return insn->lock && !insn->has_mem;
    }
}

static const char *only; /* a mnemonic; NULL: all */

static bool decodes(const uint8_t *bytes, struct tr_insn *insn)
{
    return tr_decode(bytes, 15, diff_mode, insn) == TR_DECODE_OK && op_allowed(insn) &&
           (!only || !strcasecmp(only, ZydisMnemonicGetString(insn->mnemonic)));
}

bool form_instruction(struct random *r, unsigned i, struct tr_insn *insn)
{
    uint8_t bytes[48];

    for (unsigned n = 0; n < 24; n++) {
        put_candidate(r, &forms[i], bytes, false);
        if (decodes(bytes, insn) && pointers_survive(r, insn)) {
            chosen[insn->mnemonic]++;
            return true;
        }
    }
    return false;
}

bool form_pick(struct random *r, unsigned flavour, struct tr_insn *insn)
{
    for (unsigned n = 0; n < 16; n++) {
        unsigned i;
        if (!in_flavour[flavour])
            return false;
        i = of_flavour[flavour][random_below(r, in_flavour[flavour])];
        if (forms[i].ud && !one_in(r, 100))
            continue;
        if (form_instruction(r, i, insn) && (!privileged(insn) || one_in(r, 12)))
            return true;
    }
    return false;
}

bool insn_is_vector(const struct tr_insn *insn)
{
    struct tr_insn whole = *insn;

    tr_decode_operands(&whole);
    return whole.touches_vector || insn->op == TR_OP_fxrstor || insn->op == TR_OP_frstor ||
           insn->op == TR_OP_fldenv || insn->op == TR_OP_wait;
}

bool flavour_is_there(unsigned flavour)
{
    return in_flavour[flavour] != 0;
}

void form_set_ud(unsigned i)
{
    forms[i].ud = true;
}

/* ---- listing the forms ---- */

static void form_add(struct form f, const struct tr_insn *insn)
{
    f.flavour = (uint8_t)flavour_of(insn);
    if (form_count == FORMS_MAX)
        abort();
    of_flavour[f.flavour][in_flavour[f.flavour]++] = form_count;
    forms[form_count++] = f;
}

/* Candidates before a form counts as absent: what those that are there take, and some more. Of
 * gathers few are valid, as no two of their registers may be the same. */
static unsigned tries_for(const struct form *f)
{
    bool gathers = f->encoding == EVEX && f->map == 2 && f->memory &&
                   ((f->opcode & 0xfc) == 0x90 || (f->opcode & 0xfc) == 0xa0);

    return gathers ? 400 : 170;
}

static void try_form(struct form f)
{
    struct random r;
    struct tr_insn insn;
    uint8_t bytes[48];

    random_seed(&r, f.opcode, f.map * 1000u + f.prefix * 100u + f.w * 10u + f.l);
    bool prefixed = diff_mode == TR_MODE_16 && f.encoding != LEGACY && f.memory;
    for (unsigned i = 0; i < tries_for(&f); i++) {
        put_candidate(&r, &f, bytes, !prefixed || one_in(&r, 2));
        if (!decodes(bytes, &insn))
            continue;
        if (insn.has_modrm || !(f.modrm || f.memory)) /* else it is listed without ModRM */
            form_add(f, &insn);
        return;
    }
}

/* Lists the opcode as one without ModRM, if it is. */
static bool try_without_modrm(struct form f)
{
    struct tr_insn insn;
    uint8_t bytes[48];
    struct random r = {{1, 2}};

    f.modrm = f.memory = false;
    for (unsigned i = 0; i < (f.encoding == VEX ? 16 : 1);
         i++) { /* VEX.vvvv may have to be 1111b */
        put_candidate(&r, &f, bytes, true);
        if (tr_decode(bytes, 15, diff_mode, &insn) != TR_DECODE_OK || insn.has_modrm)
            continue;
        try_form(f);
        return true;
    }
    return false;
}

static void try_opcodes(struct form f)
{
    for (unsigned opcode = 0; opcode < 256; opcode++) {
        f.opcode = (uint8_t)opcode;
        if ((f.encoding == LEGACY || (f.encoding == VEX && opcode == 0x77)) && try_without_modrm(f))
            continue;
        f.modrm = true;
        f.memory = false;
        try_form(f);
        f.memory = true;
        try_form(f);
    }
}

static void try_maps(struct form f, unsigned maps, unsigned variants)
{
    for (unsigned i = 0; i < variants; i++) {
        for (f.map = 0; f.map < 8; f.map++) {
            f.w = i & 1;
            f.l = (uint8_t)(i >> 1);
            if (maps >> f.map & 1)
                try_opcodes(f);
        }
    }
}

unsigned forms_list(const char *mnemonic)
{
    only = mnemonic;
    for (uint8_t prefix = 0; prefix < 4; prefix++) {
        try_maps((struct form){.encoding = LEGACY, .prefix = prefix}, 0x0f, 1);
        try_maps((struct form){.encoding = VEX, .prefix = prefix}, 0x0e, 4);
        try_maps((struct form){.encoding = EVEX, .prefix = prefix}, 0x6e, 6);
    }
    return form_count;
}

/* ---- the policy table's rows ---- */

/* The decoder calls ENDBR a NOP, which it is without CET. */
static bool row_is_elsewhere(unsigned mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_ENDBR32:
    case ZYDIS_MNEMONIC_ENDBR64:
    case ZYDIS_MNEMONIC_RDRAND:
    case ZYDIS_MNEMONIC_RDSEED:
        return true;
    case ZYDIS_MNEMONIC_CDQE:
    case ZYDIS_MNEMONIC_CMPXCHG16B:
    case ZYDIS_MNEMONIC_CQO:
    case ZYDIS_MNEMONIC_MOVSXD:
    case ZYDIS_MNEMONIC_PEXTRQ:
    case ZYDIS_MNEMONIC_PINSRQ:
    case ZYDIS_MNEMONIC_VPEXTRQ:
    case ZYDIS_MNEMONIC_VPINSRQ:
        return !long_mode();
    default:
        return false;
    }
}

unsigned forms_missing(unsigned *rows)
{
    unsigned missing = 0;

    *rows = 0;
    for (unsigned i = 0; i <= ZYDIS_MNEMONIC_MAX_VALUE; i++) {
        if (tr_policy_get((uint16_t)i)->cls != TR_COPY || row_is_elsewhere(i))
            continue;
        ++*rows;
        if (chosen[i])
            continue;
        printf("%s %s", missing++ ? "" : "never generated:", ZydisMnemonicGetString(i));
    }
    if (missing)
        printf("\n");
    return missing;
}
