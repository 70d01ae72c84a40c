/* Blocks: where they end, what they need, what they refuse. The emitted code itself is tested by
 * tests/golden and tests/diff. */
#include "codecache/cc.h"
#include "runtime/rt.h"
#include "translator/tr.h"

#include <criterion/criterion.h>
#include <string.h>

#define KEY (TR_K_DS | TR_K_ES | TR_K_SS | TR_K_IOPL | TR_K_TSC)

static struct cc cc;
static struct tr_stubs stubs;
static uint8_t page[3 * 4096];

static void setup(void)
{
    memset(&cc, 0, sizeof(cc));
    cr_assert_eq(cc_create(&cc, 1 << 20, 1 << 20), 0);
    cr_assert_eq(tr_stubs_emit(&cc, &stubs), 0);
    memset(page, 0xf4, sizeof(page)); /* hlt */
}
static void teardown(void)
{
    cc_destroy(&cc);
}
TestSuite(translator_translate, .init = setup, .fini = teardown, .timeout = 30);

static enum tr_result translate(uint32_t pc, const void *bytes, size_t len, unsigned max_insns,
                                bool second, struct cc_block **block)
{
    uint32_t at = pc & 4095;
    struct tr_request request = {.cc = &cc,
                                 .stubs = &stubs,
                                 .pc = pc,
                                 .gpa = pc,
                                 .key = KEY,
                                 .max_insns = max_insns,
                                 .bytes = page + at,
                                 .bytes2 = second ? page + 4096 : NULL,
                                 .gpa2 = 0x9000};

    memcpy(page + at, bytes, len);
    return tr_translate(&request, block);
}

static struct cc_block *translated(uint32_t pc, const char *bytes, size_t len)
{
    struct cc_block *block = NULL;
    cr_assert_eq(translate(pc, bytes, len, 64, false, &block), TR_DONE);
    cr_assert_not_null(block);
    return block;
}
#define BLOCK(pc, bytes) translated(pc, bytes, sizeof(bytes) - 1)

Test(translator_translate, blocks_end_where_control_leaves)
{
    cr_expect_eq(BLOCK(0x1000, "\x40\x41\xc3\x42")->insns, 3, "ret");
    cr_expect_eq(BLOCK(0x1100, "\x40\xeb\x00\x42")->insns, 2, "jmp");
    cr_expect_eq(BLOCK(0x1200, "\x40\xe8\0\0\0\0\x42")->insns, 2, "call");
    cr_expect_eq(BLOCK(0x1300, "\x40\x0f\xa2\x42")->insns, 2, "callout");
    cr_expect_eq(BLOCK(0x1400, "\x40\x0f\xff")->insns, 2, "no instruction");
    cr_expect_eq(BLOCK(0x1500, "\x40\x74\x02\x41\xe2\xfe\x42\xc3")->insns, 6, "not at jcc, loop");
}

/* String instructions of 64-bit code have two rows of the pc map: as many as a block can have. */
Test(translator_translate, a_block_of_string_instructions_has_all_its_rows)
{
    struct cc_block *b = NULL;
    struct tr_request request = {.cc = &cc,
                                 .stubs = &stubs,
                                 .pc = 0x1000,
                                 .gpa = 0x1000,
                                 .key = KEY | TR_K_LONG,
                                 .max_insns = 64,
                                 .bytes = page};
    memset(page, 0xac, 64); /* lodsb */
    cr_assert_eq(tr_translate(&request, &b), TR_DONE);
    cr_expect_eq(b->insns, 64);
    cr_expect_eq(b->nmap, 128);
    for (unsigned i = 1; i < b->nmap; i++)
        cr_expect_geq(cc.maps[b->map + i].host, cc.maps[b->map + i - 1].host);
}

