/* input.c - random numbers; the registers, vectors and memory that sequences start with.
 *
 * Some general registers start as pointers into the arena and are seldom overwritten, so that most
 * accesses hit it; the others are small half of the time, good as counts and indices. Floating
 * point data has its share of infinities, NaNs and denormals. */
#include "tests/diff/diff.h"

#include "runtime/vcpu.h"

#include <string.h>

/* ---- random numbers: xoroshiro128+ (Blackman and Vigna, public domain algorithm) ---- */

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

void random_seed(struct random *r, uint64_t seed, uint64_t stream)
{
    r->s[0] = mix(seed + 0x9e3779b97f4a7c15ull);
    r->s[1] = mix(stream + 0x7f4a7c159e3779b9ull) | 1;
    for (unsigned i = 0; i < 8; i++)
        random_64(r);
}

uint64_t random_64(struct random *r)
{
    uint64_t a = r->s[0], b = r->s[1], result = a + b;

    b ^= a;
    r->s[0] = (a << 24 | a >> 40) ^ b ^ b << 16;
    r->s[1] = b << 37 | b >> 27;
    return result;
}

uint32_t random_32(struct random *r)
{
    return (uint32_t)(random_64(r) >> 32);
}

static uint64_t interesting_32(struct random *r)
{
    uint32_t x;
    static const uint32_t values[] = {
        0,      1,          2,          0x7f,       0x80, 0xff, 0x7fff,     0x8000,
        0xffff, 0x7fffffff, 0x80000000, 0xffffffff, 31,   32,   0x10000000, 0xfffffffe};
    switch (random_below(r, 4)) {
    case 0:
        return values[random_below(r, sizeof(values) / sizeof(values[0]))];
    case 1:
        return random_below(r, 200);
    case 2:
        x = random_32(r);
        return x >> random_below(r, 32);
    default:
        return random_32(r);
    }
}

uint64_t interesting(struct random *r)
{
    static const uint64_t values[] = {0x8000000000000000,
                                      0x7fffffffffffffff,
                                      0x00007fffffffffff,
                                      0x0000800000000000,
                                      0xffff800000000000,
                                      0x100000000,
                                      0xffffffff80000000,
                                      63,
                                      64,
                                      ~0ull,
                                      ~1ull,
                                      0xffffffff};
    uint64_t x;

    if (!long_mode())
        return interesting_32(r);
    switch (random_below(r, 6)) {
    case 0:
        return values[random_below(r, sizeof(values) / sizeof(values[0]))];
    case 1:
        x = random_64(r);
        return x >> random_below(r, 64);
    case 2:
        return (uint64_t)(int64_t)(int32_t)interesting_32(r);
    case 3:
        return random_64(r);
    default:
        return interesting_32(r);
    }
}

uint64_t arena_pointer(struct random *r)
{
    static const uint64_t places[] = {ARENA, ARENA, HIGH + ARENA, SPAN};
    uint32_t at =
        one_in(r, 40) ? random_below(r, ARENA_SIZE) : 0x2000 + random_below(r, ARENA_SIZE - 0x4000);
    unsigned align = random_below(r, 4), place = long_mode() ? random_below(r, 4) : 0;

    if (one_in(r, 40)) /* around the ends */
        at = (at & 1 ? 0 : ARENA_SIZE) + random_below(r, 192) - 96;
    at = align == 0 ? at : at & (align == 1 ? ~3u : ~63u);
    if (diff_mode == TR_MODE_16)
        return at;
    if (places[place] == SPAN && one_in(r, 8)) /* around the multiple of 4 GiB */
        at = ARENA_SIZE / 2 + random_below(r, 256) - 128;
    return places[place] + at;
}

/* ---- registers and memory ---- */

unsigned pointer_registers(const uint8_t **regs)
{
    static const uint8_t classic[] = {RT_BX, RT_SP, RT_BP, RT_SI, RT_DI};
    static const uint8_t long_ones[] = {RT_BX, RT_SP, RT_BP, RT_SI, RT_DI, 9, 10, 12, 13, 14};

    *regs = long_mode() ? long_ones : classic;
    return long_mode() ? sizeof(long_ones) : sizeof(classic);
}

