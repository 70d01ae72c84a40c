/* The slow path in 64-bit and compatibility code: against the host CPU where it can say what is
 * right, against the manual where it cannot. */
#include "tests/unit/cpu_oracle.h"
#include "tests/unit/cpu_step.h"

static void setup(void)
{
    step_setup();
    machine_long(&m, 0, true);
}
TestSuite(cpu_step64, .init = setup, .fini = step_teardown, .timeout = 120);

/* ---- against the host ---- */

/* W of a REX prefix that the test adds, or of the VEX or EVEX prefix in the pattern. */
enum { W0, W1, ANY };
enum operand { NONE, RM, MEM, REG };
struct pattern {
    char prefix[4], opcode[8]; /* legacy prefixes; opcode bytes, with VEX or EVEX prefix */
    uint8_t prefix_len, len;
    uint8_t w;
    uint8_t operand;
    int8_t reg; /* of ModRM, -1: any */
    uint8_t imm;
    uint8_t align; /* of memory, a power of two */
};
#define P(prefix, opcode, ...)                                              \
    {                                                                       \
        prefix, opcode, sizeof(prefix) - 1, sizeof(opcode) - 1, __VA_ARGS__ \
    }

static struct pattern patterns[] = {
    P("", "\x00", ANY, RM, -1, 0, 1),              /* add r/m8, r8 */
    P("", "\x11", ANY, RM, -1, 0, 1),              /* adc */
    P("\x66", "\x19", ANY, RM, -1, 0, 1),          /* sbb 16, or 64 by W */
    P("", "\x32", ANY, RM, -1, 0, 1),              /* xor r8, r/m8 */
    P("", "\x3b", ANY, RM, -1, 0, 1),              /* cmp */
    P("", "\x81", ANY, RM, -1, 4, 1),              /* group 1 */
    P("", "\x83", ANY, RM, -1, 1, 1),              /* group 1, imm8 */
    P("\xf0", "\x01", ANY, MEM, -1, 0, 1),         /* lock add */
    P("\xf0", "\x0f\xc1", ANY, MEM, -1, 0, 1),     /* lock xadd */
    P("\xf0", "\x0f\xb0", ANY, MEM, -1, 0, 1),     /* lock cmpxchg8 */
    P("\xf0", "\x0f\xb1", ANY, MEM, -1, 0, 1),     /* lock cmpxchg */
    P("\xf0", "\x0f\xc7", W1, MEM, 1, 0, 16),      /* lock cmpxchg16b */
    P("", "\x0f\xc7", W1, MEM, 1, 0, 16),          /* cmpxchg16b */
    P("\xf0", "\x0f\xc7", W0, MEM, 1, 0, 1),       /* lock cmpxchg8b */
    P("\xf0", "\xf7", ANY, MEM, 3, 0, 1),          /* lock neg */
    P("", "\x87", ANY, RM, -1, 0, 1),              /* xchg */
    P("", "\x86", ANY, RM, -1, 0, 1),              /* xchg 8 */
    P("", "\x85", ANY, RM, -1, 0, 1),              /* test */
    P("", "\x88", ANY, RM, -1, 0, 1),              /* mov r/m8, r8 */
    P("", "\x8b", ANY, RM, -1, 0, 1),              /* mov */
    P("\x66", "\x89", W0, RM, -1, 0, 1),           /* mov 16 */
    P("", "\xc6", ANY, RM, 0, 1, 1),               /* mov imm8 */
    P("", "\xc7", ANY, RM, 0, 4, 1),               /* mov imm32, sign-extended */
    P("", "\xb8", W1, NONE, 0, 8, 1),              /* mov imm64 */
    P("", "\xb9", W0, NONE, 0, 4, 1),              /* mov imm32 */
    P("", "\xb2", ANY, NONE, 0, 1, 1),             /* mov imm8 */
    P("", "\x63", ANY, RM, -1, 0, 1),              /* movsxd */
    P("\x66", "\x63", W0, RM, -1, 0, 1),           /* movsxd 16 */
    P("", "\x8d", ANY, MEM, -1, 0, 1),             /* lea */
    P("\x66", "\x8d", W0, MEM, -1, 0, 1),          /* lea 16 */
    P("", "\x8f", ANY, MEM, 0, 0, 1),              /* pop mem */
    P("\x66", "\x8f", W0, MEM, 0, 0, 1),           /* pop mem 16 */
    P("", "\xff", ANY, RM, 6, 0, 1),               /* push */
    P("\x66", "\xff", W0, RM, 6, 0, 1),            /* push 16 */
    P("", "\x53", ANY, NONE, 0, 0, 1),             /* push rbx, r11 */
    P("", "\x54", ANY, NONE, 0, 0, 1),             /* push rsp, r12 */
    P("\x66", "\x55", W0, NONE, 0, 0, 1),          /* push bp, r13w */
    P("", "\x5c", ANY, NONE, 0, 0, 1),             /* pop rsp, r12 */
    P("\x66", "\x5e", W0, NONE, 0, 0, 1),          /* pop si, r14w */
    P("", "\x5f", ANY, NONE, 0, 0, 1),             /* pop rdi, r15 */
    P("", "\x68", ANY, NONE, 0, 4, 1),             /* push imm32 */
    P("", "\x6a", ANY, NONE, 0, 1, 1),             /* push imm8 */
    P("\x66", "\x6a", W0, NONE, 0, 1, 1),          /* push imm8, 16-bit */
    P("\x66", "\x68", W0, NONE, 0, 2, 1),          /* push imm16 */
    P("", "\x0f\xa0", ANY, NONE, 0, 0, 1),         /* push fs: zero on both sides */
    P("\x66", "\x0f\xa8", W0, NONE, 0, 0, 1),      /* push gs 16 */
    P("", "\xc8\x20\x00\x00", ANY, NONE, 0, 0, 1), /* enter 32, 0 */
    P("", "\xc8\x10\x00\x01", ANY, NONE, 0, 0, 1), /* enter 16, 1 */
    P("", "\xc8\x08\x00\x05", ANY, NONE, 0, 0, 1), /* enter 8, 5 */
    P("\x66", "\xc8\x08\x00\x00", W0, NONE, 0, 0, 1),
    P("\x66", "\xc8\x08\x00\x03", W0, NONE, 0, 0, 1),
    P("", "\xc9", ANY, NONE, 0, 0, 1),                    /* leave */
    P("\x66", "\xc9", W0, NONE, 0, 0, 1),                 /* leave 16 */
    P("", "\xe8\x00\x00\x00\x00", ANY, NONE, 0, 0, 1),    /* call to the next instruction */
    P("\x66", "\xe8\x00\x00\x00\x00", W0, NONE, 0, 0, 1), /* the prefix has no effect */
    P("", "\xe9\x00\x00\x00\x00", ANY, NONE, 0, 0, 1),
    P("\x66", "\xeb\x00", W0, NONE, 0, 0, 1),
    P("\x66", "\x0f\x84\x00\x00\x00\x00", W0, NONE, 0, 0, 1),
    P("", "\xe2\x00", ANY, NONE, 0, 0, 1),        /* loop: rcx */
    P("\x67", "\xe2\x00", ANY, NONE, 0, 0, 1),    /* loop: ecx */
    P("\x67", "\xe0\x00", ANY, NONE, 0, 0, 1),    /* loopne: ecx */
    P("", "\xe3\x00", ANY, NONE, 0, 0, 1),        /* jrcxz */
    P("", "\xfe", ANY, RM, 1, 0, 1),              /* dec 8 */
    P("", "\xff", ANY, RM, 0, 0, 1),              /* inc */
    P("", "\xd0", ANY, RM, -1, 0, 1),             /* shifts by 1 */
    P("", "\xd3", ANY, RM, -1, 0, 1),             /* by cl */
    P("", "\xc1", ANY, RM, -1, 1, 1),             /* by imm8 */
    P("", "\x0f\xa4", ANY, RM, -1, 1, 1),         /* shld */
    P("", "\x0f\xad", ANY, RM, -1, 0, 1),         /* shrd cl */
    P("", "\xf6", ANY, RM, 4, 0, 1),              /* mul 8 */
    P("", "\xf7", ANY, RM, 5, 0, 1),              /* imul */
    P("", "\xf7", ANY, RM, 6, 0, 1),              /* div */
    P("", "\xf7", ANY, RM, 7, 0, 1),              /* idiv */
    P("", "\x0f\xaf", ANY, RM, -1, 0, 1),         /* imul */
    P("", "\x69", ANY, RM, -1, 4, 1),             /* imul imm */
    P("", "\x6b", ANY, RM, -1, 1, 1),             /* imul imm8 */
    P("", "\x0f\xb6", ANY, RM, -1, 0, 1),         /* movzx */
    P("", "\x0f\xbf", ANY, RM, -1, 0, 1),         /* movsx */
    P("", "\x0f\xc8", ANY, NONE, 0, 0, 1),        /* bswap */
    P("", "\x0f\xbc", ANY, RM, -1, 0, 1),         /* bsf */
    P("\xf3", "\x0f\xbd", ANY, RM, -1, 0, 1),     /* lzcnt */
    P("\xf3", "\x0f\xb8", ANY, RM, -1, 0, 1),     /* popcnt */
    P("\xf2", "\x0f\x38\xf1", ANY, RM, -1, 0, 1), /* crc32 */
    P("", "\x0f\xba", ANY, RM, 4, 1, 1),          /* bt imm */
    P("\xf0", "\x0f\xba", ANY, MEM, 5, 1, 1),     /* lock bts imm */
    P("", "\x0f\xbb", ANY, REG, -1, 0, 1),        /* btc */
    P("", "\x0f\x94", ANY, RM, 0, 0, 1),          /* sete */
    P("", "\x0f\x42", ANY, RM, -1, 0, 1),         /* cmovb */
    P("", "\x0f\x4d", ANY, RM, -1, 0, 1),         /* cmovge */
    P("", "\x98", ANY, NONE, 0, 0, 1),            /* cwde, cdqe */
    P("", "\x99", ANY, NONE, 0, 0, 1),            /* cdq, cqo */
    P("", "\x9e", ANY, NONE, 0, 0, 1),            /* sahf */
    P("", "\x9f", ANY, NONE, 0, 0, 1),            /* lahf */
    P("", "\x90", ANY, NONE, 0, 0, 1),            /* nop, xchg r8 */
    P("", "\x97", ANY, NONE, 0, 0, 1),            /* xchg rdi, r15 */
    P("", "\xd7", ANY, NONE, 0, 0, 1),            /* xlat */
    P("\x67", "\xd7", ANY, NONE, 0, 0, 1),        /* xlat, 32-bit */
    P("", "\xa4", ANY, NONE, 0, 0, 1),            /* movsb */
    P("", "\xa5", ANY, NONE, 0, 0, 1),            /* movsd, movsq */
    P("\x67", "\xa5", ANY, NONE, 0, 0, 1),
    P("\xf3", "\xa5", ANY, NONE, 0, 0, 1),
    P("\x67\xf3", "\xa4", ANY, NONE, 0, 0, 1),
    P("", "\xa7", ANY, NONE, 0, 0, 1), /* cmps */
    P("\xf3", "\xa6", ANY, NONE, 0, 0, 1),
    P("\xf2", "\xa7", ANY, NONE, 0, 0, 1),
    P("", "\xab", ANY, NONE, 0, 0, 1), /* stos */
    P("\xf3", "\xab", ANY, NONE, 0, 0, 1),
    P("\x67\xf3", "\xaa", ANY, NONE, 0, 0, 1),
    P("", "\xad", ANY, NONE, 0, 0, 1), /* lods */
    P("\xf3", "\xac", ANY, NONE, 0, 0, 1),
    P("", "\xaf", ANY, NONE, 0, 0, 1), /* scas */
    P("\x67\xf2", "\xae", ANY, NONE, 0, 0, 1),
    P("\x67\xf3", "\xac", ANY, NONE, 0, 0, 1),
    P("\x67\xf3", "\xa6", ANY, NONE, 0, 0, 1),
    P("\x67\xf3", "\xa5", ANY, NONE, 0, 0, 1),
    P("\x67\xf3", "\xab", ANY, NONE, 0, 0, 1),
    P("", "\xc4\xe2\x60\xf2", ANY, RM, -1, 0, 1),      /* andn */
    P("", "\xc4\xe2\x7b\xf5", ANY, RM, -1, 0, 1),      /* pdep */
    P("", "\xc4\xe2\x7b\xf6", ANY, RM, -1, 0, 1),      /* mulx */
    P("", "\xc4\xe3\x7b\xf0", ANY, RM, -1, 1, 1),      /* rorx */
    P("", "\xc4\xe2\x61\xf7", ANY, RM, -1, 0, 1),      /* shlx */
    P("", "\x0f\x38\xf0", ANY, MEM, -1, 0, 1),         /* movbe */
    P("\x66", "\x0f\x38\xf6", ANY, RM, -1, 0, 1),      /* adcx */
    P("", "\x0f\xfc", ANY, RM, -1, 0, 1),              /* paddb mm */
    P("", "\x0f\x7e", ANY, RM, -1, 0, 1),              /* movd, movq r/m, mm */
    P("", "\xd8", ANY, MEM, 0, 0, 1),                  /* fadd m32 */
    P("", "\xdb", ANY, MEM, 7, 0, 1),                  /* fstp m80 */
    P("", "\x0f\x58", ANY, RM, -1, 0, 16),             /* addps */
    P("\xf2", "\x0f\x58", ANY, RM, -1, 0, 1),          /* addsd */
    P("\x66", "\x0f\xef", ANY, RM, -1, 0, 16),         /* pxor */
    P("\x66", "\x0f\x7f", ANY, MEM, -1, 0, 16),        /* movdqa store */
    P("\x66", "\x0f\x6e", ANY, RM, -1, 0, 1),          /* movd, movq xmm, r/m */
    P("\x66", "\x0f\x3a\x22", ANY, RM, -1, 1, 1),      /* pinsrd, pinsrq */
    P("\xf3", "\x0f\x2a", ANY, RM, -1, 0, 1),          /* cvtsi2ss */
    P("\xf2", "\x0f\x2d", ANY, RM, -1, 0, 1),          /* cvtsd2si */
    P("", "\x0f\x50", ANY, REG, -1, 0, 1),             /* movmskps */
    P("\x66", "\x0f\xf7", ANY, REG, -1, 0, 1),         /* maskmovdqu */
    P("", "\xc5\xe4\x58", ANY, RM, -1, 0, 1),          /* vaddps ymm */
    P("", "\xc4\xe1\x64\x58", W0, RM, -1, 0, 1),       /* vaddps ymm */
    P("", "\xc4\xe1\x7d\x7f", W0, MEM, -1, 0, 32),     /* vmovdqa store */
    P("", "\xc4\xe2\x65\xb8", ANY, RM, -1, 0, 1),      /* vfmadd231ps, pd ymm */
    P("", "\xc4\xe2\x65\x2c", W0, MEM, -1, 0, 1),      /* vmaskmovps load */
    P("", "\xc4\xe2\x61\x8e", ANY, MEM, -1, 0, 1),     /* vpmaskmovd, q store */
    P("", "\xc4\xe1\x79\x6e", ANY, RM, -1, 0, 1),      /* vmovd, vmovq */
    P("", "\xc4\xe1\x7a\x2d", ANY, RM, -1, 0, 1),      /* vcvtss2si */
    P("", "\xc4\xe3\x65\x4a", W0, RM, -1, 1, 1),       /* vblendvps */
    P("", "\x62\xf1\x64\x49\x58", W0, RM, -1, 0, 1),   /* vaddps zmm{k1} */
    P("", "\x62\xf1\x64\xda\x58", W0, MEM, -1, 0, 1),  /* vaddps zmm{k2}{z}, m32{1to16} */
    P("", "\x62\xf1\x7c\x4b\x11", W0, MEM, -1, 0, 1),  /* vmovups m512{k3}, zmm */
    P("", "\x62\xf1\x7f\x2c\x7f", ANY, MEM, -1, 0, 1), /* vmovdqu8, 16 m256{k4}, ymm */
    P("", "\x62\xf2\x7d\x49\x8a", ANY, MEM, -1, 0, 1), /* vcompressps, pd m512{k1} */
    P("", "\x62\xf1\x7d\x08\x6e", ANY, RM, -1, 0, 1),  /* vmovd, vmovq */
    P("", "\x62\xf1\x7e\x08\x2a", ANY, RM, -1, 0, 1),  /* vcvtsi2ss */
    P("", "\x62\xf2\x7d\x48\x7c", ANY, REG, -1, 0, 1), /* vpbroadcastd, q */
    P("", "\x62\xf3\x65\x4a\x3e", ANY, RM, 1, 1, 1),   /* vpcmpub, uw k{k2} */
    P("", "\x62\xf1\x7d\x4a\x79", ANY, RM, -1, 0, 1),  /* vcvtps2uqq, pd2uqq {k2} */
    P("", "\x62\xf1\x7c\x29\x5a", W0, RM, -1, 0, 1),   /* vcvtps2pd ymm{k1} */
    P("", "\x62\xf1\x7e\x0b\xe6", W0, RM, -1, 0, 1),   /* vcvtdq2pd xmm{k3} */
    P("", "\x0f\xae", ANY, MEM, 0, 0, 16),             /* fxsave, fxsave64 */
    P("", "\x0f\xae", ANY, MEM, 4, 0, 64),             /* xsave, xsave64 */
    P("", "\x0f\xae", ANY, MEM, 6, 0, 64),             /* xsaveopt */
    P("", "\x0f\xc7", ANY, MEM, 4, 0, 64),             /* xsavec */
    P("", "\xd9", ANY, MEM, 6, 0, 1),                  /* fnstenv */
    P("", "\xdd", ANY, MEM, 4, 0, 1),                  /* frstor */
    P("", "\xc4\xe1\xf8\x91", W1, MEM, -1, 0, 1),      /* kmovq m64, k */
    P("", "\xc4\xe1\xfb\x92", W1, REG, -1, 0, 1),      /* kmovq k, r64 */
};

