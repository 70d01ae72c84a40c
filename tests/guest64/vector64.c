/* vector64.c - SSE, AVX and AVX-512 in 64-bit mode: all registers, memory operands by all bases and
 * indices.
 *
 * SDM 2 2.2 (REX), 2.3 (VEX), 2.7 (EVEX: disp8*N, broadcast, masks), 2.3.12 (VSIB), SDM 2: the
 * instructions, GATHER and SCATTER (faults in the middle, fault suppression by masks), MASKMOVDQU,
 * FXSAVE, XSAVE; SDM 3A 2.6 (XCR0). programs() generates random sequences of lane-wise integer
 * operations over all registers and compares with C. Runs what CPUID and XCR0 offer. */
#include "guest64.h"

const char guest_name[] = "vector64";

static uint8_t source[4096] USER __attribute__((aligned(4096)));
static uint8_t target[4096] USER __attribute__((aligned(4096)));
static uint8_t save[4096] USER __attribute__((aligned(4096)));
static uint8_t code[16 * 4096] USER_CODE;
static uint64_t xcr0;
static bool avx, avx2, avx512;

static void fill(void)
{
    for (uint32_t i = 0; i < sizeof(source); i += 8) {
        uint64_t value = random64();
        memcpy(source + i, &value, 8);
    }
    memset(target, 0x5a, sizeof(target));
}

#define XMM   "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15"
#define XMM32 XMM ",16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31"

/* Loads and stores of all registers by every base and with every index. */
static void by_register(const struct snip *base[], const struct snip *index[], uint32_t bytes)
{
    ist_all(1);
    for (uint32_t r = 0; r < 16; r++) {
        if (r == RSP)
            continue;
        fill();
        IN(.cs = pass_cs, .fs_base = HERE(source));
        OKS(base[r]);
        CHECK(memcmp(source, target, bytes), 0, "by a base", r);
        CHECK(target[bytes], 0x5a, "by a base", r);
        fill();
        IN(.cs = pass_cs, .rsp = HERE(source), .rbp = HERE(source));
        OKS(index[r]);
        CHECK(memcmp(source, target, bytes), 0, "with an index", r);
    }
}

static void sse(void)
{
#define SSE_BASE(r, b)                                                                            \
    "lea " r ", [rip + source]; .irp n," XMM "; movups xmm\\n, [" r " + \\n * 16]; .endr; lea " r \
    ", [rip + target - 1024]; .irp n," XMM "; movdqu [" r                                         \
    " + \\n * 16 + 1024], xmm\\n; .endr; lea " r ", [rip + source]; .irp n," XMM                  \
    "; pxor xmm\\n, [" r " + \\n * 16]; .endr"
#define SSE_INDEX(r, b)                                                   \
    "mov " r ", 4; .irp n," XMM "; movaps xmm\\n, [rsp + " r              \
    " * 8 + \\n * 16 - 32]; .endr; add " r ", 12; .irp n," XMM            \
    "; movaps [rip + target + \\n * 16], xmm\\n; paddb xmm\\n, [rsp + " r \
    " * 2 + \\n * 16 - 32]; .endr"
    const struct snip *base[] = EACH_REGISTER_BUT_RSP(SSE_BASE),
                      *index[] = EACH_REGISTER_BUT_RSP(SSE_INDEX);
    by_register(base, index, 256);
}

static void avx_moves(void)
{
    if (!avx)
        return;
#define AVX_BASE(r, b)                                                                             \
    "lea " r ", [rip + source]; .irp n," XMM "; vmovups ymm\\n, [" r " + \\n * 32]; .endr; lea " r \
    ", [rip + target - 1024]; .irp n," XMM "; vmovdqu [" r " + \\n * 32 + 1024], ymm\\n; .endr"
#define AVX_INDEX(r, b)                                        \
    "mov " r ", 4; .irp n," XMM "; vmovaps ymm\\n, [rsp + " r  \
    " * 8 + \\n * 32 - 32]; .endr; add " r ", 12; .irp n," XMM \
    "; vmovaps [rip + target + \\n * 32], ymm\\n; .endr; vaddps ymm9, ymm10, [rsp + " r " * 4]"
    const struct snip *base[] = EACH_REGISTER_BUT_RSP(AVX_BASE),
                      *index[] = EACH_REGISTER_BUT_RSP(AVX_INDEX);
    by_register(base, index, 512);
    /* Writes of xmm by VEX clear the upper half, by legacy SSE leave it. */
    fill();
    IN(.cs = pass_cs, .r12 = HERE(source), .r13 = HERE(target));
    OK("vmovups ymm8, [r12]; vmovups ymm15, [r12]; movups xmm8, [r12 + 32]; vmovups xmm15, [r12 + "
       "32]; vmovups [r13], ymm8; vmovups [r13 + 32], ymm15; vmovups "
       "ymm9, [r12]; vzeroupper; vmovups [r13 + 64], ymm9; vmovups ymm3, [r12]; vzeroall; vmovups "
       "[r13 + 96], ymm3; vmovups [r13 + 128], xmm3");
    CHECK(memcmp(target, source + 32, 16) | memcmp(target + 16, source + 16, 16), 0, "legacy", 0);
    static const uint8_t zero[32];
    CHECK(memcmp(target + 32, source + 32, 16) | memcmp(target + 48, zero, 16), 0, "VEX", 0);
    CHECK(memcmp(target + 64, source, 16) | memcmp(target + 80, zero, 16), 0, "vzeroupper", 0);
    CHECK(memcmp(target + 96, zero, 32), 0, "vzeroall", 0);
}

