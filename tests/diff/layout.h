/* layout.h - the addresses and records that the native process, the guest and assembly share.
 *
 *   linear address   native process (child)           guest (CPL 3)
 *   ARENA            64 KiB, holes on both sides      the same         what sequences read and
 * write CODE             the batch, read and execute      the same pages EXIT_STUB        the way
 * back to 64-bit code      - IO               control page, then records       the same inputs and
 * results KERNEL           -                                supervisor: tables, handlers, stack
 *
 * Everything else is unmapped in both, so a wild access faults alike. CODE and IO lie where sums of
 * pointers into the arena do not lead. */
#ifndef NOVT_TESTS_DIFF_LAYOUT_H
#define NOVT_TESTS_DIFF_LAYOUT_H

#define ARENA       0x10000000
#define ARENA_SIZE  0x10000
#define CODE        0x2c000000
#define CODE_SIZE   0x80000
#define EXIT_STUB   0x2d000000
#define IO          0x3c000000
#define IO_SIZE     0x80000
#define KERNEL      0xf0000000
#define GS_BASE     (ARENA + 0x4000) /* of the segment that GS names */
#define GS_SELECTOR 7                /* LDT entry 0, RPL 3 */

/* Linux's selectors, in the guest's GDT too. */
#define USER_CS 0x23
#define USER_DS 0x2b

/* The control page: address of the current record; where a batch ends; the top of a small stack
 * for the code between sequences. */
#define IO_CURRENT IO
#define IO_EXIT    (IO + 4)
#define IO_STACK   (IO + 0x800)
#define IO_RECORDS (IO + 0x1000)

/* struct record's offsets behind its two images. */
#define IMAGE_SIZE   1152
#define REC_EPILOGUE (2 * IMAGE_SIZE)
#define REC_VECTOR   (2 * IMAGE_SIZE + 4)
#define REC_ERROR    (2 * IMAGE_SIZE + 8)
#define REC_EIP      (2 * IMAGE_SIZE + 12)
#define REC_CR2      (2 * IMAGE_SIZE + 16)
#define REC_EFLAGS   (2 * IMAGE_SIZE + 20)
#define NO_VECTOR    0xff

/* Flags that a fault handler clears before the epilogue goes on: TF, RF, AC. (Linux does not let a
 * signal handler change NT.) */
#define HANDLER_CLEARS 0x50100

/* Guest-physical layout, one memfd. */
#define PHYS_ARENA  0x100000
#define PHYS_IO     0x200000
#define PHYS_CODE   0x300000
#define PHYS_KERNEL 0x400000
#define PHYS_SIZE   0x500000
/* In the kernel's pages. */
#define KERNEL_PDPT  0x0000
#define KERNEL_PD    0x1000 /* four */
#define KERNEL_PT    0x5000 /* up to eleven */
#define KERNEL_GDT   0x10000
#define KERNEL_IDT   0x11000
#define KERNEL_TSS   0x12000
#define KERNEL_STACK 0x15000 /* top */
#define KERNEL_TEXT  0x16000
#define KERNEL_END   0x18000
/* The port that says "batch done", and the vector that leads there. */
#define DONE_PORT   0x10
#define DONE_VECTOR 0x81

#endif
