/* The slow path against the host CPU in 32-bit mode: one instruction of each pattern on random
 * registers, vector state and memory, 200 times, half of them in compatibility mode, which has to
 * leave the same; and XSAVE's images, which XRSTOR takes back. cpu_step64_test.c does so in 64-bit
 * mode, tests/diff with every form of instruction.
 */
#include "tests/unit/cpu_oracle.h"
#include "tests/unit/cpu_step.h"

TestSuite(cpu_step_host, .init = step_setup, .fini = step_teardown, .timeout = 60);

/* ---- against the host ---- */

enum operand { NONE, RM, MEM, REG };
struct pattern {
    char opcode[8]; /* bytes with the prefixes */
    uint8_t len;
    uint8_t operand;
    int8_t reg; /* of ModRM, -1: any */
    uint8_t imm;
    uint8_t align; /* of memory, a power of two */
};
#define PATTERN(opcode, ...)                    \
    {                                           \
        opcode, sizeof(opcode) - 1, __VA_ARGS__ \
    }

static struct pattern patterns[] = {
    PATTERN("\x00", RM, -1, 0, 1),              /* add r/m8, r8 */
    PATTERN("\x11", RM, -1, 0, 1),              /* adc */
    PATTERN("\x66\x19", RM, -1, 0, 1),          /* sbb 16 */
    PATTERN("\x32", RM, -1, 0, 1),              /* xor r8, r/m8 */
    PATTERN("\x3b", RM, -1, 0, 1),              /* cmp */
    PATTERN("\x81", RM, -1, 4, 1),              /* group 1 */
    PATTERN("\x66\x83", RM, -1, 1, 1),          /* group 1, 16-bit */
    PATTERN("\x82", RM, -1, 1, 1),              /* alias of 80h */
    PATTERN("\xf0\x01", MEM, -1, 0, 1),         /* lock add */
    PATTERN("\xf0\x0f\xc1", MEM, -1, 0, 1),     /* lock xadd */
    PATTERN("\xf0\x0f\xb0", MEM, -1, 0, 1),     /* lock cmpxchg8 */
    PATTERN("\xf0\x0f\xb1", MEM, -1, 0, 1),     /* lock cmpxchg */
    PATTERN("\xf0\x0f\xc7", MEM, 1, 0, 1),      /* lock cmpxchg8b */
    PATTERN("\x0f\xc7", MEM, 1, 0, 1),          /* cmpxchg8b */
    PATTERN("\xf0\xf7", MEM, 3, 0, 1),          /* lock neg */
    PATTERN("\x87", RM, -1, 0, 1),              /* xchg */
    PATTERN("\x86", RM, -1, 0, 1),              /* xchg 8 */
    PATTERN("\x85", RM, -1, 0, 1),              /* test */
    PATTERN("\x88", RM, -1, 0, 1),              /* mov r/m8, r8 */
    PATTERN("\x8b", RM, -1, 0, 1),              /* mov */
    PATTERN("\x66\x89", RM, -1, 0, 1),          /* mov 16 */
    PATTERN("\xc6", RM, 0, 1, 1),               /* mov imm8 */
    PATTERN("\xc7", RM, 0, 4, 1),               /* mov imm32 */
    PATTERN("\x8d", MEM, -1, 0, 1),             /* lea */
    PATTERN("\x66\x8d", MEM, -1, 0, 1),         /* lea 16 */
    PATTERN("\x8f", MEM, 0, 0, 1),              /* pop mem */
    PATTERN("\xff", RM, 6, 0, 1),               /* push */
    PATTERN("\x66\xff", RM, 6, 0, 1),           /* push 16 */
    PATTERN("\x53", NONE, 0, 0, 1),             /* push ebx */
    PATTERN("\x54", NONE, 0, 0, 1),             /* push esp */
    PATTERN("\x5c", NONE, 0, 0, 1),             /* pop esp */
    PATTERN("\x66\x5e", NONE, 0, 0, 1),         /* pop si */
    PATTERN("\x68", NONE, 0, 4, 1),             /* push imm32 */
    PATTERN("\x66\x6a", NONE, 0, 1, 1),         /* push imm8, 16-bit */
    PATTERN("\x60", NONE, 0, 0, 1),             /* pusha */
    PATTERN("\x61", NONE, 0, 0, 1),             /* popa */
    PATTERN("\x66\x60", NONE, 0, 0, 1),         /* pusha 16 */
    PATTERN("\x66\x61", NONE, 0, 0, 1),         /* popa 16 */
    PATTERN("\xc8\x20\x00\x00", NONE, 0, 0, 1), /* enter 32, 0 */
    PATTERN("\xc8\x10\x00\x01", NONE, 0, 0, 1), /* enter 16, 1 */
    PATTERN("\xc8\x08\x00\x05", NONE, 0, 0, 1), /* enter 8, 5 */
    PATTERN("\x66\xc8\x08\x00\x03", NONE, 0, 0, 1),
    PATTERN("\xc9", NONE, 0, 0, 1),                 /* leave */
    PATTERN("\x66\xc9", NONE, 0, 0, 1),             /* leave 16 */
    PATTERN("\x0f\xa0", NONE, 0, 0, 1),             /* push fs: zero on both sides */
    PATTERN("\x40", NONE, 0, 0, 1),                 /* inc eax */
    PATTERN("\x66\x4f", NONE, 0, 0, 1),             /* dec di */
    PATTERN("\xfe", RM, 1, 0, 1),                   /* dec 8 */
    PATTERN("\xd0", RM, -1, 0, 1),                  /* shifts by 1 */
    PATTERN("\xd3", RM, -1, 0, 1),                  /* by cl */
    PATTERN("\x66\xc1", RM, -1, 1, 1),              /* by imm8 */
    PATTERN("\x0f\xa4", RM, -1, 1, 1),              /* shld */
    PATTERN("\x0f\xad", RM, -1, 0, 1),              /* shrd cl */
    PATTERN("\xf6", RM, 4, 0, 1),                   /* mul 8 */
    PATTERN("\xf7", RM, 5, 0, 1),                   /* imul */
    PATTERN("\xf7", RM, 6, 0, 1),                   /* div */
    PATTERN("\x66\xf7", RM, 7, 0, 1),               /* idiv 16 */
    PATTERN("\x0f\xaf", RM, -1, 0, 1),              /* imul */
    PATTERN("\x69", RM, -1, 4, 1),                  /* imul imm */
    PATTERN("\x0f\xb6", RM, -1, 0, 1),              /* movzx */
    PATTERN("\x0f\xbf", RM, -1, 0, 1),              /* movsx */
    PATTERN("\x0f\xc8", NONE, 0, 0, 1),             /* bswap */
    PATTERN("\x0f\xbc", RM, -1, 0, 1),              /* bsf */
    PATTERN("\xf3\x0f\xbd", RM, -1, 0, 1),          /* lzcnt */
    PATTERN("\xf3\x0f\xb8", RM, -1, 0, 1),          /* popcnt */
    PATTERN("\x0f\xba", RM, 4, 1, 1),               /* bt imm */
    PATTERN("\x0f\xba", RM, 7, 1, 1),               /* btc imm */
    PATTERN("\x0f\x94", RM, 0, 0, 1),               /* sete */
    PATTERN("\x0f\x9f", RM, 0, 0, 1),               /* setg */
    PATTERN("\x0f\x42", RM, -1, 0, 1),              /* cmovb */
    PATTERN("\x0f\x4d", RM, -1, 0, 1),              /* cmovge */
    PATTERN("\x98", NONE, 0, 0, 1),                 /* cwde */
    PATTERN("\x66\x99", NONE, 0, 0, 1),             /* cwd */
    PATTERN("\x9e", NONE, 0, 0, 1),                 /* sahf */
    PATTERN("\x9f", NONE, 0, 0, 1),                 /* lahf */
    PATTERN("\xf5", NONE, 0, 0, 1),                 /* cmc */
    PATTERN("\x27", NONE, 0, 0, 1),                 /* daa */
    PATTERN("\x2f", NONE, 0, 0, 1),                 /* das */
    PATTERN("\x37", NONE, 0, 0, 1),                 /* aaa */
    PATTERN("\x3f", NONE, 0, 0, 1),                 /* aas */
    PATTERN("\xd4\x0a", NONE, 0, 0, 1),             /* aam */
    PATTERN("\xd5\x13", NONE, 0, 0, 1),             /* aad 19 */
    PATTERN("\xd6", NONE, 0, 0, 1),                 /* salc */
    PATTERN("\xd7", NONE, 0, 0, 1),                 /* xlat */
    PATTERN("\xa4", NONE, 0, 0, 1),                 /* movsb */
    PATTERN("\x66\xa5", NONE, 0, 0, 1),             /* movsw */
    PATTERN("\xa6", NONE, 0, 0, 1),                 /* cmpsb */
    PATTERN("\xa7", NONE, 0, 0, 1),                 /* cmpsd */
    PATTERN("\xab", NONE, 0, 0, 1),                 /* stosd */
    PATTERN("\xac", NONE, 0, 0, 1),                 /* lodsb */
    PATTERN("\x66\xaf", NONE, 0, 0, 1),             /* scasw */
    PATTERN("\xc4\xe2\x60\xf2", RM, -1, 0, 1),      /* andn */
    PATTERN("\xc4\xe2\x7b\xf5", RM, -1, 0, 1),      /* pdep */
    PATTERN("\xc4\xe3\x7b\xf0", RM, -1, 1, 1),      /* rorx */
    PATTERN("\x0f\x38\xf0", MEM, -1, 0, 1),         /* movbe */
    PATTERN("\x66\x0f\x38\xf6", RM, -1, 0, 1),      /* adcx */
    PATTERN("\x0f\xfc", RM, -1, 0, 1),              /* paddb mm */
    PATTERN("\x0f\x7f", MEM, -1, 0, 1),             /* movq mem, mm */
    PATTERN("\xd8", MEM, 0, 0, 1),                  /* fadd m32 */
    PATTERN("\xdd", MEM, 0, 0, 1),                  /* fld m64 */
    PATTERN("\xdb", MEM, 5, 0, 1),                  /* fld m80 */
    PATTERN("\xdb", MEM, 7, 0, 1),                  /* fstp m80 */
    PATTERN("\xdf", MEM, 7, 0, 1),                  /* fistp m64 */
    PATTERN("\xd9\xfb", NONE, 0, 0, 1),             /* fsincos */
    PATTERN("\xd9\xfa", NONE, 0, 0, 1),             /* fsqrt */
    PATTERN("\xdb\xe9", NONE, 0, 0, 1),             /* fucomi */
    PATTERN("\xd9", MEM, 7, 0, 1),                  /* fnstcw */
    PATTERN("\xdf\xe0", NONE, 0, 0, 1),             /* fnstsw ax */
    PATTERN("\x9b", NONE, 0, 0, 1),                 /* fwait */
    PATTERN("\x0f\x58", RM, -1, 0, 16),             /* addps */
    PATTERN("\xf2\x0f\x58", RM, -1, 0, 1),          /* addsd */
    PATTERN("\x66\x0f\xef", RM, -1, 0, 16),         /* pxor */
    PATTERN("\x66\x0f\x7f", MEM, -1, 0, 16),        /* movdqa store */
    PATTERN("\x0f\x11", MEM, -1, 0, 1),             /* movups store */
    PATTERN("\x66\x0f\x38\x00", RM, -1, 0, 16),     /* pshufb */
    PATTERN("\x66\x0f\x3a\x0f", RM, -1, 1, 16),     /* palignr */
    PATTERN("\xf3\x0f\x2a", RM, -1, 0, 1),          /* cvtsi2ss */
    PATTERN("\x0f\xae", MEM, 3, 0, 1),              /* stmxcsr */
    PATTERN("\xc5\xe4\x58", RM, -1, 0, 1),          /* vaddps ymm */
    PATTERN("\xc5\xfd\x7f", MEM, -1, 0, 32),        /* vmovdqa store */
    PATTERN("\xc4\xe2\x65\xb8", RM, -1, 0, 1),      /* vfmadd231ps ymm */
    PATTERN("\xc4\xe2\x65\x2c", MEM, -1, 0, 1),     /* vmaskmovps load */
    PATTERN("\xc4\xe2\x65\x2f", MEM, -1, 0, 1),     /* vmaskmovpd store */
    PATTERN("\xc4\xe2\x61\x8e", MEM, -1, 0, 1),     /* vpmaskmovd store */
    PATTERN("\xc4\xe2\xe5\x8c", MEM, -1, 0, 1),     /* vpmaskmovq load */
    PATTERN("\xc5\xf8\x77", NONE, 0, 0, 1),         /* vzeroupper */
    PATTERN("\x66\x0f\xf7", REG, -1, 0, 1),         /* maskmovdqu */
    PATTERN("\x0f\xf7", REG, -1, 0, 1),             /* maskmovq */
    PATTERN("\x62\xf1\x64\x49\x58", RM, -1, 0, 1),  /* vaddps zmm{k1} */
    PATTERN("\x62\xf1\x64\xda\x58", MEM, -1, 0, 1), /* vaddps zmm{k2}{z}, m32{1to16} */
    PATTERN("\x62\xf1\x7c\x4b\x11", MEM, -1, 0, 1), /* vmovups m512{k3}, zmm */
    PATTERN("\x62\xf1\x7f\x2c\x7f", MEM, -1, 0, 1), /* vmovdqu8 m256{k4}, ymm */
    PATTERN("\x62\xf1\xff\x4d\x6f", RM, -1, 0, 1),  /* vmovdqu16 zmm{k5} */
    PATTERN("\x62\xf2\x7d\x49\x8a", MEM, -1, 0, 1), /* vcompressps m512{k1} */
    PATTERN("\x62\xf2\xfd\x4a\x89", MEM, -1, 0, 1), /* vpexpandq zmm{k2} */
    PATTERN("\x62\xf2\xfd\x2b\x63", MEM, -1, 0, 1), /* vpcompressw m256{k3} */
    PATTERN("\x62\xf2\x7e\x4a\x30", MEM, -1, 0, 1), /* vpmovwb m256{k2} */
    PATTERN("\x62\xf2\x7e\x4b\x35", MEM, -1, 0, 1), /* vpmovqd m256{k3} */
    PATTERN("\x62\xf2\x7d\x4c\x31", RM, -1, 0, 1),  /* vpmovzxbd zmm{k4} */
    PATTERN("\x62\xf3\x7d\x4d\x1d", MEM, -1, 1, 1), /* vcvtps2ph m256{k5} */
    PATTERN("\x62\xf3\x7d\x4e\x19", MEM, -1, 1, 1), /* vextractf32x4 m128{k6} */
    PATTERN("\x62\xf1\x7e\x0f\x11", MEM, -1, 0, 1), /* vmovss m32{k7} */
    PATTERN("\x62\xf3\x65\x4a\x3e", RM, 1, 1, 1),   /* vpcmpub k{k2} */
    PATTERN("\x0f\xae", MEM, 0, 0, 16),             /* fxsave */
    PATTERN("\x0f\xae", MEM, 4, 0, 64),             /* xsave */
    PATTERN("\x0f\xae", MEM, 6, 0, 64),             /* xsaveopt */
    PATTERN("\x0f\xc7", MEM, 4, 0, 64),             /* xsavec */
    PATTERN("\xd9", MEM, 6, 0, 1),                  /* fnstenv */
    PATTERN("\x66\xd9", MEM, 6, 0, 1),              /* fnstenv 16 */
    PATTERN("\xdd", MEM, 6, 0, 1),                  /* fnsave */
    PATTERN("\x66\xdd", MEM, 6, 0, 1),              /* fnsave 16 */
    PATTERN("\xd9", MEM, 4, 0, 1),                  /* fldenv */
    PATTERN("\x66\xd9", MEM, 4, 0, 1),              /* fldenv 16 */
    PATTERN("\xdd", MEM, 4, 0, 1),                  /* frstor */
    PATTERN("\x66\xdd", MEM, 4, 0, 1),              /* frstor 16 */
    PATTERN("\xc5\xf8\x91", MEM, -1, 0, 1),         /* kmovw m16, k */
    PATTERN("\xc4\xe1\xf9\x90", MEM, -1, 0, 1),     /* kmovd k, m32 */
};

