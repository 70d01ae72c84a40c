/* simd.c - vector and crypto instructions, each only where the CPU says that it has them. */
#include "bench.h"

#include <cpuid.h>
#include <immintrin.h>
#include <string.h>

enum { AREA = 16 << 10 }; /* fits the first-level cache */

/* CPUID leaf 7 or 1 has the bit, and the operating system keeps the state (XCR0). */
static bool has(unsigned leaf, char reg, int bit, unsigned xcr0)
{
    unsigned a, b, c, d;
    if (!__get_cpuid_count(leaf, 0, &a, &b, &c, &d))
        return false;
    if (!((reg == 'b' ? b : reg == 'c' ? c : d) >> bit & 1))
        return false;
    if (!xcr0)
        return true;
    __get_cpuid(1, &a, &b, &c, &d);
    if (!(c >> 27 & 1))
        return false;
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & xcr0) == xcr0;
}

#define POSSIBLE(name, condition) \
    static bool has_##name(void)  \
    {                             \
        return condition;         \
    }
POSSIBLE(sse2, has(1, 'd', 26, 0))
POSSIBLE(ssse3, has(1, 'c', 9, 0))
POSSIBLE(crc32c, has(1, 'c', 20, 0))
POSSIBLE(aes, has(1, 'c', 25, 0))
POSSIBLE(clmul, has(1, 'c', 1, 0))
POSSIBLE(sha, has(7, 'b', 29, 0))
POSSIBLE(avx2, has(7, 'b', 5, 6))
POSSIBLE(fma, has(1, 'c', 12, 6))
POSSIBLE(avx512, has(7, 'b', 16, 0xe6) && has(7, 'b', 30, 0xe6))

static uint64_t fill(void)
{
    uint64_t seed = 5;
    for (int i = 0; i < 4 * AREA; i++)
        bench_arena[i] = (uint8_t)(bench_random(&seed) >> 40);
    return 0;
}

/* Small finite floats in the area, so that sums stay finite. */
static uint64_t fill_floats(void)
{
    float *f = (float *)bench_arena;
    for (int i = 0; i < AREA; i++)
        f[i] = (float)(i % 97) * 0.03125f - 1.5f;
    return 0;
}

__attribute__((target("sse2"))) static uint64_t sse2_integer(void)
{
    __m128i *p = (__m128i *)bench_arena, s = _mm_setzero_si128();
    for (int round = 0; round < 60000; round++)
        for (int i = 0; i < AREA / 16; i += 2) {
            __m128i x = _mm_load_si128(p + i), y = _mm_load_si128(p + i + 1);
            s = _mm_add_epi32(s, _mm_xor_si128(_mm_mullo_epi16(x, y), _mm_max_epu8(x, y)));
        }
    return bench_hash(&s, sizeof s);
}

__attribute__((target("sse2"))) static uint64_t sse2_float(void)
{
    const float *p = (const float *)bench_arena;
    __m128 s = _mm_setzero_ps(), k = _mm_set1_ps(0.999f);
    for (int round = 0; round < 24000; round++)
        for (int i = 0; i < AREA / 4; i += 8)
            s = _mm_add_ps(_mm_mul_ps(s, k),
                           _mm_mul_ps(_mm_load_ps(p + i), _mm_load_ps(p + i + 4)));
    return bench_hash(&s, sizeof s);
}

__attribute__((target("ssse3"))) static uint64_t ssse3_shuffle(void)
{
    __m128i *p = (__m128i *)bench_arena, s = _mm_set1_epi8(3);
    for (int round = 0; round < 30000; round++)
        for (int i = 0; i < AREA / 16; i++)
            s = _mm_sub_epi8(_mm_shuffle_epi8(p[i], s), _mm_alignr_epi8(s, p[i], 5));
    return bench_hash(&s, sizeof s);
}

__attribute__((target("avx2"))) static uint64_t avx2_integer(void)
{
    __m256i *p = (__m256i *)bench_arena, s = _mm256_setzero_si256();
    for (int round = 0; round < 60000; round++)
        for (int i = 0; i < AREA / 32; i += 2) {
            __m256i x = p[i], y = p[i + 1];
            s = _mm256_add_epi64(
                s, _mm256_xor_si256(_mm256_mullo_epi16(x, y), _mm256_shuffle_epi8(x, y)));
        }
    return bench_hash(&s, sizeof s);
}

__attribute__((target("avx2"))) static uint64_t avx2_gather(void)
{
    __m256i index = _mm256_setr_epi32(1, 77, 300, 13, 900, 1500, 41, 2000), s = index;
    const __m256i mask = _mm256_set1_epi32(AREA / 4 - 1), step = _mm256_set1_epi32(12345);
    for (int i = 0; i < 12000000; i++) {
        s = _mm256_xor_si256(s, _mm256_i32gather_epi32((const int *)bench_arena, index, 4));
        index = _mm256_and_si256(_mm256_add_epi32(index, step), mask);
    }
    return bench_hash(&s, sizeof s);
}

