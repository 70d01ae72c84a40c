/* guest.c - the VM that runs batches: paged (PAE or four levels, NX), CPL 3.
 *
 * Addresses, selectors and rights are those of the native process, see layout.h. The VM uses the
 * public API alone. A watchdog thread ends a run that does not come back; another one kicks. */
#include "include/novt.h"
#include "tests/diff/diff.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* Of the run's CPU time. */
#define RUN_SECONDS 3

extern const uint8_t guest_kernel[], guest_kernel_end[], guest_kernel_done[], guest_kernel_exit[];
extern const uint8_t guest_kernel64[], guest_kernel64_end[], guest_kernel64_done[];
extern const uint8_t guest_kernel_idle[], guest_kernel64_idle[];

static struct novt_vm *vm;
static struct novt_vcpu *vcpu;
static uint8_t *ram;
static struct guest_options options;
static pthread_t helper;
static volatile bool helper_stop, hung;
static bool started;
static uint64_t interrupts; /* injected where kicks arrived */
static volatile time_t run_started;
static volatile bool running;
static clockid_t run_clock; /* the CPU time of the thread that runs the guest */

/* ---- memory ---- */

enum { P = 1, W = 2, U = 4, AD = 0x60 };
#define NX (1ull << 63)

static void put64(uint32_t gpa, uint64_t v)
{
    memcpy(ram + gpa, &v, 8);
}

static unsigned tables;

static uint64_t get64(uint64_t gpa)
{
    uint64_t v;
    memcpy(&v, ram + gpa, 8);
    return v;
}

static uint32_t new_table(void)
{
    return PHYS_KERNEL + KERNEL_TABLES + tables++ * 0x1000;
}

/* The page tables' top is that of two (PAE: level 2, four entries without rights) or three levels
 * above the leaves. */
static void map_page(uint64_t linear, uint32_t phys, uint64_t flags)
{
    unsigned top = long_mode() ? 3 : 2;
    uint64_t table = PHYS_KERNEL + KERNEL_TABLES;

    for (unsigned level = top; level > 0; level--) {
        uint64_t at = table + (linear >> (12 + 9 * level) & 511) * 8;
        if (!get64(at))
            put64((uint32_t)at, new_table() | (level == top && top == 2 ? P : P | W | U | AD));
        table = get64(at) & ~0xfffull;
    }
    put64((uint32_t)(table + (linear >> 12 & 511) * 8), phys | flags | P | AD);
}

static void map_range(uint64_t linear, uint32_t phys, uint32_t size, uint64_t flags)
{
    for (uint32_t at = 0; at < size; at += 4096)
        map_page(linear + at, phys + at, flags);
}

static uint64_t kernel_base(void)
{
    return long_mode() ? KERNEL64 : KERNEL32;
}

static void build_paging(void)
{
    tables = 1;
    map_range(ARENA, PHYS_ARENA, ARENA_SIZE, W | U | NX);
    map_range(CODE, PHYS_CODE, CODE_SIZE, U);
    map_range(IO, PHYS_IO, IO_SIZE, W | U | NX);
    map_range(STEPS, PHYS_STEPS, STEPS_SIZE, W | U | NX);
    map_range(EXIT_STUB, PHYS_KERNEL + KERNEL_END, 0x1000, U);
    map_range(kernel_base(), PHYS_KERNEL, KERNEL_END, W);
    if (long_mode()) {
        map_range(HIGH + ARENA, PHYS_ARENA, ARENA_SIZE, W | U | NX);
        map_range(SPAN, PHYS_ARENA, ARENA_SIZE, W | U | NX);
        map_range((uint64_t)HIGH + CODE, PHYS_CODE, CODE_SIZE, U);
    }
}

static uint64_t descriptor(uint32_t base, uint32_t limit, uint32_t attr)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)(attr & 0xff) << 40 |
           (uint64_t)(limit >> 16 | (attr & 0xf000) >> 8) << 48 | (uint64_t)(base >> 24) << 56;
}

static void build_gate(unsigned vector, uint64_t handler, uint32_t attr)
{
    uint32_t at = PHYS_KERNEL + KERNEL_IDT + vector * (long_mode() ? 16 : 8);

    put64(at, (handler & 0xffff) | 0x08 << 16 | (uint64_t)attr << 40 |
                  (uint64_t)(handler >> 16 & 0xffff) << 48);
    if (long_mode())
        put64(at + 8, handler >> 32);
}

