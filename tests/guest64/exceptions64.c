/* exceptions64.c - exceptions in 64-bit mode: when they come, with which error code, RIP, CR2 and
 * frame.
 *
 * SDM 3A chapter 6: 6.14 (64-bit mode: the IDT, the frame, IST, null SS), 6.13 (error codes), 6.15
 * (each exception), table 6-2 (priorities), table 6-5 (double faults); SDM 1 3.3.7.1 (canonical
 * addresses); SDM 3A 4.6 and 4.7 (access rights, page-fault error codes); SDM 2 for the
 * instructions. */
#include "guest64.h"

const char guest_name[] = "exceptions64";

static uint64_t memory[512] USER __attribute__((aligned(4096)));
static uint8_t code[2 * 4096] USER_CODE;

static uint64_t user_bit(void)
{
    return pass_cs == UCODE ? 4 : 0;
}

static void divide(void)
{
    memory[0] = 0;
    IN(.rax = 1, .rdx = 0, .r9 = 0, .r13 = HERE(memory), .cs = pass_cs, .rflags = CF | ZF | OFL);
    FAULT("div r9", DE, 0);
    FAULT("idiv r9", DE, 0);
    FAULT("div r9d", DE, 0);
    FAULT("div r9w", DE, 0);
    FAULT("div r9b", DE, 0);
    FAULT("div qword ptr [r13]", DE, 0);
    FAULT("idiv byte ptr [r13 + 3]", DE, 0);
    FAULT("div qword ptr [rip + memory]", DE, 0);
    in.rdx = 5, in.r9 = 5;
    FAULT("div r9", DE, 0); /* the quotient is 2^64 */
    in.rdx = 4;
    OK("div r9");
    EQ(out.rax, 0xcccccccccccccccd);
    EQ(out.rdx, 0);
    in.rax = 1ull << 63, in.rdx = -1ull, in.r9 = -1ull;
    FAULT("idiv r9", DE, 0);
    in.rax = 0x1180000000, in.rdx = 0xffffffff;
    FAULT("idiv r9d", DE, 0);
    in.rax = -1ull, in.rdx = -1ull, in.r9 = -1ull;
    OK("idiv r9");
    EQ(out.rax, 1);
    FAULT("mov rbx, 3; add rbx, rbx; xor r15, r15;" AT "div r15", DE, 0);
    EQ(out.rbx, 6);
    EQ(out.rflags & ARITH, ZF | PFL);
}

static void software_traps(void)
{
    IN(.cs = pass_cs, .rflags = CF | OFL | ID, .r15 = 15);
    FAULT("int3;" AT, BP, 0);
    EQ(out.rflags, CF | OFL | ID | 2); /* a trap does not set RF */
    FAULT(".byte 0xcd, 3;" AT, BP, 0);
    FAULT("int 4;" AT, OF, 0);
    gate_set(0x50, 0x50, 0xee);
    gate_set(0x0d, 0x51, 0xee); /* by INT no error code is pushed: entry 51h expects none */
    FAULT("int 0x50;" AT, 0x50, 0);
    FAULT("int 13;" AT, 0x51, 0);
    gate_restore(0x0d);
    gate_restore(0x50);
    if (pass_cs == UCODE)
        UNLESS_QEMU(GATE_INDEX)
        {
            /* A gate's DPL is checked for INT n and INT3; the error code names the gate. */
            FAULT("int 0x50", GP, 0x50 * 8 + 2);
            FAULT("int 14", GP, 14 * 8 + 2);
            FAULT("int 0", GP, 0 * 8 + 2);
            gate_set(BP, BP, 0x8e);
            FAULT("int3", GP, BP * 8 + 2);
            gate_restore(BP);
        }
    UNLESS_QEMU(INT1) FAULT(".byte 0xf1;" AT, DB, 0); /* INT1 ignores the DPL */
}

static void undefined(void)
{
    IN(.cs = pass_cs, .rsi = HERE(memory), .rbx = 7, .rflags = SF | ZF, .r14 = 14);
    FAULT("ud2", UD, 0);
    FAULT(".byte 0x0f, 0xb9, 0xc0", UD, 0); /* UD1 */
    FAULT(".byte 0x0f, 0xff, 0xc0", UD, 0); /* UD0 */
    FAULT(".byte 0x8e, 0xc8", UD, 0);       /* MOV CS */
    FAULT(".byte 0x8e, 0xf0", UD, 0);       /* MOV to segment register 6 */
    FAULT(".byte 0xff, 0xf8", UD, 0);       /* group 5 /7 */
    FAULT(".byte 0xfe, 0xd0", UD, 0);       /* group 4 /2 */
    FAULT(".byte 0xff, 0xd8", UD, 0);       /* far CALL of a register */
    FAULT(".byte 0x0f, 0x0a", UD, 0);
    FAULT(".byte 0x0f, 0x04", UD, 0);
    FAULT(".byte 0x0f, 0x24, 0xc0", UD, 0);    /* MOV from TR0 */
    FAULT(".byte 0x0f, 0xba, 0xc0, 1", UD, 0); /* group 8 /0 */
    FAULT(".byte 0x0f, 0xb2, 0xc0", UD, 0);    /* LSS of a register */
    FAULT("syscall", UD, 0);                   /* without EFER.SCE */
    FAULT("mov rcx, 5; cmp rcx, 5;" AT "ud2", UD, 0);
    EQ(out.rcx, 5);
    EQ(out.rflags & ARITH, ZF | PFL);
    if (!(read_cr4() & CR4_FSGSBASE)) {
        FAULT("rdfsbase rax", UD, 0);
        FAULT("wrgsbase r9", UD, 0);
    }
    /* The length limit of 15 bytes comes before anything that the instruction would do. */
    OK(".fill 14, 1, 0x2e; nop");
    OK(".fill 12, 1, 0x66; .byte 0x48, 0x89, 0xc0");
    FAULT(".fill 15, 1, 0x2e; nop", GP, 0);
    FAULT(".fill 14, 1, 0x66; .byte 0x0f, 0x0b", GP, 0);
    FAULT(".fill 13, 1, 0x66; .byte 0x48, 0x01, 0xc0", GP, 0);
    if (pass_cs == UCODE) { /* privileged */
        FAULT("hlt", GP, 0);
        FAULT("cli", GP, 0);
        FAULT("swapgs", GP, 0);
        FAULT("mov rax, cr0", GP, 0);
        FAULT("mov r9, cr8", GP, 0);
        FAULT("mov cr3, r15", GP, 0);
        FAULT("mov dr7, r15", GP, 0);
        FAULT("rdmsr", GP, 0);
        FAULT("wrmsr", GP, 0);
        FAULT("invlpg [rsi]", GP, 0);
        FAULT("lgdt [rsi]", GP, 0);
        FAULT("lidt [r14]", GP, 0);
        FAULT("lldt bx", GP, 0);
        FAULT("ltr bx", GP, 0);
        FAULT("lmsw bx", GP, 0);
        FAULT("clts", GP, 0);
        FAULT("wbinvd", GP, 0);
        FAULT("sysretq", UD, 0); /* without EFER.SCE */
        FAULT("in al, dx", GP, 0);
        FAULT("out 0x80, al", GP, 0);
        FAULT("rep insb", GP, 0);
    }
}

