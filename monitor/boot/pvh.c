/* pvh.c - the PVH boot protocol: an ELF note names a 32-bit entry point, which finds in ebx a
 * struct hvm_start_info with the memory map, the command line and the initrd.
 *
 *     start info, version 1 (56 bytes)       memory map entry (24)     module (32)
 *      0 magic   4 version  8 flags           0 address                 0 address
 *     12 modules' count    16 their list      8 size                    8 size
 *     24 command line      32 RSDP           16 type  20 reserved      16 command line
 *     40 memory map        48 its count
 *
 * Source: Xen, docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h. */
#include "monitor/boot/acpi.h"
#include "monitor/boot/elf.h"

#include <elf.h>
#include <string.h>

enum {
    NOTE_PHYS32_ENTRY = 18,
    NOTE_HEADER = 12,
    INFO_MAGIC = 0x336ec578,
    INFO_SIZE = 56,
    MAP_ENTRY = 24,
    MODULE_AT = MON_BOOT_LISTS,
    MAP_AT = MON_BOOT_LISTS + 0x100,
};

static uint64_t align4(uint64_t n)
{
    return (n + 3) & ~(uint64_t)3;
}

/* Walks one note segment. Sizes are 32-bit, so that sums in 64 bits cannot overflow. */
static bool find_in_notes(const uint8_t *notes, uint64_t size, uint32_t *entry)
{
    uint64_t at = 0;
    while (size - at >= NOTE_HEADER) {
        uint32_t namesz = mon_get32(notes + at), descsz = mon_get32(notes + at + 4);
        uint32_t type = mon_get32(notes + at + 8);
        uint64_t name = at + NOTE_HEADER, desc = name + align4(namesz);
        if (desc + descsz > size)
            return false;
        if (type == NOTE_PHYS32_ENTRY && namesz == 4 && !memcmp(notes + name, "Xen", 4) &&
            descsz >= 4) {
            *entry = mon_get32(notes + desc);
            return true;
        }
        at = desc + align4(descsz);
        if (at > size)
            return false;
    }
    return false;
}

bool mon_pvh_find(const struct mon_elf *elf, uint32_t *entry)
{
    for (unsigned i = 0; i < elf->count; i++) {
        const struct mon_elf_segment *s = &elf->segment[i];
        if (s->type == PT_NOTE && find_in_notes(elf->image->data + s->offset, s->filesz, entry))
            return true;
    }
    return false;
}

static void put_memory_map(const struct mon_ram *ram, uint8_t *info)
{
    struct mon_e820 map[MON_E820_MAX];
    unsigned n = mon_ram_e820(ram, map);
    uint8_t *to = mon_ram_at(ram, MAP_AT, n * MAP_ENTRY);

    for (unsigned i = 0; i < n; i++, to += MAP_ENTRY) {
        mon_put64(to, map[i].base);
        mon_put64(to + 8, map[i].size);
        mon_put32(to + 16, map[i].type);
    }
    mon_put64(info + 40, MAP_AT);
    mon_put32(info + 48, n);
}

static void put_module(const struct mon_boot *boot, const struct mon_ram *ram, uint32_t initrd,
                       uint8_t *info)
{
    uint8_t *module = mon_ram_at(ram, MODULE_AT, 32);
    if (!initrd)
        return;
    mon_put64(module, initrd);
    mon_put64(module + 8, boot->initrd.size);
    mon_put32(info + 12, 1);
    mon_put64(info + 16, MODULE_AT);
}

int mon_pvh_load(const struct mon_boot *boot, const struct mon_elf *elf, uint32_t eip,
                 const struct mon_ram *ram, struct mon_entry *entry, struct mon_error *err)
{
    uint64_t end = 0;
    uint32_t initrd = 0;
    int status = mon_elf_load(elf, ram, &end, err);
    if (!status)
        status = mon_boot_put_cmdline(boot, ram, NULL, MON_BOOT_CMDLINE_MAX, err);
    if (!status)
        status = mon_boot_put_initrd(boot, ram, end, MON_BOOT_INITRD_MAX, &initrd, err);
    if (status)
        return status;

    uint8_t *info = mon_ram_at(ram, MON_BOOT_INFO, INFO_SIZE);
    mon_put32(info, INFO_MAGIC);
    mon_put32(info + 4, 1);
    mon_put64(info + 24, MON_BOOT_CMDLINE);
    mon_put64(info + 32, mon_acpi_rsdp());
    put_memory_map(ram, info);
    put_module(boot, ram, initrd, info);
    *entry = (struct mon_entry){.eip = eip, .ebx = MON_BOOT_INFO};
    return MON_OK;
}
