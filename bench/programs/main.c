/* main.c - every benchmark in one static program.
 *
 *   bench [--times N] [GROUP | NAME]...   runs them; natively and from a guest's shell
 *   bench --init [...]                    as a guest's first process: powers off at the end
 *   bench --init --idle                   as a guest's first process: does nothing, for ever
 *   bench --ticks HZ                      only sleeps, so many times a second, for ever
 *   bench --nothing                       exits at once (what fork+exec executes)
 *
 * Prints "bench: userland" first, which is what the boot benchmark waits for, then for each program
 * "bench GROUP NAME SECONDS CHECKSUM" (SECONDS: the least of N runs) or "bench GROUP NAME skip",
 * and "bench: end". A run that gives another checksum than the first one is an error, status 1. */
#include "bench.h"

#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <time.h>
#include <unistd.h>

const char *bench_self, *bench_dynamic;
uint8_t *bench_arena;

static const struct bench *const tables[] = {bench_integer, bench_memory, bench_fp_sse,
                                             bench_fp_x87,  bench_simd,   bench_os};

/* A guest has one CPU, so nobody gets two: a wake-up across CPUs costs far more than a switch. */
static void stay_on_one_cpu(void)
{
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(sched_getcpu(), &cpus);
    sched_setaffinity(0, sizeof cpus, &cpus);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static bool run(const struct bench *b, int times)
{
    if (b->possible && !b->possible()) {
        printf("bench %s %s skip\n", b->group, b->name);
        return true;
    }
    double best = 0;
    uint64_t sum = 0;
    for (int i = 0; i < times; i++) {
        if (b->prepare)
            b->prepare();
        double start = now();
        uint64_t result = b->work();
        double seconds = now() - start;
        if (i && result != sum) {
            printf("bench %s %s differs %016" PRIx64 " %016" PRIx64 "\n", b->group, b->name, sum,
                   result);
            return false;
        }
        sum = result;
        if (!i || seconds < best)
            best = seconds;
    }
    printf("bench %s %s %.6f %016" PRIx64 "\n", b->group, b->name, best, sum);
    return true;
}

static bool selected(const struct bench *b, char **names)
{
    if (!*names)
        return true;
    for (; *names; names++)
        if (!strcmp(*names, b->group) || !strcmp(*names, b->name))
            return true;
    return false;
}

/* The dynamically linked program lies beside this one, under its name with -dynamic. */
static void find_programs(void)
{
    static char beside[4096];
    bool in_guest = getpid() == 1;
    bench_self = in_guest ? "/bin/bench" : "/proc/self/exe";
    bench_dynamic = in_guest ? "/bin/dynamic" : beside;
    ssize_t n = in_guest ? -1 : readlink("/proc/self/exe", beside, sizeof beside - 16);
    if (n > 0)
        memcpy(beside + n, "-dynamic", sizeof "-dynamic");
}

static void sleep_for_ever(long hz)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    for (;;) {
        t.tv_nsec += 1000000000 / hz;
        t.tv_sec += t.tv_nsec / 1000000000;
        t.tv_nsec %= 1000000000;
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
    }
}

static int run_selected(char **names, int times)
{
    int status = 0;
    for (size_t t = 0; t < sizeof tables / sizeof *tables; t++)
        for (const struct bench *b = tables[t]; b->name; b++)
            if (selected(b, names) && !run(b, times))
                status = 1;
    return status;
}

int main(int argc, char **argv)
{
    bool is_init = false, idle = false;
    int times = 1;
    long ticks = 0;
    find_programs();
    char **arg = argv + 1;
    for (; arg < argv + argc && !strncmp(*arg, "--", 2); arg++) {
        if (!strcmp(*arg, "--nothing"))
            return 0;
        if (!strcmp(*arg, "--init"))
            is_init = true;
        else if (!strcmp(*arg, "--idle"))
            idle = true;
        else if (!strcmp(*arg, "--ticks") && arg[1])
            ticks = atol(*++arg);
        else if (!strcmp(*arg, "--times") && arg[1])
            times = atoi(*++arg);
        else
            return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("bench: userland");
    if (ticks > 0)
        sleep_for_ever(ticks);
    while (idle)
        pause();
    stay_on_one_cpu();
    bench_arena =
        mmap(NULL, BENCH_ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bench_arena == MAP_FAILED)
        return 2;
    memset(bench_arena, 0, BENCH_ARENA);
    int status = run_selected(arg, times);
    puts("bench: end");
    if (is_init)
        reboot(RB_POWER_OFF);
    return status;
}
