/* Entries of 64-bit jump tables that have lost their slot to another pc. */
#include "tests/unit/codecache_fixture.h"

#define SLOTS (CC_TABLE_ENTRIES * 1ull) /* pcs so far apart share one */

static void **table;

static void setup(void)
{
    cache_setup();
    table = cc_table_new(&cc);
    cr_assert_not_null(table);
}

static void teardown(void)
{
    cc_table_free(table);
    cache_teardown();
}

TestSuite(codecache_victim, .init = setup, .fini = teardown, .timeout = 60);

static struct cc_block *put(uint64_t pc)
{
    struct cc_block *b = add_block_at(pc, pc & 0xffff, CC_NO_GPA, 8, 0, 0, NULL);

    cr_assert_not_null(b);
    b->wide = true;
    cc_table_set(&cc, table, b);
    return b;
}

/* The victim with that pc, wherever it is; NULL: there is none. */
static const struct cc_victim *victim(uint64_t pc)
{
    const struct cc_victim *found = NULL;

    for (unsigned i = 0; i < CC_VICTIMS; i++) {
        const struct cc_victim *at = &cc_victims(table)[i];
        if (at->pc == pc && at->hpc != cc.closed_stub)
            found = at;
    }
    return found;
}

static unsigned victims(void)
{
    unsigned n = 0;

    for (unsigned i = 0; i < CC_VICTIMS; i++)
        n += cc_victims(table)[i].hpc != cc.closed_stub;
    return n;
}

Test(codecache_victim, two_pcs_with_one_slot_both_have_a_second_place)
{
    const struct cc_block *a = put(0x1234), *b;

    cr_expect_null(cc_table_other(&cc, table, 0x1234));
    cr_expect_eq(cc_table_other(&cc, table, 0x1234 + SLOTS), a);
    cr_expect_eq(victims(), 0, "as long as it is alone");
    b = put(0x1234 + SLOTS);
    put(0x1235);
    cr_expect_eq(cc_table_at(&cc, table, 0x1234, true), cc.rx + b->host);
    cr_expect_eq(victims(), 2);
    cr_assert(victim(a->pc) && victim(b->pc));
    cr_expect_eq(victim(a->pc)->hpc, cc.rx + a->host);
    cr_expect_eq(victim(b->pc)->hpc, cc.rx + b->host);
}

Test(codecache_victim, a_new_block_for_a_pc_takes_the_place_of_the_old_one)
{
    put(0x1234);
    put(0x1234 + SLOTS);
    const struct cc_block *again = put(0x1234 + SLOTS);

    cr_assert(victim(again->pc));
    cr_expect_eq(victim(again->pc)->hpc, cc.rx + again->host);
    cr_expect_eq(victims(), 2);
}

Test(codecache_victim, they_go_by_page_by_pc_and_with_the_table)
{
    for (unsigned page = 1; page <= 40; page++) {
        put(page * 4096ull + 8);
        put(page * 4096ull + 8 + SLOTS);
    }
    cr_assert_eq(victims(), 80, "no two of these have the same place");
    cc_table_clear_page(&cc, table, 3 * 4096 + SLOTS);
    cr_expect_eq(victims(), 79);
    cr_expect_null(victim(3 * 4096 + 8 + SLOTS));
    cr_expect(victim(3 * 4096 + 8));
    cc_table_forget(&cc, table, 5 * 4096 + 8);
    cr_expect_eq(victims(), 78);
    cr_expect_null(victim(5 * 4096 + 8));
    cc_table_clear(&cc, table);
    cr_expect_eq(victims(), 0, "of many pages");
    put(4096);
    put(4096 + SLOTS);
    cc_table_clear(&cc, table);
    cr_expect_eq(victims(), 0, "of few");
    put(8);
    put(8 + SLOTS);
    cr_expect_eq(victims(), 2, "and it can be used again");
}

Test(codecache_victim, tables_do_not_share_them)
{
    void **other = cc_table_new(&cc), **mine = table;

    put(0x1234);
    put(0x1234 + SLOTS);
    table = other;
    cr_expect_eq(victims(), 0);
    table = cc.miss_table;
    cr_expect_eq(victims(), 0);
    table = mine;
    cc_table_free(other);
}

Test(codecache_victim, a_probe_starts_again_with_rcx_as_it_was)
{
    cc.probe = (struct cc_probe){.start = 32, .saved = 50, .jump = 70, .end = 74};
    for (unsigned at = 31; at <= 74; at++) {
        struct rt_context context = {.rip = (uint64_t)cc.rx + at};
        bool inside = at >= 32 && at < 74, moved = at >= 50 && at < 70;
        context.gpr[1] = 1;
        context.gpr[11] = 11;
        cr_expect_eq(cc_probe_again(&cc, &context), inside, "at %u", at);
        cr_expect_eq(context.rip, (uint64_t)cc.rx + (inside ? 32 : at));
        cr_expect_eq(context.gpr[1], moved ? 11 : 1, "at %u", at);
    }
}
