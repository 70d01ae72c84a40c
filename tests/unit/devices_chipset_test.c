/* devices_chipset_test.c - keyboard controller, reset ports, debug exit, ACPI, and the whole board.
 */
#include "tests/unit/devices_fixture.h"

#include "monitor/devices/pc.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <string.h>

enum { KBC_DATA = 0x60, KBC_COMMAND = 0x64 };
enum { PM1_STS = 0x600, PM1_EN = 0x602, PM1_CNT = 0x604, PM_TMR = 0x608 };

static struct mon_pc pc;
static struct hand_clock hand;

static void start(int debug_exit_port)
{
    struct mon_pc_config config = {
        .clock = {hand_clock_now, &hand},
        .wall_ns = 1795359845000000000ull,
        .ram_below_4g = 512ull << 20,
        .debug_exit_port = debug_exit_port,
    };
    hand.now = 0;
    cr_assert(mon_pc_init(&pc, &config));
}

static void setup(void)
{
    start(-1);
}

static void out(uint16_t port, unsigned value)
{
    mon_pc_out(&pc, port, 1, value);
}

static unsigned in(uint16_t port)
{
    return mon_pc_in(&pc, port, 1);
}

static void unmask(unsigned mask)
{
    out(0x20, 0x11);
    out(0x21, 0x20);
    out(0x21, 4);
    out(0x21, 1);
    out(0x21, ~mask & 0xff);
    out(0xa0, 0x11);
    out(0xa1, 0x28);
    out(0xa1, 2);
    out(0xa1, 1);
    out(0xa1, ~mask >> 8 & 0xff);
}

/* --- Keyboard controller -----------------------------------------------------------------------*/

struct kbc_row {
    uint8_t command, answer, status;
};

ParameterizedTestParameters(devices_i8042, commands_answer)
{
    static struct kbc_row rows[] = {
        {0xaa, 0x55, 0x15}, /* self-test */
        {0xab, 0x00, 0x15}, /* keyboard port */
        {0xa9, 0x01, 0x15}, /* auxiliary port: not there */
        {0x20, 0x34, 0x15}, /* command byte: system flag, both ports off */
        {0xc0, 0x80, 0x15}, /* input port: not locked */
        {0xd0, 0x03, 0x15}, /* output port: A20, not reset */
    };
    return cr_make_param_array(struct kbc_row, rows, sizeof(rows) / sizeof(rows[0]));
}

ParameterizedTest(struct kbc_row *row, devices_i8042, commands_answer, .timeout = 10, .init = setup)
{
    cr_assert_eq(in(KBC_COMMAND), 0x14);
    out(KBC_COMMAND, row->command);
    cr_assert_eq(in(KBC_COMMAND), row->status);
    cr_assert_eq(in(KBC_DATA), row->answer);
    cr_assert_eq(in(KBC_COMMAND), 0x14);
}

Test(devices_i8042, the_absent_keyboard_times_out_at_once, .timeout = 10, .init = setup)
{
    unmask(1 << 1);
    out(KBC_COMMAND, 0x60);
    out(KBC_DATA, 0x05); /* interrupt on */
    out(KBC_DATA, 0xf2); /* identify */
    cr_assert_eq(in(KBC_COMMAND)&0x41, 0x41);
    cr_assert_eq(mon_pic_acknowledge(&pc.pic), 0x21);
    cr_assert_eq(in(KBC_DATA), 0xfe);
    cr_assert_eq(in(KBC_COMMAND)&0x41, 0);
}

Test(devices_i8042, the_auxiliary_loop_is_answered_by_the_keyboard_side, .timeout = 10,
     .init = setup)
{
    out(KBC_COMMAND, 0xd3);
    out(KBC_DATA, 0x5a);
    cr_assert_eq(in(KBC_COMMAND)&0x21, 0x01); /* no AUX flag: the driver sees no port */
    cr_assert_eq(in(KBC_DATA), 0x5a);
}

Test(devices_i8042, command_byte_and_ram_read_back, .timeout = 10, .init = setup)
{
    out(KBC_COMMAND, 0x60);
    out(KBC_DATA, 0x47);
    out(KBC_COMMAND, 0x20);
    cr_assert_eq(in(KBC_DATA), 0x47);
    out(KBC_COMMAND, 0x7f);
    out(KBC_DATA, 0x99);
    out(KBC_COMMAND, 0x3f);
    cr_assert_eq(in(KBC_DATA), 0x99);
    out(KBC_COMMAND, 0xad);
    out(KBC_COMMAND, 0x20);
    cr_assert_eq(in(KBC_DATA), 0x57);
}

