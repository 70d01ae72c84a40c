/* fpu.c - x87, MMX, SSE, AVX and AVX-512 state belongs to the guest, in every byte.
 *
 * State kept over exceptions, interrupts and faults; the images of FNSTENV, FNSAVE, FXSAVE and
 * XSAVE (SDM 1 8.1.10 figures 8-9 to 8-12, 10.5.1, 13.4), with the guest's instruction pointer in
 * them; XSAVE areas and CPUID leaf 0Dh as the guest's XCR0 has it (13.2, 13.3); lazy switching by
 * CR0.TS (SDM 3A 2.5, 13.4). Selectors in images are not looked at, data pointers only after
 * unmasked exceptions: CPUID.7.EBX bits 6 and 13 say that processors have given them up. */
#include "guest.h"

const char guest_name[] = "fpu";

static uint8_t area[2][4096] USER __attribute__((aligned(64)));
static uint32_t memory[64] USER __attribute__((aligned(64)));
static const uint32_t both[] = {0, UCODE};
static struct cpuid one;

static uint32_t word_at(const uint8_t *p, uint32_t offset)
{
    uint32_t value;
    memcpy(&value, p + offset, 4);
    return value;
}

static uint32_t differences(const void *a, const void *b, uint32_t n)
{
    const uint8_t *p = a, *q = b;
    uint32_t count = 0;
    for (uint32_t i = 0; i < n; i++)
        count += p[i] != q[i];
    return count;
}

static void pattern(void *to, uint32_t n, uint32_t seed)
{
    uint8_t *p = to;
    for (uint32_t i = 0; i < n; i++)
        p[i] = (uint8_t)((i + 1) * 37 + seed * 91 + (i >> 8));
}

static bool on_int(struct frame *frame)
{
    if (frame->vector == 0x20)
        pic_eoi(0x20);
    if (frame->vector == UD && *(const uint16_t *)frame->eip == 0x0b0f) {
        frame->eip += 2;
        return true;
    }
    return frame->vector == 0x50 || frame->vector == 0x20;
}

/* Values and arithmetic: constants, rounding, precision, integers, BCD, comparison. */
static void x87_values(void)
{
    for (uint32_t c = 0; c < 2; c++) {
        IN(.cs = both[c], .esi = addr(memory));
        OK("fninit; fldpi; fstp tbyte ptr [esi]; fldl2e; fstp qword ptr [esi + 16]; fld1; fld1; "
           "faddp; fld1; fdivrp; fstp dword ptr [esi + 24]; "
           "push 100; fild dword ptr [esp]; fsqrt; fistp dword ptr [esp]; pop eax; fnstsw [esi + "
           "28]");
        EQ(memory[0], 0x2168c235);
        EQ(memory[1], 0xc90fdaa2);
        EQ(memory[2] & 0xffff, 0x4000);
        EQ(memory[4], 0x652b82fe);
        EQ(memory[5], 0x3ff71547);
        EQ(memory[6], 0x3f000000);
        EQ(out.eax, 10);
        EQ(memory[7] & 0x5f, 0);
        /* 1/3 in the four rounding modes, to double. */
        static const uint32_t low[] = {0x55555555, 0x55555555, 0x55555556, 0x55555555};
        for (uint32_t rc = 0; rc < 4; rc++) {
            memory[0] = 0x027f | rc << 10;
            memory[1] = 3;
            IN(.cs = both[c], .esi = addr(memory));
            OK("fninit; fldcw [esi]; fld1; fidiv dword ptr [esi + 4]; fstp qword ptr [esi + 8]; "
               "fnstsw ax; fnstcw [esi + 16]; fninit; fnstcw [esi + 20]");
            EQ(memory[2], low[rc]);
            EQ(memory[3], 0x3fd55555);
            EQ(out.eax & 0x3f, 0x20);
            EQ(memory[4] & 0xffff, 0x027f | rc << 10);
            EQ(memory[5] & 0xffff, 0x037f);
        }
        memory[0] = 123456789;
        OK("fild dword ptr [esi]; fchs; fbstp tbyte ptr [esi + 16]; fbld tbyte ptr [esi + 16]; "
           "fistp qword ptr [esi + 32]");
        EQ(memory[4], 0x23456789);
        EQ(memory[5], 1);
        EQ(memory[6] & 0xffff, 0x8000);
        EQ(memory[8], -123456789);
        EQ(memory[9], -1);
        IN(.cs = both[c]);
        OK("fninit; fld1; fldz; fcomi st, st(1); setb al; seta ah; fxch; fucomi st, st(1); seta "
           "bl; fucompp; "
           "fninit; fldz; fldz; fdivp; fucomi st, st(0); setp dl; fninit");
        EQ(out.eax & 0xffff, 1);
        EQ(out.ebx, 1);
        EQ(out.edx, 1);
    }
}

