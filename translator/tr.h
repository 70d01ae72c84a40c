/* tr.h - the translator's face: guest bytes in, host bytes out; it runs nothing.
 *
 * decode.c turns bytes into struct tr_insn (Zydis inside); policy.def says what each mnemonic is;
 * translate.c makes a block of host code. The emitters, by kind of instruction:
 *
 *   32-bit code   copy.c  branch.c  stack.c  string.c  incache.c  system.c (segment registers,
 *                 SYSENTER, SYSEXIT)
 *   64-bit code   long_operand.c (addresses)  long_front.c (of a block)  long_loop.c  long_copy.c
 *                 long_gather.c  long_flow.c (branches, stack, strings, sensitive ones)
 *                 long_system.c (SYSCALL, SYSRET, SWAPGS)
 *
 * emit.h and long.h are what they share, private to the folder. */
#ifndef NOVT_TRANSLATOR_TR_H
#define NOVT_TRANSLATOR_TR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What an instruction is (docs/design.md, section 4). Zero is "nobody has classified it". */
enum tr_class {
    TR_REFUSED = 0, /* #UD to the guest, and counted */
    TR_COPY,        /* runs as it is, memory operand rewritten */
    TR_BRANCH,      /* leaves the block */
    TR_STACK,       /* implicit stack operand, emitted as moves */
    TR_STRING,      /* native on host addresses */
    TR_INCACHE,     /* sensitive, short host sequence */
    TR_CALLOUT,     /* sensitive or rare: the monitor executes it */
    TR_ABSENT,      /* not offered to the guest (VMX, TSX, ...): #UD, not counted */
};

/* The handler column of policy.def: what the slow path and the emitters dispatch on. */
enum tr_op {
#define P(mnemonic, cls, op, feature, why, manual)
#define OP(op) TR_OP_##op,
#include "translator/ops.def"
#undef OP
#undef P
    TR_OP_COUNT
};

enum tr_mode { TR_MODE_16, TR_MODE_32, TR_MODE_64 };

enum tr_encoding { TR_ENC_LEGACY, TR_ENC_VEX, TR_ENC_EVEX };

/* Segment register numbers in encoding order, as in enum novt_sreg. */
enum tr_seg { TR_ES, TR_CS, TR_SS, TR_DS, TR_FS, TR_GS, TR_SEG_NONE = 7 };

/* One whose base is its own: in flat memory models, and always in 64-bit mode. */
static inline bool tr_is_far_segment(unsigned seg)
{
    return seg == TR_FS || seg == TR_GS;
}

/* One decoded instruction. Register fields are encoding numbers with REX/VEX extension applied. */
struct tr_insn {
    uint8_t bytes[16];
    uint8_t len;       /* 1 to 15 */
    uint8_t cls;       /* enum tr_class */
    uint16_t op;       /* enum tr_op */
    uint16_t mnemonic; /* ZydisMnemonic, opaque outside decode.c and policy.c */
    uint8_t mode;      /* enum tr_mode */
    uint8_t encoding;  /* enum tr_encoding */
    uint8_t map;       /* 0: one-byte, 1: 0F, 2: 0F38, 3: 0F3A, others as Zydis has them */
    uint8_t opcode;
    uint8_t opsize; /* effective operand size in bits: 8, 16, 32, 64 */
    uint8_t adsize; /* effective address size in bits: 16, 32, 64 */
    uint8_t rep;    /* 0, 0xF2 or 0xF3 as it applies (0 where it is a mandatory prefix) */
    bool lock;
    bool prefix66;           /* an operand-size or mandatory 66h prefix is there */
    uint8_t prefix_rep;      /* last F2h/F3h prefix byte seen, mandatory or not */
    uint8_t rex;             /* REX byte or 0 */
    bool has_modrm, has_mem; /* has_mem: ModRM names memory that the instruction really accesses or
                                computes an address of (LEA too) */
    bool agen_only;          /* LEA, NOP, prefetch hints, INVLPG-like: no access */
    bool vsib;
    uint8_t mod, reg, rm; /* raw ModRM fields, extended for 64-bit */
    int8_t base, index;   /* memory operand: register numbers or -1 */
    uint8_t scale;        /* 1, 2, 4, 8 */
    uint8_t seg;          /* effective segment of the memory operand, override applied */
    uint8_t seg_override; /* enum tr_seg or TR_SEG_NONE */
    int64_t disp;         /* sign-extended */
    uint8_t disp_size;    /* bytes in the encoding: 0, 1, 2, 4 */
    uint8_t opcode_at; /* offset in bytes[], behind prefixes and REX; VEX and EVEX belong to it */
    uint8_t modrm_at, disp_at, imm_at; /* 0 when absent */
    uint8_t imm_size;                  /* bytes of all immediates */
    uint8_t imm_form;                  /* enum tr_imm */
    int64_t imm;   /* first immediate, sign-extended as the instruction does (relative: the
                      displacement; far pointer: the offset) */
    uint16_t imm2; /* far pointer selector, ENTER's level */
    uint32_t flags_read, flags_written; /* RFLAGS bits; written: always, and not undefined */
    uint8_t feature;                    /* enum tr_feature that must be enabled for it to run */
    uint8_t vex_l, evex_b, evex_aaa;
    /* General registers, one bit each; implicit ones too, 64-bit mode only (tr_decode()). */
    uint16_t regs_read, regs_written;
    /* Filled by tr_decode_operands(), in 64-bit mode by tr_decode(): */
    uint16_t mem_size; /* bytes accessed at the ModRM operand, 0 if none */
    bool mem_read, mem_write;
    uint8_t gpr_fields;  /* enum tr_gpr_field: encoding fields that name general registers */
    bool high_byte;      /* names AH, CH, DH or BH: takes no REX prefix; not in gpr_fields */
    bool touches_vector; /* x87, MMX, SSE, AVX, AVX-512 or opmask state */
};

