/* step_vec.c - vector instructions that access only some elements of their memory operand.
 *
 *   VMASKMOV, VPMASKMOV       a vector register's sign bits select elements
 *   EVEX with an opmask       loads and stores; compress and expand, where the mask says how many
 *   gathers and scatters      each element has an address of its own
 *   MASKMOVQ, MASKMOVDQU      bytes at (E)DI
 *
 * What is not selected is not accessed, so it neither faults nor reaches a device.
 *
 * Vector state is parked: registers are read and written in cpu->xsave (step_fpu.c). */
#include "monitor/cpu/step.h"

#include <string.h>

#define PP_66 1
#define PP_F3 2
#define PP_F2 3

struct step_vex step_vex_fields(const struct tr_insn *i)
{
    struct step_vex f = {0};
    const uint8_t *p = i->bytes + i->modrm_at;
    bool wide = i->mode == TR_MODE_64;
    uint8_t extend, last; /* the byte with R, X, B inverted; the byte with W, vvvv, pp */

    f.map = i->map;
    f.reg = i->reg & 7;
    f.l = i->vex_l;
    if (i->encoding == TR_ENC_EVEX) {
        extend = p[-4];
        last = p[-3];
        if (wide && !(extend & 0x10))
            f.reg |= 16;
        if (wide && !(p[-2] & 8))
            f.index_high = 16;
    } else if (p[-3] == 0xc5) {
        extend = last = p[-2];
        last &= 0x7f; /* no W */
    } else {
        extend = p[-3];
        last = p[-2];
    }
    if (wide && !(extend & 0x80))
        f.reg |= 8;
    f.w = last >> 7;
    f.vvvv = (uint8_t)(~last >> 3 & (wide ? 15 : 7));
    f.pp = last & 3;
    return f;
}

static unsigned vector_bytes(const struct tr_insn *i)
{
    return 16u << (i->vex_l > 2 ? 2 : i->vex_l);
}

/* ---- element sizes of EVEX instructions ---- */

static bool in_list(const uint8_t *list, unsigned n, uint8_t opcode)
{
    for (unsigned k = 0; k < n; k++)
        if (list[k] == opcode)
            return true;
    return false;
}
#define IN(list, opcode) in_list(list, sizeof(list), opcode)

/* 0F map with 66: W says nothing about the element. */
static const uint8_t bytes_0f[] = {0x60, 0x63, 0x64, 0x67, 0x68, 0x74, 0xd8, 0xda,
                                   0xdc, 0xde, 0xe0, 0xe8, 0xec, 0xf8, 0xfc};
static const uint8_t words_0f[] = {0x61, 0x65, 0x69, 0x6b, 0x71, 0x75, 0xd1, 0xd5, 0xd9, 0xdd, 0xe1,
                                   0xe3, 0xe4, 0xe5, 0xe9, 0xea, 0xed, 0xee, 0xf1, 0xf9, 0xfd};
static const uint8_t bytes_0f38[] = {0x00, 0x1c, 0x38, 0x3c, 0x78, 0x8f, 0xcf};
static const uint8_t words_0f38[] = {0x04, 0x0b, 0x10, 0x11, 0x12, 0x1d,
                                     0x2b, 0x3a, 0x3e, 0x70, 0x72, 0x79};
/* W chooses between bytes and words. */
static const uint8_t byte_word_0f38[] = {0x26, 0x54, 0x62, 0x63, 0x66, 0x75, 0x7d, 0x8d};
static const uint8_t byte_word_0f3a[] = {0x3e, 0x3f};
static const uint8_t bytes_0f3a[] = {0x0f, 0xce, 0xcf};
static const uint8_t words_0f3a[] = {0x42, 0x70, 0x72};

/* VPMOV between element sizes: the wider size, on which the mask works; 0 for other opcodes. */
static unsigned converting_move(const struct tr_insn *i, const struct step_vex *f)
{
    static const uint8_t wide[] = {2, 4, 8, 4, 8, 8};
    unsigned low = i->opcode & 15, high = i->opcode >> 4;
    if (f->map != 2 || low > 5)
        return 0;
    if (f->pp == PP_F3 ? high < 1 || high > 3 : f->pp != PP_66 || high < 2 || high > 3)
        return 0;
    return wide[low];
}

