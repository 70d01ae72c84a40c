/* integer.c - programs that live in general registers, branches and the data cache. */
#include "bench.h"

#include <stdlib.h>
#include <string.h>

/* --- sieve: a bitmap of primes, branch-light ---------------------------------------------------
 */

static uint64_t sieve(void)
{
    enum { LIMIT = 4000000 };
    uint8_t *composite = bench_arena;
    unsigned count = 0;
    for (int round = 0; round < 3; round++) {
        memset(composite, 0, LIMIT + 1);
        count = 0;
        for (unsigned i = 2; i <= LIMIT; i++) {
            if (composite[i])
                continue;
            count++;
            for (unsigned j = i + i; j <= LIMIT; j += i)
                composite[j] = 1;
        }
    }
    return count; /* 283146 */
}

/* --- queens: recursion and bit tricks -----------------------------------------------------------
 */

static unsigned place_queens(unsigned all, unsigned columns, unsigned left, unsigned right)
{
    if (columns == all)
        return 1;
    unsigned count = 0;
    unsigned open = all & ~(columns | left | right);
    while (open) {
        unsigned bit = open & -open;
        open ^= bit;
        count += place_queens(all, columns | bit, (left | bit) << 1, (right | bit) >> 1);
    }
    return count;
}

static uint64_t queens(void)
{
    return place_queens((1u << 13) - 1, 0, 0, 0); /* 73712 */
}

/* --- quicksort: data-dependent branches ---------------------------------------------------------
 */

static void sort_range(int *a, int n)
{
    while (n > 12) {
        int pivot = a[n / 2], i = 0, j = n - 1;
        for (;;) {
            while (a[i] < pivot)
                i++;
            while (a[j] > pivot)
                j--;
            if (i >= j)
                break;
            int t = a[i];
            a[i++] = a[j];
            a[j--] = t;
        }
        sort_range(a, i);
        a += i;
        n -= i;
    }
    for (int i = 1; i < n; i++) {
        int v = a[i], j = i;
        for (; j > 0 && a[j - 1] > v; j--)
            a[j] = a[j - 1];
        a[j] = v;
    }
}

static uint64_t quicksort(void)
{
    enum { N = 1000000 };
    int *a = (int *)bench_arena;
    uint64_t seed = 1;
    for (int i = 0; i < N; i++)
        a[i] = (int)(bench_random(&seed) >> 33);
    sort_range(a, N);
    for (int i = 1; i < N; i++)
        if (a[i - 1] > a[i])
            return 0;
    return bench_hash(a, 4096);
}

/* --- hash_table: open addressing, cache misses ---------------------------------------------------
 */

static uint64_t hash_table(void)
{
    enum { SLOTS = 1 << 17, KEYS = 80000 };
    uint32_t *keys = (uint32_t *)bench_arena, *values = keys + SLOTS;
    uint64_t found = 0;
    for (int round = 0; round < 15; round++) {
        memset(keys, 0, SLOTS * sizeof *keys);
        uint64_t seed = 7;
        for (int i = 0; i < KEYS; i++) {
            uint32_t key = (uint32_t)bench_random(&seed) | 1;
            uint32_t slot = key * 2654435761u >> 15;
            while (keys[slot] && keys[slot] != key)
                slot = (slot + 1) & (SLOTS - 1);
            keys[slot] = key;
            values[slot] = (uint32_t)i;
        }
        seed = 7;
        for (int i = 0; i < 2 * KEYS; i++) {
            uint32_t key = (uint32_t)bench_random(&seed) | 1;
            uint32_t slot = key * 2654435761u >> 15;
            while (keys[slot] && keys[slot] != key)
                slot = (slot + 1) & (SLOTS - 1);
            if (keys[slot])
                found += values[slot];
        }
    }
    return found;
}

/* --- lz: a byte-oriented LZ77 with a hash of three bytes, both ways
 * ------------------------------- */

