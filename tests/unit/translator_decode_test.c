/* Decoding and policy: what each instruction is to the translator. */
#include "translator/policy.h"
#include "translator/tr.h"

#include <Zydis/Zydis.h>
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <string.h>

TestSuite(translator_decode, .timeout = 30);

#define ROWS(type, rows) cr_make_param_array(type, rows, sizeof(rows) / sizeof((rows)[0]))

/* ---- the policy table ---- */

Test(translator_decode, every_mnemonic_of_the_decoder_has_a_row)
{
    static unsigned rows[ZYDIS_MNEMONIC_MAX_VALUE + 1];

#define P(mnemonic, cls, op, feature, why, manual) rows[ZYDIS_MNEMONIC_##mnemonic]++;
#include "translator/policy.def"
#undef P
    for (uint16_t m = 1; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++) {
        const struct tr_policy *row = tr_policy_get(m);
        cr_expect_eq(rows[m], 1, "%s has %u rows", tr_mnemonic_name(m), rows[m]);
        cr_expect(row->cls != TR_REFUSED, "%s is refused", tr_mnemonic_name(m));
        cr_expect_lt(row->op, TR_OP_COUNT);
    }
}

Test(translator_decode, numbers_outside_the_table_are_refused)
{
    cr_expect_eq(tr_policy_get(0)->cls, TR_REFUSED);
    cr_expect_eq(tr_policy_get(ZYDIS_MNEMONIC_MAX_VALUE + 1)->cls, TR_REFUSED);
    cr_expect_eq(tr_policy_get(0xffff)->cls, TR_REFUSED);
}

Test(translator_decode, rows_say_why_and_cite_the_manual_where_they_are_sensitive)
{
    static const struct {
        const char *name, *why, *manual;
        enum tr_class cls;
    } rows[] = {
#define P(mnemonic, cls, op, feature, why, manual) {#mnemonic, why, manual, TR_##cls},
#include "translator/policy.def"
#undef P
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        cr_expect(rows[i].why[0], "%s has no reason", rows[i].name);
        if (rows[i].cls == TR_CALLOUT || rows[i].cls == TR_INCACHE)
            cr_expect(rows[i].manual[0], "%s cites nothing", rows[i].name);
    }
}

/* ---- forms ---- */

struct form_row {
    char name[40];
    uint8_t bytes[15];
    uint8_t len;
    uint8_t cls;
    uint16_t op;
};
#define F(name, cls, op, ...)                                                       \
    {                                                                               \
        name, {__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__}), TR_##cls, TR_OP_##op \
    }
