/* machine.c - the VM of the experiments; see escape.h. */
#include "tests/escape/escape.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ACCESSES_MAX 300 /* exits to the embedder in one experiment */

const char *mode_name(enum mode mode)
{
    static const char *const names[] = {"real", "flat", "paged", "pae", "long", "compat"};
    return names[mode];
}

static void put16(struct machine *m, uint32_t at, uint16_t v)
{
    memcpy(m->ram + at, &v, 2);
}

static void put32(struct machine *m, uint32_t at, uint32_t v)
{
    memcpy(m->ram + at, &v, 4);
}

static void put64(struct machine *m, uint32_t at, uint64_t v)
{
    memcpy(m->ram + at, &v, 8);
}

bool machine_create(struct machine *m, uint64_t flags, const char *cpu)
{
    struct novt_config config = {.size = sizeof(config),
                                 .flags = flags,
                                 .code_cache_size = 4u << 20,
                                 .map_budget = 4000,
                                 .cpu = cpu};
    char why[256] = "";

    m->fd = memfd_create("escape-ram", MFD_CLOEXEC);
    if (m->fd < 0 || ftruncate(m->fd, RAM_SIZE) < 0)
        return false;
    m->ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
    if (m->ram == MAP_FAILED || novt_vm_create(&config, &m->vm, why, sizeof(why)) != NOVT_OK ||
        novt_vm_set_memory(m->vm, 0, 0, RAM_SIZE, m->fd, 0, 0) != NOVT_OK ||
        novt_vcpu_create(m->vm, 0, &m->vcpu) != NOVT_OK) {
        printf("    cannot make the machine: %s\n", m->vm ? novt_vm_error(m->vm) : why);
        return false;
    }
    m->run = novt_vcpu_run_area(m->vcpu);
    return true;
}

void machine_destroy(struct machine *m)
{
    novt_vm_destroy(m->vm);
    if (m->ram && m->ram != MAP_FAILED)
        munmap(m->ram, RAM_SIZE);
    if (m->fd >= 0)
        close(m->fd);
}

/* --- Tables ------------------------------------------------------------------------------------*/

static void make_gdt(struct machine *m)
{
    static const uint64_t gdt[] = {
        0,
        0x00cf9b000000ffff,                       /* 08 code, CPL 0 */
        0x00cf93000000ffff,                       /* 10 data */
        0x00cffb000000ffff,                       /* 18 code, CPL 3 */
        0x00cff3000000ffff,                       /* 20 data */
        0x00af9b000000ffff,                       /* 28 64-bit code, CPL 0 */
        0x00affb000000ffff,                       /* 30 64-bit code, CPL 3 */
        0x00008b0040000067 | (uint64_t)TSS << 16, /* 38 TSS; long mode: with the next */
        0,
        0x000093000000ffff, /* 48 16-bit data */
        0x00409b0000001000, /* 50 code with a limit */
    };
    memcpy(m->ram + GDT, gdt, sizeof(gdt));
    put64(m, GDT + 0x38, 0x00008b0000000067 | (uint64_t)TSS << 16);
}

static void make_idt(struct machine *m)
{
    for (uint32_t n = 0; n < 256; n++) {
        uint32_t at = HANDLERS + (m->mode == MODE_REAL ? 0 : n * 4);
        memcpy(m->ram + HANDLERS + n * 4, "\xf4\xeb\xfd\x90", 4); /* 1: hlt; jmp 1b */
        if (m->mode == MODE_REAL) {
            put16(m, n * 4, HANDLERS & 0xffff);
            put16(m, n * 4 + 2, 0);
        } else if (m->mode == MODE_LONG || m->mode == MODE_COMPAT) {
            put64(m, IDT + n * 16, (at & 0xffff) | 0x28ull << 16 | 0xee0000000000ull);
            put64(m, IDT + n * 16 + 8, 0);
        } else {
            put64(m, IDT + n * 8, (at & 0xffff) | 8ull << 16 | 0xee0000000000ull);
        }
    }
}

static void make_tss(struct machine *m)
{
    memset(m->ram + TSS, 0, 104);
    put32(m, TSS + 4, STACK0); /* ESP0, or RSP0's low half */
    if (m->mode == MODE_LONG || m->mode == MODE_COMPAT)
        put32(m, TSS + 8, 0);
    else
        put32(m, TSS + 8, 0x10);
    put16(m, TSS + 102, 104);
}

#define PT    (TABLES + 0x4000) /* four tables of 512 entries, or two of 1024 */
#define PD    (TABLES + 0x2000)
#define PDPT  (TABLES + 0x1000)
#define PML4  (TABLES)
#define ENTRY 0x67u /* P W U A D */

/* The same 4 MiB at 0, and at both sides of the borders of the address space. */
static void make_page_tables(struct machine *m)
{
    bool wide = m->mode != MODE_PAGED;
    uint64_t open = ENTRY;

    memset(m->ram + TABLES, 0, 0x8000);
    for (uint32_t n = 0; n < RAM_SIZE / 2 / 4096; n++) {
        /* what the guest's kernel would keep to itself: tables */
        uint64_t entry = n * 4096u | (n >= DATA >> 12 || !m->user ? open : open & ~4u);
        if (wide)
            put64(m, PT + n * 8, entry);
        else
            put32(m, PT + n * 4, (uint32_t)entry);
    }
    if (!wide) {
        static const uint32_t at[] = {0, 1, 511, 512, 1023};
        for (unsigned i = 0; i < 5; i++)
            put32(m, PML4 + at[i] * 4, (uint32_t)(PT | open));
        return;
    }
    for (uint32_t n = 0; n < 2; n++) {
        put64(m, PD + n * 8, (PT + n * 4096) | open);
        put64(m, PD + (510 + n) * 8, (PT + n * 4096) | open);
    }
    if (m->mode == MODE_PAE) {
        for (uint32_t n = 0; n < 4; n++)
            put64(m, PML4 + n * 8, PD | 1);
        return;
    }
    static const uint32_t top[] = {0, 1, 255, 256, 511};
    for (unsigned i = 0; i < 5; i++)
        put64(m, PML4 + top[i] * 8, PDPT | open);
    put64(m, PDPT, PD | open);
    put64(m, PDPT + 3 * 8, PD | open);
    put64(m, PDPT + 511 * 8, PD | open);
}

