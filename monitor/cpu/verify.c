/* verify.c - lockstep checking: every block is run in the slow path and in translated form.
 *
 *   begin   the block at rip, instruction by instruction in the slow path (the trial), as far as it
 *           goes straight; pages that it may write are copied first; then everything is undone
 *   run     one translated block: chaining is off, and the jump table misses always: all ways out
 * lead to C end     registers, flags, vector state and the trial's pages are compared; the first
 * difference ends the run with a report
 *
 *     page   [before]  copied when the slow path first asks for the page to write it
 *            [after]   what the trial left there; the page itself gets [before] back
 *
 * Translated code may leave in the middle of a block (a callout, a fault that is the slow path's to
 * sort out, an interrupt after STI). Then the trial is repeated up to there, on the state as it was
 * before, and translated code's state is put back.
 *
 * A block's first 256 runs are compared, and one of 61 after that: a trial takes microseconds, and
 * a guest that is much slower spends all its time on timer interrupts. All other runs, too, are of
 * one block at a time.
 *
 * What cannot be repeated is not compared: RDTSC, RDRAND and whatever changes privileged state get
 * blocks of their own (mon_verify_block_limit()); an access that the embedder has to answer, and a
 * store into translated code, end the trial, as they end the translated block; a block that a kick
 * interrupts in the middle of a string instruction is skipped.
 *
 * Accessed and dirty bits that the trial sets are not undone: guests that look at them in the same
 * block must find the same. If there were any, the trial is repeated with the bits set from the
 * start. They are not compared: translated code sets them when its window is filled, and a page may
 * have been mapped before the guest cleared them.
 *
 * A difference that is none: translated code sees stale mappings where the guest changed a page
 * table and has not flushed its TLB. Real CPUs may too; no guest so far relies on it.
 *
 * Thread: the vCPU's own; mon_verify_mark() also in its fault handler. */
#include "monitor/cpu/verify_state.h"

#include "monitor/cpu/step.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* ---- life ---- */

int mon_verify_create(struct mon_vcpu *v)
{
    struct mon_verify *y;

    if (!(v->vm->config.flags & NOVT_F_VERIFY))
        return 0;
    v->verify = y = rt_os_reserve(sizeof(*y));
    if (!y)
        return -ENOMEM;
    y->plans = rt_os_reserve(PLANS * sizeof(*y->plans));
    y->pages = rt_os_reserve(PAGES * sizeof(*y->pages));
    y->areas = rt_os_reserve(3 * XSAVE_MAX);
    y->runs = rt_os_reserve(COUNTERS * sizeof(*y->runs));
    y->xsave_size = rt_fpu_size();
    if (!y->runs || !y->plans || !y->pages || !y->areas || y->xsave_size > XSAVE_MAX) {
        mon_verify_destroy(v);
        return -ENOMEM;
    }
    y->before.xsave = y->areas;
    y->trial.xsave = y->areas + XSAVE_MAX;
    y->run.xsave = y->areas + 2 * XSAVE_MAX;
    return 0;
}

void mon_verify_destroy(struct mon_vcpu *v)
{
    struct mon_verify *y = v->verify;

    if (!y)
        return;
    if (y->plans && (y->compared || y->skipped))
        verify_say(v, "verify: vCPU %u: %llu blocks compared, %llu not comparable", v->id,
                   (unsigned long long)y->compared, (unsigned long long)y->skipped);
    rt_os_release(y->plans, PLANS * sizeof(*y->plans));
    rt_os_release(y->pages, PAGES * sizeof(*y->pages));
    rt_os_release(y->areas, 3 * XSAVE_MAX);
    rt_os_release(y->runs, COUNTERS * sizeof(*y->runs));
    rt_os_release(y, sizeof(*y));
    v->verify = NULL;
}

uint64_t mon_verify_count(const struct mon_vcpu *v)
{
    return v->verify ? v->verify->compared : 0;
}

/* ---- what can be repeated ---- */

