/* exceptions.c - every exception vector: when it comes, with which error code, EIP, CR2 and EFLAGS.
 *
 * SDM 3A chapter 6: 6.5 (faults and traps), 6.12.1 (gates, flags), 6.13 (error codes), 6.14/6.15
 * (each exception), table 6-2 (priorities), table 6-5 (double faults); 17.3.1.1 (RF); SDM
 * 1 8.7, 11.5 (x87 and SIMD floating-point exceptions); SDM 2 for the instructions. #PF's many
 * forms are in paging.c, #TS and what needs a task gate in segments.c, single steps in
 * interrupts.c. */
#include "guest.h"

const char guest_name[] = "exceptions";

static uint32_t memory[64] USER __attribute__((aligned(64)));

static void divide(void)
{
    IN(.eax = 1, .edx = 0, .ecx = 0, .esi = addr(memory), .cs = rep & 1 ? UCODE : 0u,
       .eflags = CF | ZF | OFL);
    memory[0] = 0;
    FAULT("div ecx", DE, 0);
    FAULT("idiv ecx", DE, 0);
    FAULT("div cx", DE, 0);
    FAULT("div cl", DE, 0);
    FAULT("div dword ptr [esi]", DE, 0);
    FAULT("idiv byte ptr [esi + 3]", DE, 0);
    FAULT("aam 0", DE, 0);
    in.edx = 5, in.ecx = 5;
    FAULT("div ecx", DE, 0); /* the quotient is 2^32 */
    in.edx = 4;
    OK("div ecx");
    EQ(out.eax, 0xcccccccd); /* 4 * 2^32 + 1 over 5 */
    EQ(out.edx, 0);
    in.eax = 0x80000000, in.edx = 0xffffffff, in.ecx = 0xffffffff;
    FAULT("idiv ecx", DE, 0);
    in.eax = 0x8000, in.edx = 0xffff;
    FAULT("idiv cx", DE, 0);
    in.eax = 0xff80, in.ecx = 0x00ff;
    FAULT("idiv cl", DE, 0);
    in.eax = 0xff81;
    OK("idiv cl");
    EQ(out.eax, 127);
    in.eax = 0x0100, in.ecx = 1;
    FAULT("div cl", DE, 0);
    in.eax = 0xffffffff, in.edx = 0xffffffff, in.ecx = 0xffffffff;
    OK("idiv ecx");
    EQ(out.eax, 1);
    EQ(out.edx, 0);
    FAULT("mov ebx, 3; add ebx, ebx; xor ecx, ecx;" AT "div ecx", DE, 0);
    EQ(out.ebx, 6);
    EQ(out.eflags & ARITH, ZF | PFL);
}

static void software_traps(void)
{
    static const uint32_t selectors[] = {0, UCODE};
    for (uint32_t i = 0; i < 2; i++) {
        IN(.cs = selectors[i], .eflags = CF | OFL | ID);
        FAULT("int3;" AT, BP, 0);
        EQ(out.eflags, CF | OFL | ID | 2); /* a trap does not set RF */
        FAULT(".byte 0xcd, 3;" AT, BP, 0);
        FAULT("into;" AT, OF, 0);
        FAULT("int 4;" AT, OF, 0);
        in.eflags = CF;
        OK("into");
        FAULT("mov eax, 0x7fffffff; inc eax; into;" AT, OF, 0);
        gate_set(0x50, 0x50, 0xee);
        gate_set(0x0d, 0x51, 0xee); /* by INT no error code is pushed: entry 51h expects none */
        FAULT("int 0x50;" AT, 0x50, 0);
        FAULT("int 13;" AT, 0x51, 0);
        gate_restore(0x0d);
        gate_restore(0x50);
    }
    /* A gate's DPL is checked for INT n, INT3 and INTO, not for faults; the error code names the
     * gate. */
    IN(.cs = UCODE, .eflags = OFL);
    FAULT("int 0x50", GP, 0x50 * 8 + 2);
    FAULT("int 14", GP, 14 * 8 + 2);
    FAULT("int 0", GP, 0 * 8 + 2);
    gate_set(BP, BP, 0x8e);
    gate_set(OF, OF, 0x8e);
    FAULT("int3", GP, BP * 8 + 2);
    FAULT("into", GP, OF * 8 + 2);
    gate_restore(BP);
    gate_restore(OF);
    UNLESS_QEMU(INT1) FAULT(".byte 0xf1;" AT, DB, 0); /* INT1 ignores the DPL */
}

