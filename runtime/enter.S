/* enter.S - the way into translated code and out of it.
 *
 * Guest registers are loaded as 32 bits: translated code relies on their upper halves being zero
 * (copy.c), whatever the monitor left there.
 *
 * rt_enter loads the guest's registers and jumps to start. Cost: 37 instructions in, 25 out.
 *
 * While translated code runs, rsp is the guest's and r12 the host's stack pointer:
 *
 *      host_sp, r12 ->  [alignment] r15 r14 r13 r12 rbp rbx return address
 *
 * The thread's rt_cpu is reached by its offset from %fs, which the loader fixed (initial-exec). */
#include "runtime/offsets.h"

/* hflags: its arithmetic flags and DF, which are all that differ from C's (rt_flags_reset()). By SAHF,
 * which has no OF; POPF takes 20 cycles. What comes next changes no flags. */
        .macro  load_flags
        movl    CPU_HFLAGS(%rdi), %eax
        testl   $1 << 10, %eax
        jz      1f
        std
1:      movl    %eax, %ecx
        movb    %al, %ah
        shrl    $11, %ecx
        addb    $0x7f, %cl
        sahf
        .endm

        .text
        .globl  rt_enter
        .hidden rt_enter
        .type   rt_enter, @function
        .p2align 4
rt_enter:
        .cfi_startproc
        push    %rbx
        .cfi_adjust_cfa_offset 8
        push    %rbp
        .cfi_adjust_cfa_offset 8
        push    %r12
        .cfi_adjust_cfa_offset 8
        push    %r13
        .cfi_adjust_cfa_offset 8
        push    %r14
        .cfi_adjust_cfa_offset 8
        push    %r15
        .cfi_adjust_cfa_offset 8
        sub     $8, %rsp
        .cfi_adjust_cfa_offset 8
        mov     %rsp, CPU_HOST_SP(%rdi)
        mov     %rsp, %r12
        mov     CPU_INSNS(%rdi), %r13
        mov     CPU_JUMP_TABLE(%rdi), %r14
        .globl  rt_enter_loaded
        .hidden rt_enter_loaded
rt_enter_loaded:
        mov     CPU_WINDOW(%rdi), %r15
        movl    $1, CPU_IN_CACHE(%rdi)
        load_flags
        mov     CPU_RIP(%rdi), %r8
        movl    CPU_GPR+0*8(%rdi), %eax
        movl    CPU_GPR+1*8(%rdi), %ecx
        movl    CPU_GPR+2*8(%rdi), %edx
        movl    CPU_GPR+3*8(%rdi), %ebx
        movl    CPU_GPR+5*8(%rdi), %ebp
        movl    CPU_GPR+6*8(%rdi), %esi
        mov     CPU_START(%rdi), %r9
        movl    CPU_GPR+4*8(%rdi), %esp
        movl    CPU_GPR+7*8(%rdi), %edi
        jmp     *%r9
        .cfi_endproc
        .size   rt_enter, .-rt_enter

/* The same for 64-bit code: r9 to r11 stay in memory, rsp comes as the host's address. */
        .globl  rt_enter64
        .hidden rt_enter64
        .type   rt_enter64, @function
        .p2align 4
rt_enter64:
        .cfi_startproc
        push    %rbx
        .cfi_adjust_cfa_offset 8
        push    %rbp
        .cfi_adjust_cfa_offset 8
        push    %r12
        .cfi_adjust_cfa_offset 8
        push    %r13
        .cfi_adjust_cfa_offset 8
        push    %r14
        .cfi_adjust_cfa_offset 8
        push    %r15
        .cfi_adjust_cfa_offset 8
        sub     $8, %rsp
        .cfi_adjust_cfa_offset 8
        mov     %rsp, CPU_HOST_SP(%rdi)
        movl    $1, CPU_IN_CACHE(%rdi)
        load_flags
        mov     CPU_RIP(%rdi), %r9
        mov     CPU_JUMP_TABLE(%rdi), %r11
        mov     CPU_GPR+0*8(%rdi), %rax
        mov     CPU_GPR+1*8(%rdi), %rcx
        mov     CPU_GPR+2*8(%rdi), %rdx
        mov     CPU_GPR+3*8(%rdi), %rbx
        mov     CPU_GPR+5*8(%rdi), %rbp
        mov     CPU_GPR+6*8(%rdi), %rsi
        mov     CPU_GPR+8*8(%rdi), %r8
        mov     CPU_GPR+12*8(%rdi), %r12
        mov     CPU_GPR+13*8(%rdi), %r13
        mov     CPU_GPR+14*8(%rdi), %r14
        mov     CPU_GPR+15*8(%rdi), %r15
        mov     CPU_START(%rdi), %r10
        mov     CPU_HOST_RSP(%rdi), %rsp
        mov     CPU_GPR+7*8(%rdi), %rdi
        jmp     *%r10
        .globl  rt_enter_end
        .hidden rt_enter_end
rt_enter_end:
        .cfi_endproc
        .size   rt_enter64, .-rt_enter64

/* In: r10d reason, r8 guest rip, r9 argument. */
        .globl  rt_exit_common
        .hidden rt_exit_common
        .type   rt_exit_common, @function
        .p2align 4
rt_exit_common:
        .cfi_startproc
        .cfi_def_cfa %r12, 64
        .cfi_offset %rip, -8
        mov     rt_cpu@gottpoff(%rip), %r11
        mov     %rax, %fs:CPU_GPR+0*8(%r11)
        mov     %rcx, %fs:CPU_GPR+1*8(%r11)
        mov     %rdx, %fs:CPU_GPR+2*8(%r11)
        mov     %rbx, %fs:CPU_GPR+3*8(%r11)
        mov     %rsp, %fs:CPU_GPR+4*8(%r11)
        mov     %rbp, %fs:CPU_GPR+5*8(%r11)
        mov     %rsi, %fs:CPU_GPR+6*8(%r11)
        mov     %rdi, %fs:CPU_GPR+7*8(%r11)
        mov     %r8, %fs:CPU_RIP(%r11)
        mov     %r9, %fs:CPU_EXIT_ARG(%r11)
        mov     %r13, %fs:CPU_INSNS(%r11)
        mov     %r12, %rsp
        pushfq
        pop     %rax
        mov     %rax, %fs:CPU_HFLAGS(%r11)
        movl    $0, %fs:CPU_IN_CACHE(%r11)
        mov     %r10d, %eax
        cld
leave:
        add     $8, %rsp
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbp
        pop     %rbx
        ret
        .cfi_endproc
        .size   rt_exit_common, .-rt_exit_common

/* The signal handler resumes here with rsp at host_sp, the guest's state already in rt_cpu and
 * eax the reason. */
        .globl  rt_exit_fault
        .hidden rt_exit_fault
        .type   rt_exit_fault, @function
rt_exit_fault:
        cld
        jmp     leave
        .size   rt_exit_fault, .-rt_exit_fault

        .section .note.GNU-stack,"",@progbits
