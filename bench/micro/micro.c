/* micro.c - what each path of the machine costs, in TSC ticks, measured inside a bare-metal guest.
 *
 * One source for both widths, with the start-up code of the self-checking guests. Prints a line
 *
 *     micro NAME TICKS COUNT
 *
 * for each path: the least of ROUNDS measurements of COUNT times the path, loop included. The
 * first, `add`, is a chain of dependent additions, one cycle each: what turns ticks into core
 * cycles. Paths that leave a trace (faults, interrupts, values read) are checked, so a path that
 * was not taken fails the guest.
 *
 * Everything runs at CPL 0 with paging on and interrupts off, but where the name says otherwise. */
#ifdef __x86_64__
#include "guest64.h"
#define A    "r"
#define WORD uint64_t
#define PC   rip
#else
#include "guest.h"
#define A    "e"
#define WORD uint32_t
#define PC   eip
#endif

const char guest_name[] = "micro";

enum { ROUNDS = 5, LOOPS = 2000, PAGES = 64, IPI_VECTOR = 0x40, INT_VECTOR = 0x30 };
enum { PRESENT = P | W | 0x60 }; /* accessed and dirty too, as kernels make their entries */
enum { AREA = 0x40000000 };      /* linear; nothing is there but what this file maps */

#define IO_APIC    0xfec00000u
#define LOCAL_APIC 0xfee00000u
enum { APIC_EOI = 0xb0, APIC_SVR = 0xf0, APIC_ICR = 0x300, APIC_LINT0 = 0x350 };

static WORD spaces[2];
static WORD *entries[PAGES]; /* of the pages of AREA, in spaces[0] */
static WORD frames[2];
static uint32_t faults, interrupts;

static inline uint64_t ticks(void)
{
    uint32_t low, high;
    __asm__ volatile("lfence; rdtsc; lfence" : "=a"(low), "=d"(high) : : "memory");
    return (uint64_t)high << 32 | low;
}

static uint64_t least(uint64_t (*path)(void))
{
    uint64_t best = ~0ull;
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t t = path();
        if (t < best)
            best = t;
    }
    return best;
}

static void report(const char *name, uint64_t best, uint32_t count)
{
    say("micro %s %u %u\n", name, (uint32_t)best, count);
}

/* A path that is a piece of assembly: UNROLL copies in a loop of LOOPS, which a dependent
 * decrement and a branch close. The text may change ax, cx, dx, bx and si. */
#define LOOP(name, unroll, text)                                                       \
    static uint64_t name(void)                                                         \
    {                                                                                  \
        uint32_t n = LOOPS;                                                            \
        uint64_t start = ticks();                                                      \
        __asm__ volatile("777:\n.rept " #unroll "\n" text "\n.endr\ndecl %0\njnz 777b" \
                         : "+D"(n)                                                     \
                         :                                                             \
                         : A "ax", A "cx", A "dx", A "bx", A "si", "memory", "cc");    \
        return ticks() - start;                                                        \
    }
#define RUN_LOOP(name, unroll) report(#name, least(name), LOOPS *(unroll))

LOOP(add, 100, "addl $1, %%eax")
LOOP(direct_jump, 20, "jmp 1f\n.balign 16\n1:")
LOOP(indirect_jump, 20, "movl $1f, %%eax\njmp *%%" A "ax\n.balign 16\n1:")
LOOP(call_ret, 20, "call micro_return")
LOOP(call_indirect_ret, 20, "movl $micro_return, %%eax\ncall *%%" A "ax")
LOOP(sgdt, 4, "sgdt micro_scratch")
LOOP(cli_sti, 10, "cli\nsti\nnop")
LOOP(pushf_popf, 10, "pushf\npopf")
LOOP(port_in, 4, "inb $0x80, %%al")
LOOP(port_out, 4, "outb %%al, $0x80")
LOOP(rdtsc, 10, "rdtsc")
LOOP(cpuid_0, 2, "xorl %%eax, %%eax\ncpuid")
LOOP(int_iret, 4, "int $0x30")
LOOP(mov_from_cr0, 4, "mov %%cr0, %%" A "ax")

__asm__(".pushsection .text\n"
        ".balign 16\nmicro_return: ret\n"
        ".balign 16\nmicro_iret: iret" /* the default size is the mode's but in 64-bit code */
#ifdef __x86_64__
        "q"
#endif
        "\n.popsection\n"
        ".pushsection .data\nmicro_scratch: .skip 16\n.popsection\n");
extern uint8_t micro_iret[];

/* --- Memory management ----------------------------------------------------------------------- */