static void bound(void)
{
    int32_t *pair = (int32_t *)memory;
    pair[0] = -10, pair[1] = 20;
    IN(.esi = addr(memory), .cs = rep & 1 ? UCODE : 0u);
    static const struct {
        int32_t index;
        bool fails;
    } cases[] = {{-10, false}, {20, false},         {0, false},        {-11, true},
                 {21, true},   {-2147483647, true}, {0x7fffffff, true}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        in.eax = (uint32_t)cases[i].index;
        if (cases[i].fails)
            FAULT("bound eax, [esi]", BR, 0);
        else
            OK("bound eax, [esi]");
    }
    ((int16_t *)memory)[0] = -5, ((int16_t *)memory)[1] = 5;
    in.eax = 0x7777fffb;
    OK("bound ax, [esi]");
    in.eax = 6;
    FAULT("bound ax, [esi]", BR, 0);
    FAULT(".byte 0x62, 0xc0", UD, 0); /* a register as second operand */
}

static void undefined(void)
{
    IN(.cs = rep & 1 ? UCODE : 0u, .esi = addr(memory), .ebx = 7, .eflags = SF | ZF);
    FAULT("ud2", UD, 0);
    FAULT(".byte 0x0f, 0xb9, 0xc0", UD, 0); /* UD1 */
    FAULT(".byte 0x0f, 0xff, 0xc0", UD, 0); /* UD0 */
    FAULT(".byte 0x8e, 0xc8", UD, 0);       /* MOV CS */
    FAULT(".byte 0x8e, 0xf0", UD, 0);       /* MOV to segment register 6 */
    FAULT(".byte 0x8c, 0xf8", UD, 0);       /* MOV from segment register 7 */
    FAULT(".byte 0xc5, 0xf8, 0x77", UD, 0); /* VZEROUPPER without CR4.OSXSAVE */
    FAULT(".byte 0xff, 0xf8", UD, 0);       /* group 5 /7 */
    FAULT(".byte 0xfe, 0xd0", UD, 0);       /* group 4 /2 */
    FAULT(".byte 0xff, 0xd8", UD, 0);       /* CALL FAR register */
    FAULT(".byte 0xff, 0xe8", UD, 0);       /* JMP FAR register */
    UNLESS_QEMU(OPCODES)
    {
        FAULT(".byte 0x8f, 0xc8", UD, 0);       /* group 1A /1 */
        FAULT(".byte 0xc6, 0xc8, 0x00", UD, 0); /* group 11 /1 */
    }
    FAULT(".byte 0x0f, 0xb2, 0xc0", UD, 0); /* LSS register */
    FAULT(".byte 0x0f, 0x0a", UD, 0);
    FAULT(".byte 0x0f, 0x04", UD, 0);
    FAULT(".byte 0x0f, 0x24, 0xc0", UD, 0);    /* MOV from TR0 */
    FAULT(".byte 0x0f, 0xba, 0xc0, 1", UD, 0); /* group 8 /0 */
    FAULT(".byte 0x0f, 0x01, 0xf8", UD, 0);    /* SWAPGS exists in 64-bit mode only */
    FAULT(".byte 0x0f, 0x05", UD, 0);          /* SYSCALL without EFER.SCE */
    FAULT(".byte 0x0f, 0xae, 0xe0", UD, 0);    /* group 15 /4, register form */
    FAULT("mov ecx, 5; cmp ecx, 5;" AT "ud2", UD, 0);
    EQ(out.ecx, 5);
    EQ(out.eflags & ARITH, ZF | PFL);
    /* The length limit of 15 bytes comes before anything that the instruction would do. */
    OK(".fill 14, 1, 0x2e; nop");
    FAULT(".fill 15, 1, 0x2e; nop", GP, 0);
    FAULT(".fill 15, 1, 0x66; inc eax", GP, 0);
    FAULT(".fill 14, 1, 0x66; .byte 0x0f, 0x0b", GP, 0);
}

