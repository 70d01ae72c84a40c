/* native.S - runs one instruction of the guest for the slow path.
 *
 * rt_native_call loads the guest's registers and flags and jumps to a piece of code that the
 * monitor has emitted (monitor/cpu/native.c):
 *
 *      mov   guest_sp(%rip), %rsp
 *      (the instruction)
 *      mov   %rsp, guest_sp(%rip)
 *      mov   host_sp(%rip), %rsp
 *      jmp   *return(%rip)             to rt_native_return
 *
 * It must not touch the host's stack through rsp in between. When the instruction faults, the
 * signal handler resumes at rt_native_fault with the guest's registers, which are dropped: cpu->gpr
 * and cpu->rflags are as they were. Vector registers are not touched here.
 *
 * Stack, from host_sp up: cpu, control block, [alignment] r15 r14 r13 r12 rbp rbx return address. */
#include "runtime/native.h"
#include "runtime/offsets.h"

/* CF, PF, AF, ZF, SF, DF, OF: RT_LIVE of vcpu.h. */
#define LIVE 0xcd5

        .section .tbss,"awT",@nobits
        .p2align 3
        .type   native_frame, @object
        .size   native_frame, 8
native_frame:
        .zero   8

        .text

/* uint64_t rt_native_call(struct rt_cpu *cpu, const void *code): 0, or 1 after a fault. */
        .globl  rt_native_call
        .hidden rt_native_call
        .type   rt_native_call, @function
        .p2align 4
rt_native_call:
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
        mov     %rsi, %rdx
        and     $-NATIVE_CODE_SIZE, %rdx
        add     $NATIVE_CODE_SIZE, %rdx
        push    %rdx
        .cfi_adjust_cfa_offset 8
        push    %rdi
        .cfi_adjust_cfa_offset 8
        mov     native_frame@gottpoff(%rip), %rax
        mov     %rdx, %fs:(%rax)
        mov     %rsp, NATIVE_HOST_SP(%rdx)
        mov     CPU_GPR+4*8(%rdi), %rax
        mov     %rax, NATIVE_GUEST_SP(%rdx)
        mov     CPU_RFLAGS(%rdi), %eax
        and     $LIVE, %eax
        or      $0x202, %eax
        push    %rax
        popfq
        mov     %rsi, -8(%rsp)
        mov     CPU_GPR+0*8(%rdi), %rax
        mov     CPU_GPR+1*8(%rdi), %rcx
        mov     CPU_GPR+2*8(%rdi), %rdx
        mov     CPU_GPR+3*8(%rdi), %rbx
        mov     CPU_GPR+5*8(%rdi), %rbp
        mov     CPU_GPR+6*8(%rdi), %rsi
        mov     CPU_GPR+8*8(%rdi), %r8
        mov     CPU_GPR+9*8(%rdi), %r9
        mov     CPU_GPR+10*8(%rdi), %r10
        mov     CPU_GPR+11*8(%rdi), %r11
        mov     CPU_GPR+12*8(%rdi), %r12
        mov     CPU_GPR+13*8(%rdi), %r13
        mov     CPU_GPR+14*8(%rdi), %r14
        mov     CPU_GPR+15*8(%rdi), %r15
        mov     CPU_GPR+7*8(%rdi), %rdi
        jmp     *-8(%rsp)

/* Every register but rsp is the guest's, and the flags are. */
        .globl  rt_native_return
        .hidden rt_native_return
        .type   rt_native_return, @function
rt_native_return:
        mov     %rdi, -8(%rsp)
        mov     (%rsp), %rdi
        mov     %rax, CPU_GPR+0*8(%rdi)
        mov     -8(%rsp), %rax
        mov     %rax, CPU_GPR+7*8(%rdi)
        mov     %rcx, CPU_GPR+1*8(%rdi)
        mov     %rdx, CPU_GPR+2*8(%rdi)
        mov     %rbx, CPU_GPR+3*8(%rdi)
        mov     %rbp, CPU_GPR+5*8(%rdi)
        mov     %rsi, CPU_GPR+6*8(%rdi)
        mov     %r8, CPU_GPR+8*8(%rdi)
        mov     %r9, CPU_GPR+9*8(%rdi)
        mov     %r10, CPU_GPR+10*8(%rdi)
        mov     %r11, CPU_GPR+11*8(%rdi)
        mov     %r12, CPU_GPR+12*8(%rdi)
        mov     %r13, CPU_GPR+13*8(%rdi)
        mov     %r14, CPU_GPR+14*8(%rdi)
        mov     %r15, CPU_GPR+15*8(%rdi)
        pushfq
        pop     %rcx
        mov     8(%rsp), %rdx
        mov     NATIVE_GUEST_SP(%rdx), %rax
        mov     %rax, CPU_GPR+4*8(%rdi)
        and     $LIVE, %ecx
        mov     CPU_RFLAGS(%rdi), %rax
        and     $~LIVE, %rax
        or      %rcx, %rax
        mov     %rax, CPU_RFLAGS(%rdi)
        xor     %eax, %eax
leave:
        cld
        add     $24, %rsp
        .cfi_def_cfa_offset 56
        pop     %r15
        .cfi_adjust_cfa_offset -8
        pop     %r14
        .cfi_adjust_cfa_offset -8
        pop     %r13
        .cfi_adjust_cfa_offset -8
        pop     %r12
        .cfi_adjust_cfa_offset -8
        pop     %rbp
        .cfi_adjust_cfa_offset -8
        pop     %rbx
        .cfi_adjust_cfa_offset -8
        ret
        .cfi_endproc
        .size   rt_native_call, .-rt_native_call

/* The signal handler resumes here; rsp is the guest's. */
        .globl  rt_native_fault
        .hidden rt_native_fault
        .type   rt_native_fault, @function
rt_native_fault:
        mov     native_frame@gottpoff(%rip), %rax
        mov     %fs:(%rax), %rdx
        mov     NATIVE_HOST_SP(%rdx), %rsp
        mov     $1, %eax
        jmp     leave
        .size   rt_native_fault, .-rt_native_fault

        .section .note.GNU-stack,"",@progbits
