/* guest_kernel.S - the guest's supervisor code, copied to KERNEL + KERNEL_TEXT.
 *
 * An exception is noted in the current record and the sequence's epilogue runs next, with the
 * registers as they were: what native.c's signal handler does. Position-independent but for the
 * fixed addresses of layout.h. */
#include "tests/diff/layout.h"

        .section .rodata
        .code32
        .globl  guest_kernel, guest_kernel_end, guest_kernel_done, guest_kernel_exit
        .p2align 4
/* 32 stubs of 16 bytes each */
guest_kernel:
        .set    vector, 0
        .rept   32
        .p2align 4
        .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17)
        pushl   $0
        .endif
        pushl   $vector
        jmp     common
        .set    vector, vector + 1
        .endr
        .p2align 4
/* vector error eip cs eflags esp ss */
common:
        push    %eax
        push    %ebx
        mov     IO_CURRENT, %ebx
        mov     8(%esp), %eax
        mov     %eax, REC_VECTOR(%ebx)
        mov     12(%esp), %eax
        mov     %eax, REC_ERROR(%ebx)
        mov     16(%esp), %eax
        mov     %eax, REC_EIP(%ebx)
        mov     24(%esp), %eax
        mov     %eax, REC_EFLAGS(%ebx)
        mov     %cr2, %eax
        mov     %eax, REC_CR2(%ebx)
        mov     REC_EPILOGUE(%ebx), %eax
        mov     %eax, 16(%esp)
        andl    $~HANDLER_CLEARS, 24(%esp)
        pop     %ebx
        pop     %eax
        add     $8, %esp
        iret

/* The batch is done (vector DONE_VECTOR): tell the embedder, then start over. */
        .p2align 4
guest_kernel_done:
        out     %al, $DONE_PORT
        movl    $CODE, (%esp)
        iret

/* Where IO_EXIT leads: copied behind the batch's own pages, at CPL 3. */
        .p2align 4
guest_kernel_exit:
        int     $DONE_VECTOR
guest_kernel_end:

        .section .note.GNU-stack,"",@progbits