static void no_math(void)
{
    uint64_t cr0 = read_cr0(), cr4 = read_cr4();
    IN(.rsi = HERE(memory), .cs = pass_cs, .r9 = 0x123456789000);
    write_cr0(cr0 | CR0_TS | CR0_MP);
    FAULT("fninit", NM, 0);
    FAULT("fld1", NM, 0);
    FAULT("fwait", NM, 0);
    FAULT("movq mm0, rax", NM, 0);
    FAULT("movq xmm9, r9", NM, 0);
    FAULT("fxsave [rsi]", NM, 0);
    FAULT("fld dword ptr [r9]", NM, 0); /* before the page fault */
    FAULT("movups xmm15, [r9]", NM, 0);
    OK("sfence; prefetchnta [rsi]; pause; movnti [rsi], rax");
    write_cr0((cr0 | CR0_EM) & ~(uint64_t)CR0_TS);
    FAULT("fninit", NM, 0);
    FAULT("xorps xmm8, xmm0", UD, 0);
    write_cr0(cr0);
    write_cr4(cr4 & ~(uint64_t)CR4_OSFXSR);
    FAULT("xorps xmm8, xmm0", UD, 0);
    write_cr4(cr4);
    OK("fninit; xorps xmm8, xmm0; fld1; fstp st(0)");
}

static void math_and_simd_faults(void)
{
    memory[0] = 0x037b037b037b037b; /* zero divide unmasked */
    IN(.rsi = HERE(memory), .cs = pass_cs, .r15 = 0x55, .r9 = 0x123456789000);
    UNLESS_QEMU(MF)
    {
        FAULT("fninit; fldcw [rsi]; fldz; fld1; fdivrp; nop; inc r15;" AT "fwait", MF, 0);
        EQ(out.r15, 0x56);
        FAULT("fninit; fldcw [rsi]; fldz; fld1; fdivrp;" AT "fld dword ptr [r9]", MF, 0);
        OK("fnclex; fninit");
    }
    float one = 1, zero = 0;
    uint32_t *words = (uint32_t *)memory;
    memcpy(&words[0], &one, 4);
    memcpy(&words[1], &zero, 4);
    words[2] = 0x1f80 & ~(1u << 9); /* zero divide unmasked */
    words[3] = 0x1f80;
    UNLESS_QEMU(SIMD)
    {
        FAULT("ldmxcsr [rsi + 8]; movss xmm8, [rsi]; movss xmm15, [rsi + 4];" AT
              "divss xmm8, xmm15",
              XM, 0);
        FAULT("ldmxcsr [rsi + 8]; movss xmm12, [rsi];" AT "divss xmm12, dword ptr [rsi + 4]", XM,
              0);
        OK("stmxcsr [rsi + 16]; movss [rsi + 20], xmm12; ldmxcsr [rsi + 12]");
        EQ(words[4] & 0x3f, 4);
        EQ(words[5], words[0]); /* the destination keeps its value */
        words[6] = 0x10000;     /* a reserved bit of MXCSR */
        FAULT("ldmxcsr [rsi + 24]", GP, 0);
        FAULT("addps xmm9, [rsi + 1]", GP, 0);
    }
    FAULT("movaps xmm8, [rsi + 4]", GP, 0); /* not aligned to 16 */
    FAULT("movaps [rsi + 8], xmm13", GP, 0);
    OK("ldmxcsr [rsi + 12]; movups xmm10, [rsi + 4]; movss xmm11, [rsi + 1]");
}

/* The frame: always SS:RSP, aligned to 16 bytes downward from the old or the new stack pointer. */
static uint64_t frame_at, frame_ss;

static bool note_frame(struct frame *frame)
{
    uint32_t ss;
    __asm__ volatile("movl %%ss, %0" : "=r"(ss));
    frame_at = addr(frame) + sizeof(*frame);
    frame_ss = ss & 0xffff;
    return false;
}