/* The whole stack over software interrupts, exceptions, and a page of other work. */
static void x87_kept(void)
{
    gate_set(0x50, 0x50, 0xee);
    trap_hook = on_int;
    for (uint32_t c = 0; c < 2; c++) {
        IN(.cs = both[c], .esi = addr(area[0]), .edi = addr(area[1]), .ecx = 100);
        OK("fninit; fldpi; fldl2e; fldln2; fldlg2; fld1; fldz; fldl2t; fld1; fchs; fnsave [esi]; "
           "frstor [esi]; "
           "1: int 0x50; ud2; loop 1b; fnsave [edi]");
        EQ(differences(area[0], area[1], 12), 0);
        EQ(differences(area[0] + 28, area[1] + 28, 80), 0);
        EQ(word_at(area[1], 0) & 0xffff, 0x37f);
        EQ(word_at(area[1], 8) & 0xffff, word_at(area[0], 8) & 0xffff);
        OK("fnstenv [esi]; fnstsw ax"); /* FNSAVE has initialized */
        EQ(word_at(area[0], 8) & 0xffff, 0xffff);
        EQ(out.eax & 0xffff, 0);
    }
    gate_restore(0x50);
}

/* The last instruction's address in each image is the guest's. */
static void instruction_pointer(void)
{
    const struct snip *snip = CODE(
        "fninit; nop; fld1;" AT
        "fldpi; nop; fnstcw [esi + 100]; fnstenv [esi]; fnstenv [edi]; nop; fxsave [edi + 512]; "
        "data16 fnstenv [esi + 64]; fnsave [edi + 128]; fninit");
    for (uint32_t c = 0; c < 2; c++) {
        IN(.cs = both[c], .esi = addr(memory), .edi = addr(area[0]));
        go(snip);
        EQ(out.vector, DONE);
        EQ(memory[3], snip->at);
        EQ(word_at(area[0], 12), snip->at);
        UNLESS_QEMU(FPU) EQ(word_at(area[0] + 512, 8), snip->at);
        EQ(word_at(area[0] + 128, 12), snip->at);
        /* 16-bit format: FCW, FSW, FTW, IP, ... in words. */
        EQ(memory[17] >> 16, snip->at & 0xffff);
        /* Through a loop, hot: the address is that of the instruction in the last round. */
        const struct snip *loop =
            CODE("mov ecx, 50; fninit; 1:" AT
                 "fld dword ptr [edi]; fstp st(0); dec ecx; jnz 1b; fnstenv [esi]");
        go(loop);
        EQ(memory[3], loop->at + 2);
        /* FINCSTP and FFREE count; FNINIT clears; FRSTOR brings back what was saved. */
        OK("fninit; fnstenv [esi]");
        EQ(memory[3], 0);
        memory[3] = 0x12345678;
        OK("fldenv [esi]; fnstenv [esi + 32]");
        UNLESS_QEMU(FPU) EQ(memory[8 + 3], 0x12345678);
    }
}

static uint8_t handlers_image[512] __attribute__((aligned(16)));
static bool save_image(struct frame *frame)
{
    if (frame->vector == MF)
        __asm__ volatile("fxsave %0" : "=m"(handlers_image));
    return false;
}