/* --- State -------------------------------------------------------------------------------------*/

static struct novt_segment segment(uint16_t selector, uint32_t attr)
{
    return (struct novt_segment){0, 0xffffffff, attr, selector};
}

static void make_sregs(const struct machine *m, struct novt_sregs *s)
{
    bool wide = m->mode == MODE_LONG || m->mode == MODE_COMPAT;
    struct novt_segment data = m->user ? segment(0x23, 0xc0f3) : segment(0x10, 0xc093);

    for (unsigned i = 0; i < 6; i++)
        s->seg[i] = m->mode == MODE_REAL ? (struct novt_segment){0, 0xffff, 0x93, 0} : data;
    if (m->mode == MODE_REAL) {
        s->seg[NOVT_CS] = (struct novt_segment){CODE & ~0xffffu, 0xffff, 0x9b, CODE >> 4 & 0xffff};
        s->seg[NOVT_DS].base = DATA;
        s->idt = (struct novt_dtable){0, 0x3ff};
        return;
    }
    if (m->mode == MODE_LONG)
        s->seg[NOVT_CS] = m->user ? segment(0x33, 0xa0fb) : segment(0x28, 0xa09b);
    else
        s->seg[NOVT_CS] = m->user ? segment(0x1b, 0xc0fb) : segment(8, 0xc09b);
    s->tr = (struct novt_segment){TSS, 0x67, 0x8b, 0x38};
    s->gdt = (struct novt_dtable){GDT, 0x57};
    s->idt = (struct novt_dtable){IDT, wide ? 0xfff : 0x7ff};
    s->cr0 = 0x33 | (m->mode == MODE_FLAT ? 0 : 0x80010000u);
    s->cr3 = m->mode == MODE_FLAT ? 0 : TABLES;
    s->cr4 = 0x40600 | (wide || m->mode == MODE_PAE ? 0x20 : 0); /* OSXSAVE, OSFXSR, OSXMMEXCPT */
    s->efer = wide ? 0xd01 : m->mode == MODE_PAE ? 0x800 : 0;
    s->xcr0 = 7;
}

static void prepare_tables(struct machine *m)
{
    make_gdt(m);
    make_tss(m);
    make_page_tables(m);
    make_idt(m); /* after the others: real mode's is at 0 */
}

bool machine_prepare(struct machine *m, enum mode mode, bool user, uint64_t rip)
{
    struct novt_sregs s;
    struct novt_regs r = {.rip = rip, .rflags = 0x202};

    m->mode = mode;
    m->user = user;
    novt_vcpu_reset(m->vcpu);
    novt_vcpu_get_sregs(m->vcpu, &s);
    prepare_tables(m);
    make_sregs(m, &s);
    r.gpr[NOVT_RSP] = mode == MODE_REAL ? 0x7000 : DATA + 0x2000;
    novt_vm_memory_written(m->vm, 0, RAM_SIZE);
    if (novt_vcpu_set_sregs(m->vcpu, &s) == NOVT_OK && novt_vcpu_set_regs(m->vcpu, &r) == NOVT_OK)
        return true;
    printf("    state refused: %s\n", novt_vm_error(m->vm));
    return false;
}

/* Devices that answer with noise. */
static void answer(struct machine *m)
{
    uint64_t noise = next_random(&m->seed);
    if (m->run->exit_reason == NOVT_EXIT_IO)
        m->run->io.data = (uint32_t)noise;
    else
        memcpy(m->run->mmio.data, &noise, 8);
}

static bool failed(const struct machine *m, const char *what)
{
    struct novt_regs r;
    novt_vcpu_get_regs(m->vcpu, &r);
    printf("    experiment %llu, mode %s, CPL %d, rip %llx: %s\n",
           (unsigned long long)m->experiment, mode_name(m->mode), m->user ? 3 : 0,
           (unsigned long long)r.rip, what);
    return false;
}

bool machine_run(struct machine *m)
{
    m->overdue = false;
    for (unsigned accesses = 0; accesses < ACCESSES_MAX; accesses++) {
        if (novt_vcpu_run(m->vcpu) != NOVT_OK)
            return failed(m, novt_vm_error(m->vm));
        switch (m->run->exit_reason) {
        case NOVT_EXIT_IO:
            m->ios++;
            answer(m);
            break;
        case NOVT_EXIT_MMIO:
            m->mmios++;
            answer(m);
            break;
        case NOVT_EXIT_HLT:
            m->halts++;
            return true;
        case NOVT_EXIT_SHUTDOWN:
            m->shutdowns++;
            return true;
        case NOVT_EXIT_KICKED:
            if (!m->overdue)
                break; /* the embedder's writes to code are kicks too */
            m->kicks++;
            return true;
        case NOVT_EXIT_INTERNAL:
            m->internals++;
            return failed(m, m->run->fail.reason);
        default:
            return failed(m, "an exit that nobody asked for");
        }
    }
    return true;
}
