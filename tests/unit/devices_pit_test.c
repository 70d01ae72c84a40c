/* devices_pit_test.c - the interval timer: counts, outputs and edges against computed ones. */
#include "tests/unit/devices_fixture.h"

#include "monitor/devices/pit.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>

enum { CH0 = 0x40, CH2 = 0x42, COMMAND = 0x43, GATE = 0x61 };
enum { START = 5000 }; /* tick at which the tests begin */

static struct mon_bus bus;
static struct mon_pit pit;
static struct hand_clock hand;
static struct wire wire;
static struct mon_clock hand_clock = {hand_clock_now, &hand};

static void at_tick(uint64_t tick)
{
    hand.now = mon_muldiv_up(tick, MON_NS_PER_S, MON_PIT_HZ);
}

static void setup(void)
{
    hand.now = 0;
    wire = (struct wire){0};
    mon_bus_init(&bus);
    mon_pit_init(&pit, &hand_clock, (struct mon_irq){wire_set, &wire, 0});
    cr_assert(mon_pit_add_ports(&pit, &bus));
    at_tick(START);
}

static void program(unsigned channel, unsigned mode, bool bcd, unsigned count)
{
    out8(&bus, COMMAND, channel << 6 | 0x30 | mode << 1 | bcd);
    out8(&bus, (uint16_t)(CH0 + channel), count & 0xff);
    out8(&bus, (uint16_t)(CH0 + channel), count >> 8);
}

static unsigned read_count(unsigned channel)
{
    out8(&bus, COMMAND, channel << 6);
    unsigned low = in8(&bus, (uint16_t)(CH0 + channel));
    return low | in8(&bus, (uint16_t)(CH0 + channel)) << 8;
}

static bool read_output(unsigned channel)
{
    out8(&bus, COMMAND, 0xe0u | 2u << channel);
    return in8(&bus, (uint16_t)(CH0 + channel)) >> 7;
}

struct count_row {
    uint8_t mode;
    bool bcd;
    uint16_t written;
    uint32_t elapsed; /* ticks since the count was loaded, one tick after the write */
    uint16_t count;
    bool output;
};

ParameterizedTestParameters(devices_pit, count_and_output_follow_the_clock)
{
    static struct count_row rows[] = {
        /* 0: low until terminal count, then on below 0 */
        {0, false, 100, 0, 100, false},
        {0, false, 100, 99, 1, false},
        {0, false, 100, 100, 0, true},
        {0, false, 100, 101, 0xffff, true},
        {0, false, 100, 65636, 0, true},
        {0, false, 0, 65535, 1, false},
        {0, false, 0, 65536, 0, true},
        {0, true, 0x1234, 234, 0x1000, false},
        {0, true, 0x0000, 1, 0x9999, false},
        {0, true, 0x0010, 11, 0x9999, true},
        /* 2: low for the last tick of each period */
        {2, false, 10, 0, 10, true},
        {2, false, 10, 8, 2, true},
        {2, false, 10, 9, 1, false},
        {2, false, 10, 10, 10, true},
        {2, false, 10, 1239, 1, false},
        {2, false, 0, 65535, 1, false},
        {2, true, 0x0100, 1, 0x0099, true},
        /* 3: square wave, counting by two */
        {3, false, 10, 0, 10, true},
        {3, false, 10, 4, 2, true},
        {3, false, 10, 5, 10, false},
        {3, false, 10, 9, 2, false},
        {3, false, 10, 10, 10, true},
        {3, false, 7, 0, 6, true},
        {3, false, 7, 3, 0, true},
        {3, false, 7, 4, 6, false},
        {3, false, 7, 6, 2, false},
        {3, false, 7, 7, 6, true},
        /* 4: one low tick at terminal count */
        {4, false, 100, 99, 1, true},
        {4, false, 100, 100, 0, false},
        {4, false, 100, 101, 0xffff, true},
    };
    return cr_make_param_array(struct count_row, rows, sizeof(rows) / sizeof(rows[0]));
}

ParameterizedTest(struct count_row *row, devices_pit, count_and_output_follow_the_clock,
                  .timeout = 10, .init = setup)
{
    program(0, row->mode, row->bcd, row->written);
    at_tick(START + 1 + (uint64_t)row->elapsed);
    cr_assert_eq(read_count(0), row->count, "count %x", read_count(0));
    cr_assert_eq(read_output(0), row->output);
}

struct edge_row {
    uint8_t mode;
    uint16_t count;
    uint32_t first;  /* ticks from load to the first rising edge */
    uint32_t second; /* to the second; 0 when there is none */
};

ParameterizedTestParameters(devices_pit, edges_come_when_the_output_rises)
{
    static struct edge_row rows[] = {
        {0, 1000, 1000, 0},    {2, 1000, 1000, 2000}, {2, 2, 2, 4},          {3, 1000, 1000, 2000},
        {3, 1001, 1001, 2002}, {4, 1000, 1001, 0},    {2, 0, 65536, 131072},
    };
    return cr_make_param_array(struct edge_row, rows, sizeof(rows) / sizeof(rows[0]));
}

