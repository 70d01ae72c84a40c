/* modes64.c - compatibility mode under long mode, and long mode left and entered again.
 *
 * SDM 3A 3.4.5 (segments in compatibility mode), 5.2.1 (L and D), 9.8.5 (mode switching), 2.2.1
 * (EFER); SDM 2: far JMP, CALL and RET between modes, SYSRET and SYSEXIT to compatibility mode,
 * SYSCALL there. Handlers that run outside of snippets are assembly text below, in .text. */
#include "guest64.h"

const char guest_name[] = "modes64";

static uint64_t memory[512] USER __attribute__((aligned(4096)));
static bool intel;

/* Go back to compatibility mode. */
extern uint8_t syscall_32[], sysenter_32[];
__asm__(".text\n"
        "syscall_32:\n"
        "        incl %ebx\n"
        "        movl $0x11223344, %edx\n"
        "        sysretl\n"
        "sysenter_32:\n"
        "        incq %rbx\n"
        "        movl %r12d, %edx\n"
        "        movl %r13d, %ecx\n"
        "        sysexitl\n");

static void syscalls_on(void)
{
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    wrmsr(MSR_STAR, STAR_VALUE);
    wrmsr(MSR_LSTAR, addr(syscall_32));
    wrmsr(MSR_CSTAR, addr(syscall_32));
    wrmsr(MSR_FMASK, 0);
}

/* Compatibility mode: 32-bit code with its own stack, segments with bases, INT 80h to a 64-bit
 * handler. */
static uint32_t calls_80;
static uint64_t frame_cs, frame_rsp;

static bool on_int_80(struct frame *frame)
{
    if (frame->vector != 0x80)
        return false;
    calls_80++;
    frame_cs = frame->cs & 0xffff;
    frame_rsp = frame->rsp;
    frame->rax = frame->rax * 2 + frame->rbx;
    frame->rdx = addr(frame) >> 32;
    return true;
}

#define JMP_FAR(selector, label)  ".byte 0xea; .long " label "; .word " selector "; "
#define CALL_FAR(selector, label) ".byte 0x9a; .long " label "; .word " selector "; "
#define CODE32(text)              CODE(".code32\n" text "\n")
#define IN32(...) \
    IN(.cs = UCODE32, .ss = UDATA, .ds = UDATA, .es = UDATA, .fs = UDATA, .gs = UDATA, __VA_ARGS__)

