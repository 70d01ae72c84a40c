/* window.c - address ranges for windows.
 *
 * A window is 4 GiB of host addresses in which the monitor maps a guest's pages one by one. What
 * is not mapped is a hole, not a PROT_NONE reservation, because a page in a hole costs one host
 * mapping and one in a reservation two. Holes are safe only where nothing else is ever placed:
 *
 *   0                 16 TiB            31 TiB                 42 TiB            128 TiB
 *   | program (no PIE)  | mimalloc hints  | windows, 8 GiB apart | bottom-up mmaps, PIE, heap,
 * top-down mmaps [guard 2G][4G][guard 2G]
 *
 * The kernel places mappings by itself top-down from the stack, or with the legacy layout bottom-up
 * from 42.7 TiB; sanitizers' shadows end at 16 TiB; mimalloc's hints end at 30 TiB. novt's own
 * allocations never give hints.
 *
 * The map of claimed ranges is process-wide: the one piece of state that several VMs share, with
 * the signal handlers. Thread: any; a bitmap of atomics. */
#include "runtime/rt.h"

#define ZONE_START 0x1f0000000000ull
#define ZONE_END   0x2a0000000000ull
#define STRIDE     (2 * RT_WINDOW_SIZE)
#define WINDOWS    ((ZONE_END - ZONE_START) / STRIDE)

static uint64_t claimed[(WINDOWS + 63) / 64];

/* A window starts 4 GiB into its stride: 2 GiB of its own guard and more from the neighbour. */
static uint8_t *window_base(unsigned index)
{
    return (uint8_t *)(ZONE_START + index * STRIDE + RT_WINDOW_SIZE);
}

uint8_t *rt_window_claim(void)
{
    for (unsigned index = 0; index < WINDOWS - 1; index++) {
        uint64_t bit = 1ull << (index % 64);
        if (!(__atomic_fetch_or(&claimed[index / 64], bit, __ATOMIC_ACQ_REL) & bit))
            return window_base(index);
    }
    return NULL;
}

void rt_window_release(uint8_t *base)
{
    unsigned index = (unsigned)(((uint64_t)base - RT_WINDOW_SIZE - ZONE_START) / STRIDE);
    if (rt_os_unmap(base, RT_WINDOW_SIZE) < 0)
        return; /* never again: the next owner must not find pages in it */
    __atomic_fetch_and(&claimed[index / 64], ~(1ull << (index % 64)), __ATOMIC_ACQ_REL);
}