static void avx512_moves(void)
{
    if (!avx512)
        return;
#define ZMM_BASE(r, b)                                                                       \
    "lea " r ", [rip + source]; .irp n," XMM32 "; vmovups zmm\\n, [" r                       \
    " + \\n * 64]; .endr; lea " r ", [rip + target + 1024]; .irp n," XMM32 "; vmovdqu64 [" r \
    " + \\n * 64 - 1024], zmm\\n; .endr"
#define ZMM_INDEX(r, b)                                                                  \
    "mov " r ", 8; .irp n," XMM32 "; vmovaps zmm\\n, [rsp + " r                          \
    " * 8 + \\n * 64 - 64]; .endr; add " r ", 8; .irp n," XMM32                          \
    "; vmovaps [rip + target + \\n * 64], zmm\\n; .endr; vpaddd zmm19, zmm20, [rsp + " r \
    " * 4]; vpaddd zmm18, zmm21, dword ptr [rsp + " r " * 4 + 4]%{1to16%}"
    const struct snip *base[] = EACH_REGISTER_BUT_RSP(ZMM_BASE),
                      *index[] = EACH_REGISTER_BUT_RSP(ZMM_INDEX);
    by_register(base, index, 2048);
}

/* Random programs over all registers: VPADDD, VPSUBD, VPXOR, VPAND, VPADDQ, with registers and
 * memory. */
enum { OPS = 5 };
static const uint8_t opcodes[OPS] = {0xfe, 0xfa, 0xef, 0xdb, 0xd4};

struct width {
    uint32_t bytes, registers;
};

static uint64_t lane(uint32_t op, uint64_t a, uint64_t b)
{
    uint64_t low = op == 0 ? a + b : a - b,
             high = op == 0 ? (a >> 32) + (b >> 32) : (a >> 32) - (b >> 32);
    switch (op) {
    case 2:
        return a ^ b;
    case 3:
        return a & b;
    case 4:
        return a + b;
    default:
        return high << 32 | (uint32_t)low;
    }
}

/* op d, v, rm, or op d, v, [base + disp8 * bytes]; d = v for legacy SSE. base < 0: a register. */
static uint8_t *emit(uint8_t *p, uint32_t bytes, uint32_t op, uint32_t d, uint32_t v, uint32_t rm,
                     int base, int8_t disp)
{
    uint32_t b = base < 0 ? rm : (uint32_t)base, extra = base < 0 ? rm >> 4 & 1 : 0;
    if (bytes == 16) {
        *p++ = 0x66;
        *p++ = (uint8_t)(0x40 | d >> 3 << 2 | b >> 3);
        *p++ = 0x0f;
    } else if (bytes == 32) {
        *p++ = 0xc4;
        *p++ = (uint8_t)((d & 8 ? 0 : 0x80) | 0x40 | (b & 8 ? 0 : 0x20) | 1);
        *p++ = (uint8_t)((~v & 15) << 3 | 5);
    } else {
        *p++ = 0x62;
        *p++ = (uint8_t)((d & 8 ? 0 : 0x80) | (extra ? 0 : 0x40) | (b & 8 ? 0 : 0x20) |
                         (d & 16 ? 0 : 0x10) | 1);
        *p++ = (uint8_t)((op >= 2 ? 0x80 : 0) | (~v & 15) << 3 | 5);
        *p++ = (uint8_t)(0x40 | (v & 16 ? 0 : 8));
    }
    *p++ = opcodes[op];
    *p++ = (uint8_t)((base < 0 ? 0xc0 : 0x40) | (d & 7) << 3 | (b & 7));
    if (base >= 0 && (b & 7) == 4)
        *p++ = 0x24;
    if (base >= 0)
        *p++ = (uint8_t)(bytes == 64 ? disp : disp * (int)bytes);
    return p;
}

/* Loads or stores register n at [rip-independent r8 = memory] + n * bytes: VMOVDQU. */
static uint8_t *emit_move(uint8_t *p, uint32_t bytes, uint32_t n, bool store)
{
    uint8_t opcode = store ? 0x7f : 0x6f;
    int32_t disp = (int32_t)(n * bytes);
    if (bytes == 16) {
        *p++ = 0xf3;
        *p++ = (uint8_t)(0x41 | n >> 3 << 2);
        *p++ = 0x0f;
    } else if (bytes == 32) {
        *p++ = 0xc4;
        *p++ = (uint8_t)((n & 8 ? 0 : 0x80) | 0x41);
        *p++ = 0x7e;
    } else {
        *p++ = 0x62;
        *p++ = (uint8_t)((n & 8 ? 0 : 0x80) | 0x41 | (n & 16 ? 0 : 0x10));
        *p++ = 0xfe;
        *p++ = 0x48;
    }
    *p++ = opcode;
    *p++ = (uint8_t)(0x80 | (n & 7) << 3);
    memcpy(p, &disp, 4);
    return p + 4;
}

