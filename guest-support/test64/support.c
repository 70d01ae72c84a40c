/* support.c - the runtime of a 64-bit test guest: tables, exceptions, checks, page tables, PIC,
 * PIT.
 *
 * guest_start() comes from start.S in 64-bit mode with a stack and the page tables. It builds GDT,
 * IDT and TSS, calls guest_main(), prints the summary and leaves through the debug-exit port: value
 * 10h (process status 33) when every check held and at least one was made, else 11h (35).
 *
 * Output is the serial port at 3F8h: one line for each group, at most MAX_LINES for the failures of
 * one group. An exception outside of a snippet ends the guest with FAIL. */
#include "guest64.h"

enum { SERIAL = 0x3f8, EXIT_PORT = 0xf4, EXIT_PASS = 0x10, EXIT_FAIL = 0x11, MAX_LINES = 10 };
enum { ARENA_FIRST = 0x1000000, ARENA_LAST = 0x2000000, IST_DEFAULT = 1, IST_DF = 2 };

struct state in, out;
struct tss tss;
uint64_t gdt[GDT_ENTRIES] __attribute__((aligned(16)));
struct gate idt[256] __attribute__((aligned(16)));
uint64_t case_number, entered, pass_cs, pass_base;
int rep;
bool qemu;
bool (*trap_hook)(struct frame *frame);

static bool running; /* inside a snippet */
static struct state started;
static const char *group_name;
static uint32_t checks, failures, groups, group_failures, skips[D_COUNT];
static uint64_t arena = ARENA_FIRST, seed = 88172645463325252ull;

static const char *const deviation_text[] = {
#define D(name, text) #name ": " text,
#include "deviations.def"
#undef D
};

void *memset(void *to, int value, size_t n)
{
    uint8_t *p = to;
    while (n--)
        *p++ = (uint8_t)value;
    return to;
}

void *memcpy(void *to, const void *from, size_t n)
{
    uint8_t *p = to;
    const uint8_t *q = from;
    while (n--)
        *p++ = *q++;
    return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const uint8_t *p = a, *q = b;
    for (; n; n--, p++, q++)
        if (*p != *q)
            return *p < *q ? -1 : 1;
    return 0;
}

uint64_t random64(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    return seed ^= seed << 17;
}

/* 115200 baud, 8 bits, no parity, no interrupts. */
static void serial_init(void)
{
    outb(SERIAL + 1, 0);
    outb(SERIAL + 3, 0x83);
    outb(SERIAL, 1);
    outb(SERIAL + 1, 0);
    outb(SERIAL + 3, 3);
}

static void put(char c)
{
    for (int i = 0; i < 100000 && !(inb(SERIAL + 5) & 0x20); i++)
        ;
    outb(SERIAL, (uint8_t)c);
}

static void put_number(uint64_t value, uint32_t base)
{
    char digits[24];
    int n = 0;
    do
        digits[n++] = "0123456789abcdef"[value % base];
    while (value /= base);
    while (n)
        put(digits[--n]);
}

/* %s, %c, %d, %u, %x; with an l 64 bits; no widths. */
void say(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    for (; *format; format++) {
        if (*format != '%') {
            put(*format);
            continue;
        }
        bool wide = *++format == 'l';
        format += wide;
        if (*format == 's') {
            for (const char *s = va_arg(args, const char *); *s; s++)
                put(*s);
        } else if (*format == 'c') {
            put((char)va_arg(args, int));
        } else {
            uint64_t value = wide ? va_arg(args, uint64_t) : va_arg(args, uint32_t);
            put_number(value, *format == 'x' ? 16 : 10);
        }
    }
    va_end(args);
}

static void leave(uint8_t status)
{
    outb(EXIT_PORT, status);
    for (;;)
        __asm__ volatile("cli; hlt");
}

void check(uint64_t got, uint64_t want, const char *what, const char *file, int line)
{
    checks++;
    if (got == want)
        return;
    failures++;
    if (++group_failures <= MAX_LINES)
        say("FAIL %s %s: got %lx want %lx at %s:%d (case %lu, pass %d; vector %lx error %lx rip "
            "%lx "
            "cr2 %lx)\n",
            group_name, what, got, want, file, line, case_number, rep, out.vector, out.error,
            out.rip, out.cr2);
}

bool skipped(enum deviation reason)
{
    if (qemu)
        skips[reason]++;
    return qemu;
}

void group(void (*cases)(void), const char *name)
{
    static const uint64_t bases[] = {0, 0, HIGH, DIRECT};
    group_name = name;
    group_failures = 0;
    uint32_t before = checks;
    for (rep = 0; rep < REPEAT; rep++) {
        pass_cs = rep % 4 == 1 ? UCODE : KCODE;
        pass_base = bases[rep % 4];
        ist_all(rep / 4 == 1 ? IST_DEFAULT : 0);
        IN();
        cases();
        trap_hook = NULL;
        if (read_cr3() != addr(pml4))
            write_cr3(addr(pml4));
    }
    ist_all(0);
    groups++;
    if (!group_failures)
        say("ok %s (%u checks)\n", name, checks - before);
    else if (group_failures > MAX_LINES)
        say("FAIL %s: %u failures in all\n", name, group_failures);
}

