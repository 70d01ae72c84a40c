/* boundary.c - interrupts at every instruction boundary and page faults at every access.
 *
 *   boundary DIR [32|64]     runs DIR/guest32.bin and DIR/guest64.bin, or one of them
 *
 * A guest program, a few hundred instructions of every kind (guest32.S, guest64.S), runs alone in
 * the slow path, which stops at each boundary: between two instructions, two iterations of a REP,
 * before a handler's first instruction. That gives the list of boundaries with the state at each,
 * and for an event at each of them the state at the end; what handlers were given is in memory, so
 * part of it. Then the same has to come out of translated code:
 *
 *   single    blocks of one instruction: it passes through the same states one by one, and stops at
 *             boundary k for the event
 *   entered   the slow path up to boundary k, translated code (whole, linked blocks) from there
 *   kicked    whole, linked blocks, and a kick while the host is at its n-th instruction in the
 * code cache or on the way in, for every n: the host single-steps to it. Translated code may go on
 * to any boundary that exists; there the interrupt is injected
 *
 * The events: an external interrupt at every boundary, through the interrupt window where IF or a
 * shadow holds it back; a page that is not present from there on, for every page that the next
 * instruction fetches, reads or writes.
 *
 * The wrappers, by the linker's --wrap, stand where the engine enters translated code and executes
 * an instruction in C; when asked they raise a kick there, so that novt_vcpu_run() ends at the next
 * boundary. */
#include "monitor/cpu/vm.h"
#include "runtime/rt.h"
#include "tests/boundary/layout.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define MAX_BOUNDARIES 4096

struct guest {
    bool wide;
    unsigned bits;
    uint8_t image[RAM_SIZE]; /* at the start: code, data, tables */
    unsigned selector_code;
};

struct engine {
    const struct guest *guest;
    struct novt_vm *vm;
    struct novt_vcpu *vcpu;
    struct mon_vcpu *v;
    struct novt_run *run;
    uint8_t *ram;
    int fd;
};

/* What a guest can see of its state. */
struct state {
    struct novt_regs regs;
    uint16_t selector[6];
    uint32_t ready; /* an interrupt would be taken */
    uint8_t vectors[416];
    uint64_t cr2;
    uint64_t tables, patched, pages[(RAM_SIZE - DATA) / 4096]; /* hashes */
};

static unsigned passed, failed, reported;

__attribute__((noreturn)) static void die(const char *what)
{
    printf("boundary: %s\n", what);
    exit(2);
}

/* ---- the wrappers ---- */

enum rt_exit __real_rt_enter(struct rt_cpu *cpu);
enum rt_exit __real_rt_enter64(struct rt_cpu *cpu);
enum mon_rc __real_mon_step(struct mon_vcpu *v);
enum mon_rc __real_mon_execute(struct mon_vcpu *v, const struct tr_insn *insn);
enum mon_rc __real_mon_exception_deliver(struct mon_vcpu *v);
enum rt_exit __wrap_rt_enter(struct rt_cpu *cpu);
enum rt_exit __wrap_rt_enter64(struct rt_cpu *cpu);
enum mon_rc __wrap_mon_step(struct mon_vcpu *v);
enum mon_rc __wrap_mon_execute(struct mon_vcpu *v, const struct tr_insn *insn);
enum mon_rc __wrap_mon_exception_deliver(struct mon_vcpu *v);

static bool stop_at_each; /* boundary */
static struct {
    volatile bool on; /* translated code runs, and is stepped through */
    struct engine *e;
    unsigned entry, in_entry; /* how often it has been entered; where to kick */
    unsigned at, target;      /* host instructions since; where to kick */
    bool kicked;
} step;

static void stop(struct mon_vcpu *v)
{
    if (stop_at_each)
        v->kicked = true;
}

/* From the next host instruction but one on, each traps. */
static inline void set_host_tf(void)
{
    __asm__ volatile("pushfq; orl $0x100, (%%rsp); popfq" ::: "cc", "memory");
}

