/* flags.c - arithmetic flags are a CPU's: after every instruction class, and across every kind of
 * branch, however far from the instruction that set them they are used.
 *
 * SDM 1 3.4.3 (EFLAGS), SDM 2: Jcc, SETcc, CMOVcc, LOOPcc, JECXZ, LAHF, SAHF, PUSHF, POPF, DAA,
 * DAS, AAA, AAS, AAM, AAD, and the "Flags Affected" of each instruction used; appendix B.1.4
 * (conditions). Flags that the manual calls undefined are masked. Operand size 16 of branches: SDM
 * 2 JMP, CALL, RET ("the EIP register is truncated to 16 bits"). */
#include "guest.h"

const char guest_name[] = "flags";

static const uint32_t values[] = {0,          1,          0xf,        0x10,       0x7f,
                                  0x80,       0xff,       0x7fff,     0x8000,     0xffff,
                                  0x7fffffff, 0x80000000, 0x80000001, 0xfffffffe, 0xffffffff,
                                  0x12345678, 0x87654321};

/* Combination n of 64 of the six arithmetic flags. */
static uint32_t flag_set(uint32_t n)
{
    static const uint32_t bit[] = {CF, PFL, AF, ZF, SF, OFL};
    uint32_t flags = 0;
    for (int i = 0; i < 6; i++)
        if (n >> i & 1)
            flags |= bit[i];
    return flags;
}

static uint32_t condition(uint32_t cc, uint32_t f)
{
    bool less = !(f & SF) != !(f & OFL);
    bool yes[] = {f & OFL, f & CF, f & ZF, f & (CF | ZF), f & SF, f & PFL, less, less || (f & ZF)};
    return yes[cc >> 1] != (cc & 1);
}

/* SETcc, CMOVcc (register, memory), Jcc near and short, all on the same flags. */
#define CC(cc)                                                            \
    "mov eax, 0; mov ecx, 0; mov edx, 0; mov ebx, 0; mov edi, 0;"         \
    "set" cc " al; cmov" cc " ecx, esi; cmov" cc " edi, dword ptr [one];" \
    "j" cc " 1f; jmp 2f; 1: mov edx, 1; 2: j" cc " 3f; jmp 4f; .skip 130, 0x90; 3: mov ebx, 1; 4:"

static volatile uint32_t one = 1;

static void conditions(void)
{
    const struct snip *code[] = {CODE(CC("o")), CODE(CC("no")), CODE(CC("b")),  CODE(CC("ae")),
                                 CODE(CC("e")), CODE(CC("ne")), CODE(CC("be")), CODE(CC("a")),
                                 CODE(CC("s")), CODE(CC("ns")), CODE(CC("p")),  CODE(CC("np")),
                                 CODE(CC("l")), CODE(CC("ge")), CODE(CC("le")), CODE(CC("g"))};
    for (uint32_t cc = 0; cc < 16; cc++)
        for (uint32_t n = 0; n < 64; n++) {
            IN(.eflags = flag_set(n), .esi = 1);
            go(code[cc]);
            uint32_t want = condition(cc, flag_set(n)) * 0x11111;
            EQ(out.eax | out.ecx << 4 | out.edx << 8 | out.ebx << 12 | out.edi << 16, want);
            EQ(out.eflags, flag_set(n) | 2);
        }
}

/* Every branch keeps the flags that were there before it. ecx is 5, ebx holds 0 for [ebx + table].
 */
