/* generate.c - random sequences of unprivileged 32-bit instructions.
 *
 * A form is an encoding (legacy, VEX or EVEX), an opcode map, a mandatory prefix, an opcode, W, L,
 * and whether ModRM names memory. generate_forms() tries them all and keeps those that the decoder
 * takes and the policy table calls innocuous, or sensitive with a result that is the same
 * everywhere (PUSHF, CLI: #GP, AAM, ...). Everything else in an instruction is random; what does
 * not decode is thrown away.
 *
 * Not generated: what differs by nature (RDTSC, CPUID, SGDT, FXSAVE's pointers), what reaches the
 * host (INT n, SYSENTER), what depends on descriptor tables (LAR, far branches, segment loads).
 *
 * EBX, ESP, EBP, ESI and EDI start as pointers into the arena, and are seldom overwritten, so that
 * most accesses hit it. */
#include "tests/diff/diff.h"

#include "runtime/vcpu.h"

#include <Zydis/Zydis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum encoding { LEGACY, VEX, EVEX };
/* Lists of forms by what they need. */
enum flavour { INTEGER, X87, MMX, SSE, AVX, AVX512, FLAVOURS };

struct form {
    uint8_t encoding, map, prefix, opcode; /* prefix: 0 none, 1 66h, 2 F3h, 3 F2h */
    uint8_t w, l;
    bool memory, modrm, ud;
    uint8_t flavour;
};

#define FORMS_MAX 12000
static struct form forms[FORMS_MAX];
static unsigned form_count, of_flavour[FLAVOURS][FORMS_MAX], in_flavour[FLAVOURS];

/* ---- random numbers: xoroshiro128+ (Blackman and Vigna, public domain algorithm) ---- */

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

void random_seed(struct random *r, uint64_t seed, uint64_t stream)
{
    r->s[0] = mix(seed + 0x9e3779b97f4a7c15ull);
    r->s[1] = mix(stream + 0x7f4a7c159e3779b9ull) | 1;
    for (unsigned i = 0; i < 8; i++)
        random_64(r);
}

uint64_t random_64(struct random *r)
{
    uint64_t a = r->s[0], b = r->s[1], result = a + b;

    b ^= a;
    r->s[0] = (a << 24 | a >> 40) ^ b ^ b << 16;
    r->s[1] = b << 37 | b >> 27;
    return result;
}

static uint32_t random_32(struct random *r)
{
    return (uint32_t)(random_64(r) >> 32);
}

static uint32_t interesting(struct random *r)
{
    static const uint32_t values[] = {
        0,      1,          2,          0x7f,       0x80, 0xff, 0x7fff,     0x8000,
        0xffff, 0x7fffffff, 0x80000000, 0xffffffff, 31,   32,   0x10000000, 0xfffffffe};
    switch (random_below(r, 4)) {
    case 0:
        return values[random_below(r, sizeof(values) / sizeof(values[0]))];
    case 1:
        return random_below(r, 200);
    case 2:
        return random_32(r) >> random_below(r, 32);
    default:
        return random_32(r);
    }
}

static uint32_t arena_pointer(struct random *r)
{
    uint32_t at =
        one_in(r, 40) ? random_below(r, ARENA_SIZE) : 0x2000 + random_below(r, ARENA_SIZE - 0x4000);
    unsigned align = random_below(r, 4);
    return ARENA + (align == 0 ? at : at & (align == 1 ? ~3u : ~63u));
}

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

/* Registers among EBX, ESP, EBP, ESI, EDI that the bytes overwrite, as bits; bit 1: ECX. */
static unsigned registers_written(const uint8_t *bytes, unsigned len)
{
    ZydisDecoder decoder;
    ZydisDecodedInstruction zi;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    unsigned written = 0;

    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, len, &zi, operands)))
        return 0;
    for (unsigned i = 0; i < zi.operand_count; i++) {
        const ZydisDecodedOperand *o = &operands[i];
        ZydisRegister full;
        if (o->type != ZYDIS_OPERAND_TYPE_REGISTER ||
            !(o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
            continue;
        full = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LEGACY_32, o->reg.value);
        if (full >= ZYDIS_REGISTER_EAX && full <= ZYDIS_REGISTER_EDI)
            written |= 1u << (full - ZYDIS_REGISTER_EAX);
    }
    return written;
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
    return !(written & 0xe8) || one_in(r, 8);
}