static void compatibility(void)
{
    uint32_t *words = (uint32_t *)memory;
    for (uint32_t i = 0; i < 64; i++)
        words[i] = i * 0x01010101;
    /* 40h-4Fh are INC and DEC, addresses and the stack have 32 bits, ModRM 05h is absolute. */
    IN32(.rax = 5, .rbx = 7, .rsi = addr(memory), .rdi = 3);
    OKS(CODE32("inc eax; dec ebx; push eax; push 0x12345678; pop ecx; pop edx; mov ebp, [memory + "
               "8]; add eax, [esi + edi * 4]; .byte 0x40; .byte "
               "0x4b; pushad; popad; mov word ptr [esi + 128], 0x7777; lea edi, [esi + ebx * 8 + "
               "5]; push ds; pop es; aam 10; inc ax"));
    EQ(out.rcx, 0x12345678);
    EQ(out.rdx, 6);
    EQ(out.rbp, words[2]);
    EQ(out.rbx, 5);
    EQ(out.rdi, addr(memory) + 45);
    EQ(words[32], 0x20207777);
    EQ(out.cs, UCODE32);
    EQ(out.rsp, addr(user_stack_top));
    /* Hot: calls, returns, indirect calls, memory, string instructions, flags, INT 80h. */
    gate_set(0x80, 0x80, 0xee);
    trap_hook = on_int_80;
    calls_80 = 0;
    IN32(.rcx = 400, .rsi = addr(memory), .rflags = 0);
    OKS(CODE32("1: push ecx; call 2f; mov eax, ecx; mov ebx, 1; int 0x80; add edi, eax; lea edx, "
               "3f; call edx; pop ecx; dec ecx; jnz 1b; jmp 4f; 2: inc ebp; "
               "add [esi + 64], ecx; ret; 3: push edi; push esi; lea edi, [esi + 1024]; mov ecx, "
               "16; rep movsd; pop esi; pop edi; ret; 4:"));
    EQ(out.rbp, 400);
    EQ(calls_80, 400);
    EQ(frame_cs, UCODE32);
    EQ(frame_rsp, addr(user_stack_top) - 4);
    EQ(out.rdi, 400 * 401 + 400);
    EQ(words[16], 16 * 0x01010101 + 400 * 401 / 2);
    EQ(words[256 + 3], 0x03030303);
    /* INT 80h from 64-bit code by the same handler. */
    IN(.cs = UCODE, .rax = 0x100000000, .rbx = 0x200000000, .rcx = 50);
    OK("1: mov eax, 3; int 0x80; add r8, rax; loop 1b");
    EQ(out.r8, 50 * 0x200000006);
    trap_hook = NULL;
    gate_restore(0x80);
    /* Segments have bases and limits again. */
    gdt_set(FREE, (uint32_t)addr(memory), 0xff, 0x4f3);
    gdt_set(FREE + 8, 0xfffff000, 0xfffff, 0xcf3);
    IN32(.rbx = 0x10, .rdi = (uint32_t)addr(memory) + 0x1000);
    in.fs = FREE | 3, in.es = (FREE + 8) | 3;
    OKS(CODE32("mov eax, fs:[ebx]; mov ecx, es:[edi]; mov dword ptr fs:[0xfc], 0x5a5a5a5a; mov "
               "edx, es:[edi + 0xfc]; mov al, gs:[edi - 0x1000]"));
    EQ(out.rcx, words[0]);
    EQ(out.rdx, 0x5a5a5a5a);
    EQ(out.rax, words[4] & 0xffffff00);
    UNLESS_QEMU(LIMITS)
    {
        FAULTS(CODE32("mov eax, fs:[0xfd]"), GP, 0, 0);
        FAULTS(CODE32("add dword ptr fs:[0x100], ebx"), GP, 0, 1);
        in.ds = 0;
        FAULTS(CODE32("mov eax, [ebx]"), GP, 0, 2); /* a null segment */
    }
    gdt[FREE >> 3] = gdt[(FREE >> 3) + 1] = 0;
    /* Addresses wrap at 4 GiB, whatever the upper halves were. */
    IN32(.rsi = addr(memory) + 0x80000000, .rdi = 0x80000000);
    OKS(CODE32("mov eax, [esi + edi]; mov ebx, [esi + edi * 2 - 0x80000000 + 4]; mov ecx, [esi - "
               "0x80000000 + 8]"));
    EQ(out.rax, words[0]);
    EQ(out.rbx, words[1]);
    EQ(out.rcx, words[2]);
    /* Faults. */
    IN32(.rbx = 0, .rsi = 0x70000000, .rbp = 5);
    FAULTS(CODE32("ud2"), UD, 0, 0);
    FAULTS(CODE32("div ebx"), DE, 0, 1);
    FAULTS(CODE32("mov eax, [esi + 4]"), PF, 4, 2);
    EQ(out.cr2, 0x70000004);
    FAULTS(CODE32("inc eax;" AT "hlt"), GP, 0, 3);
}