/* Instructions that change nothing but what struct state and the pages hold. */
static const bool repeatable[TR_OP_COUNT] = {
    [TR_OP_copy] = true,      [TR_OP_nop] = true,           [TR_OP_wait] = true,
    [TR_OP_xlat] = true,      [TR_OP_maskmov] = true,       [TR_OP_push] = true,
    [TR_OP_pop] = true,       [TR_OP_pusha] = true,         [TR_OP_popa] = true,
    [TR_OP_enter] = true,     [TR_OP_leave] = true,         [TR_OP_pushf] = true,
    [TR_OP_popf] = true,      [TR_OP_movs] = true,          [TR_OP_stos] = true,
    [TR_OP_lods] = true,      [TR_OP_scas] = true,          [TR_OP_cmps] = true,
    [TR_OP_cli] = true,       [TR_OP_sti] = true,           [TR_OP_jcc] = true,
    [TR_OP_jmp_rel] = true,   [TR_OP_jmp_ind] = true,       [TR_OP_call_rel] = true,
    [TR_OP_call_ind] = true,  [TR_OP_ret] = true,           [TR_OP_loop] = true,
    [TR_OP_jcxz] = true,      [TR_OP_aaa] = true,           [TR_OP_aas] = true,
    [TR_OP_aam] = true,       [TR_OP_aad] = true,           [TR_OP_daa] = true,
    [TR_OP_das] = true,       [TR_OP_salc] = true,          [TR_OP_movdir64b] = true,
    [TR_OP_push_sreg] = true, [TR_OP_mov_from_sreg] = true,
};

/* RDRAND and RDSEED are innocuous, but never the same twice. */
static bool is_random(const struct tr_insn *insn)
{
    return insn->map == 1 && insn->opcode == 0xc7 && insn->mod == 3 &&
           insn->encoding == TR_ENC_LEGACY;
}

static bool is_repeatable(const struct tr_insn *insn)
{
    return repeatable[insn->op] && !is_random(insn);
}

/* A branch to the next instruction: taken or not cannot be told from rip. */
static bool is_ambiguous(const struct tr_insn *insn)
{
    return insn->cls == TR_BRANCH && insn->imm == 0 &&
           (insn->op == TR_OP_jcc || insn->op == TR_OP_loop || insn->op == TR_OP_jcxz);
}

static enum tr_mode mode_of(const struct mon_vcpu *v)
{
    return v->key & TR_K_LONG ? TR_MODE_64 : TR_MODE_32;
}

uint32_t mon_verify_block_limit(struct mon_vcpu *v, uint64_t gpa)
{
    const uint8_t *bytes = mon_vm_ram(v, gpa, NULL);
    size_t room = PAGE_SIZE - (gpa & (PAGE_SIZE - 1)), at = 0;
    struct tr_insn insn;
    uint32_t n = 0;

    while (bytes && n < MAX_INSNS && at < room) {
        if (tr_decode(bytes + at, room - at, mode_of(v), &insn) != TR_DECODE_OK)
            break;
        if (!is_repeatable(&insn))
            return n ? n : 1;
        n++;
        at += insn.len;
        if (is_ambiguous(&insn))
            return n;
    }
    return n < MAX_INSNS ? n + 1 : n;
}

/* ---- plans ---- */

/* The block's bytes as they are in memory now. False: not in RAM. */
static bool read_bytes(struct mon_vcpu *v, const struct cc_block *b, uint8_t *bytes)
{
    const uint8_t *first = mon_vm_ram(v, b->gpa, NULL);
    unsigned in_page = PAGE_SIZE - (unsigned)(b->gpa & (PAGE_SIZE - 1));

    if (!first)
        return false;
    if (!cc_crosses(b) || b->len <= in_page) {
        memcpy(bytes, first, b->len);
        return true;
    }
    const uint8_t *second = mon_vm_ram(v, b->gpa2, NULL);
    memcpy(bytes, first, in_page);
    if (second)
        memcpy(bytes + in_page, second, b->len - in_page);
    return second;
}

static void plan_make(struct plan *plan, const struct cc_block *b, enum tr_mode mode)
{
    unsigned at = 0;

    plan->ninsns = 0;
    plan->vector = false;
    plan->len = b->len;
    for (unsigned n = 0; n < b->insns && at < b->len; n++) {
        struct tr_insn *insn = &plan->insn[n];
        if (tr_decode(plan->bytes + at, b->len - at, mode, insn) != TR_DECODE_OK ||
            !is_repeatable(insn))
            break;
        tr_decode_operands(insn);
        plan->vector |= insn->touches_vector;
        plan->at[n] = (uint16_t)at;
        at += insn->len;
        plan->at[++plan->ninsns] = (uint16_t)at;
    }
}

