/* golden.c - bytes in, listing out: what the translator makes of one instruction, as text.
 *
 *   golden CASES               compares every case with its listing; shows the first lines that
 * differ golden --regenerate CASES  rewrites the listings (look at the diff before committing it)
 *
 * The case file's head documents its format. Listings are AT&T syntax with the addresses replaced
 * that change from run to run:
 *
 *   +0x1f          an offset in the block
 *   <callout32>    a permanent stub
 *   %fs:vif        a field of rt_cpu
 *   <record>       the decoded instruction behind the block, for a callout */
#include "codecache/cc.h"
#include "runtime/rt.h"
#include "translator/tr.h"

#include <Zydis/Zydis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FEATURES   (TR_K_X87 | TR_K_WAIT | TR_K_MMX | TR_K_SSE | TR_K_AVX | TR_K_AVX512)
#define FIRST_SITE 100 /* so that a site's number stands out */
#define FLAT       (TR_K_DS | TR_K_ES | TR_K_SS)

struct test_case {
    char head[1024]; /* the whole "case" line */
    char name[1024];
    uint32_t key;
    uint64_t pc;
    unsigned from; /* what is listed: 0 all, 1 from the direct entry */
    bool collided;
    uint8_t bytes[64];
    unsigned len, insns;
    char bytes_line[1024];
    char want[16384];
};

static struct cc cc;
static struct tr_stubs stubs;
static const struct cc_block *listed;

/* ---- listing ---- */

static const char *stub_name(uint64_t address)
{
    const struct {
        const char *name;
        const uint8_t *at;
    } names[] = {{"miss", stubs.miss},           {"miss32", stubs.miss32},
                 {"direct32", stubs.direct32},   {"callout32", stubs.callout32},
                 {"pending32", stubs.pending32}, {"probe64", stubs.probe64},
                 {"direct64", stubs.direct64},   {"callout64", stubs.callout64},
                 {"pending64", stubs.pending64}, {"sysenter32", stubs.sysenter32},
                 {"sysexit32", stubs.sysexit32}};
    for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if ((uint64_t)names[i].at == address)
            return names[i].name;
    }
    return NULL;
}

static const char *state_name(int64_t displacement, char *buf, size_t size)
{
    static const struct {
        const char *name;
        size_t at, size;
    } fields[] = {
#define F(field) {#field, offsetof(struct rt_cpu, field), sizeof(((struct rt_cpu *)0)->field)}
        F(gpr),     F(rip),      F(rflags),    F(hflags),     F(vif),      F(irq_pending),
        F(cpl),     F(in_cache), F(host_sp),   F(jump_table), F(window),   F(exit_arg),
        F(segptr),  F(segbase),  F(seg_moved), F(descs),      F(selector), F(tsc_offset),
        F(tsc_aux), F(insns),    F(rsp_delta), F(direct),     F(rsp_undo), F(base64),
        F(host64),  F(host_rsp), F(miss),
#undef F
    };
    int64_t offset = (int32_t)displacement - (int32_t)rt_cpu_offset();
    for (unsigned i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        if (offset < (int64_t)fields[i].at || offset >= (int64_t)(fields[i].at + fields[i].size))
            continue;
        if (offset == (int64_t)fields[i].at)
            return fields[i].name;
        snprintf(buf, size, "%s+%d", fields[i].name, (int)(offset - (int64_t)fields[i].at));
        return buf;
    }
    return NULL;
}

/* Appends the name for a number, or the number as it was written. */
static char *put_number(char *out, const char *text, size_t len, bool in_fs, uint64_t lo,
                        uint64_t hi)
{
    char *end, buf[64];
    bool negative = *text == '-';
    uint64_t value = strtoull(text + negative, &end, 16);
    const char *name = NULL;

    if (negative)
        value = -value;
    if (in_fs)
        name = state_name((int64_t)value, buf, sizeof(buf));
    if (name)
        return out + sprintf(out, "%s", name);
    name = stub_name(value);
    if (name)
        return out + sprintf(out, "<%s>", name);
    for (unsigned i = 0; i < listed->nsites; i++) {
        const struct cc_site *site = &cc.sites[listed->first_site + i];
        if (value == (uint64_t)(cc.rx + cc_exit_of(&cc, listed->first_site + i)))
            return out + sprintf(out, "<exit %u, %sto %llx>", i, site->far ? "far " : "",
                                 (unsigned long long)cc_site_pc(&cc, site));
    }
    if (value >= lo && value < hi)
        return out + sprintf(out, "+0x%x", (unsigned)(value - lo));
    if (value >= hi && value < hi + 4096)
        return out + sprintf(out, "<record>");
    return out + sprintf(out, "%.*s", (int)len, text);
}