static void frame_layout(void)
{
    const struct snip *snips[] = {CODE("int3;" AT), CODE("ud2"), CODE("mov rax, [r9]"),
                                  CODE("mov ds, r8w")};
    static const uint8_t vectors[] = {BP, UD, PF, GP};
    trap_hook = note_frame;
    for (uint32_t n = 0; n < COUNT(snips); n++)
        for (uint32_t low = 0; low < 16; low++) {
            ist_all(0);
            tss.rsp[0] = addr(trap_stack_top) - low;
            uint64_t top = pass_cs == UCODE ? addr(user_stack_top) : HERE(kernel_stack_top);
            IN(.cs = pass_cs, .rsp = top - 64 - low, .r9 = 0x123456789000, .r8 = 0xfff8);
            go(snips[n]);
            CHECK(out.vector, vectors[n], "vector", n);
            CHECK(out.rsp, in.rsp, "saved rsp", low);
            CHECK(out.cs, pass_cs, "saved cs", low);
            CHECK(out.ss, pass_cs == UCODE ? UDATA : KDATA, "saved ss", low);
            CHECK(frame_at, (pass_cs == UCODE ? tss.rsp[0] : in.rsp) & -16ull, "frame", low);
            CHECK(frame_ss, pass_cs == UCODE ? 0 : KDATA, "ss in the handler", low);
            tss.rsp[0] = addr(trap_stack_top);
            /* Each IST entry. */
            uint32_t ist = 3 + low % 5;
            tss.ist[ist - 1] = addr(ist_stack_top) - 512 * (ist - 2) - low;
            idt[vectors[n]].ist = (uint8_t)ist;
            go(snips[n]);
            CHECK(out.vector, vectors[n], "vector with IST", n);
            CHECK(out.rsp, in.rsp, "saved rsp with IST", low);
            CHECK(frame_at, tss.ist[ist - 1] & -16ull, "frame with IST", ist);
            if (pass_cs == UCODE)
                CHECK(frame_ss, 0, "ss in the handler with IST", low);
        }
    ist_all(0);
    /* Nested: the hook faults in turn, on the same stack and on an IST. */
    trap_hook = NULL;
    IN(.cs = pass_cs);
    FAULT("mov r8, 0x4000; nop;" AT "mov ds, r8w", GP, 0x4000);
}

/* What the handler finds: TF, NT and RF clear, IF by the kind of gate, the rest as it was. */
extern uint8_t flags_entry[];
extern volatile uint64_t flags_found;
__asm__(".text\n"
        "flags_entry:\n"
        "        pushfq\n"
        "        popq flags_found\n"
        "        jmp trap_entries + 0x50 * 16\n"
        ".data\n.balign 8\n"
        "flags_found: .quad 0\n"
        ".text");

static void flags_on_entry(void)
{
    static const uint64_t given[] = {
        0, IF, IF | CF | DFL, NT, NT | IOPL3 | SF, ACF | ID | IF, ARITH | DFL};
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    for (size_t i = 0; i < COUNT(given); i++)
        for (uint32_t trap_gate = 0; trap_gate < 2; trap_gate++) {
            idt[0x50] = gate_make(KCODE, addr(flags_entry), trap_gate ? 0xef : 0xee, 0);
            IN(.rflags = given[i], .cs = pass_cs);
            OK("nop");
            EQ(out.rflags, given[i] | 2);
            FAULT("int 0x50;" AT, 0x50, 0);
            EQ(out.rflags, given[i] | 2);
            EQ(flags_found, (given[i] & ~(NT | (trap_gate ? 0u : IF))) | 2);
        }
    gate_restore(0x50);
    IN(.rflags = CF, .cs = pass_cs);
    UNLESS_QEMU(RF)
    {
        RUN("ud2"); /* faults push RF = 1; SDM 3A 17.3.1.1 */
        EQ(out.rflags, CF | RF | 2);
        in.rflags = CF | RF;
        RUN("nop; int3");
        EQ(out.rflags, CF | 2);
    }
}

