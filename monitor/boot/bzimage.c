/* bzimage.c - loads a Linux bzImage by the 32-bit boot protocol.
 *
 * The file is a boot sector with the setup header at 1F1h, setup_sects sectors of real-mode code
 * that the 32-bit protocol skips, and the protected-mode kernel, which goes to 100000h. The kernel
 * decompresses itself to pref_address and needs init_size bytes there before it looks at the
 * memory map. boot_params is a zeroed page with the setup header copied in.
 *
 * Source: Linux, Documentation/arch/x86/boot.rst and zero-page.rst. */
#include "monitor/boot/acpi.h"
#include "monitor/boot/boot.h"

#include <string.h>

/* The setup header, offsets in the file and in boot_params alike. */
enum {
    HDR_SETUP_SECTS = 0x1f1,
    HDR_SYSSIZE = 0x1f4,
    HDR_BOOT_FLAG = 0x1fe,
    HDR_JUMP = 0x200,
    HDR_MAGIC = 0x202,
    HDR_VERSION = 0x206,
    HDR_LOADER = 0x210,
    HDR_LOADFLAGS = 0x211,
    HDR_CODE32_START = 0x214,
    HDR_RAMDISK_IMAGE = 0x218,
    HDR_RAMDISK_SIZE = 0x21c,
    HDR_CMD_LINE_PTR = 0x228,
    HDR_INITRD_MAX = 0x22c,
    HDR_CMDLINE_SIZE = 0x238,
    HDR_PREF_ADDRESS = 0x258,
    HDR_INIT_SIZE = 0x260,
    HDR_END = 0x264, /* through init_size, protocol 2.10 */
    HDR_MAX = 0x290, /* boot_params has other things from here */
    HDR_MIN_FILE = 0x400,
};

/* Other fields of boot_params. */
enum {
    BP_EXT_MEM_K = 0x002,
    BP_ACPI_RSDP = 0x070,
    BP_ALT_MEM_K = 0x1e0,
    BP_E820_COUNT = 0x1e8,
    BP_E820_TABLE = 0x2d0,
    BP_E820_ENTRY = 20,
    BP_SIZE = 4096,
};

#define HDR_MAGIC_VALUE  0x53726448u /* "HdrS" */
#define LOADED_HIGH      0x01
#define LOADER_UNDEFINED 0xff
#define SECTOR           512u
#define KERNEL_BASE      0x100000u

/* The header's fields as far as they matter here, defaults filled in for old versions. */
struct header {
    uint16_t version;
    uint32_t setup_size;  /* bytes before the protected-mode kernel */
    uint64_t kernel_size; /* bytes of it in the file */
    uint64_t needs_to;    /* end of what the kernel uses before it reads the memory map */
    uint32_t initrd_max;
    uint32_t cmdline_size;
    uint32_t length; /* of the setup header itself, to be copied */
};

static int check_magic(const struct mon_image *k, struct mon_error *err)
{
    if (k->size < HDR_MIN_FILE || mon_get16(k->data + HDR_BOOT_FLAG) != 0xaa55 ||
        mon_get32(k->data + HDR_MAGIC) != HDR_MAGIC_VALUE)
        return mon_error_set(
            err, MON_E_KERNEL,
            "%s: neither a Linux bzImage nor an ELF file; give --kernel one of them", k->path);
    return MON_OK;
}

static int check_version(const struct mon_image *k, struct mon_error *err)
{
    uint16_t version = mon_get16(k->data + HDR_VERSION);
    if (version < 0x0202)
        return mon_error_set(err, MON_E_KERNEL,
                             "%s: boot protocol %u.%02u is too old; novt needs 2.02 or newer "
                             "(Linux 2.4)",
                             k->path, version >> 8, version & 0xff);
    if (!(k->data[HDR_LOADFLAGS] & LOADED_HIGH))
        return mon_error_set(err, MON_E_KERNEL,
                             "%s: a zImage that loads below 1 MiB; build it as a bzImage", k->path);
    return MON_OK;
}

/* Since 2.10 the kernel says what it needs; before, its image is all that is known. */
static void find_needs(const struct mon_image *k, struct header *h)
{
    h->needs_to = KERNEL_BASE + h->kernel_size;
    if (h->version < 0x020a)
        return;

    uint64_t pref = mon_get64(k->data + HDR_PREF_ADDRESS);
    uint64_t end = pref + mon_get32(k->data + HDR_INIT_SIZE);
    if (end < pref)
        end = UINT64_MAX;
    if (end > h->needs_to)
        h->needs_to = end;
}