/* At least one for each operation that has an emitter, and the forms that share a mnemonic. */
static struct form_row forms[] = {
    F("add", COPY, copy, 0x01, 0xd8),
    F("nop", COPY, nop, 0x90),
    F("fwait", COPY, wait, 0x9b),
    F("xlat", COPY, xlat, 0xd7),
    F("maskmovdqu", COPY, maskmov, 0x66, 0x0f, 0xf7, 0xc1),
    F("push", STACK, push, 0x50),
    F("push memory", STACK, push, 0xff, 0x30),
    F("push ds", INCACHE, push_sreg, 0x1e),
    F("push fs", INCACHE, push_sreg, 0x0f, 0xa0),
    F("pop", STACK, pop, 0x58),
    F("pop ds", INCACHE, pop_sreg, 0x1f),
    F("pop gs", INCACHE, pop_sreg, 0x0f, 0xa9),
    F("leave", STACK, leave, 0xc9),
    F("enter", CALLOUT, enter, 0xc8, 0x10, 0, 0),
    F("pusha", STACK, pusha, 0x60),
    F("movsb", STRING, movs, 0xa4),
    F("movsd, the string", STRING, movs, 0xa5),
    F("movsd, the vector", COPY, copy, 0xf2, 0x0f, 0x10, 0xc1),
    F("movsd, store", COPY, copy, 0xf2, 0x0f, 0x11, 0x00),
    F("cmpsd, the string", STRING, cmps, 0xa7),
    F("cmpsd, the vector", COPY, copy, 0xf2, 0x0f, 0xc2, 0xc1, 0x01),
    F("stos", STRING, stos, 0xf3, 0xab),
    F("lods", STRING, lods, 0xac),
    F("scas", STRING, scas, 0xf2, 0xae),
    F("ins", CALLOUT, ins, 0x6c),
    F("outs", CALLOUT, outs, 0xf3, 0x6f),
    F("cli", INCACHE, cli, 0xfa),
    F("sti", INCACHE, sti, 0xfb),
    F("pushf", INCACHE, pushf, 0x9c),
    F("popf", INCACHE, popf, 0x9d),
    F("rdtsc", INCACHE, rdtsc, 0x0f, 0x31),
    F("rdtscp", INCACHE, rdtscp, 0x0f, 0x01, 0xf9),
    F("jcc", BRANCH, jcc, 0x74, 0),
    F("jmp", BRANCH, jmp_rel, 0xeb, 0),
    F("jmp register", BRANCH, jmp_ind, 0xff, 0xe0),
    F("jmp far, memory", CALLOUT, far_jmp, 0xff, 0x28),
    F("jmp far, immediate", CALLOUT, far_jmp, 0xea, 1, 2, 3, 4, 5, 6),
    F("call", BRANCH, call_rel, 0xe8, 0, 0, 0, 0),
    F("call register", BRANCH, call_ind, 0xff, 0xd0),
    F("call far, memory", CALLOUT, far_call, 0xff, 0x18),
    F("call far, immediate", CALLOUT, far_call, 0x9a, 1, 2, 3, 4, 5, 6),
    F("ret", BRANCH, ret, 0xc3),
    F("ret n", BRANCH, ret, 0xc2, 4, 0),
    F("retf", CALLOUT, far_ret, 0xcb),
    F("retf n", CALLOUT, far_ret, 0xca, 4, 0),
    F("iret", CALLOUT, iret, 0xcf),
    F("loop", BRANCH, loop, 0xe2, 0),
    F("jecxz", BRANCH, jcxz, 0xe3, 0),
    F("mov from a segment register", INCACHE, mov_from_sreg, 0x8c, 0xd8),
    F("mov to a segment register", INCACHE, mov_to_sreg, 0x8e, 0xd8),
    F("mov from cr0", CALLOUT, mov_from_cr, 0x0f, 0x20, 0xc0),
    F("mov to cr3", CALLOUT, mov_to_cr, 0x0f, 0x22, 0xd8),
    F("mov from dr7", CALLOUT, mov_from_dr, 0x0f, 0x21, 0xf8),
    F("mov to dr7", CALLOUT, mov_to_dr, 0x0f, 0x23, 0xf8),
    F("mov to cr3 with mod 0", CALLOUT, mov_to_cr, 0x0f, 0x22, 0x18),
    F("int n", CALLOUT, int, 0xcd, 0x80),
    F("int3", CALLOUT, int3, 0xcc),
    F("cpuid", CALLOUT, cpuid, 0x0f, 0xa2),
    F("sgdt", CALLOUT, sgdt, 0x0f, 0x01, 0x00),
    F("smsw", CALLOUT, smsw, 0x0f, 0x01, 0xe0),
    F("lar", CALLOUT, lar, 0x0f, 0x02, 0xc1),
    F("lds", CALLOUT, load_far, 0xc5, 0x00),
    F("arpl", CALLOUT, arpl, 0x63, 0xc1),
    F("fxsave", CALLOUT, fxsave, 0x0f, 0xae, 0x00),
    F("fnstenv", CALLOUT, fnstenv, 0xd9, 0x30),
    F("vmcall", CALLOUT, vmcall, 0x0f, 0x01, 0xc1),
    F("xbegin", ABSENT, absent, 0xc7, 0xf8, 0, 0, 0, 0),
    F("rdpkru", ABSENT, absent, 0x0f, 0x01, 0xee),
    F("endbr32, a NOP", COPY, nop, 0xf3, 0x0f, 0x1e, 0xfb),
    F("ud2", CALLOUT, ud, 0x0f, 0x0b),
};

ParameterizedTestParameters(translator_decode, forms_are_told_apart)
{
    return ROWS(struct form_row, forms);
}
ParameterizedTest(struct form_row *row, translator_decode, forms_are_told_apart)
{
    struct tr_insn insn;

    cr_assert_eq(tr_decode(row->bytes, row->len, TR_MODE_32, &insn), TR_DECODE_OK, "%s", row->name);
    cr_expect_eq(insn.cls, row->cls, "%s: class %u", row->name, insn.cls);
    cr_expect_eq(insn.op, row->op, "%s: op %u", row->name, insn.op);
    cr_expect_eq(insn.len, row->len, "%s: %u bytes", row->name, insn.len);
}

Test(translator_decode, vector_forms_of_movsd_and_cmpsd_need_sse)
{
    static const uint8_t movsd[] = {0xf2, 0x0f, 0x10, 0xc1}, cmpsd[] = {0xf2, 0x0f, 0xc2, 0xc1, 1};
    static const uint8_t string[] = {0xa5};
    struct tr_insn insn;

    tr_decode(movsd, sizeof(movsd), TR_MODE_32, &insn);
    cr_expect_eq(insn.feature, TR_F_SSE);
    tr_decode(cmpsd, sizeof(cmpsd), TR_MODE_32, &insn);
    cr_expect_eq(insn.feature, TR_F_SSE);
    tr_decode(string, sizeof(string), TR_MODE_32, &insn);
    cr_expect_eq(insn.feature, TR_F_NONE);
}

