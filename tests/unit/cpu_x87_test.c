/* The pointers to the last x87 instruction that an embedder gets: the guest's, also when its
 * translation and its window are gone, and when they were loaded; in translated code and in the
 * slow path. */
#include "engine_guest.h"

/* fninit; fldcw [9000h]; fld1; fdiv dword [9004h], which divides by zero; hlt; fld1; hlt */
static const uint8_t code[] = {0xdb, 0xe3, 0xd9, 0x2d, 0, 0x90, 0,    0,    0xd9, 0xe8, 0xd8,
                               0x35, 4,    0x90, 0,    0, 0xf4, 0xdb, 0xe2, 0xd9, 0xe8, 0xf4};
#define FDIV       (GUEST_CODE + 10)
#define AFTER_HALT (GUEST_CODE + 17)
#define FLD1       (GUEST_CODE + 19)

static uint8_t area[16384] __attribute__((aligned(64)));

static void expect(struct engine_guest *g, uint64_t fip, uint64_t fdp, const char *when)
{
    uint64_t pointers[2];

    cr_assert_eq(novt_vcpu_get_xsave(g->vcpu, area, sizeof(area)), NOVT_OK);
    memcpy(pointers, area + 8, 16);
    cr_expect_eq(pointers[0], fip, "%s: FIP %llx", when, (unsigned long long)pointers[0]);
    cr_expect_eq(pointers[1], fdp, "%s: FDP %llx", when, (unsigned long long)pointers[1]);
}

static void run_to_halt(struct engine_guest *g)
{
    cr_assert_eq(novt_vcpu_run(g->vcpu), NOVT_OK);
    cr_assert_eq(g->run->exit_reason, NOVT_EXIT_HLT);
}

static void all_ways(uint64_t flags)
{
    struct engine_guest g;
    struct novt_events events;
    struct novt_regs regs;
    uint64_t host;

    engine_guest_create(&g, flags, code, sizeof(code));
    memcpy(g.ram + GUEST_DATA, "\x7b\x03", 2); /* but division by zero */
    run_to_halt(&g);
    expect(&g, FDIV, GUEST_DATA + 4, "after the exception");
    cr_expect_eq(area[6] | area[7] << 8, 0x035, "FOP");
    /* The code cache is emptied. */
    cr_assert_eq(novt_vm_set_memory(g.vm, 0, 0, GUEST_SIZE, g.fd, 0, 0), 0);
    expect(&g, FDIV, GUEST_DATA + 4, "when the translation is gone");
    /* A host address that was loaded is the guest's. */
    host = (uint64_t)g.v->vm->cc.rx + 0x1000;
    memcpy(area + 8, &host, 8);
    cr_assert_eq(novt_vcpu_set_xsave(g.vcpu, area, sizeof(area)), NOVT_OK);
    expect(&g, host, GUEST_DATA + 4, "when loaded");
    engine_guest_registers(&g);
    novt_vcpu_get_regs(g.vcpu, &regs);
    regs.rip = AFTER_HALT;
    cr_assert_eq(novt_vcpu_set_regs(g.vcpu, &regs), NOVT_OK);
    novt_vcpu_get_events(g.vcpu, &events);
    events.halted = 0;
    cr_assert_eq(novt_vcpu_set_events(g.vcpu, &events), NOVT_OK);
    run_to_halt(&g);
    cr_assert_eq(novt_vcpu_get_xsave(g.vcpu, area, sizeof(area)), NOVT_OK);
    memcpy(&host, area + 8, 8);
    cr_expect_eq(host, FLD1, "after more code: FIP %llx", (unsigned long long)host);
    engine_guest_destroy(&g);
}

Test(cpu_x87, pointers_are_the_guests, .timeout = 20)
{
    all_ways(0);
}

Test(cpu_x87, pointers_are_the_guests_in_the_slow_path, .timeout = 20)
{
    all_ways(NOVT_F_INTERPRET);
}
