/* xsave.c - the XSAVE family does in a guest, byte for byte, what it does natively.
 *
 * SDM 1-13. A case loads a state by XRSTOR, in which some components are in their initial state,
 * executes one instruction with some requested-feature bitmap (RFBM), and after an XRSTOR or
 * FXRSTOR saves everything. The guest's area has to equal the one of the same case run natively;
 * where that faults the guest has to fault. Areas are filled with a pattern before, so what is left
 * alone is compared too.
 *
 *   for each XCR0 that a guest may have (x87; SSE; AVX; AVX-512; as far as the host goes)
 *     for each set of components that are not in their initial state
 *       for each RFBM: all subsets of XCR0, and one with bits that are not in it
 *         for each instruction, with and without REX.W; XRSTOR of both formats
 *     and images whose header or MXCSR XRSTOR has to refuse
 *
 * All in translated code, and again in the slow path.
 *
 *   guest memory: 0 tables  CODE  START the state  AREA where it is saved  IMAGE of XRSTOR
 *
 * Built without vector instructions: the native side has the registers for itself. */
#include "tests/machine.h"

#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TABLES   0x1000u
#define IDT      0x5000u
#define GDT      0x6000u
#define STUBS    0x7000u
#define CODE     0x8000u
#define STACK    0xa000u
#define START    0x10000u
#define AREA     0x14000u
#define IMAGE    0x18000u
#define RAM_SIZE 0x20000u
#define SIZE     0x1000u /* of an area: the standard format up to AVX-512 has 2,688 bytes */

#define PORT_DONE  0x10u
#define PORT_FAULT 0x20u
#define ALL        0xe7ull

enum { FAULT = 1 }; /* of a case */

struct op {
    const char *name;
    uint8_t bytes[5]; /* operand (%rsi) */
    unsigned len;
    bool restores, compact;
};

static const struct op ops[] = {
    {"xsave", {0x0f, 0xae, 0x26}, 3, false, false},
    {"xsave64", {0x48, 0x0f, 0xae, 0x26}, 4, false, false},
    {"xsaveopt", {0x0f, 0xae, 0x36}, 3, false, false},
    {"xsaveopt64", {0x48, 0x0f, 0xae, 0x36}, 4, false, false},
    {"xsavec", {0x0f, 0xc7, 0x26}, 3, false, false},
    {"xsavec64", {0x48, 0x0f, 0xc7, 0x26}, 4, false, false},
    {"fxsave", {0x0f, 0xae, 0x06}, 3, false, false},
    {"fxsave64", {0x48, 0x0f, 0xae, 0x06}, 4, false, false},
    {"xrstor", {0x0f, 0xae, 0x2e}, 3, true, false},
    {"xrstor64", {0x48, 0x0f, 0xae, 0x2e}, 4, true, false},
    {"xrstor, compacted", {0x0f, 0xae, 0x2e}, 3, true, true},
    {"xrstor64, compacted", {0x48, 0x0f, 0xae, 0x2e}, 4, true, true},
    {"fxrstor", {0x0f, 0xae, 0x0e}, 3, true, false},
    {"fxrstor64", {0x48, 0x0f, 0xae, 0x0e}, 4, true, false},
};
#define OPS (sizeof(ops) / sizeof(ops[0]))

/* What one case does: the guest's RAM at START, AREA and IMAGE, and these. */
struct job {
    unsigned op;
    uint64_t xcr0, rfbm;
};

static struct test_machine m;
static uint32_t entry[OPS];
static uint8_t *native_ram; /* the same, for the native side */
static uint8_t *native_code;
static unsigned passed, failed;
static unsigned long compared, faulted;

__attribute__((noreturn)) static void die(const char *what)
{
    printf("xsave: %s: %s\n", what, m.vm ? novt_vm_error(m.vm) : "");
    exit(2);
}

static void put64(uint32_t at, uint64_t value)
{
    memcpy(m.ram + at, &value, 8);
}

/* ---- code: rdi START, rsi the operand, rbx AREA, ebp the RFBM of the first XRSTOR ---- */

static uint8_t *emit(uint8_t *p, const void *bytes, size_t n)
{
    memcpy(p, bytes, n);
    return p + n;
}

/* mov %ebp, %eax; xor %edx, %edx; xrstor64 (%rdi); mov %ecx, %eax; mov %r8d, %edx; OP; after a
 * restore mov %ebp, %eax; xor %edx, %edx; xsave64 (%rbx) */
