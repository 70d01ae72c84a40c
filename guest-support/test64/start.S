/* start.S - entry of a 64-bit test guest, the 256 interrupt entries, and the way into a snippet.
 *
 * Multiboot 1 (section 3.2, machine state) enters at `start` in protected mode with flat segments,
 * paging off, interrupts off. The page tables are constants below; long mode is entered as SDM 3A
 * 9.8.5 asks: CR4.PAE, CR3, EFER.LME, CR0.PG, a far jump. guest_start() in support.c does the rest.
 *
 * run_enter() loads the whole register state from `in` and enters the snippet with IRETQ. The snippet
 * ends with INT FFh, or with the exception that it is about; trap_entry stores the frame and, unless
 * trap() asks to continue, goes back to the caller of run_enter() on the stack kept in run_rsp.
 *
 * The frame is the struct frame of guest64.h; the offsets in `in` are struct state's. */

        .set    KCODE, 0x08
        .set    KDATA, 0x10
        .set    CR0_START, 0x80010033   /* PG, WP, NE, ET, MP, PE */
        .set    CR4_START, 0x620        /* PAE, OSFXSR, OSXMMEXCPT */
        .set    MSR_EFER, 0xc0000080
        .set    EFER_START, 0x900       /* NXE, LME */
        .set    MSR_FS_BASE, 0xc0000100
        .set    MSR_GS_BASE, 0xc0000101

        .set    IN_R15, 15 * 8
        .set    IN_RSP, 4 * 8
        .set    IN_RIP, 16 * 8
        .set    IN_CS, 17 * 8
        .set    IN_RFLAGS, 18 * 8
        .set    IN_SS, 19 * 8
        .set    IN_DS, 20 * 8
        .set    IN_ES, 21 * 8
        .set    IN_FS, 22 * 8
        .set    IN_GS, 23 * 8
        .set    IN_FS_BASE, 24 * 8
        .set    IN_GS_BASE, 25 * 8

        .section .multiboot, "a"
        .balign 4
        .long   0x1badb002, 0, -0x1badb002

        .text
        .code32
        .globl  start
start:
        cli
        cld
        movl    $CR4_START, %eax
        movl    %eax, %cr4
        movl    $pml4, %eax
        movl    %eax, %cr3
        movl    $MSR_EFER, %ecx
        movl    $EFER_START, %eax
        xorl    %edx, %edx
        wrmsr
        movl    $CR0_START, %eax
        movl    %eax, %cr0
        lgdt    start_gdt_pointer
        ljmp    $KCODE, $1f
        .code64
1:      movl    $KDATA, %eax
        movl    %eax, %ss
        xorl    %eax, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %fs
        movl    %eax, %gs
        movl    $boot_stack_top, %esp
        pushq   $0
        popfq
        call    guest_start
2:      hlt
        jmp     2b

        .globl  gdt_load
gdt_load:                               /* void gdt_load(const struct dtable *) */
        lgdt    (%rdi)
        movl    $KDATA, %eax
        movl    %eax, %ss
        popq    %rdx
        pushq   $KCODE
        pushq   %rdx
        lretq

/* Vectors 8, 10-14 and 17 come with an error code (SDM 3A table 6-1); the others get a 0. 16 bytes
 * each, so that gate_set() finds an entry by its number. */
        .balign 16
        .globl  trap_entries
trap_entries:
        .set    vector, 0
        .rept   256
        .balign 16
        .if     !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17)
        pushq   $0
        .endif
        pushq   $vector
        jmp     trap_entry
        .set    vector, vector + 1
        .endr


        .balign 16
trap_entry:
        .irp    register, r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbp, rbx, rdx, rcx, rax
        pushq   %\register
        .endr
        cld
        movq    %rsp, %rdi
        movq    %rsp, %rbx
        andq    $-16, %rsp
        call    trap                    /* int trap(struct frame *): 0 means continue */
        movq    %rbx, %rsp
        testl   %eax, %eax
        jnz     1f
        .irp    register, rax, rcx, rdx, rbx, rbp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15
        popq    %\register
        .endr
        addq    $16, %rsp
        iretq
