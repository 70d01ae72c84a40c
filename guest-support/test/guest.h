/* guest.h - what a self-checking bare-metal test guest is written with.
 *
 * A guest is guest_main(), which calls GROUP(function) for every group of cases. A group runs
 * REPEAT times, so that first translation, re-execution and chained execution are all checked.
 *
 * A case runs a snippet: Intel-syntax assembly text that goes into a section of its own.
 *
 *     IN(.eax = 5, .cs = UCODE);          registers before; what is not named is 0 or flat
 *     OK("add eax, 3");                   must run to its end; registers after are in `out`
 *     EQ(out.eax, 8);
 *     FAULT("div ebx", DE, 0);            vector, error code, saved EIP, registers unchanged
 *
 * AT in the text marks the address where the saved EIP must point (default: the first byte).
 * The snippet enters by IRET from `in` and ends with INT FFh, which is the vector DONE.
 *
 * Runs at CPL 0 with flat 4 GiB segments, paging off, interrupts off, until a group changes that;
 * a group restores what it changed. Single-threaded; trap hooks run inside the exception handler.
 *
 * The SDM decides what is right. QEMU's TCG differs in places: such cases stand in an
 * UNLESS_QEMU(reason) statement, reason being a row of deviations.def; they are skipped only when
 * CPUID says TCG, and counted. */
#ifndef GUEST_H
#define GUEST_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define REPEAT 4

enum {
    DE = 0,
    DB = 1,
    NMI = 2,
    BP = 3,
    OF = 4,
    BR = 5,
    UD = 6,
    NM = 7,
    DF = 8,
    TS = 10,
    NP = 11,
    SS = 12,
    GP = 13,
    PF = 14,
    MF = 16,
    AC = 17,
    MC = 18,
    XM = 19,
    DONE = 0xff
};

/* Selectors of the GDT that guest_start() makes; SYSENTER's and SYSEXIT's layout fits it. */
enum {
    KCODE = 0x08,
    KDATA = 0x10,
    UCODE = 0x1b,
    UDATA = 0x23,
    TSS = 0x28,
    LDT = 0x30,
    FREE = 0x40 /* first of the entries that tests may set, up to GDT_ENTRIES */
};
#define GDT_ENTRIES 128

enum {
    CF = 1 << 0,
    PFL = 1 << 2,
    AF = 1 << 4,
    ZF = 1 << 6,
    SF = 1 << 7,
    TF = 1 << 8,
    IF = 1 << 9,
    DFL = 1 << 10,
    OFL = 1 << 11,
    IOPL0 = 0,
    IOPL3 = 3 << 12,
    NT = 1 << 14,
    RF = 1 << 16,
    VM = 1 << 17,
    ACF = 1 << 18,
    VIF = 1 << 19,
    VIP = 1 << 20,
    ID = 1 << 21,
    ARITH = CF | PFL | AF | ZF | SF | OFL
};

enum {
    CR0_PE = 1 << 0,
    CR0_MP = 1 << 1,
    CR0_EM = 1 << 2,
    CR0_TS = 1 << 3,
    CR0_ET = 1 << 4,
    CR0_NE = 1 << 5,
    CR0_WP = 1 << 16,
    CR0_AM = 1 << 18,
    CR4_VME = 1 << 0,
    CR4_PVI = 1 << 1,
    CR4_TSD = 1 << 2,
    CR4_DE = 1 << 3,
    CR4_PSE = 1 << 4,
    CR4_PAE = 1 << 5,
    CR4_PGE = 1 << 7,
    CR4_PCE = 1 << 8,
    CR4_OSFXSR = 1 << 9,
    CR4_OSXMMEXCPT = 1 << 10,
    CR4_UMIP = 1 << 11,
    CR4_OSXSAVE = 1 << 18,
    CR4_SMEP = 1 << 20,
    CR4_SMAP = 1 << 21
};
#define CR0_PG 0x80000000u

/* Registers before and after a snippet; the first eight in PUSHAL's order. start.S knows the
 * offsets. In `in`, a zero segment, ESP or EIP means the flat one of the CPL in cs. */
struct state {
    uint32_t edi, esi, ebp, unused, ebx, edx, ecx, eax;
    uint32_t gs, fs, es, ds;
    uint32_t eip, cs, eflags, esp, ss;
    uint32_t vector, error, cr2, dr6;
};

