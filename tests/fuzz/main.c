/* main.c - fuzz.c without a fuzzer: the same inputs every time, for make test, and files rerun.
 *
 *   fuzz [-n COUNT] [-s SEED] FOUND...   what was found before, then COUNT inputs of each kind
 *   fuzz -w DIR [-n COUNT]               writes the first COUNT inputs of each kind as files
 *   fuzz -r FILE...                      runs files as libFuzzer keeps them
 *
 * FOUND is a file of hexadecimal inputs, one a line; # begins a comment. */
#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum kind { KIND_BYTES, KIND_FORMS, KIND_PAGE_END, KIND_LOOPS, KIND_COUNT };

static const char *const kind_names[] = {"random bytes", "every kind of encoding",
                                         "at the page's end", "loops"};

static unsigned passed, failed;
static uint64_t seed = 1;

static uint32_t random_32(void)
{
    uint64_t z = seed += 0x9e3779b97f4a7c15ull; /* splitmix64 */

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return (uint32_t)(z >> 32);
}

static uint32_t below(uint32_t n)
{
    return random_32() % n;
}

/* ---- inputs ---- */

static unsigned put_prefixes(uint8_t *p)
{
    static const uint8_t all[] = {0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x64, 0x65, 0x2e, 0x36, 0x3e, 0x26};
    unsigned n = 0;

    while (n < 3 && !below(4))
        p[n++] = all[below(sizeof(all))];
    return n;
}

static unsigned put_opcode(uint8_t *p)
{
    uint8_t b = (uint8_t)random_32();

    switch (below(8)) {
    case 0:
        memcpy(p, (uint8_t[]){0x0f, b}, 2);
        return 2;
    case 1:
        memcpy(p, (uint8_t[]){0x0f, below(2) ? 0x38 : 0x3a, b}, 3);
        return 3;
    case 2:
        memcpy(
            p,
            (uint8_t[]){0xc4, (uint8_t)(below(8) << 5 | (1 + below(3))), (uint8_t)random_32(), b},
            4);
        return 4;
    case 3:
        memcpy(p, (uint8_t[]){0xc5, (uint8_t)random_32(), b}, 3);
        return 3;
    case 4:
        memcpy(p,
               (uint8_t[]){0x62, (uint8_t)(below(16) << 4 | (1 + below(6))),
                           (uint8_t)(random_32() | 4), (uint8_t)random_32(), b},
               5);
        return 5;
    default:
        p[0] = b;
        return 1;
    }
}

/* ModRM, often with the stack pointer or an absolute address, and small displacements. */
static unsigned put_operand(uint8_t *p)
{
    p[0] = (uint8_t)random_32();
    for (unsigned i = 1; i < 9; i++)
        p[i] = (uint8_t)(below(3) ? below(2) * 0xff : random_32());
    if (!below(4))
        p[0] = (uint8_t)((p[0] & 0xf8) | 4);
    if (!below(4))
        p[1] = 0x24;
    return 1 + below(7);
}

static unsigned put_form(uint8_t *p, bool rex)
{
    unsigned n = put_prefixes(p);

    if (rex && below(2))
        p[n++] = (uint8_t)(0x40 | below(16));
    n += put_opcode(p + n);
    return n + put_operand(p + n);
}

/* Loads, stores and stack operations by a few registers: what blocks are mostly made of. */
static unsigned put_usual(uint8_t *p)
{
    static const uint8_t opcodes[] = {0x8b, 0x89, 0x03, 0x01, 0x8d, 0x83, 0x3b, 0x85};
    unsigned n = 0;

    if (below(3))
        p[n++] = (uint8_t)(0x48 | (below(3) ? 0 : below(8)));
    if (!below(4)) {
        p[n - (n > 0)] = (uint8_t)(0x50 | below(16));
        return n ? n : 1;
    }
    p[n++] = opcodes[below(sizeof(opcodes))];
    p[n++] = (uint8_t)random_32();
    if (!below(3))
        p[n - 1] = (uint8_t)(0x44 | (p[n - 1] & 0x38));
    p[n++] = (uint8_t)random_32();
    p[n++] = (uint8_t)random_32();
    return n;
}

/* ADD of a small constant to a 64-bit register, or what uses registers as they are used in loops.
 */
static unsigned put_turn(uint8_t *p)
{
    if (below(3))
        return put_usual(p);
    p[0] = (uint8_t)(0x48 | below(2));
    p[1] = 0x83;
    p[2] = (uint8_t)(0xc0 | below(8));
    p[3] = (uint8_t)random_32();
    return 4;
}

