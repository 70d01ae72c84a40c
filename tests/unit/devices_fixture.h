/* devices_fixture.h - a clock that tests turn by hand, a wire that counts, and port access. */
#ifndef DEVICES_FIXTURE_H
#define DEVICES_FIXTURE_H

#include "monitor/devices/bus.h"

struct hand_clock {
    uint64_t now;
};

static inline uint64_t hand_clock_now(void *opaque)
{
    return ((struct hand_clock *)opaque)->now;
}

/* Follows one interrupt line. */
struct wire {
    bool level;
    unsigned rises;
};

static inline void wire_set(void *opaque, unsigned line, bool level)
{
    struct wire *wire = opaque;
    (void)line;
    wire->rises += level && !wire->level;
    wire->level = level;
}

static inline void out8(struct mon_bus *bus, uint16_t port, unsigned value)
{
    mon_bus_out(bus, port, 1, value);
}

static inline unsigned in8(struct mon_bus *bus, uint16_t port)
{
    return mon_bus_in(bus, port, 1);
}

#endif
