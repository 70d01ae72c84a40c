/* layout.h - where the guests of the boundary test have their things: linear = physical, and in
 * 64-bit mode once more at HIGH. Shared by C and assembly. */
#ifndef NOVT_TESTS_BOUNDARY_LAYOUT_H
#define NOVT_TESTS_BOUNDARY_LAYOUT_H

#define TABLES    0x1000 /* page tables; the last level is at PT */
#define TABLES2   0x2000 /* of guest16's other address space; the last level is at PT2 */
#define PT2       0x3000
#define PT        0x4000
#define GDT       0x8000
#define IDT       0x9000
#define TSS       0xa000
#define VECTORS   0xb000 /* pairs of vector and handler, up to -1 */
#define HANDLERS  0xc000
#define TRAP_TOP  0xe000 /* stack from lower privilege levels; in 64-bit mode of all events */
#define FAULT_TOP 0xf000 /* 64-bit mode: of page faults */
#define PROGRAM   0x10000
#define PATCHED   0x12000 /* code that the program changes */
#define USER      0x14000
#define DATA      0x15000 /* three pages */
#define USER_TOP  0x18c00
#define STACK_TOP 0x19c00
#define LOG       0x1a000 /* its end, then what the handlers saw */
#define VICTIM    0x1bff0 /* the page that the interrupt ABSENT takes away */
#define RAM_SIZE  0x1c000

#define HIGH 0xffff800000000000

#define KCODE  0x08
#define KDATA  0x10
#define UDATA  0x23
#define TASK   0x30
#define CODE16 0x40 /* its base is PROGRAM */
#define DATA16 0x48 /* DATA */
#ifdef GUEST64
#define UCODE 0x2b
#else
#define UCODE 0x1b
#endif

/* Vectors. */
#define IRQ    0x30 /* notes what it interrupted */
#define ABSENT 0x31 /* the same, then makes the page in VICTIM not present */
#define CALL0  0x80 /* the program's system call */
#define FINISH 0x81 /* from user mode to the end */
#define UD     6
#define DE     0
#define GP     13
#define PF     14

#define PORT_DONE 0x10

#endif