/* Indirect branches go to whatever the jump table knows: nothing but the block at rip. */
static void forget_last_entry(const struct rt_cpu *cpu)
{
    static uint8_t **last;
    uint8_t **table = cpu->jump_table;
    const struct mon_vcpu *v = cpu->owner;

    if (last && last != &table[cpu->rip & (CC_TABLE_ENTRIES - 1)])
        *last = v->vm->cc.miss_stub;
    last = (void *)table == (void *)v->vm->cc.miss_table
               ? NULL
               : &table[cpu->rip & (CC_TABLE_ENTRIES - 1)];
}

static enum rt_exit enter(struct rt_cpu *cpu, enum rt_exit (*real)(struct rt_cpu *))
{
    uint64_t rip = cpu->rip;
    enum rt_exit reason;

    if (stop_at_each)
        forget_last_entry(cpu);
    if (step.e && step.entry++ == step.in_entry) {
        step.on = true;
        set_host_tf();
    }
    reason = real(cpu);
    step.on = false;
    if (cpu->rip != rip && reason != RT_EXIT_CALLOUT && reason != RT_EXIT_FAULT)
        stop(cpu->owner);
    return reason;
}

enum rt_exit __wrap_rt_enter(struct rt_cpu *cpu)
{
    return enter(cpu, __real_rt_enter);
}

enum rt_exit __wrap_rt_enter64(struct rt_cpu *cpu)
{
    return enter(cpu, __real_rt_enter64);
}

enum mon_rc __wrap_mon_step(struct mon_vcpu *v)
{
    enum mon_rc rc = __real_mon_step(v);
    stop(v);
    return rc;
}

enum mon_rc __wrap_mon_execute(struct mon_vcpu *v, const struct tr_insn *insn)
{
    enum mon_rc rc = __real_mon_execute(v, insn);
    stop(v);
    return rc;
}

enum mon_rc __wrap_mon_exception_deliver(struct mon_vcpu *v)
{
    enum mon_rc rc = __real_mon_exception_deliver(v);
    stop(v);
    return rc;
}

/* ---- stepping the host ---- */

/* PUSHF's image would have TF. */
static void emulate_pushfq(greg_t *gregs)
{
    uint64_t image = (uint64_t)gregs[REG_EFL] & ~0x10100ull;

    gregs[REG_RSP] -= 8;
    memcpy((void *)gregs[REG_RSP], &image, 8);
    gregs[REG_RIP]++;
}

static void on_trap(int number, siginfo_t *info, void *context)
{
    greg_t *gregs = ((ucontext_t *)context)->uc_mcontext.gregs;
    const struct rt_cpu *cpu = step.e->v->cpu;
    const uint8_t *pc = (const uint8_t *)gregs[REG_RIP];
    bool inside = pc >= cpu->code_lo && pc < cpu->code_hi;

    (void)number;
    (void)info;
    gregs[REG_EFL] &= ~(greg_t)RT_TF;
    if (!step.on || step.kicked)
        return;
    if (inside || (cpu->in_cache && pc >= (const uint8_t *)__real_rt_enter &&
                   pc < (const uint8_t *)rt_enter_end)) {
        if (step.at++ == step.target) {
            step.kicked = true;
            novt_vcpu_kick(step.e->vcpu);
            return;
        }
    }
    if (inside && *pc == 0x9c)
        emulate_pushfq(gregs);
    gregs[REG_EFL] |= RT_TF;
}

static void take_traps(void)
{
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_ONSTACK};

    sigemptyset(&action.sa_mask);
    sigaddset(&action.sa_mask, NOVT_KICK_SIGNAL);
    if (sigaction(SIGTRAP, &action, NULL))
        die("sigaction");
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

static void load_guest(struct guest *g, const char *dir, unsigned bits)
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