/* The operand's offset and the opcode, at an unmasked exception and in its handler at CPL 0. */
static void data_pointer(void)
{
    gdt_set(FREE, addr(area[0]) - 0x40, 0xfffff, 0xcf2);
    write_cr0(read_cr0() | CR0_NE);
    memset(area[0], 0, 64);
    memory[0] = 0x37b; /* but division by zero */
    for (uint32_t n = 0; n < 4; n++) {
        const struct snip *snip[] = {CODE("fninit; fldcw [esi]; fld1; nop;" AT
                                          "fdiv dword ptr [edi]; nop; fnstenv [esi + 16]; "
                                          "fxsave [ebx]; fldcw [esi]; nop; fwait"),
                                     CODE("fninit; fldcw [esi]; fld1;" AT
                                          "fdiv dword ptr fs:[edi]; fnstenv [esi + 16]; fxsave "
                                          "[ebx]; fldcw [esi]; fwait")};
        uint32_t k = n >> 1;
        IN(.cs = both[n & 1], .esi = addr(memory), .edi = k ? 0x40 : addr(area[0]),
           .ebx = addr(area[1]), .fs = FREE | 3);
        trap_hook = save_image;
        go(snip[k]);
        EQ(out.vector, MF);
        CASE(k);
        EQ(memory[4 + 3], snip[k]->at);
        EQ(memory[4 + 4] >> 16, 0x037);
        EQ(memory[4 + 5], in.edi);
        EQ(word_at(area[1], 8), snip[k]->at);
        EQ(word_at(area[1], 16), in.edi);
        EQ(word_at(handlers_image, 8), snip[k]->at);
        EQ(word_at(handlers_image, 16), in.edi);
        EQ(word_at(handlers_image, 6) & 0xffff, 0x037);
        __asm__ volatile("fnclex; fninit");
    }
    trap_hook = NULL;
}

static void mmx(void)
{
    if (!(one.edx >> 23 & 1))
        return;
    for (uint32_t c = 0; c < 2; c++) {
        pattern(memory, 64, c);
        IN(.cs = both[c], .esi = addr(memory), .edi = addr(area[0]), .eax = 0x11223344);
        OK("fninit; movq mm0, [esi]; movq mm7, [esi + 8]; movd mm3, eax; paddb mm0, mm7; movq "
           "[edi], mm0; pshufw mm1, mm7, 0x1b; movq [edi + 8], mm1; "
           "fnsave [edi + 64]; movd ebx, mm3");
        const uint8_t *p = (const uint8_t *)memory;
        for (uint32_t i = 0; i < 8; i++)
            EQ(area[0][i], (uint8_t)(p[i] + p[8 + i]));
        EQ(word_at(area[0], 8) & 0xffff, p[15] << 8 | p[14]);
        /* MMn is the mantissa of register n, with all ones as its exponent; all tags are valid. */
        EQ(word_at(area[0] + 64, 8) & 0xc000,
           0x8000); /* register 7: an exponent of all ones is "special" */
        EQ(differences(area[0] + 64 + 28 + 70, memory + 2, 8), 0);
        EQ(word_at(area[0] + 64 + 28 + 70 + 8, 0) & 0xffff, 0xffff);
        OK("movq mm2, [esi]; emms; fnstenv [edi]; fld1; fstp st(0)");
        EQ(word_at(area[0], 8) & 0xffff, 0xffff);
        OK("fninit");
    }
}

