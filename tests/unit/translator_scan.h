/* translator_scan.h - all the instructions of 32-bit or 64-bit code, form by form, for tests that
 * must hold for every one of them.
 *
 * A form is a prefix, an opcode map, an opcode, W and L, and a ModRM byte out of a list that has
 * every reg value with a register and with several kinds of memory operand. In 64-bit code there
 * are REX prefixes and their like in VEX and EVEX too. */
#ifndef NOVT_TESTS_UNIT_TRANSLATOR_SCAN_H
#define NOVT_TESTS_UNIT_TRANSLATOR_SCAN_H

#include "translator/tr.h"

#include <string.h>

typedef void scan_visitor(const uint8_t *bytes, const struct tr_insn *insn, void *arg);

struct scan {
    scan_visitor *visit;
    void *arg;
    const uint8_t *tails; /* of 8 bytes: ModRM and what follows */
    unsigned ntails;
    enum tr_mode mode;
    unsigned long visited;
};

static inline void scan_one(struct scan *s, const uint8_t *head, unsigned len, const uint8_t *tail)
{
    uint8_t bytes[24] = {0};
    struct tr_insn insn;

    memcpy(bytes, head, len);
    memcpy(bytes + len, tail, 8);
    if (tr_decode(bytes, 15, s->mode, &insn) != TR_DECODE_OK)
        return;
    s->visited++;
    s->visit(bytes, &insn, s->arg);
}

static inline void scan_opcode(struct scan *s, const uint8_t *head, unsigned len)
{
    uint8_t bytes[24] = {0};
    struct tr_insn insn;

    memcpy(bytes, head, len);
    memcpy(bytes + len, s->tails, 8);
    if (tr_decode(bytes, 15, s->mode, &insn) == TR_DECODE_OK && !insn.has_modrm) {
        scan_one(s, head, len, s->tails);
        return;
    }
    for (unsigned i = 0; i < s->ntails; i++)
        scan_one(s, head, len, s->tails + 8 * i);
}

static inline void scan_legacy(struct scan *s, const uint8_t *prefix, unsigned nprefix)
{
    static const uint8_t escapes[4][2] = {{0, 0}, {0x0f, 0}, {0x0f, 0x38}, {0x0f, 0x3a}};

    for (unsigned map = 0; map < 4; map++) {
        for (unsigned opcode = 0; opcode < 256; opcode++) {
            uint8_t head[16];
            unsigned len = nprefix;
            memcpy(head, prefix, nprefix);
            if (map)
                head[len++] = escapes[map][0];
            if (map > 1)
                head[len++] = escapes[map][1];
            head[len++] = (uint8_t)opcode;
            scan_opcode(s, head, len);
        }
    }
}

/* Three-byte VEX: every W, L, pp, and vvvv both 1111 and another register. */
static inline void scan_vex(struct scan *s, unsigned rxb)
{
    for (unsigned map = 1; map < 4; map++) {
        for (unsigned bits = 0; bits < 32; bits++) {
            unsigned vvvv = bits & 16 ? 15 : 13;
            for (unsigned opcode = 0; opcode < 256; opcode++) {
                uint8_t head[4] = {0xc4, (uint8_t)(rxb << 5 | map),
                                   (uint8_t)((bits & 8) << 4 | vvvv << 3 | (bits & 7)),
                                   (uint8_t)opcode};
                scan_opcode(s, head, 4);
            }
        }
    }
}

static inline void scan_evex(struct scan *s, unsigned rxb)
{
    for (unsigned map = 1; map < 7; map++) {
        for (unsigned bits = 0; bits < 64; bits++) {
            unsigned vvvv = bits & 32 ? 15 : 13, l = bits >> 3 & 3;
            for (unsigned opcode = 0; opcode < 256; opcode++) {
                uint8_t head[5] = {0x62, (uint8_t)(rxb << 5 | 0x10 | map),
                                   (uint8_t)((bits & 4) << 5 | vvvv << 3 | 4 | (bits & 3)),
                                   (uint8_t)(l << 5 | 8 | (bits & 4 ? 3 : 0)), (uint8_t)opcode};
                scan_opcode(s, head, 5);
            }
        }
    }
}

static inline void scan_all(struct scan *s)
{
    static const uint8_t prefixes[][2] = {{0x66, 0},    {0xf2, 0}, {0xf3, 0},
                                          {0x66, 0xf3}, {0x65, 0}, {0x64, 0x66},
                                          {0xf0, 0},    {0x67, 0}, {0x2e, 0}};

    static const uint8_t rex[][3] = {{1, 0x48, 0},    {1, 0x4d, 0},    {1, 0x43, 0},
                                     {2, 0x66, 0x41}, {2, 0xf3, 0x4c}, {2, 0xf2, 0x49},
                                     {2, 0xf0, 0x4b}, {2, 0x67, 0x4f}, {2, 0x65, 0x48}};

    scan_legacy(s, prefixes[0], 0);
    for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++)
        scan_legacy(s, prefixes[i], prefixes[i][1] ? 2 : 1);
    scan_vex(s, 7);
    scan_evex(s, 7);
    if (s->mode != TR_MODE_64)
        return;
    for (size_t i = 0; i < sizeof(rex) / sizeof(rex[0]); i++)
        scan_legacy(s, rex[i] + 1, rex[i][0]);
    scan_vex(s, 0);
    scan_vex(s, 2);
    scan_evex(s, 4);
}

#endif
