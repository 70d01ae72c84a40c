/* sys64.c - system instructions of 64-bit mode: system calls, bases, control registers, far
 * transfers, descriptor tables, model-specific registers. Changes of mode are in modes64.c.
 *
 * SDM 2: SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS, RDFSBASE, WRFSBASE, MOV CRn, IRET, RET (far),
 * CALL (far), LAR, LSL, SGDT, SIDT, LLDT; SDM 3A 5.8.7, 5.8.8 (system calls), 5.8.3.1 (64-bit call
 * gates), 3.4.4 (segments in 64-bit mode), 2.2.1 (EFER), 2.5 (CR0-CR8).
 *
 * Handlers that run at CPL 0 outside of snippets are assembly text below, in .text. */
#include "guest64.h"

const char guest_name[] = "sys64";

static uint64_t memory[512] USER __attribute__((aligned(4096)));
static bool intel;

/* syscall_note: what SYSCALL left. syscall_kernel: as an operating system does it, with SWAPGS and
 * a stack from GS; gs:0 is the user's rsp, gs:8 the kernel's. */
extern uint8_t syscall_note[], syscall_kernel[], sysenter_note[], gate_note[];
__asm__(".text\n"
        "syscall_note:\n"
        "        pushfq\n"
        "        popq %r10\n"
        "        movl %cs, %r14d\n"
        "        movl %ss, %r15d\n"
        "        movq %rcx, %r12\n"
        "        movq %r11, %r13\n"
        "        incq %rbx\n"
        "        testq %rbp, %rbp\n" /* from CPL 0 when rbp is not 0 */
        "        jnz 1f\n"
        "        sysretq\n"
        "1:      jmpq *%rcx\n"
        "syscall_kernel:\n"
        "        swapgs\n"
        "        movq %rsp, %gs:0\n"
        "        movq %gs:8, %rsp\n"
        "        pushq %rcx\n"
        "        pushq %r11\n"
        "        addq %rax, %gs:16\n"
        "        leaq (%rax, %rdi), %rax\n"
        "        call 2f\n"
        "        popq %r11\n"
        "        popq %rcx\n"
        "        movq %gs:0, %rsp\n"
        "        swapgs\n"
        "        sysretq\n"
        "2:      incq %gs:24\n"
        "        ret\n"
        "sysenter_note:\n"
        "        movq %rsp, %r9\n"
        "        pushfq\n"
        "        popq %r10\n"
        "        movl %cs, %r14d\n"
        "        movl %ss, %r15d\n"
        "        incq %rbx\n"
        "        movq %r12, %rdx\n"
        "        movq %r13, %rcx\n"
        "        sysexitq\n"
        "gate_note:\n"
        "        movl %cs, %r14d\n"
        "        movl %ss, %r15d\n"
        "        movq (%rsp), %r9\n"
        "        movq 8(%rsp), %r10\n"
        "        movq 16(%rsp), %r11\n"
        "        movq 24(%rsp), %r12\n"
        "        movq %rsp, %r13\n"
        "        incq %rbx\n"
        "        lretq\n");

static void syscalls_on(const void *handler, uint64_t mask)
{
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    wrmsr(MSR_STAR, STAR_VALUE);
    wrmsr(MSR_LSTAR, addr(handler));
    wrmsr(MSR_FMASK, mask);
}

static void syscalls_off(void)
{
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~(uint64_t)EFER_SCE);
}