/* ---- bytes ---- */

static uint8_t *put32(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, 4);
    return p + 4;
}

static const uint8_t pointer_regs[] = {RT_BX, RT_SP, RT_BP, RT_SI, RT_DI};

static uint32_t small_offset(struct random *r)
{
    static const uint32_t align[] = {~0u, ~3u, ~15u, ~63u};
    return (random_below(r, 0x800) - 0x400) & align[random_below(r, 4)];
}

/* ModRM with a memory operand, SIB and displacement. */
static uint8_t *put_memory(struct random *r, uint8_t *p, unsigned reg)
{
    unsigned base = pointer_regs[random_below(r, 5)];
    unsigned kind = random_below(r, 16);

    if (kind < 9) { /* disp(base) */
        bool disp8 = one_in(r, 2);
        *p++ = (uint8_t)((disp8 ? 0x40 : 0x80) | reg << 3 | base);
        if (base == RT_SP)
            *p++ = 0x24;
        if (disp8)
            *p++ = (uint8_t)random_32(r);
        else
            p = put32(p, small_offset(r));
        return p;
    }
    if (kind < 11 && base != RT_BP && base != RT_SP) { /* (base) */
        *p++ = (uint8_t)(reg << 3 | base);
        return p;
    }
    if (kind < 13) { /* absolute */
        *p++ = (uint8_t)(reg << 3 | 5);
        return put32(p, arena_pointer(r));
    }
    if (kind < 15) { /* disp(base,index,scale) */
        *p++ = (uint8_t)(0x84 | reg << 3);
        *p++ = (uint8_t)(random_below(r, 4) << 6 | random_below(r, 3) << 3 | base);
        return put32(p, small_offset(r));
    }
    if (!one_in(r, 3)) { /* the base alone, through a SIB */
        *p++ = (uint8_t)(0x84 | reg << 3);
        *p++ = (uint8_t)(0x20 | base);
        return put32(p, small_offset(r));
    }
    *p++ = (uint8_t)(random_below(r, 3) << 6 | reg << 3 | random_below(r, 8)); /* anything */
    for (unsigned i = 0; i < 5; i++)
        *p++ = (uint8_t)random_32(r);
    return p;
}

static uint8_t *put_prefixes(struct random *r, uint8_t *p, const struct form *f)
{
    static const uint8_t segments[] = {0x26, 0x36, 0x3e, 0x26, 0x36, 0x3e, 0x26, 0x36, 0x3e,
                                       0x2e, 0x64, 0x65, 0x65, 0x65, 0x65, 0x65, 0x65};

    if (one_in(r, 32) || (f->memory && one_in(r, 12)))
        *p++ = segments[random_below(r, sizeof(segments))];
    if (one_in(r, 80))
        *p++ = 0x67;
    if (f->encoding != LEGACY)
        return p;
    if (one_in(r, f->memory && f->flavour == INTEGER ? 16 : 100))
        *p++ = 0xf0;
    if (one_in(r, 40))
        *p++ = 0x66;
    if (one_in(r, 60))
        *p++ = one_in(r, 2) ? 0xf2 : 0xf3;
    if (f->prefix)
        *p++ = f->prefix == 1 ? 0x66 : f->prefix == 2 ? 0xf3 : 0xf2;
    return p;
}

static uint8_t *put_vex(struct random *r, uint8_t *p, const struct form *f)
{
    static const uint8_t pp[] = {0, 1, 2, 3};
    unsigned vvvv = one_in(r, 2) ? 15 : 8 | random_below(r, 8);

    if (f->map == 1 && !f->w && one_in(r, 2)) {
        *p++ = 0xc5;
        *p++ = (uint8_t)(0x80 | vvvv << 3 | (f->l & 1u) << 2 | pp[f->prefix]);
        return p;
    }
    if (one_in(r, 8))
        vvvv &= 7; /* ignored in 32-bit code */
    *p++ = 0xc4;
    *p++ = (uint8_t)(0xc0 | (one_in(r, 8) ? 0 : 0x20) | f->map);
    *p++ = (uint8_t)((unsigned)f->w << 7 | vvvv << 3 | (f->l & 1u) << 2 | pp[f->prefix]);
    return p;
}