/* Loads of segment registers and far transfers with selectors that do not fit. */
static void selectors(void)
{
    gdt_set(FREE, 0, 0xfffff, 0xa19);      /* 64-bit code, execute-only, not present, DPL 0 */
    gdt_set(FREE + 8, 0, 0xfffff, 0xc13);  /* data, not present, DPL 0 */
    gdt_set(FREE + 16, 0, 0xfffff, 0xc73); /* data, not present, DPL 3 */
    gdt_set(FREE + 24, 0, 0xfffff, 0xcf1); /* data, read-only, DPL 3 */
    gdt_set(FREE + 32, 0, 0xfffff, 0xefb); /* code with L and D: reserved */
    gdt_set(FREE + 40, 0, 0xfffff, 0xaf9); /* execute-only 64-bit code, DPL 3 */
    uint64_t cpl = pass_cs & 3;
    IN(.cs = pass_cs, .rax = FREE | 3, .rbx = (FREE + 8) | 3, .rcx = (FREE + 16) | 3,
       .r8 = (FREE + 24) | 3, .r9 = GDT_ENTRIES * 8, .r10 = 0x14, .r11 = (FREE + 40) | 3,
       .r12 = TSS, .rdi = 3, .rdx = cpl ? KDATA : UDATA);
    FAULT("mov ds, ax", GP, FREE);
    FAULT("mov ds, cx", NP, FREE + 16);
    FAULT("mov es, r9w", GP, GDT_ENTRIES * 8);
    FAULT("mov fs, r10w", GP, 0x14); /* in the LDT, which is null */
    FAULT("mov gs, r11w", GP, FREE + 40);
    FAULT("mov ds, r12w", GP, TSS);
    FAULT("mov ss, ax", GP, FREE);
    FAULT("mov ss, dx", GP, cpl ? KDATA : UDATA & ~3u); /* DPL is not CPL */
    FAULT("mov ss, r8w", GP, FREE + 24);
    OK("mov ds, r8w; mov es, rdi; mov fs, edi; mov gs, edi; mov ds, edi"); /* null with any RPL */
    EQ(out.es, 3);
    if (cpl) {
        FAULT("mov ds, bx", GP, FREE + 8);
        FAULT("mov ss, cx", SS, FREE + 16);
        FAULT("mov ss, di", GP, 0); /* null */
        FAULT("xor edi, edi;" AT "mov ss, edi", GP, 0);
    } else {
        UNLESS_QEMU(NULL_SS) FAULT("mov ss, di", GP, 0);    /* RPL 3 */
        OK("xor edi, edi; mov ss, edi; push rdi; pop rdi"); /* null SS at CPL 0 */
        EQ(out.ss, 0);
        in.rbx = FREE + 8;
        FAULT("mov ss, bx", SS, FREE + 8);
        FAULT("mov ds, bx", NP, FREE + 8);
    }
    /* Far JMP and RET to code segments that cannot be. */
    static struct {
        uint32_t offset;
        uint16_t selector;
    } __attribute__((packed)) far_pointer USER;
    far_pointer.offset = (uint32_t)addr(code);
    static const struct {
        uint16_t selector, vector, error;
    } cases[] = {{0, GP, 0},
                 {FREE + 32, GP, FREE + 32 /* must be the second */},
                 {KDATA, GP, KDATA},
                 {GDT_ENTRIES * 8 + 3, GP, GDT_ENTRIES * 8},
                 {UDATA, GP, UDATA & ~3u},
                 {TSS, GP, TSS},
                 {LDT, GP, LDT}};
    IN(.cs = pass_cs, .rsi = HERE(&far_pointer));
    for (uint32_t i = 0; i < COUNT(cases); i++) {
        if (i == 1 && skipped(D_CODE_LD))
            continue;
        far_pointer.selector = (uint16_t)(cases[i].selector | (cpl && cases[i].selector ? 3 : 0));
        FAULTS(CODE("jmp far ptr [rsi]"), cases[i].vector, cases[i].error, i);
        FAULTS(CODE("call far ptr [rsi]"), cases[i].vector, cases[i].error, i);
        in.r8 = far_pointer.selector;
        FAULTS(CODE("push r8; push 0x400000; mov r9, rsp;" AT "retfq"), cases[i].vector,
               cases[i].error, i);
        CHECK(out.rsp, out.r9, "rsp kept by RETF", i);
    }
    for (uint32_t i = 0; i < 6; i++)
        gdt[(FREE >> 3) + i] = 0;
}

/* Addresses that are not canonical, by all ways of naming memory: #SS(0) where the stack segment is
 * the default (rsp or rbp as base, pushes and pops), else #GP(0). */
static void non_canonical(void)
{
    ist_all(1);
    static const uint64_t bad[] = {0x800000000000,     0xffff7fffffff0000, 0x1234567812345678,
                                   0x8000000000000000, 0xfffe000000000000, 0xffff7ffffffff000};
    for (uint32_t i = 0; i < COUNT(bad); i++) {
        uint64_t b = bad[i];
        IN(.cs = pass_cs, .rax = b, .rbx = b, .rcx = 5, .rdx = 3, .rsi = b, .rdi = b, .rbp = b,
           .r8 = b, .r9 = 2, .r10 = b, .r11 = 0x11, .r12 = b, .r13 = b, .r14 = b, .r15 = b - 16,
           .fs_base = 0, .gs_base = 0xffff800000000000);
        FAULT("mov rdx, [rax]", GP, 0);
        FAULT("mov [rbx], dl", GP, 0);
        FAULT("mov edx, [rsi + 4]", GP, 0);
        FAULT("add [rdi], rdx", GP, 0);
        FAULT("lock inc word ptr [r8]", GP, 0);
        FAULT("mov rdx, [r15 + r9 * 8]", GP, 0);
        FAULT("mov dl, [r10 + 1]", GP, 0);
        FAULT("xchg [r12], rdx", GP, 0); /* r12 and r13 are not stack bases */
        FAULT("mov [r13], edx", GP, 0);
        FAULT("mov rdx, [r9 + r14 - 2]", GP, 0);
        FAULT("cmp qword ptr [r14], 5", GP, 0);
        FAULT("mov rdx, fs:[rax]", GP, 0);
        FAULT("mov rdx, ss:[rax]", GP, 0);
        FAULT("push qword ptr [rax]", GP, 0);
        FAULT("pop qword ptr [rax]", GP, 0);
        FAULT("call [rbx]", GP, 0);
        FAULT("jmp [r10]", GP, 0);
        FAULT("movups xmm9, [r8]", GP, 0);
        FAULT("movq [r12], xmm15", GP, 0);
        FAULT("fld qword ptr [rax]", GP, 0);
        FAULT("fxsave [rax]", GP, 0);
        FAULT("xlat", GP, 0);
        FAULT("bt [r8], rdx", GP, 0);
        FAULT("bts [r14], rdx", GP, 0);
        FAULT("lodsb", GP, 0);
        FAULT("stosq", GP, 0);
        FAULT("movsd", GP, 0);
        FAULT("cmpsb", GP, 0);
        FAULT("movzx edx, word ptr [r13]", GP, 0);
        FAULT("cmpxchg8b [rsi]", GP, 0);
        FAULT("movnti [rsi], rdx", GP, 0);
        UNLESS_QEMU(CLFLUSH) FAULT("clflush [rsi]", GP, 0);
        FAULT("mov rdx, [rbp * 1]", GP, 0); /* an index is not a base */
        FAULT("mov rdx, [r9 + rbp - 2]", GP, 0);
        OK("lea rdx, [rax]; lea rdx, [rbp + rbp]; nop dword ptr [rax]; prefetcht0 [rax]");
        UNLESS_QEMU(STACK_FAULT)
        {
            FAULT("mov rdx, [rbp]", SS, 0);
            FAULT("mov [rbp + 4], dl", SS, 0);
            FAULT("inc qword ptr [rbp + r9 * 1 - 2]", SS, 0);
            FAULT("mov rdx, ds:[rbp]", SS, 0); /* DS, ES, SS and CS prefixes change nothing */
            FAULT("leave", SS, 0);
            in.rsp = b;
            FAULT("mov rdx, [rsp]", SS, 0);
            FAULT("and qword ptr [rsp + 8], -16", SS, 0);
            FAULT("pop rdx", SS, 0);
            FAULT("ret", SS, 0);
            FAULT("popfq", SS, 0);
            FAULT("mov rdx, fs:[rsp]", GP, 0);
            FAULT("movups xmm1, [rsp]", SS, 0);
            in.rsp = b + (b == 0x800000000000 ? 16 : 0);
            FAULT("push rdx", SS, 0);
            FAULT("call r11", SS, 0);
            FAULT("pushfq", SS, 0);
            FAULT("enter 8, 0", SS, 0);
            FAULT("push [rip + memory]", SS, 0);
            in.rsp = 0;
        }
    }
    /* Over the edges: the first part of the operand is canonical, the rest is not. */
    frames_reset();
    uint64_t *root = space_new();
    map(root, 0x7ffffffff000, addr(memory), P | W | U);
    map(root, 0xffff800000000000, addr(memory), P | W);
    write_cr3(addr(root));
    IN(.cs = pass_cs, .rsi = 0x7ffffffffffc, .rsp = 0x800000000000, .rcx = 3, .r9 = 0x7ffffffffff0);
    OK("mov eax, [rsi]; push rax; pop rax; mov r8, [rsi - 4]; lea rdi, [rsi - 4]; movups xmm3, "
       "[r9]");
    FAULT("mov rax, [rsi]", GP, 0);
    FAULT("mov [rsi + 1], eax", GP, 0);
    FAULT("lock add [rsi], rax", GP, 0);
    FAULT("movups xmm3, [r9 + 1]", GP, 0);
    FAULT("mov rax, [rsi + rcx * 8]", GP, 0);
    UNLESS_QEMU(STACK_FAULT) FAULT("pop rax", SS, 0);
    if (pass_cs == KCODE) {
        IN(.rsi = 0xffff7ffffffffffc, .r12 = 0xffff800000000000);
        OK("mov rax, [r12]; mov rax, [rsi + 4]");
        FAULT("mov rax, [rsi]", GP, 0);
        FAULT("mov [rsi + 3], ax", GP, 0);
        FAULT("mov al, [r12 - 1]", GP, 0);
    }
    /* Hot code that meets a bad pointer at last. */
    for (uint32_t i = 0; i < 64; i++)
        memory[i] = HERE(memory) + 1024;
    memory[40] = 0x5555aaaa00000000;
    IN(.cs = pass_cs, .rsi = HERE(memory));
    FAULT("1: mov rax, [rsi]; lea rsi, [rsi + 8];" AT "add rbx, [rax]; inc rcx; jmp 1b", GP, 0);
    EQ(out.rcx, 40);
    EQ(out.rax, memory[40]);
}

