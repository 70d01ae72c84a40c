/* blob.c - a batch of sequences as one piece of code, the same bytes for both sides.
 *
 *   for each sequence: [current record] [vector state] flags, registers <- record.in
 *                      the sequence
 *                      record.out <- registers, flags [vector state]
 *   jmp *IO_EXIT
 *
 * A fault handler goes on at the sequence's epilogue (record.epilogue). Vector state is moved by
 * two routines that all batches share. 16-bit code reaches the records through FS, which is flat
 * there, with 32-bit addresses. */
#include "tests/diff/diff.h"

#include "runtime/vcpu.h"

#include <string.h>

struct out {
    uint8_t *p;
    const uint8_t *start;
    uint64_t base;
};

static void byte1(struct out *o, unsigned b)
{
    *o->p++ = (uint8_t)b;
}
static void bytes(struct out *o, const void *data, size_t n)
{
    memcpy(o->p, data, n);
    o->p += n;
}
static void word4(struct out *o, uint32_t v)
{
    bytes(o, &v, 4);
}
static uint64_t here(const struct out *o)
{
    return o->base + (uint64_t)(o->p - o->start);
}

/* An instruction with a wide operand at an absolute address: an opcode byte, then ModRM. */
static void absolute(struct out *o, unsigned opcode, unsigned reg, uint32_t address)
{
    if (diff_mode == TR_MODE_16)
        bytes(o, "\x64\x66\x67", 3);
    if (long_mode() && (opcode != 0xff || reg >= 8))
        byte1(o, 0x48 | (reg >= 8 ? 4u : 0));
    byte1(o, opcode);
    if (long_mode())
        bytes(o, (const uint8_t[]){(uint8_t)(4 | (reg & 7) << 3), 0x25}, 2);
    else
        byte1(o, (reg & 7) << 3 | 5);
    word4(o, address);
}

/* mov $value, %reg (32 bits) */
static void constant(struct out *o, unsigned reg, uint32_t value)
{
    if (diff_mode == TR_MODE_16)
        byte1(o, 0x66);
    byte1(o, 0xb8 | reg);
    word4(o, value);
}

/* In the widest form that popf and pushf have here. */
static void flags_op(struct out *o, unsigned opcode)
{
    if (diff_mode == TR_MODE_16)
        byte1(o, 0x66);
    byte1(o, opcode);
}

int host_vector_level(void)
{
    static int level = -1;

    if (level >= 0)
        return level;
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512f"))
        level = 2;
    else
        level = __builtin_cpu_supports("avx") ? 1 : 0;
    return level;
}

/* ---- vector state: routines with the image's address in eax ---- */

#define ROUTINE_SIZE 0x400

/* disp32(%eax) behind opcode bytes */
static void image_operand(struct out *o, unsigned reg, size_t at)
{
    byte1(o, 0x80 | (reg & 7) << 3);
    word4(o, (uint32_t)at);
}

static void put_vector(struct out *o, int level, unsigned i, bool load)
{
    size_t at = offsetof(struct image, vector) + 64 * i;

    if (diff_mode == TR_MODE_16)
        bytes(o, "\x64\x67", 2);
    if (level == 1) { /* vmovdqu ymm */
        bytes(o, (const uint8_t[]){0xc5, (uint8_t)(i < 8 ? 0xfe : 0x7e), load ? 0x6f : 0x7f}, 3);
    } else { /* vmovdqu64 zmm */
        unsigned p0 = 0xf1 & ~((i & 8 ? 0x80u : 0) | (i & 16 ? 0x10u : 0));
        bytes(o, (const uint8_t[]){0x62, (uint8_t)p0, 0xfe, 0x48, load ? 0x6f : 0x7f}, 5);
    }
    image_operand(o, i, at);
}

static void put_masks(struct out *o, bool load)
{
    for (unsigned i = 0; i < 8; i++) { /* kmovq */
        if (diff_mode == TR_MODE_16)
            bytes(o, "\x64\x67", 2);
        bytes(o, load ? "\xc4\xe1\xf8\x90" : "\xc4\xe1\xf8\x91", 4);
        image_operand(o, i, offsetof(struct image, mask[i]));
    }
}

static void put_routine(struct out *o, bool load)
{
    int level = host_vector_level();

    if (diff_mode == TR_MODE_16)
        bytes(o, "\x64\x67", 2);
    bytes(o, "\x0f\xae", 2);
    image_operand(o, load, offsetof(struct image, fx));
    for (unsigned i = 0; i < vector_count(level) && level; i++)
        put_vector(o, level, i, load);
    if (level == 2)
        put_masks(o, load);
    byte1(o, 0xc3);
}

size_t blob_routines(uint8_t *code)
{
    struct out o = {code + ROUTINES, code + ROUTINES, 0};

    put_routine(&o, false);
    o.p = code + ROUTINES + ROUTINE_SIZE;
    put_routine(&o, true);
    return 2 * ROUTINE_SIZE;
}

