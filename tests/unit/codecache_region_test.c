/* Executable memory: reservations, the two views, jump tables. */
#include "tests/unit/codecache_fixture.h"

#include <stdio.h>

TestSuite(codecache_region, .init = cache_setup, .fini = cache_teardown, .timeout = 30);

Test(codecache_region, what_is_written_in_one_view_is_in_the_other)
{
    uint8_t *rw = cc_reserve(&cc, 100);

    memset(rw, 0x5a, 100);
    uint8_t *rx = cc_commit(&cc, 100);
    cr_expect_neq(rx, rw);
    cr_expect_eq(cc_rw(&cc, rx), rw);
    cr_expect_eq(rx[99], 0x5a);
    cr_expect(cc_contains(&cc, rx));
    cr_expect(!cc_contains(&cc, rw));
    cr_expect(!cc_contains(&cc, cc.rx + cc.size));
}

/* /proc/self/maps is the proof: no page of the cache is writable and executable. */
Test(codecache_region, no_view_is_writable_and_executable)
{
    FILE *f = fopen("/proc/self/maps", "r");
    char line[512], rights[8];
    unsigned views = 0;

    while (fgets(line, sizeof(line), f)) {
        unsigned long lo;
        if (!strstr(line, "novt-code") || sscanf(line, "%lx-%*x %7s", &lo, rights) != 2)
            continue;
        views++;
        cr_expect(!(rights[1] == 'w' && rights[2] == 'x'), "%s", line);
        cr_expect_eq(rights[2] == 'x', lo == (unsigned long)cc.rx, "%s", line);
    }
    fclose(f);
    cr_expect_eq(views, 2);
}

Test(codecache_region, an_aborted_reservation_leaves_no_trace)
{
    size_t used = cc.used;
    uint8_t *first = cc_reserve(&cc, 4096);

    cc_abort(&cc);
    cr_expect_eq(cc.used, used);
    cr_expect_eq(cc_reserve(&cc, 16), first);
}

Test(codecache_region, commits_are_aligned_and_follow_each_other)
{
    cc_reserve(&cc, 4096);
    uint8_t *a = cc_commit(&cc, 1);
    cc_reserve(&cc, 4096);
    uint8_t *b = cc_commit(&cc, 17);
    cc_reserve(&cc, 4096);
    uint8_t *c = cc_commit(&cc, 16);

    cr_expect_eq(b - a, 16);
    cr_expect_eq(c - b, 32);
    cr_expect_eq((uintptr_t)a % 16, 0);
}

Test(codecache_region, a_full_region_refuses_and_a_flush_makes_room)
{
    unsigned n = 0;

    while (cc_reserve(&cc, 4096)) {
        cc_commit(&cc, 4096);
        n++;
    }
    cr_expect_eq(n, (cc.main_size - cc.start) / 4096);
    cr_expect_null(cc_reserve(&cc, 4096), "a refusal holds no reservation");
    cc_flush(&cc);
    cr_expect_eq(cc.used, cc.start);
    cr_expect_not_null(cc_reserve(&cc, 4096));
}

Test(codecache_region, the_last_byte_can_be_used)
{
    cr_expect_not_null(cc_reserve(&cc, cc.main_size - cc.used));
    cc_commit(&cc, cc.main_size - cc.used);
    cr_expect_eq(cc.used, cc.main_size);
    cr_expect_null(cc_reserve(&cc, 1));
}

Test(codecache_region, a_new_cache_fails_cleanly_without_memory)
{
    struct cc other = {0};

    cr_expect_lt(cc_create(&other, 1ull << 62, MAX_GPA), 0);
}

/* ---- jump tables ---- */

static unsigned entries_other_than_miss(void *const *table)
{
    unsigned n = 0;
    for (unsigned i = 0; i < CC_TABLE_ENTRIES; i++)
        n += table[i] != miss;
    return n;
}

static void put(void **table, uint64_t pc)
{
    struct cc_block b = {.pc = pc, .host = 16, .wide = true};
    cc_table_set(&cc, table, &b);
}

Test(codecache_region, clearing_a_table_takes_entries_of_few_pages_and_of_many)
{
    void **table = cc_table_new(&cc);

    for (unsigned pages = 1; pages <= CC_TABLE_PAGES; pages *= 2) {
        for (unsigned i = 0; i < pages; i++)
            put(table, i * 512u + i % 512);
        cr_expect_eq(entries_other_than_miss(table), pages);
        cc_table_clear(&cc, table);
        cr_expect_eq(entries_other_than_miss(table), 0);
    }
    cc_table_free(table);
}

Test(codecache_region, a_new_table_leads_to_the_miss_stub_everywhere)
{
    void **table = cc_table_new(&cc);

    cr_assert_not_null(table);
    cr_expect_eq(entries_other_than_miss(table), 0);
    cc_table_free(table);
}

Test(codecache_region, tables_are_private_and_clearing_takes_all_entries)
{
    void **a = cc_table_new(&cc), **b = cc_table_new(&cc);

    put(a, 0);
    put(a, 0x1234);
    put(a, 0xffff);
    cr_expect_eq(entries_other_than_miss(b), 0);
    cr_expect_eq(entries_other_than_miss(cc.miss_table), 0);
    cr_expect_eq(entries_other_than_miss(a), 3);
    cc_table_clear(&cc, a);
    cr_expect_eq(entries_other_than_miss(a), 0);
    put(a, 5); /* and it can be used again */
    cr_expect_eq(entries_other_than_miss(a), 1);
    cc_table_free(a);
    cc_table_free(b);
}

Test(codecache_region, clearing_a_page_takes_its_4096_entries_only)
{
    static const uint64_t at[] = {0x2fff, 0x3000, 0x3abc, 0x3fff, 0x4000};
    void **table = cc_table_new(&cc);

    for (unsigned i = 0; i < 5; i++)
        put(table, at[i]);
    cc_table_clear_page(&cc, table, 0xc0103000ull);
    cr_expect_eq(entries_other_than_miss(table), 2);
    cr_expect_eq(table[0x2fff], cc.rx + 16);
    cr_expect_eq(table[0x4000], cc.rx + 16);
    cc_table_free(table);
}

Test(codecache_region, a_block_goes_to_the_slot_of_its_low_16_bits)
{
    void **table = cc_table_new(&cc);
    struct cc_block *b = add_block(0x345678);
    b->wide = true;

    cc_table_set(&cc, table, b);
    cr_expect_eq(table[0x5678], cc.rx + b->host);
    cr_expect_eq(entries_other_than_miss(table), 1);
    cc_table_free(table);
}