__attribute__((target("avx2,fma"))) static uint64_t fma_float(void)
{
    const float *p = (const float *)bench_arena;
    __m256 s = _mm256_setzero_ps(), t = s, k = _mm256_set1_ps(0.999f);
    for (int round = 0; round < 60000; round++)
        for (int i = 0; i < AREA / 4; i += 16) {
            s = _mm256_fmadd_ps(s, k, _mm256_load_ps(p + i));
            t = _mm256_fmadd_ps(t, k, _mm256_load_ps(p + i + 8));
        }
    s = _mm256_add_ps(s, t);
    return bench_hash(&s, sizeof s);
}

__attribute__((target("avx512f,avx512bw"))) static uint64_t avx512_integer(void)
{
    __m512i *p = (__m512i *)bench_arena, s = _mm512_setzero_si512();
    for (int round = 0; round < 100000; round++)
        for (int i = 0; i < AREA / 64; i += 2) {
            __m512i x = p[i], y = p[i + 1];
            __mmask32 m = _mm512_cmpgt_epi16_mask(x, y);
            s = _mm512_mask_add_epi16(s, m, s, _mm512_mullo_epi16(x, y));
        }
    return bench_hash(&s, sizeof s);
}

__attribute__((target("aes,sse2"))) static uint64_t aes_rounds(void)
{
    __m128i *p = (__m128i *)bench_arena, s = _mm_setzero_si128(), t = _mm_set1_epi8(9);
    for (int round = 0; round < 20000; round++)
        for (int i = 0; i < AREA / 16; i += 2) {
            s = _mm_aesenc_si128(s, p[i]);
            t = _mm_aesenc_si128(t, p[i + 1]);
            s = _mm_aesenc_si128(s, t);
            t = _mm_aesdec_si128(t, p[i]);
        }
    s = _mm_xor_si128(s, t);
    return bench_hash(&s, sizeof s);
}

__attribute__((target("pclmul,sse2"))) static uint64_t clmul(void)
{
    __m128i *p = (__m128i *)bench_arena, s = _mm_set1_epi8(7);
    for (int round = 0; round < 8000; round++)
        for (int i = 0; i < AREA / 16; i++) {
            __m128i low = _mm_clmulepi64_si128(s, p[i], 0x00);
            s = _mm_xor_si128(_mm_clmulepi64_si128(s, p[i], 0x11), low);
        }
    return bench_hash(&s, sizeof s);
}

__attribute__((target("sha,sse4.1"))) static uint64_t sha_rounds(void)
{
    __m128i *p = (__m128i *)bench_arena, s = _mm_set1_epi8(7), t = _mm_set1_epi8(1);
    for (int round = 0; round < 16000; round++)
        for (int i = 0; i < AREA / 16; i += 2) {
            __m128i w = _mm_sha256msg2_epu32(_mm_sha256msg1_epu32(p[i], p[i + 1]), p[i]);
            s = _mm_sha256rnds2_epu32(s, t, w);
            t = _mm_sha256rnds2_epu32(t, s, _mm_shuffle_epi32(w, 0x0e));
        }
    s = _mm_xor_si128(s, t);
    return bench_hash(&s, sizeof s);
}

__attribute__((target("sse4.2"))) static uint64_t crc32c(void)
{
    const uint32_t *p = (const uint32_t *)bench_arena;
    uint32_t crc = ~0u;
    for (int round = 0; round < 6000; round++)
        for (int i = 0; i < AREA / 4; i++)
            crc = _mm_crc32_u32(crc, p[i]);
    return crc;
}

const struct bench bench_simd[] = {
    {"simd", "sse2_integer", sse2_integer, has_sse2, fill},
    {"simd", "sse2_float", sse2_float, has_sse2, fill_floats},
    {"simd", "ssse3_shuffle", ssse3_shuffle, has_ssse3, fill},
    {"simd", "avx2_integer", avx2_integer, has_avx2, fill},
    {"simd", "avx2_gather", avx2_gather, has_avx2, fill},
    {"simd", "fma_float", fma_float, has_fma, fill_floats},
    {"simd", "avx512_integer", avx512_integer, has_avx512, fill},
    {"simd", "aes_rounds", aes_rounds, has_aes, fill},
    {"simd", "clmul", clmul, has_clmul, fill},
    {"simd", "sha_rounds", sha_rounds, has_sha, fill},
    {"simd", "crc32c", crc32c, has_crc32c, fill},
    {0},
};
