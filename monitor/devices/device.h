/* device.h - what every device model is given: a clock, wires, and a place to ask for the end.
 *
 * A device is a plain struct. Its registers come first and are all that a saved machine needs; the
 * wiring (pointers) comes last and is made again by the device's init function. Devices know
 * nothing of threads, file descriptors or the vCPU: whoever calls them holds the machine's lock.
 *
 * Time is nanoseconds of one monotonic clock that starts at 0 with the machine. A device that has
 * something to do later keeps the moment in a field named `deadline` (MON_NEVER when there is
 * none) and does it in its update function; being late coalesces, it never repeats. */
#ifndef MON_DEVICE_H
#define MON_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MON_NEVER     UINT64_MAX
#define MON_NS_PER_S  1000000000u
#define MON_BYTE(v)   ((uint8_t)(v))
#define MON_ABSENT(n) ((uint32_t)(~(uint64_t)0 >> (64 - 8 * (n)))) /* n bytes of ones */

struct mon_clock {
    uint64_t (*now)(void *opaque);
    void *opaque;
};

static inline uint64_t mon_clock_now(const struct mon_clock *clock)
{
    return clock->now(clock->opaque);
}

/* One input pin of the interrupt controllers, or of a test. */
struct mon_irq {
    void (*set)(void *opaque, unsigned line, bool level);
    void *opaque;
    unsigned line;
};

static inline void mon_irq_set(const struct mon_irq *irq, bool level)
{
    if (irq->set)
        irq->set(irq->opaque, irq->line, level);
}

/* What a device asks of the machine as a whole. The first one wins until the machine takes it. */
enum mon_request_kind {
    MON_REQUEST_NONE,
    MON_REQUEST_RESET,
    MON_REQUEST_POWER_OFF,
    MON_REQUEST_DEBUG_EXIT, /* value: what the guest wrote */
};

struct mon_request {
    enum mon_request_kind kind;
    uint32_t value;
    const char *source; /* "8042", "port CF9h": for messages */
};

static inline void mon_request_make(struct mon_request *request, enum mon_request_kind kind,
                                    uint32_t value, const char *source)
{
    if (request->kind == MON_REQUEST_NONE)
        *request = (struct mon_request){kind, value, source};
}

/* a * b / c with a 128-bit intermediate. */
static inline uint64_t mon_muldiv(uint64_t a, uint64_t b, uint64_t c)
{
    return (uint64_t)((unsigned __int128)a * b / c);
}

/* The same, rounded up: the first nanosecond at which a counter has reached a value. */
static inline uint64_t mon_muldiv_up(uint64_t a, uint64_t b, uint64_t c)
{
    return (uint64_t)(((unsigned __int128)a * b + (c - 1)) / c);
}

#endif