static void programs(uint32_t bytes, uint32_t registers)
{
    enum { LENGTH = 60 };
    static uint64_t x[32][8];
    ist_all(1); /* rsp is a base like the others */
    for (uint32_t round = 0; round < 6; round++) {
        fill();
        memcpy(x, source, 0);
        for (uint32_t n = 0; n < registers; n++)
            memcpy(x[n], source + n * bytes, bytes);
        uint8_t *p = code + (bytes / 32 * 6 + round) * 2048, *first = p;
        IN(.cs = pass_cs, .rip = HERE(p));
        for (uint32_t r = 0; r < 16; r++)
            in.r[r] = HERE(source) + 1024 + r * 64;
        in.r8 = HERE(source);
        for (uint32_t n = 0; n < registers; n++)
            p = emit_move(p, bytes, n, false);
        for (uint32_t i = 0; i < LENGTH; i++) {
            uint32_t op = (uint32_t)random64() % OPS, d = (uint32_t)random64() % registers,
                     v = (uint32_t)random64() % registers, rm = (uint32_t)random64() % registers;
            int base = random64() & 1 ? -1 : (int)(random64() & 15);
            int8_t disp = base == R8 ? (int8_t)(random64() & 1) : (int8_t)((random64() & 3) - 2);
            if (bytes == 16)
                v = d;
            uint64_t b[8], *r = x[v];
            if (base < 0)
                memcpy(b, x[rm], bytes);
            else
                memcpy(b, (uint8_t *)(in.r[base] - pass_base) + disp * (int)bytes, bytes);
            for (uint32_t k = 0; k < bytes / 8; k++)
                x[d][k] = lane(op, r[k], b[k]);
            p = emit(p, bytes, op, d, v, rm, base, disp);
        }
        p = memcpy(p, (const uint8_t[]){0x49, 0xb8}, 2); /* movabs r8, target */
        uint64_t at = HERE(target);
        memcpy(p + 2, &at, 8);
        p += 10;
        for (uint32_t n = 0; n < registers; n++)
            p = emit_move(p, bytes, n, true);
        memcpy(p, (const uint8_t[]){0xcd, DONE}, 2);
        CHECK(addr(p) - addr(first) < 2048, 1, "room", round);
        for (int hot = 0; hot < 3; hot++) {
            memset(target, 0, sizeof(target));
            go(CODE("nop"));
            CHECK(out.vector, DONE, "program", round);
            for (uint32_t n = 0; n < registers; n++)
                CHECK(memcmp(target + n * bytes, x[n], bytes), 0, "register", n);
        }
    }
}

static void random_sse(void)
{
    programs(16, 16);
}

static void random_avx2(void)
{
    if (avx2)
        programs(32, 16);
}

static void random_avx512(void)
{
    if (avx512)
        programs(64, 32);
}

/* General registers and vector registers together; odd memory forms. */
static void mixed(void)
{
#define MIXED(r, b)                                                                          \
    "mov " r ", -123456789012; cvtsi2sd xmm9, " r "; cvttsd2si " r ", xmm9; movq xmm15, " r  \
    "; movq xmm8, xmm15; movq " r ", xmm8; movq [rip + target], xmm8; lea " r                \
    ", [rip + target]; movq xmm1, [" r "]; movhps xmm1, [" r " + 8]; movlps [" r             \
    " + 16], xmm1; movhps [" r " + 24], xmm1; movd dword ptr [" r                            \
    " + 32], xmm8; cvtsi2ss xmm10, dword ptr [" r "]; movss [" r " + 36], xmm10; movnti [" r \
    " + 40], " r "; pextrw [" r " + 48], xmm8, 1; pinsrw xmm11, word ptr [" r                \
    " + 2], 5; movdqu [" r " + 64], xmm11; movq " r ", xmm8"
    const struct snip *snips[] = EACH_REGISTER_BUT_RSP(MIXED);
    uint64_t value = -123456789012ull;
    for (uint32_t r = 0; r < 16; r++) {
        if (r == RSP)
            continue;
        fill();
        IN(.cs = pass_cs);
        OKS(snips[r]);
        uint64_t words[16];
        memcpy(words, target, sizeof(words));
        CHECK(out.r[r], value, "register", r);
        CHECK(words[0], value, "movq", r);
        CHECK(words[2], value, "movlps", r);
        CHECK(words[3], 0x5a5a5a5a5a5a5a5a, "movhps", r);
        CHECK((uint32_t)words[4], (uint32_t)value, "movd", r);
        CHECK(words[5], HERE(target), "movnti", r);
        CHECK(words[6] & 0xffff, value >> 16 & 0xffff, "pextrw", r);
        CHECK(words[9] >> 16 & 0xffff, value >> 16 & 0xffff, "pinsrw", r);
    }
    fill();
    IN(.cs = pass_cs, .rdi = HERE(target) + 1, .fs_base = HERE(target) + 64, .rsi = HERE(source),
       .r12 = HERE(target) + 256, .rcx = 3);
    memset(source, 0x80, 8);
    memset(source + 8, 0, 8);
    OK("movdqu xmm9, [rsi]; movdqu xmm14, [rsi + 32]; maskmovdqu xmm14, xmm9; mov rdi, 5; .byte "
       "0x64; maskmovdqu xmm14, xmm9; pmovmskb r9d, xmm9; movmskpd r10d, "
       "xmm9; lea rdi, [rip + target + 129]; addr32 nop; punpcklqdq xmm9, xmm14; movdqu [r12], "
       "xmm9; movntdq [r12 + 16], xmm9; movntps [r12 + 32], xmm14; lddqu "
       "xmm3, [r12 + 1]; movdqu [r12 + 49], xmm3; pshufd xmm12, [rip + source], 0x1b; movdqa [r12 "
       "+ 80], xmm12; shufps xmm12, [rip + source + 32], 0xe4; crc32 "
       "r11, qword ptr [rsi]; crc32 r11d, cl");
    CHECK(memcmp(target + 1, source + 32, 8), 0, "maskmovdqu", 0);
    CHECK(target[9], 0x5a, "maskmovdqu", 0);
    CHECK(memcmp(target + 69, source + 32, 8), 0, "maskmovdqu fs", 0);
    CHECK(target[68] == 0x5a && target[77] == 0x5a, 1, "maskmovdqu fs", 0);
    EQ(out.r9, 0xff);
    EQ(out.r10, 1);
    CHECK(memcmp(target + 256 + 8, source + 32, 8), 0, "movdqu", 0);
    CHECK(memcmp(target + 256, target + 272, 16), 0, "movntdq", 0);
    CHECK(memcmp(target + 288, source + 32, 16), 0, "movntps", 0);
    CHECK(memcmp(target + 305, target + 257, 16), 0, "lddqu", 0);
    uint32_t words[4], from[4];
    memcpy(words, target + 336, 16);
    memcpy(from, source, 16);
    for (uint32_t i = 0; i < 4; i++)
        CHECK(words[i], from[3 - i], "pshufd", i);
    /* Over 4 GiB multiples and page ends, hot. */
    frames_reset();
    uint64_t *root = space_new();
    static const uint64_t where[] = {0xfffff000, 0xffffff000, 0x123456789000, 0xffffc8fffffff000};
    for (uint32_t i = 0; i < COUNT(where); i++) {
        map(root, where[i], addr(source), P | W | (i < 3 ? U : 0u));
        map(root, where[i] + 4096, addr(target), P | W | (i < 3 ? U : 0u));
    }
    write_cr3(addr(root));
    for (uint32_t i = 0; i < (pass_cs == UCODE ? 3 : COUNT(where)); i++)
        for (uint32_t k = 1; k < 16; k += 3) {
            fill();
            IN(.cs = pass_cs, .rsi = where[i] + 4096 - k, .rcx = 20, .rax = HERE(save));
            OK("1: movups xmm13, [rsi]; paddq xmm8, xmm13; movups [rsi], xmm8; movups xmm8, [rsi]; "
               "movups [rsi], xmm13; pxor xmm8, xmm8; movups xmm10, [rsi + rcx - "
               "20]; add rsi, 0; dec rcx; jnz 2f; jmp 3f; 2: mov r9, rcx; mov rcx, r9; jmp 1b; 3: "
               "movups [rax], xmm13");
            CHECK(memcmp(save, source + 4096 - k, k), 0, "over the end", i * 16 + k);
            CHECK(save[k], 0x5a, "over the end", i * 16 + k);
        }
}