static const struct plan *plan_for(struct mon_vcpu *v, const struct cc_block *b)
{
    const struct cc *cc = &v->vm->cc;
    uint32_t index = (uint32_t)(b - cc->blocks);
    struct plan *plan = &v->verify->plans[index % PLANS];
    uint8_t bytes[MAX_INSNS * 15];

    if (b->insns > MAX_INSNS || !read_bytes(v, b, bytes))
        return NULL;
    if (plan->block == index && plan->flushes == cc->flushes && plan->len == b->len &&
        !memcmp(plan->bytes, bytes, b->len))
        return plan;
    plan->block = index;
    plan->flushes = cc->flushes;
    memcpy(plan->bytes, bytes, b->len);
    plan_make(plan, b, mode_of(v));
    return plan;
}

/* ---- state ---- */

static void state_save(const struct mon_vcpu *v, struct state *s, bool vector)
{
    const struct rt_cpu *cpu = v->cpu;

    memcpy(s->gpr, cpu->gpr, sizeof(s->gpr));
    s->rip = cpu->rip;
    s->rflags = cpu->rflags;
    s->x87 = v->native->x87;
    if (vector)
        memcpy(s->xsave, cpu->xsave, v->verify->xsave_size);
}

static void state_load(struct mon_vcpu *v, const struct state *s, bool vector)
{
    struct rt_cpu *cpu = v->cpu;

    memcpy(cpu->gpr, s->gpr, sizeof(s->gpr));
    cpu->rip = s->rip;
    cpu->rflags = s->rflags;
    v->native->x87 = s->x87;
    if (vector)
        memcpy(cpu->xsave, s->xsave, v->verify->xsave_size);
}

/* ---- memory ---- */