enum { LZ_SIZE = 2 << 20, LZ_HASH = 1 << 14 };

/* Text with repetitions, made from a small vocabulary. */
static void make_text(uint8_t *text, size_t size)
{
    static const char *const words[] = {"translation ", "block ", "the ",  "cache ",   "of ",
                                        "guest ",       "is ",    "page ", "monitor ", "a ",
                                        "register ",    "and ",   "to ",   "fault ",   "\n"};
    uint64_t seed = 99;
    size_t n = 0;
    while (n < size) {
        uint64_t r = bench_random(&seed);
        const char *w = words[(r >> 20) % 15];
        size_t len = strlen(w);
        if (len > size - n)
            len = size - n;
        memcpy(text + n, w, len);
        n += len;
        if ((r & 31) == 0 && n < size)
            text[n++] = (uint8_t)(r >> 50);
    }
}

/* Tokens: 0..127 literals that follow (count - 1); 128 + length - 3, then a 16-bit distance. */
static size_t lz_pack(const uint8_t *in, size_t size, uint8_t *out, uint32_t *table)
{
    memset(table, 0xff, LZ_HASH * sizeof *table);
    size_t n = 0, literals = 0, i = 0;
    while (i + 3 < size) {
        uint32_t three = in[i] | in[i + 1] << 8 | (uint32_t)in[i + 2] << 16;
        uint32_t *slot = &table[three * 2654435761u >> 18];
        size_t from = *slot;
        *slot = (uint32_t)i;
        size_t len = 0;
        if (from != UINT32_MAX && i - from < 65536)
            while (len < 130 && i + len < size && in[from + len] == in[i + len])
                len++;
        if (len < 3) {
            if (literals == 0)
                out[n++] = 0;
            out[n++] = in[i++];
            out[n - literals - 2] = (uint8_t)literals;
            literals = (literals + 1) & 127;
            continue;
        }
        literals = 0;
        out[n++] = (uint8_t)(128 + len - 3);
        out[n++] = (uint8_t)(i - from);
        out[n++] = (uint8_t)((i - from) >> 8);
        i += len;
    }
    return n;
}

static size_t lz_unpack(const uint8_t *in, size_t size, uint8_t *out)
{
    size_t n = 0, i = 0;
    while (i < size) {
        unsigned token = in[i++];
        if (token < 128) {
            for (unsigned k = 0; k <= token; k++)
                out[n++] = in[i++];
        } else {
            size_t distance = in[i] | (size_t)in[i + 1] << 8;
            i += 2;
            for (unsigned k = 0; k < token - 128 + 3; k++, n++)
                out[n] = out[n - distance];
        }
    }
    return n;
}

static size_t lz_packed;
#define LZ_TEXT     bench_arena
#define LZ_PACKED   (bench_arena + 4 * (size_t)LZ_SIZE)
#define LZ_UNPACKED (bench_arena + 8 * (size_t)LZ_SIZE)
#define LZ_TABLE    ((uint32_t *)(bench_arena + 12 * (size_t)LZ_SIZE))

static uint64_t lz_prepare(void)
{
    make_text(LZ_TEXT, LZ_SIZE);
    lz_packed = lz_pack(LZ_TEXT, LZ_SIZE, LZ_PACKED, LZ_TABLE);
    return lz_packed;
}

static uint64_t lz_compress(void)
{
    for (int i = 0; i < 10; i++)
        lz_packed = lz_pack(LZ_TEXT, LZ_SIZE, LZ_PACKED, LZ_TABLE);
    return lz_packed;
}

static uint64_t lz_decompress(void)
{
    size_t n = 0;
    for (int i = 0; i < 12; i++)
        n = lz_unpack(LZ_PACKED, lz_packed, LZ_UNPACKED);
    return memcmp(LZ_TEXT, LZ_UNPACKED, n) == 0 ? n : 0;
}

/* --- sha256 in C: rotations and additions
 * --------------------------------------------------------- */

