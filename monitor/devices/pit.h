/* pit.h - the 8254 interval timer (ports 40h-43h) and the gate and speaker port 61h.
 *
 * Nothing counts: a counter is the tick at which its counting element was loaded and the count that
 * was loaded, and count, output and the next rising edge are computed from the clock. Ticks are
 * those of the 1,193,182 Hz input since the machine started.
 *
 *     channel 0   output -> IRQ 0; gate always high
 *     channel 1   the refresh request of old: only its output is seen, as the toggle in port 61h
 *     channel 2   gate and output in port 61h (speaker; Linux and others calibrate with it)
 *
 * Ticks that nobody took in time are coalesced: however late mon_pit_update() comes it makes one
 * edge, and the next one is due where the counter says, so the timer does not drift.
 *
 * Source: Intel 8254 data sheet (order 231164-005). */
#ifndef MON_PIT_H
#define MON_PIT_H

#include "monitor/devices/bus.h"

#define MON_PIT_HZ 1193182u

struct mon_pit_channel {
    uint8_t mode;   /* 0-5 */
    uint8_t access; /* 1 low byte, 2 high byte, 3 low then high */
    bool bcd;
    bool gate;
    bool counting;   /* a count was loaded; modes 1 and 5: the gate has triggered too */
    bool null_count; /* the count register is not in the counting element yet */
    bool read_high;  /* the next read gives the high byte */
    bool write_high; /* the next write takes the high byte */
    bool count_latched;
    bool status_latched;
    uint8_t status;
    uint8_t write_low;
    uint16_t latched;
    uint32_t count;     /* in the counting element: 1-65536 */
    uint32_t next;      /* count register; 0 when it was never written */
    uint64_t origin;    /* tick at which count was loaded */
    uint64_t reload_at; /* modes 2 and 3: tick at which next replaces count; else MON_NEVER */
    uint64_t held;      /* gate low in modes 0, 2, 3, 4: ticks counted before it fell */
};

struct mon_pit {
    struct mon_pit_channel channel[3];
    bool speaker;      /* port 61h bit 1 */
    uint64_t edge;     /* tick of channel 0's next rising edge or reload */
    uint64_t deadline; /* the same in ns */
    uint64_t edges;    /* rising edges delivered on IRQ 0 */
    const struct mon_clock *clock;
    struct mon_irq irq;
};

void mon_pit_init(struct mon_pit *pit, const struct mon_clock *clock, struct mon_irq irq);
bool mon_pit_add_ports(struct mon_pit *pit, struct mon_bus *bus);

/* Delivers an edge on IRQ 0 if one was due by now. */
void mon_pit_update(struct mon_pit *pit, uint64_t now);

#endif