static void spaces_make(void)
{
    for (int i = 0; i < 2; i++)
        frames[i] = addr(frame_new());
    for (int s = 0; s < 2; s++) {
#ifdef __x86_64__
        uint64_t *root = space_new();
        map(root, IO_APIC, IO_APIC, P | W | PCD);
        map(root, LOCAL_APIC, LOCAL_APIC, P | W | PCD);
        for (uint32_t i = 0; i < PAGES; i++) {
            map(root, AREA + 4096ull * i, frames[0], P | W);
            if (s == 0)
                entries[i] = entry(root, AREA + 4096ull * i, 1);
        }
#else
        uint32_t *root = pd_new(0);
        pd_map(root, IO_APIC, IO_APIC, P | W | PCD);
        pd_map(root, LOCAL_APIC, LOCAL_APIC, P | W | PCD);
        for (uint32_t i = 0; i < PAGES; i++) {
            pd_map(root, AREA + 4096 * i, frames[0], P | W);
            if (s == 0)
                entries[i] = pd_entry(root, AREA + 4096 * i);
        }
#endif
        spaces[s] = addr(root);
    }
    *(uint32_t *)frames[0] = 0xf0;
    *(uint32_t *)frames[1] = 0xf1;
#ifdef __x86_64__
    write_cr3(spaces[0]);
#else
    paging_on((void *)spaces[0], 0);
#endif
}

static inline volatile uint32_t *page(uint32_t i)
{
    return (volatile uint32_t *)(WORD)(AREA + 4096 * i);
}

static uint64_t cr3_same(void)
{
    uint64_t start = ticks();
    for (int i = 0; i < LOOPS; i++)
        write_cr3(spaces[0]);
    return ticks() - start;
}

static uint64_t cr3_other(void)
{
    uint64_t start = ticks();
    for (int i = 0; i < LOOPS; i++)
        write_cr3(spaces[~i & 1]);
    return ticks() - start;
}

static uint64_t invlpg_path(void)
{
    uint64_t start = ticks();
    for (uint32_t i = 0; i < LOOPS; i++)
        invlpg(AREA + 4096 * (i & (PAGES - 1)));
    return ticks() - start;
}

static uint64_t invlpg_load(void)
{
    uint64_t start = ticks();
    for (uint32_t i = 0; i < LOOPS; i++) {
        invlpg(AREA);
        *page(0);
    }
    return ticks() - start;
}

/* The store alone: what it costs to keep an eye on a page table. */
static uint64_t pte_write(void)
{
    uint64_t start = ticks();
    for (uint32_t i = 0; i < LOOPS; i++)
        *(volatile WORD *)entries[i & (PAGES - 1)] = frames[i / PAGES & 1] | PRESENT;
    return ticks() - start;
}

static uint64_t pte_write_load(void)
{
    uint32_t wrong = 0;
    uint64_t start = ticks();
    for (uint32_t i = 0; i < LOOPS; i++) {
        *(volatile WORD *)entries[1] = frames[i & 1] | PRESENT;
        invlpg(AREA + 4096);
        wrong += *page(1) != 0xf0 + (i & 1);
    }
    uint64_t t = ticks() - start;
    EQ(wrong, 0);
    return t;
}

/* The guest's handler makes the page present and returns. */
static bool make_present(struct frame *frame)
{
    (void)frame;
    uint32_t i = (uint32_t)(read_cr2() - AREA) >> 12;
    if (i >= PAGES)
        return false;
    faults++;
    *(volatile WORD *)entries[i] = frames[0] | PRESENT;
    return true;
}

static uint64_t page_fault(void)
{
    for (uint32_t i = 0; i < PAGES; i++) {
        *(volatile WORD *)entries[i] = 0;
        invlpg(AREA + 4096 * i);
    }
    faults = 0;
    trap_hook = make_present;
    uint64_t start = ticks();
    for (uint32_t i = 0; i < PAGES; i++)
        *page(i) = 0xf0;
    uint64_t t = ticks() - start;
    trap_hook = NULL;
    EQ(faults, PAGES);
    return t;
}

/* --- Interrupts, devices, privilege ---------------------------------------------------------- */

static uint64_t mmio_load(void)
{
    volatile uint32_t *index = (volatile uint32_t *)(WORD)IO_APIC;
    uint32_t sum = 0;
    *index = 1;
    uint64_t start = ticks();
    for (int i = 0; i < LOOPS; i++)
        sum += *index;
    uint64_t t = ticks() - start;
    EQ(sum, LOOPS);
    return t;
}

static inline volatile uint32_t *local_apic(uint32_t offset)
{
    return (volatile uint32_t *)(WORD)(LOCAL_APIC + offset);
}

static bool count_interrupt(struct frame *frame)
{
    interrupts++;
    if (frame->vector == IPI_VECTOR)
        *local_apic(APIC_EOI) = 0;
    else
        pic_eoi(frame->vector);
    return frame->vector == IPI_VECTOR || frame->vector == 0x20;
}

/* From the write of the ICR until the handler has written EOI and returned. */
static uint64_t self_ipi(void)
{
    *local_apic(APIC_SVR) = 0x1ff;
    trap_hook = count_interrupt;
    interrupts = 0;
    uint64_t start = ticks();
    for (uint32_t i = 0; i < LOOPS; i++) {
        *local_apic(APIC_ICR) = 0x44000 | IPI_VECTOR; /* to itself, fixed, assert */
        while (*(volatile uint32_t *)&interrupts == i)
            __asm__ volatile("sti; nop; cli" ::: "memory");
    }
    uint64_t t = ticks() - start;
    trap_hook = NULL;
    EQ(interrupts, LOOPS);
    return t;
}

