/* devices_lapic_test.c - the local APIC: registers in both modes, priorities, timer, IPIs. */
#include "tests/unit/devices_fixture.h"

#include "monitor/devices/lapic.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>

#define MSR(reg)    (0x800u + (reg))
#define DEADLINE    0x6e0u
#define BASE        (MON_LAPIC_ADDRESS | MON_LAPIC_ENABLED | 1u << 8)
#define MASKED      0x10000u
#define PERIODIC    0x20000u
#define TSC_MODE    0x40000u
#define MS          1000000ull
#define VERSION     0x00050014u
#define SELF        (1u << 18)
#define INIT_ASSERT 0x4500u

enum {
    ID = 0x02,
    VER = 0x03,
    TPR = 0x08,
    APR = 0x09,
    PPR = 0x0a,
    EOI = 0x0b,
    LDR = 0x0d,
    DFR = 0x0e,
    SVR = 0x0f,
    ISR = 0x10,
    TMR = 0x18,
    IRR = 0x20,
    ESR = 0x28,
    ICR = 0x30,
    ICR2 = 0x31,
    LVT_TIMER = 0x32,
    LVT_THERMAL = 0x33,
    LVT_LINT0 = 0x35,
    LVT_LINT1 = 0x36,
    LVT_ERROR = 0x37,
    INITIAL = 0x38,
    CURRENT = 0x39,
    DCR = 0x3e,
    SELF_IPI = 0x3f,
};

static struct mon_lapic apic;
static struct hand_clock hand, tsc;
static struct mon_clock clock = {hand_clock_now, &hand};
static unsigned nmis, inits, eois;
static uint8_t last_eoi;

static void on_nmi(void *opaque)
{
    (void)opaque;
    nmis++;
}
static void on_init(void *opaque)
{
    (void)opaque;
    inits++;
}
static void on_eoi(void *opaque, uint8_t vector)
{
    (void)opaque;
    eois++;
    last_eoi = vector;
}

/* A TSC of 2 GHz, a crystal of 25 MHz: 40 ns. */
static void reset(void)
{
    struct mon_lapic_wiring wiring = {.clock = &clock,
                                      .tsc = {hand_clock_now, &tsc},
                                      .tsc_khz = 2000000,
                                      .apic_khz = 25000,
                                      .nmi = on_nmi,
                                      .init = on_init,
                                      .eoi = on_eoi};
    hand.now = 1000 * MS;
    tsc.now = 5000000;
    mon_lapic_init(&apic, &wiring);
}

static uint32_t get(unsigned reg)
{
    return (uint32_t)mon_lapic_mmio.read(&apic, reg << 4, 4);
}
static void put(unsigned reg, uint32_t value)
{
    mon_lapic_mmio.write(&apic, reg << 4, 4, value);
}

/* Software-enabled, in xAPIC mode. */
static void setup(void)
{
    reset();
    put(SVR, 0x1ff);
}

static void setup_x2(void)
{
    setup();
    mon_lapic_set_base(&apic, BASE | MON_LAPIC_X2);
}

static bool send(uint8_t vector, bool level)
{
    return mon_lapic_message(&apic, 0, false, MON_DELIVERY_FIXED, vector, level);
}

static void pass(uint64_t ns)
{
    hand.now += ns;
    tsc.now += 2 * ns;
    mon_lapic_update(&apic, hand.now);
}

TestSuite(devices_lapic, .init = setup, .timeout = 10);

/* --- Reset and enabling ------------------------------------------------------------------------*/

Test(devices_lapic, reset_is_as_in_the_manual, .init = reset)
{
    cr_assert_eq(get(ID), 0);
    cr_assert_eq(get(VER), VERSION);
    cr_assert_eq(get(SVR), 0xff);
    cr_assert_eq(get(DFR), 0xffffffff);
    cr_assert_eq(get(LDR), 0);
    for (unsigned reg = LVT_TIMER; reg <= LVT_ERROR; reg++)
        cr_assert_eq(get(reg), MASKED);
    for (unsigned reg = ISR; reg < ESR; reg++)
        cr_assert_eq(get(reg), 0);
    cr_assert_eq(get(TPR) | get(PPR) | get(ESR) | get(ICR) | get(INITIAL) | get(CURRENT), 0);
    cr_assert_eq(mon_lapic_pending(&apic), -1);
    cr_assert_eq(mon_lapic_deadline(&apic), MON_NEVER);
    cr_assert_not(mon_lapic_takes_extint(&apic));
}

