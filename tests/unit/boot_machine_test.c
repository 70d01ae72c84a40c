/* boot_machine_test.c - guest memory, ACPI tables, files and the vCPU's entry state. */
#include "tests/unit/boot_fixture.h"

#include "monitor/boot/acpi.h"

#include <criterion/parameterized.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define KiB (1ull << 10)
#define MiB (1ull << 20)
#define GiB (1ull << 30)

static struct boot_fixture f;

static void setup(void)
{
    boot_fixture_start(&f, 64 * MiB);
}

static void teardown(void)
{
    mon_ram_destroy(&f.ram);
}

/* --- Memory ------------------------------------------------------------------------------------*/

struct range_row {
    uint64_t gpa, size;
    int is_ram;
};

ParameterizedTestParameters(boot_ram, addresses_are_ram_or_not)
{
    static struct range_row rows[] = {
        {0, 1, 1},
        {0, 0xa0000, 1},
        {0, 0xa0001, 0},
        {0x9ffff, 2, 0},
        {0xa0000, 1, 0},
        {0xbffff, 1, 0},
        {0xc0000, 64 * MiB - 0xc0000, 1},
        {0xc0000, 64 * MiB - 0xc0000 + 1, 0},
        {64 * MiB, 1, 0},
        {64 * MiB - 1, 1, 1},
        {4 * GiB, 1, 0},
        {UINT64_MAX, 2, 0},
        {0x100000, UINT64_MAX, 0},
        {0x100000, UINT64_MAX - 0x100000 + 1, 0},
    };
    return cr_make_param_array(struct range_row, rows, sizeof(rows) / sizeof(rows[0]));
}

ParameterizedTest(struct range_row *row, boot_ram, addresses_are_ram_or_not, .init = setup,
                  .fini = teardown, .timeout = 10)
{
    void *at = mon_ram_at(&f.ram, row->gpa, row->size);
    cr_assert_eq(at != NULL, row->is_ram);
    if (at)
        cr_assert_eq(at, f.ram.host + row->gpa);
}

struct size_row {
    uint64_t size;
    int status;
    char message[120];
};

ParameterizedTestParameters(boot_ram, absurd_sizes_are_refused)
{
    static struct size_row rows[] = {
        {4096, MON_E_MEMORY,
         "4 KiB of guest memory is too little for any kernel; give at least --memory 2M"},
        {2 * MiB - 4096, MON_E_MEMORY,
         "2044 KiB of guest memory is too little for any kernel; give at least --memory 2M"},
        {2 * MiB + 1, MON_E_USAGE,
         "2097153 bytes of guest memory is no multiple of 4 KiB; round the argument of --memory"},
        {UINT64_MAX, MON_E_MEMORY, "17592186044415 MiB of guest memory is more than the host's "},
    };
    return cr_make_param_array(struct size_row, rows, sizeof(rows) / sizeof(rows[0]));
}

ParameterizedTest(struct size_row *row, boot_ram, absurd_sizes_are_refused, .timeout = 10)
{
    struct mon_ram ram;
    struct mon_error err;
    cr_assert_eq(mon_ram_create(&ram, row->size, &err), row->status);
    cr_assert_eq(strncmp(err.text, row->message, strlen(row->message)), 0, "%s", err.text);
    mon_ram_destroy(&ram);
}

Test(boot_ram, memory_beyond_3_gib_continues_at_4_gib, .timeout = 10)
{
    struct mon_ram ram = {.fd = -1, .host = (uint8_t *)0x10000, .size = 5 * GiB};
    struct mon_ram_range range[MON_RAM_RANGES_MAX];
    struct mon_e820 map[MON_E820_MAX];

    cr_assert_eq(mon_ram_ranges(&ram, range), 3);
    cr_assert_eq(range[1].gpa + range[1].size, 3 * GiB);
    cr_assert_eq(range[2].gpa, 4 * GiB);
    cr_assert_eq(range[2].size, 2 * GiB);
    cr_assert_eq(range[2].offset, 3 * GiB);
    cr_assert_eq(mon_ram_at(&ram, 4 * GiB, 2 * GiB), ram.host + 3 * GiB);
    cr_assert_null(mon_ram_at(&ram, 3 * GiB, 1));
    cr_assert_eq(mon_ram_e820(&ram, map), 5);
    cr_assert_eq(map[4].base, 4 * GiB);
    cr_assert_eq(map[4].size, 2 * GiB);
    cr_assert_eq(map[3].size, 3 * GiB - MiB);
}

/* --- ACPI --------------------------------------------------------------------------------------*/

static uint8_t sum(uint64_t gpa, uint32_t size)
{
    uint8_t total = 0;
    for (uint32_t i = 0; i < size; i++)
        total = (uint8_t)(total + *guest(&f, gpa + i));
    return total;
}