/* VGATHER: every lane is an address of its own; a lane that faults leaves what is done and the mask
 * of what is left. */
static void gathers(void)
{
    if (!avx2)
        return;
    frames_reset();
    uint64_t *root = space_new(), user = pass_cs == UCODE ? 4 : 0;
    uint64_t far_page = 0x7fffff000; /* its second half is another 4 GiB */
    map(root, far_page, addr(source), P | W | U);
    map(root, far_page + 4096, addr(target), P | W | U);
    map(root, 0x123456789000, addr(source), P | W | U);
    write_cr3(addr(root));
    fill();
    uint64_t *index = (uint64_t *)save, *mask = index + 8;
    index[0] = 8, index[1] = (0 - HERE(source) + far_page + 4092) & -1ull,
    index[2] = 0x123456789000 - HERE(source) + 40, index[3] = 4000;
    for (uint32_t i = 0; i < 4; i++)
        mask[i] = -1ull;
    IN(.cs = pass_cs, .r12 = HERE(source), .rsi = HERE(save), .r13 = HERE(target), .rcx = 50);
    OK("1: vmovdqu ymm9, [rsi]; vmovdqu ymm10, [rsi + 64]; vpxor ymm15, ymm15, ymm15; vpgatherqq "
       "ymm15, [r12 + ymm9 * 1], ymm10; vmovdqu [r13 + 512], ymm15; vmovdqu "
       "[r13 + 544], ymm10; loop 1b");
    uint64_t result[8], want[4];
    memcpy(result, target + 512, 64);
    memcpy(&want[0], source + 8, 8);
    memcpy(&want[1], source + 4092, 4);
    memcpy((uint8_t *)&want[1] + 4, target, 4);
    memcpy(&want[2], source + 40, 8);
    memcpy(&want[3], source + 4000, 8);
    for (uint32_t i = 0; i < 4; i++) {
        CHECK(result[i], want[i], "lane", i);
        CHECK(result[4 + i], 0, "mask", i);
    }
    /* Lane 2 is not there; lanes that the mask excludes may be anywhere. */
    index[2] = 0x55500000000 - HERE(source);
    in.rcx = 1;
    RUN("vmovdqu ymm9, [rsi]; vmovdqu ymm10, [rsi + 64]; vpxor ymm15, ymm15, ymm15;" AT
        "vpgatherqq ymm15, [r12 + ymm9 * 1], ymm10");
    EQ(out.vector, PF);
    EQ(out.error, user);
    EQ(out.cr2, 0x55500000000);
    mask[2] = 0;
    OK("vmovdqu ymm9, [rsi]; vmovdqu ymm10, [rsi + 64]; vpcmpeqd ymm15, ymm15, ymm15; vpgatherqq "
       "ymm15, [r12 + ymm9 * 1], ymm10; vmovdqu [r13 + 512], ymm15");
    memcpy(result, target + 512, 64);
    want[2] = -1ull;
    for (uint32_t i = 0; i < 4; i++)
        CHECK(result[i], want[i], "lane with a mask", i);
    mask[2] = -1ull, index[2] = 0x1234567812345678;
    RUN("vmovdqu ymm9, [rsi]; vmovdqu ymm10, [rsi + 64];" AT
        "vpgatherqq ymm15, [r12 + ymm9 * 1], ymm10");
    UNLESS_QEMU(GATHER) EQ(out.vector, GP);
    /* 32-bit indices are signed; 67h truncates; FS adds its base. */
    int32_t *small = (int32_t *)save;
    for (int32_t i = 0; i < 8; i++)
        small[i] = (i - 4) * 12;
    for (uint32_t i = 0; i < 4; i++)
        mask[i] = -1ull;
    IN(.cs = pass_cs, .r14 = HERE(source) + 1024, .rsi = HERE(save), .r13 = HERE(target),
       .fs_base = HERE(source), .rax = 2048, .rdx = 0xabcdef0000000000 | addr(source));
    OK("vmovdqu ymm8, [rsi]; vmovdqu ymm10, [rsi + 64]; vpgatherdd ymm1, [r14 + ymm8 * 4 + 4], "
       "ymm10; vmovdqu [r13], ymm1; vmovdqu ymm10, [rsi + 64]; vpgatherdd ymm14, "
       "fs:[rax + ymm8 * 2], ymm10; vmovdqu [r13 + 32], ymm14");
    for (int32_t i = 0; i < 8; i++) {
        CHECK(memcmp(target + i * 4, source + 1028 + small[i] * 4, 4), 0, "dword lane", i);
        CHECK(memcmp(target + 32 + i * 4, source + 2048 + small[i] * 2, 4), 0, "dword lane, fs", i);
    }
    if (!pass_base) {
        OK("vmovdqu ymm8, [rsi]; vmovdqu ymm10, [rsi + 64]; vpgatherdd ymm12, [edx + ymm8 * 1 + "
           "64], ymm10; vmovdqu [r13 + 64], ymm12");
        for (int32_t i = 0; i < 8; i++)
            CHECK(memcmp(target + 64 + i * 4, source + 64 + small[i], 4), 0, "dword lane, 67h", i);
    }
    /* VMASKMOV suppresses the faults of what it does not touch. */
    uint32_t *lanes = (uint32_t *)save;
    for (uint32_t i = 0; i < 8; i++)
        lanes[i] = i < 3 ? 0x80000000 : 0;
    IN(.cs = pass_cs, .rsi = HERE(save), .r15 = far_page + 8192 - 12);
    fill();
    UNLESS_QEMU(MASKED)
    {
        OK("vmovdqu ymm9, [rsi]; vmaskmovps ymm11, ymm9, [r15]; vmaskmovps [r15 - 8], ymm9, ymm11");
        CHECK(memcmp(target + 4096 - 20, target + 4096 - 12, 8), 0, "vmaskmovps", 0);
    }
    lanes[3] = 0x80000000;
    FAULT("vmovdqu ymm9, [rsi];" AT "vmaskmovps ymm11, ymm9, [r15]", PF, user);
    FAULT("vmovdqu ymm9, [rsi];" AT "vmaskmovps [r15], ymm9, ymm11", PF, user | 2);
    EQ(out.cr2 & ~0xfffull, far_page + 8192); /* masked stores name some byte of the page */
}

