/* boot_elf_test.c - ELF kernels by PVH and Multiboot: what they find, and files that lie. */
#include "tests/unit/boot_fixture.h"

#include "monitor/boot/elf.h"

#include <criterion/parameterized.h>
#include <elf.h>

enum { MiB = 1 << 20, NOTES = 0x800, CODE = 0x1000, CODE_SIZE = 0x1800, MEM_SIZE = 0x3000 };
enum { INFO = MON_BOOT_INFO, LOAD = 0x200000, VIRTUAL = 0x40000000 };

static struct boot_fixture f;

static void put_phdr(unsigned index, bool is_64, uint32_t type, uint32_t offset, uint32_t paddr,
                     uint32_t filesz, uint32_t memsz)
{
    if (is_64) {
        Elf64_Phdr p = {.p_type = type,
                        .p_offset = offset,
                        .p_vaddr = paddr + VIRTUAL,
                        .p_paddr = paddr,
                        .p_filesz = filesz,
                        .p_memsz = memsz};
        memcpy(f.file + sizeof(Elf64_Ehdr) + index * sizeof(p), &p, sizeof(p));
    } else {
        Elf32_Phdr p = {.p_type = type,
                        .p_offset = offset,
                        .p_vaddr = paddr + VIRTUAL,
                        .p_paddr = paddr,
                        .p_filesz = filesz,
                        .p_memsz = memsz};
        memcpy(f.file + sizeof(Elf32_Ehdr) + index * sizeof(p), &p, sizeof(p));
    }
}

/* One segment at 2 MiB with a bss, and an empty note segment. */
static void make_elf(bool is_64)
{
    memset(f.file, 0, sizeof(f.file));
    if (is_64) {
        Elf64_Ehdr h = {.e_type = ET_EXEC,
                        .e_machine = EM_X86_64,
                        .e_entry = VIRTUAL + LOAD + 16,
                        .e_phoff = sizeof(h),
                        .e_phentsize = sizeof(Elf64_Phdr),
                        .e_phnum = 2};
        memcpy(f.file, &h, sizeof(h));
    } else {
        Elf32_Ehdr h = {.e_type = ET_EXEC,
                        .e_machine = EM_386,
                        .e_entry = VIRTUAL + LOAD + 16,
                        .e_phoff = sizeof(h),
                        .e_phentsize = sizeof(Elf32_Phdr),
                        .e_phnum = 2};
        memcpy(f.file, &h, sizeof(h));
    }
    memcpy(f.file, ELFMAG, 4);
    f.file[EI_CLASS] = is_64 ? ELFCLASS64 : ELFCLASS32;
    f.file[EI_DATA] = ELFDATA2LSB;
    put_phdr(0, is_64, PT_LOAD, CODE, LOAD, CODE_SIZE, MEM_SIZE);
    put_phdr(1, is_64, PT_NOTE, NOTES, 0, 0x40, 0x40);
    for (unsigned i = 0; i < CODE_SIZE; i++)
        f.file[CODE + i] = (uint8_t)(i * 5 + 3);
    f.boot.kernel.size = CODE + CODE_SIZE;
}

/* Another note first, then the PVH entry at 2 MiB + 20h. */
static void add_pvh_note(uint32_t descsz)
{
    uint8_t *n = f.file + NOTES;
    mon_put32(n, 4);
    mon_put32(n + 4, 5);
    mon_put32(n + 8, 1);
    memcpy(n + 12, "GNU", 4);
    n += 12 + 4 + 8;
    mon_put32(n, 4);
    mon_put32(n + 4, descsz);
    mon_put32(n + 8, 18);
    memcpy(n + 12, "Xen", 4);
    mon_put32(n + 16, LOAD + 0x20);
}

static void add_multiboot_header(uint32_t flags)
{
    uint8_t *h = f.file + CODE + 0x40;
    mon_put32(h, 0x1badb002);
    mon_put32(h + 4, flags);
    mon_put32(h + 8, 0u - 0x1badb002 - flags);
}

static void setup(void)
{
    boot_fixture_start(&f, 64 * MiB);
    make_elf(false);
}

static void teardown(void)
{
    mon_ram_destroy(&f.ram);
}

TestSuite(boot_elf, .init = setup, .fini = teardown, .timeout = 10);

static void check_loaded(void)
{
    cr_assert_eq(memcmp(guest(&f, LOAD), f.file + CODE, CODE_SIZE), 0);
    for (unsigned i = CODE_SIZE; i < MEM_SIZE; i++)
        cr_assert_eq(*guest(&f, LOAD + i), 0);
}

