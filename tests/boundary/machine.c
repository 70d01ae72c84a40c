/* machine.c - the boundary test's guests and engines.
 *
 * A guest is an image of its whole memory: the program from the assembler, and around it the page
 * tables, descriptors, gates and data that are the same in every run. An engine runs it in one way
 * (NOVT_F_INTERPRET, NOVT_F_SHORT_BLOCKS, or neither) and is put back to the start by reset(),
 * which leaves its code cache: blocks get hot, and links stay.
 *
 * The state that is compared is all that a guest can see. Memory counts by hashes of its pages, so
 * that thousands of states fit; the accessed bits of page tables do not count, because when they
 * are set is the CPU's affair (SDM 3-4.8). The last x87 instruction's address differs between two
 * runs of an event and is left out.
 *
 * Context: one thread; what the host refuses ends the test. */
#include "tests/boundary/boundary.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned reported;

void die(const char *what)
{
    printf("boundary: %s\n", what);
    exit(2);
}

/* ---- a guest's image ---- */

static void put(struct guest *g, uint32_t at, uint64_t value, unsigned size)
{
    memcpy(g->image + at, &value, size);
}

static void put_tables(struct guest *g)
{
    unsigned size = g->wide ? 8 : 4;

    if (g->wide) {
        put(g, TABLES, (TABLES + 0x1000) | 7, 8);
        put(g, TABLES + 256 * 8, (TABLES + 0x1000) | 7, 8);
        put(g, TABLES + 0x1000, (TABLES + 0x2000) | 7, 8);
        put(g, TABLES + 0x2000, PT | 7, 8);
    } else {
        put(g, TABLES, PT | 7, 4);
    }
    for (uint32_t page = 0; page < RAM_SIZE >> 12; page++) {
        bool user = page >= USER >> 12 && page <= USER_TOP >> 12;
        put(g, PT + page * size, page << 12 | (user ? 7 : 3), size);
    }
}

static void put_descriptors(struct guest *g)
{
    put(g, GDT + KCODE, g->wide ? 0x00af9b000000ffff : 0x00cf9b000000ffff, 8);
    put(g, GDT + KDATA, 0x00cf93000000ffff, 8);
    put(g, GDT + 0x18, 0x00cffb000000ffff, 8);
    put(g, GDT + 0x20, 0x00cff3000000ffff, 8);
    put(g, GDT + 0x28, 0x00affb000000ffff, 8);
    put(g, GDT + CODE16, 0x00009b000000ffff | (uint64_t)PROGRAM << 16, 8);
    put(g, GDT + DATA16, 0x000093000000ffff | (uint64_t)DATA << 16, 8);
    if (g->wide) {
        put(g, TSS + 4, TRAP_TOP, 8);
        put(g, TSS + 0x24, TRAP_TOP, 8);
        put(g, TSS + 0x2c, FAULT_TOP, 8);
    } else {
        put(g, TSS + 4, TRAP_TOP, 4);
        put(g, TSS + 8, KDATA, 4);
    }
}

static void put_gates(struct guest *g)
{
    for (uint32_t at = VECTORS;; at += 8) {
        uint32_t pair[2];
        memcpy(pair, g->image + at, 8);
        if (pair[0] == ~0u)
            return;
        uint64_t dpl = pair[0] == CALL0 || pair[0] == FINISH ? 3 : 0;
        uint64_t ist = !g->wide ? 0 : pair[0] == PF ? 2 : 1;
        put(g, IDT + pair[0] * (g->wide ? 16 : 8),
            (pair[1] & 0xffff) | KCODE << 16 | ist << 32 | (0x8e | dpl << 5) << 40 |
                (uint64_t)(pair[1] >> 16) << 48,
            8);
    }
}

void load_guest(struct guest *g, const char *dir, unsigned bits)
{
    char path[512];
    uint32_t x = 0x12345;
    FILE *f;

    memset(g, 0, sizeof(*g));
    g->bits = bits;
    g->wide = bits == 64;
    snprintf(path, sizeof(path), "%s/guest%u.bin", dir, bits);
    f = fopen(path, "rb");
    if (!f || fread(g->image, 1, RAM_SIZE, f) != RAM_SIZE)
        die(path);
    fclose(f);
    for (uint32_t at = DATA; at < DATA + 0x3000; at++) {
        x = x * 1664525 + 1013904223;
        g->image[at] = (uint8_t)(x >> 24);
    }
    put(g, DATA + 0x220, 0x1f80, 4);
    put(g, LOG, LOG + 8, 8);
    put_tables(g);
    put_descriptors(g);
    put_gates(g);
}

/* ---- an engine ---- */

