/* operands64.c - registers and operand sizes of 64-bit mode: what a write of 8, 16 and 32 bits
 * leaves in the upper part, which byte registers a REX prefix means, exchanges, bit strings, BMI.
 *
 * SDM 1 3.4.1.1 (general-purpose registers in 64-bit mode), SDM 2 2.2.1.2; SDM 2: MOVSXD, MOVZX,
 * BSWAP, XCHG, CMPXCHG, CMPXCHG16B, XADD, BT ("bit offset"), LOCK, ANDN ... TZCNT, MUL, DIV, CQO.
 * Results come from C for every register in every operand's place. */
#include "guest64.h"

const char guest_name[] = "operands64";

static uint64_t memory[1024] USER __attribute__((aligned(4096)));
static uint8_t code[16 * 4096] USER_CODE;

static void random_registers(void)
{
    for (uint32_t r = 0; r < 16; r++)
        in.r[r] = random64() >> (random64() & 31);
}

/* Runs the `n` bytes at slot `slot` of `code`. */
static void run_bytes(uint32_t slot, const uint8_t *bytes, uint32_t n)
{
    uint8_t *p = code + slot % 2048 * 32;
    memcpy(p, bytes, n);
    memcpy(p + n, (const uint8_t[]){0xcd, DONE}, 2);
    in.rip = HERE(p);
    go(CODE("nop"));
    CHECK(out.vector, DONE, "vector", slot);
}