/* The rest needs AT and changes of mode within one snippet. */
static void mode_changes(void)
{
    IN(.cs = UCODE, .ds = UDATA, .es = UDATA, .rsi = addr(memory), .r8 = 0x8888888888888888,
       .r15 = 0x1515151515151515, .rcx = 200);
    memory[0] = 0;
    /* 64 -> 32 by RETFQ, 32 -> 64 by far JMP, 64 -> 32 by far JMP, 32 -> 64 by RETF. */
    OK("1: push 0x1b; lea rax, 2f; push rax; retfq; .code32; 2: inc dword ptr [esi]; inc "
       "eax; " JMP_FAR(
           "0x2b",
           "3f") " .code64; 3: mov eax, cs; add edx, eax; "
                 "inc r9; lea rax, 4f; mov [rip + memory + 64], eax; mov dword ptr [rip + memory + "
                 "68], 0x1b; jmp far ptr [rip + memory + 64]; ud2; .code32; 4: "
                 "mov eax, cs; add ebx, eax; push 0x2b; push offset 5f; retf; .code64; 5: loop 1b");
    EQ(memory[0], 200);
    EQ(out.r9, 200);
    EQ(out.rdx, 200 * UCODE);
    EQ(out.rbx, 200 * UCODE32);
    EQ(out.rsp, addr(user_stack_top));
    EQ(out.cs, UCODE);
    /* A far CALL from compatibility mode into 64-bit code and back; the frame has 32-bit slots. */
    IN32(.rsp = addr(user_stack_top) - 256, .rcx = 100);
    OKS(CODE32("1: " CALL_FAR(
        "0x2b", "2f") " add ebx, eax; dec ecx; jnz 1b; jmp 3f; .code64; 2: mov r8, 0x123456789; "
                      "lea rax, [r8 + 1]; shr rax, 4; .byte 0xcb; .code32; 3:"));
    EQ(out.rbx, (uint32_t)(0x12345678u * 100));
    EQ(out.rsp, in.rsp);
    /* 16-bit code under long mode. */
    gdt_set(FREE, (uint32_t)addr(snip_first), 0xffff, 0x0fb);
    IN(.cs = UCODE, .ds = UDATA, .es = UDATA, .rcx = 5, .rbx = 0x12345678);
    const struct snip *snip =
        CODE("push 0x63; lea rax, 1f; sub rax, offset snip_first; push rax; retfq; .code16; 1: inc "
             "bx; add ebx, 0x10000; push bx; pop dx; dec "
             "cx; jnz 1b; .byte 0x66; " JMP_FAR("0x2b", "2f") " .code64; 2: mov esi, ebx");
    OKS(snip);
    EQ(out.rsi, 0x12345678 + 5 * 0x10001);
    EQ(out.rdx & 0xffff, 0x567d);
    EQ(out.rsp, addr(user_stack_top));
    gdt[FREE >> 3] = 0;
    /* SYSCALL in compatibility mode is #UD on Intel; SYSRET goes back to it. */
    syscalls_on();
    if (intel) {
        IN32(.rax = 1);
        UNLESS_QEMU(SYSCALL_32) FAULTS(CODE32("syscall"), UD, 0, 0);
    }
    IN(.cs = UCODE, .ds = UDATA, .es = UDATA, .rsi = 30);
    OK("1: syscall; .code32; mov eax, cs; add edi, eax; dec esi; " JMP_FAR(
        "0x2b", "2f") " .code64; 2: test esi, esi; jnz 1b");
    EQ(out.rdi, 30 * UCODE32);
    EQ(out.rbx, 30);
    EQ(out.rdx, 0x11223344);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~(uint64_t)EFER_SCE);
    /* SYSENTER in compatibility mode; SYSEXIT to it. */
    if (intel) {
        wrmsr(MSR_SYSENTER_CS, KCODE);
        wrmsr(MSR_SYSENTER_ESP, addr(trap_stack_top) - 64);
        wrmsr(MSR_SYSENTER_EIP, addr(sysenter_32));
        IN(.cs = UCODE, .ds = UDATA, .es = UDATA, .r13 = addr(user_stack_top) - 64, .rsi = 20);
        OK("lea r12, 2f; push 0x1b; lea rax, 1f; push rax; retfq; .code32; 1: sysenter; ud2; 2: "
           "mov eax, cs; mov edx, ss; dec esi; jnz 1b");
        EQ(out.rbx, 20);
        EQ(out.rax, UCODE32);
        EQ(out.rdx, UDATA);
        EQ(out.rsp, in.r13);
    }
    /* CPL 0 code of 32 bits. */
    IN(.ds = KDATA, .es = KDATA, .rcx = 50);
    if (!pass_base)
        OK("1: push 0x38; lea rax, 2f; push rax; retfq; .code32; 2: inc ebx; mov eax, cs; mov edx, "
           "cr0; " JMP_FAR("0x08", "3f") " .code64; 3: loop 1b");
    else
        OK("1: inc rbx; loop 1b; mov eax, 0x38");
    EQ(out.rbx, 50);
    EQ(out.rax, KCODE32);
}

