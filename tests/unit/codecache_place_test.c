/* codecache_place_test.c - links from page to page: which address spaces may follow them. */
#include "tests/unit/codecache_fixture.h"

#define FROM 0x1000u
#define TO   0x5000u

TestSuite(codecache_place, .init = cache_setup, .fini = cache_teardown);

static void **table;
static uint32_t places[CC_MAX_PLACES];

static void with_table(void)
{
    table = cc_table_new(&cc);
    cr_assert_not_null(table);
    memset(places, 0, sizeof(places));
    places[0] = CC_PLACE_PRESENT;
    cc_table_head(table)->places = places;
}

/* A block in one page whose only branch leads to the other one. */
static struct cc_site *far_site(void)
{
    struct cc_block *b = add_block_to(FROM, TO);
    struct cc_site *site = &cc.sites[b->first_site];

    site->far = 1;
    return site;
}

static uint32_t looked_up(const struct cc_site *site)
{
    uint32_t disp;

    memcpy(&disp, cc.rw + site->jump - 11, 4);
    return (disp - CC_PLACES_AT) / 4;
}

Test(codecache_place, a_link_looks_its_target_s_place_up)
{
    struct cc_site *site = far_site();
    struct cc_block *to = add_block(TO);

    cr_assert(cc_place_link(&cc, site, to));
    uint32_t number = looked_up(site);
    cr_expect_neq(number, 0);
    cr_expect_eq(jump_target(site), to->host + to->direct);
    cc_unlink(&cc, site);
    cr_expect_eq(looked_up(site), 0, "number 0 is always present");
    cr_expect_eq(jump_target(site), exit_of(site));
    cr_assert(cc_place_link(&cc, site, to));
    cr_expect_eq(looked_up(site), number, "the same page, the same number");
}

Test(codecache_place, an_address_space_has_what_it_was_told_of)
{
    struct cc_site *site = far_site();
    struct cc_block *to = add_block(TO);

    with_table();
    cc_place_link(&cc, site, to);
    uint32_t number = looked_up(site);
    cr_expect_eq(places[number], 0);
    cc_place_enter(&cc, table, to);
    cr_expect_eq(places[number], CC_PLACE_PRESENT);
    cc_table_clear_page(&cc, table, TO + 4096);
    cr_expect_eq(places[number], CC_PLACE_PRESENT, "another page");
    cc_table_clear_page(&cc, table, TO + 8);
    cr_expect_eq(places[number], 0);
    cc_place_enter(&cc, table, to);
    cc_table_clear(&cc, table);
    cr_expect_eq(places[number], 0);
    cr_expect_eq(places[0], CC_PLACE_PRESENT);
    cc_table_free(table);
}

/* Two processes have other pages at the same linear address. */
Test(codecache_place, the_physical_page_counts)
{
    struct cc_site *site = far_site();
    struct cc_block *one = add_block_at(TO, TO, CC_NO_GPA, 8, 0, 0, NULL);
    struct cc_block *other = add_block_at(TO, TO + 0x10000, CC_NO_GPA, 8, 0, 0, NULL);
    struct cc_block *crossing = add_block_at(TO, TO, TO + 4096, 8, 0, 0, NULL);

    with_table();
    cc_place_link(&cc, site, one);
    uint32_t number = looked_up(site);
    cc_place_enter(&cc, table, other);
    cr_expect_eq(places[number], 0, "it has no number, and is not this one");
    cc_place_enter(&cc, table, crossing);
    cr_expect_eq(places[number], 0, "code in two pages is another place");
    cc_unlink(&cc, site);
    cc_place_link(&cc, site, other);
    cr_expect_neq(looked_up(site), number);
    cc_place_enter(&cc, table, other);
    cr_expect_eq(places[looked_up(site)], CC_PLACE_PRESENT);
    cr_expect_eq(places[number], 0);
    cc_table_clear_page(&cc, table, TO);
    cr_expect_eq(places[looked_up(site)], 0, "all places of a linear page go together");
    cc_table_free(table);
}

Test(codecache_place, no_number_left_cuts_the_links_and_starts_again)
{
    struct cc_site *site = far_site();
    struct cc_block *to = add_block(TO);

    cc.nplaces = CC_MAX_PLACES;
    cr_expect_not(cc_place_link(&cc, site, to));
    cr_expect_eq(site->target, CC_NONE);
    cc.nplaces = 1;
    cr_assert(cc_place_link(&cc, site, to));
    cc_places_forget(&cc);
    cr_expect_eq(site->target, CC_NONE);
    cr_expect_eq(looked_up(site), 0);
    cr_expect_eq(cc.nplaces, 1);
}

Test(codecache_place, the_site_of_a_look_up_is_found_again)
{
    struct cc_site *site = far_site();

    cr_expect_eq(cc_far_site(&cc, cc.rx + site->jump - 7), site, "the load that faults");
    cr_expect_null(cc_far_site(&cc, cc.rx + site->jump + 4));
    site->far = 0;
    cr_expect_null(cc_far_site(&cc, cc.rx + site->jump - 7));
}
