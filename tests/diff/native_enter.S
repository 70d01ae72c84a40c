/* native_enter.S - from 64-bit code into a batch of 32-bit code and back.
 *
 * void native_enter(void): leaves through a far return to USER_CS at CODE; the batch ends with a
 * far jump (EXIT_STUB, native.c) to native_return. In 32-bit code the upper halves of all registers
 * get lost, so nothing but memory is relied on. */
#include "tests/diff/layout.h"

        .bss
        .p2align 3
saved_sp:
        .skip   8

        .text
        .globl  native_enter
        .type   native_enter, @function
native_enter:
        push    %rbx
        push    %rbp
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        mov     %rsp, saved_sp(%rip)
        mov     $USER_DS, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     $GS_SELECTOR, %eax
        mov     %eax, %gs
        push    $USER_CS
        push    $CODE
        lretq
        .size   native_enter, .-native_enter

        .globl  native_return
        .type   native_return, @function
native_return:
        mov     saved_sp(%rip), %rsp
        xor     %eax, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %gs
        push    $0x202
        popfq
        fninit
        push    $0x1f80
        ldmxcsr (%rsp)
        add     $8, %rsp
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbp
        pop     %rbx
        ret
        .size   native_return, .-native_return

        .section .note.GNU-stack,"",@progbits
