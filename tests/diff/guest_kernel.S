/* guest_kernel.S - the guest's supervisor code, copied to the kernel's base + KERNEL_TEXT.
 *
 * An exception is noted in the current record and the sequence's epilogue runs next, with the
 * registers as they were: what native.c's signal handler does, the records' upper halves
 * included (a wild store may have been there). When the batch is done the embedder
 * is told, and the next one starts where IO_START says. Position-independent but for the fixed
 * addresses of layout.h. One kernel for 32- and 16-bit code, one for 64-bit code. */
#include "tests/diff/layout.h"

#define TF               0x100
#define LEAVE_SP         (KERNEL32 + KERNEL_TSS + 0x80) /* ESP and SS */
#define LEAVE_DESCRIPTOR (KERNEL32 + KERNEL_GDT + LEAVE_SS)

        .macro  stubs push0, vectors
        .set    vector, 0
        .rept   32
        .p2align 4
        .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17)
        \push0
        .endif
        \vectors vector
        .set    vector, vector + 1
        .endr
        .p2align 4
        .endm

/* A single step is noted; where the sequence ends it goes on without. r: e or r; w: what PUSH has behind
 * it; then the places of these on the stack, where eax and ebx are the first. */
        .macro  note_step r, w, ip, flags, sp
        mov     IO_STEP, %eax
        cmpl    $0, REC_STEPS(%\r\()bx)
        je      1f
        decl    REC_STEPS(%\r\()bx)
        addl    $STEP_SIZE, IO_STEP
        mov     %\r\()bx, STEP_RECORD(%\r\()ax)
        mov     %\r\()cx, STEP_GPR + 8(%\r\()ax)
        mov     %\r\()dx, STEP_GPR + 16(%\r\()ax)
        mov     %\r\()bp, STEP_GPR + 40(%\r\()ax)
        mov     %\r\()si, STEP_GPR + 48(%\r\()ax)
        mov     %\r\()di, STEP_GPR + 56(%\r\()ax)
        .ifc    \r, r
        .set    number, 8
        .irp    reg, r8, r9, r10, r11, r12, r13, r14, r15
        mov     %\reg, STEP_GPR + 8 * number(%rax)
        .set    number, number + 1
        .endr
        .endif
        note    \r, \w, 0, STEP_GPR
        .ifc    \r, r
        note    \r, \w, 8, STEP_GPR + 24
        .else
        note    \r, \w, 4, STEP_GPR + 24
        .endif
        note    \r, \w, \sp, STEP_GPR + 32
        note    \r, \w, \ip, STEP_RIP
        note    \r, \w, \flags, STEP_RFLAGS
        mov     %dr6, %\r\()bx
        mov     %\r\()bx, STEP_DR6(%\r\()ax)
        mov     $DR6_CLEAR, %ebx
        mov     %\r\()bx, %dr6
        mov     STEP_RECORD(%\r\()ax), %\r\()bx
        cmpl    $0, REC_STEPS(%\r\()bx)
        je      1f
        mov     \ip(%\r\()sp), %\r\()ax
        sub     REC_EPILOGUE(%\r\()bx), %\r\()ax
        cmp     $EPILOGUE_SIZE, %\r\()ax
        jae     2f
1:      andl    $~TF, \flags(%\r\()sp)
2:
        .endm
        .macro  note r, w, from, to
        push\w  \from(%\r\()sp)
        pop\w   \to(%\r\()ax)
        .endm

        .section .rodata
        .code32
        .globl  guest_kernel, guest_kernel_end, guest_kernel_done, guest_kernel_exit
        .globl  guest_kernel_idle
        .macro  leave
        cmpw    $DS16, 16(%esp)
        je      leave16
        iret
        .endm
        .macro  stub32 n
        pushl   $\n
        jmp     common
        .endm
        .p2align 4
guest_kernel:
        stubs   "pushl $0", stub32
/* eax ebx ds vector error eip cs eflags esp ss */
common:
        push    %ds
        push    %ebx
        push    %eax
        mov     $0x10, %eax
        mov     %eax, %ds
        mov     IO_CURRENT, %ebx
        cmpl    $1, 12(%esp)
        je      step
