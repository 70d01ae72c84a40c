/* devices_pic_test.c - the interrupt controllers: priorities, nesting, EOI, cascade, triggers. */
#include "tests/unit/devices_fixture.h"

#include "monitor/devices/pic.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>

enum { M_CMD = 0x20, M_DATA = 0x21, S_CMD = 0xa0, S_DATA = 0xa1, ELCR_M = 0x4d0, ELCR_S = 0x4d1 };
enum { EOI = 0x20, ROTATE_EOI = 0xa0, READ_IRR = 0x0a, READ_ISR = 0x0b, POLL = 0x0c };

static struct mon_bus bus;
static struct mon_pic pic;

/* As a kernel does: vectors 20h and 28h, nothing masked. */
static void start(unsigned master_icw4, unsigned slave_icw4)
{
    mon_bus_init(&bus);
    mon_pic_init(&pic);
    cr_assert(mon_pic_add_ports(&pic, &bus));
    static const uint16_t command[2] = {M_CMD, S_CMD};
    for (unsigned i = 0; i < 2; i++) {
        out8(&bus, command[i], 0x11);
        out8(&bus, command[i] + 1, 0x20 + 8 * i);
        out8(&bus, command[i] + 1, i ? 2 : 4);
        out8(&bus, command[i] + 1, i ? slave_icw4 : master_icw4);
        out8(&bus, command[i] + 1, 0);
    }
}

static void setup(void)
{
    start(1, 1);
}

static void pulse(unsigned line)
{
    mon_pic_set_line(&pic, line, true);
    mon_pic_set_line(&pic, line, false);
}

/* The vector that is pending, acknowledged; 0 when there is none. */
static unsigned take(void)
{
    return mon_pic_has_interrupt(&pic) ? mon_pic_acknowledge(&pic) : 0;
}

static unsigned read_isr(uint16_t command)
{
    out8(&bus, command, READ_ISR);
    return in8(&bus, command);
}

static unsigned read_irr(uint16_t command)
{
    out8(&bus, command, READ_IRR);
    return in8(&bus, command);
}

struct priority_row {
    uint16_t raised, masked;
    uint8_t lowest; /* set-priority command to the master; 7 is the default order */
    uint8_t vector;
};

ParameterizedTestParameters(devices_pic, highest_unmasked_request_wins)
{
    static struct priority_row rows[] = {
        {0x0001, 0x0000, 7, 0x20}, {0x0080, 0x0000, 7, 0x27}, {0x00f0, 0x0000, 7, 0x24},
        {0x00f0, 0x0010, 7, 0x25}, {0x00ff, 0x0001, 7, 0x21}, {0x00ff, 0x00ff, 7, 0x00},
        {0x8100, 0x0000, 7, 0x28}, {0x8100, 0x0100, 7, 0x2f}, {0x8108, 0x0000, 7, 0x28},
        {0x8102, 0x0000, 7, 0x21}, {0x0100, 0x0004, 7, 0x00}, {0x00ff, 0x0000, 3, 0x24},
        {0x000b, 0x0000, 0, 0x21}, {0x0101, 0x0000, 1, 0x28}, {0x0081, 0x0000, 6, 0x27},
    };
    return cr_make_param_array(struct priority_row, rows, sizeof(rows) / sizeof(rows[0]));
}

ParameterizedTest(struct priority_row *row, devices_pic, highest_unmasked_request_wins,
                  .timeout = 10, .init = setup)
{
    out8(&bus, M_CMD, 0xc0u | row->lowest);
    out8(&bus, M_DATA, row->masked & 0xff);
    out8(&bus, S_DATA, row->masked >> 8);
    for (unsigned line = 0; line < 16; line++)
        if (row->raised >> line & 1)
            mon_pic_set_line(&pic, line, true);
    cr_assert_eq(take(), row->vector);
}

Test(devices_pic, only_a_higher_priority_nests, .timeout = 10, .init = setup)
{
    pulse(3);
    cr_assert_eq(take(), 0x23);
    pulse(5);
    cr_assert_eq(take(), 0);
    pulse(3);
    cr_assert_eq(take(), 0);
    pulse(1);
    cr_assert_eq(take(), 0x21);
    cr_assert_eq(read_isr(M_CMD), 0x0a);
    out8(&bus, M_CMD, EOI); /* ends 1, the highest */
    cr_assert_eq(read_isr(M_CMD), 0x08);
    cr_assert_eq(take(), 0);
    out8(&bus, M_CMD, EOI);
    cr_assert_eq(take(), 0x23);
    out8(&bus, M_CMD, EOI);
    cr_assert_eq(take(), 0x25);
}