void go(const struct snip *snip)
{
    struct state given = in;
    if (!in.cs)
        in.cs = KCODE;
    bool user = (in.cs & 3) == 3;
    uint64_t base = user ? 0 : pass_base;
    if (!in.ss)
        in.ss = user ? UDATA : KDATA;
    if (!in.rip)
        in.rip = snip->start + base;
    if (!in.rsp)
        in.rsp = user ? addr(user_stack_top) : addr(kernel_stack_top) + base;
    in.rflags |= 2;
    entered = in.rip;
    started = in;
    running = true;
    run_enter();
    running = false;
    in = given;
}

/* Runs a snippet that must fault: vector, error code, RIP at AT, and nothing changed. */
void fault(const struct snip *snip, uint64_t vector, uint64_t error, const char *file, int line)
{
    go(snip);
    check(out.vector, vector, "vector", file, line);
    if (out.vector != vector)
        return;
    check(out.error, error, "error code", file, line);
    check(out.rip - entered, snip->at - snip->start, "saved RIP", file, line);
    if (snip->at != snip->start)
        return;
    for (int i = 0; i < 16; i++)
        check(out.r[i], started.r[i], "register kept by a fault", file, line);
    check(out.rflags & ~(uint64_t)RF, started.rflags & ~(uint64_t)RF, "RFLAGS kept by a fault",
          file, line);
}

#define READ_SEGMENT(reg)                                       \
    ({                                                          \
        uint32_t value_;                                        \
        __asm__ volatile("movl %%" #reg ", %0" : "=r"(value_)); \
        value_ & 0xffff;                                        \
    })

static void record(const struct frame *frame)
{
    memcpy(out.r, frame->r, sizeof(out.r));
    out.rsp = frame->rsp;
    out.rip = frame->rip;
    out.cs = frame->cs & 0xffff;
    out.rflags = frame->rflags;
    out.ss = frame->ss & 0xffff;
    out.ds = READ_SEGMENT(ds);
    out.es = READ_SEGMENT(es);
    out.fs = READ_SEGMENT(fs);
    out.gs = READ_SEGMENT(gs);
    out.fs_base = rdmsr(MSR_FS_BASE);
    out.gs_base = rdmsr(MSR_GS_BASE);
    out.vector = frame->vector;
    out.error = frame->error;
    if (frame->vector == PF)
        out.cr2 = read_cr2();
    if (frame->vector == DB)
        out.dr6 = read_dr6();
}

int trap(struct frame *frame)
{
    if (trap_hook && trap_hook(frame))
        return 0;
    record(frame);
    if (running)
        return 1;
    say("FAIL %s: unexpected vector %lx error %lx at %lx:%lx rflags %lx cr2 %lx rsp %lx\n",
        group_name ? group_name : guest_name, frame->vector, frame->error, frame->cs, frame->rip,
        frame->rflags, read_cr2(), frame->rsp);
    leave(EXIT_FAIL);
    return 1;
}

uint64_t descriptor(uint32_t base, uint32_t limit, uint32_t attr)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)(attr & 0xff) << 40 |
           (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)(attr >> 8 & 15) << 52 |
           (uint64_t)(base >> 24) << 56;
}

uint16_t gdt_set(uint16_t selector, uint32_t base, uint32_t limit, uint32_t attr)
{
    gdt[selector >> 3] = descriptor(base, limit, attr);
    return selector;
}

uint16_t gdt_set_system(uint16_t selector, uint64_t base, uint32_t limit, uint32_t attr)
{
    gdt_set(selector, (uint32_t)base, limit, attr);
    gdt[(selector >> 3) + 1] = base >> 32;
    return selector;
}

struct gate gate_make(uint16_t selector, uint64_t offset, uint8_t attr, uint8_t ist)
{
    return (struct gate){.offset_0 = (uint16_t)offset,
                         .selector = selector,
                         .ist = ist,
                         .attr = attr,
                         .offset_16 = (uint16_t)(offset >> 16),
                         .offset_32 = (uint32_t)(offset >> 32)};
}

void gate_set(uint8_t vector, uint8_t entry_, uint8_t attr)
{
    idt[vector] = gate_make(KCODE, addr(trap_entries[entry_]), attr, idt[vector].ist);
}

void gate_restore(uint8_t vector)
{
    bool user = vector == BP || vector == OF || vector == DONE;
    gate_set(vector, vector, user ? 0xee : 0x8e);
}

void ist_all(uint8_t ist)
{
    for (uint32_t vector = 0; vector < 256; vector++)
        idt[vector].ist = vector == DF ? IST_DF : ist;
}

void frames_reset(void)
{
    arena = ARENA_FIRST;
}

uint64_t *frame_new(void)
{
    uint64_t *frame = (uint64_t *)arena;
    arena += 4096;
    if (arena > ARENA_LAST) {
        say("FAIL %s: out of frames\n", guest_name);
        leave(EXIT_FAIL);
    }
    memset(frame, 0, 4096);
    return frame;
}