/* Conversions between elements of different sizes: the mask works on the wider ones. 0: not one. */
static unsigned converting_element(const struct tr_insn *i, const struct step_vex *f)
{
    bool to_int = i->opcode >= 0x78 && i->opcode <= 0x7b;
    if (f->map == 1) {
        bool widens = (i->opcode == 0x5a && !f->pp) || (to_int && f->pp == PP_66) ||
                      ((i->opcode == 0x7a || i->opcode == 0xe6) && f->pp == PP_F3);
        return widens ? 8 : 0;
    }
    if (f->map == 6)
        return i->opcode == 0x13 && f->pp == PP_66 ? 4 : 0;
    if (f->map != 5)
        return 0;
    switch (i->opcode) { /* FP16 */
    case 0x1d:
        return 4;
    case 0x5a:
        return f->pp == PP_F3 ? 2 : 8;
    case 0x5b:
        return f->w ? 8 : 4;
    case 0x78 ... 0x7b:
        return f->pp == PP_66 ? 8 : f->pp == PP_F2 && f->w ? 8 : 4;
    default:
        return 0;
    }
}

static bool converts_packed(const struct tr_insn *i, const struct step_vex *f)
{
    if (f->map == 5 && ((i->opcode == 0x5a && f->pp >= PP_F3) || (i->opcode == 0x1d && !f->pp)))
        return false; /* FP16, scalar */
    return converting_move(i, f) || converting_element(i, f);
}

static unsigned element_bytes(const struct tr_insn *i, const struct step_vex *f)
{
    unsigned by_w = f->w ? 8 : 4, wide = converting_move(i, f);
    if (wide || (wide = converting_element(i, f)))
        return wide;
    if (f->map == 6 && ((i->opcode & 0xfe) == 0x56 || (i->opcode & 0xfe) == 0xd6))
        return 4; /* complex FP16: VFMADDCPH, VFMULCPH and others */
    if (f->map >= 5 || (f->map == 3 && (!f->pp || (f->pp == PP_F3 && i->opcode == 0xc2))))
        return 2; /* AVX512-FP16 */
    if (f->map == 1 && f->pp == PP_F2 && (i->opcode == 0x6f || i->opcode == 0x7f))
        return f->w ? 2 : 1;
    if (f->map == 1 && i->opcode == 0x70 && f->pp != PP_66)
        return 2;
    if (f->map == 3 && i->opcode == 0x1d) /* VCVTPS2PH: the mask works on the source */
        return 4;
    if (f->map == 3 && IN(byte_word_0f3a, i->opcode))
        return f->w ? 2 : 1;
    if (f->map == 2 && IN(byte_word_0f38, i->opcode))
        return f->w ? 2 : 1;
    if (f->pp != PP_66)
        return by_w;
    if (f->map == 1)
        return IN(bytes_0f, i->opcode) ? 1 : IN(words_0f, i->opcode) ? 2 : by_w;
    if (f->map == 2)
        return IN(bytes_0f38, i->opcode) ? 1 : IN(words_0f38, i->opcode) ? 2 : by_w;
    return IN(bytes_0f3a, i->opcode) ? 1 : IN(words_0f3a, i->opcode) ? 2 : by_w;
}

/* ---- what a masked instruction accesses ---- */

static bool compresses(const struct tr_insn *i, const struct step_vex *f)
{
    return f->map == 2 &&
           (i->opcode == 0x62 || i->opcode == 0x63 || (i->opcode >= 0x88 && i->opcode <= 0x8b));
}

/* VBROADCAST and VPBROADCAST with any tuple, VMOVDDUP of 64 bits: one piece for many lanes. */
static bool repeats_operand(const struct tr_insn *i, const struct step_vex *f)
{
    static const uint8_t broadcasts[] = {0x18, 0x19, 0x1a, 0x1b, 0x58,
                                         0x59, 0x5a, 0x5b, 0x78, 0x79};
    if (i->evex_b && !i->mem_write)
        return true;
    if (f->map == 2)
        return f->pp == PP_66 && IN(broadcasts, i->opcode);
    return f->map == 1 && f->pp == PP_F2 && i->opcode == 0x12 && i->mem_size == 8;
}

