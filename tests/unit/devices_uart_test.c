/* devices_uart_test.c - the serial port: FIFOs, interrupts, flow at both ends, autodetection. */
#include "tests/unit/devices_fixture.h"

#include "monitor/devices/uart.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <string.h>

enum { DATA = 0x3f8, IER, IIR, LCR, MCR, LSR, MSR, SCRATCH, FCR = IIR };
enum { OUT2 = 0x08, LOOP = 0x10, RDA = 0x01, THRI = 0x02, RLSI = 0x04, MSI = 0x08, DLAB = 0x80 };

static struct mon_bus bus;
static struct mon_uart uart;
static struct hand_clock hand;
static struct wire wire;
static struct mon_clock hand_clock = {hand_clock_now, &hand};

/* The other end: what was sent, how much more it takes, what it has to give. */
static struct {
    char sent[4096];
    unsigned count, room;
    const char *input;
} line;

static bool line_send(void *opaque, uint8_t byte)
{
    (void)opaque;
    if (line.room == 0)
        return false;
    line.room--;
    line.sent[line.count++] = (char)byte;
    return true;
}

static int line_receive(void *opaque)
{
    (void)opaque;
    return line.input && *line.input ? (uint8_t)*line.input++ : -1;
}

static void setup(void)
{
    memset(&line, 0, sizeof(line));
    line.room = sizeof(line.sent) - 1;
    hand.now = 0;
    wire = (struct wire){0};
    mon_bus_init(&bus);
    mon_uart_init(&uart, &hand_clock, (struct mon_irq){wire_set, &wire, 4},
                  (struct mon_uart_line){line_send, line_receive, NULL});
    cr_assert(mon_uart_add_ports(&uart, &bus));
}

static void set_divisor(unsigned divisor)
{
    out8(&bus, LCR, DLAB | 3);
    out8(&bus, DATA, divisor & 0xff);
    out8(&bus, IER, divisor >> 8);
    out8(&bus, LCR, 3);
}

/* Time goes on until the receiver takes input. */
static void wait_for_opening(void)
{
    if (uart.opens_at && uart.opens_at != MON_NEVER) {
        hand.now = uart.opens_at;
        mon_uart_update(&uart, hand.now);
    }
}

static void listen(void)
{
    out8(&bus, MCR, OUT2);
    out8(&bus, IER, RDA);
    wait_for_opening();
}

static void arrive(const char *input)
{
    line.input = input;
    mon_uart_pump(&uart);
}

/* The steps by which Linux tells a 16550A from its relatives. */
Test(devices_uart, linux_detects_a_16550a, .timeout = 10, .init = setup)
{
    out8(&bus, IER, 0);
    cr_assert_eq(in8(&bus, IER), 0);
    out8(&bus, IER, 0xff);
    cr_assert_eq(in8(&bus, IER), 0x0f); /* no sleep mode, no other unit's bits */
    out8(&bus, MCR, LOOP | 0x0a);
    cr_assert_eq(in8(&bus, MSR) & 0xf0, 0x90); /* the loopback test */
    out8(&bus, MCR, 0);
    out8(&bus, FCR, 0x01);
    cr_assert_eq(in8(&bus, IIR) >> 6, 3);
    out8(&bus, LCR, 0xbf); /* no enhanced features behind this key */
    cr_assert_neq(in8(&bus, IIR), 0);
    out8(&bus, LCR, 0x80);
    out8(&bus, FCR, 0x21);
    cr_assert_eq(in8(&bus, IIR) & 0x20, 0); /* no 64-byte FIFO */
    out8(&bus, LCR, 0);
    out8(&bus, FCR, 0x00);
    cr_assert_eq(in8(&bus, IIR) >> 6, 0);
    out8(&bus, SCRATCH, 0x5a);
    cr_assert_eq(in8(&bus, SCRATCH), 0x5a);
}