/* AVX-512: masks, zeroing, broadcast, disp8*N, compress, scatter, fault suppression, registers
 * 16-31. */
static void masks(void)
{
    if (!avx512)
        return;
    frames_reset();
    uint64_t *root = space_new(), user = pass_cs == UCODE ? 4 : 0;
    uint64_t far_page = 0x7fffff000;
    map(root, far_page, addr(source), P | W | U);
    map(root, far_page + 4096, addr(target), P | W | U);
    write_cr3(addr(root));
    for (uint32_t round = 0; round < 16; round++) {
        fill();
        uint16_t k = (uint16_t)random64();
        IN(.cs = pass_cs, .r12 = HERE(source), .r13 = HERE(target), .rax = k,
           .r9 = HERE(source) - 0x1000, .rcx = 10);
        OK("1: kmovw k5, eax; vmovdqu32 zmm17, [r12]; vmovdqu32 zmm30, [r12 + 64]; vmovdqu32 "
           "zmm17%{k5%}, [r12 + 128]; vmovdqu32 zmm30%{k5%}%{z%}, [r12 + 128]; vmovdqu32 [r13], "
           "zmm17; vmovdqu32 [r13 + 64], zmm30; vpbroadcastd zmm31, [r12 + 4]; vpaddd zmm31, "
           "zmm31, dword ptr [r9 + 0x1008]%{1to16%}; vmovdqu32 [r13 + 128]%{k5%}, zmm31; "
           "vpcmpgtd k7, zmm17, zmm30; kmovw r10d, k7; knotw k6, k5; kmovw r11d, k6; vpcompressd "
           "[r13 + 256]%{k5%}, zmm17; vpexpandd zmm22%{k5%}%{z%}, [r12 + 256]; vmovdqu64 [r13 "
           "+ 320], zmm22; vmovups xmm20, [r12 + 16]; vaddps xmm20, xmm20, xmm20; vmovups [r13 + "
           "384], ymm20; dec rcx; jnz 1b");
        uint32_t a[16], b[16], c[16], t[112], s[16], m = 0, e = 0, greater = 0;
        memcpy(a, source, 64);
        memcpy(b, source + 64, 64);
        memcpy(c, source + 128, 64);
        memcpy(s, source + 256, 64);
        memcpy(t, target, sizeof(t));
        for (uint32_t i = 0; i < 16; i++) {
            bool on = k >> i & 1;
            uint32_t merged = on ? c[i] : a[i], zeroed = on ? c[i] : 0;
            CHECK(t[i], merged, "merged", i);
            CHECK(t[16 + i], zeroed, "zeroed", i);
            CHECK(t[32 + i], on ? a[1] + a[2] : 0x5a5a5a5a, "masked store", i);
            greater |= (uint32_t)((int32_t)merged > (int32_t)zeroed) << i;
            CHECK(t[80 + i], on ? s[e] : 0, "expand", i);
            e += on;
            if (on)
                CHECK(t[64 + m++], merged, "compress", i);
        }
        if (m < 16)
            CHECK(t[64 + m], 0x5a5a5a5a, "compress stops", m);
        CHECK(out.r10, greater, "compare", round);
        CHECK(out.r11, (uint16_t)~k, "knotw", round);
        CHECK(t[96 + 4], 0, "upper part", round);
        /* Masked lanes do not fault; the first others do. */
        IN(.cs = pass_cs, .r15 = far_page + 8192 - 16, .rax = 0xf, .rdx = 0x1f);
        OK("kmovw k1, eax; vmovdqu32 zmm16%{k1%}, [r15]; vmovdqu32 [r15]%{k1%}, zmm16; vpaddd "
           "zmm29%{k1%}, zmm16, [r15]; vpexpandd zmm28%{k1%}%{z%}, [r15]; vpcompressd [r15]%{k1%}, "
           "zmm16");
        FAULT("kmovw k1, edx;" AT "vmovdqu32 zmm16%{k1%}, [r15]", PF, user);
        EQ(out.cr2, far_page + 8192);
        FAULT("kmovw k1, edx;" AT "vmovdqu32 [r15]%{k1%}, zmm16", PF, user | 2);
    }
    /* Gather and scatter with 16 and 8 lanes; a scatter that faults midway has done the lanes
     * before it. */
    int32_t *index = (int32_t *)save;
    for (int32_t i = 0; i < 16; i++)
        index[i] = (i * 7 % 16) * 4 - 32;
    fill();
    IN(.cs = pass_cs, .rsi = HERE(save), .r14 = HERE(source) + 512, .rbp = HERE(target) + 512,
       .rcx = 5);
    OK("1: vmovdqu32 zmm24, [rsi]; kxnorw k2, k2, k2; vpgatherdd zmm25%{k2%}, [r14 + zmm24 * 4]; "
       "kortestw k2, k2; setz al; kxnorw k3, k3, k3; vpscatterdd [rbp + zmm24 * 2]%{k3%}, "
       "zmm25; kmovw r8d, k3; loop 1b");
    EQ(out.rax & 1, 1);
    EQ(out.r8, 0);
    for (int32_t i = 0; i < 16; i++)
        CHECK(memcmp(target + 512 + index[i] * 2, source + 512 + index[i] * 4, 4), 0, "scatter", i);
    uint64_t *wide = (uint64_t *)save;
    for (uint32_t i = 0; i < 8; i++)
        wide[i] = i * 8;
    wide[5] = 0x55500000000 - HERE(target);
    fill();
    IN(.cs = pass_cs, .rsi = HERE(save), .r11 = HERE(target));
    RUN("vmovdqu64 zmm24, [rsi]; vpternlogd zmm26, zmm26, zmm26, 0xff; kxnorb k3, k3, k3;" AT
        "vpscatterqq [r11 + zmm24 * 1]%{k3%}, zmm26");
    EQ(out.vector, PF);
    EQ(out.cr2, 0x55500000000);
    EQ(out.error, user | 2);
    for (uint32_t i = 0; i < 5; i++)
        CHECK(target[i * 8], 0xff, "lanes before the fault", i);
    /* The mask names the lanes that are left. */
    OK("kmovb eax, k3; vmovdqu64 zmm24, [rsi]; nop");
    CHECK(out.rax >> 5, 7, "mask after the fault", 0);
    CHECK(out.rax & 0x1f, 0, "mask after the fault", 0);
}