static struct oracle oracle;

/* An instruction being built, and the prefix bits that its operands need: R, X, B as in REX. */
struct built {
    uint8_t bytes[24];
    unsigned len;
    unsigned rex, adsize;
    bool is_vex, is_evex;
};

static void emit(struct built *b, const void *bytes, unsigned n)
{
    memcpy(b->bytes + b->len, bytes, n);
    b->len += n;
}

/* ModRM and what belongs to it. at: where the instruction will lie. */
static void emit_operand(struct built *b, const struct pattern *row, unsigned form, uint64_t at)
{
    unsigned reg = (unsigned)(row->reg >= 0 ? row->reg : (int)(rnd() & 7)) << 3;
    uint32_t near = rnd() & 0x3ff & ~(row->align - 1u), disp = DATA + 0x400 + near;
    uint8_t bytes[6] = {0};

    switch (form) {
    case 0: /* register */
        bytes[0] = (uint8_t)(0xc0 | reg | (rnd() & 7));
        emit(b, bytes, 1);
        return;
    case 1: /* absolute */
        bytes[0] = (uint8_t)(reg | 4);
        bytes[1] = 0x25;
        break;
    case 2: /* relative to rip */
        bytes[0] = (uint8_t)(reg | 5);
        disp -= (uint32_t)(at + b->len + 5 + row->imm);
        memcpy(bytes + 1, &disp, 4);
        emit(b, bytes, 5);
        return;
    case 3: /* disp32(%rbx) or (%r11) */
        bytes[0] = (uint8_t)(0x80 | reg | 3);
        disp = near - 0x100;
        memcpy(bytes + 1, &disp, 4);
        emit(b, bytes, 5);
        return;
    case 4: /* disp32(%rsp) or (%r12) */
        bytes[0] = (uint8_t)(0x80 | reg | 4);
        bytes[1] = 0x24;
        disp = near;
        break;
    case 5: /* disp32(%rbx,%rsi,2) and with r11, r14 */
        bytes[0] = (uint8_t)(0x80 | reg | 4);
        bytes[1] = 0x73;
        disp = 0u - (rnd() & 0xff);
        break;
    default: /* disp32(%rbp) or (%r13) */
        bytes[0] = (uint8_t)(0x80 | reg | 5);
        disp = near;
        memcpy(bytes + 1, &disp, 4);
        emit(b, bytes, 5);
        return;
    }
    memcpy(bytes + 2, &disp, 4);
    emit(b, bytes, 6);
}