/* Not memcpy: the guest's vector registers may be live. */
static void copy_page(uint8_t *to, const uint8_t *from)
{
    uint64_t n = PAGE_SIZE / 8;
    __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

void mon_verify_touch(const struct mon_vcpu *v, uint64_t gpa, uint8_t *host)
{
    struct mon_verify *y = v->verify;
    uint8_t *start = host - (gpa & (PAGE_SIZE - 1));

    if (y->phase != TRIAL)
        return;
    for (unsigned i = y->npages; i-- > 0;) {
        if (y->pages[i].host == start)
            return;
    }
    RT_ASSERT(y->npages < PAGES);
    struct page *page = &y->pages[y->npages++];
    page->gpa = gpa & ~(uint64_t)(PAGE_SIZE - 1);
    page->host = start;
    copy_page(page->before, start);
}

bool mon_verify_wrote(const struct mon_vcpu *v, bool code)
{
    struct mon_verify *y = v->verify;

    if (y->phase != TRIAL || y->marking) {
        y->marking = false;
        return false;
    }
    y->wrote_code |= code;
    return true;
}

void mon_verify_mark(const struct mon_vcpu *v, uint64_t gpa, uint64_t bits)
{
    struct mon_verify *y = v->verify;

    y->marking = y->phase == TRIAL;
    if (y->phase == IDLE || y->nmarks == MARKS)
        return;
    y->mark[y->nmarks].gpa = gpa;
    y->mark[y->nmarks].bits = (uint32_t)bits;
    memcpy(&y->mark[y->nmarks++].entry, mon_vm_ram(v, gpa, NULL), 4);
}

/* Only what differs is written: nothing else may seem to change for other threads. */
static void page_put(struct page *page, const uint8_t *bytes)
{
    for (unsigned at = 0; at < PAGE_SIZE; at += 64) {
        if (memcmp(page->host + at, bytes + at, 64))
            memcpy(page->host + at, bytes + at, 64);
    }
}

static void pages_undo(struct mon_verify *y)
{
    for (unsigned i = y->npages; i-- > 0;) {
        memcpy(y->pages[i].after, y->pages[i].host, PAGE_SIZE);
        page_put(&y->pages[i], y->pages[i].before);
    }
}

/* The page that holds a marked entry, or NULL. */
static struct page *marked_page(struct mon_verify *y, unsigned mark)
{
    for (unsigned i = 0; i < y->npages; i++) {
        if (y->pages[i].gpa == (y->mark[mark].gpa & ~(uint64_t)(PAGE_SIZE - 1)))
            return &y->pages[i];
    }
    return NULL;
}

/* Bits stay set in the state before the block, unless the block itself had written the entry. */
static void keep_marks(struct mon_verify *y)
{
    uint32_t entry;

    for (unsigned n = 0; n < y->nmarks; n++) {
        struct page *page = marked_page(y, n);
        unsigned at = y->mark[n].gpa & (PAGE_SIZE - 1);
        if (!page)
            continue;
        memcpy(&entry, page->before + at, 4);
        if ((entry | y->mark[n].bits) == (y->mark[n].entry | y->mark[n].bits))
            page->before[at] |= (uint8_t)y->mark[n].bits;
    }
}

/* They are no difference. */
static void drop_marks(struct mon_verify *y)
{
    for (unsigned n = 0; n < y->nmarks; n++) {
        struct page *page = marked_page(y, n);
        unsigned at = y->mark[n].gpa & (PAGE_SIZE - 1);
        uint8_t bits = (uint8_t)y->mark[n].bits;
        if (page)
            page->after[at] = (uint8_t)((page->after[at] & ~bits) | (page->host[at] & bits));
    }
}

/* ---- the trial ---- */

/* An upper bound of the pages that an instruction writes. */
static uint64_t pages_of(const struct mon_vcpu *v, const struct tr_insn *insn)
{
    if (insn->cls == TR_STRING && insn->rep)
        return (v->cpu->gpr[RT_CX] & step_mask(insn->adsize)) / (PAGE_SIZE / 8) + 3;
    return insn->vsib ? 33 : 3;
}

static enum mon_rc execute(struct mon_vcpu *v, const struct tr_insn *insn)
{
    uint64_t rip = v->cpu->rip;
    enum mon_rc rc;

    do {
        rc = mon_execute(v, insn);
    } while (rc == MON_OK && insn->rep && v->cpu->rip == rip && !v->verify->wrote_code);
    return rc;
}

/* An address in the block's code, which wraps in 32-bit code. */
static uint64_t place(const struct mon_vcpu *v, uint64_t pc)
{
    return v->key & TR_K_LONG ? pc : (uint32_t)pc;
}

static enum ending run_trial(struct mon_vcpu *v, unsigned limit)
{
    struct mon_verify *y = v->verify;
    const struct plan *plan = y->plan;
    uint64_t pc = v->cpu->rip;
    enum mon_rc rc;

    for (y->done = 0; y->done < limit; y->done++) {
        const struct tr_insn *insn = &plan->insn[y->done];
        if (pages_of(v, insn) > PAGES - y->npages)
            return TOO_MUCH;
        y->marking = false;
        rc = execute(v, insn);
        if (y->wrote_code)
            return AT_CODE;
        if (rc == MON_FAULT)
            y->exc = v->exc;
        if (rc != MON_OK)
            return rc == MON_FAULT ? AT_FAULT : AT_EXIT;
        if (v->cpu->rip != place(v, pc + plan->at[y->done + 1])) {
            y->done++;
            return AT_END;
        }
    }
    return limit == verify_block(v)->insns ? AT_END : AT_LIMIT;
}

/* Executes up to limit instructions, keeps what came out, and undoes it: from the state before the
 * block to the state before the block. */
static void trial(struct mon_vcpu *v, unsigned limit)
{
    struct mon_verify *y = v->verify;
    bool vector = y->plan->vector, shadow = v->shadow, shadow_ss = v->shadow_ss;
    bool mode_changed = v->mode_changed;
    uint64_t refused = v->callouts[TR_OP_refused];

    y->wrote_code = false;
    y->phase = TRIAL;
    y->ending = run_trial(v, limit);
    y->phase = IDLE;
    rt_fpu_park(v->cpu);
    state_save(v, &y->trial, vector);
    keep_marks(y);
    pages_undo(y);
    state_load(v, &y->before, vector);
    v->shadow = shadow;
    v->shadow_ss = shadow_ss;
    v->mode_changed = mode_changed;
    v->callouts[TR_OP_refused] = refused;
    v->replay.done = v->replay.cursor = 0;
    if (y->ending == AT_CODE) { /* what it wrote before it came to the code has to go too */
        unsigned done = y->done;
        trial(v, done);
        y->ending = AT_CODE;
    }
}

/* ---- entering ---- */

/* The block that the jump table has for rip. */
static const struct cc_block *block_at(const struct mon_vcpu *v)
{
    const struct cc *cc = &v->vm->cc;
    const uint8_t *hpc = cc_table_at(cc, v->table, v->cpu->rip, v->key & TR_K_LONG);
    const struct cc_block *b = hpc == cc->miss_stub ? NULL : cc_find(cc, hpc);

    return b && b->valid && b->pc == v->cpu->rip ? b : NULL;
}

/* Whether this run of b is to be compared. */
static bool is_due(struct mon_vcpu *v, const struct cc_block *b)
{
    struct mon_verify *y = v->verify;
    const struct cc *cc = &v->vm->cc;

    if (y->flushes != cc->flushes) {
        rt_os_discard(y->runs, COUNTERS * sizeof(*y->runs));
        y->flushes = cc->flushes;
    }
    uint32_t n = y->runs[(b - cc->blocks) % COUNTERS]++;
    return n < FIRST || n % EVERY == 0;
}

static void arm(struct mon_vcpu *v, const struct cc_block *b)
{
    struct mon_verify *y = v->verify;

    rt_fpu_park(v->cpu); /* copies below use vector registers */
    y->plan = plan_for(v, b);
    if (!y->plan || !y->plan->ninsns) {
        y->skipped++;
        return;
    }
    y->npages = y->nmarks = 0;
    state_save(v, &y->before, y->plan->vector);
    trial(v, y->plan->ninsns);
    if (y->nmarks)
        trial(v, y->plan->ninsns);
    if (!b->valid) { /* the bits were set in a page that holds code as well */
        y->skipped++;
        return;
    }
    y->armed = true;
    y->phase = RUN;
}

void mon_verify_begin(struct mon_vcpu *v)
{
    const struct cc *cc = &v->vm->cc;
    const struct cc_block *b = block_at(v);

    v->verify->armed = false;
    if (b && is_due(v, b))
        arm(v, b);
    v->cpu->jump_table = v->key & TR_K_LONG ? cc->miss_table : CC_FLAT_MISS;
    v->cpu->start = b ? cc->rx + b->host : cc->miss_stub;
}

/* ---- comparing ---- */

static enum mon_rc differs(struct mon_vcpu *v, const char *what)
{
    struct mon_verify *y = v->verify;
    const struct cc_block *b = verify_block(v);

    snprintf(v->run.fail.reason, sizeof(v->run.fail.reason),
             "verify: translated code and the slow path differ in %s: block at %08llx (physical "
             "%llx), %u instructions, after %u of them",
             what, (unsigned long long)b->pc, (unsigned long long)b->gpa, b->insns, y->done);
    verify_say(v, "%s", v->run.fail.reason);
    verify_report(v);
    v->run.exit_reason = NOVT_EXIT_INTERNAL;
    return MON_EXIT;
}

static enum mon_rc skip(struct mon_verify *y)
{
    y->skipped++;
    return MON_OK;
}

/* Flags in dead are about to be overwritten. */
static enum mon_rc compare(struct mon_vcpu *v, uint64_t dead)
{
    struct mon_verify *y = v->verify;
    const struct page *page;
    char text[64];
    unsigned at;

    if (y->nmarks == MARKS)
        return skip(y);
    y->compared++;
    const char *what = verify_registers(v, &y->trial, &y->run, dead);
    if (!what && y->plan->vector)
        what = verify_vectors(v, y->trial.xsave, y->run.xsave);
    if (what)
        return differs(v, what);
    drop_marks(y);
    page = verify_memory(y, &at);
    if (!page)
        return MON_OK;
    snprintf(text, sizeof(text), "memory at physical %llx", (unsigned long long)page->gpa + at);
    return differs(v, text);
}

/* ---- leaving ---- */

/* How many instructions lie before rip in the block; -1 when it is not at one of them. */
static int instructions_before(const struct mon_vcpu *v, uint64_t rip)
{
    const struct mon_verify *y = v->verify;

    for (unsigned n = 0; n <= y->plan->ninsns; n++) {
        if (place(v, y->before.rip + y->plan->at[n]) == rip)
            return (int)n;
    }
    return -1;
}

/* The trial again, up to where translated code stopped. */
static void trial_again(struct mon_vcpu *v, unsigned limit)
{
    struct mon_verify *y = v->verify;

    for (unsigned i = 0; i < y->npages; i++) {
        memcpy(y->pages[i].run, y->pages[i].host, PAGE_SIZE);
        page_put(&y->pages[i], y->pages[i].before);
    }
    state_load(v, &y->before, y->plan->vector);
    trial(v, limit);
    state_load(v, &y->run, y->plan->vector);
    for (unsigned i = 0; i < y->npages; i++)
        page_put(&y->pages[i], y->pages[i].run);
}

/* slack: which byte of a vector operand the CPU names is its own business. */
static bool same_exception(const struct mon_exception *a, const struct mon_exception *b,
                           uint64_t slack)
{
    return a->vector == b->vector && a->has_error == b->has_error && a->error == b->error &&
           (a->vector != MON_PF || a->cr2 - b->cr2 + slack <= 2 * slack);
}

static uint64_t cr2_slack(const struct plan *plan, unsigned n)
{
    return n < plan->ninsns && plan->insn[n].touches_vector ? 63 : 0;
}

/* Translated code went to the end of its block. */
static enum mon_rc check_end(struct mon_vcpu *v)
{
    switch (v->verify->ending) {
    case AT_END:
        return compare(v, 0);
    case AT_FAULT:
        if (step_sign_extend(v->cpu->rip, 48) != (int64_t)v->cpu->rip)
            return skip(v->verify); /* a branch whose target faults, not the branch */
        return differs(v, "an exception, which only the slow path raises");
    case AT_EXIT:
        return differs(v, "an access outside RAM, which only the slow path makes");
    case AT_CODE:
        return differs(v, "a store into translated code, which was let through");
    default:
        return skip(v->verify);
    }
}

/* It stopped before an instruction. */
static enum mon_rc check_stop(struct mon_vcpu *v, enum rt_exit reason)
{
    struct mon_verify *y = v->verify;
    bool raised = reason == RT_EXIT_FAULT && v->after_fault == AFTER_EXCEPTION;
    struct mon_exception exc = v->exc;
    int before = instructions_before(v, v->cpu->rip);

    if (before < 0)
        return differs(v, v->key & TR_K_LONG ? "RIP" : "EIP");
    if (raised && (unsigned)before < y->done)
        return differs(v, "an exception, which only translated code raises");
    if ((unsigned)before < y->done) {
        trial_again(v, (unsigned)before);
        v->exc = exc;
    } else if ((unsigned)before > y->done) {
        return y->ending == TOO_MUCH ? skip(y) : check_end(v);
    } else if (raised && y->ending == TOO_MUCH) { /* what the trial did not begin */
        return skip(y);
    } else if (raised && (y->ending != AT_FAULT ||
                          !same_exception(&y->exc, &exc, cr2_slack(y->plan, y->done)))) {
        return differs(v, "the exception that they raise");
    }
    if ((unsigned)before == y->plan->ninsns)
        return compare(v, 0);
    const struct tr_insn *next = &y->plan->insn[before];
    if (next->vsib && y->ending == AT_FAULT && !raised) { /* what a gather got is in the trial */
        trial_again(v, (unsigned)before);
        v->exc = exc;
    }
    /* In the middle of a string instruction only exceptions leave them at the same element. */
    if (next->cls == TR_STRING && next->rep && !raised)
        return skip(y);
    /* POPF looks at the new flags before it knows that it is for the monitor; it loads all. */
    return compare(v, reason == RT_EXIT_CALLOUT && next->op == TR_OP_popf ? RT_ARITH : 0);
}

enum mon_rc mon_verify_end(struct mon_vcpu *v, enum rt_exit reason)
{
    struct mon_verify *y = v->verify;
    struct rt_cpu *cpu = v->cpu;

    y->phase = IDLE;
    if (!y->armed)
        return MON_OK;
    y->armed = false;
    rt_fpu_park(cpu);
    state_save(v, &y->run, y->plan->vector);
    if (reason == RT_EXIT_FAULT && v->after_fault == AFTER_NOTHING)
        return skip(y); /* a kick, in a string instruction */
    if (v->kicked && reason == RT_EXIT_INDIRECT && cpu->rip == y->before.rip)
        return skip(y); /* a kick, before the block */
    if (reason == RT_EXIT_FAULT || reason == RT_EXIT_CALLOUT || reason == RT_EXIT_PENDING)
        return check_stop(v, reason);
    return check_end(v);
}
