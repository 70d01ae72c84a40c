/* acpi.c - builds the ACPI tables.
 *
 *     E0000h  RSDP -> RSDT, XSDT -> FADT -> FACS, DSDT
 *                              -> MADT, HPET
 *
 * The FADT's hardware is monitor/devices/acpi_pm.c's; reset goes through port CF9h. The MADT's is
 * lapic.c's, ioapic.c's and, as a PC has them too, the two 8259s'. The DSDT is compiled from
 * guest-support/acpi/dsdt.asl when novt is built.
 *
 * Source: ACPI 6.4, chapters 5.2.5 (RSDP), 5.2.7 and 5.2.8 (RSDT, XSDT), 5.2.9 (FADT), 5.2.10
 * (FACS), 5.2.12 (MADT); IA-PC HPET specification 1.0a, 3.2.4. */
#include "monitor/boot/acpi.h"

#include "monitor/boot/boot.h"
#include "monitor/devices/acpi_pm.h"
#include "monitor/devices/hpet.h"
#include "monitor/devices/ioapic.h"
#include "monitor/devices/rtc.h"
#include "monitor/devices/sysctl.h"

#include "dsdt.aml.h"

#include <string.h>

enum {
    RSDP_AT = MON_RAM_FIRMWARE,
    RSDT_AT = RSDP_AT + 0x40,
    XSDT_AT = RSDP_AT + 0x80,
    FACS_AT = RSDP_AT + 0xc0, /* must be 64-byte aligned */
    FADT_AT = RSDP_AT + 0x100,
    MADT_AT = RSDP_AT + 0x240,
    HPET_AT = RSDP_AT + 0x2c0,
    DSDT_AT = RSDP_AT + 0x300,
    RSDP_SIZE = 36,
    HEADER_SIZE = 36,
    FACS_SIZE = 64,
    FADT_SIZE = 276,
    MADT_SIZE = 44 + 8 + 12 + 2 * 10 + 6,
    HPET_TABLE_SIZE = 56,
};

_Static_assert(FADT_AT + FADT_SIZE <= MADT_AT, "tables overlap");
_Static_assert(MADT_AT + MADT_SIZE <= HPET_AT, "tables overlap");
_Static_assert(HPET_AT + HPET_TABLE_SIZE <= DSDT_AT, "tables overlap");
_Static_assert(DSDT_AT + sizeof(dsdt_aml) < MON_RAM_1M, "the DSDT is too large");

enum {
    FADT_WBINVD = 1 << 0,
    FADT_PROC_C1 = 1 << 2,
    FADT_NO_POWER_BUTTON = 1 << 4,
    FADT_NO_SLEEP_BUTTON = 1 << 5,
    FADT_NO_FIXED_RTC = 1 << 6,
    FADT_RESET_REGISTER = 1 << 10,
    BOOT_LEGACY_DEVICES = 1 << 0, /* bit 1, a keyboard controller to probe, stays clear */
    BOOT_NO_VGA = 1 << 2,
    BOOT_NO_MSI = 1 << 3,
    GAS_SYSTEM_MEMORY = 0,
    GAS_SYSTEM_IO = 1,
    MADT_PCAT_COMPAT = 1 << 0, /* there are 8259s, to be masked */
    MADT_CPU = 0,
    MADT_IOAPIC = 1,
    MADT_OVERRIDE = 2,
    MADT_CPU_NMI = 4,
    MADT_CPU_ENABLED = 1 << 0,
    MADT_ALL_CPUS = 0xff,
    TRIGGER_CONFORMS = 0,
    TRIGGER_ACTIVE_HIGH = 1,
    TRIGGER_LEVEL = 3 << 2,
    RESET_VALUE = 0x06, /* port CF9h: reset the CPU and the system */
};

static uint8_t checksum(const uint8_t *p, size_t n)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum = (uint8_t)(sum + p[i]);
    return (uint8_t)-sum;
}

/* The header that all tables but RSDP and FACS begin with. Its checksum comes with seal(). */
static void put_header(uint8_t *t, const char *signature, uint32_t size, uint8_t revision)
{
    memcpy(t, signature, 4);
    mon_put32(t + 4, size);
    t[8] = revision;
    memcpy(t + 10, "NOVT  ", 6);
    memcpy(t + 16, "NOVTPC  ", 8);
    mon_put32(t + 24, 1);
    memcpy(t + 28, "NOVT", 4);
    mon_put32(t + 32, 1);
}

static void seal(uint8_t *t)
{
    t[9] = 0;
    t[9] = checksum(t, mon_get32(t + 4));
}

static void put_rsdp(uint8_t *t)
{
    memcpy(t, "RSD PTR ", 8);
    memcpy(t + 9, "NOVT  ", 6);
    t[15] = 2;
    mon_put32(t + 16, RSDT_AT);
    mon_put32(t + 20, RSDP_SIZE);
    mon_put64(t + 24, XSDT_AT);
    t[8] = checksum(t, 20); /* ACPI 1.0's part */
    t[32] = checksum(t, RSDP_SIZE);
}

static void put_roots(uint8_t *rsdt, uint8_t *xsdt)
{
    static const uint32_t tables[] = {FADT_AT, MADT_AT, HPET_AT};
    enum { COUNT = sizeof(tables) / sizeof(tables[0]) };

    _Static_assert(HEADER_SIZE + 4 * COUNT <= XSDT_AT - RSDT_AT, "tables overlap");
    _Static_assert(HEADER_SIZE + 8 * COUNT <= FACS_AT - XSDT_AT, "tables overlap");
    put_header(rsdt, "RSDT", HEADER_SIZE + 4 * COUNT, 1);
    put_header(xsdt, "XSDT", HEADER_SIZE + 8 * COUNT, 1);
    for (unsigned i = 0; i < COUNT; i++) {
        mon_put32(rsdt + HEADER_SIZE + 4 * i, tables[i]);
        mon_put64(xsdt + HEADER_SIZE + 8 * i, tables[i]);
    }
    seal(rsdt);
    seal(xsdt);
}

