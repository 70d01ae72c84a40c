/* Resource control (docs/design.md, section 1): whatever the guest's instruction is, the emitted
 * code addresses memory only in the ways that the window confines, keeps the upper halves of the
 * guest's registers zero, and contains no instruction that reaches the host. */
#include "codecache/cc.h"
#include "runtime/rt.h"
#include "tests/unit/translator_scan.h"

#include <Zydis/Zydis.h>
#include <criterion/criterion.h>
#include <stdio.h>

TestSuite(translator_control, .timeout = 600);

#define NEAR (1 << 20) /* what copy.c lets a displacement be without address-size 32 */

static struct cc cc;
static struct tr_stubs stubs;
static unsigned complaints;

static void complain(const uint8_t *guest, const uint8_t *host, unsigned len, const char *what)
{
    char text[16 * 3 + 1] = "", code[16 * 3 + 1] = "";

    for (unsigned i = 0; i < 15; i++)
        snprintf(text + 3 * i, 4, "%02x ", guest[i]);
    for (unsigned i = 0; i < len; i++)
        snprintf(code + 3 * i, 4, "%02x ", host[i]);
    if (complaints++ < 20)
        cr_expect_fail("guest %s: host %s: %s", text, code, what);
}

static bool is_guest_register(ZydisRegister reg)
{
    return reg >= ZYDIS_REGISTER_RAX && reg <= ZYDIS_REGISTER_RDI;
}

static bool mnemonic_is_forbidden(const ZydisDecodedInstruction *zi)
{
    switch (zi->mnemonic) {
    case ZYDIS_MNEMONIC_SYSCALL:
    case ZYDIS_MNEMONIC_SYSENTER:
    case ZYDIS_MNEMONIC_SYSRET:
    case ZYDIS_MNEMONIC_SYSEXIT:
    case ZYDIS_MNEMONIC_INT:
    case ZYDIS_MNEMONIC_INT1:
    case ZYDIS_MNEMONIC_INT3:
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
    case ZYDIS_MNEMONIC_CALL:
    case ZYDIS_MNEMONIC_RET:
    case ZYDIS_MNEMONIC_WRFSBASE:
    case ZYDIS_MNEMONIC_WRGSBASE:
    case ZYDIS_MNEMONIC_RDFSBASE:
    case ZYDIS_MNEMONIC_RDGSBASE:
    case ZYDIS_MNEMONIC_WRPKRU:
    case ZYDIS_MNEMONIC_RDPKRU:
    case ZYDIS_MNEMONIC_XSETBV:
    case ZYDIS_MNEMONIC_XGETBV:
    case ZYDIS_MNEMONIC_CPUID:
    case ZYDIS_MNEMONIC_IN:
    case ZYDIS_MNEMONIC_OUT:
    case ZYDIS_MNEMONIC_CLI:
    case ZYDIS_MNEMONIC_STI:
    case ZYDIS_MNEMONIC_HLT:
    case ZYDIS_MNEMONIC_SGDT:
    case ZYDIS_MNEMONIC_SIDT:
    case ZYDIS_MNEMONIC_SLDT:
    case ZYDIS_MNEMONIC_STR:
    case ZYDIS_MNEMONIC_SMSW:
    case ZYDIS_MNEMONIC_LGDT:
    case ZYDIS_MNEMONIC_LIDT:
    case ZYDIS_MNEMONIC_LLDT:
    case ZYDIS_MNEMONIC_LTR:
    case ZYDIS_MNEMONIC_LMSW:
    case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_LSL:
    case ZYDIS_MNEMONIC_VERR:
    case ZYDIS_MNEMONIC_VERW:
    case ZYDIS_MNEMONIC_LFS:
    case ZYDIS_MNEMONIC_LGS:
    case ZYDIS_MNEMONIC_LSS:
    case ZYDIS_MNEMONIC_SWAPGS:
    case ZYDIS_MNEMONIC_RDMSR:
    case ZYDIS_MNEMONIC_WRMSR:
    case ZYDIS_MNEMONIC_RDPMC:
    case ZYDIS_MNEMONIC_RDPID:
    case ZYDIS_MNEMONIC_MOVDIR64B:
    case ZYDIS_MNEMONIC_ENQCMD:
    case ZYDIS_MNEMONIC_ENQCMDS:
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_XBEGIN:
    case ZYDIS_MNEMONIC_XABORT:
    case ZYDIS_MNEMONIC_XEND:
        return true;
    default:
        return false;
    }
}

