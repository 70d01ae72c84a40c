/* long_gather.c - 64-bit code: AVX2 gathers in the cache.
 *
 * Each lane's address is base + index * scale, and an index of 32 or 64 bits reaches beyond every
 * guard. So the indices are looked at first: all lanes (also those that are masked) within 2^28,
 * which with a scale of 8 is 2 GiB, half a guard; else the slow path does it.
 *
 *     r10 = k1                           with AVX-512's mask registers (cc.has_masks)
 *     k1 = index < 2^27
 *     k1 &= index >= -2^28
 *     r9 = k1
 *     k1 = r10
 *
 *     scratch = zmm_t                    without: a vector register that the gather does not name
 *     t = (index + 2^27) & ~(2^28 - 1)
 *     r9 = sign bits of (t == 0)
 *     zmm_t = scratch
 *
 *     rcx = r9 - all lanes; jrcxz over the callout
 *     base as in near_operand(); the gather with r10 in the base's place
 *
 * No flags are touched, and nothing is changed before the gather itself. EVEX gathers and scatters
 * are left to the slow path. */
#include "translator/long.h"

struct gather {
    unsigned dst, index, mask; /* vector registers */
    unsigned scratch;
    unsigned opcode, sib;
    unsigned b2;       /* the VEX prefix's last byte */
    bool quad, wide;   /* indices of 64 bits; 256 bits of them */
    unsigned expected; /* sign bits when all lanes are near */
};

/* 90h, 92h: 32-bit indices, as many as elements fit; 91h, 93h: 64-bit indices (SDM 2 VGATHER). */
static bool gather_decode(const struct tr_insn *insn, struct gather *g)
{
    const uint8_t *v = insn->bytes + (insn->modrm_at - 4);

    if (insn->encoding != TR_ENC_VEX || insn->modrm_at < 4 || v[0] != 0xc4 || insn->map != 2 ||
        (insn->opcode & 0xfc) != 0x90 || insn->adsize != 64 || insn->base < 0 || insn->base == 16 ||
        tr_is_far_segment(insn->seg))
        return false;
    unsigned modrm = insn->bytes[insn->modrm_at];
    bool l = v[2] >> 2 & 1, w = v[2] >> 7;
    g->sib = insn->bytes[insn->modrm_at + 1];
    g->opcode = insn->opcode;
    g->b2 = v[2];
    g->dst = (modrm >> 3 & 7) | (v[1] & 0x80 ? 0u : 8u);
    g->index = (g->sib >> 3 & 7) | (v[1] & 0x40 ? 0u : 8u);
    g->mask = ~(unsigned)v[2] >> 3 & 15;
    g->quad = g->opcode & 1;
    g->wide = g->quad ? l : l && !w;
    g->expected = (g->quad ? 3u : 15u) | (g->wide ? (g->quad ? 12u : 240u) : 0);
    /* Compilers take low numbers first; nothing waits for what is loaded back into a high one. */
    g->scratch = 7;
    while (g->scratch == g->dst || g->scratch == g->index || g->scratch == g->mask)
        g->scratch--;
    return true;
}

/* vmovdqu to (7Fh) or from (6Fh) %fs:vector; the whole of ZMM where the guest has it */
static void move_scratch(struct tr_block *t, const struct gather *g, unsigned opcode)
{
    e1(t, 0x64);
    if (t->rq->key & TR_K_AVX512)
        e4(t, 0x62, 0xf1, 0xfe, 0x48);
    else
        e2(t, 0xc5, 0xfe);
    e3(t, opcode, g->scratch << 3 | 4, 0x25);
    e32(t, STATE(vector));
}

/* op %fs:state, %from, %scratch; 66h-prefixed, scratch is below 8 */
static void vector_op(struct tr_block *t, const struct gather *g, unsigned map, unsigned opcode,
                      unsigned from, uint32_t state)
{
    e1(t, 0x64);
    e4(t, 0xc4, 0xe0 | map, (~from & 15u) << 3 | (g->wide ? 4u : 0) | 1, opcode);
    e2(t, g->scratch << 3 | 4, 0x25);
    e32(t, state);
}

