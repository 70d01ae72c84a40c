/* boot_bzimage_test.c - the Linux boot protocol: what the kernel finds, and files that lie. */
#include "tests/unit/boot_fixture.h"

#include "monitor/boot/acpi.h"

#include <criterion/parameterized.h>

enum { MiB = 1 << 20, SETUP = 5 * 512, BODY = 8192 };
enum { INFO = MON_BOOT_INFO };

static struct boot_fixture f;

/* A bzImage of protocol 2.15 with four setup sectors and 8 KiB of kernel. */
static void make_bzimage(void)
{
    uint8_t *d = f.file;
    d[0x1f1] = 4;
    mon_put32(d + 0x1f4, BODY / 16);
    mon_put16(d + 0x1fe, 0xaa55);
    d[0x200] = 0xeb;
    d[0x201] = 0x66; /* the header ends at 268h */
    mon_put32(d + 0x202, 0x53726448);
    mon_put16(d + 0x206, 0x020f);
    d[0x211] = 1;
    mon_put32(d + 0x22c, 0x37ffffff);
    mon_put32(d + 0x230, 0x200000);
    d[0x234] = 1;
    mon_put32(d + 0x238, 2047);
    mon_put64(d + 0x258, 16 * MiB);
    mon_put32(d + 0x260, 8 * MiB);
    for (unsigned i = 0; i < BODY; i++)
        d[SETUP + i] = (uint8_t)(i * 3 + 1);
    f.boot.kernel.size = SETUP + BODY;
}

static void setup(void)
{
    boot_fixture_start(&f, 64 * MiB);
    make_bzimage();
}

static void teardown(void)
{
    mon_ram_destroy(&f.ram);
}

TestSuite(boot_bzimage, .init = setup, .fini = teardown, .timeout = 10);

Test(boot_bzimage, kernel_and_parameters_are_where_the_protocol_says)
{
    boot_fixture_add_initrd(&f);
    cr_assert_eq(boot_fixture_load(&f), MON_OK, "%s", f.err.text);
    cr_assert_eq(f.entry.eip, 0x100000);
    cr_assert_eq(f.entry.esi, INFO);
    cr_assert_eq(memcmp(guest(&f, 0x100000), f.file + SETUP, BODY), 0);

    const uint8_t *params = guest(&f, INFO);
    cr_assert_eq(params[0x210], 0xff);
    cr_assert_eq(mon_get32(params + 0x202), 0x53726448);
    cr_assert_eq(mon_get32(params + 0x214), 0x100000);
    cr_assert_str_eq((char *)guest(&f, mon_get32(params + 0x228)), "console=ttyS0 quiet");
    uint32_t initrd = mon_get32(params + 0x218);
    cr_assert_eq(initrd, 64 * MiB - 8192);
    cr_assert_eq(mon_get32(params + 0x21c), 8192);
    cr_assert_eq(memcmp(guest(&f, initrd), f.initrd, 8192), 0);
    cr_assert_eq(mon_get64(params + 0x70), mon_acpi_rsdp());
    cr_assert_eq(params[0], 0);     /* not the boot sector's bytes */
    cr_assert_eq(params[0x268], 0); /* nor what follows the header */
}

Test(boot_bzimage, the_memory_map_leaves_out_what_is_not_free)
{
    static const uint64_t expected[][3] = {
        {0, 0x9fc00, 1}, {0x9fc00, 0x400, 2}, {0xe0000, 0x20000, 2}, {0x100000, 63 * MiB, 1}};
    cr_assert_eq(boot_fixture_load(&f), MON_OK);
    const uint8_t *params = guest(&f, INFO);
    cr_assert_eq(params[0x1e8], 4);
    for (unsigned i = 0; i < 4; i++) {
        const uint8_t *row = params + 0x2d0 + 20 * i;
        cr_assert_eq(mon_get64(row), expected[i][0]);
        cr_assert_eq(mon_get64(row + 8), expected[i][1]);
        cr_assert_eq(mon_get32(row + 16), expected[i][2]);
    }
    cr_assert_eq(mon_get32(params + 0x1e0), 63 * 1024);
}

Test(boot_bzimage, an_old_header_copies_less)
{
    f.file[0x201] = 0x22; /* ends at 224h */
    mon_put16(f.file + 0x206, 0x0202);
    f.boot.cmdline = "x";
    cr_assert_eq(boot_fixture_load(&f), MON_OK, "%s", f.err.text);
    cr_assert_eq(mon_get32(guest(&f, INFO) + 0x238), 0);
    cr_assert_eq(mon_get64(guest(&f, INFO) + 0x70), 0); /* no such field before 2.14 */
}

Test(boot_bzimage, the_initrd_stays_below_the_kernels_limit)
{
    boot_fixture_add_initrd(&f);
    mon_put32(f.file + 0x22c, 0x1fffffff & (32 * MiB - 1));
    cr_assert_eq(boot_fixture_load(&f), MON_OK);
    cr_assert_eq(mon_get32(guest(&f, INFO) + 0x218), 32 * MiB - 8192);
}

