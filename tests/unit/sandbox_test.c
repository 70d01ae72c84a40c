/* sandbox_test.c - what is left to a process under the filter, tried call by call.
 *
 * Each call is made in a child of its own, after mon_sandbox_enter(): it works, or is refused with
 * an errno, or ends the child with the status of an internal error. That the call works without
 * the filter is checked as well, so that a refusal is the filter's. */
#include "monitor/sandbox.h"

#include <asm/prctl.h>
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <seccomp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

TestSuite(sandbox, .timeout = 20);

enum { STOPPED = 200, TRIED_AND_DONE, NOT_ENTERED };

/* In a child: prepares what the call needs, enters, calls. The status is that of the call: 0, an
 * errno, or what the handler of refused calls ends with. */
static int in_child(int (*call)(void), bool sandboxed)
{
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (pid == 0) {
        struct mon_error err;
        int quiet = open("/dev/null", O_WRONLY | O_CLOEXEC);
        dup2(quiet, STDERR_FILENO);
        if (sandboxed && mon_sandbox_enter(&err) != MON_OK)
            _exit(NOT_ENTERED);
        errno = 0;
        _exit(call() >= 0 ? 0 : errno);
    }
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    if (WIFSIGNALED(status))
        return STOPPED + WTERMSIG(status);
    return WEXITSTATUS(status);
}

/* --- Calls that must not work ------------------------------------------------------------------*/

static int do_open(void)
{
    return (int)syscall(SYS_open, "/etc/passwd", O_RDONLY);
}
static int do_openat(void)
{
    return open("/etc/passwd", O_RDONLY);
}
static int do_open_write(void)
{
    return open("/dev/null", O_WRONLY);
}
static int do_openat2(void)
{
    uint64_t how[3] = {O_RDONLY, 0, 0};
    return (int)syscall(SYS_openat2, AT_FDCWD, "/etc/passwd", how, sizeof(how));
}
static int do_execve(void)
{
    static char *argv[] = {"true", NULL}, *envp[] = {NULL};
    return execve("/bin/true", argv, envp);
}
static int do_execveat(void)
{
    static char *argv[] = {"true", NULL}, *envp[] = {NULL};
    return (int)syscall(SYS_execveat, AT_FDCWD, "/bin/true", argv, envp, 0);
}
static int do_socket_unix(void)
{
    return socket(AF_UNIX, SOCK_STREAM, 0);
}
static int do_socket_inet(void)
{
    return socket(AF_INET, SOCK_STREAM, 0);
}
static int do_socketpair(void)
{
    int fd[2];
    return socketpair(AF_UNIX, SOCK_STREAM, 0, fd);
}
static int do_fork(void)
{
    int pid = (int)syscall(SYS_fork);
    if (pid == 0)
        _exit(0);
    return pid;
}
static int do_clone(void)
{
    int pid = (int)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, 0);
    if (pid == 0)
        _exit(0);
    return pid;
}
static void *nothing(void *arg)
{
    return arg;
}
static int do_thread(void)
{
    pthread_t thread;
    errno = pthread_create(&thread, NULL, nothing, NULL);
    return errno ? -1 : 0;
}
static int do_ptrace(void)
{
    return (int)ptrace(PTRACE_TRACEME, 0, NULL, NULL);
}
static int do_vm_readv(void)
{
    return (int)syscall(SYS_process_vm_readv, getpid(), NULL, 0ul, NULL, 0ul, 0ul);
}
static int do_map_exec(void)
{
    return mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED
               ? -1
               : 0;
}
static uint8_t page[4096] __attribute__((aligned(4096)));
static int do_protect_exec(void)
{
    return mprotect(page, sizeof(page), PROT_READ | PROT_WRITE | PROT_EXEC);
}
static int do_pkey_protect_exec(void)
{
    return (int)syscall(SYS_pkey_mprotect, page, sizeof(page), PROT_READ | PROT_EXEC, -1);
}
static int do_memfd(void)
{
    return memfd_create("x", 0);
}
static int do_kill_parent(void)
{
    return kill(getppid(), 0);
}
static int do_tgkill_parent(void)
{
    return (int)syscall(SYS_tgkill, getppid(), getppid(), 0);
}
static int do_tkill(void)
{
    return (int)syscall(SYS_tkill, getpid(), 0);
}
static int do_prctl(void)
{
    return prctl(PR_SET_NAME, "x");
}
static int do_arch_prctl_fs(void)
{
    unsigned long fs;
    return (int)syscall(SYS_arch_prctl, ARCH_GET_FS, &fs);
}
static int do_seccomp(void)
{
    return (int)syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &(uint32_t){SECCOMP_RET_ALLOW});
}
static int do_unlink(void)
{
    char name[] = "/tmp/novt-sandbox-XXXXXX";
    return (int)syscall(SYS_unlink, name) == 0 || errno == ENOENT ? 0 : -1;
}
static int do_chmod(void)
{
    return chmod("/tmp", 01777) == 0 || errno == EPERM ? 0 : -1;
}
static int do_dup(void)
{
    return dup(1);
}
static int do_pipe(void)
{
    int fd[2];
    return pipe(fd);
}
static int do_int80(void)
{
    /* getpid() of the 32-bit table; where the host has none, nothing is proved and nothing lost */
    int result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory", "r8", "r9", "r10", "r11");
    return result;
}
static int do_x32(void)
{
    return (int)syscall(0x40000000 + SYS_getpid) > 0 || errno == ENOSYS ? 0 : -1;
}