static void no_math(void)
{
    uint32_t cr0 = read_cr0();
    IN(.esi = addr(memory), .cs = rep & 1 ? UCODE : 0u);
    write_cr0(cr0 | CR0_TS | CR0_MP);
    FAULT("fninit", NM, 0);
    FAULT("fld1", NM, 0);
    FAULT("fnstsw ax", NM, 0);
    FAULT("fwait", NM, 0);
    UNLESS_QEMU(OPCODES) FAULT("emms", NM, 0);
    FAULT("movd mm0, eax", NM, 0);
    FAULT("fxsave [esi]", NM, 0);
    FAULT("fld dword ptr ds:[0xf0000000]", NM, 0);
    FAULT("xor eax, eax; inc eax;" AT "fldz", NM, 0);
    write_cr4(read_cr4() | CR4_OSFXSR);
    FAULT("xorps xmm0, xmm0", NM, 0);
    FAULT("ldmxcsr [esi]", NM, 0);
    OK("sfence; prefetchnta [esi]; pause"); /* not SSE state */
    write_cr0((cr0 & ~CR0_MP) | CR0_TS);
    OK("fwait"); /* WAIT looks at MP and TS both */
    FAULT("fld1", NM, 0);
    IN(.esi = addr(memory));
    FAULT("clts; fninit; mov eax, cr0; or eax, 8; mov cr0, eax;" AT "fninit", NM, 0);
    write_cr0((cr0 & ~CR0_TS) | CR0_EM);
    FAULT("fninit", NM, 0);
    OK("fwait");
    FAULT("movd mm0, eax", UD, 0);
    FAULT("xorps xmm0, xmm0", UD, 0);
    write_cr0(cr0 & ~(CR0_EM | CR0_TS));
    OK("fninit; fld1; fninit; xorps xmm0, xmm0");
    write_cr4(read_cr4() & ~CR4_OSFXSR);
    FAULT("xorps xmm0, xmm0", UD, 0);
    write_cr0(cr0);
}

static void math_fault(void)
{
    uint32_t cr0 = read_cr0();
    write_cr0((cr0 & ~(CR0_EM | CR0_TS)) | CR0_NE | CR0_MP);
    static const uint16_t control[] = {0x037b, 0x037e}; /* unmasked: zero divide; invalid */
    memory[0] = control[0];
    memory[1] = control[1];
    IN(.esi = addr(memory), .cs = rep & 1 ? UCODE : 0u, .ebx = 0x55);
    /* The exception stays pending until the next waiting instruction: that is the saved EIP. */
    FAULT("fninit; fldcw [esi]; fldz; fld1; fdivrp; nop; inc ebx;" AT "fwait", MF, 0);
    EQ(out.ebx, 0x56);
    FAULT("fninit; fldcw [esi]; fldz; fld1; fdivrp;" AT "fld1", MF, 0);
    FAULT("fninit; fldcw [esi]; fldz; fld1; fdivrp;" AT "fld dword ptr ds:[0xf0000000]", MF, 0);
    FAULT("fninit; fldcw [esi]; fldz; fld1; fdivrp; fnstsw ax; fnstcw [esi + 8];" AT "fstp st(0)",
          MF, 0);
    EQ(out.eax & 0x84, 0x84);
    FAULT("fninit; fldcw [esi + 4]; fld1; fchs; fsqrt;" AT "emms", MF, 0);
    OK("fninit; fldcw [esi]; fldz; fld1; fdivrp; fnclex; fwait; fnstsw ax; fninit");
    EQ(out.eax & 0x80ff, 0);
    OK("fninit; fldcw [esi]; fldz; fld1; fdivrp; fninit; fwait");
    OK("fninit; fldz; fld1; fdivrp; fwait; fnstsw ax; fninit"); /* masked */
    EQ(out.eax & 0xbf, 4);
    /* Unmasking later makes it pending. */
    FAULT("fninit; fldz; fld1; fdivrp; fldcw [esi];" AT "fwait", MF, 0);
    go(CODE("fnclex; fninit"));
    write_cr0(cr0);
}

