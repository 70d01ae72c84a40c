/* guest16.S - the boundary test's program of 16-bit code: in protected mode, then in virtual-8086
 * mode; before, two address spaces.
 *
 * As guest32.S otherwise. Events of virtual-8086 mode find DS, ES, FS and GS null: the handlers go
 * by SS. */
#include "tests/boundary/handlers.h"

handler_finish:
        movl    $STACK_TOP, %esp
        movl    $UDATA, %eax
        movl    %eax, %ds
        jmp     finish

        .org    PROGRAM
program:
        /* another space: two pages of data are exchanged */
        movl    %ds, %eax
        movl    %eax, %es
        movl    $PT, %esi
        movl    $PT2, %edi
        movl    $RAM_SIZE>>12, %ecx
        rep movsl
        movl    $DATA+0x2000+7, PT2+((DATA+0x1000)>>10)
        movl    $DATA+0x1000+7, PT2+((DATA+0x2000)>>10)
        movl    $PT2+7, TABLES2
        movl    %cr3, %eax
        movl    $TABLES2, %ecx
        movl    $3, %ebx
1:      movl    %ecx, %cr3
        addl    %ebx, DATA+0x1100
        movl    DATA+0x2104, %edx
        call    2f
        movl    %eax, %cr3
        addl    %edx, DATA+0x1104
        call    2f
        decl    %ebx
        jnz     1b
        jmp     3f
2:      incl    DATA+0x1ffe
        ret
3:      ljmp    $CODE16, $code16-PROGRAM

        .code16
code16:
        movw    $DATA16, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    $0x1234, %ax
        addw    0xfff, %ax
        movl    %eax, 0x1ffe
        adcb    %al, %ah
        pushw   %ax
        popw    %cx
        pushl   %eax
        popw    %dx
        popw    %bx
        pushf
        popf
        movw    $3, %cx
1:      rolw    %cl, %ax
        call    2f
        loop    1b
        jmp     3f
2:      incw    0xfff
        ret
3:      cli
        nop
        sti
        nop
        std
        movw    $0x1002, %si
        movw    $0x2001, %di
        movw    $5, %cx
        rep movsw
        cld
        movw    $0xffe, %di
        movw    $4, %cx
        repne scasb
        leaw    3(%bx,%si), %bp
        movw    %ss, %dx
        movw    %dx, %ss
        incl    %edx
        fninit
        fld1
        fldpi
        faddp
        fstpl   0xffc
        movups  0xff8, %xmm0
        movups  %xmm0, 0x1ff1
        movw    $UDATA, %ax
        movw    %ax, %ds
        movw    %ax, %es
        ljmpl   $KCODE, $virtual

        .code32
virtual:
        pushl   $0                      /* GS, FS, DS, ES, SS, ESP, EFLAGS: VM IOPL IF, CS, EIP */
        pushl   $0
        pushl   $DATA>>4
        pushl   $DATA>>4
        pushl   $USER_TOP>>4 & 0xff00
        pushl   $USER_TOP & 0xfff
        pushl   $0x23202
        pushl   $USER>>4
        pushl   $0
        iret
finish:
        DONE

        .org    PATCHED
        ret

        .org    USER
        .code16
user:
        movw    $0x77, %ax
        addw    0xfff, %ax
        movl    %eax, 0x1ffe
        pushf
        popw    %bx
        cli
        nop
        sti
        nop
        cli
        pushf
        orb     $2, 1(%esp)
        popf
        nop
        movw    %ss, %cx
        movw    %cx, %ss
        incw    %cx
        movw    $(DATA>>4)+0x100, %cx
        movw    %cx, %fs
        movl    %fs:0xffd, %edx
        movw    %fs, 0x10
        popw    %gs
        pushw   %gs
        pushw   %cs
        pushw   $1f-user
        lret
1:      lcall   $USER>>4, $5f-user
        movw    $3, %cx
2:      call    6f
        loop    2b
        jmp     3f
5:      incw    0x1fff
        lret
6:      xorw    %cx, 0xfff
        ret
3:      movw    $0xffc, %si
        movw    $0x1ffd, %di
        movw    $7, %cx
        rep movsb
        std
        movw    $3, %cx
        rep stosw
        cld
        xorw    %cx, %cx
        divw    %cx
        ud2
        int     $CALL0
        enter   $8, $1
        leave
        pusha
        popa
        lesw    0x20, %bx
        incl    0xffe
        lock incb 0x1fff
        movups  0x1ff8, %xmm1
        pxor    %xmm0, %xmm1
        movups  %xmm1, 0xff9
        fildl   0x100
        fistpl  0x108
        movw    $2, %cx
4:      int     $CALL0
        loop    4b
        int     $FINISH
        .org    RAM_SIZE