/* XMM registers and MXCSR over interrupts from a timer, exceptions, and rings. */
static void sse_kept(void)
{
    write_cr4(CR4_OSFXSR | CR4_OSXMMEXCPT);
    gate_set(0x50, 0x50, 0xee);
    trap_hook = on_int;
    pic_init(1);
    pit_start(1193);
    for (uint32_t c = 0; c < 2; c++) {
        memset(area, 0, sizeof(area));
        pattern(area[0] + 160, 128, rep + 7 * c);
        uint32_t fcw = 0x37f, mxcsr = 0x1f80 | rep << 13;
        memcpy(area[0], &fcw, 2);
        memcpy(area[0] + 24, &mxcsr, 4);
        IN(.cs = both[c], .esi = addr(area[0]), .edi = addr(area[1]), .ecx = 300, .eflags = IF);
        OK("fxrstor [esi]; 1: int 0x50; mov edx, 1000; 2: dec edx; jnz 2b; ud2; loop 1b; fxsave "
           "[edi]");
        EQ(differences(area[0] + 160, area[1] + 160, 128), 0);
        EQ(word_at(area[1], 24), mxcsr);
        EQ(word_at(area[1], 0) & 0xffff, 0x37f);
        EQ(word_at(area[1], 28) & 0xffbf, 0xffbf); /* MXCSR_MASK */
        OK("stmxcsr [esi]; movups xmm0, [esi + 160]; movaps xmm7, xmm0; addps xmm7, xmm7; movd "
           "eax, xmm0; pshufd xmm1, xmm0, 0; movd ebx, xmm1");
        EQ(out.eax, out.ebx);
        EQ(word_at(area[0], 0), mxcsr | (word_at(area[0], 0) & 0x3f));
        memory[0] = 0x1f80;
        IN(.esi = addr(memory));
        OK("ldmxcsr [esi]");
    }
    pit_stop();
    pic_init(0);
    gate_restore(0x50);
    write_cr4(0);
}

static void fxsave_format(void)
{
    write_cr4(CR4_OSFXSR);
    for (uint32_t c = 0; c < 2; c++) {
        memset(area, 0xcc, sizeof(area));
        memory[0] = 0x0c7f; /* another control word */
        IN(.cs = both[c], .esi = addr(memory), .edi = addr(area[0]), .ebx = addr(area[1]));
        OK("fninit; fldcw [esi]; fldpi; fld1; fldz; fxsave [edi]; fnsave [ebx]; fxrstor [edi]; "
           "fxsave [edi + 1024]");
        EQ(word_at(area[0], 0) & 0xffff, 0x0c7f);
        EQ(word_at(area[0], 2) & 0xffff, 5 << 11); /* TOP */
        EQ(word_at(area[0], 4) & 0xff, 0xe0);      /* abridged tags of registers 7, 6, 5 */
        EQ(word_at(area[0], 32), 0);               /* st(0) = 0 */
        EQ(word_at(area[0], 48 + 4), 0x80000000);  /* st(1) = 1 */
        EQ(word_at(area[0], 48 + 8) & 0xffff, 0x3fff);
        EQ(word_at(area[0], 64), 0x2168c234);  /* st(2) = pi, rounded as the control word says */
        EQ(word_at(area[0], 464), 0xcccccccc); /* available to software: not written */
        EQ(word_at(area[0], 508), 0xcccccccc);
        EQ(differences(area[0], area[0] + 1024, 416), 0);
        EQ(word_at(area[1], 8) & 0xffff, 0x07ff); /* full tags: zero, valid, valid, empty... */
        FAULT("fxsave [edi + 8]", GP, 0);         /* 16-byte alignment */
        FAULT("fxrstor [edi + 8]", GP, 0);
    }
    /* Two contexts alternate, 200 times: each finds its own. */
    memset(area, 0, sizeof(area));
    pattern(area[0] + 32, 10, 1);
    pattern(area[1] + 32, 10, 2);
    area[0][0] = area[1][0] = 0x7f, area[0][1] = area[1][1] = 3;
    area[0][4] = area[1][4] = 1; /* abridged tag: register 0 is in use; it is st(0) */
    area[0][24] = area[1][24] = 0x80, area[0][25] = area[1][25] = 0x1f;
    pattern(area[0] + 160, 128, 3);
    pattern(area[1] + 160, 128, 4);
    IN(.cs = UCODE, .esi = addr(area[0]), .edi = addr(area[1]), .ecx = 200,
       .ebx = addr(area[0]) + 1024);
    OK("1: fxrstor [esi]; fxsave [ebx]; fxrstor [edi]; fxsave [ebx + 1024]; loop 1b");
    EQ(differences(area[0] + 32, area[0] + 1024 + 32, 256), 0);
    EQ(differences(area[1] + 32, area[0] + 2048 + 32, 256), 0);
    go(CODE("fninit"));
    write_cr4(0);
}