static void system_calls(void)
{
    static const uint64_t masks[] = {0, IF | DFL | TF | NT | ACF, ARITH, 0x3f7fd5},
                          flags[] = {0, ARITH, IF | DFL, CF | ID, NT | SF};
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    for (uint32_t m = 0; m < COUNT(masks); m++)
        for (uint32_t f = 0; f < COUNT(flags); f++) {
            syscalls_on(syscall_note, masks[m]);
            IN(.cs = UCODE, .rflags = flags[f], .rax = 7, .rsi = 0x123456789abcdef0, .r8 = 8);
            const struct snip *once = CODE("nop; syscall;" AT "nop");
            OKS(once);
            CHECK(out.rbx, 1, "calls", f);
            CHECK(out.r12, once->at, "rcx", f);
            CHECK(out.rcx, once->at, "rcx", f);
            CHECK(out.r13, flags[f] | 2, "r11", f);
            UNLESS_QEMU(SYSCALL_FLAGS)
            CHECK(out.r10, (flags[f] | 2) & ~masks[m], "flags in the handler", m * 16 + f);
            CHECK(out.rflags, flags[f] | 2, "flags after SYSRET", f);
            CHECK(out.r14, KCODE, "cs in the handler", f);
            CHECK(out.r15, KDATA, "ss in the handler", f);
            CHECK(out.cs, UCODE, "cs", f);
            CHECK(out.ss, UDATA, "ss", f);
            CHECK(out.rsi, in.rsi, "rsi", f);
            CHECK(out.rsp, addr(user_stack_top), "rsp", f);
            OK("mov r9d, 300; 1: syscall; mov rdx, [rip + memory]; syscall; dec r9d; jnz 1b");
            CHECK(out.rbx, 600, "calls in a loop", f);
        }
    /* From CPL 0, and with what SYSRET gets in RCX and R11. */
    IN(.rbp = 1, .rflags = CF);
    const struct snip *kernel = CODE("nop; syscall;" AT "nop");
    OKS(kernel);
    EQ(out.r12, kernel->at + pass_base);
    EQ(out.r13, CF | 2);
    EQ(out.rbx, 1);
    EQ(out.cs, KCODE);
    IN();
    const struct snip *back = CODE(
        "lea rcx, 1f; mov r11, rax; sysretq; ud2; 1: mov eax, cs; mov ebx, ss; pushfq; pop rdx");
    in.rsp = addr(user_stack_top);
    in.rax = ARITH | ID | RF | 0xffffffffff000000; /* reserved bits, RF and VM do not get in */
    if (!skipped(D_SYSRET_VM))
        in.rax |= VM;
    OKS(back);
    EQ(out.rax, UCODE);
    EQ(out.rbx, UDATA);
    EQ(out.rdx, ARITH | ID | 2);
    EQ(out.cs, UCODE);
    UNLESS_QEMU(SYSRET_RCX)
    {
        IN(.rcx = 0x800000000000, .r11 = 2);
        FAULT("sysretq", GP, 0);
        EQ(out.cs, KCODE);
        in.rcx = 0x1234567812345678;
        FAULT("nop;" AT "sysretq", GP, 0);
    }
    IN(.cs = UCODE, .rcx = 5);
    FAULT("sysretq", GP, 0);
    FAULT(".byte 0x0f, 0x07", GP, 0); /* to 32 bits */
    /* SYSRET to where nothing is: the fault belongs to CPL 3. */
    IN(.rcx = 0x55500000000, .r11 = 2);
    RUN("sysretq");
    EQ(out.vector, PF);
    EQ(out.error, 0x14);
    EQ(out.cs, UCODE);
    EQ(out.rip, in.rcx);
    syscalls_off();
    IN(.cs = pass_cs);
    FAULT("syscall", UD, 0);
    FAULT("sysretq", UD, 0);
    if (pass_cs == KCODE) { /* LSTAR must be canonical */
        UNLESS_QEMU(MSR) FAULT("mov ecx, 0xc0000082; mov edx, 0x12345678;" AT "wrmsr", GP, 0);
    }
    EQ(rdmsr(MSR_LSTAR), addr(syscall_note));
    EQ(rdmsr(MSR_STAR), STAR_VALUE);
    EQ(rdmsr(MSR_FMASK), masks[3]);
}

/* CPL 1 and 2 are supervisors to pages, and no more (SDM 2: CPL must be 0). */
static void rings_1_and_2(void)
{
    syscalls_on(syscall_note, IF);
    wrmsr(MSR_KERNEL_GS_BASE, 0x1234000);
    for (uint64_t ring = 1; ring < 3; ring++) {
        uint16_t code = gdt_set((uint16_t)FREE, 0, 0xfffff, (uint32_t)(0xa9b | ring << 5));
        uint16_t stack = gdt_set((uint16_t)FREE + 8, 0, 0xfffff, (uint32_t)(0xc93 | ring << 5));
        IN(.cs = code | ring, .ss = stack | ring, .rcx = 5);
        OK("mov eax, cs; add rcx, 2; push rcx; pop rbx");
        EQ(out.rax, in.cs);
        EQ(out.rbx, 7);
        FAULT("swapgs", GP, 0);
        FAULT("sysretq", GP, 0);
        FAULT("hlt", GP, 0);
        FAULT("cli", GP, 0);
        FAULT("mov rax, cr0", GP, 0);
        FAULT("rdmsr", GP, 0);
    }
    EQ(rdmsr(MSR_KERNEL_GS_BASE), 0x1234000);
    wrmsr(MSR_KERNEL_GS_BASE, 0);
    syscalls_off();
}

/* SWAPGS, GS-relative accesses on both sides, and a kernel stack: a loop of system calls. */
static void system_calls_with_gs(void)
{
    static uint64_t per_cpu[8];
    per_cpu[1] = addr(kernel_stack_top) + DIRECT, per_cpu[2] = per_cpu[3] = 0;
    wrmsr(MSR_KERNEL_GS_BASE, addr(per_cpu) + (rep & 1 ? HIGH : DIRECT));
    syscalls_on(syscall_kernel, IF | DFL);
    memory[0] = 0x1234, memory[1] = 0;
    IN(.cs = UCODE, .gs_base = addr(memory), .rdi = 1000, .r8 = 500, .rflags = DFL);
    OK("1: mov rax, r8; syscall; add r9, rax; mov rax, gs:[0]; add gs:[8], rax; dec r8; jnz 1b");
    EQ(out.r9, 500 * 501 / 2 + 500 * 1000);
    EQ(per_cpu[2], 500 * 501 / 2);
    EQ(per_cpu[3], 500);
    EQ(memory[1], 500 * 0x1234);
    EQ(per_cpu[0], addr(user_stack_top));
    EQ(out.gs_base, addr(memory));
    EQ(rdmsr(MSR_KERNEL_GS_BASE), addr(per_cpu) + (rep & 1 ? HIGH : DIRECT));
    EQ(out.rflags & DFL, DFL);
    syscalls_off();
    IN(.gs_base = 0x1111000, .rcx = 7);
    OK("1: swapgs; loop 1b");
    EQ(out.gs_base, addr(per_cpu) + (rep & 1 ? HIGH : DIRECT));
    EQ(rdmsr(MSR_KERNEL_GS_BASE), 0x1111000);
    in.cs = UCODE;
    FAULT("swapgs", GP, 0);
    in.cs = 0;
    UNLESS_QEMU(MSR)
    FAULT("mov ecx, 0xc0000102; mov edx, 0x00800000; mov eax, 0;" AT "wrmsr", GP, 0);
}

