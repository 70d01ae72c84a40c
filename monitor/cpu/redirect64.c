/* redirect64.c - an innocuous instruction of 64-bit code with its memory operand somewhere else.
 *
 * The guest's bytes are host code already. Only the way to the operand changes: no segment, no
 * address size, and rip in the place of registers. What names other registers stays, so X and B go
 * where they belonged to the address.
 *
 * Depends on the decoder's struct alone, so that tests/fuzz can call it without a machine. */
#include "monitor/cpu/redirect64.h"

#include <string.h>

static bool is_moffs(const struct tr_insn *insn)
{
    return !insn->has_modrm && insn->map == 0 && insn->encoding == TR_ENC_LEGACY &&
           (insn->opcode & 0xfc) == 0xa0;
}

/* rex: the bits that still mean something. */
static uint8_t *put_prefixes64(const struct tr_insn *insn, uint8_t *p, unsigned rex)
{
    if (insn->lock)
        *p++ = 0xf0;
    if (insn->encoding != TR_ENC_LEGACY)
        return p;
    if (insn->prefix66)
        *p++ = 0x66;
    if (insn->prefix_rep)
        *p++ = insn->prefix_rep;
    if (insn->rex)
        *p++ = (uint8_t)(insn->rex & rex);
    return p;
}

enum { REX_ALL = 0xff, REX_WITHOUT_XB = 0xfc, REX_WITHOUT_RXB = 0xf8 };

/* MOV moffs becomes MOV with ModRM, whose reg field REX.R would extend; the displacement's place is
 * left free. */
static uint8_t *put_moffs64(const struct tr_insn *insn, uint8_t *p)
{
    static const uint8_t opcode[] = {0x8a, 0x8b, 0x88, 0x89};
    p = put_prefixes64(insn, p, REX_WITHOUT_RXB);
    *p++ = opcode[insn->opcode & 3];
    *p++ = 5;
    return p;
}

/* Everything up to the displacement. */
static uint8_t *put_to_memory64(const struct tr_insn *insn, uint8_t *p)
{
    unsigned len = insn->modrm_at - insn->opcode_at;
    p = put_prefixes64(insn, p, REX_WITHOUT_XB); /* they name the operand's registers */
    memcpy(p, insn->bytes + insn->opcode_at, len);
    if (insn->encoding == TR_ENC_EVEX || (insn->encoding == TR_ENC_VEX && p[0] == 0xc4))
        p[1] |= 0x60; /* X and B, inverted */
    p[len] = (insn->bytes[insn->modrm_at] & 0x38) | 5;
    return p + len + 1;
}

static unsigned operand_end(const struct tr_insn *insn)
{
    if (!insn->has_modrm)
        return insn->len;
    return insn->modrm_at + 1u + ((insn->bytes[insn->modrm_at] & 7) == 4) + insn->disp_size;
}

size_t mon_emit_redirected64(const struct tr_insn *insn, uint8_t *code, const uint8_t *code_rx,
                             const void *buffer)
{
    bool memory = (insn->has_mem && !insn->agen_only) || is_moffs(insn);
    unsigned at = memory ? operand_end(insn) : insn->opcode_at, rest = insn->len - at;
    uint8_t *p;

    if (insn->vsib || insn->cls != TR_COPY || insn->op == TR_OP_xlat || insn->op == TR_OP_maskmov)
        return 0;
    if (!memory) {
        p = put_prefixes64(insn, code, REX_ALL);
    } else {
        p = is_moffs(insn) ? put_moffs64(insn, code) : put_to_memory64(insn, code);
        int32_t disp = (int32_t)((const uint8_t *)buffer - (code_rx + (p + 4 + rest - code)));
        memcpy(p, &disp, 4);
        p += 4;
    }
    memcpy(p, insn->bytes + at, rest);
    return (size_t)(p + rest - code);
}