/* Replaces the numbers that vary. */
static void normalise(const char *text, char *out, uint64_t lo, uint64_t hi)
{
    bool in_fs = false;

    while (*text) {
        size_t len = 0;
        if (!strncmp(text, "%fs:", 4))
            in_fs = true;
        if (!strncmp(text, "0x", 2) || !strncmp(text, "-0x", 3)) {
            len = *text == '-' ? 3 : 2;
            while (strchr("0123456789abcdefABCDEF", text[len]) && text[len])
                len++;
            out = put_number(out, text, len, in_fs, lo, hi);
            in_fs = false;
            text += len;
            continue;
        }
        if (*text == ',' || *text == ')')
            in_fs = false;
        *out++ = *text++;
    }
    *out = 0;
}

/* XLAT, MASKMOV and string instructions: their operand's prefixes do not show. */
static bool hides_memory(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *operands)
{
    for (unsigned i = 0; i < zi->operand_count; i++) {
        if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
            operands[i].visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
            return zi->meta.category != ZYDIS_CATEGORY_PUSH &&
                   zi->meta.category != ZYDIS_CATEGORY_POP;
    }
    return false;
}

static void list(const uint8_t *code, unsigned from, unsigned len, char *out)
{
    ZydisDecoder decoder;
    ZydisFormatter formatter;
    ZydisDecodedInstruction zi;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    char text[256], line[512];

    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_ATT);
    ZydisFormatterSetProperty(&formatter, ZYDIS_FORMATTER_PROP_HEX_UPPERCASE, ZYAN_FALSE);
    ZydisFormatterSetProperty(&formatter, ZYDIS_FORMATTER_PROP_ADDR_PADDING_ABSOLUTE,
                              ZYDIS_PADDING_DISABLED);
    ZydisFormatterSetProperty(&formatter, ZYDIS_FORMATTER_PROP_FORCE_SEGMENT, ZYAN_FALSE);
    *out = 0;
    for (unsigned at = from; at < len; at += zi.length) {
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code + at, len - at, &zi, operands))) {
            out += sprintf(out, "    %02x: (not an instruction)\n", at);
            return;
        }
        ZydisFormatterFormatInstruction(&formatter, &zi, operands, zi.operand_count_visible, text,
                                        sizeof(text), (uint64_t)(code + at), NULL);
        normalise(text, line, (uint64_t)code, (uint64_t)code + len);
        out += sprintf(out, "    %02x: %s", at, line);
        for (unsigned i = 0; hides_memory(&zi, operands) && i < zi.length; i++)
            out += sprintf(out, i ? " %02x" : "   # %02x", code[at + i]);
        out += sprintf(out, "\n");
    }
}

/* ---- translating ---- */

static bool translate(const struct test_case *c, char *out)
{
    static uint8_t page[3 * 4096];
    size_t at = c->pc & 4095;
    struct cc_block *block;
    struct tr_request request = {.cc = &cc,
                                 .stubs = &stubs,
                                 .pc = c->pc,
                                 .gpa = c->pc & 0xffffff,
                                 .key = c->key,
                                 .max_insns = c->insns,
                                 .bytes = page + at,
                                 .bytes2 = page + 4096,
                                 .gpa2 = (c->pc & 0xfff000) + 4096};

    memset(page, 0xcc, sizeof(page));
    memcpy(page + at, c->bytes, c->len);
    cc_flush(&cc);
    cc.nsites = FIRST_SITE;
    memset(cc.collided, c->collided ? 0xff : 0, CC_MARKS);
    if (tr_translate(&request, &block) != TR_DONE) {
        strcpy(out, "    (cannot be translated)\n");
        return false;
    }
    listed = block;
    list(cc.rx + block->host, c->from ? block->direct : 0, block->host_len, out);
    return true;
}

/* ---- the case file ---- */

static uint32_t key_bit(const char *word)
{
    static const struct {
        const char *name;
        uint32_t bits;
    } keys[] = {{"cpl0", TR_K_CPL0}, {"cpl3", TR_K_CPL3},   {"iopl", TR_K_IOPL},
                {"ds", TR_K_DS},     {"es", TR_K_ES},       {"ss", TR_K_SS},
                {"tsc", TR_K_TSC},   {"count", TR_K_COUNT}, {"long", TR_K_LONG},
                {"fpu", FEATURES}};
    for (unsigned i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        if (!strcmp(word, keys[i].name))
            return keys[i].bits;
    }
    return 0;
}

