/* guest64.S - the 64-bit program of the boundary test: a bit of everything, once through, at low
 * and at high addresses.
 *
 * boundary.c starts it at PROGRAM, CPL 0, IF set, and ends when it writes PORT_DONE. Whatever it does
 * depends on nothing outside. handlers.h has what notes the events, on a stack of its own. */
#include "tests/boundary/handlers.h"

handler_call:
        addq    $0x1111, %rdx
        incq    DATA+0x100
        pushfq
        popq    DATA+0x108
        iretq
syscall_entry:
        movq    %rsp, %r14
        movq    $STACK_TOP, %rsp
        swapgs
        pushq   %r11
        addq    $0x2222, %rbx
        sti
        decq    DATA+0x100
        cli
        popq    %r11
        swapgs
        movq    %r14, %rsp
        sysretq
handler_finish:
        movq    $STACK_TOP, %rsp
        jmp     finish

        .org    PROGRAM
program:
        /* arithmetic and flags */
        movabsq $0x123456789abcdef0, %rax
        movq    $-0x65432110, %rcx
        xorl    %edx, %edx
        movl    $3, %ebx
1:      addq    %rcx, %rax
        adcq    $0x77, %rdx
        rclq    $3, %rax
        sbbl    %eax, %ecx
        decl    %ebx
        jnz     1b
        imulq   %rcx, %rbx
        btsq    $37, %rdx
        cmc
        setc    %cl
        cmovoq  %rax, %rsi
        movq    %rax, %r9
        shldq   $5, %r9, %r10
        leaq    3(%r9,%r10,4), %r11
        mulq    %r11
        bsrq    %rax, %rcx
        xchgq   %rax, %r8
        negq    %r10
        loop    2f
2:      /* flags and IF, with their shadows */
        pushfq
        popq    %rax
        pushq   %rax
        popfq
        pushfq
        andl    $~0x200, (%rsp)
        popfq
        incl    %eax
        pushfq
        orl     $0x200, (%rsp)
        popfq
        incl    %eax
        cli
        incl    %eax
        sti
        incl    %eax
        cli
        sti
        cli
        nop
        sti
        sti
        std
        pushfq
        cld
        popfq
        cld
        movl    %ss, %ecx
        movl    %ecx, %ss
        movq    $STACK_TOP, %rsp
        cli
        movl    %ecx, %ss
        sti
        nop
        nop
        /* strings, over page ends; the second at the high addresses */
        movl    $DATA+0xff8, %edi
        movl    $5, %ecx
        rep stosl
        movabsq $HIGH+DATA+0xffc, %rsi
        movabsq $HIGH+DATA+0x1ffa, %rdi
        movl    $9, %ecx
        rep movsb
        std
        movl    $3, %ecx
        rep movsw
        cld
        movl    $DATA+0xff8, %esi
        movl    $DATA+0xffc, %edi
        movl    $8, %ecx
        repe cmpsb
        movl    $6, %ecx
        repne scasb
        lodsq
        movsw
        stosb
        xorl    %ecx, %ecx
        rep stosb
        /* operands across a page's end, and locked */
        movq    %rax, DATA+0xffe
        addq    $0x1010101, DATA+0xff9
        movabsq $HIGH+DATA+0x1000, %rbx
        lock xaddq %rax, 8(%rbx)
        lock cmpxchgl %ecx, (%rbx)
        cmpxchg8b -4(%rbx)
        cmpxchg16b (%rbx)
        xchgq   %rdx, -2(%rbx)
        incb    -1(%rbx)
        notq    0x1000(%rbx)
        movq    %r9, 0x17(%rbx,%rcx,1)
        addq    data+0x1ffc(%rip), %r10
        /* stack and branches */
        enter   $16, $1
        pushq   DATA+8
        popq    DATA+0x1ffe
        leave
        pushw   %ax
        pushw   %cx
        popq    %r11
        pushq   %r11
        addq    $4, %rsp
        call    3f
        movq    $4f, %rax
        call    *%rax
        movq    $5f, %r11
        jmp     *%r11
3:      ret
4:      pushq   $7
        pushq   $6f
        ret     $8
6:      ret
5:      pushq   $KCODE
        pushq   $7f
        lretq
