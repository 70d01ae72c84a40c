/* guest64.h - what a self-checking bare-metal 64-bit test guest is written with.
 *
 * A guest is guest_main(), which calls GROUP(function) for every group of cases. A group runs
 * REPEAT times: the passes go through four ways of running code, three times each, so that first
 * translation, re-execution and chained execution are all checked in every one of them:
 *
 *     pass % 4   CPL   code, stack and HERE() are at
 *     0          0     the addresses they are linked at
 *     1          3     the same
 *     2          0     HIGH, the alias of physical memory in the last 2 GiB
 *     3          0     DIRECT, the alias of physical memory at ffff888000000000h
 *
 * In passes 4 to 7 all gates use IST 1, in the others none does.
 *
 * A case runs a snippet: Intel-syntax assembly text that goes into a section of its own.
 *
 *     IN(.rax = 5, .cs = pass_cs);        registers before; what is not named is 0 or flat
 *     OK("add rax, 3");                   must run to its end; registers after are in `out`
 *     EQ(out.rax, 8);
 *     FAULT("div rbx", DE, 0);            vector, error code, saved RIP, registers unchanged
 *
 * AT in the text marks the address where the saved RIP must point (default: the first byte).
 * The snippet enters by IRETQ from `in` and ends with INT FFh, which is the vector DONE.
 *
 * Paging: the first GiB is mapped one to one with 2 MiB pages, of which those of the sections .snip
 * and .user are U/S = 1, and again at HIGH and DIRECT, supervisor only. A group that needs more
 * makes a root with space_new(); the group's end goes back to the first one.
 *
 * Runs at CPL 0 with interrupts off until a group changes that; a group restores what it changed
 * besides trap_hook, CR3 and the gates' IST. Single-threaded; trap hooks run inside the handler.
 *
 * The SDM decides what is right. QEMU's TCG differs in places: such cases stand in an
 * UNLESS_QEMU(reason) statement, reason being a row of deviations.def; they are skipped only when
 * CPUID says TCG, and counted. */
#ifndef GUEST64_H
#define GUEST64_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define REPEAT 12

#define HIGH   0xffffffff80000000ull
#define DIRECT 0xffff888000000000ull

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

/* Selectors of the GDT that guest_start() makes; SYSCALL's, SYSRET's, SYSENTER's and SYSEXIT's
 * layout fits it: STAR = UCODE32 << 48 | KCODE << 32, SYSENTER_CS = KCODE. */
enum {
    KCODE = 0x08,
    KDATA = 0x10,
    UCODE32 = 0x1b, /* compatibility mode */
    UDATA = 0x23,
    UCODE = 0x2b,
    UDATA2 = 0x33, /* SYSEXIT's SS in 64-bit mode */
    KCODE32 = 0x38,
    TSS = 0x40, /* 16 bytes */
    LDT = 0x50, /* 16 bytes */
    FREE = 0x60 /* first of the entries that tests may set, up to GDT_ENTRIES */
};
#define GDT_ENTRIES 128
#define STAR_VALUE  ((uint64_t)UCODE32 << 48 | (uint64_t)KCODE << 32)

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
    CR4_TSD = 1 << 2,
    CR4_DE = 1 << 3,
    CR4_PSE = 1 << 4,
    CR4_PAE = 1 << 5,
    CR4_PGE = 1 << 7,
    CR4_PCE = 1 << 8,
    CR4_OSFXSR = 1 << 9,
    CR4_OSXMMEXCPT = 1 << 10,
    CR4_UMIP = 1 << 11,
    CR4_LA57 = 1 << 12,
    CR4_FSGSBASE = 1 << 16,
    CR4_PCIDE = 1 << 17,
    CR4_OSXSAVE = 1 << 18,
    CR4_SMEP = 1 << 20,
    CR4_SMAP = 1 << 21
};
#define CR0_PG 0x80000000ull

enum { MSR_SYSENTER_CS = 0x174, MSR_SYSENTER_ESP = 0x175, MSR_SYSENTER_EIP = 0x176 };
#define MSR_EFER           0xc0000080u
#define MSR_STAR           0xc0000081u
#define MSR_LSTAR          0xc0000082u
#define MSR_CSTAR          0xc0000083u
#define MSR_FMASK          0xc0000084u
#define MSR_FS_BASE        0xc0000100u
#define MSR_GS_BASE        0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
enum { EFER_SCE = 1 << 0, EFER_LME = 1 << 8, EFER_LMA = 1 << 10, EFER_NXE = 1 << 11 };

/* The general registers by name and by encoding number. */
#define REGISTERS                                                                                  \
    union {                                                                                        \
        struct {                                                                                   \
            uint64_t rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15; \
        };                                                                                         \
        uint64_t r[16];                                                                            \
    }
enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };

/* Registers before and after a snippet; start.S knows the offsets. In `in`, a zero CS, SS, RSP or
 * RIP means the flat one of the pass or of the CPL in cs; DS, ES, FS and GS are taken as they are.
 */
struct state {
    REGISTERS;
    uint64_t rip, cs, rflags, ss;
    uint64_t ds, es, fs, gs, fs_base, gs_base;
    uint64_t vector, error, cr2, dr6;
};

/* What an interrupt entry of start.S leaves on the stack; the slot of rsp among the registers means
 * nothing. */
struct frame {
    union {
        struct {
            uint64_t rax, rcx, rdx, rbx, unused, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14,
                r15;
        };
        uint64_t r[16];
    };
    uint64_t vector, error;
    uint64_t rip, cs, rflags, rsp, ss;
};

struct snip {
    uint64_t start, at, end; /* first byte, AT, the closing INT FFh */
};

struct dtable {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));

/* SDM 3A figure 6-8. */
struct gate {
    uint16_t offset_0, selector;
    uint8_t ist, attr;
    uint16_t offset_16;
    uint32_t offset_32, reserved;
};

/* A 64-bit TSS (SDM 3A figure 7-11). */
struct tss {
    uint32_t reserved0;
    uint64_t rsp[3], reserved1, ist[7], reserved2;
    uint16_t reserved3, iomap;
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
extern struct gate idt[256];
extern uint64_t pml4[512];   /* the root that start.S loads */
extern uint64_t run_rsp;     /* the stack pointer that run_enter() goes back to */
extern uint64_t entered;     /* where the last snippet started: snip->start or an alias */
extern uint64_t case_number; /* printed with a failure */
extern int rep;              /* which of the REPEAT passes this is */
extern uint64_t pass_cs;     /* KCODE or UCODE */
extern uint64_t pass_base;   /* 0, HIGH or DIRECT; a group that needs to may set it to 0 */
extern bool qemu;            /* CPUID 40000000h says TCG */
extern uint8_t kernel_stack[], kernel_stack_top[], user_stack[], user_stack_top[];
extern uint8_t trap_stack_top[], ist_stack_top[], df_stack_top[], trap_entries[][16];
extern uint8_t snip_first[], snip_last[], user_first[], user_last[], image_last[];

/* Called for every interrupt and exception before the default, which ends the snippet. Returns
 * true to continue the snippet, with what it changed in the frame. Group-local: GROUP clears it. */
extern bool (*trap_hook)(struct frame *frame);

/* Each guest defines these two. */
extern const char guest_name[];
void guest_main(void);

void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
void check(uint64_t got, uint64_t want, const char *what, const char *file, int line);
bool skipped(enum deviation reason);
void group(void (*cases)(void), const char *name);
void go(const struct snip *snip);
void fault(const struct snip *snip, uint64_t vector, uint64_t error, const char *file, int line);
void guest_start(void);
void run_enter(void);
void gdt_load(const struct dtable *table);
int trap(struct frame *frame);

/* gcc calls these for structures and loops. */
void *memset(void *to, int value, size_t n);
void *memcpy(void *to, const void *from, size_t n);
int memcmp(const void *a, const void *b, size_t n);

/* A deterministic sequence of 64-bit numbers. */
uint64_t random64(void);

/* A segment descriptor: attr as in the descriptor's bits 40-55, so 0xa9b is 64-bit code, 0xc9b
 * 32-bit code with a limit in pages. Returns the selector. gdt_set_system() takes two entries. */
uint16_t gdt_set(uint16_t selector, uint32_t base, uint32_t limit, uint32_t attr);
uint16_t gdt_set_system(uint16_t selector, uint64_t base, uint32_t limit, uint32_t attr);
uint64_t descriptor(uint32_t base, uint32_t limit, uint32_t attr);
struct gate gate_make(uint16_t selector, uint64_t offset, uint8_t attr, uint8_t ist);
/* Points vector at entry `entry` of trap_entries, with attr 0x8e interrupt, 0x8f trap, 0xee user.
 */
void gate_set(uint8_t vector, uint8_t entry, uint8_t attr);
void gate_restore(uint8_t vector);
void ist_all(uint8_t ist); /* #DF keeps IST 2 */

/* Page tables: frames come zeroed from an arena at 16 MiB that frames_reset() empties. `level` is 1
 * for a 4 KiB page's entry, 2 for 2 MiB, 3 for 1 GiB, 4 for the root's. */
enum { P = 1, W = 2, U = 4, PWT = 8, PCD = 16, A = 32, DIRTY = 64, PS = 128, G = 256 };
#define NX (1ull << 63)
void frames_reset(void);
uint64_t *frame_new(void);
/* A root with the first one's mappings, which may be changed from 1 GiB up without a trace there.
 */
uint64_t *space_new(void);
uint64_t *entry(uint64_t *root, uint64_t linear, int level);
void map(uint64_t *root, uint64_t linear, uint64_t phys, uint64_t flags);
void map_large(uint64_t *root, uint64_t linear, uint64_t phys, uint64_t flags, int level);

/* The 8259s at vectors 20h-2Fh, all masked but the bits in mask; the PIT's channel 0 as a rate
 * generator. */
void pic_init(uint16_t unmasked);
void pic_eoi(uint64_t vector);
void pit_start(uint16_t divisor);
void pit_stop(void);

/* SSE on; XSAVE with all of x87, SSE, AVX and AVX-512 that CPUID reports. Returns XCR0, or 3. */
uint64_t vector_on(void);

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
    static inline uint64_t read_##reg(void)                             \
    {                                                                   \
        uint64_t value;                                                 \
        __asm__ volatile("movq %%" #reg ", %0" : "=r"(value));          \
        return value;                                                   \
    }                                                                   \
    static inline void write_##reg(uint64_t value)                      \
    {                                                                   \
        __asm__ volatile("movq %0, %%" #reg : : "r"(value) : "memory"); \
    }
READER(cr0)
READER(cr2)
READER(cr3)
READER(cr4)
READER(cr8)
READER(dr0)
READER(dr1)
READER(dr2)
READER(dr3)
READER(dr6)
READER(dr7)
#undef READER

static inline void invlpg(uint64_t linear)
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
    __asm__ volatile("wrmsr"
                     :
                     : "c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
                     : "memory");
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

static inline uint64_t addr(const volatile void *p)
{
    return (uint64_t)p;
}

#define AT "\n.set snip_at, .\n"

#define CODE(text)                                                                \
    ({                                                                            \
        const struct snip *snip_;                                                 \
        __asm__(".pushsection .snip, \"ax\", @progbits\n"                         \
                "771: .set snip_at, .\n"                                          \
                ".intel_syntax noprefix\n" text "\n.att_syntax prefix\n.code64\n" \
                "772: int $0xff\n"                                                \
                ".popsection\n"                                                   \
                ".pushsection .rodata\n"                                          \
                ".balign 8\n"                                                     \
                "773: .quad 771b, snip_at, 772b\n"                                \
                ".popsection\n"                                                   \
                "movl $773b, %k0"                                                 \
                : "=r"(snip_));                                                   \
        snip_;                                                                    \
    })

/* An array of 16 snippets, T(name, low byte's name) being the text for one register; the second
 * form leaves out rsp, whose place holds a null pointer. */
#define EACH_REGISTER_BUT_RSP(T)                                                                \
    {                                                                                           \
        CODE(T("rax", "al")), CODE(T("rcx", "cl")), CODE(T("rdx", "dl")), CODE(T("rbx", "bl")), \
            NULL, CODE(T("rbp", "bpl")), CODE(T("rsi", "sil")), CODE(T("rdi", "dil")),          \
            CODE(T("r8", "r8b")), CODE(T("r9", "r9b")), CODE(T("r10", "r10b")),                 \
            CODE(T("r11", "r11b")), CODE(T("r12", "r12b")), CODE(T("r13", "r13b")),             \
            CODE(T("r14", "r14b")), CODE(T("r15", "r15b"))                                      \
    }

#define IN(...) (case_number = 0, in = (struct state){__VA_ARGS__})
/* Names the row of a table that the checks after it belong to; IN() forgets it. */
#define CASE(n) (case_number = (uint64_t)(n))
#define CHECK(got, want, what, n) \
    (CASE(n), check((uint64_t)(got), (uint64_t)(want), what, __FILE__, __LINE__))
#define FAULTS(snip, vec, err, n) (CASE(n), fault(snip, vec, err, __FILE__, __LINE__))
#define EQ(got, want)             check((uint64_t)(got), (uint64_t)(want), #got, __FILE__, __LINE__)
#define RUN(text)                 go(CODE(text))
#define OK(text)                  (go(CODE(text)), check(out.vector, DONE, "vector", __FILE__, __LINE__))
#define OKS(snip)                 (go(snip), check(out.vector, DONE, "vector", __FILE__, __LINE__))
#define FAULT(text, vec, err)     fault(CODE(text), (vec), (err), __FILE__, __LINE__)
#define GROUP(f)                  group(f, #f)
#define UNLESS_QEMU(reason)       if (!skipped(D_##reason))
#define COUNT(a)                  (sizeof(a) / sizeof((a)[0]))
#define HERE(p)                   (addr(p) + pass_base) /* a .user or .snip object where the pass sees it */
#define USER                      __attribute__((section(".user")))
#define USER_CODE                 __attribute__((section(".snip.buffer"), aligned(4096))) /* for generated code */

#endif