Test(devices_uart, divisor_is_behind_dlab, .timeout = 10, .init = setup)
{
    set_divisor(0x1234);
    cr_assert_eq(uart.divisor, 0x1234);
    out8(&bus, IER, 0x05);
    out8(&bus, LCR, DLAB);
    cr_assert_eq(in8(&bus, DATA), 0x34);
    cr_assert_eq(in8(&bus, IER), 0x12);
    out8(&bus, LCR, 3);
    cr_assert_eq(in8(&bus, IER), 0x05);
}

Test(devices_uart, bytes_go_out_in_order, .timeout = 10, .init = setup)
{
    for (const char *c = "hello"; *c; c++) {
        cr_assert_eq(in8(&bus, LSR) & 0x60, 0x60);
        out8(&bus, DATA, (uint8_t)*c);
    }
    cr_assert_str_eq(line.sent, "hello");
}

struct trigger_row {
    uint8_t fcr;
    uint8_t level;
};

ParameterizedTestParameters(devices_uart, received_data_interrupts_at_the_trigger_level)
{
    static struct trigger_row rows[] = {{0x00, 1}, {0x01, 1}, {0x41, 4}, {0x81, 8}, {0xc1, 14}};
    return cr_make_param_array(struct trigger_row, rows, 5);
}

ParameterizedTest(struct trigger_row *row, devices_uart,
                  received_data_interrupts_at_the_trigger_level, .timeout = 10, .init = setup)
{
    static const char text[] = "0123456789abcdef";
    out8(&bus, FCR, row->fcr);
    listen();
    for (unsigned i = 1; i < row->level; i++) {
        char one[2] = {text[i - 1], 0};
        arrive(one);
        cr_assert_not(wire.level, "after %u", i);
    }
    arrive("x");
    cr_assert(wire.level);
    cr_assert_eq(in8(&bus, IIR) & 0x0f, 0x04);
    in8(&bus, DATA);
    cr_assert_not(wire.level); /* below the level again */
}

Test(devices_uart, characters_below_the_level_time_out, .timeout = 10, .init = setup)
{
    set_divisor(1); /* 115200 baud: a character takes 86.8 us */
    out8(&bus, FCR, 0xc1);
    listen();
    arrive("ab");
    cr_assert(uart.deadline > hand.now + 340000 && uart.deadline < hand.now + 350000);
    mon_uart_update(&uart, uart.deadline - 1);
    cr_assert_not(wire.level);
    mon_uart_update(&uart, uart.deadline);
    cr_assert(wire.level);
    cr_assert_eq(in8(&bus, IIR), 0xcc);
    cr_assert_eq(in8(&bus, DATA), 'a');
    cr_assert_not(wire.level); /* a read clears it and starts the time again */
    cr_assert_neq(uart.deadline, MON_NEVER);
    mon_uart_update(&uart, uart.deadline);
    cr_assert_eq(in8(&bus, IIR), 0xcc);
    cr_assert_eq(in8(&bus, DATA), 'b');
    cr_assert_eq(uart.deadline, MON_NEVER);
}

Test(devices_uart, no_input_is_ever_dropped, .timeout = 10, .init = setup)
{
    static char input[1000];
    for (unsigned i = 0; i < sizeof(input) - 1; i++)
        input[i] = (char)('!' + i % 90);
    out8(&bus, FCR, 0x01);
    listen();
    arrive(input);
    cr_assert_eq(line.input - input, MON_UART_FIFO); /* the rest waits with its source */
    for (unsigned i = 0; i < sizeof(input) - 1; i++) {
        cr_assert_eq(in8(&bus, LSR) & 0x03, 0x01);
        cr_assert_eq(in8(&bus, DATA), (uint8_t)input[i]);
    }
    cr_assert_eq(in8(&bus, LSR) & 0x01, 0);
}

