/* pit.c - the 8254 interval timer; see pit.h.
 *
 * The arithmetic, with e = ticks since the count N was loaded (one tick after it was written):
 *
 *     mode  output low while        next rising edge   count
 *     0     e < N                   e = N              N - e, goes on below 0
 *     1     e < N                   e = N              N - e
 *     2     e mod N = N - 1         e = multiple of N  N - e mod N
 *     3     e mod N >= (N + 1) / 2  e = multiple of N  even, falls by 2
 *     4, 5  e = N                   e = N + 1          N - e
 *
 * Called with the machine's lock held. */
#include "monitor/devices/pit.h"

#include <string.h>

enum {
    PORT_COMMAND = 0x43,
    PORT_GATE = 0x61,
    GATE_CHANNEL2 = 1 << 0,
    GATE_SPEAKER = 1 << 1,
    GATE_REFRESH = 1 << 4,
    GATE_OUTPUT2 = 1 << 5,
    REFRESH_TICKS = 18, /* 15.09 us */
    STATUS_OUTPUT = 1 << 7,
    STATUS_NULL = 1 << 6,
};

static uint64_t ns_to_tick(uint64_t ns)
{
    return mon_muldiv(ns, MON_PIT_HZ, MON_NS_PER_S);
}

static uint64_t tick_to_ns(uint64_t tick)
{
    return mon_muldiv_up(tick, MON_NS_PER_S, MON_PIT_HZ);
}

static bool is_periodic(const struct mon_pit_channel *ch)
{
    return ch->mode == 2 || ch->mode == 3;
}

static bool is_triggered_by_gate(const struct mon_pit_channel *ch)
{
    return ch->mode == 1 || ch->mode == 5;
}

/* Ticks since the counting element was loaded; before that, 0. */
static uint64_t elapsed(const struct mon_pit_channel *ch, uint64_t tick)
{
    if (!ch->gate && !is_triggered_by_gate(ch))
        return ch->held;
    return tick > ch->origin ? tick - ch->origin : 0;
}

/* Ticks of mode 3's high half. */
static uint32_t high_half(uint32_t count)
{
    return (count + 1) / 2;
}

static bool output(const struct mon_pit_channel *ch, uint64_t tick)
{
    if (!ch->counting)
        return ch->mode != 0;

    uint64_t e = elapsed(ch, tick);
    switch (ch->mode) {
    case 0:
    case 1:
        return e >= ch->count;
    case 2:
        return !ch->gate || e % ch->count != ch->count - 1;
    case 3:
        return !ch->gate || e % ch->count < high_half(ch->count);
    default:
        return e != ch->count;
    }
}

static uint32_t square_wave_count(uint32_t count, uint64_t phase)
{
    uint32_t half = high_half(count);
    uint64_t e = phase < half ? phase : phase - half;
    return (uint32_t)((count & ~1u) - 2 * e);
}

/* The counting element as the guest reads it: 16 bits, or four decimal digits. */
static uint16_t current_count(const struct mon_pit_channel *ch, uint64_t tick)
{
    uint64_t e = elapsed(ch, tick);
    uint32_t modulus = ch->bcd ? 10000 : 65536;
    uint32_t value;

    if (!ch->counting && !ch->count)
        return 0;
    if (!ch->counting)
        value = ch->count;
    else if (ch->mode == 2)
        value = (uint32_t)(ch->count - e % ch->count);
    else if (ch->mode == 3)
        value = square_wave_count(ch->count, e % ch->count);
    else
        value = (uint32_t)((ch->count + modulus - e % modulus) % modulus);

    value %= modulus;
    if (!ch->bcd)
        return (uint16_t)value;
    return (uint16_t)(value / 1000 << 12 | value / 100 % 10 << 8 | value / 10 % 10 << 4 |
                      value % 10);
}

/* The first rising edge of the output after tick, MON_NEVER when there is none. */
static uint64_t next_rising_edge(const struct mon_pit_channel *ch, uint64_t tick)
{
    if (!ch->counting || (!ch->gate && !is_triggered_by_gate(ch)))
        return MON_NEVER;

    uint64_t edge;
    if (is_periodic(ch))
        edge = ch->origin + (elapsed(ch, tick) / ch->count + 1) * ch->count;
    else if (ch->mode <= 1)
        edge = ch->origin + ch->count;
    else
        edge = ch->origin + ch->count + 1;
    return edge > tick ? edge : MON_NEVER;
}

static void load(struct mon_pit_channel *ch, uint64_t at)
{
    ch->count = ch->next;
    ch->origin = at;
    ch->reload_at = MON_NEVER;
    ch->null_count = false;
    ch->counting = true;
    ch->held = 0;
}