void create(struct engine *e, const struct guest *g, uint64_t flags)
{
    const struct novt_config config = {
        .size = sizeof(config), .flags = flags, .code_cache_size = 1 << 20};
    const char *why = test_machine_create(&e->m, &config, RAM_SIZE);

    if (why)
        die(why);
    e->guest = g;
    e->v = (void *)((uint8_t *)e->m.run - offsetof(struct mon_vcpu, run));
    memcpy(e->m.ram, g->image, RAM_SIZE);
    take_traps();
}

void destroy(struct engine *e)
{
    test_machine_destroy(&e->m);
}

static void reset_memory(struct engine *e)
{
    const uint8_t *image = e->guest->image;

    memcpy(e->m.ram + TABLES, image + TABLES, HANDLERS - TABLES);
    memset(e->m.ram + HANDLERS + 0x1000, 0, PROGRAM - HANDLERS - 0x1000);
    memcpy(e->m.ram + DATA, image + DATA, RAM_SIZE - DATA);
    memcpy(e->m.ram + PATCHED, image + PATCHED, 4096);
    novt_vm_memory_written(e->m.vm, PATCHED, 4096);
}

/* Everything as at the start, but the code cache, which keeps what it has. */
void reset(struct engine *e)
{
    const struct novt_segment stack = {0, 0xffffffff, 0xc093, KDATA};
    const struct novt_segment data = {0, 0xffffffff, 0xc0f3, UDATA}; /* IRET to CPL 3 leaves it */
    struct novt_regs regs = {.rip = PROGRAM, .rflags = 0x202, .gpr[NOVT_RSP] = STACK_TOP};
    static struct novt_sregs s;
    bool wide = e->guest->wide;

    novt_vcpu_reset(e->m.vcpu);
    reset_memory(e);
    novt_vcpu_get_sregs(e->m.vcpu, &s);
    for (unsigned i = 0; i < 6; i++)
        s.seg[i] = i == NOVT_SS ? stack : data;
    s.seg[NOVT_CS] = (struct novt_segment){0, 0xffffffff, wide ? 0xa09b : 0xc09b, KCODE};
    s.tr = (struct novt_segment){TSS, 0x67, 0x8b, TASK};
    s.ldt = (struct novt_segment){0, 0, 0x10000, 0};
    s.gdt = (struct novt_dtable){GDT, 0x4f};
    s.idt = (struct novt_dtable){IDT, 0xfff};
    s.cr0 = 0x80010033; /* PG WP NE ET MP PE */
    s.cr3 = TABLES;
    s.cr4 = wide ? 0x620 : 0x600; /* OSXMMEXCPT OSFXSR, PAE */
    s.efer = wide ? 0x501 : 0;    /* LMA LME SCE */
    if (novt_vcpu_set_sregs(e->m.vcpu, &s) || novt_vcpu_set_regs(e->m.vcpu, &regs))
        die("setting the state");
    e->m.run->request_interrupt_window = 0;
    stop_at_each = false;
    /* What the writes above have kicked. */
    e->m.run->immediate_exit = 1;
    novt_vcpu_run(e->m.vcpu);
    e->m.run->immediate_exit = 0;
}

/* ---- state ---- */

static uint64_t hash(const void *data, size_t len)
{
    const uint8_t *p = data;
    uint64_t h = 0;

    for (size_t i = 0; i < len; i += 8) {
        uint64_t x;
        memcpy(&x, p + i, 8);
        h = (h ^ x) * 0x9e3779b97f4a7c15ull;
        h ^= h >> 29;
    }
    return h;
}

/* When accessed bits are set is the CPU's affair (SDM 3-4.8); dirty bits are exact. */
static uint64_t hash_tables(const struct engine *e)
{
    const uint64_t accessed = e->guest->wide ? 0x20 : 0x2000000020;
    uint64_t copy[128];

    memcpy(copy, e->m.ram + PT, sizeof(copy));
    for (unsigned i = 0; i < 128; i++)
        copy[i] &= ~accessed;
    return hash(copy, sizeof(copy));
}

static void get_vectors(const struct engine *e, uint8_t *out)
{
    static uint8_t area[16384];

    if (novt_vcpu_get_xsave(e->m.vcpu, area, sizeof(area)))
        die("xsave");
    memcpy(out, area, 416);
    memset(out + 6, 0, 18); /* FOP, FIP, FDP */
    memset(out + 28, 0, 4); /* MXCSR_MASK */
}

void get_state(const struct engine *e, struct state *s)
{
    struct novt_sregs sregs;

    memset(s, 0, sizeof(*s));
    novt_vcpu_get_regs(e->m.vcpu, &s->regs);
    novt_vcpu_get_sregs(e->m.vcpu, &sregs);
    for (unsigned i = 0; i < 6; i++)
        s->selector[i] = sregs.seg[i].selector;
    s->cr2 = sregs.cr2;
    s->ready = e->m.run->ready_for_interrupt;
    get_vectors(e, s->vectors);
    s->tables = hash_tables(e);
    s->patched = hash(e->m.ram + PATCHED, 4096);
    for (unsigned i = 0; i < (RAM_SIZE - DATA) / 4096; i++)
        s->pages[i] = hash(e->m.ram + DATA + i * 4096, 4096);
}

bool same(const struct state *a, const struct state *b)
{
    return !memcmp(a, b, sizeof(*a));
}

/* A table's row with dumps of both is what one wants to see; a few are enough. */
void report(const char *what, unsigned long at, const struct state *want, const struct state *got)
{
    if (reported++ >= 20)
        return;
    printf("    %s %lu: rip %llx, should be %llx; rflags %llx, %llx\n", what, at,
           (unsigned long long)got->regs.rip, (unsigned long long)want->regs.rip,
           (unsigned long long)got->regs.rflags, (unsigned long long)want->regs.rflags);
    for (unsigned i = 0; i < 16; i++) {
        if (got->regs.gpr[i] != want->regs.gpr[i])
            printf("        register %u is %llx, should be %llx\n", i,
                   (unsigned long long)got->regs.gpr[i], (unsigned long long)want->regs.gpr[i]);
    }
    if (memcmp(got->selector, want->selector, sizeof(got->selector)))
        printf("        segment registers differ\n");
    if (memcmp(got->vectors, want->vectors, sizeof(got->vectors)))
        printf("        x87 or vector state differs\n");
    if (got->ready != want->ready)
        printf("        an interrupt can%s be taken\n", got->ready ? "" : "not");
    if (got->tables != want->tables)
        printf("        a page-table entry differs\n");
    if (got->patched != want->patched)
        printf("        changed code differs\n");
    for (unsigned i = 0; i < (RAM_SIZE - DATA) / 4096; i++) {
        if (got->pages[i] != want->pages[i])
            printf("        memory at %x differs\n", DATA + i * 4096);
    }
    if (got->cr2 != want->cr2)
        printf("        cr2 is %llx, should be %llx\n", (unsigned long long)got->cr2,
               (unsigned long long)want->cr2);
}

/* What the handlers have noted, for a report. */
void report_log(const struct engine *e)
{
    uint64_t end = 0, x = 0;
    unsigned size = e->guest->wide ? 8 : 4;

    if (reported > 20)
        return;
    memcpy(&end, e->m.ram + LOG, size);
    printf("        log:");
    for (uint64_t at = LOG + 8; at < end && at < RAM_SIZE; at += size) {
        memcpy(&x, e->m.ram + at, size);
        printf(" %llx", (unsigned long long)x);
    }
    printf("\n");
}

/* ---- running ---- */

bool is_done(const struct engine *e)
{
    return e->m.run->exit_reason == NOVT_EXIT_IO && e->m.run->io.port == PORT_DONE;
}

/* To the next exit, which has to be a kick's or the end. */
void run_on(struct engine *e)
{
    if (novt_vcpu_run(e->m.vcpu) != NOVT_OK)
        die("the vCPU does not run");
    if (e->m.run->exit_reason == NOVT_EXIT_KICKED || is_done(e) ||
        e->m.run->exit_reason == NOVT_EXIT_IRQ_WINDOW)
        return;
    printf("    exit %u: %s\n", e->m.run->exit_reason,
           e->m.run->exit_reason == NOVT_EXIT_SHUTDOWN ? e->m.run->fail.reason : "");
    report_log(e);
    die("an exit that should not be");
}

void run_to_the_end(struct engine *e)
{
    do
        run_on(e);
    while (!is_done(e));
}

/* Now, or as soon as the guest takes it. False: the program ended before. */
bool inject(struct engine *e, uint8_t vector)
{
    stop_at_each = false;
    while (novt_vcpu_interrupt(e->m.vcpu, vector) != NOVT_OK) {
        e->m.run->request_interrupt_window = 1;
        run_on(e);
        if (is_done(e))
            return false;
    }
    e->m.run->request_interrupt_window = 0;
    return true;
}

/* From the start, n stops. */
void run_to_boundary(struct engine *e, unsigned n)
{
    stop_at_each = true;
    for (unsigned at = 0; at < n; at++)
        run_on(e);
    stop_at_each = false;
}

/* The slow path up to boundary k, then translated code. */
void enter_at_boundary(struct engine *e, unsigned k)
{
    e->v->vm->config.flags |= NOVT_F_INTERPRET;
    e->v->mode_changed = true;
    run_to_boundary(e, k);
    e->v->vm->config.flags &= ~(uint64_t)NOVT_F_INTERPRET;
    e->v->mode_changed = true;
}