/* Long mode left for 32-bit mode without paging (0), with PAE (1), with 4 MiB pages (2), for real
 * mode (3), and entered again. work_32 computes n + n(n + 1)/2 with calls. */
void long_mode_leave(uint64_t kind, uint64_t n);
extern uint32_t left_sum, left_efer, left_cr0;
extern uint8_t real_first[], real_last[];
enum { REAL_BLOB = 0x7000, REAL_COUNT = 0x6f80 };
__asm__(".text\n"
        "long_mode_leave:\n"
        "        pushq %rbx\n"
        "        pushq %rbp\n"
        "        movl %edi, %ebx\n"
        "        movl %esi, %ebp\n"
        "        pushq $0x38\n"
        "        leaq 1f(%rip), %rax\n"
        "        pushq %rax\n"
        "        lretq\n"
        "        .code32\n"
        "1:      movl $0x10, %eax\n"
        "        movl %eax, %ds\n"
        "        movl %eax, %es\n"
        "        movl %eax, %ss\n"
        "        movl %cr0, %eax\n"
        "        andl $0x7fffffff, %eax\n"
        "        movl %eax, %cr0\n"
        "        movl $0xc0000080, %ecx\n"
        "        rdmsr\n"
        "        movl %eax, left_efer\n"
        "        andl $~0x100, %eax\n"
        "        wrmsr\n"
        "        cmpl $1, %ebx\n"
        "        je 2f\n"
        "        ja 3f\n"
        "        call work_32\n"
        "        jmp 9f\n"
        "2:      movl $pae_pdpt, %eax\n"
        "        movl %eax, %cr3\n"
        "        jmp 5f\n"
        "3:      cmpl $3, %ebx\n"
        "        je 6f\n"
        "        movl %cr4, %eax\n"
        "        andl $~0x20, %eax\n"
        "        orl $0x10, %eax\n"
        "        movl %eax, %cr4\n"
        "        movl $pse_directory, %eax\n"
        "        movl %eax, %cr3\n"
        "5:      movl %cr0, %eax\n"
        "        orl $0x80000000, %eax\n"
        "        movl %eax, %cr0\n"
        "        jmp 7f\n"
        "7:      call work_32\n"
        "        movl %cr0, %eax\n"
        "        andl $0x7fffffff, %eax\n"
        "        movl %eax, %cr0\n"
        "        jmp 9f\n"
        "6:      ljmp $0x60, $0\n" /* FREE: 16-bit code at REAL_BLOB */
        "real_back:\n"
        "        movl $0x10, %eax\n"
        "        movl %eax, %ds\n"
        "        movl %eax, %es\n"
        "        movl %eax, %ss\n"
        "        call work_32\n"
        "9:      movl %cr4, %eax\n"
        "        andl $~0x10, %eax\n"
        "        orl $0x20, %eax\n"
        "        movl %eax, %cr4\n"
        "        movl $pml4, %eax\n"
        "        movl %eax, %cr3\n"
        "        movl $0xc0000080, %ecx\n"
        "        rdmsr\n"
        "        orl $0x100, %eax\n"
        "        wrmsr\n"
        "        movl %cr0, %eax\n"
        "        movl %eax, left_cr0\n"
        "        orl $0x80000000, %eax\n"
        "        movl %eax, %cr0\n"
        "        ljmp $0x08, $8f\n"
        "        .code64\n"
        "8:      movl %esp, %esp\n"
        "        popq %rbp\n"
        "        popq %rbx\n"
        "        ret\n"
        "        .code32\n"
        "work_32:\n"
        "        movl %ebp, %ecx\n"
        "        xorl %eax, %eax\n"
        "1:      .byte 0x40\n" /* INC EAX here, a REX prefix in 64-bit code */
        "        pushl %ecx\n"
        "        call 2f\n"
        "        popl %ecx\n"
        "        loop 1b\n"
        "        movl %eax, left_sum\n"
        "        ret\n"
        "2:      addl 4(%esp), %eax\n"
        "        ret\n"
        "        .code16\n"
        "real_first:\n"
        "        movw $0x68, %ax\n" /* FREE + 8: 16-bit data */
        "        movw %ax, %ds\n"
        "        movw %ax, %es\n"
        "        movw %ax, %ss\n"
        "        movl %esp, %edi\n"
        "        movl %cr0, %eax\n"
        "        andl $~1, %eax\n"
        "        movl %eax, %cr0\n"
        "        ljmp $0x700, $1f - real_first\n"
        "1:      xorw %ax, %ax\n"
        "        movw %ax, %ds\n"
        "        movw %ax, %es\n"
        "        movw %ax, %ss\n"
        "        movw $0x6f00, %sp\n"
        "        movw %bp, %cx\n"
        "2:      incw 0x6f80\n"
        "        pushw %cx\n"
        "        popw %dx\n"
        "        loop 2b\n"
        "        movl %cr0, %eax\n"
        "        orl $1, %eax\n"
        "        movl %eax, %cr0\n"
        "        movl %edi, %esp\n"
        "        ljmpl $0x38, $real_back\n"
        "real_last:\n"
        "        .code64\n"
        "        .data\n"
        "        .balign 32\n"
        "pae_pdpt:\n"
        "        .quad directory + 1, 0, 0, 0\n"
        "left_sum: .long 0\n"
        "left_efer: .long 0\n"
        "left_cr0: .long 0\n"
        "        .balign 4096\n"
        "pse_directory:\n"
        "        .set index, 0\n"
        "        .rept 1024\n"
        "        .long index * 0x400000 + 0x83\n"
        "        .set index, index + 1\n"
        "        .endr\n"
        "        .text\n");

