/* Resource control (docs/design.md, section 1): whatever the guest's instruction is, the emitted
 * code addresses memory only in the ways that the window confines, keeps host addresses to itself,
 * and contains no instruction that reaches the host. tests/fuzz/control.c reads it.
 *
 * The scan itself is tested with code that no translator may make. */
#include "tests/fuzz/control.h"
#include "tests/unit/translator_scan.h"

#include <criterion/criterion.h>
#include <stdio.h>

TestSuite(translator_control, .timeout = 600);

static struct cc cc;
static struct tr_stubs stubs;
static struct control control;
static char said[4096]; /* all complaints since it was emptied */
static unsigned shown;

static void complain(struct control *c, unsigned at, unsigned len, const char *what)
{
    const uint8_t *guest = c->arg;
    char text[16 * 3 + 1] = "", code[16 * 3 + 1] = "";

    size_t n = strlen(said);
    snprintf(said + n, sizeof(said) - n, "%s; ", what);
    if (!guest || shown++ >= 20)
        return;
    for (unsigned i = 0; i < 15; i++)
        snprintf(text + 3 * i, 4, "%02x ", guest[i]);
    for (unsigned i = 0; i < len && i < 15; i++)
        snprintf(code + 3 * i, 4, "%02x ", c->code[at + i]);
    cr_expect_fail("guest %s: host +%x %s: %s", text, at, code, what);
}

static void setup(void)
{
    memset(&cc, 0, sizeof(cc));
    cr_assert_eq(cc_create(&cc, 1 << 20, 1 << 20), 0);
    cr_assert_eq(tr_stubs_emit(&cc, &stubs), 0);
    control = (struct control){.cc = &cc, .stubs = &stubs, .complain = complain};
    shown = 0;
    said[0] = 0;
}

static struct cc_block *translate(const uint8_t *bytes, unsigned n, uint32_t key, uint64_t pc,
                                  unsigned max_insns)
{
    static uint8_t page[2 * 4096];
    struct cc_block *block;
    struct tr_request request = {.cc = &cc,
                                 .stubs = &stubs,
                                 .pc = pc,
                                 .gpa = 0x1000,
                                 .key = key,
                                 .max_insns = max_insns,
                                 .bytes = page,
                                 .gpa2 = 0x2000};

    memset(page, 0xf4, sizeof(page));
    memcpy(page, bytes, n);
    if (cc.used > cc.size / 2 || cc.nblocks > cc.max_blocks / 2)
        cc_flush(&cc);
    cr_assert_eq(tr_translate(&request, &block), TR_DONE);
    return block;
}

