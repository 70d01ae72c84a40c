/* cases.S - the instructions of the precise-state test; their conventions are in precise.c.
 *
 *   CASE kind, access, size, vector, extra, name: the instruction follows, up to the next CASE
 *
 * access: what the memory operand at the target is: 1 read, 2 write, 3 both. size: its bytes; 0 where a
 * page-crossing operand makes no sense. vector: of EXCEPTION and TRAP cases. extra: how many
 * elements a string instruction completes before the one that faults. */

#define BASE      0
#define PUSHES    1
#define POPS      2
#define FRAME     3
#define SOURCE    4
#define TARGET_DI 5
#define SEGMENT   6
#define FETCH     7
#define EXCEPTION 8
#define TRAP      9

        .section .data.rel.ro, "aw"
        .p2align 4
        .globl  precise_cases, precise_cases_end
precise_cases:
        .macro  CASE kind, access, size, vector, extra, name
        .text
9:
        .section .data.rel.ro, "aw"
        .quad   8f, 9b, 7f
        .long   \kind, \access, \size, \vector, \extra, 0
        .section .rodata.str1.1, "aMS", @progbits, 1
8:      .string "\name"
        .text
        .endm
        /* Each case's end is the next one's start. */
        .macro  END
7:
        .endm

        .text
        .code32
#define C(kind, access, size, name, insn...) CASE kind, access, size, 0, 0, name; insn; END
#define X(kind, vector, name, insn...) CASE kind, 0, 0, vector, 0, name; insn; END
#define S(kind, access, size, extra, name, insn...) CASE kind, access, size, 0, extra, name; insn; END

        /* reads */
C(BASE, 1, 4, "mov load", mov (%ebx), %eax)
C(BASE, 1, 4, "mov load over its own base", mov (%ebx), %ebx)
C(BASE, 1, 2, "mov load, 16 bits", mov (%ebx), %cx)
C(BASE, 1, 1, "mov load, 8 bits", mov (%ebx), %cl)
C(BASE, 1, 1, "mov load, high byte", mov (%ebx), %ah)
C(BASE, 1, 1, "movzx", movzbl (%ebx), %eax)
C(BASE, 1, 2, "movsx", movswl (%ebx), %edx)
C(BASE, 1, 4, "add, memory source", add (%ebx), %eax)
C(BASE, 1, 4, "adc, memory source", adc (%ebx), %ebx)
C(BASE, 1, 4, "cmp", cmp %eax, (%ebx))
C(BASE, 1, 4, "cmp immediate", cmpl $7, (%ebx))
C(BASE, 1, 4, "test", test %eax, (%ebx))
C(BASE, 1, 4, "imul", imul (%ebx), %ecx)
C(BASE, 1, 4, "imul immediate", imul $7, (%ebx), %ebx)
C(BASE, 1, 4, "mul", mull (%ebx))
C(BASE, 1, 4, "cmov, condition false", cmovo (%ebx), %eax)
C(BASE, 1, 4, "cmov, either way", cmovno (%ebx), %eax)
C(BASE, 1, 4, "bt", btl $3, (%ebx))
C(BASE, 1, 4, "bsf", bsf (%ebx), %eax)
C(BASE, 1, 4, "popcnt", popcnt (%ebx), %eax)
C(BASE, 1, 4, "movbe load", movbe (%ebx), %eax)
C(BASE, 1, 4, "andn", andn (%ebx), %eax, %ecx)
C(BASE, 1, 4, "rorx", rorx $5, (%ebx), %ecx)
C(BASE, 1, 4, "crc32", crc32l (%ebx), %eax)
C(BASE, 1, 4, "index", mov (%ebx,%ebp,1), %eax)
C(BASE, 1, 4, "far displacement", mov -0x200000(%ebx,%ebp,1), %eax; nop)
        /* writes */
C(BASE, 2, 4, "mov store", mov %eax, (%ebx))
C(BASE, 2, 4, "mov store of its own base", mov %ebx, (%ebx))
C(BASE, 2, 2, "mov store, 16 bits", mov %ax, (%ebx))
C(BASE, 2, 1, "mov store, high byte", mov %dh, (%ebx))
C(BASE, 2, 4, "mov store, immediate", movl $0x11223344, (%ebx))
C(BASE, 2, 1, "setcc", setc (%ebx))
C(BASE, 2, 4, "movbe store", movbe %eax, (%ebx))
C(BASE, 2, 4, "movnti", movnti %eax, (%ebx))
        /* both */
