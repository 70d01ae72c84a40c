/* window.c - address ranges for windows.
 *
 * A window is 4 GiB of host addresses in which the monitor maps a guest's pages one by one. What
 * is not mapped is a hole, not a PROT_NONE reservation, because a page in a hole costs one host
 * mapping and one in a reservation two. Holes are safe only where nothing else is ever placed:
 *
 *      0 - 31 TiB    program without PIE, sanitizers' shadow (to 16), mimalloc's hints (2 to 30)
 *     31 - 42 TiB    windows wherever there is room
 *     42 - 46 TiB    mappings bottom-up, in the kernel's legacy layout
 *     46 - 84 TiB    windows at an address that the caller asks for
 *     84 - 88 TiB    PIE and heap
 *     88 - 125 TiB   windows at an address that the caller asks for, but for 96 to 101 TiB,
 *                    AddressSanitizer's heap
 *    125 - 128 TiB   mappings top-down, stack
 *
 * Next to a claimed range there is always one that is not, 4 GiB of guard, unless the caller owns
 * both. novt's own allocations never give hints.
 *
 * The map of claimed ranges is process-wide: the one piece of state that several VMs share, with
 * the signal handlers. Thread: any, under a spin lock; not in signal context. */
#include "runtime/rt.h"

#define TIB      (1ull << 40)
#define GRANULES (128 * TIB / RT_WINDOW_SIZE)

static uint64_t claimed[GRANULES / 64];
static bool locked;

static void lock(void)
{
    while (__atomic_test_and_set(&locked, __ATOMIC_ACQUIRE))
        __builtin_ia32_pause();
}

static void unlock(void)
{
    __atomic_clear(&locked, __ATOMIC_RELEASE);
}

static bool is_claimed(uint64_t granule)
{
    return claimed[granule / 64] >> (granule % 64) & 1;
}

static void set_claimed(uint64_t granule, bool value)
{
    uint64_t bit = 1ull << (granule % 64);

    claimed[granule / 64] = (claimed[granule / 64] & ~bit) | (value ? bit : 0);
}

bool rt_window_possible(uint64_t base)
{
    static const struct {
        uint64_t from, to;
    } zone[] = {{46 * TIB, 84 * TIB}, {88 * TIB, 96 * TIB}, {101 * TIB, 125 * TIB}};

    for (unsigned i = 0; i < sizeof(zone) / sizeof(zone[0]); i++) {
        if (base >= zone[i].from + RT_WINDOW_SIZE && base < zone[i].to - RT_WINDOW_SIZE)
            return true;
    }
    return false;
}

bool rt_window_claim_at(uint64_t base, bool owns_below, bool owns_above)
{
    uint64_t granule = base / RT_WINDOW_SIZE;
    bool free = rt_window_possible(base);

    lock();
    free = free && !is_claimed(granule) && (owns_below || !is_claimed(granule - 1)) &&
           (owns_above || !is_claimed(granule + 1));
    if (free)
        set_claimed(granule, true);
    unlock();
    return free;
}

/* The next one that is claimed of n granules and their neighbours; 0: none is. */
static uint64_t last_claimed(uint64_t first, unsigned n)
{
    for (uint64_t granule = first + n; granule >= first - 1; granule--) {
        if (is_claimed(granule))
            return granule;
    }
    return 0;
}

uint8_t *rt_window_claim_run(unsigned n)
{
    uint64_t first = 31 * TIB / RT_WINDOW_SIZE + 1, end = 42 * TIB / RT_WINDOW_SIZE - n, last;

    lock();
    while (first < end && (last = last_claimed(first, n)))
        first = last + 2;
    for (unsigned i = 0; first < end && i < n; i++)
        set_claimed(first + i, true);
    unlock();
    return first < end ? (uint8_t *)(first * RT_WINDOW_SIZE) : NULL;
}

uint8_t *rt_window_claim(void)
{
    return rt_window_claim_run(1);
}

void rt_window_release_run(uint8_t *base, unsigned n)
{
    if (rt_os_unmap(base, n * RT_WINDOW_SIZE) < 0)
        return; /* never again: the next owner must not find pages in it */
    lock();
    for (unsigned i = 0; i < n; i++)
        set_claimed((uint64_t)base / RT_WINDOW_SIZE + i, false);
    unlock();
}

void rt_window_release(uint8_t *base)
{
    rt_window_release_run(base, 1);
}