static void translate_one(const uint8_t *bytes, const struct tr_insn *insn, void *arg)
{
    uint32_t key = *(const uint32_t *)arg;
    struct cc_block *block =
        translate(bytes, 15, key, key & TR_K_LONG ? 0x7f1234567000 : 0x1000, 1);
    uint8_t guest[16];

    memcpy(guest, bytes, 15);
    control.arg = guest;
    control_scan(&control, block);
    /* What runs in the cache at all is what the policy says. */
    if (insn->cls == TR_CALLOUT || insn->cls == TR_ABSENT || insn->cls == TR_REFUSED)
        cr_assert_lt(block->host_len - block->direct, key & TR_K_COUNT ? 48 : 24,
                     "a callout is three instructions");
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

static void scan_with(uint32_t key, unsigned long at_least)
{
    struct scan scan = {.visit = translate_one,
                        .arg = &key,
                        .tails = tails[0],
                        .ntails = sizeof(tails) / sizeof(tails[0]),
                        .mode = key & TR_K_LONG ? TR_MODE_64 : TR_MODE_32};

    setup();
    scan_all(&scan);
    cc_destroy(&cc);
    cr_log_info("%lu instructions, %lu of the host's; operands: %lu by table, %lu by check, %lu "
                "stack, %lu strings, %lu of rt_cpu",
                scan.visited, control.insns, control.by_table, control.by_check, control.by_stack,
                control.strings, control.by_state);
    cr_expect_gt(scan.visited, at_least, "only %lu instructions were tried", scan.visited);
    cr_expect_eq(control.complaints, 0, "%lu complaints in all", control.complaints);
    cr_expect_gt(control.by_check, 10000);
    cr_expect_gt(control.strings, 0);
}

#define FEATURES (TR_K_X87 | TR_K_WAIT | TR_K_MMX | TR_K_SSE | TR_K_AVX | TR_K_AVX512)

Test(translator_control, flat_code_at_cpl_0_cannot_leave_its_window)
{
    scan_with(TR_K_CPL0 | TR_K_DS | TR_K_ES | TR_K_SS | TR_K_IOPL | TR_K_TSC | FEATURES, 100000);
}

Test(translator_control, user_code_with_odd_segments_cannot_leave_its_window)
{
    scan_with(TR_K_DS | TR_K_CPL3 | FEATURES, 100000);
}

Test(translator_control, long_code_at_cpl_0_cannot_leave_its_windows)
{
    scan_with(TR_K_CPL0 | TR_K_LONG | TR_K_IOPL | TR_K_TSC | TR_K_COUNT | FEATURES, 400000);
}

Test(translator_control, long_user_code_cannot_leave_its_windows)
{
    scan_with(TR_K_LONG | TR_K_CPL3 | FEATURES, 400000);
}

/* ---- the scan is not to be fooled ---- */

#define LONG (TR_K_CPL0 | TR_K_LONG | TR_K_IOPL | FEATURES)
#define FLAT (TR_K_CPL0 | TR_K_DS | TR_K_ES | TR_K_SS | TR_K_IOPL | FEATURES)

/* Host code that no translator may make. $S is the displacement of rt_cpu's gpr[9], $H of host_sp,
 * $T of jump_table, $D of rsp_delta, $C of class_delta, $W of window, $P of a segptr, $L of a
 * selector, $K of descs. */
struct bad {
    const char *name;
    uint32_t key;
    const char *code; /* in hexadecimal */
    const char *what; /* the complaint */
};

static const struct bad bad[] = {
    {"a system call", LONG, "0f05", "reaches the host"},
    {"a system call in 32-bit code", FLAT, "cd80", "reaches the host"},
    {"a return", LONG, "c3", "reaches the host"},
    {"WRGSBASE", LONG, "f3480faed8", "reaches the host"},
    {"XSAVE, which shows host addresses", FLAT, "0fae6018", "reaches the host"},
    {"a segment register", FLAT, "8ed8", "writes a segment register"},
    {"no instruction", LONG, "06", "does not decode"},
    {"no end", LONG, "90", "runs into the records"},
    {"an address of the guest's, as it is", LONG, "488b00", "not proved"},
    {"the same in 32-bit code", FLAT, "678b00", "not proved"},
    {"32 bits without GS", FLAT, "678b042500100000", "not proved"},
    {"relative to the host's pc", LONG, "488b0500000000", "not proved"},
    {"a class without a check", LONG, "644c8b1c25$C428b0418", "not proved"},
    {"a check of another register", LONG, "c463fbf0cb146567450fb68900000020644c8b1c25$C428b0418",
     "not proved"},
    {"a check of another class", LONG, "c463fbf0c8146567450fb68900000040644c8b1c25$C428b0418",
     "not proved"},
    {"a check of less than the address", LONG,
     "c463fbf0c8106567450fb68900000020644c8b1c25$C428b0418", "checks nothing"},
    {"a base that changes after its check", LONG,
     "c463fbf0c8146567450fb689000000204889d8644c8b1c25$C428b0418", "not proved"},
    {"a displacement beyond the guards", LONG,
     "c463fbf0c8146567450fb68900000020644c8b1c25$C428b841800000010", "not proved"},
    {"another's delta", LONG, "c463fbf0d820450fb7db654e8b1cdd000000004e8b1c1b", "not proved"},
    {"a scaled delta", LONG, "c463fbf0c8146567450fb68900000020644c8b1c25$C428b0458", "not proved"},
    {"a store to the deltas", LONG, "6548890425000000004889c0", "not proved"},
    {"a load behind the deltas", LONG, "654c8b142500000800", "not proved"},
    {"an index of 32 bits into the deltas", LONG, "654e8b14dd00000000", "not proved"},
    {"a host address for the guest", LONG, "64488b0425$H", "the guest's register holds"},
    {"the window for the guest", LONG, "64488b0425$W", "not for translated code"},
    {"a host address in memory", LONG, "644c8b1425$H644c891425$S", "stores a host address"},
    {"a host address on the stack", LONG, "644c8b1425$H4152", "a host address on the stack"},
    {"arithmetic with a host address", LONG, "644c8b1425$H4c01d0", "computes with a host address"},
    {"what another block left in r10", LONG, "4c01d0", "computes with a host address"},
    {"another jump table", LONG, "6448890425$T", "writes a field"},
    {"another rsp_delta", LONG, "6448890425$D", "do not belong together"},
    {"rsp from a register", LONG, "4889c4", "rsp is no stack"},
    {"rsp moved and left", LONG, "4883ec10", "rsp is written"},
    {"rsp moved by LEA and left", LONG, "488d6424f0", "the stack not accessed"},
    {"rsp moved too far", LONG, "488da4240000007050", "moved too far"},
    {"a pop from the host's stack", LONG, "64488b2425$H58", "not proved"},
    {"its stack left to the guest", LONG, "64488b2425$H", "do not belong together"},
    {"a string without deltas", LONG, "a4", "not proved"},
    {"a far bit", LONG, "c463fbf0c8146567450fb68900000020644c8b1c25$C420fa30c18", "not proved"},
    {"an indirect jump", LONG, "ffe0", "not through the jump table"},
    {"a jump behind the jump table", LONG, "644c8b1c25$T41ffa300002000", "beside the jump table"},
    {"a jump by a whole register", LONG, "644c8b1c25$T41ff24c3", "beside the jump table"},
    {"a jump between entries", LONG, "644c8b1c25$T41ffa301000000", "beside the jump table"},
    {"a jump by what is left over in r8", FLAT, "43ff24c6", "beside the jump table"},
    {"a jump by an upper half", FLAT, "4801c843ff24c6", "beside the jump table"},
    {"a jump behind the indexed entry", FLAT, "4189c043ff64c608", "beside the jump table"},
    {"a jump by four bytes", FLAT, "4189c043ff2486", "beside the jump table"},
    {"a jump by a slot", FLAT, "41ffa600000000", "beside the jump table"},
    {"a jump out", LONG, "e900100000", "out of the block"},
    {"a loop", LONG, "ebfe", "backwards"},
    {"a branch into an instruction", LONG, "7401b890909090", "into an instruction"},
    {"a gather of any indices", LONG, "c4e26990041d00000000", "not proved"},
    {"an upper half", FLAT, "4801c8", "upper half"},
    {"an upper half in an address", FLAT, "4801c8428b0438", "not proved"},
    {"another window", FLAT, "4989c7", "register of the engine's"},
    {"too large a displacement", FLAT, "428b843800002000", "not proved"},
    {"an upper half behind GS", FLAT, "4801c8658b00", "not proved"},
    {"too large a displacement behind GS", FLAT, "658b8000002000", "not proved"},
    {"two guest registers behind GS", FLAT, "658b0418", "not proved"},
    {"two guest registers and the window", FLAT, "8b0418", "not proved"},
    {"a push", FLAT, "50", "not proved"},
    {"a push of a guest register on the host's stack", FLAT, "4989e14c89e450", "not proved"},
    {"a string without the window", FLAT, "a4", "not proved"},
    {"rsi left with the window in it", FLAT, "498d3437", "upper half"},
    {"a byte of rt_cpu", FLAT, "64880425$H", "not proved"},
    {"a segment's pointer from the guest", FLAT, "6448890425$P", "not proved"},
    {"a segment's pointer to somewhere", FLAT, "6448c70425$P10000000", "not proved"},
    {"half a segment's pointer", FLAT, "64c70425$P08000000", "not proved"},
    {"a segment's pointer behind an entry's start", FLAT,
     "440fb7c0644c8b0c25$K468d1485000000004f8d4cd108644c890c25$P", "not proved"},
    {"two selectors at once", FLAT, "6444890425$L", "not proved"},
    {"a selector of 32 bits as index", FLAT, "4189c0644c8b0c25$K468d1485000000004f8d0cd1418b4904",
     "not proved"},
    {"a selector without its scale", FLAT, "440fb7c0644c8b0c25$K4f8d0cc1418b4904", "not proved"},
    {"behind an entry", FLAT, "440fb7c0644c8b0c25$K468d1485000000004f8d0cd1498b491c", "not proved"},
    {"an entry written", FLAT, "440fb7c0644c8b0c25$K468d1485000000004f8d0cd1498909", "not proved"},
    {"the descriptors' address for the guest", FLAT, "64488b0425$K", "upper half"},
    {"an entry's address for the guest", FLAT, "440fb7c0644c8b0c25$K468d1485000000004f8d0cd14489c8",
     "computes with a host address"},
};

static uint32_t field(char letter)
{
    size_t at = letter == 'S'   ? offsetof(struct rt_cpu, gpr) + 72
                : letter == 'H' ? offsetof(struct rt_cpu, host_sp)
                : letter == 'T' ? offsetof(struct rt_cpu, jump_table)
                : letter == 'D' ? offsetof(struct rt_cpu, rsp_delta)
                : letter == 'C' ? offsetof(struct rt_cpu, class_delta)
                : letter == 'P' ? offsetof(struct rt_cpu, segptr) + 4 * sizeof(uint32_t *)
                : letter == 'L' ? offsetof(struct rt_cpu, selector)
                : letter == 'K' ? offsetof(struct rt_cpu, descs)
                                : offsetof(struct rt_cpu, window);
    return (uint32_t)(rt_cpu_offset() + (intptr_t)at);
}

static unsigned assemble(const char *text, uint8_t *code)
{
    unsigned n = 0;

    for (; *text; text += 2) {
        if (*text == '$') {
            uint32_t displacement = field(text[1]);
            memcpy(code + n, &displacement, 4);
            n += 4;
        } else {
            unsigned byte;
            cr_assert_eq(sscanf(text, "%2x", &byte), 1);
            code[n++] = (uint8_t)byte;
        }
    }
    return n;
}

/* A block of that code, which then leaves by a site that is not linked. */
static struct cc_block *plant(const uint8_t *code, unsigned n, uint32_t key, bool ends)
{
    static const struct cc_map map[] = {{0, 0}};
    uint8_t *p = cc_reserve(&cc, 256);
    bool wide = key & TR_K_LONG;
    struct cc_site site = {0};

    cr_assert_not_null(p);
    memcpy(p, code, n);
    if (ends) {
        const uint8_t *target = cc.rx + cc_exit_of(&cc, cc.nsites);
        int32_t rel = (int32_t)(target - (cc.rx + (p + n + 5 - cc.rw)));
        p[n] = 0xe9;
        memcpy(p + n + 1, &rel, 4);
        site.jump = (uint32_t)(p + n + 1 - cc.rw) & INT32_MAX;
        n += 5;
    }
    struct cc_block proto = {.pc = 0x1000,
                             .gpa = 0x1000,
                             .gpa2 = CC_NO_GPA,
                             .key = (uint16_t)key,
                             .host = (uint32_t)(p - cc.rw),
                             .host_len = (uint16_t)n,
                             .total = (uint16_t)n,
                             .len = 4,
                             .insns = 1,
                             .nmap = 1,
                             .nsites = ends,
                             .wide = wide};
    struct cc_block *b = cc_block_add(&cc, &proto, map, &site, NULL);
    cr_assert_not_null(b);
    cc_commit(&cc, n);
    return b;
}

Test(translator_control, planted_code_is_found)
{
    setup();
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        uint8_t code[64];
        unsigned n = assemble(bad[i].code, code);
        bool ends = !strstr(bad[i].what, "into the records");
        said[0] = 0;
        bool clean = control_scan(&control, plant(code, n, bad[i].key, ends));
        cr_expect(!clean && strstr(said, bad[i].what), "%s: complaints: %s", bad[i].name, said);
    }
    cc_destroy(&cc);
}

