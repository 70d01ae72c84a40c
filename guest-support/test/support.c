/* support.c - the runtime of a test guest: tables, exceptions, checks, page tables, PIC and PIT.
 *
 * guest_start() comes from start.S with a stack and nothing else. It builds GDT, IDT and TSS, calls
 * guest_main(), prints the summary and leaves through the debug-exit port: value 10h (process
 * status 33) when every check held and at least one was made, else 11h (35).
 *
 * Output is the serial port at 3F8h: one line for each group, at most MAX_LINES for the failures of
 * one group. An exception outside of a snippet ends the guest with FAIL. */
#include "guest.h"

enum { SERIAL = 0x3f8, EXIT_PORT = 0xf4, EXIT_PASS = 0x10, EXIT_FAIL = 0x11, MAX_LINES = 10 };
enum { ARENA_FIRST = 0x800000, ARENA_LAST = 0x1000000, IDENTITY_LAST = 0x1000000 };

struct state in, out;
struct tss tss;
uint64_t gdt[GDT_ENTRIES] __attribute__((aligned(16)));
uint64_t idt[256] __attribute__((aligned(16)));
uint32_t case_number;
int rep;
bool qemu;
bool (*trap_hook)(struct frame *frame);

static bool running; /* inside a snippet */
static const char *group_name;
static uint32_t checks, failures, groups, group_failures, skips[D_COUNT];
static uint32_t arena = ARENA_FIRST;

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

static void put_number(uint32_t value, uint32_t base)
{
    char digits[12];
    int n = 0;
    do
        digits[n++] = "0123456789abcdef"[value % base];
    while (value /= base);
    while (n)
        put(digits[--n]);
}