/* What an interrupt entry of start.S leaves on the stack. esp and ss exist after a change of
 * privilege, the last four after virtual-8086 mode. */
struct frame {
    uint32_t gs, fs, es, ds;
    uint32_t edi, esi, ebp, unused, ebx, edx, ecx, eax;
    uint32_t vector, error;
    uint32_t eip, cs, eflags;
    uint32_t esp, ss;
    uint32_t v86_es, v86_ds, v86_fs, v86_gs;
};

struct snip {
    uint32_t start, at, end; /* first byte, AT, the closing INT FFh */
};

struct dtable {
    uint16_t limit;
    uint32_t base;
} __attribute__((packed));

/* A 32-bit TSS (SDM 3A figure 7-2). */
struct tss {
    uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags;
    uint32_t eax, ecx, edx, ebx, esp, ebp, esi, edi;
    uint32_t es, cs, ss, ds, fs, gs, ldt;
    uint16_t trap, iomap;
    uint8_t bitmap[8192 + 1];
} __attribute__((packed));

enum deviation {
#define D(name, text) D_##name,
#include "deviations.def"
#undef D
    D_COUNT
};

extern struct state in, out;
extern struct tss tss;
extern uint64_t gdt[GDT_ENTRIES];
extern uint64_t idt[256];
extern uint32_t run_esp;     /* the stack pointer that run_enter() goes back to */
extern uint32_t case_number; /* printed with a failure */
extern int rep;              /* which of the REPEAT passes this is */
extern bool qemu;            /* CPUID 40000000h says TCG */
extern uint8_t kernel_stack[], kernel_stack_top[], user_stack[], user_stack_top[];
extern uint8_t trap_stack_top[], trap_entries[][16];
extern uint8_t snip_first[], snip_last[], user_first[], user_last[], image_last[];

/* Called for every interrupt and exception before the default, which ends the snippet. Returns
 * true to continue the snippet, with what it changed in the frame. Group-local: GROUP clears it. */
extern bool (*trap_hook)(struct frame *frame);

/* Each guest defines these two. */
extern const char guest_name[];
void guest_main(void);

void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
void check(uint32_t got, uint32_t want, const char *what, const char *file, int line);
bool skipped(enum deviation reason);
void group(void (*cases)(void), const char *name);
void go(const struct snip *snip);
void fault(const struct snip *snip, uint32_t vector, uint32_t error, const char *file, int line);
void guest_start(void);
void run_enter(void);
void gdt_load(const struct dtable *table);
int trap(struct frame *frame);

/* gcc calls these two for structures. */
void *memset(void *to, int value, size_t n);
void *memcpy(void *to, const void *from, size_t n);

/* A segment descriptor: attr as in the descriptor's bits 40-55, so 0xc9b is flat code (limit in
 * pages), 0x4.. 32-bit with byte limit, 0x0.. 16-bit. Returns the selector. */
uint16_t gdt_set(uint16_t selector, uint32_t base, uint32_t limit, uint32_t attr);
uint64_t descriptor(uint32_t base, uint32_t limit, uint32_t attr);
uint64_t call_gate(uint16_t selector, uint32_t offset, uint32_t attr, uint32_t params);
/* Points vector at entry `entry` of trap_entries, with attr 0x8e interrupt, 0x8f trap, 0xee user.
 */
void gate_set(uint8_t vector, uint8_t entry, uint8_t attr);
void gate_restore(uint8_t vector);

/* Page tables: frames come zeroed from an arena at 8 MiB that frames_reset() empties; linear
 * addresses below 16 MiB are mapped one to one with the flags given. */
enum { P = 1, W = 2, U = 4, PWT = 8, PCD = 16, A = 32, DIRTY = 64, PS = 128, G = 256 };
#define NX (1ull << 63)
void frames_reset(void);
uint32_t *frame_new(void);
uint32_t *pd_new(uint32_t flags);
void pd_map(uint32_t *pd, uint32_t linear, uint32_t phys, uint32_t flags);
uint32_t *pd_entry(uint32_t *pd, uint32_t linear);
uint64_t *pdpt_new(uint32_t flags);
void pdpt_map(uint64_t *pdpt, uint32_t linear, uint64_t phys, uint64_t flags);
uint64_t *pdpt_entry(uint64_t *pdpt, uint32_t linear);
void paging_on(const void *root, uint32_t cr4);
void paging_off(void);