static void long_mode_left(void)
{
    uint64_t efer = rdmsr(MSR_EFER), cr4 = read_cr4(), cr0 = read_cr0();
    memcpy((void *)REAL_BLOB, real_first, (size_t)(real_last - real_first));
    gdt_set(FREE, REAL_BLOB, 0xffff, 0x09b);
    gdt_set(FREE + 8, 0, 0xffff, 0x093);
    for (uint32_t kind = 0; kind < 4; kind++)
        for (uint32_t n = 1; n < 3000; n *= 7) {
            *(volatile uint16_t *)REAL_COUNT = 0;
            left_sum = 0;
            long_mode_leave(kind, n);
            CHECK(left_sum, n + n * (n + 1) / 2, "work outside of long mode", kind);
            CHECK(left_efer & (EFER_LMA | EFER_LME), EFER_LME, "EFER without paging", kind);
            CHECK(left_cr0, cr0 & 0x7fffffff, "CR0", kind);
            CHECK(rdmsr(MSR_EFER), efer, "EFER", kind);
            CHECK(read_cr4(), cr4, "CR4", kind);
            CHECK(read_cr0(), cr0, "CR0", kind);
            CHECK(*(volatile uint16_t *)REAL_COUNT, kind == 3 ? n : 0, "work in real mode", kind);
            IN(.cs = pass_cs, .r15 = 0x123456789abcdef0, .rcx = 100);
            OK("1: add r15, 1; call 2f; loop 1b; jmp 3f; 2: inc r14; ret; 3: mov r13d, 0; .byte "
               "0x41, 0x90");
            CHECK(out.r15, in.r15 + 100, "64-bit code again", kind);
            CHECK(out.r14, 100, "64-bit code again", kind);
            FAULTS(CODE("ud2"), UD, 0, kind);
        }
    gdt[FREE >> 3] = gdt[(FREE >> 3) + 1] = 0;
}

void guest_main(void)
{
    intel = cpuid(0, 0).ebx == 0x756e6547;
    GROUP(compatibility);
    GROUP(mode_changes);
    GROUP(long_mode_left);
}