/* FXSAVE64, XSAVE64, XSAVEOPT, XSAVEC and their restores keep everything, for every base register.
 */
static void states(void)
{
#define FXSAVE(r, b)                                                                             \
    "lea " r ", [rip + source]; .irp n," XMM "; movups xmm\\n, [" r                              \
    " + \\n * 16]; .endr; fninit; fldpi; lea " r ", [rip + save]; fxsave64 [" r "]; .irp n," XMM \
    "; pxor xmm\\n, xmm\\n; .endr; fninit; fxrstor64 [" r "]; fstp qword ptr [" r                \
    " + 1024]; lea " r ", [rip + target]; .irp n," XMM "; movups [" r                            \
    " + \\n * 16], xmm\\n; .endr"
    const struct snip *snips[] = EACH_REGISTER_BUT_RSP(FXSAVE);
    for (uint32_t r = 0; r < 16; r++) {
        if (r == RSP)
            continue;
        fill();
        memset(save, 0, sizeof(save));
        IN(.cs = pass_cs);
        OKS(snips[r]);
        CHECK(memcmp(source, target, 256), 0, "fxrstor64", r);
        CHECK(memcmp(save + 160, source, 256), 0, "fxsave64", r);
        uint64_t pi;
        memcpy(&pi, save + 1024, 8);
        CHECK(pi, 0x400921fb54442d18, "x87", r);
    }
    IN(.cs = pass_cs, .rsi = HERE(save));
    FAULT("fxsave64 [rsi + 8]", GP, 0);
    if (xcr0 == 3)
        return;
    uint32_t size = cpuid(0xd, 0).ebx;
    CHECK(size <= sizeof(save), 1, "size of the area", size);
    fill();
    memset(save, 0, sizeof(save));
    IN(.cs = pass_cs, .r12 = HERE(source), .r13 = HERE(target), .r15 = HERE(save), .rax = 7,
       .rdx = 0, .rcx = 5);
    OK("1: .irp n," XMM "; vmovups ymm\\n, [r12 + \\n * 32]; .endr; mov eax, 7; xsave64 [r15]; "
       "vzeroall; xrstor64 [r15]; .irp n," XMM
       "; vmovups [r13 + \\n * 32], ymm\\n; .endr; dec rcx; jnz 1b; xor ecx, ecx; xgetbv");
    CHECK(memcmp(source, target, 512), 0, "xsave64", 0);
    EQ(out.rax, xcr0);
    uint64_t header[2];
    memcpy(header, save + 512, 16);
    EQ(header[0] & 6, 6);
    EQ(header[1], 0);
    if (cpuid(0xd, 1).eax & 1) {
        memset(target, 0, sizeof(target));
        OK("1: .irp n," XMM "; vmovups ymm\\n, [r12 + \\n * 32]; .endr; mov eax, 7; xsaveopt64 "
           "[r15]; vzeroall; xrstor64 [r15]; .irp n," XMM
           "; vmovups [r13 + \\n * 32], ymm\\n; .endr; dec rcx; jnz 1b");
        CHECK(memcmp(source, target, 512), 0, "xsaveopt64", 0);
    }
    if (avx512) {
        fill();
        IN(.cs = pass_cs, .r12 = HERE(source), .r13 = HERE(target), .r15 = HERE(save), .rax = 0xe7,
           .rdx = 0, .rcx = 3);
        OK("1: .irp n," XMM32 "; vmovups zmm\\n, [r12 + \\n * 64]; .endr; mov ebx, 0x1234; kmovw "
           "k4, ebx; mov eax, 0xe7; xsave64 [r15]; vzeroall; .irp "
           "n,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31; vpxorq zmm\\n, zmm\\n, zmm\\n; "
           ".endr; kxorw k4, k4, k4; xrstor64 [r15]; .irp n," XMM32
           "; vmovups [r13 + \\n * 64], zmm\\n; .endr; kmovw r8d, k4; dec rcx; jnz 1b");
        CHECK(memcmp(source, target, 2048), 0, "xsave64 of AVX-512", 0);
        EQ(out.r8, 0x1234);
    }
    /* What XCR0 switches off does not exist. */
    if (pass_cs == KCODE) {
        IN(.rax = 3, .rcx = 0);
        OK("xsetbv");
        FAULT("vmovups ymm0, [rsi]", UD, 0);
        OK("pxor xmm8, xmm8");
        IN(.rax = 5);
        FAULT("xsetbv", GP, 0); /* AVX without SSE */
        in.rax = 0;
        FAULT("xsetbv", GP, 0);
        in.rax = 3, in.rcx = 1;
        FAULT("xsetbv", GP, 0);
        vector_on();
        write_cr4(read_cr4() & ~(uint64_t)CR4_OSXSAVE);
        IN(.rcx = 0);
        FAULT("xgetbv", UD, 0);
        FAULT("vzeroupper", UD, 0);
        FAULT("xsave64 [rsi]", UD, 0);
        vector_on();
    } else {
        FAULT("mov eax, 7; xor ecx, ecx; xor edx, edx;" AT "xsetbv", GP, 0);
    }
}