/* The two 8259s at vectors 20h-2Fh, all masked but the bits in mask; the PIT's channel 0 as a rate
 * generator. */
void pic_init(uint16_t unmasked);
void pic_eoi(uint32_t vector);
void pit_start(uint16_t divisor);
void pit_stop(void);

static inline void outb(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint8_t inb(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

#define READER(reg)                                                     \
    static inline uint32_t read_##reg(void)                             \
    {                                                                   \
        uint32_t value;                                                 \
        __asm__ volatile("movl %%" #reg ", %0" : "=r"(value));          \
        return value;                                                   \
    }                                                                   \
    static inline void write_##reg(uint32_t value)                      \
    {                                                                   \
        __asm__ volatile("movl %0, %%" #reg : : "r"(value) : "memory"); \
    }
READER(cr0)
READER(cr2)
READER(cr3)
READER(cr4)
READER(dr0)
READER(dr1)
READER(dr2)
READER(dr3)
READER(dr6)
READER(dr7)
#undef READER

static inline void invlpg(uint32_t linear)
{
    __asm__ volatile("invlpg (%0)" : : "r"(linear) : "memory");
}

static inline uint64_t rdmsr(uint32_t index)
{
    uint32_t lo, hi;
    __asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(index));
    return (uint64_t)hi << 32 | lo;
}

static inline void wrmsr(uint32_t index, uint64_t value)
{
    __asm__ volatile("wrmsr" : : "c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)));
}

struct cpuid {
    uint32_t eax, ebx, ecx, edx;
};
static inline struct cpuid cpuid(uint32_t leaf, uint32_t sub)
{
    struct cpuid r;
    __asm__ volatile("cpuid"
                     : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx)
                     : "a"(leaf), "c"(sub));
    return r;
}

static inline void gdt_unbusy(uint16_t selector)
{
    gdt[selector >> 3] &= ~(2ull << 40);
}

static inline uint32_t addr(const volatile void *p)
{
    return (uint32_t)p;
}

#define AT "\n.set snip_at, .\n"

#define CODE(text)                                                                \
    ({                                                                            \
        const struct snip *snip_;                                                 \
        __asm__(".pushsection .snip, \"ax\", @progbits\n"                         \
                "771: .set snip_at, .\n"                                          \
                ".intel_syntax noprefix\n" text "\n.att_syntax prefix\n.code32\n" \
                "772: int $0xff\n"                                                \
                ".popsection\n"                                                   \
                ".pushsection .rodata\n"                                          \
                ".balign 4\n"                                                     \
                "773: .long 771b, snip_at, 772b\n"                                \
                ".popsection\n"                                                   \
                "movl $773b, %0"                                                  \
                : "=r"(snip_));                                                   \
        snip_;                                                                    \
    })

#define IN(...) (case_number = 0, in = (struct state){__VA_ARGS__})
/* Names the row of a table that the checks after it belong to; IN() forgets it. */
#define CASE(n) (case_number = (uint32_t)(n))
#define CHECK(got, want, what, n) \
    (CASE(n), check((uint32_t)(got), (uint32_t)(want), what, __FILE__, __LINE__))
#define FAULTS(snip, vec, err, n) (CASE(n), fault(snip, vec, err, __FILE__, __LINE__))
#define EQ(got, want)             check((uint32_t)(got), (uint32_t)(want), #got, __FILE__, __LINE__)
#define RUN(text)                 go(CODE(text))
#define OK(text)                  (go(CODE(text)), check(out.vector, DONE, "vector", __FILE__, __LINE__))
#define FAULT(text, vec, err)     fault(CODE(text), (vec), (err), __FILE__, __LINE__)
#define GROUP(f)                  group(f, #f)
#define UNLESS_QEMU(reason)       if (!skipped(D_##reason))
#define COUNT(a)                  (sizeof(a) / sizeof((a)[0]))
#define USER                      __attribute__((section(".user")))
#define USER_CODE                 __attribute__((section(".snip.buffer"), aligned(4096))) /* for generated code */

#endif
