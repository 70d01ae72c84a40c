/* Chaining: sites patched to blocks and back to their stubs. */
#include "tests/unit/codecache_fixture.h"

TestSuite(codecache_link, .init = cache_setup, .fini = cache_teardown, .timeout = 30);

static struct cc_site *site_of(const struct cc_block *b, unsigned i)
{
    return &cc.sites[b->first_site + i];
}

static unsigned links_into(const struct cc_block *b)
{
    unsigned n = 0;
    for (uint32_t i = b->links_in; i != CC_NONE; i = cc.sites[i].next_in)
        n++;
    return n;
}

Test(codecache_link, a_linked_site_jumps_to_the_direct_entry)
{
    struct cc_block *a = add_block_to(0x1000, 0x1100), *b = add_block(0x1100);
    struct cc_site *site = site_of(a, 0);

    cc_link(&cc, site, b);
    cr_expect_eq(jump_target(site), b->host + DIRECT);
    cr_expect_eq(site->target, (uint32_t)(b - cc.blocks));
    cr_expect_eq(links_into(b), 1);
    cr_expect_eq(cc.linked, 1);
}

Test(codecache_link, an_unlinked_site_jumps_to_its_exit)
{
    struct cc_block *a = add_block_to(0x1000, 0x1100), *b = add_block(0x1100);
    struct cc_site *site = site_of(a, 0);

    cc_link(&cc, site, b);
    cc_unlink(&cc, site);
    cr_expect_eq(jump_target(site), exit_of(site));
    cr_expect_eq(site->target, CC_NONE);
    cr_expect_eq(links_into(b), 0);
    cc_unlink(&cc, site); /* nothing to do */
    cr_expect_eq(cc.unlinked, 1);
}

Test(codecache_link, a_link_is_not_made_twice)
{
    struct cc_block *a = add_block_to(0x1000, 0x1100), *b = add_block(0x1100);

    cc_link(&cc, site_of(a, 0), b);
    cc_link(&cc, site_of(a, 0), b);
    cr_expect_eq(links_into(b), 1);
    cr_expect_eq(cc.linked, 1);
}

Test(codecache_link, many_sites_link_to_one_block_and_leave_in_any_order)
{
    struct cc_block *target = add_block(0x1f00), *from[10];

    for (unsigned i = 0; i < 10; i++) {
        from[i] = add_block_to(0x1000 + i * 16, 0x1f00);
        cc_link(&cc, site_of(from[i], 0), target);
    }
    cr_expect_eq(links_into(target), 10);
    static const uint8_t order[] = {4, 0, 9, 5, 1, 8, 2, 7, 3, 6};
    for (unsigned i = 0; i < 10; i++) {
        cc_unlink(&cc, site_of(from[order[i]], 0));
        cr_expect_eq(links_into(target), 9 - i);
    }
}

Test(codecache_link, a_block_that_links_to_itself_can_be_unlinked)
{
    struct cc_block *a = add_block_to(0x1000, 0x1000);

    cc_link(&cc, site_of(a, 0), a);
    cr_expect_eq(jump_target(site_of(a, 0)), a->host + DIRECT);
    cc_unlink_exits(&cc, a);
    cr_expect_eq(jump_target(site_of(a, 0)), exit_of(site_of(a, 0)));
    cr_expect_eq(links_into(a), 0);
}

Test(codecache_link, unlinking_exits_takes_all_of_a_blocks_sites_and_no_others)
{
    uint64_t targets[] = {0x1100, 0x1200, 0x1300};
    struct cc_block *a = add_block_at(0x1000, 0x1000, CC_NO_GPA, 8, 0, 3, targets);
    struct cc_block *b = add_block(0x1100), *c = add_block(0x1200);
    struct cc_block *other = add_block_to(0x1400, 0x1100);

    cc_link(&cc, site_of(a, 0), b);
    cc_link(&cc, site_of(a, 1), c);
    cc_link(&cc, site_of(other, 0), b);
    cc_unlink_exits(&cc, a);
    for (unsigned i = 0; i < 2; i++)
        cr_expect_eq(jump_target(site_of(a, i)), exit_of(site_of(a, i)));
    cr_expect_eq(links_into(b), 1);
    cr_expect_eq(links_into(c), 0);
    cr_expect_eq(jump_target(site_of(other, 0)), b->host + DIRECT);
}
