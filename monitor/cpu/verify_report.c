/* verify_report.c - two states compared, and a difference put into words. */
#include "monitor/cpu/verify_state.h"

#include "monitor/cpu/step.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- comparing ---- */

/* A component of an XSAVE area, or NULL when it is in its initial state. */
static const uint8_t *component(const struct mon_vcpu *v, const uint8_t *area, unsigned number,
                                unsigned *size)
{
    unsigned offset = AREA_XMM;
    uint64_t in_use = step_get64(area + AREA_HEADER);

    *size = 256;
    if (number > STEP_SSE)
        *size = step_component(v, number, &offset);
    return in_use >> number & 1 ? area + offset : NULL;
}

static bool is_zero(const uint8_t *p, unsigned size)
{
    return !p || !size || (!p[0] && !memcmp(p, p + 1, size - 1));
}

/* Initial state is zero for all of these. */
static bool component_differs(const struct mon_vcpu *v, unsigned number, const uint8_t *a,
                              const uint8_t *b)
{
    unsigned size;
    const uint8_t *p = component(v, a, number, &size), *q = component(v, b, number, &size);

    if (!p || !q)
        return !is_zero(p, size) || !is_zero(q, size);
    return memcmp(p, q, size);
}

/* Control, status, tags and registers, in canonical form. The opcode and pointers of the last
 * instruction are left out: they are addresses of host code. */
static void x87_image(const uint8_t *area, uint8_t image[8 + 80])
{
    static const uint8_t initial[] = {0x7f, 0x03, 0, 0, 0};

    memset(image, 0, 88);
    if (!(area[AREA_HEADER] & 1)) {
        memcpy(image, initial, 5);
        return;
    }
    memcpy(image, area, 5);
    for (unsigned n = 0; n < 8; n++)
        memcpy(image + 8 + n * 10, area + 32 + n * 16, 10);
}

/* The name of a part of vector state that differs, or NULL. */
const char *verify_vectors(const struct mon_vcpu *v, const uint8_t *a, const uint8_t *b)
{
    static const char *const names[] = {
        [STEP_SSE] = "an XMM register",
        [STEP_AVX] = "a YMM register",
        [STEP_OPMASK] = "an opmask register",
        [STEP_ZMM_HI256] = "a ZMM register",
        [STEP_HI16_ZMM] = "a ZMM register of 16 to 31",
    };
    uint8_t x[88], y[88];

    x87_image(a, x);
    x87_image(b, y);
    if (memcmp(x, y, sizeof(x)))
        return "x87 state";
    if (memcmp(a + 24, b + 24, 4))
        return "MXCSR";
    for (unsigned number = STEP_SSE; number < sizeof(names) / sizeof(names[0]); number++) {
        if (names[number] && component_differs(v, number, a, b))
            return names[number];
    }
    return NULL;
}

static const char *gpr_name(unsigned n, bool wide)
{
    static const char *const names[] = {"RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI",
                                        "R8",  "R9",  "R10", "R11", "R12", "R13", "R14", "R15"};
    static const char *const narrow[] = {"EAX", "ECX", "EDX", "EBX", "ESP", "EBP", "ESI", "EDI"};

    return wide || n >= 8 ? names[n] : narrow[n];
}

const char *verify_registers(const struct mon_vcpu *v, const struct state *a, const struct state *b,
                             uint64_t dead)
{
    bool wide = v->key & TR_K_LONG;

    if (a->rip != b->rip)
        return wide ? "RIP" : "EIP";
    for (unsigned n = 0; n < 16; n++) {
        if (a->gpr[n] != b->gpr[n])
            return gpr_name(n, wide);
    }
    if (!((a->rflags ^ b->rflags) & ~dead & ~(uint64_t)RT_RF))
        return NULL;
    return wide ? "RFLAGS" : "EFLAGS";
}

const struct page *verify_memory(const struct mon_verify *y, unsigned *at)
{
    for (unsigned i = 0; i < y->npages; i++) {
        const struct page *page = &y->pages[i];
        if (!memcmp(page->after, page->host, PAGE_SIZE))
            continue;
        for (*at = 0; page->after[*at] == page->host[*at];)
            ++*at;
        return page;
    }
    return NULL;
}