static uint8_t *put_evex(struct random *r, uint8_t *p, const struct form *f)
{
    unsigned vvvv = one_in(r, 2) ? 15 : 8 | random_below(r, 8);
    unsigned aaa = one_in(r, 2) ? 0 : random_below(r, 8);
    bool z = aaa && one_in(r, 2), b = one_in(r, 4);

    *p++ = 0x62;
    *p++ = (uint8_t)(0xd0 | (one_in(r, 16) ? 0 : 0x20) | f->map);
    *p++ = (uint8_t)((unsigned)f->w << 7 | vvvv << 3 | 4 | f->prefix);
    *p++ = (uint8_t)((unsigned)z << 7 | (unsigned)f->l << 5 | (unsigned)b << 4 | 8 | aaa);
    return p;
}

/* Up to 15 bytes that may be an instruction of the form. */
static void put_candidate(struct random *r, const struct form *f, uint8_t *bytes, bool plain)
{
    static const uint8_t escapes[][2] = {{0x0f, 0}, {0x0f, 0x38}, {0x0f, 0x3a}};
    uint8_t *p = bytes;

    memset(bytes, 0, 48);
    if (!plain)
        p = put_prefixes(r, p, f);
    else if (f->encoding == LEGACY && f->prefix)
        *p++ = f->prefix == 1 ? 0x66 : f->prefix == 2 ? 0xf3 : 0xf2;
    if (f->encoding == VEX) {
        p = put_vex(r, p, f);
    } else if (f->encoding == EVEX) {
        p = put_evex(r, p, f);
    } else if (f->map) {
        *p++ = escapes[f->map - 1][0];
        if (f->map > 1)
            *p++ = escapes[f->map - 1][1];
    }
    *p++ = f->opcode;
    if (f->modrm && f->memory)
        p = put_memory(r, p, random_below(r, 8));
    else if (f->modrm)
        *p++ = (uint8_t)(0xc0 | random_below(r, 64));
    else if ((f->opcode & 0xfc) == 0xa0 && f->encoding == LEGACY && f->map == 0)
        p = put32(p, arena_pointer(r));
    for (unsigned i = 0; i < 6; i++)
        p[i] = (uint8_t)(one_in(r, 2) ? random_32(r) : interesting(r));
}

/* Where the slow path differs in what the manual leaves open (an x87 store with an unmasked
 * exception, how far a gather gets), or is known to be coarse (masked operands that convert): not
 * generated with addresses that only it handles. */
static bool comparable(const struct tr_insn *insn)
{
    bool slow = insn->has_mem && (insn->adsize != 32 || insn->seg == TR_CS || insn->seg == TR_FS);
    bool x87 = insn->encoding == TR_ENC_LEGACY && !insn->map && (insn->opcode & 0xf8) == 0xd8;

    if (insn->op == TR_OP_maskmov)
        return insn->adsize == 32 && insn->seg != TR_CS && insn->seg < TR_FS;
    if (insn->vsib && insn->seg == TR_GS)
        return false;
    return !slow || !(insn->vsib || x87 || (insn->encoding == TR_ENC_EVEX && insn->evex_aaa));
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
    case TR_OP_int3:
    case TR_OP_into:
    case TR_OP_bound:
        return true;
    default:
        return insn->lock && !insn->has_mem;
    }
}

static bool make_instruction(struct random *r, const struct form *f, struct tr_insn *insn)
{
    uint8_t bytes[48];

    for (unsigned i = 0; i < 24; i++) {
        put_candidate(r, f, bytes, false);
        if (tr_decode(bytes, 15, TR_MODE_32, insn) == TR_DECODE_OK && op_allowed(insn) &&
            comparable(insn) && pointers_survive(r, insn))
            return true;
    }
    return false;
}

/* ---- listing the forms ---- */

static void try_form(struct form f)
{
    struct random r;
    struct tr_insn insn;
    uint8_t bytes[48];

    random_seed(&r, f.opcode, f.map * 1000u + f.prefix * 100u + f.w * 10u + f.l);
    for (unsigned i = 0; i < 40; i++) {
        put_candidate(&r, &f, bytes, true);
        if (tr_decode(bytes, 15, TR_MODE_32, &insn) != TR_DECODE_OK || !op_allowed(&insn))
            continue;
        if (!insn.has_modrm && (f.modrm || f.memory))
            return; /* listed without ModRM */
        f.flavour = (uint8_t)flavour_of(&insn);
        if (form_count == FORMS_MAX)
            abort();
        of_flavour[f.flavour][in_flavour[f.flavour]++] = form_count;
        forms[form_count++] = f;
        return;
    }
}

