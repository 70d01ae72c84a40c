/* generate.c - hostile code, registers and tables; see escape.h.
 *
 * Everything follows from the machine's seed and the experiment's number. The forms are counted
 * through (opcode, ModRM, SIB); the rest is drawn at random from values near which addresses break:
 * ends of pages, of RAM, of windows, of the canonical halves. */
#include "tests/escape/escape.h"

#include <string.h>

uint64_t next_random(uint64_t *seed)
{
    uint64_t z = *seed += 0x9e3779b97f4a7c15ull; /* splitmix64 */

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

const char *kind_name(enum kind kind)
{
    static const char *const names[] = {"bytes",    "forms",  "branches", "prefixes",
                                        "crossing", "tables", "system"};
    return names[kind];
}

static uint32_t below(struct machine *m, uint32_t n)
{
    return (uint32_t)(next_random(&m->seed) >> 33) % n;
}

static const uint64_t edges[] = {
    0,
    1,
    DATA,
    DATA + 0xfff,
    DATA + 0x1000,
    CODE,
    CODE + 1,
    CODE + 0xfff,
    TABLES,
    GDT,
    RAM_SIZE / 2,
    RAM_SIZE,
    0xfffff,
    0x100000,
    0x3fffffff,
    0x40000000,
    0x7fffffff,
    0x80000000,
    0xfee00000,
    0xfffff000,
    0xffffffff,
    0x100000000,
    0x1ffffffff,
    0x7fffffffff,
    0x8000000000,
    0x1f0100000000, /* the windows' own addresses */
    0x1f0000000000,
    0x29ffffffffff,
    0x00007fffffffffff,
    0x0000800000000000,
    0x00007ffffffff000,
    0xffff7fffffffffff,
    0xffff800000000000,
    0xfffffffffffff000,
    0xffffffffffffffff,
    0xffffffff80000000,
    0x7fffffffffffffff,
    0x8000000000000000,
};

static uint64_t edge(struct machine *m)
{
    uint64_t v = edges[below(m, sizeof(edges) / sizeof(edges[0]))];

    switch (below(m, 4)) {
    case 0:
        return v;
    case 1:
        return v + below(m, 65) - 32;
    case 2:
        return DATA + below(m, 0x2000);
    default:
        return below(m, 16) ? v - (1ull << below(m, 40)) : next_random(&m->seed);
    }
}

/* --- Writing code ------------------------------------------------------------------------------*/

struct code {
    struct machine *m;
    uint32_t at; /* guest address */
};

static void byte(struct code *c, unsigned b)
{
    c->m->ram[c->at++ % RAM_SIZE] = (uint8_t)b;
}

static void value(struct code *c, uint64_t v, unsigned size)
{
    for (unsigned i = 0; i < size; i++)
        byte(c, (uint8_t)(v >> (8 * i)));
}

static void random_bytes(struct code *c, unsigned n)
{
    while (n--)
        byte(c, (uint8_t)below(c->m, 256));
}

struct opcode {
    uint8_t length, bytes[6];
    int8_t modrm;    /* -1: none; otherwise how many values of the reg field make sense */
    uint8_t operand; /* bytes of immediate */
};
#define OP(s, modrm, operand)            \
    {                                    \
        sizeof(s) - 1, s, modrm, operand \
    }

static const struct opcode forms[] = {
    OP("\x8b", 8, 0),
    OP("\x89", 8, 0),
    OP("\x8a", 8, 0),
    OP("\x88", 8, 0),
    OP("\x01", 8, 0),
    OP("\x13", 8, 0),
    OP("\xf0\x01", 8, 0),
    OP("\x0f\xb6", 8, 0),
    OP("\x0f\xbf", 8, 0),
    OP("\xc7", 1, 4),
    OP("\xc6", 8, 1),
    OP("\x80", 8, 1),
    OP("\x81", 8, 4),
    OP("\x83", 8, 1),
    OP("\xff", 8, 0),
    OP("\xfe", 8, 0),
    OP("\x8f", 8, 0),
    OP("\x8d", 8, 0),
    OP("\x87", 8, 0),
    OP("\x0f\xb1", 8, 0),
    OP("\xf0\x0f\xc1", 8, 0),
    OP("\x0f\xc7", 8, 0),
    OP("\x0f\xa3", 8, 0),
    OP("\x0f\xab", 8, 0),
    OP("\x0f\xba", 8, 1),
    OP("\x0f\x10", 8, 0),
    OP("\x0f\x11", 8, 0),
    OP("\x0f\x28", 8, 0),
    OP("\x66\x0f\x7f", 8, 0),
    OP("\xf2\x0f\x11", 8, 0),
    OP("\xd8", 8, 0),
    OP("\xd9", 8, 0),
    OP("\xdb", 8, 0),
    OP("\xdd", 8, 0),
    OP("\xdf", 8, 0),
    OP("\x0f\xae", 8, 0),
    OP("\x0f\x6f", 8, 0),
    OP("\xd0", 8, 0),
    OP("\xd3", 8, 0),
    OP("\xf6", 8, 1),
    OP("\xf7", 8, 4),
    OP("\x69", 8, 4),
    OP("\x62", 8, 3),
    OP("\x63", 8, 0),
    OP("\x8c", 8, 0),
    OP("\x8e", 8, 0),
    OP("\xc4", 8, 0),
    OP("\xc5", 8, 0),
    OP("\x0f\x00", 8, 0),
    OP("\x0f\x01", 8, 0),
    OP("\x0f\x02", 8, 0),
    OP("\x0f\xb2", 8, 0),
    OP("\x0f\xb4", 8, 0),
    OP("\x0f\x38\xf0", 8, 0),
    OP("\x0f\x18", 8, 0),
    OP("\x0f\xc3", 8, 0),
    OP("\x0f\x1f", 8, 0),
    OP("\x66\x0f\xf7", 8, 0),
    OP("\x0f\x0d", 8, 0),
    OP("\xc4\xe2\x79\x18", 8, 0),
    OP("\xc4\xe2\x69\x90", 8, 0), /* gathers */
    OP("\xc4\xe2\xe9\x91", 8, 0),
    OP("\xc4\xe2\x69\x8e", 8, 0),
    OP("\xc4\xe2\x69\x8c", 8, 0),
    OP("\xc5\xfc\x10", 8, 0),
    OP("\xc5\xfc\x11", 8, 0),
    OP("\xc4\xe2\x78\xf2", 8, 0),
    OP("\x62\xf1\x7c\x48\x10", 8, 0),
    OP("\x62\xf1\x7c\x48\x11", 8, 0),
    OP("\x62\xf2\x7d\x49\x90", 8, 0),
    OP("\x62\xf2\x7d\x49\xa0", 8, 0), /* gather, scatter */
    OP("\xa4", -1, 0),
    OP("\xf3\xa4", -1, 0),
    OP("\xf3\xa5", -1, 0),
    OP("\xf3\xab", -1, 0),
    OP("\xf2\xae", -1, 0),
    OP("\xf3\xa6", -1, 0),
    OP("\xac", -1, 0),
    OP("\x6c", -1, 0),
    OP("\x6f", -1, 0),
    OP("\xf3\x6d", -1, 0),
    OP("\xf3\x6f", -1, 0),
    OP("\xd7", -1, 0),
    OP("\xa1", -1, 8),
    OP("\xa2", -1, 8),
    OP("\xc8", -1, 3),
    OP("\xc9", -1, 0),
    OP("\x60", -1, 0),
    OP("\x61", -1, 0),
    OP("\x50", -1, 0),
    OP("\x5c", -1, 0),
    OP("\x9c", -1, 0),
    OP("\x9d", -1, 0),
    OP("\xcf", -1, 0),
    OP("\xcb", -1, 0),
    OP("\x0f\xa1", -1, 0),
    OP("\x1f", -1, 0),
    OP("\x6a", -1, 1),
};
#define FORMS (sizeof(forms) / sizeof(forms[0]))

static const struct opcode systems[] = {
    OP("\x0f\x20", 8, 0),
    OP("\x0f\x21", 8, 0),
    OP("\x0f\x22", 8, 0),
    OP("\x0f\x23", 8, 0),
    OP("\x0f\x01", 8, 0),
    OP("\x0f\x00", 8, 0),
    OP("\x0f\x30", -1, 0),
    OP("\x0f\x32", -1, 0),
    OP("\x0f\xa2", -1, 0),
    OP("\x0f\x01\xd1", -1, 0),
    OP("\x0f\x01\xd0", -1, 0),
    OP("\x0f\x01\xf8", -1, 0),
    OP("\x0f\x01\xf9", -1, 0),
    OP("\x0f\x01\xee", -1, 0),
    OP("\x0f\x01\xef", -1, 0),
    OP("\x0f\x01\xca", -1, 0),
    OP("\x0f\x01\xcb", -1, 0),
    OP("\x0f\x01\xc1", -1, 0),
    OP("\x0f\x01\xc8", -1, 0),
    OP("\x0f\x01\xd8", -1, 0),
    OP("\x0f\x01\xdf", -1, 0),
    OP("\x0f\x05", -1, 0),
    OP("\x0f\x07", -1, 0),
    OP("\x48\x0f\x07", -1, 0),
    OP("\x0f\x34", -1, 0),
    OP("\x0f\x35", -1, 0),
    OP("\xcd\x80", -1, 0),
    OP("\xcd", -1, 1),
    OP("\xcc", -1, 0),
    OP("\xce", -1, 0),
    OP("\xf1", -1, 0),
    OP("\xcf", -1, 0),
    OP("\x48\xcf", -1, 0),
    OP("\x0f\x06", -1, 0),
    OP("\x0f\x08", -1, 0),
    OP("\x0f\x09", -1, 0),
    OP("\x0f\x31", -1, 0),
    OP("\x0f\x33", -1, 0),
    OP("\x0f\x37", -1, 0),
    OP("\x0f\x0b", -1, 0),
    OP("\x0f\xaa", -1, 0),
    OP("\xc7\xf8", -1, 4),
    OP("\x66\x0f\x38\x82", 8, 0),
    OP("\xf3\x0f\xae", 8, 0),
    OP("\xf3\x0f\xc7", 8, 0),
    OP("\xfa", -1, 0),
    OP("\xfb", -1, 0),
    OP("\x9d", -1, 0),
    OP("\xe4", -1, 1),
    OP("\xe7", -1, 1),
    OP("\xec", -1, 0),
    OP("\xef", -1, 0),
    OP("\x8e", 8, 0),
    OP("\x0f\xb5", 8, 0),
    OP("\x0f\x03", 8, 0),
    OP("\xea", -1, 6),
    OP("\x9a", -1, 6),
    OP("\xff", 8, 0),
    OP("\xcb", -1, 0),
    OP("\xf3\x0f\x01\xe8", -1, 0),
};
#define SYSTEMS (sizeof(systems) / sizeof(systems[0]))

/* ModRM and what follows; pick counts through the memory forms. */
static void operand(struct code *c, const struct opcode *op, uint64_t pick)
{
    struct machine *m = c->m;
    unsigned form = (unsigned)(pick % 24), mod = form >> 3, rm = form & 7;
    unsigned reg = below(m, (unsigned)op->modrm);

    if (!below(m, 12))
        mod = 3;
    byte(c, mod << 6 | reg << 3 | rm);
    if (m->mode == MODE_REAL) {
        value(c, edge(m), 2);
        return;
    }
    unsigned sib = (unsigned)(pick / 24 % 256);
    if (mod != 3 && rm == 4)
        byte(c, sib);
    if (mod == 1)
        byte(c, below(m, 256));
    else if (mod == 2 || (mod == 0 && (rm == 5 || (rm == 4 && (sib & 7) == 5))))
        value(c, edge(m), 4);
}

static void prefixes(struct code *c, unsigned n)
{
    static const uint8_t all[] = {0x66, 0x67, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65, 0xf0, 0xf2, 0xf3};
    while (n--)
        byte(c, all[below(c->m, sizeof(all))]);
    if (c->m->mode == MODE_LONG && below(c->m, 2))
        byte(c, 0x40 | below(c->m, 16));
}

static void instruction(struct code *c, const struct opcode *op, uint64_t pick)
{
    for (unsigned i = 0; i < op->length; i++)
        byte(c, op->bytes[i]);
    if (op->modrm > 0)
        operand(c, op, pick);
    if (op->operand)
        value(c, edge(c->m), op->operand);
}

static const struct opcode *any_form(struct machine *m)
{
    return &forms[below(m, FORMS)];
}

/* --- Kinds -------------------------------------------------------------------------------------*/

static void put_forms(struct code *c, uint64_t number)
{
    const struct opcode *op = &forms[number % FORMS];
    prefixes(c, below(c->m, 3) ? 0 : 1);
    instruction(c, op, number / FORMS);
    if (below(c->m, 2))
        instruction(c, any_form(c->m), next_random(&c->m->seed));
}

/* A branch to an address with a near displacement, through a register or memory, or by a return. */
static void put_branch(struct code *c)
{
    static const uint8_t shorts[] = {0xeb, 0x74, 0x75, 0xe3, 0xe2, 0x7f};
    uint64_t to = below(c->m, 3) ? edge(c->m) : c->at + below(c->m, 12) - 4;

    switch (below(c->m, 6)) {
    case 0: /* into itself and its neighbours */
        byte(c, shorts[below(c->m, sizeof(shorts))]);
        byte(c, below(c->m, 16) - 8);
        break;
    case 1:
        byte(c, below(c->m, 2) ? 0xe8 : 0xe9);
        value(c, to - (c->at + 4), 4);
        break;
    case 2: /* call, jmp, far call, far jmp */
        byte(c, 0xff);
        byte(c, (below(c->m, 2) ? 0xc0 : 0) | (2 + below(c->m, 4)) << 3 | below(c->m, 8));
        break;
    case 3:
        if (c->m->mode == MODE_LONG)
            byte(c, 0x48);
        byte(c, 0xb8);
        value(c, to, c->m->mode == MODE_LONG ? 8 : c->m->mode == MODE_REAL ? 2 : 4);
        byte(c, below(c->m, 2) ? 0x50 : 0x90);
        byte(c, below(c->m, 2) ? 0xc3 : 0xff);
        byte(c, below(c->m, 2) ? 0xe0 : 0xd0);
        break;
    case 4:
        byte(c, 0x0f);
        byte(c, 0x80 | below(c->m, 16));
        value(c, to - (c->at + 4), 4);
        break;
    default:
        byte(c, below(c->m, 2) ? 0xc2 : 0xca);
        value(c, below(c->m, 65536), 2);
        break;
    }
}

static void put_prefixes(struct code *c)
{
    prefixes(c, below(c->m, 21));
    if (below(c->m, 2))
        instruction(c, any_form(c->m), next_random(&c->m->seed));
    else
        random_bytes(c, 8);
}

/* The page table entry of the page after CODE's first, where there is one. */
static uint32_t next_entry(const struct machine *m)
{
    uint32_t page = (CODE >> 12) + 1;
    return TABLES + 0x4000 + page * (m->mode == MODE_PAGED ? 4 : 8);
}

/* Code whose instruction ends in the next page; the page is absent, or is exchanged by the guest
 * itself and comes again under other bytes. */
static void put_crossing(struct code *c)
{
    struct machine *m = c->m;
    static const uint32_t frames[] = {
        0,           (CODE + 0x1000) | 0x67, (CODE + 0x3000) | 0x67, (RAM_SIZE + 0x1000) | 0x67,
        CODE | 0x67, TABLES | 0x67};
    uint32_t to = frames[below(m, 6)];
    struct code cross = {m, CODE + 0x1000 - 1 - below(m, 14)}, other = {m, CODE + 0x3000};

    prefixes(&cross, below(m, 8));
    instruction(&cross, any_form(m), next_random(&m->seed));
    byte(&cross, 0xc3);
    random_bytes(&other, 16);
    if (below(m, 2))
        memcpy(m->ram + next_entry(m), &frames[below(m, 6)], 4);
    if (m->mode == MODE_REAL || m->mode == MODE_FLAT)
        return;
    byte(c, 0xc7); /* mov $to, entry */
    if (m->mode == MODE_LONG) {
        byte(c, 0x04);
        byte(c, 0x25);
    } else {
        byte(c, 0x05);
    }
    value(c, next_entry(m), 4);
    value(c, to, 4);
    if (!m->user && below(m, 2)) {
        byte(c, 0x0f); /* invlpg */
        byte(c, 0x01);
        byte(c, m->mode == MODE_LONG ? 0x3c : 0x3d);
        if (m->mode == MODE_LONG)
            byte(c, 0x25);
        value(c, CODE + 0x1000, 4);
    }
}

/* An entry that points at its own table, outside RAM, nowhere, or anywhere. */
static uint64_t bad_entry(struct machine *m, uint32_t at)
{
    uint64_t flags = below(m, 4) ? 0x67 : next_random(&m->seed) & 0x8000000000000fffull;

    switch (below(m, 6)) {
    case 0:
        return (at & ~0xfffu) | flags;
    case 1:
        return TABLES | flags;
    case 2:
        return (RAM_SIZE + (uint64_t)below(m, 16) * 4096) | flags;
    case 3:
        return 0x000ffffffffff000ull | flags;
    case 4:
        return (RAM_SIZE - 4096) | flags | (below(m, 2) ? 0x80 : 0);
    default:
        return next_random(&m->seed);
    }
}

static void spoil_tables(struct machine *m)
{
    static const struct {
        uint32_t at, size;
    } area[] = {{TABLES, 0x40},
                {TABLES + 0x1000, 0x40},
                {TABLES + 0x2000, 0x20},
                {TABLES + 0x4000, 0x2000},
                {GDT, 0x58},
                {IDT, 0x800},
                {TSS, 0x68}};

    for (unsigned n = 1 + below(m, 6); n; n--) {
        unsigned which = below(m, 7);
        uint32_t at = area[which].at + (below(m, area[which].size) & ~7u);
        uint64_t entry = bad_entry(m, at);
        memcpy(m->ram + at, &entry, 8);
    }
}

static void put_tables(struct code *c)
{
    spoil_tables(c->m);
    for (unsigned n = 1 + below(c->m, 3); n; n--) {
        if (below(c->m, 2))
            instruction(c, &systems[below(c->m, SYSTEMS)], next_random(&c->m->seed));
        else
            instruction(c, any_form(c->m), next_random(&c->m->seed));
    }
}

static void put_system(struct code *c)
{
    for (unsigned n = 1 + below(c->m, 3); n; n--) {
        prefixes(c, !below(c->m, 5));
        instruction(c, &systems[below(c->m, SYSTEMS)], next_random(&c->m->seed));
    }
}

/* What RDMSR and WRMSR find in ECX, besides noise. */
static uint64_t msr_index(struct machine *m)
{
    static const uint32_t known[] = {0x10,       0x1b,       0x8b,       0x174,      0x175,
                                     0x176,      0x1a0,      0x277,      0x2ff,      0xc0000080,
                                     0xc0000081, 0xc0000082, 0xc0000084, 0xc0000100, 0xc0000101,
                                     0xc0000102, 0xc0000103, 0x3a,       0x480,      0x6e0};
    return below(m, 4) ? known[below(m, sizeof(known) / sizeof(known[0]))] : edge(m);
}

static void set_registers(struct machine *m, enum kind kind)
{
    struct novt_regs r;

    novt_vcpu_get_regs(m->vcpu, &r);
    for (unsigned i = 0; i < 16; i++)
        if (i != NOVT_RSP || !below(m, 4))
            r.gpr[i] = edge(m);
    if (!below(m, 3))
        r.gpr[NOVT_RCX] = below(m, 0x3000); /* string lengths that end */
    if (kind == KIND_SYSTEM && below(m, 2))
        r.gpr[NOVT_RCX] = msr_index(m);
    r.rflags = 2 | (next_random(&m->seed) & 0xcd5) | (m->user ? 0x200 : 0);
    if (!below(m, 8))
        r.rflags |= next_random(&m->seed) & 0x257fd5;
    if (m->mode == MODE_REAL)
        r.rflags &= ~0x20000ull;
    novt_vcpu_set_regs(m->vcpu, &r);
}

/* Data that looks like pointers. */
static void set_data(struct machine *m)
{
    for (uint32_t at = DATA + 0x1f00; at < DATA + 0x2100; at += 8) {
        uint64_t v = below(m, 2) ? edge(m) : (8u << below(m, 4)) | below(m, 4);
        memcpy(m->ram + at, &v, 8);
    }
}

void generate(struct machine *m, enum kind kind, uint64_t number)
{
    struct code c = {m, CODE};

    memset(m->ram + CODE, 0xf4, 256);
    memset(m->ram + CODE + 0xfe0, 0xf4, 64);
    set_data(m);
    set_registers(m, kind);
    switch (kind) {
    case KIND_BYTES:
        random_bytes(&c, 48);
        break;
    case KIND_FORMS:
        put_forms(&c, number);
        break;
    case KIND_BRANCHES:
        for (unsigned n = 1 + below(m, 4); n; n--)
            put_branch(&c);
        break;
    case KIND_PREFIXES:
        put_prefixes(&c);
        break;
    case KIND_CROSSING:
        put_crossing(&c);
        byte(&c, 0xe9);
        value(&c, CODE + 0xff0 - (c.at + (m->mode == MODE_REAL ? 2 : 4)),
              m->mode == MODE_REAL ? 2 : 4);
        break;
    case KIND_TABLES:
        put_tables(&c);
        break;
    default:
        put_system(&c);
        break;
    }
    novt_vm_memory_written(m->vm, 0, RAM_SIZE);
}