Test(devices_pic, specific_eoi_ends_the_named_input_only, .timeout = 10, .init = setup)
{
    pulse(4);
    cr_assert_eq(take(), 0x24);
    pulse(2 + 0); /* the cascade input cannot be raised from outside */
    cr_assert_eq(read_irr(M_CMD), 0);
    pulse(0);
    cr_assert_eq(take(), 0x20);
    out8(&bus, M_CMD, 0x64);
    cr_assert_eq(read_isr(M_CMD), 0x01);
    out8(&bus, M_CMD, 0x60);
    cr_assert_eq(read_isr(M_CMD), 0x00);
}

Test(devices_pic, slave_requests_come_through_the_cascade, .timeout = 10, .init = setup)
{
    pulse(12);
    pulse(14);
    cr_assert_eq(take(), 0x2c);
    cr_assert_eq(read_isr(M_CMD), 0x04);
    cr_assert_eq(read_isr(S_CMD), 0x10);
    cr_assert_eq(take(), 0);
    pulse(6); /* below the cascade */
    cr_assert_eq(take(), 0);
    out8(&bus, S_CMD, EOI);
    cr_assert_eq(take(), 0); /* the master still has its input 2 in service */
    out8(&bus, M_CMD, EOI);
    cr_assert_eq(take(), 0x2e);
    out8(&bus, S_CMD, EOI);
    out8(&bus, M_CMD, EOI);
    cr_assert_eq(take(), 0x26);
}

Test(devices_pic, special_fully_nested_master_lets_a_higher_slave_request_in, .timeout = 10)
{
    start(0x11, 0x01);
    pulse(12);
    cr_assert_eq(take(), 0x2c);
    pulse(14);
    cr_assert_eq(take(), 0);
    pulse(8);
    cr_assert_eq(take(), 0x28);
    cr_assert_eq(read_isr(S_CMD), 0x11);
}

Test(devices_pic, automatic_eoi_leaves_nothing_in_service, .timeout = 10)
{
    start(0x03, 0x03);
    pulse(9);
    pulse(11);
    pulse(4);
    cr_assert_eq(take(), 0x29);
    cr_assert_eq(take(), 0x2b);
    cr_assert_eq(take(), 0x24);
    cr_assert_eq(take(), 0);
    cr_assert_eq(read_isr(M_CMD), 0);
}

Test(devices_pic, rotation_on_automatic_eoi_is_fair, .timeout = 10)
{
    start(0x03, 0x01);
    out8(&bus, M_CMD, 0x80);
    pulse(0);
    pulse(1);
    cr_assert_eq(take(), 0x20);
    pulse(0);
    cr_assert_eq(take(), 0x21); /* 0 is the lowest now */
    cr_assert_eq(take(), 0x20);
    out8(&bus, M_CMD, 0x00); /* no more rotation */
    pulse(1);
    pulse(0);
    cr_assert_eq(take(), 0x21);
    pulse(1);
    cr_assert_eq(take(), 0x21);
}

Test(devices_pic, rotating_eoi_makes_its_input_the_lowest, .timeout = 10, .init = setup)
{
    pulse(4);
    cr_assert_eq(take(), 0x24);
    out8(&bus, M_CMD, ROTATE_EOI);
    for (unsigned line = 3; line < 8; line++)
        pulse(line);
    cr_assert_eq(take(), 0x25);
    out8(&bus, M_CMD, 0xe0 | 5); /* rotate on specific EOI */
    cr_assert_eq(take(), 0x26);
}

Test(devices_pic, special_mask_mode_enables_lower_priorities, .timeout = 10, .init = setup)
{
    pulse(2 + 1);
    cr_assert_eq(take(), 0x23);
    out8(&bus, M_DATA, 0x08);
    pulse(6);
    cr_assert_eq(take(), 0);
    out8(&bus, M_CMD, 0x68);
    cr_assert_eq(take(), 0x26);
    out8(&bus, M_CMD, EOI); /* does not end the masked one */
    cr_assert_eq(read_isr(M_CMD), 0x08);
    out8(&bus, M_CMD, 0x48);
    pulse(7);
    cr_assert_eq(take(), 0);
}