/* ---- reporting ---- */

void verify_say(struct mon_vcpu *v, const char *format, ...)
{
    char line[320];
    va_list args;

    if (!v->vm->config.log)
        return;
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    v->vm->config.log(v->vm->config.log_opaque, line);
}

static void say_registers(struct mon_vcpu *v, const char *name, const struct state *s)
{
    char text[256];
    unsigned at = 0;

    verify_say(v, "verify: %-10s rip %llx rflags %llx", name, (unsigned long long)s->rip,
               (unsigned long long)s->rflags);
    for (unsigned n = 0; n < (v->key & TR_K_LONG ? 16 : 8); n++) {
        at += (unsigned)snprintf(text + at, sizeof(text) - at, " %s %llx",
                                 gpr_name(n, v->key & TR_K_LONG), (unsigned long long)s->gpr[n]);
        if (n % 8 == 7) {
            verify_say(v, "verify:           %s", text);
            at = 0;
        }
    }
}

static void hex(char *text, size_t size, const uint8_t *bytes, unsigned n)
{
    text[0] = 0;
    for (unsigned i = 0; i < n && 3 * i + 4 < size; i++)
        snprintf(text + 3 * i, size - 3 * i, "%02x ", bytes[i]);
}

static void say_memory(struct mon_vcpu *v)
{
    struct mon_verify *y = v->verify;
    char trial_bytes[64], run_bytes[64];
    unsigned at;

    for (unsigned i = 0; i < y->npages; i++) {
        const struct page *page = &y->pages[i];
        for (at = 0; at < PAGE_SIZE; at += 16) {
            if (!memcmp(page->after + at, page->host + at, 16))
                continue;
            hex(trial_bytes, sizeof(trial_bytes), page->after + at, 16);
            hex(run_bytes, sizeof(run_bytes), page->host + at, 16);
            verify_say(v, "verify: gpa %08llx  slow path  %s", (unsigned long long)page->gpa + at,
                       trial_bytes);
            verify_say(v, "verify:               translated %s", run_bytes);
        }
    }
}

static void say_vector(struct mon_vcpu *v, const char *name, const uint8_t *area)
{
    char text[400];

    hex(text, sizeof(text), area, 32);
    verify_say(v, "verify: %-10s x87 and MXCSR %s", name, text);
    for (unsigned at = 32; at < AREA_XMM + (v->key & TR_K_LONG ? 256 : 128); at += 32) {
        hex(text, sizeof(text), area + at, 32);
        verify_say(v, "verify: %-10s %s %u %s", name, at < AREA_XMM ? "st" : "xmm",
                   (at < AREA_XMM ? at - 32 : at - AREA_XMM) / 16, text);
    }
}

static void say_listing(struct mon_vcpu *v)
{
    struct mon_verify *y = v->verify;
    const struct cc_block *b = verify_block(v);
    char text[96], bytes[200];

    for (unsigned n = 0; n < y->plan->ninsns; n++) {
        const struct tr_insn *insn = &y->plan->insn[n];
        hex(bytes, sizeof(bytes), insn->bytes, insn->len);
        tr_format(insn, b->pc + y->plan->at[n], text, sizeof(text));
        verify_say(v, "verify:   %08llx  %-36s %s", (unsigned long long)b->pc + y->plan->at[n],
                   bytes, text);
    }
    for (unsigned at = 0; at < b->host_len; at += 32) {
        unsigned n = b->host_len - at < 32 ? b->host_len - at : 32;
        hex(bytes, sizeof(bytes), v->vm->cc.rx + b->host + at, n);
        verify_say(v, "verify:   host %p  %s", (void *)(v->vm->cc.rx + b->host + at), bytes);
    }
}

void verify_report(struct mon_vcpu *v)
{
    struct mon_verify *y = v->verify;

    say_registers(v, "before", &y->before);
    say_registers(v, "slow path", &y->trial);
    say_registers(v, "translated", &y->run);
    if (y->plan->vector && verify_vectors(v, y->trial.xsave, y->run.xsave)) {
        say_vector(v, "before", y->before.xsave);
        say_vector(v, "slow path", y->trial.xsave);
        say_vector(v, "translated", y->run.xsave);
    }
    say_memory(v);
    say_listing(v);
}