static void create(struct engine *e, const struct guest *g, uint64_t flags)
{
    struct novt_config config = {
        .size = sizeof(config), .flags = flags, .code_cache_size = 1 << 20};
    char err[256];

    memset(e, 0, sizeof(*e));
    e->guest = g;
    e->fd = memfd_create("boundary", MFD_CLOEXEC);
    if (e->fd < 0 || ftruncate(e->fd, RAM_SIZE))
        die("memfd");
    e->ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, e->fd, 0);
    if (e->ram == MAP_FAILED || novt_vm_create(&config, &e->vm, err, sizeof(err)))
        die("cannot make a VM");
    if (novt_vm_set_memory(e->vm, 0, 0, RAM_SIZE, e->fd, 0, 0) ||
        novt_vcpu_create(e->vm, 0, &e->vcpu))
        die("cannot make a vCPU");
    e->run = novt_vcpu_run_area(e->vcpu);
    e->v = (void *)((uint8_t *)e->run - offsetof(struct mon_vcpu, run));
    memcpy(e->ram, g->image, RAM_SIZE);
    take_traps();
}

static void destroy(struct engine *e)
{
    novt_vm_destroy(e->vm);
    munmap(e->ram, RAM_SIZE);
    close(e->fd);
}

static void reset_memory(struct engine *e)
{
    const uint8_t *image = e->guest->image;

    memcpy(e->ram + TABLES, image + TABLES, HANDLERS - TABLES);
    memset(e->ram + HANDLERS + 0x1000, 0, PROGRAM - HANDLERS - 0x1000);
    memcpy(e->ram + DATA, image + DATA, RAM_SIZE - DATA);
    memcpy(e->ram + PATCHED, image + PATCHED, 4096);
    novt_vm_memory_written(e->vm, PATCHED, 4096);
}

/* Everything as at the start, but the code cache, which keeps what it has. */
static void reset(struct engine *e)
{
    const struct novt_segment stack = {0, 0xffffffff, 0xc093, KDATA};
    const struct novt_segment data = {0, 0xffffffff, 0xc0f3, UDATA}; /* IRET to CPL 3 leaves it */
    struct novt_regs regs = {.rip = PROGRAM, .rflags = 0x202, .gpr[NOVT_RSP] = STACK_TOP};
    static struct novt_sregs s;
    bool wide = e->guest->wide;

    novt_vcpu_reset(e->vcpu);
    reset_memory(e);
    novt_vcpu_get_sregs(e->vcpu, &s);
    for (unsigned i = 0; i < 6; i++)
        s.seg[i] = i == NOVT_SS ? stack : data;
    s.seg[NOVT_CS] = (struct novt_segment){0, 0xffffffff, wide ? 0xa09b : 0xc09b, KCODE};
    s.tr = (struct novt_segment){TSS, 0x67, 0x8b, TASK};
    s.ldt = (struct novt_segment){0, 0, 0x10000, 0};
    s.gdt = (struct novt_dtable){GDT, 0x3f};
    s.idt = (struct novt_dtable){IDT, 0xfff};
    s.cr0 = 0x80010033; /* PG WP NE ET MP PE */
    s.cr3 = TABLES;
    s.cr4 = wide ? 0x620 : 0x600; /* OSXMMEXCPT OSFXSR, PAE */
    s.efer = wide ? 0x501 : 0;    /* LMA LME SCE */
    if (novt_vcpu_set_sregs(e->vcpu, &s) || novt_vcpu_set_regs(e->vcpu, &regs))
        die("setting the state");
    e->run->request_interrupt_window = 0;
    stop_at_each = false;
    /* What the writes above have kicked. */
    e->run->immediate_exit = 1;
    novt_vcpu_run(e->vcpu);
    e->run->immediate_exit = 0;
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

    memcpy(copy, e->ram + PT, sizeof(copy));
    for (unsigned i = 0; i < 128; i++)
        copy[i] &= ~accessed;
    return hash(copy, sizeof(copy));
}