ParameterizedTest(struct edge_row *row, devices_pit, edges_come_when_the_output_rises,
                  .timeout = 10, .init = setup)
{
    program(0, row->mode, false, row->count);
    unsigned before = wire.rises;
    at_tick(START + 1 + (uint64_t)row->first);
    cr_assert_eq(pit.deadline, hand.now);
    mon_pit_update(&pit, hand.now - 1);
    cr_assert_eq(wire.rises, before);
    mon_pit_update(&pit, hand.now);
    cr_assert_eq(wire.rises, before + 1);
    if (row->second) {
        at_tick(START + 1 + (uint64_t)row->second);
        cr_assert_eq(pit.deadline, hand.now);
        mon_pit_update(&pit, hand.now);
        cr_assert_eq(wire.rises, before + 2);
    } else {
        cr_assert_eq(pit.deadline, MON_NEVER);
    }
}

struct rate_row {
    uint16_t count;
    uint32_t seconds;
    uint32_t late_ns; /* how late each update comes */
};

ParameterizedTestParameters(devices_pit, the_tick_does_not_drift)
{
    static struct rate_row rows[] = {
        {4773, 60, 0}, {1193, 60, 0}, {4773, 60, 900000}, {11932, 600, 50000}};
    return cr_make_param_array(struct rate_row, rows, 4);
}

ParameterizedTest(struct rate_row *row, devices_pit, the_tick_does_not_drift, .timeout = 30,
                  .init = setup)
{
    program(0, 2, false, row->count);
    uint64_t end = hand.now + (uint64_t)row->seconds * MON_NS_PER_S;
    uint64_t before = pit.edges;
    while (pit.deadline + row->late_ns < end) {
        hand.now = pit.deadline + row->late_ns;
        mon_pit_update(&pit, hand.now);
    }
    uint64_t expected = (uint64_t)row->seconds * MON_PIT_HZ / row->count;
    cr_assert(pit.edges - before >= expected - 1 && pit.edges - before <= expected + 1,
              "%lu ticks, not %lu", (unsigned long)(pit.edges - before), (unsigned long)expected);
}

Test(devices_pit, missed_ticks_are_coalesced, .timeout = 10, .init = setup)
{
    program(0, 2, false, 1000);
    unsigned before = wire.rises;
    at_tick(START + 1 + 50500);
    mon_pit_update(&pit, hand.now);
    cr_assert_eq(wire.rises, before + 1);
    at_tick(START + 1 + 51000); /* and the next is where it always was */
    cr_assert_eq(pit.deadline, hand.now);
}

Test(devices_pit, a_latched_count_stays_until_it_is_read, .timeout = 10, .init = setup)
{
    program(0, 2, false, 60000);
    at_tick(START + 1 + 100);
    out8(&bus, COMMAND, 0x00);
    at_tick(START + 1 + 500);
    out8(&bus, COMMAND, 0x00); /* a second latch command is ignored */
    unsigned low = in8(&bus, CH0);
    cr_assert_eq(low | in8(&bus, CH0) << 8, 59900);
    low = in8(&bus, CH0); /* not latched any more */
    cr_assert_eq(low | in8(&bus, CH0) << 8, 59500);
}

Test(devices_pit, read_back_gives_status_before_count, .timeout = 10, .init = setup)
{
    out8(&bus, COMMAND, 0x34);
    out8(&bus, COMMAND, 0xe2);
    cr_assert_eq(in8(&bus, CH0), 0xf4); /* output high, no count yet, both bytes, mode 2 */
    out8(&bus, CH0, 0x10);
    out8(&bus, CH0, 0x27);
    at_tick(START + 11);
    out8(&bus, COMMAND, 0xc2);
    cr_assert_eq(in8(&bus, CH0), 0xb4);
    unsigned low = in8(&bus, CH0);
    cr_assert_eq(low | in8(&bus, CH0) << 8, 9990);
}

Test(devices_pit, single_byte_access_modes_set_one_half, .timeout = 10, .init = setup)
{
    out8(&bus, COMMAND, 0x20); /* channel 0, high byte, mode 0 */
    out8(&bus, CH0, 0x12);
    at_tick(START + 1);
    cr_assert_eq(in8(&bus, CH0), 0x12);
    out8(&bus, COMMAND, 0x10); /* low byte */
    out8(&bus, CH0, 0x34);
    at_tick(START + 2);
    cr_assert_eq(in8(&bus, CH0), 0x34);
    cr_assert_eq(in8(&bus, COMMAND), 0xff); /* the control word cannot be read */
}

Test(devices_pit, a_new_count_waits_for_the_end_of_the_period, .timeout = 10, .init = setup)
{
    program(0, 2, false, 1000);
    unsigned before = wire.rises;
    at_tick(START + 1 + 400);
    out8(&bus, CH0, 300 & 0xff);
    out8(&bus, CH0, 300 >> 8);
    cr_assert_eq(read_count(0), 600);
    at_tick(START + 1 + 1000);
    cr_assert_eq(pit.deadline, hand.now);
    mon_pit_update(&pit, hand.now);
    cr_assert_eq(wire.rises, before + 1);
    cr_assert_eq(read_count(0), 300);
    at_tick(START + 1 + 1300);
    cr_assert_eq(pit.deadline, hand.now);
}

