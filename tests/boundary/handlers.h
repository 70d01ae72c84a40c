/* handlers.h - the handlers that the guests of the boundary test share, as assembly.
 *
 * They append to the log what they were given and change nothing else. Includes what comes before
 * the program: the vectors for machine.c, then HANDLERS. A guest adds handler_finish, in 64-bit mode
 * handler_call, and what is its own; DONE ends its program.
 *
 * Registers and operations have the size of the mode: AX is eax or rax, OP(add) addl or addq. */
#include "tests/boundary/layout.h"

#ifdef GUEST64
#define AX     %rax
#define BX     %rbx
#define SP     %rsp
#define WORD   8
#define OP(op) op##q
        .code64
#else
#define AX     %eax
#define BX     %ebx
#define SP     %esp
#define WORD   4
#define OP(op) op##l
        .code32
#endif

/* By SS, as virtual-8086 mode leaves no other. Appends the value to the log at BX. */
.macro  NOTE value
        mov     \value, AX
        mov     AX, %ss:(BX)
        add     $WORD, BX
.endm

/* Saves what NOTE uses and notes the vector and its frame. depth: what lies between the frame's
 * instruction pointer and SP, in words. A frame of the same level has no stack pointer in 32-bit
 * mode: where it would be counts. */
.macro  NOTE_FRAME vector, depth
        push    AX
        push    BX
        mov     %ss:LOG, BX
        NOTE    $\vector
        NOTE    (\depth+2)*WORD(SP)
        NOTE    (\depth+3)*WORD(SP)
        NOTE    (\depth+4)*WORD(SP)
#ifdef GUEST64
        NOTE    (\depth+5)*WORD(SP)
        NOTE    (\depth+6)*WORD(SP)
#else
        lea     (\depth+5)*WORD(SP), AX
        mov     AX, %ss:(BX)
        add     $WORD, BX
#endif
.endm
.macro  RESTORE
        pop     BX
        pop     AX
.endm

.macro  DONE
        nop
        movl    $0x1234, %eax
        outb    %al, $PORT_DONE
        hlt
.endm

        .text
        .org    VECTORS
        .long   IRQ, handler_irq
        .long   ABSENT, handler_absent
        .long   PF, handler_pf
        .long   UD, handler_ud
        .long   DE, handler_de
        .long   GP, handler_gp
        .long   CALL0, handler_call
        .long   FINISH, handler_finish
        .long   -1

        .org    HANDLERS
handler_irq:
        NOTE_FRAME IRQ, 0
        mov     BX, %ss:LOG
        RESTORE
        OP(iret)
handler_absent:
        NOTE_FRAME ABSENT, 0
        mov     BX, %ss:LOG
        mov     %ss:VICTIM, AX
        movl    %eax, %ebx
        shrl    $12, %ebx
        OP(and) $~1, %ss:PT(,BX,WORD)
        invlpg  %ss:(AX)
#ifdef GUEST64
        mov     %ss:VICTIM, AX
        movabsq $HIGH, BX
        add     BX, AX
        invlpg  %ss:(AX)
#endif
        RESTORE
        OP(iret)
handler_pf:
        NOTE_FRAME PF, 1
        NOTE    2*WORD(SP)              /* the error code */
        mov     %cr2, AX
        mov     AX, %ss:(BX)
        add     $WORD, BX
        mov     BX, %ss:LOG
        shrl    $12, %eax
        OP(or)  $1, %ss:PT(,AX,WORD)
#ifdef GUEST16
        OP(or)  $1, %ss:PT2(,AX,WORD)
#endif
        RESTORE
        add     $WORD, SP
        OP(iret)
handler_gp:                             /* these instructions have two bytes */
        NOTE_FRAME GP, 1
        mov     BX, %ss:LOG
        RESTORE
        add     $WORD, SP
        OP(add) $2, (SP)
        OP(iret)
handler_ud:
handler_de:
        NOTE_FRAME UD, 0
        mov     BX, %ss:LOG
        RESTORE
        OP(add) $2, (SP)
        OP(iret)
#ifndef GUEST64
handler_call:
        addl    $0x1111, %edx
        sti
        incl    %ss:DATA+0x100
        pushf
        popl    %ss:DATA+0x104
        cli
        iret
#endif
