/* guest.c - the VM that runs batches: 32-bit, paged (PAE, NX), CPL 3.
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

#define RUN_SECONDS 20

extern const uint8_t guest_kernel[], guest_kernel_end[], guest_kernel_done[], guest_kernel_exit[];

static struct novt_vm *vm;
static struct novt_vcpu *vcpu;
static uint8_t *ram;
static struct guest_options options;
static pthread_t helper;
static volatile bool helper_stop, hung;
static volatile time_t run_started;

/* ---- memory ---- */

enum { P = 1, W = 2, U = 4, AD = 0x60 };
#define NX (1ull << 63)

static void put64(uint32_t gpa, uint64_t v)
{
    memcpy(ram + gpa, &v, 8);
}

static unsigned tables;

static void map_page(uint32_t linear, uint32_t phys, uint64_t flags)
{
    uint32_t pde = PHYS_KERNEL + KERNEL_PD + (linear >> 21) * 8;
    uint64_t entry;

    memcpy(&entry, ram + pde, 8);
    if (!entry) {
        entry = PHYS_KERNEL + KERNEL_PT + tables++ * 0x1000;
        put64(pde, entry | P | W | U | AD);
    }
    put64((uint32_t)(entry & ~0xfffull) + (linear >> 12 & 511) * 8, phys | flags | P | AD);
}

static void map_range(uint32_t linear, uint32_t phys, uint32_t size, uint64_t flags)
{
    for (uint32_t at = 0; at < size; at += 4096)
        map_page(linear + at, phys + at, flags);
}

static void build_paging(void)
{
    tables = 0;
    for (uint32_t i = 0; i < 4; i++)
        put64(PHYS_KERNEL + KERNEL_PDPT + i * 8, (PHYS_KERNEL + KERNEL_PD + i * 0x1000) | P);
    map_range(ARENA, PHYS_ARENA, ARENA_SIZE, W | U | NX);
    map_range(CODE, PHYS_CODE, CODE_SIZE, U);
    map_range(IO, PHYS_IO, IO_SIZE, W | U | NX);
    map_range(EXIT_STUB, PHYS_KERNEL + KERNEL_END, 0x1000, U);
    map_range(KERNEL, PHYS_KERNEL, KERNEL_END, W);
}

static uint64_t descriptor(uint32_t base, uint32_t limit, uint32_t attr)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)(attr & 0xff) << 40 |
           (uint64_t)(limit >> 16 | (attr & 0xf000) >> 8) << 48 | (uint64_t)(base >> 24) << 56;
}

static void build_gate(unsigned vector, uint32_t handler, uint32_t attr)
{
    put64(PHYS_KERNEL + KERNEL_IDT + vector * 8,
          (handler & 0xffff) | 0x08 << 16 | (uint64_t)attr << 40 | (uint64_t)(handler >> 16) << 48);
}

static void build_tables(void)
{
    uint32_t gdt = PHYS_KERNEL + KERNEL_GDT, tss = PHYS_KERNEL + KERNEL_TSS;
    uint32_t text = KERNEL + KERNEL_TEXT;

    put64(gdt + 0x08, descriptor(0, 0xfffff, 0xc09b));
    put64(gdt + 0x10, descriptor(0, 0xfffff, 0xc093));
    put64(gdt + 0x18, descriptor(KERNEL + KERNEL_TSS, 0x67, 0x008b));
    put64(gdt + (USER_CS & ~7), descriptor(0, 0xfffff, 0xc0fb));
    put64(gdt + (USER_DS & ~7), descriptor(0, 0xfffff, 0xc0f3));
    put64(tss + 4, (KERNEL + KERNEL_STACK) | (uint64_t)0x10 << 32);
    put64(tss + 0x60, (uint64_t)0x68 << 48); /* no I/O bitmap */
    for (unsigned i = 0; i < 32; i++)
        build_gate(i, text + i * 16, i == 3 || i == 4 ? 0xee : 0x8e);
    build_gate(DONE_VECTOR, text + (uint32_t)(guest_kernel_done - guest_kernel), 0xee);
    memcpy(ram + PHYS_KERNEL + KERNEL_TEXT, guest_kernel,
           (size_t)(guest_kernel_end - guest_kernel));
    memcpy(ram + PHYS_KERNEL + KERNEL_END, guest_kernel_exit,
           (size_t)(guest_kernel_end - guest_kernel_exit));
}