static void sysenter(void)
{
    wrmsr(MSR_SYSENTER_CS, KCODE);
    wrmsr(MSR_SYSENTER_ESP, addr(trap_stack_top) - 64);
    wrmsr(MSR_SYSENTER_EIP, addr(sysenter_note));
    if (!intel) {
        IN(.cs = UCODE);
        FAULT("sysenter", UD, 0);
        return;
    }
    IN(.cs = UCODE, .rflags = IF | DFL | CF, .r13 = addr(user_stack_top) - 128);
    outb(0x21, 0xff);
    OK("mov r8d, 200; lea r12, 1f; 1: test rbx, rbx; jz 2f; dec r8d; jz 3f; 2: sysenter; ud2; 3:");
    EQ(out.rbx, 200);
    EQ(out.r9, addr(trap_stack_top) - 64);
    EQ(out.r10 & IF, 0);
    EQ(out.r10 & (DFL | 2), DFL | 2);
    EQ(out.r14, KCODE);
    EQ(out.r15, KDATA);
    EQ(out.cs, UCODE);
    EQ(out.ss, UDATA2);
    EQ(out.rsp, in.r13);
    IN(.rcx = addr(user_stack_top), .rdx = 0x1234567812345678);
    UNLESS_QEMU(SYSRET_RCX)
    {
        FAULT("sysexitq", GP, 0);
        in.rdx = addr(snip_first), in.rcx = 0x8000000000000000;
        FAULT("sysexitq", GP, 0);
    }
    in.cs = UCODE;
    FAULT("sysexitq", GP, 0);
    wrmsr(MSR_SYSENTER_CS, 0);
    FAULT("sysenter", GP, 0);
    in.cs = 0;
    FAULT("sysexitq", GP, 0);
    UNLESS_QEMU(MSR) FAULT("mov ecx, 0x176; mov edx, 0x12345678;" AT "wrmsr", GP, 0);
}

static void fsgsbase(void)
{
    IN(.cs = pass_cs, .fs_base = 0x123456789000, .gs_base = 0x7fff00001000);
    if (!(cpuid(7, 0).ebx & 1))
        return;
    write_cr4(read_cr4() & ~(uint64_t)CR4_FSGSBASE);
    FAULT("rdfsbase r8", UD, 0);
    FAULT("wrgsbase rax", UD, 0);
    write_cr4(read_cr4() | CR4_FSGSBASE);
#define BASES(r, b)                                                                               \
    "rdfsbase " r "; lea " r ", [" r " + 0x1000]; wrfsbase " r "; rdgsbase " r "; lea " r ", [" r \
    " - 0x1000]; wrgsbase " r "; "                                                                \
    "rdfsbase " r
    const struct snip *snips[] = EACH_REGISTER_BUT_RSP(BASES);
    for (uint32_t r = 0; r < 16; r++) {
        if (r == RSP)
            continue;
        OKS(snips[r]);
        CHECK(out.r[r], in.fs_base + 0x1000, "register", r);
        CHECK(out.fs_base, in.fs_base + 0x1000, "fs", r);
        CHECK(out.gs_base, in.gs_base - 0x1000, "gs", r);
    }
    IN(.cs = pass_cs, .r9 = 0xffffffff12345678, .fs_base = 0x1234567812345678 & 0x7fffffffffff);
    OK("rdfsbase r10d; wrgsbase r9d; rdgsbase r11; wrfsbase r9"); /* 32 bits are zero-extended */
    EQ(out.r10, (uint32_t)in.fs_base);
    EQ(out.r11, 0x12345678);
    EQ(out.fs_base, in.r9);
    in.r9 = 0x0000800000000000;
    UNLESS_QEMU(MSR)
    {
        FAULT("wrfsbase r9", GP, 0);
        FAULT("wrgsbase r9", GP, 0);
    }
    OK("wrgsbase r9d");
    EQ(out.gs_base, 0);
    /* A hot loop that changes the base and uses it. */
    for (uint32_t i = 0; i < 64; i++)
        memory[i] = i;
    IN(.cs = pass_cs, .rsi = HERE(memory), .rcx = 64 * 50, .r8 = 0);
    OK("1: mov eax, ecx; and eax, 63; lea rdx, [rsi + rax * 8]; wrgsbase rdx; add r8, gs:[0]; "
       "wrfsbase rdx; add r9, fs:[r10]; loop 1b");
    EQ(out.r8, 50 * 64 * 63 / 2);
    EQ(out.r9, out.r8);
    /* Loading a selector loads a base of 32 bits; a null one leaves FS and GS without an access. */
    gdt_set(FREE, 0x80001000, 0xfffff, 0xcf3);
    IN(.cs = pass_cs, .rax = FREE | 3, .fs_base = 0x7fff00000000);
    OK("mov fs, eax; rdfsbase rbx; mov gs, ax; rdgsbase rcx; mov edx, fs");
    EQ(out.rbx, 0x80001000);
    EQ(out.rcx, 0x80001000);
    EQ(out.rdx, FREE | 3);
    gdt[FREE >> 3] = 0;
    write_cr4(read_cr4() & ~(uint64_t)CR4_FSGSBASE);
}

