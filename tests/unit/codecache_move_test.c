/* Blocks copied to other linear addresses, and copies dropped together. */
#include "tests/unit/codecache_fixture.h"

#define PC    (CC_MOVE_FROM + 0x1000)
#define SLIDE 0x7000000000ull
#define KEY   5u

TestSuite(codecache_move, .init = cache_setup, .fini = cache_teardown);

/* Leads to the next 16 bytes. */
static struct cc_block *add_movable(uint64_t pc)
{
    uint64_t target = pc + 16;
    struct cc_block *b = add_block_at(pc, 0x5000 | (pc & 4095), CC_NO_GPA, 8, KEY, 1, &target);

    cr_assert_not_null(b);
    b->movable = true;
    b->total = BLOCK_HOST;
    cc_move_note(&cc, b);
    return b;
}

static struct cc_block *move(const struct cc_block *b)
{
    return cc_move(&cc, b->pc + SLIDE, b->gpa, b->key, false);
}

Test(codecache_move, a_copy_is_found_by_its_pc_and_its_host_code)
{
    const struct cc_block *b = add_movable(PC), *copy = move(b);

    cr_assert_not_null(copy);
    cr_expect_eq(copy->pc, PC + SLIDE);
    cr_expect_eq(cc_lookup(&cc, PC + SLIDE, b->gpa, KEY), copy);
    cr_expect_eq(cc_lookup(&cc, PC, b->gpa, KEY), b);
    cr_expect_eq(cc_find(&cc, cc.rx + copy->host + 1), copy);
    cr_expect_eq(cc_find(&cc, cc.rx + b->host + 1), b);
    cr_expect_eq(jump_target(&cc.sites[copy->first_site]), exit_of(&cc.sites[copy->first_site]),
                 "not linked");
}

Test(codecache_move, nothing_is_copied_outside_the_range_or_for_another_mode)
{
    const struct cc_block *b = add_movable(PC);

    cr_expect_null(cc_move(&cc, 0x400000, b->gpa, KEY, false));
    cr_expect_null(cc_move(&cc, CC_MOVE_TO, b->gpa, KEY, false));
    cr_expect_null(cc_move(&cc, PC + SLIDE, b->gpa, KEY + 1, false));
    cr_expect_null(cc_move(&cc, PC + SLIDE, b->gpa + 1, KEY, false));
    cc_move_forget(&cc, b);
    cr_expect_null(move(b));
    cr_expect(!cc.copies.full);
}

Test(codecache_move, copies_go_together_and_links_with_them)
{
    struct cc_block *a = add_movable(PC), *b = add_movable(PC + 16);
    struct cc_block *copy = move(b);
    struct cc_site *site = &cc.sites[a->first_site];

    cr_assert_not_null(move(a));
    cc_link(&cc, site, copy);
    cc_link(&cc, &cc.sites[copy->first_site], a);
    cc_flush_copies(&cc);
    cr_expect_null(cc_lookup(&cc, PC + SLIDE, a->gpa, KEY));
    cr_expect_eq(cc_lookup(&cc, PC, a->gpa, KEY), a);
    cr_expect(a->valid && b->valid);
    cr_expect_eq(site->target, CC_NONE);
    cr_expect_eq(jump_target(site), exit_of(site));
    cr_expect_eq(a->links_in, CC_NONE);
    cr_expect_eq(cc.copies.nblocks, 0);
    cr_expect_not_null(move(b), "there is room again");
}

Test(codecache_move, a_full_place_says_so_until_it_is_emptied)
{
    const struct cc_block *b = add_movable(PC);
    unsigned n = 0;

    while (cc_move(&cc, PC + SLIDE + 4096 * n, b->gpa, KEY, false))
        n++;
    cr_expect(cc.copies.full);
    cr_expect_eq(n, (cc.exits_at - cc.main_size) / BLOCK_HOST);
    cr_expect_eq(cc_page(&cc, b->gpa)->blocks >> 1, cc.max_blocks + n - 1);
    cc_flush_copies(&cc);
    cr_expect_eq(&cc.blocks[cc_page(&cc, b->gpa)->blocks >> 1], b);
    cr_expect_not_null(move(b));
    cr_expect(!cc.copies.full);
}

Test(codecache_move, what_copies_do_not_need_is_for_translations)
{
    size_t usual = cc.main_size;

    cc_share(&cc, true);
    cr_expect_gt(cc.main_size, usual);
    cr_expect_lt(cc.main_size, cc.exits_at, "some room stays for copies");
    const struct cc_block *b = add_movable(PC);
    struct cc_block *copy = move(b);
    cr_assert_not_null(copy);
    cr_expect_geq(copy->host, cc.main_size);
    cr_expect_eq(cc_find(&cc, cc.rx + copy->host + 1), copy);
    cc_flush(&cc);
    cr_expect_eq(cc.main_size, usual, "after a flush as before");
}
