/* memory.c - latency and bandwidth at each level. */
#include "bench.h"

#include <string.h>

/* A random cycle through all lines of an area: every load waits for the one before (Sattolo). */
static void make_chase(size_t bytes)
{
    enum { LINE = 64 };
    uint32_t lines = (uint32_t)(bytes / LINE);
    uint32_t *order = (uint32_t *)(bench_arena + BENCH_ARENA - lines * sizeof(uint32_t));
    uint64_t seed = 3;
    for (uint32_t i = 0; i < lines; i++)
        order[i] = i;
    for (uint32_t i = lines - 1; i > 0; i--) {
        uint32_t j = (uint32_t)((bench_random(&seed) >> 32) % i), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    for (uint32_t i = 0; i < lines; i++)
        *(uintptr_t *)(bench_arena + (size_t)order[i] * LINE) =
            (uintptr_t)bench_arena + (size_t)order[(i + 1) % lines] * LINE;
}

static uint64_t chase(unsigned steps)
{
    uintptr_t p = (uintptr_t)bench_arena;
    for (unsigned i = 0; i < steps; i++)
        p = *(uintptr_t *)p;
    return p - (uintptr_t)bench_arena;
}

#define CHASE(name, bytes, steps)        \
    static uint64_t prepare_##name(void) \
    {                                    \
        make_chase(bytes);               \
        return 0;                        \
    }                                    \
    static uint64_t name(void)           \
    {                                    \
        return chase(steps);             \
    }
CHASE(chase_l1, 16 << 10, 40000000)
CHASE(chase_l2, 512 << 10, 14000000)
CHASE(chase_ram, 64 << 20, 1000000)

/* The library's own functions, not what the compiler makes of a known size. */
static void *(*const volatile library_memcpy)(void *, const void *, size_t) = memcpy;
static void *(*const volatile library_memset)(void *, int, size_t) = memset;

static uint64_t copy(size_t bytes, unsigned rounds)
{
    for (unsigned i = 0; i < rounds; i++) {
        bench_arena[i & 1023] = (uint8_t)i;
        library_memcpy(bench_arena + (48 << 20), bench_arena, bytes);
    }
    return bench_hash(bench_arena + (48 << 20), 1024);
}

static uint64_t clear_arena(void)
{
    memset(bench_arena, 0, BENCH_ARENA);
    return 0;
}

static uint64_t memcpy_4k(void)
{
    return copy(4096, 500000);
}

static uint64_t memcpy_16m(void)
{
    return copy(16 << 20, 30);
}

static uint64_t memset_4k(void)
{
    for (unsigned i = 0; i < 2000000; i++) {
        library_memset(bench_arena, (int)i, 4096);
    }
    return bench_arena[4095];
}

static uint64_t memset_32m(void)
{
    for (int i = 0; i < 20; i++) {
        library_memset(bench_arena, i, 32 << 20);
    }
    return bench_arena[12345];
}

/* The string instructions themselves, as kernels use them for pages. */
static uint64_t rep_movs(void)
{
    for (uint32_t i = 0; i < 200000; i++) {
        void *to = bench_arena + (48 << 20), *from = bench_arena + ((i & 63) << 12);
        size_t n = 1024;
        *(uint32_t *)from = i;
        __asm__ volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(n)::"memory");
    }
    return bench_hash(bench_arena + (48 << 20), 4096);
}

/* Loads, additions and stores over three arrays that fit no cache. */
static uint64_t stream_add(void)
{
    enum { N = 4 << 20 };
    uint32_t *a = (uint32_t *)bench_arena, *b = a + N, *c = b + N;
    for (uint32_t round = 0; round < 15; round++)
        for (uint32_t i = 0; i < N; i++)
            c[i] = a[i] + b[i] + round;
    return c[N - 1];
}

/* Reads and writes of single bytes all over a megabyte. */
static uint64_t scattered_bytes(void)
{
    uint32_t x = 1;
    for (int i = 0; i < 30000000; i++) {
        x = x * 1664525 + 1013904223;
        bench_arena[x >> 12]++;
    }
    return bench_arena[777];
}

const struct bench bench_memory[] = {
    {"memory", "chase_l1", chase_l1, NULL, prepare_chase_l1},
    {"memory", "chase_l2", chase_l2, NULL, prepare_chase_l2},
    {"memory", "chase_ram", chase_ram, NULL, prepare_chase_ram},
    {"memory", "memcpy_4k", memcpy_4k, NULL, clear_arena},
    {"memory", "memcpy_16m", memcpy_16m, NULL, clear_arena},
    {"memory", "memset_4k", memset_4k, NULL, NULL},
    {"memory", "memset_32m", memset_32m, NULL, NULL},
    {"memory", "rep_movs", rep_movs, NULL, clear_arena},
    {"memory", "stream_add", stream_add, NULL, clear_arena},
    {"memory", "scattered_bytes", scattered_bytes, NULL, clear_arena},
    {0},
};