Test(devices_lapic, software_disabled_it_masks_and_takes_no_vectors, .init = reset)
{
    put(LVT_TIMER, 0x40);
    cr_assert_eq(get(LVT_TIMER), 0x40 | MASKED);
    cr_assert_not(send(0x40, false));
    put(SVR, 0x1ff);
    put(LVT_TIMER, 0x40);
    cr_assert_eq(get(LVT_TIMER), 0x40);
    cr_assert(send(0x50, false));
    put(SVR, 0xff);
    cr_assert_eq(get(LVT_TIMER), 0x40 | MASKED);
    cr_assert_eq(mon_lapic_pending(&apic), 0x50, "what was accepted stays");
}

Test(devices_lapic, virtual_wire_passes_the_8259, .init = reset)
{
    mon_lapic_virtual_wire(&apic);
    cr_assert(mon_lapic_takes_extint(&apic));
    put(LVT_LINT0, 0x700 | MASKED);
    cr_assert_not(mon_lapic_takes_extint(&apic));
    put(LVT_LINT0, 0x20);
    cr_assert_not(mon_lapic_takes_extint(&apic), "fixed mode is not ExtINT");
    mon_lapic_set_base(&apic, BASE & ~MON_LAPIC_ENABLED);
    cr_assert(mon_lapic_takes_extint(&apic), "as if there were no APIC");
}

Test(devices_lapic, disabling_forgets_everything)
{
    send(0x40, false);
    put(TPR, 0x20);
    mon_lapic_set_base(&apic, BASE & ~MON_LAPIC_ENABLED);
    cr_assert_eq(get(SVR), 0xffffffff, "no page");
    cr_assert_not(send(0x40, false));
    mon_lapic_set_base(&apic, BASE);
    cr_assert_eq(get(SVR), 0xff);
    cr_assert_eq(get(TPR), 0);
    cr_assert_eq(mon_lapic_pending(&apic), -1);
}

/* --- Priorities --------------------------------------------------------------------------------*/

Test(devices_lapic, the_highest_vector_comes_first_and_nests)
{
    send(0x41, false);
    send(0x45, false);
    send(0x45, false);
    cr_assert_eq(get(IRR + 2), 1 << 1 | 1 << 5);
    cr_assert_eq(mon_lapic_acknowledge(&apic), 0x45);
    cr_assert_eq(get(ISR + 2), 1 << 5);
    cr_assert_eq(get(PPR), 0x40);
    cr_assert_eq(mon_lapic_pending(&apic), -1, "same class");
    send(0x50, false);
    cr_assert_eq(mon_lapic_acknowledge(&apic), 0x50);
    cr_assert_eq(get(PPR), 0x50);
    put(EOI, 0);
    cr_assert_eq(get(PPR), 0x40);
    cr_assert_eq(mon_lapic_pending(&apic), -1);
    put(EOI, 0);
    cr_assert_eq(mon_lapic_acknowledge(&apic), 0x41);
    put(EOI, 0);
    put(EOI, 0);
    cr_assert_eq(get(PPR), 0);
    cr_assert_eq(eois, 0, "edges are not told");
}

Test(devices_lapic, an_interrupt_in_service_may_be_requested_again)
{
    send(0x60, false);
    mon_lapic_acknowledge(&apic);
    send(0x60, false);
    cr_assert(mon_lapic_is_requested(&apic, 0x60));
    cr_assert_eq(mon_lapic_pending(&apic), -1);
    put(EOI, 0);
    cr_assert_eq(mon_lapic_pending(&apic), 0x60);
}

