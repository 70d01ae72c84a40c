/* flags_read and flags_written against the CPU: the entry check of a block changes flags where
 * these say that nobody will see it.
 *
 * Every innocuous instruction without memory runs natively with random operands, and again with one
 * arithmetic flag inverted:
 *
 *   a flag in flags_written   comes out the same, if it is not read
 *   a flag not in flags_read  changes nothing else: neither registers nor other flags
 *
 * In passing: a copied instruction leaves the upper halves of the registers zero. */
#include "runtime/vcpu.h"
#include "tests/unit/translator_scan.h"

#include <Zydis/Zydis.h>
#include <criterion/criterion.h>
#include <sys/mman.h>

TestSuite(translator_flags, .timeout = 600);

struct state {
    uint64_t gpr[8], flags;
};

static uint8_t *code;
static unsigned tested, complaints;

static uint32_t random_32(void)
{
    static uint64_t seed = 42;
    uint64_t z = seed += 0x9e3779b97f4a7c15ull; /* splitmix64 */

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return (uint32_t)(z >> 32);
}

static uint32_t operand(void)
{
    static const uint32_t values[] = {0,    1,    2,      31,     32,         33,
                                      0x80, 0xff, 0x8000, 0xffff, 0x80000000, 0xffffffff};
    unsigned kind = random_32() % 3;

    return kind ? random_32() >> (kind == 1 ? random_32() % 32 : 0)
                : values[random_32() % (sizeof(values) / sizeof(values[0]))];
}

/* void f(struct state *): loads registers and flags, runs the instruction, stores them. */
static void build(const struct tr_insn *insn)
{
    static const uint8_t before[] = {
        0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57, /* push rbx rbp r12-r15 */
        0x49, 0x89, 0xff,                                           /* mov %rdi, %r15 */
        0x41, 0xff, 0x77, 0x40,                                     /* push flags */
        0x49, 0x8b, 0x07, 0x49, 0x8b, 0x4f, 0x08, 0x49, 0x8b, 0x57, 0x10, 0x49, 0x8b, 0x5f,
        0x18, 0x49, 0x8b, 0x6f, 0x28, 0x49, 0x8b, 0x77, 0x30, 0x49, 0x8b, 0x7f, 0x38, /* mov */
        0x9d,                                                                         /* popf */
    };
    static const uint8_t after[] = {
        0x49, 0x89, 0x07, 0x49, 0x89, 0x4f, 0x08, 0x49, 0x89, 0x57, 0x10, 0x49,
        0x89, 0x5f, 0x18, 0x49, 0x89, 0x6f, 0x28, 0x49, 0x89, 0x77, 0x30, 0x49,
        0x89, 0x7f, 0x38, 0x9c, 0x41, 0x8f, 0x47, 0x40, 0xfc, /* pushf; pop flags; cld */
        0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3,
    };
    uint8_t *p = code;

    cr_assert_eq(mprotect(code, 4096, PROT_READ | PROT_WRITE), 0);
    memcpy(p, before, sizeof(before));
    p += sizeof(before);
    p += tr_emit_redirected(insn, p, p, code);
    memcpy(p, after, sizeof(after));
    cr_assert_eq(mprotect(code, 4096, PROT_READ | PROT_EXEC), 0);
}

static struct state run(const struct state *in)
{
    struct state s = *in;
    void (*f)(struct state *);

    memcpy(&f, &code, sizeof(f));
    f(&s);
    s.flags &= RT_ARITH;
    return s;
}

static void complain(const uint8_t *bytes, const char *what, uint32_t flag)
{
    char text[128];
    struct tr_insn insn;

    tr_decode(bytes, 15, TR_MODE_32, &insn);
    tr_format(&insn, 0, text, sizeof(text));
    if (complaints++ < 20)
        cr_expect_fail("%02x %02x %02x %02x %s: %s (flag %x)", bytes[0], bytes[1], bytes[2],
                       bytes[3], text, what, flag);
}

static void compare(const uint8_t *bytes, const struct tr_insn *insn, uint32_t flag,
                    const struct state *a, const struct state *b)
{
    if (insn->flags_read & flag)
        return;
    if ((insn->flags_written & flag) && ((a->flags ^ b->flags) & flag))
        complain(bytes, "a flag that should be written is kept", flag);
    if ((a->flags ^ b->flags) & ~(uint64_t)flag)
        complain(bytes, "other flags depend on one that is not read", flag);
    if (memcmp(a->gpr, b->gpr, sizeof(a->gpr)))
        complain(bytes, "a register depends on a flag that is not read", flag);
}