static uint8_t *emit_case(uint8_t *p, const struct op *op)
{
    p = emit(p, "\x89\xe8\x31\xd2\x48\x0f\xae\x2f\x89\xc8\x44\x89\xc2", 13);
    p = emit(p, op->bytes, op->len);
    if (op->restores)
        p = emit(p, "\x89\xe8\x31\xd2\x48\x0f\xae\x23", 8);
    return p;
}

/* ---- natively ---- */

static uint8_t own_state[16384] __attribute__((aligned(64)));
static uint8_t initial[16384] __attribute__((aligned(64))); /* header zero: everything initial */
static sigjmp_buf fault_exit;

static void on_fault(int number)
{
    (void)number;
    siglongjmp(fault_exit, 1);
}

static uint64_t host_xcr0(void)
{
    uint32_t lo, hi;
    __asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return ((uint64_t)hi << 32 | lo) & ALL;
}

static void native_put(void)
{
    uint8_t *p;
    size_t at = 0;

    for (unsigned i = 0; i < OPS; i++) {
        p = native_code + at;
        p = emit_case(p, &ops[i]);
        *p++ = 0xc3;
        at += 64;
    }
}

static void own_save(void)
{
    __asm__ volatile("xsave64 %0" : "=m"(own_state) : "a"((uint32_t)ALL), "d"(0) : "memory");
}

static void own_restore(void)
{
    __asm__ volatile("xrstor64 %0" ::"m"(own_state), "a"((uint32_t)ALL), "d"(0) : "memory");
}

/* 0, or FAULT. */
static int run_natively(const struct job *job)
{
    /* The state outside the guest's XCR0 is initial, and nobody touches it. */
    uint64_t rfbm = job->rfbm & job->xcr0;
    const uint8_t *code = native_code + job->op * 64;
    volatile int result = 0;

    own_save();
    if (sigsetjmp(fault_exit, 1)) {
        result = FAULT;
    } else {
        register uint64_t r8 __asm__("r8") = 0;
        uint64_t rfbm_start = job->xcr0;
        __asm__ volatile("xrstor64 %0" ::"m"(initial), "a"((uint32_t)ALL), "d"(0) : "memory");
        __asm__ volatile("push %%rbp; mov %[start], %%rbp; call *%[code]; pop %%rbp"
                         : "+r"(r8)
                         : [code] "r"(code), [start] "r"(rfbm_start), "D"(native_ram + START),
                           "S"(native_ram + (ops[job->op].restores ? IMAGE : AREA)),
                           "b"(native_ram + AREA), "c"(rfbm)
                         : "rax", "rdx", "memory", "cc");
    }
    own_restore();
    return result;
}

/* ---- in the guest ---- */

static void build_guest(void)
{
    uint8_t *p = m.ram + CODE;

    put64(TABLES, (TABLES + 0x1000) | 3);
    put64(TABLES + 0x1000, (TABLES + 0x2000) | 3);
    put64(TABLES + 0x2000, 0x83);
    put64(GDT + 8, 0x00af9b000000ffff);
    put64(GDT + 16, 0x00cf93000000ffff);
    for (uint32_t vector = 0; vector < 32; vector++) { /* out %al, $port; hlt */
        uint32_t at = STUBS + vector * 16;
        emit(m.ram + at, (uint8_t[]){0xe6, (uint8_t)(PORT_FAULT + vector), 0xf4}, 3);
        put64(IDT + vector * 16, (at & 0xffff) | 8u << 16 | 0x8eull << 40);
    }
    for (unsigned i = 0; i < OPS; i++) {
        entry[i] = (uint32_t)(p - m.ram);
        p = emit_case(p, &ops[i]);
        p = emit(p, "\xe6\x10\xf4", 3);
    }
}

static void set_mode(uint64_t xcr0)
{
    const struct novt_segment data = {0, 0xffffffff, 0xc093, 16};
    struct novt_sregs s;

    novt_vcpu_get_sregs(m.vcpu, &s);
    for (unsigned i = 0; i < 6; i++)
        s.seg[i] = data;
    s.seg[NOVT_CS] = (struct novt_segment){0, 0xffffffff, 0xa09b, 8};
    s.gdt = (struct novt_dtable){GDT, 23};
    s.idt = (struct novt_dtable){IDT, 0x1ff};
    s.cr0 = 0x80010033;
    s.cr3 = TABLES;
    s.cr4 = 0x40620; /* OSXSAVE OSXMMEXCPT OSFXSR PAE */
    s.efer = 0x500;
    s.xcr0 = xcr0;
    if (novt_vcpu_set_sregs(m.vcpu, &s))
        die("setting the mode");
}

