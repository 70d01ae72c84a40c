/* latency.c - from a device's request to the first instruction of the guest's handler.
 *
 *   latency [--count N]     N requests (2,000) for each thing that a guest may be busy with
 *
 * A thread asks for an interrupt at random times: it reads the TSC, sets a flag and kicks. The
 * thread that runs the guest injects; the guest's handler stores its own RDTSC. Guests are in 32-
 * and in 64-bit mode, at CPL 0, without paging or with identity tables.
 *
 * The bound is relative to what the host needs for the same: a signal to a running thread (or,
 * where the guest halts, waking a waiting one), measured in turns with it, so under the same load.
 * Half of the requests have to be there within SLOWER times the host's median and SLACK_US, 99 %
 * within SLOWER times its 99 % and SLACK_99_US. A process that is stopped for a while has late
 * ones, but not 1 % of them; a case that is late has ATTEMPTS, for the sake of loaded machines. */
#include "include/novt.h"

#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SLOWER      4
#define SLACK_US    50
#define SLACK_99_US 5000
#define ATTEMPTS    5
#define TURNS       8
#define COUNT_MAX   100000u
#define LOST_MS     20000 /* a request that takes longer never arrives */

/* Guest-physical layout, linear is the same. */
#define GDT       0x1000u
#define IDT       0x2000u
#define HANDLER   0x4000u
#define STAMP     0x5000u /* the handler's RDTSC */
#define TAKEN     0x5008u /* how often it ran */
#define PML4      0x6000u
#define STACK_TOP 0xf000u
#define CODE      0x100000u
#define FROM      0x1000000u
#define TO        0x3000000u
#define BLOCK     0x1000000u /* bytes */
#define RAM_SIZE  0x4000000u
#define VECTOR    0x30

enum { FLAT = 0x08, DATA = 0x10, LIMITED = 0x18, LONG = 0x20 };

struct work {
    const char *name;
    const char *code; /* repeated; then a jump back to the start */
    unsigned len;
    uint32_t repeat;
    uint16_t cs; /* 0: that of the mode */
    uint64_t flags;
    bool halts;
};

#define TEXT(s) s, sizeof(s) - 1
static const struct work works[] = {
    {"a loop of one instruction", TEXT("\x90"), 1, 0, 0, false},
    {"1 MB of straight code", TEXT("\x83\xc0\x01\x31\xc2\x8d\x1c\x18"), 131072, 0, 0, false},
    {"calls and returns", TEXT("\xe8\x02\x00\x00\x00\xeb\x01\xc3"), 1000, 0, 0, false},
    /* mov $FROM, %esi; mov $TO, %edi; mov $BLOCK / 4, %ecx; rep movsl */
    {"REP MOVS of 16 MB",
     TEXT("\xbe\x00\x00\x00\x01\xbf\x00\x00\x00\x03\xb9\x00\x00\x40\x00\xf3\xa5"), 1, 0, 0, false},
    {"REP STOS of 16 MB", TEXT("\xbf\x00\x00\x00\x03\xb9\x00\x00\x00\x01\xf3\xaa"), 1, 0, 0, false},
    {"CPUID, a callout", TEXT("\x31\xc0\x0f\xa2"), 1, 0, 0, false},
    {"the slow path", TEXT("\x83\xc0\x01\x31\xc2\x8d\x1c\x18"), 100, 0, NOVT_F_INTERPRET, false},
    {"REP MOVS in the slow path",
     TEXT("\xbe\x00\x00\x00\x01\xbf\x00\x00\x00\x03\xb9\x00\x00\x40\x00\xf3\xa5"), 1, 0,
     NOVT_F_INTERPRET, false},
    {"a code segment with a limit", TEXT("\x83\xc0\x01\x31\xc2\x8d\x1c\x18"), 100, LIMITED, 0,
     false},
    {"HLT", TEXT("\xf4"), 1, 0, 0, true},
};

static struct novt_vm *vm;
static struct novt_vcpu *vcpu;
static struct novt_run *run;
static uint8_t *ram;
static int memfd;
static _Atomic bool wanted, stop;
static _Atomic uint32_t wakeups; /* a futex: where a halted guest waits */
static unsigned count = 2000, passed, failed;
static double ticks_per_us;
static uint64_t samples[COUNT_MAX], base_run[COUNT_MAX], base_wait[COUNT_MAX];