/* case NAME [: WORD...] */
static bool parse_head(struct test_case *c, const char *line)
{
    char words[1024], *save, *colon;

    memset(c, 0, sizeof(*c));
    snprintf(c->head, sizeof(c->head), "%s", line);
    snprintf(words, sizeof(words), "%s", line + 5);
    colon = strstr(words, " : ");
    if (colon)
        *colon = 0;
    snprintf(c->name, sizeof(c->name), "%.*s", (int)strcspn(words, "\n"), words);
    c->key = FLAT | FEATURES | TR_K_CPL0 | TR_K_IOPL | TR_K_TSC;
    c->pc = 0x401230;
    c->from = 1;
    char *word = colon ? strtok_r(colon + 3, " \n", &save) : NULL;
    for (; word; word = strtok_r(NULL, " \n", &save)) {
        if (!strncmp(word, "pc=", 3))
            c->pc = strtoull(word + 3, NULL, 16);
        else if (!strcmp(word, "entry"))
            c->from = 0;
        else if (!strcmp(word, "collided"))
            c->collided = true;
        else if (*word == '+' && key_bit(word + 1))
            c->key |= key_bit(word + 1);
        else if (*word == '-' && key_bit(word + 1))
            c->key &= ~key_bit(word + 1);
        else
            return false;
    }
    return true;
}

/* Instructions are separated by |. */
static bool parse_bytes(struct test_case *c, const char *line)
{
    snprintf(c->bytes_line, sizeof(c->bytes_line), "%s", line);
    c->insns = 1;
    while (*line && *line != '\n') {
        unsigned byte;
        if (*line == '|')
            c->insns++;
        if (*line == ' ' || *line == '|') {
            line++;
            continue;
        }
        if (sscanf(line, "%2x", &byte) != 1 || c->len == sizeof(c->bytes))
            return false;
        c->bytes[c->len++] = (uint8_t)byte;
        line += 2;
    }
    return c->len > 0;
}

static unsigned passed, failed;

static void show_difference(const char *want, const char *got)
{
    while (*want && *got) {
        size_t w = strcspn(want, "\n"), g = strcspn(got, "\n");
        if (w != g || memcmp(want, got, w))
            break;
        want += w + 1;
        got += g + 1;
    }
    printf("  expected:\n%.*s\n  got:\n%.*s\n", (int)(*want ? strcspn(want, "\n") : 0), want,
           (int)(*got ? strcspn(got, "\n") : 0), got);
}

static void finish_case(struct test_case *c, FILE *rewrite)
{
    static char got[16384];

    if (!c->head[0])
        return;
    translate(c, got);
    if (rewrite)
        fprintf(rewrite, "%s%s%s\n", c->head, c->bytes_line, got);
    if (rewrite || !strcmp(got, c->want)) {
        passed++;
    } else {
        failed++;
        printf("FAIL golden: %s\n", c->name);
        show_difference(c->want, got);
    }
    c->head[0] = 0;
}

static int run_file(FILE *in, FILE *rewrite)
{
    static struct test_case c;
    char line[1024];
    unsigned number = 0;

    while (fgets(line, sizeof(line), in)) {
        number++;
        bool good = true;
        if (line[0] == '#' || line[0] == '\n') {
            finish_case(&c, rewrite);
            if (rewrite && line[0] == '#')
                fputs(line, rewrite);
            /* one empty line behind a comment; cases bring their own */
            static bool comment;
            if (rewrite && line[0] == '\n' && comment)
                fputs(line, rewrite);
            comment = line[0] == '#';
        } else if (!strncmp(line, "case ", 5)) {
            finish_case(&c, rewrite);
            good = parse_head(&c, line);
        } else if (!strncmp(line, "    ", 4)) {
            strncat(c.want, line, sizeof(c.want) - strlen(c.want) - 1);
        } else if (c.head[0] && line[0] == ' ') {
            good = parse_bytes(&c, line);
        } else {
            good = false;
        }
        if (!good) {
            printf("line %u is not understood: %s", number, line);
            return 2;
        }
    }
    finish_case(&c, rewrite);
    return 0;
}

int main(int argc, char **argv)
{
    bool regenerate = argc == 3 && !strcmp(argv[1], "--regenerate");
    const char *path = argv[argc - 1];
    char temporary[512];
    FILE *in, *rewrite = NULL;

    if (argc < 2 || (argc == 3 && !regenerate) || argc > 3) {
        fprintf(stderr, "usage: golden [--regenerate] CASES\n");
        return 2;
    }
    snprintf(temporary, sizeof(temporary), "%s.new", path);
    in = fopen(path, "r");
    if (in && regenerate)
        rewrite = fopen(temporary, "w");
    if (!in || (regenerate && !rewrite)) {
        perror(path);
        return 2;
    }
    if (cc_create(&cc, 1 << 20, 1 << 24) || tr_stubs_emit(&cc, &stubs)) {
        printf("cannot make a code cache\n");
        return 2;
    }
    int rc = run_file(in, rewrite);
    fclose(in);
    if (rewrite && (fclose(rewrite) || rc || rename(temporary, path)))
        return 2;
    printf("%u passed, %u failed\n", passed, failed);
    cc_destroy(&cc);
    return rc ? rc : failed || !passed;
}