/* Branches to what is not canonical: #GP(0) at the branch, nothing pushed or popped. */
static void non_canonical_rip(void)
{
    static const uint64_t bad[] = {0x800000000000, 0xffff7fffffffffff, 0x1234567812345678,
                                   0x8000000000000000};
    for (uint32_t i = 0; i < COUNT(bad); i++) {
        memory[0] = bad[i];
        IN(.cs = pass_cs, .rax = bad[i], .r12 = bad[i], .rsi = HERE(memory),
           .rsp = HERE(memory) + 2048);
        UNLESS_QEMU(BAD_RIP)
        {
            FAULT("jmp rax", GP, 0);
            FAULT("jmp r12", GP, 0);
            FAULT("call rax", GP, 0);
            FAULT("call r12", GP, 0);
            FAULT("jmp [rsi]", GP, 0);
            FAULT("call [rsi]", GP, 0);
            FAULT("call [rip + memory]", GP, 0);
            memory[256] = bad[i];
            FAULT("ret", GP, 0);
            FAULT("ret 16", GP, 0);
            FAULT("nop; mov rbx, 3; push rax; mov r9, rsp;" AT "ret", GP, 0);
            EQ(out.rsp, out.r9);
        }
        if (pass_cs == KCODE) {
            IN(.rax = bad[i], .rbx = KCODE, .rcx = UCODE, .rdx = UDATA, .r8 = KDATA);
            UNLESS_QEMU(BAD_RIP)
            {
                FAULT("push r8; push rsp; pushfq; push rbx; push rax; mov r9, rsp;" AT "iretq", GP,
                      0);
                EQ(out.rsp, out.r9);
                FAULT("push rdx; push rsp; pushfq; push rcx; push rax; mov r9, rsp;" AT "iretq", GP,
                      0);
                EQ(out.cs, KCODE);
                FAULT("push rbx; push rax; mov r9, rsp;" AT "retfq", GP, 0);
                EQ(out.rsp, out.r9);
            }
        }
        /* Whatever the saved RIP: #GP(0) it is, and nothing else has changed. */
        IN(.cs = pass_cs, .rax = bad[i], .r15 = 15);
        RUN("jmp rax");
        EQ(out.vector, GP);
        EQ(out.error, 0);
        EQ(out.r15, 15);
    }
    /* Execution that runs on to the end of the lower half, and a short jump over it. */
    frames_reset();
    uint64_t *root = space_new();
    map(root, 0x7ffffffff000, addr(code), P | W | U);
    write_cr3(addr(root));
    memset(code + 4096 - 8, 0x90, 8);
    IN(.cs = pass_cs, .rip = 0x7ffffffffff8);
    RUN("nop");
    EQ(out.vector, GP);
    EQ(out.error, 0);
    EQ(out.rip, 0x800000000000);
    memcpy(code + 4096 - 8, (const uint8_t[]){0x90, 0xeb, 0x10}, 3);
    RUN("nop");
    EQ(out.vector, GP);
    UNLESS_QEMU(BAD_RIP) EQ(out.rip, 0x7ffffffffff9);
    /* An instruction whose end is not canonical. */
    memcpy(code + 4096 - 8, (const uint8_t[]){0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x48, 0x89}, 8);
    RUN("nop");
    EQ(out.vector, GP);
    EQ(out.rip, 0x7ffffffffffe);
}

