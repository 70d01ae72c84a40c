/* control.h - resource control, read off the emitted host code (docs/design.md, section 1).
 *
 * control_scan() reads a finished block as the CPU will, without any help from the translator: it
 * follows every way through the code with what is known of each register, and complains about
 *
 *   - a byte that does not decode, or a privileged or sensitive instruction
 *   - a memory operand that is not proved to be the guest's, or a field of rt_cpu that translated
 *     code may use in this way
 *   - a host address in a register where the guest can see it
 *   - a branch to anything but this block, a stub, another block's entry, or the jump table
 *   - rsp moved and not accessed before the block is left
 *   - a loop that does not keep what was checked in front of it
 *   - a pc map that does not ascend, or that names the wrong recipe at a string instruction
 *
 * What is known of addresses are the claims of translator/long_operand.c, copy.c and string.c; this
 * is their second, independent statement. One thread at a time. Used by
 * tests/unit/translator_control_test.c and by the fuzzer. */
#ifndef NOVT_TESTS_FUZZ_CONTROL_H
#define NOVT_TESTS_FUZZ_CONTROL_H

#include "codecache/cc.h"
#include "runtime/rt.h"
#include "translator/tr.h"

#include <Zydis/Zydis.h>

struct control;
/* code: len bytes at offset at from the block's start, in the executable view. */
typedef void control_complain(struct control *c, unsigned at, unsigned len, const char *what);

/* True: no complaint. */
bool control_scan(struct control *c, const struct cc_block *b);

/* ---- between the parts of the scan ---- */

enum control_kind {
    CONTROL_GUEST,     /* a value of the guest's: value + offset */
    CONTROL_CONST,     /* offset is the constant */
    CONTROL_SMALL,     /* below 64 */
    CONTROL_ROTATED,   /* of + offset, rotated by small */
    CONTROL_INDEX,     /* bits 32 to 47 of of + offset */
    CONTROL_INDEX16,   /* below the jump table's number of entries */
    CONTROL_LANES,     /* sign bits of a gather's lanes that are near; offset: how many lanes */
    CONTROL_LANES_OFF, /* zero if all of them are */
    /* From here on nothing that the guest may see. */
    CONTROL_UNKNOWN,   /* left over from another block */
    CONTROL_DELTA,     /* of the slot of of + offset, by the table; id */
    CONTROL_DELTA_AT,  /* of the slot with number offset */
    CONTROL_NOT_DELTA, /* the complement of delta id */
    CONTROL_UNDO,      /* the negative of delta id */
    CONTROL_CLASS,     /* delta of class small */
    CONTROL_HOST,      /* host address in or near a window: delta id was added */
    CONTROL_STACK,     /* the same for rsp; offset: how far from what was accessed last;
                          small: there was one, or a lookup, in this block */
    CONTROL_HOST_SP,   /* the host's stack; offset from its top */
    CONTROL_TABLE,     /* the jump table */
    CONTROL_PLACE,     /* of an array of places */
    CONTROL_SEGMENT,   /* 32-bit code: where a segment's base is */
    CONTROL_DESCS,     /* the descriptors that may be loaded again */
    CONTROL_DESC,      /* one of them */
    CONTROL_WINDOW,
};

struct control_value {
    uint8_t kind, small; /* 32-bit code: a guest's value has so many bits; 0: all */
    bool wide;           /* 32-bit code: the upper half may not be zero */
    uint32_t value;      /* the same number: the same value, but for offset; 0: a constant */
    uint32_t of;         /* of which value it was made; offset is that one's */
    uint32_t id;
    int64_t offset;
};

/* What is known in front of an instruction. */
struct control_state {
    bool live;
    struct control_value reg[16];
    struct control_value spilled[3];  /* the guest's r9 to r11, in rt_cpu */
    uint32_t delta, undo;             /* ids of what rsp_delta and rsp_undo hold */
    struct control_value checked[80]; /* small: class */
    unsigned nchecked;
    uint32_t touched[80]; /* values through which memory was accessed for certain */
    unsigned ntouched;
    uint8_t gather_step, gather_index, gather_scratch, gather_wide; /* long_gather.c */
    bool gather_near;
};

struct control {
    const struct cc *cc;
    const struct tr_stubs *stubs;
    control_complain *complain;
    void *arg;
    /* What has been seen, in all blocks together. */
    unsigned long blocks, insns, complaints;
    unsigned long own, by_table, by_check, by_stack, by_state, strings; /* accesses */
    unsigned long inside, to_stub, to_table, to_block;                  /* branches */
    /* Private to the scan. */
    const struct cc_block *block;
    const uint8_t *code; /* executable view */
    unsigned at;         /* of the instruction that is looked at */
    ZydisDecodedInstruction zi;
    ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
    uint32_t values; /* numbers given to values so far */
    struct {
        uint32_t base, index, value; /* numbers of values, and of their sum */
        uint8_t scale;
    } sum[64];
    unsigned nsums;
    struct control_state front; /* control_loop.c: where the loop begins */
};

void control_say(struct control *c, const char *what);
void control_start64(struct control *c, struct control_state *s, bool indirect);
void control_step64(struct control *c, struct control_state *s);
/* The state of a branch that leaves the block; to C: to where rsp is looked up again. */
void control_exit64(struct control *c, const struct control_state *s, bool to_c);
void control_jrcxz64(struct control_state *s); /* where rcx is zero */
void control_known(struct control *c, const struct control_state *s, uint32_t known);
bool control_touched(const struct control_state *s, uint32_t value);
/* In front of the loop's first instruction, and at a branch back to it. */
void control_loop_begin(struct control *c, struct control_state *s);
void control_loop_back(struct control *c, const struct control_state *s);
void control_start32(struct control *c, struct control_state *s, bool indirect);
void control_step32(struct control *c, struct control_state *s);
void control_exit32(struct control *c, const struct control_state *s);
/* The recipe of the pc map's row for the instruction that is looked at. */
enum cc_recipe control_recipe(const struct control *c);

static inline unsigned control_register(ZydisRegister reg)
{
    ZydisRegister whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
    return whole >= ZYDIS_REGISTER_RAX && whole <= ZYDIS_REGISTER_R15
               ? (unsigned)(whole - ZYDIS_REGISTER_RAX)
               : 99;
}
static inline bool control_is_state(const struct control *c, const ZydisDecodedOperand *o,
                                    size_t *field)
{
    int64_t at = o->mem.disp.value - rt_cpu_offset();
    (void)c;
    *field = (size_t)at;
    return o->mem.segment == ZYDIS_REGISTER_FS && at >= 0 &&
           at + o->size / 8 <= (int64_t)sizeof(struct rt_cpu);
}
#define CONTROL_IN(at, member)                  \
    ((at) >= offsetof(struct rt_cpu, member) && \
     (at) < offsetof(struct rt_cpu, member) + sizeof(((struct rt_cpu *)0)->member))

#endif
