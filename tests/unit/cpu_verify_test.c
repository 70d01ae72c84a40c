/* cpu_verify_test.c - lockstep checking: it finds planted defects, and nothing where there are
 * none.
 *
 * A defect is planted by changing one byte of a translated block through the writable view, after
 * the block has run once as it should. */
#include "tests/unit/engine_guest.h"

#include "monitor/cpu/verify.h"

#include <criterion/parameterized.h>
#include <stdlib.h>

static struct engine_guest g;

static void create(const void *code, size_t len)
{
    engine_guest_create(&g, NOVT_F_VERIFY, code, len);
}

static void teardown(void)
{
    engine_guest_destroy(&g);
}

/* ---- what is right is let through ---- */

struct good_row {
    char what[40];
    uint8_t code[48];
    unsigned char len;
    unsigned char compared; /* at least */
};

#define CODE(...) {__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__})

ParameterizedTestParameters(verify, correct_translations_are_let_through)
{
    static struct good_row rows[] = {
        {"arithmetic and a loop", CODE(0xb9, 5, 0, 0, 0, 0x01, 0xc8, 0x49, 0x75, 0xfb, 0xf4), 5},
        {"push, call, ret, pop",
         CODE(0x68, 1, 2, 3, 4, 0xe8, 2, 0, 0, 0, 0x58, 0xf4, 0x31, 0xc0, 0xc3), 3},
        {"memory",
         CODE(0xb8, 0, 0x90, 0, 0, 0x89, 0x40, 0xfe, 0x87, 0x48, 4, 0xf0, 0x01, 0x40, 8, 0xf4), 1},
        {"repeated stores over pages",
         CODE(0xbf, 0, 0x90, 0, 0, 0xb9, 0, 0x10, 0, 0, 0xf3, 0xab, 0xf4), 1},
        {"a repeated move backwards",
         CODE(0xbf, 8, 0xa0, 0, 0, 0xbe, 4, 0xa0, 0, 0, 0xb9, 64, 0, 0, 0, 0xfd, 0xf3, 0xa5, 0xfc,
              0xf4),
         1},
        {"the interrupt flag", CODE(0xfa, 0x9c, 0x58, 0xfb, 0x9c, 0x5b, 0x53, 0x9d, 0xf4), 1},
        {"POPF for the monitor",
         CODE(0x9c, 0x81, 0x34, 0x24, 0, 0, 0x20, 0, 0x31, 0xc9, 0x9d, 0xf4), 1},
        {"x87", CODE(0xd9, 0xe8, 0xd9, 0xeb, 0xde, 0xc1, 0xdb, 0x1d, 0, 0x90, 0, 0, 0xf4), 1},
        {"SSE",
         CODE(0x66, 0x0f, 0xef, 0xc0, 0x66, 0x0f, 0x76, 0xc9, 0x0f, 0x11, 0x0d, 0x00, 0x90, 0, 0,
              0xf4),
         1},
        {"a store to MMIO in the middle", CODE(0x31, 0xc0, 0x40, 0xa3, 0, 0, 0, 0xf0, 0x40, 0xf4),
         1},
        {"a store into its own block",
         CODE(0x31, 0xc0, 0xc6, 0x05, 0x0b, 0x10, 0, 0, 0x40, 0x90, 0x90, 0x48, 0xf4), 1},
        {"RDTSC among others", CODE(0x31, 0xc0, 0x0f, 0x31, 0x31, 0xc0, 0x31, 0xd2, 0xf4), 2},
        {"RDRAND among others", CODE(0x31, 0xc0, 0x0f, 0xc7, 0xf0, 0x31, 0xc0, 0xf4), 2},
        {"a division that faults, unhandled", CODE(0x31, 0xc9, 0x40, 0xf7, 0xf1, 0xf4), 1},
        {"a branch to the next instruction", CODE(0x31, 0xc0, 0x74, 0, 0x75, 0, 0x40, 0xf4), 2},
        {"16-bit operands",
         CODE(0x66, 0x6a, 0x11, 0x66, 0x50, 0x66, 0x5b, 0x66, 0x9c, 0x66, 0x59, 0xf4), 1},
    };
    return cr_make_param_array(struct good_row, rows, sizeof(rows) / sizeof(rows[0]));
}

