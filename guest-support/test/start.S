/* start.S - entry of a test guest, the 256 interrupt entries, and the way into a snippet.
 *
 * Multiboot 1 (section 3.2, machine state) enters at `start` in protected mode with flat segments,
 * paging off, interrupts off. guest_start() in support.c does the rest.
 *
 * run_enter() loads the whole register state from `in` and enters the snippet with IRET, so that any
 * EFLAGS image and any privilege level (virtual-8086 mode too) can be asked for. The snippet ends
 * with INT FFh, or with the exception that it is about; trap_entry stores the frame and, unless
 * trap() asks to continue, goes back to the caller of run_enter() on the stack kept in run_esp.
 *
 * The frame is the struct frame of guest.h; the offsets in `in` are struct state's. */

        .set    KCODE, 0x08
        .set    KDATA, 0x10
        .set    EFLAGS_VM, 1 << 17

        .set    IN_DS, 44
        .set    IN_EIP, 48
        .set    IN_CS, 52
        .set    IN_EFLAGS, 56
        .set    IN_ESP, 60
        .set    IN_SS, 64

        .section .multiboot, "a"
        .balign 4
        .long   0x1badb002, 0, -0x1badb002

        .text
        .globl  start
start:
        cli
        cld
        movl    $boot_stack_top, %esp
        pushl   $0
        popfl
        call    guest_start
1:      hlt
        jmp     1b

        .globl  gdt_load
gdt_load:                               /* void gdt_load(const struct dtable *) */
        movl    4(%esp), %eax
        lgdt    (%eax)
        movl    $KDATA, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %fs
        movl    %eax, %gs
        movl    %eax, %ss
        ljmp    $KCODE, $1f
1:      ret

/* Vectors 8, 10-14 and 17 come with an error code (SDM 3A table 6-1); the others get a 0. 16 bytes
 * each, so that gate_set() finds an entry by its number. */
        .balign 16
        .globl  trap_entries
trap_entries:
        .set    vector, 0
        .rept   256
        .balign 16
        .if     !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17)
        pushl   $0
        .endif
        pushl   $vector
        jmp     trap_entry
        .set    vector, vector + 1
        .endr

        .balign 16
trap_entry:
        pushal
        pushl   %ds
        pushl   %es
        pushl   %fs
        pushl   %gs
        movl    $KDATA, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %fs
        movl    %eax, %gs
        cld
        movl    %esp, %eax
        pushl   %eax
        call    trap                    /* int trap(struct frame *): 0 means continue */
        addl    $4, %esp
        testl   %eax, %eax
        jnz     1f
        popl    %gs
        popl    %fs
        popl    %es
        popl    %ds
        popal
        addl    $8, %esp
        iretl
1:      movl    $KDATA, %eax
        movl    %eax, %ss
        movl    run_esp, %esp
        popfl
        popal
        ret

        .globl  run_enter
run_enter:                              /* void run_enter(void): from `in`, see above */
        pushal
        pushfl
        movl    %esp, run_esp
        movl    $in, %esi
        leal    IN_DS(%esi), %edi
        testl   $EFLAGS_VM, IN_EFLAGS(%esi)
        jnz     1f
        testb   $3, IN_CS(%esi)
        jnz     2f
        movl    IN_ESP(%esi), %esp      /* CPL 0: the frame is built on the snippet's own stack */
        jmp     3f
1:      pushl   32(%esi)                /* gs, fs, ds, es */
        pushl   36(%esi)
        pushl   44(%esi)
        pushl   40(%esi)
        movl    $run_null, %edi         /* no selectors that protected mode would refuse */
2:      pushl   IN_SS(%esi)
        pushl   IN_ESP(%esi)
3:      pushl   IN_EFLAGS(%esi)
        pushl   IN_CS(%esi)
        pushl   IN_EIP(%esi)
        pushl   (%edi)                  /* ds, es, fs, gs */
        pushl   -4(%edi)
        pushl   -8(%edi)
        pushl   -12(%edi)
        movl    $8, %ecx
        leal    28(%esi), %esi          /* eax down to edi: as PUSHAL does */
4:      pushl   (%esi)
        subl    $4, %esi
        loop    4b
        popal
        popl    %gs
        popl    %fs
        popl    %es
        popl    %ds
        iretl

        .data
        .balign 4
        .long   0, 0, 0
run_null:
        .long   0

        .bss
        .globl  run_esp
        .balign 16
run_esp:
        .skip   4
        .balign 16
        .skip   16384
boot_stack_top:
        .globl  trap_stack_top, kernel_stack, kernel_stack_top
        .skip   16384
trap_stack_top:
        .balign 4096
kernel_stack:
        .skip   8192
kernel_stack_top:

        .section .user, "aw", @progbits
        .globl  user_stack, user_stack_top
        .balign 4096
user_stack:
        .skip   8192
user_stack_top:
