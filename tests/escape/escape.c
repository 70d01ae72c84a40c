/* escape.c - guests that try to get out.
 *
 *   escape [-n COUNT] [-s SEED] [-k KIND] [-m MODE] [-t NS] [-i] [-v]
 *
 * COUNT experiments (2000 unless given) of each kind, mode and privilege, each of which may take a
 * tick of NS (500,000); -i interprets them, -v prints each row's outcomes. Between experiments the
 * host's own memory is watched (watch.c). The monitor must not crash, not hang (a second thread
 * ends what runs too long, and a whole test that stands still), not touch anything and not grow.
 *
 * A row "PASS escape: KIND MODE CPL" has the number of experiments; the last line is the summary.
 */
#include "tests/escape/escape.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define HANG_NS 30000000000ull
#define WATCH   500 /* experiments between looks at the host */
#define GROWTH  (24u << 20)

static struct machine machine;
static uint64_t count = 2000, first_seed = 1;
static int only_kind = -1, only_mode = -1;
static long tick_ns = 500000;
static bool verbose;
static unsigned passed, failed;
static _Atomic bool over;

/* Kicks what runs for longer than a tick; a kick that does not help is a hang. */
static void *ticker(void *unused)
{
    const struct timespec tick = {0, tick_ns};
    uint64_t last = 0;
    uint64_t still = 0;

    (void)unused;
    while (!over) {
        nanosleep(&tick, NULL);
        uint64_t now = machine.experiment;
        still = now == last ? still + 1 : 0;
        last = now;
        if (still) {
            machine.overdue = true;
            novt_vcpu_kick(machine.vcpu);
        }
        if (still * (uint64_t)tick_ns > HANG_NS) {
            printf("FAIL escape: experiment %llu of seed %llu hangs\n%u passed, %u failed\n",
                   (unsigned long long)now, (unsigned long long)machine.seed, passed, failed + 1);
            fflush(stdout);
            _exit(1);
        }
    }
    return NULL;
}

static uint64_t seed_of(enum kind kind, enum mode mode, bool user, uint64_t n)
{
    uint64_t seed = first_seed << 8 | (uint64_t)kind << 4 | (uint64_t)mode << 1 | user;
    uint64_t mixed = next_random(&seed) + n;
    return next_random(&mixed);
}

static bool look(void)
{
    return watch_canaries() && watch_maps() && watch_leaks(&machine);
}

static bool experiment(enum kind kind, enum mode mode, bool user, uint64_t n)
{
    struct machine *m = &machine;

    m->experiment++;
    m->seed = seed_of(kind, mode, user, n);
    uint64_t start = mode == MODE_REAL ? CODE & 0xffff : CODE;
    if (kind == KIND_CROSSING && n % 3 == 0)
        start += 0x1000 - 1 - n / 3 % 14;
    if (!machine_prepare(m, mode, user, start))
        return false;
    generate(m, kind, n);
    return machine_run(m) && watch_registers(m);
}

static void report(bool good, enum kind kind, enum mode mode, bool user)
{
    struct machine *m = &machine;
    printf("%s escape: %s, %s, CPL %d: %llu experiments\n", good ? "PASS" : "FAIL", kind_name(kind),
           mode_name(mode), user ? 3 : 0, (unsigned long long)count);
    if (verbose)
        printf("    %llu ended, %llu in/out, %llu mmio, %llu too long, %llu shutdowns\n",
               (unsigned long long)m->halts, (unsigned long long)m->ios,
               (unsigned long long)m->mmios, (unsigned long long)m->kicks,
               (unsigned long long)m->shutdowns);
    m->halts = m->ios = m->mmios = m->kicks = m->shutdowns = 0;
    *(good ? &passed : &failed) += 1;
    fflush(stdout);
}

static void row(enum kind kind, enum mode mode, bool user)
{
    bool good = true;
    for (uint64_t n = 0; n < count && good; n++) {
        good = experiment(kind, mode, user, n) && (n % WATCH != WATCH - 1 || look());
        if (!good)
            printf("    escape -k %d -m %d -s %llu: experiment %llu\n", kind, mode,
                   (unsigned long long)first_seed, (unsigned long long)n);
    }
    report(good && look(), kind, mode, user);
}

static void all_rows(void)
{
    for (unsigned kind = 0; kind < KIND_COUNT; kind++)
        for (unsigned mode = 0; mode < MODE_COUNT; mode++)
            for (unsigned user = 0; user < (mode == MODE_REAL ? 1 : 2); user++)
                if ((only_kind < 0 || only_kind == (int)kind) &&
                    (only_mode < 0 || only_mode == (int)mode))
                    row(kind, mode, user);
}

/* Everything again: what has been needed once must do. */
static void growth(void)
{
    struct usage before = watch_usage();
    bool was = verbose;
    unsigned rows = passed, bad = failed;

    count = count / 8 + 1;
    verbose = false;
    if (!freopen("/dev/null", "w", stderr))
        return;
    all_rows();
    verbose = was;
    struct usage after = watch_usage();
    bool good = failed == bad && after.descriptors == before.descriptors &&
                after.mappings < before.mappings + 4000 &&
                after.anonymous < before.anonymous + GROWTH;
    passed = rows;
    printf("%s escape: the monitor does not grow: %llu -> %llu KiB, %llu -> %llu mappings, "
           "%llu -> %llu descriptors\n",
           good ? "PASS" : "FAIL", (unsigned long long)before.anonymous >> 10,
           (unsigned long long)after.anonymous >> 10, (unsigned long long)before.mappings,
           (unsigned long long)after.mappings, (unsigned long long)before.descriptors,
           (unsigned long long)after.descriptors);
    *(good ? &passed : &failed) += 1;
}

int main(int argc, char **argv)
{
    uint64_t flags = 0;
    pthread_t thread;
    int option;

    while ((option = getopt(argc, argv, "n:s:k:m:t:iv")) >= 0) {
        if (option == 'n')
            count = strtoull(optarg, NULL, 0);
        else if (option == 's')
            first_seed = strtoull(optarg, NULL, 0);
        else if (option == 'k')
            only_kind = atoi(optarg);
        else if (option == 'm')
            only_mode = atoi(optarg);
        else if (option == 't')
            tick_ns = atol(optarg);
        else if (option == 'i')
            flags |= NOVT_F_INTERPRET;
        else if (option == 'v')
            verbose = true;
        else
            return 2;
    }
    if (!watch_start() || !machine_create(&machine, flags, NULL)) {
        printf("0 passed, 1 failed\n");
        return 1;
    }
    if (pthread_create(&thread, NULL, ticker, NULL))
        return 1;
    if (only_kind < 0 && only_mode < 0) {
        unsigned bad = drift_test(&machine);
        failed += bad;
        passed += DRIFT_ROWS - bad;
    }
    bool guarded = watch_guards();
    printf("%s escape: the library's own memory lies between guards\n", guarded ? "PASS" : "FAIL");
    *(guarded ? &passed : &failed) += 1;
    all_rows();
    growth();
    over = true;
    pthread_join(thread, NULL);
    machine_destroy(&machine);
    if (!watch_maps())
        failed++;
    printf("%u passed, %u failed\n", passed, failed);
    return failed != 0;
}
