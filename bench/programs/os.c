/* os.c - what a process asks of its kernel: system calls, faults, processes, signals, files. */
#include "bench.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Nothing here may go wrong; a wrong number shows in the checksum. */
static uint64_t null_syscall(void)
{
    uint64_t ok = 0;
    for (int i = 0; i < 500000; i++)
        ok += syscall(SYS_getppid) >= 0;
    return ok;
}

static uint64_t read_write(void)
{
    char buffer[4096];
    int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC),
        null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    uint64_t total = 0;
    for (int i = 0; i < 60000; i++) {
        ssize_t n = read(zero, buffer, sizeof buffer);
        total += (uint64_t)n + (uint64_t)write(null, buffer, 512);
    }
    close(zero);
    close(null);
    return total;
}

/* The clock through the vDSO, where the kernel offers one, else a system call. */
static uint64_t gettime(void)
{
    struct timespec t, last = {0};
    uint64_t ok = 0;
    for (int i = 0; i < 1000000; i++) {
        clock_gettime(CLOCK_MONOTONIC, &t);
        ok += t.tv_sec > last.tv_sec || (t.tv_sec == last.tv_sec && t.tv_nsec >= last.tv_nsec);
        last = t;
    }
    return ok;
}

/* The least that a read and a write can carry. */
static uint64_t read_write_1(void)
{
    char c;
    int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC),
        null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    uint64_t total = 0;
    for (int i = 0; i < 150000; i++)
        total += (uint64_t)read(zero, &c, 1) + (uint64_t)write(null, &c, 1);
    close(zero);
    close(null);
    return total;
}

static uint64_t yield(void)
{
    uint64_t ok = 0;
    for (int i = 0; i < 200000; i++)
        ok += sched_yield() == 0;
    return ok;
}

static void wait_for(pid_t child, uint64_t *ok)
{
    int status;
    *ok += waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static uint64_t pipe_ping_pong(void)
{
    enum { ROUNDS = 10000 };
    int to[2], from[2];
    char c = 'x';
    uint64_t ok = 0;
    if (pipe(to) || pipe(from))
        return 0;
    pid_t child = fork();
    if (child == 0) {
        close(to[1]);
        while (read(to[0], &c, 1) == 1)
            if (write(from[1], &c, 1) != 1)
                break;
        _exit(0);
    }
    close(to[0]);
    close(from[1]);
    for (int i = 0; i < ROUNDS; i++)
        ok += write(to[1], &c, 1) == 1 && read(from[0], &c, 1) == 1;
    close(to[1]);
    close(from[0]);
    wait_for(child, &ok);
    return ok;
}

static long futex(uint32_t *word, int op, uint32_t value)
{
    return syscall(SYS_futex, word, op, value, NULL, NULL, 0);
}

/* Hands the word from `mine` to the other one, asleep while it is the other's. */
static uint64_t futex_turns(uint32_t *word, uint32_t mine, int rounds)
{
    uint64_t turns = 0;
    for (int i = 0; i < rounds; i++) {
        uint32_t now;
        while ((now = __atomic_load_n(word, __ATOMIC_ACQUIRE)) != mine)
            futex(word, FUTEX_WAIT, now);
        __atomic_store_n(word, 1 - mine, __ATOMIC_RELEASE);
        futex(word, FUTEX_WAKE, 1);
        turns++;
    }
    return turns;
}

static uint64_t futex_ping_pong(void)
{
    enum { ROUNDS = 10000 };
    uint32_t *word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (word == MAP_FAILED)
        return 0;
    pid_t child = fork();
    if (child == 0)
        _exit(futex_turns(word, 1, ROUNDS) != ROUNDS);
    uint64_t ok = futex_turns(word, 0, ROUNDS);
    wait_for(child, &ok);
    munmap(word, 4096);
    return ok;
}

/* The arena would be most of a fork's work: children do not get it. */
static uint64_t hide_arena(void)
{
    return (uint64_t)madvise(bench_arena, BENCH_ARENA, MADV_DONTFORK);
}

static uint64_t fork_wait(void)
{
    uint64_t ok = 0;
    for (int i = 0; i < 300; i++) {
        pid_t child = fork();
        if (child == 0)
            _exit(0);
        wait_for(child, &ok);
    }
    return ok;
}

static uint64_t execute(const char *path, int times)
{
    uint64_t ok = 0;
    for (int i = 0; i < times; i++) {
        pid_t child = fork();
        if (child == 0) {
            execl(path, "bench", "--nothing", NULL);
            _exit(1);
        }
        wait_for(child, &ok);
    }
    return ok;
}

static uint64_t fork_exec(void)
{
    return execute(bench_self, 150);
}

static uint64_t fork_exec_dynamic(void)
{
    return execute(bench_dynamic, 100);
}

static uint64_t mmap_touch(void)
{
    enum { PAGES = 512 };
    uint64_t sum = 0;
    for (int i = 0; i < 40; i++) {
        uint8_t *p =
            mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED)
            return 0;
        for (int k = 0; k < PAGES; k++)
            sum += ++p[k * 4096];
        munmap(p, PAGES * 4096);
    }
    return sum;
}

static uint64_t mprotect_flip(void)
{
    uint8_t *p = mmap(NULL, 16 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint64_t ok = 0;
    for (int i = 0; i < 20000; i++) {
        p[4096 * (i & 15)]++;
        ok += !mprotect(p, 16 * 4096, PROT_READ) && !mprotect(p, 16 * 4096, PROT_READ | PROT_WRITE);
    }
    munmap(p, 16 * 4096);
    return ok;
}

static volatile sig_atomic_t signals;

static void count_signal(int number)
{
    signals += number == SIGUSR1;
}

static uint64_t signal_self(void)
{
    struct sigaction action = {.sa_handler = count_signal};
    sigaction(SIGUSR1, &action, NULL);
    signals = 0;
    for (int i = 0; i < 20000; i++)
        raise(SIGUSR1);
    return (uint64_t)signals;
}

static sigjmp_buf after_segv;
static volatile sig_atomic_t segvs;
static uint8_t *guarded;

/* Makes the page writable; the store is done again. */
static void unprotect(int number)
{
    segvs += number == SIGSEGV;
    if (mprotect(guarded, 4096, PROT_READ | PROT_WRITE))
        siglongjmp(after_segv, 1);
}

/* What a garbage collector's write barrier does. */
static uint64_t segv_handler(void)
{
    struct sigaction action = {.sa_handler = unprotect}, old;
    guarded = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (guarded == MAP_FAILED)
        return 0;
    sigaction(SIGSEGV, &action, &old);
    segvs = 0;
    if (!sigsetjmp(after_segv, 1))
        for (int i = 0; i < 10000; i++) {
            mprotect(guarded, 4096, PROT_READ);
            *(volatile uint8_t *)guarded = (uint8_t)i;
        }
    sigaction(SIGSEGV, &old, NULL);
    munmap(guarded, 4096);
    return (uint64_t)segvs;
}

/* Copy-on-write: a child writes to every page that it shares. */
static uint64_t cow_faults(void)
{
    enum { PAGES = 512 };
    uint8_t *p =
        mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint64_t ok = 0;
    memset(p, 1, PAGES * 4096);
    for (int i = 0; i < 10; i++) {
        pid_t child = fork();
        if (child == 0) {
            int sum = 0;
            for (int k = 0; k < PAGES; k++)
                sum += ++p[k * 4096];
            _exit(sum != 2 * PAGES);
        }
        wait_for(child, &ok);
    }
    munmap(p, PAGES * 4096);
    return ok;
}

/* A file system in memory: /dev/shm natively, the initial one in a guest. */
static const char *memory_folder(void)
{
    return access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
}

static uint64_t file_create(void)
{
    const char *dir = memory_folder();
    char name[64];
    uint64_t ok = 0;
    for (int i = 0; i < 3000; i++) {
        snprintf(name, sizeof name, "%s/novt-bench-%d-%d", dir, (int)getpid(), i & 15);
        int fd = open(name, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
        ok += write(fd, name, sizeof name) == sizeof name;
        close(fd);
        ok += unlink(name) == 0;
    }
    return ok;
}

/* 4 MiB written and read back in pieces of 64 KiB. */
static uint64_t file_64k(void)
{
    enum { PIECE = 65536, PIECES = 64 };
    char name[64];
    uint64_t sum = 0;
    snprintf(name, sizeof name, "%s/novt-bench-%d", memory_folder(), (int)getpid());
    int fd = open(name, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    for (int round = 0; round < 8; round++) {
        lseek(fd, 0, SEEK_SET);
        for (int i = 0; i < PIECES; i++) {
            bench_arena[0] = (uint8_t)(i + round);
            sum += (uint64_t)write(fd, bench_arena, PIECE);
        }
        lseek(fd, 0, SEEK_SET);
        for (int i = 0; i < PIECES; i++) {
            sum += (uint64_t)read(fd, bench_arena + PIECE, PIECE);
            sum += bench_arena[PIECE];
        }
    }
    close(fd);
    unlink(name);
    return sum;
}

const struct bench bench_os[] = {
    {"os", "null_syscall", null_syscall, NULL, NULL},
    {"os", "gettime", gettime, NULL, NULL},
    {"os", "read_write_1", read_write_1, NULL, NULL},
    {"os", "read_write", read_write, NULL, NULL},
    {"os", "yield", yield, NULL, NULL},
    {"os", "pipe_ping_pong", pipe_ping_pong, NULL, hide_arena},
    {"os", "futex_ping_pong", futex_ping_pong, NULL, hide_arena},
    {"os", "fork_wait", fork_wait, NULL, hide_arena},
    {"os", "fork_exec", fork_exec, NULL, hide_arena},
    {"os", "fork_exec_dynamic", fork_exec_dynamic, NULL, hide_arena},
    {"os", "mmap_touch", mmap_touch, NULL, NULL},
    {"os", "cow_faults", cow_faults, NULL, hide_arena},
    {"os", "mprotect_flip", mprotect_flip, NULL, NULL},
    {"os", "signal_self", signal_self, NULL, NULL},
    {"os", "segv_handler", segv_handler, NULL, NULL},
    {"os", "file_create", file_create, NULL, NULL},
    {"os", "file_64k", file_64k, NULL, NULL},
    {0},
};
