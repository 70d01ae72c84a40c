/* sandbox.c - the process gives up every system call that a running machine does not need.
 *
 * Entered when memory, engine, files and threads exist and before the guest's first instruction. A
 * guest that got out of the code cache would find a process that can compute, wait, map data and
 * use the descriptors that are open, and nothing else: no opening of files, no programs, no
 * processes or threads, no sockets, no new executable memory, no signals to others.
 *
 *     allowed   the table below, some with conditions on their arguments
 *     EACCES    calls that look for files: libraries try a file now and then and do without
 *     SIGSYS    everything else; the handler names the call and ends the run
 *
 * The filter is libseccomp's, for all threads (TSYNC), inherited, and never taken back
 * (PR_SET_NO_NEW_PRIVS). It goes without the mitigation of speculative stores that old kernels tie
 * to seccomp: the guest's code is in this process, and it would slow down every guest.
 *
 * A new system call in the command or the engine needs a row. The tests run under the filter. */
#include "monitor/sandbox.h"

#include "monitor/devices/console.h"

#include <asm/prctl.h>
#include <errno.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <termios.h>
#include <unistd.h>

#ifndef AT_EMPTY_PATH
#define AT_EMPTY_PATH 0x1000
#endif

/* What is asked of an argument. */
enum condition {
    ANY,
    NOT_EXEC,    /* argument 2: memory protection without PROT_EXEC */
    OWN,         /* argument 0: this process */
    EQUALS_ARG0, /* argument 0 is the value; a call may have several rows */
    EQUALS_ARG1,
    EQUALS_ARG3,
};

static const struct row {
    int call;
    enum condition condition;
    uint64_t value;
} rows[] = {
    /* Memory: windows, heaps. */
    {SCMP_SYS(mmap), NOT_EXEC, 0},
    {SCMP_SYS(mprotect), NOT_EXEC, 0},
    {SCMP_SYS(munmap), ANY, 0},
    {SCMP_SYS(mremap), ANY, 0},
    {SCMP_SYS(madvise), ANY, 0},
    {SCMP_SYS(brk), ANY, 0},
    /* Descriptors that are open: terminal, disk images, timer, log. */
    {SCMP_SYS(read), ANY, 0},
    {SCMP_SYS(write), ANY, 0},
    {SCMP_SYS(readv), ANY, 0},
    {SCMP_SYS(writev), ANY, 0},
    {SCMP_SYS(pread64), ANY, 0},
    {SCMP_SYS(pwrite64), ANY, 0},
    {SCMP_SYS(preadv), ANY, 0},
    {SCMP_SYS(pwritev), ANY, 0},
    {SCMP_SYS(lseek), ANY, 0},
    {SCMP_SYS(fsync), ANY, 0},
    {SCMP_SYS(fdatasync), ANY, 0},
    {SCMP_SYS(fallocate), ANY, 0},
    {SCMP_SYS(ftruncate), ANY, 0},
    {SCMP_SYS(close), ANY, 0},
    {SCMP_SYS(poll), ANY, 0},
    {SCMP_SYS(ppoll), ANY, 0},
    {SCMP_SYS(fstat), ANY, 0},
    {SCMP_SYS(newfstatat), EQUALS_ARG3, AT_EMPTY_PATH}, /* fstat() of glibc */
    {SCMP_SYS(timerfd_settime), ANY, 0},
    {SCMP_SYS(ioctl), EQUALS_ARG1, TCGETS}, /* not TIOCSTI, which types for the user */
    {SCMP_SYS(ioctl), EQUALS_ARG1, TCSETS},
    {SCMP_SYS(ioctl), EQUALS_ARG1, TCSETSW},
    {SCMP_SYS(ioctl), EQUALS_ARG1, TCSETSF},
    {SCMP_SYS(ioctl), EQUALS_ARG1, TIOCGWINSZ},
    /* Time, where the vDSO has no answer, and sleep. */
    {SCMP_SYS(clock_gettime), ANY, 0},
    {SCMP_SYS(gettimeofday), ANY, 0},
    {SCMP_SYS(clock_nanosleep), ANY, 0},
    {SCMP_SYS(nanosleep), ANY, 0},
    /* The threads that exist. */
    {SCMP_SYS(futex), ANY, 0},
    {SCMP_SYS(set_robust_list), ANY, 0}, /* a thread just made, before its function */
    {SCMP_SYS(rseq), ANY, 0},
    {SCMP_SYS(sched_getaffinity), ANY, 0}, /* the same with AddressSanitizer */
    {SCMP_SYS(sched_yield), ANY, 0},
    {SCMP_SYS(gettid), ANY, 0},
    {SCMP_SYS(getpid), ANY, 0},
    {SCMP_SYS(getrandom), ANY, 0},
    {SCMP_SYS(getcpu), ANY, 0},
    {SCMP_SYS(restart_syscall), ANY, 0},
    {SCMP_SYS(arch_prctl), EQUALS_ARG0, ARCH_SET_GS}, /* a host without FSGSBASE */
    {SCMP_SYS(arch_prctl), EQUALS_ARG0, ARCH_GET_GS},
    {SCMP_SYS(exit), ANY, 0},
    {SCMP_SYS(exit_group), ANY, 0},
    /* Signals: faults of translated code, kicks, the end. */
    {SCMP_SYS(rt_sigreturn), ANY, 0},
    {SCMP_SYS(rt_sigaction), ANY, 0},
    {SCMP_SYS(rt_sigprocmask), ANY, 0},
    {SCMP_SYS(sigaltstack), ANY, 0},
    {SCMP_SYS(tgkill), OWN, 0},
    {SCMP_SYS(kill), OWN, 0},
};

