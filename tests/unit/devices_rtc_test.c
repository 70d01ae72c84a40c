/* devices_rtc_test.c - the real-time clock: encodings, setting, and its three interrupts. */
#include "tests/unit/devices_fixture.h"

#include "monitor/devices/rtc.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>

enum {
    SECONDS,
    SECONDS_ALARM,
    MINUTES,
    MINUTES_ALARM,
    HOURS,
    HOURS_ALARM,
    WEEKDAY,
    DAY,
    MONTH,
    YEAR,
    REG_A,
    REG_B,
    REG_C,
    REG_D,
    CENTURY = 0x32
};
enum { SET = 0x80, PIE = 0x40, AIE = 0x20, UIE = 0x10, BINARY = 0x04, H24 = 0x02 };
enum { IRQF = 0x80, PF = 0x40, AF = 0x20, UF = 0x10 };

#define MS 1000000ull
#define S  1000000000ull
/* 2026-11-22 15:04:05.25 UTC, a Sunday */
#define WALL (1795359845ull * S + 250 * MS)

static struct mon_bus bus;
static struct mon_rtc rtc;
static struct hand_clock hand;
static struct wire wire;
static struct mon_clock hand_clock = {hand_clock_now, &hand};

static void start(uint64_t wall)
{
    hand.now = 0;
    wire = (struct wire){0};
    mon_bus_init(&bus);
    mon_rtc_init(&rtc, &hand_clock, (struct mon_irq){wire_set, &wire, 8}, wall);
    cr_assert(mon_rtc_add_ports(&rtc, &bus));
}

static void setup(void)
{
    start(WALL);
}

static unsigned get(unsigned index)
{
    out8(&bus, 0x70, index);
    return in8(&bus, 0x71);
}

static void set(unsigned index, unsigned value)
{
    out8(&bus, 0x70, index);
    out8(&bus, 0x71, value);
}

/* Runs to a moment as the machine does: deadline by deadline. */
static void run_to(uint64_t then)
{
    while (rtc.deadline <= then) {
        hand.now = rtc.deadline;
        mon_rtc_update(&rtc, hand.now);
    }
    hand.now = then;
}

struct time_row {
    uint64_t wall; /* seconds */
    uint8_t reg_b;
    uint8_t century, year, month, day, weekday, hours, minutes, seconds;
};

ParameterizedTestParameters(devices_rtc, time_of_day_in_every_encoding)
{
    static struct time_row rows[] = {
        {1795359845, H24, 0x20, 0x26, 0x11, 0x22, 0x01, 0x15, 0x04, 0x05},
        {1795359845, H24 | BINARY, 20, 26, 11, 22, 1, 15, 4, 5},
        {1795359845, 0, 0x20, 0x26, 0x11, 0x22, 0x01, 0x83, 0x04, 0x05},
        {1795359845, BINARY, 20, 26, 11, 22, 1, 0x83, 4, 5},
        {1795305600, 0, 0x20, 0x26, 0x11, 0x22, 0x01, 0x12, 0x00, 0x00}, /* midnight: 12 AM */
        {1795348800, 0, 0x20, 0x26, 0x11, 0x22, 0x01, 0x92, 0x00, 0x00}, /* noon: 12 PM */
        {951782399, H24, 0x20, 0x00, 0x02, 0x28, 0x02, 0x23, 0x59, 0x59},
        {951782400, H24, 0x20, 0x00, 0x02, 0x29, 0x03, 0x00, 0x00, 0x00}, /* leap day */
        {946684799, H24, 0x19, 0x99, 0x12, 0x31, 0x06, 0x23, 0x59, 0x59},
        {0, H24, 0x19, 0x70, 0x01, 0x01, 0x05, 0x00, 0x00, 0x00},
    };
    return cr_make_param_array(struct time_row, rows, sizeof(rows) / sizeof(rows[0]));
}

ParameterizedTest(struct time_row *row, devices_rtc, time_of_day_in_every_encoding, .timeout = 10)
{
    start(row->wall * S);
    set(REG_B, row->reg_b);
    cr_assert_eq(get(CENTURY), row->century);
    cr_assert_eq(get(YEAR), row->year);
    cr_assert_eq(get(MONTH), row->month);
    cr_assert_eq(get(DAY), row->day);
    cr_assert_eq(get(WEEKDAY), row->weekday);
    cr_assert_eq(get(HOURS), row->hours, "hours %x", get(HOURS));
    cr_assert_eq(get(MINUTES), row->minutes);
    cr_assert_eq(get(SECONDS), row->seconds);
}

