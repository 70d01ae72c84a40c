/* exits.c - the vCPU's exits: device accesses, the sleep in HLT, windows for interrupts, kicks.
 *
 * The library calls mon_exits_handler() inside novt_vcpu_run() (novt_vcpu_set_handler()); what it
 * does not take comes to machine.c as an exit.
 *
 * The guest's x87 and vector registers are live while the handler runs. So this file, machine.c,
 * events.c and devices/ are compiled for general registers only, and of the C library the handler
 * uses what uses no others: locks, clock_gettime() and system calls. It does not write logs. (What
 * mon_machine_stop() formats may, but then the guest does not run again.)
 *
 * Context: the vCPU's thread, with the machine's lock held but in mon_exits_handler(). */
#include "monitor/machine.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MSR_APIC_BASE 0x1bu

/* --- Accesses ----------------------------------------------------------------------------------*/

static void handle_io(struct mon_machine *m)
{
    struct novt_run *run = m->run;
    uint16_t port = run->io.port;

    m->count.io_exits++;
    if (run->io.write)
        mon_pc_out(&m->pc, port, run->io.size, run->io.data);
    else
        run->io.data = mon_pc_in(&m->pc, port, run->io.size);
    if (m->config->log_io)
        fprintf(stderr, "io: %s port %04x size %u data %0*x (%s)\n", run->io.write ? "out" : "in ",
                port, run->io.size, run->io.size * 2, run->io.data,
                mon_bus_port_name(&m->pc.bus, port));
}

static uint64_t mmio_data(const struct novt_run *run)
{
    uint64_t data = 0;
    for (unsigned i = 0; i < run->mmio.size; i++)
        data |= (uint64_t)run->mmio.data[i] << 8 * i;
    return data;
}

static void handle_mmio(struct mon_machine *m)
{
    struct novt_run *run = m->run;
    uint64_t data = 0;

    m->count.mmio_exits++;
    if (run->mmio.write) {
        data = mmio_data(run);
        mon_pc_mmio_write(&m->pc, run->mmio.gpa, run->mmio.size, data);
    } else {
        data = mon_pc_mmio_read(&m->pc, run->mmio.gpa, run->mmio.size);
        for (unsigned i = 0; i < run->mmio.size; i++)
            run->mmio.data[i] = (uint8_t)(data >> 8 * i);
    }
    if (m->config->log_io)
        fprintf(stderr, "io: %s address %08llx size %u data %0*llx (%s)\n",
                run->mmio.write ? "write" : "read ", (unsigned long long)run->mmio.gpa,
                run->mmio.size, run->mmio.size * 2, (unsigned long long)data,
                mon_bus_mmio_name(&m->pc.bus, run->mmio.gpa));
}

static void handle_msr(struct mon_machine *m)
{
    struct novt_run *run = m->run;
    uint32_t index = run->msr.index;
    bool write = run->exit_reason == NOVT_EXIT_WRMSR;

    m->count.msr_exits++;
    if (!write)
        run->msr.error = !mon_pc_read_msr(&m->pc, index, &run->msr.data);
    else if (index == MSR_APIC_BASE)
        mon_pc_set_apic_base(&m->pc, run->msr.data);
    else
        run->msr.error = !mon_pc_write_msr(&m->pc, index, run->msr.data);
    if (m->config->log_io)
        fprintf(stderr, "io: %s msr %04x data %016llx%s\n", write ? "write" : "read ", index,
                (unsigned long long)run->msr.data, run->msr.error ? " (#GP)" : "");
}

/* --- HLT ---------------------------------------------------------------------------------------*/

/* Not a condition variable: whoever has waited for one releases the lock with a system call. */
static void wait_until(struct mon_machine *m, const struct timespec *at)
{
    uint32_t seen = m->woken;

    pthread_mutex_unlock(&m->lock);
    syscall(SYS_futex, &m->woken, FUTEX_WAIT_BITSET_PRIVATE, seen, at, NULL,
            FUTEX_BITSET_MATCH_ANY);
    pthread_mutex_lock(&m->lock);
}