7:      pushq   $0x10
        pushq   $STACK_TOP
        pushfq
        pushq   $KCODE
        pushq   $8f
        iretq
8:      movl    %ss, %eax
        movl    %eax, %ds
        movl    %eax, %fs
        movl    $0xc0000101, %ecx
        movl    $DATA, %eax
        xorl    %edx, %edx
        wrmsr
        incl    %ecx
        movl    $DATA+0x1000, %eax
        wrmsr
        movq    %gs:0xffc, %rcx
        swapgs
        addq    %rcx, %gs:0xffc
        swapgs
        jmp     9f
        .skip   0x1000 - (. - program) % 0x1000 - 3, 0x90
9:      movabsq $0x1122334455667788, %r12      /* across the page's end */
        /* x87, SSE, AVX */
        fninit
        fld1
        fldpi
        faddp
        fstpl   DATA+0xffc
        fildl   DATA+0x100
        fistpl  DATA+0x110
        fnstsw  %ax
        fwait
        movups  DATA+0xff8, %xmm0
        movups  DATA+0x200, %xmm9
        addps   %xmm0, %xmm9
        pcmpeqd %xmm2, %xmm2
        paddd   DATA+0x210, %xmm2
        movdqu  %xmm9, DATA+0x1ff4
        movq    %xmm2, 0x20-0x1000(%rbx)
        ldmxcsr DATA+0x220
        stmxcsr DATA+0x224
        cvttsd2si DATA+0xffc, %r13
        /* code that changes */
        movb    $0x55, PATCHED+1
        call    PATCHED
        incb    PATCHED+1
        call    PATCHED
        movb    $0xc8, PATCHED+0x14     /* INC becomes DEC */
        call    PATCHED+0x10
        /* system instructions */
        movq    %cr3, %rax
        movq    %rax, %cr3
        invlpg  DATA
        movq    %cr0, %rax
        movq    %rax, %cr0
        movq    %cr8, %rax
        movq    %rax, %cr8
        smsw    %cx
        str     %cx
        sgdt    DATA+0x300
        clts
        movl    $0xc0000081, %ecx
        xorl    %eax, %eax
        movl    $0x00180008, %edx
        wrmsr
        incl    %ecx
        movl    $syscall_entry, %eax
        xorl    %edx, %edx
        wrmsr
        movl    $0xc0000084, %ecx
        movl    $0x700, %eax
        wrmsr
        /* faults */
        ud2
        xorl    %ecx, %ecx
        divl    %ecx
        movabsq $0x40a5354fa6ffbcf7, %rax
        call    *%rax
        jmp     *%rax
        pushq   %rax
        rep ret
        popq    %rax
        /* to user mode, where IF is set again */
        cli
        pushq   $UDATA
        pushq   $USER_TOP
        pushq   $0x202
        pushq   $UCODE
        pushq   $USER
        iretq
finish:
        DONE

        .org    PATCHED
        movb    $0x11, %al
        addb    %al, DATA+0x400
        ret
        .org    PATCHED+0x10
        movl    %esi, %esi
        nop
        incl    %eax                    /* ff c0 */
        ret

        .org    USER
        movl    $UDATA, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    $4, %ecx
1:      addq    DATA+0x500(,%rcx,8), %rax
        rorq    $3, %rax
        pushq   %rax
        call    2f
        loop    1b
        jmp     3f
2:      xorq    %rcx, 8(%rsp)
        adcq    $1, %r15
        ret     $8
3:      pushfq
        popq    %rax
        xorl    $1, %eax
        pushq   %rax
        popfq
        int     $CALL0
        movl    $DATA+0xffe, %edi
        movq    %rdx, (%rdi)
        movl    $DATA+0x1ffc, %esi
        movl    $7, %ecx
        rep movsb
        movups  DATA+0x1ff8, %xmm3
        pxor    %xmm3, %xmm2
        movups  %xmm2, DATA+0xff1
        lock incq DATA+0x600
        syscall
        addq    $3, %r11
        syscall
        fildl   DATA+0x600
        fistpl  DATA+0x604
        incl    %eax
        pushq   $USER_TOP
        popq    DATA+0x1ffe
        int     $FINISH
        .org    DATA
data:
        .org    RAM_SIZE