struct tpr_row {
    uint8_t tpr, vector;
    int pending;
    uint8_t threshold, ppr;
};
ParameterizedTestParameters(devices_lapic, tpr_holds_back_its_class_and_below)
{
    static struct tpr_row rows[] = {
        {0x00, 0x10, 0x10, 0, 0x00}, {0x10, 0x1f, -1, 1, 0x10},   {0x1f, 0x20, 0x20, 0, 0x1f},
        {0x40, 0x45, -1, 4, 0x40},   {0x3f, 0x45, 0x45, 0, 0x3f}, {0xf0, 0xff, -1, 15, 0xf0},
        {0xff, 0x31, -1, 3, 0xff},
    };
    return cr_make_param_array(struct tpr_row, rows, sizeof(rows) / sizeof(rows[0]));
}
ParameterizedTest(struct tpr_row *row, devices_lapic, tpr_holds_back_its_class_and_below)
{
    put(TPR, row->tpr);
    send(row->vector, false);
    cr_assert_eq(mon_lapic_pending(&apic), row->pending);
    cr_assert_eq(mon_lapic_pending_above_isr(&apic), row->vector);
    cr_assert_eq(mon_lapic_threshold(&apic), row->threshold);
    cr_assert_eq(get(PPR), row->ppr);
    mon_lapic_set_cr8(&apic, 0);
    cr_assert_eq(mon_lapic_pending(&apic), row->vector);
}

Test(devices_lapic, cr8_is_the_upper_half_of_tpr)
{
    put(TPR, 0x5a);
    cr_assert_eq(mon_lapic_cr8(&apic), 5);
    mon_lapic_set_cr8(&apic, 5);
    cr_assert_eq(get(TPR), 0x5a, "no MOV CR8: the lower half stays");
    mon_lapic_set_cr8(&apic, 6);
    cr_assert_eq(get(TPR), 0x60);
}

Test(devices_lapic, what_is_in_service_needs_no_tpr_exit)
{
    send(0x80, false);
    mon_lapic_acknowledge(&apic);
    put(TPR, 0x90);
    send(0x70, false);
    cr_assert_eq(mon_lapic_threshold(&apic), 0);
    cr_assert_eq(mon_lapic_pending_above_isr(&apic), -1);
}

Test(devices_lapic, an_acknowledge_without_a_request_is_spurious)
{
    put(SVR, 0x1ef);
    cr_assert_eq(mon_lapic_acknowledge(&apic), 0xef);
    send(0x40, false);
    put(TPR, 0x40);
    cr_assert_eq(mon_lapic_acknowledge(&apic), 0xef);
    cr_assert_eq(get(ISR + 2), 0);
    cr_assert_eq(get(IRR + 2), 1);
}

Test(devices_lapic, ends_of_levels_are_told)
{
    send(0x40, true);
    send(0x90, false);
    cr_assert_eq(get(TMR + 2), 1);
    mon_lapic_acknowledge(&apic);
    put(EOI, 0);
    cr_assert_eq(eois, 0);
    mon_lapic_acknowledge(&apic);
    put(EOI, 0);
    cr_assert_eq(eois, 1);
    cr_assert_eq(last_eoi, 0x40);
    send(0x40, false);
    cr_assert_eq(get(TMR + 2), 0);
}

/* --- Destinations and messages -----------------------------------------------------------------*/

struct destination_row {
    bool x2;
    uint32_t ldr, dfr;
    uint8_t destination;
    bool logical, taken;
};
ParameterizedTestParameters(devices_lapic, destinations_are_this_cpu_or_nobody)
{
    static struct destination_row rows[] = {
        {false, 0, 0xffffffff, 0, false, true},
        {false, 0, 0xffffffff, 1, false, false},
        {false, 0, 0xffffffff, 0xff, false, true},
        {false, 0, 0xffffffff, 0xff, true, true},
        {false, 0x01000000, 0xffffffff, 0x01, true, true},
        {false, 0x01000000, 0xffffffff, 0xfe, true, false},
        {false, 0x21000000, 0x0fffffff, 0x21, true, true},
        {false, 0x21000000, 0x0fffffff, 0x2e, true, false},
        {false, 0x21000000, 0x0fffffff, 0x31, true, false},
        {false, 0x21000000, 0x0fffffff, 0xf1, true, true},
        {true, 0, 0, 0, false, true},
        {true, 0, 0, 1, true, true},
        {true, 0, 0, 2, true, false},
        {true, 0, 0, 2, false, false},
    };
    return cr_make_param_array(struct destination_row, rows, sizeof(rows) / sizeof(rows[0]));
}
ParameterizedTest(struct destination_row *row, devices_lapic, destinations_are_this_cpu_or_nobody)
{
    put(LDR, row->ldr);
    put(DFR, row->dfr);
    if (row->x2)
        mon_lapic_set_base(&apic, BASE | MON_LAPIC_X2);
    bool taken =
        mon_lapic_message(&apic, row->destination, row->logical, MON_DELIVERY_LOWEST, 0x40, false);
    cr_assert_eq(taken, row->taken);
    cr_assert_eq(mon_lapic_pending(&apic), row->taken ? 0x40 : -1);
}