/* Where a periodic counter takes a new count: at the end of its period, in mode 3 of its half. */
static uint64_t reload_tick(const struct mon_pit_channel *ch, uint64_t tick)
{
    uint64_t e = elapsed(ch, tick);
    uint64_t period = ch->origin + e - e % ch->count;
    if (ch->mode == 3 && e % ch->count < high_half(ch->count))
        return period + high_half(ch->count);
    return period + ch->count;
}

/* Takes the new count at reload_at, keeping the half of a square wave that begins there. */
static void reload(struct mon_pit_channel *ch)
{
    uint64_t at = ch->reload_at;
    bool into_low_half = ch->mode == 3 && (at - ch->origin) % ch->count != 0;
    load(ch, at);
    if (into_low_half)
        ch->origin = at - high_half(ch->count);
}

static void advance(struct mon_pit_channel *ch, uint64_t tick)
{
    if (ch->reload_at <= tick)
        reload(ch);
}

/* Recomputes channel 0's next event and gives its output to IRQ 0. */
static void settle(struct mon_pit *pit, uint64_t tick)
{
    struct mon_pit_channel *ch = &pit->channel[0];
    uint64_t edge = next_rising_edge(ch, tick);

    pit->edge = edge < ch->reload_at ? edge : ch->reload_at;
    pit->deadline = pit->edge == MON_NEVER ? MON_NEVER : tick_to_ns(pit->edge);
    mon_irq_set(&pit->irq, output(ch, tick));
}

void mon_pit_update(struct mon_pit *pit, uint64_t now)
{
    struct mon_pit_channel *ch = &pit->channel[0];
    uint64_t tick = ns_to_tick(now);
    if (tick < pit->edge)
        return;

    /* A reload in the middle of a square wave is no rising edge of its own. */
    bool rose = pit->edge != ch->reload_at || (pit->edge - ch->origin) % ch->count == 0;
    advance(ch, tick);
    rose = rose || next_rising_edge(ch, pit->edge) <= tick;
    if (rose) {
        mon_irq_set(&pit->irq, false);
        mon_irq_set(&pit->irq, true);
        pit->edges++;
    }
    settle(pit, tick);
}

static void write_count(struct mon_pit_channel *ch, uint16_t raw, uint64_t tick)
{
    uint32_t value = raw;
    if (ch->bcd)
        value = (raw >> 12) * 1000u + (raw >> 8 & 15) * 100u + (raw >> 4 & 15) * 10u + (raw & 15);
    ch->next = value ? value : ch->bcd ? 10000 : 65536;
    ch->null_count = true;

    if (is_triggered_by_gate(ch))
        return; /* waits for the gate; what runs goes on */
    if (is_periodic(ch) && ch->next == 1)
        ch->next = 2; /* the data sheet forbids 1 */
    if (is_periodic(ch) && ch->counting && ch->gate)
        ch->reload_at = reload_tick(ch, tick);
    else
        load(ch, tick + 1);
}

static void write_channel(struct mon_pit_channel *ch, uint8_t value, uint64_t tick)
{
    if (ch->access == 3 && !ch->write_high) {
        ch->write_low = value;
        ch->write_high = true;
        if (ch->mode == 0)
            ch->counting = false; /* the first byte stops it, output low */
        return;
    }
    ch->write_high = false;
    if (ch->access == 3)
        write_count(ch, (uint16_t)(value << 8 | ch->write_low), tick);
    else
        write_count(ch, (uint16_t)(ch->access == 2 ? value << 8 : value), tick);
}

static uint8_t read_channel(struct mon_pit_channel *ch, uint64_t tick)
{
    if (ch->status_latched) {
        ch->status_latched = false;
        return ch->status;
    }
    uint16_t value = ch->count_latched ? ch->latched : current_count(ch, tick);
    bool high = ch->access == 2 || (ch->access == 3 && ch->read_high);
    if (ch->access == 3)
        ch->read_high = !ch->read_high;
    if (ch->access != 3 || high)
        ch->count_latched = false;
    return MON_BYTE(high ? value >> 8 : value);
}

static void latch_count(struct mon_pit_channel *ch, uint64_t tick)
{
    if (ch->count_latched)
        return;
    ch->latched = current_count(ch, tick);
    ch->count_latched = true;
}

static void latch_status(struct mon_pit_channel *ch, uint64_t tick)
{
    if (ch->status_latched)
        return;
    bool null_count = ch->null_count || (ch->counting && tick < ch->origin);
    ch->status = MON_BYTE((output(ch, tick) ? STATUS_OUTPUT : 0) | (null_count ? STATUS_NULL : 0) |
                          ch->access << 4 | ch->mode << 1 | ch->bcd);
    ch->status_latched = true;
}