/* ---- time ---- */

static uint64_t tsc(void)
{
    return __builtin_ia32_rdtsc();
}

static double now_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e6 + (double)ts.tv_nsec / 1e3;
}

static void measure_tsc(void)
{
    double from = now_us();
    uint64_t start = tsc();

    usleep(20000);
    ticks_per_us = (double)(tsc() - start) / (now_us() - from);
}

/* 50 to 250 us, so that requests find the guest anywhere. */
static void random_pause(void)
{
    static uint32_t seed = 1;

    seed = seed * 1664525 + 1013904223;
    nanosleep(&(struct timespec){0, 50000 + (seed >> 8) % 200000}, NULL);
}

static void futex(int op, uint32_t value)
{
    syscall(SYS_futex, &wakeups, op, value, NULL, NULL, 0);
}

/* ---- what the host needs ---- */

static _Atomic uint64_t arrived;

static void on_signal(int number)
{
    (void)number;
    atomic_store(&arrived, tsc());
}

static void *spin(void *unused)
{
    while (!atomic_load(&stop))
        __builtin_ia32_pause();
    return unused;
}

/* wakeups as it was before the first request. */
static void *sleeper(void *before)
{
    uint32_t seen = *(const uint32_t *)before;

    while (!atomic_load(&stop)) {
        futex(FUTEX_WAIT, seen);
        if (atomic_load(&wakeups) == seen)
            continue;
        seen = atomic_load(&wakeups);
        atomic_store(&arrived, tsc());
    }
    return NULL;
}

static void wake(void)
{
    atomic_fetch_add(&wakeups, 1);
    futex(FUTEX_WAKE, 1);
}

static void measure_host(bool waits, uint64_t *into, unsigned n)
{
    uint32_t before = atomic_load(&wakeups);
    pthread_t thread;

    signal(SIGUSR1, on_signal);
    atomic_store(&stop, false);
    pthread_create(&thread, NULL, waits ? sleeper : spin, &before);
    for (unsigned i = 0; i < n; i++) {
        atomic_store(&arrived, 0);
        random_pause();
        uint64_t from = tsc();
        if (waits)
            wake();
        else
            pthread_kill(thread, SIGUSR1);
        while (!atomic_load(&arrived))
            usleep(20);
        into[i] = atomic_load(&arrived) - from;
    }
    atomic_store(&stop, true);
    wake();
    pthread_join(thread, NULL);
}

/* ---- the guest ---- */

static void put(uint32_t gpa, const void *data, size_t n)
{
    memcpy(ram + gpa, data, n);
}

static void put64(uint32_t gpa, uint64_t value)
{
    put(gpa, &value, 8);
}

static void put_gate(bool wide)
{
    put64(IDT + VECTOR * (wide ? 16 : 8),
          HANDLER | (uint64_t)(wide ? LONG : FLAT) << 16 | 0x8e00ull << 32);
}

static void put_tables(bool wide)
{
    put64(GDT + FLAT, 0xcf9b000000ffffull);
    put64(GDT + DATA, 0xcf93000000ffffull);
    put64(GDT + LIMITED, 0xcf9b0000001000ull); /* 16 MB */
    put64(GDT + LONG, 0xaf9b000000ffffull);
    put_gate(wide);
    /* push %rax; push %rdx; rdtsc; mov %edx, STAMP + 4; mov %eax, STAMP; incl TAKEN; pops; iret */
    put(HANDLER,
        "\x50\x52\x0f\x31\x89\x14\x25\x04\x50\x00\x00\x89\x04\x25\x00\x50\x00\x00\xff\x04\x25\x08"
        "\x50\x00\x00\x5a\x58\x48\xcf",
        29);
    if (!wide)
        put(HANDLER + 27, "\xcf", 1);
    put64(PML4, (PML4 + 0x1000) | 3);
    put64(PML4 + 0x1000, (PML4 + 0x2000) | 3);
    for (uint32_t i = 0; i < RAM_SIZE >> 21; i++)
        put64(PML4 + 0x2000 + 8 * i, (uint64_t)i << 21 | 0x83);
}

