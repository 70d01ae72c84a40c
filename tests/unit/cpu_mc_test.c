/* cpu_mc_test.c - machine checks, which only an embedder can ask for.
 *
 * Handlers store their vector at the next place of GUEST_DATA and leave: #MC's by HLT or IRET, as a
 * test wants, the others' by IRET. In 64-bit mode #MC has a stack of its own (IST 1). */
#include <criterion/parameterized.h>
#include <pthread.h>
#include <time.h>

#include "tests/unit/engine_guest.h"

#define IDT       0x30000u
#define GDT       0x31000u
#define TSS       0x32000u
#define HANDLERS  0x33000u /* 32 bytes for each vector */
#define IST_STACK 0x7000u
#define VECTOR    0x41 /* of the interrupt */
#define MCIP_RIPV 5u

enum { IRET = 0xcf, HLT = 0xf4, NOP = 0x90 };

static struct engine_guest g;

struct mode {
    uint64_t flags; /* of the VM */
    bool wide;
};

/* mov [esi], imm8; inc esi; and the way out. */
static void put_handler(uint8_t vector, bool wide, uint8_t way_out)
{
    uint8_t *p = g.ram + HANDLERS + 32 * vector, code[] = {0xc6, 0x06, vector};

    memcpy(p, code, 3);
    memcpy(p + 3, wide ? "\x48\xff\xc6" : "\x46\x90\x90", 3);
    p[6] = wide && way_out == IRET ? 0x48 : NOP;
    p[7] = way_out;
}

static void put_gate(uint8_t vector, bool wide, unsigned ist)
{
    uint32_t at = HANDLERS + 32u * vector;
    uint32_t gate[4] = {8u << 16 | (at & 0xffff), (at & 0xffff0000) | 0x8e00 | ist, 0, 0};

    memcpy(g.ram + IDT + (wide ? 16 : 8) * vector, gate, wide ? 16 : 8);
}

static void set_up(const struct mode *mode, const void *code, size_t len, uint8_t mc_way_out)
{
    const uint64_t gdt[3] = {0, mode->wide ? 0x00af9b000000ffffull : 0x00cf9b000000ffffull,
                             0x00cf93000000ffffull};
    const uint64_t ist = IST_STACK;
    struct novt_sregs s;
    struct novt_regs r;

    engine_guest_create(&g, mode->flags, code, len);
    if (mode->wide)
        engine_guest_long_mode(&g, 3);
    memcpy(g.ram + GDT, gdt, sizeof(gdt));
    memcpy(g.ram + TSS + 36, &ist, 8);
    put_handler(MON_MC, mode->wide, mc_way_out);
    put_handler(MON_NMI, mode->wide, IRET);
    put_handler(VECTOR, mode->wide, IRET);
    put_gate(MON_MC, mode->wide, 1);
    put_gate(MON_NMI, mode->wide, 0);
    put_gate(VECTOR, mode->wide, 0);
    novt_vcpu_get_sregs(g.vcpu, &s);
    s.gdt = (struct novt_dtable){GDT, 23};
    s.seg[NOVT_SS].selector = 0x10;
    s.idt = (struct novt_dtable){IDT, 0xfff};
    s.tr = (struct novt_segment){.base = TSS, .limit = 0x67, .attr = 0x8b, .selector = 0x18};
    s.cr4 |= MON_CR4_MCE;
    cr_assert_eq(novt_vcpu_set_sregs(g.vcpu, &s), 0);
    novt_vcpu_get_regs(g.vcpu, &r);
    r.gpr[NOVT_RSI] = GUEST_DATA;
    cr_assert_eq(novt_vcpu_set_regs(g.vcpu, &r), 0);
}

static uint64_t mcg_status(void)
{
    struct novt_msr msr = {.index = 0x17a};

    cr_assert_eq(novt_vcpu_get_msrs(g.vcpu, &msr, 1), 1);
    return msr.value;
}

static void set_mcg_status(uint64_t value)
{
    struct novt_msr msr = {.index = 0x17a, .value = value};

    cr_assert_eq(novt_vcpu_set_msrs(g.vcpu, &msr, 1), 1);
}

/* The frame at the stack's top when its handler had nothing more on it. */
static uint64_t frame_word(const struct mode *mode, unsigned n)
{
    uint64_t at = mode->wide ? IST_STACK - 40 + 8 * n : GUEST_STACK - 12 + 4 * n, value = 0;

    memcpy(&value, g.ram + at, mode->wide ? 8 : 4);
    return value;
}

static struct mode modes[] = {
    {0, false},
    {NOVT_F_INTERPRET, false},
    {0, true},
    {NOVT_F_INTERPRET, true},
};