static void kept_by_branches(void)
{
    const struct snip *code[] = {
        CODE("jmp 1f; ud2; 1:"),
        CODE("jmp 1f; .skip 200, 0xcc; 1:"),
        CODE("lea eax, 1f; jmp eax; ud2; 1:"),
        CODE("push offset 1f; jmp dword ptr [esp]; ud2; 1:"),
        CODE("call 1f; jmp 2f; 1: ret; 2:"),
        CODE("lea eax, 1f; call eax; jmp 2f; 1: ret; 2:"),
        CODE("push offset 1f; call dword ptr [esp]; jmp 2f; 1: ret; 2:"),
        CODE("push 7; push offset 1f; ret 4; ud2; 1:"),
        CODE("call 1f; 1: lea esp, [esp + 4]; jmp 2f; ud2; 2:"),
        CODE("jecxz 1f; jmp 2f; 1: ud2; 2:"),
        CODE("xchg eax, ecx; mov ecx, 0; jecxz 1f; ud2; 1:"),
        CODE("1: nop; loop 1b"),
        CODE("1: lea eax, [eax + 1]; jmp 2f; 2: loop 1b"),
        CODE("1: lea eax, 2f; jmp eax; 2: loop 1b"),
        CODE("1: call 2f; loop 1b; jmp 3f; 2: ret; 3:"),
        CODE("mov cx, 0; .byte 0x67; jecxz 1f; ud2; 1:"),
        CODE(".byte 0xea; .long 1f; .word 8; ud2; 1:"),
        CODE(".byte 0x9a; .long 1f; .word 8; jmp 2f; 1: retf; 2:"),
        CODE("push cs; push offset 1f; retf; ud2; 1:"),
        CODE("push 8; push offset 1f; .byte 0xff, 0x2c, 0x24; ud2; 1:"), /* JMP FAR [ESP] */
        CODE("pushfd; push cs; push offset 1f; iretd; ud2; 1:"),
        CODE("pushfd; popfd; pushfw; popfw; lahf; sahf"),
        CODE(
            "nop; xchg eax, edx; mov ebx, ds; push ebx; pop es; not eax; bswap ecx; movzx eax, cl"),
        CODE("mov ebp, esp; enter 8, 0; leave; pusha; popa; lea eax, [eax + ecx * 4]; cwde; cdq; "
             "xlat")};
    for (size_t i = 0; i < COUNT(code); i++)
        for (uint32_t n = 0; n < 64; n++) {
            IN(.eflags = flag_set(n), .ecx = 5, .ebx = addr(&one));
            go(code[i]);
            CHECK(out.vector, DONE, "branch", i);
            CHECK(out.eflags, flag_set(n) | 2, "flags after branch", i);
        }
}

/* Jcc itself, taken and not, keeps flags for a second Jcc, at the far side of any branch. */
static void used_after_branches(void)
{
#define AFTER(branch) CODE("add eax, edx; " branch "; adc ebx, 0; setb cl; seta ch")
    const struct snip *code[] = {
        AFTER("jmp 1f; ud2; 1:"),
        AFTER("jb 1f; jmp 1f; ud2; 1: jo 2f; 2:"),
        AFTER("lea esi, 1f; jmp esi; ud2; 1:"),
        AFTER("call 1f; jmp 2f; 1: ret; 2:"),
        AFTER("lea esi, 1f; call esi; jmp 2f; 1: ret; 2:"),
        AFTER("push offset 1f; ret; ud2; 1:"),
        AFTER("mov dword ptr [esp - 4], offset 1f; jmp dword ptr [esp - 4]; ud2; 1:"),
        AFTER("pushfd; cmp eax, 7; popfd; jmp 1f; 1:"),
        AFTER("mov ebp, eax; lahf; seto dl; cmp dl, 77; add dl, 127; sahf; mov eax, ebp"),
        AFTER(".byte 0x9a; .long 1f; .word 8; jmp 2f; 1: retf; 2:")};
#undef AFTER
    for (size_t i = 0; i < COUNT(code); i++)
        for (size_t a = 0; a < COUNT(values); a++)
            for (size_t b = 0; b < COUNT(values); b++) {
                uint32_t sum = values[a] + values[b], carry = sum < values[a];
                IN(.eax = values[a], .edx = values[b], .ebx = 0xffffffff);
                go(code[i]);
                CHECK(out.eax, sum, "sum", i);
                CHECK(out.ebx, carry - 1, "carry into adc", i);
                /* After ADC of 0 to FFFFFFFFh: carry out when the carry came in, else not zero. */
                CHECK(out.ecx & 0xffff, carry ? 1 : 0x100, "flags of adc", i);
            }
}

static uint32_t flags_result(uint32_t r, uint32_t width)
{
    uint32_t parity = r & 0xff, mask = width == 32 ? 0xffffffff : (1u << width) - 1;
    parity ^= parity >> 4;
    parity ^= parity >> 2;
    parity ^= parity >> 1;
    return (parity & 1 ? 0u : PFL) | (r & mask ? 0u : ZF) | (r >> (width - 1) & 1 ? SF : 0u);
}