/* call rel, in 16-bit code inline: its stack is elsewhere */
static void call_routine(struct out *o, uint32_t image, bool load)
{
    constant(o, 0, image);
    if (diff_mode == TR_MODE_16) {
        put_routine(o, load);
        o->p--;
        return;
    }
    int64_t to = (int64_t)(o->base + ROUTINES + (load ? ROUTINE_SIZE : 0) - here(o)) - 5;
    byte1(o, 0xe8);
    word4(o, (uint32_t)to);
}

/* ---- around a sequence ---- */

static void put_bases(struct out *o)
{
    const uint64_t values[] = {FS_BASE, GS_BASE};

    for (unsigned i = 0; i < 2; i++) { /* movabs $base, %rax; wrfsbase, wrgsbase */
        bytes(o, "\x48\xb8", 2);
        bytes(o, &values[i], 8);
        bytes(o, (const uint8_t[]){0xf3, 0x48, 0x0f, 0xae, (uint8_t)(0xd0 | i << 3)}, 5);
    }
}

/* A stack for the code between sequences: outside the arena, in 16-bit code its last bytes. */
static void put_stack(struct out *o)
{
    constant(o, 4, diff_mode == TR_MODE_16 ? ARENA_SIZE : IO_STACK);
}

static void put_prologue(struct out *o, uint32_t record, bool vector)
{
    absolute(o, 0xc7, 0, IO_CURRENT);
    word4(o, record);
    put_stack(o);
    if (vector)
        call_routine(o, record, true);
    for (unsigned i = 0; i < gpr_count(); i++) {
        if (i != RT_SP)
            absolute(o, 0x8b, i, record + i * 8);
    }
    absolute(o, 0xff, 6, record + offsetof(struct image, rflags)); /* push */
    flags_op(o, 0x9d);
    absolute(o, 0x8b, RT_SP, record + RT_SP * 8); /* TF traps behind this one for the first time */
}

static bool put_epilogue(struct out *o, uint32_t record, const struct sequence *s)
{
    const uint8_t *start = o->p;
    uint32_t out = record + offsetof(struct record, out);

    for (unsigned i = 0; i < gpr_count(); i++)
        absolute(o, 0x89, i, out + i * 8);
    put_stack(o);
    flags_op(o, 0x9c);
    absolute(o, 0x8f, 0, out + offsetof(struct image, rflags)); /* pop */
    flags_op(o, 0x68);
    word4(o, 0x202);
    flags_op(o, 0x9d);
    if (s->vector)
        call_routine(o, out, false);
    if (s->bases)
        put_bases(o);
    return (size_t)(o->p - start) <= EPILOGUE_SIZE;
}

/* ---- a sequence ---- */

static void fix_target(uint8_t *field, unsigned size, uint64_t field_pc, uint64_t target)
{
    uint64_t value = target;

    if (size == 5)
        size = 4;
    else if (size == 6)
        size = 2;
    else if (size != 8)
        value = target - (field_pc + size);
    memcpy(field, &value, size);
}

/* The displacement is a low address; the same place relative to base is meant. */
static void fix_rip(struct out *o, const struct item *item, uint64_t pc)
{
    uint32_t low, disp;

    memcpy(&low, item->bytes + item->rip_at, 4);
    disp = (uint32_t)(o->base - CODE + low - (pc + item->rip_end));
    memcpy(o->p + item->rip_at, &disp, 4);
}

static void put_items(struct out *o, const struct sequence *s)
{
    uint64_t at[ITEMS_MAX + 1], pc = here(o);

    for (unsigned i = 0; i < s->n; i++) {
        at[i] = pc;
        pc += s->item[i].len;
    }
    at[s->n] = pc;
    for (unsigned i = 0; i < s->n; i++) {
        const struct item *item = &s->item[i];
        unsigned to = i + 1 + item->skip < s->n ? i + 1 + item->skip : s->n;
        memcpy(o->p, item->bytes, item->len);
        if (item->fix_size)
            fix_target(o->p + item->fix_at, item->fix_size, at[i] + item->fix_at, at[to]);
        if (item->rip_end)
            fix_rip(o, item, at[i]);
        o->p += item->len;
    }
}

size_t blob_emit(const struct sequence *s, unsigned n, uint8_t *code, uint64_t base,
                 struct record *records, uint64_t *pc)
{
    struct out o = {code, code, base};
    const size_t room = diff_mode == TR_MODE_16 ? 0x10000 : ROUTINES;

    for (unsigned i = 0; i < n; i++) {
        if ((size_t)(o.p - o.start) > room - 4096)
            return 0;
        put_prologue(&o, record_address(i), s[i].vector);
        pc[i] = here(&o);
        put_items(&o, &s[i]);
        records[i].epilogue = here(&o);
        if (!put_epilogue(&o, record_address(i), &s[i]))
            return 0;
    }
    absolute(&o, 0xff, diff_mode == TR_MODE_16 ? 5 : 4, IO_EXIT); /* jmp or ljmp */
    return (size_t)(o.p - o.start);
}