/* Page faults: every bit of the error code, CR2, and RIP. */
enum { PAGE = 0x123456000 };

static void page_faults(void)
{
    frames_reset();
    uint64_t *root = space_new(), user = user_bit();
    ist_all(1);
    write_cr3(addr(root));
    map(root, PAGE + 0x1000, addr(memory), P);            /* supervisor, read-only */
    map(root, PAGE + 0x2000, addr(memory), P | W);        /* supervisor */
    map(root, PAGE + 0x3000, addr(memory), P | U);        /* user, read-only */
    map(root, PAGE + 0x4000, addr(memory), P | W | U);    /* user */
    map(root, PAGE + 0x5000, addr(code), P | W | U | NX); /* not executable */
    map(root, PAGE + 0x6000, addr(code), P | U);
    map(root, PAGE + 0x7000, addr(code), P | U | NX);
    map(root, PAGE + 0x8000, addr(code), P);
    IN(.cs = pass_cs, .rsi = PAGE, .r9 = PAGE + 0x100, .rdx = 3, .rcx = 2);
    FAULT("mov rax, [rsi]", PF, user);
    EQ(out.cr2, PAGE);
    FAULT("mov [r9 + 8], rax", PF, user | 2);
    EQ(out.cr2, PAGE + 0x108);
    FAULT("mov al, [rsi + rdx * 8 + 5]", PF, user);
    EQ(out.cr2, PAGE + 29);
    FAULT("mov byte ptr [rsi + 0xfff], 1", PF, user | 2);
    EQ(out.cr2, PAGE + 0xfff);
    UNLESS_QEMU(RMW)
    {
        FAULT("add [r9], rax", PF, user | 2);
        FAULT("lock xadd [r9], rax", PF, user | 2);
        FAULT("btc qword ptr [r9], 5", PF, user | 2);
    }
    FAULT("cmp [r9], rax", PF, user);
    FAULT("push [r9]", PF, user);
    FAULT("pop [r9]", PF, user | 2);
    FAULT("movups xmm14, [r9]", PF, user);
    FAULT("movntps [r9], xmm14", PF, user | 2);
    FAULT("call [r9]", PF, user);
    FAULT("mov rax, [0x70000000]", PF, user);
    EQ(out.cr2, 0x70000000);
    /* Across pages: CR2 is the first byte that is not there; nothing is written. */
    in.r9 = PAGE + 0x5000 - 5, in.rsi = PAGE + 0x1000 - 3, memory[511] = 0x1111111111111111;
    if (user)
        FAULT("mov rax, [rsi]", PF, 4);
    else
        FAULT("mov rax, [rsi]", PF, 0);
    EQ(out.cr2, PAGE + 0x1000 - 3);
    OK("mov [r9], rax");
    EQ(memory[511], 0x0000000000111111);
    in.r9 = PAGE + 0x9000 - 5;
    FAULT("mov rax, [r9]", PF, user ? 5 : 0);
    EQ(out.cr2, user ? PAGE + 0x9000 - 5 : PAGE + 0x9000);
    /* Rights. */
    static const uint8_t read_faults[] = {0xff, 1, 1, 0, 0}, write_faults[] = {0xff, 1, 1, 1, 0};
    for (uint32_t i = 1; i < 5; i++) {
        in.rsi = PAGE + i * 0x1000, memory[8] = 77;
        if (user && read_faults[i]) {
            FAULTS(CODE("mov rax, [rsi + 64]"), PF, 5, i);
            FAULTS(CODE("mov [rsi + 64], rax"), PF, 7, i);
            CHECK(out.cr2, in.rsi + 64, "cr2", i);
        } else {
            OK("mov rax, [rsi + 64]");
            CHECK(out.rax, 77, "read", i);
            bool faults = user ? write_faults[i] : i == 1 || i == 3; /* CR0.WP = 1 */
            if (faults) {
                FAULTS(CODE("mov [rsi + 64], rdx"), PF, 3 | user, i);
                FAULTS(CODE("lock inc qword ptr [rsi + 64]"), PF, 3 | user, i);
            } else {
                OK("mov [rsi + 64], rdx");
                CHECK(memory[8], 3, "write", i);
            }
        }
    }
    if (!user) { /* WP = 0: the supervisor writes everywhere */
        write_cr0(read_cr0() & ~(uint64_t)CR0_WP);
        for (uint32_t i = 1; i < 5; i++) {
            in.rsi = PAGE + i * 0x1000, in.rdx = i + 100;
            OK("mov [rsi + 64], rdx");
            CHECK(memory[8], i + 100, "write with WP = 0", i);
        }
        write_cr0(read_cr0() | CR0_WP);
        in.rsi = PAGE + 0x1000;
        FAULT("mov [rsi + 64], rdx", PF, 3);
    }
}

