/* devices_hpet_test.c - the HPET: counter, one-shot and periodic comparators, routes, status. */
#include "tests/unit/devices_fixture.h"

#include "monitor/devices/hpet.h"

#include <criterion/criterion.h>

enum {
    CAP = 0x00,
    CONFIG = 0x10,
    STATUS = 0x20,
    COUNTER = 0xf0,
    T0 = 0x100,
    T1 = 0x120,
    T2 = 0x140,
    CMP = 8,
    ON = 1,
    LEGACY = 2,
    LEVEL = 1 << 1,
    INT = 1 << 2,
    PERIODIC = 1 << 3,
    SET = 1 << 6,
    T32 = 1 << 8,
};
#define ROUTE(pin) ((uint64_t)(pin) << 9)

static struct mon_hpet hpet;
static struct hand_clock hand;
static struct mon_clock clock = {hand_clock_now, &hand};
static unsigned rises[32], legacy_rises[16];
static bool levels[32], legacy_levels[16];

static void set_pin(void *opaque, unsigned line, bool level)
{
    (void)opaque;
    rises[line] += level && !levels[line];
    levels[line] = level;
}
static void set_legacy(void *opaque, unsigned line, bool level)
{
    (void)opaque;
    legacy_rises[line] += level && !legacy_levels[line];
    legacy_levels[line] = level;
}

static void setup(void)
{
    hand.now = 1000000;
    mon_hpet_init(&hpet, &clock, (struct mon_irq){set_pin, NULL, 0},
                  (struct mon_irq){set_legacy, NULL, 0});
}

static uint64_t get(unsigned reg)
{
    return mon_hpet_mmio.read(&hpet, reg, 8);
}
static void put(unsigned reg, uint64_t value)
{
    mon_hpet_mmio.write(&hpet, reg, 8, value);
}
static void put32(unsigned reg, uint32_t value)
{
    mon_hpet_mmio.write(&hpet, reg, 4, value);
}
static void pass(uint64_t ticks)
{
    hand.now += ticks * 10;
    mon_hpet_update(&hpet, hand.now);
}

TestSuite(devices_hpet, .init = setup, .timeout = 10);

Test(devices_hpet, capabilities)
{
    cr_assert_eq(get(CAP), 10000000ull << 32 | 0x8086a201);
    cr_assert_eq((uint32_t)mon_hpet_mmio.read(&hpet, CAP + 4, 4), 10000000);
    put(CAP, 0);
    cr_assert_eq((uint32_t)get(CAP), 0x8086a201);
    cr_assert_eq(get(T0), 0x00f0000000000030);
    cr_assert_eq(get(T1), 0x00f0000000000020);
    put(T1, ~0ull);
    cr_assert_eq((uint32_t)get(T1), (LEVEL | INT | T32 | 0x3e00 | 0x20), "not periodic");
    cr_assert_eq(get(T2 + 0x20), 0, "three timers");
    cr_assert_eq(get(0x30), 0);
}

Test(devices_hpet, the_counter_runs_while_enabled)
{
    pass(100);
    cr_assert_eq(get(COUNTER), 0);
    put(CONFIG, ON);
    pass(100);
    cr_assert_eq(get(COUNTER), 100);
    put(COUNTER, 5);
    cr_assert_eq(get(COUNTER), 100, "not while it runs");
    put(CONFIG, 0);
    pass(50);
    cr_assert_eq(get(COUNTER), 100);
    put(COUNTER, 0x1fffffff0);
    put(CONFIG, ON);
    pass(0x20);
    cr_assert_eq(get(COUNTER), 0x200000010);
    cr_assert_eq((uint32_t)mon_hpet_mmio.read(&hpet, COUNTER + 4, 4), 2);
}

Test(devices_hpet, a_one_shot_interrupts_once)
{
    put(T2, INT | ROUTE(22));
    put(T2 + CMP, 1000);
    cr_assert_eq(hpet.deadline, MON_NEVER, "disabled");
    put(CONFIG, ON);
    cr_assert_eq(hpet.deadline, hand.now + 10000);
    pass(999);
    cr_assert_eq(rises[22], 0);
    pass(1);
    cr_assert_eq(rises[22], 1);
    cr_assert_eq(levels[22], false);
    cr_assert_eq(get(STATUS), 0);
    pass(100000000);
    cr_assert_eq(rises[22], 1);
    put(T2 + CMP, get(COUNTER) - 1);
    pass(1000);
    cr_assert_eq(rises[22], 1, "behind the counter");
}

Test(devices_hpet, a_32_bit_one_shot_comes_round)
{
    put(T1, INT | T32 | ROUTE(21));
    put(T1 + CMP, 0x700000010);
    cr_assert_eq(get(T1 + CMP), 0x10);
    put(CONFIG, ON);
    pass(0x10);
    cr_assert_eq(rises[21], 1);
    pass(0xffffffff);
    cr_assert_eq(rises[21], 1);
    pass(1);
    cr_assert_eq(rises[21], 2);
}

