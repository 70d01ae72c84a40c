/* stress.c - the engine under pressure: tiny caches, kicks, interrupts, many VMs.
 *
 *   stress [NAME...]        runs the named cases, or all of them
 *
 * Every guest computes something that a model in C computes too. Three programs, in flat 32-bit
 * protected mode at CPL 0:
 *
 *   calls    a table of small functions, each with its own constants, called in random order
 *   pages    scattered pages summed and rewritten in several address spaces
 *   copies   REP MOVS, STOS and CMPS over blocks
 *
 * Each case ends with PASS or FAIL; the summary is the last line. A case that takes longer than
 * CASE_SECONDS is a hang: it ends the program. */
#include "include/novt.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define CASE_SECONDS 120

/* Guest-physical layout; linear is the same without paging. */
#define GDT        0x1000u
#define IDT        0x2000u
#define STACK_TOP  0x8000u
#define HANDLER    0x9000u
#define COUNTER    0xa000u /* interrupts taken */
#define SEEN       0xa004u /* what the patched function returned last */
#define DRIVER     0xb000u
#define PATCHED    0xc000u
#define TABLES     0x10000u  /* page directories and tables of the pages program */
#define CODE       0x100000u /* functions, 32 bytes each */
#define CODE_END   0x800000u
#define CALL_TABLE 0x800000u
#define FRAMES     0x1000000u /* of the pages program */
#define LINEAR     0x40000000u
#define BLOCKS     0x2000000u
#define RAM_SIZE   0x4000000u
#define DONE_PORT  0x10
#define IRQ_VECTOR 0x30

struct machine {
    struct novt_vm *vm;
    struct novt_vcpu *vcpu;
    uint8_t *ram;
    int fd;
    uint64_t seed;
    bool ready;
};

/* ---- reporting ---- */

static unsigned passed, failed;
static _Atomic time_t case_started;
static const char *case_name;

__attribute__((format(printf, 1, 2))) static bool bad(const char *format, ...)
{
    va_list args;

    printf("    ");
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
    return false;
}

static void *watch(void *unused)
{
    (void)unused;
    for (;;) {
        sleep(1);
        if (time(NULL) - case_started < CASE_SECONDS)
            continue;
        printf("FAIL stress: %s: hangs\n%u passed, %u failed\n", case_name, passed, failed + 1);
        fflush(stdout);
        _exit(1);
    }
}

/* ---- random numbers ---- */

static uint32_t next_random(uint64_t *seed)
{
    uint64_t z = *seed += 0x9e3779b97f4a7c15ull; /* splitmix64 */

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return (uint32_t)(z >> 32);
}

/* ---- the machine ---- */

static void put32(struct machine *m, uint32_t gpa, uint32_t v)
{
    memcpy(m->ram + gpa, &v, 4);
}

static uint32_t get32(const struct machine *m, uint32_t gpa)
{
    uint32_t v;
    memcpy(&v, m->ram + gpa, 4);
    return v;
}

static uint8_t *emit(uint8_t *p, const char *bytes, size_t n)
{
    memcpy(p, bytes, n);
    return p + n;
}

static uint8_t *emit32(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, 4);
    return p + 4;
}
#define EMIT(p, bytes) emit(p, bytes, sizeof(bytes) - 1)

static bool machine_create(struct machine *m, const struct novt_config *config, uint64_t seed)
{
    char err[256];

    memset(m, 0, sizeof(*m));
    m->seed = seed;
    m->fd = memfd_create("stress", MFD_CLOEXEC);
    if (m->fd < 0 || ftruncate(m->fd, RAM_SIZE))
        return bad("memfd");
    m->ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
    if (m->ram == MAP_FAILED)
        return bad("mmap");
    if (novt_vm_create(config, &m->vm, err, sizeof(err)))
        return bad("%s", err);
    if (novt_vm_set_memory(m->vm, 0, 0, RAM_SIZE, m->fd, 0, 0) ||
        novt_vcpu_create(m->vm, 0, &m->vcpu))
        return bad("%s", novt_vm_error(m->vm));
    return true;
}

static void machine_destroy(struct machine *m)
{
    novt_vm_destroy(m->vm);
    if (m->ram && m->ram != MAP_FAILED)
        munmap(m->ram, RAM_SIZE);
    if (m->fd >= 0)
        close(m->fd);
}

