/* guest32.S - the 32-bit program of the boundary test: a bit of everything, once through.
 *
 * boundary.c starts it at PROGRAM, CPL 0, IF set, and ends when it writes PORT_DONE. Whatever it does
 * depends on nothing outside. handlers.h has what notes the events. */
#include "tests/boundary/handlers.h"

sysenter_entry:
        addl    $0x2222, %ebx
        sti
        decl    DATA+0x100
        movl    $USER_TOP-64, %ecx
        movl    %ebp, %edx
        sysexit
handler_finish:
        movl    $STACK_TOP, %esp
        jmp     finish

        .org    PROGRAM
program:
        /* arithmetic and flags */
        movl    $0x12345678, %eax
        movl    $0x9abcdef0, %ecx
        xorl    %edx, %edx
        movl    $3, %ebx
1:      addl    %ecx, %eax
        adcl    $0x77, %edx
        rcll    $3, %eax
        sbbl    %eax, %ecx
        decl    %ebx
        jnz     1b
        imull   %ecx, %ebx
        btsl    $7, %edx
        cmc
        lahf
        setc    %cl
        cmovol  %eax, %esi
        sahf
        daa
        shldl   $5, %eax, %edx
        mull    %ecx
        bsrl    %eax, %ecx
        xchgl   %eax, %ecx
        negl    %ecx
        loop    2f
2:      /* flags and IF, with their shadows */
        pushf
        popl    %eax
        pushl   %eax
        popf
        pushf
        andl    $~0x200, (%esp)
        popf
        incl    %eax
        pushf
        orl     $0x200, (%esp)
        popf
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
        pushf
        cld
        popf
        cld
        movl    %ss, %ecx
        movl    %ecx, %ss
        movl    $STACK_TOP, %esp
        cli
        movl    %ecx, %ss
        sti
        nop
        nop
        /* strings, over page ends */
        movl    $DATA+0xff8, %edi
        movl    $5, %ecx
        rep stosl
        movl    $DATA+0xffc, %esi
        movl    $DATA+0x1ffa, %edi
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
        lodsl
        movsw
        stosb
        xorl    %ecx, %ecx
        rep stosb
        /* operands across a page's end, and locked */
        movl    %eax, DATA+0xffe
        addl    $0x1010101, DATA+0xffd
        movl    $DATA+0x1000, %ebx
        lock xaddl %eax, 4(%ebx)
        lock cmpxchgl %ecx, (%ebx)
        cmpxchg8b -4(%ebx)
        xchgl   %edx, -2(%ebx)
        incb    -1(%ebx)
        notl    0x1000(%ebx)
        /* stack and branches */
        pusha
        popa
        enter   $16, $1
        pushl   DATA+8
        popl    DATA+0x1ffe
        leave
        pushw   %ax
        pushw   %cx
        call    3f
        movl    $4f, %eax
        call    *%eax
        movl    $5f, %edx
        jmp     *%edx
3:      ret
4:      pushl   $7
        pushl   $6f
        ret     $4
6:      ret
5:      lcall   $KCODE, $7f
        ljmp    $KCODE, $8f
7:      incl    %eax
        lret
8:      pushl   %ds
        popl    %es
        movl    %es, %eax
        movl    %eax, %ds
        movl    %eax, %fs
        movl    %fs:DATA+0xfff, %ecx
        /* the same selectors again, and null */
        movl    $3, %edx
1:      movl    %eax, %fs
        pushl   %fs
        pushl   %ds
        pushl   %es
        movl    %eax, %gs
        popl    %es
        popl    %ds
        popl    %gs
        movl    %eax, DATA+0xffe
        movw    DATA+0xffe, %fs
        xorl    %ecx, %ecx
        movl    %ecx, %gs
        movl    %fs:DATA+0x1000, %ecx
        decl    %edx
        jnz     1b
        /* x87, SSE */
        fninit
        fld1
        fldpi
        faddp
        fstpl   DATA+0xffc
        fildl   DATA+0x100
        fistpl  DATA+0x108
        fnstsw  %ax
        fwait
        movups  DATA+0xff8, %xmm0
        movups  DATA+0x200, %xmm1
        addps   %xmm0, %xmm1
        pcmpeqd %xmm2, %xmm2
        paddd   DATA+0x210, %xmm2
        movdqu  %xmm1, DATA+0x1ff4
        movq    %xmm2, DATA+0x20
        ldmxcsr DATA+0x220
        stmxcsr DATA+0x224
        /* code that changes */
        movb    $0x55, PATCHED+1
        call    PATCHED
        incb    PATCHED+1
        call    PATCHED
        movb    $0x48, PATCHED+0x13     /* the instruction behind the store that is called */
        call    PATCHED+0x10
        /* system instructions */
        movl    %cr3, %eax
        movl    %eax, %cr3
        invlpg  DATA
        movl    %cr0, %eax
        movl    %eax, %cr0
        smsw    %cx
        str     %cx
        sgdt    DATA+0x300
        clts
        movl    $0x174, %ecx
        movl    $KCODE, %eax
        xorl    %edx, %edx
        wrmsr
        incl    %ecx
        movl    $TRAP_TOP, %eax
        wrmsr
        incl    %ecx
        movl    $sysenter_entry, %eax
        wrmsr
        /* faults */
        ud2
        xorl    %ecx, %ecx
        divl    %ecx
        /* to user mode, where IF is set again */
        cli
        pushl   $UDATA
        pushl   $USER_TOP
        pushl   $0x202
        pushl   $UCODE
        pushl   $USER
        iret
finish:
        DONE

        .org    PATCHED
        movb    $0x11, %al
        addb    %al, DATA+0x400
        ret
        .org    PATCHED+0x10
        movl    %esi, %esi
        nop
        incl    %eax
        ret

        .org    USER
        movl    $UDATA, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    $4, %ecx
1:      addl    DATA+0x500(,%ecx,4), %eax
        rorl    $3, %eax
        pushl   %eax
        call    2f
        loop    1b
        jmp     3f
2:      xorl    %ecx, 4(%esp)
        adcl    $1, %ebx
        ret     $4
3:      pushf
        popl    %eax
        xorl    $0x80001, %eax
        pushl   %eax
        popf
        int     $CALL0
        movl    $DATA+0xffe, %edi
        movl    %edx, (%edi)
        movl    $DATA+0x1ffc, %esi
        movl    $7, %ecx
        rep movsb
        movups  DATA+0x1ff8, %xmm3
        pxor    %xmm3, %xmm2
        movups  %xmm2, DATA+0xff1
        lock incl DATA+0x600
        movl    $after_sysenter, %ebp   /* more than once: then it stays in the cache */
        movl    $4, %esi
1:      sysenter
after_sysenter:
        addl    DATA+0x100, %esi
        subl    DATA+0x100, %esi
        decl    %esi
        jnz     1b
        fildl   DATA+0x600
        fistpl  DATA+0x604
        incl    %eax
        pushl   $USER_TOP
        popl    DATA+0x1ffe
        int     $FINISH
        .org    RAM_SIZE