static void try_opcode(struct form f)
{
    for (unsigned opcode = 0; opcode < 256; opcode++) {
        f.opcode = (uint8_t)opcode;
        if (f.encoding == LEGACY || (f.encoding == VEX && opcode == 0x77)) {
            f.modrm = f.memory = false;
            unsigned before = form_count;
            struct tr_insn insn;
            uint8_t bytes[48];
            struct random r = {{1, 2}};
            put_candidate(&r, &f, bytes, true);
            enum tr_decode_status status = tr_decode(bytes, 15, TR_MODE_32, &insn);
            if (status == TR_DECODE_OK && !insn.has_modrm)
                try_form(f);
            if (form_count != before || (status == TR_DECODE_OK && !insn.has_modrm))
                continue;
        }
        f.modrm = true;
        f.memory = false;
        try_form(f);
        f.memory = true;
        try_form(f);
    }
}

unsigned generate_forms(void)
{
    for (unsigned prefix = 0; prefix < 4; prefix++) {
        for (unsigned map = 0; map < 4; map++)
            try_opcode(
                (struct form){.encoding = LEGACY, .map = (uint8_t)map, .prefix = (uint8_t)prefix});
        for (unsigned map = 1; map < 4; map++) {
            for (unsigned i = 0; i < 4; i++)
                try_opcode((struct form){.encoding = VEX,
                                         .map = (uint8_t)map,
                                         .prefix = (uint8_t)prefix,
                                         .w = i & 1,
                                         .l = i >> 1 & 1});
        }
        for (unsigned map = 1; map < 7; map++) {
            for (unsigned i = 0; map != 4 && i < 6; i++)
                try_opcode((struct form){.encoding = EVEX,
                                         .map = (uint8_t)map,
                                         .prefix = (uint8_t)prefix,
                                         .w = i & 1,
                                         .l = (uint8_t)(i >> 1)});
        }
    }
    return form_count;
}

void generate_form_is_ud(unsigned i)
{
    forms[i].ud = true;
}

/* ---- items ---- */

static void item_set(struct item *item, const void *bytes, unsigned len)
{
    memset(item, 0, sizeof(*item));
    memcpy(item->bytes, bytes, len);
    item->len = (uint8_t)len;
}

static bool is_vector(const struct tr_insn *insn)
{
    struct tr_insn whole = *insn;

    tr_decode_operands(&whole);
    return whole.touches_vector || insn->op == TR_OP_fxrstor || insn->op == TR_OP_frstor ||
           insn->op == TR_OP_fldenv || insn->op == TR_OP_wait;
}

static bool pick(struct random *r, unsigned flavour, struct tr_insn *insn)
{
    for (unsigned i = 0; i < 16; i++) {
        const struct form *f;
        if (!in_flavour[flavour])
            return false;
        f = &forms[of_flavour[flavour][random_below(r, in_flavour[flavour])]];
        if (f->ud && !one_in(r, 100))
            continue;
        if (make_instruction(r, f, insn) && (!privileged(insn) || one_in(r, 12)))
            return true;
    }
    return false;
}

/* A loop that is run until hot: mov $n, %ecx; L: instruction; loop L */
static bool put_hot_loop(struct random *r, struct item *item, unsigned flavour, bool *vector)
{
    struct tr_insn insn;
    uint8_t bytes[32], *p = bytes;

    for (unsigned i = 0; i < 8; i++) {
        if (!pick(r, flavour, &insn) || insn.len > 12 || insn.op == TR_OP_popa ||
            registers_written(insn.bytes, insn.len) & 1u << RT_CX)
            continue;
        *p++ = 0xb8 | RT_CX;
        p = put32(p, 1 + random_below(r, 9));
        memcpy(p, insn.bytes, insn.len);
        p += insn.len;
        *p++ = 0xe2;
        *p++ = (uint8_t) - (insn.len + 2);
        item_set(item, bytes, (unsigned)(p - bytes));
        *vector |= is_vector(&insn);
        return true;
    }
    return false;
}