/* Parameters travel to another process, where functions are elsewhere: tests get an index. */
static const struct refused_row {
    const char *name;
    int (*call)(void);
    int status; /* how the child ends */
} refused_rows[] = {
    {"open", do_open, EACCES},
    {"openat", do_openat, EACCES},
    {"openat for writing", do_open_write, EACCES},
    {"openat2", do_openat2, EACCES},
    {"execve", do_execve, MON_E_INTERNAL},
    {"execveat", do_execveat, MON_E_INTERNAL},
    {"socket, local", do_socket_unix, MON_E_INTERNAL},
    {"socket, internet", do_socket_inet, MON_E_INTERNAL},
    {"socketpair", do_socketpair, MON_E_INTERNAL},
    {"fork", do_fork, MON_E_INTERNAL},
    {"clone", do_clone, MON_E_INTERNAL},
    {"a thread", do_thread, STOPPED + SIGSYS}, /* signals are blocked there */
    {"ptrace", do_ptrace, MON_E_INTERNAL},
    {"process_vm_readv", do_vm_readv, MON_E_INTERNAL},
    {"mmap, executable", do_map_exec, MON_E_INTERNAL},
    {"mprotect, executable", do_protect_exec, MON_E_INTERNAL},
    {"pkey_mprotect", do_pkey_protect_exec, MON_E_INTERNAL},
    {"memfd_create", do_memfd, MON_E_INTERNAL},
    {"kill of another", do_kill_parent, MON_E_INTERNAL},
    {"tgkill of another", do_tgkill_parent, MON_E_INTERNAL},
    {"tkill", do_tkill, MON_E_INTERNAL},
    {"prctl", do_prctl, MON_E_INTERNAL},
    {"arch_prctl of FS", do_arch_prctl_fs, MON_E_INTERNAL},
    {"seccomp", do_seccomp, MON_E_INTERNAL},
    {"unlink", do_unlink, MON_E_INTERNAL},
    {"chmod", do_chmod, MON_E_INTERNAL},
    {"dup", do_dup, MON_E_INTERNAL},
    {"pipe", do_pipe, MON_E_INTERNAL},
    {"int 80h", do_int80, STOPPED + SIGSYS},
    {"x32 getpid", do_x32, STOPPED + SIGSYS},
};

static int indices[64];
static struct criterion_test_params first_indices(size_t n)
{
    for (size_t i = 0; i < n; i++)
        indices[i] = (int)i;
    return cr_make_param_array(int, indices, n);
}

ParameterizedTestParameters(sandbox, calls_that_a_guest_needs_not_are_refused)
{
    return first_indices(sizeof(refused_rows) / sizeof(refused_rows[0]));
}

ParameterizedTest(int *index, sandbox, calls_that_a_guest_needs_not_are_refused)
{
    const struct refused_row *row = &refused_rows[*index];
    int without = in_child(row->call, false), with = in_child(row->call, true);
    cr_expect_eq(without, 0, "%s does not work without the sandbox: %d", row->name, without);
    cr_expect_eq(with, row->status, "%s: the child ended with %d, not %d", row->name, with,
                 row->status);
}