/* --- Reset and the ends of a run ---------------------------------------------------------------*/

struct request_row {
    uint16_t port, size;
    uint32_t first, second;
    int kind;
    char source[16];
};

ParameterizedTestParameters(devices_requests, ports_ask_for_the_right_end)
{
    static struct request_row rows[] = {
        {0x64, 1, 0x00, 0xfe, MON_REQUEST_RESET, "8042"},
        {0x64, 1, 0x00, 0xff, MON_REQUEST_NONE, ""},
        {0x64, 1, 0x00, 0xf0, MON_REQUEST_RESET, "8042"},
        {0x92, 1, 0x02, 0x03, MON_REQUEST_RESET, "port 92h"},
        {0x92, 1, 0x00, 0x02, MON_REQUEST_NONE, ""},
        {0xcf9, 1, 0x02, 0x06, MON_REQUEST_RESET, "port CF9h"},
        {0xcf9, 1, 0x00, 0x04, MON_REQUEST_RESET, "port CF9h"},
        {0xcf9, 1, 0x00, 0x0a, MON_REQUEST_NONE, ""},
        {0x604, 2, 0x0000, 0x3401, MON_REQUEST_POWER_OFF, "ACPI S5"},
        {0x604, 2, 0x1400, 0x1401, MON_REQUEST_NONE, ""}, /* the type alone */
        {0x604, 2, 0x0000, 0x2001, MON_REQUEST_NONE, ""}, /* another type */
        {0x605, 1, 0x00, 0x34, MON_REQUEST_POWER_OFF, "ACPI S5"},
        {0xf4, 1, 0x00, 0x00, MON_REQUEST_NONE, ""}, /* not asked for */
    };
    return cr_make_param_array(struct request_row, rows, sizeof(rows) / sizeof(rows[0]));
}

ParameterizedTest(struct request_row *row, devices_requests, ports_ask_for_the_right_end,
                  .timeout = 10, .init = setup)
{
    mon_pc_out(&pc, row->port, row->size, row->first);
    cr_assert_eq(pc.request.kind, MON_REQUEST_NONE);
    mon_pc_out(&pc, row->port, row->size, row->second);
    cr_assert_eq(pc.request.kind, (enum mon_request_kind)row->kind);
    if (row->source[0])
        cr_assert_str_eq(pc.request.source, row->source);
}

Test(devices_requests, the_keyboard_controllers_output_port_resets, .timeout = 10, .init = setup)
{
    out(KBC_COMMAND, 0xd1);
    out(KBC_DATA, 0x03);
    cr_assert_eq(pc.request.kind, MON_REQUEST_NONE);
    out(KBC_COMMAND, 0xd1);
    out(KBC_DATA, 0x02);
    cr_assert_eq(pc.request.kind, MON_REQUEST_RESET);
}

struct debug_row {
    int port;
    uint32_t value;
    unsigned size;
};

ParameterizedTestParameters(devices_requests, debug_exit_reports_what_was_written)
{
    static struct debug_row rows[] = {{0xf4, 0, 1}, {0xf4, 0x31, 1}, {0x501, 0x10000, 4}};
    return cr_make_param_array(struct debug_row, rows, 3);
}

ParameterizedTest(struct debug_row *row, devices_requests, debug_exit_reports_what_was_written,
                  .timeout = 10)
{
    start(row->port);
    cr_assert_eq(in((uint16_t)row->port), 0xff);
    mon_pc_out(&pc, (uint16_t)row->port, row->size, row->value);
    cr_assert_eq(pc.request.kind, MON_REQUEST_DEBUG_EXIT);
}

Test(devices_requests, debug_exit_cannot_take_a_devices_port, .timeout = 10)
{
    struct mon_pc_config config = {.clock = {hand_clock_now, &hand}, .debug_exit_port = 0x3f9};
    cr_assert_not(mon_pc_init(&pc, &config));
}

Test(devices_requests, the_first_request_wins, .timeout = 10)
{
    start(0xf4);
    out(0xf4, 7);
    out(0xcf9, 6);
    cr_assert_eq(pc.request.kind, MON_REQUEST_DEBUG_EXIT);
    cr_assert_eq(pc.request.value, 7);
}

/* --- ACPI --------------------------------------------------------------------------------------*/

struct timer_row {
    uint64_t ns;
    uint32_t ticks;
};

ParameterizedTestParameters(devices_acpi_pm, the_timer_counts_24_bits)
{
    static struct timer_row rows[] = {
        {0, 0},          {1000000000, 3579545}, {4000000000, 14318180},
        {4686968875, 0}, {4687000000, 111},     {3600000000000, 1460112},
    };
    return cr_make_param_array(struct timer_row, rows, sizeof(rows) / sizeof(rows[0]));
}

