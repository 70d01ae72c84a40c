/* elf.c - ELF files: checking, loading, and choosing the protocol; see elf.h.
 *
 * A file that has both a PVH note and a Multiboot header is started by PVH.
 *
 * Source: System V ABI, chapter 5 (program headers). */
#include "monitor/boot/elf.h"

#include <elf.h>
#include <string.h>

static int malformed(const struct mon_image *image, const char *what, struct mon_error *err)
{
    return mon_error_set(err, MON_E_KERNEL, "%s: malformed ELF file: %s; copy or build it again",
                         image->path, what);
}

static int check_ident(const struct mon_image *image, struct mon_error *err)
{
    const uint8_t *d = image->data;
    if (image->size < EI_NIDENT)
        return malformed(image, "it ends within its header", err);
    if (d[EI_CLASS] != ELFCLASS32 && d[EI_CLASS] != ELFCLASS64)
        return malformed(image, "its class is neither 32 nor 64 bits", err);
    if (d[EI_DATA] != ELFDATA2LSB)
        return malformed(image, "it is big-endian", err);
    size_t need = d[EI_CLASS] == ELFCLASS64 ? sizeof(Elf64_Ehdr) : sizeof(Elf32_Ehdr);
    if (image->size < need)
        return malformed(image, "it ends within its header", err);

    unsigned type = mon_get16(d + 16), machine = mon_get16(d + 18);
    if (machine != EM_386 && machine != EM_X86_64)
        return mon_error_set(err, MON_E_KERNEL, "%s: built for machine %u; novt runs x86 kernels",
                             image->path, machine);
    if (type != ET_EXEC)
        return mon_error_set(err, MON_E_KERNEL,
                             "%s: ELF type %u is no executable; link it with -no-pie", image->path,
                             type);
    return MON_OK;
}

static struct mon_elf_segment read_segment(const uint8_t *p, bool is_64)
{
    if (is_64)
        return (struct mon_elf_segment){
            .type = mon_get32(p),
            .offset = mon_get64(p + offsetof(Elf64_Phdr, p_offset)),
            .filesz = mon_get64(p + offsetof(Elf64_Phdr, p_filesz)),
            .memsz = mon_get64(p + offsetof(Elf64_Phdr, p_memsz)),
            .vaddr = mon_get64(p + offsetof(Elf64_Phdr, p_vaddr)),
            .paddr = mon_get64(p + offsetof(Elf64_Phdr, p_paddr)),
        };
    return (struct mon_elf_segment){
        .type = mon_get32(p),
        .offset = mon_get32(p + offsetof(Elf32_Phdr, p_offset)),
        .filesz = mon_get32(p + offsetof(Elf32_Phdr, p_filesz)),
        .memsz = mon_get32(p + offsetof(Elf32_Phdr, p_memsz)),
        .vaddr = mon_get32(p + offsetof(Elf32_Phdr, p_vaddr)),
        .paddr = mon_get32(p + offsetof(Elf32_Phdr, p_paddr)),
    };
}

static bool in_file(const struct mon_image *image, uint64_t offset, uint64_t size)
{
    return offset <= image->size && size <= image->size - offset;
}

int mon_elf_parse(const struct mon_image *image, struct mon_elf *elf, struct mon_error *err)
{
    const uint8_t *d = image->data;
    int status = check_ident(image, err);
    if (status)
        return status;

    elf->image = image;
    elf->is_64 = d[EI_CLASS] == ELFCLASS64;
    elf->entry = elf->is_64 ? mon_get64(d + 24) : mon_get32(d + 24);
    elf->count = 0;

    uint64_t offset = elf->is_64 ? mon_get64(d + 32) : mon_get32(d + 28);
    unsigned stride = mon_get16(d + (elf->is_64 ? 54 : 42));
    unsigned count = mon_get16(d + (elf->is_64 ? 56 : 44));
    size_t least = elf->is_64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);

    if (count == 0 || count > MON_ELF_SEGMENTS_MAX || stride < least)
        return malformed(image, "its program header table has an impossible size", err);
    if (!in_file(image, offset, (uint64_t)count * stride))
        return malformed(image, "its program headers lie beyond its end", err);

    for (unsigned i = 0; i < count; i++) {
        struct mon_elf_segment s = read_segment(d + offset + (uint64_t)i * stride, elf->is_64);
        if (s.type != PT_LOAD && s.type != PT_NOTE)
            continue;
        if (!in_file(image, s.offset, s.filesz))
            return malformed(image, "a segment lies beyond its end (truncated?)", err);
        if (s.type == PT_LOAD && s.filesz > s.memsz)
            return malformed(image, "a segment is larger in the file than in memory", err);
        elf->segment[elf->count++] = s;
    }
    return MON_OK;
}