static void get_vectors(const struct engine *e, uint8_t *out)
{
    static uint8_t area[16384];

    if (novt_vcpu_get_xsave(e->vcpu, area, sizeof(area)))
        die("xsave");
    memcpy(out, area, 416);
    memset(out + 6, 0, 18); /* FOP, FIP, FDP */
    memset(out + 28, 0, 4); /* MXCSR_MASK */
}

static void get_state(const struct engine *e, struct state *s)
{
    struct novt_sregs sregs;

    memset(s, 0, sizeof(*s));
    novt_vcpu_get_regs(e->vcpu, &s->regs);
    novt_vcpu_get_sregs(e->vcpu, &sregs);
    for (unsigned i = 0; i < 6; i++)
        s->selector[i] = sregs.seg[i].selector;
    s->cr2 = sregs.cr2;
    s->ready = e->run->ready_for_interrupt;
    get_vectors(e, s->vectors);
    s->tables = hash_tables(e);
    s->patched = hash(e->ram + PATCHED, 4096);
    for (unsigned i = 0; i < (RAM_SIZE - DATA) / 4096; i++)
        s->pages[i] = hash(e->ram + DATA + i * 4096, 4096);
}

static bool same(const struct state *a, const struct state *b)
{
    return !memcmp(a, b, sizeof(*a));
}

/* A table's row with dumps of both is what one wants to see; a few are enough. */
static void report(const char *what, unsigned long at, const struct state *want,
                   const struct state *got)
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
static void report_log(const struct engine *e)
{
    uint64_t end = 0, x = 0;
    unsigned size = e->guest->wide ? 8 : 4;

    if (reported > 20)
        return;
    memcpy(&end, e->ram + LOG, size);
    printf("        log:");
    for (uint64_t at = LOG + 8; at < end && at < RAM_SIZE; at += size) {
        memcpy(&x, e->ram + at, size);
        printf(" %llx", (unsigned long long)x);
    }
    printf("\n");
}

/* ---- running ---- */

static bool is_done(const struct engine *e)
{
    return e->run->exit_reason == NOVT_EXIT_IO && e->run->io.port == PORT_DONE;
}

/* To the next exit, which has to be a kick's or the end. */
static void run_on(struct engine *e)
{
    if (novt_vcpu_run(e->vcpu) != NOVT_OK)
        die("the vCPU does not run");
    if (e->run->exit_reason == NOVT_EXIT_KICKED || is_done(e) ||
        e->run->exit_reason == NOVT_EXIT_IRQ_WINDOW)
        return;
    printf("    exit %u: %s\n", e->run->exit_reason,
           e->run->exit_reason == NOVT_EXIT_SHUTDOWN ? e->run->fail.reason : "");
    report_log(e);
    die("an exit that should not be");
}

static void run_to_the_end(struct engine *e)
{
    do
        run_on(e);
    while (!is_done(e));
}

/* Now, or as soon as the guest takes it. False: the program ended before. */
static bool inject(struct engine *e, uint8_t vector)
{
    stop_at_each = false;
    while (novt_vcpu_interrupt(e->vcpu, vector) != NOVT_OK) {
        e->run->request_interrupt_window = 1;
        run_on(e);
        if (is_done(e))
            return false;
    }
    e->run->request_interrupt_window = 0;
    return true;
}

/* From the start, n stops. */
static void run_to_boundary(struct engine *e, unsigned n)
{
    stop_at_each = true;
    for (unsigned at = 0; at < n; at++)
        run_on(e);
    stop_at_each = false;
}

/* The slow path up to boundary k, then translated code. */
static void enter_at_boundary(struct engine *e, unsigned k)
{
    e->v->vm->config.flags |= NOVT_F_INTERPRET;
    e->v->mode_changed = true;
    run_to_boundary(e, k);
    e->v->vm->config.flags &= ~(uint64_t)NOVT_F_INTERPRET;
    e->v->mode_changed = true;
}