struct ipi_row {
    uint32_t high, low;
    int pending;
    unsigned nmis, inits;
    uint32_t errors;
};
ParameterizedTestParameters(devices_lapic, ipis_to_itself)
{
    static struct ipi_row rows[] = {
        {0, 0x4055, 0x55, 0, 0, 0},               /* physical, id 0 */
        {0x01000000, 0x4055, -1, 0, 0, 0},        /* somebody else */
        {0xff000000, 0x4055, 0x55, 0, 0, 0},      /* broadcast */
        {0x05000000, SELF | 0x55, 0x55, 0, 0, 0}, /* shorthands */
        {0, 2 * SELF | 0x55, 0x55, 0, 0, 0},
        {0, 3 * SELF | 0x55, -1, 0, 0, 0},
        {0, SELF | 0x0f, -1, 0, 0, 1 << 5}, /* illegal vector */
        {0, 0x4400, -1, 1, 0, 0},           /* NMI */
        {0, INIT_ASSERT, -1, 0, 1, 0},
        {0, 2 * SELF | 0x8500, -1, 0, 0, 0}, /* INIT level de-assert */
        {0, 0x4608, -1, 0, 0, 0},            /* start-up: it runs already */
        {0, 0x4200, -1, 0, 0, 0},            /* SMI */
    };
    return cr_make_param_array(struct ipi_row, rows, sizeof(rows) / sizeof(rows[0]));
}
ParameterizedTest(struct ipi_row *row, devices_lapic, ipis_to_itself)
{
    put(ICR2, row->high);
    put(ICR, row->low);
    cr_assert_eq(get(ICR2), row->high);
    cr_assert_eq(get(ICR), row->low);
    cr_assert_eq(mon_lapic_pending(&apic), row->pending);
    cr_assert_eq(nmis, row->nmis);
    cr_assert_eq(inits, row->inits);
    put(ESR, 0);
    cr_assert_eq(get(ESR), row->errors);
}

/* --- Errors ------------------------------------------------------------------------------------*/

Test(devices_lapic, errors_show_after_a_write_and_interrupt_once)
{
    put(LVT_ERROR, 0xfe);
    cr_assert_not(send(3, false));
    cr_assert_eq(get(ESR), 0);
    cr_assert_eq(mon_lapic_acknowledge(&apic), 0xfe);
    put(EOI, 0);
    cr_assert_not(send(3, false));
    cr_assert_eq(mon_lapic_pending(&apic), -1, "the same error is no news");
    get(0x04); /* no such register */
    cr_assert_eq(mon_lapic_acknowledge(&apic), 0xfe);
    put(ESR, 0xffff);
    cr_assert_eq(get(ESR), 1 << 6 | 1 << 7);
    put(ESR, 0);
    cr_assert_eq(get(ESR), 0);
}

Test(devices_lapic, an_illegal_vector_for_errors_ends_there)
{
    put(LVT_ERROR, 0x05);
    put(ICR, SELF | 1);
    put(ESR, 0);
    cr_assert_eq(get(ESR), 1 << 5);
}

Test(devices_lapic, what_is_not_a_word_is_read_in_part_and_not_written)
{
    put(TPR, 0x5a);
    cr_assert_eq(mon_lapic_mmio.read(&apic, 0x80, 1), 0x5a);
    cr_assert_eq(mon_lapic_mmio.read(&apic, 0x32, 2) & 0xffff, VERSION >> 16);
    cr_assert_eq(mon_lapic_mmio.read(&apic, 0x84, 4), 0);
    mon_lapic_mmio.write(&apic, 0x80, 1, 0x11);
    mon_lapic_mmio.write(&apic, 0x84, 4, 0x11);
    cr_assert_eq(get(TPR), 0x5a);
    put(ID, 0x07000000);
    put(VER, 0);
    cr_assert_eq(get(ID), 0);
    cr_assert_eq(get(VER), VERSION);
}

/* --- Timer -------------------------------------------------------------------------------------*/