struct pvh_row {
    int is_64;
    uint32_t descsz;
};

ParameterizedTestParameters(boot_elf, pvh_kernels_find_their_start_info)
{
    static struct pvh_row rows[] = {{0, 4}, {1, 8}, {1, 4}, {0, 8}};
    return cr_make_param_array(struct pvh_row, rows, 4);
}

ParameterizedTest(struct pvh_row *row, boot_elf, pvh_kernels_find_their_start_info)
{
    make_elf(row->is_64);
    add_pvh_note(row->descsz);
    boot_fixture_add_initrd(&f);
    memset(guest(&f, LOAD), 0xff, MEM_SIZE);
    cr_assert_eq(boot_fixture_load(&f), MON_OK, "%s", f.err.text);
    cr_assert_eq(f.entry.eip, LOAD + 0x20);
    cr_assert_eq(f.entry.ebx, INFO);
    check_loaded();

    const uint8_t *info = guest(&f, INFO);
    cr_assert_eq(mon_get32(info), 0x336ec578);
    cr_assert_eq(mon_get32(info + 4), 1);
    cr_assert_str_eq((char *)guest(&f, mon_get64(info + 24)), "console=ttyS0 quiet");
    cr_assert_eq(memcmp(guest(&f, mon_get64(info + 32)), "RSD PTR ", 8), 0);
    cr_assert_eq(mon_get32(info + 12), 1);
    const uint8_t *module = guest(&f, mon_get64(info + 16));
    cr_assert_eq(mon_get64(module), 64 * MiB - 8192);
    cr_assert_eq(mon_get64(module + 8), 8192);
    cr_assert_eq(mon_get32(info + 48), 4);
    const uint8_t *last = guest(&f, mon_get64(info + 40)) + 3 * 24;
    cr_assert_eq(mon_get64(last), MiB);
    cr_assert_eq(mon_get64(last + 8), 63 * MiB);
    cr_assert_eq(mon_get32(last + 16), 1);
}

Test(boot_elf, without_an_initrd_there_is_no_module)
{
    add_pvh_note(4);
    cr_assert_eq(boot_fixture_load(&f), MON_OK);
    cr_assert_eq(mon_get32(guest(&f, INFO) + 12), 0);
    make_elf(false);
    add_multiboot_header(0);
    cr_assert_eq(boot_fixture_load(&f), MON_OK);
    cr_assert_eq(mon_get32(guest(&f, INFO) + 20), 0);
}

struct multiboot_row {
    int is_64;
    uint32_t flags;
};

ParameterizedTestParameters(boot_elf, multiboot_kernels_find_their_information)
{
    static struct multiboot_row rows[] = {{0, 0}, {0, 3}, {0, 7}, {1, 3}};
    return cr_make_param_array(struct multiboot_row, rows, 4);
}

ParameterizedTest(struct multiboot_row *row, boot_elf, multiboot_kernels_find_their_information)
{
    make_elf(row->is_64);
    add_multiboot_header(row->flags);
    boot_fixture_add_initrd(&f);
    cr_assert_eq(boot_fixture_load(&f), MON_OK, "%s", f.err.text);
    cr_assert_eq(f.entry.eip, LOAD + 16); /* the physical address of e_entry */
    cr_assert_eq(f.entry.eax, 0x2badb002);
    check_loaded();

    const uint8_t *info = guest(&f, f.entry.ebx);
    cr_assert_eq(mon_get32(info), 0x24d);
    cr_assert_eq(mon_get32(info + 4), 639);
    cr_assert_eq(mon_get32(info + 8), 63 * 1024);
    cr_assert_str_eq((char *)guest(&f, mon_get32(info + 16)), "kernel console=ttyS0 quiet");
    cr_assert_str_eq((char *)guest(&f, mon_get32(info + 64)), "novt");
    const uint8_t *module = guest(&f, mon_get32(info + 24));
    cr_assert_eq(mon_get32(module), 64 * MiB - 8192);
    cr_assert_eq(mon_get32(module + 4), 64 * MiB);
    cr_assert_str_eq((char *)guest(&f, mon_get32(module + 8)), "initrd.gz");
    cr_assert_eq(mon_get32(info + 44), 4 * 24);
    const uint8_t *row1 = guest(&f, mon_get32(info + 48)) + 24;
    cr_assert_eq(mon_get32(row1), 20);
    cr_assert_eq(mon_get64(row1 + 4), 0x9fc00);
    cr_assert_eq(mon_get32(row1 + 20), 2);
}