static void set_gate(struct machine *m, unsigned vector, uint32_t handler)
{
    put32(m, IDT + vector * 8, 8 << 16 | (handler & 0xffff));
    put32(m, IDT + vector * 8 + 4, (handler & 0xffff0000u) | 0x8e00);
}

/* Starts at DRIVER, with or without paging. */
static bool machine_start(struct machine *m, uint32_t cr3)
{
    const struct novt_segment data = {0, 0xffffffff, 0xc093, 0x10};
    struct novt_regs regs = {.rip = DRIVER, .rflags = 2, .gpr[NOVT_RSP] = STACK_TOP};
    struct novt_sregs s;

    put32(m, GDT + 8, 0xffff);
    put32(m, GDT + 12, 0xcf9b00);
    put32(m, GDT + 16, 0xffff);
    put32(m, GDT + 20, 0xcf9300);
    memcpy(m->ram + HANDLER, "\xff\x05\x00\xa0\x00\x00\xcf", 7); /* incl COUNTER; iret */
    set_gate(m, IRQ_VECTOR, HANDLER);
    novt_vm_memory_written(m->vm, 0, RAM_SIZE);
    novt_vcpu_get_sregs(m->vcpu, &s);
    for (unsigned i = 0; i < 6; i++)
        s.seg[i] = data;
    s.seg[NOVT_CS] = (struct novt_segment){0, 0xffffffff, 0xc09b, 8};
    s.gdt = (struct novt_dtable){GDT, 0x17};
    s.idt = (struct novt_dtable){IDT, 0x7ff};
    s.cr0 = cr3 ? 0x80010031 : 0x31;
    s.cr3 = cr3;
    if (novt_vcpu_set_sregs(m->vcpu, &s) || novt_vcpu_set_regs(m->vcpu, &regs))
        return bad("%s", novt_vm_error(m->vm));
    return true;
}

/* Injects an interrupt, or asks for the window. */
static void interrupt(struct machine *m, uint32_t *injected)
{
    struct novt_run *run = novt_vcpu_run_area(m->vcpu);

    run->request_interrupt_window = novt_vcpu_interrupt(m->vcpu, IRQ_VECTOR) != NOVT_OK;
    *injected += !run->request_interrupt_window;
}

/* The same from inside novt_vcpu_run(), which then does not return for it. */
struct handled {
    struct machine *machine;
    uint32_t injected, calls;
};

static bool handle(void *opaque, struct novt_run *run)
{
    struct handled *h = opaque;

    if (run->exit_reason != NOVT_EXIT_KICKED && run->exit_reason != NOVT_EXIT_IRQ_WINDOW)
        return false;
    h->calls++;
    interrupt(h->machine, &h->injected);
    return true;
}

/* Runs until OUT to DONE_PORT. injected: NULL, or interrupts come with every kick. */
static bool machine_run(struct machine *m, uint32_t *injected)
{
    struct novt_run *run = novt_vcpu_run_area(m->vcpu);

    for (;;) {
        int rc = novt_vcpu_run(m->vcpu);
        if (rc != NOVT_OK)
            return bad("novt_vcpu_run: %s", novt_status_string(rc));
        switch (run->exit_reason) {
        case NOVT_EXIT_KICKED:
        case NOVT_EXIT_IRQ_WINDOW:
            if (injected)
                interrupt(m, injected);
            break;
        case NOVT_EXIT_IO:
            if (run->io.port == DONE_PORT)
                return true;
            return bad("port %x", run->io.port);
        default:
            return bad("exit %u: %.200s", run->exit_reason,
                       run->exit_reason == NOVT_EXIT_SHUTDOWN ? run->fail.reason : "");
        }
    }
}

static uint32_t machine_eax(struct machine *m)
{
    struct novt_regs regs;
    novt_vcpu_get_regs(m->vcpu, &regs);
    return (uint32_t)regs.gpr[NOVT_RAX];
}

static uint64_t stat_of(struct machine *m, const char *name)
{
    struct novt_stat stats[256];
    size_t n = novt_vm_stats(m->vm, stats, 256);

    for (size_t i = 0; i < n && i < 256; i++) {
        if (!strcmp(stats[i].name, name))
            return stats[i].value;
    }
    return 0;
}

/* ---- the calls program ---- */

struct function {
    uint32_t add, xor, below;
    uint8_t rol;
};

