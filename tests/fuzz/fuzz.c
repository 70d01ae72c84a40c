/* fuzz.c - one input: decoded, translated and scanned; see fuzz.h. */
#include "tests/fuzz/fuzz.h"

#include "monitor/cpu/redirect64.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REGION  (4u << 20)
#define MAX_GPA (64u << 20)
#define GPA     0x10000u

struct fuzz_counts fuzz_counts;

static struct cc cc;
static struct tr_stubs stubs;
static uint8_t page[3 * 4096];
static unsigned long complaints;

static void complain(struct control *c, unsigned at, unsigned len, const char *what)
{
    complaints++;
    fprintf(stderr, "fuzz: host +%x", at);
    for (unsigned i = 0; i < len && i < 15; i++)
        fprintf(stderr, " %02x", c->code[at + i]);
    fprintf(stderr, ": %s\n", what);
}

static void start(void)
{
    if (cc.rx)
        return;
    if (cc_create(&cc, REGION, MAX_GPA) < 0 || tr_stubs_emit(&cc, &stubs) < 0) {
        fprintf(stderr, "fuzz: no code cache\n");
        exit(2);
    }
    fuzz_counts.control = (struct control){.cc = &cc, .stubs = &stubs, .complain = complain};
}

/* ---- the slow path's way: the instruction with its operand in a buffer ---- */

static uint64_t target_of(const uint8_t *code, const ZydisDecodedInstruction *zi,
                          const ZydisDecodedOperand *o)
{
    return (uintptr_t)code + zi->length + (uint64_t)o->mem.disp.value;
}

static void check_redirected(const struct tr_insn *insn, const uint8_t *code, size_t len,
                             const void *buffer)
{
    ZydisDecoder decoder;
    ZydisDecodedInstruction zi;
    ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];
    const char *what = NULL;

    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    if (len > 32 || !ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code, len, &zi, o))) {
        what = "does not decode";
        zi.operand_count = 0;
    } else if (zi.length != len) {
        what = "is not one instruction";
    } else if (zi.attributes & ZYDIS_ATTRIB_IS_PRIVILEGED ||
               (zi.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE)) {
        what = "is no innocuous instruction";
    }
    for (unsigned i = 0; i < zi.operand_count; i++) {
        if (o[i].type == ZYDIS_OPERAND_TYPE_MEMORY && o[i].mem.type != ZYDIS_MEMOP_TYPE_AGEN &&
            zi.mnemonic != ZYDIS_MNEMONIC_NOP &&
            (o[i].mem.base != ZYDIS_REGISTER_RIP || o[i].mem.index != ZYDIS_REGISTER_NONE ||
             target_of(code, &zi, &o[i]) != (uintptr_t)buffer))
            what = "has another operand than the buffer";
    }
    if (!what)
        return;
    complaints++;
    fprintf(stderr, "fuzz: redirected");
    for (unsigned i = 0; i < insn->len; i++)
        fprintf(stderr, " %02x", insn->bytes[i]);
    fprintf(stderr, " ->");
    for (unsigned i = 0; i < len; i++)
        fprintf(stderr, " %02x", code[i]);
    fprintf(stderr, ": %s\n", what);
}

static void decode_all(const uint8_t *bytes, size_t size, enum tr_mode mode)
{
    static uint8_t code[64];
    static uint8_t buffer[64];
    struct tr_insn insn;
    unsigned steps = 64;

    while (size && steps--) {
        enum tr_decode_status status = tr_decode(bytes, size, mode, &insn);
        if (status == TR_DECODE_OK && insn.cls == TR_COPY) {
            char text[128];
            tr_decode_operands(&insn);
            tr_format(&insn, 0x1000, text, sizeof(text));
            size_t len = insn.op == TR_OP_nop ? 0
                         : mode == TR_MODE_64 ? mon_emit_redirected64(&insn, code, code, buffer)
                                              : tr_emit_redirected(&insn, code, code, buffer);
            fuzz_counts.redirected += len != 0;
            if (len)
                check_redirected(&insn, code, len, buffer);
        }
        size_t step = status == TR_DECODE_OK ? insn.len : 1;
        if (step > size) {
            complaints++;
            fprintf(stderr, "fuzz: an instruction longer than its bytes\n");
            return;
        }
        bytes += step;
        size -= step;
    }
}

/* ---- blocks ---- */