static uint32_t sha_k[64], sha_h0[8];

/* The constants are fractional parts of cube and square roots of the first primes (FIPS 180-4,
 * 4.2.2 and 5.3.3), found by integer bisection. */
static uint32_t root_fraction(unsigned prime, bool cube)
{
    uint64_t low = 0, high = (uint64_t)20 << 32; /* the root, 32 fractional bits; root < 20 */
    while (high - low > 1) {
        uint64_t middle = (low + high) / 2;
        long double r = (long double)middle / 4294967296.0L;
        if ((cube ? r * r * r : r * r) <= prime)
            low = middle;
        else
            high = middle;
    }
    return (uint32_t)low;
}

static uint64_t sha_prepare(void)
{
    unsigned n = 0;
    for (unsigned p = 2; n < 64; p++) {
        bool prime = true;
        for (unsigned d = 2; d * d <= p; d++)
            prime = prime && p % d;
        if (!prime)
            continue;
        if (n < 8)
            sha_h0[n] = root_fraction(p, false);
        sha_k[n++] = root_fraction(p, true);
    }
    make_text(bench_arena, 65536);
    return 0;
}

static inline uint32_t rotate(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

static void sha_block(uint32_t h[8], const uint8_t *p)
{
    uint32_t w[64];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | p[4 * i + 2] << 8 |
               p[4 * i + 3];
    for (int i = 16; i < 64; i++)
        w[i] = w[i - 16] + w[i - 7] +
               (rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3) +
               (rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10);
    uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4], f = h[5], g = h[6], x = h[7];
    for (int i = 0; i < 64; i++) {
        uint32_t t1 = x + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g)) +
                      sha_k[i] + w[i];
        uint32_t t2 =
            (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
        x = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    h[0] += a, h[1] += b, h[2] += c, h[3] += d;
    h[4] += e, h[5] += f, h[6] += g, h[7] += x;
}

static uint64_t sha256(void)
{
    uint32_t h[8];
    memcpy(h, sha_h0, sizeof h);
    for (int round = 0; round < 60; round++)
        for (int i = 0; i < 65536; i += 64)
            sha_block(h, bench_arena + i);
    return bench_hash(h, sizeof h);
}

/* --- crc32: a table lookup for each byte
 * ---------------------------------------------------------- */

static uint64_t crc32(void)
{
    uint32_t table[256], crc = ~0u;
    for (unsigned i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++)
            c = c & 1 ? c >> 1 ^ 0xedb88320u : c >> 1;
        table[i] = c;
    }
    for (int round = 0; round < 500; round++)
        for (int i = 0; i < 65536; i++)
            crc = table[(crc ^ bench_arena[i]) & 255] ^ crc >> 8;
    return ~crc;
}

/* --- a bytecode interpreter, by switch and by computed goto
 * ----------------------------------------- */

enum op { OP_LOAD, OP_ADD, OP_MUL, OP_XOR, OP_SHIFT, OP_DEC, OP_LOOP, OP_SWAP, OP_END };

/* Computes a mixing loop; each byte an enum op. */
static const uint8_t vm_program[] = {OP_LOAD, OP_ADD, OP_XOR, OP_SWAP,  OP_SHIFT, OP_ADD,
                                     OP_MUL,  OP_XOR, OP_DEC, OP_SHIFT, OP_LOOP,  OP_END};
enum { VM_ROUNDS = 6000000 };

static uint64_t vm_switch(void)
{
    uint32_t a = 1, b = 2, n = VM_ROUNDS;
    const volatile uint8_t *program = vm_program; /* the compiler must not run it beforehand */
    for (unsigned pc = 0;; pc++) {
        switch (program[pc]) {
        case OP_LOAD:
            b += 0x9e3779b9;
            break;
        case OP_ADD:
            a += b;
            break;
        case OP_MUL:
            a *= 5;
            break;
        case OP_XOR:
            b ^= a;
            break;
        case OP_SHIFT:
            b = rotate(b, 7);
            break;
        case OP_DEC:
            n--;
            break;
        case OP_LOOP:
            if (n)
                pc = UINT32_MAX;
            break;
        case OP_SWAP:
            a ^= b >> 3;
            break;
        case OP_END:
            return (uint64_t)a << 32 | b;
        }
    }
}

