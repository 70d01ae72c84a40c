/* bench.h - one benchmark program: a name, a fixed amount of work, and what must come out. */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bench {
    const char *group;
    const char *name;
    uint64_t (*work)(void);    /* does the work once; returns a checksum of its result */
    bool (*possible)(void);    /* the CPU can run it; NULL: always */
    uint64_t (*prepare)(void); /* not timed, before each run; NULL: nothing */
};

/* Each table ends with a row without a name. */
extern const struct bench bench_integer[], bench_memory[], bench_fp_sse[], bench_fp_x87[],
    bench_simd[], bench_os[];

/* The paths by which the program can execute itself, and the dynamically linked one. */
extern const char *bench_self, *bench_dynamic;

/* Memory that is there for the whole run, page-aligned, zeroed at start. */
enum { BENCH_ARENA = 96 << 20 };
extern uint8_t *bench_arena;

/* xorshift64*: fast, seeded by hand, the same everywhere. */
static inline uint64_t bench_random(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 0x2545F4914F6CDD1Dull;
}

/* FNV-1a over bytes. */
static inline uint64_t bench_hash(const void *data, size_t size)
{
    const uint8_t *p = data;
    uint64_t h = 0xcbf29ce484222325ull;
    for (size_t i = 0; i < size; i++)
        h = (h ^ p[i]) * 0x100000001b3ull;
    return h;
}

#endif
