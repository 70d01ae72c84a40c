/* machine.c - builds the machine and runs its vCPU; see machine.h.
 *
 * This thread holds the lock all the time but for novt_vcpu_run() and the sleep in HLT. An
 * interrupt is acknowledged at the last moment, when the vCPU is ready for it: then the interrupt
 * controller chooses among what is pending at that time.
 *
 * A guest that halts with interrupts off has ended: there is nothing that could wake it. */
#include "monitor/machine.h"
#include "monitor/check.h"
#include "monitor/sandbox.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define TIMER_SLACK_NS 1000 /* of the sleep in HLT; 50,000 by default */

uint64_t mon_machine_now(void *machine)
{
    struct mon_machine *m = machine;
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * MON_NS_PER_S + (uint64_t)ts.tv_nsec - m->epoch;
}

/* The guest's TSC. Any thread with the lock: the host's TSCs are in step. */
static uint64_t guest_tsc(void *machine)
{
    const struct mon_machine *m = machine;
    return __builtin_ia32_rdtsc() + m->tsc_offset;
}

static void send_nmi(void *machine)
{
    struct mon_machine *m = machine;
    novt_vcpu_nmi(m->vcpu);
    m->nmi_sent = true;
}

static uint64_t wall_time(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (uint64_t)ts.tv_sec * MON_NS_PER_S + (uint64_t)ts.tv_nsec;
}

void mon_machine_stop(struct mon_machine *m, int status, const char *format, ...)
{
    if (m->stopped)
        return;
    m->stopped = true;
    m->end.status = status;
    m->end.text[0] = '\0';
    if (format) {
        va_list args;
        va_start(args, format);
        vsnprintf(m->end.text, sizeof(m->end.text), format, args);
        va_end(args);
    }
    if (m->in_guest)
        novt_vcpu_kick(m->vcpu);
    mon_exits_wake(m);
    mon_machine_wake_io(m);
}

/* Whoever read the output may have gone, as `head` does: then end as a filter would. */
void mon_machine_output_error(struct mon_machine *m)
{
    int error = m->console.out_error;
    if (error == EPIPE)
        mon_machine_stop(m, 128 + SIGPIPE, "ended: nobody reads the guest's output");
    else
        mon_machine_stop(m, MON_E_HOST, "cannot write the guest's output: %s", strerror(error));
}

void mon_machine_wake_io(struct mon_machine *m)
{
    if (eventfd_write(m->wake_fd, 1) < 0)
        return; /* the counter is at its maximum: it is awake */
}

uint64_t mon_machine_deadline(const struct mon_machine *m)
{
    uint64_t deadline = mon_pc_deadline(&m->pc);
    return m->console.deadline < deadline ? m->console.deadline : deadline;
}

void mon_machine_update(struct mon_machine *m)
{
    uint64_t now = mon_machine_now(m);
    mon_pc_update(&m->pc, now);
    if (now >= m->console.deadline && mon_console_flush(&m->console))
        mon_uart_pump(&m->pc.uart);
}

/* --- Reset -------------------------------------------------------------------------------------*/

/* Loads the kernel and puts devices and vCPU where it starts. */
static int reset(struct mon_machine *m, struct mon_error *err)
{
    struct mon_entry entry;
    struct novt_regs regs;
    struct novt_sregs sregs;
    struct mon_ram_range range[MON_RAM_RANGES_MAX];

    int status = mon_boot_read(&m->boot, err);
    if (!status)
        status = mon_boot_load(&m->boot, &m->ram, &entry, err);
    mon_boot_forget(&m->boot);
    if (status)
        return status;
    for (unsigned i = 0, n = mon_ram_ranges(&m->ram, range); i < n; i++)
        novt_vm_memory_written(m->vm, range[i].gpa, range[i].size);

    novt_vcpu_reset(m->vcpu);
    m->tsc_offset = m->run->tsc_offset;
    mon_pc_reset(&m->pc);
    novt_vcpu_get_regs(m->vcpu, &regs);
    novt_vcpu_get_sregs(m->vcpu, &sregs);
    mon_pc_set_apic_base(&m->pc, sregs.apic_base); /* the CPU model may be without */
    mon_entry_set(&entry, &regs, &sregs);
    if (novt_vcpu_set_sregs(m->vcpu, &sregs) != NOVT_OK ||
        novt_vcpu_set_regs(m->vcpu, &regs) != NOVT_OK)
        return mon_error_set(err, MON_E_INTERNAL, "cannot set the vCPU's start state: %s",
                             novt_vm_error(m->vm));
    m->run->request_interrupt_window = 0;
    return MON_OK;
}

