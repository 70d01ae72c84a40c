/* cpu_oracle.h - the host CPU: what one instruction really does, in 32-bit and in 64-bit code.
 *
 * A 64-bit process may enter 32-bit code by a far call to the kernel's compatibility segment. Code,
 * stack and register images lie below 4 GiB; operands are at ORACLE_DATA and code at ORACLE_CODE,
 * the same linear addresses as the guest's scratch memory, so that addresses need no translation:
 *
 *      +0x0000  way into 32-bit code        +0x3000  state in     +0x5000  host's own state
 *      +0x1000  32-bit code                 +0x4000  state out    +0x8000  stack (top)
 *      +0x2000  64-bit code */
#ifndef NOVT_TESTS_UNIT_CPU_ORACLE_H
#define NOVT_TESTS_UNIT_CPU_ORACLE_H

#include <criterion/criterion.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#define ORACLE_CODE      0x100000u
#define ORACLE_DATA      0x40000u
#define ORACLE_DATA_SIZE 0x3000u
#define ORACLE_XSAVE     0xe7u
#define ORACLE_AREA_SIZE 2752u

/* Registers in ModRM order, flags, and an XSAVE image in standard format. */
struct oracle_state {
    uint64_t gpr[16];
    uint64_t flags;
    uint8_t area[ORACLE_AREA_SIZE] __attribute__((aligned(64)));
};

struct oracle {
    uint8_t *low, *data;
    struct oracle_state *in, *out;
};

struct oracle_code {
    uint8_t *p;
    bool wide; /* 64-bit code */
};
static inline void oracle_put(struct oracle_code *c, const char *bytes, unsigned len)
{
    memcpy(c->p, bytes, len);
    c->p += len;
}
static inline void oracle_put32(struct oracle_code *c, const void *address)
{
    uint32_t value = (uint32_t)(uintptr_t)address;
    memcpy(c->p, &value, 4);
    c->p += 4;
}
/* ModRM for an absolute address */
static inline void oracle_put_absolute(struct oracle_code *c, unsigned reg, const void *at)
{
    if (c->wide)
        oracle_put(c, (const char[]){(char)((reg & 7) << 3 | 4), 0x25}, 2);
    else
        *c->p++ = (uint8_t)(reg << 3 | 5);
    oracle_put32(c, at);
}
/* xsave or xrstor with all components: 0F AE /4 or /5 */
static inline void oracle_put_area(struct oracle_code *c, unsigned reg, const void *area)
{
    oracle_put(c, "\xb8\xe7\x00\x00\x00\x31\xd2", 7);
    oracle_put(c, c->wide ? "\x48\x0f\xae" : "\x0f\xae", c->wide ? 3 : 2);
    oracle_put_absolute(c, reg, area);
}
/* mov reg <-> memory, opcode 8B or 89 */
static inline void oracle_put_mov(struct oracle_code *c, unsigned opcode, unsigned reg,
                                  const void *at)
{
    if (c->wide)
        *c->p++ = (uint8_t)(0x48 | (reg >= 8 ? 4 : 0));
    *c->p++ = (uint8_t)opcode;
    oracle_put_absolute(c, reg, at);
}