Test(boot_bzimage, the_longest_command_line_fits)
{
    static char line[2049];
    memset(line, 'a', 2047);
    f.boot.cmdline = line;
    cr_assert_eq(boot_fixture_load(&f), MON_OK);
    cr_assert_str_eq((char *)guest(&f, MON_BOOT_CMDLINE), line);
    line[2047] = 'a';
    cr_assert_eq(boot_fixture_load(&f), MON_E_USAGE);
    cr_assert_str_eq(f.err.text, "the command line has 2048 bytes, but kernel takes 2047; shorten "
                                 "--append");
}

/* One field of the good image changed, or the file cut; and exactly what is said of it. */
struct bad_row {
    uint32_t offset, bytes, value, size; /* size 0: not cut */
    int status;
    char message[200];
};

#define NO_KERNEL "dir/kernel: neither a Linux bzImage nor an ELF file; give --kernel one of them"

ParameterizedTestParameters(boot_bzimage, a_bad_file_is_refused_with_its_reason)
{
    static struct bad_row rows[] = {
        {0x1fe, 2, 0, 0, MON_E_KERNEL, NO_KERNEL},
        {0x202, 4, 0, 0, MON_E_KERNEL, NO_KERNEL},
        {0, 0, 0, 1, MON_E_KERNEL, NO_KERNEL},
        {0, 0, 0, 0x201, MON_E_KERNEL, NO_KERNEL},
        {0, 0, 0, 0x3ff, MON_E_KERNEL, NO_KERNEL},
        {0, 0, 0, SETUP, MON_E_KERNEL,
         "dir/kernel: truncated: its header says 10752 bytes, the file has 2560; copy it again"},
        {0, 0, 0, SETUP + BODY - 16, MON_E_KERNEL,
         "dir/kernel: truncated: its header says 10752 bytes, the file has 10736; copy it again"},
        {0x1f4, 4, 0xffffffff, 0, MON_E_KERNEL,
         "dir/kernel: truncated: its header says 68719479280 bytes, the file has 10752; copy it "
         "again"},
        {0x1f1, 1, 0xff, 0, MON_E_KERNEL,
         "dir/kernel: truncated: its header says 139264 bytes, the file has 10752; copy it again"},
        {0x206, 2, 0x0201, 0, MON_E_KERNEL,
         "dir/kernel: boot protocol 2.01 is too old; novt needs 2.02 or newer (Linux 2.4)"},
        {0x211, 1, 0, 0, MON_E_KERNEL,
         "dir/kernel: a zImage that loads below 1 MiB; build it as a bzImage"},
        {0x260, 4, 0x40000000, 0, MON_E_MEMORY,
         "dir/kernel: this kernel needs memory up to 1041 MiB to start, the guest has 64 MiB; give "
         "more with --memory"},
        {0x25c, 4, 0xffffffff, 0, MON_E_MEMORY,
         "dir/kernel: this kernel needs memory up to 17592186040345 MiB to start, the guest has 64 "
         "MiB; give more with --memory"},
        {0x238, 4, 3, 0, MON_E_USAGE,
         "the command line has 19 bytes, but kernel takes 3; shorten --append"},
    };
    return cr_make_param_array(struct bad_row, rows, sizeof(rows) / sizeof(rows[0]));
}

ParameterizedTest(struct bad_row *row, boot_bzimage, a_bad_file_is_refused_with_its_reason)
{
    for (unsigned i = 0; i < row->bytes; i++)
        f.file[row->offset + i] = (uint8_t)(row->value >> 8 * i);
    if (row->size)
        f.boot.kernel.size = row->size;
    cr_assert_eq(boot_fixture_load(&f), row->status);
    cr_assert_str_eq(f.err.text, row->message);
}

Test(boot_bzimage, an_initrd_without_room_is_refused)
{
    boot_fixture_add_initrd(&f);
    mon_put32(f.file + 0x22c, 24 * MiB); /* the kernel needs all up to there */
    cr_assert_eq(boot_fixture_load(&f), MON_E_MEMORY);
    cr_assert_str_eq(f.err.text,
                     "dir/initrd.gz: the initrd (8 KiB) does not fit between the kernel's end "
                     "(24576 KiB) and 24576 KiB; give more with --memory");
}

/* Every one-byte corruption and every truncation of the header gives success or a sentence. */
Test(boot_bzimage, no_corruption_of_the_header_escapes, .timeout = 60)
{
    static const uint8_t values[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
    for (unsigned at = 0x1f0; at < 0x270; at++)
        for (unsigned i = 0; i < sizeof(values); i++) {
            uint8_t good = f.file[at];
            f.file[at] = values[i];
            if (boot_fixture_load(&f) != MON_OK)
                boot_fixture_check_message(&f);
            f.file[at] = good;
        }
    for (size_t size = 0; size < SETUP + BODY; size += 13) {
        f.boot.kernel.size = size;
        if (boot_fixture_load(&f) != MON_OK)
            boot_fixture_check_message(&f);
    }
}