Test(boot_elf, a_multiboot_header_with_addresses_overrides_the_elf)
{
    uint8_t *h = f.file + CODE + 0x40;
    add_multiboot_header(1 << 16);
    mon_put32(h + 12, 0x300040); /* header */
    mon_put32(h + 16, 0x300000);
    mon_put32(h + 20, 0x300000 + CODE_SIZE);
    mon_put32(h + 24, 0x304000);
    mon_put32(h + 28, 0x300123);
    memset(guest(&f, 0x300000), 0xff, 0x4000);
    cr_assert_eq(boot_fixture_load(&f), MON_OK, "%s", f.err.text);
    cr_assert_eq(f.entry.eip, 0x300123);
    cr_assert_eq(memcmp(guest(&f, 0x300000), f.file + CODE, CODE_SIZE), 0);
    cr_assert_eq(*guest(&f, 0x303fff), 0);
}

Test(boot_elf, pvh_comes_before_multiboot)
{
    add_pvh_note(4);
    add_multiboot_header(0);
    cr_assert_eq(boot_fixture_load(&f), MON_OK);
    cr_assert_eq(f.entry.eip, LOAD + 0x20);
}

struct bad_row {
    uint32_t offset, bytes;
    uint32_t value;
    uint32_t size; /* cut to; 0: not */
    int status;
    char message[200];
};

enum { PHDR = sizeof(Elf32_Ehdr) };
#define MALFORMED "dir/kernel: malformed ELF file: "
#define AGAIN     "; copy or build it again"

ParameterizedTestParameters(boot_elf, a_bad_file_is_refused_with_its_reason)
{
    static struct bad_row rows[] = {
        {0, 0, 0, 4, MON_E_KERNEL, MALFORMED "it ends within its header" AGAIN},
        {0, 0, 0, 40, MON_E_KERNEL, MALFORMED "it ends within its header" AGAIN},
        {EI_CLASS, 1, 3, 0, MON_E_KERNEL, MALFORMED "its class is neither 32 nor 64 bits" AGAIN},
        {EI_DATA, 1, 2, 0, MON_E_KERNEL, MALFORMED "it is big-endian" AGAIN},
        {18, 2, 40, 0, MON_E_KERNEL, "dir/kernel: built for machine 40; novt runs x86 kernels"},
        {16, 2, 3, 0, MON_E_KERNEL,
         "dir/kernel: ELF type 3 is no executable; link it with -no-pie"},
        {44, 2, 0, 0, MON_E_KERNEL,
         MALFORMED "its program header table has an impossible size" AGAIN},
        {44, 2, 0xffff, 0, MON_E_KERNEL,
         MALFORMED "its program header table has an impossible size" AGAIN},
        {42, 2, 8, 0, MON_E_KERNEL,
         MALFORMED "its program header table has an impossible size" AGAIN},
        {28, 4, 0xfffffff0, 0, MON_E_KERNEL,
         MALFORMED "its program headers lie beyond its end" AGAIN},
        {0, 0, 0, CODE + 100, MON_E_KERNEL,
         MALFORMED "a segment lies beyond its end (truncated?)" AGAIN},
        {PHDR + 4, 4, 0xfffff000, 0, MON_E_KERNEL,
         MALFORMED "a segment lies beyond its end (truncated?)" AGAIN},
        {PHDR + 20, 4, 0x100, 0, MON_E_KERNEL,
         MALFORMED "a segment is larger in the file than in memory" AGAIN},
        {PHDR + 20, 4, 0xfffff000, 0, MON_E_MEMORY,
         "dir/kernel: its 4294963200 bytes at 200000h are beyond the guest's memory (64 MiB); give "
         "more with --memory"},
        {PHDR + 12, 4, 0xc0000000, 0, MON_E_MEMORY,
         "dir/kernel: its 12288 bytes at c0000000h are beyond the guest's memory (64 MiB); give "
         "more with --memory"},
        {PHDR + 12, 4, 0x8f000, 0, MON_E_KERNEL,
         "dir/kernel: its 12288 bytes at 8f000h overlap the boot information at 90000h; link it "
         "elsewhere, as at 1 MiB"},
        {PHDR + 12, 4, 0xe0000, 0, MON_E_KERNEL,
         "dir/kernel: its 12288 bytes at e0000h overlap the firmware's memory; link it elsewhere, "
         "as at 1 MiB"},
        {NOTES + 24 + 4, 4, 0xffffffff, 0, MON_E_KERNEL,
         "dir/kernel: an ELF file with neither a PVH entry note nor a Multiboot header; for Linux "
         "give the bzImage (vmlinuz)"},
        {NOTES, 4, 0xffffffff, 0, MON_E_KERNEL,
         "dir/kernel: an ELF file with neither a PVH entry note nor a Multiboot header; for Linux "
         "give the bzImage (vmlinuz)"},
    };
    return cr_make_param_array(struct bad_row, rows, sizeof(rows) / sizeof(rows[0]));
}