static void control_registers(void)
{
    IN(.rax = 0xb, .r9 = 0x10, .r15 = 0x100000000);
    uint64_t cr0 = read_cr0(), cr3 = read_cr3(), cr4 = read_cr4();
    OK("mov cr8, rax; mov r8, cr8; mov rbx, 3; mov cr8, rbx; mov r14, cr8; xor r12d, r12d; mov "
       "cr8, r12; mov r13, cr8");
    EQ(out.r8, 0xb);
    EQ(out.r14, 3);
    EQ(out.r13, 0);
    UNLESS_QEMU(CR_BITS)
    {
        FAULT("mov cr8, r9", GP, 0);
        FAULT("mov cr8, r15", GP, 0);
    }
    IN(.rax = cr0, .rbx = cr4, .rcx = cr3, .r8 = 1ull << 32, .r10 = 1ull << 63);
    FAULT(".byte 0x0f, 0x20, 0xc8", UD, 0);       /* MOV from CR1 */
    FAULT(".byte 0x44, 0x0f, 0x20, 0xc8", UD, 0); /* MOV from CR9 */
    UNLESS_QEMU(CR_BITS)
    {
        FAULT("mov r9, rax; or r9, r8;" AT "mov cr0, r9", GP, 0);
        FAULT("mov r9, rbx; or r9, r8;" AT "mov cr4, r9", GP, 0);
        FAULT("mov r9, rbx; bts r9, 30;" AT "mov cr4, r9", GP, 0);
        FAULT("mov r9, rcx; bts r9, 62;" AT "mov cr3, r9", GP, 0);
        FAULT("mov r9, rax; btr r9, 31;" AT "mov cr0, r9", GP, 0); /* PG in 64-bit mode */
        FAULT("mov r9, rax; btr r9, 0;" AT "mov cr0, r9", GP, 0);
        FAULT("mov r9, rax; bts r9, 29;" AT "mov cr0, r9", GP, 0); /* NW without CD */
        FAULT("mov r9, rbx; btr r9, 5;" AT "mov cr4, r9", GP, 0);  /* PAE in long mode */
        FAULT("mov r9, 1; shl r9, 40;" AT "mov dr7, r9", GP, 0);
    }
    EQ(read_cr0(), cr0);
    EQ(read_cr4(), cr4);
    OK("mov r9, cr0; mov r10, cr3; mov r11, cr4; mov cr3, r10; mov cr0, r9; mov cr4, r11; smsw "
       "r12; smsw r13d; lmsw r13w; clts; "
       "mov rdx, cr2; mov cr2, r15; mov r14, cr2; mov rsi, dr7; mov rdi, dr6");
    EQ(out.r9, cr0);
    EQ(out.r10, cr3);
    EQ(out.r11, cr4);
    EQ(out.r12 & 0xffff, cr0 & 0xffff);
    EQ(out.r14, in.r15);
    IN(.rcx = 100);
    OK("1: mov r9, cr3; mov cr3, r9; add rax, [rip + memory]; mov r15, cr4; btc r15, 7; mov cr4, "
       "r15; dec rcx; jnz 1b");
    EQ(read_cr4(), cr4);
    EQ(out.rax, memory[0] * 100);
}

