/* codecache_fixture.h - a code cache whose blocks are made by hand. */
#ifndef NOVT_TESTS_UNIT_CODECACHE_FIXTURE_H
#define NOVT_TESTS_UNIT_CODECACHE_FIXTURE_H

#include "codecache/cc.h"
#include "runtime/rt.h"

#include <criterion/criterion.h>
#include <string.h>

#define CACHE_SIZE (256u << 10)
#define MAX_GPA    (16ull << 20)
#define BLOCK_HOST 64u /* bytes of host code */
#define DIRECT     8u  /* offset of a block's direct entry */
#define JUMP_AT    20u /* of a block's only site */

static struct cc cc;
static uint8_t *miss;

static inline void cache_setup(void)
{
    memset(&cc, 0, sizeof(cc));
    cr_assert_eq(cc_create(&cc, CACHE_SIZE, MAX_GPA), 0);
    uint8_t *p = cc_reserve(&cc, 16);
    cr_assert_not_null(p);
    memset(p, 0x90, 16);
    miss = cc_commit(&cc, 16);
    cr_assert_eq(cc_seal_stubs(&cc, miss, miss + 8), 0);
}

static inline void cache_teardown(void)
{
    cc_destroy(&cc);
}

/* A block at pc with sites direct branches to the targets, 3 map rows: host offsets 0, 10, 30 for
 * guest offsets 0, 3 (STRING), 5. */
static inline struct cc_block *add_block_at(uint64_t pc, uint64_t gpa, uint64_t gpa2, unsigned len,
                                            uint32_t key, unsigned sites, const uint64_t *targets)
{
    static const struct cc_map map[] = {{0, 0}, {10, 3 | CC_R_STRING << 12}, {30, 5}};
    struct cc_site site[4];
    uint8_t *p = cc_reserve(&cc, BLOCK_HOST);

    if (!p)
        return NULL;
    uint32_t host = (uint32_t)(p - cc.rw);
    memset(p, 0xcc, BLOCK_HOST);
    for (unsigned i = 0; i < sites; i++)
        site[i] = (struct cc_site){.to = (int32_t)(targets[i] - pc),
                                   .jump = (host + JUMP_AT + 5 * i) & INT32_MAX};
    struct cc_block proto = {.pc = pc,
                             .gpa = gpa & CC_NO_GPA,
                             .gpa2 = gpa2 & CC_NO_GPA,
                             .key = (uint16_t)key,
                             .host = host,
                             .host_len = BLOCK_HOST,
                             .direct = DIRECT,
                             .len = (uint16_t)len,
                             .insns = 3,
                             .nmap = 3,
                             .nsites = (uint8_t)sites};
    struct cc_block *b = cc_block_add(&cc, &proto, map, site, NULL);
    if (b)
        cc_commit(&cc, BLOCK_HOST);
    else
        cc_abort(&cc);
    return b;
}

static inline struct cc_block *add_block(uint64_t pc)
{
    return add_block_at(pc, pc, CC_NO_GPA, 8, 0, 0, NULL);
}

static inline struct cc_block *add_block_to(uint64_t pc, uint64_t target)
{
    return add_block_at(pc, pc, CC_NO_GPA, 8, 0, 1, &target);
}

static inline uint32_t exit_of(const struct cc_site *site)
{
    return cc_exit_of(&cc, (uint32_t)(site - cc.sites));
}

/* Where the site's rel32 leads, as a region offset. */
static inline uint32_t jump_target(const struct cc_site *site)
{
    int32_t rel;
    memcpy(&rel, cc.rw + site->jump, 4);
    return site->jump + 4 + (uint32_t)rel;
}

#endif
