/* devices_bus_test.c - dispatch of ports and MMIO, and what is absent. */
#include "tests/unit/devices_fixture.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>

static struct mon_bus bus;

struct recorder {
    uint16_t port;
    unsigned size, accesses;
    uint64_t value;
};

static uint32_t record_in(void *device, uint16_t port, unsigned size)
{
    struct recorder *r = device;
    r->port = port;
    r->size = size;
    r->accesses++;
    return 0x44332211u >> 8 * (port & 3);
}

static void record_out(void *device, uint16_t port, unsigned size, uint32_t value)
{
    struct recorder *r = device;
    r->port = port;
    r->size = size;
    r->accesses++;
    r->value = value;
}

static uint64_t record_read(void *device, uint64_t offset, unsigned size)
{
    (void)device;
    return offset << 8 | size;
}

static void record_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct recorder *r = device;
    r->port = (uint16_t)offset;
    r->size = size;
    r->value = value;
}

static const struct mon_port_ops byte_ops = {"bytes", 1, record_in, record_out};
static const struct mon_port_ops dword_ops = {"dwords", 4, record_in, record_out};
static const struct mon_mmio_ops mmio_ops = {"frame", record_read, record_write};

struct absent_row {
    unsigned size;
    uint32_t expected;
};

ParameterizedTestParameters(devices_bus, absent_ports_read_all_ones)
{
    static struct absent_row rows[] = {{1, 0xff}, {2, 0xffff}, {4, 0xffffffff}};
    return cr_make_param_array(struct absent_row, rows, 3);
}

ParameterizedTest(struct absent_row *row, devices_bus, absent_ports_read_all_ones, .timeout = 10)
{
    mon_bus_init(&bus);
    mon_bus_out(&bus, 0xcf8, row->size, 0);
    cr_assert_eq(mon_bus_in(&bus, 0xcf8, row->size), row->expected);
    cr_assert_eq(mon_bus_in(&bus, 0xffff, row->size), row->expected);
    cr_assert_str_eq(mon_bus_port_name(&bus, 0xcf8), "absent");
}

Test(devices_bus, wide_access_to_a_byte_device_is_split, .timeout = 10)
{
    struct recorder r = {0};
    mon_bus_init(&bus);
    cr_assert(mon_bus_add_ports(&bus, 0x100, 2, &byte_ops, &r));
    cr_assert_eq(mon_bus_in(&bus, 0x100, 4), 0xffff2211u); /* two ports there, two absent */
    cr_assert_eq(r.accesses, 2);
    mon_bus_out(&bus, 0x101, 2, 0xabcd);
    cr_assert_eq(r.value, 0xcd);
    cr_assert_eq(r.accesses, 3);
}

Test(devices_bus, wide_access_to_a_wide_device_stays_whole, .timeout = 10)
{
    struct recorder r = {0};
    mon_bus_init(&bus);
    cr_assert(mon_bus_add_ports(&bus, 0x100, 4, &dword_ops, &r));
    cr_assert_eq(mon_bus_in(&bus, 0x100, 4), 0x44332211u);
    cr_assert_eq(r.size, 4);
    cr_assert_eq(mon_bus_in(&bus, 0x102, 1), 0x33);
    mon_bus_out(&bus, 0x100, 2, 0xdeadbeef);
    cr_assert_eq(r.value, 0xbeef);
}

Test(devices_bus, overlapping_or_overlong_ranges_are_refused, .timeout = 10)
{
    struct recorder r = {0};
    mon_bus_init(&bus);
    cr_assert(mon_bus_add_ports(&bus, 0x100, 8, &byte_ops, &r));
    cr_assert_not(mon_bus_add_ports(&bus, 0x107, 1, &byte_ops, &r));
    cr_assert_not(mon_bus_add_ports(&bus, 0xffff, 2, &byte_ops, &r));
    cr_assert_not(mon_bus_add_ports(&bus, 0x200, 0, &byte_ops, &r));
    cr_assert(mon_bus_add_mmio(&bus, 0xa0000, 0x1000, &mmio_ops, &r));
    cr_assert_not(mon_bus_add_mmio(&bus, 0xa0fff, 0x1000, &mmio_ops, &r));
    cr_assert_not(mon_bus_add_mmio(&bus, UINT64_MAX, 2, &mmio_ops, &r));
}

Test(devices_bus, the_port_table_refuses_when_full, .timeout = 10)
{
    struct recorder r = {0};
    mon_bus_init(&bus);
    for (unsigned i = 1; i < MON_BUS_PORT_RANGES; i++)
        cr_assert(mon_bus_add_ports(&bus, (uint16_t)(i * 8), 1, &byte_ops, &r));
    cr_assert_not(mon_bus_add_ports(&bus, 0x8000, 1, &byte_ops, &r));
}

Test(devices_bus, mmio_reaches_its_range_and_nothing_else, .timeout = 10)
{
    struct recorder r = {0};
    mon_bus_init(&bus);
    cr_assert(mon_bus_add_mmio(&bus, 0xa0000, 0x1000, &mmio_ops, &r));
    cr_assert_eq(mon_bus_mmio_read(&bus, 0xa0010, 4), 0x1004u);
    cr_assert_eq(mon_bus_mmio_read(&bus, 0x9ffff, 1), UINT64_MAX);
    cr_assert_eq(mon_bus_mmio_read(&bus, 0xa0ffd, 4), UINT64_MAX); /* reaches beyond */
    mon_bus_mmio_write(&bus, 0xa0ff8, 8, 0x1122334455667788);
    cr_assert_eq(r.value, 0x1122334455667788);
    cr_assert_eq(r.port, 0xff8);
    cr_assert_str_eq(mon_bus_mmio_name(&bus, 0xa0000), "frame");
    cr_assert_str_eq(mon_bus_mmio_name(&bus, 0xa1000), "absent");
}