static void read_back(struct mon_pit *pit, uint8_t value, uint64_t tick)
{
    for (unsigned i = 0; i < 3; i++) {
        if (!(value & 2 << i))
            continue;
        if (!(value & 1 << 5))
            latch_count(&pit->channel[i], tick);
        if (!(value & 1 << 4))
            latch_status(&pit->channel[i], tick);
    }
}

static void set_mode(struct mon_pit_channel *ch, uint8_t value)
{
    uint8_t mode = value >> 1 & 7;
    ch->mode = mode > 5 ? mode & 3 : mode;
    ch->access = value >> 4 & 3;
    ch->bcd = value & 1;
    ch->counting = false;
    ch->null_count = true;
    ch->reload_at = MON_NEVER;
    ch->next = 0;
    ch->held = 0;
    ch->read_high = ch->write_high = false;
    ch->count_latched = ch->status_latched = false;
}

static void write_command(struct mon_pit *pit, uint8_t value, uint64_t tick)
{
    if (value >> 6 == 3)
        read_back(pit, value, tick);
    else if ((value >> 4 & 3) == 0)
        latch_count(&pit->channel[value >> 6], tick);
    else
        set_mode(&pit->channel[value >> 6], value);
}

static void set_gate(struct mon_pit_channel *ch, bool gate, uint64_t tick)
{
    if (ch->gate == gate)
        return;
    if (!gate)
        ch->held = elapsed(ch, tick);
    ch->gate = gate;
    if (!gate)
        ch->reload_at = MON_NEVER; /* the trigger that follows loads the new count */
    if (!gate || !ch->next)
        return;
    if (is_triggered_by_gate(ch) || is_periodic(ch))
        load(ch, tick + 1); /* a rising gate is a trigger */
    else if (ch->counting)
        ch->origin = tick - ch->held; /* goes on where it stopped */
}

static uint32_t port_read(void *device, uint16_t port, unsigned size)
{
    (void)size;
    struct mon_pit *pit = device;
    uint64_t now = mon_clock_now(pit->clock);
    uint64_t tick = ns_to_tick(now);

    mon_pit_update(pit, now);
    if (port == PORT_COMMAND)
        return 0xff;
    struct mon_pit_channel *ch = &pit->channel[port & 3];
    advance(ch, tick);
    return read_channel(ch, tick);
}

static void port_write(void *device, uint16_t port, unsigned size, uint32_t value)
{
    (void)size;
    struct mon_pit *pit = device;
    uint64_t now = mon_clock_now(pit->clock);
    uint64_t tick = ns_to_tick(now);

    mon_pit_update(pit, now);
    for (unsigned i = 1; i < 3; i++)
        advance(&pit->channel[i], tick);
    if (port == PORT_COMMAND)
        write_command(pit, MON_BYTE(value), tick);
    else
        write_channel(&pit->channel[port & 3], MON_BYTE(value), tick);
    settle(pit, tick);
}

static uint32_t gate_read(void *device, uint16_t port, unsigned size)
{
    (void)port;
    (void)size;
    struct mon_pit *pit = device;
    struct mon_pit_channel *ch = &pit->channel[2];
    uint64_t tick = ns_to_tick(mon_clock_now(pit->clock));

    advance(ch, tick);
    return (uint32_t)((ch->gate ? GATE_CHANNEL2 : 0) | (pit->speaker ? GATE_SPEAKER : 0) |
                      (tick / REFRESH_TICKS & 1 ? GATE_REFRESH : 0) |
                      (output(ch, tick) ? GATE_OUTPUT2 : 0));
}

static void gate_write(void *device, uint16_t port, unsigned size, uint32_t value)
{
    (void)port;
    (void)size;
    struct mon_pit *pit = device;
    uint64_t tick = ns_to_tick(mon_clock_now(pit->clock));

    advance(&pit->channel[2], tick);
    pit->speaker = value & GATE_SPEAKER;
    set_gate(&pit->channel[2], value & GATE_CHANNEL2, tick);
}

void mon_pit_init(struct mon_pit *pit, const struct mon_clock *clock, struct mon_irq irq)
{
    memset(pit, 0, sizeof(*pit));
    pit->clock = clock;
    pit->irq = irq;
    for (unsigned i = 0; i < 3; i++) {
        pit->channel[i].access = 3;
        pit->channel[i].mode = 3;
        pit->channel[i].gate = i != 2;
        pit->channel[i].reload_at = MON_NEVER;
    }
    pit->edge = pit->deadline = MON_NEVER;
}

bool mon_pit_add_ports(struct mon_pit *pit, struct mon_bus *bus)
{
    static const struct mon_port_ops pit_ops = {"pit", 1, port_read, port_write};
    static const struct mon_port_ops gate_ops = {"port61", 1, gate_read, gate_write};
    return mon_bus_add_ports(bus, 0x40, 4, &pit_ops, pit) &&
           mon_bus_add_ports(bus, PORT_GATE, 1, &gate_ops, pit);
}