/* The pointers to the last x87 instruction and its operand, an offset (SDM 1 8.1.8): in an image,
 * in one that the handler of its exception makes at CPL 0, and when other code has run since. */
static uint8_t handlers_image[512] __attribute__((aligned(16)));
static bool save_image(struct frame *frame)
{
    if (frame->vector == MF)
        __asm__ volatile("fxsave64 %0" : "=m"(handlers_image));
    return false;
}

static void x87_pointers(void)
{
    static uint16_t unmasked USER = 0x37b; /* but division by zero */
    uint64_t pointers[2];

    fill();
    memset(source, 0, 8);
    for (uint32_t k = 0; k < 3; k++) {
        const struct snip *snips[] = {
            CODE("fninit; fldcw [rsi]; fld1; nop;" AT
                 "fdiv dword ptr [rdi]; nop; fnstsw ax; fxsave64 "
                 "[r8]; fnclex; fninit"),
            CODE("fninit; fldcw [rsi]; fld1;" AT "fdiv dword ptr fs:[rdi]; fxsave64 [r8]; "
                 "fnclex; fninit"),
            CODE("mov ecx, 20; 1: fninit; fldcw [rsi]; fld1;" AT "fdiv dword ptr gs:[rdi + rcx - "
                 "1]; fxsave64 [r8]; fnclex; fninit; loop 1b")};
        IN(.cs = pass_cs, .rsi = HERE(&unmasked), .rdi = k ? 0x40 : HERE(source), .r8 = HERE(save),
           .fs_base = HERE(source) - 0x40, .gs_base = HERE(source) - 0x40);
        OKS(snips[k]);
        memcpy(pointers, save + 8, 16);
        CHECK(pointers[0], snips[k]->at + pass_base, "instruction pointer", k);
        CHECK(pointers[1], in.rdi, "data pointer", k);
        CHECK(save[6] | save[7] << 8, k == 2 ? 0x074 : 0x037, "opcode", k);
    }
    if (cpuid(7, 0).ebx & 1 << 6) { /* FDP and FOP stay those of the exception */
        const struct snip *snip = CODE(
            "fninit; fldcw [rsi]; fld1; fdiv dword ptr [rdi]; fnclex; fst dword ptr [rdi + 4]; "
            "nop;" AT "fld1; fxsave64 [r8]; fninit");
        IN(.cs = pass_cs, .rsi = HERE(&unmasked), .rdi = HERE(source), .r8 = HERE(save));
        OKS(snip);
        memcpy(pointers, save + 8, 16);
        EQ(pointers[0], snip->at + pass_base);
        EQ(pointers[1], in.rdi);
    }
    trap_hook = save_image;
    for (uint32_t k = 0; k < 2; k++) {
        const struct snip *snips[] = {
            CODE("fninit; fldcw [rsi]; fld1; nop;" AT "fdiv dword ptr [rdi]; nop; fwait"),
            CODE("fninit; fldcw [rsi]; fld1;" AT "fdiv dword ptr fs:[rdi]; fwait")};
        IN(.cs = pass_cs, .rsi = HERE(&unmasked), .rdi = k ? 0x40 : HERE(source),
           .fs_base = HERE(source) - 0x40);
        go(snips[k]);
        EQ(out.vector, MF);
        memcpy(pointers, handlers_image + 8, 16);
        CHECK(pointers[0], snips[k]->at + pass_base, "the handler's instruction pointer", k);
        CHECK(pointers[1], in.rdi, "the handler's data pointer", k);
    }
    __asm__ volatile("fnclex; fninit");
}

