/* boot.c - reading the files, and what the three boot protocols share; see boot.h. */
#include "monitor/boot/boot.h"

#include "monitor/boot/acpi.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char elf_magic[4] = {0x7f, 'E', 'L', 'F'};

static int check_image(int fd, const char *path, const char *what, uint64_t limit, size_t *size,
                       struct mon_error *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        return mon_error_set(err, MON_E_KERNEL, "%s: the %s must be a regular file", path, what);
    if (st.st_size == 0)
        return mon_error_set(err, MON_E_KERNEL, "%s: the %s is empty; copy it again", path, what);
    if ((uint64_t)st.st_size > limit)
        return mon_error_set(err, MON_E_MEMORY,
                             "%s: the %s (%llu KiB) is larger than the guest's memory (%llu KiB); "
                             "give more with --memory",
                             path, what, (unsigned long long)st.st_size >> 10,
                             (unsigned long long)limit >> 10);
    *size = (size_t)st.st_size;
    return MON_OK;
}

/* Opens a regular file that could fit the guest's memory. */
static int open_image(struct mon_image *image, const char *path, const char *what, uint64_t limit,
                      struct mon_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return mon_error_set(err, MON_E_KERNEL, "%s: cannot open the %s: %s", path, what,
                             strerror(errno));
    int status = check_image(fd, path, what, limit, &image->size, err);
    if (status) {
        close(fd);
        return status;
    }
    image->path = path;
    image->fd = fd;
    image->is_open = true;
    return MON_OK;
}