ParameterizedTest(struct bad_row *row, boot_elf, a_bad_file_is_refused_with_its_reason)
{
    add_pvh_note(4);
    for (unsigned i = 0; i < row->bytes; i++)
        f.file[row->offset + i] = (uint8_t)(row->value >> 8 * i);
    if (row->size)
        f.boot.kernel.size = row->size;
    cr_assert_eq(boot_fixture_load(&f), row->status, "%s", f.err.text);
    cr_assert_str_eq(f.err.text, row->message);
}

struct bad_multiboot_row {
    uint32_t flags;
    uint32_t fields[5];
    int status;
    char message[160];
};

ParameterizedTestParameters(boot_elf, a_bad_multiboot_header_is_refused)
{
    static struct bad_multiboot_row rows[] = {
        {0x8,
         {0},
         MON_E_KERNEL,
         "dir/kernel: its Multiboot header requires features 0008h, which novt lacks"},
        {1 << 16,
         {0x300000, 0x300040, 0, 0, 0},
         MON_E_KERNEL,
         "dir/kernel: the addresses in its Multiboot header contradict each other"},
        {1 << 16,
         {0x302000, 0x300000, 0, 0, 0},
         MON_E_KERNEL,
         "dir/kernel: the addresses in its Multiboot header contradict each other"},
        {1 << 16,
         {0x300040, 0x300000, 0x200000, 0, 0},
         MON_E_KERNEL,
         "dir/kernel: the addresses in its Multiboot header contradict each other"},
        {1 << 16,
         {0x300040, 0x300000, 0x900000, 0, 0},
         MON_E_KERNEL,
         "dir/kernel: truncated: its Multiboot header asks for 6291456 bytes at 4096"},
        {1 << 16,
         {0x300040, 0x300000, 0, 0xffffffff, 0},
         MON_E_MEMORY,
         "dir/kernel: its 4291821567 bytes at 300000h are beyond the guest's memory (64 MiB); give "
         "more with --memory"},
    };
    return cr_make_param_array(struct bad_multiboot_row, rows, sizeof(rows) / sizeof(rows[0]));
}

ParameterizedTest(struct bad_multiboot_row *row, boot_elf, a_bad_multiboot_header_is_refused)
{
    add_multiboot_header(row->flags);
    for (unsigned i = 0; i < 5; i++)
        mon_put32(f.file + CODE + 0x40 + 12 + 4 * i, row->fields[i]);
    cr_assert_eq(boot_fixture_load(&f), row->status, "%s", f.err.text);
    cr_assert_str_eq(f.err.text, row->message);
}

Test(boot_elf, a_multiboot_header_needs_its_checksum)
{
    add_multiboot_header(0);
    f.file[CODE + 0x48] ^= 1;
    cr_assert_eq(boot_fixture_load(&f), MON_E_KERNEL);
    boot_fixture_check_message(&f);
}

/* Every one-byte corruption of headers and notes gives success or a sentence. */
Test(boot_elf, no_corruption_of_the_headers_escapes, .timeout = 60)
{
    static const uint8_t values[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
    for (unsigned pass = 0; pass < 2; pass++) {
        make_elf(pass);
        add_pvh_note(4);
        for (unsigned at = 4; at < NOTES + 0x40; at = at == 0xf0 ? NOTES : at + 1)
            for (unsigned i = 0; i < sizeof(values); i++) {
                uint8_t good = f.file[at];
                f.file[at] = values[i];
                if (boot_fixture_load(&f) != MON_OK)
                    boot_fixture_check_message(&f);
                f.file[at] = good;
            }
        for (size_t size = 0; size < CODE + CODE_SIZE; size += 11) {
            f.boot.kernel.size = size;
            if (boot_fixture_load(&f) != MON_OK)
                boot_fixture_check_message(&f);
        }
    }
}