static void simd_fault(void)
{
    uint32_t cr0 = read_cr0();
    if (!(cpuid(1, 0).edx >> 25 & 1))
        return;
    write_cr0(cr0 & ~(CR0_EM | CR0_TS));
    write_cr4(CR4_OSFXSR | CR4_OSXMMEXCPT);
    float one = 1, zero = 0;
    memcpy(&memory[0], &one, 4);
    memcpy(&memory[1], &zero, 4);
    memory[2] = 0x1f80 & ~(1u << 9); /* zero divide unmasked */
    memory[3] = 0x1f80;
    memory[4] = memory[0];
    IN(.esi = addr(memory), .cs = rep & 1 ? UCODE : 0u);
    UNLESS_QEMU(SIMD)
    {
        FAULT("ldmxcsr [esi + 8]; movss xmm0, [esi]; movss xmm1, [esi + 4];" AT "divss xmm0, xmm1",
              XM, 0);
        OK("stmxcsr [esi + 16]; movss [esi + 20], xmm0; ldmxcsr [esi + 12]");
        EQ(memory[4] & 0x3f, 4);
        EQ(memory[5], memory[0]); /* the destination keeps its value */
        FAULT("ldmxcsr [esi + 8]; movss xmm0, [esi];" AT "divss xmm0, dword ptr [esi + 4]", XM, 0);
    }
    OK("ldmxcsr [esi + 12]; movss xmm0, [esi]; divss xmm0, dword ptr [esi + 4]; movss [esi + 20], "
       "xmm0");
    EQ(memory[5], 0x7f800000);
    memory[6] = 0x10000; /* a reserved bit of MXCSR */
    UNLESS_QEMU(SIMD) FAULT("ldmxcsr [esi + 24]", GP, 0);
    FAULT("movaps xmm0, [esi + 4]", GP, 0); /* not aligned to 16 */
    FAULT("movaps [esi + 8], xmm0", GP, 0);
    UNLESS_QEMU(SIMD) FAULT("addps xmm0, [esi + 1]", GP, 0);
    OK("movups xmm0, [esi + 4]; movss xmm1, [esi + 1]");
    write_cr4(CR4_OSFXSR);
    UNLESS_QEMU(SIMD)
    FAULT("ldmxcsr [esi + 8]; movss xmm0, [esi];" AT "divss xmm0, dword ptr [esi + 4]", UD, 0);
    OK("ldmxcsr [esi + 12]");
    write_cr4(0);
    write_cr0(cr0);
}

static void alignment(void)
{
    UNLESS_QEMU(AC)
    {
        uint32_t cr0 = read_cr0();
        write_cr0((cr0 & ~(CR0_EM | CR0_TS)) | CR0_AM);
        IN(.esi = addr(memory) + 1, .edi = addr(memory) + 18, .cs = UCODE, .eflags = ACF | CF,
           .esp = addr(user_stack_top) - 64);
        FAULT("mov eax, [esi]", AC, 0);
        FAULT("mov [esi], eax", AC, 0);
        FAULT("mov ax, [esi]", AC, 0);
        FAULT("inc dword ptr [edi]", AC, 0);
        FAULT("mov eax, [edi]", AC, 0);
        FAULT("lodsd", AC, 0);
        FAULT("push dword ptr [esi]", AC, 0);
        FAULT("cmpxchg8b [esi + 3]", AC, 0);
        FAULT("fld qword ptr [esi + 3]", AC, 0);
        FAULT("lea ebx, [esi - 1];" AT "add dword ptr [ebx + 2], 3", AC, 0);
        OK("mov ax, [edi]; mov al, [esi]; inc byte ptr [esi]; mov eax, [esi + 3]; movsb; xlat");
        in.esp = addr(user_stack_top) - 62;
        FAULT("push eax", AC, 0);
        FAULT("pop eax", AC, 0);
        FAULT("call esi", AC, 0);
        OK("push ax; push eax");
        in.esp = 0, in.eflags = 0;
        OK("mov eax, [esi]"); /* AC clear */
        in.eflags = ACF, in.cs = 0;
        OK("mov eax, [esi]"); /* CPL 0 */
        in.cs = UCODE;
        write_cr0(read_cr0() & ~CR0_AM);
        OK("mov eax, [esi]"); /* AM clear */
        write_cr0(read_cr0() | CR0_AM);
        FAULT("pushfd; pop eax; and eax, 0xfffbffff; push eax; popfd; mov ebx, [esi]; or eax, "
              "0x40000; push eax; popfd;" AT "mov ebx, [esi]",
              AC, 0);
        write_cr0(cr0);
    }
}

/* What the handler finds: TF, NT, RF and VM clear, IF by the kind of gate, the rest as it was. The
 * saved image has them as they were (SDM 3A 6.12.1.3). */