static int run_in_guest(const struct job *job)
{
    struct novt_regs r = {.rip = entry[job->op], .rflags = 2};
    const struct novt_run *run = m.run;

    r.gpr[NOVT_RSP] = STACK;
    r.gpr[NOVT_RDI] = START;
    r.gpr[NOVT_RSI] = ops[job->op].restores ? IMAGE : AREA;
    r.gpr[NOVT_RBX] = AREA;
    r.gpr[NOVT_RBP] = (uint32_t)~0u;
    r.gpr[NOVT_RCX] = (uint32_t)job->rfbm;
    r.gpr[8] = job->rfbm >> 32;
    novt_vcpu_set_events(m.vcpu, &(struct novt_events){0});
    if (novt_vcpu_set_xsave(m.vcpu, initial, sizeof(initial)) || novt_vcpu_set_regs(m.vcpu, &r) ||
        novt_vcpu_run(m.vcpu) != NOVT_OK)
        die("running");
    while (run->exit_reason == NOVT_EXIT_KICKED)
        novt_vcpu_run(m.vcpu);
    if (run->exit_reason != NOVT_EXIT_IO)
        die("an exit that should not be");
    if (run->io.port == PORT_DONE)
        return 0;
    if (run->io.port != PORT_FAULT + 13)
        die("another exception than #GP");
    return FAULT;
}

/* ---- images ---- */

static uint64_t seed = 1;

static uint8_t next_byte(void)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (uint8_t)(seed >> 56);
}

static void fill(uint8_t *p, uint8_t with)
{
    memset(p, with, SIZE);
}

/* A state whose components in bv hold random values; the others are initial. Standard format. */
static void make_state(uint8_t *p, uint64_t bv)
{
    for (unsigned i = 0; i < SIZE; i++)
        p[i] = next_byte();
    memcpy(p, "\x7f\x03", 2);
    p[2] = p[3] = 0; /* no pending exception */
    p[5] = 0;
    memset(p + 14, 0, 2);  /* addresses are canonical, */
    memset(p + 22, 0, 10); /* MXCSR masks everything */
    p[24] = 0x80;
    p[25] = 0x1f;
    memset(p + 512, 0, 64);
    memcpy(p + 512, &bv, 8);
}

/* Both sides get what is in the native side's memory at START and IMAGE. */
static void share(void)
{
    memcpy(m.ram + START, native_ram + START, SIZE);
    memcpy(m.ram + IMAGE, native_ram + IMAGE, SIZE);
    fill(m.ram + AREA, 0xa5);
    fill(native_ram + AREA, 0xa5);
    memset(m.ram + AREA + 512, 0, 64); /* XSAVE keeps what it does not write of the header */
    memset(native_ram + AREA + 512, 0, 64);
}

/* In the compacted format, by the CPU itself. */
static void make_compact(uint64_t state, uint64_t format)
{
    static uint8_t plain[SIZE] __attribute__((aligned(64)));

    make_state(plain, state);
    memset(native_ram + IMAGE, 0, SIZE);
    own_save();
    __asm__ volatile("xrstor64 %[from]; mov %[format], %%eax; xsavec64 %[to]"
                     : [to] "=m"(*(uint8_t(*)[SIZE])(native_ram + IMAGE))
                     : [from] "m"(plain), [format] "r"((uint32_t)format),
                       "a"((uint32_t)host_xcr0()), "d"(0)
                     : "memory");
    own_restore();
}

/* ---- comparing ---- */

static void report(const struct job *job, int want, int got)
{
    if (failed++ > 10)
        return;
    printf("FAIL xsave: %s: XCR0 %llx, RFBM %llx, state %llx", ops[job->op].name,
           (unsigned long long)job->xcr0, (unsigned long long)job->rfbm,
           (unsigned long long)native_ram[START + 512]);
    if (want != got)
        printf(": %s natively, %s in the guest", want ? "faults" : "ends", got ? "faults" : "ends");
    for (unsigned i = 0, n = 0; want == got && i < SIZE && n < 8; i++) {
        if (native_ram[AREA + i] != m.ram[AREA + i]) {
            printf(" [%u] %02x, should be %02x", i, m.ram[AREA + i], native_ram[AREA + i]);
            n++;
        }
    }
    printf("\n");
}

/* Which components count as in use may change when the host's kernel switches threads in between:
 * then another try shows the same. */
static void check(const struct job *job)
{
    int want = 0, got = 0;

    for (unsigned attempt = 0; attempt < 3; attempt++) {
        share();
        want = run_natively(job);
        got = run_in_guest(job);
        if (want == got && (want == FAULT || !memcmp(m.ram + AREA, native_ram + AREA, SIZE)))
            break;
        if (attempt == 2)
            report(job, want, got);
    }
    compared++;
    faulted += want == FAULT;
}