static unsigned operand_form(const struct pattern *row)
{
    if (row->operand == NONE || row->operand == REG || (row->operand == RM && rnd() % 3 == 0))
        return 0;
    unsigned form = 1 + rnd() % 6;
    return row->align > 1 && form == 5 ? 3 : form; /* the index is not aligned */
}

/* Prefixes and opcode with random extensions of the register fields. */
static void emit_opcode(struct built *b, const struct pattern *row, unsigned form)
{
    uint8_t op[8];
    unsigned w = row->w == ANY ? rnd() & 1 : row->w;
    memcpy(op, row->opcode, row->len);
    b->is_evex = op[0] == 0x62;
    b->is_vex = op[0] == 0xc4 || op[0] == 0xc5;
    b->rex = rnd() & (form == 1 || form == 4 ? 5 : 7); /* X would make r12 an index */
    bool fixed_reg = row->reg >= 0 || (op[0] == 0xc4 && (op[3] == 0x91 || op[3] == 0x92));
    if (fixed_reg)
        b->rex &= ~4u;
    if (b->adsize == 32)
        emit(b, "\x67", 1);
    emit(b, row->prefix, row->prefix_len);
    if (op[0] == 0xc5) {
        op[1] = (uint8_t)((op[1] & 0x7f) | (b->rex & 4 ? 0 : 0x80));
        b->rex &= 4;
    } else if (b->is_vex || b->is_evex) {
        op[1] = (uint8_t)((op[1] & 0x1f) | (~b->rex & 7) << 5);
        op[2] = (uint8_t)((op[2] & 0x7f) | w << 7);
        bool uses_vvvv = (op[2] & 0x78) != 0x78;
        if (uses_vvvv && (rnd() & 1))
            op[2] ^= 0x40;
        if (b->is_evex && !fixed_reg && op[4] != 0x2d && (rnd() & 1))
            op[1] ^= 0x10; /* R' */
        if (b->is_evex && uses_vvvv && (rnd() & 1))
            op[3] ^= 8; /* V' */
    } else if (w || b->rex || (rnd() & 1)) {
        uint8_t rex = (uint8_t)(0x40 | w << 3 | b->rex);
        emit(b, &rex, 1);
    }
    emit(b, op, row->len);
}