Test(devices_rtc, seconds_begin_where_the_hosts_do, .timeout = 10, .init = setup)
{
    hand.now = 750 * MS - 1;
    cr_assert_eq(get(SECONDS), 0x05);
    hand.now = 750 * MS;
    cr_assert_eq(get(SECONDS), 0x06);
    hand.now = 55 * S + 750 * MS;
    cr_assert_eq(get(SECONDS), 0x01);
    cr_assert_eq(get(MINUTES), 0x05);
}

Test(devices_rtc, update_in_progress_precedes_the_second, .timeout = 10, .init = setup)
{
    cr_assert_eq(get(REG_A) & 0x80, 0);
    hand.now = 747 * MS;
    cr_assert_eq(get(REG_A) & 0x80, 0);
    hand.now = 748 * MS;
    cr_assert_eq(get(REG_A) & 0x80, 0x80);
    hand.now = 750 * MS;
    cr_assert_eq(get(REG_A) & 0x80, 0);
    cr_assert_eq(get(REG_A), 0x26);
    cr_assert_eq(get(REG_D), 0x80);
}

Test(devices_rtc, a_time_set_while_stopped_goes_on_from_there, .timeout = 10, .init = setup)
{
    static const uint8_t wanted[][2] = {{SECONDS, 0x58}, {MINUTES, 0x59}, {HOURS, 0x23},
                                        {DAY, 0x31},     {MONTH, 0x12},   {YEAR, 0x99}};
    set(REG_B, H24 | SET);
    hand.now = 5 * S;
    cr_assert_eq(get(SECONDS), 0x05, "it stands still while SET");
    for (unsigned i = 0; i < 6; i++)
        set(wanted[i][0], wanted[i][1]);
    set(CENTURY, 0x19);
    set(REG_B, H24);
    for (unsigned i = 0; i < 6; i++)
        cr_assert_eq(get(wanted[i][0]), wanted[i][1]);
    hand.now += 2 * S;
    cr_assert_eq(get(SECONDS), 0x00);
    cr_assert_eq(get(YEAR), 0x00);
    cr_assert_eq(get(CENTURY), 0x20);
    cr_assert_eq(get(DAY), 0x01);
}

Test(devices_rtc, cmos_bytes_keep_what_was_written, .timeout = 10, .init = setup)
{
    set(0x0e, 0xa5);
    set(0x7f, 0x5a);
    cr_assert_eq(get(0x8e), 0xa5); /* bit 7 is the NMI mask */
    cr_assert_eq(get(0x7f), 0x5a);
    cr_assert_eq(in8(&bus, 0x70), 0xff);
}

Test(devices_rtc, memory_sizes_are_where_firmware_puts_them, .timeout = 10, .init = setup)
{
    mon_rtc_set_memory(&rtc, 512ull << 20, 1ull << 30);
    cr_assert_eq(get(0x15) | get(0x16) << 8, 639);
    cr_assert_eq(get(0x30) | get(0x31) << 8, 0xffff);
    cr_assert_eq(get(0x34) | get(0x35) << 8, (496u << 20) >> 16);
    cr_assert_eq(get(0x5b) | get(0x5c) << 8, (1u << 30) >> 16);
    mon_rtc_set_memory(&rtc, 2ull << 20, 0);
    cr_assert_eq(get(0x30) | get(0x31) << 8, 1024);
    cr_assert_eq(get(0x34) | get(0x35) << 8, 0);
}

struct periodic_row {
    uint8_t rate;
    uint32_t hz;
};

ParameterizedTestParameters(devices_rtc, periodic_interrupts_come_at_the_rate)
{
    static struct periodic_row rows[] = {{0, 0},   {1, 256}, {2, 128}, {3, 8192}, {6, 1024},
                                         {8, 256}, {10, 64}, {13, 8},  {15, 2}};
    return cr_make_param_array(struct periodic_row, rows, sizeof(rows) / sizeof(rows[0]));
}

ParameterizedTest(struct periodic_row *row, devices_rtc, periodic_interrupts_come_at_the_rate,
                  .timeout = 20, .init = setup)
{
    unsigned count = 0;
    set(REG_A, 0x20u | row->rate);
    set(REG_B, H24 | PIE);
    while (rtc.deadline <= 4 * S) {
        hand.now = rtc.deadline;
        mon_rtc_update(&rtc, hand.now);
        cr_assert(wire.level);
        cr_assert_eq(get(REG_C) & (IRQF | PF), IRQF | PF);
        cr_assert_not(wire.level);
        count++;
    }
    cr_assert_eq(count, 4 * row->hz, "%u", count);
}

