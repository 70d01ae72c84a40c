/* events.c - the I/O thread: timer, signals, standard input and output; see machine.h.
 *
 * Signals are blocked in every thread but this one while it waits; their handler only notes them.
 * (A signalfd would wake this thread for every SIGSEGV that translated code takes.) Besides, the
 * fatal ones run in signal context: they only give the terminal back.
 *
 *     SIGHUP, SIGINT, SIGQUIT, SIGTERM   end the run with status 128 + n
 *     SIGUSR1                            prints the statistics
 *     SIGTSTP                            gives the terminal back and stops
 *     SIGCONT                            takes the terminal again */
#include "monitor/machine.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { FD_TIMER, FD_WAKE, FD_IN, FD_OUT, FD_COUNT };

static void set_timer(struct mon_machine *m, uint64_t deadline)
{
    struct itimerspec spec = {0}; /* zero disarms */
    if (deadline != MON_NEVER) {
        uint64_t at = m->epoch + deadline;
        spec.it_value.tv_sec = (time_t)(at / MON_NS_PER_S);
        spec.it_value.tv_nsec = (long)(at % MON_NS_PER_S);
    }
    timerfd_settime(m->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
    m->armed = deadline;
}

void mon_events_arm(struct mon_machine *m, bool exact)
{
    uint64_t deadline = m->halted ? MON_NEVER : mon_machine_deadline(m);
    if (deadline < m->armed || (exact && deadline != m->armed))
        set_timer(m, deadline);
}

/* The vCPU will come by itself: for an open window, or when CR8 no longer holds the interrupt back.
 */
static bool vcpu_will_come(const struct mon_machine *m)
{
    return m->run->request_interrupt_window ||
           (m->run->tpr_threshold && m->run->tpr_threshold == mon_lapic_threshold(&m->pc.lapic));
}

/* After the devices changed: the vCPU must hear of a new interrupt. It asks for a window itself
 * while one is pending, so only what came up since it entered the guest needs a kick. */
static void notify_vcpu(struct mon_machine *m)
{
    if (!mon_pc_may_have_interrupt(&m->pc)) {
        if (m->halted)
            mon_exits_wake(m); /* a deadline may have moved */
        return;
    }
    if (m->halted) {
        mon_exits_wake(m);
    } else if (m->in_guest && !m->kicked && !vcpu_will_come(m)) {
        m->kicked = true;
        m->count.kicks++;
        novt_vcpu_kick(m->vcpu);
    }
}

static void print_stats(struct mon_machine *m)
{
    mon_machine_print_stats(m, m->config->stats ? m->config->stats : stderr);
}

static const int taken[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGTSTP, SIGCONT};

static unsigned arrived; /* signals, a bit each; one process has one terminal and one such set */

/* In signal context: on the I/O thread, while it waits in ppoll(). */
static void note_signal(int number)
{
    __atomic_fetch_or(&arrived, 1u << number, __ATOMIC_RELAXED);
}

static void handle_signal(struct mon_machine *m, int number)
{
    switch (number) {
    case SIGUSR1:
        print_stats(m);
        break;
    case SIGTSTP:
        mon_console_restore();
        kill(getpid(), SIGSTOP);
        break; /* SIGCONT follows */
    case SIGCONT:
        mon_console_raw(&m->console);
        break;
    default:
        mon_machine_stop(m, 128 + number, "ended by signal %d (%s)", number, strsignal(number));
        break;
    }
}

static void handle_signals(struct mon_machine *m)
{
    unsigned now = __atomic_exchange_n(&arrived, 0, __ATOMIC_RELAXED);

    for (unsigned i = 0; i < sizeof(taken) / sizeof(taken[0]); i++) {
        if (now & 1u << taken[i])
            handle_signal(m, taken[i]);
    }
}

static void handle_input(struct mon_machine *m)
{
    switch (mon_console_read(&m->console)) {
    case MON_CONSOLE_QUIT:
        mon_machine_stop(m, MON_OK, "ended from the terminal");
        break;
    case MON_CONSOLE_BREAK:
        mon_uart_break(&m->pc.uart);
        break;
    case MON_CONSOLE_STATS:
        print_stats(m);
        break;
    case MON_CONSOLE_HELP:
        fputs(mon_console_keys(), stderr);
        break;
    case MON_CONSOLE_NOTHING:
        break;
    }
    mon_uart_pump(&m->pc.uart);
}

static void clear_counter(int fd)
{
    uint64_t count;
    if (read(fd, &count, sizeof(count)) < 0)
        return; /* somebody armed it anew meanwhile */
}

static void handle_events(struct mon_machine *m, const struct pollfd *fd)
{
    if (fd[FD_TIMER].revents) {
        clear_counter(m->timer_fd);
        m->armed = MON_NEVER;
    }
    if (fd[FD_WAKE].revents)
        clear_counter(m->wake_fd);
    if (fd[FD_IN].revents)
        handle_input(m);
    if (fd[FD_OUT].revents && mon_console_flush(&m->console))
        mon_uart_pump(&m->pc.uart);
    mon_machine_update(m);
    if (m->console.out_error)
        mon_machine_output_error(m);
}

static void choose_descriptors(struct mon_machine *m, struct pollfd fd[FD_COUNT])
{
    m->polls_in = mon_console_wants_input(&m->console);
    m->polls_out = mon_console_wants_output(&m->console);
    fd[FD_TIMER] = (struct pollfd){.fd = m->timer_fd, .events = POLLIN};
    fd[FD_WAKE] = (struct pollfd){.fd = m->wake_fd, .events = POLLIN};
    fd[FD_IN] = (struct pollfd){.fd = m->polls_in ? m->console.in_fd : -1, .events = POLLIN};
    fd[FD_OUT] = (struct pollfd){.fd = m->polls_out ? m->console.out_fd : -1, .events = POLLOUT};
}

static void *io_thread(void *machine)
{
    struct mon_machine *m = machine;
    struct pollfd fd[FD_COUNT];
    sigset_t none;

    pthread_sigmask(SIG_SETMASK, NULL, &none);
    for (unsigned i = 0; i < sizeof(taken) / sizeof(taken[0]); i++)
        sigdelset(&none, taken[i]);
    pthread_mutex_lock(&m->lock);
    while (!m->stopped) {
        choose_descriptors(m, fd);
        pthread_mutex_unlock(&m->lock);
        int ready = ppoll(fd, FD_COUNT, NULL, &none);
        pthread_mutex_lock(&m->lock);
        handle_signals(m);
        if (ready > 0) {
            handle_events(m, fd);
            notify_vcpu(m);
            mon_events_arm(m, true);
        }
    }
    pthread_mutex_unlock(&m->lock);
    return NULL;
}

/* In signal context: the terminal first, then the signal's own effect. */
static void fatal_signal(int number)
{
    mon_console_restore();
    signal(number, SIG_DFL);
    raise(number);
}

/* Those that the library takes later it passes on to these when they are not its own. */
static void catch_fatal_signals(void)
{
    static const int fatal[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGSYS};
    for (unsigned i = 0; i < sizeof(fatal) / sizeof(fatal[0]); i++) {
        struct sigaction old, action = {.sa_handler = fatal_signal};
        sigemptyset(&action.sa_mask);
        if (sigaction(fatal[i], NULL, &old) == 0 && old.sa_handler == SIG_DFL)
            sigaction(fatal[i], &action, NULL);
    }
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a write beyond `ulimit -f` is an error of that write */
}

void mon_events_take_signals(struct mon_machine *m)
{
    struct sigaction old, action = {.sa_handler = note_signal, .sa_flags = SA_RESTART};

    catch_fatal_signals();
    sigemptyset(&m->signals);
    for (unsigned i = 0; i < sizeof(taken) / sizeof(taken[0]); i++) {
        if (sigaction(taken[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            sigaddset(&m->signals, taken[i]); /* what nohup(1) ignores stays ignored */
    }
    pthread_sigmask(SIG_BLOCK, &m->signals, NULL);
    action.sa_mask = m->signals;
    for (unsigned i = 0; i < sizeof(taken) / sizeof(taken[0]); i++) {
        if (sigismember(&m->signals, taken[i]))
            sigaction(taken[i], &action, NULL);
    }
}

void mon_events_give_back_signals(struct mon_machine *m)
{
    for (unsigned i = 0; i < sizeof(taken) / sizeof(taken[0]); i++) {
        if (sigismember(&m->signals, taken[i]))
            signal(taken[i], SIG_DFL);
    }
    pthread_sigmask(SIG_UNBLOCK, &m->signals, NULL);
    sigemptyset(&m->signals);
}

int mon_events_start(struct mon_machine *m, struct mon_error *err)
{
    m->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    m->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (m->timer_fd < 0 || m->wake_fd < 0)
        return mon_error_set(err, MON_E_HOST,
                             "cannot create the I/O thread's descriptors: %s; raise `ulimit -n`",
                             strerror(errno));
    if (!mon_console_raw(&m->console))
        return mon_error_set(err, MON_E_HOST, "cannot put the terminal into raw mode: %s",
                             strerror(errno));
    int error = pthread_create(&m->io_thread, NULL, io_thread, m);
    if (error) {
        mon_console_restore();
        return mon_error_set(err, MON_E_HOST, "cannot create the I/O thread: %s; raise `ulimit -u`",
                             strerror(error));
    }
    return MON_OK;
}

void mon_events_stop(struct mon_machine *m)
{
    pthread_join(m->io_thread, NULL);
    close(m->timer_fd);
    close(m->wake_fd);
    m->timer_fd = m->wake_fd = -1;
}