static struct oracle oracle;

/* Memory operands end up well inside the data pages: by address, or based on ebx, esi. */
static unsigned build_modrm(uint8_t *p, const struct pattern *row)
{
    unsigned reg = row->reg >= 0 ? (unsigned)row->reg : rnd() & 7, form = rnd() % 4;
    uint32_t at = DATA + 0x400 + (rnd() & 0x3ff & ~(row->align - 1u));

    if (row->operand == REG || (row->operand == RM && form == 0)) {
        p[0] = (uint8_t)(0xc0 | reg << 3 | (rnd() & 7));
        return 1;
    }
    if (form < 3 || row->opcode[0] == 0x62) {
        p[0] = (uint8_t)(reg << 3 | 5);
        memcpy(p + 1, &at, 4);
        return 5;
    }
    if (row->align > 1) {
        p[0] = (uint8_t)(0x40 | reg << 3 | 3); /* disp8(%ebx) */
        p[1] = (uint8_t)(0 - row->align);
        return 2;
    }
    p[0] = (uint8_t)(0x80 | reg << 3 | 4); /* disp32(%ebx,%esi,2), negative */
    p[1] = 0x73;
    at = 0u - (rnd() & 0xff);
    memcpy(p + 2, &at, 4);
    return 6;
}

static unsigned build(uint8_t *p, const struct pattern *row)
{
    unsigned len = row->len;
    memcpy(p, row->opcode, len);
    if (row->operand != NONE)
        len += build_modrm(p + len, row);
    for (unsigned n = 0; n < row->imm; n++)
        p[len++] = (uint8_t)rnd();
    return len;
}