/* As Linux does it: SET_VALUE for the first match, then the period. */
Test(devices_hpet, periods_do_not_drift_and_coalesce)
{
    put(CONFIG, ON);
    uint64_t start = hand.now;
    put(T0, INT | PERIODIC | SET | T32 | ROUTE(20));
    put32(T0 + CMP, 5000);
    put32(T0 + CMP, 1000);
    cr_assert_eq(get(T0) & SET, 0);
    cr_assert_eq(hpet.deadline, start + 50000);
    pass(5003);
    cr_assert_eq(rises[20], 1);
    cr_assert_eq(hpet.deadline, start + 60000);
    pass(10000);
    cr_assert_eq(rises[20], 2);
    cr_assert_eq(hpet.deadline, start + 160000);
    cr_assert_eq(get(T0 + CMP), 16000);
}

Test(devices_hpet, a_64_bit_period_may_be_written_in_halves)
{
    put(CONFIG, ON);
    put(T0, INT | PERIODIC | SET | ROUTE(20));
    put(T0 + CMP, 100);
    put32(T0 + CMP, 7);
    put32(T0 + CMP + 4, 1);
    pass(100);
    cr_assert_eq(rises[20], 1);
    cr_assert_eq(get(T0 + CMP), 100 + 0x100000007);
}

/* The comparator of a periodic timer goes on while its interrupt is off. */
Test(devices_hpet, a_period_goes_on_unseen)
{
    put(CONFIG, ON);
    put(T0, PERIODIC | SET | ROUTE(20));
    put(T0 + CMP, 1000);
    put(T0 + CMP, 1000);
    cr_assert_eq(hpet.deadline, MON_NEVER);
    pass(10500);
    put(T0, INT | PERIODIC | ROUTE(20));
    cr_assert_eq(hpet.deadline, hand.now + 5000);
    pass(500);
    cr_assert_eq(rises[20], 1);
}

Test(devices_hpet, levels_stay_until_status_is_cleared)
{
    put(CONFIG, ON);
    put(T1, INT | LEVEL | ROUTE(23));
    put(T1 + CMP, 100);
    pass(100);
    cr_assert_eq(levels[23], true);
    cr_assert_eq(get(STATUS), 1 << 1);
    put(STATUS, 1);
    cr_assert_eq(levels[23], true);
    put(STATUS, 1 << 1);
    cr_assert_eq(levels[23], false);
    cr_assert_eq(get(STATUS), 0);
}

Test(devices_hpet, a_masked_level_shows_in_status)
{
    put(CONFIG, ON);
    put(T1, LEVEL | ROUTE(23));
    put(T1 + CMP, 100);
    pass(200);
    cr_assert_eq(get(STATUS), 1 << 1);
    cr_assert_eq(levels[23], false);
    put(T1, INT | LEVEL | ROUTE(23));
    cr_assert_eq(levels[23], true);
    put(T1, INT | LEVEL | ROUTE(22));
    cr_assert_eq(levels[23], false, "the old pin is left alone");
    cr_assert_eq(levels[22], true);
}

Test(devices_hpet, pins_that_it_may_not_use_stay_quiet)
{
    put(CONFIG, ON);
    put(T2, INT | ROUTE(5));
    put(T2 + CMP, 100);
    pass(100);
    cr_assert_eq(rises[5], 0);
}

Test(devices_hpet, legacy_replacement_takes_irq_0_and_8)
{
    cr_assert_not(mon_hpet_is_legacy(&hpet));
    legacy_levels[0] = true; /* as the PIT may leave it */
    put(CONFIG, ON | LEGACY);
    cr_assert(mon_hpet_is_legacy(&hpet));
    put(T0, INT | ROUTE(20));
    put(T1, INT | ROUTE(21));
    put(T2, INT | ROUTE(22));
    for (unsigned n = 0; n < 3; n++)
        put(T0 + 0x20 * n + CMP, 100);
    pass(100);
    cr_assert_eq(legacy_rises[0], 1);
    cr_assert_eq(legacy_rises[8], 1);
    cr_assert_eq(rises[20] + rises[21], 0);
    cr_assert_eq(rises[22], 1);
}

Test(devices_hpet, disabling_stops_and_lowers)
{
    put(CONFIG, ON);
    put(T1, INT | LEVEL | ROUTE(23));
    put(T1 + CMP, 100);
    pass(100);
    cr_assert_eq(levels[23], true);
    put(T2, INT | ROUTE(22));
    put(T2 + CMP, 200);
    put(CONFIG, 0);
    cr_assert_eq(levels[23], false);
    cr_assert_eq(hpet.deadline, MON_NEVER);
    pass(1000);
    put(CONFIG, ON);
    pass(99);
    cr_assert_eq(rises[22], 0);
    pass(1);
    cr_assert_eq(rises[22], 1, "the counter stood meanwhile");
}
