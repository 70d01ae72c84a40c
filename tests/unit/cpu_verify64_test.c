/* cpu_verify64_test.c - lockstep checking of 64-bit code: it finds planted defects, and nothing
 * where there are none.
 *
 * As cpu_verify_test.c, with what only 64-bit translations have: registers in memory, rsp with its
 * slot's delta, checks in front of accesses, both halves of the address space. RAM is mapped at 0
 * and at HIGH. */
#include "tests/unit/engine_guest.h"

#include "monitor/cpu/verify.h"

#include <criterion/parameterized.h>

#define HIGH 0xffff800000000000ull

static struct engine_guest g;

/* rbx is the data at its low address, rbp at its high one. */
static void restart(void)
{
    struct novt_regs r = {.rip = GUEST_CODE, .rflags = 2};

    for (unsigned n = 0; n < 16; n++)
        r.gpr[n] = 0x1111111111111111u * n;
    r.gpr[NOVT_RSP] = GUEST_STACK;
    r.gpr[NOVT_RBX] = GUEST_DATA;
    r.gpr[NOVT_RBP] = HIGH + GUEST_DATA;
    r.gpr[NOVT_RSI] = GUEST_DATA;
    r.gpr[NOVT_RDI] = GUEST_DATA + 0x800;
    cr_assert_eq(novt_vcpu_set_regs(g.vcpu, &r), 0);
    novt_vcpu_set_events(g.vcpu, &(struct novt_events){0});
}

static void create(const void *code, size_t len)
{
    engine_guest_create(&g, NOVT_F_VERIFY, code, len);
    engine_guest_entry(&g, GUEST_PML4, 256, (GUEST_PML4 + 0x1000) | 3);
    engine_guest_long_mode(&g, 3);
}

static void teardown(void)
{
    engine_guest_destroy(&g);
}

struct row {
    char what[40];
    uint8_t code[32];
    unsigned char len;
    uint8_t find[6], find_len; /* host bytes of the instruction */
    uint8_t at, change;        /* which of them is changed, by exclusive or */
    char reason[32];
};

#define CODE(...) {__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__})

static struct row rows[] = {
    {"ADD becomes SUB", CODE(0x48, 0x01, 0xc8, 0xf4), {0x48, 0x01, 0xc8}, 3, 1, 0x28, "RAX"},
    {"another register", CODE(0x49, 0x89, 0xd4, 0xf4), {0x49, 0x89, 0xd4}, 3, 2, 0x01, "R12"},
    {"half of the register", CODE(0x49, 0x89, 0xcc, 0xf4), {0x49, 0x89, 0xcc}, 3, 0, 0x08, "R12"},
    {"a register in memory",
     CODE(0x49, 0x89, 0xd1, 0xf4),
     {0x4c, 0x89, 0x0c, 0x25},
     4,
     2,
     0x18,
     "R9"},
    {"an immediate",
     CODE(0x48, 0xb8, 8, 7, 6, 5, 4, 3, 2, 1, 0xf4),
     {4, 3, 2, 1},
     4,
     3,
     0x80,
     "RAX"},
    {"flags",
     CODE(0xb0, 0x7f, 0x04, 1, 0x24, 0, 0xf9, 0xf4),
     {0x24, 0, 0xf9},
     3,
     2,
     0x01,
     "RFLAGS"},
    {"the wrong way",
     CODE(0x31, 0xc0, 0x74, 3, 0xf4, 0x90, 0x90, 0xf4),
     {0x0f, 0x84},
     2,
     1,
     1,
     "RIP"},
    {"the stored value",
     CODE(0xc7, 0x03, 0x5d, 0x5c, 0x5b, 0x5a, 0xf4),
     {0x5d, 0x5c, 0x5b, 0x5a},
     4,
     0,
     0x10,
     "memory at physical 9000"},
    {"the value stored at a high address",
     CODE(0xc7, 0x45, 0x08, 0x5d, 0x5c, 0x5b, 0x5a, 0xf4),
     {0x5d, 0x5c, 0x5b, 0x5a},
     4,
     0,
     0x10,
     "memory at physical 9008"},
    {"the pushed register",
     CODE(0x51, 0x90, 0x52, 0xf4),
     {0x51},
     1,
     0,
     0x02,
     "memory at physical 7ff8"},
    {"the stack pointer",
     CODE(0x48, 0x8d, 0x64, 0x24, 0xe8, 0xf4),
     {0x8d, 0x4c, 0x14, 0xe8},
     4,
     3,
     0x08,
     "RSP"},
    {"a string instruction",
     CODE(0xb9, 5, 0, 0, 0, 0xf3, 0xa4, 0xf4),
     {0xf3, 0xa4},
     2,
     1,
     0x0e,
     "RSI"},
    {"XMM registers",
     CODE(0x66, 0x45, 0x0f, 0x76, 0xc9, 0x66, 0x45, 0x0f, 0xef, 0xd1, 0xf4),
     {0x66, 0x45, 0x0f, 0xef, 0xd1},
     5,
     4,
     0x08,
     "an XMM register"},
    {"x87 registers", CODE(0xd9, 0xe8, 0xf4), {0xd9, 0xe8}, 2, 1, 0x03, "x87 state"},
};

/* ---- what is right is let through ---- */

ParameterizedTestParameters(verify64, correct_translations_are_let_through)
{
    return cr_make_param_array(struct row, rows, sizeof(rows) / sizeof(rows[0]));
}

ParameterizedTest(struct row *row, verify64, correct_translations_are_let_through, .fini = teardown,
                  .timeout = 20)
{
    create(row->code, row->len);
    for (unsigned n = 0; n < 5; n++) {
        restart();
        cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_HLT, "%s: %s", row->what, g.run->fail.reason);
    }
    cr_assert_geq(mon_verify_count(g.v), 4, "%s: only %u blocks compared", row->what,
                  (unsigned)mon_verify_count(g.v));
}

/* ---- what is wrong is found ---- */

ParameterizedTestParameters(verify64, planted_defects_are_found)
{
    return cr_make_param_array(struct row, rows, sizeof(rows) / sizeof(rows[0]));
}

static uint8_t *find(const struct cc *cc, const struct cc_block *b, const struct row *row)
{
    uint8_t *start = cc_rw(cc, cc->rx + b->host);
    uint8_t *at = memmem(start + b->direct, b->host_len - b->direct, row->find, row->find_len);
    cr_assert(at, "%s: the translation has no such bytes", row->what);
    return at + row->at;
}

ParameterizedTest(struct row *row, verify64, planted_defects_are_found, .fini = teardown,
                  .timeout = 20)
{
    create(row->code, row->len);
    for (unsigned n = 0; n < 3;
         n++) { /* the first accesses find no window, or one of another class */
        restart();
        cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_HLT, "%s: %s", row->what, g.run->fail.reason);
    }
    struct cc *cc = &g.v->vm->cc;
    const struct cc_block *b = cc_lookup(cc, GUEST_CODE, GUEST_CODE, g.v->key);
    cr_assert(b);
    *find(cc, b, row) ^= row->change;
    restart();

    cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_INTERNAL, "%s was not found", row->what);
    cr_assert(strstr(g.run->fail.reason, row->reason), "%s: %s", row->what, g.run->fail.reason);
    cr_assert(strstr(g.log, "slow path") && strstr(g.log, "translated"),
              "%s: the report is not whole:\n%s", row->what, g.log);
}