/* --- Calls that must go on working -------------------------------------------------------------*/

static int do_map_data(void)
{
    uint8_t *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || mprotect(p, 4096, PROT_READ) || madvise(p, 4096, MADV_DONTNEED))
        return -1;
    return munmap(p, 8192);
}
static int do_print(void)
{
    return fprintf(stderr, "%s %g\n", strsignal(SIGTERM), 1.5) > 0 ? 0 : -1;
}
static int do_allocate(void)
{
    for (size_t n = 1; n < 64u << 20; n *= 2) {
        char *volatile p = malloc(n);
        if (!p)
            return -1;
        memset(p, 1, n);
        free(p);
    }
    return 0;
}
static int do_clock(void)
{
    struct timespec ts, nap = {0, 1000};
    if (clock_gettime(CLOCK_MONOTONIC, &ts) || nanosleep(&nap, NULL))
        return -1;
    return (int)syscall(SYS_clock_gettime, CLOCK_REALTIME, &ts);
}
static int do_signal_self(void)
{
    signal(SIGUSR1, SIG_IGN);
    return raise(SIGUSR1) || kill(getpid(), SIGUSR1) ? -1 : 0;
}
static int do_isatty(void)
{
    return isatty(2) ? -1 : 0;
}

static const struct allowed_row {
    const char *name;
    int (*call)(void);
} allowed_rows[] = {
    {"memory", do_map_data},     {"printing", do_print},          {"allocation", do_allocate},
    {"clocks, sleep", do_clock}, {"own signals", do_signal_self}, {"isatty", do_isatty},
};

ParameterizedTestParameters(sandbox, what_a_running_machine_needs_goes_on)
{
    return first_indices(sizeof(allowed_rows) / sizeof(allowed_rows[0]));
}

ParameterizedTest(int *index, sandbox, what_a_running_machine_needs_goes_on)
{
    const struct allowed_row *row = &allowed_rows[*index];
    cr_expect_eq(in_child(row->call, false), 0, "%s without the sandbox", row->name);
    cr_expect_eq(in_child(row->call, true), 0, "%s", row->name);
}

/* --- Threads -----------------------------------------------------------------------------------*/

static int gate[2], ready[2];

static void *open_when_told(void *result)
{
    char c;
    if (write(ready[1], "x", 1) != 1 || read(gate[0], &c, 1) != 1)
        return NULL;
    errno = 0;
    int fd = open("/etc/passwd", O_RDONLY);
    *(int *)result = fd >= 0 ? 0 : errno;
    return NULL;
}

/* A thread that existed before is under the filter too; 0 when it could not open. */
static int do_other_thread(void)
{
    struct mon_error err;
    pthread_t thread;
    int result = -1;
    char c;
    if (pipe(gate) || pipe(ready) || pthread_create(&thread, NULL, open_when_told, &result) ||
        read(ready[0], &c, 1) != 1)
        return -1;
    if (mon_sandbox_enter(&err) != MON_OK || write(gate[1], "x", 1) != 1)
        return -1;
    pthread_join(thread, NULL);
    return result == EACCES ? 0 : -1;
}

Test(sandbox, threads_that_exist_are_inside)
{
    cr_expect_eq(in_child(do_other_thread, false), 0);
}

/* As a container does that allows no filters inside. 0 when the answer is what it should be. */
static int do_enter_where_filters_are_forbidden(void)
{
    struct mon_error err = {0};
    scmp_filter_ctx outer = seccomp_init(SCMP_ACT_ALLOW);
    if (!outer || seccomp_rule_add(outer, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(seccomp), 0) ||
        seccomp_rule_add(outer, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(prctl), 1,
                         SCMP_A0(SCMP_CMP_EQ, PR_SET_SECCOMP)) ||
        seccomp_load(outer))
        return -1;
    if (mon_sandbox_supported() || mon_sandbox_enter(&err) != MON_E_HOST)
        return -1;
    return strstr(err.text, "--sandbox off") ? 0 : -1;
}

Test(sandbox, a_host_that_allows_no_filter_is_an_error_with_a_remedy)
{
    cr_expect(mon_sandbox_supported());
    cr_expect_eq(in_child(do_enter_where_filters_are_forbidden, false), 0);
}
