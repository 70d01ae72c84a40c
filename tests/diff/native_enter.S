/* native_enter.S - from the child's C code into a batch of code and back.
 *
 * void native_enter(uint32_t offset, uint32_t cs, uint32_t ds): 32- and 16-bit code, through a far
 * return; the batch ends with a far jump (EXIT_STUB, native.c) to native_return. In such code the
 * upper halves of all registers get lost, so nothing but memory is relied on.
 *
 * void native_enter64(uint64_t start): with the bases of FS and GS of layout.h; the batch ends with
 * a jump to native_return. */
#include "tests/diff/layout.h"

        .bss
        .p2align 3
saved_sp:
        .skip   8
saved_fs:
        .skip   8

        .text
        .macro  save
        push    %rbx
        push    %rbp
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        mov     %rsp, saved_sp(%rip)
        rdfsbase %rax
        mov     %rax, saved_fs(%rip)
        .endm

        .globl  native_enter
        .type   native_enter, @function
native_enter:
        save
        mov     $GS_SELECTOR, %eax
        mov     %eax, %gs
        cmp     $DS16, %edx
        jne     1f
        mov     $USER_DS, %eax
        mov     %eax, %fs
        mov     %edx, %ss
1:
        mov     %edx, %ds
        mov     %edx, %es
        push    %rsi
        push    %rdi
        lretq
        .size   native_enter, .-native_enter

        .globl  native_enter64
        .type   native_enter64, @function
native_enter64:
        save
        movabs  $FS_BASE, %rax
        wrfsbase %rax
        mov     $GS_BASE, %eax
        wrgsbase %rax
        jmp     *%rdi
        .size   native_enter64, .-native_enter64

        .globl  native_return
        .type   native_return, @function
native_return:
        mov     $USER_DS, %eax
        mov     %eax, %ss
        mov     saved_sp(%rip), %rsp
        xor     %eax, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %fs
        mov     %eax, %gs
        mov     saved_fs(%rip), %rax
        wrfsbase %rax
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