void mon_exits_wake(struct mon_machine *m)
{
    if (!m->halted)
        return;
    m->woken++;
    syscall(SYS_futex, &m->woken, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* Sleeps until the devices' next deadline or until the I/O thread has something. */
static void sleep_until_deadline(struct mon_machine *m)
{
    uint64_t deadline = mon_machine_deadline(m);
    uint64_t at = m->epoch + deadline;
    struct timespec ts = {(time_t)(at / MON_NS_PER_S), (long)(at % MON_NS_PER_S)};

    wait_until(m, deadline == MON_NEVER ? NULL : &ts);
}

/* HLT with interrupts on. Deadlines are this thread's while it sleeps: waking one thread is cheaper
 * than waking the other to wake this one. */
static void sleep_in_halt(struct mon_machine *m)
{
    uint64_t since = mon_machine_now(m);
    mon_console_flush(&m->console);
    mon_uart_pump(&m->pc.uart);
    m->halted = true;
    mon_events_arm(m, true);
    if (mon_exits_io_must_look(m))
        mon_machine_wake_io(m);
    while (!m->stopped && !m->nmi_sent && !mon_pc_has_interrupt(&m->pc)) {
        sleep_until_deadline(m);
        mon_machine_update(m);
    }
    m->halted = false;
    m->count.halted_ns += mon_machine_now(m) - since;
}

static void handle_halt(struct mon_machine *m)
{
    m->count.halt_exits++;
    if (m->run->if_flag)
        sleep_in_halt(m);
    else
        mon_machine_stop(m, MON_OK, NULL);
}

/* What the exit is, if it is one that can be answered. */
bool mon_exits_handle(struct mon_machine *m)
{
    switch (m->run->exit_reason) {
    case NOVT_EXIT_HLT:
        handle_halt(m);
        return true;
    case NOVT_EXIT_IO:
        handle_io(m);
        return true;
    case NOVT_EXIT_MMIO:
        handle_mmio(m);
        return true;
    case NOVT_EXIT_RDMSR:
    case NOVT_EXIT_WRMSR:
        handle_msr(m);
        return true;
    case NOVT_EXIT_TSC:
        m->tsc_offset = m->run->tsc_offset;
        mon_lapic_tsc_moved(&m->pc.lapic);
        return true;
    case NOVT_EXIT_IRQ_WINDOW:
    case NOVT_EXIT_TPR:
        m->count.window_exits++;
        return true;
    case NOVT_EXIT_NONE:
    case NOVT_EXIT_KICKED:
        m->count.kick_exits++;
        return true;
    default:
        return false;
    }
}

/* --- Into the guest, and out of it -------------------------------------------------------------*/

/* Gives the vCPU what the interrupt controller has, or asks to be told when it can take it. */
static void deliver_interrupt(struct mon_machine *m)
{
    if (m->run->ready_for_interrupt && mon_pc_has_interrupt(&m->pc)) {
        mon_pc_update(&m->pc, mon_machine_now(m)); /* a tick due now is the same as the pending */
        uint8_t vector = mon_pc_acknowledge(&m->pc);
        if (novt_vcpu_interrupt(m->vcpu, vector) != NOVT_OK)
            mon_machine_stop(m, MON_E_INTERNAL, "internal error: interrupt %02xh was refused",
                             vector);
        m->count.interrupts++;
    }
    m->run->request_interrupt_window = mon_pc_has_interrupt(&m->pc);
    m->run->cr8 = mon_lapic_cr8(&m->pc.lapic);
    m->run->tpr_threshold = mon_lapic_threshold(&m->pc.lapic);
}

bool mon_exits_io_must_look(const struct mon_machine *m)
{
    return (mon_console_wants_input(&m->console) && !m->polls_in) ||
           (mon_console_wants_output(&m->console) && !m->polls_out) || m->console.out_error;
}

void mon_exits_enter(struct mon_machine *m)
{
    deliver_interrupt(m);
    mon_events_arm(m, false);
    if (mon_exits_io_must_look(m))
        mon_machine_wake_io(m);
    m->in_guest = true;
    m->nmi_sent = false;
}

void mon_exits_leave(struct mon_machine *m)
{
    m->in_guest = m->kicked = false;
    mon_lapic_set_cr8(&m->pc.lapic, m->run->cr8);
}

bool mon_exits_handler(void *machine, struct novt_run *run)
{
    struct mon_machine *m = machine;
    bool go_on = false;

    (void)run;
    if (m->config->log_io)
        return false;
    pthread_mutex_lock(&m->lock);
    mon_exits_leave(m); /* before what the exit writes to the TPR */
    if (mon_exits_handle(m)) {
        go_on = !m->stopped && m->pc.request.kind == MON_REQUEST_NONE;
        m->exit_handled = !go_on;
        if (go_on)
            mon_exits_enter(m);
    }
    pthread_mutex_unlock(&m->lock);
    return go_on;
}