Test(devices_rtc, the_line_stays_up_until_register_c_is_read, .timeout = 10, .init = setup)
{
    set(REG_B, H24 | UIE);
    cr_assert_eq(rtc.deadline, 750 * MS);
    run_to(5 * S);
    cr_assert(wire.level);
    cr_assert_eq(wire.rises, 1);
    cr_assert_eq(rtc.deadline, MON_NEVER); /* nothing to wake up for */
    cr_assert_eq(get(REG_C), IRQF | UF | PF);
    cr_assert_eq(get(REG_C), 0);
    cr_assert_eq(rtc.deadline, 5 * S + 750 * MS);
}

Test(devices_rtc, flags_are_set_without_their_interrupts, .timeout = 10, .init = setup)
{
    hand.now = S;
    cr_assert_eq(get(REG_C), PF | UF);
    cr_assert_eq(wire.rises, 0);
    cr_assert_eq(rtc.deadline, MON_NEVER);
}

Test(devices_rtc, setting_stops_updates_and_clears_their_enable, .timeout = 10, .init = setup)
{
    set(REG_B, H24 | UIE | SET);
    cr_assert_eq(get(REG_B), H24 | SET);
    hand.now = 3 * S;
    cr_assert_eq(get(REG_C) & UF, 0);
}

struct alarm_row {
    uint8_t hours, minutes, seconds; /* C0h and up: any */
    uint32_t after;                  /* seconds of the clock, which stands at 15:04:05 */
};

ParameterizedTestParameters(devices_rtc, the_alarm_rings_at_the_next_match)
{
    static struct alarm_row rows[] = {{0x15, 0x04, 0x06, 1},    {0x15, 0x05, 0x00, 55},
                                      {0xff, 0xff, 0x00, 55},   {0xff, 0xff, 0xff, 1},
                                      {0xff, 0x04, 0x05, 3600}, {0x15, 0x04, 0x05, 86400},
                                      {0x16, 0xc0, 0xc0, 3355}, {0x00, 0x00, 0x00, 32155}};
    return cr_make_param_array(struct alarm_row, rows, sizeof(rows) / sizeof(rows[0]));
}

ParameterizedTest(struct alarm_row *row, devices_rtc, the_alarm_rings_at_the_next_match,
                  .timeout = 10, .init = setup)
{
    set(HOURS_ALARM, row->hours);
    set(MINUTES_ALARM, row->minutes);
    set(SECONDS_ALARM, row->seconds);
    set(REG_B, H24 | AIE);
    uint64_t expected = 750 * MS + (uint64_t)(row->after - 1) * S;
    cr_assert_eq(rtc.deadline, expected, "%lu", (unsigned long)rtc.deadline);
    run_to(expected);
    cr_assert(wire.level);
    cr_assert_eq(get(REG_C) & (IRQF | AF), IRQF | AF);
}

Test(devices_rtc, hours_after_noon_are_understood_in_12_hour_mode, .timeout = 10, .init = setup)
{
    set(HOURS_ALARM, 0x83); /* 3 PM */
    set(MINUTES_ALARM, 0x05);
    set(SECONDS_ALARM, 0x00);
    set(REG_B, AIE);
    cr_assert_eq(rtc.deadline, 750 * MS + 54 * S);
    set(REG_B, SET);
    set(HOURS, 0x92); /* 12 PM: noon */
    set(REG_B, 0);
    set(REG_B, H24);
    cr_assert_eq(get(HOURS), 0x12);
    set(REG_B, 0);
    set(REG_B, SET);
    set(HOURS, 0x12); /* 12 AM: midnight */
    set(REG_B, 0);
    set(REG_B, H24);
    cr_assert_eq(get(HOURS), 0x00);
}

Test(devices_rtc, with_the_line_up_nothing_else_needs_a_wakeup, .timeout = 10, .init = setup)
{
    set(REG_B, H24 | PIE | UIE);
    hand.now = rtc.deadline;
    mon_rtc_update(&rtc, hand.now);
    cr_assert(wire.level);
    cr_assert_eq(rtc.deadline, MON_NEVER);
    get(REG_C);
    cr_assert(rtc.deadline != MON_NEVER && !wire.level);
}

Test(devices_rtc, an_alarm_that_matches_no_time_never_rings, .timeout = 10, .init = setup)
{
    set(HOURS_ALARM, 0x25);
    set(MINUTES_ALARM, 0x00);
    set(SECONDS_ALARM, 0x00);
    set(REG_B, H24 | AIE);
    cr_assert_eq(rtc.deadline, MON_NEVER);
    hand.now = 100000 * S;
    cr_assert_eq(get(REG_C) & AF, 0);
}