/* Lazy switching: #NM's handler clears TS and the instruction runs again. */
static uint32_t lazy;
static bool on_nm(struct frame *frame)
{
    if (frame->vector == 0x50) {
        write_cr0(read_cr0() | CR0_TS);
        return true;
    }
    if (frame->vector != NM)
        return false;
    __asm__ volatile("clts");
    lazy++;
    return true;
}

static void lazy_switch(void)
{
    gate_set(0x50, 0x50, 0xee);
    write_cr4(CR4_OSFXSR);
    trap_hook = on_nm;
    for (uint32_t c = 0; c < 2; c++) {
        lazy = 0;
        IN(.cs = both[c], .ecx = 100, .esi = addr(memory));
        OK("fninit; fldz; 1: int 0x50; mov eax, 5; fld1; faddp; loop 1b; fistp dword ptr [esi]");
        EQ(lazy, 100);
        EQ(memory[0], 100);
        lazy = 0;
        OK("mov ecx, 50; 1: int 0x50; mov ebx, 0x40400000; movd xmm3, ebx; addss xmm3, xmm3; int "
           "0x50; movd eax, xmm3; loop 1b");
        EQ(out.eax, 0x40c00000);
        EQ(lazy, 100);
    }
    write_cr0(read_cr0() & ~CR0_TS);
    write_cr4(0);
    gate_restore(0x50);
}

static void xsetbv(uint32_t value)
{
    IN(.eax = value);
    OK("xsetbv");
}

/* The XSAVE area has the size and the components of the guest's XCR0. */
static void xsave_sizes(void)
{
    if (!(one.ecx >> 26 & 1))
        return;
    write_cr4(CR4_OSFXSR | CR4_OSXSAVE);
    static const uint32_t masks[] = {1, 3, 7, 0xe7};
    uint32_t supported = cpuid(0xd, 0).eax;
    for (size_t i = 0; i < COUNT(masks); i++) {
        if (masks[i] & ~supported)
            continue;
        xsetbv(masks[i]);
        struct cpuid d = cpuid(0xd, 0);
        EQ(d.eax, supported);
        uint32_t size = 576;
        for (uint32_t k = 2; k < 9; k++)
            if (masks[i] >> k & 1) {
                struct cpuid part = cpuid(0xd, k);
                EQ(part.ebx >= 576 && part.eax > 0, 1);
                if (part.eax + part.ebx > size)
                    size = part.eax + part.ebx;
            }
        EQ(d.ebx, size);
        EQ(d.ecx >= size, 1);
        /* XSAVE of everything writes components of XCR0 only, and nothing behind. */
        memset(area, 0xcc, sizeof(area));
        memset(area[0] + 512, 0, 64);
        IN(.cs = both[i & 1], .edi = addr(area[0]), .eax = -1u, .edx = -1u);
        OK("fninit; fld1; xsave [edi]");
        EQ(word_at(area[0], 512) & ~masks[i], 0);
        EQ(word_at(area[0], 512) & 1, 1);
        EQ(word_at(area[0], 516), 0);
        uint32_t written = 0;
        for (uint32_t k = size; k < 4096; k++)
            written += area[0][k] != 0xcc;
        EQ(written, 0);
        if (masks[i] == 1) {
            EQ(word_at(area[0], 160), 0xcccccccc); /* no SSE component */
        }
        /* A mask of its own. */
        memset(area, 0xcc, sizeof(area));
        memset(area[0] + 512, 0, 64);
        in.eax = 1, in.edx = 0;
        OK("fninit; fld1; xsave [edi]; fninit; xrstor [edi]; fnstsw ax; fninit");
        EQ(out.eax >> 11 & 7, 7);
        EQ(word_at(area[0], 160), 0xcccccccc);
        /* XRSTOR: bits that XCR0 lacks, reserved header bytes, alignment. */
        in.eax = -1u, in.edx = -1u;
        uint32_t mxcsr = 0x1f80;
        memcpy(area[0] + 24, &mxcsr, 4);
        area[0][512] = (uint8_t)(~masks[i] & 0x18) | 1;
        FAULT("xrstor [edi]", GP, 0);
        area[0][512] = 1, area[0][512 + 16] = 1;
        FAULT("xrstor [edi]", GP, 0);
        area[0][512 + 16] = 0;
        FAULT("xsave [edi + 32]", GP, 0);
        /* XSTATE_BV = 0 initializes. */
        area[0][512] = 0;
        OK("fldpi; fldpi; xrstor [edi]; fnstsw ax");
        EQ(out.eax & 0x3800, 0);
    }
    xsetbv(1);
    write_cr4(0);
}

