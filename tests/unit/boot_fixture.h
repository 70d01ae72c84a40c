/* boot_fixture.h - guest memory and kernel images made in memory. */
#ifndef BOOT_FIXTURE_H
#define BOOT_FIXTURE_H

#include "monitor/boot/boot.h"

#include <criterion/criterion.h>
#include <string.h>

struct boot_fixture {
    struct mon_ram ram;
    struct mon_boot boot;
    struct mon_entry entry;
    struct mon_error err;
    uint8_t file[65536];
    uint8_t initrd[8192];
};

static inline void boot_fixture_start(struct boot_fixture *f, uint64_t memory)
{
    memset(f, 0, sizeof(*f));
    cr_assert_eq(mon_ram_create(&f->ram, memory, &f->err), MON_OK, "%s", f->err.text);
    f->boot.kernel =
        (struct mon_image){.path = "dir/kernel", .data = f->file, .size = sizeof(f->file)};
    f->boot.cmdline = "console=ttyS0 quiet";
}

static inline void boot_fixture_add_initrd(struct boot_fixture *f)
{
    memset(f->initrd, 0x5a, sizeof(f->initrd));
    f->boot.initrd =
        (struct mon_image){.path = "dir/initrd.gz", .data = f->initrd, .size = sizeof(f->initrd)};
}

static inline int boot_fixture_load(struct boot_fixture *f)
{
    return mon_boot_load(&f->boot, &f->ram, &f->entry, &f->err);
}

/* A failure is one line that names the file or the option. */
static inline void boot_fixture_check_message(const struct boot_fixture *f)
{
    cr_assert(f->err.text[0] != '\0');
    cr_assert_null(strchr(f->err.text, '\n'));
    cr_assert(strstr(f->err.text, "kernel") || strstr(f->err.text, "initrd") ||
                  strstr(f->err.text, "--"),
              "%s", f->err.text);
}

static inline uint8_t *guest(const struct boot_fixture *f, uint64_t gpa)
{
    uint8_t *p = mon_ram_at(&f->ram, gpa, 1);
    cr_assert_not_null(p, "%lx is no RAM", (unsigned long)gpa);
    return p;
}

#endif
