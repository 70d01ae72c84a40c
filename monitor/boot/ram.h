/* ram.h - the guest's memory: one memfd, and where it appears in the physical address space.
 *
 *     0        - A0000h    RAM; 9FC00h is the EBDA
 *     A0000h   - C0000h    hole (a display's frame buffer would be here): MMIO exits
 *     C0000h   - 100000h   RAM; the firmware's tables are at E0000h
 *     100000h  - 3 GiB     RAM, as far as there is any
 *     3 GiB    - 4 GiB     hole
 *     4 GiB    -           the rest
 *
 * Below 3 GiB the offset in the memfd is the physical address; above 4 GiB it is 1 GiB less.
 *
 * The mapping here is the loaders' and devices'; the library makes its own from the memfd. */
#ifndef MON_RAM_H
#define MON_RAM_H

#include "monitor/boot/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MON_RAM_LOW_END    0xa0000u
#define MON_RAM_EBDA       0x9fc00u
#define MON_RAM_UPPER      0xc0000u
#define MON_RAM_FIRMWARE   0xe0000u
#define MON_RAM_1M         0x100000u
#define MON_RAM_BELOW_4G   0xc0000000ull /* at most this much below 4 GiB */
#define MON_RAM_4G         0x100000000ull
#define MON_RAM_MIN        (2ull << 20)
#define MON_RAM_MAX        (1ull << 40)
#define MON_RAM_RANGES_MAX 3

struct mon_ram {
    int fd;
    uint8_t *host;
    uint64_t size;
};

struct mon_ram_range {
    uint64_t gpa, size, offset;
};

int mon_ram_create(struct mon_ram *ram, uint64_t size, struct mon_error *err);
void mon_ram_destroy(struct mon_ram *ram);

/* The ranges of the map above that exist; returns how many. */
unsigned mon_ram_ranges(const struct mon_ram *ram, struct mon_ram_range range[MON_RAM_RANGES_MAX]);

/* Host address of [gpa, gpa + size), NULL unless all of it is RAM. */
void *mon_ram_at(const struct mon_ram *ram, uint64_t gpa, uint64_t size);

uint64_t mon_ram_below_4g(const struct mon_ram *ram);
uint64_t mon_ram_above_4g(const struct mon_ram *ram);

/* Copies to RAM; false unless all of the destination is RAM. */
bool mon_ram_write(const struct mon_ram *ram, uint64_t gpa, const void *from, uint64_t size);

/* The firmware's memory map (INT 15h, E820h). */
enum { MON_E820_RAM = 1, MON_E820_RESERVED = 2 };
#define MON_E820_MAX 5

struct mon_e820 {
    uint64_t base, size;
    uint32_t type;
};

unsigned mon_ram_e820(const struct mon_ram *ram, struct mon_e820 map[MON_E820_MAX]);

#endif
