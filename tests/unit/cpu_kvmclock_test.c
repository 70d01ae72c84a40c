/* KVM's clock: what the guest finds in its memory, and that its time neither jumps nor stops. */
#include "tests/unit/cpu_machine.h"

#include <time.h>

#define WALL 0x4b564d00u
#define TIME 0x4b564d01u
#define AT   0x40000u

static struct machine m;

static void setup(void)
{
    machine_create(&m);
}
static void teardown(void)
{
    machine_destroy(&m);
}
TestSuite(cpu_kvmclock, .init = setup, .fini = teardown, .timeout = 30);

static uint64_t rdmsr(uint32_t index)
{
    uint64_t value = 0;
    ASSERT_OK(mon_rdmsr(m.v, index, &value));
    return value;
}

/* As a guest calculates: Linux' pvclock.h. */
static uint64_t guest_ns(uint64_t at)
{
    uint64_t delta = rdmsr(0x10) - get64(&m, at + 8);
    int8_t shift = (int8_t)m.ram[at + 28];
    delta = shift < 0 ? delta >> -shift : delta << shift;
    return get64(&m, at + 16) + (uint64_t)((unsigned __int128)delta * get32(&m, at + 24) >> 32);
}

static uint64_t host_ns(clockid_t clock)
{
    struct timespec ts;
    clock_gettime(clock, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* The guest's time and the host's at the same time, as near as many tries come. */
struct moment {
    uint64_t guest, host;
};
static struct moment now(void)
{
    struct moment best = {0, 0};
    uint64_t least = ~0ull;

    for (unsigned n = 0; n < 200; n++) {
        uint64_t before = host_ns(CLOCK_MONOTONIC_RAW), guest = guest_ns(AT);
        uint64_t between = host_ns(CLOCK_MONOTONIC_RAW) - before;
        if (between >= least)
            continue;
        least = between;
        best = (struct moment){guest, before + between / 2};
    }
    return best;
}

Test(cpu_kvmclock, time_is_the_tsc_in_nanoseconds)
{
    ASSERT_OK(mon_wrmsr(m.v, TIME, AT | 1));
    ASSERT_HEX(rdmsr(TIME), AT | 1);
    ASSERT_HEX(rdmsr(0x12), AT | 1);
    ASSERT_HEX(get32(&m, AT), 2);
    ASSERT_HEX(m.ram[AT + 29], 1); /* stable */
    cr_assert(get32(&m, AT + 24) >> 31, "all digits are used");
    struct moment from = now();
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    struct moment to = now();
    double ratio = (double)(to.guest - from.guest) / (double)(to.host - from.host);
    cr_assert(ratio > 0.99 && ratio < 1.01, "%f", ratio);
    uint64_t before = rdmsr(0x10), guest = guest_ns(AT), after = rdmsr(0x10);
    uint64_t khz = mon_vm_cpuid(m.v)->tsc_khz;
    cr_assert(guest >= before * 1000000 / khz && guest < after * 1000000 / khz + 10000000,
              "counts from RESET");
}

Test(cpu_kvmclock, moving_the_tsc_does_not_move_time)
{
    ASSERT_OK(mon_wrmsr(m.v, 0x12, AT | 1));
    uint64_t before = guest_ns(AT);
    ASSERT_OK(mon_wrmsr(m.v, 0x10, 1ull << 50));
    ASSERT_HEX(get32(&m, AT), 4);
    uint64_t between = guest_ns(AT);
    ASSERT_OK(mon_wrmsr(m.v, 0x3b, 0));
    uint64_t after = guest_ns(AT);
    cr_assert(before <= between && between <= after && after - before < 1000000000);
}

Test(cpu_kvmclock, restoring_the_tsc_restores_time)
{
    ASSERT_OK(mon_wrmsr(m.v, TIME, AT | 1));
    ASSERT_OK(mon_wrmsr(m.v, 0x10, 1ull << 50));
    uint64_t before = guest_ns(AT), tsc = rdmsr(0x10), adjust = rdmsr(0x3b);
    mon_cpu_reset(m.v);
    ASSERT_HEX(rdmsr(TIME), 0);
    cr_assert(mon_msr_set(m.v, 0x10, tsc) && mon_msr_set(m.v, TIME, AT | 1) &&
              mon_msr_set(m.v, 0x3b, adjust));
    uint64_t after = guest_ns(AT);
    cr_assert(before <= after && after - before < 1000000000);
}

Test(cpu_kvmclock, nothing_is_written_while_disabled_or_outside_ram)
{
    ASSERT_OK(mon_wrmsr(m.v, TIME, AT));
    ASSERT_HEX(get32(&m, AT), 0);
    ASSERT_OK(mon_wrmsr(m.v, TIME, MMIO_BASE | 1));
    ASSERT_OK(mon_wrmsr(m.v, TIME, ROM_BASE | 1));
    ASSERT_HEX(m.rom[0], 0);
    ASSERT_OK(mon_wrmsr(m.v, TIME, (RAM_SIZE - 16) | 1)); /* its end is outside */
    ASSERT_HEX(get32(&m, RAM_SIZE - 16), 0);
    ASSERT_OK(mon_wrmsr(m.v, TIME, ~0ull));
}

Test(cpu_kvmclock, a_structure_may_cross_pages)
{
    put32(&m, AT + 0xff0, 7); /* a version left by somebody else */
    ASSERT_OK(mon_wrmsr(m.v, TIME, (AT + 0xff0) | 1));
    ASSERT_HEX(get32(&m, AT + 0xff0), 10);
    uint64_t guest = guest_ns(AT + 0xff0);
    cr_assert(guest && guest < 60000000000ull);
}

Test(cpu_kvmclock, wall_clock_says_when_time_was_0)
{
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    ASSERT_OK(mon_wrmsr(m.v, WALL, AT));
    ASSERT_OK(mon_wrmsr(m.v, TIME, (AT + 64) | 1));
    uint64_t zero = get32(&m, AT + 4) * 1000000000ull + get32(&m, AT + 8);
    int64_t error = (int64_t)(host_ns(CLOCK_REALTIME) - zero - guest_ns(AT + 64));
    ASSERT_HEX(get32(&m, AT), 2);
    cr_assert(get32(&m, AT + 8) < 1000000000);
    cr_assert(error > -1000000 && error < 100000000, "%lld ns", (long long)error);
}