ParameterizedTest(struct good_row *row, verify, correct_translations_are_let_through,
                  .fini = teardown, .timeout = 20)
{
    unsigned reason;

    create(row->code, row->len);
    do {
        reason = engine_guest_run(&g);
    } while (reason == NOVT_EXIT_MMIO);
    cr_assert_neq(reason, NOVT_EXIT_INTERNAL, "%s: %s\n%s", row->what, g.run->fail.reason, g.log);
    cr_assert_geq(mon_verify_count(g.v), row->compared, "%s: only %u blocks compared", row->what,
                  (unsigned)mon_verify_count(g.v));
}

/* A guest sees the same with and without. */
Test(verify, the_guests_memory_comes_out_the_same, .timeout = 20)
{
    /* mov $0x9000, %edi; mov $200, %ecx; 1: mov %ecx, (%edi); add %ecx, %eax; push %eax;
     * pop 4(%edi); add $8, %edi; loop 1b; hlt */
    static const uint8_t code[] = {0xbf, 0, 0x90, 0,    0,    0xb9, 200,  0,
                                   0,    0, 0x89, 0x0f, 0x01, 0xc8, 0x50, 0x8f,
                                   0x47, 4, 0x83, 0xc7, 8,    0xe2, 0xf3, 0xf4};
    static uint8_t plain[0x2000];

    engine_guest_create(&g, 0, code, sizeof(code));
    cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_HLT);
    memcpy(plain, g.ram + 0x8000, sizeof(plain));
    engine_guest_destroy(&g);
    create(code, sizeof(code));
    cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_HLT);
    cr_assert_eq(memcmp(plain, g.ram + 0x8000, sizeof(plain)), 0);
    engine_guest_destroy(&g);
}

/* The slow path and the window's filling set these bits at different times. */
Test(verify, accessed_and_dirty_bits_are_seen_alike, .fini = teardown, .timeout = 20)
{
    /* mov 0x20000, %edx; mov 0x11080, %eax; mov %eax, 0x21000; mov 0x11084, %ebx; hlt: the entries
     * of pages 20h and 21h are at 0x11080 and 0x11084 */
    static const uint8_t code[] = {0x8b, 0x15, 0, 0, 2,    0,    0xa1, 0x80, 0x10, 1, 0,   0xa3,
                                   0,    0x10, 2, 0, 0x8b, 0x1d, 0x84, 0x10, 1,    0, 0xf4};
    struct novt_sregs s;

    create(code, sizeof(code));
    for (uint32_t n = 0; n < 1024; n++) {
        uint32_t entry = n << 12 | 3;
        memcpy(g.ram + 0x11000 + 4 * n, &entry, 4);
    }
    memcpy(g.ram + 0x10000, &(uint32_t){0x11003}, 4);
    novt_vcpu_get_sregs(g.vcpu, &s);
    s.cr3 = 0x10000;
    s.cr0 |= MON_CR0_PG | MON_CR0_WP;
    cr_assert_eq(novt_vcpu_set_sregs(g.vcpu, &s), 0);
    cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_HLT, "%s", g.run->fail.reason);
    cr_assert_geq(mon_verify_count(g.v), 1);
    cr_assert_eq(g.v->cpu->gpr[RT_AX], 0x20023);
    cr_assert_eq(g.v->cpu->gpr[RT_BX], 0x21063);
}

/* ---- what is wrong is found ---- */

struct bad_row {
    char what[40];
    uint8_t code[24];
    unsigned char len;
    uint8_t find[4], find_len; /* host bytes of the instruction, the last of which is changed */
    uint8_t change;            /* by exclusive or */
    char reason[32];
};

/* More than a trial may write: REP STOS that faults at its first element. */
Test(verify, a_fault_where_the_trial_gave_up_is_let_through, .fini = teardown, .timeout = 20)
{
    /* mov edi, 0x200000; mov ecx, 0x1800000; rep stosd; hlt ... the handler: hlt */
    static const uint8_t code[48] = {0xbf, 0,    0, 0x20, 0,    0xb9, 0,
                                     0,    0x80, 1, 0xf3, 0xab, 0xf4, [32] = 0xf4};
    const uint64_t gate = 0x00008e0000080000 | (GUEST_CODE + 32), flat = 0x00cf9b000000ffff;
    uint32_t *directory, *table;
    struct novt_sregs s;
    struct novt_regs r;

    create(code, sizeof(code));
    memcpy(g.ram + 0x3000 + 8 * MON_PF, &gate, 8);
    memcpy(g.ram + 0x2000 + 8, &flat, 8);
    directory = (uint32_t *)(void *)(g.ram + 0x10000);
    table = (uint32_t *)(void *)(g.ram + 0x11000);
    directory[0] = 0x11000 | MON_PTE_P | MON_PTE_W;
    for (uint32_t i = 0; i < 256; i++)
        table[i] = i << 12 | MON_PTE_P | MON_PTE_W;
    novt_vcpu_get_sregs(g.vcpu, &s);
    s.idt = (struct novt_dtable){0x3000, 0x7ff};
    s.gdt = (struct novt_dtable){0x2000, 0xff};
    s.cr3 = 0x10000;
    s.cr0 |= MON_CR0_PG;
    cr_assert_eq(novt_vcpu_set_sregs(g.vcpu, &s), 0);
    cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_HLT, "%s", g.log);
    novt_vcpu_get_regs(g.vcpu, &r);
    cr_assert_eq(r.rip, GUEST_CODE + 33);
    cr_assert_eq(r.gpr[NOVT_RCX], 0x1800000);
}