fault:
        .irp    field, REC_VECTOR, REC_ERROR, REC_RIP, REC_RFLAGS, REC_CR2
        movl    $0, \field + 4(%ebx)
        .endr
        mov     12(%esp), %eax
        mov     %eax, REC_VECTOR(%ebx)
        mov     16(%esp), %eax
        mov     %eax, REC_ERROR(%ebx)
        mov     20(%esp), %eax
        mov     %eax, REC_RIP(%ebx)
        mov     28(%esp), %eax
        mov     %eax, REC_RFLAGS(%ebx)
        mov     %cr2, %eax
        mov     %eax, REC_CR2(%ebx)
        mov     REC_EPILOGUE(%ebx), %eax
        mov     %eax, 20(%esp)
        andl    $~HANDLER_CLEARS, 28(%esp)
        pop     %eax
        pop     %ebx
        pop     %ds
        add     $8, %esp
        leave

        .p2align 4
step:
        cmpl    $0, IO_STEP
        je      fault
        note_step e, l, 20, 28, 32
        pop     %eax
        pop     %ebx
        pop     %ds
        add     $8, %esp
        leave

/* Vector DONE_VECTOR, at CPL 0. */
        .p2align 4
guest_kernel_done:
        mov     $0x10, %eax
        mov     %eax, %ds
        out     %al, $DONE_PORT
        mov     IO_START, %eax
        mov     %eax, (%esp)
        mov     IO_START + 8, %eax
        mov     %eax, 4(%esp)
        mov     16(%esp), %eax
        mov     %eax, %ds
        leave

        .p2align 4
guest_kernel_idle:
        leave

/* IRET to a 16-bit stack leaves the upper half of ESP as the handler has it: through a segment for the
 * stack here ESP may have the half that belongs there, as Linux does it. */
        .p2align 4
leave16:
        push    %eax
        push    %ecx
        lea     8(%esp), %eax
        mov     20(%esp), %ecx
        mov     %ax, %cx
        mov     %ecx, %ss:LEAVE_SP
        movl    $LEAVE_SS, %ss:LEAVE_SP + 4
        sub     %ecx, %eax
        mov     %ax, %ss:LEAVE_DESCRIPTOR + 2
        shr     $16, %eax
        mov     %al, %ss:LEAVE_DESCRIPTOR + 4
        mov     %ah, %ss:LEAVE_DESCRIPTOR + 7
        pop     %ecx
        pop     %eax
        lss     %ss:LEAVE_SP, %esp
        iret

/* Where IO_EXIT leads: copied behind the batch's own pages, at CPL 3; two bytes, in every mode. */
        .p2align 4
guest_kernel_exit:
        int     $DONE_VECTOR
guest_kernel_end:

        .code64
        .globl  guest_kernel64, guest_kernel64_end, guest_kernel64_done, guest_kernel64_idle
        .macro  stub64 n
        push    $\n
        jmp     common64
        .endm
        .p2align 4
guest_kernel64:
        stubs   "push $0", stub64
/* rax rbx vector error rip cs rflags rsp ss */
common64:
        push    %rbx
        push    %rax
        mov     IO_CURRENT, %ebx
        cmpl    $1, 16(%rsp)
        je      step64
fault64:
        mov     16(%rsp), %rax
        mov     %rax, REC_VECTOR(%rbx)
        mov     24(%rsp), %rax
        mov     %rax, REC_ERROR(%rbx)
        mov     32(%rsp), %rax
        mov     %rax, REC_RIP(%rbx)
        mov     48(%rsp), %rax
        mov     %rax, REC_RFLAGS(%rbx)
        mov     %cr2, %rax
        mov     %rax, REC_CR2(%rbx)
        mov     REC_EPILOGUE(%rbx), %rax
        mov     %rax, 32(%rsp)
        andl    $~HANDLER_CLEARS, 48(%rsp)
        pop     %rax
        pop     %rbx
        add     $16, %rsp
        iretq

        .p2align 4
step64:
        cmpl    $0, IO_STEP
        je      fault64
        note_step r, q, 32, 48, 56
        pop     %rax
        pop     %rbx
        add     $16, %rsp
        iretq

        .p2align 4
guest_kernel64_done:
        out     %al, $DONE_PORT
        mov     IO_START, %rax
        mov     %rax, (%rsp)
        iretq

        .p2align 4
guest_kernel64_idle:
        iretq
guest_kernel64_end:

        .section .note.GNU-stack,"",@progbits