/* Bits for n elements of size bytes each, lane by lane. */
static uint64_t spread(uint64_t lanes, unsigned n, unsigned size)
{
    uint64_t bytes = 0;
    for (unsigned k = 0; k < n && k * size < 64; k++)
        if (lanes >> k & 1)
            bytes |= step_mask(size) << (k * size);
    return bytes;
}

static uint64_t evex_bytes(struct mon_vcpu *v, const struct tr_insn *i)
{
    struct step_vex f = step_vex_fields(i);
    unsigned element = element_bytes(i, &f), lanes = vector_bytes(i) / element;
    unsigned operand = i->mem_size > 64 ? 64 : i->mem_size;
    uint64_t mask = step_opmask(v, i->evex_aaa) & step_mask(lanes), all = step_mask(operand);

    if (compresses(i, &f))
        return step_mask((unsigned)__builtin_popcountll(mask) * element) & all;
    if (repeats_operand(i, &f))
        return mask ? all : 0;
    if (operand <= 8 && operand == element && !converts_packed(i, &f)) /* scalar */
        return mask & 1 ? all : 0;
    if (f.map == 3 && (i->opcode & 0xdd) == 0x19) /* VEXTRACT: fewer lanes than the register */
        return spread(mask, operand / element, element);
    return spread(mask, lanes, operand / lanes ? operand / lanes : 1) & all;
}

unsigned step_first_selected(struct mon_vcpu *v, const struct tr_insn *i, uint64_t bytes)
{
    struct step_vex f = step_vex_fields(i);
    unsigned element = element_bytes(i, &f);
    uint64_t mask = step_opmask(v, i->evex_aaa) & step_mask(vector_bytes(i) / element);

    if (i->encoding != TR_ENC_EVEX || !repeats_operand(i, &f) || i->mem_size <= element || !mask)
        return bytes ? (unsigned)__builtin_ctzll(bytes) : 0;
    /* Element k is selected by bits k, k + n, k + 2n ... */
    unsigned n = i->mem_size / element, first = 0;
    while (!(mask >> first & (~0ull / step_mask(n))))
        first++;
    return first * element;
}

/* VMASKMOVPS/PD (2Ch-2Fh), VPMASKMOVD/Q (8Ch, 8Eh). */
static bool is_maskmov_vex(const struct tr_insn *i)
{
    return i->encoding == TR_ENC_VEX && i->map == 2 &&
           ((i->opcode & 0xfc) == 0x2c || i->opcode == 0x8c || i->opcode == 0x8e);
}

static uint64_t sign_bits(const uint8_t *data, unsigned n, unsigned size)
{
    uint64_t lanes = 0;
    for (unsigned k = 0; k < n; k++)
        lanes |= (uint64_t)(data[k * size + size - 1] >> 7) << k;
    return lanes;
}

bool step_is_partial(struct mon_vcpu *v, const struct tr_insn *i, uint64_t *bytes)
{
    if (i->encoding == TR_ENC_EVEX && i->evex_aaa) {
        *bytes = evex_bytes(v, i);
        return true;
    }
    if (!is_maskmov_vex(i))
        return false;
    struct step_vex f = step_vex_fields(i);
    uint8_t mask[64];
    unsigned element = i->opcode & 0x80 ? (f.w ? 8 : 4) : (i->opcode & 1 ? 8 : 4);
    unsigned len = vector_bytes(i);
    step_vec_read(v, f.vvvv, mask, len);
    *bytes = spread(sign_bits(mask, len / element, element), len / element, element);
    return true;
}

/* Exception classes with "NF" (SDM 2-2.8), as a CPU has them: every opcode was tried with an empty
 * mask and an operand in an absent page. */