#define RUN_BYTES(slot, ...) \
    run_bytes(slot, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static void kept_but(uint32_t a, uint32_t b, uint64_t n)
{
    for (uint32_t r = 0; r < 16; r++)
        if (r != a && r != b)
            CHECK(out.r[r], in.r[r], "register kept", n);
}

/* ADD of every register to every register in four sizes; a REX prefix makes 4-7 spl, bpl, sil, dil.
 */
static void sizes(void)
{
    ist_all(1); /* rsp is an operand like the others */
    for (uint32_t to = 0; to < 16; to++)
        for (uint32_t from = 0; from < 16; from++) {
            uint32_t n = to * 16 + from;
            uint8_t rex = (uint8_t)(0x40 | from >> 3 << 2 | to >> 3);
            uint8_t modrm = (uint8_t)(0xc0 | (from & 7) << 3 | (to & 7));
            IN(.cs = pass_cs);
            random_registers();
            uint64_t a = in.r[to], b = in.r[from];
            RUN_BYTES(n, rex | 8, 0x01, modrm);
            CHECK(out.r[to], a + b, "add, 64 bits", n);
            kept_but(to, to, n);
            RUN_BYTES(n + 256, rex, 0x01, modrm);
            CHECK(out.r[to], (uint32_t)(a + b), "add, 32 bits", n);
            RUN_BYTES(n + 512, 0x66, rex, 0x01, modrm);
            CHECK(out.r[to], (a & ~0xffffull) | ((a + b) & 0xffff), "add, 16 bits", n);
            RUN_BYTES(n + 768, rex, 0x00, modrm);
            CHECK(out.r[to], (a & ~0xffull) | ((a + b) & 0xff), "add, 8 bits", n);
            kept_but(to, to, n);
            if (to < 8 && from < 8) { /* no REX: 4-7 are AH, CH, DH, BH */
                RUN_BYTES(n + 1024, 0x00, modrm);
                uint32_t tr = to & 3, fr = from & 3, ts = to & 4 ? 8 : 0, fs = from & 4 ? 8 : 0;
                uint64_t sum = (in.r[tr] >> ts) + (in.r[fr] >> fs);
                CHECK(out.r[tr], (in.r[tr] & ~(0xffull << ts)) | (sum & 0xff) << ts,
                      "add, high byte", n);
                kept_but(tr, tr, n);
            }
            /* XCHG, MOVZX, MOVSX, MOVSXD, CMOV, IMUL. */
            RUN_BYTES(n + 256, rex, 0x87, modrm);
            CHECK(out.r[to], to == from ? (uint32_t)a : (uint32_t)b, "xchg", n);
            CHECK(out.r[from], (uint32_t)a, "xchg", n);
            RUN_BYTES(n + 512, rex | 8, 0x86, modrm);
            if (to != from) {
                CHECK(out.r[to], (a & ~0xffull) | (b & 0xff), "xchg, 8 bits", n);
                CHECK(out.r[from], (b & ~0xffull) | (a & 0xff), "xchg, 8 bits", n);
            }
            RUN_BYTES(n + 768, rex | 8, 0x0f, 0xbe, modrm); /* reg is the destination */
            CHECK(out.r[from], (uint64_t)(int8_t)a, "movsx from 8 bits", n);
            RUN_BYTES(n + 1024, rex, 0x0f, 0xbf, modrm);
            CHECK(out.r[from], (uint32_t)(int16_t)a, "movsx from 16 bits", n);
            RUN_BYTES(n, rex | 8, 0x63, modrm);
            CHECK(out.r[from], (uint64_t)(int32_t)a, "movsxd", n);
            RUN_BYTES(n + 256, rex | 8, 0x0f, 0xb7, modrm);
            CHECK(out.r[from], a & 0xffff, "movzx from 16 bits", n);
            RUN_BYTES(n + 512, rex | 8, 0x0f, 0xaf, modrm);
            CHECK(out.r[from], a * b, "imul", n);
            RUN_BYTES(n + 768, rex | 8, 0x6b, modrm, 0x85);
            CHECK(out.r[from], a * -123ull, "imul with an immediate", n);
            RUN_BYTES(n + 1024, rex | 8, 0x0f, 0xc1, modrm);
            CHECK(out.r[to], a + b, "xadd", n);
            CHECK(out.r[from], to == from ? a + b : a, "xadd", n);
        }
}

/* One-operand instructions on every register. */
static void unary(void)
{
    ist_all(1);
    for (uint32_t r = 0; r < 16; r++) {
        uint8_t b = (uint8_t)(r >> 3), low = (uint8_t)(r & 7);
        IN(.cs = pass_cs, .rflags = CF);
        random_registers();
        uint64_t v = in.r[r], n = r;
        RUN_BYTES(r, 0x48 | b, 0x0f, 0xc8 | low);
        CHECK(out.r[r], __builtin_bswap64(v), "bswap", n);
        RUN_BYTES(r + 16, 0x40 | b, 0x0f, 0xc8 | low);
        CHECK(out.r[r], __builtin_bswap32((uint32_t)v), "bswap, 32 bits", n);
        RUN_BYTES(r + 32, 0x48 | b, 0xff, 0xc0 | low);
        CHECK(out.r[r], v + 1, "inc", n);
        CHECK(out.rflags & CF, CF, "inc", n);
        RUN_BYTES(r + 48, 0x40 | b, 0xff, 0xc8 | low);
        CHECK(out.r[r], (uint32_t)(v - 1), "dec, 32 bits", n);
        RUN_BYTES(r + 64, 0x48 | b, 0xf7, 0xd8 | low);
        CHECK(out.r[r], -v, "neg", n);
        RUN_BYTES(r + 80, 0x40 | b, 0xf6, 0xd0 | low);
        CHECK(out.r[r], v ^ 0xff, "not, 8 bits", n);
        RUN_BYTES(r + 96, 0x48 | b, 0xd3, 0xc0 | low); /* rol by cl */
        uint32_t count = (r == RCX ? v : in.rcx) & 63;
        CHECK(out.r[r], v << count | v >> (-count & 63), "rol", n);
        RUN_BYTES(r + 112, 0x48 | b, 0xc1, 0xf8 | low, 0x3f);
        CHECK(out.r[r], (uint64_t)((int64_t)v >> 63), "sar", n);
        RUN_BYTES(r + 128, 0x40 | b, 0xd1, 0xd0 | low); /* rcl by 1 */
        CHECK(out.r[r], (uint32_t)(v << 1 | 1), "rcl, 32 bits", n);
        CHECK(out.rflags & CF, v >> 31 & 1, "rcl, 32 bits", n);
        RUN_BYTES(r + 144, 0x48 | b, 0x81, 0xf0 | low, 0x78, 0x56, 0x34, 0x92);
        CHECK(out.r[r], v ^ 0xffffffff92345678, "xor with an immediate", n);
        RUN_BYTES(r + 160, 0x40 | b, 0xb8 | low, 0x78, 0x56, 0x34, 0x92);
        CHECK(out.r[r], 0x92345678, "mov imm32", n);
        RUN_BYTES(r + 176, 0x48 | b, 0xc7, 0xc0 | low, 0x78, 0x56, 0x34, 0x92);
        CHECK(out.r[r], 0xffffffff92345678, "mov sign-extended imm32", n);
        RUN_BYTES(r + 192, 0x40 | b, 0xb0 | low, 0x5a);
        CHECK(out.r[r], (v & ~0xffull) | 0x5a, "mov imm8", n);
        RUN_BYTES(r + 208, 0x66, 0x40 | b, 0xb8 | low, 0x5a, 0xa5);
        CHECK(out.r[r], (v & ~0xffffull) | 0xa55a, "mov imm16", n);
        RUN_BYTES(r + 224, 0x48 | b, 0x90 | low); /* xchg with rax; with r8 when REX.B */
        CHECK(out.rax, v, "xchg with rax", n);
        CHECK(out.r[r], r ? in.rax : v, "xchg with rax", n);
        RUN_BYTES(r + 240, 0x48 | b, 0xf7, 0xe0 | low); /* mul */
        unsigned __int128 product = (unsigned __int128)in.rax * v;
        CHECK(out.rax, (uint64_t)product, "mul", n);
        CHECK(out.rdx, (uint64_t)(product >> 64), "mul", n);
        if (r != RDX && r != RAX && v) {
            in.rdx = v > 5 ? 5 : 0;
            RUN_BYTES(r + 256, 0x48 | b, 0xf7, 0xf0 | low); /* div: checked by multiplying back */
            CHECK((unsigned __int128)out.rax * v + out.rdx ==
                      ((unsigned __int128)in.rdx << 64 | in.rax),
                  1, "div", n);
            CHECK(out.rdx < v, 1, "div", n);
        }
    }
    IN(.cs = pass_cs, .rax = 0x8765432187654321);
    OK("cqo; mov rbx, rdx; cdq; mov rcx, rdx; cwd; mov rsi, rdx; cbw; mov r8, rax; cwde; mov r9, "
       "rax; "
       "cdqe; mov r10, rax; xchg eax, eax; mov r11, rax; .byte 0x90; nop dword ptr [rax + rax]; "
       "xchg r8d, eax");
    EQ(out.rbx, -1ull);
    EQ(out.rcx, 0xffffffff);
    EQ(out.rsi, 0xffffffff0000 >> 16 & 0xffff0000);
    EQ(out.r8, (uint32_t)out.r10);
    EQ(out.r9, 0x21);
    EQ(out.r10, 0x21);
    EQ(out.r11, 0x21);
    EQ(out.rax, 0x87650021);
    /* 90h is NOP and leaves eax's upper half, 41h 90h is an exchange with r8d. */
    IN(.cs = pass_cs, .rax = 0x1111111122222222, .r8 = 0x3333333344444444);
    OK(".byte 0x90; .byte 0x48, 0x90; .byte 0xf3, 0x90; .byte 0x40, 0x90; mov rbx, rax; .byte "
       "0x41, "
       "0x90");
    EQ(out.rbx, in.rax);
    EQ(out.rax, 0x44444444);
    EQ(out.r8, 0x22222222);
}

static void high_bytes(void)
{
    uint8_t *m = (uint8_t *)memory;
    for (uint32_t i = 0; i < 256; i++)
        m[i] = (uint8_t)(i * 37 + 1);
    IN(.cs = pass_cs, .rsi = HERE(memory), .r12 = HERE(memory), .fs_base = HERE(memory),
       .rax = 0xaaaaaaaaaaaaaaaa, .rbx = 0xbbbbbbbbbbbbbbbb, .rcx = 0xcccccccccccccccc,
       .rdx = 0xdddddddddddddddd, .rdi = 0x1122334455667788);
    OK("mov ah, [rsi + 1]; mov ch, [rsi + 2]; mov dh, [rip + memory + 3]; mov bh, fs:[4]; mov dil, "
       "[r12 + "
       "5]; mov r9b, [r12 + 6]; mov bpl, ds:[memory + 7]");
    EQ(out.rax, (in.rax & ~0xff00ull) | (uint64_t)m[1] << 8);
    EQ(out.rcx, (in.rcx & ~0xff00ull) | (uint64_t)m[2] << 8);
    EQ(out.rdx, (in.rdx & ~0xff00ull) | (uint64_t)m[3] << 8);
    EQ(out.rbx, (in.rbx & ~0xff00ull) | (uint64_t)m[4] << 8);
    EQ(out.rdi, (in.rdi & ~0xffull) | m[5]);
    EQ(out.r9, m[6]);
    EQ(out.rbp, m[7]);
    OK("add [rsi + 16], ah; sub ch, [rsi + 17]; xor [rip + memory + 18], dh; cmp fs:[19], bh; sete "
       "bl; "
       "xchg [rsi + 20], ch; lock xadd [rsi + 21], dh; setc [rsi + 22]; test [rsi + 23], ah; movzx "
       "r8d, "
       "byte ptr [rsi + 24]; movsx r9, byte ptr [rsi + 25]; movzx r10, word ptr [rsi + 26]; mov "
       "byte ptr "
       "[rsi + 27], 0x80; shr ah, 1; mul ah; movzx r11d, bpl; cmpxchg [rsi + 28], bh");
    EQ(m[16], (uint8_t)(16 * 37 + 1 + 0xaa));
    EQ(m[18], (uint8_t)((18 * 37 + 1) ^ 0xdd));
    EQ(m[20], (uint8_t)(0xcc - (17 * 37 + 1)));
    EQ(out.rcx >> 8 & 0xff, (uint8_t)(20 * 37 + 1));
    EQ(m[21], (uint8_t)(21 * 37 + 1 + 0xdd));
    EQ(out.rdx >> 8 & 0xff, (uint8_t)(21 * 37 + 1));
    EQ(out.r8, m[24]);
    EQ(out.r9, (uint64_t)(int8_t)m[25]);
    EQ(out.r10, m[26] | (uint64_t)(uint8_t)(27 * 37 + 1) << 8);
    EQ(m[27], 0x80);
    IN(.cs = pass_cs, .rcx = 500, .rsi = HERE(memory), .rax = 0, .rbx = 0);
    OK("1: mov bh, [rsi + rcx]; add ah, bh; adc al, 0; mov [rsi + rcx + 512], ah; movzx edx, ah; "
       "lea r8, [r8 "
       "+ rdx]; loop 1b");
    uint32_t ah = 0, al = 0, sum = 0;
    for (uint32_t c = 500; c; c--) {
        ah += m[c];
        al = (al + (ah >> 8)) & 0xff;
        ah &= 0xff;
        sum += ah;
    }
    EQ(out.rax, ah << 8 | al);
    EQ(out.r8, sum);
}

static void exchanges(void)
{
    for (uint32_t where = 0; where < 3; where++) {
        uint64_t offset = (const uint32_t[]){0, 3, 4096 - 3}[where];
        uint64_t *m = (uint64_t *)(addr(memory) + offset), at = HERE(memory) + offset;
        *m = 0x1122334455667788;
        IN(.rax = 0x1122334455667788, .r9 = 0xabcdef0123456789, .r13 = at, .cs = pass_cs);
        OK("lock cmpxchg [r13], r9; setz cl; lock cmpxchg [r13], r9; setz ch");
        EQ(out.rcx, 1);
        EQ(out.rax, in.r9);
        EQ(*m, in.r9);
        in.rax = 0xffffffff23456789, in.r15 = 0x55aa55aa55aa55aa;
        OK("lock cmpxchg [r13], r15d; setz cl; mov rbx, rax; lock cmpxchg [r13], r12d");
        EQ(out.rcx, 1);
        EQ(*m, 0xabcdef0155aa55aa);
        EQ(out.rbx, 0xffffffff23456789); /* equal: EAX is not written */
        EQ(out.rax, 0x55aa55aa);
        *m = 10;
        IN(.rax = 5, .rcx = -1ull, .r8 = at, .r11 = 3, .cs = pass_cs);
        OK("lock add [r8], rax; lock inc qword ptr [r8]; lock dec word ptr [r8]; lock neg qword "
           "ptr [r8]; "
           "lock not qword ptr [r8]; lock or byte ptr [r8 + 1], 1; lock and [r8], rcx; lock xor "
           "[r8], rax; "
           "lock sub qword ptr [r8], 1; lock adc [r8], rax; lock sbb byte ptr [r8], 0; lock xadd "
           "[r8], r11; "
           "mov rdx, [r8]; xchg [r8], rax; lock add dword ptr [r8], 0x10000; lock bts qword ptr "
           "[r8], 63; "
           "lock btr dword ptr [r8 + 4], 31; setc bl; lock btc qword ptr [r8], 40");
        EQ(out.rax, ((14 | 0x100) ^ 5) - 1 + 5 + 3);
        EQ(out.rdx, out.rax);
        EQ(out.r11, ((14 | 0x100) ^ 5) - 1 + 5);
        EQ(*m, 0x10005 | 1ull << 40);
        EQ(out.rbx, 1);
        *m = 0x8877665544332211;
        IN(.rax = 0x44332211, .rdx = 0x88776655, .rbx = 0x1, .rcx = 0x2, .r14 = at, .cs = pass_cs);
        OK("lock cmpxchg8b [r14]; setz r9b; cmpxchg8b [r14]");
        EQ(out.r9, 1);
        EQ(*m, 0x200000001);
        EQ(out.rax, 1);
        EQ(out.rdx, 2);
    }
    if (cpuid(1, 0).ecx >> 13 & 1) {
        for (uint32_t i = 0; i < 2; i++) {
            memory[2] = 0x1111111111111111, memory[3] = 0x2222222222222222;
            IN(.rax = 0x1111111111111111, .rdx = 0x2222222222222222 + i, .rbx = 3, .rcx = 4,
               .r12 = HERE(memory), .rflags = CF | SF, .cs = pass_cs);
            OK("lock cmpxchg16b [r12 + 16]");
            EQ(out.rflags, CF | SF | 2 | (i ? 0u : ZF));
            EQ(memory[2], i ? 0x1111111111111111 : 3);
            EQ(memory[3], i ? 0x2222222222222222 : 4);
            EQ(out.rdx, 0x2222222222222222);
            EQ(out.rax, 0x1111111111111111);
            OK("cmpxchg16b [rip + memory + 16]; cmpxchg16b [r12 + 16]");
            UNLESS_QEMU(ALIGN16) FAULT("cmpxchg16b [r12 + 8]", GP, 0); /* not aligned to 16 */
        }
        IN(.cs = pass_cs, .r15 = HERE(memory), .r8 = 1000);
        memory[0] = memory[1] = 0;
        OK("1: mov rax, [r15]; mov rdx, [r15 + 8]; 2: mov rbx, rax; mov rcx, rdx; add rbx, 1; adc "
           "rcx, 3; lock "
           "cmpxchg16b [r15]; jnz 2b; dec r8; jnz 1b");
        EQ(memory[0], 1000);
        EQ(memory[1], 3000);
    }
    IN(.rsi = HERE(memory), .cs = pass_cs);
    UNLESS_QEMU(LOCK)
    {
        FAULT(".byte 0xf0, 0x48, 0x89, 0x06", UD, 0);       /* LOCK MOV */
        FAULT(".byte 0xf0, 0x48, 0x0f, 0xa3, 0x06", UD, 0); /* LOCK BT */
    }
    FAULT(".byte 0xf0, 0x4c, 0x01, 0xc0", UD, 0); /* LOCK ADD to a register */
    FAULT(".byte 0xf0, 0x48, 0x3b, 0x06", UD, 0); /* LOCK CMP */
    FAULT(".byte 0xf0, 0x4c, 0x03, 0x06", UD, 0); /* LOCK ADD from memory */
    FAULT(".byte 0x4d, 0x8d, 0xc0", UD, 0);       /* LEA of a register */
}

/* A register bit offset is a signed 64-bit index into a bit string that starts at the operand. */
static void bit_offsets(void)
{
    static const int64_t offsets[] = {0,  1,   7,   31,  32,    33,    63,     64,   65,
                                      -1, -32, -63, -64, -4096, 16383, -16384, 1000, 12345};
    for (size_t i = 0; i < COUNT(offsets); i++) {
        uint64_t bit = (uint64_t)offsets[i] + 16384, *word = &memory[bit / 64],
                 mask = 1ull << bit % 64;
        memset(memory, 0, 4096);
        IN(.rax = (uint64_t)offsets[i], .r11 = (uint64_t)offsets[i], .rbx = HERE(memory) + 2048,
           .r13 = HERE(memory) + 2048, .cs = pass_cs, .rflags = ZF | SF);
        OK("bts [rbx], rax; setc cl; bt [r13], r11; setc ch");
        EQ(out.rcx, 0x100);
        EQ(*word, mask);
        OK("lock btc [r13], rax; setc cl; bt [rbx], r11; setc ch; lock btc [rbx], r11; lock btr "
           "[r13], rax; "
           "setc dl; bts [rip + memory + 2048], r11; btr [rip + memory + 2048], r11; setc dh");
        EQ(out.rcx, 1);
        EQ(out.rdx, 0x101);
        EQ(*word, 0);
        in.rax = (uint32_t)offsets[i] | 0xabcdef0100000000;
        OK("bts dword ptr [rbx], eax; setc cl; bts [rbx], eax; setc ch"); /* 32 bits, signed */
        EQ(out.rcx, 0x100);
        EQ(*word, mask);
        *word = 0;
        in.rax |= 0xffff0000;
        int64_t near = (int16_t)in.rax;
        OK("bts [r13], ax; setc cl");
        EQ(memory[(uint64_t)(near + 16384) / 64], 1ull << ((uint64_t)near % 64));
    }
    /* Far: the offset reaches everywhere. From operands in other slots and in the other half. */
    static const uint64_t far_away[] = {0x10000000000,  0x3456789000,       0xfffff00000000000,
                                        0x7f0000000000, 0xffffffff00000000, 0x123456780};
    for (size_t i = 0; i < COUNT(far_away); i++) {
        memset(memory, 0, 64);
        uint64_t operand = HERE(memory) + 16 - far_away[i];
        IN(.rax = (far_away[i] << 3) + 5, .r9 = (far_away[i] << 3) + 64, .r14 = operand,
           .rcx = operand, .rdx = 3, .cs = pass_cs);
        if ((int64_t)(far_away[i] << 3) >> 3 != (int64_t)far_away[i])
            continue;
        OK("bts [r14], rax; setc bl; bts [rcx + rdx * 8 - 24], r9; setc bh; lock bts [r14], rax; "
           "setc sil; bt [r14], "
           "r9; setc dil");
        EQ(out.rbx, 0);
        EQ(out.rsi, 1);
        EQ(out.rdi, 1);
        EQ(memory[2], 1 << 5);
        EQ(memory[3], 1);
    }
    IN(.cs = pass_cs, .rax = 37 + 64 * 5, .r10 = 100, .gs_base = HERE(memory));
    memset(memory, 0, 64);
    OK("bts gs:[0], rax; bts r8, rax; bts r9d, eax; bts r11w, ax; btc r12, r10; bts qword ptr "
       "gs:[8], 63; bts dword "
       "ptr [rip + memory + 16], 33; bt rax, r10; setc bl");
    EQ(memory[5], 1ull << 37);
    EQ(memory[1], 1ull << 63);
    EQ(memory[2], 2);
    EQ(out.r8, 1ull << 37);
    EQ(out.r9, 1 << 5);
    EQ(out.r11, 1 << 5);
    EQ(out.r12, 1ull << 36);
    EQ(out.rbx, 0);
    IN(.cs = pass_cs, .rcx = 4000, .r15 = HERE(memory));
    memset(memory, 0, 1024);
    OK("1: imul rax, rcx, 7919; and eax, 4095; bts [r15], rax; adc rbx, 0; loop 1b");
    uint64_t doubles = 0;
    static uint8_t seen[4096];
    memset(seen, 0, sizeof(seen));
    for (uint32_t c = 4000; c; c--)
        doubles += seen[c * 7919 & 4095]++ != 0;
    EQ(out.rbx, doubles);
}

enum { ANDN, BZHI, BEXTR, SARX, SHLX, SHRX, PDEP, PEXT, MULX, BMI_KINDS };

static uint64_t bmi(uint32_t kind, uint64_t v, uint64_t rm, uint32_t width, uint64_t rdx)
{
    uint64_t mask = width == 64 ? ~0ull : 0xffffffff, r = 0;
    uint32_t n = 0, count = (uint32_t)v & (width - 1), start = v & 0xff, length = v >> 8 & 0xff;
    v &= mask, rm &= mask;
    switch (kind) {
    case ANDN:
        return ~v & rm & mask;
    case BZHI:
        return start < width ? rm & ((1ull << start) - 1) : rm;
    case BEXTR:
        rm = start < width ? rm >> start : 0;
        return length < 64 ? rm & ((1ull << length) - 1) : rm;
    case SARX:
        return (width == 64 ? (uint64_t)((int64_t)rm >> count) : (uint32_t)((int32_t)rm >> count));
    case SHLX:
        return rm << count & mask;
    case SHRX:
        return rm >> count;
    case PDEP:
        for (uint32_t i = 0; i < width; i++)
            if (rm >> i & 1)
                r |= (v >> n++ & 1) << i;
        return r;
    case PEXT:
        for (uint32_t i = 0; i < width; i++)
            if (rm >> i & 1)
                r |= (v >> i & 1) << n++;
        return r;
    default:
        return (uint64_t)(((unsigned __int128)(rdx & mask) * rm) >> width);
    }
}

/* VEX forms with every register as destination, first and second source; from memory too. */
static void bmi_registers(void)
{
    if (!(cpuid(7, 0).ebx >> 3 & 1) || !(cpuid(7, 0).ebx >> 8 & 1))
        return;
    ist_all(1);
    static const struct {
        uint8_t pp, opcode;
        bool swapped; /* VEX.vvvv is the count, r/m the value; else vvvv is the first source */
    } ops[] = {{0, 0xf2, false}, {0, 0xf5, true},  {0, 0xf7, true},
               {2, 0xf7, true},  {1, 0xf7, true},  {3, 0xf7, true},
               {3, 0xf5, false}, {2, 0xf5, false}, {3, 0xf6, false}};
    for (uint32_t n = 0; n < 16 * 16 * 4; n++) {
        uint32_t to = n & 15, v = n >> 4 & 15, rm = (n * 7 + n / 64 + (uint32_t)rep) & 15;
        uint32_t kind = (n / 16 + (uint32_t)rep + n) % BMI_KINDS;
        bool wide = n >> 8 & 1, memory_operand = n >> 9 & 1;
        IN(.cs = pass_cs);
        random_registers();
        in.r[v] = random64() & 1 ? in.r[v] : in.r[v] & 0x3f3f;
        if (memory_operand)
            in.r[rm] = HERE(memory) + 24;
        memory[3] = random64();
        uint64_t b = memory_operand ? memory[3] : in.r[rm];
        uint8_t vex1 = (uint8_t)((to & 8 ? 0 : 0x80) | 0x40 | (rm & 8 ? 0 : 0x20) | 2);
        uint8_t vex2 = (uint8_t)((wide ? 0x80 : 0) | (~v & 15) << 3 | ops[kind].pp);
        if (memory_operand && (rm & 7) == 4)
            RUN_BYTES(n, 0xc4, vex1, vex2, ops[kind].opcode, 0x44 | (to & 7) << 3, 0x24, 0);
        else
            RUN_BYTES(n, 0xc4, vex1, vex2, ops[kind].opcode,
                      (memory_operand ? 0x40 : 0xc0) | (to & 7) << 3 | (rm & 7),
                      memory_operand ? 0 : 0x90);
        uint64_t want = bmi(kind, in.r[v], b, wide ? 64 : 32, in.rdx);
        CHECK(out.r[to], want, "bmi", n * 16 + kind);
        if (kind == MULX && v != to)
            CHECK(out.r[v], wide ? in.rdx * b : (uint32_t)(in.rdx * b), "mulx, low half", n);
        kept_but(to, kind == MULX ? v : to, n);
    }
    IN(.cs = pass_cs, .r8 = 0x8000000000000100, .r9 = 0xf0f0f0f0f0f0f0f0, .r13 = 0x0123456789abcdef,
       .rflags = CF);
    OK("rorx rax, r13, 4; rorx r14d, r13d, 8; blsi rcx, r9; blsr rdx, r9; blsmsk r10, r9; lzcnt "
       "r11, r8; tzcnt r12, r8; "
       "popcnt r15, r9; lzcnt esi, r8d; tzcnt edi, [rip + 1f]; jmp 2f; 1: .long 0x40; 2: bsr rbx, "
       "r8; bsf rbp, r8");
    EQ(out.rax, 0xf0123456789abcde);
    EQ(out.r14, 0xef89abcd);
    EQ(out.rcx, 0x10);
    EQ(out.rdx, 0xf0f0f0f0f0f0f0e0);
    EQ(out.r10, 0x1f);
    EQ(out.r11, 0);
    EQ(out.r12, 8);
    EQ(out.r15, 32);
    EQ(out.rsi, 23);
    EQ(out.rdi, 6);
    EQ(out.rbx, 63);
    EQ(out.rbp, 8);
    if (cpuid(7, 0).ebx >> 19 & 1) {
        IN(.cs = pass_cs, .r8 = -1ull, .r9 = 1, .r10 = 5, .r11 = 7, .rflags = 0);
        OK("adcx r8, r9; adox r10, r11; setc al; seto bl; adox r8, r8; adcx r11, r11");
        EQ(out.rax, 1);
        EQ(out.rbx, 0);
        EQ(out.r10, 12);
        EQ(out.r11, 15);
    }
    if (cpuid(1, 0).ecx >> 22 & 1) {
        memory[0] = 0x0102030405060708;
        IN(.cs = pass_cs, .r12 = HERE(memory), .r9 = 0x1122334455667788);
        OK("movbe r10, [r12]; movbe r13d, [r12]; movbe [r12 + 8], r9; movbe [r12 + 16], r9w");
        EQ(out.r10, 0x0807060504030201);
        EQ(out.r13, 0x08070605);
        EQ(memory[1], 0x8877665544332211);
        EQ(memory[2] & 0xffff, 0x8877);
    }
}

/* ADC, SBB and shifts keep their flags through a loop with all registers. */
static void wide_arithmetic(void)
{
    for (uint32_t i = 0; i < 64; i++)
        memory[i] = random64();
    IN(.cs = pass_cs, .rsi = HERE(memory), .rdi = HERE(memory) + 256, .r8 = HERE(memory) + 2048,
       .rcx = 32);
    OK("clc; 1: mov rax, [rsi]; adc rax, [rdi]; mov [r8], rax; lea rsi, [rsi + 8]; lea rdi, [rdi + "
       "8]; lea r8, [r8 + 8]; "
       "loop 1b; setc r9b");
    uint64_t carry = 0, wrong = 0;
    for (uint32_t i = 0; i < 32; i++) {
        unsigned __int128 sum = (unsigned __int128)memory[i] + memory[i + 32] + carry;
        wrong += memory[256 + i] != (uint64_t)sum;
        carry = (uint64_t)(sum >> 64);
    }
    EQ(wrong, 0);
    EQ(out.r9, carry);
    /* Fibonacci modulo 2^64, handed on through all registers but rsp and rcx. */
    IN(.cs = pass_cs, .rax = 0, .rbx = 1, .rcx = 30);
    OK("1: lea rdx, [rax + rbx]; mov rsi, rbx; add rsi, rdx; lea rdi, [rdx + rsi]; mov r8, rdi; "
       "add r8, rsi; lea r9, [r8 + "
       "rdi]; mov r10, r8; add r10, r9; lea r11, [r9 + r10]; mov r12, r11; add r12, r10; lea r13, "
       "[r11 + r12]; lea r14, "
       "[r12 + r13]; mov r15, r13; add r15, r14; lea rbp, [r15 + r14]; mov rax, r15; mov rbx, rbp; "
       "loop 1b");
    uint64_t a = 0, b = 1;
    for (uint32_t i = 0; i < 30; i++)
        for (uint32_t k = 0; k < 12; k++) {
            uint64_t next = a + b;
            a = b, b = next;
        }
    EQ(out.rax, a);
    EQ(out.rbx, b);
}

void guest_main(void)
{
    GROUP(sizes);
    GROUP(unary);
    GROUP(high_bytes);
    GROUP(exchanges);
    GROUP(bit_offsets);
    GROUP(bmi_registers);
    GROUP(wide_arithmetic);
}