Test(devices_pic, an_edge_counts_once_and_is_latched, .timeout = 10, .init = setup)
{
    mon_pic_set_line(&pic, 4, true);
    cr_assert_eq(take(), 0x24);
    out8(&bus, M_CMD, EOI);
    mon_pic_set_line(&pic, 4, true);
    cr_assert_eq(take(), 0);
    mon_pic_set_line(&pic, 4, false);
    cr_assert_eq(take(), 0);
    pulse(4);
    pulse(4); /* coalesced */
    cr_assert_eq(take(), 0x24);
    out8(&bus, M_CMD, EOI);
    cr_assert_eq(take(), 0);
}

Test(devices_pic, a_level_is_requested_until_it_falls, .timeout = 10, .init = setup)
{
    out8(&bus, ELCR_S, 0x02);
    mon_pic_set_line(&pic, 9, true);
    for (unsigned i = 0; i < 3; i++) {
        cr_assert_eq(take(), 0x29);
        out8(&bus, S_CMD, EOI);
        out8(&bus, M_CMD, EOI);
    }
    mon_pic_set_line(&pic, 9, false);
    cr_assert_eq(read_irr(S_CMD), 0);
    cr_assert_eq(take(), 0x2f); /* the master has latched its edge: the slave's spurious vector */
    cr_assert_eq(read_isr(S_CMD), 0);
    cr_assert_eq(read_isr(M_CMD), 0x04);
}

Test(devices_pic, without_a_request_the_acknowledge_is_spurious, .timeout = 10, .init = setup)
{
    cr_assert_eq(mon_pic_acknowledge(&pic), 0x27);
    cr_assert_eq(read_isr(M_CMD), 0);
}

Test(devices_pic, elcr_keeps_the_system_lines_edge_triggered, .timeout = 10, .init = setup)
{
    out8(&bus, ELCR_M, 0xff);
    out8(&bus, ELCR_S, 0xff);
    cr_assert_eq(in8(&bus, ELCR_M), 0xf8);
    cr_assert_eq(in8(&bus, ELCR_S), 0xde);
}

Test(devices_pic, poll_acknowledges_by_reading, .timeout = 10, .init = setup)
{
    out8(&bus, M_CMD, POLL);
    cr_assert_eq(in8(&bus, M_CMD), 0);
    pulse(5);
    out8(&bus, M_CMD, POLL);
    cr_assert_eq(in8(&bus, M_CMD), 0x85);
    cr_assert_eq(read_isr(M_CMD), 0x20);
    pulse(10);
    out8(&bus, S_CMD, POLL);
    cr_assert_eq(in8(&bus, S_CMD), 0x82);
}

Test(devices_pic, icw1_starts_over_without_forgetting_line_levels, .timeout = 10, .init = setup)
{
    mon_pic_set_line(&pic, 1, true);
    cr_assert_eq(take(), 0x21);
    pulse(6);
    out8(&bus, M_CMD, 0x11);
    cr_assert_eq(pic.chip[MON_PIC_MASTER].isr, 0);
    out8(&bus, M_DATA, 0x30);
    out8(&bus, M_DATA, 0x04);
    out8(&bus, M_DATA, 0x01);
    cr_assert_eq(in8(&bus, M_DATA), 0); /* ICW1 cleared the mask */
    cr_assert_eq(take(), 0);            /* line 1 is high, but without an edge */
    mon_pic_set_line(&pic, 1, false);
    mon_pic_set_line(&pic, 1, true);
    cr_assert_eq(take(), 0x31);
}

Test(devices_pic, after_power_on_everything_is_masked, .timeout = 10)
{
    mon_bus_init(&bus);
    mon_pic_init(&pic);
    cr_assert(mon_pic_add_ports(&pic, &bus));
    for (unsigned line = 0; line < 16; line++)
        pulse(line);
    cr_assert_not(mon_pic_has_interrupt(&pic));
    cr_assert_eq(in8(&bus, M_DATA), 0xff);
    cr_assert_not(mon_pic_line_is_useful(&pic, 0));
}

Test(devices_pic, a_line_is_useful_while_an_edge_would_change_something, .timeout = 10,
     .init = setup)
{
    cr_assert(mon_pic_line_is_useful(&pic, 0));
    pulse(0);
    cr_assert_not(mon_pic_line_is_useful(&pic, 0));
    cr_assert_eq(take(), 0x20);
    cr_assert(mon_pic_line_is_useful(&pic, 0));
    out8(&bus, M_DATA, 0x01);
    cr_assert_not(mon_pic_line_is_useful(&pic, 0));
}