/* ---- operands ---- */

struct operand_row {
    char name[40];
    uint8_t bytes[15];
    uint8_t len, adsize;
    int8_t base, index;
    uint8_t scale, seg;
    int32_t disp;
};
#define O(name, adsize, base, index, scale, seg, disp, ...)                                     \
    {                                                                                           \
        name, {__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__}), adsize, base, index, scale, seg, \
            disp                                                                                \
    }
static struct operand_row operands[] = {
    O("(ebx)", 32, 3, -1, 1, TR_DS, 0, 0x8b, 0x03),
    O("8(ebx)", 32, 3, -1, 1, TR_DS, 8, 0x8b, 0x43, 8),
    O("-8(ebp) is SS", 32, 5, -1, 1, TR_SS, -8, 0x8b, 0x45, 0xf8),
    O("(esp) is SS", 32, 4, -1, 1, TR_SS, 0, 0x8b, 0x04, 0x24),
    O("(esp) over DS", 32, 4, -1, 1, TR_DS, 0, 0x3e, 0x8b, 0x04, 0x24),
    O("absolute", 32, -1, -1, 1, TR_DS, 0x1234, 0x8b, 0x05, 0x34, 0x12, 0, 0),
    O("base and index", 32, 3, 6, 4, TR_DS, 0x10, 0x8b, 0x44, 0xb3, 0x10),
    O("index alone", 32, -1, 6, 8, TR_DS, 0x10, 0x8b, 0x04, 0xf5, 0x10, 0, 0, 0),
    O("ebp as base in SIB", 32, 5, 0, 1, TR_SS, 0, 0x8b, 0x44, 0x05, 0),
    O("ebp as index is DS", 32, 0, 5, 1, TR_DS, 0, 0x8b, 0x04, 0x28),
    O("fs", 32, 3, -1, 1, TR_FS, 0, 0x64, 0x8b, 0x03),
    O("the last override counts", 32, 3, -1, 1, TR_GS, 0, 0x64, 0x65, 0x8b, 0x03),
    O("16 bits: bx+di", 16, 3, 7, 1, TR_DS, 0, 0x67, 0x8b, 0x01),
    O("16 bits: bp+si is SS", 16, 5, 6, 1, TR_SS, 0, 0x67, 0x8b, 0x02),
    O("16 bits: absolute", 16, -1, -1, 1, TR_DS, 0x1234, 0x67, 0x8b, 0x06, 0x34, 0x12),
    O("moffs", 32, -1, -1, 0, TR_DS, 0x1234, 0xa1, 0x34, 0x12, 0, 0),
    O("EVEX, displacement times 64", 32, 3, -1, 1, TR_DS, 64, 0x62, 0xf1, 0x7c, 0x48, 0x10, 0x43,
      1),
    O("EVEX, times 4 with broadcast", 32, 3, -1, 1, TR_DS, 4, 0x62, 0xf1, 0x74, 0x58, 0x58, 0x43,
      1),
};

ParameterizedTestParameters(translator_decode, memory_operands)
{
    return ROWS(struct operand_row, operands);
}
ParameterizedTest(struct operand_row *row, translator_decode, memory_operands)
{
    struct tr_insn insn;

    cr_assert_eq(tr_decode(row->bytes, row->len, TR_MODE_32, &insn), TR_DECODE_OK, "%s", row->name);
    cr_expect_eq(insn.adsize, row->adsize, "%s", row->name);
    cr_expect_eq(insn.base, row->base, "%s: base %d", row->name, insn.base);
    cr_expect_eq(insn.index, row->index, "%s: index %d", row->name, insn.index);
    if (row->scale)
        cr_expect_eq(insn.scale, row->scale, "%s", row->name);
    cr_expect_eq(insn.seg, row->seg, "%s: segment %u", row->name, insn.seg);
    cr_expect_eq(insn.disp, row->disp, "%s: displacement %lld", row->name, (long long)insn.disp);
}