static uint32_t flags_add(uint32_t a, uint32_t b, uint32_t c, uint32_t width)
{
    uint32_t r = a + b + c;
    uint32_t carries = (a & b) | ((a | b) & ~r);
    return flags_result(r, width) | (carries >> (width - 1) & 1 ? CF : 0u) | ((a ^ b ^ r) & 0x10) |
           (((a ^ r) & (b ^ r)) >> (width - 1) & 1 ? OFL : 0u);
}

static uint32_t flags_sub(uint32_t a, uint32_t b, uint32_t c, uint32_t width)
{
    uint32_t r = a - b - c;
    uint32_t borrows = (~a & b) | ((~a | b) & r);
    return flags_result(r, width) | (borrows >> (width - 1) & 1 ? CF : 0u) | ((a ^ b ^ r) & 0x10) |
           (((a ^ b) & (a ^ r)) >> (width - 1) & 1 ? OFL : 0u);
}

/* Runs one instruction on eax, edx and flags without a trap each time: for exhaustive loops. */
#define DIRECT(text, ax, dx, fl)                                      \
    __asm__ volatile("pushl %2; popfl; .intel_syntax noprefix; " text \
                     "; .att_syntax prefix; pushfl; popl %2"          \
                     : "+a"(ax), "+d"(dx), "+r"(fl))