ParameterizedTestParameters(verify, planted_defects_are_found)
{
    static struct bad_row rows[] = {
        {"ADD becomes SUB", CODE(0xb8, 1, 0, 0, 0, 0x01, 0xc8, 0xf4), {0x01}, 1, 0x28, "EAX"},
        {"another register", CODE(0x90, 0x89, 0xda, 0xf4), {0x89, 0xda}, 2, 0x01, "EDX"},
        {"a shorter immediate",
         CODE(0x05, 0x78, 0x56, 0x34, 0x12, 0xf4),
         {0x05, 0x78},
         2,
         0x40,
         "EAX"},
        {"flags", CODE(0xb0, 0x7f, 0x04, 1, 0x24, 0, 0xf9, 0xf4), {0xf9}, 1, 0x01, "EFLAGS"},
        {"the wrong way",
         CODE(0x31, 0xc0, 0x74, 3, 0xf4, 0x90, 0x90, 0xf4),
         {0x0f, 0x84},
         2,
         0x01,
         "EIP"},
        {"the stored value",
         CODE(0xc6, 0x05, 0, 0x90, 0, 0, 0x5a, 0xf4),
         {0x5a},
         1,
         0x10,
         "memory at physical 9000"},
        {"the stack pointer", CODE(0x50, 0xf4), {0x8d, 0x64, 0x24, 0xfc}, 4, 0x04, "ESP"},
        {"XMM registers",
         CODE(0x66, 0x0f, 0x76, 0xc9, 0x66, 0x0f, 0xef, 0xd1, 0xf4),
         {0x0f, 0xef, 0xd1},
         3,
         0x08,
         "an XMM register"},
        {"x87 registers", CODE(0xd9, 0xe8, 0xf4), {0xd9, 0xe8}, 2, 0x03, "x87 state"},
    };
    return cr_make_param_array(struct bad_row, rows, sizeof(rows) / sizeof(rows[0]));
}

static uint8_t *find(const struct cc *cc, const struct cc_block *b, const struct bad_row *row)
{
    uint8_t *start = cc_rw(cc, cc->rx + b->host);
    uint8_t *at = memmem(start + b->direct, b->host_len - b->direct, row->find, row->find_len);
    cr_assert(at, "%s: the translation has no such bytes", row->what);
    return at + row->find_len - 1;
}

ParameterizedTest(struct bad_row *row, verify, planted_defects_are_found, .fini = teardown,
                  .timeout = 20)
{
    char where[32];

    create(row->code, row->len);
    cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_HLT, "%s: %s", row->what, g.run->fail.reason);
    struct cc *cc = &g.v->vm->cc;
    const struct cc_block *b = cc_lookup(cc, GUEST_CODE, GUEST_CODE, g.v->key);
    cr_assert(b);
    *find(cc, b, row) ^= row->change;
    engine_guest_registers(&g);
    novt_vcpu_set_events(g.vcpu, &(struct novt_events){0});

    cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_INTERNAL, "%s was not found", row->what);
    snprintf(where, sizeof(where), "block at %08x", GUEST_CODE);
    cr_assert(strstr(g.run->fail.reason, row->reason), "%s: %s", row->what, g.run->fail.reason);
    cr_assert(strstr(g.run->fail.reason, where), "%s", g.run->fail.reason);
    cr_assert(strstr(g.log, "slow path") && strstr(g.log, "translated") &&
                  strstr(g.log, "00001000 "),
              "%s: the report is not whole:\n%s", row->what, g.log);
}