/* Cryptography and polynomials: known answers with registers 8-15. */
static void known_answers(void)
{
    uint32_t features = cpuid(1, 0).ecx;
    static const uint8_t key[] = {0x2b, 0x7e, 0x15, 0x16, 0x28, 0xae, 0xd2, 0xa6,
                                  0xab, 0xf7, 0x15, 0x88, 0x09, 0xcf, 0x4f, 0x3c},
                         next[] = {0xa0, 0xfa, 0xfe, 0x17, 0x88, 0x54, 0x2c, 0xb1,
                                   0x23, 0xa3, 0x39, 0x39, 0x2a, 0x6c, 0x76, 0x05};
    if (features >> 25 & 1) { /* FIPS 197, appendix A.1: the second round key */
        memcpy(source, key, 16);
        IN(.cs = pass_cs, .r12 = HERE(source), .rcx = 20);
        OK("1: movdqu xmm8, [r12]; aeskeygenassist xmm15, [r12], 1; pshufd xmm15, xmm15, 0xff; "
           "movdqa xmm9, xmm8; pslldq xmm9, 4; pxor xmm8, xmm9; pslldq xmm9, 4; pxor xmm8, "
           "xmm9; pslldq xmm9, 4; pxor xmm8, xmm9; pxor xmm8, xmm15; movdqu [r12 + 16], xmm8; "
           "aesimc xmm10, [r12 + 16]; loop 1b");
        CHECK(memcmp(source + 16, next, 16), 0, "AES key schedule", 0);
    }
    if (features >> 1 & 1) {
        uint64_t pair[2] = {0x8000000000000003, 5}, product[2];
        memcpy(source, pair, 16);
        IN(.cs = pass_cs, .r13 = HERE(source));
        OK("movdqu xmm11, [r13]; pclmulqdq xmm11, [r13], 0x10; movdqu [r13 + 16], xmm11");
        memcpy(product, source + 16, 16);
        EQ(product[0], 0x800000000000000full);
        EQ(product[1], 2);
    }
    if (features >> 20 & 1) { /* CRC-32C of "123456789" is E3069283h */
        memcpy(source, "123456789", 9);
        IN(.cs = pass_cs, .r14 = HERE(source), .r9 = 0xffffffff);
        OK("crc32 r9, qword ptr [r14]; crc32 r9d, byte ptr [r14 + 8]; not r9d");
        EQ(out.r9, 0xe3069283);
        OK("mov ecx, 9; lea r8, [r14]; mov r15d, -1; 1: mov al, [r8]; crc32 r15d, al; inc r8; loop "
           "1b; not r15d");
        EQ(out.r15, 0xe3069283);
    }
    if (features >> 20 & 1) { /* SSE4.2 strings: the index comes in ECX, the mask in XMM0 */
        memcpy(source, "hello, world; hi", 16);
        memcpy(source + 16, "lo\0\0\0\0\0\0\0\0\0\0\0\0\0", 16);
        IN(.cs = pass_cs, .r12 = HERE(source), .rax = 2, .rdx = 16, .rcx = -1ull);
        OK("movdqu xmm9, [r12 + 16]; pcmpistri xmm9, [r12], 0x0c; mov r8, rcx; pcmpestri xmm9, "
           "[r12], 0x0c; pcmpistrm xmm9, [r12], 0x4c; movd r10d, xmm0");
        EQ(out.r8, 3);
        EQ(out.rcx, 3);
        EQ(out.r10, 0xff000000);
    }
}

void guest_main(void)
{
    xcr0 = vector_on();
    avx = (xcr0 & 7) == 7 && cpuid(1, 0).ecx >> 28 & 1;
    avx2 = avx && cpuid(7, 0).ebx >> 5 & 1;
    avx512 = (xcr0 & 0xe7) == 0xe7 && cpuid(7, 0).ebx >> 16 & 1 && cpuid(7, 0).ebx >> 17 & 1;
    say("XCR0 %lx: AVX %u, AVX2 %u, AVX-512 %u\n", xcr0, avx, avx2, avx512);
    GROUP(sse);
    GROUP(avx_moves);
    GROUP(avx512_moves);
    GROUP(random_sse);
    GROUP(random_avx2);
    GROUP(random_avx512);
    GROUP(mixed);
    GROUP(gathers);
    GROUP(masks);
    GROUP(states);
    UNLESS_QEMU(MF) GROUP(x87_pointers);
    GROUP(known_answers);
}