static uint64_t vm_goto(void)
{
    static const void *const labels[] = {&&load, &&add,  &&mul,  &&xor, &&shift,
                                         &&dec,  &&loop, &&swap, &&end};
    uint32_t a = 1, b = 2, n = VM_ROUNDS;
    const volatile uint8_t *pc = vm_program;
#define NEXT goto *labels[*pc++]
    NEXT;
load:
    b += 0x9e3779b9;
    NEXT;
add:
    a += b;
    NEXT;
mul:
    a *= 5;
    NEXT;
    xor : b ^= a;
    NEXT;
shift:
    b = rotate(b, 7);
    NEXT;
dec:
    n--;
    NEXT;
loop:
    if (n)
        pc = vm_program;
    NEXT;
swap:
    a ^= b >> 3;
    NEXT;
end:
    return (uint64_t)a << 32 | b;
#undef NEXT
}

/* --- indirect: calls through a table, chosen by data
 * ------------------------------------------------ */

#define STEP(n, expression)                                        \
    static __attribute__((noinline)) uint32_t step_##n(uint32_t x) \
    {                                                              \
        return expression;                                         \
    }
STEP(0, x + 0x1234567)
STEP(1, x * 3)
STEP(2, x ^ x >> 5)
STEP(3, rotate(x, 9))
STEP(4, x - (x << 3))
STEP(5, ~x)
STEP(6, x ^ 0x5bd1e995)
STEP(7, x + (x << 7))

static uint64_t indirect_calls(void)
{
    static uint32_t (*const volatile steps[8])(uint32_t) = {step_0, step_1, step_2, step_3,
                                                            step_4, step_5, step_6, step_7};
    uint32_t x = 1, order = 1;
    for (int i = 0; i < 12000000; i++) {
        order = order * 1664525 + 1013904223;
        x = steps[(i & 15) < 12 ? i & 7 : order >> 29](x);
    }
    return x;
}

/* --- recursion: calls and returns
 * --------------------------------------------------------------------- */

static __attribute__((noinline)) unsigned fib_of(unsigned n)
{
    return n < 2 ? n : fib_of(n - 1) + fib_of(n - 2);
}

static uint64_t fib(void)
{
    return fib_of(37); /* 24157817 */
}

static __attribute__((noinline)) unsigned ackermann_of(unsigned m, unsigned n)
{
    if (m == 0)
        return n + 1;
    return ackermann_of(m - 1, n == 0 ? 1 : ackermann_of(m, n - 1));
}

static uint64_t ackermann(void)
{
    return ackermann_of(3, 10); /* 8189 */
}

/* --- bignum: multiplication and division of 32-bit limbs
 * ------------------------------------------------ */

/* Digits of pi by Machin's formula in fixed point: long division by small numbers. */
static void divide(uint32_t *a, unsigned limbs, uint32_t d)
{
    uint64_t rest = 0;
    for (unsigned i = 0; i < limbs; i++) {
        uint64_t part = rest << 32 | a[i];
        a[i] = (uint32_t)(part / d);
        rest = part % d;
    }
}

static void accumulate(uint32_t *sum, const uint32_t *a, unsigned limbs, bool subtract)
{
    uint64_t carry = subtract;
    for (unsigned i = limbs; i-- > 0;) {
        carry += (uint64_t)sum[i] + (subtract ? ~a[i] : a[i]);
        sum[i] = (uint32_t)carry;
        carry >>= 32;
    }
}