static void build_descriptors(void)
{
    uint32_t gdt = PHYS_KERNEL + KERNEL_GDT, ldt = PHYS_KERNEL + KERNEL_LDT;

    put64(gdt + 0x08, descriptor(0, 0xfffff, long_mode() ? 0xa09b : 0xc09b));
    put64(gdt + 0x10, descriptor(0, 0xfffff, 0xc093));
    put64(gdt + 0x18, descriptor((uint32_t)kernel_base() + KERNEL_TSS, 0x67, 0x008b));
    put64(gdt + (USER_CS & ~7), descriptor(0, 0xfffff, 0xc0fb));
    put64(gdt + (USER_DS & ~7), descriptor(0, 0xfffff, 0xc0f3));
    put64(gdt + (USER_CS64 & ~7), descriptor(0, 0xfffff, 0xa0fb));
    put64(gdt + LEAVE_SS, descriptor(0, 0xfffff, 0xc093));
    put64(ldt + (CS16 & ~7), descriptor(CODE, 0xffff, 0x00fb));
    put64(ldt + (DS16 & ~7), descriptor(ARENA, 0xffff, 0x00f3));
}

static void build_tables(void)
{
    const uint8_t *start = long_mode() ? guest_kernel64 : guest_kernel;
    const uint8_t *end = long_mode() ? guest_kernel64_end : guest_kernel_end;
    const uint8_t *done = long_mode() ? guest_kernel64_done : guest_kernel_done;
    const uint8_t *idle = long_mode() ? guest_kernel64_idle : guest_kernel_idle;
    uint32_t tss = PHYS_KERNEL + KERNEL_TSS;
    uint64_t text = kernel_base() + KERNEL_TEXT, stack = kernel_base() + KERNEL_STACK;

    build_descriptors();
    put64(tss + 4, long_mode() ? stack : stack | (uint64_t)0x10 << 32);
    put64(tss + 0x60, (uint64_t)0x68 << 48); /* no I/O bitmap */
    for (unsigned i = 0; i < 32; i++)
        build_gate(i, text + i * 16, i == 3 || i == 4 ? 0xee : 0x8e);
    build_gate(DONE_VECTOR, text + (uint32_t)(done - start), 0xee);
    build_gate(IDLE_VECTOR, text + (uint32_t)(idle - start), 0x8e);
    memcpy(ram + PHYS_KERNEL + KERNEL_TEXT, start, (size_t)(end - start));
    memcpy(ram + PHYS_KERNEL + KERNEL_END, guest_kernel_exit, 2);
}

/* ---- the vCPU ---- */

static uint64_t host_xcr0(void)
{
    uint32_t lo, hi;
    __asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return ((uint64_t)hi << 32 | lo) & 0xe7;
}

static void set_user_segments(struct novt_sregs *s)
{
    const struct novt_segment data = {0, 0xffffffff, 0xc0f3, USER_DS};
    const struct novt_segment code = {0, 0xffffffff, 0xc0fb, USER_CS};
    const struct novt_segment code64 = {0, 0xffffffff, 0xa0fb, USER_CS64};
    const struct novt_segment code16 = {CODE, 0xffff, 0x00fb, CS16};
    const struct novt_segment data16 = {ARENA, 0xffff, 0x00f3, DS16};
    const struct novt_segment null = {0, 0, 0x10000, 0};

    s->seg[NOVT_ES] = s->seg[NOVT_SS] = s->seg[NOVT_DS] = data;
    s->seg[NOVT_CS] = long_mode() ? code64 : code;
    s->seg[NOVT_FS] = null;
    s->seg[NOVT_GS] = (struct novt_segment){GS_BASE, 0xffffffff, 0xc0f3, GS_SELECTOR};
    if (long_mode()) {
        s->seg[NOVT_ES] = s->seg[NOVT_DS] = s->seg[NOVT_GS] = null;
        s->seg[NOVT_FS].base = FS_BASE;
        s->seg[NOVT_GS].base = GS_BASE;
    }
    if (diff_mode == TR_MODE_16) {
        s->seg[NOVT_CS] = code16;
        s->seg[NOVT_FS] = data;
        s->seg[NOVT_ES] = s->seg[NOVT_SS] = s->seg[NOVT_DS] = data16;
    }
}

static int set_state(void)
{
    struct novt_sregs s;
    struct novt_regs regs = {.rflags = 0x202};
    uint64_t kernel = kernel_base();

    novt_vcpu_get_sregs(vcpu, &s);
    set_user_segments(&s);
    s.tr = (struct novt_segment){kernel + KERNEL_TSS, 0x67, 0x8b, 0x18};
    s.ldt = (struct novt_segment){kernel + KERNEL_LDT, 0x7f, 0x82, 0x40};
    s.gdt = (struct novt_dtable){kernel + KERNEL_GDT, 0x4f};
    s.idt = (struct novt_dtable){kernel + KERNEL_IDT, 0xfff};
    s.cr0 = 0x80050033; /* PG AM WP NE ET MP PE */
    s.cr3 = PHYS_KERNEL + KERNEL_TABLES;
    s.cr4 = 0x50620;                      /* OSXSAVE FSGSBASE OSXMMEXCPT OSFXSR PAE */
    s.efer = long_mode() ? 0xd00 : 0x800; /* NXE LMA LME */
    s.xcr0 = host_xcr0();
    int rc = novt_vcpu_set_sregs(vcpu, &s);
    return rc ? rc : novt_vcpu_set_regs(vcpu, &regs);
}