static void put_work(const struct work *w)
{
    uint32_t at = CODE;

    for (uint32_t i = 0; i < w->repeat; i++, at += w->len)
        put(at, w->code, w->len);
    int32_t back = (int32_t)(CODE - (at + 5));
    put(at, "\xe9", 1);
    put(at + 1, &back, 4);
}

static int set_state(const struct work *w, bool wide)
{
    const struct novt_segment data = {0, 0xffffffff, 0xc093, DATA};
    struct novt_regs regs = {.rip = CODE, .rflags = 0x202, .gpr[NOVT_RSP] = STACK_TOP};
    struct novt_sregs s;

    novt_vcpu_get_sregs(vcpu, &s);
    for (unsigned i = 0; i < 6; i++)
        s.seg[i] = data;
    s.seg[NOVT_CS] =
        (struct novt_segment){0, 0xffffffff, wide ? 0xa09b : 0xc09b, wide ? LONG : FLAT};
    if (w->cs)
        s.seg[NOVT_CS] = (struct novt_segment){0, 0x1000fff, 0xc09b, w->cs};
    s.gdt = (struct novt_dtable){GDT, 0x27};
    s.idt = (struct novt_dtable){IDT, 0xfff};
    s.cr0 = wide ? 0x80010031 : 0x31;
    s.cr3 = wide ? PML4 : 0;
    s.cr4 = wide ? 0x20 : 0;
    s.efer = wide ? 0x500 : 0;
    int rc = novt_vcpu_set_sregs(vcpu, &s);
    return rc ? rc : novt_vcpu_set_regs(vcpu, &regs);
}

static bool create(const struct work *w, bool wide)
{
    struct novt_config config = {.size = sizeof(config), .flags = w->flags};
    char err[256];

    memset(ram, 0, RAM_SIZE);
    put_tables(wide);
    put_work(w);
    if (novt_vm_create(&config, &vm, err, sizeof(err)) != NOVT_OK) {
        printf("    %s\n", err);
        return false;
    }
    if (novt_vm_set_memory(vm, 0, 0, RAM_SIZE, memfd, 0, 0) || novt_vcpu_create(vm, 0, &vcpu) ||
        set_state(w, wide)) {
        printf("    %s\n", novt_vm_error(vm));
        return false;
    }
    run = novt_vcpu_run_area(vcpu);
    return true;
}

/* ---- the run ---- */

static void inject(void)
{
    if (!atomic_load(&wanted))
        return;
    if (novt_vcpu_interrupt(vcpu, VECTOR) == NOVT_OK) {
        atomic_store(&wanted, false);
        run->request_interrupt_window = 0;
    } else {
        run->request_interrupt_window = 1;
    }
}

/* Until a request or the end is there. */
static void halt(void)
{
    for (;;) {
        uint32_t seen = atomic_load(&wakeups);
        if (atomic_load(&wanted) || atomic_load(&stop))
            return;
        futex(FUTEX_WAIT, seen);
    }
}

/* The thread that runs the guest; NULL, or why it ended. */
static void *run_guest(void *unused)
{
    (void)unused;
    while (!atomic_load(&stop)) {
        if (novt_vcpu_run(vcpu) != NOVT_OK)
            return "novt_vcpu_run() failed";
        if (run->exit_reason == NOVT_EXIT_HLT)
            halt();
        else if (run->exit_reason != NOVT_EXIT_KICKED && run->exit_reason != NOVT_EXIT_IRQ_WINDOW)
            return "an exit that does not belong here";
        inject();
    }
    return NULL;
}

static uint32_t taken(void)
{
    return atomic_load((_Atomic uint32_t *)(void *)(ram + TAKEN));
}

/* One request; false when it never arrives. */
static bool request(uint64_t *latency)
{
    uint32_t before = taken();
    double deadline = now_us() + LOST_MS * 1e3;
    uint64_t from = tsc(), stamp;

    atomic_store(&wanted, true);
    novt_vcpu_kick(vcpu);
    wake();
    while (taken() == before) {
        if (now_us() > deadline)
            return false;
        usleep(20);
    }
    memcpy(&stamp, ram + STAMP, 8);
    *latency = stamp - run->tsc_offset - from;
    return true;
}