/* Random registers that point into the data pages where addresses are made of them. */
static void randomise(const struct pattern *row)
{
    struct oracle_state *s = oracle.in;
    uint64_t used = ORACLE_XSAVE & ~0x80u; /* not ZMM16 and up, which 32-bit code has not */

    for (unsigned n = 0; n < 8; n++)
        s->gpr[n] = rnd() & 1 ? rnd() : rnd() & 0xff;
    s->gpr[RT_BX] = DATA + 0x800;
    s->gpr[RT_SI] = row->operand == NONE ? DATA + 0x900 + (rnd() & 0xff) : rnd() & 0xff;
    s->gpr[RT_DI] = DATA + 0xa00 + (rnd() & 0xff);
    s->gpr[RT_BP] = DATA + 0x1800 + (rnd() & 0xff);
    s->gpr[RT_SP] = DATA + 0x1400 + (rnd() & 0xfc);
    if (row->align == 64) { /* XSAVE: the host's XCR0 may have more than the guest's */
        s->gpr[RT_AX] &= ORACLE_XSAVE;
        s->gpr[RT_DX] = 0;
    }
    s->flags = (rnd() & RT_LIVE & ~(row->operand == NONE ? 0u : RT_DF)) | RT_IF | 2;
    for (unsigned n = 0; n < ORACLE_AREA_SIZE; n++)
        s->area[n] = (uint8_t)rnd();
    memset(s->area, 0, 32);
    memset(s->area + 416, 0, 160);
    s->area[0] = 0x7f;
    s->area[1] = 0x03;
    s->area[24] = 0x80;
    s->area[25] = 0x1f;
    if (rnd() & 1) { /* x87 registers with numbers in them, TOP anywhere */
        unsigned top = rnd() & 7;
        s->area[3] = (uint8_t)(top << 3);
        s->area[4] = (uint8_t)(1u << top | 1u << ((top + 1) & 7));
        for (unsigned n = 0; n < 8; n++) {
            uint16_t exponent = (uint16_t)(0x3fff + (rnd() & 31));
            s->area[32 + n * 16 + 7] |= 0x80;
            memcpy(s->area + 32 + n * 16 + 8, &exponent, 2);
            memset(s->area + 32 + n * 16 + 10, 0, 6);
        }
    } else {
        for (unsigned n = 0; n < 8; n++)
            memset(s->area + 32 + n * 16 + 10, 0, 6);
    }
    memcpy(s->area + 512, &used, 8);
    for (unsigned n = 0; n < ORACLE_DATA_SIZE; n++)
        oracle.data[n] = (uint8_t)rnd();
}

