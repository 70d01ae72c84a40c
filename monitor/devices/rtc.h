/* rtc.h - the MC146818A real-time clock and its 128 bytes of CMOS memory (ports 70h, 71h).
 *
 * The time of day is the machine's clock plus an offset; setting the clock changes the offset, so
 * nothing ticks. The three interrupts (periodic, alarm, update-ended; IRQ 8) are derived from the
 * clock too: their flags are brought up to date whenever register C is read, and a deadline exists
 * only for those that are enabled. Periods that nobody took are coalesced.
 *
 * Source: Motorola MC146818A data sheet. Century in byte 32h, as ACPI's FADT says. */
#ifndef MON_RTC_H
#define MON_RTC_H

#include "monitor/devices/bus.h"

#define MON_RTC_BYTES   128
#define MON_RTC_CENTURY 0x32

struct mon_rtc {
    uint8_t index;               /* selected byte; bit 7 of port 70h (NMI mask) is dropped */
    uint8_t cmos[MON_RTC_BYTES]; /* time bytes hold what was last written while SET */
    int64_t offset;              /* seconds: time of day = offset + now (Unix time) */
    uint64_t phase;              /* ns: a second begins when now mod 1 s = phase */
    uint64_t seen;               /* ns up to which interrupt flags are accounted */
    uint64_t deadline;
    const struct mon_clock *clock;
    struct mon_irq irq;
};

/* wall_ns is the time of day at clock 0: Unix time in ns. */
void mon_rtc_init(struct mon_rtc *rtc, const struct mon_clock *clock, struct mon_irq irq,
                  uint64_t wall_ns);
bool mon_rtc_add_ports(struct mon_rtc *rtc, struct mon_bus *bus);

/* Fills the bytes in which firmware leaves memory sizes for its callers. */
void mon_rtc_set_memory(struct mon_rtc *rtc, uint64_t below_4g, uint64_t above_4g);

void mon_rtc_update(struct mon_rtc *rtc, uint64_t now);

#endif
