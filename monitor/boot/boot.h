/* boot.h - puts a kernel into the guest's memory and says in which state its first instruction
 * runs.
 *
 * Three protocols, told apart by the file: a Linux bzImage (32-bit boot protocol), an ELF file with
 * a PVH entry note, an ELF file with a Multiboot 1 header. All three enter flat 32-bit protected
 * mode with paging and interrupts off. What loader and kernel exchange lies in conventional memory:
 *
 *     90000h  GDT (the selectors that Linux asks for: code 10h, data 18h)
 *     91000h  boot_params, hvm_start_info or Multiboot information
 *     92000h  its lists: memory map, modules
 *     94000h  command line, up to 9C000h
 *
 * Files are hostile input: every offset and size is checked before it is used, and failing gives a
 * sentence. Nothing is written to guest memory outside RAM.
 *
 * Thread: before the vCPU runs, or while it is stopped. */
#ifndef MON_BOOT_H
#define MON_BOOT_H

#include "monitor/boot/error.h"
#include "monitor/boot/ram.h"

#include "include/novt.h"

#define MON_BOOT_GDT         0x90000u
#define MON_BOOT_INFO        0x91000u
#define MON_BOOT_LISTS       0x92000u
#define MON_BOOT_CMDLINE     0x94000u
#define MON_BOOT_CMDLINE_MAX 0x8000u /* with its NUL */
#define MON_BOOT_END         0x9c000u
#define MON_BOOT_CS          0x10
#define MON_BOOT_DS          0x18
/* Linux on i386 can use an initrd up to here without moving it. */
#define MON_BOOT_INITRD_MAX 0x37ffffffu

struct mon_image {
    const char *path; /* as the user gave it */
    uint8_t *data;    /* while it is loaded; a reboot reads the file again */
    size_t size;
    int fd; /* of an image that mon_boot_open() opened */
    bool is_open;
};

struct mon_boot {
    struct mon_image kernel;
    struct mon_image initrd; /* path is NULL when there is none */
    const char *cmdline;     /* never NULL */
};

/* Registers at the kernel's first instruction; all others are 0. */
struct mon_entry {
    uint32_t eip, eax, ebx, esi;
};

/* Opens the files, and keeps them open: they are loaded again at each reboot, when none can be
 * opened any more. initrd may be NULL. */
int mon_boot_open(struct mon_boot *boot, const char *kernel, const char *initrd,
                  const char *cmdline, const struct mon_ram *ram, struct mon_error *err);
void mon_boot_close(struct mon_boot *boot);

/* Their contents come into the host's memory for mon_boot_load(), and go: a running machine needs
 * no second copy of an initrd. */
int mon_boot_read(struct mon_boot *boot, struct mon_error *err);
void mon_boot_forget(struct mon_boot *boot);

/* Loads firmware tables, kernel, initrd and boot information. */
int mon_boot_load(const struct mon_boot *boot, const struct mon_ram *ram, struct mon_entry *entry,
                  struct mon_error *err);

/* The vCPU's state for an entry; regs and sregs hold the state after RESET. */
void mon_entry_set(const struct mon_entry *entry, struct novt_regs *regs, struct novt_sregs *sregs);

/* --- For the loaders ---------------------------------------------------------------------------*/

int mon_bzimage_load(const struct mon_boot *boot, const struct mon_ram *ram,
                     struct mon_entry *entry, struct mon_error *err);
int mon_elf_boot(const struct mon_boot *boot, const struct mon_ram *ram, struct mon_entry *entry,
                 struct mon_error *err);

/* Copies the command line to MON_BOOT_CMDLINE; limit counts its NUL. program, when not NULL, and a
 * space go first. */
int mon_boot_put_cmdline(const struct mon_boot *boot, const struct mon_ram *ram,
                         const char *program, size_t limit, struct mon_error *err);

/* Copies the initrd as high as it goes below limit (its last byte's address), but not below floor.
 * *base is its address, 0 when there is none. */
int mon_boot_put_initrd(const struct mon_boot *boot, const struct mon_ram *ram, uint64_t floor,
                        uint64_t limit, uint32_t *base, struct mon_error *err);

/* The part of a path after its last slash. */
const char *mon_boot_name(const char *path);

/* Unaligned little-endian fields. */
static inline uint16_t mon_get16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t mon_get32(const uint8_t *p)
{
    return mon_get16(p) | (uint32_t)mon_get16(p + 2) << 16;
}

static inline uint64_t mon_get64(const uint8_t *p)
{
    return mon_get32(p) | (uint64_t)mon_get32(p + 4) << 32;
}

static inline void mon_put16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static inline void mon_put32(uint8_t *p, uint32_t v)
{
    mon_put16(p, (uint16_t)v);
    mon_put16(p + 2, (uint16_t)(v >> 16));
}

static inline void mon_put64(uint8_t *p, uint64_t v)
{
    mon_put32(p, (uint32_t)v);
    mon_put32(p + 4, (uint32_t)(v >> 32));
}

#endif