Test(translator_translate, a_block_of_64_bit_code_ends_in_front_of_a_loop)
{
    static const char code[] = "\x90\x48\xff\xc0\x48\xff\xc9\x75\xf8\xc3"; /* 1: inc; dec; jne 1b */
    struct cc_block *b = NULL;
    struct tr_request request = {.cc = &cc,
                                 .stubs = &stubs,
                                 .pc = 0x7f1234567000,
                                 .gpa = 0x1000,
                                 .key = KEY | TR_K_LONG,
                                 .max_insns = 64,
                                 .bytes = page};
    memcpy(page, code, sizeof(code));
    cr_assert_eq(tr_translate(&request, &b), TR_DONE);
    cr_expect_eq(b->insns, 1);
    cr_assert_eq(b->nsites, 1, "it is linked to the loop");
    cr_expect_eq(cc_site_pc(&cc, &cc.sites[b->first_site]), request.pc + 1);
    request.pc++;
    request.gpa++;
    request.bytes++;
    cr_assert_eq(tr_translate(&request, &b), TR_DONE);
    cr_expect_eq(b->insns, 4, "the loop, and what follows");
}

Test(translator_translate, records_describe_the_block)
{
    struct cc_block *b = BLOCK(0x1010, "\x40\x74\x10\x83\xc0\x05\xc3");

    cr_expect_eq(b->pc, 0x1010);
    cr_expect_eq(b->gpa, 0x1010);
    cr_expect(!cc_crosses(b));
    cr_expect_eq(b->key, KEY);
    cr_expect_eq(b->len, 7);
    cr_expect_eq(b->insns, 4);
    cr_expect(b->valid);
    cr_expect_eq(b->nsites, 1);
    cr_expect_eq(cc_site_pc(&cc, &cc.sites[b->first_site]), 0x1023);
    cr_expect_eq(cc_lookup(&cc, 0x1010, 0x1010, KEY), b);
    cr_expect_eq(b->direct, 0, "32-bit code needs no check of the pc");
}

Test(translator_translate, each_host_instruction_maps_to_its_guest_instruction)
{
    struct cc_block *b = BLOCK(0x1000, "\x8b\x03\x40\x89\x43\x04\xf3\xa5\xc3");
    static const uint16_t guest[] = {0, 2, 3, 6, 8};
    unsigned seen = 0;

    cr_expect_geq(b->nmap, 5);
    for (uint32_t at = b->direct; at < b->host_len; at++) {
        enum cc_recipe recipe = CC_R_IDENTITY;
        uint64_t pc = cc_guest_pc(&cc, b, cc.rx + b->host + at, &recipe);
        if (seen < 5 && pc == 0x1000u + guest[seen])
            seen++;
        cr_assert(seen && pc == 0x1000u + guest[seen - 1], "offset %u: %llx", at,
                  (unsigned long long)pc);
        if (pc == 0x1006)
            cr_assert_eq(recipe, CC_R_STRING);
    }
    cr_expect_eq(seen, 5);
}

Test(translator_translate, max_insns_is_kept)
{
    struct cc_block *b;
    char nops[200];

    memset(nops, 0x40, sizeof(nops));
    for (unsigned max = 1; max <= 64; max *= 2) {
        cr_assert_eq(translate(0x1000, nops, sizeof(nops), max, false, &b), TR_DONE);
        cr_expect_eq(b->insns, max);
        cr_expect_eq(b->len, max);
        cr_expect_eq(b->nsites, 1, "it goes on behind");
    }
}

Test(translator_translate, a_block_does_not_reach_into_the_next_page)
{
    struct cc_block *b = BLOCK(0x1ffc, "\x40\x41\x42\x43");
    cr_expect_eq(b->insns, 4);
    cr_expect_eq(b->len, 4);
    cr_expect_eq(b->nsites, 0, "links stay inside a page");
    /* The instruction at the end does not fit: the block stops before it. */
    b = BLOCK(0x1ffd, "\x40\xb8\x01\x02\x03\x04");
    cr_expect_eq(b->insns, 1);
    cr_expect_eq(b->len, 1);
}