static size_t make_input(enum kind kind, uint8_t *data)
{
    size_t n = FUZZ_HEAD, want = FUZZ_HEAD + 16 + below(200);

    for (unsigned i = 0; i < FUZZ_MAX; i++)
        data[i] = (uint8_t)random_32();
    data[0] = (uint8_t)((data[0] & 0xfc) | (below(16) ? 1 + below(3) : 0));
    if (below(4)) { /* most of the time everything is enabled */
        data[1] |= 0xc0 | TR_K_DS | TR_K_ES | TR_K_SS;
        data[2] |= 0x0f;
    }
    data[4] = data[5] = 0;
    if (kind == KIND_BYTES)
        return want;
    if (kind == KIND_LOOPS) {
        data[0] = (uint8_t)((data[0] | 0x42) & ~0x20u);
        data[3] = 63;
        for (want = n + 1 + below(20); n < want;)
            n += put_turn(data + n);
        return n;
    }
    while (n < want)
        n += below(2) ? put_form(data + n, data[0] & 2) : put_usual(data + n);
    if (kind == KIND_PAGE_END)
        data[4] = (uint8_t)(1 + below((uint32_t)(n - FUZZ_HEAD)));
    return n;
}

/* ---- runs ---- */

static void row(bool good, const char *name)
{
    printf("%s fuzz: %s\n", good ? "PASS" : "FAIL", name);
    *(good ? &passed : &failed) += 1;
}

static void show(const uint8_t *data, size_t size)
{
    printf("    input: ");
    for (size_t i = 0; i < size; i++)
        printf("%02x", data[i]);
    printf("\n");
}

static void run_kind(enum kind kind, unsigned long count)
{
    uint8_t data[FUZZ_MAX + 32];
    unsigned long bad = 0;
    char name[100];

    for (unsigned long i = 0; i < count; i++) {
        size_t size = make_input(kind, data);
        if (fuzz_one(data, size) && bad++ < 5)
            show(data, size);
    }
    snprintf(name, sizeof(name), "%lu inputs, %s", count, kind_names[kind]);
    row(!bad, name);
}

static void run_found(const char *path)
{
    char line[2 * FUZZ_MAX + 200];
    FILE *f = fopen(path, "re");
    unsigned lines = 0, bad = 0;

    while (f && fgets(line, sizeof(line), f)) {
        uint8_t data[FUZZ_MAX];
        size_t n = 0;
        for (const char *p = line; n < FUZZ_MAX && sscanf(p, "%2hhx", &data[n]) == 1; n++)
            p += strspn(p, " ") + 2;
        if (n <= FUZZ_HEAD)
            continue;
        lines++;
        if (fuzz_one(data, n)) {
            show(data, n);
            bad++;
        }
    }
    if (f)
        fclose(f);
    row(lines && !bad, "what was found before");
}

static int rerun(char **files)
{
    unsigned long bad = 0;

    for (; *files; files++) {
        uint8_t data[FUZZ_MAX];
        FILE *f = fopen(*files, "re");
        size_t n = f ? fread(data, 1, sizeof(data), f) : 0;
        if (f)
            fclose(f);
        show(data, n);
        bad += fuzz_one(data, n);
    }
    printf("%lu complaints\n", bad);
    return bad != 0;
}

static int write_inputs(const char *directory, unsigned long count)
{
    for (unsigned kind = 0; kind < KIND_COUNT; kind++) {
        for (unsigned long i = 0; i < count; i++) {
            uint8_t data[FUZZ_MAX + 32];
            char path[4096];
            size_t n = make_input(kind, data);
            snprintf(path, sizeof(path), "%s/seed-%u-%lu", directory, kind, i);
            FILE *f = fopen(path, "we");
            if (!f || fwrite(data, 1, n, f) != n || fclose(f))
                return 2;
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    unsigned long count = 200000;
    const char *directory = NULL;
    int option;

    while ((option = getopt(argc, argv, "n:s:w:r")) >= 0) {
        if (option == 'n')
            count = strtoul(optarg, NULL, 0);
        else if (option == 's')
            seed = strtoull(optarg, NULL, 0);
        else if (option == 'w')
            directory = optarg;
        else
            return option == 'r' ? rerun(argv + optind) : 2;
    }
    if (directory)
        return write_inputs(directory, count);
    for (; optind < argc; optind++)
        run_found(argv[optind]);
    for (unsigned kind = 0; kind < KIND_COUNT; kind++)
        run_kind(kind, count);
    const struct control *c = &fuzz_counts.control;
    printf("    %lu blocks scanned, %lu of them moved, %lu loops; %lu host instructions; operands "
           "proved: %lu "
           "by a table, %lu by a check, %lu stack, %lu strings\n    branches: %lu inside, %lu to "
           "stubs, %lu through tables; %lu instructions for the slow path\n",
           c->blocks, fuzz_counts.moved, fuzz_counts.loops, c->insns, c->by_table, c->by_check,
           c->by_stack, c->strings, c->inside, c->to_stub, c->to_table, fuzz_counts.redirected);
    printf("%u passed, %u failed\n", passed, failed);
    return failed != 0;
}