static void add_arctan(uint32_t *sum, unsigned limbs, uint32_t factor, uint32_t inverse,
                       bool negative)
{
    static uint32_t power[256], term[256];
    memset(power, 0, sizeof power);
    power[0] = factor;
    divide(power, limbs, inverse);
    for (uint32_t k = 1;; k += 2) {
        memcpy(term, power, sizeof term);
        divide(term, limbs, k);
        accumulate(sum, term, limbs, negative != ((k & 2) != 0));
        divide(power, limbs, inverse * inverse);
        uint32_t any = 0;
        for (unsigned i = 0; i < limbs; i++)
            any |= power[i];
        if (!any)
            return;
    }
}

static uint64_t bignum(void)
{
    uint32_t pi[256];
    for (int round = 0; round < 6; round++) {
        memset(pi, 0, sizeof pi);
        add_arctan(pi, 256, 16, 5, false);
        add_arctan(pi, 256, 4, 239, true);
    }
    return pi[0] == 3 && pi[1] == 0x243f6a88 ? bench_hash(pi, sizeof pi - 16) : 0;
}

/* --- strings: search, split and count, as scripts do
 * ------------------------------------------------------ */

static uint64_t strings_prepare(void)
{
    make_text(bench_arena, 1 << 20);
    for (int i = 0; i < 1 << 20; i++)
        if (bench_arena[i] == 0)
            bench_arena[i] = ' ';
    bench_arena[1 << 20] = 0;
    return 0;
}

static uint64_t strings(void)
{
    uint64_t total = 0;
    char word[64];
    for (int round = 0; round < 10; round++) {
        const char *text = (const char *)bench_arena;
        for (const char *p = text; (p = strstr(p, "cache monitor")); p++)
            total++;
        unsigned n = 0;
        for (const char *p = text; *p; p++) {
            if (*p > ' ' && n < sizeof word - 1) {
                word[n++] = *p;
                continue;
            }
            word[n] = 0;
            if (n && (!strcmp(word, "register") || !strcmp(word, "fault")))
                total += strlen(word);
            n = 0;
        }
    }
    return total;
}

/* --- matrix: integer inner products
 * -------------------------------------------------------------------------- */

static uint64_t matrix(void)
{
    enum { N = 200 };
    uint32_t(*a)[N] = (void *)bench_arena, (*b)[N] = a + N, (*c)[N] = b + N;
    for (unsigned i = 0; i < N; i++)
        for (unsigned j = 0; j < N; j++) {
            a[i][j] = i * 31 + j;
            b[i][j] = i ^ j * 17;
        }
    for (int round = 0; round < 12; round++)
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j++) {
                uint32_t s = (uint32_t)round;
                for (int k = 0; k < N; k++)
                    s += a[i][k] * b[k][j];
                c[i][j] = s;
            }
    return bench_hash(c, sizeof *c * N);
}

const struct bench bench_integer[] = {
    {"integer", "sieve", sieve, NULL, NULL},
    {"integer", "queens", queens, NULL, NULL},
    {"integer", "quicksort", quicksort, NULL, NULL},
    {"integer", "hash_table", hash_table, NULL, NULL},
    {"integer", "lz_compress", lz_compress, NULL, lz_prepare},
    {"integer", "lz_decompress", lz_decompress, NULL, lz_prepare},
    {"integer", "sha256", sha256, NULL, sha_prepare},
    {"integer", "crc32", crc32, NULL, sha_prepare},
    {"integer", "vm_switch", vm_switch, NULL, NULL},
    {"integer", "vm_goto", vm_goto, NULL, NULL},
    {"integer", "indirect_calls", indirect_calls, NULL, NULL},
    {"integer", "fib", fib, NULL, NULL},
    {"integer", "ackermann", ackermann, NULL, NULL},
    {"integer", "bignum", bignum, NULL, NULL},
    {"integer", "strings", strings, NULL, strings_prepare},
    {"integer", "matrix", matrix, NULL, NULL},
    {0},
};