/* Upper halves: YMM, and with AVX-512 ZMM and opmasks, over interrupts and through XSAVE. */
static void avx(void)
{
    if (!(one.ecx >> 28 & 1))
        return;
    write_cr4(CR4_OSFXSR | CR4_OSXSAVE);
    xsetbv(3);
    IN(.esi = addr(area[0]), .edi = addr(area[1]));
    FAULT("vmovups ymm0, [esi]", UD, 0);
    FAULT("vxorps xmm0, xmm0, xmm0", UD, 0);
    xsetbv(7);
    gate_set(0x50, 0x50, 0xee);
    trap_hook = on_int;
    pic_init(1);
    pit_start(1193);
    for (uint32_t c = 0; c < 2; c++) {
        pattern(area[0], 256, rep * 2 + c);
        IN(.cs = both[c], .esi = addr(area[0]), .edi = addr(area[1]), .ecx = 300, .eflags = IF);
        OK("vmovups ymm0, [esi]; vmovups ymm1, [esi + 32]; vmovups ymm2, [esi + 64]; vmovups ymm3, "
           "[esi + 96]; vmovups ymm4, [esi + 128]; "
           "vmovups ymm5, [esi + 160]; vmovups ymm6, [esi + 192]; vmovups ymm7, [esi + 224]; "
           "1: int 0x50; mov edx, 500; 2: dec edx; jnz 2b; ud2; loop 1b; "
           "vmovups [edi], ymm0; vmovups [edi + 32], ymm1; vmovups [edi + 64], ymm2; vmovups [edi "
           "+ 96], ymm3; vmovups [edi + 128], ymm4; "
           "vmovups [edi + 160], ymm5; vmovups [edi + 192], ymm6; vmovups [edi + 224], ymm7");
        EQ(differences(area[0], area[1], 256), 0);
        memset(area[1], 0, 1024);
        IN(.cs = both[c], .esi = addr(area[0]), .edi = addr(area[1]), .eax = 7);
        OK("vmovups ymm5, [esi]; xsave [edi]; vzeroall; xrstor [edi]; vmovups [esi + 512], ymm5; "
           "vzeroupper; vmovups [esi + 544], ymm5");
        EQ(differences(area[0], area[0] + 512, 32), 0);
        EQ(differences(area[0], area[1] + 160 + 5 * 16, 16), 0);
        EQ(differences(area[0] + 16, area[1] + cpuid(0xd, 2).ebx + 5 * 16, 16), 0);
        EQ(differences(area[0], area[0] + 544, 16), 0);
        EQ(word_at(area[0], 544 + 16) | word_at(area[0], 544 + 28), 0);
        /* Unaligned is allowed, alignment-checked forms are not. */
        FAULT("vmovaps ymm0, [esi + 4]", GP, 0);
        OK("vaddps ymm0, ymm1, [esi + 4]; vbroadcastss ymm2, dword ptr [esi]; vmaskmovps [esi + "
           "512], ymm2, ymm2; vzeroall");
    }
    pit_stop();
    pic_init(0);
    gate_restore(0x50);
    xsetbv(1);
    write_cr4(0);
}