static uint64_t address(unsigned which)
{
    static const uint64_t low[] = {0x1000,     0x400000,   0x7ffff000, 0x80000000,
                                   0xbffff000, 0xc0000000, 0xfffff000, 0x12345000};
    static const uint64_t all[] = {0x400000,           0x7ffff000,         0xfffff000,
                                   0x100000000,        0x555555555000,     0x7f1234567000,
                                   0x7ffffffff000,     0xffff800000000000, 0xffff888012345000,
                                   0xffffffff81000000, 0xfffffffffffff000, 0x3ffffffff000};

    if (which & 0x80)
        return low[which & 7];
    return all[which % (sizeof(all) / sizeof(all[0]))];
}

static void set_registers(uint64_t *gpr, unsigned seed)
{
    static const uint64_t values[] = {0,
                                      0x7fffdeadb000,
                                      0x400100000000,
                                      0xffff888012345678,
                                      0xffffffff81000000,
                                      0x555555555000,
                                      0x8000000000000000,
                                      4096};

    for (unsigned n = 0; n < 16; n++)
        gpr[n] = values[(seed >> (n & 3)) & 7];
}

static struct cc_block *translate(struct tr_request *request)
{
    struct cc_block *block = NULL;

    enum tr_result result = tr_translate(request, &block);
    if (result == TR_FULL) {
        cc_flush(&cc);
        result = tr_translate(request, &block);
    }
    if (result == TR_FULL) {
        complaints++;
        fprintf(stderr, "fuzz: no room in an empty cache\n");
    }
    return result == TR_DONE ? block : NULL;
}

/* The same block at another address, scanned as well. */
static void move(const struct cc_block *b, unsigned seed)
{
    uint64_t pc = 0x300000000 + ((uint64_t)seed << 32) + (b->pc & 4095);
    struct cc_block *copy = cc_move(&cc, pc, b->gpa, b->key, false);

    if (!copy)
        return;
    fuzz_counts.moved++;
    control_scan(&fuzz_counts.control, copy);
}

static void note_classes(uint64_t gpa, unsigned value)
{
    for (unsigned i = 0; i < 512; i++)
        *cc_seen(&cc, gpa + i) = (uint8_t)value;
}

static void branch_back(uint8_t *start, uint8_t *end)
{
    int32_t by = (int32_t)(start - (end + 6));

    if (end + 6 > page + 4096)
        return;
    end[0] = 0x0f;
    end[1] = 0x85;
    memcpy(end + 2, &by, 4);
}

static void translate_and_scan(const uint8_t *head, const uint8_t *code, size_t size)
{
    bool wide = head[0] & 2;
    unsigned back = (head[4] | head[5] << 8) & 4095;
    unsigned offset = back && back <= size ? 4096 - back : 4095 & ~back & 0xff0;
    uint64_t pc = address(wide ? head[6] & 0x7f : head[6] | 0x80) + offset;
    uint32_t key = (uint32_t)(head[1] | head[2] << 8) & (TR_K_CPL0 | (TR_K_LONG - 1));
    uint64_t gpr[16];
    struct tr_request request = {.cc = &cc,
                                 .stubs = &stubs,
                                 .pc = pc,
                                 .gpa = GPA + offset,
                                 .key = key | (wide ? TR_K_LONG : 0),
                                 .max_insns = head[3] % 64 + 1,
                                 .bytes = page + offset,
                                 .bytes2 = head[0] & 8 ? page + 4096 : NULL,
                                 .gpa2 = GPA + 4096,
                                 .gpr = gpr};

    memset(page, 0xf4, sizeof(page));
    memcpy(page + offset, code, size);
    if (head[0] & 64)
        branch_back(page + offset, page + offset + size);
    set_registers(gpr, head[7]);
    if (head[0] & 32)
        note_classes(request.gpa, head[7] % 6);
    cc.collided[cc_mark(pc)] = head[0] >> 2 & 1;
    struct cc_block *b = translate(&request);
    if (b) {
        fuzz_counts.translated++;
        fuzz_counts.loops += b->loops;
        control_scan(&fuzz_counts.control, b);
        if (head[0] & 16)
            move(b, head[7]);
    }
    if (head[0] & 32)
        note_classes(request.gpa, CC_SEEN_NOTHING);
}

unsigned long fuzz_one(const uint8_t *data, size_t size)
{
    start();
    if (size <= FUZZ_HEAD || size > FUZZ_MAX)
        return 0;
    complaints = 0;
    fuzz_counts.inputs++;
    const uint8_t *code = data + FUZZ_HEAD;
    size_t n = size - FUZZ_HEAD;
    decode_all(code, n, data[0] & 2 ? TR_MODE_64 : data[0] & 1 ? TR_MODE_32 : TR_MODE_16);
    if (data[0] & 3)
        translate_and_scan(data, code, n);
    fuzz_counts.complaints += complaints;
    return complaints;
}