static uint64_t *table_of(uint64_t entry_)
{
    return (uint64_t *)(entry_ & 0x000ffffffffff000ull);
}

uint64_t *space_new(void)
{
    uint64_t *root = frame_new();
    for (uint32_t i = 0; i < 512; i++)
        if (pml4[i] & P) {
            uint64_t *pdpt = frame_new();
            memcpy(pdpt, table_of(pml4[i]), 4096);
            root[i] = addr(pdpt) | (pml4[i] & 0xfff);
        }
    return root;
}

uint64_t *entry(uint64_t *root, uint64_t linear, int level)
{
    for (int n = 4;; n--) {
        uint64_t *e = &root[linear >> (3 + 9 * n) & 511];
        if (n == level)
            return e;
        if (!(*e & P))
            *e = addr(frame_new()) | P | W | U;
        root = table_of(*e);
    }
}

void map(uint64_t *root, uint64_t linear, uint64_t phys, uint64_t flags)
{
    *entry(root, linear, 1) = phys | flags;
}

void map_large(uint64_t *root, uint64_t linear, uint64_t phys, uint64_t flags, int level)
{
    *entry(root, linear, level) = phys | flags | PS;
}

void pic_init(uint16_t unmasked)
{
    static const struct {
        uint16_t port;
        uint8_t value;
    } init[] = {{0x20, 0x11}, {0xa0, 0x11}, {0x21, 0x20}, {0xa1, 0x28},
                {0x21, 4},    {0xa1, 2},    {0x21, 1},    {0xa1, 1}};
    for (size_t i = 0; i < COUNT(init); i++)
        outb(init[i].port, init[i].value);
    outb(0x21, (uint8_t)~unmasked);
    outb(0xa1, (uint8_t)(~unmasked >> 8));
}

void pic_eoi(uint64_t vector)
{
    if (vector >= 0x28)
        outb(0xa0, 0x20);
    outb(0x20, 0x20);
}

void pit_start(uint16_t divisor)
{
    outb(0x43, 0x34);
    outb(0x40, (uint8_t)divisor);
    outb(0x40, (uint8_t)(divisor >> 8));
}

void pit_stop(void)
{
    outb(0x43, 0x30); /* mode 0 without a count: OUT stays low */
}

uint64_t vector_on(void)
{
    enum { X87_TO_AVX512 = 0xe7, X87_SSE = 3 };
    if (!(cpuid(1, 0).ecx >> 26 & 1))
        return X87_SSE;
    write_cr4(read_cr4() | CR4_OSXSAVE);
    uint64_t xcr0 = cpuid(0xd, 0).eax & X87_TO_AVX512;
    __asm__ volatile("xsetbv" : : "c"(0), "a"((uint32_t)xcr0), "d"(0));
    return xcr0;
}

static void tables_init(void)
{
    gdt_set(KCODE, 0, 0xfffff, 0xa9b);
    gdt_set(KDATA, 0, 0xfffff, 0xc93);
    gdt_set(UCODE32, 0, 0xfffff, 0xcfb);
    gdt_set(UDATA, 0, 0xfffff, 0xcf3);
    gdt_set(UCODE, 0, 0xfffff, 0xafb);
    gdt_set(UDATA2, 0, 0xfffff, 0xcf3);
    gdt_set(KCODE32, 0, 0xfffff, 0xc9b);
    gdt_set_system(TSS, addr(&tss), sizeof(tss) - 1, 0x089);
    tss.rsp[0] = addr(trap_stack_top);
    tss.ist[IST_DEFAULT - 1] = addr(ist_stack_top);
    tss.ist[IST_DF - 1] = addr(df_stack_top);
    tss.iomap = offsetof(struct tss, bitmap);
    memset(tss.bitmap, 0xff, sizeof(tss.bitmap));
    for (uint32_t vector = 0; vector < 256; vector++)
        gate_restore((uint8_t)vector);
    ist_all(0);
    gdt_load(&(struct dtable){sizeof(gdt) - 1, addr(gdt)});
    __asm__ volatile("lidt %0" : : "m"((struct dtable){sizeof(idt) - 1, addr(idt)}));
    __asm__ volatile("ltr %w0" : : "r"(TSS));
    __asm__ volatile("lldt %w0" : : "r"(0)); /* after RESET it is 64 KiB at 0 */
}

static bool cpu_is_qemu(void)
{
    struct cpuid r = cpuid(0x40000000, 0);
    return (cpuid(1, 0).ecx >> 31) && r.ebx == 0x54474354 && r.ecx == 0x43544743 &&
           r.edx == 0x47435447;
}

void guest_start(void)
{
    serial_init();
    tables_init();
    qemu = cpu_is_qemu();
    guest_main();
    for (size_t i = 0; i < D_COUNT; i++)
        if (skips[i])
            say("skipped under QEMU, %u times: %s\n", skips[i], deviation_text[i]);
    bool pass = checks && !failures;
    say("%s %s: %u checks in %u groups, %u failed\n", pass ? "PASS" : "FAIL", guest_name, checks,
        groups, failures);
    leave(pass ? EXIT_PASS : EXIT_FAIL);
}
