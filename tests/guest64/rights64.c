/* rights64.c - 4-level paging: every combination of U/S, R/W and XD at all four levels, in every
 * mode of the checks.
 *
 * SDM 3A 4.6 (access rights: CR0.WP, CR4.SMEP, CR4.SMAP, RFLAGS.AC), 4.7 (error codes), 4.8
 * (accessed bits at all levels, dirty bits at the last one, set by writes only). A read, a fetch
 * and a write with each of 4,096 sets of entries, at CPL 0 and 3. */
#include "guest64.h"

const char guest_name[] = "rights64";

enum { DATA = 0x2000000 };

static uint64_t *root;

static uint64_t user_bit(void)
{
    return pass_cs == UCODE ? 4 : 0;
}

/* CR0.WP, CR4.SMEP and CR4.SMAP, with and without RFLAGS.AC. */
enum { WITH_WP = 1, WITH_SMEP = 2, WITH_SMAP = 4, WITH_AC = 8 };

struct page {
    bool user, writable, nx;
};

static bool may_read(const struct page *page, uint32_t mode)
{
    if (pass_cs == UCODE)
        return page->user;
    return !page->user || !(mode & WITH_SMAP) || (mode & WITH_AC);
}

static bool may_write(const struct page *page, uint32_t mode)
{
    if (!may_read(page, mode))
        return false;
    return page->writable || (pass_cs == KCODE && !(mode & WITH_WP));
}

static bool may_run(const struct page *page, uint32_t mode)
{
    if (pass_cs == UCODE)
        return page->user && !page->nx;
    return !page->nx && !(page->user && (mode & WITH_SMEP));
}

/* Bit k of the masks is level k + 1's. */
static void set_levels(uint64_t at, uint32_t user, uint32_t writable, uint32_t nx)
{
    for (int level = 1; level < 5; level++) {
        uint64_t *e = entry(root, at, level);
        uint32_t bit = 1u << (level - 1);
        *e = (*e & ~(W | U | NX | A | DIRTY)) | (user & bit ? U : 0) | (writable & bit ? W : 0) |
             (nx & bit ? NX : 0);
    }
}

static void check_access(const struct snip *snip, bool allowed, uint64_t error, uint32_t n)
{
    go(snip);
    CHECK(out.vector, allowed ? DONE : PF, "access", n);
    if (!allowed)
        CHECK(out.error, error | 1 | user_bit(), "error code", n);
}

static void check_page(uint64_t at, const struct page *page, uint32_t mode, uint32_t n)
{
    const struct snip *read = CODE("mov rbx, [rsi + 64]"), *write = CODE("mov [rsi + 128], rbx"),
                      *run = CODE("jmp rsi");
    bool reads = may_read(page, mode), writes = may_write(page, mode), runs = may_run(page, mode);

    check_access(read, reads, 0, n);
    CHECK(*entry(root, at, 1) & DIRTY, 0, "dirty after a read", n);
    check_access(run, runs, 0x10, n);
    CHECK(*entry(root, at, 1) & DIRTY, 0, "dirty after a fetch", n);
    check_access(write, writes, 2, n);
    CHECK(*entry(root, at, 1) & DIRTY, writes ? DIRTY : 0, "dirty after a write", n);
    for (int level = 1; level < 5 && (reads || writes || runs); level++)
        CHECK(*entry(root, at, level) & A, A, "accessed", n);
}

static void rights_matrix(void)
{
    const bool smap = cpuid(7, 0).ebx >> 20 & 1, smep = cpuid(7, 0).ebx >> 7 & 1;
    const uint64_t at = 0x123440000000, base = pass_base, cr4 = read_cr4(), cr0 = read_cr0();

    write_cr3(addr(pml4));
    frames_reset();
    root = space_new();
    map(root, at, DATA, P | W | U);
    memcpy((void *)DATA, (const uint8_t[]){0xcd, 0xff}, 2); /* int DONE */
    if (pass_cs == KCODE && !pass_base)
        pass_base = DIRECT; /* the snippets are on supervisor pages */
    for (uint32_t mode = 0; mode < 16; mode++) {
        if (((mode & WITH_SMAP) && !smap) || ((mode & WITH_SMEP) && !smep) ||
            (pass_cs == UCODE && (mode & (WITH_SMAP | WITH_AC))) ||
            ((mode & WITH_AC) && !(mode & WITH_SMAP)))
            continue;
        write_cr0(mode & WITH_WP ? cr0 | CR0_WP : cr0 & ~(uint64_t)CR0_WP);
        write_cr4(cr4 | (mode & WITH_SMEP ? CR4_SMEP : 0) | (mode & WITH_SMAP ? CR4_SMAP : 0));
        for (uint32_t n = 0; n < 4096; n++) {
            uint32_t user = n & 15, writable = n >> 4 & 15, nx = n >> 8;
            const struct page page = {user == 15, writable == 15, nx != 0};
            set_levels(at, user, writable, nx);
            write_cr3(addr(root));
            IN(.cs = pass_cs, .rsi = at, .rflags = mode & WITH_AC ? ACF : 0);
            check_page(at, &page, mode, n | mode << 12);
        }
    }
    write_cr4(cr4);
    write_cr0(cr0);
    pass_base = base;
}

void guest_main(void)
{
    GROUP(rights_matrix);
}