/* 64 bits that mean something as numbers of some kind. */
static uint64_t number(struct random *r)
{
    float f[2];
    double d;
    uint64_t x = random_64(r);

    switch (random_below(r, 7)) {
    case 0:
        x = interesting_32(r);
        return x | interesting(r) << 32;
    case 1: /* floats of moderate size */
        f[0] = (float)(int32_t)x / 64.0f;
        f[1] = (float)(int32_t)(x >> 32) / 4096.0f;
        memcpy(&x, f, 8);
        return x;
    case 2:
        d = (double)(int64_t)x / 1048576.0;
        memcpy(&x, &d, 8);
        return x;
    case 3: /* infinities, NaNs, denormals */
        return (x & 0x803fffff803fffffull) | (one_in(r, 2) ? 0x7f8000007f800000ull : 0);
    case 4: /* bytes that are small: indices, shuffles */
        return x & 0x1f1f1f1f1f1f1f1full;
    case 5:
        x = arena_pointer(r);
        return long_mode() ? x : x | (uint64_t)random_below(r, 0x400) << 32;
    default:
        return x;
    }
}

static void extended(struct random *r, uint8_t *st)
{
    uint64_t mantissa = number(r);
    uint16_t exponent = (uint16_t)(0x3fff + (int)random_below(r, 80) - 40);

    if (one_in(r, 8)) /* whatever the bits say */
        exponent = (uint16_t)random_32(r);
    else if (one_in(r, 8))
        exponent = one_in(r, 2) ? 0x7fff : 0;
    else
        mantissa |= 1ull << 63;
    exponent |= (uint16_t)(random_32(r) & 0x8000);
    memcpy(st, &mantissa, 8);
    memcpy(st + 8, &exponent, 2);
}

static void put16(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, 2);
}

static void input_fx(struct random *r, uint8_t *fx)
{
    uint32_t mxcsr = one_in(r, 8) ? random_32(r) & 0xffff : 0x1f80 | (random_32(r) & 0xe000);

    memset(fx, 0, 512);
    put16(fx, one_in(r, 8) ? (random_32(r) & 0xf3f) | 0x40 : 0x37f | (random_32(r) & 0xc00));
    put16(fx + 2, one_in(r, 4) ? random_32(r) & 0x7f7f : random_below(r, 8) << 11);
    fx[4] = (uint8_t)(one_in(r, 2) ? 0xff : random_32(r));
    memcpy(fx + 24, &mxcsr, 4);
    for (unsigned i = 0; i < 8; i++)
        extended(r, fx + 32 + 16 * i);
    for (unsigned i = 0; i < 2 * gpr_count(); i++) {
        uint64_t x = number(r);
        memcpy(fx + 160 + 8 * i, &x, 8);
    }
}

static void input_vectors(struct random *r, struct image *in)
{
    unsigned words = 8 * vector_count(2);

    input_fx(r, in->fx);
    for (unsigned i = 0; i < words; i++) {
        uint64_t x = number(r);
        memcpy(&in->vector[0][0] + 8 * i, &x, 8);
    }
    for (unsigned i = 0; i < 8; i++)
        in->mask[i] = one_in(r, 3) ? ~0ull : random_64(r);
}

static void input_flags(struct random *r, struct image *in, bool ac, bool step)
{
    in->rflags = 0x202 | (random_32(r) & RT_ARITH);
    if (one_in(r, 5))
        in->rflags |= RT_DF;
    if (ac && one_in(r, 60))
        in->rflags |= RT_AC;
    if (step)
        in->rflags |= RT_TF;
}

void generate_input(struct random *r, struct image *in, bool vector, bool step)
{
    const uint8_t *pointers;
    unsigned n = pointer_registers(&pointers), is_pointer = 0;

    for (unsigned i = 0; i < n; i++) {
        is_pointer |= 1u << pointers[i];
        in->gpr[pointers[i]] = one_in(r, 100) ? interesting(r) : arena_pointer(r);
    }
    for (unsigned i = 0; i < gpr_count(); i++) {
        if (!(is_pointer >> i & 1))
            in->gpr[i] = one_in(r, 2) ? random_below(r, 40) : interesting(r);
    }
    input_flags(r, in, !vector, step);
    if (vector)
        input_vectors(r, in);
}

void generate_arena(struct random *r, uint8_t *arena)
{
    for (unsigned at = 0; at < ARENA_SIZE; at += 8) {
        uint64_t x = number(r);
        memcpy(arena + at, &x, 8);
    }
}