static void put_branch(struct random *r, struct item *item)
{
    uint8_t b[32] = {0};
    unsigned reg = random_below(r, 3), len = 0, at = 0, size = 0;
    bool call = one_in(r, 2);
    uint32_t slot = arena_pointer(r) & ~3u;

    switch (random_below(r, 11)) {
    case 0:
    case 1: /* jcc rel8 */
        b[0] = (uint8_t)(0x70 | random_below(r, 16));
        len = 2, at = 1, size = 1;
        break;
    case 2:
    case 3: /* jcc rel32 */
        b[0] = 0x0f;
        b[1] = (uint8_t)(0x80 | random_below(r, 16));
        len = 6, at = 2, size = 4;
        break;
    case 4: /* jmp rel8, rel32 */
        b[0] = call ? 0xeb : 0xe9;
        len = call ? 2 : 5, at = 1, size = call ? 1 : 4;
        break;
    case 5: /* loopne, loope, loop, jecxz */
        b[0] = (uint8_t)(0xe0 | random_below(r, 4));
        len = 2, at = 1, size = 1;
        break;
    case 6: /* call rel32 */
        b[0] = 0xe8;
        len = 5, at = 1, size = 4;
        break;
    case 7: /* push $target; ret */
        b[0] = 0x68;
        b[5] = call ? 0xc3 : 0xc2;
        b[6] = call ? 0 : (uint8_t)random_32(r);
        len = call ? 6 : 8, at = 1, size = 5;
        break;
    case 8: /* mov $target, %reg; jmp or call *%reg */
        b[0] = (uint8_t)(0xb8 | reg);
        b[5] = 0xff;
        b[6] = (uint8_t)((call ? 0xd0 : 0xe0) | reg);
        len = 7, at = 1, size = 5;
        break;
    case 9: /* movl $target, slot; jmp or call *slot; through GS at times */
        b[0] = 0xc7;
        b[1] = 0x05;
        put32(b + 2, slot);
        at = 6, size = 5;
        len = 10;
        if (one_in(r, 3)) {
            b[len++] = 0x65;
            slot -= GS_BASE;
        }
        b[len++] = 0xff;
        b[len++] = call ? 0x15 : 0x25;
        put32(b + len, slot);
        len += 4;
        break;
    default: /* call f; jmp over; f: ret; over: */
        memcpy(b, (const uint8_t[]){0xe8, 2, 0, 0, 0, 0xeb, 1, 0xc3}, 8);
        len = 8;
        break;
    }
    item_set(item, b, len);
    item->fix_at = (uint8_t)at;
    item->fix_size = (uint8_t)size;
    item->skip = (uint8_t)random_below(r, 4);
}

static void put_item(struct random *r, struct sequence *s, unsigned flavour)
{
    struct item *item = &s->item[s->n];
    struct tr_insn insn;

    if (one_in(r, 8)) {
        put_branch(r, item);
        s->n++;
        return;
    }
    if (one_in(r, 12)) {
        s->n += put_hot_loop(r, item, flavour, &s->vector);
        return;
    }
    if (!pick(r, one_in(r, 3) ? INTEGER : flavour, &insn))
        return;
    /* POPF may set AC, and then the slow path and the CPU differ in the order of faults. */
    if (insn.op == TR_OP_popf && flavour != INTEGER)
        return;
    item_set(item, insn.bytes, insn.len);
    s->vector |= is_vector(&insn);
    s->n++;
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
        put_item(r, s, in_flavour[flavour] ? flavour : INTEGER);
}

void generate_form(struct random *r, unsigned i, struct sequence *s)
{
    struct tr_insn insn;

    memset(s, 0, sizeof(*s));
    if (!make_instruction(r, &forms[i], &insn))
        return;
    item_set(&s->item[0], insn.bytes, insn.len);
    s->vector = is_vector(&insn);
    s->n = 1;
}

/* ---- data ---- */