static int parse_header(const struct mon_image *k, struct header *h, struct mon_error *err)
{
    int status = check_magic(k, err);
    if (!status)
        status = check_version(k, err);
    if (status)
        return status;

    unsigned sects = k->data[HDR_SETUP_SECTS];
    h->version = mon_get16(k->data + HDR_VERSION);
    h->setup_size = ((sects ? sects : 4) + 1) * SECTOR;
    uint64_t stated = (uint64_t)mon_get32(k->data + HDR_SYSSIZE) * 16;
    uint64_t present = k->size > h->setup_size ? k->size - h->setup_size : 0;

    /* The size is in units of 16 bytes; the last unit may be incomplete. */
    if (present == 0 || stated > present + 15)
        return mon_error_set(err, MON_E_KERNEL,
                             "%s: truncated: its header says %llu bytes, the file has %zu; copy it "
                             "again",
                             k->path, (unsigned long long)(h->setup_size + stated), k->size);
    h->kernel_size = present;
    find_needs(k, h);

    h->initrd_max = h->version >= 0x0203 ? mon_get32(k->data + HDR_INITRD_MAX) : 0x37ffffff;
    h->cmdline_size = h->version >= 0x0206 ? mon_get32(k->data + HDR_CMDLINE_SIZE) : 255;
    h->length = HDR_MAGIC + k->data[HDR_JUMP + 1] - HDR_SETUP_SECTS;
    if (h->length > HDR_MAX - HDR_SETUP_SECTS)
        h->length = HDR_MAX - HDR_SETUP_SECTS;
    return MON_OK;
}

static int put_kernel(const struct mon_image *k, const struct header *h, const struct mon_ram *ram,
                      struct mon_error *err)
{
    if (h->needs_to > mon_ram_below_4g(ram))
        return mon_error_set(err, MON_E_MEMORY,
                             "%s: this kernel needs memory up to %llu MiB to start, the guest has "
                             "%llu MiB; give more with --memory",
                             k->path, (unsigned long long)((h->needs_to >> 20) + 1),
                             (unsigned long long)ram->size >> 20);
    mon_ram_write(ram, KERNEL_BASE, k->data + h->setup_size, h->kernel_size);
    return MON_OK;
}

static void put_memory_map(uint8_t *params, const struct mon_ram *ram)
{
    struct mon_e820 map[MON_E820_MAX];
    unsigned n = mon_ram_e820(ram, map);
    uint64_t above_1m = (mon_ram_below_4g(ram) - MON_RAM_1M) >> 10;

    for (unsigned i = 0; i < n; i++) {
        uint8_t *to = params + BP_E820_TABLE + i * BP_E820_ENTRY;
        mon_put64(to, map[i].base);
        mon_put64(to + 8, map[i].size);
        mon_put32(to + 16, map[i].type);
    }
    params[BP_E820_COUNT] = (uint8_t)n;
    mon_put16(params + BP_EXT_MEM_K, above_1m > 0xfc00 ? 0xfc00 : (uint16_t)above_1m);
    mon_put32(params + BP_ALT_MEM_K, (uint32_t)above_1m);
}

static void put_params(const struct mon_boot *boot, const struct header *h,
                       const struct mon_ram *ram, uint32_t initrd)
{
    uint8_t *params = mon_ram_at(ram, MON_BOOT_INFO, BP_SIZE);
    memset(params, 0, BP_SIZE);
    memcpy(params + HDR_SETUP_SECTS, boot->kernel.data + HDR_SETUP_SECTS, h->length);
    put_memory_map(params, ram);

    params[HDR_LOADER] = LOADER_UNDEFINED;
    mon_put32(params + HDR_CODE32_START, KERNEL_BASE);
    mon_put32(params + HDR_CMD_LINE_PTR, MON_BOOT_CMDLINE);
    mon_put32(params + HDR_RAMDISK_IMAGE, initrd);
    mon_put32(params + HDR_RAMDISK_SIZE, initrd ? (uint32_t)boot->initrd.size : 0);
    if (h->version >= 0x020e)
        mon_put64(params + BP_ACPI_RSDP, mon_acpi_rsdp());
}

int mon_bzimage_load(const struct mon_boot *boot, const struct mon_ram *ram,
                     struct mon_entry *entry, struct mon_error *err)
{
    struct header h = {0};
    uint32_t initrd = 0;
    int status = parse_header(&boot->kernel, &h, err);
    if (!status)
        status = put_kernel(&boot->kernel, &h, ram, err);
    if (!status)
        status = mon_boot_put_cmdline(boot, ram, NULL, (size_t)h.cmdline_size + 1, err);
    if (!status)
        status = mon_boot_put_initrd(boot, ram, h.needs_to, h.initrd_max, &initrd, err);
    if (status)
        return status;

    put_params(boot, &h, ram, initrd);
    *entry = (struct mon_entry){.eip = KERNEL_BASE, .esi = MON_BOOT_INFO};
    return MON_OK;
}
