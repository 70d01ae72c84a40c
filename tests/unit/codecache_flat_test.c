/* Jump tables of 32-bit code: an entry for every pc, memory for few. */
#include "tests/unit/codecache_fixture.h"

#include <criterion/criterion.h>
#include <stdio.h>

static void **table, **flat;

static void setup(void)
{
    cache_setup();
    table = cc_table_new(&cc);
    flat = cc_table_flat(table);
    cr_assert_not_null(flat);
}

static void teardown(void)
{
    cc_table_free(table);
    cache_teardown();
}

TestSuite(codecache_flat, .init = setup, .fini = teardown, .timeout = 60);

static void *at(uint64_t pc)
{
    return cc_table_at(&cc, table, pc, false);
}

static void put(uint64_t pc)
{
    struct cc_block b = {.pc = pc, .host = 16};
    cc_table_set(&cc, table, &b);
}

Test(codecache_flat, every_pc_has_an_entry_of_its_own)
{
    static const uint64_t pc[] = {0, 1, 0x40000, 0x80000, 0xc0100123, 0xffffffff};

    for (unsigned i = 0; i < 6; i++) {
        cr_expect_eq(at(pc[i]), miss);
        put(pc[i]);
        cr_expect_eq(at(pc[i]), cc.rx + 16);
        cr_expect_eq(flat[pc[i]], cc.rx + 16, "what translated code reads");
    }
    cr_expect_eq(at(0x100123), miss);
    cr_expect_eq(flat[2], miss, "a neighbour");
    cr_expect_eq(cc_table_flat(table), flat, "it is made once");
}

Test(codecache_flat, clearing_takes_the_entries_of_few_pages_and_of_many)
{
    for (unsigned n = 1; n <= 4096; n *= 4) {
        for (unsigned i = 0; i < n; i++)
            put(i * 0x12345u);
        cc_table_clear(&cc, table);
        for (unsigned i = 0; i < n; i++)
            cr_assert_eq(at(i * 0x12345u), miss);
    }
}

Test(codecache_flat, clearing_a_page_takes_its_entries_only)
{
    static const uint64_t pc[] = {0xc0102fff, 0xc0103000, 0xc0103fff, 0xc0104000};

    for (unsigned i = 0; i < 4; i++)
        put(pc[i]);
    cc_table_clear_page(&cc, table, 0x103000);
    cr_expect_eq(at(pc[1]), cc.rx + 16, "another page with the same low bits");
    cc_table_clear_page(&cc, table, 0xc0103abc);
    cr_expect_eq(at(pc[0]), cc.rx + 16);
    cr_expect_eq(at(pc[1]), miss);
    cr_expect_eq(at(pc[2]), miss);
    cr_expect_eq(at(pc[3]), cc.rx + 16);
    cc_table_forget(&cc, table, pc[0]);
    cr_expect_eq(at(pc[0]), miss);
    cr_expect_eq(at(pc[3]), cc.rx + 16);
}

Test(codecache_flat, code_everywhere_takes_bounded_memory)
{
    FILE *f;
    unsigned long pages, resident, before;

    for (unsigned round = 0; round < 2; round++) {
        before = round ? resident : 0;
        for (uint64_t pc = 0; pc < 1ull << 32; pc += 0x9000)
            put(pc);
        f = fopen("/proc/self/statm", "re");
        cr_assert_eq(fscanf(f, "%lu %lu", &pages, &resident), 2);
        fclose(f);
    }
    cr_expect_lt(resident, before + 8192, "%lu pages, then %lu", before, resident);
    put(0x1234);
    cr_expect_eq(at(0x1234), cc.rx + 16);
}
