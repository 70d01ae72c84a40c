/* multiboot.c - the Multiboot 1 protocol, for ELF files: eax holds the magic, ebx the information.
 *
 * The header is within the first 8 KiB of the file. If it carries addresses (flag 16), they say
 * what is loaded where; otherwise the ELF program headers do. The initrd is the only module.
 *
 * Source: Multiboot Specification 0.6.96. */
#include "monitor/boot/elf.h"

#include <string.h>

enum {
    HEADER_MAGIC = 0x1badb002,
    HEADER_SEARCH = 8192,
    HEADER_SIZE = 12,
    HEADER_ADDRESS_SIZE = 32, /* with the address fields */
    FLAG_ALIGN = 1 << 0,
    FLAG_MEMORY = 1 << 1,
    FLAG_VIDEO = 1 << 2,
    FLAG_REQUIRED = 0xffff, /* of these, all not understood must make the loader fail */
    FLAG_ADDRESSES = 1 << 16,
};

enum {
    BOOT_MAGIC = 0x2badb002,
    INFO_MEMORY = 1 << 0,
    INFO_CMDLINE = 1 << 2,
    INFO_MODULES = 1 << 3,
    INFO_MAP = 1 << 6,
    INFO_LOADER = 1 << 9,
    INFO_SIZE = 88,
    MAP_ENTRY = 24, /* with its own size field */
    MODULE_AT = MON_BOOT_LISTS,
    MAP_AT = MON_BOOT_LISTS + 0x100,
    NAME_AT = MON_BOOT_LISTS + 0x400, /* of the loader */
    MODULE_NAME_AT = MON_BOOT_LISTS + 0x500,
    MODULE_NAME_MAX = 0x400,
};

bool mon_multiboot_find(const struct mon_image *image, uint32_t *offset)
{
    size_t end = image->size < HEADER_SEARCH ? image->size : HEADER_SEARCH;
    for (uint32_t at = 0; at + HEADER_SIZE <= end; at += 4) {
        const uint8_t *h = image->data + at;
        if (mon_get32(h) == HEADER_MAGIC &&
            mon_get32(h) + mon_get32(h + 4) + mon_get32(h + 8) == 0) {
            *offset = at;
            return true;
        }
    }
    return false;
}

/* The header's own load addresses: header, load start, load end, bss end, entry. */
static int load_by_addresses(const struct mon_image *image, uint32_t header,
                             const struct mon_ram *ram, uint64_t *end, uint32_t *eip,
                             struct mon_error *err)
{
    if (image->size - header < HEADER_ADDRESS_SIZE)
        return mon_error_set(err, MON_E_KERNEL, "%s: truncated within its Multiboot header",
                             image->path);
    const uint8_t *h = image->data + header;
    uint32_t header_addr = mon_get32(h + 12), load_addr = mon_get32(h + 16);
    uint32_t load_end = mon_get32(h + 20), bss_end = mon_get32(h + 24);
    uint64_t before = (uint64_t)header_addr - load_addr;

    if (load_addr > header_addr || before > header || (load_end && load_end < load_addr))
        return mon_error_set(err, MON_E_KERNEL,
                             "%s: the addresses in its Multiboot header contradict each other",
                             image->path);
    uint64_t offset = header - before,
             size = load_end ? load_end - load_addr : image->size - offset;
    if (size > image->size - offset)
        return mon_error_set(err, MON_E_KERNEL,
                             "%s: truncated: its Multiboot header asks for %llu bytes at %llu",
                             image->path, (unsigned long long)size, (unsigned long long)offset);

    uint64_t total = bss_end > load_addr + size ? bss_end - load_addr : size;
    int status = mon_elf_check_place(image, ram, load_addr, total, err);
    if (status)
        return status;
    uint8_t *to = mon_ram_at(ram, load_addr, total);
    memcpy(to, image->data + offset, size);
    memset(to + size, 0, total - size);
    *end = load_addr + total;
    *eip = mon_get32(h + 28);
    return MON_OK;
}