static void to_guest(const uint8_t *insn, unsigned len)
{
    for (unsigned n = 0; n < 8; n++)
        v->cpu->gpr[n] = oracle.in->gpr[n];
    v->cpu->rflags = oracle.in->flags;
    v->seg[NOVT_FS].selector = 0; /* as the host process has it */
    v->cpu->rip = CODE;
    memcpy(m.ram + CODE, insn, len);
    memcpy(m.ram + DATA, oracle.data, ORACLE_DATA_SIZE);
    rt_fpu_park(v->cpu);
    memcpy(v->cpu->xsave, oracle.in->area, ORACLE_AREA_SIZE);
}

static void compare_with_host(const char *text, unsigned len)
{
    const uint8_t *guest = v->cpu->xsave, *host = oracle.out->area;

    cr_assert_eq(v->cpu->rip, CODE + len, "%s: rip %llx", text, (unsigned long long)v->cpu->rip);
    for (unsigned n = 0; n < 8; n++)
        cr_assert_eq(v->cpu->gpr[n], oracle.out->gpr[n], "%s: register %u is %llx, not %llx", text,
                     n, (unsigned long long)v->cpu->gpr[n], (unsigned long long)oracle.out->gpr[n]);
    cr_assert_eq(v->cpu->rflags & RT_LIVE, oracle.out->flags & RT_LIVE, "%s: flags %llx, not %llx",
                 text, (unsigned long long)v->cpu->rflags, (unsigned long long)oracle.out->flags);
    for (unsigned n = 0; n < ORACLE_DATA_SIZE; n++)
        cr_assert_eq(m.ram[DATA + n], oracle.data[n], "%s: memory at %#x is %02x, not %02x", text,
                     DATA + n, m.ram[DATA + n], oracle.data[n]);
    if (guest[512] & host[512] & 1)
        cr_assert(!memcmp(guest, host, 5), "%s: x87 control", text);
    cr_assert(oracle_same_component(guest, host, 0, 32, 128), "%s: x87 registers", text);
    cr_assert(oracle_same_component(guest, host, 1, 160, 128), "%s: xmm registers", text);
    cr_assert(!memcmp(guest + 24, host + 24, 4), "%s: mxcsr", text);
    cr_assert(oracle_same_component(guest, host, 2, 576, 128), "%s: ymm registers", text);
    cr_assert(oracle_same_component(guest, host, 5, 1088, 64), "%s: opmasks", text);
    cr_assert(oracle_same_component(guest, host, 6, 1152, 256), "%s: zmm registers", text);
}