static void put_facs(uint8_t *t)
{
    memcpy(t, "FACS", 4);
    mon_put32(t + 4, FACS_SIZE);
    t[32] = 2; /* version */
}

/* A generic address structure for a port; access is 1 for bytes, 2 words, 3 double words. */
static void put_gas(uint8_t *g, uint16_t port, unsigned bits, unsigned access)
{
    g[0] = GAS_SYSTEM_IO;
    g[1] = (uint8_t)bits;
    g[2] = 0;
    g[3] = (uint8_t)access;
    mon_put64(g + 4, port);
}

static void put_fadt_ports(uint8_t *t)
{
    mon_put16(t + 46, MON_ACPI_SCI);
    mon_put32(t + 56, MON_ACPI_PM1_EVENT);
    mon_put32(t + 64, MON_ACPI_PM1_CONTROL);
    mon_put32(t + 76, MON_ACPI_PM_TIMER);
    t[88] = 4; /* lengths of the three */
    t[89] = 2;
    t[91] = 4;
    put_gas(t + 148, MON_ACPI_PM1_EVENT, 32, 2);
    put_gas(t + 172, MON_ACPI_PM1_CONTROL, 16, 2);
    put_gas(t + 208, MON_ACPI_PM_TIMER, 32, 3);
    put_gas(t + 116, MON_PORT_RESET, 8, 1);
    t[128] = RESET_VALUE;
}

static void put_fadt(uint8_t *t)
{
    put_header(t, "FACP", FADT_SIZE, 6);
    t[131] = 4; /* minor version: 6.4 */
    mon_put32(t + 36, FACS_AT);
    mon_put32(t + 40, DSDT_AT);
    mon_put64(t + 140, DSDT_AT);
    mon_put16(t + 96, 0xffff); /* C2 and C3 take too long to be of use: there are none */
    mon_put16(t + 98, 0xffff);
    t[108] = MON_RTC_CENTURY;
    mon_put16(t + 109, BOOT_LEGACY_DEVICES | BOOT_NO_VGA | BOOT_NO_MSI);
    mon_put32(t + 112, FADT_WBINVD | FADT_PROC_C1 | FADT_NO_POWER_BUTTON | FADT_NO_SLEEP_BUTTON |
                           FADT_NO_FIXED_RTC | FADT_RESET_REGISTER);
    put_fadt_ports(t);
    memcpy(t + 268, "novt\0\0\0", 8); /* hypervisor vendor identity */
    seal(t);
}

static uint8_t *put_entry(uint8_t *at, uint8_t type, uint8_t size)
{
    at[0] = type;
    at[1] = size;
    return at;
}

/* An ISA interrupt that is not at the I/O APIC pin of its number, or not as ISA's are. */
static void put_override(uint8_t *at, uint8_t irq, uint32_t pin, uint16_t trigger)
{
    put_entry(at, MADT_OVERRIDE, 10);
    at[3] = irq;
    mon_put32(at + 4, pin);
    mon_put16(at + 8, trigger);
}

static void put_madt(uint8_t *t)
{
    put_header(t, "APIC", MADT_SIZE, 5);
    mon_put32(t + 36, MON_LAPIC_ADDRESS);
    mon_put32(t + 40, MADT_PCAT_COMPAT);
    uint8_t *at = put_entry(t + 44, MADT_CPU, 8); /* processor 0, APIC id 0 */
    mon_put32(at + 4, MADT_CPU_ENABLED);
    at = put_entry(at + 8, MADT_IOAPIC, 12);
    at[2] = MON_IOAPIC_ID;
    mon_put32(at + 4, MON_IOAPIC_ADDRESS);
    at += 12;
    put_override(at, 0, MON_IOAPIC_TIMER, TRIGGER_CONFORMS);
    put_override(at + 10, MON_ACPI_SCI, MON_ACPI_SCI, TRIGGER_ACTIVE_HIGH | TRIGGER_LEVEL);
    at = put_entry(at + 20, MADT_CPU_NMI, 6);
    at[2] = MADT_ALL_CPUS;
    at[5] = 1; /* LINT1 */
    seal(t);
}

static void put_hpet(uint8_t *t)
{
    put_header(t, "HPET", HPET_TABLE_SIZE, 1);
    mon_put32(t + 36, MON_HPET_ID);
    t[40] = GAS_SYSTEM_MEMORY;
    mon_put64(t + 44, MON_HPET_ADDRESS);
    mon_put16(t + 53, MON_HPET_MIN_TICKS);
    seal(t);
}

void mon_acpi_put(const struct mon_ram *ram)
{
    uint8_t *base = mon_ram_at(ram, MON_RAM_FIRMWARE, MON_RAM_1M - MON_RAM_FIRMWARE);
    memset(base, 0, MON_RAM_1M - MON_RAM_FIRMWARE);
    put_rsdp(base);
    put_roots(base + (RSDT_AT - RSDP_AT), base + (XSDT_AT - RSDP_AT));
    put_facs(base + (FACS_AT - RSDP_AT));
    put_fadt(base + (FADT_AT - RSDP_AT));
    put_madt(base + (MADT_AT - RSDP_AT));
    put_hpet(base + (HPET_AT - RSDP_AT));
    memcpy(base + (DSDT_AT - RSDP_AT), dsdt_aml, sizeof(dsdt_aml));
}

uint32_t mon_acpi_rsdp(void)
{
    return RSDP_AT;
}
