/* elf.h - a checked view of an ELF file of either class, as the PVH and Multiboot loaders need it.
 *
 * mon_elf_parse() checks every program header against the file once; what is in the view afterwards
 * can be used without further checks on the file's side. */
#ifndef MON_ELF_H
#define MON_ELF_H

#include "monitor/boot/boot.h"

#define MON_ELF_SEGMENTS_MAX 64

struct mon_elf_segment {
    uint32_t type; /* PT_LOAD, PT_NOTE, ... */
    uint64_t offset, filesz, memsz, vaddr, paddr;
};

struct mon_elf {
    const struct mon_image *image;
    bool is_64;
    uint64_t entry;
    unsigned count;
    struct mon_elf_segment segment[MON_ELF_SEGMENTS_MAX];
};

int mon_elf_parse(const struct mon_image *image, struct mon_elf *elf, struct mon_error *err);

/* Copies the PT_LOAD segments to their physical addresses. *end is the end of the highest. */
int mon_elf_load(const struct mon_elf *elf, const struct mon_ram *ram, uint64_t *end,
                 struct mon_error *err);

/* The physical address of a virtual one, itself when no segment has it. */
uint64_t mon_elf_physical(const struct mon_elf *elf, uint64_t vaddr);

/* Checks that [gpa, gpa + size) is RAM and nothing of the loader's. */
int mon_elf_check_place(const struct mon_image *image, const struct mon_ram *ram, uint64_t gpa,
                        uint64_t size, struct mon_error *err);

/* The two protocols. find returns false when the file does not speak it. */
bool mon_pvh_find(const struct mon_elf *elf, uint32_t *entry);
int mon_pvh_load(const struct mon_boot *boot, const struct mon_elf *elf, uint32_t eip,
                 const struct mon_ram *ram, struct mon_entry *entry, struct mon_error *err);
bool mon_multiboot_find(const struct mon_image *image, uint32_t *offset);
int mon_multiboot_load(const struct mon_boot *boot, const struct mon_elf *elf, uint32_t header,
                       const struct mon_ram *ram, struct mon_entry *entry, struct mon_error *err);

#endif
