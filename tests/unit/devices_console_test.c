/* devices_console_test.c - the terminal: escape keys, end of input, a reader that does not read. */
#include "tests/unit/devices_fixture.h"

#include "monitor/devices/console.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct mon_console console;
static struct hand_clock hand;
static struct mon_clock hand_clock = {hand_clock_now, &hand};
static int in_pipe[2], out_pipe[2];

static void pipes(void)
{
    hand.now = 1000;
    cr_assert_eq(pipe(in_pipe), 0);
    cr_assert_eq(pipe(out_pipe), 0);
    mon_console_init(&console, in_pipe[0], out_pipe[1], &hand_clock);
}

/* A terminal whose other side the test holds. */
static int open_terminal(void)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    cr_assert(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
    int terminal = open(ptsname(master), O_RDWR | O_NOCTTY);
    cr_assert(terminal >= 0);
    mon_console_init(&console, terminal, terminal, &hand_clock);
    cr_assert(mon_console_raw(&console));
    return master;
}

static size_t received(char *to)
{
    size_t n = 0;
    for (int byte; (byte = mon_console_receive(&console)) >= 0;)
        to[n++] = (char)byte;
    to[n] = '\0';
    return n;
}

struct key_row {
    char typed[16];
    int event;
    char guest[16];
};

ParameterizedTestParameters(devices_console, keys_at_a_terminal)
{
    static struct key_row rows[] = {
        {"abc", MON_CONSOLE_NOTHING, "abc"},
        {"\003\032\034", MON_CONSOLE_NOTHING, "\003\032\034"}, /* Ctrl-C, Ctrl-Z, Ctrl-\ */
        {"a\001x", MON_CONSOLE_QUIT, "a"},
        {"\001\001b", MON_CONSOLE_NOTHING, "\001b"},
        {"\001ab", MON_CONSOLE_NOTHING, "\001b"},
        {"\001h", MON_CONSOLE_HELP, ""},
        {"\001?", MON_CONSOLE_HELP, ""},
        {"\001b", MON_CONSOLE_BREAK, ""},
        {"\001s", MON_CONSOLE_STATS, ""},
        {"\001qz", MON_CONSOLE_NOTHING, "z"},
        {"\r\n", MON_CONSOLE_NOTHING, "\r\n"},
        {"\001xx", MON_CONSOLE_QUIT, "x"},
    };
    return cr_make_param_array(struct key_row, rows, sizeof(rows) / sizeof(rows[0]));
}

ParameterizedTest(struct key_row *row, devices_console, keys_at_a_terminal, .timeout = 10)
{
    char got[MON_CONSOLE_IN + 1];
    int master = open_terminal();
    cr_assert_eq(write(master, row->typed, strlen(row->typed)), (ssize_t)strlen(row->typed));
    cr_assert_eq(mon_console_read(&console), (enum mon_console_event)row->event);
    received(got);
    cr_assert_str_eq(got, row->guest);
}

Test(devices_console, an_escape_may_come_in_two_pieces, .timeout = 10)
{
    int master = open_terminal();
    cr_assert_eq(write(master, "\001", 1), 1);
    cr_assert_eq(mon_console_read(&console), MON_CONSOLE_NOTHING);
    cr_assert_eq(write(master, "x", 1), 1);
    cr_assert_eq(mon_console_read(&console), MON_CONSOLE_QUIT);
}

