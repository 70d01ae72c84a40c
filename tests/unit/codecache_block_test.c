/* The index of blocks, and the way from a host pc to the guest's state. */
#include "tests/unit/codecache_fixture.h"

TestSuite(codecache_block, .init = cache_setup, .fini = cache_teardown, .timeout = 30);

Test(codecache_block, pc_gpa_and_key_identify_a_block)
{
    struct cc_block *a = add_block_at(0x1000, 0x5000, CC_NO_GPA, 8, 1, 0, NULL);
    struct cc_block *b = add_block_at(0x1000, 0x6000, CC_NO_GPA, 8, 1, 0, NULL);
    struct cc_block *c = add_block_at(0x1000, 0x5000, CC_NO_GPA, 8, 2, 0, NULL);

    cr_expect_eq(cc_lookup(&cc, 0x1000, 0x5000, 1), a);
    cr_expect_eq(cc_lookup(&cc, 0x1000, 0x6000, 1), b);
    cr_expect_eq(cc_lookup(&cc, 0x1000, 0x5000, 2), c);
    cr_expect_null(cc_lookup(&cc, 0x1001, 0x5000, 1));
    cr_expect_null(cc_lookup(&cc, 0x1000, 0x7000, 1));
    cr_expect_null(cc_lookup(&cc, 0x1000, 0x5000, 3));
}

Test(codecache_block, thousands_of_blocks_are_found_again)
{
    enum { N = 2500 };

    for (unsigned i = 0; i < N; i++)
        cr_assert_not_null(add_block(0x10000 + i * 16));
    for (unsigned i = 0; i < N; i++) {
        struct cc_block *b = cc_lookup(&cc, 0x10000 + i * 16, 0x10000 + i * 16, 0);
        cr_assert_not_null(b);
        cr_assert_eq(b->pc, 0x10000 + i * 16);
    }
}

Test(codecache_block, every_host_byte_leads_to_its_block)
{
    struct cc_block *first = add_block(0x1000);

    for (unsigned i = 1; i < 1000; i++)
        add_block(0x1000 + i * 16);
    for (unsigned i = 0; i < 1000; i++) {
        const uint8_t *host = cc.rx + first[i].host;
        cr_assert_eq(cc_find(&cc, host), &first[i]);
        cr_assert_eq(cc_find(&cc, host + BLOCK_HOST / 2), &first[i]);
        cr_assert_eq(cc_find(&cc, host + BLOCK_HOST - 1), &first[i]);
    }
}

Test(codecache_block, what_is_no_block_is_not_found)
{
    cr_expect_null(cc_find(&cc, cc.rx), "in an empty cache");
    struct cc_block *b = add_block(0x1000);
    cr_expect_null(cc_find(&cc, miss), "a stub");
    cr_expect_null(cc_find(&cc, cc.rx + b->host + BLOCK_HOST), "behind the last block");
    cr_expect_null(cc_find(&cc, cc.rw + b->host), "the writable view");
    cr_expect_null(cc_find(&cc, (const uint8_t *)&cc));
}

Test(codecache_block, gaps_between_host_code_belong_to_nobody)
{
    struct cc_block *a = add_block(0x1000);
    a->host_len = 20; /* records lie behind it */
    struct cc_block *b = add_block(0x2000);

    cr_expect_eq(cc_find(&cc, cc.rx + a->host + 19), a);
    cr_expect_null(cc_find(&cc, cc.rx + a->host + 20));
    cr_expect_eq(cc_find(&cc, cc.rx + b->host), b);
}

Test(codecache_block, host_offsets_map_to_the_instruction_they_belong_to)
{
    struct cc_block *b = add_block(0x1000);
    const uint8_t *host = cc.rx + b->host;
    enum cc_recipe recipe = CC_R_IDENTITY;

    cr_expect_eq(cc_guest_pc(&cc, b, host, &recipe), 0x1000);
    cr_expect_eq(cc_guest_pc(&cc, b, host + 9, &recipe), 0x1000);
    cr_expect_eq(recipe, CC_R_IDENTITY);
    cr_expect_eq(cc_guest_pc(&cc, b, host + 10, &recipe), 0x1003);
    cr_expect_eq(recipe, CC_R_STRING);
    cr_expect_eq(cc_guest_pc(&cc, b, host + 29, &recipe), 0x1003);
    cr_expect_eq(cc_guest_pc(&cc, b, host + 30, &recipe), 0x1005);
    cr_expect_eq(recipe, CC_R_IDENTITY);
    cr_expect_eq(cc_guest_pc(&cc, b, host + 63, &recipe), 0x1005);
}

static struct rt_context context_at(const uint8_t *hpc)
{
    struct rt_context context = {.rip = (uint64_t)hpc, .rflags = 0x246};

    for (unsigned i = 0; i < 16; i++)
        context.gpr[i] = 0x100 + i;
    return context;
}

Test(codecache_block, recovery_takes_registers_flags_and_the_instructions_pc)
{
    struct cc_block *b = add_block(0x1000);
    struct rt_context context = context_at(cc.rx + b->host + 31);
    struct rt_cpu cpu = {0};

    cr_assert(cc_recover(&cc, &cpu, &context));
    cr_expect_eq(cpu.rip, 0x1005);
    cr_expect_eq(cpu.hflags, 0x246);
    cr_expect_eq(cpu.insns, 0x100 + 13);
    for (unsigned i = 0; i < 8; i++)
        cr_expect_eq(cpu.gpr[i], 0x100 + i);
}

Test(codecache_block, recovery_in_a_string_instruction_cuts_off_the_window)
{
    struct cc_block *b = add_block(0x1000);
    struct rt_context context = context_at(cc.rx + b->host + 12);
    struct rt_cpu cpu = {0};

    context.gpr[RT_SI] = 0x1f0100001234;
    context.gpr[RT_DI] = 0x1f0180005678;
    cr_assert(cc_recover(&cc, &cpu, &context));
    cr_expect_eq(cpu.rip, 0x1003);
    cr_expect_eq(cpu.gpr[RT_SI], 0x1234);
    cr_expect_eq(cpu.gpr[RT_DI], 0x80005678);
}

Test(codecache_block, recovery_outside_of_blocks_changes_nothing)
{
    struct rt_context context = context_at(miss);
    struct rt_cpu cpu = {.rip = 0x4711};

    add_block(0x1000);
    cr_expect(!cc_recover(&cc, &cpu, &context));
    cr_expect_eq(cpu.rip, 0x4711);
}

Test(codecache_block, a_full_arena_refuses_and_a_flush_empties_it)
{
    unsigned n = 0;

    cc.max_blocks = 100;
    while (add_block(0x1000 + n * 16))
        n++;
    cr_expect_eq(n, 99, "index 0 is never used");
    cc_flush(&cc);
    cr_expect_null(cc_lookup(&cc, 0x1000, 0x1000, 0));
    cr_expect_eq(cc_page(&cc, 0x1000)->blocks, CC_NONE);
    cr_expect_not_null(add_block(0x1000));
    cr_expect_eq(cc.flushes, 1);
}

Test(codecache_block, sites_and_rows_that_do_not_fit_refuse_the_block)
{
    uint64_t targets[] = {1, 2, 3};

    cc.max_sites = 3;
    cr_expect_null(add_block_at(0x1000, 0x1000, CC_NO_GPA, 8, 0, 3, targets));
    cc.max_sites = 100;
    cc.max_maps = 2;
    cr_expect_null(add_block(0x1000));
    cr_expect_null(cc_lookup(&cc, 0x1000, 0x1000, 0));
    cr_expect_eq(cc_page(&cc, 0x1000)->blocks, CC_NONE);
}