/* ---- events ---- */

/* vector 0: the page is not present from now on; else an interrupt. */
struct event {
    uint8_t vector;
    uint32_t page;
};

static void make_absent(struct engine *e, uint32_t page)
{
    struct novt_sregs s;

    e->ram[PT + (page >> 12) * (e->guest->wide ? 8 : 4)] &= 0xfe;
    novt_vcpu_get_sregs(e->vcpu, &s);
    if (novt_vcpu_set_sregs(e->vcpu, &s)) /* which drops the TLB */
        die("setting the state");
}

static void happen(struct engine *e, const struct event *event, struct state *end)
{
    bool taken = true;

    if (event->vector == ABSENT)
        memcpy(e->ram + VICTIM, &event->page, 4);
    if (event->vector)
        taken = inject(e, event->vector);
    else
        make_absent(e, event->page);
    if (taken)
        run_to_the_end(e);
    get_state(e, end);
}

/* ---- the oracle ---- */

struct oracle {
    struct engine e;
    struct state *at; /* each boundary; the last is the end */
    unsigned count;   /* boundaries at which something can happen */
};

static void find_boundaries(struct oracle *o)
{
    o->at = calloc(MAX_BOUNDARIES, sizeof(*o->at));
    reset(&o->e);
    stop_at_each = true;
    get_state(&o->e, &o->at[0]);
    for (o->count = 1; o->count < MAX_BOUNDARIES; o->count++) {
        run_on(&o->e);
        get_state(&o->e, &o->at[o->count]);
        if (is_done(&o->e)) {
            stop_at_each = false;
            return;
        }
    }
    die("the program does not end");
}

static void foresee(struct oracle *o, unsigned k, const struct event *event, struct state *end)
{
    reset(&o->e);
    run_to_boundary(&o->e, k);
    happen(&o->e, event, end);
}

/* Where the first page fault of the last run came from; 0: there was none. */
static uint64_t faulted_at(const struct oracle *o)
{
    uint64_t first = 0, rip = 0;
    unsigned size = o->e.guest->wide ? 8 : 4;

    memcpy(&first, o->e.ram + LOG + 8, size);
    memcpy(&rip, o->e.ram + LOG + 8 + size, size);
    return first == PF ? rip : 0;
}

/* ---- the cases ---- */

static void verdict(const struct guest *g, bool good, const char *text)
{
    printf("%s boundary: %u-bit guest: %s\n", good ? "PASS" : "FAIL", g->bits, text);
    passed += good;
    failed += !good;
}

/* One instruction a block, through the same states. */
static bool check_states(struct oracle *o, struct engine *single)
{
    struct state s;
    unsigned k = 0;

    reset(single);
    stop_at_each = true;
    while (k + 1 < o->count) {
        run_on(single);
        get_state(single, &s);
        unsigned from = k++;
        while (!same(&s, &o->at[k]) && o->at[k].regs.rip == o->at[from].regs.rip)
            k++;
        if (!same(&s, &o->at[k])) {
            report("boundary", k, &o->at[k], &s);
            break;
        }
    }
    stop_at_each = false;
    return k + 1 == o->count;
}

static bool check_end(struct engine *e, const char *what, unsigned long k,
                      const struct event *event, const struct state *want)
{
    struct state got;

    happen(e, event, &got);
    if (same(&got, want))
        return true;
    report(what, k, want, &got);
    report_log(e);
    return false;
}

/* With blocks of one instruction. False: it does not stop there, in the middle of a REP. */
static bool stop_at_boundary(const struct oracle *o, struct engine *single, unsigned k)
{
    struct state s;

    reset(single);
    stop_at_each = true;
    get_state(single, &s);
    while (!same(&s, &o->at[k]) && !is_done(single)) {
        run_on(single);
        if (single->v->cpu->rip == o->at[k].regs.rip)
            get_state(single, &s);
    }
    stop_at_each = false;
    return !is_done(single);
}

