/* layout.h - the addresses and records that the native process, the guest and assembly share.
 *
 *   ARENA      64 KiB, holes on both sides: what sequences read and write
 *   CODE       the batch, read and execute; then the routines that load and store vector state
 *   EXIT_STUB  the way out of a batch
 *   IO         control page, then records
 *   STEPS      what handlers note of each single step
 *   KERNEL     guest only, supervisor: tables, handlers, stack
 *
 * The same linear addresses in the native child and in the guest; everything else is unmapped in
 * both, so a wild access faults alike. CODE and IO lie where sums of pointers into the arena do not
 * lead; IO and STEPS, which differ, where no sum of those and of multiples of CODE does, nor a
 * displacement with few bits set. 64-bit code sees ARENA and CODE a
 * second time at HIGH + the address, and ARENA a third time at SPAN, across a multiple of 4 GiB.
 *
 * 16-bit code has segments of 64 KiB: CS over CODE; DS, ES and SS over ARENA; FS flat, for the code
 * between sequences. */
#ifndef NOVT_TESTS_DIFF_LAYOUT_H
#define NOVT_TESTS_DIFF_LAYOUT_H

#define ARENA       0x10000000
#define ARENA_SIZE  0x10000
#define CODE        0x2c000000
#define CODE_SIZE   0x80000
#define ROUTINES    0x7e000 /* in CODE */
#define EXIT_STUB   0x2db7e000
#define IO          0x35a9b000
#define IO_SIZE     0x80000
#define STEPS       0x37c6d000
#define STEPS_SIZE  0x100000
#define HIGH        0x4d7f00000000
#define SPAN        0x4e20ffff8000
#define GS_BASE     (ARENA + 0x4000) /* of the segment that GS names */
#define FS_BASE     (SPAN + 0x4000)  /* in 64-bit code; elsewhere FS is null */
#define GS_SELECTOR 7                /* LDT entry 0, RPL 3 */
/* 16-bit code's: LDT entries 1 and 2. */
#define CS16 0x0f
#define DS16 0x17

#define KERNEL32 0xf0000000
#define KERNEL64 0xffffffff80000000

/* Linux's selectors, in the guest's GDT too. */
#define USER_CS   0x23
#define USER_DS   0x2b
#define USER_CS64 0x33
/* The guest's kernel's: its stack on the way back to 16-bit code. */
#define LEAVE_SS 0x38

/* The control page: address of the current record; where a batch ends; where it starts; the top of
 * a small stack for the code between sequences. Where the next step is noted, 0: none is. */
#define IO_CURRENT IO
#define IO_EXIT    (IO + 8)
#define IO_START   (IO + 16)
#define IO_STEP    (IO + 32)
#define IO_STACK   (IO + 0x800)
#define IO_RECORDS (IO + 0x1000)

/* struct record's offsets behind its two images. */
#define IMAGE_SIZE   2816
#define REC_EPILOGUE (2 * IMAGE_SIZE)
#define REC_RIP      (2 * IMAGE_SIZE + 8)
#define REC_CR2      (2 * IMAGE_SIZE + 16)
#define REC_RFLAGS   (2 * IMAGE_SIZE + 24)
#define REC_VECTOR   (2 * IMAGE_SIZE + 32)
#define REC_ERROR    (2 * IMAGE_SIZE + 40)
#define REC_STEPS    (2 * IMAGE_SIZE + 48)
#define NO_VECTOR    0xff

/* struct step; how many a sequence may have; DR6 after a single step, and before. Where the
 * epilogue of a sequence ends, at the latest. */
#define STEP_RECORD   0
#define STEP_RIP      8
#define STEP_RFLAGS   16
#define STEP_DR6      24
#define STEP_GPR      32
#define STEP_SIZE     160
#define STEPS_MAX     100
#define DR6_STEP      0xffff4ff0
#define DR6_CLEAR     0xffff0ff0
#define EPILOGUE_SIZE 0x400

/* Flags that a fault handler clears before the epilogue goes on: TF, RF, AC. (Linux does not let a
 * signal handler change NT.) */
#define HANDLER_CLEARS 0x50100

/* Guest-physical layout, one memfd. */
#define PHYS_ARENA  0x100000
#define PHYS_IO     0x200000
#define PHYS_CODE   0x300000
#define PHYS_KERNEL 0x400000
#define PHYS_STEPS  0x500000
#define PHYS_SIZE   0x600000
/* In the kernel's pages. */
#define KERNEL_TABLES 0x00000 /* page tables, the root first */
#define KERNEL_GDT    0x20000
#define KERNEL_LDT    0x20800
#define KERNEL_IDT    0x21000 /* one page: 256 gates of 16 bytes */
#define KERNEL_TSS    0x22000
#define KERNEL_STACK  0x25000 /* top */
#define KERNEL_TEXT   0x26000
#define KERNEL_END    0x28000
/* The port that says "batch done", and the vector that leads there. */
#define DONE_PORT   0x10
#define DONE_VECTOR 0x81
/* An interrupt that does nothing (guest.c injects it when it has kicked). */
#define IDLE_VECTOR 0x82

#endif