/* Guest code with every kind of operand, twice each. */
static const uint8_t sample[] = {
    0x48, 0x8b, 0x48, 0x08,                               /* mov 8(%rax), %rcx */
    0x48, 0x89, 0x48, 0x10,                               /* mov %rcx, 16(%rax) */
    0x4c, 0x8b, 0x14, 0xd1,                               /* mov (%rcx,%rdx,8), %r10 */
    0x4d, 0x89, 0x5a, 0x20,                               /* mov %r11, 32(%r10) */
    0x8b, 0x3d, 0x00, 0x01, 0x00, 0x00,                   /* mov 256(%rip), %edi */
    0x64, 0x48, 0x8b, 0x1c, 0x25, 0x28, 0x00, 0x00, 0x00, /* mov %fs:40, %rbx */
    0x65, 0x48, 0x8b, 0x03,                               /* mov %gs:(%rbx), %rax */
    0x48, 0x8b, 0x98, 0x00, 0x00, 0x00, 0x40,             /* mov 1G(%rax), %rbx */
    0x48, 0x0f, 0xab, 0x0e,                               /* bts %rcx, (%rsi) */
    0xf3, 0x48, 0xa5,                                     /* rep movsq */
    0x48, 0x81, 0xec, 0x00, 0x10, 0x00, 0x00,             /* sub $4096, %rsp */
    0x74, 0x10,                                           /* je */
    0x48, 0x89, 0xec,                                     /* mov %rbp, %rsp */
    0xc4, 0xe2, 0x69, 0x90, 0x04, 0x98,                   /* vpgatherdd */
    0xeb, 0x40,                                           /* jmp */
};