static void build(struct built *b, const struct pattern *row, uint64_t at)
{
    unsigned form = operand_form(row);
    uint8_t imm[8];
    b->len = 0;
    b->adsize = form && form != 4 && rnd() % 4 == 0 ? 32 : 64;
    emit_opcode(b, row, form);
    if (row->operand != NONE)
        emit_operand(b, row, form, at);
    for (unsigned n = 0; n < row->imm; n++)
        imm[n] = (uint8_t)rnd();
    emit(b, imm, row->imm);
}

static bool has_prefix(const struct pattern *row, uint8_t prefix)
{
    return memchr(row->prefix, prefix, row->prefix_len) != NULL;
}

/* Random vector state. */
static void randomise_area(uint8_t *area)
{
    uint64_t used = ORACLE_XSAVE;
    for (unsigned n = 0; n < ORACLE_AREA_SIZE; n++)
        area[n] = (uint8_t)rnd();
    memset(area, 0, 32);
    memset(area + 416, 0, 160);
    area[0] = 0x7f;
    area[1] = 0x03;
    area[24] = 0x80;
    area[25] = 0x1f;
    for (unsigned n = 0; n < 8; n++)
        memset(area + 32 + n * 16 + 10, 0, 6);
    memcpy(area + 512, &used, 8);
    memset(area + 2688, 0, ORACLE_AREA_SIZE - 2688);
}

/* Random registers that point into the data pages where addresses are made of them; with address
 * size 32 their upper halves are anything. */
static void randomise(const struct pattern *row, const struct built *b)
{
    struct oracle_state *s = oracle.in;
    uint64_t high = b->adsize == 32 || has_prefix(row, 0x67) ? ~0xffffffffull : 0;

    for (unsigned n = 0; n < 16; n++)
        s->gpr[n] = rnd() & 1 ? rnd64() : rnd() & 0xff;
    s->gpr[RT_BX] = (DATA + 0x800) | (rnd64() & high);
    s->gpr[11] = (DATA + 0x900) | (rnd64() & high);
    s->gpr[RT_SI] =
        (row->operand == NONE ? DATA + 0x900 + (rnd() & 0xff) : rnd() & 0xff) | (rnd64() & high);
    s->gpr[14] = (rnd() & 0xff) | (rnd64() & high);
    s->gpr[RT_DI] = (DATA + 0xa00 + (rnd() & 0xff)) | (rnd64() & high);
    s->gpr[RT_BP] = (DATA + 0x1800) | (b->adsize == 32 ? rnd64() & high : 0);
    s->gpr[13] = (DATA + 0xa00) | (rnd64() & high);
    s->gpr[RT_SP] = DATA + 0x1400;
    s->gpr[12] = DATA + 0x500;
    if (has_prefix(row, 0xf3) || has_prefix(row, 0xf2))
        s->gpr[RT_CX] = rnd() % 20 | (rnd64() & high);
    if (!memcmp(row->opcode, "\xc8\x20", 2) || !memcmp(row->opcode, "\xc8\x08\x00\x00", 4))
        s->gpr[RT_BP] = rnd64(); /* ENTER of level 0 does not look at it */
    if (row->align == 64) {      /* XSAVE: the host's XCR0 may have more than the guest's */
        s->gpr[RT_AX] &= ORACLE_XSAVE;
        s->gpr[RT_DX] = 0;
    }
    s->flags = (rnd() & RT_LIVE & ~(row->operand == NONE ? 0u : RT_DF)) | RT_IF | 2;
    randomise_area(s->area);
    for (unsigned n = 0; n < ORACLE_DATA_SIZE; n++)
        oracle.data[n] =
            (uint8_t)(row->opcode[0] == '\xa6' || row->opcode[0] == '\xa7' ? rnd() & 1 : rnd());
}

static void to_guest(uint64_t at, const uint8_t *insn, unsigned len)
{
    for (unsigned n = 0; n < 16; n++)
        v->cpu->gpr[n] = oracle.in->gpr[n];
    v->cpu->rflags = oracle.in->flags;
    v->seg[NOVT_FS].selector = v->seg[NOVT_GS].selector = 0; /* as the host process has them */
    v->cpu->rip = at;
    memcpy(m.ram + at, insn, len);
    memcpy(m.ram + DATA, oracle.data, ORACLE_DATA_SIZE);
    rt_fpu_park(v->cpu);
    memcpy(v->cpu->xsave, oracle.in->area, ORACLE_AREA_SIZE);
}

static void compare_with_host(const char *text, uint64_t next)
{
    const uint8_t *guest = v->cpu->xsave, *host = oracle.out->area;

    cr_assert_eq(v->cpu->rip, next, "%s: rip %llx", text, (unsigned long long)v->cpu->rip);
    for (unsigned n = 0; n < 16; n++)
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
    cr_assert(oracle_same_component(guest, host, 1, 160, 256), "%s: xmm registers", text);
    cr_assert(!memcmp(guest + 24, host + 24, 4), "%s: mxcsr", text);
    cr_assert(oracle_same_component(guest, host, 2, 576, 256), "%s: ymm registers", text);
    cr_assert(oracle_same_component(guest, host, 5, 1088, 64), "%s: opmasks", text);
    cr_assert(oracle_same_component(guest, host, 6, 1152, 512), "%s: zmm registers", text);
    cr_assert(oracle_same_component(guest, host, 7, 1664, 1024), "%s: zmm registers 16 and up",
              text);
}