extern uint8_t flags_entry[];
extern volatile uint32_t flags_found;
__asm__(".text\n"
        "flags_entry:\n"
        "        pushfl\n"
        "        popl %ss:flags_found\n"
        "        jmp trap_entries + 0x50 * 16\n"
        ".data\n.balign 4\n"
        "flags_found: .long 0\n"
        ".text");

static void flags_on_entry(void)
{
    static const uint32_t given[] = {
        0, IF, IF | CF | DFL, NT, NT | IOPL3 | SF, ACF | ID | IF, ARITH | DFL};
    for (size_t i = 0; i < COUNT(given); i++)
        for (uint32_t n = 0; n < 4; n++) {
            bool trap_gate = n & 1;
            outb(0x21, 0xff);
            outb(0xa1, 0xff);
            idt[0x50] = call_gate(KCODE, addr(flags_entry), trap_gate ? 0xef : 0xee, 0);
            IN(.eflags = given[i], .cs = n & 2 ? UCODE : 0u);
            OK("nop");
            EQ(out.eflags, given[i] | 2);
            FAULT("int 0x50;" AT, 0x50, 0);
            EQ(out.eflags, given[i] | 2);
            EQ(flags_found, (given[i] & ~(NT | (trap_gate ? 0u : IF))) | 2);
        }
    gate_restore(0x50);
}

/* Faults push RF = 1, so that an instruction breakpoint does not repeat; SDM 3A 17.3.1.1. */
static void resume_flag(void)
{
    IN(.eflags = CF, .cs = rep & 1 ? UCODE : 0u, .ebx = 0);
    UNLESS_QEMU(RF)
    {
        RUN("ud2");
        EQ(out.eflags, CF | RF | 2);
        RUN("div ebx");
        EQ(out.eflags, CF | RF | 2);
        RUN("mov fs, esp");
        EQ(out.eflags, CF | RF | 2);
        in.eflags = CF | RF;
        RUN("nop; int3");
        EQ(out.eflags, CF | 2); /* an instruction clears RF when it completes */
    }
    in.eflags = CF;
    RUN("int3");
    EQ(out.eflags, CF | 2);
    RUN("pushfd; pop eax");
    EQ(out.eax & RF, 0);
}

/* Faults in the delivery itself: which one is reported, and when it becomes a double fault. */
static void delivery_faults(void)
{
    static const uint32_t selectors[] = {0, UCODE};
    for (uint32_t i = 0; i < 2; i++) {
        IN(.cs = selectors[i], .ebx = 0);
        /* INT n: EXT is 0; an exception's delivery: EXT is 1. */
        gate_set(0x50, 0x50, 0x6e);
        FAULT("int 0x50", NP, 0x50 * 8 + 2);
        idt[0x50] = 0;
        FAULT("int 0x50", GP, 0x50 * 8 + 2);
        idt[0x50] = call_gate(KCODE, 0, 0xec, 0); /* a call gate is no interrupt gate */
        FAULT("int 0x50", GP, 0x50 * 8 + 2);
        idt[0x50] = call_gate(0, 0x1000, 0xee, 0);
        FAULT("int 0x50", GP, 0);
        idt[0x50] = call_gate(KDATA, 0x1000, 0xee, 0);
        FAULT("int 0x50", GP, KDATA);
        gdt_set(FREE, 0, 0xfffff, 0xc1b); /* code, not present */
        idt[0x50] = call_gate(FREE, 0x1000, 0xee, 0);
        FAULT("int 0x50", NP, FREE);
        idt[0x50] = call_gate(GDT_ENTRIES * 8, 0x1000, 0xee, 0);
        FAULT("int 0x50", GP, GDT_ENTRIES * 8);
        gate_restore(0x50);
        gate_set(UD, UD, 0x0e);
        UNLESS_QEMU(EXT) FAULT("ud2", NP, UD * 8 + 3);
        idt[UD] = 0;
        UNLESS_QEMU(EXT) FAULT("ud2", GP, UD * 8 + 3);
        gate_restore(UD);
        /* Contributory upon contributory: #DF, error code 0. */
        gate_set(DE, DE, 0x0e);
        FAULT("div ebx", DF, 0);
        gate_restore(DE);
        gate_set(GP, GP, 0x0e);
        FAULT("mov ds, esp", DF, 0);
        if (i)
            FAULT("int 0x51", DF, 0);
        gate_restore(GP);
        gate_set(NP, NP, 0x0e); /* benign #UD, then #NP, then #NP again: #DF */
        gate_set(UD, UD, 0x0e);
        FAULT("ud2", DF, 0);
        gate_restore(NP);
        gate_restore(UD);
    }
    /* Past the IDT's limit. */
    struct dtable small = {0x40 * 8 - 1, addr(idt)}, full = {sizeof(idt) - 1, addr(idt)};
    __asm__ volatile("lidt %0" : : "m"(small));
    IN();
    FAULT("int 0x40", GP, 0x40 * 8 + 2);
    in.cs = UCODE;
    FAULT("int 0xff", GP, 0xff * 8 + 2);
    FAULT("int 0x3f", GP, 0x3f * 8 + 2);
    __asm__ volatile("lidt %0" : : "m"(full));
}

