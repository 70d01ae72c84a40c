/* devices.c - the board's devices under random accesses, with sanitizers watching.
 *
 *   devices [-n COUNT] [-s SEED]
 *
 * COUNT accesses (2,000,000 unless given) to ports and device memory, through the board as the
 * machine does: of every width, in bursts, at registered addresses more often than at others; in
 * between the clock goes on by nothing, a little or hours, input arrives, interrupts are
 * acknowledged and the board is reset. What is registered is taken from the bus, so new devices are
 * in by themselves. Compiled with AddressSanitizer and UndefinedBehaviorSanitizer: a finding ends
 * the program. */
#include "monitor/devices/pc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint64_t seed = 1, now;
static struct mon_pc pc;
static uint16_t ports[65536]; /* registered ones */
static unsigned nports;
static uint64_t per_device[MON_BUS_PORT_RANGES + MON_BUS_MMIO_RANGES];

static uint64_t next_random(void)
{
    uint64_t z = seed += 0x9e3779b97f4a7c15ull; /* splitmix64 */

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static uint32_t below(uint32_t n)
{
    return (uint32_t)(next_random() >> 33) % n;
}

static uint64_t clock_now(void *opaque)
{
    (void)opaque;
    return now;
}

static bool send(void *opaque, uint8_t byte)
{
    (void)opaque;
    (void)byte;
    return below(4) != 0;
}

static int receive(void *opaque)
{
    (void)opaque;
    return below(2) ? (int)below(256) : -1;
}

static uint64_t any_value(void)
{
    static const uint64_t edges[] = {0,      1,          0x7f,       0x80,       0xff, 0xffff,
                                     0x8000, 0xffffffff, 0x80000000, 0x7fffffff, ~0ull};
    return below(2) ? next_random() : edges[below(sizeof(edges) / sizeof(edges[0]))];
}

static void access_port(uint16_t port, unsigned size, bool write)
{
    per_device[pc.bus.port_index[port]]++;
    if (write)
        mon_pc_out(&pc, port, size, (uint32_t)any_value());
    else
        mon_pc_in(&pc, port, size);
}

/* As REP INS and OUTS do, or a driver that programs one device. */
static unsigned burst_of_ports(void)
{
    uint16_t port = below(8) ? ports[below(nports)] : (uint16_t)below(65536);
    unsigned n = 1 + (below(4) ? below(4) : below(64)), size = 1u << below(3);
    bool same = below(2);

    for (unsigned i = 0; i < n; i++)
        access_port((uint16_t)(port + (same ? 0 : below(4))), size, below(2));
    return n;
}

static unsigned access_memory(void)
{
    unsigned index = pc.bus.mmio_count ? below(pc.bus.mmio_count) : 0, size = 1 + below(8);
    uint64_t at = next_random();

    if (pc.bus.mmio_count && below(8)) {
        at = pc.bus.mmio[index].base + next_random() % (pc.bus.mmio[index].size + 16) - 8;
        if (below(2))
            at &= ~15ull;
        per_device[MON_BUS_PORT_RANGES + index]++;
    }
    if (below(2))
        mon_bus_mmio_write(&pc.bus, at, size, any_value());
    else
        mon_bus_mmio_read(&pc.bus, at, size);
    return 1;
}

static void time_passes(void)
{
    static const uint64_t steps[] = {0, 1, 1000, 1000000, 10000000, 3600000000000ull};
    uint64_t deadline = mon_pc_deadline(&pc);

    if (below(3) && deadline != MON_NEVER && deadline > now && deadline - now < 1ull << 50)
        now = deadline;
    else
        now += steps[below(below(16) ? 5 : 6)];
    mon_pc_update(&pc, now);
    mon_uart_pump(&pc.uart);
    while (mon_pic_has_interrupt(&pc.pic) && below(4))
        mon_pic_acknowledge(&pc.pic);
}

static void take_nmi(void *opaque)
{
    (void)opaque;
}

static bool start(void)
{
    struct mon_pc_config config = {
        .clock = {clock_now, NULL},
        .wall_ns = 1700000000ull * MON_NS_PER_S,
        .line = {send, receive, NULL},
        .ram_below_4g = 512u << 20,
        .debug_exit_port = 0xf4,
        .tsc = {clock_now, NULL},
        .tsc_khz = 1000000, /* clock_now() counts nanoseconds */
        .apic_khz = 25000,
        .nmi = take_nmi,
    };
    if (!mon_pc_init(&pc, &config))
        return false;
    for (unsigned port = 0; port < 65536; port++)
        if (pc.bus.port_index[port])
            ports[nports++] = (uint16_t)port;
    return nports != 0;
}

static void print_devices(void)
{
    for (unsigned i = 1; i <= pc.bus.port_count && i < MON_BUS_PORT_RANGES; i++)
        if (pc.bus.ports[i].ops)
            printf("    %-24s %8llu\n", pc.bus.ports[i].ops->name,
                   (unsigned long long)per_device[i]);
    for (unsigned i = 0; i < pc.bus.mmio_count; i++)
        printf("    %-24s %8llu\n", pc.bus.mmio[i].ops->name,
               (unsigned long long)per_device[MON_BUS_PORT_RANGES + i]);
}

/* Every registered range has had its share. */
static bool each_device_was_reached(uint64_t count)
{
    for (unsigned i = 1; i <= pc.bus.port_count && i < MON_BUS_PORT_RANGES; i++)
        if (pc.bus.ports[i].ops && per_device[i] < count / 2000)
            return false;
    for (unsigned i = 0; i < pc.bus.mmio_count; i++)
        if (per_device[MON_BUS_PORT_RANGES + i] < count / 2000)
            return false;
    return true;
}

int main(int argc, char **argv)
{
    uint64_t count = 2000000, done = 0;
    int option;

    while ((option = getopt(argc, argv, "n:s:")) >= 0) {
        if (option == 'n')
            count = strtoull(optarg, NULL, 0);
        else if (option == 's')
            seed = strtoull(optarg, NULL, 0);
        else
            return 2;
    }
    if (!start()) {
        printf("FAIL escape: the board can be made\n0 passed, 1 failed\n");
        return 1;
    }
    alarm(100); /* a device that loops */
    while (done < count) {
        done += below(4) ? burst_of_ports() : access_memory();
        if (!below(4))
            time_passes();
        if (!below(20000))
            mon_pc_reset(&pc);
        pc.request = (struct mon_request){0};
    }
    print_devices();
    bool good = each_device_was_reached(count);
    printf("%s escape: devices take %llu random accesses under sanitizers\n",
           good ? "PASS" : "FAIL", (unsigned long long)done);
    printf("%d passed, %d failed\n", good, !good);
    return !good;
}