static bool is_state(const ZydisDecodedOperand *o)
{
    int64_t at = o->mem.disp.value - rt_cpu_offset();
    return o->mem.segment == ZYDIS_REGISTER_FS && at >= 0 && at < (int64_t)sizeof(struct rt_cpu);
}

static bool is_string(const ZydisDecodedInstruction *zi)
{
    return zi->meta.category == ZYDIS_CATEGORY_STRINGOP;
}

/* PUSHFQ, POPFQ and a scratch register, with rsp the host's. */
static bool is_host_stack(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *operands)
{
    switch (zi->mnemonic) {
    case ZYDIS_MNEMONIC_PUSHFQ:
    case ZYDIS_MNEMONIC_POPFQ:
        return true;
    case ZYDIS_MNEMONIC_PUSH:
    case ZYDIS_MNEMONIC_POP:
        return operands[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
               operands[0].reg.value >= ZYDIS_REGISTER_R8;
    default:
        return false;
    }
}

static bool memory_is_confined(const ZydisDecodedInstruction *zi,
                               const ZydisDecodedOperand *operands, const ZydisDecodedOperand *o)
{
    if (o->mem.type == ZYDIS_MEMOP_TYPE_AGEN || zi->mnemonic == ZYDIS_MNEMONIC_NOP)
        return true;
    if (o->mem.segment == ZYDIS_REGISTER_FS)
        return is_state(o);
    if (o->mem.segment == ZYDIS_REGISTER_GS)
        return zi->address_width == 32;
    if (o->mem.base == ZYDIS_REGISTER_R14) /* the jump table */
        return zi->mnemonic == ZYDIS_MNEMONIC_JMP && o->mem.disp.value >= 0 &&
               o->mem.disp.value < (int64_t)CC_TABLE_SIZE;
    if (o->mem.base == ZYDIS_REGISTER_R8) /* a segment's base */
        return zi->mnemonic == ZYDIS_MNEMONIC_MOV && o->mem.index == ZYDIS_REGISTER_NONE &&
               operands[0].reg.value == ZYDIS_REGISTER_R8D;
    if (o->mem.index == ZYDIS_REGISTER_R15)
        return o->mem.scale == 1 && o->mem.disp.value >= -NEAR && o->mem.disp.value <= NEAR &&
               (is_guest_register(o->mem.base) || o->mem.base == ZYDIS_REGISTER_R9);
    if (is_string(zi) && zi->address_width == 64)
        return o->mem.base == ZYDIS_REGISTER_RSI || o->mem.base == ZYDIS_REGISTER_RDI;
    return is_host_stack(zi, operands);
}

/* A 64-bit result in a guest register, where the guest's instruction was only copied. */
static bool writes_upper_half(const ZydisDecodedInstruction *zi,
                              const ZydisDecodedOperand *operands)
{
    for (unsigned i = 0; i < zi->operand_count; i++) {
        const ZydisDecodedOperand *o = &operands[i];
        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && is_guest_register(o->reg.value) &&
            (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
            return true;
    }
    return false;
}

static void check_host(const uint8_t *guest, const struct tr_insn *insn, const uint8_t *host,
                       unsigned len)
{
    ZydisDecoder decoder;
    ZydisDecodedInstruction zi;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];

    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    for (unsigned at = 0; at < len; at += zi.length) {
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, host + at, len - at, &zi, operands))) {
            complain(guest, host + at, len - at < 15 ? len - at : 15, "does not decode");
            return;
        }
        if (mnemonic_is_forbidden(&zi))
            complain(guest, host + at, zi.length, "forbidden");
        for (unsigned i = 0; i < zi.operand_count; i++) {
            if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
                !memory_is_confined(&zi, operands, &operands[i]))
                complain(guest, host + at, zi.length, "addresses memory freely");
            if (operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
                ZydisRegisterGetClass(operands[i].reg.value) == ZYDIS_REGCLASS_SEGMENT &&
                (operands[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
                complain(guest, host + at, zi.length, "writes a segment register");
        }
        if (insn->cls == TR_COPY && writes_upper_half(&zi, operands))
            complain(guest, host + at, zi.length, "64-bit result in a guest register");
    }
}