struct divide_row {
    uint32_t dcr, divisor;
};
ParameterizedTestParameters(devices_lapic, the_timer_divides)
{
    static struct divide_row rows[] = {{0x0, 2},  {0x1, 4},  {0x2, 8},   {0x3, 16},
                                       {0x8, 32}, {0x9, 64}, {0xa, 128}, {0xb, 1}};
    return cr_make_param_array(struct divide_row, rows, sizeof(rows) / sizeof(rows[0]));
}
ParameterizedTest(struct divide_row *row, devices_lapic, the_timer_divides)
{
    uint64_t tick = 40 * row->divisor;
    put(DCR, row->dcr);
    put(LVT_TIMER, 0x40);
    put(INITIAL, 1000);
    cr_assert_eq(get(CURRENT), 1000);
    cr_assert_eq(mon_lapic_deadline(&apic), hand.now + 1000 * tick);
    pass(999 * tick);
    cr_assert_eq(get(CURRENT), 1);
    cr_assert_eq(mon_lapic_pending(&apic), -1);
    pass(tick);
    cr_assert_eq(get(CURRENT), 0);
    cr_assert_eq(mon_lapic_pending(&apic), 0x40);
    cr_assert_eq(mon_lapic_deadline(&apic), MON_NEVER);
    mon_lapic_acknowledge(&apic);
    pass(5000 * tick);
    cr_assert_eq(mon_lapic_pending(&apic), -1, "once");
}

Test(devices_lapic, periods_do_not_drift_and_coalesce)
{
    uint64_t start = hand.now;
    put(DCR, 0xb);
    put(LVT_TIMER, 0x40 | PERIODIC);
    put(INITIAL, 25000); /* 1 ms */
    for (unsigned n = 1; n <= 3; n++) {
        cr_assert_eq(mon_lapic_deadline(&apic), start + n * MS);
        pass(MS + (n == 1 ? 1000 : 0));
        cr_assert_eq(mon_lapic_acknowledge(&apic), 0x40);
        put(EOI, 0);
    }
    pass(10 * MS);
    cr_assert_eq(mon_lapic_acknowledge(&apic), 0x40);
    put(EOI, 0);
    cr_assert_eq(mon_lapic_pending(&apic), -1);
    cr_assert_eq(mon_lapic_deadline(&apic), start + 14 * MS);
    cr_assert_eq(get(CURRENT), 25000 - 25);
    cr_assert_eq(apic.timer_interrupts, 4);
}

Test(devices_lapic, a_request_that_waits_needs_no_other)
{
    put(DCR, 0xb);
    put(LVT_TIMER, 0x40 | PERIODIC);
    put(INITIAL, 25000);
    pass(MS);
    cr_assert_eq(mon_lapic_deadline(&apic), MON_NEVER);
    mon_lapic_acknowledge(&apic);
    cr_assert_neq(mon_lapic_deadline(&apic), MON_NEVER);
}

Test(devices_lapic, a_masked_timer_counts_without_interrupting)
{
    put(DCR, 0xb);
    put(LVT_TIMER, 0x40 | MASKED);
    put(INITIAL, 25000);
    cr_assert_eq(mon_lapic_deadline(&apic), MON_NEVER);
    hand.now += 2 * MS;
    put(LVT_TIMER, 0x40);
    cr_assert_eq(mon_lapic_pending(&apic), -1, "it ran out while masked");
    put(INITIAL, 25000);
    hand.now += MS / 2;
    cr_assert_eq(get(CURRENT), 12500);
    put(INITIAL, 0);
    cr_assert_eq(get(CURRENT), 0);
    cr_assert_eq(mon_lapic_deadline(&apic), MON_NEVER);
}

Test(devices_lapic, dividing_anew_keeps_the_count)
{
    put(DCR, 0xb);
    put(LVT_TIMER, 0x40 | PERIODIC);
    put(INITIAL, 25000);
    pass(MS / 2);
    put(DCR, 0x0);
    cr_assert_eq(get(CURRENT), 12500);
    cr_assert_eq(mon_lapic_deadline(&apic), hand.now + MS);
    pass(MS);
    cr_assert_eq(mon_lapic_acknowledge(&apic), 0x40);
    cr_assert_eq(mon_lapic_deadline(&apic), hand.now + 2 * MS);
}

/* --- TSC deadline ------------------------------------------------------------------------------*/

static uint64_t msr(uint32_t index)
{
    uint64_t value = ~0ull;
    cr_assert(mon_lapic_read_msr(&apic, index, &value), "%x", index);
    return value;
}
static bool msr_put(uint32_t index, uint64_t value)
{
    return mon_lapic_write_msr(&apic, index, value);
}