/* Follows a table's address; checks signature and checksum. */
static const uint8_t *table(uint64_t gpa, const char *signature)
{
    const uint8_t *t = guest(&f, gpa);
    cr_assert_eq(memcmp(t, signature, 4), 0, "no %s at %lx", signature, (unsigned long)gpa);
    cr_assert_eq(sum(gpa, mon_get32(t + 4)), 0, "%s", signature);
    return t;
}

Test(boot_acpi, the_tables_lead_to_each_other, .init = setup, .fini = teardown, .timeout = 10)
{
    mon_acpi_put(&f.ram);
    const uint8_t *rsdp = guest(&f, mon_acpi_rsdp());
    cr_assert_eq(memcmp(rsdp, "RSD PTR ", 8), 0);
    cr_assert_eq(mon_acpi_rsdp() % 16, 0);
    cr_assert_eq(sum(mon_acpi_rsdp(), 20), 0);
    cr_assert_eq(sum(mon_acpi_rsdp(), 36), 0);

    const uint8_t *rsdt = table(mon_get32(rsdp + 16), "RSDT");
    const uint8_t *xsdt = table(mon_get64(rsdp + 24), "XSDT");
    cr_assert_eq(mon_get32(rsdt + 36), mon_get64(xsdt + 36));
    const uint8_t *fadt = table(mon_get64(xsdt + 36), "FACP");
    cr_assert_eq(mon_get32(fadt + 4), 276);
    cr_assert_eq(mon_get16(fadt + 46), 9);      /* SCI */
    cr_assert_eq(mon_get32(fadt + 56), 0x600);  /* PM1a event */
    cr_assert_eq(mon_get32(fadt + 64), 0x604);  /* PM1a control */
    cr_assert_eq(mon_get32(fadt + 76), 0x608);  /* PM timer */
    cr_assert_eq(mon_get64(fadt + 120), 0xcf9); /* reset register */
    cr_assert_eq(fadt[128], 6);

    uint32_t facs = mon_get32(fadt + 36);
    cr_assert_eq(facs % 64, 0);
    cr_assert_eq(memcmp(guest(&f, facs), "FACS", 4), 0);
    const uint8_t *dsdt = table(mon_get64(fadt + 140), "DSDT");
    cr_assert_eq(mon_get32(fadt + 40), mon_get64(fadt + 140));
    /* Name (\_S5, Package (4) { 5, ... }) */
    static const uint8_t s5[] = {0x08, '_', 'S', '5', '_', 0x12};
    cr_assert_not_null(memmem(dsdt, mon_get32(dsdt + 4), s5, sizeof(s5)));
}

/* The MADT's entries by type and length, walked as a kernel does. */
Test(boot_acpi, the_madt_and_hpet_tables_name_the_hardware, .init = setup, .fini = teardown,
     .timeout = 10)
{
    mon_acpi_put(&f.ram);
    const uint8_t *xsdt = table(mon_get64(guest(&f, mon_acpi_rsdp()) + 24), "XSDT");
    const uint8_t *madt = table(mon_get64(xsdt + 44), "APIC");
    const uint8_t *hpet = table(mon_get64(xsdt + 52), "HPET");
    static const uint8_t entries[] = {
        0, 8,  0,    0, 1, 0, 0,    0,                 /* CPU 0 */
        1, 12, 1,    0, 0, 0, 0xc0, 0xfe, 0,  0, 0, 0, /* I/O APIC 1 */
        2, 10, 0,    0, 2, 0, 0,    0,    0,  0,       /* IRQ 0 at pin 2 */
        2, 10, 0,    9, 9, 0, 0,    0,    13, 0,       /* SCI: level, active high */
        4, 6,  0xff, 0, 0, 1,                          /* NMI at LINT1 */
    };
    cr_assert_eq(mon_get32(madt + 36), 0xfee00000);
    cr_assert_eq(mon_get32(madt + 40), 1);
    cr_assert_eq(mon_get32(madt + 4), 44 + sizeof(entries));
    cr_assert_eq(memcmp(madt + 44, entries, sizeof(entries)), 0);

    cr_assert_eq(mon_get32(hpet + 36), 0x8086a201);
    cr_assert_eq(hpet[40], 0);
    cr_assert_eq(mon_get64(hpet + 44), 0xfed00000);
}

/* --- Files -------------------------------------------------------------------------------------*/

struct file_row {
    int64_t size; /* of a file; -1: none, -2: a directory, -3: a FIFO. Files are in memory: their
                     size is not up to the file system of /tmp */
    int status;
    char reason[80];
};

ParameterizedTestParameters(boot_files, what_cannot_be_a_kernel_is_refused)
{
    static struct file_row rows[] = {
        {-1, MON_E_KERNEL, ": cannot open the kernel: No such file or directory"},
        {-2, MON_E_KERNEL, ": the kernel must be a regular file"},
        {-3, MON_E_KERNEL, ": the kernel must be a regular file"},
        {0, MON_E_KERNEL, ": the kernel is empty; copy it again"},
        {1ll << 40, MON_E_MEMORY,
         ": the kernel (1073741824 KiB) is larger than the guest's memory "},
        {64, MON_OK, ""},
    };
    return cr_make_param_array(struct file_row, rows, sizeof(rows) / sizeof(rows[0]));
}