struct access_row {
    char name[24];
    uint8_t bytes[15];
    uint8_t len;
    uint16_t size;
    bool read, write, vector;
};
static struct access_row accesses[] = {
    {"load", {0x8b, 0x03}, 2, 4, true, false, false},
    {"store", {0x88, 0x03}, 2, 1, false, true, false},
    {"add to memory", {0x66, 0x01, 0x03}, 3, 2, true, true, false},
    {"cmp", {0x39, 0x03}, 2, 4, true, false, false},
    {"moffs store", {0xa3, 1, 2, 3, 4}, 5, 4, false, true, false},
    {"fldt", {0xdb, 0x2b}, 2, 10, true, false, true},
    {"movups", {0x0f, 0x11, 0x03}, 3, 16, false, true, true},
    {"vmovups zmm", {0x62, 0xf1, 0x7c, 0x48, 0x10, 0x03}, 6, 64, true, false, true},
    {"cmpxchg8b", {0x0f, 0xc7, 0x0b}, 3, 8, true, true, false},
    {"registers", {0x01, 0xc3}, 2, 0, false, false, false},
    {"lea", {0x8d, 0x03}, 2, 0, false, false, false},
};
ParameterizedTestParameters(translator_decode, accesses_have_size_and_direction)
{
    return ROWS(struct access_row, accesses);
}
ParameterizedTest(struct access_row *row, translator_decode, accesses_have_size_and_direction)
{
    struct tr_insn insn;

    cr_assert_eq(tr_decode(row->bytes, row->len, TR_MODE_32, &insn), TR_DECODE_OK, "%s", row->name);
    tr_decode_operands(&insn);
    if (!insn.agen_only)
        cr_expect_eq(insn.mem_size, row->size, "%s: %u", row->name, insn.mem_size);
    cr_expect_eq(insn.mem_read, row->read, "%s", row->name);
    cr_expect_eq(insn.mem_write, row->write, "%s", row->name);
    cr_expect_eq(insn.touches_vector, row->vector, "%s", row->name);
}

/* ---- lengths ---- */

Test(translator_decode, an_instruction_that_goes_on_is_short)
{
    static const uint8_t bytes[] = {0x81, 0x84, 0x8b, 1, 2, 3, 4, 5, 6, 7, 8}; /* addl $, d(,,) */
    struct tr_insn insn;

    for (size_t avail = 1; avail < sizeof(bytes); avail++)
        cr_expect_eq(tr_decode(bytes, avail, TR_MODE_32, &insn), TR_DECODE_SHORT, "%zu", avail);
    cr_expect_eq(tr_decode(bytes, sizeof(bytes), TR_MODE_32, &insn), TR_DECODE_OK);
}

Test(translator_decode, more_than_15_bytes_is_too_long)
{
    uint8_t bytes[32];
    struct tr_insn insn;

    memset(bytes, 0x66, sizeof(bytes));
    cr_expect_eq(tr_decode(bytes, sizeof(bytes), TR_MODE_32, &insn), TR_DECODE_TOO_LONG);
    cr_expect_eq(tr_decode(bytes, 15, TR_MODE_32, &insn), TR_DECODE_TOO_LONG);
    cr_expect_eq(tr_decode(bytes, 14, TR_MODE_32, &insn), TR_DECODE_SHORT);
    bytes[14] = 0x90;
    cr_expect_eq(tr_decode(bytes, sizeof(bytes), TR_MODE_32, &insn), TR_DECODE_OK);
    cr_expect_eq(insn.len, 15);
}

/* EVEX.U clear: the decoder knows it as an encoding of Knights Corner's; a CPU raises #UD. */
Test(translator_decode, knights_corner_is_not_offered)
{
    static const uint8_t valignd[] = {0x62, 0xd3, 0x01, 0x02, 0x03, 0x04, 0, 0};
    static const uint8_t vmovaps[] = {0x62, 0xf1, 0x78, 0x08, 0x28, 0x00, 0, 0};
    struct tr_insn insn;

    for (unsigned mode = TR_MODE_32; mode <= TR_MODE_64; mode++) {
        cr_expect_eq(tr_decode(valignd, 8, mode, &insn), TR_DECODE_UD);
        cr_expect_eq(tr_decode(vmovaps, 8, mode, &insn), TR_DECODE_UD);
        cr_expect_eq(insn.cls, TR_REFUSED);
    }
}

Test(translator_decode, modes_differ)
{
    static const uint8_t inc[] = {0x40, 0x90};       /* INC eax; REX */
    static const uint8_t mov[] = {0xb8, 1, 2, 3, 4}; /* 16 or 32 bits */
    struct tr_insn insn;

    tr_decode(inc, 2, TR_MODE_32, &insn);
    cr_expect_eq(insn.len, 1);
    tr_decode(inc, 2, TR_MODE_64, &insn);
    cr_expect_eq(insn.len, 2);
    tr_decode(mov, 5, TR_MODE_16, &insn);
    cr_expect_eq(insn.len, 3);
    cr_expect_eq(insn.opsize, 16);
    tr_decode(mov, 5, TR_MODE_32, &insn);
    cr_expect_eq(insn.len, 5);
    cr_expect_eq(insn.opsize, 32);
}