static bool needs_avx512(const struct pattern *row)
{
    return row->opcode[0] == 0x62 || !memcmp(row->opcode, "\xc5\xf8\x91", 3) ||
           !memcmp(row->opcode, "\xc4\xe1\xf9\x90", 4);
}

/* One execution on both sides; false when it divided by zero. */
static bool run_both(const struct pattern *row)
{
    uint8_t insn[16];
    char text[96];
    struct tr_insn decoded;
    unsigned len = build(insn, row);

    cr_assert_eq(tr_decode(insn, len, TR_MODE_32, &decoded), TR_DECODE_OK);
    tr_format(&decoded, CODE, text, sizeof(text));
    randomise(row);
    to_guest(insn, len);
    enum mon_rc rc = mon_step(v);
    if (rc == MON_FAULT && v->exc.vector == MON_DE)
        return false;
    cr_assert_eq(rc, MON_OK, "%s: rc %d, vector %u", text, rc, v->exc.vector);
    oracle_run(&oracle, insn, len);
    compare_with_host(text, len);
    return true;
}

ParameterizedTestParameters(cpu_step_host, instructions_do_what_the_host_does)
{
    return ROWS(struct pattern, patterns);
}
ParameterizedTest(struct pattern *row, cpu_step_host, instructions_do_what_the_host_does)
{
    unsigned ran = 0;
    if (needs_avx512(row) && (rt_fpu_mask() & ORACLE_XSAVE) != ORACLE_XSAVE)
        return;
    oracle_create(&oracle);
    seed = 0x5eed5eed5eed5eedull;
    for (unsigned n = 0; n < 200; n++) {
        if (n == 100) /* what follows runs in compatibility mode */
            machine_long(&m, 0, false);
        ran += run_both(row);
    }
    oracle_destroy(&oracle);
    cr_assert(ran > 20, "%u ran", ran);
}