/* 64 bits that mean something as numbers of some kind. */
static uint64_t number(struct random *r)
{
    float f[2];
    double d;
    uint64_t x = random_64(r);

    switch (random_below(r, 7)) {
    case 0:
        return interesting(r) | (uint64_t)interesting(r) << 32;
    case 1: /* floats of moderate size */
        f[0] = (float)(int32_t)x / 64.0f;
        f[1] = (float)(int32_t)(x >> 32) / 4096.0f;
        memcpy(&x, f, 8);
        return x;
    case 2:
        d = (double)(int64_t)x / 1048576.0;
        memcpy(&x, &d, 8);
        return x;
    case 3: /* infinities, NaNs, denormals */
        return (x & 0x803fffff803fffffull) | (one_in(r, 2) ? 0x7f8000007f800000ull : 0);
    case 4: /* bytes that are small: indices, shuffles */
        return x & 0x1f1f1f1f1f1f1f1full;
    case 5:
        return (uint64_t)arena_pointer(r) | (uint64_t)(random_below(r, 0x400)) << 32;
    default:
        return x;
    }
}

static void extended(struct random *r, uint8_t *st)
{
    uint64_t mantissa = number(r);
    uint16_t exponent = (uint16_t)(0x3fff + (int)random_below(r, 80) - 40);

    if (one_in(r, 8)) /* whatever the bits say */
        exponent = (uint16_t)random_32(r);
    else if (one_in(r, 8))
        exponent = one_in(r, 2) ? 0x7fff : 0;
    else
        mantissa |= 1ull << 63;
    exponent |= (uint16_t)(random_32(r) & 0x8000);
    memcpy(st, &mantissa, 8);
    memcpy(st + 8, &exponent, 2);
}

static void put16(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, 2);
}

static void input_fx(struct random *r, uint8_t *fx)
{
    memset(fx, 0, 512);
    put16(fx, one_in(r, 8) ? (random_32(r) & 0xf3f) | 0x40 : 0x37f | (random_32(r) & 0xc00));
    put16(fx + 2, one_in(r, 4) ? random_32(r) & 0x7f7f : random_below(r, 8) << 11);
    fx[4] = (uint8_t)(one_in(r, 2) ? 0xff : random_32(r));
    put32(fx + 24, one_in(r, 8) ? random_32(r) & 0xffff : 0x1f80 | (random_32(r) & 0xe000));
    for (unsigned i = 0; i < 8; i++)
        extended(r, fx + 32 + 16 * i);
    for (unsigned i = 0; i < 16; i++) {
        uint64_t x = number(r);
        memcpy(fx + 160 + 8 * i, &x, 8);
    }
}

void generate_input(struct random *r, struct image *in, bool ac)
{
    for (unsigned i = 0; i < 8; i++)
        in->gpr[i] = interesting(r);
    for (unsigned i = 0; i < 5; i++)
        in->gpr[pointer_regs[i]] = one_in(r, 100) ? interesting(r) : arena_pointer(r);
    for (unsigned i = RT_AX; i <= RT_DX; i++) { /* small: good as counts and indices */
        if (one_in(r, 2))
            in->gpr[i] = random_below(r, 40);
    }
    in->eflags = 0x202 | (random_32(r) & RT_ARITH);
    if (one_in(r, 5))
        in->eflags |= RT_DF;
    if (ac && one_in(r, 60))
        in->eflags |= RT_AC;
    input_fx(r, in->fx);
    for (unsigned i = 0; i < 64; i++) {
        uint64_t x = number(r);
        memcpy(&in->vector[0][0] + 8 * i, &x, 8);
    }
    for (unsigned i = 0; i < 8; i++)
        in->mask[i] = one_in(r, 3) ? ~0ull : random_64(r);
}

void generate_arena(struct random *r, uint8_t *arena)
{
    for (unsigned at = 0; at < ARENA_SIZE; at += 8) {
        uint64_t x = number(r);
        memcpy(arena + at, &x, 8);
    }
}

void sequence_print(const struct sequence *s, uint32_t pc)
{
    for (unsigned i = 0; i < s->n; i++) {
        const struct item *item = &s->item[i];
        for (unsigned at = 0; at < item->len;) {
            struct tr_insn insn;
            char text[128];
            if (tr_decode(item->bytes + at, item->len - at, TR_MODE_32, &insn) != TR_DECODE_OK)
                break;
            tr_format(&insn, pc + at, text, sizeof(text));
            printf("    %08x ", pc + at);
            for (unsigned k = 0; k < 12 || k < insn.len; k++)
                printf(k < insn.len ? "%02x" : "  ", k < insn.len ? insn.bytes[k] : 0);
            printf("  %s\n", text);
            at += insn.len;
        }
        pc += item->len;
        if (item->fix_size)
            printf("             (to behind the next %u)\n", item->skip);
    }
}