/* IRETQ, IRETD and IRETW, to the same CPL and outward, and what it refuses. */
static void returns_from_interrupts(void)
{
    uint64_t here = HERE(kernel_stack_top) - 512;
    IN(.rax = KDATA, .rbx = KCODE, .rsi = here, .rdx = UDATA, .rcx = UCODE,
       .r8 = addr(user_stack_top) - 8, .rdi = UCODE32);
    OK("push rax; push rsi; pushfq; push rbx; lea r9, [rip + 1f]; push r9; iretq; ud2; 1: mov r10, "
       "rsp; mov r11d, ss");
    EQ(out.r10, here); /* RSP is popped also within a CPL */
    EQ(out.r11, KDATA);
    OK("push 0; push rsi; push 0xad7; push rbx; lea r9, [rip + 1f]; push r9; iretq; 1: mov r11d, "
       "ss"); /* null SS */
    EQ(out.r11, 0);
    EQ(out.rflags & 0x8d5, 0x8d5);
    EQ(out.rflags & IF, IF);
    OK("push rdx; push r8; push 0x3202; push rcx; lea r9, 1f; push r9; iretq; 1: mov r11d, cs; mov "
       "r12d, ss; pushfq; pop r13");
    EQ(out.r11, UCODE);
    EQ(out.r12, UDATA);
    EQ(out.cs, UCODE);
    EQ(out.rsp, in.r8);
    EQ(out.r13, 0x3202);
    OK("mov r12d, 100; 3: lea r14, [rip + 2f]; push rax; push rsp; pushfq; push rbx; push r14; "
       "iretq; ud2; 2: pop r15; dec r12d; "
       "jnz 3b");
    EQ(out.r15, KDATA);
    /* IRETD pops five doublewords, IRETW five words, and zero-extends. */
    if (!pass_base) {
        OK("sub rsp, 20; lea r9, 1f; mov [rsp], r9d; mov [rsp + 4], ebx; mov dword ptr [rsp + 8], "
           "0x803; mov [rsp + 12], esi; mov "
           "[rsp + 16], eax; iretd; ud2; 1: mov r10, rsp");
        EQ(out.r10, here);
        EQ(out.rflags, 0x803);
    }
    /* The stack of the same CPL may be anywhere; the frame read crosses nothing. */
    in.rflags = NT;
    FAULT("push rax; push rsi; push 2; push rbx; push rbx; mov r9, rsp;" AT "iretq", GP,
          0); /* NT in long mode */
    in.rflags = 0;
    static const struct {
        uint16_t cs, ss, error;
    } cases[] = {{0, KDATA, 0},
                 {KDATA, KDATA, KDATA},
                 {UCODE, KDATA, KDATA},
                 {UCODE, 0, 0},
                 {UCODE & ~3, KDATA, UCODE & ~3},
                 {KCODE, UDATA, UDATA & ~3},
                 {TSS, KDATA, TSS},
                 {UCODE, UCODE, UCODE & ~3},
                 {UCODE, 3, 0},
                 {GDT_ENTRIES * 8, KDATA, GDT_ENTRIES * 8}};
    for (uint32_t i = 0; i < COUNT(cases); i++) {
        in.r10 = cases[i].cs, in.r11 = cases[i].ss;
        FAULTS(CODE("push r11; push rsi; push 2; push r10; push 0x400000; mov r9, rsp;" AT "iretq"),
               GP, cases[i].error, i);
        CHECK(out.rsp, out.r9, "rsp kept by IRETQ", i);
    }
    in.cs = UCODE, in.r10 = KCODE, in.r11 = KDATA;
    FAULT("push r11; push rsi; push 2; push r10; push 0x400000;" AT "iretq", GP, KCODE);
    /* CPL 3 to CPL 3; IOPL and IF do not change there. */
    OK("push rdx; push r8; push 0x3ad7; push rcx; lea r9, 1f; push r9; iretq; 1: mov r10, rsp");
    EQ(out.r10, in.r8);
    EQ(out.rflags, 0x8d7);
}

/* Far RET, CALL and JMP: same CPL, outward, by memory with 32 and 64 bits, by 64-bit call gates. */
static struct {
    uint64_t offset;
    uint16_t selector;
} __attribute__((packed)) far_64 USER;