/* PREFETCH, CLDEMOTE and the reserved NOPs take an address and access nothing. */
static inline bool tr_is_hint(const struct tr_insn *insn)
{
    return insn->agen_only || (insn->has_mem && insn->encoding == TR_ENC_LEGACY && insn->map == 1 &&
                               (insn->opcode == 0x0d || (insn->opcode & 0xf8) == 0x18));
}

enum tr_imm { TR_IMM_UNSIGNED, TR_IMM_SIGNED, TR_IMM_TWO };

enum tr_gpr_field { TR_FIELD_REG = 1, TR_FIELD_RM = 2, TR_FIELD_VVVV = 4, TR_FIELD_OPCODE = 8 };

/* State that must be enabled before an instruction may run at all. */
enum tr_feature {
    TR_F_NONE,
    TR_F_X87,    /* CR0.EM = 0 and CR0.TS = 0 */
    TR_F_WAIT,   /* WAIT: CR0.MP and CR0.TS not both set */
    TR_F_MMX,    /* as x87 */
    TR_F_SSE,    /* and CR4.OSFXSR = 1 */
    TR_F_AVX,    /* CR4.OSXSAVE = 1, XCR0 has AVX */
    TR_F_AVX512, /* and XCR0 has opmask and ZMM */
};

enum tr_decode_status { TR_DECODE_OK, TR_DECODE_SHORT, TR_DECODE_UD, TR_DECODE_TOO_LONG };

/* Decodes the instruction at bytes (avail readable). SHORT: it continues beyond avail.
 * TOO_LONG: more than 15 bytes, #GP(0) (SDM 2-2.3.11). */
enum tr_decode_status tr_decode(const uint8_t *bytes, size_t avail, enum tr_mode mode,
                                struct tr_insn *insn);

/* Fills mem_size, mem_read, mem_write and touches_vector. */
void tr_decode_operands(struct tr_insn *insn);

/* "mov eax, [ebx+4]" for logs. */
void tr_format(const struct tr_insn *insn, uint64_t pc, char *buf, size_t len);

/* The mnemonic's name, for statistics. */
const char *tr_mnemonic_name(uint16_t mnemonic);

/* Emits insn of 16- or 32-bit code for the slow path: its ModRM memory operand, if it has one, is
 * replaced by the memory at buffer (host address within +-2 GiB of code), everything else as it is;
 * only for cls TR_COPY. Returns the bytes written at code (at most 32), 0 when the form has no such
 * encoding (VSIB, implicit memory operands). No jump is appended. */