/* What maps and unmaps, and what changes control state, between instructions of one loop. */
static void avx_kept_by_system_instructions(void)
{
    enum { LIN = 0x40000000 };
    if (!(one.ecx >> 28 & 1))
        return;
    frames_reset();
    uint32_t *two = frame_new(), *one_frame;
    do {
        one_frame = two;
        two = frame_new();
    } while ((addr(one_frame) ^ addr(two)) != 0x1000);
    uint32_t *pd = pd_new(P | W | U);
    pd_map(pd, LIN, addr(one_frame), P | W | A | DIRTY);
    one_frame[0] = 3, two[0] = 5;
    paging_on(pd, CR4_OSFXSR | CR4_OSXSAVE);
    xsetbv(7);
    pattern(area[0], 256, rep);
    memset(area[1], 0, 256);
    IN(.esi = addr(area[0]), .edi = addr(area[1]), .ecx = 40, .ebx = addr(pd_entry(pd, LIN)));
    OK("vmovups ymm0, [esi]; vmovups ymm1, [esi + 32]; vmovups ymm2, [esi + 64]; vmovups ymm3, "
       "[esi + 96]; vmovups ymm4, [esi + 128]; vmovups ymm5, [esi + 160]; vmovups ymm6, [esi + "
       "192]; vmovups ymm7, [esi + 224]; "
       "1: xor dword ptr [ebx], 0x1000; invlpg [0x40000000]; add ebp, [0x40000000]; "
       "xor dword ptr [ebx], 0x1000; mov eax, cr3; mov cr3, eax; add ebp, [0x40000000]; "
       "mov eax, cr0; xor eax, 0x10000; mov cr0, eax; mov eax, cr4; xor eax, 0x80; mov cr4, eax; "
       "push ecx; mov ecx, 0x175; xor edx, edx; wrmsr; mov ecx, 0x277; rdmsr; wrmsr; pop ecx; "
       "loop 1b; "
       "vmovups [edi], ymm0; vmovups [edi + 32], ymm1; vmovups [edi + 64], ymm2; vmovups [edi "
       "+ 96], ymm3; vmovups [edi + 128], ymm4; "
       "vmovups [edi + 160], ymm5; vmovups [edi + 192], ymm6; vmovups [edi + 224], ymm7");
    EQ(out.ebp, 40 * 8);
    EQ(differences(area[0], area[1], 256), 0);
    wrmsr(0x175, 0);
    xsetbv(1);
    paging_off();
    write_cr4(0);
}

