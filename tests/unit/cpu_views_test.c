/* cpu_views_test.c - a 64-bit address space with more slots of 4 GiB than it may have views.
 *
 * As processes leave them behind whose page-table root is used again and whose addresses are
 * random: what a few slots need at the end must not depend on how many there were before. Counted
 * are the mappings that windows got and the checks that failed while a loop alternates between two
 * slots. */
#include "tests/unit/engine_guest.h"

#include <criterion/parameterized.h>

#define ROUNDS 20000u

static struct engine_guest g;

/* Touch: mov %rax, %cr3; mov (%rbx), %rcx; hlt. Alternate: 1: mov (%rbx), %rax; mov %rax, (%rsi);
 * push %rax; pop %rcx; dec %rdi; jnz 1b; hlt */
#define ALTERNATE 8u
static const uint8_t code[] = {0x0f, 0x22, 0xd8, 0x48, 0x8b, 0x0b, 0xf4, 0x90, 0x48, 0x8b, 0x03,
                               0x48, 0x89, 0x06, 0x50, 0x59, 0x48, 0xff, 0xcf, 0x75, 0xf3, 0xf4};

/* RAM at 0; at whatever else the PML4 is made to have. */
static void create(void)
{
    engine_guest_create(&g, 0, code, sizeof(code));
    engine_guest_long_mode(&g, 7);
}

static void run(uint64_t rip, uint64_t rbx, uint64_t rsi)
{
    struct novt_regs r = {.rip = rip, .rflags = 2};

    r.gpr[NOVT_RSP] = GUEST_STACK;
    r.gpr[NOVT_RAX] = GUEST_PML4;
    r.gpr[NOVT_RBX] = rbx;
    r.gpr[NOVT_RSI] = rsi;
    r.gpr[NOVT_RDI] = ROUNDS;
    cr_assert_eq(novt_vcpu_set_regs(g.vcpu, &r), 0);
    novt_vcpu_set_events(g.vcpu, &(struct novt_events){0});
    cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_HLT);
}

/* The data at the n-th entry of the PML4, in some slot of its 128. */
static uint64_t place(unsigned n)
{
    uint64_t address = (uint64_t)n << 39 | GUEST_DATA;
    return n >= 256 ? address | 0xffff000000000000ull : address;
}

static uint64_t work_done(void)
{
    static const char *const names[] = {"window_mappings", "fault_check", "homes_moved",
                                        "instructions_slow_path", NULL};
    return engine_guest_count(&g, names);
}

static void alternate(unsigned a, unsigned b)
{
    uint64_t before;

    run(GUEST_CODE + ALTERNATE, place(a), place(b));
    before = work_done();
    run(GUEST_CODE + ALTERNATE, place(a), place(b));
    cr_assert_leq(work_done() - before, 50, "%llu steps of the monitor in %u rounds",
                  (unsigned long long)(work_done() - before), ROUNDS);
}

struct row {
    char what[48];
    unsigned slots, first, stay; /* how many; from which on; how many are there at once */
};

ParameterizedTestParameters(views, two_slots_come_to_rest)
{
    static struct row rows[] = {
        {"processes that come and go, lower half", 100, 1, 2},
        {"processes that come and go, upper half", 100, 300, 2},
        {"processes that come and go, both", 400, 60, 3},
        {"many slots at once", 40, 1, 100},
        {"many slots at once, upper half", 80, 300, 100},
    };
    return cr_make_param_array(struct row, rows, sizeof(rows) / sizeof(rows[0]));
}

/* One space after the other, all with the same root; then a loop over the last two. */
ParameterizedTest(struct row *row, views, two_slots_come_to_rest, .timeout = 60)
{
    unsigned last = row->first + row->slots - 1;

    create();
    for (unsigned n = row->first; n <= last; n++) {
        engine_guest_entry(&g, GUEST_PML4, n, (GUEST_PML4 + 0x1000) | 7);
        if (n >= row->first + row->stay)
            engine_guest_entry(&g, GUEST_PML4, n - row->stay, 0);
        run(GUEST_CODE, place(n), 0);
    }
    alternate(last, last - 1);
    alternate(last - 1, last);
    engine_guest_destroy(&g);
}

/* Any two of the slots that are there, whichever view made room before. */
Test(views, any_two_of_many_slots_come_to_rest, .timeout = 60)
{
    create();
    for (unsigned n = 1; n <= 40; n++) {
        engine_guest_entry(&g, GUEST_PML4, n, (GUEST_PML4 + 0x1000) | 7);
        run(GUEST_CODE, place(n), 0);
    }
    for (unsigned n = 1; n < 40; n += 3) {
        alternate(n, n + 1);
        alternate(n, 40 - n / 2);
    }
    engine_guest_destroy(&g);
}

/* An address space of 32-bit code takes three of the ranges that VMs of a process share: its jump
 * table's, its window, and 32 GiB for the entries of every pc. */
Test(views, a_host_without_addresses_ends_the_run_with_a_sentence, .timeout = 30)
{
    static const uint8_t nothing[] = {0x90, 0xf4};
    static const char *const sentences[] = {"another guest address space",
                                            "no host addresses for another 4 GiB",
                                            "another guest address space"};
    uint8_t *last[8] = {NULL}, *window;

    engine_guest_create(&g, 0, nothing, sizeof(nothing));
    while ((window = rt_window_claim())) {
        memmove(last, last + 1, sizeof(last) - sizeof(*last));
        last[7] = window;
    }
    for (unsigned n = 0; n < 3; n++) {
        cr_assert_eq(novt_vcpu_run(g.vcpu), NOVT_E_NOMEM);
        cr_assert_neq(strstr(novt_vm_error(g.vm), sentences[n]), NULL, "%s", novt_vm_error(g.vm));
        rt_window_release(last[n]);
    }
    for (unsigned n = 3; n < 8; n++)
        rt_window_release(last[n]);
    cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_HLT);
    engine_guest_destroy(&g);
}