/* ---- images of the vector state ---- */

/* XRSTOR of what XSAVE and XSAVEC wrote gives the state back. */
Test(cpu_step_host, xrstor_takes_back_both_formats)
{
    static const char *const save[] = {"\x0f\xae\x23", "\x0f\xc7\x23"}; /* (%ebx) */
    struct pattern any = {.align = 64};
    oracle_create(&oracle);
    for (unsigned compact = 0; compact < 2; compact++) {
        uint8_t before[ORACLE_AREA_SIZE], after[ORACLE_AREA_SIZE];
        seed = 77;
        randomise(&any);
        to_guest((const uint8_t *)save[compact], 3);
        v->cpu->gpr[RT_AX] = ORACLE_XSAVE;
        memset(m.ram + DATA + 0x800, 0, 4096);
        ASSERT_OK(mon_step(v));
        memcpy(before, v->cpu->xsave, sizeof(before));
        memset(v->cpu->xsave, 0, 512 + 64);
        ASSERT_OK(RUN("\x0f\xae\x2b"));
        memcpy(after, v->cpu->xsave, sizeof(after));
        cr_assert(!memcmp(before, after, 24) && !memcmp(before + 32, after + 32, 256));
        cr_assert(!memcmp(before + 576, after + 576, 128), "ymm, compact %u", compact);
        cr_assert_eq(get64(&m, DATA + 0x800 + 520) >> 63, compact);
    }
    oracle_destroy(&oracle);
}