/* add $, %eax; rol $, %eax; xor $, %eax; cmp $, %eax; sbb %edx, %edx; xor %edx, %eax; ret */
static void put_function(struct machine *m, uint32_t at, const struct function *f)
{
    uint8_t *p = m->ram + at;

    p = emit32(EMIT(p, "\x05"), f->add);
    p = EMIT(p, "\xc1\xc0");
    *p++ = f->rol;
    p = emit32(EMIT(p, "\x35"), f->xor);
    p = emit32(EMIT(p, "\x3d"), f->below);
    EMIT(p, "\x19\xd2\x31\xd0\xc3");
}

static uint32_t model_function(uint32_t eax, const struct function *f)
{
    eax += f->add;
    eax = eax << f->rol | eax >> (32 - f->rol);
    eax ^= f->xor ;
    return eax < f->below ? ~eax : eax;
}

/* Puts count functions and a driver that calls them in random order, rounds times; returns what eax
 * must be at the end. */
static uint32_t put_calls(struct machine *m, uint32_t count, uint32_t rounds, bool interrupts)
{
    struct function *f = calloc(count, sizeof(*f));
    uint32_t *order = calloc(count, sizeof(*order)), eax = 0;
    uint8_t *p = m->ram + DRIVER;

    for (uint32_t i = 0; i < count; i++) {
        f[i] = (struct function){next_random(&m->seed), next_random(&m->seed),
                                 next_random(&m->seed), (uint8_t)(1 + next_random(&m->seed) % 31)};
        put_function(m, CODE + i * 32, &f[i]);
        order[i] = i;
    }
    for (uint32_t i = count - 1; i > 0; i--) {
        uint32_t j = next_random(&m->seed) % (i + 1), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    for (uint32_t i = 0; i < count; i++)
        put32(m, CALL_TABLE + i * 4, CODE + order[i] * 32);
    for (uint32_t round = 0; round < rounds; round++) {
        for (uint32_t i = 0; i < count; i++)
            eax = model_function(eax, &f[order[i]]);
    }
    p = EMIT(p, "\x31\xc0\xbf"); /* xor %eax, %eax; mov $rounds, %edi */
    p = emit32(p, rounds);
    if (interrupts)
        p = EMIT(p, "\xfb"); /* sti */
    p = emit32(EMIT(p, "\xbe"), CALL_TABLE);
    p = emit32(EMIT(p, "\xb9"), count);
    p = EMIT(p, "\x8b\x1e\x83\xc6\x04\xff\xd3\x49\x75\xf6"); /* mov (%esi), %ebx; add; call *%ebx;
                                                                dec; jnz */
    p = EMIT(p, "\x4f\x75\xe9");                             /* dec %edi; jnz to the table */
    EMIT(p, "\xfa\xe6\x10\xeb\xfe");                         /* cli; out; jmp . */
    free(f);
    free(order);
    return eax;
}

static bool run_calls(struct machine *m, uint32_t count, uint32_t rounds, uint32_t *injected)
{
    uint32_t want = put_calls(m, count, rounds, injected != NULL);

    if (!machine_start(m, 0) || !machine_run(m, injected))
        return false;
    if (machine_eax(m) != want)
        return bad("eax is %08x, should be %08x", machine_eax(m), want);
    return true;
}

/* ---- the pages program ---- */

#define PAGES  2048u
#define SPACES 4u

/* Space k maps LINEAR page i to frame frame[k][i], no two neighbours in order; the first 4 MiB are
 * identity. Returns CR3 of space k. */
static uint32_t put_space(struct machine *m, uint32_t k, const uint32_t *frame)
{
    uint32_t dir = TABLES + k * 0x4000;

    put32(m, dir, (dir + 0x1000) | 7);
    for (uint32_t i = 0; i < 1024; i++)
        put32(m, dir + 0x1000 + i * 4, i << 12 | 7);
    for (uint32_t i = 0; i < PAGES; i++) {
        uint32_t table = dir + 0x2000 + (i / 1024) * 0x1000;
        put32(m, dir + ((LINEAR >> 22) + i / 1024) * 4, table | 7);
        put32(m, table + i % 1024 * 4, (FRAMES + frame[i] * 0x1000) | 7);
    }
    return dir;
}

/* For each space: for each page: eax = rol(eax, 5) + *page; *page = eax */
static bool run_pages(struct machine *m, uint32_t rounds)
{
    static _Thread_local uint32_t frame[SPACES][PAGES], value[PAGES];
    uint32_t cr3[SPACES], eax = 0;
    uint8_t *p = m->ram + DRIVER, *loop;

    for (uint32_t i = 0; i < PAGES; i++) {
        value[i] = next_random(&m->seed);
        put32(m, FRAMES + i * 0x1000, value[i]);
    }
    for (uint32_t k = 0; k < SPACES; k++) {
        for (uint32_t i = 0; i < PAGES; i++)
            frame[k][i] = (i * (37 + 2 * k) + k) % PAGES;
        cr3[k] = put_space(m, k, frame[k]);
    }
    p = emit32(EMIT(p, "\x31\xc0\xbf"), rounds); /* xor %eax, %eax; mov $rounds, %edi */
    loop = p;
    for (uint32_t k = 0; k < SPACES; k++) {
        p = emit32(EMIT(p, "\xbb"), cr3[k]); /* mov $, %ebx; mov %ebx, %cr3 */
        p = EMIT(p, "\x0f\x22\xdb\xbe");
        p = emit32(p, LINEAR); /* mov $, %esi */
        p = emit32(EMIT(p, "\xb9"), PAGES);
        /* rol $5, %eax; add (%esi), %eax; mov %eax, (%esi); add $4096, %esi; dec %ecx; jnz */
        p = EMIT(p, "\xc1\xc0\x05\x03\x06\x89\x06\x81\xc6\x00\x10\x00\x00\x49\x75\xf0");
    }
    p = EMIT(p, "\x4f\x0f\x85"); /* dec %edi; jnz loop */
    p = emit32(p, (uint32_t)(loop - (p + 4)));
    EMIT(p, "\xe6\x10\xeb\xfe");
    for (uint32_t n = 0; n < rounds * SPACES; n++) {
        for (uint32_t i = 0; i < PAGES; i++) {
            uint32_t *v = &value[frame[n % SPACES][i]];
            eax = (eax << 5 | eax >> 27) + *v;
            *v = eax;
        }
    }
    if (!machine_start(m, cr3[0]) || !machine_run(m, NULL))
        return false;
    for (uint32_t i = 0; i < PAGES; i++) {
        if (get32(m, FRAMES + i * 0x1000) != value[i])
            return bad("frame %u holds %08x, should be %08x", i, get32(m, FRAMES + i * 0x1000),
                       value[i]);
    }
    return machine_eax(m) == eax || bad("eax is %08x, should be %08x", machine_eax(m), eax);
}

/* ---- the copies program ---- */

/* rounds times: A -> B with MOVSL, B -> C with MOVSB, C compared with A by CMPSL, B filled by
 * STOSL; eax counts equal compares. */
static bool run_copies(struct machine *m, uint32_t bytes, uint32_t rounds)
{
    uint32_t a = BLOCKS, b = BLOCKS + bytes, c = BLOCKS + 2 * bytes;
    uint8_t *p = m->ram + DRIVER, *loop;

    for (uint32_t at = 0; at < bytes; at += 4)
        put32(m, a + at, next_random(&m->seed));
    p = emit32(EMIT(p, "\x31\xc0\xbd"), rounds); /* xor %eax, %eax; mov $rounds, %ebp */
    loop = p;
    p = emit32(EMIT(p, "\xbe"), a);
    p = emit32(EMIT(p, "\xbf"), b);
    p = emit32(EMIT(p, "\xb9"), bytes / 4);
    p = EMIT(p, "\xf3\xa5\xbe"); /* rep movsl */
    p = emit32(p, b);
    p = emit32(EMIT(p, "\xbf"), c);
    p = emit32(EMIT(p, "\xb9"), bytes);
    p = EMIT(p, "\xf3\xa4\xbe"); /* rep movsb */
    p = emit32(p, c);
    p = emit32(EMIT(p, "\xbf"), a);
    p = emit32(EMIT(p, "\xb9"), bytes / 4);
    p = EMIT(p, "\xf3\xa7\x0f\x94\xc2\x0f\xb6\xd2\x01\xd0\xbf"); /* repe cmpsl; setz; add */
    p = emit32(p, b);
    p = emit32(EMIT(p, "\xb9"), bytes / 4);
    p = EMIT(p, "\xf3\xab\x4d\x0f\x85"); /* rep stosl; dec %ebp; jnz loop */
    p = emit32(p, (uint32_t)(loop - (p + 4)));
    EMIT(p, "\xe6\x10\xeb\xfe");
    if (!machine_start(m, 0) || !machine_run(m, NULL))
        return false;
    if (machine_eax(m) != rounds)
        return bad("%u of %u copies were right", machine_eax(m), rounds);
    for (uint32_t at = 0; at < bytes; at += 4) {
        if (get32(m, b + at) != rounds)
            return bad("the fill left %08x at %x", get32(m, b + at), at);
    }
    return true;
}

/* ---- kicks ---- */

struct kicker {
    struct machine *m;
    pthread_t thread;
    atomic_bool stop;
    unsigned hz;
};

static void *kick(void *arg)
{
    struct kicker *k = arg;
    struct timespec pause = {0, 1000000000l / k->hz};

    while (!k->stop) {
        nanosleep(&pause, NULL);
        novt_vcpu_kick(k->m->vcpu);
    }
    return NULL;
}

static void kicker_start(struct kicker *k, struct machine *m, unsigned hz)
{
    k->m = m;
    k->hz = hz;
    k->stop = false;
    pthread_create(&k->thread, NULL, kick, k);
}

static void kicker_stop(struct kicker *k)
{
    k->stop = true;
    pthread_join(k->thread, NULL);
}

/* ---- cases ---- */

static const struct novt_config tiny_cache = {.size = sizeof(tiny_cache),
                                              .code_cache_size = 256 << 10};
static const struct novt_config tiny_maps = {.size = sizeof(tiny_maps), .map_budget = 1};
static const struct novt_config no_chain = {.size = sizeof(no_chain), .flags = NOVT_F_NO_CHAIN};
static const struct novt_config small_cache = {.size = sizeof(small_cache),
                                               .code_cache_size = 4 << 20};

static bool case_tiny_cache(void)
{
    struct machine m;
    bool good = machine_create(&m, &tiny_cache, 1) && run_calls(&m, 20000, 3, NULL);

    if (good && stat_of(&m, "code_flushes") < 3)
        good = bad("the cache was flushed %llu times only",
                   (unsigned long long)stat_of(&m, "code_flushes"));
    machine_destroy(&m);
    return good;
}

static bool case_tiny_maps(void)
{
    struct machine m;
    bool good = machine_create(&m, &tiny_maps, 2) && run_pages(&m, 3);

    if (good && stat_of(&m, "fault_window_fill") < 3 * SPACES * PAGES)
        good = bad("windows were never emptied: %llu fills",
                   (unsigned long long)stat_of(&m, "fault_window_fill"));
    machine_destroy(&m);
    return good;
}

static bool case_pages(void)
{
    struct machine m;
    bool good = machine_create(&m, NULL, 3) && run_pages(&m, 20);

    machine_destroy(&m);
    return good;
}

static bool under_kicks(const struct novt_config *config, uint64_t seed, unsigned hz,
                        bool (*work)(struct machine *m))
{
    struct machine m;
    struct kicker k;

    if (!machine_create(&m, config, seed))
        return false;
    kicker_start(&k, &m, hz);
    bool good = work(&m);
    kicker_stop(&k);
    if (good && stat_of(&m, "kicks") < 10)
        good = bad("kicked %llu times only", (unsigned long long)stat_of(&m, "kicks"));
    machine_destroy(&m);
    return good;
}

static bool work_calls(struct machine *m)
{
    return run_calls(m, 5000, 2000, NULL);
}
static bool work_copies(struct machine *m)
{
    return run_copies(m, 1 << 20, 500);
}
static bool work_pages(struct machine *m)
{
    return run_pages(m, 30);
}

static bool case_kicks_calls(void)
{
    return under_kicks(NULL, 4, 10000, work_calls);
}
static bool case_kicks_copies(void)
{
    return under_kicks(NULL, 5, 10000, work_copies);
}
static bool case_kicks_pages(void)
{
    return under_kicks(NULL, 6, 10000, work_pages);
}
static bool case_kicks_tiny_cache(void)
{
    return under_kicks(&tiny_cache, 7, 2000, work_calls);
}
static bool case_kicks_no_chain(void)
{
    return under_kicks(&no_chain, 8, 5000, work_calls);
}

/* Every interrupt that was injected has been taken, or waits. */
static bool check_interrupts(struct machine *m, uint32_t injected)
{
    struct novt_events events;

    novt_vcpu_get_events(m->vcpu, &events);
    if (get32(m, COUNTER) + events.interrupt_injected != injected)
        return bad("%u interrupts injected, %u taken", injected, get32(m, COUNTER));
    return injected >= 100 || bad("%u interrupts injected only", injected);
}

static bool case_interrupts(void)
{
    struct machine m;
    struct kicker k;
    uint32_t injected = 0;

    if (!machine_create(&m, NULL, 9))
        return false;
    kicker_start(&k, &m, 10000);
    bool good = run_calls(&m, 5000, 2000, &injected);
    kicker_stop(&k);
    good = good && check_interrupts(&m, injected);
    machine_destroy(&m);
    return good;
}

static bool case_interrupts_handled(void)
{
    struct machine m;
    struct kicker k;
    struct handled h = {.machine = &m};

    if (!machine_create(&m, NULL, 10))
        return false;
    novt_vcpu_set_handler(m.vcpu, handle, &h, 0);
    kicker_start(&k, &m, 10000);
    bool good = run_calls(&m, 5000, 2000, &h.injected);
    kicker_stop(&k);
    good = good && check_interrupts(&m, h.injected);
    if (good && stat_of(&m, "exits_to_embedder") > h.calls / 2)
        good = bad("%u exits handled, but %llu not", h.calls,
                   (unsigned long long)stat_of(&m, "exits_to_embedder"));
    machine_destroy(&m);
    return good;
}

/* ---- several VMs at once ---- */

struct worker {
    pthread_t thread;
    uint64_t seed;
    bool good;
};

static void *work_many(void *arg)
{
    struct worker *w = arg;
    struct machine m;
    struct kicker k;

    w->good = machine_create(&m, &small_cache, w->seed);
    if (w->good) {
        kicker_start(&k, &m, 1000);
        w->good = run_calls(&m, 3000, 300, NULL) && run_copies(&m, 1 << 18, 100);
        kicker_stop(&k);
    }
    machine_destroy(&m);
    if (w->good && machine_create(&m, &tiny_maps, w->seed))
        w->good = run_pages(&m, 3);
    machine_destroy(&m);
    return NULL;
}

static bool case_many_vms(void)
{
    struct worker w[6];
    bool good = true;

    for (unsigned i = 0; i < 6; i++) {
        w[i].seed = 100 + i;
        pthread_create(&w[i].thread, NULL, work_many, &w[i]);
    }
    for (unsigned i = 0; i < 6; i++) {
        pthread_join(w[i].thread, NULL);
        good &= w[i].good;
    }
    return good;
}

/* A vCPU moves between threads from run to run. */
static void *run_once(void *arg)
{
    struct machine *m = arg;
    m->ready = novt_vcpu_run(m->vcpu) == NOVT_OK;
    return NULL;
}

static bool case_moves_between_threads(void)
{
    struct machine m;
    struct kicker k;
    uint32_t want;
    bool good = machine_create(&m, NULL, 10);

    want = good ? put_calls(&m, 2000, 3000, false) : 0;
    good = good && machine_start(&m, 0);
    kicker_start(&k, &m, 500);
    while (good) {
        const struct novt_run *run = novt_vcpu_run_area(m.vcpu);
        pthread_t thread;
        pthread_create(&thread, NULL, run_once, &m);
        pthread_join(thread, NULL);
        good =
            m.ready && (run->exit_reason == NOVT_EXIT_KICKED || run->exit_reason == NOVT_EXIT_IO);
        if (!good)
            bad("exit %u", run->exit_reason);
        if (run->exit_reason == NOVT_EXIT_IO)
            break;
    }
    kicker_stop(&k);
    if (good && machine_eax(&m) != want)
        good = bad("eax is %08x, should be %08x", machine_eax(&m), want);
    machine_destroy(&m);
    return good;
}

/* ---- made and destroyed again and again ---- */

static unsigned lines_in(const char *path)
{
    FILE *f = fopen(path, "r");
    unsigned n = 0;
    int c;

    while (f && (c = getc(f)) != EOF)
        n += c == '\n';
    if (f)
        fclose(f);
    return n;
}

static bool live_and_die(unsigned i)
{
    struct machine m;
    bool good = machine_create(&m, &tiny_cache, i) && run_calls(&m, 50, 2, NULL);

    machine_destroy(&m);
    return good;
}

static bool case_create_destroy(void)
{
    for (unsigned i = 0; i < 5; i++) {
        if (!live_and_die(i))
            return false;
    }
    unsigned maps = lines_in("/proc/self/maps");
    int fd = dup(0);
    close(fd);
    for (unsigned i = 0; i < 300; i++) {
        if (!live_and_die(i))
            return false;
    }
    unsigned now = lines_in("/proc/self/maps");
    int fd_now = dup(0);
    close(fd_now);
    if (now > maps + 20)
        return bad("%u mappings have become %u", maps, now);
    return fd_now == fd || bad("file descriptor %d is now %d", fd, fd_now);
}

/* ---- code that a device writes while the guest runs it ---- */

static void *run_patched(void *arg)
{
    struct machine *m = arg;
    m->ready = machine_run(m, NULL);
    return NULL;
}

/* PATCHED: mov $n, %eax; ret. The driver calls it, notes what it got, until it is 0. */
static bool case_written_code(void)
{
    struct machine m;
    pthread_t thread;
    bool good = machine_create(&m, NULL, 11);
    uint32_t *immediate, *seen;

    if (!good)
        return false;
    /* The immediate is aligned: mov is at PATCHED + 3. */
    emit32(EMIT(m.ram + PATCHED, "\x90\x90\x90\xb8"), 1);
    m.ram[PATCHED + 8] = 0xc3;
    immediate = (uint32_t *)(void *)(m.ram + PATCHED + 4);
    seen = (uint32_t *)(void *)(m.ram + SEEN);
    uint8_t *p = m.ram + DRIVER;
    *p++ = 0xe8; /* call */
    p = emit32(p, PATCHED - (DRIVER + 5));
    p = emit32(EMIT(p, "\xa3"), SEEN);               /* mov %eax, SEEN */
    p = EMIT(p, "\x85\xc0\x75\xf2\xe6\x10\xeb\xfe"); /* test; jnz DRIVER; out */
    good = machine_start(&m, 0);
    pthread_create(&thread, NULL, run_patched, &m);
    for (uint32_t n = 2; good && n < 2000; n++) {
        time_t start = time(NULL);
        __atomic_store_n(immediate, n, __ATOMIC_SEQ_CST);
        novt_vm_memory_written(m.vm, PATCHED + 4, 4);
        while (good && __atomic_load_n(seen, __ATOMIC_SEQ_CST) != n) {
            if (time(NULL) - start > 10)
                good = bad("the guest still runs %u, not %u", *seen, n);
        }
    }
    __atomic_store_n(immediate, 0, __ATOMIC_SEQ_CST);
    novt_vm_memory_written(m.vm, PATCHED + 4, 4);
    pthread_join(thread, NULL);
    good &= m.ready;
    machine_destroy(&m);
    return good;
}

/* ---- */

static const struct {
    const char *name, *holds;
    bool (*run)(void);
} cases[] = {
    {"tiny-cache", "more code than a 256 KiB code cache holds", case_tiny_cache},
    {"tiny-maps", "windows emptied all the time", case_tiny_maps},
    {"pages", "scattered pages in four address spaces", case_pages},
    {"kicks-calls", "10,000 kicks a second while functions are called", case_kicks_calls},
    {"kicks-copies", "10,000 kicks a second during repeated string instructions",
     case_kicks_copies},
    {"kicks-pages", "10,000 kicks a second while windows are filled", case_kicks_pages},
    {"kicks-tiny-cache", "kicks and flushes", case_kicks_tiny_cache},
    {"kicks-no-chain", "kicks without links", case_kicks_no_chain},
    {"interrupts", "every injected interrupt is taken once", case_interrupts},
    {"handled", "the same, kicks answered by a handler", case_interrupts_handled},
    {"many-vms", "six VMs in six threads", case_many_vms},
    {"threads", "a vCPU that moves between threads", case_moves_between_threads},
    {"create-destroy", "300 VMs one after the other leave nothing behind", case_create_destroy},
    {"written-code", "code that a device writes while it runs", case_written_code},
};

static bool wanted(const char *name, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], name))
            return true;
    }
    return argc == 1;
}

int main(int argc, char **argv)
{
    pthread_t watchdog;

    setvbuf(stdout, NULL, _IOLBF, 0);
    case_started = time(NULL);
    pthread_create(&watchdog, NULL, watch, NULL);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (!wanted(cases[i].name, argc, argv))
            continue;
        case_name = cases[i].name;
        case_started = time(NULL);
        bool good = cases[i].run();
        printf("%s stress: %s: %s\n", good ? "PASS" : "FAIL", cases[i].name, cases[i].holds);
        passed += good;
        failed += !good;
    }
    printf("%u passed, %u failed\n", passed, failed);
    return failed || !passed;
}