/* What the guest's memory is protected by: each of these may not be left out. */
static const char *guard_at(const struct control *c, const ZydisDecodedInstruction *zi,
                            const ZydisDecodedOperand *o)
{
    size_t at;

    if (zi->mnemonic == ZYDIS_MNEMONIC_MOVZX && o[1].type == ZYDIS_OPERAND_TYPE_MEMORY)
        return o[1].mem.segment == ZYDIS_REGISTER_GS ? "a check" : "a probe";
    if (zi->mnemonic == ZYDIS_MNEMONIC_RORX)
        return "a rotation";
    if (zi->mnemonic == ZYDIS_MNEMONIC_MOVZX && o[1].size == 16)
        return "a cut";
    if (zi->mnemonic == ZYDIS_MNEMONIC_JRCXZ)
        return "a gather's branch";
    if (zi->mnemonic == ZYDIS_MNEMONIC_VPADDD || zi->mnemonic == ZYDIS_MNEMONIC_VPAND ||
        zi->mnemonic == ZYDIS_MNEMONIC_VPCMPD || zi->mnemonic == ZYDIS_MNEMONIC_KMOVD)
        return "a step of a gather's check";
    if (zi->mnemonic == ZYDIS_MNEMONIC_NOT)
        return "a complement";
    if (zi->mnemonic == ZYDIS_MNEMONIC_SHRX)
        return "a bit's cut";
    if (zi->mnemonic != ZYDIS_MNEMONIC_MOV || zi->operand_width != 64)
        return NULL;
    if (o[1].type == ZYDIS_OPERAND_TYPE_MEMORY && o[1].mem.segment == ZYDIS_REGISTER_GS)
        return "a delta";
    if (o[1].type == ZYDIS_OPERAND_TYPE_MEMORY && control_is_state(c, &o[1], &at) &&
        CONTROL_IN(at, class_delta))
        return "a class's delta";
    if (o[0].type == ZYDIS_OPERAND_TYPE_MEMORY && control_is_state(c, &o[0], &at) &&
        (CONTROL_IN(at, rsp_delta) || CONTROL_IN(at, rsp_undo)))
        return "what belongs to rsp";
    return NULL;
}