static inline void oracle_create(struct oracle *o)
{
    o->low = mmap((void *)(uintptr_t)ORACLE_CODE, 0x10000, PROT_READ | PROT_WRITE | PROT_EXEC,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    cr_assert_eq((uintptr_t)o->low, ORACLE_CODE);
    o->data = mmap((void *)(uintptr_t)ORACLE_DATA, ORACLE_DATA_SIZE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    cr_assert_eq((uintptr_t)o->data, ORACLE_DATA);
    o->in = (struct oracle_state *)(o->low + 0x3000);
    o->out = (struct oracle_state *)(o->low + 0x4000);
    /* push %rbp, %rbx, %r12 to %r15; mov %rsp, low+0x7ff0; mov $0x2b, %eax; mov %eax, %ds, %es;
     * mov $low+0x7fe0, %esp; lcall *low+0x80; xor %eax, %eax; mov %eax, %ds, %es;
     * mov low+0x7ff0, %rsp; pop; ret */
    struct oracle_code c = {.p = o->low};
    oracle_put(&c, "\x55\x53\x41\x54\x41\x55\x41\x56\x41\x57\x48\x89\x24\x25", 14);
    oracle_put32(&c, o->low + 0x7ff0);
    oracle_put(&c, "\xb8\x2b\x00\x00\x00\x8e\xd8\x8e\xc0\xbc", 10);
    oracle_put32(&c, o->low + 0x7fe0);
    oracle_put(&c, "\xff\x1c\x25", 3);
    oracle_put32(&c, o->low + 0x80);
    oracle_put(&c, "\x31\xc0\x8e\xd8\x8e\xc0", 6);
    oracle_put(&c, "\x48\x8b\x24\x25", 4);
    oracle_put32(&c, o->low + 0x7ff0);
    oracle_put(&c, "\x41\x5f\x41\x5e\x41\x5d\x41\x5c\x5b\x5d\xc3", 11);
    uint32_t entry = (uint32_t)(uintptr_t)(o->low + 0x1000);
    memcpy(o->low + 0x80, &entry, 4);
    memcpy(o->low + 0x84, "\x23\x00", 2);
}

static inline void oracle_destroy(struct oracle *o)
{
    munmap(o->low, 0x10000);
    munmap(o->data, ORACLE_DATA_SIZE);
}

/* What loads *in, and what stores *out, with the instruction in between. */
static inline void oracle_load(struct oracle *o, struct oracle_code *c, const void *host_sp)
{
    unsigned count = c->wide ? 16 : 8;
    oracle_put_mov(c, 0x89, 4, host_sp);
    oracle_put_area(c, 4, o->low + 0x5000);
    oracle_put_area(c, 5, o->in->area);
    *c->p++ = 0xbc; /* mov $flags, %esp; popf */
    oracle_put32(c, &o->in->flags);
    *c->p++ = 0x9d;
    for (unsigned n = 0; n < count; n++)
        if (n != 4)
            oracle_put_mov(c, 0x8b, n, &o->in->gpr[n]);
    oracle_put_mov(c, 0x8b, 4, &o->in->gpr[4]);
}

static inline void oracle_store(struct oracle *o, struct oracle_code *c, const void *host_sp)
{
    unsigned count = c->wide ? 16 : 8;
    oracle_put_mov(c, 0x89, 4, &o->out->gpr[4]);
    for (unsigned n = 0; n < count; n++)
        if (n != 4)
            oracle_put_mov(c, 0x89, n, &o->out->gpr[n]);
    *c->p++ = 0xbc; /* mov $flags behind, %esp; pushf */
    oracle_put32(c, (uint8_t *)&o->out->flags + (c->wide ? 8 : 4));
    oracle_put(c, "\x9c\xfc", 2);
    oracle_put_mov(c, 0x8b, 4, host_sp);
    oracle_put_area(c, 4, o->out->area);
    oracle_put_area(c, 5, o->low + 0x5000);
}

/* Runs one instruction of 32-bit code from *in; the result is in *out. It must not fault or
 * branch. */
static inline void oracle_run(struct oracle *o, const uint8_t *insn, unsigned len)
{
    struct oracle_code c = {.p = o->low + 0x1000};
    oracle_load(o, &c, o->low + 0x7ff8);
    oracle_put(&c, (const char *)insn, len);
    oracle_store(o, &c, o->low + 0x7ff8);
    *c.p++ = 0xcb;
    ((void (*)(void))(uintptr_t)o->low)();
}

/* The same for 64-bit code, in two steps: where the instruction will lie, for what is relative to
 * rip (*in need not be filled in yet) ... */
static inline uint64_t oracle_place64(struct oracle *o)
{
    struct oracle_code c = {.p = o->low + 0x2000, .wide = true};
    oracle_put(&c, "\x55\x53\x41\x54\x41\x55\x41\x56\x41\x57", 10);
    oracle_load(o, &c, o->low + 0x7fe8);
    return (uintptr_t)c.p;
}

/* ... and running it. A branch must lead to the next instruction. */
static inline void oracle_run64(struct oracle *o, const uint8_t *insn, unsigned len)
{
    struct oracle_code c = {.p = (uint8_t *)oracle_place64(o), .wide = true};
    oracle_put(&c, (const char *)insn, len);
    oracle_store(o, &c, o->low + 0x7fe8);
    oracle_put(&c, "\x41\x5f\x41\x5e\x41\x5d\x41\x5c\x5b\x5d\xc3", 11);
    ((void (*)(void))(uintptr_t)(o->low + 0x2000))();
}

/* Registers of one state component of two XSAVE images: len bytes at offset at, which count as zero
 * where the component is in its initial state. */
static inline bool oracle_same_component(const uint8_t *guest, const uint8_t *host, unsigned number,
                                         unsigned at, unsigned len)
{
    static const uint8_t zero[1024];
    const uint8_t *a = guest[512] >> number & 1 ? guest + at : zero;
    const uint8_t *b = host[512] >> number & 1 ? host + at : zero;
    return !memcmp(a, b, len);
}

#endif