/* The n-th subset of the bits of mask. */
static uint64_t subset(uint64_t mask, unsigned n)
{
    uint64_t result = 0;

    for (unsigned bit = 0; bit < 64; bit++) {
        if (!(mask >> bit & 1))
            continue;
        if (n & 1)
            result |= 1ull << bit;
        n >>= 1;
    }
    return result;
}

static unsigned subsets(uint64_t mask)
{
    return 1u << __builtin_popcountll(mask);
}

static void check_ops(uint64_t xcr0, uint64_t state, uint64_t rfbm)
{
    for (unsigned op = 0; op < OPS; op++) {
        const struct job job = {op, xcr0, rfbm};
        make_state(native_ram + START, state);
        if (ops[op].compact)
            make_compact(subset(xcr0, next_byte()), subset(xcr0, next_byte()));
        else
            make_state(native_ram + IMAGE, subset(xcr0, next_byte()));
        check(&job);
    }
}

/* Headers and an MXCSR that are refused, or nearly so. */
static void check_bad(uint64_t xcr0, unsigned n)
{
    static const struct {
        uint16_t at;
        uint8_t byte;
    } bad[] = {{512, 0x10}, /* XSTATE_BV: a component that there is not */
               {513, 0x10}, {516, 1},    {519, 0x40}, {519, 0x80}, /* the same, higher up */
               {520, 0x02},                                        /* XCOMP_BV without bit 63, */
               {520, 0x10}, /* with a component that there is not, */
               {527, 0x80}, /* with bit 63 */
               {528, 1},    {535, 0x80}, {536, 1},    {575, 0x80}, /* the header's reserved rest */
               {26, 1},     {27, 0x80}};                           /* MXCSR's reserved bits */
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        for (unsigned op = 0; op < OPS; op++) {
            const struct job job = {op, xcr0, subset(xcr0, n)};
            if (!ops[op].restores)
                continue;
            make_state(native_ram + START, xcr0);
            if (ops[op].compact)
                make_compact(xcr0, subset(xcr0, n * 5 + 3));
            else
                make_state(native_ram + IMAGE, subset(xcr0, n * 3));
            native_ram[IMAGE + bad[i].at] ^= bad[i].byte;
            check(&job);
        }
    }
}

static void check_xcr0(uint64_t xcr0)
{
    set_mode(xcr0);
    for (unsigned state = 0; state < subsets(xcr0); state++) {
        for (unsigned n = 0; n < subsets(xcr0); n++)
            check_ops(xcr0, subset(xcr0, state), subset(xcr0, n));
        check_ops(xcr0, subset(xcr0, state), ~0ull);
    }
    for (unsigned n = 0; xcr0 == host_xcr0() && n < subsets(xcr0); n++)
        check_bad(xcr0, n);
}

static void create(uint64_t flags)
{
    const struct novt_config config = {
        .size = sizeof(config), .flags = flags, .code_cache_size = 1 << 20};
    const char *why = test_machine_create(&m, &config, RAM_SIZE);

    if (why)
        die(why);
    build_guest();
}

static void run_engine(const char *name, uint64_t flags)
{
    static const uint64_t all[] = {1, 3, 7, 0xe7};
    unsigned before = failed;

    create(flags);
    compared = faulted = 0;
    for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        if (!(all[i] & ~host_xcr0()))
            check_xcr0(all[i]);
    }
    test_machine_destroy(&m);
    printf("%s xsave: %s: %lu cases as on the host, %lu of them faults\n",
           failed == before ? "PASS" : "FAIL", name, compared, faulted);
    passed += failed == before;
}

int main(void)
{
    struct sigaction action = {.sa_handler = on_fault, .sa_flags = SA_NODEFER};

    setvbuf(stdout, NULL, _IOLBF, 0);
    memcpy(initial + 24, "\x80\x1f", 2);
    native_ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    native_code = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (native_ram == MAP_FAILED || native_code == MAP_FAILED)
        die("mmap");
    native_put();
    if (mprotect(native_code, 4096, PROT_READ | PROT_EXEC))
        die("mprotect");
    sigaction(SIGSEGV, &action, NULL); /* novt's handler passes on what is not its own */
    run_engine("translated code", 0);
    run_engine("slow path", NOVT_F_INTERPRET);
    printf("%u passed, %u failed\n", passed, failed);
    return failed || !passed;
}