#define ALU(op, width, a_reg, d_reg, want_flags, want, mask)                                  \
    do {                                                                                      \
        uint32_t ax = a, dx = b, fl = c;                                                      \
        DIRECT(op " " a_reg ", " d_reg, ax, dx, fl);                                          \
        check(fl &(mask), (want_flags) & (mask), op "/" #width " flags", __FILE__, __LINE__); \
        check(ax, (a & ~keep) | ((want)&keep), op "/" #width, __FILE__, __LINE__);            \
    } while (0)

#define ALU_ALL(width, a_reg, d_reg)                                                     \
    do {                                                                                 \
        uint32_t keep = width == 32 ? 0xffffffff : (1u << (width & 31)) - 1;             \
        ALU("add", width, a_reg, d_reg, flags_add(a, b, 0, width), a + b, ARITH);        \
        ALU("adc", width, a_reg, d_reg, flags_add(a, b, c, width), a + b + c, ARITH);    \
        ALU("sub", width, a_reg, d_reg, flags_sub(a, b, 0, width), a - b, ARITH);        \
        ALU("sbb", width, a_reg, d_reg, flags_sub(a, b, c, width), a - b - c, ARITH);    \
        ALU("cmp", width, a_reg, d_reg, flags_sub(a, b, 0, width), a, ARITH);            \
        ALU("and", width, a_reg, d_reg, flags_result(a &b, width), a &b, ARITH & ~AF);   \
        ALU("or", width, a_reg, d_reg, flags_result(a | b, width), a | b, ARITH & ~AF);  \
        ALU("xor", width, a_reg, d_reg, flags_result(a ^ b, width), a ^ b, ARITH & ~AF); \
        ALU("test", width, a_reg, d_reg, flags_result(a &b, width), a, ARITH & ~AF);     \
    } while (0)

static void arithmetic(void)
{
    for (size_t i = 0; i < COUNT(values); i++)
        for (size_t j = 0; j < COUNT(values); j++)
            for (uint32_t c = 0; c < 2; c++) {
                uint32_t a = values[i], b = values[j];
                ALU_ALL(32, "eax", "edx");
                ALU_ALL(16, "ax", "dx");
                ALU_ALL(8, "al", "dl");
            }
}

static void one_operand(void)
{
    for (size_t i = 0; i < COUNT(values); i++)
        for (uint32_t c = 0; c < 2; c++) {
            uint32_t a = values[i], dx = 0, r, fl;
            r = a, fl = c;
            DIRECT("inc eax", r, dx, fl);
            EQ(r, a + 1);
            EQ(fl & ARITH, (flags_add(a, 1, 0, 32) & ~CF) | c);
            r = a, fl = c;
            DIRECT(".byte 0x66, 0x48", r, dx, fl); /* DEC AX, one-byte form */
            EQ(r, (a & 0xffff0000) | ((a - 1) & 0xffff));
            EQ(fl & ARITH, (flags_sub(a, 1, 0, 16) & ~CF) | c);
            r = a, fl = c;
            DIRECT("dec ah", r, dx, fl);
            EQ(fl & ARITH, (flags_sub(a >> 8, 1, 0, 8) & ~CF) | c);
            r = a, fl = c;
            DIRECT("neg eax", r, dx, fl);
            EQ(r, 0 - a);
            EQ(fl & ARITH, flags_sub(0, a, 0, 32));
            r = a, fl = c | ARITH;
            DIRECT("not eax", r, dx, fl);
            EQ(fl & ARITH, ARITH);
            r = a, fl = c;
            DIRECT("shl eax, 1", r, dx, fl);
            EQ(r, a << 1);
            EQ(fl & (ARITH & ~AF),
               flags_result(a << 1, 32) | a >> 31 | ((a >> 31 ^ (a >> 30 & 1)) ? OFL : 0u));
            r = a, fl = c;
            DIRECT("sar eax, 1", r, dx, fl);
            EQ(fl & (ARITH & ~AF), flags_result((uint32_t)((int32_t)a >> 1), 32) | (a & 1));
            r = a, fl = c | SF | ZF;
            DIRECT("rcl eax, 1", r, dx, fl);
            EQ(r, a << 1 | c);
            EQ(fl & (CF | SF | ZF), a >> 31 | SF | ZF);
            r = a, fl = c | PFL;
            DIRECT("rcr eax, 1", r, dx, fl);
            EQ(r, a >> 1 | c << 31);
            EQ(fl & (CF | PFL), (a & 1) | PFL);
            r = a, fl = c | OFL | SF | AF;
            DIRECT("xchg ecx, edx; mov ecx, 32; shl eax, cl; rol eax, cl; rcr eax, cl; shld eax, "
                   "edx, cl; xchg ecx, edx",
                   r, dx, fl);
            EQ(r, a); /* a masked count of 0 changes nothing */
            EQ(fl & ARITH, c | OFL | SF | AF);
            r = a, dx = 0xabcdef01, fl = c;
            DIRECT("shld eax, edx, 8", r, dx, fl);
            EQ(r, a << 8 | 0xab);
            EQ(fl & (CF | SF | ZF | PFL), flags_result(r, 32) | (a >> 24 & 1));
            r = a, dx = 0, fl = c;
            DIRECT(".byte 0xd6", r, dx, fl); /* SALC */
            EQ(r & 0xff, c ? 0xff : 0);
            EQ(fl & ARITH, c);
            r = a, dx = 1, fl = c | SF;
            DIRECT("bt eax, 4; bsf edx, eax", r, dx, fl);
            EQ(!(fl & ZF), a != 0);
        }
}

static void multiply(void)
{
    for (size_t i = 0; i < COUNT(values); i++)
        for (size_t j = 0; j < COUNT(values); j++) {
            uint32_t a = values[i], b = values[j], ax = a, dx = b, fl = 0;
            uint64_t product = (uint64_t)a * b;
            int64_t sproduct = (int64_t)(int32_t)a * (int32_t)b;
            DIRECT("mul edx", ax, dx, fl);
            EQ(ax, product);
            EQ(dx, product >> 32);
            EQ(fl & (CF | OFL), product >> 32 ? CF | OFL : 0);
            ax = a, dx = b, fl = 0;
            DIRECT("imul eax, edx", ax, dx, fl);
            EQ(ax, sproduct);
            EQ(fl & (CF | OFL), sproduct != (int32_t)sproduct ? CF | OFL : 0);
        }
}

/* The decimal adjusts, exhaustively: none of them exists in 64-bit code. SDM 2 "Operation". */
static void decimal(void)
{
    for (uint32_t n = 0; n < 256 * 4; n++) {
        uint32_t al = n & 0xff, c = n >> 8 & 1, af = n >> 9 ? AF : 0, dx = 0, r, fl, want;
        bool low = (al & 15) > 9 || af, high = al > 0x99 || c;
        r = al | 0x5500, fl = c | af;
        DIRECT("daa", r, dx, fl);
        want = (al + (low ? 6u : 0u) + (high ? 0x60u : 0u)) & 0xff;
        EQ(r, want | 0x5500);
        EQ(fl & (ARITH & ~OFL), flags_result(want, 8) | (high ? CF : 0) | (low ? AF : 0));
        r = al | 0x5500, fl = c | af;
        DIRECT("das", r, dx, fl);
        want = (al - (low ? 6u : 0u) - (high ? 0x60u : 0u)) & 0xff;
        EQ(r, want | 0x5500);
        EQ(fl & (ARITH & ~OFL),
           flags_result(want, 8) | (high || (low && al < 6) ? CF : 0) | (low ? AF : 0));
        r = al | 0xff00, fl = c | af;
        DIRECT("aaa", r, dx, fl);
        want = low ? ((al | 0xff00) + 0x106) & 0xff0f : al % 16 | 0xff00;
        EQ(r, want);
        EQ(fl & (CF | AF), low ? CF | AF : 0);
        r = al | 0xabcd0000, fl = c | af;
        DIRECT("aas", r, dx, fl);
        want = low ? (al - 0x106) & 0xff0f : al % 16;
        EQ(r, want | 0xabcd0000);
        EQ(fl & (CF | AF), low ? CF | AF : 0);
        r = al | 0xabcd1200, fl = c | af;
        DIRECT("aam", r, dx, fl);
        EQ(r, al / 10 << 8 | al % 10 | 0xabcd0000);
        EQ(fl & (PFL | ZF | SF), flags_result(al % 10, 8));
        r = al | 0xabcd1200, fl = c | af;
        DIRECT("aam 7", r, dx, fl);
        EQ(r, al / 7 << 8 | al % 7 | 0xabcd0000);
        r = al | 0xabcd1200, fl = c | af;
        DIRECT("aad", r, dx, fl);
        EQ(r, ((al + 0x12 * 10) & 0xff) | 0xabcd0000);
        EQ(fl & (PFL | ZF | SF), flags_result(al + 0x12 * 10, 8));
        r = al | 0xabcd0300, fl = c | af;
        DIRECT("aad 0x91", r, dx, fl);
        EQ(r, ((al + 3 * 0x91) & 0xff) | 0xabcd0000);
    }
}

static void lahf_sahf_popf(void)
{
    for (uint32_t n = 0; n < 64; n++) {
        IN(.eflags = flag_set(n), .eax = 0x55555555);
        OK("lahf");
        EQ(out.eax, 0x55550055 | ((flag_set(n) & 0xd7) | 2) << 8);
        IN(.eflags = flag_set(n) ^ ARITH, .eax = flag_set(n) << 8);
        OK("sahf");
        EQ(out.eflags, (flag_set(n) & 0xd7) | 2 | ((flag_set(n) ^ ARITH) & OFL));
        IN(.eax = flag_set(n) | DFL);
        OK("push eax; popfd; pushfd; pop ecx; cld");
        EQ(out.ecx, flag_set(n) | DFL | 2);
        IN(.eflags = flag_set(n) | ID, .eax = flag_set(n) ^ ARITH);
        OK("push ax; popfw; pushfd; pop ecx");
        EQ(out.ecx, (flag_set(n) ^ ARITH) | ID | 2); /* 16-bit POPF keeps the upper half */
        IN(.eflags = flag_set(n));
        OK("stc; setb al; cmc; setb ah; clc; setb cl; cmc; std; pushfd; pop edx; cld");
        EQ(out.eax & 0xffff, 1);
        EQ(out.ecx & 0xff, 0);
        EQ(out.edx, flag_set(n) | CF | DFL | 2);
    }
}

static void loops(void)
{
    IN(.ecx = 0x10000, .eax = 0);
    OK("1: inc eax; loop 1b");
    EQ(out.eax, 0x10000);
    EQ(out.ecx, 0);
    IN(.ecx = 0xabcd0003);
    OK("1: inc eax; .byte 0x67; loop 1b"); /* LOOP with CX */
    EQ(out.eax, 3);
    EQ(out.ecx, 0xabcd0000);
    IN(.ecx = 0x20000, .edx = 1000);
    OK("1: inc eax; cmp eax, edx; loopne 1b");
    EQ(out.eax, 1000);
    EQ(out.ecx, 0x20000 - 1000);
    IN(.ecx = 100, .edx = 50);
    OK("1: inc eax; dec edx; cmp eax, eax; loope 1b");
    EQ(out.eax, 100);
    IN(.ecx = 100, .edx = 50);
    OK("1: inc eax; cmp eax, 31; setb bl; test bl, 1; loopne 1b; setz bh");
    EQ(out.eax, 31);
    EQ(out.ebx, 0x0100);
    IN(.ecx = 0);
    OK("jecxz 1f; mov eax, 1; 1: dec ecx; jecxz 2f; mov ebx, 1; 2: mov ecx, 0x10000; .byte 0x67; "
       "jecxz 3f; mov edx, 1; 3:");
    EQ(out.eax, 0);
    EQ(out.ebx, 1);
    EQ(out.edx, 0);
}

/* Branches with operand size 16, run from a copy below 64 KiB: EIP is truncated, the stack is
 * words. */
static void branches_16(void)
{
    static const struct {
        uint8_t bytes[28];
        uint32_t want_eax, want_esp;
    } cases[] = {
        /* mov al, 1 at +20h is the target; the fall-through ends with eax = 0. */
        {{0x66, 0xeb, 0x1d, 0xcd, 0xff}, 1, 0},                         /* JMP rel8 */
        {{0x66, 0xe9, 0x1c, 0x00, 0xcd, 0xff}, 1, 0},                   /* JMP rel16 */
        {{0x66, 0x0f, 0x84, 0x1b, 0x00, 0xcd, 0xff}, 1, 0},             /* JE rel16 */
        {{0x66, 0x0f, 0x85, 0x1b, 0x00, 0xcd, 0xff}, 0, 0},             /* JNE rel16 */
        {{0x66, 0x74, 0x1d, 0xcd, 0xff}, 1, 0},                         /* JE rel8 */
        {{0x66, 0xe8, 0x1c, 0x00, 0xcd, 0xff}, 1, -2u},                 /* CALL rel16 */
        {{0x66, 0xff, 0xe6, 0xcd, 0xff}, 1, 0},                         /* JMP SI */
        {{0x66, 0xff, 0xd6, 0xcd, 0xff}, 1, -2u},                       /* CALL SI */
        {{0x66, 0x56, 0x66, 0xc3, 0xcd, 0xff}, 1, 0},                   /* PUSH SI, RET */
        {{0x66, 0x56, 0x66, 0x56, 0x66, 0xc2, 2, 0, 0xcd, 0xff}, 1, 0}, /* RET 2 */
        {{0x56, 0x66, 0xff, 0x24, 0x24, 0xcd, 0xff}, 1, -4u},           /* JMP word [ESP] */
        {{0x66, 0xe2, 0x1d, 0xcd, 0xff}, 1, 0},                         /* LOOP */
    };
    uint8_t *low = (uint8_t *)0x5000;
    for (size_t i = 0; i < COUNT(cases); i++) {
        memset(low, 0x90, 0x40);
        memcpy(low, cases[i].bytes, sizeof(cases[i].bytes));
        memcpy(low + 0x20, (const uint8_t[]){0xb0, 1, 0xcd, 0xff}, 4);
        IN(.eip = 0x5000, .esi = 0xabcd5020, .ecx = 3, .eflags = ZF,
           .esp = addr(kernel_stack_top) - 64);
        uint32_t want_esp = in.esp + cases[i].want_esp;
        go(CODE("nop"));
        CHECK(out.vector, DONE, "16-bit branch", i);
        CHECK(out.eax, cases[i].want_eax, "16-bit branch taken", i);
        CHECK(out.esp, want_esp, "16-bit branch esp", i);
        if (cases[i].want_esp == -2u)
            EQ(*(uint16_t *)(out.esp), 0x5000 + (cases[i].bytes[1] == 0xe8 ? 4 : 3));
    }
}

void guest_main(void)
{
    GROUP(conditions);
    GROUP(kept_by_branches);
    GROUP(used_after_branches);
    GROUP(arithmetic);
    GROUP(one_operand);
    GROUP(multiply);
    GROUP(decimal);
    GROUP(lahf_sahf_popf);
    GROUP(loops);
    GROUP(branches_16);
}