Test(devices_lapic, a_deadline_interrupts_once_and_disarms)
{
    put(LVT_TIMER, 0x40 | TSC_MODE);
    cr_assert(msr_put(DEADLINE, tsc.now + 4000000)); /* 2 ms */
    cr_assert_eq(mon_lapic_deadline(&apic), hand.now + 2 * MS);
    cr_assert_eq(msr(DEADLINE), tsc.now + 4000000);
    put(INITIAL, 5);
    cr_assert_eq(get(INITIAL) | get(CURRENT), 0);
    pass(2 * MS - 1);
    cr_assert_eq(mon_lapic_pending(&apic), -1);
    pass(1);
    cr_assert_eq(mon_lapic_pending(&apic), 0x40);
    cr_assert_eq(msr(DEADLINE), 0);
    cr_assert_eq(apic.deadline, MON_NEVER);
}

Test(devices_lapic, a_deadline_in_the_past_is_now)
{
    put(LVT_TIMER, 0x40 | TSC_MODE);
    msr_put(DEADLINE, 1);
    cr_assert_eq(mon_lapic_acknowledge(&apic), 0x40);
    cr_assert_eq(msr(DEADLINE), 0);
    put(EOI, 0);
    msr_put(DEADLINE, UINT64_MAX);
    cr_assert(mon_lapic_deadline(&apic) > hand.now + 1000000 * MS);
    msr_put(DEADLINE, 0);
    cr_assert_eq(mon_lapic_deadline(&apic), MON_NEVER);
}

/* The host's clocks are not in step to the nanosecond: the TSC decides. */
Test(devices_lapic, an_early_clock_does_not_fire)
{
    put(LVT_TIMER, 0x40 | TSC_MODE);
    msr_put(DEADLINE, tsc.now + 2000000);
    hand.now += MS;
    tsc.now += 1999000;
    mon_lapic_update(&apic, hand.now);
    cr_assert_eq(mon_lapic_pending(&apic), -1);
    cr_assert_eq(mon_lapic_deadline(&apic), hand.now + 500);
    pass(500);
    cr_assert_eq(mon_lapic_pending(&apic), 0x40);
}

Test(devices_lapic, moving_the_tsc_moves_the_deadline)
{
    put(LVT_TIMER, 0x40 | TSC_MODE);
    msr_put(DEADLINE, tsc.now + 4000000);
    tsc.now += 2000000;
    mon_lapic_tsc_moved(&apic);
    cr_assert_eq(mon_lapic_deadline(&apic), hand.now + MS);
    tsc.now += 2000000;
    mon_lapic_tsc_moved(&apic);
    mon_lapic_update(&apic, hand.now);
    cr_assert_eq(mon_lapic_pending(&apic), 0x40);
}

Test(devices_lapic, other_modes_know_no_deadline)
{
    put(LVT_TIMER, 0x40);
    msr_put(DEADLINE, 1);
    cr_assert_eq(mon_lapic_pending(&apic), -1);
    cr_assert_eq(msr(DEADLINE), 0);
    put(DCR, 0xb);
    put(INITIAL, 25000);
    put(LVT_TIMER, 0x40 | TSC_MODE);
    cr_assert_eq(mon_lapic_deadline(&apic), MON_NEVER, "the count is gone");
    msr_put(DEADLINE, tsc.now + 2000);
    put(LVT_TIMER, 0x40);
    cr_assert_eq(mon_lapic_deadline(&apic), MON_NEVER, "so is the deadline");
    cr_assert_eq(msr(DEADLINE), 0);
}

/* --- x2APIC mode -------------------------------------------------------------------------------*/