static const char *measure_guest(uint64_t *into, unsigned n)
{
    pthread_t thread;
    void *why;
    const char *lost = NULL;

    atomic_store(&stop, false);
    atomic_store(&wanted, false);
    pthread_create(&thread, NULL, run_guest, NULL);
    for (unsigned i = 0; i < n && !lost; i++) {
        random_pause();
        if (!request(&into[i]))
            lost = "a request never reached the handler";
    }
    atomic_store(&stop, true);
    novt_vcpu_kick(vcpu);
    wake();
    pthread_join(thread, &why);
    return why ? why : lost;
}

/* ---- the verdict ---- */

static int by_value(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

static void sort(uint64_t *values)
{
    qsort(values, count, sizeof(values[0]), by_value);
}

static double us(const uint64_t *sorted, double part)
{
    return (double)sorted[(unsigned)(part * (count - 1))] / ticks_per_us;
}

static void print_row(const char *name, const uint64_t *sorted)
{
    printf("  %-44s %8.1f %8.1f %8.1f %9.1f\n", name, us(sorted, 0.5), us(sorted, 0.9),
           us(sorted, 0.99), us(sorted, 1));
}

static bool within(const uint64_t *host)
{
    return us(samples, 0.5) <= SLOWER * us(host, 0.5) + SLACK_US &&
           us(samples, 0.99) <= SLOWER * us(host, 0.99) + SLACK_99_US;
}

/* The guest and the host by turns. */
static const char *measure_turns(const struct work *w, uint64_t *host)
{
    const char *why = NULL;

    for (unsigned done = 0, n; done < count && !why; done += n) {
        n = count / TURNS < count - done ? count / TURNS : count - done;
        why = measure_guest(samples + done, n);
        measure_host(w->halts, host + done, n);
    }
    sort(samples);
    sort(host);
    return why;
}

static const char *attempt(const struct work *w, bool wide, uint64_t *host)
{
    bool made = create(w, wide);
    const char *why = made ? measure_turns(w, host) : "no machine";

    novt_vm_destroy(vm);
    vm = NULL;
    return why;
}

static void judge(const struct work *w, bool wide)
{
    char name[80];
    uint64_t *host = w->halts ? base_wait : base_run;
    const char *why = "late";
    bool in_time = false;

    snprintf(name, sizeof(name), "%s-bit, %s", wide ? "64" : "32", w->name);
    for (unsigned i = 0; i < ATTEMPTS && !in_time; i++) {
        why = attempt(w, wide, host);
        if (why)
            break;
        print_row(name, samples);
        in_time = within(host);
        if (!in_time)
            print_row("  late; the host meanwhile", host);
    }
    if (!in_time)
        printf("FAIL latency: %s: %s\n", name, why ? why : "later than the bound");
    passed += in_time;
    failed += !in_time;
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "--count"))
        count = (unsigned)strtoul(argv[2], NULL, 0);
    if ((argc != 1 && argc != 3) || count < 10 || count > COUNT_MAX) {
        fprintf(stderr, "usage: latency [--count N]\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    memfd = memfd_create("latency", MFD_CLOEXEC);
    if (memfd < 0 || ftruncate(memfd, RAM_SIZE) ||
        (ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0)) == MAP_FAILED) {
        perror("latency");
        return 2;
    }
    measure_tsc();
    printf("  %-44s %8s %8s %8s %9s\n", "request to handler, us", "50 %", "90 %", "99 %", "100 %");
    for (unsigned wide = 0; wide < 2; wide++) {
        for (unsigned i = 0; i < sizeof(works) / sizeof(works[0]); i++) {
            if (!wide || !works[i].cs)
                judge(&works[i], wide);
        }
    }
    print_row("host: a signal to a running thread", base_run);
    print_row("host: waking a waiting thread", base_wait);
    printf("%u passed, %u failed\n", passed, failed);
    return failed != 0;
}