C(BASE, 3, 4, "add, memory target", add %eax, (%ebx))
C(BASE, 3, 4, "sbb, memory target", sbb %eax, (%ebx))
C(BASE, 3, 1, "or, 8 bits", orb $3, (%ebx))
C(BASE, 3, 4, "inc", incl (%ebx))
C(BASE, 3, 4, "neg", negl (%ebx))
C(BASE, 3, 4, "not", notl (%ebx))
C(BASE, 3, 4, "shl", shll $3, (%ebx))
C(BASE, 3, 4, "sar by cl", sarl %cl, (%ebx))
C(BASE, 3, 4, "rcl by 1", rcll (%ebx))
C(BASE, 3, 4, "shld", shld $5, %eax, (%ebx))
C(BASE, 3, 4, "xchg", xchg %eax, (%ebx))
C(BASE, 3, 4, "xadd", xadd %eax, (%ebx))
C(BASE, 3, 4, "lock xadd", lock xadd %eax, (%ebx))
C(BASE, 3, 4, "cmpxchg", cmpxchg %ecx, (%ebx))
C(BASE, 3, 4, "lock cmpxchg", lock cmpxchg %ecx, (%ebx))
C(BASE, 3, 8, "cmpxchg8b", cmpxchg8b (%ebx))
C(BASE, 3, 4, "lock bts", lock btsl $9, (%ebx))
C(BASE, 3, 4, "btc", btcl $9, (%ebx))
        /* the stack */
C(PUSHES, 2, 4, "push", push %eax)
C(PUSHES, 2, 4, "push esp", push %esp)
C(PUSHES, 2, 2, "push, 16 bits", push %ax)
C(PUSHES, 2, 4, "push immediate", push $0x12345)
C(PUSHES, 2, 4, "pushf", pushf)
C(PUSHES, 2, 4, "push segment", push %ds)
C(PUSHES, 2, 4, "call", call 1f; 1:)
C(PUSHES, 2, 4, "enter", enter $16, $0)
C(POPS, 1, 4, "pop", pop %eax)
C(POPS, 1, 4, "pop ebx", pop %ebx)
C(POPS, 1, 2, "pop, 16 bits", pop %ax)
C(POPS, 1, 4, "pop esp", pop %esp)
C(POPS, 1, 0, "popa", popa)
C(FRAME, 1, 4, "leave", leave)
C(BASE, 1, 4, "push memory", pushl (%ebx))
C(BASE, 2, 4, "pop memory", popl (%ebx))
        /* strings */
S(SOURCE, 1, 4, 0, "lodsl", lodsl)
S(SOURCE, 1, 1, 0, "movsb from", movsb)
S(TARGET_DI, 2, 4, 0, "stosl", stosl)
S(TARGET_DI, 2, 4, 0, "movsl to", movsl)
S(TARGET_DI, 1, 2, 0, "scasw", scasw)
S(TARGET_DI, 1, 4, 0, "cmpsl", cmpsl)
S(SOURCE, 1, 1, 5, "rep movsb from, after 5", rep movsb)
S(SOURCE, 1, 4, 3, "rep movsl from, after 3", rep movsl)
S(TARGET_DI, 2, 1, 7, "rep movsb to, after 7", rep movsb)
S(TARGET_DI, 2, 4, 4, "rep movsl to, after 4", rep movsl)
S(TARGET_DI, 2, 1, 9, "rep stosb, after 9", rep stosb)
S(TARGET_DI, 2, 4, 2, "rep stosl, after 2", rep stosl)
S(SOURCE, 1, 4, 2, "rep lodsl, after 2", rep lodsl)
C(BASE, 1, 1, "xlat", mov $0, %al; xlat)
        /* x87 */
C(BASE, 1, 4, "fld, 32 bits", flds (%ebx))
C(BASE, 1, 10, "fld, 80 bits", fldt (%ebx))
C(BASE, 1, 8, "fadd", faddl (%ebx))
C(BASE, 1, 4, "fild", fildl (%ebx))
C(BASE, 2, 8, "fstp, 64 bits", fstpl (%ebx))
C(BASE, 2, 10, "fstp, 80 bits", fstpt (%ebx))
C(BASE, 2, 8, "fistp", fistpll (%ebx))
C(BASE, 2, 2, "fnstcw", fnstcw (%ebx))
C(BASE, 1, 2, "fldcw", fldcw (%ebx))
        /* MMX, SSE */