/* What Linux does to the port before it listens: detection, clearing, reading what may be there. */
Test(devices_uart, input_waits_until_the_driver_listens, .timeout = 10, .init = setup)
{
    static const uint8_t fcr[] = {0x01, 0x07, 0x00, 0x01, 0x07, 0x01};
    arrive("typed early");
    for (unsigned i = 0; i < sizeof(fcr); i++) {
        out8(&bus, FCR, fcr[i]);
        out8(&bus, IER, 0x0f); /* which bits are there? */
        out8(&bus, IER, 0x00);
        for (unsigned j = 0; j < 4; j++) { /* a message on the console */
            in8(&bus, LSR);
            out8(&bus, DATA, '.');
        }
        cr_assert_eq(in8(&bus, LSR) & 0x01, 0);
        in8(&bus, DATA);
    }
    out8(&bus, MCR, OUT2 | 0x03);
    out8(&bus, IER, RLSI | RDA);
    uint64_t opens_at = uart.opens_at;
    hand.now += 1000000;
    out8(&bus, FCR, 0x01); /* Linux enables the FIFO last */
    out8(&bus, FCR, 0x81);
    cr_assert_eq(uart.opens_at, opens_at + 1000000);
    cr_assert_eq(in8(&bus, LSR) & 0x01, 0);
    wait_for_opening();
    for (const char *c = "typed early"; *c; c++)
        cr_assert_eq(in8(&bus, DATA), *c);
}

Test(devices_uart, a_polling_guest_is_listening_too, .timeout = 10, .init = setup)
{
    unsigned polls = 0;
    arrive("xy");
    while (!(in8(&bus, LSR) & 0x01)) {
        cr_assert(++polls < 100);
        wait_for_opening();
    }
    cr_assert_eq(in8(&bus, DATA), 'x');
    out8(&bus, DATA, 'x'); /* echoing does not stop it */
    cr_assert_eq(in8(&bus, LSR) & 0x01, 0x01);
    cr_assert_eq(in8(&bus, DATA), 'y');
}

Test(devices_uart, without_fifos_one_byte_waits, .timeout = 10, .init = setup)
{
    listen();
    arrive("abc");
    cr_assert_eq(uart.rx_count, 1);
    cr_assert_eq(in8(&bus, DATA), 'a');
    cr_assert_eq(in8(&bus, DATA), 'b');
    cr_assert_eq(in8(&bus, DATA), 'c');
}

Test(devices_uart, a_full_sink_keeps_the_transmitter_busy, .timeout = 10, .init = setup)
{
    line.room = 4;
    out8(&bus, FCR, 0x01);
    out8(&bus, MCR, OUT2);
    for (unsigned i = 0; i < 16; i++)
        out8(&bus, DATA, 'a' + i);
    cr_assert_eq(line.count, 4);
    cr_assert_eq(in8(&bus, LSR) & 0x60, 0);
    out8(&bus, IER, THRI);
    cr_assert_not(wire.level);
    line.room = 5;
    mon_uart_pump(&uart);
    cr_assert_eq(line.count, 9);
    cr_assert_not(wire.level);
    line.room = 100;
    mon_uart_pump(&uart);
    cr_assert(wire.level);
    cr_assert_eq(in8(&bus, LSR) & 0x60, 0x60);
    cr_assert_str_eq(line.sent, "abcdefghijklmnop");
}

Test(devices_uart, enabling_the_transmit_interrupt_when_empty_raises_it, .timeout = 10,
     .init = setup)
{
    out8(&bus, FCR, 0x01);
    out8(&bus, MCR, OUT2);
    for (unsigned i = 0; i < 2; i++) { /* Linux tests that it comes a second time */
        out8(&bus, IER, THRI);
        cr_assert(wire.level);
        cr_assert_eq(in8(&bus, IIR), 0xc2);
        cr_assert_not(wire.level); /* reading IIR takes it */
        cr_assert_eq(in8(&bus, IIR), 0xc1);
        out8(&bus, IER, 0);
    }
    out8(&bus, IER, THRI);
    in8(&bus, IIR);
    out8(&bus, DATA, 'x');
    cr_assert(wire.level); /* empty again */
}