static void translate_one(const uint8_t *bytes, const struct tr_insn *insn, void *arg)
{
    static uint8_t page[2 * 4096];
    uint32_t key = *(const uint32_t *)arg;
    struct cc_block *block;
    struct tr_request request = {.cc = &cc,
                                 .stubs = &stubs,
                                 .pc = 0x1000,
                                 .gpa = 0x1000,
                                 .key = key,
                                 .max_insns = 1,
                                 .bytes = page,
                                 .gpa2 = 0x2000};

    memcpy(page, bytes, 15);
    cc_flush(&cc);
    cr_assert_eq(tr_translate(&request, &block), TR_DONE);
    check_host(bytes, insn, cc.rx + block->host + block->direct, block->host_len - block->direct);
    /* What runs in the cache at all is what the policy says. */
    if (insn->cls == TR_CALLOUT || insn->cls == TR_ABSENT || insn->cls == TR_REFUSED)
        cr_assert_lt(block->host_len - block->direct, 24, "a callout is three instructions");
}

/* Registers, and memory through every kind of operand. */
static const uint8_t tails[][8] = {
    {0xc1, 1, 2, 3, 4},
    {0xc8, 1, 2, 3, 4},
    {0xd3, 1, 2, 3, 4},
    {0xda, 1, 2, 3, 4},
    {0xe1, 1, 2, 3, 4},
    {0xec, 1, 2, 3, 4},
    {0xf6, 1, 2, 3, 4},
    {0xff, 1, 2, 3, 4},
    {0x00, 1, 2, 3, 4},
    {0x0b, 1, 2, 3, 4},
    {0x13, 1, 2, 3, 4},
    {0x1e, 1, 2, 3, 4},
    {0x27, 1, 2, 3, 4},
    {0x2f, 1, 2, 3, 4},
    {0x31, 1, 2, 3, 4},
    {0x3a, 1, 2, 3, 4},
    {0x05, 0xff, 0xff, 0xff, 0xff, 1}, /* absolute */
    {0x44, 0x24, 0x80, 1, 2},          /* disp8(esp) */
    {0x84, 0x24, 0, 0, 0, 0x80, 1},    /* disp32(esp), far */
    {0x83, 0, 0, 0x20, 0, 1, 2},       /* disp32(ebx), just too far */
    {0x4c, 0xb5, 0x7f, 1, 2},          /* disp8(ebp,esi,4) */
    {0x0c, 0x25, 0xf0, 0xff, 0xff, 0xff, 1},
    {0x14, 0xfd, 0xff, 0xff, 0xff, 0x7f, 1}, /* disp32(,edi,8) */
};

static void scan_with(uint32_t key)
{
    struct scan scan = {translate_one, &key, tails[0], sizeof(tails) / sizeof(tails[0]), 0};

    complaints = 0;
    cr_assert_eq(cc_create(&cc, 1 << 20, 1 << 20), 0);
    cr_assert_eq(tr_stubs_emit(&cc, &stubs), 0);
    scan_all(&scan);
    cc_destroy(&cc);
    cr_expect_gt(scan.visited, 100000, "only %lu instructions were tried", scan.visited);
    cr_expect_eq(complaints, 0, "%u complaints in all", complaints);
}

#define FEATURES (TR_K_X87 | TR_K_WAIT | TR_K_MMX | TR_K_SSE | TR_K_AVX | TR_K_AVX512)

Test(translator_control, flat_code_at_cpl_0_cannot_leave_its_window)
{
    scan_with(TR_K_DS | TR_K_ES | TR_K_SS | TR_K_IOPL | TR_K_TSC | FEATURES);
}

Test(translator_control, user_code_with_odd_segments_cannot_leave_its_window)
{
    scan_with(TR_K_DS | TR_K_CPL3 | FEATURES);
}
