/* guest_kernel.S - the guest's supervisor code, copied to the kernel's base + KERNEL_TEXT.
 *
 * An exception is noted in the current record and the sequence's epilogue runs next, with the
 * registers as they were: what native.c's signal handler does, the records' upper halves
 * included (a wild store may have been there). When the batch is done the embedder
 * is told, and the next one starts where IO_START says. Position-independent but for the fixed
 * addresses of layout.h. One kernel for 32- and 16-bit code, one for 64-bit code. */
#include "tests/diff/layout.h"

#define TF 0x100

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

        .section .rodata
        .code32
        .globl  guest_kernel, guest_kernel_end, guest_kernel_done, guest_kernel_exit
        .globl  guest_kernel_idle
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
        iret

/* A single step is noted; where the sequence ends it goes on without. */
        .p2align 4
step:
        mov     IO_STEP, %eax
        test    %eax, %eax
        jz      fault
        cmpl    $0, REC_STEPS(%ebx)
        je      1f
        decl    REC_STEPS(%ebx)
        addl    $STEP_SIZE, IO_STEP
        mov     %ebx, STEP_RECORD(%eax)
        mov     %ecx, STEP_GPR + 8(%eax)
        mov     %edx, STEP_GPR + 16(%eax)
        mov     %ebp, STEP_GPR + 40(%eax)
        mov     %esi, STEP_GPR + 48(%eax)
        mov     %edi, STEP_GPR + 56(%eax)
        .macro  note from, to
        pushl   \from(%esp)
        popl    \to(%eax)
        .endm
        note    0, STEP_GPR
        note    4, STEP_GPR + 24
        note    32, STEP_GPR + 32
        note    20, STEP_RIP
        note    28, STEP_RFLAGS
        mov     %dr6, %ebx
        mov     %ebx, STEP_DR6(%eax)
        mov     $DR6_CLEAR, %ebx
        mov     %ebx, %dr6
        mov     STEP_RECORD(%eax), %ebx
        cmpl    $0, REC_STEPS(%ebx)
        je      1f
        mov     20(%esp), %eax
        sub     REC_EPILOGUE(%ebx), %eax
        cmp     $EPILOGUE_SIZE, %eax
        jae     2f
1:      andl    $~TF, 28(%esp)
2:      pop     %eax
        pop     %ebx
        pop     %ds
        add     $8, %esp
        iret

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
        iret

        .p2align 4
guest_kernel_idle:
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
        mov     IO_STEP, %eax
        test    %eax, %eax
        jz      fault64
        cmpl    $0, REC_STEPS(%rbx)
        je      1f
        decl    REC_STEPS(%rbx)
        addl    $STEP_SIZE, IO_STEP
        mov     %rbx, STEP_RECORD(%rax)
        mov     %rcx, STEP_GPR + 8(%rax)
        mov     %rdx, STEP_GPR + 16(%rax)
        mov     %rbp, STEP_GPR + 40(%rax)
        mov     %rsi, STEP_GPR + 48(%rax)
        mov     %rdi, STEP_GPR + 56(%rax)
        .set    number, 8
        .irp    reg, r8, r9, r10, r11, r12, r13, r14, r15
        mov     %\reg, STEP_GPR + 8 * number(%rax)
        .set    number, number + 1
        .endr
        .macro  note64 from, to
        pushq   \from(%rsp)
        popq    \to(%rax)
        .endm
        note64  0, STEP_GPR
        note64  8, STEP_GPR + 24
        note64  56, STEP_GPR + 32
        note64  32, STEP_RIP
        note64  48, STEP_RFLAGS
        mov     %dr6, %rbx
        mov     %rbx, STEP_DR6(%rax)
        mov     $DR6_CLEAR, %ebx
        mov     %rbx, %dr6
        mov     STEP_RECORD(%rax), %rbx
        cmpl    $0, REC_STEPS(%rbx)
        je      1f
        mov     32(%rsp), %rax
        sub     REC_EPILOGUE(%rbx), %rax
        cmp     $EPILOGUE_SIZE, %rax
        jae     2f
1:      andl    $~TF, 48(%rsp)
2:      pop     %rax
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