static bool check_event(struct oracle *o, struct engine *single, struct engine *whole, unsigned k,
                        const struct event *event, const struct state *want)
{
    bool good = true;

    if (stop_at_boundary(o, single, k))
        good = check_end(single, "single, boundary", k, event, want);
    reset(whole);
    enter_at_boundary(whole, k);
    return good & check_end(whole, "entered, boundary", k, event, want);
}

static void case_interrupts(struct oracle *o, struct engine *single, struct engine *whole)
{
    const struct event event = {.vector = IRQ};
    struct state want;
    unsigned wrong = 0;
    char text[160];

    for (unsigned k = 0; k < o->count; k++) {
        foresee(o, k, &event, &want);
        wrong += !check_event(o, single, whole, k, &event, &want);
    }
    snprintf(text, sizeof(text), "an interrupt at each of %u boundaries, %u differ", o->count,
             wrong);
    verdict(o->e.guest, !wrong, text);
}

static const uint32_t victims[] = {PROGRAM,
                                   PROGRAM + 0x1000,
                                   PATCHED,
                                   USER,
                                   DATA,
                                   DATA + 0x1000,
                                   DATA + 0x2000,
                                   USER_TOP & ~0xfffu,
                                   STACK_TOP & ~0xfffu};

/* Supervisor code of the 32-bit guest takes its page faults on that stack. */
static bool is_victim(const struct guest *g, uint32_t page)
{
    return g->wide || page != (STACK_TOP & ~0xfffu);
}

static void case_faults(struct oracle *o, struct engine *single, struct engine *whole)
{
    struct state want;
    unsigned wrong = 0, count = 0;
    char text[160];

    for (unsigned k = 0; k < o->count; k++) {
        for (unsigned i = 0; i < sizeof(victims) / sizeof(victims[0]); i++) {
            const struct event event = {.page = victims[i]};
            if (!is_victim(o->e.guest, event.page))
                continue;
            foresee(o, k, &event, &want);
            if (faulted_at(o) != o->at[k].regs.rip)
                continue; /* another instruction's access */
            count++;
            wrong += !check_event(o, single, whole, k, &event, &want);
        }
    }
    snprintf(text, sizeof(text), "a page fault at each of %u accesses, %u differ", count, wrong);
    verdict(o->e.guest, !wrong && count > o->count / 2, text);
}

/* ---- kicks at each host instruction ---- */

static int boundary_of(const struct oracle *o, const struct state *s)
{
    for (unsigned k = 0; k < o->count; k++) {
        if (same(&o->at[k], s))
            return (int)k;
    }
    return -1;
}

/* Runs from the start; the kick comes in the given entry, at its host instruction n. False: there
 * are not so many. */
static bool kick_at(struct engine *e, unsigned entry, unsigned n)
{
    reset(e);
    step.entry = 0;
    step.in_entry = entry;
    step.at = 0;
    step.target = n;
    step.kicked = false;
    step.e = e;
    do
        run_on(e);
    while (!step.kicked && !is_done(e));
    step.e = NULL;
    return !is_done(e); /* the last entry may end with the program, kicked or not */
}

struct kicks {
    unsigned entry, at; /* where the kick is now */
    unsigned steps, wrong, reached, faults;
    uint8_t seen[MAX_BOUNDARIES];
};

static unsigned likeness(const struct state *a, const struct state *b)
{
    unsigned n = a->regs.rip == b->regs.rip ? 17 : 0;

    for (unsigned i = 0; i < 16; i++)
        n += a->regs.gpr[i] == b->regs.gpr[i];
    return n;
}

static void report_nearest(const struct oracle *o, const struct state *s, unsigned n)
{
    unsigned best = 0;

    for (unsigned k = 0; k < o->count; k++) {
        if (likeness(&o->at[k], s) > likeness(&o->at[best], s))
            best = k;
    }
    report("kick", n, &o->at[best], s);
}