/* One shot of the PIT, asleep until it comes. */
static uint64_t sleep_for(uint16_t count)
{
    uint64_t start = ticks();
    outb(0x43, 0x30);
    outb(0x40, (uint8_t)count);
    outb(0x40, (uint8_t)(count >> 8));
    uint32_t before = interrupts;
    while (*(volatile uint32_t *)&interrupts == before)
        __asm__ volatile("sti; hlt; cli" ::: "memory");
    return ticks() - start;
}

static uint64_t sleep_short(void)
{
    return sleep_for(2000);
}

static uint64_t sleep_long(void)
{
    return sleep_for(4000);
}

/* What is left of a sleep beside the time that was asked for: twice the short one has it twice. */
static void hlt_wake(void)
{
    pic_init(1);
    *local_apic(APIC_LINT0) = 0x700; /* the 8259's interrupts come through (SDM 3A 11.5.1) */
    trap_hook = count_interrupt;
    uint64_t brief = ~0ull, lengthy = ~0ull;
    for (int i = 0; i < 4; i++) {
        uint64_t a = least(sleep_short), b = least(sleep_long);
        brief = a < brief ? a : brief;
        lengthy = b < lengthy ? b : lengthy;
    }
    trap_hook = NULL;
    pic_init(0);
    report("hlt_wake", 2 * brief > lengthy ? 2 * brief - lengthy : 1, 1);
}

/* The fast system call of the mode, from CPL 3 and back, the kernel doing nothing. */
#ifdef __x86_64__
__asm__(".pushsection .text\nmicro_entry: sysretq\n.popsection\n");
extern uint8_t micro_entry[];

static void system_calls_on(void)
{
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    wrmsr(MSR_STAR, STAR_VALUE);
    wrmsr(MSR_LSTAR, addr(micro_entry));
    wrmsr(MSR_FMASK, IF);
}

static uint64_t system_call(void)
{
    IN(.cs = UCODE);
    uint64_t start = ticks();
    RUN("mov r12d, 20000\n1: syscall\ndec r12d\njnz 1b");
    uint64_t t = ticks() - start;
    EQ(out.vector, DONE);
    EQ(out.r12, 0);
    return t;
}
#else
__asm__(".pushsection .text\nmicro_entry: sysexit\n.popsection\n");
extern uint8_t micro_entry[];

static void system_calls_on(void)
{
    wrmsr(0x174, KCODE);
    wrmsr(0x175, addr(trap_stack_top));
    wrmsr(0x176, addr(micro_entry));
}

static uint64_t system_call(void)
{
    IN(.cs = UCODE);
    uint64_t start = ticks();
    RUN("mov edi, 20000\n1: mov ecx, esp\nmov edx, offset 2f\nsysenter\n2: dec edi\njnz 1b");
    uint64_t t = ticks() - start;
    EQ(out.vector, DONE);
    EQ(out.edi, 0);
    return t;
}
#endif

static void instructions(void)
{
    RUN_LOOP(add, 100);
    RUN_LOOP(direct_jump, 20);
    RUN_LOOP(indirect_jump, 20);
    RUN_LOOP(call_ret, 20);
    RUN_LOOP(call_indirect_ret, 20);
    RUN_LOOP(sgdt, 4);
    RUN_LOOP(mov_from_cr0, 4);
    RUN_LOOP(cli_sti, 10);
    __asm__ volatile("cli");
    RUN_LOOP(pushf_popf, 10);
    RUN_LOOP(port_in, 4);
    RUN_LOOP(port_out, 4);
    RUN_LOOP(rdtsc, 10);
    RUN_LOOP(cpuid_0, 2);
}

static void memory(void)
{
    report("cr3_same", least(cr3_same), LOOPS);
    report("cr3_other", least(cr3_other), LOOPS);
    write_cr3(spaces[0]);
    report("invlpg", least(invlpg_path), LOOPS);
    report("invlpg_load", least(invlpg_load), LOOPS);
    report("pte_write", least(pte_write), LOOPS);
    report("pte_write_load", least(pte_write_load), LOOPS);
    report("page_fault", least(page_fault), PAGES);
}

static void privilege(void)
{
#ifdef __x86_64__
    idt[INT_VECTOR] = gate_make(KCODE, addr(micro_iret), 0x8e, 0);
#else
    idt[INT_VECTOR] = call_gate(KCODE, addr(micro_iret), 0x8e00 >> 8, 0);
#endif
    RUN_LOOP(int_iret, 4);
    system_calls_on();
    report("system_call", least(system_call), 20000);
}

void guest_main(void)
{
    pic_init(0);
    spaces_make();
    instructions();
    memory();
    privilege();
    report("mmio_load", least(mmio_load), LOOPS);
    report("self_ipi", least(self_ipi), LOOPS);
    hlt_wake();
}
