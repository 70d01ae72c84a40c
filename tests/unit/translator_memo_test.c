/* translator_memo_test.c - what is remembered of an instruction is what the decoder would say.
 *
 * Random instructions, each with several displacements and immediates: tr_memo_decode() and
 * tr_decode() fill their structs alike to the last byte. */
#include "translator/memo.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#define FRONTS 200000 /* prefixes, opcode, ModRM and SIB */
#define TAILS  4      /* what comes behind them, of each */

static uint64_t state = 0x243f6a8885a308d3u;

static uint64_t draw(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

/* Mostly legacy instructions with the usual prefixes, sometimes anything. */
static void draw_front(uint8_t bytes[16])
{
    static const uint8_t prefix[] = {0x66, 0xf2, 0xf3, 0x64, 0x67, 0xf0, 0x2e, 0x66};
    unsigned i = 0;

    for (unsigned n = 0; n < 16; n += 8) {
        uint64_t word = draw();
        memcpy(bytes + n, &word, 8);
    }
    while (draw() % 4 == 0 && i < 4)
        bytes[i++] = prefix[draw() % sizeof(prefix)];
    if (draw() % 2)
        bytes[i++] = (uint8_t)(0x40 | draw() % 16);
    if (draw() % 3 == 0)
        bytes[i] = 0x0f;
}

static void compare(struct tr_memo *memo, const uint8_t *bytes, size_t avail, enum tr_mode mode)
{
    struct tr_insn plain, remembered;
    enum tr_decode_status expected = tr_decode(bytes, avail, mode, &plain);
    enum tr_decode_status status = tr_memo_decode(memo, bytes, avail, mode, &remembered);

    cr_assert_eq(status, expected);
    cr_assert_arr_eq(&remembered, &plain, sizeof(plain),
                     "%02x %02x %02x %02x %02x %02x %02x %02x, mode %d", bytes[0], bytes[1],
                     bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7], mode);
}

static unsigned slots_in_use(const struct tr_memo *memo)
{
    unsigned n = 0;

    for (unsigned i = 0; i < 1u << TR_MEMO_BITS; i++)
        n += memo->slot[i].key != 0;
    return n;
}

static void sweep(enum tr_mode mode)
{
    struct tr_memo *memo = calloc(1, sizeof(*memo));

    cr_assert(memo);
    for (unsigned n = 0; n < FRONTS; n++) {
        uint8_t bytes[16];
        struct tr_insn insn;
        draw_front(bytes);
        if (tr_decode(bytes, 16, mode, &insn) != TR_DECODE_OK)
            continue;
        unsigned front = insn.disp_size ? insn.disp_at : insn.imm_size ? insn.imm_at : insn.len;
        for (unsigned tail = 0; tail < TAILS; tail++) {
            for (unsigned i = front; i < 16; i++)
                bytes[i] = (uint8_t)draw();
            compare(memo, bytes, 16, mode);
        }
        compare(memo, bytes, insn.len, mode);
    }
    cr_expect_gt(slots_in_use(memo), (1u << TR_MEMO_BITS) / 2);
    free(memo);
}

Test(memo, instructions_of_64_bit_code)
{
    sweep(TR_MODE_64);
}

Test(memo, instructions_of_32_bit_code)
{
    sweep(TR_MODE_32);
}

/* In the table and found there: a planted struct comes back. */
Test(memo, what_was_decoded_is_not_decoded_again)
{
    static const uint8_t bytes[16] = {0x48, 0x8b, 0x40, 0x08};
    struct tr_memo *memo = calloc(1, sizeof(*memo));
    struct tr_insn insn;

    for (unsigned n = 0; n < 2; n++)
        tr_memo_decode(memo, bytes, sizeof(bytes), TR_MODE_64, &insn);
    for (unsigned i = 0; i < 1u << TR_MEMO_BITS; i++)
        memo->slot[i].insn.mnemonic = 12345;
    cr_expect_eq(tr_memo_decode(memo, bytes, sizeof(bytes), TR_MODE_64, &insn), TR_DECODE_OK);
    cr_expect_eq(insn.mnemonic, 12345);
    cr_expect_eq(insn.disp, 8);
    free(memo);
}