bool step_suppresses_faults(const struct tr_insn *i)
{
    static const uint8_t map1[] = {0x12, 0x14, 0x15, 0x16, 0x60, 0x61, 0x62, 0x63, 0x67,
                                   0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d, 0x70, 0xc6, 0xd1,
                                   0xd2, 0xd3, 0xe1, 0xe2, 0xf1, 0xf2, 0xf3, 0xf5};
    static const uint8_t map2[] = {0x00, 0x04, 0x0c, 0x0d, 0x16, 0x2b, 0x36, 0x75,
                                   0x76, 0x77, 0x7d, 0x7e, 0x7f, 0x83, 0x8d, 0xc4};
    static const uint8_t map3[] = {0x00, 0x01, 0x03, 0x04, 0x05, 0x0f, 0x18, 0x19, 0x1a, 0x1b,
                                   0x23, 0x38, 0x39, 0x3a, 0x3b, 0x42, 0x43, 0xce, 0xcf};
    if (i->encoding != TR_ENC_EVEX)
        return true;
    switch (i->map) {
    case 1:
        return !IN(map1, i->opcode);
    case 2: /* 72h with F2h is VCVTNE2PS2BF16 */
        return !IN(map2, i->opcode) && !(i->opcode == 0x72 && step_vex_fields(i).pp == PP_F2);
    case 3:
        return !IN(map3, i->opcode);
    default:
        return true;
    }
}

/* ---- transfers of selected bytes ---- */

/* The next run of selected bytes at or after *start; false when there is none. */
static bool next_run(uint64_t bytes, unsigned *start, unsigned *len)
{
    if (*start >= 64 || !(bytes >> *start))
        return false;
    *start += (unsigned)__builtin_ctzll(bytes >> *start);
    uint64_t rest = ~(bytes >> *start);
    *len = rest ? (unsigned)__builtin_ctzll(rest) : 64;
    if (*start + *len > 64)
        *len = 64 - *start;
    return true;
}

/* An operand does not go on at 0 behind 64 KiB: what is there is beyond the limit. Nor does it
 * behind 4 GiB in 64-bit code (both compared with a processor). */
static uint64_t piece_at(const struct mon_vcpu *v, uint64_t ea, unsigned at, unsigned adsize)
{
    if (adsize == 16 || mon_code64(v))
        return (ea & step_mask(adsize)) + at;
    return (ea + at) & step_mask(adsize);
}

static enum mon_rc partial_walk(struct mon_vcpu *v, unsigned seg, uint64_t ea, uint64_t bytes,
                                unsigned adsize, unsigned access)
{
    enum mon_rc rc = MON_OK;
    uint64_t gla;
    for (unsigned at = 0, len = 0; rc == MON_OK && next_run(bytes, &at, &len); at += len) {
        rc = step_linear(v, seg, piece_at(v, ea, at, adsize), len, access, &gla);
        if (rc == MON_OK)
            rc = mon_lin_check(v, gla, len, access);
    }
    return rc;
}

enum mon_rc step_partial_check(struct mon_vcpu *v, unsigned seg, uint64_t ea, uint64_t bytes,
                               unsigned adsize)
{
    return partial_walk(v, seg, ea, bytes, adsize, MON_WRITE);
}

enum mon_rc step_partial_read(struct mon_vcpu *v, unsigned seg, uint64_t ea, uint64_t bytes,
                              unsigned adsize, uint8_t *data)
{
    enum mon_rc rc = partial_walk(v, seg, ea, bytes, adsize, MON_READ);
    for (unsigned at = 0, len = 0; rc == MON_OK && next_run(bytes, &at, &len); at += len)
        rc = step_read(v, seg, piece_at(v, ea, at, adsize), data + at, len);
    return rc;
}

enum mon_rc step_partial_write(struct mon_vcpu *v, unsigned seg, uint64_t ea, uint64_t bytes,
                               unsigned adsize, const uint8_t *data)
{
    enum mon_rc rc = MON_OK;
    for (unsigned at = 0, len = 0; rc == MON_OK && next_run(bytes, &at, &len); at += len)
        rc = step_write(v, seg, piece_at(v, ea, at, adsize), data + at, len);
    return rc;
}