Test(devices_uart, interrupts_need_out2, .timeout = 10, .init = setup)
{
    out8(&bus, IER, THRI);
    cr_assert_eq(in8(&bus, IIR) & 0x0f, 0x02);
    out8(&bus, IER, 0);
    out8(&bus, IER, THRI);
    cr_assert_not(wire.level);
    out8(&bus, MCR, OUT2);
    cr_assert(wire.level);
}

Test(devices_uart, interrupts_are_told_by_priority, .timeout = 10, .init = setup)
{
    out8(&bus, FCR, 0x01);
    out8(&bus, MCR, OUT2 | LOOP | 0x01); /* in loopback, DSR follows DTR */
    out8(&bus, MCR, OUT2 | LOOP);
    out8(&bus, DATA, 'q');
    mon_uart_break(&uart);
    out8(&bus, IER, 0x0f);
    in8(&bus, DATA); /* the break comes to the head of the FIFO */
    cr_assert_eq(in8(&bus, IIR) & 0x0f, 0x06);
    cr_assert_eq(in8(&bus, LSR) & 0x91, 0x91);
    cr_assert_eq(in8(&bus, IIR) & 0x0f, 0x04);
    in8(&bus, DATA);
    cr_assert_eq(in8(&bus, IIR) & 0x0f, 0x02);
    cr_assert_eq(in8(&bus, IIR) & 0x0f, 0x00);
    cr_assert_neq(in8(&bus, MSR) & 0x0f, 0);
    cr_assert_eq(in8(&bus, IIR) & 0x0f, 0x01);
    cr_assert_not(wire.level);
}

struct loop_row {
    uint8_t mcr, msr;
};

ParameterizedTestParameters(devices_uart, loopback_connects_the_modem_lines)
{
    static struct loop_row rows[] = {{0x10, 0x00}, {0x11, 0x20}, {0x12, 0x10},
                                     {0x14, 0x40}, {0x18, 0x80}, {0x1f, 0xf0}};
    return cr_make_param_array(struct loop_row, rows, 6);
}

ParameterizedTest(struct loop_row *row, devices_uart, loopback_connects_the_modem_lines,
                  .timeout = 10, .init = setup)
{
    cr_assert_eq(in8(&bus, MSR), 0xb0); /* a cable with somebody at its end */
    out8(&bus, MCR, row->mcr);
    cr_assert_eq(in8(&bus, MSR) & 0xf0, row->msr);
    cr_assert_eq(in8(&bus, MSR) & 0x0f, 0);
}

Test(devices_uart, loopback_data_stays_inside_and_can_overrun, .timeout = 10, .init = setup)
{
    out8(&bus, MCR, LOOP);
    line.input = "outside";
    out8(&bus, DATA, 'a');
    cr_assert_eq(in8(&bus, LSR) & 0x03, 0x01);
    out8(&bus, DATA, 'b');
    cr_assert_eq(in8(&bus, LSR) & 0x03, 0x03);
    cr_assert_eq(in8(&bus, LSR) & 0x03, 0x01); /* reading takes the error */
    cr_assert_eq(line.count, 0);
    out8(&bus, IER, RDA);
    cr_assert_eq(in8(&bus, DATA), 'a');
    cr_assert_eq(uart.rx_count, 0);
    out8(&bus, MCR, OUT2);
    wait_for_opening();
    cr_assert_eq(in8(&bus, DATA), 'o');
}

Test(devices_uart, fifo_control_clears_each_fifo, .timeout = 10, .init = setup)
{
    out8(&bus, FCR, 0x01);
    listen();
    line.room = 0;
    arrive("abc");
    cr_assert_eq(uart.rx_count, 3);
    out8(&bus, DATA, 'x');
    out8(&bus, FCR, 0x03);
    cr_assert_eq(in8(&bus, LSR) & 0x61, 0x00);
    out8(&bus, FCR, 0x05);
    cr_assert_eq(in8(&bus, LSR) & 0x61, 0x60);
    line.room = 10;
    mon_uart_pump(&uart);
    cr_assert_eq(line.count, 0);
}
