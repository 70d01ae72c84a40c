/* machine.h - one virtual PC: memory, a vCPU of the library, the board, and the terminal.
 *
 * Two threads. The caller's runs the vCPU (machine.c); the I/O thread (events.c) sleeps in poll()
 * on timer, signals, standard input and output. Everything below `lock` in the struct belongs to
 * the lock, which the vCPU's thread drops only while it is in the guest or asleep in HLT.
 *
 *     I/O thread: poll -> lock -> devices do what is due -> INTR up? kick or wake -> unlock
 *     vCPU:       run -> lock -> handle the exit -> INTR and ready? inject : ask for a window
 *                 (exits.c, inside novt_vcpu_run(), or machine.c)
 *
 * A machine ends when somebody calls mon_machine_stop(); the first status wins. */
#ifndef MON_MACHINE_H
#define MON_MACHINE_H

#include "monitor/boot/boot.h"
#include "monitor/devices/console.h"
#include "monitor/devices/pc.h"

#include "include/novt.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>

struct mon_machine_config {
    const char *kernel, *initrd, *append; /* initrd and append may be NULL */
    uint64_t memory;
    int debug_exit_port; /* -1 for none */
    bool no_reboot;
    bool log_io;
    bool no_sandbox;
    FILE *stats; /* where statistics go at the end, NULL for nowhere */
    struct novt_config engine;
};

/* What the embedder's side counts, for the statistics. */
struct mon_machine_counters {
    uint64_t io_exits, mmio_exits, msr_exits, halt_exits, window_exits, kick_exits;
    uint64_t interrupts, kicks, resets, halted_ns;
};

struct mon_machine {
    const struct mon_machine_config *config;
    struct mon_ram ram;
    struct mon_boot boot;
    struct novt_vm *vm;
    struct novt_vcpu *vcpu;
    struct novt_run *run;
    uint64_t epoch; /* CLOCK_MONOTONIC, in ns, at the machine's time 0 */
    int timer_fd, wake_fd;
    sigset_t signals; /* those that events.c takes */
    pthread_t io_thread;

    pthread_mutex_t lock;
    uint32_t woken; /* futex: the vCPU sleeps in HLT */
    struct mon_pc pc;
    struct mon_console console;
    uint64_t tsc_offset;      /* the guest's TSC is the host's plus this */
    uint64_t armed;           /* what timer_fd is set to; MON_NEVER for nothing */
    bool in_guest;            /* the vCPU's thread is inside novt_vcpu_run() */
    bool halted;              /* ... or asleep, and looks after the devices' deadlines itself */
    bool kicked;              /* a kick is on its way */
    bool nmi_sent;            /* since the vCPU last entered the guest: it must not sleep */
    bool polls_in, polls_out; /* what the I/O thread waits for */
    bool exit_handled;        /* the exit that novt_vcpu_run() returns with has been dealt with */
    bool stopped;
    struct mon_error end; /* why; text is empty when there is nothing to say */
    struct mon_machine_counters count;
};

/* Builds the machine, runs it to its end and takes it down. Returns the exit status; err->text is a
 * sentence for the user, or empty. The terminal is restored. */
int mon_machine_run(const struct mon_machine_config *config, struct mon_error *err);

/* --- Between machine.c and events.c, with the lock held ----------------------------------------*/

uint64_t mon_machine_now(void *machine);

/* Ends the run. format may be NULL when there is nothing to say. */
void mon_machine_stop(struct mon_machine *m, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Ends the run because the guest's output cannot be written. */
void mon_machine_output_error(struct mon_machine *m);

/* Lets devices and console do what was due by now. */
void mon_machine_update(struct mon_machine *m);
uint64_t mon_machine_deadline(const struct mon_machine *m);

/* Makes the I/O thread look again. */
void mon_machine_wake_io(struct mon_machine *m);

void mon_machine_print_stats(struct mon_machine *m, FILE *to);

/* exits.c: what the vCPU's thread does before it enters the guest, and after it has left it; exits
 * that need no sleep (false: it is none of them); the library's handler. */
void mon_exits_enter(struct mon_machine *m);
void mon_exits_leave(struct mon_machine *m);
bool mon_exits_handle(struct mon_machine *m);
bool mon_exits_handler(void *machine, struct novt_run *run);
/* Ends the vCPU's sleep in HLT, if it does. */
void mon_exits_wake(struct mon_machine *m);
/* Whether the I/O thread waits for less than it should by now. */
bool mon_exits_io_must_look(const struct mon_machine *m);

/* events.c: the I/O thread, and the signals that end a run or ask something of it. Signals are
 * taken before the library exists, so that it passes on the fatal ones that are not its own. */
void mon_events_take_signals(struct mon_machine *m);
void mon_events_give_back_signals(struct mon_machine *m);
int mon_events_start(struct mon_machine *m, struct mon_error *err);
void mon_events_stop(struct mon_machine *m);

/* Sets timer_fd to the next deadline; without exact only if that is earlier than now armed. */
void mon_events_arm(struct mon_machine *m, bool exact);

#endif