/* %s, %u, %d, %x and %c; no widths. */
void say(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    for (; *format; format++) {
        if (*format != '%') {
            put(*format);
            continue;
        }
        switch (*++format) {
        case 's':
            for (const char *s = va_arg(args, const char *); *s; s++)
                put(*s);
            break;
        case 'x':
            put_number(va_arg(args, uint32_t), 16);
            break;
        case 'c':
            put((char)va_arg(args, int));
            break;
        default:
            put_number(va_arg(args, uint32_t), 10);
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

void check(uint32_t got, uint32_t want, const char *what, const char *file, int line)
{
    checks++;
    if (got == want)
        return;
    failures++;
    if (++group_failures <= MAX_LINES)
        say("FAIL %s %s: got %x want %x at %s:%d (case %u, pass %d; vector %x error %x eip %x)\n",
            group_name, what, got, want, file, line, case_number, rep + 1, out.vector, out.error,
            out.eip);
}

bool skipped(enum deviation reason)
{
    if (qemu)
        skips[reason]++;
    return qemu;
}

void group(void (*cases)(void), const char *name)
{
    group_name = name;
    group_failures = 0;
    uint32_t before = checks;
    for (rep = 0; rep < REPEAT; rep++) {
        IN();
        cases();
        trap_hook = NULL;
    }
    groups++;
    if (!group_failures)
        say("ok %s (%u checks)\n", name, checks - before);
    else if (group_failures > MAX_LINES)
        say("FAIL %s: %u failures in all\n", name, group_failures);
}

void go(const struct snip *snip)
{
    struct state given = in;
    bool user = (in.cs & 3) == 3;
    if (in.eflags & VM) {
        in.eflags |= 2;
    } else {
        uint32_t data = user ? UDATA : KDATA;
        uint32_t *segment[] = {&in.ds, &in.es, &in.fs, &in.gs, &in.ss};
        for (size_t i = 0; i < COUNT(segment); i++)
            if (!*segment[i])
                *segment[i] = data;
        if (!in.cs)
            in.cs = KCODE;
        if (!in.eip)
            in.eip = snip->start;
        if (!in.esp)
            in.esp = user ? addr(user_stack_top) : addr(kernel_stack_top);
        in.eflags |= 2;
    }
    running = true;
    run_enter();
    running = false;
    in = given;
}

/* Runs a snippet that must fault: vector, error code, EIP at AT, and nothing changed. */
void fault(const struct snip *snip, uint32_t vector, uint32_t error, const char *file, int line)
{
    go(snip);
    check(out.vector, vector, "vector", file, line);
    if (out.vector != vector)
        return;
    check(out.error, error, "error code", file, line);
    check(out.eip - snip->start, snip->at - snip->start, "saved EIP", file, line);
    if (snip->at != snip->start)
        return;
    uint32_t *was = &in.edi, *now = &out.edi;
    for (int i = 0; i < 8; i++)
        if (i != 3)
            check(now[i], was[i], "register kept by a fault", file, line);
    if (in.esp)
        check(out.esp, in.esp, "ESP kept by a fault", file, line);
    check(out.eflags & ~RF, in.eflags | 2, "EFLAGS kept by a fault", file, line);
}

static void record(const struct frame *frame)
{
    memcpy(&out, &frame->edi, 32);
    out.gs = frame->gs & 0xffff;
    out.fs = frame->fs & 0xffff;
    out.es = frame->es & 0xffff;
    out.ds = frame->ds & 0xffff;
    out.eip = frame->eip;
    out.cs = frame->cs & 0xffff;
    out.eflags = frame->eflags;
    out.vector = frame->vector;
    out.error = frame->error;
    out.esp = addr(&frame->esp);
    out.ss = KDATA;
    if (frame->eflags & VM) {
        out.gs = frame->v86_gs & 0xffff;
        out.fs = frame->v86_fs & 0xffff;
        out.es = frame->v86_es & 0xffff;
        out.ds = frame->v86_ds & 0xffff;
    }
    if ((frame->eflags & VM) || (frame->cs & 3)) {
        out.esp = frame->esp;
        out.ss = frame->ss & 0xffff;
    }
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
    say("FAIL %s: unexpected vector %x error %x at %x:%x eflags %x cr2 %x\n",
        group_name ? group_name : guest_name, frame->vector, frame->error, frame->cs, frame->eip,
        frame->eflags, read_cr2());
    leave(EXIT_FAIL);
    return 1;
}

uint64_t descriptor(uint32_t base, uint32_t limit, uint32_t attr)
{
    uint32_t lo = (limit & 0xffff) | base << 16;
    uint32_t hi = (base & 0xff000000) | (base >> 16 & 0xff) | (limit & 0xf0000) |
                  (attr & 0xf00) << 12 | (attr & 0xff) << 8;
    return (uint64_t)hi << 32 | lo;
}

uint16_t gdt_set(uint16_t selector, uint32_t base, uint32_t limit, uint32_t attr)
{
    gdt[selector >> 3] = descriptor(base, limit, attr);
    return selector;
}

uint64_t call_gate(uint16_t selector, uint32_t offset, uint32_t attr, uint32_t params)
{
    return (uint64_t)((offset & 0xffff0000) | attr << 8 | params) << 32 | (uint32_t)selector << 16 |
           (offset & 0xffff);
}

void gate_set(uint8_t vector, uint8_t entry, uint8_t attr)
{
    idt[vector] = call_gate(KCODE, addr(trap_entries[entry]), attr, 0);
}

void gate_restore(uint8_t vector)
{
    bool user = vector == BP || vector == OF || vector == BR || vector == DONE;
    gate_set(vector, vector, user ? 0xee : 0x8e);
}

void frames_reset(void)
{
    arena = ARENA_FIRST;
}

uint32_t *frame_new(void)
{
    uint32_t *frame = (uint32_t *)arena;
    arena += 4096;
    if (arena > ARENA_LAST) {
        say("FAIL %s: out of frames\n", guest_name);
        leave(EXIT_FAIL);
    }
    memset(frame, 0, 4096);
    return frame;
}

/* The flags for one page of the identity mapping: user sections are U/S = 1. */
static uint32_t identity_flags(uint32_t page, uint32_t flags)
{
    bool user = (page >= addr(snip_first) && page < addr(snip_last)) ||
                (page >= addr(user_first) && page < addr(user_last));
    return flags | P | W | (user ? U : 0u);
}

uint32_t *pd_entry(uint32_t *pd, uint32_t linear)
{
    uint32_t *pde = &pd[linear >> 22];
    if (!(*pde & P))
        *pde = addr(frame_new()) | P | W | U;
    return (uint32_t *)(*pde & ~0xfffu) + (linear >> 12 & 1023);
}

void pd_map(uint32_t *pd, uint32_t linear, uint32_t phys, uint32_t flags)
{
    *pd_entry(pd, linear) = phys | flags;
}

uint32_t *pd_new(uint32_t flags)
{
    uint32_t *pd = frame_new();
    for (uint32_t page = 0; page < IDENTITY_LAST; page += 4096)
        pd_map(pd, page, page, identity_flags(page, flags));
    return pd;
}

uint64_t *pdpt_entry(uint64_t *pdpt, uint32_t linear)
{
    uint64_t *pdpte = &pdpt[linear >> 30];
    if (!(*pdpte & P))
        *pdpte = addr(frame_new()) | P;
    uint64_t *pde = (uint64_t *)(uint32_t)(*pdpte & ~0xfffull) + (linear >> 21 & 511);
    if (!(*pde & P))
        *pde = addr(frame_new()) | P | W | U;
    return (uint64_t *)(uint32_t)(*pde & ~0xfffull) + (linear >> 12 & 511);
}

void pdpt_map(uint64_t *pdpt, uint32_t linear, uint64_t phys, uint64_t flags)
{
    *pdpt_entry(pdpt, linear) = phys | flags;
}

uint64_t *pdpt_new(uint32_t flags)
{
    uint64_t *pdpt = (uint64_t *)frame_new();
    for (uint32_t page = 0; page < IDENTITY_LAST; page += 4096)
        pdpt_map(pdpt, page, page, identity_flags(page, flags));
    return pdpt;
}

void paging_on(const void *root, uint32_t cr4)
{
    write_cr4(cr4);
    write_cr3(addr(root));
    write_cr0(read_cr0() | CR0_PG | CR0_WP);
}

void paging_off(void)
{
    write_cr0(read_cr0() & ~(CR0_PG | CR0_WP));
    write_cr4(0);
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

void pic_eoi(uint32_t vector)
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

static void tables_init(void)
{
    gdt_set(KCODE, 0, 0xfffff, 0xc9b);
    gdt_set(KDATA, 0, 0xfffff, 0xc93);
    gdt_set(UCODE, 0, 0xfffff, 0xcfb);
    gdt_set(UDATA, 0, 0xfffff, 0xcf3);
    gdt_set(TSS, addr(&tss), sizeof(tss) - 1, 0x089);
    tss.ss0 = KDATA;
    tss.esp0 = addr(trap_stack_top);
    tss.iomap = offsetof(struct tss, bitmap);
    memset(tss.bitmap, 0xff, sizeof(tss.bitmap));
    for (uint32_t vector = 0; vector < 256; vector++)
        gate_restore((uint8_t)vector);
    gdt_load(&(struct dtable){sizeof(gdt) - 1, addr(gdt)});
    __asm__ volatile("lidt %0" : : "m"((struct dtable){sizeof(idt) - 1, addr(idt)}));
    __asm__ volatile("ltr %w0" : : "r"(TSS));
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