/* One execution on both sides; false when it divided by zero, or is not an instruction. */
static bool run_both(const struct pattern *row)
{
    struct built b;
    char text[96];
    struct tr_insn decoded;
    uint64_t at = oracle_place64(&oracle);

    build(&b, row, at);
    if (tr_decode(b.bytes, b.len, TR_MODE_64, &decoded) != TR_DECODE_OK)
        return false;
    tr_format(&decoded, at, text, sizeof(text));
    cr_assert_eq(decoded.len, b.len, "%s: length %u, not %u", text, decoded.len, b.len);
    randomise(row, &b);
    to_guest(at, b.bytes, b.len);
    enum mon_rc rc;
    do
        rc = mon_step(v);
    while (rc == MON_OK && v->cpu->rip == at && decoded.rep);
    if (rc == MON_FAULT && v->exc.vector == MON_DE)
        return false;
    cr_assert_eq(rc, MON_OK, "%s: rc %d, vector %u", text, rc, v->exc.vector);
    oracle_run64(&oracle, b.bytes, b.len);
    compare_with_host(text, at + b.len);
    return true;
}

static bool needs_avx512(const struct pattern *row)
{
    return row->opcode[0] == 0x62 || !memcmp(row->opcode, "\xc4\xe1\xf8\x91", 4) ||
           !memcmp(row->opcode, "\xc4\xe1\xfb\x92", 4);
}

ParameterizedTestParameters(cpu_step64, instructions_do_what_the_host_does)
{
    return ROWS(struct pattern, patterns);
}
ParameterizedTest(struct pattern *row, cpu_step64, instructions_do_what_the_host_does)
{
    unsigned ran = 0;
    if (needs_avx512(row) && (rt_fpu_mask() & ORACLE_XSAVE) != ORACLE_XSAVE)
        return;
    oracle_create(&oracle);
    seed = 0x5eed5eed5eed5eedull;
    for (unsigned n = 0; n < 200; n++)
        ran += run_both(row);
    oracle_destroy(&oracle);
    cr_assert(ran > 20, "%u ran", ran);
}

/* Branches to where the oracle goes on: the next instruction's address in a register, in memory, on
 * the stack. */
static void run_branch(const char *bytes, unsigned len)
{
    uint64_t at = oracle_place64(&oracle), next = at + len;
    struct pattern any = {.operand = RM, .align = 1};
    struct built b = {.adsize = 64};

    randomise(&any, &b);
    oracle.in->gpr[RT_DX] = next;
    oracle.in->gpr[9] = next;
    memcpy(oracle.data + 0x800, &next, 8);  /* at rbx */
    memcpy(oracle.data + 0x1400, &next, 8); /* at rsp */
    to_guest(at, (const uint8_t *)bytes, len);
    cr_assert_eq(mon_step(v), MON_OK, "%02x: vector %u", (uint8_t)*bytes, v->exc.vector);
    oracle_run64(&oracle, (const uint8_t *)bytes, len);
    compare_with_host("branch", next);
}
#define RUN_BRANCH(bytes) run_branch((bytes), sizeof(bytes) - 1)

Test(cpu_step64, near_branches_do_what_the_host_does)
{
    oracle_create(&oracle);
    seed = 99;
    RUN_BRANCH("\xc3");             /* ret */
    RUN_BRANCH("\xc2\x38\x00");     /* ret 56 */
    RUN_BRANCH("\x66\xc3");         /* the prefix has no effect */
    RUN_BRANCH("\xf3\xc3");         /* rep ret */
    RUN_BRANCH("\xff\xd2");         /* call *%rdx */
    RUN_BRANCH("\x41\xff\xd1");     /* call *%r9 */
    RUN_BRANCH("\x66\xff\xe2");     /* jmp *%rdx */
    RUN_BRANCH("\xff\x13");         /* call *(%rbx) */
    RUN_BRANCH("\xff\x24\x24");     /* jmp *(%rsp) */
    RUN_BRANCH("\x65\xff\x23");     /* jmp *%gs:(%rbx): GS has base 0 */
    RUN_BRANCH("\x2e\x36\xff\x23"); /* overrides without effect */
    oracle_destroy(&oracle);
}

/* MOV between rax and an absolute address of 8 bytes, or of 4 with address size 32. */
Test(cpu_step64, moffs_has_eight_bytes)
{
    put64(&m, DATA, 0x1122334455667788);
    ASSERT_OK(RUN("\x48\xa1\x00\x00\x04\x00\x00\x80\xff\xff"));
    ASSERT_HEX(v->cpu->gpr[RT_AX], 0x1122334455667788);
    ASSERT_OK(RUN("\x67\xa1\x00\x00\x04\x00"));
    ASSERT_HEX(v->cpu->gpr[RT_AX], 0x55667788);
    v->cpu->gpr[RT_AX] = 0xab;
    ASSERT_OK(RUN("\xa2\x07\x00\x04\x00\x00\x00\x00\x00"));
    ASSERT_HEX(get64(&m, DATA), 0xab22334455667788);
    ASSERT_FAULT(RUN("\x48\xa3\x00\x00\x04\x00\x00\x80\x00\x00"), MON_GP, 0);
}

Test(cpu_step64, bit_offsets_have_64_bits)
{
    v->cpu->gpr[RT_BX] = 0;
    v->cpu->gpr[RT_CX] = (HIGH + DATA) * 8 + 3;
    m.ram[DATA] = 0;
    ASSERT_OK(RUN("\x48\x0f\xab\x0b")); /* bts %rcx, (%rbx): offset / 8 has a sign */
    ASSERT_HEX(m.ram[DATA], 8);
    v->cpu->gpr[RT_BX] = HIGH;
    v->cpu->gpr[RT_CX] = DATA * 8 + 4;
    ASSERT_OK(RUN("\x48\x0f\xab\x0b"));
    ASSERT_HEX(m.ram[DATA], 0x18);
    v->cpu->gpr[RT_CX] = 1ull << 60;
    ASSERT_FAULT(RUN("\x48\x0f\xa3\x0b"), MON_GP, 0);
}

/* ---- addresses ---- */

Test(cpu_step64, addresses_must_be_canonical)
{
    v->cpu->gpr[RT_BX] = 0x800000000000;
    v->cpu->gpr[RT_BP] = 0x800000000000;
    ASSERT_FAULT(RUN("\x48\x8b\x03"), MON_GP, 0);
    ASSERT_FAULT(RUN("\x48\x8b\x45\x00"), MON_SS, 0);
    v->cpu->gpr[13] = 0x800000000000;
    ASSERT_FAULT(RUN("\x49\x8b\x45\x00"), MON_GP, 0); /* r13 is not rbp */
    put64(&m, 0x3000, 0);                             /* page 0 */
    ASSERT_FAULT(RUN("\x67\x48\x8b\x03"), MON_PF, 0); /* truncated to 0 */
}