/* Leaves out each guard of b in turn; returns how many it has. */
static unsigned leave_out(const struct cc_block *b)
{
    ZydisDecoder decoder;
    ZydisDecodedInstruction zi;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    unsigned left_out = 0;

    cr_assert(control_scan(&control, b), "%s", said);
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    for (unsigned at = b->direct; at < b->host_len; at += zi.length) {
        uint8_t *code = cc.rw + b->host + at, kept[15];
        cr_assert(
            ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code, b->host_len - at, &zi, operands)));
        const char *guard = guard_at(&control, &zi, operands);
        if (!guard)
            continue;
        memcpy(kept, code, zi.length);
        memset(code, 0x90, zi.length);
        cr_expect(!control_scan(&control, b), "%s at +%x may be left out", guard, at);
        memcpy(code, kept, zi.length);
        left_out++;
    }
    cr_expect(control_scan(&control, b));
    return left_out;
}

Test(translator_control, a_guard_that_is_left_out_is_missed)
{
    for (unsigned masks = 0; masks < 2; masks++) {
        setup();
        cc.has_masks = masks;
        struct cc_block *b = translate(sample, sizeof(sample), LONG, 0x7f1234567000, 64);
        cr_expect_eq(b->insns, 15, "%u instructions", b->insns);
        unsigned guards = leave_out(b);
        cr_expect_geq(guards, 39, "only %u", guards);
        cc_destroy(&cc);
    }
}