static const int refused_quietly[] = {
    SCMP_SYS(open),   SCMP_SYS(openat),    SCMP_SYS(openat2),    SCMP_SYS(stat),
    SCMP_SYS(lstat),  SCMP_SYS(statx),     SCMP_SYS(access),     SCMP_SYS(faccessat),
    SCMP_SYS(uname),  SCMP_SYS(sysinfo),   SCMP_SYS(readlink),   SCMP_SYS(readlinkat),
    SCMP_SYS(getcwd), SCMP_SYS(prlimit64), SCMP_SYS(faccessat2),
};

static int add_row(scmp_filter_ctx filter, const struct row *row)
{
    switch (row->condition) {
    case NOT_EXEC:
        return seccomp_rule_add(filter, SCMP_ACT_ALLOW, row->call, 1,
                                SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    case OWN:
        return seccomp_rule_add(filter, SCMP_ACT_ALLOW, row->call, 1,
                                SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));
    case EQUALS_ARG0:
        return seccomp_rule_add(filter, SCMP_ACT_ALLOW, row->call, 1,
                                SCMP_A0(SCMP_CMP_EQ, row->value));
    case EQUALS_ARG1:
        return seccomp_rule_add(filter, SCMP_ACT_ALLOW, row->call, 1,
                                SCMP_A1(SCMP_CMP_EQ, row->value));
    case EQUALS_ARG3:
        return seccomp_rule_add(filter, SCMP_ACT_ALLOW, row->call, 1,
                                SCMP_A3(SCMP_CMP_EQ, row->value));
    default:
        return seccomp_rule_add(filter, SCMP_ACT_ALLOW, row->call, 0);
    }
}

static int add_rules(scmp_filter_ctx filter)
{
    int rc = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
    if (rc == 0)
        rc = seccomp_attr_set(filter, SCMP_FLTATR_CTL_SSB, 1);
    if (rc == 0)
        rc = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a tree, not a list */
    for (size_t i = 0; rc == 0 && i < sizeof(rows) / sizeof(rows[0]); i++)
        rc = add_row(filter, &rows[i]);
    for (size_t i = 0; rc == 0 && i < sizeof(refused_quietly) / sizeof(refused_quietly[0]); i++)
        rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EACCES), refused_quietly[i], 0);
    return rc;
}

/* In signal context, after a call that no row allows: a defect of novt, or what the filter is for.
 */
static void on_refused(int number, siginfo_t *info, void *context)
{
    char line[160];
    (void)number;
    (void)context;
    mon_console_restore();
    int n = snprintf(line, sizeof(line),
                     "novt: internal error: the sandbox stopped system call %d; --sandbox off runs "
                     "without it\n",
                     info->si_syscall);
    if (write(STDERR_FILENO, line, (size_t)n) < 0)
        _exit(MON_E_INTERNAL);
    _exit(MON_E_INTERNAL);
}

static int catch_refused(void)
{
    struct sigaction action = {.sa_sigaction = on_refused, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigemptyset(&action.sa_mask);
    return sigaction(SIGSYS, &action, NULL) == 0 ? 0 : -errno;
}

/* The kernel's answer to a question that cannot succeed: a filter at address 0 is EFAULT where
 * there are filters. */
int mon_sandbox_supported(void)
{
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, NULL) < 0 &&
           errno == EFAULT;
}

int mon_sandbox_enter(struct mon_error *err)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_TRAP);
    if (!filter)
        return mon_error_set(err, MON_E_MEMORY, "no host memory for the sandbox's filter");
    int rc = add_rules(filter);
    if (rc == 0)
        rc = catch_refused();
    if (rc == 0)
        rc = seccomp_load(filter);
    seccomp_release(filter);
    if (rc == 0)
        return MON_OK;
    signal(SIGSYS, SIG_DFL);
    if (rc == -ENOMEM)
        return mon_error_set(err, MON_E_MEMORY, "no host memory for the sandbox's filter");
    return mon_error_set(err, MON_E_HOST,
                         "cannot enter the sandbox: %s; this host allows no seccomp filter "
                         "(CONFIG_SECCOMP_FILTER, or an outer sandbox); --sandbox off runs "
                         "without one",
                         strerror(-rc));
}
