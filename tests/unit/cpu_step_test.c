/* The slow path: one instruction at a time, against the host CPU in 32-bit mode where it can say
 * what is right, against the manual where it cannot. */
#include "tests/unit/cpu_oracle.h"
#include "tests/unit/cpu_step.h"

TestSuite(cpu_step, .init = step_setup, .fini = step_teardown, .timeout = 60);

/* As when the embedder has answered an exit: the same instruction again. */
static enum mon_rc again(uint64_t answer)
{
    v->replay.data[v->replay.done++] = answer;
    return mon_step(v);
}

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

/* Registers of one state component that 32-bit code sees, compared where both have them in use. */
static bool same_component(unsigned number, unsigned at, unsigned len)
{
    const uint8_t *guest = v->cpu->xsave, *host = oracle.out->area;
    static const uint8_t zero[1024];
    const uint8_t *a = guest[512] >> number & 1 ? guest + at : zero;
    const uint8_t *b = host[512] >> number & 1 ? host + at : zero;
    return !memcmp(a, b, len);
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
    cr_assert(same_component(0, 32, 128), "%s: x87 registers", text);
    cr_assert(same_component(1, 160, 128), "%s: xmm registers", text);
    cr_assert(!memcmp(guest + 24, host + 24, 4), "%s: mxcsr", text);
    cr_assert(same_component(2, 576, 128), "%s: ymm registers", text);
    cr_assert(same_component(5, 1088, 64), "%s: opmasks", text);
    cr_assert(same_component(6, 1152, 256), "%s: zmm registers", text);
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

ParameterizedTestParameters(cpu_step, instructions_do_what_the_host_does)
{
    return ROWS(struct pattern, patterns);
}
ParameterizedTest(struct pattern *row, cpu_step, instructions_do_what_the_host_does)
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
Test(cpu_step, xrstor_takes_back_both_formats)
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

Test(cpu_step, xrstor_checks_header_and_mxcsr)
{
    v->cpu->gpr[RT_BX] = DATA;
    v->cpu->gpr[RT_AX] = 7;
    memset(m.ram + DATA, 0, 4096);
    put32(&m, DATA + 24, 0x1f80);
    ASSERT_OK(RUN("\x0f\xae\x2b"));
    put64(&m, DATA + 512, 1ull << 62);
    ASSERT_FAULT(RUN("\x0f\xae\x2b"), MON_GP, 0);
    put64(&m, DATA + 512, 0);
    put64(&m, DATA + 528, 1);
    ASSERT_FAULT(RUN("\x0f\xae\x2b"), MON_GP, 0);
    put64(&m, DATA + 528, 0);
    put32(&m, DATA + 24, 0x80000000);
    ASSERT_FAULT(RUN("\x0f\xae\x2b"), MON_GP, 0);
    v->cpu->gpr[RT_BX] = DATA + 32;
    ASSERT_FAULT(RUN("\x0f\xae\x2b"), MON_GP, 0);
    v->cr4 &= ~(uint64_t)MON_CR4_OSXSAVE;
    ASSERT_FAULT(RUN("\x0f\xae\x2b"), MON_UD, 0);
}

Test(cpu_step, fxsave_shows_the_guests_pc_and_operand)
{
    v->cpu->gpr[RT_BX] = DATA;
    ASSERT_OK(RUN("\xdb\xe3"));         /* fninit */
    ASSERT_OK(RUN("\xd8\x03"));         /* fadd (%ebx): the last one with an operand */
    ASSERT_OK(RUN("\x0f\xae\x43\x40")); /* fxsave 0x40(%ebx) */
    ASSERT_HEX(get32(&m, DATA + 0x48), CODE);
    uint32_t fdp = get32(&m, DATA + 0x50);
    cr_assert(fdp == 0 || fdp == DATA, "FDP is %#x", fdp);
    ASSERT_OK(RUN("\xd9\x73\x00")); /* fnstenv */
    ASSERT_HEX(get32(&m, DATA + 12), CODE);
}

Test(cpu_step, unmasked_x87_exception_is_raised_by_the_next_instruction)
{
    v->cpu->gpr[RT_BX] = DATA;
    put16(&m, DATA, 0x37b); /* zero divide unmasked */
    ASSERT_OK(RUN("\xdb\xe3"));
    ASSERT_OK(RUN("\xd9\x2b")); /* fldcw (%ebx) */
    ASSERT_OK(RUN("\xd9\xe8"));
    ASSERT_OK(RUN("\xd9\xee"));
    ASSERT_OK(RUN("\xde\xf9")); /* 1 / 0: pending */
    ASSERT_FAULT(RUN("\x9b"), MON_MF, 0);
    ASSERT_FAULT(RUN("\xd9\xe8"), MON_MF, 0);
    ASSERT_FAULT(RUN("\xdd\x23"), MON_MF, 0); /* frstor waits */
    ASSERT_OK(RUN("\xdb\xe2"));               /* fnclex */
    ASSERT_OK(RUN("\x9b"));
}

Test(cpu_step, unmasked_sse_exception_follows_osxmmexcpt)
{
    v->cpu->gpr[RT_BX] = DATA;
    put32(&m, DATA, 0x1d80); /* zero divide unmasked */
    put32(&m, DATA + 4, 0x3f800000);
    ASSERT_OK(RUN("\x0f\xae\x13"));         /* ldmxcsr (%ebx) */
    ASSERT_OK(RUN("\xf3\x0f\x10\x43\x04")); /* movss 4(%ebx), %xmm0 */
    ASSERT_OK(RUN("\x0f\x57\xc9"));         /* xorps %xmm1, %xmm1 */
    ASSERT_FAULT(RUN("\xf3\x0f\x5e\xc1"), MON_XM, 0);
    v->cr4 &= ~(uint64_t)MON_CR4_OSXMMEXCPT;
    ASSERT_FAULT(RUN("\xf3\x0f\x5e\xc1"), MON_UD, 0);
}

/* ---- faults commit nothing ---- */

Test(cpu_step, divide_error_leaves_registers_and_flags)
{
    v->cpu->gpr[RT_AX] = 5;
    v->cpu->gpr[RT_DX] = 9;
    v->cpu->gpr[RT_BX] = 0;
    v->cpu->rflags = RT_CF | RT_ZF | 2;
    ASSERT_FAULT(RUN("\xf7\xf3"), MON_DE, 0);
    ASSERT_HEX(v->cpu->gpr[RT_AX], 5);
    ASSERT_HEX(v->cpu->rip, CODE);
    ASSERT_HEX(v->cpu->rflags, RT_CF | RT_ZF | 2);
}

Test(cpu_step, read_modify_write_of_a_read_only_page_faults_for_write)
{
    paging_on();
    put32(&m, 0x1000 + (DATA >> 12) * 4, DATA | 5);
    v->cpu->gpr[RT_BX] = DATA;
    v->cpu->gpr[RT_AX] = 1;
    ASSERT_FAULT(RUN("\x01\x03"), MON_PF, 3);
    ASSERT_FAULT(RUN("\xf0\x0f\xc1\x03"), MON_PF, 3);
    ASSERT_HEX(v->cpu->gpr[RT_AX], 1);
    ASSERT_OK(RUN("\x03\x03"));
}

Test(cpu_step, misaligned_vector_operands_fault)
{
    v->cpu->gpr[RT_BX] = DATA + 8;
    ASSERT_FAULT(RUN("\x0f\x28\x03"), MON_GP, 0); /* movaps */
    ASSERT_OK(RUN("\x0f\x10\x03"));               /* movups */
    ASSERT_FAULT(RUN("\x66\x0f\xfc\x03"), MON_GP, 0);
    v->cpu->gpr[RT_BX] = DATA + 16;
    ASSERT_OK(RUN("\x66\x0f\xfc\x03"));
}

Test(cpu_step, alignment_check_applies_at_cpl_3_only)
{
    v->cr0 |= MON_CR0_AM;
    v->cpu->rflags |= RT_AC;
    v->cpu->gpr[RT_BX] = DATA + 1;
    ASSERT_OK(RUN("\x8b\x03"));
    machine_level(&m, 3);
    v->cpu->rflags |= RT_AC;
    ASSERT_FAULT(RUN("\x8b\x03"), MON_AC, 0);
    ASSERT_OK(RUN("\x8a\x03"));
}

/* ---- fetch ---- */

Test(cpu_step, fetch_reads_the_next_page_only_if_needed)
{
    paging_on();
    unmap_page(0x62000);
    memcpy(m.ram + 0x61ffd, "\x90\x90\xb8", 3);
    v->cpu->rip = 0x61ffd;
    ASSERT_OK(mon_step(v));
    ASSERT_OK(mon_step(v));
    ASSERT_FAULT(mon_step(v), MON_PF, 0);
    ASSERT_HEX(v->exc.cr2, 0x62000);
    ASSERT_HEX(v->cpu->rip, 0x61fff);
}

Test(cpu_step, fetch_beyond_the_limit_is_a_general_protection_fault)
{
    v->seg[NOVT_CS].limit = CODE + 2;
    ASSERT_OK(RUN("\x66\x89\xc8"));
    ASSERT_FAULT(mon_step(v), MON_GP, 0);
    ASSERT_FAULT(RUN("\xb8\x01\x02\x03\x04"), MON_GP, 0);
    ASSERT_FAULT(RUN("\xeb\x7f"), MON_GP, 0);
    ASSERT_HEX(v->cpu->rip, CODE);
}

Test(cpu_step, instructions_of_sixteen_bytes_fault)
{
    ASSERT_OK(RUN("\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x90"));
    ASSERT_FAULT(RUN("\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x90"), MON_GP,
                 0);
}

/* ---- what must be enabled ---- */

struct enabled_row {
    char bytes[6];
    uint8_t len;
    uint32_t cr0_set, cr4_clear;
    uint8_t vector;
};
static struct enabled_row enabled_rows[] = {
    {"\xd9\xe8", 2, MON_CR0_EM, 0, MON_NM},
    {"\xd9\xe8", 2, MON_CR0_TS, 0, MON_NM},
    {"\x9b", 1, MON_CR0_TS | MON_CR0_MP, 0, MON_NM},
    {"\x0f\x77", 2, MON_CR0_EM, 0, MON_UD},
    {"\x0f\x77", 2, MON_CR0_TS, 0, MON_NM},
    {"\x0f\x58\xc1", 3, MON_CR0_EM, 0, MON_UD},
    {"\x0f\x58\xc1", 3, 0, MON_CR4_OSFXSR, MON_UD},
    {"\x0f\x58\xc1", 3, MON_CR0_TS, 0, MON_NM},
    {"\xc5\xf8\x77", 3, 0, MON_CR4_OSXSAVE, MON_UD},
    {"\xc5\xf8\x77", 3, MON_CR0_TS, 0, MON_NM},
    {"\xf0\x90", 2, 0, 0, MON_UD},                 /* LOCK NOP */
    {"\xf0\x01\xc8", 3, 0, 0, MON_UD},             /* LOCK ADD to a register */
    {"\xf0\x8b\x03", 3, 0, 0, MON_UD},             /* LOCK MOV */
    {"\x0f\x0b", 2, 0, 0, MON_UD},                 /* UD2 */
    {"\xc7\xf8\x00\x00\x00\x00", 6, 0, 0, MON_UD}, /* XBEGIN */
    {"\x8e\xc8", 2, 0, 0, MON_UD},                 /* MOV to CS */
    {"\x0f\x22\xe8", 3, 0, 0, MON_UD},             /* MOV to CR5 */
    {"\x0f\x05", 2, 0, 0, MON_UD},                 /* SYSCALL outside 64-bit mode */
};
ParameterizedTestParameters(cpu_step, what_is_not_enabled_faults)
{
    return ROWS(struct enabled_row, enabled_rows);
}
ParameterizedTest(struct enabled_row *row, cpu_step, what_is_not_enabled_faults)
{
    v->cr0 |= row->cr0_set;
    v->cr4 &= ~(uint64_t)row->cr4_clear;
    v->cpu->gpr[RT_BX] = DATA;
    code_at(CODE, row->bytes, row->len);
    ASSERT_FAULT(mon_step(v), row->vector, 0);
    ASSERT_HEX(v->cpu->rip, CODE);
}

/* KVM's error codes for a hypercall that is not there, and for user code. */
Test(cpu_step, hypercalls_are_refused_politely)
{
    code_at(CODE, "\x0f\x01\xc1\x0f\x01\xd9", 6); /* VMCALL, VMMCALL */
    ASSERT_OK(mon_step(v));
    ASSERT_HEX(v->cpu->gpr[RT_AX], (uint32_t)-1000);
    v->cpu->cpl = 3;
    ASSERT_OK(mon_step(v));
    ASSERT_HEX(v->cpu->gpr[RT_AX], (uint32_t)-1);
    ASSERT_HEX(v->cpu->rip, CODE + 6);
}

struct privilege_row {
    char bytes[4];
    uint8_t len, vector;
};
static struct privilege_row privileged[] = {
    {"\xf4", 1, MON_GP},         {"\x0f\x20\xc0", 3, MON_GP}, {"\x0f\x22\xd8", 3, MON_GP},
    {"\x0f\x06", 2, MON_GP},     {"\x0f\x30", 2, MON_GP},     {"\x0f\x32", 2, MON_GP},
    {"\x0f\x08", 2, MON_GP},     {"\x0f\x09", 2, MON_GP},     {"\x0f\x01\x13", 3, MON_GP},
    {"\x0f\x01\x3b", 3, MON_GP}, {"\x0f\x00\xd8", 3, MON_GP}, {"\x0f\x01\xf0", 3, MON_GP},
    {"\xfa", 1, MON_GP},         {"\xfb", 1, MON_GP},         {"\x0f\x33", 2, MON_GP},
    {"\x0f\x01\xca", 3, MON_UD}, /* CLAC */
};
ParameterizedTestParameters(cpu_step, privileged_instructions_fault_at_cpl_3)
{
    return ROWS(struct privilege_row, privileged);
}
ParameterizedTest(struct privilege_row *row, cpu_step, privileged_instructions_fault_at_cpl_3)
{
    machine_level(&m, 3);
    v->cpu->gpr[RT_BX] = DATA;
    code_at(CODE, row->bytes, row->len);
    ASSERT_FAULT(mon_step(v), row->vector, 0);
}

/* ---- debug traps ---- */

Test(cpu_step, trap_flag_traps_behind_the_instruction)
{
    v->cpu->rflags |= RT_TF;
    enum mon_rc rc = RUN("\x90");
    ASSERT_FAULT(rc, MON_DB, 0);
    cr_assert(v->exc.trap);
    ASSERT_HEX(v->exc.dr6, 1u << 14);
    ASSERT_HEX(v->cpu->rip, CODE + 1);
}

Test(cpu_step, mov_ss_holds_the_trap_back)
{
    v->cpu->rflags |= RT_TF;
    v->cpu->gpr[RT_AX] = SEL_DATA0;
    ASSERT_OK(RUN("\x8e\xd0\x90"));
    cr_assert(v->shadow && v->shadow_ss);
    ASSERT_FAULT(mon_step(v), MON_DB, 0);
    ASSERT_HEX(v->cpu->rip, CODE + 3);
    cr_assert(!v->shadow && !v->shadow_ss);
}

Test(cpu_step, popf_setting_tf_traps_after_the_next_instruction)
{
    put32(&m, (uint32_t)v->cpu->gpr[RT_SP], RT_TF | 2);
    ASSERT_OK(RUN("\x9d\x90"));
    ASSERT_FAULT(mon_step(v), MON_DB, 0);
    ASSERT_HEX(v->cpu->rip, CODE + 2);
}

Test(cpu_step, code_breakpoint_is_a_fault_that_rf_suppresses_once)
{
    v->dr[0] = CODE;
    v->dr[7] |= 2;
    ASSERT_FAULT(RUN("\x90"), MON_DB, 0);
    cr_assert(!v->exc.trap);
    ASSERT_HEX(v->exc.dr6, 1);
    v->cpu->rflags |= RT_RF;
    ASSERT_OK(RUN("\x90"));
    cr_assert(!(v->cpu->rflags & RT_RF));
}

Test(cpu_step, data_breakpoint_traps_after_the_write)
{
    v->dr[1] = DATA + 4;
    v->dr[7] |= 1u << 3 | 1u << 20 | 3u << 22; /* global, write, 4 bytes */
    v->cpu->gpr[RT_BX] = DATA;
    ASSERT_OK(RUN("\x8b\x43\x04"));
    ASSERT_OK(RUN("\x88\x43\x03"));
    ASSERT_FAULT(RUN("\x88\x43\x07"), MON_DB, 0);
    cr_assert(v->exc.trap);
    ASSERT_HEX(v->exc.dr6, 2);
    ASSERT_HEX(v->cpu->rip, CODE + 3);
}

Test(cpu_step, sti_shadows_one_instruction_if_interrupts_were_off)
{
    v->cpu->rflags &= ~(uint64_t)RT_IF;
    ASSERT_OK(RUN("\xfb\xfb\x90"));
    cr_assert(v->shadow && (v->cpu->rflags & RT_IF));
    ASSERT_OK(mon_step(v));
    cr_assert(!v->shadow);
}

/* ---- exits to the embedder ---- */

Test(cpu_step, mmio_read_modify_write_is_atomic_for_the_guest)
{
    v->cpu->gpr[RT_BX] = MMIO_BASE;
    v->cpu->gpr[RT_AX] = 0x11;
    cr_assert_eq(RUN("\x0f\xc1\x03"), MON_EXIT); /* xadd %eax, (%ebx) */
    cr_assert_eq(v->run.exit_reason, NOVT_EXIT_MMIO);
    cr_assert(!v->run.mmio.write);
    cr_assert_eq(again(0x100), MON_EXIT);
    cr_assert(v->run.mmio.write);
    cr_assert_eq(v->run.mmio.data[0], 0x11);
    cr_assert_eq(v->run.mmio.data[1], 1);
    ASSERT_HEX(v->cpu->gpr[RT_AX], 0x11);
    ASSERT_HEX(v->cpu->rip, CODE);
    ASSERT_OK(again(0));
    ASSERT_HEX(v->cpu->gpr[RT_AX], 0x100);
    cr_assert_eq(v->replay.done, 0);
}

Test(cpu_step, x87_store_to_mmio_pops_once)
{
    v->cpu->gpr[RT_BX] = MMIO_BASE;
    ASSERT_OK(RUN("\xdb\xe3"));
    ASSERT_OK(RUN("\xd9\xe8"));
    ASSERT_OK(RUN("\xd9\xeb"));
    cr_assert_eq(RUN("\xd9\x1b"), MON_EXIT); /* fstps (%ebx) */
    cr_assert_eq(v->run.mmio.size, 4);
    cr_assert_eq(v->run.mmio.data[3], 0x40); /* 3.14 is 0x40490fdb */
    ASSERT_OK(again(0));
    ASSERT_OK(RUN("\xdf\xe0"));
    ASSERT_HEX(v->cpu->gpr[RT_AX] >> 11 & 7, 7); /* one register left */
}

Test(cpu_step, in_and_out_go_to_the_embedder)
{
    v->cpu->gpr[RT_DX] = 0x3f8;
    v->cpu->gpr[RT_AX] = 0xaabbccdd;
    cr_assert_eq(RUN("\xee"), MON_EXIT);
    cr_assert(v->run.io.write && v->run.io.size == 1 && v->run.io.data == 0xdd);
    ASSERT_OK(again(0));
    cr_assert_eq(RUN("\x66\xe5\x80"), MON_EXIT);
    cr_assert(!v->run.io.write && v->run.io.size == 2 && v->run.io.port == 0x80);
    ASSERT_OK(again(0x1234));
    ASSERT_HEX(v->cpu->gpr[RT_AX], 0xaabb1234);
}

Test(cpu_step, rep_ins_loses_nothing)
{
    v->cpu->gpr[RT_DX] = 0x1f0;
    v->cpu->gpr[RT_CX] = 3;
    v->cpu->gpr[RT_DI] = DATA;
    enum mon_rc rc = RUN("\xf3\x66\x6d");
    for (unsigned n = 1; n <= 3; n++) {
        cr_assert_eq(rc, MON_EXIT);
        ASSERT_HEX(v->cpu->gpr[RT_CX], 4 - n);
        ASSERT_OK(again(0x1110 + n));
        rc = n < 3 ? mon_step(v) : rc;
    }
    ASSERT_HEX(v->cpu->rip, CODE + 3);
    ASSERT_HEX(get64(&m, DATA) & 0xffffffffffff, 0x111311121111);
}

/* INS checks its destination before it takes anything from the device. */
Test(cpu_step, ins_to_an_absent_page_does_not_read_the_port)
{
    paging_on();
    unmap_page(DATA);
    v->cpu->gpr[RT_DI] = DATA;
    ASSERT_FAULT(RUN("\x6c"), MON_PF, 2);
}

/* ---- strings ---- */

static struct tr_insn decode(const char *bytes, unsigned len)
{
    struct tr_insn insn;
    code_at(CODE, bytes, len);
    cr_assert_eq(tr_decode((const uint8_t *)bytes, len, TR_MODE_32, &insn), TR_DECODE_OK);
    return insn;
}
#define DECODE(bytes) decode((bytes), sizeof(bytes) - 1)

Test(cpu_step, rep_movs_in_bulk_equals_single_iterations)
{
    for (unsigned bulk = 0; bulk < 2; bulk++) {
        struct tr_insn insn = DECODE("\xf3\xa5");
        for (unsigned n = 0; n < 0x2000; n++)
            m.ram[DATA + n] = (uint8_t)(n * 7 + (n >> 8));
        v->cpu->gpr[RT_SI] = DATA + 0xf0;
        v->cpu->gpr[RT_DI] = DATA + 0xf6; /* overlapping: the pattern repeats */
        v->cpu->gpr[RT_CX] = 0x500;
        while (v->cpu->rip == CODE)
            ASSERT_OK(bulk ? mon_execute(v, &insn) : mon_step(v));
        ASSERT_HEX(v->cpu->gpr[RT_CX], 0);
        ASSERT_HEX(v->cpu->gpr[RT_DI], DATA + 0xf6 + 0x1400);
        if (!bulk)
            memcpy(m.ram + 0x50000, m.ram + DATA, 0x2000);
    }
    cr_assert(!memcmp(m.ram + 0x50000, m.ram + DATA, 0x2000));
}

Test(cpu_step, rep_stos_stops_at_the_absent_page_with_its_progress)
{
    struct tr_insn insn = DECODE("\xf3\xab");
    enum mon_rc rc;
    paging_on();
    unmap_page(DATA + 0x1000);
    v->cpu->gpr[RT_DI] = DATA + 0xfee; /* the fifth store crosses into the absent page */
    v->cpu->gpr[RT_CX] = 100;
    v->cpu->gpr[RT_AX] = 0x5a5a5a5a;
    do
        rc = mon_execute(v, &insn);
    while (rc == MON_OK);
    ASSERT_FAULT(rc, MON_PF, 2);
    ASSERT_HEX(v->exc.cr2, DATA + 0x1000);
    ASSERT_HEX(v->cpu->gpr[RT_CX], 96);
    ASSERT_HEX(v->cpu->gpr[RT_DI], DATA + 0xffe);
    ASSERT_HEX(v->cpu->rip, CODE);
}

Test(cpu_step, repe_cmps_stops_at_the_difference)
{
    struct tr_insn insn = DECODE("\xf3\xa6");
    memset(m.ram + DATA, 7, 0x400);
    m.ram[DATA + 0x210] = 9;
    v->cpu->gpr[RT_SI] = DATA;
    v->cpu->gpr[RT_DI] = DATA + 0x200;
    v->cpu->gpr[RT_CX] = 0x100;
    ASSERT_OK(mon_execute(v, &insn));
    ASSERT_HEX(v->cpu->gpr[RT_CX], 0x100 - 0x11);
    ASSERT_HEX(v->cpu->gpr[RT_SI], DATA + 0x11);
    cr_assert((v->cpu->rflags & RT_CF) && !(v->cpu->rflags & RT_ZF));
    ASSERT_HEX(v->cpu->rip, CODE + 2);
}

Test(cpu_step, repne_scas_finds_and_a_zero_count_does_nothing)
{
    struct tr_insn insn = DECODE("\xf2\xae");
    memset(m.ram + DATA, 1, 64);
    m.ram[DATA + 40] = 0;
    v->cpu->gpr[RT_DI] = DATA;
    v->cpu->gpr[RT_AX] = 0;
    v->cpu->gpr[RT_CX] = 0xffffffff;
    ASSERT_OK(mon_execute(v, &insn));
    ASSERT_HEX(v->cpu->gpr[RT_DI], DATA + 41);
    v->cpu->gpr[RT_CX] = 0;
    v->cpu->rip = CODE;
    v->cpu->rflags = RT_CF | 2;
    ASSERT_OK(mon_execute(v, &insn));
    ASSERT_HEX(v->cpu->rflags, RT_CF | 2);
    ASSERT_HEX(v->cpu->rip, CODE + 2);
}

/* ---- addresses ---- */

Test(cpu_step, bit_offsets_reach_far_from_the_operand)
{
    v->cpu->gpr[RT_BX] = DATA + 0x800;
    v->cpu->gpr[RT_CX] = (uint32_t)-1000;
    m.ram[DATA + 0x800 - 125] = 0;
    ASSERT_OK(RUN("\x0f\xab\x0b")); /* bts %ecx, (%ebx) */
    ASSERT_HEX(m.ram[DATA + 0x800 - 125], 1);
    ASSERT_HEX(v->cpu->gpr[RT_CX], (uint32_t)-1000);
    ASSERT_OK(RUN("\xf0\x0f\xb3\x0b"));
    ASSERT_HEX(m.ram[DATA + 0x800 - 125], 0);
    cr_assert(v->cpu->rflags & RT_CF);
    v->cpu->gpr[RT_CX] = 0x7ff0; /* 16-bit: 7ff0h / 16 words on */
    m.ram[DATA + 0x800 + 0xffe] = 1;
    ASSERT_OK(RUN("\x66\x0f\xa3\x0b"));
    cr_assert(v->cpu->rflags & RT_CF);
}

Test(cpu_step, sixteen_bit_code_addresses_and_stack)
{
    machine_seg(v, NOVT_CS, SEL_CODE0_16, 0x009b);
    v->seg[NOVT_CS].limit = 0xffff;
    v->seg[NOVT_CS].base = CODE;
    v->seg[NOVT_SS].attr = 0x0093;
    v->seg[NOVT_SS].base = DATA;
    v->cpu->gpr[RT_SP] = 0xabcd0000;
    v->cpu->gpr[RT_BX] = 0x11110008;
    v->cpu->gpr[RT_SI] = 0x22220010;
    memcpy(m.ram + CODE, "\x8b\x00\x53\x66\xb8\x44\x33\x22\x11\xa1\x04\x00", 12);
    put16(&m, 0x18, 0xbeef);
    put16(&m, 4, 0xcafe);
    v->cpu->rip = 0;
    ASSERT_OK(mon_step(v)); /* mov (%bx,%si), %ax */
    ASSERT_HEX(v->cpu->gpr[RT_AX] & 0xffff, 0xbeef);
    ASSERT_OK(mon_step(v)); /* push %bx: wraps */
    ASSERT_HEX(v->cpu->gpr[RT_SP], 0xabcdfffe);
    ASSERT_HEX(get16(&m, DATA + 0xfffe), 8);
    ASSERT_OK(mon_step(v)); /* mov $0x11223344, %eax */
    ASSERT_HEX(v->cpu->gpr[RT_AX], 0x11223344);
    ASSERT_OK(mon_step(v)); /* mov 4, %ax */
    ASSERT_HEX(v->cpu->gpr[RT_AX], 0x1122cafe);
}

Test(cpu_step, pop_to_memory_uses_the_moved_stack_pointer)
{
    uint32_t sp = (uint32_t)v->cpu->gpr[RT_SP];
    put32(&m, sp, 0x1234);
    ASSERT_OK(RUN("\x8f\x04\x24")); /* pop (%esp) */
    ASSERT_HEX(get32(&m, sp + 4), 0x1234);
    ASSERT_HEX(v->cpu->gpr[RT_SP], sp + 4);
}

Test(cpu_step, far_pointer_in_memory_loads_both)
{
    v->cpu->gpr[RT_BX] = DATA;
    put32(&m, DATA, 0x11223344);
    put16(&m, DATA + 4, SEL_DATA3);
    ASSERT_OK(RUN("\x0f\xb5\x33")); /* lgs (%ebx), %esi */
    ASSERT_HEX(v->cpu->gpr[RT_SI], 0x11223344);
    ASSERT_HEX(v->seg[NOVT_GS].selector, SEL_DATA3);
    put16(&m, DATA + 4, SEL_EXEC_ONLY);
    v->cpu->gpr[RT_SI] = 1;
    ASSERT_FAULT(RUN("\x0f\xb5\x33"), MON_GP, SEL_EXEC_ONLY);
    ASSERT_HEX(v->cpu->gpr[RT_SI], 1);
}

/* ---- partial vector operands ---- */

/* The upper half of a 32-byte operand lies in an absent page. */
static void half_absent_operand(void)
{
    paging_on();
    unmap_page(DATA + 0x1000);
    v->cpu->gpr[RT_BX] = DATA + 0xff0;
    rt_fpu_park(v->cpu);
}

/* Puts a vector register into the parked image: XMM part and the high half of YMM. */
static void set_ymm(unsigned reg, const void *data)
{
    uint8_t *area = v->cpu->xsave;
    memcpy(area + 160 + reg * 16, data, 16);
    memcpy(area + 576 + reg * 16, (const uint8_t *)data + 16, 16);
    area[512] |= 7;
}
static void get_ymm(unsigned reg, void *data)
{
    const uint8_t *area = v->cpu->xsave;
    memcpy(data, area + 160 + reg * 16, 16);
    if (area[512] & 4)
        memcpy((uint8_t *)data + 16, area + 576 + reg * 16, 16);
    else
        memset((uint8_t *)data + 16, 0, 16);
}

Test(cpu_step, masked_moves_do_not_touch_what_is_masked_out)
{
    uint32_t mask[8] = {0x80000000, 0, 0x80000000, 0}, data[8];
    half_absent_operand();
    for (unsigned n = 0; n < 4; n++)
        put32(&m, DATA + 0xff0 + 4 * n, 0x100 + n);
    set_ymm(1, mask);
    ASSERT_OK(RUN("\xc4\xe2\x75\x2c\x13")); /* vmaskmovps (%ebx), %ymm1, %ymm2 */
    get_ymm(2, data);
    ASSERT_HEX(data[0], 0x100);
    ASSERT_HEX(data[1], 0);
    ASSERT_HEX(data[2], 0x102);
    ASSERT_OK(RUN("\xc4\xe2\x75\x8e\x1b")); /* vpmaskmovd %ymm3, %ymm1, (%ebx) */
    ASSERT_HEX(get32(&m, DATA + 0xff4), 0x101);
    mask[7] = 0x80000000;
    set_ymm(1, mask);
    ASSERT_FAULT(RUN("\xc4\xe2\x75\x2c\x13"), MON_PF, 0);
    ASSERT_HEX(v->exc.cr2, DATA + 0x100c);
    ASSERT_FAULT(RUN("\xc4\xe2\x75\x8e\x1b"), MON_PF, 2);
}

Test(cpu_step, opmasks_suppress_faults)
{
    if ((rt_fpu_mask() & ORACLE_XSAVE) != ORACLE_XSAVE)
        return;
    half_absent_operand();
    uint8_t *area = v->cpu->xsave;
    memset(area + 1088, 0, 64);
    area[1088 + 8] = 0x0f; /* k1 */
    area[512] |= 0x20;
    for (unsigned n = 0; n < 4; n++)
        put32(&m, DATA + 0xff0 + 4 * n, 0x3f800000);
    ASSERT_OK(RUN("\x62\xf1\x7c\xa9\x10\x13"));      /* vmovups (%ebx), %ymm2{%k1}{z} */
    ASSERT_OK(RUN("\x62\xf1\x6c\x29\x58\x1b"));      /* vaddps (%ebx), %ymm2, %ymm3{%k1} */
    ASSERT_OK(RUN("\x62\xf1\x7c\x29\x11\x1b"));      /* vmovups %ymm3, (%ebx){%k1} */
    ASSERT_HEX(get32(&m, DATA + 0xffc), 0x40000000); /* 2.0 */
    ASSERT_OK(RUN("\x62\xf2\x7d\x29\x8a\x1b"));      /* vcompressps %ymm3, (%ebx){%k1} */
    ASSERT_FAULT(RUN("\x62\xf1\x7c\x28\x10\x13"), MON_PF, 0);
    area[1088 + 8] = 0x1f;
    ASSERT_FAULT(RUN("\x62\xf1\x7c\x29\x11\x1b"), MON_PF, 2);
}

Test(cpu_step, gather_stops_at_the_faulting_element_and_goes_on)
{
    uint32_t index[8] = {0, 3, 0x1000 / 4, 1}, mask[8] = {~0u, 0, ~0u, ~0u}, data[8] = {9, 9, 9, 9};
    half_absent_operand();
    v->cpu->gpr[RT_BX] = DATA;
    for (unsigned n = 0; n < 4; n++)
        put32(&m, DATA + 4 * n, 0x200 + n);
    set_ymm(1, index);
    set_ymm(2, mask);
    set_ymm(3, data);
    /* vpgatherdd %xmm2, (%ebx,%xmm1,4), %xmm3 */
    ASSERT_FAULT(RUN("\xc4\xe2\x69\x90\x1c\x8b"), MON_PF, 0);
    ASSERT_HEX(v->exc.cr2, DATA + 0x1000);
    get_ymm(3, data);
    get_ymm(2, mask);
    ASSERT_HEX(data[0], 0x200);
    ASSERT_HEX(data[1], 9);
    ASSERT_HEX(mask[0], 0);
    ASSERT_HEX(mask[2], ~0u);
    put32(&m, 0x1000 + ((DATA + 0x1000) >> 12) * 4, (DATA + 0x1000) | 7);
    put32(&m, DATA + 0x1000, 0x777);
    ASSERT_OK(mon_step(v));
    get_ymm(3, data);
    get_ymm(2, mask);
    ASSERT_HEX(data[2], 0x777);
    ASSERT_HEX(data[3], 0x201);
    cr_assert(!mask[0] && !mask[2] && !mask[3]);
}

Test(cpu_step, scatter_writes_the_selected_elements)
{
    if ((rt_fpu_mask() & ORACLE_XSAVE) != ORACLE_XSAVE)
        return;
    uint32_t index[8] = {5, 1, 2, 3}, data[8] = {0x50, 0x51, 0x52, 0x53};
    uint8_t *area = v->cpu->xsave;
    set_ymm(1, index);
    set_ymm(3, data);
    memset(area + 1088, 0, 64);
    area[1088 + 8] = 0x0b;
    area[512] |= 0x20;
    v->cpu->gpr[RT_BX] = DATA;
    memset(m.ram + DATA, 0, 64);
    ASSERT_OK(RUN("\x62\xf2\x7d\x09\xa0\x1c\x8b")); /* vpscatterdd %xmm3, (%ebx,%xmm1,4){%k1} */
    ASSERT_HEX(get32(&m, DATA + 20), 0x50);
    ASSERT_HEX(get32(&m, DATA + 4), 0x51);
    ASSERT_HEX(get32(&m, DATA + 8), 0);
    ASSERT_HEX(get32(&m, DATA + 12), 0x53);
    ASSERT_HEX(area[1088 + 8], 0);
}

/* ---- branches, flags, modes ---- */

Test(cpu_step, near_branches_go_where_they_should)
{
    uint32_t sp = (uint32_t)v->cpu->gpr[RT_SP];
    ASSERT_OK(RUN("\xe8\x10\x00\x00\x00"));
    ASSERT_HEX(v->cpu->rip, CODE + 0x15);
    ASSERT_HEX(get32(&m, sp - 4), CODE + 5);
    ASSERT_OK(RUN("\xc2\x08\x00"));
    ASSERT_HEX(v->cpu->rip, CODE + 5);
    ASSERT_HEX(v->cpu->gpr[RT_SP], sp + 8);
    v->cpu->rflags |= RT_ZF;
    ASSERT_OK(RUN("\x74\xfe"));
    ASSERT_HEX(v->cpu->rip, CODE);
    ASSERT_OK(RUN("\x0f\x85\x00\x01\x00\x00"));
    ASSERT_HEX(v->cpu->rip, CODE + 6);
    v->cpu->gpr[RT_CX] = 0x10001;
    ASSERT_OK(RUN("\x67\xe2\x10")); /* loop with CX */
    ASSERT_HEX(v->cpu->rip, CODE + 3);
    ASSERT_HEX(v->cpu->gpr[RT_CX], 0x10000);
    ASSERT_OK(RUN("\x67\xe3\x10")); /* jcxz */
    ASSERT_HEX(v->cpu->rip, CODE + 0x13);
    v->cpu->gpr[RT_AX] = 0x123456;
    ASSERT_OK(RUN("\x66\xff\xe0")); /* jmp *%ax: truncated */
    ASSERT_HEX(v->cpu->rip, 0x3456);
}

Test(cpu_step, virtual_8086_flags_follow_iopl_and_vme)
{
    machine_level(&m, 3);
    v->cpu->rflags |= RT_VM;
    for (unsigned seg = 0; seg < 6; seg++)
        mon_seg_set_real(v, seg, 0x4000);
    v->seg[NOVT_CS].base = CODE;
    v->cpu->gpr[RT_SP] = 0x100;
    code_at(CODE, "\x9c\x9d\xfa\xcf", 4);
    v->cpu->rip = 0;
    ASSERT_FAULT(mon_step(v), MON_GP, 0);
    v->cr4 |= MON_CR4_VME;
    v->cpu->rflags |= RT_VIF;
    ASSERT_OK(mon_step(v)); /* pushf: VIF as IF, IOPL 3 */
    ASSERT_HEX(get16(&m, 0x400fe) & (RT_IF | RT_IOPL), RT_IF | RT_IOPL);
    ASSERT_OK(mon_step(v));
    cr_assert(v->cpu->rflags & RT_VIF);
    ASSERT_OK(mon_step(v)); /* cli: VIF */
    cr_assert(!(v->cpu->rflags & RT_VIF) && (v->cpu->rflags & RT_IF));
}

Test(cpu_step, hlt_sets_halted_behind_the_instruction)
{
    ASSERT_OK(RUN("\xf4"));
    cr_assert(v->halted);
    ASSERT_HEX(v->cpu->rip, CODE + 1);
}

Test(cpu_step, descriptor_tables_keep_24_bits_with_a_16_bit_operand)
{
    v->cpu->gpr[RT_BX] = DATA;
    put16(&m, DATA, 0x123);
    put32(&m, DATA + 2, 0xaabbccdd);
    ASSERT_OK(RUN("\x66\x0f\x01\x1b"));
    ASSERT_HEX(v->idt.base, 0xbbccdd);
    ASSERT_OK(RUN("\x0f\x01\x1b"));
    ASSERT_HEX(v->idt.base, 0xaabbccdd);
    ASSERT_OK(RUN("\x0f\x01\x4b\x10")); /* sidt 16(%ebx) */
    ASSERT_HEX(get32(&m, DATA + 18), 0xaabbccdd);
    ASSERT_HEX(get16(&m, DATA + 16), 0x123);
}

Test(cpu_step, umip_hides_the_tables_from_cpl_3)
{
    machine_level(&m, 3);
    v->cpu->gpr[RT_BX] = DATA;
    ASSERT_OK(RUN("\x0f\x01\x0b"));
    v->cr4 |= MON_CR4_UMIP;
    ASSERT_FAULT(RUN("\x0f\x01\x0b"), MON_GP, 0);
    ASSERT_FAULT(RUN("\x0f\x00\xc8"), MON_GP, 0);
    ASSERT_FAULT(RUN("\x0f\x01\xe0"), MON_GP, 0);
}

Test(cpu_step, time_stamp_respects_tsd_and_offset)
{
    v->cpu->tsc_offset = 0 - __builtin_ia32_rdtsc();
    ASSERT_OK(RUN("\x0f\x31"));
    cr_assert_eq(v->cpu->gpr[RT_DX], 0);
    v->cr4 |= MON_CR4_TSD;
    ASSERT_OK(RUN("\x0f\x31"));
    machine_level(&m, 3);
    ASSERT_FAULT(RUN("\x0f\x31"), MON_GP, 0);
}

Test(cpu_step, bound_and_into_raise_their_exceptions)
{
    v->cpu->gpr[RT_BX] = DATA;
    put32(&m, DATA, (uint32_t)-5);
    put32(&m, DATA + 4, 5);
    v->cpu->gpr[RT_AX] = (uint32_t)-5;
    ASSERT_OK(RUN("\x62\x03"));
    v->cpu->gpr[RT_AX] = 6;
    ASSERT_FAULT(RUN("\x62\x03"), MON_BR, 0);
    ASSERT_OK(RUN("\xce"));
    ASSERT_HEX(v->cpu->rip, CODE + 1);
}
