/* Blocks dropped because their bytes changed. */
#include "tests/unit/codecache_fixture.h"

TestSuite(codecache_invalidate, .init = cache_setup, .fini = cache_teardown, .timeout = 30);

static bool entry_is_closed(const struct cc_block *b)
{
    int32_t rel;
    memcpy(&rel, cc.rw + b->host + 1, 4);
    return cc.rw[b->host] == 0xe9 && cc.rx + b->host + 5 + rel == cc.closed_stub;
}

Test(codecache_invalidate, a_write_into_a_block_drops_it)
{
    struct cc_block *b = add_block(0x1000);

    cr_expect(cc_invalidate(&cc, 0x1007, 1), "the page holds no code any more");
    cr_expect(!b->valid);
    cr_expect(entry_is_closed(b));
    cr_expect_null(cc_lookup(&cc, 0x1000, 0x1000, 0));
    cr_expect_eq(cc_page(&cc, 0x1000)->blocks, CC_NONE);
    cr_expect_eq(cc.invalidated, 1);
}

Test(codecache_invalidate, a_dropped_block_of_32_bit_code_faults_where_it_begins)
{
    struct cc_block *b = add_block(0x1000);

    b->direct = 0;
    cc_invalidate(&cc, 0x1000, 1);
    cr_expect_eq(cc.rw[b->host], 0xf4, "HLT");
    cr_expect_eq(cc.rw[b->host + 1], 0xcc, "whoever is in the block goes on");
}

struct range_row {
    uint64_t gpa;
    unsigned len;
    bool hit;
};
Test(codecache_invalidate, only_overlapping_writes_drop)
{
    static const struct range_row rows[] = {
        {0x1100, 1, true},  {0x1107, 1, true},      {0x10ff, 1, false},
        {0x1108, 1, false}, {0x10fc, 4, false},     {0x10fd, 4, true},
        {0x10f0, 64, true}, {0x1108, 0xef8, false}, {0x1000, 4096, true},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct cc_block *b = add_block(0x1100);
        cc_invalidate(&cc, rows[i].gpa, rows[i].len);
        cr_expect_eq(!b->valid, rows[i].hit, "%llx+%u", (unsigned long long)rows[i].gpa,
                     rows[i].len);
        cc_flush(&cc);
    }
}

Test(codecache_invalidate, other_blocks_of_the_page_stay)
{
    struct cc_block *a = add_block(0x1000), *b = add_block(0x1010), *c = add_block(0x1020);

    cr_expect(!cc_invalidate(&cc, 0x1012, 2));
    cr_expect(a->valid);
    cr_expect(!b->valid);
    cr_expect(c->valid);
    cr_expect_eq(cc_lookup(&cc, 0x1000, 0x1000, 0), a);
    cr_expect_eq(cc_lookup(&cc, 0x1020, 0x1020, 0), c);
}

Test(codecache_invalidate, overlapping_blocks_all_go)
{
    struct cc_block *a = add_block(0x1000), *b = add_block(0x1004), *c = add_block(0x1006);

    cr_expect(cc_invalidate(&cc, 0x1006, 1));
    cr_expect(!a->valid && !b->valid && !c->valid);
}

/* A block at a page's end whose only instruction goes on in the next page. */
static struct cc_block *add_crossing(void)
{
    return add_block_at(0x1ffe, 0x1ffe, 0x7000, 5, 0, 0, NULL);
}

Test(codecache_invalidate, a_write_to_either_page_drops_a_crossing_block)
{
    static const struct range_row rows[] = {
        {0x1ffe, 1, true},  {0x1fff, 1, true},  {0x7000, 1, true},  {0x7002, 1, true},
        {0x7003, 1, false}, {0x1ffd, 1, false}, {0x2000, 8, false}, {0x6ffc, 4, false},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct cc_block *b = add_crossing();
        cc_invalidate(&cc, rows[i].gpa, rows[i].len);
        cr_expect_eq(!b->valid, rows[i].hit, "%llx+%u", (unsigned long long)rows[i].gpa,
                     rows[i].len);
        cr_expect_eq(cc_page(&cc, 0x1000)->blocks == CC_NONE, rows[i].hit);
        cr_expect_eq(cc_page(&cc, 0x7000)->blocks == CC_NONE, rows[i].hit);
        cc_flush(&cc);
    }
}