static void print_segment(const char *name, const struct novt_segment *s)
{
    fprintf(stderr, "%-4s selector %04x  base %08llx  limit %08x  attributes %05x\n", name,
            s->selector, (unsigned long long)s->base, s->limit, s->attr);
}

/* The vCPU's state, for a reset that ends the run. */
static void print_registers(struct mon_machine *m)
{
    static const char *const gpr[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                        "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    static const char *const seg[6] = {"es", "cs", "ss", "ds", "fs", "gs"};
    struct novt_regs regs;
    struct novt_sregs sregs;
    novt_vcpu_get_regs(m->vcpu, &regs);
    novt_vcpu_get_sregs(m->vcpu, &sregs);

    unsigned count = sregs.efer & 1 << 10 ? 16 : 8; /* EFER.LMA */
    fprintf(stderr, "rip  %016llx  rflags %08llx\n", (unsigned long long)regs.rip,
            (unsigned long long)regs.rflags);
    for (unsigned i = 0; i < count; i++)
        fprintf(stderr, "%-4s %016llx%s", gpr[i], (unsigned long long)regs.gpr[i],
                i % 4 == 3 ? "\n" : "  ");
    for (unsigned i = 0; i < 6; i++)
        print_segment(seg[i], &sregs.seg[i]);
    print_segment("tr", &sregs.tr);
    print_segment("ldt", &sregs.ldt);
    fprintf(stderr, "gdt  base %08llx  limit %04x\nidt  base %08llx  limit %04x\n",
            (unsigned long long)sregs.gdt.base, sregs.gdt.limit, (unsigned long long)sregs.idt.base,
            sregs.idt.limit);
    fprintf(stderr, "cr0  %08llx  cr2 %016llx  cr3 %016llx  cr4 %08llx  efer %08llx\n",
            (unsigned long long)sregs.cr0, (unsigned long long)sregs.cr2,
            (unsigned long long)sregs.cr3, (unsigned long long)sregs.cr4,
            (unsigned long long)sregs.efer);
}

/* A reset by the guest: starts it again, or ends the run. */
static void guest_reset(struct mon_machine *m, const char *why)
{
    struct mon_error err;
    if (m->config->no_reboot) {
        mon_console_flush(&m->console);
        print_registers(m);
        mon_machine_stop(m, MON_E_RESET, "the guest reset (%s), and --no-reboot ends the run", why);
        return;
    }
    m->count.resets++;
    int status = reset(m, &err);
    if (status)
        mon_machine_stop(m, status, "%s", err.text);
}

static void take_request(struct mon_machine *m)
{
    struct mon_request request = m->pc.request;
    m->pc.request = (struct mon_request){0};

    switch (request.kind) {
    case MON_REQUEST_NONE:
        break;
    case MON_REQUEST_RESET:
        guest_reset(m, request.source);
        break;
    case MON_REQUEST_POWER_OFF:
        mon_machine_stop(m, MON_OK, NULL);
        break;
    case MON_REQUEST_DEBUG_EXIT:
        mon_machine_stop(m, (int)((request.value << 1 | 1) & 0xff), NULL);
        break;
    }
}

/* --- Exits -------------------------------------------------------------------------------------*/

static void handle_exit(struct mon_machine *m)
{
    switch (m->run->exit_reason) {
    case NOVT_EXIT_SHUTDOWN:
        mon_request_make(&m->pc.request, MON_REQUEST_RESET, 0, "triple fault");
        break;
    case NOVT_EXIT_INTERNAL:
        mon_console_flush(&m->console);
        print_registers(m);
        mon_machine_stop(m, MON_E_INTERNAL, "internal error: %s", m->run->fail.reason);
        break;
    default:
        if (!mon_exits_handle(m))
            mon_machine_stop(m, MON_E_INTERNAL, "internal error: exit %u was not asked for",
                             m->run->exit_reason);
        break;
    }
}

static void run_vcpu(struct mon_machine *m)
{
    pthread_mutex_lock(&m->lock);
    while (!m->stopped) {
        mon_exits_enter(m);
        pthread_mutex_unlock(&m->lock);

        int status = novt_vcpu_run(m->vcpu);

        pthread_mutex_lock(&m->lock);
        mon_exits_leave(m);
        if (status != NOVT_OK)
            mon_machine_stop(m, status == NOVT_E_NOMEM ? MON_E_MEMORY : MON_E_INTERNAL,
                             "cannot run the vCPU: %s: %s", novt_status_string(status),
                             novt_vm_error(m->vm));
        else if (!m->exit_handled)
            handle_exit(m);
        m->exit_handled = false;
        take_request(m);
    }
    pthread_mutex_unlock(&m->lock);
}

/* --- Statistics --------------------------------------------------------------------------------*/

static void print_row(FILE *to, const char *name, uint64_t value, const char *unit)
{
    fprintf(to, "%-32s %20llu  %s\n", name, (unsigned long long)value, unit);
}

void mon_machine_print_stats(struct mon_machine *m, FILE *to)
{
    const struct mon_machine_counters *c = &m->count;
    size_t n = novt_vm_stats(m->vm, NULL, 0);
    struct novt_stat *stats = calloc(n ? n : 1, sizeof(*stats));

    if (stats) {
        size_t got = novt_vm_stats(m->vm, stats, n);
        for (size_t i = 0; i < got && i < n; i++)
            print_row(to, stats[i].name, stats[i].value, stats[i].unit);
    }
    print_row(to, "machine_time", mon_machine_now(m), "ns");
    print_row(to, "machine_halted_time", c->halted_ns, "ns");
    print_row(to, "machine_exits_io", c->io_exits, "count");
    print_row(to, "machine_exits_mmio", c->mmio_exits, "count");
    print_row(to, "machine_exits_msr", c->msr_exits, "count");
    print_row(to, "machine_exits_halt", c->halt_exits, "count");
    print_row(to, "machine_exits_window", c->window_exits, "count");
    print_row(to, "machine_exits_kick", c->kick_exits, "count");
    print_row(to, "machine_kicks", c->kicks, "count");
    print_row(to, "machine_interrupts", c->interrupts, "count");
    print_row(to, "machine_timer_ticks", m->pc.pit.edges + m->pc.lapic.timer_interrupts, "count");
    print_row(to, "machine_resets", c->resets, "count");
    print_row(to, "machine_sandbox", !m->config->no_sandbox, m->config->no_sandbox ? "off" : "on");
    fflush(to);
    free(stats);
}

/* --- Building ----------------------------------------------------------------------------------*/

static int engine_error(int status)
{
    switch (status) {
    case NOVT_E_INVAL:
        return MON_E_USAGE;
    case NOVT_E_NOMEM:
        return MON_E_MEMORY;
    case NOVT_E_HOST:
        return MON_E_HOST;
    default:
        return MON_E_INTERNAL;
    }
}

static int create_vm(struct mon_machine *m, struct mon_error *err)
{
    char why[256] = "";
    struct mon_ram_range range[MON_RAM_RANGES_MAX];
    struct novt_config engine = m->config->engine;
    engine.flags |= NOVT_F_LOCAL_APIC;
    int status = novt_vm_create(&engine, &m->vm, why, sizeof(why));
    if (status != NOVT_OK)
        return mon_error_set(err, engine_error(status), "cannot create the virtual machine: %s",
                             why[0] ? why : novt_status_string(status));

    for (unsigned i = 0, n = mon_ram_ranges(&m->ram, range); i < n && status == NOVT_OK; i++)
        status = novt_vm_set_memory(m->vm, i, range[i].gpa, range[i].size, m->ram.fd,
                                    range[i].offset, 0);
    if (status == NOVT_OK)
        status = novt_vcpu_create(m->vm, 0, &m->vcpu);
    if (status != NOVT_OK)
        return mon_error_set(err, engine_error(status), "cannot set up the virtual machine: %s",
                             novt_vm_error(m->vm));
    m->run = novt_vcpu_run_area(m->vcpu);
    novt_vcpu_set_handler(m->vcpu, mon_exits_handler, m,
                          NOVT_HANDLER_KEEPS_VECTORS | NOVT_HANDLER_KEEPS_STATE);
    m->pc.config.tsc_khz = novt_vm_tsc_khz(m->vm);
    m->pc.config.apic_khz = novt_vm_apic_khz(m->vm);
    return MON_OK;
}

static int create_board(struct mon_machine *m, struct mon_error *err)
{
    struct mon_clock clock = {mon_machine_now, m};
    struct mon_pc_config config = {
        .clock = clock,
        .wall_ns = wall_time(),
        .line = {mon_console_send, mon_console_receive, &m->console},
        .ram_below_4g = mon_ram_below_4g(&m->ram),
        .ram_above_4g = mon_ram_above_4g(&m->ram),
        .debug_exit_port = m->config->debug_exit_port,
        .tsc = {guest_tsc, m},
        .tsc_khz = 1,
        .apic_khz = 1, /* until there is a CPU to ask */
        .nmi = send_nmi,
        .nmi_opaque = m,
    };
    m->epoch = mon_machine_now(m);
    if (!mon_pc_init(&m->pc, &config))
        return mon_error_set(err, MON_E_USAGE,
                             "port %xh belongs to a device; give --debug-exit another",
                             m->config->debug_exit_port);
    mon_console_init(&m->console, STDIN_FILENO, STDOUT_FILENO, &m->pc.config.clock);
    return MON_OK;
}

static void init_lock(struct mon_machine *m)
{
    pthread_mutex_init(&m->lock, NULL);
}

static int build(struct mon_machine *m, struct mon_error *err)
{
    const struct mon_machine_config *config = m->config;
    int status = mon_check_limits(&config->engine, config->memory, err);
    if (!status)
        status = create_board(m, err);
    if (!status)
        status = mon_ram_create(&m->ram, config->memory, err);
    if (!status)
        status =
            mon_boot_open(&m->boot, config->kernel, config->initrd, config->append, &m->ram, err);
    if (!status)
        status = create_vm(m, err);
    if (!status)
        status = reset(m, err);
    return status;
}

/* A run that ended by itself is worth waiting for whoever reads its output; signals then have their
 * usual effect. */
static void finish(struct mon_machine *m)
{
    bool by_signal = m->end.status >= 128 && m->end.text[0];
    mon_console_restore();
    mon_console_flush(&m->console);
    if (!by_signal) {
        mon_events_give_back_signals(m);
        mon_console_drain(&m->console);
    }
    if (m->console.out_error && !m->end.text[0]) {
        m->stopped = false; /* it ended as the guest wanted, but for this */
        mon_machine_output_error(m);
    }
    if (m->config->stats)
        mon_machine_print_stats(m, m->config->stats);
}

/* When every file is open and every thread exists. */
static void enter_sandbox(struct mon_machine *m)
{
    struct mon_error err;
    if (m->config->no_sandbox)
        return;
    int status = mon_sandbox_enter(&err);
    pthread_mutex_lock(&m->lock);
    if (status)
        mon_machine_stop(m, status, "%s", err.text);
    pthread_mutex_unlock(&m->lock);
}

int mon_machine_run(const struct mon_machine_config *config, struct mon_error *err)
{
    struct mon_machine *m = calloc(1, sizeof(*m));
    if (!m)
        return mon_error_set(err, MON_E_MEMORY, "no host memory for the machine");
    m->config = config;
    m->ram.fd = m->timer_fd = m->wake_fd = -1;
    m->armed = MON_NEVER;
    init_lock(m);

    mon_events_take_signals(m);
    int status = build(m, err);
    if (!status)
        status = mon_events_start(m, err);
    if (!status) {
        prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS);
        enter_sandbox(m);
        run_vcpu(m);
        mon_events_stop(m);
        finish(m);
        *err = m->end;
        status = m->end.status;
    }
    novt_vm_destroy(m->vm);
    mon_events_give_back_signals(m);
    mon_boot_close(&m->boot);
    mon_ram_destroy(&m->ram);
    pthread_mutex_destroy(&m->lock);
    free(m);
    return status;
}