Test(translator_translate, a_first_instruction_over_two_pages_asks_for_the_second)
{
    struct cc_block *b = NULL;

    cr_expect_eq(translate(0x1ffe, "\xb8\x01\x02\x03\x04\x40", 6, 64, false, &b), TR_SECOND_PAGE);
    cr_expect_null(b);
    cr_assert_eq(translate(0x1ffe, "\xb8\x01\x02\x03\x04\x40", 6, 64, true, &b), TR_DONE);
    cr_expect_eq(b->insns, 1, "it is a block of its own");
    cr_expect_eq(b->len, 5);
    cr_expect_eq(b->gpa2, 0x9000);
    cr_expect_eq(b->nsites, 0);
    cc_invalidate(&cc, 0x9002, 1);
    cr_expect(!b->valid, "the second page's bytes count");
}

Test(translator_translate, sites_only_lead_within_the_page)
{
    struct cc_block *b = BLOCK(0x1000, "\x0f\x84\xfa\x1f\0\0\x74\x10\xe9\x00\x20\0\0");
    cr_expect_eq(b->nsites, 1);
    cr_expect_eq(cc_site_pc(&cc, &cc.sites[b->first_site]), 0x1018);
}

Test(translator_translate, a_full_region_or_arena_leaves_no_trace)
{
    struct cc_block *b = NULL;

    cc.max_blocks = cc.nblocks;
    cr_expect_eq(translate(0x1000, "\x40\xc3", 2, 64, false, &b), TR_FULL);
    cr_expect_null(cc.reserved);
    cr_expect_null(cc_lookup(&cc, 0x1000, 0x1000, KEY));
    cc.max_blocks = 1000;
    size_t used = cc.used;
    cc.used = cc.main_size - 100;
    cr_expect_eq(translate(0x1000, "\x40\xc3", 2, 64, false, &b), TR_FULL);
    cc.used = used;
    cr_expect_eq(translate(0x1000, "\x40\xc3", 2, 64, false, &b), TR_DONE);
}

Test(translator_translate, the_largest_block_fits)
{
    struct cc_block *b;
    char text[64 * 12];

    /* popf with a pending interrupt has the longest code and two tails; jcc a site each */
    memset(text, 0x9d, sizeof(text));
    cr_assert_eq(translate(0x1000, text, 64, 64, false, &b), TR_DONE);
    cr_expect_eq(b->insns, 64);
    for (unsigned i = 0; i < 64; i++)
        memcpy(text + 12 * i, "\x64\xc7\x84\x8b\x01\x00\x00\x00\x01\x00\x00\x00", 12);
    cr_assert_eq(translate(0x1000, text, sizeof(text), 64, false, &b), TR_DONE);
    for (unsigned i = 0; i < 64; i++)
        memcpy(text + 2 * i, "\xe2\x10", 2);
    cr_assert_eq(translate(0x1000, text, 128, 64, false, &b), TR_DONE);
    cr_expect_eq(b->nsites, 65);
}

/* A disabled feature is the slow path's: it raises #UD or #NM as it must. */
Test(translator_translate, features_that_are_off_end_the_block)
{
    struct cc_block *b = BLOCK(0x1000, "\x40\x0f\x58\xc1\x41\xc3"); /* addps */
    cr_expect_eq(b->insns, 2);
    struct tr_request request = {.cc = &cc,
                                 .stubs = &stubs,
                                 .pc = 0x1000,
                                 .gpa = 0x1000,
                                 .key = KEY | TR_K_SSE,
                                 .max_insns = 64,
                                 .bytes = page};
    cr_assert_eq(tr_translate(&request, &b), TR_DONE);
    cr_expect_eq(b->insns, 4);
}

Test(translator_translate, stubs_are_different_and_in_the_region)
{
    const uint8_t *all[] = {stubs.miss32,    stubs.direct32,  stubs.callout32,
                            stubs.pending32, stubs.miss64,    stubs.direct64,
                            stubs.callout64, stubs.pending64, stubs.probe64};

    for (unsigned i = 0; i < 9; i++) {
        cr_expect(cc_contains(&cc, all[i]));
        cr_expect_null(cc_find(&cc, all[i]));
        for (unsigned j = 0; j < i; j++)
            cr_expect_neq(all[i], all[j]);
    }
}