Test(devices_pit, a_square_wave_takes_a_new_count_at_its_half, .timeout = 10, .init = setup)
{
    program(0, 3, false, 1000);
    unsigned before = wire.rises;
    at_tick(START + 1 + 100);
    out8(&bus, CH0, 200);
    out8(&bus, CH0, 0);
    at_tick(START + 1 + 500); /* falls: low for 100 ticks of the new count */
    mon_pit_update(&pit, hand.now);
    cr_assert_eq(wire.rises, before);
    cr_assert_not(read_output(0));
    at_tick(START + 1 + 600);
    cr_assert_eq(pit.deadline, hand.now);
    mon_pit_update(&pit, hand.now);
    cr_assert_eq(wire.rises, before + 1);
}

Test(devices_pit, mode_0_stops_at_the_first_byte_of_a_new_count, .timeout = 10, .init = setup)
{
    program(0, 0, false, 100);
    at_tick(START + 1 + 200);
    mon_pit_update(&pit, hand.now);
    cr_assert(wire.level);
    out8(&bus, CH0, 50);
    cr_assert_not(wire.level);
    cr_assert_eq(pit.deadline, MON_NEVER);
    out8(&bus, CH0, 0);
    at_tick(START + 1 + 200 + 51);
    cr_assert_eq(pit.deadline, hand.now);
}

Test(devices_pit, the_gate_holds_mode_0_and_port_61_shows_the_output, .timeout = 10, .init = setup)
{
    program(2, 0, false, 1000);
    at_tick(START + 5000);
    cr_assert_eq(in8(&bus, GATE) & 0x21, 0x00); /* gate low: nothing counts */
    cr_assert_eq(read_count(2), 1000);
    out8(&bus, GATE, 0x01);
    at_tick(START + 5000 + 400);
    cr_assert_eq(read_count(2), 600);
    out8(&bus, GATE, 0x00);
    at_tick(START + 9000);
    cr_assert_eq(read_count(2), 600);
    out8(&bus, GATE, 0x01);
    at_tick(START + 9000 + 599);
    cr_assert_eq(in8(&bus, GATE) & 0x21, 0x01);
    at_tick(START + 9000 + 600);
    cr_assert_eq(in8(&bus, GATE) & 0x21, 0x21);
}

struct trigger_row {
    uint8_t mode;
    bool before, running, at_end, after; /* output */
};

ParameterizedTestParameters(devices_pit, a_rising_gate_triggers_modes_1_and_5)
{
    static struct trigger_row rows[] = {{1, true, false, true, true}, {5, true, true, false, true}};
    return cr_make_param_array(struct trigger_row, rows, 2);
}

ParameterizedTest(struct trigger_row *row, devices_pit, a_rising_gate_triggers_modes_1_and_5,
                  .timeout = 10, .init = setup)
{
    program(2, row->mode, false, 100);
    at_tick(START + 500);
    cr_assert_eq(read_output(2), row->before);
    out8(&bus, GATE, 1);
    out8(&bus, GATE, 0); /* the pulse is enough */
    at_tick(START + 501 + 50);
    cr_assert_eq(read_output(2), row->running);
    cr_assert_eq(read_count(2), 50);
    out8(&bus, GATE, 1); /* again: starts over */
    at_tick(START + 551 + 1 + 99);
    cr_assert_eq(read_output(2), row->running);
    at_tick(START + 551 + 1 + 100);
    cr_assert_eq(read_output(2), row->at_end);
    at_tick(START + 551 + 1 + 101);
    cr_assert_eq(read_output(2), row->after);
}

Test(devices_pit, a_low_gate_forces_rate_generators_high, .timeout = 10, .init = setup)
{
    out8(&bus, GATE, 1);
    program(2, 3, false, 100);
    at_tick(START + 1 + 60);
    cr_assert_not(read_output(2));
    out8(&bus, GATE, 0);
    cr_assert(read_output(2));
    at_tick(START + 1000);
    out8(&bus, GATE, 1); /* starts a new period */
    at_tick(START + 1001 + 49);
    cr_assert(read_output(2));
    at_tick(START + 1001 + 50);
    cr_assert_not(read_output(2));
}

Test(devices_pit, the_refresh_bit_toggles_every_15_us, .timeout = 10, .init = setup)
{
    unsigned changes = 0, last = in8(&bus, GATE) & 0x10;
    for (unsigned i = 0; i < 1000; i++) {
        hand.now += 1000;
        unsigned bit = in8(&bus, GATE) & 0x10;
        changes += bit != last;
        last = bit;
    }
    cr_assert(changes >= 65 && changes <= 67, "%u changes in 1 ms", changes);
}