static void far_transfers(void)
{
    IN(.cs = pass_cs, .rbx = pass_cs, .rsi = HERE(&far_64), .rcx = 100);
    OK("1: push rbx; lea rax, [rip + 2f]; push rax; retfq; ud2; 2: push 5; push rbx; lea rax, [rip "
       "+ 3f]; push rax; retfq 8; ud2; 3: inc "
       "rdx; loop 1b; mov r9d, cs");
    EQ(out.rdx, 100);
    EQ(out.r9, pass_cs);
    EQ(out.rsp & 0xfff, 0);
    if (intel) { /* m16:64 exists on Intel only */
        far_64.selector = (uint16_t)pass_cs;
        OK("1: lea rax, [rip + 2f]; mov [rsi], rax; rex.w jmp far ptr [rsi]; ud2; 2: lea rax, [rip "
           "+ 3f]; mov [rsi], rax; rex.w call far ptr "
           "[rsi]; inc r8; loop 1b; jmp 4f; 3: inc rdx; retfq; 4:");
        UNLESS_QEMU(FAR_64)
        {
            EQ(out.rdx, 100);
            EQ(out.r8, 100);
        }
    }
    if (pass_cs == KCODE) { /* outward */
        IN(.rcx = UCODE, .rdx = UDATA, .r8 = addr(user_stack_top) - 8);
        OK("push rdx; push r8; push rcx; lea rax, 1f; push rax; retfq; ud2; 1: mov r9d, cs; mov "
           "r10d, ss; mov r11, rsp");
        EQ(out.r9, UCODE);
        EQ(out.r10, UDATA);
        EQ(out.r11, in.r8);
        EQ(out.cs, UCODE);
    }
    /* A call gate of 16 bytes, DPL 3; the stack is TSS.RSP0, SS null. */
    gdt[FREE >> 3] = (addr(gate_note) & 0xffff) | (uint64_t)KCODE << 16 | 0xecull << 40 |
                     (addr(gate_note) >> 16 & 0xffff) << 48;
    gdt[(FREE >> 3) + 1] = addr(gate_note) >> 32;
    static struct {
        uint32_t offset;
        uint16_t selector;
    } __attribute__((packed)) far_32 USER = {0, FREE | 3};
    IN(.cs = pass_cs, .rsi = HERE(&far_32), .rflags = CF);
    const struct snip *gate = CODE("mov rbp, rsp; call far ptr [rsi];" AT "mov rdi, rsp");
    if (pass_base && skipped(D_GATE_RSP))
        return;
    OKS(gate);
    EQ(out.rbx, 1);
    EQ(out.r9 - entered, gate->at - gate->start);
    EQ(out.r10, pass_cs);
    EQ(out.r14, KCODE);
    EQ(out.cs, pass_cs);
    EQ(out.rdi, out.rbp);
    if (pass_cs == UCODE) {
        EQ(out.r11, out.rbp);
        EQ(out.r12, UDATA);
        EQ(out.r13, (addr(trap_stack_top) & -16ull) - 32);
        EQ(out.r15, 0);
        EQ(out.ss, UDATA);
    } else {
        EQ(out.r13, out.rbp - 16);
    }
    OK("mov ecx, 200; 1: call far ptr [rsi]; loop 1b");
    EQ(out.rbx, 200);
    gdt[(FREE >> 3) + 1] |= 0x1full << 40; /* the upper half's type must be 0 */
    FAULT("call far ptr [rsi]", GP, FREE);
    gdt[(FREE >> 3) + 1] = 0;
    gdt[FREE >> 3] &= ~(1ull << 47);
    FAULT("call far ptr [rsi]", NP, FREE);
    gdt[FREE >> 3] = 0;
}

static void descriptor_tables(void)
{
    static struct {
        uint16_t limit;
        uint64_t base;
        uint8_t behind[6];
    } __attribute__((packed)) table USER;
    memset(&table, 0xcc, sizeof(table));
    IN(.cs = pass_cs, .rsi = HERE(&table), .r12 = HERE(&table), .r13 = HERE(&table) - 64);
    OK("sgdt [rsi]");
    EQ(table.limit, sizeof(gdt) - 1);
    EQ(table.base, addr(gdt));
    EQ(table.behind[0], 0xcc);
    OK("sidt [r13 + 64]");
    EQ(table.limit, sizeof(idt) - 1);
    EQ(table.base, addr(idt));
    EQ(table.behind[0], 0xcc);
    OK("str rax; str ecx; str r9w; sldt r10; sldt [rsi]; str [r12 + 2]; smsw [rsi + 4]; smsw rbx");
    EQ(out.rax, TSS);
    EQ(out.rcx, TSS);
    EQ(out.r9, TSS);
    EQ(out.r10, 0);
    EQ(out.rbx & 0xffff, read_cr0() & 0xffff);
    /* LAR, LSL, VERR, VERW. */
    gdt_set(FREE, 0x12345678, 0x1234, 0x4f3);
    gdt_set(FREE + 8, 0, 0xfffff, 0xc19); /* execute-only, not present */
    static const struct {
        uint16_t selector;
        uint32_t lar, lsl;
        bool visible; /* from CPL 3 */
    } cases[] = {{KCODE, 0xaf9b00, 0xffffffff, false},
                 {UDATA, 0xcff300, 0xffffffff, true},
                 {UCODE, 0xaffb00, 0xffffffff, true},
                 {FREE | 3, 0x40f300, 0x1234, true},
                 {TSS, 0x008b00, sizeof(tss) - 1, false}};
    for (uint32_t i = 0; i < COUNT(cases); i++) {
        bool seen = pass_cs == KCODE || cases[i].visible;
        IN(.cs = pass_cs, .rax = cases[i].selector, .r8 = 0x1122334455667788,
           .r9 = 0x1122334455667788, .rdx = 0x77);
        OK("lar r8, ax; setz bl; lsl r9, ax; setz bh; lar r15d, ax; lsl dx, ax");
        CHECK(out.rbx, seen ? 0x101 : 0, "zf", i);
        CHECK(seen ? out.r8 & ~0xf0000ull : out.r8, seen ? cases[i].lar & 0xf0ff00 : in.r8, "lar",
              i);
        CHECK(out.r9, seen ? cases[i].lsl : in.r9, "lsl", i);
        CHECK(out.r15 & ~0xf0000ull, seen ? cases[i].lar & 0xf0ff00 : 0, "lar", i);
        CHECK(out.rdx, seen ? cases[i].lsl & 0xffff : 0x77, "lsl", i);
    }
    IN(.cs = pass_cs, .rax = FREE | 3, .rbx = UCODE, .rcx = 0, .rdx = KDATA, .rsi = (FREE + 8) | 3);
    OK("verr ax; setz r8b; verw ax; setz r9b; verr bx; setz r10b; verw bx; setz r11b; verr cx; "
       "setz r12b; verw dx; setz r13b; verr si; setz r14b");
    EQ(out.r8, 1);
    EQ(out.r9, 1);
    EQ(out.r10, 1);
    EQ(out.r11, 0);
    EQ(out.r12, 0);
    EQ(out.r13, pass_cs == KCODE);
    EQ(out.r14, 0);
    /* LGDT and LIDT take 10 bytes and a canonical base; LLDT and LTR descriptors of 16 bytes. */
    if (pass_cs == KCODE) {
        table.base = 0x1234567812345678;
        IN(.rsi = HERE(&table));
        UNLESS_QEMU(TABLE_BASE)
        {
            FAULT("lgdt [rsi]", GP, 0);
            FAULT("lidt [rsi]", GP, 0);
        }
        table.limit = sizeof(idt) - 1, table.base = addr(idt) + DIRECT;
        FAULT("lidt [rsi]; sidt [rsi]; int3;" AT, BP, 0);
        EQ(table.base, addr(idt) + DIRECT);
        __asm__ volatile("lidt %0" : : "m"((struct dtable){sizeof(idt) - 1, addr(idt)}));
        table.limit = sizeof(gdt) - 1, table.base = addr(gdt) + HIGH;
        OK("lgdt [rsi]; mov eax, 0x10; mov ss, eax; mov ds, eax; mov byte ptr [rsi + 8], 0; sgdt "
           "[rsi]");
        EQ(table.base, addr(gdt) + HIGH);
        gdt_load(&(struct dtable){sizeof(gdt) - 1, addr(gdt)});
    }
    gdt[FREE >> 3] = gdt[(FREE >> 3) + 1] = 0;
}