Test(devices_console, the_terminal_comes_back_as_it_was, .timeout = 10)
{
    struct termios before, raw, after;
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    cr_assert(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
    int terminal = open(ptsname(master), O_RDWR | O_NOCTTY);
    cr_assert_eq(tcgetattr(terminal, &before), 0);
    mon_console_init(&console, terminal, terminal, &hand_clock);
    for (unsigned i = 0; i < 2; i++) { /* the second time: as after Ctrl-Z and fg */
        cr_assert(mon_console_raw(&console));
        cr_assert(mon_console_raw(&console));
        cr_assert_eq(tcgetattr(terminal, &raw), 0);
        cr_assert_eq(raw.c_lflag & (ECHO | ICANON | ISIG), 0);
        mon_console_restore();
        cr_assert_eq(tcgetattr(terminal, &after), 0);
        cr_assert_eq(after.c_lflag, before.c_lflag);
        cr_assert_eq(after.c_iflag, before.c_iflag);
        cr_assert_eq(after.c_oflag, before.c_oflag);
    }
}

Test(devices_console, other_input_passes_untouched, .timeout = 10, .init = pipes)
{
    char got[MON_CONSOLE_IN + 1];
    cr_assert(mon_console_raw(&console)); /* nothing to do */
    cr_assert_eq(write(in_pipe[1], "\001x\001\001h", 5), 5);
    cr_assert_eq(mon_console_read(&console), MON_CONSOLE_NOTHING);
    cr_assert_eq(received(got), 5);
    cr_assert_eq(memcmp(got, "\001x\001\001h", 5), 0);
}

Test(devices_console, at_the_end_of_input_the_line_falls_silent, .timeout = 10, .init = pipes)
{
    cr_assert(mon_console_wants_input(&console));
    close(in_pipe[1]);
    cr_assert_eq(mon_console_read(&console), MON_CONSOLE_NOTHING);
    cr_assert_not(mon_console_wants_input(&console));
    cr_assert_eq(mon_console_receive(&console), -1);
}

Test(devices_console, input_waits_outside_while_the_ring_is_full, .timeout = 10, .init = pipes)
{
    static char input[3 * MON_CONSOLE_IN];
    size_t taken = 0;
    for (size_t i = 0; i < sizeof(input); i++)
        input[i] = (char)(i * 7);
    cr_assert_eq(write(in_pipe[1], input, sizeof(input)), (ssize_t)sizeof(input));
    close(in_pipe[1]);
    while (mon_console_wants_input(&console))
        mon_console_read(&console);
    while (taken < sizeof(input)) {
        int byte = mon_console_receive(&console);
        cr_assert_eq(byte, (uint8_t)input[taken], "byte %zu", taken);
        taken++;
        if (mon_console_wants_input(&console))
            mon_console_read(&console);
    }
    cr_assert_eq(mon_console_receive(&console), -1);
}

Test(devices_console, output_is_gathered_until_its_deadline, .timeout = 10, .init = pipes)
{
    char got[16] = "";
    cr_assert_eq(console.deadline, MON_NEVER);
    cr_assert(mon_console_send(&console, 'h'));
    cr_assert_eq(console.deadline, hand.now + MON_CONSOLE_FLUSH_NS);
    hand.now += 1000;
    cr_assert(mon_console_send(&console, 'i'));
    cr_assert_eq(console.deadline, 1000 + MON_CONSOLE_FLUSH_NS);
    cr_assert(mon_console_flush(&console));
    cr_assert_eq(console.deadline, MON_NEVER);
    cr_assert_not(mon_console_wants_output(&console));
    cr_assert_eq(read(out_pipe[0], got, sizeof(got)), 2);
    cr_assert_str_eq(got, "hi");
}

Test(devices_console, a_reader_that_does_not_read_stops_the_sender, .timeout = 10, .init = pipes)
{
    size_t sent = 0, got = 0;
    char buffer[4096];
    while (mon_console_send(&console, (uint8_t)sent))
        sent++;
    cr_assert(sent >= MON_CONSOLE_OUT);
    cr_assert(mon_console_wants_output(&console));
    cr_assert_not(mon_console_flush(&console));
    while (got < sent) { /* and nothing is lost once it reads */
        ssize_t n = read(out_pipe[0], buffer, sizeof(buffer));
        cr_assert(n > 0);
        for (ssize_t i = 0; i < n; i++)
            cr_assert_eq((uint8_t)buffer[i], (uint8_t)(got + (size_t)i));
        got += (size_t)n;
        mon_console_flush(&console);
    }
    cr_assert_not(mon_console_wants_output(&console));
}

Test(devices_console, a_reader_that_has_gone_is_reported, .timeout = 10, .init = pipes)
{
    signal(SIGPIPE, SIG_IGN);
    close(out_pipe[0]);
    cr_assert(mon_console_send(&console, 'x'));
    cr_assert_not(mon_console_flush(&console));
    cr_assert_eq(console.out_error, EPIPE);
    cr_assert(mon_console_send(&console, 'y')); /* the guest goes on, its output does not */
    mon_console_drain(&console);
}