/* Table 6-5's rows and columns for page faults. The IDT is two pages here: vectors 0-31 in one, the
 * rest in another that comes and goes. */
static void double_page_faults(void)
{
    enum { TABLE = 0x40000000 };
    frames_reset();
    uint32_t *pd = pd_new(0);
    uint32_t *low = frame_new(), *high = frame_new();
    memcpy((uint8_t *)low + 4096 - 0x20 * 8, idt, 0x20 * 8);
    memcpy(high, &idt[0x20], sizeof(idt) - 0x20 * 8);
    pd_map(pd, TABLE, addr(low), P | W);
    pd_map(pd, TABLE + 4096, addr(high), P | W);
    paging_on(pd, 0);
    struct dtable other = {sizeof(idt) - 1, TABLE + 4096 - 0x20 * 8},
                  full = {sizeof(idt) - 1, addr(idt)};
    __asm__ volatile("lidt %0" : : "m"(other));
    IN(.esi = 0xe0000000, .cs = rep & 1 ? UCODE : 0u, .ebx = rep & 1 ? 4 : 0);
    FAULT("mov eax, [esi]", PF, in.ebx);
    EQ(out.cr2, 0xe0000000);
    /* INT n whose gate cannot be read: a page fault like any other, at the INT. */
    pd_map(pd, TABLE + 4096, 0, 0);
    invlpg(TABLE + 4096);
    FAULT("int 0x50", PF, 0);
    EQ(out.cr2, TABLE + 4096 + 0x30 * 8);
    pd_map(pd, TABLE + 4096, addr(high), P | W);
    /* #PF whose gate is not present: #NP upon #PF is #DF. */
    uint64_t *gates = (uint64_t *)((uint8_t *)low + 4096 - 0x20 * 8), gate = gates[PF];
    gates[PF] &= ~(1ull << 47);
    FAULT("mov eax, [esi]", DF, 0);
    EQ(read_cr2(), 0xe0000000);
    gates[PF] = gate;
    /* #PF whose gate's code segment cannot be read: #PF upon #PF. */
    gates[PF] = (gate & ~0xffff0000ull) | 0x2000 << 16;
    gdt_load(&(struct dtable){0xffff, addr(gdt)});
    pd_map(pd, (addr(gdt) + 0x2000) & ~0xfffu, 0, 0);
    invlpg(addr(gdt) + 0x2000);
    FAULT("mov eax, [esi]", DF, 0);
    EQ(read_cr2(), addr(gdt) + 0x2000);
    /* #UD's the same way: benign, so the page fault is what is delivered. */
    gates[PF] = gate;
    gate = gates[UD];
    gates[UD] = (gate & ~0xffff0000ull) | 0x2000 << 16;
    FAULT("ud2", PF, 0);
    EQ(out.cr2, addr(gdt) + 0x2000);
    gdt_load(&(struct dtable){sizeof(gdt) - 1, addr(gdt)});
    __asm__ volatile("lidt %0" : : "m"(full));
    paging_off();
}