/* Once more to where a kick led to boundary k. */
static bool kick_to(const struct oracle *o, struct engine *whole, const struct kicks *kicks,
                    unsigned k)
{
    struct state s;

    if (!kick_at(whole, kicks->entry, kicks->at))
        return false;
    get_state(whole, &s);
    return same(&s, &o->at[k]);
}

/* The interrupt's handler makes a page absent that the next instruction touches. */
static void kick_and_fault(struct oracle *o, struct engine *whole, unsigned k, struct kicks *kicks)
{
    struct state want;

    for (unsigned i = 0; i < sizeof(victims) / sizeof(victims[0]); i++) {
        const struct event event = {.vector = ABSENT, .page = victims[i]};
        if (!is_victim(o->e.guest, event.page))
            continue;
        foresee(o, k, &event, &want);
        if (!kick_to(o, whole, kicks, k))
            continue; /* the page of PATCHED is protected or not as stores to it have come */
        kicks->faults++;
        kicks->wrong += !check_end(whole, "page taken, kick", kicks->steps, &event, &want);
    }
}

static void kick_once(struct oracle *o, struct engine *whole, struct kicks *kicks)
{
    const struct event event = {.vector = IRQ};
    static struct state ends[MAX_BOUNDARIES];
    struct state s;
    int k;

    get_state(whole, &s);
    k = boundary_of(o, &s);
    if (k < 0) {
        kicks->wrong++;
        report_nearest(o, &s, kicks->steps);
        return;
    }
    bool first = !kicks->seen[k];
    if (first) {
        kicks->seen[k] = 1;
        kicks->reached++;
        foresee(o, (unsigned)k, &event, &ends[k]);
    }
    kicks->wrong += !check_end(whole, "kick", kicks->steps, &event, &ends[k]);
    if (first)
        kick_and_fault(o, whole, (unsigned)k, kicks);
}

static void case_kicks(struct oracle *o, struct engine *whole)
{
    static struct kicks kicks;
    char text[200];

    memset(&kicks, 0, sizeof(kicks));
    for (unsigned i = 0; i < 3; i++) { /* everything translated and linked */
        reset(whole);
        run_to_the_end(whole);
    }
    for (; kick_at(whole, kicks.entry, 0); kicks.entry++) {
        for (kicks.at = 0; kick_at(whole, kicks.entry, kicks.at); kicks.at++) {
            kick_once(o, whole, &kicks);
            kicks.steps++;
        }
    }
    snprintf(text, sizeof(text),
             "a kick at each of %u host instructions in %u entries, which reach %u boundaries, and "
             "there "
             "%u pages taken away, %u differ",
             kicks.steps, kicks.entry, kicks.reached, kicks.faults, kicks.wrong);
    verdict(o->e.guest, !kicks.wrong && kicks.steps > 1000, text);
}

static void run_guest(const char *dir, unsigned bits)
{
    static struct guest g;
    static struct oracle o;
    static struct engine single, whole;
    char text[100];

    load_guest(&g, dir, bits);
    create(&o.e, &g, NOVT_F_INTERPRET);
    create(&single, &g, NOVT_F_SHORT_BLOCKS);
    create(&whole, &g, 0);
    find_boundaries(&o);
    snprintf(text, sizeof(text), "the same state at each of %u boundaries", o.count);
    verdict(&g, check_states(&o, &single), text);
    case_interrupts(&o, &single, &whole);
    case_faults(&o, &single, &whole);
    case_kicks(&o, &whole);
    destroy(&o.e);
    destroy(&single);
    destroy(&whole);
    free(o.at);
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc < 2)
        die("usage: boundary DIR [32|64]");
    if (argc < 3 || !strcmp(argv[2], "32"))
        run_guest(argv[1], 32);
    if (argc < 3 || !strcmp(argv[2], "64"))
        run_guest(argv[1], 64);
    printf("%u passed, %u failed\n", passed, failed);
    return failed || !passed;
}