/* LDT and TSS descriptors of 16 bytes, whose bases have 64 bits. */
static void local_table(void)
{
    static uint64_t ldt[8] __attribute__((aligned(16)));
    ldt[0] = descriptor(0x1000, 0xfffff, 0xcf3);
    ldt[1] = descriptor(0, 0xfffff, 0xafb);
    ldt[2] = descriptor(0, 0xfffff, 0xa9b);
    gdt_set_system(LDT, addr(ldt) + (pass_base ? pass_base : HIGH), sizeof(ldt) - 1, 0x082);
    __asm__ volatile("lldt %w0" : : "r"(LDT));
    IN(.cs = pass_cs, .rax = 7, .rbx = pass_cs == UCODE ? 0xf : 0x14, .rcx = 50, .r8 = 0x47);
    OK("sldt r9; mov fs, eax; mov edx, fs; lsl r10, ax; 1: push rbx; lea r11, [rip + 2f]; push "
       "r11; retfq; ud2; 2: loop 1b; mov r12d, cs");
    EQ(out.r9, LDT);
    EQ(out.rdx, 7);
    EQ(out.r10, 0xffffffff);
    EQ(out.r12, in.rbx);
    EQ(out.cs, in.rbx);
    EQ(out.fs_base, 0x1000);
    FAULT("mov gs, r8w", GP, 0x44); /* past its limit */
    __asm__ volatile("lldt %w0" : : "r"(0));
    FAULT("mov gs, eax", GP, 4);
    if (pass_cs != KCODE)
        return;
    IN(.rax = LDT, .rbx = 0xc, .rcx = KCODE, .rdx = TSS, .r9 = FREE, .r10 = GDT_ENTRIES * 8);
    FAULT("lldt bx", GP, 0xc); /* TI = 1 */
    FAULT("lldt cx", GP, KCODE);
    FAULT("lldt r10w", GP, GDT_ENTRIES * 8);
    FAULT("ltr dx", GP, TSS); /* busy */
    FAULT("ltr cx", GP, KCODE);
    FAULT("ltr ax", GP, LDT);
    gdt[LDT >> 3] &= ~(1ull << 47);
    FAULT("lldt ax", NP, LDT);
    gdt[LDT >> 3] |= 1ull << 47;
    gdt[(LDT >> 3) + 1] = 0x12345678;
    UNLESS_QEMU(TABLE_BASE) FAULT("lldt ax", GP, LDT);
    gdt_set_system(FREE, addr(&tss) + DIRECT, sizeof(tss) - 1, 0x089);
    OK("ltr r9w; str r11d");
    EQ(out.r11, FREE);
    EQ(gdt[FREE >> 3] >> 40 & 0xff, 0x8b);
    for (uint32_t i = 0; i < 3; i++) {
        IN(.cs = UCODE);
        FAULT("ud2", UD, 0); /* takes RSP0 from the alias */
    }
    gdt_unbusy(TSS);
    __asm__ volatile("ltr %w0" : : "r"(TSS));
    gdt[FREE >> 3] = gdt[(FREE >> 3) + 1] = gdt[LDT >> 3] = gdt[(LDT >> 3) + 1] = 0;
}