/* What is checked first. Table 6-2 and the "Operation" of each instruction. */
static void priorities(void)
{
    uint32_t cr0 = read_cr0();
    frames_reset();
    uint32_t *pd = pd_new(0);
    enum { ABSENT = 0x50000000 };
    paging_on(pd, 0);
    IN(.esi = ABSENT, .ebx = 0, .edx = 0, .cs = UCODE, .eax = 1);
    FAULT("div dword ptr [esi]", PF, 4); /* the operand comes before the division */
    FAULT("bound eax, [esi]", PF, 4);
    UNLESS_QEMU(UD_LATE) FAULT(".byte 0xf0, 0x03, 0x06", UD, 0); /* LOCK: before the access */
    UNLESS_QEMU(UD_LATE) FAULT(".byte 0x8e, 0x0e", UD, 0);       /* MOV CS, [absent] */
    FAULT("lgdt [esi]", GP, 0);                                  /* privilege before the access */
    FAULT("invlpg [esi]", GP, 0);
    FAULT("mov ds, [esi]", PF, 4);
    FAULT("in al, dx", GP, 0);
    in.edx = 0x60, in.edi = ABSENT;
    FAULT("insb", GP, 0); /* permission before the access */
    FAULT("outsb", GP, 0);
    FAULT("push dword ptr [esi]", PF, 4);
    in.esp = ABSENT;
    FAULT("push eax", PF, 6);
    EQ(out.cr2, ABSENT - 4);
    FAULT("pop eax", PF, 4);
    FAULT("ret", PF, 4);
    FAULT("call esi", PF, 6); /* the push comes before the fetch */
    in.esp = 0;
    /* Segment: type and privilege before presence. */
    gdt_set(FREE, 0, 0xfffff, 0xc19);      /* execute-only code, not present, DPL 0 */
    gdt_set(FREE + 8, 0, 0xfffff, 0xc13);  /* data, not present, DPL 0 */
    gdt_set(FREE + 16, 0, 0xfffff, 0xc73); /* data, not present, DPL 3 */
    gdt_set(FREE + 24, 0, 0xfffff, 0xcf1); /* data, read-only, DPL 3 */
    IN(.cs = UCODE, .eax = FREE | 3, .ebx = (FREE + 8) | 3, .ecx = (FREE + 16) | 3,
       .edx = (FREE + 24) | 3);
    FAULT("mov ds, eax", GP, FREE);
    FAULT("mov ds, ebx", GP, FREE + 8);
    FAULT("mov ds, ecx", NP, FREE + 16);
    FAULT("mov ss, eax", GP, FREE);
    FAULT("mov ss, ebx", GP, FREE + 8);
    FAULT("mov ss, ecx", SS, FREE + 16);
    FAULT("mov ss, edx", GP, FREE + 24);
    in.ecx &= ~3u;
    FAULT("mov ss, ecx", GP, FREE + 16); /* RPL 0 at CPL 3 */
    /* Read-only and limit before paging. */
    in.ds = (FREE + 24) | 3;
    UNLESS_QEMU(LIMITS) FAULT("mov dword ptr ds:[0x50000000], eax", GP, 0);
    FAULT("mov eax, ds:[0x50000000]", PF, 4);
    gdt_set(FREE, 0, 0x4000, 0xcf3); /* data up to 04000FFFh pages */
    in.ds = FREE | 3;
    UNLESS_QEMU(LIMITS) FAULT("mov eax, ds:[0x50000000]", GP, 0);
    /* #NM and #MF before the memory operand, #UD before #NM. */
    IN(.esi = ABSENT, .cs = UCODE);
    write_cr0(read_cr0() | CR0_TS);
    FAULT("fld dword ptr [esi]", NM, 0);
    UNLESS_QEMU(UD_LATE) FAULT(".byte 0xf0, 0xd9, 0x06", UD, 0);
    write_cr0(read_cr0() & ~CR0_TS);
    FAULT("fld dword ptr [esi]", PF, 4);
    FAULT("fnstcw [esi]", PF, 6);
    /* The code page's absence before anything in the instruction. */
    RUN("jmp esi");
    EQ(out.vector, PF);
    EQ(out.eip, ABSENT);
    EQ(out.cr2, ABSENT);
    paging_off();
    write_cr0(cr0);
}

void guest_main(void)
{
    write_cr0(read_cr0() & ~(CR0_EM | CR0_TS));
    GROUP(divide);
    GROUP(software_traps);
    GROUP(bound);
    GROUP(undefined);
    GROUP(no_math);
    UNLESS_QEMU(MF) GROUP(math_fault);
    GROUP(simd_fault);
    GROUP(alignment);
    GROUP(flags_on_entry);
    GROUP(resume_flag);
    GROUP(delivery_faults);
    GROUP(double_page_faults);
    GROUP(priorities);
}
