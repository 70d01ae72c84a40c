/* console.h - the far end of the serial line: the command's standard input and output.
 *
 *     stdin  -> input ring  -> UART receiver         (mon_console_receive)
 *     stdout <- output ring <- UART transmitter      (mon_console_send)
 *
 * At a terminal stdin is in raw mode, so that Ctrl-C and its like reach the guest, and Ctrl-A is an
 * escape:
 *     Ctrl-A x  end the run      Ctrl-A a, Ctrl-A Ctrl-A  send Ctrl-A   Ctrl-A h  list the keys
 *     Ctrl-A b  send a break     Ctrl-A s  print the statistics
 * Anything else that stdin may be is passed through untouched; at its end the line falls silent.
 *
 * Nothing here blocks while the guest runs: input is read when the ring has room, output is written
 * when poll() says that it can be, at the latest MON_CONSOLE_FLUSH_NS after it was sent, and a full
 * ring makes the transmitter wait. O_NONBLOCK is not used: it would stick to descriptors that are
 * shared with other processes. */
#ifndef MON_CONSOLE_H
#define MON_CONSOLE_H

#include "monitor/devices/device.h"

#include <termios.h>

#define MON_CONSOLE_OUT      16384 /* powers of two */
#define MON_CONSOLE_IN       4096
#define MON_CONSOLE_FLUSH_NS 500000

enum mon_console_event {
    MON_CONSOLE_NOTHING,
    MON_CONSOLE_QUIT,
    MON_CONSOLE_BREAK,
    MON_CONSOLE_STATS,
    MON_CONSOLE_HELP, /* the keys were asked for: mon_console_keys() */
};

struct mon_console {
    int in_fd, out_fd;
    bool in_is_tty;
    bool raw;
    bool in_ended; /* end of file, or an error */
    int out_error; /* errno of the write that failed; from then on output is dropped */
    bool escaped;  /* Ctrl-A was the last key */
    uint64_t deadline;
    uint32_t in_head, in_tail; /* free-running; head - tail bytes are in the ring */
    uint32_t out_head, out_tail;
    uint8_t in[MON_CONSOLE_IN];
    uint8_t out[MON_CONSOLE_OUT];
    const struct mon_clock *clock;
};

void mon_console_init(struct mon_console *console, int in_fd, int out_fd,
                      const struct mon_clock *clock);

/* Puts the terminal into raw mode, again after the process was stopped. False with errno set when
 * the terminal refuses. Nothing to do when stdin is no terminal. */
bool mon_console_raw(struct mon_console *console);

/* Gives the terminal back as it was before the first mon_console_raw(). Async-signal-safe; one
 * console in a process can be in raw mode. */
void mon_console_restore(void);

/* The UART's line. */
bool mon_console_send(void *opaque, uint8_t byte);
int mon_console_receive(void *opaque);

/* For poll(): whether input should be taken now (the ring is at most half full), whether output
 * waits for the descriptor. */
bool mon_console_wants_input(const struct mon_console *console);
bool mon_console_wants_output(const struct mon_console *console);

/* Reads once; stdin must be readable. Returns the event that a key asked for. */
enum mon_console_event mon_console_read(struct mon_console *console);

/* Writes what the descriptor takes without blocking. True when it wrote something. */
bool mon_console_flush(struct mon_console *console);

/* Writes everything, blocking. */
void mon_console_drain(struct mon_console *console);

const char *mon_console_keys(void);

#endif