1:      movl    $KDATA, %eax
        movl    %eax, %ss
        movq    run_rsp, %rsp
        popfq
        .irp    register, r15, r14, r13, r12, rbp, rbx
        popq    %\register
        .endr
        ret

        .globl  run_enter
run_enter:                              /* void run_enter(void): from `in`, see above */
        .irp    register, rbx, rbp, r12, r13, r14, r15
        pushq   %\register
        .endr
        pushfq
        movq    %rsp, run_rsp
        movl    $in, %esi
        movw    IN_DS(%rsi), %ds
        movw    IN_ES(%rsi), %es
        movw    IN_FS(%rsi), %fs
        movw    IN_GS(%rsi), %gs
        cmpq    $0, IN_FS(%rsi)         /* with a selector, a base of 0 means the descriptor's */
        je      1f
        cmpq    $0, IN_FS_BASE(%rsi)
        je      2f
1:      movl    $MSR_FS_BASE, %ecx
        movl    IN_FS_BASE(%rsi), %eax
        movl    IN_FS_BASE + 4(%rsi), %edx
        wrmsr
2:      cmpq    $0, IN_GS(%rsi)
        je      1f
        cmpq    $0, IN_GS_BASE(%rsi)
        je      2f
1:      movl    $MSR_GS_BASE, %ecx
        movl    IN_GS_BASE(%rsi), %eax
        movl    IN_GS_BASE + 4(%rsi), %edx
        wrmsr
2:      pushq   IN_SS(%rsi)
        pushq   IN_RSP(%rsi)
        pushq   IN_RFLAGS(%rsi)
        pushq   IN_CS(%rsi)
        pushq   IN_RIP(%rsi)
        movl    $16, %ecx
        leaq    IN_R15(%rsi), %rsi
2:      pushq   (%rsi)
        subq    $8, %rsi
        loop    2b
        .irp    register, rax, rcx, rdx, rbx, rbp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15
        popq    %\register
        .endr
        iretq

        .data
        .balign 8
start_gdt:                              /* until guest_start() has made a better one */
        .quad   0, 0x00af9b000000ffff, 0x00cf93000000ffff
start_gdt_pointer:
        .word   . - start_gdt - 1
        .long   start_gdt

/* P, W, and U where CPL 3 may come; 2 MiB pages 2 and 3 are .snip and .user. */
        .balign 4096
        .globl  pml4, directory
pml4:
        .set    index, 0
        .rept   512
        .if     index == 0
        .quad   pdpt_low + 7
        .elseif index == 273            /* ffff888000000000h */
        .quad   pdpt_low + 3
        .elseif index == 511
        .quad   pdpt_high + 3
        .else
        .quad   0
        .endif
        .set    index, index + 1
        .endr
pdpt_low:
        .quad   directory + 7
        .skip   4096 - 8
pdpt_high:
        .skip   510 * 8
        .quad   directory + 7, 0
directory:
        .set    index, 0
        .rept   512
        .if     index == 2 || index == 3
        .quad   index * 0x200000 + 0x87
        .else
        .quad   index * 0x200000 + 0x83
        .endif
        .set    index, index + 1
        .endr

        .bss
        .globl  run_rsp
        .balign 16
run_rsp:
        .skip   8
        .balign 16
        .skip   16384
boot_stack_top:
        .globl  trap_stack_top, ist_stack_top, df_stack_top
        .skip   16384
trap_stack_top:
        .skip   16384
ist_stack_top:
        .skip   16384
df_stack_top:

        .section .user, "aw", @progbits
        .globl  user_stack, user_stack_top, kernel_stack, kernel_stack_top
        .balign 4096
user_stack:
        .skip   8192
user_stack_top:
kernel_stack:
        .skip   8192
kernel_stack_top:
