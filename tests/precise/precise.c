/* precise.c - the guest's state at a fault is exactly that at the start of the faulting
 * instruction.
 *
 * Each instruction of cases.S runs at CPL 3 behind a prelude that changes registers and flags in
 * the same block:
 *
 *   present   prelude only         -> state S1
 *             prelude, instruction -> state S2, memory M2
 *   faulting  prelude, instruction with its operand's page absent (or read-only, supervisor's, or
 *             reached by the operand's second half): the handler must see S1, the instruction's
 *             address, CR2 and error code. Then the page is made present, the handler returns, and
 *             the end must be S2 and M2: nothing was done twice or lost.
 *
 * State is the general registers, EFLAGS and the whole vector state. Everything is checked with two
 * patterns of flags, and with the block new and hot.
 *
 * The operand of a case is at the linear address X:
 *
 *   BASE       (ebx)             PUSHES   the stack slot below esp     POPS  the one at esp
 *   FRAME      (ebp)             SOURCE   (esi)                        TARGET_DI (edi)
 *   SEGMENT    FS or GS: base + ebx                                    FETCH code at ebx
 *   EXCEPTION  a fault without memory, at the case's first or last instruction     TRAP  after it
 */
#include "tests/machine.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum kind { BASE, PUSHES, POPS, FRAME, SOURCE, TARGET_DI, SEGMENT, FETCH, EXCEPTION, TRAP };
enum { READ = 1, WRITE = 2 };

struct test_case {
    const char *name;
    const uint8_t *start, *end;
    uint32_t kind, access, size, vector, extra, pad;
};
extern const struct test_case precise_cases[], precise_cases_end[];

/* Linear = physical, but for the target page's own frame. */
#define PAGE_DIR   0x1000u
#define PAGE_TABLE 0x2000u /* of the first 4 MiB */
#define GDT        0x4000u
#define IDT        0x5000u
#define TSS        0x6000u
#define KERNEL_ESP 0x9000u
#define STUBS      0xa000u
#define CODE       0x100000u
#define DATA       0x200000u /* page before the target */
#define TARGET     0x201000u
#define DATA_END   0x204000u
#define RAM_SIZE   0x400000u
#define SEG_BASE   0x1000u
#define DONE       0x81u
#define PORT_DONE  0x10u
#define PORT_FAULT 0x20u /* + vector */

enum { AX, CX, DX, BX, SP, BP, SI, DI };
enum { PTE_P = 1, PTE_W = 2, PTE_U = 4, PTE_AD = 0x60 };
#define EFLAGS_RF 0x10000u
#define NORMAL    (PTE_P | PTE_W | PTE_U | PTE_AD)

struct state {
    uint32_t gpr[8], eip, eflags;
    uint32_t vector, error, cr2;
    uint8_t *xsave;
};

static struct test_machine m;
static size_t xsave_size;
static uint8_t *xsave_start;
static unsigned passed, failed;
static const struct test_case *current;
static const char *variant = "";

static void die(const char *what)
{
    printf("precise: %s: %s\n", what, m.vm ? novt_vm_error(m.vm) : "");
    exit(2);
}

/* ---- the guest ---- */

static void put32(uint32_t gpa, uint32_t v)
{
    memcpy(m.ram + gpa, &v, 4);
}

static uint32_t get32(uint32_t gpa)
{
    uint32_t v;
    memcpy(&v, m.ram + gpa, 4);
    return v;
}

static void put_descriptor(unsigned selector, uint32_t attr)
{
    put32(GDT + selector, 0x0000ffff);
    put32(GDT + selector + 4, 0x000f0000 | (attr & 0xf0ff) << 8);
}

static bool pushes_error(unsigned vector)
{
    return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
}

/* out %al, $port; [drop the error code]; iret */
static void build_stub(unsigned vector, unsigned port, uint32_t attr)
{
    uint32_t at = STUBS + vector * 16;
    uint8_t *p = m.ram + at;

    *p++ = 0xe6;
    *p++ = (uint8_t)port;
    if (pushes_error(vector)) {
        memcpy(p, "\x83\xc4\x04", 3);
        p += 3;
    }
    *p = 0xcf;
    put32(IDT + vector * 8, 0x08 << 16 | at);
    put32(IDT + vector * 8 + 4, attr << 8);
}

static void build_guest(void)
{
    put32(PAGE_DIR, PAGE_TABLE | NORMAL);
    for (uint32_t page = 0; page < 1024; page++) {
        bool user = page >= CODE >> 12;
        put32(PAGE_TABLE + page * 4, page << 12 | PTE_P | PTE_W | PTE_AD | (user ? PTE_U : 0));
    }
    put_descriptor(0x08, 0xc09b);
    put_descriptor(0x10, 0xc093);
    put_descriptor(0x18, 0xc0fb);
    put_descriptor(0x20, 0xc0f3);
    put32(TSS + 4, KERNEL_ESP);
    put32(TSS + 8, 0x10);
    put32(TSS + 0x64, 0x68u << 16);
    for (unsigned vector = 0; vector < 32; vector++)
        build_stub(vector, PORT_FAULT + vector, vector == 3 || vector == 4 ? 0xee : 0x8e);
    build_stub(DONE, PORT_DONE, 0xee);
}

static void set_target(uint32_t flags)
{
    put32(PAGE_TABLE + (TARGET >> 12) * 4, TARGET | flags);
}

static void fill_data(void)
{
    for (uint32_t at = DATA; at < DATA_END; at++)
        m.ram[at] = (uint8_t)(at * 7 + (at >> 8));
    memset(m.ram + TARGET + 0x40, 0x3c, 64); /* harmless as any kind of number */
}

/* A valid image with every register different. */
static void fill_xsave(void)
{
    uint8_t *p = xsave_start;
    uint64_t components = xsave_size > 576 ? 7 : 3;

    memset(p, 0, xsave_size);
    memcpy(p, "\x7f\x03", 2);
    p[4] = 0xff;
    memcpy(p + 24, "\x80\x1f", 2);
    for (unsigned i = 0; i < 8; i++) {
        memset(p + 32 + 16 * i, 0x40 + (int)i, 7);
        p[32 + 16 * i + 7] = 0x80;
        p[32 + 16 * i + 8] = (uint8_t)(0xf0 + i);
        p[32 + 16 * i + 9] = 0x3f;
    }
    for (unsigned i = 0; i < 256; i++)
        p[160 + i] = (uint8_t)(i * 3 + 1);
    memcpy(p + 512, &components, 8);
    for (unsigned i = 576; components == 7 && i < 832; i++)
        p[i] = (uint8_t)(i * 5);
}

static uint64_t host_xcr0(void)
{
    uint32_t lo, hi;
    __asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return ((uint64_t)hi << 32 | lo) & 0xe7;
}

static void set_up_cpu(void)
{
    const struct novt_segment data = {0, 0xffffffff, 0xc0f3, 0x23};
    const struct novt_segment offset = {SEG_BASE, 0xffffffff, 0xc0f3, 0x23};
    struct novt_sregs s;

    novt_vcpu_get_sregs(m.vcpu, &s);
    s.seg[NOVT_ES] = s.seg[NOVT_SS] = s.seg[NOVT_DS] = data;
    s.seg[NOVT_FS] = s.seg[NOVT_GS] = offset;
    s.seg[NOVT_CS] = (struct novt_segment){0, 0xffffffff, 0xc0fb, 0x1b};
    s.tr = (struct novt_segment){TSS, 0x67, 0x8b, 0x28};
    s.ldt = (struct novt_segment){0, 0, 0x10000, 0};
    s.gdt = (struct novt_dtable){GDT, 0x27};
    s.idt = (struct novt_dtable){IDT, 0x7ff};
    s.cr0 = 0x80010033; /* PG WP NE ET MP PE */
    s.cr3 = PAGE_DIR;
    s.cr4 = 0x40600; /* OSXSAVE OSXMMEXCPT OSFXSR */
    s.xcr0 = host_xcr0();
    if (novt_vcpu_set_sregs(m.vcpu, &s) || novt_vcpu_set_xsave(m.vcpu, xsave_start, xsave_size))
        die("setting the state");
}

/* An image's component that is in its initial state may be stored as such or in full. */
static void normalise_xsave(uint8_t *p)
{
    uint64_t present;

    memcpy(&present, p + 512, 8);
    memset(p + 6, 0, 18); /* FOP, FIP, FDP: the last x87 instruction differs between runs */
    memset(p + 28, 0, 4); /* MXCSR_MASK */
    for (unsigned i = 0; i < 8; i++)
        memset(p + 32 + 16 * i + 10, 0, 6);
    if (xsave_size >= 832 && !(present & 4))
        memset(p + 576, 0, 256);
    memset(p + 512, 0, 64);
}

/* Runs to the next OUT of a stub and reads the interrupted state from its frame. */
static void run(struct state *state)
{
    const struct novt_run *area = m.run;
    struct novt_regs regs;
    struct novt_sregs sregs;

    int rc;
    do /* writing code kicks */
        rc = novt_vcpu_run(m.vcpu);
    while (rc == NOVT_OK && area->exit_reason == NOVT_EXIT_KICKED);
    if (rc != NOVT_OK || area->exit_reason != NOVT_EXIT_IO) {
        printf("FAIL precise: %s%s: exit %u %.200s\n", current ? current->name : "", variant,
               area->exit_reason, area->exit_reason == NOVT_EXIT_SHUTDOWN ? area->fail.reason : "");
        exit(1);
    }
    novt_vcpu_get_regs(m.vcpu, &regs);
    novt_vcpu_get_sregs(m.vcpu, &sregs);
    uint32_t frame = (uint32_t)regs.gpr[SP];
    state->vector = area->io.port == PORT_DONE ? DONE : area->io.port - PORT_FAULT;
    state->error = pushes_error(state->vector) ? get32(frame) : 0;
    frame += pushes_error(state->vector) ? 4 : 0;
    for (unsigned i = 0; i < 8; i++)
        state->gpr[i] = (uint32_t)regs.gpr[i];
    state->eip = get32(frame);
    state->eflags = get32(frame + 8);
    state->gpr[SP] = get32(frame + 12);
    state->cr2 = (uint32_t)sregs.cr2;
    novt_vcpu_get_xsave(m.vcpu, state->xsave, xsave_size);
    normalise_xsave(state->xsave);
}

static void begin(const uint32_t *gpr, uint32_t eflags)
{
    struct novt_regs regs = {.rip = CODE, .rflags = eflags};

    for (unsigned i = 0; i < 8; i++)
        regs.gpr[i] = gpr[i];
    set_up_cpu();
    if (novt_vcpu_set_regs(m.vcpu, &regs))
        die("setting registers");
}

/* ---- code ---- */

static const uint8_t prelude[] = {
    0x8d, 0x40, 0x01, /* lea 1(%eax), %eax */
    0x0f, 0xca,       /* bswap %edx */
    0x0f, 0xca,       /* bswap %edx */
    0x9f,             /* lahf */
    0x9e,             /* sahf */
};

/* Code of the prelude and, when whole, the case; then int $DONE. Returns the case's address. */
static uint32_t put_code(const struct test_case *c, bool whole)
{
    uint32_t at = CODE, insn;

    memcpy(m.ram + at, prelude, sizeof(prelude));
    insn = at += sizeof(prelude);
    if (whole) {
        memcpy(m.ram + at, c->start, (size_t)(c->end - c->start));
        at += (uint32_t)(c->end - c->start);
    }
    m.ram[at] = 0xcd;
    m.ram[at + 1] = DONE;
    novt_vm_memory_written(m.vm, CODE, 4096);
    return insn;
}

/* ---- comparing ---- */

static void fail(const char *what, uint32_t want, uint32_t got)
{
    printf("FAIL precise: %s%s: %s is %08x, should be %08x\n", current->name, variant, what, got,
           want);
}

static bool same(const char *what, uint32_t want, uint32_t got)
{
    if (want == got)
        return true;
    fail(what, want, got);
    return false;
}

static bool same_gprs(const struct state *want, const struct state *got)
{
    static const char *const names[] = {"eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"};
    bool good = true;

    for (unsigned i = 0; i < 8; i++)
        good &= same(names[i], want->gpr[i], got->gpr[i]);
    return good & same("eflags", want->eflags & ~EFLAGS_RF, got->eflags & ~EFLAGS_RF);
}

static bool same_vectors(const struct state *want, const struct state *got)
{
    size_t size = xsave_size < 832 ? xsave_size : 832;

    for (uint32_t i = 0; i < size; i++) {
        if (want->xsave[i] == got->xsave[i])
            continue;
        printf("FAIL precise: %s%s: vector state at byte %u is %02x, should be %02x\n",
               current->name, variant, i, got->xsave[i], want->xsave[i]);
        return false;
    }
    return true;
}

static bool same_memory(const uint8_t *want)
{
    for (uint32_t i = 0; i < DATA_END - DATA; i++) {
        if (m.ram[DATA + i] == want[i])
            continue;
        fail("a byte of memory", want[i], m.ram[DATA + i]);
        return false;
    }
    return true;
}

static void verdict(bool good)
{
    if (good)
        passed++;
    else
        failed++;
}

/* ---- one case ---- */

static struct state s1, s2, at_fault, after;
static uint8_t memory2[DATA_END - DATA];

static void set_registers(const struct test_case *c, uint32_t x, uint32_t *gpr)
{
    uint32_t done = c->extra * c->size;
    static const uint32_t start[8] = {0x12345677,   0x00000013, 0x89abcdef,   DATA + 0x500,
                                      DATA + 0x900, 0,          DATA + 0x600, DATA + 0x700};

    memcpy(gpr, start, sizeof(start));
    switch (c->kind) {
    case BASE:
    case FETCH:
    case EXCEPTION:
        gpr[BX] = x;
        break;
    case SEGMENT:
        gpr[BX] = x - SEG_BASE;
        break;
    case PUSHES:
        gpr[SP] = x + c->size;
        break;
    case POPS:
        gpr[SP] = x;
        break;
    case FRAME:
        gpr[BP] = x;
        break;
    case SOURCE:
        gpr[SI] = x - done;
        break;
    case TARGET_DI:
        gpr[DI] = x - done;
        break;
    default:
        break;
    }
    if (c->kind == FETCH)
        gpr[SP] = DATA + 0x900;
    if (strstr(c->name, "far displacement"))
        gpr[BP] = 0x200000;
}

/* What a string instruction has done before the element at X. */
static void advance(const struct test_case *c, struct state *s)
{
    uint32_t bytes = c->extra * c->size;

    if (!c->extra)
        return;
    s->gpr[CX] -= c->extra;
    if (!strstr(c->name, "stos"))
        s->gpr[SI] += bytes;
    if (!strstr(c->name, "lods"))
        s->gpr[DI] += bytes;
    if (strstr(c->name, "lods")) /* eax has the last element before the fault */
        s->gpr[AX] = get32(s->gpr[SI] - c->size);
}

static bool check_fault(const struct test_case *c, uint32_t insn, uint32_t cr2, uint32_t error)
{
    struct state want = s1;
    bool good = same("vector", 14, at_fault.vector);

    if (!good)
        return false;
    if (c->kind == FETCH) {
        want = s2;
        insn = cr2;
        error &= ~2u;
    } else {
        advance(c, &want);
    }
    good &= same("eip", insn, at_fault.eip);
    good &= same("cr2", cr2, at_fault.cr2) & same("error code", error, at_fault.error);
    good &= same("RF", EFLAGS_RF, at_fault.eflags & EFLAGS_RF);
    return good & same_gprs(&want, &at_fault) & same_vectors(&want, &at_fault);
}

/* The page's flags make the access fault; the second run of the same block is the hot one. */
static void run_faulting(const struct test_case *c, const uint32_t *gpr, uint32_t eflags,
                         uint32_t insn, uint32_t flags, uint32_t cr2)
{
    uint32_t error = PTE_U | (c->access & WRITE ? 2u : 0) | (flags & PTE_P ? 1u : 0);
    bool good;

    fill_data();
    if (c->kind == FETCH)
        memcpy(m.ram + cr2, "\xcd\x81", 2);
    set_target(flags);
    begin(gpr, eflags);
    run(&at_fault);
    good = check_fault(c, insn, cr2, error);
    if (good) {
        set_target(NORMAL);
        run(&after);
        good = same("vector at the end", DONE, after.vector) &&
               same("eip at the end", s2.eip, after.eip) && same_gprs(&s2, &after) &&
               same_vectors(&s2, &after) && same_memory(memory2);
    }
    set_target(NORMAL);
    verdict(good);
}

static void run_present(const struct test_case *c, const uint32_t *gpr, uint32_t eflags, uint32_t x)
{
    fill_data();
    if (c->kind == FETCH)
        memcpy(m.ram + x, "\xcd\x81", 2);
    put_code(c, false);
    begin(gpr, eflags);
    run(&s1);
    put_code(c, true);
    begin(gpr, eflags);
    run(&s2);
    memcpy(memory2, m.ram + DATA, sizeof(memory2));
}

static void run_memory_case(const struct test_case *c, uint32_t eflags)
{
    uint32_t x = TARGET + 0x40, gpr[8], insn = CODE + sizeof(prelude);
    char text[64];

    if (c->extra || c->kind == FETCH)
        x = TARGET;
    /* Cases that set up registers themselves fault at their last instruction. */
    if (!strcmp(c->name, "xlat"))
        insn += 2;
    set_registers(c, x, gpr);
    run_present(c, gpr, eflags, x);
    if (!strcmp(c->name, "xlat"))
        s1.gpr[AX] &= ~0xffu;
    variant = eflags & 1 ? ", absent, flags set" : ", absent";
    run_faulting(c, gpr, eflags, insn, 0, x);
    run_faulting(c, gpr, eflags, insn, 0, x);
    variant = ", supervisor page";
    run_faulting(c, gpr, eflags, insn, NORMAL & ~PTE_U, x);
    if (c->access & WRITE) {
        variant = ", read-only page";
        run_faulting(c, gpr, eflags, insn, NORMAL & ~PTE_W, x);
    }
    if (!strcmp(c->name, "push segment")) /* stores two of its four bytes */
        return;
    /* One byte, and all but one, on the page before. */
    for (uint32_t before = 1; c->size > 1 && !c->extra && before < c->size;
         before = before == 1 && c->size > 2 ? c->size - 1 : c->size) {
        snprintf(text, sizeof(text), ", %u bytes before the absent page", before);
        variant = text;
        set_registers(c, TARGET - before, gpr);
        run_present(c, gpr, eflags, TARGET - before);
        run_faulting(c, gpr, eflags, insn, 0, TARGET);
    }
}

/* Without memory: the fault's state is S1 at the last instruction, but for what leads to it. */
static void run_exception(const struct test_case *c, uint32_t eflags)
{
    uint32_t gpr[8], insn;
    bool trap = c->kind == TRAP, good;

    set_registers(c, DATA + 0x40, gpr);
    fill_data();
    insn = put_code(c, false);
    begin(gpr, eflags);
    run(&s1);
    put_code(c, true);
    begin(gpr, eflags);
    run(&at_fault);
    if (c->vector == 4 && !(eflags & 0x800)) /* INTO without OF */
        good = same("vector", DONE, at_fault.vector);
    else
        good = same("vector", c->vector, at_fault.vector) & same("error code", 0, at_fault.error);
    if (good && !strncmp(c->name, "div", 3)) {
        insn = at_fault.eip; /* behind what sets ecx */
        good = same("instruction", 0xf1f7, get32(insn) & 0xffff);
        s1.gpr[CX] = at_fault.gpr[CX];
        s1.eflags = at_fault.eflags;
    } else if (good && !strncmp(c->name, "idiv", 4)) {
        insn = at_fault.eip;
        good = same("instruction", 0xf9f7, get32(insn) & 0xffff);
        s1.gpr[CX] = at_fault.gpr[CX];
    } else if (good && at_fault.vector != DONE) {
        good = same("eip", trap ? insn + 1 : insn, at_fault.eip);
    }
    good = good && same_gprs(&s1, &at_fault) & same_vectors(&s1, &at_fault);
    verdict(good);
}

int main(void)
{
    static const uint32_t patterns[] = {0x202, 0xad7};
    const struct novt_config config = {.size = sizeof(config), .code_cache_size = 1 << 20};
    struct state *states[] = {&s1, &s2, &at_fault, &after};
    const char *why = test_machine_create(&m, &config, RAM_SIZE);

    if (why)
        die(why);
    xsave_size = novt_vcpu_xsave_size(m.vcpu);
    xsave_start = malloc(xsave_size);
    for (unsigned i = 0; i < 4; i++)
        states[i]->xsave = malloc(xsave_size);
    build_guest();
    fill_xsave();
    for (current = precise_cases; current < precise_cases_end; current++) {
        for (unsigned i = 0; i < 2; i++) {
            variant = "";
            if (current->kind >= EXCEPTION)
                run_exception(current, patterns[i]);
            else
                run_memory_case(current, patterns[i]);
        }
    }
    test_machine_destroy(&m);
    printf("%u passed, %u failed\n", passed, failed);
    return failed || !passed;
}