Test(cpu_step64, the_stack_must_be_canonical)
{
    v->cpu->gpr[RT_SP] = 0x800000000008;
    ASSERT_FAULT(RUN("\x50"), MON_SS, 0);
    ASSERT_FAULT(RUN("\xe8\x00\x00\x00\x00"), MON_SS, 0);
    ASSERT_FAULT(RUN("\x48\xcf"), MON_SS, 0);
    ASSERT_HEX(v->cpu->gpr[RT_SP], 0x800000000008);
}

Test(cpu_step64, branch_targets_must_be_canonical)
{
    uint64_t sp = v->cpu->gpr[RT_SP];
    v->cpu->gpr[RT_AX] = 0x800000000000;
    ASSERT_FAULT(RUN("\xff\xe0"), MON_GP, 0);
    ASSERT_FAULT(RUN("\xff\xd0"), MON_GP, 0);
    put64(&m, sp, 0x800000000000);
    ASSERT_FAULT(RUN("\xc3"), MON_GP, 0);
    ASSERT_HEX(v->cpu->gpr[RT_SP], sp);
    ASSERT_HEX(v->cpu->rip, CODE);
    v->cpu->rip = 0x800000000000;
    ASSERT_FAULT(mon_step(v), MON_GP, 0);
}

/* An instruction that would go on into the hole in the address space. */
Test(cpu_step64, fetch_stops_at_the_hole)
{
    put64(&m, 0x7f8, 0x1000 | 7); /* the last low PML4 entry */
    put64(&m, 0x1000 + 511 * 8, 0x5000 | 7);
    put64(&m, 0x5000 + 511 * 8, 0x6000 | 7);
    put64(&m, 0x6000 + 511 * 8, CODE | 7);
    memcpy(m.ram + CODE + 0xffe, "\x90\xb8", 2);
    v->cpu->rip = 0x7ffffffffffe;
    ASSERT_OK(mon_step(v));
    ASSERT_FAULT(mon_step(v), MON_GP, 0);
    m.ram[CODE + 0xfff] = 0x90;
    ASSERT_OK(mon_step(v));
    ASSERT_HEX(v->cpu->rip, 0x800000000000);
    ASSERT_FAULT(mon_step(v), MON_GP, 0);
}

Test(cpu_step64, segments_but_fs_and_gs_have_no_base_and_no_limit)
{
    v->seg[NOVT_DS].base = v->seg[NOVT_ES].base = v->seg[NOVT_SS].base = 0x1000;
    v->seg[NOVT_DS].limit = 0;
    v->seg[NOVT_GS].base = HIGH;
    v->seg[NOVT_FS].base = 0x10;
    v->cpu->gpr[RT_BX] = DATA;
    put64(&m, DATA, 0x1111);
    put64(&m, DATA + 0x10, 0x2222);
    ASSERT_OK(RUN("\x48\x8b\x03"));
    ASSERT_HEX(v->cpu->gpr[RT_AX], 0x1111);
    ASSERT_OK(RUN("\x64\x48\x8b\x03"));
    ASSERT_HEX(v->cpu->gpr[RT_AX], 0x2222);
    ASSERT_OK(RUN("\x65\x48\xff\x03")); /* incq %gs:(%rbx) */
    ASSERT_HEX(get64(&m, DATA), 0x1112);
    /* A REX prefix that is not the last one has no effect, but the override behind it has. */
    ASSERT_OK(RUN("\x48\x64\x8b\x03"));
    ASSERT_HEX(v->cpu->gpr[RT_AX], 0x2222);
    v->cpu->gpr[RT_SI] = DATA;
    v->cpu->gpr[RT_DI] = DATA + 0x40;
    ASSERT_OK(RUN("\x64\x48\xa5")); /* movsq %fs:(%rsi), (%rdi) */
    ASSERT_HEX(get64(&m, DATA + 0x40), 0x2222);
}

/* ---- system calls and bases ---- */

static void to_user(void)
{
    v->msr.star = 0x0023001000000000;
    v->msr.lstar = HIGH + 0x62000;
    v->msr.fmask = RT_IF | RT_DF | RT_TF;
    machine_long(&m, 3, true);
}

Test(cpu_step64, syscall_and_sysret)
{
    to_user();
    v->cpu->rflags = RT_IF | RT_CF | RT_DF | 2;
    v->cpu->gpr[RT_SP] = 0x1234;
    ASSERT_OK(RUN("\x0f\x05"));
    ASSERT_HEX(v->cpu->rip, HIGH + 0x62000);
    ASSERT_HEX(v->cpu->gpr[RT_CX], CODE + 2);
    ASSERT_HEX(v->cpu->gpr[11], RT_IF | RT_CF | RT_DF | 2);
    ASSERT_HEX(v->cpu->rflags, RT_CF | 2);
    ASSERT_HEX(v->seg[NOVT_CS].selector, 0x10);
    ASSERT_HEX(v->seg[NOVT_SS].selector, 0x18);
    ASSERT_HEX(v->cpu->gpr[RT_SP], 0x1234);
    cr_assert(mon_code64(v) && v->cpu->cpl == 0);
    v->cpu->gpr[RT_CX] = 0x800000000000;
    ASSERT_FAULT(RUN_AT(HIGH + 0x62000, "\x48\x0f\x07"), MON_GP, 0);
    cr_assert_eq(v->cpu->cpl, 0);
    v->cpu->gpr[RT_CX] = 0x7000;
    v->cpu->gpr[11] = RT_IF | RT_VM | RT_RF | RT_OF;
    ASSERT_OK(mon_step(v));
    ASSERT_HEX(v->cpu->rip, 0x7000);
    ASSERT_HEX(v->cpu->rflags, RT_IF | RT_OF | 2);
    ASSERT_HEX(v->seg[NOVT_CS].selector, 0x33);
    ASSERT_HEX(v->seg[NOVT_SS].selector, 0x2b);
    cr_assert(mon_code64(v) && v->cpu->cpl == 3);
    ASSERT_FAULT(RUN("\x48\x0f\x07"), MON_GP, 0); /* CPL 3 */
}

Test(cpu_step64, sysret_to_compatibility_mode)
{
    to_user();
    machine_long(&m, 0, true);
    v->cpu->gpr[RT_CX] = 0xdeadbeef00007000;
    v->cpu->gpr[11] = RT_IF;
    ASSERT_OK(RUN("\x0f\x07"));
    ASSERT_HEX(v->cpu->rip, 0x7000);
    ASSERT_HEX(v->seg[NOVT_CS].selector, 0x23);
    ASSERT_HEX(v->seg[NOVT_CS].attr, 0xc0fb);
    cr_assert(!mon_code64(v) && v->cpu->cpl == 3);
    ASSERT_FAULT(RUN("\x0f\x05"), MON_UD, 0); /* SYSCALL in compatibility mode */
    to_user();
    v->efer &= ~(uint64_t)MON_EFER_SCE;
    ASSERT_FAULT(RUN("\x0f\x05"), MON_UD, 0);
}

