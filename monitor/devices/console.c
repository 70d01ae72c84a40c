/* console.c - standard input and output as the far end of the serial line; see console.h.
 *
 * Called with the machine's lock held, but for mon_console_restore(), which signal handlers call,
 * and mon_console_drain(), which runs when the machine has stopped. */
#include "monitor/devices/console.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#define ESCAPE_KEY 1 /* Ctrl-A */

/* What poll() promises: a pipe that is writable takes PIPE_BUF bytes, a terminal at least this. */
#define WRITE_CHUNK 256

/* The terminal is the process's: this is what its signal handlers restore. */
static struct termios saved_mode;
static atomic_int saved_fd = -1;

void mon_console_init(struct mon_console *console, int in_fd, int out_fd,
                      const struct mon_clock *clock)
{
    memset(console, 0, sizeof(*console));
    console->in_fd = in_fd;
    console->out_fd = out_fd;
    console->in_is_tty = isatty(in_fd);
    console->deadline = MON_NEVER;
    console->clock = clock;
}

bool mon_console_raw(struct mon_console *console)
{
    struct termios mode;
    if (!console->in_is_tty)
        return true;
    if (tcgetattr(console->in_fd, &mode) < 0)
        return false;
    if (!console->raw)
        saved_mode = mode;
    saved_fd = console->in_fd;
    mode = saved_mode;
    mode.c_iflag &= ~(tcflag_t)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
    mode.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
    mode.c_oflag |= OPOST; /* our own messages end in a bare newline */
    mode.c_cc[VMIN] = 1;
    mode.c_cc[VTIME] = 0;
    if (tcsetattr(console->in_fd, TCSANOW, &mode) < 0)
        return false;
    console->raw = true;
    return true;
}

void mon_console_restore(void)
{
    int fd = atomic_exchange(&saved_fd, -1);
    if (fd >= 0)
        tcsetattr(fd, TCSANOW, &saved_mode);
}

static uint32_t in_used(const struct mon_console *console)
{
    return console->in_head - console->in_tail;
}

static uint32_t out_used(const struct mon_console *console)
{
    return console->out_head - console->out_tail;
}

bool mon_console_send(void *opaque, uint8_t byte)
{
    struct mon_console *console = opaque;
    if (console->out_error)
        return true;
    if (out_used(console) >= MON_CONSOLE_OUT / 2)
        mon_console_flush(console);
    if (out_used(console) == MON_CONSOLE_OUT)
        return false;

    if (out_used(console) == 0)
        console->deadline = mon_clock_now(console->clock) + MON_CONSOLE_FLUSH_NS;
    console->out[console->out_head++ % MON_CONSOLE_OUT] = byte;
    return true;
}

int mon_console_receive(void *opaque)
{
    struct mon_console *console = opaque;
    if (in_used(console) == 0)
        return -1;
    return console->in[console->in_tail++ % MON_CONSOLE_IN];
}

bool mon_console_wants_input(const struct mon_console *console)
{
    return !console->in_ended && in_used(console) <= MON_CONSOLE_IN / 2;
}

bool mon_console_wants_output(const struct mon_console *console)
{
    return out_used(console) != 0 && console->deadline == MON_NEVER;
}

static void in_push(struct mon_console *console, uint8_t byte)
{
    console->in[console->in_head++ % MON_CONSOLE_IN] = byte;
}

/* The key after Ctrl-A. */
static enum mon_console_event escape_key(struct mon_console *console, uint8_t key)
{
    switch (key) {
    case 'x':
        return MON_CONSOLE_QUIT;
    case 'b':
        return MON_CONSOLE_BREAK;
    case 's':
        return MON_CONSOLE_STATS;
    case 'h':
    case '?':
        return MON_CONSOLE_HELP;
    case 'a':
    case ESCAPE_KEY:
        in_push(console, ESCAPE_KEY);
        return MON_CONSOLE_NOTHING;
    default:
        return MON_CONSOLE_NOTHING;
    }
}

/* Keys typed at a terminal, up to the first that asks for something. */
static enum mon_console_event take_keys(struct mon_console *console, const uint8_t *keys, size_t n)
{
    enum mon_console_event event = MON_CONSOLE_NOTHING;
    for (size_t i = 0; i < n; i++) {
        if (console->escaped) {
            console->escaped = false;
            enum mon_console_event asked = escape_key(console, keys[i]);
            if (event == MON_CONSOLE_NOTHING)
                event = asked;
        } else if (keys[i] == ESCAPE_KEY) {
            console->escaped = true;
        } else {
            in_push(console, keys[i]);
        }
    }
    return event;
}

enum mon_console_event mon_console_read(struct mon_console *console)
{
    uint8_t buffer[MON_CONSOLE_IN];
    ssize_t n = read(console->in_fd, buffer, MON_CONSOLE_IN - in_used(console));

    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return MON_CONSOLE_NOTHING;
    if (n <= 0) {
        console->in_ended = true;
        return MON_CONSOLE_NOTHING;
    }
    if (console->in_is_tty)
        return take_keys(console, buffer, (size_t)n);
    for (ssize_t i = 0; i < n; i++)
        in_push(console, buffer[i]);
    return MON_CONSOLE_NOTHING;
}

/* Writes at most limit bytes of the ring, in one piece. False when nothing could be written. */
static bool write_piece(struct mon_console *console, uint32_t limit)
{
    uint32_t at = console->out_tail % MON_CONSOLE_OUT, n = out_used(console);
    if (n > MON_CONSOLE_OUT - at)
        n = MON_CONSOLE_OUT - at;
    if (n > limit)
        n = limit;

    ssize_t done = write(console->out_fd, &console->out[at], n);
    if (done > 0) {
        console->out_tail += (uint32_t)done;
        return true;
    }
    if (done < 0 && (errno == EINTR || errno == EAGAIN))
        return false;
    console->out_error = errno;
    console->out_tail = console->out_head;
    return false;
}

static bool can_write(const struct mon_console *console, int timeout_ms)
{
    struct pollfd p = {.fd = console->out_fd, .events = POLLOUT};
    return poll(&p, 1, timeout_ms) > 0;
}

bool mon_console_flush(struct mon_console *console)
{
    bool any = false;
    while (out_used(console) && can_write(console, 0) && write_piece(console, WRITE_CHUNK))
        any = true;
    console->deadline = MON_NEVER; /* what is left waits for poll() */
    return any;
}

void mon_console_drain(struct mon_console *console)
{
    while (out_used(console))
        if (!write_piece(console, MON_CONSOLE_OUT))
            can_write(console, -1);
}

const char *mon_console_keys(void)
{
    return "Ctrl-A x  end the run\n"
           "Ctrl-A a  send Ctrl-A (also Ctrl-A Ctrl-A)\n"
           "Ctrl-A b  send a break\n"
           "Ctrl-A s  print the statistics\n"
           "Ctrl-A h  list these keys\n";
}