/* ---- the vCPU ---- */

static uint64_t host_xcr0(void)
{
    uint32_t lo, hi;
    __asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return ((uint64_t)hi << 32 | lo) & 0xe7;
}

static int set_state(void)
{
    struct novt_sregs s;
    struct novt_regs regs = {.rip = CODE, .rflags = 0x202};
    const struct novt_segment data = {0, 0xffffffff, 0xc0f3, USER_DS};

    novt_vcpu_get_sregs(vcpu, &s);
    s.seg[NOVT_ES] = s.seg[NOVT_SS] = s.seg[NOVT_DS] = data;
    s.seg[NOVT_CS] = (struct novt_segment){0, 0xffffffff, 0xc0fb, USER_CS};
    s.seg[NOVT_FS] = (struct novt_segment){0, 0, 0x10000, 0};
    s.seg[NOVT_GS] = (struct novt_segment){GS_BASE, 0xffffffff, 0xc0f3, GS_SELECTOR};
    s.tr = (struct novt_segment){KERNEL + KERNEL_TSS, 0x67, 0x8b, 0x18};
    s.ldt = (struct novt_segment){0, 0, 0x10000, 0};
    s.gdt = (struct novt_dtable){KERNEL + KERNEL_GDT, 0x2f};
    s.idt = (struct novt_dtable){KERNEL + KERNEL_IDT, 0x7ff};
    s.cr0 = 0x80050033; /* PG AM WP NE ET MP PE */
    s.cr3 = PHYS_KERNEL + KERNEL_PDPT;
    s.cr4 = 0x40620; /* OSXSAVE OSXMMEXCPT OSFXSR PAE */
    s.efer = 0x800;  /* NXE */
    s.xcr0 = host_xcr0();
    int rc = novt_vcpu_set_sregs(vcpu, &s);
    return rc ? rc : novt_vcpu_set_regs(vcpu, &regs);
}

static void *help(void *unused)
{
    struct timespec pause = {0, options.kicks ? 1000000000l / options.kicks : 100000000l};

    (void)unused;
    while (!helper_stop) {
        nanosleep(&pause, NULL);
        time_t started = run_started;
        if (started && time(NULL) - started > RUN_SECONDS)
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
    uint32_t exit_code = EXIT_STUB;
    memset(ram + PHYS_KERNEL, 0, PHYS_SIZE - PHYS_KERNEL);
    memcpy(ram + PHYS_IO + (IO_EXIT - IO), &exit_code, 4);
    build_paging();
    build_tables();
    side->arena = ram + PHYS_ARENA;
    side->records = (struct record *)(void *)(ram + PHYS_IO + (IO_RECORDS - IO));
    if (novt_vm_create(&config, &vm, err, sizeof(err)) != NOVT_OK) {
        printf("cannot make a VM: %s\n", err);
        return -1;
    }
    if (novt_vm_set_memory(vm, 0, 0, PHYS_SIZE, memfd, 0, 0) != NOVT_OK ||
        novt_vcpu_create(vm, 0, &vcpu) != NOVT_OK || set_state() != NOVT_OK) {
        printf("cannot prepare the VM: %s\n", novt_vm_error(vm));
        return -1;
    }
    helper_stop = hung = false;
    run_started = 0;
    return pthread_create(&helper, NULL, help, NULL) ? -1 : 0;
}

void guest_code_written(size_t len)
{
    novt_vm_memory_written(vm, PHYS_CODE, len);
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

bool guest_run(const char **why)
{
    run_started = time(NULL);
    bool done = run_to_exit(why);
    run_started = 0;
    return done;
}

void guest_stop(void)
{
    helper_stop = true;
    pthread_join(helper, NULL);
    novt_vm_destroy(vm);
    vm = NULL;
}