/* SDM 3-16.3: banks as IA32_MCG_CAP counts them, and none beyond; IA32_MCG_CTL where it says so. */
static void machine_check_registers(void)
{
    uint64_t cap;

    EQ(cpuid(1, 0).edx >> 7 & 1, cpuid(1, 0).edx >> 14 & 1); /* MCE and MCA */
    if (!(cpuid(1, 0).edx >> 14 & 1))
        return;
    cap = rdmsr(0x179);
    UNLESS_QEMU(MSR) FAULT("mov ecx, 0x179; mov edx, 0; mov eax, 0;" AT "wrmsr", GP, 0);
    EQ(rdmsr(0x17a), 0);
    wrmsr(0x17a, 5);
    EQ(rdmsr(0x17a), 5);
    wrmsr(0x17a, 0);
    EQ(rdmsr(0x17a), 0);
    if (!(cap & 0x100))
        UNLESS_QEMU(MSR) FAULT("mov ecx, 0x17b;" AT "rdmsr", GP, 0);
    for (uint32_t bank = 0; bank < (cap & 0xff); bank++)
        EQ(rdmsr(0x400 + 4 * bank + 1) & 1ull << 63, 0); /* nothing has happened */
    if (!(cap & 0xff)) {
        UNLESS_QEMU(MSR) FAULT("mov ecx, 0x400;" AT "rdmsr", GP, 0);
        UNLESS_QEMU(MSR) FAULT("mov ecx, 0x401; mov edx, 0; mov eax, 0;" AT "wrmsr", GP, 0);
    }
}

static void model_specific(void)
{
    if (pass_cs == UCODE)
        return;
    uint64_t efer = rdmsr(MSR_EFER);
    IN(.rcx = MSR_EFER, .rax = (uint32_t)efer, .rdx = 0);
    OK("wrmsr; mov ebx, eax; rdmsr; mov r8, rax");
    EQ(out.r8, efer);
    EQ(out.rdx, 0);
    UNLESS_QEMU(EFER)
    {
        FAULT("btr eax, 8;" AT "wrmsr", GP, 0); /* LME while paging is on */
        FAULT("bts eax, 1;" AT "wrmsr", GP, 0); /* reserved */
        FAULT("mov edx, 1;" AT "wrmsr", GP, 0);
    }
    /* RDMSR writes EDX and EAX, so that the upper halves clear; only ECX selects. */
    wrmsr(MSR_KERNEL_GS_BASE, 0xffff876512345678);
    IN(.rcx = 0xabcdef00c0000102, .rax = -1ull, .rdx = -1ull, .r9 = 100);
    OK("rdmsr; mov r8, rax; mov r10, rdx; 1: rdmsr; inc eax; wrmsr; dec r9; jnz 1b");
    EQ(out.r8, 0x12345678);
    EQ(out.r10, 0xffff8765);
    EQ(rdmsr(MSR_KERNEL_GS_BASE), 0xffff876512345678 + 100);
    static const uint32_t canonical[] = {MSR_FS_BASE, MSR_GS_BASE,      MSR_KERNEL_GS_BASE,
                                         MSR_LSTAR,   MSR_SYSENTER_EIP, MSR_SYSENTER_ESP};
    for (uint32_t i = 0; i < COUNT(canonical); i++) {
        uint64_t was = rdmsr(canonical[i]);
        IN(.rcx = canonical[i], .rax = 0, .rdx = 0x8000);
        UNLESS_QEMU(MSR) FAULTS(CODE("wrmsr"), GP, 0, i);
        wrmsr(canonical[i], 0xffff800000001000);
        CHECK(rdmsr(canonical[i]), 0xffff800000001000, "msr", i);
        wrmsr(canonical[i], was);
    }
    IN(.rcx = 0x12345678);
    UNLESS_QEMU(MSR)
    {
        FAULT("rdmsr", GP, 0);
        FAULT("wrmsr", GP, 0);
    }
    IN(.rcx = MSR_FS_BASE, .rdx = 0x7fff, .rax = 0x12345000, .rbx = 0x40);
    OK("wrmsr; mov r9, 60; 1: mov eax, r9d; shl eax, 12; wrmsr; rdmsr; add r8, rax; dec r9; jnz "
       "1b");
    EQ(out.fs_base, 0x7fff00001000);
    EQ(out.r8, 60ull * 61 / 2 * 4096);
}

void guest_main(void)
{
    struct cpuid vendor = cpuid(0, 0);
    intel = vendor.ebx == 0x756e6547;
    GROUP(system_calls);
    GROUP(rings_1_and_2);
    GROUP(system_calls_with_gs);
    GROUP(sysenter);
    GROUP(fsgsbase);
    GROUP(control_registers);
    GROUP(returns_from_interrupts);
    GROUP(far_transfers);
    GROUP(descriptor_tables);
    GROUP(local_table);
    GROUP(machine_check_registers);
    GROUP(model_specific);
}