size_t tr_emit_redirected(const struct tr_insn *insn, uint8_t *code, const uint8_t *code_rx,
                          const void *buffer);

/* ---- translate.c ---- */

/* A block's key: what the translation depends on besides the bytes. */
enum tr_key {
    TR_K_CPL3 = 1 << 0,
    TR_K_IOPL = 1 << 1, /* CPL <= IOPL: CLI, STI and POPF may change IF */
    TR_K_DS = 1 << 2,   /* flat: base 0, limit 4 GiB, readable and writable */
    TR_K_ES = 1 << 3,
    TR_K_SS = 1 << 4,  /* flat and 32-bit */
    TR_K_TSC = 1 << 5, /* RDTSC allowed: CR4.TSD = 0 or CPL = 0 */
    TR_K_X87 = 1 << 6, /* enum tr_feature, one bit each, set when enabled */
    TR_K_WAIT = 1 << 7,
    TR_K_MMX = 1 << 8,
    TR_K_SSE = 1 << 9,
    TR_K_AVX = 1 << 10,
    TR_K_AVX512 = 1 << 11,
    TR_K_COUNT = 1 << 12, /* count guest instructions */
    TR_K_LONG = 1 << 13,  /* 64-bit code */
    TR_K_CPL0 = 1 << 14,
};

struct cc;
struct cc_block;
struct tr_memo;

/* The permanent stubs at the start of the code region. */
struct tr_stubs {
    uint8_t *miss; /* of either mode: through rt_cpu.miss */
    uint8_t *miss32, *direct32, *callout32, *pending32;
    uint8_t *sysenter32, *sysexit32;
    uint8_t *miss64, *probe64, *direct64, *callout64, *pending64;
    uint8_t *syscall64, *sysret64;
};

/* Emits the stubs into an empty region and seals it. 0 or a negative errno. */
int tr_stubs_emit(struct cc *cc, struct tr_stubs *stubs);

/* 64-bit code: where the bytes that check addresses of a class (bits 46 and 47) start, behind GS;
 * addresses are divided by 2^20 and wrap at 4 GiB (long_operand.c). */
#define TR_CHECK_BASE(class) (((class) + 1u) << 29)
static inline unsigned tr_class(uint64_t gla)
{
    return (unsigned)(gla >> 46) & 3;
}
/* Bits 63 to 47 are alike: an address of four levels of page tables (SDM 1-3.3.7.1). */
static inline bool tr_is_canonical(uint64_t gla)
{
    return (uint64_t)((int64_t)(gla << 16) >> 16) == gla;
}

struct tr_request {
    struct cc *cc;
    const struct tr_stubs *stubs;
    struct tr_memo *memo; /* memo.h; may be NULL */
    uint64_t pc;          /* linear address, equal to EIP: CS is flat */
    uint64_t gpa;
    uint32_t key;         /* enum tr_key */
    uint32_t max_insns;   /* per block */
    bool linked_only;     /* 64-bit code: no jump table need lead to the block */
    const uint8_t *bytes; /* at pc, valid to the end of the page */
    /* The next page's bytes, when its translation is known to be needed: gpa2 its address. */
    const uint8_t *bytes2;
    uint64_t gpa2;
    /* 64-bit code, for guesses; may be NULL: the guest's registers now, and its memory. */
    const uint64_t *gpr;
    bool (*peek)(void *owner, uint64_t gla, uint64_t *value);
    void *owner;
};

enum tr_result {
    TR_DONE,
    TR_FULL,        /* the code region or an arena is full: flush and try again */
    TR_SECOND_PAGE, /* the first instruction goes on in the next page: fill in bytes2 */
};

/* Whether the host instruction at hpc is a check of an address, and of which class. */
bool tr_is_check(const uint8_t *hpc, unsigned *class);
/* The guest register whose check that is, or -1: it is of a sum, or of a register in memory. */
int tr_checked_register(const uint8_t *hpc);

/* Whether it is the load in front of an addition to rsp, which stands for no access of the guest's.
 */
bool tr_is_probe(const uint8_t *hpc);

/* Whether it is 32-bit code's jump through the table. */
bool tr_is_table_jump(const uint8_t *hpc);

/* Makes a block. Several threads may translate into different caches. */
enum tr_result tr_translate(const struct tr_request *request, struct cc_block **block);

#endif
