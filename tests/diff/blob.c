/* blob.c - a batch of sequences as one piece of 32-bit code, the same bytes for both sides.
 *
 *   for each sequence: [current record] [vector state] flags, registers <- record.in
 *                      the sequence
 *                      record.out <- registers, flags [vector state]
 *   jmp *IO_EXIT
 *
 * A fault handler goes on at the sequence's epilogue (record.epilogue). */
#include "tests/diff/diff.h"

#include <string.h>

struct out {
    uint8_t *p;
    const uint8_t *start;
};

static void byte1(struct out *o, unsigned b)
{
    *o->p++ = (uint8_t)b;
}
static void word4(struct out *o, uint32_t v)
{
    memcpy(o->p, &v, 4);
    o->p += 4;
}
/* opcode bytes, then an absolute address (ModRM mod 0, rm 5) */
static void absolute(struct out *o, const char *opcode, unsigned n, unsigned reg, uint32_t address)
{
    memcpy(o->p, opcode, n);
    o->p += n;
    byte1(o, reg << 3 | 5);
    word4(o, address);
}
static uint32_t here(const struct out *o)
{
    return CODE + (uint32_t)(o->p - o->start);
}

int host_vector_level(void)
{
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512f"))
        return 2;
    return __builtin_cpu_supports("avx") ? 1 : 0;
}

/* Vector state from (load) or to an image. */
static void put_vectors(struct out *o, uint32_t image, bool load)
{
    int level = host_vector_level();

    absolute(o, "\x0f\xae", 2, load, image + offsetof(struct image, fx));
    for (unsigned i = 0; i < 8 && level == 1; i++) /* vmovdqu ymm */
        absolute(o, load ? "\xc5\xfe\x6f" : "\xc5\xfe\x7f", 3, i,
                 image + (uint32_t)offsetof(struct image, vector[i]));
    for (unsigned i = 0; i < 8 && level == 2; i++) {
        /* vmovdqu64 zmm; kmovq */
        absolute(o, load ? "\x62\xf1\xfe\x48\x6f" : "\x62\xf1\xfe\x48\x7f", 5, i,
                 image + (uint32_t)offsetof(struct image, vector[i]));
        absolute(o, load ? "\xc4\xe1\xf8\x90" : "\xc4\xe1\xf8\x91", 4, i,
                 image + (uint32_t)offsetof(struct image, mask[i]));
    }
}

static void put_prologue(struct out *o, uint32_t record, bool vector)
{
    absolute(o, "\xc7", 1, 0, IO_CURRENT);
    word4(o, record);
    if (vector)
        put_vectors(o, record, true);
    byte1(o, 0xbc); /* mov $IO_STACK, %esp */
    word4(o, IO_STACK);
    absolute(o, "\xff", 1, 6, record + offsetof(struct image, eflags)); /* push */
    byte1(o, 0x9d);                                                     /* popf */
    for (unsigned i = 0; i < 8; i++)
        absolute(o, "\x8b", 1, i, record + i * 4);
}

static void put_epilogue(struct out *o, uint32_t record, bool vector)
{
    uint32_t out = record + offsetof(struct record, out);

    for (unsigned i = 0; i < 8; i++)
        absolute(o, "\x89", 1, i, out + i * 4);
    byte1(o, 0xbc);
    word4(o, IO_STACK);
    byte1(o, 0x9c);                                                  /* pushf */
    absolute(o, "\x8f", 1, 0, out + offsetof(struct image, eflags)); /* pop */
    byte1(o, 0x68);
    word4(o, 0x202);
    byte1(o, 0x9d);
    if (vector)
        put_vectors(o, out, false);
}

static void put_items(struct out *o, const struct sequence *s)
{
    uint32_t at[ITEMS_MAX + 1];
    uint32_t pc = here(o);

    for (unsigned i = 0; i < s->n; i++) {
        at[i] = pc;
        pc += s->item[i].len;
    }
    at[s->n] = pc;
    for (unsigned i = 0; i < s->n; i++) {
        const struct item *item = &s->item[i];
        unsigned to = i + 1 + item->skip < s->n ? i + 1 + item->skip : s->n;
        uint32_t target = at[to];
        memcpy(o->p, item->bytes, item->len);
        if (item->fix_size == 5) {
            memcpy(o->p + item->fix_at, &target, 4);
        } else if (item->fix_size) {
            target -= at[i] + item->fix_at + item->fix_size;
            memcpy(o->p + item->fix_at, &target, item->fix_size);
        }
        o->p += item->len;
    }
}

size_t blob_emit(const struct sequence *s, unsigned n, uint8_t *code, struct record *records,
                 uint32_t *pc)
{
    struct out o = {code, code};

    for (unsigned i = 0; i < n; i++) {
        if (o.p - o.start > CODE_SIZE - 4096)
            return 0;
        put_prologue(&o, record_address(i), s[i].vector);
        pc[i] = here(&o);
        put_items(&o, &s[i]);
        records[i].epilogue = here(&o);
        put_epilogue(&o, record_address(i), s[i].vector);
    }
    absolute(&o, "\xff", 1, 4, IO_EXIT);
    return (size_t)(o.p - o.start);
}