C(BASE, 1, 8, "movq, mmx", movq (%ebx), %mm1)
C(BASE, 1, 16, "movups load", movups (%ebx), %xmm1)
C(BASE, 1, 0, "movaps load", movaps (%ebx), %xmm1)
C(BASE, 2, 16, "movups store", movups %xmm1, (%ebx))
C(BASE, 2, 0, "movntdq", movntdq %xmm1, (%ebx))
C(BASE, 1, 8, "movsd load", movsd (%ebx), %xmm1)
C(BASE, 1, 4, "addss", addss (%ebx), %xmm1)
C(BASE, 1, 0, "paddd", paddd (%ebx), %xmm2)
C(BASE, 1, 8, "cvtsd2si", cvtsd2si (%ebx), %ebx)
C(BASE, 1, 4, "pinsrd", pinsrd $1, (%ebx), %xmm3)
C(BASE, 2, 4, "pextrd", pextrd $1, %xmm3, (%ebx))
C(BASE, 2, 4, "stmxcsr", stmxcsr (%ebx))
C(BASE, 1, 0, "pcmpistri", pcmpistri $0, (%ebx), %xmm3)
        /* AVX, AVX-512 */
C(BASE, 1, 32, "vmovups load", vmovups (%ebx), %ymm1)
C(BASE, 2, 32, "vmovups store", vmovups %ymm1, (%ebx))
C(BASE, 1, 32, "vpaddd", vpaddd (%ebx), %ymm1, %ymm2)
C(BASE, 1, 8, "vbroadcastsd", vbroadcastsd (%ebx), %ymm4)
C(BASE, 1, 16, "vinserti128", vinserti128 $1, (%ebx), %ymm1, %ymm4)
C(BASE, 1, 32, "vfmadd231pd", vfmadd231pd (%ebx), %ymm1, %ymm2)
        /* FS, GS */
C(SEGMENT, 1, 4, "gs load", mov %gs:(%ebx), %eax)
C(SEGMENT, 2, 4, "gs store", mov %eax, %gs:(%ebx))
C(SEGMENT, 3, 4, "gs add", add %eax, %gs:(%ebx))
C(SEGMENT, 1, 4, "fs load over its own base", mov %fs:(%ebx), %ebx)
C(SEGMENT, 3, 4, "fs cmpxchg", lock cmpxchg %ecx, %fs:(%ebx))
C(SEGMENT, 1, 4, "push from gs", pushl %gs:(%ebx))
C(SEGMENT, 1, 16, "movups over gs", movups %gs:(%ebx), %xmm1)
C(SEGMENT, 1, 4, "gs, index", mov %gs:(%ebx,%ebp,1), %eax)
        /* fetches: ebx is the target */
C(FETCH, 0, 0, "jmp *%ebx", jmp *%ebx)
C(FETCH, 0, 0, "call *%ebx", call *%ebx)
C(FETCH, 0, 0, "ret", push %ebx; ret)
C(FETCH, 0, 0, "ret n", push %ebx; ret $8)
        /* exceptions without memory */
X(EXCEPTION, 0, "div by zero", xor %ecx, %ecx; 5: div %ecx)
X(EXCEPTION, 0, "div overflow", mov $1, %ecx; div %ecx)
X(EXCEPTION, 0, "idiv overflow", mov $1, %ecx; idiv %ecx)
X(EXCEPTION, 0, "aam 0", .byte 0xd4, 0)
X(EXCEPTION, 6, "ud2", ud2)
X(EXCEPTION, 6, "lock on a register", .byte 0xf0, 0x01, 0xc0)
X(EXCEPTION, 13, "hlt", hlt)
X(EXCEPTION, 13, "cli", cli)
X(EXCEPTION, 13, "in", in $0x60, %al)
X(EXCEPTION, 13, "mov to cr3", mov %eax, %cr3)
X(EXCEPTION, 13, "movaps, not aligned", movaps 1(%ebx), %xmm1)
X(EXCEPTION, 13, "write through cs", mov %eax, %cs:(%ebx))
X(TRAP, 3, "int3", int3)
X(TRAP, 4, "into", into)
        .section .data.rel.ro, "aw"
precise_cases_end:

        .section .note.GNU-stack,"",@progbits