static int load_kernel(const struct mon_elf *elf, uint32_t header, const struct mon_ram *ram,
                       uint64_t *end, uint32_t *eip, struct mon_error *err)
{
    uint32_t flags = mon_get32(elf->image->data + header + 4);
    uint32_t unknown = flags & FLAG_REQUIRED & ~(uint32_t)(FLAG_ALIGN | FLAG_MEMORY | FLAG_VIDEO);
    if (unknown)
        return mon_error_set(err, MON_E_KERNEL,
                             "%s: its Multiboot header requires features %04xh, which novt lacks",
                             elf->image->path, unknown);
    if (flags & FLAG_ADDRESSES)
        return load_by_addresses(elf->image, header, ram, end, eip, err);

    *eip = (uint32_t)mon_elf_physical(elf, elf->entry);
    return mon_elf_load(elf, ram, end, err);
}

static void put_memory_map(const struct mon_ram *ram, uint8_t *info)
{
    struct mon_e820 map[MON_E820_MAX];
    unsigned n = mon_ram_e820(ram, map);
    uint8_t *to = mon_ram_at(ram, MAP_AT, n * MAP_ENTRY);

    for (unsigned i = 0; i < n; i++, to += MAP_ENTRY) {
        mon_put32(to, MAP_ENTRY - 4);
        mon_put64(to + 4, map[i].base);
        mon_put64(to + 12, map[i].size);
        mon_put32(to + 20, map[i].type);
    }
    mon_put32(info + 4, MON_RAM_EBDA >> 10);
    mon_put32(info + 8, (uint32_t)((mon_ram_below_4g(ram) - MON_RAM_1M) >> 10));
    mon_put32(info + 44, n * MAP_ENTRY);
    mon_put32(info + 48, MAP_AT);
}

static void put_module(const struct mon_boot *boot, const struct mon_ram *ram, uint32_t initrd,
                       uint8_t *info)
{
    if (!initrd)
        return;
    const char *name = mon_boot_name(boot->initrd.path);
    size_t length = strnlen(name, MODULE_NAME_MAX - 1);
    mon_ram_write(ram, MODULE_NAME_AT, name, length);

    uint8_t *module = mon_ram_at(ram, MODULE_AT, 16);
    mon_put32(module, initrd);
    mon_put32(module + 4, initrd + (uint32_t)boot->initrd.size);
    mon_put32(module + 8, MODULE_NAME_AT);
    mon_put32(info + 20, 1);
    mon_put32(info + 24, MODULE_AT);
}

int mon_multiboot_load(const struct mon_boot *boot, const struct mon_elf *elf, uint32_t header,
                       const struct mon_ram *ram, struct mon_entry *entry, struct mon_error *err)
{
    static const char loader[] = "novt";
    uint64_t end = 0;
    uint32_t eip = 0, initrd = 0;
    int status = load_kernel(elf, header, ram, &end, &eip, err);
    if (!status)
        status = mon_boot_put_cmdline(boot, ram, mon_boot_name(boot->kernel.path),
                                      MON_BOOT_CMDLINE_MAX, err);
    if (!status)
        status = mon_boot_put_initrd(boot, ram, end, MON_BOOT_INITRD_MAX, &initrd, err);
    if (status)
        return status;

    uint8_t *info = mon_ram_at(ram, MON_BOOT_INFO, INFO_SIZE);
    mon_put32(info, INFO_MEMORY | INFO_CMDLINE | INFO_MODULES | INFO_MAP | INFO_LOADER);
    mon_put32(info + 16, MON_BOOT_CMDLINE);
    put_memory_map(ram, info);
    put_module(boot, ram, initrd, info);
    mon_ram_write(ram, NAME_AT, loader, sizeof(loader));
    mon_put32(info + 64, NAME_AT);
    *entry = (struct mon_entry){.eip = eip, .eax = BOOT_MAGIC, .ebx = MON_BOOT_INFO};
    return MON_OK;
}
