/* kvmclock.c - KVM's paravirtual clock: the time that a guest reads from its own memory.
 *
 * The guest names a place (MSR 4B564D01h; 12h of old) and finds there
 *
 *     0   version            odd while the rest is written
 *     8   tsc_timestamp      time = system_time + ((TSC - tsc_timestamp) << shift) * mul >> 32
 *     16  system_time        in ns
 *     24  mul, shift, flags  bit 0 of flags: the same line on every vCPU, never going back
 *
 * Time here is the TSC since RESET, in nanoseconds, and nothing else: the TSC less TSC_ADJUST,
 * which follows every change that the guest makes to its TSC (SDM 3-17.17.3). So tsc_timestamp is
 * TSC_ADJUST and system_time is 0, once and for all; the structure is written again only when the
 * guest moves its TSC, and its time goes on through that. What is saved and restored with a vCPU
 * (TSC, TSC_ADJUST, this MSR) restores the clock. Against the host's clock it drifts as any
 * crystal does.
 *
 * The second structure (4B564D00h, 11h) says when time 0 was: version, seconds and nanoseconds
 * since 1970. It is written when the guest asks for it.
 *
 * Source: Linux' Documentation/virt/kvm/x86/msr.rst and arch/x86/include/asm/pvclock-abi.h.
 *
 * Thread: the vCPU's own, or it does not run. */
#include "monitor/cpu/cpu.h"

#include "runtime/rt.h"

#define ENABLED    1ull
#define TSC_STABLE 1u
#define NS_PER_MS  1000000ull
#define NS_PER_S   1000000000ull

struct time_info {
    uint32_t version, pad;
    uint64_t tsc_timestamp, system_time;
    uint32_t mul;
    int8_t shift;
    uint8_t flags, pad2[2];
};
_Static_assert(sizeof(struct time_info) == 32, "pvclock-abi.h");

struct wall_clock {
    uint32_t version, sec, nsec;
};

/* ns = (ticks << shift) * mul >> 32, with as many digits in mul as there is room for. */
static void scale_of(uint64_t khz, uint32_t *mul, int8_t *shift)
{
    unsigned bits = 43; /* 10^6 << 43 is the most that 64 bits take */
    uint64_t factor = (NS_PER_MS << bits) / khz;

    for (; factor > UINT32_MAX; factor >>= 1)
        bits--;
    *mul = (uint32_t)factor;
    *shift = (int8_t)(32 - (int)bits);
}

static uint64_t ticks_to_ns(uint64_t ticks, uint64_t khz)
{
    return ticks / khz * NS_PER_MS + ticks % khz * NS_PER_MS / khz;
}

/* Not memcpy: the guest's vector registers may be live. */
static void copy(uint8_t *to, const uint8_t *from, unsigned len)
{
    for (unsigned i = 0; i < len; i++)
        to[i] = from[i];
}

/* False when a byte of [gpa, gpa + len) is not writable RAM: then nothing has been written. */
static bool put(struct mon_vcpu *v, uint64_t gpa, const void *data, unsigned len)
{
    unsigned first = 4096 - (unsigned)(gpa & 4095);
    bool writable[2] = {false, true};
    uint8_t *at = mon_vm_ram(v, gpa, &writable[0]), *behind = NULL;

    first = first < len ? first : len;
    if (first < len && !(behind = mon_vm_ram(v, gpa + first, &writable[1])))
        return false;
    if (!at || !writable[0] || !writable[1])
        return false;
    copy(at, data, first);
    mon_vm_wrote(v, gpa, first);
    if (behind) {
        copy(behind, (const uint8_t *)data + first, len - first);
        mon_vm_wrote(v, gpa + first, len - first);
    }
    return true;
}

/* Another vCPU may read while this is written: the version is odd meanwhile. */
static void put_versioned(struct mon_vcpu *v, uint64_t gpa, void *data, unsigned len)
{
    const uint8_t *old = mon_vm_ram(v, gpa, NULL);
    uint32_t version = 0;

    if ((gpa & 4095) <= 4092 && old)
        __builtin_memcpy(&version, old, sizeof(version));
    version = (version + 1) | 1;
    __builtin_memcpy(data, &version, sizeof(version));
    if (!put(v, gpa, data, len))
        return;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    version++;
    put(v, gpa, &version, sizeof(version));
}

void mon_kvmclock_time(struct mon_vcpu *v)
{
    struct time_info info = {.tsc_timestamp = v->msr.tsc_adjust, .flags = TSC_STABLE};

    if (!(v->msr.kvm_system_time & ENABLED))
        return;
    scale_of(mon_vm_cpuid(v)->tsc_khz, &info.mul, &info.shift);
    put_versioned(v, v->msr.kvm_system_time & ~ENABLED, &info, sizeof(info));
}

void mon_kvmclock_wall(struct mon_vcpu *v)
{
    uint64_t tsc = __builtin_ia32_rdtsc() + v->cpu->tsc_offset - v->msr.tsc_adjust;
    uint64_t zero = rt_os_wall_ns() - ticks_to_ns(tsc, mon_vm_cpuid(v)->tsc_khz);
    struct wall_clock wall = {.sec = (uint32_t)(zero / NS_PER_S),
                              .nsec = (uint32_t)(zero % NS_PER_S)};

    put_versioned(v, v->msr.kvm_wall_clock, &wall, sizeof(wall));
}
