/* bus.c - port and MMIO dispatch; see bus.h.
 *
 * Called with the machine's lock held. Registration happens before the guest runs. */
#include "monitor/devices/bus.h"

#include <string.h>

void mon_bus_init(struct mon_bus *bus)
{
    memset(bus, 0, sizeof(*bus));
    bus->port_count = 1;
}

static bool ports_are_free(const struct mon_bus *bus, uint16_t base, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (bus->port_index[base + i])
            return false;
    return true;
}

bool mon_bus_add_ports(struct mon_bus *bus, uint16_t base, unsigned count,
                       const struct mon_port_ops *ops, void *device)
{
    if (bus->port_count == MON_BUS_PORT_RANGES || count == 0 || base + count > 65536u)
        return false;
    if (!ports_are_free(bus, base, count))
        return false;

    unsigned index = bus->port_count++;
    bus->ports[index].ops = ops;
    bus->ports[index].device = device;
    memset(&bus->port_index[base], (int)index, count);
    return true;
}

bool mon_bus_add_mmio(struct mon_bus *bus, uint64_t base, uint64_t size,
                      const struct mon_mmio_ops *ops, void *device)
{
    if (bus->mmio_count == MON_BUS_MMIO_RANGES || size == 0 || base + size < base)
        return false;
    for (unsigned i = 0; i < bus->mmio_count; i++)
        if (base < bus->mmio[i].base + bus->mmio[i].size && bus->mmio[i].base < base + size)
            return false;

    unsigned index = bus->mmio_count++;
    bus->mmio[index].base = base;
    bus->mmio[index].size = size;
    bus->mmio[index].ops = ops;
    bus->mmio[index].device = device;
    return true;
}

void mon_bus_move_mmio(struct mon_bus *bus, const void *device, uint64_t base)
{
    for (unsigned i = 0; i < bus->mmio_count; i++)
        if (bus->mmio[i].device == device)
            bus->mmio[i].base = base;
}

/* How many bytes of an access of size bytes at port one device takes in one piece. */
static unsigned piece_size(const struct mon_bus *bus, uint16_t port, unsigned size)
{
    unsigned index = bus->port_index[port];
    unsigned width = index ? bus->ports[index].ops->width : 1;
    return width < size ? width : size;
}

static uint32_t in_piece(struct mon_bus *bus, uint16_t port, unsigned size)
{
    unsigned index = bus->port_index[port];
    if (!index || !bus->ports[index].ops->read)
        return MON_ABSENT(size);
    return bus->ports[index].ops->read(bus->ports[index].device, port, size) & MON_ABSENT(size);
}

static void out_piece(struct mon_bus *bus, uint16_t port, unsigned size, uint32_t value)
{
    unsigned index = bus->port_index[port];
    if (index && bus->ports[index].ops->write)
        bus->ports[index].ops->write(bus->ports[index].device, port, size,
                                     value & MON_ABSENT(size));
}

uint32_t mon_bus_in(struct mon_bus *bus, uint16_t port, unsigned size)
{
    uint32_t value = 0;
    for (unsigned done = 0, piece; done < size; done += piece) {
        uint16_t at = (uint16_t)(port + done);
        piece = piece_size(bus, at, size - done);
        value |= in_piece(bus, at, piece) << (8 * done);
    }
    return value;
}

void mon_bus_out(struct mon_bus *bus, uint16_t port, unsigned size, uint32_t value)
{
    for (unsigned done = 0, piece; done < size; done += piece) {
        uint16_t at = (uint16_t)(port + done);
        piece = piece_size(bus, at, size - done);
        out_piece(bus, at, piece, value >> (8 * done));
    }
}

/* The range that holds all of [gpa, gpa + size), or -1. */
static int mmio_find(const struct mon_bus *bus, uint64_t gpa, unsigned size)
{
    for (unsigned i = 0; i < bus->mmio_count; i++) {
        uint64_t offset = gpa - bus->mmio[i].base;
        if (offset < bus->mmio[i].size && size <= bus->mmio[i].size - offset)
            return (int)i;
    }
    return -1;
}

uint64_t mon_bus_mmio_read(struct mon_bus *bus, uint64_t gpa, unsigned size)
{
    int i = mmio_find(bus, gpa, size);
    if (i < 0 || !bus->mmio[i].ops->read)
        return ~(uint64_t)0;
    return bus->mmio[i].ops->read(bus->mmio[i].device, gpa - bus->mmio[i].base, size);
}

void mon_bus_mmio_write(struct mon_bus *bus, uint64_t gpa, unsigned size, uint64_t value)
{
    int i = mmio_find(bus, gpa, size);
    if (i >= 0 && bus->mmio[i].ops->write)
        bus->mmio[i].ops->write(bus->mmio[i].device, gpa - bus->mmio[i].base, size, value);
}

const char *mon_bus_port_name(const struct mon_bus *bus, uint16_t port)
{
    unsigned index = bus->port_index[port];
    return index ? bus->ports[index].ops->name : "absent";
}

const char *mon_bus_mmio_name(const struct mon_bus *bus, uint64_t gpa)
{
    int i = mmio_find(bus, gpa, 1);
    return i < 0 ? "absent" : bus->mmio[i].ops->name;
}