/* Instruction fetches: absent, supervisor, NX, SMEP, and instructions that lie over two pages. */
static void fetch_faults(void)
{
    frames_reset();
    uint64_t *root = space_new(), user = user_bit();
    ist_all(1);
    write_cr3(addr(root));
    map(root, PAGE + 0x1000, addr(code), P | W | U);
    map(root, PAGE + 0x2000, addr(code), P | U | NX);
    map(root, PAGE + 0x3000, addr(code), P);
    map(root, PAGE + 0x4000, addr(code), P | W | U);
    map(root, PAGE + 0x6000, addr(code), P | W | U);
    map(root, PAGE + 0x7000, addr(code), P | U | NX);
    memcpy(code, (const uint8_t[]){0x49, 0xff, 0xc1, 0xc3}, 4); /* inc r9; ret */
    memset(code + 4096 - 16, 0x90, 16);
    memcpy(code + 4096 - 6, (const uint8_t[]){0x49, 0xba, 1, 2, 3, 4}, 6); /* movabs r10, ... */
    static const struct {
        uint64_t at;
        uint8_t error;      /* at CPL 0 without SMEP, without the U bit; ff: runs */
        uint8_t user_error; /* at CPL 3 */
    } cases[] = {{0, 0x10, 0x14},
                 {0x1000, 0xff, 0xff},
                 {0x2000, 0x11, 0x15},
                 {0x3000, 0xff, 0x15},
                 {0x5000, 0x10, 0x14}};
    for (uint32_t i = 0; i < COUNT(cases); i++) {
        uint8_t error = user ? cases[i].user_error : cases[i].error;
        IN(.cs = pass_cs, .rax = PAGE + cases[i].at);
        for (int hot = 0; hot < 3; hot++) {
            RUN("call rax");
            CHECK(out.vector, error == 0xff ? DONE : PF, "vector", i);
            if (error != 0xff) {
                CHECK(out.error, error, "fetch", i);
                CHECK(out.rip, in.rax, "rip", i);
                CHECK(out.cr2, in.rax, "cr2", i);
            } else {
                CHECK(out.r9, 1, "ran", i);
            }
        }
    }
    /* Over the end of a page into NX, absent, supervisor. */
    static const struct {
        uint64_t page;
        uint8_t error, user_error;
    } ends[] = {{0x1000, 0x11, 0x15}, {0x4000, 0x10, 0x14}, {0x6000, 0x11, 0x15}};
    for (uint32_t i = 0; i < COUNT(ends); i++) {
        IN(.cs = pass_cs, .rip = PAGE + ends[i].page + 4096 - 16);
        RUN("nop");
        CHECK(out.vector, PF, "vector", i);
        CHECK(out.rip, PAGE + ends[i].page + 4096 - 6, "rip", i);
        CHECK(out.cr2, PAGE + ends[i].page + 4096, "cr2", i);
        CHECK(out.error, user ? ends[i].user_error : ends[i].error, "error", i);
    }
    /* NX changes under hot code. */
    for (uint32_t i = 0; i < 6; i++) {
        map(root, PAGE + 0x1000, addr(code), P | W | U | (i & 1 ? NX : 0));
        invlpg(PAGE + 0x1000);
        IN(.cs = pass_cs, .rax = PAGE + 0x1000);
        RUN("call rax");
        CHECK(out.vector, i & 1 ? PF : DONE, "NX comes and goes", i);
    }
    /* EFER.NXE = 0: the bit is reserved. */
    UNLESS_QEMU(RSVD)
    {
        map(root, PAGE + 0x1000, addr(code), P | W | U | NX);
        wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~(uint64_t)EFER_NXE);
        invlpg(PAGE + 0x1000);
        IN(.cs = pass_cs, .rax = PAGE + 0x1000);
        FAULT("mov rbx, [rax]", PF, 9 | user);
        wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
    }
    if (!(cpuid(7, 0).ebx >> 7 & 1) || user)
        return;
    /* SMEP: CPL 0 runs nothing from a user page. The snippet itself must be in the alias. */
    map(root, PAGE + 0x1000, addr(code), P | W | U);
    uint64_t base = pass_base;
    pass_base = pass_base ? pass_base : DIRECT;
    for (uint32_t i = 0; i < 4; i++) {
        write_cr4(read_cr4() | CR4_SMEP);
        IN(.rax = PAGE + 0x1000);
        RUN("call rax");
        EQ(out.vector, PF);
        EQ(out.error, 0x11);
        EQ(out.rip, in.rax);
        in.rax = PAGE + 0x3000; /* a supervisor page */
        OK("call rax");
        in.rax = PAGE + 0x1000;
        OK("mov rbx, [rax]"); /* data is not SMEP's business */
        write_cr4(read_cr4() & ~(uint64_t)CR4_SMEP);
        OK("call rax");
        EQ(out.r9, 1);
    }
    pass_base = base;
}