Test(codecache_invalidate, crossing_blocks_leave_both_lists_among_others)
{
    struct cc_block *a = add_block(0x1000), *x = add_crossing(), *b = add_block(0x1010);
    struct cc_block *c = add_block(0x7010),
                    *y = add_block_at(0x6fff, 0x6fff, 0x7000, 5, 0, 0, NULL);

    cc_invalidate(&cc, 0x7001, 1);
    cr_expect(!x->valid && !y->valid);
    cr_expect(a->valid && b->valid && c->valid);
    cr_expect(cc_invalidate(&cc, 0x7010, 1));
    cc_invalidate(&cc, 0x1000, 1);
    cr_expect(cc_invalidate(&cc, 0x1010, 1));
    cr_expect_eq(cc_page(&cc, 0x6000)->blocks, CC_NONE);
}

Test(codecache_invalidate, links_into_and_out_of_a_dropped_block_are_cut)
{
    struct cc_block *a = add_block_to(0x1000, 0x1100), *b = add_block_to(0x1100, 0x1200);
    struct cc_block *c = add_block(0x1200);
    struct cc_site *in = &cc.sites[a->first_site], *out = &cc.sites[b->first_site];

    cc_link(&cc, in, b);
    cc_link(&cc, out, c);
    cc_invalidate(&cc, 0x1100, 1);
    cr_expect_eq(jump_target(in), exit_of(in));
    cr_expect_eq(jump_target(out), exit_of(out));
    cr_expect_eq(c->links_in, CC_NONE);
    cr_expect(a->valid && c->valid);
}

Test(codecache_invalidate, a_dropped_blocks_host_code_still_has_its_guest_pc)
{
    struct cc_block *b = add_block(0x1000);
    struct rt_context context = {.rip = (uint64_t)(cc.rx + b->host + 31)};
    struct rt_cpu cpu = {0};

    cc_invalidate(&cc, 0x1000, 1);
    cr_expect_eq(cc_find(&cc, cc.rx + b->host + 31), b);
    cr_assert(cc_recover(&cc, &cpu, &context));
    cr_expect_eq(cpu.rip, 0x1005);
}

Test(codecache_invalidate, a_whole_page_goes_at_once)
{
    struct cc_block *a = add_block(0x1000), *b = add_block(0x1ff0), *x = add_crossing();
    struct cc_block *other = add_block(0x2000);

    cc_invalidate_page(&cc, 1);
    cr_expect(!a->valid && !b->valid && !x->valid);
    cr_expect(other->valid);
    cr_expect_eq(cc_page(&cc, 0x7000)->blocks, CC_NONE);
}

Test(codecache_invalidate, addresses_without_code_or_beyond_memory_are_no_news)
{
    struct cc_block *b = add_block(0x1000);

    cr_expect(cc_invalidate(&cc, 0x5000, 8));
    cr_expect(cc_invalidate(&cc, MAX_GPA + 0x1000, 8));
    cc_invalidate_page(&cc, MAX_GPA >> 12);
    cr_expect(b->valid);
}

Test(codecache_invalidate, a_page_with_many_stores_beside_its_blocks_is_taken_for_data)
{
    struct cc_block *b = add_block(0x1000);
    unsigned stores = 0;

    while (b->valid && stores < 10000) {
        cc_invalidate(&cc, 0x1800, 4);
        stores++;
    }
    cr_expect(!b->valid);
    cr_expect_geq(stores, 2);
    cr_expect_leq(stores, 64);
    /* If the code comes back, patience grows. */
    b = add_block(0x1000);
    unsigned again = 0;
    while (b->valid && again < 10000) {
        cc_invalidate(&cc, 0x1800, 4);
        again++;
    }
    cr_expect_gt(again, stores);
}

Test(codecache_invalidate, a_collision_drops_the_block_and_is_remembered)
{
    struct cc_block *b = add_block(0x1000);

    cr_expect(!cc_collided(&cc, 0x1000));
    cc_collide(&cc, b);
    cr_expect(!b->valid);
    cr_expect(cc_collided(&cc, 0x1000));
    cc_collide(&cc, b); /* a second fault in it */
    cr_expect_eq(cc.invalidated, 1);
}
