/* bus.h - which device answers at a port or a physical address.
 *
 * Devices register ranges once, when the machine is built. A port finds its range through a table
 * with one byte for each of the 65,536 ports: one load on the way from an exit to its handler. MMIO
 * ranges are few and searched in order.
 *
 * An access wider than the device's registers is split into consecutive ports, as the ISA bridge
 * does. Where nothing is registered reads give all ones and writes vanish. */
#ifndef MON_BUS_H
#define MON_BUS_H

#include "monitor/devices/device.h"

#define MON_BUS_PORT_RANGES 64 /* index 0 means absent */
#define MON_BUS_MMIO_RANGES 16

struct mon_port_ops {
    const char *name;
    unsigned width; /* widest access that the device takes whole: 1, 2 or 4 bytes */
    uint32_t (*read)(void *device, uint16_t port, unsigned size);
    void (*write)(void *device, uint16_t port, unsigned size, uint32_t value);
};

struct mon_mmio_ops {
    const char *name;
    uint64_t (*read)(void *device, uint64_t offset, unsigned size);
    void (*write)(void *device, uint64_t offset, unsigned size, uint64_t value);
};

struct mon_bus {
    uint8_t port_index[65536];
    unsigned port_count;
    struct {
        const struct mon_port_ops *ops;
        void *device;
    } ports[MON_BUS_PORT_RANGES];
    unsigned mmio_count;
    struct {
        uint64_t base, size;
        const struct mon_mmio_ops *ops;
        void *device;
    } mmio[MON_BUS_MMIO_RANGES];
};

void mon_bus_init(struct mon_bus *bus);

/* False when a table is full or the range overlaps another: a defect of the caller. */
bool mon_bus_add_ports(struct mon_bus *bus, uint16_t base, unsigned count,
                       const struct mon_port_ops *ops, void *device);
bool mon_bus_add_mmio(struct mon_bus *bus, uint64_t base, uint64_t size,
                      const struct mon_mmio_ops *ops, void *device);

/* The device's range begins at base from now on; what it then overlaps keeps its addresses if it
 * was registered before. */
void mon_bus_move_mmio(struct mon_bus *bus, const void *device, uint64_t base);

/* size is 1, 2 or 4 for ports and 1 to 8 for MMIO. */
uint32_t mon_bus_in(struct mon_bus *bus, uint16_t port, unsigned size);
void mon_bus_out(struct mon_bus *bus, uint16_t port, unsigned size, uint32_t value);
uint64_t mon_bus_mmio_read(struct mon_bus *bus, uint64_t gpa, unsigned size);
void mon_bus_mmio_write(struct mon_bus *bus, uint64_t gpa, unsigned size, uint64_t value);

/* The name of the device at a port or address, "absent" where there is none. */
const char *mon_bus_port_name(const struct mon_bus *bus, uint16_t port);
const char *mon_bus_mmio_name(const struct mon_bus *bus, uint64_t gpa);

#endif