static void avx512(void)
{
    if (!(one.ecx >> 28 & 1) || !(cpuid(7, 0).ebx >> 16 & 1))
        return;
    write_cr4(CR4_OSFXSR | CR4_OSXSAVE);
    xsetbv(7);
    IN(.esi = addr(area[0]), .edi = addr(area[1]));
    FAULT("vmovups zmm0, [esi]", UD, 0);
    xsetbv(0xe7);
    gate_set(0x50, 0x50, 0xee);
    trap_hook = on_int;
    pic_init(1);
    pit_start(1193);
    for (uint32_t c = 0; c < 2; c++) {
        pattern(area[0], 512, rep * 2 + c);
        IN(.cs = both[c], .esi = addr(area[0]), .edi = addr(area[1]), .ecx = 300, .eflags = IF,
           .eax = 0xa5a5, .ebx = 0x1234);
        OK("vmovups zmm0, [esi]; vmovups zmm1, [esi + 64]; vmovups zmm2, [esi + 128]; vmovups "
           "zmm7, [esi + 448]; kmovw k1, eax; kmovw k7, ebx; "
           "1: int 0x50; mov edx, 500; 2: dec edx; jnz 2b; ud2; loop 1b; "
           "vmovups [edi], zmm0; vmovups [edi + 64], zmm1; vmovups [edi + 128], zmm2; vmovups [edi "
           "+ 448], zmm7; kmovw eax, k1; kmovw ebx, k7");
        EQ(differences(area[0], area[1], 192), 0);
        EQ(differences(area[0] + 448, area[1] + 448, 64), 0);
        EQ(out.eax, 0xa5a5);
        EQ(out.ebx, 0x1234);
        /* A masked store writes only what the mask says, also where the rest would fault. */
        memset(area[1], 0xcc, 64);
        IN(.cs = both[c], .esi = addr(area[0]), .edi = addr(area[1]), .eax = 0x0f0f);
        OK("kmovw k1, eax; vmovups zmm0, [esi]; vmovups [edi]%{k1%}, zmm0");
        EQ(differences(area[0], area[1], 16), 0);
        EQ(word_at(area[1], 16), 0xcccccccc);
        EQ(differences(area[0] + 32, area[1] + 32, 16), 0);
        OK("xor eax, eax; mov edx, eax; vmovups zmm3, [esi]; mov eax, 0xe6; xsave [edi]; vzeroall; "
           "kxorw k1, k1, k1; xrstor [edi]; vmovups [esi + 512], zmm3; "
           "kmovw eax, k1");
        EQ(differences(area[0], area[0] + 512, 64), 0);
        EQ(out.eax, 0x0f0f);
    }
    OK("vzeroall; kxorw k1, k1, k1; kxorw k7, k7, k7");
    pit_stop();
    pic_init(0);
    gate_restore(0x50);
    xsetbv(1);
    write_cr4(0);
}

/* A fault in the middle of the operand list leaves all registers, x87's stack too, as they were. */
static void faults(void)
{
    frames_reset();
    uint32_t *pd = pd_new(0);
    paging_on(pd, CR4_OSFXSR);
    IN(.cs = UCODE, .esi = 0x50000000, .edi = addr(area[0]), .ebx = addr(area[1]));
    trap_hook = NULL;
    RUN("fninit; fldpi; fld1; fnsave [edi]; frstor [edi]; fadd qword ptr [esi]");
    EQ(out.vector, PF);
    OK("fnsave [ebx]");
    EQ(differences(area[0] + 28, area[1] + 28, 80), 0);
    EQ(word_at(area[0], 4), word_at(area[1], 4));
    EQ(word_at(area[0], 8), word_at(area[1], 8));
    OK("fninit; fldpi");
    FAULT("fstp qword ptr [esi]", PF, 6);
    FAULT("fistp dword ptr [esi]", PF, 6);
    FAULT("fld tbyte ptr [esi]", PF, 4);
    FAULT("movaps xmm0, [esi]", PF, 4);
    FAULT("movups [esi], xmm0", PF, 6);
    FAULT("fxsave [esi]", PF, 6);
    FAULT("fxrstor [esi]", PF, 4);
    FAULT("movq mm0, [esi]", PF, 4);
    OK("fstp tbyte ptr [edi]; fnstsw ax; fninit");
    EQ(word_at(area[0], 4), 0xc90fdaa2);
    EQ(out.eax >> 11 & 7, 0);
    paging_off();
}

void guest_main(void)
{
    one = cpuid(1, 0);
    write_cr0((read_cr0() & ~(CR0_EM | CR0_TS)) | CR0_NE | CR0_MP);
    GROUP(x87_values);
    GROUP(x87_kept);
    GROUP(instruction_pointer);
    UNLESS_QEMU(MF) GROUP(data_pointer);
    UNLESS_QEMU(FPU) GROUP(mmx);
    GROUP(sse_kept);
    GROUP(fxsave_format);
    GROUP(lazy_switch);
    GROUP(xsave_sizes);
    GROUP(avx);
    GROUP(avx_kept_by_system_instructions);
    GROUP(avx512);
    UNLESS_QEMU(FPU) GROUP(faults);
}