struct x2_row {
    uint8_t reg;
    bool readable;
    uint64_t allowed, refused; /* values to write; 0 allowed with refused 0: not writable at all */
};
ParameterizedTestParameters(devices_lapic, x2apic_registers_are_checked)
{
    static struct x2_row rows[] = {
        {ID, true, 0, 0},
        {VER, true, 0, 0},
        {TPR, true, 0xff, 0x100},
        {PPR, true, 0, 0},
        {LDR, true, 0, 0},
        {SVR, true, 0x1ff, 0x1000},
        {ISR, true, 0, 0},
        {IRR + 7, true, 0, 0},
        {ESR, true, 0, 1},
        {EOI, false, 0, 1},
        {ICR, true, SELF | 0x40, 0x1000},
        {LVT_TIMER, true, 0x200ff, 0x80000},
        {LVT_TIMER, true, 0x1040, 0x2000},
        {LVT_THERMAL, true, 0x10740, 0x8000},
        {LVT_LINT0, true, 0x1e7ff, 0x20000},
        {LVT_LINT1, true, 0x400, 0x800},
        {LVT_ERROR, true, 0x100fe, 0x400},
        {INITIAL, true, 0xffffffff, 1ull << 32},
        {CURRENT, true, 0, 0},
        {DCR, true, 0xb, 0x4},
        {SELF_IPI, false, 0x40, 0x100},
    };
    return cr_make_param_array(struct x2_row, rows, sizeof(rows) / sizeof(rows[0]));
}
ParameterizedTest(struct x2_row *row, devices_lapic, x2apic_registers_are_checked, .init = setup_x2)
{
    uint64_t value;
    bool zero_allowed = row->refused == 1;
    cr_assert_eq(mon_lapic_read_msr(&apic, MSR(row->reg), &value), row->readable);
    cr_assert_not(msr_put(MSR(row->reg), 1ull << 63 | row->refused) && row->reg != ICR);
    if (row->refused)
        cr_assert_not(msr_put(MSR(row->reg), row->refused));
    cr_assert_eq(msr_put(MSR(row->reg), row->allowed), row->allowed || zero_allowed);
}

Test(devices_lapic, x2apic_mode_lacks_what_xapic_mode_has, .init = setup_x2)
{
    static const uint16_t absent[] = {0x00, 0x01, 0x04, APR,  0x0c, DFR, 0x29,
                                      0x2f, ICR2, 0x3a, 0x3d, 0x40, 0xff};
    uint64_t value;
    for (unsigned i = 0; i < sizeof(absent) / sizeof(absent[0]); i++) {
        cr_assert_not(mon_lapic_read_msr(&apic, MSR(absent[i]), &value), "%x", absent[i]);
        cr_assert_not(msr_put(MSR(absent[i]), 0), "%x", absent[i]);
    }
    cr_assert_eq(get(VER), 0xffffffff, "no page");
    put(TPR, 0x50);
    cr_assert_eq(msr(MSR(TPR)), 0);
}

Test(devices_lapic, x2apic_mode_keeps_the_state_and_makes_ldr)
{
    put(TPR, 0x30);
    put(LVT_TIMER, 0x44);
    send(0x77, false);
    mon_lapic_set_base(&apic, BASE | MON_LAPIC_X2);
    cr_assert_eq(msr(MSR(TPR)), 0x30);
    cr_assert_eq(msr(MSR(LVT_TIMER)), 0x44);
    cr_assert_eq(msr(MSR(LDR)), 1);
    cr_assert_eq(msr(MSR(IRR + 3)), 1 << 23);
}

Test(devices_lapic, x2apic_ipis_are_64_bits_wide, .init = setup_x2)
{
    cr_assert(msr_put(MSR(ICR), 5ull << 32 | 0x40));
    cr_assert_eq(msr(MSR(ICR)), 5ull << 32 | 0x40);
    cr_assert_eq(mon_lapic_pending(&apic), -1);
    cr_assert(msr_put(MSR(ICR), 0xffull << 32 | 0x40), "255 is an id here");
    cr_assert_eq(mon_lapic_pending(&apic), -1);
    cr_assert(msr_put(MSR(ICR), 0xffffffffull << 32 | 0x40));
    cr_assert_eq(mon_lapic_acknowledge(&apic), 0x40);
    cr_assert(msr_put(MSR(EOI), 0));
    cr_assert(msr_put(MSR(ICR), 1ull << 32 | 0x841), "logical");
    cr_assert_eq(mon_lapic_acknowledge(&apic), 0x41);
    cr_assert(msr_put(MSR(EOI), 0));
    cr_assert(msr_put(MSR(SELF_IPI), 0x42));
    cr_assert_eq(mon_lapic_acknowledge(&apic), 0x42);
    cr_assert(msr_put(MSR(SELF_IPI), 0x0f));
    cr_assert(msr_put(MSR(ESR), 0));
    cr_assert_eq(msr(MSR(ESR)), 1 << 5);
}