ParameterizedTest(struct file_row *row, boot_files, what_cannot_be_a_kernel_is_refused,
                  .init = setup, .fini = teardown, .timeout = 10)
{
    char dir[64], path[80];
    struct mon_boot boot;
    snprintf(dir, sizeof(dir), "/tmp/novt-test-%d", getpid());
    cr_assert_eq(mkdir(dir, 0700), 0);
    snprintf(path, sizeof(path), "%s/kernel", dir);
    if (row->size == -2)
        cr_assert_eq(mkdir(path, 0700), 0);
    else if (row->size == -3)
        cr_assert_eq(mkfifo(path, 0600), 0);
    int fd = row->size >= 0 ? memfd_create("kernel", MFD_CLOEXEC) : -1;
    if (row->size >= 0)
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    cr_assert(row->size < 0 || ftruncate(fd, row->size) == 0, "%s", strerror(errno));

    int status = mon_boot_open(&boot, path, NULL, NULL, &f.ram, &f.err);
    if (row->size < 0)
        remove(path);
    else
        close(fd);
    rmdir(dir);
    cr_assert_eq(status, row->status, "%s", f.err.text);
    if (status)
        cr_assert_eq(strncmp(f.err.text + strlen(path), row->reason, strlen(row->reason)), 0, "%s",
                     f.err.text);
    else
        cr_assert_eq(boot.kernel.size, (size_t)row->size);
    mon_boot_close(&boot);
}

Test(boot_files, a_missing_initrd_is_named, .init = setup, .fini = teardown, .timeout = 10)
{
    struct mon_boot boot;
    cr_assert_eq(mon_boot_open(&boot, "/proc/self/exe", "/nonexistent", NULL, &f.ram, &f.err),
                 MON_E_KERNEL);
    cr_assert_str_eq(f.err.text, "/nonexistent: cannot open the initrd: No such file or directory");
}

Test(boot_files, a_message_stays_on_one_line, .timeout = 10)
{
    struct mon_error err;
    cr_assert_eq(mon_error_set(&err, MON_E_KERNEL, "%s: no", "a\nb\rc"), MON_E_KERNEL);
    cr_assert_str_eq(err.text, "a b c: no");
}

/* --- Entry state -------------------------------------------------------------------------------*/

Test(boot_entry, the_kernel_starts_in_flat_protected_mode, .init = setup, .fini = teardown,
     .timeout = 10)
{
    struct mon_entry entry = {.eip = 0x100000, .eax = 1, .ebx = 2, .esi = 3};
    struct novt_regs regs;
    struct novt_sregs sregs;
    memset(&regs, 0xff, sizeof(regs));
    memset(&sregs, 0xff, sizeof(sregs));
    mon_entry_set(&entry, &regs, &sregs);

    cr_assert_eq(regs.rip, 0x100000);
    cr_assert_eq(regs.rflags, 2);
    cr_assert_eq(regs.gpr[NOVT_RAX], 1);
    cr_assert_eq(regs.gpr[NOVT_RBX], 2);
    cr_assert_eq(regs.gpr[NOVT_RSI], 3);
    cr_assert_eq(regs.gpr[NOVT_RBP] | regs.gpr[NOVT_RDI] | regs.gpr[NOVT_RSP], 0);
    cr_assert_eq(sregs.seg[NOVT_CS].selector, 0x10);
    cr_assert_eq(sregs.seg[NOVT_CS].attr, 0xc09b);
    cr_assert_eq(sregs.seg[NOVT_SS].selector, 0x18);
    cr_assert_eq(sregs.seg[NOVT_SS].attr, 0xc093);
    cr_assert_eq(sregs.seg[NOVT_SS].limit, 0xffffffff);
    cr_assert_eq(sregs.cr0, 0x11);
    cr_assert_eq(sregs.cr4 | sregs.efer | sregs.cr3, 0);
}

Test(boot_entry, the_gdt_has_what_the_segment_registers_hold, .init = setup, .fini = teardown,
     .timeout = 10)
{
    f.file[0] = 0; /* no kernel: the tables are there all the same */
    cr_assert_eq(boot_fixture_load(&f), MON_E_KERNEL);
    cr_assert_eq(mon_get64(guest(&f, MON_BOOT_GDT + 0x10)), 0x00cf9b000000ffffull);
    cr_assert_eq(mon_get64(guest(&f, MON_BOOT_GDT + 0x18)), 0x00cf93000000ffffull);
    cr_assert_eq(mon_get16(guest(&f, 0x413)), 639);
    cr_assert_eq(mon_get16(guest(&f, 0x40e)), 0x9fc0);
}