/* ---- what branches know ---- */

static const uint8_t front[] = {
    0x48, 0x8b, 0x03,                   /* mov (%rbx), %rax */
    0x4c, 0x8b, 0x45, 0x08,             /* mov 8(%rbp), %r8 */
    0x48, 0x83, 0xc3, 0x10,             /* add $16, %rbx */
    0xc4, 0xc2, 0x79, 0x2c, 0x0c, 0x24, /* vmaskmovps (%r12), %xmm0, %xmm1 */
    0xeb, 0x10,                         /* jmp: to another block */
};
enum { RBX = 1 << 3, RBP = 1 << 5, R12 = 1 << 12, DELTA = 1 << 18 };

/* The class of the code's address: 1. */
enum { CLASS_1 = 1 << 16, CLASS_2 = 2 << 16 };

Test(translator_control, a_link_leads_behind_what_its_branch_knows)
{
    setup();
    struct cc_block *b = translate(front, sizeof(front), LONG, 0x7f1234567000, 64);
    const uint8_t *entry = cc.rx + b->host + b->direct;

    cr_expect_eq(b->front, 9 + 2 * 16, "a delta, two checks: %u", b->front);
    cr_expect_eq(cc.skip(entry, 0), 0);
    cr_expect_eq(cc.skip(entry, RBX | RBP | CLASS_1), 0, "not without the delta");
    cr_expect_eq(cc.skip(entry, DELTA | CLASS_1), 9);
    cr_expect_eq(cc.skip(entry, DELTA | CLASS_1 | RBX), 9 + 16);
    cr_expect_eq(cc.skip(entry, DELTA | CLASS_1 | RBP), 9, "in the order of the checks");
    cr_expect_eq(cc.skip(entry, DELTA | CLASS_1 | RBX | RBP), b->front);
    cr_expect_eq(cc.skip(entry, DELTA | CLASS_2 | RBX | RBP), 0, "another class");
    cc_destroy(&cc);
}

/* rbx and rbp; not r12, which was checked but through which nothing was accessed. */
Test(translator_control, a_branch_that_claims_to_know_more_is_found)
{
    setup();
    struct cc_block *b = translate(front, sizeof(front), LONG, 0x7f1234567000, 64);
    uint32_t *known = &cc.sites[b->first_site].known;

    cr_expect_eq(*known, DELTA | CLASS_1 | RBX | RBP, "%x", *known);
    cr_expect(control_scan(&control, b), "%s", said);
    for (unsigned bit = 0; bit < 20; bit++) {
        if (*known >> bit & 1)
            continue;
        *known ^= 1u << bit;
        said[0] = 0;
        cr_expect(!control_scan(&control, b) && strstr(said, "says that it knows"), "bit %u: %s",
                  bit, said);
        *known ^= 1u << bit;
    }
    cc_destroy(&cc);
}

/* ---- loops ---- */

static const uint8_t loop[] = {
    0x48, 0x8b,         0x08,             /* mov (%rax), %rcx */
    0x48, 0x03,         0x4c, 0xd3, 0x10, /* add 16(%rbx,%rdx,8), %rcx */
    0x49, 0x89,         0x0a,             /* mov %rcx, (%r10) */
    0x48, 0x89,         0xcf,             /* mov %rcx, %rdi */
    0x48, 0x83,         0xc0, 0x08,       /* add $8, %rax */
    0x49, 0x83,         0xc2, 0x10,       /* add $16, %r10 */
    0x48, 0xff,         0xc2,             /* inc %rdx */
    0x48, 0x39,         0xea,             /* cmp %rbp, %rdx */
    0x75, (uint8_t)-30, 0x90, 0xf4,       /* jne loop; nop; hlt */
};