#define FOR_MODES(name)                                                                   \
    ParameterizedTestParameters(machine_check, name)                                      \
    {                                                                                     \
        return cr_make_param_array(struct mode, modes, sizeof(modes) / sizeof(modes[0])); \
    }                                                                                     \
    ParameterizedTest(struct mode *mode, machine_check, name, .timeout = 20)

FOR_MODES(comes_before_the_next_instruction_with_interrupts_off)
{
    set_up(mode, "\x90\xf4", 2, HLT);
    novt_vcpu_machine_check(g.vcpu);
    cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_HLT);
    cr_assert_eq(g.ram[GUEST_DATA], MON_MC);
    cr_assert_eq(frame_word(mode, 0), GUEST_CODE);
    cr_assert_eq(frame_word(mode, 2) & RT_IF, 0);
    if (mode->wide)
        cr_assert_eq(frame_word(mode, 3), GUEST_STACK, "the old rsp is on the IST's stack");
    cr_assert_eq(mcg_status(), MCIP_RIPV);
    engine_guest_destroy(&g);
}

static void *ask_later(void *unused)
{
    const struct timespec wait = {0, 20000000};

    (void)unused;
    nanosleep(&wait, NULL);
    novt_vcpu_machine_check(g.vcpu);
    return NULL;
}

FOR_MODES(reaches_a_guest_that_loops)
{
    pthread_t thread;

    set_up(mode, "\xeb\xfe", 2, HLT);
    cr_assert_eq(pthread_create(&thread, NULL, ask_later, NULL), 0);
    cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_HLT);
    pthread_join(thread, NULL);
    cr_assert_eq(g.ram[GUEST_DATA], MON_MC);
    cr_assert_eq(frame_word(mode, 0), GUEST_CODE);
    engine_guest_destroy(&g);
}

/* SDM 3, table 6-2: what has priority is delivered first, and the next one interrupts its handler.
 */
FOR_MODES(comes_before_nmis_and_these_before_interrupts)
{
    struct novt_regs r;

    set_up(mode, "\xf4", 1, IRET);
    novt_vcpu_get_regs(g.vcpu, &r);
    r.rflags |= RT_IF;
    cr_assert_eq(novt_vcpu_set_regs(g.vcpu, &r), 0);
    cr_assert_eq(novt_vcpu_interrupt(g.vcpu, VECTOR), NOVT_OK);
    novt_vcpu_nmi(g.vcpu);
    novt_vcpu_machine_check(g.vcpu);
    cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_HLT);
    cr_assert_eq(g.ram[GUEST_DATA], MON_NMI, "the NMI's handler interrupts the machine check's");
    cr_assert_eq(g.ram[GUEST_DATA + 1], MON_MC, "%02x %02x %02x", g.ram[GUEST_DATA],
                 g.ram[GUEST_DATA + 1], g.ram[GUEST_DATA + 2]);
    cr_assert_eq(g.ram[GUEST_DATA + 2], VECTOR);
    engine_guest_destroy(&g);
}

FOR_MODES(ends_a_halt_and_ignores_the_shadow_of_sti)
{
    struct novt_events events;

    set_up(mode, "\x90\xf4", 2, HLT);
    novt_vcpu_get_events(g.vcpu, &events);
    events.halted = events.interrupt_shadow = true;
    cr_assert_eq(novt_vcpu_set_events(g.vcpu, &events), 0);
    novt_vcpu_machine_check(g.vcpu);
    novt_vcpu_get_events(g.vcpu, &events);
    cr_assert(events.machine_check_pending);
    cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_HLT);
    cr_assert_eq(g.ram[GUEST_DATA], MON_MC);
    novt_vcpu_get_events(g.vcpu, &events);
    cr_assert(!events.machine_check_pending);
    engine_guest_destroy(&g);
}

FOR_MODES(shuts_down_while_another_is_in_progress_or_the_guest_has_them_off)
{
    struct novt_sregs s;

    set_up(mode, "\x90\xf4", 2, HLT);
    set_mcg_status(MCIP_RIPV);
    novt_vcpu_machine_check(g.vcpu);
    cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_SHUTDOWN);
    cr_assert_eq(strncmp(g.run->fail.reason, "machine check: #MC at ", 22), 0, "%s",
                 g.run->fail.reason);
    set_mcg_status(0);
    novt_vcpu_get_sregs(g.vcpu, &s);
    s.cr4 &= ~(uint64_t)MON_CR4_MCE;
    cr_assert_eq(novt_vcpu_set_sregs(g.vcpu, &s), 0);
    novt_vcpu_machine_check(g.vcpu);
    cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_SHUTDOWN);
    cr_assert_eq(g.ram[GUEST_DATA], 0, "no handler has run");
    engine_guest_destroy(&g);
}