static time_t cpu_seconds(void)
{
    struct timespec ts;
    clock_gettime(run_clock, &ts);
    return ts.tv_sec;
}

static void *help(void *unused)
{
    struct timespec pause = {0, options.kicks ? 1000000000l / options.kicks : 100000000l};

    (void)unused;
    while (!helper_stop) {
        nanosleep(&pause, NULL);
        if (running && cpu_seconds() - run_started > RUN_SECONDS)
            hung = true;
        if (options.kicks || hung)
            novt_vcpu_kick(vcpu);
    }
    return NULL;
}

int guest_start(int memfd, const struct guest_options *wanted, struct side *side)
{
    struct novt_config config = {
        .size = sizeof(config), .flags = wanted->flags, .code_cache_size = wanted->code_cache};
    char err[256];

    options = *wanted;
    if (!ram) {
        ram = mmap(NULL, PHYS_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
        if (ram == MAP_FAILED) {
            perror("mmap");
            return -1;
        }
    }
    uint64_t exit_code = EXIT_STUB | (long_mode() ? 0 : (uint64_t)USER_CS << 32);
    memset(ram + PHYS_KERNEL, 0, PHYS_STEPS - PHYS_KERNEL);
    memcpy(ram + PHYS_IO + (IO_EXIT - IO), &exit_code, 8);
    build_paging();
    build_tables();
    side->arena = ram + PHYS_ARENA;
    side->records = (struct record *)(void *)(ram + PHYS_IO + (IO_RECORDS - IO));
    side->steps = (struct step *)(void *)(ram + PHYS_STEPS);
    if (novt_vm_create(&config, &vm, err, sizeof(err)) != NOVT_OK) {
        printf("cannot make a VM: %s\n", err);
        return -1;
    }
    if (novt_vm_set_memory(vm, 0, 0, PHYS_SIZE, memfd, 0, 0) != NOVT_OK ||
        novt_vcpu_create(vm, 0, &vcpu) != NOVT_OK || set_state() != NOVT_OK) {
        printf("cannot prepare the VM: %s\n", novt_vm_error(vm));
        return -1;
    }
    helper_stop = hung = started = running = false;
    pthread_getcpuclockid(pthread_self(), &run_clock);
    return pthread_create(&helper, NULL, help, NULL) ? -1 : 0;
}

void guest_code_written(size_t at, size_t len)
{
    novt_vm_memory_written(vm, PHYS_CODE + at, len);
}

static bool run_to_exit(const char **why)
{
    static char text[320];
    const struct novt_run *run = novt_vcpu_run_area(vcpu);

    do {
        int rc = novt_vcpu_run(vcpu);
        if (rc != NOVT_OK) {
            snprintf(text, sizeof(text), "novt_vcpu_run: %s", novt_status_string(rc));
            *why = text;
            return false;
        }
        if (run->exit_reason == NOVT_EXIT_KICKED && run->ready_for_interrupt &&
            novt_vcpu_interrupt(vcpu, IDLE_VECTOR) == NOVT_OK)
            interrupts++;
    } while (run->exit_reason == NOVT_EXIT_KICKED && !hung);
    if (run->exit_reason == NOVT_EXIT_IO && run->io.port == DONE_PORT)
        return true;
    struct novt_regs regs;
    novt_vcpu_get_regs(vcpu, &regs);
    snprintf(text, sizeof(text), "%s: exit %u at %llx, %.200s", hung ? "hangs" : "unexpected exit",
             run->exit_reason, (unsigned long long)regs.rip,
             run->exit_reason == NOVT_EXIT_SHUTDOWN || run->exit_reason == NOVT_EXIT_INTERNAL
                 ? run->fail.reason
                 : "");
    *why = text;
    return false;
}

/* The supervisor's code continues there (guest_kernel_done); the first time it has not run yet. */
static void set_start(uint64_t start)
{
    uint64_t cs = diff_mode == TR_MODE_16 ? CS16 : long_mode() ? USER_CS64 : USER_CS;
    struct novt_regs regs;

    memcpy(ram + PHYS_IO + (IO_START - IO), &start, 8);
    memcpy(ram + PHYS_IO + (IO_START - IO) + 8, &cs, 8);
    if (!started) {
        novt_vcpu_get_regs(vcpu, &regs);
        regs.rip = start;
        novt_vcpu_set_regs(vcpu, &regs);
        started = true;
    }
}

bool guest_run(uint64_t start, const char **why)
{
    set_start(start);
    run_started = cpu_seconds();
    running = true;
    bool done = run_to_exit(why);
    running = false;
    return done;
}

uint64_t guest_interrupts(void)
{
    return interrupts;
}

void guest_stop(void)
{
    helper_stop = true;
    pthread_join(helper, NULL);
    novt_vm_destroy(vm);
    vm = NULL;
}