/* ---- gathers and scatters (SDM 2 VGATHERDPS, VPSCATTERDD) ---- */

struct gather {
    struct step_vex f;
    bool scatter, evex, progress;
    unsigned element, index_size, lanes;
    unsigned dest_len; /* of the data register, in bytes */
    unsigned index_reg;
    uint64_t base; /* base register + displacement */
    uint64_t mask; /* a bit for each lane still to do */
    uint8_t data[64], index[64], vex_mask[64];
};

static void gather_prepare(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next,
                           struct gather *g)
{
    unsigned len = vector_bytes(i);

    g->f = step_vex_fields(i);
    g->progress = false;
    g->evex = i->encoding == TR_ENC_EVEX;
    g->scatter = (i->opcode & 0xf0) == 0xa0;
    g->element = g->f.w ? 8 : 4;
    g->index_size = i->opcode & 1 ? 8 : 4;
    g->lanes = len / (g->element > g->index_size ? g->element : g->index_size);
    g->dest_len = g->lanes * g->element < 16 ? 16 : g->lanes * g->element;
    g->index_reg = (unsigned)i->index | g->f.index_high;
    g->base = step_ea(v, i, next);
    unsigned index_len = g->lanes * g->index_size;
    step_vec_read(v, g->index_reg, g->index, index_len < 16 ? 16 : index_len);
    step_vec_read(v, g->f.reg, g->data, g->dest_len);
    if (g->evex) {
        g->mask = step_opmask(v, i->evex_aaa) & step_mask(g->lanes);
    } else {
        step_vec_read(v, g->f.vvvv, g->vex_mask, g->dest_len);
        g->mask = sign_bits(g->vex_mask, g->lanes, g->element);
    }
}

static enum mon_rc gather_lane(struct mon_vcpu *v, const struct tr_insn *i, struct gather *g,
                               unsigned lane)
{
    uint64_t index = 0;
    uint8_t *data = g->data + lane * g->element;
    memcpy(&index, g->index + lane * g->index_size, g->index_size);
    index = (uint64_t)step_sign_extend(index, g->index_size * 8);
    uint64_t ea = (g->base + index * i->scale) & step_mask(i->adsize);
    if (g->scatter)
        return step_write(v, i->seg, ea, data, g->element);
    return step_read(v, i->seg, ea, data, g->element);
}

/* Before a fault: of the data register only lanes that are done change, and they have their mask
 * cleared, from where the instruction goes on. In a VEX mask the other elements, those without a
 * lane too, are all ones or zeros by then (SDM 2 VGATHERDPS). */
static void gather_interrupt(struct mon_vcpu *v, const struct tr_insn *i, struct gather *g)
{
    unsigned len = vector_bytes(i);
    uint8_t whole[64];

    step_vec_read(v, g->f.reg, whole, 64);
    for (unsigned k = 0; k < g->lanes && !g->scatter; k++)
        if (!(g->mask >> k & 1))
            memcpy(whole + k * g->element, g->data + k * g->element, g->element);
    if (!g->scatter && g->progress)
        step_vec_write(v, g->f.reg, whole, len);
    if (g->evex) {
        uint64_t others = step_opmask(v, i->evex_aaa) & ~step_mask(g->lanes);
        step_set_opmask(v, i->evex_aaa, others | g->mask);
        return;
    }
    step_vec_read(v, g->f.vvvv, whole, len);
    for (unsigned k = 0; k < len / g->element; k++) {
        bool set = k < g->lanes ? g->mask >> k & 1 : whole[(k + 1) * g->element - 1] & 0x80;
        memset(whole + k * g->element, set ? 0xff : 0, g->element);
    }
    step_vec_write(v, g->f.vvvv, whole, len);
}

