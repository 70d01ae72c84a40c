/* ioapic.c - the I/O APIC; see ioapic.h.
 *
 * Called with the machine's lock held. */
#include "monitor/devices/ioapic.h"

#include <string.h>

enum {
    SELECT = 0x00, /* offsets in the page */
    WINDOW = 0x10,
    REG_ID = 0x00,
    REG_VERSION = 0x01,
    REG_ARBITRATION = 0x02,
    REG_ENTRIES = 0x10,
    VERSION = 0x11 | (MON_IOAPIC_PINS - 1) << 16,
    ENTRY_LOGICAL = 1 << 11,
    ENTRY_REMOTE_IRR = 1 << 14,
    ENTRY_LEVEL = 1 << 15,
    ENTRY_MASKED = 1 << 16,
    ENTRY_READ_ONLY = 1 << 12 | ENTRY_REMOTE_IRR,
    ENTRY_LOW = 0x1ffff,
};

static enum mon_lapic_delivery delivery_of(uint64_t entry)
{
    return entry >> 8 & 7;
}

static bool send(struct mon_ioapic *ioapic, uint64_t entry)
{
    if (delivery_of(entry) == MON_DELIVERY_EXTINT)
        return false; /* not a message: see mon_ioapic_takes_extint() */
    return mon_lapic_message(ioapic->lapic, MON_BYTE(entry >> 56), entry & ENTRY_LOGICAL,
                             delivery_of(entry), MON_BYTE(entry), entry & ENTRY_LEVEL);
}

/* A level-triggered pin has a message to send: its line is up and the last one has been ended. */
static void service_level(struct mon_ioapic *ioapic, unsigned pin)
{
    uint64_t *entry = &ioapic->entry[pin];
    if (!(*entry & ENTRY_LEVEL) || *entry & (ENTRY_MASKED | ENTRY_REMOTE_IRR) ||
        !(ioapic->lines >> pin & 1))
        return;
    if (send(ioapic, *entry))
        *entry |= ENTRY_REMOTE_IRR;
}

void mon_ioapic_set_pin(void *opaque, unsigned pin, bool level)
{
    struct mon_ioapic *ioapic = opaque;
    uint64_t entry = ioapic->entry[pin];
    bool rising = level && !(ioapic->lines >> pin & 1);

    ioapic->lines = (ioapic->lines & ~(1u << pin)) | (uint32_t)level << pin;
    if (entry & ENTRY_LEVEL)
        service_level(ioapic, pin);
    else if (rising && !(entry & ENTRY_MASKED))
        send(ioapic, entry);
}

void mon_ioapic_eoi(struct mon_ioapic *ioapic, uint8_t vector)
{
    for (unsigned pin = 0; pin < MON_IOAPIC_PINS; pin++) {
        uint64_t *entry = &ioapic->entry[pin];
        if (MON_BYTE(*entry) != vector || !(*entry & ENTRY_REMOTE_IRR))
            continue;
        *entry &= ~(uint64_t)ENTRY_REMOTE_IRR;
        service_level(ioapic, pin);
    }
}

bool mon_ioapic_takes_extint(const struct mon_ioapic *ioapic)
{
    return !(ioapic->entry[0] & ENTRY_MASKED) &&
           delivery_of(ioapic->entry[0]) == MON_DELIVERY_EXTINT;
}

bool mon_ioapic_pin_is_useful(const struct mon_ioapic *ioapic, unsigned pin)
{
    uint64_t entry = ioapic->entry[pin];
    return !(entry & ENTRY_MASKED) && !(delivery_of(entry) <= MON_DELIVERY_LOWEST &&
                                        mon_lapic_is_requested(ioapic->lapic, MON_BYTE(entry)));
}

/* --- Registers ---------------------------------------------------------------------------------*/

static uint32_t read_register(const struct mon_ioapic *ioapic)
{
    unsigned n = ioapic->select - (unsigned)REG_ENTRIES;
    if (n < 2 * MON_IOAPIC_PINS)
        return (uint32_t)(ioapic->entry[n / 2] >> 32 * (n & 1));
    switch (ioapic->select) {
    case REG_ID:
    case REG_ARBITRATION:
        return ioapic->id << 24;
    case REG_VERSION:
        return VERSION;
    default:
        return 0;
    }
}

/* Becoming edge-triggered clears remote IRR: how kernels end what nobody will end otherwise. */
static void write_entry_low(struct mon_ioapic *ioapic, unsigned pin, uint32_t value)
{
    uint64_t *entry = &ioapic->entry[pin];
    uint32_t kept = (uint32_t)*entry & ENTRY_READ_ONLY;
    if (!(value & ENTRY_LEVEL))
        kept &= ~(uint32_t)ENTRY_REMOTE_IRR;
    *entry = (*entry & ~0xffffffffull) | kept | (value & ENTRY_LOW & ~(uint32_t)ENTRY_READ_ONLY);
    service_level(ioapic, pin);
}

static void write_register(struct mon_ioapic *ioapic, uint32_t value)
{
    unsigned n = ioapic->select - (unsigned)REG_ENTRIES;
    if (ioapic->select == REG_ID)
        ioapic->id = value >> 24 & 0xf;
    if (n >= 2 * MON_IOAPIC_PINS)
        return;
    uint64_t *entry = &ioapic->entry[n / 2];
    if (n & 1)
        *entry = (uint32_t)*entry | (uint64_t)(value & 0xff000000) << 32;
    else
        write_entry_low(ioapic, n / 2, value);
}

static uint64_t mmio_read(void *device, uint64_t offset, unsigned size)
{
    (void)size;
    const struct mon_ioapic *ioapic = device;
    switch (offset & 0xff) {
    case SELECT:
        return ioapic->select;
    case WINDOW:
        return read_register(ioapic);
    default:
        return 0;
    }
}

static void mmio_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct mon_ioapic *ioapic = device;
    switch (offset & 0xff) {
    case SELECT:
        ioapic->select = MON_BYTE(value);
        break;
    case WINDOW:
        if (size >= 4)
            write_register(ioapic, (uint32_t)value);
        break;
    default:
        break;
    }
}

const struct mon_mmio_ops mon_ioapic_mmio = {"io-apic", mmio_read, mmio_write};

void mon_ioapic_init(struct mon_ioapic *ioapic, struct mon_lapic *lapic)
{
    memset(ioapic, 0, sizeof(*ioapic));
    ioapic->lapic = lapic;
    ioapic->id = MON_IOAPIC_ID;
    for (unsigned pin = 0; pin < MON_IOAPIC_PINS; pin++)
        ioapic->entry[pin] = ENTRY_MASKED;
}
