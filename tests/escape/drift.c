/* drift.c - a stack pointer that is only added to, without any access, meets no host memory.
 *
 * 64-bit code holds the host's address of the guest's stack in rsp, so additions move a host
 * address. A guest loops over one until rsp is STEPS times 256 MiB further and then pops:
 *
 *     pop %rax; push %rax; mov %rsp, %rdx; mov $STEPS, %ebx; mov $2, %esi
 *     1: add $256M, %rsp; dec %rcx; jnz 1b
 *     sub $16, %rsp; pop %rax; out %al, $80h
 *     mov %rdx, %rsp; mov %rbx, %rcx; dec %esi; jnz 1b
 *
 * The first time to a page that it has, so that all of it is translated. While it waits for OUT, a
 * page of the host's is put where the second time would end, if nothing prevented it. Also with SUB
 * and LEA, and with a jump between addition and POP. */
#include "tests/escape/escape.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define TIB    (1ull << 40)
#define STEP   (256ull << 20)
#define STEPS  64 /* 16 GiB: four windows further */
#define MAPPED 12 /* to 3 GiB, where the guest has the same pages once more */
#define STACK  (DATA + 0x1800)
#define SECRET 0x5ec2e7705ec2e770ull

static const struct variant {
    const char *name, *code;
    unsigned len;
} variants[] = {
    {"ADD", "\x48\x81\xc4\x00\x00\x00\x10", 7},
    {"SUB", "\x48\x81\xec\x00\x00\x00\xf0", 7},
    {"LEA", "\x48\x8d\xa4\x24\x00\x00\x00\x10", 8},
    {"LEA behind the last branch", "\x48\x8d\xa4\x24\x00\x00\x00\x10\xeb\x00", 10},
};

static unsigned put(uint8_t *code, const char *bytes, unsigned n)
{
    memcpy(code, bytes, n);
    return n;
}

static unsigned write_program(uint8_t *code, const struct variant *v)
{
    unsigned at = put(code, "\x58\x50\x48\x89\xe2\xbb\x40\x00\x00\x00\xbe\x02\x00\x00\x00", 15);
    unsigned loop = at;

    _Static_assert(STEPS == 0x40, "the constant in the code above");
    at += put(code + at, v->code, v->len);
    at += put(code + at, "\x48\xff\xc9\x75", 4);
    code[at] = (uint8_t)(loop - at - 1);
    at++;
    at += put(code + at, "\x48\x83\xec\x10\x58\xe6\x80\x48\x89\xd4\x48\x89\xd9\xff\xce\x75", 16);
    code[at] = (uint8_t)(loop - at - 1);
    at++;
    at += put(code + at, "\xf4", 1);
    return at;
}

/* The host's address of guest page DATA + 1000h in the window of the lowest 4 GiB, or 0. */
static uint64_t window_page(void)
{
    char line[512];
    uint64_t found = 0;
    FILE *f = fopen("/proc/self/maps", "re");

    while (f && fgets(line, sizeof(line), f)) {
        unsigned long long start, end, offset;
        if (sscanf(line, "%llx-%llx %*s %llx", &start, &end, &offset) != 3 ||
            !strstr(line, "escape-ram") || start < 31 * TIB || start >= 125 * TIB)
            continue;
        uint64_t at = start + (DATA + 0x1000) - offset;
        if (at >= start && at < end && (at & 0xffffffff) == DATA + 0x1000)
            found = at;
    }
    if (f)
        fclose(f);
    return found;
}

static bool prepare(struct machine *m, const struct variant *v)
{
    struct novt_regs r;

    if (!machine_prepare(m, MODE_LONG, true, CODE))
        return false;
    write_program(m->ram + CODE, v);
    novt_vm_memory_written(m->vm, 0, RAM_SIZE);
    novt_vcpu_get_regs(m->vcpu, &r);
    r.rflags = 0x3202; /* IOPL 3, for OUT */
    r.gpr[NOVT_RCX] = MAPPED;
    r.gpr[NOVT_RSP] = STACK;
    novt_vcpu_set_regs(m->vcpu, &r);
    return true;
}

static bool runs_until(struct machine *m, uint32_t reason)
{
    do {
        if (novt_vcpu_run(m->vcpu) != NOVT_OK)
            return false;
    } while (m->run->exit_reason == NOVT_EXIT_KICKED);
    return m->run->exit_reason == reason;
}

/* The second time: POP must have been a page fault of the guest's. */
static const char *second_time(struct machine *m, const uint64_t *page)
{
    struct novt_regs r;
    struct novt_sregs s;

    bool halted = runs_until(m, NOVT_EXIT_HLT);
    novt_vcpu_get_regs(m->vcpu, &r);
    novt_vcpu_get_sregs(m->vcpu, &s);
    if (r.gpr[NOVT_RAX] == SECRET)
        return "POP has loaded host memory";
    if (!halted)
        return "POP far away is not a page fault";
    if (s.cr2 != STACK + STEPS * STEP - 16)
        return "the page fault names another address";
    return page[0] == SECRET && page[511] == SECRET ? NULL : "host memory was written";
}

static const char *try_variant(struct machine *m, const struct variant *v)
{
    if (!prepare(m, v) || !runs_until(m, NOVT_EXIT_IO))
        return "the program does not run";
    uint64_t at = window_page();
    uint64_t *page = mmap((void *)(at + STEPS * STEP), 4096, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (!at || page == MAP_FAILED)
        return "no page where the stack would drift to";
    for (unsigned i = 0; i < 512; i++)
        page[i] = SECRET;
    const char *why = second_time(m, page);
    munmap(page, 4096);
    return why;
}

unsigned drift_test(struct machine *m)
{
    unsigned failed = 0;

    for (unsigned i = 0; i < sizeof(variants) / sizeof(variants[0]); i++) {
        const char *why;
        m->experiment++;
        why = try_variant(m, &variants[i]);
        printf("%s escape: rsp moved by %s meets no host memory%s%s\n", why ? "FAIL" : "PASS",
               variants[i].name, why ? ": " : "", why ? why : "");
        failed += why != NULL;
    }
    return failed;
}