ParameterizedTest(struct timer_row *row, devices_acpi_pm, the_timer_counts_24_bits, .timeout = 10,
                  .init = setup)
{
    hand.now = row->ns;
    uint32_t got = mon_pc_in(&pc, PM_TMR, 4);
    cr_assert_eq(got, row->ticks, "%u", got);
    cr_assert_eq(mon_pc_in(&pc, PM_TMR + 1, 1), got >> 8 & 0xff);
}

Test(devices_acpi_pm, the_timers_top_bit_raises_the_sci, .timeout = 10, .init = setup)
{
    unmask(1 << 9 | 1 << 2);
    out(0x4d1, 0x02);
    cr_assert_eq(mon_pc_deadline(&pc), MON_NEVER);
    mon_pc_out(&pc, PM1_EN, 2, 1);
    uint64_t deadline = mon_pc_deadline(&pc);
    cr_assert(deadline > 2343484000 && deadline < 2343485000, "%lu", (unsigned long)deadline);
    hand.now = deadline;
    mon_pc_update(&pc, hand.now);
    cr_assert_eq(mon_pc_in(&pc, PM1_STS, 2), 1);
    cr_assert_eq(mon_pic_acknowledge(&pc.pic), 0x29);
    mon_pc_out(&pc, PM1_STS, 2, 1);
    cr_assert_eq(mon_pc_in(&pc, PM1_STS, 2), 0);
    cr_assert_eq(pc.pic.chip[MON_PIC_SLAVE].line, 0);
}

Test(devices_acpi_pm, acpi_mode_is_always_on, .timeout = 10, .init = setup)
{
    mon_pc_out(&pc, PM1_CNT, 2, 0);
    cr_assert_eq(mon_pc_in(&pc, PM1_CNT, 2), 1);
    mon_pc_out(&pc, PM1_CNT, 2, 0x1c06);
    cr_assert_eq(mon_pc_in(&pc, PM1_CNT, 2), 0x1c03); /* GBL_RLS reads 0 */
}

/* --- The board ---------------------------------------------------------------------------------*/

Test(devices_pc, nothing_to_wake_up_for_after_reset, .timeout = 10, .init = setup)
{
    cr_assert_eq(mon_pc_deadline(&pc), MON_NEVER);
    cr_assert_not(mon_pic_has_interrupt(&pc.pic));
}

Test(devices_pc, a_masked_timer_needs_no_wakeup_but_its_tick_is_seen, .timeout = 10, .init = setup)
{
    out(0x43, 0x34);
    out(0x40, 0xa9);
    out(0x40, 0x04);
    cr_assert_eq(mon_pc_deadline(&pc), MON_NEVER);
    hand.now = 10000000;
    unmask(1);
    cr_assert(mon_pic_has_interrupt(&pc.pic) || mon_pc_deadline(&pc) > hand.now);
    uint64_t deadline = mon_pc_deadline(&pc);
    cr_assert(mon_pic_has_interrupt(&pc.pic) ? deadline == MON_NEVER : deadline != MON_NEVER);
    out(0x20, 0x0a);
    hand.now = 20000000;
    cr_assert_eq(in(0x20) & 1, 1); /* looking at the controller brings it up to date */
}

Test(devices_pc, absent_hardware_reads_all_ones, .timeout = 10, .init = setup)
{
    static const uint16_t absent[] = {0x2f8, 0x3c0, 0x1f0, 0xcfc, 0x5658, 0x402};
    for (unsigned i = 0; i < sizeof(absent) / sizeof(absent[0]); i++)
        cr_assert_eq(mon_pc_in(&pc, absent[i], 4), 0xffffffff, "port %x", absent[i]);
    cr_assert_eq(mon_bus_mmio_read(&pc.bus, 0xb8000, 2), UINT64_MAX);
}

Test(devices_pc, reset_keeps_the_time_of_day_and_forgets_the_rest, .timeout = 10, .init = setup)
{
    out(0x70, 0x0b);
    out(0x71, 0x82);
    out(0x70, 0x09);
    out(0x71, 0x42);
    out(0x70, 0x0b);
    out(0x71, 0x02);
    unmask(0xffff);
    out(0x3fb, 0x1b);
    mon_pc_reset(&pc);
    cr_assert_eq(in(0x21), 0xff);
    cr_assert_eq(in(0x3fb), 0x03);
    out(0x70, 0x09);
    cr_assert_eq(in(0x71), 0x42);
    cr_assert_eq(pc.request.kind, MON_REQUEST_NONE);
}