int mon_elf_check_place(const struct mon_image *image, const struct mon_ram *ram, uint64_t gpa,
                        uint64_t size, struct mon_error *err)
{
    unsigned long long at = gpa, n = size;
    if (gpa < MON_BOOT_END && gpa + size > MON_BOOT_GDT)
        return mon_error_set(err, MON_E_KERNEL,
                             "%s: its %llu bytes at %llxh overlap the boot information at %xh; "
                             "link it elsewhere, as at 1 MiB",
                             image->path, n, at, MON_BOOT_GDT);
    if (gpa < MON_RAM_1M && gpa + size > MON_RAM_EBDA)
        return mon_error_set(err, MON_E_KERNEL,
                             "%s: its %llu bytes at %llxh overlap the firmware's memory; link it "
                             "elsewhere, as at 1 MiB",
                             image->path, n, at);
    if (!mon_ram_at(ram, gpa, size))
        return mon_error_set(err, MON_E_MEMORY,
                             "%s: its %llu bytes at %llxh are beyond the guest's memory (%llu "
                             "MiB); give more with --memory",
                             image->path, n, at, (unsigned long long)ram->size >> 20);
    return MON_OK;
}

int mon_elf_load(const struct mon_elf *elf, const struct mon_ram *ram, uint64_t *end,
                 struct mon_error *err)
{
    *end = 0;
    for (unsigned i = 0; i < elf->count; i++) {
        const struct mon_elf_segment *s = &elf->segment[i];
        if (s->type != PT_LOAD || s->memsz == 0)
            continue;
        int status = mon_elf_check_place(elf->image, ram, s->paddr, s->memsz, err);
        if (status)
            return status;

        uint8_t *to = mon_ram_at(ram, s->paddr, s->memsz);
        memcpy(to, elf->image->data + s->offset, s->filesz);
        memset(to + s->filesz, 0, s->memsz - s->filesz);
        if (s->paddr + s->memsz > *end)
            *end = s->paddr + s->memsz;
    }
    if (*end == 0)
        return malformed(elf->image, "it has nothing to load", err);
    return MON_OK;
}

uint64_t mon_elf_physical(const struct mon_elf *elf, uint64_t vaddr)
{
    for (unsigned i = 0; i < elf->count; i++) {
        const struct mon_elf_segment *s = &elf->segment[i];
        if (s->type == PT_LOAD && vaddr >= s->vaddr && vaddr - s->vaddr < s->memsz)
            return vaddr - s->vaddr + s->paddr;
    }
    return vaddr;
}

int mon_elf_boot(const struct mon_boot *boot, const struct mon_ram *ram, struct mon_entry *entry,
                 struct mon_error *err)
{
    struct mon_elf elf;
    uint32_t at;
    int status = mon_elf_parse(&boot->kernel, &elf, err);
    if (status)
        return status;
    if (mon_pvh_find(&elf, &at))
        return mon_pvh_load(boot, &elf, at, ram, entry, err);
    if (mon_multiboot_find(&boot->kernel, &at))
        return mon_multiboot_load(boot, &elf, at, ram, entry, err);
    return mon_error_set(err, MON_E_KERNEL,
                         "%s: an ELF file with neither a PVH entry note nor a Multiboot header; "
                         "for Linux give the bzImage (vmlinuz)",
                         boot->kernel.path);
}