/* Faults in the delivery itself, and the double fault, which has IST 2. */
static void delivery_faults(void)
{
    ist_all(0);
    IN(.cs = pass_cs, .rbx = 0, .r8 = 0xfff8);
    UNLESS_QEMU(GATE_INDEX)
    {
        gate_set(0x50, 0x50, 0x6e);
        FAULT("int 0x50", NP, 0x50 * 8 + 2);
        idt[0x50] = (struct gate){0};
        FAULT("int 0x50", GP, 0x50 * 8 + 2);
        idt[0x50] = gate_make(KCODE, addr(trap_entries[0x50]), 0xec, 0); /* a call gate */
        FAULT("int 0x50", GP, 0x50 * 8 + 2);
        idt[0x50] = gate_make(KCODE, addr(trap_entries[0x50]), 0xe6, 0); /* a 16-bit gate */
        FAULT("int 0x50", GP, 0x50 * 8 + 2);
    }
    idt[0x50] = gate_make(0, 0x1000, 0xee, 0);
    FAULT("int 0x50", GP, 0);
    idt[0x50] = gate_make(KDATA, 0x1000, 0xee, 0);
    FAULT("int 0x50", GP, KDATA);
    UNLESS_QEMU(GATE_L)
    {
        idt[0x50] = gate_make(KCODE32, 0x1000, 0xee, 0); /* not a 64-bit code segment */
        FAULT("int 0x50", GP, KCODE32);
    }
    gdt_set(FREE, 0, 0xfffff, 0xa1b); /* code, not present */
    idt[0x50] = gate_make(FREE, 0x1000, 0xee, 0);
    FAULT("int 0x50", NP, FREE);
    idt[0x50] = gate_make(GDT_ENTRIES * 8, 0x1000, 0xee, 0);
    FAULT("int 0x50", GP, GDT_ENTRIES * 8);
    UNLESS_QEMU(BAD_RIP)
    {
        idt[0x50] = gate_make(KCODE, 0x1234567812345678, 0xee, 0);
        FAULT("int 0x50", GP, 0);
    }
    gate_restore(0x50);
    gate_set(UD, UD, 0x0e);
    UNLESS_QEMU(GATE_INDEX) FAULT("ud2", NP, UD * 8 + 3);
    idt[UD] = (struct gate){0};
    UNLESS_QEMU(GATE_INDEX) FAULT("ud2", GP, UD * 8 + 3);
    gate_restore(UD);
    /* Contributory upon contributory: #DF, error code 0. */
    gate_set(DE, DE, 0x0e);
    FAULT("div rbx", DF, 0);
    gate_restore(DE);
    gate_set(GP, GP, 0x0e);
    FAULT("mov ds, r8w", DF, 0);
    if (pass_cs == UCODE)
        FAULT("int 0x51", DF, 0);
    gate_restore(GP);
    gate_set(PF, PF, 0x0e);
    in.rsi = 0x55500000000;
    FAULT("mov rax, [rsi]", DF, 0);
    EQ(read_cr2(), in.rsi);
    gate_restore(PF);
    /* Past the IDT's limit. */
    struct dtable small = {0x40 * 16 - 1, addr(idt)}, full = {sizeof(idt) - 1, addr(idt)};
    __asm__ volatile("lidt %0" : : "m"(small));
    UNLESS_QEMU(GATE_INDEX)
    {
        FAULT("int 0x40", GP, 0x40 * 8 + 2);
        FAULT("int 0xff", GP, 0xff * 8 + 2);
    }
    __asm__ volatile("lidt %0" : : "m"(full));
    /* The stack of the delivery is not there: #PF in #PF is #DF; IST makes the first one possible.
     */
    uint64_t bad = 0x66600000000;
    if (pass_cs == UCODE) {
        tss.rsp[0] = bad;
        FAULT("ud2", DF, 0);
        EQ(read_cr2(), bad - 8);
        FAULT("mov rax, [rsi]", DF, 0);
        idt[UD].ist = 1;
        FAULT("ud2", UD, 0);
        tss.rsp[0] = addr(trap_stack_top);
    } else {
        in.rsp = bad;
        FAULT("ud2", DF, 0);
        EQ(read_cr2(), bad - 8);
        FAULT("push rax", DF, 0);
        EQ(out.rsp, bad);
        idt[PF].ist = 1;
        FAULT("push rax", PF, 2);
        EQ(out.cr2, bad - 8);
        FAULT("ud2", PF, 2); /* benign, then #PF: that is what is delivered */
        in.rsp = 0;
    }
    ist_all(0);
    /* A stack pointer that is not canonical: #SS(0), which has an IST here. */
    UNLESS_QEMU(STACK_FAULT)
    {
        idt[SS].ist = 1;
        if (pass_cs == UCODE)
            tss.rsp[0] = 0x1234567812345678;
        else
            in.rsp = 0x1234567812345678;
        RUN("ud2");
        EQ(out.vector, SS);
        tss.rsp[0] = addr(trap_stack_top);
        in.rsp = 0;
        tss.ist[2] = 0x1234567812345678;
        idt[UD].ist = 3;
        RUN("ud2");
        EQ(out.vector, SS);
        ist_all(0);
    }
    gdt[FREE >> 3] = 0;
}

static void alignment(void)
{
    UNLESS_QEMU(AC)
    {
        uint64_t cr0 = read_cr0();
        if (pass_cs != UCODE)
            return;
        write_cr0(cr0 | CR0_AM);
        IN(.rsi = addr(memory) + 1, .r13 = addr(memory) + 20, .rdi = addr(memory) + 64, .cs = UCODE,
           .rflags = ACF | CF, .rsp = addr(user_stack_top) - 64);
        FAULT("mov rax, [rsi]", AC, 0);
        FAULT("mov [rsi], r9d", AC, 0);
        FAULT("mov rax, [r13]", AC, 0);
        FAULT("inc qword ptr [r13]", AC, 0);
        FAULT("lodsq", AC, 0);
        FAULT("movq xmm9, [r13]", AC, 0);
        OK("mov eax, [r13]; mov al, [rsi]; movups xmm0, [rsi]; mov ax, [rsi + 1]; movsb");
        in.rsp = addr(user_stack_top) - 60;
        FAULT("push rax", AC, 0);
        FAULT("pop rax", AC, 0);
        in.rsp = 0, in.rflags = 0;
        OK("mov rax, [rsi]");
        in.rflags = ACF;
        write_cr0(cr0 & ~(uint64_t)CR0_AM);
        OK("mov rax, [rsi]");
        write_cr0(cr0);
    }
}

void guest_main(void)
{
    GROUP(divide);
    GROUP(software_traps);
    GROUP(undefined);
    GROUP(no_math);
    GROUP(math_and_simd_faults);
    GROUP(frame_layout);
    GROUP(flags_on_entry);
    GROUP(selectors);
    GROUP(non_canonical);
    GROUP(non_canonical_rip);
    GROUP(page_faults);
    GROUP(fetch_faults);
    GROUP(delivery_faults);
    GROUP(alignment);
}