/* Reads the first size bytes; fewer when the file shrank meanwhile. */
static ssize_t read_all(int fd, uint8_t *to, size_t size)
{
    size_t done = 0;
    while (done < size) {
        ssize_t n = pread(fd, to + done, size - done, (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

static int read_image(struct mon_image *image, const char *what, struct mon_error *err)
{
    struct stat st;
    if (!image->is_open || image->data)
        return MON_OK;
    if (fstat(image->fd, &st) == 0 && (size_t)st.st_size < image->size)
        image->size = (size_t)st.st_size;
    image->data = malloc(image->size ? image->size : 1);
    if (!image->data)
        return mon_error_set(err, MON_E_MEMORY, "%s: no host memory for a %s of %zu bytes",
                             image->path, what, image->size);
    ssize_t got = read_all(image->fd, image->data, image->size);
    if (got < 0)
        return mon_error_set(err, MON_E_KERNEL, "%s: cannot read the %s: %s", image->path, what,
                             strerror(errno));
    image->size = (size_t)got;
    return MON_OK;
}

static void forget_image(struct mon_image *image)
{
    if (!image->is_open)
        return;
    free(image->data);
    image->data = NULL;
}

int mon_boot_read(struct mon_boot *boot, struct mon_error *err)
{
    int status = read_image(&boot->kernel, "kernel", err);
    return status ? status : read_image(&boot->initrd, "initrd", err);
}

void mon_boot_forget(struct mon_boot *boot)
{
    forget_image(&boot->kernel);
    forget_image(&boot->initrd);
}

int mon_boot_open(struct mon_boot *boot, const char *kernel, const char *initrd,
                  const char *cmdline, const struct mon_ram *ram, struct mon_error *err)
{
    *boot = (struct mon_boot){.cmdline = cmdline ? cmdline : ""};
    int status = open_image(&boot->kernel, kernel, "kernel", ram->size, err);
    if (!status && initrd)
        status = open_image(&boot->initrd, initrd, "initrd", ram->size, err);
    if (status)
        mon_boot_close(boot);
    return status;
}

static void close_image(struct mon_image *image)
{
    forget_image(image);
    if (image->is_open)
        close(image->fd);
}

void mon_boot_close(struct mon_boot *boot)
{
    close_image(&boot->kernel);
    close_image(&boot->initrd);
    *boot = (struct mon_boot){.cmdline = ""};
}

const char *mon_boot_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

int mon_boot_put_cmdline(const struct mon_boot *boot, const struct mon_ram *ram,
                         const char *program, size_t limit, struct mon_error *err)
{
    size_t prefix = program ? strlen(program) + 1 : 0, length = strlen(boot->cmdline);
    if (limit > MON_BOOT_CMDLINE_MAX)
        limit = MON_BOOT_CMDLINE_MAX;
    if (prefix + length >= limit)
        return mon_error_set(err, MON_E_USAGE,
                             "the command line has %zu bytes, but %s takes %zu; shorten --append",
                             length, mon_boot_name(boot->kernel.path),
                             limit > prefix + 1 ? limit - prefix - 1 : (size_t)0);

    char *to = mon_ram_at(ram, MON_BOOT_CMDLINE, limit);
    if (program) {
        memcpy(to, program, prefix - 1);
        to[prefix - 1] = ' ';
    }
    memcpy(to + prefix, boot->cmdline, length + 1);
    return MON_OK;
}

int mon_boot_put_initrd(const struct mon_boot *boot, const struct mon_ram *ram, uint64_t floor,
                        uint64_t limit, uint32_t *base, struct mon_error *err)
{
    *base = 0;
    if (!boot->initrd.path)
        return MON_OK;

    uint64_t size = boot->initrd.size, end = mon_ram_below_4g(ram);
    if (limit < end)
        end = limit + 1;
    uint64_t at = end > size ? (end - size) & ~(uint64_t)4095 : 0;
    if (floor < MON_RAM_1M)
        floor = MON_RAM_1M;
    if (at < floor)
        return mon_error_set(err, MON_E_MEMORY,
                             "%s: the initrd (%llu KiB) does not fit between the kernel's end "
                             "(%llu KiB) and %llu KiB; give more with --memory",
                             boot->initrd.path, (unsigned long long)size >> 10,
                             (unsigned long long)floor >> 10, (unsigned long long)end >> 10);
    mon_ram_write(ram, at, boot->initrd.data, size);
    *base = (uint32_t)at;
    return MON_OK;
}

/* Flat 4 GiB code and data segments at the selectors of the Linux boot protocol. */
static void put_gdt(const struct mon_ram *ram)
{
    uint8_t *gdt = mon_ram_at(ram, MON_BOOT_GDT, 32);
    memset(gdt, 0, 32);
    mon_put64(gdt + MON_BOOT_CS, 0x00cf9b000000ffffull);
    mon_put64(gdt + MON_BOOT_DS, 0x00cf93000000ffffull);
}

/* What a BIOS leaves in its data area: where the EBDA is, KiB of conventional memory, COM1. */
static void put_bios_data(const struct mon_ram *ram)
{
    uint8_t *bda = mon_ram_at(ram, 0x400, 0x100);
    memset(bda, 0, 0x100);
    mon_put16(bda + 0x00, 0x3f8);
    mon_put16(bda + 0x0e, MON_RAM_EBDA >> 4);
    mon_put16(bda + 0x13, MON_RAM_EBDA >> 10);
    memset(mon_ram_at(ram, MON_RAM_EBDA, 0x400), 0, 0x400);
    *(uint8_t *)mon_ram_at(ram, MON_RAM_EBDA, 1) = 1; /* the EBDA's size in KiB */
}

int mon_boot_load(const struct mon_boot *boot, const struct mon_ram *ram, struct mon_entry *entry,
                  struct mon_error *err)
{
    const struct mon_image *kernel = &boot->kernel;
    *entry = (struct mon_entry){0};
    memset(mon_ram_at(ram, MON_BOOT_GDT, MON_BOOT_END - MON_BOOT_GDT), 0,
           MON_BOOT_END - MON_BOOT_GDT);
    put_gdt(ram);
    put_bios_data(ram);
    mon_acpi_put(ram);

    if (kernel->size >= sizeof(elf_magic) && !memcmp(kernel->data, elf_magic, sizeof(elf_magic)))
        return mon_elf_boot(boot, ram, entry, err);
    return mon_bzimage_load(boot, ram, entry, err);
}

static struct novt_segment flat_segment(uint16_t selector, uint32_t attr)
{
    return (struct novt_segment){.limit = 0xffffffff, .attr = attr, .selector = selector};
}

void mon_entry_set(const struct mon_entry *entry, struct novt_regs *regs, struct novt_sregs *sregs)
{
    *regs = (struct novt_regs){.rip = entry->eip, .rflags = 2};
    regs->gpr[NOVT_RAX] = entry->eax;
    regs->gpr[NOVT_RBX] = entry->ebx;
    regs->gpr[NOVT_RSI] = entry->esi;

    for (unsigned i = 0; i < 6; i++)
        sregs->seg[i] = flat_segment(MON_BOOT_DS, 0xc093);   /* data, read-write, accessed */
    sregs->seg[NOVT_CS] = flat_segment(MON_BOOT_CS, 0xc09b); /* code, read, accessed */
    sregs->tr = (struct novt_segment){.limit = 0x67, .attr = 0x008b}; /* busy 32-bit TSS */
    sregs->ldt = (struct novt_segment){.attr = 0x10082};              /* unusable */
    sregs->gdt = (struct novt_dtable){MON_BOOT_GDT, 31};
    sregs->idt = (struct novt_dtable){0, 0};
    sregs->cr0 = 0x11; /* PE, ET */
    sregs->cr3 = 0;
    sregs->cr4 = 0;
    sregs->efer = 0;
}