/* vpcmpd or vpcmpq $predicate, %fs:state{broadcast}, index, %k1{mask} */
static void compare(struct tr_block *t, const struct gather *g, unsigned predicate, unsigned mask,
                    uint32_t state)
{
    e1(t, 0x64);
    e4(t, 0x62, 0xf3, (g->quad ? 0x80u : 0) | (~g->index & 15u) << 3 | 5,
       (g->wide ? 0x20u : 0) | 0x18 | mask);
    e3(t, 0x1f, 0x0c, 0x25);
    e32(t, state + (g->quad ? 32u : 0));
    e1(t, predicate);
}

static void lanes_by_mask(struct tr_block *t, const struct gather *g)
{
    enum { LESS = 1, NOT_LESS = 5 };

    l_lose(t, H10);
    e4(t, 0xc4, 0x61, 0xfb, 0x93); /* kmovq %k1, %r10 */
    e1(t, 0xd1);
    compare(t, g, LESS, 0, STATE(gather_add));
    compare(t, g, NOT_LESS, 1, STATE(gather_and));
    e4(t, 0xc5, 0x7b, 0x93, 0xc9); /* kmovd %k1, %r9d */
    e4(t, 0xc4, 0xc1, 0xfb, 0x92); /* kmovq %r10, %k1 */
    e1(t, 0xca);
}

static void lanes_by_vector(struct tr_block *t, const struct gather *g)
{
    move_scratch(t, g, 0x7f);
    vector_op(t, g, 1, g->quad ? 0xd4 : 0xfe, g->index, STATE(gather_add) + (g->quad ? 32u : 0));
    vector_op(t, g, 1, 0xdb, g->scratch, STATE(gather_and) + (g->quad ? 32u : 0));
    vector_op(t, g, g->quad ? 2 : 1, g->quad ? 0x29 : 0x76, g->scratch, STATE(gather_zero));
    e4(t, 0xc4, 0x61, 0x78 | (g->wide ? 4u : 0) | g->quad, 0x50); /* vmovmskps/pd, %r9d */
    e1(t, 0xc8 | g->scratch);
    move_scratch(t, g, 0x6f);
}

static void emit_index_check(struct tr_block *t, unsigned i, const struct gather *g)
{
    uint8_t *field;

    if (t->rq->cc->has_masks)
        lanes_by_mask(t, g);
    else
        lanes_by_vector(t, g);
    l_mov(t, H10, RT_CX);
    e3(t, 0x41, 0x8d, 0x89); /* lea -expected(%r9), %ecx */
    e32(t, -g->expected);
    e2(t, 0xe3, 0); /* jrcxz */
    field = t->p;
    l_mov(t, RT_CX, H10);
    e1(t, 0xe9);
    e32(t, 0);
    tr_tail_add(t, TR_TAIL_CALLOUT, t->p - 4, tr_pc_of(t, i), i);
    field[-1] = (uint8_t)(t->p - field);
    l_mov(t, RT_CX, H10);
}

bool l_gather(struct tr_block *t, unsigned i)
{
    const struct tr_insn *insn = &t->insn[i];
    struct gather g;
    struct l_operand o;

    if (!gather_decode(insn, &g) || !l_near(insn))
        return false;
    emit_index_check(t, i, &g);
    o = l_near_operand(t, i);
    if (o.has_index)
        l_lea(t, H10, o.base, o.index, 0);
    else
        l_mov(t, H10, RSP);
    e4(t, 0xc4, (g.dst < 8 ? 0x80u : 0) | (g.index < 8 ? 0x40u : 0) | 2, g.b2, g.opcode);
    e2(t, 0x84 | (g.dst & 7) << 3, (g.sib & 0xf8) | (H10 & 7));
    e32(t, (uint32_t)insn->disp);
    return true;
}