Test(cpu_step64, swapgs_and_bases)
{
    v->seg[NOVT_GS].base = 0x1000;
    v->msr.kernel_gs_base = HIGH;
    ASSERT_OK(RUN("\x0f\x01\xf8"));
    ASSERT_HEX(v->seg[NOVT_GS].base, HIGH);
    ASSERT_HEX(v->msr.kernel_gs_base, 0x1000);
    ASSERT_FAULT(RUN("\xf3\x48\x0f\xae\xc8"), MON_UD, 0); /* rdgsbase %rax: CR4.FSGSBASE is 0 */
    v->cr4 |= MON_CR4_FSGSBASE;
    ASSERT_OK(RUN("\xf3\x48\x0f\xae\xc8"));
    ASSERT_HEX(v->cpu->gpr[RT_AX], HIGH);
    ASSERT_OK(RUN("\xf3\x41\x0f\xae\xc9")); /* rdgsbase %r9d */
    ASSERT_HEX(v->cpu->gpr[9], 0);
    v->cpu->gpr[10] = 0x800000000000;
    ASSERT_FAULT(RUN("\xf3\x49\x0f\xae\xd2"), MON_GP, 0); /* wrfsbase %r10 */
    v->cpu->gpr[10] = 0xffffffff12345678;
    ASSERT_OK(RUN("\xf3\x41\x0f\xae\xd2")); /* wrfsbase %r10d */
    ASSERT_HEX(v->seg[NOVT_FS].base, 0x12345678);
    v->cpu->gpr[RT_CX] = 0xc0000101;
    v->cpu->gpr[RT_AX] = 0x1000;
    v->cpu->gpr[RT_DX] = 0xffff8000;
    ASSERT_OK(RUN("\x0f\x30")); /* wrmsr */
    ASSERT_HEX(v->seg[NOVT_GS].base, HIGH + 0x1000);
    machine_long(&m, 3, true);
    ASSERT_FAULT(RUN("\x0f\x01\xf8"), MON_GP, 0);
    machine_long(&m, 0, false);
    ASSERT_FAULT(RUN("\x0f\x01\xf8"), MON_UD, 0);
    ASSERT_FAULT(RUN("\xf3\x0f\xae\xc8"), MON_UD, 0);
}

/* ---- interrupts ---- */

static void set_idt64(unsigned vector, uint64_t rip, uint16_t selector, unsigned ist, uint32_t attr)
{
    put64(&m, IDT + vector * 16, gate(selector, (uint32_t)rip, attr, ist));
    put64(&m, IDT + vector * 16 + 8, rip >> 32);
}

/* The kernel's stack, tables and handler lie in the upper half; the interrupted code is 32-bit. */
Test(cpu_step64, interrupts_leave_compatibility_mode_for_a_high_stack)
{
    machine_long(&m, 3, false);
    v->idt = (struct novt_dtable){HIGH + IDT, 0xfff};
    v->gdt.base = HIGH + GDT;
    v->tr.base = HIGH + TSS;
    put64(&m, TSS + 4, HIGH + STACK0);
    set_idt64(0x80, HIGH + 0x62000, SEL_CODE64, 0, 0xee);
    set_idt64(MON_PF, HIGH + 0x63000, SEL_CODE64, 2, 0x8e);
    put64(&m, TSS + 0x24 + 8, HIGH + STACK1);
    ASSERT_OK(RUN("\xcd\x80"));
    ASSERT_HEX(v->cpu->rip, HIGH + 0x62000);
    ASSERT_HEX(v->cpu->gpr[RT_SP], HIGH + STACK0 - 40);
    const uint64_t frame[] = {CODE + 2, SEL_CODE3, RT_IF | 2, STACK3, SEL_DATA3};
    cr_assert(!memcmp(m.ram + STACK0 - 40, frame, sizeof(frame)));
    cr_assert(mon_code64(v) && v->cpu->cpl == 0);
    /* A page fault there, on a stack of its own, with an error code. */
    v->cpu->gpr[RT_BX] = HIGH + 0x200000;
    ASSERT_FAULT(RUN_AT(HIGH + 0x62000, "\x48\x8b\x03"), MON_PF, 0);
    ASSERT_OK(mon_exception_deliver(v));
    ASSERT_HEX(v->cr2, HIGH + 0x200000);
    ASSERT_HEX(v->cpu->gpr[RT_SP], HIGH + STACK1 - 48);
    ASSERT_HEX(get64(&m, STACK1 - 40), HIGH + 0x62000);
    v->cpu->gpr[RT_SP] += 8;
    ASSERT_OK(RUN_AT(HIGH + 0x63000, "\x48\xcf"));
    ASSERT_HEX(v->cpu->rip, HIGH + 0x62000);
    ASSERT_HEX(v->cpu->gpr[RT_SP], HIGH + STACK0 - 40);
    ASSERT_OK(RUN_AT(HIGH + 0x62000, "\x48\xcf"));
    ASSERT_HEX(v->cpu->rip, CODE + 2);
    ASSERT_HEX(v->cpu->gpr[RT_SP], STACK3);
    cr_assert(!mon_code64(v) && v->cpu->cpl == 3);
    ASSERT_HEX(v->seg[NOVT_SS].selector, SEL_DATA3);
}

/* ---- selectors ---- */

Test(cpu_step64, lar_and_lsl_know_the_system_types_of_long_mode)
{
    v->cpu->gpr[RT_CX] = SEL_TSS_2;
    v->cpu->gpr[RT_AX] = ~0ull;
    ASSERT_OK(RUN("\x48\x0f\x03\xc1")); /* lsl %ecx, %rax */
    ASSERT_HEX(v->cpu->gpr[RT_AX], 0x67);
    cr_assert(v->cpu->rflags & RT_ZF);
    v->cpu->gpr[RT_AX] = ~0ull;
    ASSERT_OK(RUN("\x0f\x02\xc1")); /* lar %ecx, %eax */
    ASSERT_HEX(v->cpu->gpr[RT_AX], 0xe900);
    v->cpu->gpr[RT_CX] = SEL_TSS_16; /* does not exist in long mode */
    ASSERT_OK(RUN("\x48\x0f\x03\xc1"));
    cr_assert(!(v->cpu->rflags & RT_ZF));
    ASSERT_OK(RUN("\x0f\x02\xc1"));
    cr_assert(!(v->cpu->rflags & RT_ZF));
    v->cpu->gpr[RT_CX] = SEL_GATE32;
    ASSERT_OK(RUN("\x0f\x02\xc1"));
    cr_assert(v->cpu->rflags & RT_ZF);
    v->cpu->gpr[RT_CX] = SEL_TASK_GATE;
    ASSERT_OK(RUN("\x0f\x02\xc1"));
    cr_assert(!(v->cpu->rflags & RT_ZF));
}