Test(translator_control, checks_in_front_of_a_loop_are_guards)
{
    setup();
    struct cc_block *b = translate(loop, sizeof(loop), LONG, 0x7f1234567000, 64);
    cr_expect_gt(b->front, 3 * 16);
    unsigned guards = leave_out(b);
    cr_expect_eq(guards, 7, "%u: three checks, a delta", guards);
    cc_destroy(&cc);
}

/* In the loop's host code: what does not belong there. */
Test(translator_control, a_loop_that_does_not_keep_to_its_checks_is_found)
{
    static const struct {
        const char *from, *to, *what;
    } change[] = {
        {"4883c008", "4889f890", "not there any more"}, /* mov %rdi, %rax */
        {"48ffc2", "4889fa", "not there any more"},     /* mov %rdi, %rdx */
        {"4889cf", "4989cb", "delta is lost"},          /* mov %rcx, %r11 */
        {"4a8b0c18", "0f1f4000", "does not access"} /* a NOP */,
    };

    setup();
    struct cc_block *b = translate(loop, sizeof(loop), LONG, 0x7f1234567000, 64);
    for (size_t i = 0; i < sizeof(change) / sizeof(change[0]); i++) {
        uint8_t from[8], to[8], *at = cc.rw + b->host + b->direct + b->front;
        unsigned n = assemble(change[i].from, from);
        assemble(change[i].to, to);
        uint8_t *end = cc.rw + b->host + b->host_len;
        while (at < end && memcmp(at, from, n))
            at++;
        cr_assert_lt(at, end, "%s is not there", change[i].from);
        memcpy(at, to, n);
        said[0] = 0;
        cr_expect(!control_scan(&control, b) && strstr(said, change[i].what), "%s: %s",
                  change[i].what, said);
        memcpy(at, from, n);
    }
    cr_expect(control_scan(&control, b));
    cc_destroy(&cc);
}

/* Nothing to check in front, or nothing that a turn is sure to access. */
Test(translator_control, what_a_loop_does_not_keep_is_checked_in_it)
{
    static const char *const code[] = {
        "488b0075fb",           /* mov (%rax), %rax: a list */
        "8b0c10ffc275f9",       /* mov (%rax,%rdx), %ecx; inc %edx */
        "8b0848050010000075f6", /* mov (%rax), %ecx; add $4096, %rax */
        "75fe8b08",             /* the access is behind the branch */
        "c4e26d8c0875f9",       /* vpmaskmovd (%rax), %ymm2, %ymm1 */
        "0f180875fb",           /* prefetcht0 (%rax) */
        "64488b0875fa",         /* mov %fs:(%rax), %rcx */
        "01fee3fc8b0875f8",     /* JRCXZ in front of the access */
        "8b08e2fc75fa",         /* LOOP */
        "8b0874fce8f7ffffff",   /* CALL */
    };

    setup();
    for (size_t i = 0; i < sizeof(code) / sizeof(code[0]); i++) {
        uint8_t bytes[32] = {0};
        unsigned n = assemble(code[i], bytes);
        bytes[n] = 0xf4;
        struct cc_block *b = translate(bytes, n + 1, LONG, 0x7f1234567000, 64);
        cr_expect_not(b->loops, "%s", code[i]);
        cr_expect(control_scan(&control, b), "%s", said);
    }
    cc_destroy(&cc);
}

Test(translator_control, a_pc_map_out_of_order_is_found)
{
    setup();
    struct cc_block *b = translate(sample, sizeof(sample), LONG, 0x7f1234567000, 64);
    struct cc_map *row = cc.maps + b->map;
    for (unsigned i = 1; i < b->nmap; i++) {
        struct cc_map kept = row[i];
        row[i].host = row[i - 1].host;
        cr_expect(!control_scan(&control, b));
        row[i] = kept;
        row[i].guest = (uint16_t)(b->len | (kept.guest & 0xf000));
        cr_expect(!control_scan(&control, b));
        row[i] = kept;
    }
    cr_expect(control_scan(&control, b));
    cc_destroy(&cc);
}