/* rsp is the host's here. */
static bool touches_sp(const uint8_t *bytes, unsigned len)
{
    ZydisDecoder decoder;
    ZydisDecodedInstruction zi;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];

    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, len, &zi, operands)))
        return true;
    for (unsigned i = 0; i < zi.operand_count; i++) {
        if (operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LEGACY_32, operands[i].reg.value) ==
                ZYDIS_REGISTER_ESP)
            return true;
    }
    return false;
}

/* What translate.c takes as quiet: it cannot fault, so nothing sees the flags before it. */
static bool may_run(const uint8_t *bytes, const struct tr_insn *insn)
{
    bool divide = insn->map == 0 && (insn->opcode & 0xfe) == 0xf6 && (insn->reg & 7) >= 6;

    return insn->cls == TR_COPY && insn->op == TR_OP_copy && insn->feature == TR_F_NONE &&
           !insn->lock && !insn->has_mem && !divide &&
           (insn->has_modrm || (insn->opcode & 0xfc) != 0xa0 || insn->map) &&
           !touches_sp(bytes, insn->len);
}

static void check(const uint8_t *bytes, const struct tr_insn *insn, void *unused)
{
    static const uint32_t flags[] = {RT_CF, RT_PF, RT_AF, RT_ZF, RT_SF, RT_OF};

    (void)unused;
    if (!may_run(bytes, insn) || !(insn->flags_written | insn->flags_read | insn->has_modrm))
        return;
    tested++;
    build(insn);
    for (unsigned trial = 0; trial < 24; trial++) {
        struct state in = {.flags = (random_32() & RT_ARITH) | 0x202}, a, b;
        for (unsigned i = 0; i < 8; i++)
            in.gpr[i] = operand();
        a = run(&in);
        for (unsigned i = 0; i < 6; i++) {
            in.flags ^= flags[i];
            b = run(&in);
            in.flags ^= flags[i];
            compare(bytes, insn, flags[i], &a, &b);
        }
        for (unsigned i = 0; i < 8; i++) {
            if (a.gpr[i] >> 32)
                complain(bytes, "a register's upper half is not zero", i);
        }
    }
}

/* Every reg value, with low and high registers as rm. */
static const uint8_t tails[][8] = {
    {0xc1, 3, 2, 3, 4}, {0xca, 3, 2, 3, 4}, {0xd3, 3, 2, 3, 4}, {0xd8, 3, 2, 3, 4},
    {0xe1, 3, 2, 3, 4}, {0xe9, 3, 2, 3, 4}, {0xf2, 3, 2, 3, 4}, {0xfb, 3, 2, 3, 4},
    {0xc5, 3, 2, 3, 4}, {0xce, 0, 2, 3, 4}, {0xd7, 0, 2, 3, 4}, {0xdd, 31, 2, 3, 4},
    {0xe6, 0, 2, 3, 4}, {0xef, 1, 2, 3, 4}, {0xf5, 1, 2, 3, 4}, {0xfe, 1, 2, 3, 4},
};

/* A CPU without an instruction answers #UD: only what it has is tried. */
static bool host_has(const struct tr_insn *insn);

static void check_if_there(const uint8_t *bytes, const struct tr_insn *insn, void *arg)
{
    if (host_has(insn))
        check(bytes, insn, arg);
}

Test(translator_flags, decoded_flags_are_what_the_cpu_does)
{
    struct scan scan = {.visit = check_if_there,
                        .tails = tails[0],
                        .ntails = sizeof(tails) / sizeof(tails[0]),
                        .mode = TR_MODE_32};
    static const uint8_t p66[] = {0x66}, pf3[] = {0xf3}, pf2[] = {0xf2}, none[] = {0};

    code = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert(code != MAP_FAILED);
    scan_legacy(&scan, none, 0);
    scan_legacy(&scan, p66, 1);
    scan_legacy(&scan, pf3, 1);
    scan_legacy(&scan, pf2, 1);
    scan_vex(&scan, 7);
    cr_expect_gt(tested, 1000, "only %u instructions ran", tested);
    cr_expect_eq(complaints, 0, "%u complaints in all", complaints);
    munmap(code, 4096);
}

static bool host_has(const struct tr_insn *insn)
{
    __builtin_cpu_init();
    if (insn->encoding == TR_ENC_VEX) /* BMI1 and BMI2; ADX's and others' have a prefix */
        return __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_ADCX:
    case ZYDIS_MNEMONIC_ADOX:
    case ZYDIS_MNEMONIC_CRC32:
    case ZYDIS_MNEMONIC_POPCNT:
    case ZYDIS_MNEMONIC_LZCNT:
    case ZYDIS_MNEMONIC_TZCNT:
    case ZYDIS_MNEMONIC_MOVBE:
        return true; /* required, or decoded as their older form without */
    case ZYDIS_MNEMONIC_RDRAND:
    case ZYDIS_MNEMONIC_RDSEED: /* a new result each time */
        return false;
    default:
        return insn->map < 2;
    }
}