/* All lanes are done. */
static void gather_commit(struct mon_vcpu *v, const struct tr_insn *i, struct gather *g)
{
    unsigned used = g->lanes * g->element;
    if (!g->scatter) {
        memset(g->data + used, 0, sizeof(g->data) - used);
        step_vec_write(v, g->f.reg, g->data, g->dest_len);
    }
    if (g->evex) {
        step_set_opmask(v, i->evex_aaa, 0);
        return;
    }
    memset(g->vex_mask, 0, sizeof(g->vex_mask));
    step_vec_write(v, g->f.vvvv, g->vex_mask, g->dest_len);
}

/* A fault behind lanes that this run did: traps that are due come in its place, with RF set and
 * the rest still to do (SDM 2 VGATHERDPS). */
static bool gather_traps_first(struct mon_vcpu *v, bool progress)
{
    if (!progress || !((v->cpu->rflags & RT_TF) || v->debug_hits))
        return false;
    v->cpu->rflags |= RT_RF;
    return true;
}

enum mon_rc step_gather(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    struct gather g;
    gather_prepare(v, i, next, &g);
    bool clash = g.evex ? !i->evex_aaa || (!g.scatter && g.f.reg == g.index_reg)
                        : g.f.reg == g.index_reg || g.f.reg == g.f.vvvv || g.f.vvvv == g.index_reg;
    if (clash)
        return mon_raise(v, MON_UD);
    for (unsigned lane = 0; lane < g.lanes; lane++) {
        if (!(g.mask >> lane & 1))
            continue;
        enum mon_rc rc = gather_lane(v, i, &g, lane);
        if (rc == MON_FAULT) {
            gather_interrupt(v, i, &g);
            if (gather_traps_first(v, g.progress))
                return MON_OK;
        }
        if (rc != MON_OK)
            return rc;
        g.mask &= ~(1ull << lane);
        g.progress = true;
    }
    gather_commit(v, i, &g);
    return step_done(v, next);
}

/* ---- MASKMOVQ, MASKMOVDQU ---- */

/* The first MMX instruction sets TOP to 0 and marks all registers valid (SDM 1-9.5.1). */
static void enter_mmx(struct mon_vcpu *v)
{
    uint8_t *area = step_component_data(v, STEP_X87);
    step_x87_set_top(area, 0);
    area[4] = 0xff;
}

enum mon_rc step_maskmov(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint8_t data[16], mask[16];
    bool mmx = i->encoding == TR_ENC_LEGACY && !i->prefix66;
    unsigned len = mmx ? 8 : 16;
    unsigned reg = i->encoding == TR_ENC_VEX ? step_vex_fields(i).reg : i->reg, rm = i->rm;

    if (i->encoding == TR_ENC_VEX && i->mode == TR_MODE_64 && i->bytes[i->modrm_at - 3] != 0xc5)
        rm |= i->bytes[i->modrm_at - 3] & 0x20 ? 0 : 8;
    step_fpu_normalise(v);
    if (mmx) {
        uint8_t *area = v->cpu->xsave;
        unsigned top = area[3] >> 3 & 7;
        if (area[2] & 0x80)
            return mon_raise(v, MON_MF);
        memcpy(data, area + 32 + ((reg - top) & 7) * 16, 8);
        memcpy(mask, area + 32 + ((rm - top) & 7) * 16, 8);
    } else {
        step_vec_read(v, reg, data, 16);
        step_vec_read(v, rm, mask, 16);
    }
    if (mmx)
        enter_mmx(v); /* before a fault too */
    /* By halves, the upper one first; all of both has to be writable, whatever the mask (compared
     * with a processor). */
    uint64_t bytes = spread(sign_bits(mask, len, 1), len, 1), ea = step_reg_ad(v, i, RT_DI);
    enum mon_rc rc = MON_OK;
    for (unsigned at = len; at > 0 && rc == MON_OK; at -= 8)
        rc = step_check_write(v, i->seg, (ea + at - 8) & step_mask(i->adsize), 8);
    for (unsigned at = len; at > 0 && rc == MON_OK; at -= 8)
        rc = step_partial_write(v, i->seg, (ea + at - 8) & step_mask(i->adsize),
                                bytes >> (at - 8) & 0xff, i->adsize, data + at - 8);
    return rc == MON_OK ? step_done(v, next) : rc;
}