Test(cpu_step64, descriptor_tables_have_64_bit_bases)
{
    v->cpu->gpr[RT_BX] = DATA;
    put16(&m, DATA, 0x1ff);
    put64(&m, DATA + 2, HIGH + GDT);
    ASSERT_OK(RUN("\x0f\x01\x13")); /* lgdt (%rbx) */
    ASSERT_HEX(v->gdt.base, HIGH + GDT);
    ASSERT_OK(RUN("\x66\x0f\x01\x43\x10")); /* sgdt 16(%rbx) */
    ASSERT_HEX(get64(&m, DATA + 0x12), HIGH + GDT);
    put64(&m, DATA + 2, 0x800000000000);
    ASSERT_FAULT(RUN("\x0f\x01\x1b"), MON_GP, 0); /* lidt */
    v->cpu->gpr[RT_CX] = SEL_DATA3;
    ASSERT_OK(RUN("\x8e\xe1")); /* mov %ecx, %fs through the table in the upper half */
    ASSERT_HEX(v->seg[NOVT_FS].selector, SEL_DATA3);
    v->seg[NOVT_FS].base = HIGH;
    v->cpu->gpr[RT_CX] = 0;
    ASSERT_OK(RUN("\x8e\xe1"));
    ASSERT_HEX(v->seg[NOVT_FS].base, 0);
    v->gdt.base = 0x7ffffffffff8; /* its end is not canonical */
    v->cpu->gpr[RT_CX] = SEL_DATA3;
    ASSERT_FAULT(RUN("\x8e\xe1"), MON_GP, 0);
}

Test(cpu_step64, control_registers_have_64_bits)
{
    v->cpu->gpr[RT_AX] = v->cr0 | 1ull << 32;
    ASSERT_FAULT(RUN("\x0f\x22\xc0"), MON_GP, 0);
    v->cpu->gpr[9] = 7;
    ASSERT_OK(RUN("\x45\x0f\x22\xc1")); /* mov %r9, %cr8 */
    ASSERT_OK(RUN("\x44\x0f\x20\xc2")); /* mov %cr8, %rdx */
    ASSERT_HEX(v->cpu->gpr[RT_DX], 7);
    v->cpu->gpr[9] = 16;
    ASSERT_FAULT(RUN("\x45\x0f\x22\xc1"), MON_GP, 0);
    v->cpu->gpr[RT_AX] = v->cr0 & ~(uint64_t)MON_CR0_PG;
    ASSERT_FAULT(RUN("\x0f\x22\xc0"), MON_GP, 0); /* paging off in 64-bit code */
    v->cpu->gpr[RT_AX] = v->cr4 & ~(uint64_t)MON_CR4_PAE;
    ASSERT_FAULT(RUN("\x0f\x22\xe0"), MON_GP, 0);
    v->cr3 |= 1;
    v->cpu->gpr[RT_AX] = v->cr4 | MON_CR4_PCIDE; /* PCID 0 must be current */
    ASSERT_FAULT(RUN("\x0f\x22\xe0"), MON_GP, 0);
    v->cr3 &= ~1ull;
    v->cpu->gpr[RT_AX] = 1ull << 52;
    ASSERT_FAULT(RUN("\x0f\x22\xd8"), MON_GP, 0);
    v->cpu->gpr[RT_CX] = 0xc0000080;
    v->cpu->gpr[RT_AX] = MON_EFER_SCE;
    v->cpu->gpr[RT_DX] = 0;
    ASSERT_FAULT(RUN("\x0f\x30"), MON_GP, 0); /* LME changes with paging on */
    v->cpu->gpr[RT_AX] = 1ull << 33;
    ASSERT_FAULT(RUN("\x0f\x23\xf8"), MON_GP, 0); /* mov %rax, %dr7 */
}

/* Real mode, protected mode, long mode, and all the way back, each by the instructions that a boot
 * loader uses. */
Test(cpu_step64, modes_change_there_and_back)
{
    uint64_t cr4 = v->cr4;
    machine_long(&m, 0, true); /* page tables */
    mon_cpu_reset(v);
    v->gdt = (struct novt_dtable){GDT, GDT_LIMIT};
    v->tr = (struct novt_segment){TSS, TSS_LIMIT, 0x8b, SEL_TSS};
    v->cr0 = MON_CR0_ET;
    mon_seg_set_real(v, NOVT_CS, CODE >> 4);
    v->cpu->gpr[RT_AX] = MON_CR0_PE;
    memcpy(m.ram + CODE, "\x0f\x22\xc0\x66\xea\x00\x10\x06\x00\x08\x00", 11);
    v->cpu->rip = 0;
    ASSERT_OK(mon_step(v)); /* mov %eax, %cr0 */
    ASSERT_OK(mon_step(v)); /* ljmpl $8, $0x61000 */
    ASSERT_HEX(v->cpu->rip, CODE);
    ASSERT_HEX(v->seg[NOVT_CS].attr, 0xc09b);
    v->cpu->gpr[RT_AX] = cr4;
    ASSERT_OK(RUN("\x0f\x22\xe0"));
    v->cpu->gpr[RT_AX] = 0;
    ASSERT_OK(RUN("\x0f\x22\xd8"));
    v->cpu->gpr[RT_CX] = 0xc0000080;
    v->cpu->gpr[RT_AX] = MON_EFER_LME | MON_EFER_NXE;
    v->cpu->gpr[RT_DX] = 0;
    ASSERT_OK(RUN("\x0f\x30"));
    cr_assert(!mon_long(v));
    v->cpu->gpr[RT_AX] = MON_CR0_PE | MON_CR0_PG | MON_CR0_WP;
    ASSERT_OK(RUN("\x0f\x22\xc0"));
    cr_assert(mon_long(v) && !mon_code64(v));
    ASSERT_OK(RUN("\xea\x00\x20\x06\x00\xb8\x00")); /* ljmp $SEL_CODE64, $0x62000 */
    cr_assert(mon_code64(v));
    ASSERT_OK(RUN_AT(0x62000, "\x48\xb8\x88\x77\x66\x55\x44\x33\x22\x11"));
    ASSERT_HEX(v->cpu->gpr[RT_AX], 0x1122334455667788);

    put64(&m, DATA, CODE | (uint64_t)SEL_CODE0 << 32);
    v->cpu->gpr[RT_BX] = DATA;
    ASSERT_OK(RUN_AT(0x62000, "\xff\x2b")); /* ljmp *(%rbx) to 32-bit code */
    cr_assert(mon_long(v) && !mon_code64(v));
    v->cpu->gpr[RT_AX] = MON_CR0_PE;
    ASSERT_OK(RUN("\x0f\x22\xc0"));
    cr_assert(!mon_long(v) && (v->efer & MON_EFER_LME));
    v->cpu->gpr[RT_AX] = v->cpu->gpr[RT_DX] = 0;
    ASSERT_OK(RUN("\x0f\x30"));
    ASSERT_OK(RUN("\xea\x00\x00\x00\x00\x38\x00")); /* 16-bit code */
    v->seg[NOVT_CS].base = 0;
    memcpy(m.ram, "\x0f\x22\xc0\xea\x00\x00\x00\x61", 8);
    ASSERT_OK(mon_step(v));
    ASSERT_OK(mon_step(v));
    ASSERT_HEX(v->seg[NOVT_CS].base, CODE & 0xffff0);
    cr_assert(!mon_protected(v));
}
